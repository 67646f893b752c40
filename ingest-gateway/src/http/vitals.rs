//! What is known of one connection while it lives, and when it must end.
//!
//! The rules, of which the earliest that applies counts:
//! - the head of a request arrives within `head_timeout` of its first byte, the first one within
//!   that time of the opening;
//! - without a request in hand a connection is kept for `idle_timeout`;
//! - what we write is taken within `write_timeout`.
//!
//! Bodies have their own clock, in `body`. All times are milliseconds since the connection's
//! opening, 0 meaning *not now*; the counters guard no other memory, so they are relaxed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::ConnectionLimits;

/// Shared by a connection's stream, its task, and the requests on it.
#[derive(Debug)]
pub(super) struct Vitals {
    opened: Instant,
    limits: ConnectionLimits,
    requests: AtomicU32,
    /// Those whose answers have no end of their own.
    endless: AtomicU32,
    http2: AtomicBool,
    quiet_since: AtomicU64,
    head_since: AtomicU64,
    write_since: AtomicU64,
    read_ended: AtomicBool,
    served: AtomicBool,
}

impl Vitals {
    pub(super) fn new(limits: ConnectionLimits) -> Arc<Self> {
        Self::opened_at(limits, Instant::now())
    }

    fn opened_at(limits: ConnectionLimits, opened: Instant) -> Arc<Self> {
        Arc::new(Self {
            opened,
            limits,
            requests: AtomicU32::new(0),
            endless: AtomicU32::new(0),
            http2: AtomicBool::new(false),
            quiet_since: AtomicU64::new(1),
            head_since: AtomicU64::new(1),
            write_since: AtomicU64::new(0),
            read_ended: AtomicBool::new(false),
            served: AtomicBool::new(false),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// The peer sent something.
    pub(super) fn bytes_came(&self) {
        let waits_for_head = self.requests.load(Relaxed) == 0 && self.head_since.load(Relaxed) == 0;
        if waits_for_head && !self.http2.load(Relaxed) {
            self.head_since.store(self.now(), Relaxed);
        }
    }

    /// The peer will send nothing more.
    pub(super) fn read_ended(&self) {
        self.read_ended.store(true, Relaxed);
    }

    /// The peer takes nothing now.
    pub(super) fn write_waits(&self) {
        if self.write_since.load(Relaxed) == 0 {
            self.write_since.store(self.now(), Relaxed);
        }
    }

    /// The peer took something.
    pub(super) fn write_moved(&self) {
        if self.write_since.load(Relaxed) != 0 {
            self.write_since.store(0, Relaxed);
        }
    }

    /// The head of a request is whole. It is in hand until the guard is dropped.
    pub(super) fn request_began(self: &Arc<Self>, http2: bool) -> InHand {
        self.requests.fetch_add(1, Relaxed);
        self.head_since.store(0, Relaxed);
        self.http2.store(http2, Relaxed);
        self.served.store(true, Relaxed);
        InHand { vitals: Arc::clone(self), endless: false }
    }

    /// Whether all that is in hand are endless answers: nobody waits for their end.
    pub(super) fn only_endless_left(&self) -> bool {
        let requests = self.requests.load(Relaxed);
        requests > 0 && requests == self.endless.load(Relaxed)
    }

    /// The same on a connection that is not read meanwhile.
    pub(super) fn answers_endlessly_unread(&self) -> bool {
        self.only_endless_left() && !self.http2.load(Relaxed)
    }

    /// Whether the peer said that it will send nothing more. To one that only takes an endless
    /// answer this is the only sign of its end.
    pub(super) fn has_read_ended(&self) -> bool {
        self.read_ended.load(Relaxed)
    }

    /// Whether a request was ever in hand.
    pub(super) fn has_served(&self) -> bool {
        self.served.load(Relaxed)
    }

    /// When this connection must end if nothing happens until then.
    pub(super) fn due(&self) -> Instant {
        let after = |since: &AtomicU64, timeout: Duration| match since.load(Relaxed) {
            0 => None,
            since => Some(self.opened + Duration::from_millis(since) + timeout),
        };
        let write = after(&self.write_since, self.limits.write_timeout);
        let wait = if self.requests.load(Relaxed) > 0 {
            None
        } else {
            let head = after(&self.head_since, self.limits.head_timeout);
            head.or_else(|| after(&self.quiet_since, self.limits.idle_timeout))
        };
        let due = [write, wait].into_iter().flatten().min();
        // With a request in hand nothing is due here; look again after a while.
        due.unwrap_or_else(|| Instant::now() + self.limits.write_timeout)
    }

    fn request_ended(&self, endless: bool) {
        if endless {
            self.endless.fetch_sub(1, Relaxed);
        }
        if self.requests.fetch_sub(1, Relaxed) == 1 {
            self.quiet_since.store(self.now(), Relaxed);
        }
    }
}

/// A request, from its head to the last byte of its answer.
#[derive(Debug)]
pub(super) struct InHand {
    vitals: Arc<Vitals>,
    endless: bool,
}

impl InHand {
    /// The answer has no end of its own.
    pub(super) fn answers_endlessly(&mut self) {
        self.endless = true;
        self.vitals.endless.fetch_add(1, Relaxed);
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.vitals.request_ended(self.endless);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ConnectionLimits = ConnectionLimits::DEFAULT;
    const AGE: Duration = Duration::from_secs(3);

    /// Whether `due` lies `timeout` after now, or after the opening: a test takes no second.
    fn is_after(due: Instant, since: Instant, timeout: Duration) -> bool {
        let second = Duration::from_secs(1);
        due + second > since + timeout && due < since + timeout + second
    }

    fn vitals() -> (Arc<Vitals>, Instant) {
        let opened = Instant::now() - AGE;
        (Vitals::opened_at(LIMITS, opened), opened)
    }

    #[test]
    fn the_first_head_is_due_after_the_opening_and_idle_after_the_answer() {
        let (vitals, opened) = vitals();
        assert!(is_after(vitals.due(), opened, LIMITS.head_timeout));
        let in_hand = vitals.request_began(false);
        drop(in_hand);
        assert!(is_after(vitals.due(), opened + AGE, LIMITS.idle_timeout));
    }

    #[test]
    fn a_begun_head_is_due_sooner_than_an_idle_connection_but_not_on_http2() {
        for (http2, timeout) in [(false, LIMITS.head_timeout), (true, LIMITS.idle_timeout)] {
            let (vitals, opened) = vitals();
            drop(vitals.request_began(http2));
            vitals.bytes_came();
            assert!(is_after(vitals.due(), opened + AGE, timeout));
        }
    }

    #[test]
    fn a_peer_that_takes_nothing_is_due_until_it_takes_something() {
        let (vitals, opened) = vitals();
        let in_hand = vitals.request_began(false);
        vitals.write_since.store(1, Relaxed);
        vitals.write_waits();
        assert!(is_after(vitals.due(), opened, LIMITS.write_timeout), "the first wait counts");
        vitals.write_moved();
        assert!(is_after(vitals.due(), opened + AGE, LIMITS.write_timeout));
        drop(in_hand);
    }

    #[test]
    fn endless_answers_are_told_from_those_that_somebody_waits_for() {
        let (vitals, _) = vitals();
        assert!(!vitals.only_endless_left());
        let mut endless = vitals.request_began(true);
        endless.answers_endlessly();
        assert!(vitals.only_endless_left());
        let other = vitals.request_began(true);
        assert!(!vitals.only_endless_left());
        drop(other);
        assert!(vitals.only_endless_left());
        drop(endless);
        assert!(!vitals.only_endless_left());
    }
}
