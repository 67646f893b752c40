//! Packs as bytes: the batches of one stretch of segments, sorted, compressed and indexed.
//! FORMAT.md §9.
//!
//! ```text
//! +---------+---------+----   ---+-----+--------+------- … -+---------+
//! | frame 0 | frame 1 |  …       | ids | footer | zeros     | trailer |
//! +---------+---------+----   ---+-----+--------+------- … -+---------+
//! ```
//!
//! A frame holds batches as they lay in the journal, those of a partition side by side, each at a
//! multiple of 8; together the frames, uncompressed, are the pack's *space*, in which places count.
//!
//! Promises
//! - A [`PackIndex`] in hand is of the very pack that was asked for; every checksum over it held,
//!   and every place in it lies within one frame.
//! - Reading bytes of any kind never panics, and allocates by what is there.
//!
//! Written by the settler; read by opening, the read path and `verify`.

use std::io;

use bytes::Bytes;
use tracklog_protocol::batch::{BATCH_BYTES_MAX, BatchHeader, HEADER_BYTES as BATCH_HEADER_BYTES};
use tracklog_protocol::{BatchView, Offset, PartitionId, PayloadKind, TimeMicros, TopicId};
use xxhash_rust::xxh3::xxh3_64;

use crate::disk::{Disk, PAGE_BYTES, PackFile, PackId, PackWriter, PageBuffer, batch_of_pack};
use crate::fields::{Fields, FieldsMut};
use crate::journal::commit::{CommitNumber, Run};
use crate::journal::segment::ClusterId;
use crate::partition::places::{PartitionShare, Place};
use crate::sections::{MAY_SKIP, next_section, section, section_that_may_be_skipped};
use crate::seen::event_ids::IdKey;
use crate::settled::compressing::Compressor;
use crate::settled::ids::{IdIndex, IdReader, IdsBuilder, OFFSETS_PER_PLACE_MAX};
use crate::settled::witness::{Commits, Witness};

/// A frame is filled up to so much, but for a batch that is larger by itself.
pub(crate) const FRAME_BYTES: usize = 512 << 10;
/// None is larger: that one batch.
const FRAME_BYTES_MAX: usize = BATCH_BYTES_MAX;
/// Written at once.
const WRITE_BYTES: usize = 1 << 20;
const MAGIC: u64 = u64::from_le_bytes(*b"TLOGPACK");
const VERSION: u32 = 2;
/// Its frames hold no columns; all else is the same.
const VERSION_WITHOUT_COLUMNS: u32 = 1;
const TRAILER_BYTES: usize = 64;
const TRAILER_CRC_AT: usize = TRAILER_BYTES - 4;
/// No footer is larger: 100,000 partitions take some 10 MB.
const FOOTER_BYTES_MAX: u64 = 1 << 30;
/// Places count in units of 8 bytes, in 32 bits.
const SPACE_BYTES_MAX: u64 = (u32::MAX as u64) * 8;

const SECTION_HEAD: u16 = 1;
const SECTION_FRAMES: u16 = 2;
const SECTION_SHARES: u16 = 3;
const SECTION_RUNS: u16 = 4;
// 5 held hashes in order of offsets, in earlier packs.
const SECTION_COMMITS: u16 = 6;
const SECTION_WITNESS: u16 = 7;
const SECTION_IDS: u16 = 8;
const SECTION_END: u16 = u16::MAX;

/// The stretch of the journal that a pack holds, and what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackHead {
    pub(crate) id: PackId,
    /// The last commit of the stretch.
    pub(crate) run: Run,
    pub(crate) last: CommitNumber,
    /// Its append time.
    pub(crate) append_time_last: TimeMicros,
    /// Batches and records.
    pub(crate) batches: u64,
    pub(crate) records: u64,
    /// What the journal took for them: slots, headers and padding included.
    pub(crate) journal_bytes: u64,
    /// What the file takes up to its footer.
    pub(crate) file_bytes: u64,
}

/// A stretch of the pack's space, as it lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Where in the file.
    pub(crate) at: u64,
    /// Bytes in the file: as many as uncompressed where compression gained nothing.
    pub(crate) stored_bytes: u32,
    /// Where in the space.
    pub(crate) space_at: u64,
    /// Bytes in the space.
    pub(crate) space_bytes: u32,
    /// CRC-32 of the bytes in the file.
    pub(crate) crc: u32,
}

impl Frame {
    pub(crate) const fn space_end(&self) -> u64 {
        self.space_at + self.space_bytes as u64
    }
}

