//! A node at a steady rate that does not wait for acks, while its log settles and gives up what is
//! beyond its limit; beside the same rate on a log that does neither.
//!
//! Memory is what the node's process has to itself; clients are another one.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use tracklog_log::{Limits, TopicName};
use tracklog_server::config::{Flags, JournalSettings, Settings, SettleSetting, WhenFullSetting};
use tracklog_server::node::Node;
use tracklog_server::topics::RAW;

use super::replay::{Keep, Scan};
use super::steady::{Load, Memory, Taken, drive};
use super::{Figure, Run};
use crate::failure::Failure;

/// The other phases take this part of the time.
const PART: u64 = 10;
const HOT_BYTES: u64 = 256 << 20;
const KEPT_BYTES: u64 = 2 << 30;
/// Where settling does not keep up, appends are refused from here on.
const JOURNAL_BYTES_MAX: u64 = 8 << 30;

/// How much is offered.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Offered {
    /// Events a second
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    rate: u64,
}

pub(super) async fn measure(run: &Run, offered: Offered) -> Result<Vec<Figure>, Failure> {
    let scratch = run.scratch()?;
    let part = Duration::from_secs((run.seconds / PART).max(1));
    let idle = start(&scratch.path().join("idle"), run, SettleSetting::Off).await?;
    let alone = drive(&idle, Load::of(offered.rate), 0, part).await;
    idle.stop().await;
    let alone = alone?;
    let node = start(&scratch.path().join("node"), run, SettleSetting::On).await?;
    let measured = measure_on(&node, offered, (run.time(), part), &alone).await;
    node.stop().await;
    let mut figures = vec![alone.figure("50 events a POST, nothing is settled")];
    figures.extend(measured?);
    Ok(figures)
}

async fn start(data: &Path, run: &Run, settle: SettleSetting) -> Result<Node, Failure> {
    let (http, https) = (Some("127.0.0.1:0".to_owned()), Some("off".to_owned()));
    let flags = Flags { data: Some(data.to_owned()), http, https, ..Flags::default() };
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
    let warm = drive(node, Load::of(offered.rate), 0, part).await?;
    let before = Memory::now().own_bytes;
    let settling = drive(node, Load::of(offered.rate), warm.next, time).await?;
    let after = Memory::now().own_bytes;
    let (beside, replayed) = beside_replay(node, offered, settling.next, part).await?;

    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let of_alone = ("nothing is settled", alone);
    Ok(vec![
        settling.figure("the same, settled, 2 GiB are kept"),
        settling.quantile("p50 of it", of_alone, 0.5),
        settling.quantile("p99 of it", of_alone, 0.99),
        Figure::new("requests refused", "", settling.refused() as f64),
        Figure::new("own memory at the end", "MiB", mebibytes(after))
            .beside(mebibytes(before), "at its beginning"),
        beside.quantile("p99 beside a replay of all", ("without", &settling), 0.99),
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
    let taken = drive(node, Load::of(offered.rate), first, part).await?;
    Ok((taken, replays.await.map_err(Failure::could_not_run)??))
}
