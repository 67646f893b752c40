//! What a disk, a clock or an operator may do to a log: a clear word each, and nothing lost.

use std::sync::Arc;
use std::time::Duration;

use tracklog_engine::disk::simulated::{Crash, Lasting, OperationKind};
use tracklog_engine::disk::{Disk, FileName, SlotId};
use tracklog_engine::{Note, OfflineLog, OpenError, Options, State};
use tracklog_log::meta::{Expect, MetaTopic};
use tracklog_log::{Append, AppendError, Domain, Item, Lane, Log, Meta, Retention, TopicName};
use tracklog_protocol::{PartitionId, Record, TimeMicros};

use crate::rig::{
    Contents, Machine, SLOT_BYTES, append, batches, contents, options, payload, records, submit,
    topic, until, wait,
};

const CHECKPOINTS: [FileName; 2] = [FileName::CheckpointA, FileName::CheckpointB];

/// A log with `count` records of `length` bytes, its partition, and what it holds. It is open.
fn filled(seed: u64, count: u64, length: usize) -> (Machine, PartitionId, Contents) {
    let machine = Machine::new(seed);
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    for number in 0..count {
        append(log, raw, &payload(number, length)).expect("it is stored");
    }
    let all = contents(log);
    (machine, raw, all)
}

#[test]
fn a_full_disk_refuses_appends_reads_go_on_and_room_lets_them_resume() {
    let mut machine = Machine::new(1);
    machine.disk.set_capacity(3 * SLOT_BYTES + (1 << 20));
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    let mut acked = 0;
    let refused = loop {
        match append(log, raw, &payload(acked, 1 << 20)) {
            Ok(offset) => assert_eq!(offset.0, acked),
            Err(error) => break error,
        }
        acked += 1;
        assert!(acked < 100, "three slots hold less");
    };
    assert!(matches!(refused, AppendError::Full { .. }), "{refused}");
    assert_eq!(refused.to_string().lines().count(), 1);
    assert!(matches!(log.state(), State::Full(_)));
    assert_eq!(records(log, raw).len() as u64, acked, "reads go on");
    machine.disk.set_capacity(u64::MAX >> 1);
    // No event tells of free space: the log looks once a second.
    until(log, |log| log.state() == State::Open);
    assert_eq!(append(log, raw, b"more").expect("there is room").0, acked);
    machine.crash(Crash::Kill);
    assert_eq!(
        machine.offline().expect("it opens")[&("raw".to_owned(), 0)].len() as u64,
        acked + 1
    );
}

#[test]
fn a_disk_that_was_full_at_a_crash_opens_again() {
    let mut machine = Machine::new(2);
    machine.disk.set_capacity(3 * SLOT_BYTES + (1 << 20));
    let raw = topic(machine.engine(), "raw", 1, Retention::Keep)[0];
    let mut acked = 0;
    while append(machine.engine(), raw, &payload(acked, 1 << 20)).is_ok() {
        acked += 1;
    }
    machine.crash(Crash::Power);
    machine.open().expect("it opens with no more room than it had");
    assert_eq!(records(machine.engine(), raw).len() as u64, acked);
}

#[test]
fn a_log_at_its_limit_says_so() {
    let limit = Options { journal_bytes_max: Some(3 * SLOT_BYTES), hot_bytes: None, ..options() };
    let machine = Machine::with(3, limit);
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    let refused = (0..100).find_map(|number| append(log, raw, &payload(number, 1 << 20)).err());
    let refused = refused.expect("three slots hold less").to_string();
    assert!(refused.contains("limit of 50331648 bytes"), "{refused}");
}

#[test]
fn a_newer_slot_is_refused_and_left_alone() {
    let (mut machine, ..) = filled(6, 3, 100);
    machine.stop();
    let mut page = machine.disk.peek(SlotId(0), 0, 4096);
    page[8..12].copy_from_slice(&2_u32.to_le_bytes());
    let crc = crc32fast::hash(&page[..4092]);
    page[4092..].copy_from_slice(&crc.to_le_bytes());
    machine.disk.corrupt(SlotId(0), 0, &page);
    let error = machine.open().expect_err("it is of a newer format");
    assert!(
        matches!(&error, OpenError::NewerFormat { file } if file == "slot-00000000"),
        "{error}"
    );
    assert_eq!(machine.disk.peek(SlotId(0), 0, 4096), page);
}

