//! Load that stages cannot keep up with: nothing that was acked is lost, what lags catches up, and
//! memory stays where it is.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::hook::Hook;
use crate::http::Client;
use crate::rig::{Node, replay, text};

/// What a node may take at any time.
const MEMORY_KIB_MAX: u64 = 512 << 10;
const CLIENTS: usize = 8;
const BATCH: usize = 50;

/// Sends so many batches by several clients at once; gives the ids of what was acked. A batch that
/// is refused is sent again, as an SDK does it, after the answer told so in its words.
fn load(node: &Node, phase: &str, batches: usize) -> Vec<String> {
    let (address, target) = (node.http, format!("/v1/batch?writeKey={}", node.key));
    let client = |client: usize| {
        let (mut acked, mut connection) = (Vec::new(), Client::connect(address).unwrap());
        for batch in (client..batches).step_by(CLIENTS) {
            let id = |nth: usize| format!("{phase}-{batch}-{nth}");
            let event = |nth: usize| {
                json!({"type": "track", "event": "Order Completed", "messageId": id(nth),
                       "anonymousId": format!("v{}", (batch * BATCH + nth) % 997),
                       "context": {"userAgent": format!("Mozilla/5.0 ({batch})")},
                       "properties": {"total": nth, "note": "x".repeat(500)}})
            };
            let events: Vec<_> = (0..BATCH).map(event).collect();
            let body = json!({ "batch": events }).to_string();
            loop {
                let answer = connection.ask("POST", &target, &body).unwrap();
                match answer.status {
                    200 => break,
                    429 | 503 => {
                        let code = answer.json()["code"].clone();
                        assert!(code == "overloaded" || code == "unavailable", "{code}");
                    }
                    status => panic!("{status}: {}", answer.body),
                }
            }
            acked.extend((0..BATCH).map(id));
        }
        acked
    };
    std::thread::scope(|scope| {
        let client = &client;
        #[expect(clippy::needless_collect, reason = "all begin before one is waited for")]
        let clients: Vec<_> = (0..CLIENTS).map(|nth| scope.spawn(move || client(nth))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

/// The most memory that the node ever had.
fn memory_kib(data: &Path) -> u64 {
    let facts = std::fs::read_to_string(data.join("node.json")).unwrap();
    let pid = serde_json::from_str::<Value>(&facts).unwrap()["pid"].as_u64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse().unwrap()
}

/// Waits until `group` has nothing left to read.
fn drained(node: &Node, group: &str) {
    let mut operator = node.operator();
    loop {
        let told = operator.ask("GET", &format!("/v1/groups/{group}"), "").unwrap();
        let partitions = told.json()["partitions"].as_array().cloned().unwrap_or_default();
        if !partitions.is_empty() && partitions.iter().all(|partition| partition["lag"] == 0) {
            return;
        }
        std::thread::yield_now();
    }
}

fn ids(events: &[Value]) -> BTreeSet<String> {
    events.iter().map(|event| event["messageId"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn stages_that_stand_still_or_lag_lose_nothing_and_take_no_more_memory() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    // It takes a request and refuses it, for ever.
    let hook = Hook::new(|_| 503);
    let routes = format!(
        "[destinations.dead]\ntype = \"webhook\"\nurl = \"{}\"\n[destinations.orders]\n\
         type = \"topic\"\n[[rules]]\nname = \"all\"\nto = [\"dead\", \"orders\"]\n",
        hook.url()
    );
    let (file, config) = (parent.path().join("routes.toml"), parent.path().join("tracklog.toml"));
    std::fs::write(&file, routes).unwrap();
    let settings = |enabled: bool| {
        let file = text(&file);
        format!("[enrich]\nenabled = {enabled}\n[route]\nfile = {file:?}\n")
    };
    let start = |enabled| {
        std::fs::write(&config, settings(enabled)).unwrap();
        Node::start_with(&data, |command| command.args(["--config", text(&config)]))
    };

    // Stages that stand still.
    let node = start(false);
    let mut acked = load(&node, "stopped", 40);
    assert!(memory_kib(&data) < MEMORY_KIB_MAX);
    node.kill();
    // Stages that have all of it before them, while ten times the load comes in.
    let node = start(true);
    acked.extend(load(&node, "spike", 400));
    drained(&node, "enrich");
    drained(&node, "route");
    acked.extend(load(&node, "after", 20));
    drained(&node, "enrich");
    drained(&node, "route");
    let memory = memory_kib(&data);
    assert!(memory < MEMORY_KIB_MAX, "{memory} KiB");
    assert!(node.terminate().0.success());

    let wanted: BTreeSet<_> = acked.iter().cloned().collect();
    assert_eq!(wanted.len(), 460 * BATCH);
    for topic in ["raw", "enriched", "orders"] {
        let events = replay(&data, topic);
        assert_eq!(ids(&events), wanted, "{topic}");
        if topic != "raw" {
            // A request whose answer was lost may lie in `raw` twice; none was here.
            assert_eq!(events.len(), wanted.len(), "{topic}");
        }
    }
    assert!(!hook.rest().is_empty() && replay(&data, "undelivered").is_empty());
}
