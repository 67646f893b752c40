//! Which rules hold for which event: each file that was ever put to work, and from where on.
//!
//! Promises
//! - An event is routed by the rules that held when it was stored, whenever it is routed: lanes and
//!   destinations that lag, crash, or are asked again decide alike. So a change of the rules, at a
//!   lane's head or its tail, neither loses an event nor sends it twice.
//! - A change that returned holds after any crash.
//!
//! A *version* is a file's text with the end offsets that its source had when it came; it holds
//! from there on. Versions are records of the internal topic `_routes`. While one is written no
//! batch is begun: those that were begun lie below the ends that are read then.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::RwLock;
use tracklog_log::meta::{Expect, MetaError, MetaTopic};
use tracklog_log::{Epoch, Log, Meta as _, Topic, TopicName};
use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};

use super::rules::{DestinationName, DestinationSpec, Lane, Rules, RulesError};
use super::table::RouteTable;

/// The topic of versions.
pub const TOPIC: &str = "_routes";
/// What the keys of versions begin with.
const VERSION_KEYS: &str = "version/";
/// So many versions are kept: those that no lane can still need go when a new one comes.
const VERSIONS_MAX: usize = 1_000;

/// Rules that held from some place on.
#[derive(Debug)]
pub struct Version {
    /// Counts up from 1.
    pub number: u64,
    /// When it came.
    pub at: TimeMicros,
    /// The file's text.
    pub text: String,
    /// What that says, compiled.
    pub table: RouteTable,
    /// The first offset of each partition of the source for which it holds.
    from: Vec<Offset>,
}

/// All versions, in order. None: nothing is routed.
#[derive(Clone, Debug, Default)]
pub struct History {
    versions: Vec<Arc<Version>>,
}

/// Why a file was not put to work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ActivateError {
    /// It cannot be used; the rules that held go on.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// It could not be stored; the rules that held go on.
    #[error("rules could not be stored: {0}")]
    Meta(#[from] MetaError),
    /// There were too many changes that some destination has not come past yet.
    #[error(
        "more than {VERSIONS_MAX} changes are still needed by groups that lag or stand still: \
         `tracklog group list` shows them, `tracklog group delete` forgets one"
    )]
    TooMany,
}

/// Why the history was not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// Its topic cannot be read.
    #[error("the topic {TOPIC}: {0}")]
    Meta(#[from] MetaError),
    /// A version was written by another program.
    #[error("version {number} of the rules in {TOPIC} cannot be read: {why}")]
    Version {
        /// Which.
        number: u64,
        /// What is wrong with it.
        why: String,
    },
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activated {
    /// It says what holds already.
    Unchanged,
    /// It holds from now on, as this version.
    Version(u64),
}

#[derive(Serialize, Deserialize)]
struct VersionValue {
    topic: u32,
    from: Vec<u64>,
    at: i64,
    text: String,
}

impl History {
    /// The rules that came last.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<Version>> {
        self.versions.last()
    }

    /// The rules for `offset` of `partition`; `None` where nothing was routed yet.
    #[must_use]
    pub fn at(&self, partition: PartitionId, offset: Offset) -> Option<&Arc<Version>> {
        self.versions.iter().rev().find(|version| version.begins(partition) <= offset)
    }

    /// Where the rules that hold at `offset` of `partition` end to hold, if others came.
    #[must_use]
    pub fn ends(&self, partition: PartitionId, offset: Offset) -> Option<Offset> {
        let begins = self.versions.iter().map(|version| version.begins(partition));
        begins.filter(|begin| *begin > offset).min()
    }

    /// Where `wanted` of the versions begins that is the first: a reader of its events need not
    /// look at any before. `None` when no version is wanted.
    #[must_use]
    pub fn first(
        &self,
        source: &Topic,
        wanted: impl Fn(&Version) -> bool,
    ) -> Option<BTreeMap<PartitionId, Offset>> {
        let version = self.versions.iter().find(|version| wanted(version))?;
        Some(source.partitions().map(|at| (at, version.begins(at))).collect())
    }

    /// All versions that are still needed, in order.
    pub fn versions(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().map(|version| &**version)
    }
}

