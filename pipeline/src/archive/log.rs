//! An archive, read as the log that it was made of: the same offsets, the same records, and so the
//! same lines. `replay --archive`, `reprocess --archive` and `archive restore` read it so.
//!
//! Promises
//! - What the manifests name is read, and nothing else; each file's digest is checked before.
//! - Records of a partition come in the order of offsets, however many files have them.
//! - A file that is damaged or gone is told as damage, and the rest is read on.
//! - Memory is bounded: [`CACHE_BYTES`] of files as they lie in the store, and [`AHEAD_BYTES`] of
//!   records for each partition that is read.
//!
//! It takes no appends. It is as it was when it was opened: what is archived later is not seen.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use tracklog_log::{
    Append, AppendError, Budget, Busy, CatalogError, Damage, Domain, Epoch, Extent, Fetch,
    FetchError, Fetched, FetchedPartition, Lane, Log, Pending, Permit, Retention, Ticket, TimeKind,
    Topic, TopicName, TopicSpec,
};
use tracklog_protocol::batch::{BatchBuilder, Stamp};
use tracklog_protocol::{
    BatchView, Offset, PartitionId, PayloadKind, Records, TimeMicros, TopicId,
};

use super::chain::{Chain, ChainError};
use super::columns::RowPlace;
use super::file::{FileError, OpenFile};
use super::manifest::{FileEntry, Missing, OffsetRange, Span};
use super::store::{Store, StoreError};

/// What open files take, at most; but for one.
pub const CACHE_BYTES: usize = 128 << 20;
/// What is read of a partition at once: more than is asked for, since a page is decoded whole.
pub const AHEAD_BYTES: usize = 4 << 20;
/// A batch that is put together again has about so many bytes at most.
const BATCH_BYTES: usize = 512 << 10;

/// A read-only log over an archive.
pub struct ArchiveLog {
    store: Store,
    topics: Vec<Archived>,
    files: Mutex<Files>,
    ahead: Mutex<HashMap<PartitionId, Ahead>>,
    budget: Arc<Budget>,
}

/// A topic of the archive.
struct Archived {
    topic: Topic,
    spans: Vec<Span>,
    steps: Vec<StepFiles>,
    /// By partition, rising: ranges, and the step of each.
    ranges: Vec<Vec<(OffsetRange, usize)>>,
}

/// What a step of the archive added.
struct StepFiles {
    files: Vec<FileEntry>,
    missing: Vec<Missing>,
}

/// Records of a partition that were read before they were asked for.
struct Ahead {
    /// The offset before which all was given out.
    from: Offset,
    next: Offset,
    batches: VecDeque<BatchView>,
    damage: Vec<Damage>,
}

impl ArchiveLog {
    /// Opens the archive in `store`.
    ///
    /// # Errors
    /// [`ChainError`] when its manifests are not whole.
    pub async fn open(store: Store) -> Result<Self, ChainError> {
        let chain = Chain::load(&store).await?;
        let names: Vec<_> = chain.topics().into_iter().flat_map(|it| it.keys().cloned()).collect();
        let topics = (0_u32..).zip(names);
        let topics = topics.filter_map(|(id, name)| Archived::of(&chain, TopicId(id), &name));
        Ok(Self::over(topics.collect(), store))
    }

    /// Opens one topic of it, if it has one of this name, under the id that `topic` has.
    pub(super) async fn open_as(store: Store, topic: &Topic) -> Result<Self, ChainError> {
        let chain = Chain::load(&store).await?;
        let found = Archived::of(&chain, topic.id, topic.name());
        Ok(Self::over(found.into_iter().collect(), store))
    }

    fn over(topics: Vec<Archived>, store: Store) -> Self {
        let (files, ahead, budget) = (Mutex::default(), Mutex::default(), Budget::new(0));
        Self { store, topics, files, ahead, budget }
    }

    fn archived(&self, id: PartitionId) -> Option<&Archived> {
        let found = self.topics.iter().find(|it| it.topic.id == id.topic);
        found.filter(|it| (id.partition as usize) < it.spans.len())
    }

