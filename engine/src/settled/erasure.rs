//! What is to be erased, as the catalog keeps it: which offsets, until no file holds their records.
//! FORMAT.md §7.
//!
//! Promises
//! - A request is there whole or not at all: its records lie in one commit. It stays, over crashes
//!   and openings, until it is carried out.
//! - Reading bytes of any kind never panics.
//!
//! Sans-io. The settler carries requests out (`settler/erasing.rs`); the engine makes them.

use std::collections::BTreeMap;

use bytes::Bytes;
use tracklog_log::Erase;
use tracklog_protocol::{Offset, PartitionId, TopicId};

use crate::fields::{Fields, FieldsMut};

/// The first byte of the keys.
pub(crate) const KEY: u8 = b'e';

/// One call's stretches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(pub(crate) u64);

/// Stretches of offsets, which do not overlap, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stretches(Vec<(Offset, Offset)>);

impl Stretches {
    /// In any order, and perhaps overlapping.
    fn of(mut stretches: Vec<(Offset, Offset)>) -> Self {
        stretches.retain(|(from, to)| from < to);
        stretches.sort_unstable();
        let mut joined: Vec<(Offset, Offset)> = Vec::with_capacity(stretches.len());
        for (from, to) in stretches {
            match joined.last_mut().filter(|(_, end)| from <= *end) {
                Some((_, end)) => *end = (*end).max(to),
                None => joined.push((from, to)),
            }
        }
        Self(joined)
    }

    pub(crate) fn contains(&self, offset: Offset) -> bool {
        let behind = self.0.partition_point(|(from, _)| *from <= offset);
        behind.checked_sub(1).is_some_and(|at| offset < self.0[at].1)
    }

    /// Whether one of them has an offset of `from..to`.
    fn meets(&self, from: Offset, to: Offset) -> bool {
        let at = self.0.partition_point(|(_, end)| *end <= from);
        self.0.get(at).is_some_and(|(first, _)| *first < to)
    }
}

/// What of one partition goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doomed {
    /// All below it.
    below: Offset,
    stretches: Stretches,
}

impl Doomed {
    pub(crate) fn is_nothing(&self) -> bool {
        self.below == Offset::ZERO && self.stretches.0.is_empty()
    }

    pub(crate) fn contains(&self, offset: Offset) -> bool {
        offset < self.below || self.stretches.contains(offset)
    }

    /// Whether something of `from..to` goes.
    pub(crate) fn meets(&self, from: Offset, to: Offset) -> bool {
        from < self.below.min(to) || self.stretches.meets(from, to)
    }
}

/// All that is to be erased.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Erasures {
    /// The catalog's keys that say so, and where each lies.
    keys: Vec<(Bytes, Offset)>,
    partitions: BTreeMap<PartitionId, Stretches>,
}

