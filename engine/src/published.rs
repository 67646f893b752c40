//! What readers see: the catalog, where each partition ends, where its batches lie, the newest
//! buffers, and who waits for more.
//!
//! Promises
//! - Only what is durable is here: the appender changes it in commit order, after the sync.
//! - An end offset is raised after the places below it are listed, so that whoever sees the end
//!   finds the records.
//!
//! The appender writes; everyone else reads. Locks are taken in the order of the fields.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Poll, Waker};

use bytes::Bytes;
use foldhash::HashMap;
use tracklog_log::{Extent, Pending};
use tracklog_protocol::{Offset, PartitionId, TimeMicros};

use crate::catalog::{Catalog, Change, Row};
use crate::journal::commit::{CommitHeader, DirectoryEntry};
use crate::partition::places::Places;
use crate::partition::tail::Tail;
use crate::seen::event_ids::KnownIds;
use crate::seen::producers::Standing;
use crate::settled::erasure::RequestId;

use super::relay::Relays;
use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, RwLock, fence};

/// Where a partition starts and ends.
#[derive(Debug, Default)]
struct RowExtent {
    start: AtomicU64,
    end: AtomicU64,
}

/// Topics, and the extents of their partitions.
#[derive(Debug)]
pub(crate) struct Topics {
    pub(crate) catalog: Catalog,
    extents: Vec<RowExtent>,
}

impl Topics {
    pub(crate) fn new(catalog: Catalog) -> Self {
        let mut topics = Self { catalog, extents: Vec::new() };
        topics.grow();
        topics
    }

    /// Gives new rows their extents.
    pub(crate) fn grow(&mut self) {
        self.extents.resize_with(self.catalog.row_count(), RowExtent::default);
    }

    pub(crate) fn extent_of(&self, row: Row) -> Extent {
        let extent = &self.extents[row.index()];
        // The end first: it only rises, so that start <= end holds for what is seen.
        let end = extent.end.load(Ordering::Acquire);
        let start = extent.start.load(Ordering::Acquire).min(end);
        Extent { start: Offset(start), end: Offset(end) }
    }

    /// Where the partition of `row` starts.
    pub(crate) fn start_of(&self, row: Row) -> Offset {
        Offset(self.extents[row.index()].start.load(Ordering::Acquire))
    }

    pub(crate) fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.catalog.row(partition).map(|row| self.extent_of(row))
    }

    /// Whether one of the partitions has grown past the offset beside it.
    fn any_grown(&self, past: &[(Row, Offset)]) -> bool {
        past.iter().any(|(row, past)| self.extent_of(*row).end > *past)
    }

    pub(crate) fn set_start(&self, row: Row, start: Offset) {
        self.extents[row.index()].start.fetch_max(start.0, Ordering::Release);
    }

    pub(crate) fn set_end(&self, row: Row, end: Offset) {
        let before = self.extents[row.index()].end.swap(end.0, Ordering::Release);
        assert!(before <= end.0, "an end offset never goes back");
    }
}

/// Someone who waits for partitions to grow.
#[derive(Debug)]
struct Watcher {
    past: Arc<[(Row, Offset)]>,
    waker: Waker,
}

/// All who wait, by a number of their own. Wakers are woken and dropped outside of the lock: that
/// may run anything.
#[derive(Debug, Default)]
struct Watchers {
    waiting: Mutex<HashMap<u64, Watcher>>,
    count: AtomicUsize,
    next_id: AtomicU64,
}

impl Watchers {
    fn insert(&self, id: u64, watcher: Watcher) {
        let mut waiting = self.waiting.lock();
        let before = waiting.insert(id, watcher);
        self.count.store(waiting.len(), Ordering::Release);
        drop(waiting);
        drop(before);
    }

    fn remove(&self, id: u64) {
        let mut waiting = self.waiting.lock();
        let gone = waiting.remove(&id);
        self.count.store(waiting.len(), Ordering::Release);
        drop(waiting);
        drop(gone);
    }

    /// Takes out those for whom `over` says so. The caller wakes them when it holds no lock.
    #[must_use]
    fn take(&self, over: impl Fn(&Watcher) -> bool) -> Vec<Waker> {
        let mut waiting = self.waiting.lock();
        let taken = waiting.extract_if(|_, watcher| over(watcher));
        let taken = taken.map(|(_, watcher)| watcher.waker).collect();
        self.count.store(waiting.len(), Ordering::Release);
        taken
    }
}

/// How many reads were served from where.
#[derive(Debug, Default)]
pub(crate) struct ReadCounts {
    pub(crate) ring: AtomicU64,
    pub(crate) active: AtomicU64,
    pub(crate) map: AtomicU64,
    pub(crate) pack: AtomicU64,
}

/// Where idempotent producers stood when a segment was sealed last, or the log was opened.
#[derive(Clone, Debug)]
pub(crate) struct SealedProducers {
    /// Of the last commit that they add up to.
    pub(crate) append_time: TimeMicros,
    pub(crate) standings: Arc<Vec<Standing>>,
}

impl Default for SealedProducers {
    fn default() -> Self {
        Self { append_time: TimeMicros(i64::MIN), standings: Arc::default() }
    }
}

/// What readers see.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) topics: RwLock<Topics>,
    pub(crate) places: RwLock<Places>,
    pub(crate) tail: RwLock<Tail>,
    /// Set before the segment counts as full: packs are made of those.
    pub(crate) sealed: Mutex<SealedProducers>,
    watchers: Watchers,
    pub(crate) relays: Arc<Relays>,
    closed: AtomicBool,
    pub(crate) reads: ReadCounts,
    /// By what events are known again. Of those that are on their way too.
    pub(crate) ids: KnownIds,
}

