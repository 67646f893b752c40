//! A batch's body out of parts: what stands beside `batch`, and its events. Each event fares as it
//! does in a batch of its own, whatever the others are.
//!
//! The first byte chooses door and source. A byte 0xFF, which no JSON has, ends a part; the first
//! part is text within the body's object, each other one an event.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracklog_fuzz::gateway::{limits, request, source};
use tracklog_fuzz::read_all;
use tracklog_ingest_gateway::intake::{Door, Intake, Judged, NoSchemas};
use tracklog_ingest_gateway::scan::{Scan, Shape};
use tracklog_protocol::{event, rejected};

fuzz_target!(|input: &[u8]| {
    let Some((choice, parts)) = input.split_first() else { return };
    let mut parts = parts.split(|byte| *byte == 0xff);
    let beside = parts.next().unwrap_or_default();
    let events: Vec<&[u8]> = parts.filter(|part| is_one_event(part)).collect();
    let events = &events[..events.len().min(limits().events_max as usize)];

    let whole = judged(*choice, beside, events);
    let alone: Vec<_> = events.iter().map(|event| judged(*choice, beside, &[event])).collect();
    let Some(whole) = whole else {
        // What is wrong lies beside the events, or is their number, which is as it may be.
        assert!(alone.iter().all(Option::is_none), "an event makes a batch unreadable");
        return;
    };
    if whole.len() != events.len() {
        // The part beside them has closed the object and begun another array.
        return;
    }
    for (index, alone) in alone.iter().enumerate() {
        let Some(alone) = alone else { panic!("event {index} is read among others only") };
        if alone.len() != 1 {
            return;
        }
        let (one, other) = (alone.get(0), whole.get(index));
        let (one, other) = (one.expect("it has one"), other.expect("it has as many"));
        assert_eq!(one.record.bytes(), other.record.bytes(), "the same record");
        assert_eq!(one.key, other.key, "the same partition key");
        let is_good = match one.rejected() {
            Some(_) => rejected::verify(one.record.bytes()).is_ok(),
            None => event::verify(one.record.bytes()).is_ok(),
        };
        assert!(is_good, "a record by the verifier");
        read_all(one.record);
    }
    let rejected = whole.iter().filter(|one| one.rejected().is_some()).count();
    assert_eq!(rejected, whole.rejected_count());
});

/// Whether a part's borders can be told, and it is one event, flawed or not.
fn is_one_event(part: &[u8]) -> bool {
    let is_plain = !part.starts_with(b"\xef");
    is_plain && Scan::new().read(part, Shape::Event, &limits()).is_ok()
}

fn judged(choice: u8, beside: &[u8], events: &[&[u8]]) -> Option<Judged> {
    let mut body = b"{".to_vec();
    body.extend_from_slice(beside);
    if !beside.is_empty() {
        body.push(b',');
    }
    body.extend_from_slice(b"\"batch\":[");
    body.extend_from_slice(&events.join(&b','));
    body.extend_from_slice(b"]}");
    let door = if choice & 1 == 0 { Door::Batch } else { Door::Import };
    let mut intake = Intake::new();
    let submission = intake.scan(&body, door, &limits()).ok()?;
    submission.judge(&source(choice), &request(), &NoSchemas, &mut |id| id.fill(7)).ok()
}
