//! Why the registry refused: one line each, naming what the caller can do.

use std::time::Duration;

use tracklog_log::meta::MetaError;

use crate::name::NameError;

/// A body that is no schema this registry takes. The caller must change the schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", at(pointer))]
pub struct SchemaError {
    /// JSON pointer into the schema; empty for the whole of it.
    pub pointer: String,
    /// What is wrong there, in one bounded line.
    pub message: String,
}

fn at(pointer: &str) -> String {
    if pointer.is_empty() { String::new() } else { format!(" (at {pointer})") }
}

impl SchemaError {
    pub(crate) fn new(pointer: impl Into<String>, message: impl Into<String>) -> Self {
        Self { pointer: clipped(pointer.into(), 1_024), message: clipped(message.into(), 512) }
    }
}

/// `text`, cut at a character's border when it is longer than `bytes_max`.
pub(crate) fn clipped(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = text.floor_char_boundary(bytes_max);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Why a call on the registry had no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The name cannot name an event.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The body is refused; registering it again will not help.
    #[error("schema refused: {0}")]
    Schema(#[from] SchemaError),
    /// The payload of a dry run is not JSON that an event may hold.
    #[error("payload refused: {0}")]
    Payload(SchemaError),
    /// There is no such name.
    #[error("no schema is registered under this name")]
    UnknownName,
    /// The name has no such version (any more).
    #[error("there is no version {version} under this name")]
    UnknownVersion {
        /// The version asked for.
        version: u32,
    },
    /// The number is not above all that were given under this name, deleted ones too.
    #[error("version {version} is not above {last}, the last one given under this name")]
    VersionTaken {
        /// The number asked for.
        version: u32,
        /// The highest one given so far.
        last: u32,
    },
    /// The highest number of all was given under this name: register under another one.
    #[error("this name has used up its version numbers")]
    VersionsUsedUp,
    /// The registry is full; delete what is not used.
    #[error("the registry holds {versions_max} schema versions, its limit")]
    Full {
        /// The limit.
        versions_max: usize,
    },
    /// Another schema is being compiled for too long; try again later. Nothing was changed.
    #[error("the schema compiler is busy with another schema")]
    Busy,
    /// The change could not be made durable, or its outcome is not known.
    #[error("the registry's store: {0}")]
    Store(#[from] MetaError),
}

impl RegistryError {
    pub(crate) fn compile_time_limit(limit: Duration) -> Self {
        Self::Schema(SchemaError::new(
            "",
            format!("compiling it takes longer than {} ms", limit.as_millis()),
        ))
    }
}

/// Why a registry could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A key of the store is none that the registry writes: another program's, or a newer one's.
    #[error("the registry's store holds a key that is not understood: {key}")]
    Key {
        /// The key, as text.
        key: String,
    },
}
