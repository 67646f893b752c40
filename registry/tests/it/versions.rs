//! Numbers, deletes, restarts, and writers that meet.

use tracklog_log::AppendError;
use tracklog_registry::{Known, Limits, Registered, Registry, RegistryError, Verdict};

use crate::rig::{Rig, body, registry};

fn created(version: u32) -> Result<Registered, RegistryError> {
    Ok(Registered { version, created: true })
}

fn there(version: u32) -> Result<Registered, RegistryError> {
    Ok(Registered { version, created: false })
}

const TEXT: &str = r#"{"properties": {"v": {"type": "string"}}}"#;
const NUMBER: &str = r#"{"properties": {"v": {"type": "number"}}}"#;

#[tokio::test]
async fn versions_count_up_and_the_newest_validates() {
    let registry = registry().await;
    assert_eq!(registry.lookup("e"), Known::Unknown);
    assert_eq!(registry.put("e", body(TEXT)).await, created(1));
    assert_eq!(registry.put("e", body(NUMBER)).await, created(2));
    assert_eq!(registry.lookup("e"), Known::Known { newest: 2 });
    let payload = r#"{"v": 1}"#;
    assert_eq!(registry.validate("e", None, payload), Verdict::Valid { version: 2 });
    assert_eq!(registry.validate("e", Some(2), payload), Verdict::Valid { version: 2 });
    let old = registry.validate("e", Some(1), payload);
    assert!(matches!(old, Verdict::Invalid { version: 1, .. }), "{old:?}");
    assert_eq!(registry.validate("e", Some(3), payload), Verdict::UnknownVersion);
    assert_eq!(registry.validate("E", None, payload), Verdict::UnknownEvent);
}

