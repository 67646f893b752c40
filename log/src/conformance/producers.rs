//! What a log makes of batches that name their producer: once, in order, by one writer.

use std::ops::Range;

use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::{
    Offset, PartitionId, PayloadKind, ProducerEpoch, ProducerId, Record, Sequence, VerifiedBatch,
};

use super::rig::{Opened, Rig, next_offset, text_item};
use super::task::block_on;
use crate::producers::{BATCHES_REMEMBERED, PRODUCERS_MAX};
use crate::{AppendError, Item, Ticket};

super::list_cases!(
    a_repeated_batch_is_acked_with_its_first_offset,
    a_batch_repeated_in_flight_is_acked_with_its_first_offset,
    a_gap_is_refused_and_says_what_is_missing,
    what_follows_a_refused_batch_is_refused_too,
    the_last_batches_are_known_again_and_earlier_ones_are_told_to_be_stored,
    a_stretch_of_input_is_known_again_whatever_came_of_it,
    an_older_epoch_is_refused_and_a_newer_one_goes_on,
    what_an_earlier_epoch_stored_is_known_to_a_later_one,
    each_partition_and_each_producer_has_a_sequence_of_its_own,
    batches_of_one_append_follow_one_another,
    an_append_of_several_batches_is_a_duplicate_as_a_whole,
    an_append_of_new_and_repeated_batches_is_refused,
    a_refused_append_leaves_no_trace_in_sequences,
    a_duplicate_is_not_asked_for_its_conditions_again,
    producers_are_known_after_a_reopening,
    trimmed_batches_are_known_again,
    a_deleted_topic_forgets_its_producers,
    the_producer_that_wrote_longest_ago_is_forgotten,
    a_stage_that_comes_back_again_and_again_writes_each_output_once,
);

const FIRST: ProducerEpoch = ProducerEpoch(0);

/// A batch that begins at `sequence`, of `count` records.
fn counted(id: u64, sequence: u64, count: u64) -> VerifiedBatch {
    counted_in(FIRST, id, sequence, count)
}

fn counted_in(epoch: ProducerEpoch, id: u64, sequence: u64, count: u64) -> VerifiedBatch {
    let builder = BatchBuilder::new(PayloadKind::Opaque);
    let mut builder = builder.produced_by(ProducerId(id), epoch, Sequence(sequence));
    for number in sequence..sequence + count {
        builder.push(Record::opaque(format!("{id}: {number}").as_bytes()));
    }
    builder.finish()
}

/// A batch of these texts, derived from a stretch of input.
fn derived(id: u64, stretch: Range<u64>, texts: &[&str]) -> VerifiedBatch {
    let stretch = Sequence(stretch.start)..Sequence(stretch.end);
    let builder = BatchBuilder::new(PayloadKind::Opaque);
    let mut builder = builder.derived_by(ProducerId(id), FIRST, stretch);
    for text in texts {
        builder.push(Record::opaque(text.as_bytes()));
    }
    builder.finish()
}

impl Opened {
    fn submit_batches(&self, batches: &[(PartitionId, &VerifiedBatch)]) -> Ticket {
        self.submit(&[], &items(batches))
    }

    /// Appends one batch; its first offset, and whether it was there before.
    fn send(
        &self,
        partition: PartitionId,
        batch: &VerifiedBatch,
    ) -> Result<(Offset, bool), AppendError> {
        outcome(self.submit_batches(&[(partition, batch)]))
    }

    fn stores(&self, partition: PartitionId, batch: &VerifiedBatch, at: u64) {
        assert_eq!(self.send(partition, batch), Ok((Offset(at), false)));
    }

    fn knows(&self, partition: PartitionId, batch: &VerifiedBatch, at: u64) {
        assert_eq!(self.send(partition, batch), Ok((Offset(at), true)));
    }

    fn expects(&self, partition: PartitionId, batch: &VerifiedBatch, expected: u64) {
        assert_eq!(self.send(partition, batch), out_of_sequence(0, expected));
    }
}

fn items<'a>(batches: &[(PartitionId, &'a VerifiedBatch)]) -> Vec<Item<'a>> {
    let item = |(partition, batch): &(PartitionId, &'a VerifiedBatch)| Item::Batch {
        partition: *partition,
        batch,
    };
    batches.iter().map(item).collect()
}

