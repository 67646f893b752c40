//! Places in a topic as people write them: an offset, a time, `now`, or a span back.
//!
//! - An integer is an offset, in each partition.
//! - A time is RFC 3339 (a space may stand for the `T`; without a zone it is UTC; a date alone is
//!   its midnight), or a span back from now: `-90s`, `-15m`, `-2h`, `-7d`.
//! - `now` is the end of the log as it is when the reading begins.
//!
//! Sans-io: the caller brings the clock. Used by the reading routes and by the command line.

use std::fmt;

use tracklog_ingest_gateway::event_time::parse_text;
use tracklog_protocol::line::format_time;
use tracklog_protocol::{Offset, TimeMicros};

/// Where a range begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// This offset, in each partition.
    Offset(Offset),
    /// The first record that was appended at or after this time.
    Time(TimeMicros),
    /// The end of each partition when the reading begins.
    Now,
}

impl Bound {
    /// Reads `text`; `now` is what spans count back from.
    ///
    /// # Errors
    /// [`BoundError`] when it is neither an offset nor a time.
    pub fn parse(text: &str, now: TimeMicros) -> Result<Self, BoundError> {
        if text == "now" {
            return Ok(Self::Now);
        }
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let offset = text.parse().map_err(|_| BoundError::new(text, "an offset or a time"))?;
            return Ok(Self::Offset(Offset(offset)));
        }
        time(text, now).map(Self::Time).ok_or_else(|| BoundError::new(text, "an offset or a time"))
    }

    /// The same bound for another reader, whose clock may differ: spans have become times.
    #[must_use]
    pub fn to_text(self) -> String {
        match self {
            Self::Offset(offset) => offset.to_string(),
            Self::Time(time) => format_time(time),
            Self::Now => "now".to_owned(),
        }
    }
}

/// Reads a time that cannot be an offset; `now` is the clock.
///
/// # Errors
/// [`BoundError`] when `text` is no time.
pub fn parse_time(text: &str, now: TimeMicros) -> Result<TimeMicros, BoundError> {
    time(text, now).ok_or_else(|| BoundError::new(text, "a time"))
}

/// The text is no place in a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundError {
    text: String,
    wanted: &'static str,
}

impl BoundError {
    fn new(text: &str, wanted: &'static str) -> Self {
        Self { text: text.chars().take(64).collect(), wanted }
    }
}

impl fmt::Display for BoundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not {}; times look like 2026-01-02T03:04:05Z, now, -15m, -2h or -7d",
            self.text, self.wanted
        )
    }
}

impl std::error::Error for BoundError {}

const MICROS_A_SECOND: i64 = 1_000_000;

fn time(text: &str, now: TimeMicros) -> Option<TimeMicros> {
    if text == "now" {
        return Some(now);
    }
    match text.strip_prefix('-') {
        Some(span) => now.0.checked_sub(span_micros(span)?).map(TimeMicros),
        None => rfc_3339(text),
    }
}

/// `15m` and its like.
fn span_micros(span: &str) -> Option<i64> {
    let (number, unit) = span.split_at_checked(span.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let number = digits(number)?;
    number.checked_mul(seconds)?.checked_mul(MICROS_A_SECOND)
}

/// RFC 3339 as the intake reads it, or a date alone. Digits alone would be an offset.
fn rfc_3339(text: &str) -> Option<TimeMicros> {
    if digits(text).is_some() {
        return None;
    }
    if text.len() == "2026-01-02".len() {
        return parse_text(&format!("{text}T00:00:00Z"));
    }
    parse_text(text)
}

fn digits(text: &str) -> Option<i64> {
    let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if all_digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: TimeMicros = TimeMicros(1_767_323_045_000_000);

    #[test]
    fn integers_are_offsets() {
        assert_eq!(Bound::parse("0", NOW), Ok(Bound::Offset(Offset(0))));
        assert_eq!(Bound::parse("1767323045", NOW), Ok(Bound::Offset(Offset(1_767_323_045))));
        assert!(Bound::parse("18446744073709551616", NOW).is_err(), "beyond 64 bits");
        assert!(parse_time("12", NOW).is_err(), "an offset is no time");
    }

    #[test]
    fn times_have_zones_fractions_and_dates_alone() {
        for (text, micros) in [
            ("2026-01-02T03:04:05Z", 1_767_323_045_000_000),
            ("2026-01-02 03:04:05", 1_767_323_045_000_000),
            ("2026-01-02T11:04:05.000001+08:00", 1_767_323_045_000_001),
            ("2026-01-02T01:34:05-0130", 1_767_323_045_000_000),
            ("2026-01-02T03:04:05.1234567Z", 1_767_323_045_123_456),
            ("1970-01-01", 0),
            ("2000-02-29", 951_782_400_000_000),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("0000-03-01", -62_162_035_200_000_000),
        ] {
            assert_eq!(parse_time(text, NOW), Ok(TimeMicros(micros)), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for days in (-200_000..2_000_000).step_by(97) {
            let time = TimeMicros(days * 86_400 * MICROS_A_SECOND + 12_345_678);
            assert_eq!(parse_time(&format_time(time), NOW), Ok(time));
        }
    }

    #[test]
    fn spans_count_back_from_now() {
        assert_eq!(Bound::parse("-15m", NOW), Ok(Bound::Time(TimeMicros(NOW.0 - 900_000_000))));
        assert_eq!(parse_time("-2h", NOW), Ok(TimeMicros(NOW.0 - 7_200_000_000)));
        assert_eq!(parse_time("-7d", NOW), Ok(TimeMicros(NOW.0 - 604_800_000_000)));
        assert_eq!(Bound::parse("now", NOW), Ok(Bound::Now));
        assert_eq!(parse_time("now", NOW), Ok(NOW));
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "-",
            "-m",
            "-5",
            "-5w",
            "--5m",
            "yesterday",
            "2026-13-01",
            "2026-02-29",
            "2026-01-02T",
            "2026-01-02T25:00:00Z",
            "2026-01-02T03:04Z",
            "2026-01-02T03:04:05.Z",
            "2026-01-02T03:04:05+8",
            "2026-01-02T03:04:05Zx",
            "1.5",
            "-99999999999999999d",
            "２０２６-01-02",
            "2026-01-02T03:04:05.1234567890Z",
        ] {
            assert!(Bound::parse(text, NOW).is_err(), "{text:?}");
        }
    }
}
