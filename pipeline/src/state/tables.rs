//! State that is not on disk yet, as batches that began at different times see it at once.
//!
//! Changes go into the *active* table. When it is full it is *frozen* and a new one takes its
//! place; a frozen table is read until it is in the store. Of a key an older version stays as long
//! as a batch lives that sees just that one.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use foldhash::fast::RandomState;
use tracklog_protocol::Offset;

use super::entry::{BLOCK_BYTES, Entry};

/// About what a key takes in a table besides its bytes and its value: a slot, of which there are half
/// as many again on average, and a block for the key.
const KEY_BYTES: usize = SLOT_BYTES + SLOT_BYTES / 2 + BLOCK_BYTES;
const SLOT_BYTES: usize = size_of::<(Box<[u8]>, Versions)>();

/// All tables, and who reads them.
#[derive(Default)]
pub(super) struct Tables {
    active: Table,
    frozen: Option<Arc<Table>>,
    /// The offsets below which living batches see changes, and how many batches each.
    live: BTreeMap<Offset, u32>,
}

/// Changed keys, and how far the changelog was applied when they were.
#[derive(Default)]
pub(super) struct Table {
    entries: HashMap<Box<[u8]>, Versions, RandomState>,
    byte_count: usize,
    end: Offset,
}

struct Versions {
    newest: Version,
    /// Those that a living batch still sees, oldest first.
    older: Vec<Version>,
}

struct Version {
    /// The offset of its change in the changelog.
    at: Offset,
    entry: Entry,
}

impl Tables {
    /// No changes above what the store has applied.
    pub(super) fn new(applied: Offset) -> Self {
        Self { active: Table { end: applied, ..Table::default() }, ..Self::default() }
    }

    /// How far the changelog was applied.
    pub(super) const fn end(&self) -> Offset {
        self.active.end
    }

    /// About what the active table takes in memory.
    pub(super) const fn active_bytes(&self) -> usize {
        self.active.byte_count
    }

    /// What `key` is for a batch that sees the changes below `below`; `None`: no table says.
    pub(super) fn get(&self, key: &[u8], below: Offset) -> Option<Entry> {
        let active = self.active.get(key, below);
        active.or_else(|| self.frozen.as_ref()?.get(key, below)).cloned()
    }

    /// Takes in what `key` has become by the change at `at`.
    pub(super) fn set(&mut self, key: &[u8], at: Offset, entry: Entry) {
        let newest = Version { at, entry };
        self.active.byte_count += newest.entry.byte_count();
        match self.active.entries.get_mut(key) {
            Some(versions) => {
                let freed = versions.push(newest, &self.live);
                self.active.byte_count -= freed;
            }
            None => {
                self.active.byte_count += KEY_BYTES + key.len();
                self.active.entries.insert(key.into(), Versions { newest, older: Vec::new() });
            }
        }
    }

    /// All changes below `end` are taken in.
    pub(super) fn advance(&mut self, end: Offset) {
        assert!(end >= self.active.end, "the changelog is applied forward");
        self.active.end = end;
    }

    /// Freezes the active table, if there is something in it and no other is frozen.
    pub(super) fn freeze(&mut self) -> bool {
        if self.frozen.is_some() || self.active.entries.is_empty() {
            return false;
        }
        let next = Table { end: self.active.end, ..Table::default() };
        self.frozen = Some(Arc::new(std::mem::replace(&mut self.active, next)));
        true
    }

    pub(super) const fn has_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// The frozen table, as soon as every living batch sees all of it: what is in the store is
    /// seen by all.
    pub(super) fn to_be_stored(&self) -> Option<Arc<Table>> {
        let frozen = self.frozen.as_ref()?;
        let seen = self.live.first_key_value().is_none_or(|(below, _)| *below >= frozen.end);
        seen.then(|| Arc::clone(frozen))
    }

    /// The frozen table is in the store.
    pub(super) fn stored(&mut self) -> Option<Arc<Table>> {
        self.frozen.take()
    }

    /// Begins anew from an empty store, if no batch lives: whether that is so.
    pub(super) fn clear(&mut self) -> bool {
        let is_unseen = self.live.is_empty();
        if is_unseen {
            *self = Self::new(Offset::ZERO);
        }
        is_unseen
    }

    /// A batch begins; it sees the changes below what is returned.
    pub(super) fn begin(&mut self) -> Offset {
        *self.live.entry(self.active.end).or_default() += 1;
        self.active.end
    }

    /// A batch that began at `below` ended.
    pub(super) fn end_batch(&mut self, below: Offset) {
        let count = self.live.get_mut(&below).expect("a batch ends once, after it began");
        *count -= 1;
        if *count == 0 {
            self.live.remove(&below);
        }
    }
}

impl Table {
    fn get(&self, key: &[u8], below: Offset) -> Option<&Entry> {
        let versions = self.entries.get(key)?;
        let older = versions.older.iter().rev();
        let seen = [&versions.newest].into_iter().chain(older).find(|it| it.at < below);
        seen.map(|version| &version.entry)
    }

    /// How far the changelog was applied.
    pub(super) const fn end(&self) -> Offset {
        self.end
    }

    /// What each key is at the end, in the order of the keys.
    pub(super) fn sorted(&self) -> Vec<(&[u8], &Entry)> {
        let entries = self.entries.iter();
        let mut sorted: Vec<_> = entries.map(|(key, it)| (&**key, &it.newest.entry)).collect();
        sorted.sort_unstable_by_key(|(key, _)| *key);
        sorted
    }
}

impl Versions {
    /// Adds a version; forgets those that nobody sees, and returns how many bytes they took.
    fn push(&mut self, newest: Version, live: &BTreeMap<Offset, u32>) -> usize {
        self.older.push(std::mem::replace(&mut self.newest, newest));
        let mut until = self.newest.at;
        let mut freed = 0;
        for index in (0..self.older.len()).rev() {
            let from = self.older[index].at;
            let seen = (Bound::Excluded(from), Bound::Included(until));
            if live.range(seen).next().is_none() {
                freed += self.older.remove(index).entry.byte_count();
            }
            until = from;
        }
        freed
    }
}
