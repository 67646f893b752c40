//! Fails each operation of the disk in a fixed program, one after the other.
//!
//! The program opens, appends in all ways, rolls through its slots, gives segments up, reads, crashes
//! and opens again. For every N the Nth operation fails, once, and then again from there on until the
//! run ends, with an error of the medium and with one that says that there is no room; until the
//! program runs through without reaching N. All that a model holds a program to holds throughout.

use std::fmt;
use std::io::ErrorKind;
use std::num::NonZeroU64;

use tracklog_engine::disk::simulated::Lasting;

use crate::campaign::Totals;
use crate::program::{ERRORS, run_fixed_program};

/// Which operation failed, and how.
#[derive(Clone, Copy, Debug)]
pub struct Failed {
    /// Counted from 1.
    pub nth: u64,
    /// With which error.
    pub error: ErrorKind,
    /// Once, or from there on.
    pub lasting: Lasting,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { nth, error, lasting } = self;
        write!(f, "operation {nth} fails {lasting:?} ({error})")
    }
}

/// Sweeps over every `stride`th operation from the `first` on, counted from 1; `told` hears of what
/// was broken, and where.
pub fn sweep(first: u64, stride: NonZeroU64, told: &dyn Fn(Failed, &str)) -> Totals {
    let mut totals = Totals::default();
    for error in ERRORS {
        for lasting in [Lasting::Once, Lasting::Always] {
            sweep_with(error, lasting, first.max(1), stride, told, &mut totals);
        }
    }
    totals
}

fn sweep_with(
    error: ErrorKind,
    lasting: Lasting,
    first: u64,
    stride: NonZeroU64,
    told: &dyn Fn(Failed, &str),
    totals: &mut Totals,
) {
    let mut nth = first;
    loop {
        let (outcome, operations) = run_fixed_program(nth, error, lasting);
        totals.add(nth, &outcome);
        match &outcome.violation {
            Some(violation) => told(Failed { nth, error, lasting }, violation),
            None if operations < nth => break,
            None => {}
        }
        totals.faults += 1;
        nth += stride.get();
    }
}
