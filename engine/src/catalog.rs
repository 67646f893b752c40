//! The catalog: which topics there are, and where each partition begins.
//!
//! It is kept as {key, value} records in the internal topic [`TOPIC_NAME`], whose id is 0 and
//! which is there from the first commit on:
//!
//! | key | value |
//! |---|---|
//! | `t` + name | u8 version 1, u8 partitioning 1, u8 retention, u32 partitions, i64 created |
//! | `s` + u32 topic + u32 partition | u64 first offset that is still wanted |
//! | `l` + u32 topic | u64 age in µs, u64 bytes: how much is kept; 2^64 − 1 for no limit |
//! | `e` + … | what is to be erased: `settled/erasure.rs` |
//!
//! A topic's id is the offset of its record plus one, so that no id is ever given twice.
//! Promises: applying the same records in the same order gives the same catalog, anywhere.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use tracklog_log::{Dedupe, Limits, Retention, Topic, TopicName, TopicSpec, WhenFull};
use tracklog_protocol::{KeyValue, Offset, PartitionId, TimeMicros, TopicId};

use crate::fields::{Fields, FieldsMut};
use crate::settled::erasure::{self, Erasures, RequestId, Stretches};

/// The catalog's own topic.
pub(crate) const TOPIC_NAME: &str = "_catalog";
/// Its id.
pub(crate) const TOPIC_ID: TopicId = TopicId(0);
/// Its only partition.
pub(crate) const PARTITION: PartitionId = PartitionId::new(TOPIC_ID, 0);
/// No topic has more.
pub(crate) const PARTITIONS_MAX: u32 = 100_000;

const VERSION: u8 = 1;
const PARTITIONING_XXH3: u8 = 1;

/// Where a partition stands in the tables of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Row(pub(crate) u32);

impl Row {
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the tables hold for so many rows is fetched together before it is used: memory answers many
/// questions in the time of one, and what was fetched is still near then.
pub(crate) const ROWS_TOUCHED: usize = 32;

/// The last record of a key in a compacted topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveRecord {
    pub(crate) offset: Offset,
    pub(crate) value: Bytes,
}

/// The rows of one topic's partitions.
#[derive(Clone, Copy, Debug)]
struct Rows {
    first: u32,
    count: u32,
    compact: bool,
    /// How long the ids of its events are known, where they are.
    dedupe: Option<Duration>,
}

/// What a catalog record changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Created(TopicId),
    /// One of the same name was deleted before.
    Recreated {
        gone: TopicId,
        id: TopicId,
    },
    Deleted(TopicId),
    Trimmed(PartitionId, Offset),
    /// These records are to be erased.
    Erasing(PartitionId, Stretches),
    /// Some were.
    Erased,
    None,
}

/// Topics, the rows of their partitions, and the live records of compacted topics.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    topics: BTreeMap<String, Topic>,
    names: HashMap<TopicId, TopicName>,
    rows: HashMap<TopicId, Rows>,
    partitions: Vec<PartitionId>,
    live: BTreeMap<(PartitionId, Bytes), LiveRecord>,
    /// Topics that are deduplicated, there or not.
    dedupe: Vec<Dedupe>,
}

impl Catalog {
    /// A catalog that holds its own topic.
    pub(crate) fn new() -> Self {
        let mut catalog = Self {
            topics: BTreeMap::new(),
            names: HashMap::default(),
            rows: HashMap::default(),
            partitions: Vec::new(),
            live: BTreeMap::new(),
            dedupe: Vec::new(),
        };
        let spec = TopicSpec {
            name: TopicName::new(TOPIC_NAME).expect("the catalog's name is a topic name"),
            partitions: 1,
            retention: Retention::Compact,
        };
        catalog.insert(Topic { id: TOPIC_ID, spec, created: TimeMicros(0) });
        catalog
    }

    /// Adds a topic and gives its partitions rows.
    pub(crate) fn insert(&mut self, topic: Topic) {
        let first = u32::try_from(self.partitions.len()).expect("fewer than 2^32 partitions");
        let compact = topic.spec.retention == Retention::Compact;
        let count = topic.spec.partitions;
        let dedupe = self.dedupe_of(&topic.spec.name);
        self.rows.insert(topic.id, Rows { first, count, compact, dedupe });
        self.partitions.extend(topic.partitions());
        self.names.insert(topic.id, topic.spec.name.clone());
        self.topics.insert(topic.name().to_owned(), topic);
    }

