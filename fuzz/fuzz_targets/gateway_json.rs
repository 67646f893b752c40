//! Any bytes as a request's body: refused as a whole, or one record an event. What was accepted is
//! held against the verifier and against a JSON parser that is not ours.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracklog_fuzz::gateway::{limits, request, source};
use tracklog_fuzz::read_all;
use tracklog_ingest_gateway::intake::{Door, Intake, Judged, NoSchemas};
use tracklog_protocol::event::{self, EventKind, EventView};
use tracklog_protocol::rejected;

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let door = door(*choice & 0xf);
    let mut intake = Intake::new();
    let Ok(submission) = intake.scan(body, door, &limits()) else { return };
    let (count, _) = (submission.event_count(), submission.root_write_key());
    let judged = submission.judge(&source(*choice), &request(), &NoSchemas, &mut |id| id.fill(7));
    let Ok(judged) = judged else { return };

    assert_eq!(judged.iter().count(), count, "one event, one record");
    judged.iter().for_each(|judgement| match judgement.rejected() {
        Some(_) => {
            rejected::verify(judgement.record.bytes()).expect("a rejected event by the verifier");
            read_all(judgement.record);
        }
        None => {
            event::verify(judgement.record.bytes()).expect("an event by the verifier");
            read_all(judgement.record);
            is_json(&EventView::of(judgement.record).expect("and of that kind"));
        }
    });
    if matches!(door, Door::Single(_)) {
        agrees_with_another_parser(body, &judged);
    }
});

fn door(number: u8) -> Door {
    match number {
        0..6 => Door::Single(EventKind::ALL[usize::from(number)]),
        6 => Door::Batch,
        7 => Door::Import,
        8 => Door::Events,
        _ => Door::Merge,
    }
}

fn is_json(event: &EventView<'_>) {
    let parts =
        [event.properties(), event.traits(), event.context(), event.integrations(), event.extra()];
    for text in parts.into_iter().flatten() {
        let value: serde_json::Value = serde_json::from_str(text).expect("a kept part is JSON");
        assert!(value.is_object(), "and an object");
    }
}

fn agrees_with_another_parser(body: &[u8], judged: &Judged) {
    let accepted = judged.iter().any(|judgement| judgement.rejected().is_none());
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let parsed = serde_json::from_slice::<serde_json::Value>(body);
    assert!(!accepted || parsed.is_ok(), "accepted, but {parsed:?}");
}
