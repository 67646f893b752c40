//! `tracklog schema`, and events held against what it registered.

use crate::rig::{Node, replay, run, text};

const SCHEMA: &str =
    r#"{"type":"object","required":["total"],"properties":{"total":{"type":"number"}}}"#;

#[test]
fn a_pushed_schema_is_listed_holds_and_survives_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let dir = text(data.path());
    let node = Node::start(data.path());
    let file = data.path().join("Order%20Completed.json");
    std::fs::write(&file, SCHEMA).unwrap();
    let ran = run(&["schema", "push", text(&file), "--data", dir]);
    assert_eq!(ran.lines(), ["Order Completed version 1: registered"]);
    let ran = run(&["schema", "push", text(&file), "--data", dir]);
    assert_eq!(ran.lines(), ["Order Completed version 1: unchanged"]);
    let bad = r#"{"event":"Order Completed","userId":"1","properties":{"total":"much"}}"#;
    let answer = node.post("/v1/track", bad);
    assert_eq!(
        (answer.status, answer.json()["pointer"].as_str()),
        (400, Some("/properties/total"))
    );
    let payload = data.path().join("payload");
    std::fs::write(&payload, r#"{"total":"much"}"#).unwrap();
    let check = || {
        let ran = run(&["schema", "list", "--json", "--data", dir]);
        assert_eq!(ran.lines(), [r#"{"name":"Order Completed","versions":[1]}"#]);
        let event = ["--event", "Order Completed", "--payload", text(&payload), "--data", dir];
        let ran = run(&[&["schema", "check"][..], &event].concat());
        assert_eq!((ran.status, ran.stdout.lines().count()), (1, 1), "{ran:?}");
        assert!(ran.stdout.contains(": invalid: /total: "), "{ran:?}");
        let ran = run(&["schema", "show", "Order Completed", "--version", "1", "--data", dir]);
        assert_eq!(ran.lines(), [SCHEMA]);
    };
    check();
    assert!(node.terminate().0.success());
    check();
    let node = Node::start(data.path());
    check();
    assert_eq!(node.post("/v1/track", bad).status, 400);
    let good = r#"{"event":"Order Completed","userId":"1","properties":{"total":1.5}}"#;
    assert_eq!(node.post("/v1/track", good).status, 200);
    assert_eq!(replay(data.path(), "rejected").len(), 2);
    assert_eq!(replay(data.path(), "raw")[0]["schemaVersion"], 1);
    let delete = || run(&["schema", "delete", "Order Completed", "--data", dir]);
    assert_eq!(delete().lines(), ["Order Completed: deleted"]);
    assert!(delete().refusal().contains("Order Completed"));
    assert_eq!(node.post("/v1/track", bad).status, 200, "nothing asks for a number any more");
    let ran = run(&["schema", "show", "Order Completed", "--data", dir]);
    assert!(ran.refusal().contains("Order Completed"), "{ran:?}");
}

#[test]
fn check_needs_no_node_and_says_no_with_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, body: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, body).unwrap();
        text(&path).to_owned()
    };
    let schema = file("order.json", SCHEMA);
    let (good, bad) = (file("good", r#"{"total":1}"#), file("bad", r#"{"total":"x"}"#));
    let ran = run(&["schema", "check", &schema, "--payload", &good]);
    assert_eq!(ran.lines(), [format!("{schema}: compiles"), format!("{good}: valid")]);
    let ran = run(&["schema", "check", &schema, "--payload", &good, "--payload", &bad, "--json"]);
    assert_eq!(ran.status, 1);
    let last: serde_json::Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!((&last["valid"], &last["pointer"]), (&false.into(), &"/total".into()));
    for broken in [
        r#"{"type":"objekt"}"#,
        r#"{"$ref":"https://example.com/schema.json"}"#,
        r#"{"$ref":"file:///etc/passwd"}"#,
        "{",
    ] {
        let broken = file("broken.json", broken);
        let ran = run(&["schema", "check", &broken]);
        assert_eq!((ran.status, ran.stdout.lines().count()), (1, 1), "{ran:?}");
        assert!(ran.stdout.starts_with(&format!("{broken}: invalid: ")), "{}", ran.stdout);
        assert!(!ran.stdout.contains(": :") && !ran.stdout.contains("anyOf"), "{}", ran.stdout);
    }
}

#[test]
fn a_schema_that_does_not_compile_is_refused_in_one_line_and_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let dir = text(data.path());
    let _node = Node::start(data.path());
    for (at, broken) in [
        r#"{"type":"objekt"}"#,
        r#"{"$ref":"https://example.com/schema.json"}"#,
        r#"{"$ref":"file:///etc/passwd"}"#,
        "no json",
    ]
    .iter()
    .enumerate()
    {
        let file = data.path().join(format!("broken{at}.json"));
        std::fs::write(&file, broken).unwrap();
        let ran = run(&["schema", "push", text(&file), "--data", dir]);
        assert!(ran.refusal().starts_with(text(&file)), "{}", ran.stderr);
    }
    let ran = run(&["schema", "list", "--json", "--data", dir]);
    assert_eq!(ran.lines(), Vec::<&str>::new());
}

#[test]
fn schemas_of_a_folder_are_loaded_at_the_start() {
    let data = tempfile::tempdir().unwrap();
    let schemas = tempfile::tempdir().unwrap();
    std::fs::write(schemas.path().join("paid.json"), SCHEMA).unwrap();
    let start = || Node::try_start(data.path(), |it| it.env("TRACKLOG_SCHEMAS", schemas.path()));
    let node = start().unwrap_or_else(|ran| panic!("{ran:?}"));
    assert_eq!(node.post("/v1/track", r#"{"event":"paid","userId":"1"}"#).status, 400);
    assert!(node.terminate().0.success());
    std::fs::write(schemas.path().join("sold.json"), "{").unwrap();
    let refused = start().err().expect("a broken schema is not passed over");
    assert_eq!(refused.status, 2);
    assert!(refused.stderr.lines().last().unwrap().contains("sold.json"), "{}", refused.stderr);
}

#[test]
fn an_event_without_a_name_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("schema.json");
    std::fs::write(&file, "{}").unwrap();
    for verb in ["push", "check"] {
        let files: &[&str] =
            if verb == "push" { &[text(&file)] } else { &["--payload", text(&file)] };
        let ran = run(&[&["schema", verb], files, &["--event", ""]].concat());
        assert_eq!((ran.status, &*ran.stdout), (2, ""));
        assert!(ran.stderr.contains("it is empty; say which event"), "{}", ran.stderr);
    }
}
