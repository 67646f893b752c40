//! The outcome of a validation, in words that name what the schema asks and never show the
//! payload's values: those may be large, or private.

use std::fmt::Write as _;

use jsonschema::ValidationError;
use jsonschema::error::{TypeKind, ValidationErrorKind};

use crate::error::clipped;

/// What the registry says about a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The payload is as this version of the schema asks.
    Valid {
        /// The version that it was held against.
        version: u32,
    },
    /// The payload breaks this version of the schema.
    Invalid {
        /// The version that it was held against.
        version: u32,
        /// The first thing found wrong.
        violation: Violation,
    },
    /// No schema has this name: what then is the source's rule.
    UnknownEvent,
    /// The name has schemas, but not this version.
    UnknownVersion,
}

/// The first thing found wrong with a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer into the payload; empty for the whole of it.
    pub pointer: String,
    /// The keyword of the schema that is broken.
    pub keyword: String,
    /// What it asks, in one line of at most some 300 bytes.
    pub message: String,
}

/// Longest message. What a schema lists is cut there.
const MESSAGE_BYTES_MAX: usize = 300;
/// Longest pointer. Keys of a payload may be as long as the event.
const POINTER_BYTES_MAX: usize = 1_024;
/// How many names a message lists before it only counts.
const NAMES_MAX: usize = 3;

impl Violation {
    pub(crate) fn of(error: &ValidationError<'_>) -> Self {
        Self {
            pointer: clipped(error.instance_path().to_string(), POINTER_BYTES_MAX),
            keyword: clipped(error.kind().keyword().to_owned(), 64),
            message: words(error.kind()),
        }
    }

    pub(crate) fn unreadable() -> Self {
        Self::whole("", "it cannot be read as JSON")
    }

    pub(crate) fn too_costly() -> Self {
        Self::whole("", "holding it against its schema takes too many steps")
    }

    pub(crate) fn unusable_schema(reason: &str) -> Self {
        let message = format!("its schema can no longer be used: {reason}");
        Self::whole("$schema", &message)
    }

    fn whole(keyword: &str, message: &str) -> Self {
        Self {
            pointer: String::new(),
            keyword: keyword.to_owned(),
            message: clipped(message.to_owned(), MESSAGE_BYTES_MAX),
        }
    }
}

/// What `kind` says is wrong, as a predicate: "is …", "has …".
pub(crate) fn words(kind: &ValidationErrorKind) -> String {
    use ValidationErrorKind as Kind;
    let text = match kind {
        Kind::AdditionalItems { limit } => format!("has more than {limit} items"),
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            format!("has properties that are not allowed: {}", names(unexpected))
        }
        Kind::UnevaluatedItems { unexpected } => {
            format!("has {} items that are not allowed", unexpected.len())
        }
        Kind::AnyOf { .. } => "matches none of the schemas in anyOf".to_owned(),
        Kind::OneOfNotValid { .. } => "matches none of the schemas in oneOf".to_owned(),
        Kind::OneOfMultipleValid { context } => {
            let matching = context.iter().filter(|errors| errors.is_empty()).count();
            format!("matches {matching} of the schemas in oneOf; exactly one must match")
        }
        Kind::Not { .. } => "matches the schema in not".to_owned(),
        Kind::BacktrackLimitExceeded { .. } | Kind::RegexEngineFailure { .. } => {
            "could not be matched against the pattern".to_owned()
        }
        Kind::Constant { expected_value } => format!("is not {expected_value}"),
        Kind::Enum { options } => format!("is none of {options}"),
        Kind::Contains => {
            "holds no item, or not the number of items, that contains asks".to_owned()
        }
        Kind::ContentEncoding { content_encoding } => format!("is not in {content_encoding}"),
        Kind::ContentMediaType { content_media_type } => format!("is not {content_media_type}"),
        Kind::FromUtf8 { .. } => "decodes to bytes that are not UTF-8".to_owned(),
        Kind::Custom { message, .. } => message.clone(),
        Kind::FalseSchema => "is not allowed here at all".to_owned(),
        Kind::Format { format } => format!("is not of format \"{format}\""),
        Kind::ExclusiveMaximum { limit } => format!("is not less than {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("is not greater than {limit}"),
        Kind::Maximum { limit } => format!("is greater than {limit}"),
        Kind::Minimum { limit } => format!("is less than {limit}"),
        Kind::MaxItems { limit } => format!("has more than {limit} items"),
        Kind::MinItems { limit } => format!("has fewer than {limit} items"),
        Kind::MaxLength { limit } => format!("is longer than {limit} characters"),
        Kind::MinLength { limit } => format!("is shorter than {limit} characters"),
        Kind::MaxProperties { limit } => format!("has more than {limit} properties"),
        Kind::MinProperties { limit } => format!("has fewer than {limit} properties"),
        Kind::MultipleOf { multiple_of } => format!("is not a multiple of {multiple_of}"),
        Kind::Pattern { pattern } => format!("does not match the pattern {pattern}"),
        Kind::PropertyNames { error } => format!("has a name that {}", words(error.kind())),
        Kind::Required { property } => format!("lacks the required property {property}"),
        Kind::Type { kind } => format!("is not of type {}", types(kind)),
        Kind::UniqueItems => "has items that are equal".to_owned(),
        Kind::Referencing(error) => format!("has a reference that cannot be followed: {error}"),
    };
    clipped(text, MESSAGE_BYTES_MAX)
}

fn types(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(kind) => kind.as_str().to_owned(),
        TypeKind::Multiple(kinds) => {
            let kinds = kinds.iter().map(|kind| kind.as_str());
            kinds.collect::<Vec<_>>().join(" or ")
        }
    }
}

fn names(names: &[String]) -> String {
    let mut text = String::new();
    for name in names.iter().take(NAMES_MAX) {
        let separator = if text.is_empty() { "" } else { ", " };
        let name = clipped(name.clone(), 64);
        write!(text, "{separator}{name:?}").expect("writing to a String does not fail");
    }
    if names.len() > NAMES_MAX {
        write!(text, " and {} more", names.len() - NAMES_MAX)
            .expect("writing to a String does not fail");
    }
    text
}
