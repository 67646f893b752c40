//! `tracklog inspect`: what a file of a data folder holds.

use std::path::PathBuf;

use clap::Args;
use tracklog_server::inspect;

use crate::failure::Failure;
use crate::output::Output;

/// Explain a file of a data folder
///
/// A slot, a checkpoint, an index, or what recovery cut out.
#[derive(Args)]
#[command(after_help = "\
Reads the file and changes nothing. What the bytes mean is in engine/FORMAT.md.

Examples:
  tracklog inspect tracklog-data/journal/slot-00000000
  tracklog inspect tracklog-data/checkpoint-a")]
pub(crate) struct Inspect {
    /// The file
    file: PathBuf,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let inspection = inspect(&self.file).map_err(Failure::could_not_run)?;
        let mut output = Output::new();
        output.lines(inspection.to_string().trim_end())?;
        output.flush()
    }
}