fn outcome(ticket: Ticket) -> Result<(Offset, bool), AppendError> {
    block_on(ticket).map(|stored| (stored.offset(0), stored.is_duplicate()))
}

fn out_of_sequence<T>(item: usize, expected: u64) -> Result<T, AppendError> {
    Err(AppendError::OutOfSequence { item, expected: Sequence(expected) })
}

fn a_repeated_batch_is_acked_with_its_first_offset(rig: &mut Rig<'_>) {
    let partition = rig.partition("repeated");
    rig.append_text(partition, "of nobody");
    let batch = counted(7, 0, 3);
    rig.stores(partition, &batch, 1);
    rig.append_text(partition, "of nobody");
    for _ in 0..3 {
        rig.knows(partition, &batch, 1);
    }
    rig.stores(partition, &counted(7, 3, 1), 5);
    rig.knows(partition, &batch, 1);
    let texts = ["of nobody", "7: 0", "7: 1", "7: 2", "of nobody", "7: 3"];
    assert_eq!(rig.texts(partition), texts, "each is stored once");
}

fn a_batch_repeated_in_flight_is_acked_with_its_first_offset(rig: &mut Rig<'_>) {
    let partition = rig.partition("flying");
    for round in 0..20 {
        let batches = [(0, 2), (2, 1), (3, 4)];
        let batches = batches.map(|(sequence, count)| counted(100 + round, sequence, count));
        let sent = [0, 0, 1, 0, 1, 2, 1, 2, 0, 2];
        let tickets = sent.map(|which: usize| {
            let batch: &VerifiedBatch = &batches[which];
            rig.submit_batches(&[(partition, batch)])
        });
        let told = tickets.map(|ticket| outcome(ticket).expect("it is stored"));
        let base = round * 7;
        let first = [0, 2, 3].map(|at| Offset(base + at));
        let expected: Vec<_> =
            (0..sent.len()).map(|at| (first[sent[at]], sent[..at].contains(&sent[at]))).collect();
        assert_eq!(told.to_vec(), expected);
        assert_eq!(rig.end(partition), Offset(base + 7));
    }
}

fn a_gap_is_refused_and_says_what_is_missing(rig: &mut Rig<'_>) {
    let partition = rig.partition("gaps");
    rig.expects(partition, &counted(7, 1, 1), 0);
    rig.stores(partition, &counted(7, 0, 4), 0);
    for sequence in [5, 6, 1 << 40] {
        rig.expects(partition, &counted(7, sequence, 1), 4);
    }
    // Neither is one that begins too early, unless it is the same as before.
    for (sequence, count) in [(0, 3), (0, 5), (1, 3), (3, 2)] {
        rig.expects(partition, &counted(7, sequence, count), 4);
    }
    assert_eq!(rig.end(partition), Offset(4));
    rig.stores(partition, &counted(7, 4, 2), 4);
}

fn what_follows_a_refused_batch_is_refused_too(rig: &mut Rig<'_>) {
    let partition = rig.partition("pipelined");
    let batches = [0, 1, 2, 3].map(|sequence| counted(7, sequence, 1));
    let fails = [next_offset(partition, 99)];
    let first = rig.submit(&fails, &items(&[(partition, &batches[0])]));
    let rest: Vec<_> =
        batches[1..].iter().map(|batch| rig.submit_batches(&[(partition, batch)])).collect();
    assert_eq!(outcome(first), Err(AppendError::ConditionFailed { index: 0 }));
    for ticket in rest {
        assert_eq!(outcome(ticket), out_of_sequence(0, 0));
    }
    for (offset, batch) in (0..).zip(&batches) {
        rig.stores(partition, batch, offset);
    }
}

