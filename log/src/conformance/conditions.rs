//! Conditions: they are judged against the log as it will be when the append's turn comes.

use std::thread;

use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::{Offset, PayloadKind};

use super::rig::{Rig, key_value, last_of_key, next_offset, text_item};
use super::task::block_on;
use crate::{AppendError, Item};

super::list_cases!(
    next_offset_holds_only_at_the_next_offset,
    a_failed_condition_is_named_and_nothing_is_stored,
    a_condition_may_look_at_another_partition_than_the_items,
    conditions_see_appends_in_flight,
    a_refused_append_in_flight_leaves_no_trace,
    of_many_racing_writers_one_wins_each_offset,
    last_of_key_follows_writes_and_deletions,
    last_of_key_sees_appends_in_flight,
    the_last_of_several_records_of_a_key_in_one_append_counts,
    keys_in_whole_batches_count,
    last_of_key_does_not_mix_up_partitions_or_keys,
);

const FAILED: AppendError = AppendError::ConditionFailed { index: 0 };

fn next_offset_holds_only_at_the_next_offset(rig: &mut Rig<'_>) {
    let partition = rig.partition("next");
    for next in 0..3 {
        for wrong in (0..5).filter(|wrong| *wrong != next) {
            let refused =
                rig.append(&[next_offset(partition, wrong)], &[text_item(partition, "no")]);
            assert_eq!(refused, Err(FAILED));
        }
        let stored = rig.append(&[next_offset(partition, next)], &[text_item(partition, "yes")]);
        assert_eq!(stored, Ok(vec![Offset(next)]));
    }
}

fn a_failed_condition_is_named_and_nothing_is_stored(rig: &mut Rig<'_>) {
    let topic = rig.topic("named", 3);
    let items: Vec<_> = topic.partitions().map(|partition| text_item(partition, "x")).collect();
    for failing in 0..3_usize {
        let conditions: Vec<_> = topic
            .partitions()
            .enumerate()
            .map(|(index, partition)| next_offset(partition, u64::from(index == failing)))
            .collect();
        let refused = rig.append(&conditions, &items);
        assert_eq!(refused, Err(AppendError::ConditionFailed { index: failing }));
    }
    assert!(topic.partitions().all(|partition| rig.end(partition) == Offset(0)));
    let conditions: Vec<_> = topic.partitions().map(|it| next_offset(it, 0)).collect();
    rig.append(&conditions, &items).expect("all of them hold");
}

fn a_condition_may_look_at_another_partition_than_the_items(rig: &mut Rig<'_>) {
    let topic = rig.topic("elsewhere", 2);
    let (watched, written) = (topic.partition(0), topic.partition(1));
    rig.append_text(watched, "x");
    let items = [text_item(written, "y")];
    assert_eq!(rig.append(&[next_offset(watched, 0)], &items), Err(FAILED));
    assert_eq!(rig.append(&[next_offset(watched, 1)], &items), Ok(vec![Offset(0)]));
}

fn conditions_see_appends_in_flight(rig: &mut Rig<'_>) {
    let partition = rig.partition("in-flight");
    let submit = |next| rig.submit(&[next_offset(partition, next)], &[text_item(partition, "x")]);
    let tickets = [0, 1, 1, 2, 0, 3].map(submit);
    let offsets = tickets.map(|ticket| block_on(ticket).map(|stored| stored.offset(0).0));
    assert_eq!(offsets, [Ok(0), Ok(1), Err(FAILED), Ok(2), Err(FAILED), Ok(3)]);
}

fn a_refused_append_in_flight_leaves_no_trace(rig: &mut Rig<'_>) {
    let topic = rig.topic("no-trace", 2);
    let (left, right) = (topic.partition(0), topic.partition(1));
    let items = [text_item(left, "no"), text_item(right, "no")];
    let tickets = [
        rig.submit(&[], &[text_item(left, "first")]),
        rig.submit(&[next_offset(right, 9)], &items),
        rig.submit(&[next_offset(left, 1)], &[text_item(left, "second")]),
        rig.submit(&[next_offset(right, 0)], &[text_item(right, "other")]),
    ];
    let outcomes = tickets.map(|ticket| block_on(ticket).map(|stored| stored.offset(0).0));
    assert_eq!(outcomes, [Ok(0), Err(FAILED), Ok(1), Ok(0)]);
    assert_eq!(rig.texts(left), ["first", "second"]);
    assert_eq!(rig.texts(right), ["other"]);
}

