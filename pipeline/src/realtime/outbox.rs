//! What a webhook is still to be told of a threshold: a short queue with patience. Sans-io.
//!
//! Notices go one at a time, in their order, until each was taken, or refused for good, or is too
//! old. Where more than a few wait, the oldest pair behind the first goes: what was crossed and over
//! long ago is news to nobody, and what is left still takes turns.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracklog_protocol::TimeMicros;

use super::threshold::Change;
use crate::destination::jittered;
use crate::outbound::PostError;

/// So many may wait.
const WAITING_MAX: usize = 16;
/// The first pause after a failure; each one after is twice as long.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Who asks to be left alone longer is asked again all the same.
const ASKED_PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// What nobody took until then, nobody takes.
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// Something that a webhook is to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Notice {
    /// The same at each try.
    pub(super) id: String,
    pub(super) change: Change,
    /// The figure that made it so, and the window that had it.
    pub(super) value: f64,
    pub(super) begin: String,
    pub(super) created_micros: i64,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It was taken.
    Told,
    /// It is sent again after a pause.
    Later,
    /// It is sent no more.
    GivenUp,
}

/// The queue of one webhook.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Notice>,
    is_calling: bool,
    attempts: u32,
    not_before: TimeMicros,
}

impl Outbox {
    pub(super) fn new(waiting: Vec<Notice>) -> Self {
        Self { waiting: waiting.into(), ..Self::default() }
    }

    pub(super) const fn waiting(&self) -> &VecDeque<Notice> {
        &self.waiting
    }

    /// Takes a notice in, and says how many went for it.
    pub(super) fn push(&mut self, notice: Notice) -> usize {
        self.waiting.push_back(notice);
        if self.waiting.len() <= WAITING_MAX {
            return 0;
        }
        self.waiting.drain(1..3).count()
    }