/// Where in a pack everything lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackIndex {
    pub(crate) head: PackHead,
    /// The runs of its stretch, and how far end offsets skipped at the head of each.
    pub(crate) runs: Vec<(Run, u64)>,
    pub(crate) frames: Vec<Frame>,
    /// By partition. A place is a stretch of batches within one frame.
    pub(crate) shares: Vec<PartitionShare>,
    /// For each share the append time of the last batch at each of its places.
    pub(crate) append_times: Vec<Vec<TimeMicros>>,
    /// Where events are found by message id, if they are.
    pub(crate) ids: Option<IdIndex>,
    /// What it stands for; the first packs do not say so.
    pub(crate) commits: Option<Commits>,
}

/// Why a file is not the pack that is wanted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PackError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is torn or rotten")]
    Bad,
    #[error("it belongs to another log, or is another pack")]
    Other,
    #[error("it was written by a later version")]
    Newer,
}

impl PackIndex {
    /// Reads the index of the pack that is open.
    pub(crate) fn read(
        file: &dyn PackFile,
        cluster: ClusterId,
        id: PackId,
    ) -> Result<Self, PackError> {
        let (index, of) = Self::read_any(file)?;
        if of == cluster && index.head.id == id { Ok(index) } else { Err(PackError::Other) }
    }

    /// The index of whatever pack is open, and whose it is: for those who look at files.
    pub(crate) fn read_any(file: &dyn PackFile) -> Result<(Self, ClusterId), PackError> {
        let (trailer, footer) = read_footer(file)?;
        let index = Self::decode(&footer)?;
        let frames_end =
            index.frames.last().map_or(0, |frame| frame.at + u64::from(frame.stored_bytes));
        let ids_end = index.ids.as_ref().is_none_or(|ids| ids.ends_by(trailer.footer_at));
        if frames_end > trailer.footer_at || !ids_end {
            return Err(PackError::Bad);
        }
        Ok((index, trailer.cluster))
    }

    /// What the log was when the pack was made, if it says so: read apart, since it is large and
    /// seldom asked for.
    pub(crate) fn read_witness(file: &dyn PackFile) -> Result<Option<Witness>, PackError> {
        let (_, footer) = read_footer(file)?;
        let witness = Sections::read(&footer)?.section(SECTION_WITNESS);
        let witness = witness.map(|mut fields| Witness::decode(&mut fields));
        witness.map(|witness| witness.ok_or(PackError::Bad)).transpose()
    }

    /// The index of the pack that is open, where it is the pack of `head`, and a hash over the footer,
    /// which holds the checksums of all else in it.
    pub(crate) fn fingerprint(
        file: &dyn PackFile,
        head: &PackHead,
    ) -> Result<(Self, u64), PackError> {
        let (_, footer) = read_footer(file)?;
        let index = Self::decode(&footer)?;
        if index.head == *head { Ok((index, xxh3_64(&footer))) } else { Err(PackError::Other) }
    }

    fn encode(&self, witness: &Witness) -> Vec<u8> {
        let mut footer = Vec::new();
        section(&mut footer, SECTION_HEAD, |fields| self.head.encode(fields));
        section(&mut footer, SECTION_RUNS, |fields| {
            fields.put_list(&self.runs, |fields, (run, skip)| {
                fields.put_u64(run.0);
                fields.put_u64(*skip);
            });
        });
        section(&mut footer, SECTION_FRAMES, |fields| {
            fields.put_list(&self.frames, |fields, frame| {
                fields.put_u32(frame.stored_bytes);
                fields.put_u32(frame.space_bytes);
                fields.put_u32(frame.crc);
            });
        });
        section(&mut footer, SECTION_SHARES, |fields| {
            fields.put_u32(crate::fields::length_u32(self.shares.len()));
            for (share, times) in self.shares.iter().zip(&self.append_times) {
                put_share(share, times, fields);
            }
        });
        if let Some(ids) = &self.ids {
            section_that_may_be_skipped(&mut footer, SECTION_IDS, |fields| ids.encode(fields));
        }
        if let Some(commits) = &self.commits {
            let write = |fields: &mut Vec<u8>| commits.encode(fields);
            section_that_may_be_skipped(&mut footer, SECTION_COMMITS, write);
        }
        let write = |fields: &mut Vec<u8>| witness.encode(fields);
        section_that_may_be_skipped(&mut footer, SECTION_WITNESS, write);
        section(&mut footer, SECTION_END, |fields| fields.put_u32(VERSION));
        footer
    }

