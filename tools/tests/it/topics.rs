//! `tracklog topic`, on a running node and on a stopped folder.

use serde_json::Value;

use crate::rig::{Node, run, text};

#[test]
fn topics_are_made_and_deleted_on_a_running_node_and_on_a_stopped_folder() {
    let data = tempfile::tempdir().unwrap();
    let dir = text(data.path());
    let node = Node::start(data.path());
    let names = || {
        let ran = run(&["topic", "list", "--json", "--data", dir]);
        let name = |line: &&str| {
            let line: Value = serde_json::from_str(line).unwrap();
            line["topic"].as_str().unwrap().to_owned()
        };
        ran.lines().iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(run(&["topic", "create", "live", "--partitions", "3", "--data", dir]).status, 0);
    let again = run(&["topic", "create", "live", "--partitions", "3", "--data", dir]);
    assert_eq!(again.status, 0, "asking again is fine: {}", again.stderr);
    assert!(names().contains(&"live".to_owned()));
    assert!(node.terminate().0.success());
    assert_eq!(run(&["topic", "create", "cold", "--compact", "--data", dir]).status, 0);
    assert_eq!(run(&["topic", "delete", "live", "--data", dir]).lines(), ["live: deleted"]);
    let stopped = names();
    assert!(stopped.contains(&"cold".to_owned()) && !stopped.contains(&"live".to_owned()));
    let _node = Node::start(data.path());
    assert_eq!(names(), stopped);
    let ran = run(&["topic", "describe", "cold", "--json", "--data", dir]);
    assert_eq!(ran.lines().len(), 16, "a line a partition");
}

#[test]
fn how_much_of_a_topic_is_kept_is_said_bit_by_bit_and_survives_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let dir = text(data.path());
    let limit = |arguments: &[&str]| {
        let ran = run(&[&["topic", "limit", "raw", "--data", dir], arguments].concat());
        ran.lines().join("\n")
    };
    let node = Node::start(data.path());
    assert_eq!(limit(&["--max-age", "30d"]), "raw: kept for 30 d");
    assert!(node.terminate().0.success());
    let all = "raw: kept for 30 d, up to 2048 MiB, while the disk has room";
    assert_eq!(limit(&["--max-bytes", "2 GiB", "--when-full", "drop_oldest"]), all);
    let _node = Node::start(data.path());
    assert_eq!(limit(&["--max-age", "off"]), "raw: kept up to 2048 MiB, while the disk has room");
    let told = run(&["topic", "describe", "raw", "--data", dir]).stdout;
    assert!(told.contains("kept up to 2048 MiB, while the disk has room"), "{told}");
    assert_eq!(limit(&["--max-bytes", "off", "--when-full", "refuse"]), "raw: retention keep");
}

#[test]
fn what_cannot_be_done_to_topics_is_one_line_each() {
    let data = tempfile::tempdir().unwrap();
    let dir = text(data.path());
    let node = Node::start(data.path());
    let says = |arguments: &[&str]| {
        let ran = run(&[arguments, &["--data", dir]].concat());
        ran.refusal().to_owned()
    };
    let check = || {
        assert!(says(&["topic", "create", "Bad Name"]).contains("is no topic name"));
        assert!(says(&["topic", "create", "_mine"]).contains("belongs to the node"));
        assert!(says(&["topic", "create", "raw", "--partitions", "5"]).contains("16 partitions"));
        assert!(says(&["topic", "create", "x", "--partitions", "0"]).contains("1 to 100,000"));
        assert!(says(&["topic", "delete", "raw"]).contains("belongs to the node"));
        assert!(says(&["topic", "delete", "gone"]).contains("no topic gone"));
        assert!(says(&["topic", "describe", "gone"]).contains("no topic gone"));
        assert!(says(&["topic", "limit", "raw"]).contains("--when-full"));
        assert!(says(&["topic", "trim", "raw", "--before", "0"]).contains("say --yes"));
        let trim =
            |name: &str, more: &[&str]| says(&[&["topic", "trim", name, "--yes"], more].concat());
        assert!(trim("_groups", &["--before", "0"]).contains("belongs to the node"));
        assert!(trim("gone", &["--before", "0"]).contains("no topic gone"));
        assert!(trim("raw", &["--before", "soon"]).contains("not an offset or a time"));
        assert!(trim("raw", &["--before", "7"]).contains("beyond the end of raw, which is at 0"));
        let nowhere = trim("raw", &["--before", "0", "--partition", "16"]);
        assert!(nowhere.contains("partitions 0 to 15"), "{nowhere}");
    };
    check();
    assert!(node.terminate().0.success());
    check();
}

