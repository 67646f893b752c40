//! Rejected events, judged again by what holds now.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

use std::net::IpAddr;

use proptest::prelude::*;
use tracklog_ingest_gateway::intake::kept::{Kept, NotKept};
use tracklog_ingest_gateway::intake::rows::{Row, RowContent, Zoneless};
use tracklog_ingest_gateway::intake::{Door, Intake, Judged, NoSchemas, RequestFacts, Validate};
use tracklog_ingest_gateway::scan::ScanLimits;
use tracklog_ingest_gateway::source::{HmacKey, IpRule, SourceRules, UserIdRule};
use tracklog_protocol::event::EventKind;
use tracklog_protocol::rejected::{RejectedBuilder, RejectedParts, RejectedView};
use tracklog_protocol::{Record, TimeMicros};
use tracklog_registry::{Verdict, Violation};

/// Every payload breaks its schema.
struct Strict;

impl Validate for Strict {
    fn validate(&self, _: &str, _: Option<u32>, _: &str) -> Verdict {
        let violation = Violation {
            pointer: "/price".into(),
            keyword: "type".into(),
            message: "is no number".into(),
        };
        Verdict::Invalid { version: 1, violation }
    }
}

fn fill(id: &mut [u8; 16]) {
    id.fill(7);
}

fn facts<'a>(headers: &'a [(&'a str, &'a str)], user_agent: Option<&'a str>) -> RequestFacts<'a> {
    RequestFacts {
        received: TimeMicros(1_767_294_245_000_001),
        peer: Some(IpAddr::from([10, 0, 0, 7])),
        client: Some("2001:db8:1:2::3".parse().unwrap()),
        user_agent,
        headers,
    }
}

fn judge(
    body: &str,
    door: Door,
    source: &SourceRules,
    request: &RequestFacts<'_>,
    schemas: &dyn Validate,
) -> Judged {
    let mut intake = Intake::new();
    let submission = intake.scan(body.as_bytes(), door, &ScanLimits::default()).unwrap();
    submission.judge(source, request, schemas, &mut fill).unwrap()
}

fn again(rejected: Record<'_>, source: &SourceRules, schemas: &dyn Validate) -> Judged {
    let kept = Kept::of(RejectedView::of(rejected).unwrap()).unwrap();
    Intake::new().judge_kept(&kept, source, schemas, &mut fill)
}

fn record(judged: &Judged, index: usize) -> Record<'_> {
    judged.get(index).unwrap().record
}

