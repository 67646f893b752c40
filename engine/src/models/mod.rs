//! The rooms where threads meet, on primitives whose every schedule is tried.
//!
//! The very files that the engine is made of are compiled a second time here, with [`sync`] in
//! place of the engine's own. Each model is a few threads that do a few steps; it is run in every
//! order that the memory model allows, up to a bound of preemptions. A lost wake-up shows as a
//! deadlock, which fails the model.
#![allow(clippy::duplicate_mod, reason = "that is what this is")]
#![allow(dead_code, unreachable_pub, reason = "models use a part of the rooms, and publish none")]

#[path = "../published.rs"]
mod published;
#[path = "../relay.rs"]
mod relay;
mod sync;

#[path = "../journal"]
mod journal {
    pub(super) mod driver;
    pub(super) mod intake;
}

#[path = "../read"]
mod read {
    pub(super) mod slots;

    /// Reads of a full segment, the way of the replay threads.
    pub(super) struct Slots(slots::OpenSlots);

    impl Slots {
        pub(super) fn new(
            disk: std::sync::Arc<dyn crate::disk::Disk>,
            published: std::sync::Arc<super::published::Published>,
            open_max: usize,
        ) -> Self {
            Self(slots::OpenSlots::new(disk, published, open_max))
        }

        /// The segment's map, if the segment is still there.
        pub(super) fn map(
            &self,
            id: crate::partition::places::SegmentId,
        ) -> Option<std::sync::Arc<dyn crate::disk::Map>> {
            self.0.open(id).ok().and_then(|open| open.map)
        }

        /// As the keeper asks before it uses a slot again.
        pub(super) fn forget(&self, number: crate::journal::commit::SegmentNumber) -> bool {
            self.0.forget(number)
        }
    }
}

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};

use loom::future::block_on;
use loom::thread;
use tracklog_log::{Append, AppendError, Budget, Item, Lane};
use tracklog_protocol::{Offset, Record, TimeMicros};

use self::journal::driver::{Driver, Machine};
use self::journal::intake::{Decided, Input, Intake, Measured};
use self::published::{Published, Topics};
use self::relay::Relays;
use crate::catalog::{self, Catalog, Row};
use crate::disk::simulated::SimDisk;
use crate::disk::{Access, Disk, Map, PAGE_BYTES, PageBuffer, SlotId};
use crate::journal::appender::Next;
use crate::journal::commit::{
    CommitHeader, CommitKind, CommitNumber, DirectoryEntry, Run, Salt, SegmentNumber,
};
use crate::journal::segment::ClusterId;
use crate::partition::places::{Held, Home, Place, Places, SegmentId, Share};
use crate::partition::tail::Tail;
use crate::seen::event_ids::{IdKey, SettledIds};

/// Runs `model` in all schedules with at most three preemptions: nearly all that is known to go
/// wrong goes wrong with two.
fn in_every_schedule(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// Counts how often it is woken. Not seen by the scheduler: it costs no schedules.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// As many wakers as two relays share.
const WAKERS: usize = 40;

fn wakers(woken: &Arc<Woken>) -> Vec<Waker> {
    (0..WAKERS).map(|_| Waker::from(Arc::clone(woken))).collect()
}

#[test]
fn all_are_woken_whatever_the_relays_are_doing_and_relays_end_at_close() {
    in_every_schedule(|| {
        let (relays, woken) = (Arc::new(Relays::default()), Arc::new(Woken::default()));
        let threads = [(); 2].map(|()| {
            let relay = relays.add();
            thread::spawn(move || block_on(relay))
        });
        relays.wake(wakers(&woken));
        relays.wake(wakers(&woken));
        relays.close();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 2 * WAKERS);
    });
}

#[test]
fn a_relay_that_is_dropped_wakes_what_it_was_handed() {
    in_every_schedule(|| {
        let (relays, woken) = (Arc::new(Relays::default()), Arc::new(Woken::default()));
        let mut relay = relays.add();
        let polled = Waker::noop();
        assert!(pin!(&mut relay).poll(&mut Context::from_waker(polled)).is_pending());
        let dropping = thread::spawn(move || drop(relay));
        relays.wake(wakers(&woken));
        relays.wake(wakers(&woken));
        dropping.join().unwrap();
        assert_eq!(woken.0.load(Ordering::Relaxed), 2 * WAKERS);
    });
}

