//! Copies of a log that goes on while it is copied: every read of the copy lets a seed decide what
//! the log does next.

use std::collections::BTreeMap;
use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tracklog_log::conformance::block_on;
use tracklog_log::{
    Append, Domain, Epoch, Fetch, FetchMode, Item, Lane, Log, Retention, Stored, TopicName,
    TopicSpec,
};
use tracklog_protocol::{Record, TimeMicros};

use super::*;
use crate::disk::simulated::{Crash, SimDisk};
use crate::disk::{Backend, JournalFolder, Map, PackWriter, Slot, WriteDone};
use crate::{Engine, OfflineLog, Options, Stepper, verify_on};

const SLOT_BYTES: u64 = 2 << 20;
/// What is copied at once.
const PART_BYTES: usize = 256 << 10;

/// Records by partition and offset.
type Contents = BTreeMap<(String, u32), BTreeMap<u64, Vec<u8>>>;

/// A log that goes on by a little at each turn.
struct World {
    disk: SimDisk,
    log: Option<(Engine, Stepper)>,
    epoch: Epoch,
    appends: Vec<Sent>,
    acked: Contents,
    trimmed: BTreeMap<(String, u32), u64>,
    seed: u64,
    sent: u64,
}

/// An append that is on its way.
struct Sent {
    topic: String,
    partition: u32,
    bytes: Vec<u8>,
    ticket: Pin<Box<dyn Future<Output = Result<Stored, tracklog_log::AppendError>> + Send>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            disk: SimDisk::new(seed),
            log: None,
            epoch: Epoch(0),
            appends: Vec::new(),
            acked: BTreeMap::new(),
            trimmed: BTreeMap::new(),
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            sent: 0,
        };
        world.open();
        world.topic("a", 2);
        world
    }

    fn open(&mut self) {
        let options = Options {
            slot_bytes: Some(SLOT_BYTES),
            hot_bytes: Some(2 * SLOT_BYTES),
            replay_threads: 0,
            ..Options::default()
        };
        let opened = Engine::open_stepped(Arc::new(self.disk.clone()), &options);
        self.log = Some(opened.expect("the log opens"));
        self.epoch = self.finish(|log| log.open(Domain::WHOLE)).expect("it is open");
    }

    fn topic(&mut self, name: &str, partitions: u32) {
        let spec = TopicSpec {
            name: TopicName::new(name).expect("a name"),
            partitions,
            retention: Retention::Keep,
        };
        self.finish(|log| log.create_topic(spec)).expect("it is made");
    }

    fn crash(&mut self, crash: Crash) {
        self.disk.crash(crash);
        self.appends.clear();
        self.log = None;
        self.disk = self.disk.reboot();
        self.open();
    }

    fn chance(&mut self, of: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        (self.seed >> 20) % of
    }

    /// Something happens, or a few things do.
    fn turn(&mut self) {
        for _ in 0..=self.chance(4) {
            let what = self.chance(12);
            let (_, stepper) = self.log.as_mut().expect("it is open");
            match what {
                0..=3 => self.append(),
                4..=6 => drop(stepper.step_journal()),
                7 | 8 => drop(self.disk.step()),
                9 => drop(stepper.run_keeper()),
                10 => drop(stepper.run_settler()),
                _ if self.chance(10) == 0 => self.trim(),
                // Checkpoints are written when a segment is full, every 10 s at most.
                _ => self.disk.advance(Duration::from_secs(3)),
            }
            self.look();
        }
    }

    fn append(&mut self) {
        if self.appends.len() > 8 {
            return;
        }
        self.sent += 1;
        let bytes = match self.chance(6) {
            0 => 300 << 10,
            1 => 60 << 10,
            _ => 3 << 10,
        };
        let number = self.sent.to_le_bytes();
        let bytes: Vec<u8> = number.iter().copied().cycle().take(bytes).collect();
        let partition = u32::from(self.chance(2) == 0);
        let (log, _) = self.log.as_ref().expect("it is open");
        let topics: Vec<_> =
            log.topics().into_iter().filter(|it| it.name() != "_catalog").collect();
        let topic = &topics[usize::try_from(self.sent).expect("small") % topics.len()];
        let record = Record::opaque(&bytes);
        let items = [Item::Record { partition: topic.partition(partition), record }];
        let Ok(permit) = log.reserve(Lane(9), bytes.len() + 4096) else { return };
        let ticket = log.append(permit, self.epoch, Append { conditions: &[], items: &items });
        let topic = topic.name().to_owned();
        self.appends.push(Sent { topic, partition, bytes, ticket: Box::pin(ticket) });
    }

    /// Gives up what lies below some offset, so that packs expire.
    fn trim(&mut self) {
        let (log, _) = self.log.as_ref().expect("it is open");
        let partition = log.topic("a").expect("it was made").partition(0);
        let extent = log.extent(partition).expect("it is there");
        let to = Offset(extent.start.0 + (extent.end.0 - extent.start.0) / 2);
        self.finish(|log| log.trim(partition, to)).expect("it is trimmed");
        self.trimmed.insert(("a".to_owned(), 0), to.0);
    }

    /// Learns which appends are acked.
    fn look(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting = Vec::new();
        for mut sent in std::mem::take(&mut self.appends) {
            match sent.ticket.as_mut().poll(&mut context) {
                Poll::Pending => waiting.push(sent),
                Poll::Ready(Ok(stored)) => {
                    let of = self.acked.entry((sent.topic, sent.partition)).or_default();
                    of.insert(stored.offset(0).0, sent.bytes);
                }
                Poll::Ready(Err(_)) => {}
            }
        }
        self.appends = waiting;
    }

    /// Drives the log until what `begin` began is over.
    fn finish<T>(&mut self, begin: impl FnOnce(&Engine) -> tracklog_log::Pending<'_, T>) -> T {
        let (log, mut stepper) = self.log.take().expect("it is open");
        let value = {
            let mut future = begin(&log);
            let mut context = Context::from_waker(Waker::noop());
            let mut tries = 0;
            loop {
                if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                    break value;
                }
                tries += 1;
                assert!(tries < 10_000, "it never ends");
                stepper.step_journal();
                self.disk.step();
                stepper.run_keeper();
            }
        };
        self.log = Some((log, stepper));
        value
    }

    /// Lets all that was begun end, the mark behind the last commit too.
    fn come_to_rest(&mut self) {
        for _ in 0..2_000 {
            let (_, stepper) = self.log.as_mut().expect("it is open");
            stepper.step_journal();
            self.disk.step();
            stepper.run_keeper();
            self.disk.advance(Duration::from_millis(2));
            self.look();
        }
        assert!(self.appends.is_empty(), "all are decided");
    }
}

