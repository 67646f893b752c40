//! Stages: records of one topic become records of others, exactly once.
//!
//! A stage says what becomes of a record; this room does the rest. It reads a partition as a
//! member of the stage's group, and puts the outputs, whatever their partitions, and the new offset
//! of the source into one commit, on the condition that nobody moved that offset meanwhile.

mod outputs;

pub use outputs::Outputs;
use tracklog_log::Pending;
use tracklog_protocol::{BatchView, Offset, PartitionId, Record};

/// What becomes of the records of a topic.
pub trait Stage: Send + Sync + 'static {
    /// Its name, and its group's.
    fn name(&self) -> &str;

    /// Begins a batch: fetches what its records will ask for.
    fn begin<'a>(
        &'a self,
        batch: &'a SourceBatch,
    ) -> Pending<'a, Result<Box<dyn Work + 'a>, StageError>>;
}

/// A stage at work on one batch.
pub trait Work: Send {
    /// Takes one record; pushes what becomes of it.
    ///
    /// # Errors
    /// [`Poison`]: this record can't be worked on, now or ever. What it pushed is taken back, the
    /// record goes to `rejected`, and the stage goes on.
    fn record(
        &mut self,
        offset: Offset,
        record: Record<'_>,
        outputs: &mut Outputs,
    ) -> Result<(), Poison>;
}

/// Records of one partition, in order, that are worked on together.
#[derive(Clone, Debug)]
pub struct SourceBatch {
    /// Where they lie.
    pub source: PartitionId,
    /// The first offset that is wanted; the first batch may begin before it.
    pub from: Offset,
    /// The records' batches.
    pub batches: Vec<BatchView>,
}

/// A record that cannot be worked on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Poison {
    /// Why, for people.
    pub reason: String,
}

/// A batch cannot be worked on now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct StageError {
    /// Why, for people.
    pub reason: String,
}
