//! tail, replay and what they promise: the same lines from a running node and a stopped folder.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use crate::rig::{Node, ended, replay, run, text, tracklog};

/// Sends events of these names, each with an event time in minutes after ten o'clock.
fn send_at(node: &Node, events: &[(&str, u32)]) {
    for (name, minute) in events {
        let body = serde_json::json!({
            "type": "track", "event": name, "userId": "one", "properties": { "n": minute },
            "timestamp": format!("2026-01-02T10:{minute:02}:00Z"),
        });
        let answer = node.post("/v1/events", &serde_json::json!([body]).to_string());
        assert_eq!(answer.json()["results"][0]["status"], "stored", "{}", answer.body);
    }
}

/// The field of each line, as text.
fn field(lines: &[&str], name: &str) -> Vec<String> {
    let one = |line: &&str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        line[name].as_str().map_or_else(|| line[name].to_string(), str::to_owned)
    };
    lines.iter().map(one).collect()
}

#[test]
fn a_stopped_folder_gives_the_lines_that_its_node_gave_and_is_not_changed() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    for user in 0..30 {
        node.track("Order \"new\" \u{1f6d2}", &user.to_string());
    }
    node.post("/v1/track", "{\"event\": 7, \"userId\": \"1\"}");
    let dir = text(data.path());
    let verbs: [&[&str]; 7] = [
        &["replay", "raw", "--json", "--data", dir],
        &["replay", "raw", "--data", dir],
        &["replay", "rejected", "--json", "--data", dir],
        &["replay", "raw", "--partition", "3", "--json", "--data", dir],
        &["replay", "raw", "--from", "1", "--to", "2", "--json", "--data", dir],
        &["topic", "list", "--json", "--data", dir],
        &["topic", "describe", "raw", "--data", dir],
    ];
    // What the node writes by itself is to come to rest; its own topics it writes at its stop too.
    let followed = ["tail", "enriched", "--from", "0", "--limit", "30", "--data", dir];
    assert_eq!(run(&followed).lines().len(), 30);
    let shown = |verb: &&[&str]| {
        let ran = run(verb);
        let lines = ran.lines().into_iter().filter(|line| !line.contains("\"topic\":\"_"));
        // How long ids are known is a setting of the node, not of its folder.
        lines.collect::<Vec<_>>().join("\n").replace(", each event stored once within 24 h", "")
    };
    let running: Vec<_> = verbs.iter().map(shown).collect();
    assert!(node.terminate().0.success());
    let before = listing(data.path());
    let stopped: Vec<_> = verbs.iter().map(shown).collect();
    assert_eq!(running, stopped);
    assert!(running.iter().all(|lines| !lines.is_empty()));
    assert_eq!(listing(data.path()), before, "reading changes nothing");
}

/// Each file below `path` with its size and time of change.
fn listing(path: &std::path::Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
        let facts = entry.metadata().unwrap();
        if facts.is_dir() {
            files.extend(listing(&entry.path()));
        } else {
            let changed = facts.modified().unwrap();
            files.push(format!("{} {} {changed:?}", entry.path().display(), facts.len()));
        }
    }
    files.sort();
    files
}

/// Event times 10:00, 10:09, 10:03, 10:12 in offsets 0–3 of one partition.
#[test]
fn unordered_event_times_are_found_all_and_append_times_never_go_back() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    send_at(&node, &[("a", 0), ("b", 9), ("c", 3), ("d", 12)]);
    let from = |time: &str| {
        let dir = text(data.path());
        let ran = run(&["replay", "raw", "--from-event-time", time, "--json", "--data", dir]);
        field(&ran.lines(), "event")
    };
    for _ in ["running", "stopped"] {
        assert_eq!(from("2026-01-02T10:05:00Z"), ["b", "d"]);
        assert_eq!(from("2026-01-02T10:10:00Z"), ["d"]);
        assert!(from("2026-01-02T10:12:00.000001Z").is_empty());
    }
    let lines = replay(data.path(), "raw");
    let appended: Vec<_> = lines.iter().map(|line| line["appendedAt"].as_str().unwrap()).collect();
    assert!(appended.is_sorted());
    let third = appended[2].to_owned();
    let ran = run(&["replay", "raw", "--from", &third, "--json", "--data", text(data.path())]);
    assert_eq!(field(&ran.lines(), "event"), ["c", "d"], "by append time");
    node.kill();
    assert_eq!(from("2026-01-02T10:05:00Z"), ["b", "d"], "offline, too");
}

#[test]
fn the_last_records_are_the_end_of_a_replay_and_the_start_of_a_tail() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    for number in 0..40 {
        node.track(&format!("e{number}"), &number.to_string());
    }
    let dir = text(data.path());
    let url = format!("http://{}", node.http);
    let token = data.path().join("admin.token");
    let by_folder = ["--data", dir];
    let by_address = ["--node", &url, "--token-file", text(&token)];
    let last = |place: &[&str], rest: &[&str]| {
        let ran = run(&[&["replay", "raw", "--json"], rest, place].concat());
        field(&ran.lines(), "event")
    };
    let wanted = ["e37", "e38", "e39"];
    for place in [&by_folder[..], &by_address] {
        assert_eq!(last(place, &["--last", "3"]), wanted);
        assert_eq!(last(place, &["--last", "2", "--event", "e7"]), ["e7"]);
        assert!(last(place, &["--last", "0"]).is_empty());
        assert_eq!(last(place, &["--last", "1000"]).len(), 40);
    }
    let mut command = tracklog(&["tail", "raw", "--last", "2", "--limit", "3", "--json"]);
    let mut tail = command.args(by_folder).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines().map(Result::unwrap);
    let two = [lines.next().unwrap(), lines.next().unwrap()];
    assert_eq!(field(&[&two[0], &two[1]], "event"), ["e38", "e39"]);
    node.track("new", "1");
    assert_eq!(field(&[&lines.next().unwrap()], "event"), ["new"]);
    assert!(tail.wait().unwrap().success());
    assert!(node.terminate().0.success());
    assert_eq!(last(&by_folder, &["--last", "3"]), ["e38", "e39", "new"], "offline");
    assert_eq!(run(&["tail", "raw", "--last", "1", "--from", "0"]).status, 2);
}

