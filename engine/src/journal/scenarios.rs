//! The journal and recovery on a simulated disk, driven step by step from one seed.
//!
//! [`Rig`] is a node without threads: the test decides when a write lands, when the journal and
//! the keeper run, and when the machine dies. [`Model`] is what a caller may rely on: what was
//! acked is there, once and in order; what is there was sent; what was once there stays there.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tracklog_log::conformance::block_on;
use tracklog_log::{Append, AppendError, Condition, Item, Lane, Stored, Ticket};
use tracklog_protocol::{Offset, PartitionId, Record, TimeMicros, TopicId};

use crate::catalog;
use crate::checkpoint::Checkpoint;
use crate::disk::simulated::{Crash, Lasting, Lying, OperationKind, SimDisk};
use crate::disk::{Access, Disk, FileName, SlotId};
use crate::error::OpenError;
use crate::journal::appender::{Counters, Next};
use crate::journal::commit::CommitNumber;
use crate::journal::intake::Input;
use crate::journal::recovery::{Note, Recovered, recover};
use crate::journal::walk::Walker;
use crate::open::{Opening, Threads, open_disk};
use crate::options::Options;
use crate::partition::places::SegmentId;
use crate::stepped::Stepper;

mod driven;
mod dropped;
mod ends;
mod forged;
mod lying;
mod named;
mod produced;
mod settled;
mod wild;

const SLOT_BYTES: u64 = 2 << 20;
const PARTITIONS: u32 = 3;

/// A small generator of numbers that a seed fixes (splitmix64, Steele et al. 2014).
#[derive(Clone)]
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// A node without threads.
struct Rig {
    disk: SimDisk,
    client: crate::intake_client::IntakeClient,
    stepper: Stepper,
    counters: Arc<Counters>,
    notes: Vec<Note>,
}

fn options() -> Options {
    Options { slot_bytes: Some(SLOT_BYTES), replay_threads: 0, ..Options::default() }
}

/// A log of so many slots that gives up its oldest segments.
fn dropping(slots: u64) -> Options {
    let when_full = crate::options::WhenFull::DropOldest;
    Options { journal_bytes_max: Some(slots * SLOT_BYTES), hot_bytes: None, when_full, ..options() }
}

impl Rig {
    fn open(disk: &SimDisk) -> Result<Self, OpenError> {
        Self::open_with(disk, &options())
    }

    fn open_with(disk: &SimDisk, options: &Options) -> Result<Self, OpenError> {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let Opening { client, report, counters, machines, .. } = open_disk(&shared, options)?;
        let stepper = Stepper::new(&shared, &client.driver, machines);
        Ok(Self { disk: disk.clone(), client, stepper, counters, notes: report.notes })
    }

    /// One step of the journal.
    fn step(&mut self) -> Next {
        self.stepper.step()
    }

    /// One job of the keeper.
    fn keep(&mut self) -> bool {
        self.stepper.run_keeper()
    }

    /// Runs until nothing is left to do but to wait for time to pass.
    fn settle(&mut self) {
        loop {
            self.step();
            if !self.keep() && !self.disk.step() {
                // A write that failed at once has been told since.
                self.step();
                return;
            }
        }
    }

    /// As [`settle`](Self::settle), and lets time pass until the mark is written.
    fn settle_marked(&mut self) {
        self.settle();
        self.disk.advance(Duration::from_millis(2));
        self.settle();
    }

    /// Stops in good order.
    fn stop(mut self) {
        self.client.driver.push(Input::Stop);
        while self.step() != Next::Stopped {
            if !self.keep() {
                self.disk.step();
            }
        }
        while self.keep() {}
    }

    fn append(&self, records: &[(PartitionId, Vec<u8>)], conditions: &[Condition]) -> Ticket {
        let items: Vec<Item<'_>> = records
            .iter()
            .map(|(partition, bytes)| Item::Record {
                partition: *partition,
                record: Record::opaque(bytes),
            })
            .collect();
        let append = Append { conditions, items: &items };
        self.client.append(Lane(9), append).expect("the budget is not used up")
    }

    /// Makes the topic that the tests write to, and settles.
    fn make_topic(&mut self) {
        self.make_topic_of("t", PARTITIONS);
    }

    fn make_topic_of(&mut self, name: &str, partitions: u32) {
        let spec = tracklog_log::TopicSpec {
            name: tracklog_log::TopicName::new(name).unwrap(),
            partitions,
            retention: tracklog_log::Retention::Keep,
        };
        self.tell_catalog(
            &catalog::topic_key(&spec.name),
            &catalog::topic_value(&spec, TimeMicros(1)),
        );
    }

    /// Sets a key of the catalog, and settles.
    fn tell_catalog(&mut self, key: &[u8], value: &[u8]) {
        let mut buffer = Vec::new();
        let record = tracklog_protocol::KeyValue { key, value: Some(value) }.encode(&mut buffer);
        let items = [Item::Record { partition: catalog::PARTITION, record }];
        let append = Append { conditions: &[], items: &items };
        let ticket = self.client.append(Lane(9), append).unwrap();
        self.settle();
        result(ticket).expect("decided").expect("stored");
    }

    fn end(&self, partition: u32) -> Offset {
        self.client.published.topics.read().extent(place(partition)).expect("it is there").end
    }
}

/// The partition that the tests call by a number.
fn place(partition: u32) -> PartitionId {
    PartitionId::new(TopicId(1), partition)
}

