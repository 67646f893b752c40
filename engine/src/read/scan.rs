//! Reading planned batches from slots, and from packs.
//!
//! Promises
//! - Batches that lie side by side are read together, in windows of at most 1 MiB (or one batch).
//!   The next windows of a map are asked for ahead, so that the disk works on them meanwhile.
//! - Whoever plans them, each window is read once: batches of several fetches may come together.
//! - What a map gives is not copied unless answers hold too much of maps. What is read around the
//!   page cache is copied only where it would pin much more memory than it fills.
//! - A window that cannot be read is read again batch by batch, and a batch that is no good in
//!   a map is read again from the disk itself, twice, before it is called damaged. Where the disk
//!   gives nothing of the segment, it is not.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tracklog_protocol::BatchView;
use tracklog_protocol::batch::{BatchError, BatchHeader, HEADER_BYTES_MAX};

use super::pinned::PinnedBytes;
use super::plan::{Bad, Found, Medium, Planned};
use super::slots::{OpenSlot, OpenSlots};
use crate::disk::{BufferPool, Loss, Map, PAGE_BYTES, PackId, Unread, batch_of_slot, read_surely};
use crate::partition::places::Home;
use crate::settled::frames::{Frames, NoFrame};

/// Nothing larger is read at once, but for a single batch.
const WINDOW_BYTES_MAX: u64 = 1 << 20;
/// So many bytes that nobody asked for are read along rather than read around. Larger holes cost
/// nothing where the windows behind them are on their way already.
const HOLE_BYTES_MAX: u64 = 16 << 10;
/// So many windows, and so many bytes, are asked for ahead: what keeps a disk busy while a window
/// is checked, with small windows as with large ones.
const AHEAD_WINDOWS: usize = 64;
const AHEAD_BYTES: u64 = 8 << 20;

/// Reads batches from slots.
pub(super) struct Scan<'a> {
    pub(super) slots: &'a OpenSlots,
    pub(super) pool: &'a BufferPool,
    pub(super) pinned: &'a Arc<PinnedBytes>,
    pub(super) frames: &'a Frames,
}

