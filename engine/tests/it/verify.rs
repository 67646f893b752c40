//! Verifying: a good log is clean, and whatever is wrong is named with its place.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tracklog_engine::disk::simulated::Crash;
use tracklog_engine::disk::{Disk, FileName, SlotId};
use tracklog_engine::{OpenError, Progress, VerifyReport, verify, verify_on};
use tracklog_log::Retention;
use tracklog_protocol::PartitionId;

use crate::rig::{Machine, append, payload, set, topic};

const PAGE: u64 = 4096;

/// A log with two topics and three partitions, over two segments, stopped.
fn two_segments(seed: u64) -> (Machine, Vec<PartitionId>) {
    let mut machine = Machine::new(seed);
    let log = machine.engine();
    let raw = topic(log, "raw", 2, Retention::Keep);
    let keys = topic(log, "_keys", 1, Retention::Compact)[0];
    for number in 0..24 {
        let partition = raw[usize::from(number % 3 == 0)];
        append(log, partition, &payload(number, 1 << 20)).expect("it is stored");
        set(log, keys, b"key", &number.to_le_bytes());
    }
    machine.disk.advance(Duration::from_secs(20));
    machine.stop();
    (machine, raw)
}

#[test]
fn a_good_log_is_clean_and_counted() {
    let (machine, raw) = two_segments(1);
    let mut told = Vec::new();
    let disk: Arc<dyn Disk> = Arc::new(machine.disk);
    let report = verify_on(&disk, NonZeroUsize::MIN, &mut |progress: Progress| told.push(progress));
    let report = report.expect("it opens").expect("there is a log");
    assert!(report.clean, "{report}");
    assert_eq!(report.problem_count, 0);
    // Two topics made, 24 appends, 24 keys.
    assert_eq!(report.readable.records, 50, "{report}");
    assert_eq!(report.segments, 2);
    assert_eq!(report.damaged, Default::default());
    let of = |id| report.partitions.iter().find(|partition| partition.id == id).unwrap();
    assert_eq!((of(raw[0]).records, of(raw[1]).records), (16, 8));
    assert_eq!((of(raw[1]).topic.as_str(), of(raw[1]).end), ("raw", 8));
    assert!(told.is_sorted_by_key(|progress| progress.bytes_done));
    let last = told.last().expect("it tells how far it is");
    assert_eq!(last.bytes_done, last.bytes_total);
    assert!(report.to_string().ends_with("\nclean"), "{report}");
}

#[test]
fn a_running_log_verifies_what_it_has_published() {
    let mut machine = Machine::new(2);
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    for number in 0..20 {
        append(log, raw, &payload(number, 1 << 20)).expect("it is stored");
    }
    let report = log.verify(&mut |_| {}).expect("it lists its folder");
    assert!(report.clean, "{report}");
    assert_eq!(report.readable.records, 21);
    machine.stop();
    machine.open().expect("it opens");
    let report = machine.engine().verify(&mut |_| {}).expect("it lists its folder");
    assert!(report.clean, "{report}");
    assert_eq!(report.readable.records, 21);
}

#[test]
fn a_log_that_is_written_meanwhile_verifies_clean() {
    let machine = Machine::new(3);
    let log = machine.engine();
    let raw = topic(log, "raw", 4, Retention::Keep);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..300 {
                let partition = raw[usize::try_from(number % 4).unwrap()];
                append(log, partition, &payload(number, 100_000)).expect("it is stored");
            }
        });
        while !writer.is_finished() {
            let report = log.verify(&mut |_| {}).expect("it lists its folder");
            assert!(report.clean, "{report}");
        }
        writer.join().expect("the writer ends well");
    });
    assert_eq!(log.verify(&mut |_| {}).expect("it lists").readable.records, 301);
}

#[test]
fn a_bad_batch_is_named_with_partition_offsets_and_place() {
    let (machine, raw) = two_segments(4);
    // Behind the header of the first commit of some size: in the body of its only batch.
    let slot = SlotId(0);
    let at =
        (2..200).map(|page| page * PAGE).find(|at| machine.disk.peek(slot, *at, 64) == [0xA5; 64]);
    let at = at.expect("a page in the middle of a record");
    machine.disk.flip_bit(slot, at, 3);
    let report = machine.verify().expect("it opens");
    assert!(!report.clean);
    assert_eq!((report.damaged.batches, report.damaged.records), (1, 1), "{report}");
    assert_eq!(report.readable.records, 49);
    let damaged: Vec<_> = report.damaged_partitions().collect();
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].id, raw[1]);
    let first = damaged[0].first_damage.as_ref().expect("it is named");
    assert_eq!((first.from, first.to, first.segment), (0, 1, 1));
    assert_eq!(first.slot, "slot-00000000");
    assert!(first.position < at && at - first.position < 2 << 20);
    assert!(first.what.contains("checksum"), "{first}");
    assert!(report.to_string().contains("raw partition 1: 1 records are damaged, 7 are readable"));
}

