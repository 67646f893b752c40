//! A stage again over old events: the same comes out, and what was changed differs.

use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use mmdb_writer::{IpVersion, Value as Row, Writer};
use serde_json::{Value, json};

use crate::rig::{Node, Ran, enriched, eventually, replay, run, text};

/// Where a server says that its user is.
pub(crate) const ADDRESS: &str = "81.2.69.160";

/// A file of places that knows this one.
pub(crate) fn places(city: &str) -> Vec<u8> {
    let names = |english: &str| Row::map([("names", Row::map([("en", english)]))]);
    let row =
        Row::map([("city", names(city)), ("country", Row::map([("iso_code", Row::from("GB"))]))]);
    let seconds = if city == "London" { 1_700_000_000 } else { 1_710_000_000 };
    let epoch = UNIX_EPOCH + Duration::from_secs(seconds);
    let mut writer =
        Writer::builder("Test City").ip_version(IpVersion::V4).build_epoch(epoch).build();
    writer.insert_value("81.2.69.0/24".parse::<ipnet::IpNet>().unwrap(), row).unwrap();
    writer.to_bytes().unwrap()
}

/// A node whose places are read from a file beside its folder.
fn start(parent: &Path) -> Node {
    let config = parent.join("tracklog.toml");
    let settings = format!("[enrich.geo]\ndatabases = [{:?}]\n", parent.join("places.mmdb"));
    std::fs::write(&config, settings).unwrap();
    Node::start_with(&parent.join("data"), |command| command.args(["--config", text(&config)]))
}

/// Sends what `visitors` do, in `rounds` requests: they say who they are, and act; every other one is
/// spoken of by a server.
fn send(node: &Node, rounds: u64, visitors: u64) -> usize {
    for round in 0..rounds {
        let events: Vec<_> = (0..visitors)
            .flat_map(|visitor| {
                let (id, user) = (format!("d{visitor}"), format!("u{visitor}"));
                let seen = match visitor % 2 {
                    0 => json!({"ip": ADDRESS, "library": {"name": "analytics-node"}}),
                    _ => json!({"page": {"url": "https://shop.example/?utm_source=letter"}}),
                };
                [
                    json!({"type": "identify", "anonymousId": id, "userId": user, "context": seen,
                       "messageId": format!("{round}-{visitor}-i"), "traits": {"round": round}}),
                    json!({"type": "track", "event": "Bought", "anonymousId": id, "context": seen,
                       "messageId": format!("{round}-{visitor}-t")}),
                ]
            })
            .collect();
        let answer = node.post("/v1/batch", &json!({ "batch": events }).to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    usize::try_from(rounds * visitors * 2).unwrap()
}

fn reprocess(data: &Path, arguments: &[&str]) -> Ran {
    run(&[&["reprocess"], arguments, &["--json", "--data", text(data)]].concat())
}

fn again<'a>(into: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--from", "0", "--stage", "enrich", "--into", into], more].concat()
}

fn diff(data: &Path, topics: [&str; 2], more: &[&str]) -> (i32, Value) {
    let ran = run(&[&["diff"], &topics[..], more, &["--json", "--data", text(data)]].concat());
    let last = ran.stdout.lines().last().unwrap_or_else(|| panic!("{}", ran.stderr));
    (ran.status, serde_json::from_str(last).unwrap())
}

/// How many changes of what is known there are.
fn changes(data: &Path) -> usize {
    replay(data, "_state").len()
}

#[test]
fn the_same_comes_out_and_a_changed_file_of_places_differs_exactly_there() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    std::fs::write(parent.path().join("places.mmdb"), places("London")).unwrap();
    let node = start(parent.path());
    let count = send(&node, 12, 10);
    assert!(enriched(&data, count).iter().any(|event| event["geo"]["city"] == "London"));
    let known = changes(&data);

    let ran = reprocess(&data, &again("enriched.again", &[]));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let job: Value = serde_json::from_str(ran.lines()[0]).unwrap();
    assert_eq!((&job["status"], &job["done"]), (&json!("done"), &json!(count)), "{job}");
    let (status, summary) = diff(&data, ["enriched", "enriched.again"], &[]);
    assert_eq!((status, &summary["equal"]), (0, &json!(count)), "{summary}");

    assert!(node.terminate().0.success());
    std::fs::write(parent.path().join("places.mmdb"), places("Bristol")).unwrap();
    let node = start(parent.path());
    assert_eq!(reprocess(&data, &again("enriched.moved", &[])).status, 0);
    let (status, summary) = diff(&data, ["enriched", "enriched.moved"], &[]);
    let wanted = json!({"enrichedBy": count, "geo.city": count / 2});
    assert_eq!((status, &summary["fields"]), (1, &wanted), "{summary}");
    let ignored = ["--ignore", "enrichedBy", "--ignore", "geo"];
    assert_eq!(diff(&data, ["enriched", "enriched.moved"], &ignored).0, 0);

    // What is known now is otherwise: the first events see the traits of the last.
    assert_eq!(reprocess(&data, &again("enriched.now", &["--state", "now"])).status, 0);
    let (status, summary) = diff(&data, ["enriched.moved", "enriched.now"], &[]);
    assert_eq!(status, 1);
    assert!(summary["fields"]["profile.traits.round"].is_u64(), "{summary}");
    assert_eq!(changes(&data), known, "runs again teach nothing");

    let part = again("part", &["--to", "1"]);
    assert_eq!(reprocess(&data, &part).status, 0);
    let part = replay(&data, "part");
    assert!(!part.is_empty() && part.iter().all(|event| event["rawOffset"] == 0));
    // Its group goes right after a run is done.
    let groups = || run(&["group", "list", "--json", "--data", text(&data)]).lines().len();
    eventually("runs that are done leave no group", || groups() == 1);
    assert!(node.terminate().0.success());
}

