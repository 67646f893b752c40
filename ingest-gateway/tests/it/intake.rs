//! From a body to records: what each door makes of what clients send.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use proptest::prelude::*;
use serde_json::{Value, json};
use tracklog_ingest_gateway::intake::rows::{Row, RowContent, Zoneless};
use tracklog_ingest_gateway::intake::{Door, Intake, NoSchemas, RequestFacts, Validate};
use tracklog_ingest_gateway::rejection::Code;
use tracklog_ingest_gateway::scan::ScanLimits;
use tracklog_ingest_gateway::source::{HmacKey, IpRule, SourceRules, UnknownEvents, UserIdRule};
use tracklog_protocol::TimeMicros;
use tracklog_protocol::event::{EventFlags, EventKind, EventView, Property};
use tracklog_protocol::rejected::RejectedView;
use tracklog_registry::Verdict;

use crate::sending::{RECEIVED, Sending, TRACK, track, track_with};

fn rejected(body: &str) -> (String, Option<String>) {
    Sending::default().rejected(TRACK, body)
}

fn refusal(code: &str, pointer: &str) -> (String, Option<String>) {
    (code.to_owned(), (!pointer.is_empty()).then(|| pointer.to_owned()))
}

/// Properties that come out as they went in, token by token.
#[test]
fn properties_keep_every_token() {
    for properties in [
        r#"{"order":9007199254740993,"max":9223372036854775807,"u":18446744073709551615}"#,
        r#"{"price":10.00,"weight":136.0,"rate":0.10,"neg":-0,"tiny":1e-400}"#,
        r#"{"nul":"\u0000","half":"a\u0000b"}"#,
        "{\"t\":\"👨‍👩‍👧 \u{202e}evil\u{202c} \u{2028} Ж\",\"k\":\"ée\u{301}\"}",
        r#"{"a.b":1,"a":{"b":2},"$set":{"x":1},"":0}"#,
        r#"{"__proto__":{"admin":true},"constructor":{"prototype":{"x":1}}}"#,
        r#"{"coupon":null,"list":[],"obj":{},"text":""}"#,
        r#"{"products":[{"id":1},"two",3,true,null,[4]]}"#,
        r#"{"a" : 1 ,  "list": [ 1, 2 ]}"#,
        "{}",
    ] {
        let sending = Sending::default();
        let seen = sending.send(TRACK, track("m1", properties)).unwrap();
        assert_eq!(seen.code(0), None);
        assert_eq!(seen.event(0).properties(), Some(properties));
        assert!(seen.line_text(0).contains(properties), "{properties}");
    }
}

#[test]
fn a_pretty_printed_event_is_stored_as_sent() {
    let properties = "{\n\t\"a\" : 1 ,\n  \"list\": [\n    1,\n    2\n  ]\n}";
    let seen = Sending::default().send(TRACK, track("m1", properties)).unwrap();
    assert_eq!(seen.event(0).properties(), Some(properties));
    assert_eq!(seen.line_text(0).trim_end().lines().count(), 1);
}

#[test]
fn properties_are_found_by_name_and_typed() {
    let properties =
        r#"{"price":12.50,"n\u0061me":"x\ny","tags":["a"],"deep":{"price":1},"ok":true,"no":null}"#;
    let seen = Sending::default().send(TRACK, track("m1", properties)).unwrap();
    let event = seen.event(0);
    assert!(matches!(event.property("price"), Some(Property::Number(n)) if n.token() == "12.50"));
    assert!(matches!(event.property("name"), Some(Property::String(_))));
    assert!(matches!(event.property("ok"), Some(Property::Bool(true))));
    assert!(matches!(event.property("no"), Some(Property::Null)));
    assert!(event.property("missing").is_none());
    assert_eq!(event.property_index().count(), 6);
}