    fn decode(footer: &[u8]) -> Result<Self, PackError> {
        let sections = Sections::read(footer)?;
        let section = |kind: u16| sections.section(kind);
        let index = || {
            let head = PackHead::decode(&mut section(SECTION_HEAD)?)?;
            let frames = frames(&mut section(SECTION_FRAMES)?)?;
            let shares = section(SECTION_SHARES)?.list(share)?;
            let (shares, append_times) = shares.into_iter().unzip();
            let runs =
                section(SECTION_RUNS)?.list(|fields| Some((Run(fields.u64()?), fields.u64()?)))?;
            let ids = match section(SECTION_IDS) {
                Some(mut fields) => Some(IdIndex::decode(&mut fields)?),
                None => None,
            };
            let commits = match section(SECTION_COMMITS) {
                Some(mut fields) => Some(Commits::decode(&mut fields)?),
                None => None,
            };
            Some(Self { head, runs, frames, shares, append_times, ids, commits })
        };
        index().filter(Self::is_sound).ok_or(PackError::Bad)
    }

    /// Whether it is in order, and every place lies within one frame.
    fn is_sound(&self) -> bool {
        let rise = self.shares.is_sorted_by(|one, other| one.partition < other.partition);
        rise && self.shares.iter().zip(&self.append_times).all(|(share, times)| {
            let in_order = share.places.is_sorted_by(|one, other| {
                one.base_offset < other.base_offset && one.end() <= other.at()
            });
            let last = share.places.last();
            in_order
                && times.len() == share.places.len()
                && times.is_sorted()
                && last.is_some_and(|last| last.base_offset < share.end)
                && share.places.iter().all(|place| {
                    place.batch_bytes as usize >= BATCH_HEADER_BYTES
                        && self.frame_of(place).is_some()
                })
        })
    }

    /// The frame in which a place lies, by its number.
    pub(crate) fn frame_of(&self, place: &Place) -> Option<usize> {
        let after = self.frames.partition_point(|frame| frame.space_at <= place.at());
        let at = after.checked_sub(1)?;
        (place.end() <= self.frames[at].space_end()).then_some(at)
    }

    pub(crate) fn share(&self, partition: PartitionId) -> Option<&PartitionShare> {
        self.share_at(partition).map(|at| &self.shares[at])
    }

    fn share_at(&self, partition: PartitionId) -> Option<usize> {
        self.shares.binary_search_by_key(&partition, |share| share.partition).ok()
    }

    /// Tells what each topic takes in the file, in order of topics: a frame is of one topic.
    pub(crate) fn topic_bytes(&self, mut tell: impl FnMut(TopicId, u64)) {
        let mut next = 0;
        for share in &self.shares {
            let Some(last) = share.places.last().and_then(|place| self.frame_of(place)) else {
                continue;
            };
            let frames = self.frames.get(next..=last).unwrap_or_default();
            let bytes = frames.iter().map(|frame| u64::from(frame.stored_bytes)).sum();
            tell(share.partition.topic, bytes);
            next = next.max(last + 1);
        }
    }

    /// The first place of the partition whose last batch was appended at `time` or later.
    pub(crate) fn first_appended_at(
        &self,
        partition: PartitionId,
        time: TimeMicros,
    ) -> Option<(&PartitionShare, usize)> {
        let at = self.share_at(partition)?;
        let place = self.append_times[at].partition_point(|last| *last < time);
        (place < self.shares[at].places.len()).then(|| (&self.shares[at], place))
    }

    /// Whether it stands for a pack that could not be read.
    pub(crate) const fn is_missing(&self) -> bool {
        self.frames.is_empty() && self.head.batches > 0
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        let places: usize = self.shares.iter().map(|share| share.places.len()).sum();
        let bytes = places * (size_of::<Place>() + size_of::<TimeMicros>())
            + self.shares.len() * (size_of::<PartitionShare>() + size_of::<Vec<TimeMicros>>())
            + self.frames.len() * size_of::<Frame>()
            + self.ids.as_ref().map_or(0, IdIndex::memory_bytes);
        bytes as u64
    }
}

impl PackHead {
    pub(crate) fn encode(&self, fields: &mut Vec<u8>) {
        fields.put_u64(self.id.first);
        fields.put_u64(self.id.last);
        fields.put_u32(self.id.generation);
        fields.put_u64(self.run.0);
        fields.put_u64(self.last.0);
        fields.put_time(self.append_time_last);
        fields.put_u64(self.batches);
        fields.put_u64(self.records);
        fields.put_u64(self.journal_bytes);
        fields.put_u64(self.file_bytes);
    }

