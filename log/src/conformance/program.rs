//! Random programs: an implementation and the twin in memory are told the same, step by step,
//! and must answer the same.
//!
//! What the trait leaves open is not compared: topic ids, where batches are cut, how much of an
//! answer comes at once, append times (each log has its clock; they are compared with what the
//! log itself stamped). A program has at most one reason to refuse each append, since which of two
//! is named is open too. Of a compacted partition only the last record of each key is compared,
//! for earlier ones may go at any time, and it is not trimmed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::{
    KeyValue, Offset, PartitionId, PayloadKind, ProducerEpoch, ProducerId, Record, Sequence,
    TimeMicros, VerifiedBatch,
};

use super::Harness;
use super::rig::{Content, Found, Opened, Rig, events_at, name, only_record, records, spec};
use super::task::block_on;
use crate::memory::{MemoryLog, MemoryOptions};
use crate::producers::BATCHES_REMEMBERED;
use crate::{
    AppendError, Condition, Domain, Epoch, FetchError, Item, Retention, Ticket, TimeKind, Topic,
};

/// Runs `steps` random steps of seed `seed` on a fresh log and on the twin. The same seed gives
/// the same program.
///
/// # Panics
/// When the log does not answer as the twin does; the message names seed and step.
pub fn random_program(harness: &mut dyn Harness, seed: u64, steps: usize) {
    let mut program = Program::new(harness, seed);
    program.at = format!("seed {seed}, before the first step");
    program.create_topic();
    program.create_topic();
    for step in 0..steps {
        program.at = format!("seed {seed}, step {step}");
        program.step();
    }
    program.at = format!("seed {seed}, after {steps} steps");
    program.compare_all();
    program.rig.reopen();
    program.at.push_str(" and a reopening");
    program.compare_all();
}

/// Appends that may be on their way at once.
const IN_FLIGHT_MAX: usize = 40;
/// Topics that may be there at once.
const TOPICS: u64 = 4;
/// Idempotent producers there are.
const PRODUCERS: u64 = 3;
/// Event times lie below this, so that programs meet equal ones.
const EVENT_TIME_MAX: u64 = 50;

struct Program<'h> {
    rig: Rig<'h>,
    twin: Opened,
    random: Random,
    live: BTreeMap<String, Twins>,
    deleted: Vec<Twins>,
    /// The last epoch of producers but one.
    epoch: u32,
    /// Where the last record of each key lies, by the twin's partition.
    keys: BTreeMap<(PartitionId, Vec<u8>), Offset>,
    /// Where each producer stands, by the twin's partition.
    sequences: BTreeMap<(PartitionId, ProducerId), Sequence>,
    /// The last appends of producers, to be sent again.
    produced: VecDeque<Vec<Load>>,
    in_flight: VecDeque<InFlight>,
    /// Where in the program we are, for messages.
    at: String,
}

/// The same topic in both logs.
#[derive(Clone)]
struct Twins {
    subject: Topic,
    twin: Topic,
}

/// An append whose ticket was not waited for yet, and what the twin made of it.
struct InFlight {
    ticket: Ticket,
    expected: Result<Expected, AppendError>,
}

/// What the twin said of an append that is stored.
struct Expected {
    offsets: Vec<Offset>,
    is_duplicate: bool,
}

/// The same partition in both logs.
#[derive(Clone, Copy)]
struct Pair {
    subject: PartitionId,
    twin: PartitionId,
    compact: bool,
}

/// Something to append, owned.
struct Load {
    pair: Pair,
    batch: VerifiedBatch,
    whole: bool,
}

/// A condition on a partition of both logs.
struct Demand {
    pair: Pair,
    key: Option<Vec<u8>>,
    offset: Option<Offset>,
}

impl<'h> Program<'h> {
    fn new(harness: &'h mut dyn Harness, seed: u64) -> Self {
        let clock = Arc::new(|| TimeMicros(0));
        let log = Arc::new(MemoryLog::new(MemoryOptions { clock, budget_bytes: 64 << 20 }));
        Self {
            rig: Rig::new(harness),
            twin: Opened::of(log),
            random: Random(seed),
            live: BTreeMap::new(),
            deleted: Vec::new(),
            epoch: 0,
            keys: BTreeMap::new(),
            sequences: BTreeMap::new(),
            produced: VecDeque::new(),
            in_flight: VecDeque::new(),
            at: String::new(),
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..40 => self.append(),
            40..55 => self.append_produced(),
            55..65 => self.compare_fetch(),
            65..72 => self.compare_times(),
            72..77 => self.trim(),
            77..83 => self.create_topic(),
            83..85 => self.delete_topic(),
            85..90 => self.compare_out_of_range(),
            90..94 => self.append_as_an_earlier_writer(),
            94..96 => self.open_again(),
            96..98 => self.reopen(),
            _ => self.compare_all(),
        }
    }

