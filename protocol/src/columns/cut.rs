//! Texts as shapes with holes: what ids, numbers and times leave standing, and those as values.
//!
//! `user-4711` has the shape `user-▢` and the number 4711; a random id is a hole of 16 bytes, not
//! 36 characters. A cut loses nothing: each kind of hole has one way only to be written, and what
//! is written otherwise (`0x1F`, an id in capitals) stays in the shape.

use std::ops::Range;

use super::ColumnsError;
use super::source::{Source, number_bytes, put_number, put_size};
use crate::words::find_digit;

/// What is cut out of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hole {
    /// 8-4-4-4-12 digits of a UUID, in lower case: 16 bytes.
    Uuid,
    /// So many bytes in hexadecimal digits, in lower case.
    Hex(u8),
    /// Four numbers up to 255 with dots: 4 bytes.
    Ipv4,
    /// A number without leading zeros, of at most 18 digits.
    Number,
    /// A number of so many digits that has leading zeros.
    Padded(u8),
    /// `2026-01-02T03:04:05.678Z`: a time in whole milliseconds, held in microseconds.
    Time,
    /// 13 digits that begin with 1: the same in milliseconds since 1970.
    EpochMillis,
    /// A value of a JSON text: a text of its own, in that column.
    Leaf(u32),
    /// The text ends here.
    End,
}

const HEX_BYTES: std::ops::RangeInclusive<u8> = 8..=32;
const DIGITS_MAX: usize = 18;
const PADDED_AT: u8 = 16;
const HEX_AT: u8 = 64;

impl Hole {
    /// `u length, literal, hole`: a piece of a shape.
    pub(super) fn put(self, literal: &[u8], out: &mut Vec<u8>) {
        put_size(out, literal.len());
        out.extend_from_slice(literal);
        out.push(match self {
            Self::End => 0,
            Self::Uuid => 1,
            Self::Ipv4 => 2,
            Self::Number => 3,
            Self::Time => 4,
            Self::EpochMillis => 5,
            Self::Leaf(_) => 6,
            Self::Padded(digits) => PADDED_AT + digits,
            Self::Hex(bytes) => HEX_AT + bytes,
        });
        if let Self::Leaf(column) = self {
            put_number(out, u64::from(column));
        }
    }

    /// The other way of [`put`](Self::put): the literal and the hole.
    pub(super) fn read<'a>(texts: &mut Source<'a>) -> Result<(&'a [u8], Self), ColumnsError> {
        let bytes = texts.size()?;
        let literal = texts.take(bytes)?;
        let hole = match texts.byte()? {
            0 => Self::End,
            1 => Self::Uuid,
            2 => Self::Ipv4,
            3 => Self::Number,
            4 => Self::Time,
            5 => Self::EpochMillis,
            6 => {
                let column = u32::try_from(texts.number()?);
                Self::Leaf(column.map_err(|_| ColumnsError::Malformed)?)
            }
            code => match (code.wrapping_sub(PADDED_AT), code.wrapping_sub(HEX_AT)) {
                (digits, _) if (2..=DIGITS_MAX).contains(&usize::from(digits)) => {
                    Self::Padded(digits)
                }
                (_, bytes) if HEX_BYTES.contains(&bytes) => Self::Hex(bytes),
                _ => return Err(ColumnsError::Malformed),
            },
        };
        Ok((literal, hole))
    }

    /// How many bytes tell it.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Leaf(column) => 1 + number_bytes(column as u64),
            _ => 1,
        }
    }

    /// How many bytes of the raw area fill it, where these do.
    pub(super) const fn raw_bytes(self) -> Option<usize> {
        match self {
            Self::Uuid => Some(16),
            Self::Ipv4 => Some(4),
            Self::Hex(bytes) => Some(bytes as usize),
            _ => None,
        }
    }

    /// Whether a number fills it, and whether that is a time.
    pub(super) const fn number(self) -> Option<IsTime> {
        match self {
            Self::Number | Self::Padded(_) => Some(IsTime::No),
            Self::Time | Self::EpochMillis => Some(IsTime::Yes),
            _ => None,
        }
    }
}

/// Whether a stream is one of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IsTime {
    Yes,
    No,
}