fn event() -> impl Strategy<Value = String> {
    let optional = |text: &'static str| prop_oneof![Just(""), Just(text)];
    (
        prop_oneof![Just(""), Just(r#""type":"track","#), Just(r#""type":"page","#)],
        optional(r#""messageId":"m-1","#),
        optional(r#""timestamp":"2026-01-02T03:04:05","#),
        optional(r#""sentAt":"2026-01-02T03:04:06Z","#),
        optional(r#""context":{"ip":"203.0.113.9","traits":{"id":"u"},"page":{"url":"/a"}},"#),
        optional(r#""writeKey":"k","colour":[1, 2],"#),
    )
        .prop_map(|(kind, id, time, sent, context, extra)| {
            let rest = r#""event":"Paid","userId":"u","properties":{"price" : "1"}}"#;
            format!("{{{kind}{id}{time}{sent}{context}{extra}{rest}")
        })
}

fn body() -> impl Strategy<Value = (Door, String)> {
    let root = prop_oneof![
        Just(""),
        Just(r#""sentAt":1767294245.5,"context":{"ip":"1.2.3.4","locale":"de"},"#),
        Just(r#""writeKey":"k","timestamp":"2026-01-02","integrations":{"All":true},"#),
        Just(r#""\u0073entAt":"2026-01-02T00:00:00+01:00","context":{"userId":"u"},"#),
    ];
    let kinds = prop_oneof![Just(EventKind::Track), Just(EventKind::Page), Just(EventKind::Group)];
    let batches = prop_oneof![Just(Door::Batch), Just(Door::Import)];
    prop_oneof![
        (kinds.prop_map(Door::Single), event()),
        (event()).prop_map(|event| (Door::Events, format!("[{event}]"))),
        (batches, root, event(), event())
            .prop_map(|(door, root, a, b)| (door, format!(r#"{{{root}"batch":[{a}, {b}]}}"#))),
    ]
}

fn source() -> impl Strategy<Value = SourceRules> {
    let ip = prop_oneof![Just(IpRule::Keep), Just(IpRule::Truncate), Just(IpRule::Drop)];
    (ip, any::<bool>()).prop_map(|(ip, hashed)| SourceRules {
        ip,
        user_id: if hashed { UserIdRule::Hmac(HmacKey::new(b"k")) } else { UserIdRule::Plain },
        keep_rejected_bytes: Some(true),
        ..SourceRules::named("shop")
    })
}

proptest! {
    /// Once its schema is mended, an event is byte by byte what it would have been at first. One
    /// that is rejected for something else still is, for that.
    #[test]
    fn what_is_judged_again_is_what_it_would_have_been(
        (door, body) in body(),
        source in source(),
        has_agent in any::<bool>(),
    ) {
        let headers = [("dnt", "1"), ("cf-ipcountry", "GB")];
        let request = facts(&headers, has_agent.then_some("curl/8"));
        let first = judge(&body, door, &source, &request, &Strict);
        let wanted = judge(&body, door, &source, &request, &NoSchemas);
        for index in 0..first.len() {
            let rejected = record(&first, index);
            let judged = again(rejected, &source, &NoSchemas);
            prop_assert_eq!(judged.len(), 1);
            prop_assert_eq!(record(&judged, 0).bytes(), record(&wanted, index).bytes());
            let (now, then) = (judged.get(0).unwrap(), wanted.get(index).unwrap());
            prop_assert_eq!(now.partition(16), then.partition(16));
            let still = again(rejected, &source, &Strict);
            prop_assert_eq!(record(&still, 0).bytes(), rejected.bytes(), "and as often as asked");
        }
    }
}

#[test]
fn rows_of_files_keep_what_their_times_are() {
    let source = SourceRules::named("shop");
    let bytes = br#"{"event":"Paid","userId":"u","timestamp":"2026-01-02T03:04:05"}"#;
    for (zoneless, is_good) in [(Zoneless::Utc, true), (Zoneless::Refused, false)] {
        let row = Row { number: 9, content: RowContent::Event(bytes) };
        let rows = |schemas: &dyn Validate| {
            let request = facts(&[], None);
            let make_id = &mut |_, id: &mut [u8; 16]| fill(id);
            let rows = [row].into_iter();
            Intake::new().judge_rows(rows, &source, &request, zoneless, schemas, make_id)
        };
        let (first, wanted) = (rows(&Strict), rows(&NoSchemas));
        let judged = again(record(&first, 0), &source, &NoSchemas);
        assert_eq!(judged.rejected_count(), usize::from(!is_good), "{zoneless:?}");
        if is_good {
            assert_eq!(record(&judged, 0).bytes(), record(&wanted, 0).bytes());
        }
    }
}

#[test]
fn limits_and_rules_are_those_of_now() {
    let mut source = SourceRules::named("shop");
    source.limits.event_bytes_max = 40;
    let body = r#"{"event":"Paid","userId":"u","properties":{"n":12345}}"#;
    let request = facts(&[], None);
    let first = judge(body, Door::Single(EventKind::Track), &source, &request, &NoSchemas);
    assert_eq!(first.get(0).unwrap().rejected().unwrap().code(), "too_large");
    source.limits.event_bytes_max = 400;
    assert_eq!(again(record(&first, 0), &source, &NoSchemas).rejected_count(), 0);
    source.ip = IpRule::Truncate;
    let judged = again(record(&first, 0), &source, &NoSchemas);
    let event = tracklog_protocol::event::EventView::of(record(&judged, 0)).unwrap();
    assert_eq!(event.peer_address(), Some("10.0.0.0"));
}

#[test]
fn what_is_not_all_there_is_told() {
    let mut builder = RejectedBuilder::new();
    let mut why = |parts: &RejectedParts<'_>| {
        Kept::of(RejectedView::of(builder.build(parts)).unwrap()).unwrap_err()
    };
    let long = "x".repeat(70_000);
    let parts = RejectedParts { body: b"{}", ..RejectedParts::default() };
    let cut = RejectedParts { body: long.as_bytes(), ..parts };
    assert_eq!(why(&cut), NotKept::Cut { kept: 65_536, full: 70_000 });
    assert_eq!(why(&RejectedParts { body_withheld: true, ..parts }), NotKept::Withheld);
    let batch = RejectedParts { beside: Some(&long), ..parts };
    assert_eq!(why(&batch), NotKept::Batch { full: 70_000 });
    assert_eq!(why(&RejectedParts { code: "invalid_row", ..parts }), NotKept::Row);
}