    pub(crate) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let id = PackId { first: fields.u64()?, last: fields.u64()?, generation: fields.u32()? };
        let head = Self {
            id,
            run: Run(fields.u64()?),
            last: CommitNumber(fields.u64()?),
            append_time_last: fields.time()?,
            batches: fields.u64()?,
            records: fields.u64()?,
            journal_bytes: fields.u64()?,
            file_bytes: fields.u64()?,
        };
        (id.first <= id.last).then_some(head)
    }

    /// Of a pack that cannot be read: nothing is to be found in it.
    pub(crate) fn without_index(self) -> PackIndex {
        PackIndex {
            head: self,
            runs: Vec::new(),
            frames: Vec::new(),
            shares: Vec::new(),
            append_times: Vec::new(),
            ids: None,
            commits: None,
        }
    }
}

/// Frames lie side by side, in the file and in the space.
fn frames(fields: &mut Fields<'_>) -> Option<Vec<Frame>> {
    let sizes = fields.list(|fields| Some((fields.u32()?, fields.u32()?, fields.u32()?)))?;
    let (mut at, mut space_at) = (0_u64, 0_u64);
    let frames = sizes.into_iter().map(|(stored_bytes, space_bytes, crc)| {
        let frame = Frame { at, stored_bytes, space_at, space_bytes, crc };
        at += u64::from(stored_bytes);
        space_at += u64::from(space_bytes);
        frame
    });
    let frames: Vec<Frame> = frames.collect();
    let sound = frames.iter().all(|frame| {
        frame.space_bytes.is_multiple_of(8)
            && frame.space_bytes as usize <= FRAME_BYTES_MAX
            && frame.stored_bytes <= frame.space_bytes
    });
    (sound && space_at <= SPACE_BYTES_MAX).then_some(frames)
}

fn put_share(share: &PartitionShare, append_times: &[TimeMicros], fields: &mut Vec<u8>) {
    fields.put_u32(share.partition.topic.0);
    fields.put_u32(share.partition.partition);
    fields.put_time(share.event_time_max);
    fields.put_u64(share.end.0);
    fields.put_u32(crate::fields::length_u32(share.places.len()));
    for (place, time) in share.places.iter().zip(append_times) {
        fields.put_u64(place.base_offset.0);
        fields.put_u32(place.unit());
        fields.put_u32(place.batch_bytes);
        fields.put_time(*time);
    }
}

fn share(fields: &mut Fields<'_>) -> Option<(PartitionShare, Vec<TimeMicros>)> {
    let partition = PartitionId::new(TopicId(fields.u32()?), fields.u32()?);
    let event_time_max = fields.time()?;
    let end = Offset(fields.u64()?);
    let places = fields.list(|fields| {
        let (base_offset, unit, bytes) = (Offset(fields.u64()?), fields.u32()?, fields.u32()?);
        Some((Place::at_unit(base_offset, unit, bytes), fields.time()?))
    })?;
    let (places, append_times) = places.into_iter().unzip();
    Some((PartitionShare { partition, event_time_max, places, end }, append_times))
}

/// The sections of a footer, each under a checksum that held.
#[derive(Default)]
struct Sections<'a> {
    known: [Option<Fields<'a>>; SECTION_IDS as usize + 1],
}

impl<'a> Sections<'a> {
    fn read(footer: &'a [u8]) -> Result<Self, PackError> {
        let mut fields = Fields::new(footer);
        let mut sections = Self::default();
        loop {
            let (kind, flags, body) = next_section(&mut fields).ok_or(PackError::Bad)?;
            match sections.known.get_mut(usize::from(kind)) {
                Some(known) => *known = Some(Fields::new(body)),
                None if kind == SECTION_END => return Ok(sections),
                None if flags & MAY_SKIP != 0 => {}
                None => return Err(PackError::Newer),
            }
        }
    }

    fn section(&self, kind: u16) -> Option<Fields<'a>> {
        self.known[usize::from(kind)]
    }
}