fn the_last_batches_are_known_again_and_earlier_ones_are_told_to_be_stored(rig: &mut Rig<'_>) {
    let partition = rig.partition("remembered");
    let remembered = BATCHES_REMEMBERED as u64;
    let batches: Vec<_> = (0..remembered + 3).map(|batch| counted(7, batch * 2, 2)).collect();
    for (batch, at) in batches.iter().zip((0..).step_by(2)) {
        rig.stores(partition, batch, at);
    }
    let next = 2 * (remembered + 3);
    let (earlier, last) = batches.split_at(3);
    for batch in earlier {
        rig.expects(partition, batch, next);
    }
    for (batch, at) in last.iter().zip((6..).step_by(2)) {
        rig.knows(partition, batch, at);
    }
    assert_eq!(rig.end(partition), Offset(next));
}

fn a_stretch_of_input_is_known_again_whatever_came_of_it(rig: &mut Rig<'_>) {
    let partition = rig.partition("derived");
    rig.stores(partition, &derived(7, 0..1_000_000, &["a"]), 0);
    rig.stores(partition, &derived(7, 1_000_000..1_000_001, &["b", "c", "d"]), 1);
    rig.stores(partition, &derived(7, 1_000_001..1 << 40, &["e"]), 4);
    rig.knows(partition, &derived(7, 0..1_000_000, &["other", "records"]), 0);
    rig.knows(partition, &derived(7, 1_000_000..1_000_001, &["b"]), 1);
    // Derived again from other stretches: who is told how far it came, goes on from there.
    rig.expects(partition, &derived(7, 1_000_001..1 << 41, &["e", "f"]), 1 << 40);
    rig.expects(partition, &derived(7, (1 << 40) + 1..1 << 41, &["f"]), 1 << 40);
    rig.stores(partition, &derived(7, 1 << 40..1 << 41, &["f"]), 5);
    assert_eq!(rig.texts(partition), ["a", "b", "c", "d", "e", "f"]);
}

fn an_older_epoch_is_refused_and_a_newer_one_goes_on(rig: &mut Rig<'_>) {
    let partition = rig.partition("epochs");
    let [old, new, newer] = [3, 4, 9].map(ProducerEpoch);
    let stale = |current| Err(AppendError::StaleProducer { item: 0, current });
    rig.stores(partition, &counted_in(old, 7, 0, 2), 0);
    rig.expects(partition, &counted_in(new, 7, 0, 1), 2);
    rig.stores(partition, &counted_in(old, 7, 2, 1), 2);
    rig.stores(partition, &counted_in(new, 7, 3, 1), 3);
    for sequence in [0, 2, 3, 4, 5] {
        assert_eq!(rig.send(partition, &counted_in(old, 7, sequence, 1)), stale(new));
    }
    rig.stores(partition, &counted_in(newer, 7, 4, 1), 4);
    assert_eq!(rig.send(partition, &counted_in(new, 7, 3, 1)), stale(newer));
    assert_eq!(rig.end(partition), Offset(5));
}

fn what_an_earlier_epoch_stored_is_known_to_a_later_one(rig: &mut Rig<'_>) {
    let partition = rig.partition("inherited");
    let [old, new] = [0, 1].map(ProducerEpoch);
    rig.stores(partition, &counted_in(old, 7, 0, 2), 0);
    rig.stores(partition, &counted_in(old, 7, 2, 2), 2);
    rig.knows(partition, &counted_in(new, 7, 0, 2), 0);
    rig.knows(partition, &counted_in(new, 7, 2, 2), 2);
    // What is stored already fences nobody: nothing was written that would say so.
    rig.stores(partition, &counted_in(old, 7, 4, 1), 4);
    rig.stores(partition, &counted_in(new, 7, 5, 1), 5);
    rig.knows(partition, &counted_in(new, 7, 4, 1), 4);
}

fn each_partition_and_each_producer_has_a_sequence_of_its_own(rig: &mut Rig<'_>) {
    let topic = rig.topic("separate", 2);
    let (left, right) = (topic.partition(0), topic.partition(1));
    rig.stores(left, &counted(7, 0, 3), 0);
    rig.expects(right, &counted(7, 3, 1), 0);
    rig.stores(right, &counted(7, 0, 3), 0);
    rig.expects(left, &counted(8, 3, 1), 0);
    rig.stores(left, &counted(8, 0, 3), 3);
    rig.stores(left, &counted_in(ProducerEpoch(1), 8, 3, 1), 6);
    rig.stores(left, &counted(7, 3, 1), 7);
    rig.stores(right, &counted(7, 3, 1), 3);
    rig.knows(left, &counted(7, 0, 3), 0);
    rig.knows(right, &counted(7, 0, 3), 0);
}

