//! The model: what a caller may rely on, kept in plain maps, and held against what a log shows.
//!
//! Every record that is ever sent carries a number of its own. So whatever is read says which
//! append it comes from, and the model knows of each append what may have become of it.
//!
//! What it holds the log to
//! - What was acked, or was ever read, is there at its offset after any crash: once, in order, whole.
//! - An append is there whole or not at all, over all its partitions. Of the appends of one run a
//!   crash leaves a beginning, in the order in which they were sent.
//! - What an opening did not find never comes back; what was refused is never found.
//! - End offsets never go back; offsets have no holes, but where loss was allowed.
//! - A condition held where its append is found. A key's last record is its last write.
//! - What was erased is never found again, once that was said; all others are there as before.
//! - A topic that was made is there, one that was deleted is not, and no id is given twice.
//! - What is lost to injected damage is told, and is no more than the damage touched. A trim, a topic
//!   made or deleted and a key's last write are lost with their commit: then what was before shows.
//!
//! A breach is a panic, as the engine's own assertions are: `program` catches both.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use tracklog_log::{Condition, Erase, Extent, Topic};
use tracklog_protocol::{BatchView, KeyValue, Offset, PartitionId, TimeMicros, TopicId};

use crate::contents::{Contents, Found, Share};

/// A record's own number.
pub(crate) type Number = u64;

/// The bytes of record `number`: its number, and a filler that no neighbour has.
#[must_use]
pub(crate) fn payload(number: Number, length: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(length.max(8), filler(number));
    bytes
}

const fn filler(number: Number) -> u8 {
    (number.wrapping_mul(167) >> 3) as u8 | 1
}

/// The number of a record with these bytes, which are checked.
#[must_use]
pub(crate) fn number_of(bytes: &[u8]) -> Number {
    let (number, rest) = bytes.split_first_chunk().expect("a record is at least its number");
    let number = u64::from_le_bytes(*number);
    assert!(rest.iter().all(|byte| *byte == filler(number)), "record {number} has other bytes");
    number
}

/// Holds the bytes of a record against its number.
pub(crate) fn check_bytes(bytes: &[u8]) {
    assert!(number_of(bytes) < Number::MAX, "a number is of a record that was made");
}

/// A record that was sent.
struct Record {
    append: usize,
    partition: PartitionId,
    length: usize,
    /// Where it was acked or found.
    at: Option<Offset>,
    /// Of its commit, where it was read.
    time: Option<TimeMicros>,
    /// Where it was, and the time of its commit, before it was lost: sent again, it may be known
    /// there still.
    lost: Option<(Offset, Option<TimeMicros>)>,
}

/// Some records of one append that go to one partition, side by side.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// Where they go.
    pub(crate) partition: PartitionId,
    /// Their numbers.
    pub(crate) numbers: Range<Number>,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nobody knows yet, or ever will.
    Open,
    /// It was acked, read, or found: it stays.
    There,
    /// It was refused, or an opening did not find it: it never comes.
    Gone,
}

/// What the model needs to know of an append.
pub(crate) struct Sent {
    /// What is in it.
    pub(crate) parts: Vec<Part>,
    /// What it asked for.
    pub(crate) conditions: Vec<Condition>,
    /// Whether it may be sent again as it is: its producer says who it is.
    pub(crate) produced: bool,
}

struct Append {
    sent: Sent,
    fate: Fate,
    run: u64,
    /// The model's clock when it was sent, and when it was acked.
    sent_at: u64,
    acked_at: Option<u64>,
    /// Its order and wholeness are held to account: no topic of it is ever deleted or compacted.
    is_plain: bool,
}

/// How much may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Loss {
    /// Nothing: no damage was done.
    #[default]
    None,
    /// The records of one commit, and they are told.
    OneCommit,
    /// Whatever is told, and what nothing that is left can vouch for.
    Told,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    There,
    /// It was asked to be deleted, and may be.
    Doubtful,
    Gone,
}

struct Known {
    topic: Topic,
    standing: Standing,
    is_plain: bool,
}

/// All writes of a key, in the order in which they were sent.
#[derive(Default)]
struct History {
    values: Vec<Option<Number>>,
    /// How many of them are known to be over, up to the last that was acked.
    over: usize,
}

