//! `tracklog doctor`: what this machine can do, and what will run on it.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tracklog_server::doctor::{self, Finding};

use crate::failure::Failure;
use crate::output::Output;

/// Say what this machine can do, and what will run on it
///
/// Kernel, file system, io_uring, O_DIRECT, the disk backend that a node would run where its settings name
/// none, and why, and the one that a node took which runs in the folder; how long a durable write takes,
/// and whether a clock ran ahead.
#[derive(Args)]
#[command(after_help = "\
Writes some MiB to files of its own in the folder, and removes them. A folder that is not there is
not made: its parent is measured. Figures move with whatever else uses the disk.

Examples:
  tracklog doctor
  tracklog doctor --data /var/lib/tracklog --json")]
pub(crate) struct Doctor {
    /// The data folder that a node has, or would have
    #[arg(long, value_name = "DIR", env = "TRACKLOG_DATA", default_value = "./tracklog-data")]
    data: PathBuf,
    /// One object a line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    what: &'a str,
    found: &'a str,
    good: bool,
}

impl Doctor {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let findings = doctor::examine(&self.data);
        let findings = findings.map_err(|error| Failure::of(self.data.display(), error))?;
        let mut output = Output::new();
        let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
        for Finding { what, found, good } in &findings {
            if self.json {
                output.json(&Line { what, found, good: *good })?;
            } else {
                let mark = if *good { " " } else { "!" };
                output.line(&format!("{mark} {what:<width$}  {found}"))?;
            }
        }
        output.flush()?;
        if findings.iter().all(|finding| finding.good) { Ok(()) } else { Err(Failure::AnswerIsNo) }
    }
}
