//! Thresholds: when one is crossed, and when that is over. Sans-io.
//!
//! - It is crossed when windows on end, for as long as it says, are beyond its limit; it is over
//!   when as many are back at or within the other one, which may be farther.
//! - A window that is missing says nothing: neither does it begin anything, nor end it.
//! - One in which the node did not run from begin to end may lack events. It can say that there are
//!   too many, and not that there are too few.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracklog_protocol::TimeMicros;

use super::figures::{Figures, LiveWindow};
use super::span::WindowSpan;
use super::sum::SumPath;

/// What is looked at, and when somebody is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    /// Its own name.
    pub name: String,
    /// Whose figures: an event's name; all events where there is none.
    pub event: Option<String>,
    /// Which figure.
    pub of: Measure,
    /// In which windows.
    pub window: WindowSpan,
    /// What is too much, or too little.
    pub limit: Limit,
    /// How long it must be so, one way or the other. At least one window.
    pub hold: Duration,
}

/// A figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// How many events.
    Count,
    /// How many a second.
    Rate,
    /// The sum of their numbers.
    Sum(SumPath),
}

/// What is too much, or too little.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// More than `limit` is too much, until it is `back` or less.
    Above {
        /// The limit.
        limit: f64,
        /// At most the limit.
        back: f64,
    },
    /// Less than `limit` is too little, until it is `back` or more.
    Below {
        /// The limit.
        limit: f64,
        /// At least the limit.
        back: f64,
    },
}

/// What became of a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is crossed.
    Crossed,
    /// It was crossed, and is not any more.
    Over,
}

/// How a threshold stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    pub(super) is_crossed: bool,
    /// The end of the window that made it so: what lies before was looked at.
    pub(super) since_micros: i64,
    /// Windows on end that would have it otherwise.
    #[serde(skip)]
    streak: u32,
}

/// One window, as far as a threshold cares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) value: f64,
    pub(super) end: TimeMicros,
    /// Whether the node ran from its begin to its end.
    pub(super) is_whole: bool,
}

impl Threshold {
    /// Its figure in `window`.
    pub(super) fn value(&self, window: &LiveWindow) -> f64 {
        let of_name = |name: &String| window.names.iter().find(|it| it.name.as_ref() == Some(name));
        let none = Figures::default();
        let figures = self.event.as_ref().map_or(Some(&window.total), of_name).unwrap_or(&none);
        match &self.of {
            Measure::Count => figures.count as f64,
            Measure::Rate => figures.rate,
            Measure::Sum(path) => figures.sums.get(path.as_str()).map_or(0.0, |sum| sum.sum),
        }
    }

    /// How many windows on end it takes.
    fn windows(&self) -> u32 {
        let each = Duration::from_secs(self.window.seconds().unsigned_abs());
        u32::try_from(self.hold.as_nanos().div_ceil(each.as_nanos())).unwrap_or(u32::MAX).max(1)
    }

    /// Whether the figure would have it otherwise than it stands.
    fn is_otherwise(&self, is_crossed: bool, look: Look) -> bool {
        let Look { value, is_whole, .. } = look;
        match (self.limit, is_crossed) {
            (Limit::Above { limit, .. }, false) => value > limit,
            (Limit::Above { back, .. }, true) => value <= back && is_whole,
            (Limit::Below { limit, .. }, false) => value < limit && is_whole,
            (Limit::Below { back, .. }, true) => value >= back,
        }
    }
}

impl Standing {
    /// Not crossed, and looks at nothing that was over by then.
    pub(super) const fn beginning_at(time: TimeMicros) -> Self {
        Self { is_crossed: false, since_micros: time.0, streak: 0 }
    }