/// What a ticket says now.
fn result(mut ticket: Ticket) -> Option<Result<Stored, AppendError>> {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(&mut ticket).poll(&mut context) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

fn decided(ticket: &mut Ticket) -> Option<Result<Stored, AppendError>> {
    let mut context = Context::from_waker(Waker::noop());
    match Pin::new(ticket).poll(&mut context) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// All records that recovery finds, by partition and offset; unreadable batches are left out.
fn contents(disk: &SimDisk, recovered: &Recovered) -> BTreeMap<(PartitionId, Offset), Bytes> {
    let mut all = BTreeMap::new();
    for (id, index) in &recovered.segments {
        let walker = Walker::new(disk.open_slot(id.slot, Access::Read).unwrap(), *id);
        for share in &index.shares {
            for place in &share.places {
                let at = u32::try_from(place.at()).unwrap();
                let bytes = walker.bytes(at, place.batch_bytes as usize).unwrap();
                let Ok(batch) = crate::disk::batch_of_slot(bytes) else { continue };
                for (offset, record) in batch.records() {
                    let bytes = Bytes::copy_from_slice(record.bytes());
                    let before = all.insert((share.partition, offset), bytes);
                    assert!(before.is_none(), "offset {offset} is given twice");
                }
            }
        }
    }
    all
}

fn recovered(disk: &SimDisk) -> Recovered {
    recover(disk, false).expect("it recovers").expect("there is a log")
}

/// Whether a record has its place, so that whoever reads it is told where it cannot be read.
fn is_listed(recovered: &Recovered, (partition, offset): &(PartitionId, Offset)) -> bool {
    recovered.segments.iter().any(|(_, index)| {
        index.share(*partition).is_some_and(|share| {
            share.places.iter().any(|place| place.base_offset <= *offset) && *offset < share.end
        })
    })
}

/// An append whose outcome is not known yet, or was acked.
struct Sent {
    records: Vec<(PartitionId, Vec<u8>)>,
    ticket: Option<Ticket>,
}

/// What a caller may rely on.
#[derive(Default)]
struct Model {
    /// What must be there.
    acked: BTreeMap<(PartitionId, Offset), Vec<u8>>,
    sent: Vec<Sent>,
    /// All payloads ever sent: nothing else may be found.
    payloads: std::collections::BTreeSet<Vec<u8>>,
    /// What a recovery has found, acked or not.
    seen: BTreeMap<(PartitionId, Offset), Bytes>,
    ends: BTreeMap<PartitionId, Offset>,
}

impl Model {
    /// Takes the outcomes that are known by now.
    fn collect(&mut self) {
        for sent in &mut self.sent {
            let Some(ticket) = &mut sent.ticket else { continue };
            let Some(result) = decided(ticket) else { continue };
            sent.ticket = None;
            let Ok(stored) = result else { continue };
            for (item, (partition, bytes)) in sent.records.iter().enumerate() {
                let before = self.acked.insert((*partition, stored.offset(item)), bytes.clone());
                assert!(before.is_none(), "an offset was acked twice");
            }
        }
        self.sent.retain(|sent| sent.ticket.is_some());
    }

    /// Forgets what was in flight at a crash: it may be there or not.
    fn crashed(&mut self) {
        self.collect();
        self.sent.clear();
    }

    /// Checks what a recovery found.
    fn check(&mut self, disk: &SimDisk, recovered: &Recovered) {
        let found = contents(disk, recovered);
        // What the oldest segments held may be given up where the options say so.
        let start = |partition: &PartitionId| recovered.extents.get(partition).map(|e| e.start);
        self.acked.retain(|(partition, offset), _| Some(*offset) >= start(partition));
        self.seen.retain(|(partition, offset), _| Some(*offset) >= start(partition));
        for (place, bytes) in &self.acked {
            let there = found.get(place);
            assert_eq!(there.map(|b| &b[..]), Some(&bytes[..]), "acked {place:?} is gone");
        }
        for (place, bytes) in &self.seen {
            assert_eq!(found.get(place), Some(bytes), "{place:?} was there and changed or went");
        }
        for ((partition, offset), bytes) in &found {
            if partition.topic == TopicId(1) {
                assert!(self.payloads.contains(&bytes[..]), "{offset} was never sent");
                assert!(*offset < recovered.extents[partition].end, "{offset} is below the end");
            }
        }
        for (partition, extent) in &recovered.extents {
            let before = self.ends.insert(*partition, extent.end).unwrap_or_default();
            assert!(before <= extent.end, "the end of {partition} went back");
        }
        self.seen = found;
    }
}

/// A random program of appends, steps and crashes.
fn run_program(seed: u64, options: &Options) {
    let mut numbers = Numbers(seed);
    let mut disk = SimDisk::new(seed);
    let mut model = Model::default();
    let mut rig = Rig::open_with(&disk, options).expect("a new log opens");
    rig.make_topic();
    let mut payload = 0_u64;
    for _ in 0..numbers.below(6) + 2 {
        for _ in 0..numbers.below(120) {
            match numbers.below(10) {
                0..=2 => {
                    let sent = random_append(&mut numbers, &mut payload, &rig);
                    for (_, bytes) in &sent.records {
                        model.payloads.insert(bytes.clone());
                    }
                    model.sent.push(sent);
                }
                3..=5 => {
                    rig.step();
                }
                6..=7 => {
                    disk.step();
                }
                8 => {
                    rig.keep();
                }
                _ => disk.advance(Duration::from_millis(numbers.below(3_000))),
            }
            model.collect();
        }
        if numbers.one_in(4) {
            rig.settle();
            model.collect();
            rig.stop();
            disk = disk.reboot();
        } else {
            let kind = if numbers.one_in(2) { Crash::Power } else { Crash::Kill };
            disk.crash(kind);
            model.crashed();
            drop(rig);
            disk = disk.reboot();
        }
        rig = reopen(&mut disk, &mut numbers, &mut model, options);
    }
}

/// Opens again, with up to three crashes on the way.
fn reopen(disk: &mut SimDisk, numbers: &mut Numbers, model: &mut Model, options: &Options) -> Rig {
    for _ in 0..numbers.below(4) {
        let kind = if numbers.one_in(2) { Crash::Power } else { Crash::Kill };
        disk.crash_at_operation(numbers.below(40) + 1, kind);
        let opened = Rig::open_with(disk, options);
        if opened.is_ok() {
            // The crash was planned for later than the opening took.
            disk.crash(kind);
        }
        drop(opened);
        *disk = disk.reboot();
        disk.heal();
    }
    let rig = Rig::open_with(disk, options);
    let rig = rig.unwrap_or_else(|error| panic!("{error}\n{:#?}", disk.trace()));
    model.check(disk, &recovered(disk));
    rig
}

fn random_append(numbers: &mut Numbers, payload: &mut u64, rig: &Rig) -> Sent {
    let count = numbers.below(3) + 1;
    let records = (0..count).map(|_| {
        *payload += 1;
        let size = if numbers.one_in(6) { 200_000 } else { 300 };
        let mut bytes = payload.to_le_bytes().to_vec();
        bytes.resize(8 + numbers.below(size) as usize, numbers.next() as u8);
        (place(numbers.below(u64::from(PARTITIONS)) as u32), bytes)
    });
    let records: Vec<_> = records.collect();
    let ticket = Some(rig.append(&records, &[]));
    Sent { records, ticket }
}

/// Runs a program for each seed; the environment may choose others.
fn run_programs(count: u64, options: &Options) {
    run_seeds(count, |seed| run_program(seed, options));
}

fn run_seeds(count: u64, run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let first = number("TRACKLOG_SEED").unwrap_or(0);
    for seed in first..first + number("TRACKLOG_SEEDS").unwrap_or(count) {
        let outcome = std::panic::catch_unwind(|| run(seed));
        assert!(outcome.is_ok(), "TRACKLOG_SEED={seed} TRACKLOG_SEEDS=1 repeats this");
    }
}

#[test]
fn random_programs_with_crashes_keep_every_promise() {
    run_programs(150, &options());
}

#[test]
fn random_programs_that_drop_the_oldest_segments_keep_every_promise_about_the_rest() {
    let options = dropping(5);
    run_programs(60, &options);
}

#[test]
fn a_log_whose_making_was_interrupted_anywhere_is_made_again() {
    for nth in 1..60 {
        for kind in [Crash::Power, Crash::Kill] {
            let disk = SimDisk::new(nth);
            disk.crash_at_operation(nth, kind);
            drop(Rig::open(&disk));
            disk.heal();
            disk.crash(kind);
            let disk = disk.reboot();
            let mut rig = Rig::open(&disk).unwrap_or_else(|error| panic!("{nth}: {error}"));
            rig.make_topic();
            acked(&mut rig, b"a");
            let disk = power_cut(&disk, rig);
            drop(Rig::open(&disk).unwrap_or_else(|error| panic!("{nth}: {error}")));
            assert_eq!(readable(&disk).len(), 1, "operation {nth}");
        }
    }
}

/// Appends one record of `bytes` to partition 0, alone in its commit, and waits for its ack.
fn acked(rig: &mut Rig, bytes: &[u8]) -> Offset {
    let ticket = rig.append(&[(place(0), bytes.to_vec())], &[]);
    rig.settle();
    result(ticket).expect("it is decided").expect("it is stored").offset(0)
}

/// A node with the topic, whose last commit a mark vouches for.
fn node(seed: u64) -> (SimDisk, Rig) {
    let disk = SimDisk::new(seed);
    let mut rig = Rig::open(&disk).expect("a new log opens");
    rig.make_topic();
    rig.settle_marked();
    (disk, rig)
}

/// The power fails; the next process opens.
fn power_cut(disk: &SimDisk, rig: Rig) -> SimDisk {
    disk.crash(Crash::Power);
    drop(rig);
    disk.reboot()
}

/// Where the batches of partition 0 lie: slot, place of the commit and of the batch.
struct Lies {
    slot: SlotId,
    commit: u64,
    batch: u64,
    batch_bytes: usize,
}

/// Where record `offset` of partition 0 lies.
fn lies(disk: &SimDisk, offset: Offset) -> Lies {
    lies_in(disk, place(0), offset)
}

fn lies_in(disk: &SimDisk, partition: PartitionId, offset: Offset) -> Lies {
    let recovered = recovered(disk);
    for (id, index) in &recovered.segments {
        let Some(share) = index.share(partition) else { continue };
        for at in &share.places {
            if at.base_offset == offset {
                let commit = at.at() / 4096 * 4096;
                let batch_bytes = at.batch_bytes as usize;
                return Lies { slot: id.slot, commit, batch: at.at(), batch_bytes };
            }
        }
    }
    panic!("record {offset} is nowhere");
}

fn rot(disk: &SimDisk, slot: SlotId, at: u64) {
    disk.corrupt(slot, at + 20, &[0x5A; 9]);
}

/// Records of partition 0 that can be read, by offset.
fn readable(disk: &SimDisk) -> Vec<(u64, Vec<u8>)> {
    let all = contents(disk, &recovered(disk));
    let mine = all.into_iter().filter(|((partition, _), _)| *partition == place(0));
    mine.map(|((_, offset), bytes)| (offset.0, bytes.to_vec())).collect()
}

/// The first byte of each.
fn first_bytes(disk: &SimDisk) -> Vec<u8> {
    readable(disk).iter().map(|(_, bytes)| bytes[0]).collect()
}

fn missing(notes: &[Note]) -> Vec<(u64, u64, bool)> {
    let stretch = |note: &Note| match note {
        Note::Missing { first, last, known, .. } => Some((first.0, last.0, *known)),
        _ => None,
    };
    notes.iter().filter_map(stretch).collect()
}

#[test]
fn a_cut_commit_never_comes_back() {
    for seed in 0..20 {
        let (disk, mut rig) = node(seed);
        acked(&mut rig, b"first");
        // Two commits in flight; the later one lands, the earlier one is torn.
        let torn = rig.append(&[(place(0), vec![1; 70_000])], &[]);
        rig.step();
        let late = rig.append(&[(place(0), vec![2; 70_000])], &[]);
        rig.step();
        assert_eq!(disk.in_flight(), 2);
        disk.complete(1);
        rig.step();
        assert!(result(torn).is_none() && result(late).is_none(), "acks keep commit order");
        let disk = power_cut(&disk, rig);
        let mut rig = Rig::open(&disk).unwrap();
        // By chance the torn one may have landed whole; then both are there for good.
        let kept = first_bytes(&disk);
        assert!(kept == [b'f'] || kept == [b'f', 1, 2], "seed {seed}: {kept:?}");
        // A commit of the same size takes the number of the torn one.
        acked(&mut rig, &vec![3; 70_000]);
        let disk = power_cut(&disk, rig);
        drop(Rig::open(&disk).unwrap());
        let found = first_bytes(&disk);
        assert_eq!(found, [&kept[..], &[3]].concat(), "seed {seed}");
    }
}

#[test]
fn a_rotten_acked_commit_is_damage_and_the_rest_stays() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    let second = acked(&mut rig, b"b");
    let third = acked(&mut rig, b"c");
    rig.settle_marked();
    let at = lies(&disk, second);
    let disk = power_cut(&disk, rig);
    rot(&disk, at.slot, at.commit);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(missing(&rig.notes).len(), 1);
    let found = readable(&disk);
    assert_eq!(found, [(0, b"a".to_vec()), (third.0, b"c".to_vec())]);
}

#[test]
fn a_rotten_last_commit_below_the_mark_is_damage_and_no_offset_is_given_twice() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    let last = acked(&mut rig, b"b");
    rig.settle_marked();
    let at = lies(&disk, last);
    let disk = power_cut(&disk, rig);
    rot(&disk, at.slot, at.commit);
    let mut rig = Rig::open(&disk).unwrap();
    assert_eq!(missing(&rig.notes).len(), 1);
    let next = acked(&mut rig, b"c");
    assert!(next > last, "offset {last} was acked before");
}