#[tokio::test]
async fn the_newest_text_again_gets_its_number_and_an_older_one_a_new() {
    let registry = registry().await;
    assert_eq!(registry.put("e", body(TEXT)).await, created(1));
    assert_eq!(registry.put("e", body(TEXT)).await, there(1));
    assert_eq!(registry.put("e", body(NUMBER)).await, created(2));
    assert_eq!(registry.put("e", body(TEXT)).await, created(3));
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let rig = Rig::new();
    let registry = rig.open().await;
    for name in ["$page", "Order Completed", "a/1", "a", "ü€", &"n".repeat(512)] {
        registry.put(name, body(TEXT)).await.unwrap();
        registry.put(name, body(NUMBER)).await.unwrap();
    }
    let before = registry.list();
    let registry = rig.open().await;
    assert_eq!(registry.list(), before);
    assert_eq!(registry.get("a/1", Some(1)), Ok((1, body(TEXT))));
    assert_eq!(registry.get("a", None), Ok((2, body(NUMBER))));
    let verdict = registry.validate("Order Completed", None, r#"{"v": "x"}"#);
    assert!(matches!(verdict, Verdict::Invalid { version: 2, .. }));
    assert_eq!(registry.put("a", body(NUMBER)).await, there(2));
}

#[tokio::test]
async fn a_delete_hides_all_versions_and_their_numbers_stay_taken() {
    let rig = Rig::new();
    let registry = rig.open().await;
    registry.put("e", body(TEXT)).await.unwrap();
    registry.put("e", body(NUMBER)).await.unwrap();
    registry.delete("e").await.unwrap();
    for registry in [registry, rig.open().await] {
        assert_eq!(registry.lookup("e"), Known::Unknown);
        assert_eq!(registry.versions("e"), Err(RegistryError::UnknownName));
        assert_eq!(registry.get("e", Some(1)), Err(RegistryError::UnknownName));
        assert_eq!(registry.validate("e", Some(1), "{}"), Verdict::UnknownEvent);
        assert_eq!(registry.delete("e").await, Err(RegistryError::UnknownName));
    }
    let registry = rig.open().await;
    assert_eq!(registry.put("e", body(TEXT)).await, created(3));
    assert_eq!(registry.versions("e"), Ok(vec![3]));
    registry.delete("e").await.unwrap();
    assert_eq!(rig.open().await.put("e", body(TEXT)).await, created(4));
}

#[tokio::test]
async fn a_wanted_number_must_be_above_all_given() {
    let registry = registry().await;
    assert_eq!(registry.put_version("e", 3, body(TEXT)).await, created(3));
    assert_eq!(registry.put_version("e", 3, body(TEXT)).await, there(3));
    let taken = |version| Err(RegistryError::VersionTaken { version, last: 3 });
    assert_eq!(registry.put_version("e", 3, body(NUMBER)).await, taken(3));
    assert_eq!(registry.put_version("e", 2, body(TEXT)).await, taken(2));
    assert_eq!(registry.put("e", body(NUMBER)).await, created(4));
    assert_eq!(registry.put_version("top", u32::MAX, body(TEXT)).await, created(u32::MAX));
    assert_eq!(registry.put("top", body(TEXT)).await, there(u32::MAX));
    assert_eq!(registry.put("top", body(NUMBER)).await, Err(RegistryError::VersionsUsedUp));
}

#[tokio::test]
async fn puts_at_once_get_distinct_numbers() {
    let registry = registry().await;
    let puts: Vec<_> = (0..16)
        .map(|n| {
            let registry = registry.clone();
            let schema = body(format!(r#"{{"maximum": {n}}}"#));
            tokio::spawn(async move { registry.put("e", schema).await.unwrap().version })
        })
        .collect();
    let mut versions = Vec::new();
    for put in puts {
        versions.push(put.await.unwrap());
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=16).collect::<Vec<_>>());
    assert_eq!(registry.versions("e"), Ok(versions));
}

#[tokio::test]
async fn two_registries_on_one_store_get_distinct_numbers() {
    let rig = Rig::new();
    let epoch = rig.epoch().await;
    let one = Registry::open(rig.meta(epoch).await, Limits::default()).await.unwrap();
    let other = Registry::open(rig.meta(epoch).await, Limits::default()).await.unwrap();
    assert_eq!(one.put("e", body(TEXT)).await, created(1));
    assert_eq!(other.put("e", body(NUMBER)).await, created(2));
    assert_eq!(other.versions("e"), Ok(vec![1, 2]));
    other.delete("e").await.unwrap();
    assert_eq!(one.put("e", body(NUMBER)).await, created(3));
    assert_eq!(one.versions("e"), Ok(vec![3]));
}

#[tokio::test]
async fn what_is_not_durable_validates_nothing() {
    let rig = Rig::new();
    let registry = rig.open().await;
    registry.put("e", body(TEXT)).await.unwrap();
    rig.log.hold();
    let put = tokio::spawn({
        let registry = registry.clone();
        async move { registry.put("e", body(NUMBER)).await }
    });
    let text = r#"{"v": "x"}"#;
    tokio::task::yield_now().await;
    assert_eq!(registry.validate("e", None, text), Verdict::Valid { version: 1 });
    rig.log.release();
    assert_eq!(put.await.unwrap(), created(2));
    assert!(matches!(registry.validate("e", None, text), Verdict::Invalid { version: 2, .. }));
}

#[tokio::test]
async fn a_refused_append_changes_nothing_and_a_lost_ack_is_found_again() {
    let rig = Rig::new();
    let registry = rig.open().await;
    registry.put("e", body(TEXT)).await.unwrap();
    rig.log.fail_next(AppendError::Unknown { why: "test".into() });
    let outcome = registry.put("e", body(NUMBER)).await;
    assert!(matches!(outcome, Err(RegistryError::Store(_))), "{outcome:?}");
    assert_eq!(registry.versions("e"), Ok(vec![1]));
    rig.log.lose_next_ack("test");
    let outcome = registry.put("e", body(NUMBER)).await;
    assert!(matches!(outcome, Err(RegistryError::Store(_))), "{outcome:?}");
    assert_eq!(registry.put("e", body(NUMBER)).await, there(2));
    assert_eq!(registry.lookup("e"), Known::Known { newest: 2 });
}

#[tokio::test]
async fn the_number_of_versions_is_bounded() {
    let mut limits = Limits::default();
    limits.versions_max = 2;
    let registry = Rig::new().open_with(limits).await;
    registry.put("a", body(TEXT)).await.unwrap();
    registry.put("b", body(TEXT)).await.unwrap();
    let full = Err(RegistryError::Full { versions_max: 2 });
    assert_eq!(registry.put("c", body(TEXT)).await, full);
    assert_eq!(registry.put("b", body(TEXT)).await, there(1));
    registry.delete("a").await.unwrap();
    registry.put("c", body(TEXT)).await.unwrap();
}

#[tokio::test]
async fn a_schema_that_is_taken_no_longer_keeps_no_other_from_working() {
    let rig = Rig::new();
    let registry = rig.open().await;
    let long = format!(r#"{{"type": "object", "title": "{}"}}"#, "t".repeat(1_000));
    registry.put("long", body(long)).await.unwrap();
    registry.put("e", body(TEXT)).await.unwrap();
    let mut limits = Limits::default();
    limits.schema_bytes_max = 500;
    let registry = rig.open_with(limits).await;
    assert_eq!(registry.validate("e", None, "{}"), Verdict::Valid { version: 1 });
    let Verdict::Invalid { violation, .. } = registry.validate("long", None, "{}") else {
        panic!("taken");
    };
    assert!(violation.message.contains("can no longer be used"), "{violation:?}");
    assert!(registry.get("long", None).is_ok());
}
