//! When a destination that fails is asked again.
//!
//! All partitions of a destination share one [`Endpoint`]. While it is well they deliver beside
//! each other. After [`Patience::failures_max`] failures in a row its circuit is open: nobody calls
//! until a pause is over, and then one alone tries; it closes the circuit, or the pause doubles.
//! What those learn who were calling when it opened changes nothing: [`breaker`](crate::breaker).
//! Failures before that wait for themselves, longer each time.
//!
//! Sans-io: time comes in, and jitter is a function of who waits and how often he has.

use std::time::Duration;

use parking_lot::Mutex;
use tracklog_protocol::TimeMicros;

use crate::breaker::{Admitted, Breaker, BreakerOptions, Denied};

/// The circuit's first pause is so many times a caller's first.
const CIRCUIT_PAUSE_MIN: u32 = 4;

/// How failures are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// So many in a row open the circuit.
    pub failures_max: u32,
    /// The first pause.
    pub pause_min: Duration,
    /// Pauses grow no longer.
    pub pause_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            failures_max: 5,
            pause_min: Duration::from_millis(250),
            pause_max: Duration::from_secs(60),
        }
    }
}

impl Patience {
    const fn breaker(self) -> Breaker {
        let pause_min = self.pause_min.saturating_mul(CIRCUIT_PAUSE_MIN);
        let Self { failures_max, pause_max, .. } = self;
        Breaker::new(BreakerOptions { failures_max, pause_min, pause_max })
    }
}

/// A destination as its callers see it.
#[derive(Debug)]
pub struct Endpoint {
    patience: Patience,
    health: Mutex<Health>,
}

#[derive(Debug)]
struct Health {
    breaker: Breaker,
    last_error: Option<String>,
    failing_since: Option<TimeMicros>,
}

/// How a destination fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointState {
    /// It took what it was given last.
    Well,
    /// It did not.
    Failing {
        /// Since when.
        since: TimeMicros,
        /// Whether it is left alone for now.
        is_open: bool,
        /// What it said last.
        why: String,
    },
}

/// What a caller is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Call at once, and tell what came of it.
    Call(Admitted),
    /// Wait so long, and ask again.
    Wait(Duration),
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::new(Patience::default())
    }
}

impl Endpoint {
    /// One that is taken to be well.
    #[must_use]
    pub const fn new(patience: Patience) -> Self {
        let breaker = patience.breaker();
        let health = Health { breaker, last_error: None, failing_since: None };
        Self { patience, health: Mutex::new(health) }
    }

    /// How it fares.
    #[must_use]
    pub fn state(&self) -> EndpointState {
        let health = self.health.lock();
        match (&health.last_error, health.failing_since) {
            (Some(why), Some(since)) => EndpointState::Failing {
                since,
                is_open: health.breaker.is_open(),
                why: why.clone(),
            },
            _ => EndpointState::Well,
        }
    }

    /// Whether `caller` may call `now`. Who is told to tells [`succeeded`](Self::succeeded),
    /// [`failed`](Self::failed) or, when he was dropped meanwhile, [`gave_up`](Self::gave_up).
    pub(super) fn ask(&self, caller: u64, now: TimeMicros) -> Ask {
        let breaker = &mut self.health.lock().breaker;
        match breaker.admit(since_epoch(now)) {
            Ok(admitted) => Ask::Call(admitted),
            Err(Denied::For(span)) => Ask::Wait(span),
            // Callers who wait for the probe come back one after another.
            Err(Denied::Probing) => {
                Ask::Wait(jittered(self.patience.pause_min, caller, breaker.opened()))
            }
        }
    }

    /// It took what it was given. True when it had failed before.
    pub(super) fn succeeded(&self, admitted: Admitted) -> bool {
        let mut health = self.health.lock();
        if !health.breaker.answered(admitted) {
            return false;
        }
        health.last_error = None;
        health.failing_since.take().is_some()
    }

    /// It failed. How long `caller` is to wait, who has tried the same `attempt` times.
    pub(super) fn failed(
        &self,
        admitted: Admitted,
        caller: u64,
        attempt: u32,
        why: &str,
        after: Option<Duration>,
        now: TimeMicros,
    ) -> Duration {
        let mut health = self.health.lock();
        health.last_error = Some(why.to_owned());
        health.failing_since.get_or_insert(now);
        let bounded = |pause: Duration, attempt: u64| {
            let pause = jittered(pause, caller, attempt);
            pause.max(after.unwrap_or_default()).min(self.patience.pause_max)
        };
        let opened = health.breaker.opened();
        let of_circuit = |pause| bounded(pause, opened);
        let of_circuit = health.breaker.failed(admitted, since_epoch(now), of_circuit);
        of_circuit.unwrap_or_else(|| bounded(self.grown(attempt), u64::from(attempt)))
    }

    /// A caller's pause after so many attempts.
    fn grown(&self, attempts: u32) -> Duration {
        let times = attempts.saturating_sub(1).min(20);
        let factor = 1_u32.checked_shl(times).expect("20 are fewer than 32");
        self.patience.pause_min.saturating_mul(factor).min(self.patience.pause_max)
    }

    /// A caller went away without an answer.
    pub(super) fn gave_up(&self, admitted: Admitted) {
        self.health.lock().breaker.gave_up(admitted);
    }
}

