//! Packs: what was settled is read as before, and survives what segments survive.

use std::io;
use std::sync::Barrier;
use std::time::Duration;

use tracklog_engine::disk::simulated::{Crash, Lasting, OperationKind};
use tracklog_engine::disk::{Disk, FileName, PAGE_BYTES, PackId, SlotId};
use tracklog_engine::{Engine, Note, Options, WhenFull, verify};
use tracklog_log::dedupe::{Verdict, VerdictKind, append_once};
use tracklog_log::{
    Append, AppendError, Dedupe, Domain, Extent, Fetch, FetchError, FetchMode, Item, Lane, Limits,
    Log, Retention, TimeKind, TopicName,
};
use tracklog_protocol::event::{EventBuilder, EventParts};
use tracklog_protocol::{Offset, PartitionId, Records, TimeMicros};

use crate::rig::{
    Contents, Machine, SLOT_BYTES, append, append_in_time, assert_same, batches, contents, noise,
    options, payload, records, set, settled, submit, topic, until, wait,
};

/// Every full segment is settled at once.
fn settling() -> Options {
    Options { hot_bytes: Some(0), ..options() }
}

/// A machine with some packs, and all that is in its log.
fn with_packs(seed: u64, options: Options) -> (Machine, Vec<PartitionId>, Contents) {
    let machine = Machine::with(seed, options);
    let log = machine.engine();
    let raw = topic(log, "raw", 3, Retention::Keep);
    let keys = topic(log, "_keys", 1, Retention::Compact)[0];
    set(log, keys, b"once", b"written");
    for number in 0..120_u64 {
        let partition = raw[usize::try_from(number % 3).expect("small")];
        let bytes = if number % 7 == 0 { 1 << 20 } else { 100 << 10 };
        append(log, partition, &payload(number, bytes)).expect("it is stored");
        set(log, keys, format!("key {}", number % 5).as_bytes(), b"value");
    }
    let all = contents(log);
    settled(log);
    assert!(log.status().packs > 0 && log.status().pack_bytes > 0);
    (machine, raw, all)
}

#[test]
fn what_is_settled_is_read_as_before_and_after_reopening() {
    let (mut machine, _, all) = with_packs(1, settling());
    assert_same(&contents(machine.engine()), &all);
    let status = machine.engine().status();
    assert!(status.reads_pack > 0 && status.frames_decoded > 0);
    assert!(machine.engine().verify(&mut |_| {}).expect("it reads").clean);
    machine.stop();
    assert_same(&machine.offline().expect("it opens"), &all);
    let report = machine.verify().expect("it opens");
    assert!(report.clean, "{report}");
    assert!(report.packs > 0 && report.segments <= 2, "{report}");
    machine.open().expect("it opens");
    assert_same(&contents(machine.engine()), &all);
    machine.crash(Crash::Power);
    machine.open().expect("it opens");
    assert_same(&contents(machine.engine()), &all);
}

#[test]
fn a_pack_that_fails_to_be_read_once_at_opening_is_read_again() {
    let (mut machine, _, all) = with_packs(31, settling());
    machine.stop();
    machine.disk.fail_next(OperationKind::ReadPack, io::ErrorKind::Other, Lasting::Once);
    machine.open().expect("it opens");
    assert_eq!(machine.engine().report().notes, []);
    assert_same(&contents(machine.engine()), &all);
}

/// A log that settles nothing yet, with some slots full of batches: the partition, and the slot of
/// its first batches.
fn with_a_full_slot(seed: u64) -> (Machine, PartitionId, SlotId) {
    let machine = Machine::with(seed, Options { hot_bytes: Some(4 * SLOT_BYTES), ..options() });
    let raw = topic(machine.engine(), "raw", 1, Retention::Keep)[0];
    append_mebibytes(&machine, raw, 0..48);
    assert_eq!(machine.engine().status().packs, 0);
    let slot = machine.disk.journal_folder().expect("it is there").slots[0].0;
    (machine, raw, slot)
}

fn append_mebibytes(machine: &Machine, partition: PartitionId, numbers: std::ops::Range<u64>) {
    for number in numbers {
        append(machine.engine(), partition, &payload(number, 1 << 20)).expect("it is stored");
    }
}

/// Until the settler began a pack and did not finish it.
fn until_a_pack_is_given_up(machine: &Machine) {
    let refused = |line: &String| line.contains("RemoveFile") && line.contains("pack");
    until(machine.engine(), |_| machine.disk.trace().iter().any(refused));
}

#[test]
fn while_the_disk_is_away_nothing_is_left_out_of_a_pack() {
    let (machine, raw, slot) = with_a_full_slot(33);
    let all = contents(machine.engine());
    // Of the oldest segment nothing comes, but for what lies far behind.
    machine.disk.break_range(slot, 0..SLOT_BYTES / 3);
    append_mebibytes(&machine, raw, 48..144);
    until_a_pack_is_given_up(&machine);
    let fetch =
        Fetch { from: vec![(raw, Offset(0))], bytes_max: 1, wait: false, mode: FetchMode::Replay };
    let fetched = wait(machine.engine().fetch(fetch));
    assert!(matches!(fetched, Err(FetchError::Io { .. })), "{fetched:?}");
    assert_eq!(machine.engine().status().packs, 0);
    machine.disk.heal();
    append_mebibytes(&machine, raw, 144..192);
    until(machine.engine(), |log| log.status().packs > 0 && log.status().segments <= 5);
    let found = contents(machine.engine());
    for (partition, records) in all {
        assert!(
            records.iter().all(|(offset, record)| found[&partition].get(offset) == Some(record))
        );
    }
    assert!(machine.engine().verify(&mut |_| {}).expect("it reads").clean);
}

