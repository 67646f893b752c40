//! Any bytes as a request's body: refused as a whole, or one record an event. What was accepted is
//! held against the verifier and against a JSON parser that is not ours.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use tracklog_fuzz::read_all;
use tracklog_ingest_gateway::intake::{Door, Intake, Judged, NoSchemas, RequestFacts};
use tracklog_ingest_gateway::scan::ScanLimits;
use tracklog_ingest_gateway::source::{HmacKey, IpRule, Required, SourceRules, UserIdRule};
use tracklog_protocol::event::{self, EventKind, EventView};
use tracklog_protocol::{TimeMicros, rejected};

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

/// Few, so that small inputs reach each of them.
fn limits() -> ScanLimits {
    ScanLimits { event_bytes_max: 2_000, depth_max: 16, events_max: 20 }
}

fn door(number: u8) -> Door {
    match number {
        0..6 => Door::Single(EventKind::ALL[usize::from(number)]),
        6 => Door::Batch,
        7 => Door::Import,
        8 => Door::Events,
        _ => Door::Merge,
    }
}

fn source(choice: u8) -> SourceRules {
    let mut source = SourceRules { limits: limits(), ..SourceRules::named("fuzz") };
    if choice & 0x10 != 0 {
        source.user_id = UserIdRule::Hmac(HmacKey::new(b"fuzz"));
        source.ip = IpRule::Truncate;
        source.keep_rejected_bytes = Some(choice & 0x20 != 0);
    }
    if choice & 0x40 != 0 {
        source.ip = IpRule::Drop;
    }
    if choice & 0x80 != 0 {
        source.require = vec![Required::Session, Required::Timestamp];
    }
    source
}

fn request() -> RequestFacts<'static> {
    let peer = Some(IpAddr::from([203, 0, 113, 9]));
    RequestFacts {
        received: TimeMicros(1_767_322_800_000_000),
        peer,
        client: peer,
        user_agent: Some("Mozilla/5.0"),
        headers: &[("dnt", "1")],
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