/// The file, of version 2, as a program of that version would write it.
fn newer(mut file: Vec<u8>) -> Vec<u8> {
    let version = 2_u32.to_le_bytes();
    file[8..12].copy_from_slice(&version);
    // The end section: 12 bytes of head, with the checksum last, and the version again.
    let end = file.len() - 16;
    file[end + 12..].copy_from_slice(&version);
    let covered = [&file[end..end + 8], &version[..]].concat();
    file[end + 8..end + 12].copy_from_slice(&crc32fast::hash(&covered).to_le_bytes());
    file
}

#[test]
fn a_newer_checkpoint_is_refused_and_left_alone() {
    let (mut machine, ..) = filled(7, 3, 100);
    machine.stop();
    let name = FileName::CheckpointB;
    let file = newer(machine.disk.read_file(&name).expect("it is there"));
    machine.disk.set_file(&name, Some(file.clone()));
    let error = machine.open().expect_err("it is of a newer format");
    assert_eq!(
        error.to_string(),
        "checkpoint-b needs a newer tracklog: its format is of another version"
    );
    assert_eq!(machine.disk.read_file(&name).expect("it is there"), file);
}

#[test]
fn a_flipped_bit_in_a_checkpoints_version_is_rot_like_any_other() {
    for (seed, name) in (70..).zip(CHECKPOINTS) {
        let (mut machine, _, all) = filled(seed, 3, 100);
        machine.stop();
        let mut file = machine.disk.read_file(&name).expect("it is there");
        file[8] ^= 2;
        machine.disk.set_file(&name, Some(file));
        machine.open().expect("the other checkpoint serves");
        let notes = &machine.engine().report().notes;
        assert!(notes.contains(&Note::Checkpoint { file: name.path() }), "{notes:?}");
        assert_eq!(contents(machine.engine()), all);
    }
}

#[test]
fn a_rotten_slot_header_is_told_and_costs_nothing() {
    let (mut machine, raw, all) = filled(8, 20, 1 << 20);
    machine.stop();
    machine.disk.flip_bit(SlotId(0), 100, 1);
    machine.open().expect("the checkpoint names the slot");
    let notes = &machine.engine().report().notes;
    assert!(notes.contains(&Note::SlotHeader { slot: SlotId(0) }), "{notes:?}");
    assert_eq!(contents(machine.engine()), all);
    append(machine.engine(), raw, b"more").expect("it is stored");
}

#[test]
fn a_rotten_slot_header_without_a_checkpoint_is_refused_in_one_line() {
    let (mut machine, ..) = filled(9, 3, 100);
    machine.stop();
    CHECKPOINTS.iter().for_each(|name| machine.disk.set_file(name, None));
    machine.disk.flip_bit(SlotId(0), 100, 1);
    let error = machine.open().expect_err("nothing says what the slot is").to_string();
    assert!(error.contains("slot-00000000") && error.lines().count() == 1, "{error}");
}

#[test]
fn without_checkpoints_and_indexes_the_same_bytes_are_read() {
    let (mut machine, raw, all) = filled(10, 50, 1 << 20);
    machine.reopen();
    append(machine.engine(), raw, &payload(50, 10)).expect("it is stored");
    let all_now = contents(machine.engine());
    assert_eq!(all_now[&("raw".to_owned(), 0)].len(), all[&("raw".to_owned(), 0)].len() + 1);
    machine.stop();
    CHECKPOINTS.iter().for_each(|name| machine.disk.set_file(name, None));
    for segment in machine.disk.journal_folder().expect("it lists").indexes {
        machine.disk.set_file(&FileName::Index(segment), None);
    }
    assert_eq!(machine.offline().expect("it opens"), all_now);
    machine.open().expect("it opens");
    assert_eq!(contents(machine.engine()), all_now);
    assert_eq!(append(machine.engine(), raw, b"more").expect("it is stored").0, 51);
}

