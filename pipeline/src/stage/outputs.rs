//! What a stage's batch becomes, gathered until it is committed.

use tracklog_protocol::{Offset, PartitionId, Record, Records};

/// Records, where they go, and what each comes of, in the order pushed.
#[derive(Clone, Debug, Default)]
pub struct Outputs {
    records: Records,
    places: Vec<Place>,
    /// The source's offset that is being worked on.
    at: Offset,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    to: PartitionId,
    of: Offset,
}

/// One record that came of another.
#[derive(Clone, Copy, Debug)]
pub struct Output<'o> {
    /// Where it goes.
    pub to: PartitionId,
    /// The offset of what it comes of, in the source.
    pub of: Offset,
    /// The record.
    pub record: Record<'o>,
}

impl Outputs {
    /// Adds a copy of `record`, to be appended to `partition`.
    pub fn push(&mut self, partition: PartitionId, record: Record<'_>) {
        self.records.push(record);
        self.places.push(Place { to: partition, of: self.at });
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Output<'_>> {
        let pairs = self.places.iter().zip(self.records.iter());
        pairs.map(|(place, record)| Output { to: place.to, of: place.of, record })
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many bytes the records have together.
    #[must_use]
    pub const fn byte_count(&self) -> usize {
        self.records.byte_count()
    }

    /// What is pushed from now on comes of the record at `offset`.
    pub(super) const fn begin(&mut self, offset: Offset) {
        self.at = offset;
    }

    /// Takes back all but the first `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.records.truncate(len);
        self.places.truncate(len);
    }

    /// Removes all, and keeps their memory up to `bytes_kept`.
    pub(super) fn clear(&mut self, bytes_kept: usize) {
        self.records.clear(bytes_kept);
        self.places.clear();
    }
}
