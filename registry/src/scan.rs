//! The look at a body's bytes before any recursive parser sees them.
//!
//! [`depth_within`] reads once, without recursion; [`parse`] runs only after it. Together they
//! refuse what an event's JSON may not hold either: deep nesting, a key twice in one object,
//! numbers that no double holds.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::error::SchemaError;

/// Deepest nesting of arrays and objects: that of an event.
pub(crate) const DEPTH_MAX: usize = 64;

/// Reads `bytes` as one JSON value of at most `values_max` values.
pub(crate) fn parse(bytes: &[u8], values_max: usize) -> Result<Value, SchemaError> {
    let text = text_of(bytes)?;
    let values = unique_keys(text)?;
    if values > values_max {
        return Err(SchemaError::new(
            "",
            format!("it holds {values} values; at most {values_max} are taken"),
        ));
    }
    let value: Value = serde_json::from_str(text).map_err(|e| unreadable(&e))?;
    finite(&value)?;
    Ok(value)
}

/// Accepts `bytes` as the JSON text of a payload, by the same rules.
pub(crate) fn payload(bytes: &[u8]) -> Result<&str, SchemaError> {
    let text = text_of(bytes)?;
    parse(bytes, usize::MAX)?;
    Ok(text)
}

/// `bytes` as text that a recursive parser may read.
fn text_of(bytes: &[u8]) -> Result<&str, SchemaError> {
    if !depth_within(bytes, DEPTH_MAX) {
        return Err(SchemaError::new("", format!("it nests deeper than {DEPTH_MAX} levels")));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| SchemaError::new("", "it is not UTF-8"))?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Whether arrays and objects nest at most `depth_max` deep, brackets in strings aside. On bytes
/// that are no JSON the answer counts every bracket that a parser could still see as one.
fn depth_within(bytes: &[u8], depth_max: usize) -> bool {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut bytes = bytes.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => {
                bytes.next();
            }
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > depth_max {
                    return false;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

/// Counts the values of `text`; refuses an object that has a key twice, after unescaping.
fn unique_keys(text: &str) -> Result<usize, SchemaError> {
    let Counted(values) = serde_json::from_str(text).map_err(|e| unreadable(&e))?;
    Ok(values)
}

fn unreadable(error: &serde_json::Error) -> SchemaError {
    SchemaError::new("", format!("it cannot be read as JSON: {error}"))
}

/// Refuses a number that overflows a double. Depth is bounded by now.
fn finite(value: &Value) -> Result<(), SchemaError> {
    match value {
        Value::Number(number) if number.as_f64().is_none_or(|number| !number.is_finite()) => {
            Err(SchemaError::new("", "it holds a number that a double cannot hold"))
        }
        Value::Array(items) => items.iter().try_for_each(finite),
        Value::Object(members) => members.values().try_for_each(finite),
        _ => Ok(()),
    }
}

/// How many values a JSON text holds, itself included.
struct Counted(usize);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl<'de> Visitor<'de> for CountVisitor {
    type Value = Counted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Counted, E> {
        Ok(Counted(1))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Counted, E> {
        Ok(Counted(1))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Counted, E> {
        Ok(Counted(1))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Counted, E> {
        Ok(Counted(1))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Counted, E> {
        Ok(Counted(1))
    }

    fn visit_str<E>(self, _: &str) -> Result<Counted, E> {
        Ok(Counted(1))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Counted, A::Error> {
        let mut values = 1;
        while let Some(Counted(inner)) = items.next_element()? {
            values += inner;
        }
        Ok(Counted(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Counted, A::Error> {
        let mut values = 1;
        let mut keys = HashSet::new();
        while let Some(Key(key)) = members.next_key()? {
            let Counted(inner) = members.next_value()?;
            values += inner;
            if let Some(key) = keys.replace(key) {
                return Err(A::Error::custom(format_args!("the key {key:?} is there twice")));
            }
        }
        Ok(Counted(values))
    }
}

/// A key, borrowed where the text holds no escape in it.
#[derive(PartialEq, Eq, Hash)]
struct Key<'de>(Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Borrowed(key)))
    }

    fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
        Ok(Key(Cow::Owned(key.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_counted_outside_of_strings_only() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(64).as_bytes(), 1_000).is_ok());
        assert!(parse(nested(65).as_bytes(), 1_000).is_err());
        assert!(parse(format!("\"{}\"", "[".repeat(100)).as_bytes(), 10).is_ok());
        assert!(parse(format!("[\"\\\"\", {}", nested(64)).as_bytes(), 10).is_err());
        assert!(parse("[".repeat(1_000_000).as_bytes(), 10).is_err());
    }

    #[test]
    fn a_key_twice_is_seen_through_escapes() {
        let error = parse(br#"{"a": {"type": 1, "\u0074ype": 2}}"#, 100).unwrap_err();
        assert!(error.message.contains("\"type\""), "{error}");
        assert!(parse(br#"{"a": {"a": 1}, "b": {"a": 1}}"#, 100).is_ok());
    }

    #[test]
    fn numbers_beyond_a_double_and_broken_text_are_refused() {
        assert!(parse(b"[1e400]", 10).is_err());
        assert!(parse(b"[-1e400]", 10).is_err());
        assert!(parse(b"[1e308, 123456789012345678901234567890]", 10).is_ok());
        assert!(parse(b"\"\\ud800\"", 10).is_err());
        assert!(parse(b"\"\xff\"", 10).is_err());
        assert!(parse(b"{} {}", 10).is_err());
        assert!(parse(b"", 10).is_err());
    }

    #[test]
    fn the_number_of_values_is_bounded() {
        assert!(parse(b"[1, 2, {\"a\": null}]", 5).is_ok());
        assert!(parse(b"[1, 2, {\"a\": null}]", 4).is_err());
    }
}
