//! What an append promises by itself: order, offsets, all or nothing, who may.

use std::collections::BTreeSet;
use std::thread;

use tracklog_protocol::{Offset, PartitionId, PayloadKind, Record, TopicId};

use super::rig::{Found, Rig, batch_of, key_value, text_item};
use super::task::{Task, block_on};
use crate::{AppendError, Extent, Item, Ticket};

super::list_cases!(
    offsets_are_dense_from_zero_in_each_partition,
    items_of_one_append_keep_their_order_and_know_their_offsets,
    records_come_back_byte_for_byte_with_their_kind,
    an_empty_record_takes_an_offset,
    an_acked_append_can_be_read,
    an_append_is_stored_whole_or_not_at_all,
    append_times_never_go_back_within_a_partition,
    dropping_a_ticket_cancels_nothing,
    a_thousand_appends_in_flight_are_each_acked_once,
    appends_of_many_threads_keep_the_order_of_each,
    an_unknown_partition_is_named,
    an_append_above_a_commit_is_refused_and_a_large_one_is_not,
    a_later_opening_fences_the_earlier_writer,
);

fn offsets_are_dense_from_zero_in_each_partition(rig: &mut Rig<'_>) {
    let topic = rig.topic("dense", 3);
    for round in 0..4 {
        for partition in topic.partitions() {
            assert_eq!(rig.append_text(partition, "x"), Offset(round));
        }
    }
    for partition in topic.partitions() {
        assert_eq!(rig.extent(partition), Extent { start: Offset(0), end: Offset(4) });
        let offsets = rig.read(partition, Offset(0)).into_iter().map(|it| it.offset.0);
        assert!(offsets.eq(0..4), "no offset is left out or given twice");
    }
}

fn items_of_one_append_keep_their_order_and_know_their_offsets(rig: &mut Rig<'_>) {
    let topic = rig.topic("mixed", 2);
    let (left, right) = (topic.partition(0), topic.partition(1));
    rig.append_text(left, "before");
    let (two, three) = (batch_of(&["l2", "l3"]), batch_of(&["r1", "r2", "r3"]));
    let items = [
        text_item(left, "l1"),
        text_item(right, "r0"),
        Item::Batch { partition: left, batch: &two },
        Item::Batch { partition: right, batch: &three },
        text_item(left, "l4"),
        text_item(right, "r4"),
        text_item(left, "l5"),
        Item::Batch { partition: left, batch: &two },
    ];
    let offsets = rig.append(&[], &items).expect("it is stored");
    assert_eq!(offsets, [1, 0, 2, 1, 4, 4, 5, 6].map(Offset));
    assert_eq!(rig.texts(left), ["before", "l1", "l2", "l3", "l4", "l5", "l2", "l3"]);
    assert_eq!(rig.texts(right), ["r0", "r1", "r2", "r3", "r4"]);
}

fn records_come_back_byte_for_byte_with_their_kind(rig: &mut Rig<'_>) {
    let partition = rig.partition("kinds");
    let every_byte: Vec<u8> = (0..=255).collect();
    let (mut set, mut deleted) = (Vec::new(), Vec::new());
    let records = [
        Record::opaque(&every_byte),
        key_value("key", Some("value")).encode(&mut set),
        key_value("key", None).encode(&mut deleted),
        Record::opaque(b"\n"),
    ];
    let items = records.map(|record| Item::Record { partition, record });
    rig.append(&[], &items).expect("it is stored");
    let found = rig.read(partition, Offset(0));
    assert_eq!(found.len(), records.len());
    for (found, record) in found.iter().zip(&records) {
        assert_eq!((found.content.kind, &found.content.bytes[..]), (record.kind(), record.bytes()));
    }
}

fn an_empty_record_takes_an_offset(rig: &mut Rig<'_>) {
    let partition = rig.partition("empty");
    rig.append_text(partition, "");
    rig.append(&[], &["", "a", ""].map(|text| text_item(partition, text))).expect("it is stored");
    assert_eq!(rig.texts(partition), ["", "", "a", ""]);
}

fn an_acked_append_can_be_read(rig: &mut Rig<'_>) {
    let partition = rig.partition("acked");
    for round in 0..20 {
        let text = format!("text {round}");
        let offset = rig.append_text(partition, &text);
        assert_eq!(rig.end(partition), offset.plus(1), "an ack is given when it is durable");
        let found = rig.read(partition, offset);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].content.bytes, text.as_bytes());
        assert_eq!(found[0].content.kind, PayloadKind::Opaque);
    }
}

fn an_append_is_stored_whole_or_not_at_all(rig: &mut Rig<'_>) {
    let topic = rig.topic("whole", 2);
    let (left, right) = (topic.partition(0), topic.partition(1));
    let nowhere = PartitionId::new(topic.id, 2);
    let items = [text_item(left, "a"), text_item(right, "b"), text_item(nowhere, "c")];
    let error = rig.append(&[], &items).expect_err("there is no partition 2");
    assert_eq!(error, AppendError::UnknownPartition { partition: nowhere });
    assert_eq!((rig.end(left), rig.end(right)), (Offset(0), Offset(0)));
    rig.append(&[], &items[..2]).expect("it is stored");
    assert_eq!((rig.texts(left), rig.texts(right)), (vec!["a".into()], vec!["b".into()]));
}

