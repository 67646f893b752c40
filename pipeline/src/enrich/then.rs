//! What was known when an event was enriched: for running the stage again over old events.
//!
//! Each enriched event names the state that it saw. Events of a partition that name the same one
//! were worked on together: between them nothing was published. Such a *stretch* is worked on
//! again with that state, and what its events change is seen by those behind them, as then.
//!
//! 1. The stretch that the first event of a batch lies in is looked up in the topic `enriched`, whose
//!    partitions hold the events of those of `raw`, in their order.
//! 2. Partitions take turns: a state only goes forward, so whoever needs the lowest one goes first.
//! 3. Events of the stretch that lie before the batch (it was cut, or the run began again) are
//!    worked on for what they changed, and nothing is written of them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracklog_log::{Fetch, FetchError, FetchMode, Fetched, Log, TimeKind, Topic};
use tracklog_protocol::event::EventView;
use tracklog_protocol::{BatchView, Offset, PartitionId, TimeMicros};

use crate::stage::{SourceBatch, StageError};
use crate::state::{State, StateBatch};

/// How much one read asks for.
const FETCH_BYTES: usize = 256 << 10;

/// Events that were worked on together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// The state that they saw.
    pub(super) state: Offset,
    /// The first of them in `raw`.
    pub(super) begins: Offset,
    /// The first that is none of them.
    pub(super) ends: Offset,
}

/// States as events saw them.
pub struct Then<L: ?Sized> {
    log: Arc<L>,
    state: State<L>,
    enriched: Topic,
    turns: Turns,
    lookups: Mutex<BTreeMap<PartitionId, Lookup>>,
}

impl<L: Log + ?Sized> Then<L> {
    /// Over `state`, opened as of the beginning of its changelog, for a run over `sources`: all of
    /// them take part, each until it leaves. `enriched` is what the first run made.
    #[must_use]
    pub fn new(
        log: Arc<L>,
        state: State<L>,
        enriched: Topic,
        sources: impl IntoIterator<Item = PartitionId>,
    ) -> Self {
        let turns = Turns::of(sources);
        Self { log, state, enriched, turns, lookups: Mutex::default() }
    }

    /// The state that the first events of `batch` saw, and which these are.
    pub(super) async fn begin(
        &self,
        batch: &SourceBatch,
    ) -> Result<(StateBatch<'_>, Stretch), StageError> {
        let source = batch.source;
        let first = batch.records().next().map_or(batch.from, |(offset, _)| offset);
        let failed = |why: &dyn fmt::Display| StageError { reason: why.to_string() };
        let lookup = self.lookups.lock().remove(&source);
        let mut lookup = match lookup.filter(|lookup| lookup.goes_on_at(first)) {
            Some(lookup) => lookup,
            None => self.look_up(source, first).await.map_err(|error| failed(&error))?,
        };
        let found = self.stretch(&mut lookup, first).await;
        self.lookups.lock().insert(source, lookup);
        let stretch = found.map_err(|error| failed(&error))?;
        self.turns.take(source, stretch.state).await;
        let state = self.state.begin_as_of(source, stretch.state).await;
        Ok((state.map_err(|error| failed(&error))?, stretch))
    }

    /// `source` has nothing more to begin.
    pub(super) fn leave(&self, source: PartitionId) {
        self.turns.leave(source);
    }

    /// Batches of `source` with the records from `from` on, below `to`.
    pub(super) async fn records(
        &self,
        source: PartitionId,
        from: Offset,
        to: Offset,
    ) -> Result<Vec<SourceBatch>, FetchError> {
        let (mut next, mut batches) = (from, Vec::new());
        while next < to {
            let (found, after) = read(&*self.log, source, next).await?;
            if after == next {
                break;
            }
            batches.push(SourceBatch { source, from: next, next: after.min(to), batches: found });
            next = after;
        }
        Ok(batches)
    }

    /// Finds the place in `enriched` where the stretch begins that the event at `first` lies in.
    async fn look_up(&self, source: PartitionId, first: Offset) -> Result<Lookup, FetchError> {
        let partition = self.enriched.partition(source.partition);
        let (found, _) = read(&*self.log, source, first).await?;
        let appended = found.first().map_or(TimeMicros(0), BatchView::append_time);
        // An event is enriched after it was appended.
        let next = self.log.offset_at(partition, TimeKind::Append, appended).await?;
        let mut lookup = Lookup { source, partition, next, ahead: VecDeque::new(), last: None };
        while let Some(seen) = self.peek(&mut lookup).await? {
            if seen.raw >= first {
                // What was worked on together was stored together.
                let next = self.log.offset_at(partition, TimeKind::Append, seen.appended).await?;
                lookup = Lookup { next, ahead: VecDeque::new(), ..lookup };
                while let Some(earlier) = self.peek(&mut lookup).await?
                    && earlier.state != seen.state
                {
                    lookup.ahead.pop_front();
                }
                break;
            }
            lookup.ahead.pop_front();
        }
        Ok(lookup)
    }