fn read_footer(file: &dyn PackFile) -> Result<(Trailer, Vec<u8>), PackError> {
    let bytes = file.bytes();
    let page = PAGE_BYTES as u64;
    if bytes < page || !bytes.is_multiple_of(page) {
        return Err(PackError::Bad);
    }
    let mut last = PageBuffer::zeroed(PAGE_BYTES);
    file.read(bytes - page, &mut last)?;
    let trailer = Trailer::decode(&last[PAGE_BYTES - TRAILER_BYTES..])?;
    let end = trailer.footer_at.checked_add(trailer.footer_bytes);
    if end.is_none_or(|end| end > bytes) || trailer.footer_bytes > FOOTER_BYTES_MAX {
        return Err(PackError::Bad);
    }
    let footer = read_range(file, trailer.footer_at, trailer.footer_bytes)?;
    Ok((trailer, footer))
}

/// The last bytes of the file.
struct Trailer {
    cluster: ClusterId,
    footer_at: u64,
    footer_bytes: u64,
}

impl Trailer {
    fn encode(&self) -> Vec<u8> {
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        trailer.put_u64(MAGIC);
        trailer.put_u32(VERSION);
        trailer.put_u32(0);
        trailer.put_u128(self.cluster.0);
        trailer.put_u64(self.footer_at);
        trailer.put_u64(self.footer_bytes);
        trailer.resize(TRAILER_CRC_AT, 0);
        let crc = crc32fast::hash(&trailer);
        trailer.put_u32(crc);
        trailer
    }

    fn decode(bytes: &[u8]) -> Result<Self, PackError> {
        let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(PackError::Bad)?;
        if crc32fast::hash(covered).to_le_bytes() != *crc {
            return Err(PackError::Bad);
        }
        let mut fields = Fields::new(covered);
        if fields.u64() != Some(MAGIC) {
            return Err(PackError::Bad);
        }
        if !matches!(fields.u32(), Some(VERSION_WITHOUT_COLUMNS | VERSION)) {
            return Err(PackError::Newer);
        }
        let mut trailer = move || {
            let _zero = fields.u32()?;
            Some(Self {
                cluster: ClusterId(fields.u128()?),
                footer_at: fields.u64()?,
                footer_bytes: fields.u64()?,
            })
        };
        trailer().ok_or(PackError::Bad)
    }
}

/// Any bytes of a pack's file.
pub(crate) fn read_range(file: &dyn PackFile, at: u64, bytes: u64) -> io::Result<Vec<u8>> {
    let (pages, from) = read_pages(file, at, bytes, PageBuffer::zeroed)?;
    let length = usize::try_from(bytes).expect("what was read fits into memory");
    Ok(pages[from..from + length].to_vec())
}

/// The pages in which some bytes of a pack's file lie, and where in them these begin.
pub(crate) fn read_pages(
    file: &dyn PackFile,
    at: u64,
    bytes: u64,
    buffer: impl FnOnce(usize) -> PageBuffer,
) -> io::Result<(PageBuffer, usize)> {
    let page = PAGE_BYTES as u64;
    let start = at / page * page;
    let end = (at + bytes).next_multiple_of(page);
    if end > file.bytes() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let length = usize::try_from(end - start).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut pages = buffer(length);
    file.read(start, &mut pages)?;
    let from = usize::try_from(at - start).expect("less than a page");
    Ok((pages, from))
}

/// The batches at one place of a pack, in order. The first that is no good ends it.
pub(crate) struct Batches {
    rest: Bytes,
}

impl Batches {
    pub(crate) const fn new(stretch: Bytes) -> Self {
        Self { rest: stretch }
    }
}

impl Iterator for Batches {
    type Item = Result<BatchView, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let bytes = BatchHeader::decode(&self.rest).map(|header| header.batch_bytes());
        let bytes = match bytes {
            Ok(bytes) if bytes <= self.rest.len() => bytes,
            Ok(_) => return self.fail("a batch goes beyond its frame"),
            Err(error) => return self.fail(&error.to_string()),
        };
        let batch = self.rest.split_to(bytes);
        let padding = bytes.next_multiple_of(8) - bytes;
        drop(self.rest.split_to(padding.min(self.rest.len())));
        match batch_of_pack(batch) {
            Ok(batch) => Some(Ok(batch)),
            Err(error) => self.fail(&error.to_string()),
        }
    }
}

impl Batches {
    fn fail(&mut self, why: &str) -> Option<Result<BatchView, String>> {
        self.rest = Bytes::new();
        Some(Err(why.to_owned()))
    }
}