    /// From now on the events of these topics are stored once.
    pub(crate) fn deduplicate(&mut self, topics: &[Dedupe]) {
        self.dedupe = topics.to_vec();
        let names: Vec<_> = self.names.iter().map(|(id, name)| (*id, name.clone())).collect();
        for (id, name) in names {
            let dedupe = self.dedupe_of(&name);
            self.rows.entry(id).and_modify(|rows| rows.dedupe = dedupe);
        }
    }

    fn dedupe_of(&self, name: &TopicName) -> Option<Duration> {
        self.dedupe.iter().find(|it| it.topic == *name).map(|it| it.window)
    }

    /// Whether the events of a topic of this name are, or would be, stored once.
    pub(crate) fn deduplicates(&self, name: &TopicName) -> bool {
        self.dedupe_of(name).is_some()
    }

    /// How long the ids of a topic's events are known, where they are.
    pub(crate) fn dedupe_window(&self, topic: TopicId) -> Option<Duration> {
        self.rows.get(&topic)?.dedupe
    }

    /// From which append time on a topic's events are known again at `now`, where they are.
    pub(crate) fn known_since(&self, topic: TopicId, now: TimeMicros) -> Option<TimeMicros> {
        self.dedupe_window(topic).map(|window| now.minus(window))
    }

    /// The longest of these, of topics that are there or may come.
    pub(crate) fn dedupe_window_max(&self) -> Option<Duration> {
        self.dedupe.iter().map(|it| it.window).max()
    }

    pub(crate) fn topic(&self, name: &str) -> Option<&Topic> {
        self.topics.get(name)
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }

    /// The name of topic `id`, for people.
    pub(crate) fn name(&self, id: TopicId) -> Option<&TopicName> {
        self.names.get(&id)
    }

    /// The row of a partition that is there.
    pub(crate) fn row(&self, partition: PartitionId) -> Option<Row> {
        self.row_and_dedupe(partition).map(|(row, _)| row)
    }

    /// The row of a partition that is there, and whether its events are stored once.
    pub(crate) fn row_and_dedupe(&self, partition: PartitionId) -> Option<(Row, bool)> {
        let rows = self.rows.get(&partition.topic)?;
        let row = Row(rows.first + partition.partition);
        (partition.partition < rows.count).then(|| (row, rows.dedupe.is_some()))
    }

    /// How many rows were given; those of deleted topics are not given again.
    pub(crate) const fn row_count(&self) -> usize {
        self.partitions.len()
    }

    /// The partition of a row.
    pub(crate) fn partition(&self, row: Row) -> PartitionId {
        self.partitions[row.index()]
    }