fn append_times_never_go_back_within_a_partition(rig: &mut Rig<'_>) {
    let partition = rig.partition("clock");
    for round in 0..3 {
        rig.append_texts(partition, &["a", "b", "c", "d"]);
        rig.append_text(partition, "e");
        if round == 1 {
            rig.reopen();
        }
    }
    let found = rig.read(partition, Offset(0));
    assert_eq!(found.len(), 15);
    assert!(found.is_sorted_by_key(|record| record.append_time));
}

fn dropping_a_ticket_cancels_nothing(rig: &mut Rig<'_>) {
    let partition = rig.partition("dropped");
    drop(rig.submit(&[], &[text_item(partition, "never polled")]));
    let mut polled = Task::new(rig.submit(&[], &[text_item(partition, "polled once")]));
    drop(polled.poll());
    drop(polled);
    let last = rig.append_text(partition, "waited for");
    assert_eq!(last, Offset(2), "the order among appends is fixed by the call");
    assert_eq!(rig.texts(partition), ["never polled", "polled once", "waited for"]);
}

fn a_thousand_appends_in_flight_are_each_acked_once(rig: &mut Rig<'_>) {
    let topic = rig.topic("thousand", 7);
    let texts: Vec<String> = (0..1_000).map(|number| format!("number {number}")).collect();
    let partition_of = |number: usize| topic.partition((number % 7) as u32);
    let submit =
        |(number, text)| rig.submit(&[], &[text_item(partition_of(number), String::as_str(text))]);
    let tickets: Vec<Ticket> = texts.iter().enumerate().map(submit).collect();
    let mut places = BTreeSet::new();
    for (number, ticket) in tickets.into_iter().enumerate() {
        let offset = block_on(ticket).expect("it is stored").offset(0);
        assert_eq!(offset, Offset(number as u64 / 7), "tickets are in the order of the calls");
        assert!(places.insert((partition_of(number), offset)), "no offset is given twice");
    }
    for (index, partition) in topic.partitions().enumerate() {
        let expected: Vec<_> = texts.iter().skip(index).step_by(7).cloned().collect();
        assert_eq!(rig.texts(partition), expected);
    }
}

fn appends_of_many_threads_keep_the_order_of_each(rig: &mut Rig<'_>) {
    let partition = rig.partition("threads");
    let writer = |writer: u64| {
        let opened = rig.clone();
        move || {
            let mut last = None;
            for number in 0..100 {
                let text = format!("{writer} {number:03}");
                // Every other one leaves its thread to the log meanwhile.
                let offset = match writer % 2 {
                    0 => opened.append_text(partition, &text),
                    _ => opened.append_text_blocking(partition, &text),
                };
                assert!(Some(offset) > last, "offsets rise");
                last = Some(offset);
            }
        }
    };
    thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(writer(number));
        }
    });
    let texts = rig.texts(partition);
    assert_eq!(texts.len(), 800);
    for writer in 0..8 {
        let of_writer = texts.iter().filter(|text| text.starts_with(&format!("{writer} ")));
        assert!(of_writer.clone().is_sorted() && of_writer.count() == 100);
    }
}

fn an_unknown_partition_is_named(rig: &mut Rig<'_>) {
    rig.partition("known");
    let partition = PartitionId::new(TopicId(u32::MAX), 0);
    let error = rig.append(&[], &[text_item(partition, "x")]).expect_err("there is none");
    assert_eq!(error, AppendError::UnknownPartition { partition });
}

fn an_append_above_a_commit_is_refused_and_a_large_one_is_not(rig: &mut Rig<'_>) {
    let topic = rig.topic("large", 2);
    let (left, right) = (topic.partition(0), topic.partition(1));
    let megabyte = "m".repeat(1 << 20);
    let items: Vec<_> = (0..9).map(|_| text_item(left, &megabyte)).collect();
    let error = rig.append(&[], &items).expect_err("it is above 8 MiB");
    assert!(matches!(error, AppendError::TooLarge { bytes, bytes_max } if bytes > bytes_max));
    assert_eq!(rig.end(left), Offset(0));
    let items: Vec<_> =
        (0..6).map(|item| text_item(if item % 2 == 0 { left } else { right }, &megabyte)).collect();
    rig.append(&[], &items).expect("6 MiB fit");
    let is_whole = |found: &Found| found.content.bytes == megabyte.as_bytes();
    for partition in [left, right] {
        let found = rig.read(partition, Offset(0));
        assert!(found.len() == 3 && found.iter().all(is_whole));
    }
}

fn a_later_opening_fences_the_earlier_writer(rig: &mut Rig<'_>) {
    let partition = rig.partition("fenced");
    rig.append_text(partition, "by the first");
    let first = rig.clone();
    rig.open_again();
    assert!(rig.epoch > first.epoch, "epochs rise");
    let error = first.append(&[], &[text_item(partition, "too late")]).expect_err("it is fenced");
    assert_eq!(error, AppendError::Fenced { current: rig.epoch });
    rig.append_text(partition, "by the second");
    assert_eq!(first.texts(partition), ["by the first", "by the second"]);
}
