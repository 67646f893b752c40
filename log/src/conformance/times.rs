//! Finding offsets by time.

use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};

use super::rig::{Found, Rig, batch_of, events_at, only_record};
use super::task::block_on;
use crate::{FetchError, Item, TimeKind};

super::list_cases!(
    unordered_event_times_of_one_batch,
    unordered_event_times_of_single_records,
    unordered_event_times_of_many_batches,
    records_that_are_no_events_have_no_event_time,
    append_times_are_found,
    no_time_is_found_in_an_empty_partition,
    a_time_before_the_start_finds_the_start,
    no_time_is_found_in_an_unknown_partition,
    times_are_found_after_reopening,
);

const TEN: i64 = 1_795_514_400_000_000;
const MINUTE: i64 = 60_000_000;

/// 10:00, 10:09, 10:03, 10:12.
const TIMES: [i64; 4] = [TEN, TEN + 9 * MINUTE, TEN + 3 * MINUTE, TEN + 12 * MINUTE];

/// What is asked, and the lowest offset at or after it.
const ANSWERS: [(i64, u64); 10] = [
    (i64::MIN, 0),
    (TEN, 0),
    (TEN + 1, 1),
    (TEN + 3 * MINUTE, 1),
    (TEN + 5 * MINUTE, 1),
    (TEN + 9 * MINUTE, 1),
    (TEN + 10 * MINUTE, 3),
    (TEN + 12 * MINUTE, 3),
    (TEN + 12 * MINUTE + 1, 4),
    (i64::MAX, 4),
];

fn check_answers(rig: &Rig<'_>, partition: PartitionId) {
    for (time, offset) in ANSWERS {
        assert_eq!(rig.offset_at(partition, TimeKind::Event, time), offset, "asked for {time}");
    }
}

fn append_events(rig: &Rig<'_>, partition: PartitionId, times: &[i64]) {
    let batch = events_at(times);
    rig.append(&[], &[Item::Batch { partition, batch: &batch }]).expect("it is stored");
}

/// One append of single records.
fn append_single_events(rig: &Rig<'_>, partition: PartitionId, times: &[i64]) {
    let batches: Vec<_> = times.iter().map(|time| events_at(&[*time])).collect();
    let record = |batch| Item::Record { partition, record: only_record(batch) };
    rig.append(&[], &batches.iter().map(record).collect::<Vec<_>>()).expect("it is stored");
}

fn unordered_event_times_of_one_batch(rig: &mut Rig<'_>) {
    let partition = rig.partition("one-batch");
    append_events(rig, partition, &TIMES);
    check_answers(rig, partition);
}

fn unordered_event_times_of_single_records(rig: &mut Rig<'_>) {
    let topic = rig.topic("single-records", 2);
    append_single_events(rig, topic.partition(0), &TIMES);
    check_answers(rig, topic.partition(0));
    for time in TIMES {
        append_single_events(rig, topic.partition(1), &[time]);
    }
    check_answers(rig, topic.partition(1));
}

fn unordered_event_times_of_many_batches(rig: &mut Rig<'_>) {
    let partition = rig.partition("many-batches");
    // A walk that goes far forward, comes back below zero, and repeats itself.
    let times: Vec<i64> = (0..120).map(|step: i64| (step * 37) % 101 - 20).collect();
    for (index, chunk) in times.chunks(9).enumerate() {
        if index % 3 == 2 {
            append_single_events(rig, partition, chunk);
        } else {
            append_events(rig, partition, chunk);
        }
    }
    for asked in -25..90 {
        let first = times.iter().position(|time| *time >= asked).unwrap_or(times.len());
        assert_eq!(rig.offset_at(partition, TimeKind::Event, asked), first as u64);
    }
}

fn records_that_are_no_events_have_no_event_time(rig: &mut Rig<'_>) {
    let partition = rig.partition("no-events");
    let batch = batch_of(&["a", "b"]);
    rig.append(&[], &[Item::Batch { partition, batch: &batch }]).expect("it is stored");
    assert_eq!(rig.offset_at(partition, TimeKind::Event, i64::MIN), 2);
    append_events(rig, partition, &[-7]);
    rig.append_text(partition, "c");
    assert_eq!(rig.offset_at(partition, TimeKind::Event, i64::MIN), 2);
    assert_eq!(rig.offset_at(partition, TimeKind::Event, -6), 4);
}

fn check_append_times(rig: &Rig<'_>, partition: PartitionId) {
    let start = rig.extent(partition).start;
    let found = rig.read(partition, start);
    let end = rig.end(partition);
    let first_at = |time: i64| {
        let first = found.iter().find(|record| record.append_time >= TimeMicros(time));
        first.map_or(end, |record| record.offset).0
    };
    let times = found.iter().map(|record: &Found| record.append_time.0);
    for time in times.flat_map(|time| [time - 1, time, time + 1]).chain([i64::MIN, i64::MAX]) {
        assert_eq!(rig.offset_at(partition, TimeKind::Append, time), first_at(time));
    }
}

fn append_times_are_found(rig: &mut Rig<'_>) {
    let partition = rig.partition("append-times");
    for _ in 0..5 {
        rig.append_texts(partition, &["a", "b"]);
        let batch = batch_of(&["c", "d", "e"]);
        rig.append(&[], &[Item::Batch { partition, batch: &batch }]).expect("it is stored");
    }
    check_append_times(rig, partition);
    rig.trim(partition, 8);
    check_append_times(rig, partition);
}

fn no_time_is_found_in_an_empty_partition(rig: &mut Rig<'_>) {
    let partition = rig.partition("nothing");
    for kind in [TimeKind::Append, TimeKind::Event] {
        for time in [i64::MIN, 0, i64::MAX] {
            assert_eq!(rig.offset_at(partition, kind, time), 0);
        }
    }
}

fn a_time_before_the_start_finds_the_start(rig: &mut Rig<'_>) {
    let partition = rig.partition("trimmed");
    append_events(rig, partition, &[50, 10, 20, 30, 10]);
    rig.append_text(partition, "x");
    rig.trim(partition, 2);
    assert_eq!(rig.offset_at(partition, TimeKind::Append, i64::MIN), 2);
    let by_event =
        [i64::MIN, 20, 21, 30, 31, 50].map(|it| rig.offset_at(partition, TimeKind::Event, it));
    assert_eq!(by_event, [2, 2, 3, 3, 6, 6], "records that were given up are not found");
}

fn no_time_is_found_in_an_unknown_partition(rig: &mut Rig<'_>) {
    let partition = PartitionId::new(TopicId(u32::MAX), 0);
    for kind in [TimeKind::Append, TimeKind::Event] {
        let error = block_on(rig.log.offset_at(partition, kind, TimeMicros(0)))
            .expect_err("there is no such partition");
        assert_eq!(error, FetchError::UnknownPartition { partition });
    }
}

fn times_are_found_after_reopening(rig: &mut Rig<'_>) {
    let partition = rig.partition("reopened");
    append_events(rig, partition, &TIMES[..2]);
    append_single_events(rig, partition, &TIMES[2..]);
    let before = rig.read(partition, Offset(0));
    rig.reopen();
    assert_eq!(rig.read(partition, Offset(0)), before, "append times are stored");
    check_answers(rig, partition);
    check_append_times(rig, partition);
}