#[test]
fn what_is_rotten_is_left_out_of_a_pack_though_it_is_most_of_a_segment() {
    let (machine, raw, slot) = with_a_full_slot(34);
    let before = records(machine.engine(), raw);
    for at in (PAGE_BYTES as u64..SLOT_BYTES * 3 / 4).step_by(256 << 10) {
        machine.disk.flip_bit(slot, at, 1);
    }
    append_mebibytes(&machine, raw, 48..192);
    until(machine.engine(), |log| log.status().packs > 0 && log.status().segments <= 5);
    let left = records(machine.engine(), raw);
    let kept = before.iter().filter(|(offset, _)| left.contains_key(offset)).count();
    assert!(kept < 40, "most of a slot of 15 is rotten, and {kept} of 48 are left");
    assert!(left.iter().all(|(offset, record)| before.get(offset).is_none_or(|it| it == record)));
    assert_eq!(machine.engine().extent(raw).expect("it is there").end, Offset(192));
}

#[test]
fn a_segment_stays_while_the_disk_refuses_most_of_it() {
    let (machine, raw, slot) = with_a_full_slot(35);
    // Its header and its first page can be read: it is not that the disk is away.
    machine.disk.break_range(slot, PAGE_BYTES as u64..SLOT_BYTES * 3 / 4);
    append_mebibytes(&machine, raw, 48..144);
    until_a_pack_is_given_up(&machine);
    assert_eq!(machine.engine().status().packs, 0);
    machine.disk.heal();
    append_mebibytes(&machine, raw, 144..192);
    until(machine.engine(), |log| log.status().packs > 0 && log.status().segments <= 5);
    assert_eq!(records(machine.engine(), raw).len(), 192);
}

#[test]
fn a_damaged_log_is_verified_to_the_same_answer_by_any_number_of_threads() {
    let (mut machine, raw, _) = with_packs(32, settling());
    let fill = |machine: &Machine, mebibytes| {
        for number in 0..mebibytes {
            append(machine.engine(), raw[0], &payload(number, 1 << 20)).expect("it is stored");
        }
    };
    fill(&machine, 32);
    settled(machine.engine());
    machine.stop();
    // From here on nothing is settled.
    machine.options = options();
    machine.open().expect("it opens");
    fill(&machine, 48);
    machine.stop();
    for (pack, bytes) in machine.disk.packs_folder().expect("it is there") {
        let mut file = machine.disk.read_file(&FileName::Pack(pack)).expect("it is there");
        for at in (0..bytes).step_by(1 << 20) {
            file[usize::try_from(at).expect("it is in memory") + 100] ^= 1;
        }
        machine.disk.set_file(&FileName::Pack(pack), Some(file));
    }
    for (slot, bytes) in machine.disk.journal_folder().expect("it is there").slots {
        for at in (4096..bytes).step_by(5 << 20) {
            machine.disk.flip_bit(slot, at, 1);
        }
    }
    let alone = machine.verify_with(1).expect("it opens");
    assert!(alone.packs > 1 && alone.segments > 3, "{alone}");
    assert!(alone.problem_count > 4 && alone.damaged.records > 4, "{alone}");
    for threads in [2, 3, 16] {
        let together = machine.verify_with(threads).expect("it opens");
        assert_eq!(format!("{together:?}"), format!("{alone:?}"), "{threads} threads");
    }
}

#[test]
fn packs_are_merged_and_read_as_before() {
    let mut machine = Machine::with(9, settling());
    let log = machine.engine();
    let raw = topic(log, "raw", 2, Retention::Keep);
    let name = TopicName::new("gone").expect("a name");
    let gone = topic(log, "gone", 1, Retention::Keep)[0];
    for number in 0..150_u64 {
        let partition = raw[usize::try_from(number % 2).expect("small")];
        append(log, partition, &payload(number, 1 << 20)).expect("it is stored");
        append(log, gone, &payload(number, 1000)).expect("it is stored");
        if number == 20 {
            wait(log.trim(raw[1], Offset(5))).expect("it is trimmed");
        }
        settled(log);
    }
    wait(log.delete_topic(&name)).expect("it is deleted");
    settled(log);
    let all = contents(log);
    until(log, |log| log.status().packs <= 3);
    let status = log.status();
    assert!(status.settled_bytes >= 9 * SLOT_BYTES, "{status:?}");
    assert!(status.packs_made_bytes > status.pack_bytes, "what was merged was written before");
    assert_same(&contents(log), &all);
    assert_eq!(records(log, raw[0]).len(), 75);
    let report = log.verify(&mut |_| {}).expect("it reads");
    assert!(report.clean, "{report}");
    machine.crash(Crash::Power);
    let report = machine.verify().expect("it opens");
    assert!(report.clean, "{report}");
    machine.open().expect("it opens");
    assert_same(&contents(machine.engine()), &all);
    let files = machine.disk.packs_folder().expect("it is there");
    // One may be in the making.
    assert!((1..=4).contains(&files.len()), "{files:?}");
}

