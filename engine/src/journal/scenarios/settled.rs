//! Packs and checkpoints: which of them serve when some are torn, rotten or not named yet.

use tracklog_log::{Fetch, FetchMode, Log};

use super::*;
use crate::OfflineLog;
use crate::disk::PackId;
use crate::disk::simulated::Snapshot;
use crate::settled::erasure::{self, RequestId};

/// All records that can be read, and where each partition ends.
type Readable = (BTreeMap<(PartitionId, u64), Vec<u8>>, BTreeMap<PartitionId, Offset>);

/// Those of the topic alone.
type Told = BTreeMap<(PartitionId, u64), Vec<u8>>;

/// Every full segment is settled when the test says so.
fn settling() -> Options {
    Options { hot_bytes: Some(0), ..options() }
}

/// A node with the topic and `segments` full segments, none settled.
fn node_with_segments(segments: usize) -> (SimDisk, Rig) {
    let disk = SimDisk::new(1);
    let mut rig = Rig::open_with(&disk, &settling()).unwrap();
    rig.make_topic();
    fill_segments(&mut rig, segments + 1);
    rig.settle_marked();
    (disk, rig)
}

/// Settles one segment after the other until `packs` are there, and lets nobody merge them.
fn node_with_packs(packs: usize) -> (SimDisk, Rig) {
    let disk = SimDisk::new(1);
    let mut rig = Rig::open_with(&disk, &settling()).unwrap();
    rig.make_topic();
    while packs_of(&rig).len() < packs {
        fill_segments(&mut rig, 2);
        assert!(rig.stepper.run_settler());
        rig.settle();
    }
    rig.settle_marked();
    (disk, rig)
}

fn packs_of(rig: &Rig) -> Vec<PackId> {
    rig.client.published.places.read().packs().into_iter().map(|head| head.id).collect()
}

fn files(disk: &SimDisk) -> Vec<PackId> {
    disk.packs_folder().unwrap().into_iter().map(|(pack, _)| pack).collect()
}

/// What a log on this disk reads as, opened by whoever only looks.
fn reads(disk: &SimDisk) -> Readable {
    let log = OfflineLog::open_on(Arc::new(disk.clone())).expect("it opens").expect("a log");
    let (mut records, mut ends) = (BTreeMap::new(), BTreeMap::new());
    for partition in log.topics().iter().flat_map(|topic| topic.partitions()) {
        let extent = log.extent(partition).expect("it is there");
        ends.insert(partition, extent.end);
        let mut next = extent.start;
        while next < extent.end {
            let from = vec![(partition, next)];
            let fetch = Fetch { from, bytes_max: 4 << 20, wait: false, mode: FetchMode::Replay };
            let part = block_on(log.fetch(fetch)).expect("it reads").partitions.remove(0);
            for batch in &part.batches {
                for (offset, record) in batch.records() {
                    let before = records.insert((partition, offset.0), record.bytes().to_vec());
                    assert!(before.is_none(), "offset {offset} is read twice");
                }
            }
            assert!(part.next > next);
            next = part.next;
        }
    }
    (records, ends)
}

/// The records that can be read, but for the catalog's own.
fn told(disk: &SimDisk) -> Told {
    let mut records = reads(disk).0;
    records.retain(|(partition, _), _| *partition != catalog::PARTITION);
    records
}

const CHECKPOINTS: [FileName; 2] = [FileName::CheckpointA, FileName::CheckpointB];

fn rot_file(disk: &SimDisk, file: &FileName, at: usize) {
    let mut bytes = disk.read_file(file).unwrap();
    let at = at.min(bytes.len().saturating_sub(1));
    // One that a crash left empty is no better than a rotten one.
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0x55;
        disk.set_file(file, Some(bytes));
    }
}

fn rot_checkpoints(disk: &SimDisk) {
    rot_those(disk, &CHECKPOINTS);
}

