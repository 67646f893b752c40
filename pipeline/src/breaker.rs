//! When to ask somebody who does not answer: a circuit breaker. Sans-io: times come in, as spans
//! since whatever the clock of who asks begins with.
//!
//! - Closed: everybody may ask. After [`BreakerOptions::failures_max`] failures in a row it opens.
//! - Open: nobody may ask, for a pause that doubles from the shortest to the longest each time.
//! - Then one may ask, as a probe. Its success closes the breaker, its failure opens it again; one
//!   that goes away leaves it to the next.
//!
//! What those learn who had asked before it opened changes nothing any more. So whoever has to wait
//! for a place to ask from asks the breaker once he has it.

use std::time::Duration;

/// When it opens, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BreakerOptions {
    /// So many failures in a row open it.
    pub(crate) failures_max: u32,
    /// How long it is open at first.
    pub(crate) pause_min: Duration,
    /// How long it is open at most.
    pub(crate) pause_max: Duration,
}

/// A circuit breaker.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    options: BreakerOptions,
    state: State,
    /// Rises whenever the state is another: answers to questions of an earlier one do not count.
    round: u64,
    opened: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration, pause: Duration },
    Probing { pause: Duration },
}

/// That somebody may ask. How it ended is told to [`Breaker::answered`], [`Breaker::failed`] or
/// [`Breaker::gave_up`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) struct Admitted {
    round: u64,
}

/// Nobody may ask now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// For so long.
    For(Duration),
    /// Until who asks as a probe knows more.
    Probing,
}

impl Breaker {
    /// One that is closed.
    pub(crate) const fn new(options: BreakerOptions) -> Self {
        Self { options, state: State::Closed { failures: 0 }, round: 0, opened: 0 }
    }

    /// Whether one may ask at `now`.
    pub(crate) fn admit(&mut self, now: Duration) -> Result<Admitted, Denied> {
        match self.state {
            State::Closed { .. } => {}
            State::Open { until, .. } if now < until => return Err(Denied::For(until - now)),
            State::Open { pause, .. } => self.enter(State::Probing { pause }),
            State::Probing { .. } => return Err(Denied::Probing),
        }
        Ok(Admitted { round: self.round })
    }

    /// One who was admitted got an answer. False where that is no news any more.
    pub(crate) fn answered(&mut self, admitted: Admitted) -> bool {
        if admitted.round != self.round {
            return false;
        }
        match self.state {
            State::Closed { .. } => self.state = State::Closed { failures: 0 },
            _ => self.enter(State::Closed { failures: 0 }),
        }
        true
    }

    /// One who was admitted got none. Where that opens it, it is open for what `made_of` makes of
    /// the pause that is due, which is given back.
    pub(crate) fn failed(
        &mut self,
        admitted: Admitted,
        now: Duration,
        made_of: impl FnOnce(Duration) -> Duration,
    ) -> Option<Duration> {
        if admitted.round != self.round {
            return None;
        }
        let pause = match self.state {
            State::Closed { failures } if failures + 1 < self.options.failures_max => {
                self.state = State::Closed { failures: failures + 1 };
                return None;
            }
            State::Closed { .. } => self.options.pause_min,
            State::Probing { pause } => pause.saturating_mul(2).min(self.options.pause_max),
            State::Open { .. } => unreachable!("nobody is admitted in a round that is open"),
        };
        let lasts = made_of(pause);
        self.opened += 1;
        self.enter(State::Open { until: now.saturating_add(lasts), pause });
        Some(lasts)
    }

    /// One who was admitted went away before he knew.
    pub(crate) fn gave_up(&mut self, admitted: Admitted) {
        if let State::Probing { pause } = self.state
            && admitted.round == self.round
        {
            self.enter(State::Open { until: Duration::ZERO, pause });
        }
    }

    /// Whether it keeps anybody from asking.
    pub(crate) const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// How often it opened.
    pub(crate) const fn opened(&self) -> u64 {
        self.opened
    }

