//! Topics: made, found, deleted, and never confused with their namesakes.

use tracklog_protocol::Offset;

use super::rig::{Rig, name, spec, text_item};
use super::task::block_on;
use crate::{
    AppendError, CatalogError, Extent, FetchError, Limits, Retention, TopicName, WhenFull,
};
use std::time::Duration;

super::list_cases!(
    a_topic_is_found_by_name_and_listed,
    making_a_topic_again_returns_it,
    a_topic_of_another_make_is_not_replaced,
    a_topic_has_1_to_100_000_partitions,
    only_good_names_name_topics,
    a_deleted_topic_is_gone_with_its_records,
    a_topic_made_anew_is_another_one,
    a_topic_that_is_not_there_cannot_be_deleted,
    limits_are_remembered_and_go_with_the_topic,
    what_is_within_its_limits_stays,
);

fn a_topic_is_found_by_name_and_listed(rig: &mut Rig<'_>) {
    let others: Vec<_> = rig.log.topics();
    let made = ["b.two", "a-one", "_internal"].map(|name| rig.topic(name, 2));
    for topic in &made {
        assert_eq!(rig.log.topic(topic.name()).as_ref(), Some(topic));
        assert_eq!(topic.spec, spec(topic.name(), 2, Retention::Keep));
        for partition in topic.partitions() {
            assert_eq!(rig.extent(partition), Extent { start: Offset(0), end: Offset(0) });
        }
    }
    let listed = rig.log.topics();
    assert!(listed.is_sorted_by_key(|topic| topic.spec.name.clone()), "listed by name");
    assert_eq!(listed.len(), others.len() + made.len());
    assert!(made.iter().chain(&others).all(|topic| listed.contains(topic)));
    assert_eq!(rig.log.topic("c"), None);
    assert_eq!(rig.log.topic("No Name"), None);
}

fn making_a_topic_again_returns_it(rig: &mut Rig<'_>) {
    let topic = rig.topic("again", 3);
    rig.append_text(topic.partition(1), "x");
    assert_eq!(rig.topic("again", 3), topic);
    assert_eq!(rig.texts(topic.partition(1)), ["x"]);
    let compacted = spec("compacted", 1, Retention::Compact);
    let topic = block_on(rig.log.create_topic(compacted.clone())).expect("it is made");
    assert_eq!(block_on(rig.log.create_topic(compacted)), Ok(topic));
}

fn a_topic_of_another_make_is_not_replaced(rig: &mut Rig<'_>) {
    let topic = rig.topic("taken", 3);
    let others = [spec("taken", 2, Retention::Keep), spec("taken", 3, Retention::Compact)];
    for other in others {
        let error = block_on(rig.log.create_topic(other)).expect_err("it was made otherwise");
        assert_eq!(error, CatalogError::Exists { name: name("taken"), partitions: 3 });
    }
    assert_eq!(rig.log.topic("taken"), Some(topic));
}

fn a_topic_has_1_to_100_000_partitions(rig: &mut Rig<'_>) {
    for partitions in [0, 100_001, u32::MAX] {
        let error = block_on(rig.log.create_topic(spec("wide", partitions, Retention::Keep)))
            .expect_err("that is out of range");
        assert_eq!(error, CatalogError::Partitions { partitions });
    }
    assert_eq!(rig.log.topic("wide"), None);
    let topic = rig.topic("wide", 100_000);
    assert_eq!(rig.append_text(topic.partition(99_999), "x"), Offset(0));
    assert_eq!(rig.texts(topic.partition(99_999)), ["x"]);
}

fn only_good_names_name_topics(rig: &mut Rig<'_>) {
    let longest = "x".repeat(128);
    for good in ["a", "0", "_", "a.b-c_d", "_a", longest.as_str()] {
        assert_eq!(rig.topic(good, 1).name(), good);
    }
    let too_long = "x".repeat(129);
    for bad in ["", "A", ".a", "-a", "a b", "a/b", "ä", "a\n", too_long.as_str()] {
        assert!(TopicName::new(bad).is_err(), "{bad:?}");
    }
}

