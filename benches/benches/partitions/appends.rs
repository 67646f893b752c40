//! Appends over 100,000 partitions against appends to one, each into a log of its own, in turns.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tracklog_benches::process;
use tracklog_benches::scratch::{ScratchLog, Shape};
use tracklog_benches::workload::{self, Producers, Target};
use tracklog_engine::BackendChoice;
use tracklog_protocol::PartitionId;

use crate::node::partitions_of;
use crate::{PARTITIONS_A_TOPIC, TOPICS, median, tell};

const TURNS: usize = 7;
const PRODUCERS: Producers =
    Producers { count: 8, in_flight: 4, records: 1_000, make: workload::batch };
/// Batches of a producer in a turn.
const BATCHES: usize = 400;
const CALLERS: usize = 1_000;
/// Events of a caller in a turn.
const EVENTS: usize = 300;

pub(crate) fn measure(folder: &Path) {
    let runtime = workload::runtime();
    let shape = Shape::of_server(BackendChoice::Auto);
    let mut one = Written::open(folder, &shape, (1, 1), &runtime);
    let mut many = Written::open(folder, &shape, (TOPICS, PARTITIONS_A_TOPIC), &runtime);
    for written in [&mut one, &mut many] {
        workload::fill_once(&written.next(0), &shape, &runtime);
    }
    let batches = |it: &mut Written| {
        let target = it.next(PRODUCERS.count * BATCHES);
        PRODUCERS.run(&target, BATCHES, &runtime)
    };
    let records = PRODUCERS.count * BATCHES * PRODUCERS.records;
    let name = "batches of 1,000 × 256 B, 8 producers";
    compare(name, records, "0.95", (&mut one, &mut many), batches);
    let singles = |it: &mut Written| {
        let target = it.next(CALLERS * EVENTS);
        workload::call_from_tasks(&target, CALLERS, EVENTS, &runtime)
    };
    let name = "single events of 256 B, 1,000 callers";
    compare(name, CALLERS * EVENTS, "0.6", (&mut one, &mut many), singles);
}

/// A log that gives up its oldest segments, and how far its partitions had their turns.
struct Written {
    log: ScratchLog,
    partitions: Arc<[PartitionId]>,
    at: usize,
}

impl Written {
    fn open(
        folder: &Path,
        shape: &Shape,
        (topics, partitions): (u64, u64),
        runtime: &Runtime,
    ) -> Self {
        let log = ScratchLog::open(folder, shape, runtime).expect("some backend works");
        let partitions = partitions_of(&log.engine, runtime, topics, partitions);
        Self { log, partitions, at: 0 }
    }

    /// Where the next so many appends go: to the partitions that are next in turn.
    fn next(&mut self, appends: usize) -> Target {
        let at = self.at;
        self.at = (at + appends) % self.partitions.len();
        let partitions = [&self.partitions[at..], &self.partitions[..at]].concat();
        let (engine, epoch) = (Arc::clone(&self.log.engine), self.log.epoch);
        Target { engine, epoch, partitions: partitions.into() }
    }
}

fn compare(
    name: &str,
    records: usize,
    goal: &str,
    (one, many): (&mut Written, &mut Written),
    mut turn: impl FnMut(&mut Written) -> Duration,
) {
    let mut taken = |it: &mut Written| {
        let before = process::cpu_time();
        let seconds = turn(it).as_secs_f64();
        (seconds, (process::cpu_time() - before).as_secs_f64())
    };
    // The first of each fills caches.
    let (_, _) = (taken(one), taken(many));
    let turns = (0..TURNS).map(|_| (taken(one), taken(many)));
    let (of_one, of_many): (Vec<_>, Vec<_>) = turns.unzip();
    let ((one, one_cpu), (many, many_cpu)) = (medians(of_one), medians(of_many));
    let rate = |seconds: f64| records as f64 / seconds / 1e6;
    let value = format!(
        "{:.2} of one partition ({:.2} and {:.2} M events/s)",
        one / many,
        rate(many),
        rate(one)
    );
    tell(&format!("100,000 partitions, {name}"), &value, goal);
    let nanos = |seconds: f64| seconds / records as f64 * 1e9;
    let value = format!("{:.0} and {:.0} ns of CPU an event", nanos(many_cpu), nanos(one_cpu));
    tell("100,000 partitions and one, the same", &value, "");
}

fn medians(turns: Vec<(f64, f64)>) -> (f64, f64) {
    let (seconds, cpu_seconds) = turns.into_iter().unzip();
    (median(seconds), median(cpu_seconds))
}
