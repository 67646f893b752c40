//! Schemas over HTTP: registered, read back, held against events, deleted.

use serde_json::json;
use tracklog_ingest_gateway::source::UnknownEvents;

use super::client::{Answer, Ask};
use super::rig::{Rig, Setup, TOKEN, track_with};

const SCHEMA: &str =
    r#"{"type":"object","required":["price"],"properties":{"price":{"type":"number"}}}"#;

async fn ask(rig: &Rig, method: &str, path: &str, body: &str) -> Answer {
    let ask = match method {
        "PUT" => Ask::put(path, body),
        "POST" => Ask::post(path, body),
        _ => Ask::new(method, path),
    };
    rig.ask(ask.bearer(TOKEN)).await
}

#[tokio::test]
async fn a_schema_lives_through_its_routes() {
    let rig = Rig::new().await;
    let path = "/v1/schemas/Order%20Done%2F1";
    let made = ask(&rig, "PUT", path, SCHEMA).await.is_ok().json();
    assert_eq!(made, json!({"name": "Order Done/1", "version": 1, "created": true}));
    let again = ask(&rig, "PUT", path, SCHEMA).await.is_ok().json();
    assert_eq!(again["created"], false);
    let second = ask(&rig, "PUT", path, r#"{"type":"object"}"#).await.is_ok().json();
    assert_eq!(second["version"], 2);
    let list = ask(&rig, "GET", "/v1/schemas", "").await.is_ok().json();
    assert_eq!(list, json!({"schemas": [{"name": "Order Done/1", "versions": [1, 2]}]}));
    let versions = ask(&rig, "GET", &format!("{path}/versions"), "").await.is_ok().json();
    assert_eq!(versions["versions"], json!([1, 2]));
    let first = ask(&rig, "GET", &format!("{path}/versions/1"), "").await;
    assert_eq!(first.is_ok().text(), SCHEMA, "as registered");
    assert_eq!(first.header("schema-version").as_deref(), Some("1"));
    let newest = ask(&rig, "GET", path, "").await;
    assert_eq!(newest.header("schema-version").as_deref(), Some("2"));
    ask(&rig, "DELETE", path, "").await.is_ok();
    ask(&rig, "GET", path, "").await.refuses(404, "not_found");
    ask(&rig, "DELETE", path, "").await.refuses(404, "not_found");
    let third = ask(&rig, "PUT", path, SCHEMA).await.is_ok().json();
    assert_eq!(third["version"], 3, "numbers are not used again");
}

#[tokio::test]
async fn an_event_may_be_called_check_and_every_name_that_an_event_has() {
    let rig = Rig::new().await;
    for name in ["check", "versions", "%2E%2E", "a%2Fcheck", "a%2Fversions%2F1", "%20", "a%0Ab"] {
        let path = format!("/v1/schemas/{name}");
        ask(&rig, "PUT", &path, SCHEMA).await.is_ok();
        assert_eq!(ask(&rig, "GET", &path, "").await.is_ok().text(), SCHEMA, "{name}");
        let versions = ask(&rig, "GET", &format!("{path}/versions"), "").await.is_ok().json();
        assert_eq!(versions["versions"], json!([1]), "{name}");
        let dry = ask(&rig, "POST", &format!("{path}/check"), "{}").await.is_ok().json();
        assert_eq!(dry["valid"], false, "{name}");
        ask(&rig, "DELETE", &path, "").await.is_ok();
    }
    let dry = ask(&rig, "POST", "/v1/schemas/check", r#"{"schema":{},"payload":{}}"#).await;
    assert_eq!(dry.is_ok().json()["valid"], true);
}

#[tokio::test]
async fn versions_that_cannot_be_given_are_refused_with_the_reason() {
    let rig = Rig::new().await;
    ask(&rig, "PUT", "/v1/schemas/a/versions/7", SCHEMA).await.is_ok();
    let passed = ask(&rig, "PUT", "/v1/schemas/a/versions/5", SCHEMA).await;
    passed.refuses(409, "schema");
    assert!(passed.json()["message"].as_str().unwrap().contains("5 is not above 7"));
    for version in ["0", "-1", "x", "4294967296", ""] {
        let path = format!("/v1/schemas/b/versions/{version}");
        let answer = ask(&rig, "PUT", &path, SCHEMA).await;
        assert!([400, 405].contains(&answer.status), "{version}: {}", answer.text());
    }
    ask(&rig, "GET", "/v1/schemas/b", "").await.refuses(404, "not_found");
}

#[tokio::test]
async fn a_schema_that_does_not_compile_or_reaches_out_is_400() {
    let rig = Rig::new().await;
    for schema in [
        "{",
        "[]",
        r#"{"type":"objekt"}"#,
        r#"{"$ref":"http://127.0.0.1:1/x"}"#,
        r#"{"$ref":"file:///etc/passwd"}"#,
        &"[".repeat(100_000),
    ] {
        ask(&rig, "PUT", "/v1/schemas/a", schema).await.refuses(400, "schema");
    }
    ask(&rig, "PUT", "/v1/schemas/a%00b", SCHEMA).await.refuses(400, "invalid_id");
    ask(&rig, "PUT", "/v1/schemas/a", &" ".repeat(2 << 20)).await.refuses(413, "too_large");
    ask(&rig, "POST", "/v1/schemas/a", SCHEMA).await.refuses(405, "method_not_allowed");
    assert_eq!(ask(&rig, "GET", "/v1/schemas", "").await.json(), json!({"schemas": []}));
}

#[tokio::test]
async fn a_dry_run_tells_and_stores_nothing() {
    let rig = Rig::new().await;
    ask(&rig, "PUT", "/v1/schemas/Tried", SCHEMA).await.is_ok();
    let check = async |path: &str, body: &str| ask(&rig, "POST", path, body).await;
    let good = check("/v1/schemas/Tried/check", r#"{"price":1.50}"#).await;
    assert_eq!(good.is_ok().json(), json!({"valid": true}));
    let bad = check("/v1/schemas/Tried/versions/1/check", r#"{"price":"1"}"#).await;
    assert_eq!(bad.is_ok().json()["valid"], false);
    assert_eq!(bad.json()["pointer"], "/price");
    let both = format!(r#"{{"schema":{SCHEMA},"payload":{{}}}}"#);
    assert_eq!(check("/v1/schemas/check", &both).await.is_ok().json()["valid"], false);
    check("/v1/schemas/check", r#"{"schema":{}}"#).await.refuses(400, "missing_field");
    check("/v1/schemas/Tried/check", "{").await.refuses(400, "invalid_json");
    check("/v1/schemas/none/check", "{}").await.refuses(404, "not_found");
    assert_eq!(rig.counts().await, (0, 0));
}

#[tokio::test]
async fn events_are_held_against_the_newest_schema_at_once() {
    let rig = Setup::new()
        .change_source(|source| source.rules.unknown_events = UnknownEvents::Reject)
        .start()
        .await;
    let event = |price: &str| track_with("m", &format!(r#","properties":{{"price":{price}}}"#));
    rig.post("/v1/track", event("1")).await.refuses(400, "unknown_event");
    ask(&rig, "PUT", "/v1/schemas/Tried", SCHEMA).await.is_ok();
    rig.post("/v1/track", event("1.50")).await.is_ok();
    let bad = rig.post("/v1/track", event("\"1\"")).await;
    bad.refuses(400, "schema");
    assert_eq!(bad.json()["pointer"], "/properties/price");
    ask(&rig, "PUT", "/v1/schemas/Tried", r#"{"type":"object"}"#).await.is_ok();
    rig.post("/v1/track", event("\"1\"")).await.is_ok();
    assert_eq!(rig.counts().await, (2, 2));
}

#[tokio::test]
async fn a_value_that_its_schema_did_not_see_does_not_get_in() {
    let rig = Rig::new().await;
    let schema = r#"{"properties":{"seats":{"type":"integer","minimum":1}}}"#;
    ask(&rig, "PUT", "/v1/schemas/Tried", schema).await.is_ok();
    let twice = track_with("twice", r#","properties":{"seats":-4,"seats":4}"#);
    rig.post("/v1/track", twice).await.refuses(400, "duplicate_key");
    let below = rig.post("/v1/track", track_with("below", r#","properties":{"seats":0}"#)).await;
    below.refuses(400, "schema");
    assert_eq!(below.json()["pointer"], "/properties/seats");
    assert_eq!(rig.counts().await, (0, 2), "both are in rejected");
}
