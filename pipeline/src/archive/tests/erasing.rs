//! Erasing events from an archive: they are in no object, all others are, whatever crashes.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use tracklog_log::conformance::block_on;
use tracklog_log::{Erase, Fetch, FetchMode, Log};
use tracklog_protocol::event::EventView;
use tracklog_protocol::{BatchView, Offset, PartitionId, TimeMicros};

use super::crashes::World;
use super::faulty::{Fault, Faulty};
use crate::archive::chain;
use crate::archive::columns::RowPlace;
use crate::archive::erasure::{self, EraseError, Erased};
use crate::archive::layout;
use crate::archive::store::{Opening, Store};
use crate::archive::verify;

const NOW: TimeMicros = TimeMicros(5);

/// Every fourth one.
fn is_doomed(event: &EventView<'_>) -> bool {
    let number = event.message_id().strip_prefix('m').and_then(|digits| digits.parse().ok());
    number.is_some_and(|number: u64| number % 4 == 1)
}

fn doomed_in(log: &dyn Log, partition: PartitionId) -> Vec<Erase> {
    let end = log.extent(partition).unwrap().end;
    let (mut next, mut doomed) = (Offset::ZERO, Vec::new());
    while next < end {
        let (from, mode) = (vec![(partition, next)], FetchMode::Replay);
        let fetched = block_on(log.fetch(Fetch { from, bytes_max: 1 << 20, wait: false, mode }));
        let found = fetched.unwrap().partitions.remove(0);
        for (offset, record) in found.batches.iter().flat_map(BatchView::records) {
            if EventView::of(record).is_some_and(|event| is_doomed(&event)) {
                doomed.push(Erase::one(partition, offset));
            }
        }
        next = found.next;
    }
    doomed
}

/// An archive of so many events, some of which the log has erased since.
fn world(events: u64) -> (World, u64) {
    let mut world = World::over(Arc::new(InMemory::new()));
    world.write(events);
    assert!(world.live(|_| Fault::None));
    let partitions: Vec<_> = world.topics.iter().flat_map(|topic| topic.partitions()).collect();
    let log = &*world.rig.log;
    let doomed: Vec<_> = partitions.iter().flat_map(|id| doomed_in(log, *id)).collect();
    let count = doomed.len() as u64;
    block_on(log.erase(doomed)).unwrap();
    (world, count)
}

fn erase(world: &World) -> Result<Erased, EraseError> {
    block_on(erasure::erase(&world.store(), &is_doomed, NOW))
}

fn orphans(world: &World) -> usize {
    block_on(verify::verify(&world.store(), &mut |_| {})).unwrap().orphans.len()
}

#[test]
fn what_is_erased_is_in_no_object_and_all_else_reads_back() {
    let (mut world, doomed) = world(240);
    let counted = block_on(erasure::count(&world.store(), &is_doomed)).unwrap();
    assert_eq!(counted.values().sum::<u64>(), doomed);
    let erased = erase(&world).unwrap();
    assert_eq!(erased.events, counted);
    assert!(erased.files > 2 && erased.removed >= erased.files, "{erased:?}");
    world.check_without(doomed);
    assert_eq!(orphans(&world), 0);
    assert_eq!(erase(&world).unwrap(), Erased::default(), "nothing is left to erase");
    // The archive goes on, and can be erased from again.
    world.write(30);
    assert!(world.live(|_| Fault::None));
    world.check_without(doomed);
    let all = |_: &EventView<'_>| true;
    block_on(erasure::erase(&world.store(), &all, NOW)).unwrap();
    assert_eq!(block_on(world.store().files()).unwrap(), []);
    let summary = block_on(verify::verify(&world.store(), &mut |_| {})).unwrap().summary;
    assert!(summary.topics.values().all(|topic| topic.rows == 0 && topic.missing > 0));
}

/// A file that the manifest with this number was to name.
fn file_for(manifest: u64) -> String {
    let place = RowPlace { partition: 0, offset: Offset(0), appended_at: NOW };
    layout::file("raw", layout::Date::FIRST, None, (place, place), manifest, "0123456789abcdef")
}

#[test]
fn what_a_writer_left_that_was_killed_before_its_first_manifest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap(), Opening::Write).unwrap();
    block_on(store.create(&file_for(0), "of somebody".into())).unwrap();
    let erased = block_on(erasure::erase(&store, &is_doomed, NOW)).unwrap();
    assert_eq!(erased.removed, 1);
    assert_eq!(block_on(store.files()).unwrap(), []);
    // One that came later had manifests before it, which are gone: it may be all that is left.
    block_on(store.create(&file_for(7), "of others too".into())).unwrap();
    let refused = block_on(erasure::erase(&store, &is_doomed, NOW)).unwrap_err();
    assert!(matches!(&refused, EraseError::NoManifests { path } if *path == file_for(7)));
    assert_eq!(block_on(store.files()).unwrap().len(), 1);
}

#[test]
fn what_a_write_left_in_a_folder_that_was_killed_midway_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap(), Opening::Write).unwrap();
    let at = |name: &str| folder.path().join(format!("{}{name}", file_for(0)));
    std::fs::create_dir_all(at("").parent().unwrap()).unwrap();
    for name in ["#1", "#27"] {
        std::fs::write(at(name), "of somebody").unwrap();
    }
    let erased = block_on(erasure::erase(&store, &is_doomed, NOW)).unwrap();
    assert_eq!(erased.removed, 2);
    assert!(!at("#1").exists() && !at("#27").exists());
}

#[test]
fn the_step_of_an_offset_has_the_files_that_are_there_now() {
    let (world, _) = world(60);
    erase(&world).unwrap();
    let store = world.store();
    let files = block_on(store.files()).unwrap();
    for topic in &world.topics {
        let step = block_on(chain::step_of(&store, topic.name(), 0, Offset(0))).unwrap().unwrap();
        let is_there = |path: &str| files.iter().any(|object| object.path == path);
        assert!(step.files.iter().all(|file| is_there(&file.path)));
    }
}

#[test]
fn a_crash_or_failure_at_any_step_is_made_good_by_the_next_time() {
    for fault in [Fault::KilledBefore, Fault::KilledAfter, Fault::Refused, Fault::ReplyLost] {
        for step in 0.. {
            let (mut world, doomed) = world(35);
            let plan = move |at| if at == step { fault } else { Fault::None };
            let faulty = Faulty::new(&world.objects, plan);
            let store = Store::of(Arc::clone(&faulty) as Arc<dyn ObjectStore>, "memory");
            let ended = block_on(faulty.run(erasure::erase(&store, &is_doomed, NOW)));
            erase(&world).unwrap();
            world.write(4);
            assert!(world.live(|_| Fault::None));
            world.check_without(doomed);
            assert_eq!(orphans(&world), 0, "{fault:?} at {step}");
            if matches!(ended, Some(Ok(_))) && step > 40 {
                break;
            }
        }
    }
}