fn of_many_racing_writers_one_wins_each_offset(rig: &mut Rig<'_>) {
    const EACH: usize = 25;
    let partition = rig.partition("race");
    let race = || {
        let opened = rig.clone();
        move || {
            let mut wins = 0;
            while wins < EACH {
                let next = opened.end(partition);
                let condition = next_offset(partition, next.0);
                match opened.append(&[condition], &[text_item(partition, "x")]) {
                    Ok(offsets) => {
                        assert_eq!(offsets, [next]);
                        wins += 1;
                    }
                    Err(error) => assert_eq!(error, FAILED),
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(race());
        }
    });
    assert_eq!(rig.end(partition), Offset(4 * EACH as u64));
}

fn last_of_key_follows_writes_and_deletions(rig: &mut Rig<'_>) {
    let partition = rig.compacted("keys");
    let set =
        |value, last| rig.set(partition, "key", value, &[last_of_key(partition, "key", last)]);
    assert_eq!(set(Some("a"), Some(Offset(0))), Err(FAILED), "it was never written");
    let first = set(Some("a"), None).expect("it was never written");
    assert_eq!(set(Some("b"), None), Err(FAILED), "it is there");
    let second = set(Some("b"), Some(first)).expect("it is the first version");
    assert_eq!(set(Some("c"), Some(first)), Err(FAILED), "it is the second version");
    assert_eq!(set(None, Some(first)), Err(FAILED), "it is the second version");
    set(None, Some(second)).expect("it is the second version");
    assert_eq!(set(Some("d"), Some(second)), Err(FAILED), "it was deleted");
    set(Some("d"), None).expect("it was deleted");
}

fn last_of_key_sees_appends_in_flight(rig: &mut Rig<'_>) {
    let partition = rig.compacted("keys");
    let mut buffer = Vec::new();
    let record = key_value("key", Some("value")).encode(&mut buffer);
    let submit = |last: Option<u64>| {
        let condition = last_of_key(partition, "key", last.map(Offset));
        rig.submit(&[condition], &[Item::Record { partition, record }])
    };
    let tickets = [None, None, Some(0), Some(0), Some(1)].map(submit);
    let offsets = tickets.map(|ticket| block_on(ticket).map(|stored| stored.offset(0).0));
    assert_eq!(offsets, [Ok(0), Err(FAILED), Ok(1), Err(FAILED), Ok(2)]);
}

fn the_last_of_several_records_of_a_key_in_one_append_counts(rig: &mut Rig<'_>) {
    let partition = rig.compacted("keys");
    let mut buffers: [Vec<u8>; 4] = Default::default();
    let changes = [("a", Some("1")), ("b", Some("1")), ("a", Some("2")), ("b", None)];
    let mut buffers = buffers.iter_mut();
    let items = changes.map(|(key, value)| {
        let buffer = buffers.next().expect("there is one for each");
        Item::Record { partition, record: key_value(key, value).encode(buffer) }
    });
    rig.append(&[], &items).expect("it is stored");
    let conditions =
        [last_of_key(partition, "a", Some(Offset(2))), last_of_key(partition, "b", None)];
    assert_eq!(rig.set(partition, "c", Some("3"), &conditions), Ok(Offset(4)));
}

fn keys_in_whole_batches_count(rig: &mut Rig<'_>) {
    let partition = rig.compacted("keys");
    let mut builder = BatchBuilder::new(PayloadKind::KeyValue);
    let mut buffer = Vec::new();
    builder.push(key_value("a", Some("1")).encode(&mut buffer));
    builder.push(key_value("b", Some("1")).encode(&mut buffer));
    let batch = builder.finish();
    rig.append(&[], &[Item::Batch { partition, batch: &batch }]).expect("it is stored");
    let conditions = [
        last_of_key(partition, "a", Some(Offset(0))),
        last_of_key(partition, "b", Some(Offset(1))),
        next_offset(partition, 2),
    ];
    rig.set(partition, "c", Some("1"), &conditions).expect("all of them hold");
}

fn last_of_key_does_not_mix_up_partitions_or_keys(rig: &mut Rig<'_>) {
    let (left, right) = (rig.compacted("left"), rig.compacted("right"));
    rig.set(left, "key", Some("value"), &[]).expect("it is stored");
    let elsewhere = [
        last_of_key(right, "key", None),
        last_of_key(left, "ke", None),
        last_of_key(left, "key2", None),
        last_of_key(left, "", None),
        last_of_key(left, "key", Some(Offset(0))),
    ];
    rig.set(right, "", Some("the empty key"), &elsewhere).expect("all of them hold");
    rig.set(right, "x", Some("y"), &[last_of_key(right, "", Some(Offset(0)))])
        .expect("the empty key is a key");
}
