//! Clients that send again: each event is stored once, and each answer is a success.

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tracklog_log::AppendError;

use super::client::Ask;
use super::rig::{KEY, Rig, batch, ids, track, track_with};

/// The verdicts of an answer of `/v1/events`.
async fn verdicts(rig: &Rig, events: &[String]) -> Vec<Value> {
    let answer = rig.post("/v1/events", events.join("\n")).await;
    answer.is_ok().json()["results"].as_array().unwrap().clone()
}

fn place(verdict: &Value) -> (Value, Value, Value) {
    (verdict["topic"].clone(), verdict["partition"].clone(), verdict["offset"].clone())
}

#[tokio::test]
async fn the_very_same_event_in_three_requests_is_stored_once() {
    let rig = Rig::new().await;
    let event = r#"{"type":"track","event":"case.mid-repeat","userId":"u-mid-repeat",
        "messageId":"m-mid-repeat","properties":{"n":1}}"#;
    for _ in 0..3 {
        let answer = rig.post("/v1/track", event).await;
        assert_eq!(answer.is_ok().json(), json!({"success": true}));
    }
    assert_eq!(ids(&rig.raw().await), ["m-mid-repeat"]);
    let metrics = rig.metrics();
    for line in [
        r#"tracklog_gateway_events_accepted_total{source="shop"} 1"#,
        r#"tracklog_gateway_events_duplicate_total{source="shop"} 2"#,
        r#"tracklog_gateway_events_id_reused_total{source="shop"} 0"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_retry_is_told_its_first_place_whatever_changed_on_the_way() {
    let rig = Rig::new().await;
    let event = |id: &str, fields: &str| {
        track_with(id, &format!(r#","timestamp":"2026-01-02T03:04:05Z","anonymousId":{fields}"#))
    };
    let first =
        [event("m1", r#""a","sentAt":"2026-01-02T03:04:06Z""#), event("m2", r#""b""#), track("m3")];
    let stored = verdicts(&rig, &first).await;
    assert!(stored.iter().all(|it| it["status"] == "stored" && it["durability"] == "disk"));
    // Another time of sending, another device and so another partition, more context.
    let again = [
        event("m1", r#""a","sentAt":"2026-01-02T03:05:09Z""#),
        event("m2", r#""another device","context":{"retry":1}"#),
        track("m4"),
    ];
    let told = verdicts(&rig, &again).await;
    let statuses: Vec<_> = told.iter().map(|it| it["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["duplicate", "duplicate", "stored"]);
    assert_eq!(place(&told[0]), place(&stored[0]));
    assert_eq!(place(&told[1]), place(&stored[1]));
    assert_eq!(told[0]["durability"], "disk");
    assert_eq!(ids(&rig.raw().await), ["m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn the_same_id_with_other_properties_is_kept_and_marked() {
    let rig = Rig::new().await;
    let event = |n| track_with("m", &format!(r#","properties":{{"n":{n}}}"#));
    rig.post("/v1/batch", batch(&[event(1)], "")).await.is_ok();
    rig.post("/v1/batch", batch(&[event(2), event(1)], "")).await.is_ok();
    rig.post("/v1/batch", batch(&[event(2)], "")).await.is_ok();
    let raw = rig.raw().await;
    assert_eq!(raw.len(), 2, "{raw:?}");
    for line in raw {
        let flags = line["flags"].as_array().cloned().unwrap_or_default();
        assert_eq!(flags.contains(&"idReused".into()), line["properties"]["n"] == 2, "{line}");
    }
    let counted = r#"tracklog_gateway_events_id_reused_total{source="shop"} 1"#;
    assert!(rig.metrics().contains(counted), "{}", rig.metrics());
}

#[tokio::test]
async fn an_event_twice_in_one_request_is_stored_once() {
    let rig = Rig::new().await;
    let told = verdicts(&rig, &[track("m"), track("n"), track("m")]).await;
    assert_eq!(told[2]["status"], "duplicate");
    assert_eq!(place(&told[2]), place(&told[0]));
    assert_eq!(ids(&rig.raw().await), ["m", "n"]);
}

#[tokio::test]
async fn events_without_an_id_are_all_stored() {
    let rig = Rig::new().await;
    let event = r#"{"type":"track","event":"Tried","userId":"u"}"#;
    for _ in 0..3 {
        rig.post("/v1/track", event).await.is_ok();
    }
    assert_eq!(rig.counts().await, (3, 0));
}

#[tokio::test]
async fn a_rejected_event_is_kept_as_often_as_it_is_sent() {
    let rig = Rig::new().await;
    let bad = r#"{"type":"track","userId":"u","messageId":"m"}"#;
    for _ in 0..2 {
        rig.post("/v1/track", bad).await.refuses(400, "missing_name");
    }
    assert_eq!(rig.counts().await, (0, 2));
}

#[tokio::test]
async fn what_was_stored_and_never_told_is_known_when_it_is_sent_again() {
    let rig = Rig::new().await;
    rig.log.lose_next_ack("the cable");
    rig.post("/v1/track", track("m")).await.refuses(503, "unavailable");
    rig.log.fail_next(AppendError::Full { why: "for now".into() });
    rig.post("/v1/track", track("m")).await.refuses(429, "overloaded");
    rig.post("/v1/track", track("m")).await.is_ok();
    assert_eq!(ids(&rig.raw().await), ["m"]);
}

#[tokio::test]
async fn requests_sent_three_times_at_once_store_each_event_once() {
    let rig = Rig::new().await;
    let address = rig.http();
    let mut sending = JoinSet::new();
    for request in 0..20 {
        for attempt in 0..3 {
            let sent_at = format!(r#","sentAt":"2026-01-02T03:04:0{attempt}Z""#);
            let event = |n| track_with(&format!("m{:03}", request * 5 + n), "");
            let events: Vec<_> = (0..10).map(event).collect();
            let ask = Ask::post("/v1/batch", batch(&events, &sent_at)).key(KEY);
            sending.spawn(async move { ask.send(address).await.is_ok().json() });
        }
    }
    while let Some(answer) = sending.join_next().await {
        assert_eq!(answer.unwrap(), json!({"success": true}));
    }
    let expected: Vec<_> = (0..105).map(|n| format!("m{n:03}")).collect();
    assert_eq!(ids(&rig.raw().await), expected);
}