/// A text, cut. Kept for its memory.
#[derive(Debug, Default)]
pub(super) struct Cut {
    /// As it is written.
    pub(super) shape: Vec<u8>,
    /// What is in the holes, in order.
    pub(super) numbers: Vec<u64>,
    pub(super) raw: Vec<u8>,
}

impl Cut {
    pub(super) fn clear(&mut self) {
        self.shape.clear();
        self.numbers.clear();
        self.raw.clear();
    }

    /// Cuts `text`.
    pub(super) fn cut(&mut self, text: &[u8]) {
        self.clear();
        if let Some(address) = ipv4(text) {
            Hole::Ipv4.put(&[], &mut self.shape);
            self.raw.extend_from_slice(&address);
            return Hole::End.put(&[], &mut self.shape);
        }
        let (mut from, mut at) = (0, 0);
        // Each hole has a digit. What is nowhere near one is not looked at.
        while let Some(digit) = find_digit(&text[at..]) {
            let run = hex_run(text, at, at + digit);
            let end = run.end;
            match self.hole(text, at, at + digit, run) {
                Some((hole, place)) => {
                    hole.put(&text[from..place.start], &mut self.shape);
                    at = place.end;
                    from = at;
                }
                None => at = end,
            }
        }
        Hole::End.put(&text[from..], &mut self.shape);
    }

    /// The first hole of a text from `at` on, whose first digit is at `digit_at`, in a run of
    /// hexadecimal digits. None where the run has none.
    fn hole(
        &mut self,
        text: &[u8],
        at: usize,
        digit_at: usize,
        run: Range<usize>,
    ) -> Option<(Hole, Range<usize>)> {
        if let Some(found) = self.uuid(text, at, &run) {
            return Some(found);
        }
        let rest = &text[digit_at..run.end];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let bytes = u8::try_from(run.len() / 2).unwrap_or(u8::MAX);
        let has_letters = digits < run.len();
        if has_letters && run.len().is_multiple_of(2) && HEX_BYTES.contains(&bytes) {
            self.raw.extend(text[run.clone()].chunks_exact(2).map(hex_byte));
            return Some((Hole::Hex(bytes), run));
        }
        if digits == 4
            && let Some(micros) = time(&text[digit_at..])
        {
            self.numbers.push(micros);
            return Some((Hole::Time, digit_at..digit_at + TIME_DIGITS));
        }
        if digits > DIGITS_MAX {
            return None;
        }
        let number = decimal(&rest[..digits]);
        let (hole, number) = match rest[0] {
            b'1' if digits == EPOCH_MILLIS_DIGITS => (Hole::EpochMillis, number * 1_000),
            b'0' if digits > 1 => (Hole::Padded(u8::try_from(digits).expect("at most 18")), number),
            _ => (Hole::Number, number),
        };
        self.numbers.push(number);
        Some((hole, digit_at..digit_at + digits))
    }

    /// A UUID that begins with the run, or with the one before where that has letters alone.
    fn uuid(&mut self, text: &[u8], at: usize, run: &Range<usize>) -> Option<(Hole, Range<usize>)> {
        let start = match run.len() {
            8 => run.start,
            4 => run.start.checked_sub(9).filter(|start| *start >= at)?,
            _ => return None,
        };
        let is_whole = start == at || !is_hex(text[start - 1]);
        let id = uuid(&text[start..]).filter(|_| is_whole)?;
        self.raw.extend_from_slice(&id);
        Some((Hole::Uuid, start..start + UUID_DIGITS))
    }
}

/// The hexadecimal digits around a place, none before `at`.
fn hex_run(text: &[u8], at: usize, around: usize) -> Range<usize> {
    let before = text[at..around].iter().rev().take_while(|byte| is_hex(**byte)).count();
    let behind = text[around..].iter().take_while(|byte| is_hex(**byte)).count();
    around - before..around + behind
}

/// What fills a hole has so many bytes at most.
pub(super) const SLOT_BYTES: usize = 64;

