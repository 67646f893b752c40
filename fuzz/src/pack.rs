//! A small pack, what is in it, and ways to edit its file: as rot does, or with checksums made good
//! again; and packs around a footer or a frame of any bytes.
//!
//! The layout is told in the engine's FORMAT.md, §9, from which this was written.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use tracklog_engine::disk::simulated::SimDisk;
use tracklog_engine::disk::{Disk, FileName, PackId};
use tracklog_engine::fuzzing::{PackShown, pack_shown};
use tracklog_log::Retention;
use tracklog_protocol::event::{EventBuilder, EventParts};
use tracklog_protocol::{Offset, PartitionId, Record, TimeMicros};
use xxhash_rust::xxh3::xxh3_64;

use crate::disk::{Node, u32_at, u64_at};

const PAGE_BYTES: usize = 4096;
const TRAILER_BYTES: usize = 64;
/// Of each section of the footer.
const SECTION_HEAD_BYTES: usize = 12;
const SECTION_HEAD: u16 = 1;
const SECTION_FRAMES: u16 = 2;
const SECTION_SHARES: u16 = 3;
const SECTION_RUNS: u16 = 4;
const SECTION_IDS: u16 = 8;
const SECTION_END: u16 = u16::MAX;
/// What the fields of the head take.
const HEAD_BYTES: usize = 76;

/// A frame in the file.
#[derive(Clone, Copy)]
pub struct SampleFrame<'a> {
    /// Its bytes there.
    pub stored: &'a [u8],
    /// How many come of it.
    pub space_bytes: u32,
}

/// A pack as the settler wrote it, and what it gives.
pub struct PackSample {
    pack: PackId,
    /// Its file.
    pub file: Vec<u8>,
    /// Its records.
    pub records: BTreeSet<(PartitionId, Offset, Vec<u8>)>,
    /// The events that are found by their ids, in the order of these.
    pub ids: Vec<(PartitionId, Offset)>,
}

