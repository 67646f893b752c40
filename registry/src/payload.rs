//! An event's JSON as the validator sees it: the sonic value itself, without a copy.
//!
//! Promises
//! - Integers are exact to 64 bits; what is larger or has a fraction is a double. `3.0` is an
//!   integer (but in draft 4), `1.0` equals `1`, lengths count code points.
//! - A validation ends: every look at a node takes a step from a budget, and when the budget is
//!   used up containers look empty, which unwinds the validation at once. [`judge`] then says so.
//! - Nothing of the payload is copied into an error.
//!
//! Assumes text that nests at most 64 deep and has no key twice (`scan.rs`, or the gateway's own
//! scan), since sonic's parser recurses and takes the last of two equal keys.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::HashSet;
use std::hash::{BuildHasher as _, Hash, Hasher};
use std::slice;
use std::sync::LazyLock;

use jsonschema::json::{Array, Json, JsonNumber, Node, NodeIdentity, Object};
use jsonschema::{JsonType, Validator};
use sonic_rs::{
    JsonContainerTrait as _, JsonNumberTrait as _, JsonType as SonicType, JsonValueTrait as _,
    Value,
};

use crate::verdict::Violation;

/// Validates `json` within `steps_max` looks at its nodes.
pub(crate) fn judge(
    validator: &Validator<Sonic>,
    json: &str,
    steps_max: u32,
) -> Result<(), Violation> {
    let Ok(value) = sonic_rs::from_str::<Value>(json) else {
        return Err(Violation::unreadable());
    };
    refill(steps_max);
    let valid = validator.is_valid(&value);
    if steps_are_used_up() {
        return Err(Violation::too_costly());
    }
    if valid {
        return Ok(());
    }
    refill(steps_max);
    Err(match validator.validate(&value) {
        Err(error) => Violation::of(&error),
        Ok(()) => Violation::too_costly(),
    })
}

thread_local! {
    /// Looks at nodes that the validation running on this thread has left. A validation runs on
    /// one thread from start to end, and none runs inside another.
    static STEPS_LEFT: Cell<u32> = const { Cell::new(0) };
}

fn refill(steps: u32) {
    STEPS_LEFT.set(steps);
}

fn steps_are_used_up() -> bool {
    STEPS_LEFT.get() == 0
}

/// Takes a step; false when none is left.
#[inline]
fn step() -> bool {
    let left = STEPS_LEFT.get().saturating_sub(1);
    STEPS_LEFT.set(left);
    left != 0
}

/// The representation: sonic values, read in place.
pub(crate) struct Sonic;

impl Json for Sonic {
    type Node<'a> = &'a Value;
    type PreparedKey = Box<str>;
    type StringBuffer = Value;

    // A look-up walks the members, as a pass over them does.
    const KEYS_PER_LOOKUP: usize = 4;
    const ACYCLIC: bool = true;

    fn prepare_key(key: &str) -> Box<str> {
        key.into()
    }

    fn with_string_node<T>(
        buffer: &mut Value,
        string: &str,
        f: impl FnOnce(Self::Node<'_>) -> T,
    ) -> T {
        *buffer = Value::from(string);
        f(buffer)
    }
}

impl<'a> Node<'a, Sonic> for &'a Value {
    type Object = Members<'a>;
    type Array = Elements<'a>;
    type Number = Number;