impl Version {
    /// The first offset of `partition` for which it holds. Partitions that came later are its from
    /// their beginning on.
    #[must_use]
    pub fn begins(&self, partition: PartitionId) -> Offset {
        let index = usize::try_from(partition.partition).expect("a topic has few partitions");
        self.from.get(index).copied().unwrap_or(Offset::ZERO)
    }

    /// What its file says.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        self.table.rules()
    }

    /// Whether it has events handed over to `destination` on `lane`: one that is no topic in it.
    #[must_use]
    pub fn hands_over(&self, destination: &DestinationName, lane: Lane) -> bool {
        self.is_handed_to(destination) && self.table.serves(destination, lane)
    }

    /// Whether `destination` is one of it, and no topic.
    #[must_use]
    pub fn is_handed_to(&self, destination: &DestinationName) -> bool {
        let spec = self.rules().destinations.get(destination);
        spec.is_some_and(|spec| !matches!(spec, DestinationSpec::Topic { .. }))
    }

    /// Whether it sends events to topics on `lane`.
    #[must_use]
    pub fn serves_topics(&self, lane: Lane) -> bool {
        let destinations = self.rules().destinations.iter();
        let mut topics =
            destinations.filter(|(_, spec)| matches!(spec, DestinationSpec::Topic { .. }));
        topics.any(|(name, _)| self.table.serves(name, lane))
    }

    fn new(number: u64, value: VersionValue) -> Result<Self, RulesError> {
        let VersionValue { topic: _, from, at, text } = value;
        let rules = Rules::parse(&text)?;
        let from = from.into_iter().map(Offset).collect();
        Ok(Self { number, at: TimeMicros(at), text, table: RouteTable::new(rules), from })
    }

    fn encode(&self, source: TopicId) -> Vec<u8> {
        let from = self.from.iter().map(|offset| offset.0).collect();
        let value = VersionValue { topic: source.0, from, at: self.at.0, text: self.text.clone() };
        serde_json::to_vec(&value).expect("texts and numbers become JSON")
    }
}

/// The rules of a node.
pub struct Routes<L: ?Sized> {
    log: Arc<L>,
    meta: MetaTopic<L>,
    source: Topic,
    history: RwLock<Arc<History>>,
}

