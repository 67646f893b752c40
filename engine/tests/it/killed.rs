//! A process that is killed at any step of what it does to a real file system.
//!
//! A child runs a program of openings, appends, rolls, checkpoints, packs, and of slots and packs
//! that are given back piece by piece, over a disk that counts: before and after each operation lies
//! a point, and at the chosen one the child kills itself with SIGKILL. Another child is killed while
//! it recovers that. Then the log opens, and whatever a child said to be acked is there. The
//! simulated disk tries all of this much more often; here the files, the locks and the kernel's rings
//! are real ones.
//!
//! Some points are tried; `TRACKLOG_KILL_POINTS=1` tries each, and a higher number each from that one on.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Signal, getpid, kill_process};
use tracklog_engine::disk::{
    Access, Backend, BackendKind, Disk, FileName, FolderAccess, JournalFolder, Map, PackFile,
    PackId, PackWriter, PageBuffer, Slot, SlotId, WriteDone, open_folder,
};
use tracklog_engine::{BackendChoice, Engine, Options, WhenFull, verify};
use tracklog_log::{Limits, Log as _, Retention, TopicName};
use tracklog_protocol::{PartitionId, TimeMicros};

use crate::rig::{
    SLOT_BYTES, append_in_time, contents, options, payload, settled, topic, until, wait,
};

const FOLDER: &str = "TRACKLOG_KILLED_FOLDER";
const POINT: &str = "TRACKLOG_KILLED_POINT";
const BACKEND: &str = "TRACKLOG_KILLED_BACKEND";
/// Never reached.
const NO_POINT: u64 = u64::MAX;
const TRIED: u64 = 24;
const PARTITIONS: u32 = 3;
const OPENINGS: u64 = 3;
/// Several of them fill a segment.
const RECORD_BYTES: usize = 3 << 20;

#[test]
fn killed_at_any_step_with_threads_nothing_acked_is_lost() {
    killed_at_every_step("blocking");
}

#[test]
fn killed_at_any_step_with_io_uring_nothing_acked_is_lost() {
    killed_at_every_step("uring");
}

fn killed_at_every_step(backend: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = run_child(folder.path(), backend, NO_POINT);
    if whole.refused {
        return eprintln!("SKIPPED: {backend} is refused here");
    }
    let points = whole.points.expect("a program that was not killed says how many points it has");
    assert!(points > 200, "the program does something: {points} points");
    let (slots, packs) = whole.given_back;
    assert!(slots > 0 && packs > 0, "{slots} slots and {packs} packs were given back");
    check(folder.path(), &whole.acked, "not killed");
    let each_from = std::env::var("TRACKLOG_KILL_POINTS").ok();
    let each_from = each_from.map(|from| from.parse().expect("TRACKLOG_KILL_POINTS is a number"));
    let (from, step) = each_from.map_or((1, points / TRIED), |from: u64| (from, 1));
    for point in (from..points).step_by(usize::try_from(step).expect("it is small")) {
        let folder = tempfile::tempdir().expect("a folder");
        let mut acked = run_child(folder.path(), backend, point).acked;
        // While it recovers, or soon after.
        acked.extend(run_child(folder.path(), backend, point % 60).acked);
        check(folder.path(), &acked, &format!("killed at point {point} of {points}"));
        eprintln!("{backend}: killed at point {point} of {points}");
    }
}

/// What a child said before it ended.
#[derive(Default)]
struct Said {
    /// By partition and offset, the record's number.
    acked: BTreeMap<(u32, u64), u64>,
    points: Option<u64>,
    /// Slots and packs.
    given_back: (u64, u64),
    refused: bool,
}

