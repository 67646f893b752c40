//! A linearizable key-value store, kept as {key, value} records in an internal topic of a log.
//!
//! Promises
//! - [`Meta::put`] is atomic: of two writers that saw the same version one wins.
//! - [`Meta::get`] after a `put` that returned sees it; a restart changes nothing.
//!
//! For small state that changes seldom (schemas, settings): all of it is held in memory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tracklog_protocol::{BatchView, KeyValue, Offset, PartitionId};

use crate::{
    Append, AppendError, Busy, CatalogError, Condition, Damage, Epoch, Fetch, FetchError,
    FetchMode, Fetched, Item, Lane, Log, Pending, Retention, Ticket, TopicName, TopicSpec,
};

/// A value, and which version of its key it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Bytes,
    /// The version: where its record lies. Rises with every change of the key.
    pub version: Offset,
}

/// What a writer believes about a key before it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Anything: the last writer wins.
    Any,
    /// The key is not there.
    Absent,
    /// The key is there, in this version.
    Version(Offset),
}

/// A linearizable key-value store.
pub trait Meta: Send + Sync + 'static {
    /// The value of `key` now.
    fn get(&self, key: &[u8]) -> Option<Versioned>;

    /// All keys that begin with `prefix`, in order, with their values.
    fn list(&self, prefix: &[u8]) -> Vec<(Bytes, Versioned)>;

    /// Sets `key` to `value`, or removes it (`None`), if what is expected of it holds. Returns
    /// the new version when the change is durable.
    fn put(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        expect: Expect,
    ) -> Pending<'_, Result<Offset, MetaError>>;
}

/// Why a change was not made, or the store not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetaError {
    /// The key is not as expected: read it again and decide anew. Nothing was changed.
    #[error("the key was changed by another writer")]
    Conflict,
    /// The change could not be stored.
    #[error(transparent)]
    Append(AppendError),
    /// The intake is busy; nothing was changed.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The topic could not be made.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The topic could not be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// [`Meta`] over a log: a compacted topic of one partition, replayed into memory.
///
/// Several stores may stand on one topic. A change is decided by the log, in the order of its
/// offsets, so of two that expect the same version one wins, whichever store they go through. What
/// *another* store changed is seen after this store's own next `put`, won or lost, or
/// [`refresh`](Self::refresh).
///
/// A `put` is in the log's order when the call returns; its future only waits. The state moves by
/// reading the topic alone, so memory and log cannot disagree, and a change whose outcome was
/// unknown is seen if it is there. Where the last record of a key is damaged, the one before it that
/// can be read stands for it.
pub struct MetaTopic<L: ?Sized> {
    partition: PartitionId,
    epoch: Epoch,
    replayed: Mutex<Replayed>,
    log: Arc<L>,
}

/// The topic below `next`, as a map.
#[derive(Default)]
struct Replayed {
    values: BTreeMap<Bytes, Versioned>,
    damage: Vec<Damage>,
    next: Offset,
}

/// How much one read of the topic asks for.
const FETCH_BYTES: usize = 1 << 20;

/// So many records are on their way at once when the topic is rewritten.
const REWRITES_AT_ONCE: usize = 256;

impl<L: Log + ?Sized> MetaTopic<L> {
    /// Opens the store in the topic `name`, which it makes if it is not there, for the writer
    /// that holds `epoch`.
    ///
    /// # Errors
    /// [`MetaError::Catalog`] when the topic cannot be made or is of another make,
    /// [`MetaError::Fetch`] when it cannot be read.
    pub async fn open(log: Arc<L>, epoch: Epoch, name: TopicName) -> Result<Self, MetaError> {
        let spec = TopicSpec { name, partitions: 1, retention: Retention::Compact };
        let topic = log.create_topic(spec).await?;
        Self::over(log, epoch, topic.partition(0)).await
    }

