//! What the simulated disk does to its users, and that one seed does it again.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use super::medium::SECTOR_BYTES;
use super::*;

const SLOT: SlotId = SlotId(1);
const SLOT_BYTES: u64 = 64 * PAGE_BYTES as u64;
const PAGE: u64 = PAGE_BYTES as u64;
const PACK: PackId = PackId { first: 1, last: 1, generation: 1 };

fn pages(fill: u8, count: usize) -> Bytes {
    let mut buffer = PageBuffer::zeroed(count * PAGE_BYTES);
    buffer.fill(fill);
    buffer.freeze()
}

fn disk_with_slot(seed: u64) -> (SimDisk, Arc<dyn Slot>) {
    let disk = SimDisk::new(seed);
    disk.create_slot(SLOT, SLOT_BYTES, &mut |_| {}).unwrap();
    let slot = disk.open_slot(SLOT, Access::Write).unwrap();
    (disk, slot)
}

fn ignore() -> WriteDone {
    Box::new(|_| ())
}

/// How many sectors of the first page hold `fill`.
fn sectors_of(disk: &SimDisk, fill: u8) -> usize {
    let page = disk.peek(SLOT, 0, PAGE_BYTES);
    page.chunks(SECTOR_BYTES).filter(|sector| sector.iter().all(|byte| *byte == fill)).count()
}

#[test]
fn write_in_flight_is_seen_once_completed() {
    let (disk, slot) = disk_with_slot(1);
    let (ended, ends) = mpsc::channel();
    slot.submit(0, pages(1, 1), Box::new(move |result| ended.send(result).unwrap()));
    assert_eq!((disk.in_flight(), sectors_of(&disk, 0)), (1, 8));
    assert!(ends.try_recv().is_err());
    assert!(disk.step());
    assert!(ends.recv().unwrap().is_ok());
    assert_eq!((disk.in_flight(), sectors_of(&disk, 1)), (0, 8));
    assert!(!disk.step());
}

#[test]
fn writes_complete_in_any_order() {
    let orders: BTreeSet<Vec<u64>> = (0..50)
        .map(|seed| {
            let (disk, slot) = disk_with_slot(seed);
            let (ended, ends) = mpsc::channel();
            for number in 0..3 {
                let ended = ended.clone();
                let done = Box::new(move |_| ended.send(number).unwrap());
                slot.submit(number * PAGE, pages(1, 1), done);
            }
            disk.run_until_idle();
            drop((slot, ended));
            ends.iter().collect()
        })
        .collect();
    assert_eq!(orders.len(), 6);
}

#[test]
fn power_failure_tears_what_flies_and_keeps_what_was_done() {
    let landed: BTreeSet<usize> = (0..200)
        .map(|seed| {
            let (disk, slot) = disk_with_slot(seed);
            slot.submit(PAGE, pages(2, 1), ignore());
            disk.run_until_idle();
            slot.submit(0, pages(1, 1), Box::new(|_| panic!("called after a crash")));
            disk.crash(Crash::Power);
            let disk = disk.reboot();
            assert!(disk.peek(SLOT, PAGE, PAGE_BYTES).iter().all(|byte| *byte == 2));
            assert_eq!(sectors_of(&disk, 0) + sectors_of(&disk, 1), 8, "sectors are whole");
            sectors_of(&disk, 1)
        })
        .collect();
    assert_eq!(landed, (0..=8).collect(), "none, all, and any number between");
}

#[test]
fn later_write_may_land_without_an_earlier_one() {
    let only_later = (0..200).any(|seed| {
        let (disk, slot) = disk_with_slot(seed);
        slot.submit(0, pages(1, 1), ignore());
        slot.submit(PAGE, pages(1, 1), ignore());
        disk.crash(Crash::Power);
        let later = disk.peek(SLOT, PAGE, PAGE_BYTES);
        sectors_of(&disk, 0) == 8 && later.iter().all(|byte| *byte == 1)
    });
    assert!(only_later);
}

