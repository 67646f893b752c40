//! Logs written by each released version of the format, opened by this program.
//!
//! `testdata/vN` holds the files of a small log, each compressed with zstd, and `contents.txt`,
//! every record in it, a line each. They are kept for ever: what was written once can be read.
//! So do logs of one version that differ in what it lets older programs pass over.
//!
//! A new one gets a folder of its own, with
//! `cargo test -p tracklog-engine --test it -- --ignored write_the_golden_log`, which writes the
//! last of [`LOGS`]. Do that for one that is not released yet only.

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tracklog_engine::disk::simulated::{Crash, SimDisk};
use tracklog_engine::disk::{Disk, FileName, PackId, SlotId};
use tracklog_engine::{BackendChoice, Engine, OfflineLog, Options, verify};
use tracklog_log::dedupe::{Outcomes, VerdictKind, append_once};
use tracklog_log::{
    Append, AppendError, Dedupe, Domain, Item, Lane, Log, Retention, Stored, TopicName,
};
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::event::{EventBuilder, EventKind, EventParts};
use tracklog_protocol::rejected::{RejectedBuilder, RejectedParts};
use tracklog_protocol::{
    BatchView, KeyValue, Offset, PartitionId, PayloadKind, ProducerEpoch, ProducerId, Record,
    Records, Sequence, TimeMicros, VerifiedBatch,
};

use crate::rig::{
    Machine, SLOT_BYTES, append, batches, noise, options, payload, set, settled, submit, topic,
    wait,
};

/// All that were ever written; the last is as this program writes them.
const LOGS: [&str; 3] = ["v1", WITH_PRODUCERS, WITH_PACKS];
/// Version 1, with idempotent producers in checkpoints.
const WITH_PRODUCERS: &str = "v1-producers";
/// The same with packs of version 2: columns, frames of the two other ways, and an index of ids.
const WITH_PACKS: &str = "v1-packs";

fn testdata(log: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(log)
}

/// A log in a folder of its own.
fn unpacked(log: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    unpack(&testdata(log), folder.path());
    folder
}

fn unpack(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("there is room for a folder");
    for entry in fs::read_dir(from).expect("the files are in the tree") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_stem().expect("a file has a name");
        if path.is_dir() {
            unpack(&path, &to.join(name));
        } else if path.extension().is_some_and(|extension| extension == "zst") {
            let packed = fs::File::open(&path).expect("it can be read");
            let bytes = zstd::decode_all(packed).expect("it is whole");
            fs::write(to.join(name), bytes).expect("there is room");
        }
    }
}

/// All records of a log, a line each.
fn listing(log: &dyn Log) -> String {
    let mut text = String::new();
    for topic in log.topics() {
        for partition in topic.partitions() {
            let extent = log.extent(partition).expect("it is there");
            let (name, number) = (topic.name(), partition.partition);
            writeln!(text, "{name}/{number} from {} to {}", extent.start, extent.end)
                .expect("a text takes all");
            for batch in batches(log, partition) {
                list_batch(&batch, &mut text);
            }
        }
    }
    text
}

fn list_batch(batch: &BatchView, text: &mut String) {
    let header = batch.header();
    let producer = header.produced().map_or_else(String::new, |produced| {
        let next = if produced.next == produced.sequence.plus(u64::from(header.count())) {
            String::new()
        } else {
            format!(" to {}", produced.next)
        };
        format!(" producer {} {} {}{next}", produced.id, produced.epoch, produced.sequence)
    });
    for (offset, record) in batch.records() {
        let (kind, bytes) = (record.kind(), record.bytes());
        let (length, crc) = (bytes.len(), crc32fast::hash(bytes));
        let said = match record.key_value() {
            Some(KeyValue { key, value }) => {
                let value = value.map(String::from_utf8_lossy);
                format!(" {:?} = {value:?}", String::from_utf8_lossy(key))
            }
            None => String::new(),
        };
        let time = record.event_time().map_or_else(String::new, |time| format!(" at {time}"));
        writeln!(text, "  {offset} {kind:?} {length} bytes {crc:08x}{time}{producer}{said}")
            .expect("a text takes all");
    }
}

