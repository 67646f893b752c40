//! The merge of a topic's partitions: batches by append time, then partition.
//!
//! Each partition is a stream of batches whose append times never go back, and all records of a
//! batch share one append time: so the least head of all streams is the next batch, whole.
//!
//! Holds at most [`HELD_BYTES`] of batches, shared out among the partitions, but at least one
//! batch for each that has any left.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use tracklog_log::{Fetch, FetchError, FetchMode, Fetched, FetchedPartition, Log};
use tracklog_protocol::{BatchView, Offset, PartitionId, TimeMicros};

use super::{Note, Slice};

/// What all streams hold together, about.
const HELD_BYTES: usize = 16 << 20;
/// What a stream asks for at least: less would be a read for a record.
const FETCH_BYTES_MIN: usize = 64 << 10;
/// What a stream asks for at most: more would delay the first line.
const FETCH_BYTES_MAX: usize = 1 << 20;

/// What is read of one partition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) partition: PartitionId,
    pub(super) from: Offset,
    pub(super) to: Offset,
}

pub(super) struct Merge {
    log: Arc<dyn Log>,
    streams: Vec<Stream>,
    /// Streams with a batch in hand, least first.
    heads: BinaryHeap<Reverse<(TimeMicros, usize)>>,
    /// Streams that must read before it is known who is next.
    hungry: Vec<usize>,
    fetch_bytes: usize,
    notes: Vec<Note>,
}

/// One partition's way through its range.
struct Stream {
    id: PartitionId,
    /// The first offset that was not given out.
    position: Offset,
    /// The first offset that was not fetched.
    fetched: Offset,
    /// Where to stop for now.
    stop: Offset,
    batches: VecDeque<BatchView>,
}

impl Merge {
    pub(super) fn new(log: Arc<dyn Log>, ranges: Vec<Range>) -> Self {
        let fetch_bytes = HELD_BYTES / ranges.len().max(1);
        let streams: Vec<_> = ranges.into_iter().map(Stream::new).collect();
        let mut merge = Self {
            log,
            streams,
            heads: BinaryHeap::new(),
            hungry: Vec::new(),
            fetch_bytes: fetch_bytes.clamp(FETCH_BYTES_MIN, FETCH_BYTES_MAX),
            notes: Vec::new(),
        };
        merge.queue_all();
        merge
    }

    pub(super) fn partitions(&self) -> impl Iterator<Item = PartitionId> + '_ {
        self.streams.iter().map(|stream| stream.id)
    }

    /// Where each stream is.
    pub(super) fn positions(&self) -> Vec<(PartitionId, Offset)> {
        self.streams.iter().map(|stream| (stream.id, stream.position)).collect()
    }

    pub(super) fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Lets the streams, which are at their stops, go on to these.
    pub(super) fn extend_to(&mut self, stops: &[Offset]) {
        for (stream, stop) in self.streams.iter_mut().zip(stops) {
            stream.stop = stream.stop.max(*stop);
        }
        self.queue_all();
    }

    /// The next stretch of one batch; `None` at the end of all ranges. Returns early, with
    /// `None` too, when there is a note to tell first.
    pub(super) async fn next(&mut self) -> Result<Option<Slice>, FetchError> {
        while !self.hungry.is_empty() {
            self.feed().await?;
            if !self.notes.is_empty() {
                return Ok(None);
            }
        }
        let Some(Reverse((_, index))) = self.heads.pop() else { return Ok(None) };
        let slice = self.streams[index].take();
        self.queue(index);
        Ok(Some(slice))
    }

    fn queue_all(&mut self) {
        self.heads.clear();
        self.hungry.clear();
        (0..self.streams.len()).for_each(|index| self.queue(index));
    }

    /// Puts a stream where it belongs: among the heads, the hungry, or neither when it is done.
    fn queue(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        stream.skip_empty();
        if stream.position >= stream.stop {
            return;
        }
        match stream.batches.front() {
            Some(batch) => self.heads.push(Reverse((batch.append_time(), index))),
            None => self.hungry.push(index),
        }
    }

    /// Fetches for all hungry streams at once; some may stay hungry.
    async fn feed(&mut self) -> Result<(), FetchError> {
        let from: Vec<_> = self.hungry.iter().map(|index| self.streams[*index].wanted()).collect();
        let bytes_max = self.fetch_bytes.saturating_mul(from.len());
        let fetch = Fetch { from, bytes_max, wait: false, mode: FetchMode::Replay };
        match self.log.fetch(fetch).await {
            Ok(fetched) => self.accept(fetched),
            Err(FetchError::OutOfRange { partition, asked, extent }) if extent.start > asked => {
                self.skip_gone(partition, extent.start);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn accept(&mut self, fetched: Fetched) -> Result<(), FetchError> {
        let hungry = std::mem::take(&mut self.hungry);
        let mut progress = false;
        for (index, found) in hungry.into_iter().zip(fetched.partitions) {
            progress |= found.next > self.streams[index].fetched;
            self.tell_damage(&found, self.streams[index].fetched);
            self.streams[index].accept(found);
            self.queue(index);
        }
        match self.hungry.first() {
            Some(index) if !progress => {
                let partition = self.streams[*index].id;
                let why = "the log gave nothing below its end".to_owned();
                Err(FetchError::Io { partition, why })
            }
            _ => Ok(()),
        }
    }

    fn tell_damage(&mut self, found: &FetchedPartition, asked: Offset) {
        let partition = found.partition.partition;
        for damage in found.damage.iter().filter(|damage| damage.to > asked) {
            let (from, to) = (damage.from.max(asked), damage.to);
            let what = damage.what.clone();
            self.notes.push(Note::Damage { partition, from, to, what });
        }
    }

    fn skip_gone(&mut self, partition: PartitionId, start: Offset) {
        let stream = self.streams.iter_mut().find(|stream| stream.id == partition);
        let stream = stream.expect("an answer is about a partition that was asked for");
        let (from, to) = (stream.fetched, start);
        stream.fetched = start;
        stream.position = stream.position.max(start);
        self.notes.push(Note::Gone { partition: partition.partition, from, to });
        self.queue_all();
    }
}

impl Stream {
    const fn new(range: Range) -> Self {
        Self {
            id: range.partition,
            position: range.from,
            fetched: range.from,
            stop: range.to,
            batches: VecDeque::new(),
        }
    }

    const fn wanted(&self) -> (PartitionId, Offset) {
        (self.id, self.fetched)
    }

    fn accept(&mut self, found: FetchedPartition) {
        self.fetched = self.fetched.max(found.next);
        self.batches.extend(found.batches);
    }

    /// Drops batches that hold nothing at or above the position, and gaps, whose records were
    /// all removed; passes what could not be read.
    fn skip_empty(&mut self) {
        while let Some(batch) = self.batches.front() {
            if batch.header().is_gap() {
                self.position = self.position.max(batch.end_offset());
            }
            if batch.end_offset() > self.position {
                self.position = self.position.max(batch.base_offset());
                return;
            }
            self.batches.pop_front();
        }
        self.position = self.position.max(self.fetched);
    }

    /// What is left of the first batch, up to the stop.
    fn take(&mut self) -> Slice {
        let batch = self.batches.front().expect("a head has a batch").clone();
        let to = batch.end_offset().min(self.stop);
        let index = |offset: Offset| {
            usize::try_from(offset.0 - batch.base_offset().0).expect("a batch is small")
        };
        let (from, until) = (index(self.position), index(to));
        self.position = to;
        Slice { batch, from, to: until }
    }
}
