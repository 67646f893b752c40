//! What is known of users, devices and visits: a function of the changelog topic [`TOPIC`].
//!
//! Promises
//! - A change is in the commit of the events that made it, so a crash neither loses nor doubles one.
//! - A batch sees every change below one offset of the changelog, and its own before each event.
//!   Each change names the event that made it, so what an event saw can be told: the changes below
//!   the offset that it names, and those that earlier events of its partition made.
//! - Changes are joined with what is there and depend on nothing that was read: [`Traits`].
//! - The store on disk applies changes with the changelog's offset in one transaction, and can be
//!   built again from the changelog. No look-up waits for it to be written.
//!
//! Memory is bounded by [`StateOptions`]. Bytes: FORMAT.md, section *State*. Enrichers see a
//! [`StateBatch`]; who runs them begins one with [`State::begin`].

mod batch;
mod bytes;
mod change;
mod core;
mod entry;
mod key;
mod person;
mod store;
mod tables;
mod traits;
mod visits;

#[cfg(test)]
pub(crate) mod rig;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tracklog_log::{
    CatalogError, Extent, Fetch, FetchError, FetchMode, Log, Retention, Topic, TopicName, TopicSpec,
};
use tracklog_protocol::{Offset, PartitionId};

pub use self::batch::{Fetched, StateBatch};
use self::core::Core;
pub use self::entry::Link;
pub use self::key::{Entity, ID_BYTES_MAX, LinkId, Visitor};
pub use self::person::{Linking, Person};
pub use self::store::{DiskStore, DiskStoreOptions, MemoryStore, Store, StoreError};
pub use self::traits::{MEMBERS_MAX, TRAITS_BYTES_MAX, Traits};
pub(crate) use self::visits::Inactivity;
pub use self::visits::Visits;

/// The changelog. One partition, so that one offset names a state.
pub const TOPIC: &str = "_state";

/// How much one read of the changelog asks for.
const FETCH_BYTES: usize = 1 << 20;

/// What memory the state may take.
#[derive(Clone, Copy, Debug)]
pub struct StateOptions {
    /// Changes that are not in the store yet are written there from this size on. It may take
    /// twice of it, and where the store cannot be written five times.
    pub table_bytes: usize,
    /// What was read of the store.
    pub cache_bytes: usize,
}

impl StateOptions {
    /// Within so many bytes in all: an eighth for the changes that come in, one for those that are
    /// being written, and the rest for what was read.
    #[must_use]
    pub const fn within(bytes: usize) -> Self {
        Self { table_bytes: bytes / 8, cache_bytes: bytes / 4 * 3 }
    }
}

impl Default for StateOptions {
    fn default() -> Self {
        Self::within(128 << 20)
    }
}

/// Why the state cannot be had now. Try again later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The changelog could not be made.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The changelog could not be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The store could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store has applied more than the changelog has: it is not of this one. Build it again.
    #[error("the state's store is at {applied}, its changelog ends at {end}")]
    Ahead {
        /// How far the store is.
        applied: Offset,
        /// Where the changelog ends.
        end: Offset,
    },
    /// The state cannot be had as of that offset: it is past it, or the changelog ends before.
    #[error("state as of {offset}: it is at {applied}, its changelog ends at {end}")]
    NotThere {
        /// How far the state is.
        applied: Offset,
        /// What was asked for.
        offset: Offset,
        /// Where the changelog ends.
        end: Offset,
    },
    /// The store could not take the changes as fast as they came.
    #[error("{bytes} bytes of changes wait for the state's store")]
    Behind {
        /// How much waits.
        bytes: usize,
    },
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// Members of traits that had no room.
    pub traits_dropped: u64,
    /// Records of the changelog that this program does not know.
    pub changes_unknown: u64,
    /// Records of the changelog that could not be read.
    pub changes_damaged: u64,
    /// Look-ups that neither tables nor cache could answer.
    pub store_reads: u64,
    /// Tables written into the store.
    pub flushes: u64,
    /// Tables that could not be written, each try.
    pub flushes_failed: u64,
    /// About what the changes take that are not about to be written.
    pub table_bytes: usize,
}

