//! A file of rules, a byte 0, and an object that an event has as its properties, traits and context.
//!
//! The file is refused in a line of it, or it is rules:
//! - an event goes to each destination by the first rule that takes it and names that, whichever
//!   way the table is asked;
//! - what a rule leaves of an event is the same event, by the verifier, and its line is JSON.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use tracklog_pipeline::route::{RouteTable, Rules, RulesError, Verdict};
use tracklog_protocol::event::{
    CampaignParts, DeviceParts, EnrichedParts, EventBuilder, EventParts, EventView, Fields,
    GeoParts, ProfileParts, verify,
};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::{Offset, Record, TimeMicros};

const OBJECT: &str =
    r#"{"total":12.50,"on\u0053ale":true,"tags":["a",{"n":1}],"cart":{"items":[{"sku":"x"}]}}"#;
/// As deep as the gateway lets anything be.
const DEPTH_MAX: usize = 64;

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == 0).unwrap_or(input.len());
    let Ok(text) = str::from_utf8(&input[..end]) else { return };
    let object = input.get(end + 1..).and_then(object).unwrap_or(OBJECT);
    match Rules::parse(text) {
        Ok(rules) => with_event(object, |record| route(&RouteTable::new(rules), record)),
        Err(RulesError { line, .. }) => {
            assert!(
                (1..=text.matches('\n').count() + 1).contains(&line),
                "there is no line {line}"
            );
        }
    }
});

/// What an event may have: an object, no deeper than events are.
fn object(bytes: &[u8]) -> Option<&str> {
    let text = str::from_utf8(bytes).ok()?.trim_matches([' ', '\t', '\n', '\r']);
    let opened = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    let is_json = opened <= DEPTH_MAX && serde_json::from_str::<&RawValue>(text).is_ok();
    (is_json && text.starts_with('{')).then_some(text)
}

fn with_event(object: &str, with: impl FnOnce(Record<'_>)) {
    let index: Vec<_> = Fields::of(object).map_while(Result::ok).collect();
    let profile =
        ProfileParts { traits: Some(object), group_traits: Some("{}"), ..Default::default() };
    let enriched = EnrichedParts {
        device: Some(DeviceParts { browser: Some("Firefox"), bot: true, ..Default::default() }),
        geo: Some(GeoParts { country: Some("DE"), latitude: Some(52.5), ..Default::default() }),
        campaign: Some(CampaignParts { source: Some("letter"), ..Default::default() }),
        profile: Some(profile),
        state_offset: Some(Offset(7)),
        ..Default::default()
    };
    let parts = EventParts {
        message_id: "m-1",
        name: Some("Order Completed"),
        source: Some("web"),
        user_id: Some("u-1"),
        event_time: TimeMicros(1_767_322_800_000_000),
        headers: &[("dnt", "1")],
        page_url: Some("https://shop.example/?a=b#c"),
        properties: Some(object),
        property_index: &index,
        traits: Some(object),
        context: Some(object),
        enriched: Some(&enriched),
        ..EventParts::default()
    };
    with(EventBuilder::new().build(&parts));
}

fn route(table: &RouteTable, record: Record<'_>) {
    let event = EventView::of(record).expect("it was built here");
    // By what each rule says for itself.
    let mut expected = BTreeMap::new();
    for (rule, verdict, destinations) in table.explain(&event) {
        if verdict == Verdict::Taken {
            for name in destinations {
                expected.entry(name.clone()).or_insert_with(|| rule.to_owned());
            }
        }
    }
    let mut found = BTreeMap::new();
    table.each(&event, |name, taken| {
        let before = found.insert(name.clone(), taken.rule().to_owned());
        assert_eq!(before, None, "{name} gets it once");
        let alone = table.taken(&event, name).expect("asked for it alone it gets it too");
        assert_eq!(alone.rule(), taken.rule());
        assert!(table.serves(name, taken.lane()));
        left_is_the_event(&event, taken.projected(&event, record, &mut EventBuilder::new()));
    });
    assert_eq!(found, expected, "whichever way the table is asked");
}

fn left_is_the_event(event: &EventView<'_>, left: Record<'_>) {
    verify(left.bytes()).expect("what is left is an event");
    let view = EventView::of(left).expect("it was verified");
    assert_eq!(view.message_id(), event.message_id());
    assert_eq!((view.name(), view.event_time()), (event.name(), event.event_time()));
    let (offset, appended_at) = (Offset(1), TimeMicros(1));
    let mut line = Vec::new();
    write_line(&mut line, LinePlace { topic: "t", partition: 0, offset, appended_at }, left);
    serde_json::from_slice::<&RawValue>(&line).expect("its line is JSON");
}
