//! Lines of JSON, as golden text and read back by another parser.

use proptest::prelude::*;
use serde_json::Value;
use tracklog_protocol::event::{
    self, CampaignParts, DeviceParts, EnrichedParts, EventBuilder, EventFlags, EventKind,
    EventParts, GeoParts, PageParts, ProfileParts, SessionParts,
};
use tracklog_protocol::line::{LinePlace, format_time, write_line};
use tracklog_protocol::rejected::{RejectedBuilder, RejectedParts};
use tracklog_protocol::{KeyValue, Offset, Record, TimeMicros};

use crate::sample::{self, PROPERTIES, RECEIVED_TIME};

const PLACE: LinePlace<'static> = LinePlace {
    topic: "raw",
    partition: 3,
    offset: Offset(1207),
    appended_at: TimeMicros(RECEIVED_TIME.0 + 400),
};

fn line(record: Record<'_>) -> String {
    let mut out = b"before".to_vec();
    write_line(&mut out, PLACE, record);
    let line = String::from_utf8(out).unwrap();
    let line = line.strip_prefix("before").unwrap().strip_suffix('\n').unwrap();
    assert!(!line.contains(['\n', '\r']));
    serde_json::from_str::<Value>(line).expect("a line is JSON");
    line.to_owned()
}

fn event_line(parts: &EventParts<'_>) -> String {
    line(EventBuilder::new().build(parts))
}

#[test]
fn a_full_event_has_every_field_in_order() {
    assert_eq!(event_line(&sample::full(&sample::index(PROPERTIES))), FULL_LINE);
}

#[test]
fn a_stored_event_of_version_1_reads_as_it_did() {
    let hex = include_str!("../../testdata/event-v1.hex");
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    assert_eq!(line(event::verify(&bytes).unwrap()), FULL_LINE);
}

const FULL_LINE: &str = concat!(
    r#"{"topic":"raw","partition":3,"offset":1207,"#,
    r#""messageId":"ajs-next-1767323045678-2f1b0a55-7d0c-4c7d-9a52-0c4d7c1f6f6f","#,
    r#""type":"track","event":"Product Viewed","source":"shop","#,
    r#""anonymousId":"8f14e45f-ceea-467f-a0e6-4b3f3b3b3b3b","userId":"4711","#,
    r#""previousId":"before","groupId":"group","sessionId":"1767322800000","#,
    r#""timestamp":"2026-01-02T03:04:05.678901Z","#,
    r#""originalTimestamp":"2026-01-02T03:04:05.678896Z","#,
    r#""sentAt":"2026-01-02T03:04:06.000Z","receivedAt":"2026-01-02T03:04:07.000002Z","#,
    r#""appendedAt":"2026-01-02T03:04:07.000402Z","category":"category","channel":"web","#,
    r#""locale":"de-DE","userAgent":"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36","#,
    r#""clientAddress":"203.0.113.9","peerAddress":"10.0.0.1","#,
    r#""library":{"name":"analytics.js","version":"1.84.3"},"#,
    r#""page":{"url":"https://shop.example/p/17?x=\"1\"","path":"/p/17","#,
    r#""referrer":"https://search.example/","title":"Ein Stück"},"#,
    r#""headers":[{"name":"accept-language","value":"de"},{"name":"dnt","value":"1"}],"#,
    r#""schemaVersion":3,"flags":["skewCorrected","rootMerged"],"#,
    r#""properties":{"product_id":"p-17","price":12.50,"quantity":2,"on\u0053ale":true,"#,
    r#""coupon":null,"tags":["a","b"],"box":{"price":1}},"traits":{"plan": "pro"},"#,
    r#""context":{"library":{"name":"analytics.js","version":"1.84.3"}},"integrations":{},"#,
    r#""extra":{"_metadata":{"nodeVersion":"v20"}}}"#,
);

