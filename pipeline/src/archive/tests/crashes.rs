//! Whatever the store does, and whenever the process ends: each event is in the archive once.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::sync::watch;
use tracklog_log::conformance::block_on;
use tracklog_log::{Fetch, FetchMode, Log, Pending, TimeKind, Topic};
use tracklog_protocol::event::{EventBuilder, EventParts};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::{BatchView, Offset, PartitionId, Record, TimeMicros};

use super::faulty::{Fault, Faulty};
use crate::archive::archiver::{ArchiveCounters, Archiver, ArchiverEnd, Flush, Schemas};
use crate::archive::chain::{self, Chain};
use crate::archive::file::OpenFile;
use crate::archive::log::ArchiveLog;
use crate::archive::manifest::{FilePartition, sha256};
use crate::archive::store::{Object, Store};
use crate::archive::substitute::{Substitute, SubstituteError};
use crate::archive::verify::{self, Told};
use crate::groups::Clock;
use crate::rig::Rig;
use crate::stage::Time;

/// Time that passes when somebody waits.
struct TestTime(Clock);

impl Time for TestTime {
    fn now(&self) -> TimeMicros {
        (self.0)()
    }

    fn pause(&self, _: Duration) -> Pending<'static, ()> {
        let mut has_waited = false;
        Box::pin(std::future::poll_fn(move |context| {
            if std::mem::replace(&mut has_waited, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }))
    }
}

struct TestSchemas;

impl Schemas for TestSchemas {
    fn versions(&self, name: &str) -> Vec<Bytes> {
        let schema = br#"{"properties":{"number":{"type":"integer"}}}"#;
        if name == "Bought" { vec![Bytes::from_static(schema)] } else { Vec::new() }
    }
}

pub(super) struct World {
    pub(super) rig: Rig,
    pub(super) topics: Vec<Topic>,
    pub(super) objects: Arc<dyn ObjectStore>,
    written: u64,
}

impl World {
    fn new() -> Self {
        Self::over(Arc::new(InMemory::new()))
    }

    /// One whose archive is in these objects.
    pub(super) fn over(objects: Arc<dyn ObjectStore>) -> Self {
        let rig = Rig::new();
        let topics = vec![rig.topic("raw", 3), rig.topic("enriched", 2)];
        Self { rig, topics, objects, written: 0 }
    }

    /// Writes events of some names to all partitions, some days apart.
    pub(super) fn write(&mut self, events: u64) {
        for _ in 0..events {
            let number = self.written;
            self.written += 1;
            let topic = &self.topics[usize::from(number.is_multiple_of(5))];
            let partition = u32::try_from(number * 7 % u64::from(topic.spec.partitions)).unwrap();
            let name = ["Bought", "Seen/All", "Left"][(number % 3) as usize];
            let properties = format!("{{\"number\":{number}, \"x\": 1.50}}");
            let parts = EventParts {
                message_id: &format!("m{number}"),
                name: Some(name),
                event_time: TimeMicros((number * 1_000) as i64),
                properties: Some(&properties),
                headers: &[("dnt", "1")],
                ..EventParts::default()
            };
            let mut builder = EventBuilder::new();
            let record = builder.build(&parts);
            self.rig.append(&[], &[(topic.partition(partition), record)]).unwrap();
            if number % 20 == 19 {
                self.rig.pass_seconds(40_000);
            }
        }
    }

    pub(super) fn archiver(
        &self,
        objects: Arc<dyn ObjectStore>,
        flush_bytes: u64,
    ) -> Archiver<impl Log + use<>> {
        Archiver {
            log: Arc::clone(&self.rig.log),
            store: Store::of(objects, "memory"),
            topics: self.topics.clone(),
            schemas: Arc::new(TestSchemas),
            flush: Flush { bytes: flush_bytes, interval: Duration::from_secs(60) },
            time: Arc::new(TestTime(self.rig.clock())),
            counters: Arc::new(ArchiveCounters::new(&self.topics)),
        }
    }

