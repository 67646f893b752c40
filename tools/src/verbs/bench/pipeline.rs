//! How many events a second come through enrichment and routing, from a log that is warm.
//!
//! Events are sent to a node without stages, which is then started anew with all enrichers but
//! stores outside, a database of places, and two rules that put every event into one topic and
//! orders into another. Everybody was introduced before, and comes once more before it is measured:
//! what the node reads of its state after a start is none of it. CPU is that of the whole process,
//! which does nothing else meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tracklog_log::Log;
use tracklog_server::config::{Flags, JournalSettings, Settings, WhenFullSetting};
use tracklog_server::node::Node;
use tracklog_server::topics::RAW;

use super::append::cpu_time;
use super::replay::{Keep, Scan};
use super::visitors::{self, VISITORS};
use super::wire::{ANSWER_BYTES_MAX, read_answer};
use super::{Figure, Run};
use crate::failure::Failure;

const CONNECTIONS: u64 = 64;
/// So many events for each second that is asked for.
const EVENTS_A_SECOND: u64 = 100_000;
/// How often it is looked how far the stages are.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long the stages may stand still.
const PATIENCE: Duration = Duration::from_secs(30);
const RAW_IS: &str = "the same events, read and checked";

const ROUTES: &str = r#"
[destinations.all]
type = "topic"
[destinations.orders]
type = "topic"
[[rules]]
name = "all"
to = ["all"]
[[rules]]
name = "orders"
event = "Order *"
to = ["orders"]
"#;

pub(super) async fn measure(run: &Run) -> Result<Vec<Figure>, Failure> {
    let scratch = run.scratch()?;
    let site = Site::make(scratch.path(), run)?;
    let events = EVENTS_A_SECOND * run.seconds;
    let introduced = site.start(Stages::On).await?;
    let ended = introduce(&introduced).await;
    introduced.stop().await;
    ended?;
    let filled = site.start(Stages::Off).await?;
    let ended = send(&filled, VISITORS..2 * VISITORS + events).await;
    filled.stop().await;
    ended?;
    // Commits go past the page cache. A log is warm when it has been read.
    let read = site.start(Stages::Off).await?;
    let warmed = scan_raw(&read).await;
    read.stop().await;
    warmed?;
    let measured = site.start(Stages::On).await?;
    let figure = measure_on(&measured, events).await;
    measured.stop().await;
    Ok(vec![figure?])
}

/// A data folder, and how its node is started.
struct Site {
    settings: Settings,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stages {
    On,
    Off,
}

impl Site {
    fn make(folder: &Path, run: &Run) -> Result<Self, Failure> {
        let data = folder.join("node");
        let database = folder.join("places.mmdb");
        visitors::write_database(&database)?;
        let written = std::fs::create_dir(&data)
            .and_then(|()| std::fs::write(data.join("routes.toml"), ROUTES));
        written.map_err(|error| Failure::of(data.display(), error))?;
        Ok(Self { settings: settings(data, database, run)? })
    }

