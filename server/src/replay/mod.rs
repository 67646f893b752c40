//! Reading a topic back: a range of all its partitions, as lines of JSON in one order.
//!
//! Promises
//! - Lines come by append time, then partition, then offset. While following, that holds within
//!   each stretch that is read between two waits, and a stretch ends between two commits.
//! - The range is [from, to). What was appended after the opening is not in it, unless followed.
//! - An offset or time before what is left of a partition begins at its first record, and a
//!   [`Note`] says so. Damage and records that went while reading are told as notes, too: nothing
//!   is passed over in silence.
//! - Memory is bounded: a few MiB of batches in all, but at least one batch a partition.
//!
//! Over any [`Log`]: the reading routes, `replay`, `tail` and the offline opening share it.

mod last;
mod merge;

use std::fmt;
use std::sync::Arc;

use merge::{Merge, Range};
use serde::Serialize;
use tracklog_log::{Extent, FetchError, Log, TimeKind, Topic};
use tracklog_protocol::event::EventView;
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::rejected::RejectedView;
use tracklog_protocol::{BatchView, Offset, PartitionId, Record, TimeMicros};

use crate::bound::Bound;

/// About how many bytes of lines one call of [`Replay::next`] adds.
const LINES_BYTES: usize = 64 << 10;
/// How often a cut between two commits is tried while commits come in.
const CUT_TRIES: usize = 8;

/// What to read of a topic.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// This partition alone.
    pub partition: Option<u32>,
    /// Where to begin; else at the first record.
    pub from: Option<Bound>,
    /// Where to end; else at the end when the reading begins.
    pub to: Option<Bound>,
    /// Leaves out what happened before, by event time.
    pub from_event_time: Option<TimeMicros>,
    /// Leaves out what happened then or later, by event time.
    pub to_event_time: Option<TimeMicros>,
    /// Leaves out what does not match.
    pub filter: Filter,
    /// The last so many lines alone, of those that are there when the reading begins.
    pub last: Option<u64>,
    /// At most so many lines in all.
    pub limit: Option<u64>,
    /// Goes on with what is appended later, for ever.
    pub follow: bool,
}

/// Which records are meant, by what they say. All that is given must match, letter by letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The event's name.
    pub event: Option<String>,
    /// The source.
    pub source: Option<String>,
    /// The user's id.
    pub user: Option<String>,
}

/// Something that whoever reads must be told, beside the lines.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// What was asked for lies before what is left.
    Begins {
        /// The partition.
        partition: u32,
        /// Its first offset.
        offset: Offset,
    },
    /// Records went (by retention) while they were about to be read.
    Gone {
        /// The partition.
        partition: u32,
        /// The first of them.
        from: Offset,
        /// The first record after them.
        to: Offset,
    },
    /// Records were stored and cannot be read any more.
    Damage {
        /// The partition.
        partition: u32,
        /// The first of them.
        from: Offset,
        /// The first record after them.
        to: Offset,
        /// Where it lies and what is wrong.
        what: String,
    },
}

impl Note {
    /// The note as a line of JSON between the lines of records: an object whose only field is
    /// `damage` or `notice`.
    #[must_use]
    pub fn to_line(&self, topic: &str) -> String {
        let message = self.message(topic);
        let (partition, from, to) = match self {
            Self::Begins { partition, offset } => (*partition, *offset, None),
            Self::Gone { partition, from, to } | Self::Damage { partition, from, to, .. } => {
                (*partition, *from, Some(to.0))
            }
        };
        let told = Told { topic, partition, from: from.0, to, message: &message };
        let key = if matches!(self, Self::Damage { .. }) { "damage" } else { "notice" };
        let told = serde_json::to_string(&told).expect("texts and numbers can be written");
        format!("{{\"{key}\":{told}}}\n")
    }

    /// The note as a sentence.
    #[must_use]
    pub fn message(&self, topic: &str) -> String {
        match self {
            Self::Begins { partition, offset } => {
                format!("{topic}/{partition} begins at offset {offset}: older records are gone")
            }
            Self::Gone { partition, from, to } => {
                format!("{topic}/{partition}: offsets {from} to {to} (not included) are gone")
            }
            Self::Damage { partition, from, to, what } => format!(
                "{topic}/{partition}: offsets {from} to {to} (not included) are damaged: {what}"
            ),
        }
    }
}

