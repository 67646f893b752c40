//! What the whole promises, over events of every form.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::batch::{BatchBuilder, Stamp, gap};
use crate::event::{
    CampaignParts, DeviceParts, EnrichedParts, EventBuilder, EventFlags, EventKind, EventParts,
    Fields, GeoOrigin, GeoParts, PageParts, ProfileParts, RawPlace, SessionParts,
};
use crate::{
    BatchView, Offset, PartitionId, PayloadKind, ProducerEpoch, ProducerId, Record, Sequence,
    TimeMicros, TopicId, VerifiedBatch,
};

const STAMP: Stamp = Stamp {
    partition: PartitionId::new(TopicId(7), 3),
    base_offset: Offset(1_000),
    append_time: TimeMicros(1_767_323_046_201_342),
};

/// Batches as they lie in a frame.
fn space_of(batches: &[Bytes]) -> Vec<u8> {
    let mut space = Vec::new();
    for batch in batches {
        space.extend_from_slice(batch);
        space.resize(space.len().next_multiple_of(8), 0);
    }
    space
}

fn stamped(batch: &VerifiedBatch, base_offset: u64) -> Bytes {
    let stamp = Stamp { base_offset: Offset(base_offset), ..STAMP };
    batch.stamped(&stamp).bytes().clone()
}