    fn as_object(&self) -> Option<Members<'a>> {
        if !step() {
            return None;
        }
        (*self).as_object().map(Members)
    }

    fn as_array(&self) -> Option<Elements<'a>> {
        if !step() {
            return None;
        }
        (*self).as_array().map(|array| Elements(array))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        step();
        (*self).as_str().map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<Number> {
        step();
        (*self).as_number().map(Number)
    }

    fn as_boolean(&self) -> Option<bool> {
        (*self).as_bool()
    }

    fn is_null(&self) -> bool {
        (*self).get_type() == SonicType::Null
    }

    fn is_number(&self) -> bool {
        (*self).get_type() == SonicType::Number
    }

    fn is_string(&self) -> bool {
        (*self).get_type() == SonicType::String
    }

    fn json_type(&self) -> JsonType {
        step();
        match (*self).get_type() {
            SonicType::Null => JsonType::Null,
            SonicType::Boolean => JsonType::Boolean,
            SonicType::Number => JsonType::Number,
            SonicType::String => JsonType::String,
            SonicType::Array => JsonType::Array,
            SonicType::Object => JsonType::Object,
        }
    }

    fn string_length_within(&self, min: u64, max: u64) -> Option<bool> {
        let text = (*self).as_str()?;
        // A code point takes one to four bytes, which often decides without counting.
        let bytes_max = text.len() as u64;
        let fewest = bytes_max.div_ceil(4);
        if bytes_max < min || fewest > max {
            return Some(false);
        }
        if min <= fewest && bytes_max <= max {
            return Some(true);
        }
        Some((min..=max).contains(&(text.chars().count() as u64)))
    }

    fn equals_value(&self, expected: &serde_json::Value) -> bool {
        equal(self, expected)
    }

    // The validator shows values in its errors, and compares by copies where it is not told
    // better. Our errors never show a value, and what compares is overridden here.
    fn to_value(&self) -> Cow<'a, serde_json::Value> {
        Cow::Borrowed(&serde_json::Value::Null)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref::<Value>(self).addr()))
    }
}

/// Equality of JSON Schema: numbers by value, members in any order.
fn equal(value: &Value, expected: &serde_json::Value) -> bool {
    if !step() {
        return false;
    }
    match expected {
        serde_json::Value::Null => value.is_null(),
        serde_json::Value::Bool(expected) => value.as_bool() == Some(*expected),
        serde_json::Value::String(expected) => value.as_str() == Some(expected),
        serde_json::Value::Number(expected) => {
            let number = value.as_number();
            number.is_some_and(|number| Exact::of(&number) == Exact::expected(expected))
        }
        serde_json::Value::Array(expected) => value.as_array().is_some_and(|items| {
            items.len() == expected.len()
                && items.iter().zip(expected).all(|(item, expected)| equal(item, expected))
        }),
        serde_json::Value::Object(expected) => value.as_object().is_some_and(|members| {
            members.len() == expected.len()
                && expected.iter().all(|(key, expected)| {
                    members.get(key).is_some_and(|member| equal(member, expected))
                })
        }),
    }
}

/// A value as a member of a set, by JSON Schema's equality.
struct ByValue<'a>(&'a Value);

impl PartialEq for ByValue<'_> {
    fn eq(&self, other: &Self) -> bool {
        if !step() {
            return false;
        }
        let (one, other) = (self.0, other.0);
        if let (Some(one), Some(other)) = (one.as_number(), other.as_number()) {
            return Exact::of(&one) == Exact::of(&other);
        }
        if let (Some(one), Some(other)) = (one.as_array(), other.as_array()) {
            let same_length = one.len() == other.len();
            return same_length && one.iter().map(ByValue).eq(other.iter().map(ByValue));
        }
        if let (Some(one), Some(other)) = (one.as_object(), other.as_object()) {
            let same_length = one.len() == other.len();
            return same_length
                && one.iter().all(|(key, member)| {
                    other.get(&key).is_some_and(|other| ByValue(member) == ByValue(other))
                });
        }
        match (one.as_str(), other.as_str()) {
            (Some(one), Some(other)) => one == other,
            _ => one.get_type() == other.get_type() && one.as_bool() == other.as_bool(),
        }
    }
}

impl Eq for ByValue<'_> {}

impl Hash for ByValue<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if !step() {
            return;
        }
        if let Some(number) = self.0.as_number() {
            Exact::of(&number).hash(state);
        } else if let Some(text) = self.0.as_str() {
            text.hash(state);
        } else if let Some(items) = self.0.as_array() {
            items.iter().for_each(|item| Self(item).hash(state));
        } else if let Some(members) = self.0.as_object() {
            // Members come in any order.
            let each = members.iter().map(|(name, member)| MEMBERS.hash_one((name, Self(member))));
            each.fold(0_u64, u64::wrapping_add).hash(state);
        } else {
            self.0.as_bool().hash(state);
        }
    }
}

/// For sums over members, where each needs a hash of its own.
static MEMBERS: LazyLock<foldhash::quality::RandomState> =
    LazyLock::new(foldhash::quality::RandomState::default);

/// A number's value, in one form for all texts of it.
#[derive(PartialEq, Eq, Hash)]
enum Exact {
    /// Whole, and within 64 bits.
    Integer(i128),
    /// Any other; the bits of a double that is neither zero nor NaN.
    Double(u64),
}