impl<L: Log + ?Sized> Routes<L> {
    /// Reads the history of the rules for events of `source`, for the writer that holds `epoch`.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn open(log: Arc<L>, epoch: Epoch, source: Topic) -> Result<Self, HistoryError> {
        let name = TopicName::new(TOPIC).expect("our own names are good");
        let meta = MetaTopic::open(Arc::clone(&log), epoch, name).await?;
        let history = RwLock::new(Arc::new(read(&meta, &source)?));
        Ok(Self { log, meta, source, history })
    }

    /// What is routed.
    #[must_use]
    pub const fn source(&self) -> &Topic {
        &self.source
    }

    /// The history. Waits while a version is being written: whoever asks once his records were
    /// fetched holds all versions that can be about them.
    pub async fn history(&self) -> Arc<History> {
        Arc::clone(&*self.history.read().await)
    }

    /// Has the rules of the file `text` hold for all that is stored from now on. `needed` says
    /// from where on a partition has still to be routed by somebody.
    ///
    /// # Errors
    /// [`ActivateError`]; then nothing has changed, but after [`ActivateError::Meta`] the file may
    /// hold once the history is opened again.
    pub async fn activate(
        &self,
        text: &str,
        now: TimeMicros,
        needed: impl Fn(PartitionId) -> Offset + Send,
    ) -> Result<Activated, ActivateError> {
        let mut held = self.history.write().await;
        if held.newest().is_some_and(|newest| newest.text == text) {
            return Ok(Activated::Unchanged);
        }
        let number = self.number_of_last() + 1;
        let ends = self.source.partitions().map(|at| self.log.extent(at));
        let ends = ends.map(|it| it.map_or(0, |extent| extent.end.0)).collect();
        let text = text.to_owned();
        let value = VersionValue { topic: self.source.id.0, from: ends, at: now.0, text };
        let version = Version::new(number, value)?;
        let mut history = History::clone(&held);
        history.versions.push(Arc::new(version));
        let forgotten = self.not_needed(&history, needed);
        if history.versions.len() - forgotten > VERSIONS_MAX {
            return Err(ActivateError::TooMany);
        }
        let newest = history.newest().expect("it was pushed");
        let value = newest.encode(self.source.id);
        self.meta.put(&key(number), Some(&value), Expect::Absent).await?;
        // From here on it holds. What is not needed goes after that, or with the next change.
        for version in history.versions.drain(..forgotten) {
            if let Err(error) = self.meta.put(&key(version.number), None, Expect::Any).await {
                tracing::debug!(%error, version = version.number, "is forgotten later");
            }
        }
        *held = Arc::new(history);
        Ok(Activated::Version(number))
    }

    /// The number of the version that came last, whatever its source.
    fn number_of_last(&self) -> u64 {
        let versions = self.meta.list(VERSION_KEYS.as_bytes());
        versions.last().and_then(|(key, _)| number(key)).unwrap_or_default()
    }

    /// Whether `destination` is paused.
    #[must_use]
    pub fn is_paused(&self, destination: &DestinationName) -> bool {
        self.meta.get(&paused_key(destination)).is_some()
    }

    /// Has `destination` paused, or not, over restarts.
    ///
    /// # Errors
    /// [`MetaError`]; then nothing has changed.
    pub async fn set_paused(
        &self,
        destination: &DestinationName,
        is_paused: bool,
    ) -> Result<(), MetaError> {
        let value = is_paused.then_some(&b"true"[..]);
        if is_paused != self.is_paused(destination) {
            self.meta.put(&paused_key(destination), value, Expect::Any).await?;
        }
        Ok(())
    }

    /// How many of the oldest versions are about nothing any more: all partitions are past the
    /// beginning of the next.
    fn not_needed(&self, history: &History, needed: impl Fn(PartitionId) -> Offset) -> usize {
        let is_past =
            |next: &Version| self.source.partitions().all(|at| next.begins(at) <= needed(at));
        let next = history.versions.iter().skip(1);
        next.take_while(|next| is_past(next)).count()
    }
}

fn key(number: u64) -> Vec<u8> {
    format!("{VERSION_KEYS}{number:020}").into_bytes()
}

/// The number in a version's key.
fn number(key: &[u8]) -> Option<u64> {
    let number = key.strip_prefix(VERSION_KEYS.as_bytes())?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

fn paused_key(destination: &DestinationName) -> Vec<u8> {
    format!("paused/{destination}").into_bytes()
}

/// The versions for `source`. Those for another topic, or for one of its name that was deleted, are
/// about nothing here.
fn read<L: Log + ?Sized>(meta: &MetaTopic<L>, source: &Topic) -> Result<History, HistoryError> {
    let mut versions = Vec::new();
    for (key, found) in meta.list(VERSION_KEYS.as_bytes()) {
        let number = number(&key).unwrap_or_default();
        let wrong = |why: String| HistoryError::Version { number, why };
        let value = serde_json::from_slice(&found.value);
        let value: VersionValue = value.map_err(|error| wrong(error.to_string()))?;
        if value.topic != source.id.0 {
            continue;
        }
        let version = Version::new(number, value);
        versions.push(Arc::new(version.map_err(|error| wrong(error.to_string()))?));
    }
    Ok(History { versions })
}

impl<L: ?Sized> fmt::Debug for Routes<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Routes").field("source", &self.source.name()).finish_non_exhaustive()
    }
}
