//! `tracklog reprocess`: run a stage again over old events, into another topic.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use serde::Deserialize;
use tracklog_server::reprocess::{JobView, NewJob, StateSeen, Status};

use super::replay::progress_bar;
use crate::failure::Failure;
use crate::node_client::{NodeClient, segment};
use crate::output::{Output, notice, table};
use crate::reading::Place;

/// How often the node is asked how far it is.
const ASKED_EVERY: Duration = Duration::from_millis(200);

/// Run a stage again over a range of `raw`, into another topic
///
/// The node does the work, each event once, over its own restarts too, while it serves; what the
/// run finds out of users and visits changes nothing of what is known. This command shows how far
/// it is, and may be stopped: the run goes on.
#[derive(Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Places are those of `raw`, [from, to): an integer is an offset, in each partition; a TIME goes by
append time. With --state then each event sees of users, devices and visits what it saw when it was
enriched the first time; with now, what is known now. An archive knows events and nothing else: it
goes with now, and its topic `raw` must have as many partitions as the node's. The topic is made;
one that has records is refused. A run is called like its topic. `tracklog diff` shows what came out
otherwise.

Exit status: 0 done, 1 it was cancelled, 2 it could not run.

Examples:
  tracklog reprocess --from -7d --stage enrich --into enriched.again
  tracklog diff enriched enriched.again --from -7d
  tracklog reprocess --from 0 --stage enrich --into enriched.now --state now --detach
  tracklog reprocess --archive s3://bucket/events --from 0 --stage enrich --into enriched.2025
  tracklog reprocess status
  tracklog reprocess cancel enriched.now"
)]
pub(crate) struct ReprocessCommand {
    #[command(subcommand)]
    action: Option<Action>,
    /// Where to begin, in `raw`
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true, required = true)]
    from: Option<String>,
    /// Where to end, not included [default: the end now]
    #[arg(long, value_name = "OFFSET|TIME", allow_hyphen_values = true)]
    to: Option<String>,
    /// The stage: `enrich`
    #[arg(long, value_name = "STAGE", required = true)]
    stage: Option<String>,
    /// The topic that its outputs go to
    #[arg(long, value_name = "TOPIC", required = true)]
    into: Option<String>,
    /// What is known of users, devices and visits [default: then; of an archive: now]
    #[arg(long, value_enum)]
    state: Option<StateArg>,
    /// Read `raw` from an archive instead of the log: a folder, or the URL of an object store, as
    /// the node sees it
    #[arg(long, value_name = "URL")]
    archive: Option<String>,
    /// Do not wait until it is done
    #[arg(long)]
    detach: bool,
    /// One object a line: the run as it is at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StateArg {
    Then,
    Now,
}

#[derive(Subcommand)]
enum Action {
    /// Show all runs, or one, and how far they are
    Status {
        /// The topic that it writes to
        into: Option<String>,
        /// One object a line
        #[arg(long)]
        json: bool,
    },
    /// Stop a run for good; what it wrote stays
    Cancel {
        /// The topic that it writes to
        into: String,
    },
}

#[derive(Deserialize)]
struct All {
    reprocesses: Vec<JobView>,
}

impl ReprocessCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        crate::block_on(self.act())
    }

    async fn act(self) -> Result<(), Failure> {
        let none = || {
            let folder = self.place.folder();
            let what = "no node serves from it: `tracklog serve` does";
            Failure::of(folder.path().display(), what)
        };
        let node = self.place.running()?.ok_or_else(none)?;
        match &self.action {
            None => self.begin(&node).await,
            Some(Action::Cancel { into }) => node.delete(&path(into)).await,
            Some(Action::Status { into: Some(into), json }) => {
                show(&[node.get(&path(into)).await?], *json)
            }
            Some(Action::Status { into: None, json }) => {
                let All { reprocesses } = node.get("/v1/reprocesses").await?;
                show(&reprocesses, *json)
            }
        }
    }

    async fn begin(&self, node: &NodeClient) -> Result<(), Failure> {
        let asked = NewJob {
            into: self.into.clone().unwrap_or_default(),
            stage: self.stage.clone().unwrap_or_default(),
            from: self.from.clone().unwrap_or_default(),
            to: self.to.clone(),
            state: match (self.state, &self.archive) {
                (Some(StateArg::Then), _) | (None, None) => StateSeen::Then,
                (Some(StateArg::Now), _) | (None, Some(_)) => StateSeen::Now,
            },
            archive: self.archive.as_deref().map(absolute).transpose()?,
        };
        let body = serde_json::to_vec(&asked).map_err(Failure::could_not_run)?;
        let mut job: JobView =
            node.json(Method::POST, "/v1/reprocesses", Bytes::from(body)).await?;
        if !self.detach {
            job = wait(node, job).await?;
        }
        show(std::slice::from_ref(&job), self.json)?;
        if job.status == Status::Cancelled { Err(Failure::AnswerIsNo) } else { Ok(()) }
    }
}

/// The node stands elsewhere: a folder is named from the root.
fn absolute(url: &str) -> Result<String, Failure> {
    if url.contains("://") {
        return Ok(url.to_owned());
    }
    let path = std::path::absolute(url).map_err(|error| Failure::of(url, error))?;
    let named = path.to_str().map(str::to_owned);
    named.ok_or_else(|| Failure::of(path.display(), "its name is not UTF-8"))
}

/// Shows how far it is until it runs no more.
async fn wait(node: &NodeClient, mut job: JobView) -> Result<JobView, Failure> {
    let bar = progress_bar();
    bar.set_length(job.records);
    while job.status == Status::Running {
        tokio::time::sleep(ASKED_EVERY).await;
        let asked = node.get(&path(&job.into)).await;
        job = asked.inspect_err(|_| notice("the run goes on when the node does"))?;
        bar.set_position(job.done);
    }
    bar.finish_and_clear();
    Ok(job)
}

fn path(into: &str) -> String {
    format!("/v1/reprocesses/{}", segment(into))
}

fn show(jobs: &[JobView], json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if json {
        jobs.iter().try_for_each(|job| output.json(job))?;
        return output.flush();
    }
    let mut rows =
        vec![["topic", "stage", "state", "status", "done", "records"].map(str::to_owned)];
    rows.extend(jobs.iter().map(|job| {
        let state = match job.state {
            StateSeen::Then => "then",
            StateSeen::Now => "now",
        };
        let status = match job.status {
            Status::Running => "running",
            Status::Done => "done",
            Status::Cancelled => "cancelled",
        };
        let texts = [&*job.into, &*job.stage, state, status].map(str::to_owned);
        let [into, stage, state, status] = texts;
        [into, stage, state, status, job.done.to_string(), job.records.to_string()]
    }));
    let rows: Vec<_> = rows.into_iter().map(Vec::from).collect();
    output.write(table(&rows).as_bytes())?;
    output.flush()
}