/// Those of these checkpoints that are there rot.
fn rot_those(disk: &SimDisk, checkpoints: &[FileName]) {
    for file in checkpoints.iter().filter(|file| disk.read_file(file).is_ok()) {
        rot_file(disk, file, 40);
    }
}

fn is_adopted(rig: &Rig, pack: PackId) -> bool {
    rig.notes.contains(&Note::Adopted { pack })
}

/// A node on which a pack of two segments was written, and nobody came to name it.
fn unnamed() -> (SimDisk, Readable, PackId) {
    let (disk, mut rig) = node_with_segments(2);
    let records = reads(&disk);
    assert!(rig.stepper.run_settler(), "there is something to settle");
    let disk = power_cut(&disk, rig);
    let pack = *files(&disk).first().expect("it was written");
    assert_eq!(reads(&disk), records);
    (disk, records, pack)
}

#[test]
fn a_pack_that_was_never_named_goes_where_all_that_it_holds_is_in_the_journal() {
    let (disk, records, pack) = unnamed();
    let rig = Rig::open_with(&disk, &settling()).unwrap();
    assert!(!is_adopted(&rig, pack) && packs_of(&rig).is_empty());
    assert_eq!(files(&disk), []);
    drop(rig);
    assert_eq!(reads(&disk), records);
}

#[test]
fn a_pack_that_was_never_named_serves_where_a_slot_of_its_range_is_damaged() {
    let (disk, records, pack) = unnamed();
    let before = disk.snapshot();
    for offset in [Offset(2), Offset(15)] {
        let at = lies(&disk, offset);
        // The header of its commit, or its batch.
        for at_byte in [at.commit, at.batch + 100] {
            rot(&disk, at.slot, at_byte);
            let rig = Rig::open_with(&disk, &settling()).unwrap();
            assert!(is_adopted(&rig, pack), "{:?}", rig.notes);
            assert_eq!((missing(&rig.notes), packs_of(&rig)), (vec![], vec![pack]));
            drop(rig);
            assert_eq!(reads(&disk), records);
            let rig = Rig::open_with(&disk, &settling()).unwrap();
            assert_eq!(rig.notes, [], "it is named from then on");
            drop(rig);
            disk.restore(&before);
        }
    }
}

#[test]
fn a_pack_that_was_never_named_takes_no_end_back_that_damage_kept_out_of_it() {
    for is_header in [true, false] {
        let disk = SimDisk::new(1);
        let mut rig = Rig::open_with(&disk, &settling()).unwrap();
        rig.make_topic();
        drop(rig.append(&[(place(1), b"the only one".to_vec())], &[]));
        fill_segments(&mut rig, 3);
        rig.settle_marked();
        let ends = reads(&disk).1;
        let at = lies_in(&disk, place(1), Offset(0));
        rot(&disk, at.slot, if is_header { at.commit } else { at.batch });
        assert!(rig.stepper.run_settler(), "there is something to settle");
        let disk = power_cut(&disk, rig);
        let pack = *files(&disk).first().expect("it was written");
        let mut rig = Rig::open_with(&disk, &settling()).unwrap();
        assert!(is_adopted(&rig, pack), "{:?}", rig.notes);
        assert_eq!(rig.end(1), Offset(1), "an offset would be given twice");
        let ticket = rig.append(&[(place(1), b"the next".to_vec())], &[]);
        rig.settle_marked();
        assert_eq!(block_on(ticket).expect("it is stored").offset(0), Offset(1));
        drop(rig);
        assert!(ends.iter().all(|(partition, end)| reads(&disk).1[partition] >= *end));
    }
}

#[test]
fn a_slot_in_the_range_of_a_pack_that_was_never_named_is_lost_and_nothing_with_it() {
    let (disk, records, pack) = unnamed();
    let slot = lies(&disk, Offset(2)).slot;
    remove(&disk, slot);
    let rig = Rig::open_with(&disk, &settling()).unwrap();
    assert!(is_adopted(&rig, pack), "{:?}", rig.notes);
    let disk = power_cut(&disk, rig);
    assert_eq!(reads(&disk), records);
}

