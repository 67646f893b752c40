//! Segments that are given up, what must not be lost with them, and the checkpoints that tell.

use super::*;

/// A log of five slots that gives up its oldest segments.
fn node_that_drops() -> (SimDisk, Rig) {
    let disk = SimDisk::new(1);
    let mut rig = Rig::open_with(&disk, &dropping(5)).unwrap();
    rig.make_topic();
    (disk, rig)
}

#[test]
fn either_checkpoint_alone_serves_a_log_that_gave_up_segments() {
    let (disk, mut rig) = node_that_drops();
    for number in 0..100_u8 {
        acked(&mut rig, &vec![number; 150_000]);
    }
    rig.settle_marked();
    let disk = power_cut(&disk, rig);
    let before = readable(&disk);
    assert!(before[0].0 > 0, "segments were given up");
    for file in [FileName::CheckpointA, FileName::CheckpointB] {
        let good = disk.read_file(&file).unwrap();
        let mut flipped = good.clone();
        flipped[40] ^= 1;
        for bad in [vec![0; good.len()], flipped] {
            disk.set_file(&file, Some(bad));
            assert_eq!(missing(&recovered(&disk).notes), [], "without {}", file.path());
            assert_eq!(readable(&disk), before, "without {}", file.path());
        }
        disk.set_file(&file, Some(good));
    }
}

#[test]
fn live_records_move_durably_before_their_segment_is_given_up() {
    let (disk, mut rig) = node_that_drops();
    for number in 0..100_u8 {
        let ticket = rig.append(&[(place(0), vec![number; 150_000])], &[]);
        loop {
            // A write lands only when there is nothing else to do.
            let next = rig.step();
            every_live_record_is_readable(&rig);
            if !rig.keep() && !disk.step() && !matches!(next, Next::Linger { .. }) {
                break;
            }
        }
        rig.step();
        result(ticket).unwrap().unwrap();
    }
    assert!(starts(&rig)[&place(0)].0 > 0, "segments were given up");
}

fn starts(rig: &Rig) -> BTreeMap<PartitionId, Offset> {
    let topics = rig.client.published.topics.read();
    let partitions = topics.catalog.partitions();
    partitions.map(|(row, partition)| (partition, topics.extent_of(row).start)).collect()
}

fn every_live_record_is_readable(rig: &Rig) {
    let starts = starts(rig);
    let topics = rig.client.published.topics.read();
    for ((partition, key), live) in topics.catalog.live() {
        assert!(starts[partition] <= live.offset, "{} of {partition}", key.escape_ascii());
    }
}

#[test]
fn while_one_checkpoint_may_be_torn_the_other_stays() {
    let (disk, mut rig) = node(1);
    let files = || [FileName::CheckpointA, FileName::CheckpointB].map(|file| disk.read_file(&file));
    let sequence = |bytes: &Vec<u8>| Checkpoint::decode(bytes).unwrap().sequence;
    let [a, b] = files().map(Result::unwrap);
    let good = usize::from(sequence(&b) > sequence(&a));
    let good_bytes = [a, b][good].clone();
    disk.advance(Duration::from_secs(11));
    disk.fail_next(OperationKind::WriteFile, std::io::ErrorKind::Other, Lasting::Always);
    fill_segments(&mut rig, 2);
    disk.heal();
    disk.advance(Duration::from_secs(11));
    fill_segments(&mut rig, 3);
    assert!(*files()[good].as_ref().unwrap() == good_bytes, "the good one stays");
    for segments in [4, 5] {
        disk.advance(Duration::from_secs(11));
        fill_segments(&mut rig, segments);
    }
    let written = files().map(|bytes| sequence(&bytes.unwrap()));
    assert!(written.iter().all(|sequence| *sequence > 2), "{written:?}");
}
