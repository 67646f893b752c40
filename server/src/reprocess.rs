//! Jobs that run a stage again over a range of `raw`, into another topic.
//!
//! Promises
//! - Each event of the range has its output in the topic once, over kills of the node: a job is a
//!   consumer group of its own, and its offsets are in the commits of its outputs.
//! - A job goes on by itself when the node comes back, until it is done or cancelled.
//! - What it finds out of users, devices and visits changes nothing of what is known.
//! - The events may come from an archive instead, whether `raw` still has them or not.
//!
//! Jobs are kept in the topic [`TOPIC`]; its bytes: `pipeline/FORMAT.md`, section *Reprocesses*.
//! Called by `admin`, for operators.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tracklog_log::meta::{Expect, MetaError, MetaTopic};
use tracklog_log::{
    CatalogError, Epoch, FetchError, Log, Meta as _, Retention, TimeKind, Topic, TopicName,
    TopicNameError, TopicSpec,
};
use tracklog_pipeline::archive::chain::ChainError;
use tracklog_pipeline::archive::store::{Opening, Store};
use tracklog_pipeline::archive::substitute::{Substitute, SubstituteError};
use tracklog_pipeline::enrich::Then;
use tracklog_pipeline::enrich::stage::{self, Again, EnrichStage, FailedLookup, Known};
use tracklog_pipeline::groups::{GroupError, GroupName, GroupNameError, Groups, Start};
use tracklog_pipeline::stage::{Delivery, PartitionLoop, StageCounters, StageRunner, Time};
use tracklog_pipeline::state::{
    self, DiskStore, DiskStoreOptions, State, StateError, StateOptions, StoreError,
};
use tracklog_protocol::{Offset, PartitionId, TimeMicros};

use crate::blocking;
use crate::bound::{Bound, BoundError};
use crate::clock;
use crate::node::stages::Enrichers;
use crate::topics::OWN_TOPICS;

/// Where jobs are kept.
pub const TOPIC: &str = "_reprocesses";

/// What a job's own state takes of memory.
const STATE: StateOptions = StateOptions { table_bytes: 16 << 20, cache_bytes: 32 << 20 };
const STORE_CACHE_BYTES: u64 = 16 << 20;
/// How the folder of a job's own state begins.
const STATE_PREFIX: &str = "reprocess-";
/// How long a job waits that could not begin again with the node.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// A job that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewJob {
    /// Its name: that of the topic it writes to.
    pub into: String,
    /// The stage. There is one: `enrich`.
    pub stage: String,
    /// Where it begins in `raw`: an offset in each partition, or a time of appends.
    pub from: String,
    /// Where it ends, not included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What it knows of users, devices and visits.
    pub state: StateSeen,
    /// The archive that `raw` is read from; nothing: the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
}

/// What a job knows of users, devices and visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StateSeen {
    /// What each event saw when it was enriched the first time.
    Then,
    /// What is known now.
    Now,
}

/// How a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It runs, or would if the node did.
    Running,
    /// All of its range is in the topic.
    Done,
    /// It was cancelled.
    Cancelled,
}

/// A job, as its record says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Job {
    #[serde(flatten)]
    asked: NewJob,
    status: Status,
    /// By partition of `raw`: the first offset, and the first that is not of the range.
    ranges: Vec<(u64, u64)>,
}

/// A job, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobView {
    /// Its name, and that of the topic.
    pub into: String,
    /// The stage.
    pub stage: String,
    /// What it knows.
    pub state: StateSeen,
    /// How it is.
    pub status: Status,
    /// Records of its range that it has worked on.
    pub done: u64,
    /// All of them.
    pub records: u64,
}

