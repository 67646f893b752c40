//! Walking over one segment: finding its commits, and telling which of them fit.
//!
//! Promises
//! - A commit counts as found only if its header's checksum, salt, run, segment and position fit
//!   and its directory's checksum does.
//! - Everything is read through [`Slot::read`], never through a map. What the disk does not give
//!   counts as rotten, page by page; the walk goes on behind it.
//!
//! Called by recovery, verify, and whoever has to make a segment's index again.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tracklog_protocol::BatchView;
use tracklog_protocol::batch::{BatchHeader, HEADER_BYTES_MAX};

use crate::disk::{Access, Disk, PAGE_BYTES, PageBuffer, Slot, batch_of_slot};
use crate::journal::commit::{
    CommitHeader, CommitKind, CommitNumber, DirectoryEntry, HeaderError, control_body, directory,
};
use crate::journal::segment::{FIRST_COMMIT_AT, SLOT_BYTES_MAX};
use crate::partition::places::{IndexBuilder, SegmentId, SegmentIndex};

/// So much is read at once while commits follow each other.
const WINDOW_BYTES: usize = 64 << 10;
/// So much is read at once while a segment is scanned page by page.
const SCAN_BYTES: usize = 1 << 20;
const PAGE: u32 = PAGE_BYTES as u32;

/// A commit that was found, with its directory (empty where it is no data commit).
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) header: CommitHeader,
    pub(crate) hash: u64,
    pub(crate) entries: Vec<DirectoryEntry>,
}

/// What a walk over a segment found.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// In order of positions; their numbers rise.
    pub(crate) found: Vec<Found>,
    /// The highest mark of any header that fits, be its directory good or not.
    pub(crate) mark: CommitNumber,
    /// A header has the segment's salt that only a later program understands.
    pub(crate) newer: bool,
    /// What the disk gave of the pages behind the slot header.
    pub(crate) pages: Pages,
}

/// What the disk gave of a segment's pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pages {
    /// All that were asked for, or there were none.
    #[default]
    All,
    /// Some could not be read.
    Some,
    /// None could be read.
    None,
}

/// Reads one segment.
pub(crate) struct Walker {
    slot: Arc<dyn Slot>,
    id: SegmentId,
    window: PageBuffer,
    window_at: u64,
    window_bytes: usize,
    /// How often pages were read, and how often they could not be.
    read: u64,
    failed: u64,
}

impl Walker {
    pub(crate) fn new(slot: Arc<dyn Slot>, id: SegmentId) -> Self {
        let window = PageBuffer::zeroed(PAGE_BYTES);
        Self { slot, id, window, window_at: 0, window_bytes: 0, read: 0, failed: 0 }
    }

    /// All commits of the segment, from its first page to its last.
    pub(crate) fn walk(&mut self) -> Walked {
        // Nothing of the log's lies further out, however long the file is.
        self.walk_to(self.slot.bytes().min(SLOT_BYTES_MAX))
    }

    /// All commits that begin below `end`.
    pub(crate) fn walk_to(&mut self, end: u64) -> Walked {
        let mut walked = Walked::default();
        let mut at = FIRST_COMMIT_AT;
        let mut last: Option<(CommitNumber, u64)> = None;
        let mut read_bytes = WINDOW_BYTES;
        while u64::from(at) < end {
            let header = match self.header_at(at, read_bytes) {
                Ok(header) => Some(header),
                Err(HeaderError::Newer(salt)) => {
                    walked.newer |= salt == self.id.salt;
                    None
                }
                Err(HeaderError::Bad) => None,
            };
            let header = header.filter(|header| follows(header, last));
            let Some(header) = header else {
                // Nothing begins here: look at every page behind it.
                at += PAGE;
                read_bytes = SCAN_BYTES;
                continue;
            };
            walked.mark = walked.mark.max(header.mark);
            let hash = header.hash();
            last = Some((header.number, hash));
            read_bytes = WINDOW_BYTES;
            if let Some(entries) = self.entries(&header) {
                walked.found.push(Found { header, hash, entries });
            }
            at = header.end();
        }
        walked.pages = match (self.read, self.failed) {
            (_, 0) => Pages::All,
            (0, _) => Pages::None,
            _ => Pages::Some,
        };
        walked
    }

