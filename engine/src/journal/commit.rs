//! Commits: the unit of durability and of atomicity, as bytes. FORMAT.md §3.
//!
//! Promises: encoding and decoding are inverse; a [`CommitHeader`] in hand means that its
//! checksum held; decoding bytes of any kind never panics.
//!
//! Knows batches by their directory entries alone. Called by the appender, recovery, verify and
//! inspect.

use std::fmt;

use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};
use xxhash_rust::xxh3::xxh3_64;

use crate::disk::PAGE_BYTES;
use crate::fields::{Fields, FieldsMut, length_u32};

/// Size of the fixed header.
pub(crate) const HEADER_BYTES: usize = 128;
/// Size of one entry of the directory.
pub(crate) const ENTRY_BYTES: usize = 40;
/// No commit is larger, its header and padding included.
pub(crate) const COMMIT_BYTES_MAX: usize = 9 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"TLC\x01");
const VERSION: u16 = 1;
const MAY_SKIP: u8 = 1;
const CRC_AT: usize = HEADER_BYTES - 4;

const _: () = assert!(HEADER_BYTES <= PAGE_BYTES);
const _: () = assert!(COMMIT_BYTES_MAX.is_multiple_of(PAGE_BYTES));

/// One opening of the log. From 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run(pub u64);

/// The number of a commit in its run. From 1; 0 stands for "none yet".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitNumber(pub u64);

/// The number of a segment in the log. From 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentNumber(pub(crate) u64);

/// What tells a segment's commits from all older bytes of its slot. Random; no client sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salt(pub(crate) u64);

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(…)")
    }
}

impl CommitNumber {
    /// No commit.
    pub const NONE: Self = Self(0);

    /// The next number.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl SegmentNumber {
    /// The next number.
    pub(crate) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

macro_rules! display {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
display!(Run, CommitNumber, SegmentNumber);

/// What a commit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommitKind {
    /// Batches.
    Data,
    /// Nothing: it vouches for the commits before it.
    Mark,
    /// The first of a run: [`Opened`].
    Opened,
    /// The last of a full segment: [`Sealed`].
    Sealed,
    /// Of a later version, which says that it may be skipped. Its flags are kept as they are: the
    /// chain names a header by its very bytes.
    Other { byte: u8, flags: u8 },
}

impl CommitKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Mark => 2,
            Self::Opened => 3,
            Self::Sealed => 4,
            Self::Other { byte, .. } => byte,
        }
    }

    const fn flags(self) -> u8 {
        match self {
            Self::Mark => MAY_SKIP,
            Self::Other { flags, .. } => flags,
            Self::Data | Self::Opened | Self::Sealed => 0,
        }
    }

    const fn from_bytes(byte: u8, flags: u8) -> Self {
        match byte {
            1 => Self::Data,
            2 => Self::Mark,
            3 => Self::Opened,
            4 => Self::Sealed,
            byte => Self::Other { byte, flags },
        }
    }
}

/// The fixed header of a commit, whose checksum held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitHeader {
    pub(crate) kind: CommitKind,
    pub(crate) salt: Salt,
    pub(crate) run: Run,
    pub(crate) number: CommitNumber,
    pub(crate) segment: SegmentNumber,
    /// Where in the segment it lies.
    pub(crate) position: u32,
    /// Its size, padding included.
    pub(crate) commit_bytes: u32,
    /// XXH3-64 of the fixed header before; 0 in a run's first.
    pub(crate) chain: u64,
    /// The highest commit of this run that was durable with all before it.
    pub(crate) mark: CommitNumber,
    pub(crate) append_time: TimeMicros,
    /// Size of the directory, or of a control commit's body.
    pub(crate) directory_bytes: u32,
    pub(crate) directory_crc: u32,
}

/// Why bytes are no commit header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// They do not look like one, or the checksum does not fit.
    Bad,
    /// They are one, of a version or kind that must not be skipped and is not known. Anyone can
    /// make such bytes: they count only under the segment's salt, which every version has in the
    /// same place.
    Newer(Salt),
}

