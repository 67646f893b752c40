//! Many programs, one seed each, on all cores, and what they add up to.

use std::fmt;
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::program::{Outcome, run_program};
use crate::resends::{Resends, run_resends};
use crate::tally::Tally;

/// Which programs to run.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// The first seed; the others follow it.
    pub seed: u64,
    /// How many.
    pub programs: u64,
    /// How many at once.
    pub threads: usize,
}

/// What programs add up to.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// How many there were.
    pub programs: u64,
    /// Ends of a process that nobody asked for.
    pub crashes: u64,
    /// Operations that failed, damage, stalls and full disks.
    pub faults: u64,
    /// Appends that were acked.
    pub acked: u64,
    /// What they did, by kind.
    pub did: Tally,
    /// How long they took by their machines' clocks.
    pub simulated: Duration,
    /// The seeds that broke a promise.
    pub violations: Vec<u64>,
}

impl Totals {
    pub(crate) fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.programs += 1;
        self.crashes += outcome.crashes;
        self.faults += outcome.faults;
        self.acked += outcome.acked;
        self.did.add(&outcome.did);
        self.simulated += outcome.simulated;
        if outcome.violation.is_some() {
            self.violations.push(seed);
        }
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Self { programs, crashes, faults, acked, did, simulated, violations } = self;
        let (seconds, violations) = (simulated.as_secs_f64(), violations.len());
        let did = did.to_json();
        format!(
            "{{\"programs\":{programs},\"crashes\":{crashes},\"faults\":{faults},\
             \"acked\":{acked},\"simulated_seconds\":{seconds:.3},\
             \"violations\":{violations},\"did\":{did}}}"
        )
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { programs, crashes, faults, acked, did, simulated, violations } = self;
        let (seconds, violations) = (simulated.as_secs(), violations.len());
        write!(
            f,
            "{programs} programs, {crashes} crashes, {faults} faults, {acked} acked appends, \
             {seconds} simulated seconds, {violations} violations; they did: {did}"
        )
    }
}

impl Campaign {
    /// Runs them all. `ended` is called after each, on the threads that run them.
    pub fn run(&self, ended: &(dyn Fn(u64, &Outcome, &Totals) + Sync)) -> Totals {
        let next = AtomicU64::new(0);
        let totals = Mutex::new(Totals::default());
        let work = || {
            loop {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth >= self.programs {
                    return;
                }
                let seed = self.seed.wrapping_add(nth);
                let outcome = run_program(seed, false);
                let mut totals = totals.lock().expect("adding up does not panic");
                totals.add(seed, &outcome);
                ended(seed, &outcome, &totals);
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(work);
            }
        });
        let mut totals = totals.into_inner().expect("adding up does not panic");
        totals.violations.sort_unstable();
        totals
    }

    /// Runs as many programs of resends. Tells besides which seeds broke a promise.
    #[must_use]
    pub fn resend(&self) -> (Resends, Vec<u64>) {
        let next = AtomicU64::new(0);
        let all = Mutex::new((Resends::default(), Vec::new()));
        let work = || {
            loop {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth >= self.programs {
                    return;
                }
                let seed = self.seed.wrapping_add(nth);
                let done = catch_unwind(|| run_resends(seed));
                let mut all = all.lock().expect("adding up does not panic");
                match done {
                    Ok(done) => all.0 += done,
                    Err(_) => all.1.push(seed),
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(work);
            }
        });
        let (done, mut violations) = all.into_inner().expect("adding up does not panic");
        violations.sort_unstable();
        (done, violations)
    }
}
