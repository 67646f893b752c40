//! Folders that are not as a node left them, and journals that are full: told in one line, nothing
//! lost, nothing passed over in silence.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::rig::{Node, Ran, enriched, replay, run, text};

/// A slot's header: magic, then the format's version; the page's last four bytes are its CRC.
const SLOT_MAGIC: &[u8] = b"TLOGSLOT";
const PAGE_BYTES: usize = 4_096;

fn slots(data: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(data.join("journal")).unwrap().map(|it| it.unwrap().path());
    let is_slot = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("slot-");
    let mut slots: Vec<_> = entries.filter(is_slot).collect();
    slots.sort();
    slots
}

/// A stopped folder with ten events, in one partition each after the other.
fn ten_events() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    for number in 0..10 {
        node.track(&format!("needle-{number}"), "7");
    }
    assert!(node.terminate().0.success());
    data
}

/// Changes a byte in the middle of the text `needle`, wherever the journal holds it.
fn rot(data: &Path, needle: &str) {
    let mut changed = 0;
    for path in slots(data) {
        let bytes = std::fs::read(&path).unwrap();
        let found = bytes.windows(needle.len()).position(|window| window == needle.as_bytes());
        let Some(at) = found else { continue };
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"X", (at + needle.len() / 2) as u64).unwrap();
        file.sync_all().unwrap();
        changed += 1;
    }
    assert_eq!(changed, 1, "{needle} is there once");
}

#[test]
fn a_rotten_record_is_named_by_verify_and_replay_and_costs_no_other() {
    let data = ten_events();
    let dir = text(data.path());
    rot(data.path(), "needle-4");
    let check = || {
        let verified = run(&["verify", "--data", dir]);
        assert_eq!(verified.status, 1, "{verified:?}");
        let named = verified.stdout.lines().any(|line| {
            line.starts_with("raw/") && line.contains("offsets 4 to 5") && line.contains("slot-")
        });
        assert!(named, "{}", verified.stdout);
        let json = run(&["verify", "--json", "--data", dir]);
        let last: serde_json::Value =
            serde_json::from_str(json.stdout.lines().last().unwrap()).unwrap();
        assert_eq!(last["summary"]["clean"], false, "{last}");
        let replayed = run(&["replay", "raw", "--json", "--data", dir]);
        assert_eq!((replayed.status, replayed.stdout.lines().count()), (1, 9), "{replayed:?}");
        let told = replayed.stderr.lines().any(|line| line.contains("offsets 4 to 5"));
        assert!(told, "{}", replayed.stderr);
    };
    check();
    let node = Node::start(data.path());
    check();
    node.track("after", "7");
    let last = run(&["replay", "raw", "--from", "10", "--json", "--data", dir]);
    assert!(last.lines()[0].contains("\"offset\":10"), "offsets go on: {last:?}");
}

/// How far a verification says that it is, of how much: an answer that is streamed, a line a chunk.
fn progress_told(node: &Node, data: &Path, target: &str) -> Vec<(u64, u64)> {
    let token = std::fs::read_to_string(data.join("admin.token")).unwrap();
    let mut stream = TcpStream::connect(node.http).unwrap();
    let authorization = format!("Authorization: Bearer {}", token.trim());
    let head = format!("GET {target} HTTP/1.1\r\nHost: test\r\n{authorization}\r\n");
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("{\"summary\""), "{answer}");
    let lines = answer.lines().filter(|line| line.starts_with("{\"progress\""));
    let number = |line: &serde_json::Value, name| line["progress"][name].as_u64().unwrap();
    let read = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
    lines.map(read).map(|line| (number(&line, "bytesDone"), number(&line, "bytesTotal"))).collect()
}

#[test]
fn verify_says_the_same_of_a_running_node_and_of_its_folder() {
    let data = ten_events();
    let verify = || {
        let ran = run(&["verify", "--json", "--data", text(data.path())]);
        let lines: Vec<_> = ran.lines().into_iter().map(str::to_owned).collect();
        let summary: serde_json::Value = serde_json::from_str(lines.last().unwrap()).unwrap();
        assert_eq!(summary["summary"]["clean"], true);
        // What a node writes by itself when it starts and stops is not the same.
        let taken_in = |line: &String| {
            line.starts_with("{\"partition\"")
                && ["\"raw\"", "\"rejected\""].iter().any(|topic| line.contains(topic))
        };
        let partitions: Vec<_> = lines.into_iter().filter(taken_in).collect();
        assert_eq!(partitions.len(), 20);
        partitions
    };
    let stopped = verify();
    let node = Node::start(data.path());
    assert_eq!(verify(), stopped);
    let progress = |target| progress_told(&node, data.path(), target);
    let told = progress("/v1/verify?progress=true");
    assert!(told.is_sorted() && told.iter().all(|(done, total)| done <= total), "{told:?}");
    assert!(told.last().is_some_and(|(done, total)| done == total && *done > 0), "{told:?}");
    assert_eq!(progress("/v1/verify"), []);
    node.kill();
    assert_eq!(verify(), stopped);
    let human = run(&["verify", "--data", text(data.path())]);
    assert_eq!(human.lines().last(), Some(&"clean"));
}