#[test]
fn logs_of_every_version_open_read_and_go_on() {
    for name in LOGS {
        let expected = fs::read_to_string(testdata(name).join("contents.txt"));
        let expected = expected.expect("it is in the tree");
        let folder = unpacked(name);
        let report = verify(folder.path(), &mut |_| {}).expect("it opens");
        assert!(report.clean, "{name}: {report}");
        {
            let log = OfflineLog::open(folder.path()).expect("it opens");
            assert_eq!(listing(&log), expected, "{name}, offline");
        }
        let options = Options { backend: BackendChoice::Blocking, ..options() };
        let log = Engine::open(folder.path(), &options).expect("it opens");
        assert_eq!(listing(&log), expected, "{name}");
        let raw = topic(&log, "raw", 2, Retention::Keep)[0];
        let end = log.extent(raw).expect("it is there").end;
        assert_eq!(append(&log, raw, b"more").expect("it is stored"), end);
        drop(log);
        let log = Engine::open(folder.path(), &options).expect("it opens again");
        assert_eq!(log.extent(raw).expect("it is there").end, end.plus(1));
        drop(log);
        let report = verify(folder.path(), &mut |_| {}).expect("it opens");
        assert!(report.clean, "{name}, gone on with: {report}");
    }
}

/// A log on a simulated disk, where it is not long since it was written.
fn simulated(log: &str) -> SimDisk {
    let (disk, folder) = (SimDisk::new(1), unpacked(log));
    disk.set_auto(true);
    for number in 0.. {
        let slot = SlotId(number);
        let Ok(bytes) = fs::read(folder.path().join("journal").join(slot.to_string())) else {
            break;
        };
        disk.create_slot(slot, bytes.len() as u64, &mut |_| {}).expect("there is room");
        disk.corrupt(slot, 0, &bytes);
    }
    let packs = packs_of(log).into_iter().map(FileName::Pack);
    for name in packs.chain([FileName::CheckpointA, FileName::CheckpointB]) {
        let bytes = fs::read(folder.path().join(name.path())).expect("it is in the tree");
        disk.set_file(&name, Some(bytes));
    }
    disk
}

/// The packs of a log, in order.
fn packs_of(log: &str) -> Vec<PackId> {
    let Ok(packs) = fs::read_dir(testdata(log).join("packs")) else { return Vec::new() };
    let packs = packs.map(|entry| {
        let path = entry.expect("it can be listed").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("packs have names");
        PackId::parse(name).expect("it is a pack's")
    });
    let mut packs: Vec<_> = packs.collect();
    packs.sort_unstable();
    packs
}

/// What becomes of a batch: its first offset, and whether it was there before.
fn sent(
    log: &dyn Log,
    partition: PartitionId,
    batch: &VerifiedBatch,
) -> Result<(u64, bool), AppendError> {
    let stored = send_batch(log, partition, batch)?;
    Ok((stored.offset(0).0, stored.is_duplicate()))
}

#[test]
fn producers_of_a_golden_log_are_known_again() {
    let mut disk = simulated(WITH_PRODUCERS);
    for _ in 0..2 {
        let log = Engine::open_on(Arc::new(disk.clone()), &options()).expect("it opens");
        let raw = topic(&log, "raw", 2, Retention::Keep)[1];
        assert_eq!(sent(&log, raw, &counted_batch(2, 0)), Ok((3, true)));
        assert_eq!(sent(&log, raw, &derived_batch(0..1 << 40)), Ok((6, true)));
        assert_eq!(sent(&log, raw, &counted_batch(2, 3)), Ok((50, true)));
        let current = ProducerEpoch(2);
        let stale = Err(AppendError::StaleProducer { item: 0, current });
        assert_eq!(sent(&log, raw, &counted_batch(1, 3)), stale);
        let expected = Err(AppendError::OutOfSequence { item: 0, expected: Sequence(6) });
        assert_eq!(sent(&log, raw, &counted_batch(2, 9)), expected);
        drop(log);
        disk = disk.reboot();
    }
}

#[test]
fn a_log_written_before_producers_were_kept_knows_none_below_its_checkpoints() {
    let disk = simulated("v1");
    let log = Engine::open_on(Arc::new(disk), &options()).expect("it opens");
    let raw = topic(&log, "raw", 2, Retention::Keep)[1];
    let expected = Err(AppendError::OutOfSequence { item: 0, expected: Sequence(0) });
    assert_eq!(sent(&log, raw, &counted_batch(2, 103)), expected);
    let end = log.extent(raw).expect("it is there").end;
    assert_eq!(sent(&log, raw, &counted_batch(2, 0)), Ok((end.0, false)));
}

