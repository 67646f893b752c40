//! Topics: their names, and what is fixed about each when it is made.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tracklog_protocol::{PartitionId, TimeMicros, TopicId};

use crate::AppendError;

/// A topic's name: `[a-z0-9_][a-z0-9._-]{0,127}`. Internal topics begin with `_`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// The text is no topic name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no topic name: 1 to 128 of a-z 0-9 . _ - and no . or - at the start")]
pub struct TopicNameError {
    /// The text, cut after 128 characters.
    pub name: String,
}

impl TopicName {
    /// Checks `name`.
    ///
    /// # Errors
    /// [`TopicNameError`] when it is no topic name.
    pub fn new(name: &str) -> Result<Self, TopicNameError> {
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let bytes = name.as_bytes();
        let good = matches!(bytes.len(), 1..=128)
            && letter(bytes[0])
            && bytes.iter().all(|b| letter(*b) || matches!(b, b'.' | b'-'));
        if good {
            Ok(Self(name.into()))
        } else {
            Err(TopicNameError { name: name.chars().take(128).collect() })
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether only the node itself writes there.
    #[must_use]
    pub fn is_internal(&self) -> bool {
        self.0.starts_with('_')
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long records stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Until they are deleted.
    Keep,
    /// The last record of each key; earlier ones may go. For {key, value} records.
    Compact,
}

/// What to do when there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse appends until there is room. Nothing that was acked is ever dropped.
    #[default]
    Refuse,
    /// Give up the oldest, read or not.
    DropOldest,
}

/// How much of a topic is kept, by time and by size. What is beyond either goes, oldest first, in
/// larger pieces: a record stays at least as long as the limits say, and goes some time later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// So long after a record was appended it stays, whatever time its client said.
    pub age: Option<Duration>,
    /// So many bytes on the disk stay.
    pub bytes: Option<u64>,
    /// Whether its oldest records go, within the limits too, before the disk is full.
    pub when_full: WhenFull,
}

impl Limits {
    /// Whether everything stays.
    #[must_use]
    pub const fn are_none(&self) -> bool {
        let Self { age, bytes, when_full } = self;
        age.is_none() && bytes.is_none() && matches!(when_full, WhenFull::Refuse)
    }
}

/// What a topic is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: TopicName,
    /// How many partitions, 1 to 100,000.
    pub partitions: u32,
    /// How long records stay.
    pub retention: Retention,
}

/// A topic that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its number.
    pub id: TopicId,
    /// What it was made to be.
    pub spec: TopicSpec,
    /// When it was made.
    pub created: TimeMicros,
}

impl Topic {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.spec.name.as_str()
    }

    /// The partition of index `partition`.
    ///
    /// # Panics
    /// When the topic has no such partition.
    #[must_use]
    pub fn partition(&self, partition: u32) -> PartitionId {
        assert!(partition < self.spec.partitions, "a topic's partitions are numbered densely");
        PartitionId::new(self.id, partition)
    }

    /// All partitions, in order.
    pub fn partitions(&self) -> impl ExactSizeIterator<Item = PartitionId> + '_ {
        (0..self.spec.partitions).map(|partition| self.partition(partition))
    }

    /// The partition that records with this key belong to.
    #[must_use]
    pub fn partition_for(&self, key: &[u8]) -> PartitionId {
        self.partition(tracklog_protocol::partition_for(key, self.spec.partitions))
    }
}

/// Why the catalog did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CatalogError {
    /// There is a topic of this name, made otherwise.
    #[error("topic {name} is there already, with {partitions} partitions")]
    Exists {
        /// Its name.
        name: TopicName,
        /// How many partitions it has.
        partitions: u32,
    },
    /// There is no topic of this name.
    #[error("there is no topic {name}")]
    NotFound {
        /// The name.
        name: TopicName,
    },
    /// A topic has 1 to 100,000 partitions.
    #[error("{partitions} partitions are outside of 1 to 100,000")]
    Partitions {
        /// How many were asked for.
        partitions: u32,
    },
    /// The log itself needs this topic.
    #[error("topic {name} belongs to the log itself")]
    Protected {
        /// Its name.
        name: TopicName,
    },
    /// This log, or this topic, keeps what it has.
    #[error("{why}")]
    Unlimited {
        /// Why, in words.
        why: &'static str,
    },
    /// The change could not be stored.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The intake is busy; nothing was changed.
    #[error(transparent)]
    Busy(#[from] crate::Busy),
}