    /// All partitions that are there, with their rows.
    pub(crate) fn partitions(&self) -> impl Iterator<Item = (Row, PartitionId)> + '_ {
        self.topics.values().flat_map(|topic| {
            topic.partitions().filter_map(|partition| Some((self.row(partition)?, partition)))
        })
    }

    /// Whether the partition belongs to a compacted topic.
    pub(crate) fn is_compact(&self, partition: PartitionId) -> bool {
        self.rows.get(&partition.topic).is_some_and(|rows| rows.compact)
    }

    /// The last record of every key of every compacted topic.
    pub(crate) const fn live(&self) -> &BTreeMap<(PartitionId, Bytes), LiveRecord> {
        &self.live
    }

    /// Applies a record of a compacted topic. For the catalog's own records, says what changed.
    pub(crate) fn apply(
        &mut self,
        partition: PartitionId,
        offset: Offset,
        record: &KeyValue<'_>,
    ) -> Change {
        let key = (partition, Bytes::copy_from_slice(record.key));
        let before = match record.value {
            Some(value) => {
                let value = Bytes::copy_from_slice(value);
                self.live.insert(key, LiveRecord { offset, value })
            }
            None => self.live.remove(&key),
        };
        if partition == PARTITION {
            self.apply_own(offset, record, before.is_some())
        } else {
            Change::None
        }
    }

    fn apply_own(&mut self, offset: Offset, record: &KeyValue<'_>, replaces: bool) -> Change {
        match (record.key.split_first(), record.value) {
            (Some((b't', name)), Some(value)) => decode_topic(name, value, offset)
                .map_or(Change::None, |topic| self.apply_topic(topic, replaces)),
            (Some((b't', name)), None) => {
                let name = str::from_utf8(name).unwrap_or_default();
                // A later topic of this name is known from what a pack says of the log around it.
                let is_later = |topic: &Topic| u64::from(topic.id.0) > offset.0;
                if self.topics.get(name).is_some_and(is_later) {
                    return Change::None;
                }
                self.remove(name)
            }
            (Some((b's', place)), Some(value)) => decode_trim(place, value)
                .map_or(Change::None, |(partition, start)| Change::Trimmed(partition, start)),
            (Some((&erasure::KEY, _)), Some(value)) => self.erase(record.key, value),
            (Some((&erasure::KEY, _)), None) => Change::Erased,
            _ => Change::None,
        }
    }

    /// Applies a topic's record. Ids rise: of one name the highest counts.
    fn apply_topic(&mut self, topic: Topic, replaces: bool) -> Change {
        let id = topic.id;
        match self.topics.get(topic.name()).map(|known| known.id) {
            // A live record that was moved to the head of the log.
            Some(known) if known == id && replaces => Change::None,
            Some(known) if known == id => Change::Created(id),
            Some(known) if known > id => Change::None,
            Some(gone) => {
                // That it was deleted in between is compacted away.
                self.remove(topic.name());
                self.insert(topic);
                Change::Recreated { gone, id }
            }
            None => {
                self.insert(topic);
                Change::Created(id)
            }
        }
    }

    fn remove(&mut self, name: &str) -> Change {
        let Some(topic) = self.topics.remove(name) else { return Change::None };
        self.rows.remove(&topic.id);
        self.names.remove(&topic.id);
        self.live.retain(|(partition, key), _| {
            let is_of_topic = *partition == PARTITION
                && (key.starts_with(&trim_prefix(topic.id)) || *key == limits_key(topic.id));
            partition.topic != topic.id && !is_of_topic
        });
        Change::Deleted(topic.id)
    }

    /// Where partitions start that were trimmed.
    pub(crate) fn trims(&self) -> impl Iterator<Item = (PartitionId, Offset)> {
        let own = self.live_from(b"s");
        own.filter_map(|(key, live)| decode_trim(&key[1..], &live.value))
    }

    /// A key whose last record is to be erased is not there from now on.
    fn erase(&mut self, key: &[u8], value: &[u8]) -> Change {
        let Some((partition, stretches)) = erasure::decode(key, value) else { return Change::None };
        if self.is_compact(partition) {
            self.live.retain(|(of, _), live| *of != partition || !stretches.contains(live.offset));
        }
        Change::Erasing(partition, stretches)
    }

    /// All that is to be erased.
    pub(crate) fn erasures(&self) -> Erasures {
        let records = self.live_from(&[erasure::KEY]);
        Erasures::of(records.map(|(key, live)| (key.clone(), live.value.clone(), live.offset)))
    }

    /// Whether something of the request, or of any, is still to be erased.
    pub(crate) fn is_erasing(&self, request: Option<RequestId>) -> bool {
        let prefix = request.map_or_else(|| vec![erasure::KEY], erasure::key_prefix);
        self.live_from(&prefix).next().is_some()
    }

    /// The catalog's own live records whose keys begin so.
    fn live_from<'a>(&'a self, prefix: &[u8]) -> impl Iterator<Item = (&'a Bytes, &'a LiveRecord)> {
        let prefix = Bytes::copy_from_slice(prefix);
        let from = self.live.range((PARTITION, prefix.clone())..);
        let own = from.map(|((partition, key), live)| (partition, key, live));
        own.take_while(move |(partition, key, _)| {
            **partition == PARTITION && key.starts_with(&prefix)
        })
        .map(|(_, key, live)| (key, live))
    }

    /// How much of a topic is kept.
    pub(crate) fn limits(&self, topic: TopicId) -> Limits {
        let live = self.live.get(&(PARTITION, limits_key(topic).into()));
        live.and_then(|live| decode_limits(&live.value)).unwrap_or_default()
    }

    /// Takes a live record out of a checkpoint.
    pub(crate) fn restore_live(&mut self, partition: PartitionId, key: Bytes, live: LiveRecord) {
        self.live.insert((partition, key), live);
    }
}