#[test]
fn damage_is_told_at_every_opening_and_skipped_for_once() {
    let (disk, mut rig) = node(1);
    let first = acked(&mut rig, b"a");
    acked(&mut rig, b"b");
    rig.settle_marked();
    let at = lies(&disk, first);
    let mut disk = power_cut(&disk, rig);
    rot(&disk, at.slot, at.commit);
    let mut ends = Vec::new();
    for opening in 0..4 {
        let rig = Rig::open(&disk).unwrap();
        let told = missing(&rig.notes);
        assert_eq!(told.len(), 1, "opening {opening}");
        assert_eq!(told[0].2, opening > 0, "opening {opening}");
        ends.push(rig.end(0));
        disk = power_cut(&disk, rig);
    }
    assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "{ends:?}");
}

#[test]
fn a_skip_survives_runs_that_hold_no_data() {
    let (disk, mut rig) = node(1);
    let last = acked(&mut rig, b"a");
    rig.settle_marked();
    let at = lies(&disk, last);
    let mut disk = power_cut(&disk, rig);
    rot(&disk, at.slot, at.commit);
    for _ in 0..3 {
        let rig = Rig::open(&disk).unwrap();
        disk = power_cut(&disk, rig);
    }
    let mut rig = Rig::open(&disk).unwrap();
    assert!(acked(&mut rig, b"b").0 >= 1 << 20);
    let ends = |rig: &Rig| [0, 1, 2].map(|partition| rig.end(partition));
    let skipped = ends(&rig);
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(ends(&rig), skipped);
    // Without checkpoints the skip is in the headers and the `opened` alone.
    let disk = power_cut(&disk, rig);
    disk.set_file(&FileName::CheckpointA, None);
    disk.set_file(&FileName::CheckpointB, None);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(ends(&rig), skipped);
}

#[test]
fn headers_of_a_cut_commit_vouch_for_nothing_in_the_next_run() {
    // Commits of an ended run are cut with their headers intact; the next run's marks pass their
    // numbers, and it crashes before a checkpoint: the old ones stay cut.
    let (disk, mut rig) = node(3);
    acked(&mut rig, b"a");
    let torn = rig.append(&[(place(0), vec![1; 70_000])], &[]);
    rig.step();
    drop(torn);
    disk.complete(0);
    let disk = {
        // It landed, but was not read as durable by anyone; rot its body.
        disk.crash(Crash::Power);
        drop(rig);
        disk.reboot()
    };
    let at = lies(&disk, Offset(1));
    disk.corrupt(at.slot, at.batch + 5_000, &[9; 64]);
    let mut rig = Rig::open(&disk).unwrap();
    assert!(rig.notes.iter().any(|note| matches!(note, Note::Cut { .. })), "{:?}", rig.notes);
    for number in 0..20_u8 {
        acked(&mut rig, &[100 + number]);
    }
    let disk = power_cut(&disk, rig);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(missing(&rig.notes), []);
    let found = first_bytes(&disk);
    assert_eq!(found[0], b'a');
    assert_eq!(found[1..], (100..120).collect::<Vec<u8>>());
}

#[test]
fn an_ended_run_is_not_judged_again() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    rig.settle_marked();
    // Durable, and never vouched for; the next opening cannot read it.
    acked(&mut rig, b"b");
    let at = lies(&disk, Offset(1));
    let disk = power_cut(&disk, rig);
    disk.break_range(at.slot, at.commit..at.commit + 4096);
    let mut rig = Rig::open(&disk).unwrap();
    acked(&mut rig, b"c");
    let disk = power_cut(&disk, rig);
    disk.heal();
    drop(Rig::open(&disk).unwrap());
    assert_eq!(readable(&disk), [(0, b"a".to_vec()), (1, b"c".to_vec())]);
}

#[test]
fn a_commit_whose_chain_does_not_fit_is_cut() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    rig.settle_marked();
    acked(&mut rig, b"b");
    let at = lies(&disk, Offset(1));
    let disk = power_cut(&disk, rig);
    let page = disk.peek(at.slot, at.commit, 4096);
    let header = crate::journal::commit::CommitHeader::decode(&page).unwrap();
    let other = crate::journal::commit::CommitHeader { chain: header.chain ^ 1, ..header };
    disk.corrupt(at.slot, at.commit, &other.encode());
    drop(Rig::open(&disk).unwrap());
    assert_eq!(readable(&disk), [(0, b"a".to_vec())]);
}

#[test]
fn an_older_body_in_the_place_of_a_new_one_is_cut() {
    let (disk, mut rig) = node(1);
    let old = acked(&mut rig, &[7; 300]);
    rig.settle_marked();
    // The same shape again, not yet vouched for by a mark.
    let new = acked(&mut rig, &[8; 300]);
    let (old, new) = (lies(&disk, old), lies(&disk, new));
    let disk = power_cut(&disk, rig);
    let body = disk.peek(old.slot, old.batch, old.batch_bytes);
    disk.corrupt(new.slot, new.batch, &body);
    let rig = Rig::open(&disk).unwrap();
    assert!(rig.notes.iter().any(|note| matches!(note, Note::Cut { .. })), "{:?}", rig.notes);
    assert_eq!(readable(&disk).len(), 1);
}

#[test]
fn bytes_of_a_client_that_look_like_a_commit_are_not_one() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    let at = lies(&disk, Offset(0));
    let copy = disk.peek(at.slot, at.commit, 4096);
    // The copy lies at the start of a page inside of a batch, and says that it lies elsewhere.
    let first = 4096 - usize::try_from(at.batch - at.commit).unwrap() - 64;
    let mut bytes = vec![0; first + 3 * 4096];
    bytes[first..first + 4096].copy_from_slice(&copy);
    let carrier = acked(&mut rig, &bytes);
    acked(&mut rig, b"c");
    rig.settle_marked();
    let at = lies(&disk, carrier);
    assert_eq!(disk.peek(at.slot, at.commit + 4096, 4096), copy);
    let disk = power_cut(&disk, rig);
    rot(&disk, at.slot, at.commit);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(missing(&rig.notes).len(), 1);
    let found: Vec<Vec<u8>> = readable(&disk).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(found, [b"a".to_vec(), b"c".to_vec()]);
}

#[test]
fn a_log_without_checkpoints_opens_from_the_journal_alone() {
    let (disk, mut rig) = node(1);
    for number in 0..30_u8 {
        acked(&mut rig, &vec![number; 150_000]);
    }
    rig.settle_marked();
    let end = rig.end(0);
    let disk = power_cut(&disk, rig);
    let before = readable(&disk);
    disk.set_file(&FileName::CheckpointA, None);
    disk.set_file(&FileName::CheckpointB, None);
    for segment in 0..9 {
        disk.set_file(&FileName::Index(segment), None);
    }
    let rig = Rig::open(&disk).unwrap();
    assert_eq!((readable(&disk), rig.end(0)), (before, end));
}

#[test]
fn without_checkpoints_a_rotten_slot_header_is_refused() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    let disk = power_cut(&disk, rig);
    disk.set_file(&FileName::CheckpointA, None);
    disk.set_file(&FileName::CheckpointB, None);
    let Err(OpenError::Damaged { what }) = recover(&disk, false).map(|_| ()) else {
        // The only slot with data must have a readable header for this.
        disk.corrupt(SlotId(0), 100, &[1; 8]);
        let error = recover(&disk, false).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("slot-00000000"), "{error}");
        return;
    };
    panic!("it must open before the rot: {what}");
}

#[test]
fn the_older_checkpoint_serves_when_the_newer_is_rotten() {
    let (disk, mut rig) = node(1);
    for number in 0..30_u8 {
        acked(&mut rig, &vec![number; 150_000]);
        disk.advance(Duration::from_secs(4));
    }
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    let before = readable(&disk);
    for file in [FileName::CheckpointA, FileName::CheckpointB] {
        let good = disk.read_file(&file).unwrap();
        let mut bad = good.clone();
        bad[40] ^= 1;
        disk.set_file(&file, Some(bad));
        assert_eq!(readable(&disk), before, "without {}", file.path());
        disk.set_file(&file, Some(good));
    }
}

#[test]
fn both_checkpoints_name_a_run_before_it_takes_anything() {
    let (disk, rig) = node(1);
    let disk = power_cut(&disk, rig);
    let _rig = Rig::open(&disk).unwrap();
    let runs = [FileName::CheckpointA, FileName::CheckpointB].map(|file| {
        let checkpoint = Checkpoint::decode(&disk.read_file(&file).unwrap());
        checkpoint.unwrap().position.run.0
    });
    assert_eq!(runs, [2, 2]);
}

#[test]
fn a_rotten_header_of_a_slot_in_use_is_read_with_what_the_checkpoint_names() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    rig.settle_marked();
    let at = lies(&disk, Offset(0));
    let disk = power_cut(&disk, rig);
    disk.corrupt(at.slot, 100, &[1; 8]);
    let rig = Rig::open(&disk).unwrap();
    assert!(rig.notes.contains(&Note::SlotHeader { slot: at.slot }), "{:?}", rig.notes);
    assert_eq!(readable(&disk), [(0, b"a".to_vec())]);
}

