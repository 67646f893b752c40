//! Where a log ends when its last commit is bad, and which checkpoint tells.

use super::*;

fn values(disk: &SimDisk) -> Vec<u8> {
    readable(disk).iter().map(|(_, bytes)| bytes[0]).collect()
}

#[test]
fn a_commit_above_the_mark_with_a_good_header_and_a_bad_later_page_is_cut() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    rig.settle_marked();
    let last = acked(&mut rig, &vec![b'b'; 70_000]);
    let at = lies(&disk, last);
    let mut disk = power_cut(&disk, rig);
    disk.corrupt(at.slot, at.batch + 40_000, &[9; 512]);
    for _ in 0..2 {
        let rig = Rig::open(&disk).unwrap();
        assert_eq!(values(&disk), b"a");
        disk = power_cut(&disk, rig);
    }
}

#[test]
fn a_bad_last_commit_that_nothing_vouches_for_is_cut_and_its_offset_given_again() {
    let (disk, mut rig) = node(1);
    acked(&mut rig, b"a");
    rig.settle_marked();
    let last = acked(&mut rig, b"b");
    let at = lies(&disk, last);
    let disk = power_cut(&disk, rig);
    rot(&disk, at.slot, at.commit);
    let mut rig = Rig::open(&disk).unwrap();
    assert_eq!(missing(&rig.notes), []);
    assert_eq!(acked(&mut rig, b"c"), last);
}

/// A log that has gone round in five slots, whose checkpoints were written on the way.
fn gone_round() -> (SimDisk, Rig, Options) {
    let disk = SimDisk::new(1);
    let options = Options {
        journal_bytes_max: Some(5 * SLOT_BYTES),
        when_full: crate::options::WhenFull::DropOldest,
        ..options()
    };
    let mut rig = Rig::open_with(&disk, &options).unwrap();
    rig.make_topic();
    for number in 0..100_u8 {
        acked(&mut rig, &vec![number; 150_000]);
        disk.advance(Duration::from_secs(1));
    }
    rig.settle_marked();
    (disk, rig, options)
}

#[test]
fn the_newest_checkpoint_may_rot_after_slots_were_used_again() {
    let (disk, rig, options) = gone_round();
    let disk = power_cut(&disk, rig);
    let before = readable(&disk);
    assert!(before[0].0 > 0, "the oldest were given up");
    for file in [FileName::CheckpointA, FileName::CheckpointB] {
        let good = disk.read_file(&file).unwrap();
        let mut bad = good.clone();
        bad[40] ^= 1;
        disk.set_file(&file, Some(bad));
        assert_eq!(readable(&disk), before, "without {}", file.path());
        disk.set_file(&file, Some(good));
    }
    let rig = Rig::open_with(&disk, &options).unwrap();
    assert_eq!(missing(&rig.notes), []);
}
