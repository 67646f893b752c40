//! `tracklog bench`: what this machine does, beside raw figures of the same run.
//!
//! A figure alone says more about the disk than about the program. So each stands beside what the
//! plainest program does with the same bytes in the same minute, and the ratio of both.

mod append;
mod crowd;
mod gateway;
mod late_store;
mod live;
mod open_loop;
mod pace;
mod pipeline;
mod raw;
mod replay;
mod soak;
mod spike;
mod standstill;
mod steady;
mod visitors;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use tempfile::TempDir;
use tracklog_server::config::{BackendName, JournalSettings, SettleSetting, WhenFullSetting};

use crate::failure::Failure;
use crate::output::{Output, notice, table, thousands};

/// Measure this machine, beside raw figures of the same run
#[derive(Args)]
#[command(after_help = "\
Build with --release first. Scratch files of up to some GiB lie in a folder of their own below
--scratch, on whose disk it is measured, and are removed at the end.

Examples:
  tracklog bench append
  tracklog bench append --backend uring --seconds 10
  tracklog bench replay
  tracklog bench gateway --json")]
pub(crate) struct BenchCommand {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum What {
    /// Durable appends, in process; raw: serial pwrite + fdatasync, and bare direct writers
    #[command(after_help = "\
CPU an event is that of the whole process, the load included. Serial writes as much as one append
from one thread, and syncs it. Bare writers write as much as the log's commits came to on average,
as many at once as the log would, and do nothing else.

Examples:
  tracklog bench append --backend uring --seconds 10
  tracklog bench append --only callers")]
    Append,
    /// Reading back with checksums; raw: CRC over the same bytes
    #[command(after_help = "\
Examples:
  tracklog bench replay")]
    Replay,
    /// Events over HTTPS and HTTP; raw: a bare hyper answer to the same request
    #[command(after_help = "\
No event is sent twice. Nothing is enriched, routed or archived meanwhile.

Examples:
  tracklog bench gateway --json")]
    Gateway,
    /// How soon after its ack an event is enriched, at 5,000 events a second
    #[command(after_help = "\
Clients send single events over HTTP when they are due, whether others are answered or not; a reader
in the node's process waits at the end of `enriched`. Then the same with a webhook that nobody
answers at.

Examples:
  tracklog bench live --seconds 10")]
    Live,
    /// Through enrichment and routing, from a warm log; raw: a scan of the same events
    #[command(after_help = "\
Events of 780 bytes, 100,000 for each second asked for, go to a node without stages: 100,000
visitors with 5,000 agents, half of them known users. Then the node runs all enrichers, with a
database of places, and two rules into two topics, in this process. It is measured once everybody
has been there. CPU an event is that of the whole process.

Examples:
  tracklog bench pipeline
  tracklog bench pipeline --seconds 10")]
    Pipeline,
    /// At a steady rate while the log settles, expires and is replayed
    #[command(after_help = "\
A node without stages takes 50 events a request over HTTP from clients in a process of their own,
each request when it is due: first for a tenth of the time with a log that settles nothing, then,
behind a tenth of the time that is not counted, with one that settles all but 256 MiB and keeps
2 GiB, and in the end for a tenth of the time while all that is there is replayed. Its journal may
grow to 8 GiB: beyond that requests are refused, and counted.

Examples:
  tracklog bench soak --seconds 600
  tracklog bench soak --seconds 60 --rate 50000")]
    Soak(soak::Offered),
    /// Enrichment stopped, then slow, then 10 s of ten times the rate: acks, lag, memory
    #[command(after_help = "\
A node with all its stages takes 50 events a request over HTTP from clients in a process of their
own, each request when it is due: with enrichment at work, with none, with one whose profile store
answers late (which needs a build with --features full), and then 10 s of ten times the rate over
ten times the connections. Then it is waited until enrichment has caught up, and every event that
was acked is looked for in `raw` and in `enriched`: one that is not there once is an error. What is
refused is counted by its status, and not sent again. Own memory is what the node's process has
that is no file's; pages of files that it maps are told apart, since the system takes these back.

Examples:
  tracklog bench spike --seconds 10
  tracklog bench spike --rate 2000")]
    Spike(spike::Offered),
    /// The clients of `soak` and `spike`: they start it, as a process of its own
    #[command(hide = true)]
    Crowd,
}

/// How it is measured.
#[derive(Args, Clone, Debug)]
pub(crate) struct Run {
    /// How long each case is measured
    #[arg(long, value_name = "N", default_value_t = 3, global = true, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How commits reach the disk
    #[arg(long, value_name = "NAME", default_value = "auto", global = true)]
    backend: Backend,
    /// Where scratch files go
    #[arg(long, value_name = "DIR", default_value = ".", global = true)]
    scratch: PathBuf,
    /// Only the cases whose name contains this (append)
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true, global = true)]
    only: String,
    /// One object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Backend {
    Auto,
    Uring,
    Blocking,
}

impl Run {
    const fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn wants(&self, case: &str) -> bool {
        case.contains(&self.only)
    }