#[test]
fn a_relay_that_is_not_polled_is_handed_one_share() {
    in_every_schedule(|| {
        let (relays, woken) = (Arc::new(Relays::default()), Arc::new(Woken::default()));
        let mut relay = relays.add();
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(&mut relay).poll(&mut context).is_pending());
        relays.wake(wakers(&woken));
        assert_eq!(woken.0.load(Ordering::Relaxed), 0, "the relay has them");
        relays.wake(wakers(&woken));
        assert_eq!(woken.0.load(Ordering::Relaxed), WAKERS, "it has one share already");
        assert!(pin!(&mut relay).poll(&mut context).is_pending());
        assert_eq!(woken.0.load(Ordering::Relaxed), 2 * WAKERS);
    });
}

/// Leaves one record in the queue, by way of `append`.
fn append<T>(
    budget: &Arc<Budget>,
    append: impl FnOnce(Append<'_>, &Measured, tracklog_log::Permit) -> T,
) -> T {
    let record = Record::opaque(b"record");
    let items = [Item::Record { partition: catalog::PARTITION, record }];
    let of_one = Append { conditions: &[], items: &items };
    let key = IdKey::of(ClusterId(1), u64::BITS);
    let measured =
        Measured::of(&of_one, key, &SettledIds::default(), |_| Some((Row(0), false))).unwrap();
    let permit = budget.reserve(Lane::INTERNAL, 64).unwrap();
    append(of_one, &measured, permit)
}

/// Appends one record through the driver, and waits for its offset.
fn offset_of_one(driver: &Driver, budget: &Arc<Budget>) -> Offset {
    let ticket = append(budget, |append, measured, permit| driver.append(append, measured, permit));
    block_on(ticket).unwrap().offset(0)
}

/// A journal that decides whatever waits, until it is told to stop.
struct Decides {
    intake: Arc<Intake>,
    relays: Arc<Relays>,
    next: u64,
}

impl Machine for Decides {
    fn step(&mut self) -> Next {
        let mut inputs = Vec::new();
        self.intake.take_inputs(&mut inputs);
        let stopping = inputs.iter().any(|input| matches!(input, Input::Stop));
        while let Some(mut gather) = self.intake.take() {
            let appends = u32::try_from(gather.appends.len()).unwrap();
            let offsets = (self.next..self.next + u64::from(appends)).map(Offset).collect();
            self.next += u64::from(appends);
            let first_items = (0..appends).collect();
            let (refused, duplicates) = (Vec::new(), Vec::new());
            let decided = Decided::Stored { offsets, first_items, refused, duplicates };
            std::mem::take(&mut gather.outcome).decide(decided, &self.relays);
            self.intake.recycle(gather);
        }
        if stopping { Next::Stopped } else { Next::Wait { wake_at_bytes: 0, timeout: None } }
    }
}

#[test]
fn every_append_is_taken_once_and_its_caller_hears_of_it() {
    in_every_schedule(|| {
        let driver = Driver::new(Arc::default());
        let budget = Budget::new(1 << 20);
        let watcher = thread::spawn({
            let driver = Arc::clone(&driver);
            move || driver.watch()
        });
        let (intake, relays) = (Arc::clone(&driver.intake), Arc::default());
        driver.start(Box::new(Decides { intake, relays, next: 0 }));
        let other = thread::spawn({
            let (driver, budget) = (Arc::clone(&driver), Arc::clone(&budget));
            move || offset_of_one(&driver, &budget)
        });
        let mine = offset_of_one(&driver, &budget);
        let mut offsets = [mine, other.join().unwrap()];
        offsets.sort_unstable();
        assert_eq!(offsets, [Offset(0), Offset(1)]);
        driver.push(Input::Stop);
        watcher.join().unwrap();
    });
}

/// A journal for which more comes in each of its first steps; then it stops.
struct Restless {
    intake: Arc<Intake>,
    steps_left: usize,
}

impl Machine for Restless {
    fn step(&mut self) -> Next {
        self.intake.take_inputs(&mut Vec::new());
        let Some(steps_left) = self.steps_left.checked_sub(1) else { return Next::Stopped };
        self.steps_left = steps_left;
        assert!(!self.intake.push(Input::NoRoom("more".into())), "it is attended to");
        Next::Wait { wake_at_bytes: 0, timeout: None }
    }
}

#[test]
fn a_journal_that_is_never_done_is_handed_over_to_the_watcher() {
    in_every_schedule(|| {
        let driver = Driver::new(Arc::default());
        let watcher = thread::spawn({
            let driver = Arc::clone(&driver);
            move || driver.watch()
        });
        let intake = Arc::clone(&driver.intake);
        driver.start(Box::new(Restless { intake, steps_left: 4 }));
        watcher.join().unwrap();
    });
}

#[test]
fn a_journal_that_ends_leaves_nobody_waiting() {
    in_every_schedule(|| {
        let (intake, relays) = (Arc::new(Intake::default()), Arc::new(Relays::default()));
        let budget = Budget::new(1 << 20);
        let journal = thread::spawn({
            let (intake, relays) = (Arc::clone(&intake), Arc::clone(&relays));
            move || {
                // One gather is dropped undecided, as by a panic; the rest is abandoned.
                drop(intake.take());
                intake.abandon(&"it ended".into(), &relays);
            }
        });
        let (ticket, _) =
            append(&budget, |append, measured, permit| intake.append(append, measured, permit));
        let answered = block_on(ticket).map(|_| ());
        let lost =
            matches!(answered, Err(AppendError::Closed { .. } | AppendError::Unknown { .. }));
        assert!(lost, "{answered:?}");
        journal.join().unwrap();
        assert_eq!(budget.reserved_bytes(), 0);
    });
}

fn published() -> Arc<Published> {
    let catalog = Catalog::new();
    let mut places = Places::new(1 << 20);
    places.grow_to(catalog.row_count());
    Published::new(Topics::new(catalog), places, Tail::new(1 << 20))
}

#[test]
fn who_waits_for_a_partition_to_grow_never_misses_it() {
    in_every_schedule(|| {
        let published = published();
        let reader = thread::spawn({
            let published = Arc::clone(&published);
            move || {
                block_on(published.grown(&[(catalog::PARTITION, Offset(0))]));
                published.topics.read().extent_of(Row(0)).end
            }
        });
        published.topics.read().set_end(Row(0), Offset(1));
        published.wake();
        assert_eq!(reader.join().unwrap(), Offset(1));
    });
}

const COMMIT_BYTES: u32 = 4096;

/// The commit of the record at `offset`, and its place in the directory.
fn commit_of_one(offset: u32) -> (CommitHeader, (Row, DirectoryEntry)) {
    let number = u64::from(offset);
    let header = CommitHeader {
        kind: CommitKind::Data,
        salt: Salt(7),
        run: Run(1),
        number: CommitNumber(number + 1),
        segment: SegmentNumber(0),
        position: (offset + 1) * COMMIT_BYTES,
        commit_bytes: COMMIT_BYTES,
        chain: 0,
        mark: CommitNumber::NONE,
        append_time: TimeMicros(0),
        directory_bytes: 0,
        directory_crc: 0,
    };
    let entry = DirectoryEntry {
        partition: catalog::PARTITION,
        base_offset: Offset(number),
        count: 1,
        place: 128,
        batch_bytes: 64,
        batch_crc: 0,
        event_time_max: TimeMicros(0),
    };
    (header, (Row(0), entry))
}

/// The place of the record at `from`, as a reader finds it.
fn place_of(published: &Published, from: Offset) -> Option<Place> {
    let (places, held) = (published.places.read(), Held::default());
    let mut found = None;
    places.visit_from(Row(0), from, &held, |share| {
        if let Share::Active { places, .. } = share {
            found = places.iter().find(|place| place.base_offset == from).copied();
        }
        found.is_none()
    });
    found
}

#[test]
fn whoever_sees_an_end_finds_the_places_and_the_buffers_below_it() {
    in_every_schedule(|| {
        let published = published();
        let id =
            SegmentId { number: SegmentNumber(0), slot: SlotId(0), run: Run(1), salt: Salt(7) };
        published.places.write().begin(id);
        let reader = thread::spawn({
            let published = Arc::clone(&published);
            move || {
                let end = published.topics.read().extent_of(Row(0)).end;
                for offset in (0..end.0).map(Offset) {
                    let place = place_of(&published, offset).expect("it is below the end");
                    let batch = published.tail.read().batch(SegmentNumber(0), &place);
                    assert_eq!(batch.expect("it is among the newest").len(), 64);
                }
                end
            }
        });
        for offset in 0..2 {
            let (header, entry) = commit_of_one(offset);
            let pages = PageBuffer::zeroed(COMMIT_BYTES as usize).freeze();
            published.commit(&header, &[entry], pages);
        }
        assert!(reader.join().unwrap() <= Offset(2));
    });
}

#[test]
fn who_waits_when_the_log_is_closed_is_told() {
    in_every_schedule(|| {
        let published = published();
        let reader = thread::spawn({
            let published = Arc::clone(&published);
            move || block_on(published.grown(&[(catalog::PARTITION, Offset(0))]))
        });
        published.close();
        reader.join().unwrap();
    });
}

const SLOT_BYTES: u64 = 2 << 20;

/// Two full segments, each in a slot of its own, and a third one begun.
fn full_segments(disk: &SimDisk, published: &Published) -> [SegmentId; 2] {
    let ids = [0, 1, 2].map(|number| SegmentId {
        number: SegmentNumber(u64::from(number)),
        slot: SlotId(number),
        run: Run(1),
        salt: Salt(7),
    });
    let topics = published.topics.read();
    let mut places = published.places.write();
    for id in ids {
        disk.create_slot(id.slot, SLOT_BYTES, &mut |_| {}).unwrap();
        places.begin(id);
        if id.number.0 < 2 {
            places.seal(&topics.catalog);
        }
    }
    [ids[0], ids[1]]
}

/// What a map shows of its slot's first byte.
fn first_byte(map: Arc<dyn Map>) -> u8 {
    map.bytes(0, 1).unwrap()[0]
}

/// As the keeper does once both checkpoints have forgotten the oldest segment: the simulated disk
/// panics when a slot is written that is mapped.
fn give_up_oldest(disk: &SimDisk, published: &Published, slots: &read::Slots) {
    let oldest = published.places.read().oldest().expect("one is full");
    let Home::Segment(oldest) = oldest.home else { panic!("there are no packs") };
    published.places.write().drop_oldest();
    let pinned = slots.forget(oldest.number);
    if !pinned {
        let slot = disk.open_slot(oldest.slot, Access::Write).unwrap();
        let mut page = PageBuffer::zeroed(PAGE_BYTES);
        page.fill(1);
        slot.write(0, &page.freeze()).unwrap();
    }
}

#[test]
fn a_slot_is_used_again_only_when_nobody_holds_its_map_or_comes_to() {
    // With one slot kept open, the second read closes the first one's.
    for open_max in [1, 2] {
        in_every_schedule(move || {
            let (disk, published) = (SimDisk::new(1), published());
            let [first, second] = full_segments(&disk, &published);
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            let slots = Arc::new(read::Slots::new(shared, Arc::clone(&published), open_max));
            let reader = thread::spawn({
                let slots = Arc::clone(&slots);
                move || {
                    let held = slots.map(first);
                    let other = slots.map(second);
                    assert!(other.is_some(), "it was not given up");
                    for held in held.into_iter().chain(slots.map(first)) {
                        thread::yield_now();
                        assert_eq!(first_byte(held), 0, "it is as it was");
                    }
                }
            });
            give_up_oldest(&disk, &published, &slots);
            reader.join().unwrap();
            assert!(slots.map(first).is_none(), "it is not listed any more");
        });
    }
}
