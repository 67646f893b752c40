//! Batches: records of one partition, framed together. The same bytes on disk, on the wire and in
//! memory.
//!
//! Promises
//! - Whatever bytes come in, reading them never panics and never reads out of bounds.
//! - A [`BatchView`] in hand means that both checksums held, that every record can be reached, and
//!   that the bytes were once a [`VerifiedBatch`]: whoever reads them back from a log says so.
//! - A [`VerifiedBatch`] in hand means, besides, that each record is good for its kind: it comes
//!   from a builder or went through the verifier. Only such a batch can be appended.
//!
//! All numbers are little-endian and read field by field, at any alignment. The header:
//!
//! | at | bytes | field | meaning |
//! |---|---|---|---|
//! | 0 | 2 | magic | `TB` |
//! | 2 | 1 | version | 1 |
//! | 3 | 1 | header size | in units of 8 bytes: 8; with flag 1 11; with flags 1 and 32 12 |
//! | 4 | 1 | payload kind | [`PayloadKind`] |
//! | 5 | 1 | codec | 0: none |
//! | 6 | 2 | flags | 1 producer, 2 gap, 4 tombstones, 8 event times, 16 block checksums, 32 next |
//! | 8 | 4 | batch bytes | all of it, this header included |
//! | 12 | 4 | count | records, at least 1 |
//! | 16 | 4 | body CRC | CRC-32 of the body |
//! | 20 | 4 | header CRC | CRC-32 of the header without these four bytes |
//! | 24, 32 | 8, 8 | event times | least and greatest, µs; 0 without flag 8 |
//! | 40, 44 | 4, 4 | topic, partition | stamped by the appender, 0 before |
//! | 48 | 8 | base offset | stamped: of the first record |
//! | 56 | 8 | append time | stamped, µs |
//! | 64, 72, 80 | 8, 4, 8 | producer id, epoch, sequence | with flag 1; 76..80 is 0 |
//! | 88 | 8 | next | of the sequence, with flag 32; else sequence + count |
//!
//! With flag 16 a table of one CRC-32 per 256 KiB of body follows, padded to 8; combined they
//! give the body CRC. Then the body. One record: the record itself. More: a table with the end of
//! each record (u32, highest bit: removed), padded to 8, then the records, each at the next
//! multiple of 8. Ends count from where the records begin. A gap has no body: all its records
//! were removed.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use crc32fast::Hasher;

use crate::{
    Offset, PartitionId, PayloadKind, ProducerEpoch, ProducerId, Record, Sequence, TimeMicros,
    TopicId,
};
use crate::{event, rejected};

/// Size of the fixed part of the header.
pub const HEADER_BYTES: usize = 64;
/// Size of the header with the producer's extension.
const HEADER_BYTES_PRODUCER: usize = HEADER_BYTES + 24;
/// Size of the header with all that it can have: the next sequence is stated too.
pub const HEADER_BYTES_MAX: usize = HEADER_BYTES_PRODUCER + 8;
/// No batch is larger.
pub const BATCH_BYTES_MAX: usize = 8 << 20;
/// Bodies above this size carry a checksum for each stretch of this size.
pub const BLOCK_BYTES: usize = 256 << 10;

const MAGIC: [u8; 2] = *b"TB";
const VERSION: u8 = 1;
const REMOVED: u32 = 1 << 31;
const HEADER_CRC_AT: usize = 20;

const FLAG_PRODUCER: u16 = 1;
const FLAG_GAP: u16 = 2;
const FLAG_TOMBSTONES: u16 = 4;
const FLAG_EVENT_TIMES: u16 = 8;
const FLAG_BLOCKS: u16 = 16;
const FLAG_NEXT_SEQUENCE: u16 = 32;
const FLAGS_KNOWN: u16 = FLAG_PRODUCER
    | FLAG_GAP
    | FLAG_TOMBSTONES
    | FLAG_EVENT_TIMES
    | FLAG_BLOCKS
    | FLAG_NEXT_SEQUENCE;

const _: () = assert!(HEADER_BYTES.is_multiple_of(8) && HEADER_BYTES_MAX.is_multiple_of(8));
const _: () = assert!((BATCH_BYTES_MAX as u64) < REMOVED as u64);

/// Why bytes are no batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// They do not begin like one.
    #[error("no batch begins here")]
    NotABatch,
    /// They are a batch of a version, kind, codec or with a flag that this program does not know.
    #[error("the batch needs a newer program: {what} {number}")]
    Newer {
        /// Which field.
        what: &'static str,
        /// Its value.
        number: u32,
    },
    /// There are fewer bytes than the header says, or more.
    #[error("the batch says {says} bytes, there are {are}")]
    Length {
        /// As its header says.
        says: usize,
        /// As they are.
        are: usize,
    },
    /// A checksum does not fit.
    #[error("the checksum of the batch's {part} does not fit")]
    Checksum {
        /// Of which part.
        part: &'static str,
    },
    /// The checksums fit, the structure does not: a faulty or hostile writer.
    #[error("the batch's {part} is malformed")]
    Malformed {
        /// Which part.
        part: &'static str,
    },
    /// One record is not good for its kind.
    #[error("record {index} of the batch is no good {kind:?}")]
    Record {
        /// Which record.
        index: usize,
        /// What it should be.
        kind: PayloadKind,
    },
}

/// What a batch of an idempotent producer says of itself: by this a log knows it again.
///
/// A producer keeps a count for each partition that it writes to, its *sequence*. Each batch
/// stands for a stretch of it, and stretches follow one another without a hole: a batch that is
/// sent twice is seen to be the same, and one that is missing is seen to be missing.
///
/// A producer that counts its records needs to say no more than where a batch begins. One that
/// derives its records from numbered input, as a stage does from another partition, counts the
/// input instead, and says up to where: how many records come of it, if any, does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Produced {
    /// By whom.
    pub id: ProducerId,
    /// By which of its writers.
    pub epoch: ProducerEpoch,
    /// Where the stretch begins.
    pub sequence: Sequence,
    /// Where the producer's next batch begins: behind this one's last record, unless the
    /// producer said otherwise. Above `sequence`.
    pub next: Sequence,
}

/// What the appender writes into a batch when its turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Where it goes.
    pub partition: PartitionId,
    /// The offset of its first record.
    pub base_offset: Offset,
    /// When it was taken.
    pub append_time: TimeMicros,
}

