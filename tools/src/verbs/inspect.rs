//! `tracklog inspect`: what a file of a data folder holds.

use std::path::PathBuf;

use clap::Args;
use tracklog_server::{OpenError, inspect};

use crate::failure::Failure;
use crate::output::{Output, notice};

/// Explain a file of a data folder
///
/// A slot, a checkpoint, an index, or what recovery cut out.
#[derive(Args)]
#[command(after_help = "\
Reads the file and changes nothing. What the bytes mean is in engine/FORMAT.md. Exit status: 0 it is
explained, 1 it is no file of a log or nothing of it can be read, 2 there is no such file.

Examples:
  tracklog inspect tracklog-data/journal/slot-00000000
  tracklog inspect tracklog-data/checkpoint-a")]
pub(crate) struct Inspect {
    /// The file
    file: PathBuf,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let inspection = match inspect(&self.file) {
            // The file was looked at, and this is what was found.
            Err(OpenError::Damaged { what }) => {
                notice(&what);
                return Err(Failure::AnswerIsNo);
            }
            inspection => inspection.map_err(Failure::could_not_run)?,
        };
        let mut output = Output::new();
        output.lines(inspection.to_string().trim_end())?;
        output.flush()
    }
}
