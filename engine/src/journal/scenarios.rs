//! The journal and recovery on a simulated disk, driven step by step from one seed.
//!
//! [`Rig`] is a node without threads: the test decides when a write lands, when the journal and
//! the keeper run, and when the machine dies. [`Model`] is what a caller may rely on: what was
//! acked is there, once and in order; what is there was sent; what was once there stays there.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tracklog_log::{Append, AppendError, Condition, Item, Lane, Stored, Ticket};
use tracklog_protocol::{Offset, PartitionId, Record, TimeMicros, TopicId};

use crate::catalog;
use crate::checkpoint::Checkpoint;
use crate::disk::simulated::{Crash, SimDisk};
use crate::disk::{Access, Disk, FileName, Slot, SlotId};
use crate::error::OpenError;
use crate::journal::appender::{Effects, Journal, Next, SegmentFull};
use crate::journal::commit::{CommitNumber, SegmentNumber};
use crate::journal::intake::Input;
use crate::journal::recovery::{Note, Recovered, recover};
use crate::journal::walk::Walker;
use crate::keeper::{Job, Keeper};
use crate::open::{Opening, open_disk};
use crate::options::Options;
use crate::partition::places::SegmentId;

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

/// Hands the journal's wishes to the simulated disk and to a list of jobs.
struct Wishes {
    disk: SimDisk,
    intake: Arc<crate::journal::intake::Intake>,
    jobs: VecDeque<Job>,
}

impl Effects for Wishes {
    fn write(&mut self, slot: &Arc<dyn Slot>, at: u64, pages: Bytes, number: CommitNumber) {
        let intake = Arc::clone(&self.intake);
        let done = move |result| intake.push(Input::Written { number, result });
        slot.submit(at, pages, Box::new(done));
    }

    fn prepare(&mut self, segment: SegmentNumber) {
        self.jobs.push_back(Job::Prepare(segment));
    }

    fn segment_full(&mut self, full: SegmentFull) {
        self.jobs.push_back(Job::Full(full));
    }

    fn dropped(&mut self, id: SegmentId, checkpoint: Checkpoint) {
        self.jobs.push_back(Job::Dropped { id, checkpoint });
    }

    fn now(&self) -> TimeMicros {
        self.disk.now()
    }

    fn monotonic(&self) -> Duration {
        self.disk.monotonic()
    }
}

/// A node without threads.
struct Rig {
    disk: SimDisk,
    client: crate::intake_client::IntakeClient,
    journal: Journal,
    keeper: Keeper,
    wishes: Wishes,
    notes: Vec<Note>,
}

fn options() -> Options {
    Options { slot_bytes: Some(SLOT_BYTES), replay_threads: 0, ..Options::default() }
}

impl Rig {
    fn open(disk: &SimDisk) -> Result<Self, OpenError> {
        Self::open_with(disk, &options())
    }

    fn open_with(disk: &SimDisk, options: &Options) -> Result<Self, OpenError> {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let Opening { client, journal, keeper, jobs, report, .. } = open_disk(&shared, options)?;
        let intake = Arc::clone(&client.intake);
        let wishes = Wishes { disk: disk.clone(), intake, jobs: jobs.into() };
        Ok(Self { disk: disk.clone(), client, journal, keeper, wishes, notes: report.notes })
    }

    /// One step of the journal.
    fn step(&mut self) -> Next {
        self.journal.step(&mut self.wishes)
    }

    /// One job of the keeper.
    fn keep(&mut self) -> bool {
        let job = self.wishes.jobs.pop_front();
        job.is_some_and(|job| {
            self.keeper.run(job);
            true
        })
    }

    /// Runs until nothing is left to do but to wait for time to pass.
    fn settle(&mut self) {
        loop {
            self.step();
            if !self.keep() && !self.disk.step() {
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
        self.client.intake.push(Input::Stop);
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
        let spec = tracklog_log::TopicSpec {
            name: tracklog_log::TopicName::new("t").unwrap(),
            partitions: PARTITIONS,
            retention: tracklog_log::Retention::Keep,
        };
        let key = catalog::topic_key(&spec.name);
        let value = catalog::topic_value(&spec, TimeMicros(1));
        let mut buffer = Vec::new();
        let record =
            tracklog_protocol::KeyValue { key: &key, value: Some(&value) }.encode(&mut buffer);
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
                let Ok(batch) = tracklog_protocol::BatchView::read(bytes) else { continue };
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

/// A random program of appends, steps and crashes; `rot` at most one page besides.
fn run_program(seed: u64) {
    let mut numbers = Numbers(seed);
    let mut disk = SimDisk::new(seed);
    let mut model = Model::default();
    let mut rig = Rig::open(&disk).expect("a new log opens");
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
        rig = reopen(&mut disk, &mut numbers, &mut model);
    }
}

/// Opens again, with up to three crashes on the way.
fn reopen(disk: &mut SimDisk, numbers: &mut Numbers, model: &mut Model) -> Rig {
    for _ in 0..numbers.below(4) {
        let kind = if numbers.one_in(2) { Crash::Power } else { Crash::Kill };
        disk.crash_at_operation(numbers.below(40) + 1, kind);
        let opened = Rig::open(disk);
        if opened.is_ok() {
            // The crash was planned for later than the opening took.
            disk.crash(kind);
        }
        drop(opened);
        *disk = disk.reboot();
        disk.heal();
    }
    let rig = Rig::open(disk).unwrap_or_else(|error| panic!("{error}\n{:#?}", disk.trace()));
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

#[test]
fn random_programs_with_crashes_keep_every_promise() {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let first = number("TRACKLOG_SEED").unwrap_or(0);
    let count = number("TRACKLOG_SEEDS").unwrap_or(150);
    for seed in first..first + count {
        let outcome = std::panic::catch_unwind(|| run_program(seed));
        assert!(outcome.is_ok(), "TRACKLOG_SEED={seed} repeats this");
    }
}
