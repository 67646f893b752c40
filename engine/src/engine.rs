//! The engine: a [`Log`] on a disk.
//!
//! What lives here is the translation of the seam's calls into the rooms below: appends go to the
//! intake, reads to the reader, the catalog's changes to its own topic.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::Mutex;
use tracklog_log::erase::STRETCHES_MAX;
use tracklog_log::{
    Append, AppendError, Budget, Busy, CatalogError, Condition, Domain, Epoch, Erase, EraseError,
    EventId, Extent, Fetch, FetchError, Fetched, IdPlaces, Item, Lane, Limits, Log, Pending,
    Permit, Retention, SettledPlaces, Stored, Ticket, TimeKind, Topic, TopicName, TopicSpec,
    block_on,
};
use tracklog_protocol::{KeyValue, Offset, PartitionId, Records, TimeMicros, TopicId};

use crate::catalog::{self, PARTITIONS_MAX};
use crate::disk::{Backend, Disk, write_here};
use crate::error::OpenError;
use crate::intake_client::IntakeClient;
use crate::journal::appender::Counters;
use crate::journal::intake::{Door, Input};
use crate::journal::segment::ClusterId;
use crate::open::{Machines, Opening, OpeningReport, Threads, open_disk, open_path};
use crate::options::Options;
use crate::read::Reader;
use crate::relay::Relay;
use crate::seen::event_ids::{ROWS_MAX, TopicIdHash, id_hash};
use crate::settled::erasure::{self, RequestId};
use crate::settled::settler::Settling;
#[cfg(any(test, feature = "simulation"))]
use crate::stepped::Stepper;
use crate::verify::{Progress, VerifyReport, scrub_published, verify_published};

/// The last topic id but a few, for those in flight.
const TOPIC_ID_MAX: u64 = u32::MAX as u64 - 1_000_000;

/// A log on a disk, open to write. Cheap to share behind an `Arc`.
///
/// Dropping it stops it in good order, as [`close`](Self::close) does.
pub struct Engine {
    disk: Arc<dyn Disk>,
    client: IntakeClient,
    reader: Arc<Reader>,
    counters: Arc<Counters>,
    report: OpeningReport,
    cluster: ClusterId,
    slot_bytes: u64,
    settling: Arc<Settling>,
    threads: Mutex<Option<Threads>>,
    /// Rises when the domain is opened again: earlier writers are fenced.
    opened: std::sync::atomic::AtomicU64,
}

/// What an engine is doing, for metrics.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// How commits reach the disk.
    pub backend: Backend,
    /// Commits made durable since it was opened.
    pub commits: u64,
    /// Records made durable since it was opened.
    pub records: u64,
    /// Bytes of these commits, headers and padding included.
    pub commit_bytes: u64,
    /// Commits on their way to the disk.
    pub in_flight: u64,
    /// Bytes of the intake's budget that are reserved.
    pub reserved_bytes: usize,
    /// Bytes that wait to be put into a commit.
    pub waiting_bytes: usize,
    /// By power of two of microseconds: how long commits took to become durable. Entry `i`
    /// counts those that took less than 2^i µs, and at least half of that.
    pub write_micros: [u64; 32],
    /// The sum of these times.
    pub write_micros_sum: u64,
    /// Batches read from the tail ring.
    pub reads_ring: u64,
    /// Batches read from the segment being written.
    pub reads_active: u64,
    /// Batches read from maps of full segments.
    pub reads_map: u64,
    /// Stretches of batches read from packs.
    pub reads_pack: u64,
    /// Frames of packs that were decoded for it.
    pub frames_decoded: u64,
    /// What is kept of them.
    pub frame_bytes: u64,
    /// Bytes of maps that answers hold.
    pub reads_pinned_bytes: u64,
    /// Windows of maps that were copied, since answers held too much of them already.
    pub reads_copied: u64,
    /// Bytes that replay threads are at, or that wait to be taken.
    pub replay_bytes: u64,
    /// Ids of events in the journal that are known again.
    pub ids: u64,
    /// What they take of memory.
    pub ids_bytes: u64,
    /// Ids of settled events that are known again.
    pub settled_ids: u64,
    /// What they take of memory.
    pub settled_ids_bytes: u64,
    /// Segments in use.
    pub segments: usize,
    /// Packs in use.
    pub packs: usize,
    /// What their files take.
    pub pack_bytes: u64,
    /// What the journal took for what is in them.
    pub settled_bytes: u64,
    /// What the files of all packs took that were made since it was opened, of segments and of
    /// smaller packs: what settling writes.
    pub packs_made_bytes: u64,
    /// Size of a slot.
    pub slot_bytes: u64,
    /// Whether new appends are taken.
    pub state: State,
    /// Whether something is being erased.
    pub is_erasing: bool,
    /// What that waits for, in words; `None` while it goes on.
    pub erasing_waits: Option<String>,
}