    async fn start(&self, stages: Stages) -> Result<Node, Failure> {
        let mut settings = self.settings.clone();
        settings.enrich.enabled = stages == Stages::On;
        Node::start(&settings).await.map_err(Failure::could_not_run)
    }
}

fn settings(data: PathBuf, database: PathBuf, run: &Run) -> Result<Settings, Failure> {
    let (http, https) = (Some("127.0.0.1:0".to_owned()), Some("off".to_owned()));
    let flags = Flags { data: Some(data), http, https, ..Flags::default() };
    let mut settings = Settings::load(&flags, []).map_err(Failure::could_not_run)?;
    // Nothing may go while it is read.
    settings.journal =
        JournalSettings { bytes_max: None, when_full: WhenFullSetting::Refuse, ..run.journal() };
    // Clients say for whom they ask, as a proxy does.
    settings.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    settings.enrich.geo.databases = vec![database];
    settings.archive.enabled = false;
    Ok(settings)
}

/// Everybody once, through the stages.
async fn introduce(node: &Node) -> Result<(), Failure> {
    send(node, 0..VISITORS).await?;
    let all = Seen::after(VISITORS);
    until(node, |seen| seen == all).await.map(drop)
}

async fn measure_on(node: &Node, events: u64) -> Result<Figure, Failure> {
    let all = 2 * VISITORS + events;
    let through = Seen::after(all);
    let begun = until(node, |seen| seen.enriched >= 2 * VISITORS).await?;
    let (cpu, began) = (cpu_time(), Instant::now());
    until(node, |seen| seen == through).await?;
    let (spent, took) = (cpu_time() - cpu, began.elapsed());
    // Those that were enriched before count for nothing, though some are routed since.
    let passed = all - begun.enriched;
    let scan = scan_raw(node).await?;
    let case = format!("enriched and routed, {} B, {VISITORS} visitors", visitors::EVENT_BYTES);
    let mut figure = Figure::new(case, "events/s", passed as f64 / took.as_secs_f64());
    figure.cpu_nanos_per_event = u64::try_from(spent.as_nanos()).ok().map(|nanos| nanos / passed);
    Ok(figure.beside(all as f64 / scan.seconds, RAW_IS))
}

async fn scan_raw(node: &Node) -> Result<Scan, Failure> {
    let log = node.log();
    let raw = log.topic(RAW).expect("a node makes it");
    Scan::all(&log, &raw, Keep::Nothing).await
}

/// How far events have come, by what is in topics.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seen {
    enriched: u64,
    all: u64,
    orders: u64,
}

impl Seen {
    fn of(log: &dyn Log) -> Self {
        let records = |topic: &str| {
            log.topic(topic).map_or(0, |topic| {
                topic.partitions().filter_map(|it| log.extent(it)).map(|it| it.end.0).sum()
            })
        };
        Self { enriched: records("enriched"), all: records("all"), orders: records("orders") }
    }

    /// When the first `events` are where they belong.
    fn after(events: u64) -> Self {
        Self { enriched: events, all: events, orders: visitors::orders(0, events) }
    }
}

/// Until events have come as far as `is_enough` says; how far that is.
async fn until(node: &Node, is_enough: impl Fn(Seen) -> bool) -> Result<Seen, Failure> {
    let log = node.log();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let (mut last, mut moved) = (Seen::of(&*log), Instant::now());
    while !is_enough(last) {
        looks.tick().await;
        let seen = Seen::of(&*log);
        if seen != last {
            (last, moved) = (seen, Instant::now());
        }
        if moved.elapsed() > PATIENCE {
            let why = format!("{} events are routed, and no more come", last.all);
            return Err(Failure::could_not_run(why));
        }
    }
    Ok(last)
}

/// Sends events with these numbers, one a request.
async fn send(node: &Node, numbers: std::ops::Range<u64>) -> Result<(), Failure> {
    let authorization = STANDARD.encode(format!("{}:", node.default_key().text));
    let authorization = Arc::<str>::from(format!("Basic {authorization}"));
    let port = node.http().expect("it was asked for").port();
    let mut clients = JoinSet::new();
    for first in numbers.start..numbers.start + CONNECTIONS {
        let (authorization, numbers) = (Arc::clone(&authorization), first..numbers.end);
        clients.spawn(async move { send_some(port, &authorization, numbers).await });
    }
    while let Some(ended) = clients.join_next().await {
        ended.map_err(Failure::could_not_run)?.map_err(Failure::could_not_run)?;
    }
    Ok(())
}

/// Sends one of [`CONNECTIONS`] of them.
async fn send_some(
    port: u16,
    authorization: &str,
    numbers: std::ops::Range<u64>,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    for number in numbers.step_by(CONNECTIONS as usize) {
        stream.write_all(&visitors::request(number, authorization)).await?;
        read_answer(&mut stream, &mut buffer).await?;
    }
    Ok(())
}
