//! Properties: typed values that are read out of the stored text without copying it.
//!
//! The index beside the text says where each top-level field lies. It is believed as far as it
//! fits the text: a span that lies outside of it, or cuts a character, finds nothing.

use std::borrow::Cow;

use crate::generated::event as raw;

/// What a JSON value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueKind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

impl ValueKind {
    const fn to_raw(self) -> raw::ValueKind {
        match self {
            Self::Null => raw::ValueKind::Null,
            Self::Bool => raw::ValueKind::Bool,
            Self::Number => raw::ValueKind::Number,
            Self::String => raw::ValueKind::String,
            Self::Array => raw::ValueKind::Array,
            Self::Object => raw::ValueKind::Object,
        }
    }

    const fn from_raw(kind: raw::ValueKind) -> Option<Self> {
        match kind {
            raw::ValueKind::Null => Some(Self::Null),
            raw::ValueKind::Bool => Some(Self::Bool),
            raw::ValueKind::Number => Some(Self::Number),
            raw::ValueKind::String => Some(Self::String),
            raw::ValueKind::Array => Some(Self::Array),
            raw::ValueKind::Object => Some(Self::Object),
            _ => None,
        }
    }
}

/// Where one field of a JSON object lies in the object's text, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PropertySpan {
    /// Where the name begins, after its quote.
    pub name_at: u32,
    /// The name's length, up to its other quote.
    pub name_len: u32,
    /// Where the value's token begins.
    pub value_at: u32,
    /// The length of the value's token; of a string with its quotes.
    pub value_len: u32,
    /// What the value is.
    pub kind: ValueKind,
    /// Whether the name holds a backslash, so that its bytes are not what it says.
    pub name_escaped: bool,
}

impl PropertySpan {
    /// The name in `text`, unescaped. `None` when the span does not fit the text.
    #[must_use]
    pub fn name<'a>(&self, text: &'a str) -> Option<Cow<'a, str>> {
        let name = slice(text, self.name_at, self.name_len)?;
        Some(if self.name_escaped { unescape(name) } else { Cow::Borrowed(name) })
    }

    /// The value in `text`. `None` when the span does not fit the text.
    #[must_use]
    pub fn value<'a>(&self, text: &'a str) -> Option<Property<'a>> {
        let token = slice(text, self.value_at, self.value_len)?;
        Some(match self.kind {
            ValueKind::Null => Property::Null,
            ValueKind::Bool => Property::Bool(token == "true"),
            ValueKind::Number => Property::Number(JsonNumber { token }),
            ValueKind::String => Property::String(JsonText { token }),
            ValueKind::Array => Property::Array(token),
            ValueKind::Object => Property::Object(token),
        })
    }

    pub(super) fn is_named(&self, text: &str, wanted: &str) -> bool {
        // Lengths are compared first: they differ for nearly every field that is not the one.
        if !self.name_escaped && self.name_len as usize != wanted.len() {
            return false;
        }
        self.name(text).is_some_and(|name| name == wanted)
    }

    pub(crate) fn to_raw(self) -> raw::PropertySpan {
        let Self { name_at, name_len, value_at, value_len, kind, name_escaped } = self;
        raw::PropertySpan::new(name_at, name_len, value_at, value_len, kind.to_raw(), name_escaped)
    }

    pub(super) fn from_raw(span: &raw::PropertySpan) -> Option<Self> {
        Some(Self {
            name_at: span.name_at(),
            name_len: span.name_len(),
            value_at: span.value_at(),
            value_len: span.value_len(),
            kind: ValueKind::from_raw(span.kind())?,
            name_escaped: span.name_escaped(),
        })
    }
}

fn slice(text: &str, at: u32, len: u32) -> Option<&str> {
    let (at, len) = (at as usize, len as usize);
    text.get(at..at.checked_add(len)?)
}

