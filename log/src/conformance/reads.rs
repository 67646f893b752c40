//! Reading: where it begins, how much comes, what is out of range, who is woken.

use std::task::{Context, Poll, Waker};
use std::thread;

use tracklog_protocol::{Offset, PartitionId, TopicId};

use super::rig::{Rig, batch_of, fetch, records, text_item, text_of};
use super::task::{Task, block_on};
use crate::{Extent, FetchError, FetchMode, FetchedPartition, Item};

super::list_cases!(
    a_read_may_begin_at_every_offset,
    many_partitions_are_answered_in_the_order_asked,
    at_least_one_batch_comes_however_little_is_asked,
    reading_on_at_next_gives_every_record_once,
    a_read_at_the_end_is_empty,
    an_offset_beyond_the_end_is_out_of_range,
    an_unknown_partition_is_not_read,
    replay_reads_what_live_reads,
    a_waiting_read_is_woken_by_an_append,
    every_waiting_reader_is_woken,
    the_last_to_poll_a_waiting_read_is_woken,
    a_waiting_read_does_not_wait_when_there_is_something,
    a_waiting_read_can_be_dropped,
    grown_resolves_when_an_end_passes_its_offset,
    grown_can_be_dropped,
    an_end_never_goes_back_and_nothing_beyond_it_is_read,
);

const PLENTY: usize = 1 << 20;

/// The records at and after `from`, as texts.
fn texts(found: &FetchedPartition, from: u64) -> Vec<String> {
    records(&found.batches)
        .filter(|record| record.offset >= Offset(from))
        .map(|record| text_of(&record.content.bytes))
        .collect()
}

fn a_read_may_begin_at_every_offset(rig: &mut Rig<'_>) {
    let partition = rig.partition("begin");
    let all = ["a", "b", "c", "d", "e", "f", "g"];
    let (abc, fg) = (batch_of(&all[..3]), batch_of(&all[5..]));
    rig.append(&[], &[Item::Batch { partition, batch: &abc }]).expect("it is stored");
    rig.append_texts(partition, &all[3..5]);
    rig.append(&[], &[Item::Batch { partition, batch: &fg }]).expect("it is stored");
    for from in 0..all.len() {
        let fetched = rig.fetch(&[(partition, Offset(from as u64))], PLENTY).expect("it is there");
        let found = &fetched.partitions[0];
        assert_eq!(texts(found, from as u64), all[from..]);
        assert_eq!(found.next, Offset(7));
        assert!(found.damage.is_empty());
        let first = found.batches.first().expect("there is something");
        assert!(first.end_offset() > Offset(from as u64), "no batch lies wholly before the offset");
    }
}

fn many_partitions_are_answered_in_the_order_asked(rig: &mut Rig<'_>) {
    let topic = rig.topic("many", 3);
    let [first, second, third] = [0, 1, 2].map(|partition| topic.partition(partition));
    rig.append_texts(first, &["a", "b"]);
    rig.append_text(third, "c");
    let asked = [(third, Offset(0)), (first, Offset(1)), (second, Offset(0))];
    let fetched = rig.fetch(&asked, PLENTY).expect("all are there");
    assert_eq!(fetched.epoch, rig.epoch);
    let partitions: Vec<_> = fetched.partitions.iter().map(|it| it.partition).collect();
    assert_eq!(partitions, [third, first, second]);
    let nexts: Vec<_> = fetched.partitions.iter().map(|it| it.next.0).collect();
    assert_eq!(nexts, [1, 2, 0]);
    let [of_third, of_first, of_second] = &fetched.partitions[..] else { unreachable!() };
    assert_eq!((texts(of_third, 0), texts(of_first, 1)), (vec!["c".into()], vec!["b".into()]));
    assert!(of_second.batches.is_empty());
    assert_eq!(of_first.extent, Extent { start: Offset(0), end: Offset(2) });
    for found in &fetched.partitions {
        assert!(found.batches.iter().all(|batch| batch.partition() == found.partition));
    }
}

fn at_least_one_batch_comes_however_little_is_asked(rig: &mut Rig<'_>) {
    let topic = rig.topic("little", 2);
    let (empty, full) = (topic.partition(0), topic.partition(1));
    rig.append_texts(full, &["a", "b", "c"]);
    for bytes_max in [0, 1, 100] {
        let asked = [(empty, Offset(0)), (full, Offset(1))];
        let fetched = rig.fetch(&asked, bytes_max).expect("both are there");
        let found = &fetched.partitions[1];
        assert_eq!(texts(found, 1).first().map(String::as_str), Some("b"));
        assert!(found.next > Offset(1), "the reader comes forward");
    }
}