/// A disk each read of which is a turn for the log on it.
struct Watched {
    disk: Arc<SimDisk>,
    world: Arc<Mutex<World>>,
}

impl Watched {
    fn turn(&self) {
        self.world.lock().turn();
    }
}

struct WatchedSlot {
    slot: Arc<dyn Slot>,
    world: Arc<Mutex<World>>,
}

impl Slot for WatchedSlot {
    fn bytes(&self) -> u64 {
        self.slot.bytes()
    }

    fn read(&self, at: u64, buffer: &mut PageBuffer) -> io::Result<()> {
        self.world.lock().turn();
        self.slot.read(at, buffer)
    }

    fn write(&self, _: u64, _: &bytes::Bytes) -> io::Result<()> {
        unreachable!("a copy writes nothing")
    }

    fn submit(&self, _: u64, _: bytes::Bytes, _: WriteDone) {
        unreachable!("a copy writes nothing")
    }

    fn sync(&self) -> io::Result<()> {
        unreachable!("a copy writes nothing")
    }

    fn drop_cache(&self) -> io::Result<()> {
        unreachable!("a copy writes nothing")
    }

    fn map(&self) -> io::Result<Arc<dyn Map>> {
        unreachable!("what may be written is not mapped")
    }
}

struct WatchedPack {
    pack: Arc<dyn PackFile>,
    world: Arc<Mutex<World>>,
}

impl PackFile for WatchedPack {
    fn bytes(&self) -> u64 {
        self.pack.bytes()
    }

    fn read(&self, at: u64, buffer: &mut PageBuffer) -> io::Result<()> {
        self.world.lock().turn();
        self.pack.read(at, buffer)
    }
}

