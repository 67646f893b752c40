//! Every path, its short form, its slashes, and what it answers.

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::json;
use tracklog_ingest_gateway::{Access, Content, Door};
use tracklog_log::Pending;

use super::client::Ask;
use super::rig::{KEY, Rig, Setup, TOKEN, batch, ids, nameless, track};

#[tokio::test]
async fn single_paths_give_events_without_a_type_their_own() {
    let rig = Rig::new().await;
    let kinds = ["track", "identify", "page", "screen", "group", "alias"];
    for kind in kinds {
        for path in [format!("/v1/{kind}"), format!("/v1/{}/", &kind[..1])] {
            let body = r#"{"event":"e","name":"n","userId":"u","groupId":"g","previousId":"p"}"#;
            rig.post(&path, body).await.is_ok();
        }
    }
    let lines = rig.raw().await;
    for kind in kinds {
        assert_eq!(lines.iter().filter(|line| line["type"] == kind).count(), 2, "{kind}");
    }
}

#[tokio::test]
async fn a_batch_is_200_with_its_bad_events_told() {
    let rig = Rig::new().await;
    for path in ["/v1/batch", "/v1/b", "/v1/import", "/v1/batch/"] {
        let body = batch(&[track("m0"), nameless("m1"), track("m2")], "");
        let answer = rig.post(path, body).await;
        let rejected = &answer.is_ok().json()["rejected"];
        assert_eq!(rejected.as_array().unwrap().len(), 1);
        assert_eq!(rejected[0]["index"], 1);
        assert_eq!(rejected[0]["messageId"], "m1");
        assert_eq!(rejected[0]["code"], "missing_name");
        assert_eq!(rejected[0]["pointer"], "/event");
    }
    assert_eq!(rig.post("/v1/batch", batch(&[track("m")], "")).await.text(), r#"{"success":true}"#);
}

#[tokio::test]
async fn a_bad_event_alone_is_400_and_in_rejected() {
    let rig = Rig::new().await;
    let answer = rig.post("/v1/track", nameless("m")).await;
    answer.refuses(400, "missing_name");
    assert_eq!(answer.json()["pointer"], "/event");
    assert_eq!(ids(&rig.rejected().await), ["m"]);
}

#[tokio::test]
async fn verdicts_name_topic_partition_offset_and_durability() {
    let rig = Rig::new().await;
    let body = format!("{}\n{}\n{}\n", track("m0"), nameless("m1"), track("m2"));
    let results = rig.post("/v1/events", body).await.is_ok().json()["results"].clone();
    let raw = rig.raw().await;
    for index in [0, 2] {
        let id = format!("m{index}");
        let line = raw.iter().find(|line| line["messageId"] == *id).unwrap();
        let expected = json!({
            "status": "stored", "topic": "raw", "durability": "disk",
            "partition": line["partition"], "offset": line["offset"],
        });
        assert_eq!(results[index], expected);
    }
    let rejected = rig.rejected().await;
    assert_eq!(results[1]["status"], "rejected");
    assert_eq!(results[1]["code"], "missing_name");
    for place in ["topic", "partition", "offset"] {
        assert_eq!(results[1][place], rejected[0][place]);
    }
    assert_eq!(rig.post("/v1/events", "[]").await.json(), json!({"results": []}));
}

#[tokio::test]
async fn merge_is_200_and_quarantined() {
    let rig = Rig::new().await;
    let answer = rig.post("/v1/merge", r#"{"messageId":"m","userId":"u"}"#).await;
    assert_eq!(answer.is_ok().json()["rejected"][0]["code"], "unknown_kind");
    assert_eq!(rig.counts().await, (0, 1));
}

#[tokio::test]
async fn pixels_store_what_their_query_says_and_are_images() {
    let rig = Rig::new().await;
    let path = "/pixel/v1/track?writeKey=tl_key-of-the-shop&anonymousId=a&event=Opened+mail\
                &properties.campaign=Mai%20%26%20Juni&userId=";
    let answer = rig.get(path).await;
    assert_eq!(answer.is_ok().header("content-type").as_deref(), Some("image/gif"));
    let line = &rig.raw().await[0];
    assert_eq!(line["event"], "Opened mail");
    assert_eq!(line["properties"], json!({"campaign": "Mai & Juni"}));
    assert_eq!(line["type"], "track");
    assert!(line.get("userId").is_none());
    let bad = rig.get("/pixel/v1/track?writeKey=tl_key-of-the-shop&event=x").await;
    assert_eq!((bad.status, rig.counts().await), (200, (1, 1)), "a bad one is quarantined");
}

#[tokio::test]
async fn settings_let_browsers_start() {
    let rig = Rig::new().await;
    let ask = Ask::get("/v1/projects/tl_key-of-the-shop/settings").header("host", "e.example:81");
    let answer = rig.ask(ask).await;
    let api = answer.is_ok().json()["integrations"]["Segment.io"].clone();
    assert_eq!(api["apiKey"], KEY);
    assert_eq!(api["apiHost"], "e.example:81/v1");
    assert_eq!(api["protocol"], "http");
    assert!(answer.header("cache-control").unwrap().contains("max-age"));
    let config = rig.ask(Ask::get("/sourceConfig/?p=npm&v=3").key(KEY)).await;
    assert_eq!(config.is_ok().json()["source"]["writeKey"], KEY);
    let named = Setup::new().change(|config| config.public_host = Some("p.example".to_owned()));
    let named = named.start().await.get("/v1/projects/tl_key-of-the-shop/settings").await;
    assert_eq!(named.json()["integrations"]["Segment.io"]["apiHost"], "p.example/v1");
}

#[tokio::test]
async fn health_home_and_sdk_metrics_answer_everybody() {
    let rig = Rig::new().await;
    for path in ["/livez", "/health", "/readyz", "/", "/livez/"] {
        rig.get(path).await.is_ok();
    }
    assert!(rig.get("/").await.text().contains("curl"));
    rig.ask(Ask::post("/v1/m", r#"{"series":[]}"#)).await.is_ok();
    assert_eq!(rig.counts().await, (0, 0));
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405_never_a_redirect() {
    let rig = Rig::new().await;
    for path in ["/v1", "/v1/unknown", "/v2/batch", "/v1/batch/x", "/v1/track.php", "/*"] {
        rig.post(path, track("m")).await.refuses(404, "not_found");
    }
    let answer = rig.get("/v1/track").await;
    answer.refuses(405, "method_not_allowed");
    assert_eq!(answer.header("allow").as_deref(), Some("POST, OPTIONS"));
    assert_eq!(rig.counts().await, (0, 0));
}

#[tokio::test]
async fn no_method_but_its_own_makes_an_event_of_a_path() {
    let rig = Rig::new().await;
    let pixel = "/pixel/v1/track?writeKey=tl_key-of-the-shop&anonymousId=a&event=x";
    for path in ["/v1/track", "/v1/batch", "/v1/import", "/v1/events", "/beacon/v1/batch", pixel] {
        for method in ["GET", "PUT", "DELETE", "PATCH", "TRACE", "QUERY"] {
            if path == pixel && method == "GET" {
                continue;
            }
            let answer = rig.ask(Ask::new(method, path).key(KEY)).await;
            let allowed = answer.header("allow").unwrap_or_default();
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(allowed.contains("OPTIONS") && !allowed.contains(method), "{method} {path}");
        }
    }
    assert_eq!(rig.counts().await, (0, 0));
}

/// Routes of another room.
struct Echo;

impl Door for Echo {
    fn access(&self, method: &Method, path: &str) -> Option<Access> {
        match (method, path) {
            (&Method::GET, "/metrics") => Some(Access::Open),
            (&Method::POST, "/v1/topics") => Some(Access::Admin),
            _ => None,
        }
    }

    fn handle(&self, request: Request<Bytes>) -> Pending<'static, Response<Content>> {
        let body = request.into_body();
        Box::pin(async move { Response::new(Content::Whole(body)) })
    }
}

#[tokio::test]
async fn further_routes_are_served_after_the_token_was_checked() {
    let setup = Setup { further: std::sync::Arc::new(Echo), ..Setup::new() };
    let rig = setup.start().await;
    rig.get("/metrics").await.is_ok();
    let ask = || Ask::post("/v1/topics", "hello");
    rig.ask(ask()).await.refuses(401, "unauthorized");
    rig.ask(ask().key(KEY)).await.refuses(401, "unauthorized");
    assert_eq!(rig.ask(ask().bearer(TOKEN)).await.is_ok().text(), "hello");
    rig.ask(Ask::get("/v1/topics").bearer(TOKEN)).await.refuses(404, "not_found");
}