/// Between a half of `pause` and all of it, in whole microseconds: clocks here count no less.
pub(crate) fn jittered(pause: Duration, caller: u64, attempt: u64) -> Duration {
    let seed = [caller.to_le_bytes(), attempt.to_le_bytes()].concat();
    let share = xxhash_rust::xxh3::xxh3_64(&seed) % 1_024;
    let share = u32::try_from(share).expect("it is below 1,024");
    let jittered = pause / 2 + pause / 2 * share / 1_024;
    Duration::from_micros(u64::try_from(jittered.as_micros()).unwrap_or(u64::MAX))
}

/// Nothing before 1970.
fn since_epoch(now: TimeMicros) -> Duration {
    Duration::from_micros(u64::try_from(now.0).unwrap_or(0))
}

/// Nothing where `to` is past.
pub(super) fn between(from: TimeMicros, to: TimeMicros) -> Duration {
    Duration::from_micros(u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SECOND: i64 = 1_000_000;

    fn admitted(endpoint: &Endpoint, caller: u64, now: TimeMicros) -> Admitted {
        match endpoint.ask(caller, now) {
            Ask::Call(admitted) => admitted,
            Ask::Wait(span) => panic!("{caller} is to wait for {span:?}"),
        }
    }

    fn fail(endpoint: &Endpoint, caller: u64, attempt: u32, now: TimeMicros) -> Duration {
        let admitted = admitted(endpoint, caller, now);
        endpoint.failed(admitted, caller, attempt, "it answered 503", None, now)
    }

    #[test]
    fn pauses_grow_to_the_longest_and_success_ends_them() {
        let endpoint = Endpoint::new(Patience { failures_max: 100, ..Patience::default() });
        let mut before = Duration::ZERO;
        for attempt in 1..8 {
            let pause = fail(&endpoint, 7, attempt, TimeMicros(0));
            assert!(pause > before / 2, "{attempt}: {pause:?} after {before:?}");
            before = pause;
        }
        assert!(fail(&endpoint, 7, 60, TimeMicros(0)) <= Duration::from_secs(60));
        assert!(endpoint.succeeded(admitted(&endpoint, 7, TimeMicros(0))));
        assert_eq!(endpoint.state(), EndpointState::Well);
        assert!(fail(&endpoint, 7, 1, TimeMicros(0)) <= Duration::from_millis(250));
    }

    #[test]
    fn callers_who_fail_together_come_back_apart() {
        let endpoint = Endpoint::new(Patience { failures_max: 100, ..Patience::default() });
        let pauses: Vec<_> = (0..16).map(|it| fail(&endpoint, it, 3, TimeMicros(0))).collect();
        let distinct: BTreeSet<_> = pauses.iter().collect();
        assert!(distinct.len() > 12, "{pauses:?}");
        let (first, last) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*last - *first > Duration::from_millis(250), "of a second: {pauses:?}");
        let within = Duration::from_millis(500)..=Duration::from_secs(1);
        assert!(pauses.iter().all(|it| within.contains(it)), "{pauses:?}");
        assert_ne!(fail(&endpoint, 1, 9, TimeMicros(0)), fail(&endpoint, 1, 10, TimeMicros(0)));
    }

    #[test]
    fn one_alone_tries_an_open_circuit_and_what_he_finds_holds_for_all() {
        let endpoint = Endpoint::default();
        let (mut now, mut pause) = (TimeMicros(0), Duration::ZERO);
        let late = admitted(&endpoint, 9, now);
        for attempt in 1..=5 {
            pause = fail(&endpoint, 1, attempt, now);
        }
        assert!(pause <= Duration::from_secs(1));
        assert_eq!(endpoint.ask(1, now), Ask::Wait(pause));
        let of_late = endpoint.failed(late, 9, 1, "it answered 503", None, now);
        assert!(of_late <= Duration::from_millis(250));
        assert_eq!(endpoint.ask(1, now), Ask::Wait(pause), "who called before lengthens nothing");
        now = now.plus(pause);
        let gone = admitted(&endpoint, 1, now);
        assert!(matches!(endpoint.ask(2, now), Ask::Wait(_)), "another tries");
        endpoint.gave_up(gone);
        // Who was dropped does not hold the others up.
        let again = fail(&endpoint, 2, 1, now);
        assert!((pause..=Duration::from_secs(2)).contains(&again), "{again:?} after {pause:?}");
        now = now.plus(again);
        let probe = admitted(&endpoint, 1, now);
        assert!(endpoint.succeeded(probe));
        let both = [1, 2].map(|caller| endpoint.ask(caller, now));
        assert!(both.iter().all(|it| matches!(it, Ask::Call(_))), "{both:?}");
    }

    #[test]
    fn who_asks_to_be_left_alone_is_within_bounds() {
        let (endpoint, now) = (Endpoint::default(), TimeMicros(SECOND));
        let left_alone = |attempt, seconds| {
            let after = Some(Duration::from_secs(seconds));
            endpoint.failed(admitted(&endpoint, 1, now), 1, attempt, "429", after, now)
        };
        assert_eq!(left_alone(1, 7), Duration::from_secs(7));
        assert_eq!(left_alone(2, 86_400), Duration::from_secs(60));
        let state = EndpointState::Failing { since: now, is_open: false, why: "429".to_owned() };
        assert_eq!(endpoint.state(), state);
    }
}
