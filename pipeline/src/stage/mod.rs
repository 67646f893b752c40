//! Stages: records of one topic become records of others, exactly once.
//!
//! A stage says what becomes of a record; this room does the rest. It reads a partition as a
//! member of the stage's group, and puts the outputs, whatever their partitions, and the new offset
//! of the source into one commit, on the condition that nobody moved that offset meanwhile.
//!
//! Promises
//! - Each record of the source has its outputs once, in the order of the source, over any crash.
//! - A member that was given up for dead, and wakes, changes nothing.
//! - A record that makes the stage fail or panic goes to `rejected`; those beside it go on.
//! - Nothing is read before it is durable, and nothing is passed over but what is no longer there,
//!   which is counted.
//!
//! `working` applies a stage to a batch, `delivery` brings what came of it into the log, and
//! [`PartitionLoop`] is the loop around both: no runtime, no clock, [`Time`] brings what is needed.
//! [`StageRunner`] has such a loop for each partition of a member.

mod delivery;
mod outputs;
mod partition;
mod quarantine;
mod runner;
mod working;

#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use delivery::Delivery;
pub(crate) use delivery::{Courier, Undelivered as NotStored};
pub use outputs::{Output, Outputs};
pub use partition::{Claims, LoopEnd, PartitionLoop, StageEnd};
pub use runner::StageRunner;
use tracklog_log::Pending;
use tracklog_protocol::event::EventView;
use tracklog_protocol::{BatchView, Offset, PartitionId, Record, TimeMicros};
pub use working::once;

/// What becomes of the records of a topic.
pub trait Stage: Send + Sync + 'static {
    /// Its name, and its group's.
    fn name(&self) -> &str;

    /// How much of a partition it takes at once when it lags, at most.
    fn batch_bytes_max(&self) -> usize {
        1 << 20
    }

    /// Records of `source` at or behind this offset are not its to work on: its loop ends there.
    /// `None`: it goes on for ever.
    fn end(&self, source: PartitionId) -> Option<Offset> {
        let _ = source;
        None
    }

    /// All of `source` up to its end is committed.
    fn ended(&self, source: PartitionId) {
        let _ = source;
    }

    /// What came of some records is in the log, with the offset behind them: told once for each,
    /// where nobody dies in between.
    fn stored(&self, outputs: &Outputs) {
        let _ = outputs;
    }

    /// Begins a batch: fetches what its records will ask for. Asked again, after a pause, when it
    /// fails.
    fn begin<'a>(
        &'a self,
        batch: &'a SourceBatch,
    ) -> Pending<'a, Result<Box<dyn Work + 'a>, StageError>>;
}

/// A stage at work on one batch. Dropped without further word when the batch is given up.
pub trait Work: Send {
    /// Takes one record; pushes what becomes of it.
    ///
    /// # Errors
    /// [`Poison`]: this record can't be worked on, now or ever, and it left no trace in `self`.
    /// What it pushed is taken back, the record goes to `rejected`, and the stage goes on.
    fn record(
        &mut self,
        offset: Offset,
        record: Record<'_>,
        outputs: &mut Outputs,
    ) -> Result<(), Poison>;

    /// It takes records below this offset, which lies behind the first of its batch. For those
    /// behind it another is begun.
    fn until(&self) -> Offset {
        Offset(u64::MAX)
    }
}

/// Records of one partition, in order, that are worked on together.
#[derive(Clone, Debug)]
pub struct SourceBatch {
    /// Where they lie.
    pub source: PartitionId,
    /// The first offset that is wanted; the first batch may begin before it.
    pub from: Offset,
    /// The first offset after them.
    pub next: Offset,
    /// The batches that they lie in.
    pub batches: Vec<BatchView>,
}

impl SourceBatch {
    /// The records from [`from`](Self::from) on, and where each is.
    pub fn records(&self) -> impl Iterator<Item = (Offset, Record<'_>)> {
        self.timed_records().map(|(offset, _, record)| (offset, record))
    }

    /// The same with the times at which they were appended.
    pub fn timed_records(&self) -> impl Iterator<Item = (Offset, TimeMicros, Record<'_>)> {
        let wanted = self.from..self.next;
        let all = self.batches.iter().flat_map(|it| {
            let appended_at = it.append_time();
            it.records().map(move |(offset, record)| (offset, appended_at, record))
        });
        all.filter(move |it| wanted.contains(&it.0))
    }
}

/// A record that cannot be worked on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Poison {
    /// Why, for people.
    pub reason: String,
}

impl Poison {
    /// The event that `record` is, for a stage that works on events alone.
    ///
    /// # Errors
    /// That it is none.
    pub(crate) fn unless_event(record: Record<'_>) -> Result<EventView<'_>, Self> {
        EventView::of(record).ok_or_else(|| Self { reason: "it is no event".to_owned() })
    }
}

/// A batch cannot be worked on now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct StageError {
    /// Why, for people.
    pub reason: String,
}

/// What a stage's loop knows of time.
pub trait Time: Send + Sync + 'static {
    /// The clock.
    fn now(&self) -> TimeMicros;

    /// Resolves after `span`.
    fn pause(&self, span: Duration) -> Pending<'static, ()>;
}

/// What a stage has done since it was started, over all partitions.
#[derive(Debug, Default)]
pub struct StageCounters {
    /// Records that were worked on.
    pub records: Counter,
    /// Records that came of them.
    pub outputs: Counter,
    /// Commits that were stored.
    pub commits: Counter,
    /// Records that went to `rejected`.
    pub rejected: Counter,
    /// Records that were damaged, or dropped from the log before they were read.
    pub missed: Counter,
    /// Commits that were refused since the offset or the generation had moved.
    pub stale: Counter,
    /// Times that the log or the stage had to be asked again.
    pub retried: Counter,
}

/// A number that rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// How far it has come.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
