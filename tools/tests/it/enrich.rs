//! Events of a real node come out of `enriched`, each once, whatever is killed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::reprocess::{ADDRESS, places};
use crate::rig::{Node, Ran, enriched, replay, run, text, tracklog};

const AGENT: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 \
                     (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1";

fn batch(events: &[Value]) -> String {
    json!({ "batch": events }).to_string()
}

#[test]
fn an_event_gets_what_its_agent_page_and_visitor_tell() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let node = Node::start(&data);
    let page = json!({ "url": "https://shop.example/p?utm_source=letter", "referrer": "https://www.google.com/" });
    let events = [
        json!({"type": "identify", "messageId": "1", "anonymousId": "d", "userId": "alice",
               "traits": {"plan": "pro"}}),
        json!({"type": "page", "messageId": "2", "anonymousId": "d",
               "context": {"page": page, "userAgent": AGENT}}),
        json!({"type": "track", "event": "Bought", "messageId": "3", "anonymousId": "d",
               "properties": {"price": 12.50}}),
    ];
    assert_eq!(node.post("/v1/batch", &batch(&events)).status, 200);
    let enriched = enriched(&data, 3);
    let of = |id: &str| enriched.iter().find(|event| event["messageId"] == id).unwrap();
    let page = of("2");
    assert_eq!(page["device"]["os"], "iOS");
    assert_eq!(page["device"]["class"], "mobile");
    assert_eq!(page["campaign"]["source"], "letter");
    assert_eq!(page["campaign"]["referrerKind"], "search");
    assert_eq!(page["pageParts"]["host"], "shop.example");
    let bought = of("3");
    assert_eq!(bought["resolvedUserId"], "alice", "its device is known");
    assert_eq!(bought["profile"]["traits"]["plan"], "pro");
    assert_eq!(bought["session"]["number"], 1);
    assert_eq!(bought["properties"]["price"], json!(12.50));
    assert!(bought["enrichedBy"].as_str().unwrap().contains("identity@"));

    // A commit is seen before it is counted.
    node.await_metrics(&[
        "tracklog_stage_records_total{stage=\"enrich\"} 3",
        "tracklog_enrich_lookups_total{enricher=\"identity\",result=\"hit\"} 3",
        "tracklog_topic_records{topic=\"enriched\"} 3",
        "tracklog_topic_appended_records_total{topic=\"raw\"} 3",
        "tracklog_topic_bytes{topic=\"raw\"} 0",
    ]);
    assert!(node.terminate().0.success());
}

/// Visitors whose events carry a number each, so that order can be told.
#[test]
fn kills_neither_lose_nor_double_nor_reorder_what_is_enriched() {
    const ROUNDS: usize = 8;
    const VISITORS: usize = 7;
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let mut sent = 0;
    for round in 0..ROUNDS {
        let node = Node::start(&data);
        // Each round is killed behind another number of requests: while the stage is at work.
        for _ in 0..=(round * 5) % 12 {
            let event = |visitor: usize| {
                let number = sent + visitor;
                json!({"type": "identify", "messageId": number.to_string(),
                       "anonymousId": format!("v{visitor}"), "userId": format!("u{visitor}"),
                       "traits": {"number": number}})
            };
            let events: Vec<_> = (0..VISITORS).map(event).collect();
            assert_eq!(node.post("/v1/batch", &batch(&events)).status, 200);
            sent += VISITORS;
        }
        node.kill();
    }
    let node = Node::start(&data);
    enriched(&data, sent);
    assert!(node.terminate().0.success());

    let raw = replay(&data, "raw");
    let enriched = replay(&data, "enriched");
    assert_eq!(raw.len(), sent);
    assert_eq!(enriched.len(), sent, "each once");
    let place = |event: &Value, partition: &str, offset: &str| {
        (event[partition].as_u64().unwrap(), event[offset].as_u64().unwrap())
    };
    let by_place: BTreeMap<_, _> = raw
        .iter()
        .map(|event| (place(event, "partition", "offset"), &event["messageId"]))
        .collect();
    let mut last: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for event in &enriched {
        let made_from = place(event, "rawPartition", "rawOffset");
        assert_eq!(by_place.get(&made_from), Some(&&event["messageId"]));
        // In order, with what was known right then: what each says itself is the newest.
        let visitor = event["anonymousId"].as_str().unwrap();
        let number = event["traits"]["number"].as_u64().unwrap();
        assert_eq!(event["profile"]["traits"]["number"], number, "{event}");
        let (before, visits) = last.insert(visitor, (number, 1)).unwrap_or((0, 1));
        assert!(number >= before, "in order: {event}");
        assert_eq!(event["session"]["number"], visits, "one visit over all kills: {event}");
    }
    assert_eq!(last.len(), VISITORS);
    let ran = run(&["verify", "--data", text(&data)]);
    assert_eq!(ran.status, 0, "{}", ran.stdout);
}

