//! `tracklog verify`: every byte of a log, checked.

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use indicatif::ProgressBar;
use tracklog_server::verify::{self, VerifyLine};

use super::replay::progress_bar_over_bytes;
use crate::failure::Failure;
use crate::node_client::NodeClient;
use crate::output::Output;
use crate::reading::Place;

/// Check a log: checksums, chain, offsets, indexes
///
/// Check a log: checksums, the chain of commits, dense offsets, and that the index agrees with the
/// log. Names the first damage of each partition and counts what is readable.
#[derive(Args)]
#[command(after_help = "\
Changes nothing. On a folder that a node holds the node checks itself while it serves, with half of
the cores; else all of them read. A terminal shows how far it is, how fast, and how long it will
take. Exit status: 0 all is good, 1 something is damaged, 2 the log cannot even be opened.

Examples:
  tracklog verify
  tracklog verify --data /mnt/copy-of-the-folder --json")]
pub(crate) struct Verify {
    /// One object a line: partitions, problems, and a summary at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

impl Verify {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut shown = Shown::new(self.json);
        match self.place.running()? {
            Some(node) => crate::block_on(ask(&node, &mut shown))?,
            None => {
                let folder = self.place.folder();
                verify::folder(folder.path(), &mut |line| shown.take(line))
                    .map_err(|error| Failure::of(folder.path().display(), error))?;
            }
        }
        shown.end()
    }
}

/// Lines as the node tells them.
async fn ask(node: &NodeClient, shown: &mut Shown) -> Result<(), Failure> {
    let response = node.ask(Method::GET, "/v1/verify?progress=true", Bytes::new()).await?;
    node.lines(response, &mut |line| shown.take(line)).await
}

/// Prints lines, and remembers the verdict.
struct Shown {
    output: Output,
    json: bool,
    bar: ProgressBar,
    clean: Option<bool>,
    failed: Result<(), Failure>,
}

impl Shown {
    fn new(json: bool) -> Self {
        let bar = if json { ProgressBar::hidden() } else { progress_bar_over_bytes() };
        Self { output: Output::new(), json, bar, clean: None, failed: Ok(()) }
    }

    fn take(&mut self, line: VerifyLine) {
        if self.failed.is_ok() {
            self.failed = self.show(line);
        }
    }

    fn show(&mut self, line: VerifyLine) -> Result<(), Failure> {
        match line {
            VerifyLine::Progress { bytes_done, bytes_total } => {
                self.bar.set_length(bytes_total);
                self.bar.set_position(bytes_done);
                return Ok(());
            }
            VerifyLine::Error { message } => return Err(Failure::CouldNotRun(message)),
            VerifyLine::Summary { clean, .. } => {
                self.clean = Some(clean);
                self.bar.finish_and_clear();
            }
            _ => {}
        }
        if self.json {
            return self.output.write(line.to_json().as_bytes());
        }
        self.output.lines(&line.to_string())
    }

    fn end(mut self) -> Result<(), Failure> {
        self.failed?;
        self.output.flush()?;
        match self.clean {
            Some(true) => Ok(()),
            Some(false) => Err(Failure::AnswerIsNo),
            None => Err(Failure::could_not_run("the verification ended without a verdict")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_where_the_verification_is() {
        for json in [false, true] {
            let mut shown = Shown::new(json);
            for bytes_done in [0, 300, 4_096] {
                shown.take(VerifyLine::Progress { bytes_done, bytes_total: 4_096 });
                assert_eq!((shown.bar.position(), shown.bar.length()), (bytes_done, Some(4_096)));
            }
            assert!(matches!(shown.end(), Err(Failure::CouldNotRun(_))), "it came to no verdict");
        }
    }
}
