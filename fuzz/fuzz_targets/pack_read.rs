//! Bytes as a pack, which is given to all who read one: openings, readers, look-ups by id, verifications.
//!
//! The first byte says how: edits of a pack, as rot makes them or *forged*, with all checksums made good
//! again; or bytes that are its footer; or bytes that are its only frame. What must hold:
//! - reading ends, and takes memory for what is there and no more than a frame besides;
//! - rot invents nothing: each record that is read was written, at that offset, and so is each event that
//!   is found by its id; where a verification finds nothing wrong all of them are there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tracklog_fuzz::pack::{PackSample, seal_pack};

const EDITS_MAX: usize = 12;
const PAGE_BYTES: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((how, rest)) = input.split_first() else { return };
    let sample = PackSample::the();
    match how % 4 {
        0 => rot(sample, rest),
        1 => {
            let mut file = edited(sample, rest);
            seal_pack(&mut file);
            drop(sample.shown(file));
        }
        2 => drop(sample.shown(sample.with_footer(rest))),
        _ => {
            let Some((space_bytes, stored)) = rest.split_first_chunk::<4>() else { return };
            drop(sample.shown(sample.with_frame(stored, u32::from_le_bytes(*space_bytes))));
        }
    }
});

fn rot(sample: &PackSample, edits: &[u8]) {
    let Some(shown) = sample.shown(edited(sample, edits)) else { return };
    let count = shown.records.len();
    for record in shown.records {
        assert!(sample.records.contains(&record), "{} at {} is another", record.0, record.1);
    }
    if let Some(ids) = &shown.ids {
        assert_eq!(*ids, sample.ids, "ids lead elsewhere");
    }
    if shown.is_good {
        assert_eq!(count, sample.records.len(), "records are passed over in silence");
    }
}

/// The pack's file after changes of eight bytes each: what, where, and a value.
fn edited(sample: &PackSample, edits: &[u8]) -> Vec<u8> {
    let mut file = sample.file.clone();
    for edit in edits.chunks_exact(8).take(EDITS_MAX) {
        let edit: [u8; 8] = edit.try_into().expect("eight bytes");
        let [what, a, b, c, value @ ..] = edit;
        let at = u32::from_le_bytes([a, b, c, 0]) as usize % file.len();
        let page = at / PAGE_BYTES * PAGE_BYTES;
        let left = file.len() - at;
        match what % 6 {
            0 => file[at] ^= 1 << (value[0] % 8),
            1 => file[at..at + left.min(4)].copy_from_slice(&value[..left.min(4)]),
            2 => file[at..at + left.min(1)].copy_from_slice(&value[..left.min(1)]),
            3 => file[page..page + PAGE_BYTES].fill(0),
            4 => {
                // Misdirected: another page's bytes.
                let from = usize::from(value[0]) * PAGE_BYTES % file.len();
                file.copy_within(from..from + PAGE_BYTES, page);
            }
            _ => file.truncate(page + PAGE_BYTES),
        }
    }
    file
}
