//! Rejected events as they are told: a piece at a time, or one of them whole.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracklog_log::meta::MetaError;
use tracklog_log::{Epoch, Fetch, FetchError, FetchMode, Log, TimeKind, Topic};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::rejected::RejectedView;
use tracklog_protocol::{BatchView, Offset, PartitionId, Record};

use super::outcomes::{Outcome, Outcomes, PageKey};
use super::{
    Filter, Listed, Place, QuarantineError, REJECTED, RejectedEvent, State, message_id, stored,
};
use crate::bound::Bound;

/// How much one read asks for.
const FETCH_BYTES: usize = 1 << 20;
/// A piece of a listing has so many events at most.
const LISTED_MAX: usize = 1_000;
/// And is cut where so much was read for it.
pub(super) const READ_BYTES_MAX: usize = 16 << 20;

/// Rejected events, and what became of them.
pub struct Rejections {
    pub(super) log: Arc<dyn Log>,
    pub(super) rejected: Topic,
    pub(super) outcomes: Outcomes,
}

/// One of them, with all that is kept of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shown {
    /// As it is listed.
    #[serde(flatten)]
    pub told: RejectedEvent,
    /// Its record, as a line of JSON: the bytes are there, or the first of them.
    pub record: Box<RawValue>,
}

/// Where a piece begins.
pub(super) struct Walk<'q> {
    of: &'q Rejections,
    filter: &'q Filter,
    /// The next place to be read; `None` at the end of all.
    at: Option<Place>,
    /// Where `at`'s partition ends for this walk; known once it is entered.
    end: Option<Offset>,
    /// What was read of it, up to `ahead_next`.
    ahead: Vec<BatchView>,
    ahead_next: Offset,
    pub(super) read_bytes: usize,
    pub(super) damaged: u64,
}

/// What was read at once, of one page.
pub(super) struct Chunk {
    pub(super) partition: u32,
    from: Offset,
    next: Offset,
    pub(super) batches: Vec<BatchView>,
}

impl Chunk {
    /// Its rejected events, and where each is.
    pub(super) fn records(&self) -> impl Iterator<Item = (Place, RejectedView<'_>)> {
        let records = self.batches.iter().flat_map(BatchView::records);
        let wanted = records.filter(|(offset, _)| (self.from..self.next).contains(offset));
        wanted.filter_map(|(offset, record)| {
            Some((Place { partition: self.partition, offset }, RejectedView::of(record)?))
        })
    }

    /// The page that they lie in.
    pub(super) const fn page(&self) -> PageKey {
        PageKey::of(self.partition, self.from)
    }
}

impl Rejections {
    /// Those of a log that is only read; `None` where it has no such topic.
    ///
    /// # Errors
    /// [`MetaError`] when the topic of outcomes can't be read.
    pub async fn read(log: Arc<dyn Log>) -> Result<Option<Self>, MetaError> {
        let Some(rejected) = log.topic(REJECTED) else { return Ok(None) };
        let outcomes = Outcomes::read(Arc::clone(&log)).await?;
        Ok(Some(Self { log, rejected, outcomes }))
    }

    pub(super) async fn open(
        log: Arc<dyn Log>,
        epoch: Epoch,
        rejected: Topic,
    ) -> Result<Self, MetaError> {
        let outcomes = Outcomes::open(Arc::clone(&log), epoch).await?;
        outcomes.rewrite(&*log, &rejected).await?;
        Ok(Self { log, rejected, outcomes })
    }

    /// The events from `after` on that match, as many as one piece holds, and at most `limit`.
    ///
    /// # Errors
    /// [`QuarantineError`].
    pub async fn list(
        &self,
        filter: &Filter,
        after: Option<Place>,
        limit: Option<usize>,
    ) -> Result<Listed, QuarantineError> {
        self.outcomes.refresh().await?;
        let limit = limit.unwrap_or(LISTED_MAX).min(LISTED_MAX);
        let mut walk = Walk::new(self, filter, after);
        let mut records = Vec::new();
        while records.len() < limit
            && walk.read_bytes < READ_BYTES_MAX
            && let Some(chunk) = walk.next().await?
        {
            let page = self.outcomes.page(chunk.page())?;
            for (place, rejected) in chunk.records() {
                let told = self.told(place, &rejected, page.outcome(place.offset));
                if !filter.takes(&told) {
                    continue;
                }
                if records.len() == limit {
                    walk.go_back(place);
                    break;
                }
                records.push(self.with_place(told, page.outcome(place.offset), &rejected).await?);
            }
        }
        let next = walk.at.map(|at| at.to_string());
        Ok(Listed { records, damaged: walk.damaged, next })
    }

