//! Backups of a log in a folder, in a store in memory that does what a test wants of it.

mod faults;
mod restores;

#[path = "../../../../pipeline/src/archive/tests/faulty.rs"]
mod faulty;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tempfile::TempDir;
use tracklog_engine::{BackendChoice, Engine, OfflineLog};
use tracklog_log::conformance::block_on;
use tracklog_log::{
    Append, Domain, Fetch, FetchMode, Item, Lane, Log, Retention, TopicName, TopicSpec,
};
use tracklog_pipeline::archive::store::Store;
use tracklog_protocol::{Record, TopicId};

use super::place::Place;
use super::restore::{restore_from, stopping_at};
use super::ship::Options;
use super::{Backup, BackupError, BackupReport, RestoreReport};
use crate::folder::DataFolder;

const SLOT_BYTES: u64 = 2 << 20;

/// Records by topic, partition and offset.
type Contents = BTreeMap<(String, u32), BTreeMap<u64, Vec<u8>>>;

/// A log in a folder, and a place for its backups.
struct World {
    parent: TempDir,
    objects: Arc<dyn ObjectStore>,
    log: Option<Engine>,
    sent: u64,
}

impl World {
    fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let mut world = Self { parent, objects, log: None, sent: 0 };
        world.open();
        let spec = TopicSpec {
            name: TopicName::new("raw").unwrap(),
            partitions: 2,
            retention: Retention::Keep,
        };
        block_on(world.log().create_topic(spec)).unwrap();
        world
    }

    fn path(&self) -> PathBuf {
        self.parent.path().join("data")
    }

    fn folder(&self) -> DataFolder {
        DataFolder::at(self.path())
    }

    fn log(&self) -> &Engine {
        self.log.as_ref().expect("it is open")
    }

    fn open(&mut self) {
        self.log = Some(opened(&self.path()));
    }

    fn close(&mut self) {
        self.log = None;
    }

    /// Appends so many records, and closes and opens the log, so that all of it is vouched for.
    fn grow(&mut self, records: u64) {
        for _ in 0..records {
            self.sent += 1;
            append(self.log(), self.sent);
        }
        self.close();
        self.open();
        self.come_to_rest();
    }

    /// Waits until nothing is settled any more, so that nothing in the folder changes.
    fn come_to_rest(&self) {
        let checkpoints = || {
            let read = |name| std::fs::read(self.folder().file(name)).unwrap();
            (read("checkpoint-a"), read("checkpoint-b"))
        };
        let (mut same, mut last) = (0, checkpoints());
        while same < 4 {
            std::thread::park_timeout(std::time::Duration::from_millis(10));
            let now = checkpoints();
            same = if now == last && self.log().status().segments <= 3 { same + 1 } else { 0 };
            last = now;
        }
    }

    fn place(&self) -> Place {
        Place::new(Store::of(Arc::clone(&self.objects), "memory"))
    }

    async fn backup_of(&self, path: &Path, objects: Arc<dyn ObjectStore>) -> Backup {
        let folder = DataFolder::at(path);
        Backup::of(&folder, Store::of(objects, "memory"), options()).await.unwrap()
    }

    async fn backup(&self) -> Backup {
        self.backup_of(&self.path(), Arc::clone(&self.objects)).await
    }

    async fn make(&self) -> BackupReport {
        self.backup().await.make().await.unwrap()
    }

    async fn restore(&self, name: &str, at: Option<u64>) -> Result<RestoreReport, BackupError> {
        let folder = self.parent.path().join(name);
        restore_from(&self.place(), &folder, at, &mut |_| {}).await
    }

    /// What a restore of a backup into a new folder gives.
    async fn restored(&self, at: Option<u64>) -> Contents {
        let folder = tempfile::tempdir_in(self.parent.path()).unwrap();
        let report = restore_from(&self.place(), folder.path(), at, &mut |_| {}).await.unwrap();
        assert!(report.clean);
        contents(folder.path())
    }

    /// All that is in the log, which is closed for it.
    fn contents(&mut self) -> Contents {
        self.close();
        let contents = contents(&self.path());
        self.open();
        contents
    }

    async fn objects(&self) -> Vec<String> {
        let found: Vec<_> = self.objects.list(None).try_collect().await.unwrap();
        let mut paths: Vec<_> = found.into_iter().map(|it| it.location.to_string()).collect();
        paths.sort();
        paths
    }

    /// Every object that some manifest names is there and what it was; returns the names.
    async fn check_place(&self) -> Vec<String> {
        let place = self.place();
        let mut named = Vec::new();
        for number in place.numbers().await.unwrap() {
            for file in &place.manifest(number).await.unwrap().files {
                for name in place.named_by(file).await.unwrap() {
                    place.object(&name).await.unwrap();
                    named.push(format!("objects/{name}"));
                }
            }
        }
        named.sort();
        named.dedup();
        named
    }
}

/// Small parts, so that files have some, and no pause.
fn options() -> Options {
    Options { keep: 3, rate: u64::MAX, part_bytes: 128 << 10, ..Options::default() }
}

fn opened(path: &Path) -> Engine {
    let options = tracklog_engine::Options {
        slot_bytes: Some(SLOT_BYTES),
        hot_bytes: Some(2 * SLOT_BYTES),
        backend: BackendChoice::Blocking,
        replay_threads: 1,
        ..tracklog_engine::Options::default()
    };
    Engine::open(path, &options).unwrap()
}

