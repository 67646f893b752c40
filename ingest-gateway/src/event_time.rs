//! Times: what a client says, read, and what becomes of it when its clock is wrong.
//!
//! Promises
//! - Nothing here knows a time zone or reads a clock: the received time is an argument.
//! - A text is a time or it is refused; none is guessed at, rolled over, or cut.
//! - All events of a request are moved by the same amount, so their order and gaps stay.

use tracklog_protocol::TimeMicros;
use tracklog_protocol::event::EventFlags;

const SECOND: i64 = 1_000_000;
const DAY_SECONDS: i64 = 86_400;

/// The first and one after the last second of the years 0000 to 9999.
const YEARS: std::ops::Range<i64> = -62_167_219_200..253_402_300_800;

/// How far a corrected time may lie ahead of the time of receipt.
const AHEAD_MAX: i64 = 5 * 60 * SECOND;

/// Reads the text of a string: RFC 3339 and its close relatives, or an epoch of 10 or 13 digits.
///
/// `T`, `t` or a space between date and time; 0 to 9 digits of a fraction, cut to microseconds;
/// `Z`, `+08:00`, `+0800` or nothing, which is UTC. A second 60 is the second after.
#[must_use]
pub fn parse_text(text: &str) -> Option<TimeMicros> {
    let bytes = text.as_bytes();
    match bytes.len() {
        10 => Some(seconds(digits(bytes)?)?),
        13 => in_years(digits(bytes)?.checked_mul(1_000)?),
        _ => parse_rfc3339(bytes),
    }
}

/// Whether `text`, which [`parse_text`] reads, names a moment by its date and no zone.
#[must_use]
pub fn is_local(text: &str) -> bool {
    let behind_date = text.get(10..).unwrap_or_default();
    let is_epoch = !text.contains(':');
    !is_epoch && !behind_date.contains(['Z', 'z', '+', '-'])
}

/// Reads a JSON number: below 1e11 epoch seconds, below 1e14 milliseconds.
#[must_use]
pub fn parse_number(token: &str) -> Option<TimeMicros> {
    let value: f64 = token.parse().ok()?;
    let (unit, is_seconds) = match value {
        ..1e11 => (SECOND, true),
        ..1e14 => (1_000, false),
        _ => return None,
    };
    if is_seconds && value < -1e11 {
        return None;
    }
    let micros = exact_micros(token, unit).unwrap_or_else(|| rounded_micros(value, unit));
    in_years(micros)
}

/// A plain decimal, digit by digit: a double would lose microseconds.
fn exact_micros(token: &str, unit: i64) -> Option<i64> {
    let (negative, token) = match token.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, token),
    };
    let (whole, fraction) = token.split_once('.').unwrap_or((token, ""));
    let mut micros = digits(whole.as_bytes())?.checked_mul(unit)?;
    let mut place = unit / 10;
    for digit in fraction.bytes() {
        if !digit.is_ascii_digit() {
            return None;
        }
        micros += i64::from(digit - b'0') * place;
        place /= 10;
    }
    Some(if negative { -micros } else { micros })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the value is below 1e14 and the cast saturates"
)]
fn rounded_micros(value: f64, unit: i64) -> i64 {
    (value * if unit == SECOND { 1e6 } else { 1e3 }).round() as i64
}

fn seconds(value: i64) -> Option<TimeMicros> {
    in_years(value.checked_mul(SECOND)?)
}

fn in_years(micros: i64) -> Option<TimeMicros> {
    YEARS.contains(&micros.div_euclid(SECOND)).then_some(TimeMicros(micros))
}

/// The number that ASCII digits, and nothing else, spell.
fn digits(bytes: &[u8]) -> Option<i64> {
    if bytes.is_empty() || bytes.len() > 18 {
        return None;
    }
    bytes.iter().try_fold(0, |value, byte| {
        byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0'))
    })
}

