//! Giving up records: what is gone is said to be gone, and nothing else changes.

use tracklog_protocol::{Offset, PartitionId, TopicId};

use super::rig::{Rig, batch_of, fetch, text_item};
use super::task::block_on;
use crate::{AppendError, Extent, FetchError, Item};

super::list_cases!(
    trimmed_records_are_out_of_range_and_the_rest_stays,
    a_trim_may_cut_through_a_batch,
    a_lower_trim_changes_nothing,
    offsets_go_on_after_all_was_trimmed,
    a_trim_touches_one_partition_alone,
    an_unknown_partition_is_not_trimmed,
);

fn extent(start: u64, end: u64) -> Extent {
    Extent { start: Offset(start), end: Offset(end) }
}

fn trimmed_records_are_out_of_range_and_the_rest_stays(rig: &mut Rig<'_>) {
    let partition = rig.partition("rest");
    rig.append_texts(partition, &["a", "b", "c", "d"]);
    rig.trim(partition, 2);
    assert_eq!(rig.extent(partition), extent(2, 4));
    for asked in [0, 1].map(Offset) {
        for wait in [false, true] {
            let error = block_on(rig.log.fetch(fetch(&[(partition, asked)], 1 << 20, wait)))
                .expect_err("it is gone");
            let extent = extent(2, 4);
            assert_eq!(error, FetchError::OutOfRange { partition, asked, extent });
        }
    }
    assert_eq!(rig.texts(partition), ["c", "d"]);
    assert_eq!(rig.append_text(partition, "e"), Offset(4));
}

fn a_trim_may_cut_through_a_batch(rig: &mut Rig<'_>) {
    let partition = rig.partition("through");
    let batch = batch_of(&["a", "b", "c", "d", "e"]);
    rig.append(&[], &[Item::Batch { partition, batch: &batch }]).expect("it is stored");
    rig.trim(partition, 3);
    assert_eq!(rig.extent(partition), extent(3, 5));
    assert_eq!(rig.texts(partition), ["d", "e"]);
}

fn a_lower_trim_changes_nothing(rig: &mut Rig<'_>) {
    let partition = rig.partition("lower");
    rig.append_texts(partition, &["a", "b", "c"]);
    for before in [2, 1, 0, 2] {
        rig.trim(partition, before);
        assert_eq!(rig.extent(partition), extent(2, 3));
    }
}

fn offsets_go_on_after_all_was_trimmed(rig: &mut Rig<'_>) {
    let partition = rig.partition("all");
    rig.append_texts(partition, &["a", "b", "c"]);
    rig.trim(partition, 3);
    assert_eq!(rig.extent(partition), extent(3, 3));
    let fetched = rig.fetch(&[(partition, Offset(3))], 1 << 20).expect("the end is in range");
    assert!(fetched.partitions[0].batches.is_empty());
    rig.reopen();
    assert_eq!(rig.extent(partition), extent(3, 3));
    assert_eq!(rig.append_text(partition, "d"), Offset(3));
    assert_eq!(rig.texts(partition), ["d"]);
}

fn a_trim_touches_one_partition_alone(rig: &mut Rig<'_>) {
    let topic = rig.topic("alone", 2);
    let items: Vec<_> = topic.partitions().map(|partition| text_item(partition, "x")).collect();
    rig.append(&[], &items).expect("it is stored");
    rig.trim(topic.partition(0), 1);
    assert_eq!(rig.extent(topic.partition(0)), extent(1, 1));
    assert_eq!(rig.texts(topic.partition(1)), ["x"]);
}

fn an_unknown_partition_is_not_trimmed(rig: &mut Rig<'_>) {
    let partition = PartitionId::new(TopicId(u32::MAX), 0);
    let error = block_on(rig.log.trim(partition, Offset(1))).expect_err("there is none");
    assert_eq!(error, AppendError::UnknownPartition { partition });
}
