//! Finding offsets by time.
//!
//! Append times rise from commit to commit: a search over segments, then commits, then places.
//! Event times come in any order. What is known of a segment and of a batch without reading its
//! records is the greatest one, so the first batch that may hold an answer is found by headers,
//! and the answer in its records.

use std::ops::Range;
use std::sync::Arc;

use tracklog_log::{FetchError, FetchMode};
use tracklog_protocol::batch::BatchHeader;
use tracklog_protocol::{BatchView, Offset, PartitionId, TimeMicros};

use super::Reader;
use super::plan::{Bad, Found, Planned, ShareOf};
use crate::catalog::Row;
use crate::journal::commit::SegmentNumber;
use crate::partition::places::Share;
use crate::partition::places::{FirstAppended, Held, Home, Index, Place, Unread};
use crate::published::Published;
use crate::settled::pack::PackIndex;

/// So many batches are looked at in one go.
const BATCHES_AT_ONCE: usize = 1024;

/// The first offset whose append time is at or after `time`; the end when there is none.
pub(super) async fn offset_at_append(
    reader: &Arc<Reader>,
    partition: PartitionId,
    time: TimeMicros,
) -> Result<Offset, FetchError> {
    if let Ok(offset) = look_at_append(&reader.published, partition, time, &Held::new())? {
        return Ok(offset);
    }
    let working = Arc::clone(reader);
    let work = move || {
        let mut held = Held::new();
        loop {
            match look_at_append(&working.published, partition, time, &held)? {
                Ok(offset) => return Ok(offset),
                Err(Lack::Index(unread)) => read_index(&working, partition, unread, &mut held)?,
                Err(Lack::Batches(planned)) => {
                    if let Looked::At(offset) = first_appended(&working, *planned, time)? {
                        return Ok(offset);
                    }
                    held.clear();
                }
            }
        }
    };
    reader.threads.run(FetchMode::Replay, work).await.unwrap_or(Err(FetchError::Closed))
}

/// What has to be read to tell.
enum Lack {
    Index(Unread),
    Batches(Box<Planned>),
}

fn look_at_append(
    published: &Published,
    partition: PartitionId,
    time: TimeMicros,
    held: &Held,
) -> Result<Result<Offset, Lack>, FetchError> {
    let topics = published.topics.read();
    let row = topics.catalog.row(partition);
    let row = row.ok_or(FetchError::UnknownPartition { partition })?;
    let places = published.places.read();
    let extent = topics.extent_of(row);
    let within = |offset: Offset| offset.clamp(extent.start, extent.end);
    Ok(match places.offset_at_append((row, partition), time, held) {
        FirstAppended::Nowhere => Ok(extent.end),
        FirstAppended::At(offset) => Ok(within(offset)),
        FirstAppended::Within { bound, .. } if bound <= extent.start => Ok(extent.start),
        FirstAppended::Within { home, place, bound, frame } => {
            Err(Lack::Batches(Box::new(Planned::of_pack(home, partition, (place, bound), frame))))
        }
        FirstAppended::Unread(unread) => Err(Lack::Index(unread)),
    })
}

/// The first offset of the stretch in a batch that was appended at `time` or later, within what is
/// still there.
fn first_appended(
    reader: &Reader,
    mut planned: Planned,
    time: TimeMicros,
) -> Result<Looked, FetchError> {
    let (partition, bound) = (planned.partition, planned.bound);
    reader.scan().read(vec![&mut planned]);
    for batch in planned.batches() {
        match batch {
            Ok(batch) if batch.append_time() >= time => {
                let topics = reader.published.topics.read();
                let start = topics.extent(partition).map_or(Offset::ZERO, |extent| extent.start);
                return Ok(Looked::At(batch.base_offset().max(start)));
            }
            // Where what could have told is damaged, it lies behind it at the latest.
            Ok(_) | Err(Bad::Damaged(_)) => {}
            // It lies elsewhere by now: look again.
            Err(Bad::Gone(_)) => return Ok(Looked::Again),
            Err(Bad::Io(why)) => return Err(FetchError::Io { partition, why }),
        }
    }
    Ok(Looked::At(bound))
}

/// What came of a look at batches.
enum Looked {
    At(Offset),
    /// They were not there any more.
    Again,
}

fn read_index(
    reader: &Reader,
    partition: PartitionId,
    unread: Unread,
    held: &mut Held,
) -> Result<(), FetchError> {
    match reader.read_index(unread) {
        Ok(index) => {
            held.insert(unread.home.number(), index);
            Ok(())
        }
        // It went elsewhere meanwhile: whoever looks again finds where.
        Err(_) if !reader.published.places.read().has(unread.home) => Ok(()),
        Err(error) => {
            let why = format!("{} has no index: {error}", unread.home);
            Err(FetchError::Io { partition, why })
        }
    }
}

/// The lowest offset of an event whose time is at or after `time`; the end when there is none.
pub(super) async fn offset_at_event(
    reader: &Arc<Reader>,
    partition: PartitionId,
    time: TimeMicros,
) -> Result<Offset, FetchError> {
    let (row, start, end) = {
        let topics = reader.published.topics.read();
        let row = topics.catalog.row(partition);
        let row = row.ok_or(FetchError::UnknownPartition { partition })?;
        let extent = topics.extent_of(row);
        (row, extent.start, extent.end)
    };
    if start == end {
        return Ok(end);
    }
    let working = Arc::clone(reader);
    let work = move || EventSearch { reader: &working, partition, row, time, start, end }.run();
    reader.threads.run(FetchMode::Replay, work).await.unwrap_or(Err(FetchError::Closed))
}

