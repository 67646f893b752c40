//! How long a window is, which window a moment lies in, and what a window is called.

use std::fmt;
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

/// Names a window for whoever wants to go on behind it: of a second, the second since 1970 in which
/// it ended; of a minute, that and `-1m`. Of windows that end together the longer one is told first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowId(pub(super) Window);

impl WindowId {
    /// The first window of `span` that is told behind it.
    pub(super) fn next(self, span: WindowSpan) -> Window {
        let Self(told) = self;
        let begins_at_end = span.window_of(told.end());
        if span < told.span { begins_at_end.plus(-1) } else { begins_at_end }
    }
}

impl fmt::Display for WindowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.0.end().0.div_euclid(SECOND_MICROS);
        match self.0.span {
            WindowSpan::Second => write!(f, "{end}"),
            WindowSpan::Minute => write!(f, "{end}-{}", self.0.span.as_str()),
        }
    }
}

impl FromStr for WindowId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (end, span) = match text.strip_suffix("-1m") {
            Some(end) => (end, WindowSpan::Minute),
            None => (text, WindowSpan::Second),
        };
        let end: i64 = end.parse().map_err(|_| format!("{text:?} is no window's id"))?;
        let end = TimeMicros(end.saturating_mul(SECOND_MICROS));
        Ok(Self(span.window_of(end).plus(-1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written() {
        for text in ["0", "-61", "1767294245", "660-1m", "-60-1m"] {
            assert_eq!(text.parse::<WindowId>().map(|id| id.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "-1m", "660-5m", "6.5", "660-1m-1m"] {
            assert!(text.parse::<WindowId>().is_err(), "{text}");
        }
        // Times end somewhere; ids that lie beyond are those of the last windows.
        assert!(i64::MAX.to_string().parse::<WindowId>().is_ok());
        assert!(i64::MIN.to_string().parse::<WindowId>().is_ok());
    }

    #[test]
    fn behind_a_minute_comes_the_second_that_ends_with_it() {
        let minute: WindowId = "660-1m".parse().unwrap();
        let second: WindowId = "660".parse().unwrap();
        let ends = |id: WindowId| WindowSpan::ALL.map(|span| id.next(span).end().0 / SECOND_MICROS);
        assert_eq!(ends(minute), [660, 720]);
        assert_eq!(ends(second), [661, 720]);
    }

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