fn batches_of_one_append_follow_one_another(rig: &mut Rig<'_>) {
    let topic = rig.topic("following", 2);
    let (left, right) = (topic.partition(0), topic.partition(1));
    let [first, second, third] = [(0, 2), (2, 1), (3, 1)].map(|(at, count)| counted(7, at, count));
    let gap = [(left, &first), (right, &first), (left, &third)];
    assert_eq!(outcome(rig.submit_batches(&gap)), out_of_sequence(2, 2));
    let twice = [(left, &first), (left, &first)];
    assert_eq!(outcome(rig.submit_batches(&twice)), out_of_sequence(1, 2));
    let newer = counted_in(ProducerEpoch(1), 7, 0, 2);
    let stale = [(left, &newer), (left, &second)];
    let current = ProducerEpoch(1);
    let refused = Err(AppendError::StaleProducer { item: 1, current });
    assert_eq!(outcome(rig.submit_batches(&stale)), refused);
    assert_eq!((rig.end(left), rig.end(right)), (Offset(0), Offset(0)));
    let good = [(left, &first), (right, &first), (left, &second), (left, &third)];
    let stored = rig.append(&[], &items(&good)).expect("they follow one another");
    assert_eq!(stored, [0, 0, 2, 3].map(Offset));
    rig.stores(left, &counted(7, 4, 1), 4);
    rig.stores(right, &counted(7, 2, 1), 2);
}

fn an_append_of_several_batches_is_a_duplicate_as_a_whole(rig: &mut Rig<'_>) {
    let topic = rig.topic("several", 3);
    let batches = [counted(7, 0, 2), counted(7, 2, 1), counted(8, 0, 5)];
    let send = [
        (topic.partition(2), &batches[0]),
        (topic.partition(0), &batches[0]),
        (topic.partition(2), &batches[1]),
        (topic.partition(2), &batches[2]),
    ];
    let stored = rig.append(&[], &items(&send)).expect("it is stored");
    assert_eq!(stored, [0, 0, 2, 3].map(Offset));
    rig.append_text(topic.partition(2), "x");
    let again = block_on(rig.submit_batches(&send)).expect("it was stored");
    assert!(again.is_duplicate());
    let offsets: Vec<_> = (0..send.len()).map(|item| again.offset(item)).collect();
    assert_eq!(offsets, stored);
    // Grouped in another way, they are the same batches.
    rig.knows(topic.partition(2), &batches[2], 3);
    assert_eq!(rig.end(topic.partition(2)), Offset(9));
}

fn an_append_of_new_and_repeated_batches_is_refused(rig: &mut Rig<'_>) {
    let topic = rig.topic("mixed", 2);
    let (left, right) = (topic.partition(0), topic.partition(1));
    let (old, new) = (counted(7, 0, 2), counted(7, 2, 1));
    rig.stores(left, &old, 0);
    let mixed = [(right, &old), (left, &old)];
    assert_eq!(outcome(rig.submit_batches(&mixed)), out_of_sequence(1, 2));
    let mixed = [(left, &old), (left, &new)];
    assert_eq!(outcome(rig.submit_batches(&mixed)), out_of_sequence(0, 2));
    let with_text = [text_item(left, "of nobody"), Item::Batch { partition: left, batch: &old }];
    assert_eq!(rig.append(&[], &with_text), out_of_sequence(1, 2));
    assert_eq!((rig.end(left), rig.end(right)), (Offset(2), Offset(0)));
    let new_with_text =
        [text_item(left, "of nobody"), Item::Batch { partition: left, batch: &new }];
    assert_eq!(rig.append(&[], &new_with_text), Ok(vec![Offset(2), Offset(3)]));
    assert_eq!(rig.append(&[], &new_with_text), out_of_sequence(1, 3));
    rig.knows(left, &new, 3);
    assert_eq!(rig.texts(left), ["7: 0", "7: 1", "of nobody", "7: 2"]);
}