    // Appends.

    fn append(&mut self) {
        let Some(demands) = self.demands() else {
            return;
        };
        let loads: Vec<Load> = (0..self.random.below(8)).filter_map(|_| self.load()).collect();
        self.submit(&demands, &loads);
    }

    fn submit(&mut self, demands: &[Demand], loads: &[Load]) {
        let conditions = |of: fn(&Pair) -> PartitionId| -> Vec<Condition> {
            demands.iter().map(|demand| demand.condition(of(&demand.pair))).collect()
        };
        let items = |of: fn(&Pair) -> PartitionId| -> Vec<Item<'_>> {
            loads.iter().map(|load| load.item(of(&load.pair))).collect()
        };
        let ticket = self.rig.submit(&conditions(|it| it.subject), &items(|it| it.subject));
        let expected = self.twin.submit(&conditions(|it| it.twin), &items(|it| it.twin));
        let expected = block_on(expected).map(|stored| Expected {
            offsets: (0..loads.len()).map(|item| stored.offset(item)).collect(),
            is_duplicate: stored.is_duplicate(),
        });
        if let Ok(expected) = &expected {
            self.note_keys(loads, &expected.offsets);
            self.note_sequences(loads);
        }
        self.in_flight.push_back(InFlight { ticket, expected });
        if self.in_flight.len() > IN_FLIGHT_MAX {
            self.settle_one();
        }
    }

    fn note_keys(&mut self, loads: &[Load], offsets: &[Offset]) {
        for (load, first) in loads.iter().zip(offsets) {
            for (index, (_, record)) in load.batch.view().records().enumerate() {
                let Some(change) = record.key_value() else {
                    continue;
                };
                let key = (load.pair.twin, change.key.to_vec());
                match change.value {
                    Some(_) => self.keys.insert(key, first.plus(index as u64)),
                    None => self.keys.remove(&key),
                };
            }
        }
    }

    fn note_sequences(&mut self, loads: &[Load]) {
        for load in loads {
            if let Some(produced) = load.batch.view().header().produced() {
                let next = self.sequences.entry((load.pair.twin, produced.id)).or_default();
                *next = produced.next.max(*next);
            }
        }
    }

    /// One to three batches of one producer, or some that were sent before.
    fn append_produced(&mut self) {
        let repeated = if self.random.below(3) == 0 {
            self.random.index(self.produced.len()).and_then(|at| self.produced.remove(at))
        } else {
            None
        };
        let gone = |load: &Load| self.twin.log.extent(load.pair.twin).is_none();
        let repeated = repeated.filter(|loads| !loads.iter().any(gone));
        let loads = repeated.unwrap_or_else(|| self.produce());
        self.submit(&[], &loads);
        self.produced.push_front(loads);
        self.produced.truncate(3 * BATCHES_REMEMBERED);
    }

    /// Batches that follow one another, unless one leaves a gap, or an earlier writer sends it.
    fn produce(&mut self) -> Vec<Load> {
        let id = ProducerId(self.random.below(PRODUCERS));
        let mut ahead = BTreeMap::new();
        let mut loads = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            let Some(pair) = self.pair().filter(|pair| !pair.compact) else { continue };
            let stored = self.sequences.get(&(pair.twin, id)).copied().unwrap_or_default();
            let next = ahead.entry(pair.twin).or_insert(stored);
            let skipped = u64::from(self.random.below(12) == 0);
            let epoch = self.epoch + 1 - u32::from(self.random.below(12) == 0);
            self.epoch += u32::from(self.random.below(30) == 0);
            let mut builder = BatchBuilder::new(PayloadKind::Opaque);
            let (sequence, count) = (next.plus(skipped), 1 + self.random.below(4));
            *next = sequence.plus(count);
            builder = match self.random.below(3) {
                0 => {
                    *next = sequence.plus(1 + self.random.below(1 << 33));
                    builder.derived_by(id, ProducerEpoch(epoch), sequence..*next)
                }
                _ => builder.produced_by(id, ProducerEpoch(epoch), sequence),
            };
            for _ in 0..count {
                builder.push(Record::opaque(&self.random.bytes(100)));
            }
            loads.push(Load { pair, batch: builder.finish(), whole: true });
        }
        loads
    }

    fn settle(&mut self) {
        while !self.in_flight.is_empty() {
            self.settle_one();
        }
    }

    fn settle_one(&mut self) {
        let Some(InFlight { ticket, expected }) = self.in_flight.pop_front() else {
            return;
        };
        let stored = block_on(ticket);
        match (&stored, &expected) {
            (Ok(stored), Ok(expected)) => {
                assert_eq!(stored.is_duplicate(), expected.is_duplicate, "{}", self.at);
                for (item, offset) in expected.offsets.iter().enumerate() {
                    assert_eq!(stored.offset(item), *offset, "item {item}; {}", self.at);
                }
            }
            (Err(error), Err(expected)) => {
                assert!(same_kind(error, expected), "{error} and {expected}; {}", self.at);
            }
            (Err(error), Ok(_)) => panic!("{error}, and the twin stored it; {}", self.at),
            (Ok(_), Err(error)) => panic!("stored, the twin says {error}; {}", self.at),
        }
    }

    /// Up to two conditions, of which at most the last does not hold. `None`: no topic to look at.
    fn demands(&mut self) -> Option<Vec<Demand>> {
        let count = self.random.below(5).saturating_sub(2);
        let mut demands: Vec<_> = (0..count).map(|_| self.demand()).collect::<Option<_>>()?;
        if self.random.below(4) == 0
            && let Some(last) = demands.last_mut()
        {
            let wrong = last.offset.map_or(0, |offset| offset.0 + 1);
            last.offset = Some(Offset(wrong));
        }
        Some(demands)
    }

    /// A condition that holds.
    fn demand(&mut self) -> Option<Demand> {
        let pair = self.pair()?;
        if !pair.compact || self.random.below(2) == 0 {
            return Some(Demand { pair, key: None, offset: Some(self.twin.end(pair.twin)) });
        }
        let key = self.random.key();
        let offset = self.keys.get(&(pair.twin, key.clone())).copied();
        Some(Demand { pair, key: Some(key), offset })
    }

    fn load(&mut self) -> Option<Load> {
        let pair = self.pair()?;
        let whole = self.random.below(3) == 0;
        let count = if whole { 1 + self.random.below(6) } else { 1 };
        let batch = match self.random.below(4) {
            _ if pair.compact => self.random.key_values(count),
            0 => self.random.key_values(count),
            1 => self.random.events(count),
            _ => self.random.texts(count),
        };
        Some(Load { pair, batch, whole })
    }

    /// A partition that is there.
    fn pair(&mut self) -> Option<Pair> {
        let topics: Vec<&Twins> = self.live.values().collect();
        let topic = topics.get(self.random.index(topics.len())?)?;
        Some(topic.pair(self.random.below(u64::from(topic.twin.spec.partitions))))
    }

    fn append_as_an_earlier_writer(&mut self) {
        let Some(load) = self.load() else { return };
        let mut earlier = self.rig.clone();
        earlier.epoch = Epoch(self.rig.epoch.0 - 1);
        let refused = earlier.append(&[], &[load.item(load.pair.subject)]);
        assert_eq!(refused, Err(AppendError::Fenced { current: self.rig.epoch }), "{}", self.at);
    }

    // The catalog, and openings.

    fn create_topic(&mut self) {
        let text = format!("topic-{}", self.random.below(TOPICS));
        let partitions = 1 + self.random.below(3) as u32;
        let retention =
            if self.random.below(3) == 0 { Retention::Compact } else { Retention::Keep };
        let spec = spec(&text, partitions, retention);
        let subject = block_on(self.rig.log.create_topic(spec.clone()));
        let twin = block_on(self.twin.log.create_topic(spec));
        match (subject, twin) {
            (Ok(subject), Ok(twin)) => {
                assert_eq!(subject.spec, twin.spec, "{}", self.at);
                self.live.insert(text, Twins { subject, twin });
            }
            (subject, twin) => assert_eq!(subject.err(), twin.err(), "{}", self.at),
        }
    }

    fn delete_topic(&mut self) {
        self.settle();
        let text = format!("topic-{}", self.random.below(TOPICS));
        let subject = block_on(self.rig.log.delete_topic(&name(&text)));
        let twin = block_on(self.twin.log.delete_topic(&name(&text)));
        assert_eq!(subject, twin, "{}", self.at);
        self.deleted.extend(self.live.remove(&text));
    }

    fn open_again(&mut self) {
        self.settle();
        self.rig.open_again();
        self.twin.epoch = block_on(self.twin.log.open(Domain::WHOLE)).expect("the twin opens");
    }

    fn reopen(&mut self) {
        self.settle();
        self.rig.reopen();
        self.compare_all();
    }

    fn trim(&mut self) {
        let Some(pair) = self.pair().filter(|pair| !pair.compact) else {
            return;
        };
        self.settle();
        let before = self.random.below(self.twin.end(pair.twin).0 + 1);
        self.rig.trim(pair.subject, before);
        self.twin.trim(pair.twin, before);
        assert_eq!(self.rig.extent(pair.subject), self.twin.extent(pair.twin), "{}", self.at);
    }

    // Comparisons.

    fn compare_all(&mut self) {
        self.settle();
        for topic in self.live.values() {
            assert_eq!(self.rig.log.topic(topic.twin.name()).as_ref(), Some(&topic.subject));
            for index in 0..topic.twin.spec.partitions {
                self.compare_partition(topic.pair(u64::from(index)));
            }
        }
        for topic in &self.deleted {
            for partition in topic.subject.partitions() {
                assert_eq!(self.rig.log.extent(partition), None, "{}", self.at);
            }
        }
    }

    fn compare_partition(&self, pair: Pair) {
        let extent = self.twin.extent(pair.twin);
        assert_eq!(self.rig.extent(pair.subject), extent, "{}", self.at);
        let found = self.rig.read(pair.subject, extent.start);
        let expected = self.twin.read(pair.twin, extent.start);
        assert!(found.is_sorted_by_key(|record| record.append_time), "{}", self.at);
        if pair.compact {
            assert_eq!(last_of_keys(&found), last_of_keys(&expected), "{}", self.at);
        } else {
            assert_eq!(contents(&found), contents(&expected), "{}", self.at);
        }
    }

    /// One read from several places at once.
    fn compare_fetch(&mut self) {
        self.settle();
        let count = 1 + self.random.below(4);
        let pairs: Vec<_> =
            (0..count).filter_map(|_| self.pair()).filter(|it| !it.compact).collect();
        let asked: Vec<_> = pairs
            .iter()
            .map(|pair| {
                let extent = self.twin.extent(pair.twin);
                let skipped = self.random.below(extent.end.0 - extent.start.0 + 1);
                (pair.subject, extent.start.plus(skipped))
            })
            .collect();
        let bytes_max = self.random.below(3_000) as usize;
        let fetched = self.rig.fetch(&asked, bytes_max).expect("all are in range");
        assert_eq!(fetched.partitions.len(), asked.len(), "{}", self.at);
        let mut any = (false, false);
        for ((pair, (_, from)), found) in pairs.iter().zip(&asked).zip(&fetched.partitions) {
            let read: Vec<_> = records(&found.batches).filter(|it| it.offset >= *from).collect();
            let expected = self.twin.read(pair.twin, *from);
            assert!(contents(&expected).starts_with(&contents(&read)), "{}", self.at);
            assert_eq!(found.next, from.plus(read.len() as u64), "{}", self.at);
            assert_eq!(found.extent, self.twin.extent(pair.twin), "{}", self.at);
            any = (any.0 || !read.is_empty(), any.1 || !expected.is_empty());
        }
        assert_eq!(any.0, any.1, "something comes if there is any; {}", self.at);
    }

    fn compare_times(&mut self) {
        let Some(pair) = self.pair().filter(|pair| !pair.compact) else {
            return;
        };
        self.settle();
        let time = self.random.below(EVENT_TIME_MAX + 2) as i64;
        assert_eq!(
            self.rig.offset_at(pair.subject, TimeKind::Event, time),
            self.twin.offset_at(pair.twin, TimeKind::Event, time),
            "event time {time}; {}",
            self.at
        );
        let extent = self.rig.extent(pair.subject);
        let found = self.rig.read(pair.subject, extent.start);
        let Some(index) = self.random.index(found.len()) else {
            return;
        };
        let time = found[index].append_time.0 + self.random.below(3) as i64 - 1;
        let first = found.iter().find(|record| record.append_time.0 >= time);
        assert_eq!(
            self.rig.offset_at(pair.subject, TimeKind::Append, time),
            first.map_or(extent.end, |record| record.offset).0,
            "append time {time}; {}",
            self.at
        );
    }

    fn compare_out_of_range(&mut self) {
        self.settle();
        if let Some(gone) = self.random.index(self.deleted.len()) {
            let partition = self.deleted[gone].subject.partition(0);
            let refused = self.rig.fetch(&[(partition, Offset(0))], 1).err();
            assert_eq!(refused, Some(FetchError::UnknownPartition { partition }), "{}", self.at);
        }
        let Some(pair) = self.pair() else { return };
        let (partition, extent) = (pair.subject, self.twin.extent(pair.twin));
        let below = extent.start.0.checked_sub(1 + self.random.below(3)).map(Offset);
        let beyond = extent.end.plus(1 + self.random.below(3));
        for asked in below.into_iter().chain([beyond]) {
            let refused = self.rig.fetch(&[(partition, asked)], 1).err();
            let expected = FetchError::OutOfRange { partition, asked, extent };
            assert_eq!(refused, Some(expected), "{}", self.at);
        }
    }
}

