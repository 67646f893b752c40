//! The stages of a node: groups, state, enrichers, and the threads that they run on.
//!
//! Promises
//! - Stages have threads of their own: one that is slow holds up no request.
//! - A stage that stands still costs the node nothing but its lag.
//! - [`Stages::stop`] ends them between two commits, and writes the state's store.
//! - [`Working::stand_still`] ends them likewise; they go on where they were when they are told to.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::JoinHandle;
use tracklog_log::meta::MetaError;
use tracklog_log::{Epoch, Log, Pending, Topic};
use tracklog_pipeline::enrich::device::{Device, DeviceOptions};
use tracklog_pipeline::enrich::geo::{Edge, Geo, GeoOptions};
use tracklog_pipeline::enrich::identity::Identity;
use tracklog_pipeline::enrich::page::Page;
use tracklog_pipeline::enrich::profile::Profile;
use tracklog_pipeline::enrich::profile::external::ExternalProfile;
use tracklog_pipeline::enrich::session::Session;
use tracklog_pipeline::enrich::stage::{self, EnrichStage};
use tracklog_pipeline::enrich::{self, Enricher};
use tracklog_pipeline::groups::{GroupError, GroupWait, Groups, Start};
use tracklog_pipeline::realtime::Live;
use tracklog_pipeline::route::HistoryError;
use tracklog_pipeline::stage::{Delivery, PartitionLoop, Stage, StageCounters, Time};
use tracklog_pipeline::state::{
    self, DiskStore, DiskStoreOptions, Flusher, State, StateError, StateOptions, StoreError,
};
use tracklog_protocol::TimeMicros;

use super::live::LiveFigures;
use crate::blocking;
use crate::clock;
use crate::config::{ConfigError, EnrichSettings, RouteFrom, RouteSettings, Settings};
use crate::folder::DataFolder;
use crate::profiles;
use crate::quarantine::StageOf;

use super::routing::{Routing, RoutingParts};
use super::runner::Runner;

/// How often geo files are looked at, silent members given up, and what waits is looked at.
const ROUND_EVERY: Duration = Duration::from_secs(2);
/// Beside what is read of the state's store, its own blocks.
const STORE_CACHE_BYTES: u64 = 32 << 20;

