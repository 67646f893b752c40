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
    assert_eq!(run(&["topic", "delete", "live", "--data", dir]).status, 0);
    let stopped = names();
    assert!(stopped.contains(&"cold".to_owned()) && !stopped.contains(&"live".to_owned()));
    let _node = Node::start(data.path());
    assert_eq!(names(), stopped);
    let ran = run(&["topic", "describe", "cold", "--json", "--data", dir]);
    assert_eq!(ran.lines().len(), 16, "a line a partition");
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
    };
    check();
    assert!(node.terminate().0.success());
    check();
}