fn run_child(folder: &Path, backend: &str, point: u64) -> Said {
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program)
        .args(["--exact", "killed::program_of_a_child", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(POINT, point.to_string())
        .env(BACKEND, backend)
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut said = Said::default();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().expect("a number");
        match *words.first().unwrap_or(&"") {
            "acked" if words.len() == 4 => {
                let partition = u32::try_from(number(1)).expect("a partition");
                said.acked.insert((partition, number(2)), number(3));
            }
            "points" => {
                said.points = Some(number(1));
                said.given_back = (number(2), number(3));
            }
            "refused" => said.refused = true,
            _ => {}
        }
    }
    let ended = said.points.is_some() || said.refused;
    assert!(ended || point != NO_POINT, "{text}{}", String::from_utf8_lossy(&output.stderr));
    let killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
    assert!(ended || killed, "{text}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Everything acked is there, unless it was dropped with the oldest segments.
fn check(folder: &Path, acked: &BTreeMap<(u32, u64), u64>, when: &str) {
    // This one drops nothing while it is looked at.
    let engine = Engine::open(folder, &Options { backend: BackendChoice::Blocking, ..options() });
    let engine = engine.unwrap_or_else(|error| panic!("{when}: {error}"));
    let there = contents(&engine);
    for ((partition, offset), number) in acked {
        let id = engine.topic("t").unwrap_or_else(|| panic!("{when}: the topic is gone")).id;
        let extent = engine.extent(PartitionId::new(id, *partition));
        if *offset < extent.expect("the topic has it").start.0 {
            continue;
        }
        let record = there[&("t".to_owned(), *partition)].get(offset);
        let is = record.map(|bytes| u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")));
        assert_eq!(is, Some(*number), "{when}: offset {offset} of partition {partition}");
    }
    engine.close();
    let report = verify(folder, &mut |_| {}).expect("it can be read");
    assert!(report.clean, "{when}: {:?}", report.problems);
}

/// The journal may grow in the second opening, and in the last one nothing stays hot: slots are left
/// over then.
fn settings(backend: BackendChoice, opening: u64) -> Options {
    let is_last = opening + 1 == OPENINGS;
    Options {
        backend,
        journal_bytes_max: (!is_last).then(|| SLOT_BYTES * (5 + 4 * opening)),
        hot_bytes: if is_last { Some(0) } else { options().hot_bytes },
        pack_level: 1,
        when_full: WhenFull::DropOldest,
        ..options()
    }
}

#[test]
#[ignore = "a child of the tests above runs it, and is killed"]
fn program_of_a_child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let point = std::env::var(POINT).expect("a point").parse().expect("a number");
    let choice = match std::env::var(BACKEND).expect("a backend").as_str() {
        "uring" => BackendChoice::Uring,
        _ => BackendChoice::Blocking,
    };
    let counting = Arc::new(Counting { point, ..Counting::default() });
    for opening in 0..OPENINGS {
        let opened = open_folder(Path::new(&folder), FolderAccess::Write, choice);
        let inner = match opened {
            Ok(inner) => inner,
            Err(error) => return println!("refused {error}"),
        };
        assert_ne!(inner.backend().kind, BackendKind::Simulated);
        let disk = Killing { inner, counting: Arc::clone(&counting) };
        let engine = Engine::open_on(Arc::new(disk), &settings(choice, opening)).expect("it opens");
        let partitions = topic(&engine, "t", PARTITIONS, Retention::Keep);
        if opening + 1 == OPENINGS {
            give_back(&engine);
            engine.close();
            break;
        }
        // As much as the journal may hold: segments roll, and the oldest are settled, or dropped.
        for turn in 0..25 {
            let number = (u64::from(std::process::id()) << 16) + opening * 1_000 + turn;
            let partition = partitions[usize::try_from(turn).expect("small") % partitions.len()];
            let bytes = if turn % 5 == 0 { 100 } else { RECORD_BYTES };
            let offset = append_in_time(&engine, partition, &payload(number, bytes));
            println!("acked {} {offset} {number}", partition.partition);
        }
        engine.close();
    }
    let counts = [&counting.passed, &counting.slots_given_back, &counting.packs_given_back];
    let [points, slots, packs] = counts.map(|count| count.load(Ordering::SeqCst));
    println!("points {points} {slots} {packs}");
}

/// Settles all, and has packs of which nothing is to be kept.
fn give_back(engine: &Engine) {
    settled(engine);
    let limits = Limits { bytes: Some(0), ..Limits::default() };
    wait(engine.set_limits(&TopicName::new("t").expect("a name"), limits)).expect("it is stored");
    let topic = engine.topic("t").expect("it is there").id;
    until(engine, |log| log.topic_bytes(topic) == Some(0));
}

/// Counts points, and kills this process at one.
#[derive(Default)]
struct Counting {
    passed: AtomicU64,
    point: u64,
    slots_given_back: AtomicU64,
    packs_given_back: AtomicU64,
}

impl Counting {
    fn point(&self) {
        if self.passed.fetch_add(1, Ordering::SeqCst) + 1 == self.point {
            kill_process(getpid(), Signal::KILL).expect("one may kill oneself");
        }
    }

    /// A point before and one behind.
    fn around<T>(&self, operation: impl FnOnce() -> T) -> T {
        self.point();
        let result = operation();
        self.point();
        result
    }

    /// The same, and one behind each piece.
    fn around_pieces<T>(
        &self,
        between: &mut dyn FnMut(u64),
        operation: impl FnOnce(&mut dyn FnMut(u64)) -> T,
    ) -> T {
        self.around(|| {
            operation(&mut |done| {
                self.point();
                between(done);
            })
        })
    }
}

/// A disk with points around whatever changes it.
struct Killing {
    inner: Arc<dyn Disk>,
    counting: Arc<Counting>,
}

impl Disk for Killing {
    fn journal_folder(&self) -> io::Result<JournalFolder> {
        self.inner.journal_folder()
    }

    fn cut_folder(&self) -> io::Result<Vec<(String, u64)>> {
        self.inner.cut_folder()
    }

    fn read_file(&self, name: &FileName) -> io::Result<Vec<u8>> {
        self.inner.read_file(name)
    }

    fn write_file(&self, name: &FileName, bytes: &[u8]) -> io::Result<()> {
        self.counting.around(|| self.inner.write_file(name, bytes))
    }

    fn remove_file(&self, name: &FileName) -> io::Result<()> {
        self.counting.around(|| self.inner.remove_file(name))
    }

    fn packs_folder(&self) -> io::Result<Vec<(PackId, u64)>> {
        self.inner.packs_folder()
    }

    fn create_pack(&self, pack: PackId) -> io::Result<Box<dyn PackWriter>> {
        let inner = self.counting.around(|| self.inner.create_pack(pack))?;
        Ok(Box::new(KillingPack { inner, counting: Arc::clone(&self.counting) }))
    }

    fn open_pack(&self, pack: PackId) -> io::Result<Arc<dyn PackFile>> {
        self.inner.open_pack(pack)
    }

    fn create_slot(
        &self,
        slot: SlotId,
        bytes: u64,
        between: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        self.counting.around(|| self.inner.create_slot(slot, bytes, between))
    }

    fn remove_slot(&self, slot: SlotId) -> io::Result<()> {
        self.counting.around(|| self.inner.remove_slot(slot))
    }

    fn give_back_slot(&self, slot: SlotId, between: &mut dyn FnMut(u64)) -> io::Result<()> {
        self.counting.slots_given_back.fetch_add(1, Ordering::SeqCst);
        self.counting.around_pieces(between, |between| self.inner.give_back_slot(slot, between))
    }

    fn give_back_pack(&self, pack: PackId, between: &mut dyn FnMut(u64)) -> io::Result<()> {
        self.counting.packs_given_back.fetch_add(1, Ordering::SeqCst);
        self.counting.around_pieces(between, |between| self.inner.give_back_pack(pack, between))
    }

    fn open_slot(&self, slot: SlotId, access: Access) -> io::Result<Arc<dyn Slot>> {
        let inner = self.counting.around(|| self.inner.open_slot(slot, access))?;
        Ok(Arc::new(KillingSlot { inner, counting: Arc::clone(&self.counting) }))
    }

    /// Not much: then few slots are kept for later.
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.inner.free_bytes()?.min(12 * SLOT_BYTES))
    }

    fn reads_are_direct(&self) -> bool {
        self.inner.reads_are_direct()
    }

    fn backend(&self) -> Backend {
        self.inner.backend()
    }

    fn now(&self) -> TimeMicros {
        self.inner.now()
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }

    fn random(&self) -> u64 {
        self.inner.random()
    }
}

