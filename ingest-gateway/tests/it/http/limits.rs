//! Sizes: each limit refused in words, and nothing beyond it stored.

use super::client::{Ask, Client};
use super::rig::{KEY, Rig, Setup, batch, track, track_with};

#[tokio::test]
async fn a_body_over_the_limit_is_413_whether_declared_or_not() {
    let rig = Setup::new().change_source(|source| source.body_bytes_max = 10_000).start().await;
    let filler = format!(r#","properties":{{"f":"{}"}}"#, "x".repeat(10_000));
    let body = track_with("m", &filler);
    rig.post("/v1/track", body.clone()).await.refuses(413, "too_large");
    let mut client = Client::connect(rig.http()).await;
    let head = format!(
        "POST /v1/track HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {}\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        super::client::basic(KEY),
        body.len()
    );
    client.write(head).await;
    client.answer().await.unwrap().refuses(413, "too_large");
    // Its key is in the body alone: the source's limit still holds.
    let by_body = track_with("m", &format!(r#"{filler},"writeKey":"{KEY}""#));
    rig.ask(Ask::post("/v1/track", by_body)).await.refuses(413, "too_large");
    assert_eq!(rig.counts().await, (0, 0));
    rig.still_serves().await;
}

#[tokio::test]
async fn more_events_than_allowed_are_413() {
    let rig = Rig::new().await;
    let events: Vec<_> = (0..10_001).map(|number| track(&number.to_string())).collect();
    rig.post("/v1/batch", batch(&events, "")).await.refuses(413, "too_many");
    assert_eq!(rig.counts().await, (0, 0));
}

#[tokio::test]
async fn limits_of_a_source_are_its_own() {
    let rig = Setup::new()
        .change_source(|source| {
            source.rules.limits.events_max = 2;
            source.rules.limits.event_bytes_max = 200;
        })
        .start()
        .await;
    let events = [track("a"), track("b"), track("c")];
    rig.post("/v1/batch", batch(&events, "")).await.refuses(413, "too_many");
    let large = track_with("m", &format!(r#","f":"{}""#, "x".repeat(200)));
    rig.post("/v1/track", large).await.refuses(400, "too_large");
    assert_eq!(rig.counts().await, (0, 1), "the large event is quarantined");
}

#[tokio::test]
async fn long_urls_and_large_headers_are_refused_in_words() {
    let rig = Rig::new().await;
    let path = format!("/v1/track?x={}", "y".repeat(9_000));
    rig.post(&path, track("m")).await.refuses(414, "too_large");
    let ask = Ask::post("/v1/track", track("m")).key(KEY).header("x-large", &"y".repeat(17_000));
    rig.ask(ask).await.refuses(431, "too_large");
    assert_eq!(rig.counts().await, (0, 0));
}

#[tokio::test]
async fn what_the_http_library_refuses_closes_and_nothing_is_read_twice() {
    let rig = Rig::new().await;
    let smuggled = "POST /v1/track HTTP/1.1\r\nhost: x\r\n\r\n";
    let auth = super::client::basic(KEY);
    let head = |more: &str| {
        format!("POST /v1/track HTTP/1.1\r\nhost: x\r\nauthorization: {auth}\r\n{more}\r\n\r\n")
    };
    let many: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
    for request in [
        head("content-length: 5\r\ncontent-length: 6") + "hello!" + smuggled,
        head("content-length: 4, 5") + "hello" + smuggled,
        head("content-length: -1"),
        head("content-length: 99999999999999999999"),
        head("transfer-encoding: chunked") + "fffffffffffffffff\r\nx\r\n0\r\n\r\n",
        head("transfer-encoding: chunked, identity") + "5\r\nhello\r\n0\r\n\r\n",
        head("bad header: x"),
        head(&format!("x-large: {}", "y".repeat(60_000))),
        head(&many),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        let mut client = Client::connect(rig.http()).await;
        client.try_write(&request).await;
        let mut answers = 0;
        while let Some(answer) = client.answer().await {
            assert!(
                matches!(answer.status, 400 | 413 | 431),
                "{} to {request:.200}",
                answer.status
            );
            answers += 1;
        }
        assert!(answers <= 1, "read as two requests: {request:.200}");
    }
    assert_eq!(rig.counts().await, (0, 0));
    rig.still_serves().await;
}

#[tokio::test]
async fn both_length_and_chunks_are_one_request() {
    let rig = Rig::new().await;
    let body = track("m");
    let request = format!(
        "POST /v1/track HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-length: 3\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        super::client::basic(KEY),
        body.len(),
    );
    let mut client = Client::connect(rig.http()).await;
    client.write(request + "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    let first = client.answer().await.expect("an answer");
    // Chunks override the length (RFC 9112 §6.3), or the whole is refused.
    assert!(matches!(first.status, 200 | 400), "{}", first.status);
    while client.answer().await.is_some() {}
    assert!(rig.counts().await.0 <= 1);
}
