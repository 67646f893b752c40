//! `tracklog archive`: status, verify, restore.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde::Serialize;
use tracklog_log::Log;
use tracklog_protocol::TimeMicros;
use tracklog_protocol::line::format_time;
use tracklog_server::archive::{self, Summary, Told, TopicSummary};
use tracklog_server::folder::{DataFolder, VERB_MARK};
use tracklog_server::offline;

use super::replay::{progress_bar, progress_bar_over_bytes};
use crate::failure::Failure;
use crate::output::{Output, notice, table};

/// Look at, check or restore from the archive: every event as Parquet
#[derive(Args)]
#[command(after_help = "\
The archive is DIR/archive, or what [archive] names in the node's file. Any tool that reads Parquet
reads it: pipeline/FORMAT.md says what lies where.

Examples:
  tracklog archive status
  tracklog archive verify --archive s3://bucket/events
  tracklog archive restore --archive /mnt/archive --into ./new-data
  duckdb -c \"SELECT name, count(*) FROM read_parquet(
    'tracklog-data/archive/topic=raw/*/*/*.parquet', union_by_name = true) GROUP BY ALL\"")]
pub(crate) struct ArchiveCommand {
    #[command(subcommand)]
    action: Action,
}

/// Which archive is meant.
#[derive(Args, Clone, Debug)]
pub(crate) struct ArchivePlace {
    /// The archive: a folder, or the URL of an object store [default: `archive` in the data folder]
    #[arg(long, value_name = "URL", conflicts_with = "data")]
    archive: Option<String>,
    /// The data folder [default: $TRACKLOG_DATA, else ./tracklog-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Action {
    /// Show what the archive has of each topic
    ///
    /// `of the log's`: its bytes, of those that its events take in the log before they are settled; not
    /// told below 1 MiB of events, where files are mostly their own heads.
    #[command(after_help = "\
Examples:
  tracklog archive status
  tracklog archive status --archive s3://bucket/events --json")]
    Status {
        #[command(flatten)]
        place: ArchivePlace,
        /// One object a line, a topic each
        #[arg(long)]
        json: bool,
    },
    /// Check every byte of the archive: the chain of manifests, digests, rows
    ///
    /// Changes nothing. Objects that no manifest names, which a crash leaves, are counted; they
    /// are not part of the archive.
    #[command(after_help = "\
Exit status: 0 all is good, 1 a file is damaged or gone, 2 the archive cannot be read.

Examples:
  tracklog archive verify
  tracklog archive verify --archive s3://bucket/events --json")]
    Verify {
        #[command(flatten)]
        place: ArchivePlace,
        /// One object a line: problems, and a summary at the end
        #[arg(long)]
        json: bool,
    },
    /// Bring topics back into a new data folder: the same records at the same offsets
    ///
    /// Append times are new, all else is as it was. A restore that was interrupted is taken up by
    /// running it again. A node that serves the folder then enriches `raw` anew, and begins an
    /// archive of its own.
    #[command(after_help = "\
Examples:
  tracklog archive restore --archive /mnt/archive --into ./new-data
  tracklog archive restore --archive s3://bucket/events --into ./new-data --topic enriched")]
    Restore {
        /// The archive: a folder, or the URL of an object store
        #[arg(long, value_name = "URL")]
        archive: String,
        /// The data folder to make
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
        /// The topic
        #[arg(long, value_name = "TOPIC", default_value = "raw")]
        topic: String,
    },
}

impl ArchivePlace {
    /// The archive's place.
    pub(crate) fn url(&self) -> String {
        let named = || std::env::var_os("TRACKLOG_DATA").map(PathBuf::from);
        self.archive.clone().unwrap_or_else(|| {
            let folder = self.data.clone().or_else(named);
            let folder = folder.unwrap_or_else(|| "./tracklog-data".into());
            folder.join("archive").to_string_lossy().into_owned()
        })
    }
}

/// Opens an archive as a log.
pub(crate) async fn opened(url: &str) -> Result<Arc<dyn Log>, Failure> {
    archive::open(url).await.map_err(|error| Failure::of(url, error))
}

impl ArchiveCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        crate::block_on(async {
            match self.action {
                Action::Status { place, json } => status(&place.url(), json).await,
                Action::Verify { place, json } => verify(&place.url(), json).await,
                Action::Restore { archive, into, topic } => restore(&archive, into, &topic).await,
            }
        })
    }
}

async fn status(url: &str, json: bool) -> Result<(), Failure> {
    let summary = archive::status(url).await.map_err(|error| Failure::of(url, error))?;
    let mut output = Output::new();
    if json {
        for (topic, of_topic) in &summary.topics {
            output.json(&StatusLine::of(topic, of_topic, &summary))?;
        }
    } else {
        show(&summary, &mut output)?;
    }
    output.flush()
}