#[test]
fn events_in_packs_of_a_golden_log_are_found_and_known_by_their_ids() {
    let mut disk = simulated(WITH_PACKS);
    for _ in 0..2 {
        let log = Engine::open_on(Arc::new(disk.clone()), &settling()).expect("it opens");
        let raw = topic(&log, "raw", 2, Retention::Keep);
        // What lies behind the packs may be settled at any time.
        assert!(log.status().settled_ids >= 2 * EVENTS, "{:?}", log.status());
        for (number, offset) in (0..EVENTS).zip(0_u64..).chain([(EVENTS + 7, SECOND_RUN_AT + 7)]) {
            let id = message_id(number);
            let found = wait(log.id_places(raw[0].topic, &id)).expect("it is looked for");
            let is_there = found.places.contains(&(raw[1], Offset(offset)));
            assert!(is_there && found.unindexed.is_empty(), "{id}: {found:?}");
            let again = send_events(&log, raw[1], number..number + 1).verdicts;
            let first = (again[0].partition, again[0].offset, again[0].kind);
            assert_eq!(first, (raw[1], Offset(offset), VerdictKind::Duplicate), "{id}");
        }
        let unknown = wait(log.id_places(raw[0].topic, "none")).expect("it is looked for");
        assert_eq!(unknown.places, []);
        drop(log);
        disk = disk.reboot();
    }
}

/// Events of each run.
const EVENTS: u64 = 60;
/// The offset in `raw/1` of the first event of the second run.
const SECOND_RUN_AT: u64 = 110;

/// What is full is settled, and events of `raw` are stored once.
fn settling() -> Options {
    let raw = TopicName::new("raw").expect("a topic name");
    let dedupe = vec![Dedupe { topic: raw, window: Duration::from_secs(3_600) }];
    Options { hot_bytes: Some(0), dedupe, ..options() }
}

/// What a log holds that uses all that version 1 has, producers in checkpoints and packs included.
fn write_log(machine: &mut Machine) {
    let log = machine.engine();
    let raw = topic(log, "raw", 2, Retention::Keep);
    let rejected = topic(log, "rejected", 1, Retention::Keep)[0];
    let keys = topic(log, "_keys", 1, Retention::Compact)[0];
    let gone = topic(log, "gone", 3, Retention::Keep);
    append(log, gone[2], b"of a topic that is deleted").expect("it is stored");
    send_events(log, raw[1], 0..EVENTS);
    let mut builder = RejectedBuilder::new();
    let parts = RejectedParts {
        code: "too_deep",
        message: "deeper than 64",
        body: b"[[[[",
        ..RejectedParts::default()
    };
    wait(submit(log, &[(rejected, builder.build(&parts))])).expect("it is stored");
    set(log, keys, b"colour", b"blue");
    set(log, keys, b"size", b"42");
    let mut buffer = Vec::new();
    let delete = KeyValue { key: b"size", value: None }.encode(&mut buffer);
    wait(submit(log, &[(keys, delete)])).expect("it is stored");
    // Alone in its frame, and no smaller in any way.
    let chance = topic(log, "chance", 1, Retention::Keep)[0];
    append(log, chance, &noise(1, 2_000)).expect("it is stored");
    for batch in [
        counted_batch(1, 0),
        derived_batch(0..1 << 40),
        derived_batch(1 << 40..(1 << 40) + 1),
        batch_with_blocks(),
        counted_batch(2, 3),
    ] {
        send_batch(log, raw[1], &batch).expect("it is stored");
    }
    let name = TopicName::new("gone").expect("a topic name");
    wait(log.delete_topic(&name)).expect("it was there");
    fill_a_segment(log, raw[0]);
    wait(log.trim(raw[0], Offset(2))).expect("it is stored");
    machine.crash(Crash::Kill);
    machine.open().expect("it opens again");
    let log = machine.engine();
    append(log, raw[0], b"of the second run").expect("it is stored");
    send_events(log, raw[1], EVENTS..2 * EVENTS);
    set(log, keys, b"colour", b"red");
    fill_a_segment(log, raw[0]);
    send_events(log, raw[1], 2 * EVENTS..2 * EVENTS + 1);
}

/// Goes on into another segment, and waits for the pack that becomes of the one before.
fn fill_a_segment(log: &Engine, to: PartitionId) {
    for number in 0..16 {
        append(log, to, &payload(number, 1 << 20)).expect("it is stored");
    }
    settled(log);
}