#[test]
fn a_pack_that_is_not_whole_takes_no_place_and_stays_while_it_may_be_needed() {
    let (disk, records, pack) = unnamed();
    rot_file(&disk, &FileName::Pack(pack), 100);
    let before = disk.snapshot();
    let rig = Rig::open_with(&disk, &settling()).unwrap();
    assert!(packs_of(&rig).is_empty() && files(&disk).is_empty());
    drop(rig);
    assert_eq!(reads(&disk), records);
    disk.restore(&before);
    let at = lies(&disk, Offset(2));
    rot(&disk, at.slot, at.commit);
    let rig = Rig::open_with(&disk, &settling()).unwrap();
    assert!(packs_of(&rig).is_empty() && missing(&rig.notes).len() == 1, "{:?}", rig.notes);
    assert_eq!(files(&disk), [pack]);
}

#[test]
fn both_checkpoints_rot_and_packs_and_journal_add_up_to_the_same_log() {
    let (disk, mut rig) = node_with_packs(3);
    acked(&mut rig, b"behind the packs");
    rig.settle_marked();
    let mut disk = power_cut(&disk, rig);
    let mut records = reads(&disk);
    for run in 0..3_u8 {
        rot_checkpoints(&disk);
        assert_eq!(reads(&disk), records, "run {run}");
        let mut rig = Rig::open_with(&disk, &settling()).unwrap();
        let rebuilt = rig.notes.iter().any(|note| matches!(note, Note::Rebuilt { .. }));
        assert!(rebuilt, "{:?}", rig.notes);
        assert_eq!(acked(&mut rig, &[run]), records.1[&place(0)], "offsets go on");
        // Runs end in packs, too.
        fill_segments(&mut rig, 3);
        assert!(rig.stepper.run_settler());
        rig.settle_marked();
        disk = power_cut(&disk, rig);
        records = reads(&disk);
    }
}

#[test]
fn a_pack_that_is_missed_without_checkpoints_is_said_to_be_missing() {
    let (disk, mut rig) = node_with_packs(3);
    let packs = packs_of(&rig);
    // Until its slots are used again the journal has what is in the last one.
    fill_segments(&mut rig, 6);
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    rot_checkpoints(&disk);
    let before = disk.snapshot();
    for pack in packs {
        disk.set_file(&FileName::Pack(pack), None);
        let told = recover(&disk, false).map(|_| ()).unwrap_err().to_string();
        assert!(told.contains("neither in the journal nor in a pack"), "{told}");
        disk.restore(&before);
        rot_file(&disk, &FileName::Pack(pack), usize::MAX);
        recover(&disk, false).map(|_| ()).expect_err("it cannot be read");
        disk.restore(&before);
    }
}

#[test]
fn without_checkpoints_the_last_segment_is_missed_too() {
    let (disk, rig) = node_with_packs(1);
    let slots = slots_in_use(&rig);
    let disk = power_cut(&disk, rig);
    rot_checkpoints(&disk);
    slots.into_iter().for_each(|slot| remove(&disk, slot));
    // Slots that were prepared, or freed, are left; what the last segment held is vouched for.
    recover(&disk, false).map(|_| ()).expect_err("acked commits are gone");
}

#[test]
fn the_newest_checkpoint_rots_after_slots_of_a_pack_were_used_again() {
    let (disk, mut rig) = node_with_packs(2);
    fill_segments(&mut rig, 6);
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    let (records, before) = (reads(&disk), disk.snapshot());
    for file in &CHECKPOINTS {
        rot_file(&disk, file, 40);
        assert_eq!(reads(&disk), records, "without {}", file.path());
        let rig = Rig::open_with(&disk, &settling()).unwrap();
        assert_eq!(missing(&rig.notes), []);
        drop(rig);
        assert_eq!(reads(&disk), records, "without {}", file.path());
        disk.restore(&before);
    }
}

