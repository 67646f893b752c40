//! What benches start of the program again, from outside.

use std::io::Write as _;
use std::net::TcpListener;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::rig::{Node, Ran, ended, replay, tracklog};

/// A crowd that is asked to do this.
fn crowd(asked: &Value) -> Ran {
    let mut crowd = tracklog(&["bench", "crowd"]);
    crowd.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut crowd = crowd.spawn().unwrap();
    writeln!(crowd.stdin.take().unwrap(), "{asked}").unwrap();
    ended(crowd)
}

#[test]
fn a_crowd_sends_each_request_once_and_tells_which_were_acked() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let node = Node::start(&data);
    let asked = json!({"port": node.http.port(), "write_key": node.key, "requests_a_second": 20,
                       "connections": 3, "first": 7, "seconds": 1});
    let ran = crowd(&asked);
    let [told] = ran.lines()[..] else { panic!("one line: {}", ran.stdout) };
    let told: Value = serde_json::from_str(told).unwrap();
    assert_eq!((&told["acked"], &told["refused"]), (&json!([[7, 27]]), &json!({})), "{told}");
    let latencies = told["latencies_micros"].as_array().unwrap();
    assert_eq!(latencies.iter().map(|pair| pair[1].as_u64().unwrap()).sum::<u64>(), 20);

    assert!(node.terminate().0.success());
    let mut ids: Vec<_> = replay(&data, "raw").iter().map(|it| it["messageId"].clone()).collect();
    ids.sort_by_key(ToString::to_string);
    let sent: Vec<_> = (7 * 50..27 * 50).map(|nth| json!(format!("bench-{nth:010}"))).collect();
    assert_eq!(ids, sent);
}

#[test]
fn a_crowd_whose_node_hangs_up_fails_in_a_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let asked = json!({"port": listener.local_addr().unwrap().port(), "write_key": "k",
                       "requests_a_second": 1, "connections": 1, "first": 0, "seconds": 1});
    let node = std::thread::spawn(move || drop(listener.accept().unwrap()));
    assert!(!crowd(&asked).refusal().is_empty());
    node.join().unwrap();
}
