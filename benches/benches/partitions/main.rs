//! What a log does at 100,000 partitions in 1,000 topics, and with ten million message ids.
//!
//! It prints a figure a line, beside its goal where there is one. `cargo bench -p tracklog-benches
//! --bench partitions` measures all; `-- opening memory appends settled ids`, or some of these words,
//! measures some. It takes some 10 GB of disk at most, in the folder below `target` or what
//! `TRACKLOG_BENCH_DIR` names.
//!
//! What is told of openings, of memory and of written bytes is that of a process of its own each.
#![forbid(unsafe_code)]

mod appends;
mod ids;
mod memory;
mod node;
mod opening;
mod settled;

use std::env;
use std::path::Path;

use tempfile::TempDir;
use tracklog_benches::{process, scratch};

const TOPICS: u64 = 1_000;
const PARTITIONS_A_TOPIC: u64 = 100;
const PARTITIONS: u64 = TOPICS * PARTITIONS_A_TOPIC;
const GIB: f64 = (1_u64 << 30) as f64;
const MIB: f64 = (1_u64 << 20) as f64;

/// Measures something in a folder, and tells it.
type Part = fn(&Path);

/// What is measured, by the word that asks for it.
const PARTS: [(&str, Part); 5] = [
    ("opening", opening::measure),
    ("memory", memory::measure),
    ("appends", appends::measure),
    ("settled", settled::measure),
    ("ids", ids::measure),
];

fn main() {
    if let Some((role, folder, told)) = process::role() {
        return play(&role, Path::new(&folder), &told);
    }
    let folder = scratch::folder(env!("CARGO_TARGET_TMPDIR"));
    let asked: Vec<String> = env::args().skip(1).filter(|it| !it.starts_with('-')).collect();
    for (name, part) in PARTS {
        if asked.is_empty() || asked.iter().any(|it| it == name) {
            part(&folder);
        }
    }
}

/// What a process of its own does.
fn play(role: &str, folder: &Path, told: &[u64]) {
    match (role, told) {
        ("fill", [rounds]) => opening::fill(folder, *rounds),
        ("fill and die", [rounds]) => opening::fill_and_die(folder, *rounds),
        ("open", []) => opening::open(folder),
        ("grow", [topics, partitions]) => memory::grow(folder, *topics, *partitions),
        ("hold", [topics, partitions]) => memory::hold(folder, *topics, *partitions),
        ("settle", [journal_bytes, once]) => settled::settle(folder, *journal_bytes, *once),
        ("store ids", [from, to]) => ids::store(folder, *from, *to),
        ("open ids", []) => ids::open(folder),
        ("find ids", [count]) => ids::find(folder, *count),
        ("append beside ids", [count]) => ids::append(folder, *count),
        other => panic!("{other:?} is no role"),
    }
}

#[allow(clippy::print_stdout, reason = "figures are what this is for")]
fn tell(figure: &str, value: &str, goal: &str) {
    let goal = if goal.is_empty() { String::new() } else { format!(" (goal: {goal})") };
    println!("{figure}: {value}{goal}");
}

fn scratch_folder(folder: &Path) -> TempDir {
    TempDir::with_prefix_in("log-", folder).expect("a folder can be made")
}

/// The value below which so much of the figures lies.
fn quantile(mut figures: Vec<f64>, at: f64) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[((figures.len() - 1) as f64 * at).round() as usize]
}

fn median(figures: Vec<f64>) -> f64 {
    quantile(figures, 0.5)
}