fn a_deleted_topic_is_gone_with_its_records(rig: &mut Rig<'_>) {
    let (doomed, kept) = (rig.topic("doomed", 2), rig.topic("kept", 1));
    let partition = doomed.partition(1);
    rig.append(&[], &[text_item(partition, "x"), text_item(kept.partition(0), "y")])
        .expect("it is stored");
    block_on(rig.log.delete_topic(&doomed.spec.name)).expect("it is there");
    assert_eq!(rig.log.topic("doomed"), None);
    assert!(!rig.log.topics().contains(&doomed));
    assert_eq!(rig.log.extent(partition), None);
    let error = rig.fetch(&[(partition, Offset(0))], 1).expect_err("it is gone");
    assert_eq!(error, FetchError::UnknownPartition { partition });
    let items = [text_item(kept.partition(0), "no"), text_item(partition, "no")];
    let error = rig.append(&[], &items).expect_err("it is gone");
    assert_eq!(error, AppendError::UnknownPartition { partition });
    assert_eq!(rig.texts(kept.partition(0)), ["y"]);
}

fn a_topic_made_anew_is_another_one(rig: &mut Rig<'_>) {
    let first = rig.topic("phoenix", 1);
    rig.append_texts(first.partition(0), &["a", "b"]);
    block_on(rig.log.delete_topic(&first.spec.name)).expect("it is there");
    let second = rig.topic("phoenix", 1);
    assert_ne!(first.id, second.id, "an id is never used again");
    assert_eq!(rig.extent(second.partition(0)), Extent { start: Offset(0), end: Offset(0) });
    assert_eq!(rig.append_text(second.partition(0), "c"), Offset(0));
    assert_eq!(rig.texts(second.partition(0)), ["c"]);
    assert_eq!(rig.log.extent(first.partition(0)), None);
}

fn a_topic_that_is_not_there_cannot_be_deleted(rig: &mut Rig<'_>) {
    let gone = rig.topic("gone", 1).spec.name;
    block_on(rig.log.delete_topic(&gone)).expect("it is there");
    let error = block_on(rig.log.delete_topic(&gone)).expect_err("it is there no more");
    assert_eq!(error, CatalogError::NotFound { name: gone });
}

fn limits_are_remembered_and_go_with_the_topic(rig: &mut Rig<'_>) {
    let topic = rig.topic("limited", 2);
    assert_eq!(rig.log.limits(topic.id), Limits::default());
    let limits = Limits {
        age: Some(Duration::from_secs(7 * 86_400)),
        bytes: Some(1 << 40),
        when_full: WhenFull::DropOldest,
    };
    let set = |topic: &str, limits| block_on(rig.log.set_limits(&name(topic), limits));
    assert_eq!(set("limited", limits), Ok(()));
    assert_eq!(rig.log.limits(topic.id), limits);
    let only_age = Limits { bytes: None, ..limits };
    assert_eq!(set("limited", only_age), Ok(()));
    assert_eq!(rig.log.limits(topic.id), only_age);
    assert_eq!(set("limited", Limits::default()), Ok(()));
    assert_eq!(rig.log.limits(topic.id), Limits::default());
    assert_eq!(set("limited", limits), Ok(()));
    assert_eq!(set("other", limits), Err(CatalogError::NotFound { name: name("other") }));
    rig.compacted("limited-keys");
    let refused = block_on(rig.log.set_limits(&name("limited-keys"), limits));
    assert!(matches!(refused, Err(CatalogError::Unlimited { .. })), "{refused:?}");
    assert_eq!(block_on(rig.log.delete_topic(&name("limited"))), Ok(()));
    let anew = rig.topic("limited", 2);
    assert_eq!(rig.log.limits(anew.id), Limits::default());
}

fn what_is_within_its_limits_stays(rig: &mut Rig<'_>) {
    let topic = rig.topic("within", 1);
    let limits =
        Limits { age: Some(Duration::from_secs(3_600)), bytes: Some(1 << 40), ..Limits::default() };
    assert_eq!(block_on(rig.log.set_limits(&name("within"), limits)), Ok(()));
    let texts = ["one", "two", "three"];
    for text in texts {
        rig.append_text(topic.partition(0), text);
    }
    assert_eq!(rig.texts(topic.partition(0)), texts);
    assert_eq!(rig.extent(topic.partition(0)), Extent { start: Offset(0), end: Offset(3) });
}