impl PackSample {
    /// The one that there is.
    ///
    /// # Panics
    /// When the engine does not write it, or does not read what it wrote.
    pub fn the() -> &'static Self {
        static SAMPLE: OnceLock<PackSample> = OnceLock::new();
        SAMPLE.get_or_init(Self::write)
    }

    fn write() -> Self {
        let disk = SimDisk::new(2027);
        let mut node = Node::open_settling(&disk, "raw");
        let raw = node.topic("raw", 2, Retention::Keep);
        let keys = node.topic("_keys", 1, Retention::Compact)[0];
        let fill = node.topic("fill", 1, Retention::Keep)[0];
        let mut events = EventBuilder::new();
        for number in 0..12 {
            let id = format!("m-{number}");
            let properties = format!(r#"{{"n":{number},"list":[{number},null]}}"#);
            let record = events.build(&EventParts {
                message_id: &id,
                source: Some("web"),
                event_time: TimeMicros(1_767_225_600_000_000 + number),
                properties: Some(&properties),
                ..EventParts::default()
            });
            node.append(raw[usize::from(number % 3 == 0)], record);
            node.set(keys, b"colour", Some(&number.to_le_bytes()));
        }
        let other = node.topic("other", 1, Retention::Keep)[0];
        node.append(other, Record::opaque(&[b'z'; 3000]));
        // Nothing makes this smaller: it is stored as it is.
        let chance = node.topic("chance", 1, Retention::Keep)[0];
        let noise: Vec<_> = (0..=255_u8).flat_map(|it| xxh3_64(&[it]).to_le_bytes()).collect();
        node.append(chance, Record::opaque(&noise));
        // What fills the segment is trimmed: reading it costs time and tells nothing.
        for _ in 0..5 {
            node.append(fill, Record::opaque(&[b'b'; 480 << 10]));
        }
        node.trim(fill, Offset(5));
        node.settle_segments();
        let pack = disk.packs_folder().expect("it lists")[0].0;
        let file = disk.read_file(&FileName::Pack(pack)).expect("it was just listed");
        let PackShown { records, ids, has_witness, is_good } =
            shown(pack, file.clone()).expect("what was written is read");
        assert!(is_good && has_witness && records.len() > 12, "all of it");
        node.stop();
        let ids = ids.expect("it has an index");
        assert_eq!(ids.len(), 12, "each event");
        Self { pack, file, records: records.into_iter().collect(), ids }
    }

    /// What a file in the pack's place gives.
    #[must_use]
    pub fn shown(&self, file: Vec<u8>) -> Option<PackShown> {
        shown(self.pack, file)
    }

    /// The pack with another footer.
    #[must_use]
    pub fn with_footer(&self, footer: &[u8]) -> Vec<u8> {
        let (at, _) = footer_of(&self.file).expect("it is whole");
        sealed(&self.file[..at], footer, &self.file)
    }

    /// The footer of the pack.
    #[must_use]
    pub fn footer(&self) -> &[u8] {
        let (at, bytes) = footer_of(&self.file).expect("it is whole");
        &self.file[at..at + bytes]
    }

    /// One frame of each way in which frames are stored.
    ///
    /// # Panics
    /// When one is missing.
    #[must_use]
    pub fn frames(&self) -> [(&'static str, SampleFrame<'_>); 3] {
        let (mut body, mut from) = (SECTION_HEAD_BYTES + HEAD_BYTES, 0);
        let footer = self.footer();
        while footer[body..body + 2] != SECTION_FRAMES.to_le_bytes() {
            body += SECTION_HEAD_BYTES + u32_at(footer, body + 4) as usize;
        }
        body += SECTION_HEAD_BYTES;
        let frames = (0..u32_at(footer, body) as usize).map(|frame| {
            let sizes = body + 4 + 12 * frame;
            let to = from + u32_at(footer, sizes) as usize;
            let stored = &self.file[from..to];
            from = to;
            SampleFrame { stored, space_bytes: u32_at(footer, sizes + 4) }
        });
        let all: Vec<_> = frames.collect();
        let first = |is: fn(&SampleFrame<'_>) -> bool| *all.iter().find(|it| is(it)).expect("one");
        let is_whole = |it: &SampleFrame<'_>| it.stored.len() == it.space_bytes as usize;
        let has_columns = |it: &SampleFrame<'_>| it.stored.starts_with(b"TLCF");
        [
            ("frame-as-it-is", first(is_whole)),
            ("frame-of-columns", first(has_columns)),
            ("frame-of-zstd", first(|it| it.stored.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]))),
        ]
    }

    /// A pack of one frame, that says how many bytes come of it.
    ///
    /// # Panics
    /// When the frame is no input's: has 4 GiB.
    #[must_use]
    pub fn with_frame(&self, stored: &[u8], space_bytes: u32) -> Vec<u8> {
        let stored_bytes = u32::try_from(stored.len()).expect("an input is small");
        let mut footer = Vec::new();
        let head = &self.footer()[SECTION_HEAD_BYTES..][..HEAD_BYTES];
        section(&mut footer, SECTION_HEAD, head);
        let sizes = [1, stored_bytes, space_bytes, crc32fast::hash(stored)];
        section(&mut footer, SECTION_FRAMES, &sizes.map(u32::to_le_bytes).concat());
        section(&mut footer, SECTION_SHARES, &[0; 4]);
        section(&mut footer, SECTION_RUNS, &[0; 4]);
        section(&mut footer, SECTION_END, &2_u32.to_le_bytes());
        sealed(stored, &footer, &self.file)
    }
}

fn shown(pack: PackId, file: Vec<u8>) -> Option<PackShown> {
    let disk = SimDisk::new(1);
    disk.set_file(&FileName::Pack(pack), Some(file));
    let disk: Arc<dyn Disk> = Arc::new(disk);
    pack_shown(&disk, pack)
}