#[test]
fn what_enrichment_found_out_stands_before_the_properties() {
    let index = sample::index(PROPERTIES);
    let enriched = sample::enriched();
    let whole = event_line(&EventParts { enriched: Some(&enriched), ..sample::full(&index) });
    let (before, after) = FULL_LINE.split_once(r#","properties""#).unwrap();
    let added = whole.strip_prefix(before).unwrap();
    let added = added.strip_suffix(&format!(r#","properties"{after}"#)).unwrap();
    assert_eq!(added, ENRICHED);
}

const ENRICHED: &str = concat!(
    r#","resolvedUserId":"user-1","session":{"id":"5f3a","number":2,"#,
    r#""started":"2026-01-02T03:04:05.678901Z","firstEvent":true,"#,
    r#""landingPage":"https://shop.example/","previousEnded":"2026-01-02T02:04:05.678901Z"},"#,
    r#""device":{"browser":"Firefox","browserVersion":"140.0","os":"Linux","osVersion":"6.18","#,
    r#""brand":"Acme","model":"Book","class":"desktop","bot":false},"#,
    r#""geo":{"country":"DE","region":"BE","city":"Berlin","postalCode":"10115","#,
    r#""timeZone":"Europe/Berlin","latitude":52.5,"longitude":13.25,"accuracyKm":20,"#,
    r#""asNumber":64500,"asName":"Example Net","origin":"header"},"#,
    r#""campaign":{"source":"letter","medium":"mail","name":"spring","term":"shoes","#,
    r#""content":"top","id":"7","clickId":"abc","clickIdKind":"gclid","#,
    r#""referrerHost":"search.example","referrerKind":"search","referrerName":"Example"},"#,
    r#""pageParts":{"scheme":"https","host":"shop.example","path":"/p/17","query":"x=1","#,
    r#""fragment":"top"},"profile":{"version":41,"traits":{"plan": "pro"},"#,
    r#""groupTraits":{"seats":12.50}},"enrichedBy":"device@1 geo@7","#,
    r#""enrichFailures":{"page":"timed out"},"stateOffset":42,"rawPartition":3,"rawOffset":1206"#,
);

fn enriched_line(enriched: &EnrichedParts<'_>) -> String {
    event_line(&EventParts { enriched: Some(enriched), ..EventParts::default() })
}

#[test]
fn what_enrichment_looked_for_and_did_not_find_is_left_out() {
    let enriched = EnrichedParts {
        session: Some(SessionParts::default()),
        device: Some(DeviceParts::default()),
        geo: Some(GeoParts::default()),
        campaign: Some(CampaignParts::default()),
        page: Some(PageParts::default()),
        profile: Some(ProfileParts::default()),
        ..EnrichedParts::default()
    };
    let expected = concat!(
        r#","session":{"number":0,"started":"1970-01-01T00:00:00.000000Z","firstEvent":false},"#,
        r#""device":{"bot":false},"geo":{"origin":"database"},"profile":{"version":0}}"#,
    );
    let line = enriched_line(&enriched);
    assert!(line.ends_with(expected), "{line}");
}

#[test]
fn a_degree_that_is_no_number_of_json_is_left_out() {
    let place = |latitude| GeoParts { latitude: Some(latitude), ..GeoParts::default() };
    let line = |latitude| {
        let geo = Some(place(latitude));
        enriched_line(&EnrichedParts { geo, ..EnrichedParts::default() })
    };
    for latitude in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(line(latitude).ends_with(r#""geo":{"origin":"database"}}"#));
    }
    for latitude in [0.0, -0.0, -33.865_143, f64::MIN_POSITIVE, f64::MAX] {
        let value: Value = serde_json::from_str(&line(latitude)).unwrap();
        let read = value["geo"]["latitude"].as_f64().unwrap();
        assert!((read - latitude).abs() <= f64::EPSILON * latitude.abs(), "{read} is {latitude}");
    }
}

#[test]
fn absent_fields_are_left_out() {
    let parts = EventParts { message_id: "m", kind: EventKind::Alias, ..EventParts::default() };
    let expected = concat!(
        r#"{"topic":"raw","partition":3,"offset":1207,"messageId":"m","type":"alias","#,
        r#""timestamp":"1970-01-01T00:00:00.000000Z","receivedAt":"1970-01-01T00:00:00.000000Z","#,
        r#""appendedAt":"2026-01-02T03:04:07.000402Z"}"#,
    );
    assert_eq!(event_line(&parts), expected);
}

#[test]
fn objects_with_some_texts_hold_only_those() {
    let page_path = Some("/");
    let parts = EventParts { page_path, library_version: Some("1"), ..EventParts::default() };
    assert!(event_line(&parts).ends_with(r#""library":{"version":"1"},"page":{"path":"/"}}"#));
}

#[test]
fn line_breaks_between_tokens_become_spaces_and_tokens_stay() {
    let properties = Some("{\r\n  \"a\\n\": 1.10,\n\t\"b\": 1e2\n}");
    let line = event_line(&EventParts { properties, ..EventParts::default() });
    let expected = "\"properties\":{    \"a\\n\": 1.10, \t\"b\": 1e2 }}";
    assert!(line.ends_with(expected), "{line}");
}

#[test]
fn a_sent_time_that_was_no_string_stays_none() {
    let sent_time_text = Some("1767322800000");
    let text = EventParts { sent_time_text, ..EventParts::default() };
    assert!(event_line(&text).contains(r#""sentAt":"1767322800000","#));
    let bare = EventParts { flags: EventFlags::SENT_TIME_BARE, ..text };
    assert!(event_line(&bare).contains(r#""sentAt":1767322800000,"#));
}

#[test]
fn texts_are_escaped() {
    let name = Some("\"\\\n\r\t\u{0}\u{1f}\u{7f}/é\u{2028}");
    let line = event_line(&EventParts { name, ..EventParts::default() });
    let expected = "\"event\":\"\\\"\\\\\\n\\r\\t\\u0000\\u001f\\u007f/é\u{2028}\"";
    assert!(line.contains(expected), "{line}");
}

#[test]
fn a_rejected_event_says_why_and_shows_its_bytes() {
    let parts = RejectedParts {
        code: "schema",
        message: "no number",
        pointer: Some("/properties/price"),
        source: Some("shop"),
        received_time: RECEIVED_TIME,
        body: b"{\"a\":\n1}",
        message_id: Some("m"),
        kind: Some("track"),
        name: Some("Product Viewed"),
        client_address: Some("203.0.113.9"),
        peer_address: Some("10.0.0.1"),
        stage: Some("enrich"),
        headers: &[("dnt", "1")],
        user_agent: Some("curl/8"),
        read_as: Some("batch"),
        beside: Some("{\"sentAt\":\n5}"),
        ..RejectedParts::default()
    };
    let expected = concat!(
        r#"{"topic":"raw","partition":3,"offset":1207,"messageId":"m","type":"track","#,
        r#""event":"Product Viewed","source":"shop","receivedAt":"2026-01-02T03:04:07.000002Z","#,
        r#""appendedAt":"2026-01-02T03:04:07.000402Z","clientAddress":"203.0.113.9","#,
        r#""peerAddress":"10.0.0.1","code":"schema","pointer":"/properties/price","#,
        r#""message":"no number","body":"{\"a\":\n1}","bodyLength":8,"#,
        r#""bodyHash":"HASH","stage":"enrich","readAs":"batch","userAgent":"curl/8","#,
        r#""headers":[{"name":"dnt","value":"1"}],"beside":"{\"sentAt\":\n5}"}"#,
    );
    let hash = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(parts.body));
    let line = line(RejectedBuilder::new().build(&parts));
    assert_eq!(line, expected.replace("HASH", &hash));
}

#[test]
fn a_body_that_is_no_text_is_base64() {
    let parts = RejectedParts { body: b"\xff\xfe", ..RejectedParts::default() };
    let line = line(RejectedBuilder::new().build(&parts));
    assert!(line.contains(r#""body_base64":"//4=","bodyLength":2,"#), "{line}");
    assert!(!line.contains("\"body\""));
}

#[test]
fn keys_and_values_are_texts_or_base64() {
    let mut buffer = Vec::new();
    let mut pair = |key: &[u8], value: Option<&[u8]>| {
        let line = line(KeyValue { key, value }.encode(&mut buffer));
        let (_, after) =
            line.split_once("\"appendedAt\":\"2026-01-02T03:04:07.000402Z\",").unwrap();
        after.to_owned()
    };
    assert_eq!(pair(b"k", Some(b"v")), r#""key":"k","value":"v"}"#);
    assert_eq!(pair(b"\xff", Some(b"")), r#""key_base64":"/w==","value":""}"#);
    assert_eq!(pair(b"k", Some(b"\x80abc")), r#""key":"k","value_base64":"gGFiYw=="}"#);
    assert_eq!(pair(b"k", None), r#""key":"k","deleted":true}"#);
}

#[test]
fn opaque_bytes_are_a_value() {
    assert!(line(Record::opaque(b"abc")).ends_with(r#","value":"abc"}"#));
    assert!(line(Record::opaque(b"\xff")).ends_with(r#","value_base64":"/w=="}"#));
}

#[test]
fn times_are_rfc_3339_with_six_digits() {
    let at = |micros| format_time(TimeMicros(micros));
    assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
    assert_eq!(at(-1), "1969-12-31T23:59:59.999999Z");
    assert_eq!(at(951_782_400_000_000), "2000-02-29T00:00:00.000000Z");
    assert_eq!(at(951_868_800_000_000), "2000-03-01T00:00:00.000000Z");
    assert_eq!(at(4_107_542_400_000_000), "2100-03-01T00:00:00.000000Z");
    assert_eq!(at(1_735_689_599_999_999), "2024-12-31T23:59:59.999999Z");
    assert_eq!(at(-62_167_219_200_000_000), "0000-01-01T00:00:00.000000Z");
    assert_eq!(at(253_402_300_799_999_999), "9999-12-31T23:59:59.999999Z");
}

#[test]
fn years_of_more_than_four_digits_have_a_sign() {
    let at = |micros| format_time(TimeMicros(micros));
    assert_eq!(at(-62_167_219_200_000_001), "-000001-12-31T23:59:59.999999Z");
    assert_eq!(at(253_402_300_800_000_000), "+010000-01-01T00:00:00.000000Z");
    assert_eq!(at(i64::MAX), "+294247-01-10T04:00:54.775807Z");
    assert_eq!(at(i64::MIN), "-290308-12-21T19:59:05.224192Z");
}

proptest! {
    #[test]
    fn any_text_reads_back_from_its_line(name in any::<String>()) {
        let line = event_line(&EventParts { name: Some(&name), ..EventParts::default() });
        let value: Value = serde_json::from_str(&line).unwrap();
        prop_assert_eq!(value["event"].as_str(), Some(&*name));
    }

    #[test]
    fn any_bytes_read_back_from_base64(bytes in proptest::collection::vec(128_u8.., 1..50)) {
        use base64::Engine as _;
        let value: Value = serde_json::from_str(&line(Record::opaque(&bytes))).unwrap();
        // A few such bytes make UTF-8 by chance.
        if let Some(text) = value["value_base64"].as_str() {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
            prop_assert_eq!(decoded, bytes);
        } else {
            prop_assert_eq!(value["value"].as_str().map(str::as_bytes), Some(&bytes[..]));
        }
    }

    #[test]
    fn times_sort_as_their_texts_do(a in 0..253_402_300_800_000_000_i64, b in 0..253_402_300_800_000_000_i64) {
        let texts = format_time(TimeMicros(a)).cmp(&format_time(TimeMicros(b)));
        prop_assert_eq!(texts, a.cmp(&b));
    }
}
