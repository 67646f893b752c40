//! Events into files and back.

use parquet::file::reader::FileReader as _;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::statistics::Statistics;
use proptest::prelude::*;
use tracklog_protocol::event::{
    CampaignParts, DeviceParts, EnrichedParts, EventBuilder, EventFlags, EventKind, EventParts,
    EventView, Fields, GeoOrigin, GeoParts, PageParts, ProfileParts, RawPlace, SessionParts,
};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::{Offset, Record, Records, TimeMicros};

use crate::archive::columns::RowPlace;
use crate::archive::file::{FileError, FileWriter, OpenFile, WrittenFile};
use crate::archive::manifest::OffsetRange;
use crate::archive::properties::PropertyColumns;

/// Everything that owns what an event borrows.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    texts: Vec<Option<String>>,
    jsons: Vec<Option<String>>,
    headers: Vec<(String, String)>,
    times: Vec<i64>,
    numbers: Vec<u32>,
    offsets: Vec<u64>,
    degrees: Option<f64>,
    kind: usize,
    is: Vec<bool>,
}

impl Sample {
    /// One that has everything, each field another.
    pub(super) fn full() -> Self {
        let json =
            |number| Some(format!("{{\"price\": {number}.50,\"on\":true , \"\\u00e4\":null}}"));
        Self {
            texts: (0..70).map(|number| Some(format!("tëxt {number}"))).collect(),
            jsons: (0..8).map(json).collect(),
            headers: vec![("dnt".to_owned(), "1".to_owned()), ("x".to_owned(), String::new())],
            times: (0..5).map(|number| 1_767_323_045_678_901 + number).collect(),
            numbers: (1..7).collect(),
            offsets: vec![7, 8, u64::MAX],
            degrees: Some(51.5),
            kind: 1,
            is: vec![true; 13],
        }
    }

    /// One that has nothing but what every event has.
    pub(super) fn bare() -> Self {
        Self {
            texts: vec![None; 70],
            jsons: vec![None; 8],
            headers: Vec::new(),
            times: vec![0; 5],
            numbers: vec![0; 6],
            offsets: vec![0; 3],
            degrees: None,
            kind: 0,
            is: vec![false; 13],
        }
    }

    /// The record of the event that has all of it.
    pub(super) fn build(&self, with: impl FnOnce(Record<'_>)) {
        let mut texts = self.texts.iter().map(Option::as_deref);
        let mut text = || texts.next().expect("there are enough texts");
        let mut jsons = self.jsons.iter().map(Option::as_deref);
        let mut json = || jsons.next().expect("there are enough texts of JSON");
        let is = |index: usize| self.is[index];
        let time = |index: usize| TimeMicros(self.times[index]);
        let headers: Vec<_> = self.headers.iter().map(|(n, v)| (&**n, &**v)).collect();
        let session = SessionParts {
            id: text(),
            number: self.numbers[0],
            started: time(3),
            first_event: is(0),
            landing_page: text(),
            previous_ended: is(1).then_some(time(4)),
        };
        let device = DeviceParts {
            browser: text(),
            browser_version: text(),
            os: text(),
            os_version: text(),
            brand: text(),
            model: text(),
            class: text(),
            bot: is(2),
        };
        let geo = GeoParts {
            country: text(),
            region: text(),
            city: text(),
            postal_code: text(),
            time_zone: text(),
            latitude: self.degrees,
            longitude: self.degrees.map(|degrees| -degrees),
            accuracy_km: self.numbers[1],
            as_number: self.numbers[2],
            as_name: text(),
            origin: if is(3) { GeoOrigin::Header } else { GeoOrigin::Database },
        };
        let campaign = CampaignParts {
            source: text(),
            medium: text(),
            name: text(),
            term: text(),
            content: text(),
            id: text(),
            click_id: text(),
            click_id_kind: text(),
            referrer_host: text(),
            referrer_kind: text(),
            referrer_name: text(),
        };
        let page = PageParts {
            scheme: text(),
            host: text(),
            path: text(),
            query: text(),
            fragment: text(),
        };
        let profile =
            ProfileParts { version: Offset(self.offsets[0]), traits: json(), group_traits: json() };
        let enriched = EnrichedParts {
            resolved_user_id: text(),
            session: is(4).then_some(session),
            device: is(5).then_some(device),
            geo: is(6).then_some(geo),
            campaign: is(7).then_some(campaign),
            page: is(8).then_some(page),
            profile: is(9).then_some(profile),
            enriched_by: text(),
            failures: json(),
            state_offset: is(10).then_some(Offset(self.offsets[1])),
            made_from: is(11).then_some(RawPlace {
                partition: self.numbers[3],
                offset: Offset(self.offsets[2]),
            }),
        };
        let properties = json();
        let index = properties.map(|text| Fields::of(text).collect::<Result<Vec<_>, _>>().unwrap());
        let index = index.unwrap_or_default();
        let parts = EventParts {
            message_id: text().unwrap_or("m"),
            kind: EventKind::ALL[self.kind],
            name: text(),
            source: text(),
            anonymous_id: text(),
            user_id: text(),
            previous_id: text(),
            group_id: text(),
            session_id: text(),
            category: text(),
            event_time: time(0),
            received_time: time(1),
            client_time: is(12).then_some(time(2)),
            client_time_text: text(),
            sent_time_text: text(),
            flags: EventFlags::from_bits(self.numbers[4]),
            schema_version: Some(self.numbers[5]).filter(|version| *version != 0),
            peer_address: text(),
            client_address: text(),
            headers: &headers,
            user_agent: text(),
            locale: text(),
            page_url: text(),
            page_path: text(),
            page_referrer: text(),
            page_title: text(),
            library_name: text(),
            library_version: text(),
            channel: text(),
            properties,
            property_index: &index,
            traits: json(),
            context: json(),
            integrations: json(),
            extra: json(),
            enriched: Some(&enriched),
        };
        with(EventBuilder::new().build(&parts));
    }
}

fn json() -> impl Strategy<Value = Option<String>> {
    let value = prop_oneof![
        Just("null".to_owned()),
        Just("12.50".to_owned()),
        Just("-0".to_owned()),
        Just("12345678901234567890".to_owned()),
        Just("\"\\u00e4\\n\"".to_owned()),
        Just("{\"a\": [1 ,{}]}".to_owned()),
    ];
    let name = prop_oneof![Just("price"), Just("pri\\u0063e2"), Just("ä"), Just("on")];
    let object = proptest::collection::btree_map(name, value, 0..4).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(n, v)| format!(" \"{n}\" :\t{v}\n")).collect();
        format!("{{{}}}", members.join(","))
    });
    proptest::option::of(object)
}