    /// Opens the store in the topic that is there as `partition`'s. Whoever holds no epoch can read
    /// it, and is refused when it changes something.
    ///
    /// # Errors
    /// [`MetaError::Fetch`] when the topic cannot be read.
    pub async fn over(
        log: Arc<L>,
        epoch: Epoch,
        partition: PartitionId,
    ) -> Result<Self, MetaError> {
        let store = Self { partition, epoch, replayed: Mutex::default(), log };
        store.refresh().await?;
        Ok(store)
    }

    /// Where its records lie.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Takes in all that is in the topic now, other stores' changes included.
    ///
    /// # Errors
    /// [`MetaError::Fetch`] when the topic cannot be read.
    pub async fn refresh(&self) -> Result<(), MetaError> {
        let partition = self.partition;
        let extent =
            self.log.extent(partition).ok_or(FetchError::UnknownPartition { partition })?;
        self.read_until(extent.end).await
    }

    /// The stretches of the topic that could not be read, so that the values in them are missing.
    #[must_use]
    pub fn damage(&self) -> Vec<Damage> {
        self.replayed().damage.clone()
    }

    /// Writes what counts anew and gives up what lies before, where more than `stale_max` records
    /// do not count any more. What is a value of a key for which `counts` says no is removed.
    ///
    /// Safe beside other changes. A record is written again on the condition that it is still the
    /// last of its key; where it is not, a later one lies above all that is given up. A crash
    /// before the end leaves some records twice. Versions move.
    ///
    /// # Errors
    /// [`MetaError`] when the topic cannot be read or written; it may be done in part then.
    pub async fn rewrite(
        &self,
        stale_max: u64,
        counts: impl Fn(&[u8]) -> bool + Sync,
    ) -> Result<(), MetaError> {
        let Some(extent) = self.log.extent(self.partition) else { return Ok(()) };
        let records = extent.end.0 - extent.start.0;
        if records < stale_max {
            return Ok(());
        }
        // All that lies below the end is known from here on.
        self.refresh().await?;
        let live = self.list(b"");
        if records < live.len() as u64 + stale_max {
            return Ok(());
        }
        for some in live.chunks(REWRITES_AT_ONCE) {
            let again = |(key, Versioned { value, version }): &(Bytes, Versioned)| {
                self.put(key, counts(key).then_some(value), Expect::Version(*version))
            };
            // Each is in line when it is made. The futures only wait.
            let rewritten: Vec<_> = some.iter().map(again).collect();
            for rewritten in rewritten {
                match rewritten.await {
                    Ok(_) | Err(MetaError::Conflict) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.log.trim(self.partition, extent.end).await.map_err(MetaError::Append)
    }

    /// Replays the topic up to `end`, which is published or will be soon. Several may run at
    /// once: they read the same and apply it once.
    async fn read_until(&self, end: Offset) -> Result<(), MetaError> {
        loop {
            let next = self.replayed().next;
            if next >= end {
                return Ok(());
            }
            let from = vec![(self.partition, next)];
            let fetch = Fetch { from, bytes_max: FETCH_BYTES, wait: true, mode: FetchMode::Live };
            match self.log.fetch(fetch).await {
                Ok(fetched) => self.replayed().apply(fetched),
                Err(FetchError::OutOfRange { extent, .. }) if next < extent.start => {
                    self.replayed().begin_at(extent.start);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether values are missing because they could not be read.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        !self.replayed().damage.is_empty()
    }

    /// Whether the log knows of a record of this key that nobody can read: all that can be is as
    /// expected. Nobody would ever get past that record by its version.
    fn lacks(&self, key: &[u8], expect: Expect) -> bool {
        let known = self.get(key).map(|known| known.version);
        match expect {
            Expect::Any => false,
            Expect::Absent => known.is_none(),
            Expect::Version(version) => known == Some(version),
        }
    }

    fn replayed(&self) -> MutexGuard<'_, Replayed> {
        self.replayed.lock().expect("no holder of this lock panics")
    }

    /// Puts the change in line.
    fn append(&self, change: KeyValue<'_>, expect: Expect) -> Result<Ticket, Busy> {
        let record_bytes = 4 + change.key.len() + change.value.map_or(0, <[u8]>::len);
        let permit = self.log.reserve(Lane::INTERNAL, record_bytes)?;
        let mut buffer = Vec::with_capacity(record_bytes);
        let record = change.encode(&mut buffer);
        let items = [Item::Record { partition: self.partition, record }];
        let condition = self.condition(change.key, expect);
        let append = Append { conditions: condition.as_slice(), items: &items };
        Ok(self.log.append(permit, self.epoch, append))
    }

    fn condition(&self, key: &[u8], expect: Expect) -> Option<Condition> {
        let last = match expect {
            Expect::Any => return None,
            Expect::Absent => None,
            Expect::Version(version) => Some(version),
        };
        Some(Condition::LastOfKey { partition: self.partition, key: key.to_vec(), last })
    }

    async fn finish(&self, ticket: Ticket) -> Result<Offset, MetaError> {
        match ticket.await {
            Ok(stored) => {
                let version = stored.offset(0);
                self.read_until(version.plus(1)).await?;
                Ok(version)
            }
            Err(AppendError::ConditionFailed { .. }) => {
                self.refresh().await?;
                Err(MetaError::Conflict)
            }
            Err(error) => Err(MetaError::Append(error)),
        }
    }
}

impl<L: Log + ?Sized> Meta for MetaTopic<L> {
    fn get(&self, key: &[u8]) -> Option<Versioned> {
        self.replayed().values.get(key).cloned()
    }

    fn list(&self, prefix: &[u8]) -> Vec<(Bytes, Versioned)> {
        let replayed = self.replayed();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let rest = replayed.values.range::<[u8], _>(from);
        rest.take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, versioned)| (key.clone(), versioned.clone()))
            .collect()
    }

    fn put(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        expect: Expect,
    ) -> Pending<'_, Result<Offset, MetaError>> {
        let ticket = self.append(KeyValue { key, value }, expect);
        let again = self.is_damaged().then(|| (key.to_vec(), value.map(<[u8]>::to_vec)));
        Box::pin(async move {
            match (self.finish(ticket?).await, again) {
                (Err(MetaError::Conflict), Some((key, value))) if self.lacks(&key, expect) => {
                    let change = KeyValue { key: &key, value: value.as_deref() };
                    self.finish(self.append(change, Expect::Any)?).await
                }
                (done, _) => done,
            }
        })
    }
}

impl<L: ?Sized> std::fmt::Debug for MetaTopic<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetaTopic").field("partition", &self.partition).finish_non_exhaustive()
    }
}

impl Replayed {
    /// Applies what was read from an offset at or below `next`; what is known already is skipped.
    fn apply(&mut self, fetched: Fetched) {
        for found in fetched.partitions {
            if found.next <= self.next {
                continue;
            }
            let known = self.next;
            let records = found.batches.iter().flat_map(BatchView::records);
            for (offset, record) in records.filter(|(offset, _)| *offset >= known) {
                if let Some(change) = record.key_value() {
                    self.set(change, offset);
                }
            }
            self.damage.extend(found.damage.into_iter().filter(|it| it.from >= known));
            self.next = found.next;
        }
    }

    /// Copies: a small value that lives on must not keep a large buffer of the log alive.
    fn set(&mut self, change: KeyValue<'_>, version: Offset) {
        match change.value {
            Some(value) => {
                let value = Bytes::copy_from_slice(value);
                self.values
                    .insert(Bytes::copy_from_slice(change.key), Versioned { value, version });
            }
            None => {
                self.values.remove(change.key);
            }
        }
    }

    /// The records below `start` are gone, and with them whatever they set.
    fn begin_at(&mut self, start: Offset) {
        if start > self.next {
            *self = Self { next: start, ..Self::default() };
        }
    }
}
