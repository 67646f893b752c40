//! Replay of the recent past: everything in full segments, read in order over all partitions with
//! every checksum computed; beside it the checksum alone over the same mapped bytes. And of what is
//! settled: frames read, decoded and sliced, all of it on the thread that asks.
//!
//! Warm: segments and packs lie in the page cache. Of segments the ratio of the two is what counts.
//! Of events one field each is read besides.
//!
//! Cold: the page cache is dropped, and the log opened again, before each turn. A topic of 1,024
//! partitions, written in turn, is read densely (all of them in each fetch), by a reader for each
//! partition at once, and by a reader of one partition alone. Bytes are those of the batches that
//! readers got; the ratios to the dense reader count.
#![forbid(unsafe_code)]

use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, SamplingMode, Throughput};
use tokio::runtime::Runtime;
use tracklog_benches::pace;
use tracklog_benches::scratch::{self, ScratchLog, Shape};
use tracklog_benches::visits::{self, Crowd};
use tracklog_benches::workload::{self, MakeBatch, Producers, Target};
use tracklog_engine::BackendChoice;
use tracklog_engine::disk::{Access, FolderAccess, open_folder};
use tracklog_log::{Append, Fetch, FetchMode, Fetched, Item, Lane, Log as _};
use tracklog_protocol::event::EventView;
use tracklog_protocol::{Offset, PartitionId, TimeMicros, VerifiedBatch};

const PARTITIONS: u32 = 16;
const SPARSE_PARTITIONS: u32 = 1_024;
const SPARSE_TOPIC: &str = "sparse";
/// What one fetch asks for.
const FETCH_BYTES: usize = 8 << 20;
/// Size of the pieces that are hashed for comparison.
const PIECE_BYTES: usize = 256 << 10;

const SHAPE: Shape = Shape {
    backend: BackendChoice::Auto,
    slot_bytes: 64 << 20,
    bounded: false,
    ring_bytes: 1 << 20,
    replay_threads: 2,
    hot_bytes: None,
};
const TOPICS: [(&str, &str); 2] =
    [("batches", "batches of 1,000"), ("gathered", "gathered single records")];
/// Topics of events, what they hold, and what makes them.
const EVENTS: [(&str, &str, MakeBatch); 2] = [
    ("events", "events of a dozen fields", workload::event_batch),
    ("small_events", "events of few fields", workload::small_event_batch),
];
/// What is replayed of packs, made at a time, of visitors of whom so many are there at once.
const VISITS: u64 = 2;
const EVENTS_AT_ONCE: usize = 100_000;
const VISITORS: usize = 2_000;
const SETTLED_WITHIN: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(10);

fn main() {
    let mut criterion = pace::moving_bytes();
    let folder = scratch::folder(env!("CARGO_TARGET_TMPDIR"));
    let runtime = workload::runtime();
    let log = ScratchLog::open(&folder, &SHAPE, &runtime).expect("any backend will do");
    fill(&log, &runtime);

    plain_checksum(&mut criterion, &log);
    replays(&mut criterion, "on a replay thread", &log, &runtime);
    let by_asker = Shape { replay_threads: 0, ..SHAPE };
    let log = log.reopen(&by_asker, &runtime);
    replays(&mut criterion, "by whoever asks", &log, &runtime);
    let log = cold(&mut criterion, log, &runtime);
    let settled = Shape { hot_bytes: Some(0), ..by_asker };
    let log = log.reopen(&settled, &runtime);
    wait_until_settled(&log);
    let visits = topic(&log, "visits", &runtime);
    replay(&mut criterion, "visits/from packs, by whoever asks", &visits, &runtime);
    criterion.final_summary();
}

fn wait_until_settled(log: &ScratchLog) {
    let began = Instant::now();
    while log.engine.status().segments > 1 {
        assert!(began.elapsed() < SETTLED_WITHIN, "{:?}", log.engine.status());
        thread::park_timeout(LOOK_EVERY);
    }
}

fn fill(log: &ScratchLog, runtime: &Runtime) {
    let make = workload::batch;
    let producers = Producers { count: 8, in_flight: 4, records: 1_000, make };
    producers.run(&topic(log, "batches", runtime), 128, runtime);
    for (topic_name, _, make) in EVENTS {
        let of_events = Producers { make, ..producers };
        of_events.run(&topic(log, topic_name, runtime), 128, runtime);
    }
    workload::call_from_threads(&topic(log, "gathered", runtime), 1_000, 1_000, 2);
    let sparse = topic_of(log, SPARSE_TOPIC, SPARSE_PARTITIONS, runtime);
    workload::call_from_threads(&sparse, 1_000, 400, 2);
    visit(&topic(log, "visits", runtime), runtime);
    // More than a slot, so that all of the above lies in full segments.
    producers.run(&topic(log, "behind", runtime), 48, runtime);
}

