//! The suite that every implementation of [`Log`] passes.
//!
//! A [`Case`] is one sentence that must hold; [`cases`] lists them all, and [`random_program`]
//! compares an implementation step by step with [`MemoryLog`](crate::memory::MemoryLog). They
//! test what the trait's documentation promises, and nothing that it leaves open: where batches
//! are cut, how an append is measured, which of two reasons to refuse is named.
//!
//! An implementation's tests bring a [`Harness`] and call [`run_all`], or run single cases by
//! name. The suite needs no async runtime: it polls futures on the calling thread and parks it
//! until they wake it, for at most a minute. It is a part of the library, behind the
//! feature `conformance`, so that other crates' tests can call it.

mod appends;
mod catalog;
mod conditions;
mod dedupe;
mod erases;
mod intake;
mod meta;
mod producers;
mod program;
mod reads;
mod restarts;
mod rig;
mod task;
mod times;
mod trims;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use program::random_program;
use rig::Rig;
pub use task::block_on;

use crate::Log;
use crate::dedupe::{Dedupe, WINDOW};

/// An implementation under test.
pub trait Harness {
    /// The log: when first asked, empty and opened by nobody. Its intake has a budget of 32 MiB or
    /// more, and it deduplicates [`deduplicated`].
    fn log(&self) -> Arc<dyn Log>;

    /// Closes the log and opens it again on what it stored. Nobody else holds it any more. An
    /// implementation that stores nothing keeps what it has.
    fn reopen(&mut self);
}

/// One promise and how it is tried.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What holds, in words.
    pub name: &'static str,
    run: fn(&mut Rig<'_>),
}

impl Case {
    /// Tries it on a fresh log.
    ///
    /// # Panics
    /// When the promise is not kept.
    pub fn run(&self, harness: &mut dyn Harness) {
        (self.run)(&mut Rig::new(harness));
    }
}

/// The topics in which the log under test stores each event once; some cases make them.
#[must_use]
pub fn deduplicated() -> Vec<Dedupe> {
    let topic = |topic| Dedupe { topic: rig::name(topic), window: WINDOW };
    ["once", "once-more"].map(topic).to_vec()
}

/// All cases.
#[must_use]
pub fn cases() -> Vec<Case> {
    let rooms = [
        appends::CASES,
        conditions::CASES,
        producers::CASES,
        dedupe::CASES,
        reads::CASES,
        times::CASES,
        trims::CASES,
        erases::CASES,
        catalog::CASES,
        intake::CASES,
        restarts::CASES,
        meta::CASES,
    ];
    rooms.concat()
}

/// Runs every case, each on a log of its own, and a few random programs.
///
/// # Panics
/// When any of them failed; the message names all that did.
pub fn run_all(make: &mut dyn FnMut() -> Box<dyn Harness>) {
    let mut failed = Vec::new();
    for case in cases() {
        let mut harness = make();
        if catch_unwind(AssertUnwindSafe(|| case.run(&mut *harness))).is_err() {
            failed.push(case.name.to_owned());
        }
    }
    for seed in 1..=8 {
        let mut harness = make();
        if catch_unwind(AssertUnwindSafe(|| random_program(&mut *harness, seed, 200))).is_err() {
            failed.push(format!("random program of seed {seed}"));
        }
    }
    assert!(failed.is_empty(), "the log does not conform: {}", failed.join("; "));
}

/// Makes functions, whose names say what holds, the cases of a room.
macro_rules! list_cases {
    ($($run:ident),* $(,)?) => {
        pub(super) const CASES: &[$crate::conformance::Case] =
            &[$($crate::conformance::Case { name: stringify!($run), run: $run }),*];
    };
}
use list_cases;