#[test]
fn of_a_compacted_topic_the_last_record_of_each_key_stays_with_its_offset() {
    let mut machine = Machine::with(12, settling());
    let log = machine.engine();
    let keys = topic(log, "_keys", 1, Retention::Compact)[0];
    let fill = topic(log, "fill", 1, Retention::Keep)[0];
    set(log, keys, b"once", b"written");
    let mut last = Offset::ZERO;
    for number in 0..400_u64 {
        last = set(log, keys, b"often", &payload(number, 1_000));
        append(log, fill, &payload(number, 100 << 10)).expect("it is stored");
    }
    settled(log);
    let left = records(log, keys);
    let offsets: Vec<u64> = left.keys().copied().collect();
    assert!(offsets.len() < 200 && offsets[0] == 0, "{} records are left", offsets.len());
    assert_eq!(offsets.last(), Some(&last.0));
    let extent = log.extent(keys).expect("it is there");
    assert_eq!((extent.start, extent.end), (Offset::ZERO, Offset(401)));
    let asked = Fetch {
        from: vec![(keys, Offset(1))],
        bytes_max: 4 << 20,
        wait: false,
        mode: FetchMode::Replay,
    };
    let part = wait(log.fetch(asked)).expect("it reads").partitions.remove(0);
    assert!(part.damage.is_empty(), "what is compacted is not missed: {:?}", part.damage);
    let report = log.verify(&mut |_| {}).expect("it reads");
    assert!(report.clean, "{report}");
    machine.crash(Crash::Power);
    let report = machine.verify().expect("it opens");
    assert!(report.clean, "{report}");
    machine.open().expect("it opens");
    // More may be compacted by now, or what no checkpoint knew yet less.
    let again = records(machine.engine(), keys);
    assert!(left.iter().all(|(offset, record)| again.get(offset).is_none_or(|it| it == record)));
    assert_eq!((again.keys().next(), again.keys().last()), (Some(&0), Some(&last.0)));
}

#[test]
fn a_pack_takes_less_than_the_segments_that_it_replaces() {
    let (machine, ..) = with_packs(2, settling());
    let status = machine.engine().status();
    assert!(status.pack_bytes < status.settled_bytes / 2, "{status:?}");
    let folder = machine.disk.journal_folder().expect("it is there");
    assert!(folder.slots.len() <= 6, "slots beyond a few are given back: {:?}", folder.slots);
}

#[test]
fn a_fetch_takes_no_more_of_a_pack_than_it_asks_for_but_for_one_batch() {
    let (machine, raw, all) = with_packs(3, settling());
    let log = machine.engine();
    for bytes_max in [1, 100 << 10, 300 << 10, 2 << 20] {
        let mut from = Offset::ZERO;
        let mut found = Vec::new();
        let end = log.extent(raw[0]).expect("it is there").end;
        while from < end {
            let fetch = Fetch {
                from: vec![(raw[0], from)],
                bytes_max,
                wait: false,
                mode: FetchMode::Replay,
            };
            let part = wait(log.fetch(fetch)).expect("it reads").partitions.remove(0);
            let bytes: usize = part.batches.iter().map(|batch| batch.bytes().len()).sum();
            assert!(bytes <= bytes_max || part.batches.len() == 1, "{bytes} of {bytes_max}");
            assert!(part.damage.is_empty() && part.next > from);
            for batch in &part.batches {
                found.extend(batch.records().map(|(offset, _)| offset.0));
            }
            from = part.next;
        }
        let there = &all[&("raw".to_owned(), 0)];
        assert!(found.iter().eq(there.keys()), "{bytes_max}: {found:?}");
    }
}

/// A machine whose packs nobody has read since it opened.
fn with_unread_packs(seed: u64, options: Options) -> (Machine, PartitionId) {
    let mut machine = Machine::with(seed, options);
    let raw = topic(machine.engine(), "raw", 1, Retention::Keep)[0];
    for number in 0..400 {
        append(machine.engine(), raw, &noise(number, 100 << 10)).expect("it is stored");
    }
    settled(machine.engine());
    machine.reopen();
    assert_eq!(machine.engine().status().frames_decoded, 0, "nobody has read");
    (machine, raw)
}

fn read_one(log: &Engine, partition: PartitionId, from: u64) {
    let from = vec![(partition, Offset(from))];
    let fetch = Fetch { from, bytes_max: 1, wait: false, mode: FetchMode::Replay };
    let part = wait(log.fetch(fetch)).expect("it reads").partitions.remove(0);
    assert_eq!(part.batches.len(), 1);
}

