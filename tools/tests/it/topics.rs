//! `tracklog topic`, on a running node and on a stopped folder.

use crate::rig::{Node, run, text};

#[test]
fn topics_are_made_and_deleted_on_a_running_node_and_on_a_stopped_folder() {
    let data = tempfile::tempdir().unwrap();
    let dir = text(data.path());
    let node = Node::start(data.path());
    let names = || {
        let ran = run(&["topic", "list", "--json", "--data", dir]);
        let name = |line: &&str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
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
    };
    check();
    assert!(node.terminate().0.success());
    check();
}