    /// A life of an archiver; whether it came to its end.
    pub(super) fn live(&self, plan: impl Fn(u64) -> Fault + Send + Sync + 'static) -> bool {
        let objects = Faulty::new(&self.objects, plan);
        let archiver = self.archiver(Arc::clone(&objects) as Arc<dyn ObjectStore>, 6_000);
        let ended = block_on(objects.run(archiver.catch_up()));
        ended.map(|ended| ended.expect("it may go on")).is_some()
    }

    pub(super) fn store(&self) -> Store {
        Store::of(Arc::clone(&self.objects), "memory")
    }

    /// The archive is the log: the same records at the same offsets, each once, and all is whole.
    pub(super) fn check(&self) {
        self.check_without(0);
    }

    /// The same, after so many events were erased.
    pub(super) fn check_without(&self, erased: u64) {
        let archive = block_on(ArchiveLog::open(self.store())).unwrap();
        for topic in &self.topics {
            let archived = archive.topic(topic.name()).expect("it is archived");
            assert_eq!(archived.created, topic.created);
            for (partition, there) in topic.partitions().zip(archived.partitions()) {
                let of_log = lines(&*self.rig.log, partition, topic.name());
                let of_archive = lines(&archive, there, topic.name());
                assert_eq!(of_archive, of_log, "{partition}");
                assert_eq!(archive.extent(there), self.rig.log.extent(partition));
            }
        }
        let mut problems = Vec::new();
        let verdict = block_on(verify::verify(&self.store(), &mut |told| {
            if let Told::Problem(problem) = told {
                problems.push(problem);
            }
        }));
        let verdict = verdict.unwrap();
        assert_eq!((verdict.damaged, problems), (0, Vec::new()));
        let rows: u64 = verdict.summary.topics.values().map(|topic| topic.rows).sum();
        assert_eq!(rows, self.written - erased);
        assert_eq!(self.rows_by_pattern(), rows, "as whoever reads all files counts them");
        assert_eq!(verdict.orphans, []);
    }

    /// The rows of all files that are there, named or not.
    fn rows_by_pattern(&self) -> u64 {
        let store = self.store();
        let rows = |object: &Object| {
            let bytes = block_on(store.get(&object.path)).unwrap();
            let digest = sha256(&bytes);
            OpenFile::open(bytes, &digest).unwrap().rows() as u64
        };
        block_on(store.files()).unwrap().iter().map(rows).sum()
    }
}

/// All lines of a partition, read in small bites.
fn lines(log: &dyn Log, partition: PartitionId, topic: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let extent = log.extent(partition).unwrap();
    let mut next = extent.start;
    while next < extent.end {
        let (from, mode) = (vec![(partition, next)], FetchMode::Replay);
        let fetched = block_on(log.fetch(Fetch { from, bytes_max: 500, wait: false, mode }));
        let found = fetched.unwrap().partitions.remove(0);
        assert_eq!(found.damage, []);
        for batch in &found.batches {
            for (offset, record) in batch.records().filter(|(offset, _)| *offset >= next) {
                lines.push(line(topic, batch, offset, record));
            }
        }
        assert!(found.next > next, "it goes on");
        next = found.next;
    }
    lines
}

pub(super) fn line(topic: &str, batch: &BatchView, offset: Offset, record: Record<'_>) -> String {
    let (partition, appended_at) = (batch.partition().partition, batch.append_time());
    let mut line = Vec::new();
    write_line(&mut line, LinePlace { topic, partition, offset, appended_at }, record);
    String::from_utf8(line).unwrap()
}

#[test]
fn all_that_is_in_the_log_comes_into_the_archive_once() {
    let mut world = World::new();
    for events in [1, 40, 0, 200] {
        world.write(events);
        assert!(world.live(|_| Fault::None));
    }
    world.check();
    let chain = block_on(Chain::load(&world.store())).unwrap();
    let folders: Vec<_> = chain.files().map(|file| file.path.rsplit_once('/').unwrap().0).collect();
    assert!(folders.contains(&"topic=raw/date=1970-01-01/event=Bought"), "{folders:?}");
    assert!(folders.contains(&"topic=raw/date=1970-01-02/event=__other__"), "{folders:?}");
}

