//! Backups of real nodes: killed at any moment, as the nodes are, and brought back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::Client;
use crate::rig::{Node, eventually, replay, run, text, tracklog};

const PATIENCE: Duration = Duration::from_secs(120);
const BATCH: usize = 20;
/// What there is of the log is held by the test, once for each round: the longer rounds take, the more.
const BETWEEN_BATCHES: Duration = Duration::from_millis(50);

struct Site {
    parent: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Self { parent: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.parent.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Segments are settled early, and nothing but the log is written.
    fn start(&self) -> Node {
        let config = self.path("tracklog.toml");
        let settings = "hot_bytes = \"1 MiB\"\n[archive]\nenabled = false\n";
        std::fs::write(&config, settings).unwrap();
        Node::start_with(&self.data(), |command| command.arg("--config").arg(config))
    }

    fn backup(&self, more: &[&str]) -> Value {
        let (data, place) = (self.data(), self.path("place"));
        let arguments = ["backup", "--json", "--data", text(&data), "--to", text(&place)];
        let ran = run(&[&arguments[..], more].concat());
        serde_json::from_str(ran.lines()[0]).unwrap()
    }

    /// Backs up until there is nothing new: what comes of an event, its stages' places too, is in the
    /// log at a time of its own. The answer of the backup that made none, which names the last one.
    fn backed_up_to_the_end(&self) -> Value {
        let mut last = self.backup(&[]);
        eventually("a backup has nothing to add", || {
            let made = last["made"] == true;
            if made {
                let next = self.backup(&[]);
                let number = |backup: &Value| backup["backup"].as_u64().unwrap();
                assert_eq!(number(&next), number(&last) + u64::from(next["made"] == true));
                last = next;
            }
            !made
        });
        last
    }

    /// `tracklog backup --follow`, as a process.
    fn follow(&self) -> Child {
        let (data, place) = (self.data(), self.path("place"));
        let arguments =
            ["backup", "--follow", "--every", "1s", "--json", "--rate", "1 GiB", "--data"];
        let mut command = tracklog(&arguments);
        command.arg(&data).arg("--to").arg(&place);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn restore(&self, name: &str) -> Value {
        self.restore_at(name, &[])
    }

    fn restore_at(&self, name: &str, more: &[&str]) -> Value {
        let (into, place) = (self.path(name), self.path("place"));
        let arguments = ["restore", "--json", "--from", text(&place), "--data", text(&into)];
        let ran = run(&[&arguments[..], more].concat());
        serde_json::from_str(ran.lines()[0]).unwrap()
    }

    /// The backups that are there, the newest last.
    fn listed(&self) -> Vec<Value> {
        let ran = run(&["restore", "--list", "--json", "--from", text(&self.path("place"))]);
        let backup = |line: &str| -> Value { serde_json::from_str(line).unwrap() };
        let mut backups: Vec<_> = ran.stdout.lines().map(backup).collect();
        backups.sort_by_key(|backup| backup["backup"].as_u64());
        backups
    }

    /// The number of the newest backup that is there; 0 where there is none.
    fn newest(&self) -> u64 {
        self.listed().pop().map_or(0, |newest| newest["backup"].as_u64().unwrap())
    }

    /// Waits until a follower has made two backups above `before`: the second's number, and how many
    /// batches were acked before it was begun.
    fn followed(&self, load: &Load, before: u64) -> (u64, usize) {
        let begin = Instant::now();
        let mut acked = load.acked();
        loop {
            let now = load.acked();
            let newest = self.newest();
            if newest >= before + 2 {
                return (newest, acked);
            }
            // Its second one is begun once the first is there.
            if newest == before {
                acked = now;
            }
            assert!(begin.elapsed() < PATIENCE, "the follower came to {newest} from {before}");
        }
    }
}

/// By partition, the lines of a topic by their offsets.
fn lines(data: &Path, topic: &str) -> BTreeMap<u64, BTreeMap<u64, Value>> {
    let mut lines: BTreeMap<u64, BTreeMap<u64, Value>> = BTreeMap::new();
    for line in replay(data, topic) {
        let place = |name: &str| line[name].as_u64().unwrap();
        let (partition, offset) = (place("partition"), place("offset"));
        lines.entry(partition).or_default().insert(offset, line);
    }
    lines
}

/// What a thread sends, batch after batch, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    /// The ids of batches that were acked.
    acked: Arc<Mutex<Vec<usize>>>,
    address: Arc<Mutex<Option<(std::net::SocketAddr, String)>>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acked: Arc<Mutex<Vec<usize>>> = Arc::default();
        let address: Arc<Mutex<Option<(std::net::SocketAddr, String)>>> = Arc::default();
        let shared = (Arc::clone(&stop), Arc::clone(&acked), Arc::clone(&address));
        let thread = std::thread::spawn(move || {
            let (stop, acked, address) = shared;
            let mut batch = 0;
            let mut client: Option<(Client, String)> = None;
            while !stop.load(Ordering::Relaxed) {
                if client.is_none() {
                    let place = address.lock().unwrap().clone();
                    client = place.and_then(|(at, key)| Some((Client::connect(at).ok()?, key)));
                }
                let Some((open, key)) = client.as_mut() else {
                    std::thread::park_timeout(Duration::from_millis(5));
                    continue;
                };
                let body = json!({ "batch": events(batch) }).to_string();
                match open.ask("POST", &format!("/v1/batch?writeKey={key}"), &body) {
                    Ok(answer) if answer.status == 200 => {
                        acked.lock().unwrap().push(batch);
                        batch += 1;
                        std::thread::park_timeout(BETWEEN_BATCHES);
                    }
                    // Sent again: the ids are the same.
                    _ => client = None,
                }
            }
        });
        Self { stop, acked, address, thread: Some(thread) }
    }