/// Events of visits, some to each partition.
fn visit(target: &Target, runtime: &Runtime) {
    for seed in 0..VISITS {
        let made = visits::batches(EVENTS_AT_ONCE, Crowd::Visits(VISITORS), seed);
        for (batch, partition) in made.batches.into_iter().zip(target.partitions.iter().cycle()) {
            let batch = VerifiedBatch::verify(batch).expect("it was just built");
            let permit = target.engine.reserve(Lane::FIRST_SOURCE, batch.view().bytes().len());
            let items = [Item::Batch { partition: *partition, batch: &batch }];
            let append = Append { conditions: &[], items: &items };
            let permit = permit.expect("one batch is in flight");
            runtime.block_on(target.engine.append(permit, target.epoch, append)).expect("stored");
        }
    }
}

fn replays(criterion: &mut Criterion, by: &str, log: &ScratchLog, runtime: &Runtime) {
    for (topic_name, what) in TOPICS {
        replay(criterion, &format!("{what}/{by}"), &topic(log, topic_name, runtime), runtime);
    }
    for (topic_name, what, _) in EVENTS {
        read_a_field(criterion, &format!("{what}/{by}"), &topic(log, topic_name, runtime), runtime);
    }
}

fn read_a_field(criterion: &mut Criterion, name: &str, events: &Target, runtime: &Runtime) {
    let count = read_all(events, runtime, |_| {}).records;
    let mut group = criterion.benchmark_group(format!("replay/{name}"));
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(count));
    group.bench_function("checked, one field of each read", |bencher| {
        bencher.iter(|| {
            let mut latest = TimeMicros(i64::MIN);
            read_all(events, runtime, |fetched| latest = latest.max(latest_received(fetched)));
            latest
        });
    });
}

fn topic(log: &ScratchLog, name: &str, runtime: &Runtime) -> Target {
    topic_of(log, name, PARTITIONS, runtime)
}

fn topic_of(log: &ScratchLog, name: &str, partitions: u32, runtime: &Runtime) -> Target {
    let partitions = log.topic(name, partitions, runtime);
    Target { engine: log.engine.clone(), epoch: log.epoch, partitions }
}

fn plain_checksum(criterion: &mut Criterion, log: &ScratchLog) {
    let slots = first_slots(log, 4);
    let bytes: u64 = slots.iter().map(|slot| slot.len() as u64).sum();
    let mut group = criterion.benchmark_group("replay/plain checksum");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(bytes));
    group.bench_function("mapped bytes", |bencher| {
        bencher.iter(|| {
            let pieces = slots.iter().flat_map(|slot| slot.chunks(PIECE_BYTES));
            pieces.fold(0, |sum, piece| sum ^ crc32fast::hash(piece))
        });
    });
}

/// The first slots of the log, mapped: they hold full segments.
fn first_slots(log: &ScratchLog, count: usize) -> Vec<Bytes> {
    let disk = open_folder(log.path(), FolderAccess::ReadOnly, BackendChoice::Auto);
    let disk = disk.expect("the log's own folder");
    let folder = disk.journal_folder().expect("it has a journal");
    let bytes = folder.slots.iter().take(count).map(|(slot, _)| {
        let slot = disk.open_slot(*slot, Access::Read)?;
        let length = usize::try_from(slot.bytes()).expect("a slot fits into memory");
        slot.map()?.bytes(0, length)
    });
    bytes.collect::<Result<_, _>>().expect("full segments can be mapped")
}

fn replay(criterion: &mut Criterion, name: &str, target: &Target, runtime: &Runtime) {
    let before = target.engine.status();
    let once = read_all(target, runtime, |_| {});
    let after = target.engine.status();
    let (maps, packs) = (after.reads_map - before.reads_map, after.reads_pack - before.reads_pack);
    assert!(
        once.records > 0 && (maps == once.batches || maps == 0 && packs > 0),
        "all of it is read from the maps of full segments, or from packs: {maps} and {packs}"
    );
    let mut group = criterion.benchmark_group(format!("replay/{name}"));
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Bytes(once.bytes));
    group.bench_function("checked", |bencher| {
        bencher.iter(|| read_all(target, runtime, |_| {}).records);
    });
    group.throughput(Throughput::Elements(once.records));
    group.bench_function("checked, each record touched", |bencher| {
        bencher.iter(|| {
            let mut sum = 0;
            read_all(target, runtime, |fetched| sum += first_bytes(fetched));
            sum
        });
    });
}

