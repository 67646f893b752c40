//! What browsers need to read, on answers of every kind.

use super::client::{Answer, Ask};
use super::rig::{KEY, Rig, TOKEN, nameless, track};

const ORIGIN: &str = "https://www.shop.example";

#[track_caller]
fn readable_by_the_page(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin").as_deref(), Some(ORIGIN));
    assert_eq!(answer.header("access-control-allow-credentials").as_deref(), Some("true"));
    let exposed = answer.header("access-control-expose-headers");
    assert_eq!(exposed.as_deref(), Some("Retry-After"));
    assert!(answer.header("vary").unwrap().contains("Origin"));
}

#[tokio::test]
async fn pages_can_read_every_answer_errors_too() {
    let rig = Rig::new().await;
    let asks = [
        (200, Ask::post("/v1/track", track("m")).key(KEY)),
        (200, Ask::post("/v1/m", "{}")),
        (200, Ask::get("/v1/projects/tl_key-of-the-shop/settings")),
        (200, Ask::get("/sourceConfig/?p=npm&writeKey=tl_key-of-the-shop")),
        (200, Ask::get("/pixel/v1/page?writeKey=tl_key-of-the-shop&anonymousId=a")),
        (400, Ask::post("/v1/track", nameless("m")).key(KEY)),
        (400, Ask::post("/v1/batch", "[").key(KEY)),
        (401, Ask::post("/v1/batch", "{\"batch\":[]}")),
        (404, Ask::get("/v1/projects/unknown/settings")),
        (405, Ask::get("/v1/batch")),
        (413, Ask::post("/v1/batch", vec![b' '; (4 << 20) + 1]).key(KEY)),
        (415, Ask::post("/v1/batch", "{}").key(KEY).header("content-encoding", "br")),
    ];
    for (status, ask) in asks {
        let answer = rig.ask(ask.header("origin", ORIGIN)).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        readable_by_the_page(&answer);
    }
}

#[tokio::test]
async fn every_event_path_answers_preflights_without_a_key() {
    let rig = Rig::new().await;
    for path in [
        "/v1/t",
        "/v1/batch/",
        "/v1/import",
        "/v1/events",
        "/v1/m",
        "/beacon/v1/batch",
        "/sourceConfig/",
        "/v1/projects/k/settings",
        "/pixel/v1/track",
    ] {
        let ask = Ask::new("OPTIONS", path)
            .header("origin", ORIGIN)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,rsa-retry-attempt");
        let answer = rig.ask(ask).await;
        assert_eq!(answer.status, 204, "{path}");
        readable_by_the_page(&answer);
        let is = |name: &str| answer.header(name).unwrap_or_default();
        assert_eq!(is("access-control-allow-headers"), "authorization,rsa-retry-attempt");
        assert_eq!(is("access-control-allow-methods"), "GET, POST, OPTIONS");
        assert_eq!(is("access-control-max-age"), "7200");
    }
}

#[tokio::test]
async fn admin_routes_are_not_for_pages() {
    let rig = Rig::new().await;
    for path in ["/v1/schemas", "/livez", "/", "/v1/topics"] {
        let answer = rig.ask(Ask::get(path).bearer(TOKEN).header("origin", ORIGIN)).await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{path}");
    }
}