#[test]
fn the_step_that_brought_an_offset_is_found_and_its_files_have_it() {
    let mut world = World::new();
    for events in [1, 40, 7, 200] {
        world.write(events);
        assert!(world.live(|_| Fault::None));
    }
    let store = world.store();
    for topic in &world.topics {
        for at in topic.partitions() {
            let step = |offset| {
                block_on(chain::step_of(&store, topic.name(), at.partition, offset)).unwrap()
            };
            let end = world.rig.log.extent(at).unwrap().end;
            for offset in 0..end.0 {
                let step = step(Offset(offset)).expect("it is archived");
                let has_it = |it: &FilePartition| {
                    it.partition == at.partition && (it.first..=it.last).contains(&offset)
                };
                assert_eq!(step.topic, topic.name());
                assert!(step.files.iter().any(|file| file.partitions.iter().any(has_it)));
            }
            assert_eq!(step(end), None, "what is not there yet is in no step");
        }
    }
}

#[test]
fn nothing_new_makes_no_manifest() {
    let mut world = World::new();
    world.write(10);
    assert!(world.live(|_| Fault::None));
    let before = block_on(world.store().manifests(0)).unwrap();
    assert!(world.live(|_| Fault::None));
    assert_eq!(block_on(world.store().manifests(0)).unwrap(), before);
}

/// Lets an archiver begin and look around some times, and stops it.
fn glance(archiver: &Archiver<impl Log>) {
    let (_go_on, stop) = watch::channel(false);
    let mut running = std::pin::pin!(archiver.run(stop));
    let mut context = Context::from_waker(Waker::noop());
    for _ in 0..50 {
        assert!(running.as_mut().poll(&mut context).is_pending(), "it goes on until it is stopped");
    }
}

#[test]
fn what_waits_is_due_by_its_own_age_however_often_the_archiver_starts() {
    let mut world = World::new();
    world.write(10);
    for seconds in [25, 25] {
        world.rig.pass_seconds(seconds);
        let archiver = world.archiver(Arc::clone(&world.objects), 1 << 20);
        glance(&archiver);
        assert!(block_on(world.store().manifests(0)).unwrap().is_empty(), "a minute is not over");
    }
    world.rig.pass_seconds(5);
    let archiver = world.archiver(Arc::clone(&world.objects), 1 << 20);
    glance(&archiver);
    let waits = archiver.counters.topics[0].waits((world.rig.clock())());
    assert!((54..=56).contains(&waits.as_secs()), "{waits:?}");
    world.rig.pass_seconds(10);
    glance(&world.archiver(Arc::clone(&world.objects), 1 << 20));
    world.check();
}

/// Each operation of a whole life in turn is where it ends, or fails.
#[test]
fn a_crash_or_failure_at_any_step_neither_loses_nor_doubles() {
    for fault in
        [Fault::KilledBefore, Fault::KilledAfter, Fault::Refused, Fault::ReplyLost, Fault::Slow(3)]
    {
        for step in 0.. {
            let mut world = World::new();
            world.write(35);
            let lived = world.live(move |at| if at == step { fault } else { Fault::None });
            // What comes next finds more than was there when it crashed: other ranges, other files.
            world.write(4);
            assert!(world.live(|_| Fault::None));
            world.check();
            let is_kill = matches!(fault, Fault::KilledBefore | Fault::KilledAfter);
            if (is_kill && lived) || step == 30 {
                assert!(step > 10, "there are many steps: {step}");
                break;
            }
        }
    }
}

/// Each reading of a file in turn is of other bytes, once: it is read again before anything names it.
#[test]
fn what_reads_back_otherwise_than_it_was_written_is_not_named_until_it_reads_back_so() {
    let mut told = 0;
    for step in 0..40 {
        let mut world = World::new();
        world.write(35);
        let objects =
            Faulty::new(
                &world.objects,
                move |at| {
                    if at == step { Fault::Corrupted } else { Fault::None }
                },
            );
        let archiver = world.archiver(Arc::clone(&objects) as Arc<dyn ObjectStore>, 6_000);
        block_on(archiver.catch_up()).unwrap();
        told += archiver.counters.errors.count();
        world.check();
    }
    assert!(told > 5, "many of the steps read a file back: {told}");
}

