//! The reading routes over the log in memory, without sockets.

use std::time::Duration;

use http_body_util::BodyExt as _;
use tracklog_pipeline::groups::{GroupName, Start};

use super::*;
use crate::replay::tests::{Rig, block_on, named, places};

struct Operator {
    rig: Rig,
    admin: Admin,
    stop: watch::Sender<bool>,
}

impl Operator {
    async fn new() -> Self {
        let rig = Rig::new(2).await;
        let (stop, stopping) = watch::channel(false);
        let log = Arc::clone(&rig.log) as Arc<dyn Log>;
        Self { rig, admin: Admin::new(log, || TimeMicros(1_000_000), stopping), stop }
    }

    async fn ask(&self, method: Method, target: &str, body: &str) -> Response<Content> {
        let request = Request::builder().method(method).uri(target);
        let request = request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap();
        self.admin.handle(request).await
    }

    /// Status and body; a streaming one must end by itself.
    async fn get(&self, target: &str) -> (u16, String) {
        read(self.ask(Method::GET, target, "").await).await
    }
}

async fn read(response: Response<Content>) -> (u16, String) {
    let status = response.status().as_u16();
    let bytes = match response.into_body() {
        Content::Whole(bytes) => bytes,
        Content::Streaming { body, .. } => body.collect().await.unwrap().to_bytes(),
    };
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[test]
fn only_metrics_are_open_and_other_paths_are_not_ours() {
    block_on(async {
        let admin = Operator::new().await.admin;
        let access = |path| admin.access(&Method::GET, path);
        assert_eq!(access("/metrics"), Some(Access::Open));
        for path in ["/v1/topics", "/v1/topics/", "/v1/topics/raw", "/v1/topics/raw/events"] {
            assert_eq!(access(path), Some(Access::Admin), "{path}");
        }
        for path in ["/v1/groups", "/v1/groups/g", "/v1/groups/g/reset", "/v1/verify"] {
            assert_eq!(access(path), Some(Access::Admin), "{path}");
        }
        assert_eq!(access("/v1/backfills/shop/ab"), Some(Access::Admin));
        assert_eq!(access("/v1/topic"), None);
    });
}

#[test]
fn topics_are_made_listed_described_and_deleted() {
    block_on(async {
        let operator = Operator::new().await;
        let new = r#"{"name":"orders","partitions":3}"#;
        let made = operator.ask(Method::POST, "/v1/topics", new).await;
        assert_eq!(made.status(), 200);
        operator.rig.append(5, &[named(0, "a"), named(1, "b")]).await;
        let (_, list) = operator.get("/v1/topics").await;
        let list: serde_json::Value = serde_json::from_str(&list).unwrap();
        assert_eq!(list["topics"][0]["topic"], "orders");
        assert_eq!(
            (&list["topics"][0]["partitions"], &list["topics"][1]["records"]),
            (&3.into(), &2.into())
        );
        let (_, raw) = operator.get("/v1/topics/raw").await;
        let raw: serde_json::Value = serde_json::from_str(&raw).unwrap();
        assert_eq!(raw["partitions"][1], serde_json::json!({"partition":1,"start":0,"end":1}));
        let limits = r#"{"maxAge":"7d","maxBytes":"100 GiB","whenFull":"drop_oldest"}"#;
        let limited = operator.ask(Method::PATCH, "/v1/topics/orders", limits).await;
        assert_eq!(limited.status(), 200);
        let off = operator.ask(Method::PATCH, "/v1/topics/orders", r#"{"maxBytes":"off"}"#).await;
        assert_eq!(off.status(), 200);
        let (_, orders) = operator.get("/v1/topics/orders").await;
        let orders: serde_json::Value = serde_json::from_str(&orders).unwrap();
        assert_eq!((&orders["maxAgeSeconds"], orders.get("maxBytes")), (&604_800.into(), None));
        assert_eq!(orders["whenFull"], "drop_oldest");
        let refuse = r#"{"whenFull":"refuse"}"#;
        let (_, kept) = read(operator.ask(Method::PATCH, "/v1/topics/orders", refuse).await).await;
        let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
        assert_eq!(
            (&kept["maxAgeSeconds"], kept.get("whenFull")),
            (&604_800.into(), None),
            "what is not said stays"
        );
        let deleted = operator.ask(Method::DELETE, "/v1/topics/orders", "").await;
        assert_eq!(deleted.status(), 200);
        assert_eq!(operator.get("/v1/topics/orders").await.0, 404);
    });
}

#[test]
fn what_lies_before_a_place_goes_and_is_counted_before() {
    block_on(async {
        let operator = Operator::new().await;
        for time in [10, 20, 30] {
            operator.rig.append(time, &[named(0, "a"), named(1, "b")]).await;
        }
        let trim = async |body| {
            let answer = read(operator.ask(Method::POST, "/v1/topics/raw/trim", body).await).await;
            assert_eq!(answer.0, 200, "{}", answer.1);
            serde_json::from_str::<serde_json::Value>(&answer.1).unwrap()["partitions"].take()
        };
        let partition = |partition: u32, start: u64, dropped: u64| serde_json::json!({"partition": partition, "start": start, "end": 3, "dropped": dropped});
        let both = serde_json::json!([partition(0, 2, 2), partition(1, 2, 2)]);
        let time = r#"{"before":"1970-01-01T00:00:00.000021Z","dryRun":true}"#;
        assert_eq!(trim(time).await, both);
        assert_eq!(trim(time).await, both, "counting changes nothing");
        let one = serde_json::json!([partition(1, 1, 1)]);
        assert_eq!(trim(r#"{"before":"1","partition":1}"#).await, one);
        let rest = serde_json::json!([partition(0, 2, 2), partition(1, 2, 1)]);
        assert_eq!(trim(r#"{"before":"2"}"#).await, rest);
        let nothing = serde_json::json!([partition(0, 2, 0), partition(1, 2, 0)]);
        assert_eq!(trim(r#"{"before":"1"}"#).await, nothing, "what is gone stays gone");
        let all = serde_json::json!([partition(0, 3, 1), partition(1, 3, 1)]);
        assert_eq!(trim(r#"{"before":"now"}"#).await, all);
        operator.rig.append(40, &[named(0, "c")]).await;
        let (_, lines) = operator.get("/v1/topics/raw/events").await;
        assert_eq!(places(lines.as_bytes()), ["c@0:3"], "offsets go on");
    });
}

#[test]
fn what_cannot_be_done_is_told_with_code_and_message() {
    block_on(async {
        let operator = Operator::new().await;
        let post = |body| operator.ask(Method::POST, "/v1/topics", body);
        let patch = |topic: &str, body: &'static str| {
            let path = format!("/v1/topics/{topic}");
            let operator = &operator;
            async move { operator.ask(Method::PATCH, &path, body).await }
        };
        let trim = |topic: &str, body: &'static str| {
            let path = format!("/v1/topics/{topic}/trim");
            let operator = &operator;
            async move { operator.ask(Method::POST, &path, body).await }
        };
        assert_eq!(post(r#"{"name":"last","partitions":1,"compact":true}"#).await.status(), 200);
        for (answer, status, code) in [
            (post("{}").await, 400, "invalid_request"),
            (post(r#"{"name":"A b","partitions":1}"#).await, 400, "invalid_request"),
            (post(r#"{"name":"_mine","partitions":1}"#).await, 409, "protected"),
            (post(r#"{"name":"raw","partitions":9}"#).await, 409, "exists"),
            (post(r#"{"name":"x","partitions":0}"#).await, 400, "invalid_request"),
            (operator.ask(Method::DELETE, "/v1/topics/raw", "").await, 409, "protected"),
            (operator.ask(Method::DELETE, "/v1/topics/gone", "").await, 404, "not_found"),
            (operator.ask(Method::PUT, "/v1/topics", "").await, 405, "method_not_allowed"),
            (patch("gone", "{}").await, 404, "not_found"),
            (patch("_catalog", "{}").await, 409, "protected"),
            (patch("raw", r#"{"maxAge":"soon"}"#).await, 400, "invalid_request"),
            (patch("raw", r#"{"max":1}"#).await, 400, "invalid_request"),
            (patch("raw", r#"{"whenFull":"drop"}"#).await, 400, "invalid_request"),
            (trim("gone", r#"{"before":"1"}"#).await, 404, "not_found"),
            (trim("_catalog", r#"{"before":"1"}"#).await, 409, "protected"),
            (trim("last", r#"{"before":"0"}"#).await, 409, "protected"),
            (trim("raw", r#"{"before":"soon"}"#).await, 400, "invalid_request"),
            (trim("raw", r#"{"partition":1}"#).await, 400, "invalid_request"),
            (trim("raw", r#"{"before":"0","partition":2}"#).await, 404, "not_found"),
            (trim("raw", r#"{"before":"1"}"#).await, 416, "out_of_range"),
            (operator.ask(Method::GET, "/v1/topics/no/events", "").await, 404, "not_found"),
            (
                operator.ask(Method::GET, "/v1/topics/raw/events?from=9", "").await,
                416,
                "out_of_range",
            ),
            (
                operator.ask(Method::GET, "/v1/topics/raw/events?partition=2", "").await,
                404,
                "not_found",
            ),
            (
                operator.ask(Method::GET, "/v1/topics/raw/events?form=1", "").await,
                400,
                "invalid_request",
            ),
            (
                operator.ask(Method::GET, "/v1/topics/raw/events?to=1&follow", "").await,
                400,
                "invalid_request",
            ),
            (operator.ask(Method::GET, "/metrics", "").await, 503, "unavailable"),
        ] {
            let (is, body) = read(answer).await;
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((is, body["code"].as_str()), (status, Some(code)), "{body}");
            assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()));
        }
    });
}

#[test]
fn a_method_that_a_path_does_not_take_is_answered_with_those_that_it_takes() {
    block_on(async {
        let operator = Operator::new().await;
        let answer = operator.ask(Method::PATCH, "/v1/topics", "").await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["allow"]),
            (405, &"GET, POST".parse().unwrap())
        );
    });
}

#[test]
fn records_are_streamed_in_order_and_resumed_by_offset() {
    block_on(async {
        let operator = Operator::new().await;
        for time in 0..400 {
            operator.rig.append(time, &[named(0, "a"), named(1, "b")]).await;
        }
        let response = operator.ask(Method::GET, "/v1/topics/raw/events", "").await;
        assert_eq!(response.headers()[RECORDS_HEADER], "800");
        let (_, all) = read(response).await;
        let all = places(all.as_bytes());
        assert_eq!((all.len(), &*all[0], &*all[799]), (800, "a@0:0", "b@1:399"));
        let (_, rest) = operator.get("/v1/topics/raw/events?partition=1&from=398").await;
        assert_eq!(places(rest.as_bytes()), ["b@1:398", "b@1:399"]);
        let (_, few) = operator.get("/v1/topics/raw/events?limit=3&event=b").await;
        assert_eq!(places(few.as_bytes()), ["b@1:0", "b@1:1", "b@1:2"]);
    });
}

#[test]
fn what_is_gone_is_told_between_the_lines() {
    block_on(async {
        let operator = Operator::new().await;
        for time in [1, 2, 3] {
            operator.rig.append(time, &[named(0, "a")]).await;
        }
        let topic = operator.rig.log.topic("raw").unwrap();
        let before = tracklog_protocol::Offset(2);
        operator.rig.log.trim(topic.partition(0), before).await.unwrap();
        let (_, lines) = operator.get("/v1/topics/raw/events?from=0").await;
        let told = lines.lines().find(|line| line.starts_with("{\"notice\":")).unwrap();
        assert!(told.contains("raw/0 begins at offset 2"), "{told}");
        assert_eq!(lines.lines().count(), 2);
    });
}

#[test]
fn a_stream_that_follows_ends_when_the_node_stops() {
    block_on(async {
        let operator = Operator::new().await;
        operator.rig.append(1, &[named(0, "a")]).await;
        let target = "/v1/topics/raw/events?follow=true";
        let response = operator.ask(Method::GET, target, "").await;
        let Content::Streaming { mut body, endless } = response.into_body() else {
            panic!("records are streamed");
        };
        assert!(endless);
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(places(&first), ["a@0:0"]);
        let waits = tokio::time::timeout(Duration::from_millis(20), body.frame()).await;
        assert!(waits.is_err(), "it goes on");
        let none_left = operator.admin.streams_ended();
        assert!(tokio::time::timeout(Duration::from_millis(20), none_left).await.is_err());
        operator.stop.send_replace(true);
        assert!(body.frame().await.is_none(), "it ends cleanly");
        drop(body);
        operator.admin.streams_ended().await;
    });
}

/// The groups of the operator's log, of which nobody is a member.
async fn with_groups(operator: &Operator) -> Arc<Groups<dyn Log>> {
    let log = Arc::clone(&operator.rig.log) as Arc<dyn Log>;
    let groups = crate::groups::open(log).await.unwrap();
    operator.admin.set_groups(Arc::clone(&groups));
    groups
}

#[test]
fn groups_are_listed_described_reset_and_deleted() {
    block_on(async {
        let operator = Operator::new().await;
        let groups = with_groups(&operator).await;
        let topic = operator.rig.topic.clone();
        let name = GroupName::new("g").unwrap();
        let member = groups.join(&name, "m", vec![topic.clone()], Start::Earliest).await.unwrap();

        let (status, body) = operator.get("/v1/groups").await;
        let listed: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &listed["groups"][0]["group"]), (200, &"g".into()), "{body}");
        assert_eq!(listed["groups"][0]["members"], 1);
        let (status, body) = operator.get("/v1/groups/g").await;
        let described: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &described["partitions"][1]["member"]), (200, &"m".into()), "{body}");

        let to = format!("{{\"topic\":\"{}\",\"to\":\"latest\"}}", topic.name());
        let reset =
            async || read(operator.ask(Method::POST, "/v1/groups/g/reset", &to).await).await;
        let delete = async || read(operator.ask(Method::DELETE, "/v1/groups/g", "").await).await;
        for (status, body) in [reset().await, delete().await] {
            assert_eq!(status, 409, "{body}");
            assert!(body.contains("\"code\":\"in_use\""), "{body}");
        }
        member.leave().await.unwrap();
        let (status, body) = reset().await;
        assert_eq!(status, 200, "{body}");
        let places: crate::groups::PlacesAfter = serde_json::from_str(&body).unwrap();
        assert_eq!(places.partitions.len(), topic.partitions().len());
        assert_eq!(delete().await, (200, "{\"success\":true}\n".to_owned()));
        assert_eq!(delete().await.0, 404);
    });
}

#[test]
fn what_is_no_group_or_no_place_is_refused() {
    block_on(async {
        let operator = Operator::new().await;
        assert_eq!(operator.get("/v1/groups").await.0, 503, "the node is starting");
        with_groups(&operator).await;
        assert_eq!(operator.get("/v1/groups/nobody").await.0, 404);
        assert_eq!(operator.get("/v1/groups/No%20body").await.0, 400);
        assert_eq!(operator.get("/v1/groups/g/reset").await.0, 405);
        for body in ["", "{\"topic\":\"t\"}", "{\"topic\":\"t\",\"to\":\"yesterday\"}"] {
            let answer = operator.ask(Method::POST, "/v1/groups/g/reset", body).await;
            assert_eq!(answer.status(), 400, "{body}");
        }
    });
}
