//! What an answer vouches for, and how each failure of the log is told.

use std::sync::Arc;
use std::time::Duration;

use tracklog_log::{AppendError, Lane, Log as _};

use super::client::{Ask, Client};
use super::rig::{KEY, Rig, Setup, batch, nameless, track, track_with};

#[tokio::test]
async fn no_answer_comes_before_the_events_are_durable() {
    let rig = Rig::new().await;
    rig.log.hold();
    let mut client = Client::connect(rig.http()).await;
    client.write(Ask::post("/v1/track", track("m")).key(KEY).bytes("close")).await;
    let early = tokio::time::timeout(Duration::from_millis(200), client.answer()).await;
    assert!(early.is_err(), "answered before it was durable");
    rig.log.release();
    client.answer().await.unwrap().is_ok();
    assert_eq!(rig.counts().await, (1, 0));
}

#[tokio::test]
async fn what_is_not_durable_in_time_is_503() {
    let timeout = Duration::from_millis(50);
    let rig = Setup::new().change(|config| config.requests.answer_timeout = timeout).start().await;
    rig.log.hold();
    let answer = rig.post("/v1/track", track("m")).await;
    answer.refuses(503, "unavailable");
    assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
}

#[tokio::test]
async fn a_busy_log_is_429_before_the_body_is_read() {
    let rig = Rig::new().await;
    let lane = Lane::FIRST_SOURCE;
    let _all = rig.log.reserve(lane, 128 << 20).unwrap();
    let head = format!(
        "POST /v1/batch HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-length: 100000\r\n\
         expect: 100-continue\r\n\r\n",
        super::client::basic(KEY)
    );
    let mut client = Client::connect(rig.http()).await;
    client.write(head).await;
    let answer = client.answer().await.unwrap();
    answer.refuses(429, "overloaded");
    assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
    // Another key's lane is not held up.
    let by_body = format!(r#"{{"batch":[],"writeKey":"{KEY}"}}"#);
    rig.ask(Ask::post("/v1/batch", by_body)).await.is_ok();
}

#[tokio::test]
async fn bodies_that_are_announced_and_do_not_come_take_no_room_from_others() {
    let rig = Setup { budget_bytes: 4 << 20, ..Setup::new() }.start().await;
    let mut waiting = Vec::new();
    for bytes in [400_000; 10].into_iter().chain([40_000; 20]) {
        let head = format!(
            "POST /v1/batch HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\n\
             content-length: {bytes}\r\nexpect: 100-continue\r\n\r\n",
            super::client::basic(KEY)
        );
        let mut client = Client::connect(rig.http()).await;
        client.write(head).await;
        assert_eq!(client.answer().await.unwrap().status, 100, "its room is looked at");
        waiting.push(client);
    }
    let pad = "x".repeat(30_000);
    let events = ["a", "b"].map(|id| track_with(id, &format!(r#","properties":{{"p":"{pad}"}}"#)));
    rig.post("/v1/batch", batch(&events, "")).await.is_ok();
    // And those who waited are served when they go on.
    let client = &mut waiting[0];
    let late = batch(&[track("late")], "");
    client.write(format!("{late}{}", " ".repeat(400_000 - late.len()))).await;
    client.answer().await.unwrap().is_ok();
    assert_eq!(rig.counts().await, (3, 0));
}

#[tokio::test]
async fn a_client_that_sends_its_body_unasked_still_reads_why_it_was_refused() {
    let rig = Rig::new().await;
    let _all = rig.log.reserve(Lane::FIRST_SOURCE, 128 << 20).unwrap();
    for _ in 0..20 {
        rig.post("/v1/batch", vec![b' '; 500_000]).await.refuses(429, "overloaded");
    }
}

#[tokio::test]
async fn each_failure_of_the_log_has_its_status() {
    let why: Arc<str> = "a test says so".into();
    let failures = [
        (AppendError::Full { why: Arc::clone(&why) }, 429),
        (AppendError::Closed { why: Arc::clone(&why) }, 503),
        (AppendError::Unknown { why: Arc::clone(&why) }, 503),
    ];
    for (error, status) in failures {
        let rig = Rig::new().await;
        rig.log.fail_next(error);
        let answer = rig.post("/v1/batch", batch(&[track("m"), nameless("n")], "")).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("retry-after").as_deref(), Some("1"));
        assert_eq!(rig.counts().await, (0, 0), "good and bad ones are one append");
        assert_eq!(rig.get("/readyz").await.status, 503);
        assert_eq!(rig.get("/livez").await.status, 200);
        rig.still_serves().await;
    }
}

#[tokio::test]
async fn stored_but_not_confirmed_is_503_and_a_repeat_is_taken() {
    let rig = Rig::new().await;
    rig.log.lose_next_ack("the disk did not say");
    rig.post("/v1/track", track("m")).await.refuses(503, "unavailable");
    rig.post("/v1/track", track("m")).await.is_ok();
}

#[tokio::test]
async fn good_and_bad_events_of_a_request_are_one_append() {
    let rig = Rig::new().await;
    rig.log.fail_next(AppendError::Closed { why: "a test says so".into() });
    let body = batch(&[track("m"), nameless("n")], "");
    rig.post("/v1/batch", body.clone()).await.refuses(503, "unavailable");
    // One failure was ordered and one append used it up.
    rig.post("/v1/batch", body).await.is_ok();
    assert_eq!(rig.counts().await, (1, 1));
}

fn large_batch() -> String {
    let filler = "x".repeat(10_000);
    let event = |number| {
        track_with(&format!("m{number:03}"), &format!(r#","properties":{{"f":"{filler}"}}"#))
    };
    batch(&(0..250).map(event).collect::<Vec<_>>(), "")
}

#[tokio::test]
async fn a_large_request_is_cut_into_appends_and_answered_when_all_are_durable() {
    let rig = Rig::new().await;
    rig.post("/v1/batch", large_batch()).await.is_ok();
    assert_eq!(rig.counts().await, (250, 0));
}

#[tokio::test]
async fn a_large_request_that_is_durable_in_part_is_503() {
    let rig = Rig::new().await;
    rig.log.fail_next(AppendError::Full { why: "a test says so".into() });
    let answer = rig.post("/v1/batch", large_batch()).await;
    answer.refuses(503, "unavailable");
    let stored = rig.raw().await.len();
    assert!(stored > 0 && stored < 250, "it was cut, and one append failed: {stored}");
}

#[tokio::test]
async fn offsets_in_verdicts_hold_across_the_cuts() {
    let rig = Rig::new().await;
    let filler = "x".repeat(20_000);
    let event = |number: u32| {
        let device = format!(r#","anonymousId":"d{}","properties":{{"f":"{filler}"}}"#, number % 7);
        track_with(&format!("m{number:03}"), &device)
    };
    let events: Vec<_> = (0..150).map(event).collect();
    let answer = rig.post("/v1/events", events.join("\n")).await;
    let results = answer.is_ok().json()["results"].clone();
    let raw = rig.raw().await;
    for (number, result) in results.as_array().unwrap().iter().enumerate() {
        let id = format!("m{number:03}");
        let line = raw.iter().find(|line| line["messageId"] == *id).unwrap();
        assert_eq!(
            (&result["partition"], &result["offset"]),
            (&line["partition"], &line["offset"])
        );
    }
    assert_eq!(results.as_array().unwrap().len(), 150);
}

#[tokio::test]
async fn a_request_that_does_not_fit_into_the_budget_is_429_and_stores_nothing() {
    let setup = Setup { budget_bytes: 4 << 20, ..Setup::new() };
    let rig = setup.start().await;
    // Its records are larger than a lane: no part of it is stored.
    rig.post("/v1/batch", large_batch()).await.refuses(429, "overloaded");
    assert_eq!(rig.counts().await, (0, 0));
    rig.still_serves().await;
    assert_eq!(
        rig.log.reserve(Lane::FIRST_SOURCE, 2 << 20).unwrap().bytes(),
        2 << 20,
        "all given back"
    );
}