impl Scan<'_> {
    /// Reads all of `batches`: afterwards each is there, or it is said why not.
    pub(super) fn read(&self, mut batches: Vec<&mut Planned>) {
        batches.sort_unstable_by_key(|batch| (batch.home.number(), batch.place.at()));
        for batches in batches.chunk_by_mut(|one, other| one.home == other.home) {
            match batches[0].home {
                Home::Pack(pack) => self.read_pack(pack, batches),
                Home::Segment(id) => match self.slots.open(id) {
                    Ok(open) => self.read_segment(&open, batches),
                    Err(error) => {
                        let why = format!("{}: {error}", id.slot);
                        let is_gone = !self.slots.has(Home::Segment(id));
                        let bad = if is_gone { Bad::Gone(why) } else { Bad::Io(why) };
                        for batch in batches {
                            batch.found = Found::Read(Err(bad.clone()));
                        }
                    }
                },
            }
        }
    }

    fn read_pack(&self, pack: PackId, batches: &mut [&mut Planned]) {
        for batch in batches {
            let Medium::Pack(frame) = batch.medium else {
                unreachable!("what lies in a pack is planned with its frame")
            };
            batch.found = match self.frames.get(pack, &frame) {
                Ok(bytes) => {
                    let start = length(batch.place.at() - frame.space_at);
                    let end = length(batch.place.end() - frame.space_at);
                    // A slice keeps all of its frame.
                    let is_small = (end - start) * 2 < bytes.len();
                    Found::Stretch(match is_small {
                        true => Bytes::copy_from_slice(&bytes[start..end]),
                        false => bytes.slice(start..end),
                    })
                }
                Err(NoFrame::Damaged(loss)) => Found::Read(Err(Bad::Damaged(loss))),
                Err(NoFrame::Io(why)) => Found::Read(Err(Bad::Io(why))),
                Err(NoFrame::Gone(why)) => Found::Read(Err(match self.slots.has(batch.home) {
                    true => Bad::Damaged(Loss::Refused(why)),
                    false => Bad::Gone(why),
                })),
            };
        }
    }

    pub(super) fn read_segment(&self, open: &OpenSlot, batches: &mut [&mut Planned]) {
        let windows = windows(batches.iter().map(|batch| batch.place.at()..batch.place.end()));
        let mut ahead = Ahead { windows: &windows, next: 0, missing: None };
        let mut rest = batches;
        for (at, (window, count)) in windows.iter().enumerate() {
            let mapped = open.map.as_ref().and_then(|map| ahead.window(map, at));
            let (now, later) = rest.split_at_mut(*count);
            self.read_window(open, window, mapped, now);
            rest = later;
        }
    }

    fn read_window(
        &self,
        open: &OpenSlot,
        window: &Range<u64>,
        mapped: Option<Bytes>,
        batches: &mut [&mut Planned],
    ) {
        let is_sparse = wanted_bytes(batches) * 2 < window.end - window.start;
        let (bytes, copy) = match mapped {
            Some(bytes) => self.pinned_or_copy(bytes, is_sparse),
            None => (self.direct(open, window).ok(), is_sparse),
        };
        for at in 0..batches.len() {
            let (before, rest) = batches.split_at_mut(at);
            let batch = &mut *rest[0];
            // What two fetches ask for is checked once.
            if let Some(same) = before.last().filter(|before| before.is_same(batch)) {
                batch.found = same.found.clone();
                continue;
            }
            let found = bytes.as_ref().and_then(|bytes| {
                let start = length(batch.place.at() - window.start);
                let end = start + batch.place.batch_bytes as usize;
                let slice = match copy {
                    true => Bytes::copy_from_slice(&bytes[start..end]),
                    false => bytes.slice(start..end),
                };
                check(batch, slice).ok()
            });
            let found = found.map_or_else(|| self.read_again(open, batch), Ok);
            batch.found = Found::Read(found);
        }
    }

    /// The bytes of a map's window, and whether they are for copying from.
    fn pinned_or_copy(&self, bytes: Bytes, is_sparse: bool) -> (Option<Bytes>, bool) {
        match self.pinned.pin(bytes) {
            Ok(bytes) => (Some(bytes), false),
            Err(bytes) if is_sparse => (Some(bytes), true),
            Err(bytes) => (Some(self.copy(&bytes)), false),
        }
    }

    fn copy(&self, bytes: &Bytes) -> Bytes {
        let mut pages = self.pool.take(bytes.len());
        pages[..bytes.len()].copy_from_slice(bytes);
        pages.freeze().slice(..bytes.len())
    }

    /// Reads one batch from the disk itself.
    fn read_again(&self, open: &OpenSlot, batch: &Planned) -> Result<BatchView, Bad> {
        let range = batch.place.at()..batch.place.end();
        let at = format!("{} at {}", batch.home, batch.place.at());
        let read = || {
            let bytes = self.direct(open, &range)?;
            check(batch, bytes).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))
        };
        let other_page = || open.slot.read(0, &mut self.pool.take(PAGE_BYTES));
        let bad = match read_surely(read, other_page) {
            Ok(batch) => return Ok(batch),
            Err(Unread::Lost(error)) => Bad::Damaged(Loss::of(&at, &error)),
            Err(Unread::Later(error)) => Bad::Io(format!("{at}: {error}")),
        };
        // What was freed while it was read may hold anything.
        match batch.home {
            Home::Segment(id) if !self.slots.has(Home::Segment(id)) => Err(Bad::Gone(at)),
            _ => Err(bad),
        }
    }

    /// Reads the header of each batch; `None` where there is no good one.
    pub(super) fn read_headers(
        &self,
        open: &OpenSlot,
        batches: &[&Planned],
    ) -> Vec<Option<BatchHeader>> {
        let mut headers = Vec::with_capacity(batches.len());
        let mut rest = batches;
        while !rest.is_empty() {
            let spans = rest.iter().map(|batch| {
                let at = batch.place.at();
                at..batch.place.end().min(at + size(HEADER_BYTES_MAX))
            });
            let (window, count) = first_window(spans);
            let (now, later) = rest.split_at(count);
            let bytes = self.bytes(open, &window).unwrap_or_default();
            headers.extend(now.iter().map(|batch| {
                let start = length(batch.place.at() - window.start);
                let header = BatchHeader::decode(bytes.get(start..)?).ok()?;
                is_the_one(batch, &header).then_some(header)
            }));
            rest = later;
        }
        headers
    }

    /// From the map where there is one and it works, else around the page cache.
    fn bytes(&self, open: &OpenSlot, range: &Range<u64>) -> io::Result<Bytes> {
        let mapped = open.map.as_ref().and_then(|map| from_map(map, range));
        mapped.map_or_else(|| self.direct(open, range), Ok)
    }

    fn direct(&self, open: &OpenSlot, range: &Range<u64>) -> io::Result<Bytes> {
        let page = size(PAGE_BYTES);
        let start = range.start / page * page;
        let end = range.end.next_multiple_of(page);
        if end > open.slot.bytes() {
            let what = format!("the slot ends before {}", range.end);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        let mut pages = self.pool.take(length(end - start));
        open.slot.read(start, &mut pages)?;
        Ok(pages.freeze().slice(length(range.start - start)..length(range.end - start)))
    }
}

