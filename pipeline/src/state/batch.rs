//! The state as one batch sees it, and what the batch changes in it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use foldhash::fast::RandomState;
use tracklog_protocol::{Offset, PartitionId, Records, TimeMicros};

use super::change::Change;
use super::core::Core;
use super::entry::{Entry, Link};
use super::key::{Entity, ID_BYTES_MAX, Keyed, LinkId, Visitor};
use super::store::StoreError;
use super::traits::Traits;
use super::visits::Visits;

/// What a store outside says of a user or group: the JSON object of their traits, if they have any;
/// else why that cannot be told.
pub type Fetched = Result<Option<Arc<str>>, Arc<str>>;

/// The state as one batch of one source partition sees it, and what the batch changes in it.
///
/// An event sees the changes below one offset of the changelog, and those of the batch's earlier
/// events. A batch that is dropped changes nothing: what lasts are the records that
/// [`finish_event`](Self::finish_event) gives, once they are committed.
pub struct StateBatch<'s> {
    core: &'s Core,
    offset: Offset,
    source: PartitionId,
    event: Offset,
    /// What the batch changed.
    own: HashMap<Box<[u8]>, Entry, RandomState>,
    /// What the keys were before that the event changed.
    before: Vec<(Box<[u8]>, Option<Entry>)>,
    /// What stores outside say, by the keys of whom they say it.
    fetched: HashMap<Box<[u8]>, Fetched, RandomState>,
    /// The event's changes.
    records: Records,
    /// What was asked for last: most changes are of it.
    last: Looked,
    key: Vec<u8>,
    value: Vec<u8>,
    record: Vec<u8>,
}

impl<'s> StateBatch<'s> {
    pub(super) fn new(core: &'s Core, offset: Offset, source: PartitionId) -> Self {
        Self {
            core,
            offset,
            source,
            event: Offset::ZERO,
            own: HashMap::default(),
            before: Vec::new(),
            fetched: HashMap::default(),
            records: Records::new(),
            last: Looked::default(),
            key: Vec::new(),
            value: Vec::new(),
            record: Vec::new(),
        }
    }

    /// The changes below this offset of the changelog are seen, besides the batch's own.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }

    /// Begins with the event at `offset` of the source. What an event before it changed and did
    /// not finish is taken back.
    pub fn begin_event(&mut self, offset: Offset) {
        while let Some((key, before)) = self.before.pop() {
            self.last = Looked::default();
            match before {
                Some(entry) => self.own.insert(key, entry),
                None => self.own.remove(&key),
            };
        }
        self.records.clear(KEPT_BYTES);
        self.event = offset;
    }

    /// The event's changes hold for those after it. Returned are their records, for the
    /// changelog's partition, in the commit of the event's outputs.
    pub fn finish_event(&mut self) -> &Records {
        self.before.clear();
        &self.records
    }