/// How a topic is read to its end.
type Way = fn(&Target, &Runtime) -> Replayed;

fn cold(criterion: &mut Criterion, log: ScratchLog, runtime: &Runtime) -> ScratchLog {
    let ways: [(&str, Way); 3] = [
        ("all partitions in each fetch", |target, runtime| read_all(target, runtime, |_| {})),
        ("a reader for each partition", read_each),
        ("a reader of one partition", |target, runtime| {
            read_all(&only(target, 7), runtime, |_| {})
        }),
    ];
    let mut log = Some(log);
    let mut cold_turn = |way: Way| {
        let reopened = log.take().expect("put back each turn").reopen(&SHAPE, runtime);
        drop_cache(&reopened);
        let target = topic_of(&reopened, SPARSE_TOPIC, SPARSE_PARTITIONS, runtime);
        let began = Instant::now();
        let replayed = way(&target, runtime);
        let took = began.elapsed();
        drop(target);
        log = Some(reopened);
        (replayed, took)
    };
    let mut group = criterion.benchmark_group("replay/cold, 1,024 partitions");
    group.sampling_mode(SamplingMode::Flat);
    for (name, way) in ways {
        group.throughput(Throughput::Bytes(cold_turn(way).0.bytes));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|turns| (0..turns).map(|_| cold_turn(way).1).sum());
        });
    }
    drop(group);
    log.expect("put back each turn")
}

/// Drops what the page cache holds of the log's slots. None of them is mapped.
fn drop_cache(log: &ScratchLog) {
    let disk = open_folder(log.path(), FolderAccess::ReadOnly, BackendChoice::Auto);
    let disk = disk.expect("the log's own folder");
    for (slot, _) in disk.journal_folder().expect("it has a journal").slots {
        let slot = disk.open_slot(slot, Access::Read).expect("a slot that is listed");
        slot.drop_cache().expect("any file system takes the advice");
    }
}

fn only(target: &Target, partition: usize) -> Target {
    let partitions = target.partitions[partition..=partition].into();
    Target { partitions, ..target.clone() }
}

/// Has every partition read by a task of its own, all at once.
fn read_each(target: &Target, runtime: &Runtime) -> Replayed {
    let tasks: Vec<_> = (0..target.partitions.len())
        .map(|partition| runtime.spawn(read_to_end(only(target, partition), |_| {})))
        .collect();
    runtime.block_on(async {
        let mut all = Replayed::default();
        for task in tasks {
            let replayed = task.await.expect("a reader does not panic");
            all.batches += replayed.batches;
            all.records += replayed.records;
            all.bytes += replayed.bytes;
        }
        all
    })
}

fn first_bytes(fetched: &Fetched) -> u64 {
    let batches = fetched.partitions.iter().flat_map(|found| &found.batches);
    let records = batches.flat_map(|batch| batch.records());
    records.map(|(_, record)| u64::from(record.bytes()[0])).sum()
}

fn latest_received(fetched: &Fetched) -> TimeMicros {
    let batches = fetched.partitions.iter().flat_map(|found| &found.batches);
    let records = batches.flat_map(|batch| batch.records());
    let events = records.filter_map(|(_, record)| EventView::of(record));
    events.map(|event| event.received_time()).max().unwrap_or(TimeMicros(i64::MIN))
}

/// What a whole replay came to.
#[derive(Clone, Copy, Debug, Default)]
struct Replayed {
    batches: u64,
    records: u64,
    bytes: u64,
}

/// Reads all partitions from their first offset to their end.
fn read_all(target: &Target, runtime: &Runtime, see: impl FnMut(&Fetched)) -> Replayed {
    runtime.block_on(read_to_end(target.clone(), see))
}

async fn read_to_end(target: Target, mut see: impl FnMut(&Fetched)) -> Replayed {
    let mut from: Vec<(PartitionId, Offset)> =
        target.partitions.iter().map(|partition| (*partition, Offset::ZERO)).collect();
    let mut replayed = Replayed::default();
    loop {
        let fetch = Fetch {
            from: from.clone(),
            bytes_max: FETCH_BYTES,
            wait: false,
            mode: FetchMode::Replay,
        };
        let fetched = target.engine.fetch(fetch).await.expect("a good log is read");
        let mut found = false;
        for (partition, from) in fetched.partitions.iter().zip(&mut from) {
            assert!(partition.damage.is_empty(), "a log just written is whole");
            from.1 = partition.next;
            for batch in &partition.batches {
                found = true;
                replayed.batches += 1;
                replayed.records += u64::from(batch.count());
                replayed.bytes += batch.bytes().len() as u64;
            }
        }
        if !found {
            return replayed;
        }
        see(&fetched);
    }
}
