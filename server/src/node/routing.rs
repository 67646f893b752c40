//! Routing at work: the file of rules, the lanes of topics, and the destinations.
//!
//! Promises
//! - The file is looked at in each round, and read once two looks in a row found it the same: it may
//!   be half written. A good one holds for all that is stored from then on; of a bad one the reason
//!   is told, and the rules that held go on.
//! - A destination that the file changes goes on where it was, as the file says now; one that it
//!   does not name any more stands still, and goes on if it is named again.
//! - The lane of what is of high priority has a thread of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::SystemTime;

use tokio::runtime::{Builder, Handle};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::JoinHandle;
use tracklog_log::{Epoch, Log, Topic, TopicName};
use tracklog_pipeline::destination::file::Files;
use tracklog_pipeline::destination::retry::{Retried, Retry};
use tracklog_pipeline::destination::webhook::Webhook;
use tracklog_pipeline::destination::{
    self, DeliverStage, Delivering, Destination, EndpointState, Hold,
};
use tracklog_pipeline::groups::{GroupError, GroupName, Groups, Start};
use tracklog_pipeline::outbound::{Outbound, WebhookKey};
use tracklog_pipeline::route::rules::FILE_BYTES_MAX;
use tracklog_pipeline::route::{
    Activated, DestinationName, DestinationSpec, History, Lane, RouteStage, Routes, Rules, Version,
    stage,
};
use tracklog_pipeline::stage::{Delivery, PartitionLoop, Stage, StageCounters, Time};
use tracklog_protocol::event::EventView;
use tracklog_protocol::line::format_time;
use tracklog_protocol::{Offset, PartitionId, Record};

use super::runner::Runner;
use super::stages::{NodeTime, StagesError, Threads};
use crate::clock;
use crate::config::{RouteFrom, read_key_file};
use crate::metrics;
use crate::outbound::HttpOutbound;
use crate::routes::{DestinationStatus, RoutesStatus};

const LANES: [Lane; 2] = [Lane::High, Lane::Normal];

/// What routing stands on.
pub(super) struct RoutingParts {
    pub(super) log: Arc<dyn Log>,
    pub(super) epoch: Epoch,
    pub(super) groups: Arc<Groups<dyn Log>>,
    pub(super) source: Topic,
    pub(super) rejected: Topic,
    pub(super) undelivered: Topic,
    pub(super) file: PathBuf,
    /// Where the usual lanes run.
    pub(super) threads: Handle,
}

/// Routing at work.
pub(crate) struct Routing {
    parts: RoutingParts,
    routes: Arc<Routes<dyn Log>>,
    /// Calls out; begun with the first webhook.
    outbound: OnceLock<Arc<dyn Outbound>>,
    /// Where lanes of high priority run; begun with the first.
    threads_high: OnceLock<Threads>,
    running: AsyncMutex<Running>,
    /// What metrics tell of: what runs, and while that changes what ran before.
    shown: Mutex<Shown>,
    seen: Mutex<Seen>,
    retries: Mutex<BTreeMap<DestinationName, String>>,
    /// Whether each is paused, whatever becomes of it in the file.
    holds: Mutex<BTreeMap<DestinationName, Arc<Hold>>>,
}

/// What runs.
#[derive(Default)]
struct Running {
    lanes: BTreeMap<Lane, Runner>,
    destinations: BTreeMap<DestinationName, Started>,
    /// What was set aside is tried again, or was.
    retries: BTreeMap<DestinationName, Retrying>,
    phase: Phase,
}

/// A retry of what was set aside for a destination.
struct Retrying {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Whether lanes and destinations run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Running,
    /// They stand still, and go on when they are told to.
    Paused,
    /// None is begun any more.
    Over,
}

/// What metrics tell of.
#[derive(Default)]
struct Shown {
    stages: Vec<(String, Arc<StageCounters>)>,
    destinations: Vec<Arc<Delivering<dyn Log>>>,
}

