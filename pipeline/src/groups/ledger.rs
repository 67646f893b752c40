//! The groups' topic, `_groups`: its keys and values. Sans-io.
//!
//! A compacted topic of one partition. Values are JSON, for whoever reads the topic.
//!
//! | key | value |
//! |---|---|
//! | `offset/GROUP/TOPIC-ID/PARTITION` | `{"next":1207,"generation":4,"at":1767323045000000}` |

use serde::{Deserialize, Serialize};
use tracklog_protocol::{Offset, TimeMicros};

use super::Generation;

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
}
