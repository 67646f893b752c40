//! Scenarios in which two rules of recovery meet: what was cut lies beside what rotted, in a place
//! that is used again, or behind openings that were themselves interrupted.

use std::collections::BTreeSet;

use super::*;

fn cuts(notes: &[Note]) -> usize {
    notes.iter().filter(|note| matches!(note, Note::Cut { .. })).count()
}

/// Two commits in flight at once: the second cannot vouch for the first, and no mark follows.
fn acked_without_a_mark(disk: &SimDisk, rig: &mut Rig, bytes: [u8; 2]) {
    let tickets = bytes.map(|byte| {
        let ticket = rig.append(&[(place(0), vec![byte; 70_000])], &[]);
        rig.step();
        ticket
    });
    assert_eq!(disk.in_flight(), 2);
    disk.complete(0);
    disk.complete(0);
    rig.step();
    for ticket in tickets {
        result(ticket).expect("it is decided").expect("it is stored");
    }
}

#[test]
fn a_hole_below_the_mark_is_damage_and_one_above_it_is_where_the_log_ends() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, &[1]);
    let below = acked(&mut rig, &[2]);
    acked(&mut rig, &[3]);
    rig.settle_marked();
    acked_without_a_mark(&disk, &mut rig, [4, 5]);
    let (below, above) = (lies(&disk, below), lies(&disk, Offset(3)));
    let disk = power_cut(&disk, rig);
    rot(&disk, below.slot, below.commit);
    rot(&disk, above.slot, above.commit);
    let mut rig = Rig::open(&disk).unwrap();
    assert_eq!((missing(&rig.notes).len(), cuts(&rig.notes)), (1, 1), "{:?}", rig.notes);
    assert_eq!(first_bytes(&disk), [1, 3]);
    acked(&mut rig, &[6]);
    let disk = power_cut(&disk, rig);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!((missing(&rig.notes).len(), cuts(&rig.notes)), (1, 0), "{:?}", rig.notes);
    assert_eq!(first_bytes(&disk), [1, 3, 6]);
}

#[test]
fn three_openings_that_end_behind_their_opened_keep_the_oldest_cut_out() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    rig.settle_marked();
    acked(&mut rig, b"b");
    let at = lies(&disk, Offset(1));
    let mut disk = power_cut(&disk, rig);
    let before = disk.snapshot();
    disk.break_range(at.slot, at.commit..at.commit + 4096);
    for opening in 0..3 {
        let rig = Rig::open(&disk).unwrap();
        assert_eq!(first_bytes(&disk), *b"a", "opening {opening}");
        disk = power_cut(&disk, rig);
        // None of them came to its checkpoints.
        disk.restore_file(&before, &FileName::CheckpointA);
        disk.restore_file(&before, &FileName::CheckpointB);
    }
    // The commit that the first one cut is whole, and can be read again.
    disk.heal();
    let mut rig = Rig::open(&disk).unwrap();
    assert_eq!((missing(&rig.notes), cuts(&rig.notes)), (Vec::new(), 0), "{:?}", rig.notes);
    assert_eq!(first_bytes(&disk), *b"a");
    assert_eq!(acked(&mut rig, b"c"), Offset(1));
    let disk = power_cut(&disk, rig);
    drop(Rig::open(&disk).unwrap());
    assert_eq!(first_bytes(&disk), *b"ac");
}

#[test]
fn a_void_body_under_the_header_of_a_new_commit_of_its_shape_is_cut() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    rig.settle_marked();
    acked(&mut rig, &[7; 300]);
    let void = lies(&disk, Offset(1));
    let disk = power_cut(&disk, rig);
    let body = disk.peek(void.slot, void.batch, void.batch_bytes);
    disk.corrupt(void.slot, void.batch + 100, &[9; 64]);
    let mut rig = Rig::open(&disk).unwrap();
    assert_eq!(cuts(&rig.notes), 1, "{:?}", rig.notes);
    // The same offset, partition and length; of the new commit only the header lands.
    disk.advance(Duration::from_secs(1));
    acked(&mut rig, &[8; 300]);
    let new = lies(&disk, Offset(1));
    assert_eq!(new.batch_bytes, void.batch_bytes);
    let disk = power_cut(&disk, rig);
    disk.corrupt(new.slot, new.batch, &body);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(cuts(&rig.notes), 1, "{:?}", rig.notes);
    assert_eq!(first_bytes(&disk), *b"a");
}