#[test]
fn broken_tokens_are_refused_with_their_place() {
    for (properties, code, pointer) in [
        (r#"{"tiny":1e-400,"huge":1e400}"#, "number_range", "/properties/huge"),
        (r#"{"bio":"cut \ud83d here"}"#, "invalid_text", "/properties/bio"),
        (r#"{"qty":1,"qty":-1}"#, "duplicate_key", "/properties/qty"),
        (r#"{"v":NaN}"#, "invalid_json", "/properties/v"),
        (r#"{"v":"\u12"}"#, "invalid_json", "/properties/v"),
        ("{\"v\":\"a\tb\"}", "invalid_json", "/properties/v"),
    ] {
        let body = track("m1", properties);
        assert_eq!(rejected(&body), refusal(code, pointer), "{properties}");
        let seen = Sending::default().send(TRACK, &body).unwrap();
        assert_eq!(seen.line(0)["messageId"], "m1");
        assert_eq!(seen.line(0)["body"], Value::String(body));
    }
}

#[test]
fn bytes_that_are_no_utf_8_are_refused_and_kept() {
    let body = b"{\"type\":\"track\",\"event\":\"E\",\"userId\":\"u\",\"messageId\":\"m1\",\"properties\":{\"city\":\"Orl\xe9ans\"}}";
    assert_eq!(
        Sending::default().rejected(TRACK, body),
        refusal("invalid_text", "/properties/city")
    );
    let seen = Sending::default().send(TRACK, body).unwrap();
    let view = RejectedView::of(seen.records.get(0).unwrap()).unwrap();
    assert_eq!(view.body(), Some(&body[..]));
    assert_eq!(view.message_id(), Some("m1"));
}

#[test]
fn events_too_deep_or_too_large_are_bad_events() {
    let nested = |levels| format!("{{\"d\":{}1{}}}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(Sending::default().stored(TRACK, track("m1", &nested(20)))["messageId"], "m1");
    assert_eq!(Sending::default().stored(TRACK, track("m1", &nested(62)))["messageId"], "m1");
    for levels in [63, 3_000, 15_000] {
        assert_eq!(rejected(&track("m1", &nested(levels))).0, "too_deep");
    }
    let padded = |bytes| track("m1", &format!("{{\"pad\":\"{}\"}}", "x".repeat(bytes)));
    let envelope = padded(0).len();
    assert_eq!(Sending::default().stored(TRACK, padded(32_768 - envelope))["messageId"], "m1");
    assert_eq!(rejected(&padded(32_769 - envelope)), refusal("too_large", ""));
}

#[test]
fn a_source_may_have_smaller_limits_than_the_scan() {
    let mut sending = Sending::default();
    sending.source.limits = ScanLimits { event_bytes_max: 120, depth_max: 3, events_max: 2 };
    assert_eq!(sending.rejected(TRACK, track("m1", r#"{"a":[[1]]}"#)), refusal("too_deep", ""));
    let long = track("m1", &format!("{{\"a\":\"{}\"}}", "x".repeat(60)));
    assert_eq!(sending.rejected(TRACK, long), refusal("too_large", ""));
    let error = sending.send(Door::Events, "[{},{},{}]").err().unwrap();
    assert_eq!(error.flaw.code, Code::TooMany);
}

#[test]
fn ids_are_kept_whole_or_refused() {
    let with =
        |id: &str| format!(r#"{{"type":"track","event":"E","messageId":"m1","userId":{id}}}"#);
    let user = |id: &str| Sending::default().stored(TRACK, with(id))["userId"].clone();
    assert_eq!(user("4711"), "4711");
    assert_eq!(user("12345678901234567890123"), "12345678901234567890123");
    assert_eq!(user("1.50"), "1.50");
    assert_eq!(user(r#""a\u00e9\n""#), "aé\n");
    let long = "u".repeat(512);
    assert_eq!(user(&format!("\"{long}\"")), Value::String(long));
    let too_long = format!("\"{}\"", "v".repeat(513));
    for bad in ["true", "[]", "{}", r#""a\u0000b""#, &too_long] {
        assert_eq!(rejected(&with(bad)), refusal("invalid_id", "/userId"), "{bad}");
    }
}

#[test]
fn every_id_and_name_has_the_same_rules() {
    for field in ["messageId", "anonymousId", "previousId", "groupId"] {
        let body = format!(r#"{{"type":"track","event":"E","userId":"u","{field}":false}}"#);
        assert_eq!(rejected(&body), refusal("invalid_id", &format!("/{field}")));
        let body = format!(r#"{{"type":"track","event":"E","userId":"u","{field}":42}}"#);
        assert_eq!(Sending::default().stored(TRACK, body)[field], "42");
    }
    let named = |name: &str| format!(r#"{{"type":"track","event":{name},"userId":"u"}}"#);
    assert_eq!(rejected(&named("5")), refusal("invalid_id", "/event"));
    assert_eq!(rejected(&named(r#""\u0000""#)), refusal("invalid_id", "/event"));
    assert_eq!(
        rejected(&named(&format!("\"{}\"", "n".repeat(513)))),
        refusal("invalid_id", "/event")
    );
    let bad_session = track_with(r#","context":{"sessionId":true}"#);
    assert_eq!(rejected(&bad_session), refusal("invalid_id", "/context/sessionId"));
}

#[test]
fn null_and_empty_mean_absent() {
    let body = r#"{"type":"track","event":"E","userId":null,"messageId":"m1","anonymousId":"a1","context":null,"timestamp":"","sentAt":null,"properties":null,"integrations":null,"channel":null,"category":""}"#;
    let line = Sending::default().stored(TRACK, body);
    assert_eq!(line["anonymousId"], "a1");
    for absent in [
        "userId",
        "context",
        "properties",
        "integrations",
        "channel",
        "category",
        "sentAt",
        "extra",
    ] {
        assert!(line.get(absent).is_none(), "{absent}: {line}");
    }
    let body = r#"{"type":"track","event":"E","userId":"u1","anonymousId":""}"#;
    assert_eq!(Sending::default().stored(TRACK, body)["userId"], "u1");
}

#[test]
fn an_event_needs_a_user_and_a_track_a_name() {
    for ids in ["", r#","userId":"","anonymousId":"""#, r#","userId":null"#, r#","groupId":"g""#] {
        let body = format!(r#"{{"type":"track","event":"E","messageId":"m1"{ids}}}"#);
        assert_eq!(rejected(&body).0, "missing_id", "{ids}");
    }
    for name in ["", r#","event":"""#, r#","event":null"#, r#","name":"E""#] {
        let body = format!(r#"{{"type":"track","userId":"u"{name}}}"#);
        assert_eq!(rejected(&body), refusal("missing_name", "/event"), "{name}");
    }
    let alias = r#"{"type":"alias","messageId":"m1","anonymousId":"a1","previousId":"a0"}"#;
    let line = Sending::default().stored(Door::Single(EventKind::Alias), alias);
    assert_eq!((&line["type"], &line["previousId"]), (&json!("alias"), &json!("a0")));
}

#[test]
fn a_missing_message_id_is_made_and_flagged() {
    let event = r#"{"type":"track","event":"E","userId":"u"}"#;
    let seen =
        Sending::default().send(Door::Batch, format!("{{\"batch\":[{event},{event}]}}")).unwrap();
    let (first, second) = (seen.event(0), seen.event(1));
    assert_eq!(first.message_id(), "01010101-0101-4101-8101-010101010101");
    assert_ne!(first.message_id(), second.message_id());
    assert!(first.flags().contains(EventFlags::ID_MADE));
    let kept = Sending::default().send(TRACK, track("ajs-next-bebb1042", "{}")).unwrap();
    assert_eq!(kept.event(0).message_id(), "ajs-next-bebb1042");
    assert!(!kept.event(0).flags().contains(EventFlags::ID_MADE));
}

#[test]
fn the_kind_is_what_the_event_says_else_what_the_path_says() {
    for kind in EventKind::ALL {
        let body = r#"{"event":"E","userId":"u"}"#;
        let line = Sending::default().stored(Door::Single(kind), body);
        assert_eq!(line["type"], kind.as_str());
        let said = format!(r#"{{"type":"{kind}","event":"E","userId":"u"}}"#);
        assert_eq!(Sending::default().stored(TRACK, &said)["type"], kind.as_str());
        let merge = Sending::default().rejected(Door::Merge, &said);
        assert_eq!(merge, refusal("unknown_kind", "/type"));
    }
    for kind in [r#""Track""#, r#""merge""#, "5", "true"] {
        let body = format!(r#"{{"type":{kind},"event":"E","userId":"u"}}"#);
        assert_eq!(rejected(&body), refusal("unknown_kind", "/type"), "{kind}");
    }
    let untyped = Sending::default().send(Door::Events, r#"[{"event":"E","userId":"u"}]"#).unwrap();
    assert_eq!(untyped.verdicts(), ["unknown_kind"]);
}

#[test]
fn times_are_read_and_kept_as_said() {
    for (said, time) in [
        ("1732500000", "2024-11-25T02:00:00.000000Z"),
        ("1732500000.25", "2024-11-25T02:00:00.250000Z"),
        (r#""2026-11-24T09:15:00.5+05:45""#, "2026-11-24T03:30:00.500000Z"),
        (r#""2026-10-25T01:00:30+0800""#, "2026-10-24T17:00:30.000000Z"),
        (r#""2026-11-24T03:30:00.123456789Z""#, "2026-11-24T03:30:00.123456Z"),
        (r#""2024-02-29T23:59:59.999999Z""#, "2024-02-29T23:59:59.999999Z"),
        (r#""2016-12-31T23:59:60Z""#, "2017-01-01T00:00:00.000000Z"),
        (r#""0027-06-27T08:23:48+03:00""#, "0027-06-27T05:23:48.000000Z"),
        (r#""1732500000123""#, "2024-11-25T02:00:00.123000Z"),
    ] {
        let body = track_with(&format!(",\"timestamp\":{said}"));
        let seen = Sending::default().send(TRACK, body).unwrap();
        assert_eq!(seen.line(0)["timestamp"], time, "{said}");
        assert_eq!(seen.event(0).client_time_text(), Some(said.trim_matches('"')));
        let is_bare = seen.event(0).flags().contains(EventFlags::CLIENT_TIME_BARE);
        assert_eq!(is_bare, !said.starts_with('"'));
    }
}

#[test]
fn times_that_are_none_are_refused() {
    for said in [
        r#""2023-02-29T12:00:00Z""#,
        r#""10013-12-10T01:09:46.708Z""#,
        r#""༢༠༢༦-11-17T08:12:10+08:00""#,
        r#""yesterday""#,
        "1e15",
        "true",
        "{}",
    ] {
        let body = track_with(&format!(",\"timestamp\":{said}"));
        assert_eq!(rejected(&body), refusal("invalid_time", "/timestamp"), "{said}");
        let body = track_with(&format!(",\"originalTimestamp\":{said}"));
        assert_eq!(rejected(&body), refusal("invalid_time", "/originalTimestamp"), "{said}");
    }
}

/// Seconds from the receipt to the event's time, and the flags.
fn when(door: Door, body: &str) -> (f64, EventFlags) {
    let seen = Sending::default().send(door, body).unwrap();
    let event = seen.event(0);
    #[expect(clippy::cast_precision_loss, reason = "spans of days")]
    let seconds = (event.event_time().0 - RECEIVED.0) as f64 / 1e6;
    (seconds, event.flags())
}

#[test]
fn skew_is_corrected_by_the_sent_time() {
    // Received at 2026-11-25T09:00:00Z.
    let body = track_with(r#","timestamp":"2026-11-25T10:59:55Z","sentAt":"2026-11-25T11:00:00Z""#);
    assert_eq!(when(TRACK, &body), (-5.0, EventFlags::SKEW_CORRECTED));
    let body = track_with(r#","timestamp":"2026-11-15T09:00:00Z""#);
    assert_eq!(when(TRACK, &body), (-864_000.0, EventFlags::TIME_DECLARED));
    let body = track_with(
        r#","originalTimestamp":"2026-11-25T08:00:00Z","sentAt":"2026-11-25T08:00:01Z""#,
    );
    assert_eq!(when(TRACK, &body), (-1.0, EventFlags::SKEW_CORRECTED));
    let body =
        track_with(r#","timestamp":"2026-11-25T09:00:00Z","sentAt":"9999-05-28T13:13:23.260Z""#);
    assert_eq!(when(TRACK, &body), (0.0, EventFlags::TIME_OUT_OF_RANGE));
    let body = track_with(r#","timestamp":"2026-11-25T09:00:00Z","sentAt":"2026-11-25T08:59:59Z""#);
    assert_eq!(when(TRACK, &body), (0.0, EventFlags::SENT_BEFORE_EVENT));
    let body = track_with(r#","timestamp":"2026-11-25T08:59:00Z","sentAt":"soon""#);
    assert_eq!(when(TRACK, &body), (-60.0, EventFlags::SENT_TIME_UNUSABLE));
    assert_eq!(when(TRACK, &track_with("")), (0.0, EventFlags::TIME_GUESSED));
    let unusable = EventFlags::SENT_TIME_UNUSABLE | EventFlags::SENT_TIME_BARE;
    let body = track_with(r#","timestamp":"2026-11-25T08:59:00Z","sentAt":[1]"#);
    assert_eq!(when(TRACK, &body), (-60.0, unusable));
}

#[test]
fn a_batch_says_when_it_was_sent_for_all_its_events() {
    let event =
        track_with(r#","timestamp":"2026-11-25T08:58:25Z","sentAt":"2001-01-01T00:00:00Z""#);
    let body = format!(r#"{{"batch":[{event}],"sentAt":"2026-11-25T08:59:30Z"}}"#);
    assert_eq!(when(Door::Batch, &body), (-65.0, EventFlags::SKEW_CORRECTED));
    let line = Sending::default().stored(Door::Batch, &body);
    assert_eq!(line["sentAt"], "2026-11-25T08:59:30Z");
    assert_eq!(line["extra"], json!({"sentAt": "2001-01-01T00:00:00Z"}));
    assert_eq!(when(Door::Import, &body), (-95.0, EventFlags::TIME_DECLARED));
    let bad = body.replace("2026-11-25T08:59:30Z", "never");
    assert_eq!(when(Door::Batch, &bad), (-95.0, EventFlags::SENT_TIME_UNUSABLE));
    let root = format!(r#"{{"batch":[{}],"timestamp":"2026-11-25T08:00:00Z"}}"#, track_with(""));
    assert_eq!(when(Door::Batch, &root), (-3600.0, EventFlags::TIME_DECLARED));
}

#[test]
fn gaps_and_order_of_a_batch_stay() {
    let at = |time: &str| track_with(&format!(r#","timestamp":"2026-11-25T08:58:{time}Z""#));
    let body =
        format!(r#"{{"sentAt":"2026-11-25T08:59:30Z","batch":[{},{}]}}"#, at("25"), at("26.5"));
    let seen = Sending::default().send(Door::Batch, body).unwrap();
    let gap = seen.event(1).event_time().0 - seen.event(0).event_time().0;
    assert_eq!(gap, 1_500_000);
}

#[test]
fn fields_without_a_place_come_out_as_extra_in_their_order() {
    let line = Sending::default()
        .send(TRACK, track_with(
            r#","zeta": 1.0,"originalTimestamp":"2026-11-20T10:00:00Z","timestamp":"2026-11-20T10:00:00Z","_metadata":{"nodeVersion":"v20"},"requestKey":"r1","name":"other","no":null,"writeKey":"secret","properties":[],"channel":7,"t\u0079pe2":[]"#,
        ))
        .unwrap();
    let extra = r#"{"zeta":1.0,"originalTimestamp":"2026-11-20T10:00:00Z","_metadata":{"nodeVersion":"v20"},"requestKey":"r1","name":"other","no":null,"properties":[],"channel":7,"t\u0079pe2":[]}"#;
    assert_eq!(line.event(0).extra(), Some(extra));
    assert!(!line.line_text(0).contains("secret"));
    assert_eq!(line.event(0).properties(), None);
}

#[test]
fn a_write_key_is_never_stored_however_it_is_spelt() {
    for body in [
        track_with(r#","writeKey":"secret""#),
        track_with(r#","write\u004bey":"secret""#),
        track_with(r#","writeKey":{"secret":1}"#),
    ] {
        let seen = Sending::default().send(TRACK, body).unwrap();
        assert!(!seen.line_text(0).contains("secret"));
    }
}

#[test]
fn write_keys_are_readable_before_the_source_is_known() {
    let mut intake = Intake::new();
    let mut keys = |door, body: &str| {
        let submission = intake.scan(body.as_bytes(), door, &ScanLimits::default()).unwrap();
        (submission.root_write_key(), submission.event_write_key())
    };
    let key = |key: &str| Some(key.to_owned());
    assert_eq!(keys(TRACK, r#"{"writeKey":"k\u0031"}"#), (key("k1"), key("k1")));
    assert_eq!(keys(Door::Batch, r#"{"batch":[],"writeKey":"k"}"#), (key("k"), None));
    let both = r#"{"writeKey":"r","batch":[{},{"writeKey":"e"}]}"#;
    assert_eq!(keys(Door::Batch, both), (key("r"), key("e")));
    assert_eq!(keys(Door::Events, r#"[{"writeKey":""},{"writeKey":"e"}]"#), (None, key("e")));
    assert_eq!(keys(Door::Events, "{\"writeKey\":\"e\"}\n{}"), (None, key("e")));
    assert_eq!(keys(Door::Batch, r#"{"batch":[],"writeKey":5}"#), (None, None));
    // A flawed event still shows its key.
    assert_eq!(keys(TRACK, r#"{"a":1,"a":2,"writeKey":"k"}"#), (key("k"), key("k")));
}

#[test]
fn context_facts_have_places_and_the_context_stays_as_sent() {
    let context = r#"{"library":{"name":"analytics.js","version":"next-1.84.3"},"page":{"url":"https://e.example/p?q=1","path":"/p","referrer":"https://r.example/","title":"T \u00e9","search":"?q=1"},"locale":"de-DE","userAgent":"Agent/1","sessionId":1767322800000,"sessionStart":true,"ip":"198.51.100.7"}"#;
    let body = track_with(&format!(
        r#","context":{context},"channel":"web","category":"shop","groupId":"g","integrations":{{"All":true}}"#
    ));
    let sending = Sending { user_agent: Some("Header/1"), ..Sending::default() };
    let seen = sending.send(TRACK, body).unwrap();
    let event = seen.event(0);
    assert_eq!(event.context(), Some(context));
    assert_eq!(event.library_name(), Some("analytics.js"));
    assert_eq!(event.library_version(), Some("next-1.84.3"));
    assert_eq!(event.page_url(), Some("https://e.example/p?q=1"));
    assert_eq!(event.page_path(), Some("/p"));
    assert_eq!(event.page_referrer(), Some("https://r.example/"));
    assert_eq!(event.page_title(), Some("T é"));
    assert_eq!(event.locale(), Some("de-DE"));
    assert_eq!(event.user_agent(), Some("Agent/1"));
    assert_eq!(event.session_id(), Some("1767322800000"));
    assert_eq!(event.client_address(), Some("203.0.113.9"), "the request's");
    assert_eq!(event.peer_address(), Some("192.0.2.7"));
    assert_eq!(event.channel(), Some("web"));
    assert_eq!(event.category(), Some("shop"));
    assert_eq!(event.group_id(), Some("g"));
    assert_eq!(event.integrations(), Some(r#"{"All":true}"#));
    assert_eq!(event.extra(), None);
    assert_eq!(event.source(), Some("shop"));
    assert_eq!(event.flags(), EventFlags::TIME_GUESSED);
}

#[test]
fn what_the_request_knows_is_kept_with_the_event() {
    let sending = Sending {
        user_agent: Some("curl/8 [FB_IAB/FB4A;] t=/aGk+=="),
        headers: vec![("accept-language", "de"), ("dnt", "1")],
        ..Sending::default()
    };
    let seen = sending.send(TRACK, track_with("")).unwrap();
    let event = seen.event(0);
    assert_eq!(event.user_agent(), sending.user_agent);
    let headers: Vec<_> = event.headers().collect();
    assert_eq!(headers, [("accept-language", "de"), ("dnt", "1")]);
    assert_eq!(event.received_time(), RECEIVED);
}

#[test]
fn page_calls_take_their_page_from_properties_where_the_context_has_none() {
    let properties =
        r#""properties":{"url":"https://e.example/","title":"T","path":"/","referrer":""}"#;
    let body = format!(r#"{{"name":"Home","userId":"u",{properties}}}"#);
    let page = Sending::default().stored(Door::Single(EventKind::Page), &body);
    assert_eq!(page["event"], "Home");
    let seen = Sending::default().send(Door::Single(EventKind::Page), &body).unwrap();
    assert_eq!(seen.event(0).page_url(), Some("https://e.example/"));
    assert_eq!(seen.event(0).page_referrer(), None);
    let seen = Sending::default().send(TRACK, track_with(&format!(",{properties}"))).unwrap();
    assert_eq!(seen.event(0).page_url(), None, "a product's url is no page");
}

#[test]
fn what_is_said_of_the_user_s_address_stays_in_the_context_and_the_request_s_is_kept_beside() {
    let library = r#""library":{"name":"@segment/analytics-node","version":"3.1.0"}"#;
    for (fields, context) in [
        (String::new(), None),
        (r#","channel":"server""#.to_owned(), None),
        (r#","channel":"web""#.to_owned(), None),
        (format!(r#","context":{{{library}}}"#), Some(format!("{{{library}}}"))),
        (
            format!(r#","context":{{"ip":"198.51.100.7",{library}}}"#),
            Some(format!(r#"{{"ip":"198.51.100.7",{library}}}"#)),
        ),
        (r#","context":{"ip":"home"}"#.to_owned(), Some(r#"{"ip":"home"}"#.to_owned())),
    ] {
        let seen = Sending::default().send(TRACK, track_with(&fields)).unwrap();
        let event = seen.event(0);
        let addresses = (event.peer_address(), event.client_address());
        assert_eq!(addresses, (Some("192.0.2.7"), Some("203.0.113.9")), "{fields}");
        assert_eq!(event.context(), context.as_deref());
    }
}

#[test]
fn traits_are_at_the_top_or_in_the_context_of_an_identify() {
    let context =
        r#"{"traits":{"email":"a@example.com","plan":null},"library":{"name":"x","version":"1"}}"#;
    let body = format!(r#"{{"userId":"u","context":{context}}}"#);
    let seen = Sending::default().send(Door::Single(EventKind::Identify), &body).unwrap();
    assert_eq!(seen.event(0).context(), Some(context));
    assert_eq!(seen.event(0).traits(), Some(r#"{"email":"a@example.com","plan":null}"#));
    let both = body.replacen('{', r#"{"traits":{"a":1},"#, 1);
    let seen = Sending::default().send(Door::Single(EventKind::Identify), both).unwrap();
    assert_eq!(seen.event(0).traits(), Some(r#"{"a":1}"#));
    let seen =
        Sending::default().send(TRACK, track_with(&format!(r#","context":{context}"#))).unwrap();
    assert_eq!(seen.event(0).traits(), None, "every later event repeats them");
}

#[test]
fn a_batchs_context_lies_under_each_events_own() {
    let own = track_with(r#","context":{"page":{"path":"/p"},"l\u0069brary":{"name":"own"}}"#);
    let none = track_with("");
    let body = format!(
        r#"{{"context":{{"library":{{"name":"batch"}},"locale":"fr"}},"integrations":{{"All":false}},"batch":[{own},{none}]}}"#
    );
    let seen = Sending::default().send(Door::Batch, body).unwrap();
    assert_eq!(
        seen.event(0).context(),
        Some(r#"{"page":{"path":"/p"},"l\u0069brary":{"name":"own"},"locale":"fr"}"#)
    );
    assert_eq!(seen.event(0).library_name(), Some("own"));
    assert_eq!(seen.event(0).locale(), Some("fr"));
    assert_eq!(seen.event(1).library_name(), Some("batch"));
    assert_eq!(seen.event(1).integrations(), Some(r#"{"All":false}"#));
    assert!(seen.event(1).flags().contains(EventFlags::ROOT_MERGED));
}

#[test]
fn a_batchs_context_cannot_blow_up_its_events() {
    let context = format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20));
    let events = vec!["{}"; 100].join(",");
    let body = format!("{{\"context\":{context},\"batch\":[{events}]}}");
    let error = Sending::default().send(Door::Batch, body).err().unwrap();
    assert_eq!(error.flaw.code, Code::TooLarge);
}

#[test]
fn user_ids_are_hashed_with_all_their_copies() {
    let mut sending = Sending::default();
    let key = HmacKey::new(b"privacy");
    let (seven, old) = (key.hex_of("7"), key.hex_of("old"));
    sending.source.user_id = UserIdRule::Hmac(key);
    let body = r#"{"type":"alias","userId":7,"previousId":"old","messageId":"m1","context":{"userId":"7","traits":{"id":7,"was":"old"},"screen":{"density":7}},"backup":["7"],"properties":{"n":7}}"#;
    let seen = sending.send(TRACK, body).unwrap();
    let event = seen.event(0);
    assert_eq!(event.user_id(), Some(&*seven));
    assert_eq!(event.previous_id(), Some(&*old));
    let context = format!(
        r#"{{"userId":"{seven}","traits":{{"id":"{seven}","was":"{old}"}},"screen":{{"density":7}}}}"#
    );
    assert_eq!(event.context(), Some(&*context));
    assert_eq!(event.extra(), Some(&*format!(r#"{{"backup":["{seven}"]}}"#)));
    assert_eq!(seen.keys[0], seven, "the partition key is the stored form");
    assert!(event.flags().contains(EventFlags::USER_ID_HASHED));

    let identify = r#"{"type":"identify","userId":"7","context":{"traits":{"userId":"7"}}}"#;
    let seen = sending.send(TRACK, identify).unwrap();
    assert_eq!(seen.event(0).traits(), Some(&*format!(r#"{{"userId":"{seven}"}}"#)));

    let bad = sending.send(TRACK, r#"{"type":"track","userId":"7","messageId":"m1"}"#).unwrap();
    let view = RejectedView::of(bad.records.get(0).unwrap()).unwrap();
    assert_eq!((view.body(), view.message_id()), (None, Some("m1")));
    assert_eq!(bad.keys[0], seven);
}

#[test]
fn addresses_are_cut_or_dropped_everywhere() {
    let body = track_with(r#","channel":"web","context":{"ip":"198.51.100.7","os":"x"}"#);
    let mut sending = Sending::default();
    sending.source.ip = IpRule::Truncate;
    let seen = sending.send(TRACK, &body).unwrap();
    let event = seen.event(0);
    assert_eq!(event.peer_address(), Some("192.0.2.0"));
    assert_eq!(event.client_address(), Some("203.0.113.0"));
    assert_eq!(event.context(), Some(r#"{"ip":"198.51.100.0","os":"x"}"#));
    assert!(event.flags().contains(EventFlags::ADDRESS_TRUNCATED));
    sending.source.ip = IpRule::Drop;
    let seen = sending.send(TRACK, &body).unwrap();
    let event = seen.event(0);
    assert_eq!((event.peer_address(), event.client_address()), (None, None));
    assert_eq!(event.context(), Some(r#"{"os":"x"}"#));
    let rejected = sending.send(TRACK, "{}").unwrap();
    let view = RejectedView::of(rejected.records.get(0).unwrap()).unwrap();
    assert_eq!((view.peer_address(), view.client_address(), view.body()), (None, None, None));
}

#[test]
fn a_source_can_require_fields() {
    for (field, missing, given) in [
        ("session", "/context/sessionId", r#","context":{"sessionId":"s"}"#),
        ("timestamp", "/timestamp", r#","timestamp":"2026-11-25T00:00:00Z""#),
        ("anonymousId", "/anonymousId", r#","anonymousId":"a""#),
        ("sentAt", "/sentAt", r#","sentAt":"2026-11-25T00:00:00Z""#),
        ("groupId", "/groupId", r#","groupId":"g""#),
        ("context", "/context", r#","context":{}"#),
        ("properties", "/properties", r#","properties":{}"#),
    ] {
        let mut sending = Sending::default();
        sending.source.require = vec![field.parse().unwrap()];
        let refused = sending.rejected(TRACK, track_with(""));
        assert_eq!(refused, refusal("missing_field", missing));
        assert_eq!(sending.stored(TRACK, track_with(given))["messageId"], "m1");
    }
}

/// A registry with one event and one version, which asks for an `ok`.
struct AsksForOk(&'static str);

impl Validate for AsksForOk {
    fn validate(&self, name: &str, version: Option<u32>, payload: &str) -> Verdict {
        let payload: Value = serde_json::from_str(payload).unwrap();
        match (name == self.0, version.unwrap_or(2)) {
            (false, _) => Verdict::UnknownEvent,
            (true, 2) if payload["ok"] == true => Verdict::Valid { version: 2 },
            (true, 2) => Verdict::Invalid {
                version: 2,
                violation: tracklog_registry::Violation {
                    pointer: "/ok".to_owned(),
                    keyword: "const".to_owned(),
                    message: "it must be true".to_owned(),
                },
            },
            (true, _) => Verdict::UnknownVersion,
        }
    }
}

fn asking(name: &'static str) -> Sending {
    Sending { schemas: Box::new(AsksForOk(name)), ..Sending::default() }
}

#[test]
fn payloads_are_held_against_their_schema() {
    let sending = asking("Tried");
    let seen = sending.send(TRACK, track("m1", r#"{"ok":true}"#)).unwrap();
    assert_eq!(seen.event(0).schema_version(), Some(2));
    assert_eq!(
        sending.rejected(TRACK, track("m1", r#"{"ok":false}"#)),
        refusal("schema", "/properties/ok")
    );
    assert_eq!(sending.rejected(TRACK, track_with("")), refusal("schema", "/properties/ok"));
    let versioned = |version: &str| {
        track_with(&format!(
            r#","properties":{{"ok":true}},"context":{{"protocols":{{"event_version":{version}}}}}"#
        ))
    };
    assert_eq!(sending.stored(TRACK, versioned("2"))["messageId"], "m1");
    assert_eq!(sending.stored(TRACK, versioned("\"2\""))["messageId"], "m1");
    let unknown = refusal("schema", "/context/protocols/event_version");
    for version in ["3", "0", "\"3\"", "4294967296", "99999999999999999999"] {
        assert_eq!(sending.rejected(TRACK, versioned(version)), unknown, "{version}");
    }
    for version in ["null", "1.5", "-1", "\"\"", "\"1.0.0\"", "{}", "[2]"] {
        let stored = sending.stored(TRACK, versioned(version));
        assert_eq!(stored["messageId"], "m1", "{version} is no whole number: the newest counts");
    }
}

#[test]
fn identify_and_group_are_held_against_a_schema_of_their_traits() {
    let sending = asking("$identify");
    let door = Door::Single(EventKind::Identify);
    assert_eq!(sending.stored(door, r#"{"userId":"u","traits":{"ok":true}}"#)["userId"], "u");
    let bad = sending.rejected(door, r#"{"userId":"u","traits":{}}"#);
    assert_eq!(bad, refusal("schema", "/traits/ok"));
    let bad = sending.rejected(door, r#"{"userId":"u","context":{"traits":{"ok":1}}}"#);
    assert_eq!(bad, refusal("schema", "/context/traits/ok"));
    for (name, kind) in [
        ("$page", EventKind::Page),
        ("$screen", EventKind::Screen),
        ("$group", EventKind::Group),
        ("$alias", EventKind::Alias),
    ] {
        let refused = asking(name).rejected(Door::Single(kind), r#"{"userId":"u"}"#);
        assert_eq!(refused.0, "schema", "{name}");
    }
    let named = r#"{"userId":"u","name":"Home"}"#;
    assert_eq!(asking("Home").rejected(Door::Single(EventKind::Page), named).0, "schema");
}

#[test]
fn a_source_can_refuse_events_without_a_schema() {
    let mut sending = asking("Known");
    assert_eq!(sending.stored(TRACK, track("m1", "{}"))["messageId"], "m1");
    sending.source.unknown_events = UnknownEvents::Reject;
    assert_eq!(sending.rejected(TRACK, track("m1", "{}")), refusal("unknown_event", ""));
}

#[test]
fn one_bad_event_costs_no_other() {
    let good = |n: u32| track(&format!("m{n}"), "{}");
    let nameless = r#"{"type":"track","userId":"u","messageId":"m3"}"#;
    let batch =
        format!(r#"{{"batch":[{},{},{nameless},{},null,{}]}}"#, good(1), good(2), good(4), good(6));
    let seen = Sending::default().send(Door::Batch, batch).unwrap();
    let verdicts = ["stored", "stored", "missing_name", "stored", "invalid_json", "stored"];
    assert_eq!(seen.verdicts(), verdicts);
    assert_eq!(seen.line(2)["body"], nameless);

    let lines = [
        good(1),
        track("m2", r#"{"q":1,"q":2}"#),
        track("m3", r#"{"t":"\udc00"}"#),
        track("m4", r#"{"n":1e400}"#),
        format!("{}{}", good(5), good(6)),
        String::new(),
        good(7),
    ];
    let seen = Sending::default().send(Door::Events, lines.join("\r\n")).unwrap();
    let verdicts =
        ["stored", "duplicate_key", "invalid_text", "number_range", "invalid_json", "stored"];
    assert_eq!(seen.verdicts(), verdicts);
    assert_eq!(seen.line(4)["body"], Value::String(lines[4].clone()));
}

#[test]
fn a_large_event_between_two_is_the_only_one_refused() {
    let large = track("m2", &format!("{{\"pad\":\"{}\"}}", "x".repeat(50_000)));
    let body = format!("[{},{large},{}]", track("m1", "{}"), track("m3", "{}"));
    let seen = Sending::default().send(Door::Events, body).unwrap();
    assert_eq!(seen.verdicts(), ["stored", "too_large", "stored"]);
    let view = RejectedView::of(seen.records.get(1).unwrap()).unwrap();
    assert_eq!(view.full_length(), large.len() as u64);
    assert_eq!(view.message_id(), Some("m2"));
}

#[test]
fn of_a_very_large_event_the_first_64_kib_are_kept() {
    let large = track("m1", &format!("{{\"pad\":\"{}\"}}", "x".repeat(100_000)));
    let seen = Sending::default().send(TRACK, &large).unwrap();
    let view = RejectedView::of(seen.records.get(0).unwrap()).unwrap();
    assert_eq!(view.body().unwrap(), &large.as_bytes()[..65_536]);
}

#[test]
fn empty_batches_are_good() {
    for (door, body) in
        [(Door::Batch, r#"{"batch":[]}"#), (Door::Events, "[]"), (Door::Events, "\u{feff}[ ]")]
    {
        assert!(Sending::default().send(door, body).unwrap().records.is_empty());
    }
}

#[test]
fn rejected_events_are_partitioned_by_their_key_or_their_bytes() {
    let sending = Sending::default();
    let seen = sending.send(TRACK, r#"{"type":"track","anonymousId":"a1","userId":"u1"}"#).unwrap();
    assert_eq!(seen.keys, ["a1"]);
    let seen = sending.send(TRACK, r#"{"type":"track","userId":"u1"}"#).unwrap();
    assert_eq!(seen.keys, ["u1"]);
    let seen = sending.send(TRACK, r#"{"x":1}"#).unwrap();
    assert_eq!(seen.keys, [r#"{"x":1}"#]);
    let seen = sending
        .send(TRACK, r#"{"type":"track","event":"E","anonymousId":"a1","userId":"u1"}"#)
        .unwrap();
    assert_eq!(seen.keys, ["a1"]);
}

#[test]
fn memory_goes_round_and_nothing_of_the_last_request_stays() {
    let mut intake = Intake::new();
    let sending = Sending::default();
    let request = RequestFacts {
        received: RECEIVED,
        peer: None,
        client: None,
        user_agent: None,
        headers: &[],
    };
    for round in 0..3 {
        let body = format!("[{},{{}}]", track(&format!("m{round}"), "{}"));
        let submission =
            intake.scan(body.as_bytes(), Door::Events, &ScanLimits::default()).unwrap();
        let judged = submission
            .judge(&sending.source, &request, &*sending.schemas, &mut |id| id.fill(0))
            .unwrap();
        assert_eq!((judged.len(), judged.rejected_count()), (2, 1));
        let rejected = judged.get(1).unwrap();
        assert_eq!(rejected.key, b"{}");
        assert!(rejected.rejected().is_some() && rejected.partition(4) < 4);
        intake.recycle(judged);
    }
}

/// Events that are bad in ways that leave their end in sight.
const BAD: [&str; 12] = [
    r#"{"a":1,"a":2}"#,
    r#"{"a":"\ud800"}"#,
    r#"{"a":1e999}"#,
    r#"{"a":NaN}"#,
    r#"{"a":"\q"}"#,
    "{\"a\":\"\t\"}",
    r#"{"userId":true}"#,
    r#"{"type":"nothing"}"#,
    "[[[{}]]]",
    "null",
    "\"text\"",
    "{}",
];

proptest! {
    #[test]
    fn neighbours_of_bad_events_are_stored_as_if_alone(
        picks in prop::collection::vec(prop::option::of(0..BAD.len()), 1..30),
        batch in any::<bool>(),
    ) {
        let good = |n: usize| track(&format!("m{n}"), &format!(r#"{{"n":{n},"deep":[{{"x":"é"}}]}}"#));
        let event = |(n, pick): (usize, &Option<usize>)| pick.map_or_else(|| good(n), |bad| BAD[bad].to_owned());
        let events: Vec<_> = picks.iter().enumerate().map(event).collect();
        let events = events.join(",");
        let sending = Sending::default();
        let seen = if batch {
            sending.send(Door::Batch, format!("{{\"batch\":[{events}]}}"))
        } else {
            sending.send(Door::Events, format!("[{events}]"))
        };
        let seen = seen.unwrap();
        for (n, pick) in picks.iter().enumerate() {
            prop_assert_eq!(seen.code(n).is_some(), pick.is_some());
            if pick.is_none() {
                let alone = sending.send(TRACK, good(n)).unwrap();
                prop_assert_eq!(seen.records.get(n), alone.records.get(0));
            }
        }
    }
}

#[test]
fn each_row_of_a_file_has_its_record_and_a_time_that_means_one_moment() {
    let event = |time: &str| format!(r#"{{"event":"e","userId":"u","timestamp":{time}}}"#);
    let [zoned, local] = [r#""2020-01-01T00:00:00+01:00""#, r#""2020-01-01T00:00:00""#].map(event);
    let contents = [
        RowContent::Event(zoned.as_bytes()),
        RowContent::Event(local.as_bytes()),
        RowContent::Event(b"{\"event\":\"e\",\"us"),
        RowContent::Event(b"\0\0"),
        RowContent::Refused { reason: "too few columns", bytes: b"a,b" },
        RowContent::Event(br#"{"event":"e","userId":"u","messageId":"own","sentAt":1}"#),
    ];
    let rows = contents.into_iter().zip(7..).map(|(content, number)| Row { number, content });
    let request = RequestFacts {
        received: RECEIVED,
        peer: None,
        client: None,
        user_agent: None,
        headers: &[],
    };
    let source = SourceRules::named("shop");
    let mut make_id = |number: u64, id: &mut [u8; 16]| {
        *id = [0; 16];
        id[15] = u8::try_from(number).unwrap();
    };
    let mut intake = Intake::new();
    let mut judge = |zoneless| {
        intake.judge_rows(rows.clone(), &source, &request, zoneless, &NoSchemas, &mut make_id)
    };
    let judged = judge(Zoneless::Refused);
    let refused = |index: usize| {
        let rejected = judged.get(index).unwrap().rejected().unwrap();
        (rejected.code().to_owned(), rejected.message().to_owned())
    };
    assert_eq!((judged.len(), judged.rejected_count()), (6, 4));
    assert_eq!(refused(1).0, "invalid_time");
    assert!(refused(1).1.starts_with("row 8: a local time"), "{}", refused(1).1);
    assert_eq!(refused(2).0, "invalid_json");
    assert!(refused(3).1.starts_with("row 10: expected a JSON object"), "{}", refused(3).1);
    let wanted = ("invalid_row".to_owned(), "row 11: too few columns".to_owned());
    assert_eq!(refused(4), wanted);
    let first = EventView::of(judged.get(0).unwrap().record).unwrap();
    assert_eq!(first.event_time(), TimeMicros(1_577_833_200_000_000));
    assert_eq!(first.message_id(), "00000000-0000-4000-8000-000000000007");
    let last = EventView::of(judged.get(5).unwrap().record).unwrap();
    assert_eq!((last.message_id(), last.event_time()), ("own", RECEIVED));
    assert!(last.flags().contains(EventFlags::TIME_GUESSED));
    assert_eq!(judge(Zoneless::Utc).rejected_count(), 3);
}