    /// How long until there is something to send; `None` when nothing waits, or is on its way.
    pub(super) fn due_in(&self, now: TimeMicros) -> Option<Duration> {
        let is_idle = self.waiting.is_empty() || self.is_calling;
        let micros = self.not_before.0.saturating_sub(now.0);
        (!is_idle).then(|| Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
    }

    /// What is to be sent now. Whoever takes it says what came of it.
    pub(super) fn begin(&mut self, now: TimeMicros) -> Option<Notice> {
        if self.due_in(now)? > Duration::ZERO {
            return None;
        }
        self.is_calling = true;
        self.waiting.front().cloned()
    }

    /// The call ended so.
    pub(super) fn end(&mut self, failed: Option<&PostError>, now: TimeMicros) -> Settled {
        self.is_calling = false;
        let first = self.waiting.front().expect("what is on its way waits until it has arrived");
        let age = now.0.saturating_sub(first.created_micros);
        let is_old = u128::try_from(age).is_ok_and(|age| age > GIVE_UP_AFTER.as_micros());
        let settled = match failed {
            None => Settled::Told,
            Some(error) if error.retry_helps() && !is_old => {
                self.not_before = now.plus(self.pause(first, error));
                self.attempts += 1;
                return Settled::Later;
            }
            Some(_) => Settled::GivenUp,
        };
        self.waiting.pop_front();
        (self.attempts, self.not_before) = (0, now);
        settled
    }

    fn pause(&self, notice: &Notice, error: &PostError) -> Duration {
        let factor = 1_u32.checked_shl(self.attempts.min(20)).expect("20 are fewer than 32");
        let pause = PAUSE_MIN.saturating_mul(factor).min(PAUSE_MAX);
        let seed = xxhash_rust::xxh3::xxh3_64(notice.id.as_bytes());
        let asked = error.retry_after().unwrap_or_default().min(ASKED_PAUSE_MAX);
        jittered(pause, seed, u64::from(self.attempts)).max(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn notice(number: usize) -> Notice {
        let change = if number.is_multiple_of(2) { Change::Crossed } else { Change::Over };
        let (id, begin) = (number.to_string(), String::new());
        Notice { id, change, value: 1.0, begin, created_micros: 0 }
    }

    fn busy(retry_after: Option<u64>) -> PostError {
        PostError::status(503, retry_after.map(Duration::from_secs), b"")
    }

    #[test]
    fn notices_go_one_at_a_time_and_in_order() {
        let (mut outbox, now) = (Outbox::default(), TimeMicros(SECOND));
        assert_eq!(outbox.due_in(now), None);
        (0..2).for_each(|number| assert_eq!(outbox.push(notice(number)), 0));
        assert_eq!(outbox.begin(now), Some(notice(0)));
        assert_eq!((outbox.begin(now), outbox.due_in(now)), (None, None), "one is on its way");
        assert_eq!(outbox.end(None, now), Settled::Told);
        assert_eq!(outbox.begin(now), Some(notice(1)));
        assert_eq!(outbox.end(None, now), Settled::Told);
        assert_eq!(outbox.begin(now), None);
    }

    #[test]
    fn pauses_grow_and_the_other_side_may_ask_for_more() {
        let (mut outbox, mut now) = (Outbox::default(), TimeMicros(0));
        outbox.push(notice(0));
        let mut last = Duration::ZERO;
        for attempt in 0..12 {
            assert_eq!(outbox.begin(now), Some(notice(0)));
            assert_eq!(outbox.end(Some(&busy(None)), now), Settled::Later);
            let pause = outbox.due_in(now).unwrap();
            let whole = PAUSE_MIN * (1 << attempt);
            assert!(pause >= whole.min(PAUSE_MAX) / 2 && pause <= PAUSE_MAX, "{pause:?}");
            assert!(pause * 2 >= last);
            assert_eq!(outbox.begin(now), None, "not before");
            (now, last) = (now.plus(pause), pause);
        }
        outbox.begin(now).unwrap();
        outbox.end(Some(&busy(Some(900))), now);
        assert_eq!(outbox.due_in(now), Some(Duration::from_secs(900)));
        now = now.plus(Duration::from_secs(900));
        outbox.begin(now).unwrap();
        outbox.end(Some(&busy(Some(999_999))), now);
        assert_eq!(outbox.due_in(now), Some(ASKED_PAUSE_MAX));
        now = now.plus(ASKED_PAUSE_MAX);
        outbox.begin(now).unwrap();
        assert_eq!(outbox.end(None, now), Settled::Told);
        outbox.push(notice(1));
        assert_eq!(outbox.due_in(now), Some(Duration::ZERO), "what is past is past");
    }

    #[test]
    fn what_is_refused_or_too_old_is_given_up() {
        let mut outbox = Outbox::new(vec![notice(0), notice(1)]);
        let now = TimeMicros(SECOND);
        outbox.begin(now).unwrap();
        assert_eq!(outbox.end(Some(&PostError::status(404, None, b"")), now), Settled::GivenUp);
        let late = TimeMicros(SECOND).plus(GIVE_UP_AFTER);
        outbox.begin(late).unwrap();
        assert_eq!(outbox.end(Some(&busy(None)), late), Settled::GivenUp);
        assert_eq!(outbox.due_in(late), None);
    }

    #[test]
    fn of_too_many_the_oldest_pair_goes_and_the_rest_takes_turns() {
        let (mut outbox, now) = (Outbox::default(), TimeMicros(0));
        outbox.push(notice(0));
        assert_eq!(outbox.begin(now), Some(notice(0)));
        let gone: usize = (1..100).map(|number| outbox.push(notice(number))).sum();
        assert_eq!(outbox.waiting().len() + gone, 100);
        assert!(outbox.waiting().len() <= WAITING_MAX);
        assert_eq!(outbox.waiting().front(), Some(&notice(0)), "it is on its way");
        assert_eq!(outbox.waiting().back(), Some(&notice(99)));
        let changes: Vec<_> = outbox.waiting().iter().map(|notice| notice.change).collect();
        assert!(changes.windows(2).all(|pair| pair[0] != pair[1]), "{changes:?}");
    }
}