    async fn fetch_partition(
        &self,
        id: PartitionId,
        from: Offset,
        bytes_max: usize,
    ) -> Result<FetchedPartition, FetchError> {
        let archived = self.archived(id).ok_or(FetchError::UnknownPartition { partition: id })?;
        let extent = archived.extent(id.partition);
        if !(extent.start..=extent.end).contains(&from) {
            return Err(FetchError::OutOfRange { partition: id, asked: from, extent });
        }
        let kept = self.ahead.lock().remove(&id).filter(|ahead| ahead.from == from);
        let mut ahead = match kept {
            Some(ahead) => ahead,
            None => self.read(archived, id, from).await?,
        };
        let (batches, damage) = (ahead.give(bytes_max), std::mem::take(&mut ahead.damage));
        let next = ahead.from;
        if !ahead.batches.is_empty() {
            self.ahead.lock().insert(id, ahead);
        }
        Ok(FetchedPartition { partition: id, batches, next, extent, damage })
    }

    /// Reads on at `from`, about [`AHEAD_BYTES`] of one step.
    async fn read(
        &self,
        archived: &Archived,
        id: PartitionId,
        from: Offset,
    ) -> Result<Ahead, FetchError> {
        let Some((range, step)) = archived.range_at(id.partition, from) else {
            return Ok(Ahead::nothing(from));
        };
        let window = OffsetRange { from: from.0, to: step.window_end(from, range), ..range };
        let mut gathered = Gathered::default();
        let mut damage = step.missing_of(id, window);
        for file in &step.files {
            let Some(of_partition) = file.of_partition(id.partition) else { continue };
            if of_partition.last < window.from || window.to <= of_partition.first {
                continue;
            }
            let read = match self.open_file(file).await {
                Ok(open) => gathered.read(&open, open.rows_of(window)),
                Err(error) => Err(error),
            };
            match read {
                Ok(()) => {}
                Err(OpenError::Damaged(what)) => damage.push(Damage {
                    partition: id,
                    from: Offset(of_partition.first.max(window.from)),
                    to: Offset(of_partition.last.min(window.to - 1) + 1),
                    what: format!("{}: {what}", file.path),
                }),
                Err(OpenError::Store(error)) => {
                    return Err(FetchError::Io { partition: id, why: error.to_string() });
                }
            }
        }
        let batches = gathered.batches(id);
        Ok(Ahead { from, next: Offset(window.to), batches, damage })
    }

    async fn open_file(&self, file: &FileEntry) -> Result<OpenFile, OpenError> {
        if let Some(open) = self.files.lock().get(&file.path) {
            return Ok(open);
        }
        let bytes = match self.store.get(&file.path).await {
            Ok(bytes) => bytes,
            Err(error @ StoreError::NotFound { .. }) => {
                return Err(OpenError::Damaged(error.to_string()));
            }
            Err(error) => return Err(OpenError::Store(error)),
        };
        let open = OpenFile::open(bytes, &file.sha256)?;
        self.files.lock().put(&file.path, open.clone());
        Ok(open)
    }

    async fn first_at(
        &self,
        id: PartitionId,
        kind: TimeKind,
        time: TimeMicros,
    ) -> Result<Offset, FetchError> {
        let archived = self.archived(id).ok_or(FetchError::UnknownPartition { partition: id })?;
        for (range, step) in &archived.ranges[id.partition as usize] {
            let mut first = None;
            for file in &archived.steps[*step].files {
                let greatest = match kind {
                    TimeKind::Append => file.max_append_time,
                    TimeKind::Event => file.max_event_time,
                };
                if greatest < time.0 || file.of_partition(id.partition).is_none() {
                    continue;
                }
                let failed = |why: String| FetchError::Io { partition: id, why };
                let open = self.open_file(file).await.map_err(|error| failed(error.to_string()))?;
                let of_range = |place: RowPlace, event: TimeMicros| {
                    let is = if kind == TimeKind::Append { place.appended_at } else { event };
                    if is >= time && first.is_none_or(|first| place.offset < first) {
                        first = Some(place.offset);
                    }
                };
                read_times(&open, open.rows_of(*range), of_range)
                    .map_err(|error| failed(error.to_string()))?;
            }
            if let Some(first) = first {
                return Ok(first);
            }
        }
        Ok(archived.extent(id.partition).end)
    }
}

fn read_times(
    open: &OpenFile,
    rows: Range<usize>,
    mut sink: impl FnMut(RowPlace, TimeMicros),
) -> Result<(), FileError> {
    open.read(rows, |place, record| {
        sink(place, record.event_time().expect("rows are events"));
    })
}

/// A file cannot be opened.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    /// Now: the store failed.
    #[error(transparent)]
    Store(StoreError),
    /// Nor later.
    #[error("{0}")]
    Damaged(String),
}