#[test]
fn one_damaged_checkpoint_costs_nothing_and_is_told() {
    for (seed, name) in (11..).zip(CHECKPOINTS) {
        let (mut machine, _, all) = filled(seed, 20, 1 << 20);
        machine.stop();
        let mut file = machine.disk.read_file(&name).expect("it is there");
        file[60] ^= 4;
        machine.disk.set_file(&name, Some(file));
        machine.open().expect("the other checkpoint serves");
        let notes = &machine.engine().report().notes;
        assert!(notes.contains(&Note::Checkpoint { file: name.path() }), "{notes:?}");
        assert_eq!(contents(machine.engine()), all);
    }
}

#[test]
fn old_slots_under_a_newer_checkpoint_are_refused_and_no_offset_is_given_twice() {
    let (mut machine, raw, _) = filled(13, 10, 1000);
    machine.stop();
    let old = machine.disk.snapshot();
    machine.open().expect("it opens");
    for number in 10..30 {
        append(machine.engine(), raw, &payload(number, 1000)).expect("it is stored");
    }
    // A checkpoint that adds up to what will be lost.
    machine.reopen();
    let given = machine.engine().extent(raw).expect("it is there").end;
    machine.stop();
    for (slot, _) in machine.disk.journal_folder().expect("it lists").slots {
        machine.disk.restore_slot(&old, slot);
    }
    let error = machine.open().expect_err("acked commits are gone");
    assert!(matches!(error, OpenError::LostCommits { .. }), "{error}");
    assert!(error.to_string().contains("--accept-loss"), "{error}");
    assert!(machine.offline().is_err(), "offline too");
    assert!(machine.verify().is_err(), "and when it is verified");
    machine.options.accept_loss = true;
    machine.open().expect("the loss is accepted");
    let notes = machine.engine().report().notes.clone();
    assert!(notes.iter().any(|note| matches!(note, Note::GivenUp { .. })), "{notes:?}");
    let next = append(machine.engine(), raw, b"more").expect("it is stored");
    assert!(next >= given, "offset {next} was given before");
    assert_eq!(records(machine.engine(), raw).range(..10).count(), 10);
    machine.options.accept_loss = false;
    machine.reopen();
    assert_eq!(append(machine.engine(), raw, b"more").expect("it is stored"), next.plus(1));
}

#[test]
fn append_times_never_go_back_when_the_clock_does() {
    let (mut machine, raw, _) = filled(14, 3, 100);
    let hour = 3_600_000_000;
    machine.disk.set_now(TimeMicros(machine.disk.now().0 - hour));
    append(machine.engine(), raw, b"an hour ago").expect("it is stored");
    machine.stop();
    machine.disk.set_now(TimeMicros(machine.disk.now().0 - hour));
    machine.open().expect("it opens");
    append(machine.engine(), raw, b"two hours ago").expect("it is stored");
    machine.crash(Crash::Power);
    machine.open().expect("it opens");
    append(machine.engine(), raw, b"and again").expect("it is stored");
    let batches = batches(machine.engine(), raw);
    let times: Vec<_> = batches.iter().map(|batch| batch.append_time()).collect();
    assert_eq!(times.len(), 6);
    assert!(times.is_sorted_by(|one, other| one < other), "{times:?}");
    machine.stop();
    assert!(machine.verify().expect("it opens").clean);
}

#[test]
fn a_torn_last_commit_is_cut_as_a_whole_at_each_512_byte_step() {
    let (mut machine, raw, all) = filled(15, 3, 3000);
    append(machine.engine(), raw, &payload(3, 9000)).expect("it is stored");
    let longer = contents(machine.engine());
    machine.crash(Crash::Kill);
    let at = last_commit(&machine, SlotId(0));
    let whole = machine.disk.snapshot();
    let length = 3 * 4096;
    for cut in (0..=length).step_by(512) {
        machine.disk.restore(&whole);
        machine.disk.corrupt(SlotId(0), at + cut as u64, &vec![0; length - cut]);
        machine.open().expect("it opens");
        let found = contents(machine.engine());
        // The last sector may hold nothing but padding.
        let is_whole = found == longer;
        assert!(is_whole || found == all, "cut at {cut}: neither whole nor gone");
        assert!(is_whole == (cut >= 128 + 40 + 64 + 9000), "cut at {cut}");
        let notes = &machine.engine().report().notes;
        let told = notes.iter().filter(|note| matches!(note, Note::Cut { .. })).count();
        assert_eq!(told, usize::from(cut > 0 && !is_whole), "cut at {cut}: {notes:?}");
        let next = append(machine.engine(), raw, b"more").expect("it is stored").0;
        assert_eq!(next, if is_whole { 4 } else { 3 }, "cut at {cut}");
        machine.stop();
        let report = machine.verify().expect("it opens");
        assert!(report.clean, "cut at {cut}: {report}");
    }
}