fn a_refused_append_leaves_no_trace_in_sequences(rig: &mut Rig<'_>) {
    let topic = rig.topic("traceless", 2);
    let (left, right) = (topic.partition(0), topic.partition(1));
    let (first, ahead) = (counted(7, 0, 2), counted(7, 9, 1));
    for _ in 0..2 {
        let refused = rig.submit_batches(&[(left, &first), (right, &ahead)]);
        assert_eq!(outcome(refused), out_of_sequence(1, 0));
        let failed = rig.append(&[next_offset(left, 5)], &items(&[(left, &first)]));
        assert_eq!(failed, Err(AppendError::ConditionFailed { index: 0 }));
        let newer = counted_in(ProducerEpoch(9), 7, 1, 1);
        rig.expects(left, &newer, 0);
    }
    rig.stores(left, &first, 0);
    rig.expects(left, &counted_in(ProducerEpoch(9), 7, 1, 1), 2);
    rig.stores(left, &counted(7, 2, 1), 2);
}

fn a_duplicate_is_not_asked_for_its_conditions_again(rig: &mut Rig<'_>) {
    let partition = rig.partition("conditional");
    let batch = counted(7, 0, 2);
    let empty = [next_offset(partition, 0)];
    let submit = || rig.submit(&empty, &items(&[(partition, &batch)]));
    assert_eq!(outcome(submit()), Ok((Offset(0), false)));
    assert_eq!(outcome(submit()), Ok((Offset(0), true)));
    let failed = rig.submit(&empty, &items(&[(partition, &counted(7, 2, 1))]));
    assert_eq!(outcome(failed), Err(AppendError::ConditionFailed { index: 0 }));
}

fn producers_are_known_after_a_reopening(rig: &mut Rig<'_>) {
    let topic = rig.topic("lasting", 3);
    let of = |id: u64, round: u64| counted(id, round * 3, 3);
    for round in 0..4 {
        for partition in topic.partitions() {
            let base = round * 6;
            if round > 0 {
                rig.knows(partition, &of(7, round - 1), base - 6);
                rig.knows(partition, &of(8, round - 1), base - 3);
            }
            rig.expects(partition, &of(7, round + 1), round * 3);
            rig.stores(partition, &of(7, round), base);
            rig.stores(partition, &of(8, round), base + 3);
        }
        rig.reopen();
        // Nothing was sent in between: what is known stays known.
        rig.reopen();
    }
    let partition = topic.partition(1);
    rig.stores(partition, &counted_in(ProducerEpoch(5), 7, 12, 1), 24);
    rig.reopen();
    let current = ProducerEpoch(5);
    let stale = Err(AppendError::StaleProducer { item: 0, current });
    assert_eq!(rig.send(partition, &of(7, 3)), stale);
}

fn trimmed_batches_are_known_again(rig: &mut Rig<'_>) {
    let partition = rig.partition("trimmed");
    let batch = counted(7, 0, 4);
    rig.stores(partition, &batch, 0);
    rig.append_text(partition, "x");
    rig.trim(partition, 5);
    rig.knows(partition, &batch, 0);
    rig.reopen();
    rig.knows(partition, &batch, 0);
    rig.stores(partition, &counted(7, 4, 1), 5);
    assert_eq!(rig.texts(partition), ["7: 4"]);
}

fn a_deleted_topic_forgets_its_producers(rig: &mut Rig<'_>) {
    let kept = rig.partition("kept");
    let gone = rig.topic("gone", 1);
    let batch = counted(7, 0, 2);
    rig.stores(gone.partition(0), &batch, 0);
    rig.stores(kept, &batch, 0);
    block_on(rig.log.delete_topic(&gone.spec.name)).expect("it is there");
    let refused = Err(AppendError::UnknownPartition { partition: gone.partition(0) });
    assert_eq!(rig.send(gone.partition(0), &batch), refused);
    let anew = rig.partition("gone");
    rig.expects(anew, &counted(7, 2, 1), 0);
    rig.stores(anew, &batch, 0);
    rig.reopen();
    rig.knows(anew, &batch, 0);
    rig.knows(kept, &batch, 0);
}