impl Shown {
    fn of(running: &Running) -> Self {
        let of_destinations = running.destinations.values().flat_map(|it| it.lanes.values());
        let stages = running.lanes.values().chain(of_destinations);
        let stages = stages.map(Runner::shown);
        let destinations = running.destinations.values().filter_map(|it| it.to.as_ref().ok());
        Self { stages: stages.collect(), destinations: destinations.cloned().collect() }
    }
}

/// A destination that runs, or why it does not.
struct Started {
    spec: DestinationSpec,
    to: Result<Arc<Delivering<dyn Log>>, String>,
    lanes: BTreeMap<Lane, Runner>,
}

/// The file as it was looked at last.
#[derive(Default)]
struct Seen {
    /// As it was when it was put to work, or found to be a bad one.
    judged: Option<Stamp>,
    /// As it was at the last look.
    glimpsed: Option<Stamp>,
    refused: Option<String>,
}

/// A way that an event takes.
pub(crate) struct Way {
    /// The destination.
    pub(crate) name: DestinationName,
    /// Its type.
    pub(crate) kind: &'static str,
    /// The topic that it is, if it is one.
    pub(crate) topic: Option<TopicName>,
    /// Whose committed offset says whether the event was handed over.
    pub(crate) group: GroupName,
}

/// Why the file does not hold.
enum Refused {
    /// Its own fault: it is read again when it has changed.
    File(String),
    /// Not now: it is tried again.
    Now(String),
}

impl Refused {
    fn now(error: impl std::fmt::Display) -> Self {
        Self::Now(error.to_string())
    }
}

/// Why an operator was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DestinationError {
    /// No file names it.
    #[error("there is no destination {0}")]
    NotFound(String),
    /// It is a topic, or cannot begin.
    #[error("{0}")]
    Conflict(String),
    /// The log takes nothing.
    #[error("{0}")]
    Unavailable(String),
}

impl Routing {
    /// Begins where lanes and destinations have come to, by the file as it is now.
    pub(super) async fn start(parts: RoutingParts) -> Result<Arc<Self>, StagesError> {
        let (log, source) = (Arc::clone(&parts.log), parts.source.clone());
        let routes = Arc::new(Routes::open(log, parts.epoch, source).await?);
        let (running, shown, seen) = (AsyncMutex::default(), Mutex::default(), Mutex::default());
        let (outbound, threads_high) = (OnceLock::new(), OnceLock::new());
        let (retries, holds) = (Mutex::default(), Mutex::default());
        let routing =
            Self { parts, routes, outbound, threads_high, running, shown, seen, retries, holds };
        let routing = Arc::new(routing);
        // Nobody writes it while nobody runs, or so it is taken: rules hold from the first event on.
        routing.look_at_file().await;
        routing.look_at_file().await;
        routing.apply().await?;
        Ok(routing)
    }