/// Fills a hole that holds raw bytes; returns how many bytes that takes.
pub(super) fn fill_raw(hole: Hole, raw: &[u8], out: &mut [u8; SLOT_BYTES]) -> usize {
    match hole {
        Hole::Ipv4 => {
            let mut end = 0;
            for part in raw.iter().take(4) {
                if end > 0 {
                    out[end] = b'.';
                    end += 1;
                }
                end += put_byte(*part, end, out);
            }
            end
        }
        Hole::Uuid => {
            for ((at, _), byte) in UUID_PAIRS.iter().zip(raw) {
                [out[*at], out[*at + 1]] = hex_pair(*byte);
            }
            for at in UUID_DASHES {
                out[at] = b'-';
            }
            UUID_DIGITS
        }
        _ => {
            for (pair, byte) in out.as_chunks_mut().0.iter_mut().zip(raw) {
                *pair = hex_pair(*byte);
            }
            raw.len() * 2
        }
    }
}

/// Fills a hole that holds a number; returns how many bytes that takes.
pub(super) fn fill_number(hole: Hole, number: u64, out: &mut [u8; SLOT_BYTES]) -> usize {
    match hole {
        Hole::Padded(digits) => put_decimal(number, usize::from(digits), out),
        Hole::EpochMillis => put_decimal(number / 1_000, 1, out),
        Hole::Time => put_time(number, out),
        _ => put_decimal(number, 1, out),
    }
}

const UUID_DIGITS: usize = 36;
const UUID_DASHES: [usize; 4] = [8, 13, 18, 23];
/// Where each byte's digits lie in a UUID, and which byte it is.
const UUID_PAIRS: [(usize, usize); 16] = {
    let mut pairs = [(0, 0); 16];
    let (mut at, mut byte) = (0, 0);
    while byte < 16 {
        if at == 8 || at == 13 || at == 18 || at == 23 {
            at += 1;
        }
        pairs[byte] = (at, byte);
        at += 2;
        byte += 1;
    }
    pairs
};

fn uuid(text: &[u8]) -> Option<[u8; 16]> {
    let digits: &[u8; UUID_DIGITS] = text.first_chunk()?;
    if UUID_DASHES.iter().any(|at| digits[*at] != b'-') {
        return None;
    }
    let mut id = [0; 16];
    let mut seen = 0;
    for (at, byte) in UUID_PAIRS {
        let (high, low) = (hex_value(digits[at]), hex_value(digits[at + 1]));
        seen |= high | low;
        id[byte] = high << 4 | low;
    }
    (seen < NO_HEX).then_some(id)
}

fn is_hex(byte: u8) -> bool {
    hex_value(byte) < NO_HEX
}

fn hex_byte(pair: &[u8]) -> u8 {
    hex_value(pair[0]) << 4 | hex_value(pair[1])
}

/// The value of a hexadecimal digit in lower case.
fn hex_value(digit: u8) -> u8 {
    HEX_VALUES[usize::from(digit)]
}

/// The value of what is none: a bit that none has.
const NO_HEX: u8 = 0x80;
static HEX_VALUES: [u8; 256] = {
    let mut values = [NO_HEX; 256];
    let mut value = 0;
    while value < 16 {
        values[hex_digit(value) as usize] = value;
        value += 1;
    }
    values
};

fn hex_pair(byte: u8) -> [u8; 2] {
    HEX_PAIRS[usize::from(byte)]
}

static HEX_PAIRS: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [hex_digit((byte >> 4) as u8), hex_digit((byte & 15) as u8)];
        byte += 1;
    }
    pairs
};

const fn hex_digit(value: u8) -> u8 {
    if value < 10 { b'0' + value } else { b'a' + (value - 10) }
}

fn ipv4(text: &[u8]) -> Option<[u8; 4]> {
    if text.len() > 15 || !text.first()?.is_ascii_digit() {
        return None;
    }
    let mut address = [0; 4];
    let mut parts = text.split(|byte| *byte == b'.');
    for byte in &mut address {
        let part = parts.next()?;
        let is_number = part.iter().all(u8::is_ascii_digit) && (1..=3).contains(&part.len());
        let is_plain = part.len() == 1 || part.first() != Some(&b'0');
        *byte = u8::try_from(decimal(part)).ok().filter(|_| is_number && is_plain)?;
    }
    parts.next().is_none().then_some(address)
}

/// A number of at most 18 digits.
fn decimal(digits: &[u8]) -> u64 {
    digits.iter().fold(0_u64, |number, digit| {
        number.wrapping_mul(10).wrapping_add(u64::from(digit.wrapping_sub(b'0')))
    })
}

