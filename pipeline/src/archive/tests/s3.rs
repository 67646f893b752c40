//! The archive in S3, as the program `moto_server` plays it: what a store over HTTP does otherwise
//! than one in memory, such as conditions on writes and lists by pages.

use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use tokio::runtime::{Builder, Runtime};
use tracklog_log::conformance::block_on;

use super::crashes::{Random, World};
use super::faulty::Fault;
use super::moto::Moto;
use crate::archive::layout;
use crate::archive::store::{Created, Store, StoreError, cloud_by};

/// The bucket below `prefix`.
fn objects(moto: &Moto, prefix: &str) -> Arc<dyn ObjectStore> {
    cloud_by(&moto.url(prefix), moto.settings()).unwrap()
}

/// What the clients run on.
fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

#[test]
fn an_archive_in_s3_is_written_verified_and_read_over_crashes_and_lost_replies() {
    let Some(moto) = Moto::start() else { return };
    let runtime = runtime();
    let _entered = runtime.enter();
    for seed in 0..3 {
        let mut world = World::over(objects(&moto, &format!("archive-{seed}")));
        let mut random = Random(seed);
        for _ in 0..4 {
            world.write(10 + random.below(30));
            let life = random.below(1 << 40);
            world.live(move |at| match Random(life ^ (at << 20)).below(12) {
                0 => Fault::KilledBefore,
                1 => Fault::KilledAfter,
                2 => Fault::Refused,
                3 => Fault::ReplyLost,
                _ => Fault::None,
            });
        }
        world.write(1);
        assert!(world.live(|_| Fault::None), "seed {seed}");
        world.check();
    }
}

#[test]
fn s3_creates_once_and_lists_all_numbers() {
    let Some(moto) = Moto::start() else { return };
    let runtime = runtime();
    let _entered = runtime.enter();
    let store = Store::of(objects(&moto, "numbers"), "s3://events/numbers");
    let create = |number: u64, text: &str| {
        block_on(store.create(&layout::manifest(number), Bytes::copy_from_slice(text.as_bytes())))
    };
    assert_eq!(create(0, "one").unwrap(), Created::Ours);
    assert_eq!(create(0, "one").unwrap(), Created::Ours, "an answer may have been lost");
    assert_eq!(create(0, "another").unwrap(), Created::Taken);
    assert_eq!(block_on(store.get(&layout::manifest(0))).unwrap(), "one");
    let absent = block_on(store.get(&layout::manifest(7)));
    assert!(matches!(absent, Err(StoreError::NotFound { .. })), "{absent:?}");
    // A page of a list has a thousand.
    (1..1_050).for_each(|number| assert_eq!(create(number, "").unwrap(), Created::Ours));
    let numbers = |first| block_on(store.manifests(first)).unwrap();
    assert_eq!(numbers(0), (0..1_050).collect::<Vec<_>>());
    assert_eq!(numbers(1_020), (1_020..1_050).collect::<Vec<_>>());
}
