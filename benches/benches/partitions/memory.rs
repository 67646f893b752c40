//! What a partition takes of memory: of a process with all of them, and of one with a single one that
//! did the same, the difference in memory that belongs to no file.

use std::path::Path;
use std::thread;
use std::time::Duration;

use tracklog_benches::process::{self, Told};
use tracklog_engine::Options;
use tracklog_protocol::PartitionId;

use crate::node::Node;
use crate::{PARTITIONS, PARTITIONS_A_TOPIC, TOPICS, scratch_folder, tell};

const GOAL: &str = "at most 256 B";

pub(crate) fn measure(folder: &Path) {
    let (many, one) = (scratch_folder(folder), scratch_folder(folder));
    let both = |role| {
        let many = process::play(role, many.path(), &[TOPICS, PARTITIONS_A_TOPIC]);
        (many, process::play(role, one.path(), &[1, 1]))
    };
    let (grown, held) = (both("grow"), both("hold"));
    tell("memory, idle, topics just made", &a_partition(&grown, "idle_bytes"), GOAL);
    tell("memory, idle, opened again", &a_partition(&held, "idle_bytes"), GOAL);
    let written = a_partition(&held, "written_bytes");
    tell("memory, each with a record in the segment being written", &written, GOAL);
    let rolled = a_partition(&held, "rolled_bytes");
    tell("memory, each with records in a full segment, whose index is held", &rolled, "");
}

fn a_partition((many, one): &(Told, Told), name: &str) -> String {
    let more = many.figure(name) - one.figure(name);
    format!("{:.0} B a partition", more / (PARTITIONS - 1) as f64)
}

/// What of the log's end is kept for readers is bounded, and would be counted along: the same
/// records take more of it where each is of another partition.
fn options() -> Options {
    Options { ring_bytes: 1 << 20, hot_bytes: None, ..Options::default() }
}

pub(crate) fn grow(folder: &Path, topics: u64, partitions: u64) {
    let node = Node::open(folder, &options());
    node.partitions(topics, partitions);
    process::tell("idle_bytes", quiet_bytes());
    node.engine.close();
}

pub(crate) fn hold(folder: &Path, topics: u64, partitions: u64) {
    let node = Node::open(folder, &options());
    let partitions = node.partitions(topics, partitions);
    process::tell("idle_bytes", quiet_bytes());
    // As many records for one as for many, so that buffers grow as large.
    let each = PARTITIONS / partitions.len() as u64;
    let targets: Vec<PartitionId> =
        partitions.iter().flat_map(|it| (0..each).map(|_| *it)).collect();
    node.write(&targets, 1);
    process::tell("written_bytes", quiet_bytes());
    let segments = node.engine.status().segments;
    while node.engine.status().segments == segments {
        node.write(&targets, 1);
    }
    process::tell("rolled_bytes", quiet_bytes());
    node.engine.close();
}

/// What this process has once what was begun has ended.
fn quiet_bytes() -> f64 {
    thread::park_timeout(Duration::from_secs(1));
    process::anonymous_bytes() as f64
}
