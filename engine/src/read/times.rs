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
use super::plan::{Bad, Found, Medium, Planned, ShareOf};
use crate::catalog::Row;
use crate::journal::commit::SegmentNumber;
use crate::partition::places::{Held, Place, SegmentId, UnreadSegment};
use crate::published::Published;

/// So many batches are looked at in one go.
const BATCHES_AT_ONCE: usize = 1024;

/// The first offset whose append time is at or after `time`; the end when there is none.
pub(super) async fn offset_at_append(
    reader: &Arc<Reader>,
    partition: PartitionId,
    time: TimeMicros,
) -> Result<Offset, FetchError> {
    let unread = match look_at_append(&reader.published, partition, time, &Held::new())? {
        Ok(offset) => return Ok(offset),
        Err(unread) => unread,
    };
    let working = Arc::clone(reader);
    let work = move || {
        let mut held = Held::new();
        let mut next = Err(unread);
        loop {
            match next {
                Ok(offset) => return Ok(offset),
                Err(unread) => read_index(&working, partition, unread, &mut held)?,
            }
            next = look_at_append(&working.published, partition, time, &held)?;
        }
    };
    reader.threads.run(FetchMode::Replay, work).await.unwrap_or(Err(FetchError::Closed))
}

fn look_at_append(
    published: &Published,
    partition: PartitionId,
    time: TimeMicros,
    held: &Held,
) -> Result<Result<Offset, UnreadSegment>, FetchError> {
    let topics = published.topics.read();
    let row = topics.catalog.row(partition);
    let row = row.ok_or(FetchError::UnknownPartition { partition })?;
    let places = published.places.read();
    let extent = topics.extent_of(row);
    let found = places.offset_at_append((row, partition), time, held);
    Ok(found.map(|found| found.unwrap_or(extent.end).clamp(extent.start, extent.end)))
}

fn read_index(
    reader: &Reader,
    partition: PartitionId,
    unread: UnreadSegment,
    held: &mut Held,
) -> Result<(), FetchError> {
    let index = reader.read_index(unread).map_err(|error| FetchError::Io {
        partition,
        why: format!("segment {} has no index: {error}", unread.id.number),
    })?;
    held.insert(unread.id.number, index);
    Ok(())
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

/// A partition's places in one segment, for a while after the tables were let go.
struct Places {
    id: SegmentId,
    places: Vec<Place>,
    end: Offset,
    medium: Medium,
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
                    if let Some(offset) = self.look_into(&places)? {
                        return Ok(offset);
                    }
                    after = Some(places.id.number);
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
    ) -> Option<Result<Places, UnreadSegment>> {
        let places = self.reader.published.places.read();
        let (_, share) = match after {
            None => places.share_at(self.row, self.start, held),
            Some(after) => places.share_after(self.row, after, held),
        }?;
        let may_hold = share.event_time_max(self.partition) >= self.time;
        Some(ShareOf::new(&share, self.partition, self.end).map(|share| Places {
            id: share.id,
            places: if may_hold { share.places.to_vec() } else { Vec::new() },
            end: share.end,
            medium: share.medium,
        }))
    }

    fn look_into(&self, places: &Places) -> Result<Option<Offset>, FetchError> {
        let Places { id, places, end, medium } = places;
        let share = ShareOf { id: *id, places, end: *end, medium: *medium };
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
        let on_disk: Vec<&Planned> = batches.iter().filter(|batch| batch.is_unread()).collect();
        let mut headers = Vec::new();
        if !on_disk.is_empty() {
            let open = self.reader.slots.open(share.id);
            let open = open.map_err(|error| self.io(format!("{}: {error}", share.id.slot)))?;
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
        match batch.batch() {
            Ok(batch) => Ok(self.first_in(&batch)),
            // What is damaged holds no answer any more.
            Err(Bad::Damaged(_)) => Ok(None),
            Err(Bad::Io(why)) => {
                let topics = self.reader.published.topics.read();
                let given_up = bound <= topics.extent_of(self.row).start;
                if given_up { Ok(None) } else { Err(self.io(why)) }
            }
        }
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
