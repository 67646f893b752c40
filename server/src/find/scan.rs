//! Reading a partition over a range, or onwards from a time, a piece at a time.

use std::ops::Range;

use tracklog_log::{Fetch, FetchError, FetchMode, Log, TimeKind};
use tracklog_protocol::{BatchView, Offset, PartitionId, Record, TimeMicros};

use crate::bound::Bound;

/// How much one read asks for.
const FETCH_BYTES: usize = 4 << 20;

/// A partition that is read from some offset to another.
pub(super) struct Scan<'l> {
    log: &'l dyn Log,
    partition: PartitionId,
    start: Offset,
    at: Offset,
    end: Offset,
    fetch_bytes: usize,
}

/// What was read at once.
pub(super) struct Chunk {
    from: Offset,
    to: Offset,
    batches: Vec<BatchView>,
}

impl Chunk {
    /// Its records: offset, when it was appended, the record.
    pub(super) fn records(&self) -> impl Iterator<Item = (Offset, TimeMicros, Record<'_>)> {
        let wanted = self.from..self.to;
        let all = self.batches.iter().flat_map(|batch| {
            let appended_at = batch.append_time();
            batch.records().map(move |(offset, record)| (offset, appended_at, record))
        });
        all.filter(move |(offset, ..)| wanted.contains(offset))
    }

    /// What its batches take.
    pub(super) fn bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.bytes().len()).sum()
    }
}

impl<'l> Scan<'l> {
    /// Of a range, or of what is left of it from `after` on.
    pub(super) async fn of(
        log: &'l dyn Log,
        partition: PartitionId,
        from: Option<Bound>,
        to: Option<Bound>,
        after: Option<Offset>,
    ) -> Result<Self, FetchError> {
        let unknown = || FetchError::UnknownPartition { partition };
        let extent = log.extent(partition).ok_or_else(unknown)?;
        let offset = async |bound: Option<Bound>, otherwise: Offset| match bound {
            None => Ok(otherwise),
            Some(Bound::Offset(offset)) => Ok(offset),
            Some(Bound::Time(time)) => log.offset_at(partition, TimeKind::Append, time).await,
            Some(Bound::Now) => Ok(extent.end),
        };
        let from = offset(from, extent.start).await?.max(extent.start);
        let end = offset(to, extent.end).await?.min(extent.end);
        let at = after.map_or(from, |after| after.max(from));
        Ok(Self { log, partition, start: from, at, end, fetch_bytes: FETCH_BYTES })
    }

    /// What of it lies in a stretch. Where that is one record, no more than its batch is read.
    pub(super) fn within(&self, stretch: &Range<Offset>) -> Option<Self> {
        let (at, end) = (self.at.max(stretch.start), self.end.min(stretch.end));
        let fetch_bytes = if stretch.end.0 - stretch.start.0 > 1 { self.fetch_bytes } else { 1 };
        (at < end).then_some(Self { at, end, fetch_bytes, ..*self })
    }

    /// Whether records are gone that would have been read: it begins where its partition does, and
    /// that began with others once.
    pub(super) fn is_cut(&self) -> bool {
        self.at > Offset::ZERO
            && self.log.extent(self.partition).is_none_or(|it| self.at <= it.start)
    }

    /// Of what was appended at `time` or later, in small reads: what is looked for is near.
    pub(super) async fn since(
        log: &'l dyn Log,
        partition: PartitionId,
        time: TimeMicros,
    ) -> Result<Self, FetchError> {
        let scan = Self::of(log, partition, Some(Bound::Time(time)), None, None).await?;
        Ok(Self { fetch_bytes: 64 << 10, ..scan })
    }

    /// The next offset that is read.
    pub(super) const fn at(&self) -> Offset {
        self.at
    }

    /// Goes on at `offset`, which lies in the range.
    pub(super) const fn go_to(&mut self, offset: Offset) {
        self.at = offset;
    }

    /// The beginning of the range.
    pub(super) const fn start(&self) -> Offset {
        self.start
    }

    /// The end of the range.
    pub(super) const fn end(&self) -> Offset {
        self.end
    }

    /// Reads on; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Chunk>, FetchError> {
        self.read(self.fetch_bytes).await
    }

    /// Reads one batch on; `None` at the end.
    pub(super) async fn next_small(&mut self) -> Result<Option<Chunk>, FetchError> {
        self.read(1).await
    }

    async fn read(&mut self, bytes_max: usize) -> Result<Option<Chunk>, FetchError> {
        while self.at < self.end {
            let (from, mode) = (vec![(self.partition, self.at)], FetchMode::Replay);
            let fetch = Fetch { from, bytes_max, wait: false, mode };
            let mut fetched = match self.log.fetch(fetch).await {
                Ok(fetched) => fetched,
                // Gone since its bounds were asked for.
                Err(FetchError::OutOfRange { extent, .. }) if self.at < extent.start => {
                    self.at = extent.start;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let found = fetched.partitions.pop().expect("one partition was asked for");
            let from = std::mem::replace(&mut self.at, found.next.min(self.end));
            return Ok(Some(Chunk { from, to: self.at, batches: found.batches }));
        }
        Ok(None)
    }
}
