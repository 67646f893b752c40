//! Two lines as a client's times: of an event, and of sending. Each is read as another reader of
//! calendars reads it or refused as there, and what is made of both keeps order and bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use time::{Date, Month, OffsetDateTime, Time};
use tracklog_ingest_gateway::event_time::{SentTime, corrected, parse_number, parse_text};
use tracklog_protocol::TimeMicros;
use tracklog_protocol::event::EventFlags;

const SECOND: i128 = 1_000_000;
const AHEAD_MAX: i64 = 300_000_000;
const RECEIVED: TimeMicros = TimeMicros(1_767_322_800_000_000);

fuzz_target!(|input: &str| {
    let (said, sent) = input.split_once('\n').unwrap_or((input, ""));
    let said = read(said);
    let sent = match (sent, read(sent)) {
        ("", _) => SentTime::Absent,
        (_, None) => SentTime::Unusable,
        (_, Some(time)) => SentTime::At(time),
    };
    for declared in [false, true] {
        let (time, flags) = corrected(said, sent, RECEIVED, declared);
        if flags.contains(EventFlags::TIME_DECLARED) {
            assert_eq!(Some(time), said, "what is declared true is kept");
        } else {
            assert!((0..=RECEIVED.0 + AHEAD_MAX).contains(&time.0), "{time:?} is no likely time");
        }
        keeps_gaps(said, sent, declared);
    }
});

/// Events of one request that are both corrected stay as far from each other as they were.
fn keeps_gaps(said: Option<TimeMicros>, sent: SentTime, declared: bool) {
    let Some(said) = said else { return };
    let later = TimeMicros(said.0 + 1);
    let (one, flags) = corrected(Some(said), sent, RECEIVED, declared);
    let (other, later_flags) = corrected(Some(later), sent, RECEIVED, declared);
    if flags == later_flags && flags == EventFlags::SKEW_CORRECTED {
        assert_eq!(other.0 - one.0, 1, "order and gaps stay");
    }
}

fn read(text: &str) -> Option<TimeMicros> {
    let time = parse_text(text);
    assert_eq!(time.map(|time| i128::from(time.0)), as_text(text), "{text:?}");
    if let Ok(number) = serde_json::from_str::<&serde_json::value::RawValue>(text)
        && number.get().starts_with(|first: char| first == '-' || first.is_ascii_digit())
    {
        check_number(number.get());
    }
    time
}

/// The first microsecond of the year 0 and one after the last of 9999.
fn in_years(micros: i128) -> Option<i128> {
    let day = |year, month, day| {
        let date = Date::from_calendar_date(year, month, day).expect("it is in the calendar");
        i128::from(OffsetDateTime::new_utc(date, Time::MIDNIGHT).unix_timestamp()) * SECOND
    };
    let end = day(9999, Month::December, 31) + 86_400 * SECOND;
    (day(0, Month::January, 1)..end).contains(&micros).then_some(micros)
}

fn digits(text: &str, count: usize) -> Option<i32> {
    let is_plain = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| text.parse().expect("a few digits are a number"))
}

fn as_text(text: &str) -> Option<i128> {
    let unit = match text.len() {
        10 => Some(SECOND),
        13 => Some(1_000),
        _ => None,
    };
    if let Some(unit) = unit {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        return is_plain.then(|| text.parse::<i128>().expect("digits") * unit).and_then(in_years);
    }
    let (date, clock, rest) = (text.get(..10)?, text.get(11..19)?, text.get(19..)?);
    matches!(text.get(10..11)?, "T" | "t" | " ").then_some(())?;
    let [year, month, day] = date.split('-').collect::<Vec<_>>().try_into().ok()?;
    let [hour, minute, second] = clock.split(':').collect::<Vec<_>>().try_into().ok()?;
    let two = |text| digits(text, 2).map(|number| u8::try_from(number).expect("two digits"));
    let month = Month::try_from(two(month)?).ok()?;
    let date = Date::from_calendar_date(digits(year, 4)?, month, two(day)?).ok()?;
    // A leap second is the second after.
    let (second, leap) = match two(second)? {
        60 => (59, SECOND),
        second => (second, 0),
    };
    let time = Time::from_hms(two(hour)?, two(minute)?, second).ok()?;
    let at = i128::from(OffsetDateTime::new_utc(date, time).unix_timestamp()) * SECOND + leap;
    let zone = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let fraction = fraction_micros(rest.strip_suffix(zone)?)?;
    in_years(at + fraction - zone_micros(zone)?)
}

fn fraction_micros(text: &str) -> Option<i128> {
    if text.is_empty() {
        return Some(0);
    }
    let digits = text.strip_prefix('.')?;
    let is_plain = (1..=9).contains(&digits.len()) && !digits.contains('.');
    is_plain.then(|| format!("{digits:0<9}").parse::<i128>().expect("nine digits") / 1_000)
}

fn zone_micros(zone: &str) -> Option<i128> {
    if matches!(zone, "" | "Z" | "z") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let rest = zone.strip_prefix(['+', '-'])?;
    let (hours, minutes) = match rest.len() {
        5 => rest.split_once(':')?,
        4 => rest.split_at_checked(2)?,
        _ => return None,
    };
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    (hours < 24 && minutes < 60).then(|| sign * i128::from(hours * 60 + minutes) * 60 * SECOND)
}

fn check_number(token: &str) {
    let value: f64 = token.parse().expect("a JSON number is a double or beyond");
    let unit = if value < 1e11 { 1e6 } else { 1e3 };
    match parse_number(token) {
        Some(time) => {
            let off = (time.0 as f64 - value * unit).abs();
            assert!(off <= 1.0 + (value * unit).abs() * 1e-15, "{token} is off by {off} µs");
            assert!(in_years(i128::from(time.0)).is_some(), "{token} is in no year");
        }
        None => {
            let is_in = value < 1e14 && in_years((value * unit) as i128).is_some();
            let is_at_border = [-62_167_219_200.0, 253_402_300_800.0, 253_402_300_800_000.0]
                .iter()
                .any(|border| (value - border).abs() < 1.0);
            assert!(!is_in || is_at_border, "{token} is a time");
        }
    }
}