/// Where the last commit of a slot begins.
fn last_commit(machine: &Machine, slot: SlotId) -> u64 {
    let pages = (1..SLOT_BYTES / 4096).map(|page| page * 4096);
    let mut commits = pages.rev().filter(|at| machine.disk.peek(slot, *at, 4) == *b"TLC\x01");
    commits.next().expect("there are commits")
}

#[test]
fn nothing_is_missing_or_doubled_at_the_edge_of_a_segment() {
    // From a segment that has room to spare, to one that is filled to its last page, and beyond.
    for pages_short in 0..6 {
        let (mut machine, raw, _) = filled(20 + pages_short, 15, 1 << 20);
        let used = last_commit(&machine, SlotId(0)) + (1 << 20) + 4096;
        let room = SLOT_BYTES - used - 4096;
        let length = room - pages_short * 4096 - 128 - 40 - 64;
        append(machine.engine(), raw, &payload(15, length as usize)).expect("it is stored");
        append(machine.engine(), raw, &payload(16, 8)).expect("it is stored");
        let all = contents(machine.engine());
        machine.crash(Crash::Kill);
        machine.open().expect("it opens");
        assert_eq!(contents(machine.engine()), all, "{pages_short} pages short");
        let numbers: Vec<_> = records(machine.engine(), raw).keys().copied().collect();
        assert_eq!(numbers, (0..17).collect::<Vec<_>>());
        machine.stop();
        let report = machine.verify().expect("it opens");
        assert!(report.clean, "{report}");
    }
}

#[test]
fn recovery_may_be_killed_at_every_step() {
    let (mut machine, raw, all) = filled(30, 40, 1 << 20);
    machine.crash(Crash::Power);
    let mut interrupted = 0;
    for nth in 1.. {
        let crash = if nth % 2 == 0 { Crash::Kill } else { Crash::Power };
        machine.disk.crash_at_operation(nth, crash);
        if machine.open().is_ok() {
            break;
        }
        machine.disk = machine.disk.reboot();
        interrupted += 1;
    }
    assert!(interrupted > 10, "it was interrupted {interrupted} times");
    machine.disk.heal();
    machine.stop();
    machine.open().expect("it opens");
    assert_eq!(contents(machine.engine()), all);
    assert_eq!(append(machine.engine(), raw, b"more").expect("it is stored").0, 40);
    machine.stop();
    let report = machine.verify().expect("it opens");
    assert!(report.clean, "{report}");
}

#[test]
fn a_failed_write_leaves_its_append_unknown_and_closes_the_log_until_it_is_reopened() {
    let (mut machine, raw, all) = filled(31, 5, 1000);
    let kind = std::io::ErrorKind::Other;
    machine.disk.fail_next(OperationKind::Submit, kind, Lasting::Once);
    let unknown = append(machine.engine(), raw, &payload(5, 1000)).expect_err("the disk failed");
    assert!(matches!(unknown, AppendError::Unknown { .. }), "{unknown}");
    let closed = append(machine.engine(), raw, b"more").expect_err("it is closed");
    assert!(matches!(closed, AppendError::Closed { .. }), "{closed}");
    assert!(matches!(machine.engine().state(), State::Closed(_)));
    assert_eq!(contents(machine.engine()), all, "reads go on");
    machine.reopen();
    let found = contents(machine.engine());
    let raw_found = &found[&("raw".to_owned(), 0)];
    assert_eq!(raw_found.range(..5).count(), 5);
    assert!(raw_found.len() <= 6);
    let next = append(machine.engine(), raw, b"more").expect("it is stored").0;
    assert_eq!(next, raw_found.len() as u64);
}