impl History {
    /// After which of the writes `value` is the last, if after any that may be.
    fn after(&self, value: Option<Number>) -> Option<usize> {
        let from = self.over.saturating_sub(1);
        match self.values[from..].iter().position(|it| *it == value) {
            Some(nth) => Some(from + nth + 1),
            None => (self.over == 0 && value.is_none()).then_some(0),
        }
    }
}

/// See the head of this file.
#[derive(Default)]
pub(crate) struct Model {
    records: Vec<Record>,
    appends: Vec<Append>,
    taken: BTreeMap<(PartitionId, Offset), Number>,
    ends: BTreeMap<PartitionId, Offset>,
    topics: BTreeMap<TopicId, Known>,
    /// Topics that were asked for, and may turn up.
    wanted: BTreeSet<String>,
    keys: BTreeMap<(PartitionId, Vec<u8>), History>,
    /// Of each partition: up to where it was trimmed for certain, and at most.
    trims: BTreeMap<PartitionId, (Offset, Offset)>,
    /// The latest start that each partition ever showed, whatever a crash made of that.
    starts: BTreeMap<PartitionId, Offset>,
    /// What was to be erased, and whether it was for certain.
    erased: BTreeMap<(PartitionId, Offset), bool>,
    /// Something was to be erased at some time: what nobody could read any more went along.
    erases: bool,
    run: u64,
    clock: u64,
    /// The oldest segments may be given up.
    drops: bool,
    /// The worst that was allowed so far. What lies in a damaged commit may be readable once, by
    /// way of an index, and not the next time.
    loss: Loss,
    /// Of the commits of which something was lost.
    broken: BTreeSet<TimeMicros>,
    /// The last opening told of commits that it could not read.
    told: bool,
}

impl Model {
    /// A model of an empty log, whose oldest segments may be given up if it `drops`.
    pub(crate) fn new(drops: bool) -> Self {
        Self { drops, ..Self::default() }
    }

    /// Makes the records of an append to be: so many for each partition.
    pub(crate) fn make(&mut self, partition: PartitionId, lengths: &[usize]) -> Part {
        let first = self.records.len() as u64;
        let append = self.appends.len();
        self.records.extend(lengths.iter().map(|length| Record {
            append,
            partition,
            length: *length,
            at: None,
            time: None,
            lost: None,
        }));
        Part { partition, numbers: first..self.records.len() as u64 }
    }

    /// The bytes of a record that was made.
    #[must_use]
    pub(crate) fn bytes(&self, number: Number) -> Vec<u8> {
        payload(number, self.record(number).length)
    }

    /// Takes note of an append that is being sent; its records were made since the last one.
    pub(crate) fn send(&mut self, sent: Sent) -> usize {
        self.clock += 1;
        let is_plain = |part: &Part| {
            self.topics.get(&part.partition.topic).is_some_and(|known| known.is_plain)
        };
        let is_plain = sent.parts.iter().all(is_plain) && !sent.produced;
        let (run, sent_at) = (self.run, self.clock);
        let fate = Fate::Open;
        self.appends.push(Append { sent, fate, run, sent_at, acked_at: None, is_plain });
        self.appends.len() - 1
    }

    /// An append that was sent.
    pub(crate) fn sent(&self, append: usize) -> &Sent {
        &self.appends[append].sent
    }

    /// Takes note that a key is being written, by the last append that was sent.
    pub(crate) fn write_key(
        &mut self,
        partition: PartitionId,
        key: &[u8],
        value: Option<Number>,
    ) -> usize {
        let history = self.keys.entry((partition, key.to_vec())).or_default();
        history.values.push(value);
        history.values.len()
    }

    /// The `nth` write of a key was acked.
    pub(crate) fn key_acked(&mut self, partition: PartitionId, key: &[u8], nth: usize) {
        let history = self.keys.get_mut(&(partition, key.to_vec())).expect("it was written");
        history.over = history.over.max(nth);
    }

