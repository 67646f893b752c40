//! When to ask somebody who does not answer: a circuit breaker. Sans-io: times come in as
//! nanoseconds of a clock that never goes back.
//!
//! - Closed: everybody may ask. After [`FAILURES_MAX`] failures in a row it opens.
//! - Open: nobody may ask, for a pause that doubles from [`PAUSE_MIN`] to [`PAUSE_MAX`] each time.
//! - Then one may ask, as a probe. Its success closes the breaker, its failure opens it again.
//!
//! What those learn who had asked before it opened changes nothing any more.

use std::time::Duration;

/// So many failures in a row open it.
pub(crate) const FAILURES_MAX: u32 = 5;
/// How long it is open at first.
pub(crate) const PAUSE_MIN: Duration = Duration::from_secs(1);
/// How long it is open at most.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A circuit breaker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Breaker {
    state: State,
    /// Rises whenever the state is another: answers to questions of an earlier one do not count.
    round: u64,
    opened: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: u64, pause: Duration },
    Probing { pause: Duration },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

/// That somebody may ask. How it ended is told to [`Breaker::ended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Admitted {
    round: u64,
}

impl Breaker {
    /// Whether one may ask at `now`.
    pub(crate) fn admit(&mut self, now: u64) -> Option<Admitted> {
        match self.state {
            State::Closed { .. } => {}
            State::Open { until, pause } if now >= until => self.enter(State::Probing { pause }),
            State::Open { .. } | State::Probing { .. } => return None,
        }
        Some(Admitted { round: self.round })
    }

    /// One who was admitted got an answer, or none.
    pub(crate) fn ended(&mut self, admitted: Admitted, answered: bool, now: u64) {
        if admitted.round != self.round {
            return;
        }
        match (self.state, answered) {
            (State::Closed { .. }, true) => self.state = State::default(),
            (State::Probing { .. }, true) => self.enter(State::default()),
            (State::Closed { failures }, false) if failures + 1 < FAILURES_MAX => {
                self.state = State::Closed { failures: failures + 1 };
            }
            (State::Closed { .. }, false) => self.open(PAUSE_MIN, now),
            (State::Probing { pause }, false) => self.open((pause * 2).min(PAUSE_MAX), now),
            (State::Open { .. }, _) => unreachable!("nobody is admitted in a round that is open"),
        }
    }

    /// Whether it keeps anybody from asking.
    #[must_use]
    pub(crate) const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// How often it opened.
    #[must_use]
    pub(crate) const fn opened(&self) -> u64 {
        self.opened
    }

    fn open(&mut self, pause: Duration, now: u64) {
        let nanos = u64::try_from(pause.as_nanos()).expect("half a minute fits");
        self.opened += 1;
        self.enter(State::Open { until: now.saturating_add(nanos), pause });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.round += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn fail(breaker: &mut Breaker, now: u64) {
        let admitted = breaker.admit(now).expect("it is closed, or probes");
        breaker.ended(admitted, false, now);
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut breaker = Breaker::default();
        (1..FAILURES_MAX).for_each(|_| fail(&mut breaker, 0));
        let admitted = breaker.admit(0).unwrap();
        breaker.ended(admitted, true, 0);
        (1..FAILURES_MAX).for_each(|_| fail(&mut breaker, 0));
        assert!(!breaker.is_open());
        fail(&mut breaker, 0);
        assert!(breaker.is_open());
        assert_eq!(breaker.admit(SECOND - 1), None);
    }

    #[test]
    fn one_probes_and_pauses_double_until_it_succeeds() {
        let mut breaker = Breaker::default();
        (0..FAILURES_MAX).for_each(|_| fail(&mut breaker, 0));
        let mut now = 0;
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            now += pause * SECOND;
            assert_eq!(breaker.admit(now - 1), None);
            let probe = breaker.admit(now).unwrap();
            assert_eq!(breaker.admit(now), None, "one at a time");
            breaker.ended(probe, false, now);
        }
        now += 30 * SECOND;
        let probe = breaker.admit(now).unwrap();
        breaker.ended(probe, true, now);
        assert!(!breaker.is_open());
        (0..FAILURES_MAX).for_each(|_| fail(&mut breaker, now));
        assert!(breaker.admit(now + SECOND).is_some(), "pauses begin anew");
    }

    proptest! {
        /// Whoever asks and ends in whatever order: never two probes at once, never anybody within a
        /// pause, and once all have ended and time has passed somebody may ask.
        #[test]
        fn it_holds_its_pauses_and_never_gets_stuck(
            steps in prop::collection::vec((0u8..4, 0u64..3 * SECOND, any::<prop::sample::Index>()), 1..200),
        ) {
            let mut breaker = Breaker::default();
            let (mut now, mut out): (u64, Vec<(Admitted, bool)>) = (0, Vec::new());
            let mut opened_at = None;
            for (what, passed, which) in steps {
                now += passed;
                let was_open = breaker.is_open();
                if what < 2 || out.is_empty() {
                    let admitted = breaker.admit(now);
                    if let (Some(at), Some(_)) = (opened_at, admitted) {
                        prop_assert!(!was_open || now - at >= SECOND, "within the pause");
                    }
                    if let Some(admitted) = admitted {
                        if was_open {
                            prop_assert!(out.iter().all(|(_, is_probe)| !is_probe), "two probes");
                        }
                        out.push((admitted, was_open));
                    }
                } else {
                    let (admitted, _) = out.swap_remove(which.index(out.len()));
                    let opened = breaker.opened();
                    breaker.ended(admitted, what == 2, now);
                    if breaker.opened() > opened {
                        opened_at = Some(now);
                    }
                }
            }
            for (admitted, _) in out {
                breaker.ended(admitted, false, now);
            }
            let later = now + u64::try_from(PAUSE_MAX.as_nanos()).unwrap();
            prop_assert!(breaker.admit(later).is_some());
        }
    }
}