#[test]
fn killed_process_keeps_its_lock_until_its_write_has_landed() {
    let (disk, slot) = disk_with_slot(3);
    slot.submit(0, pages(1, 1), Box::new(|_| panic!("called after a crash")));
    slot.submit(PAGE, pages(1, 1), ignore());
    disk.crash(Crash::Kill);
    drop(slot);
    let disk = disk.reboot();
    assert_eq!((disk.in_flight(), sectors_of(&disk, 1)), (2, 0));
    disk.open_slot(SLOT, Access::Read).unwrap();
    for left in [1, 0] {
        let error = disk.open_slot(SLOT, Access::Write).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(disk.in_flight(), left);
    }
    disk.open_slot(SLOT, Access::Write).unwrap();
    assert_eq!(sectors_of(&disk, 1), 8);
}

#[test]
fn late_write_is_durable_only_after_a_sync() {
    let survives = |seed, sync: bool| {
        let (disk, slot) = disk_with_slot(seed);
        slot.submit(0, pages(1, 1), ignore());
        disk.crash(Crash::Kill);
        let disk = disk.reboot();
        disk.run_until_idle();
        assert_eq!(sectors_of(&disk, 1), 8, "it is seen");
        if sync {
            disk.open_slot(SLOT, Access::Write).unwrap().sync().unwrap();
        }
        disk.crash(Crash::Power);
        sectors_of(&disk, 1) == 8
    };
    assert!((0..50).all(|seed| survives(seed, true)));
    assert!(!(0..50).all(|seed| survives(seed, false)));
}

#[test]
fn failed_write_leaves_any_of_its_sectors_and_no_promise() {
    let landed: BTreeSet<usize> = (0..100)
        .map(|seed| {
            let (disk, slot) = disk_with_slot(seed);
            disk.fail_next(OperationKind::Submit, io::ErrorKind::Other, Lasting::Once);
            let (ended, ends) = mpsc::channel();
            slot.submit(0, pages(1, 1), Box::new(move |it| ended.send(it).unwrap()));
            assert!(ends.recv().unwrap().is_err());
            assert_eq!(disk.in_flight(), 0);
            sectors_of(&disk, 1)
        })
        .collect();
    assert!(landed.contains(&0) && landed.contains(&8) && landed.len() > 5);
}

/// A life with one of each operation that changes something.
fn live(disk: &SimDisk) -> io::Result<()> {
    disk.write_file(&FileName::CheckpointA, &[7; 1000])?;
    disk.create_slot(SLOT, SLOT_BYTES, &mut |_| {})?;
    let slot = disk.open_slot(SLOT, Access::Write)?;
    slot.write(0, &pages(1, 1))?;
    let (ended, ends) = mpsc::channel();
    slot.submit(PAGE, pages(2, 1), Box::new(move |result| ended.send(result).unwrap()));
    ends.recv().unwrap()?;
    disk.write_file(&FileName::CheckpointA, &[8; 2000])?;
    drop(slot);
    disk.remove_slot(SLOT)?;
    disk.remove_file(&FileName::CheckpointA)
}

fn live_until(seed: u64, operation: u64, crash: Crash) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.set_auto(true);
    disk.crash_at_operation(operation, crash);
    let ended = live(&disk);
    assert_eq!(disk.operations(), operation, "nothing happens after a crash");
    assert!(ended.is_err() && disk.journal_folder().is_err());
    disk.reboot()
}

#[test]
fn crash_in_each_operation_leaves_old_new_or_parts() {
    let whole = SimDisk::new(0);
    whole.set_auto(true);
    live(&whole).unwrap();
    for crash in [Crash::Power, Crash::Kill] {
        for operation in 1..=whole.operations() {
            let mut found = BTreeSet::new();
            for seed in 0..60 {
                let disk = live_until(seed, operation, crash);
                let state = disk.snapshot();
                let file = state.files.get(&FileName::CheckpointA).cloned();
                found.insert((file, state.slots.get(&SLOT).map(Content::bytes)));
                disk.set_auto(true);
                disk.run_until_idle();
                live(&disk).unwrap();
            }
            let states = match operation {
                1 => 5..,
                2 => 10..,
                3..=5 => 1..,
                6 => 5..,
                _ => 2..,
            };
            assert!(states.contains(&found.len()), "{crash:?} at {operation}: {}", found.len());
        }
    }
}