#[test]
fn a_bad_commit_header_is_named_and_the_offsets_in_it() {
    let (machine, raw) = two_segments(5);
    let at = commits(&machine, SlotId(0))[10];
    machine.disk.flip_bit(SlotId(0), at + 50, 1);
    let report = machine.verify().expect("it opens");
    assert!(!report.clean);
    assert_eq!(report.damaged.commits, 1, "{report}");
    assert_eq!(report.damaged.records, 1, "{report}");
    assert!(report.problems.iter().any(|problem| problem.position == Some(at)), "{report}");
    let damaged: BTreeSet<_> = report.damaged_partitions().map(|partition| partition.id).collect();
    assert_eq!(damaged.len(), 1);
    assert!(damaged.is_subset(&raw.iter().copied().chain(damaged_keys(&report)).collect()));
}

fn damaged_keys(report: &VerifyReport) -> Vec<PartitionId> {
    let keys = report.partitions.iter().filter(|partition| partition.topic == "_keys");
    keys.map(|partition| partition.id).collect()
}

/// Where commits begin in a slot.
fn commits(machine: &Machine, slot: SlotId) -> Vec<u64> {
    let pages = (1..4096).map(|page| page * PAGE);
    pages.filter(|at| machine.disk.peek(slot, *at, 4) == *b"TLC\x01").collect()
}

#[test]
fn whatever_byte_changes_it_is_noticed_or_means_nothing() {
    let mut machine = Machine::new(6);
    let log = machine.engine();
    let raw = topic(log, "raw", 2, Retention::Keep);
    for number in 0..6 {
        append(log, raw[usize::try_from(number % 2).unwrap()], &payload(number, 700)).unwrap();
    }
    machine.stop();
    let good = machine.offline().expect("it opens");
    let whole = machine.disk.snapshot();
    let last = *commits(&machine, SlotId(0)).last().expect("there are commits");
    let (mut noticed, mut meaningless) = (0, 0);
    for at in (0..last + PAGE).step_by(61) {
        machine.disk.flip_bit(SlotId(0), at, u8::try_from(at % 8).unwrap());
        match machine.verify() {
            Ok(report) if report.clean => {
                assert_eq!(machine.offline().expect("it opens"), good, "byte {at} means something");
                meaningless += 1;
            }
            _ => noticed += 1,
        }
        machine.disk.restore(&whole);
    }
    assert!(noticed > 60, "{noticed} changes were noticed, {meaningless} were in padding");
}

#[test]
fn a_missing_index_is_fine_a_torn_one_is_told_a_wrong_one_is_not_clean() {
    let (machine, _) = two_segments(7);
    let index = FileName::Index(1);
    let disk = &machine.disk;
    let good = Disk::read_file(disk, &index).expect("it was written");
    disk.set_file(&index, None);
    assert!(machine.verify().expect("it opens").clean);
    disk.set_file(&index, Some(good[..good.len() / 2].to_vec()));
    let report = machine.verify().expect("it opens");
    assert!(report.clean && report.remarks.len() == 1, "{report}");
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        disk.set_file(&index, Some(bad));
        let report = machine.verify().expect("it opens");
        assert!(!report.clean, "byte {at}");
        assert_eq!(report.problems[0].file, index.path());
    }
}

#[test]
fn a_rotten_checkpoint_is_named_and_a_torn_one_is_no_damage() {
    let (machine, _) = two_segments(8);
    let disk = &machine.disk;
    let good = Disk::read_file(disk, &FileName::CheckpointB).unwrap();
    for length in [0, 5, 40, good.len() - 1] {
        disk.set_file(&FileName::CheckpointB, Some(good[..length].to_vec()));
        let report = machine.verify().expect("it opens");
        assert!(report.clean && report.remarks.len() == 1, "{report}");
    }
    let mut bad = good;
    bad[40] ^= 1;
    disk.set_file(&FileName::CheckpointB, Some(bad));
    let report = machine.verify().expect("it opens");
    assert!(!report.clean);
    assert_eq!(report.problems[0].file, "checkpoint-b");
}

/// The file without one of its sectors, each in turn.
fn without_a_sector(file: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..file.len()).step_by(512).map(move |at| {
        let mut torn = file.to_vec();
        torn[at..(at + 512).min(file.len())].fill(0);
        torn
    })
}

