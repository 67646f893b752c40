//! Where a write key may stand, which of them counts, and who may use what needs the token.

use tracklog_ingest_gateway::Source;
use tracklog_ingest_gateway::source::SourceRules;

use super::client::Ask;
use super::rig::{KEY, Rig, Setup, TOKEN, batch, track, track_with};

/// A second source, to see which one an event went to.
const OTHER: &str = "tl_other";

async fn two_sources() -> Rig {
    let other = Source::new(OTHER, SourceRules::named("other"));
    Setup::new().change(|config| config.sources.push(other)).start().await
}

async fn sources(rig: &Rig) -> Vec<String> {
    let lines = rig.raw().await;
    lines.iter().map(|line| line["source"].as_str().unwrap().to_owned()).collect()
}

fn key_field(key: &str) -> String {
    format!(r#","writeKey":"{key}""#)
}

#[tokio::test]
async fn the_key_is_taken_from_the_header_first_then_root_then_event_then_query() {
    let asks = [
        // Basic before all.
        Ask::post(
            "/v1/batch?writeKey=no",
            batch(&[track_with("m", &key_field("no"))], &key_field("no")),
        )
        .key(OTHER),
        // The root before its events and the query.
        Ask::post(
            "/v1/batch?writeKey=no",
            batch(&[track_with("m", &key_field("no"))], &key_field(OTHER)),
        ),
        // An event before the query.
        Ask::post("/v1/batch?writeKey=no", batch(&[track_with("m", &key_field(OTHER))], "")),
        Ask::post("/v1/batch?writeKey=tl_other", batch(&[track("m")], "")),
        Ask::post("/v1/track", track_with("m", &key_field(OTHER))),
        Ask::post("/v1/events", format!("[{}]", track_with("m", &key_field(OTHER)))),
        // A user name that is empty is none.
        Ask::post("/v1/track?writeKey=tl_other", track("m")).key(""),
        // A bearer token is never a write key, and does not hide one.
        Ask::post("/v1/track", track_with("m", &key_field(OTHER))).bearer(KEY),
        Ask::post("/beacon/v1/batch?writeKey=tl_other", batch(&[track("m")], "")),
    ];
    for (number, ask) in asks.into_iter().enumerate() {
        let rig = two_sources().await;
        rig.ask(ask).await.is_ok();
        assert_eq!(sources(&rig).await, ["other"], "request {number}");
    }
}

#[tokio::test]
async fn a_key_that_is_missing_or_unknown_is_401_and_stores_nothing() {
    let rig = Rig::new().await;
    let good = track_with("m", &key_field(KEY));
    for ask in [
        Ask::post("/v1/track", track("m")),
        Ask::post("/v1/track", track("m")).key("unknown"),
        Ask::post("/v1/track", good.clone()).key("unknown"),
        Ask::post("/v1/track", good.clone()).header("authorization", "Basic !!!"),
        Ask::post("/v1/track", track("m")).bearer(KEY),
        Ask::post("/v1/track", track("m")).bearer(TOKEN),
        Ask::post("/v1/track?writeKey=", track_with("m", r#","writeKey":"""#)),
        Ask::post("/v1/batch", batch(&[], "")),
        Ask::post("/v1/events", "[]"),
        Ask::get("/pixel/v1/track?event=x&userId=u"),
        Ask::get("/sourceConfig?writeKey=unknown"),
    ] {
        rig.ask(ask).await.refuses(401, "unauthorized");
    }
    assert_eq!(rig.counts().await, (0, 0));
}

#[tokio::test]
async fn a_key_may_be_any_text() {
    for key in ["ключ:с двоеточием", "a b", "\"quoted\"", "k+/="] {
        let rig =
            Setup::new().change_source(|source| source.write_key = key.to_owned()).start().await;
        rig.ask(Ask::post("/v1/track", track("m1")).key(key)).await.is_ok();
        let field = format!(r#","writeKey":{}"#, serde_json::to_string(key).unwrap());
        rig.ask(Ask::post("/v1/track", track_with("m2", &field))).await.is_ok();
        assert_eq!(rig.counts().await, (2, 0), "{key}");
    }
}

#[tokio::test]
async fn registry_routes_need_the_token_and_nothing_else_will_do() {
    let rig = Rig::new().await;
    for (method, path) in [
        ("GET", "/v1/schemas"),
        ("PUT", "/v1/schemas/a"),
        ("GET", "/v1/schemas/a"),
        ("DELETE", "/v1/schemas/a"),
        ("GET", "/v1/schemas/a/versions/1"),
        ("POST", "/v1/schemas/check"),
        ("OPTIONS", "/v1/schemas"),
    ] {
        let ask = || Ask::new(method, path).header("origin", "https://evil.example");
        for ask in [ask(), ask().key(KEY), ask().key(TOKEN), ask().bearer(KEY), ask().bearer("")] {
            let answer = rig.ask(ask).await;
            answer.refuses(401, "unauthorized");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    rig.ask(Ask::get("/v1/schemas").bearer(TOKEN)).await.is_ok();
}

#[tokio::test]
async fn pages_of_other_origins_than_the_sources_own_are_refused_aloud() {
    let rig = Setup::new()
        .change_source(|source| source.origins = vec!["https://shop.example".to_owned()])
        .start()
        .await;
    let from = |origin: &str| Ask::post("/v1/track", track("m")).key(KEY).header("origin", origin);
    let refused = rig.ask(from("https://evil.example")).await;
    refused.refuses(403, "forbidden_origin");
    let told = refused.header("access-control-allow-origin");
    assert_eq!(told.as_deref(), Some("https://evil.example"), "the page may read why");
    rig.ask(from("https://shop.example")).await.is_ok();
    // Servers name no origin.
    rig.post("/v1/track", track("n")).await.is_ok();
    assert_eq!(rig.counts().await, (2, 0));
}

#[tokio::test]
async fn keys_and_tokens_are_in_nothing_that_is_stored_counted_or_said() {
    let rig = Rig::new().await;
    let event = track_with("m", &key_field(KEY));
    rig.ask(Ask::post("/v1/track", event.clone()).bearer(TOKEN)).await.is_ok();
    let root = key_field(KEY);
    rig.ask(Ask::post("/v1/batch?writeKey=tl_key-of-the-shop", batch(&[event], &root)))
        .await
        .is_ok();
    let bad = rig.ask(Ask::post("/v1/track?writeKey=tl_key-of-the-shop", "{nonsense")).await;
    let wrong = rig.ask(Ask::get("/v1/schemas").bearer("token-of-the-admim")).await;
    for text in [
        format!("{:?}", rig.raw().await),
        format!("{:?}", rig.rejected().await),
        rig.metrics(),
        bad.text(),
        wrong.text(),
        format!("{:?}", rig.running),
    ] {
        for secret in [KEY, TOKEN, "token-of"] {
            assert!(!text.contains(secret), "{secret} in {text}");
        }
    }
}
