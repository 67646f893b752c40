//! The key-value store over the log under test.

use std::sync::Arc;
use std::thread;

use tracklog_protocol::Offset;

use super::rig::{Opened, Rig, name};
use super::task::block_on;
use crate::meta::{Expect, Meta, MetaError, MetaTopic};
use crate::{CatalogError, Log};

super::list_cases!(
    what_was_put_is_read_and_listed,
    a_put_that_expects_something_else_conflicts,
    of_two_stores_on_one_topic_one_wins,
    counters_of_many_threads_and_stores_lose_nothing,
    values_and_versions_outlive_a_reopening,
    a_store_needs_a_compacted_topic_of_one_partition,
);

type Store = MetaTopic<dyn Log>;

fn open(opened: &Opened) -> Store {
    block_on(MetaTopic::open(Arc::clone(&opened.log), opened.epoch, name("_settings")))
        .expect("the store opens")
}

fn put(store: &Store, key: &str, value: Option<&str>, expect: Expect) -> Result<Offset, MetaError> {
    block_on(store.put(key.as_bytes(), value.map(str::as_bytes), expect))
}

fn value(store: &Store, key: &str) -> Option<(String, Offset)> {
    let versioned = store.get(key.as_bytes())?;
    let text = String::from_utf8(versioned.value.to_vec()).expect("the suite writes text");
    Some((text, versioned.version))
}

fn what_was_put_is_read_and_listed(rig: &mut Rig<'_>) {
    let store = open(rig);
    assert_eq!(store.get(b"a"), None);
    let mut last = None;
    for (key, text) in [("b/2", "two"), ("a", "one"), ("b/1", "three"), ("b", ""), ("c", "x")] {
        let version = put(&store, key, Some(text), Expect::Any).expect("it is stored");
        assert_eq!(value(&store, key), Some((text.into(), version)));
        assert!(Some(version) > last, "versions rise");
        last = Some(version);
    }
    let newer = put(&store, "b/2", Some("four"), Expect::Any).expect("it is stored");
    assert_eq!(value(&store, "b/2"), Some(("four".into(), newer)));
    put(&store, "b/1", None, Expect::Any).expect("it is stored");
    assert_eq!(store.get(b"b/1"), None);
    let keys = |prefix: &[u8]| -> Vec<_> {
        store.list(prefix).into_iter().map(|(key, _)| key.to_vec()).collect()
    };
    assert_eq!(keys(b"b"), [&b"b"[..], b"b/2"]);
    assert_eq!(keys(b""), [&b"a"[..], b"b", b"b/2", b"c"]);
    assert_eq!(store.list(b"b/2")[0].1, store.get(b"b/2").expect("it is there"));
    assert!(keys(b"d").is_empty() && store.damage().is_empty());
}

fn a_put_that_expects_something_else_conflicts(rig: &mut Rig<'_>) {
    let store = open(rig);
    let conflict = Err(MetaError::Conflict);
    assert_eq!(put(&store, "key", Some("x"), Expect::Version(Offset(0))), conflict);
    let first = put(&store, "key", Some("1"), Expect::Absent).expect("it is absent");
    assert_eq!(put(&store, "key", Some("x"), Expect::Absent), conflict);
    let second = put(&store, "key", Some("2"), Expect::Version(first)).expect("it is the first");
    assert_eq!(put(&store, "key", Some("x"), Expect::Version(first)), conflict);
    assert_eq!(put(&store, "key", None, Expect::Version(first)), conflict);
    assert_eq!(value(&store, "key"), Some(("2".into(), second)));
    put(&store, "key", None, Expect::Version(second)).expect("it is the second");
    assert_eq!(put(&store, "key", Some("x"), Expect::Version(second)), conflict);
    put(&store, "key", Some("3"), Expect::Absent).expect("it was removed");
}

fn of_two_stores_on_one_topic_one_wins(rig: &mut Rig<'_>) {
    let (one, other) = (open(rig), open(rig));
    let first = put(&one, "key", Some("one"), Expect::Absent).expect("it is absent");
    assert_eq!(put(&other, "key", Some("other"), Expect::Absent), Err(MetaError::Conflict));
    assert_eq!(value(&other, "key"), Some(("one".into(), first)), "the loser knows who won");
    let second = put(&other, "key", Some("other"), Expect::Version(first)).expect("it is current");
    assert_eq!(put(&one, "key", None, Expect::Version(first)), Err(MetaError::Conflict));
    assert_eq!(value(&one, "key"), Some(("other".into(), second)));
    put(&one, "more", Some("x"), Expect::Any).expect("it is stored");
    assert_eq!(other.get(b"more"), None, "nobody told it yet");
    block_on(other.refresh()).expect("the topic is readable");
    assert_eq!(other.list(b""), one.list(b""));
}

fn counters_of_many_threads_and_stores_lose_nothing(rig: &mut Rig<'_>) {
    const EACH: usize = 20;
    let stores = [open(rig), open(rig)];
    let count = |store: &Store| {
        let mut counted = 0;
        while counted < EACH {
            let now = value(store, "count");
            let expect = now.as_ref().map_or(Expect::Absent, |(_, it)| Expect::Version(*it));
            let number: usize = now.map_or(0, |(text, _)| text.parse().expect("a number"));
            match put(store, "count", Some(&(number + 1).to_string()), expect) {
                Ok(_) => counted += 1,
                Err(error) => assert_eq!(error, MetaError::Conflict),
            }
        }
    };
    thread::scope(|scope| {
        for store in stores.iter().cycle().take(4) {
            scope.spawn(|| count(store));
        }
    });
    for store in &stores {
        block_on(store.refresh()).expect("the topic is readable");
        let (text, _) = value(store, "count").expect("it was counted");
        assert_eq!(text, (4 * EACH).to_string());
    }
}

fn values_and_versions_outlive_a_reopening(rig: &mut Rig<'_>) {
    let store = open(rig);
    for number in 0..50 {
        let (key, text) = (format!("key {}", number % 7), format!("value {number}"));
        put(&store, &key, Some(&text), Expect::Any).expect("it is stored");
    }
    put(&store, "key 3", None, Expect::Any).expect("it is stored");
    let before = store.list(b"");
    assert_eq!(before.len(), 6);
    drop(store);
    rig.reopen();
    let store = open(rig);
    assert_eq!(store.list(b""), before);
    let (_, version) = value(&store, "key 0").expect("it is there");
    put(&store, "key 0", Some("new"), Expect::Version(version)).expect("versions stay");
    put(&store, "key 3", Some("new"), Expect::Absent).expect("it was removed");
}

fn a_store_needs_a_compacted_topic_of_one_partition(rig: &mut Rig<'_>) {
    let topic = rig.topic("_settings", 1);
    let error = block_on(MetaTopic::open(Arc::clone(&rig.log), rig.epoch, topic.spec.name.clone()))
        .expect_err("its records are kept, not compacted");
    let exists = CatalogError::Exists { name: topic.spec.name, partitions: 1 };
    assert_eq!(error, MetaError::Catalog(exists));
}