/// Eight packs, and the one that they became, which nobody came to name.
fn merged() -> (SimDisk, Readable, Vec<PackId>, PackId) {
    let (disk, mut rig) = node_with_packs(8);
    let packs = packs_of(&rig);
    let records = reads(&disk);
    assert!(rig.stepper.run_settler(), "eight are merged");
    let disk = power_cut(&disk, rig);
    let wide = PackId { first: packs[0].first, last: packs[7].last, generation: 1 };
    assert_eq!(files(&disk).len(), 9);
    (disk, records, packs, wide)
}

#[test]
fn a_wider_pack_beside_those_inside_of_its_range_goes_while_checkpoints_name_these() {
    let (disk, records, packs, wide) = merged();
    let rig = Rig::open_with(&disk, &settling()).unwrap();
    assert_eq!((packs_of(&rig), files(&disk)), (packs, files(&disk)));
    assert!(!files(&disk).contains(&wide));
    drop(rig);
    assert_eq!(reads(&disk), records);
}

#[test]
fn a_wider_pack_serves_where_one_inside_of_its_range_cannot_be_read() {
    let (disk, records, packs, wide) = merged();
    let before = disk.snapshot();
    // A frame, or the trailer.
    for at in [100, usize::MAX] {
        rot_file(&disk, &FileName::Pack(packs[3]), at);
        let rig = Rig::open_with(&disk, &settling()).unwrap();
        assert!(is_adopted(&rig, wide), "{:?}", rig.notes);
        assert_eq!((packs_of(&rig), files(&disk)), (vec![wide], vec![wide]));
        drop(rig);
        assert_eq!(reads(&disk), records);
        disk.restore(&before);
    }
}

#[test]
fn without_checkpoints_the_widest_pack_takes_the_place_of_those_inside_of_its_range() {
    let (disk, records, packs, wide) = merged();
    rot_checkpoints(&disk);
    let before = disk.snapshot();
    let rig = Rig::open_with(&disk, &settling()).unwrap();
    assert_eq!((packs_of(&rig), files(&disk)), (vec![wide], vec![wide]));
    drop(rig);
    assert_eq!(reads(&disk), records);
    disk.restore(&before);
    // Of one that a crash left unfinished the trailer may be there, and its frames not.
    rot_file(&disk, &FileName::Pack(wide), 100);
    let rig = Rig::open_with(&disk, &settling()).unwrap();
    assert_eq!(packs_of(&rig), packs);
    drop(rig);
    assert_eq!(reads(&disk), records);
}

/// Which checkpoints may be rotten at an opening.
const ROTTEN: [&[FileName]; 4] =
    [&[], &[FileName::CheckpointA], &[FileName::CheckpointB], &CHECKPOINTS];

/// A crash at every operation while the keeper names what was settled or merged last; then each
/// checkpoint, or both, are rotten.
fn named_with_a_crash_anywhere(options: &Options, make: impl Fn() -> (SimDisk, Rig)) {
    for nth in 1.. {
        let (disk, mut rig) = make();
        let records = reads(&disk);
        assert!(rig.stepper.run_settler());
        rig.step();
        disk.crash_at_operation(nth, Crash::Power);
        while rig.keep() {}
        let is_over = disk.free_bytes().is_ok();
        let disk = power_cut(&disk, rig);
        disk.heal();
        let before = disk.snapshot();
        for rotten in ROTTEN {
            rot_those(&disk, rotten);
            assert_eq!(reads(&disk), records, "{nth} without {rotten:?}");
            let rig = Rig::open_with(&disk, options).unwrap();
            assert_eq!(missing(&rig.notes), [], "{nth} without {rotten:?}");
            drop(rig);
            assert_eq!(reads(&disk), records, "{nth} without {rotten:?}, opened again");
            disk.restore(&before);
        }
        if is_over {
            assert!(nth > 3, "there were operations to crash at");
            return;
        }
    }
}