impl Twins {
    fn pair(&self, index: u64) -> Pair {
        let index = u32::try_from(index).expect("a topic has few partitions here");
        Pair {
            subject: self.subject.partition(index),
            twin: self.twin.partition(index),
            compact: self.twin.spec.retention == Retention::Compact,
        }
    }
}

impl Load {
    fn item(&self, partition: PartitionId) -> Item<'_> {
        if self.whole {
            Item::Batch { partition, batch: &self.batch }
        } else {
            Item::Record { partition, record: only_record(&self.batch) }
        }
    }
}

impl Demand {
    fn condition(&self, partition: PartitionId) -> Condition {
        match &self.key {
            Some(key) => Condition::LastOfKey { partition, key: key.clone(), last: self.offset },
            None => {
                let next = self.offset.expect("a next offset is always a number");
                Condition::NextOffset { partition, next }
            }
        }
    }
}

fn same_kind(one: &AppendError, other: &AppendError) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

fn contents(found: &[Found]) -> Vec<(Offset, &Content)> {
    found.iter().map(|record| (record.offset, &record.content)).collect()
}

/// The last value of each key, and where it lies.
fn last_of_keys(found: &[Found]) -> BTreeMap<&[u8], (Offset, &[u8])> {
    let mut last = BTreeMap::new();
    for record in found {
        let change = KeyValue::decode(&record.content.bytes).expect("only such were appended");
        match change.value {
            Some(value) => last.insert(change.key, (record.offset, value)),
            None => last.remove(change.key),
        };
    }
    last
}