impl CommitHeader {
    /// The header as bytes.
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut fields = Vec::with_capacity(HEADER_BYTES);
        fields.put_u32(MAGIC);
        fields.put_u16(VERSION);
        fields.put_u8(self.kind.byte());
        fields.put_u8(self.kind.flags());
        fields.put_u64(self.salt.0);
        fields.put_u64(self.run.0);
        fields.put_u64(self.number.0);
        fields.put_u64(self.segment.0);
        fields.put_u32(self.position);
        fields.put_u32(self.commit_bytes);
        fields.put_u64(self.chain);
        fields.put_u64(self.mark.0);
        fields.put_time(self.append_time);
        fields.put_u32(self.directory_bytes);
        fields.put_u32(self.directory_crc);
        assert!(fields.len() <= CRC_AT, "the fields leave room for the checksum");
        let mut bytes = [0; HEADER_BYTES];
        bytes[..fields.len()].copy_from_slice(&fields);
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header at the start of `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(HeaderError::Bad)?;
        let (covered, crc) = bytes.split_at(CRC_AT);
        let mut fields = Fields::new(covered);
        if fields.u32() != Some(MAGIC) || crc32fast::hash(covered).to_le_bytes() != *crc {
            return Err(HeaderError::Bad);
        }
        let header = Self::decode_checked(fields).unwrap_or(Err(HeaderError::Bad))?;
        // Numbers begin at 1: whoever counts back from one may lean on that.
        if header.number == CommitNumber::NONE { Err(HeaderError::Bad) } else { Ok(header) }
    }

    /// `None`: too short.
    fn decode_checked(mut fields: Fields<'_>) -> Option<Result<Self, HeaderError>> {
        let version = fields.u16()?;
        let kind = CommitKind::from_bytes(fields.u8()?, fields.u8()?);
        let salt = Salt(fields.u64()?);
        let must_know = matches!(kind, CommitKind::Other { flags, .. } if flags & MAY_SKIP == 0);
        if version != VERSION || must_know {
            return Some(Err(HeaderError::Newer(salt)));
        }
        Some(Ok(Self {
            kind,
            salt,
            run: Run(fields.u64()?),
            number: CommitNumber(fields.u64()?),
            segment: SegmentNumber(fields.u64()?),
            position: fields.u32()?,
            commit_bytes: fields.u32()?,
            chain: fields.u64()?,
            mark: CommitNumber(fields.u64()?),
            append_time: fields.time()?,
            directory_bytes: fields.u32()?,
            directory_crc: fields.u32()?,
        }))
    }

    /// The hash by which the next commit names this one.
    pub(crate) fn hash(&self) -> u64 {
        xxh3_64(&self.encode())
    }

    /// Where the next commit begins.
    pub(crate) const fn end(&self) -> u32 {
        self.position + self.commit_bytes
    }

    /// Bytes from the commit's start to the end of its directory.
    pub(crate) const fn head_bytes(&self) -> usize {
        HEADER_BYTES + self.directory_bytes as usize
    }
}

/// One batch of a commit, as the directory names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirectoryEntry {
    pub(crate) partition: PartitionId,
    pub(crate) base_offset: Offset,
    pub(crate) count: u32,
    /// Where the batch begins, from the commit's start.
    pub(crate) place: u32,
    pub(crate) batch_bytes: u32,
    /// The checksum of the batch's header: binds this entry to that very batch.
    pub(crate) batch_crc: u32,
    /// The greatest event time in the batch; `i64::MIN` where it has none.
    pub(crate) event_time_max: TimeMicros,
}

impl DirectoryEntry {
    /// The offset after its last record.
    pub(crate) const fn end_offset(&self) -> Offset {
        self.base_offset.plus(self.count as u64)
    }

    pub(crate) fn encode(&self, fields: &mut impl FieldsMut) {
        fields.put_u32(self.partition.topic.0);
        fields.put_u32(self.partition.partition);
        fields.put_u64(self.base_offset.0);
        fields.put_u32(self.count);
        fields.put_u32(self.place);
        fields.put_u32(self.batch_bytes);
        fields.put_u32(self.batch_crc);
        fields.put_time(self.event_time_max);
    }

    pub(crate) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            partition: PartitionId::new(TopicId(fields.u32()?), fields.u32()?),
            base_offset: Offset(fields.u64()?),
            count: fields.u32()?,
            place: fields.u32()?,
            batch_bytes: fields.u32()?,
            batch_crc: fields.u32()?,
            event_time_max: fields.time()?,
        })
    }

    /// Whether the batch can lie in a commit of this size.
    fn fits(&self, header: &CommitHeader) -> bool {
        let end = u64::from(self.place) + u64::from(self.batch_bytes);
        self.count > 0
            && self.place.is_multiple_of(8)
            && self.place as usize >= header.head_bytes()
            && end <= u64::from(header.commit_bytes)
            && self.base_offset.0.checked_add(u64::from(self.count)).is_some()
    }
}

/// Reads the directory of a data commit from the commit's first bytes; `None` when its checksum
/// does not fit.
pub(crate) fn directory(header: &CommitHeader, commit: &[u8]) -> Option<Vec<DirectoryEntry>> {
    let mut fields = Fields::new(control_body(header, commit)?);
    let mut entries = Vec::with_capacity(header.directory_bytes as usize / ENTRY_BYTES);
    while !fields.is_empty() {
        entries.push(DirectoryEntry::decode(&mut fields).filter(|entry| entry.fits(header))?);
    }
    Some(entries)
}

/// The checked bytes behind the fixed header: directory, or a control commit's body.
pub(crate) fn control_body<'a>(header: &CommitHeader, commit: &'a [u8]) -> Option<&'a [u8]> {
    let body = commit.get(HEADER_BYTES..header.head_bytes())?;
    (crc32fast::hash(body) == header.directory_crc).then_some(body)
}

/// A commit in some run, by which a later run says on what it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    pub(crate) run: Run,
    pub(crate) number: CommitNumber,
    /// The hash of its header.
    pub(crate) hash: u64,
}

impl Base {
    pub(crate) fn encode(base: Option<Self>, fields: &mut impl FieldsMut) {
        let base = base.unwrap_or(Self { run: Run(0), number: CommitNumber::NONE, hash: 0 });
        fields.put_u64(base.run.0);
        fields.put_u64(base.number.0);
        fields.put_u64(base.hash);
    }

    /// The outer `None`: too short. Run 0: it stands on nothing, the log's first run.
    #[expect(clippy::option_option, reason = "too short and standing on nothing differ")]
    pub(crate) fn decode(fields: &mut Fields<'_>) -> Option<Option<Self>> {
        let base = Self {
            run: Run(fields.u64()?),
            number: CommitNumber(fields.u64()?),
            hash: fields.u64()?,
        };
        Some((base.run != Run(0)).then_some(base))
    }
}

/// A stretch of commits of one run: `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) run: Run,
    pub(crate) first: CommitNumber,
    pub(crate) last: CommitNumber,
}

