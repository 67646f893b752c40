//! What a stage's batch becomes, gathered until it is committed.

use tracklog_protocol::{PartitionId, Record, Records};

/// Records and where they go, in order.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    records: Records,
    partitions: Vec<PartitionId>,
}

impl Outputs {
    /// Adds a copy of `record`, to be appended to `partition`.
    pub fn push(&mut self, partition: PartitionId, record: Record<'_>) {
        self.records.push(record);
        self.partitions.push(partition);
    }

    /// All records, in the order pushed, and where they go.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (PartitionId, Record<'_>)> {
        self.partitions.iter().copied().zip(self.records.iter())
    }

    /// How many bytes the records have together.
    #[must_use]
    pub const fn byte_count(&self) -> usize {
        self.records.byte_count()
    }

    /// Removes all, and keeps their memory up to `bytes_kept`.
    pub fn clear(&mut self, bytes_kept: usize) {
        self.records.clear(bytes_kept);
        self.partitions.clear();
    }
}
