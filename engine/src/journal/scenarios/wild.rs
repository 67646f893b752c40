//! Random programs with all that can go wrong: one rotted page, failing operations, a full disk,
//! crashes in the middle of any operation; with conditions, keys, and topics that come and go.
//!
//! [`Program`] runs one seed. What it holds the log to: the log opens; what was acked is there,
//! but for what lay in the commit that rotted; no offset is given twice and no end goes back; what
//! was cut stays cut; a key's live record is its last; a topic's id is its own.

use std::collections::BTreeSet;
use std::ops::Range;

use tracklog_log::{Retention, TopicName, TopicSpec};
use tracklog_protocol::KeyValue;

use super::*;

const KEYS: u64 = 5;

/// What may go wrong besides crashes.
#[derive(Clone, Copy, Default)]
struct Wrongs {
    /// Once, between a crash and the next opening, a page rots.
    rot: bool,
    /// Operations fail.
    errors: bool,
    /// The disk is full for a while.
    full: bool,
}

/// An append of the program.
struct Pending {
    sent: Sent,
    /// The partition and offset that a condition asked for.
    expected: Option<(PartitionId, Offset)>,
    change: Option<Sets>,
}

/// A record with a key.
struct Sets {
    key: Vec<u8>,
    /// Which change of the key it is.
    nth: usize,
}

#[derive(Default)]
struct History {
    /// In the order in which they were sent; `None` takes the key away.
    values: Vec<Option<Vec<u8>>>,
    /// How many of them are known to be over, up to the last that was acked.
    acked: usize,
}

/// Where a commit lies, and what of partition records is in it.
struct Rotted {
    records: BTreeSet<(PartitionId, Offset)>,
}

struct Program {
    numbers: Numbers,
    disk: SimDisk,
    options: Options,
    wrongs: Wrongs,
    acked: BTreeMap<(PartitionId, Offset), Vec<u8>>,
    given: BTreeSet<(PartitionId, Offset)>,
    pending: Vec<Pending>,
    keyed: PartitionId,
    keys: BTreeMap<Vec<u8>, History>,
    seen: BTreeMap<(PartitionId, Offset), Bytes>,
    ends: BTreeMap<PartitionId, Offset>,
    ids: BTreeMap<TopicId, String>,
    payload: u64,
    /// The last payload that was sent before the last check.
    checked: u64,
    rotted: Option<Rotted>,
}

fn topic_record(name: &str, retention: Retention) -> (Vec<u8>, Vec<u8>) {
    let name = TopicName::new(name).unwrap();
    let spec = TopicSpec { name, partitions: PARTITIONS, retention };
    (catalog::topic_key(&spec.name), catalog::topic_value(&spec, TimeMicros(1)))
}

pub(super) fn set(rig: &Rig, partition: PartitionId, key: &[u8], value: Option<&[u8]>) -> Ticket {
    let mut buffer = Vec::new();
    let record = KeyValue { key, value }.encode(&mut buffer);
    let append = Append { conditions: &[], items: &[Item::Record { partition, record }] };
    rig.client.append(Lane(9), append).expect("the budget is not used up")
}

/// Makes a topic of keys; its first partition.
pub(super) fn make_compact_topic(rig: &mut Rig, name: &str) -> PartitionId {
    let (key, value) = topic_record(name, Retention::Compact);
    let mut ticket = set(rig, catalog::PARTITION, &key, Some(&value));
    rig.settle();
    decided(&mut ticket).expect("it is decided").expect("it is stored");
    let topic = rig.client.published.topics.read().catalog.topic(name).unwrap().id;
    PartitionId::new(topic, 0)
}

impl Program {
    fn run(seed: u64, options: &Options, wrongs: Wrongs) {
        let disk = SimDisk::new(seed);
        let mut rig = Rig::open_with(&disk, options).expect("a new log opens");
        rig.make_topic();
        let keyed = make_compact_topic(&mut rig, "keys");
        // Both topics are in the checkpoint: what rots does not take them along.
        rig.stop();
        let disk = disk.reboot();
        let mut program = Self {
            numbers: Numbers(seed),
            disk,
            options: options.clone(),
            wrongs,
            acked: BTreeMap::new(),
            given: BTreeSet::new(),
            pending: Vec::new(),
            keyed,
            keys: BTreeMap::new(),
            seen: BTreeMap::new(),
            ends: BTreeMap::new(),
            ids: BTreeMap::new(),
            payload: 0,
            checked: 0,
            rotted: None,
        };
        for _ in 0..program.numbers.below(6) + 2 {
            program.one_run();
        }
        drop(program.open());
    }