#[test]
fn a_record_is_read_by_its_offset_with_one_frame_decoded() {
    let (machine, raw) = with_unread_packs(50, settling());
    let log = machine.engine();
    for (decoded, offset) in [(1, 200), (1, 200), (2, 20), (3, 300)] {
        read_one(log, raw, offset);
        assert_eq!(log.status().frames_decoded, decoded, "at {offset}");
    }
}

#[test]
fn readers_of_one_frame_at_once_have_it_decoded_once() {
    let (machine, raw) = with_unread_packs(51, settling());
    for (decoded, offset) in [(1, 20), (2, 200), (3, 300)] {
        let begins = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    begins.wait();
                    read_one(machine.engine(), raw, offset);
                });
            }
        });
        assert_eq!(machine.engine().status().frames_decoded, decoded, "at {offset}");
    }
}

#[test]
fn what_is_kept_of_frames_stays_within_its_bound_but_for_the_one_being_read() {
    const KEPT_BYTES: u64 = 1 << 20;
    const FRAME_BYTES: u64 = 512 << 10;
    let bound = Options { frame_bytes: KEPT_BYTES, ..settling() };
    let (machine, raw) = with_unread_packs(52, bound);
    let log = machine.engine();
    let mut kept_most = 0;
    for offset in 0..300 {
        read_one(log, raw, offset);
        kept_most = kept_most.max(log.status().frame_bytes);
    }
    assert!(log.status().frames_decoded * FRAME_BYTES > 20 * KEPT_BYTES, "much more went by");
    assert!((KEPT_BYTES / 2..=KEPT_BYTES + FRAME_BYTES).contains(&kept_most), "{kept_most}");
}

#[test]
fn times_are_found_in_packs() {
    let (machine, raw, _) = with_packs(4, settling());
    let log = machine.engine();
    for partition in raw {
        for batch in batches(log, partition) {
            let at = |time| wait(log.offset_at(partition, TimeKind::Append, time));
            assert_eq!(at(batch.append_time()), Ok(batch.base_offset()));
            let after = TimeMicros(batch.append_time().0 + 1);
            assert_eq!(at(after), Ok(batch.end_offset()));
        }
    }
}

#[test]
fn what_is_trimmed_before_it_is_settled_is_in_no_pack() {
    let mut machine = Machine::with(5, Options { hot_bytes: None, ..options() });
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    for number in 0..60 {
        append(log, raw, &payload(number, 1 << 20)).expect("it is stored");
    }
    wait(log.trim(raw, Offset(40))).expect("it is trimmed");
    let left = records(log, raw);
    machine.stop();
    machine.options = settling();
    machine.open().expect("it opens");
    let log = machine.engine();
    settled(log);
    assert_eq!(records(log, raw), left);
    let status = log.status();
    assert!(status.packs > 0 && status.pack_bytes < 25 << 20, "{status:?}");
    machine.stop();
    let report = machine.verify().expect("it opens");
    assert!(report.clean, "{report}");
}

#[test]
fn a_pack_that_nothing_names_goes_at_the_next_opening() {
    let (mut machine, _, all) = with_packs(6, settling());
    machine.stop();
    let stray = PackId { first: 9_000, last: 9_001, generation: 1 };
    machine.disk.set_file(&FileName::Pack(stray), Some(vec![7; 8192]));
    machine.open().expect("it opens");
    assert_same(&contents(machine.engine()), &all);
    let packs = machine.disk.packs_folder().expect("it is there");
    assert!(packs.iter().all(|(pack, _)| *pack != stray), "{packs:?}");
}

#[test]
fn a_rotten_pack_costs_what_is_in_it_and_is_told() {
    let (mut machine, raw, all) = with_packs(7, settling());
    machine.stop();
    let packs = machine.disk.packs_folder().expect("it is there");
    let name = FileName::Pack(packs[0].0);
    let good = machine.disk.read_file(&name).expect("it is there");
    let at = |byte: usize| {
        let mut bad = good.clone();
        bad[byte] ^= 1;
        bad
    };
    // A frame: only what is in it is lost.
    machine.disk.set_file(&name, Some(at(100)));
    let report = machine.verify().expect("it opens");
    assert!(!report.clean && report.damaged.records > 0, "{report}");
    machine.open().expect("it opens");
    let log = machine.engine();
    let there = records(log, raw[2]);
    let before = &all[&("raw".to_owned(), 2)];
    assert!(there.iter().all(|(offset, bytes)| before[offset] == *bytes));
    assert_eq!(log.extent(raw[2]).expect("it is there").end.0, before.len() as u64);
    machine.stop();
    // The trailer: nothing of it is to be found, and the log opens and goes on.
    machine.disk.set_file(&name, Some(at(good.len() - 20)));
    machine.open().expect("it opens");
    let notes = &machine.engine().report().notes;
    assert!(notes.iter().any(|note| matches!(note, Note::Pack { .. })), "{notes:?}");
    let log = machine.engine();
    let next = append(log, raw[0], b"more").expect("it goes on");
    assert_eq!(next.0, all[&("raw".to_owned(), 0)].len() as u64, "no offset is given twice");
    assert_eq!(log.extent(raw[0]).expect("it is there").start, Offset::ZERO);
    machine.stop();
    // Put back, all is as it was.
    machine.disk.set_file(&name, Some(good));
    machine.open().expect("it opens");
    assert_eq!(records(machine.engine(), raw[2]), *before);
}

