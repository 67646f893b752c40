//! Properties: typed values by name, and the walk that makes an index.

use std::borrow::Cow;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;
use tracklog_protocol::event::{
    EventBuilder, EventParts, EventView, Fields, JSON_DEPTH_MAX, Property, PropertySpan,
};

use crate::sample;

/// Asks one event for a property, by the index and by walking the text.
fn with_property(properties: &str, name: &str, check: impl Fn(Option<Property<'_>>)) {
    let index = sample::index(properties);
    let mut builder = EventBuilder::new();
    for property_index in [&index[..], &[]] {
        let properties = Some(properties);
        let parts = EventParts { properties, property_index, ..EventParts::default() };
        let event = EventView::of(builder.build(&parts)).unwrap();
        check(event.property(name));
    }
}

fn assert_text(properties: &str, name: &str, expected: &str) {
    with_property(properties, name, |property| match property {
        Some(Property::String(text)) => assert_eq!(text.text(), expected, "{properties}"),
        other => panic!("{name:?} of {properties} is {other:?}"),
    });
}

#[test]
fn values_are_typed_and_keep_their_tokens() {
    let text =
        r#"{ "a" : null, "b":true,"c":false ,"d":-12.500e0,"e":"x\ny","f":[1, {}],"g":{"h":1} }"#;
    with_property(text, "a", |value| assert_eq!(value, Some(Property::Null)));
    with_property(text, "b", |value| assert_eq!(value, Some(Property::Bool(true))));
    with_property(text, "c", |value| assert_eq!(value, Some(Property::Bool(false))));
    with_property(text, "d", |value| {
        let Some(Property::Number(number)) = value else { panic!("{value:?}") };
        assert_eq!(number.token(), "-12.500e0");
        assert_eq!(number.as_f64(), Some(-12.5));
    });
    with_property(text, "e", |value| {
        let Some(Property::String(string)) = value else { panic!("{value:?}") };
        assert_eq!(string.token(), r#""x\ny""#);
        assert_eq!(string.text(), "x\ny");
    });
    with_property(text, "f", |value| assert_eq!(value, Some(Property::Array("[1, {}]"))));
    with_property(text, "g", |value| assert_eq!(value, Some(Property::Object("{\"h\":1}"))));
    with_property(text, "h", |value| assert_eq!(value, None));
}

#[test]
fn integers_keep_64_bits() {
    let number = |token: &str| {
        let text = format!("{{\"n\":{token}}}");
        let Some(Property::Number(number)) = sample::index(&text)[0].value(&text) else { panic!() };
        (number.as_i64(), number.as_u64(), number.as_f64())
    };
    assert_eq!(number("9007199254740993").0, Some(9_007_199_254_740_993));
    assert_eq!(number("18446744073709551615").1, Some(u64::MAX));
    assert_eq!(number("18446744073709551616").1, None);
    assert_eq!(number("-9223372036854775808"), (Some(i64::MIN), None, Some(i64::MIN as f64)));
    assert_eq!(number("1.0"), (None, None, Some(1.0)));
    assert_eq!(number("1e3"), (None, None, Some(1000.0)));
    assert_eq!(number("1e400"), (None, None, None));
    assert_eq!(number("-0").2, Some(0.0));
}

#[test]
fn names_are_found_by_what_they_say() {
    assert_text(r#"{"pri\u0063e":"1"}"#, "price", "1");
    assert_text(r#"{"a\/b\"c\\":"1"}"#, "a/b\"c\\", "1");
    assert_text(r#"{"\ud83d\uDE00":"1"}"#, "😀", "1");
    assert_text(r#"{"":"empty","a":"1"}"#, "", "empty");
    assert_text(r#"{"a.b":"dot","a":{"b":"nested"}}"#, "a.b", "dot");
    assert_text(r#"{"price_old":"1","price":"2","pricey":"3"}"#, "price", "2");
    assert_text(r#"{"größe":"ß"}"#, "größe", "ß");
    assert_text("{\"a\\u0000b\":\"nul\"}", "a\0b", "nul");
    // The escape's own letters are no name.
    with_property(r#"{"\u0061":1}"#, "\\u0061", |value| assert_eq!(value, None));
}

#[test]
fn escapes_that_are_none_do_not_stop_a_reader() {
    let text = |token: &str| {
        let text = format!("{{\"a\":{token}}}");
        let Some(Property::String(string)) = sample::index(&text)[0].value(&text) else { panic!() };
        string.text().into_owned()
    };
    assert_eq!(text(r#""\ud83d""#), "\u{fffd}");
    assert_eq!(text(r#""\ud83dx""#), "\u{fffd}x");
    assert_eq!(text(r#""\ud83d\u0041""#), "\u{fffd}A");
    assert_eq!(text(r#""\ude00\ud83d\ude00""#), "\u{fffd}😀");
    assert_eq!(text(r#""\b\f\n\r\t\/""#), "\u{8}\u{c}\n\r\t/");
}

#[test]
fn a_span_over_anything_reads_without_panic() {
    let text = r#"\u12\ud800\u"\é"\"#;
    for at in 0..=text.len() as u32 + 1 {
        for len in 0..=text.len() as u32 + 1 {
            for span in sample::index(sample::PROPERTIES) {
                let name_escaped = true;
                let span = PropertySpan {
                    name_at: at,
                    name_len: len,
                    value_at: at,
                    value_len: len,
                    name_escaped,
                    ..span
                };
                assert!(span.name(text).is_none_or(|name| name.len() <= 2 * text.len()));
                match span.value(text) {
                    Some(Property::String(string)) => drop(string.text()),
                    Some(Property::Number(number)) => {
                        assert!(number.as_f64().is_none_or(f64::is_finite));
                        assert!(number.as_i64().is_none_or(|number| number < 1000));
                        assert!(number.as_u64().is_none_or(|number| number < 1000));
                    }
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn an_unescaped_string_is_not_copied() {
    let text = r#"{"a":"plain"}"#;
    let Some(Property::String(string)) = sample::index(text)[0].value(text) else { panic!() };
    assert!(matches!(string.text(), Cow::Borrowed("plain")));
}

fn is_object(text: &str) -> bool {
    Fields::of(text).all(|field| field.is_ok())
}

#[test]
fn depth_is_bounded_without_recursion() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!("{{\"a\":{}{}}}", open.repeat(depth), close.repeat(depth))
    };
    assert!(is_object(&nested("[", "]", JSON_DEPTH_MAX - 1)));
    assert!(!is_object(&nested("[", "]", JSON_DEPTH_MAX)));
    assert!(is_object(&format!("{{\"a\":{}1{}}}", "{\"b\":".repeat(127), "}".repeat(127))));
    assert!(!is_object(&nested("[", "", 1_000_000)));
}

#[test]
fn an_error_ends_the_walk() {
    let mut fields = Fields::of(r#"{"a":1,"b":x,"c":2}"#);
    assert!(fields.next().unwrap().is_ok());
    assert_eq!(fields.next().unwrap().unwrap_err().at, 11);
    assert_eq!(fields.next(), None);
}

/// A JSON value in one of its many spellings: white space anywhere, letters as escapes.
fn spelled() -> impl Strategy<Value = String> {
    let space = "[ \n\r\t]{0,2}";
    let string = vec(any::<(char, bool)>(), 0..6).prop_map(|characters| {
        let mut out = String::from("\"");
        for (character, is_escaped) in characters {
            if is_escaped || character < ' ' || character == '"' || character == '\\' {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            } else {
                out.push(character);
            }
        }
        out + "\""
    });
    let number = "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,2})?";
    let scalar = prop_oneof![
        string.clone(),
        number,
        Just("true".to_owned()),
        Just("false".to_owned()),
        Just("null".to_owned()),
    ];
    scalar.prop_recursive(4, 24, 4, move |inner| {
        let item = (space, inner, space).prop_map(|(a, b, c)| a + &b + &c);
        let field = (space, string.clone(), space, item.clone())
            .prop_map(|(a, name, b, value)| a + &name + &b + ":" + &value);
        prop_oneof![
            vec(item, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            vec(field, 0..4).prop_map(|fields| format!("{{{}}}", fields.join(","))),
        ]
    })
}

proptest! {
    #[test]
    fn each_field_says_what_another_parser_reads(value in spelled()) {
        let text = format!("{{\"only\":{value} }}");
        let spans = sample::index(&text);
        prop_assert_eq!(spans.len(), 1);
        let property = spans[0].value(&text).unwrap();
        match (property, serde_json::from_str::<Value>(&value).unwrap()) {
            (Property::Null, Value::Null) => {}
            (Property::Bool(ours), Value::Bool(theirs)) => prop_assert_eq!(ours, theirs),
            (Property::Number(ours), Value::Number(_)) => prop_assert_eq!(ours.token(), value),
            (Property::String(ours), Value::String(theirs)) => {
                prop_assert_eq!(&*ours.text(), theirs);
            }
            (Property::Array(ours), Value::Array(_)) => prop_assert_eq!(ours, value),
            (Property::Object(ours), Value::Object(theirs)) => {
                prop_assert_eq!(ours, &*value);
                for span in sample::index(ours) {
                    let name = span.name(ours).unwrap();
                    prop_assert!(theirs.contains_key(&*name));
                }
            }
            (ours, theirs) => prop_assert!(false, "{ours:?} is {theirs:?}"),
        }
    }

    #[test]
    fn the_walk_accepts_what_another_parser_accepts(
        value in spelled(),
        changes in vec((any::<proptest::sample::Index>(), "[\"{}\\[\\],:0-9eE.\\\\u+tn \n-]"), 0..3),
    ) {
        let mut text: Vec<char> = format!("{{\"only\":{value}}}").chars().collect();
        for (at, change) in changes {
            let at = at.index(text.len());
            text[at] = change.chars().next().unwrap();
        }
        let text: String = text.into_iter().collect();
        let theirs = serde_json::from_str::<&RawValue>(&text);
        let is_theirs = theirs.is_ok_and(|value| value.get().starts_with('{'));
        prop_assert_eq!(is_object(&text), is_theirs, "{}", text);
    }
}