impl Disk for Watched {
    fn journal_folder(&self) -> io::Result<JournalFolder> {
        self.disk.journal_folder()
    }

    fn cut_folder(&self) -> io::Result<Vec<(String, u64)>> {
        self.disk.cut_folder()
    }

    fn packs_folder(&self) -> io::Result<Vec<(PackId, u64)>> {
        self.disk.packs_folder()
    }

    fn create_pack(&self, _: PackId) -> io::Result<Box<dyn PackWriter>> {
        unreachable!("a copy writes nothing")
    }

    fn open_pack(&self, pack: PackId) -> io::Result<Arc<dyn PackFile>> {
        self.turn();
        let (pack, world) = (self.disk.open_pack(pack)?, Arc::clone(&self.world));
        Ok(Arc::new(WatchedPack { pack, world }))
    }

    fn read_file(&self, name: &FileName) -> io::Result<Vec<u8>> {
        self.turn();
        self.disk.read_file(name)
    }

    fn write_file(&self, _: &FileName, _: &[u8]) -> io::Result<()> {
        unreachable!("a copy writes nothing")
    }

    fn remove_file(&self, _: &FileName) -> io::Result<()> {
        unreachable!("a copy writes nothing")
    }

    fn create_slot(&self, _: SlotId, _: u64, _: &mut dyn FnMut(u64)) -> io::Result<()> {
        unreachable!("a copy writes nothing")
    }

    fn remove_slot(&self, _: SlotId) -> io::Result<()> {
        unreachable!("a copy writes nothing")
    }