#[test]
fn whoever_closes_a_log_that_is_being_closed_waits_until_it_is_done() {
    let (machine, raw, _) = filled(32, 1, 100);
    machine.disk.set_auto(false);
    let ticket = submit(machine.engine(), &[(raw, Record::opaque(b"in flight"))]);
    let (closed, closes) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let (closed, engine) = (closed.clone(), machine.shared());
            scope.spawn(move || {
                engine.close();
                closed.send(()).expect("somebody waits");
            });
        }
        let early = closes.recv_timeout(Duration::from_millis(200));
        assert!(early.is_err(), "a write is still in flight");
        machine.disk.set_auto(true);
        machine.disk.run_until_idle();
    });
    wait(ticket).expect("what was taken is stored");
}

#[test]
fn a_log_that_waits_for_room_closes() {
    let mut machine = Machine::new(33);
    machine.disk.set_capacity(3 * SLOT_BYTES + (1 << 20));
    let raw = topic(machine.engine(), "raw", 1, Retention::Keep)[0];
    let bytes = payload(0, 1 << 20);
    let mut tickets = Vec::new();
    while machine.engine().state() == State::Open {
        // More at once than there is room for, as far as the budget goes.
        let log = machine.engine();
        let epoch = wait(log.open(Domain::WHOLE)).expect("it is open");
        let items = [Item::Record { partition: raw, record: Record::opaque(&bytes) }];
        match log.reserve(Lane::FIRST_SOURCE, bytes.len()) {
            Ok(permit) => {
                tickets.push(log.append(permit, epoch, Append { conditions: &[], items: &items }));
            }
            Err(_) => std::thread::yield_now(),
        }
    }
    machine.engine().close();
    let mut acked = 0;
    for ticket in tickets {
        match wait(ticket) {
            Ok(_) => acked += 1,
            Err(AppendError::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    machine.stop();
    let found = machine.offline().expect("it opens");
    assert_eq!(found[&("raw".to_owned(), 0)].len(), acked);
}

#[test]
fn whichever_operation_fails_acked_records_stay() {
    for nth in 1..60 {
        let (mut machine, raw, _) = filled(100 + nth, 2, 1000);
        machine.disk.fail_operation(nth, std::io::ErrorKind::Other, Lasting::Once);
        let mut acked = 2;
        for number in 2..30 {
            let large = 1 << 20;
            match append(machine.engine(), raw, &payload(number, large)) {
                Ok(offset) => {
                    assert_eq!(offset.0, acked);
                    acked += 1;
                }
                Err(_) => break,
            }
        }
        machine.stop();
        machine.disk.heal();
        machine.open().unwrap_or_else(|error| panic!("operation {nth}: {error}"));
        let found = records(machine.engine(), raw);
        assert!(found.range(..acked).count() as u64 == acked, "operation {nth}: acked are gone");
    }
}

#[test]
fn an_offline_log_changes_nothing_and_refuses_appends() {
    let (mut machine, raw, all) = filled(40, 5, 1000);
    machine.crash(Crash::Kill);
    let before = machine.disk.operations();
    let log = OfflineLog::open_on(Arc::new(machine.disk.clone())).expect("it opens");
    let log = log.expect("there is a log");
    assert_eq!(contents(&log), all);
    let refused = append(&log, raw, b"more").expect_err("it is open to read");
    assert!(matches!(refused, AppendError::Closed { .. }));
    drop(log);
    let changes = ["Write", "Submit", "Create", "Remove", "Sync", "DropCache"];
    let trace = machine.disk.trace();
    let since = trace.iter().rev().take((machine.disk.operations() - before) as usize);
    for line in since {
        assert!(!changes.iter().any(|change| line.contains(change)), "{line}");
    }
}

#[test]
fn what_a_meta_holds_is_there_after_a_crash() {
    let mut machine = Machine::new(50);
    let name = || TopicName::new("_settings").expect("a topic name");
    let open = |machine: &Machine| {
        let epoch = wait(machine.engine().open(Domain::WHOLE)).expect("it opens");
        wait(MetaTopic::open(machine.shared(), epoch, name())).expect("it opens")
    };
    let meta = open(&machine);
    wait(meta.put(b"colour", Some(b"blue"), Expect::Absent)).expect("nobody wrote it before");
    drop(meta);
    machine.crash(Crash::Power);
    machine.open().expect("it opens");
    let meta = open(&machine);
    assert_eq!(meta.get(b"colour").expect("it stayed").value, &b"blue"[..]);
    let again = wait(meta.put(b"colour", Some(b"red"), Expect::Absent));
    assert!(again.is_err(), "the key is there");
}
