//! What of a partition's records does not go into a pack: of a compacted topic all but the last of
//! each key, and what is to be erased.
//!
//! Promises
//! - What is to be erased goes, and where anything is, so does all that lies below the start.
//! - A record stays that is the last of its key, as the log stands now; one that was superseded by
//!   a durable record need not. Offsets stay taken: by tombstones, and by gaps where nothing of a
//!   batch is left. Gaps side by side are one.
//! - That a key was deleted is remembered as long as an older record of it may lie in an older
//!   segment or pack.
//!
//! Used by the settler, partition by partition.

use std::io;

use bytes::Bytes;
use tracklog_protocol::batch::gap;
use tracklog_protocol::{BatchView, Offset, PartitionId, Record};

use crate::catalog::Catalog;
use crate::disk::batch_of_pack;
use crate::published::Published;
use crate::settled::erasure::Doomed;
use crate::settled::pack::PackBuilder;

/// What goes into a pack of one partition.
pub(super) struct Thinning<'a> {
    published: &'a Published,
    partition: PartitionId,
    is_compact: bool,
    doomed: &'a Doomed,
    /// Nothing older is left: a deleted key needs no record of its end.
    is_oldest: bool,
    /// A gap that the next one may go on.
    gap: Option<BatchView>,
}

impl<'a> Thinning<'a> {
    pub(super) fn new(
        published: &'a Published,
        (partition, doomed): (PartitionId, &'a Doomed),
        is_oldest: bool,
    ) -> Self {
        let is_compact = published.topics.read().catalog.is_compact(partition);
        Self { published, partition, is_compact, doomed, is_oldest, gap: None }
    }

    /// Takes the partition's next batch.
    pub(super) fn take(&mut self, batch: BatchView, builder: &mut PackBuilder) -> io::Result<()> {
        let batch = self.thinned(&batch).unwrap_or(batch);
        if !batch.header().is_gap() {
            self.finish(builder)?;
            return builder.add(&batch);
        }
        match self.gap.take() {
            Some(before) if goes_on(&before, &batch) => {
                self.gap = Some(one_gap(&before, &batch)?);
                Ok(())
            }
            before => {
                self.gap = Some(batch);
                before.map_or(Ok(()), |before| builder.add(&before))
            }
        }
    }

    /// Says that no more of the partition comes.
    pub(super) fn finish(&mut self, builder: &mut PackBuilder) -> io::Result<()> {
        self.gap.take().map_or(Ok(()), |gap| builder.add(&gap))
    }

    fn thinned(&self, batch: &BatchView) -> Option<BatchView> {
        if !self.is_compact && self.doomed.is_nothing() {
            return None;
        }
        let topics = self.published.topics.read();
        batch.without(|offset, record| {
            let is_superseded = self.is_compact && !self.stays(&topics.catalog, offset, record);
            !is_superseded && !self.doomed.contains(offset)
        })
    }

    fn stays(&self, catalog: &Catalog, offset: Offset, record: Record<'_>) -> bool {
        let Some(record) = record.key_value() else { return true };
        let key = (self.partition, Bytes::copy_from_slice(record.key));
        let last = catalog.live().get(&key).map(|live| live.offset);
        match record.value {
            Some(_) => last == Some(offset),
            None => last.is_none() && !self.is_oldest,
        }
    }
}

/// Whether the second gap can go on where the first one ends.
fn goes_on(before: &BatchView, after: &BatchView) -> bool {
    before.end_offset() == after.base_offset()
        && before.count().checked_add(after.count()).is_some()
}

/// Two gaps side by side.
fn one_gap(before: &BatchView, after: &BatchView) -> io::Result<BatchView> {
    let mut at = before.header().stamp();
    at.append_time = after.append_time();
    let count = before.count() + after.count();
    batch_of_pack(gap(before.header().kind(), count, &at)).map_err(io::Error::other)
}
