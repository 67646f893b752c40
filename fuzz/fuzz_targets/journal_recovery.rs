//! Bytes as edits of a log's files while nobody has it open; then it is opened, read, appended to,
//! and opened again.
//!
//! The first byte says how: whether loss is accepted, whether the edits are rot or *forged*, with
//! the checksums around them made good and chains mended, and whether the files are verified first.
//! Each edit is eight bytes: what, where, at which byte, and a value. What must hold:
//! - opening, reading and verifying end, and whoever may not open is told so by an error;
//! - what is opened can be appended to, and shows the same and the new at the next opening, which
//!   only forged files may keep from happening;
//! - rot invents nothing: each record that is read was written, at that offset, and of those below
//!   the end each is read or told as damaged. Forged files say what they like, but not twice, and
//!   with numbers that a log can have: a count near 2^64 under a good checksum is nobody's.
#![no_main]

use std::num::NonZeroUsize;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tracklog_engine::disk::simulated::SimDisk;
use tracklog_engine::disk::{Disk, FileName};
use tracklog_engine::verify_on;
use tracklog_fuzz::disk::{
    Contents, Node, Sample, Share, chain, seal_commit, seal_header, seal_slot,
};
use tracklog_log::Item;
use tracklog_protocol::{Offset, Record};

const EDITS_MAX: usize = 12;
const PAGE_BYTES: u64 = 4096;
/// Where the fields of a commit's header lie, and how wide they are.
const HEADER_FIELDS: &[(u64, usize)] = &[
    (4, 2),
    (6, 1),
    (7, 1),
    (8, 8),
    (16, 8),
    (24, 8),
    (32, 8),
    (40, 4),
    (44, 4),
    (48, 8),
    (56, 8),
    (64, 8),
    (72, 4),
    (76, 4),
];

fuzz_target!(|input: &[u8]| {
    let Some((how, edits)) = input.split_first() else { return };
    let (accept_loss, is_forged) = (how & 1 != 0, how & 2 != 0);
    let sample = Sample::the();
    let disk = sample.machine();
    for edit in edits.chunks_exact(8).take(EDITS_MAX) {
        let edit = Edit::of(edit.try_into().expect("eight bytes"));
        if edit.is_possible(&disk, sample) {
            edit.make(&disk, sample, is_forged);
        }
    }
    if how & 4 != 0 {
        let seen: Arc<dyn Disk> = Arc::new(disk.clone());
        // What it finds is for people to read.
        drop(verify_on(&seen, NonZeroUsize::MIN, &mut |_| {}));
    }
    open_and_go_on(&disk, sample, accept_loss, is_forged);
});

fn open_and_go_on(disk: &SimDisk, sample: &Sample, accept_loss: bool, is_forged: bool) {
    let Ok(mut node) = Node::open(disk, accept_loss) else { return };
    let contents_of = if is_forged { Node::contents_of_forged } else { Node::contents };
    let mut first = contents_of(&node);
    if !is_forged {
        invents_nothing(&first, sample);
    }
    let Some(partition) = first.keys().copied().max_by_key(|partition| partition.topic) else {
        return;
    };
    let appended = node.try_append(Item::Record { partition, record: Record::opaque(b"new") });
    node.stop();
    if let Ok(stored) = appended {
        let share = first.get_mut(&partition).expect("it was read");
        assert_eq!(stored.offset(0), share.extent.end, "the next offset is given");
        share.records.insert(stored.offset(0), b"new".to_vec());
        share.extent.end = stored.offset(0).plus(1);
    }
    let again = Node::open(&disk.reboot(), accept_loss);
    let again = match again {
        Ok(again) => again,
        // A checkpoint may have covered for a lie until the next one was written.
        Err(_) if is_forged => return,
        Err(error) => panic!("what was opened opens again: {error}"),
    };
    let contents = contents_of(&again);
    for (partition, share) in &first {
        let found = &contents[partition];
        let is_end_same = found.extent == share.extent;
        // Nor is there a gap but where forged files say that commits are missing.
        let is_end_kept = is_end_same || is_forged && found.extent.end > share.extent.end;
        assert!(is_end_kept, "{partition} goes from {:?} to {:?}", share.extent, found.extent);
        let is_same = found == share || again.lacks_a_slot();
        // Once a checkpoint no longer covers for a lie, what it hid is told as damage.
        assert!(
            is_same || is_forged && tells_no_other(found, share),
            "{partition} shows {} and not {}",
            brief(found),
            brief(share)
        );
    }
    again.stop();
}

/// Whether `found` has the records of `share` and no others, but for those that either says are
/// damaged: a forged directory says so of more records than its batch has, as long as it is read.
fn tells_no_other(found: &Share, share: &Share) -> bool {
    let is_damaged = |share: &Share, at| share.damage.iter().any(|range| range.contains(at));
    let is_same = |(at, bytes): (_, &Vec<u8>)| {
        share.records.get(at).map_or_else(|| is_damaged(share, at), |before| before == bytes)
    };
    found.records.iter().all(is_same)
        && share.records.keys().all(|at| found.records.contains_key(at) || is_damaged(found, at))
}

fn brief(share: &Share) -> String {
    let Share { extent, records, damage } = share;
    let records: Vec<_> = records.iter().map(|(at, bytes)| (at.0, bytes.len())).collect();
    format!("{extent:?}, records {records:?}, damage {damage:?}")
}