#[derive(Serialize)]
struct Told<'a> {
    topic: &'a str,
    partition: u32,
    from: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
    message: &'a str,
}

/// Why a topic cannot be read as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The topic has no such partition.
    #[error("topic {topic} has no partition {partition}: it has {partitions}, from 0")]
    NoPartition {
        /// The topic.
        topic: String,
        /// What was asked for.
        partition: u32,
        /// How many there are.
        partitions: u32,
    },
    /// The offset is beyond the end of every partition asked for.
    #[error("offset {asked} is beyond the end of {topic}: {} is at {end}", Which(*partition))]
    OutOfRange {
        /// The topic.
        topic: String,
        /// What was asked for.
        asked: Offset,
        /// The partition, where one alone was asked for.
        partition: Option<u32>,
        /// Its end, or the greatest of all ends.
        end: Offset,
    },
    /// A range that is followed has no end.
    #[error("a reading that follows has no end: leave out `to`")]
    FollowHasNoEnd,
    /// The topic was deleted while it was read.
    #[error("topic {topic} was deleted")]
    Deleted {
        /// The topic.
        topic: String,
    },
    /// The log did not give the records.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// Names the partition of an error.
struct Which(Option<u32>);

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(partition) => write!(f, "the end of partition {partition}"),
            None => f.write_str("the longest partition's end"),
        }
    }
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call again.
    More,
    /// That was all.
    Done,
}

/// One reading of a topic.
pub struct Replay {
    log: Arc<dyn Log>,
    topic: Topic,
    query: Query,
    merge: Merge,
    current: Option<Slice>,
    notes: Vec<Note>,
    /// Lines to leave out before the first.
    left_out: u64,
    lines: u64,
    records: u64,
    passed: u64,
}

/// A stretch of one batch: its entries `from..to` are next.
struct Slice {
    batch: BatchView,
    from: usize,
    to: usize,
}

impl Replay {
    /// Finds out where the reading begins and ends.
    ///
    /// # Errors
    /// Any [`ReplayError`] but `Deleted`.
    pub async fn open(log: Arc<dyn Log>, topic: Topic, query: Query) -> Result<Self, ReplayError> {
        if query.follow && query.to.is_some() {
            return Err(ReplayError::FollowHasNoEnd);
        }
        let plan = Plan { log: &*log, topic: &topic, query: &query };
        let (mut ranges, notes) = plan.ranges().await?;
        let mut left_out = 0;
        if let Some(lines_max) = query.last {
            (ranges, left_out) = last::end_of(&log, &query, ranges, lines_max).await?;
        }
        let records = ranges.iter().map(|range| range.to.0.saturating_sub(range.from.0)).sum();
        let merge = Merge::new(Arc::clone(&log), ranges);
        let (current, lines, passed) = (None, 0, 0);
        Ok(Self { log, topic, query, merge, current, notes, left_out, lines, records, passed })
    }

    /// How many records there are to pass; of a reading that follows, when it began.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// How many of them were passed, written or not.
    #[must_use]
    pub const fn passed(&self) -> u64 {
        self.passed
    }

    /// What whoever reads must be told, besides; each note is given once.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Adds lines, whole ones, to `out`. Waits only while following, and only with nothing in
    /// hand; dropping the wait loses nothing.
    ///
    /// # Errors
    /// When the log does not give the records.
    pub async fn next(&mut self, out: &mut Vec<u8>) -> Result<Step, ReplayError> {
        let enough = out.len() + LINES_BYTES;
        let empty = out.len();
        loop {
            if self.query.limit.is_some_and(|limit| self.lines >= limit) {
                return Ok(Step::Done);
            }
            if let Some(mut slice) = self.current.take() {
                self.write_slice(&mut slice, out, enough);
                self.current = (slice.from < slice.to).then_some(slice);
            } else if !self.read().await? {
                match self.query.follow {
                    false => return Ok(Step::Done),
                    true if out.len() == empty && self.notes.is_empty() => self.wait().await?,
                    true => return Ok(Step::More),
                }
            }
            if out.len() >= enough || !self.notes.is_empty() {
                return Ok(Step::More);
            }
        }
    }