    /// Whose commits it looks for.
    pub(crate) const fn id(&self) -> SegmentId {
        self.id
    }

    /// The commit at `at`, if it is the one that follows the commit `last`, whose number and hash
    /// these are.
    pub(crate) fn next_found(&mut self, at: u32, last: (CommitNumber, u64)) -> Option<Found> {
        if self.bytes_left(at) < PAGE_BYTES {
            return None;
        }
        let header = self.header_at(at, WINDOW_BYTES).ok()?;
        let is_next = (header.number, header.chain) == (last.0.next(), last.1);
        let entries = is_next.then(|| self.entries(&header))??;
        Some(Found { header, hash: header.hash(), entries })
    }

    /// The first commit's header, if it fits.
    pub(crate) fn first(&mut self) -> Option<CommitHeader> {
        self.header(FIRST_COMMIT_AT)
    }

    /// The header of the commit that begins at `at`, if it fits.
    pub(crate) fn header(&mut self, at: u32) -> Option<CommitHeader> {
        self.header_at(at, PAGE_BYTES).ok()
    }

    /// The header at `at`, if it fits this segment.
    fn header_at(&mut self, at: u32, read_bytes: usize) -> Result<CommitHeader, HeaderError> {
        let (id, slot_bytes) = (self.id, self.slot.bytes());
        let header = CommitHeader::decode(self.page(at, read_bytes))?;
        let fits = header.salt == id.salt
            && header.run == id.run
            && header.segment == id.number
            && header.position == at
            && header.commit_bytes >= PAGE
            && header.commit_bytes.is_multiple_of(PAGE)
            && header.head_bytes() <= header.commit_bytes as usize
            && u64::from(header.position) + u64::from(header.commit_bytes) <= slot_bytes;
        if fits { Ok(header) } else { Err(HeaderError::Bad) }
    }

    /// The directory of a commit; `None` when it is rotten. Control commits have none, but their
    /// body is checked likewise.
    fn entries(&mut self, header: &CommitHeader) -> Option<Vec<DirectoryEntry>> {
        let head = self.bytes(header.position, header.head_bytes())?;
        match header.kind {
            CommitKind::Data => directory(header, &head),
            _ => control_body(header, &head).map(|_| Vec::new()),
        }
    }

    /// The body of a control commit.
    pub(crate) fn control_body(&mut self, header: &CommitHeader) -> Option<Vec<u8>> {
        let head = self.bytes(header.position, header.head_bytes())?;
        control_body(header, &head).map(<[u8]>::to_vec)
    }

    /// Whether every byte of the commit that means something is good.
    pub(crate) fn is_whole(&mut self, found: &Found) -> bool {
        let header = &found.header;
        let Some(commit) = self.bytes(header.position, header.commit_bytes as usize) else {
            return false;
        };
        let head = CommitHeader::decode(&commit);
        head == Ok(*header)
            && match header.kind {
                CommitKind::Data => found.entries.iter().all(|entry| good(&commit, entry)),
                _ => control_body(header, &commit).is_some(),
            }
    }

    /// One batch of a commit, if it is good and the one that the directory names.
    pub(crate) fn batch(
        &mut self,
        header: &CommitHeader,
        entry: &DirectoryEntry,
    ) -> Option<BatchView> {
        let bytes = self.bytes(header.position + entry.place, entry.batch_bytes as usize)?;
        named_batch(bytes, entry)
    }

    /// The header of one batch of a commit, if it is good and the one that the directory names.
    pub(crate) fn batch_header(
        &mut self,
        header: &CommitHeader,
        entry: &DirectoryEntry,
    ) -> Option<BatchHeader> {
        let at = u64::from(header.position) + u64::from(entry.place);
        let length = HEADER_BYTES_MAX.min(entry.batch_bytes as usize);
        let end = at + length as u64;
        if at < self.window_at || end > self.window_at + self.window_bytes as u64 {
            // The next header lies beyond the window where batches are large.
            let is_large = entry.batch_bytes as usize >= WINDOW_BYTES;
            let read_bytes = if is_large { 2 * PAGE_BYTES } else { WINDOW_BYTES };
            self.read_window(at / PAGE_BYTES as u64 * PAGE_BYTES as u64, read_bytes);
        }
        let head = if end > self.window_at + self.window_bytes as u64 {
            // The window came down to one page, and the header lies on two.
            let bytes = self.bytes(header.position + entry.place, length)?;
            BatchHeader::decode(&bytes)
        } else {
            let skip = usize::try_from(at - self.window_at).ok()?;
            BatchHeader::decode(&self.window[skip..self.window_bytes])
        };
        let head = head.ok()?;
        names(entry, &head).then_some(head)
    }