impl From<FileError> for OpenError {
    fn from(error: FileError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl Archived {
    fn of(chain: &Chain, id: TopicId, name: &str) -> Option<Self> {
        let ends = chain.topics()?.get(name)?;
        let name = TopicName::new(name).ok()?;
        let partitions = u32::try_from(ends.partitions.len()).ok()?;
        let mut steps = Vec::new();
        let mut ranges = vec![Vec::new(); ends.partitions.len()];
        for manifest in chain.steps(name.as_str()) {
            for range in &manifest.ranges {
                ranges[range.partition as usize].push((*range, steps.len()));
            }
            let (files, missing) = (manifest.files.clone(), manifest.missing.clone());
            steps.push(StepFiles { files, missing });
        }
        let spec = TopicSpec { name, partitions, retention: Retention::Keep };
        let topic = Topic { id, spec, created: TimeMicros(ends.created) };
        Some(Self { topic, spans: ends.partitions.clone(), steps, ranges })
    }

    fn extent(&self, partition: u32) -> Extent {
        let span = self.spans[partition as usize];
        Extent { start: Offset(span.start), end: Offset(span.end) }
    }

    fn range_at(&self, partition: u32, offset: Offset) -> Option<(OffsetRange, &StepFiles)> {
        let ranges = &self.ranges[partition as usize];
        let index = ranges.partition_point(|(range, _)| range.to <= offset.0);
        let (range, step) = ranges.get(index)?;
        Some((*range, &self.steps[*step]))
    }
}

impl StepFiles {
    /// Where to stop reading at `from`, by what an event has in this step on average.
    fn window_end(&self, from: Offset, range: OffsetRange) -> u64 {
        let rows: u64 = self.files.iter().map(|file| file.rows).sum();
        let bytes: u64 = self.files.iter().map(|file| file.event_bytes).sum();
        let of_one = bytes.checked_div(rows).unwrap_or(1).max(1);
        from.0.saturating_add((AHEAD_BYTES as u64 / of_one).max(1)).min(range.to)
    }

    fn missing_of(&self, id: PartitionId, window: OffsetRange) -> Vec<Damage> {
        let of_window = self.missing.iter().filter(|missing| {
            let range = missing.range;
            range.partition == id.partition && range.from < window.to && window.from < range.to
        });
        // What the log itself passed over in silence is passed over here.
        let is_loss = |missing: &&Missing| {
            missing.why.starts_with("damaged") || missing.why.starts_with("no longer")
        };
        let damage = |missing: &Missing| Damage {
            partition: id,
            from: Offset(missing.range.from.max(window.from)),
            to: Offset(missing.range.to.min(window.to)),
            what: format!("not archived: {}", missing.why),
        };
        of_window.filter(is_loss).map(damage).collect()
    }
}

impl Ahead {
    const fn nothing(from: Offset) -> Self {
        Self { from, next: from, batches: VecDeque::new(), damage: Vec::new() }
    }

    /// Takes batches of about `bytes_max`, at least one if there is any.
    fn give(&mut self, bytes_max: usize) -> Vec<BatchView> {
        let mut given = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max.max(1) {
            let Some(batch) = self.batches.pop_front() else { break };
            bytes += batch.bytes().len();
            given.push(batch);
        }
        self.from = self.batches.front().map_or(self.next, BatchView::base_offset);
        given
    }
}

/// Records out of several files.
#[derive(Default)]
struct Gathered {
    records: Records,
    places: Vec<RowPlace>,
}

impl Gathered {
    fn read(&mut self, open: &OpenFile, rows: Range<usize>) -> Result<(), OpenError> {
        open.read(rows, |place, record| {
            self.places.push(place);
            self.records.push(record);
        })?;
        Ok(())
    }

    /// The records in the order of their offsets, in batches of one append time each.
    fn batches(&self, id: PartitionId) -> VecDeque<BatchView> {
        let mut order: Vec<usize> = (0..self.places.len()).collect();
        order.sort_unstable_by_key(|index| self.places[*index].offset);
        let mut batches = VecDeque::new();
        let mut building: Option<Building> = None;
        for index in order {
            let place = self.places[index];
            let record = self.records.get(index).expect("each place has a record");
            let fits = |it: &Building| it.fits(place, record.bytes().len());
            if !building.as_ref().is_some_and(fits)
                && let Some(full) = building.replace(Building::new(place))
            {
                batches.push_back(full.finish(id));
            }
            let building = building.as_mut().expect("it was just made where there was none");
            building.builder.push(record);
            building.next = place.offset.plus(1);
        }
        batches.extend(building.map(|last| last.finish(id)));
        batches
    }
}

/// A batch in the making.
struct Building {
    builder: BatchBuilder,
    first: RowPlace,
    next: Offset,
}

impl Building {
    const fn new(first: RowPlace) -> Self {
        let builder = BatchBuilder::new(PayloadKind::Event);
        Self { builder, first, next: first.offset }
    }

    fn fits(&self, place: RowPlace, record_bytes: usize) -> bool {
        place.offset == self.next
            && place.appended_at == self.first.appended_at
            && self.builder.batch_bytes_next(record_bytes) <= BATCH_BYTES
    }

    fn finish(self, partition: PartitionId) -> BatchView {
        let RowPlace { offset, appended_at, .. } = self.first;
        self.builder.finish().stamped(&Stamp {
            partition,
            base_offset: offset,
            append_time: appended_at,
        })
    }
}

/// Open files, those used last.
#[derive(Default)]
struct Files {
    open: HashMap<String, (OpenFile, u64)>,
    bytes: usize,
    uses: u64,
}

impl Files {
    fn get(&mut self, path: &str) -> Option<OpenFile> {
        self.uses += 1;
        let (open, used) = self.open.get_mut(path)?;
        *used = self.uses;
        Some(open.clone())
    }

    fn put(&mut self, path: &str, open: OpenFile) {
        self.uses += 1;
        self.bytes += open.memory_bytes();
        if let Some((before, _)) = self.open.insert(path.to_owned(), (open, self.uses)) {
            self.bytes -= before.memory_bytes();
        }
        while self.bytes > CACHE_BYTES && self.open.len() > 1 {
            let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used);
            let oldest = oldest.map(|(path, _)| path.clone()).expect("there are two");
            if let Some((gone, _)) = self.open.remove(&oldest) {
                self.bytes -= gone.memory_bytes();
            }
        }
    }
}

fn closed() -> AppendError {
    AppendError::Closed { why: "an archive is only read".into() }
}

impl Log for ArchiveLog {
    fn open(&self, _: Domain) -> Pending<'_, Result<Epoch, AppendError>> {
        Box::pin(async { Err(closed()) })
    }