    /// Looks at the next window, and says whether that changes how the threshold stands.
    pub(super) fn look(&mut self, threshold: &Threshold, look: Look) -> Option<Change> {
        if look.end.0 <= self.since_micros {
            return None;
        }
        if !threshold.is_otherwise(self.is_crossed, look) {
            self.streak = 0;
            return None;
        }
        self.streak += 1;
        if self.streak < threshold.windows() {
            return None;
        }
        let is_crossed = !self.is_crossed;
        *self = Self { is_crossed, since_micros: look.end.0, streak: 0 };
        Some(if is_crossed { Change::Crossed } else { Change::Over })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn threshold(limit: Limit, seconds: u64) -> Threshold {
        Threshold {
            name: "t".to_owned(),
            event: None,
            of: Measure::Count,
            window: WindowSpan::Second,
            limit,
            hold: Duration::from_secs(seconds),
        }
    }

    /// What changes at which of these windows; `None` is a window that is missing.
    fn changes(threshold: &Threshold, values: &[Option<f64>]) -> Vec<(usize, Change)> {
        let mut standing = Standing::default();
        let mut changes = Vec::new();
        for (at, value) in values.iter().enumerate() {
            let end = TimeMicros((i64::try_from(at).unwrap() + 1) * 1_000_000);
            let look = |value| Look { value, end, is_whole: true };
            let change = value.and_then(|value| standing.look(threshold, look(value)));
            changes.extend(change.map(|change| (at, change)));
        }
        changes
    }

    fn some(values: &[f64]) -> Vec<Option<f64>> {
        values.iter().copied().map(Some).collect()
    }

    #[test]
    fn it_is_crossed_once_and_over_once() {
        let above = threshold(Limit::Above { limit: 10.0, back: 10.0 }, 0);
        let values = some(&[10.0, 11.0, 12.0, 11.0, 10.0, 3.0, 11.0]);
        let wanted = [(1, Change::Crossed), (4, Change::Over), (6, Change::Crossed)];
        assert_eq!(changes(&above, &values), wanted);
        let below = threshold(Limit::Below { limit: 1.0, back: 5.0 }, 0);
        let values = some(&[1.0, 0.0, 1.0, 4.9, 0.0, 5.0, 1.0]);
        assert_eq!(changes(&below, &values), [(1, Change::Crossed), (5, Change::Over)]);
    }

    #[test]
    fn between_limit_and_back_nothing_changes() {
        let above = threshold(Limit::Above { limit: 10.0, back: 5.0 }, 0);
        let values = some(&[11.0, 6.0, 11.0, 9.0, 5.0, 9.0, 11.0]);
        let wanted = [(0, Change::Crossed), (4, Change::Over), (6, Change::Crossed)];
        assert_eq!(changes(&above, &values), wanted);
    }

    #[test]
    fn it_must_hold_for_as_long_as_it_says() {
        let above = threshold(Limit::Above { limit: 10.0, back: 10.0 }, 3);
        let values = some(&[11.0, 11.0, 9.0, 11.0, 11.0, 11.0, 9.0, 11.0, 9.0, 9.0, 9.0]);
        assert_eq!(changes(&above, &values), [(5, Change::Crossed), (10, Change::Over)]);
        let minutes = Threshold { window: WindowSpan::Minute, ..above };
        assert_eq!(minutes.windows(), 1, "a span that is shorter than a window is one window");
    }

    #[test]
    fn what_is_missing_neither_begins_nor_ends_anything() {
        let below = threshold(Limit::Below { limit: 1.0, back: 1.0 }, 2);
        let values = [Some(0.0), None, None, Some(0.0), None, Some(5.0), None, Some(5.0)];
        assert_eq!(changes(&below, &values), [(3, Change::Crossed), (7, Change::Over)]);
    }

    #[test]
    fn a_window_that_may_lack_events_is_not_taken_for_few() {
        let look = |value, end| Look { value, end: TimeMicros(end), is_whole: false };
        let below = threshold(Limit::Below { limit: 5.0, back: 5.0 }, 0);
        let mut standing = Standing::default();
        assert_eq!(standing.look(&below, look(0.0, 1)), None);
        standing.is_crossed = true;
        assert_eq!(standing.look(&below, look(9.0, 2)), Some(Change::Over));
        let above = threshold(Limit::Above { limit: 5.0, back: 5.0 }, 0);
        let mut standing = Standing::default();
        assert_eq!(standing.look(&above, look(6.0, 1)), Some(Change::Crossed));
        assert_eq!(standing.look(&above, look(0.0, 2)), None);
    }

    #[test]
    fn what_was_looked_at_is_not_looked_at_again() {
        let above = threshold(Limit::Above { limit: 5.0, back: 5.0 }, 0);
        let look = |value, end| Look { value, end: TimeMicros(end), is_whole: true };
        let mut standing = Standing::beginning_at(TimeMicros(10));
        assert_eq!(standing.look(&above, look(6.0, 10)), None);
        assert_eq!(standing.look(&above, look(6.0, 11)), Some(Change::Crossed));
        let text = serde_json::to_string(&standing).unwrap();
        assert_eq!(serde_json::from_str::<Standing>(&text).unwrap(), standing);
    }

    proptest! {
        #[test]
        fn crossed_and_over_take_turns(
            values in proptest::collection::vec(proptest::option::of(0.0..20.0), 0..60),
            seconds in 0..4_u64,
            back in 0.0..10.0,
        ) {
            let above = threshold(Limit::Above { limit: 10.0, back }, seconds);
            let mut wanted = Change::Crossed;
            for (at, change) in changes(&above, &values) {
                prop_assert_eq!(change, wanted);
                let value = values[at].unwrap();
                let crosses = change == Change::Crossed;
                prop_assert!(if crosses { value > 10.0 } else { value <= back }, "{}", value);
                wanted = if wanted == Change::Crossed { Change::Over } else { Change::Crossed };
            }
        }
    }
}