    const fn enter(&mut self, state: State) {
        self.state = state;
        self.round += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPTIONS: BreakerOptions = BreakerOptions {
        failures_max: 5,
        pause_min: Duration::from_secs(1),
        pause_max: Duration::from_secs(30),
    };
    const START: Duration = Duration::from_secs(1_000);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn fail(breaker: &mut Breaker, now: Duration) -> Option<Duration> {
        let admitted = breaker.admit(now).expect("it is closed, or probes");
        breaker.failed(admitted, now, |pause| pause)
    }

    fn opened_at(now: Duration) -> Breaker {
        let mut breaker = Breaker::new(OPTIONS);
        (1..OPTIONS.failures_max).for_each(|_| assert_eq!(fail(&mut breaker, now), None));
        assert_eq!(fail(&mut breaker, now), Some(seconds(1)));
        breaker
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut breaker = Breaker::new(OPTIONS);
        (1..OPTIONS.failures_max).for_each(|_| _ = fail(&mut breaker, START));
        let admitted = breaker.admit(START).unwrap();
        assert!(breaker.answered(admitted));
        (1..OPTIONS.failures_max).for_each(|_| _ = fail(&mut breaker, START));
        assert!(!breaker.is_open());
        fail(&mut breaker, START);
        assert!(breaker.is_open());
        let millis = Duration::from_millis(1);
        assert_eq!(breaker.admit(START + seconds(1) - millis), Err(Denied::For(millis)));
    }

    #[test]
    fn one_probes_and_pauses_double_until_it_succeeds() {
        let (mut breaker, mut now) = (opened_at(START), START);
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            now += seconds(pause);
            assert_eq!(breaker.admit(now - seconds(1)), Err(Denied::For(seconds(1))));
            let probe = breaker.admit(now).unwrap();
            assert_eq!(breaker.admit(now), Err(Denied::Probing), "one at a time");
            assert!(breaker.failed(probe, now, |pause| pause).is_some());
        }
        now += seconds(30);
        let probe = breaker.admit(now).unwrap();
        assert!(breaker.answered(probe));
        assert!(!breaker.is_open());
        (0..OPTIONS.failures_max).for_each(|_| _ = fail(&mut breaker, now));
        assert!(breaker.admit(now + seconds(1)).is_ok(), "pauses begin anew");
    }

    #[test]
    fn what_those_learn_who_had_asked_before_it_opened_changes_nothing() {
        let mut breaker = Breaker::new(OPTIONS);
        let late: Vec<_> = (0..3).map(|_| breaker.admit(START).unwrap()).collect();
        (0..OPTIONS.failures_max).for_each(|_| _ = fail(&mut breaker, START));
        assert_eq!(breaker.failed(late[0], START, |pause| pause), None);
        assert!(!breaker.answered(late[1]));
        breaker.gave_up(late[2]);
        assert_eq!(breaker.admit(START), Err(Denied::For(seconds(1))));
        assert_eq!(breaker.opened(), 1);
    }

    #[test]
    fn a_probe_that_goes_away_leaves_it_to_the_next_and_the_pause_as_it_is() {
        let mut breaker = opened_at(START);
        let now = START + seconds(1);
        let gone = breaker.admit(now).unwrap();
        breaker.gave_up(gone);
        assert_eq!(fail(&mut breaker, now), Some(seconds(2)));
        assert_eq!(breaker.failed(gone, now, |pause| pause), None);
    }

    proptest! {
        /// Whoever asks and ends in whatever order: never two probes at once, never anybody within a
        /// pause, and once all have ended and time has passed somebody may ask.
        #[test]
        fn it_holds_its_pauses_and_never_gets_stuck(
            steps in prop::collection::vec((0u8..5, 0u64..3_000, any::<prop::sample::Index>()), 1..200),
        ) {
            let mut breaker = Breaker::new(OPTIONS);
            let (mut now, mut out): (Duration, Vec<(Admitted, bool)>) = (START, Vec::new());
            let mut opened_at = None;
            for (what, passed, which) in steps {
                now += Duration::from_millis(passed);
                let was_open = breaker.is_open();
                if what < 2 || out.is_empty() {
                    let admitted = breaker.admit(now).ok();
                    if let (Some(at), Some(_)) = (opened_at, admitted) {
                        prop_assert!(!was_open || now - at >= OPTIONS.pause_min, "within the pause");
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
                    match what {
                        2 => _ = breaker.answered(admitted),
                        3 => _ = breaker.failed(admitted, now, |pause| pause),
                        _ => breaker.gave_up(admitted),
                    }
                    if breaker.opened() > opened {
                        opened_at = Some(now);
                    }
                }
            }
            for (admitted, _) in out {
                breaker.failed(admitted, now, |pause| pause);
            }
            prop_assert!(breaker.admit(now + OPTIONS.pause_max).is_ok());
        }
    }
}