/// Writes a pack: batches come in order of topic, partition and offset.
pub(crate) struct PackBuilder {
    file: Box<dyn PackWriter>,
    cluster: ClusterId,
    compressor: Compressor,
    /// What is to be written next, and how much of it is filled.
    pages: PageBuffer,
    filled: usize,
    /// How many bytes the file has, those in `pages` included.
    at: u64,
    /// The frame that is being filled.
    frame: Vec<u8>,
    space_at: u64,
    frames: Vec<Frame>,
    shares: Vec<PartitionShare>,
    append_times: Vec<Vec<TimeMicros>>,
    id_key: IdKey,
    /// So many places there are, in all shares.
    places: u32,
    /// Whether the events that come are to be found by their ids.
    finds_ids: bool,
    ids: IdsBuilder,
    batches: u64,
    records: u64,
}

impl PackBuilder {
    /// Begins the file of `pack`.
    pub(crate) fn new(
        disk: &dyn Disk,
        (cluster, id_key): (ClusterId, IdKey),
        pack: PackId,
        level: i32,
    ) -> io::Result<Self> {
        Ok(Self {
            file: disk.create_pack(pack)?,
            cluster,
            compressor: Compressor::new(level)?,
            pages: PageBuffer::zeroed(WRITE_BYTES),
            filled: 0,
            at: 0,
            frame: Vec::with_capacity(FRAME_BYTES),
            space_at: 0,
            frames: Vec::new(),
            shares: Vec::new(),
            append_times: Vec::new(),
            id_key,
            places: 0,
            finds_ids: false,
            ids: IdsBuilder::new(id_key),
            batches: 0,
            records: 0,
        })
    }

    /// Says whether the events of the batches that come are to be found by their ids.
    pub(crate) const fn set_finds_ids(&mut self, finds: bool) {
        self.finds_ids = finds;
    }

    /// Says that all events of a topic are to be found by their ids.
    pub(crate) fn cover_ids(&mut self, topic: TopicId) {
        self.ids.cover(topic);
    }

    /// Takes what a pack that is merged says of the ids of some topics.
    pub(crate) fn merge_ids(&mut self, pack: IdReader, topics: Vec<TopicId>) {
        self.ids.merge(pack, topics);
    }

    /// Adds the next batch.
    ///
    /// # Panics
    /// When it does not come behind the one before.
    pub(crate) fn add(&mut self, batch: &BatchView) -> io::Result<()> {
        let bytes = batch.bytes();
        let partition = batch.partition();
        let last = self.shares.last();
        let begins = self.frame.len().next_multiple_of(8);
        let other_topic = last.is_some_and(|last| last.partition.topic != partition.topic);
        // Who reads all of some large partitions at once would decode a frame of two of them twice:
        // at the end of one, and at the beginning of the other.
        let behind_large =
            last.is_some_and(|last| last.partition != partition && last.places.len() > 1);
        let is_full = other_topic || behind_large || begins + bytes.len() > FRAME_BYTES;
        if !self.frame.is_empty() && is_full {
            self.end_frame()?;
        }
        self.frame.resize(self.frame.len().next_multiple_of(8), 0);
        self.list(batch);
        if self.finds_ids && batch.header().kind() == PayloadKind::Event {
            let place = self.shares.last().and_then(|share| share.places.last());
            let place = place.expect("the batch was just listed");
            self.ids.add((self.places - 1, place.base_offset), batch);
        }
        self.frame.extend_from_slice(bytes);
        self.batches += 1;
        self.records += u64::from(batch.count());
        Ok(())
    }

    /// Lists a batch that comes next in the frame.
    fn list(&mut self, batch: &BatchView) {
        let at = self.space_at + self.frame.len() as u64;
        let (partition, bytes) = (batch.partition(), batch.bytes().len());
        if self.shares.last().is_none_or(|last| last.partition != partition) {
            assert!(
                self.shares.last().is_none_or(|last| last.partition < partition),
                "partitions come in order"
            );
            self.shares.push(PartitionShare {
                partition,
                event_time_max: TimeMicros(i64::MIN),
                places: Vec::new(),
                end: Offset::ZERO,
            });
            self.append_times.push(Vec::new());
        }
        let share = self.shares.last_mut().expect("it was just made sure");
        let times = self.append_times.last_mut().expect("there is one for each share");
        assert!(share.end <= batch.base_offset(), "the offsets of a partition rise");
        share.end = batch.end_offset();
        if let Some(event_times) = batch.header().event_times() {
            share.event_time_max = share.event_time_max.max(event_times.max);
        }
        match share.places.last_mut().filter(|_| !self.frame.is_empty()) {
            Some(place)
                if place.at() >= self.space_at
                    && batch.end_offset().0 - place.base_offset.0 <= OFFSETS_PER_PLACE_MAX =>
            {
                place.batch_bytes = u32::try_from(at + bytes as u64 - place.at())
                    .expect("a frame has less than 4 GiB");
                *times.last_mut().expect("there is one for each place") = batch.append_time();
            }
            _ => {
                let unit = u32::try_from(at / 8).expect("a pack's space is bounded by its maker");
                let bytes = u32::try_from(bytes).expect("a batch has at most 8 MiB");
                share.places.push(Place::at_unit(batch.base_offset(), unit, bytes));
                times.push(batch.append_time());
                self.places += 1;
            }
        }
    }