#[test]
fn a_crash_anywhere_while_a_pack_is_named_loses_nothing_whichever_checkpoints_rot() {
    named_with_a_crash_anywhere(&settling(), || node_with_segments(2));
}

#[test]
fn a_crash_anywhere_while_a_merged_pack_is_named_loses_nothing_whichever_checkpoints_rot() {
    named_with_a_crash_anywhere(&settling(), || node_with_packs(8));
}

#[test]
fn a_crash_anywhere_while_segments_go_that_nobody_can_read_loses_nothing_that_stays() {
    let never = Options { hot_bytes: None, ..options() };
    let node = || {
        let disk = SimDisk::new(1);
        let mut rig = Rig::open_with(&disk, &never).unwrap();
        rig.make_topic();
        drop(rig.append(&[(place(1), b"stays".to_vec())], &[]));
        fill_segments(&mut rig, 3);
        let trimmed_to = rig.end(0).0.to_le_bytes();
        rig.tell_catalog(&catalog::trim_key(place(0)), &trimmed_to);
        rig.settle_marked();
        assert_eq!(told(&disk).values().collect::<Vec<_>>(), [b"stays"]);
        (disk, rig)
    };
    named_with_a_crash_anywhere(&never, node);
    let (_, mut rig) = node();
    let segments = |rig: &Rig| rig.client.published.places.read().segment_ids().len();
    assert_eq!(segments(&rig), 3);
    while rig.stepper.run_settler() {
        rig.settle();
    }
    assert_eq!((segments(&rig), packs_of(&rig).len()), (1, 1), "what stays lies in a pack");
}

/// A node with packs, and slots of theirs used again. Of all but the first, which holds the topic's own
/// record, nobody can read anything any more.
fn node_with_spent_packs() -> (SimDisk, Rig) {
    let (disk, mut rig) = node_with_packs(4);
    let trimmed_to = rig.end(0).0.to_le_bytes();
    rig.tell_catalog(&catalog::trim_key(place(0)), &trimmed_to);
    rig.settle_marked();
    (disk, rig)
}

#[test]
fn a_crash_anywhere_while_a_spent_pack_is_emptied_leaves_no_gap_whichever_checkpoints_rot() {
    named_with_a_crash_anywhere(&settling(), node_with_spent_packs);
}

#[test]
fn what_was_given_up_last_is_emptied_and_goes_when_the_next_pack_tells_of_it() {
    let (disk, mut rig) = node_with_spent_packs();
    let spent = packs_of(&rig).split_off(1);
    let mut turns = 0;
    let mut take_turns = |rig: &mut Rig| {
        while rig.stepper.run_settler() {
            rig.settle_marked();
            turns += 1;
            let other = SimDisk::new(1);
            other.restore(&disk.snapshot());
            rot_checkpoints(&other);
            assert_eq!(reads(&other), reads(&disk), "after turn {turns}");
        }
    };
    take_turns(&mut rig);
    // Each tells of those before it.
    let emptied = rig.client.published.places.read().packs().split_off(1);
    assert!(matches!(&emptied[..], [last] if last.batches == 0), "{emptied:?}");
    // The next pack tells of them.
    fill_segments(&mut rig, 2);
    take_turns(&mut rig);
    let left = packs_of(&rig);
    let is_gone =
        |pack: &PackId| left.iter().all(|it| it.last < pack.first || it.first > pack.last);
    assert!(spent.iter().all(is_gone), "of {spent:?} there is {left:?}");
}