#[test]
fn without_the_stage_nothing_is_enriched_and_it_catches_up_when_it_is_on() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let config = parent.path().join("tracklog.toml");
    std::fs::write(&config, "[enrich]\nenabled = false\n").unwrap();
    let node = Node::start_with(&data, |command| command.args(["--config", text(&config)]));
    node.track("Bought", "alice");
    assert!(node.terminate().0.success());
    assert!(replay(&data, "enriched").is_empty());

    let node = Node::start(&data);
    assert_eq!(enriched(&data, 1)[0]["event"], "Bought");
    assert!(node.terminate().0.success());
}

#[test]
fn operators_see_how_far_the_stage_is_and_may_let_it_begin_again_when_it_is_stopped() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let node = Node::start(&data);
    for user in 0..5 {
        node.track("Bought", &user.to_string());
    }
    enriched(&data, 5);
    let group =
        |arguments: &[&str]| run(&[&["group"], arguments, &["--data", text(&data)]].concat());
    let list = |members: u64| {
        let ran = group(&["list", "--json"]);
        let listed: Value = serde_json::from_str(ran.lines()[0]).unwrap();
        assert_eq!(listed["group"], "enrich", "{listed}");
        assert_eq!((&listed["members"], &listed["lag"]), (&json!(members), &json!(0)), "{listed}");
    };
    list(1);
    let described = group(&["describe", "enrich", "--json"]);
    let lines = described.lines();
    assert_eq!(lines.len(), 16);
    let committed = lines.iter().map(|line| {
        let partition: Value = serde_json::from_str(line).unwrap();
        assert!(partition["member"].as_str().unwrap().starts_with("node-"), "{line}");
        partition["committed"].as_u64().unwrap_or(0)
    });
    assert_eq!(committed.sum::<u64>(), 5);
    let refused = group(&["reset", "enrich", "--topic", "raw", "--to", "earliest"]);
    assert!(refused.refusal().contains("group enrich is read by 1 now"), "{refused:?}");
    assert!(group(&["describe", "nobody"]).refusal().contains("there is no group nobody"));
    assert!(node.terminate().0.success());

    list(0);
    // The first of what was appended from a time on, in each partition.
    let raw = replay(&data, "raw");
    let time = raw.iter().map(|event| event["appendedAt"].as_str().unwrap()).max().unwrap();
    let before = |partition: u64| {
        let is_before = |event: &&Value| event["appendedAt"].as_str() < Some(time);
        raw.iter().filter(|event| event["partition"] == partition).filter(is_before).count()
    };
    let there = |partition: u64| raw.iter().filter(|event| event["partition"] == partition).count();
    let all = |next: &dyn Fn(u64) -> usize| (0..16).map(next).collect::<Vec<_>>();
    for (to, next) in [
        ("latest", all(&there)),
        ("1", all(&|partition| there(partition).min(1))),
        (time, all(&before)),
        ("-1h", all(&|_| 0)),
    ] {
        let reset = group(&["reset", "enrich", "--topic", "raw", "--to", to, "--json"]);
        let lines = reset.lines();
        let told = lines.iter().map(|line| {
            let place: Value = serde_json::from_str(line).unwrap();
            usize::try_from(place["next"].as_u64().unwrap()).unwrap()
        });
        assert_eq!(told.collect::<Vec<_>>(), next, "{to}");
        let behind: usize = (0..16).map(|at| there(at) - next[usize::try_from(at).unwrap()]).sum();
        let listed: Value = serde_json::from_str(group(&["list", "--json"]).lines()[0]).unwrap();
        assert_eq!((&listed["lag"], listed["lagSeconds"] == 0.0), (&json!(behind), behind == 0));
    }
    let never = group(&["reset", "enrich", "--topic", "raw", "--to", "sometime"]);
    assert!(never.refusal().contains("sometime"), "{never:?}");
    let reset = group(&["reset", "enrich", "--topic", "raw", "--to", "earliest", "--json"]);
    assert_eq!(reset.status, 0, "{}", reset.stderr);
    assert_eq!(reset.lines()[15], "{\"partition\":15,\"next\":0}");
    let node = Node::start(&data);
    enriched(&data, 10);
    assert!(node.terminate().0.success());
    let listed = group(&["list"]);
    let [head, row] = listed.lines()[..] else { panic!("a group: {listed:?}") };
    assert!(head.ends_with("waits") && row.ends_with("0.0 s"), "{listed:?}");
    assert_eq!(group(&["delete", "enrich"]).lines(), ["enrich: deleted"]);
    assert!(group(&["list", "--json"]).lines().is_empty());
}