/// The state, for all partitions of all sources.
pub struct State<L: ?Sized> {
    partition: PartitionId,
    core: Arc<Core>,
    log: Arc<L>,
}

/// The changelog of `log`, made if it is not there.
///
/// # Errors
/// [`StateError::Catalog`] when it cannot be made or is of another make.
pub async fn changelog<L: Log + ?Sized>(log: &L) -> Result<Topic, StateError> {
    let name = TopicName::new(TOPIC).expect("it is a topic's name");
    let spec = TopicSpec { name, partitions: 1, retention: Retention::Keep };
    Ok(log.create_topic(spec).await?)
}

impl<L: Log + ?Sized> State<L> {
    /// Opens the state over the changelog of `log`, and applies to `store` what it lacks.
    ///
    /// # Errors
    /// [`StateError`] when changelog or store cannot be read, or the store is of a changelog that
    /// was longer.
    pub async fn open(
        log: Arc<L>,
        store: impl Store,
        options: StateOptions,
    ) -> Result<Self, StateError> {
        let partition = changelog(&*log).await?.partition(0);
        Self::above(log, partition, store, options).caught_up().await
    }

    /// Opens the state over the changelog of a log that is only read; `None` where it has none.
    ///
    /// # Errors
    /// [`StateError`] as [`open`](Self::open).
    pub async fn read(
        log: Arc<L>,
        store: impl Store,
        options: StateOptions,
    ) -> Result<Option<Self>, StateError> {
        let Some(changelog) = log.topic(TOPIC) else { return Ok(None) };
        let state = Self::above(log, changelog.partition(0), store, options);
        state.caught_up().await.map(Some)
    }

    /// Opens the state as it was at an offset of the changelog, for a run again over old events:
    /// see [`begin_as_of`](Self::begin_as_of). `store` is a new one, which nobody needs afterwards.
    ///
    /// # Errors
    /// [`StateError`] as [`open`](Self::open).
    pub async fn open_as_of(
        log: Arc<L>,
        store: impl Store,
        options: StateOptions,
        offset: Offset,
    ) -> Result<Self, StateError> {
        let partition = changelog(&*log).await?.partition(0);
        let state = Self::above(log, partition, store, options);
        state.reach(offset, FetchMode::Replay).await?;
        Ok(state)
    }

    /// The state as `store` has it.
    fn above(
        log: Arc<L>,
        partition: PartitionId,
        store: impl Store,
        options: StateOptions,
    ) -> Self {
        Self { partition, core: Arc::new(Core::new(Box::new(store), options)), log }
    }

    /// With all that the changelog has.
    async fn caught_up(self) -> Result<Self, StateError> {
        let (applied, end) = (self.core.end(), self.extent()?.end);
        if applied > end {
            return Err(StateError::Ahead { applied, end });
        }
        self.catch_up(end, FetchMode::Replay).await?;
        Ok(self)
    }