    /// The event whose record, at `place`, is at hand.
    ///
    /// # Errors
    /// [`QuarantineError::NotFound`] when it is none that was rejected.
    pub(crate) async fn tell(
        &self,
        place: Place,
        record: Record<'_>,
    ) -> Result<RejectedEvent, QuarantineError> {
        self.outcomes.refresh().await?;
        let rejected = RejectedView::of(record).ok_or(QuarantineError::NotFound(place))?;
        let page = self.outcomes.page(PageKey::of(place.partition, place.offset))?;
        let outcome = page.outcome(place.offset);
        let told = self.told(place, &rejected, outcome);
        Ok(self.with_place(told, outcome, &rejected).await?)
    }

    /// The event at `place`.
    ///
    /// # Errors
    /// [`QuarantineError::NotFound`] when there is none.
    pub async fn show(&self, place: Place) -> Result<Shown, QuarantineError> {
        self.outcomes.refresh().await?;
        let not_found = || QuarantineError::NotFound(place);
        let Place { partition, offset } = place;
        if partition >= self.rejected.spec.partitions {
            return Err(not_found());
        }
        let at = self.rejected.partition(partition);
        let extent = self.log.extent(at).ok_or_else(not_found)?;
        if !(extent.start..extent.end).contains(&offset) {
            return Err(not_found());
        }
        let (batches, _) = stored::read(&*self.log, at, offset, 1).await?;
        let records = |batch: &BatchView| {
            let appended_at = batch.append_time();
            let found = batch.records().find(|(at, _)| *at == offset);
            found.and_then(|(_, record)| {
                let rejected = RejectedView::of(record)?;
                let mut line = Vec::new();
                let topic = REJECTED;
                write_line(&mut line, LinePlace { topic, partition, offset, appended_at }, record);
                Some((RejectedEvent::of(place, &rejected), message_id(place, &rejected), line))
            })
        };
        let (mut told, id, line) = batches.iter().find_map(records).ok_or_else(not_found)?;
        let page = self.outcomes.page(PageKey::of(partition, offset))?;
        if let Some(outcome) = page.outcome(offset) {
            settle(&mut told, outcome);
            if let Outcome::Stored(near) = outcome {
                let id = (told.source.as_deref(), id.as_str());
                told.stored = Some(stored::place_of(&*self.log, near, id).await?);
            }
        }
        let line = str::from_utf8(&line).expect("a line is text");
        let record = RawValue::from_string(line.trim_end().to_owned())?;
        Ok(Shown { told, record })
    }

    /// What is known of an event without looking for it.
    pub(super) fn told(
        &self,
        place: Place,
        rejected: &RejectedView<'_>,
        outcome: Option<&Outcome>,
    ) -> RejectedEvent {
        let mut told = RejectedEvent::of(place, rejected);
        if let Some(outcome) = outcome {
            settle(&mut told, outcome);
        }
        told
    }

    async fn with_place(
        &self,
        mut told: RejectedEvent,
        outcome: Option<&Outcome>,
        rejected: &RejectedView<'_>,
    ) -> Result<RejectedEvent, FetchError> {
        if let Some(Outcome::Stored(near)) = outcome {
            let id = message_id(told.place(), rejected);
            let id = (rejected.source(), id.as_str());
            told.stored = Some(stored::place_of(&*self.log, near, id).await?);
        }
        Ok(told)
    }

