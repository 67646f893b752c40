//! Durable appends on each backend, beside the raw disk in the same run.
//!
//! The folder is below `target`, or what `TRACKLOG_BENCH_DIR` names. Each backend gets a new log
//! that is filled once before it is measured, so that it writes into recycled slots, as a log
//! does that has run for a while; it takes at most 1.25 GiB.
#![forbid(unsafe_code)]

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use tokio::runtime::Runtime;
use tracklog_benches::pace;
use tracklog_benches::samples::RECORD_BYTES;
use tracklog_benches::scratch::{self, ScratchLog, Shape};
use tracklog_benches::workload::{self, Producers, RawDisk, Target};
use tracklog_engine::BackendChoice;

const RECORDS: [usize; 4] = [1, 10, 100, 1_000];
const PARTITIONS: [u32; 3] = [1, 16, 1_024];
const PRODUCERS: usize = 8;
const IN_FLIGHT: usize = 4;
const CALLERS: usize = 1_000;
const BACKENDS: [(&str, BackendChoice); 2] =
    [("blocking", BackendChoice::Blocking), ("uring", BackendChoice::Uring)];

fn main() {
    let mut criterion = pace::moving_bytes();
    let folder = scratch::folder(env!("CARGO_TARGET_TMPDIR"));
    let runtime = workload::runtime();
    let mut disk = RawDisk::make(&folder, 256 << 20).expect("the folder takes 256 MiB");
    for (name, backend) in BACKENDS {
        let Some(log) = ScratchLog::open(&folder, &Shape::of_server(backend), &runtime) else {
            continue;
        };
        raw(&mut criterion, name, &mut disk);
        batches(&mut criterion, name, &log, &runtime);
        singles(&mut criterion, name, &log, &runtime);
    }
    criterion.final_summary();
}

/// Batches that a producer appends in one turn: far more than it has in flight, so that the first
/// and the last of them weigh little.
const fn batches_a_turn(records: usize) -> usize {
    if records >= 100 { 32_000 / records } else { 256 }
}

/// What to hold the backend's batches against: measured right before them, as disks have moods.
fn raw(criterion: &mut Criterion, backend: &str, disk: &mut RawDisk) {
    let mut group = criterion.benchmark_group(format!("append/{backend}/raw write and sync"));
    group.sampling_mode(SamplingMode::Flat);
    for records in RECORDS {
        let bytes = vec![b'r'; workload::commit_bytes(records)];
        let writes = batches_a_turn(records);
        group.throughput(Throughput::Elements((writes * records) as u64));
        group.bench_function(format!("{records} × {RECORD_BYTES} B"), |bencher| {
            bencher.iter_custom(|turns| {
                turns_of(turns, || disk.run(&bytes, writes).expect("the disk writes"))
            });
        });
    }
}

fn batches(criterion: &mut Criterion, backend: &str, log: &ScratchLog, runtime: &Runtime) {
    let mut group = criterion.benchmark_group(format!("append/{backend}/batches"));
    group.sampling_mode(SamplingMode::Flat);
    let targets =
        PARTITIONS.map(|partitions| (partitions, target(log, "batches", partitions, runtime)));
    workload::fill_once(&targets[0].1, &Shape::of_server(BackendChoice::Auto), runtime);
    for records in RECORDS {
        let make = workload::batch;
        let producers = Producers { count: PRODUCERS, in_flight: IN_FLIGHT, records, make };
        let batches = batches_a_turn(records);
        group.throughput(Throughput::Elements((PRODUCERS * batches * records) as u64));
        // Side by side, since they are compared with each other.
        for (partitions, target) in &targets {
            let name = format!("{records} × {RECORD_BYTES} B, {partitions} partitions");
            measure(&mut group, &name, || producers.run(target, batches, runtime));
        }
    }
}

fn singles(criterion: &mut Criterion, backend: &str, log: &ScratchLog, runtime: &Runtime) {
    const EVENTS: usize = 100;
    let mut group = criterion.benchmark_group(format!("append/{backend}/{CALLERS} callers"));
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements((CALLERS * EVENTS) as u64));
    for partitions in [1, 16] {
        let target = target(log, "singles", partitions, runtime);
        measure(&mut group, &format!("tasks, {partitions} partitions"), || {
            workload::call_from_tasks(&target, CALLERS, EVENTS, runtime)
        });
        measure(&mut group, &format!("2 polling threads, {partitions} partitions"), || {
            workload::call_from_threads(&target, CALLERS, EVENTS, 2)
        });
    }
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut turn: impl FnMut() -> Duration,
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|turns| turns_of(turns, &mut turn));
    });
}

fn turns_of(turns: u64, mut turn: impl FnMut() -> Duration) -> Duration {
    (0..turns).map(|_| turn()).sum()
}

fn target(log: &ScratchLog, of: &str, partitions: u32, runtime: &Runtime) -> Target {
    let topic = log.topic(&format!("{of}-{partitions}"), partitions, runtime);
    Target { engine: log.engine.clone(), epoch: log.epoch, partitions: topic }
}
