//! From the log into the archive, for ever: the loop that the node runs.
//!
//! First what a writer left that was killed between 2 and 3 is removed, see `unnamed`. Then for
//! each topic, when enough waits or it has waited long enough:
//! 1. Read a stretch of the log, from where the last manifest ends.
//! 2. Encode a file for each group of events, create it, read it back.
//! 3. Create the manifest that names the files. Where another one is there, take up its ends.
//!
//! What waits stays in the log: nothing is held in memory between steps, and a stop needs no flush.
//! Whatever the store does is tried again, with pauses that grow; the log alone ends the loop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tracklog_log::{Extent, Fetch, FetchError, FetchMode, Log, Topic};
use tracklog_protocol::line::format_time;
use tracklog_protocol::{Offset, PartitionId, TimeMicros};

use super::chain::{self, ChainError, Step};
use super::file::WrittenFile;
use super::layout::{self, Date};
use super::manifest::{FileEntry, Sealed, Span, sha256};
use super::properties::PropertyColumns;
use super::store::{Created, Store, StoreError};
use super::stretch::{Group, Stretch};
use super::unnamed;
use crate::stage::{Counter, Time};

/// What is read of the log at once.
const FETCH_BYTES: usize = 1 << 20;
/// How often it is looked whether something waits: as the interval says, within these.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);
/// How long to wait before what failed is tried again, at first and at most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often a removal is tried before it is left to the next start: a store may allow none.
const REMOVALS_TRIED: usize = 8;
/// How far back what was left is looked for, where nothing older waits: a power cut may bring back
/// what was removed from a folder.
const LOOK_BACK: i64 = 86_400_000_000;
/// What an event is taken to have before any was read.
const EVENT_BYTES_GUESSED: u64 = 1024;

/// Why the loop ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiverEnd {
    /// The archive holds events of another log: give this one another place.
    #[error("{url} is the archive of another log: {why}")]
    AnotherLog {
        /// The archive.
        url: String,
        /// What does not fit.
        why: String,
    },
    /// The archive cannot be read.
    #[error("the archive at {url} cannot be used: {why}")]
    Unusable {
        /// The archive.
        url: String,
        /// Why.
        why: String,
    },
    /// The log takes no more readers.
    #[error(transparent)]
    Log(#[from] FetchError),
}

/// Where the loop learns which events have schemas.
pub trait Schemas: Send + Sync {
    /// The texts of all versions of an event's schema, lowest first; none where it has none.
    fn versions(&self, name: &str) -> Vec<Bytes>;
}

/// When a topic is due.
#[derive(Clone, Copy, Debug)]
pub struct Flush {
    /// As soon as about so many bytes wait.
    pub bytes: u64,
    /// As soon as something waits so long.
    pub interval: Duration,
}

/// What the archive has done and has to do, of one topic.
#[derive(Debug)]
pub struct TopicCounters {
    /// The topic.
    pub topic: String,
    /// Events archived since the start.
    pub rows: Counter,
    /// Files made visible.
    pub files: Counter,
    /// Their bytes.
    pub bytes: Counter,
    /// Manifests created.
    pub manifests: Counter,
    /// Offsets that the log had lost before they were read.
    pub missed: Counter,
    lag_records: AtomicU64,
    /// Since when the first of them waits, in microseconds; 0 when none does.
    waits_since: AtomicI64,
}

impl TopicCounters {
    /// Records that are not archived yet.
    #[must_use]
    pub fn lag_records(&self) -> u64 {
        self.lag_records.load(Ordering::Relaxed)
    }