#[test]
fn same_seed_gives_the_same_disk_and_trace() {
    for operation in 1..=8 {
        let [one, two] = [0, 1].map(|_| live_until(42, operation, Crash::Power));
        assert_eq!(one.trace(), two.trace());
        let bytes = |disk: &SimDisk| {
            let state = disk.snapshot();
            let slots = state.slots.into_iter();
            (state.files, slots.map(|(slot, it)| (slot, it.pages)).collect::<Vec<_>>())
        };
        assert_eq!(bytes(&one), bytes(&two));
        assert_eq!(one.random(), two.random());
    }
}

#[test]
fn nth_operation_fails_once_or_for_ever() {
    let disk = SimDisk::new(1);
    disk.fail_operation(2, io::ErrorKind::Other, Lasting::Once);
    let tries = || [(); 4].map(|()| disk.journal_folder().is_ok());
    assert_eq!(tries(), [true, false, true, true]);
    disk.fail_operation(3, io::ErrorKind::Other, Lasting::Always);
    assert_eq!(tries(), [true, true, false, false]);
    disk.heal();
    assert_eq!(tries(), [true; 4]);
}

#[test]
fn full_disk_takes_no_slot_and_no_file_until_there_is_room() {
    let full = |result: io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
    };
    let disk = SimDisk::new(1);
    disk.set_capacity(SLOT_BYTES + 100);
    disk.create_slot(SLOT, SLOT_BYTES, &mut |_| {}).unwrap();
    full(disk.create_slot(SlotId(2), PAGE, &mut |_| {}));
    full(disk.write_file(&FileName::CheckpointA, &[0; 101]));
    disk.write_file(&FileName::CheckpointA, &[0; 100]).unwrap();
    disk.write_file(&FileName::CheckpointA, &[1; 100]).unwrap();
    assert_eq!(disk.free_bytes().unwrap(), 0);
    disk.remove_slot(SLOT).unwrap();
    disk.create_slot(SlotId(2), SLOT_BYTES, &mut |_| {}).unwrap();
}

#[test]
fn rot_and_bad_sectors_are_read_as_such() {
    let (disk, slot) = disk_with_slot(1);
    disk.flip_bit(SLOT, PAGE + 5, 3);
    disk.corrupt(SLOT, PAGE + 6, &[0xaa, 0xbb]);
    let mut buffer = PageBuffer::zeroed(PAGE_BYTES);
    slot.read(PAGE, &mut buffer).unwrap();
    assert_eq!(buffer[4..9], [0, 8, 0xaa, 0xbb, 0]);

    disk.break_range(SLOT, PAGE + 100..PAGE + 101);
    slot.read(PAGE, &mut buffer).unwrap_err();
    slot.read(2 * PAGE, &mut buffer).unwrap();
    let map = slot.map().unwrap();
    Arc::clone(&map).bytes(PAGE + 101, 10).unwrap();
    map.bytes(PAGE + 90, 11).unwrap_err();
    disk.heal();
    slot.read(PAGE, &mut buffer).unwrap();
}

#[test]
fn old_files_can_be_put_back() {
    let (disk, slot) = disk_with_slot(1);
    disk.write_file(&FileName::CheckpointA, b"old").unwrap();
    let old = disk.snapshot();
    slot.write(0, &pages(1, 1)).unwrap();
    drop(slot);
    disk.write_file(&FileName::CheckpointA, b"new").unwrap();
    disk.write_file(&FileName::CheckpointB, b"new").unwrap();
    let new = disk.snapshot();

    disk.restore_slot(&old, SLOT);
    disk.restore_file(&old, &FileName::CheckpointB);
    assert_eq!(sectors_of(&disk, 0), 8);
    assert_eq!(disk.read_file(&FileName::CheckpointA).unwrap(), b"new");
    assert!(disk.read_file(&FileName::CheckpointB).is_err());

    disk.restore(&new);
    assert_eq!(sectors_of(&disk, 1), 8);
    disk.restore(&old);
    assert_eq!(disk.read_file(&FileName::CheckpointA).unwrap(), b"old");
}