/// The key of a topic's record.
pub(crate) fn topic_key(name: &TopicName) -> Vec<u8> {
    [b"t", name.as_str().as_bytes()].concat()
}

/// The value of a topic's record.
///
/// The id is not in it: it follows from the offset. A record that moves to the head of the log
/// carries its id along, behind the other fields.
pub(crate) fn topic_value(spec: &TopicSpec, created: TimeMicros) -> Vec<u8> {
    let mut value = Vec::with_capacity(19);
    value.put_u8(VERSION);
    value.put_u8(PARTITIONING_XXH3);
    value.put_u8(match spec.retention {
        Retention::Keep => 0,
        Retention::Compact => 1,
    });
    value.put_u32(spec.partitions);
    value.put_time(created);
    value
}

/// The value of a topic's record that moves, with the id that it had.
pub(crate) fn moved_topic_value(topic: &Topic) -> Vec<u8> {
    let mut value = topic_value(&topic.spec, topic.created);
    value.put_u32(topic.id.0);
    value
}

fn decode_topic(name: &[u8], value: &[u8], offset: Offset) -> Option<Topic> {
    let mut fields = Fields::new(value);
    let (version, partitioning) = (fields.u8()?, fields.u8()?);
    if version != VERSION || partitioning != PARTITIONING_XXH3 {
        return None;
    }
    let retention = match fields.u8()? {
        0 => Retention::Keep,
        1 => Retention::Compact,
        _ => return None,
    };
    let partitions = fields.u32().filter(|count| (1..=PARTITIONS_MAX).contains(count))?;
    let name = TopicName::new(str::from_utf8(name).ok()?).ok()?;
    let created = fields.time()?;
    let id = fields.u32().or_else(|| u32::try_from(offset.0 + 1).ok())?;
    let spec = TopicSpec { name, partitions, retention };
    Some(Topic { id: TopicId(id), spec, created })
}

fn trim_prefix(topic: TopicId) -> Vec<u8> {
    let mut key = vec![b's'];
    key.put_u32(topic.0);
    key
}

/// The key of the record that says how much of a topic is kept.
pub(crate) fn limits_key(topic: TopicId) -> Vec<u8> {
    let mut key = vec![b'l'];
    key.put_u32(topic.0);
    key
}

/// The value of that record.
pub(crate) fn limits_value(limits: &Limits) -> Vec<u8> {
    let age = limits.age.map(|age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX));
    let mut value = Vec::with_capacity(17);
    value.put_u64(age.unwrap_or(u64::MAX));
    value.put_u64(limits.bytes.unwrap_or(u64::MAX));
    value.put_u8(match limits.when_full {
        WhenFull::Refuse => 0,
        WhenFull::DropOldest => 1,
    });
    value
}

fn decode_limits(value: &[u8]) -> Option<Limits> {
    let mut fields = Fields::new(value);
    let mut limit = || fields.u64().map(|limit| (limit != u64::MAX).then_some(limit));
    let (age, bytes) = (limit()?, limit()?);
    let when_full = match fields.u8() {
        None | Some(0) => WhenFull::Refuse,
        Some(1) => WhenFull::DropOldest,
        Some(_) => return None,
    };
    Some(Limits { age: age.map(Duration::from_micros), bytes, when_full })
}

/// The key of a trim's record.
pub(crate) fn trim_key(partition: PartitionId) -> Vec<u8> {
    let mut key = trim_prefix(partition.topic);
    key.put_u32(partition.partition);
    key
}

fn decode_trim(place: &[u8], value: &[u8]) -> Option<(PartitionId, Offset)> {
    let mut place = Fields::new(place);
    let partition = PartitionId::new(TopicId(place.u32()?), place.u32()?);
    Some((partition, trimmed_to(value)?))
}

