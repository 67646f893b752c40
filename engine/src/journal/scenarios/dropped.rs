//! Segments that are given up, and what must not be lost with them.

use super::*;
use crate::options::WhenFull;

#[test]
fn either_checkpoint_alone_serves_a_log_that_gave_up_segments() {
    let disk = SimDisk::new(1);
    let options = Options {
        journal_bytes_max: Some(5 * SLOT_BYTES),
        when_full: WhenFull::DropOldest,
        ..options()
    };
    let mut rig = Rig::open_with(&disk, &options).unwrap();
    rig.make_topic();
    for number in 0..100_u8 {
        acked(&mut rig, &vec![number; 150_000]);
    }
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    let before = readable(&disk);
    assert!(before[0].0 > 0, "segments were given up");
    for file in [FileName::CheckpointA, FileName::CheckpointB] {
        let good = disk.read_file(&file).unwrap();
        disk.set_file(&file, Some(vec![0; good.len()]));
        assert_eq!(missing(&recovered(&disk).notes), [], "without {}", file.path());
        assert_eq!(readable(&disk), before, "without {}", file.path());
        disk.set_file(&file, Some(good));
    }
}