#[test]
fn clock_goes_where_it_is_set() {
    let disk = SimDisk::new(1);
    disk.set_now(TimeMicros(5_000_000));
    disk.advance(Duration::from_secs(1));
    assert_eq!((disk.now(), disk.monotonic()), (TimeMicros(6_000_000), Duration::from_secs(1)));
    disk.set_now(TimeMicros(-1));
    assert_eq!((disk.now(), disk.monotonic()), (TimeMicros(-1), Duration::from_secs(1)));
}

#[test]
fn misuse_of_a_slot_panics() {
    let panics = |misuse: &dyn Fn(&SimDisk, &dyn Slot)| {
        let (disk, slot) = disk_with_slot(1);
        catch_unwind(AssertUnwindSafe(|| misuse(&disk, &*slot))).is_err()
    };
    assert!(!panics(&|_, slot| slot.submit(0, pages(1, 1), ignore())));
    assert!(panics(&|_, slot| {
        slot.submit(0, pages(1, 2), ignore());
        slot.submit(PAGE, pages(1, 1), ignore());
    }));
    assert!(panics(&|_, slot| {
        let _map = slot.map().unwrap();
        slot.submit(0, pages(1, 1), ignore());
    }));
    assert!(panics(&|disk, _| {
        let reader = disk.open_slot(SLOT, Access::Read).unwrap();
        reader.submit(0, pages(1, 1), ignore());
    }));
}

#[test]
fn dead_process_can_do_nothing_and_harms_nothing() {
    let (dead, slot) = disk_with_slot(1);
    let map = slot.map().unwrap();
    let pinned = Arc::clone(&map).bytes(0, 10).unwrap();
    dead.crash(Crash::Power);
    let alive = dead.reboot();
    let alive_slot = alive.open_slot(SLOT, Access::Write).unwrap();
    assert!(dead.journal_folder().is_err() && slot.sync().is_err());
    let (ended, ends) = mpsc::channel();
    slot.submit(0, pages(9, 1), Box::new(move |result| ended.send(result).unwrap()));
    assert!(ends.recv().unwrap().is_err());
    drop((slot, map, pinned, dead));

    alive_slot.write(0, &pages(1, 1)).unwrap();
    let second = alive.open_slot(SLOT, Access::Write).err().unwrap();
    assert_eq!(second.kind(), io::ErrorKind::WouldBlock, "the dead took no lock with them");
    assert_eq!(sectors_of(&alive, 1), 8);
}

#[test]
fn completion_that_a_crash_drops_may_hold_its_slot() {
    for crash in [Crash::Power, Crash::Kill] {
        let (disk, slot) = disk_with_slot(1);
        let kept = Arc::clone(&slot);
        slot.submit(0, pages(1, 1), Box::new(move |_| drop(kept)));
        drop(slot);
        disk.crash(crash);
        disk.reboot().open_slot(SLOT, Access::Read).unwrap();
    }
}

