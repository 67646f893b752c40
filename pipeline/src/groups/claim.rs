//! A member's claim on a partition: what its commits depend on, and the record that they carry.

use tracklog_log::Condition;
use tracklog_protocol::{KeyValue, Offset, PartitionId, Record, TimeMicros};

use super::ledger::Committed;

/// Which assignment of a group's partitions holds. Rises with each change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl Generation {
    /// The one after it.
    #[must_use]
    pub(super) const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A member's right to move a group's offset in one source partition.
///
/// Sans-io. Whoever commits outputs puts [`conditions`](Self::conditions) and the record of
/// [`moved_to`](Self::moved_to) into the same append, and tells [`committed`](Self::committed)
/// when that is stored.
#[derive(Clone, Debug)]
pub struct Claim {
    source: PartitionId,
    next: Offset,
    generation: Generation,
    group: Place,
    offset: Place,
    ledger: PartitionId,
}

/// A key of the ledger, and where its last record is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) key: Vec<u8>,
    pub(super) at: Option<Offset>,
}

impl Claim {
    /// The claim on `source` from `next` on, under `generation`. `group` is the record that names
    /// the generation, `offset` that of the committed offset, both in the partition `ledger`.
    pub(super) const fn new(
        source: PartitionId,
        next: Offset,
        generation: Generation,
        ledger: PartitionId,
        group: Place,
        offset: Place,
    ) -> Self {
        Self { source, next, generation, group, offset, ledger }
    }

    /// The partition that is read.
    #[must_use]
    pub const fn source(&self) -> PartitionId {
        self.source
    }

    /// The committed offset: the one to read next.
    #[must_use]
    pub const fn next(&self) -> Offset {
        self.next
    }

    /// The assignment under which it was handed out.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Where the record of [`moved_to`](Self::moved_to) goes.
    #[must_use]
    pub const fn ledger(&self) -> PartitionId {
        self.ledger
    }

    /// What must hold for a commit under this claim: the generation, and that the offset is where
    /// it was.
    #[must_use]
    pub fn conditions(&self) -> [Condition; 2] {
        [&self.group, &self.offset].map(|place| Condition::LastOfKey {
            partition: self.ledger,
            key: place.key.clone(),
            last: place.at,
        })
    }

    /// The record that commits `next`, written into `buffer`.
    pub fn moved_to<'b>(
        &self,
        next: Offset,
        now: TimeMicros,
        buffer: &'b mut Vec<u8>,
    ) -> Record<'b> {
        assert!(next >= self.next, "a member goes forward; only an operator's reset goes back");
        let value = Committed { next, generation: self.generation, at: now }.encode();
        KeyValue { key: &self.offset.key, value: Some(&value) }.encode(buffer)
    }

    /// That record was stored at `at`.
    pub const fn committed(&mut self, next: Offset, at: Offset) {
        self.next = next;
        self.offset.at = Some(at);
    }
}
