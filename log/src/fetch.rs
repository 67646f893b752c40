//! Reading: what is asked, what comes back, and what a reader is told about places that are gone.

use tracklog_protocol::{BatchView, Offset, PartitionId};

use crate::Epoch;

/// A request to read from many partitions at once.
#[derive(Clone, Debug)]
pub struct Fetch {
    /// Where to begin in each.
    pub from: Vec<(PartitionId, Offset)>,
    /// About how much to return in all. At least one batch comes back if there is any.
    pub bytes_max: usize,
    /// Whether to wait until there is something when all asked offsets are at their ends.
    pub wait: bool,
    /// Who reads.
    pub mode: FetchMode,
}

/// Who reads: decides whose budget and threads serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchMode {
    /// A reader at or near the end.
    Live,
    /// A reader of the past, who must not slow the writers.
    Replay,
}

/// What a [`Fetch`] found.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The writer's epoch when it was read.
    pub epoch: Epoch,
    /// One for each partition asked, in the same order.
    pub partitions: Vec<FetchedPartition>,
}

/// What was found in one partition.
#[derive(Clone, Debug)]
pub struct FetchedPartition {
    /// Which.
    pub partition: PartitionId,
    /// Batches in offset order. The first may begin before the asked offset: skip its head.
    pub batches: Vec<BatchView>,
    /// The offset to ask for next: past the batches, and past places known to be unreadable.
    pub next: Offset,
    /// The readable range when it was read.
    pub extent: Extent,
    /// Records below `next` that are damaged and were passed over.
    pub damage: Vec<Damage>,
}

impl FetchedPartition {
    /// Up to where records from `asked` on were given up while they were read: they are in no batch,
    /// and no damage. `asked` where none were.
    #[must_use]
    pub fn given_up_from(&self, asked: Offset) -> Offset {
        let first = self.batches.first().map_or(self.next, BatchView::base_offset);
        self.extent.start.min(first).max(asked)
    }
}

/// The readable range of a partition: `start <= offset < end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first offset that is still there.
    pub start: Offset,
    /// The first offset that is not there yet.
    pub end: Offset,
}

/// A stretch of records that were stored and cannot be read any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Whose records.
    pub partition: PartitionId,
    /// The first of them.
    pub from: Offset,
    /// The first record after them.
    pub to: Offset,
    /// Where it lies and what is wrong, in words.
    pub what: String,
}

/// Which of a record's times is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeKind {
    /// When the log took it. Never goes back within a partition.
    Append,
    /// When it happened, as the client said and the gateway corrected. Comes in any order.
    Event,
}

/// Why nothing could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// There is no such partition.
    #[error("there is no {partition}")]
    UnknownPartition {
        /// The one that was asked for.
        partition: PartitionId,
    },
    /// The offset is gone, or beyond the end. Go on at `extent.start` or `extent.end`.
    #[error("offset {asked} of {partition} is outside of {}..{}", extent.start, extent.end)]
    OutOfRange {
        /// Where.
        partition: PartitionId,
        /// What was asked.
        asked: Offset,
        /// What there is.
        extent: Extent,
    },
    /// The disk did not give the bytes.
    #[error("cannot read {partition}: {why}")]
    Io {
        /// Where.
        partition: PartitionId,
        /// What failed.
        why: String,
    },
    /// The log was closed.
    #[error("the log is closed")]
    Closed,
}

#[cfg(test)]
mod tests {
    use tracklog_protocol::batch::{BatchBuilder, Stamp};
    use tracklog_protocol::{PayloadKind, Record, TimeMicros, TopicId};

    use super::*;

    fn batch(partition: PartitionId, base_offset: u64, records: usize) -> BatchView {
        let mut batch = BatchBuilder::new(PayloadKind::Opaque);
        (0..records).for_each(|_| batch.push(Record::opaque(b"event")));
        let base_offset = Offset(base_offset);
        batch.finish().stamped(&Stamp { partition, base_offset, append_time: TimeMicros(1) })
    }

    #[test]
    fn what_was_given_up_while_it_was_read_is_what_lies_below_the_start_and_in_no_batch() {
        let partition = PartitionId::new(TopicId(1), 0);
        let found = |start, batches: &[(u64, usize)], next| FetchedPartition {
            partition,
            batches: batches.iter().map(|(base, count)| batch(partition, *base, *count)).collect(),
            next: Offset(next),
            extent: Extent { start: Offset(start), end: Offset(20) },
            damage: Vec::new(),
        };
        let given_up = |it: FetchedPartition| it.given_up_from(Offset(7)).0;
        assert_eq!(given_up(found(3, &[(5, 4)], 9)), 7, "all was read");
        assert_eq!(given_up(found(3, &[(9, 2)], 11)), 7, "what is damaged was not given up");
        assert_eq!(given_up(found(9, &[(9, 2)], 11)), 9);
        assert_eq!(given_up(found(9, &[(5, 9)], 14)), 7, "a batch that goes on behind it is there");
        assert_eq!(given_up(found(9, &[], 9)), 9);
        assert_eq!(given_up(found(12, &[], 10)), 10, "the next read tells of the rest");
    }
}