#[test]
fn lying_disk_loses_any_sectors_of_what_it_said_was_durable_until_it_tells_the_truth() {
    let left = |seed, lying: Lying, is_header: bool| {
        let (disk, slot) = disk_with_slot(seed);
        disk.set_lying(lying);
        if is_header {
            slot.write(0, &pages(1, 1)).unwrap();
        } else {
            slot.submit(0, pages(1, 1), ignore());
        }
        disk.run_until_idle();
        slot.sync().unwrap();
        assert_eq!(sectors_of(&disk, 1), 8, "it is seen");
        disk.crash(Crash::Power);
        sectors_of(&disk, 1)
    };
    for (lying, is_header) in [(Lying::Commits, false), (Lying::All, false), (Lying::All, true)] {
        let lost: BTreeSet<usize> = (0..60).map(|seed| left(seed, lying, is_header)).collect();
        assert!(lost.len() > 5, "{lying:?}: {lost:?}");
    }
    for (lying, is_header) in [(Lying::Never, false), (Lying::Never, true), (Lying::Commits, true)]
    {
        assert!((0..60).all(|seed| left(seed, lying, is_header) == 8), "{lying:?}");
    }
}

#[test]
fn disk_that_lies_about_all_puts_files_and_packs_back_to_what_they_were() {
    let left = |seed, lying: Lying, crash| {
        let disk = SimDisk::new(seed);
        disk.write_file(&FileName::CheckpointA, b"old").unwrap();
        disk.set_lying(lying);
        disk.write_file(&FileName::CheckpointA, b"newer").unwrap();
        disk.write_file(&FileName::CheckpointA, b"newest").unwrap();
        let mut pack = disk.create_pack(PACK).unwrap();
        pack.write(&PageBuffer::zeroed(PAGE_BYTES)).unwrap();
        pack.finish().unwrap();
        disk.crash(crash);
        let files = disk.snapshot().files;
        let is_there = files.contains_key(&FileName::Pack(PACK));
        (files[&FileName::CheckpointA].clone(), is_there)
    };
    let found: BTreeSet<_> = (0..40).map(|seed| left(seed, Lying::All, Crash::Power)).collect();
    let [old, newest] = [b"old".to_vec(), b"newest".to_vec()];
    let all = [(&old, false), (&old, true), (&newest, false), (&newest, true)];
    assert_eq!(found, all.map(|(bytes, is_there)| (bytes.clone(), is_there)).into());
    for (lying, crash) in [(Lying::All, Crash::Kill), (Lying::Commits, Crash::Power)] {
        assert!((0..40).all(|seed| left(seed, lying, crash) == (newest.clone(), true)));
    }
}

#[test]
fn sync_that_fails_drops_what_was_dirty_and_the_next_one_says_ok() {
    let left: BTreeSet<usize> = (0..60)
        .map(|seed| {
            let (disk, slot) = disk_with_slot(seed);
            slot.submit(0, pages(1, 1), ignore());
            disk.crash(Crash::Kill);
            drop(slot);
            let disk = disk.reboot();
            disk.run_until_idle();
            let slot = disk.open_slot(SLOT, Access::Write).unwrap();
            disk.fail_next(OperationKind::Sync, io::ErrorKind::Other, Lasting::Once);
            slot.sync().unwrap_err();
            let left = sectors_of(&disk, 1);
            slot.sync().unwrap();
            disk.crash(Crash::Power);
            assert_eq!(sectors_of(&disk, 1), left, "what is left is durable");
            left
        })
        .collect();
    assert!(left.len() > 5, "{left:?}");
}

#[test]
fn page_cache_shows_a_failed_write_to_later_processes_and_loses_it_with_the_power() {
    // What the medium holds after the write failed, and then: nothing, a sync, its cache dropped,
    // another process.
    let shown = |seed, then: &dyn Fn(&dyn Slot), crash: Option<Crash>| {
        let (disk, slot) = disk_with_slot(seed);
        disk.set_cached(true);
        disk.fail_next(OperationKind::Submit, io::ErrorKind::Other, Lasting::Once);
        slot.submit(0, pages(1, 1), ignore());
        then(&*slot);
        if let Some(crash) = crash {
            disk.crash(crash);
        }
        assert!(!disk.reads_are_direct() && !disk.backend().direct);
        sectors_of(&disk, 1)
    };
    let any_lost = |then: &dyn Fn(&dyn Slot), crash| (0..40).any(|at| shown(at, then, crash) < 8);
    let sync = |slot: &dyn Slot| slot.sync().unwrap();
    assert!(!any_lost(&|_| (), None) && !any_lost(&sync, None));
    assert!(!any_lost(&sync, Some(Crash::Kill)), "the cache outlives the process");
    assert!(any_lost(&sync, Some(Crash::Power)), "a sync brings nothing to the medium");
    assert!(any_lost(&|slot| slot.drop_cache().unwrap(), None));
}