fn sample() -> impl Strategy<Value = Sample> {
    use proptest::collection::vec;
    let text = || proptest::option::of("\\PC{0,6}");
    (
        vec(text(), 70),
        vec(json(), 8),
        vec(("[a-z-]{1,8}", "\\PC{0,6}"), 0..4),
        vec(any::<i64>(), 5),
        vec(prop_oneof![any::<u32>(), Just(0), Just(u32::MAX)], 6),
        vec(prop_oneof![any::<u64>(), Just(u64::MAX)], 3),
        proptest::option::of(
            any::<f64>().prop_filter("a bit pattern that is kept", |it| !it.is_nan()),
        ),
        0..6_usize,
        vec(any::<bool>(), 13),
    )
        .prop_map(|(texts, jsons, headers, times, numbers, offsets, degrees, kind, is)| {
            Sample { texts, jsons, headers, times, numbers, offsets, degrees, kind, is }
        })
}

fn line(place: RowPlace, record: Record<'_>) -> Vec<u8> {
    let RowPlace { partition, offset, appended_at } = place;
    let mut line = Vec::new();
    write_line(&mut line, LinePlace { topic: "raw", partition, offset, appended_at }, record);
    line
}

/// Places that rise, over three partitions.
fn places(count: usize) -> impl Iterator<Item = RowPlace> {
    let third = count.div_ceil(3).max(1);
    (0..count).map(move |index| RowPlace {
        partition: u32::try_from(index / third).unwrap(),
        offset: Offset((index % third) as u64 * 2 + 7),
        appended_at: TimeMicros(1_767_323_045_678_901 + index as i64),
    })
}