    /// Takes the next batch; `false` at the end of the stretch.
    async fn read(&mut self) -> Result<bool, ReplayError> {
        let next = self.merge.next().await;
        self.notes.extend(self.merge.take_notes());
        self.current = next.map_err(|error| self.explained(error))?;
        Ok(self.current.is_some() || !self.notes.is_empty())
    }

    /// Waits for news, and makes them the next stretch.
    async fn wait(&mut self) -> Result<(), ReplayError> {
        let log = Arc::clone(&self.log);
        log.grown(self.merge.positions()).await;
        let ends = self.cut()?;
        self.merge.extend_to(&ends);
        Ok(())
    }

    /// The ends of all partitions between two commits: they are read until two readings agree.
    /// Under a storm of commits the last reading serves: order then holds within the stretch.
    fn cut(&self) -> Result<Vec<Offset>, ReplayError> {
        let mut ends = self.ends()?;
        for _ in 0..CUT_TRIES {
            let again = self.ends()?;
            if again == ends {
                break;
            }
            ends = again;
        }
        Ok(ends)
    }

    fn ends(&self) -> Result<Vec<Offset>, ReplayError> {
        let end = |id| self.log.extent(id).map(|extent| extent.end);
        let ends = self.merge.partitions().map(end).collect::<Option<_>>();
        ends.ok_or_else(|| ReplayError::Deleted { topic: self.topic.name().to_owned() })
    }

    fn explained(&self, error: FetchError) -> ReplayError {
        match error {
            FetchError::UnknownPartition { .. } => {
                ReplayError::Deleted { topic: self.topic.name().to_owned() }
            }
            error => ReplayError::Fetch(error),
        }
    }

    fn write_slice(&mut self, slice: &mut Slice, out: &mut Vec<u8>, enough: usize) {
        while slice.from < slice.to && out.len() < enough {
            if self.query.limit.is_some_and(|limit| self.lines >= limit) {
                return;
            }
            let index = slice.from;
            slice.from += 1;
            self.passed += 1;
            let Some(record) = record_of(slice, index).filter(|it| self.query.wants(*it)) else {
                continue;
            };
            if self.left_out > 0 {
                self.left_out -= 1;
                continue;
            }
            self.lines += 1;
            write_line(out, self.place(&slice.batch, index), record);
        }
    }

    fn place(&self, batch: &BatchView, index: usize) -> LinePlace<'_> {
        LinePlace {
            topic: self.topic.name(),
            partition: batch.partition().partition,
            offset: batch.base_offset().plus(index as u64),
            appended_at: batch.append_time(),
        }
    }
}

/// The records of `slice` that become lines.
fn wanted_of<'a>(query: &'a Query, slice: &'a Slice) -> impl Iterator<Item = Record<'a>> {
    let records = (slice.from..slice.to).filter_map(|index| record_of(slice, index));
    records.filter(|record| query.wants(*record))
}

/// An entry of the slice's batch, unless it was removed.
fn record_of(slice: &Slice, index: usize) -> Option<Record<'_>> {
    slice.batch.entry(index).and_then(tracklog_protocol::batch::Entry::record)
}

impl Query {
    /// Whether `record` is meant, by what it says.
    fn wants(&self, record: Record<'_>) -> bool {
        let (from, to) = (self.from_event_time, self.to_event_time);
        let timely = (from.is_none() && to.is_none())
            || record.event_time().is_some_and(|time| {
                from.is_none_or(|from| time >= from) && to.is_none_or(|to| time < to)
            });
        timely && self.filter.matches(record)
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").field("topic", &self.topic.name()).finish_non_exhaustive()
    }
}

impl Filter {
    /// Whether `record` is meant. What has no name, source or user is not, where one is asked.
    fn matches(&self, record: Record<'_>) -> bool {
        if *self == Self::default() {
            return true;
        }
        let (name, source, user) = match (EventView::of(record), RejectedView::of(record)) {
            (Some(event), _) => (event.name(), event.source(), event.user_id()),
            (_, Some(rejected)) => (rejected.name(), rejected.source(), None),
            _ => (None, None, None),
        };
        let same = |asked: &Option<String>, is: Option<&str>| {
            asked.as_deref().is_none_or(|asked| is == Some(asked))
        };
        same(&self.event, name) && same(&self.source, source) && same(&self.user, user)
    }
}