#[test]
fn a_rotten_opened_is_made_up_for_by_the_slot_header() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    let disk = power_cut(&disk, rig);
    let mut rig = Rig::open(&disk).unwrap();
    acked(&mut rig, b"b");
    rig.settle_marked();
    let at = lies(&disk, Offset(1));
    let disk = power_cut(&disk, rig);
    rot(&disk, at.slot, 4096);
    drop(Rig::open(&disk).unwrap());
    let found: Vec<Vec<u8>> = readable(&disk).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(found, [b"a".to_vec(), b"b".to_vec()]);
}

/// Opened with loss accepted, the log gives no offset up to `lost` again; and it opens ever after.
fn goes_on_behind(disk: &SimDisk, lost: Offset) {
    let options = Options { accept_loss: true, ..options() };
    let mut rig = Rig::open_with(disk, &options).unwrap();
    let next = acked(&mut rig, b"new");
    assert!(next > lost, "offset {lost} was acked before");
    rig.settle_marked();
    let disk = power_cut(disk, rig);
    drop(Rig::open(&disk).expect("the loss was recorded"));
}

#[test]
fn old_slots_under_a_newer_checkpoint_are_refused_and_can_be_given_up() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    rig.settle_marked();
    rig.stop();
    let disk = disk.reboot();
    let old = disk.snapshot();
    let mut rig = Rig::open(&disk).unwrap();
    acked(&mut rig, b"b");
    let lost = acked(&mut rig, b"c");
    rig.settle_marked();
    // What vouches for b and c is the checkpoint that a stop writes.
    rig.stop();
    let disk = disk.reboot();
    let slots: Vec<SlotId> =
        disk.journal_folder().unwrap().slots.into_iter().map(|(slot, _)| slot).collect();
    for slot in slots {
        disk.restore_slot(&old, slot);
    }
    let error = recover(&disk, false).map(|_| ()).unwrap_err();
    // Behind the run's first commit: b and c, and not only that something is.
    let tells = matches!(error, OpenError::LostCommits { last, .. } if last.0 >= 3);
    assert!(tells, "{error}");
    goes_on_behind(&disk, lost);
}

#[test]
fn slots_as_they_were_before_a_checkpoint_named_them_are_refused_and_can_be_given_up() {
    // As it was prepared for the run before; and empty, as it was made.
    for is_blank in [false, true] {
        let (disk, mut rig) = node(1);
        acked(&mut rig, b"a");
        rig.settle_marked();
        rig.stop();
        let disk = disk.reboot();
        let old = disk.snapshot();
        let mut rig = Rig::open(&disk).unwrap();
        let lost = acked(&mut rig, b"b");
        let at = lies(&disk, lost);
        rig.settle_marked();
        let disk = power_cut(&disk, rig);
        // The checkpoints know the run's first commit alone, and the next slot has its header.
        if is_blank {
            let slots = disk.journal_folder().unwrap().slots;
            let (_, bytes) = slots.into_iter().find(|(slot, _)| *slot == at.slot).unwrap();
            disk.remove_slot(at.slot).unwrap();
            disk.create_slot(at.slot, bytes, &mut |_| {}).unwrap();
        } else {
            disk.restore_slot(&old, at.slot);
        }
        let error = recover(&disk, false).map(|_| ()).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("--accept-loss"), "{error}");
        goes_on_behind(&disk, lost);
    }
}

#[test]
fn a_slot_of_another_log_is_refused_whatever_loss_is_accepted() {
    let (other, mut rig) = node(2);
    acked(&mut rig, b"theirs");
    rig.settle_marked();
    let theirs = other.snapshot();
    let slots = other.journal_folder().unwrap().slots;
    assert!(slots.len() > 1, "one is prepared ahead");
    for (slot, _) in slots {
        let (disk, mut rig) = node(1);
        acked(&mut rig, b"ours");
        rig.settle_marked();
        let disk = power_cut(&disk, rig);
        disk.restore_slot(&theirs, slot);
        for accept_loss in [false, true] {
            let error = recover(&disk, accept_loss).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains("belongs to another log"), "{slot}: {error}");
        }
    }
}

#[test]
fn commits_that_were_given_up_are_no_damage_at_later_openings() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    rig.settle_marked();
    let old = disk.snapshot();
    // A checkpoint of the same run adds up to what will be lost.
    disk.advance(Duration::from_secs(11));
    fill_segments(&mut rig, 3);
    let disk = power_cut(&disk, rig);
    for (slot, _) in disk.journal_folder().unwrap().slots {
        disk.restore_slot(&old, slot);
    }
    let options = Options { accept_loss: true, ..options() };
    let mut rig = Rig::open_with(&disk, &options).unwrap();
    let given_up = |note: &Note| matches!(note, Note::GivenUp { .. });
    assert!(rig.notes.iter().any(given_up), "{:?}", rig.notes);
    let mut next = acked(&mut rig, b"b").plus(1);
    rig.settle_marked();
    let mut disk = power_cut(&disk, rig);
    for _ in 0..2 {
        let mut rig = Rig::open(&disk).unwrap();
        assert_eq!(missing(&rig.notes), []);
        assert_eq!(acked(&mut rig, b"c"), next, "nothing is skipped for it again");
        next = next.plus(1);
        disk = power_cut(&disk, rig);
    }
}

#[test]
fn checkpoints_of_another_time_than_the_journal_are_refused() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    rig.settle_marked();
    let mut disk = power_cut(&disk, rig);
    let before = disk.snapshot();
    let mut rig = Rig::open(&disk).unwrap();
    acked(&mut rig, b"b");
    rig.settle_marked();
    disk = power_cut(&disk, rig);
    // Its checkpoints add up to a and b.
    disk = power_cut(&disk, Rig::open(&disk).unwrap());
    let other = disk.snapshot();
    // The journal goes another way: its last run stands on a.
    disk.restore(&before);
    for _ in 0..2 {
        disk = power_cut(&disk, Rig::open(&disk).unwrap());
    }
    let mut rig = Rig::open(&disk).unwrap();
    acked(&mut rig, b"c");
    disk = power_cut(&disk, rig);
    disk.restore_file(&other, &FileName::CheckpointA);
    disk.restore_file(&other, &FileName::CheckpointB);
    let error = recover(&disk, false).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("files of different times"), "{error}");
}

#[test]
fn a_failed_write_ends_appends_until_the_log_is_opened_again() {
    for lands in [false, true] {
        let (disk, mut rig) = node(1);
        acked(&mut rig, b"a");
        let mut unknown = rig.append(&[(place(0), b"b".to_vec())], &[]);
        let fault = std::io::ErrorKind::Other;
        disk.fail_next(OperationKind::Submit, fault, Lasting::Once);
        rig.settle();
        assert!(matches!(decided(&mut unknown), Some(Err(AppendError::Unknown { .. }))));
        let mut refused = rig.append(&[(place(0), b"c".to_vec())], &[]);
        rig.settle();
        assert!(matches!(decided(&mut refused), Some(Err(AppendError::Closed { .. }))));
        let disk = if lands { disk.reboot() } else { power_cut(&disk, rig) };
        let mut rig = Rig::open(&disk).unwrap();
        acked(&mut rig, b"d");
        let found: Vec<Vec<u8>> = readable(&disk).into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(found[0], b"a");
        assert_eq!(found.last().unwrap(), b"d");
        assert!(!found.contains(&b"c".to_vec()));
    }
}

#[test]
fn conditions_are_checked_against_commits_in_flight() {
    let (disk, mut rig) = node(1);
    let next = |next: u64| [Condition::NextOffset { partition: place(0), next: Offset(next) }];
    let mut first = rig.append(&[(place(0), b"a".to_vec())], &next(0));
    rig.step();
    assert_eq!(disk.in_flight(), 1, "nothing is durable yet");
    let mut second = rig.append(&[(place(0), b"b".to_vec())], &next(0));
    let mut third = rig.append(&[(place(0), b"c".to_vec())], &next(1));
    rig.settle();
    assert_eq!(decided(&mut first).unwrap().unwrap().offset(0), Offset(0));
    let failed = AppendError::ConditionFailed { index: 0 };
    assert_eq!(decided(&mut second).unwrap().unwrap_err(), failed);
    assert_eq!(decided(&mut third).unwrap().unwrap().offset(0), Offset(1));
}

#[test]
fn commits_that_fill_a_segment_to_its_last_page_lose_nothing_at_the_edge() {
    let (disk, mut rig) = node(1);
    let mut sizes = Vec::new();
    // One page short of full: the last page is the `sealed`'s.
    for number in 0..40_u8 {
        let bytes = vec![number; 60 * 4096 - 128 - 40 - 64 - 16];
        sizes.push(bytes.len());
        acked(&mut rig, &bytes);
    }
    let disk = power_cut(&disk, rig);
    let rig = Rig::open(&disk).unwrap();
    assert!(rig.client.published.places.read().segment_ids().len() > 4);
    let found: Vec<usize> = readable(&disk).iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(found, sizes);
}

#[test]
fn a_log_that_drops_its_oldest_segments_goes_round_its_slots_for_ever() {
    let disk = SimDisk::new(1);
    let options = dropping(5);
    let mut rig = Rig::open_with(&disk, &options).unwrap();
    rig.make_topic();
    for number in 0..200_u8 {
        acked(&mut rig, &vec![number; 150_000]);
    }
    assert!(disk.journal_folder().unwrap().slots.len() <= 5);
    let disk = power_cut(&disk, rig);
    let rig = Rig::open_with(&disk, &options).unwrap();
    let found = readable(&disk);
    assert_eq!(found.last().map(|(offset, bytes)| (*offset, bytes[0])), Some((199, 199)));
    assert!(rig.client.published.topics.read().catalog.topic("t").is_some());
}