    fn scratch(&self) -> Result<TempDir, Failure> {
        let made = tempfile::Builder::new().prefix(".tracklog-bench-").tempdir_in(&self.scratch);
        made.map_err(|error| Failure::of(self.scratch.display(), error))
    }

    /// A journal that goes round in the space it has: slots are recycled, as in a log of some age.
    fn journal(&self) -> JournalSettings {
        JournalSettings {
            backend: match self.backend {
                Backend::Auto => BackendName::Auto,
                Backend::Uring => BackendName::Uring,
                Backend::Blocking => BackendName::Blocking,
            },
            bytes_max: Some(2 << 30),
            when_full: WhenFullSetting::DropOldest,
            settle: SettleSetting::Off,
            ..JournalSettings::default()
        }
    }
}

/// One measured case.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    /// What was done.
    case: String,
    unit: &'static str,
    /// What Tracklog did.
    value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_micros: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p999_micros: Option<u64>,
    /// Of the whole process, the load included.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_nanos_per_event: Option<u64>,
    raws: Vec<Raw>,
}

/// What a plain program did.
#[derive(Clone, Debug, Serialize)]
struct Raw {
    is: String,
    value: f64,
    /// Tracklog's figure divided by this one.
    ratio: f64,
}

impl Figure {
    fn new(case: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self {
            case: case.into(),
            unit,
            value,
            p50_micros: None,
            p99_micros: None,
            p999_micros: None,
            cpu_nanos_per_event: None,
            raws: Vec::new(),
        }
    }

    fn beside(mut self, raw: f64, is: impl Into<String>) -> Self {
        self.raws.push(Raw { is: is.into(), value: raw, ratio: self.value / raw });
        self
    }

    fn latencies(mut self, latencies: &hdrhistogram::Histogram<u64>) -> Self {
        self.p50_micros = Some(latencies.value_at_quantile(0.5));
        self.p99_micros = Some(latencies.value_at_quantile(0.99));
        self.p999_micros = Some(latencies.value_at_quantile(0.999));
        self
    }

    /// Its rows in the table: the first has the figure and one raw, the others a raw each.
    fn rows(&self) -> Vec<Vec<String>> {
        let micros = |it: Option<u64>| it.map_or_else(String::new, |it| format!("{it} µs"));
        let cpu = self.cpu_nanos_per_event.map(|it| format!("{:.2} µs", it as f64 / 1e3));
        let figure = [
            self.case.clone(),
            rounded(self.value),
            self.unit.to_owned(),
            micros(self.p50_micros),
            micros(self.p99_micros),
            micros(self.p999_micros),
            cpu.unwrap_or_default(),
        ];
        let beside = |raw: &Raw| [rounded(raw.value), format!("{:.2}", raw.ratio), raw.is.clone()];
        let mut raws: Vec<[String; 3]> = self.raws.iter().map(beside).collect();
        if raws.is_empty() {
            raws.push(Default::default());
        }
        let figures = std::iter::once(figure).chain(std::iter::repeat_with(Default::default));
        let rows = figures.zip(raws).map(|(figure, raw)| figure.into_iter().chain(raw).collect());
        rows.collect()
    }
}

impl BenchCommand {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(Failure::could_not_run)?;
        if matches!(self.what, What::Crowd) {
            return runtime.block_on(crowd::serve());
        }
        if cfg!(debug_assertions) {
            notice("this is a debug build: its figures mean nothing; use cargo run --release");
        }
        let watcher = standstill::Watcher::start();
        let figures = runtime.block_on(async {
            match self.what {
                What::Append => append::measure(&self.run).await,
                What::Replay => replay::measure(&self.run).await,
                What::Gateway => gateway::measure(&self.run).await,
                What::Live => live::measure(&self.run).await,
                What::Pipeline => pipeline::measure(&self.run).await,
                What::Soak(offered) => soak::measure(&self.run, offered).await,
                What::Spike(offered) => spike::measure(&self.run, offered).await,
                What::Crowd => unreachable!("it measures nothing"),
            }
        });
        let stood_still = watcher.end().told();
        show(&figures?, self.run.json)?;
        if let Some(told) = stood_still {
            notice(&told);
        }
        Ok(())
    }
}

fn show(figures: &[Figure], json: bool) -> Result<(), Failure> {
    let mut output = Output::new();
    if json {
        figures.iter().try_for_each(|figure| output.json(figure))?;
        return output.flush();
    }
    let head = ["case", "here", "", "p50", "p99", "p99.9", "CPU/event", "raw", "ratio", "raw is"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(figures.iter().flat_map(Figure::rows));
    output.write(table(&rows).as_bytes())?;
    output.flush()
}

/// With thousands apart; small numbers with two digits.
fn rounded(number: f64) -> String {
    if number < 100.0 {
        return format!("{number:.2}");
    }
    thousands(&format!("{number:.0}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_apart() {
        assert_eq!(super::rounded(1_234_567.4), "1,234,567");
        assert_eq!(super::rounded(123.0), "123");
        assert_eq!(super::rounded(0.5), "0.50");
    }
}