    fn one_run(&mut self) {
        let mut rig = self.open();
        if self.wrongs.errors && self.numbers.one_in(2) {
            let nth = self.numbers.below(200) + 1;
            self.disk.fail_operation(nth, std::io::ErrorKind::Other, Lasting::Once);
        }
        if self.numbers.one_in(3) {
            let (nth, kind) = (self.numbers.below(250) + 1, self.crash_kind());
            self.disk.crash_at_operation(nth, kind);
        }
        // Rot matters most where several segments were filled since the last checkpoint.
        let steps = if self.wrongs.rot { 600 } else { 150 };
        for _ in 0..self.numbers.below(steps) {
            self.one_step(&mut rig);
            self.collect();
        }
        self.disk.set_capacity(u64::MAX >> 1);
        let mut rots = self.wrongs.rot && self.rotted.is_none() && self.numbers.one_in(2);
        if rots {
            // All that was acked is vouched for, unless the machine went off before: what rots
            // then looks like a torn end. What comes now is not acked any more.
            rig.settle_marked();
            self.collect();
            rots = self.disk.free_bytes().is_ok();
            self.send(&rig);
            rig.step();
        }
        let kind = self.crash_kind();
        self.disk.crash(kind);
        self.collect();
        self.pending.clear();
        drop(rig);
        self.disk = self.disk.reboot();
        self.disk.heal();
        if rots {
            self.rot();
        }
    }

    fn crash_kind(&mut self) -> Crash {
        if self.numbers.one_in(2) { Crash::Power } else { Crash::Kill }
    }

    fn one_step(&mut self, rig: &mut Rig) {
        match self.numbers.below(20) {
            0..=4 => self.send(rig),
            5..=6 => self.send_key(rig),
            7 if self.numbers.one_in(4) => self.change_topics(rig),
            7..=12 => {
                rig.step();
            }
            13..=15 => {
                self.disk.step();
            }
            16..=17 => {
                rig.keep();
            }
            18 if self.wrongs.full && self.numbers.one_in(3) => {
                let used = (u64::MAX >> 1) - self.disk.free_bytes().unwrap_or(0);
                self.disk.set_capacity(used + self.numbers.below(3 * SLOT_BYTES));
            }
            18 => {
                self.disk.set_capacity(u64::MAX >> 1);
                rig.stepper.look_for_room();
            }
            _ => self.disk.advance(Duration::from_millis(self.numbers.below(if self.wrongs.rot {
                300
            } else {
                6_000
            }))),
        }
    }

    fn send(&mut self, rig: &Rig) {
        let count = self.numbers.below(3) + 1;
        let records = (0..count).map(|_| {
            self.payload += 1;
            let large = if self.wrongs.rot { 2 } else { 6 };
            let size = if self.numbers.one_in(large) { 200_000 } else { 300 };
            let mut bytes = self.payload.to_le_bytes().to_vec();
            bytes.resize(8 + self.numbers.below(size) as usize, self.numbers.next() as u8);
            (place(self.numbers.below(u64::from(PARTITIONS)) as u32), bytes)
        });
        let records: Vec<_> = records.collect();
        let partition = records[0].0;
        let expected = self.numbers.one_in(3).then(|| {
            let next = rig.end(partition.partition).plus(self.numbers.below(3));
            (partition, next)
        });
        let conditions: Vec<Condition> = expected
            .iter()
            .map(|(partition, next)| Condition::NextOffset { partition: *partition, next: *next })
            .collect();
        let ticket = Some(rig.append(&records, &conditions));
        self.pending.push(Pending { sent: Sent { records, ticket }, expected, change: None });
    }

    fn send_key(&mut self, rig: &Rig) {
        let key = vec![b'k', self.numbers.below(KEYS) as u8];
        self.payload += 1;
        let value = (!self.numbers.one_in(8)).then(|| self.payload.to_le_bytes().to_vec());
        let history = self.keys.entry(key.clone()).or_default();
        history.values.push(value.clone());
        let change = Some(Sets { key: key.clone(), nth: history.values.len() });
        let ticket = Some(set(rig, self.keyed, &key, value.as_deref()));
        let sent = Sent { records: Vec::new(), ticket };
        self.pending.push(Pending { sent, expected: None, change });
    }

    /// Makes or deletes a topic, and waits for it if nothing fails.
    fn change_topics(&mut self, rig: &mut Rig) {
        let name = format!("x{}", self.numbers.below(3));
        let (key, value) = topic_record(&name, Retention::Keep);
        let topic = rig.client.published.topics.read().catalog.topic(&name).cloned();
        let value = topic.is_none().then_some(&value[..]);
        let mut ticket = set(rig, catalog::PARTITION, &key, value);
        rig.settle();
        let Some(Ok(_)) = decided(&mut ticket) else { return };
        let after = rig.client.published.topics.read().catalog.topic(&name).cloned();
        assert_eq!(after.is_some(), topic.is_none(), "{name} was made or deleted");
        if let Some(topic) = after {
            let before = self.ids.insert(topic.id, name);
            assert!(before.is_none(), "{} was the id of another topic", topic.id);
        }
    }

