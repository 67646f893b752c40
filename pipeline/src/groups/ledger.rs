//! The groups' topic, `_groups`: its keys and values. Sans-io.
//!
//! A compacted topic of one partition. Values are JSON, for whoever reads the topic.
//!
//! | key | value |
//! |---|---|
//! | `group/GROUP` | `{"generation":4,"topics":["raw"],"members":{"node-1":[[7,0],[7,1]]}}`: of each member the topic ids and partitions that are his |
//! | `offset/GROUP/TOPIC-ID/PARTITION` | `{"next":1207,"generation":4,"at":1767323045000000}` |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tracklog_log::TopicName;
use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};

use super::Generation;

/// The groups' topic.
pub const TOPIC: &str = "_groups";

const GROUP: &str = "group/";
const OFFSET: &str = "offset/";

/// The key of a group's own record.
pub(super) fn group_key(group: &GroupName) -> Vec<u8> {
    format!("{GROUP}{group}").into_bytes()
}

/// What the keys of all groups' own records begin with.
pub(super) const GROUP_KEYS: &[u8] = GROUP.as_bytes();

/// What the keys of a group's committed offsets begin with.
pub(super) fn offset_keys(group: &GroupName) -> Vec<u8> {
    format!("{OFFSET}{group}/").into_bytes()
}

/// The key of the group's committed offset in `partition`.
pub(super) fn offset_key(group: &GroupName, partition: PartitionId) -> Vec<u8> {
    format!("{OFFSET}{group}/{}/{}", partition.topic, partition.partition).into_bytes()
}

/// The group of a group's own record.
pub(super) fn group_of(key: &[u8]) -> Option<GroupName> {
    let name = std::str::from_utf8(key.strip_prefix(GROUP_KEYS)?).ok()?;
    GroupName::new(name).ok()
}

/// The topic of a committed offset.
pub(super) fn topic_of(key: &[u8]) -> Option<TopicId> {
    let place = std::str::from_utf8(key.strip_prefix(OFFSET.as_bytes())?).ok()?;
    let topic = place.split('/').nth(1)?;
    topic.parse().ok().map(TopicId)
}

/// A group's name: as a topic's, `[a-z0-9][a-z0-9._-]{0,127}`; those of the node itself may begin
/// with `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(TopicName);

/// The text is no group's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no group's name: 1 to 128 of a-z 0-9 . _ - and no . or - at the start")]
pub struct GroupNameError {
    /// The text, cut after 128 characters.
    pub name: String,
}

impl GroupName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`GroupNameError`] when it is no group's name.
    pub fn new(name: &str) -> Result<Self, GroupNameError> {
        TopicName::new(name).map(Self).map_err(|error| GroupNameError { name: error.name })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl std::fmt::Display for GroupName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A group's own record: what holds since it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupRecord {
    pub(super) generation: u64,
    pub(super) topics: Vec<String>,
    /// Of each member the topic ids and partitions that are his.
    pub(super) members: BTreeMap<String, Vec<(u32, u32)>>,
}

impl GroupRecord {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers become JSON")
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

/// A committed offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The offset to read next.
    pub next: Offset,
    /// The assignment under which it was committed.
    pub generation: Generation,
    /// When, by the clock of who committed it.
    pub at: TimeMicros,
}

#[derive(Serialize, Deserialize)]
struct CommittedValue {
    next: u64,
    generation: u64,
    at: i64,
}

impl Committed {
    /// The record's value.
    pub(super) fn encode(&self) -> Vec<u8> {
        let value =
            CommittedValue { next: self.next.0, generation: self.generation.0, at: self.at.0 };
        serde_json::to_vec(&value).expect("numbers become JSON")
    }

    /// Reads a record's value; `None` when it is none.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        let value = serde_json::from_slice::<CommittedValue>(value).ok()?;
        Some(Self {
            next: Offset(value.next),
            generation: Generation(value.generation),
            at: TimeMicros(value.at),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_offset_is_read_back() {
        let committed =
            Committed { next: Offset(1207), generation: Generation(4), at: TimeMicros(-5) };
        assert_eq!(Committed::decode(&committed.encode()), Some(committed));
        assert_eq!(Committed::decode(b"{}"), None);
    }

    #[test]
    fn keys_are_told_apart() {
        let group = GroupName::new("en.rich").unwrap();
        let partition = PartitionId::new(TopicId(7), 15);
        assert_eq!(offset_key(&group, partition), b"offset/en.rich/7/15");
        let longer = GroupName::new("en.rich2").unwrap();
        assert!(!offset_key(&longer, partition).starts_with(&offset_keys(&group)));
        assert_eq!(group_of(&group_key(&group)), Some(group));
        assert_eq!(group_of(b"offset/x/1/2"), None);
        assert_eq!(topic_of(&offset_key(&longer, partition)), Some(TopicId(7)));
        assert_eq!(topic_of(b"group/offset/7/15"), None);
    }
}