/// Leaves room for small files alone.
fn fill(disk: &SimDisk) {
    let slots: u64 = disk.journal_folder().unwrap().slots.iter().map(|(_, bytes)| bytes).sum();
    disk.set_capacity(slots + (64 << 10));
}

#[test]
fn a_log_on_a_full_disk_opens_as_often_as_one_likes() {
    let (mut disk, mut rig) = node(1);
    let last = acked(&mut rig, b"a");
    rig.settle_marked();
    fill(&disk);
    for opening in 0..5 {
        disk = power_cut(&disk, rig);
        rig = Rig::open(&disk).unwrap_or_else(|error| panic!("opening {opening}: {error}"));
        rig.settle_marked();
        assert_eq!(readable(&disk), [(last.0, b"a".to_vec())], "opening {opening}");
    }
    disk.set_capacity(u64::MAX >> 1);
    rig.stepper.look_for_room();
    assert_eq!(acked(&mut rig, b"b"), last.plus(1));
}

#[test]
fn a_full_disk_and_a_crash_anywhere_while_opening_lose_nothing() {
    for nth in 1..60 {
        let (disk, mut rig) = node(nth);
        acked(&mut rig, b"a");
        rig.settle_marked();
        fill(&disk);
        let mut disk = power_cut(&disk, rig);
        // The first opening takes the last free slot; the second has to free one.
        drop(Rig::open(&disk).unwrap());
        disk.crash(Crash::Power);
        disk = disk.reboot();
        disk.crash_at_operation(nth, Crash::Power);
        drop(Rig::open(&disk));
        disk.heal();
        disk.crash(Crash::Power);
        disk = disk.reboot();
        let rig = Rig::open(&disk).unwrap_or_else(|error| panic!("operation {nth}: {error}"));
        assert_eq!(missing(&rig.notes), [], "operation {nth}");
        assert_eq!(readable(&disk), [(0, b"a".to_vec())], "operation {nth}");
    }
}

#[test]
fn a_stop_on_a_full_disk_ends_and_gives_up_only_what_does_not_fit() {
    let (disk, mut rig) = node(1);
    fill(&disk);
    let append = |rig: &Rig, bytes| rig.append(&[(place(0), vec![7; bytes])], &[]);
    let mut large: Vec<Ticket> = (0..60).map(|_| append(&rig, 250_000)).collect();
    // Too large to join the last of them in its commit, and small enough for a segment's end.
    let mut small = append(&rig, 20_000);
    rig.settle();
    let stored = |ticket: &mut Ticket| decided(ticket).map(|result| result.is_ok());
    assert_eq!(stored(&mut large[0]), Some(true));
    assert_eq!(stored(&mut small), None, "it waits for room");
    rig.client.driver.push(Input::Stop);
    let stopped = (0..1_000).any(|_| {
        if !rig.keep() {
            disk.step();
        }
        rig.step() == Next::Stopped
    });
    assert!(stopped, "it waits for room that does not come");
    let mut acked = vec![decided(&mut small).expect("it is decided").expect("it fits").offset(0)];
    let mut refused = 0;
    for ticket in &mut large {
        match decided(ticket).expect("nobody waits for ever") {
            Ok(stored) => acked.push(stored.offset(0)),
            Err(AppendError::Full { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0);
    let disk = power_cut(&disk, rig);
    let found: Vec<u64> = readable(&disk).iter().map(|(offset, _)| *offset).collect();
    acked.sort_unstable();
    assert_eq!(found, acked.iter().map(|offset| offset.0).collect::<Vec<_>>());
}

#[test]
fn append_times_rise_although_the_clock_goes_back() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    disk.set_now(TimeMicros(disk.now().0 - 3_600_000_000));
    acked(&mut rig, b"b");
    let disk = power_cut(&disk, rig);
    let mut rig = Rig::open(&disk).unwrap();
    acked(&mut rig, b"c");
    let recovered = recovered(&disk);
    let times: Vec<TimeMicros> = recovered
        .segments
        .iter()
        .flat_map(|(_, index)| index.commits.iter().map(|commit| commit.append_time))
        .collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
}

/// Appends records of 150 kB to partition 0, each acked, until so many segments are in use.
fn fill_segments(rig: &mut Rig, segments: usize) {
    let in_use = |rig: &Rig| rig.client.published.places.read().segment_ids().len();
    let mut number = 0_u8;
    while in_use(rig) < segments {
        number = number.wrapping_add(1);
        acked(rig, &vec![number; 150_000]);
    }
}

/// The slots of the segments in use, in order.
fn slots_in_use(rig: &Rig) -> Vec<SlotId> {
    let ids = rig.client.published.places.read().segment_ids();
    ids.into_iter().map(|id| id.slot).collect()
}

/// Takes a slot's file away.
fn remove(disk: &SimDisk, slot: SlotId) {
    disk.restore_slot(&SimDisk::new(0).snapshot(), slot);
}

#[test]
fn bytes_of_a_client_that_look_like_a_commit_of_a_later_version_stop_no_opening() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    let at = lies(&disk, Offset(0));
    let mut later = disk.peek(at.slot, at.commit, 128);
    later[4..6].copy_from_slice(&99_u16.to_le_bytes());
    // All but the salt can be guessed.
    later[8..16].fill(0);
    let crc = crc32fast::hash(&later[..124]);
    later[124..].copy_from_slice(&crc.to_le_bytes());
    let first = 4096 - usize::try_from(at.batch - at.commit).unwrap() - 64;
    let mut bytes = vec![0; first + 3 * 4096];
    bytes[first..first + 128].copy_from_slice(&later);
    let carrier = acked(&mut rig, &bytes);
    acked(&mut rig, b"c");
    rig.settle_marked();
    let at = lies(&disk, carrier);
    assert_eq!(disk.peek(at.slot, at.commit + 4096, 128), later, "it lies at the start of a page");
    let disk = power_cut(&disk, rig);
    rot(&disk, at.slot, at.commit);
    let rig = Rig::open(&disk).expect("only the log's own commits can be of a later version");
    assert_eq!(missing(&rig.notes).len(), 1);
    let found: Vec<Vec<u8>> = readable(&disk).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(found, [b"a".to_vec(), b"c".to_vec()]);
}

#[test]
fn a_rotten_header_between_segments_that_no_checkpoint_names_loses_nothing() {
    let (disk, mut rig) = node(1);
    fill_segments(&mut rig, 5);
    rig.settle_marked();
    let slots = slots_in_use(&rig);
    let disk = power_cut(&disk, rig);
    let before = readable(&disk);
    for slot in &slots[1..] {
        let disk = copy(&disk);
        disk.corrupt(*slot, 100, &[1; 8]);
        let mut rig = Rig::open(&disk).unwrap();
        assert!(rig.notes.contains(&Note::SlotHeader { slot: *slot }), "{:?}", rig.notes);
        assert_eq!((readable(&disk), missing(&rig.notes)), (before.clone(), vec![]), "{slot}");
        // Nor is its slot given away.
        fill_segments(&mut rig, 9);
        let disk = power_cut(&disk, rig);
        drop(Rig::open(&disk).unwrap());
        assert_eq!(readable(&disk)[..before.len()], before, "{slot}");
    }
}

#[test]
fn a_slot_in_use_that_cannot_be_read_is_told_and_left_alone_until_it_can() {
    // The checkpoint names all, or `sealed`s the later ones.
    for named in [true, false] {
        let (disk, mut rig) = node(1);
        fill_segments(&mut rig, 5);
        rig.settle_marked();
        let slots = slots_in_use(&rig);
        let mut disk = power_cut(&disk, rig);
        if named {
            drop(Rig::open(&disk).unwrap());
            disk = power_cut_again(&disk);
        }
        let before = readable(&disk);
        for segment in 0..9 {
            disk.set_file(&FileName::Index(segment), None);
        }
        let lost = slots[2];
        disk.break_range(lost, 0..SLOT_BYTES);
        let content = disk.peek(lost, 0, SLOT_BYTES as usize);
        for opening in 0..3 {
            let mut rig = Rig::open(&disk).expect("what is lost lies before what is there");
            let told = Note::SlotUnreadable { slot: lost };
            assert!(rig.notes.contains(&told), "{named}, {opening}: {:?}", rig.notes);
            let in_use = rig.client.published.places.read().segment_ids().len();
            fill_segments(&mut rig, in_use + 2);
            disk = power_cut(&disk, rig);
        }
        assert_eq!(disk.peek(lost, 0, SLOT_BYTES as usize), content, "{named}: it was written");
        disk.heal();
        drop(Rig::open(&disk).unwrap());
        let found: BTreeMap<_, _> = readable(&disk).into_iter().collect();
        for (offset, bytes) in before {
            assert!(found.get(&offset) == Some(&bytes), "{named}: offset {offset} is gone");
        }
    }
}

/// The power fails while nobody has the disk open.
fn power_cut_again(disk: &SimDisk) -> SimDisk {
    disk.crash(Crash::Power);
    disk.reboot()
}

#[test]
fn a_last_segment_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    // Its slot is named by the checkpoint, or by a `sealed` alone.
    for segments in [1, 3] {
        let (disk, rig) = node(1);
        let disk = power_cut(&disk, rig);
        let mut rig = Rig::open(&disk).unwrap();
        fill_segments(&mut rig, segments + 1);
        let lost = acked(&mut rig, b"acked");
        let last = *slots_in_use(&rig).last().unwrap();
        let disk = power_cut(&disk, rig);
        let before = readable(&disk);
        // The disk gives its header, or not even that.
        for from in [0, 4096] {
            disk.break_range(last, from..SLOT_BYTES);
            let error = recover(&disk, false).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains(&format!("{last} cannot be read")), "{error}");
            disk.heal();
        }
        assert_eq!(readable(&disk), before);
        disk.break_range(last, 0..SLOT_BYTES);
        let options = Options { accept_loss: true, ..options() };
        let mut rig = Rig::open_with(&disk, &options).unwrap();
        let next = acked(&mut rig, b"d");
        assert!(next > lost, "{segments}: offset {lost} was acked before");
        let disk = power_cut(&disk, rig);
        drop(Rig::open(&disk).expect("the loss was accepted"));
    }
}

