//! A node whose enrichment stands still, then is slow, and then has ten times the load before it.
//!
//! Acks are measured beside those of the calm node; how far enrichment is behind, and how much
//! memory the node's process has, are looked at until all has caught up. Clients are another process;
//! what is noted here of what was acked is a few MiB of the node's. In the end every event that was
//! acked must be in `raw` and in `enriched`, once, as a node finds them that was started anew.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use tokio::task::AbortHandle;
use tracklog_log::{Log, Topic};
use tracklog_protocol::event::EventView;
use tracklog_server::config::{Flags, JournalSettings, Settings, SettleSetting, WhenFullSetting};
use tracklog_server::node::Node;
use tracklog_server::topics::RAW;

use super::gateway::BATCH_EVENTS;
use super::late_store::LateStore;
use super::live::number_of;
use super::replay::Scan;
use super::steady::{Load, Memory, Taken, drive};
use super::{Figure, Run};
use crate::failure::Failure;
use crate::output::notice;

const TIMES: u64 = 10;
const SPIKE: Duration = Duration::from_secs(10);
/// A node that has just begun is loaded for this part of a phase before it is measured.
const WARM_PART: u64 = 5;
/// Longer than anybody would let a store take; the node is told to wait for it.
const LATE: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long enrichment may stand still in the end.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a node may have of memory, whatever comes.
const MEMORY_BYTES_MAX: u64 = 512 << 20;
const CALM: &str = "calm";
const STOPPED: &str = "[enrich]\nenabled = false\n";

/// How much is offered.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Offered {
    /// Events a second, before there are ten times as many
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    rate: u64,
}

pub(super) async fn measure(run: &Run, offered: Offered) -> Result<Vec<Figure>, Failure> {
    let scratch = run.scratch()?;
    let (usual, time) = (Load::of(offered.rate), run.time());
    // As ten times the clients do, who know nothing of each other.
    let spike = Load { rate: TIMES * usual.rate, connections: TIMES * usual.connections };
    let mut course = Course::new(scratch.path(), run);
    let calm = async |course: &mut Course<'_>, node: &Node| {
        course.warm(node, usual).await?;
        course.phase(node, CALM, usual, time).await
    };
    course.on_node("", calm).await?;
    let stopped = async |course: &mut Course<'_>, node: &Node| {
        course.warm(node, usual).await?;
        course.phase(node, "enrichment stopped", usual, time).await
    };
    course.on_node(STOPPED, stopped).await?;
    let store = late_store().await?;
    let settings = store.as_ref().map_or_else(String::new, settings_of);
    let rest = async |course: &mut Course<'_>, node: &Node| {
        course.warm(node, usual).await?;
        if let Some(store) = &store {
            course.phase(node, "enrichment slow", usual, time).await?;
            store.hurry();
        }
        course.phase(node, "ten times the rate", spike, SPIKE).await?;
        course.drain(node).await
    };
    course.on_node(&settings, rest).await?;
    course.check().await?;
    Ok(course.figures())
}

async fn late_store() -> Result<Option<LateStore>, Failure> {
    if !cfg!(feature = "full") {
        notice("skipped: for slow enrichment a profile store is asked: build with --features full");
        return Ok(None);
    }
    LateStore::start(LATE).await.map(Some).map_err(Failure::could_not_run)
}

/// Nothing that the store said is remembered, so each batch waits for it.
fn settings_of(store: &LateStore) -> String {
    format!(
        "[enrich.profile]\nstore = \"redis\"\nurl = \"{}\"\nuser_key = \"user:{{id}}\"\n\
         timeout = \"5s\"\ncache_ttl = \"0s\"\n",
        store.url()
    )
}

/// The most that was seen of what may grow.
#[derive(Default)]
struct Most {
    lag: AtomicU64,
    own_bytes: AtomicU64,
    mapped_bytes: AtomicU64,
}

impl Most {
    fn look(&self, log: &dyn Log) {
        let Memory { own_bytes, mapped_bytes } = Memory::now();
        self.lag.fetch_max(lag(log), Ordering::Relaxed);
        self.own_bytes.fetch_max(own_bytes, Ordering::Relaxed);
        self.mapped_bytes.fetch_max(mapped_bytes, Ordering::Relaxed);
    }
}

