//! Why an event, or a whole request, is refused: the codes that clients come to depend on.
//!
//! A code is a promise, its text is not: callers branch on [`Code::as_str`], people read the
//! message. Everything that turns an event away, in this crate or in the registry's part of it,
//! says so with a [`Rejection`].

use std::borrow::Cow;
use std::fmt;

/// The stable name of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// The bytes are not JSON, or not of the shape that the path takes.
    InvalidJson,
    /// An object has one key twice, as it reads after unescaping.
    DuplicateKey,
    /// Invalid UTF-8, or half a surrogate pair.
    InvalidText,
    /// A number that no double holds finitely.
    NumberRange,
    /// The event, or the body, has more bytes than allowed.
    TooLarge,
    /// Objects and arrays are nested deeper than allowed.
    TooDeep,
    /// More events, or more fields, in one request than allowed.
    TooMany,
    /// Neither a user id nor an anonymous id.
    MissingId,
    /// A track call without the name of its event.
    MissingName,
    /// A field that the path or the source asks for is not there.
    MissingField,
    /// An id or a name of the wrong type, too long, or with a NUL in it.
    InvalidId,
    /// A time that is none.
    InvalidTime,
    /// A `type` that is none of the six.
    UnknownKind,
    /// The payload does not match its schema.
    Schema,
    /// The source takes registered events only.
    UnknownEvent,
    /// The row of a file that does not have the columns or values that were declared.
    InvalidRow,
    /// The write key or token is missing, unknown or disabled.
    Unauthorized,
    /// The page's origin is not one of the source's.
    ForbiddenOrigin,
    /// No such path.
    NotFound,
    /// The path takes other methods.
    MethodNotAllowed,
    /// A `Content-Encoding` that is not spoken here.
    UnsupportedEncoding,
    /// Too much at once: come back later.
    Overloaded,
    /// Not serving now, or the outcome is not known.
    Unavailable,
}

impl Code {
    /// The code as it stands in answers and in `rejected`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::DuplicateKey => "duplicate_key",
            Self::InvalidText => "invalid_text",
            Self::NumberRange => "number_range",
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
            Self::TooMany => "too_many",
            Self::MissingId => "missing_id",
            Self::MissingName => "missing_name",
            Self::MissingField => "missing_field",
            Self::InvalidId => "invalid_id",
            Self::InvalidTime => "invalid_time",
            Self::UnknownKind => "unknown_kind",
            Self::Schema => "schema",
            Self::UnknownEvent => "unknown_event",
            Self::InvalidRow => "invalid_row",
            Self::Unauthorized => "unauthorized",
            Self::ForbiddenOrigin => "forbidden_origin",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::UnsupportedEncoding => "unsupported_encoding",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why one event was turned away.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Rejection {
    /// The stable reason.
    pub code: Code,
    /// JSON pointer to the place in the event, where there is one.
    pub pointer: Option<Cow<'static, str>>,
    /// For people. Holds no bytes of the event but names of its fields.
    pub message: Cow<'static, str>,
}

impl Rejection {
    /// A rejection of the event as a whole.
    #[must_use]
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, pointer: None, message: message.into() }
    }

    /// A rejection for the field at `pointer`.
    #[must_use]
    pub fn at(
        code: Code,
        pointer: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { code, pointer: Some(pointer.into()), message: message.into() }
    }
}