#[test]
fn what_never_reads_back_as_it_was_written_is_named_by_nothing() {
    let mut world = World::new();
    world.write(35);
    let lived = world.live(|at| if at < 100 { Fault::Corrupted } else { Fault::KilledBefore });
    assert!(!lived, "it goes on trying");
    assert_eq!(block_on(world.store().manifests(0)).unwrap(), [0; 0]);
    assert!(world.live(|_| Fault::None));
    world.check();
}

#[test]
fn a_step_has_about_the_bytes_of_a_flush() {
    const FLUSH_BYTES: u64 = 20_000;
    let mut world = World::new();
    world.write(1_000);
    let archiver = world.archiver(Arc::clone(&world.objects), FLUSH_BYTES);
    block_on(archiver.catch_up()).unwrap();
    let chain = block_on(Chain::load(&world.store())).unwrap();
    let bytes: Vec<u64> = chain
        .steps("raw")
        .map(|step| step.files.iter().map(|file| file.event_bytes).sum())
        .collect();
    assert!(bytes.len() > 5, "{bytes:?}");
    // What an event takes is a guess until the first were read.
    let [_, of_flushes @ .., _] = &bytes[..] else { panic!("there are more than two") };
    let about = FLUSH_BYTES / 2..=FLUSH_BYTES * 2;
    assert!(of_flushes.iter().all(|it| about.contains(it)), "{bytes:?}");
}

#[test]
fn any_mix_of_crashes_and_failures_neither_loses_nor_doubles() {
    let base: u64 = std::env::var("TRACKLOG_ARCHIVE_SEED").map_or(0, |seed| seed.parse().unwrap());
    for seed in base..base + 40 {
        let mut world = World::new();
        let mut random = Random(seed);
        for _ in 0..6 {
            world.write(random.below(30));
            let life = random.next();
            world.live(move |at| match Random(life ^ (at << 20)).below(24) {
                0 => Fault::KilledBefore,
                1 => Fault::KilledAfter,
                2..5 => Fault::Refused,
                5..8 => Fault::ReplyLost,
                8..10 => Fault::Slow(2),
                _ => Fault::None,
            });
        }
        world.write(1);
        assert!(world.live(|_| Fault::None), "seed {seed}");
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.check()))
            .unwrap_or_else(|_| panic!("TRACKLOG_ARCHIVE_SEED={seed} repeats this"));
    }
}

/// A writer that was given up for dead, and wakes, finds that its number is taken.
#[test]
fn two_writers_at_one_archive_double_nothing() {
    let mut world = World::new();
    world.write(30);
    let objects =
        Faulty::new(&world.objects, |at| if at > 3 { Fault::Slow(40) } else { Fault::None });
    let late = world.archiver(Arc::clone(&objects) as Arc<dyn ObjectStore>, 6_000);
    let early = world.archiver(Arc::clone(&world.objects), 6_000);
    block_on(async {
        let late = std::pin::pin!(late.catch_up());
        let both = futures_util::future::join(late, early.catch_up());
        let (late, early) = both.await;
        late.unwrap();
        early.unwrap();
    });
    world.check();
}