fn append(log: &Engine, number: u64) {
    let topic = log.topic("raw").unwrap();
    let bytes: Vec<u8> = (0..20_000_u64).map(|at| (at * number % 251) as u8).collect();
    let bytes = [&number.to_le_bytes()[..], &bytes].concat();
    let partition = topic.partition(u32::from(number.is_multiple_of(3)));
    let epoch = block_on(log.open(Domain::WHOLE)).unwrap();
    let items = [Item::Record { partition, record: Record::opaque(&bytes) }];
    let permit = log.reserve(Lane::FIRST_SOURCE, bytes.len() + 4096).unwrap();
    block_on(log.append(permit, epoch, Append { conditions: &[], items: &items })).unwrap();
}

fn contents(path: &Path) -> Contents {
    let log = OfflineLog::open(path).unwrap();
    assert_eq!(log.notes(), []);
    let mut contents = Contents::new();
    for topic in log.topics() {
        for partition in topic.partitions().filter(|id| id.topic != TopicId(0)) {
            let extent = log.extent(partition).unwrap();
            let of = contents.entry((topic.name().to_owned(), partition.partition)).or_default();
            let mut from = extent.start;
            while from < extent.end {
                let mode = FetchMode::Replay;
                let fetch =
                    Fetch { from: vec![(partition, from)], bytes_max: 1 << 20, wait: false, mode };
                let part = block_on(log.fetch(fetch)).unwrap().partitions.remove(0);
                assert!(part.damage.is_empty());
                for (offset, record) in part.batches.iter().flat_map(|batch| batch.records()) {
                    of.insert(offset.0, record.bytes().to_vec());
                }
                from = part.next;
            }
        }
    }
    contents
}

#[tokio::test]
async fn a_backup_of_a_running_node_s_folder_is_its_log_and_what_lies_beside_it() {
    let mut world = World::new();
    world.grow(600);
    let folder = world.folder();
    let key = folder.default_key().unwrap().text;
    std::fs::write(folder.file("tracklog.toml"), "http = \"127.0.0.1:0\"\n").unwrap();
    let made = world.make().await;
    assert!(made.made && made.backup == 1 && made.shipped_bytes < made.bytes, "{made:?}");
    assert!(world.log().status().packs > 0, "packs are in it");
    let all = world.contents();
    let report = world.restore("new", None).await.unwrap();
    assert!(report.clean && report.replaced.is_none() && report.kept.is_empty(), "{report:?}");
    assert_eq!(report.settings, ["tracklog.toml", "default.key"]);
    let new = world.parent.path().join("new");
    assert_eq!(contents(&new), all);
    let restored = DataFolder::at(&new);
    let theirs = restored.default_key().unwrap();
    assert_eq!((theirs.text, theirs.made), (key, false));
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |name: &str| restored.file(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode("default.key"), mode("journal"), mode("tracklog.toml")),
        (0o600, 0o700, 0o600)
    );
    // It goes on as a log of its own.
    drop(opened(&new));
}

#[tokio::test]
async fn what_is_there_is_shipped_once() {
    let mut world = World::new();
    world.grow(400);
    let first = world.make().await;
    let again = world.make().await;
    assert!(!again.made && again.backup == 1 && again.shipped_bytes == 0, "{again:?}");
    let objects = world.objects().await;
    for number in 0..3 {
        append(world.log(), 10_000 + number);
    }
    let mut backup = world.backup().await;
    let more = backup.make().await.unwrap();
    assert!(more.made && more.backup == 2, "{more:?}");
    assert!(more.shipped_bytes * 8 < first.shipped_bytes, "{first:?} {more:?}");
    let now = world.objects().await;
    assert!(objects.iter().all(|path| now.contains(path)), "nothing that is kept goes");
    // Marks and packs come behind appends by themselves: when all are there nothing is new.
    let mut rounds = 0;
    while backup.make().await.unwrap().made {
        rounds += 1;
        assert!(rounds < 20, "a log that rests is made a backup of again and again");
    }
}

#[tokio::test]
async fn a_backup_goes_on_with_the_log_it_follows() {
    let mut world = World::new();
    let mut backup = world.backup().await;
    let mut last = 0;
    for round in 0..12 {
        for _ in 0..60 {
            world.sent += 1;
            append(world.log(), world.sent);
        }
        let report = backup.make().await.unwrap();
        assert!(report.backup > last, "round {round}: {report:?}");
        last = report.backup;
        if round % 4 == 3 {
            world.close();
            world.open();
        }
    }
    world.close();
    assert!(backup.make().await.unwrap().made);
    world.open();
    assert_eq!(world.restored(None).await, world.contents());
    world.check_place().await;
}

#[tokio::test]
async fn of_old_backups_nothing_stays_that_the_kept_ones_do_not_name() {
    let mut world = World::new();
    for round in 1..=8 {
        world.grow(80);
        // Another process each time, or one that goes on.
        let report = world.make().await;
        assert_eq!((report.backup, report.not_removed), (round, None));
        let named = world.check_place().await;
        let objects = world.objects().await;
        let there: Vec<_> = objects.into_iter().filter(|it| it.starts_with("objects/")).collect();
        assert_eq!(there, named, "round {round}");
    }
    assert_eq!(world.place().numbers().await.unwrap(), [6, 7, 8]);
    let all = world.contents();
    let older = world.restored(Some(6)).await;
    assert_eq!(world.restored(Some(8)).await, all);
    let count = |contents: &Contents| contents.values().map(BTreeMap::len).sum::<usize>();
    assert_eq!((count(&older), count(&all)), (480, 640));
}
