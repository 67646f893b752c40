//! Giving up the oldest segments when there is no room: what stays.

use tracklog_engine::{Options, WhenFull};
use tracklog_log::meta::{Expect, MetaTopic};
use tracklog_log::{Domain, Fetch, FetchMode, Log, Meta, Retention, TimeKind, TopicName};
use tracklog_protocol::{Offset, PartitionId, TimeMicros};

use crate::rig::{
    Machine, SLOT_BYTES, append, append_in_time, batches, options, payload, records, set, topic,
    wait,
};

fn dropping(slots: u64) -> Options {
    Options {
        journal_bytes_max: Some(slots * SLOT_BYTES),
        hot_bytes: None,
        when_full: WhenFull::DropOldest,
        ..options()
    }
}

#[test]
fn topics_ids_and_keys_stay() {
    let mut machine = Machine::with(4, dropping(4));
    let log = machine.engine();
    let raw = topic(log, "raw", 2, Retention::Keep);
    let keys = topic(log, "_keys", 1, Retention::Compact)[0];
    set(log, keys, b"once", b"written");
    let mut end = 0;
    for number in 0..200_u64 {
        assert_eq!(append_in_time(log, raw[0], &payload(number, 1 << 20)).0, number);
        end = number + 1;
    }
    let extent = log.extent(raw[0]).expect("the topic is there");
    assert_eq!(extent.end.0, end);
    assert!(extent.start.0 > 100, "most segments were given up: {extent:?}");
    // Room is made ahead of need: one more segment may be given up at any time.
    let mut kept = records(log, raw[0]);
    let first = *kept.keys().next().expect("the newest are there");
    assert!(first >= extent.start.0 && kept.keys().copied().eq(first..end), "{first} to {end}");
    assert_eq!(last_value(log, keys), b"written");
    machine.stop();
    let report = machine.verify().expect("it opens");
    assert!(report.clean, "{report}");
    machine.open().expect("it opens");
    let log = machine.engine();
    assert_eq!(topic(log, "raw", 2, Retention::Keep), raw, "the topic kept its id");
    let again = records(log, raw[0]);
    let first = *again.keys().next().expect("the newest are there");
    assert_eq!(again, kept.split_off(&first));
    assert_eq!(last_value(log, keys), b"written");
    assert_eq!(append(log, raw[1], b"first").expect("it is stored").0, 0);
}

fn last_value(log: &dyn Log, keys: PartitionId) -> Vec<u8> {
    let batches = batches(log, keys);
    let last = batches.iter().flat_map(|batch| batch.records()).last().expect("the key stayed");
    last.1.key_value().and_then(|it| it.value).expect("it has a value").to_vec()
}

#[test]
fn what_a_meta_holds_stays() {
    let mut machine = Machine::with(5, dropping(3));
    let name = || TopicName::new("_settings").expect("a topic name");
    {
        let log = machine.engine();
        let raw = topic(log, "raw", 1, Retention::Keep)[0];
        let epoch = wait(log.open(Domain::WHOLE)).expect("it opens");
        let meta = wait(MetaTopic::open(machine.shared(), epoch, name())).expect("it opens");
        let put = wait(meta.put(b"colour", Some(b"blue"), Expect::Absent));
        put.expect("nobody wrote it before");
        for number in 0..80 {
            append_in_time(log, raw, &payload(number, 1 << 20));
        }
        assert!(log.extent(raw).expect("it is there").start.0 > 20);
    }
    machine.reopen();
    let epoch = wait(machine.engine().open(Domain::WHOLE)).expect("it opens");
    let meta = wait(MetaTopic::open(machine.shared(), epoch, name())).expect("it opens");
    assert_eq!(meta.get(b"colour").expect("it stayed").value, &b"blue"[..]);
    assert_eq!(meta.damage(), []);
}

#[test]
fn a_time_before_the_first_record_left_finds_that_one() {
    let machine = Machine::with(6, dropping(4));
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    for number in 0..100 {
        append_in_time(log, raw, &payload(number, 1 << 20));
    }
    let start = log.extent(raw).expect("it is there").start;
    assert!(start.0 > 0);
    for time in [TimeMicros(i64::MIN), TimeMicros(0), TimeMicros(1)] {
        let found = wait(log.offset_at(raw, TimeKind::Append, time)).expect("it is readable");
        assert_eq!(found, start);
    }
}

#[test]
fn a_slot_is_not_written_again_while_an_answer_holds_its_map() {
    let machine = Machine::with(8, Options { ring_bytes: 0, ..dropping(4) });
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    for number in 0..20 {
        append_in_time(log, raw, &payload(number, 1 << 20));
    }
    let from = vec![(raw, Offset::ZERO)];
    let fetch = Fetch { from, bytes_max: 1, wait: false, mode: FetchMode::Replay };
    let held = wait(log.fetch(fetch)).expect("it is readable");
    assert!(log.status().reads_map > 0 && log.status().reads_pinned_bytes > 0);
    // The disk panics where a mapped slot is written.
    for number in 20..120 {
        append_in_time(log, raw, &payload(number, 1 << 20));
    }
    assert!(log.extent(raw).expect("it is there").start.0 > 50, "all slots were used again");
    let (_, record) = held.partitions[0].batches[0].records().next().expect("there is one");
    assert_eq!(record.bytes(), payload(0, 1 << 20));
}

#[test]
fn a_log_that_drops_segments_meanwhile_verifies_clean() {
    let machine = Machine::with(7, dropping(5));
    let log = machine.engine();
    let raw = topic(log, "raw", 1, Retention::Keep)[0];
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..300 {
                append_in_time(log, raw, &payload(number, 1 << 20));
            }
        });
        while !writer.is_finished() {
            let report = log.verify(&mut |_| {}).expect("it lists its folder");
            assert!(report.clean, "{report}");
        }
        writer.join().expect("the writer ends well");
    });
    assert!(log.extent(raw).expect("it is there").start.0 > 100);
}