    /// Puts the file to work if it has changed, and begins what could not begin before.
    pub(super) async fn look_at_file(&self) {
        let file = self.parts.file.clone();
        let (judged, glimpsed) = {
            let seen = self.seen.lock().expect("no holder of this lock panics");
            (seen.judged, seen.glimpsed)
        };
        let looking = tokio::task::spawn_blocking(move || look(&file, judged, glimpsed));
        let looked = looking.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let (stamp, told) = match looked {
            Ok(Look::Judged) => return self.begin_what_could_not().await,
            Ok(Look::Changing(stamp)) => {
                self.seen.lock().expect("no holder of this lock panics").glimpsed = Some(stamp);
                return;
            }
            Ok(Look::Text(stamp, text)) => (Some(stamp), self.activate(&text).await),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let holds = self.routes.history().await.newest().is_some();
                let gone = "the file is gone; its rules go on, an empty file ends them";
                (None, if holds { Err(Refused::now(gone)) } else { Ok(()) })
            }
            Err(error) => (None, Err(Refused::now(error))),
        };
        let mut seen = self.seen.lock().expect("no holder of this lock panics");
        let (judged, refused) = match told {
            Ok(()) => (stamp, None),
            Err(Refused::File(why)) => (stamp, Some(why)),
            Err(Refused::Now(why)) => (None, Some(why)),
        };
        if let Some(why) = refused.as_ref().filter(|why| seen.refused.as_ref() != Some(*why)) {
            let file = self.parts.file.display();
            tracing::warn!(%file, why, "rules do not hold; those before go on");
        }
        *seen = Seen { judged, glimpsed: stamp, refused };
    }

    /// Destinations that could not begin may by now: a secret was written, say.
    async fn begin_what_could_not(&self) {
        let lacks = self.running.lock().await.destinations.values().any(|it| it.to.is_err());
        if lacks && let Err(error) = self.apply().await {
            tracing::warn!(%error, "destinations begin later");
        }
    }

    /// Has `text` hold from now on, if it can.
    async fn activate(&self, text: &str) -> Result<(), Refused> {
        let rules = Rules::parse(text).map_err(|error| Refused::File(error.to_string()))?;
        if let Some(folder) = rules.shared_folder(&self.base().map_err(Refused::now)?) {
            let what = format!("two destinations have the folder {}", folder.display());
            return Err(Refused::File(what));
        }
        for (name, spec) in &rules.destinations {
            let told = match spec {
                DestinationSpec::Topic { topic, partitions } => {
                    let made = stage::topic(&*self.parts.log, topic, *partitions).await;
                    made.map(drop).map_err(|error| error.to_string())
                }
                spec => self.destination(name, spec).map(drop),
            };
            told.map_err(|why| Refused::Now(format!("destination {name}: {why}")))?;
        }
        let needed = self.needed().await.map_err(Refused::now)?;
        let needed = |at: PartitionId| needed.get(&at).copied().unwrap_or(Offset::ZERO);
        let activated = self.routes.activate(text, clock::now(), needed).await;
        match activated.map_err(Refused::now)? {
            Activated::Unchanged => Ok(()),
            Activated::Version(version) => {
                let file = self.parts.file.display();
                let rules = rules.rule_count();
                tracing::info!(%file, version, rules, "rules hold from now on");
                self.apply().await.map_err(Refused::now)
            }
        }
    }

    /// How far each partition was routed by all who route it.
    async fn needed(&self) -> Result<BTreeMap<PartitionId, Offset>, GroupError> {
        let mut needed = BTreeMap::new();
        let groups = self.parts.groups.list().await?;
        let history = self.routes.history().await;
        let is_there = |name: &GroupName| groups.iter().any(|it| it.group == name.as_str());
        if !history.versions().flat_map(readers).all(|name| is_there(&name)) {
            // Somebody who has not begun yet needs all of them.
            return Ok(needed);
        }
        for group in groups {
            let routes = group.group.starts_with("to.")
                || [stage::NAME, stage::NAME_HIGH].contains(&&*group.group);
            if !routes || !group.topics.iter().any(|topic| topic == self.parts.source.name()) {
                continue;
            }
            let name = GroupName::new(&group.group).expect("a group's name is one");
            for at in self.parts.groups.describe(&name).await?.partitions {
                if at.topic == self.parts.source.name() {
                    let next = Offset(at.committed.unwrap_or(0));
                    let partition = self.parts.source.partition(at.partition);
                    let least = needed.entry(partition).or_insert(next);
                    *least = next.min(*least);
                }
            }
        }
        Ok(needed)
    }

    /// Where names of files in the file begin.
    fn base(&self) -> io::Result<PathBuf> {
        let file = std::path::absolute(&self.parts.file)?;
        Ok(file.parent().map_or_else(PathBuf::new, Path::to_owned))
    }

    /// Begins and ends lanes and destinations so that they are those of the rules.
    async fn apply(&self) -> Result<(), StagesError> {
        let history = self.routes.history().await;
        let mut running = self.running.lock().await;
        if running.phase != Phase::Running {
            return Ok(());
        }
        let applied = self.apply_to(&mut running, &history).await;
        *self.shown.lock().expect("no holder of this lock panics") = Shown::of(&running);
        applied
    }

    async fn apply_to(&self, running: &mut Running, history: &History) -> Result<(), StagesError> {
        for lane in LANES {
            if let Some(start) = history.first(&self.parts.source, |it| it.serves_topics(lane))
                && !running.lanes.contains_key(&lane)
            {
                let (log, routes) = (Arc::clone(&self.parts.log), Arc::clone(&self.routes));
                let stage = Arc::new(RouteStage::new(log, routes, lane));
                let runner = self.run(stage, lane, start)?;
                running.lanes.insert(lane, runner);
            }
        }
        let wanted = history.newest().map(|newest| &newest.rules().destinations);
        let gone: Vec<_> = running
            .destinations
            .iter()
            .filter(|(name, started)| {
                let spec = wanted.and_then(|wanted| wanted.get(*name));
                spec != Some(&started.spec) || started.to.is_err()
            })
            .map(|(name, _)| name.clone())
            .collect();
        let mut told = BTreeMap::new();
        for name in gone {
            let started = running.destinations.remove(&name).expect("it was found there");
            Runner::end_all(started.lanes.into_values().collect()).await;
            if let Err(why) = started.to {
                told.insert(name, why);
            }
        }
        for (name, spec) in wanted.into_iter().flatten() {
            if !is_topic(spec) {
                let told = told.get(name);
                self.start_destination(history, running, name, spec, told)?;
            }
        }
        Ok(())
    }

    /// The topic whose events are routed.
    pub(crate) const fn source(&self) -> &Topic {
        &self.parts.source
    }

    /// Where the event `record` at a place of the source goes, by the rules that held when it was
    /// stored; `None` where none did, or it cannot be told any more.
    pub(crate) async fn ways(
        &self,
        at: PartitionId,
        offset: Offset,
        record: Record<'_>,
    ) -> Option<Vec<Way>> {
        let history = self.routes.history().await;
        let version = history.at(at, offset)?;
        let mut ways = Vec::new();
        version.table.each(&EventView::of(record)?, |name, taken| {
            let Some(spec) = version.rules().destinations.get(name) else { return };
            let (topic, group) = match (spec, taken.lane()) {
                (DestinationSpec::Topic { topic, .. }, lane) => {
                    let name = if lane == Lane::High { stage::NAME_HIGH } else { stage::NAME };
                    (Some(topic.clone()), GroupName::new(name).expect("our own names are good"))
                }
                (_, lane) => (None, destination::group(name, lane)),
            };
            ways.push(Way { name: name.clone(), kind: spec.kind(), topic, group });
        });
        Some(ways)
    }

    /// The lane of topics that has this name.
    pub(super) fn lane(&self, name: &str) -> Option<Arc<dyn Stage>> {
        let of_lane =
            |lane| RouteStage::new(Arc::clone(&self.parts.log), Arc::clone(&self.routes), lane);
        let stage = LANES.map(of_lane).into_iter().find(|stage| stage.name() == name)?;
        Some(Arc::new(stage))
    }

    fn start_destination(
        &self,
        history: &History,
        running: &mut Running,
        name: &DestinationName,
        spec: &DestinationSpec,
        told: Option<&String>,
    ) -> Result<(), StagesError> {
        let started = running.destinations.entry(name.clone()).or_insert_with(|| {
            let to = self.destination(name, spec).map(|to| self.delivering(name, to));
            if let Some(why) = to.as_ref().err().filter(|why| Some(*why) != told) {
                tracing::warn!(destination = %name, why, "cannot begin; its events wait");
            }
            Started { spec: spec.clone(), to, lanes: BTreeMap::new() }
        });
        let Ok(to) = &started.to else { return Ok(()) };
        for lane in LANES {
            if started.lanes.contains_key(&lane) {
                continue;
            }
            let hands_over = |version: &Version| version.hands_over(name, lane);
            if let Some(start) = history.first(&self.parts.source, hands_over) {
                let stage = Arc::new(DeliverStage::new(Arc::clone(to), lane));
                started.lanes.insert(lane, self.run(stage, lane, start)?);
            }
        }
        Ok(())
    }

    fn delivering(
        &self,
        name: &DestinationName,
        to: Arc<dyn Destination>,
    ) -> Arc<Delivering<dyn Log>> {
        let (routes, undelivered) = (Arc::clone(&self.routes), self.parts.undelivered.clone());
        let time = Arc::new(NodeTime);
        let hold = self.hold(name);
        Arc::new(Delivering::new(name.clone(), to, routes, undelivered, time, hold))
    }

    fn hold(&self, name: &DestinationName) -> Arc<Hold> {
        let mut holds = self.holds.lock().expect("no holder of this lock panics");
        let new = || Arc::new(Hold::new(self.routes.is_paused(name)));
        Arc::clone(holds.entry(name.clone()).or_insert_with(new))
    }

    /// Whoever takes what is sent to `name`. Topics are the lanes' own.
    fn destination(
        &self,
        name: &DestinationName,
        spec: &DestinationSpec,
    ) -> Result<Arc<dyn Destination>, String> {
        let base = self.base().map_err(|error| error.to_string())?;
        let time: Arc<dyn Time> = Arc::new(NodeTime);
        Ok(match spec {
            DestinationSpec::Webhook(spec) => {
                let secret = |file: &PathBuf| {
                    let secret = read_key_file(&base.join(file)).map_err(|it| it.to_string())?;
                    WebhookKey::new(&secret).map_err(|it| format!("{}: {it}", file.display()))
                };
                let key = spec.secret_file.as_ref().map(secret).transpose()?;
                let client = || Arc::new(HttpOutbound::new()) as Arc<dyn Outbound>;
                let outbound = Arc::clone(self.outbound.get_or_init(client));
                let spec = spec.as_ref().clone();
                Arc::new(Webhook::new(name.clone(), spec, key, outbound, time))
            }
            DestinationSpec::File(spec) => {
                let mut spec = spec.clone();
                spec.folder = base.join(spec.folder);
                Arc::new(Files::new(spec, &self.parts.source))
            }
            other => return Err(format!("this node hands nothing to a {}", other.kind())),
        })
    }

    fn run(
        &self,
        stage: Arc<dyn Stage>,
        lane: Lane,
        start: BTreeMap<PartitionId, Offset>,
    ) -> Result<Runner, StagesError> {
        let shared = PartitionLoop {
            log: Arc::clone(&self.parts.log),
            epoch: self.parts.epoch,
            stage,
            source: self.parts.source.clone(),
            rejected: self.parts.rejected.clone(),
            delivery: Delivery::OneCommit,
            time: Arc::new(NodeTime),
            counters: Arc::default(),
        };
        let (threads, groups) = (self.threads(lane)?, &self.parts.groups);
        Ok(Runner::begin(&threads, groups, Arc::new(shared), Start::At(start)))
    }

    fn threads(&self, lane: Lane) -> io::Result<Handle> {
        if lane == Lane::Normal {
            return Ok(self.parts.threads.clone());
        }
        if let Some(threads) = self.threads_high.get() {
            return Ok(threads.handle());
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("tracklog-high")
            .enable_all()
            .build()?;
        // Two at once: the runtime that is too much ends as it is dropped.
        Ok(self.threads_high.get_or_init(|| Threads::new(runtime)).handle())
    }

    /// Ends lanes and destinations between two commits, for good.
    pub(super) async fn stop(&self) {
        self.end(Phase::Over).await;
    }

    /// Ends lanes and destinations between two commits, until [`go_on`](Self::go_on).
    pub(super) async fn stand_still(&self) {
        self.end(Phase::Paused).await;
    }

    /// Lets them go on where they were.
    pub(super) async fn go_on(&self) {
        let mut running = self.running.lock().await;
        if running.phase == Phase::Paused {
            running.phase = Phase::Running;
        }
        drop(running);
        if let Err(error) = self.apply().await {
            tracing::warn!(%error, "destinations begin later");
        }
    }

    async fn end(&self, phase: Phase) {
        let mut running = self.running.lock().await;
        running.phase = phase;
        let mut lanes = std::mem::take(&mut running.lanes).into_values().collect::<Vec<_>>();
        for started in running.destinations.values_mut() {
            lanes.extend(std::mem::take(&mut started.lanes).into_values());
        }
        let retries = std::mem::take(&mut running.retries);
        for retrying in retries.values() {
            retrying.stop.send_replace(true);
        }
        Runner::end_all(lanes).await;
        for (destination, Retrying { task, .. }) in retries {
            if let Err(error) = task.await {
                tracing::warn!(%error, %destination, "a retry did not end by itself");
            }
        }
    }

    /// What routes events now.
    pub(crate) async fn status(&self) -> RoutesStatus {
        let history = self.routes.history().await;
        let newest = history.newest();
        let refused = self.seen.lock().expect("no holder of this lock panics").refused.clone();
        RoutesStatus {
            file: self.parts.file.display().to_string(),
            from: self.parts.source.name().to_owned(),
            version: newest.map(|version| version.number),
            since: newest.map(|version| format_time(version.at)),
            rules: newest.map_or(0, |version| version.rules().rule_count()),
            refused,
        }
    }

    /// Which events are routed.
    pub(crate) fn from(&self) -> RouteFrom {
        match self.parts.source.name() {
            "raw" => RouteFrom::Raw,
            _ => RouteFrom::Enriched,
        }
    }

    /// The text of the rules that hold; empty where none do.
    pub(crate) async fn text(&self) -> String {
        self.routes.history().await.newest().map_or_else(String::new, |it| it.text.clone())
    }

    /// All destinations of the rules that hold.
    pub(crate) async fn destinations(&self) -> Result<Vec<DestinationStatus>, GroupError> {
        let lags = self.parts.groups.lags().await?;
        let lag = |groups: [&str; 2]| {
            lags.iter().filter(|it| groups.contains(&&*it.group)).map(|it| it.records).sum()
        };
        let history = self.routes.history().await;
        let running = self.running.lock().await;
        let wanted = history.newest().map(|newest| &newest.rules().destinations);
        let mut list = Vec::new();
        for (name, spec) in wanted.into_iter().flatten() {
            let groups = LANES.map(|lane| destination::group(name, lane).to_string());
            list.push(match running.destinations.get(name).map(|it| &it.to) {
                Some(Ok(to)) => {
                    let lag = lag([&groups[0], &groups[1]]);
                    let retries = self.retries.lock().expect("no holder of this lock panics");
                    told(name, spec, to, lag, retries.get(name).cloned())
                }
                Some(Err(why)) => {
                    let lag = lag([&groups[0], &groups[1]]);
                    DestinationStatus {
                        why: Some(why.clone()),
                        ..plain(name, spec, "stopped", lag)
                    }
                }
                None => plain(name, spec, "running", lag([stage::NAME, stage::NAME_HIGH])),
            });
        }
        Ok(list)
    }

    async fn find(&self, name: &str) -> Result<Arc<Delivering<dyn Log>>, DestinationError> {
        let not_found = || DestinationError::NotFound(name.to_owned());
        let found = DestinationName::new(name).ok_or_else(not_found)?;
        let history = self.routes.history().await;
        let newest = history.newest().ok_or_else(not_found)?;
        let spec = newest.rules().destinations.get(&found).ok_or_else(not_found)?;
        if is_topic(spec) {
            let why = format!("{name} is a topic: events are appended to it as they are routed");
            return Err(DestinationError::Conflict(why));
        }
        let running = self.running.lock().await;
        let started = running.destinations.get(&found).ok_or_else(not_found)?;
        started.to.clone().map_err(|why| DestinationError::Conflict(format!("{name}: {why}")))
    }

    /// Pauses a destination, or lets it go on, over restarts.
    pub(crate) async fn pause(&self, name: &str, is_paused: bool) -> Result<(), DestinationError> {
        let to = self.find(name).await?;
        let set = self.routes.set_paused(&to.name, is_paused).await;
        set.map_err(|error| DestinationError::Unavailable(error.to_string()))?;
        to.hold.set(is_paused);
        Ok(())
    }

    /// Begins to try again what was set aside; [`destinations`](Self::destinations) tells how it
    /// goes.
    pub(crate) async fn retry(self: &Arc<Self>, name: &str) -> Result<(), DestinationError> {
        let to = self.find(name).await?;
        if to.hold.is_paused() {
            let why = format!("{name} is paused: resume it first");
            return Err(DestinationError::Conflict(why));
        }
        let (log, epoch) = (Arc::clone(&self.parts.log), self.parts.epoch);
        let groups = Arc::clone(&self.parts.groups);
        let retry = Retry { log, epoch, groups, to: Arc::clone(&to) };
        let mut running = self.running.lock().await;
        if running.phase != Phase::Running {
            let why = "destinations stand still while somebody is forgotten: try again when that is \
                       done";
            return Err(DestinationError::Unavailable(why.to_owned()));
        }
        let goes_on = "goes on".to_owned();
        let before = self.tell_retry(&to.name, goes_on.clone());
        if before.as_ref() == Some(&goes_on) {
            return Err(DestinationError::Conflict(format!("a retry of {name} goes on")));
        }
        let (routing, name) = (Arc::downgrade(self), to.name.clone());
        let (stop, mut stopped) = watch::channel(false);
        let task = self.parts.threads.spawn(async move {
            let told_to_stop = async { drop(stopped.wait_for(|stop| *stop).await) };
            let outcome = match retry.run(told_to_stop).await {
                Ok(Retried { delivered, undelivered }) => {
                    format!("{delivered} delivered, {undelivered} set aside again")
                }
                Err(error) => format!("ended early: {error}"),
            };
            tracing::info!(destination = %to.name, outcome, "retried");
            if let Some(routing) = routing.upgrade() {
                routing.tell_retry(&to.name, outcome);
            }
        });
        running.retries.insert(name, Retrying { stop, task });
        Ok(())
    }

    fn tell_retry(&self, name: &DestinationName, told: String) -> Option<String> {
        let mut retries = self.retries.lock().expect("no holder of this lock panics");
        retries.insert(name.clone(), told)
    }

    /// The stages that run, and what they have done.
    pub(super) fn counters(&self) -> Vec<(String, Arc<StageCounters>)> {
        self.shown.lock().expect("no holder of this lock panics").stages.clone()
    }

    /// Appends what destinations have done to metrics.
    pub(super) fn encode(&self, text: &mut String) {
        let is_refused = self.seen.lock().expect("no holder of this lock panics").refused.is_some();
        metrics::gauge(
            text,
            "tracklog_route_file_refused",
            "1 while the file of rules as it lies there does not hold.",
            u64::from(is_refused),
        );
        let all = self.shown.lock().expect("no holder of this lock panics").destinations.clone();
        for (name, help, count) in COUNTERS {
            metrics::declare(text, name, "counter", help);
            for to in &all {
                let count = count(to);
                writeln!(text, "{name}_total{{destination=\"{}\"}} {count}", to.name)
                    .expect("a string takes all text");
            }
        }
        for (name, help, holds) in GAUGES {
            metrics::declare(text, name, "gauge", help);
            for to in &all {
                let value = u8::from(holds(to));
                writeln!(text, "{name}{{destination=\"{}\"}} {value}", to.name)
                    .expect("a string takes all text");
            }
        }
    }
}