#[test]
fn a_slot_that_cannot_be_opened_keeps_the_log_closed_and_as_it_is() {
    let (disk, mut rig) = node(1);
    fill_segments(&mut rig, 3);
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    let before = readable(&disk);
    disk.fail_next(OperationKind::OpenSlot, std::io::ErrorKind::Other, Lasting::Once);
    let error = Rig::open(&disk).map(|_| ()).expect_err("nobody knows what it holds");
    assert!(error.to_string().contains("open slot-"), "{error}");
    assert_eq!(readable(&disk), before);
    drop(Rig::open(&disk).unwrap());
    assert_eq!(readable(&disk), before);
}

#[test]
fn the_number_of_a_lost_slot_goes_to_no_other_segment() {
    for first_lost in 0..4 {
        let (disk, mut rig) = node(1);
        fill_segments(&mut rig, 3);
        rig.settle_marked();
        let disk = power_cut(&disk, rig);
        let rig = Rig::open(&disk).unwrap();
        let disk = power_cut(&disk, rig);
        // Index files and checkpoints still tell what the lost ones held.
        for (slot, _) in disk.journal_folder().unwrap().slots.split_off(first_lost) {
            remove(&disk, slot);
        }
        let rig = Rig::open_with(&disk, &Options { accept_loss: true, ..options() }).unwrap();
        let slots = slots_in_use(&rig);
        let distinct: std::collections::BTreeSet<_> = slots.iter().collect();
        assert_eq!(distinct.len(), slots.len(), "{slots:?}, {first_lost} are left");
    }
}

#[test]
fn a_free_slot_that_cannot_be_written_is_put_aside_and_another_taken() {
    // Its file can be removed, or not even that; with a limit on the journal, or without.
    for (removable, slots_max) in [(true, None), (false, None), (true, Some(6)), (false, Some(6))] {
        let disk = SimDisk::new(1);
        let limit = slots_max.map(|slots: u64| slots * SLOT_BYTES);
        let options = Options { journal_bytes_max: limit, ..options() };
        let mut rig = Rig::open_with(&disk, &options).unwrap();
        rig.make_topic();
        fill_segments(&mut rig, 2);
        rig.settle();
        // Two are in use, the third is prepared, the fourth is the ballast.
        let ballast = SlotId(3);
        disk.break_writes(ballast, 0..4096);
        if !removable {
            disk.fail_next(OperationKind::RemoveSlot, std::io::ErrorKind::Other, Lasting::Always);
        }
        fill_segments(&mut rig, 5);
        let slots = slots_in_use(&rig);
        assert!(!slots.contains(&ballast), "{slots:?}");
        assert_eq!(rig.stepper.look_for_room(), slots_max.is_some(), "what it waits for");
        rig.settle_marked();
        let disk = power_cut(&disk, rig);
        let before = readable(&disk);
        drop(Rig::open_with(&disk, &options).unwrap());
        assert_eq!(readable(&disk), before);
    }
}

#[test]
fn a_disk_that_takes_no_new_slot_costs_no_old_one() {
    let disk = SimDisk::new(1);
    let options = Options { when_full: crate::options::WhenFull::DropOldest, ..options() };
    let mut rig = Rig::open_with(&disk, &options).unwrap();
    rig.make_topic();
    fill_segments(&mut rig, 4);
    let oldest = slots_in_use(&rig)[0];
    disk.fail_next(OperationKind::CreateSlot, std::io::ErrorKind::Other, Lasting::Always);
    while fits(&mut rig) {}
    for _ in 0..3 {
        assert!(rig.stepper.look_for_room(), "it waits");
        rig.settle();
    }
    assert_eq!(slots_in_use(&rig)[0], oldest, "nothing is gained by it");
    disk.heal();
    rig.stepper.look_for_room();
    acked(&mut rig, b"there is room");
}

/// Whether one more record is taken.
fn fits(rig: &mut Rig) -> bool {
    let ticket = rig.append(&[(place(0), vec![1; 150_000])], &[]);
    rig.settle();
    matches!(result(ticket), Some(Ok(_)))
}

#[test]
fn an_opening_puts_free_slots_aside_that_cannot_be_written() {
    let (disk, mut rig) = node(1);
    fill_segments(&mut rig, 3);
    rig.settle_marked();
    let in_use = slots_in_use(&rig);
    let mut disk = power_cut(&disk, rig);
    let before = readable(&disk);
    for _ in 0..3 {
        for (slot, _) in disk.journal_folder().unwrap().slots {
            if !in_use.contains(&slot) {
                disk.break_writes(slot, 0..4096);
            }
        }
        let rig = Rig::open(&disk).expect("other slots can be written");
        assert_eq!(missing(&rig.notes), []);
        disk = power_cut(&disk, rig);
    }
    assert_eq!(readable(&disk), before);
}

#[test]
fn thousands_of_damaged_commits_are_told_at_every_opening_and_skipped_for_once() {
    let (disk, mut rig) = node(1);
    for _ in 0..2_400 {
        acked(&mut rig, b"a");
    }
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    let mut rotten = 0;
    for (id, index) in recovered(&disk).segments {
        disk.set_file(&FileName::Index(id.number.0), None);
        for commit in index.commits.iter().filter(|commit| commit.number.0 % 2 == 0) {
            // All but the topic's own and the last, which nothing vouches for.
            if (10..2_400).contains(&commit.number.0) {
                rot(&disk, id.slot, u64::from(commit.position));
                rotten += 1;
            }
        }
    }
    assert!(rotten > 1_000);
    let (mut disk, mut end) = (disk, None);
    for opening in 0..3 {
        let rig = Rig::open(&disk).unwrap();
        let told = missing(&rig.notes);
        assert_eq!(told.len(), rotten, "opening {opening}");
        assert!(told.iter().all(|(.., known)| *known == (opening > 0)), "opening {opening}");
        assert_eq!(*end.get_or_insert_with(|| rig.end(0)), rig.end(0), "opening {opening}");
        disk = power_cut(&disk, rig);
    }
}

#[test]
fn damage_is_forgotten_with_the_segment_that_it_lies_in() {
    let disk = SimDisk::new(1);
    let options = dropping(5);
    let mut rig = Rig::open_with(&disk, &options).unwrap();
    rig.make_topic();
    let lost = acked(&mut rig, b"a");
    fill_segments(&mut rig, 2);
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    let at = lies(&disk, lost);
    rot(&disk, at.slot, at.commit);
    let mut rig = Rig::open_with(&disk, &options).unwrap();
    assert_eq!(missing(&rig.notes).len(), 1);
    let first = slots_in_use(&rig)[0];
    while slots_in_use(&rig)[0] == first {
        acked(&mut rig, &vec![1; 150_000]);
    }
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    let rig = Rig::open_with(&disk, &options).unwrap();
    assert_eq!(missing(&rig.notes), []);
    for file in [FileName::CheckpointA, FileName::CheckpointB] {
        let checkpoint = Checkpoint::decode(&disk.read_file(&file).unwrap()).unwrap();
        assert_eq!(checkpoint.opened.damaged, []);
    }
}

#[test]
fn a_log_whose_oldest_segment_holds_more_live_records_than_can_move_is_full_and_says_so() {
    // More than the room that is kept, and more than a slot.
    for keys in [8_u8, 40] {
        let disk = SimDisk::new(1);
        let options = dropping(5);
        let mut rig = Rig::open_with(&disk, &options).unwrap();
        rig.make_topic();
        let keyed = wild::make_compact_topic(&mut rig, "keys");
        let value = |key: u8| vec![key; 100_000];
        for key in 0..keys {
            let mut ticket = wild::set(&rig, keyed, &[key], Some(&value(key)));
            rig.settle();
            decided(&mut ticket).expect("it is decided").expect("it is stored");
        }
        let refused = (0..200).find_map(|_| {
            let ticket = rig.append(&[(place(0), vec![1; 150_000])], &[]);
            rig.settle();
            result(ticket).expect("nobody waits for ever").err()
        });
        let refused = refused.expect("there is no room").to_string();
        assert!(refused.contains("bytes of live keyed records"), "{refused}");
        for _ in 0..3 {
            assert!(rig.stepper.look_for_room(), "it waits for room");
            rig.settle();
        }
        // Nor does a stop wait for it.
        rig.stop();
        let disk = disk.reboot();
        // With a higher limit it goes on.
        let options = Options { journal_bytes_max: Some(50 * SLOT_BYTES), ..options };
        let mut rig = Rig::open_with(&disk, &options).unwrap();
        acked(&mut rig, b"more");
        let topics = rig.client.published.topics.read();
        for key in 0..keys {
            let live = topics.catalog.live().get(&(keyed, Bytes::copy_from_slice(&[key])));
            assert_eq!(live.map(|live| &live.value[..]), Some(&value(key)[..]), "{key}");
        }
    }
}

