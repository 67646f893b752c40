//! A stretch of a partition, read piece by piece to its end, for who goes over all of it.

use std::ops::Range;

use tracklog_log::{Fetch, FetchError, FetchMode, Log};
use tracklog_protocol::{BatchView, Offset, PartitionId, Record};

/// What is read at once.
const FETCH_BYTES: usize = 4 << 20;

/// What one read gave.
pub(crate) struct Piece {
    batches: Vec<BatchView>,
    from: Offset,
    /// Where the next begins.
    pub(crate) next: Offset,
    /// How many offsets cannot be read.
    pub(crate) damaged: u64,
}

impl Piece {
    /// Reads what lies at `from` and behind.
    pub(crate) async fn read(
        log: &dyn Log,
        partition: PartitionId,
        from: Offset,
    ) -> Result<Self, FetchError> {
        let (mode, at) = (FetchMode::Replay, vec![(partition, from)]);
        let fetch = Fetch { from: at, bytes_max: FETCH_BYTES, wait: false, mode };
        let found = log.fetch(fetch).await?.partitions.pop();
        let found = found.expect("one partition was asked for");
        let damaged = found.damage.iter().map(|damage| damage.to.0 - damage.from.0).sum();
        Ok(Self { batches: found.batches, from, next: found.next, damaged })
    }

    /// Its records, with their offsets.
    pub(crate) fn records(&self) -> impl Iterator<Item = (Offset, Record<'_>)> {
        let all = self.batches.iter().flat_map(BatchView::records);
        all.filter(|(offset, _)| *offset >= self.from)
    }
}

/// Hands out each record of a stretch of a partition, as far as it is there and readable.
pub(crate) async fn each_record(
    log: &dyn Log,
    partition: PartitionId,
    stretch: Range<Offset>,
    mut sink: impl FnMut(Offset, Record<'_>),
) -> Result<(), FetchError> {
    let Some(extent) = log.extent(partition) else { return Ok(()) };
    let (mut next, end) = (stretch.start.max(extent.start), stretch.end.min(extent.end));
    while next < end {
        let piece = Piece::read(log, partition, next).await?;
        for (offset, record) in piece.records().take_while(|(offset, _)| *offset < end) {
            sink(offset, record);
        }
        next = piece.next;
    }
    Ok(())
}
