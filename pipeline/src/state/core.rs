//! The state itself: tables above a store, changed by what the changelog says and by nothing else.
//!
//! A look-up asks the tables, then a cache of what the store said, then the store. The cache is
//! right because a table goes into the store only when every living batch sees all of it: until
//! then its keys are answered by the table, afterwards the cache has their new values. For the same
//! reason all of it begins anew only while no batch lives.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::{Condvar, Mutex, RwLock};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::Notify;
use tracklog_log::FetchedPartition;
use tracklog_protocol::{BatchView, Offset};

use super::change::Change;
use super::entry::Entry;
use super::key::KeyKind;
use super::store::{Store, StoreError};
use super::tables::Tables;
use super::{StateCounts, StateError, StateOptions};

/// An active table that is this many times too large waits for the store.
const TABLES_MAX: usize = 4;
/// About what the cache takes for a key besides its bytes and its value: a slot of 48 bytes in lists
/// that double when they are full, its place in a table, a block for the key, and a part of the slots
/// of keys that went.
const CACHED_BYTES: usize = 112;

/// Tables, cache, store.
pub(super) struct Core {
    tables: RwLock<Tables>,
    cache: Cache<Box<[u8]>, Option<Entry>, Weight, RandomState>,
    store: Box<dyn Store>,
    table_bytes: usize,
    /// Who applies changes: one at a time.
    applying: Mutex<()>,
    /// Who writes the store: one at a time.
    flushing: Mutex<()>,
    pub(super) due: Due,
    /// Told when a batch ends.
    pub(super) batch_ended: Notify,
    pub(super) counts: Counts,
}

/// Tells a flusher that there may be something to do.
#[derive(Default)]
pub(super) struct Due {
    state: Mutex<DueState>,
    changed: Condvar,
}

#[derive(Default)]
struct DueState {
    flush: bool,
    closed: bool,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) traits_dropped: AtomicU64,
    changes_unknown: AtomicU64,
    changes_damaged: AtomicU64,
    store_reads: AtomicU64,
    flushes: AtomicU64,
    flushes_failed: AtomicU64,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Box<[u8]>, Option<Entry>> for Weight {
    fn weight(&self, key: &Box<[u8]>, entry: &Option<Entry>) -> u64 {
        (CACHED_BYTES + key.len() + entry.as_ref().map_or(0, Entry::byte_count)) as u64
    }
}

impl Core {
    pub(super) fn new(store: Box<dyn Store>, options: StateOptions) -> Self {
        let items = options.cache_bytes / (2 * CACHED_BYTES);
        let capacity = options.cache_bytes as u64;
        Self {
            tables: RwLock::new(Tables::new(store.applied())),
            cache: Cache::with(
                items,
                capacity,
                Weight,
                RandomState::default(),
                quick_cache::sync::DefaultLifecycle::default(),
            ),
            store,
            table_bytes: options.table_bytes,
            applying: Mutex::default(),
            flushing: Mutex::default(),
            due: Due::default(),
            batch_ended: Notify::new(),
            counts: Counts::default(),
        }
    }

    /// What is kept of what the store said.
    #[cfg(test)]
    pub(super) fn cached_bytes(&self) -> u64 {
        self.cache.weight()
    }

    /// How far the changelog was applied.
    pub(super) fn end(&self) -> Offset {
        self.tables.read().end()
    }

    /// What `key` is, given the changes below `below`.
    pub(super) fn get(&self, key: &[u8], below: Offset) -> Result<Option<Entry>, StoreError> {
        let recent = self.tables.read().get(key, below);
        match recent {
            Some(entry) => Ok(Some(entry)),
            None => self.stored(key),
        }
    }

    fn stored(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        if let Some(entry) = self.cache.get(key) {
            return Ok(entry);
        }
        self.counts.store_reads.fetch_add(1, Ordering::Relaxed);
        let entry = match (self.store.get(key)?, KeyKind::of(key)) {
            (Some(bytes), Some(kind)) => Some(Entry::decode(kind, &bytes).ok_or_else(damaged)?),
            _ => None,
        };
        self.cache.insert(key.into(), entry.clone());
        Ok(entry)
    }