fn section(footer: &mut Vec<u8>, kind: u16, body: &[u8]) {
    let length = u32::try_from(body.len()).expect("an input is small");
    footer.extend_from_slice(&[kind.to_le_bytes(), [0; 2]].concat());
    footer.extend_from_slice(&length.to_le_bytes());
    footer.extend_from_slice(&[0; 4]);
    footer.extend_from_slice(body);
}

/// A file of what lies before the footer, the footer, and a trailer that is like another file's.
fn sealed(before: &[u8], footer: &[u8], like: &[u8]) -> Vec<u8> {
    let mut file = [before, footer].concat();
    file.resize((file.len() + TRAILER_BYTES).next_multiple_of(PAGE_BYTES) - TRAILER_BYTES, 0);
    let trailer = file.len();
    file.extend_from_slice(&like[like.len() - TRAILER_BYTES..]);
    file[trailer + 32..trailer + 40].copy_from_slice(&(before.len() as u64).to_le_bytes());
    file[trailer + 40..trailer + 48].copy_from_slice(&(footer.len() as u64).to_le_bytes());
    seal_pack(&mut file);
    file
}

/// Where the footer is said to lie, and how many bytes it has, if there are so many.
fn footer_of(file: &[u8]) -> Option<(usize, usize)> {
    let trailer = file.len().checked_sub(TRAILER_BYTES).map(|at| &file[at..])?;
    let (at, bytes) = (index(u64_at(trailer, 32))?, index(u64_at(trailer, 40))?);
    file.get(at..)?.get(..bytes).map(|_| (at, bytes))
}

fn index(at: u64) -> Option<usize> {
    usize::try_from(at).ok()
}

/// Makes all checksums of a pack good, as far as they can be found: of its frames, of its pages of ids,
/// of the footer's sections, and of the trailer.
pub fn seal_pack(file: &mut [u8]) {
    if let Some((footer_at, footer_bytes)) = footer_of(file) {
        let end = footer_at + footer_bytes;
        let mut at = footer_at;
        while at + SECTION_HEAD_BYTES <= end {
            let kind = u16::from_le_bytes([file[at], file[at + 1]]);
            let body = at + SECTION_HEAD_BYTES;
            let length = u32_at(file, at + 4) as usize;
            if length > end - body {
                break;
            }
            match kind {
                SECTION_FRAMES => seal_frames(file, body, length, footer_at),
                SECTION_IDS => seal_ids(file, body, length, footer_at),
                _ => {}
            }
            let mut crc = crc32fast::Hasher::new();
            crc.update(&file[at..at + 8]);
            crc.update(&file[body..body + length]);
            file[at + 8..at + 12].copy_from_slice(&crc.finalize().to_le_bytes());
            at = body + length;
        }
    }
    if let Some(trailer) = file.len().checked_sub(TRAILER_BYTES) {
        seal(&mut file[trailer..]);
    }
}

/// The last four bytes are the checksum of the others.
fn seal(bytes: &mut [u8]) {
    if let Some((covered, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32fast::hash(covered).to_le_bytes();
    }
}

fn seal_frames(file: &mut [u8], body: usize, length: usize, until: usize) {
    let mut from = 0_usize;
    for frame in (body + 4..(body + length).saturating_sub(11)).step_by(12) {
        let to = from.saturating_add(u32_at(file, frame) as usize);
        if to > until {
            return;
        }
        let crc = crc32fast::hash(&file[from..to]);
        file[frame + 8..frame + 12].copy_from_slice(&crc.to_le_bytes());
        from = to;
    }
}

fn seal_ids(file: &mut [u8], body: usize, length: usize, until: usize) {
    if length < 8 {
        return;
    }
    let Some(mut at) = index(u64_at(file, body)) else { return };
    while let Some(end) = at.checked_add(PAGE_BYTES).filter(|end| *end <= until) {
        seal(&mut file[at..end]);
        at = end;
    }
}
