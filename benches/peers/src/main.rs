//! Embedded logs and stores from the crate registry beside Tracklog's engine: the same records,
//! the same batches, the same durability, in one run.
//!
//! - [`peers`]: who is measured, a file each, and how each is made to be durable.
//! - [`measure`]: the cells, and how one is measured.
//! - [`report`]: the table, and JSON.
//!
//! README.md has the commands and a table. Nothing stands on this crate.
#![forbid(unsafe_code)]

mod measure;
mod peers;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tracklog_benches::scratch;

use crate::measure::{Pace, Samples, cells};
use crate::peers::{Failure, KINDS, Kind};
use crate::report::Measured;

/// Measure embedded peers beside Tracklog's engine
#[derive(Parser)]
#[command(after_help = "\
Build with --release. Scratch files of some hundred MiB lie below `target`, or below what
TRACKLOG_BENCH_DIR names: that disk is measured. They are removed at the end.")]
struct Command {
    /// How often each cell is measured, all peers in turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// How long a peer appends in a cell
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    millis: u64,
    /// Only the cells whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    cell: String,
    /// Only the peers whose name contains this, and ours
    #[arg(long, value_name = "TEXT", default_value = "")]
    peer: String,
    /// Without ours: for a look at one peer with strace or perf
    #[arg(long)]
    alone: bool,
    /// A JSON line for each cell and peer, instead of the table
    #[arg(long)]
    json: bool,
}

impl Command {
    fn run(&self) -> Result<(), Failure> {
        let cells = cells().into_iter().filter(|cell| cell.name().contains(&self.cell));
        let none = || KINDS.iter().map(|_| Vec::new()).collect();
        let mut all: Vec<_> = cells.map(|cell| Measured { cell, rates: none() }).collect();
        let window = Duration::from_millis(self.millis);
        let pace = Pace { run_in: window / 4, window };
        let below = scratch::folder(concat!(env!("CARGO_MANIFEST_DIR"), "/target/scratch"));
        let samples = Samples::new();
        for round in 1..=self.rounds {
            for measured in &mut all {
                eprintln!("round {round} of {}: {}", self.rounds, measured.cell.name());
                for (kind, rates) in KINDS.iter().zip(&mut measured.rates) {
                    if self.asks_for(kind) && measured.cell.is_for(kind) {
                        let rate = measure::measure(measured.cell, kind, &below, pace, &samples);
                        rates.push(rate.map_err(|failure| format!("{}: {failure}", kind.name))?);
                    }
                }
            }
        }
        if self.json {
            report::json_lines(&all)?.iter().for_each(|line| println!("{line}"));
        } else {
            print!("{}", report::table(&all));
        }
        Ok(())
    }

    fn asks_for(&self, kind: &Kind) -> bool {
        let is_ours = kind.name == KINDS[0].name;
        if is_ours { !self.alone } else { kind.name.contains(&self.peer) }
    }
}

fn main() -> ExitCode {
    match Command::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}
