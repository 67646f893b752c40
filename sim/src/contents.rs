//! What a log shows to whoever reads all of it.

use std::collections::BTreeMap;
use std::ops::Range;

use tracklog_log::{Extent, Fetch, FetchMode, Log, Retention, Topic};
use tracklog_protocol::{BatchView, KeyValue, Offset, PartitionId, TimeMicros};

use crate::model::{Number, number_of};
use crate::task::answer;

/// A record that was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its own number; a key that was taken away has none.
    pub(crate) number: Option<Number>,
    /// Its length, or its value's.
    pub(crate) length: usize,
    /// In a topic of keys.
    pub(crate) key: Option<Vec<u8>>,
    /// Of its commit.
    pub(crate) append_time: TimeMicros,
}

/// What a partition shows.
#[derive(Debug)]
pub(crate) struct Share {
    /// Its readable range.
    pub(crate) extent: Extent,
    /// All records that can be read.
    pub(crate) records: BTreeMap<Offset, Found>,
    /// What the log says that it cannot read.
    pub(crate) damage: Vec<Range<Offset>>,
}

/// What all partitions show, but for the log's own.
pub(crate) type Contents = BTreeMap<PartitionId, Share>;

/// Reads all that is there.
pub(crate) fn read_all(log: &dyn Log) -> Contents {
    let topics = log.topics();
    let topics = topics.iter().filter(|topic| !topic.spec.name.is_internal());
    let of_topic = |topic: &Topic| -> Vec<(PartitionId, Share)> {
        let keyed = topic.spec.retention == Retention::Compact;
        topic.partitions().map(|partition| (partition, read(log, partition, keyed))).collect()
    };
    topics.flat_map(of_topic).collect()
}

fn read(log: &dyn Log, partition: PartitionId, keyed: bool) -> Share {
    let extent = log.extent(partition).expect("the topic is listed");
    let mut share = Share { extent, records: BTreeMap::new(), damage: Vec::new() };
    let mut next = extent.start;
    while next < extent.end {
        let fetch = Fetch {
            from: vec![(partition, next)],
            bytes_max: 4 << 20,
            wait: false,
            mode: FetchMode::Replay,
        };
        let fetched = answer(log.fetch(fetch)).expect("whoever asks reads himself");
        let mut fetched = fetched.unwrap_or_else(|error| panic!("a read at {next}: {error}"));
        let part = fetched.partitions.pop().expect("one partition was asked for");
        assert!(part.next > next, "a read of {partition} at {next} comes forward");
        for batch in &part.batches {
            share.take(batch, keyed);
        }
        share.damage.extend(part.damage.iter().map(|damage| damage.from..damage.to));
        next = part.next;
    }
    share
}

impl Share {
    fn take(&mut self, batch: &BatchView, keyed: bool) {
        let append_time = batch.append_time();
        for (offset, record) in batch.records().filter(|(at, _)| *at >= self.extent.start) {
            assert!(offset < self.extent.end, "{offset} is behind the end");
            let found = found(record.bytes(), keyed, append_time);
            let before = self.records.insert(offset, found);
            assert!(before.is_none(), "offset {offset} is read twice");
        }
    }
}

fn found(bytes: &[u8], keyed: bool, append_time: TimeMicros) -> Found {
    if !keyed {
        let (number, length) = (Some(number_of(bytes)), bytes.len());
        return Found { number, length, key: None, append_time };
    }
    let KeyValue { key, value } = KeyValue::decode(bytes).expect("a key and a value");
    let (number, length) = (value.map(number_of), value.map_or(0, <[u8]>::len));
    Found { number, length, key: Some(key.to_vec()), append_time }
}
