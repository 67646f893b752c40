//! The tail ring: the buffers of the last commits, kept in memory for those who read at the end.
//!
//! Promises: it holds published commits only, whole, newest last, and at most its budget of
//! bytes (but for one commit). What is read from it is shared, not copied.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::journal::commit::SegmentNumber;
use crate::partition::places::Place;

/// One commit.
#[derive(Debug)]
struct Kept {
    segment: SegmentNumber,
    position: u64,
    commit: Bytes,
}

/// The buffers of the last commits.
#[derive(Debug)]
pub(crate) struct Tail {
    kept: VecDeque<Kept>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(crate) const fn new(bytes_max: usize) -> Self {
        Self { kept: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Keeps a published commit; lets the oldest go.
    pub(crate) fn push(&mut self, segment: SegmentNumber, position: u32, commit: Bytes) {
        self.bytes += commit.len();
        self.kept.push_back(Kept { segment, position: u64::from(position), commit });
        while self.bytes > self.bytes_max && self.kept.len() > 1 {
            let Some(gone) = self.kept.pop_front() else { break };
            self.bytes -= gone.commit.len();
        }
    }

    /// The batch at `place` of `segment`, if its commit is kept.
    pub(crate) fn batch(&self, segment: SegmentNumber, place: &Place) -> Option<Bytes> {
        let at = (segment, place.at());
        let oldest = self.kept.front()?;
        if (oldest.segment, oldest.position) > at {
            return None;
        }
        let after = self.kept.partition_point(|kept| (kept.segment, kept.position) <= at);
        let kept = self.kept.get(after.checked_sub(1)?)?;
        let start = usize::try_from(place.at() - kept.position).ok()?;
        let end = start + place.batch_bytes as usize;
        (kept.segment == segment && end <= kept.commit.len()).then(|| kept.commit.slice(start..end))
    }
}