impl Stretch {
    pub(crate) const fn count(&self) -> u64 {
        self.last.0 - self.first.0 + 1
    }

    pub(crate) fn encode(&self, fields: &mut impl FieldsMut) {
        fields.put_u64(self.run.0);
        fields.put_u64(self.first.0);
        fields.put_u64(self.last.0);
    }

    pub(crate) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let stretch = Self {
            run: Run(fields.u64()?),
            first: CommitNumber(fields.u64()?),
            last: CommitNumber(fields.u64()?),
        };
        (stretch.first <= stretch.last).then_some(stretch)
    }
}

/// What a run's first commit says about what was before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    /// The last good data commit, on which this run stands; `None` in the log's first run.
    pub(crate) base: Option<Base>,
    /// How far every end offset skips ahead of the base, since commits are missing.
    pub(crate) skip: u64,
    /// Every commit known to be missing, of all runs.
    pub(crate) damaged: Vec<Stretch>,
    /// What was cut by this opening and those it voids: for reports.
    pub(crate) void: Vec<Stretch>,
    /// Commits that a witness vouched for and the operator gave up.
    pub(crate) given_up: Vec<Stretch>,
    /// How much further every end offset skips where no checkpoint can be read: so many records the
    /// damage may have held of which only checkpoints tell how far they went.
    pub(crate) skip_without_checkpoint: u64,
}