fn reading_on_at_next_gives_every_record_once(rig: &mut Rig<'_>) {
    let partition = rig.partition("onward");
    let all: Vec<String> = (0..60).map(|number| "x".repeat(number * 7)).collect();
    for (index, chunk) in all.chunks(4).enumerate() {
        let chunk: Vec<&str> = chunk.iter().map(String::as_str).collect();
        if index % 2 == 0 {
            let batch = batch_of(&chunk);
            rig.append(&[], &[Item::Batch { partition, batch: &batch }]).expect("it is stored");
        } else {
            rig.append_texts(partition, &chunk);
        }
    }
    for bytes_max in [1, 700, 5_000] {
        let (mut next, mut read) = (Offset(0), Vec::new());
        while next < Offset(60) {
            let fetched = rig.fetch(&[(partition, next)], bytes_max).expect("it is there");
            let found = &fetched.partitions[0];
            assert!(found.next > next, "the reader comes forward");
            read.extend(texts(found, next.0));
            assert_eq!(read.len() as u64, found.next.0, "what lies before `next` was returned");
            next = found.next;
        }
        assert_eq!(read, all);
    }
}

fn a_read_at_the_end_is_empty(rig: &mut Rig<'_>) {
    let partition = rig.partition("end");
    for end in 0..2 {
        let fetched = rig.fetch(&[(partition, Offset(end))], PLENTY).expect("the end is in range");
        let found = &fetched.partitions[0];
        assert!(found.batches.is_empty());
        assert_eq!((found.next, found.extent.end), (Offset(end), Offset(end)));
        rig.append_text(partition, "x");
    }
}

fn an_offset_beyond_the_end_is_out_of_range(rig: &mut Rig<'_>) {
    let partition = rig.partition("beyond");
    rig.append_texts(partition, &["a", "b"]);
    let extent = Extent { start: Offset(0), end: Offset(2) };
    for asked in [3, 4, u64::MAX].map(Offset) {
        for wait in [false, true] {
            let error = block_on(rig.log.fetch(fetch(&[(partition, asked)], PLENTY, wait)))
                .expect_err("it is beyond the end");
            assert_eq!(error, FetchError::OutOfRange { partition, asked, extent });
        }
    }
}

fn an_unknown_partition_is_not_read(rig: &mut Rig<'_>) {
    let topic = rig.topic("known", 1);
    for partition in [PartitionId::new(topic.id, 1), PartitionId::new(TopicId(u32::MAX), 0)] {
        let error = rig.fetch(&[(partition, Offset(0))], PLENTY).expect_err("there is none");
        assert_eq!(error, FetchError::UnknownPartition { partition });
        assert_eq!(rig.log.extent(partition), None);
    }
}

fn replay_reads_what_live_reads(rig: &mut Rig<'_>) {
    let partition = rig.partition("replayed");
    rig.append_texts(partition, &["a", "b", "c"]);
    let mut request = fetch(&[(partition, Offset(1))], PLENTY, false);
    request.mode = FetchMode::Replay;
    let fetched = block_on(rig.log.fetch(request)).expect("it is there");
    assert_eq!(texts(&fetched.partitions[0], 1), ["b", "c"]);
}

fn a_waiting_read_is_woken_by_an_append(rig: &mut Rig<'_>) {
    let topic = rig.topic("woken", 2);
    let (silent, busy) = (topic.partition(0), topic.partition(1));
    rig.append_text(busy, "before");
    let asked = [(silent, Offset(0)), (busy, Offset(1))];
    let mut reading = Task::new(rig.log.fetch(fetch(&asked, PLENTY, true)));
    assert!(reading.poll().is_pending(), "both offsets are at their ends");
    rig.append_text(busy, "after");
    let fetched = reading.finish_when_woken().expect("it is there");
    assert!(fetched.partitions[0].batches.is_empty());
    assert_eq!(texts(&fetched.partitions[1], 1), ["after"]);
}

fn every_waiting_reader_is_woken(rig: &mut Rig<'_>) {
    let topic = rig.topic("readers", 3);
    let ends: Vec<_> = topic.partitions().map(|partition| (partition, Offset(0))).collect();
    let wait = |number| {
        // Each waits at one place or at all three.
        let asked = if number < 3 { &ends[number..=number] } else { &ends[..] };
        let mut reading = Task::new(rig.log.fetch(fetch(asked, PLENTY, true)));
        let mut growing = Task::new(rig.log.grown(asked.to_vec()));
        assert!(reading.poll().is_pending() && growing.poll().is_pending());
        (reading, growing)
    };
    let waiting: Vec<_> = (0..50).map(wait).collect();
    let items: Vec<_> = topic.partitions().map(|partition| text_item(partition, "x")).collect();
    rig.append(&[], &items).expect("it is stored");
    for (reading, growing) in waiting {
        let fetched = reading.finish_when_woken().expect("it is there");
        assert!(fetched.partitions.iter().any(|found| found.next == Offset(1)));
        growing.finish_when_woken();
    }
}