/// Writes a number up to 255 at a place; returns how many digits it has.
fn put_byte(byte: u8, at: usize, out: &mut [u8; SLOT_BYTES]) -> usize {
    let digits = [byte / 100, byte / 10 % 10, byte % 10].map(|digit| b'0' + digit);
    let count = if byte < 10 { 1 } else { 2 + usize::from(byte >= 100) };
    out[at..at + count].copy_from_slice(&digits[3 - count..]);
    count
}

/// Writes a number in so many digits at least, 20 at most; returns how many it takes.
fn put_decimal(number: u64, width: usize, out: &mut [u8; SLOT_BYTES]) -> usize {
    let digits = digits_of(number).max(width);
    let (mut rest, mut end) = (number, digits);
    while end >= 2 {
        [out[end - 2], out[end - 1]] = DECIMAL_PAIRS[(rest % 100) as usize];
        rest /= 100;
        end -= 2;
    }
    if end == 1 {
        out[0] = b'0' + (rest % 10) as u8;
    }
    digits
}

static DECIMAL_PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100_u8 {
        pairs[number as usize] = [b'0' + number / 10, b'0' + number % 10];
        number += 1;
    }
    pairs
};

fn digits_of(number: u64) -> usize {
    let bits = u64::BITS - (number | 1).leading_zeros();
    // Bits by log 2 of 10 are the digits, or one too few.
    let digits = (bits as usize * 1_233) >> 12;
    digits + usize::from(number | 1 >= POWERS_OF_TEN[digits])
}

static POWERS_OF_TEN: [u64; 20] = {
    let mut powers = [1; 20];
    let mut exponent = 1;
    while exponent < 20 {
        powers[exponent] = 10 * powers[exponent - 1];
        exponent += 1;
    }
    powers
};

const EPOCH_MILLIS_DIGITS: usize = 13;
const TIME_DIGITS: usize = 24;
const DAY_MILLIS: u64 = 86_400_000;
/// From 0000-03-01 to 1970-01-01, by the calendar of today.
const DAYS_TO_1970: u64 = 719_468;
const DAYS_IN_ERA: u64 = 146_097;

/// A time of 1970 to 9999 as it is written in UTC to the millisecond, in microseconds.
fn time(text: &[u8]) -> Option<u64> {
    let text: &[u8; TIME_DIGITS] = text.first_chunk()?;
    let mut form = *text;
    for byte in &mut form {
        if byte.is_ascii_digit() {
            *byte = b'0';
        }
    }
    if form != *b"0000-00-00T00:00:00.000Z" {
        return None;
    }
    let part = |at: Range<usize>| decimal(&text[at]);
    let (year, month, day) = (part(0..4), part(5..7), part(8..10));
    let (hour, minute, second, milli) = (part(11..13), part(14..16), part(17..19), part(20..23));
    let in_range = year >= 1970 && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let millis = ((hour * 60 + minute) * 60 + second) * 1_000 + milli;
    let micros = (day_number(year, month, day) * DAY_MILLIS + millis) * 1_000;
    // The 31st of a month of 30 days is another day when it is written again.
    let (_, _, same_day) = date(micros / 1_000 / DAY_MILLIS);
    (same_day == day).then_some(micros)
}

fn put_time(micros: u64, out: &mut [u8; SLOT_BYTES]) -> usize {
    let millis = micros / 1_000;
    let (year, month, day) = date(millis / DAY_MILLIS);
    let second = millis % DAY_MILLIS / 1_000;
    let milli = millis % 1_000;
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let pairs = [
        (0, year / 100),
        (2, year),
        (5, month),
        (8, day),
        (11, second / 3_600),
        (14, second / 60 % 60),
        (17, second % 60),
        (20, milli / 10),
    ];
    for (at, number) in pairs {
        let number = (number % 100) as u8;
        (text[at], text[at + 1]) = (b'0' + number / 10, b'0' + number % 10);
    }
    text[22] = b'0' + (milli % 10) as u8;
    out[..TIME_DIGITS].copy_from_slice(&text);
    TIME_DIGITS
}

/// Days since 1970. Years that begin with March have their leap day at their end.
const fn day_number(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (153 * month + 2) / 5 + day - 1 - DAYS_TO_1970
}