    /// The stretch that the event at `first` lies in.
    async fn stretch(&self, lookup: &mut Lookup, first: Offset) -> Result<Stretch, FetchError> {
        if let Some(last) = lookup.last.filter(|last| (last.begins..last.ends).contains(&first)) {
            return Ok(last);
        }
        if lookup.last.is_some() {
            // Enriched a second time, since somebody let the stage begin again further back.
            while self.peek(lookup).await?.is_some_and(|seen| seen.raw < first) {
                lookup.ahead.pop_front();
            }
        }
        let Some(head) = self.peek(lookup).await? else {
            // Nothing behind it was enriched: those that are left were rejected.
            let now = self.log.extent(self.state.partition()).map(|extent| extent.end);
            let state = lookup.last.map(|last| last.state).or(now).unwrap_or_default();
            let rest = Stretch { state, begins: first, ends: Offset(u64::MAX) };
            lookup.last = Some(rest);
            return Ok(rest);
        };
        let mut ends = Offset(u64::MAX);
        let mut highest = head.raw;
        while let Some(seen) = self.peek(lookup).await? {
            if seen.state != head.state && seen.raw > highest {
                ends = seen.raw;
                break;
            }
            highest = highest.max(seen.raw);
            lookup.ahead.pop_front();
        }
        let found = Stretch { state: head.state, begins: head.raw.min(first), ends };
        lookup.last = Some(found);
        Ok(found)
    }

    /// The next enriched event; `None` at the end.
    async fn peek(&self, lookup: &mut Lookup) -> Result<Option<Seen>, FetchError> {
        while lookup.ahead.is_empty() {
            let (batches, next) = read(&*self.log, lookup.partition, lookup.next).await?;
            if next == lookup.next {
                return Ok(None);
            }
            lookup.take(&batches);
            lookup.next = next;
        }
        Ok(lookup.ahead.front().copied())
    }
}

impl<L: ?Sized> fmt::Debug for Then<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Then").field("turns", &self.turns).finish_non_exhaustive()
    }
}

/// Reads on from `from`; the same offset comes back where there is nothing more.
async fn read<L: Log + ?Sized>(
    log: &L,
    partition: PartitionId,
    from: Offset,
) -> Result<(Vec<BatchView>, Offset), FetchError> {
    let mode = FetchMode::Replay;
    let fetch = Fetch { from: vec![(partition, from)], bytes_max: FETCH_BYTES, wait: false, mode };
    match log.fetch(fetch).await {
        Ok(Fetched { mut partitions, .. }) => {
            let found = partitions.pop().expect("one partition was asked for");
            Ok((found.batches, found.next))
        }
        Err(FetchError::OutOfRange { extent, .. }) if from < extent.start => {
            Ok((Vec::new(), extent.start))
        }
        Err(error) => Err(error),
    }
}

/// An enriched event: what it was made of, and which state it saw.
#[derive(Clone, Copy, Debug)]
struct Seen {
    raw: Offset,
    state: Offset,
    appended: TimeMicros,
}

/// A reader of one partition of `enriched`.
struct Lookup {
    source: PartitionId,
    partition: PartitionId,
    next: Offset,
    ahead: VecDeque<Seen>,
    last: Option<Stretch>,
}

impl Lookup {
    /// Whether the event at `first` lies in the last stretch or begins the next.
    fn goes_on_at(&self, first: Offset) -> bool {
        self.last.is_some_and(|last| last.begins <= first && first <= last.ends)
    }

    fn take(&mut self, batches: &[BatchView]) {
        for batch in batches {
            let appended = batch.append_time();
            let records = batch.records().filter(|(offset, _)| *offset >= self.next);
            self.ahead.extend(records.filter_map(|(_, record)| {
                let event = EventView::of(record)?;
                let (from, state) = (event.made_from()?, event.state_offset()?);
                (from.partition == self.source.partition).then_some(Seen {
                    raw: from.offset,
                    state,
                    appended,
                })
            }));
        }
    }
}

/// Whose turn it is: of all partitions the one that needs the lowest state.
#[derive(Debug, Default)]
struct Turns {
    /// What each partition needs, or at least: it never needs a lower one later.
    needs: Mutex<BTreeMap<PartitionId, Offset>>,
    changed: Notify,
}

impl Turns {
    fn of(sources: impl IntoIterator<Item = PartitionId>) -> Self {
        let needs = sources.into_iter().map(|source| (source, Offset::ZERO)).collect();
        Self { needs: Mutex::new(needs), changed: Notify::new() }
    }

    /// Resolves when no other partition will need a state below `state`.
    async fn take(&self, source: PartitionId, state: Offset) {
        loop {
            let changed = self.changed.notified();
            let is_lowest = {
                let mut needs = self.needs.lock();
                if needs.insert(source, state) != Some(state) {
                    self.changed.notify_waiters();
                }
                needs.values().all(|need| *need >= state)
            };
            if is_lowest {
                return;
            }
            changed.await;
        }
    }

    fn leave(&self, source: PartitionId) {
        self.needs.lock().remove(&source);
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