/// An event of a server that says where its user is.
fn at_address(id: &str) -> Value {
    json!({"type": "track", "event": "Bought", "messageId": id, "anonymousId": "d",
           "context": {"ip": ADDRESS, "library": {"name": "analytics-node"}}})
}

#[test]
fn a_running_node_reads_a_changed_file_of_places_and_tells_how_many_it_has_and_from_when() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let node = Node::start(&data);
    node.await_metrics(&["tracklog_geo_databases 0"]);
    assert!(node.terminate().0.success());

    let [file, config] = ["places.mmdb", "tracklog.toml"].map(|name| parent.path().join(name));
    let settings = format!("[enrich.geo]\ndatabases = [{:?}, \"none.mmdb\"]\n", text(&file));
    std::fs::write(&config, settings).unwrap();
    std::fs::write(&file, places("London")).unwrap();
    let node = Node::start_with(&data, |command| {
        command.args(["--config", text(&config)]).current_dir(parent.path())
    });
    let built = |seconds: u64| {
        format!("tracklog_geo_database_built_timestamp_seconds{{file={:?}}} {seconds}", text(&file))
    };
    node.await_metrics(&["tracklog_geo_databases 1", &built(1_700_000_000)]);
    assert_eq!(node.post("/v1/batch", &batch(&[at_address("1")])).status, 200);
    enriched(&data, 1);
    let new = parent.path().join("new.mmdb");
    std::fs::write(&new, places("Leeds")).unwrap();
    std::fs::rename(&new, &file).unwrap();
    node.await_metrics(&["tracklog_geo_databases 1", &built(1_710_000_000)]);
    assert_eq!(node.post("/v1/batch", &batch(&[at_address("2")])).status, 200);
    let cities = enriched(&data, 2).into_iter().map(|event| event["geo"]["city"].clone());
    assert_eq!(cities.collect::<Vec<_>>(), ["London", "Leeds"]);
    assert!(node.terminate().0.success());
}

/// What `tracklog enrich explain` makes of `event`.
fn explained(event: &Value, arguments: &[&str]) -> BTreeMap<String, Value> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), event.to_string()).unwrap();
    let ran = run(&[&["enrich", "explain", text(file.path()), "--json"], arguments].concat());
    let answer: Value = serde_json::from_str(ran.lines()[0]).unwrap();
    let looks = answer["enrichers"].as_array().unwrap().clone();
    looks.into_iter().map(|look| (look["enricher"].as_str().unwrap().to_owned(), look)).collect()
}

#[test]
fn explain_tells_what_each_enricher_reads_and_adds_of_a_node_and_of_its_folder_alike() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let node = Node::start(&data);
    let known = json!({"type": "identify", "messageId": "1", "anonymousId": "d", "userId": "alice",
                       "traits": {"plan": "pro"}});
    assert_eq!(node.post("/v1/batch", &batch(&[known])).status, 200);
    enriched(&data, 1);
    let asked = json!({"type": "track", "event": "Bought", "messageId": "2", "anonymousId": "d",
                       "context": {"page": {"url": "https://shop.example/?utm_source=letter"}}});
    let place = ["--data", text(&data), "--user-agent", AGENT];
    let by_node = explained(&asked, &place);
    assert!(node.terminate().0.success());
    let before = files_in(&data);
    let by_folder = explained(&asked, &place);
    assert!(files_in(&data) == before, "nothing is written");
    for looks in [&by_node, &by_folder] {
        assert_eq!(looks["device"]["adds"]["device"]["os"], "iOS");
        assert_eq!(looks["device"]["reads"]["userAgent"], AGENT);
        assert_eq!(looks["page"]["adds"]["campaign"]["source"], "letter");
        assert_eq!(looks["identity"]["adds"]["resolvedUserId"], "alice");
        assert_eq!(looks["profile"]["adds"]["profile"]["traits"]["plan"], "pro");
        assert_eq!(looks["session"]["result"], "hit");
        assert_eq!((&looks["geo"]["result"], &looks["geo"]["adds"]), (&json!("miss"), &json!({})));
    }
    assert_eq!((replay(&data, "raw").len(), replay(&data, "enriched").len()), (1, 1));
}

