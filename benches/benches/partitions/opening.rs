//! How long it takes to open a log all of whose partitions hold records.

use std::path::Path;
use std::time::Instant;

use tracklog_benches::process::{self, Told};
use tracklog_engine::Options;

use crate::node::Node;
use crate::{MIB, PARTITIONS_A_TOPIC, TOPICS, median, scratch_folder, tell};

const TURNS: usize = 5;
/// Records of each partition before the log is opened for the first time.
const STORED: u64 = 10;
/// And between two kills.
const STORED_BEFORE_DEATH: u64 = 5;
const GOAL: &str = "below 2 s";

pub(crate) fn measure(folder: &Path) {
    let log = scratch_folder(folder);
    let filled = process::play("fill", log.path(), &[STORED]);
    let made = filled.figure("topics_seconds");
    tell("making 1,000 topics of 100 partitions", &format!("{made:.2} s"), "");
    let journal = filled.figure("journal_bytes") / MIB;
    let opened = || process::play("open", log.path(), &[]);
    let time = times(&(0..TURNS).map(|_| opened()).collect::<Vec<_>>());
    let value = format!("{time}, {journal:.0} MiB of journal");
    tell("opening 100,000 partitions, after a stop", &value, GOAL);
    let mut behind = 0.0;
    let openings = (0..TURNS).map(|_| {
        let filled = process::play("fill and die", log.path(), &[STORED_BEFORE_DEATH]);
        behind = filled.figure("journal_bytes") / MIB;
        opened()
    });
    let time = times(&openings.collect::<Vec<_>>());
    let value = format!("{time}, {behind:.0} MiB written since the opening before");
    tell("opening 100,000 partitions, after a kill", &value, GOAL);
}

/// How long openings took, on the clock and of CPU time.
pub(crate) fn times(openings: &[Told]) -> String {
    let of = |name: &str| median(openings.iter().map(|it| it.figure(name)).collect());
    format!("{:.2} s ({:.2} s of CPU)", of("seconds"), of("cpu_seconds"))
}

/// Makes all of it, and stops.
pub(crate) fn fill(folder: &Path, rounds: u64) {
    write(folder, rounds).engine.close();
}

/// The same, and is killed.
pub(crate) fn fill_and_die(folder: &Path, rounds: u64) {
    let node = write(folder, rounds);
    process::die(node);
}

fn write(folder: &Path, rounds: u64) -> Node {
    let node = Node::open(folder, &Options::default());
    let began = Instant::now();
    let partitions = node.partitions(TOPICS, PARTITIONS_A_TOPIC);
    process::tell("topics_seconds", began.elapsed().as_secs_f64());
    node.write(&partitions, rounds);
    process::tell("journal_bytes", node.engine.status().commit_bytes as f64);
    node
}

pub(crate) fn open_with(folder: &Path, options: &Options) -> Node {
    let began = Instant::now();
    let node = Node::open(folder, options);
    process::tell("seconds", began.elapsed().as_secs_f64());
    process::tell("cpu_seconds", process::cpu_time().as_secs_f64());
    process::tell("bytes", process::anonymous_bytes() as f64);
    node
}

pub(crate) fn open(folder: &Path) {
    open_with(folder, &Options::default()).engine.close();
}