fn invents_nothing(found: &Contents, sample: &Sample) {
    for (partition, share) in found {
        let Some(original) = sample.contents.get(partition) else {
            // It is there again when nothing is left that tells of its end.
            let mut records = share.records.iter();
            let is_known = records.all(|(at, it)| *at == Offset::ZERO && it == sample.deleted);
            assert!(is_known, "records in a partition that was deleted");
            continue;
        };
        for (offset, bytes) in &share.records {
            // What was trimmed is there again when the trim is lost.
            if *offset >= original.extent.start {
                assert_eq!(original.records.get(offset), Some(bytes), "{partition} at {offset}");
            }
        }
        let mut offset = share.extent.start;
        while offset < share.extent.end.min(original.extent.end) {
            let is_told = share.damage.iter().any(|range| range.contains(&offset));
            let is_read = share.records.contains_key(&offset);
            assert!(is_read || is_told, "{partition} at {offset} is passed over in silence");
            offset = offset.plus(1);
        }
    }
}

/// One change of the files.
struct Edit {
    what: u8,
    place: usize,
    at: u16,
    value: [u8; 4],
}

impl Edit {
    const fn of(bytes: [u8; 8]) -> Self {
        let [what, place, low, high, value @ ..] = bytes;
        Self { what, place: place as usize, at: u16::from_le_bytes([low, high]), value }
    }

    /// Whether all slots that it may name are there.
    fn is_possible(&self, disk: &SimDisk, sample: &Sample) -> bool {
        let folder = disk.journal_folder().expect("it lists");
        let is_there = |slot| folder.slots.iter().any(|(there, _)| *there == slot);
        is_there(pick(&sample.pages, self.place).0)
            && is_there(pick(&sample.pages, usize::from(self.at)).0)
            && is_there(pick(&sample.commits, self.place).0)
            && is_there(*pick(&sample.slots, self.place))
    }

    fn make(&self, disk: &SimDisk, sample: &Sample, is_forged: bool) {
        let (page_slot, page) = *pick(&sample.pages, self.place);
        let (slot, commit) = *pick(&sample.commits, self.place);
        let within = |end: u64, width: u64| u64::from(self.at) % (end - width + 1);
        let word = |end: u64| within(end, 4) / 4 * 4;
        match self.what % 10 {
            0 => disk.corrupt(page_slot, page + within(PAGE_BYTES, 4), &self.value),
            1 => disk.flip_bit(page_slot, page + within(PAGE_BYTES, 1), self.value[0] % 8),
            2 => disk.corrupt(page_slot, page, &[0; PAGE_BYTES as usize]),
            3 => {
                // Misdirected: another page's bytes.
                let (from_slot, from) = *pick(&sample.pages, usize::from(self.at));
                let bytes = disk.peek(from_slot, from, PAGE_BYTES as usize);
                disk.corrupt(page_slot, page, &bytes);
            }
            4 => self.edit_file(disk),
            5 => drop(disk.remove_slot(*pick(&sample.slots, self.place))),
            6 => disk.break_range(page_slot, page..page + PAGE_BYTES),
            7 if is_forged => {
                let (at, width) = *pick(HEADER_FIELDS, usize::from(self.at));
                let mut field = [0; 8];
                field[..4].copy_from_slice(&self.value);
                disk.corrupt(slot, commit + at, &field[..width]);
                seal_header(disk, slot, commit);
                chain(disk, self.chained(sample));
            }
            8 if is_forged => {
                disk.corrupt(slot, commit + 128 + word(160), &self.small());
                seal_commit(disk, slot, commit);
                chain(disk, self.chained(sample));
            }
            9 if is_forged => {
                let slot = *pick(&sample.slots, self.place);
                disk.corrupt(slot, word(96), &self.small());
                seal_slot(disk, slot);
            }
            // Rot where it tells most.
            7 => disk.corrupt(slot, commit + within(128, 4), &self.value),
            8 => disk.corrupt(slot, commit + 128 + within(160, 4), &self.value),
            _ => disk.corrupt(*pick(&sample.slots, self.place), within(96, 4), &self.value),
        }
    }

    /// Half of a field: no number that a log counts with comes near the end of 64 bits.
    const fn small(&self) -> [u8; 4] {
        [self.value[0], self.value[1], 0, 0]
    }

    /// The commits whose chains an edit of this one breaks, where it does not leave them so.
    fn chained<'a>(&self, sample: &'a Sample) -> &'a [(tracklog_engine::disk::SlotId, u64)] {
        if self.what & 0x80 != 0 {
            return &[];
        }
        let commits = &sample.commits[self.place % sample.commits.len()..];
        commits.chunk_by(|(one, _), (other, _)| one == other).next().expect("it is not empty")
    }

    fn edit_file(&self, disk: &SimDisk) {
        let name = match self.place % 4 {
            0 => FileName::CheckpointA,
            1 => FileName::CheckpointB,
            segment => FileName::Index(segment as u64 - 1),
        };
        let Ok(mut bytes) = disk.read_file(&name) else { return };
        let at = usize::from(self.at) % (bytes.len() + 1);
        match self.value[0] % 3 {
            0 => disk.set_file(&name, None),
            1 => {
                bytes.truncate(at);
                disk.set_file(&name, Some(bytes));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= self.value[1];
                }
                disk.set_file(&name, Some(bytes));
            }
        }
    }
}

fn pick<T>(list: &[T], at: usize) -> &T {
    &list[at % list.len()]
}