    /// How long the first of them waits.
    #[must_use]
    pub fn waits(&self, now: TimeMicros) -> Duration {
        let micros = match self.waits_since.load(Ordering::Relaxed) {
            0 => 0,
            since => now.0.saturating_sub(since),
        };
        Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

/// What the archive has done.
#[derive(Debug)]
pub struct ArchiveCounters {
    /// By topic.
    pub topics: Vec<TopicCounters>,
    /// Times that the store or the log failed, and was asked again.
    pub errors: Counter,
    is_up: AtomicBool,
}

impl ArchiveCounters {
    /// All at 0.
    #[must_use]
    pub fn new(topics: &[Topic]) -> Self {
        let of_topic = |topic: &Topic| TopicCounters {
            topic: topic.name().to_owned(),
            rows: Counter::default(),
            files: Counter::default(),
            bytes: Counter::default(),
            manifests: Counter::default(),
            missed: Counter::default(),
            lag_records: AtomicU64::new(0),
            waits_since: AtomicI64::new(0),
        };
        Self {
            topics: topics.iter().map(of_topic).collect(),
            errors: Counter::default(),
            is_up: AtomicBool::new(true),
        }
    }

    /// Whether the loop goes on.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }
}

/// Everything that the loop works with.
pub struct Archiver<L: ?Sized> {
    /// The log.
    pub log: Arc<L>,
    /// Where the archive is.
    pub store: Store,
    /// What is archived.
    pub topics: Vec<Topic>,
    /// Which events have schemas.
    pub schemas: Arc<dyn Schemas>,
    /// When a topic is due.
    pub flush: Flush,
    /// What is known of time.
    pub time: Arc<dyn Time>,
    /// What was done; of the same topics.
    pub counters: Arc<ArchiveCounters>,
}

impl<L: Log + ?Sized> Archiver<L> {
    /// Archives until `stop` says true. Dropping the future at any point is safe.
    ///
    /// # Errors
    /// [`ArchiverEnd`]: going on would be wrong.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) -> Result<(), ArchiverEnd> {
        tokio::select! {
            ended = self.go_on(None) => {
                self.counters.is_up.store(false, Ordering::Relaxed);
                ended
            }
            // Stopped, or whoever could stop it has gone.
            _ = stop.wait_for(|stop| *stop) => Ok(()),
        }
    }

    /// Archives all that is in the log now, whether due or not.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn catch_up(&self) -> Result<(), ArchiverEnd> {
        let ends = self.topics.iter().map(|topic| self.ends(topic)).collect();
        self.go_on(Some(ends)).await
    }

    /// For ever, or up to these ends.
    async fn go_on(&self, until: Option<Vec<Vec<Offset>>>) -> Result<(), ArchiverEnd> {
        let mut work = Work { shared: self, tip: self.load_tip().await?, topics: Vec::new() };
        for topic in &self.topics {
            work.topics.push(Progress::new(topic));
        }
        for index in 0..self.topics.len() {
            work.sweep(index).await?;
        }
        loop {
            let mut is_idle = true;
            for index in 0..self.topics.len() {
                let until = until.as_ref().map(|ends| &*ends[index]);
                if work.is_due(index, until).await? {
                    is_idle = false;
                    work.step(index).await?;
                }
            }
            match (is_idle, &until) {
                (false, _) => {}
                (true, Some(_)) => return Ok(()),
                (true, None) => {
                    let pause = self.flush.interval.clamp(LOOK_EVERY_MIN, LOOK_EVERY);
                    self.time.pause(pause).await;
                }
            }
        }
    }