#[test]
fn a_folder_of_a_newer_format_is_refused_by_name_and_left_as_it_is() {
    let data = ten_events();
    for path in slots(data.path()) {
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut page = vec![0; PAGE_BYTES];
        file.read_exact_at(&mut page, 0).unwrap();
        if !page.starts_with(SLOT_MAGIC) {
            continue;
        }
        page[8..12].copy_from_slice(&99_u32.to_le_bytes());
        let crc = crc32fast::hash(&page[..PAGE_BYTES - 4]);
        page[PAGE_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        file.write_all_at(&page, 0).unwrap();
        file.sync_all().unwrap();
    }
    let before = std::fs::read(data.path().join("checkpoint-a")).unwrap();
    let dir = text(data.path());
    for verb in [&["replay", "raw"][..], &["verify"], &["topic", "list"]] {
        let ran = run(&[verb, &["--data", dir]].concat());
        assert!(ran.refusal().contains("needs a newer tracklog"), "{verb:?}: {ran:?}");
    }
    let refused = Node::try_start(data.path(), |it| it.env("TRACKLOG_LOG", "error"));
    let refused = refused.err().expect("a newer format is not served");
    assert!(refused.refusal().contains("needs a newer tracklog"), "{refused:?}");
    assert_eq!(std::fs::read(data.path().join("checkpoint-a")).unwrap(), before);
}

#[test]
fn without_checkpoints_and_indexes_the_same_lines_come() {
    let data = ten_events();
    let before = replay(data.path(), "raw");
    for name in ["checkpoint-a", "checkpoint-b"] {
        std::fs::remove_file(data.path().join(name)).unwrap();
    }
    for entry in std::fs::read_dir(data.path().join("journal")).unwrap().map(Result::unwrap) {
        if entry.path().extension().is_some_and(|extension| extension == "idx") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    assert_eq!(replay(data.path(), "raw"), before, "offline");
    let node = Node::start(data.path());
    assert_eq!(replay(data.path(), "raw"), before, "by a node");
    node.track("after", "7");
    assert_eq!(replay(data.path(), "raw").len(), 11);
}

#[test]
fn inspect_explains_the_files_of_a_folder_and_names_those_that_are_none() {
    let data = ten_events();
    for (file, kind) in [("journal/slot-00000000", "slot"), ("checkpoint-a", "checkpoint")] {
        let ran = run(&["inspect", text(&data.path().join(file))]);
        assert_eq!(ran.lines()[0], kind);
        assert!(ran.lines().len() > 3, "{ran:?}");
    }
    let ran = run(&["inspect", text(&data.path().join("default.key"))]);
    assert!(ran.status == 1 && ran.stderr.contains("default.key is no slot"), "{ran:?}");
    let ran = run(&["inspect", text(&data.path().join("missing"))]);
    assert!(ran.refusal().contains("missing"), "{ran:?}");
}

#[test]
fn old_journal_files_put_back_are_refused_and_when_accepted_no_offset_is_given_twice() {
    let data = ten_events();
    let journal = data.path().join("journal");
    let old = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &Path| {
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    };
    copy(&journal, old.path());
    let node = Node::start(data.path());
    for number in 10..15 {
        node.track(&format!("needle-{number}"), "7");
    }
    assert_eq!(enriched(data.path(), 15).len(), 15);
    assert!(node.terminate().0.success());
    copy(old.path(), &journal);
    let refused = Node::try_start(data.path(), |it| it.env("TRACKLOG_LOG", "error"));
    let refused = refused.err().expect("what was acked is not there");
    let why = refused.refusal();
    assert!(why.contains("commits 2 to ") && why.contains("--accept-loss"), "{why}");
    let node = Node::start_with(data.path(), |it| it.arg("--accept-loss"));
    node.track("after", "7");
    let is_after = |event: &&serde_json::Value| event["event"] == "after";
    // The lost stretch is told, and the lines around it come.
    let lines = |arguments: &[&str]| {
        let ran = run(&[arguments, &["--json", "--data", text(data.path())]].concat());
        assert!(ran.status <= 1 && ran.stderr.contains("damaged"), "{ran:?}");
        let parse = |line| serde_json::from_str(line).expect("a line is JSON");
        ran.stdout.lines().map(parse).collect::<Vec<serde_json::Value>>()
    };
    let raw = lines(&["replay", "raw"]);
    let after = raw.iter().find(is_after).expect("it was acked");
    assert!(after["offset"].as_u64() > Some(14), "offset 14 was acked before: {after}");
    // The log knows how far the group had come, and nobody can read that: it goes on all the same.
    let told = lines(&["tail", "enriched", "--from", "0", "--limit", "11"]);
    assert_eq!(told.iter().filter(is_after).count(), 1, "{told:?}");
    assert!(node.terminate().0.success());
    drop(Node::start(data.path()));
}

/// Sends three mebibytes for one partition.
fn fill(node: &Node) -> u16 {
    let event = serde_json::json!({
        "type": "track", "event": "large", "anonymousId": "one",
        "properties": { "filler": "x".repeat(30_000) },
    });
    node.post("/v1/events", &serde_json::json!(vec![event; 100]).to_string()).status
}

/// Enough for so many requests that a journal of this size is full before they end.
const JOURNAL: &str = "100663296";
const FILLS_MAX: usize = 60;

#[test]
fn a_full_journal_refuses_with_429_and_goes_on_reading() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start_with(data.path(), |it| {
        it.env("TRACKLOG_JOURNAL_BYTES_MAX", JOURNAL).env("TRACKLOG_SETTLE", "off")
    });
    let statuses: Vec<_> = (0..FILLS_MAX).map(|_| fill(&node)).collect();
    assert_eq!(statuses[0], 200);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429 | 503)), "{statuses:?}");
    // Three mebibytes are several appends: where the limit comes between them some are stored.
    let in_part = statuses.iter().filter(|status| **status == 503).count();
    assert!(in_part <= 1, "{statuses:?}");
    let acked = statuses.iter().filter(|status| **status == 200).count() * 100;
    let dir = text(data.path());
    let stored = run(&["replay", "raw", "--json", "--data", dir]).lines().len();
    assert!(stored >= acked, "{stored} of {acked}");
    let metrics = node.client().ask("GET", "/metrics", "").unwrap().body;
    assert!(metrics.contains("tracklog_log_state{tracklog_log_state=\"full\"} 1"), "{metrics}");
    assert!(node.terminate().0.success());
    let offline = run(&["replay", "raw", "--json", "--data", dir]).lines().len();
    assert_eq!(offline, stored);
}

