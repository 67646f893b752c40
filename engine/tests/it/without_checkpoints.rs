//! Logs with packs of which no checkpoint is left: what packs and journal add up to.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tracklog_engine::disk::simulated::{Crash, Lasting};
use tracklog_engine::disk::{Disk, FileName};
use tracklog_engine::{Engine, Note, Options};
use tracklog_log::{
    Append, AppendError, Condition, Domain, Extent, Item, Lane, Limits, Log, Retention, Stored,
    TopicName,
};
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::{
    KeyValue, Offset, PartitionId, PayloadKind, ProducerEpoch, ProducerId, Record, Sequence,
};

use crate::rig::{
    Machine, append, assert_same, contents, options, payload, records, set, settled, topic, until,
    wait,
};

fn settling() -> Options {
    Options { hot_bytes: Some(0), ..options() }
}

fn extents(log: &Engine) -> BTreeMap<PartitionId, Extent> {
    let topics = log.topics();
    let partitions = topics.iter().flat_map(|topic| topic.partitions());
    partitions.map(|it| (it, log.extent(it).expect("it is there"))).collect()
}

/// The power fails, and no checkpoint can be read any more.
fn lose_checkpoints(machine: &mut Machine) {
    machine.crash(Crash::Power);
    for (file, rots) in [(FileName::CheckpointA, true), (FileName::CheckpointB, false)] {
        machine.disk.set_file(&file, rots.then(|| vec![7; 5000]));
    }
}

fn is_rebuilt(log: &Engine) -> bool {
    log.report().notes.iter().any(|note| matches!(note, Note::Rebuilt { .. }))
}

/// Appends to `fill` until as many segments more were settled.
fn settle_more(log: &Engine, fill: PartitionId, segments: u64) {
    for number in 0..16 * segments {
        append(log, fill, &payload(number, 1 << 20)).expect("it is stored");
    }
    settled(log);
}

fn produce(
    log: &Engine,
    partition: PartitionId,
    (id, sequence): (u64, u64),
    number: u64,
) -> Result<Stored, AppendError> {
    let (id, epoch) = (ProducerId(id), ProducerEpoch(0));
    let mut batch =
        BatchBuilder::new(PayloadKind::Opaque).produced_by(id, epoch, Sequence(sequence));
    batch.push(Record::opaque(&payload(number, 100)));
    let batch = batch.finish();
    let epoch = wait(log.open(Domain::WHOLE)).expect("it is open");
    let permit = log.reserve(Lane::FIRST_SOURCE, 4096).expect("there is room");
    let items = [Item::Batch { partition, batch: &batch }];
    wait(log.append(permit, epoch, Append { conditions: &[], items: &items }))
}

/// Whether the key's last record is the one at `last`: only then is this stored.
fn set_if(
    log: &Engine,
    partition: PartitionId,
    key: &[u8],
    last: Option<Offset>,
) -> Result<Stored, AppendError> {
    let epoch = wait(log.open(Domain::WHOLE)).expect("it is open");
    let permit = log.reserve(Lane::FIRST_SOURCE, 4096).expect("there is room");
    let mut buffer = Vec::new();
    let record = KeyValue { key, value: Some(b"next") }.encode(&mut buffer);
    let conditions = [Condition::LastOfKey { partition, key: key.to_vec(), last }];
    let items = [Item::Record { partition, record }];
    wait(log.append(permit, epoch, Append { conditions: &conditions, items: &items }))
}

#[test]
fn topics_trims_keys_and_producers_are_as_they_were() {
    let mut machine = Machine::with(1, settling());
    let mut last_of_key = Offset::ZERO;
    for run in 0..3_u64 {
        let log = machine.engine();
        let raw = topic(log, "raw", 3, Retention::Keep);
        let keys = topic(log, "_keys", 1, Retention::Compact)[0];
        let fill = topic(log, "fill", 1, Retention::Keep)[0];
        let passing = TopicName::new("passing").expect("a name");
        let short = topic(log, "passing", 1, Retention::Keep)[0];
        append(log, short, b"not for long").expect("it is stored");
        if run == 0 {
            set(log, keys, b"once", b"written");
        }
        for number in 0..20 {
            append(log, raw[1], &payload(run * 100 + number, 1000)).expect("it is stored");
            last_of_key = set(log, keys, b"often", &payload(number, 100));
            produce(log, raw[2], (5, run * 20 + number), number).expect("it is stored");
        }
        if run == 1 {
            wait(log.trim(raw[1], Offset(30))).expect("it is trimmed");
        }
        wait(log.delete_topic(&passing)).expect("it is deleted");
        settle_more(log, fill, 2);
        machine.stop();
        machine.open().expect("it opens");
    }
    let (all, before) = (contents(machine.engine()), extents(machine.engine()));
    lose_checkpoints(&mut machine);
    let offline = machine.offline().expect("it opens");
    assert_same(&offline, &all);
    let report = machine.verify().expect("it opens");
    assert!(report.damaged.records == 0 && report.damaged.commits == 0, "{report}");
    machine.open().expect("it opens");
    let log = machine.engine();
    assert!(is_rebuilt(log), "{:?}", log.report());
    assert_same(&contents(log), &all);
    assert_eq!(extents(log), before);
    let raw = topic(log, "raw", 3, Retention::Keep);
    let keys = topic(log, "_keys", 1, Retention::Compact)[0];
    assert_eq!(log.extent(raw[1]).map(|it| it.start), Some(Offset(30)));
    assert!(log.topic("passing").is_none());
    let again = produce(log, raw[2], (5, 59), 19).expect("it is known again");
    assert_eq!(again.offset(0), Offset(59));
    produce(log, raw[2], (5, 61), 21).expect_err("one before it is missing");
    assert_eq!(produce(log, raw[2], (5, 60), 20).expect("it is next").offset(0), Offset(60));
    assert!(set_if(log, keys, b"often", Some(Offset(1))).is_err());
    set_if(log, keys, b"often", Some(last_of_key)).expect("that is its last record");
    set_if(log, keys, b"once", Some(Offset(0))).expect("that is its last record");
    machine.stop();
    let report = machine.verify().expect("it opens");
    assert!(report.clean, "{report}");
}