    /// An append was acked: where each of its parts begins.
    pub(crate) fn acked(&mut self, append: usize, firsts: &[Offset]) {
        self.clock += 1;
        let parts = self.appends[append].sent.parts.clone();
        assert_eq!(parts.len(), firsts.len(), "each part has its offset");
        let fate = self.appends[append].fate;
        assert!(
            fate != Fate::Gone,
            "append {append} was acked, and did not survive a crash before"
        );
        self.appends[append].fate = Fate::There;
        self.appends[append].acked_at.get_or_insert(self.clock);
        for (part, first) in parts.iter().zip(firsts) {
            for (nth, number) in part.numbers.clone().enumerate() {
                self.place(number, first.plus(nth as u64));
            }
        }
        self.check_conditions(append);
    }

    /// An append was refused.
    pub(crate) fn refused(&mut self, append: usize) {
        let append = &mut self.appends[append];
        assert!(append.fate != Fate::There || append.sent.produced, "what is there was refused");
        if append.fate == Fate::Open && !append.sent.produced {
            append.fate = Fate::Gone;
        }
    }

    fn place(&mut self, number: Number, at: Offset) {
        let record = &mut self.records[index(number)];
        if let Some((_, time)) = record.lost.take_if(|(was, _)| *was == at) {
            record.time = time;
        }
        let before = *record.at.get_or_insert(at);
        let partition = record.partition;
        assert_eq!(before, at, "record {number} of {partition} has two offsets");
        let taken = *self.taken.entry((partition, at)).or_insert(number);
        assert_eq!(taken, number, "offset {at} of {partition} was given twice");
    }

    fn check_conditions(&self, append: usize) {
        for condition in &self.appends[append].sent.conditions {
            let Condition::NextOffset { partition, next } = condition else { continue };
            let parts = self.appends[append].sent.parts.iter();
            let first = parts.filter(|part| part.partition == *partition);
            let first = first.map(|part| self.record(part.numbers.start).at).min().flatten();
            assert!(first.is_none_or(|first| first == *next), "{append} was to begin at {next}");
        }
    }

    /// Takes note of an extent that was seen.
    pub(crate) fn extent(&mut self, partition: PartitionId, extent: Extent) {
        assert!(extent.start <= extent.end, "{partition} starts behind its end");
        let before = self.ends.insert(partition, extent.end).unwrap_or_default();
        // Of a run of which a disk that lied has kept nothing nobody can tell how far it skipped.
        let is_forgotten = self.loss == Loss::Told && extent.end == Offset::ZERO;
        let stays = before <= extent.end || is_forgotten;
        assert!(stays, "the end of {partition} went back from {before}");
    }

    /// Takes note of a batch that a reader was given. It is durable, then.
    pub(crate) fn read(&mut self, batch: &BatchView) {
        let partition = batch.partition();
        let Some(known) = self.topics.get(&partition.topic) else { return };
        let is_keyed = known.topic.spec.retention == tracklog_log::Retention::Compact;
        for (offset, record) in batch.records() {
            if is_keyed {
                KeyValue::decode(record.bytes()).expect("a key and a value");
                continue;
            }
            let number = number_of(record.bytes());
            self.found(partition, offset, number, batch.append_time());
            self.check_length(number, record.bytes().len());
        }
    }

    fn check_length(&self, number: Number, length: usize) {
        assert_eq!(self.record(number).length.max(8), length, "record {number} is whole");
    }

    fn found(&mut self, partition: PartitionId, at: Offset, number: Number, time: TimeMicros) {
        let is_erased = self.erased.get(&(partition, at)) == Some(&true);
        assert!(!is_erased || self.loss == Loss::Told, "{at} of {partition} was erased");
        let sent = self.records.get(index(number));
        let record = sent.unwrap_or_else(|| panic!("record {number} was never sent"));
        assert_eq!(record.partition, partition, "record {number} lies elsewhere");
        let append = record.append;
        let fate = self.appends[append].fate;
        assert!(fate != Fate::Gone, "record {number} of {partition} at {at} was cut or refused");
        self.appends[append].fate = Fate::There;
        self.place(number, at);
        let before = *self.records[index(number)].time.get_or_insert(time);
        assert_eq!(before, time, "record {number} lies in one commit");
    }

    /// Takes note of all that is in a partition: what is read there is durable.
    pub(crate) fn looked(&mut self, partition: PartitionId, share: &Share) {
        self.extent(partition, share.extent);
        for (offset, found) in &share.records {
            self.saw(partition, *offset, found);
        }
    }