#[test]
fn a_run_that_was_given_up_between_packs_that_became_one_is_not_missing_without_checkpoints() {
    let mut disk = SimDisk::new(1);
    let mut wide = None;
    for run in 1..14 {
        let mut rig = Rig::open_with(&disk, &settling()).unwrap();
        match run {
            1 => rig.make_topic(),
            4 => drop(rig.append(&[(place(1), b"goes".to_vec())], &[])),
            5 => {
                rig.settle();
                let trimmed_to = rig.end(1).0.to_le_bytes();
                rig.tell_catalog(&catalog::trim_key(place(1)), &trimmed_to);
            }
            _ => drop(rig.append(&[(place(0), b"stays".to_vec())], &[])),
        }
        rig.settle_marked();
        while rig.stepper.run_settler() {
            rig.settle_marked();
        }
        wide = packs_of(&rig).into_iter().find(|pack| pack.first < 4 && pack.last > 4).or(wide);
        disk = power_cut(&disk, rig);
    }
    let wide = wide.expect("packs of the runs before and behind became one");
    assert!(files(&disk).contains(&wide));
    let records = reads(&disk);
    rot_checkpoints(&disk);
    assert_eq!(reads(&disk), records);
    let rig = Rig::open_with(&disk, &settling()).unwrap();
    assert_eq!(missing(&rig.notes), []);
}

/// Has one record of partition 0 erased.
fn erase(rig: &mut Rig, offset: Offset) {
    let one = tracklog_log::Erase { partition: place(0), from: offset, to: offset.plus(1) };
    for (key, value) in erasure::encode(RequestId(7), &[one]) {
        rig.tell_catalog(&key, &value);
    }
}

fn is_erasing(rig: &Rig) -> bool {
    !rig.client.published.topics.read().catalog.erasures().is_empty()
}

/// Lets the log go on until nothing is to be erased any more.
fn go_on_erasing(rig: &mut Rig) {
    for _ in 0..200 {
        rig.settle();
        if !rig.stepper.run_settler() && !is_erasing(rig) {
            return rig.settle_marked();
        }
    }
    panic!("it is never erased");
}

/// The packs that a checkpoint on the disk names; of one that cannot be read any.
fn is_named(disk: &SimDisk, pack: PackId) -> bool {
    CHECKPOINTS.iter().any(|file| {
        let bytes = disk.read_file(file).unwrap_or_default();
        Checkpoint::decode(&bytes).ok().is_none_or(|it| it.packs.iter().any(|head| head.id == pack))
    })
}

/// After a crash, whichever checkpoints rot: all but one record is there, and that one is gone
/// from when nothing named what it lay in, and once it is said to be erased it is gone for good.
fn stays_erased(mut disk: SimDisk, (kept, erased): (&Told, Offset), is_gone: bool, when: &str) {
    let key = (place(0), erased.0);
    let before = disk.snapshot();
    for opened in ROTTEN {
        rot_those(&disk, opened);
        if let Err(refused) = recover(&disk, false) {
            // A slot that was being prepared: without checkpoints nobody knows that it was spare.
            let refused = refused.to_string();
            assert!(
                opened == CHECKPOINTS && refused.contains("neither is the header"),
                "{refused}"
            );
            disk.restore(&before);
            continue;
        }
        let mut records = told(&disk);
        let there = records.remove(&key);
        assert!(there.is_none() || !is_gone, "{when} without {opened:?}: it is back");
        assert!(records == *kept, "{when} without {opened:?}: the others are as they were");
        let mut rig = Rig::open_with(&disk, &erasing()).unwrap();
        assert_eq!(missing(&rig.notes), [], "{when} without {opened:?}");
        go_on_erasing(&mut rig);
        disk = power_cut(&disk, rig);
        for rotten in ROTTEN {
            let before = disk.snapshot();
            rot_those(&disk, rotten);
            let is_same = told(&disk) == *kept;
            assert!(is_same, "{when}, opened without {opened:?}, erased, and without {rotten:?}");
            disk.restore(&before);
        }
        disk.restore(&before);
    }
}

/// Packs are read from the disk whenever they are looked into.
fn erasing() -> Options {
    Options { index_bytes: 0, ..settling() }
}