#[test]
fn a_replay_from_before_what_was_dropped_begins_at_the_first_and_says_so() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start_with(data.path(), |it| {
        it.env("TRACKLOG_JOURNAL_BYTES_MAX", JOURNAL)
            .env("TRACKLOG_SETTLE", "off")
            .env("TRACKLOG_WHEN_FULL", "drop_oldest")
    });
    node.track("first", "somebody else");
    let statuses: Vec<_> = (0..FILLS_MAX).map(|_| fill(&node)).collect();
    let taken = statuses.iter().filter(|status| **status == 200).count();
    assert!(taken > FILLS_MAX / 2, "what is full makes room: {statuses:?}");
    let dir = text(data.path());
    let check = || {
        for from in ["0", "2026-01-01T00:00:00Z"] {
            let ran =
                run(&["replay", "raw", "--from", from, "--limit", "3", "--json", "--data", dir]);
            assert_eq!(ran.lines().len(), 3, "{ran:?}");
            assert!(ran.stderr.contains("begins at offset"), "{from}: {}", ran.stderr);
        }
        let whole = run(&["replay", "raw", "--json", "--data", dir]);
        assert!(whole.lines().len() < taken * 100);
        assert_eq!(run(&["verify", "--data", dir]).status, 0);
    };
    check();
    assert!(node.terminate().0.success());
    check();
}

#[test]
fn a_lock_without_a_node_is_told_apart_from_a_node() {
    let data = ten_events();
    let lock = File::open(data.path().join("lock")).unwrap();
    lock.lock().unwrap();
    let ran: Ran = run(&["replay", "raw", "--data", text(data.path())]);
    assert!(ran.refusal().contains("no node serves from it"), "{ran:?}");
    lock.unlock().unwrap();
    assert_eq!(replay(data.path(), "raw").len(), 10);
}
