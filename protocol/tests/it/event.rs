//! Events: built, read in place, and let in from outside or refused.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tracklog_protocol::event::{
    EnrichedParts, EventBuilder, EventError, EventFlags, EventKind, EventParts, EventView,
    HEADERS_MAX, ProfileParts, PropertySpan, ValueKind, verify,
};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::rejected::{RejectedBuilder, RejectedParts};
use tracklog_protocol::{Offset, PayloadKind, Record, TimeMicros};

use crate::sample::{self, PROPERTIES};

/// Everything that can be read of an event, read.
fn read_all(record: Record<'_>) {
    let event = EventView::of(record).expect("an event");
    let properties = event.properties().unwrap_or_default();
    for span in event.property_index() {
        if let Some(name) = span.name(properties) {
            assert_eq!(event.property(&name).is_some(), span.value(properties).is_some());
        }
    }
    let mut line = Vec::new();
    let at =
        LinePlace { topic: "raw", partition: 0, offset: Offset(0), appended_at: TimeMicros(0) };
    write_line(&mut line, at, record);
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    serde_json::from_slice::<&serde_json::value::RawValue>(&line).expect("a line is JSON");
}

/// Texts that an event may or may not have, set and read by their place in a list.
macro_rules! texts {
    ($($name:ident)*) => {
        const TEXTS: usize = [$(stringify!($name)),*].len();

        fn set_texts<'a>(parts: &mut EventParts<'a>, values: &'a [Option<String>]) {
            let mut values = values.iter().map(Option::as_deref);
            $(parts.$name = values.next().expect("one for each");)*
        }

        fn texts_of<'a>(event: &EventView<'a>) -> Vec<Option<&'a str>> {
            vec![$(event.$name()),*]
        }
    };
}
texts! {
    name source anonymous_id user_id previous_id group_id session_id category client_time_text
    sent_time_text peer_address client_address user_agent locale page_url page_path page_referrer
    page_title library_name library_version channel
}

/// JSON objects that an event may or may not have, likewise.
macro_rules! objects {
    ($($name:ident)*) => {
        const OBJECTS: usize = [$(stringify!($name)),*].len();

        fn set_objects<'a>(parts: &mut EventParts<'a>, values: &'a [Option<String>]) {
            let mut values = values.iter().map(Option::as_deref);
            $(parts.$name = values.next().expect("one for each");)*
        }

        fn objects_of<'a>(event: &EventView<'a>) -> Vec<Option<&'a str>> {
            vec![$(event.$name()),*]
        }
    };
}
objects! { properties traits context integrations extra }

/// Enriched twice: what the first time found out is replaced by what the second did.
fn enriching_adds_and_changes_nothing(event: &EventView<'_>) {
    let (mut first, mut second) = (EventBuilder::new(), EventBuilder::new());
    let once = EnrichedParts { resolved_user_id: Some("before"), ..EnrichedParts::default() };
    let once = EventView::of(first.build_enriched(event, &once)).expect("an event");
    let record = second.build_enriched(&once, &sample::enriched());
    let record = verify(record.bytes()).expect("built events are good");
    let enriched = EventView::of(record).expect("an event");
    assert_eq!(enriched.enriched(), sample::enriched());
    assert_eq!(enriched.message_id(), event.message_id());
    assert_eq!(enriched.kind(), event.kind());
    assert_eq!(enriched.event_time(), event.event_time());
    assert_eq!(enriched.received_time(), event.received_time());
    assert_eq!(enriched.client_time(), event.client_time());
    assert_eq!(enriched.flags(), event.flags());
    assert_eq!(enriched.schema_version(), event.schema_version());
    assert!(enriched.headers().eq(event.headers()));
    assert!(enriched.property_index().eq(event.property_index()));
    assert_eq!(texts_of(&enriched), texts_of(event));
    assert_eq!(objects_of(&enriched), objects_of(event));
    read_all(record);
}