/// Why the stages did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StagesError {
    /// The groups can't be read.
    #[error(transparent)]
    Groups(#[from] GroupError),
    /// How thresholds stand can't be read.
    #[error("how thresholds stand can't be read: {0}")]
    Thresholds(#[from] MetaError),
    /// The state can't be read.
    #[error("the state of enrichment: {0}")]
    State(#[from] StateError),
    /// The rules of routing can't be read.
    #[error(transparent)]
    Routes(#[from] HistoryError),
    /// The state's store can't be opened.
    #[error("the state of enrichment: {0}")]
    Store(#[from] StoreError),
    /// A setting can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There are no more threads.
    #[error("threads of stages: {0}")]
    Threads(#[from] io::Error),
}

/// What stages read and write.
pub(super) struct StageTopics {
    pub(super) raw: Topic,
    pub(super) enriched: Topic,
    pub(super) rejected: Topic,
    pub(super) undelivered: Topic,
}

/// The running stages.
pub(super) struct Stages {
    groups: Arc<Groups<dyn Log>>,
    enrich: Option<(Arc<Enriching>, Flusher)>,
    routing: Arc<Routing>,
    working: Arc<Working>,
    live: Option<LiveFigures>,
    /// As they were in the last round.
    waits: Arc<Mutex<Vec<GroupWait>>>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    threads: Threads,
}

/// The stages that make something of events.
pub(super) struct Working {
    enrich: Option<EnrichLoop>,
    routing: Arc<Routing>,
}

/// The stage `enrich` as it is begun, and as it runs.
struct EnrichLoop {
    shared: Arc<PartitionLoop<dyn Log>>,
    groups: Arc<Groups<dyn Log>>,
    threads: Handle,
    runner: AsyncMutex<Option<Runner>>,
}

impl EnrichLoop {
    async fn begin(&self) {
        let (shared, groups) = (Arc::clone(&self.shared), &self.groups);
        let mut runner = self.runner.lock().await;
        runner.get_or_insert_with(|| Runner::begin(&self.threads, groups, shared, Start::Earliest));
    }

    async fn end(&self) {
        let runner = self.runner.lock().await.take();
        Runner::end_all(runner.into_iter().collect()).await;
    }
}

impl Working {
    /// Ends all of them between two commits, until [`go_on`](Self::go_on).
    pub(super) async fn stand_still(&self) {
        if let Some(enrich) = &self.enrich {
            enrich.end().await;
        }
        self.routing.stand_still().await;
    }

    /// Lets them go on where they were.
    pub(super) async fn go_on(&self) {
        if let Some(enrich) = &self.enrich {
            enrich.begin().await;
        }
        self.routing.go_on().await;
    }
}

/// The stages' threads. Dropped anywhere, they end by themselves.
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    pub(super) const fn new(runtime: Runtime) -> Self {
        Self(Some(runtime))
    }

    pub(super) fn handle(&self) -> Handle {
        self.0.as_ref().expect("they are there until they are dropped").handle().clone()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.handle().spawn(task)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The enrichers that are on, in the order in which they need each other.
#[derive(Clone, Default)]
pub(crate) struct Enrichers {
    pub(crate) all: Vec<Arc<dyn Enricher>>,
    /// That among them which asks a store outside.
    external: Option<Arc<ExternalProfile>>,
    /// That among them which asks files.
    geo: Option<Arc<Geo>>,
}

/// The stage `enrich`, its state, and what it has done.
struct Enriching {
    enrichers: Enrichers,
    stage: Arc<EnrichStage<dyn Log>>,
    counters: Arc<StageCounters>,
    state: Arc<State<dyn Log>>,
}

impl Enriching {
    /// Opens the state, and puts the enrichers that are on into a stage that writes `enriched`.
    async fn open(
        settings: &EnrichSettings,
        geo: Option<Arc<Geo>>,
        folder: &DataFolder,
        log: Arc<dyn Log>,
        enriched: Topic,
    ) -> Result<Self, StagesError> {
        let state = Arc::new(open_state(settings, folder, log).await?);
        let enrichers = enrichers(settings, geo)?;
        let failed_lookup = settings.failed_lookup;
        let (all, state_too) = (enrichers.all.clone(), Arc::clone(&state));
        let stage = EnrichStage::new(all, state_too, enriched, failed_lookup, clock::nanos);
        Ok(Self { enrichers, stage: Arc::new(stage), counters: Arc::default(), state })
    }

    /// What works on each partition of `raw`.
    fn partition_loop(
        &self,
        log: &Arc<dyn Log>,
        epoch: Epoch,
        topics: &StageTopics,
    ) -> PartitionLoop<dyn Log> {
        PartitionLoop {
            log: Arc::clone(log),
            epoch,
            stage: Arc::clone(&self.stage) as Arc<dyn Stage>,
            source: topics.raw.clone(),
            rejected: topics.rejected.clone(),
            delivery: Delivery::OneCommit,
            time: Arc::new(NodeTime),
            counters: Arc::clone(&self.counters),
        }
    }
}

impl Stages {
    /// Begins where the stages' groups have come to.
    pub(super) async fn start(
        settings: &Settings,
        folder: &DataFolder,
        log: Arc<dyn Log>,
        epoch: Epoch,
        topics: StageTopics,
    ) -> Result<Self, StagesError> {
        let groups = Groups::open(Arc::clone(&log), epoch, Arc::new(clock::now)).await?;
        let threads = Threads::new(runtime(&settings.enrich)?);
        let (stop, waits) = (watch::channel(false).0, Arc::default());
        let parts =
            routing_parts(settings, folder, &log, epoch, &groups, &topics, threads.handle());
        let routing = Routing::start(parts).await?;
        let geo = geo(settings)?.map(Arc::new);
        if let Some(geo) = geo.clone() {
            look_at_files(geo).await;
        }
        let (mut enrich, mut enrich_loop) = (None, None);
        if settings.enrich.enabled {
            let (geo, log_too, enriched) = (geo.clone(), Arc::clone(&log), topics.enriched.clone());
            let opening = Enriching::open(&settings.enrich, geo, folder, log_too, enriched);
            let enriching = Arc::new(opening.await?);
            let flusher = enriching.state.spawn_flusher()?;
            enrich_loop = Some(EnrichLoop {
                shared: Arc::new(enriching.partition_loop(&log, epoch, &topics)),
                groups: Arc::clone(&groups),
                threads: threads.handle(),
                runner: AsyncMutex::default(),
            });
            enrich = Some((enriching, flusher));
        }
        let working = Arc::new(Working { enrich: enrich_loop, routing: Arc::clone(&routing) });
        let (live, tasks) = (None, Vec::new());
        let mut stages =
            Self { groups, enrich, routing, working, live, waits, stop, tasks, threads };
        if settings.live.enabled {
            let last = if settings.enrich.enabled { &topics.enriched } else { &topics.raw };
            let live = LiveFigures::open(&settings.live, &log, epoch, last.clone()).await?;
            stages.start_live(live);
        }
        if let Some(enrich) = &stages.working.enrich {
            enrich.begin().await;
        }
        stages.start_rounds(geo);
        Ok(stages)
    }

    /// Live figures, of what comes last.
    fn start_live(&mut self, live: LiveFigures) {
        let tasks = live.tasks(&self.stop).into_iter();
        self.tasks.extend(tasks.map(|task| self.threads.spawn(task)));
        self.live = Some(live);
    }

    /// What is to be done now and then.
    fn start_rounds(&mut self, geo: Option<Arc<Geo>>) {
        let (groups, waits) = (Arc::clone(&self.groups), Arc::clone(&self.waits));
        let routing = Arc::clone(&self.routing);
        let mut stopped = self.stop.subscribe();
        self.tasks.push(self.threads.spawn(async move {
            let mut rounds = tokio::time::interval(ROUND_EVERY);
            loop {
                tokio::select! {
                    _ = stopped.changed() => return,
                    _ = rounds.tick() => {}
                }
                if let Some(geo) = geo.clone() {
                    look_at_files(geo).await;
                }
                routing.look_at_file().await;
                if let Err(error) = groups.expire().await {
                    tracing::debug!(%error, "silent members are given up later");
                }
                match groups.waits().await {
                    Ok(now) => *waits.lock().expect("no holder of this lock panics") = now,
                    Err(error) => tracing::debug!(%error, "what waits is looked at later"),
                }
            }
        }));
    }

    /// All groups of the node.
    pub(super) fn groups(&self) -> Arc<Groups<dyn Log>> {
        Arc::clone(&self.groups)
    }

    /// The enrichers and their state; nothing where the stage is off.
    pub(super) fn enrichment(&self) -> Option<(Enrichers, Arc<State<dyn Log>>)> {
        let (enriching, _) = self.enrich.as_ref()?;
        Some((enriching.enrichers.clone(), Arc::clone(&enriching.state)))
    }

    /// Finds a stage that can work on a record once more, by its name. Destinations can't: they hand
    /// over what is set aside for them.
    pub(super) fn stage_of(&self) -> StageOf {
        let enrich = self.enrich.as_ref().map(|(enriching, _)| Arc::clone(&enriching.stage));
        let routing = self.routing();
        Box::new(move |name| match &enrich {
            Some(enrich) if name == stage::NAME => Some(Arc::clone(enrich) as Arc<dyn Stage>),
            _ => routing.lane(name),
        })
    }

    /// Where events go from there.
    pub(super) fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.routing)
    }

    /// Those that make something of events.
    pub(super) fn working(&self) -> Arc<Working> {
        Arc::clone(&self.working)
    }

    /// The node's live figures.
    pub(super) fn live(&self) -> Option<Arc<Live<dyn Log>>> {
        self.live.as_ref().map(LiveFigures::live)
    }

    /// The threads that stages run on.
    pub(super) fn threads(&self) -> Handle {
        self.threads.0.as_ref().expect("they are there until they are dropped").handle().clone()
    }

    /// Where metrics come from.
    pub(super) fn metrics(&self) -> StageMetrics {
        let enriching = self.enrich.as_ref().map(|(enriching, _)| Arc::clone(enriching));
        let (groups, waits) = (Arc::clone(&self.groups), Arc::clone(&self.waits));
        StageMetrics { groups, waits, enriching, routing: self.routing(), live: self.live.clone() }
    }

    /// Ends the stages between two commits, and writes what the state's store lacks.
    pub(super) async fn stop(self) {
        self.stop.send_replace(true);
        self.routing.stop().await;
        if let Some(enrich) = &self.working.enrich {
            enrich.end().await;
        }
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::warn!(%error, "a stage did not end by itself");
            }
        }
        let enrich = self.enrich;
        let ending = tokio::task::spawn_blocking(move || {
            let Some((enriching, flusher)) = enrich else { return };
            drop(flusher);
            if let Err(error) = enriching.state.flush_all() {
                tracing::warn!(%error, "state is read from its changelog again");
            }
        });
        if ending.await.is_err() {
            tracing::warn!("the state's store was left as it was; its changelog has the rest");
        }
    }
}

/// What stages tell to metrics.
pub(crate) struct StageMetrics {
    groups: Arc<Groups<dyn Log>>,
    waits: Arc<Mutex<Vec<GroupWait>>>,
    enriching: Option<Arc<Enriching>>,
    routing: Arc<Routing>,
    live: Option<LiveFigures>,
}

impl StageMetrics {
    /// Appends them to `text`.
    pub(crate) async fn encode(&self, text: &mut String) {
        match self.groups.lags().await {
            Ok(lags) => crate::metrics::encode_lags(&lags, text),
            Err(error) => tracing::warn!(%error, "metrics do not have the lags of groups"),
        }
        let waits = self.waits.lock().expect("no holder of this lock panics").clone();
        crate::metrics::encode_waits(&waits, text);
        let mut stages = self.routing.counters();
        stages.extend(
            self.enriching.as_ref().map(|it| (stage::NAME.to_owned(), Arc::clone(&it.counters))),
        );
        crate::metrics::encode_stages(&stages, text);
        self.routing.encode(text);
        if let Some(Enriching { stage, state, enrichers, .. }) = self.enriching.as_deref() {
            crate::metrics::encode_enrichers(stage.enrichers(), text);
            crate::metrics::encode_enrich_state(&state.counts(), text);
            if let Some(external) = &enrichers.external {
                crate::metrics::encode_profile_store(external, text);
            }
            if let Some(geo) = &enrichers.geo {
                crate::metrics::encode_geo_files(&geo.in_use(), text);
            }
        }
        if let Some(live) = &self.live {
            live.encode(text);
        }
    }
}

fn routing_parts(
    settings: &Settings,
    folder: &DataFolder,
    log: &Arc<dyn Log>,
    epoch: Epoch,
    groups: &Arc<Groups<dyn Log>>,
    topics: &StageTopics,
    threads: Handle,
) -> RoutingParts {
    let RouteSettings { file, from } = settings.route.clone();
    let source = match from {
        RouteFrom::Enriched => &topics.enriched,
        RouteFrom::Raw => &topics.raw,
    };
    let file = file.unwrap_or_else(|| folder.file("routes.toml"));
    RoutingParts {
        log: Arc::clone(log),
        epoch,
        groups: Arc::clone(groups),
        source: source.clone(),
        rejected: topics.rejected.clone(),
        undelivered: topics.undelivered.clone(),
        file,
        threads,
    }
}

fn runtime(settings: &EnrichSettings) -> io::Result<Runtime> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    Builder::new_multi_thread()
        .worker_threads(settings.threads.unwrap_or_else(cores).max(1))
        .thread_name("tracklog-stage")
        .enable_all()
        .build()
}

async fn open_state(
    settings: &EnrichSettings,
    folder: &DataFolder,
    log: Arc<dyn Log>,
) -> Result<State<dyn Log>, StagesError> {
    let changelog = state::changelog(&*log).await?;
    let partition = changelog.partition(0);
    let end = log.extent(partition).map_or_else(Default::default, |extent| extent.end);
    let options = DiskStoreOptions {
        cache_bytes: STORE_CACHE_BYTES,
        changelog: partition,
        created: changelog.created,
        changelog_end: end,
    };
    let place = folder.file("state").join("enrich");
    let store = blocking::run(move || DiskStore::open(&place, options)).await?;
    let options = StateOptions::within(settings.profile.memory_bytes());
    Ok(State::open(log, store, options).await?)
}

/// The enrichers that `settings` ask for.
pub(crate) fn enrichers(
    settings: &EnrichSettings,
    geo: Option<Arc<Geo>>,
) -> Result<Enrichers, ConfigError> {
    let mut enrichers: Vec<Arc<dyn Enricher>> = Vec::new();
    if settings.device.enabled {
        enrichers.push(Arc::new(Device::new(DeviceOptions::default())));
    }
    if let Some(geo) = geo.clone() {
        enrichers.push(geo);
    }
    if settings.page.enabled {
        enrichers.push(Arc::new(Page));
    }
    if settings.identity.enabled {
        enrichers.push(Arc::new(Identity));
    }
    let mut external = None;
    if settings.profile.enabled {
        external = external_profile(settings)?;
        enrichers.push(match &external {
            Some(external) => Arc::clone(external) as Arc<dyn Enricher>,
            None => Arc::new(Profile),
        });
    }
    if settings.session.enabled {
        enrichers.push(Arc::new(Session::new(settings.session.inactivity())));
    }
    Ok(Enrichers { all: enrichers, external, geo })
}

/// Refuses settings that no stage can begin with, before anything is made.
pub(super) fn check(settings: &Settings) -> Result<(), ConfigError> {
    if settings.enrich.enabled && settings.enrich.profile.enabled {
        external_profile(&settings.enrich)?;
    }
    geo(settings).map(drop)
}

/// The enricher that asks a store outside, where one is named.
fn external_profile(
    settings: &EnrichSettings,
) -> Result<Option<Arc<ExternalProfile>>, ConfigError> {
    let options = settings.profile.external_options(settings.identity.enabled);
    let of_store =
        |store| Arc::new(ExternalProfile::new(store, options, Arc::new(NodeTime), clock::nanos));
    Ok(profiles::client(&settings.profile)?.map(of_store))
}

pub(crate) fn geo(settings: &Settings) -> Result<Option<Geo>, ConfigError> {
    let of_geo = &settings.enrich.geo;
    if !of_geo.enabled || !settings.enrich.enabled {
        return Ok(None);
    }
    let wrong = |what: String| ConfigError { place: "[enrich.geo]".to_owned(), what };
    let edge = |name: &String| {
        Edge::from_name(name).ok_or_else(|| wrong(format!("{name:?} is no edge that is known")))
    };
    let options = GeoOptions {
        files: of_geo.databases.clone(),
        stated_addresses: of_geo.stated_addresses,
        edge: of_geo.edge.as_ref().map(edge).transpose()?,
        trusted: settings.trusted_proxies.clone(),
        ..GeoOptions::default()
    };
    Geo::new(options).map(Some).map_err(|error| wrong(error.to_string()))
}

/// Reads the files of `geo` that have changed.
pub(crate) async fn look_at_files(geo: Arc<Geo>) {
    let reading = tokio::task::spawn_blocking(move || geo.reload_if_changed());
    let Ok(reads) = reading.await else { return };
    for enrich::geo::FileRead { path, outcome } in reads {
        let file = path.display();
        match outcome {
            Ok(name) => tracing::info!(%file, %name, "places are read from this file now"),
            Err(error) => tracing::warn!(%file, %error, "places are not read from this file"),
        }
    }
}

pub(super) struct NodeTime;

impl Time for NodeTime {
    fn now(&self) -> TimeMicros {
        clock::now()
    }

    fn pause(&self, span: Duration) -> Pending<'static, ()> {
        Box::pin(tokio::time::sleep(span))
    }
}