    fn to(&self, node: &Node) {
        *self.address.lock().unwrap() = Some((node.http, node.key.clone()));
    }

    fn acked(&self) -> usize {
        self.acked.lock().unwrap().len()
    }

    fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.acked()
    }
}

fn events(batch: usize) -> Vec<Value> {
    let filler = |number: usize| {
        let mut state = (batch * BATCH + number) as u64 | 1;
        let mut text = String::new();
        for _ in 0..400 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.push_str(&format!("{state:016x}"));
        }
        text
    };
    let event = |number| {
        json!({"type": "track", "event": "Bought", "messageId": format!("{batch}-{number}"),
               "anonymousId": format!("v{}", number % 11), "properties": {"note": filler(number)}})
    };
    (0..BATCH).map(event).collect()
}

fn ids(lines: &BTreeMap<u64, BTreeMap<u64, Value>>) -> BTreeSet<String> {
    let lines = lines.values().flat_map(BTreeMap::values);
    lines.map(|line| line["messageId"].as_str().unwrap().to_owned()).collect()
}

/// All events of the first batches are there.
#[track_caller]
fn expect_batches(there: &BTreeMap<u64, BTreeMap<u64, Value>>, batches: usize, what: &str) {
    let has = ids(there);
    for batch in 0..batches {
        for number in 0..BATCH {
            let id = format!("{batch}-{number}");
            assert!(has.contains(&id), "{what}: {id} of {batches} acked batches");
        }
    }
}

