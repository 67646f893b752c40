//! Replay of the recent past: everything in full segments, read in order over all partitions with
//! every checksum computed; beside it the checksum alone over the same mapped bytes.
//!
//! Warm: the segments lie in the page cache. The ratio of the two is what counts.
#![forbid(unsafe_code)]

use bytes::Bytes;
use criterion::{Criterion, SamplingMode, Throughput};
use tokio::runtime::Runtime;
use tracklog_benches::pace;
use tracklog_benches::scratch::{self, ScratchLog, Shape};
use tracklog_benches::workload::{self, Producers, Target};
use tracklog_engine::BackendChoice;
use tracklog_engine::disk::{Access, FolderAccess, open_folder};
use tracklog_log::{Fetch, FetchMode, Fetched, Log as _};
use tracklog_protocol::{Offset, PartitionId};

const PARTITIONS: u32 = 16;
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
};
const TOPICS: [(&str, &str); 2] =
    [("batches", "batches of 1,000"), ("gathered", "gathered single records")];

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
    criterion.final_summary();
}

fn fill(log: &ScratchLog, runtime: &Runtime) {
    let producers = Producers { count: 8, in_flight: 4, records: 1_000 };
    producers.run(&topic(log, "batches", runtime), 128, runtime);
    workload::call_from_threads(&topic(log, "gathered", runtime), 1_000, 1_000, 2);
    // More than a slot, so that all of the above lies in full segments.
    producers.run(&topic(log, "behind", runtime), 48, runtime);
}

fn replays(criterion: &mut Criterion, by: &str, log: &ScratchLog, runtime: &Runtime) {
    for (topic_name, what) in TOPICS {
        replay(criterion, &format!("{what}/{by}"), &topic(log, topic_name, runtime), runtime);
    }
}

fn topic(log: &ScratchLog, name: &str, runtime: &Runtime) -> Target {
    let partitions = log.topic(name, PARTITIONS, runtime);
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
    let read_map_before = target.engine.status().reads_map;
    let once = read_all(target, runtime, |_| {});
    assert!(
        once.records > 0 && once.batches == target.engine.status().reads_map - read_map_before,
        "all of it is read from the maps of full segments"
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

fn first_bytes(fetched: &Fetched) -> u64 {
    let batches = fetched.partitions.iter().flat_map(|found| &found.batches);
    let records = batches.flat_map(|batch| batch.records());
    records.map(|(_, record)| u64::from(record.bytes()[0])).sum()
}

/// What a whole replay came to.
#[derive(Clone, Copy, Debug, Default)]
struct Replayed {
    batches: u64,
    records: u64,
    bytes: u64,
}

/// Reads all partitions from their first offset to their end.
fn read_all(target: &Target, runtime: &Runtime, mut see: impl FnMut(&Fetched)) -> Replayed {
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
        let fetched = runtime.block_on(target.engine.fetch(fetch)).expect("a good log is read");
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