fn parse_rfc3339(bytes: &[u8]) -> Option<TimeMicros> {
    let (head, rest) = bytes.split_at_checked(19)?;
    let [
        y1,
        y2,
        y3,
        y4,
        b'-',
        mo1,
        mo2,
        b'-',
        d1,
        d2,
        b'T' | b't' | b' ',
        h1,
        h2,
        b':',
        mi1,
        mi2,
        b':',
        s1,
        s2,
    ] = *head
    else {
        return None;
    };
    let year = digits(&[y1, y2, y3, y4])?;
    let month = in_range(&[mo1, mo2], 1, 12)?;
    let day = in_range(&[d1, d2], 1, days_in_month(year, month))?;
    let hour = in_range(&[h1, h2], 0, 23)?;
    let minute = in_range(&[mi1, mi2], 0, 59)?;
    let second = in_range(&[s1, s2], 0, 60)?;
    let (fraction, zone) = fraction(rest)?;
    let offset = zone_offset(zone)?;
    let at = days_from_epoch(year, month, day) * DAY_SECONDS + hour * 3_600 + minute * 60 + second;
    in_years((at - offset) * SECOND + fraction)
}

fn in_range(bytes: &[u8], least: i64, most: i64) -> Option<i64> {
    digits(bytes).filter(|value| (least..=most).contains(value))
}

/// Microseconds of a fraction, and what is behind it.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', rest)) = rest.split_first() else {
        return Some((0, rest));
    };
    let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if !(1..=9).contains(&length) {
        return None;
    }
    let (fraction, zone) = rest.split_at(length);
    let nanos = fraction.iter().chain(b"000000000").take(9);
    let nanos = nanos.fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    Some((nanos / 1_000, zone))
}

/// Seconds that the zone is ahead of UTC.
fn zone_offset(zone: &[u8]) -> Option<i64> {
    let (sign, h1, h2, m1, m2) = match *zone {
        [] | [b'Z' | b'z'] => return Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => (sign, h1, h2, m1, m2),
        [sign @ (b'+' | b'-'), h1, h2, m1, m2] => (sign, h1, h2, m1, m2),
        _ => return None,
    };
    let ahead = in_range(&[h1, h2], 0, 23)? * 3_600 + in_range(&[m1, m2], 0, 59)? * 60;
    Some(if sign == b'-' { -ahead } else { ahead })
}

const fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that begin in March.
const fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + day_of_year - 719_468
}

/// What the client says of when it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentTime {
    /// Nothing.
    Absent,
    /// Something that is no time.
    Unusable,
    /// This.
    At(TimeMicros),
}