/// None removes what another one names, in whatever order their steps come, and in the end nothing
/// is left of those that died.
#[test]
fn writers_that_know_nothing_of_each_other_remove_only_what_nobody_names() {
    let base: u64 = std::env::var("TRACKLOG_ARCHIVE_SEED").map_or(0, |seed| seed.parse().unwrap());
    for seed in base..base + 60 {
        let mut world = World::new();
        let mut random = Random(seed);
        for _ in 0..3 {
            world.write(random.below(40));
            let lives: Vec<_> = (0..3)
                .map(|_| {
                    let life = random.next();
                    Faulty::new(&world.objects, move |at| {
                        let mut random = Random(life ^ (at << 20));
                        match random.below(40) {
                            0 => Fault::KilledBefore,
                            1 => Fault::KilledAfter,
                            2 => Fault::ReplyLost,
                            _ => Fault::Slow(u32::try_from(random.below(12)).unwrap()),
                        }
                    })
                })
                .collect();
            let archivers: Vec<_> = lives
                .iter()
                .map(|life| world.archiver(Arc::clone(life) as Arc<dyn ObjectStore>, 6_000))
                .collect();
            let lived = lives.iter().zip(&archivers).map(|(life, it)| life.run(it.catch_up()));
            block_on(futures_util::future::join_all(lived));
        }
        world.write(10);
        assert!(world.live(|_| Fault::None), "seed {seed}");
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.check()))
            .unwrap_or_else(|_| panic!("TRACKLOG_ARCHIVE_SEED={seed} repeats this"));
    }
}

#[test]
fn the_archive_of_another_log_is_left_alone() {
    let mut world = World::new();
    world.write(30);
    assert!(world.live(|_| Fault::None));
    let mut other = World::new();
    other.rig.pass_seconds(1);
    other.topics = vec![other.rig.topic("raw-2", 3), other.rig.topic("enriched-2", 2)];
    other.objects = Arc::clone(&world.objects);
    // Made at another time, under the same name.
    let mut impostor = World::new();
    impostor.objects = Arc::clone(&world.objects);
    let archiver = impostor.archiver(Arc::clone(&world.objects), 6_000);
    let refused = block_on(archiver.catch_up());
    assert!(
        matches!(refused, Err(ArchiverEnd::AnotherLog { .. })),
        "its log has less: {refused:?}"
    );
    other.write(5);
    assert!(other.live(|_| Fault::None), "other topics may join");
}

#[test]
fn what_the_log_lost_is_named_in_the_manifest() {
    let mut world = World::new();
    world.write(30);
    assert!(world.live(|_| Fault::None));
    world.write(30);
    let partition = world.topics[0].partition(1);
    let end = world.rig.end(partition);
    block_on(world.rig.log.trim(partition, end)).unwrap();
    world.write(1);
    assert!(world.live(|_| Fault::None));
    let chain = block_on(Chain::load(&world.store())).unwrap();
    let missing: Vec<_> = chain.manifests.iter().flat_map(|it| &it.manifest.missing).collect();
    let offsets: u64 = missing.iter().map(|it| it.range.to - it.range.from).sum();
    assert_eq!(offsets, end.0 - missing[0].range.from, "{missing:?}");
    assert_eq!(missing.last().unwrap().range.to, end.0);
    for missing in missing {
        assert_eq!((missing.range.partition, &*missing.why), (1, "no longer in the log"));
    }
}

#[test]
fn a_damaged_file_is_told_and_what_is_beside_it_is_read() {
    let mut world = World::new();
    world.write(60);
    assert!(world.live(|_| Fault::None));
    let chain = block_on(Chain::load(&world.store())).unwrap();
    let victim = chain.files().find(|file| file.path.contains("Bought")).unwrap().clone();
    let path = Path::parse(&victim.path).unwrap();
    let mut bytes = block_on(world.store().get(&victim.path)).unwrap().to_vec();
    bytes[10] ^= 1;
    block_on(world.objects.put(&path, bytes.into())).unwrap();
    let check = |expected: &str| {
        let mut problems = Vec::new();
        let verdict = block_on(verify::verify(&world.store(), &mut |told| {
            if let Told::Problem(problem) = told {
                problems.push(problem);
            }
        }));
        assert_eq!(verdict.unwrap().damaged, 1);
        assert_eq!(problems[0].path, victim.path);
        assert!(problems[0].what.contains(expected), "{problems:?}");
    };
    check("digest");
    let archive = block_on(ArchiveLog::open(world.store())).unwrap();
    let topic = archive.topic("raw").unwrap();
    let (mut damaged, mut read) = (0, 0);
    for partition in topic.partitions() {
        let mut next = Offset::ZERO;
        while next < archive.extent(partition).unwrap().end {
            let (from, mode) = (vec![(partition, next)], FetchMode::Replay);
            let fetch = Fetch { from, bytes_max: 1 << 20, wait: false, mode };
            let found = block_on(archive.fetch(fetch)).unwrap().partitions.remove(0);
            damaged += found.damage.len();
            read += found.batches.iter().map(|batch| u64::from(batch.count())).sum::<u64>();
            next = found.next;
        }
    }
    assert!(damaged > 0);
    let all: u64 = chain.files().filter(|it| it.path.contains("raw")).map(|it| it.rows).sum();
    assert_eq!(read, all - victim.rows);
    block_on(world.objects.delete(&path)).unwrap();
    check("gone");
}

