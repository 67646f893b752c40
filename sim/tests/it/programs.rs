//! Seeds that run here; `.ci/run` runs thousands more, built to be fast.

use std::num::NonZeroU64;
use std::thread;

use tracklog_sim::{Campaign, Did, Resends, run_program, run_resends, sweep};

#[test]
fn a_seed_does_the_same_again() {
    for seed in 0..24 {
        let again = thread::spawn(move || run_program(seed, false));
        let (one, two) = (run_program(seed, false), again.join().expect("panics are caught"));
        assert_eq!(one.violation, None, "seed {seed}");
        assert_eq!((one.trace, one.simulated), (two.trace, two.simulated), "seed {seed}");
        assert_eq!((one.crashes, one.acked), (two.crashes, two.acked), "seed {seed}");
    }
}

#[test]
fn random_programs_break_no_promise_and_do_everything_that_they_are_to_prove() {
    let campaign = Campaign { seed: 1_000_000, programs: 200, threads: 2 };
    let totals = campaign.run(&|seed, outcome, _| {
        assert_eq!(outcome.violation, None, "replay {seed} repeats this");
    });
    assert_eq!((totals.programs, totals.violations.len()), (200, 0));
    for (kind, times) in totals.did.kinds() {
        assert!(times >= 10, "{kind} was done {times} times: {totals}");
        assert!(totals.to_json().contains(&format!("\"{kind}\":{times}")), "{kind}");
    }
    let times = |kind| totals.did.of(kind);
    assert_eq!(times(Did::Crash) + times(Did::CrashInRecovery), totals.crashes);
    assert_eq!(times(Did::Append), totals.acked);
}

/// Every single one of them: the command `sweep`.
#[test]
fn operations_all_over_a_program_may_fail_or_find_no_room_once_or_from_there_on() {
    let stride = NonZeroU64::new(97).expect("it is not 0");
    let totals = sweep(1, stride, &|failed, violation| {
        panic!("{failed}: {violation}");
    });
    assert!(totals.programs > 20, "{totals}");
}

#[test]
fn events_sent_again_and_again_are_stored_once() {
    let mut all = Resends::default();
    for seed in 0..200 {
        all += run_resends(seed);
    }
    assert!(all.merges > 10 && all.rebuilt > 30, "{all:?}");
    assert!(all.settled > 4_000, "{all:?}");
    assert!(all.stored > 4_000 && all.known > 4_000, "{all:?}");
    assert!(all.reused > 300 && all.collisions > 500 && all.crashes >= 1_000, "{all:?}");
}
