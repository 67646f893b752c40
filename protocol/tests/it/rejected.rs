//! Rejected events: built, read in place, and let in from outside or refused.

use proptest::collection::vec;
use proptest::prelude::*;
use tracklog_protocol::event::{self, EventBuilder, EventParts};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::rejected::{
    BESIDE_BYTES_MAX, BODY_BYTES_MAX, RejectedBuilder, RejectedError, RejectedParts, RejectedView,
    verify,
};
use tracklog_protocol::{Offset, Record, TimeMicros};
use xxhash_rust::xxh3::xxh3_64;

fn read_all(record: Record<'_>) {
    let mut line = Vec::new();
    let at = LinePlace { topic: "r", partition: 0, offset: Offset(0), appended_at: TimeMicros(0) };
    write_line(&mut line, at, record);
    serde_json::from_slice::<&serde_json::value::RawValue>(&line).expect("a line is JSON");
}

fn sample() -> RejectedParts<'static> {
    RejectedParts {
        code: "schema",
        message: "\"x\" is not of type \"number\"",
        pointer: Some("/properties/price"),
        source: Some("shop"),
        received_time: TimeMicros(1),
        body: b"{\"properties\":{\"price\":\"x\"}}",
        body_withheld: false,
        message_id: Some("m-1"),
        kind: Some("track"),
        name: Some("Product Viewed"),
        peer_address: Some("10.0.0.1"),
        client_address: Some("203.0.113.9"),
        stage: Some("enrich"),
        headers: &[("dnt", "1"), ("cf-ipcountry", "GB")],
        user_agent: Some("curl/8"),
        read_as: Some("batch"),
        beside: Some("{\"sentAt\":\"2026-01-02T03:04:05Z\"}"),
    }
}

#[test]
fn every_field_reads_back() {
    let mut builder = RejectedBuilder::new();
    let parts = sample();
    let record = verify(builder.build(&parts).bytes()).unwrap();
    let view = RejectedView::of(record).unwrap();
    assert_eq!(view.code(), parts.code);
    assert_eq!(view.message(), parts.message);
    assert_eq!(view.pointer(), parts.pointer);
    assert_eq!(view.source(), parts.source);
    assert_eq!(view.received_time(), parts.received_time);
    assert_eq!(view.body(), Some(parts.body));
    assert_eq!(view.full_length(), parts.body.len() as u64);
    assert_eq!(view.full_hash(), xxh3_64(parts.body));
    assert_eq!(view.message_id(), parts.message_id);
    assert_eq!(view.kind(), parts.kind);
    assert_eq!(view.name(), parts.name);
    assert_eq!(view.peer_address(), parts.peer_address);
    assert_eq!(view.client_address(), parts.client_address);
    assert_eq!(view.stage(), parts.stage);
    assert_eq!(view.headers().collect::<Vec<_>>(), parts.headers);
    assert_eq!(view.user_agent(), parts.user_agent);
    assert_eq!(view.read_as(), parts.read_as);
    assert_eq!(view.beside(), parts.beside);
    assert_eq!(view.beside_length(), parts.beside.map_or(0, str::len) as u64);
}

#[test]
fn what_a_batch_said_is_kept_whole_or_not_at_all() {
    let mut builder = RejectedBuilder::new();
    for (length, is_kept) in [(BESIDE_BYTES_MAX, true), (BESIDE_BYTES_MAX + 1, false)] {
        let text = format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
        let record = builder.build(&RejectedParts { beside: Some(&text), ..sample() });
        let view = RejectedView::of(verify(record.bytes()).unwrap()).unwrap();
        assert_eq!(view.beside(), Some(&*text).filter(|_| is_kept));
        assert_eq!(view.beside_length(), length as u64);
    }
}

#[test]
fn a_long_body_is_cut_and_its_length_and_hash_are_of_all_of_it() {
    let body = vec![b'x'; BODY_BYTES_MAX + 1];
    let mut builder = RejectedBuilder::new();
    let record = builder.build(&RejectedParts { body: &body, ..sample() });
    let view = RejectedView::of(record).unwrap();
    assert_eq!(view.body(), Some(&body[..BODY_BYTES_MAX]));
    assert_eq!(view.full_length(), body.len() as u64);
    assert_eq!(view.full_hash(), xxh3_64(&body));
    verify(record.bytes()).unwrap();
}

#[test]
fn a_body_is_not_cut_inside_a_character() {
    let mut builder = RejectedBuilder::new();
    for shift in 0..4 {
        let body = "x".repeat(shift) + &"😀".repeat(BODY_BYTES_MAX / 4 + 1);
        let parts = RejectedParts { body: body.as_bytes(), ..sample() };
        let kept = RejectedView::of(builder.build(&parts)).unwrap().body().unwrap();
        assert!(std::str::from_utf8(kept).is_ok(), "shifted by {shift}");
        assert!(BODY_BYTES_MAX - kept.len() < 4);
    }
    let body = vec![0x80; BODY_BYTES_MAX + 10];
    let kept = builder.build(&RejectedParts { body: &body, ..sample() });
    assert!(RejectedView::of(kept).unwrap().body().unwrap().len() > BODY_BYTES_MAX - 4);
}

#[test]
fn a_withheld_body_leaves_its_length_and_hash() {
    let parts = RejectedParts { body_withheld: true, ..sample() };
    let mut builder = RejectedBuilder::new();
    let view = RejectedView::of(builder.build(&parts)).unwrap();
    assert_eq!(view.body(), None);
    assert_eq!((view.headers().count(), view.user_agent()), (0, None));
    assert_eq!((view.read_as(), view.beside(), view.beside_length()), (None, None, 0));
    assert_eq!(view.full_length(), parts.body.len() as u64);
    assert_eq!(view.full_hash(), xxh3_64(parts.body));
}

#[test]
fn every_flipped_bit_is_refused_or_readable() {
    let mut builder = RejectedBuilder::new();
    let good = builder.build(&sample()).bytes().to_vec();
    let mut refused = 0;
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match verify(&bytes) {
            Ok(record) => read_all(record),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > good.len(), "only {refused} flips were refused");
}

#[test]
fn an_event_is_no_rejected_event() {
    let mut builder = EventBuilder::new();
    let event = builder.build(&EventParts::default());
    assert!(RejectedView::of(event).is_none());
    assert_eq!(verify(event.bytes()), Err(RejectedError::NotARejected));
    let mut builder = RejectedBuilder::new();
    assert!(event::verify(builder.build(&sample()).bytes()).is_err());
}

#[test]
fn more_kept_than_there_was_is_refused() {
    let mut builder = RejectedBuilder::new();
    let parts = sample();
    let mut bytes = builder.build(&parts).bytes().to_vec();
    let length = (parts.body.len() as u64).to_le_bytes();
    let at = bytes.windows(8).position(|window| window == length).unwrap();
    bytes[at..at + 8].copy_from_slice(&1_u64.to_le_bytes());
    assert_eq!(verify(&bytes), Err(RejectedError::Body { kept: parts.body.len(), full: 1 }));
}

proptest! {
    #[test]
    fn any_body_reads_back_and_makes_a_line(body in vec(any::<u8>(), 0..200)) {
        let mut builder = RejectedBuilder::new();
        let record = builder.build(&RejectedParts { body: &body, ..sample() });
        verify(record.bytes()).unwrap();
        prop_assert_eq!(RejectedView::of(record).unwrap().body(), Some(&body[..]));
        read_all(record);
    }
}