    /// Takes the outcomes that are known by now.
    fn collect(&mut self) {
        for Pending { sent, expected, change } in &mut self.pending {
            let Some(ticket) = &mut sent.ticket else { continue };
            let Some(result) = decided(ticket) else { continue };
            sent.ticket = None;
            let Ok(stored) = result else { continue };
            if let Some((partition, next)) = expected {
                let first = sent.records.iter().position(|(of, _)| of == partition).unwrap();
                assert_eq!(stored.offset(first), *next, "the condition held");
            }
            for (item, (partition, bytes)) in sent.records.iter().enumerate() {
                let at = (*partition, stored.offset(item));
                assert!(self.given.insert(at), "{at:?} was acked twice");
                self.acked.insert(at, bytes.clone());
            }
            if let Some(Sets { key, nth }) = change {
                let history = self.keys.get_mut(key).unwrap();
                history.acked = history.acked.max(*nth);
            }
        }
        self.pending.retain(|pending| pending.sent.ticket.is_some());
    }

    /// Lets one page of a slot or one checkpoint rot.
    fn rot(&mut self) {
        if self.numbers.one_in(5) {
            let b = self.numbers.one_in(2);
            let file = if b { FileName::CheckpointB } else { FileName::CheckpointA };
            if let Ok(mut bytes) = self.disk.read_file(&file) {
                let at = self.numbers.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << self.numbers.below(8);
                self.disk.set_file(&file, Some(bytes));
            }
            self.rotted = Some(Rotted { records: BTreeSet::new() });
            return;
        }
        // Late writes have landed by the time that anyone looks.
        while self.disk.step() {}
        let recovered = recovered(&self.disk);
        let slots: Vec<SlotId> =
            self.disk.journal_folder().unwrap().slots.iter().map(|(slot, _)| *slot).collect();
        let slot = slots[self.numbers.below(slots.len() as u64) as usize];
        let used = recovered.segments.iter().find(|(id, _)| id.slot == slot);
        let commits = used.map_or(&[][..], |(_, index)| &index.commits);
        let page = match self.numbers.below(3) {
            0 => 0,
            1 if !commits.is_empty() => {
                let commit = commits[self.numbers.below(commits.len() as u64) as usize];
                commit.position / 4096
            }
            _ => {
                let end = commits.last().map_or(64, |last| last.position / 4096 + 64);
                self.numbers.below(u64::from(end).min(SLOT_BYTES / 4096)) as u32
            }
        };
        let at = u64::from(page) * 4096;
        let hit = commits.iter().find(|commit| {
            let from = u64::from(commit.position);
            (from..from + u64::from(commit.commit_bytes)).contains(&at)
        });
        let hit = hit.map(|it| u64::from(it.position)..u64::from(it.position + it.commit_bytes));
        let records = used.zip(hit).map_or_else(BTreeSet::new, |((id, index), hit)| {
            records_in(&self.disk, *id, index, &hit)
        });
        match self.numbers.below(3) {
            0 => self.disk.corrupt(slot, at, &[0; 4096]),
            1 => {
                let bytes: Vec<u8> = (0..4096).map(|_| self.numbers.next() as u8).collect();
                self.disk.corrupt(slot, at, &bytes);
            }
            _ => {
                let byte = at + self.numbers.below(4096);
                self.disk.flip_bit(slot, byte, self.numbers.below(8) as u8);
            }
        }
        self.rotted = Some(Rotted { records });
    }

    /// Opens, with crashes and failures on the way, and checks what is there.
    fn open(&mut self) -> Rig {
        for _ in 0..self.numbers.below(3) {
            let (nth, kind) = (self.numbers.below(50) + 1, self.crash_kind());
            if self.wrongs.errors && self.numbers.one_in(2) {
                self.disk.fail_operation(nth, std::io::ErrorKind::Other, Lasting::Once);
            } else {
                self.disk.crash_at_operation(nth, kind);
            }
            drop(Rig::open_with(&self.disk, &self.options));
            self.disk.crash(kind);
            self.disk = self.disk.reboot();
            self.disk.heal();
        }
        let rig = Rig::open_with(&self.disk, &self.options);
        let rig = rig.unwrap_or_else(|error| panic!("{error}\n{:#?}", self.disk.trace()));
        self.check(&rig);
        rig
    }

