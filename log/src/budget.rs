//! The intake's byte budget, shared out by lanes.
//!
//! Promises: what is reserved never exceeds the budget; no lane ever holds more than half of it,
//! so that one noisy source leaves room for all others; a permit gives back what it holds when it
//! is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A share of the budget: a source, the stages, or replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lane(pub u8);

impl Lane {
    /// What the node itself writes: catalog, registry.
    pub const INTERNAL: Self = Self(0);
    /// Stages that derive events from events.
    pub const STAGES: Self = Self(1);
    /// Backfill.
    pub const REPLAY: Self = Self(2);
    /// The first lane that a source may have.
    pub const FIRST_SOURCE: Self = Self(8);
}

/// The budget is used up. Nothing was taken; try again after `retry_after`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the intake is busy: {reserved_bytes} of {budget_bytes} bytes are waiting for the disk")]
pub struct Busy {
    /// What is reserved now, by all lanes.
    pub reserved_bytes: usize,
    /// What there is in all.
    pub budget_bytes: usize,
    /// When trying again may help.
    pub retry_after: Duration,
}

/// Counts what is reserved. One for each log.
#[derive(Debug)]
pub struct Budget {
    bytes: usize,
    reserved: AtomicUsize,
    lanes: [AtomicUsize; 256],
}

impl Budget {
    /// A budget of `bytes`.
    #[must_use]
    pub fn new(bytes: usize) -> Arc<Self> {
        let lanes = std::array::from_fn(|_| AtomicUsize::new(0));
        Arc::new(Self { bytes, reserved: AtomicUsize::new(0), lanes })
    }

    /// Takes `bytes` for `lane`.
    ///
    /// # Errors
    /// [`Busy`] when the whole budget or the lane's half of it would be exceeded.
    pub fn reserve(self: &Arc<Self>, lane: Lane, bytes: usize) -> Result<Permit, Busy> {
        let of_lane = &self.lanes[usize::from(lane.0)];
        if !take(of_lane, bytes, self.bytes / 2) {
            return Err(self.busy());
        }
        if !take(&self.reserved, bytes, self.bytes) {
            of_lane.fetch_sub(bytes, Ordering::Relaxed);
            return Err(self.busy());
        }
        Ok(Permit { budget: Arc::clone(self), lane, bytes })
    }

    /// What is reserved now, by all lanes.
    #[must_use]
    pub fn reserved_bytes(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }

    /// The answer of a lane that has no room.
    #[must_use]
    pub fn busy(&self) -> Busy {
        Busy {
            reserved_bytes: self.reserved_bytes(),
            budget_bytes: self.bytes,
            retry_after: Duration::from_secs(1),
        }
    }
}

/// Adds `bytes` unless that exceeds `bytes_max`. The count guards no other memory: relaxed.
fn take(count: &AtomicUsize, bytes: usize, bytes_max: usize) -> bool {
    let fits = |now: usize| now.checked_add(bytes).filter(|sum| *sum <= bytes_max);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok()
}

/// Bytes of the budget, held until dropped.
#[derive(Debug)]
#[must_use = "a permit that is dropped at once reserves nothing"]
pub struct Permit {
    budget: Arc<Budget>,
    lane: Lane,
    bytes: usize,
}

impl Permit {
    /// How many bytes it holds.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whose bytes they are.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        self.lane
    }

    /// Gives back all but `bytes`: the body turned out smaller than feared.
    pub fn shrink_to(&mut self, bytes: usize) {
        let freed = self.bytes.saturating_sub(bytes);
        self.budget.lanes[usize::from(self.lane.0)].fetch_sub(freed, Ordering::Relaxed);
        self.budget.reserved.fetch_sub(freed, Ordering::Relaxed);
        self.bytes -= freed;
    }

    /// Takes `bytes` of what it holds, or all of that, as a permit of its own: an append that is
    /// cut into several needs one for each.
    pub fn split_off(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: Arc::clone(&self.budget), lane: self.lane, bytes }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_lane_holds_more_than_half_of_the_budget() {
        let budget = Budget::new(100);
        let first = budget.reserve(Lane(9), 50).expect("half is allowed");
        assert!(budget.reserve(Lane(9), 1).is_err());
        let second = budget.reserve(Lane(10), 50).expect("another lane has its own half");
        assert!(budget.reserve(Lane(11), 1).is_err(), "the whole is used up");
        drop((first, second));
        assert_eq!(budget.reserved_bytes(), 0);
    }

    #[test]
    fn a_shrunk_permit_gives_back_the_rest_and_only_once() {
        let budget = Budget::new(100);
        let mut permit = budget.reserve(Lane(9), 40).expect("it fits");
        permit.shrink_to(10);
        permit.shrink_to(30);
        assert_eq!((permit.bytes(), budget.reserved_bytes()), (10, 10));
    }

    #[test]
    fn what_is_split_off_is_held_once_and_given_back_once() {
        let budget = Budget::new(100);
        let mut permit = budget.reserve(Lane(9), 40).expect("it fits");
        let part = permit.split_off(15);
        let rest = permit.split_off(1_000);
        assert_eq!((part.bytes(), rest.bytes(), permit.bytes()), (15, 25, 0));
        assert_eq!(budget.reserved_bytes(), 40);
        drop((part, rest, permit));
        assert_eq!(budget.reserved_bytes(), 0);
    }
}
