//! Names of schemas: an event's name, or `$identify`, `$group`, `$page`, `$screen`, `$alias` for
//! calls that have none.

use std::borrow::Borrow;
use std::fmt;

/// Longest name, in bytes: that of an event's name.
const NAME_BYTES_MAX: usize = 512;

/// A name that a schema may have: 1 to 512 bytes of UTF-8 without NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaName(Box<str>);

impl SchemaName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for SchemaName {
    type Error = NameError;

    fn try_from(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong { bytes: name.len() });
        }
        if name.contains('\0') {
            return Err(NameError::Nul);
        }
        Ok(Self(name.into()))
    }
}

impl Borrow<str> for SchemaName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no name of a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// It has no byte.
    #[error("the name is empty")]
    Empty,
    /// It is longer than an event's name may be.
    #[error("the name has {bytes} bytes; at most 512 are taken")]
    TooLong {
        /// Its length in UTF-8.
        bytes: usize,
    },
    /// It holds a NUL.
    #[error("the name holds a NUL character")]
    Nul,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_1_to_512_bytes_without_nul() {
        assert!(SchemaName::try_from("Order Completed/€").is_ok());
        assert!(SchemaName::try_from("x".repeat(512).as_str()).is_ok());
        assert_eq!(SchemaName::try_from(""), Err(NameError::Empty));
        assert_eq!(
            SchemaName::try_from("x".repeat(513).as_str()),
            Err(NameError::TooLong { bytes: 513 })
        );
        assert_eq!(SchemaName::try_from("a\0b"), Err(NameError::Nul));
    }
}