impl Exact {
    fn of(number: &sonic_rs::Number) -> Self {
        Self::new(number.as_u64(), number.as_i64(), number.as_f64())
    }

    fn expected(number: &serde_json::Number) -> Self {
        Self::new(number.as_u64(), number.as_i64(), number.as_f64())
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the double is whole and within ±2^64, where the conversion is exact"
    )]
    fn new(positive: Option<u64>, negative: Option<i64>, double: Option<f64>) -> Self {
        let integer = positive.map(i128::from).or_else(|| negative.map(i128::from));
        if let Some(integer) = integer {
            return Self::Integer(integer);
        }
        let double = double.unwrap_or_default();
        if double.fract() == 0.0 && double.abs() <= 2.0 * WIDER_THAN_64_BITS {
            Self::Integer(double as i128)
        } else {
            Self::Double(double.to_bits())
        }
    }
}

/// A number of a payload.
pub(crate) struct Number(sonic_rs::Number);

impl Number {
    /// The number, when its text was an integer of at most 64 bits.
    fn integer(&self) -> Option<i128> {
        self.0.as_u64().map(i128::from).or_else(|| self.0.as_i64().map(i128::from))
    }
}

/// From here on every double is whole, and the digits of an integer do not fit 64 bits.
const WIDER_THAN_64_BITS: f64 = 9_223_372_036_854_775_808.0;

impl JsonNumber for Number {
    fn as_u64(&self) -> Option<u64> {
        self.0.as_u64()
    }

    fn as_i64(&self) -> Option<i64> {
        self.0.as_i64()
    }

    fn as_f64(&self) -> Option<f64> {
        self.0.as_f64()
    }

    fn as_str(&self) -> Cow<'_, str> {
        Cow::Owned(match (self.integer(), self.0.as_f64()) {
            (Some(integer), _) => integer.to_string(),
            // Without an exponent, and with all digits that a whole double stands for.
            (None, Some(double)) if double.fract() == 0.0 => format!("{double:.0}"),
            (None, double) => double.unwrap_or_default().to_string(),
        })
    }

    fn to_number(&self) -> Cow<'_, serde_json::Number> {
        let number = match self.0.as_u64() {
            Some(integer) => Some(serde_json::Number::from(integer)),
            None => match self.0.as_i64() {
                Some(integer) => Some(serde_json::Number::from(integer)),
                None => self.0.as_f64().and_then(serde_json::Number::from_f64),
            },
        };
        Cow::Owned(number.unwrap_or_else(|| serde_json::Number::from(0)))
    }

    fn is_integer(&self) -> bool {
        self.integer().is_some() || self.0.as_f64().is_some_and(|double| double.fract() == 0.0)
    }

    fn is_written_as_integer(&self) -> bool {
        self.integer().is_some()
            || self.0.as_f64().is_some_and(|double| double.abs() >= WIDER_THAN_64_BITS)
    }
}

/// The members of an object.
pub(crate) struct Members<'a>(&'a sonic_rs::Object);

impl<'a> Object<'a, Sonic> for Members<'a> {
    type Node = &'a Value;
    type MemberName = &'a str;
    type MembersIter = MembersIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &Box<str>) -> Option<&'a Value> {
        if !step() {
            return None;
        }
        self.0.get(key)
    }

    fn members(&self) -> MembersIter<'a> {
        MembersIter(self.0.iter())
    }
}

/// Goes over the members of an object, and stops when no step is left.
pub(crate) struct MembersIter<'a>(sonic_rs::value::object::Iter<'a>);

impl<'a> Iterator for MembersIter<'a> {
    type Item = (&'a str, &'a Value);

    fn next(&mut self) -> Option<Self::Item> {
        if !step() {
            return None;
        }
        self.0.next()
    }
}

/// The elements of an array.
pub(crate) struct Elements<'a>(&'a [Value]);

impl<'a> Array<'a, Sonic> for Elements<'a> {
    type Node = &'a Value;
    type ElementsIter = ElementsIter<'a>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> ElementsIter<'a> {
        ElementsIter(self.0.iter())
    }

    fn is_unique(&self) -> bool {
        let random = foldhash::quality::RandomState::default();
        let mut seen = HashSet::with_capacity_and_hasher(self.0.len(), random);
        self.0.iter().all(|item| seen.insert(ByValue(item)))
    }
}