fn the_producer_that_wrote_longest_ago_is_forgotten(rig: &mut Rig<'_>) {
    let partition = rig.partition("crowded");
    for id in [1, 2, 3] {
        rig.stores(partition, &counted(id, 0, 1), id - 1);
    }
    // Writes again: it is 2 that wrote longest ago, then 3.
    rig.stores(partition, &counted(1, 1, 1), 3);
    let others = 10..10 + PRODUCERS_MAX as u64 - 2;
    let batches: Vec<_> = others.map(|id| counted(id, 0, 1)).collect();
    for batches in batches.chunks(4096) {
        let send: Vec<_> = batches.iter().map(|batch| (partition, batch)).collect();
        rig.append(&[], &items(&send)).expect("they are stored");
    }
    for _ in 0..2 {
        rig.knows(partition, &counted(3, 0, 1), 2);
        rig.knows(partition, &counted(1, 1, 1), 3);
        rig.knows(partition, &batches[0], 4);
        rig.expects(partition, &counted(2, 1, 1), 0);
        rig.reopen();
    }
}

/// Derives records from the offsets of a source, as a stage does whose source lies in another log:
/// what it has read, and what it has written, are not one commit.
struct Stage<'a> {
    log: &'a Opened,
    targets: [PartitionId; 2],
    epoch: ProducerEpoch,
    /// Where it ends in each target, as far as it knows.
    next: [u64; 2],
}

impl Stage<'_> {
    /// None, one or two records for each target come of each offset.
    fn outputs(target: usize, stretch: Range<u64>) -> Vec<String> {
        let of = |offset: u64| {
            (0..(offset * 7 + target as u64 * 5) % 11 / 4).map(move |nth| (offset, nth))
        };
        stretch.flat_map(of).map(|(offset, nth)| format!("{offset}.{nth}")).collect()
    }

    /// Writes what comes of a stretch to one target. `false`: another writer has taken over.
    fn write(&mut self, target: usize, stretch: &Range<u64>) -> bool {
        loop {
            let texts = Self::outputs(target, stretch.start.max(self.next[target])..stretch.end);
            if texts.is_empty() {
                return true;
            }
            let covered = Sequence(self.next[target])..Sequence(stretch.end);
            let builder = BatchBuilder::new(PayloadKind::Opaque);
            let mut builder = builder.derived_by(ProducerId(99), self.epoch, covered);
            texts.iter().for_each(|text| builder.push(Record::opaque(text.as_bytes())));
            match self.log.send(self.targets[target], &builder.finish()) {
                Ok(_) => self.next[target] = stretch.end,
                Err(AppendError::OutOfSequence { expected, .. }) => {
                    assert!(expected.0 > self.next[target], "nothing was lost");
                    self.next[target] = expected.0;
                }
                Err(AppendError::StaleProducer { .. }) => return false,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn a_stage_that_comes_back_again_and_again_writes_each_output_once(rig: &mut Rig<'_>) {
    const END: u64 = 300;
    let topic = rig.topic("derived", 2);
    let targets = [topic.partition(0), topic.partition(1)];
    let stage = |log, epoch| Stage { log, targets, epoch: ProducerEpoch(epoch), next: [0; 2] };
    let (mut committed, mut epoch) = (0, 0);
    while committed < END {
        let mut earlier = stage(rig, epoch);
        epoch += 1;
        let mut live = stage(rig, epoch);
        // Each life cuts the source into other stretches, and ends when it has not told how far
        // it came.
        let step = 3 + u64::from(epoch * 13 % 17);
        let mut from = committed;
        for _ in 0..3 {
            let stretch = from..(from + step).min(END);
            for target in 0..=usize::from(epoch % 3 > 0) {
                assert!(live.write(target, &stretch), "it is the last writer");
            }
            if epoch % 3 == 0 {
                break;
            }
            committed = from;
            from = stretch.end;
        }
        // The writer before it goes on for a while, as if nothing were.
        earlier.write(0, &(committed..(committed + 5).min(END)));
        if epoch % 3 > 0 && from == END {
            committed = END;
        }
    }
    for (target, partition) in targets.into_iter().enumerate() {
        assert_eq!(rig.texts(partition), Stage::outputs(target, 0..END));
    }
}
