//! When a destination that fails is asked again.
//!
//! All partitions of a destination share one [`Endpoint`]. While it is well they deliver beside
//! each other. After [`Patience::failures_max`] failures in a row its circuit is open: nobody calls
//! until a pause is over, and then one alone tries; it closes the circuit, or the pause doubles.
//! Failures before that wait for themselves, longer each time.
//!
//! Sans-io: time comes in, and jitter is a function of who waits and how often he has.

use std::time::Duration;

use parking_lot::Mutex;
use tracklog_protocol::TimeMicros;

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

/// A destination as its callers see it.
#[derive(Debug, Default)]
pub struct Endpoint {
    patience: Patience,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    /// In a row.
    failures: u32,
    /// The circuit is open until then.
    open_until: Option<TimeMicros>,
    /// Somebody tries whether it is well again.
    is_probed: bool,
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
    /// Call, and tell what came of it.
    Call,
    /// Wait so long, and ask again.
    Wait(Duration),
}

impl Endpoint {
    /// One that is taken to be well.
    #[must_use]
    pub fn new(patience: Patience) -> Self {
        Self { patience, health: Mutex::default() }
    }

    /// How it fares.
    #[must_use]
    pub fn state(&self) -> EndpointState {
        let health = self.health.lock();
        match (&health.last_error, health.failing_since) {
            (Some(why), Some(since)) => EndpointState::Failing {
                since,
                is_open: health.open_until.is_some(),
                why: why.clone(),
            },
            _ => EndpointState::Well,
        }
    }

    /// Whether `caller` may call `now`. Who is told to tells [`succeeded`](Self::succeeded),
    /// [`failed`](Self::failed) or, when he was dropped meanwhile, [`gave_up`](Self::gave_up).
    pub(super) fn ask(&self, caller: u64, now: TimeMicros) -> Ask {
        let mut health = self.health.lock();
        let Some(until) = health.open_until else { return Ask::Call };
        if now < until {
            return Ask::Wait(between(now, until));
        }
        if health.is_probed {
            // Callers who wait for the probe come back one after another.
            return Ask::Wait(jittered(self.patience.pause_min, caller, health.failures));
        }
        health.is_probed = true;
        Ask::Call
    }

    /// It took what it was given. True when it had failed before.
    pub(super) fn succeeded(&self) -> bool {
        let mut health = self.health.lock();
        let had_failed = health.failing_since.is_some();
        *health = Health::default();
        had_failed
    }

    /// It failed. How long `caller` is to wait, who has tried the same `attempt` times.
    pub(super) fn failed(
        &self,
        caller: u64,
        attempt: u32,
        why: &str,
        after: Option<Duration>,
        now: TimeMicros,
    ) -> Duration {
        let mut health = self.health.lock();
        health.failures = health.failures.saturating_add(1);
        health.is_probed = false;
        health.last_error = Some(why.to_owned());
        health.failing_since.get_or_insert(now);
        let of_circuit = health.failures.saturating_sub(self.patience.failures_max);
        let grown = |times: u32| {
            let factor = 1_u32.checked_shl(times.min(20)).expect("20 are fewer than 32");
            self.patience.pause_min.saturating_mul(factor).min(self.patience.pause_max)
        };
        if health.failures >= self.patience.failures_max {
            let pause = jittered(grown(of_circuit + 2), caller, health.failures);
            let pause = pause.max(after.unwrap_or_default()).min(self.patience.pause_max);
            health.open_until = Some(now.plus(pause));
            return pause;
        }
        let pause = jittered(grown(attempt.saturating_sub(1)), caller, attempt);
        pause.max(after.unwrap_or_default()).min(self.patience.pause_max)
    }

    /// A caller went away without an answer.
    pub(super) fn gave_up(&self) {
        self.health.lock().is_probed = false;
    }
}

/// Between a half of `pause` and all of it.
pub(crate) fn jittered(pause: Duration, caller: u64, attempt: u32) -> Duration {
    let seed = [caller.to_le_bytes(), u64::from(attempt).to_le_bytes()].concat();
    let share = xxhash_rust::xxh3::xxh3_64(&seed) % 1_024;
    let share = u32::try_from(share).expect("it is below 1,024");
    pause / 2 + pause / 2 * share / 1_024
}

/// Nothing where `to` is past.
pub(super) fn between(from: TimeMicros, to: TimeMicros) -> Duration {
    Duration::from_micros(u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn fail(endpoint: &Endpoint, caller: u64, attempt: u32, now: TimeMicros) -> Duration {
        endpoint.failed(caller, attempt, "it answered 503", None, now)
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
        assert!(endpoint.succeeded());
        assert_eq!(endpoint.state(), EndpointState::Well);
        assert!(fail(&endpoint, 7, 1, TimeMicros(0)) <= Duration::from_millis(250));
    }

    #[test]
    fn one_alone_tries_an_open_circuit_and_what_he_finds_holds_for_all() {
        let endpoint = Endpoint::default();
        let (mut now, mut pause) = (TimeMicros(0), Duration::ZERO);
        for attempt in 1..=5 {
            pause = fail(&endpoint, 1, attempt, now);
        }
        assert!(matches!(endpoint.ask(1, now), Ask::Wait(_)));
        now = now.plus(pause);
        assert_eq!(endpoint.ask(1, now), Ask::Call);
        assert!(matches!(endpoint.ask(2, now), Ask::Wait(_)), "another tries");
        endpoint.gave_up();
        assert_eq!(endpoint.ask(2, now), Ask::Call, "who was dropped does not hold the others up");
        let again = fail(&endpoint, 2, 1, now);
        assert!(again > pause / 2);
        now = now.plus(again);
        assert_eq!(endpoint.ask(1, now), Ask::Call);
        assert!(endpoint.succeeded());
        assert_eq!((endpoint.ask(1, now), endpoint.ask(2, now)), (Ask::Call, Ask::Call));
    }

    #[test]
    fn who_asks_to_be_left_alone_is_within_bounds() {
        let endpoint = Endpoint::default();
        let after = |seconds| Some(Duration::from_secs(seconds));
        let pause = endpoint.failed(1, 1, "429", after(7), TimeMicros(SECOND));
        assert_eq!(pause, Duration::from_secs(7));
        let pause = endpoint.failed(1, 2, "429", after(86_400), TimeMicros(SECOND));
        assert_eq!(pause, Duration::from_secs(60));
        let state = EndpointState::Failing {
            since: TimeMicros(SECOND),
            is_open: false,
            why: "429".to_owned(),
        };
        assert_eq!(endpoint.state(), state);
    }
}