/// Goes over the elements of an array, and stops when no step is left.
pub(crate) struct ElementsIter<'a>(slice::Iter<'a, Value>);

impl<'a> Iterator for ElementsIter<'a> {
    type Item = &'a Value;

    fn next(&mut self) -> Option<&'a Value> {
        if !step() {
            return None;
        }
        self.0.next()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use crate::compile::{Limits, compile};

    fn takes(schema: &str, payload: &str) -> bool {
        let compiled = compile(schema.as_bytes(), &Limits::default()).unwrap();
        compiled.judge(payload).is_ok()
    }

    #[test]
    fn integers_are_exact_to_64_bits() {
        for (schema, yes, no) in [
            (r#"{"maximum": 9007199254740992}"#, "9007199254740992", "9007199254740993"),
            (r#"{"minimum": -9007199254740992}"#, "-9007199254740992", "-9007199254740993"),
            (r#"{"exclusiveMaximum": 9007199254740993}"#, "9007199254740992", "9007199254740993"),
            (r#"{"const": 9007199254740993}"#, "9007199254740993", "9007199254740992"),
            (
                r#"{"enum": [18446744073709551615, 1]}"#,
                "18446744073709551615",
                "18446744073709551614",
            ),
            (
                r#"{"maximum": 18446744073709551615}"#,
                "18446744073709551615",
                "18446744073709551616",
            ),
            (
                r#"{"minimum": -9223372036854775808}"#,
                "-9223372036854775808",
                "-9223372036854777856",
            ),
            (r#"{"multipleOf": 3}"#, "9223372036854775806", "9223372036854775807"),
        ] {
            assert!(takes(schema, yes), "{schema} takes {yes}");
            assert!(!takes(schema, no), "{schema} refuses {no}");
        }
    }

    #[test]
    fn multiples_are_decimal() {
        let cents = r#"{"multipleOf": 0.01}"#;
        for yes in
            ["19.99", "4.02", "1070468.14", "0", "0.0", "-19.99", "7", "1e2", "12345678901.23"]
        {
            assert!(takes(cents, yes), "{yes}");
        }
        for no in ["4.025", "19.999", "0.001", "-0.005", "1e-3"] {
            assert!(!takes(cents, no), "{no}");
        }
        assert!(takes(r#"{"multipleOf": 0.1}"#, "0.3"));
        assert!(!takes(r#"{"multipleOf": 0.1}"#, "0.35"));
        assert!(takes(r#"{"multipleOf": 2.5}"#, "1e3"));
        assert!(takes(r#"{"multipleOf": 1e-8}"#, "12.3456789"));
        // Wider than 64 bits it is the double that is next to it, which is one.
        assert!(takes(r#"{"multipleOf": 6}"#, "900719920547444444444444444444440"));
    }

    #[test]
    fn a_zero_fraction_is_an_integer_but_in_draft_4() {
        let integer = r#"{"type": "integer"}"#;
        for yes in ["3", "3.0", "-3.00", "3e2", "1e300", "123456789012345678901234567890"] {
            assert!(takes(integer, yes), "{yes}");
        }
        for no in ["3.5", "\"3\"", "true", "null", "3e-1"] {
            assert!(!takes(integer, no), "{no}");
        }
        let draft_4 =
            r#"{"$schema": "http://json-schema.org/draft-04/schema#", "type": "integer"}"#;
        assert!(takes(draft_4, "3"));
        assert!(!takes(draft_4, "3.0"));
    }

    #[test]
    fn values_are_equal_by_meaning() {
        for (schema, yes, no) in [
            (
                r#"{"const": 1}"#,
                vec!["1", "1.0", "1e0", "10e-1"],
                vec!["true", "\"1\"", "[1]", "1.5"],
            ),
            (r#"{"const": 1.0}"#, vec!["1", "1.0"], vec!["true"]),
            (r#"{"const": 0}"#, vec!["0", "-0", "0.0", "-0.0"], vec!["false", "null", "\"\""]),
            (r#"{"const": 1.5}"#, vec!["1.5", "15e-1"], vec!["1", "2"]),
            (
                r#"{"const": {"a": [1, null], "b": true}}"#,
                vec![r#"{"b": true, "a": [1.0, null]}"#],
                vec![
                    r#"{"a": [1], "b": true}"#,
                    r#"{"a": [1, null]}"#,
                    r#"{"a": [1, null], "b": true, "c": 0}"#,
                ],
            ),
            (
                r#"{"enum": ["€", {"x": 1}, false]}"#,
                vec![r#""\u20ac""#, r#"{"x": 1.0}"#, "false"],
                vec!["0", "\"E\"", "{}"],
            ),
        ] {
            for yes in yes {
                assert!(takes(schema, yes), "{schema} takes {yes}");
            }
            for no in no {
                assert!(!takes(schema, no), "{schema} refuses {no}");
            }
        }
    }

    #[test]
    fn unique_items_are_compared_by_meaning() {
        let unique = r#"{"uniqueItems": true}"#;
        for yes in [
            "[]",
            "[1, true, \"1\", null, [], {}]",
            "[9007199254740992, 9007199254740993]",
            r#"[{"a": 1}, {"a": 2}, {"b": 1}, [1], [1, 2]]"#,
        ] {
            assert!(takes(unique, yes), "{yes}");
        }
        for no in [
            "[1, 1.0]",
            "[0, -0.0]",
            r#"[{"a": 1, "b": [2]}, {"b": [2.0], "a": 1}]"#,
            r#"["\u0061", "a"]"#,
            "[[1, [2]], [1, [2]]]",
        ] {
            assert!(!takes(unique, no), "{no}");
        }
    }

    #[test]
    fn names_of_properties_are_strings_like_any_other() {
        let names = r#"{"propertyNames": {"maxLength": 3, "pattern": "^[a-z🦀]+$"}}"#;
        assert!(takes(names, r#"{"abc": 1, "🦀🦀🦀": 2}"#));
        assert!(!takes(names, r#"{"abcd": 1}"#));
        assert!(!takes(names, r#"{"A": 1}"#));
        let long = format!(r#"{{"{}": 1}}"#, "n".repeat(10_000));
        assert!(!takes(names, &long));
    }

    #[test]
    fn wide_objects_are_looked_up_right() {
        let properties: Vec<_> = (0..100).map(|i| format!(r#""p{i}": {{"const": {i}}}"#)).collect();
        let schema =
            format!(r#"{{"properties": {{{}}}, "required": ["p0", "p99"]}}"#, properties.join(","));
        let members: Vec<_> = (0..100).rev().map(|i| format!(r#""p{i}": {i}"#)).collect();
        assert!(takes(&schema, &format!("{{{}}}", members.join(","))));
        assert!(!takes(&schema, &format!("{{{}}}", members[..99].join(","))));
        assert!(!takes(&schema, r#"{"p0": 0, "p99": 98}"#));
    }

    #[test]
    fn text_that_is_no_json_is_refused_without_a_panic() {
        for text in ["", "{", "{\"a\":}", "nul", "{} {}", "\"\\ud800\""] {
            assert!(!takes("true", text), "{text}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<u64>().prop_map(Into::into),
            (-4_i32..4).prop_map(|n| serde_json::json!(f64::from(n) / 2.0)),
            "[a-c🦀]{0,3}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map("[a-c]{1,2}", inner, 0..4).prop_map(|members| members
                    .into_iter()
                    .collect::<serde_json::Map<_, _>>()
                    .into()),
            ]
        })
    }

    proptest! {
        /// The validator on a plain tree of values is the oracle of the one that reads in place.
        #[test]
        fn verdicts_are_those_of_a_plain_tree(payload in json(), other in json(), rule in 0_usize..7) {
            let schema = match rule {
                0 => serde_json::json!({"const": other}),
                1 => serde_json::json!({"enum": [other, payload]}),
                2 => serde_json::json!({"uniqueItems": true, "items": {"not": {"const": other}}}),
                3 => serde_json::json!({"type": ["integer", "string", "array", "object"]}),
                4 => serde_json::json!({"additionalProperties": {"type": ["integer", "array"]}, "maxProperties": 2}),
                5 => serde_json::json!({"minimum": 0, "maxLength": 2, "minItems": 1, "required": ["a"]}),
                _ => serde_json::json!({"propertyNames": {"maxLength": 1}, "contains": {"type": "number"}}),
            };
            let oracle = jsonschema::validator_for(&schema).unwrap().is_valid(&payload);
            prop_assert_eq!(takes(&schema.to_string(), &payload.to_string()), oracle);
        }
    }
}