fn events(parts: &[EventParts<'_>]) -> VerifiedBatch {
    let (mut builder, mut batch) = (EventBuilder::new(), BatchBuilder::new(PayloadKind::Event));
    for parts in parts {
        batch.push(builder.build(parts));
    }
    batch.finish()
}

/// The areas' sizes, when the bytes come back from them.
fn sizes(space: &[u8]) -> Option<[usize; 3]> {
    let mut encoder = Encoder::new();
    let areas = encoder.encode(space)?;
    assert_eq!(decode(areas, space.len()).unwrap(), space);
    Some([areas.numbers.len(), areas.texts.len(), areas.raw.len()])
}

/// An event with all that can be in one.
fn whole_event(check: impl FnOnce(EventParts<'_>)) {
    let text = Some("some text");
    let properties = r#"{"id":"p-1","price":1.50,"tags":["a","b"],"deep":{"a":null}}"#;
    let index: Vec<_> = Fields::of(properties).collect::<Result<_, _>>().unwrap();
    let time = TimeMicros(1_767_323_045_678_000);
    let enriched = EnrichedParts {
        resolved_user_id: text,
        session: Some(SessionParts {
            id: Some("1f0e3dad99908345"),
            number: 3,
            started: time,
            first_event: true,
            landing_page: text,
            previous_ended: Some(time),
        }),
        campaign: Some(CampaignParts { source: text, id: text, ..CampaignParts::default() }),
        device: Some(DeviceParts { browser: text, bot: true, ..DeviceParts::default() }),
        geo: Some(GeoParts {
            country: text,
            latitude: Some(52.5),
            longitude: Some(13.4),
            accuracy_km: 20,
            as_number: 64_500,
            origin: GeoOrigin::Header,
            ..GeoParts::default()
        }),
        page: Some(PageParts { host: text, ..PageParts::default() }),
        profile: Some(ProfileParts {
            version: Offset(12),
            traits: Some(r#"{"plan":"pro"}"#),
            group_traits: Some("{}"),
        }),
        enriched_by: text,
        failures: Some(r#"{"geo":"late"}"#),
        state_offset: Some(Offset(1_234)),
        made_from: Some(RawPlace { partition: 3, offset: Offset(987_654_321) }),
    };
    check(EventParts {
        message_id: "ajs-next-1767323045678-2f1b0a55-7d0c-4c7d-9a52-0c4d7c1f6f6f",
        kind: EventKind::Screen,
        name: text,
        source: text,
        anonymous_id: Some("8f14e45f-ceea-467f-a0e6-4b3f3b3b3b3b"),
        user_id: Some("user-4711"),
        previous_id: text,
        group_id: text,
        session_id: text,
        category: text,
        event_time: time,
        received_time: TimeMicros(time.0 + 523_342),
        client_time: Some(time),
        client_time_text: Some("2026-01-02T03:04:05.678Z"),
        sent_time_text: Some("2026-01-02T03:04:06.000Z"),
        flags: EventFlags::SKEW_CORRECTED,
        schema_version: Some(2),
        peer_address: Some("10.0.0.1"),
        client_address: Some("203.0.113.9"),
        headers: &[("accept-language", "de"), ("dnt", "1"), ("x", "")],
        user_agent: text,
        locale: text,
        page_url: text,
        page_path: text,
        page_referrer: text,
        page_title: text,
        library_name: text,
        library_version: text,
        channel: text,
        properties: Some(properties),
        property_index: &index,
        traits: Some(r#"{"plan":"pro"}"#),
        context: Some(r#"{"page":{"title":"some text"},"ip":"203.0.113.9"}"#),
        integrations: Some("{}"),
        extra: Some(r#"{"n":1}"#),
        enriched: Some(&enriched),
    });
}

#[test]
fn an_event_with_every_field_is_taken_apart() {
    whole_event(|parts| {
        let [once, texts, _] = sizes(&space_of(&[stamped(&events(&[parts]), 0)])).unwrap();
        let ten = space_of(&[stamped(&events(&[parts; 10]), 0)]);
        let [all, all_texts, _] = sizes(&ten).unwrap();
        assert_eq!(all_texts, texts, "nine more bring no new template, shape or text");
        assert!(all < once + 9 * 100, "{once} bytes, {all} for ten");
    });
}

#[test]
fn what_a_builder_lays_out_otherwise_is_kept_as_it_is() {
    let mut buffer = flatbuffers::FlatBufferBuilder::new();
    let text = Some(buffer.create_string("one text for two fields"));
    let args = crate::generated::event::EventArgs {
        message_id: text,
        name: text,
        ..crate::generated::event::EventArgs::default()
    };
    let event = crate::generated::event::Event::create(&mut buffer, &args);
    crate::generated::event::finish_event_buffer(&mut buffer, event);
    let mut batch = BatchBuilder::new(PayloadKind::Event);
    batch.push(crate::event::verify(buffer.finished_data()).unwrap());
    assert!(sizes(&space_of(&[stamped(&batch.finish(), 0)])).is_some());
}

#[test]
fn a_number_that_came_before_the_latest_of_its_column_is_told_anew() {
    let properties = Some(r#"{"a":[5000,7000],"b":5000}"#);
    let parts = EventParts { message_id: "m", properties, ..EventParts::default() };
    assert!(sizes(&space_of(&[stamped(&events(&[parts]), 0)])).is_some());
}

#[test]
fn a_frame_without_events_is_left_alone() {
    let mut batch = BatchBuilder::new(PayloadKind::Opaque);
    batch.push(Record::opaque(b"anything"));
    assert_eq!(sizes(&space_of(&[stamped(&batch.finish(), 0)])), None);
    assert_eq!(sizes(&[]), None);
    assert_eq!(sizes(&[0; 64]), None);
}

#[test]
fn batches_of_all_sorts_beside_events_come_back() {
    whole_event(|parts| {
        let (id, epoch) = (ProducerId(u64::MAX), ProducerEpoch(7));
        let record = |batch: &mut BatchBuilder| {
            batch.push(EventBuilder::new().build(&parts));
            batch.push(EventBuilder::new().build(&EventParts { name: None, ..parts }));
        };
        let mut produced =
            BatchBuilder::new(PayloadKind::Event).produced_by(id, epoch, Sequence(5));
        record(&mut produced);
        let mut derived = BatchBuilder::new(PayloadKind::Event).derived_by(
            id,
            epoch,
            Sequence(7)..Sequence(1_000),
        );
        record(&mut derived);
        let mut opaque = BatchBuilder::new(PayloadKind::Opaque);
        opaque.push(Record::opaque(b"odd"));
        let several = stamped(&events(&[parts; 3]), 10);
        let view = BatchView::checked(several.clone()).unwrap();
        let thinned = view.without(|offset, _| offset != Offset(11)).unwrap();
        let large = format!(r#"{{"a":"{}"}}"#, "é".repeat(200_000));
        let large = EventParts { traits: Some(&large), ..parts };
        let space = space_of(&[
            stamped(&produced.finish(), 0),
            stamped(&derived.finish(), 2),
            gap(PayloadKind::Event, 6, &STAMP),
            several,
            thinned.bytes().clone(),
            stamped(&opaque.finish(), 90),
            stamped(&events(&[large]), 91),
        ]);
        assert!(sizes(&space).is_some());
    });
}

/// Texts that are like ids, numbers, times, and like nothing.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{0,12}",
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "[0-9a-fA-F]{0,70}",
        "[0-9]{1,25}",
        "user-[0-9]{1,6}",
        "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}",
        "20[0-9]{2}-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\\.[0-9]{3}Z",
        "1[0-9]{12}",
        ".{0,40}",
        Just("the same".to_owned()),
    ]
}

/// JSON objects, and texts that are none.
fn json() -> impl Strategy<Value = String> {
    let string = text().prop_map(|text| serde_json::Value::from(text).to_string());
    let leaf = prop_oneof![
        string,
        any::<i32>().prop_map(|number| number.to_string()),
        any::<f32>().prop_map(|number| format!("{number:e}")),
        Just("null".to_owned()),
        Just("true".to_owned()),
    ];
    let value = leaf.prop_recursive(3, 12, 4, |value| {
        let pair = ("[a-d ]{1,2}", value.clone());
        prop_oneof![
            prop::collection::vec(value, 0..4).prop_map(|all| format!("[{}]", all.join(", "))),
            prop::collection::vec(pair, 0..4).prop_map(object),
        ]
    });
    prop_oneof![
        8 => prop::collection::vec(("[a-d]{1,2}", value), 0..6).prop_map(object),
        1 => text(),
        1 => "[{}\\[\\]:,\"\\\\a1 ]{0,20}",
    ]
}

fn object(pairs: Vec<(String, String)>) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
    format!("{{{}}}", pairs.join(","))
}

#[derive(Clone, Debug)]
struct SomeEvent {
    message_id: String,
    texts: [Option<String>; 5],
    json: [Option<String>; 3],
    times: [i64; 3],
    flags: u32,
}

fn some_event() -> impl Strategy<Value = SomeEvent> {
    let texts = prop::array::uniform5(prop::option::of(text()));
    let time = prop_oneof![any::<i64>(), 1_767_000_000_000_000..1_768_000_000_000_000_i64];
    let json = prop::array::uniform3(prop::option::of(json()));
    (text(), texts, json, prop::array::uniform3(time), 0..8_u32).prop_map(
        |(message_id, texts, json, times, flags)| SomeEvent {
            message_id,
            texts,
            json,
            times,
            flags,
        },
    )
}

impl SomeEvent {
    fn parts(&self) -> EventParts<'_> {
        let [anonymous_id, user_id, user_agent, page_url, client_time_text] =
            self.texts.each_ref().map(Option::as_deref);
        let [properties, context, traits] = self.json.each_ref().map(Option::as_deref);
        EventParts {
            message_id: &self.message_id,
            anonymous_id,
            user_id,
            user_agent,
            page_url,
            client_time_text,
            properties,
            context,
            traits,
            event_time: TimeMicros(self.times[0]),
            received_time: TimeMicros(self.times[1]),
            client_time: (self.flags.is_multiple_of(2)).then_some(TimeMicros(self.times[2])),
            schema_version: Some(self.flags),
            ..EventParts::default()
        }
    }
}

fn some_space() -> impl Strategy<Value = Vec<u8>> {
    let batch = prop::collection::vec(some_event(), 1..6);
    prop::collection::vec(batch, 1..6).prop_map(|batches| {
        let mut offset = 0;
        let batches: Vec<_> = batches
            .iter()
            .map(|events_of| {
                let parts: Vec<_> = events_of.iter().map(SomeEvent::parts).collect();
                let batch = stamped(&events(&parts), offset);
                offset += parts.len() as u64;
                batch
            })
            .collect();
        space_of(&batches)
    })
}

proptest! {
    #[test]
    fn any_batches_of_events_come_back_byte_for_byte(space in some_space()) {
        prop_assert!(sizes(&space).is_some(), "nothing of a builder is beyond columns");
    }

    #[test]
    fn rotten_and_torn_areas_never_panic_and_never_grow(
        space in some_space(),
        rot in prop::collection::vec((0..3_usize, any::<prop::sample::Index>(), any::<u8>()), 1..4),
        torn in prop::option::of((0..3_usize, any::<prop::sample::Index>())),
    ) {
        let mut encoder = Encoder::new();
        let areas = encoder.encode(&space).unwrap();
        let mut all = [areas.numbers.to_vec(), areas.texts.to_vec(), areas.raw.to_vec()];
        for (area, at, byte) in rot {
            let bytes = all[area].len();
            if bytes > 0 {
                all[area][at.index(bytes)] = byte;
            }
        }
        if let Some((area, at)) = torn {
            let bytes = at.index(all[area].len() + 1);
            all[area].truncate(bytes);
        }
        let [numbers, texts, raw] = &all;
        if let Ok(read) = decode(Areas { numbers, texts, raw }, space.len()) {
            prop_assert_eq!(read.len(), space.len());
        }
    }

    #[test]
    fn a_decoder_gives_the_same_whatever_it_read_before(
        one in some_space(),
        other in some_space(),
        torn in any::<prop::sample::Index>(),
    ) {
        let (mut of_one, mut of_other) = (Encoder::new(), Encoder::new());
        let of_one = of_one.encode(&one).unwrap();
        let of_other = of_other.encode(&other).unwrap();
        let texts = &of_other.texts[..torn.index(of_other.texts.len() + 1)];
        let mut decoder = Decoder::default();
        let mut read = |areas, bytes: usize| {
            let mut space = vec![0xa5; bytes + ROOM_BEHIND];
            decoder.decode(areas, &mut space).map(|()| space[..bytes].to_vec())
        };
        for before in [of_other, Areas { texts, ..of_other }, of_one] {
            let _either = read(before, other.len());
            prop_assert_eq!(read(of_one, one.len()), Ok(one.clone()));
        }
    }

    #[test]
    fn an_encoder_gives_the_same_again(one in some_space(), other in some_space()) {
        let mut encoder = Encoder::new();
        let first = encoder.encode(&one).map(|areas| areas.numbers.to_vec());
        encoder.encode(&other);
        let again = encoder.encode(&one).map(|areas| areas.numbers.to_vec());
        prop_assert_eq!(first, again);
    }
}

/// Columns that were written once are read for ever: no change of the encoder, or of how events are
/// built, touches this.
#[test]
fn columns_of_the_first_version_are_read() {
    let areas = Areas {
        numbers: include_bytes!("../../testdata/columns-v1/numbers"),
        texts: include_bytes!("../../testdata/columns-v1/texts"),
        raw: include_bytes!("../../testdata/columns-v1/raw"),
    };
    let space = include_bytes!("../../testdata/columns-v1/space");
    assert_eq!(decode(areas, space.len()).unwrap(), space);
}