    /// How many bytes the slot has from `at` on.
    pub(crate) fn bytes_left(&self, at: u32) -> usize {
        usize::try_from(self.slot.bytes().saturating_sub(u64::from(at))).unwrap_or(usize::MAX)
    }

    /// `length` bytes at `at`; `None` when the disk does not give them.
    pub(crate) fn bytes(&self, at: u32, length: usize) -> Option<Bytes> {
        let first = u64::from(at / PAGE * PAGE);
        let skip = usize::try_from(u64::from(at) - first).ok()?;
        let mut buffer = PageBuffer::zeroed(skip + length);
        // Twice: what fails once in passing must not be taken for lost.
        self.slot.read(first, &mut buffer).or_else(|_| self.slot.read(first, &mut buffer)).ok()?;
        Some(buffer.freeze().slice(skip..skip + length))
    }

    /// The bytes from page `at` on, at least one page; zeros where the disk does not give them.
    fn page(&mut self, at: u32, read_bytes: usize) -> &[u8] {
        let at = u64::from(at);
        let end = self.window_at + self.window_bytes as u64;
        if at < self.window_at || at + PAGE_BYTES as u64 > end {
            self.read_window(at, read_bytes);
        }
        let skip = usize::try_from(at - self.window_at).expect("a window is small");
        &self.window[skip..self.window_bytes]
    }

    fn read_window(&mut self, at: u64, read_bytes: usize) {
        let left = usize::try_from(self.slot.bytes() - at).unwrap_or(usize::MAX);
        for bytes in [read_bytes.min(left), PAGE_BYTES] {
            self.window_at = at;
            self.window_bytes = bytes;
            if self.window.capacity() < bytes {
                self.window = PageBuffer::zeroed(bytes);
            }
            self.window.resize(bytes);
            if self.slot.read(at, &mut self.window).is_ok() {
                self.read += 1;
                return;
            }
        }
        self.failed += 1;
        self.window.fill(0);
    }
}

/// Whether a header can come behind the last one: its number is higher, and if it is the next,
/// its chain fits.
fn follows(header: &CommitHeader, last: Option<(CommitNumber, u64)>) -> bool {
    last.is_none_or(|(number, hash)| {
        header.number > number && (header.number != number.next() || header.chain == hash)
    })
}

fn good(commit: &Bytes, entry: &DirectoryEntry) -> bool {
    let start = entry.place as usize;
    let end = start + entry.batch_bytes as usize;
    end <= commit.len() && named_batch(commit.slice(start..end), entry).is_some()
}

/// The batch in `bytes`, if it is good and the one that `entry` names.
pub(crate) fn named_batch(bytes: Bytes, entry: &DirectoryEntry) -> Option<BatchView> {
    let batch = batch_of_slot(bytes).ok()?;
    names(entry, batch.header()).then_some(batch)
}

fn names(entry: &DirectoryEntry, header: &BatchHeader) -> bool {
    header.header_crc() == entry.batch_crc
        && header.stamp().partition == entry.partition
        && header.stamp().base_offset == entry.base_offset
        && header.count() == entry.count
}

/// Makes the index of a segment again, from its commits up to number `last`.
///
/// # Errors
/// When the slot cannot be opened, or not all of it is given: what is left out would be lost to
/// who goes by the index.
pub(crate) fn index_of(
    disk: &dyn Disk,
    id: SegmentId,
    last: CommitNumber,
) -> io::Result<SegmentIndex> {
    let slot = disk.open_slot(id.slot, Access::Read)?;
    let walked = Walker::new(slot, id).walk();
    let mut builder = IndexBuilder::default();
    for found in walked.found.iter().filter(|found| found.header.number <= last) {
        builder.add(&found.header, &found.entries);
    }
    let index = builder.finish();
    if walked.pages != Pages::All && index.last() != last {
        return Err(io::Error::other(format!("not all of {} can be read", id.slot)));
    }
    Ok(index)
}
