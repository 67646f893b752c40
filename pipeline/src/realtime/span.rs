//! How long a window is, and which window a moment lies in.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tracklog_protocol::TimeMicros;

const SECOND_MICROS: i64 = 1_000_000;

/// How long a window is. Windows begin where the clock is a multiple of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WindowSpan {
    /// A second.
    #[serde(rename = "1s")]
    Second,
    /// A minute.
    #[serde(rename = "1m")]
    Minute,
}

impl WindowSpan {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Second, Self::Minute];

    /// As it is written: `1s` or `1m`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Second => "1s",
            Self::Minute => "1m",
        }
    }

    /// How many seconds it has.
    #[must_use]
    pub const fn seconds(self) -> i64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
        }
    }

    const fn micros(self) -> i64 {
        self.seconds() * SECOND_MICROS
    }

    /// The window that `time` lies in.
    pub(super) const fn window_of(self, time: TimeMicros) -> Window {
        Window { span: self, index: time.0.div_euclid(self.micros()) }
    }

    /// The first window that begins at or after `time`.
    pub(super) const fn first_from(self, time: TimeMicros) -> Window {
        let below = time.0.saturating_sub(1).div_euclid(self.micros());
        Window { span: self, index: below.saturating_add(1) }
    }
}

impl FromStr for WindowSpan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|span| span.as_str() == text);
        named.ok_or_else(|| format!("{text:?} is no window: 1s or 1m"))
    }
}

/// One window: the `index`-th of its span since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Window {
    pub(super) span: WindowSpan,
    pub(super) index: i64,
}

impl Window {
    pub(super) const fn begin(self) -> TimeMicros {
        TimeMicros(self.index.saturating_mul(self.span.micros()))
    }

    /// The first moment after it.
    pub(super) const fn end(self) -> TimeMicros {
        self.plus(1).begin()
    }

    pub(super) const fn plus(self, windows: i64) -> Self {
        Self { span: self.span, index: self.index.saturating_add(windows) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_lies_in_the_window_that_begins_with_it() {
        for span in WindowSpan::ALL {
            for micros in [-1, 0, 1, 59_999_999, 60_000_000, 60_000_001] {
                let time = TimeMicros(micros);
                let window = span.window_of(time);
                assert!(window.begin() <= time && time < window.end(), "{micros}");
                let first = span.first_from(time);
                assert!(time <= first.begin() && first.plus(-1).begin() < time, "{micros}");
            }
            assert_eq!(span.as_str().parse(), Ok(span));
        }
        assert!("5m".parse::<WindowSpan>().is_err());
    }
}