/// One value of `properties`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as sent.
    Number(JsonNumber<'a>),
    /// A string, as sent.
    String(JsonText<'a>),
    /// An array: its JSON text.
    Array(&'a str),
    /// An object: its JSON text.
    Object(&'a str),
}

impl<'a> Property<'a> {
    /// The value whose JSON text is `token`, no white space around it. Taken at its word: `None`
    /// where no value begins as it does.
    #[must_use]
    pub fn of_token(token: &'a str) -> Option<Self> {
        Some(match token.bytes().next()? {
            b'n' => Self::Null,
            b't' | b'f' => Self::Bool(token == "true"),
            b'-' | b'0'..=b'9' => Self::Number(JsonNumber { token }),
            b'"' => Self::String(JsonText { token }),
            b'[' => Self::Array(token),
            b'{' => Self::Object(token),
            _ => return None,
        })
    }
}

/// A number with the digits that the client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonNumber<'a> {
    token: &'a str,
}

impl<'a> JsonNumber<'a> {
    /// The number as sent.
    #[must_use]
    pub const fn token(&self) -> &'a str {
        self.token
    }

    /// The nearest double; `None` when none is near.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        self.token.parse().ok().filter(|number: &f64| number.is_finite())
    }

    /// The number, when it is written as an integer and fits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        self.token.parse().ok()
    }

    /// The number, when it is written as an integer and fits.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        self.token.parse().ok()
    }
}

/// A string as the client wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonText<'a> {
    token: &'a str,
}

impl<'a> JsonText<'a> {
    /// The string as sent, with its quotes and escapes.
    #[must_use]
    pub const fn token(&self) -> &'a str {
        self.token
    }

    /// What it says. Copies only where the client used escapes.
    #[must_use]
    pub fn text(&self) -> Cow<'a, str> {
        let inner = self.token.strip_prefix('"').unwrap_or(self.token);
        unescape(inner.strip_suffix('"').unwrap_or(inner))
    }
}

/// The text between the quotes of a JSON string, with its escapes resolved. What is no escape of
/// JSON stands for itself; half a surrogate pair becomes U+FFFD.
fn unescape(text: &str) -> Cow<'_, str> {
    let Some(first) = text.find('\\') else {
        return Cow::Borrowed(text);
    };
    let mut out = String::with_capacity(text.len());
    let (plain, mut rest) = text.split_at(first);
    out.push_str(plain);
    while let Some(escape) = rest.strip_prefix('\\') {
        rest = unescape_one(escape, &mut out);
        let next = rest.find('\\').unwrap_or(rest.len());
        out.push_str(&rest[..next]);
        rest = &rest[next..];
    }
    Cow::Owned(out)
}

/// Resolves the escape whose backslash is already taken; returns what follows it.
fn unescape_one<'a>(escape: &'a str, out: &mut String) -> &'a str {
    let mut characters = escape.chars();
    let resolved = match characters.next() {
        None => '\\',
        Some('b') => '\u{8}',
        Some('f') => '\u{c}',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('u') => {
            let (character, rest) = unescape_unicode(characters.as_str());
            out.push(character);
            return rest;
        }
        Some(itself) => itself,
    };
    out.push(resolved);
    characters.as_str()
}

/// Resolves what follows `\u`, the second half of a surrogate pair included.
fn unescape_unicode(text: &str) -> (char, &str) {
    let Some((first, rest)) = code_unit(text) else {
        return (char::REPLACEMENT_CHARACTER, text);
    };
    if let Some(character) = char::from_u32(u32::from(first)) {
        return (character, rest);
    }
    let second = rest.strip_prefix("\\u").and_then(code_unit);
    if let Some((second, after)) = second
        && let Some(Ok(character)) = char::decode_utf16([first, second]).next()
    {
        return (character, after);
    }
    (char::REPLACEMENT_CHARACTER, rest)
}

fn code_unit(text: &str) -> Option<(u16, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    let all_digits = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let unit = u16::from_str_radix(digits, 16).ok().filter(|_| all_digits)?;
    Some((unit, rest))
}