#[test]
fn times_are_found_as_in_the_log() {
    let mut world = World::new();
    world.write(100);
    assert!(world.live(|_| Fault::None));
    let archive = block_on(ArchiveLog::open(world.store())).unwrap();
    for topic in &world.topics {
        let there = archive.topic(topic.name()).unwrap();
        for (partition, there) in topic.partitions().zip(there.partitions()) {
            for step in -1..=40 {
                let event = TimeMicros(step * 5_000);
                let append = TimeMicros(1_000_000 + step * 20_000_000_000);
                for (kind, time) in [(TimeKind::Event, event), (TimeKind::Append, append)] {
                    let of_log = block_on(world.rig.log.offset_at(partition, kind, time));
                    let of_archive = block_on(archive.offset_at(there, kind, time));
                    assert_eq!(of_archive, of_log, "{kind:?} {time}");
                }
            }
        }
    }
}

#[test]
fn a_topic_is_read_from_the_archive_though_the_log_has_it_no_more() {
    let mut world = World::new();
    world.write(200);
    assert!(world.live(|_| Fault::None));
    let [raw, enriched] = [0, 1].map(|index| world.topics[index].clone());
    let before: Vec<_> =
        raw.partitions().map(|id| lines(&*world.rig.log, id, raw.name())).collect();
    for partition in raw.partitions() {
        let extent = world.rig.log.extent(partition).unwrap();
        block_on(world.rig.log.trim(partition, extent.end)).unwrap();
    }
    world.write(40);
    let log = Arc::clone(&world.rig.log) as Arc<dyn Log>;
    let substitute = block_on(Substitute::open(log, raw.clone(), world.store())).unwrap();
    for (partition, before) in raw.partitions().zip(before) {
        assert_eq!(lines(&substitute, partition, raw.name()), before, "as it was archived");
        let later =
            block_on(substitute.offset_at(partition, TimeKind::Append, TimeMicros(i64::MAX)));
        assert_eq!(later, Ok(substitute.extent(partition).unwrap().end));
    }
    for partition in enriched.partitions() {
        let of_log = lines(&*world.rig.log, partition, enriched.name());
        assert_eq!(lines(&substitute, partition, enriched.name()), of_log, "the log's own");
    }
    let both = [enriched.partition(1), raw.partition(2), enriched.partition(0)];
    let from = both.map(|partition| (partition, Offset::ZERO)).to_vec();
    let fetch = Fetch { from, bytes_max: 1 << 20, wait: true, mode: FetchMode::Replay };
    let fetched = block_on(substitute.fetch(fetch)).unwrap();
    assert_eq!(fetched.partitions.iter().map(|it| it.partition).collect::<Vec<_>>(), both);
    assert!(fetched.partitions.iter().all(|it| !it.batches.is_empty()));
}

#[test]
fn an_archive_of_other_partitions_or_without_the_topic_stands_in_for_nothing() {
    let mut world = World::new();
    world.write(20);
    assert!(world.live(|_| Fault::None));
    let other = Rig::new();
    let open = |topic: Topic| {
        let log = Arc::clone(&other.log) as Arc<dyn Log>;
        block_on(Substitute::open(log, topic, world.store())).map(drop).unwrap_err()
    };
    let refused = open(other.topic("raw", 4));
    assert!(matches!(refused, SubstituteError::Partitions { log: 4, archive: 3, .. }));
    assert!(matches!(open(other.topic("rejected", 2)), SubstituteError::NoTopic { .. }));
}

/// SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