    /// A key's record may be a copy that was moved: only one in its own place tells of its commit.
    fn saw(&mut self, partition: PartitionId, at: Offset, found: &Found) {
        if found.key.is_none() {
            let number = found.number.expect("a record without a key has its number");
            return self.found(partition, at, number, found.append_time);
        }
        if let Some(number) = self.taken.get(&(partition, at)) {
            self.records[index(*number)].time = Some(found.append_time);
        }
    }

    /// Of how many parts an append is made.
    #[must_use]
    pub(crate) fn parts(&self, append: usize) -> usize {
        self.appends[append].sent.parts.len()
    }

    /// Holds the answer to a look-up by append time against the records whose times are known.
    pub(crate) fn check_offset_at(&self, partition: PartitionId, time: TimeMicros, offset: Offset) {
        let from = (partition, Offset::ZERO);
        let mine = self.taken.range(from..).take_while(|((of, _), _)| *of == partition);
        for ((_, at), number) in mine {
            let Some(own) = self.record(*number).time else { continue };
            if self.erased.contains_key(&(partition, *at)) {
                // Offsets without records that lie side by side may be one batch.
                continue;
            }
            let fits = (*at < offset) == (own < time);
            // What was trimmed or dropped lies below every answer.
            assert!(
                fits || *at < offset,
                "{at} of {partition} is of {own:?}, {offset} of {time:?}"
            );
        }
    }

    /// A topic is being asked for.
    pub(crate) fn want(&mut self, name: &str) {
        self.wanted.insert(name.to_owned());
    }

    /// A topic was made, or was there already.
    pub(crate) fn made(&mut self, topic: &Topic) {
        let name = topic.name();
        assert!(self.wanted.contains(name), "nobody asked for {name}");
        // Those whose names begin so come and go.
        let is_plain =
            !name.starts_with('x') && topic.spec.retention == tracklog_log::Retention::Keep;
        let known = Known { topic: topic.clone(), standing: Standing::There, is_plain };
        if self.may_be_undone() && self.topics.get(&topic.id).is_some_and(|it| it.topic != *topic) {
            // A disk that lied lost it with all that knew of it.
            self.forget(topic.id);
        }
        let known = self.topics.entry(topic.id).or_insert(known);
        assert_eq!(&known.topic, topic, "an id is given once");
        assert!(known.standing != Standing::Gone, "{name} was deleted and came back");
    }

    /// A topic is being deleted.
    pub(crate) fn delete(&mut self, id: TopicId) {
        self.topics.get_mut(&id).expect("it is there").standing = Standing::Doubtful;
    }

    /// A topic was deleted.
    pub(crate) fn deleted(&mut self, id: TopicId) {
        self.topics.get_mut(&id).expect("it was there").standing = Standing::Gone;
    }

    /// A partition is being trimmed.
    pub(crate) fn trim(&mut self, partition: PartitionId, before: Offset) {
        let trim = self.trims.entry(partition).or_default();
        trim.1 = trim.1.max(before);
    }

    /// A partition was trimmed.
    pub(crate) fn trimmed(&mut self, partition: PartitionId, before: Offset) {
        let trim = self.trims.entry(partition).or_default();
        trim.0 = trim.0.max(before);
    }

    /// A partition began there, for all who read. Says whether it began earlier before, and nobody
    /// trimmed it so far.
    pub(crate) fn began_at(&mut self, partition: PartitionId, start: Offset) -> bool {
        let (_, trimmed_at_most) = self.trims.get(&partition).copied().unwrap_or_default();
        let latest = self.starts.entry(partition).or_default();
        let by_itself = start > *latest && start > trimmed_at_most;
        *latest = start.max(*latest);
        by_itself
    }

    /// Whether the record at this place is known.
    pub(crate) fn knows(&self, partition: PartitionId, at: Offset) -> bool {
        self.taken.contains_key(&(partition, at))
    }

    /// Records are being erased.
    pub(crate) fn erase(&mut self, records: &[Erase]) {
        self.erases |= !records.is_empty();
        for at in offsets(records) {
            self.erased.entry(at).or_default();
        }
    }