impl Erasures {
    /// From the catalog's live records with such keys: key, value and where it lies.
    pub(crate) fn of(records: impl Iterator<Item = (Bytes, Bytes, Offset)>) -> Self {
        let mut keys = Vec::new();
        let mut partitions: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (key, value, offset) in records {
            if let Some((partition, stretches)) = decode(&key, &value) {
                partitions.entry(partition).or_default().extend(stretches.0);
            }
            // One that nobody understands asks for nothing, and goes with the others.
            keys.push((key, offset));
        }
        let partitions = partitions.into_iter();
        let partitions = partitions.map(|(id, all)| (id, Stretches::of(all))).collect();
        Self { keys, partitions }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn keys(&self) -> &[(Bytes, Offset)] {
        &self.keys
    }

    pub(crate) fn stretch_count(&self) -> usize {
        self.partitions.values().map(|stretches| stretches.0.len()).sum()
    }

    /// What of a partition that starts at `start` goes: while anything is to be erased, all that
    /// nobody can read any more goes along, for it may be of those who are forgotten.
    pub(crate) fn of_partition(&self, partition: PartitionId, start: Offset) -> Doomed {
        if self.is_empty() {
            return Doomed::default();
        }
        let stretches = self.partitions.get(&partition).cloned().unwrap_or_default();
        Doomed { below: start, stretches }
    }
}

/// The keys of a request begin so.
pub(crate) fn key_prefix(request: RequestId) -> Vec<u8> {
    let mut key = vec![KEY];
    key.put_u64(request.0);
    key
}

/// A request as keys and values of the catalog.
pub(crate) fn encode(request: RequestId, records: &[Erase]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut partitions: BTreeMap<PartitionId, Vec<_>> = BTreeMap::new();
    for Erase { partition, from, to } in records {
        partitions.entry(*partition).or_default().push((*from, *to));
    }
    let mut encoded = Vec::new();
    for (partition, stretches) in partitions {
        let mut record: Option<(Vec<u8>, Vec<u8>)> = None;
        let mut end = Offset::ZERO;
        for piece in Stretches::of(stretches).0.into_iter().flat_map(pieces) {
            let (skip, count) = (u32::try_from(piece.0.0 - end.0), piece.1.0 - piece.0.0);
            let skip = skip.ok().filter(|_| record.is_some());
            if skip.is_none() {
                encoded.extend(record.take());
            }
            let (_, value) = record.get_or_insert_with(|| {
                let mut key = key_prefix(request);
                key.put_u32(partition.topic.0);
                key.put_u32(partition.partition);
                key.put_u64(piece.0.0);
                (key, Vec::new())
            });
            value.put_u32(skip.unwrap_or(0));
            value.put_u32(u32::try_from(count).expect("a piece is no longer"));
            end = piece.1;
        }
        encoded.extend(record);
    }
    encoded
}

/// A stretch in parts whose lengths have 32 bits.
fn pieces((from, to): (Offset, Offset)) -> impl Iterator<Item = (Offset, Offset)> {
    let mut at = from;
    std::iter::from_fn(move || {
        let piece = (at, to.min(at.plus(u64::from(u32::MAX))));
        at = piece.1;
        (piece.0 < piece.1).then_some(piece)
    })
}

/// What a record of the catalog asks for.
pub(crate) fn decode(key: &[u8], value: &[u8]) -> Option<(PartitionId, Stretches)> {
    let mut key = Fields::new(key.strip_prefix(&[KEY])?);
    let _request = key.u64()?;
    let partition = PartitionId::new(TopicId(key.u32()?), key.u32()?);
    let (mut at, mut fields) = (key.u64()?, Fields::new(value));
    let mut stretches = Vec::new();
    while !fields.is_empty() {
        let from = at.checked_add(u64::from(fields.u32()?))?;
        at = from.checked_add(u64::from(fields.u32()?))?;
        stretches.push((Offset(from), Offset(at)));
    }
    Some((partition, Stretches::of(stretches)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: u32) -> PartitionId {
        PartitionId::new(TopicId(3), number)
    }

    fn erase(number: u32, from: u64, to: u64) -> Erase {
        Erase { partition: partition(number), from: Offset(from), to: Offset(to) }
    }

    fn erasures(records: &[Erase]) -> Erasures {
        let encoded = encode(RequestId(7), records).into_iter();
        Erasures::of(encoded.map(|(key, value)| (key.into(), value.into(), Offset::ZERO)))
    }

    #[test]
    fn what_was_asked_for_is_read_back() {
        let far = 1 << 40;
        let asked = [
            erase(1, 5, 6),
            erase(0, 9, 12),
            erase(0, 11, 13),
            erase(0, 3, 4),
            erase(0, far, far + 2),
            erase(1, 6, 6 + (1 << 33)),
            erase(2, 4, 4),
        ];
        let erasures = erasures(&asked);
        for number in 0..3 {
            let doomed = erasures.of_partition(partition(number), Offset(2));
            for at in [0, 1, 2, 3, 4, 5, 8, 9, 12, 13, 1 << 32, 6 + (1 << 33), far + 1, far + 2] {
                let is_asked = asked.iter().any(|it| it.contains(partition(number), Offset(at)));
                assert_eq!(doomed.contains(Offset(at)), is_asked || at < 2, "{number}/{at}");
                assert_eq!(doomed.meets(Offset(at), Offset(at + 1)), doomed.contains(Offset(at)));
            }
        }
        assert_eq!(erasures.keys().len(), 3, "a skip of 2^32 begins another record");
        assert_eq!(erasures.stretch_count(), 4);
    }

    #[test]
    fn nothing_goes_where_nothing_is_asked_for() {
        let none = erasures(&[]);
        assert!(none.is_empty() && none.of_partition(partition(0), Offset(9)).is_nothing());
    }

    #[test]
    fn a_record_has_the_bytes_of_its_page() {
        let encoded = encode(RequestId(2), &[erase(1, 5, 6), erase(1, 9, 12)]);
        let key = b"e\x02\0\0\0\0\0\0\0\x03\0\0\0\x01\0\0\0\x05\0\0\0\0\0\0\0".to_vec();
        let value = b"\0\0\0\0\x01\0\0\0\x03\0\0\0\x03\0\0\0".to_vec();
        assert_eq!(encoded, [(key.clone(), value.clone())]);
        for cut in (0..value.len()).filter(|cut| cut % 8 != 0) {
            assert_eq!(decode(&key, &value[..cut]), None);
        }
        let beyond = [u64::MAX.to_le_bytes(); 2].concat();
        let mut last = key[..17].to_vec();
        last.extend(u64::MAX.to_le_bytes());
        assert_eq!(decode(&last, &beyond), None);
    }
}
