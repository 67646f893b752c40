//! The key-value store over a log that holds back, loses and refuses.

use std::sync::Arc;

use proptest::prelude::*;
use tracklog_log::conformance::block_on;
use tracklog_log::memory::MemoryLog;
use tracklog_log::meta::{Expect, Meta, MetaError, MetaTopic};
use tracklog_log::{AppendError, Lane, Log, TopicName};
use tracklog_protocol::Offset;

use crate::Fixture;

fn open<L: Log + ?Sized>(log: &Arc<L>, fixture: &Fixture) -> MetaTopic<L> {
    let name = TopicName::new("_settings").unwrap();
    block_on(MetaTopic::open(Arc::clone(log), fixture.epoch, name)).unwrap()
}

#[test]
fn log_and_meta_are_dyn_compatible() {
    let fixture = Fixture::new();
    let log: Arc<dyn Log> = fixture.log.clone();
    let meta: Box<dyn Meta> = Box::new(open(&log, &fixture));
    let version = block_on(meta.put(b"key", Some(b"value"), Expect::Absent)).unwrap();
    assert_eq!(meta.get(b"key").unwrap().version, version);
}

#[test]
fn a_change_is_seen_when_it_is_durable_and_no_sooner() {
    let fixture = Fixture::new();
    let meta = open(&fixture.log, &fixture);
    fixture.log.hold();
    let first = meta.put(b"key", Some(b"1"), Expect::Absent);
    let second = meta.put(b"key", Some(b"2"), Expect::Absent);
    assert_eq!(meta.get(b"key"), None);
    fixture.log.release();
    assert_eq!(block_on(second), Err(MetaError::Conflict), "the calls set the order");
    assert_eq!(meta.get(b"key").unwrap().value, "1");
    assert_eq!(block_on(first), Ok(Offset(0)));
}

#[test]
fn a_change_of_unknown_outcome_is_seen_if_it_is_there() {
    let fixture = Fixture::new();
    let meta = open(&fixture.log, &fixture);
    fixture.log.lose_next_ack("the node died");
    let unknown = MetaError::Append(AppendError::Unknown { why: "the node died".into() });
    assert_eq!(block_on(meta.put(b"there", Some(b"1"), Expect::Absent)), Err(unknown.clone()));
    fixture.log.fail_next(AppendError::Unknown { why: "the node died".into() });
    assert_eq!(block_on(meta.put(b"gone", Some(b"1"), Expect::Absent)), Err(unknown));
    let again = block_on(meta.put(b"there", Some(b"1"), Expect::Absent));
    assert_eq!(again, Err(MetaError::Conflict));
    assert_eq!(meta.get(b"there").unwrap().version, Offset(0));
    assert_eq!(block_on(meta.put(b"gone", Some(b"1"), Expect::Absent)), Ok(Offset(1)));
}

#[test]
fn a_dropped_put_changes_all_the_same() {
    let fixture = Fixture::new();
    let meta = open(&fixture.log, &fixture);
    drop(meta.put(b"key", Some(b"value"), Expect::Any));
    block_on(meta.refresh()).unwrap();
    assert_eq!(meta.get(b"key").unwrap().value, "value");
}

#[test]
fn a_busy_intake_refuses_a_change() {
    let fixture = Fixture::new();
    let meta = open(&fixture.log, &fixture);
    let permit = fixture.log.reserve(Lane::INTERNAL, 32 << 20).unwrap();
    let refused = block_on(meta.put(b"key", Some(b"value"), Expect::Any)).unwrap_err();
    assert!(matches!(refused, MetaError::Busy(_)));
    drop(permit);
    block_on(meta.put(b"key", Some(b"value"), Expect::Any)).unwrap();
}

#[test]
fn a_store_whose_topic_was_trimmed_holds_what_is_left() {
    let fixture = Fixture::new();
    let meta = open(&fixture.log, &fixture);
    let other: MetaTopic<MemoryLog> = open(&fixture.log, &fixture);
    for key in [b"a", b"b", b"c"] {
        block_on(meta.put(key, Some(b"x"), Expect::Any)).unwrap();
    }
    let partition = fixture.log.topic("_settings").unwrap().partition(0);
    block_on(fixture.log.trim(partition, Offset(2))).unwrap();
    block_on(other.refresh()).unwrap();
    let keys: Vec<_> = other.list(b"").into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["c"]);
    assert_eq!(open(&fixture.log, &fixture).list(b""), other.list(b""));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Two stores on one topic, told at random, against a plain map.
    #[test]
    fn stores_on_one_topic_agree_with_a_map(
        puts in prop::collection::vec((any::<bool>(), 0_u8..4, any::<Option<u8>>(), 0_u8..3), 1..60)
    ) {
        let fixture = Fixture::new();
        let stores = [open(&fixture.log, &fixture), open(&fixture.log, &fixture)];
        let mut map = std::collections::BTreeMap::new();
        for (which, key, value, guess) in puts {
            let store = &stores[usize::from(which)];
            let known = store.get(&[key]).map(|it| it.version);
            let expect = match (guess, known) {
                (0, _) => Expect::Any,
                (1, _) | (_, None) => Expect::Absent,
                (_, Some(version)) => Expect::Version(version),
            };
            let actual: Option<Offset> = map.get(&key).map(|(_, version)| *version);
            let holds = match expect {
                Expect::Any => true,
                Expect::Absent => actual.is_none(),
                Expect::Version(version) => actual == Some(version),
            };
            match block_on(store.put(&[key], value.as_ref().map(std::slice::from_ref), expect)) {
                Ok(version) => {
                    prop_assert!(holds);
                    match value {
                        Some(value) => map.insert(key, (value, version)),
                        None => map.remove(&key),
                    };
                }
                Err(error) => prop_assert!(!holds && error == MetaError::Conflict),
            }
            let seen = store.list(b"").into_iter().map(|(key, it)| (key[0], (it.value[0], it.version)));
            prop_assert!(seen.eq(map.clone()));
        }
    }
}