#[test]
fn explain_needs_no_node_and_judges_as_the_gateway_does() {
    let parent = tempfile::tempdir().unwrap();
    let config = parent.path().join("tracklog.toml");
    let settings = "trusted_proxies = [\"10.0.0.0/8\"]\n[enrich.geo]\nedge = \"cloudflare\"\n\
                    [enrich.session]\nenabled = false\n\
                    [sources.shop]\nwrite_key = \"k\"\nrequire = [\"session\"]\n";
    std::fs::write(&config, settings).unwrap();
    let explain = |arguments: &[&str], event: &str| {
        let file = parent.path().join("event.json");
        std::fs::write(&file, event).unwrap();
        let all = [&["enrich", "explain", text(&file), "--config", text(&config)], arguments];
        Ran::of(tracklog(&all.concat()).current_dir(parent.path()).output().unwrap())
    };
    let event = r#"{"type":"page","messageId":"7","anonymousId":"d"}"#;
    let headers = ["--header", "X-Forwarded-For: 81.2.69.160", "--header", "CF-IPCountry: GB"];
    let by_proxy = explain(&[&["--ip", "10.0.0.9"][..], &headers].concat(), event);
    let shown = by_proxy.lines().join("\n");
    assert!(shown.contains(r#"{"country":"GB","origin":"header"}"#), "{shown}");
    assert!(shown.contains("clientAddress  81.2.69.160") && !shown.contains("session:"), "{shown}");
    let by_client = explain(&[&["--ip", "9.9.9.9"][..], &headers].concat(), event).stdout;
    assert!(by_client.contains("geo: miss") && !by_client.contains("GB"), "{by_client}");

    let rejected = explain(&["--source", "shop"], event);
    assert_eq!(rejected.status, 1);
    let line = "event 7: rejected at /context/sessionId, missing_field";
    assert!(rejected.stdout.starts_with(line), "{}", rejected.stdout);
    assert!(explain(&["--source", "none"], event).refusal().contains("no source \"none\""));
    assert!(explain(&[], "[]").refusal().contains("0 events: give one"));
    assert!(explain(&[], "{\"type\"").stdout.contains("invalid_json"));
    assert!(explain(&["--data", "nowhere"], event).refusal().contains("no such data folder"));
    assert!(!parent.path().join("tracklog-data").exists(), "it makes nothing");
}

/// All files in a folder, with what is in them.
fn files_in(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => drop(files.insert(path.clone(), std::fs::read(path).unwrap())),
            }
        }
    }
    files
}

#[cfg(not(feature = "full"))]
#[test]
fn a_profile_store_outside_needs_the_feature_and_is_told_so_in_a_line() {
    let parent = tempfile::tempdir().unwrap();
    let config = parent.path().join("tracklog.toml");
    let settings =
        "[enrich.profile]\nstore = \"redis\"\nurl = \"redis://127.0.0.1\"\nuser_key = \"u:{id}\"\n";
    std::fs::write(&config, settings).unwrap();
    let event = json!({"type": "page", "userId": "alice"}).to_string();
    std::fs::write(parent.path().join("event.json"), event).unwrap();
    let serve = ["serve", "--http", "127.0.0.1:0", "--https", "off", "--data", "data"];
    let explain = ["enrich", "explain", "event.json"];
    for verb in [&serve[..], &explain] {
        let all = [verb, &["--config", text(&config)]].concat();
        let ran = Ran::of(tracklog(&all).current_dir(parent.path()).output().unwrap());
        assert!(ran.refusal().ends_with("cargo build --release --features full"), "{ran:?}");
    }
}
