//! Writes `seeds/`: a few honest inputs for each target, from which it starts.
#![forbid(unsafe_code)]

use std::path::Path;
use std::{fs, io};

use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::event::{EventBuilder, EventFlags, EventKind, EventParts, Fields};
use tracklog_protocol::rejected::{RejectedBuilder, RejectedParts};
use tracklog_protocol::{
    KeyValue, PayloadKind, ProducerEpoch, ProducerId, Record, Sequence, TimeMicros,
};

const PROPERTIES: &str = r#"{"id":"p-17","price":12.50,"on\u0053ale":true,"coupon":null,"tags":["a",1e2],"box":{"x":1}}"#;
const TIME: TimeMicros = TimeMicros(1_767_322_800_000_000);

fn main() -> io::Result<()> {
    let mut events = EventBuilder::new();
    let full = events.build(&full_event()).bytes().to_vec();
    let bare = events.build(&bare_event()).bytes().to_vec();
    let mut rejections = RejectedBuilder::new();
    let rejected = rejections.build(&rejected_event()).bytes().to_vec();
    write("event_view", "event-full", &full)?;
    write("event_view", "event-bare", &bare)?;
    write("event_view", "rejected", &rejected)?;

    let event = |bytes| tracklog_protocol::event::verify(bytes).expect("it was built here");
    let bytes = batch(PayloadKind::Event, &[event(&full), event(&bare)]);
    write("batch_decode", "events", &bytes)?;
    write("batch_decode", "one-event", &batch(PayloadKind::Event, &[event(&bare)]))?;
    let opaque = [Record::opaque(b""), Record::opaque(b"some bytes"), Record::opaque(b"\0")];
    write("batch_decode", "opaque", &batch(PayloadKind::Opaque, &opaque))?;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let pairs = [
        KeyValue { key: b"key", value: Some(b"value") }.encode(&mut first),
        KeyValue { key: b"key", value: None }.encode(&mut second),
    ];
    write("batch_decode", "key-values", &batch(PayloadKind::KeyValue, &pairs))?;

    for (door, name, body) in BODIES {
        write("gateway_json", name, &[&[*door], body.as_bytes()].concat())?;
    }
    Ok(())
}

/// Doors are numbered as in the target.
const BODIES: &[(u8, &str, &str)] = &[
    (
        0,
        "track",
        r#"{"event":"Signed Up","userId":7,"timestamp":"2026-01-02T03:04:05+0800","sentAt":1767322800000,"properties":{"price":12.50,"\u0061":"\ud83d\ude00","list":[[],{},null,-0.0e1]},"context":{"ip":"203.0.113.9","sessionId":1,"page":{"url":"https://x.example/"},"library":{"name":"x"},"traits":{"a":1}},"more":[1]}"#,
    ),
    (
        6,
        "batch",
        r#"{"batch":[{"type":"track","event":"A","anonymousId":"x","messageId":"m"},{"type":"alias","userId":"7","previousId":"6"},{"type":"page"}],"context":{"ip":"::1"},"integrations":{"All":true},"sentAt":"2026-01-02T03:04:05.678Z","writeKey":"k"}"#,
    ),
    (
        8,
        "array",
        r#"[{"type":"identify","userId":"7","traits":{"plan":"pro"}},{"type":"group","groupId":"g","anonymousId":""}]"#,
    ),
    (
        8,
        "lines",
        "\u{feff}{\"type\":\"screen\",\"name\":\"n\",\"userId\":\"7\"}\n\n{\"type\":\"track\"}\r\n",
    ),
    (
        0x17,
        "import-strict",
        r#"{"batch":[{"type":"track","event":"A","userId":"7","originalTimestamp":"1767322800","context":{"userId":"7","ip":"10.0.0.1"},"previousId":"6"}]}"#,
    ),
];

fn full_event() -> EventParts<'static> {
    let index: Result<Vec<_>, _> = Fields::of(PROPERTIES).collect();
    EventParts {
        message_id: "ajs-next-1767322800000-2f1b0a55",
        kind: EventKind::Track,
        name: Some("Product Viewed"),
        source: Some("shop"),
        anonymous_id: Some("8f14e45f"),
        user_id: Some("4711"),
        event_time: TIME,
        received_time: TIME,
        client_time: Some(TIME),
        client_time_text: Some("1767322800000"),
        sent_time_text: Some("2026-01-02T03:00:00Z"),
        flags: EventFlags::CLIENT_TIME_BARE,
        schema_version: Some(2),
        headers: &[("accept-language", "de"), ("dnt", "1")],
        properties: Some(PROPERTIES),
        property_index: Vec::leak(index.expect("an object")),
        traits: Some(r#"{"plan": "pro"}"#),
        context: Some("{\n\"library\":{\"name\":\"x\"}}"),
        integrations: Some("{}"),
        extra: Some(r#"{"_metadata":[]}"#),
        ..EventParts::default()
    }
}

fn bare_event() -> EventParts<'static> {
    EventParts {
        message_id: "m",
        kind: EventKind::Alias,
        user_id: Some("7"),
        previous_id: Some("6"),
        event_time: TIME,
        received_time: TIME,
        ..EventParts::default()
    }
}

fn rejected_event() -> RejectedParts<'static> {
    RejectedParts {
        code: "schema",
        message: "is no number",
        pointer: Some("/properties/price"),
        body: br#"{"type":"track"}"#,
        ..RejectedParts::default()
    }
}

fn batch(kind: PayloadKind, records: &[Record<'_>]) -> Vec<u8> {
    let mut builder =
        BatchBuilder::new(kind).produced_by(ProducerId(1), ProducerEpoch(2), Sequence(3));
    for record in records {
        builder.push(*record);
    }
    builder.finish().view().bytes().to_vec()
}

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}