/// Events as they come to a node, some in a batch and some in one of their own.
fn send_events(log: &Engine, to: PartitionId, numbers: Range<u64>) -> Outcomes {
    let (mut records, mut builder) = (Records::new(), EventBuilder::new());
    let kinds = [EventKind::Track, EventKind::Identify, EventKind::Page];
    for number in numbers {
        let id = message_id(number);
        let properties = format!(r#"{{"price":{number}.50,"currency":"EUR","n":[{number},null]}}"#);
        let time = TimeMicros(1_767_225_600_000_000 - number.cast_signed() * 1_234_567);
        let sent = format!("2026-01-01T00:00:{:02}.5Z", number % 60);
        records.push(builder.build(&EventParts {
            message_id: &id,
            kind: kinds[usize::try_from(number % 3).expect("small")],
            name: Some(["Order Completed", "Seen"][usize::from(number % 5 == 0)]),
            source: Some("web"),
            anonymous_id: Some("device-1"),
            event_time: time,
            received_time: time,
            sent_time_text: Some(&sent),
            properties: Some(&properties),
            context: Some(r#"{"page":{"path":"/a"},"library":{"name":"x"}}"#),
            ..EventParts::default()
        }));
    }
    let items: Vec<_> =
        records.iter().map(|record| Item::Record { partition: to, record }).collect();
    let epoch = wait(log.open(Domain::WHOLE)).expect("it opens");
    let append = Append { conditions: &[], items: &items };
    wait(append_once(log, Lane::FIRST_SOURCE, epoch, append)).expect("they are stored")
}

/// One half of the ids are made at random, as SDKs do.
fn message_id(number: u64) -> String {
    if number.is_multiple_of(2) {
        format!("{:08x}-{number:04x}-4c7d-9a52-2f1b0a55abcd", number * 0x0101_4943)
    } else {
        format!("message-{number}")
    }
}

/// Three records of producer 7.
fn counted_batch(epoch: u32, sequence: u64) -> VerifiedBatch {
    let (epoch, sequence) = (ProducerEpoch(epoch), Sequence(sequence));
    let builder = BatchBuilder::new(PayloadKind::Opaque);
    let mut batch = builder.produced_by(ProducerId(7), epoch, sequence);
    for text in ["one", "", "three, which is longer"] {
        batch.push(Record::opaque(text.as_bytes()));
    }
    batch.finish()
}

/// Two records of producer 8.
fn derived_batch(stretch: Range<u64>) -> VerifiedBatch {
    let stretch = Sequence(stretch.start)..Sequence(stretch.end);
    let builder = BatchBuilder::new(PayloadKind::Opaque);
    let mut batch = builder.derived_by(ProducerId(8), ProducerEpoch(0), stretch);
    batch.push(Record::opaque(b"derived from much"));
    batch.push(Record::opaque(b"and kept"));
    batch.finish()
}

fn batch_with_blocks() -> VerifiedBatch {
    let mut batch = BatchBuilder::new(PayloadKind::Opaque);
    for number in 0..40 {
        batch.push(Record::opaque(&payload(number, 20_000)));
    }
    batch.finish()
}

fn send_batch(
    log: &dyn Log,
    partition: PartitionId,
    batch: &VerifiedBatch,
) -> Result<Stored, AppendError> {
    let epoch = wait(log.open(Domain::WHOLE)).expect("it opens");
    let permit = log.reserve(Lane::FIRST_SOURCE, batch.view().bytes().len());
    let permit = permit.expect("there is room in the budget");
    let items = [Item::Batch { partition, batch }];
    wait(log.append(permit, epoch, Append { conditions: &[], items: &items }))
}

#[test]
#[ignore = "writes the last golden log anew"]
fn write_the_golden_log() {
    let mut machine = Machine::with(2026, settling());
    write_log(&mut machine);
    machine.stop();
    let folder = testdata(WITH_PACKS);
    let pack = |path: &str, bytes: &[u8]| {
        let path = folder.join(format!("{path}.zst"));
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("it is ours");
        let packed = zstd::encode_all(bytes, 19).expect("memory takes all");
        fs::write(path, packed).expect("it is ours");
    };
    let disk = &machine.disk;
    let journal = disk.journal_folder().expect("it lists");
    for (slot, _) in journal.slots {
        let bytes = usize::try_from(SLOT_BYTES).expect("a slot fits into memory");
        pack(&format!("journal/{slot}"), &disk.peek(slot, 0, bytes));
    }
    let indexes = journal.indexes.into_iter().map(FileName::Index);
    let packs = disk.packs_folder().expect("it lists").into_iter();
    let packs = packs.map(|(pack, _)| FileName::Pack(pack));
    let checkpoints = [FileName::CheckpointA, FileName::CheckpointB];
    for name in indexes.chain(packs).chain(checkpoints) {
        pack(&name.path(), &disk.read_file(&name).expect("it is there"));
    }
    let log = OfflineLog::open_on(Arc::new(disk.clone())).expect("it opens");
    let text = listing(&log.expect("there is a log"));
    fs::write(folder.join("contents.txt"), text).expect("it is ours");
}