#[test]
fn names_are_matched_letter_by_letter() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    let names = ["a.b", "a*b", "Order (new)", "*", "say \"hi\" [1]", "aXb", "100% + 1 & 2"];
    for name in names {
        node.track(name, "1");
    }
    for name in names {
        let dir = text(data.path());
        let ran = run(&[
            "tail", "raw", "--from", "0", "--limit", "1", "--json", "--event", name, "--data", dir,
        ]);
        assert_eq!(field(&ran.lines(), "event"), [name], "tail");
        let ran = run(&["replay", "raw", "--json", "--event", name, "--data", dir]);
        assert_eq!(field(&ran.lines(), "event"), [name], "replay");
    }
}

#[test]
fn tail_shows_what_comes_and_ends_when_the_node_stops() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    node.track("before", "1");
    let mut tail = tracklog(&["tail", "raw", "--json", "--user", "7", "--from", "0", "--data"])
        .arg(data.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    for name in ["one", "two", "three"] {
        node.track("not mine", "8");
        node.track(name, "7");
        let line = lines.next().unwrap().unwrap();
        assert_eq!(field(&[&line], "event"), [name]);
    }
    assert!(node.terminate().0.success(), "a tail does not hold up the end");
    assert!(lines.next().is_none());
    let ran = ended(tail);
    assert_eq!((ran.status, &*ran.stderr), (0, ""), "the end is a clean one");
}

#[test]
fn pretty_lines_are_for_people_and_json_lines_are_one_object_each() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    let body =
        "{\"event\":\"Paid\",\"userId\":\"7\",\"properties\":{\"total\": 12.50,\n\"n\":1e2}}";
    assert_eq!(node.post("/v1/track", body).status, 200);
    let ran = run(&["replay", "raw", "--data", text(data.path())]);
    assert!(
        ran.lines()[0].contains("Paid  user 7  {\"total\": 12.50, \"n\":1e2}"),
        "{}",
        ran.stdout
    );
    let ran = run(&["replay", "raw", "--json", "--data", text(data.path())]);
    assert!(
        ran.lines()[0].contains("\"properties\":{\"total\": 12.50, \"n\":1e2}"),
        "tokens as sent"
    );
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_verb_quietly() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    let event = serde_json::json!({
        "type": "track", "event": "e", "userId": "1", "properties": { "text": "x".repeat(2_000) },
    });
    for _ in 0..4 {
        let batch = vec![event.clone(); 100];
        assert_eq!(node.post("/v1/events", &serde_json::json!(batch).to_string()).status, 200);
    }
    let mut replay = tracklog(&["replay", "raw", "--json", "--data", text(data.path())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 64];
    replay.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ran = ended(replay);
    assert_eq!((ran.status, &*ran.stderr), (0, ""));
}

#[test]
fn output_writes_a_whole_file() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    for user in 0..10 {
        node.track("e", &user.to_string());
    }
    let file = data.path().join("events.ndjson");
    let ran = run(&["replay", "raw", "--output", text(&file), "--data", text(data.path())]);
    assert_eq!((ran.status, &*ran.stdout), (0, ""), "{}", ran.stderr);
    let written = std::fs::read_to_string(&file).unwrap();
    let printed = run(&["replay", "raw", "--json", "--data", text(data.path())]).stdout;
    assert_eq!(written, printed);
    assert!(!data.path().join("events.ndjson.part").exists());
    let ran = run(&[
        "replay",
        "raw",
        "--last",
        "1",
        "--output",
        text(&file),
        "--data",
        text(data.path()),
    ]);
    assert_eq!(ran.stderr, format!("tracklog: 1 line in {}\n", text(&file)));
}

#[test]
fn a_node_is_asked_by_its_address_with_a_token() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    node.track("e", "1");
    let url = format!("http://{}", node.http);
    let token = data.path().join("admin.token");
    let ran = run(&["replay", "raw", "--json", "--node", &url, "--token-file", text(&token)]);
    assert_eq!(ran.lines().len(), 1);
    let refused = run(&["replay", "raw", "--node", &url]);
    assert!(refused.refusal().contains("--token-file"), "{}", refused.stderr);
    let wrong = data.path().join("wrong");
    std::fs::write(&wrong, "guess\n").unwrap();
    let refused = run(&["replay", "raw", "--node", &url, "--token-file", text(&wrong)]);
    assert!(refused.refusal().contains("admin token"), "{}", refused.stderr);
    let https: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(data.path().join("node.json")).unwrap())
            .unwrap();
    let url = format!("https://{}", https["https"].as_str().unwrap());
    let certificate = data.path().join("cert.pem");
    let ran = run(&[
        "replay",
        "raw",
        "--json",
        "--node",
        &url,
        "--token-file",
        text(&token),
        "--ca",
        text(&certificate),
    ]);
    assert_eq!(ran.lines().len(), 1, "over TLS, trusting the node's own certificate");
}

#[test]
fn limits_count_lines_of_all_partitions() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    for user in 0..25 {
        node.track("e", &user.to_string());
    }
    for limit in ["0", "1", "7", "100"] {
        let ran = run(&["replay", "raw", "--json", "--limit", limit, "--data", text(data.path())]);
        assert_eq!(ran.lines().len(), limit.parse::<usize>().unwrap().min(25));
    }
}