    /// Whether the archive holds nothing that a log lacks which was restored, and ended here then. Such
    /// a log gives the offsets behind anew, and the archive would take its events for those that it
    /// has.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn check_restored(
        &self,
        ends: &BTreeMap<String, Vec<Offset>>,
    ) -> Result<(), ArchiverEnd> {
        let checked = match self.read_tip().await {
            Ok(None) => Ok(()),
            Ok(Some(tip)) => self.check_not_ahead(&tip, ends),
            Err(error) => Err(error),
        };
        checked.inspect_err(|_| self.counters.is_up.store(false, Ordering::Relaxed))
    }

    fn check_not_ahead(
        &self,
        tip: &Sealed,
        ends: &BTreeMap<String, Vec<Offset>>,
    ) -> Result<(), ArchiverEnd> {
        for (name, of_archive) in &tip.manifest.topics {
            let of_log = ends.get(name).map_or(&[][..], |ends| ends);
            for (index, span) in of_archive.partitions.iter().enumerate() {
                let end = of_log.get(index).map_or(0, |end| end.0);
                if span.end > end {
                    let why = format!(
                        "{name}/{index} goes to {} there, and the log was restored from a backup \
                         that goes to {end}: what comes now has those offsets too. Name a new place \
                         for the archive",
                        span.end
                    );
                    let url = self.store.url().to_owned();
                    return Err(ArchiverEnd::AnotherLog { url, why });
                }
            }
        }
        Ok(())
    }

    fn ends(&self, topic: &Topic) -> Vec<Offset> {
        topic.partitions().map(|partition| self.extent(partition).end).collect()
    }

    fn extent(&self, partition: PartitionId) -> Extent {
        let none = Extent { start: Offset::ZERO, end: Offset::ZERO };
        self.log.extent(partition).unwrap_or(none)
    }

    async fn load_tip(&self) -> Result<Option<Sealed>, ArchiverEnd> {
        let tip = self.read_tip().await?;
        for topic in &self.topics {
            self.check_own(tip.as_ref(), topic)?;
        }
        Ok(tip)
    }

    async fn read_tip(&self) -> Result<Option<Sealed>, ArchiverEnd> {
        let mut pauses = Pauses::new(self);
        loop {
            match chain::tip(&self.store).await {
                Ok(tip) => return Ok(tip),
                Err(ChainError::Store(error)) => pauses.failed(&error).await,
                Err(error) => {
                    let url = self.store.url().to_owned();
                    return Err(ArchiverEnd::Unusable { url, why: error.to_string() });
                }
            }
        }
    }

    /// The archive's events must be this log's, else offsets would mean two things.
    fn check_own(&self, tip: Option<&Sealed>, topic: &Topic) -> Result<(), ArchiverEnd> {
        let Some(ends) = tip.and_then(|tip| tip.manifest.topics.get(topic.name())) else {
            return Ok(());
        };
        let another =
            |why: String| Err(ArchiverEnd::AnotherLog { url: self.store.url().to_owned(), why });
        let name = topic.name();
        if ends.created != topic.created.0 {
            let is = format_time(TimeMicros(ends.created));
            let should = format_time(topic.created);
            return another(format!("its topic {name} was made at {is}, and this one at {should}"));
        }
        if ends.partitions.len() != topic.spec.partitions as usize {
            return another(format!("its topic {name} has {} partitions", ends.partitions.len()));
        }
        for (partition, span) in topic.partitions().zip(&ends.partitions) {
            let end = self.extent(partition).end.0;
            if span.end > end {
                let index = partition.partition;
                let why = format!("{name}/{index} goes to {} there, and to {end} here", span.end);
                return another(why);
            }
        }
        Ok(())
    }
}

/// How far a topic is.
struct Progress {
    event_bytes: u64,
    waits_since: Option<TimeMicros>,
    ids: Vec<PartitionId>,
}

impl Progress {
    fn new(topic: &Topic) -> Self {
        let ids = topic.partitions().collect();
        Self { event_bytes: EVENT_BYTES_GUESSED, waits_since: None, ids }
    }
}

/// The loop at work.
struct Work<'a, L: ?Sized> {
    shared: &'a Archiver<L>,
    tip: Option<Sealed>,
    topics: Vec<Progress>,
}