/// Whether new appends are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// They are.
    Open,
    /// The disk has not answered for too long: new work is shed until it does.
    Shedding,
    /// There is no room. Why, in words.
    Full(String),
    /// The log takes nothing until it is opened again. Why, in words.
    Closed(String),
}

impl Engine {
    /// Opens the log in the folder `path`, and makes one where there is none.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed then.
    pub fn open(path: &Path, options: &Options) -> Result<Self, OpenError> {
        let (disk, opening) = open_path(path, options)?;
        Self::start(disk, opening)
    }

    /// Opens the log on `disk`, whatever that is.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(disk: Arc<dyn Disk>, options: &Options) -> Result<Self, OpenError> {
        let opening = open_disk(&disk, options)?;
        Self::start(disk, opening)
    }

    /// Opens the log on `disk` without threads: it goes on only as far as the [`Stepper`] is told
    /// to. It takes slots down to 2 MiB. With [`Options::replay_threads`] 0, and a disk and calls
    /// that one thread and one seed decide, the same happens every time.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    #[cfg(any(test, feature = "simulation"))]
    pub fn open_stepped(
        disk: Arc<dyn Disk>,
        options: &Options,
    ) -> Result<(Self, Stepper), OpenError> {
        let opening = open_disk(&disk, options)?;
        let (log, machines) = Self::assemble(disk, opening);
        let stepper = Stepper::new(&log.disk, &log.client.driver, machines);
        Ok((log, stepper))
    }

    fn start(disk: Arc<dyn Disk>, opening: Opening) -> Result<Self, OpenError> {
        let (log, machines) = Self::assemble(disk, opening);
        let threads = Threads::start(&log.disk, &log.client.driver, machines)?;
        *log.threads.lock() = Some(threads);
        Ok(log)
    }

    /// A log that nobody drives yet.
    fn assemble(disk: Arc<dyn Disk>, opening: Opening) -> (Self, Machines) {
        for note in &opening.report.notes {
            tracing::warn!("{note}");
        }
        let Opening { client, reader, counters, report, cluster, slot_bytes, machines } = opening;
        let settling = Arc::clone(&machines.settling);
        let opened = std::sync::atomic::AtomicU64::new(report.run << 16);
        let threads = Mutex::default();
        let log = Self {
            disk,
            client,
            reader,
            counters,
            report,
            cluster,
            slot_bytes,
            settling,
            threads,
            opened,
        };
        (log, machines)
    }

    /// What the opening found.
    #[must_use]
    pub const fn report(&self) -> &OpeningReport {
        &self.report
    }

    /// What the records of each topic take on the disk, but for those of the segment being written; of
    /// topics that have some. One look at all segments and packs.
    #[must_use]
    pub fn bytes_by_topic(&self) -> BTreeMap<TopicId, u64> {
        let shares: Vec<_> =
            self.client.published.places.read().shares_of_topics().cloned().collect();
        let mut topics = BTreeMap::new();
        for (topic, bytes) in shares.iter().flat_map(|share| share.iter()) {
            *topics.entry(*topic).or_default() += bytes;
        }
        topics
    }

    /// What is free of the disk.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn free_bytes(&self) -> std::io::Result<u64> {
        self.disk.free_bytes()
    }

    /// What it is doing.
    #[must_use]
    pub fn status(&self) -> Status {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &*self.counters;
        let reads = &self.client.published.reads;
        let (frame_bytes, frames_decoded) = self.reader.frames();
        let (segments, packs, settled) = {
            let places = self.client.published.places.read();
            let settled = self.client.published.ids.settled();
            (places.segment_ids().len(), places.packs(), settled)
        };
        let (is_erasing, erasing_waits) = self.settling.erasing();
        Status {
            backend: self.disk.backend(),
            commits: load(&counters.commits),
            records: load(&counters.records),
            commit_bytes: load(&counters.commit_bytes),
            in_flight: load(&counters.in_flight),
            reserved_bytes: self.client.budget.reserved_bytes(),
            waiting_bytes: self.client.intake().waiting_bytes(),
            write_micros: std::array::from_fn(|at| load(&counters.write_micros[at])),
            write_micros_sum: load(&counters.write_micros_sum),
            reads_ring: load(&reads.ring),
            reads_active: load(&reads.active),
            reads_map: load(&reads.map),
            reads_pack: load(&reads.pack),
            frames_decoded,
            frame_bytes,
            reads_pinned_bytes: self.reader.pinned_bytes(),
            reads_copied: self.reader.windows_copied(),
            replay_bytes: self.reader.replay_bytes(),
            ids: load(&counters.ids),
            ids_bytes: load(&counters.ids_bytes),
            settled_ids: settled.len(),
            settled_ids_bytes: settled.bytes() as u64,
            segments,
            packs: packs.len(),
            pack_bytes: packs.iter().map(|head| head.file_bytes).sum(),
            settled_bytes: packs.iter().map(|head| head.journal_bytes).sum(),
            packs_made_bytes: load(&counters.packs_made_bytes),
            slot_bytes: self.slot_bytes,
            state: self.state(),
            is_erasing,
            erasing_waits,
        }
    }

    /// A task for the runtime whose tasks append and wait: it wakes them there, many at a step.
    /// Spawn one for each of its worker threads; without any, each is woken on its own.
    pub fn relay(&self) -> Relay {
        self.client.published.relays.add()
    }

    /// Whether new appends are taken.
    #[must_use]
    pub fn state(&self) -> State {
        match self.client.intake().door() {
            Door::Closed(why) => State::Closed(why.to_string()),
            Door::Full(why) => State::Full(why.to_string()),
            Door::Open if self.counters.shedding.load(Ordering::Relaxed) => State::Shedding,
            Door::Open => State::Open,
        }
    }

    /// Verifies what is published, from the disk, while the log goes on. `progress` is called now
    /// and then, from this thread, which reads and waits: none that serves others.
    ///
    /// # Errors
    /// When the folder cannot be listed. Damage is in the report.
    pub fn verify(&self, progress: &mut dyn FnMut(Progress)) -> Result<VerifyReport, OpenError> {
        let notes = &self.report.notes;
        let log = (self.cluster, self.slot_bytes);
        verify_published(&*self.disk, &self.client.published, log, notes, progress)
    }

    /// As [`verify`](Self::verify), for who does it all the time: as slowly as `progress` lets it, and
    /// until `is_over` says so. Then there is no report.
    ///
    /// # Errors
    /// As [`verify`](Self::verify).
    pub fn scrub(
        &self,
        progress: &mut dyn FnMut(Progress),
        is_over: &dyn Fn() -> bool,
    ) -> Result<Option<VerifyReport>, OpenError> {
        let (notes, log) = (&self.report.notes, (self.cluster, self.slot_bytes));
        let published = &self.client.published;
        scrub_published(&*self.disk, published, log, notes, progress, is_over)
    }

    /// Stops in good order: what was taken becomes durable, what comes is refused. Returns when
    /// it is done, whoever else closes it too; of a log that is driven step by step, at once.
    ///
    /// On a full disk what was taken is written as far as it fits into the room that is kept for
    /// it; the rest ends as [`AppendError::Full`].
    pub fn close(&self) {
        self.client.driver.push(Input::Stop);
        // Held until they have ended: whoever closes it meanwhile waits here.
        let mut threads = self.threads.lock();
        if let Some(threads) = threads.take() {
            threads.join();
        }
        drop(threads);
        self.reader.stop();
    }

    /// Appends one catalog record on the condition that the key is as it was seen.
    fn change(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        last: Option<Offset>,
    ) -> Result<Ticket, Busy> {
        let mut buffer = Vec::new();
        let record = KeyValue { key, value }.encode(&mut buffer);
        let items = [Item::Record { partition: catalog::PARTITION, record }];
        let key = key.to_vec();
        let conditions = [Condition::LastOfKey { partition: catalog::PARTITION, key, last }];
        let append = Append { conditions: &conditions, items: &items };
        self.client.append(Lane::INTERNAL, append)
    }

    /// Where the last record of a catalog key lies.
    fn last_of(&self, key: &[u8]) -> Option<Offset> {
        let topics = self.client.published.topics.read();
        let key = (catalog::PARTITION, bytes::Bytes::copy_from_slice(key));
        topics.catalog.live().get(&key).map(|live| live.offset)
    }

    /// Where a partition starts by the record of its last trim.
    fn trimmed(&self, key: &[u8]) -> Offset {
        let topics = self.client.published.topics.read();
        let key = (catalog::PARTITION, bytes::Bytes::copy_from_slice(key));
        let live = topics.catalog.live().get(&key);
        live.and_then(|live| catalog::trimmed_to(&live.value)).unwrap_or(Offset::ZERO)
    }

    async fn create(&self, spec: TopicSpec) -> Result<Topic, CatalogError> {
        let partitions = spec.partitions;
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return Err(CatalogError::Partitions { partitions });
        }
        loop {
            if let Some(topic) = self.topic(spec.name.as_str()) {
                return if topic.spec == spec { Ok(topic) } else { Err(exists(&topic)) };
            }
            // An id is an offset of the catalog plus one; skips after damage use many up.
            if self.extent(catalog::PARTITION).is_some_and(|own| own.end.0 >= TOPIC_ID_MAX) {
                let why = "topic ids are used up".into();
                return Err(AppendError::Full { why }.into());
            }
            self.check_rows(&spec)?;
            let key = catalog::topic_key(&spec.name);
            let value = catalog::topic_value(&spec, self.disk.now());
            match self.change(&key, Some(&value), None)?.await {
                // Another caller made it first: look again.
                Ok(_) | Err(AppendError::ConditionFailed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether events of one more topic can be stored once: their places hold no larger row.
    fn check_rows(&self, spec: &TopicSpec) -> Result<(), AppendError> {
        let topics = self.client.published.topics.read();
        let rows = topics.catalog.row_count() + spec.partitions as usize;
        if topics.catalog.deduplicates(&spec.name) && rows > ROWS_MAX as usize {
            let why = "numbers of partitions are used up until the log is opened again".into();
            return Err(AppendError::Full { why });
        }
        Ok(())
    }

    async fn delete(&self, name: TopicName) -> Result<(), CatalogError> {
        if name.as_str() == catalog::TOPIC_NAME {
            return Err(CatalogError::Protected { name });
        }
        loop {
            let key = catalog::topic_key(&name);
            let last = self.last_of(&key);
            if self.topic(name.as_str()).is_none() || last.is_none() {
                return Err(CatalogError::NotFound { name });
            }
            match self.change(&key, None, last)?.await {
                Ok(_) => return Ok(()),
                Err(AppendError::ConditionFailed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn limit(&self, name: TopicName, limits: Limits) -> Result<(), CatalogError> {
        loop {
            let topic = self.topic(name.as_str());
            let topic = topic.ok_or_else(|| CatalogError::NotFound { name: name.clone() })?;
            if topic.spec.retention == Retention::Compact && !limits.are_none() {
                let why = "a compacted topic keeps the last record of each key";
                return Err(CatalogError::Unlimited { why });
            }
            if self.limits(topic.id) == limits {
                return Ok(());
            }
            let key = catalog::limits_key(topic.id);
            let value = catalog::limits_value(&limits);
            match self.change(&key, Some(&value), self.last_of(&key))?.await {
                Ok(_) => {
                    self.settling.look();
                    return Ok(());
                }
                Err(AppendError::ConditionFailed { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn erase_all(&self, records: Vec<Erase>) -> Result<(), EraseError> {
        self.check_erase(&records)?;
        let request = RequestId(self.disk.random());
        let encoded = erasure::encode(request, &records);
        let mut keyed = Records::new();
        for (key, value) in &encoded {
            let record = KeyValue { key, value: Some(value) };
            keyed.push(record.encode(&mut Vec::new()));
        }
        let record = |record| Item::Record { partition: catalog::PARTITION, record };
        let items: Vec<Item<'_>> = keyed.iter().map(record).collect();
        let append = Append { conditions: &[], items: &items };
        let request = if items.is_empty() {
            None
        } else {
            self.client.append(Lane::INTERNAL, append)?.await?;
            Some(request)
        };
        self.settling.look();
        self.client.published.erased(request).await;
        if self.client.published.topics.read().catalog.is_erasing(request) {
            let why = "it goes on when the log is opened again".into();
            return Err(AppendError::Closed { why }.into());
        }
        Ok(())
    }

    fn check_erase(&self, records: &[Erase]) -> Result<(), EraseError> {
        let topics = self.client.published.topics.read();
        for Erase { partition, to, .. } in records {
            let partition = *partition;
            if partition == catalog::PARTITION {
                return Err(EraseError::Protected);
            }
            let extent = topics.extent(partition);
            let end = extent.ok_or(EraseError::UnknownPartition { partition })?.end;
            if *to > end {
                return Err(EraseError::Beyond { partition, end });
            }
        }
        let stretches = topics.catalog.erasures().stretch_count() + records.len();
        let stretches_max = STRETCHES_MAX;
        if stretches > stretches_max {
            return Err(EraseError::TooMany { stretches, stretches_max });
        }
        Ok(())
    }

    async fn trim_to(&self, partition: PartitionId, before: Offset) -> Result<(), AppendError> {
        loop {
            let extent = self.extent(partition);
            let extent = extent.ok_or(AppendError::UnknownPartition { partition })?;
            let start = before.min(extent.end);
            let key = catalog::trim_key(partition);
            // Not the partition's start: segments that were given up may come back after a crash.
            if start <= self.trimmed(&key) {
                return Ok(());
            }
            let value = start.0.to_le_bytes();
            let ticket = self.change(&key, Some(&value), self.last_of(&key));
            let ticket =
                ticket.map_err(|busy| AppendError::Full { why: busy.to_string().into() })?;
            match ticket.await {
                Ok(_) => return Ok(()),
                Err(AppendError::ConditionFailed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn exists(topic: &Topic) -> CatalogError {
    let (name, partitions) = (topic.spec.name.clone(), topic.spec.partitions);
    CatalogError::Exists { name, partitions }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("run", &self.report.run).finish_non_exhaustive()
    }
}

impl Log for Engine {
    fn open(&self, domain: Domain) -> Pending<'_, Result<Epoch, AppendError>> {
        Box::pin(async move {
            if domain != Domain::WHOLE {
                let why = "an embedded log is one domain".into();
                return Err(AppendError::Closed { why });
            }
            if let Door::Closed(why) = self.client.intake().door() {
                return Err(AppendError::Closed { why });
            }
            Ok(Epoch(self.opened.fetch_add(1, Ordering::AcqRel) + 1))
        })
    }

    fn reserve(&self, lane: Lane, bytes: usize) -> Result<Permit, Busy> {
        if self.counters.shedding.load(Ordering::Relaxed) {
            return Err(self.client.budget.busy());
        }
        self.client.budget.reserve(lane, bytes)
    }

    fn append(&self, permit: Permit, epoch: Epoch, append: Append<'_>) -> Ticket {
        let current = Epoch(self.opened.load(Ordering::Acquire));
        if epoch != current {
            return Ticket::refused(AppendError::Fenced { current });
        }
        self.client.append_with(permit, append)
    }

    fn append_blocking(
        &self,
        permit: Permit,
        epoch: Epoch,
        append: Append<'_>,
    ) -> Result<Stored, AppendError> {
        block_on(write_here(|| self.append(permit, epoch, append)))
    }

    fn fetch(&self, fetch: Fetch) -> Pending<'_, Result<Fetched, FetchError>> {
        self.reader.fetch(Epoch(self.opened.load(Ordering::Acquire)), fetch)
    }

    fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.client.published.topics.read().extent(partition)
    }

    fn grown(&self, past: Vec<(PartitionId, Offset)>) -> Pending<'_, ()> {
        self.client.published.grown(&past)
    }

    fn offset_at(
        &self,
        partition: PartitionId,
        kind: TimeKind,
        time: TimeMicros,
    ) -> Pending<'_, Result<Offset, FetchError>> {
        self.reader.offset_at(partition, kind, time)
    }

    fn trim(&self, partition: PartitionId, before: Offset) -> Pending<'_, Result<(), AppendError>> {
        Box::pin(self.trim_to(partition, before))
    }

    fn erase(&self, records: Vec<Erase>) -> Pending<'_, Result<(), EraseError>> {
        Box::pin(self.erase_all(records))
    }

    fn create_topic(&self, spec: TopicSpec) -> Pending<'_, Result<Topic, CatalogError>> {
        Box::pin(self.create(spec))
    }

    fn delete_topic(&self, name: &TopicName) -> Pending<'_, Result<(), CatalogError>> {
        Box::pin(self.delete(name.clone()))
    }

    fn set_limits(
        &self,
        name: &TopicName,
        limits: Limits,
    ) -> Pending<'_, Result<(), CatalogError>> {
        Box::pin(self.limit(name.clone(), limits))
    }

    fn limits(&self, topic: TopicId) -> Limits {
        self.client.published.topics.read().catalog.limits(topic)
    }

    fn topic_bytes(&self, topic: TopicId) -> Option<u64> {
        Some(self.client.published.places.read().topic_bytes(topic))
    }

    fn topics(&self) -> Vec<Topic> {
        self.client.published.topics.read().catalog.topics().cloned().collect()
    }

    fn topic(&self, name: &str) -> Option<Topic> {
        self.client.published.topics.read().catalog.topic(name).cloned()
    }

    fn dedupe_window(&self, topic: TopicId) -> Option<Duration> {
        self.client.published.topics.read().catalog.dedupe_window(topic)
    }

    fn settled_places(&self, ids: Vec<EventId>) -> Pending<'_, Result<SettledPlaces, FetchError>> {
        let hash = |EventId { topic, source, message_id }: &EventId| {
            let id = id_hash(self.client.id_key, source, message_id);
            (*topic, TopicIdHash::new(*topic, id))
        };
        self.reader.settled_places(ids.iter().map(hash).collect())
    }

    fn id_places(
        &self,
        topic: TopicId,
        message_id: &str,
    ) -> Pending<'_, Result<IdPlaces, FetchError>> {
        let hashes = TopicIdHash::of_any_source(self.client.id_key, topic, message_id);
        self.reader.id_places(topic, hashes)
    }
}

/// The budget of an open log, for those who watch it.
impl AsRef<Budget> for Engine {
    fn as_ref(&self) -> &Budget {
        &self.client.budget
    }
}