#[test]
fn a_run_goes_on_after_a_kill_and_can_be_cancelled() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    std::fs::write(parent.path().join("places.mmdb"), places("London")).unwrap();
    let mut node = start(parent.path());
    let count = send(&node, 60, 40);
    enriched(&data, count);
    let ran = reprocess(&data, &again("again", &["--detach"]));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let status = || {
        let ran = reprocess(&data, &["status", "again"]);
        serde_json::from_str::<Value>(ran.lines()[0]).unwrap()
    };
    for part in 1..4 {
        let began = Instant::now();
        while status()["done"].as_u64().unwrap() < (count / 4 * part) as u64 {
            assert!(began.elapsed() < Duration::from_secs(60), "{}", status());
        }
        node.kill();
        node = start(parent.path());
    }
    let began = Instant::now();
    while status()["status"] == "running" {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", status());
    }
    let (equal, summary) = diff(&data, ["enriched", "again"], &[]);
    assert_eq!((equal, &summary["equal"]), (0, &json!(count)), "{summary}");

    let refused = |arguments: &[&str]| reprocess(&data, arguments).refusal().to_owned();
    assert!(refused(&again("again", &[])).contains("there is another job again"));
    assert!(refused(&again("raw", &[])).contains("belongs to the node itself"));
    assert!(refused(&["--from", "0", "--stage", "route", "--into", "x"]).contains("no stage"));
    let cancel = |name: &str| run(&["reprocess", "cancel", name, "--data", text(&data)]);
    assert!(cancel("nobody").refusal().contains("there is no job nobody"));

    assert_eq!(reprocess(&data, &again("cut", &["--detach"])).status, 0);
    let cancelled = cancel("cut");
    assert_eq!(cancelled.status, 0, "{}", cancelled.stderr);
    let all = reprocess(&data, &["status"]);
    assert_eq!(all.lines().len(), 2);
    assert!(!all.stdout.contains("running"), "{}", all.stdout);
    assert!(node.terminate().0.success());
}

#[test]
fn a_run_goes_on_after_somebody_was_forgotten_and_has_nothing_of_them() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    std::fs::write(parent.path().join("places.mmdb"), places("London")).unwrap();
    let node = start(parent.path());
    let count = send(&node, 60, 40);
    enriched(&data, count);
    let ran = reprocess(&data, &again("again", &["--detach"]));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let forgotten = run(&["forget", "u3", "--yes", "--data", text(&data)]);
    assert_eq!(forgotten.status, 0, "{}", forgotten.stderr);
    let began = Instant::now();
    let is_done = || {
        let ran = reprocess(&data, &["status", "again"]);
        let job: Value = serde_json::from_str(ran.lines()[0]).unwrap();
        job["status"] == "done"
    };
    while !is_done() {
        assert!(began.elapsed() < Duration::from_secs(60), "it goes on");
    }
    let made = replay(&data, "again");
    assert_eq!(made.len(), count - 2 * 60);
    assert!(made.iter().all(|event| event["anonymousId"] != "d3" && event["userId"] != "u3"));
    assert!(node.terminate().0.success());
}
