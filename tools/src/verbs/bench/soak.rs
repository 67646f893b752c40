//! A node at a steady rate that does not wait for acks, while its log settles and gives up what is
//! beyond its limit; beside the same rate on a log that does neither.
//!
//! A request's time counts from when it was due: a node that falls behind cannot hide it. Memory is
//! what the process has to itself, the clients included.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use hdrhistogram::Histogram;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tracklog_log::{Limits, TopicName};
use tracklog_server::config::{Flags, JournalSettings, Settings, SettleSetting, WhenFullSetting};
use tracklog_server::node::Node;
use tracklog_server::topics::RAW;

use super::append::latencies;
use super::gateway::{BATCH_EVENTS, batch};
use super::pace::{Pace, Turns};
use super::raw::micros;
use super::replay::{Keep, Scan};
use super::wire::{ANSWER_BYTES_MAX, post, read_status};
use super::{Figure, Run};
use crate::failure::Failure;

const CONNECTIONS: u64 = 32;
/// The other phases take this part of the time.
const PART: u64 = 10;
const HOT_BYTES: u64 = 256 << 20;
const KEPT_BYTES: u64 = 2 << 30;
/// Where settling does not keep up, appends are refused from here on.
const JOURNAL_BYTES_MAX: u64 = 8 << 30;
const OFFERED: &str = "what was offered";

/// How much is offered.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Offered {
    /// Events a second
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    rate: u64,
}

impl Offered {
    const fn requests_a_second(self) -> u64 {
        self.rate / BATCH_EVENTS as u64
    }
}

pub(super) async fn measure(run: &Run, offered: Offered) -> Result<Vec<Figure>, Failure> {
    let scratch = run.scratch()?;
    let part = Duration::from_secs((run.seconds / PART).max(1));
    let idle = start(&scratch.path().join("idle"), run, SettleSetting::Off).await?;
    let alone = drive(&idle, offered, 0, part).await;
    idle.stop().await;
    let alone = alone?;
    let node = start(&scratch.path().join("node"), run, SettleSetting::On).await?;
    let measured = measure_on(&node, offered, (run.time(), part), &alone).await;
    node.stop().await;
    let mut figures = vec![alone.figure(offered, "50 events a POST, nothing is settled")];
    figures.extend(measured?);
    Ok(figures)
}

async fn start(data: &Path, run: &Run, settle: SettleSetting) -> Result<Node, Failure> {
    let http = Some("127.0.0.1:0".to_owned());
    let flags = Flags { data: Some(data.to_owned()), http, ..Flags::default() };
    let mut settings = Settings::load(&flags, []).map_err(Failure::could_not_run)?;
    settings.journal = JournalSettings {
        settle,
        hot_bytes: Some(HOT_BYTES),
        bytes_max: Some(JOURNAL_BYTES_MAX),
        when_full: WhenFullSetting::Refuse,
        ..run.journal()
    };
    settings.enrich.enabled = false;
    settings.archive.enabled = false;
    Node::start(&settings).await.map_err(Failure::could_not_run)
}

async fn measure_on(
    node: &Node,
    offered: Offered,
    (time, part): (Duration, Duration),
    alone: &Taken,
) -> Result<Vec<Figure>, Failure> {
    let limits = Limits { bytes: Some(KEPT_BYTES), ..Limits::default() };
    let raw = TopicName::new(RAW).expect("it is a name");
    node.log().set_limits(&raw, limits).await.map_err(Failure::could_not_run)?;
    let warm = drive(node, offered, 0, part).await?;
    let before = own_memory_bytes();
    let settling = drive(node, offered, warm.next, time).await?;
    let after = own_memory_bytes();
    let (beside, replayed) = beside_replay(node, offered, settling.next, part).await?;

    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let quantile = |name: &str, taken: &Taken, other: (&str, &Taken), at: f64| {
        let value = |taken: &Taken| taken.latencies.value_at_quantile(at) as f64;
        Figure::new(name, "µs", value(taken)).beside(value(other.1), other.0)
    };
    let of_alone = ("nothing is settled", alone);
    Ok(vec![
        settling.figure(offered, "the same, settled, 2 GiB are kept"),
        quantile("p50 of it", &settling, of_alone, 0.5),
        quantile("p99 of it", &settling, of_alone, 0.99),
        Figure::new("requests refused", "", settling.refused as f64),
        Figure::new("own memory at the end", "MiB", mebibytes(after))
            .beside(mebibytes(before), "at its beginning"),
        quantile("p99 beside a replay of all", &beside, ("without", &settling), 0.99),
        Figure::new("replayed meanwhile", "MiB/s", mebibytes(replayed) / part.as_secs_f64()),
    ])
}

