//! Events of a real node go where rules say: into topics, to webhooks, into files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::hook::Hook;
use crate::rig::{Node, replay, run, text};

fn send(node: &Node, events: &[Value]) {
    let body = json!({ "batch": events }).to_string();
    let answer = node.post("/v1/batch", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
}

fn order(number: usize, total: u32) -> Value {
    json!({"type": "track", "event": "Order Completed", "messageId": number.to_string(),
           "anonymousId": format!("v{}", number % 5),
           "properties": {"total": total, "card": "4111"}})
}

fn page(number: usize) -> Value {
    json!({"type": "page", "messageId": number.to_string(),
           "anonymousId": format!("v{}", number % 5)})
}

/// Waits until so many records are in `topic`, and gives them.
fn read(data: &Path, topic: &str, count: usize) -> Vec<Value> {
    let count = count.to_string();
    let arguments = ["tail", topic, "--from", "0", "--limit", &count, "--json", "--data"];
    let ran = run(&[&arguments[..], &[text(data)]].concat());
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    ran.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Asks the operators' door again until what it says is as wanted.
fn wait_for(node: &Node, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut operator = node.operator();
    loop {
        let answer = operator.ask("GET", path, "").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let told = answer.json();
        if wanted(&told) {
            return told;
        }
        std::thread::yield_now();
    }
}

fn destination(told: &Value, name: &str) -> Value {
    let all = told["destinations"].as_array().unwrap();
    all.iter().find(|it| it["destination"] == name).cloned().unwrap_or_default()
}

/// A folder with a node's data, its settings, rules, and a secret.
struct House {
    parent: TempDir,
    data: PathBuf,
}

impl House {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        std::fs::write(parent.path().join("crm.secret"), "0123456789abcdef\n").unwrap();
        let file = parent.path().join("routes.toml");
        let config = format!("[route]\nfile = {:?}\n", text(&file));
        std::fs::write(parent.path().join("tracklog.toml"), config).unwrap();
        let data = parent.path().join("data");
        Self { parent, data }
    }

    fn write_routes(&self, text: &str) {
        let new = self.parent.path().join("routes.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.parent.path().join("routes.toml")).unwrap();
    }

    fn start(&self) -> Node {
        let config = self.parent.path().join("tracklog.toml");
        Node::start_with(&self.data, |command| command.arg("--config").arg(config))
    }
}

fn routes(hook: &Hook) -> String {
    format!(
        r#"
[destinations.orders]
type = "topic"
partitions = 4

[destinations.pages]
type = "topic"
partitions = 4

[destinations.crm]
type = "webhook"
url = "{}"
secret_file = "crm.secret"
batch_events = 10

[destinations.export]
type = "file"
folder = "export"

[[rules]]
name = "large orders"
event = "Order *"
where = "properties.total >= 50"
to = ["orders", "crm"]
priority = "high"
drop = ["properties.card"]

[[rules]]
name = "orders"
event = "Order *"
to = ["orders", "export"]

[[rules]]
name = "pages"
type = "page"
to = ["pages"]
"#,
        hook.url()
    )
}

/// What lies in the files of a folder, in their order.
fn lines_in(folder: &Path) -> Vec<Value> {
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: &PathBuf| std::fs::read_to_string(path).unwrap();
    let parse = |line: &str| serde_json::from_str(line).unwrap();
    paths.iter().map(read).flat_map(|text| text.lines().map(parse).collect::<Vec<_>>()).collect()
}

fn ids(events: &[Value]) -> BTreeSet<String> {
    events.iter().map(|event| event["messageId"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn kills_and_new_rules_neither_lose_nor_double_what_is_routed() {
    const ROUNDS: usize = 6;
    let house = House::new();
    let data = house.data.clone();
    let mut calls = 0;
    let hook = Hook::new(move |_| {
        calls += 1;
        if calls % 7 == 3 { 503 } else { 200 }
    });
    let text_of_rules = routes(&hook);
    house.write_routes(&text_of_rules);
    let (mut sent, mut orders, mut large, mut pages) =
        (0, BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for round in 0..ROUNDS {
        let node = house.start();
        for request in 0..=(round * 5) % 12 {
            let mut events = Vec::new();
            for _ in 0..10 {
                let id = sent.to_string();
                if sent % 3 == 0 {
                    pages.insert(id);
                    events.push(page(sent));
                } else {
                    let total = u32::try_from(sent % 100).unwrap();
                    orders.insert(id.clone());
                    if total >= 50 {
                        large.insert(id);
                    }
                    events.push(order(sent, total));
                }
                sent += 1;
            }
            send(&node, &events);
            if request == 2 {
                // Other rules with the same outcome: lanes that lag come past the change.
                house.write_routes(&format!("{text_of_rules}\n# round {round}\n"));
            }
        }
        node.kill();
    }
    let node = house.start();
    read(&data, "orders", orders.len());
    read(&data, "pages", pages.len());
    wait_for(&node, "/v1/destinations", |told| {
        ["crm", "export"].iter().all(|name| destination(told, name)["lag"] == 0)
            && destination(told, "orders")["lag"] == 0
    });
    assert!(node.terminate().0.success());

    let in_orders = replay(&data, "orders");
    assert_eq!(in_orders.len(), orders.len(), "each once");
    assert_eq!(ids(&in_orders), orders);
    for event in &in_orders {
        let is_large = event["properties"]["total"].as_u64().unwrap() >= 50;
        assert_eq!(event["properties"].get("card").is_none(), is_large, "{event}");
        assert!(event["enrichedBy"].is_string() && event["rawOffset"].is_u64(), "{event}");
    }
    let mut last = BTreeMap::new();
    for event in in_orders.iter().filter(|it| it["properties"]["total"].as_u64().unwrap() < 50) {
        let number: usize = event["messageId"].as_str().unwrap().parse().unwrap();
        let visitor = event["anonymousId"].as_str().unwrap();
        assert!(last.insert(visitor, number).is_none_or(|before| before < number), "in order");
    }
    assert_eq!(ids(&replay(&data, "pages")), pages);
    let exported = lines_in(&house.parent.path().join("export"));
    assert_eq!(exported.len(), orders.len(), "each once");
    assert_eq!(ids(&exported), orders);
    let taken = hook.rest().into_iter().filter(|it| it.status == 200);
    let taken: Vec<Value> =
        taken.flat_map(|it| serde_json::from_str::<Vec<Value>>(&it.body).unwrap()).collect();
    assert_eq!(ids(&taken), large, "at least once");
    assert!(replay(&data, "undelivered").is_empty() && replay(&data, "rejected").is_empty());
}

#[test]
fn a_webhook_is_signed_and_what_it_refuses_is_set_aside_until_it_is_tried_again() {
    let house = House::new();
    let data = house.data.clone();
    let hook = Hook::new(|body| if body.contains("\"messageId\":\"1\"") { 422 } else { 200 });
    house.write_routes(&routes(&hook));
    let node = house.start();
    send(&node, &[order(0, 60), order(1, 70), order(2, 80)]);
    let aside = read(&data, "undelivered", 1).remove(0);
    assert_eq!(aside["key"], "crm");
    let value: Value = serde_json::from_str(aside["value"].as_str().unwrap()).unwrap();
    assert_eq!(value["reason"], "it answered 422");
    assert_eq!(value["line"]["messageId"], "1");
    assert!(value["line"]["properties"].get("card").is_none(), "as it would have been sent");
    // What is set aside counts once it is stored, a moment after nothing waits any more.
    wait_for(&node, "/v1/destinations", |told| {
        let crm = destination(told, "crm");
        crm["lag"] == 0 && crm["delivered"] == 2 && crm["undelivered"] == 1
    });
    let posted = hook.next();
    assert_eq!(posted.headers["content-type"], "application/json");
    assert!(posted.headers["webhook-signature"].starts_with("v1,"));
    assert!(posted.headers["webhook-id"].len() > 16);

    hook.answer(|_| 200);
    hook.rest();
    let retry = run(&["destination", "retry", "crm", "--data", text(&data)]);
    assert_eq!(retry.status, 0, "{}", retry.stderr);
    let again: Vec<Value> = serde_json::from_str(&hook.next().body).unwrap();
    assert_eq!(again[0]["messageId"], "1");
    wait_for(&node, "/v1/destinations", |told| {
        destination(told, "crm")["retry"] == "1 delivered, 0 set aside again"
    });
    assert!(node.terminate().0.success());
}

#[test]
fn a_destination_that_is_held_waits_over_a_restart_and_delays_nobody() {
    let house = House::new();
    let data = house.data.clone();
    let hook = Hook::new(|_| 200);
    house.write_routes(&routes(&hook));
    let node = house.start();
    let destination_verb =
        |arguments: &[&str]| run(&[&["destination"], arguments, &["--data", text(&data)]].concat());
    assert_eq!(destination_verb(&["pause", "crm"]).lines(), ["crm: paused"]);
    send(&node, &(0..20).map(|number| order(number, 99)).collect::<Vec<_>>());
    read(&data, "orders", 20);
    assert!(node.terminate().0.success());

    let node = house.start();
    let listed = destination_verb(&["list", "--json"]);
    let crm = listed.lines()[0].to_owned();
    let crm: Value = serde_json::from_str(&crm).unwrap();
    assert_eq!(
        (&crm["destination"], &crm["state"], &crm["lag"]),
        (&json!("crm"), &json!("paused"), &json!(20))
    );
    assert!(hook.rest().is_empty());
    assert!(destination_verb(&["retry", "crm"]).refusal().contains("crm is paused"));
    assert!(destination_verb(&["pause", "orders"]).refusal().contains("orders is a topic"));
    assert!(destination_verb(&["pause", "nobody"]).refusal().contains("no destination nobody"));
    assert_eq!(destination_verb(&["resume", "crm"]).lines(), ["crm: goes on"]);
    wait_for(&node, "/v1/destinations", |told| destination(told, "crm")["delivered"] == 20);
    assert!(node.terminate().0.success());
}

#[test]
fn live_figures_and_the_archive_are_listed_as_destinations_that_nobody_holds() {
    let house = House::new();
    let data = house.data.clone();
    let node = house.start();
    send(&node, &[order(0, 60)]);
    let destination_verb =
        |arguments: &[&str]| run(&[&["destination"], arguments, &["--data", text(&data)]].concat());
    let told = wait_for(&node, "/v1/destinations", |told| destination(told, "archive")["lag"] == 2);
    let [live, archive] = ["live", "archive"].map(|name| destination(&told, name));
    assert_eq!((&live["type"], &live["state"]), (&json!("live"), &json!("idle")), "{live}");
    assert_eq!((&archive["type"], &archive["state"]), (&json!("archive"), &json!("running")));
    assert_eq!(archive["delivered"], 0, "it is not due yet: {archive}");
    let listed = destination_verb(&["list"]);
    let rows = listed.lines();
    assert!(rows[1].starts_with("live ") && rows[2].starts_with("archive "), "{rows:?}");
    for name in ["live", "archive"] {
        for verb in ["pause", "resume", "retry"] {
            let refused = destination_verb(&[verb, name]);
            let sentence = format!("{name} gets every event, by no rule, and is not held");
            assert!(refused.refusal().contains(&sentence), "{refused:?}");
        }
    }
    assert!(node.terminate().0.success());
}

/// The endpoint of the usual lane takes a request and never answers: nothing of its events is handed
/// over when what came behind all of them is, by a rule of high priority.
#[test]
fn what_is_of_high_priority_arrives_while_the_usual_lane_stands_still() {
    const USUAL: usize = 2_000;
    let house = House::new();
    let gate = Arc::new(Barrier::new(2));
    let (begun, first) = mpsc::channel();
    let held = Arc::clone(&gate);
    let mut is_first = true;
    let usual = Hook::new(move |_| {
        if std::mem::take(&mut is_first) {
            begun.send(()).expect("the test waits for it");
            held.wait();
        }
        200
    });
    let pager = Hook::new(|_| 200);
    house.write_routes(&format!(
        r#"
[destinations.usual]
type = "webhook"
url = "{}"
timeout = "5m"

[destinations.pager]
type = "webhook"
url = "{}"

[destinations.alarms]
type = "topic"
partitions = 1

[[rules]]
name = "all"
to = ["usual"]

[[rules]]
name = "alarms"
event = "Alarm"
to = ["alarms", "pager"]
priority = "high"
"#,
        usual.url(),
        pager.url()
    ));
    let node = house.start();
    send(&node, &[page(0)]);
    first.recv_timeout(Duration::from_secs(60)).expect("the usual lane begins");
    let pages: Vec<_> = (1..USUAL).map(page).collect();
    pages.chunks(500).for_each(|some| send(&node, some));
    send(
        &node,
        &[json!({"type": "track", "event": "Alarm", "messageId": "alarm",
                         "anonymousId": "v0"})],
    );
    assert!(pager.next().body.contains("\"alarm\""));
    assert_eq!(ids(&read(&house.data, "alarms", 1)), BTreeSet::from(["alarm".to_owned()]));
    assert!(usual.rest().is_empty(), "it was not answered meanwhile");
    let told = wait_for(&node, "/v1/destinations", |_| true);
    assert_eq!(destination(&told, "usual")["delivered"], 0, "{told}");
    gate.wait();
    let all = |told: &Value| destination(told, "usual")["delivered"] == USUAL + 1;
    wait_for(&node, "/v1/destinations", all);
    assert!(node.terminate().0.success());
}

#[test]
fn a_bad_file_is_refused_with_its_line_and_the_rules_before_go_on() {
    let house = House::new();
    let data = house.data.clone();
    let hook = Hook::new(|_| 200);
    house.write_routes(&routes(&hook));
    let node = house.start();
    wait_for(&node, "/v1/routes", |told| told["version"] == 1);
    house.write_routes("[[rules]]\nname = \"r\"\nto = [\"nowhere\"]\n");
    let told = wait_for(&node, "/v1/routes", |told| told["refused"].is_string());
    assert_eq!(told["refused"], "line 3: there is no [destinations.nowhere]");
    assert_eq!((&told["version"], &told["rules"]), (&json!(1), &json!(3)));
    send(&node, &[order(1, 1)]);
    read(&data, "orders", 1);
    let ran = run(&["route", "show", "--data", text(&data)]);
    assert!(ran.stdout.contains("3 rules, version 1 since"), "{}", ran.stdout);
    assert!(ran.stdout.contains("refused: line 3"), "{}", ran.stdout);

    house.write_routes("");
    wait_for(&node, "/v1/routes", |told| told["version"] == 2 && told["refused"].is_null());
    send(&node, &[order(2, 1)]);
    read(&data, "enriched", 2);
    wait_for(&node, "/v1/groups/route", |told| {
        told["partitions"].as_array().unwrap().iter().all(|it| it["lag"] == 0)
    });
    assert_eq!(replay(&data, "orders").len(), 1, "nothing is routed any more");
    let metrics = node.client().ask("GET", "/metrics", "").unwrap().body;
    assert!(metrics.contains("tracklog_route_file_refused 0"), "{metrics}");
    assert!(metrics.contains("tracklog_stage_records_total{stage=\"route\"} 2"), "{metrics}");
    assert!(node.terminate().0.success());
}

#[test]
fn files_are_checked_and_events_explained_with_and_without_a_node() {
    let house = House::new();
    let data = house.data.clone();
    let hook = Hook::new(|_| 200);
    let good = house.parent.path().join("good.toml");
    std::fs::write(&good, routes(&hook)).unwrap();
    let ran = run(&["route", "check", text(&good)]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("good, 3 rules; destinations: crm, export, orders, pages"));
    let bad = house.parent.path().join("bad.toml");
    std::fs::write(&bad, "[[rules]]\nname = \"r\"\n").unwrap();
    let ran = run(&["route", "check", text(&bad)]);
    assert_eq!(ran.status, 1);
    assert!(ran.stdout.contains("bad.toml:1: missing field `to`"), "{}", ran.stdout);

    let event = house.parent.path().join("event.json");
    std::fs::write(&event, order(1, 60).to_string()).unwrap();
    let explain = |more: &[&str]| {
        let arguments = ["route", "explain", text(&event), "--json"];
        let ran = run(&[&arguments[..], more].concat());
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        serde_json::from_str::<Value>(ran.lines()[0]).unwrap()
    };
    let alone = explain(&["--routes", text(&good)]);
    house.write_routes(&routes(&hook));
    let node = house.start();
    for told in [alone, explain(&["--data", text(&data)])] {
        let verdicts = told["rules"].as_array().unwrap().iter().map(|it| it["verdict"].clone());
        assert_eq!(verdicts.collect::<Vec<_>>(), ["taken", "taken", "other event"]);
        let to: BTreeMap<_, _> = told["destinations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| (it["destination"].as_str().unwrap(), it["lane"].as_str().unwrap()))
            .collect();
        let wanted = [("crm", "high"), ("orders", "high"), ("export", "normal")];
        assert_eq!(to, BTreeMap::from(wanted));
        assert!(told["destinations"][0]["event"]["properties"].get("card").is_none());
    }
    std::fs::write(&event, "{\"type\":\"track\"}").unwrap();
    let ran = run(&["route", "explain", text(&event), "--data", text(&data)]);
    assert_eq!(ran.status, 1, "{}", ran.stderr);
    assert!(ran.stdout.contains("rejected"), "{}", ran.stdout);
    assert!(replay(&data, "raw").is_empty(), "nothing is stored");
    assert!(node.terminate().0.success());
}
