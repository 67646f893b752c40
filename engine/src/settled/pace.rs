//! How fast the settler may go: as fast as the journal's own writes do not feel.
//!
//! Promises
//! - While commits become durable about as fast as they do at their best, nothing waits.
//! - When they take more than twice as long, the settler rests as long as it worked, piece by
//!   piece. What is best is measured, and forgotten over the hours.
//! - Where no commits are written it never rests.
//!
//! It holds no clock: whoever uses it says how long he worked, and waits as he is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::journal::appender::Counters;

/// No rest is longer.
const REST_MAX: Duration = Duration::from_millis(50);
/// Fewer commits since the last look say little.
const COMMITS_MIN: u64 = 8;
/// Times above the best by this factor are felt.
const FELT: u64 = 2;

/// See the head of this file.
pub(super) struct Pace {
    counters: Arc<Counters>,
    commits: u64,
    micros: u64,
    /// How long a commit takes at its best; 0: not known yet.
    best_micros: u64,
    /// How long was worked since it could last be told.
    worked: Duration,
}

impl Pace {
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self { counters, commits: 0, micros: 0, best_micros: 0, worked: Duration::ZERO }
    }

    /// How long to rest after having worked for so long.
    pub(super) fn rest(&mut self, worked: Duration) -> Duration {
        let commits = self.counters.commits.load(Ordering::Relaxed);
        let micros = self.counters.write_micros_sum.load(Ordering::Relaxed);
        let (new, took) = (commits - self.commits, micros.saturating_sub(self.micros));
        self.worked += worked;
        if new < COMMITS_MIN {
            return Duration::ZERO;
        }
        let worked = std::mem::take(&mut self.worked);
        (self.commits, self.micros) = (commits, micros);
        let mean = took / new;
        let is_felt = self.best_micros > 0 && mean > FELT * self.best_micros;
        self.best_micros = match self.best_micros {
            0 => mean,
            best => mean.min(best + best / 1024 + 1),
        };
        if is_felt { worked.min(REST_MAX) } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKED: Duration = Duration::from_millis(7);

    fn commit(counters: &Counters, count: u64, micros: u64) {
        counters.commits.fetch_add(count, Ordering::Relaxed);
        counters.write_micros_sum.fetch_add(count * micros, Ordering::Relaxed);
    }

    #[test]
    fn it_rests_while_commits_take_longer_than_at_their_best() {
        let counters = Arc::<Counters>::default();
        let mut pace = Pace::new(Arc::clone(&counters));
        assert_eq!(pace.rest(WORKED), Duration::ZERO, "nothing is written");
        for micros in [200, 150, 290] {
            commit(&counters, 100, micros);
            assert_eq!(pace.rest(WORKED), Duration::ZERO, "{micros}");
        }
        commit(&counters, 100, 320);
        assert_eq!(pace.rest(WORKED), WORKED);
        commit(&counters, 100, 320);
        assert_eq!(pace.rest(Duration::from_secs(1)), REST_MAX);
        commit(&counters, COMMITS_MIN - 1, 320);
        assert_eq!(pace.rest(WORKED), Duration::ZERO, "too few to tell");
        commit(&counters, 1, 320);
        assert_eq!(pace.rest(WORKED), 2 * WORKED, "and it is not forgotten");
        commit(&counters, 100, 160);
        assert_eq!(pace.rest(WORKED), Duration::ZERO);
    }

    #[test]
    fn a_disk_that_became_slower_is_the_best_there_is_after_a_while() {
        let counters = Arc::<Counters>::default();
        let mut pace = Pace::new(Arc::clone(&counters));
        commit(&counters, 100, 100);
        pace.rest(WORKED);
        let rests = (0..10_000).take_while(|_| {
            commit(&counters, 100, 300);
            !pace.rest(WORKED).is_zero()
        });
        assert!((10..5_000).contains(&rests.count()));
    }
}
