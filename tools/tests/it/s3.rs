//! The archive and the backup of a real node in S3, as `moto_server` plays it: over kills of the node
//! each event is in the archive once, by its manifests and by whoever reads all files below a prefix;
//! and what was backed up comes back.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::archive;
use crate::bad_store::{BadStore, Fate};
use crate::moto::Moto;
use crate::rig::{Node, Ran, replay, text, tracklog};

const PATIENCE: Duration = Duration::from_secs(120);
const ROUNDS: usize = 5;
const EVENTS: usize = 60;

/// A folder with a node's data and settings, whose archive is in the bucket.
struct Site {
    parent: tempfile::TempDir,
    moto: Moto,
    url: String,
    /// What the node has in front of the store.
    bad: Option<BadStore>,
}

impl Site {
    fn new(moto: Moto) -> Self {
        let (parent, url) = (tempfile::tempdir().unwrap(), moto.url("archive"));
        let settings = format!(
            "[archive]\nurl = \"{url}\"\nflush_interval = \"100ms\"\nflush_bytes = \"64 KiB\"\n"
        );
        std::fs::write(parent.path().join("tracklog.toml"), settings).unwrap();
        Self { parent, moto, url, bad: None }
    }

    /// Where the bucket is.
    fn store(&self) -> SocketAddr {
        let [(_, endpoint), ..] = self.moto.settings();
        endpoint.strip_prefix("http://").unwrap().parse().unwrap()
    }

    /// With what cloud clients read of their environment.
    fn set<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let settings = self.moto.settings();
        command.envs(settings.map(|(name, value)| (name.to_ascii_uppercase(), value)))
    }

    fn start(&self) -> Node {
        let config = self.parent.path().join("tracklog.toml");
        let bad = self.bad.as_ref().map(BadStore::address);
        let endpoint = bad.map(|address| ("AWS_ENDPOINT", format!("http://{address}")));
        Node::start_with(&self.data(), |command| {
            self.set(command).envs(endpoint).arg("--config").arg(config)
        })
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

/// Waits until the archive has at least so many events of both topics.
fn await_rows(site: &Site, rows: u64) {
    let began = Instant::now();
    while site.rows("raw") < rows || site.rows("enriched") < rows {
        assert!(began.elapsed() < 4 * PATIENCE, "{} of {rows} are archived", site.rows("raw"));
    }
}

/// What the store answers to a GET, which must be a 200.
fn fetched(store: SocketAddr, target: &str) -> Vec<u8> {
    let mut stream = TcpStream::connect(store).unwrap();
    // Who asks must be somebody; nobody looks at the signature.
    let credential = "Credential=nobody/20260101/us-east-1/s3/aws4_request";
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {store}\r\nAuthorization: AWS4-HMAC-SHA256 {credential}, \
         SignedHeaders=host, Signature=none\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    answer.split_off(body)
}

/// Brings all objects of the archive into a folder.
fn copied(store: SocketAddr, into: &Path) {
    const SAFE: &AsciiSet =
        &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');
    let mut after = String::new();
    loop {
        let query = utf8_percent_encode(&after, NON_ALPHANUMERIC);
        let list = format!("/events?list-type=2&prefix=archive/&start-after={query}");
        let list = String::from_utf8(fetched(store, &list)).unwrap();
        let keys = list.split("<Key>").skip(1).map(|rest| rest.split_once("</Key>").unwrap().0);
        let keys: Vec<_> = keys.map(|key| key.replace("&amp;", "&")).collect();
        let Some(last) = keys.last() else { return };
        after.clone_from(last);
        for key in &keys {
            let object = fetched(store, &format!("/events/{}", utf8_percent_encode(key, SAFE)));
            let path = into.join(key.strip_prefix("archive/").unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, object).unwrap();
        }
    }
}

/// The store refuses, is late, cuts answers and loses those to creations, which are then tried again
/// by the client and refused since the object is there; and the node is killed meanwhile.
#[test]
fn a_store_that_fails_and_loses_answers_has_each_event_once_as_duckdb_reads_it() {
    let Some(moto) = Moto::start() else { return };
    let mut site = Site::new(moto);
    let seed = std::env::var("TRACKLOG_STORE_SEED").map_or(7, |seed| seed.parse().unwrap());
    let store = site.store();
    let bad = site.bad.insert(BadStore::before(store, seed)).address();
    eprintln!("TRACKLOG_STORE_SEED={seed}, {bad} before {store}");
    let mut sent = 0;
    for round in 0..ROUNDS {
        let node = site.start();
        let until = site.rows("raw") + 1;
        for _ in 0..=round * 3 % 5 {
            archive::send(&node, sent..sent + EVENTS);
            sent += EVENTS;
        }
        let began = Instant::now();
        while site.rows("raw") < until {
            assert!(began.elapsed() < 2 * PATIENCE, "nothing is archived");
        }
        node.kill();
    }
    let node = site.start();
    let schema = r#"{"properties":{"number":{"type":"integer"},"price":{"type":"string"}}}"#;
    let answer = node.operator().ask("PUT", "/v1/schemas/Bought", schema).unwrap();
    assert!(answer.status < 300, "{}", answer.body);
    // Until every way to fail was met, and a creation was found done.
    let began = Instant::now();
    loop {
        archive::send(&node, sent..sent + EVENTS);
        sent += EVENTS;
        await_rows(&site, sent as u64);
        let bad = site.bad.as_ref().unwrap();
        let all =
            [Fate::Refused(500), Fate::Refused(503), Fate::Late, Fate::AnswerLost, Fate::AnswerCut];
        if bad.found_there() > 1 && all.iter().all(|fate| bad.fates().contains_key(fate)) {
            break;
        }
        assert!(began.elapsed() < 4 * PATIENCE, "{:?} {}", bad.fates(), bad.found_there());
    }
    let metrics = node.client().ask("GET", "/metrics", "").unwrap().body;
    assert!(metrics.contains("tracklog_archive_up 1"), "{metrics}");
    assert!(node.terminate().0.success());

    let (data, copy) = (site.data(), site.parent.path().join("copy"));
    copied(store, &copy);
    for place in [&site.url, text(&copy)] {
        for topic in ["raw", "enriched"] {
            let of_log = site.lines(topic, &["--data", text(&data)]);
            assert_eq!(of_log.len(), sent, "each once");
            assert_eq!(site.lines(topic, &["--archive", place]), of_log, "{topic} in {place}");
        }
        let ran = site.run(&["archive", "verify", "--json", "--archive", place]);
        let verdict: Value = serde_json::from_str(ran.lines()[0]).unwrap();
        let summary = &verdict["summary"];
        assert_eq!((&summary["clean"], &summary["rows"]), (&json!(true), &json!(2 * sent)));
        assert_eq!(summary["orphans"], 0, "{verdict}");
    }
    archive::duckdb_agrees(&copy, &replay(&data, "raw"));
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