#[test]
fn a_full_disk_keeps_the_segments_and_settles_when_there_is_room() {
    let mut machine = Machine::with(8, Options { hot_bytes: None, ..options() });
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    for number in 0..40 {
        append(log, raw, &payload(number, 1 << 20)).expect("it is stored");
    }
    let all = contents(log);
    machine.stop();
    let used: u64 = {
        let folder = machine.disk.journal_folder().expect("it is there");
        folder.slots.iter().map(|(_, bytes)| bytes).sum()
    };
    machine.options = settling();
    machine.disk.set_capacity(used + SLOT_BYTES + (1 << 20));
    machine.open().expect("it opens");
    assert_same(&contents(machine.engine()), &all);
    machine.disk.set_capacity(u64::MAX >> 1);
    let log = machine.engine();
    for number in 0..20 {
        append_in_time(log, raw, &payload(number, 1 << 20));
    }
    settled(log);
    assert!(records(log, raw).len() == 60);
}

#[test]
fn packs_on_a_real_file_system_are_read_and_verified() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || Engine::open(folder.path(), &settling()).expect("it opens");
    let log = open();
    let raw = topic(&log, "raw", 3, Retention::Keep);
    for number in 0..300_u64 {
        let partition = raw[usize::try_from(number % 3).expect("small")];
        append(&log, partition, &payload(number, 200 << 10)).expect("it is stored");
    }
    let all = contents(&log);
    settled(&log);
    assert_same(&contents(&log), &all);
    drop(log);
    let log = open();
    assert_same(&contents(&log), &all);
    drop(log);
    let report = verify(folder.path(), &mut |_| {}).expect("it reads");
    assert!(report.clean && report.packs > 0, "{report}");
    let packs = std::fs::read_dir(folder.path().join("packs")).expect("it is there");
    for pack in packs {
        let path = pack.expect("it is there").path();
        let seen = tracklog_engine::inspect(&path).expect("it is a pack");
        assert_eq!(seen.kind, "pack");
        assert!(seen.lines.len() >= 3, "{seen}");
        std::fs::write(&path, vec![7; 8192]).expect("it can be written");
        let seen = tracklog_engine::inspect(&path).expect_err("it is none any more");
        assert!(seen.to_string().contains("torn or rotten"), "{seen}");
    }
}

fn limit(log: &Engine, topic: &str, limits: Limits) {
    let name = TopicName::new(topic).expect("a name");
    wait(log.set_limits(&name, limits)).expect("it is limited");
}

fn append_event_of_2019(log: &Engine, partition: PartitionId) -> Offset {
    let mut builder = EventBuilder::new();
    let event_time = TimeMicros(1_560_000_000_000_000);
    let record =
        builder.build(&EventParts { message_id: "m", event_time, ..EventParts::default() });
    wait(submit(log, &[(partition, record)])).expect("it is stored").offset(0)
}

/// Waits until the partition starts at `start` or later.
fn starts(log: &Engine, partition: PartitionId, start: u64) {
    until(log, |log| log.extent(partition).expect("it is there").start.0 >= start);
}

#[test]
fn age_counts_from_the_append_whatever_time_clients_said() {
    let day = Duration::from_secs(86_400);
    let mut machine = Machine::with(10, settling());
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    let keep = topic(log, "keep", 1, Retention::Keep)[0];
    limit(log, "raw", Limits { age: Some(7 * day), ..Limits::default() });
    for _ in 0..1_000 {
        append_event_of_2019(log, raw);
    }
    append(log, keep, b"for ever").expect("it is stored");
    machine.disk.advance(6 * day);
    machine.reopen();
    let log = machine.engine();
    assert_eq!(records(log, raw).len(), 1_000, "all stay for seven days after they were appended");
    machine.disk.advance(day + Duration::from_secs(1));
    machine.reopen();
    let log = machine.engine();
    starts(log, raw, 1_000);
    assert_eq!(log.extent(raw), Some(Extent { start: Offset(1_000), end: Offset(1_000) }));
    assert_eq!(records(log, keep).len(), 1);
    // Offsets go on after everything has expired, across restarts.
    machine.reopen();
    assert_eq!(append_event_of_2019(machine.engine(), raw), Offset(1_000));
    machine.stop();
    let report = machine.verify().expect("it opens");
    assert!(report.clean, "{report}");
}