    fn end_frame(&mut self) -> io::Result<()> {
        // The next one begins at a multiple of 8 in the space, too.
        self.frame.resize(self.frame.len().next_multiple_of(8), 0);
        let packed = self.compressor.compress(&self.frame)?;
        let frame = std::mem::take(&mut self.frame);
        let stored = if packed.len() < frame.len() { &packed } else { &frame };
        let length = |bytes: usize| u32::try_from(bytes).expect("a frame has less than 4 GiB");
        self.frames.push(Frame {
            at: self.at,
            stored_bytes: length(stored.len()),
            space_at: self.space_at,
            space_bytes: length(frame.len()),
            crc: crc32fast::hash(stored),
        });
        self.write(stored)?;
        self.space_at += frame.len() as u64;
        self.frame = frame;
        self.frame.clear();
        Ok(())
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = self.pages.len() - self.filled;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.pages[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == self.pages.len() {
                self.file.write(&self.pages)?;
                self.filled = 0;
            }
        }
        Ok(())
    }

    fn write_ids(
        &mut self,
        listed: (&[PartitionShare], &[Vec<TimeMicros>]),
    ) -> io::Result<Option<IdIndex>> {
        let ids = std::mem::replace(&mut self.ids, IdsBuilder::new(self.id_key));
        if ids.is_empty() {
            return Ok(None);
        }
        let at = self.at.next_multiple_of(PAGE_BYTES as u64);
        let zeros = usize::try_from(at - self.at).expect("less than a page");
        self.write(&vec![0; zeros])?;
        ids.write(at, listed, &mut |page| self.write(page)).map(Some)
    }

    /// Ends the file and makes it durable. The head's counts are filled in here.
    pub(crate) fn finish(
        mut self,
        head: PackHead,
        (runs, commits): (Vec<(Run, u64)>, Option<Commits>),
        witness: &Witness,
    ) -> io::Result<PackIndex> {
        if !self.frame.is_empty() {
            self.end_frame()?;
        }
        let (shares, append_times) =
            (std::mem::take(&mut self.shares), std::mem::take(&mut self.append_times));
        let ids = self.write_ids((&shares, &append_times))?;
        let Self { batches, records, at: file_bytes, .. } = self;
        let head = PackHead { batches, records, file_bytes, ..head };
        let index = PackIndex {
            head,
            runs,
            frames: std::mem::take(&mut self.frames),
            shares,
            append_times,
            ids,
            commits,
        };
        let footer = index.encode(witness);
        let footer_at = self.at;
        self.write(&footer)?;
        let end = (self.at + TRAILER_BYTES as u64).next_multiple_of(PAGE_BYTES as u64);
        let zeros = usize::try_from(end - self.at).expect("a page") - TRAILER_BYTES;
        self.write(&vec![0; zeros])?;
        let (cluster, footer_bytes) = (self.cluster, footer.len() as u64);
        self.write(&Trailer { cluster, footer_at, footer_bytes }.encode())?;
        let filled = self.filled;
        assert!(filled.is_multiple_of(PAGE_BYTES), "the trailer ends a page");
        if filled > 0 {
            self.pages.resize(filled);
            self.file.write(&self.pages)?;
        }
        self.file.finish()?;
        Ok(index)
    }
}

const _: () = assert!(FRAME_BYTES <= FRAME_BYTES_MAX && FRAME_BYTES_MAX.is_multiple_of(8));