impl Opened {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        Base::encode(self.base, &mut fields);
        fields.put_u64(self.skip);
        for list in [&self.damaged, &self.void, &self.given_up] {
            fields.put_list(list, |fields, stretch| stretch.encode(fields));
        }
        if self.skip_without_checkpoint > 0 {
            fields.put_u64(self.skip_without_checkpoint);
        }
        fields
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(body);
        Some(Self {
            base: Base::decode(&mut fields)?,
            skip: fields.u64()?,
            damaged: fields.list(Stretch::decode)?,
            void: fields.list(Stretch::decode)?,
            given_up: fields.list(Stretch::decode)?,
            skip_without_checkpoint: fields.u64().unwrap_or(0),
        })
    }
}

/// What the last commit of a full segment says about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) slot: crate::disk::SlotId,
    pub(crate) segment: SegmentNumber,
    pub(crate) salt: Salt,
}

impl Sealed {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::with_capacity(20);
        fields.put_u32(self.slot.0);
        fields.put_u64(self.segment.0);
        fields.put_u64(self.salt.0);
        fields
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(body);
        Some(Self {
            slot: crate::disk::SlotId(fields.u32()?),
            segment: SegmentNumber(fields.u64()?),
            salt: Salt(fields.u64()?),
        })
    }
}

/// Size of a commit with a body of `body_bytes` behind its header, padded to whole pages.
pub(crate) fn padded_bytes(body_bytes: usize) -> usize {
    (HEADER_BYTES + body_bytes).next_multiple_of(PAGE_BYTES)
}

/// `length` as a field of a header.
pub(crate) fn field(length: usize) -> u32 {
    length_u32(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: u64) -> CommitHeader {
        CommitHeader {
            kind: CommitKind::Mark,
            salt: Salt(1),
            run: Run(1),
            number: CommitNumber(number),
            segment: SegmentNumber(1),
            position: 4096,
            commit_bytes: 4096,
            chain: 0,
            mark: CommitNumber::NONE,
            append_time: TimeMicros(1),
            directory_bytes: 0,
            directory_crc: 0,
        }
    }

    #[test]
    fn an_opened_says_how_far_ends_skip_without_checkpoints_only_where_they_do() {
        let opened = Opened { skip: 7, skip_without_checkpoint: 9, ..Opened::default() };
        let body = opened.encode();
        assert_eq!(Opened::decode(&body), Some(opened.clone()));
        let none = Opened { skip_without_checkpoint: 0, ..opened };
        assert_eq!(none.encode(), body[..body.len() - 8]);
        assert_eq!(Opened::decode(&none.encode()), Some(none));
    }

    #[test]
    fn a_commit_is_numbered_from_1_whatever_its_checksum_says() {
        assert_eq!(CommitHeader::decode(&numbered(1).encode()), Ok(numbered(1)));
        assert_eq!(CommitHeader::decode(&numbered(0).encode()), Err(HeaderError::Bad));
    }

    #[test]
    fn a_commit_of_a_later_kind_is_named_in_the_chain_by_the_bytes_that_lie_there() {
        let mut bytes = numbered(1).encode();
        (bytes[6], bytes[7]) = (9, 0x40 | MAY_SKIP);
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        let header = CommitHeader::decode(&bytes).expect("it may be skipped");
        assert_eq!(header.kind, CommitKind::Other { byte: 9, flags: 0x40 | MAY_SKIP });
        assert_eq!(header.hash(), xxh3_64(&bytes));
        assert_eq!(CommitHeader::decode(&header.encode()), Ok(header));
    }
}
