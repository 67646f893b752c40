//! A log of which one topic is read from an archive instead: the same offsets, the same records,
//! whether the log still has them or not. Everything else is the log's own.
//!
//! Promises
//! - A stage over the topic reads what the archive had when it was opened, and appends to the log.
//! - The topic keeps the id that it has in the log, so that groups hold offsets of it as ever.

use std::sync::Arc;

use tracklog_log::{
    Append, AppendError, Busy, CatalogError, Domain, Epoch, Extent, Fetch, FetchError, Fetched,
    Lane, Log, Pending, Permit, Ticket, TimeKind, Topic, TopicName, TopicSpec,
};
use tracklog_protocol::{Offset, PartitionId, TimeMicros};

use super::chain::ChainError;
use super::log::ArchiveLog;
use super::store::Store;

/// Why an archive cannot stand in for a topic.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubstituteError {
    /// There is no archive, or its manifests are not whole.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The archive lacks the topic.
    #[error("the archive has no topic {topic}")]
    NoTopic {
        /// Its name.
        topic: String,
    },
    /// A key's records would lie in another partition.
    #[error("topic {topic} has {log} partitions in the log, and {archive} in the archive")]
    Partitions {
        /// Its name.
        topic: String,
        /// How many the log has.
        log: u32,
        /// How many the archive has.
        archive: u32,
    },
}

/// The log that reads one topic from an archive.
pub struct Substitute {
    log: Arc<dyn Log>,
    archive: ArchiveLog,
    topic: Topic,
}

impl Substitute {
    /// Over `log`, whose `topic` is read from the archive in `store`.
    ///
    /// # Errors
    /// [`SubstituteError`] when the archive does not have it.
    pub async fn open(
        log: Arc<dyn Log>,
        topic: Topic,
        store: Store,
    ) -> Result<Self, SubstituteError> {
        let archive = ArchiveLog::open_as(store, &topic).await?;
        let name = || topic.name().to_owned();
        let Some(found) = archive.topic(topic.name()) else {
            return Err(SubstituteError::NoTopic { topic: name() });
        };
        let (log_has, archive_has) = (topic.spec.partitions, found.spec.partitions);
        if log_has != archive_has {
            let (log, archive) = (log_has, archive_has);
            return Err(SubstituteError::Partitions { topic: name(), log, archive });
        }
        Ok(Self { log, archive, topic })
    }

    /// Who reads this partition.
    fn reader(&self, partition: PartitionId) -> &dyn Log {
        if self.is_archived(partition) { &self.archive } else { &*self.log }
    }

    fn is_archived(&self, partition: PartitionId) -> bool {
        partition.topic == self.topic.id
    }

    /// A request for both: what the archive has is there at once, and nobody waits.
    async fn fetch_both(&self, fetch: Fetch) -> Result<Fetched, FetchError> {
        let order: Vec<_> = fetch.from.iter().map(|(partition, _)| *partition).collect();
        let (archived, own): (Vec<_>, Vec<_>) =
            fetch.from.iter().partition(|(partition, _)| self.is_archived(*partition));
        let part = |from| Fetch { from, wait: false, ..fetch.clone() };
        let mut fetched = self.log.fetch(part(own)).await?;
        fetched.partitions.extend(self.archive.fetch(part(archived)).await?.partitions);
        let place = |partition| order.iter().position(|asked| *asked == partition);
        fetched.partitions.sort_by_key(|found| place(found.partition));
        Ok(fetched)
    }
}

impl Log for Substitute {
    fn open(&self, domain: Domain) -> Pending<'_, Result<Epoch, AppendError>> {
        self.log.open(domain)
    }

    fn reserve(&self, lane: Lane, bytes: usize) -> Result<Permit, Busy> {
        self.log.reserve(lane, bytes)
    }

    fn append(&self, permit: Permit, epoch: Epoch, append: Append<'_>) -> Ticket {
        self.log.append(permit, epoch, append)
    }

    fn fetch(&self, fetch: Fetch) -> Pending<'_, Result<Fetched, FetchError>> {
        let archived = fetch.from.iter().filter(|(partition, _)| self.is_archived(*partition));
        match archived.count() {
            0 => self.log.fetch(fetch),
            all if all == fetch.from.len() => self.archive.fetch(fetch),
            _ => Box::pin(self.fetch_both(fetch)),
        }
    }

    fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.reader(partition).extent(partition)
    }

    fn grown(&self, mut past: Vec<(PartitionId, Offset)>) -> Pending<'_, ()> {
        let is_there = |(partition, offset): &(PartitionId, Offset)| {
            self.is_archived(*partition)
                && self.archive.extent(*partition).is_some_and(|extent| extent.end > *offset)
        };
        if past.iter().any(is_there) {
            return Box::pin(std::future::ready(()));
        }
        past.retain(|(partition, _)| !self.is_archived(*partition));
        match past.is_empty() {
            true => Box::pin(std::future::pending()),
            false => self.log.grown(past),
        }
    }

    fn offset_at(
        &self,
        partition: PartitionId,
        kind: TimeKind,
        time: TimeMicros,
    ) -> Pending<'_, Result<Offset, FetchError>> {
        self.reader(partition).offset_at(partition, kind, time)
    }

    fn trim(&self, partition: PartitionId, before: Offset) -> Pending<'_, Result<(), AppendError>> {
        self.log.trim(partition, before)
    }

    fn create_topic(&self, spec: TopicSpec) -> Pending<'_, Result<Topic, CatalogError>> {
        self.log.create_topic(spec)
    }

    fn delete_topic(&self, name: &TopicName) -> Pending<'_, Result<(), CatalogError>> {
        self.log.delete_topic(name)
    }

    fn topics(&self) -> Vec<Topic> {
        self.log.topics()
    }

    fn topic(&self, name: &str) -> Option<Topic> {
        self.log.topic(name)
    }
}

impl std::fmt::Debug for Substitute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Substitute")
            .field("topic", &self.topic.name())
            .field("archive", &self.archive)
            .finish_non_exhaustive()
    }
}