/// The bytes of an event with every field set.
fn full_and_enriched() -> Vec<u8> {
    let (index, enriched) = (sample::index(PROPERTIES), sample::enriched());
    let parts = EventParts { enriched: Some(&enriched), ..sample::full(&index) };
    EventBuilder::new().build(&parts).bytes().to_vec()
}

fn object() -> impl Strategy<Value = String> {
    proptest::collection::btree_map(".{0,8}", "\\PC{0,8}", 0..4)
        .prop_map(|map| serde_json::to_string_pretty(&map).expect("maps of texts are JSON"))
}

proptest! {
    #[test]
    fn what_is_built_passes_the_verifier_and_reads_back_field_by_field(
        message_id in ".{0,40}",
        kind in proptest::sample::select(&EventKind::ALL[..]),
        texts in vec(option::of(".{0,20}"), TEXTS),
        objects in vec(option::of(object()), OBJECTS),
        headers in vec((".{0,9}", ".{0,9}"), 0..4),
        numbers in any::<(i64, i64, Option<i64>, u32)>(),
        schema_version in option::of(1..=u32::MAX),
        is_indexed in any::<bool>(),
    ) {
        let (event_time, received_time, client_time, flags) = numbers;
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        // Bare times would have to be JSON.
        let bare = EventFlags::CLIENT_TIME_BARE | EventFlags::SENT_TIME_BARE;
        let flags = EventFlags::from_bits(flags & !bare.bits());
        let index = sample::index(objects[0].as_deref().unwrap_or("{}"));
        let mut parts = EventParts {
            message_id: &message_id,
            kind,
            event_time: TimeMicros(event_time),
            received_time: TimeMicros(received_time),
            client_time: client_time.map(TimeMicros),
            flags,
            schema_version,
            headers: &headers,
            property_index: if is_indexed { &index } else { &[] },
            ..EventParts::default()
        };
        set_texts(&mut parts, &texts);
        set_objects(&mut parts, &objects);

        let mut builder = EventBuilder::new();
        let record = verify(builder.build(&parts).bytes()).expect("built events are good");
        let event = EventView::of(record).expect("an event");
        prop_assert_eq!(event.message_id(), &*message_id);
        prop_assert_eq!(event.kind(), kind);
        prop_assert_eq!(event.event_time(), TimeMicros(event_time));
        prop_assert_eq!(record.event_time(), Some(TimeMicros(event_time)));
        prop_assert_eq!(event.received_time(), TimeMicros(received_time));
        prop_assert_eq!(event.client_time(), client_time.map(TimeMicros));
        prop_assert_eq!(event.flags(), flags);
        prop_assert_eq!(event.schema_version(), schema_version);
        prop_assert_eq!(event.headers().collect::<Vec<_>>(), headers);
        prop_assert_eq!(event.property_index().collect::<Vec<_>>(), index);
        prop_assert_eq!(texts_of(&event), texts.iter().map(Option::as_deref).collect::<Vec<_>>());
        let objects: Vec<_> = objects.iter().map(Option::as_deref).collect();
        prop_assert_eq!(objects_of(&event), objects);
        prop_assert_eq!(event.enriched(), EnrichedParts::default());
        read_all(record);
        enriching_adds_and_changes_nothing(&event);
    }

    #[test]
    fn mangled_bytes_are_refused_or_readable(
        flips in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
        cut in option::weighted(0.2, any::<proptest::sample::Index>()),
    ) {
        let mut bytes = full_and_enriched();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(record) = verify(&bytes) {
            read_all(record);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_event(mut bytes in vec(any::<u8>(), 0..64), marked in any::<bool>()) {
        if marked && bytes.len() >= 8 {
            bytes[4..8].copy_from_slice(b"TLEV");
        }
        if let Ok(record) = verify(&bytes) {
            read_all(record);
        }
    }
}

#[test]
fn every_flipped_bit_is_refused_or_readable() {
    let good = full_and_enriched();
    read_all(verify(&good).unwrap());
    let mut refused = 0;
    for bit in 0..good.len() * 8 {
        let mut bytes = good.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match verify(&bytes) {
            Ok(record) => read_all(record),
            Err(error) => {
                refused += 1;
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
    assert!(refused > good.len(), "only {refused} of {} flips were refused", good.len() * 8);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = full_and_enriched();
    for length in 0..bytes.len() {
        // Padding at the end carries nothing.
        if bytes[length..].iter().any(|byte| *byte != 0) {
            assert!(verify(&bytes[..length]).is_err(), "{length} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn an_index_that_does_not_fit_the_text_is_refused() {
    let index = sample::index(PROPERTIES);
    let first = index[0];
    let mut builder = EventBuilder::new();
    let mut refuse = |index: &[PropertySpan], why: &str| {
        let record = builder.build(&sample::full(index));
        assert_eq!(verify(record.bytes()), Err(EventError::Index), "{why}");
        // As a damaged disk could show it: what is trusted does not panic either.
        read_all(record);
    };
    let changed = |change: fn(&mut PropertySpan)| {
        let mut spans = index.clone();
        change(&mut spans[0]);
        spans
    };
    refuse(&index[1..], "a field is missing");
    refuse(&[&index[..], &[first]].concat(), "a field is listed twice");
    refuse(&changed(|span| span.value_at = u32::MAX), "outside of the text");
    refuse(&changed(|span| (span.name_at, span.name_len) = (u32::MAX, u32::MAX)), "overflow");
    refuse(&changed(|span| span.value_len += 1), "a byte too long");
    refuse(&changed(|span| span.kind = ValueKind::Object), "another kind");
    refuse(&changed(|span| span.name_escaped = true), "an escape that is none");
}

#[test]
fn an_index_that_cuts_characters_finds_nothing() {
    let text = r#"{"straße":"ß"}"#;
    let span = PropertySpan { value_at: 12, value_len: 1, ..sample::index(text)[0] };
    assert_eq!(span.value(text), None);
    assert_eq!(PropertySpan { name_len: 5, ..span }.name(text), None);
}

#[test]
fn texts_that_are_no_json_objects_are_refused() {
    let mut builder = EventBuilder::new();
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    for text in ["", "[]", "7", "{", "{}{}", "{},\"topic\":\"x\"", "{\"a\":01}", "{\"a\"}", &deep] {
        let text = Some(text);
        for (name, parts) in [
            ("properties", EventParts { properties: text, ..EventParts::default() }),
            ("traits", EventParts { traits: text, ..EventParts::default() }),
            ("context", EventParts { context: text, ..EventParts::default() }),
            ("integrations", EventParts { integrations: text, ..EventParts::default() }),
            ("extra", EventParts { extra: text, ..EventParts::default() }),
        ] {
            let refused = verify(builder.build(&parts).bytes());
            assert_eq!(refused, Err(EventError::NotAnObject(name)), "{text:?}");
        }
        for (name, enriched) in enriched_objects(text) {
            let parts = EventParts { enriched: Some(&enriched), ..EventParts::default() };
            let refused = verify(builder.build(&parts).bytes());
            assert_eq!(refused, Err(EventError::NotAnObject(name)), "{text:?}");
        }
    }
}

/// Each JSON text of enrichment by its name, alone.
fn enriched_objects(text: Option<&str>) -> [(&'static str, EnrichedParts<'_>); 3] {
    let profile = |profile| EnrichedParts { profile: Some(profile), ..EnrichedParts::default() };
    [
        ("profile.traits", profile(ProfileParts { traits: text, ..ProfileParts::default() })),
        (
            "profile.groupTraits",
            profile(ProfileParts { group_traits: text, ..ProfileParts::default() }),
        ),
        ("enrichFailures", EnrichedParts { failures: text, ..EnrichedParts::default() }),
    ]
}

#[test]
fn a_bare_time_must_be_a_json_value() {
    let mut builder = EventBuilder::new();
    let mut check = |text| {
        let flags = EventFlags::SENT_TIME_BARE;
        let parts = EventParts { sent_time_text: Some(text), flags, ..EventParts::default() };
        verify(builder.build(&parts).bytes()).map(read_all)
    };
    assert_eq!(check("1767323045678"), Ok(()));
    assert_eq!(check("{\"a\":[1]}"), Ok(()));
    assert_eq!(check("now"), Err(EventError::BareTime("sentAt")));
    assert_eq!(check("1,\"a\":2"), Err(EventError::BareTime("sentAt")));
}

#[test]
fn a_view_is_of_events_alone() {
    let mut builder = RejectedBuilder::new();
    let rejected = builder.build(&RejectedParts::default());
    assert!(EventView::of(rejected).is_none());
    assert!(EventView::of(Record::opaque(b"TLEV")).is_none());
    assert_eq!(rejected.event_time(), None);
    assert_eq!(verify(rejected.bytes()), Err(EventError::NotAnEvent));
}

#[test]
fn a_kind_of_a_newer_program_is_refused() {
    let mut builder = EventBuilder::new();
    let parts = EventParts { kind: EventKind::Alias, ..EventParts::default() };
    let good = builder.build(&parts).bytes().to_vec();
    let unknown = (0..good.len()).filter(|at| good[*at] == 5).any(|at| {
        let mut bytes = good.clone();
        bytes[at] = 6;
        verify(&bytes) == Err(EventError::Kind(6))
    });
    assert!(unknown);
}

#[test]
fn the_partition_key_is_the_anonymous_id_else_the_user_else_the_message() {
    let mut builder = EventBuilder::new();
    let mut key = |anonymous_id, user_id| {
        let parts = EventParts { message_id: "m", anonymous_id, user_id, ..EventParts::default() };
        EventView::of(builder.build(&parts)).unwrap().partition_key().to_owned()
    };
    assert_eq!(key(Some("a"), Some("u")), "a");
    assert_eq!(key(None, Some("u")), "u");
    assert_eq!(key(None, None), "m");
}

#[test]
fn a_builder_forgets_the_event_before() {
    let mut builder = EventBuilder::new();
    let fresh = builder.build(&EventParts::default()).bytes().to_vec();
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(2 << 20));
    builder.build(&EventParts { properties: Some(&large), ..EventParts::default() });
    builder.build(&sample::full(&sample::index(PROPERTIES)));
    assert_eq!(builder.build(&EventParts::default()).bytes(), fresh);
}

#[test]
#[should_panic(expected = "the intake bounds the headers")]
fn more_headers_than_the_verifier_passes_cannot_be_built() {
    let headers = vec![("a", "b"); HEADERS_MAX + 1];
    EventBuilder::new().build(&EventParts { headers: &headers, ..EventParts::default() });
}

#[test]
fn as_many_headers_as_may_be_pass_the_verifier() {
    let headers = vec![("", ""); HEADERS_MAX];
    let mut builder = EventBuilder::new();
    let parts = EventParts { headers: &headers, ..EventParts::default() };
    let record = verify(builder.build(&parts).bytes()).unwrap();
    assert_eq!(EventView::of(record).unwrap().headers().count(), HEADERS_MAX);
}

#[test]
fn an_event_is_little_larger_than_its_texts() {
    let index = sample::index(PROPERTIES);
    let parts = sample::twelve_fields(&index);
    let mut builder = EventBuilder::new();
    let record = builder.build(&parts);
    let event = EventView::of(record).unwrap();
    let texts = event.message_id().len()
        + texts_of(&event).iter().flatten().map(|text| text.len()).sum::<usize>()
        + objects_of(&event).iter().flatten().map(|text| text.len()).sum::<usize>();
    let index_bytes = index.len() * 20;
    let overhead = record.bytes().len() - texts - index_bytes;
    // Per text its offset, length, end and padding; the table and where its fields lie; times.
    assert!(overhead <= 280, "{overhead} bytes beside {texts} of text and {index_bytes} of index");
    assert_eq!(record.bytes().len() % 8, 0);
    assert_eq!(record.kind(), PayloadKind::Event);
}