/// One data folder, what was sent to its nodes, and what came of it.
struct Course<'a> {
    folder: &'a Path,
    run: &'a Run,
    phases: Vec<(&'static str, Taken)>,
    /// Numbers of requests that were acked, those of no phase too.
    acked: Vec<Range<u64>>,
    next: u64,
    most: Arc<Most>,
    drained: Duration,
    found: u64,
}

impl<'a> Course<'a> {
    fn new(folder: &'a Path, run: &'a Run) -> Self {
        let (phases, acked, most, drained) = Default::default();
        Self { folder, run, phases, acked, next: 0, most, drained, found: 0 }
    }

    /// Starts a node with these settings, and stops it when it was worked with.
    async fn on_node(
        &mut self,
        settings: &str,
        work: impl AsyncFnOnce(&mut Self, &Node) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let node = self.start(settings).await?;
        let watcher = self.watch(node.log());
        let worked = work(self, &node).await;
        watcher.abort();
        node.stop().await;
        worked
    }

    async fn start(&self, settings: &str) -> Result<Node, Failure> {
        let config = self.folder.join("tracklog.toml");
        let written = std::fs::write(&config, settings);
        written.map_err(|error| Failure::of(config.display(), error))?;
        let (http, https) = (Some("127.0.0.1:0".to_owned()), Some("off".to_owned()));
        let (config, data) = (Some(config), Some(self.folder.join("node")));
        let flags = Flags { config, data, http, https, ..Flags::default() };
        let mut settings = Settings::load(&flags, []).map_err(Failure::could_not_run)?;
        // All clients are at one address.
        settings.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
        // Nothing may go that is looked for in the end.
        settings.journal = JournalSettings {
            settle: SettleSetting::On,
            bytes_max: None,
            when_full: WhenFullSetting::Refuse,
            ..self.run.journal()
        };
        Node::start(&settings).await.map_err(Failure::could_not_run)
    }

    fn watch(&self, log: Arc<dyn Log>) -> AbortHandle {
        let most = Arc::clone(&self.most);
        let watching = tokio::spawn(async move {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            loop {
                looks.tick().await;
                most.look(&*log);
            }
        });
        watching.abort_handle()
    }

    async fn warm(&mut self, node: &Node, load: Load) -> Result<(), Failure> {
        let part = Duration::from_secs((self.run.seconds / WARM_PART).max(1));
        self.drive(node, load, part).await.map(drop)
    }

    async fn phase(
        &mut self,
        node: &Node,
        name: &'static str,
        load: Load,
        time: Duration,
    ) -> Result<(), Failure> {
        let taken = self.drive(node, load, time).await?;
        self.phases.push((name, taken));
        Ok(())
    }

    async fn drive(&mut self, node: &Node, load: Load, time: Duration) -> Result<Taken, Failure> {
        let taken = drive(node, load, self.next, time).await?;
        self.next = taken.next;
        self.acked.extend(taken.acked.iter().cloned());
        Ok(taken)
    }

    /// Waits until enrichment has nothing before it.
    async fn drain(&mut self, node: &Node) -> Result<(), Failure> {
        let (log, began) = (node.log(), Instant::now());
        let mut looks = tokio::time::interval(LOOK_EVERY);
        let (mut left, mut moved) = (lag(&*log), began);
        while left > 0 {
            looks.tick().await;
            let now = lag(&*log);
            if now != left {
                (left, moved) = (now, Instant::now());
            }
            if moved.elapsed() > PATIENCE {
                let why = format!("enrichment is {left} events behind, and comes no further");
                return Err(Failure::could_not_run(why));
            }
        }
        self.drained = began.elapsed();
        Ok(())
    }

    /// Whether each event that was acked is where it belongs, once. On a node that nobody watches:
    /// all of the log is read for it.
    async fn check(&mut self) -> Result<(), Failure> {
        let node = self.start("").await?;
        let looked = self.look_for_acked(&node).await;
        node.stop().await;
        looked
    }

