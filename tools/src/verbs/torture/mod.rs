//! `tracklog torture`: a node under load that is killed again and again, on a disk of the user's.
//!
//! Promises
//! - What is killed is a node of the real program, a process of its own, in a folder of its own.
//! - Every event that the node acked must be found once, where its ack said, whatever happened;
//!   offsets must be dense, every start must succeed, and `verify` must be clean.
//! - Moments and load follow from the seed; what the disk does in between does not.
//!
//! | file | what |
//! |---|---|
//! | `child` | the node as a process |
//! | `load` | clients that send until their connection breaks |
//! | `ledger` | what was acked, and what was found of it |
//! | `report` | what it comes to |

mod child;
mod ledger;
mod load;
mod report;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep_until, timeout_at};
use tracklog_server::{clock, doctor};

use self::child::Child;
use self::ledger::Ledger;
use self::report::Report;
use crate::failure::Failure;
use crate::output::Output;
use crate::own_folder;
use crate::random::Random;
use crate::span::span;

/// One of so many rounds kills a node that is still starting.
const STARTS_KILLED_ONE_OF: u64 = 4;
/// One of so many rounds lasts longer, so that segments fill up and checkpoints are written.
const LONG_ONE_OF: u64 = 8;
/// When so many events wait to be looked for, they are, and the log begins anew: memory and disk
/// stay bounded however long it runs.
const EVENTS_BEFORE_CHECK: usize = 400_000;

/// Kill a node under load, again and again, and count what is lost
///
/// Runs a node of its own in a folder on the disk that you mean to use, loads it with single and
/// batch requests, and ends it with SIGKILL at random moments, also while it recovers. Then every
/// event that it acknowledged is looked for.
#[derive(Args)]
#[command(after_help = "\
A kill ends the process, not the power: that a synced write survives a power cut is the drive's
promise. What can be said of it from here is said: whether its syncs are too fast to be true.

The folder is made anew, and removed when all is well; one that no torture made is never touched.
Exit status: 0 nothing lost, 1 something is wrong (the folder stays, and is named), 2 could not run.

Examples:
  tracklog torture --for 60s
  tracklog torture --data /mnt/events/torture --for 10m --json
  tracklog torture --kills 20 --seed 7 --backend blocking")]
pub(crate) struct Torture {
    /// The folder, on the disk that is to be tried
    #[arg(long, value_name = "DIR", default_value = "./tracklog-torture")]
    data: PathBuf,
    /// How long: 60s, 10m, 8h
    #[arg(long = "for", value_name = "TIME", value_parser = span, default_value = "60s")]
    time: Duration,
    /// End after so many kills, whatever the time
    #[arg(long, value_name = "N")]
    kills: Option<u64>,
    /// Repeat the moments of an earlier run [default: other ones each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How commits reach the disk
    #[arg(long, value_name = "NAME", default_value = "auto")]
    backend: Backend,
    /// One line of JSON at the end
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Backend {
    Auto,
    Uring,
    Blocking,
}

impl Backend {
    const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Blocking => "blocking",
        }
    }
}

impl Torture {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let node = self.data.join("node");
        own_folder::make_anew(&self.data, "torture", &["node", "node.log"], &node)?;
        let sync = doctor::sync_latency(&self.data);
        let sync = sync.map_err(|error| Failure::of(self.data.display(), error))?;
        let seed = self.seed.unwrap_or_else(|| clock::now().0.unsigned_abs());
        let report = crate::block_on(async {
            let mut run = Run::begin(&self, node, Report::new(seed, sync))?;
            run.rounds().await?;
            Ok(run.report)
        })?;
        let mut output = Output::new();
        match self.json {
            true => output.json(&report)?,
            false => output.lines(&report.to_string())?,
        }
        output.flush()?;
        if !report.is_clean() {
            eprintln!("tracklog: what is wrong lies in {}", self.data.display());
            return Err(Failure::AnswerIsNo);
        }
        std::fs::remove_dir_all(&self.data).map_err(|error| Failure::of(self.data.display(), error))
    }
}

