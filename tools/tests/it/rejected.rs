//! `tracklog rejected`: what was refused, and trying it again.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::rig::{Node, Ran, ended, replay, run, text, tracklog};

const STRICT: &str =
    r#"{"type":"object","required":["total"],"properties":{"total":{"type":"number"}}}"#;
const MENDED: &str = r#"{"type":"object","properties":{"total":{"type":["number","string"]}}}"#;

fn push(node: &Node, schema: &str) {
    let answer = node.operator().ask("PUT", "/v1/schemas/Paid", schema).unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
}

fn rejected(data: &Path, arguments: &[&str]) -> Ran {
    run(&[&["rejected"], arguments, &["--data", text(data)]].concat())
}

fn listed(data: &Path, arguments: &[&str]) -> Vec<Value> {
    let ran = rejected(data, &[&["list", "--json"], arguments].concat());
    let parse = |line: &&str| serde_json::from_str(line).expect("a line is JSON");
    ran.lines().iter().map(parse).collect()
}

fn states(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["state"].as_str().unwrap()).collect()
}

fn event(id: &str, total: &Value) -> Value {
    json!({"type":"track","event":"Paid","userId":"u1","messageId":id,"properties":{"total":total}})
}

#[test]
fn what_was_mended_is_stored_once_under_its_own_id_and_the_rest_says_why_not() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    push(&node, STRICT);
    let batch = json!({
        "sentAt": "2026-01-02T03:04:05Z",
        "context": {"locale": "de-DE"},
        "batch": [event("a", &json!("12")), event("b", &json!(true)), event("c", &json!(3))],
    });
    assert_eq!(node.post("/v1/batch", &batch.to_string()).status, 200);
    let other = r#"{"type":"track","userId":"u1","messageId":"d"}"#;
    assert_eq!(node.post("/v1/track", other).status, 400);
    let all = listed(data.path(), &[]);
    assert_eq!(states(&all), ["waiting"; 3]);

    let ran = rejected(data.path(), &["retry", "--code", "schema"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.stdout
            .ends_with("0 stored, 2 rejected again, 0 that cannot be tried, 0 stored before\n")
    );
    assert_eq!(states(&listed(data.path(), &["--code", "schema"])), ["failing"; 2]);

    push(&node, MENDED);
    let ran = rejected(data.path(), &["retry"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.stdout
            .ends_with("1 stored, 2 rejected again, 0 that cannot be tried, 0 stored before\n")
    );
    let raw = replay(data.path(), "raw");
    assert_eq!(raw.len(), 2);
    let of = |id: &str| raw.iter().find(|line| line["messageId"] == id).unwrap();
    let (retried, stored) = (of("a"), of("c"));
    for same in ["receivedAt", "source", "clientAddress", "peerAddress", "sentAt", "context"] {
        assert_eq!(retried[same], stored[same], "{same}: it came in the same request");
    }
    assert_eq!(
        (&retried["properties"]["total"], &retried["locale"]),
        (&json!("12"), &json!("de-DE"))
    );

    let now = listed(data.path(), &[]);
    let at = |id: &str| now.iter().find(|event| event["messageId"] == id).unwrap();
    let place =
        json!({"topic": "raw", "partition": retried["partition"], "offset": retried["offset"]});
    assert_eq!((at("a")["state"].as_str(), &at("a")["stored"]), (Some("retried"), &place));
    assert_eq!(at("b")["still"]["pointer"], "/properties/total");
    assert_eq!(at("d")["still"]["code"], "missing_name");

    let ran = rejected(data.path(), &["retry", "--event", "Paid"]);
    assert!(
        ran.stdout
            .ends_with("0 stored, 1 rejected again, 0 that cannot be tried, 1 stored before\n")
    );
    assert_eq!(replay(data.path(), "raw").len(), 2);
    let shown = format!("{}@{}", at("a")["partition"], at("a")["offset"]);
    let ran = rejected(data.path(), &["show", &shown]);
    let head =
        format!("rejected/{shown}: retried to raw/{}@{}", place["partition"], place["offset"]);
    assert_eq!(ran.lines()[0], head);
    assert!(ran.stdout.ends_with(&format!("\n\n{}\n", event("a", &json!("12")))), "{}", ran.stdout);
    node.await_metrics(&[r#"tracklog_rejected_retried_total{outcome="stored"} 1"#]);

    assert!(node.terminate().0.success());
    assert_eq!(listed(data.path(), &[]), now, "a folder that no node holds tells the same");
    assert_eq!(rejected(data.path(), &["show", &shown]).lines()[0], head);
    let ran = rejected(data.path(), &["retry"]);
    assert!(ran.refusal().ends_with("no node runs there"), "{ran:?}");
}

#[test]
fn limits_may_be_corrected_too_and_what_was_not_kept_is_told() {
    let parent = tempfile::tempdir().unwrap();
    let (config, data) = (parent.path().join("tracklog.toml"), parent.path().join("data"));
    let start = |bytes: u32| {
        let text_of = format!(
            "[sources.shop]\nwrite_key = \"k\"\nevent_bytes_max = {bytes}\n\
             [sources.secret]\nwrite_key = \"s\"\nip = \"drop\"\n"
        );
        std::fs::write(&config, text_of).unwrap();
        Node::start_with(&data, |command| command.args(["--config", text(&config)]))
    };
    let node = start(1_000);
    let sent = |key: &str, id: &str, pad: usize| {
        let event = event(id, &json!("x".repeat(pad)));
        let target = format!("/v1/track?writeKey={key}");
        assert_eq!(node.client().ask("POST", &target, &event.to_string()).unwrap().status, 400);
    };
    sent("k", "large", 2_000);
    sent("k", "larger", 70_000);
    let no_name = r#"{"type":"track","userId":"u","messageId":"withheld"}"#;
    let answer = node.client().ask("POST", "/v1/track?writeKey=s", no_name).unwrap();
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert!(node.terminate().0.success());

    let _node = start(100_000);
    let ran = rejected(&data, &["retry"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(
        ran.stdout
            .ends_with("1 stored, 0 rejected again, 2 that cannot be tried, 0 stored before\n")
    );
    let all = listed(&data, &[]);
    let why = |id: &str| {
        let event = all.iter().find(|event| event["messageId"] == id).unwrap();
        (event["state"].as_str().unwrap(), event["still"]["message"].as_str().unwrap_or_default())
    };
    assert_eq!(why("large").0, "retried");
    let (state, message) = why("larger");
    assert!(state == "final" && message.starts_with("only the first 65536 of its "), "{message}");
    assert_eq!(why("withheld"), ("final", "its source keeps no bytes of rejected events"));
}

#[test]
fn a_range_of_offsets_or_of_times_is_listed_and_tried_again_alone() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    push(&node, STRICT);
    // One user, one partition: offsets as they come.
    for id in ["a", "b", "c", "d"] {
        let sent = event(id, &json!("12"));
        assert_eq!(node.post("/v1/track", &sent.to_string()).status, 400);
    }
    push(&node, MENDED);
    let ids = |more: &[&str]| {
        let events = listed(data.path(), more);
        let id = |event: &Value| event["messageId"].as_str().unwrap().to_owned();
        events.iter().map(id).collect::<Vec<_>>()
    };
    let told = replay(data.path(), "rejected");
    let at = |id: &str| {
        let line = told.iter().find(|line| line["messageId"] == id).unwrap();
        line["appendedAt"].as_str().unwrap()
    };
    assert_eq!(ids(&["--from", "1", "--to", "3"]), ["b", "c"]);
    assert_eq!(ids(&["--from", at("b"), "--to", at("d")]), ["b", "c"]);
    assert_eq!(ids(&["--from", "-1h"]), ["a", "b", "c", "d"]);
    assert_eq!(ids(&["--to", "-1h"]), [""; 0]);

    let stored = || {
        let mut ids: Vec<_> = replay(data.path(), "raw").into_iter().collect();
        ids.sort_by_key(|line| line["messageId"].as_str().unwrap().to_owned());
        ids.iter().map(|line| line["messageId"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let retry = |more: &[&str]| {
        let ran = rejected(data.path(), &[&["retry"], more].concat());
        assert_eq!(ran.status, 0, "{ran:?}");
    };
    retry(&["--to", "-1h"]);
    assert_eq!(stored(), [""; 0]);
    retry(&["--from", "1", "--to", "2"]);
    assert_eq!(stored(), ["b"]);
    retry(&["--from", at("c"), "--to", at("d")]);
    assert_eq!(stored(), ["b", "c"]);
    retry(&["--from", "-1h"]);
    assert_eq!(stored(), ["a", "b", "c", "d"]);
}

/// The node is killed while events are tried again, until all are done.
#[test]
fn kills_while_it_is_retried_store_each_event_once() {
    let events: usize = 2_000;
    let data = tempfile::tempdir().unwrap();
    let mut node = Node::start(data.path());
    push(&node, STRICT);
    for first in (0..events).step_by(200) {
        let event = |n: usize| {
            let mut event = event(&format!("m{n}"), &json!("12"));
            event["anonymousId"] = json!(format!("a{}", n % 97));
            event
        };
        let batch: Vec<_> = (first..first + 200).map(event).collect();
        let body = json!({ "batch": batch }).to_string();
        assert_eq!(node.post("/v1/batch", &body).status, 200);
    }
    push(&node, MENDED);
    let (mut kills, mut after) = (0, Duration::from_millis(8));
    let last = loop {
        let retry = tracklog(&["rejected", "retry", "--data", text(data.path())])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let is_done = replayed(data.path()) == events;
        if !is_done {
            crash_moment(after);
            after += after / 3;
            node.kill();
            kills += 1;
        }
        let ran = ended(retry);
        if is_done {
            break ran;
        }
        node = Node::start(data.path());
    };
    assert_eq!(last.status, 0, "{last:?}");
    assert!(last.stdout.ends_with(&format!("{events} stored before\n")), "{}", last.stdout);
    assert!(kills >= 3, "only {kills} kills came between");
    let mut places = BTreeMap::new();
    for line in replay(data.path(), "raw") {
        let place = (line["partition"].clone(), line["offset"].clone());
        let id = line["messageId"].as_str().unwrap().to_owned();
        assert_eq!(places.insert(id.clone(), place), None, "{id} is stored twice");
    }
    let all = listed(data.path(), &[]);
    assert_eq!((all.len(), places.len()), (events, events));
    for event in all {
        let place = (event["stored"]["partition"].clone(), event["stored"]["offset"].clone());
        assert_eq!(places[event["messageId"].as_str().unwrap()], place, "{event}");
    }
}

#[allow(clippy::disallowed_methods, reason = "a crash comes at a moment, whatever goes on then")]
fn crash_moment(after: Duration) {
    std::thread::sleep(after);
}

fn replayed(data: &Path) -> usize {
    let ran = run(&["topic", "describe", "raw", "--json", "--data", text(data)]);
    let partitions = ran.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ends = partitions.map(|it| it["end"].as_u64().unwrap() - it["start"].as_u64().unwrap());
    usize::try_from(ends.sum::<u64>()).unwrap()
}
