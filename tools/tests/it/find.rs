//! `tracklog find`: where events are, and where they went.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::hook::Hook;
use crate::rig::{Node, Ran, enriched, run, text};

const ROUTES: &str = r#"
[destinations.orders]
type = "topic"
partitions = 4

[destinations.export]
type = "file"
folder = "export"

[destinations.crm]
type = "webhook"
url = "URL"

[[rules]]
name = "orders"
event = "Order"
to = ["orders", "export", "crm"]
"#;

fn find(data: &Path, arguments: &[&str]) -> Ran {
    run(&[&["find", "--data", text(data)], arguments].concat())
}

fn found(data: &Path, arguments: &[&str]) -> Vec<Value> {
    let ran = find(data, &[arguments, &["--json"]].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    ran.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The way to `to`, of this kind.
fn way<'e>(event: &'e Value, to: &str, kind: &str) -> &'e Value {
    let ways = event["went"].as_array().unwrap();
    let way = ways.iter().find(|way| way["to"] == to && way["kind"] == kind);
    way.unwrap_or_else(|| panic!("{to} is no way of {event}"))
}

fn text_of<'v>(line: &'v Value, field: &str) -> &'v str {
    line[field].as_str().unwrap()
}

/// Looks for one event until each of these ways is as wanted.
#[track_caller]
fn until(data: &Path, id: &str, wanted: &[(&str, &str, &str)]) -> Value {
    let began = Instant::now();
    loop {
        let mut events = found(data, &[id]);
        assert_eq!(events.len(), 1, "{events:?}");
        let event = events.remove(0);
        let is_so = |(to, kind, state): &(&str, &str, &str)| {
            let ways = event["went"].as_array().unwrap();
            ways.iter().any(|it| it["to"] == *to && it["kind"] == *kind && it["state"] == *state)
        };
        if wanted.iter().all(is_so) {
            return event;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{event}");
    }
}

#[test]
fn an_event_is_followed_from_its_receipt_to_the_archive() {
    let parent = tempfile::tempdir().unwrap();
    let (config, data) = (parent.path().join("tracklog.toml"), parent.path().join("data"));
    let routes = parent.path().join("routes.toml");
    let hook = Hook::new(|_| 400);
    std::fs::write(&routes, ROUTES.replace("URL", &hook.url())).unwrap();
    let settings =
        format!("[route]\nfile = {:?}\n[archive]\nflush_interval = \"100ms\"\n", text(&routes));
    std::fs::write(&config, settings).unwrap();
    let node = Node::start_with(&data, |command| command.args(["--config", text(&config)]));
    let event = |id: &str, name: &str| {
        json!({"type": "track", "event": name, "messageId": id, "userId": "u-7",
               "anonymousId": format!("a-{id}")})
    };
    let batch: Vec<_> = (0..40).map(|n| event(&format!("m{n}"), "Order")).collect();
    let batch = json!({ "batch": batch }).to_string();
    assert_eq!(node.post("/v1/batch", &batch).status, 200);
    assert_eq!(node.post("/v1/track", &event("page", "Other").to_string()).status, 200);
    assert_eq!(
        node.post("/v1/track", r#"{"type":"track","userId":"u-7","messageId":"bad"}"#).status,
        400
    );

    let order = until(
        &data,
        "m7",
        &[
            ("enriched", "stage", "done"),
            ("orders", "topic", "done"),
            ("export", "file", "done"),
            ("crm", "destination", "undelivered"),
            ("archive", "raw", "done"),
            ("archive", "enriched", "done"),
        ],
    );
    assert_eq!(
        (&order["verdict"], &order["topic"], &order["userId"]),
        (&json!("stored"), &json!("raw"), &json!("u-7"))
    );
    let received = order["receivedAt"].as_str().unwrap();
    let stored = order["storedAt"].as_str().unwrap();
    let of_log = crate::rig::replay(&data, "raw");
    let line = of_log.iter().find(|line| line["messageId"] == "m7").unwrap();
    assert_eq!((received, stored), (text_of(line, "receivedAt"), text_of(line, "appendedAt")));
    let is_there = |at: &Value, topic: &str| {
        let lines = crate::rig::replay(&data, topic);
        let line = lines.iter().find(|line| line["messageId"] == "m7").unwrap();
        assert_eq!(
            (&at["topic"], &at["partition"], &at["offset"]),
            (&json!(topic), &line["partition"], &line["offset"])
        );
    };
    is_there(&order, "raw");
    is_there(&way(&order, "enriched", "stage")["at"], "enriched");
    is_there(&way(&order, "orders", "topic")["at"], "orders");
    let file = way(&order, "archive", "raw")["why"].as_str().unwrap();
    assert!(data.join("archive").join(file).is_file(), "{file}");

    let other = until(&data, "page", &[("enriched", "stage", "done")]);
    let ways = other["went"].as_array().unwrap();
    assert!(ways.iter().all(|way| ["enriched", "archive"].contains(&way["to"].as_str().unwrap())));
    let bad = &found(&data, &["bad"])[0];
    assert_eq!(
        (&bad["verdict"], &bad["reason"]["code"]),
        (&json!("rejected"), &json!("missing_name"))
    );

    let of_user = found(&data, &["--user", "u-7"]);
    assert_eq!(of_user.len(), 42, "whatever key their partitions are of");
    assert_eq!(found(&data, &["--user", "u-7", "--limit", "5"]).len(), 5);
    let ran = find(&data, &["m7"]);
    let head =
        format!("raw/{}@{}  stored  Order  default  m7", order["partition"], order["offset"]);
    assert_eq!(ran.lines()[0], head);
    assert!(
        ran.stdout.contains("  crm       undelivered (destination) undelivered/"),
        "{}",
        ran.stdout
    );

    assert_eq!(found(&data, &["--user", "u-7", "--from", "-1h"]).len(), 42);
    assert_eq!(found(&data, &["--user", "u-7", "--from", "0", "--limit", "3"]).len(), 3);
    let none = find(&data, &["--user", "u-7", "--from", "2999-01-01"]);
    assert_eq!((none.status, &*none.stdout), (1, ""), "{none:?}");

    // An id is looked up where nothing is scanned; what has no index is not found there.
    let mut operator = node.operator();
    let mut of_id = |id: &str, more: &str| -> usize {
        let path = format!("/v1/find?id={id}&{more}");
        let answer: Value =
            serde_json::from_str(&operator.ask("GET", &path, "").unwrap().body).unwrap();
        answer["events"].as_array().unwrap().len()
    };
    assert_eq!((of_id("m7", "scan-from=now"), of_id("bad", "scan-from=now")), (1, 0));
    assert_eq!((of_id("m7", "from=now"), of_id("bad", "scan-from=-1h")), (0, 1));

    let ran = find(&data, &["m7", "--to", "-1h"]);
    assert_eq!((ran.status, &*ran.stdout), (1, ""), "{ran:?}");
    assert_eq!(enriched(&data, 41).len(), 41);
    assert!(node.terminate().0.success());
    assert!(find(&data, &["m7"]).refusal().ends_with("no node runs there"));
}

#[test]
fn an_event_that_was_tried_again_says_where_it_is_now() {
    let data = tempfile::tempdir().unwrap();
    let node = Node::start(data.path());
    let put = |schema: &str| {
        let answer = node.operator().ask("PUT", "/v1/schemas/Paid", schema).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    put(r#"{"type":"object","required":["total"]}"#);
    let event = r#"{"type":"track","event":"Paid","userId":"u1","messageId":"late"}"#;
    assert_eq!(node.post("/v1/track", event).status, 400);
    put(r#"{"type":"object"}"#);
    let retry = run(&["rejected", "retry", "--data", text(data.path())]);
    assert_eq!(retry.status, 0, "{retry:?}");
    let events = found(data.path(), &["late"]);
    let verdicts: Vec<_> = events.iter().map(|event| text_of(event, "verdict")).collect();
    assert_eq!(verdicts, ["stored", "retried"], "{events:?}");
    let (stored, retried) = (&events[0], &events[1]);
    let place = |event: &Value| ["topic", "partition", "offset"].map(|name| event[name].clone());
    assert_eq!(place(&retried["retried"]), place(stored));
    assert_eq!(retried["receivedAt"], stored["receivedAt"], "it came once");
    assert!(text_of(retried, "storedAt") < text_of(stored, "storedAt"), "{events:?}");
}