type Count = fn(&Delivering<dyn Log>) -> u64;

const COUNTERS: [(&str, &str, Count); 3] = [
    ("tracklog_destination_delivered", "Events that a destination took.", |to| {
        to.counters.delivered.count()
    }),
    ("tracklog_destination_undelivered", "Events that were set aside.", |to| {
        to.counters.undelivered.count()
    }),
    ("tracklog_destination_retried", "Calls that failed and are made again.", |to| {
        to.counters.retried.count()
    }),
];

type Holds = fn(&Delivering<dyn Log>) -> bool;

const GAUGES: [(&str, &str, Holds); 2] = [
    ("tracklog_destination_paused", "1 while an operator holds it.", |to| to.hold.is_paused()),
    ("tracklog_destination_failing", "1 while it does not take events.", |to| {
        to.endpoint.state() != EndpointState::Well
    }),
];

/// The groups that read by a version.
fn readers(version: &Version) -> Vec<GroupName> {
    let mut groups = Vec::new();
    for (lane, name) in [(Lane::High, stage::NAME_HIGH), (Lane::Normal, stage::NAME)] {
        if version.serves_topics(lane) {
            groups.push(GroupName::new(name).expect("our own names are good"));
        }
        let destinations = version.rules().destinations.keys();
        let handed_over = destinations.filter(|name| version.hands_over(name, lane));
        groups.extend(handed_over.map(|name| destination::group(name, lane)));
    }
    groups
}

