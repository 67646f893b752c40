//! An archive as version 1 of the format has it, read by this program.
//!
//! `testdata/archive-v1` is a small archive, and beside it lies a list of all that is in it. Both
//! are kept for ever: what was archived once can be read. Another version gets files of its own, with
//! `cargo test -p tracklog-pipeline --lib -- --ignored write_the_golden_archive`. Do that for one that
//! is not released yet only.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use tracklog_log::conformance::block_on;
use tracklog_log::{Damage, Extent, Fetch, FetchMode, Log};

use super::crashes::{World, line};
use super::rows::Sample;
use crate::archive::chain::Chain;
use crate::archive::log::ArchiveLog;
use crate::archive::manifest::FORMAT;
use crate::archive::store::{Opening, Store};
use crate::archive::verify;

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

/// What is archived: an event with every field, one with none, some of a name with a schema and of
/// names without, and a stretch that was gone before it was archived.
fn archived(objects: Arc<dyn ObjectStore>) -> World {
    let mut world = World::over(objects);
    let [raw, enriched] = [0, 1].map(|index: usize| world.topics[index].clone());
    for (topic, sample) in
        [(&raw, Sample::bare()), (&enriched, Sample::full()), (&enriched, Sample::bare())]
    {
        sample.build(|record| {
            world.rig.append(&[], &[(topic.partition(0), record)]).unwrap();
        });
    }
    let archive = |world: &World| {
        let archiver = world.archiver(Arc::clone(&world.objects), 1 << 20);
        block_on(archiver.catch_up()).unwrap();
    };
    world.write(12);
    archive(&world);
    world.write(6);
    let end = world.rig.end(raw.partition(1));
    block_on(world.rig.log.trim(raw.partition(1), end)).unwrap();
    world.write(4);
    archive(&world);
    world
}

/// Lines of all records, and of what is missing.
fn contents(log: &dyn Log) -> String {
    let mut text = String::new();
    for topic in log.topics() {
        for partition in topic.partitions() {
            let Extent { start: mut next, end } = log.extent(partition).unwrap();
            while next < end {
                let (from, mode) = (vec![(partition, next)], FetchMode::Replay);
                let fetch = Fetch { from, bytes_max: 1 << 20, wait: false, mode };
                let found = block_on(log.fetch(fetch)).unwrap().partitions.remove(0);
                for Damage { from, to, what, .. } in &found.damage {
                    writeln!(text, "{} {partition} from {from} to {to}: {what}", topic.name())
                        .unwrap();
                }
                for batch in &found.batches {
                    let records = batch.records();
                    text.extend(records.map(|(at, record)| line(topic.name(), batch, at, record)));
                }
                next = found.next;
            }
        }
    }
    text
}

#[test]
fn an_archive_of_version_1_is_read_as_it_was_written() {
    let path = testdata("archive-v1");
    let store = Store::open(path.to_str().unwrap(), Opening::Read).unwrap();
    let chain = block_on(Chain::load(&store)).unwrap();
    assert!(chain.manifests.iter().all(|it| it.manifest.format == 1));
    let missing = chain.manifests.iter().flat_map(|it| &it.manifest.missing);
    assert!(missing.count() > 0, "a stretch was gone");
    let verdict = block_on(verify::verify(&store, &mut |_| {})).unwrap();
    assert_eq!(verdict.damaged, 0);
    let log = block_on(ArchiveLog::open(store)).unwrap();
    let expected = fs::read_to_string(testdata("archive-v1.txt")).unwrap();
    assert_eq!(contents(&log), expected);
}

/// Else the golden archive would tell nothing of what this program writes.
#[test]
fn what_is_written_today_holds_the_same() {
    assert_eq!(FORMAT, 1, "a new version gets a golden archive of its own");
    let world = archived(Arc::new(InMemory::new()));
    let log = block_on(ArchiveLog::open(world.store())).unwrap();
    let expected = fs::read_to_string(testdata("archive-v1.txt")).unwrap();
    assert_eq!(contents(&log), expected);
    let path = testdata("archive-v1");
    let golden = Store::open(path.to_str().unwrap(), Opening::Read).unwrap();
    let paths = |store: &Store| {
        let chain = block_on(Chain::load(store)).unwrap();
        // The digest at the end is that of bytes that another release of the library may pack better,
        // and the number of the manifest before it came later.
        let path = |path: &str| path.splitn(4, '.').take(3).collect::<Vec<_>>().join(".");
        chain.files().map(|file| (path(&file.path), file.rows)).collect::<Vec<_>>()
    };
    assert_eq!(paths(&world.store()), paths(&golden));
}

#[test]
#[ignore = "writes into the source tree"]
fn write_the_golden_archive() {
    let folder = testdata("archive-v1");
    fs::create_dir_all(&folder).unwrap();
    let world = archived(Arc::new(LocalFileSystem::new_with_prefix(&folder).unwrap()));
    let log = block_on(ArchiveLog::open(world.store())).unwrap();
    fs::write(testdata("archive-v1.txt"), contents(&log)).unwrap();
}