#[test]
fn what_is_beyond_its_bytes_leaves_the_disk_and_the_newest_stay() {
    let mut machine = Machine::with(11, settling());
    let log = machine.engine();
    let raw = topic(log, "raw", 2, Retention::Keep);
    let keep = topic(log, "keep", 1, Retention::Keep)[0];
    limit(log, "raw", Limits { bytes: Some(4 << 20), ..Limits::default() });
    for number in 0..120_u64 {
        let partition = raw[usize::try_from(number % 2).expect("small")];
        append(log, partition, &noise(number, 1 << 20)).expect("it is stored");
        append(log, keep, &payload(number, 100)).expect("it is stored");
    }
    settled(log);
    starts(log, raw[0], 30);
    until(log, |log| log.status().pack_bytes < 40 << 20);
    let id = log.topic("raw").expect("it is there").id;
    let bytes = log.topic_bytes(id).expect("it is known");
    assert!((4 << 20..40 << 20).contains(&bytes), "{bytes}");
    assert_eq!(records(log, keep).len(), 120, "others keep what they have");
    for partition in &raw {
        let extent = log.extent(*partition).expect("it is there");
        assert_eq!(extent.end, Offset(60));
        assert_eq!(records(log, *partition).len() as u64, 60 - extent.start.0);
    }
    let asked = Fetch {
        from: vec![(raw[0], Offset::ZERO)],
        bytes_max: 1 << 20,
        wait: false,
        mode: FetchMode::Replay,
    };
    let extent = log.extent(raw[0]).expect("it is there");
    let told = wait(log.fetch(asked)).expect_err("it is gone");
    let asked = Offset::ZERO;
    assert_eq!(told, FetchError::OutOfRange { partition: raw[0], asked, extent });
    let all = contents(log);
    machine.crash(Crash::Power);
    let report = machine.verify().expect("it opens");
    assert!(report.clean, "{report}");
    machine.open().expect("it opens");
    // The segment that was being written is full now: a little more may go.
    let again = contents(machine.engine());
    for (partition, records) in &again {
        let before = &all[partition];
        assert!(records.iter().all(|(offset, record)| before.get(offset) == Some(record)));
        assert_eq!(records.keys().last(), before.keys().last(), "{partition:?}");
    }
}

/// Nothing is settled for its age, whether all of the log is hot or settling is off.
fn hot() -> [Options; 2] {
    [Options { hot_bytes: None, ..options() }, Options { hot_bytes: Some(1 << 40), ..options() }]
}

#[test]
fn what_nobody_can_read_leaves_the_disk_where_nothing_is_settled_too() {
    for (seed, options) in (40..).zip(hot()) {
        let mut machine = Machine::with(seed, options);
        let log = machine.engine();
        let raw = topic(log, "raw", 2, Retention::Keep);
        let keys = topic(log, "_keys", 1, Retention::Compact)[0];
        limit(log, "raw", Limits { bytes: Some(1 << 20), ..Limits::default() });
        set(log, keys, b"once", b"written");
        for number in 0..320_u64 {
            let partition = raw[usize::try_from(number % 2).expect("small")];
            append(log, partition, &noise(number, 1 << 20)).expect("it is stored");
            set(log, keys, format!("key {}", number % 5).as_bytes(), &payload(number, 100));
        }
        until(log, |log| log.status().segments <= 3);
        until(log, |_| machine.disk.journal_folder().expect("it is there").slots.len() <= 12);
        let status = log.status();
        assert!(status.pack_bytes < 1 << 20, "packs hold what is left, and no more: {status:?}");
        let last: Vec<Vec<u8>> = records(log, keys).into_values().rev().take(5).collect();
        machine.crash(Crash::Power);
        let report = machine.verify().expect("it opens");
        assert!(report.clean, "{report}");
        machine.open().expect("it opens");
        let log = machine.engine();
        let there = records(log, keys);
        assert_eq!(there.keys().next(), Some(&0), "a live record stays, and its offset");
        assert!(there.into_values().rev().take(5).eq(last));
        for partition in raw {
            let extent = log.extent(partition).expect("it is there");
            assert!(extent.end == Offset(160) && extent.start > Offset(130), "{extent:?}");
            let there = records(log, partition);
            // The opening may have filled a segment: more goes while it is read.
            let start = log.extent(partition).expect("it is there").start.0;
            let left = there.into_keys().filter(|offset| *offset >= start);
            assert!(left.eq(start..160), "the newest stay");
            assert_eq!(append(log, partition, b"next"), Ok(Offset(160)));
        }
        machine.reopen();
        assert!(machine.engine().verify(&mut |_| {}).expect("it reads").clean);
    }
}

#[test]
fn what_is_too_old_leaves_the_disk_where_nothing_is_settled_too() {
    let day = Duration::from_secs(86_400);
    for (seed, options) in (42..).zip(hot()) {
        let mut machine = Machine::with(seed, options);
        let log = machine.engine();
        let raw = topic(log, "raw", 1, Retention::Keep)[0];
        let keep = topic(log, "keep", 1, Retention::Keep)[0];
        limit(log, "raw", Limits { age: Some(7 * day), ..Limits::default() });
        for number in 0..80 {
            append(log, raw, &noise(number, 1 << 20)).expect("it is stored");
        }
        append(log, keep, b"for ever").expect("it is stored");
        machine.disk.advance(6 * day);
        machine.reopen();
        assert_eq!(records(machine.engine(), raw).len(), 80);
        assert_eq!(machine.engine().status().packs, 0, "what can be read stays as it is");
        machine.disk.advance(day + Duration::from_secs(1));
        machine.reopen();
        let log = machine.engine();
        until(log, |log| log.status().segments <= 2);
        assert_eq!(log.extent(raw), Some(Extent { start: Offset(80), end: Offset(80) }));
        machine.crash(Crash::Power);
        let report = machine.verify().expect("it opens");
        assert!(report.clean, "{report}");
        machine.open().expect("it opens");
        assert_eq!(append(machine.engine(), raw, b"next"), Ok(Offset(80)));
        assert_eq!(records(machine.engine(), keep).len(), 1);
    }
}