    /// The user whom `id` leads to, one step of the way.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn link(&mut self, id: LinkId<'_>) -> Result<Option<Arc<Link>>, StoreError> {
        Ok(match self.get(&id)? {
            Some(Entry::Link(link)) => Some(link),
            _ => None,
        })
    }

    /// What is known of a user or group.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn profile(&mut self, entity: Entity<'_>) -> Result<Option<Arc<Traits>>, StoreError> {
        Ok(match self.get(&entity)? {
            Some(Entry::Traits(traits)) => Some(traits),
            _ => None,
        })
    }

    /// What is known of a visitor's visits.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn visits(&mut self, visitor: Visitor<'_>) -> Result<Option<Arc<Visits>>, StoreError> {
        Ok(match self.get(&visitor)? {
            Some(Entry::Visits(visits)) => Some(visits),
            _ => None,
        })
    }

    /// `id` leads to `user`, as an event of `time` said. Too long ids lead nowhere.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read. Nothing was changed.
    pub fn set_link(
        &mut self,
        id: LinkId<'_>,
        user: &str,
        time: TimeMicros,
    ) -> Result<(), StoreError> {
        if user.len() > ID_BYTES_MAX {
            return Ok(());
        }
        self.change(&id, Entry::Link(Arc::new(Link { user: user.into(), time })))
    }

    /// The members of `traits` are known of `entity`.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read. Nothing was changed.
    pub fn merge_traits(
        &mut self,
        entity: Entity<'_>,
        traits: Arc<Traits>,
    ) -> Result<(), StoreError> {
        self.change(&entity, Entry::Traits(traits))
    }

    /// What the JSON object `text`, of an event of `time`, says is known of `entity`.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read. Nothing was changed.
    pub fn learn(
        &mut self,
        entity: Entity<'_>,
        text: &str,
        time: TimeMicros,
    ) -> Result<(), StoreError> {
        let (traits, dropped) = Traits::of_object(text, time);
        self.core.counts.traits_dropped.fetch_add(dropped, Ordering::Relaxed);
        traits.map_or(Ok(()), |traits| self.merge_traits(entity, Arc::new(traits)))
    }

    /// These are the visitor's visits.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read. Nothing was changed.
    pub fn set_visits(&mut self, visitor: Visitor<'_>, visits: Visits) -> Result<(), StoreError> {
        self.change(&visitor, Entry::Visits(Arc::new(visits)))
    }

    /// What a store outside says of `entity`, where that was fetched for this batch.
    pub fn fetched(&mut self, entity: Entity<'_>) -> Option<&Fetched> {
        let has_key = entity.write_key(&mut self.key);
        self.fetched.get(&*self.key).filter(|_| has_key)
    }

    /// Notes what a store outside says of `entity`, for the events of this batch alone. Too long ids
    /// are nobody's.
    pub fn set_fetched(&mut self, entity: Entity<'_>, fetched: Fetched) {
        if entity.write_key(&mut self.key) {
            self.fetched.insert(self.key.as_slice().into(), fetched);
        }
    }

    fn get(&mut self, of: &impl Keyed) -> Result<Option<Entry>, StoreError> {
        Ok(if self.look_up(of)? { self.last.entry.clone() } else { None })
    }

    /// `last` is what `of` is now. `false`: an id is too long to have a key.
    fn look_up(&mut self, of: &impl Keyed) -> Result<bool, StoreError> {
        if !of.write_key(&mut self.key) {
            return Ok(false);
        }
        if self.key != self.last.key {
            self.last.entry = match self.own.get(&*self.key) {
                Some(entry) => Some(entry.clone()),
                None => self.core.get(&self.key, self.offset)?,
            };
            std::mem::swap(&mut self.key, &mut self.last.key);
        }
        Ok(true)
    }

    fn change(&mut self, of: &impl Keyed, entry: Entry) -> Result<(), StoreError> {
        if !self.look_up(of)? {
            return Ok(());
        }
        let Looked { key, entry: known } = &mut self.last;
        let (joined, dropped) = Entry::join(known.as_ref(), &entry);
        self.core.counts.traits_dropped.fetch_add(dropped, Ordering::Relaxed);
        let (source, offset) = (self.source, self.event);
        let change = Change { key, entry, source, offset };
        self.records.push(change.encode(&mut self.value, &mut self.record));
        *known = Some(joined.clone());
        let key: Box<[u8]> = key.as_slice().into();
        let before = self.own.insert(key.clone(), joined);
        self.before.push((key, before));
        Ok(())
    }
}

/// A key, and what it is; no key is empty.
#[derive(Default)]
struct Looked {
    key: Vec<u8>,
    entry: Option<Entry>,
}

/// What a batch keeps of an event's memory for the next.
const KEPT_BYTES: usize = 64 << 10;

impl Drop for StateBatch<'_> {
    fn drop(&mut self) {
        self.core.end_batch(self.offset);
    }
}

impl fmt::Debug for StateBatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateBatch")
            .field("offset", &self.offset)
            .field("source", &self.source)
            .field("own", &self.own.len())
            .finish_non_exhaustive()
    }
}
