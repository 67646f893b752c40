//! Any bytes as columns, and any bytes as a batch that is turned into columns.
//!
//! Columns are refused, or give as many bytes as were asked for; what they give is turned into columns
//! and back without a change. A batch, its checksums mended, is left alone or comes back as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracklog_fuzz::with_good_checksums;
use tracklog_protocol::columns::{Areas, Encoder, decode};

/// What is asked for at most: as much as a frame has.
const SPACE_BYTES_MAX: usize = 512 << 10;

fuzz_target!(|input: &[u8]| {
    read_columns(input);
    if let Some(batch) = with_good_checksums(input) {
        turn(&batch);
    }
});

/// Eight bytes say how large numbers and texts are, and how many bytes are asked for.
fn read_columns(input: &[u8]) -> Option<()> {
    let (sizes, areas) = input.split_first_chunk::<8>()?;
    let numbers_bytes = usize::from(u16::from_le_bytes([sizes[0], sizes[1]]));
    let texts_bytes = usize::from(u16::from_le_bytes([sizes[2], sizes[3]]));
    let asked = u32::from_le_bytes([sizes[4], sizes[5], sizes[6], sizes[7]]) as usize;
    let (numbers, rest) = areas.split_at_checked(numbers_bytes)?;
    let (texts, raw) = rest.split_at_checked(texts_bytes)?;
    let asked = asked % SPACE_BYTES_MAX / 8 * 8;
    let space = decode(Areas { numbers, texts, raw }, asked).ok()?;
    assert_eq!(space.len(), asked, "as many bytes as were asked for");
    turn(&space);
    Some(())
}

fn turn(batches: &[u8]) {
    let mut space = batches.to_vec();
    space.resize(space.len().next_multiple_of(8), 0);
    if let Some(areas) = Encoder::new().encode(&space) {
        assert_eq!(decode(areas, space.len()).as_deref(), Ok(&space[..]), "the same bytes");
    }
}