/// A small deterministic generator (SplitMix64): good enough to vary programs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn index(&mut self, count: usize) -> Option<usize> {
        (count > 0).then(|| self.below(count as u64) as usize)
    }

    fn key(&mut self) -> Vec<u8> {
        vec![b'k'; self.below(5) as usize]
    }

    fn bytes(&mut self, length_max: u64) -> Vec<u8> {
        (0..self.below(length_max)).map(|_| self.next() as u8).collect()
    }

    fn texts(&mut self, count: u64) -> VerifiedBatch {
        let mut builder = BatchBuilder::new(PayloadKind::Opaque);
        for _ in 0..count {
            builder.push(Record::opaque(&self.bytes(300)));
        }
        builder.finish()
    }

    fn key_values(&mut self, count: u64) -> VerifiedBatch {
        let mut builder = BatchBuilder::new(PayloadKind::KeyValue);
        let mut buffer = Vec::new();
        for _ in 0..count {
            let (key, value) = (self.key(), self.bytes(60));
            let value = (self.below(4) > 0).then_some(&value[..]);
            builder.push(KeyValue { key: &key, value }.encode(&mut buffer));
        }
        builder.finish()
    }

    fn events(&mut self, count: u64) -> VerifiedBatch {
        let times: Vec<_> = (0..count).map(|_| self.below(EVENT_TIME_MAX) as i64).collect();
        events_at(&times)
    }
}