/// Year, month and day of a day since 1970.
const fn date(day: u64) -> (u64, u64, u64) {
    let day = day + DAYS_TO_1970;
    let (era, day) = (day / DAYS_IN_ERA, day % DAYS_IN_ERA);
    let leap_days = day / 1_460 - day / 36_524 + day / 146_096;
    let year = (day - leap_days) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5 + 1;
    let (carried, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    (era * 400 + year + carried, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(cut: &Cut) -> Vec<u8> {
        let (mut shape, mut raw) = (Source::new(&cut.shape), Source::new(&cut.raw));
        let mut numbers = cut.numbers.iter();
        let mut out = Vec::new();
        loop {
            let (literal, hole) = Hole::read(&mut shape).unwrap();
            out.extend_from_slice(literal);
            if hole == Hole::End {
                assert!(shape.len() == 0 && raw.len() == 0 && numbers.next().is_none());
                return out;
            }
            let mut slot = [0; SLOT_BYTES];
            let bytes = match hole.raw_bytes() {
                Some(bytes) => fill_raw(hole, raw.take(bytes).unwrap(), &mut slot),
                None => fill_number(hole, *numbers.next().unwrap(), &mut slot),
            };
            out.extend_from_slice(&slot[..bytes]);
        }
    }

    fn holes(text: &str) -> Vec<Hole> {
        let mut cut = Cut::default();
        cut.cut(text.as_bytes());
        assert_eq!(String::from_utf8(filled(&cut)).unwrap(), text);
        let mut shape = Source::new(&cut.shape);
        std::iter::from_fn(|| Some(Hole::read(&mut shape).unwrap().1))
            .take_while(|hole| *hole != Hole::End)
            .collect()
    }

    #[test]
    fn ids_numbers_and_times_are_holes_and_fill_up_as_they_were() {
        let id = "2f1b0a55-7d0c-4c7d-9a52-0c4d7c1f6f6f";
        assert_eq!(holes(id), [Hole::Uuid]);
        let of_browser = format!("ajs-next-1767323045678-{id}");
        assert_eq!(holes(&of_browser), [Hole::EpochMillis, Hole::Uuid]);
        assert_eq!(holes("2026-02-28T23:59:59.999Z"), [Hole::Time]);
        assert_eq!(holes("2024-02-29T00:00:00.000Z"), [Hole::Time]);
        assert_eq!(holes("203.0.113.9"), [Hole::Ipv4]);
        assert_eq!(holes("1f0e3dad99908345"), [Hole::Hex(8)]);
        assert_eq!(holes("p-1017"), [Hole::Number]);
        assert_eq!(holes("007 0 10"), [Hole::Padded(3), Hole::Number, Hole::Number]);
        assert_eq!(holes("999999999999999999"), [Hole::Number]);
    }

    #[test]
    fn what_would_not_come_back_the_same_stays_in_the_shape() {
        assert!(!holes("2F1B0A55-7D0C-4C7D-9A52-0C4D7C1F6F6F").contains(&Hole::Uuid));
        assert!(!holes("2026-02-31T00:00:00.000Z").contains(&Hole::Time));
        assert!(!holes("1969-12-31T23:59:59.999Z").contains(&Hole::Time));
        assert!(!holes("1.2.3.256").contains(&Hole::Ipv4));
        assert!(!holes("1.2.3.04").contains(&Hole::Ipv4));
        assert_eq!(holes("9999999999999999999"), []);
        assert_eq!(holes("deadbeef"), []);
        assert_eq!(holes("größe"), []);
        assert_eq!(holes(""), []);
    }

    #[test]
    fn numbers_have_as_many_digits_as_they_are_written_with() {
        let powers = (0..20).map(|exponent| 10_u64.pow(exponent));
        let around = powers.flat_map(|power| [power - 1, power, power + 1]);
        for number in around.chain([u64::MAX]) {
            let mut slot = [0; SLOT_BYTES];
            let digits = fill_number(Hole::Number, number, &mut slot);
            assert_eq!(str::from_utf8(&slot[..digits]).unwrap(), number.to_string());
        }
    }

    #[test]
    fn every_day_of_eight_thousand_years_is_written_as_it_was_read() {
        for day in 0..=2_932_896 {
            let (year, month, of_month) = date(day);
            assert_eq!(day_number(year, month, of_month), day);
        }
        assert_eq!(date(2_932_896), (9999, 12, 31));
    }
}
