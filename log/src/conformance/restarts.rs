//! What was acked is there after the log was closed and opened again.

use tracklog_protocol::{Offset, PartitionId};

use super::rig::{Rig, batch_of, last_of_key, next_offset, text_item};
use super::task::block_on;
use crate::{AppendError, Extent, Item, Topic};

super::list_cases!(
    acked_records_outlive_a_reopening,
    offsets_go_on_after_a_reopening,
    conditions_hold_after_a_reopening,
    topics_and_their_ids_outlive_a_reopening,
    trims_outlive_a_reopening,
    an_epoch_from_before_is_fenced,
    a_log_that_was_only_opened_opens_again,
);

fn acked_records_outlive_a_reopening(rig: &mut Rig<'_>) {
    let topic = rig.topic("kept", 3);
    let batch = batch_of(&["c", "", "d"]);
    for (round, partition) in (0..3_usize).zip(topic.partitions()) {
        rig.append_texts(partition, &["a", "b"][..round.min(2)]);
        let items = [Item::Batch { partition, batch: &batch }, text_item(partition, "e")];
        rig.append(&[], &items).expect("it is stored");
    }
    let read_all = |rig: &Rig<'_>| -> Vec<_> {
        topic.partitions().map(|partition| rig.read(partition, Offset(0))).collect()
    };
    let before = read_all(rig);
    assert_eq!(before.iter().map(Vec::len).sum::<usize>(), 15);
    for _ in 0..3 {
        rig.reopen();
        assert_eq!(read_all(rig), before);
    }
}

fn offsets_go_on_after_a_reopening(rig: &mut Rig<'_>) {
    let partition = rig.partition("onward");
    for round in 0..4 {
        assert_eq!(rig.append_text(partition, "x"), Offset(round * 2));
        assert_eq!(rig.append_text(partition, "y"), Offset(round * 2 + 1));
        rig.reopen();
        assert_eq!(rig.end(partition), Offset(round * 2 + 2));
    }
}

fn conditions_hold_after_a_reopening(rig: &mut Rig<'_>) {
    let (plain, keys) = (rig.partition("plain"), rig.compacted("keys"));
    rig.append_texts(plain, &["a", "b"]);
    rig.set(keys, "kept", Some("1"), &[]).expect("it is stored");
    rig.set(keys, "deleted", Some("1"), &[]).expect("it is stored");
    rig.set(keys, "kept", Some("2"), &[]).expect("it is stored");
    rig.set(keys, "deleted", None, &[]).expect("it is stored");
    rig.reopen();
    let failed = Err(AppendError::ConditionFailed { index: 0 });
    let stale = [
        next_offset(plain, 1),
        last_of_key(keys, "kept", Some(Offset(0))),
        last_of_key(keys, "kept", None),
        last_of_key(keys, "deleted", Some(Offset(1))),
        last_of_key(keys, "never", Some(Offset(0))),
    ];
    for condition in stale {
        assert_eq!(rig.append(&[condition], &[text_item(plain, "no")]), failed);
    }
    let fresh = [
        next_offset(plain, 2),
        last_of_key(keys, "kept", Some(Offset(2))),
        last_of_key(keys, "deleted", None),
        last_of_key(keys, "never", None),
    ];
    assert_eq!(rig.append(&fresh, &[text_item(plain, "yes")]), Ok(vec![Offset(2)]));
}

fn topics_and_their_ids_outlive_a_reopening(rig: &mut Rig<'_>) {
    let kept = rig.topic("kept", 2);
    let gone = rig.topic("gone", 1);
    block_on(rig.log.delete_topic(&gone.spec.name)).expect("it is there");
    let before = rig.log.topics();
    rig.reopen();
    assert_eq!(rig.log.topics(), before);
    assert_eq!(rig.log.topic("kept"), Some(kept));
    assert_eq!(rig.log.extent(gone.partition(0)), None);
    let anew: Topic = rig.topic("gone", 1);
    assert_ne!(anew.id, gone.id, "an id is never used again");
}

fn trims_outlive_a_reopening(rig: &mut Rig<'_>) {
    let partition: PartitionId = rig.partition("trimmed");
    rig.append_texts(partition, &["a", "b", "c"]);
    rig.trim(partition, 2);
    rig.reopen();
    assert_eq!(rig.extent(partition), Extent { start: Offset(2), end: Offset(3) });
    assert_eq!(rig.texts(partition), ["c"]);
}

fn an_epoch_from_before_is_fenced(rig: &mut Rig<'_>) {
    let partition = rig.partition("fenced");
    let before = rig.epoch;
    rig.reopen();
    let mut late = rig.clone();
    late.epoch = before;
    let error = late.append(&[], &[text_item(partition, "late")]).expect_err("it is fenced");
    assert_eq!(error, AppendError::Fenced { current: rig.epoch });
    assert_eq!(rig.end(partition), Offset(0));
}

fn a_log_that_was_only_opened_opens_again(rig: &mut Rig<'_>) {
    rig.reopen();
    rig.reopen();
    let partition = rig.partition("first");
    assert_eq!(rig.append_text(partition, "x"), Offset(0));
}