    fn check(&mut self, rig: &Rig) {
        let recovered = recovered(&self.disk);
        let found = contents(&self.disk, &recovered);
        let start = |partition: &PartitionId| recovered.extents.get(partition).map(|e| e.start);
        let stays = |(partition, offset): &(PartitionId, Offset)| {
            start(partition).is_some_and(|start| *offset >= start)
        };
        self.acked.retain(|at, _| stays(at));
        self.seen.retain(|at, _| stays(at));
        self.lose(rig, &recovered, &found);
        for (at, bytes) in &self.acked {
            let there = found.get(at).map(|bytes| &bytes[..]);
            assert!(there == Some(&bytes[..]), "acked {at:?} is gone: {:?}", rig.notes);
        }
        for (at, bytes) in &self.seen {
            assert!(found.get(at) == Some(bytes), "{at:?} was there and changed or went");
        }
        for (at, bytes) in found.iter().filter(|((partition, _), _)| partition.topic == TopicId(1))
        {
            let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let is_new = !self.seen.contains_key(at);
            assert!(!is_new || number > self.checked, "{at:?} was cut and came back");
            assert!(at.1 < recovered.extents[&at.0].end, "{at:?} is not below the end");
        }
        for (partition, extent) in &recovered.extents {
            let before = self.ends.insert(*partition, extent.end).unwrap_or_default();
            assert!(before <= extent.end, "the end of {partition} went back");
            assert!(extent.start <= extent.end, "{partition} starts behind its end");
        }
        self.check_keys(rig, &recovered, &found);
        self.seen = found;
        self.checked = self.payload;
    }

    /// Forgets what the rot has taken, which must have been told.
    fn lose(
        &mut self,
        rig: &Rig,
        recovered: &Recovered,
        found: &BTreeMap<(PartitionId, Offset), Bytes>,
    ) {
        let Some(rotted) = &self.rotted else { return };
        for at in rotted.records.iter().filter(|at| !found.contains_key(at)) {
            let acked = self.acked.remove(at).is_some();
            self.seen.remove(at);
            let told = !missing(&rig.notes).is_empty() || is_listed(recovered, at);
            assert!(!acked || told, "{at:?} is lost in silence");
        }
    }

    fn check_keys(
        &self,
        rig: &Rig,
        recovered: &Recovered,
        found: &BTreeMap<(PartitionId, Offset), Bytes>,
    ) {
        if self.rotted.as_ref().is_some_and(|rotted| {
            rotted.records.iter().any(|(partition, _)| *partition == self.keyed)
        }) {
            return;
        }
        let published = rig.client.published.topics.read();
        for (key, history) in &self.keys {
            let of = (self.keyed, Bytes::copy_from_slice(key));
            let live = recovered.catalog.live().get(&of);
            assert_eq!(live, published.catalog.live().get(&of));
            let value = live.map(|live| live.value.to_vec());
            let from = history.acked.saturating_sub(1);
            let known = history.values[from..].contains(&value);
            assert!(known || (history.acked == 0 && value.is_none()), "{key:?} is {value:?}");
            if let Some(live) = live {
                let record = &found[&(self.keyed, live.offset)];
                let record = KeyValue::decode(record).unwrap();
                assert_eq!((record.key, record.value), (&key[..], Some(&live.value[..])));
            }
        }
    }
}

/// The records in the commit that lies in `range` of a segment.
fn records_in(
    disk: &SimDisk,
    id: SegmentId,
    index: &crate::partition::places::SegmentIndex,
    range: &Range<u64>,
) -> BTreeSet<(PartitionId, Offset)> {
    let walker = Walker::new(disk.open_slot(id.slot, Access::Read).unwrap(), id);
    let mut records = BTreeSet::new();
    for share in &index.shares {
        for place in share.places.iter().filter(|place| range.contains(&place.at())) {
            let at = u32::try_from(place.at()).unwrap();
            let bytes = walker.bytes(at, place.batch_bytes as usize).unwrap();
            let batch = crate::disk::batch_of_slot(bytes).unwrap();
            records.extend(batch.records().map(|(offset, _)| (share.partition, offset)));
        }
    }
    records
}

/// Runs a program for each seed; the environment may choose others.
fn run(count: u64, options: &Options, wrongs: Wrongs) {
    run_seeds(count, |seed| Program::run(seed, options, wrongs));
}

#[test]
fn programs_with_conditions_keys_and_topics() {
    run(60, &options(), Wrongs::default());
}

#[test]
fn programs_that_drop_the_oldest_keep_every_live_record() {
    run(60, &dropping(6), Wrongs::default());
}

#[test]
fn programs_with_one_rotted_page() {
    run(60, &options(), Wrongs { rot: true, ..Wrongs::default() });
}

#[test]
fn programs_with_failing_operations() {
    run(60, &options(), Wrongs { errors: true, ..Wrongs::default() });
}

#[test]
fn programs_with_a_full_disk() {
    run(60, &options(), Wrongs { full: true, ..Wrongs::default() });
}

#[test]
fn programs_that_drop_the_oldest_on_a_disk_that_fails_and_is_full() {
    run(60, &dropping(6), Wrongs { errors: true, full: true, ..Wrongs::default() });
}
