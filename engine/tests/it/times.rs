//! Looking offsets up by time, over restarts and segments.

use std::time::Duration;

use tracklog_log::{Log, Retention, TimeKind};
use tracklog_protocol::event::{EventBuilder, EventParts};
use tracklog_protocol::{PartitionId, TimeMicros};

use crate::rig::{Machine, append, batches, payload, submit, topic, wait};

const MINUTE: i64 = 60_000_000;

fn event(log: &dyn Log, partition: PartitionId, time: TimeMicros) {
    let mut builder = EventBuilder::new();
    let parts = EventParts { message_id: "m", event_time: time, ..EventParts::default() };
    wait(submit(log, &[(partition, builder.build(&parts))])).expect("it is stored");
}

fn find(log: &dyn Log, partition: PartitionId, kind: TimeKind, time: i64) -> u64 {
    wait(log.offset_at(partition, kind, TimeMicros(time))).expect("it is readable").0
}

#[test]
fn event_times_in_any_order_find_the_first_offset_at_or_after() {
    let mut machine = Machine::new(1);
    let raw = topic(machine.engine(), "raw", 1, Retention::Keep)[0];
    let ten = 1_767_261_600_000_000;
    for minute in [0, 9, 3, 12] {
        event(machine.engine(), raw, TimeMicros(ten + minute * MINUTE));
    }
    for _ in 0..2 {
        let at = |time| find(machine.engine(), raw, TimeKind::Event, time);
        assert_eq!(at(ten), 0);
        assert_eq!(at(ten + 5 * MINUTE), 1);
        assert_eq!(at(ten + 10 * MINUTE), 3);
        assert_eq!(at(ten + 12 * MINUTE), 3);
        assert_eq!(at(ten + 12 * MINUTE + 1), 4, "there is none: the end");
        machine.reopen();
    }
}

#[test]
fn append_times_find_their_records_over_segments_and_restarts() {
    let mut machine = Machine::new(2);
    let raw = topic(machine.engine(), "raw", 1, Retention::Keep)[0];
    for number in 0..40 {
        machine.disk.advance(Duration::from_secs(60));
        append(machine.engine(), raw, &payload(number, 1 << 20)).expect("it is stored");
        if number == 25 {
            machine.reopen();
        }
    }
    let batches = batches(machine.engine(), raw);
    let times: Vec<_> = batches.iter().map(|batch| batch.append_time()).collect();
    assert_eq!(times.len(), 40);
    for (offset, time) in (0..).zip(&times) {
        assert_eq!(find(machine.engine(), raw, TimeKind::Append, time.0), offset);
        assert_eq!(find(machine.engine(), raw, TimeKind::Append, time.0 - 1), offset);
    }
    let after = times[39].0 + 1;
    assert_eq!(find(machine.engine(), raw, TimeKind::Append, after), 40);
}

#[test]
fn a_time_before_a_trimmed_start_finds_the_start() {
    let mut machine = Machine::new(3);
    let raw = topic(machine.engine(), "raw", 1, Retention::Keep)[0];
    let ten = 1_767_261_600_000_000;
    for minute in [7, 1, 5, 3] {
        event(machine.engine(), raw, TimeMicros(ten + minute * MINUTE));
    }
    wait(machine.engine().trim(raw, tracklog_protocol::Offset(2))).expect("it is stored");
    for _ in 0..2 {
        let log = machine.engine();
        for kind in [TimeKind::Append, TimeKind::Event] {
            for time in [i64::MIN, 0, 1] {
                assert_eq!(find(log, raw, kind, time), 2);
            }
        }
        assert_eq!(find(log, raw, TimeKind::Event, ten + 6 * MINUTE), 4, "7 is trimmed away");
        machine.reopen();
    }
}