#[test]
fn what_can_be_read_keeps_its_segment_and_those_behind_it_where_nothing_is_settled() {
    for (seed, options) in (44..).zip(hot()) {
        let mut machine = Machine::with(seed, options);
        let raw = topic(machine.engine(), "raw", 1, Retention::Keep)[0];
        let keep = topic(machine.engine(), "keep", 1, Retention::Keep)[0];
        for number in 0..20 {
            append(machine.engine(), keep, &noise(number, 1 << 20)).expect("it is stored");
        }
        for number in 0..60 {
            append(machine.engine(), raw, &noise(number, 1 << 20)).expect("it is stored");
        }
        let before = contents(machine.engine());
        wait(machine.engine().trim(raw, Offset(60))).expect("it is trimmed");
        machine.reopen();
        machine.reopen();
        let status = machine.engine().status();
        assert!(status.packs == 0 && status.segments >= 5, "{status:?}");
        assert_eq!(records(machine.engine(), keep), before[&("keep".to_owned(), 0)]);
    }
}

/// Appends events of these numbers, each once, and tells what became of each.
fn once(log: &Engine, partition: PartitionId, numbers: std::ops::Range<u64>) -> Vec<Verdict> {
    let ids: Vec<String> = numbers.map(|number| format!("m-{number}")).collect();
    let mut events = Records::new();
    for message_id in &ids {
        let parts = EventParts { message_id, name: Some("shown"), ..EventParts::default() };
        events.push(EventBuilder::new().build(&parts));
    }
    let items: Vec<Item<'_>> =
        events.iter().map(|record| Item::Record { partition, record }).collect();
    let epoch = wait(log.open(Domain::WHOLE)).expect("it is open");
    let append = Append { conditions: &[], items: &items };
    let done = wait(append_once(log, Lane::FIRST_SOURCE, epoch, append)).expect("it is stored");
    done.verdicts
}

#[test]
fn an_event_that_is_settled_is_known_again_over_restarts_and_merges() {
    let name = TopicName::new("raw").expect("a name");
    let window = Duration::from_secs(86_400);
    let dedupe = vec![Dedupe { topic: name, window }];
    let mut machine = Machine::with(13, Options { dedupe, ..settling() });
    let log = machine.engine();
    let raw = topic(log, "raw", 2, Retention::Keep);
    let fill = topic(log, "fill", 1, Retention::Keep)[0];
    for number in 0..140_u64 {
        let partition = raw[usize::try_from(number % 2).expect("small")];
        let stored = once(log, partition, number * 10..number * 10 + 10);
        assert!(stored.iter().all(|verdict| verdict.kind == VerdictKind::Stored));
        append(log, fill, &payload(number, 1 << 20)).expect("it is stored");
        settled(log);
    }
    // Of nine segments eight became one.
    until(log, |log| log.status().packs <= 2);
    for _ in 0..2 {
        let log = machine.engine();
        for number in 0..140_u64 {
            // Whatever partition it comes to.
            let first = raw[usize::try_from(number % 2).expect("small")];
            for partition in &raw {
                for (verdict, nth) in
                    once(log, *partition, number * 10..number * 10 + 10).iter().zip(0..)
                {
                    let offset = Offset(number / 2 * 10 + nth);
                    let kind = VerdictKind::Duplicate;
                    assert_eq!(*verdict, Verdict { partition: first, offset, kind }, "{number}");
                }
            }
        }
        machine.crash(Crash::Power);
        machine.open().expect("it opens");
    }
    let log = machine.engine();
    // Each opening left another segment, which may be settled by now.
    assert!(log.status().packs <= 4, "{:?}", log.status());
    assert_eq!(records(log, raw[0]).len() + records(log, raw[1]).len(), 1_400);
}

#[test]
fn at_its_limit_a_journal_waits_for_its_settler_and_drops_nothing() {
    let limited = Options {
        journal_bytes_max: Some(5 * SLOT_BYTES),
        when_full: WhenFull::DropOldest,
        ..settling()
    };
    let mut machine = Machine::with(14, limited);
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    for number in 0..200 {
        append_in_time(log, raw, &payload(number, 1 << 20));
    }
    assert_eq!(log.extent(raw), Some(Extent { start: Offset::ZERO, end: Offset(200) }));
    assert_eq!(records(log, raw).len(), 200);
    machine.reopen();
    assert_eq!(records(machine.engine(), raw).len(), 200);
}

