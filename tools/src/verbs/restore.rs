//! `tracklog restore`: a backup into a data folder.

use std::path::PathBuf;

use clap::Args;
use tracklog_server::backup::{self, Listed, RecoveryPoint, Restore, RestoreReport, Told};
use tracklog_server::verify::VerifyLine;

use super::replay::progress_bar_over_bytes;
use crate::failure::Failure;
use crate::output::{Output, notice, table, thousands};

/// Bring a backup of the log back into a data folder
///
/// Every object is held against its digest, and the log is verified as a whole before it is in its
/// place: until then the folder opens for nobody. A restore that was interrupted is run again.
#[derive(Args)]
#[command(after_help = "\
A folder that holds a log is restored into only when everything in it is in the backup too; that log
is moved to DIR/replaced-by-backup-N then. One that is newer, of another log, or cannot be opened is
left alone, and it is told what would be lost.

What came after the recovery point is not in the log: its offsets will be given to other events. An
archive that has come further is refused by the node: give it a new place. Whoever remembers offsets
elsewhere must begin at the ends that the log has now.

Exit status: 0 it is restored and good, 1 it is restored, and damaged as it was when it was backed
up, 2 it is not restored.

Examples:
  tracklog restore --from s3://bucket/tracklog --list
  tracklog restore --from s3://bucket/tracklog --data ./tracklog-data
  tracklog restore --from /mnt/backup/tracklog --data ./as-it-was --at 17")]
pub(crate) struct RestoreVerb {
    /// Where the backups are: a folder, or the URL of an object store
    #[arg(long, value_name = "URL")]
    from: String,
    /// The data folder to make
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    data: Option<PathBuf>,
    /// Which backup [default: the newest that is whole]
    #[arg(long, value_name = "N")]
    at: Option<u64>,
    /// Only show which backups there are
    #[arg(long, conflicts_with_all = ["data", "at"])]
    list: bool,
    /// One object a line
    #[arg(long)]
    json: bool,
}

impl RestoreVerb {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match &self.data {
            Some(folder) => {
                let (url, folder) = (self.from.clone(), folder.clone());
                self.restore(Restore { url, folder, at: self.at })
            }
            None => self.show_list(),
        }
    }

    fn restore(&self, wanted: Restore) -> Result<(), Failure> {
        let bar = progress_bar_over_bytes();
        let mut told = |told| match told {
            Told::Progress { bytes_done, bytes_total }
            | Told::Verify(VerifyLine::Progress { bytes_done, bytes_total }) => {
                bar.set_length(bytes_total);
                bar.set_position(bytes_done);
            }
            Told::Verify(line @ (VerifyLine::Problem { .. } | VerifyLine::Note(_))) => {
                bar.suspend(|| line.to_string().lines().for_each(notice));
            }
            Told::Passed(why) => bar.suspend(|| notice(&format!("passed over: {why}"))),
            _ => {}
        };
        let restored = crate::block_on(async {
            let restored = backup::restore(&wanted, &mut told).await;
            restored.map_err(|error| Failure::of(&wanted.url, error))
        });
        bar.finish_and_clear();
        let report = restored?;
        let mut output = Output::new();
        if self.json {
            output.json(&report)?;
        } else {
            output.lines(&words(&wanted, &report))?;
        }
        output.flush()?;
        if report.clean { Ok(()) } else { Err(Failure::AnswerIsNo) }
    }

    fn show_list(&self) -> Result<(), Failure> {
        let listed = crate::block_on(async {
            let listed = backup::list(&self.from).await;
            listed.map_err(|error| Failure::of(&self.from, error))
        })?;
        let mut output = Output::new();
        let mut rows = vec![["backup", "made", "goes to", "bytes"].map(str::to_owned).to_vec()];
        for backup in listed {
            match backup {
                Ok(backup) if self.json => output.json(&backup)?,
                Ok(Listed { backup, written_at, point, bytes }) => {
                    let point = point.map_or_else(|| "nothing".to_owned(), |point| point.time);
                    rows.push(vec![backup.to_string(), written_at, point, bytes.to_string()]);
                }
                Err(error) => notice(&error.to_string()),
            }
        }
        if !self.json {
            output.lines(&table(&rows))?;
        }
        output.flush()
    }
}

fn words(wanted: &Restore, report: &RestoreReport) -> String {
    let place = wanted.folder.display();
    let mut words = match &report.point {
        Some(RecoveryPoint { run, commit, time }) => format!(
            "backup {} is in {place}: everything up to {time}, commit {} of run {run}",
            report.backup,
            thousands(&commit.to_string())
        ),
        None => format!("backup {} is in {place}: an empty log", report.backup),
    };
    if !report.clean {
        words.push_str("; it is damaged as it was when it was backed up");
    }
    if let Some(replaced) = &report.replaced {
        words.push_str(&format!("\nthe log that was there is in {}", replaced.display()));
    }
    if !report.kept.is_empty() {
        words.push_str(&format!("\nkept as they were there: {}", report.kept.join(", ")));
    }
    if report.settings.is_empty() && report.kept.is_empty() {
        words.push_str(
            "\nthe backup has no settings and keys: bring default.key and privacy.key along before \
             a node makes new ones",
        );
    }
    words
}