    fn open_slot(&self, slot: SlotId, access: Access) -> io::Result<Arc<dyn Slot>> {
        assert_eq!(access, Access::Read);
        self.turn();
        let (slot, world) = (self.disk.open_slot(slot, access)?, Arc::clone(&self.world));
        Ok(Arc::new(WatchedSlot { slot, world }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn reads_are_direct(&self) -> bool {
        self.disk.reads_are_direct()
    }

    fn backend(&self) -> Backend {
        self.disk.backend()
    }

    fn now(&self) -> TimeMicros {
        self.disk.now()
    }

    fn monotonic(&self) -> Duration {
        self.disk.monotonic()
    }

    fn random(&self) -> u64 {
        self.disk.random()
    }
}

/// Copies what the snapshot names to a new machine.
fn copied(snapshots: &Snapshots, snapshot: &Snapshot) -> Result<SimDisk, SnapshotError> {
    let target = SimDisk::new(99);
    target.set_auto(true);
    for pack in &snapshot.packs {
        let open = snapshots.open_pack(pack)?;
        let mut file = target.create_pack(pack.id).expect("there is room");
        let mut at = 0;
        while at < open.bytes() {
            let bytes = usize::try_from(open.bytes() - at).expect("small").min(PART_BYTES);
            let (pages, lost) = open.read(at, bytes);
            assert_eq!(lost, 0);
            file.write(&pages).expect("there is room");
            at += bytes as u64;
        }
        file.finish().expect("there is room");
    }
    for segment in &snapshot.segments {
        target.create_slot(segment.slot, snapshot.slot_bytes, &mut |_| {}).expect("there is room");
        let slot = target.open_slot(segment.slot, Access::Write).expect("it is there");
        let mut at = 0;
        while at < segment.bytes {
            let bytes = usize::try_from(segment.bytes - at).expect("small").min(PART_BYTES);
            let (pages, lost) = snapshots.read_segment(segment, at, bytes)?;
            assert_eq!(lost, 0);
            slot.write(at, &pages.freeze()).expect("it is written");
            at += bytes as u64;
        }
    }
    let (file, bytes) = &snapshot.checkpoint;
    target.write_file(file, bytes).expect("there is room");
    Ok(target)
}

/// Opens a copy, holds it against what the snapshot says of it, and reads it.
fn read(target: &SimDisk, snapshot: &Snapshot) -> Contents {
    let target: Arc<dyn Disk> = Arc::new(target.clone());
    let log = OfflineLog::open_on(Arc::clone(&target)).expect("it opens").expect("there is a log");
    assert_eq!(log.notes(), [], "a copy of a sound log is sound");
    let mut contents = Contents::new();
    for topic in &snapshot.topics {
        let there = log.topic(&topic.name).expect("it has the topic");
        for (partition, extent) in there.partitions().zip(&topic.extents) {
            let is = log.extent(partition).expect("it has the partition");
            assert_eq!(is.end, extent.end, "{} goes as far as the snapshot says", topic.name);
            let of = contents.entry((topic.name.clone(), partition.partition)).or_default();
            let mut from = is.start;
            while from < is.end {
                let mode = FetchMode::Replay;
                let fetch =
                    Fetch { from: vec![(partition, from)], bytes_max: 1 << 20, wait: false, mode };
                let mut fetched = block_on(log.fetch(fetch)).expect("it is readable");
                let part = fetched.partitions.pop().expect("one was asked for");
                assert!(part.damage.is_empty(), "{:?}", part.damage);
                for batch in &part.batches {
                    let records = batch.records();
                    of.extend(records.map(|(offset, record)| (offset.0, record.bytes().to_vec())));
                }
                from = part.next;
            }
        }
    }
    drop(log);
    let report = verify_on(&target, NonZeroUsize::MIN, &mut |_| {})
        .expect("it opens")
        .expect("there is a log");
    assert!(report.clean, "{report}");
    contents
}

/// What was acked below the copy's ends is in it, as it was acked.
fn check(world: &World, snapshot: &Snapshot, contents: &Contents, seed: u64) {
    for ((topic, partition), records) in &world.acked {
        let of = snapshot.topics.iter().find(|it| it.name == *topic);
        let Some(extent) = of.map(|it| it.extents[*partition as usize]) else { continue };
        let trimmed = world.trimmed.get(&(topic.clone(), *partition)).copied().unwrap_or(0);
        let there = &contents[&(topic.clone(), *partition)];
        for (offset, bytes) in records.range(trimmed.min(extent.end.0)..extent.end.0) {
            let is = there.get(offset);
            assert_eq!(is, Some(bytes), "seed {seed}: {topic}/{partition} at {offset}");
        }
    }
}

#[test]
fn a_copy_of_a_log_that_goes_on_is_the_log_up_to_its_point() {
    let (mut moved_on, mut packs, mut grew) = (0, 0, 0);
    for seed in 0..5 {
        let world = Arc::new(Mutex::new(World::new(seed)));
        for round in 0..3 {
            let disk = Arc::new(world.lock().disk.clone());
            let watched = Watched { disk, world: Arc::clone(&world) };
            let mut snapshots = Snapshots::on(Arc::new(watched));
            let mut last = None;
            for _ in 0..3 {
                let (snapshot, target) = loop {
                    (0..40).for_each(|_| world.lock().turn());
                    let taken = snapshots.take(LogEnd::Vouched);
                    let copy = taken.and_then(|it| copied(&snapshots, &it).map(|copy| (it, copy)));
                    match copy {
                        Ok(copy) => break copy,
                        Err(SnapshotError::MovedOn) => moved_on += 1,
                        Err(error) => panic!("seed {seed}: {error}"),
                    }
                };
                let contents = read(&target, &snapshot);
                check(&world.lock(), &snapshot, &contents, seed);
                let point = snapshot.point.map(|point| (point.run, point.commit));
                assert!(point >= last, "seed {seed}: a later snapshot has all of an earlier one");
                grew += u64::from(point > last);
                last = point;
                packs += snapshot.packs.len();
            }
            let mut world = world.lock();
            match round % 3 {
                0 => world.crash(Crash::Kill),
                1 => world.crash(Crash::Power),
                _ if round == 2 => world.topic("b", 2),
                _ => {}
            }
        }
    }
    assert!(moved_on > 0 && packs > 0 && grew > 20, "{moved_on} {packs} {grew}");
}

#[test]
fn a_log_at_rest_is_copied_whole() {
    for seed in 100..103 {
        let mut world = World::new(seed);
        (0..3_000).for_each(|_| world.turn());
        world.come_to_rest();
        let disk: Arc<dyn Disk> = Arc::new(world.disk.clone());
        let mut snapshots = Snapshots::on(disk);
        let snapshot = snapshots.take(LogEnd::Vouched).expect("nothing moves");
        let contents = read(&copied(&snapshots, &snapshot).expect("nothing moves"), &snapshot);
        check(&world, &snapshot, &contents, seed);
        for ((topic, partition), records) in &world.acked {
            let last = records.keys().next_back().expect("it has some");
            assert!(contents[&(topic.clone(), *partition)].contains_key(last), "seed {seed}");
        }
    }
}

#[test]
fn a_log_is_followed_from_a_checkpoint_at_the_end_of_a_segment() {
    let mut world = World::new(5);
    let checkpoint = loop {
        world.disk.advance(Duration::from_secs(11));
        world.append();
        world.come_to_rest();
        let checkpoint = newest_checkpoint(&world.disk).expect("it is there");
        if checkpoint.slots.iter().any(|id| id.number > checkpoint.position.segment) {
            break checkpoint;
        }
    };
    world.append();
    world.come_to_rest();
    let now = newest_checkpoint(&world.disk).expect("it is there");
    assert_eq!(now.sequence, checkpoint.sequence, "all that came lies behind it");
    let disk: Arc<dyn Disk> = Arc::new(world.disk.clone());
    let mut snapshots = Snapshots::on(disk);
    let snapshot = snapshots.take(LogEnd::Vouched).expect("nothing moves");
    let contents = read(&copied(&snapshots, &snapshot).expect("nothing moves"), &snapshot);
    for (of, records) in &world.acked {
        assert!(records.keys().all(|at| contents[of].contains_key(at)));
    }
}

#[test]
fn of_a_stopped_log_what_no_mark_vouches_for_is_copied_where_it_is_whole() {
    let mut world = World::new(7);
    (0..200).for_each(|_| world.turn());
    world.come_to_rest();
    let before = world.acked.clone();
    world.append();
    while !world.appends.is_empty() {
        let (_, stepper) = world.log.as_mut().expect("it is open");
        stepper.step_journal();
        world.disk.step();
        world.look();
    }
    let acked =
        world.acked.iter().flat_map(|(of, records)| records.keys().map(move |at| (of, *at)));
    let is_new = |(of, at): &(&(String, u32), u64)| {
        before.get(*of).is_none_or(|records| !records.contains_key(at))
    };
    let new: Vec<_> = acked.filter(is_new).collect();
    assert_eq!(new.len(), 1, "acked, and no mark behind it");
    world.disk.crash(Crash::Kill);
    drop(world.log.take());
    let disk: Arc<dyn Disk> = Arc::new(world.disk.reboot());
    let of = |end| {
        let mut snapshots = Snapshots::on(Arc::clone(&disk));
        let snapshot = snapshots.take(end).expect("nothing moves");
        read(&copied(&snapshots, &snapshot).expect("nothing moves"), &snapshot)
    };
    let is_there = |contents: &Contents| new.iter().all(|(of, at)| contents[*of].contains_key(at));
    assert!(!is_there(&of(LogEnd::Vouched)) && is_there(&of(LogEnd::Whole)));
}

#[test]
fn pages_that_the_disk_does_not_give_are_damage_in_the_copy_too() {
    let mut world = World::new(3);
    (0..1_500).for_each(|_| world.turn());
    world.come_to_rest();
    let disk: Arc<dyn Disk> = Arc::new(world.disk.clone());
    let mut snapshots = Snapshots::on(disk);
    let snapshot = snapshots.take(LogEnd::Vouched).expect("nothing moves");
    let segment = snapshot.segments.iter().find(|it| it.is_full).expect("it has rolled");
    world.disk.break_range(segment.slot, 8192..12_288);
    let (pages, lost) = snapshots.read_segment(segment, 0, 16_384).expect("the rest is given");
    assert_eq!(lost, PAGE_BYTES);
    assert!(pages[8192..12_288].iter().all(|byte| *byte == 0) && pages[0] != 0);
    world.disk.heal();
    world.disk.remove_slot(segment.slot).expect("it was there");
    let read = snapshots.read_segment(segment, 0, 4096);
    assert!(matches!(read, Err(SnapshotError::Missing { .. })), "{read:?}");
}