#[test]
fn what_earlier_openings_cut_is_kept_up_to_a_bound_the_newest_longest() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    let cut = |name: &str| FileName::Cut(name.to_owned());
    let older = [2, 9, 10, 11].map(|run| cut(&format!("run-{run}-commits-3-4-segment-1")));
    for file in &older {
        disk.set_file(file, Some(vec![0; 25 << 20]));
    }
    let other = cut("notes");
    disk.set_file(&other, Some(vec![0; 100]));
    let (mut disk, mut rig) = (disk, rig);
    // Nothing is cut by the first opening, something by the second.
    for torn in [false, true] {
        if torn {
            drop(rig.append(&[(place(0), vec![1; 70_000])], &[]));
            rig.step();
            disk.complete(0);
        }
        disk = power_cut(&disk, rig);
        if torn {
            let at = lies(&disk, Offset(1));
            disk.corrupt(at.slot, at.batch + 5_000, &[9; 64]);
        }
        rig = Rig::open(&disk).unwrap();
        let there = |file: &FileName| disk.read_file(file).is_ok();
        assert_eq!(older.each_ref().map(there), [!torn, !torn, true, true]);
        assert!(there(&other), "it is not the log's");
        assert_eq!(disk.cut_folder().unwrap().len(), if torn { 4 } else { 5 });
    }
}

#[test]
fn slots_of_runs_without_data_are_used_again() {
    let (mut disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    // Its last segment holds nothing, or a mark behind a `sealed`: a whole segment is filled, so
    // that no mark fits.
    while rig.client.published.places.read().segment_ids().len() < 3 {
        acked(&mut rig, &[1; 3_800]);
        rig.settle_marked();
    }
    let (mut slots, mut in_use) = (Vec::new(), Vec::new());
    for opening in 0..12 {
        disk = power_cut(&disk, rig);
        rig = Rig::open(&disk).unwrap();
        // Only `opened`, or a mark behind it.
        if opening % 2 == 0 {
            rig.settle_marked();
        } else {
            rig.settle();
        }
        slots.push(disk.journal_folder().unwrap().slots.len());
        in_use.push(slots_in_use(&rig).len());
    }
    // One that the checkpoint before names, one that is written, one that is prepared.
    assert!(slots[2..].windows(2).all(|pair| pair[0] == pair[1]), "{slots:?}");
    assert!(in_use.windows(2).all(|pair| pair[0] == pair[1]), "{in_use:?}");
}

/// Another machine with the same disk.
fn copy(disk: &SimDisk) -> SimDisk {
    let copy = SimDisk::new(1);
    copy.restore(&disk.snapshot());
    copy
}

#[test]
fn a_segment_whose_header_rots_keeps_its_number_to_itself() {
    let (disk, mut rig) = node(1);
    // The keeper does not come to prepare the third segment: no header is above the second's.
    while rig.client.published.places.read().segment_ids().len() < 2 {
        drop(rig.append(&[(place(0), vec![7; 150_000])], &[]));
        while rig.step() != Next::Stopped && disk.step() {}
    }
    let second = slots_in_use(&rig)[1];
    let disk = power_cut(&disk, rig);
    let before = readable(&disk);
    disk.corrupt(second, 100, &[1; 8]);
    let mut rig = Rig::open(&disk).unwrap();
    let ids = rig.client.published.places.read().segment_ids();
    assert!(ids.windows(2).all(|pair| pair[0].number < pair[1].number), "{ids:?}");
    fill_segments(&mut rig, 5);
    let disk = power_cut(&disk, rig);
    drop(Rig::open(&disk).unwrap());
    assert_eq!(readable(&disk)[..before.len()], before);
}

#[test]
fn the_last_segment_of_a_log_is_not_given_up_in_silence_when_its_slot_is_gone() {
    // Its slot is named by the checkpoint, or by a `sealed` alone.
    for segments in [1, 3] {
        let (disk, rig) = node(1);
        // The topic itself is in the checkpoint.
        let disk = power_cut(&disk, rig);
        let mut rig = Rig::open(&disk).unwrap();
        fill_segments(&mut rig, segments + 1);
        let lost = acked(&mut rig, b"acked");
        rig.settle_marked();
        let last = *slots_in_use(&rig).last().unwrap();
        let disk = power_cut(&disk, rig);
        remove(&disk, last);
        let error = recover(&disk, false).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(&last.to_string()), "{segments}: {error}");
        let options = Options { accept_loss: true, ..options() };
        let mut rig = Rig::open_with(&disk, &options).unwrap();
        let next = acked(&mut rig, b"d");
        assert!(next > lost, "{segments}: offset {lost} was acked before");
        let disk = power_cut(&disk, rig);
        drop(Rig::open(&disk).expect("the loss was accepted"));
    }
}

#[test]
fn a_log_that_fails_past_the_deadline_says_so_instead_of_shedding_for_ever() {
    let (disk, mut rig) = node(1);
    let mut late = rig.append(&[(place(0), b"late".to_vec())], &[]);
    rig.step();
    disk.advance(Duration::from_secs(30));
    rig.step();
    assert!(rig.counters.shedding.load(Ordering::Relaxed));
    let result = Err(std::io::ErrorKind::Other.into());
    rig.client.driver.push(Input::Written { number: CommitNumber(u64::MAX), result });
    rig.step();
    assert!(matches!(decided(&mut late), Some(Err(AppendError::Unknown { .. }))));
    assert!(!rig.counters.shedding.load(Ordering::Relaxed), "new work must hear that it is closed");
}

#[test]
fn appends_of_many_tiny_records_never_add_up_to_more_than_a_commit_holds() {
    let disk = SimDisk::new(1);
    let options = Options { slot_bytes: Some(16 << 20), ..options() };
    let mut rig = Rig::open_with(&disk, &options).unwrap();
    rig.make_topic_of("wide", 100_000);
    let topic = rig.client.published.topics.read().catalog.topic("wide").unwrap().id;
    let half = |first: u32| -> Vec<(PartitionId, Vec<u8>)> {
        (first..first + 50_000).map(|at| (PartitionId::new(topic, at), Vec::new())).collect()
    };
    let (mut one, mut two) = (rig.append(&half(0), &[]), rig.append(&half(50_000), &[]));
    rig.settle();
    for ticket in [&mut one, &mut two] {
        assert_eq!(decided(ticket).expect("it is decided").unwrap().offset(0), Offset(0));
    }
}

#[test]
fn damage_in_the_segment_that_the_checkpoint_ends_in_is_told() {
    let (disk, mut rig) = node(1);
    let first = acked(&mut rig, b"a");
    disk.advance(Duration::from_secs(11));
    fill_segments(&mut rig, 2);
    let at = lies(&disk, first);
    let disk = power_cut(&disk, rig);
    rot(&disk, at.slot, at.commit);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(missing(&rig.notes).len(), 1, "{:?}", rig.notes);
    let end = rig.end(0);
    let disk = power_cut(&disk, rig);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!((missing(&rig.notes).len(), rig.end(0)), (1, end), "{:?}", rig.notes);
}

#[test]
fn a_full_disk_costs_no_segment_more_than_it_must_and_no_checkpoint() {
    let disk = SimDisk::new(1);
    let options = dropping(5);
    let mut rig = Rig::open_with(&disk, &options).unwrap();
    rig.make_topic();
    for number in 0..200_u8 {
        acked(&mut rig, &vec![number; 150_000]);
    }
    disk.fail_next(OperationKind::WriteFile, std::io::ErrorKind::StorageFull, Lasting::Always);
    let start = |rig: &Rig| {
        let topics = rig.client.published.topics.read();
        topics.extent(place(0)).expect("it is there").start
    };
    let mut refused = false;
    let mut before = None;
    for number in 0..60_u8 {
        let ticket = rig.append(&[(place(0), vec![number; 150_000])], &[]);
        rig.settle();
        refused |= matches!(result(ticket), Some(Err(AppendError::Full { .. })));
        if refused {
            rig.stepper.look_for_room();
            rig.settle();
            assert_eq!(
                *before.get_or_insert_with(|| start(&rig)),
                start(&rig),
                "nothing is gained by it"
            );
        }
    }
    assert!(refused, "there is no room");
    let whole = |file| Checkpoint::decode(&disk.read_file(&file).unwrap()).is_ok();
    assert!(whole(FileName::CheckpointA) || whole(FileName::CheckpointB));
    // There is room again.
    disk.heal();
    rig.stepper.look_for_room();
    rig.settle();
    let last = acked(&mut rig, &[250; 100]);
    let disk = power_cut(&disk, rig);
    drop(Rig::open_with(&disk, &options).unwrap());
    assert_eq!(readable(&disk).last().map(|(offset, _)| *offset), Some(last.0));
}

#[test]
fn an_opening_that_is_interrupted_again_and_again_skips_once() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    let last = acked(&mut rig, b"b");
    rig.settle_marked();
    let at = lies(&disk, last);
    let disk = power_cut(&disk, rig);
    rot(&disk, at.slot, at.commit);
    let rig = Rig::open(&disk).unwrap();
    let (end, mut disk) = (rig.end(0), power_cut(&disk, rig));
    for nth in 1..60 {
        disk.crash_at_operation(nth, Crash::Power);
        drop(Rig::open(&disk));
        disk.heal();
        disk.crash(Crash::Power);
        disk = disk.reboot();
    }
    let mut rig = Rig::open(&disk).unwrap();
    assert_eq!(rig.end(0), end);
    assert_eq!(acked(&mut rig, b"c"), end);
    let disk = power_cut(&disk, rig);
    assert_eq!(Rig::open(&disk).unwrap().end(0), end.plus(1));
}

