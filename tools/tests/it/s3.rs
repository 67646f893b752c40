//! The archive and the backup of a real node in S3, as `moto_server` plays it: over kills of the node
//! each event is in the archive once, by its manifests and by whoever reads all files below a prefix;
//! and what was backed up comes back.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::moto::Moto;
use crate::rig::{Node, Ran, text, tracklog};

const PATIENCE: Duration = Duration::from_secs(120);
const ROUNDS: usize = 5;
const EVENTS: usize = 60;

/// A folder with a node's data and settings, whose archive is in the bucket.
struct Site {
    parent: tempfile::TempDir,
    moto: Moto,
    url: String,
}

impl Site {
    fn new(moto: Moto) -> Self {
        let (parent, url) = (tempfile::tempdir().unwrap(), moto.url("archive"));
        let settings = format!(
            "[archive]\nurl = \"{url}\"\nflush_interval = \"100ms\"\nflush_bytes = \"64 KiB\"\n"
        );
        std::fs::write(parent.path().join("tracklog.toml"), settings).unwrap();
        Self { parent, moto, url }
    }

    /// With what cloud clients read of their environment.
    fn set<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let settings = self.moto.settings();
        command.envs(settings.map(|(name, value)| (name.to_ascii_uppercase(), value)))
    }

    fn start(&self) -> Node {
        let config = self.parent.path().join("tracklog.toml");
        Node::start_with(&self.data(), |command| self.set(command).arg("--config").arg(config))
    }

    fn data(&self) -> PathBuf {
        self.parent.path().join("data")
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        Ran::of(self.set(&mut tracklog(arguments)).output().expect("tracklog starts"))
    }

    fn lines(&self, topic: &str, place: &[&str]) -> Vec<String> {
        let ran = self.run(&[&["replay", topic, "--json"], place].concat());
        ran.lines().into_iter().map(str::to_owned).collect()
    }

    /// What the archive has of a topic; 0 while there is no archive.
    fn rows(&self, topic: &str) -> u64 {
        let ran = self.run(&["archive", "status", "--json", "--archive", &self.url]);
        let lines = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let found = lines.into_iter().find(|line| line["topic"] == topic);
        found.map_or(0, |line| line["rows"].as_u64().unwrap())
    }
}

fn send(node: &Node, numbers: std::ops::Range<usize>) {
    let event = |number: usize| {
        let name = ["Bought", "Left"][number % 2];
        json!({"type": "track", "event": name, "messageId": format!("m{number}"), "anonymousId": format!("v{}", number % 11),
               "properties": {"number": number}})
    };
    let events: Vec<_> = numbers.map(event).collect();
    let answer = node.post("/v1/batch", &json!({ "batch": events }).to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[test]
fn an_archive_in_s3_has_each_event_once_over_kills() {
    let Some(moto) = Moto::start() else { return };
    let site = Site::new(moto);
    let mut sent = 0;
    for round in 0..ROUNDS {
        let node = site.start();
        let until = site.rows("raw") + 1;
        for _ in 0..=round * 3 % 5 {
            send(&node, sent..sent + EVENTS);
            sent += EVENTS;
        }
        // Killed while it writes: the first of what was sent is there, the rest is on its way.
        let began = Instant::now();
        while site.rows("raw") < until {
            assert!(began.elapsed() < PATIENCE, "nothing is archived");
        }
        node.kill();
    }
    let node = site.start();
    send(&node, sent..sent + EVENTS);
    sent += EVENTS;
    let began = Instant::now();
    while site.rows("raw") < sent as u64 || site.rows("enriched") < sent as u64 {
        assert!(began.elapsed() < PATIENCE, "{} of {sent} are archived", site.rows("raw"));
    }
    assert!(node.terminate().0.success());

    let data = site.data();
    for topic in ["raw", "enriched"] {
        let of_log = site.lines(topic, &["--data", text(&data)]);
        assert_eq!(of_log.len(), sent, "each once");
        assert_eq!(site.lines(topic, &["--archive", &site.url]), of_log, "{topic}");
    }
    let ran = site.run(&["archive", "verify", "--json", "--archive", &site.url]);
    let verdict: Value = serde_json::from_str(ran.lines()[0]).unwrap();
    let summary = &verdict["summary"];
    assert_eq!(summary["clean"], true, "{verdict}");
    assert_eq!(summary["rows"], 2 * sent, "{verdict}");
    assert_eq!(summary["orphans"], 0, "a reader of all files counts nothing twice: {verdict}");
}

#[test]
fn a_backup_in_s3_comes_back() {
    let Some(moto) = Moto::start() else { return };
    let site = Site::new(moto);
    let place = site.moto.url("backup");
    let (data, restored) = (site.data(), site.parent.path().join("restored"));
    for round in 0..2 {
        let node = site.start();
        send(&node, round * EVENTS..(round + 1) * EVENTS);
        assert!(node.terminate().0.success());
        site.run(&["backup", "--data", text(&data), "--to", &place]).lines();
    }
    site.run(&["restore", "--from", &place, "--data", text(&restored)]).lines();
    let lines = |data| site.lines("raw", &["--data", text(data)]);
    assert_eq!(lines(&data).len(), 2 * EVENTS);
    assert_eq!(lines(&restored), lines(&data));

    let node = site.start();
    send(&node, 2 * EVENTS..3 * EVENTS);
    assert!(node.terminate().0.success());
    let backwards = site.run(&["restore", "--from", &place, "--data", text(&data)]);
    assert_ne!(backwards.status, 0, "the log is newer: {backwards:?}");
    assert_eq!(lines(&data).len(), 3 * EVENTS);
}