impl<L: Log + ?Sized> Work<'_, L> {
    /// What the archive covers of a topic; of one that it does not have yet, where that begins.
    fn spans(&self, index: usize) -> Vec<Span> {
        let name = self.shared.topics[index].name();
        match self.tip.as_ref().and_then(|tip| tip.manifest.topics.get(name)) {
            Some(ends) => ends.partitions.clone(),
            None => {
                let start = |id: &PartitionId| self.shared.extent(*id).start.0;
                let span = |start| Span { start, end: start };
                self.topics[index].ids.iter().map(start).map(span).collect()
            }
        }
    }

    /// Offsets that wait, by partition.
    fn waiting(&self, index: usize, spans: &[Span]) -> Vec<u64> {
        let ids = &self.topics[index].ids;
        let waiting = |(id, span): (&PartitionId, &Span)| {
            self.shared.extent(*id).end.0.saturating_sub(span.end)
        };
        ids.iter().zip(spans).map(waiting).collect()
    }

    async fn is_due(
        &mut self,
        index: usize,
        until: Option<&[Offset]>,
    ) -> Result<bool, ArchiverEnd> {
        let spans = self.spans(index);
        let records: u64 = self.waiting(index, &spans).iter().sum();
        let now = self.shared.time.now();
        if records > 0 && self.topics[index].waits_since.is_none() {
            // In the log, and so the same after a start.
            let times = self.times_of_waiting(index, &spans).await?;
            let first = times.into_iter().flatten().min();
            self.topics[index].waits_since = Some(first.map_or(now, |first| first.min(now)));
        }
        let counters = &self.shared.counters.topics[index];
        let progress = &mut self.topics[index];
        progress.waits_since = progress.waits_since.filter(|_| records > 0);
        let since = progress.waits_since.map_or(0, |time| time.0);
        counters.lag_records.store(records, Ordering::Relaxed);
        counters.waits_since.store(since, Ordering::Relaxed);
        if let Some(until) = until {
            return Ok(spans.iter().zip(until).any(|(span, until)| span.end < until.0));
        }
        let flush = self.shared.flush;
        let waits = progress.waits_since.map_or(0, |since| now.0 - since.0);
        let interval = i64::try_from(flush.interval.as_micros()).unwrap_or(i64::MAX);
        let bytes = records.saturating_mul(progress.event_bytes);
        Ok(records > 0 && (bytes >= flush.bytes || waits >= interval))
    }

    /// Brings one stretch of a topic into the archive.
    async fn step(&mut self, index: usize) -> Result<(), ArchiverEnd> {
        // Asked once: what the log no longer has moves the beginning of a topic that is new here.
        let spans = self.spans(index);
        let stretch = self.read(index, &spans).await?;
        if stretch.is_empty() {
            return Ok(());
        }
        let topic = &self.shared.topics[index];
        let number = chain::next_number(self.tip.as_ref());
        let mut files = Vec::new();
        for group in stretch.groups(|name| !self.shared.schemas.versions(name).is_empty()) {
            let file = stretch.encode(&group, &self.shared.columns(&group));
            let path = group.path(topic.name(), number, &file);
            files.push(self.shared.put(path, &file).await);
        }
        let step = Step {
            topic: topic.name(),
            created: topic.created.0,
            spans,
            ranges: stretch.ranges.clone(),
            missing: stretch.missing.clone(),
            files,
        };
        self.commit(index, step, &stretch).await
    }

    async fn commit(
        &mut self,
        index: usize,
        step: Step<'_>,
        stretch: &Stretch,
    ) -> Result<(), ArchiverEnd> {
        let written_at = format_time(self.shared.time.now());
        let manifest = step.manifest(self.tip.as_ref(), written_at);
        let mut pauses = Pauses::new(self.shared);
        loop {
            match chain::append(&self.shared.store, &manifest).await {
                Ok(Some(sealed)) => {
                    self.count(index, &sealed, stretch);
                    self.tip = Some(sealed);
                    return Ok(());
                }
                Ok(None) => {
                    let number = manifest.number;
                    tracing::warn!(
                        number,
                        "another writer is at this archive; its ends are taken up"
                    );
                    self.tip = self.shared.load_tip().await?;
                    let ours = manifest.files.iter().map(|file| file.path.clone()).collect();
                    self.remove_unnamed(ours).await;
                    return Ok(());
                }
                Err(error) => pauses.failed(&error).await,
            }
        }
    }

    /// Removes files of a topic that no manifest will name, so that their rows are not there twice
    /// once they come into others.
    async fn sweep(&mut self, index: usize) -> Result<(), ArchiverEnd> {
        let spans = self.spans(index);
        let day = self.day_of_waiting(index, &spans).await?;
        let topic = &self.shared.topics[index];
        let mut pauses = Pauses::new(self.shared);
        let found = loop {
            match self.shared.store.files_since(topic.name(), day).await {
                Ok(found) => break found,
                Err(error) => pauses.failed(&error).await,
            }
        };
        let next = chain::next_number(self.tip.as_ref());
        if found.iter().any(|path| layout::manifest_of(path) == Some(next)) {
            // Whoever wrote them may be alive. With the number taken he cannot name them any more,
            // and writes others.
            let step = Step {
                topic: topic.name(),
                created: topic.created.0,
                spans,
                ranges: Vec::new(),
                missing: Vec::new(),
                files: Vec::new(),
            };
            self.commit(index, step, &Stretch::default()).await?;
        }
        self.remove_unnamed(found).await;
        Ok(())
    }

    /// The day on which the first record that waits was appended, or yesterday where that is earlier.
    async fn day_of_waiting(&self, index: usize, spans: &[Span]) -> Result<Date, ArchiverEnd> {
        let yesterday = Date::of(TimeMicros(self.shared.time.now().0 - LOOK_BACK));
        let times = self.times_of_waiting(index, spans).await?;
        let days = times.into_iter().map(|time| time.map_or(Date::FIRST, Date::of));
        Ok(days.fold(yesterday, Date::min))
    }

    /// For each partition where records wait, when the first of them was appended; `None` where it
    /// cannot be read.
    async fn times_of_waiting(
        &self,
        index: usize,
        spans: &[Span],
    ) -> Result<Vec<Option<TimeMicros>>, ArchiverEnd> {
        let mut times = Vec::new();
        for (id, span) in self.topics[index].ids.iter().zip(spans) {
            let Extent { start, end } = self.shared.extent(*id);
            let first = start.max(Offset(span.end));
            if first < end {
                let mut stretch = Stretch::default();
                self.read_partition(*id, first..first.plus(1), 1, &mut stretch).await?;
                times.push(stretch.first_time());
            }
        }
        Ok(times)
    }

    /// Removes those of `paths` that no manifest will name. What cannot be removed is told, and left
    /// to the next start.
    async fn remove_unnamed(&self, paths: Vec<String>) {
        let next = chain::next_number(self.tip.as_ref());
        let store = &self.shared.store;
        let mut pauses = Pauses::new(self.shared);
        for _ in 0..REMOVALS_TRIED {
            match unnamed::remove(store, &paths, next).await {
                Ok(0) => return,
                Ok(files) => {
                    return tracing::info!(files, "what a writer left unnamed is removed");
                }
                Err(error) => pauses.failed(&error).await,
            }
        }
        let archive = store.url();
        tracing::warn!(archive, "files that no manifest names are left: a pattern counts them");
    }

    fn count(&mut self, index: usize, sealed: &Sealed, stretch: &Stretch) {
        let counters = &self.shared.counters.topics[index];
        let files = &sealed.manifest.files;
        let rows = files.iter().map(|file| file.rows).sum();
        let missed = stretch.missing.iter().map(|it| it.range.to - it.range.from).sum();
        counters.rows.add(rows);
        counters.files.add(files.len() as u64);
        counters.bytes.add(files.iter().map(|file| file.bytes).sum());
        counters.manifests.add(1);
        counters.missed.add(missed);
        let progress = &mut self.topics[index];
        progress.waits_since = None;
        if let Some(bytes) = (stretch.bytes as u64).checked_div(rows) {
            progress.event_bytes = bytes.max(1);
        }
        for missing in &stretch.missing {
            let (range, topic) = (missing.range, &sealed.manifest.topic);
            let (partition, from, to) = (range.partition, range.from, range.to);
            tracing::warn!(topic, partition, from, to, why = missing.why, "not archived");
        }
    }

    /// Reads what waits, all partitions alike far, up to about the bytes of a flush.
    async fn read(&self, index: usize, spans: &[Span]) -> Result<Stretch, ArchiverEnd> {
        let bytes_max = usize::try_from(self.shared.flush.bytes).unwrap_or(usize::MAX);
        let waiting = self.waiting(index, spans);
        let records_max = (self.shared.flush.bytes / self.topics[index].event_bytes).max(1);
        let all: u64 = waiting.iter().sum();
        let mut stretch = Stretch::default();
        for ((id, span), waits) in self.topics[index].ids.iter().zip(spans).zip(waiting) {
            let share = if all <= records_max { waits } else { share(waits, records_max, all) };
            // The guess of an event's bytes was too low: what is left has its turn next time.
            if stretch.bytes < bytes_max.saturating_mul(2) {
                let range = Offset(span.end)..Offset(span.end + share);
                self.read_partition(*id, range, FETCH_BYTES, &mut stretch).await?;
            }
        }
        Ok(stretch)
    }

    async fn read_partition(
        &self,
        id: PartitionId,
        range: std::ops::Range<Offset>,
        bytes_max: usize,
        stretch: &mut Stretch,
    ) -> Result<(), ArchiverEnd> {
        let mut at = range.start;
        let mut pauses = Pauses::new(self.shared);
        while at < range.end {
            let (from, mode) = (vec![(id, at)], FetchMode::Replay);
            let fetch = Fetch { from, bytes_max, wait: false, mode };
            match self.shared.log.fetch(fetch).await {
                Ok(mut fetched) => {
                    let found = fetched.partitions.pop().expect("one partition was asked for");
                    let next = stretch.take(at, range.end, found);
                    if next == at {
                        pauses.failed(&"the log gave nothing below its end").await;
                    }
                    at = next;
                }
                Err(FetchError::OutOfRange { extent, asked, .. }) if asked < extent.start => {
                    stretch.pass(id.partition, at, extent.start, "no longer in the log");
                    at = extent.start;
                }
                Err(FetchError::Io { why, .. }) => pauses.failed(&why).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The part of `waits` when `all` wait and `most` can be had; rounded up.
fn share(waits: u64, most: u64, all: u64) -> u64 {
    let part = (u128::from(waits) * u128::from(most)).div_ceil(u128::from(all));
    u64::try_from(part).map_or(waits, |part| part.min(waits))
}

impl<L: Log + ?Sized> Archiver<L> {
    /// The typed columns of a group's file; a shared one has none.
    fn columns(&self, group: &Group) -> PropertyColumns {
        let versions = group.name.as_deref().map(|name| self.schemas.versions(name));
        PropertyColumns::of_schemas(versions.iter().flatten().map(|text| &text[..]))
    }

    /// Creates a file and reads it back, until both succeeded.
    async fn put(&self, path: String, file: &WrittenFile) -> FileEntry {
        let mut pauses = Pauses::new(self);
        loop {
            match self.put_once(&path, file).await {
                Ok(()) => return entry(path, file),
                Err(error) => pauses.failed(&error).await,
            }
        }
    }

    async fn put_once(&self, path: &str, file: &WrittenFile) -> Result<(), PutError> {
        if self.store.create(path, file.bytes.clone()).await? == Created::Taken {
            return Err(PutError::Other { path: path.to_owned() });
        }
        let back = self.store.get(path).await?;
        if sha256(&back) == file.sha256 {
            Ok(())
        } else {
            Err(PutError::Other { path: path.to_owned() })
        }
    }
}

/// A file is not there as it was written.
#[derive(Debug, thiserror::Error)]
enum PutError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path} holds other bytes than were written: remove it")]
    Other { path: String },
}

fn entry(path: String, file: &WrittenFile) -> FileEntry {
    FileEntry {
        path,
        sha256: file.sha256.clone(),
        bytes: file.bytes.len() as u64,
        rows: file.rows,
        event_bytes: file.event_bytes,
        partitions: file.partitions.clone(),
        min_event_time: file.event_times.0.0,
        max_event_time: file.event_times.1.0,
        min_append_time: file.append_times.0.0,
        max_append_time: file.append_times.1.0,
    }
}

/// Pauses that grow from failure to failure.
struct Pauses<'a, L: ?Sized> {
    shared: &'a Archiver<L>,
    next: Duration,
}

impl<'a, L: ?Sized> Pauses<'a, L> {
    const fn new(shared: &'a Archiver<L>) -> Self {
        Self { shared, next: PAUSE_MIN }
    }

    /// Tells and counts a failure, and waits.
    async fn failed(&mut self, error: &(dyn std::fmt::Display + Sync)) {
        let url = self.shared.store.url();
        let pause = self.next;
        self.next = (pause * 2).min(PAUSE_MAX);
        tracing::warn!(archive = url, %error, "archiving waits, tried again in {pause:?}");
        self.shared.counters.errors.add(1);
        self.shared.time.pause(pause).await;
    }
}