/// When the event happened, and how that was found.
///
/// `said` is the client's time of the event, `sent` the same clock when it sent, `received` ours.
/// With both the event's time is `received - (sent - said)`. A time without any `sent` is declared
/// true, and so are all where `declared` says so: those are stored as said.
#[must_use]
pub fn corrected(
    said: Option<TimeMicros>,
    sent: SentTime,
    received: TimeMicros,
    declared: bool,
) -> (TimeMicros, EventFlags) {
    let mut flags = EventFlags::NONE;
    if sent == SentTime::Unusable {
        flags |= EventFlags::SENT_TIME_UNUSABLE;
    }
    let Some(said) = said else {
        return (received, flags | EventFlags::TIME_GUESSED);
    };
    if declared || sent == SentTime::Absent {
        return (said, flags | EventFlags::TIME_DECLARED);
    }
    let time = match sent {
        SentTime::At(sent) if sent < said => {
            return (received, flags | EventFlags::SENT_BEFORE_EVENT);
        }
        // Within ten thousand years each: the sums stay far inside of 64 bits.
        SentTime::At(sent) => TimeMicros(received.0 - (sent.0 - said.0)),
        SentTime::Absent | SentTime::Unusable => said,
    };
    if time.0 < 0 || time.0 > received.0.saturating_add(AHEAD_MAX) {
        return (received, flags | EventFlags::TIME_OUT_OF_RANGE);
    }
    if time != said {
        flags |= EventFlags::SKEW_CORRECTED;
    }
    (time, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-11-25T02:00:00Z
    const NOON: i64 = 1_732_500_000 * SECOND;
    const HOUR: i64 = 3_600 * SECOND;

    #[test]
    fn a_time_is_local_where_it_names_no_zone() {
        for text in ["2024-11-25T02:00:00", "2024-11-25 02:00:00.5"] {
            assert!(is_local(text), "{text}");
        }
        let with_zone =
            ["2024-11-25T02:00:00Z", "2024-11-25t02:00:00z", "2024-11-25 02:00:00.5+08"];
        for text in with_zone.into_iter().chain(["2024-11-25T02:00:00-0500", "1732500000"]) {
            assert!(!is_local(text), "{text}");
        }
    }

    #[test]
    fn texts_that_are_times() {
        let table = [
            ("2024-11-25T02:00:00Z", NOON),
            ("2024-11-25 02:00:00", NOON),
            ("2024-11-25t02:00:00z", NOON),
            ("2024-11-25T02:00:00.5", NOON + 500_000),
            ("2024-11-25T10:00:00+08:00", NOON),
            ("2024-11-25T10:00:00+0800", NOON),
            ("2024-11-24T21:00:00.25-05:00", NOON + 250_000),
            ("2024-11-25T07:45:00.5+05:45", NOON + 500_000),
            ("2024-11-25T02:00:00-00:00", NOON),
            ("2024-11-25T02:00:00.123456789Z", NOON + 123_456),
            ("2024-11-25T02:00:00.1Z", NOON + 100_000),
            ("1732500000", NOON),
            ("1732500000250", NOON + 250_000),
            ("0000000000", 0),
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2024-02-29T23:59:59.999999Z", 1_709_251_199_999_999),
            ("2000-02-29T00:00:00Z", 951_782_400 * SECOND),
            ("2016-12-31T23:59:60Z", 1_483_228_800 * SECOND),
            ("2016-12-31T23:59:60.5Z", 1_483_228_800 * SECOND + 500_000),
            ("0027-06-27T08:23:48+03:00", -61_299_830_172 * SECOND),
            ("0000-01-01T00:00:00Z", YEARS.start * SECOND),
            ("9999-12-31T23:59:59.999999Z", YEARS.end * SECOND - 1),
        ];
        for (text, micros) in table {
            assert_eq!(parse_text(text), Some(TimeMicros(micros)), "{text}");
        }
    }

    #[test]
    fn texts_that_are_none_are_refused() {
        for text in [
            "",
            "now",
            "2024",
            "2024-11-25",
            "2024-11-25T02:00",
            "2024-11-25T02:00Z",
            "2023-02-29T12:00:00Z",
            "1900-02-29T12:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-00-01T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-04-31T00:00:00Z",
            "2024-11-25T24:00:00Z",
            "2024-11-25T02:60:00Z",
            "2024-11-25T02:00:61Z",
            "2024-11-25T02:00:00.Z",
            "2024-11-25T02:00:00.1234567890Z",
            "2024-11-25T02:00:00,5Z",
            "2024-11-25T02:00:00+8",
            "2024-11-25T02:00:00+08",
            "2024-11-25T02:00:00+24:00",
            "2024-11-25T02:00:00+08:60",
            "2024-11-25T02:00:00 Z",
            " 2024-11-25T02:00:00Z",
            "2024-11-25T02:00:00Z\n",
            "10013-12-10T01:09:46.708Z",
            "-0001-01-01T00:00:00Z",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "9999-12-31T23:59:60Z",
            "༢༠༢༦-11-17T08:12:10+08:00",
            "２０２４-11-25T02:00:00Z",
            "2024/11/25 02:00:00",
            "173250000",
            "17325000000",
            "173250000000",
            "-732500000",
            "1732500000.25",
            "1e10",
            "Mon, 25 Nov 2024 02:00:00 GMT",
        ] {
            assert_eq!(parse_text(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_seconds_or_milliseconds_by_their_size() {
        let table = [
            ("1732500000", Some(NOON)),
            ("1732500000.25", Some(NOON + 250_000)),
            ("1732500000.123456", Some(NOON + 123_456)),
            ("1732500000.1234569", Some(NOON + 123_456)),
            ("1732500000123", Some(NOON + 123_000)),
            ("1732500000123.5", Some(NOON + 123_500)),
            ("1.7325e9", Some(NOON)),
            ("1.7325E12", Some(NOON)),
            ("0", Some(0)),
            ("-0", Some(0)),
            ("-1.5", Some(-1_500_000)),
            ("-62167219200", Some(YEARS.start * SECOND)),
            ("-62167219201", None),
            ("-1e300", None),
            ("99999999999", Some(99_999_999_999 * SECOND)),
            ("100000000000", Some(100_000_000_000_000)),
            ("99999999999999", Some(99_999_999_999_999_000)),
            ("100000000000000", None),
            ("1e308", None),
        ];
        for (token, micros) in table {
            assert_eq!(parse_number(token), micros.map(TimeMicros), "{token}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut expected = days_from_epoch(1800, 1, 1);
        for year in 1800..2200 {
            for month in 1..=12 {
                for day in 1..=days_in_month(year, month) {
                    assert_eq!(days_from_epoch(year, month, day), expected);
                    expected += 1;
                }
            }
        }
        assert_eq!(days_from_epoch(1970, 1, 1), 0);
    }

    fn find(said: Option<i64>, sent: SentTime, declared: bool) -> (i64, EventFlags) {
        let (time, flags) = corrected(said.map(TimeMicros), sent, TimeMicros(NOON), declared);
        (time.0, flags)
    }

    fn at(micros: i64) -> SentTime {
        SentTime::At(TimeMicros(micros))
    }

    #[test]
    fn a_clock_ahead_or_behind_is_corrected_by_when_it_sent() {
        let ahead = find(Some(NOON + 2 * HOUR - 5 * SECOND), at(NOON + 2 * HOUR), false);
        assert_eq!(ahead, (NOON - 5 * SECOND, EventFlags::SKEW_CORRECTED));
        let behind = find(Some(NOON - 9 * HOUR), at(NOON - 8 * HOUR), false);
        assert_eq!(behind, (NOON - HOUR, EventFlags::SKEW_CORRECTED));
        assert_eq!(find(Some(NOON - HOUR), at(NOON), false), (NOON - HOUR, EventFlags::NONE));
    }

    #[test]
    fn without_a_sent_time_or_when_declared_the_time_stands_as_said() {
        let declared = EventFlags::TIME_DECLARED;
        assert_eq!(find(Some(YEARS.start), SentTime::Absent, false), (YEARS.start, declared));
        assert_eq!(find(Some(NOON * 3), SentTime::Absent, false), (NOON * 3, declared));
        assert_eq!(find(Some(-HOUR), at(NOON), true), (-HOUR, declared));
    }

    #[test]
    fn a_correction_beyond_its_bounds_gives_way_to_the_received_time() {
        let out = EventFlags::TIME_OUT_OF_RANGE;
        assert_eq!(find(Some(NOON), at(YEARS.end * SECOND - 1), false), (NOON, out));
        assert_eq!(find(Some(-1), at(NOON), false), (NOON, out));
        assert_eq!(find(Some(0), at(NOON), false), (0, EventFlags::NONE));
        let before = EventFlags::SENT_BEFORE_EVENT;
        assert_eq!(find(Some(NOON), at(NOON - 1), false), (NOON, before));
    }

    #[test]
    fn an_unusable_sent_time_costs_only_the_correction() {
        let unusable = EventFlags::SENT_TIME_UNUSABLE;
        let out = unusable | EventFlags::TIME_OUT_OF_RANGE;
        let find = |said| find(said, SentTime::Unusable, false);
        assert_eq!(find(Some(NOON - HOUR)), (NOON - HOUR, unusable));
        assert_eq!(find(Some(NOON + AHEAD_MAX)), (NOON + AHEAD_MAX, unusable));
        assert_eq!(find(Some(NOON + AHEAD_MAX + 1)), (NOON, out));
        assert_eq!(find(Some(-1)), (NOON, out));
        assert_eq!(find(None), (NOON, unusable | EventFlags::TIME_GUESSED));
    }
}