/// The search for an event time in one partition.
struct EventSearch<'a> {
    reader: &'a Reader,
    partition: PartitionId,
    row: Row,
    time: TimeMicros,
    start: Offset,
    end: Offset,
}

/// A partition's places in one segment or pack, for a while after the tables were let go.
struct Places {
    home: Home,
    places: Vec<Place>,
    end: Offset,
    is_active: bool,
    pack: Option<Arc<PackIndex>>,
}

impl EventSearch<'_> {
    fn run(&self) -> Result<Offset, FetchError> {
        let mut held = Held::new();
        let mut after = None;
        loop {
            match self.places_after(after, &held) {
                None => return Ok(self.end),
                Some(Err(unread)) => {
                    // One segment is looked at after the other.
                    held.clear();
                    read_index(self.reader, self.partition, unread, &mut held)?;
                }
                Some(Ok(places)) => {
                    match self.look_into(&places) {
                        Ok(Some(offset)) => return Ok(offset),
                        Ok(None) => {}
                        // It went elsewhere meanwhile: what is there now is looked into.
                        Err(_) if !self.reader.published.places.read().has(places.home) => {
                            held.clear();
                            continue;
                        }
                        Err(error) => return Err(error),
                    }
                    after = Some(places.home.number());
                }
            }
        }
    }

    /// The places of the first segment after `after`: none where its greatest event time says
    /// that it holds no answer.
    fn places_after(
        &self,
        after: Option<SegmentNumber>,
        held: &Held,
    ) -> Option<Result<Places, Unread>> {
        let places = self.reader.published.places.read();
        let (_, share) = match after {
            None => places.share_at(self.row, self.start, held),
            Some(after) => places.share_after(self.row, after, held),
        }?;
        let may_hold = share.event_time_max(self.partition) >= self.time;
        let pack = match &share {
            Share::Full { index: Index::Pack(index), .. } => Some(Arc::clone(index)),
            _ => None,
        };
        Some(ShareOf::new(&share, self.partition, self.end).map(|share| Places {
            home: share.home,
            places: if may_hold { share.places.to_vec() } else { Vec::new() },
            end: share.end,
            is_active: share.is_active,
            pack,
        }))
    }

    fn look_into(&self, places: &Places) -> Result<Option<Offset>, FetchError> {
        let Places { home, places, end, is_active, pack } = places;
        let pack = pack.as_deref();
        let share = ShareOf { home: *home, places, end: *end, is_active: *is_active, pack };
        for first in (0..places.len()).step_by(BATCHES_AT_ONCE) {
            let some = first..places.len().min(first + BATCHES_AT_ONCE);
            for batch in self.candidates(&share, some)? {
                if let Some(offset) = self.look_into_batch(batch)? {
                    return Ok(Some(offset));
                }
            }
        }
        Ok(None)
    }

    /// Those of some batches that may hold an answer, by their headers.
    fn candidates(
        &self,
        share: &ShareOf<'_>,
        some: Range<usize>,
    ) -> Result<Vec<Planned>, FetchError> {
        let tail = self.reader.published.tail.read();
        let planned = some.map(|index| Planned::new(share, self.partition, index, &tail));
        let is_asked =
            |batch: &Planned| batch.bound > self.start && batch.place.base_offset < self.end;
        let mut batches: Vec<Planned> = planned.filter(is_asked).collect();
        drop(tail);
        // A pack's frames are read whole: there are no headers to look at before.
        let Home::Segment(id) = share.home else { return Ok(batches) };
        let on_disk: Vec<&Planned> = batches.iter().filter(|batch| batch.is_unread()).collect();
        let mut headers = Vec::new();
        if !on_disk.is_empty() {
            let open = self.reader.slots.open(id);
            let open = open.map_err(|error| self.io(format!("{}: {error}", id.slot)))?;
            headers = self.reader.scan().read_headers(&open, &on_disk);
        }
        let mut headers = headers.into_iter();
        let may_hold = |batch: &Planned| {
            let header = match &batch.found {
                Found::Kept(bytes) => BatchHeader::decode(bytes).ok(),
                _ => headers.next().flatten(),
            };
            // A header that cannot be read is for the reading of the batch to judge.
            header.is_none_or(|header| {
                header.event_times().is_some_and(|times| times.max >= self.time)
            })
        };
        batches.retain(may_hold);
        Ok(batches)
    }

    fn look_into_batch(&self, mut batch: Planned) -> Result<Option<Offset>, FetchError> {
        if batch.is_unread() {
            self.reader.scan().read(vec![&mut batch]);
        }
        let bound = batch.bound;
        for batch in batch.batches() {
            match batch {
                Ok(batch) => {
                    if let Some(offset) = self.first_in(&batch) {
                        return Ok(Some(offset));
                    }
                }
                // What is damaged holds no answer any more.
                Err(Bad::Damaged(_)) => {}
                Err(Bad::Gone(why) | Bad::Io(why)) => {
                    let topics = self.reader.published.topics.read();
                    let given_up = bound <= topics.extent_of(self.row).start;
                    return if given_up { Ok(None) } else { Err(self.io(why)) };
                }
            }
        }
        Ok(None)
    }

    fn first_in(&self, batch: &BatchView) -> Option<Offset> {
        let is_asked = |offset: Offset| self.start <= offset && offset < self.end;
        let mut records = batch.records().filter(|(offset, _)| is_asked(*offset));
        let found = records.find(|(_, record)| {
            record.event_time().is_some_and(|event_time| event_time >= self.time)
        });
        found.map(|(offset, _)| offset)
    }

    const fn io(&self, why: String) -> FetchError {
        FetchError::Io { partition: self.partition, why }
    }
}
