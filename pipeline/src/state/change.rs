//! A record of the changelog: which event changed which key, and by what. Sans-io.
//!
//! Bytes: FORMAT.md, section *State*. What cannot be read is of a later version or of nobody: it
//! is passed over and counted.

use tracklog_protocol::{KeyValue, Offset, PartitionId, Record, TopicId};

use super::bytes::Reader;
use super::entry::Entry;
use super::key::KeyKind;

const VERSION: u8 = 1;

/// One change of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change<'k> {
    /// Of what.
    pub(super) key: &'k [u8],
    /// What is joined with what is there.
    pub(super) entry: Entry,
    /// Where the event lies that made it.
    pub(super) source: PartitionId,
    /// The event's offset there.
    pub(super) offset: Offset,
}

impl<'k> Change<'k> {
    /// The record of this change, written into `buffer`; `value` is scratch.
    pub(super) fn encode<'b>(&self, value: &mut Vec<u8>, buffer: &'b mut Vec<u8>) -> Record<'b> {
        value.clear();
        value.push(VERSION);
        value.extend_from_slice(&self.source.topic.0.to_le_bytes());
        value.extend_from_slice(&self.source.partition.to_le_bytes());
        value.extend_from_slice(&self.offset.0.to_le_bytes());
        self.entry.encode(value);
        KeyValue { key: self.key, value: Some(value) }.encode(buffer)
    }

    /// Reads a record of the changelog; `None` when it is no change that this program knows.
    pub(super) fn decode(record: Record<'k>) -> Option<Self> {
        let KeyValue { key, value } = record.key_value()?;
        let kind = KeyKind::of(key)?;
        let mut reader = Reader(value?);
        if reader.u8()? != VERSION {
            return None;
        }
        let source = PartitionId::new(TopicId(reader.u32()?), reader.u32()?);
        let offset = Offset(reader.u64()?);
        let entry = Entry::decode(kind, reader.0)?;
        Some(Self { key, entry, source, offset })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::state::Link;
    use crate::state::key::{Keyed, LinkId};
    use tracklog_protocol::TimeMicros;

    #[test]
    fn a_change_is_the_bytes_of_its_page_and_is_read_back() {
        let mut key = Vec::new();
        assert!(LinkId::Anonymous("D").write_key(&mut key));
        let link = Link { user: "alice".into(), time: TimeMicros(258) };
        let change = Change {
            key: &key,
            entry: Entry::Link(Arc::new(link)),
            source: PartitionId::new(TopicId(3), 1),
            offset: Offset(7),
        };
        let mut buffer = Vec::new();
        let record = change.encode(&mut Vec::new(), &mut buffer);
        let mut expected = vec![2, 0, 0, 0, 1, b'D', 1, 3, 0, 0, 0, 1, 0, 0, 0];
        expected.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(b"alice");
        assert_eq!(record.bytes(), expected);
        assert_eq!(Change::decode(record), Some(change));
    }

    #[test]
    fn what_is_no_change_is_none() {
        for (key, value) in [(&b""[..], &b""[..]), (b"\x01D", b"\x02rest"), (b"\x01D", b"\x01")] {
            let mut buffer = Vec::new();
            let record = KeyValue { key, value: Some(value) }.encode(&mut buffer);
            assert_eq!(Change::decode(record), None);
        }
    }
}