/// Turns a query into a range for each partition.
struct Plan<'a> {
    log: &'a dyn Log,
    topic: &'a Topic,
    query: &'a Query,
}

impl Plan<'_> {
    async fn ranges(&self) -> Result<(Vec<Range>, Vec<Note>), ReplayError> {
        let partitions = self.partitions()?;
        let extents = self.extents(&partitions)?;
        self.check_offset(&extents)?;
        let mut notes = Vec::new();
        let mut ranges = Vec::with_capacity(partitions.len());
        for (partition, extent) in partitions.into_iter().zip(extents) {
            let from = self.from(partition, extent).await?;
            if self.is_before(from, extent) {
                notes.push(Note::Begins { partition: partition.partition, offset: extent.start });
            }
            let to = self.to(partition, extent).await?;
            ranges.push(Range { partition, from, to: to.max(from) });
        }
        Ok((ranges, notes))
    }

    fn partitions(&self) -> Result<Vec<PartitionId>, ReplayError> {
        let partitions = self.topic.spec.partitions;
        match self.query.partition {
            None => Ok(self.topic.partitions().collect()),
            Some(partition) if partition < partitions => Ok(vec![self.topic.partition(partition)]),
            Some(partition) => Err(ReplayError::NoPartition {
                topic: self.topic.name().to_owned(),
                partition,
                partitions,
            }),
        }
    }

    /// Read in one go, so that what is appended meanwhile is outside.
    fn extents(&self, partitions: &[PartitionId]) -> Result<Vec<Extent>, ReplayError> {
        let extents = partitions.iter().map(|id| self.log.extent(*id)).collect::<Option<_>>();
        extents.ok_or_else(|| ReplayError::Deleted { topic: self.topic.name().to_owned() })
    }

    /// An offset that some partition has, or is about to have, is good for all.
    fn check_offset(&self, extents: &[Extent]) -> Result<(), ReplayError> {
        let Some(Bound::Offset(asked)) = self.query.from else { return Ok(()) };
        let end = extents.iter().map(|extent| extent.end).max().unwrap_or_default();
        if asked <= end {
            return Ok(());
        }
        let topic = self.topic.name().to_owned();
        Err(ReplayError::OutOfRange { topic, asked, partition: self.query.partition, end })
    }

    async fn from(&self, id: PartitionId, extent: Extent) -> Result<Offset, FetchError> {
        let from = match self.query.from {
            None => extent.start,
            Some(bound) => self.offset_of(bound, id, extent).await?,
        };
        match self.query.from_event_time {
            None => Ok(from),
            Some(time) => {
                let first = self.log.offset_at(id, TimeKind::Event, time).await?;
                Ok(first.clamp(from, extent.end.max(from)))
            }
        }
    }

    async fn to(&self, id: PartitionId, extent: Extent) -> Result<Offset, FetchError> {
        match self.query.to {
            None => Ok(extent.end),
            Some(bound) => self.offset_of(bound, id, extent).await,
        }
    }

    async fn offset_of(
        &self,
        bound: Bound,
        id: PartitionId,
        extent: Extent,
    ) -> Result<Offset, FetchError> {
        let offset = match bound {
            Bound::Offset(offset) => offset,
            Bound::Now => extent.end,
            Bound::Time(time) => self.log.offset_at(id, TimeKind::Append, time).await?,
        };
        Ok(offset.clamp(extent.start, extent.end))
    }

    /// Whether the reading was asked to begin before the first record that is left.
    fn is_before(&self, from: Offset, extent: Extent) -> bool {
        let asked_before = match self.query.from {
            Some(Bound::Offset(asked)) => asked < extent.start,
            Some(Bound::Time(_)) => true,
            Some(Bound::Now) => false,
            None => self.query.from_event_time.is_some(),
        };
        asked_before && from == extent.start && extent.start > Offset::ZERO
    }
}

#[cfg(test)]
pub(crate) mod tests;
