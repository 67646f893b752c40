//! Fails each operation of the disk in a fixed program, one after the other.
//!
//! The program opens, appends in all ways, rolls through its slots, gives segments up, reads, crashes
//! and opens again. For every N the Nth operation fails, once, and then again from there on until the
//! run ends; until the program runs through without reaching N. All that a model holds a program to
//! holds throughout.

use std::num::NonZeroU64;

use tracklog_engine::disk::simulated::Lasting;

use crate::campaign::Totals;
use crate::program::run_fixed_program;

/// Sweeps over every `stride`th operation from the `first` on, counted from 1; `told` hears of what
/// was broken, and where.
pub fn sweep(first: u64, stride: NonZeroU64, told: &dyn Fn(u64, Lasting, &str)) -> Totals {
    let mut totals = Totals::default();
    for lasting in [Lasting::Once, Lasting::Always] {
        let mut nth = first.max(1);
        loop {
            let (outcome, operations) = run_fixed_program(nth, lasting);
            totals.add(nth, &outcome);
            match &outcome.violation {
                Some(violation) => told(nth, lasting, violation),
                None if operations < nth => break,
                None => {}
            }
            totals.faults += 1;
            nth += stride.get();
        }
    }
    totals
}