    /// Where a walk goes in a partition.
    async fn bounds(
        &self,
        partition: PartitionId,
        filter: &Filter,
    ) -> Result<(Offset, Offset), FetchError> {
        let unknown = || FetchError::UnknownPartition { partition };
        let extent = self.log.extent(partition).ok_or_else(unknown)?;
        let offset = async |bound: Option<Bound>, otherwise: Offset| match bound {
            None => Ok(otherwise),
            Some(Bound::Offset(offset)) => Ok(offset),
            Some(Bound::Time(time)) => self.log.offset_at(partition, TimeKind::Append, time).await,
            Some(Bound::Now) => Ok(extent.end),
        };
        let from = offset(filter.from, extent.start).await?;
        let to = offset(filter.to, extent.end).await?;
        Ok((from.max(extent.start), to.min(extent.end)))
    }
}

/// What became of an event, but for its place.
fn settle(told: &mut RejectedEvent, outcome: &Outcome) {
    (told.state, told.still) = match outcome {
        Outcome::Stored(_) => (State::Retried, None),
        Outcome::Failing(reason) => (State::Failing, Some(reason.clone())),
    };
}

impl<'q> Walk<'q> {
    pub(super) fn new(of: &'q Rejections, filter: &'q Filter, after: Option<Place>) -> Self {
        let at = Some(after.unwrap_or_default());
        let (ahead, ahead_next) = (Vec::new(), Offset::ZERO);
        Self { of, filter, at, end: None, ahead, ahead_next, read_bytes: 0, damaged: 0 }
    }

    /// The next place to be read.
    pub(super) const fn at(&self) -> Option<Place> {
        self.at
    }

    /// What was read from `place` on is left for the next walk.
    pub(super) const fn go_back(&mut self, place: Place) {
        self.at = Some(place);
    }

    /// Reads on, up to the end of a page.
    pub(super) async fn next(&mut self) -> Result<Option<Chunk>, FetchError> {
        loop {
            let Some(at) = self.at else { return Ok(None) };
            if at.partition >= self.of.rejected.spec.partitions {
                self.at = None;
                continue;
            }
            let partition = self.of.rejected.partition(at.partition);
            let (start, end) = match self.end {
                Some(end) => (at.offset, end),
                None => self.of.bounds(partition, self.filter).await?,
            };
            let from = at.offset.max(start);
            if from >= end {
                let next = Place { partition: at.partition + 1, offset: Offset::ZERO };
                (self.at, self.end, self.ahead_next) = (Some(next), None, Offset::ZERO);
                continue;
            }
            self.end = Some(end);
            if from >= self.ahead_next {
                self.read(partition, from, end).await?;
            }
            let chunk = self.chunk(at.partition, from);
            self.at = Some(Place { partition: at.partition, offset: chunk.next });
            return Ok(Some(chunk));
        }
    }

    /// Reads ahead from `from` on.
    async fn read(
        &mut self,
        partition: PartitionId,
        from: Offset,
        end: Offset,
    ) -> Result<(), FetchError> {
        let mode = FetchMode::Replay;
        let fetch =
            Fetch { from: vec![(partition, from)], bytes_max: FETCH_BYTES, wait: false, mode };
        let mut fetched = match self.of.log.fetch(fetch).await {
            Ok(fetched) => fetched,
            // Gone since its bounds were asked for.
            Err(FetchError::OutOfRange { extent, .. }) if from < extent.start => {
                (self.ahead, self.ahead_next) = (Vec::new(), extent.start.min(end));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let found = fetched.partitions.pop().expect("one partition was asked for");
        let next = found.next.min(end);
        self.read_bytes += found.batches.iter().map(|batch| batch.bytes().len()).sum::<usize>();
        let damaged = found.damage.iter().map(|it| {
            let (first, after) = (it.from.max(from), it.to.min(next));
            after.0.saturating_sub(first.0)
        });
        self.damaged += damaged.sum::<u64>();
        (self.ahead, self.ahead_next) = (found.batches, next);
        Ok(())
    }

    /// What was read from `from` on, up to the end of its page.
    fn chunk(&self, partition: u32, from: Offset) -> Chunk {
        let next = self.ahead_next.min(PageKey::of(partition, from).end());
        let is_of_it = |batch: &&BatchView| {
            let first = batch.base_offset();
            first < next && from.0 < first.0 + u64::from(batch.count())
        };
        let batches = self.ahead.iter().filter(is_of_it).cloned().collect();
        Chunk { partition, from, next, batches }
    }
}

impl fmt::Debug for Rejections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejections").finish_non_exhaustive()
    }
}
