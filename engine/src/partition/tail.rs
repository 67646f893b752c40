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

    /// Lets go of all commits of segments before this one.
    pub(crate) fn forget_before(&mut self, segment: SegmentNumber) {
        while let Some(gone) = self.kept.pop_front_if(|kept| kept.segment < segment) {
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
        if kept.segment != segment {
            return None;
        }
        let start = usize::try_from(place.at() - kept.position).ok()?;
        let end = start + place.batch_bytes as usize;
        (end <= kept.commit.len()).then(|| kept.commit.slice(start..end))
    }
}

#[cfg(test)]
mod tests {
    use tracklog_protocol::Offset;

    use super::*;

    fn place(at: u32) -> Place {
        Place::at_position(Offset::ZERO, at, 64).unwrap()
    }

    fn commit(byte: u8) -> Bytes {
        Bytes::from(vec![byte; 4096])
    }

    #[test]
    fn what_is_kept_is_found_in_its_segment() {
        let mut tail = Tail::new(1 << 20);
        tail.push(SegmentNumber(1), 8192, commit(1));
        tail.push(SegmentNumber(2), 4096, commit(2));
        tail.push(SegmentNumber(2), 8192, commit(3));
        let first = |segment, at| {
            tail.batch(SegmentNumber(segment), &place(at)).map(|bytes| (bytes[0], bytes.len()))
        };
        assert_eq!(first(1, 8320), Some((1, 64)));
        assert_eq!(first(2, 4096), Some((2, 64)));
        assert_eq!(first(2, 8128), Some((2, 64)), "the last that fits in the commit");
        assert_eq!(first(2, 8320), Some((3, 64)));
        assert_eq!(first(2, 8136), None, "a batch lies in one commit");
        assert_eq!(first(1, 4096), None, "older than what is kept");
        assert_eq!(first(1, 12288), None, "behind what is kept of its segment");
        assert_eq!(first(2, 12288), None);
        assert_eq!(first(3, 4096), None);
        assert!(Tail::new(1).batch(SegmentNumber(1), &place(4096)).is_none());
    }

    #[test]
    fn the_oldest_go_beyond_the_budget_and_the_newest_stays() {
        let mut tail = Tail::new(8192);
        for at in 1..=3 {
            tail.push(SegmentNumber(1), at * 4096, commit(0));
        }
        let kept = |tail: &Tail, at| tail.batch(SegmentNumber(1), &place(at)).is_some();
        assert_eq!([4096, 8192, 12288].map(|at| kept(&tail, at)), [false, true, true]);
        tail.push(SegmentNumber(1), 16384, Bytes::from(vec![0; 1 << 20]));
        assert_eq!([12288, 16384].map(|at| kept(&tail, at)), [false, true]);
        assert_eq!((tail.bytes, tail.kept.len()), (1 << 20, 1));
    }

    #[test]
    fn what_is_forgotten_is_of_earlier_segments() {
        let mut tail = Tail::new(1 << 20);
        for segment in 1..=3 {
            tail.push(SegmentNumber(segment), 4096, commit(0));
        }
        tail.forget_before(SegmentNumber(3));
        assert!(tail.batch(SegmentNumber(2), &place(4096)).is_none());
        assert!(tail.batch(SegmentNumber(3), &place(4096)).is_some());
        assert_eq!(tail.bytes, 4096);
    }
}