/// The start that a trim's record states.
pub(crate) fn trimmed_to(value: &[u8]) -> Option<Offset> {
    Fields::new(value).u64().map(Offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, partitions: u32) -> TopicSpec {
        let name = TopicName::new(name).unwrap();
        TopicSpec { name, partitions, retention: Retention::Keep }
    }

    fn create(catalog: &mut Catalog, offset: u64, spec: &TopicSpec) -> Change {
        let (key, value) = (topic_key(&spec.name), topic_value(spec, TimeMicros(5)));
        let record = KeyValue { key: &key, value: Some(&value) };
        catalog.apply(PARTITION, Offset(offset), &record)
    }

    #[test]
    fn a_recreated_topic_gets_an_id_and_rows_of_its_own() {
        let mut catalog = Catalog::new();
        assert_eq!(create(&mut catalog, 0, &spec("a", 3)), Change::Created(TopicId(1)));
        let first = catalog.row(PartitionId::new(TopicId(1), 2)).unwrap();
        let key = topic_key(&spec("a", 3).name);
        let delete = KeyValue { key: &key, value: None };
        let deleted = catalog.apply(PARTITION, Offset(1), &delete);
        assert_eq!(deleted, Change::Deleted(TopicId(1)));
        assert_eq!(create(&mut catalog, 2, &spec("a", 3)), Change::Created(TopicId(3)));
        assert_eq!(catalog.row(PartitionId::new(TopicId(1), 2)), None);
        assert!(catalog.row(PartitionId::new(TopicId(3), 0)).unwrap() > first);
    }

    #[test]
    fn of_a_name_the_last_topic_counts_though_deletions_are_compacted_away() {
        let mut catalog = Catalog::new();
        create(&mut catalog, 0, &spec("a", 3));
        let gone = TopicId(1);
        assert_eq!(
            create(&mut catalog, 5, &spec("a", 2)),
            Change::Recreated { gone, id: TopicId(6) }
        );
        assert_eq!(catalog.row(PartitionId::new(gone, 0)), None);
        let known = catalog.topic("a").unwrap().clone();
        // Whoever knows it from elsewhere reads what was before.
        let mut told = Catalog::new();
        told.insert(known.clone());
        assert_eq!(create(&mut told, 0, &spec("a", 3)), Change::None);
        let key = topic_key(&known.spec.name);
        let delete = KeyValue { key: &key, value: None };
        assert_eq!(told.apply(PARTITION, Offset(1), &delete), Change::None);
        assert_eq!(create(&mut told, 5, &spec("a", 2)), Change::Created(TopicId(6)));
        assert_eq!(told.topic("a"), Some(&known));
        assert_eq!(told.apply(PARTITION, Offset(7), &delete), Change::Deleted(TopicId(6)));
    }

    #[test]
    fn a_topic_record_that_moves_to_the_head_changes_nothing() {
        let mut catalog = Catalog::new();
        create(&mut catalog, 0, &spec("a", 3));
        let topic = catalog.topic("a").unwrap().clone();
        let (key, value) = (topic_key(&topic.spec.name), moved_topic_value(&topic));
        let moved = KeyValue { key: &key, value: Some(&value) };
        assert_eq!(catalog.apply(PARTITION, Offset(9), &moved), Change::None);
        assert_eq!(catalog.topic("a"), Some(&topic));
        let mut fresh = Catalog::new();
        assert_eq!(fresh.apply(PARTITION, Offset(9), &moved), Change::Created(topic.id));
        assert_eq!(fresh.topic("a"), Some(&topic));
    }
    #[test]
    fn limits_are_read_as_written_and_as_they_were_before_they_told_of_full_disks() {
        let limits = Limits {
            age: Some(Duration::from_secs(60)),
            bytes: None,
            when_full: WhenFull::DropOldest,
        };
        let value = limits_value(&limits);
        assert_eq!(decode_limits(&value), Some(limits));
        let before = Limits { when_full: WhenFull::Refuse, ..limits };
        assert_eq!(decode_limits(&value[..16]), Some(before));
        assert_eq!(decode_limits(&limits_value(&before)), Some(before));
        assert_eq!(decode_limits(&value[..15]), None);
    }
}
