//! Reading a log that nobody has open: recovery in memory, and nothing written.

use std::path::Path;
use std::sync::Arc;

use tracklog_log::{
    Append, AppendError, Budget, Busy, CatalogError, Domain, Epoch, Extent, Fetch, FetchError,
    Fetched, Lane, Limits, Log, Pending, Permit, Ticket, TimeKind, Topic, TopicName, TopicSpec,
};
use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};

use crate::disk::{BackendChoice, Disk, FolderAccess, open_folder};
use crate::error::OpenError;
use crate::journal::recovery::{Note, recover};
use crate::open::{published_of, reader_of};
use crate::options::Options;
use crate::published::Published;
use crate::read::Reader;

/// So many threads read.
const REPLAY_THREADS: usize = 2;
/// How much memory the places of segments may take.
const INDEX_BYTES: u64 = 256 << 20;

/// A log opened to read, from files that stay as they are.
///
/// Appends are refused as to a closed log; a fetch that waits ends at once.
#[derive(Debug)]
pub struct OfflineLog {
    published: Arc<Published>,
    reader: Arc<Reader>,
    budget: Arc<Budget>,
    notes: Vec<Note>,
}

impl OfflineLog {
    /// Opens the log in the folder `path`.
    ///
    /// # Errors
    /// [`OpenError`]: locked by a running node, no log, or damaged beyond telling where it ends.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let disk = open_folder(path, FolderAccess::ReadOnly, BackendChoice::Auto)?;
        let log = Self::open_on(disk)?;
        log.ok_or_else(|| OpenError::NotALog { path: path.to_owned() })
    }

    /// Opens the log on `disk`; `None` when there is none.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_on(disk: Arc<dyn Disk>) -> Result<Option<Self>, OpenError> {
        let Some(recovered) = recover(&*disk, false)? else { return Ok(None) };
        let (topics, places, tail) = published_of(&recovered, 0, INDEX_BYTES);
        let published = Published::new(topics, places, tail);
        published.close();
        let reading = Options { replay_threads: REPLAY_THREADS, ..Options::default() };
        let reader = reader_of(&published, &disk, &reading, recovered.cluster)?;
        Ok(Some(Self { published, reader, budget: Budget::new(0), notes: recovered.notes }))
    }

    /// What recovery found.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }
}

impl Drop for OfflineLog {
    fn drop(&mut self) {
        self.reader.stop();
    }
}

fn closed() -> AppendError {
    AppendError::Closed { why: "it is open to read only".into() }
}

impl Log for OfflineLog {
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
        self.reader.fetch(Epoch(0), Fetch { wait: false, ..fetch })
    }

    fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.published.topics.read().extent(partition)
    }

    fn grown(&self, _: Vec<(PartitionId, Offset)>) -> Pending<'_, ()> {
        Box::pin(async {})
    }

    fn offset_at(
        &self,
        partition: PartitionId,
        kind: TimeKind,
        time: TimeMicros,
    ) -> Pending<'_, Result<Offset, FetchError>> {
        self.reader.offset_at(partition, kind, time)
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

    fn limits(&self, topic: TopicId) -> Limits {
        self.published.topics.read().catalog.limits(topic)
    }

    fn topic_bytes(&self, topic: TopicId) -> Option<u64> {
        Some(self.published.places.read().topic_bytes(topic))
    }

    fn topics(&self) -> Vec<Topic> {
        self.published.topics.read().catalog.topics().cloned().collect()
    }

    fn topic(&self, name: &str) -> Option<Topic> {
        self.published.topics.read().catalog.topic(name).cloned()
    }
}