    fn reserve(&self, lane: Lane, bytes: usize) -> Result<Permit, Busy> {
        self.budget.reserve(lane, bytes)
    }

    fn append(&self, _: Permit, _: Epoch, _: Append<'_>) -> Ticket {
        Ticket::refused(closed())
    }

    fn fetch(&self, fetch: Fetch) -> Pending<'_, Result<Fetched, FetchError>> {
        Box::pin(async move {
            let mut partitions = Vec::with_capacity(fetch.from.len());
            let bytes_max = fetch.bytes_max / fetch.from.len().max(1);
            for (id, from) in fetch.from {
                partitions.push(self.fetch_partition(id, from, bytes_max).await?);
            }
            Ok(Fetched { epoch: Epoch(0), partitions })
        })
    }

    fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.archived(partition).map(|it| it.extent(partition.partition))
    }

    fn grown(&self, _: Vec<(PartitionId, Offset)>) -> Pending<'_, ()> {
        // It never grows; whoever follows waits until he is told otherwise.
        Box::pin(std::future::pending())
    }

    fn offset_at(
        &self,
        partition: PartitionId,
        kind: TimeKind,
        time: TimeMicros,
    ) -> Pending<'_, Result<Offset, FetchError>> {
        Box::pin(self.first_at(partition, kind, time))
    }

    fn trim(&self, _: PartitionId, _: Offset) -> Pending<'_, Result<(), AppendError>> {
        Box::pin(async { Err(closed()) })
    }

    fn create_topic(&self, _: TopicSpec) -> Pending<'_, Result<Topic, CatalogError>> {
        Box::pin(async { Err(CatalogError::Append(closed())) })
    }

    fn delete_topic(&self, _: &TopicName) -> Pending<'_, Result<(), CatalogError>> {
        Box::pin(async { Err(CatalogError::Append(closed())) })
    }

    fn topics(&self) -> Vec<Topic> {
        self.topics.iter().map(|it| it.topic.clone()).collect()
    }

    fn topic(&self, name: &str) -> Option<Topic> {
        self.topics.iter().map(|it| &it.topic).find(|topic| topic.name() == name).cloned()
    }
}

impl std::fmt::Debug for ArchiveLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveLog").field("url", &self.store.url()).finish_non_exhaustive()
    }
}