#[test]
fn a_small_file_that_lacks_a_sector_in_the_middle_is_torn_not_rotten() {
    let (mut machine, _) = two_segments(9);
    machine.open().expect("it opens");
    topic(machine.engine(), "wide", 200, Retention::Keep);
    machine.reopen();
    machine.stop();
    let disk = &machine.disk;
    for name in [FileName::Index(1), FileName::CheckpointB] {
        let good = Disk::read_file(disk, &name).expect("it was written");
        assert!(good.len() > 1024, "{} has {} bytes", name.path(), good.len());
        for torn in without_a_sector(&good) {
            disk.set_file(&name, Some(torn));
            let report = machine.verify().expect("it opens");
            assert!(report.clean && report.remarks.len() == 1, "{report}");
        }
        disk.set_file(&name, Some(good));
    }
}

/// Behind the last commit that the next run stands on lies the mark of a stop, and the index has it.
#[test]
fn an_index_of_an_ended_run_that_was_not_written_to_its_end_is_torn_not_rotten() {
    let mut machine = Machine::new(9);
    let raw = topic(machine.engine(), "raw", 1, Retention::Keep)[0];
    append(machine.engine(), raw, &payload(1, 100)).expect("it is stored");
    machine.reopen();
    machine.stop();
    let (disk, name) = (&machine.disk, FileName::Index(1));
    let good = Disk::read_file(disk, &name).expect("it was written");
    for torn in (0..good.len()).step_by(5).map(|length| &good[..length]) {
        disk.set_file(&name, Some(torn.to_vec()));
        let report = machine.verify().expect("it opens");
        assert!(report.clean && report.remarks.len() == 1, "{} bytes: {report}", torn.len());
    }
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        disk.set_file(&name, Some(bad));
        assert!(!machine.verify().expect("it opens").clean, "byte {at}");
    }
}

#[test]
fn a_torn_tail_is_no_damage() {
    for seed in 10..20 {
        let mut machine = Machine::new(seed);
        let log = machine.engine();
        let raw = topic(log, "raw", 1, Retention::Keep)[0];
        append(log, raw, &payload(1, 30_000)).expect("it is stored");
        machine.disk.crash_at_operation(1, Crash::Power);
        append(log, raw, &payload(2, 30_000)).expect_err("the power failed");
        machine.stop();
        let report = machine.verify().expect("it opens");
        assert!(report.clean, "{report}");
        machine.open().expect("it opens");
        machine.stop();
        let report = machine.verify().expect("it opens");
        assert!(report.clean, "{report}");
    }
}

#[test]
fn listed_damage_is_damage_still_and_skipped_offsets_are_none() {
    let (mut machine, raw) = two_segments(9);
    let last = *commits(&machine, SlotId(1)).iter().rev().nth(3).expect("a data commit");
    machine.disk.flip_bit(SlotId(1), last, 0);
    assert!(!machine.verify().expect("it opens").clean);
    machine.open().expect("it opens with damage");
    let log = machine.engine();
    append(log, raw[0], &payload(99, 100)).expect("it is stored");
    let running = log.verify(&mut |_| {}).expect("it lists its folder");
    assert!(!running.clean, "{running}");
    machine.stop();
    let report = machine.verify().expect("it opens");
    assert!(!report.clean, "{report}");
    assert_eq!(report.damaged.commits, 1, "{report}");
    assert!(report.damaged.records <= 1, "a skip is no loss: {report}");
}

#[test]
fn a_bad_sector_costs_what_lies_on_it() {
    let (machine, _) = two_segments(11);
    let at = (2..200)
        .map(|page| page * PAGE)
        .find(|at| machine.disk.peek(SlotId(0), *at, 64) == [0xA5; 64]);
    let at = at.expect("a page in the middle of a record");
    machine.disk.break_range(SlotId(0), at..at + 512);
    let report = machine.verify().expect("it opens");
    assert_eq!((report.damaged.batches, report.damaged.records), (1, 1), "{report}");
    let first = report.damaged_partitions().next().and_then(|it| it.first_damage.clone());
    assert_eq!(first.expect("it is named").what, "the disk does not give it");
}

#[test]
fn a_folder_without_a_log_is_told_so() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let error = verify(folder.path(), &mut |_| {}).expect_err("there is no log");
    assert!(matches!(error, OpenError::NotALog { .. }), "{error}");
    let gone = folder.path().join("gone");
    let error = verify(&gone, &mut |_| {}).expect_err("there is no folder");
    assert!(error.to_string().starts_with("there is no folder"), "{error}");
}
