//! The seam between Tracklog's log and everything that stands on it.
//!
//! A gateway, a registry, a stage or a replay sees the log through the trait [`Log`] alone; who
//! stands behind it is decided in one place, the server. This crate holds the trait, the words of
//! its promises (every ack means *synced to disk on this node*), and:
//!
//! - [`memory`]: a twin of the log that lives in memory, plain enough to be an oracle in tests;
//! - `conformance`, a feature: the suite that every implementation must pass;
//! - [`meta`]: a linearizable key-value store over any log;
//! - [`producers`]: when a batch that is sent twice is stored once;
//! - [`dedupe`]: when an event that is sent twice is stored once;
//! - [`erase`]: how single records go for good.
//!
//! It opens no file, and, but for the suite, reads no clock and starts no thread. If you want a log
//! on a disk, that is `tracklog-engine`. Start reading at [`Log`] and [`Append`].
#![forbid(unsafe_code)]

mod append;
mod blocking;
pub mod budget;
mod catalog;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod dedupe;
pub mod erase;
mod fetch;
pub mod memory;
pub mod meta;
pub mod producers;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

pub use append::{Append, AppendError, Condition, Item, Outcome, Stored, Ticket};
pub use blocking::block_on;
pub use budget::{Budget, Busy, Lane, Permit};
pub use catalog::{
    CatalogError, Limits, Retention, Topic, TopicName, TopicNameError, TopicSpec, WhenFull,
};
pub use dedupe::{Dedupe, EventId, IdPlaces, Seen, SeenAt, SeenItem, Settled, SettledPlaces};
pub use erase::{Erase, EraseError};
pub use fetch::{
    Damage, Extent, Fetch, FetchError, FetchMode, Fetched, FetchedPartition, TimeKind,
};
pub use meta::Meta;
use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};

/// An answer that comes later. Dropping it gives up waiting and cancels nothing that was begun.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The partitions that one writer owns; a commit is atomic within it. An embedded log is one
/// domain, [`Domain::WHOLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Domain(pub u32);

impl Domain {
    /// The only domain of an embedded log.
    pub const WHOLE: Self = Self(0);
}

/// Which opening of a domain a writer belongs to. A later opening fences all earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// What an ack vouches for. There is no weaker one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Synced to a disk of this node.
    Disk,
}

impl Durability {
    /// The word that answers and metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
        }
    }
}