/// Why a job is not, or not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReprocessError {
    /// All jobs stand still for a while.
    #[error("jobs stand still while somebody is forgotten: try again when that is done")]
    Paused,
    /// The node has no enrichment.
    #[error("the stage enrich is off in the node's configuration")]
    Off,
    /// There is no such stage.
    #[error("there is no stage {0:?} that can run again: `enrich` can")]
    Stage(String),
    /// The name is none for a topic.
    #[error(transparent)]
    Name(#[from] TopicNameError),
    /// The name is too long for a group.
    #[error(transparent)]
    GroupName(#[from] GroupNameError),
    /// The topic is the node's own.
    #[error("topic {0} belongs to the node itself")]
    Own(TopicName),
    /// The topic is in use.
    #[error("topic {0} has records already: name another")]
    NotEmpty(String),
    /// A job of this name is or was there, and it is another.
    #[error("there is another job {0}: name another topic")]
    Exists(String),
    /// No such job.
    #[error("there is no job {0}")]
    NotFound(String),
    /// A bound means nothing.
    #[error(transparent)]
    Bound(#[from] BoundError),
    /// Events of a partition of `raw` are not all in one of `enriched`.
    #[error("raw and enriched have other numbers of partitions: give the state as of now")]
    Partitions,
    /// An archive has no state.
    #[error(
        "what was known then is told by the log alone: an archive goes with the state as of now"
    )]
    ThenOfArchive,
    /// The archive can't be read, or is of no use.
    #[error(transparent)]
    Archive(#[from] SubstituteError),
    /// The topic can't be made.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Jobs can't be read or written.
    #[error("the topic {TOPIC}: {0}")]
    Ledger(#[from] MetaError),
    /// A record that no program of this version wrote.
    #[error("a job cannot be read: {0}")]
    Record(#[from] serde_json::Error),
    /// Groups can't be used.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// `raw` can't be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The job's own state can't be made.
    #[error(transparent)]
    State(#[from] StateError),
    /// The same.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What jobs work with.
pub(crate) struct Workshop {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) epoch: Epoch,
    pub(crate) groups: Arc<Groups<dyn Log>>,
    /// Enrichers and live state; nothing where the stage is off.
    pub(crate) enrichment: Option<(Enrichers, Arc<State<dyn Log>>)>,
    pub(crate) failed_lookup: FailedLookup,
    pub(crate) raw: Topic,
    pub(crate) enriched: Topic,
    pub(crate) rejected: Topic,
    /// Where a job's own state lies while it runs.
    pub(crate) folder: PathBuf,
    pub(crate) time: Arc<dyn Time>,
    /// The threads of stages.
    pub(crate) threads: Handle,
}

/// All jobs of a node.
pub struct Reprocesses {
    shop: Arc<Workshop>,
    jobs: Arc<MetaTopic<dyn Log>>,
    running: Mutex<Jobs>,
}

/// The jobs that are not done.
#[derive(Default)]
struct Jobs {
    at_work: BTreeMap<String, Running>,
    /// All stand still, and none is begun.
    are_paused: bool,
}

/// A job at work.
struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        self.stop.send_replace(true);
        if self.task.await.is_err() {
            tracing::warn!("a reprocess did not end by itself");
        }
    }
}

impl Reprocesses {
    /// Opens them, and lets those go on that are not done.
    ///
    /// # Errors
    /// [`ReprocessError`] when they can't be read.
    pub(crate) async fn open(shop: Workshop) -> Result<Self, ReprocessError> {
        let name = TopicName::new(TOPIC).expect("our own names are good");
        let jobs = MetaTopic::open(Arc::clone(&shop.log), shop.epoch, name).await?;
        let all = Self { shop: Arc::new(shop), jobs: Arc::new(jobs), running: Mutex::default() };
        all.go_on().await?;
        Ok(all)
    }

    /// Lets those go on that are not done.
    ///
    /// # Errors
    /// [`ReprocessError`] when they can't be read.
    pub(crate) async fn go_on(&self) -> Result<(), ReprocessError> {
        let mut running = self.running.lock().await;
        running.are_paused = false;
        for (name, _) in self.jobs.list(b"") {
            let job = self.job(&String::from_utf8_lossy(&name))?;
            if job.status == Status::Running && !running.at_work.contains_key(&job.asked.into) {
                self.start(&mut running, &job, None);
            }
        }
        Ok(())
    }

    fn job(&self, name: &str) -> Result<Job, ReprocessError> {
        let found = self.jobs.get(name.as_bytes());
        let found = found.ok_or_else(|| ReprocessError::NotFound(name.to_owned()))?;
        Ok(serde_json::from_slice(&found.value)?)
    }

    /// Makes a job and lets it run. Asked again for the same one that still runs, it is that.
    ///
    /// # Errors
    /// [`ReprocessError`].
    pub async fn create(&self, asked: NewJob) -> Result<JobView, ReprocessError> {
        let mut running = self.running.lock().await;
        if self.shop.enrichment.is_none() {
            return Err(ReprocessError::Off);
        }
        if asked.stage != stage::NAME {
            return Err(ReprocessError::Stage(asked.stage));
        }
        if let Ok(job) = self.job(&asked.into) {
            if job.status == Status::Running && job.asked == asked {
                return self.view(&job).await;
            }
            return Err(ReprocessError::Exists(asked.into));
        }
        if running.are_paused {
            return Err(ReprocessError::Paused);
        }
        let topic = self.shop.check_topic(&asked.into)?;
        group_of(&asked.into)?;
        let source = self.shop.source(&asked).await?;
        let ranges = self.shop.ranges(&asked, &*source, clock::now()).await?;
        self.shop.make_topic(topic).await?;
        let job = Job { asked, status: Status::Running, ranges };
        let runner = self.shop.runner(&job, source).await?;
        self.write(&job, Expect::Absent).await?;
        self.start(&mut running, &job, Some(runner));
        drop(running);
        self.view(&job).await
    }

    async fn write(&self, job: &Job, expect: Expect) -> Result<(), ReprocessError> {
        let value = serde_json::to_vec(job).expect("texts and numbers become JSON");
        self.jobs.put(job.asked.into.as_bytes(), Some(&value), expect).await?;
        Ok(())
    }

    /// Lets a job run, by `runner` or by one that is made when it can be.
    fn start(&self, running: &mut Jobs, job: &Job, runner: Option<StageRunner<dyn Log>>) {
        let (stop, mut stopped) = watch::channel(false);
        let (shop, jobs, job) = (Arc::clone(&self.shop), Arc::clone(&self.jobs), job.clone());
        let name = job.asked.into.clone();
        let task = self.shop.threads.spawn(async move {
            let made = match runner {
                None => shop.runner_at_last(&job, &mut stopped).await,
                made => made,
            };
            if let Some(runner) = made
                && runner.run_to_end(stopped).await
                && let Err(error) = finish(&shop, &jobs, job, Status::Done).await
            {
                tracing::warn!(%error, "a reprocess that is done runs again and finds nothing");
            }
        });
        running.at_work.insert(name, Running { stop, task });
    }

    /// Ends a job. What it wrote stays.
    ///
    /// # Errors
    /// [`ReprocessError::NotFound`]; others when it can't be written down.
    pub async fn cancel(&self, name: &str) -> Result<(), ReprocessError> {
        let mut running = self.running.lock().await;
        let job = self.job(name)?;
        if let Some(running) = running.at_work.remove(name) {
            running.stop().await;
        }
        if self.job(name)?.status == Status::Running {
            finish(&self.shop, &self.jobs, job, Status::Cancelled).await?;
        }
        Ok(())
    }

    /// All jobs, by name.
    ///
    /// # Errors
    /// [`ReprocessError`] when they can't be read.
    pub async fn list(&self) -> Result<Vec<JobView>, ReprocessError> {
        let mut views = Vec::new();
        for (name, _) in self.jobs.list(b"") {
            views.push(self.describe(&String::from_utf8_lossy(&name)).await?);
        }
        Ok(views)
    }

    /// One job.
    ///
    /// # Errors
    /// [`ReprocessError::NotFound`]; others when it can't be read.
    pub async fn describe(&self, name: &str) -> Result<JobView, ReprocessError> {
        self.view(&self.job(name)?).await
    }

    async fn view(&self, job: &Job) -> Result<JobView, ReprocessError> {
        let Job { asked, status, ranges } = job;
        let records = ranges.iter().map(|(from, to)| to - from).sum();
        let done = match status {
            Status::Done => records,
            _ => self.shop.done(job).await?,
        };
        let (into, stage, state) = (asked.into.clone(), asked.stage.clone(), asked.state);
        Ok(JobView { into, stage, state, status: *status, done, records })
    }

    /// Ends all of them between two commits, until they [go on](Self::go_on) or the node runs again.
    pub(crate) async fn stand_still(&self) {
        let mut running = self.running.lock().await;
        running.are_paused = true;
        while let Some((_, running)) = running.at_work.pop_first() {
            running.stop().await;
        }
        // A job that goes on makes its state anew.
        let folder = self.shop.folder.clone();
        if let Err(error) = blocking::run(move || remove_states(&folder)).await {
            tracing::warn!(%error, "the state of a reprocess stays");
        }
    }
}

/// Removes the states of all jobs, of those too that a killed node left.
fn remove_states(folder: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(STATE_PREFIX) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Writes down how a job ended. Its group has no members any more and goes.
async fn finish(
    shop: &Workshop,
    jobs: &MetaTopic<dyn Log>,
    mut job: Job,
    status: Status,
) -> Result<(), ReprocessError> {
    job.status = status;
    let value = serde_json::to_vec(&job).expect("texts and numbers become JSON");
    jobs.put(job.asked.into.as_bytes(), Some(&value), Expect::Any).await?;
    if let Err(error) = shop.groups.delete(&group_of(&job.asked.into)?).await {
        tracing::debug!(%error, "the group of a reprocess stays");
    }
    let own = shop.state_folder(&job);
    drop(tokio::task::spawn_blocking(move || std::fs::remove_dir_all(own)).await);
    Ok(())
}

fn group_of(into: &str) -> Result<GroupName, GroupNameError> {
    GroupName::new(&format!("reprocess.{into}"))
}

impl Workshop {
    /// The topic of this name, which may be none of the node's own.
    fn check_topic(&self, name: &str) -> Result<TopicName, ReprocessError> {
        let topic = TopicName::new(name)?;
        if topic.is_internal() || OWN_TOPICS.iter().any(|(own, _)| *own == name) {
            return Err(ReprocessError::Own(topic));
        }
        let has_records = |topic: Topic| {
            let extents = topic.partitions().filter_map(|partition| self.log.extent(partition));
            extents.into_iter().any(|extent| extent.end > Offset::ZERO)
        };
        if self.log.topic(name).is_some_and(has_records) {
            return Err(ReprocessError::NotEmpty(name.to_owned()));
        }
        Ok(topic)
    }

    async fn make_topic(&self, name: TopicName) -> Result<(), ReprocessError> {
        if self.log.topic(name.as_str()).is_none() {
            let partitions = self.enriched.spec.partitions;
            let spec = TopicSpec { name, partitions, retention: Retention::Keep };
            self.log.create_topic(spec).await?;
        }
        Ok(())
    }

    /// Where a job reads `raw`.
    async fn source(&self, asked: &NewJob) -> Result<Arc<dyn Log>, ReprocessError> {
        let Some(url) = &asked.archive else { return Ok(Arc::clone(&self.log)) };
        if asked.state == StateSeen::Then {
            return Err(ReprocessError::ThenOfArchive);
        }
        let store = Store::open(url, Opening::Read);
        let store = store.map_err(|error| SubstituteError::from(ChainError::from(error)))?;
        let (log, raw) = (Arc::clone(&self.log), self.raw.clone());
        Ok(Arc::new(Substitute::open(log, raw, store).await?))
    }

    /// What is meant of each partition of `raw`.
    async fn ranges(
        &self,
        asked: &NewJob,
        source: &dyn Log,
        now: TimeMicros,
    ) -> Result<Vec<(u64, u64)>, ReprocessError> {
        let from = Bound::parse(&asked.from, now)?;
        let to = asked.to.as_deref().map(|to| Bound::parse(to, now)).transpose()?;
        let enriched = self.enriched_until(asked.state).await?;
        let mut ranges = Vec::new();
        for partition in self.raw.partitions() {
            let begin = place(source, partition, from).await?;
            let end = place(source, partition, to.unwrap_or(Bound::Now)).await?;
            let until = enriched
                .as_ref()
                .map_or(end, |until| until.get(&partition.partition).copied().unwrap_or_default());
            let end = end.min(until).max(begin);
            ranges.push((begin.0, end.0));
        }
        Ok(ranges)
    }

    /// With the state of then: how far the first run has come. Events behind it saw none yet.
    async fn enriched_until(
        &self,
        state: StateSeen,
    ) -> Result<Option<BTreeMap<u32, Offset>>, ReprocessError> {
        if state == StateSeen::Now {
            return Ok(None);
        }
        if self.raw.spec.partitions != self.enriched.spec.partitions {
            return Err(ReprocessError::Partitions);
        }
        let group = GroupName::new(stage::NAME).expect("our own names are good");
        let described = self.groups.describe(&group).await?;
        let committed = described.partitions.into_iter().filter(|it| it.topic == self.raw.name());
        let until = committed.map(|it| (it.partition, Offset(it.committed.unwrap_or_default())));
        Ok(Some(until.collect()))
    }

    /// How many records of its range a job has worked on.
    async fn done(&self, job: &Job) -> Result<u64, ReprocessError> {
        let described = match self.groups.describe(&group_of(&job.asked.into)?).await {
            // It has not begun, or is gone.
            Err(GroupError::NotFound { .. }) => return Ok(0),
            described => described?,
        };
        let done = described.partitions.iter().filter_map(|at| {
            let (from, to) = job.ranges.get(usize::try_from(at.partition).ok()?)?;
            Some(at.committed?.clamp(*from, *to) - from)
        });
        Ok(done.sum())
    }

    /// The same as [`runner`](Self::runner), as soon as what it needs is there: an archive may not
    /// answer when a node begins. `None`: it was stopped before.
    async fn runner_at_last(
        &self,
        job: &Job,
        stopped: &mut watch::Receiver<bool>,
    ) -> Option<StageRunner<dyn Log>> {
        loop {
            let made = async { self.runner(job, self.source(&job.asked).await?).await };
            match made.await {
                Ok(runner) => return Some(runner),
                Err(error) => tracing::warn!(job = job.asked.into, %error, "waits"),
            }
            tokio::select! {
                () = self.time.pause(RETRY_PAUSE) => {}
                _ = stopped.wait_for(|stop| *stop) => return None,
            }
        }
    }

    /// What runs a job over the events of `source`.
    async fn runner(
        &self,
        job: &Job,
        source: Arc<dyn Log>,
    ) -> Result<StageRunner<dyn Log>, ReprocessError> {
        let into = &job.asked.into;
        let no_topic = || ReprocessError::NotFound(into.clone());
        let topic = self.log.topic(into).ok_or_else(no_topic)?;
        let (enrichers, live) = self.enrichment.clone().ok_or(ReprocessError::Off)?;
        let group = group_of(into)?;
        let ranges = || self.raw.partitions().zip(&job.ranges);
        let ends = ranges().map(|(partition, (_, to))| (partition, Offset(*to))).collect();
        let begins = ranges().map(|(partition, (from, _))| (partition, Offset(*from))).collect();
        let known = match job.asked.state {
            StateSeen::Now => Known::Now(live),
            StateSeen::Then => Known::Then(self.then(job).await?),
        };
        let run = Again { name: group.to_string(), ends };
        let stage =
            EnrichStage::again(run, enrichers.all, known, topic, self.failed_lookup, clock::nanos);
        let shared = PartitionLoop {
            log: source,
            epoch: self.epoch,
            stage: Arc::new(stage),
            source: self.raw.clone(),
            rejected: self.rejected.clone(),
            delivery: Delivery::OneCommit,
            time: Arc::clone(&self.time),
            counters: Arc::new(StageCounters::default()),
        };
        Ok(StageRunner {
            shared: Arc::new(shared),
            groups: Arc::clone(&self.groups),
            group,
            member: format!("node-{}", std::process::id()),
            start: Start::At(begins),
        })
    }

    fn state_folder(&self, job: &Job) -> PathBuf {
        self.folder.join(format!("{STATE_PREFIX}{}", job.asked.into))
    }

    /// A state of the job's own, at the beginning of the changelog. One that an earlier process
    /// left is of no use: it cannot go back.
    async fn then(&self, job: &Job) -> Result<Then<dyn Log>, ReprocessError> {
        let changelog = state::changelog(&*self.log).await?;
        let partition = changelog.partition(0);
        let end = self.log.extent(partition).map_or(Offset::ZERO, |extent| extent.end);
        let options = DiskStoreOptions {
            cache_bytes: STORE_CACHE_BYTES,
            changelog: partition,
            created: changelog.created,
            changelog_end: end,
        };
        let place = self.state_folder(job);
        let opened = blocking::run(move || {
            match std::fs::remove_dir_all(&place) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError { why: error.to_string() });
                }
                _ => {}
            }
            DiskStore::open(&place, options)
        });
        let store = opened.await?;
        let log = Arc::clone(&self.log);
        let state = State::open_as_of(Arc::clone(&log), store, STATE, Offset::ZERO).await?;
        let sources = self.raw.partitions();
        Ok(Then::new(log, state, self.enriched.clone(), sources))
    }
}

async fn place(
    source: &dyn Log,
    partition: PartitionId,
    bound: Bound,
) -> Result<Offset, ReprocessError> {
    let extent = source.extent(partition).ok_or(FetchError::UnknownPartition { partition })?;
    Ok(match bound {
        Bound::Offset(offset) => offset.clamp(extent.start, extent.end),
        Bound::Now => extent.end,
        Bound::Time(time) => source.offset_at(partition, TimeKind::Append, time).await?,
    })
}

impl fmt::Debug for Reprocesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reprocesses").field("jobs", &self.jobs).finish_non_exhaustive()
    }
}
