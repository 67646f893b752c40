//! Where a log ends when its last commit is bad and nothing vouches for it.

use super::*;

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
        assert_eq!(first_bytes(&disk), b"a");
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