fn json_lines(arguments: &[&str]) -> Vec<Value> {
    let ran = run(arguments);
    ran.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(line: &Value, field: &str) -> u64 {
    line[field].as_u64().unwrap()
}

#[test]
fn what_lies_before_an_offset_goes_and_readers_groups_and_offsets_go_on_behind_it() {
    let data = tempfile::tempdir().unwrap();
    let dir = text(data.path());
    let node = Node::start(data.path());
    // One user, one partition.
    (0..20).for_each(|_| node.track("Bought", "u1"));
    node.await_metrics(&["tracklog_stage_records_total{stage=\"enrich\"} 20"]);
    let described = || json_lines(&["topic", "describe", "raw", "--json", "--data", dir]);
    let full = described().into_iter().find(|line| line["end"] == 20).unwrap();
    let partition = full["partition"].to_string();
    let trim = |before: &str, how: &str| {
        let at = ["--partition", &*partition, "--before", before, how, "--json", "--data", dir];
        let mut lines = json_lines(&[&["topic", "trim", "raw"], &at[..]].concat());
        assert_eq!(lines.len(), 1);
        let line = lines.remove(0);
        (number(&line, "start"), number(&line, "end"), number(&line, "dropped"))
    };
    assert_eq!(trim("7", "--dry-run"), (7, 20, 7));
    assert!(described().iter().all(|line| line["start"] == 0), "counting changes nothing");
    assert_eq!(trim("7", "--yes"), (7, 20, 7));
    let reads = |from: &str| {
        let ran = run(&["replay", "raw", "--json", "--from", from, "--data", dir]);
        let first: Value = serde_json::from_str(ran.lines()[0]).unwrap();
        (number(&first, "offset"), ran.lines().len(), ran.stderr)
    };
    let says = |offset: u64| format!("raw/{partition} begins at offset {offset}: older records");
    let (first, count, told) = reads("3");
    assert_eq!((first, count), (7, 13));
    assert!(told.contains(&says(7)), "{told}");
    let (first, _, told) = reads("8");
    assert!(first == 8 && !told.contains("begins at"), "{told}");
    assert!(node.terminate().0.success());

    // A group that is far behind; then what it was to read next goes.
    let reset = ["group", "reset", "enrich", "--topic", "raw", "--to", "earliest", "--data", dir];
    assert_eq!(run(&reset).status, 0);
    let lag = || {
        let lines = json_lines(&["group", "describe", "enrich", "--json", "--data", dir]);
        let of_raw = lines.iter().find(|line| line["partition"] == full["partition"]);
        number(of_raw.unwrap(), "lag")
    };
    assert_eq!(lag(), 13);
    assert_eq!(trim("12", "--dry-run"), (12, 20, 5));
    assert_eq!(trim("12", "--yes"), (12, 20, 5), "of a stopped folder too");
    assert_eq!(lag(), 8, "what is gone is nobody's to read");
    assert!(reads("0").2.contains(&says(12)));

    let node = Node::start(data.path());
    // What was there is read again, and what comes has the next offset.
    let missed = "tracklog_stage_missed_total{stage=\"enrich\"} 5";
    node.await_metrics(&["tracklog_stage_records_total{stage=\"enrich\"} 8", missed]);
    node.track("Bought", "u1");
    node.await_metrics(&["tracklog_stage_records_total{stage=\"enrich\"} 9"]);
    assert_eq!((lag(), reads("20").0), (0, 20));
    assert_eq!(trim("now", "--yes"), (21, 21, 9), "all of it");
    let none = run(&["replay", "raw", "--json", "--data", dir]);
    assert_eq!(none.lines(), [""; 0]);
}

#[test]
fn what_a_topic_takes_on_the_disk_is_described_and_in_the_metrics() {
    let data = tempfile::tempdir().unwrap();
    let dir = text(data.path());
    let node = Node::start(data.path());
    let padding = "x".repeat(30_000);
    let batch = |batch: usize| {
        let event = |number: usize| {
            let id = format!("{batch}-{number}");
            serde_json::json!({"type": "track", "event": "Bought", "userId": id, "messageId": id,
                               "properties": {"padding": padding}})
        };
        serde_json::json!({ "batch": (0..10).map(event).collect::<Vec<_>>() }).to_string()
    };
    let bytes_described = || {
        let told = run(&["topic", "describe", "raw", "--data", dir]).stdout;
        let bytes = told.split(" bytes in full segments and packs").next().unwrap();
        bytes.rsplit(' ').next().unwrap().parse::<u64>().ok()
    };
    assert_eq!(bytes_described(), Some(0), "the newest segment is not counted");
    // More than a slot of 16 MiB, in `raw` alone.
    let sent_bytes: u64 = (0..60)
        .map(|number| {
            let body = batch(number);
            assert_eq!(node.post("/v1/batch", &body).status, 200);
            body.len() as u64
        })
        .sum();
    let enriched = "tracklog_stage_records_total{stage=\"enrich\"} 600";
    node.await_metrics(&[enriched]);
    let bytes = bytes_described().unwrap();
    assert!((1 << 20..=2 * sent_bytes).contains(&bytes), "{bytes} of {sent_bytes} sent");
    node.await_metrics(&[&format!("tracklog_topic_bytes{{topic=\"raw\"}} {bytes}\n")]);
    assert!(node.terminate().0.success());
    assert!(bytes_described().is_some_and(|stopped| stopped >= bytes));
}
