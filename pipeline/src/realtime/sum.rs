//! Numbers in events: where one lies, and reading it.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use tracklog_protocol::event::{EventView, Fields, Property};

const ROOT: &str = "properties.";

/// Where in events a number is looked for: `properties.total`, or deeper, `properties.cart.total`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct SumPath(Box<str>);

/// The text is no such place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no place of a number like \"properties.total\"")]
pub struct SumPathError {
    /// The text.
    pub text: String,
}

impl SumPath {
    /// As it was written.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.0
    }

    /// The number that is there. A number in quotes is none.
    #[must_use]
    pub fn number(&self, event: &EventView<'_>) -> Option<f64> {
        let mut names = self.0[ROOT.len()..].split('.');
        let mut value = event.property(names.next().unwrap_or_default())?;
        for name in names {
            let Property::Object(text) = value else { return None };
            value = member(text, name)?;
        }
        match value {
            Property::Number(number) => number.as_f64(),
            _ => None,
        }
    }
}

fn member<'a>(object: &'a str, wanted: &str) -> Option<Property<'a>> {
    let mut spans = Fields::of(object).map_while(Result::ok);
    spans.find(|span| span.name(object).is_some_and(|name| name == wanted))?.value(object)
}

impl FromStr for SumPath {
    type Err = SumPathError;

    fn from_str(text: &str) -> Result<Self, SumPathError> {
        let names = text.strip_prefix(ROOT);
        match names.is_some_and(|names| names.split('.').all(|name| !name.is_empty())) {
            true => Ok(Self(text.into())),
            false => Err(SumPathError { text: text.to_owned() }),
        }
    }
}

impl TryFrom<String> for SumPath {
    type Error = SumPathError;

    fn try_from(text: String) -> Result<Self, SumPathError> {
        text.parse()
    }
}

impl fmt::Display for SumPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use tracklog_protocol::event::{EventBuilder, EventParts};

    use super::*;

    fn number(properties: &str, path: &str) -> Option<f64> {
        let mut builder = EventBuilder::new();
        let parts = EventParts { message_id: "1", ..EventParts::default() };
        let parts = EventParts { properties: Some(properties), ..parts };
        let record = builder.build(&parts);
        path.parse::<SumPath>().unwrap().number(&EventView::of(record).unwrap())
    }

    #[test]
    fn a_number_is_found_where_it_is_and_is_nothing_else() {
        let properties = r#"{"total":12.5,"cart":{"size":{"items":3}},"sku":"7","off":null}"#;
        assert_eq!(number(properties, "properties.total"), Some(12.5));
        assert_eq!(number(properties, "properties.cart.size.items"), Some(3.0));
        for nothing in ["sku", "off", "cart", "cart.size", "total.x", "cart.none", "none"] {
            assert_eq!(number(properties, &format!("properties.{nothing}")), None, "{nothing}");
        }
        assert_eq!(number(r#"{"big":1e999}"#, "properties.big"), None);
    }

    #[test]
    fn what_names_no_property_is_refused() {
        for text in ["", "total", "properties", "properties.", "properties.a..b", "traits.age"] {
            assert!(text.parse::<SumPath>().is_err(), "{text}");
        }
    }
}