/// A node with packs, of which the second holds a record that is to be erased; and all else.
fn node_with_a_doomed_record(packs: usize) -> (SimDisk, Rig, PackId, Offset, Told) {
    let (disk, rig) = node_with_packs(packs);
    let (pack, erased) = {
        let places = rig.client.published.places.read();
        let (unread, head) = places.settled()[1];
        let index = places.index(unread.home).expect("it was just made");
        let share = index.share(place(0)).expect("there are records in it");
        (head.id, share.places[0].base_offset.plus(1))
    };
    let disk = power_cut(&disk, rig);
    let rig = Rig::open_with(&disk, &erasing()).unwrap();
    let mut kept = told(&disk);
    kept.remove(&(place(0), erased.0)).expect("it is there");
    (disk, rig, pack, erased, kept)
}

#[test]
fn a_crash_anywhere_while_a_pack_is_written_anew_lets_nothing_come_back_that_was_erased() {
    for nth in 1.. {
        let (disk, mut rig, pack, erased, kept) = node_with_a_doomed_record(2);
        erase(&mut rig, erased);
        disk.crash_at_operation(nth, Crash::Power);
        let is_over = (0..200).any(|_| {
            rig.settle();
            !rig.stepper.run_settler() && (!is_erasing(&rig) || disk.free_bytes().is_err())
        });
        assert!(is_over, "it ends, or the machine dies");
        let is_alive = disk.free_bytes().is_ok();
        let disk = power_cut(&disk, rig);
        disk.heal();
        let is_gone = !is_named(&disk, pack);
        assert!(is_gone || !is_alive);
        stays_erased(disk, (&kept, erased), is_gone, &format!("crash {nth}"));
        if is_alive {
            assert!(nth > 10, "there were operations to crash at");
            return;
        }
    }
}

/// Erasing waits for a pack that cannot be read. What is merged meanwhile leaves the record out.
#[test]
fn a_crash_anywhere_while_a_merge_without_the_erased_is_named_lets_nothing_come_back() {
    for nth in 1.. {
        let (disk, mut rig, pack, erased, kept) = node_with_a_doomed_record(9);
        let first = FileName::Pack(packs_of(&rig)[0]);
        let good = disk.read_file(&first).unwrap();
        rot_file(&disk, &first, usize::MAX);
        erase(&mut rig, erased);
        let is_merged = (0..50).any(|_| {
            rig.settle();
            rig.stepper.run_settler();
            rig.step();
            !packs_of(&rig).contains(&pack)
        });
        assert!(is_merged && is_erasing(&rig) && packs_of(&rig).len() < 9);
        disk.crash_at_operation(nth, Crash::Power);
        while rig.keep() {}
        let is_alive = disk.free_bytes().is_ok();
        let disk = power_cut(&disk, rig);
        disk.heal();
        disk.set_file(&first, Some(good));
        let is_gone = !is_named(&disk, pack);
        assert!(is_gone || !is_alive);
        stays_erased(disk, (&kept, erased), is_gone, &format!("crash {nth}"));
        if is_alive {
            assert!(nth > 3, "there were operations to crash at");
            return;
        }
    }
}

/// A disk on which the newer checkpoint names what was made last, and the older one its sources.
fn named_once(make: impl Fn() -> (SimDisk, Rig)) -> (SimDisk, Readable, PackId) {
    let (disk, mut rig) = make();
    let records = reads(&disk);
    assert!(rig.stepper.run_settler());
    rig.step();
    let wide = *packs_of(&rig).first().expect("it is listed");
    let before = disk.snapshot();
    while rig.keep() {}
    let sequence = |file: &FileName| {
        let bytes = disk.read_file(file).expect("it is there");
        Checkpoint::decode(&bytes).expect("it is good").sequence
    };
    let first = CHECKPOINTS.iter().min_by_key(|file| sequence(file)).expect("there are two");
    let named = disk.snapshot();
    disk.restore(&before);
    disk.restore_file(&named, first);
    (power_cut(&disk, rig), records, wide)
}

