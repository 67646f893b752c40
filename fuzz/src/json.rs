//! JSON read by a parser that is not ours, under the gateway's stricter rules: no key twice in an
//! object, no lone surrogate, no number beyond a double, so many levels at most.
//!
//! Numbers are told as doubles, strings as what they say. Called by the targets that hold our
//! scan against it.

use std::collections::HashSet;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// A value as any parser reads it.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// A finite double.
    Number(f64),
    /// What it says.
    Text(String),
    /// The elements.
    Array(Vec<Tree>),
    /// The members, in the order sent; no key is there twice.
    Object(Vec<(String, Tree)>),
}

impl Tree {
    /// What `text` says, if the rules let it pass with `depth_max` levels of arrays and objects.
    #[must_use]
    pub fn read(text: &str, depth_max: usize) -> Option<Self> {
        let raw: &RawValue = serde_json::from_str(text).ok()?;
        Self::of(raw.get(), depth_max)
    }

    fn of(text: &str, levels_left: usize) -> Option<Self> {
        Some(match text.as_bytes().first()? {
            b'{' => {
                let levels_left = levels_left.checked_sub(1)?;
                let members = serde_json::Deserializer::from_str(text).deserialize_map(Members);
                let members = members.ok()?.into_iter();
                let read = |(key, value): (String, &RawValue)| {
                    Some((key, Self::of(value.get(), levels_left)?))
                };
                let members = members.map(read).collect::<Option<Vec<_>>>()?;
                let keys: HashSet<_> = members.iter().map(|(key, _)| key).collect();
                (keys.len() == members.len()).then_some(())?;
                Self::Object(members)
            }
            b'[' => {
                let levels_left = levels_left.checked_sub(1)?;
                let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                let elements = elements.into_iter().map(|one| Self::of(one.get(), levels_left));
                Self::Array(elements.collect::<Option<_>>()?)
            }
            b'"' => Self::Text(serde_json::from_str(text).ok()?),
            b'n' => Self::Null,
            b't' | b'f' => Self::Bool(serde_json::from_str(text).ok()?),
            _ => Self::Number(text.parse().ok().filter(|number: &f64| number.is_finite())?),
        })
    }

    /// How many objects and arrays lie in one another.
    #[must_use]
    pub fn depth(&self) -> usize {
        match self {
            Self::Array(elements) => 1 + elements.iter().map(Self::depth).max().unwrap_or(0),
            Self::Object(members) => {
                1 + members.iter().map(|(_, value)| value.depth()).max().unwrap_or(0)
            }
            _ => 0,
        }
    }
}

/// Reads an object's members with their texts, equal keys and all.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(members)
    }
}
