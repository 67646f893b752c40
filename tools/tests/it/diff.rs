//! Two topics held against each other.

use serde_json::Value;

use crate::rig::{Node, Ran, enriched, run, text};

fn diff(data: &std::path::Path, arguments: &[&str]) -> Ran {
    run(&[&["diff"], arguments, &["--data", text(data)]].concat())
}

fn lines(ran: &Ran) -> Vec<Value> {
    ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn events_are_paired_by_their_places_and_differ_by_fields() {
    let parent = tempfile::tempdir().unwrap();
    let data = parent.path().join("data");
    let node = Node::start(&data);
    for user in 0..5 {
        node.track("Bought", &user.to_string());
    }
    enriched(&data, 5);
    let same = diff(&data, &["enriched", "enriched"]);
    assert_eq!(same.status, 0, "{}", same.stderr);
    assert!(same.stdout.starts_with("5 equal, 0 differ"), "{}", same.stdout);

    // What enrichment added is what differs.
    let added = diff(&data, &["raw", "enriched", "--json"]);
    assert_eq!(added.status, 1, "{}", added.stderr);
    let told = lines(&added);
    assert_eq!(told.len(), 6);
    assert!(told[0]["messageId"].is_string() && told[0]["rawPartition"].is_u64());
    let fields: Vec<_> = told[0]["fields"].as_array().unwrap().iter().collect();
    let by = fields.iter().find(|it| it["field"] == "enrichedBy").unwrap();
    assert!(by["a"].is_null() && by["b"].as_str().unwrap().contains('@'), "{by}");
    assert_eq!((&told[5]["differ"], &told[5]["fields"]["enrichedBy"]), (&5.into(), &5.into()));
    let ignored: Vec<_> = told[5]["fields"].as_object().unwrap().keys().collect();
    let ignored: Vec<_> = ignored.iter().flat_map(|field| ["--ignore", field.as_str()]).collect();
    assert_eq!(diff(&data, &[&["raw", "enriched"], &ignored[..]].concat()).status, 0);

    let before = |to: &str| diff(&data, &["raw", "enriched", "--to", to, "--json"]);
    assert_eq!((before("0").status, before("now").status), (0, 1));
    assert_eq!(diff(&data, &["raw", "enriched", "--from", "now"]).status, 0);
    assert!(diff(&data, &["raw", "nothing"]).refusal().contains("there is no topic nothing"));

    // Without a place in `raw` events are paired by their ids.
    node.post("/v1/track", "{\"event\":\"Bad\"}");
    let unlike = diff(&data, &["raw", "rejected", "--json"]);
    assert_eq!(unlike.status, 1, "{}", unlike.stderr);
    let told = lines(&unlike);
    let summary = told.last().unwrap();
    assert_eq!((&summary["onlyA"], &summary["onlyB"]), (&5.into(), &1.into()));
    assert!(told.iter().any(|line| line["onlyIn"] == "rejected"));

    // The same from the folder of a stopped node.
    assert!(node.terminate().0.success());
    assert_eq!(lines(&diff(&data, &["raw", "enriched", "--json"])), lines(&added));
}
