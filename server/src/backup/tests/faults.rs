//! Stores that fail, writers that die, and writers that write at once.

use std::sync::Arc;

use super::faulty::{Fault, Faulty};
use super::*;

/// Makes backups as a process would, that the store serves as `plan` says; `None`: it was killed.
async fn made_with(
    world: &World,
    plan: impl Fn(u64) -> Fault + Send + Sync + 'static,
) -> Option<Result<BackupReport, BackupError>> {
    let faulty = Faulty::new(&world.objects, plan);
    let store = Store::of(Arc::clone(&faulty) as Arc<dyn ObjectStore>, "faulty");
    let folder = world.folder();
    let work = async {
        let mut backup = Backup::of(&folder, store, options()).await?;
        loop {
            match backup.make().await {
                Err(error) if error.is_passing() => {}
                made => return made,
            }
        }
    };
    faulty.run(work).await
}

#[tokio::test]
async fn whatever_a_store_fails_at_backups_are_whole_and_the_next_one_is_made() {
    for fault in [Fault::Refused, Fault::ReplyLost, Fault::KilledBefore, Fault::KilledAfter] {
        let mut world = World::new();
        world.grow(150);
        let mut at = 0;
        loop {
            world.grow(4);
            let ended = made_with(&world, move |nth| if nth == at { fault } else { Fault::None });
            let ended = ended.await;
            world.check_place().await;
            if let Some(Err(error)) = &ended {
                assert!(error.is_passing(), "{fault:?} at {at}: {error}");
            }
            let next = world.make().await;
            assert_eq!(next.not_removed, None, "{fault:?} at {at}");
            let named = world.check_place().await;
            let objects = world.objects().await;
            let there: Vec<_> =
                objects.into_iter().filter(|it| it.starts_with("objects/")).collect();
            assert_eq!(there, named, "{fault:?} at {at}: nothing is left behind");
            at += if at < 12 { 1 } else { 7 };
            if at > 60 {
                break;
            }
        }
        assert_eq!(world.restored(None).await, world.contents(), "{fault:?}");
    }
}

#[tokio::test]
async fn writers_at_once_break_nothing() {
    for seed in 1..6_u64 {
        let mut world = World::new();
        world.grow(120);
        for round in 0..4_u64 {
            for _ in 0..10 {
                world.sent += 1;
                append(world.log(), world.sent);
            }
            let slow = |of: u64| {
                move |nth: u64| {
                    let chance = (nth + 1).wrapping_mul(seed * 7 + of * 13 + round) % 5;
                    Fault::Slow(u32::try_from(chance).unwrap() * 3)
                }
            };
            let (one, other, third) = tokio::join!(
                made_with(&world, slow(1)),
                made_with(&world, slow(2)),
                made_with(&world, slow(3)),
            );
            for made in [one, other, third] {
                made.expect("nobody was killed").unwrap();
            }
            world.check_place().await;
        }
        world.close();
        world.make().await;
        world.open();
        assert_eq!(world.restored(None).await, world.contents(), "seed {seed}");
    }
}

#[tokio::test]
async fn a_writer_that_slept_while_its_number_was_given_and_removed_begins_anew() {
    let mut world = World::new();
    world.grow(100);
    world.make().await;
    let mut late = world.backup().await;
    for _ in 0..5 {
        world.grow(60);
        world.make().await;
    }
    assert_eq!(world.place().numbers().await.unwrap(), [4, 5, 6], "its number is free again");
    world.grow(5);
    let report = late.make().await.unwrap();
    assert_eq!(report.backup, 7);
    assert_eq!(world.place().numbers().await.unwrap(), [5, 6, 7]);
    world.check_place().await;
    assert_eq!(world.restored(None).await, world.contents());
}

#[tokio::test]
async fn a_failed_backup_ships_nothing_twice() {
    let mut world = World::new();
    world.grow(300);
    let faulty = Faulty::new(&world.objects, |nth| match nth {
        4 | 9 => Fault::Refused,
        _ => Fault::None,
    });
    let objects = Arc::clone(&faulty) as Arc<dyn ObjectStore>;
    let mut backup = world.backup_of(&world.path(), objects).await;
    let mut failures = 0;
    let report = loop {
        match backup.make().await {
            Ok(report) => break report,
            Err(error) => {
                assert!(error.is_passing(), "{error}");
                failures += 1;
            }
        }
    };
    assert_eq!(failures, 2);
    let stored: u64 = {
        let found: Vec<_> = world.objects.list(None).try_collect().await.unwrap();
        let objects = found.iter().filter(|it| it.location.as_ref().starts_with("objects/"));
        objects.map(|it| it.size).sum()
    };
    assert!(report.shipped_bytes < stored + 3 * (128 << 10), "{report:?}, {stored} are there");
    assert_eq!(world.restored(None).await, world.contents());
}
