//! The records of the registry: which keys it writes, and what they mean.
//!
//! | key | value |
//! |---|---|
//! | `schema/NAME/N` | the text of version N, byte for byte; empty once it was deleted |
//! | `schema/NAME/deleted` | the highest number deleted so far, in decimal |
//!
//! NAME is percent-encoded, so that a slash in it separates nothing. A version is there when its
//! record is there and its number is above `deleted`: one record deletes all versions at once,
//! and remembers the numbers. The texts are emptied after it; where that is cut short they stay
//! hidden, and the next delete empties them.
//!
//! Two writers cannot take the same number: a version's record is written only where none is, and
//! never removed, so that a writer that has not seen a delete yet does not find its place free.

use std::collections::BTreeMap;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tracklog_log::Meta;
use tracklog_log::meta::{Expect, MetaError, Versioned};

use crate::error::OpenError;
use crate::name::SchemaName;

const PREFIX: &str = "schema/";
const DELETED: &str = "deleted";
/// What stands in a key as it is: what also file names and URLs leave alone.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What the store holds under one name.
#[derive(Default)]
pub(crate) struct Stored {
    /// Texts of the versions that are there, by number.
    pub(crate) texts: BTreeMap<u32, Bytes>,
    /// Deleted numbers whose texts are not emptied yet.
    leftover: Vec<u32>,
    /// The highest number ever given.
    pub(crate) last: u32,
    deleted: Option<Versioned>,
}

/// Reads all names.
pub(crate) fn read_all(meta: &dyn Meta) -> Result<BTreeMap<SchemaName, Stored>, OpenError> {
    let mut records: BTreeMap<SchemaName, Vec<(Entry, Versioned)>> = BTreeMap::new();
    for (key, value) in meta.list(PREFIX.as_bytes()) {
        let Some((name, entry)) = parse_key(&key) else {
            let key = String::from_utf8_lossy(&key).into_owned();
            return Err(OpenError::Key { key });
        };
        records.entry(name).or_default().push((entry, value));
    }
    let stored = records.into_iter().map(|(name, records)| (name, Stored::of(records)));
    Ok(stored.collect())
}

/// Reads one name.
pub(crate) fn read(meta: &dyn Meta, name: &SchemaName) -> Stored {
    let records = meta.list(format!("{PREFIX}{}/", encoded(name)).as_bytes());
    let records = records.into_iter();
    Stored::of(records.filter_map(|(key, value)| Some((parse_key(&key)?.1, value))).collect())
}

/// Writes a version, unless its number is taken by now (`Conflict`).
pub(crate) async fn write(
    meta: &dyn Meta,
    name: &SchemaName,
    version: u32,
    text: &[u8],
) -> Result<(), MetaError> {
    meta.put(&key(name, version), Some(text), Expect::Absent).await?;
    Ok(())
}

/// Deletes all versions in `stored`, durably when it returns.
pub(crate) async fn delete(
    meta: &dyn Meta,
    name: &SchemaName,
    stored: &Stored,
) -> Result<(), MetaError> {
    let expect = match &stored.deleted {
        Some(record) => Expect::Version(record.version),
        None => Expect::Absent,
    };
    let key_deleted = format!("{PREFIX}{}/{DELETED}", encoded(name));
    let last = stored.last.to_string();
    meta.put(key_deleted.as_bytes(), Some(last.as_bytes()), expect).await?;
    for &version in stored.texts.keys().chain(&stored.leftover) {
        if let Err(error) = meta.put(&key(name, version), Some(b""), Expect::Any).await {
            tracing::warn!(%name, version, %error, "a deleted schema's text is left in the store");
            break;
        }
    }
    Ok(())
}

/// What a key says beside the name.
enum Entry {
    Version(u32),
    Deleted,
}

impl Stored {
    fn of(records: Vec<(Entry, Versioned)>) -> Self {
        let mut stored = Self::default();
        for (entry, value) in records {
            match entry {
                Entry::Version(version) => {
                    stored.texts.insert(version, value.value);
                }
                Entry::Deleted => stored.deleted = Some(value),
            }
        }
        let deleted = stored.deleted.as_ref().map_or(0, |record| number(&record.value));
        let newest = stored.texts.keys().next_back().copied().unwrap_or(0);
        stored.last = newest.max(deleted);
        let there = stored.texts.split_off(&deleted.saturating_add(1));
        let hidden = std::mem::replace(&mut stored.texts, there).into_iter();
        let hidden = hidden.filter(|(_, text)| !text.is_empty());
        stored.leftover = hidden.map(|(version, _)| version).collect();
        stored
    }
}

/// The number in a record's value. One that cannot be read hides everything: a number given twice
/// would be worse than a schema to be registered anew.
fn number(value: &[u8]) -> u32 {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)
}

fn key(name: &SchemaName, version: u32) -> Vec<u8> {
    format!("{PREFIX}{}/{version}", encoded(name)).into_bytes()
}

fn encoded(name: &SchemaName) -> String {
    utf8_percent_encode(name.as_str(), ENCODED).to_string()
}

fn parse_key(key: &[u8]) -> Option<(SchemaName, Entry)> {
    let key = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?;
    let (name, entry) = key.split_once('/')?;
    let name = percent_decode_str(name).decode_utf8().ok()?;
    let entry = match entry {
        DELETED => Entry::Deleted,
        version => Entry::Version(version.parse().ok().filter(|&version| version > 0)?),
    };
    Some((SchemaName::try_from(name.as_ref()).ok()?, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_any_name_without_ambiguity() {
        for text in ["a", "a/1", "a/deleted", "Order Completed", "ü€🦀", "%2F", "$page", "."] {
            let name = SchemaName::try_from(text).unwrap();
            let (back, entry) = parse_key(&key(&name, 7)).unwrap();
            assert_eq!(back, name);
            assert!(matches!(entry, Entry::Version(7)));
        }
        assert!(parse_key(b"schema/a").is_none());
        assert!(parse_key(b"schema/a/0").is_none());
        assert!(parse_key(b"schema/a/x").is_none());
        assert!(parse_key(b"schema//1").is_none());
    }
}