    /// Records were erased.
    pub(crate) fn erased(&mut self, records: &[Erase]) {
        self.erased.extend(offsets(records).map(|at| (at, true)));
    }

    /// Topics that can be written to.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Topic> {
        let there = self.topics.values().filter(|known| known.standing == Standing::There);
        there.map(|known| &known.topic)
    }

    /// Holds what an opening found against all that is known; `told` if it told of commits that it
    /// could not read. What it did not find is gone.
    pub(crate) fn opened(
        &mut self,
        topics: &[Topic],
        contents: &Contents,
        fresh: Loss,
        told: bool,
    ) {
        self.loss = self.loss.max(fresh);
        self.told = told;
        self.check_topics(topics);
        for (partition, share) in contents {
            self.check_share(*partition, share, fresh);
        }
        let lost = self.lost(contents);
        self.check_wholeness(contents);
        // Keys are held to account by `check_keys`: what was superseded may be gone.
        let unkeyed = lost.iter().filter(|((partition, _), _)| !self.is_keyed(*partition));
        self.check_loss(&unkeyed.copied().collect::<Vec<_>>(), contents);
        self.check_order();
        self.check_keys(contents);
        for (at, number) in lost {
            self.taken.remove(&at);
            // Its neighbours in other batches may be there still. Its producer may send it again.
            let append = self.record(number).append;
            if self.appends[append].sent.produced {
                let record = &mut self.records[index(number)];
                record.lost = record.at.take().map(|at| (at, record.time.take()));
            }
        }
        if self.loss != Loss::None {
            self.forget_erased(contents);
        }
        // What a transient fault of the disk hides among told damage may be read again.
        let hidden = |part: &Part| {
            let share = contents.get(&part.partition);
            self.loss == Loss::Told && share.is_none_or(|share| !share.damage.is_empty())
        };
        for append in &mut self.appends {
            let may_come = append.sent.produced || append.sent.parts.iter().any(hidden);
            if append.fate == Fate::Open && !may_come {
                append.fate = Fate::Gone;
            }
        }
        self.run += 1;
    }

    /// What was to be erased and is not there may have been lost instead, and its place given again;
    /// but for what is among told damage, and may be read again.
    fn forget_erased(&mut self, contents: &Contents) {
        let is_there = |(partition, at): &(PartitionId, Offset)| {
            contents.get(partition).is_none_or(|share| {
                let is_told = share.damage.iter().any(|damage| damage.contains(at));
                is_told || share.records.contains_key(at)
            })
        };
        self.taken.retain(|at, _| is_there(at) || !self.erased.contains_key(at));
        self.erased.retain(|at, is_certain| *is_certain || is_there(at));
    }

    fn check_topics(&mut self, topics: &[Topic]) {
        let there: BTreeSet<TopicId> = topics.iter().map(|topic| topic.id).collect();
        let may_be_undone = self.may_be_undone();
        let mut forgotten = Vec::new();
        for (id, known) in &mut self.topics {
            let name = known.topic.name();
            let is_there = there.contains(id);
            match known.standing {
                Standing::There if !is_there => {
                    assert!(may_be_undone, "topic {name} is gone");
                    forgotten.push(*id);
                }
                Standing::Gone if is_there => {
                    assert!(may_be_undone, "topic {name} came back");
                    known.standing = Standing::There;
                }
                Standing::Doubtful if is_there => known.standing = Standing::There,
                Standing::Doubtful => known.standing = Standing::Gone,
                Standing::There | Standing::Gone => {}
            }
        }
        forgotten.into_iter().for_each(|id| self.forget(id));
        topics.iter().filter(|topic| !topic.spec.name.is_internal()).for_each(|it| self.made(it));
    }

    /// Whether a trim, or a change of topics, may have been lost: to damage that was told, unless
    /// nothing is left that could tell of it.
    const fn may_be_undone(&self) -> bool {
        match self.loss {
            Loss::None => false,
            Loss::OneCommit => self.told,
            Loss::Told => true,
        }
    }

    /// Nobody knows of a topic any more. It may come back once its record can be read.
    fn forget(&mut self, id: TopicId) {
        self.topics.remove(&id);
        self.taken.retain(|(partition, _), _| partition.topic != id);
        self.ends.retain(|partition, _| partition.topic != id);
        self.trims.retain(|partition, _| partition.topic != id);
        self.starts.retain(|partition, _| partition.topic != id);
        self.erased.retain(|(partition, _), _| partition.topic != id);
    }

    fn check_share(&mut self, partition: PartitionId, share: &Share, fresh: Loss) {
        if fresh != Loss::Told {
            self.extent(partition, share.extent);
        }
        self.ends.insert(partition, share.extent.end);
        self.check_start(partition, share);
        for (offset, found) in &share.records {
            if let Some(number) = found.number {
                self.check_length(number, found.length);
            }
            self.saw(partition, *offset, found);
        }
        // Of a topic of keys what was superseded may be gone.
        let is_keyed = self
            .topics
            .get(&partition.topic)
            .is_some_and(|known| known.topic.spec.retention == tracklog_log::Retention::Compact);
        if self.loss == Loss::None && !is_keyed {
            let Extent { start, end } = share.extent;
            let asked = self.erased.range((partition, start)..(partition, end));
            let gone = asked.filter(|((_, at), _)| !share.records.contains_key(at));
            let count = share.records.len() as u64 + gone.count() as u64;
            assert_eq!(count, end.0 - start.0, "{partition} has holes: {:?}", share.damage);
        }
    }

    fn check_start(&mut self, partition: PartitionId, share: &Share) {
        let Extent { start, end } = share.extent;
        // An opening that ended before its run began told nobody; who reads is told ever after.
        let is_told = self.loss == Loss::OneCommit && !share.damage.is_empty();
        let may_be_undone = is_told || self.may_be_undone();
        let free = self.drops || self.loss != Loss::None;
        let (surely, at_most) = self.trims.entry(partition).or_default();
        if start < (*surely).min(end) {
            assert!(may_be_undone, "{partition} was trimmed to {surely}");
            *surely = start;
        }
        assert!(free || start <= *at_most, "{partition} starts at {start} for no reason");
    }

    fn is_keyed(&self, partition: PartitionId) -> bool {
        let known = self.topics.get(&partition.topic);
        known.is_some_and(|it| it.topic.spec.retention == tracklog_log::Retention::Compact)
    }

    /// Records that were there and are not.
    fn lost(&self, contents: &Contents) -> Vec<((PartitionId, Offset), Number)> {
        let mut lost = Vec::new();
        for ((partition, at), number) in &self.taken {
            let Some(share) = contents.get(partition) else { continue };
            let may_go = self.erased.contains_key(&(*partition, *at));
            if *at >= share.extent.start && !share.records.contains_key(at) && !may_go {
                lost.push(((*partition, *at), *number));
            }
        }
        lost
    }

    /// Whether a record was out of reach at some time: trimmed, expired or given up.
    fn was_out_of_reach(&self, partition: PartitionId, at: Offset) -> bool {
        self.starts.get(&partition).is_some_and(|start| at < *start)
    }

    fn check_loss(&mut self, lost: &[((PartitionId, Offset), Number)], contents: &Contents) {
        if let (Loss::None, Some(((partition, at), number))) = (self.loss, lost.first()) {
            panic!("record {number} of {partition} at {at} is gone: {}", self.tell(*number));
        }
        // Of what nobody read before nobody knows in which commit it lay. What was out of reach when
        // a pack was made is not in the pack; damage to what that was made of puts the pack in its
        // place, and a crash takes back what nothing durable said of the reach.
        let counts =
            lost.iter().filter(|((partition, at), _)| !self.was_out_of_reach(*partition, *at));
        let times = counts.filter_map(|(_, number)| self.records[index(*number)].time);
        let times: Vec<_> = times.collect();
        self.broken.extend(times);
        let broken = &self.broken;
        assert!(self.loss != Loss::OneCommit || broken.len() <= 1, "one page took {broken:?}");
        let left: BTreeSet<usize> = contents
            .values()
            .flat_map(|share| share.records.values().filter_map(|found| found.number))
            .map(|number| self.record(number).append)
            .collect();
        for ((partition, at), number) in lost {
            let share = &contents[partition];
            let told = share.damage.iter().any(|damage| damage.contains(at));
            let vouched = || self.is_vouched_for(*number, &left);
            // Where damage undoes a trim, or what had expired, that is not back which went along.
            let went_along = self.erases && self.was_out_of_reach(*partition, *at);
            assert!(
                told || went_along || !vouched(),
                "record {number} of {partition} at {at} is lost in silence"
            );
        }
    }

    /// Whether something that is left was written after the record was acked, in the same run: it
    /// knew that the record was durable.
    fn is_vouched_for(&self, number: Number, left: &BTreeSet<usize>) -> bool {
        let append = &self.appends[self.record(number).append];
        let Some(acked_at) = append.acked_at else { return false };
        let left = left.iter().map(|at| &self.appends[*at]);
        left.filter(|later| later.run == append.run).any(|later| later.sent_at > acked_at)
    }

    fn tell(&self, number: Number) -> String {
        let append = &self.appends[self.record(number).append];
        format!("run {} of {}, acked at {:?}", append.run, self.run, append.acked_at)
    }

    /// Each append whose fate was open is there whole, or not at all.
    fn check_wholeness(&mut self, contents: &Contents) {
        for at in 0..self.appends.len() {
            let append = &self.appends[at];
            if append.fate != Fate::There || self.loss != Loss::None {
                continue;
            }
            for part in &append.sent.parts {
                // Keys are held to account by `check_keys`.
                if !contents.contains_key(&part.partition) || self.is_keyed(part.partition) {
                    continue;
                }
                let placed = part.numbers.clone().all(|it| self.record(it).at.is_some());
                assert!(placed, "append {at} is there in parts");
            }
            self.check_conditions(at);
        }
    }

    /// Of the appends of the run that ended a beginning is there, in order.
    fn check_order(&self) {
        let mut last: BTreeMap<PartitionId, Offset> = BTreeMap::new();
        let mut missing = None;
        let run = self.appends.partition_point(|append| append.run < self.run);
        for (at, append) in self.appends.iter().enumerate().skip(run) {
            if !append.is_plain {
                continue;
            }
            if append.fate == Fate::Open && append.sent.conditions.is_empty() {
                missing = missing.or(Some(at));
            }
            if append.fate != Fate::There {
                continue;
            }
            let clean = self.loss == Loss::None;
            assert!(missing.is_none() || !clean, "append {at} is there, {missing:?} is not");
            let mut firsts: BTreeMap<PartitionId, Offset> = BTreeMap::new();
            for part in &append.sent.parts {
                for number in part.numbers.clone() {
                    let Some(offset) = self.record(number).at else { continue };
                    let last = last.insert(part.partition, offset);
                    assert!(last < Some(offset), "record {number} is out of order");
                    firsts.entry(part.partition).or_insert(offset);
                }
            }
        }
    }

    fn check_keys(&mut self, contents: &Contents) {
        for ((partition, key), history) in &mut self.keys {
            let Some(share) = contents.get(partition) else { continue };
            let mut records = share.records.iter().rev();
            let last = records.find(|(_, found)| found.key.as_ref() == Some(key));
            let value = last.and_then(|(_, found)| found.number);
            let behind = last.map_or(Offset::ZERO, |(at, _)| at.plus(1));
            let told = share.damage.iter().any(|damage| damage.end > behind);
            let may_be_lost = match self.loss {
                Loss::None => false,
                Loss::OneCommit => told,
                Loss::Told => true,
            };
            let Some(over) = history.after(value) else {
                assert!(may_be_lost, "key {key:?} is {value:?}");
                // Any of its writes may be the last that is left, until there is a new one.
                history.over = 0;
                continue;
            };
            history.over = over;
            // What was not found never comes back, but from out of damage.
            if !may_be_lost {
                history.values.truncate(over);
            }
        }
    }

    fn record(&self, number: Number) -> &Record {
        &self.records[index(number)]
    }
}

fn offsets(records: &[Erase]) -> impl Iterator<Item = (PartitionId, Offset)> {
    records.iter().flat_map(|it| (it.from.0..it.to.0).map(|at| (it.partition, Offset(at))))
}

fn index(number: Number) -> usize {
    usize::try_from(number).expect("a program sends far fewer records")
}