#[test]
fn what_fails_once_costs_no_key_and_no_topic() {
    let mut machine = Machine::with(11, settling());
    for run in 0..2_u8 {
        let log = machine.engine();
        let keys = topic(log, "_keys", 1, Retention::Compact)[0];
        let fill = topic(log, "fill", 1, Retention::Keep)[0];
        topic(log, &format!("of-run-{run}"), 1, Retention::Keep);
        set(log, keys, &[run], b"written");
        settle_more(log, fill, 1);
        machine.reopen();
    }
    let state = |log: &Engine| {
        let keys = log.topic("_keys").expect("it is there").partition(0);
        (records(log, keys), extents(log))
    };
    let before = state(machine.engine());
    lose_checkpoints(&mut machine);
    let snapshot = machine.disk.snapshot();
    for nth in 1.. {
        machine.disk.restore(&snapshot);
        let first = machine.disk.operations();
        machine.disk.fail_operation(nth, io::ErrorKind::Other, Lasting::Once);
        let opened = machine.open().is_ok();
        let is_over = opened && machine.disk.operations() < first + nth;
        machine.disk.heal();
        if !opened {
            // Refused, which is fine once.
            machine.open().expect("it opens");
        }
        let after = state(machine.engine());
        assert!(after == before, "operation {nth}: {after:?}, not {before:?}");
        let keys = machine.engine().topic("_keys").expect("it is there").partition(0);
        for run in 0..2_u8 {
            let last = Some(Offset(run.into()));
            let held = set_if(machine.engine(), keys, &[run], last);
            held.unwrap_or_else(|error| panic!("operation {nth}: key {run} is not known: {error}"));
        }
        machine.stop();
        if is_over {
            assert!(nth > 50, "an opening reads more than {nth} times");
            break;
        }
    }
}

#[test]
fn no_offset_is_given_again_though_nothing_of_its_partition_is_left() {
    let mut machine = Machine::with(2, settling());
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    let fill = topic(log, "fill", 1, Retention::Keep)[0];
    let name = TopicName::new("raw").expect("a name");
    let age = Some(Duration::from_secs(60));
    wait(log.set_limits(&name, Limits { age, ..Limits::default() })).expect("it is limited");
    for number in 0..50 {
        append(log, raw, &payload(number, 1000)).expect("it is stored");
    }
    machine.disk.advance(Duration::from_secs(120));
    machine.reopen();
    let log = machine.engine();
    until(log, |log| log.extent(raw).expect("it is there").start == Offset(50));
    settle_more(log, fill, 3);
    lose_checkpoints(&mut machine);
    machine.open().expect("it opens");
    let log = machine.engine();
    assert!(is_rebuilt(log));
    assert_eq!(log.extent(raw), Some(Extent { start: Offset(50), end: Offset(50) }));
    assert_eq!(append(log, raw, b"next"), Ok(Offset(50)));
}

#[test]
fn what_had_expired_is_told_from_what_is_missing() {
    let mut machine = Machine::with(3, settling());
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    let fill = topic(log, "fill", 1, Retention::Keep)[0];
    let name = TopicName::new("fill").expect("a name");
    for round in 0..4 {
        settle_more(log, fill, 1);
        if round == 1 {
            // What lies in between stays.
            append(log, raw, b"for ever").expect("it is stored");
            settle_more(log, fill, 1);
        }
    }
    let age = Some(Duration::from_secs(60));
    wait(log.set_limits(&name, Limits { age, ..Limits::default() })).expect("it is limited");
    let old = log.extent(fill).expect("it is there").end;
    machine.disk.advance(Duration::from_secs(120));
    settle_more(log, fill, 2);
    let is_gone = |log: &Engine| log.extent(fill).expect("it is there").start >= old;
    until(log, |log| is_gone(log) && log.status().packs <= 4);
    // A pack that is made now tells of it.
    settle_more(log, fill, 2);
    let (start, kept) = (log.extent(fill).expect("it is there").start, records(log, raw));
    assert_eq!((start, kept.len()), (old, 1));
    machine.crash(Crash::Power);
    let good = machine.disk.snapshot();
    for file in [FileName::CheckpointA, FileName::CheckpointB] {
        machine.disk.set_file(&file, None);
    }
    let files = machine.disk.packs_folder().expect("it is there");
    machine.open().expect("what expired is not missed");
    let log = machine.engine();
    assert!(is_rebuilt(log));
    assert_eq!(records(log, raw), kept);
    assert!(log.extent(fill).expect("it is there").start >= start);
    machine.stop();
    machine.disk.restore(&good);
    for file in [FileName::CheckpointA, FileName::CheckpointB] {
        machine.disk.set_file(&file, None);
    }
    machine.disk.set_file(&FileName::Pack(files[0].0), None);
    let told = machine.open().expect_err("nothing says that this one had expired").to_string();
    assert!(told.contains("no pack says that they were given up"), "{told}");
}
