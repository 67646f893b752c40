//! Where state lies that is not in the tables: a map on disk, and its twin in memory.
//!
//! Promises of every store: an applied offset that is there after a crash has all entries below it
//! beside it. Neither need be there at once: a store that comes back older is caught up from the
//! changelog. Entries may be ahead of the offset: to apply a stretch of changes again, up to where
//! they were applied before, changes nothing.

mod disk;

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::Mutex;
use tracklog_protocol::Offset;

pub use disk::{DiskStore, DiskStoreOptions};

/// A map from keys to values, and how far the changelog was applied to it.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// The changes below this offset are in it.
    fn applied(&self) -> Offset;

    /// The value of `key`.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Sets all `entries`, in the order of their keys, and the applied offset, together.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be written. Nothing was, and it may be tried again.
    fn write(
        &self,
        entries: &mut dyn Iterator<Item = (&[u8], &[u8])>,
        applied: Offset,
    ) -> Result<(), StoreError>;

    /// Begins anew: nothing is in it any more, and no byte of it is left where it lay.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be. What is there then is not to be used before another try
    /// was a good one.
    fn clear(&self) -> Result<(), StoreError>;
}

/// The store failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state's store failed: {why}")]
pub struct StoreError {
    /// What it said.
    pub why: String,
}

/// A store that ends with its process. Its writes can be made to fail.
#[derive(Debug, Default)]
pub struct MemoryStore {
    kept: Mutex<Kept>,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    applied: Offset,
    failing: bool,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on writes fail, or no more.
    pub fn fail_writes(&self, failing: bool) {
        self.kept.lock().failing = failing;
    }

    /// The same, but for the applied offset, which is lost: entries are ahead of it then.
    #[must_use]
    pub fn reopened_behind(&self) -> Self {
        let reopened = self.reopened();
        reopened.kept.lock().applied = Offset::ZERO;
        reopened
    }

    /// A store with what is in this one: what a process finds that begins after this one's crash.
    #[must_use]
    pub fn reopened(&self) -> Self {
        let kept = Kept { failing: false, ..self.kept.lock().clone() };
        Self { kept: Mutex::new(kept) }
    }
}

impl Store for std::sync::Arc<MemoryStore> {
    fn applied(&self) -> Offset {
        self.kept.lock().applied
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.kept.lock().entries.get(key).cloned())
    }

    fn write(
        &self,
        entries: &mut dyn Iterator<Item = (&[u8], &[u8])>,
        applied: Offset,
    ) -> Result<(), StoreError> {
        let mut kept = self.kept.lock();
        if kept.failing {
            return Err(StoreError { why: "asked to fail".to_owned() });
        }
        kept.entries.extend(entries.map(|(key, value)| (key.to_vec(), value.to_vec())));
        kept.applied = applied;
        Ok(())
    }

    fn clear(&self) -> Result<(), StoreError> {
        let mut kept = self.kept.lock();
        if kept.failing {
            return Err(StoreError { why: "asked to fail".to_owned() });
        }
        *kept = Kept::default();
        Ok(())
    }
}
