//! Erasing: records that go for good, while all others stay where they are.
//!
//! [`Log::erase`](crate::Log::erase) is for what must be nowhere any more: a person who asks to be
//! forgotten. It differs from [`trim`](crate::Log::trim) in that it takes single records out of the
//! middle, and that it promises something of the disk: when it says that it is done, no file of the
//! log holds their bytes. An erased record keeps its offset; who reads passes over it.

use tracklog_protocol::{Offset, PartitionId};

use crate::{AppendError, Busy};

/// So many stretches may be on their way to be erased at once.
pub const STRETCHES_MAX: usize = 1 << 16;

/// Records side by side that are to be erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erase {
    /// Where they lie.
    pub partition: PartitionId,
    /// The first.
    pub from: Offset,
    /// The first that stays.
    pub to: Offset,
}

impl Erase {
    /// One record.
    #[must_use]
    pub const fn one(partition: PartitionId, offset: Offset) -> Self {
        Self { partition, from: offset, to: offset.plus(1) }
    }

    /// Whether the record at `offset` of `partition` is one of them.
    #[must_use]
    pub fn contains(&self, partition: PartitionId, offset: Offset) -> bool {
        self.partition == partition && (self.from..self.to).contains(&offset)
    }
}

/// Why records are not erased, or not yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EraseError {
    /// There is no such partition. Nothing was changed.
    #[error("there is no {partition}")]
    UnknownPartition {
        /// The one that was named.
        partition: PartitionId,
    },
    /// Not all of it is there yet: what is to come cannot be erased. Nothing was changed.
    #[error("{partition} ends at {end}: what lies behind cannot be erased")]
    Beyond {
        /// The partition.
        partition: PartitionId,
        /// Where it ends.
        end: Offset,
    },
    /// The log itself needs the records of this topic. Nothing was changed.
    #[error("the log itself needs its catalog")]
    Protected,
    /// Too much at once. Nothing was changed: erase a part, and the rest when that is done.
    #[error("{stretches} stretches are more than the {stretches_max} that are erased at once")]
    TooMany {
        /// How many there would be, those that are on their way included.
        stretches: usize,
        /// See [`STRETCHES_MAX`].
        stretches_max: usize,
    },
    /// This log keeps what it has.
    #[error("{why}")]
    Unsupported {
        /// Why, in words.
        why: &'static str,
    },
    /// It could not be noted that they are to be erased.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The intake is busy; nothing was changed.
    #[error(transparent)]
    Busy(#[from] Busy),
}