impl Published {
    pub(crate) fn new(topics: Topics, places: Places, tail: Tail) -> Arc<Self> {
        Self::with_ids(topics, places, tail, KnownIds::default())
    }

    pub(crate) fn with_ids(topics: Topics, places: Places, tail: Tail, ids: KnownIds) -> Arc<Self> {
        Arc::new(Self {
            topics: RwLock::new(topics),
            places: RwLock::new(places),
            tail: RwLock::new(tail),
            sealed: Mutex::default(),
            watchers: Watchers::default(),
            relays: Arc::default(),
            closed: AtomicBool::new(false),
            reads: ReadCounts::default(),
            ids,
        })
    }

    /// Lists a durable commit and raises the end offsets.
    pub(crate) fn commit(
        &self,
        header: &CommitHeader,
        entries: &[(Row, DirectoryEntry)],
        pages: Bytes,
    ) {
        self.places.write().publish(header, entries);
        self.tail.write().push(header.segment, header.position, pages);
        let topics = self.topics.read();
        for (row, entry) in entries {
            topics.set_end(*row, entry.end_offset());
        }
    }

    /// Applies a durable record of a compacted topic.
    pub(crate) fn apply(
        &self,
        partition: PartitionId,
        offset: Offset,
        record: &tracklog_protocol::KeyValue<'_>,
    ) -> Change {
        let mut topics = self.topics.write();
        let change = topics.catalog.apply(partition, offset, record);
        match &change {
            Change::Created(_) | Change::Recreated { .. } => {
                topics.grow();
                let rows = topics.catalog.row_count();
                drop(topics);
                self.places.write().grow_to(rows);
            }
            Change::Trimmed(partition, start) => {
                if let Some(row) = topics.catalog.row(*partition) {
                    topics.set_start(row, *start);
                }
            }
            Change::Deleted(_) | Change::Erased => {
                drop(topics);
                // Whoever waits for the topic, or for the erasure, has to learn that it is gone.
                self.relays.wake(self.watchers.take(|_| true));
            }
            Change::Erasing(..) | Change::None => {}
        }
        change
    }

    /// Wakes those who waited for what has come.
    pub(crate) fn wake(&self) {
        // Either this sees the watcher on the list, or the watcher sees the new ends.
        fence(Ordering::SeqCst);
        if self.watchers.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let topics = self.topics.read();
        let grown = self.watchers.take(|watcher| topics.any_grown(&watcher.past));
        drop(topics);
        self.relays.wake(grown);
    }

    /// Wakes all who wait: nothing will come any more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.relays.wake(self.watchers.take(|_| true));
        self.relays.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Resolves when one of the partitions has grown past the offset beside it or is gone, or the
    /// log was closed, or none is asked for.
    pub(crate) fn grown(self: &Arc<Self>, past: &[(PartitionId, Offset)]) -> Pending<'static, ()> {
        let topics = self.topics.read();
        let rows = past
            .iter()
            .map(|(partition, past)| topics.catalog.row(*partition).map(|row| (row, *past)));
        let rows: Option<Arc<[_]>> = rows.collect();
        drop(topics);
        let Some(rows) = rows.filter(|rows| !rows.is_empty()) else {
            return Box::pin(std::future::ready(()));
        };
        let partitions = past.iter().map(|(partition, _)| *partition).collect();
        self.wait(rows, WaitsFor::Growth(partitions))
    }

    /// Resolves when all of the request, or of all of them, is erased, or the log was closed.
    pub(crate) fn erased(self: &Arc<Self>, request: Option<RequestId>) -> Pending<'static, ()> {
        self.wait(Arc::default(), WaitsFor::Erasure(request))
    }

    fn wait(
        self: &Arc<Self>,
        past: Arc<[(Row, Offset)]>,
        waits_for: WaitsFor,
    ) -> Pending<'static, ()> {
        let id = self.watchers.next_id.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { published: Arc::clone(self), id, past, waits_for };
        Box::pin(std::future::poll_fn(move |context| waiting.poll(context)))
    }
}

/// What somebody waits for.
enum WaitsFor {
    /// That one of these has grown past the offset beside it, or is gone.
    Growth(Vec<PartitionId>),
    Erasure(Option<RequestId>),
}

/// One wait; leaves nothing behind when it is dropped.
struct Waiting {
    published: Arc<Published>,
    id: u64,
    past: Arc<[(Row, Offset)]>,
    waits_for: WaitsFor,
}

impl Waiting {
    fn poll(&self, context: &std::task::Context<'_>) -> Poll<()> {
        let watcher = Watcher { past: Arc::clone(&self.past), waker: context.waker().clone() };
        self.published.watchers.insert(self.id, watcher);
        // Looked at after it is on the list: whoever publishes later finds it there.
        fence(Ordering::SeqCst);
        let topics = self.published.topics.read();
        let is_over = match &self.waits_for {
            WaitsFor::Growth(partitions) => {
                let is_gone = |it: &PartitionId| topics.catalog.row(*it).is_none();
                topics.any_grown(&self.past) || partitions.iter().any(is_gone)
            }
            WaitsFor::Erasure(request) => !topics.catalog.is_erasing(*request),
        };
        if is_over || self.published.is_closed() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.published.watchers.remove(self.id);
    }
}
