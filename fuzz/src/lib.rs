//! What the targets have in common: reading everything that can be read from a record; a parser
//! that is not ours ([`json`]); a source and a request ([`gateway`]); and a log on a disk in memory
//! that is edited behind its back ([`disk`]), and so is a pack ([`pack`]).
//!
//! Called by the files in `fuzz_targets/`, which each decide how a record comes to be, and by the
//! writer of the seeds in `examples/`.
#![forbid(unsafe_code)]

pub mod disk;
pub mod gateway;
pub mod json;
pub mod pack;

use std::hint::black_box;

use serde::de::IgnoredAny;
use tracklog_protocol::batch::HEADER_BYTES;
use tracklog_protocol::event::{EventView, Property};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::{Offset, Record, TimeMicros};

/// Reads all of a record that was let in, as a stage and a replay would.
///
/// # Panics
/// When a promise of the views or of the line does not hold.
pub fn read_all(record: Record<'_>) {
    if let Some(event) = EventView::of(record) {
        event.headers().for_each(|header| {
            black_box(header);
        });
        read_properties(&event);
    }
    let line = line_of(record);
    let text = line.strip_suffix(b"\n").expect("a line ends with a line break");
    assert!(!text.contains(&b'\n'), "a line has no other line break");
    serde_json::from_slice::<IgnoredAny>(text).expect("a line is JSON");
}

fn read_properties(event: &EventView<'_>) {
    let Some(text) = event.properties() else {
        return;
    };
    for span in event.property_index() {
        let name = span.name(text).expect("a checked index fits its text");
        assert!(event.property(&name).is_some(), "a field that is there is found by its name");
        match span.value(text).expect("a checked index fits its text") {
            Property::Number(number) => {
                black_box((number.as_f64(), number.as_i64(), number.as_u64()));
            }
            Property::String(string) => {
                black_box(string.text());
            }
            Property::Null | Property::Bool(_) | Property::Array(_) | Property::Object(_) => {}
        }
    }
}

fn line_of(record: Record<'_>) -> Vec<u8> {
    let at = LinePlace {
        topic: "raw",
        partition: 3,
        offset: Offset(7),
        appended_at: TimeMicros(1_767_322_800_000_000),
    };
    let mut line = Vec::new();
    write_line(&mut line, at, record);
    line
}

/// A batch whose size and checksums say what is there. The layout is told at the head of the
/// protocol's `batch`.
#[must_use]
pub fn with_good_checksums(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let batch_bytes = u32::try_from(bytes.len()).ok()?;
    let header_bytes = usize::from(*bytes.get(3)?) * 8;
    if header_bytes < HEADER_BYTES || header_bytes > bytes.len() {
        return None;
    }
    let body_crc = crc32fast::hash(&bytes[header_bytes..]);
    bytes[8..12].copy_from_slice(&batch_bytes.to_le_bytes());
    bytes[16..20].copy_from_slice(&body_crc.to_le_bytes());
    let mut header = crc32fast::Hasher::new();
    header.update(&bytes[..20]);
    header.update(&bytes[24..header_bytes]);
    bytes[20..24].copy_from_slice(&header.finalize().to_le_bytes());
    Some(bytes)
}
