//! `tracklog backup`: the log into an object store, once or all the time.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tracklog_server::backup::{self, Backup, BackupError, BackupReport, Options, RecoveryPoint};
use tracklog_server::folder::DataFolder;

use crate::failure::Failure;
use crate::output::{Output, notice, thousands};
use crate::span::span;

/// Ship the log to an object store, while the node runs
///
/// Reads the data folder, changes nothing in it, and disturbs no node that runs there. Packs and full
/// segments are shipped once and shared by all later backups; of the rest what is new. Each backup is
/// the log up to its recovery point, which is printed: a commit, and when it was appended.
#[derive(Args)]
#[command(after_help = "\
URL is a folder (on another disk), or s3://BUCKET/PATH, gs://… or az://… in a program that was built
with `--features full`. A place has the backups of one log. With the log go tracklog.toml,
routes.toml, default.key, admin.token and privacy.key of the data folder, secrets as they are: who
can read the place can read them, as the events. Not in it: the archive, certificates, files
elsewhere that the settings name.

Exit status: 0 the backup is there, 2 it is not. What could not be read of a damaged log is told,
and is damaged in the backup too.

Examples:
  tracklog backup --to /mnt/backup/tracklog
  tracklog backup --to s3://bucket/tracklog --follow --every 30s --keep 100
  tracklog backup --data /var/lib/tracklog --to /mnt/backup/tracklog --json")]
pub(crate) struct BackupVerb {
    /// The data folder, of a running node or of one that is stopped
    /// [default: $TRACKLOG_DATA, else ./tracklog-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the backups go: a folder, or the URL of an object store
    #[arg(long, value_name = "URL")]
    to: String,
    /// Go on: a backup whenever something is new, until Ctrl-C. A store that fails is tried again
    #[arg(long)]
    follow: bool,
    /// With --follow: how often
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = span)]
    every: Duration,
    /// So many backups stay; what older ones alone need is removed
    #[arg(long, value_name = "N", default_value_t = Options::default().keep,
        value_parser = at_least_one)]
    keep: usize,
    /// Read so many bytes a second at most: '200 MiB'
    #[arg(long, value_name = "SIZE", default_value = "64 MiB", value_parser = backup::rate)]
    rate: u64,
    /// Leave out settings and keys
    #[arg(long)]
    log_only: bool,
    /// One object a line, a backup each
    #[arg(long)]
    json: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{text:?} is no number from 1 on"))
}

impl BackupVerb {
    pub(crate) fn run(self) -> Result<(), Failure> {
        crate::block_on(self.make())
    }

    async fn make(self) -> Result<(), Failure> {
        let named = || std::env::var_os("TRACKLOG_DATA").map(PathBuf::from);
        let path = self.data.clone().or_else(named).unwrap_or_else(|| "./tracklog-data".into());
        let options = Options {
            keep: self.keep,
            rate: self.rate,
            with_settings: !self.log_only,
            ..Options::default()
        };
        let failed = |error: BackupError| Failure::of(path.display(), error);
        let backup = Backup::open(&DataFolder::at(&path), &self.to, options).await;
        let mut backup = backup.map_err(failed)?;
        if !self.follow {
            return self.show(&backup.make().await.map_err(failed)?);
        }
        let mut shown = Ok(());
        let mut told = |told: Result<BackupReport, &BackupError>| match told {
            Ok(report) if shown.is_ok() => shown = self.show(&report),
            Ok(_) => {}
            Err(error) => notice(&format!("{error}; it is tried again")),
        };
        let ended = tokio::select! {
            ended = backup.follow(self.every, &mut told) => ended.map_err(failed),
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
        ended.and(shown)
    }

    fn show(&self, report: &BackupReport) -> Result<(), Failure> {
        let mut output = Output::new();
        if self.json {
            output.json(report)?;
        } else {
            output.line(&words(report))?;
        }
        output.flush()?;
        for what in &report.unreadable {
            notice(&format!("cannot be read, and is damaged in the backup too: {what}"));
        }
        if let Some(why) = &report.not_removed {
            notice(&format!("older objects could not be removed: {why}"));
        }
        Ok(())
    }
}

fn words(report: &BackupReport) -> String {
    let point = match &report.point {
        Some(RecoveryPoint { run, commit, time }) => {
            format!("everything up to {time}, commit {commit} of run {run}")
        }
        None => "an empty log".to_owned(),
    };
    let number = report.backup;
    if !report.made {
        return format!("backup {number} has it already: {point}");
    }
    let bytes = |bytes: u64| thousands(&bytes.to_string());
    format!(
        "backup {number}: {point}; {} bytes shipped for {} in {} files",
        bytes(report.shipped_bytes),
        bytes(report.bytes),
        report.files
    )
}
