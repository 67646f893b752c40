//! Whether the machine stood still while it was measured.
//!
//! A host that gives a virtual machine so much CPU time in each tenth of a second halts all of it for
//! the rest. The machine's own figures need not show that, and what waits meanwhile waits longer. A
//! thread that does nothing but sleep a millisecond notices, as jHiccup (Gil Tene) does for Java.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const SLEEP: Duration = Duration::from_millis(1);
/// Less is what a thread waits for its turn on a busy core.
const STANDSTILL_MIN: Duration = Duration::from_millis(6);
/// Less of the time does not move a p99.
const SHARE_TOLD: f64 = 0.005;

/// The thread that sleeps.
pub(super) struct Watcher {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Standstills>,
}

/// What it noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standstills {
    watched: Duration,
    total: Duration,
    longest: Duration,
}

impl Watcher {
    pub(super) fn start() -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let mut noticed = Standstills::default();
            while !until.load(Ordering::Relaxed) {
                let began = Instant::now();
                thread::park_timeout(SLEEP);
                noticed.slept(began.elapsed());
            }
            noticed
        });
        Self { ended, thread }
    }

    pub(super) fn end(self) -> Standstills {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().expect("who sleeps does not panic")
    }
}

impl Standstills {
    /// One sleep, and what of it was asked for by nobody.
    fn slept(&mut self, took: Duration) {
        self.watched += took;
        let late = took.saturating_sub(SLEEP);
        if late >= STANDSTILL_MIN {
            self.total += late;
            self.longest = self.longest.max(late);
        }
    }

    /// A line for people, where it is enough to show.
    pub(super) fn told(&self) -> Option<String> {
        let share = self.total.as_secs_f64() / self.watched.as_secs_f64().max(f64::MIN_POSITIVE);
        (share >= SHARE_TOLD).then(|| {
            format!(
                "this machine stood still for {:.1} % of the time, for up to {} ms at once: its host \
                 or other work held it up, and waits of that length may be that alone",
                share * 1e2,
                self.longest.as_millis()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Standstills;

    fn of(sleeps_millis: &[u64]) -> Standstills {
        let mut noticed = Standstills::default();
        sleeps_millis.iter().for_each(|&millis| noticed.slept(Duration::from_millis(millis)));
        noticed
    }

    #[test]
    fn a_turn_that_was_waited_for_is_no_standstill() {
        assert_eq!(of(&[1, 2, 6, 1]).told(), None);
        assert_eq!(Standstills::default().told(), None);
    }

    #[test]
    fn a_standstill_in_each_tenth_of_a_second_is_told_with_its_share_and_length() {
        let sleeps: Vec<u64> = (0..10).flat_map(|_| [vec![1; 80], vec![20]].concat()).collect();
        let told = of(&sleeps).told().expect("a fifth of the time");
        assert!(told.contains("19.0 % of the time") && told.contains("up to 19 ms"), "{told}");
    }
}