/// Some head, for tests.
#[cfg(test)]
pub(crate) const fn sample_head() -> PackHead {
    PackHead {
        id: PackId { first: 3, last: 5, generation: 1 },
        run: Run(2),
        last: CommitNumber(77),
        append_time_last: TimeMicros(99),
        batches: 4,
        records: 9,
        journal_bytes: 3 << 21,
        file_bytes: 1 << 20,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use tracklog_protocol::Record;
    use tracklog_protocol::batch::{BatchBuilder, Stamp};

    use super::*;
    use crate::disk::simulated::SimDisk;
    use crate::disk::{BufferPool, FileName};
    use crate::settled::compressing::uncompress;

    #[test]
    fn packs_of_the_golden_log_are_written_again_byte_for_byte() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1-packs/packs");
        let packs = fs::read_dir(folder).expect("they are in the tree").map(|entry| {
            let packed = fs::File::open(entry.expect("it can be listed").path());
            zstd::decode_all(packed.expect("it can be read")).expect("it is whole")
        });
        for pack in packs {
            let (disk, id) = (SimDisk::new(1), sample_head().id);
            disk.set_file(&FileName::Pack(id), Some(pack.clone()));
            let file = disk.open_pack(id).expect("it is there");
            let (index, _) = PackIndex::read_any(&*file).expect("it is good");
            let (trailer, footer) = read_footer(&*file).expect("it is good");
            let witness = PackIndex::read_witness(&*file).expect("it is good");
            assert_eq!(index.encode(&witness.expect("it has one")), footer);
            assert!(pack.ends_with(&trailer.encode()));
            let mut compressor = Compressor::new(6).expect("there is memory");
            let pool = BufferPool::new(0);
            for frame in &index.frames {
                let stored = read_range(&*file, frame.at, frame.stored_bytes.into());
                let stored = stored.expect("it is there");
                let space_bytes = frame.space_bytes as usize;
                let space = uncompress(&stored, space_bytes, &pool).expect("it is good");
                let again = compressor.compress(&space).expect("there is memory");
                // Where nothing but zstd has changed, the golden log is to be written anew.
                let is_same = again == stored || again.len() >= space.len() && stored == space;
                assert!(is_same, "the frame at {} of {} bytes", frame.at, space.len());
            }
        }
    }

    /// A pack of a few batches of each of these partitions.
    fn pack_of(partitions: &[(u32, usize)]) -> PackBuilder {
        let ids = (ClusterId(7), IdKey::of(ClusterId(7), u64::BITS));
        let pack = PackBuilder::new(&SimDisk::new(1), ids, sample_head().id, 1);
        let mut pack = pack.expect("there is room");
        for (partition, bytes) in partitions {
            for offset in 0..8 {
                let mut batch = BatchBuilder::new(PayloadKind::Opaque);
                batch.push(Record::opaque(&vec![7; *bytes]));
                let batch = batch.finish().stamped(&Stamp {
                    partition: PartitionId::new(TopicId(1), *partition),
                    base_offset: Offset(offset),
                    append_time: TimeMicros(1),
                });
                pack.add(&batch).expect("there is room");
            }
        }
        pack.end_frame().expect("there is room");
        pack
    }

    #[test]
    fn what_fills_frames_shares_none_with_what_comes_behind_it() {
        let small = 1 << 10;
        let large = FRAME_BYTES / 5;
        let pack = pack_of(&[(0, small), (1, large), (2, large), (3, small), (4, small)]);
        let partitions_of = |frame: &Frame| {
            let lies_in = |place: &Place| (frame.space_at..frame.space_end()).contains(&place.at());
            let shares = pack.shares.iter().filter(|share| share.places.iter().any(lies_in));
            shares.map(|share| share.partition.partition).collect::<Vec<_>>()
        };
        let frames: Vec<_> = pack.frames.iter().map(partitions_of).collect();
        assert_eq!(frames, [vec![0, 1], vec![1], vec![2], vec![2], vec![3, 4]]);
    }

    #[test]
    fn a_frame_that_claims_more_than_any_has_is_no_frame() {
        let most = u32::try_from(FRAME_BYTES_MAX).expect("8 MiB");
        for (stored, space, is_frame) in [
            (8, 16, true),
            (16, 16, true),
            (1, most, true),
            (1, most + 8, false),
            (1, u32::MAX - 7, false),
            (17, 16, false),
            (1, 12, false),
        ] {
            let mut fields = Vec::new();
            fields.put_list(&[(stored, space)], |fields, (stored, space)| {
                fields.put_u32(*stored);
                fields.put_u32(*space);
                fields.put_u32(0);
            });
            let read = frames(&mut Fields::new(&fields));
            assert_eq!(read.is_some(), is_frame, "{stored} bytes for {space}");
        }
    }
}