#[test]
fn a_write_of_a_killed_process_lands_before_recovery_looks() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, &[1]);
    rig.settle_marked();
    let late = rig.append(&[(place(0), vec![2; 300])], &[]);
    rig.step();
    disk.crash(Crash::Kill);
    drop((late, rig));
    let disk = disk.reboot();
    assert_eq!(disk.in_flight(), 1);
    let mut rig = Rig::open(&disk).unwrap();
    assert_eq!((disk.in_flight(), first_bytes(&disk)), (0, vec![1, 2]));
    acked(&mut rig, &[3]);
    let disk = power_cut(&disk, rig);
    drop(Rig::open(&disk).unwrap());
    assert_eq!(first_bytes(&disk), [1, 2, 3]);
}

/// A log that has gone round its slots, and is closed.
fn gone_round() -> SimDisk {
    let disk = SimDisk::new(1);
    let mut rig = Rig::open_with(&disk, &dropping(5)).unwrap();
    rig.make_topic();
    for number in 0..90_u8 {
        acked(&mut rig, &vec![number; 150_000]);
    }
    rig.settle_marked();
    power_cut(&disk, rig)
}

#[test]
fn a_power_cut_at_any_operation_while_a_freed_slot_is_prepared_anew_loses_nothing() {
    let before = gone_round();
    for nth in 1..130 {
        let disk = copy(&before);
        let mut rig = Rig::open_with(&disk, &dropping(5)).unwrap();
        let last = readable(&disk).last().expect("there are records").0;
        disk.crash_at_operation(nth, Crash::Power);
        let mut acked = last;
        for number in 0..40_u8 {
            let ticket = rig.append(&[(place(0), vec![number; 150_000])], &[]);
            for _ in 0..6 {
                rig.step();
                rig.keep();
                disk.step();
            }
            let Some(Ok(stored)) = result(ticket) else { break };
            acked = stored.offset(0).0;
        }
        let disk = power_cut(&disk, rig);
        disk.heal();
        let rig = Rig::open_with(&disk, &dropping(5)).unwrap();
        assert_eq!(missing(&rig.notes), [], "operation {nth}");
        let found: Vec<u64> = readable(&disk).iter().map(|(offset, _)| *offset).collect();
        assert!(found.last() >= Some(&acked), "operation {nth}: {acked} is gone");
        assert!(found.windows(2).all(|pair| pair[0] + 1 == pair[1]), "operation {nth}: a hole");
    }
}

#[test]
fn a_rotten_header_of_a_free_slot_costs_nothing() {
    let disk = gone_round();
    let rig = Rig::open_with(&disk, &dropping(5)).unwrap();
    let in_use = slots_in_use(&rig);
    let disk = power_cut(&disk, rig);
    let before = readable(&disk);
    let slots = disk.journal_folder().unwrap().slots.into_iter().map(|(slot, _)| slot);
    let free: Vec<SlotId> = slots.filter(|slot| !in_use.contains(slot)).collect();
    assert!(!free.is_empty(), "one slot is kept ahead");
    for slot in free {
        let disk = copy(&disk);
        disk.corrupt(slot, 100, &[1; 8]);
        let mut rig = Rig::open_with(&disk, &dropping(5)).unwrap();
        assert_eq!(missing(&rig.notes), [], "{slot}");
        assert_eq!(readable(&disk), before, "{slot}");
        acked(&mut rig, b"next");
    }
}

#[test]
fn every_life_of_a_slot_has_a_salt_of_its_own() {
    let disk = SimDisk::new(1);
    let mut rig = Rig::open_with(&disk, &dropping(5)).unwrap();
    rig.make_topic();
    let mut lives = BTreeMap::new();
    for number in 0..120_u8 {
        acked(&mut rig, &vec![number; 150_000]);
        let ids = rig.client.published.places.read().segment_ids();
        lives.extend(ids.iter().map(|id| (id.number, (id.slot, id.salt.0))));
    }
    let slots: BTreeSet<SlotId> = lives.values().map(|(slot, _)| *slot).collect();
    let salts: BTreeSet<u64> = lives.values().map(|(_, salt)| *salt).collect();
    assert!(lives.len() > slots.len() + 3, "slots were used again: {lives:?}");
    assert_eq!(salts.len(), lives.len(), "{lives:?}");
}