struct KillingPack {
    inner: Box<dyn PackWriter>,
    counting: Arc<Counting>,
}

impl PackWriter for KillingPack {
    fn write(&mut self, pages: &PageBuffer) -> io::Result<()> {
        let Self { inner, counting } = self;
        counting.around(|| inner.write(pages))
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let Self { inner, counting } = *self;
        counting.around(|| inner.finish())
    }
}

struct KillingSlot {
    inner: Arc<dyn Slot>,
    counting: Arc<Counting>,
}

impl Slot for KillingSlot {
    fn bytes(&self) -> u64 {
        self.inner.bytes()
    }

    fn read(&self, at: u64, buffer: &mut PageBuffer) -> io::Result<()> {
        self.inner.read(at, buffer)
    }

    fn write(&self, at: u64, pages: &Bytes) -> io::Result<()> {
        self.counting.around(|| self.inner.write(at, pages))
    }

    /// Killed before the write, with it in flight, or when it is over and nobody knows yet.
    fn submit(&self, at: u64, pages: Bytes, done: WriteDone) {
        let counting = Arc::clone(&self.counting);
        let done = Box::new(move |result| {
            counting.point();
            done(result);
        });
        self.counting.around(|| self.inner.submit(at, pages, done));
    }

    fn sync(&self) -> io::Result<()> {
        self.counting.around(|| self.inner.sync())
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.counting.around(|| self.inner.drop_cache())
    }

    fn map(&self) -> io::Result<Arc<dyn Map>> {
        self.inner.map()
    }
}