    async fn look_for_acked(&mut self, node: &Node) -> Result<(), Failure> {
        let log = node.log();
        for topic in [RAW, "enriched"] {
            let topic = log.topic(topic).expect("a node makes it");
            let times = self.times_there(&log, &topic).await?;
            let there = |number| usize::try_from(number).ok().and_then(|at| times.get(at));
            let found = self.events().filter(|number| there(*number) == Some(&1)).count() as u64;
            let acked = self.events().count() as u64;
            if found < acked {
                let (missing, topic) = (acked - found, topic.name());
                let why = format!("{missing} of {acked} acked events are not in `{topic}` once");
                return Err(Failure::could_not_run(why));
            }
            self.found = found;
        }
        Ok(())
    }

    /// The numbers of events that were acked.
    fn events(&self) -> impl Iterator<Item = u64> {
        let events = BATCH_EVENTS as u64;
        self.acked.iter().flat_map(move |acked| acked.start * events..acked.end * events)
    }

    /// How often each event is in `topic`, by its number.
    async fn times_there(&self, log: &Arc<dyn Log>, topic: &Topic) -> Result<Vec<u8>, Failure> {
        let requests = usize::try_from(self.next).expect("they were sent one by one");
        let mut times = vec![0_u8; requests * BATCH_EVENTS];
        Scan::each(log, topic, |from, batch| {
            let new = batch.records().filter(|(offset, _)| *offset >= from);
            for event in new.filter_map(|(_, record)| EventView::of(record)) {
                let number = number_of(event.message_id()).and_then(|it| usize::try_from(it).ok());
                if let Some(times) = number.and_then(|at| times.get_mut(at)) {
                    *times = times.saturating_add(1);
                }
            }
        })
        .await?;
        Ok(times)
    }

    fn figures(&self) -> Vec<Figure> {
        let [(_, calm), others @ ..] = &*self.phases else { return Vec::new() };
        let mut figures: Vec<_> =
            self.phases.iter().map(|(name, taken)| taken.figure(*name)).collect();
        let beside = |(name, taken): &(&str, Taken)| {
            taken.quantile(format!("p99, {name}"), (CALM, calm), 0.99)
        };
        figures.extend(others.iter().map(beside));
        for (name, taken) in &self.phases {
            let told = |(status, requests): (&u16, &u64)| {
                Figure::new(format!("requests answered {status}, {name}"), "", *requests as f64)
            };
            figures.extend(taken.refused.iter().map(told));
        }
        let refused: u64 = self.phases.iter().map(|(_, taken)| taken.refused()).sum();
        let Most { lag, own_bytes, mapped_bytes } = &*self.most;
        let [lag, own, mapped] =
            [lag, own_bytes, mapped_bytes].map(|most| most.load(Ordering::Relaxed) as f64);
        let mebibyte = f64::from(1 << 20);
        let acked = self.events().count() as f64;
        figures.extend([
            Figure::new("requests refused", "", refused as f64),
            Figure::new("enrichment behind, at most", "events", lag),
            Figure::new("until it had caught up, behind the load", "s", self.drained.as_secs_f64()),
            Figure::new("own memory, at most", "MiB", own / mebibyte)
                .beside(MEMORY_BYTES_MAX as f64 / mebibyte, "what a node may have"),
            Figure::new("pages of mapped files, at most", "MiB", mapped / mebibyte),
            Figure::new("in `raw` and in `enriched` once", "events", self.found as f64)
                .beside(acked, "what was acked"),
        ]);
        figures
    }
}

/// How many events of `raw` are not in `enriched` yet: each goes there once, and no other does.
fn lag(log: &dyn Log) -> u64 {
    let records = |topic: &str| -> u64 {
        log.topic(topic).map_or(0, |topic| {
            topic.partitions().filter_map(|it| log.extent(it)).map(|it| it.end.0).sum()
        })
    };
    // What is enriched meanwhile is in `raw` already.
    let enriched = records("enriched");
    records(RAW).saturating_sub(enriched)
}