#[test]
fn kills_of_node_and_backup_leave_backups_that_restore_to_what_was_acked() {
    let site = Site::new();
    let load = Load::start();
    let mut node = site.start();
    load.to(&node);
    let mut restored = Vec::new();
    let mut chance = 20_260_102_u64;
    for round in 0..4 {
        let newest = site.newest();
        let mut follower = site.follow();
        let (last, covered) = site.followed(&load, newest);
        let of_follower = format!("followed-{round}");
        let report = site.restore_at(&of_follower, &["--at", &last.to_string()]);
        assert_eq!((&report["clean"], &report["backup"]), (&json!(true), &json!(last)));
        expect_batches(&lines(&site.path(&of_follower), "raw"), covered, &of_follower);
        let begin = Instant::now();
        let wanted = load.acked() + 25;
        while load.acked() < wanted {
            assert!(begin.elapsed() < PATIENCE, "{} of {wanted} batches", load.acked());
            std::thread::park_timeout(Duration::from_millis(20));
        }
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
        std::thread::park_timeout(Duration::from_millis((chance >> 40) % 1_500));
        follower.kill().unwrap();
        follower.wait().unwrap();
        if round % 2 == 1 {
            node.kill();
            // Of a folder that nobody holds a backup has all.
            if round == 3 {
                site.backup(&["--rate", "1 GiB"]);
            }
            node = site.start();
            load.to(&node);
        }
        let before = load.acked();
        let made = site.backup(&["--rate", "1 GiB"]);
        assert!(made["backup"].as_u64().unwrap() > 0, "{made}");
        let name = format!("restored-{round}");
        let report = site.restore(&name);
        assert_eq!((&report["clean"], &report["backup"]), (&json!(true), &made["backup"]));
        let there = lines(&site.path(&name), "raw");
        expect_batches(&there, before, &name);
        restored.push(there);
    }
    let packs = || std::fs::read_dir(site.data().join("packs")).map_or(0, Iterator::count);
    let begin = Instant::now();
    while packs() == 0 {
        assert!(begin.elapsed() < 4 * PATIENCE, "nothing is settled");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    load.end();
    assert!(node.terminate().0.success());
    let all = lines(&site.data(), "raw");
    for (round, there) in restored.iter().enumerate() {
        for (partition, records) in there {
            let until = *records.keys().next_back().unwrap();
            let of_log: BTreeMap<u64, &Value> =
                all[partition].range(..=until).map(|(at, line)| (*at, line)).collect();
            let is: BTreeMap<u64, &Value> = records.iter().map(|(at, line)| (*at, line)).collect();
            assert!(is == of_log, "round {round}: partition {partition} holds other lines");
        }
    }
    // A restored log goes on as a node.
    let last = format!("restored-{}", restored.len() - 1);
    let node = Node::start(&site.path(&last));
    node.track("Afterwards", "u1");
    assert!(node.terminate().0.success());
    let on = lines(&site.path(&last), "raw");
    let count =
        |of: &BTreeMap<u64, BTreeMap<u64, Value>>| of.values().map(BTreeMap::len).sum::<usize>();
    assert_eq!(count(&on), count(restored.last().unwrap()) + 1);
}

#[test]
fn an_archive_that_is_ahead_of_a_restored_log_takes_nothing_more() {
    let site = Site::new();
    let config = |archive: &Path| {
        let path = site.path("tracklog.toml");
        let settings = format!(
            "[archive]\nurl = \"{}\"\nflush_interval = \"100ms\"\nflush_bytes = \"64 KiB\"\n",
            text(archive)
        );
        std::fs::write(&path, settings).unwrap();
        path
    };
    let start = |name: &str, archive: &Path| {
        let config = config(archive);
        Node::start_with(&site.path(name), |command| command.arg("--config").arg(config))
    };
    let archive = site.path("archive");
    let rows = |archive: &Path| {
        let ran = run(&["archive", "status", "--json", "--archive", text(archive)]);
        let lines = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let raw = lines.into_iter().find(|line| line["topic"] == "raw");
        raw.map_or(0, |line| line["rows"].as_u64().unwrap())
    };
    let await_rows = |archive: &Path, wanted: u64| {
        let begin = Instant::now();
        while rows(archive) < wanted {
            assert!(begin.elapsed() < PATIENCE, "{} of {wanted}", rows(archive));
        }
    };
    let send = |node: &Node, users: std::ops::Range<u32>| {
        users.for_each(|user| node.track("Bought", &format!("u{user}")));
    };
    let node = start("data", &archive);
    send(&node, 0..20);
    site.backup(&[]);
    send(&node, 20..30);
    await_rows(&archive, 30);
    node.kill();
    site.restore("new");
    for round in 0..2 {
        let node = start("new", &archive);
        // More than the archive has: by the ends of now it would be taken for this log's.
        send(&node, round * 40..round * 40 + 40);
        node.await_metrics(&["tracklog_archive_up 0"]);
        assert!(node.terminate().0.success());
        assert_eq!(rows(&archive), 30, "what it has stays as it was");
    }
    let node = start("new", &site.path("archive-2"));
    await_rows(&site.path("archive-2"), 100);
    assert!(node.terminate().0.success());
    let node = start("new", &site.path("archive-2"));
    send(&node, 80..90);
    await_rows(&site.path("archive-2"), 110);
    node.await_metrics(&["tracklog_archive_up 1"]);
}

#[test]
fn what_a_restore_would_lose_is_told_and_stays() {
    let site = Site::new();
    let node = site.start();
    node.track("Bought", "u1");
    assert_eq!(site.backup(&[])["backup"], 1);
    let last = site.backed_up_to_the_end();
    node.track("Bought", "u1");
    node.terminate();
    let (data, place) = (site.data(), site.path("place"));
    let restore = ["restore", "--from", text(&place), "--data", text(&data)];
    let ran = run(&restore);
    let why = ran.refusal();
    assert!(why.contains("holds a newer log") && why.contains("offsets 1 to 1"), "{why}");
    assert_eq!(replay(&data, "raw").len(), 2);
    let newest = site.listed().pop().expect("there is one");
    assert_eq!((&newest["backup"], &newest["commit"]), (&last["backup"], &last["commit"]));
    site.backup(&["--log-only"]);
    let ran = run(&restore);
    assert!(ran.lines()[1].starts_with("the log that was there is in"), "{}", ran.stdout);
    assert_eq!(replay(&data, "raw").len(), 2);
    let ran = run(&["restore", "--from", text(&place), "--data", text(&site.path("log-only"))]);
    assert!(ran.lines()[1].contains("has no settings and keys"), "{}", ran.stdout);
    let ran = run(&["backup", "--data", text(&site.path("nowhere")), "--to", text(&place)]);
    assert!(ran.refusal().contains("there is no folder"), "{}", ran.stderr);
}
