//! Sizes and spans of time as people write them in files: `256 MiB`, `1000000`, `10s`, `500ms`.

use std::fmt;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// A number of bytes: an integer, or a text with `KiB`, `MiB`, `GiB` or `TiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl Bytes {
    /// What memory can hold, at most.
    #[must_use]
    pub fn to_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A span of time: a text with `ms`, `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = number_and_unit(text)?;
    let shift = match unit {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

fn span(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3_600).map(Duration::from_secs),
        "d" => number.checked_mul(86_400).map(Duration::from_secs),
        _ => None,
    }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size like 1048576 or \"256 MiB\"")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Bytes, E> {
        let number = u64::try_from(number);
        number.map(Bytes).map_err(|_| E::custom("a size is not negative"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
        let no_size = || E::custom(format!("{text:?} is no size like 1048576 or \"256 MiB\""));
        bytes(text).map(Bytes).ok_or_else(no_size)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(BytesVisitor)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let no_span = || D::Error::custom(format!("{text:?} is no time like \"500ms\" or \"10s\""));
        span(&text).map(Self).ok_or_else(no_span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(bytes("256 MiB"), Some(256 << 20));
        assert_eq!(bytes("1GiB"), Some(1 << 30));
        assert_eq!(bytes("4096"), Some(4_096));
        for text in ["", "MiB", "5 MB", "-1", "1.5 GiB", "99999999 TiB"] {
            assert_eq!(bytes(text), None, "{text:?}");
        }
    }

    #[test]
    fn spans_have_units() {
        assert_eq!(span("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(span("2m"), Some(Duration::from_secs(120)));
        for text in ["", "5", "s", "5 weeks"] {
            assert_eq!(span(text), None, "{text:?}");
        }
    }
}