/// A run, between its rounds.
struct Run {
    node: PathBuf,
    log: PathBuf,
    backend: &'static str,
    end: Instant,
    kills_max: u64,
    told: bool,
    random: Random,
    ledger: Arc<Ledger>,
    report: Report,
    interrupt: Signal,
    terminate: Signal,
}

impl Run {
    fn begin(torture: &Torture, node: PathBuf, report: Report) -> Result<Self, Failure> {
        Ok(Self {
            node,
            log: torture.data.join("node.log"),
            backend: torture.backend.name(),
            end: Instant::now() + torture.time,
            kills_max: torture.kills.unwrap_or(u64::MAX),
            told: !torture.json,
            random: Random(report.seed()),
            ledger: Arc::default(),
            report,
            interrupt: signal(SignalKind::interrupt()).map_err(Failure::could_not_run)?,
            terminate: signal(SignalKind::terminate()).map_err(Failure::could_not_run)?,
        })
    }

    /// Until the time is over, or something is wrong, or somebody ends it: then too everything is
    /// looked for.
    async fn rounds(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        let mut round = 0;
        while Instant::now() < self.end
            && self.report.kills() < self.kills_max
            && self.report.is_clean()
        {
            round += 1;
            if round % STARTS_KILLED_ONE_OF == 0 {
                self.kill_while_starting().await?;
            }
            let ended = self.one_round().await?;
            if self.ledger.len() >= EVENTS_BEFORE_CHECK {
                self.check().await?;
                remove(&self.node)?;
            }
            if ended {
                break;
            }
        }
        self.check().await?;
        self.report.ended(started.elapsed());
        Ok(())
    }

    async fn kill_while_starting(&mut self) -> Result<(), Failure> {
        let mut child = Child::spawn(&self.node, &self.log, self.backend)?;
        let moment = Instant::now() + Duration::from_millis(self.random.below(60));
        // It may be ready before: then it is killed as one that does nothing.
        let ready = timeout_at(moment, child.ready()).await;
        drop(ready);
        child.kill().await?;
        self.report.killed_while_starting();
        Ok(())
    }

    /// Starts a node, loads it, kills it. Says whether somebody wants it all to end.
    async fn one_round(&mut self) -> Result<bool, Failure> {
        let was_there = self.node.join("journal").exists();
        let begun = Instant::now();
        let mut child = Child::spawn(&self.node, &self.log, self.backend)?;
        let address = match child.ready().await {
            Ok(address) => address,
            Err(why) if !was_there => return Err(Failure::could_not_run(why)),
            Err(why) => {
                self.report.did_not_start(why);
                return Ok(false);
            }
        };
        if was_there {
            self.report.recovered(begun.elapsed());
        }
        let key = child::write_key(&self.node)?;
        let load = load::start(address, &key, &self.ledger, &mut self.random);
        let moment = self.moment();
        let ended = tokio::select! {
            () = sleep_until(moment) => false,
            _ = self.interrupt.recv() => true,
            _ = self.terminate.recv() => true,
        };
        child.kill().await?;
        load.ended().await;
        self.report.killed(&self.ledger);
        if self.told {
            self.report.tell_progress()?;
        }
        Ok(ended)
    }

    fn moment(&mut self) -> Instant {
        let longest = if self.random.below(LONG_ONE_OF) == 0 { 3_000 } else { 400 };
        Instant::now() + Duration::from_millis(20 + self.random.below(longest))
    }

    /// Looks for everything that was acked since the last time, offline, so that nothing a running
    /// node knows can help.
    async fn check(&mut self) -> Result<(), Failure> {
        if !self.report.is_clean() || !self.node.join("journal").exists() {
            return Ok(());
        }
        let checked = ledger::look_for(&self.ledger, &self.node).await?;
        self.report.checked(checked);
        self.ledger = Arc::default();
        Ok(())
    }
}

fn remove(folder: &Path) -> Result<(), Failure> {
    std::fs::remove_dir_all(folder).map_err(|error| Failure::of(folder.display(), error))
}