const UNSTAMPED: Stamp = Stamp {
    partition: PartitionId::new(TopicId(0), 0),
    base_offset: Offset::ZERO,
    append_time: TimeMicros(0),
};

/// The least and the greatest event time of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTimes {
    /// The least.
    pub min: TimeMicros,
    /// The greatest.
    pub max: TimeMicros,
}

impl EventTimes {
    /// `times` widened by one more.
    #[must_use]
    pub fn with(times: Option<Self>, time: TimeMicros) -> Self {
        let times = times.unwrap_or(Self { min: time, max: time });
        Self { min: times.min.min(time), max: times.max.max(time) }
    }
}

/// A header whose checksum held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    kind: PayloadKind,
    flags: u16,
    header_bytes: u8,
    batch_bytes: u32,
    count: u32,
    body_crc: u32,
    header_crc: u32,
    event_times: Option<EventTimes>,
    stamp: Stamp,
    produced: Option<Produced>,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`, which may end anywhere after it.
    ///
    /// # Errors
    /// Any [`BatchError`] but those about bodies and records.
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let fixed: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(BatchError::NotABatch)?;
        if fixed[..2] != MAGIC {
            return Err(BatchError::NotABatch);
        }
        let header_bytes = usize::from(fixed[3]) * 8;
        if fixed[2] != VERSION {
            return Err(BatchError::Newer { what: "version", number: u32::from(fixed[2]) });
        }
        let header = bytes.get(..header_bytes).ok_or(BatchError::NotABatch)?;
        if header_bytes < HEADER_BYTES || header_crc(header) != u32_at(fixed, HEADER_CRC_AT) {
            return Err(BatchError::Checksum { part: "header" });
        }
        let header = Self::decode_checked(fixed, header)?;
        header.check_sizes()?;
        Ok(header)
    }

    /// Reads the fields of a header whose checksum held.
    fn decode_checked(fixed: &[u8; HEADER_BYTES], header: &[u8]) -> Result<Self, BatchError> {
        let flags = u16::from_le_bytes([fixed[6], fixed[7]]);
        if flags & !FLAGS_KNOWN != 0 {
            return Err(BatchError::Newer { what: "flags", number: u32::from(flags) });
        }
        if fixed[5] != 0 {
            return Err(BatchError::Newer { what: "codec", number: u32::from(fixed[5]) });
        }
        let kind = PayloadKind::from_byte(fixed[4]).ok_or_else(|| BatchError::Newer {
            what: "payload kind",
            number: u32::from(fixed[4]),
        })?;
        let count = u32_at(fixed, 12);
        let produced = produced_of(header, flags, count)?;
        let times = EventTimes { min: time_at(fixed, 24), max: time_at(fixed, 32) };
        Ok(Self {
            kind,
            flags,
            header_bytes: fixed[3] * 8,
            batch_bytes: u32_at(fixed, 8),
            count,
            body_crc: u32_at(fixed, 16),
            header_crc: u32_at(fixed, HEADER_CRC_AT),
            event_times: (flags & FLAG_EVENT_TIMES != 0).then_some(times),
            stamp: Stamp {
                partition: PartitionId::new(TopicId(u32_at(fixed, 40)), u32_at(fixed, 44)),
                base_offset: Offset(u64_at(fixed, 48)),
                append_time: time_at(fixed, 56),
            },
            produced,
        })
    }

    /// Whether the sizes can be those of a batch.
    fn check_sizes(&self) -> Result<(), BatchError> {
        let malformed = Err(BatchError::Malformed { part: "header" });
        let Some(rest) = self.batch_bytes().checked_sub(self.body_at_without_blocks()) else {
            return malformed;
        };
        let end = self.stamp.base_offset.0.checked_add(u64::from(self.count));
        if self.count == 0 || end.is_none() || self.batch_bytes() > BATCH_BYTES_MAX {
            return malformed;
        }
        if self.is_gap() {
            return if rest == 0 && self.flags & FLAG_BLOCKS == 0 { Ok(()) } else { malformed };
        }
        if self.flags & FLAG_BLOCKS != 0 && self.block_table_bytes().is_none() {
            return malformed;
        }
        let body_bytes = rest - self.block_table_bytes().unwrap_or(0);
        let table_bytes = table_bytes(self.count as usize);
        if self.count > 1 && body_bytes < table_bytes { malformed } else { Ok(()) }
    }

    /// What the records are.
    #[must_use]
    pub const fn kind(&self) -> PayloadKind {
        self.kind
    }

    /// How many records there are.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Size of the whole batch.
    #[must_use]
    pub const fn batch_bytes(&self) -> usize {
        self.batch_bytes as usize
    }

    /// The checksum over all of the header: what binds a directory's entry to this very batch.
    #[must_use]
    pub const fn header_crc(&self) -> u32 {
        self.header_crc
    }

    /// The least and greatest event time, where the records are events.
    #[must_use]
    pub const fn event_times(&self) -> Option<EventTimes> {
        self.event_times
    }

    /// What the appender stamped.
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Who produced it, where that is an idempotent producer.
    #[must_use]
    pub const fn produced(&self) -> Option<Produced> {
        self.produced
    }

    /// Whether all its records were removed.
    #[must_use]
    pub const fn is_gap(&self) -> bool {
        self.flags & FLAG_GAP != 0
    }

    pub(crate) const fn flags(&self) -> u16 {
        self.flags
    }

    pub(crate) const fn has_blocks(&self) -> bool {
        self.flags & FLAG_BLOCKS != 0
    }

    /// Whether the producer's next sequence is stated.
    pub(crate) const fn states_next(&self) -> bool {
        self.flags & FLAG_NEXT_SEQUENCE != 0
    }

    /// Whether a builder would write the same header: one that is no gap's, and states nothing that
    /// goes without saying.
    pub(crate) fn is_as_built(&self) -> bool {
        let follows =
            |produced: Produced| produced.next.0 - produced.sequence.0 == u64::from(self.count);
        let states_in_vain = self.states_next() && self.produced.is_none_or(follows);
        !self.is_gap() && !states_in_vain
    }

    /// Where in the bytes of the batch each record lies; `None` for one that was removed. Nothing
    /// where the table does not fit.
    pub(crate) fn record_places(&self, batch: &[u8]) -> Option<Vec<Option<Range<usize>>>> {
        let (count, body_at) = (self.count as usize, self.body_at());
        if count == 1 {
            return Some(vec![Some(body_at..batch.len())]);
        }
        let records_at = body_at + table_bytes(count);
        let table = batch.get(body_at..body_at + count * 4)?;
        let mut end = 0;
        let place = |entry: &[u8]| {
            let start = align8(end);
            end = (table_entry(entry) & !REMOVED) as usize;
            let is_good = start <= end && records_at + end <= batch.len();
            let is_removed = table_entry(entry) & REMOVED != 0;
            is_good.then(|| (!is_removed).then(|| records_at + start..records_at + end))
        };
        table.chunks_exact(4).map(place).collect()
    }

    const fn body_at_without_blocks(&self) -> usize {
        self.header_bytes as usize
    }

    /// Size of the table of block checksums, 0 without one; `None` when it cannot fit.
    fn block_table_bytes(&self) -> Option<usize> {
        if self.flags & FLAG_BLOCKS == 0 {
            return Some(0);
        }
        let rest = self.batch_bytes().checked_sub(self.body_at_without_blocks())?;
        // The least table for which the body that remains has as many blocks as the table.
        let blocks = rest.div_ceil(BLOCK_BYTES + 4);
        let sizes = [blocks, blocks + 1].map(|blocks| (blocks, align8(blocks * 4)));
        let fits = |(blocks, table): &(usize, usize)| {
            rest.checked_sub(*table).is_some_and(|body| body.div_ceil(BLOCK_BYTES) == *blocks)
        };
        sizes.into_iter().find(fits).map(|(_, table)| table)
    }

    pub(crate) fn body_at(&self) -> usize {
        self.body_at_without_blocks() + self.block_table_bytes().unwrap_or(0)
    }
}

/// Reads the extension of a header, which has just the size that its flags ask for.
fn produced_of(header: &[u8], flags: u16, count: u32) -> Result<Option<Produced>, BatchError> {
    let malformed = || BatchError::Malformed { part: "header" };
    let extension = header.get(HEADER_BYTES..).ok_or_else(malformed)?;
    let stated = flags & FLAG_NEXT_SEQUENCE != 0;
    let header_bytes = match (flags & FLAG_PRODUCER != 0, stated) {
        (false, false) => HEADER_BYTES,
        (true, false) => HEADER_BYTES_PRODUCER,
        (true, true) => HEADER_BYTES_MAX,
        (false, true) => return Err(malformed()),
    };
    if header.len() != header_bytes {
        return Err(malformed());
    }
    let Some(fields) = extension.first_chunk::<24>() else { return Ok(None) };
    let sequence = Sequence(u64_at(fields, 16));
    let next = match extension.get(24..).and_then(<[u8]>::first_chunk::<8>) {
        Some(field) => Some(Sequence(u64_at(field, 0))),
        None => sequence.0.checked_add(u64::from(count)).map(Sequence),
    };
    let next = next.filter(|next| *next > sequence).ok_or_else(malformed)?;
    let (id, epoch) = (ProducerId(u64_at(fields, 0)), ProducerEpoch(u32_at(fields, 8)));
    Ok(Some(Produced { id, epoch, sequence, next }))
}

/// One place of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// The record that lies there.
    Record(Record<'a>),
    /// The record that lay there was removed; its offset stays taken.
    Removed,
}

impl<'a> Entry<'a> {
    /// The record, if it is still there.
    #[must_use]
    pub const fn record(self) -> Option<Record<'a>> {
        match self {
            Self::Record(record) => Some(record),
            Self::Removed => None,
        }
    }
}

/// A batch whose checksums held. Cheap to clone: the bytes are shared.
#[derive(Clone)]
pub struct BatchView {
    header: BatchHeader,
    bytes: Bytes,
}

impl BatchView {
    /// Checks `bytes`, which are a batch and nothing else, without looking into its records.
    ///
    /// # Errors
    /// [`BatchError`], but never `Record`.
    pub fn check(bytes: Bytes) -> Result<BatchHeader, BatchError> {
        Self::checked(bytes).map(|batch| batch.header)
    }

    pub(crate) fn checked(bytes: Bytes) -> Result<Self, BatchError> {
        let view = Self::frame(bytes)?;
        view.check_body()?;
        Ok(view)
    }

    /// As [`checked`](Self::checked), but for the body's checksum.
    pub(crate) fn framed(bytes: Bytes) -> Result<Self, BatchError> {
        let view = Self::frame(bytes)?;
        view.check_table()?;
        Ok(view)
    }

    fn frame(bytes: Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::decode(&bytes)?;
        if header.batch_bytes() != bytes.len() {
            return Err(BatchError::Length { says: header.batch_bytes(), are: bytes.len() });
        }
        Ok(Self { header, bytes })
    }

    fn check_body(&self) -> Result<(), BatchError> {
        if crc32fast::hash(self.body()) != self.header.body_crc {
            return Err(BatchError::Checksum { part: "body" });
        }
        self.check_blocks()?;
        self.check_table()
    }

    /// The block checksums must combine to the body's.
    fn check_blocks(&self) -> Result<(), BatchError> {
        if self.header.flags & FLAG_BLOCKS == 0 {
            return Ok(());
        }
        let table = self.bytes.get(self.header.body_at_without_blocks()..).unwrap_or_default();
        let mut whole = Hasher::new();
        for (block, crc) in self.body().chunks(BLOCK_BYTES).zip(table.chunks_exact(4)) {
            let crc = u32::from_le_bytes([crc[0], crc[1], crc[2], crc[3]]);
            whole.combine(&Hasher::new_with_initial_len(crc, block.len() as u64));
        }
        if whole.finalize() == self.header.body_crc {
            Ok(())
        } else {
            Err(BatchError::Checksum { part: "block table" })
        }
    }

    /// Every record must be reachable, and nothing may be left over.
    fn check_table(&self) -> Result<(), BatchError> {
        let count = self.count() as usize;
        if count == 1 || self.header.is_gap() {
            return Ok(());
        }
        let malformed = || BatchError::Malformed { part: "record table" };
        let body = self.body();
        let records_bytes = body.len().checked_sub(table_bytes(count)).ok_or_else(malformed)?;
        let table = body.get(..count * 4).ok_or_else(malformed)?;
        // No entry ends the loop, so that several are looked at in one instruction.
        let (first, last) = (table_entry(table), table_entry(&table[table.len() - 4..]));
        let before = table[..table.len() - 4].chunks_exact(4).map(table_entry);
        let entries = table[4..].chunks_exact(4).map(table_entry);
        let bad = before
            .zip(entries)
            .fold(is_bad_entry(0, first), |bad, (before, entry)| bad | is_bad_entry(before, entry));
        let ends_well = (last & !REMOVED) as usize == records_bytes;
        if ends_well && bad == 0 { Ok(()) } else { Err(malformed()) }
    }

    /// The header.
    #[must_use]
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// All bytes of the batch.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many offsets it takes.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.header.count
    }

    /// Where it lies.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.header.stamp.partition
    }

    /// The offset of its first record.
    #[must_use]
    pub const fn base_offset(&self) -> Offset {
        self.header.stamp.base_offset
    }

    /// The offset after its last record.
    #[must_use]
    pub const fn end_offset(&self) -> Offset {
        self.base_offset().plus(self.header.count as u64)
    }

    /// When the log took it.
    #[must_use]
    pub const fn append_time(&self) -> TimeMicros {
        self.header.stamp.append_time
    }

    /// Record number `index`, in constant time; `None` beyond the count.
    #[must_use]
    #[inline]
    pub fn entry(&self, index: usize) -> Option<Entry<'_>> {
        let count = self.count() as usize;
        if index >= count {
            return None;
        }
        if self.header.is_gap() {
            return Some(Entry::Removed);
        }
        let body = self.body();
        if count == 1 {
            return Some(Entry::Record(Record::trusted(self.header.kind, body)));
        }
        let entry = u32_in(body, index * 4)?;
        if entry & REMOVED != 0 {
            return Some(Entry::Removed);
        }
        let start = match index.checked_sub(1) {
            Some(before) => align8((u32_in(body, before * 4)? & !REMOVED) as usize),
            None => 0,
        };
        let bytes = body.get(table_bytes(count)..)?.get(start..entry as usize)?;
        Some(Entry::Record(Record::trusted(self.header.kind, bytes)))
    }

    /// All places, with their offsets.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (Offset, Entry<'_>)> {
        (0..self.count()).map(|index| {
            let entry = self.entry(index as usize).expect("every place was checked on reading");
            (self.base_offset().plus(u64::from(index)), entry)
        })
    }

    /// All records that are still there, with their offsets.
    pub fn records(&self) -> impl Iterator<Item = (Offset, Record<'_>)> {
        self.entries().filter_map(|(offset, entry)| Some((offset, entry.record()?)))
    }

    /// The batch without the records for which `stays` says no: their offsets stay taken. `None`
    /// where all stay.
    #[must_use]
    pub fn without(&self, mut stays: impl FnMut(Offset, Record<'_>) -> bool) -> Option<Self> {
        let kept = self
            .entries()
            .map(|(offset, entry)| entry.record().filter(|record| stays(offset, *record)));
        let kept: Vec<Option<Record<'_>>> = kept.collect();
        let left = kept.iter().flatten().count();
        if left == self.records().count() {
            return None;
        }
        let header = &self.header;
        let bytes = match left {
            0 => gap(header.kind, header.count, &header.stamp),
            _ => thinned(header, &kept),
        };
        Some(Self::checked(bytes).expect("what is left of a good batch is one"))
    }

    #[inline]
    fn body(&self) -> &[u8] {
        self.bytes.get(self.header.body_at()..).unwrap_or_default()
    }
}

impl std::fmt::Debug for BatchView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchView")
            .field("partition", &self.partition())
            .field("base_offset", &self.base_offset())
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

/// A batch that may be appended: its checksums hold and each record is good for its kind.
#[derive(Clone, Debug)]
pub struct VerifiedBatch(BatchView);

impl VerifiedBatch {
    /// Checks bytes from outside, once and wholly.
    ///
    /// # Errors
    /// [`BatchError`], with `Record` naming the first record that is not good for its kind.
    pub fn verify(bytes: Bytes) -> Result<Self, BatchError> {
        let batch = BatchView::checked(bytes)?;
        let mut event_times = None;
        for (index, (_, entry)) in batch.entries().enumerate() {
            // A producer has nothing to remove, and what it removes was never there.
            let record = entry.record().ok_or(BatchError::Malformed { part: "record table" })?;
            if !is_good(record) {
                return Err(BatchError::Record { index, kind: record.kind() });
            }
            if let Some(time) = record.event_time() {
                event_times = Some(EventTimes::with(event_times, time));
            }
        }
        // Look-ups by time go by the header: one that lies would hide records.
        if event_times != batch.header().event_times() {
            return Err(BatchError::Malformed { part: "event times" });
        }
        Ok(Self(batch))
    }

    /// The batch.
    #[must_use]
    pub const fn view(&self) -> &BatchView {
        &self.0
    }

    /// The batch as it is once it has its place in a log: a stamped copy.
    #[must_use]
    pub fn stamped(&self, at: &Stamp) -> BatchView {
        let mut bytes = BytesMut::from(&self.0.bytes[..]);
        stamp(&mut bytes, at);
        BatchView::frame(bytes.freeze()).expect("a stamp leaves a good header good")
    }
}

fn is_good(record: Record<'_>) -> bool {
    match record.kind() {
        PayloadKind::Opaque => true,
        PayloadKind::KeyValue => record.key_value().is_some(),
        PayloadKind::Event => event::verify(record.bytes()).is_ok(),
        PayloadKind::Rejected => rejected::verify(record.bytes()).is_ok(),
    }
}

/// Gathers records of one kind into a batch.
#[derive(Debug)]
pub struct BatchBuilder {
    kind: PayloadKind,
    producer: Option<Producer>,
    event_times: Option<EventTimes>,
    records: Vec<u8>,
    ends: Vec<u32>,
}

impl BatchBuilder {
    /// A builder for records of kind `kind`.
    #[must_use]
    pub const fn new(kind: PayloadKind) -> Self {
        Self { kind, producer: None, event_times: None, records: Vec::new(), ends: Vec::new() }
    }

    /// Names the idempotent producer, which counts its records, and where in its sequence the
    /// batch begins.
    #[must_use]
    pub const fn produced_by(
        mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
        sequence: Sequence,
    ) -> Self {
        self.producer = Some(Producer { id, epoch, sequence, next: None });
        self
    }

    /// Names the idempotent producer, which counts what the records are derived from, and for
    /// which stretch of that the batch stands.
    ///
    /// # Panics
    /// When the stretch is empty.
    #[must_use]
    pub fn derived_by(
        mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
        stretch: Range<Sequence>,
    ) -> Self {
        assert!(stretch.start < stretch.end, "a batch stands for some of its producer's input");
        let (sequence, next) = (stretch.start, Some(stretch.end));
        self.producer = Some(Producer { id, epoch, sequence, next });
        self
    }

    /// Adds a record.
    ///
    /// # Panics
    /// When it is of another kind than the builder, or the batch grows over 8 MiB.
    pub fn push(&mut self, record: Record<'_>) {
        assert!(record.kind() == self.kind, "a batch holds records of one kind");
        if let Some(time) = record.event_time() {
            self.event_times = Some(EventTimes::with(self.event_times, time));
        }
        self.records.resize(align8(self.records.len()), 0);
        self.records.extend_from_slice(record.bytes());
        assert!(self.batch_bytes_next(0) <= BATCH_BYTES_MAX, "a batch has at most 8 MiB");
        self.ends.push(u32_of(self.records.len()));
    }

    /// How many records it holds.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.ends.len()
    }

    /// Size of the batch, were a record of `record_bytes` added; an upper bound.
    #[must_use]
    pub const fn batch_bytes_next(&self, record_bytes: usize) -> usize {
        let body = table_bytes(self.ends.len() + 1) + align8(self.records.len()) + record_bytes;
        HEADER_BYTES_MAX + block_table_bytes(body) + body
    }

    /// The batch.
    ///
    /// # Panics
    /// When nothing was pushed.
    #[must_use]
    pub fn finish(self) -> VerifiedBatch {
        assert!(!self.ends.is_empty(), "a batch holds at least one record");
        let table_bytes = if self.ends.len() > 1 { table_bytes(self.ends.len()) } else { 0 };
        let shape = Shape {
            kind: self.kind,
            count: self.ends.len(),
            body_bytes: table_bytes + self.records.len(),
            event_times: self.event_times,
            produced: self.producer.map(|producer| producer.of(self.ends.len())),
            flags: 0,
        };
        let mut bytes = BytesMut::zeroed(shape.batch_bytes());
        let body_at = shape.body_at();
        if self.ends.len() > 1 {
            for (entry, end) in bytes[body_at..].chunks_exact_mut(4).zip(&self.ends) {
                entry.copy_from_slice(&end.to_le_bytes());
            }
        }
        bytes[body_at + table_bytes..].copy_from_slice(&self.records);
        shape.finish(&mut bytes, &UNSTAMPED);
        let view = BatchView::frame(bytes.freeze()).expect("the builder writes good headers");
        debug_assert_eq!(view.check_body(), Ok(()), "the builder writes good batches");
        VerifiedBatch(view)
    }
}

/// What a builder is told of the producer.
#[derive(Clone, Copy, Debug)]
struct Producer {
    id: ProducerId,
    epoch: ProducerEpoch,
    sequence: Sequence,
    next: Option<Sequence>,
}

impl Producer {
    fn of(self, count: usize) -> Produced {
        let Self { id, epoch, sequence, next } = self;
        let next = next.unwrap_or_else(|| sequence.plus(count as u64));
        Produced { id, epoch, sequence, next }
    }
}

/// What a header says besides checksums and stamp.
struct Shape {
    kind: PayloadKind,
    count: usize,
    body_bytes: usize,
    event_times: Option<EventTimes>,
    produced: Option<Produced>,
    /// Of what was removed.
    flags: u16,
}

impl Shape {
    const fn header_bytes(&self) -> usize {
        match self.produced {
            None => HEADER_BYTES,
            Some(produced) if self.states_next(&produced) => HEADER_BYTES_MAX,
            Some(_) => HEADER_BYTES_PRODUCER,
        }
    }

    /// Whether the next sequence does not follow from the count.
    const fn states_next(&self, produced: &Produced) -> bool {
        produced.next.0 - produced.sequence.0 != self.count as u64
    }

    const fn body_at(&self) -> usize {
        self.header_bytes() + block_table_bytes(self.body_bytes)
    }

    const fn batch_bytes(&self) -> usize {
        self.body_at() + self.body_bytes
    }

    /// Writes header and block table before a body that is in place; returns the header's CRC.
    fn finish(&self, batch: &mut [u8], stamp_: &Stamp) -> u32 {
        let (head, body) = batch.split_at_mut(self.body_at());
        let (header, blocks) = head.split_at_mut(self.header_bytes());
        let mut flags = self.flags;
        let body_crc = if blocks.is_empty() {
            crc32fast::hash(body)
        } else {
            flags |= FLAG_BLOCKS;
            write_block_table(blocks, body)
        };
        header.fill(0);
        if let Some(times) = self.event_times {
            flags |= FLAG_EVENT_TIMES;
            header[24..32].copy_from_slice(&times.min.0.to_le_bytes());
            header[32..40].copy_from_slice(&times.max.0.to_le_bytes());
        }
        if let Some(produced) = self.produced {
            flags |= FLAG_PRODUCER;
            header[64..72].copy_from_slice(&produced.id.0.to_le_bytes());
            header[72..76].copy_from_slice(&produced.epoch.0.to_le_bytes());
            header[80..88].copy_from_slice(&produced.sequence.0.to_le_bytes());
            if self.states_next(&produced) {
                flags |= FLAG_NEXT_SEQUENCE;
                header[88..96].copy_from_slice(&produced.next.0.to_le_bytes());
            }
        }
        header[..2].copy_from_slice(&MAGIC);
        header[2] = VERSION;
        header[3] = u8::try_from(self.header_bytes() / 8).expect("a header has at most 96 bytes");
        header[4] = self.kind as u8;
        header[6..8].copy_from_slice(&flags.to_le_bytes());
        header[8..12].copy_from_slice(&u32_of(self.batch_bytes()).to_le_bytes());
        header[12..16].copy_from_slice(&u32_of(self.count).to_le_bytes());
        header[16..20].copy_from_slice(&body_crc.to_le_bytes());
        stamp(batch, stamp_)
    }
}

fn write_block_table(table: &mut [u8], body: &[u8]) -> u32 {
    let mut whole = Hasher::new();
    table.fill(0);
    for (entry, block) in table.chunks_exact_mut(4).zip(body.chunks(BLOCK_BYTES)) {
        let mut hasher = Hasher::new();
        hasher.update(block);
        whole.combine(&hasher);
        entry.copy_from_slice(&hasher.finalize().to_le_bytes());
    }
    whole.finalize()
}

/// A batch whose records lie in place, and nothing else of it: what was known of its header, to
/// write it again.
pub(crate) struct Rewritten {
    /// As in the header.
    pub(crate) flags: u16,
    pub(crate) count: usize,
    pub(crate) event_times: Option<EventTimes>,
    pub(crate) produced: Option<Produced>,
    pub(crate) stamp: Stamp,
}

impl Rewritten {
    /// Where the body begins, if it has so many bytes.
    pub(crate) fn body_at(&self, body_bytes: usize) -> usize {
        self.shape(body_bytes).body_at()
    }

    /// Where the records begin in the body.
    pub(crate) const fn records_at(&self) -> usize {
        if self.count > 1 { table_bytes(self.count) } else { 0 }
    }

    /// Writes header and block table of a batch of events whose body is in place.
    pub(crate) fn finish(&self, batch: &mut [u8], body_bytes: usize) {
        self.shape(body_bytes).finish(batch, &self.stamp);
    }

    /// The entry for a record that ends there, or was removed.
    pub(crate) const fn table_entry(end: u32, is_removed: bool) -> u32 {
        if is_removed { end | REMOVED } else { end }
    }

    pub(crate) const fn has_event_times(flags: u16) -> bool {
        flags & FLAG_EVENT_TIMES != 0
    }

    pub(crate) const fn has_blocks(flags: u16) -> bool {
        flags & FLAG_BLOCKS != 0
    }

    pub(crate) const fn is_produced(flags: u16) -> bool {
        flags & FLAG_PRODUCER != 0
    }

    pub(crate) const fn states_next(flags: u16) -> bool {
        flags & FLAG_NEXT_SEQUENCE != 0
    }

    const fn shape(&self, body_bytes: usize) -> Shape {
        let Self { count, event_times, produced, .. } = *self;
        let (kind, flags) = (PayloadKind::Event, self.flags & FLAG_TOMBSTONES);
        Shape { kind, count, body_bytes, event_times, produced, flags }
    }
}

/// A batch all of whose records were removed: it takes their offsets.
#[must_use]
pub fn gap(kind: PayloadKind, count: u32, at: &Stamp) -> Bytes {
    let (event_times, produced) = (None, None);
    let count = count as usize;
    let shape = Shape { kind, count, body_bytes: 0, event_times, produced, flags: FLAG_GAP };
    let mut bytes = BytesMut::zeroed(shape.batch_bytes());
    shape.finish(&mut bytes, at);
    bytes.freeze()
}

/// A batch of at least two places, of which one at least holds a record and one does not.
fn thinned(header: &BatchHeader, kept: &[Option<Record<'_>>]) -> Bytes {
    let mut table = Vec::with_capacity(table_bytes(kept.len()));
    let (mut area, mut event_times) = (Vec::new(), None);
    for record in kept {
        area.resize(align8(area.len()), 0);
        let Some(record) = record else {
            table.extend_from_slice(&(u32_of(area.len()) | REMOVED).to_le_bytes());
            continue;
        };
        area.extend_from_slice(record.bytes());
        if let Some(time) = record.event_time() {
            event_times = Some(EventTimes::with(event_times, time));
        }
        table.extend_from_slice(&u32_of(area.len()).to_le_bytes());
    }
    table.resize(table_bytes(kept.len()), 0);
    let shape = Shape {
        kind: header.kind,
        count: kept.len(),
        body_bytes: table.len() + area.len(),
        event_times,
        produced: header.produced,
        flags: FLAG_TOMBSTONES,
    };
    let mut bytes = BytesMut::zeroed(shape.batch_bytes());
    let body_at = shape.body_at();
    bytes[body_at..body_at + table.len()].copy_from_slice(&table);
    bytes[body_at + table.len()..].copy_from_slice(&area);
    shape.finish(&mut bytes, &header.stamp);
    bytes.freeze()
}

/// Stamps a batch in place and returns the header's new CRC.
///
/// # Panics
/// When `batch` does not begin with a whole header.
pub fn stamp(batch: &mut [u8], stamp: &Stamp) -> u32 {
    let header_bytes = usize::from(batch[3]) * 8;
    let header = &mut batch[..header_bytes];
    header[40..44].copy_from_slice(&stamp.partition.topic.0.to_le_bytes());
    header[44..48].copy_from_slice(&stamp.partition.partition.to_le_bytes());
    header[48..56].copy_from_slice(&stamp.base_offset.0.to_le_bytes());
    header[56..64].copy_from_slice(&stamp.append_time.0.to_le_bytes());
    let crc = header_crc(header);
    header[HEADER_CRC_AT..HEADER_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// Size of a batch of `count` records whose lengths, each but the last padded to 8, sum up to
/// `records_bytes`.
#[must_use]
pub const fn gathered_bytes(count: usize, records_bytes: usize) -> usize {
    let body_bytes = if count > 1 { table_bytes(count) + records_bytes } else { records_bytes };
    HEADER_BYTES + block_table_bytes(body_bytes) + body_bytes
}

/// Writes a stamped batch of `records` into `out`, which has just its size
/// ([`gathered_bytes`]), and returns the header's CRC: the appender's way from single records to
/// a batch, with one copy.
///
/// # Panics
/// When there is no record, or the sizes do not fit.
pub fn write_gathered<'a>(
    out: &mut [u8],
    kind: PayloadKind,
    records: impl ExactSizeIterator<Item = &'a [u8]>,
    event_times: Option<EventTimes>,
    stamp: &Stamp,
) -> u32 {
    let count = records.len();
    assert!(count > 0, "a batch holds at least one record");
    let head_bytes = out.len() - body_bytes_of(out.len());
    let table_bytes = if count > 1 { table_bytes(count) } else { 0 };
    let body_bytes = out.len() - head_bytes;
    let shape = Shape { kind, count, body_bytes, event_times, produced: None, flags: 0 };
    let (table, area) = out[head_bytes..].split_at_mut(table_bytes);
    table.fill(0);
    let mut end = 0;
    for (index, record) in records.enumerate() {
        let start = align8(end);
        area[end..start].fill(0);
        end = start + record.len();
        area[start..end].copy_from_slice(record);
        if count > 1 {
            table[index * 4..index * 4 + 4].copy_from_slice(&u32_of(end).to_le_bytes());
        }
    }
    assert!(end == area.len(), "the batch was measured before it was written");
    shape.finish(out, stamp)
}

/// Size of the body in a batch of `batch_bytes` without producer.
fn body_bytes_of(batch_bytes: usize) -> usize {
    let rest = batch_bytes - HEADER_BYTES;
    if rest <= BLOCK_BYTES {
        return rest;
    }
    let blocks = rest.div_ceil(BLOCK_BYTES + 4);
    let body = rest - align8(blocks * 4);
    if body.div_ceil(BLOCK_BYTES) == blocks { body } else { rest - align8((blocks + 1) * 4) }
}

/// Size of the table of block checksums before a body of this size.
const fn block_table_bytes(body_bytes: usize) -> usize {
    if body_bytes > BLOCK_BYTES { align8(body_bytes.div_ceil(BLOCK_BYTES) * 4) } else { 0 }
}

/// Size of the table of record ends.
const fn table_bytes(count: usize) -> usize {
    align8(count * 4)
}

const fn align8(at: usize) -> usize {
    at.next_multiple_of(8)
}

/// An entry of the table of record ends, from its four bytes.
fn table_entry(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("an entry has four bytes"))
}

/// Not zero where a record ends before it begins, or a removed one is not empty. Without branches
/// and comparisons, of which some processors know none for several numbers at once.
const fn is_bad_entry(before: u32, entry: u32) -> u32 {
    let start = ((before & !REMOVED) + 7) & !7;
    let bytes = (entry & !REMOVED).wrapping_sub(start);
    let is_some = bytes | bytes.wrapping_neg();
    (bytes | (entry & is_some)) >> 31
}

fn header_crc(header: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&header[..HEADER_CRC_AT]);
    hasher.update(&header[HEADER_CRC_AT + 4..]);
    hasher.finalize()
}

fn u32_of(size: usize) -> u32 {
    u32::try_from(size).expect("sizes in a batch are below 8 MiB")
}

fn u32_in(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32_in(bytes, at).expect("fields lie inside of the fixed header")
}

fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let field = bytes[at..].first_chunk().expect("fields lie inside of the fixed header");
    u64::from_le_bytes(*field)
}

fn time_at<const N: usize>(bytes: &[u8; N], at: usize) -> TimeMicros {
    TimeMicros(u64_at(bytes, at).cast_signed())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn batch_of(records: &[Vec<u8>]) -> VerifiedBatch {
        let mut builder = BatchBuilder::new(PayloadKind::Opaque);
        for record in records {
            builder.push(Record::opaque(record));
        }
        builder.finish()
    }

    fn contents(batch: &BatchView) -> Vec<Vec<u8>> {
        batch.records().map(|(_, record)| record.bytes().to_vec()).collect()
    }

    fn resealed(mut bytes: Vec<u8>) -> Bytes {
        let body_at = usize::from(bytes[3]) * 8;
        let crc = crc32fast::hash(&bytes[body_at..]);
        bytes[16..20].copy_from_slice(&crc.to_le_bytes());
        let crc = header_crc(&bytes[..body_at]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        bytes.into()
    }

    proptest! {
        #[test]
        fn what_is_built_is_read_back(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 1..40)
        ) {
            let built = batch_of(&records);
            let read = VerifiedBatch::verify(built.view().bytes().clone()).unwrap();
            prop_assert_eq!(contents(read.view()), records);
        }

        #[test]
        fn the_gathered_form_is_the_built_form(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 1..40),
            large in 0_usize..700_000,
        ) {
            let mut records = records;
            records.push(vec![7; large]);
            let built = batch_of(&records);
            let stamp_ = Stamp {
                partition: PartitionId::new(TopicId(3), 9),
                base_offset: Offset(70),
                append_time: TimeMicros(123),
            };
            let mut stamped = built.view().bytes().to_vec();
            let crc = stamp(&mut stamped, &stamp_);
            let last = records.last().unwrap().len();
            let bytes = records.iter().map(|record| align8(record.len())).sum::<usize>();
            let bytes = bytes - align8(last) + last;
            let mut gathered = vec![0xA5; gathered_bytes(records.len(), bytes)];
            let slices = records.iter().map(Vec::as_slice);
            let kind = PayloadKind::Opaque;
            prop_assert_eq!(write_gathered(&mut gathered, kind, slices, None, &stamp_), crc);
            prop_assert!(gathered == stamped);
            let view = BatchView::checked(gathered.into()).unwrap();
            prop_assert_eq!(view.header().stamp(), stamp_);
            prop_assert_eq!(view.end_offset(), Offset(70 + records.len() as u64));
        }

        #[test]
        fn hostile_bytes_under_good_checksums_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 96..400),
            count in 0_u32..9,
            flags in 0_u16..64,
            kind in 0_u8..5,
            header_units in prop::sample::select(vec![8_u8, 11, 12]),
        ) {
            let length = u32_of(bytes.len());
            bytes[..4].copy_from_slice(&[b'T', b'B', 1, header_units]);
            bytes[4..6].copy_from_slice(&[kind, 0]);
            bytes[6..8].copy_from_slice(&flags.to_le_bytes());
            bytes[8..12].copy_from_slice(&length.to_le_bytes());
            bytes[12..16].copy_from_slice(&count.to_le_bytes());
            let bytes = resealed(bytes);
            if let Ok(view) = BatchView::checked(bytes.clone()) {
                prop_assert_eq!(view.entries().count(), count as usize);
            }
            drop(VerifiedBatch::verify(bytes));
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let batch = batch_of(&[b"one".to_vec(), b"three".to_vec(), vec![0; 30]]);
        let good = batch.view().bytes().to_vec();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(BatchView::checked(bad.into()).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let batch = batch_of(&[vec![1; 100], vec![2; 100]]);
        for length in 0..batch.view().bytes().len() {
            assert!(BatchView::checked(batch.view().bytes().slice(..length)).is_err());
        }
    }

    #[test]
    fn a_large_body_carries_checksums_that_combine_to_its_own() {
        for extra in [0, 1, 5, 8, BLOCK_BYTES - 9, BLOCK_BYTES, 3 * BLOCK_BYTES + 17] {
            let record = vec![0x5A; BLOCK_BYTES + extra];
            let batch = batch_of(std::slice::from_ref(&record));
            let read = BatchView::checked(batch.view().bytes().clone()).expect("it is whole");
            assert_eq!(read.header.flags & FLAG_BLOCKS != 0, extra > 0);
            assert_eq!(contents(&read), [record]);
        }
    }

    #[test]
    fn a_rotten_block_table_is_noticed() {
        let batch = batch_of(&[vec![1; BLOCK_BYTES * 2]]);
        let mut bytes = batch.view().bytes().to_vec();
        bytes[HEADER_BYTES] ^= 1;
        let error = BatchView::checked(bytes.into()).expect_err("the table is bad");
        assert_eq!(error, BatchError::Checksum { part: "block table" });
    }

    const ID: ProducerId = ProducerId(7);
    const EPOCH: ProducerEpoch = ProducerEpoch(2);

    /// What a batch of three says of its producer, once it was stamped and read.
    fn produced(builder: BatchBuilder) -> Option<Produced> {
        let mut builder = builder;
        for text in ["x", "", "yz"] {
            builder.push(Record::opaque(text.as_bytes()));
        }
        let mut bytes = builder.finish().view().bytes().to_vec();
        stamp(&mut bytes, &UNSTAMPED);
        let view = BatchView::checked(bytes.into()).expect("it is whole");
        assert_eq!(contents(&view), [b"x".to_vec(), b"".to_vec(), b"yz".to_vec()]);
        view.header().produced()
    }

    #[test]
    fn the_producer_is_kept_through_the_stamp() {
        let builder = || BatchBuilder::new(PayloadKind::Opaque);
        assert_eq!(produced(builder()), None);
        let (sequence, next) = (Sequence(900), Sequence(903));
        let counted = Produced { id: ID, epoch: EPOCH, sequence, next };
        assert_eq!(produced(builder().produced_by(ID, EPOCH, sequence)), Some(counted));
        assert_eq!(produced(builder().derived_by(ID, EPOCH, sequence..next)), Some(counted));
        for next in [Sequence(901), Sequence(904), Sequence(u64::MAX)] {
            let derived = builder().derived_by(ID, EPOCH, sequence..next);
            assert_eq!(produced(derived), Some(Produced { next, ..counted }));
        }
    }

    #[test]
    fn a_sequence_that_does_not_rise_is_refused() {
        let mut builder =
            BatchBuilder::new(PayloadKind::Opaque).derived_by(ID, EPOCH, Sequence(5)..Sequence(9));
        builder.push(Record::opaque(b"x"));
        let good = builder.finish().view().bytes().to_vec();
        assert!(VerifiedBatch::verify(good.clone().into()).is_ok());
        for next in [0_u64, 4, 5] {
            let mut bytes = good.clone();
            bytes[88..96].copy_from_slice(&next.to_le_bytes());
            let error = VerifiedBatch::verify(resealed(bytes)).map(|_| ()).unwrap_err();
            assert_eq!(error, BatchError::Malformed { part: "header" });
        }
    }

    #[test]
    fn a_header_that_lies_about_event_times_is_refused() {
        let parts =
            event::EventParts { event_time: TimeMicros(500), ..event::EventParts::default() };
        let mut events = event::EventBuilder::new();
        let mut builder = BatchBuilder::new(PayloadKind::Event);
        builder.push(events.build(&parts));
        let good = builder.finish().view().bytes().to_vec();
        assert!(VerifiedBatch::verify(good.clone().into()).is_ok());
        for lie in [0_i64, 499, 501] {
            let mut bytes = good.clone();
            bytes[24..32].copy_from_slice(&lie.to_le_bytes());
            let error = VerifiedBatch::verify(resealed(bytes)).map(|_| ()).unwrap_err();
            assert_eq!(error, BatchError::Malformed { part: "event times" });
        }
    }

    #[test]
    fn a_tombstone_keeps_its_place() {
        let mut bytes = batch_of(&[vec![1; 8], vec![2; 8], vec![3; 8]]).view().bytes().to_vec();
        let table = HEADER_BYTES;
        bytes[table + 4..table + 8].copy_from_slice(&(8 | REMOVED).to_le_bytes());
        bytes[table + 8..table + 12].copy_from_slice(&16_u32.to_le_bytes());
        bytes.truncate(bytes.len() - 8);
        let length = u32_of(bytes.len());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[6] |= FLAG_TOMBSTONES as u8;
        let bytes = resealed(bytes);
        let view = BatchView::checked(bytes.clone()).expect("it is whole");
        let removed: Vec<bool> = view.entries().map(|(_, e)| e == Entry::Removed).collect();
        assert_eq!(removed, [false, true, false]);
        assert!(VerifiedBatch::verify(bytes).is_err(), "no producer removes records");
    }

    #[test]
    fn a_gap_counts_offsets_and_has_no_records() {
        let mut bytes = batch_of(&[vec![]]).view().bytes().to_vec();
        bytes[6] |= FLAG_GAP as u8;
        bytes[12..16].copy_from_slice(&1_000_u32.to_le_bytes());
        let view = BatchView::checked(resealed(bytes)).expect("it is whole");
        assert_eq!((view.records().count(), view.end_offset()), (0, Offset(1_000)));
    }

    #[test]
    fn what_is_removed_keeps_its_offset_and_the_rest_its_bytes() {
        let records: Vec<Vec<u8>> = (0..9_u8).map(|n| vec![n; usize::from(n) * 3]).collect();
        let at = Stamp {
            partition: PartitionId::new(TopicId(3), 1),
            base_offset: Offset(40),
            append_time: TimeMicros(5),
        };
        for count in 1..=records.len() {
            let batch = batch_of(&records[..count]).stamped(&at);
            for mask in 0..1_u32 << count {
                let stays = |offset: Offset| mask >> (offset.0 - 40) & 1 == 1;
                let Some(thin) = batch.without(|offset, _| stays(offset)) else {
                    assert_eq!(mask.count_ones() as usize, count, "all stay");
                    continue;
                };
                assert_eq!(thin.header().is_gap(), mask == 0);
                assert_eq!(
                    (thin.base_offset(), thin.end_offset()),
                    (Offset(40), batch.end_offset())
                );
                assert_eq!((thin.partition(), thin.append_time()), (at.partition, at.append_time));
                let left = batch.records().filter(|(offset, _)| stays(*offset));
                assert!(thin.records().eq(left), "{mask:b} of {count}");
                assert!(thin.without(|_, _| true).is_none());
                let none = thin.without(|_, _| false);
                assert!(mask == 0 || none.is_some_and(|none| none.header().is_gap()));
            }
        }
    }

    #[test]
    fn the_golden_batch_stays_as_it_is() {
        let mut builder = BatchBuilder::new(PayloadKind::Opaque);
        builder.push(Record::opaque(b"ab"));
        builder.push(Record::opaque(b"c"));
        let bytes = builder.finish().view().bytes().to_vec();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            include_str!("../testdata/batch-v1.hex").trim(),
            "the format of batches changed: that needs a new version and a note"
        );
    }
}