#[test]
fn names_that_are_not_in_their_folder_are_lost_with_the_power() {
    let left = |seed, forgetful: bool, crash| {
        let disk = SimDisk::new(seed);
        disk.set_forgetful(forgetful);
        disk.create_slot(SLOT, SLOT_BYTES, &mut |_| {}).unwrap();
        disk.write_file(&FileName::CheckpointA, b"new").unwrap();
        disk.crash(crash);
        let state = disk.snapshot();
        (state.slots.len(), state.files.len())
    };
    let found: BTreeSet<_> = (0..40).map(|seed| left(seed, true, Crash::Power)).collect();
    assert_eq!(found, BTreeSet::from([(0, 0), (0, 1), (1, 0), (1, 1)]));
    assert!((0..40).all(|seed| left(seed, true, Crash::Kill) == (1, 1)));
    assert!((0..40).all(|seed| left(seed, false, Crash::Power) == (1, 1)));
}

#[test]
fn misdirected_write_lands_in_another_place_and_is_reported_as_good() {
    let places: BTreeSet<u64> = (0..100)
        .map(|seed| {
            let (disk, slot) = disk_with_slot(seed);
            disk.misdirect();
            let (ended, ends) = mpsc::channel();
            slot.submit(0, pages(1, 2), Box::new(move |it| ended.send(it).unwrap()));
            disk.run_until_idle();
            ends.recv().unwrap().unwrap();
            assert_eq!(sectors_of(&disk, 0), 8, "its own place stays as it was");
            let landed = |at: &u64| disk.peek(SLOT, at * PAGE, 1) == [1];
            let place = (0..SLOT_BYTES / PAGE).find(landed).expect("it landed somewhere");
            assert_eq!(disk.peek(SLOT, place * PAGE, 2 * PAGE_BYTES), [1; 2 * PAGE_BYTES]);
            place
        })
        .collect();
    assert!(places.len() > 20, "{places:?}");
}

#[test]
fn stale_read_gives_once_what_was_there_before() {
    let (disk, slot) = disk_with_slot(1);
    for fill in [1, 2] {
        slot.submit(PAGE, pages(fill, 1), ignore());
        disk.run_until_idle();
    }
    let mut buffer = PageBuffer::zeroed(2 * PAGE_BYTES);
    let mut read = || {
        slot.read(PAGE, &mut buffer).unwrap();
        (buffer[0], buffer[PAGE_BYTES])
    };
    disk.read_stale(1);
    assert_eq!([read(), read(), read()], [(2, 0), (1, 0), (2, 0)]);
}

#[test]
fn checkpoints_rolls_and_slots_that_are_used_again_are_counted() {
    let (disk, slot) = disk_with_slot(1);
    slot.write(PAGE, &pages(1, 1)).unwrap();
    slot.submit(2 * PAGE, pages(1, 1), ignore());
    assert_eq!(disk.written(), Written::default(), "a run begins in a new slot, and goes on");
    disk.run_until_idle();
    slot.submit(PAGE, pages(2, 1), ignore());
    assert_eq!(disk.written(), Written { rolls: 1, slots_used_again: 1, ..Written::default() });
    disk.fail_next(OperationKind::WriteFile, io::ErrorKind::Other, Lasting::Once);
    disk.write_file(&FileName::CheckpointA, b"a").expect_err("it fails");
    disk.write_file(&FileName::CheckpointB, b"b").unwrap();
    disk.write_file(&FileName::Index(1), b"i").unwrap();
    assert_eq!(disk.written().checkpoints, 1);
}