    /// Takes in what was read of the changelog from `from` on and below `until`; what is known already
    /// is skipped. All of it, where what lies before `from` is not known any more.
    pub(super) fn apply(
        &self,
        from: Offset,
        found: &FetchedPartition,
        until: Offset,
    ) -> Result<(), StoreError> {
        let _one_at_a_time = self.applying.lock();
        let known = self.end();
        let next = found.next.min(until);
        if next <= known || known < from {
            return Ok(());
        }
        let records = found.batches.iter().flat_map(BatchView::records);
        let mut joined: Vec<(Offset, &[u8], Entry)> = Vec::new();
        let mut newest: HashMap<&[u8], usize, RandomState> = HashMap::default();
        for (offset, record) in records.filter(|(offset, _)| (known..next).contains(offset)) {
            let Some(change) = Change::decode(record) else {
                self.counts.changes_unknown.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let before = match newest.get(change.key) {
                // Most changes are such, and a look may cost a read of the disk.
                _ if change.entry.replaces() => None,
                Some(index) => Some(joined[*index].2.clone()),
                None => self.get(change.key, Offset(u64::MAX))?,
            };
            let (entry, _) = Entry::join(before.as_ref(), &change.entry);
            newest.insert(change.key, joined.len());
            joined.push((offset, change.key, entry));
        }
        let damaged = found.damage.iter().map(|it| (it.from.max(known), it.to.min(next)));
        let damaged: u64 = damaged.map(|(from, to)| to.0.saturating_sub(from.0)).sum();
        self.counts.changes_damaged.fetch_add(damaged, Ordering::Relaxed);
        self.take_in(joined, next);
        Ok(())
    }

    fn take_in(&self, joined: Vec<(Offset, &[u8], Entry)>, end: Offset) {
        let mut tables = self.tables.write();
        for (offset, key, entry) in joined {
            tables.set(key, offset, entry);
        }
        tables.advance(end);
        if tables.active_bytes() >= self.table_bytes {
            tables.freeze();
        }
        let due = tables.has_frozen();
        drop(tables);
        if due {
            self.due.tell();
        }
    }

    /// The changelog begins at `start` only: what was below it, and is not in the store, is gone.
    pub(super) fn skip_to(&self, start: Offset) {
        let _one_at_a_time = self.applying.lock();
        let mut tables = self.tables.write();
        if start > tables.end() {
            let lost = start.0 - tables.end().0;
            self.counts.changes_damaged.fetch_add(lost, Ordering::Relaxed);
            tables.advance(start);
        }
    }

    /// A batch begins; it sees the changes below what is returned.
    pub(super) fn begin(&self) -> Result<Offset, StateError> {
        let mut tables = self.tables.write();
        if tables.active_bytes() > self.table_bytes.saturating_mul(TABLES_MAX) {
            // A write that failed is tried again because of this.
            self.due.tell();
            return Err(StateError::Behind { bytes: tables.active_bytes() });
        }
        Ok(tables.begin())
    }

    pub(super) fn end_batch(&self, below: Offset) {
        let mut tables = self.tables.write();
        tables.end_batch(below);
        let due = tables.has_frozen();
        drop(tables);
        self.batch_ended.notify_waiters();
        if due {
            self.due.tell();
        }
    }

    /// Begins anew with an empty store, if no batch lives: whether that is so.
    pub(super) fn clear(&self) -> Result<bool, StoreError> {
        let _no_changes = self.applying.lock();
        let _no_flush = self.flushing.lock();
        let mut tables = self.tables.write();
        if !tables.clear() {
            return Ok(false);
        }
        self.cache.clear();
        self.store.clear()?;
        Ok(true)
    }

    /// Freezes what is there, full or not.
    pub(super) fn freeze(&self) {
        self.tables.write().freeze();
    }

    /// Writes the frozen table into the store, if there is one that every living batch sees.
    /// Whether it did.
    pub(super) fn flush(&self) -> Result<bool, StoreError> {
        let _one_at_a_time = self.flushing.lock();
        let Some(table) = self.tables.read().to_be_stored() else {
            return Ok(false);
        };
        let sorted = table.sorted();
        if let Err(error) = self.write(&sorted, table.end()) {
            self.counts.flushes_failed.fetch_add(1, Ordering::Relaxed);
            return Err(error);
        }
        self.counts.flushes.fetch_add(1, Ordering::Relaxed);
        for (key, entry) in sorted {
            if self.cache.contains_key(key) {
                self.cache.insert(key.into(), Some(entry.clone()));
            }
        }
        let mut tables = self.tables.write();
        assert!(tables.stored().is_some(), "one flush at a time");
        if tables.active_bytes() >= self.table_bytes && tables.freeze() {
            self.due.tell();
        }
        Ok(true)
    }

    fn write(&self, sorted: &[(&[u8], &Entry)], applied: Offset) -> Result<(), StoreError> {
        let mut values = Vec::new();
        let mut places = Vec::with_capacity(sorted.len());
        for (_, entry) in sorted {
            let start = values.len();
            entry.encode(&mut values);
            places.push(start..values.len());
        }
        let entries = sorted.iter().zip(places);
        let mut entries = entries.map(|((key, _), place)| (*key, &values[place]));
        self.store.write(&mut entries, applied)
    }

    pub(super) fn counts(&self) -> StateCounts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        StateCounts {
            traits_dropped: of(&self.counts.traits_dropped),
            changes_unknown: of(&self.counts.changes_unknown),
            changes_damaged: of(&self.counts.changes_damaged),
            store_reads: of(&self.counts.store_reads),
            flushes: of(&self.counts.flushes),
            flushes_failed: of(&self.counts.flushes_failed),
            table_bytes: self.tables.read().active_bytes(),
        }
    }
}

fn damaged() -> StoreError {
    StoreError { why: "a value in it cannot be read".to_owned() }
}

impl Due {
    fn tell(&self) {
        self.state.lock().flush = true;
        self.changed.notify_one();
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until a flush may be due; `false` when there will be none any more.
    pub(super) fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while !state.flush && !state.closed {
            self.changed.wait(&mut state);
        }
        state.flush = false;
        !state.closed
    }
}