#[test]
fn before_the_disk_is_full_topics_that_allow_it_give_up_their_oldest_and_no_others_do() {
    let mut machine = Machine::with(17, settling());
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    let derived = topic(log, "derived", 2, Retention::Keep);
    let name = TopicName::new("derived").expect("a name");
    limit(log, "derived", Limits { when_full: WhenFull::DropOldest, ..Limits::default() });
    let day = Duration::from_secs(86_400);
    limit(log, "raw", Limits { age: Some(7 * day), ..Limits::default() });
    machine.disk.set_capacity(14 * SLOT_BYTES);
    for number in 0..300_u64 {
        let partition = derived[usize::try_from(number % 2).expect("small")];
        append_in_time(log, partition, &noise(number, 1 << 20));
        append_in_time(log, raw, &noise(number, 20 << 10));
    }
    settled(log);
    assert_eq!(log.extent(raw), Some(Extent { start: Offset::ZERO, end: Offset(300) }));
    assert_eq!(records(log, raw).len(), 300, "what may not go is there");
    for partition in &derived {
        // More may go meanwhile.
        let (extent, there) = loop {
            let extent = log.extent(*partition).expect("it is there");
            let there = records(log, *partition).len() as u64;
            if log.extent(*partition) == Some(extent) {
                break (extent, there);
            }
        };
        assert_eq!(extent.end, Offset(150));
        assert!((75..150).contains(&extent.start.0), "the newest stay: {extent:?}");
        assert_eq!(there, 150 - extent.start.0);
    }
    let all = contents(log);
    machine.crash(Crash::Power);
    let report = machine.verify().expect("it opens");
    assert!(report.clean, "{report}");
    machine.open().expect("it opens");
    assert_eq!(contents(machine.engine())[&("raw".to_owned(), 0)], all[&("raw".to_owned(), 0)]);

    // As soon as it may not go any more, appends are refused instead.
    limit(machine.engine(), name.as_str(), Limits::default());
    let refused = (0..400)
        .find_map(|number| append(machine.engine(), derived[0], &noise(number, 1 << 20)).err());
    assert!(matches!(refused, Some(AppendError::Full { .. })), "{refused:?}");
}

#[test]
fn a_pack_that_cannot_be_written_anew_keeps_nothing_from_going_when_the_disk_is_full() {
    let mut machine = Machine::with(18, settling());
    let derived = topic(machine.engine(), "derived", 1, Retention::Keep)[0];
    let drops = Limits { when_full: WhenFull::DropOldest, ..Limits::default() };
    limit(machine.engine(), "derived", drops);
    for number in 0..60 {
        append(machine.engine(), derived, &noise(number, 1 << 20)).expect("there is room");
    }
    settled(machine.engine());
    machine.stop();
    let oldest = FileName::Pack(machine.disk.packs_folder().expect("it is there")[0].0);
    let mut file = machine.disk.read_file(&oldest).expect("it is there");
    let frames = file.len() - (1 << 20);
    for at in (0..frames).step_by(100 << 10) {
        file[at] ^= 1;
    }
    machine.disk.set_file(&oldest, Some(file));
    machine.open().expect("it opens");
    let log = machine.engine();
    wait(log.trim(derived, Offset(4))).expect("it is trimmed");
    machine.disk.set_capacity(14 * SLOT_BYTES);
    for number in 60..360 {
        append_in_time(log, derived, &noise(number, 1 << 20));
    }
    let extent = log.extent(derived).expect("it is there");
    assert!(extent.end == Offset(360) && extent.start > Offset(150), "{extent:?}");
}

#[test]
fn what_lies_in_a_pack_that_cannot_be_read_is_not_expired() {
    let (mut machine, raw, all) = with_packs(15, settling());
    let day = Duration::from_secs(86_400);
    limit(
        machine.engine(),
        "raw",
        Limits { age: Some(7 * day), bytes: Some(1), ..Limits::default() },
    );
    machine.stop();
    let packs = machine.disk.packs_folder().expect("it is there");
    let name = FileName::Pack(packs[0].0);
    let good = machine.disk.read_file(&name).expect("it is there");
    machine.disk.set_file(&name, Some(vec![7; 8192]));
    machine.options.hot_bytes = None;
    for _ in 0..2 {
        machine.open().expect("it opens");
        let extent = machine.engine().extent(raw[1]).expect("it is there");
        assert_eq!(extent.start, Offset::ZERO, "it is young, wherever it is");
        machine.stop();
    }
    machine.disk.set_file(&name, Some(good));
    machine.open().expect("it opens");
    let before = &all[&("raw".to_owned(), 1)];
    let there = records(machine.engine(), raw[1]);
    assert!(there.iter().all(|(offset, record)| before[offset] == *record) && !there.is_empty());
}

#[test]
fn packs_without_a_journal_are_no_empty_folder() {
    let (mut machine, ..) = with_packs(16, settling());
    machine.stop();
    let files = machine.disk.packs_folder().expect("it is there");
    machine.disk.set_file(&FileName::CheckpointA, None);
    machine.disk.set_file(&FileName::CheckpointB, None);
    let journal = machine.disk.journal_folder().expect("it is there");
    for (slot, _) in journal.slots {
        machine.disk.remove_slot(slot).expect("it is removed");
    }
    machine.open().expect_err("what is there must not be taken for nothing");
    assert_eq!(machine.disk.packs_folder().expect("it is there"), files);
}