/// Reads the windows of a map one after the other, and those that are not in memory ahead.
struct Ahead<'a> {
    windows: &'a [(Range<u64>, usize)],
    /// The first that was not asked for.
    next: usize,
    /// The last that was found missing.
    missing: Option<usize>,
}

impl Ahead<'_> {
    /// The bytes of the window at `now`, if the map gives them.
    fn window(&mut self, map: &Arc<dyn Map>, now: usize) -> Option<Bytes> {
        let window = &self.windows[now].0;
        let length = length(window.end - window.start);
        let there = Arc::clone(map).bytes_in_memory(window.start, length);
        if there.is_none() || self.missing.is_some_and(|missing| now <= missing) {
            self.missing = self.missing.max(Some(now));
            self.expect(&**map, now);
        }
        there.or_else(|| Arc::clone(map).bytes(window.start, length).ok())
    }

    /// Asks for the windows from `now` on, as far as is good.
    fn expect(&mut self, map: &dyn Map, now: usize) {
        let bytes_of = |window: &Range<u64>| window.end - window.start;
        self.next = self.next.max(now);
        let mut bytes: u64 = self.windows[now..self.next].iter().map(|it| bytes_of(&it.0)).sum();
        let end = self.windows.len().min(now + AHEAD_WINDOWS);
        while self.next < end && bytes < AHEAD_BYTES {
            let window = &self.windows[self.next].0;
            if map.expect(window.start, length(bytes_of(window))) {
                self.missing = Some(self.next);
            }
            bytes += bytes_of(window);
            self.next += 1;
        }
    }
}

fn from_map(map: &Arc<dyn Map>, range: &Range<u64>) -> Option<Bytes> {
    let length = length(range.end - range.start);
    let there = Arc::clone(map).bytes_in_memory(range.start, length);
    there.or_else(|| Arc::clone(map).bytes(range.start, length).ok())
}

/// All windows of spans that are in order, with how many spans lie in each.
fn windows(spans: impl Iterator<Item = Range<u64>> + Clone) -> Vec<(Range<u64>, usize)> {
    let (mut windows, mut rest) = (Vec::new(), spans);
    while rest.clone().next().is_some() {
        let (window, count) = first_window(rest.clone());
        rest.nth(count - 1);
        windows.push((window, count));
    }
    windows
}

/// What is asked for of a window, each byte once.
fn wanted_bytes(batches: &[&mut Planned]) -> u64 {
    let mut wanted = (0, 0);
    for batch in batches {
        let (sum, end) = wanted;
        wanted = (
            sum + batch.place.end().saturating_sub(end.max(batch.place.at())),
            end.max(batch.place.end()),
        );
    }
    wanted.0
}

/// How many of the first spans, which are in order, are read together, and where.
fn first_window(mut spans: impl Iterator<Item = Range<u64>>) -> (Range<u64>, usize) {
    let mut window = spans.next().expect("a window is asked for where something is wanted");
    let mut count = 1;
    for span in spans {
        let hole = span.start.saturating_sub(window.end);
        let end = window.end.max(span.end);
        if hole > HOLE_BYTES_MAX || end - window.start > WINDOW_BYTES_MAX {
            break;
        }
        window.end = end;
        count += 1;
    }
    (window, count)
}

/// A batch from a disk: its checksums, and whether it is the one that was asked for.
fn check(planned: &Planned, bytes: Bytes) -> Result<BatchView, Wrong> {
    let batch = batch_of_slot(bytes)?;
    if is_the_one(planned, batch.header()) { Ok(batch) } else { Err(Wrong::Other) }
}

fn is_the_one(planned: &Planned, header: &BatchHeader) -> bool {
    let stamp = header.stamp();
    stamp.partition == planned.partition
        && stamp.base_offset == planned.place.base_offset
        && header.batch_bytes() == planned.place.batch_bytes as usize
}

/// Why bytes are not the batch.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("another batch lies there")]
    Other,
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("what lies in a slot fits into memory")
}

const fn size(bytes: usize) -> u64 {
    bytes as u64
}