/// A log with its threads, on a disk that completes writes at once.
fn with_threads(disk: &SimDisk) -> (crate::intake_client::IntakeClient, Threads) {
    disk.set_auto(true);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let Opening { client, machines, .. } = open_disk(&shared, &options()).unwrap();
    let threads = Threads::start(&shared, &client.driver, machines).unwrap();
    (client, threads)
}

/// Appends until the log says that it is closed; panics when an append is never decided.
fn closes(client: &crate::intake_client::IntakeClient) {
    loop {
        let record = Record::opaque(b"a");
        let items = [Item::Record { partition: place(0), record }];
        let append = Append { conditions: &[], items: &items };
        let Ok(ticket) = client.append(Lane(9), append) else { continue };
        match block_on(ticket) {
            Ok(_) | Err(AppendError::Unknown { .. }) => {}
            Err(AppendError::Closed { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn nobody_waits_for_a_journal_whose_thread_panicked() {
    let (disk, rig) = node(1);
    let disk = power_cut(&disk, rig);
    let (client, threads) = with_threads(&disk);
    let grown = client.published.grown(&[(place(0), Offset(1 << 40))]);
    // A write that nobody began.
    client.driver.push(Input::Written { number: CommitNumber(1 << 40), result: Ok(()) });
    closes(&client);
    block_on(grown);
    assert!(std::thread::spawn(move || threads.join()).join().is_err(), "the panic is told");
}

#[test]
fn nobody_waits_for_a_keeper_whose_thread_panicked() {
    let (disk, mut rig) = node(1);
    fill_segments(&mut rig, 2);
    let disk = power_cut(&disk, rig);
    // The opening takes the first free slot, the keeper the second; and the simulated disk does
    // not let a slot be written that is mapped.
    let free = disk.open_slot(SlotId(3), Access::Read).unwrap().map().unwrap();
    let (client, threads) = with_threads(&disk);
    closes(&client);
    assert!(std::thread::spawn(move || threads.join()).join().is_err(), "the panic is told");
    drop(free);
}

#[test]
fn a_disk_without_room_for_what_was_cut_keeps_no_log_from_opening() {
    let (disk, mut rig) = node(1);
    let last = acked(&mut rig, b"a");
    drop(rig.append(&[(place(0), vec![1; 70_000])], &[]));
    rig.step();
    disk.complete(0);
    let disk = power_cut(&disk, rig);
    let at = lies(&disk, last.plus(1));
    disk.corrupt(at.slot, at.batch + 5_000, &[9; 64]);
    disk.fail_next(OperationKind::WriteFile, std::io::ErrorKind::StorageFull, Lasting::Once);
    let mut rig = Rig::open(&disk).expect("the copy is for the curious");
    assert!(rig.notes.iter().any(|note| matches!(note, Note::Cut { .. })), "{:?}", rig.notes);
    assert_eq!(acked(&mut rig, b"b"), last.plus(1));
}

#[test]
fn two_rolls_in_flight_keep_their_order() {
    for seed in 0..12 {
        let mut numbers = Numbers(seed);
        let mut disk = SimDisk::new(seed);
        let options = Options { slot_bytes: Some(16 << 20), ..options() };
        let mut rig = Rig::open_with(&disk, &options).unwrap();
        rig.make_topic();
        let (mut model, mut payload) = (Model::default(), 0_u8);
        for _ in 0..3 {
            for _ in 0..40 {
                match numbers.below(5) {
                    0 if model.sent.len() < 4 => {
                        payload += 1;
                        let partition = place(numbers.below(u64::from(PARTITIONS)) as u32);
                        let records = vec![(partition, vec![payload; (8 << 20) - 1024])];
                        model.payloads.insert(records[0].1.clone());
                        let ticket = Some(rig.append(&records, &[]));
                        model.sent.push(Sent { records, ticket });
                    }
                    0..=2 => drop(rig.step()),
                    3 => drop(rig.keep()),
                    _ => drop(disk.step()),
                }
                model.collect();
            }
            let kind = if numbers.one_in(2) { Crash::Power } else { Crash::Kill };
            disk.crash(kind);
            model.crashed();
            drop(rig);
            disk = disk.reboot();
            rig = Rig::open_with(&disk, &options).unwrap();
            model.check(&disk, &recovered(&disk));
        }
    }
}

#[test]
fn the_largest_record_is_readable_and_a_larger_one_is_refused() {
    let disk = SimDisk::new(1);
    let options = Options { slot_bytes: Some(16 << 20), ..options() };
    let mut rig = Rig::open_with(&disk, &options).unwrap();
    rig.make_topic();
    // The header and a checksum for each 256 KiB.
    let largest = (8 << 20) - 64 - 32 * 4;
    assert_eq!(acked(&mut rig, &vec![1; largest]), Offset(0));
    for bytes in [largest + 1, largest + 8, (8 << 20) - 64, 8 << 20] {
        let ticket = rig.append(&[(place(0), vec![2; bytes])], &[]);
        let refused = result(ticket).expect("it is refused at once");
        assert!(matches!(refused, Err(AppendError::TooLarge { .. })), "{bytes} bytes");
    }
    acked(&mut rig, b"after it");
    let disk = power_cut(&disk, rig);
    drop(Rig::open_with(&disk, &options).unwrap());
    let found: Vec<usize> = readable(&disk).iter().map(|(_, bytes)| bytes.len()).collect();
    assert_eq!(found, [largest, 8]);
}

#[test]
fn a_lost_segment_before_others_is_damage_and_skips_no_further_than_it_could_hold() {
    // Its slot is gone, or short and empty.
    for gone in [true, false] {
        let (disk, rig) = node(1);
        let disk = power_cut(&disk, rig);
        let mut rig = Rig::open(&disk).unwrap();
        // Commits of one page each: hundreds of them in a segment.
        while rig.client.published.places.read().segment_ids().len() < 4 {
            acked(&mut rig, b"a");
        }
        rig.settle_marked();
        let (end, lost) = (rig.end(0), slots_in_use(&rig)[2]);
        let disk = power_cut(&disk, rig);
        if gone {
            remove(&disk, lost);
        } else {
            disk.create_slot(lost, SLOT_BYTES / 2, &mut |_| {}).unwrap();
        }
        let rig = Rig::open(&disk).expect("what is lost lies before commits that are there");
        assert_eq!(missing(&rig.notes).len(), 1, "{:?}", rig.notes);
        assert!(rig.end(0) >= end && rig.end(0).0 < 4 << 20, "{} after {end}", rig.end(0));
    }
}

#[test]
fn slots_that_hold_commits_are_no_new_log_although_all_headers_are_blank() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    let disk = power_cut(&disk, rig);
    disk.set_file(&FileName::CheckpointA, None);
    disk.set_file(&FileName::CheckpointB, None);
    for (slot, _) in disk.journal_folder().unwrap().slots {
        disk.corrupt(slot, 0, &[0; 4096]);
    }
    let error = recover(&disk, false).map(|log| log.is_some()).unwrap_err();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
}

#[test]
fn a_read_that_fails_once_cuts_nothing_that_was_acked() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    // Acked, and not yet vouched for.
    acked(&mut rig, b"b");
    let disk = power_cut(&disk, rig);
    let before = readable(&disk);
    assert_eq!(before.len(), 2);
    for nth in 1..40 {
        disk.fail_operation(nth, std::io::ErrorKind::Other, Lasting::Once);
        if let Ok(Some(recovered)) = recover(&disk, false) {
            disk.heal();
            let found = contents(&disk, &recovered);
            let mine = found.keys().filter(|(partition, _)| *partition == place(0)).count();
            assert_eq!(mine, 2, "operation {nth}");
        }
        disk.heal();
    }
}

#[test]
fn behind_a_page_cache_a_failed_write_is_judged_by_what_the_medium_holds() {
    let mut cut = 0;
    for seed in 0..20 {
        let (disk, mut rig) = node(seed);
        disk.set_cached(true);
        acked(&mut rig, b"a");
        disk.fail_next(OperationKind::Submit, std::io::ErrorKind::Other, Lasting::Once);
        let ticket = rig.append(&[(place(0), vec![1; 70_000])], &[]);
        rig.settle();
        assert!(matches!(result(ticket), Some(Err(AppendError::Unknown { .. }))));
        // The process ends, the cache stays, and shows all of the failed write.
        disk.crash(Crash::Kill);
        drop(rig);
        let disk = disk.reboot();
        let rig = Rig::open(&disk).unwrap();
        let before = readable(&disk);
        cut += usize::from(before.len() == 1);
        drop(power_cut(&disk, rig));
        assert_eq!(readable(&disk.reboot()), before, "seed {seed}: what was found stays");
    }
    assert!(cut > 0, "the medium had not taken all of it");
}

#[test]
fn a_log_whose_making_was_interrupted_again_and_again_is_made_in_the_end() {
    // Among others, the first crash comes in the first checkpoint, and the second one in the header
    // that the next making writes over the first.
    let seconds = (9..14).flat_map(|first| (15..32).map(move |second| (first, second)));
    for (seed, (first, second)) in (0..850).zip(seconds.cycle()) {
        let mut disk = SimDisk::new(seed);
        for (nth, kind) in [(first, Crash::Power), (second, Crash::Kill)] {
            disk.crash_at_operation(nth, kind);
            drop(Rig::open(&disk));
            disk.crash(kind);
            disk = disk.reboot();
            disk.heal();
        }
        let opened = Rig::open(&disk);
        let mut rig = opened.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        rig.make_topic();
        acked(&mut rig, b"a");
    }
}