#[test]
fn what_only_the_older_checkpoint_names_serves_for_a_pack_that_cannot_be_read() {
    for make in [|| node_with_segments(2), || node_with_packs(8)] {
        let (disk, records, wide) = named_once(make);
        assert_eq!(reads(&disk), records);
        rot_file(&disk, &FileName::Pack(wide), usize::MAX);
        let rig = Rig::open_with(&disk, &settling()).unwrap();
        assert_eq!(rig.notes, [Note::StoodIn { pack: wide }]);
        assert_eq!(files(&disk).contains(&wide), packs_of(&rig).contains(&wide));
        let disk = power_cut(&disk, rig);
        assert_eq!(reads(&disk), records);
    }
}

#[test]
fn damage_in_a_range_that_is_settled_stays_told_with_and_without_checkpoints() {
    let (disk, rig) = node_with_segments(2);
    let disk = power_cut(&disk, rig);
    let at = lies(&disk, Offset(3));
    rot(&disk, at.slot, at.commit);
    let mut rig = Rig::open_with(&disk, &settling()).unwrap();
    let [(first, last, false)] = missing(&rig.notes)[..] else { panic!("{:?}", rig.notes) };
    fill_segments(&mut rig, 2);
    while rig.stepper.run_settler() {
        rig.settle();
    }
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    let (records, before): (Readable, Snapshot) = (reads(&disk), disk.snapshot());
    assert!(!files(&disk).is_empty());
    assert!(!records.0.contains_key(&(place(0), 3)) && records.0.contains_key(&(place(0), 4)));
    for rots in [false, true] {
        if rots {
            rot_checkpoints(&disk);
        }
        let rig = Rig::open_with(&disk, &settling()).unwrap();
        assert_eq!(missing(&rig.notes), [(first, last, true)], "rotten checkpoints: {rots}");
        drop(rig);
        assert_eq!(reads(&disk), records, "rotten checkpoints: {rots}");
        disk.restore(&before);
    }
}

#[test]
fn what_the_disk_refuses_until_all_else_was_read_is_in_the_pack() {
    // Four reads ask for it each time. With the eighth failure it was refused behind all else, too.
    for failures in 1..8 {
        let (disk, mut rig) = node_with_segments(2);
        let at = lies(&disk, Offset(3));
        disk.break_range_for(at.slot, at.commit..at.commit + 4096, failures);
        for _ in 0..3 {
            let segments = slots_in_use(&rig).len();
            fill_segments(&mut rig, segments + 1);
            while rig.stepper.run_settler() {
                rig.settle();
            }
        }
        rig.settle_marked();
        let disk = power_cut(&disk, rig);
        assert!(!files(&disk).is_empty(), "{failures} failures");
        let (records, ends) = reads(&disk);
        let there = records.keys().filter(|(partition, _)| *partition == place(0)).count();
        assert_eq!(there as u64, ends[&place(0)].0, "{failures} failures");
    }
}

#[test]
fn where_only_checkpoints_knew_how_far_damage_went_no_offset_is_given_twice_without_them() {
    let (disk, mut rig) = node_with_packs(1);
    let lost = acked(&mut rig, b"lost");
    rig.settle_marked();
    let at = lies(&disk, lost);
    // The last checkpoint of a run stands at its end.
    rig.stop();
    let disk = power_cut_again(&disk);
    rot(&disk, at.slot, at.commit);
    let rig = Rig::open_with(&disk, &settling()).unwrap();
    assert_eq!(missing(&rig.notes).len(), 1);
    assert_eq!(rig.end(0), lost.plus(1), "that is known, and nothing is skipped");
    let disk = power_cut(&disk, rig);
    rot_checkpoints(&disk);
    let mut rig = Rig::open_with(&disk, &settling()).unwrap();
    let next = acked(&mut rig, b"next");
    assert!(next > lost, "{next} was given at {lost}");
    // And it is skipped for once.
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    let rig = Rig::open_with(&disk, &settling()).unwrap();
    assert_eq!(rig.end(0), next.plus(1));
}