/// The load, and beside it all that is there is read, again and again. How many bytes were.
async fn beside_replay(
    node: &Node,
    offered: Offered,
    first: u64,
    part: Duration,
) -> Result<(Taken, u64), Failure> {
    let log = node.log();
    let raw = log.topic(RAW).expect("a node makes it");
    let until = Instant::now() + part;
    let replays = tokio::spawn(async move {
        let mut bytes = 0;
        while Instant::now() < until {
            bytes += Scan::all(&log, &raw, Keep::Nothing).await?.bytes as u64;
        }
        Ok::<u64, Failure>(bytes)
    });
    let taken = drive(node, offered, first, part).await?;
    Ok((taken, replays.await.map_err(Failure::could_not_run)??))
}

/// What a phase came to.
struct Taken {
    latencies: Histogram<u64>,
    events_per_second: f64,
    refused: u64,
    /// The number of the next request.
    next: u64,
}

impl Taken {
    fn figure(&self, offered: Offered, case: &str) -> Figure {
        let figure = Figure::new(case, "events/s", self.events_per_second);
        figure.latencies(&self.latencies).beside(offered.rate as f64, OFFERED)
    }
}

/// Sends requests from number `first` on, each when it is due.
async fn drive(
    node: &Node,
    offered: Offered,
    first: u64,
    time: Duration,
) -> Result<Taken, Failure> {
    let requests_a_second = offered.requests_a_second();
    let key = STANDARD.encode(format!("{}:", node.default_key().text));
    let authorization = Arc::<str>::from(format!("Basic {key}"));
    let port = node.http().expect("it was asked for").port();
    let requests = time.as_secs() * requests_a_second;
    let began = Instant::now();
    let pace = Pace { began, rate: requests_a_second };
    let mut clients = JoinSet::new();
    for (own, turns) in (0..requests).zip(pace.share(requests, CONNECTIONS)) {
        let client = Client { port, authorization: Arc::clone(&authorization), first, pace, turns };
        clients.spawn(async move { client.send(own..requests).await });
    }
    let (mut all, mut refused) = (latencies(), 0);
    while let Some(ended) = clients.join_next().await {
        let (taken, not_taken) =
            ended.map_err(Failure::could_not_run)?.map_err(Failure::could_not_run)?;
        all.add(&taken).expect("the bounds are the same");
        refused += not_taken;
    }
    let events = all.len() * BATCH_EVENTS as u64;
    let events_per_second = events as f64 / began.elapsed().as_secs_f64();
    Ok(Taken { latencies: all, events_per_second, refused, next: first + requests })
}

/// One connection, and its part of a load.
struct Client {
    port: u16,
    authorization: Arc<str>,
    /// How many requests were sent before this load: no two are the same.
    first: u64,
    pace: Pace,
    turns: Turns,
}

impl Client {
    /// Sends one of [`CONNECTIONS`] of these requests. How long each took that was taken, and how
    /// many were refused.
    async fn send(self, numbers: Range<u64>) -> io::Result<(Histogram<u64>, u64)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; ANSWER_BYTES_MAX];
        let (mut taken, mut refused) = (latencies(), 0);
        for number in numbers.step_by(CONNECTIONS as usize) {
            let body = batch(usize::try_from(self.first + number).unwrap_or_default());
            let request = post("/v1/batch", &self.authorization, &body);
            self.turns.next().await;
            stream.write_all(&request).await?;
            match read_status(&mut stream, &mut buffer).await? {
                200 => taken.saturating_record(micros(self.pace.due(number).elapsed())),
                _ => refused += 1,
            }
        }
        Ok((taken, refused))
    }
}

/// What the process has of memory that is no file's; 0 where that cannot be told.
fn own_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kibibytes.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) << 10
}