fn the_last_to_poll_a_waiting_read_is_woken(rig: &mut Rig<'_>) {
    let partition = rig.partition("moved");
    let asked = [(partition, Offset(0))];
    let mut reading = rig.log.fetch(fetch(&asked, PLENTY, true));
    let mut growing = rig.log.grown(asked.to_vec());
    let mut elsewhere = Context::from_waker(Waker::noop());
    assert!(reading.as_mut().poll(&mut elsewhere).is_pending());
    assert!(growing.as_mut().poll(&mut elsewhere).is_pending());
    let (mut reading, mut growing) = (Task::new(reading), Task::new(growing));
    assert!(reading.poll().is_pending() && growing.poll().is_pending());
    rig.append_text(partition, "x");
    let fetched = reading.finish_when_woken().expect("it is there");
    assert_eq!(texts(&fetched.partitions[0], 0), ["x"]);
    growing.finish_when_woken();
}

fn a_waiting_read_does_not_wait_when_there_is_something(rig: &mut Rig<'_>) {
    let topic = rig.topic("no-wait", 2);
    let (empty, full) = (topic.partition(0), topic.partition(1));
    rig.append_text(full, "x");
    let asked = [(empty, Offset(0)), (full, Offset(0))];
    let fetched = block_on(rig.log.fetch(fetch(&asked, PLENTY, true))).expect("it is there");
    assert_eq!(texts(&fetched.partitions[1], 0), ["x"]);
}

fn a_waiting_read_can_be_dropped(rig: &mut Rig<'_>) {
    let partition = rig.partition("given-up");
    for round in 0..100 {
        let asked = [(partition, Offset(round / 50))];
        let mut reading = Task::new(rig.log.fetch(fetch(&asked, PLENTY, true)));
        assert!(reading.poll().is_pending());
        drop(reading);
        if round == 49 {
            rig.append_text(partition, "x");
        }
    }
    assert_eq!(rig.texts(partition), ["x"]);
}

fn grown_resolves_when_an_end_passes_its_offset(rig: &mut Rig<'_>) {
    let topic = rig.topic("grown", 2);
    let (left, right) = (topic.partition(0), topic.partition(1));
    rig.append_text(left, "x");
    block_on(rig.log.grown(vec![(right, Offset(0)), (left, Offset(0))]));
    let past = vec![(left, Offset(1)), (right, Offset(1))];
    let mut growing = Task::new(rig.log.grown(past));
    assert!(growing.poll().is_pending(), "no end is above the offset beside it");
    rig.append_text(right, "one is not enough: 1 is not above 1");
    assert!(growing.poll().is_pending(), "no end is above the offset beside it");
    rig.append_text(right, "two are");
    growing.finish_when_woken();
}

fn grown_can_be_dropped(rig: &mut Rig<'_>) {
    let partition = rig.partition("not-grown");
    let mut growing = Task::new(rig.log.grown(vec![(partition, Offset(0))]));
    assert_eq!(growing.poll(), Poll::Pending);
    drop(growing);
    rig.append_text(partition, "x");
    block_on(rig.log.grown(vec![(partition, Offset(0))]));
}

fn an_end_never_goes_back_and_nothing_beyond_it_is_read(rig: &mut Rig<'_>) {
    let partition = rig.partition("forward");
    let opened = rig.clone();
    let append = move || {
        for _ in 0..100 {
            opened.append_texts(partition, &["a", "b", "c"]);
        }
    };
    let appending = thread::spawn(append);
    let mut last = Offset(0);
    while !appending.is_finished() {
        let end = rig.end(partition);
        assert!(end >= last, "an end never goes back");
        let fetched = rig.fetch(&[(partition, end)], PLENTY).expect("an end is in range");
        let found = &fetched.partitions[0];
        assert!(found.extent.end >= end && found.next <= found.extent.end);
        last = found.extent.end;
    }
    appending.join().expect("all is stored");
    assert_eq!(rig.end(partition), Offset(300));
    let items = [text_item(partition, "x")];
    assert_eq!(rig.append(&[], &items), Ok(vec![Offset(300)]));
}
