//! Erasing: what is erased is not there any more, and nothing else changes.

use tracklog_protocol::{Offset, PartitionId, TopicId};

use super::rig::{Rig, batch_of};
use super::task::block_on;
use crate::{Erase, EraseError, Extent, Item};

super::list_cases!(
    erased_records_are_passed_over_and_the_rest_stays,
    a_whole_batch_and_a_part_of_one_are_erased,
    a_key_whose_last_record_is_erased_is_not_there,
    an_erased_event_outlives_no_reopening,
    what_is_not_there_yet_is_not_erased,
);

fn erase(partition: PartitionId, from: u64, to: u64) -> Erase {
    Erase { partition, from: Offset(from), to: Offset(to) }
}

fn erased(rig: &Rig<'_>, records: &[Erase]) {
    block_on(rig.log.erase(records.to_vec())).expect("it is erased");
}

fn offsets(rig: &Rig<'_>, partition: PartitionId) -> Vec<u64> {
    rig.read(partition, Offset::ZERO).into_iter().map(|found| found.offset.0).collect()
}

fn erased_records_are_passed_over_and_the_rest_stays(rig: &mut Rig<'_>) {
    let topic = rig.topic("erased", 2);
    let (one, other) = (topic.partition(0), topic.partition(1));
    rig.append_texts(one, &["a", "b", "c", "d"]);
    rig.append_texts(other, &["e", "f"]);
    erased(rig, &[erase(one, 1, 3), Erase::one(other, Offset(1))]);
    assert_eq!(rig.texts(one), ["a", "d"]);
    assert_eq!(offsets(rig, one), [0, 3]);
    assert_eq!(rig.texts(other), ["e"]);
    assert_eq!(rig.extent(one), Extent { start: Offset(0), end: Offset(4) });
    assert_eq!(rig.append_text(one, "g"), Offset(4));
    assert_eq!(rig.texts(one), ["a", "d", "g"]);
    erased(rig, &[erase(one, 0, 5)]);
    assert!(rig.texts(one).is_empty());
    assert_eq!(rig.append_text(one, "h"), Offset(5));
}

fn a_whole_batch_and_a_part_of_one_are_erased(rig: &mut Rig<'_>) {
    let partition = rig.partition("batches");
    for texts in [["a", "b"], ["c", "d"], ["e", "f"]] {
        let batch = batch_of(&texts);
        rig.append(&[], &[Item::Batch { partition, batch: &batch }]).expect("it is stored");
    }
    erased(rig, &[erase(partition, 2, 5)]);
    assert_eq!(rig.texts(partition), ["a", "b", "f"]);
    assert_eq!(offsets(rig, partition), [0, 1, 5]);
}

fn a_key_whose_last_record_is_erased_is_not_there(rig: &mut Rig<'_>) {
    use super::rig::last_of_key;
    let keys = rig.compacted("_erased");
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
        rig.set(keys, key, Some(value), &[]).expect("it is stored");
    }
    erased(rig, &[Erase::one(keys, Offset(2))]);
    let left = rig.texts(keys);
    assert!(left.iter().all(|text| text.ends_with("b2")), "{left:?}");
    rig.set(keys, "a", Some("4"), &[last_of_key(keys, "a", None)]).expect("the key is not there");
    rig.reopen();
    let held = [last_of_key(keys, "a", Some(Offset(3))), last_of_key(keys, "b", Some(Offset(1)))];
    rig.set(keys, "c", Some("5"), &held).expect("both hold");
}

fn an_erased_event_outlives_no_reopening(rig: &mut Rig<'_>) {
    let partition = rig.partition("reopened");
    rig.append_texts(partition, &["a", "b", "c"]);
    erased(rig, &[erase(partition, 1, 2)]);
    for _ in 0..2 {
        rig.reopen();
        assert_eq!(rig.texts(partition), ["a", "c"]);
    }
    assert_eq!(rig.append_text(partition, "d"), Offset(3));
}

fn what_is_not_there_yet_is_not_erased(rig: &mut Rig<'_>) {
    let partition = rig.partition("yet");
    rig.append_text(partition, "a");
    let end = Offset(1);
    let refused = block_on(rig.log.erase(vec![erase(partition, 0, 2)]));
    assert_eq!(refused, Err(EraseError::Beyond { partition, end }));
    let unknown = PartitionId::new(TopicId(u32::MAX), 0);
    let refused = block_on(rig.log.erase(vec![Erase::one(unknown, Offset(0))]));
    assert_eq!(refused, Err(EraseError::UnknownPartition { partition: unknown }));
    assert_eq!(rig.texts(partition), ["a"]);
    block_on(rig.log.erase(Vec::new())).expect("nothing is erased");
}