fn write(samples: &[Sample], properties: &PropertyColumns) -> (WrittenFile, Records) {
    let mut writer = FileWriter::new(properties);
    let mut records = Records::new();
    for (sample, place) in samples.iter().zip(places(samples.len())) {
        sample.build(|record| {
            writer.push(place, &EventView::of(record).unwrap(), record.bytes().len());
            records.push(record);
        });
    }
    (writer.finish(), records)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_file_gives_back_the_very_records_and_lines(
        samples in proptest::collection::vec(sample(), 1..12),
        with_schema in any::<bool>(),
    ) {
        let schema = r#"{"properties":{"price":{"type":"number"},"on":{"type":"boolean"},
            "ä":{"type":"string"}}}"#;
        let schemas = with_schema.then_some(schema.as_bytes());
        let (file, records) = write(&samples, &PropertyColumns::of_schemas(schemas));
        let open = open(&file);
        prop_assert_eq!(open.rows(), samples.len());
        prop_assert_eq!(open.partitions(), file.partitions);
        let mut expected = records.iter().zip(places(samples.len()));
        open.read(0..open.rows(), |place, record| {
            let (before, at) = expected.next().expect("no row is invented");
            assert_eq!(place, at);
            assert_eq!(line(place, record), line(at, before));
            assert_eq!(record.bytes(), before.bytes());
        }).unwrap();
        prop_assert!(expected.next().is_none());
    }

    #[test]
    fn a_damaged_file_is_told_and_not_looked_into(
        sample in sample(),
        flip in (any::<prop::sample::Index>(), 1..=u8::MAX),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let (file, _) = write(&[sample], &PropertyColumns::default());
        let mut bytes = file.bytes.to_vec();
        match cut {
            Some(cut) => bytes.truncate(cut.index(bytes.len())),
            None => {
                let at = flip.0.index(bytes.len());
                bytes[at] ^= flip.1;
            }
        }
        let seen = OpenFile::open(bytes.into(), &file.sha256);
        let is_told = matches!(seen, Err(FileError::Digest { .. }));
        prop_assert!(is_told);
    }
}

fn open(file: &WrittenFile) -> OpenFile {
    OpenFile::open(file.bytes.clone(), &file.sha256).unwrap()
}

fn small(count: usize) -> Vec<Sample> {
    let sample = |index: usize| Sample {
        texts: vec![Some(format!("text {}", index % 7)); 70],
        jsons: vec![Some(format!("{{\"price\":{index}}}")); 8],
        headers: Vec::new(),
        times: vec![index as i64; 5],
        numbers: vec![1; 6],
        offsets: vec![1; 3],
        degrees: None,
        kind: 0,
        is: vec![false; 13],
    };
    (0..count).map(sample).collect()
}

#[test]
fn a_stretch_of_a_partition_is_read_alone() {
    let (file, _) = write(&small(30_000), &PropertyColumns::default());
    let open = open(&file);
    let range = OffsetRange { partition: 1, from: 10_007, to: 10_012 };
    let rows = open.rows_of(range);
    let mut seen = Vec::new();
    open.read(rows, |place, _| seen.push((place.partition, place.offset.0))).unwrap();
    assert_eq!(seen, [(1, 10_007), (1, 10_009), (1, 10_011)]);
    assert!(open.rows_of(OffsetRange { partition: 7, from: 0, to: 9 }).is_empty());
}

#[test]
fn the_same_rows_are_the_same_bytes() {
    let columns = PropertyColumns::of_schemas([&br#"{"properties":{"price":{}}}"#[..]]);
    let samples = small(5_000);
    assert_eq!(write(&samples, &columns).0.bytes, write(&samples, &columns).0.bytes);
}

#[test]
fn the_footer_says_how_rows_are_sorted_and_what_values_each_column_has() {
    let (file, _) = write(&small(30_000), &PropertyColumns::default());
    let reader = SerializedFileReader::new(file.bytes).unwrap();
    let metadata = reader.metadata();
    assert_eq!(metadata.num_row_groups(), 1, "thirty thousand rows are few");
    let group = metadata.row_group(0);
    let sorted: Vec<_> = group
        .sorting_columns()
        .expect("it says how it is sorted")
        .iter()
        .map(|by| (group.column(by.column_idx as usize).column_path().string(), by.descending))
        .collect();
    assert_eq!(sorted, [("partition".to_owned(), false), ("offset".to_owned(), false)]);
    let column = |name: &str| {
        group.columns().iter().position(|it| it.column_path().string() == name).unwrap()
    };
    for at in group.columns() {
        assert!(at.statistics().is_some(), "{}", at.column_path());
    }
    let Some(Statistics::Int64(offsets)) = group.column(column("offset")).statistics() else {
        panic!("offsets are of 64 bits");
    };
    assert_eq!((offsets.min_opt(), offsets.max_opt()), (Some(&7), Some(&(9_999 * 2 + 7))));
    let Some(Statistics::Int32(partitions)) = group.column(column("partition")).statistics() else {
        panic!("partitions are of 32 bits");
    };
    assert_eq!((partitions.min_opt(), partitions.max_opt()), (Some(&0), Some(&2)));
    // What readers choose pages by has the values of each page as well.
    for name in ["partition", "offset", "appended_at", "timestamp", "name", "type"] {
        assert!(group.column(column(name)).column_index_range().is_some(), "{name}");
    }
}

#[test]
fn rows_that_are_alike_take_a_small_part_of_what_their_events_take() {
    let (file, _) = write(&small(30_000), &PropertyColumns::default());
    let (bytes, of_events) = (file.bytes.len() as u64, file.event_bytes);
    assert!(bytes * 20 < of_events, "{bytes} bytes for {of_events} of events");
}