fn show(summary: &Summary, output: &mut Output) -> Result<(), Failure> {
    let head = ["topic", "events", "missing", "files", "bytes", "of the log's", "from", "to"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (topic, of_topic) in &summary.topics {
        let time = |pick: fn((i64, i64)) -> i64| {
            let time = of_topic.event_times.map(|times| format_time(TimeMicros(pick(times))));
            time.unwrap_or_default()
        };
        rows.push(vec![
            topic.clone(),
            of_topic.rows.to_string(),
            of_topic.missing.to_string(),
            of_topic.files.to_string(),
            of_topic.bytes.to_string(),
            share(of_topic.bytes, of_topic.event_bytes),
            time(|times| times.0),
            time(|times| times.1),
        ]);
    }
    output.lines(&table(&rows))?;
    output.line(&match &summary.written_at {
        Some(written) => format!("{} manifests, the last of {written}", summary.manifests),
        None => "nothing is archived there yet".to_owned(),
    })
}

/// So few bytes of events take less than what each file of them has besides.
const SHARED_BYTES_MIN: u64 = 1 << 20;

/// What files take of what their events take in the log; of few events it would tell of the files.
fn share(bytes: u64, event_bytes: u64) -> String {
    match event_bytes {
        ..SHARED_BYTES_MIN => "-".to_owned(),
        _ => format!("{:.1} %", bytes as f64 / event_bytes as f64 * 100.0),
    }
}

/// `archive status --json`, a topic.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusLine<'a> {
    topic: &'a str,
    rows: u64,
    missing: u64,
    files: u64,
    bytes: u64,
    event_bytes: u64,
    manifests: u64,
    ends: Vec<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from_event_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_event_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    written_at: Option<&'a str>,
}

impl<'a> StatusLine<'a> {
    fn of(topic: &'a str, it: &TopicSummary, summary: &'a Summary) -> Self {
        let ends = it.ends.iter().flat_map(|ends| &ends.partitions);
        let time = |micros: i64| format_time(TimeMicros(micros));
        Self {
            topic,
            rows: it.rows,
            missing: it.missing,
            files: it.files,
            bytes: it.bytes,
            event_bytes: it.event_bytes,
            manifests: it.manifests,
            ends: ends.map(|span| span.end).collect(),
            from_event_time: it.event_times.map(|times| time(times.0)),
            to_event_time: it.event_times.map(|times| time(times.1)),
            written_at: summary.written_at.as_deref(),
        }
    }
}

/// `archive verify --json`: a problem, or the end.
#[derive(Serialize)]
#[serde(untagged)]
enum VerifyLine<'a> {
    Problem { problem: ProblemLine<'a> },
    Summary { summary: SummaryLine },
}

#[derive(Serialize)]
struct ProblemLine<'a> {
    path: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct SummaryLine {
    clean: bool,
    manifests: u64,
    files: u64,
    rows: u64,
    damaged: u64,
    orphans: usize,
}

async fn verify(url: &str, json: bool) -> Result<(), Failure> {
    let mut problems = Vec::new();
    let bar = progress_bar_over_bytes();
    let mut tell = |told| match told {
        Told::Progress { bytes_done, bytes_total } => {
            bar.set_length(bytes_total);
            bar.set_position(bytes_done);
        }
        Told::Problem(problem) => problems.push(problem),
        _ => {}
    };
    let verdict = archive::verify(url, &mut tell).await;
    let verdict = verdict.map_err(|error| Failure::of(url, error))?;
    bar.finish_and_clear();
    let mut output = Output::new();
    for problem in &problems {
        let (path, message) = (&*problem.path, &*problem.what);
        match json {
            true => output.json(&VerifyLine::Problem { problem: ProblemLine { path, message } })?,
            false => output.line(&format!("{path}: {message}"))?,
        }
    }
    let topics = verdict.summary.topics.values();
    let (files, rows) = topics.fold((0, 0), |sum, it| (sum.0 + it.files, sum.1 + it.rows));
    let summary = SummaryLine {
        clean: verdict.damaged == 0,
        manifests: verdict.summary.manifests,
        files,
        rows,
        damaged: verdict.damaged,
        orphans: verdict.orphans.len(),
    };
    let clean = summary.clean;
    if json {
        output.json(&VerifyLine::Summary { summary })?;
    } else {
        let SummaryLine { manifests, damaged, orphans, .. } = summary;
        let verdict = if clean { "all is good" } else { "damaged" };
        output.line(&format!(
            "{verdict}: {rows} events in {files} files of {manifests} manifests, {damaged} files \
             damaged; {orphans} files belong to none"
        ))?;
    }
    output.flush()?;
    if clean { Ok(()) } else { Err(Failure::AnswerIsNo) }
}

async fn restore(url: &str, into: PathBuf, topic: &str) -> Result<(), Failure> {
    let from = opened(url).await?;
    let place = into.display().to_string();
    let failed = |error: &dyn std::fmt::Display| Failure::of(&place, error);
    let folder = DataFolder::at(&into);
    let mark = folder.file(&format!("{VERB_MARK}restore"));
    refuse_others(&folder, &mark, topic)?;
    folder.create().map_err(|error| failed(&error))?;
    fs::write(&mark, topic).map_err(|error| failed(&error))?;
    let made = offline::make(&into, &Default::default()).await.map_err(|error| failed(&error))?;
    let bar = progress_bar();
    let log = made.log();
    let mut tell = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let restored = archive::restore(&*from, &*log, topic, &mut tell).await;
    drop(log);
    made.close().await;
    bar.finish_and_clear();
    let restored = restored.map_err(|error| failed(&error))?;
    fs::remove_file(&mark).map_err(|error| failed(&error))?;
    notice(&format!("{restored} records of {topic} are in {place}"));
    Ok(())
}

/// A folder that holds a log is touched only where a restore of this topic began it.
fn refuse_others(folder: &DataFolder, mark: &std::path::Path, topic: &str) -> Result<(), Failure> {
    let place = folder.path().display();
    if folder.path().join("archive").exists() {
        let what = "it holds an archive: move that out, since the node begins another there";
        return Err(Failure::of(place, what));
    }
    let begun = fs::read_to_string(mark).ok();
    if folder.holds_log() && begun.as_deref() != Some(topic) {
        let what = "it holds a log already: name a folder that is to be made";
        return Err(Failure::of(place, what));
    }
    folder.refuse_foreign().map_err(Failure::could_not_run)
}