    /// Where the records go that [`StateBatch::finish_event`] gives.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Begins a batch of `source`, which sees all that is published in the changelog now.
    ///
    /// # Errors
    /// [`StateError`] when it cannot be told what that is.
    pub async fn begin(&self, source: PartitionId) -> Result<StateBatch<'_>, StateError> {
        let end = self.extent()?.end;
        loop {
            self.catch_up(end, FetchMode::Live).await?;
            let batch = StateBatch::new(&self.core, self.core.begin()?, source);
            if batch.offset() >= end {
                return Ok(batch);
            }
            // All of it began anew in between.
        }
    }

    /// Begins a batch of `source` that sees what one saw that named `offset`. The batches of a run
    /// again begin where those did, at the first event that names an offset, and their offsets
    /// rise. Their changes are committed nowhere.
    ///
    /// # Errors
    /// [`StateError`] when the state is past that offset, or cannot be read.
    pub async fn begin_as_of(
        &self,
        source: PartitionId,
        offset: Offset,
    ) -> Result<StateBatch<'_>, StateError> {
        self.reach(offset, FetchMode::Replay).await?;
        Ok(StateBatch::new(&self.core, self.core.begin()?, source))
    }

    /// Empties the store, tables and cache, and builds all of it again from the changelog, as that is
    /// now: what was erased there is nowhere any more. Batches that live are waited for; those that
    /// begin meanwhile wait for it.
    ///
    /// # Errors
    /// [`StateError`] when the store cannot be emptied or the changelog cannot be read. Again is safe.
    pub async fn begin_anew(&self) -> Result<(), StateError> {
        loop {
            let ended = self.core.batch_ended.notified();
            if self.core.clear()? {
                break;
            }
            ended.await;
        }
        self.catch_up(self.extent()?.end, FetchMode::Replay).await
    }

    /// Writes what is due into the store; whether it wrote something. It waits for the disk.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written. The state goes on with what it has in memory.
    pub fn flush(&self) -> Result<bool, StoreError> {
        self.core.flush()
    }

    /// Writes all that is known into the store, so that the next opening finds it there. Batches
    /// that still live keep what they saw: then the rest is read from the changelog again.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written.
    pub fn flush_all(&self) -> Result<(), StoreError> {
        self.core.flush()?;
        self.core.freeze();
        self.core.flush()?;
        Ok(())
    }

    /// A thread that writes what is due whenever something is. It ends when it is dropped.
    ///
    /// # Errors
    /// As [`thread::Builder::spawn`].
    pub fn spawn_flusher(&self) -> std::io::Result<Flusher> {
        let core = Arc::clone(&self.core);
        let run = move || {
            while core.due.wait() {
                if let Err(error) = core.flush() {
                    tracing::warn!(%error, "state stays in memory");
                }
            }
        };
        let thread = thread::Builder::new().name("tracklog-state".to_owned()).spawn(run)?;
        Ok(Flusher { core: Arc::clone(&self.core), thread: Some(thread) })
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> StateCounts {
        self.core.counts()
    }

    fn extent(&self) -> Result<Extent, FetchError> {
        let partition = self.partition;
        self.log.extent(partition).ok_or(FetchError::UnknownPartition { partition })
    }

    /// Applies the changelog below `offset` and no more.
    async fn reach(&self, offset: Offset, mode: FetchMode) -> Result<(), StateError> {
        let (applied, end) = (self.core.end(), self.extent()?.end);
        if applied > offset || offset > end {
            return Err(StateError::NotThere { applied, offset, end });
        }
        self.catch_up(offset, mode).await
    }

    /// Applies the changelog below `until`, which is published. Several may run at once: they
    /// read the same and apply it once.
    async fn catch_up(&self, until: Offset, mode: FetchMode) -> Result<(), StateError> {
        loop {
            let next = self.core.end();
            if next >= until {
                return Ok(());
            }
            let from = vec![(self.partition, next)];
            let fetch = Fetch { from, bytes_max: FETCH_BYTES, wait: true, mode };
            match self.log.fetch(fetch).await {
                Ok(fetched) => {
                    let mut found = fetched.partitions.iter();
                    found.try_for_each(|found| self.core.apply(next, found, until))?;
                }
                Err(FetchError::OutOfRange { extent, .. }) if next < extent.start => {
                    self.core.skip_to(extent.start.min(until));
                }
                Err(error) => return Err(error.into()),
            }
            if mode == FetchMode::Replay {
                self.core.flush()?;
            }
        }
    }
}

impl<L: ?Sized> fmt::Debug for State<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("partition", &self.partition)
            .field("end", &self.core.end())
            .finish_non_exhaustive()
    }
}

/// Writes state into the store until it is dropped.
pub struct Flusher {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.core.due.close();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl fmt::Debug for Flusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flusher").finish_non_exhaustive()
    }
}