/// A durable, partitioned log.
///
/// Promises of every implementation:
/// - a commit is there whole or not at all, over all of its partitions;
/// - what [`append`](Self::append) acked is there after any crash, once and in order;
/// - nothing is readable before it is durable, and an end offset never goes back;
/// - offsets of a partition rise by one, but for skips after damage, and are never given twice;
/// - a batch that names its producer is stored once, however often it is sent: [`producers`];
/// - so is an event, in topics for which the log is told so when it is opened: [`dedupe`].
pub trait Log: Send + Sync + 'static {
    /// Becomes the writer of `domain`; fences all earlier writers of it.
    fn open(&self, domain: Domain) -> Pending<'_, Result<Epoch, AppendError>>;

    /// Sets `bytes` of the intake's budget aside for an append that will follow, before its body
    /// is read. `Busy` is the word of back-pressure: nothing was taken.
    ///
    /// # Errors
    /// [`Busy`] when the budget, or this lane's half of it, is used up.
    fn reserve(&self, lane: Lane, bytes: usize) -> Result<Permit, Busy>;

    /// Appends all items in one commit, or none. The order among appends is fixed by this call;
    /// the ticket resolves when the outcome is known. Dropping the ticket cancels nothing.
    fn append(&self, permit: Permit, epoch: Epoch, append: Append<'_>) -> Ticket;

    /// As [`append`](Self::append), and waits for the outcome on this thread, which a log may have
    /// make the write meanwhile. For threads that have nothing else to do: on one that drives
    /// futures it would hold up all others.
    ///
    /// # Errors
    /// As the ticket's.
    fn append_blocking(
        &self,
        permit: Permit,
        epoch: Epoch,
        append: Append<'_>,
    ) -> Result<Stored, AppendError> {
        block_on(self.append(permit, epoch, append))
    }

    /// Reads from many partitions at once. See [`Fetch`].
    fn fetch(&self, fetch: Fetch) -> Pending<'_, Result<Fetched, FetchError>>;

    /// The readable range of a partition, if there is such a partition.
    fn extent(&self, partition: PartitionId) -> Option<Extent>;

    /// Resolves as soon as the end of any of these partitions is above the offset beside it.
    fn grown(&self, past: Vec<(PartitionId, Offset)>) -> Pending<'_, ()>;

    /// The first offset of `partition` whose time is at or after `time`; its end when there is
    /// none. Append times never go back; event times may come in any order, and "first" then
    /// means the lowest offset.
    fn offset_at(
        &self,
        partition: PartitionId,
        kind: TimeKind,
        time: TimeMicros,
    ) -> Pending<'_, Result<Offset, FetchError>>;

    /// Gives up all records of `partition` below `before`, for good.
    fn trim(&self, partition: PartitionId, before: Offset) -> Pending<'_, Result<(), AppendError>>;

    /// Erases records for good. Resolves when none of them is readable and, of a log that lies on a
    /// disk, no file of it holds their bytes; all others stay as they are, at their offsets. Whatever
    /// ends in between, what was begun goes on when the log is opened again, and so does the rest
    /// where this is dropped; with no records it waits for what others began. Of a compacted topic a
    /// key whose last record is erased is as one that was never written, and its older records go
    /// along. See [`erase`].
    fn erase(&self, records: Vec<Erase>) -> Pending<'_, Result<(), EraseError>> {
        drop(records);
        let why = "this log keeps what it has";
        Box::pin(std::future::ready(Err(EraseError::Unsupported { why })))
    }

    /// Makes a topic. Asking again for a topic that is there with the same spec returns it.
    fn create_topic(&self, spec: TopicSpec) -> Pending<'_, Result<Topic, CatalogError>>;

    /// Deletes a topic with all its records. Its id is never used again.
    fn delete_topic(&self, name: &TopicName) -> Pending<'_, Result<(), CatalogError>>;

    /// All topics, by name; internal ones too.
    fn topics(&self) -> Vec<Topic>;

    /// The topic called `name`.
    fn topic(&self, name: &str) -> Option<Topic>;

    /// Says how much of a topic is to be kept. What goes is given up as by [`trim`](Self::trim); a
    /// topic of keys that is compacted has no limits.
    fn set_limits(
        &self,
        name: &TopicName,
        limits: Limits,
    ) -> Pending<'_, Result<(), CatalogError>> {
        let _ = (name, limits);
        let why = "this log keeps what it has";
        Box::pin(std::future::ready(Err(CatalogError::Unlimited { why })))
    }

    /// How much of a topic is kept.
    fn limits(&self, topic: TopicId) -> Limits {
        let _ = topic;
        Limits::default()
    }

    /// What the records of a topic take on the disk, where that is known; those of the newest
    /// segment are not counted.
    fn topic_bytes(&self, topic: TopicId) -> Option<u64> {
        let _ = topic;
        None
    }

    /// How long an event of this topic is known again, where it is stored once: see [`dedupe`].
    fn dedupe_window(&self, topic: TopicId) -> Option<Duration> {
        let _ = topic;
        None
    }

    /// Where settled events of the window lie that may have these ids: asked where an append was
    /// refused with [`SeenAt::Settled`], which most logs never say.
    fn settled_places(&self, ids: Vec<EventId>) -> Pending<'_, Result<SettledPlaces, FetchError>> {
        Box::pin(std::future::ready(Ok(SettledPlaces::none(ids.len()))))
    }

    /// Where events of a topic lie that may have this message id, of whatever source and however old;
    /// and of which stretches a log cannot tell but by reading them: of all, where it has no index.
    fn id_places(
        &self,
        topic: TopicId,
        message_id: &str,
    ) -> Pending<'_, Result<IdPlaces, FetchError>> {
        let _ = message_id;
        let topics = self.topics().into_iter().filter(|it| it.id == topic);
        let partitions: Vec<_> =
            topics.flat_map(|it| it.partitions().collect::<Vec<_>>()).collect();
        let extents = partitions.into_iter().filter_map(|it| Some((it, self.extent(it)?)));
        let unindexed = extents.map(|(it, extent)| (it, extent.start..extent.end)).collect();
        Box::pin(std::future::ready(Ok(IdPlaces { places: Vec::new(), unindexed })))
    }
}
