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
    use std::time::Duration;

    use tracklog_protocol::TimeMicros;

    use super::*;
    use crate::state::key::{Entity, Keyed, LinkId, Visitor};
    use crate::state::{Inactivity, Link, Traits, Visits};

    /// Compares a change's record with the bytes of FORMAT.md, and reads it back.
    fn check(of: &impl Keyed, entry: Entry, key_bytes: &[u8], state_bytes: &[u8]) {
        let mut key = Vec::new();
        assert!(of.write_key(&mut key));
        assert_eq!(key, key_bytes);
        let source = PartitionId::new(TopicId(3), 1);
        let change = Change { key: &key, entry, source, offset: Offset(7) };
        let mut buffer = Vec::new();
        let record = change.encode(&mut Vec::new(), &mut buffer);
        let head = [1, 3, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
        let value = record.key_value().unwrap().value.unwrap();
        assert_eq!(value.split_at(17), (&head[..], state_bytes));
        assert_eq!(Change::decode(record), Some(change));
        for cut in 0..17 {
            let value = Some(&value[..cut]);
            let record = KeyValue { key: key_bytes, value }.encode(&mut key);
            assert_eq!(Change::decode(record), None);
        }
    }

    #[test]
    fn a_link_has_the_bytes_of_its_page() {
        let entry = Entry::Link(Arc::new(Link { user: "alice".into(), time: TimeMicros(258) }));
        check(&LinkId::Anonymous("D"), entry.clone(), b"\x01D", b"\x02\x01\0\0\0\0\0\0alice");
        check(&LinkId::User("b"), entry, b"\x02b", b"\x02\x01\0\0\0\0\0\0alice");
    }

    #[test]
    fn traits_have_the_bytes_of_their_page() {
        let traits = Traits::of_object(r#"{"b": [1], "a": null}"#, TimeMicros(1)).0.unwrap();
        let mut state = b"\x01\0\0\0\0\0\0\0\x01\0\0\0\xff\xff\xff\xffa".to_vec();
        state.extend_from_slice(b"\x01\0\0\0\0\0\0\0\x01\0\0\0\x03\0\0\0b[1]");
        let entry = Entry::Traits(Arc::new(traits));
        check(&Entity::User("u"), entry.clone(), b"\x03u", &state);
        check(&Entity::Group("g"), entry, b"\x04g", &state);
    }

    #[test]
    fn visits_have_the_bytes_of_their_page() {
        let inactivity = Inactivity::new(Duration::from_micros(30));
        let mut visits = None;
        for (at, page) in [(1, None), (100, Some("/p")), (101, None), (50, None)] {
            let placed = Visits::place(visits.as_ref(), TimeMicros(at), page, inactivity);
            visits = placed.change.or(visits);
        }
        let entry = Entry::Visits(Arc::new(visits.unwrap()));
        let span = |number: u32, from: i64, to: i64, page: &[u8]| {
            let parts = [&number.to_le_bytes()[..], &from.to_le_bytes(), &to.to_le_bytes(), page];
            parts.concat()
        };
        let none = b"\xff\xff\xff\xff";
        let spans =
            [span(2, 100, 101, b"\x02\0\0\0/p"), span(1, 1, 1, none), span(3, 50, 50, none)];
        let state = [&[3, 0, 0, 0, 3][..], &spans.concat()].concat();
        let visitor = Visitor { source: "web", id: LinkId::User("u") };
        check(&visitor, entry, b"\x05\x02\x03\0webu", &state);
    }

    #[test]
    fn what_is_no_change_is_none() {
        for (key, value) in [(&b""[..], &b""[..]), (b"\x06D", &[1; 40]), (b"\x01D", &[2; 40])] {
            let mut buffer = Vec::new();
            let record = KeyValue { key, value: Some(value) }.encode(&mut buffer);
            assert_eq!(Change::decode(record), None);
        }
    }

    #[test]
    fn too_long_ids_have_no_key() {
        let id = "x".repeat(513);
        let mut key = Vec::new();
        assert!(LinkId::User(&id[1..]).write_key(&mut key));
        assert!(!LinkId::User(&id).write_key(&mut key));
        assert!(!Entity::Group(&id).write_key(&mut key));
        assert!(!Visitor { source: "web", id: LinkId::Anonymous(&id) }.write_key(&mut key));
        assert!(!Visitor { source: &id, id: LinkId::User("u") }.write_key(&mut key));
    }
}