const fn is_topic(spec: &DestinationSpec) -> bool {
    matches!(spec, DestinationSpec::Topic { .. })
}

fn plain(
    name: &DestinationName,
    spec: &DestinationSpec,
    state: &str,
    lag: u64,
) -> DestinationStatus {
    DestinationStatus {
        destination: name.to_string(),
        r#type: spec.kind().to_owned(),
        state: state.to_owned(),
        why: None,
        since: None,
        lag,
        delivered: None,
        undelivered: None,
        retried: None,
        retry: None,
    }
}

fn told(
    name: &DestinationName,
    spec: &DestinationSpec,
    to: &Delivering<dyn Log>,
    lag: u64,
    retry: Option<String>,
) -> DestinationStatus {
    let (state, why, since) = match to.endpoint.state() {
        _ if to.hold.is_paused() => ("paused", None, None),
        EndpointState::Well => ("running", None, None),
        EndpointState::Failing { since, why, .. } => {
            ("failing", Some(why), Some(format_time(since)))
        }
    };
    DestinationStatus {
        why,
        since,
        delivered: Some(to.counters.delivered.count()),
        undelivered: Some(to.counters.undelivered.count()),
        retried: Some(to.counters.retried.count()),
        retry,
        ..plain(name, spec, state, lag)
    }
}

type Stamp = (SystemTime, u64);

/// What a look at the file found.
enum Look {
    /// It is as it was when it was judged.
    Judged,
    /// It is not as it was at the last look.
    Changing(Stamp),
    /// It has changed, and is still.
    Text(Stamp, String),
}

fn look(file: &Path, judged: Option<Stamp>, glimpsed: Option<Stamp>) -> io::Result<Look> {
    let metadata = fs::metadata(file)?;
    let stamp = (metadata.modified()?, metadata.len());
    if judged == Some(stamp) {
        return Ok(Look::Judged);
    }
    if glimpsed != Some(stamp) {
        return Ok(Look::Changing(stamp));
    }
    if metadata.len() > FILE_BYTES_MAX as u64 {
        return Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(Look::Text(stamp, fs::read_to_string(file)?))
}

#[cfg(test)]
mod tests;
