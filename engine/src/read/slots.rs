//! Slots that are open for reading, and their maps.
//!
//! Promises
//! - A slot is opened and mapped only while its segment is listed, and mapped only when that
//!   segment is full. Since a segment is taken off the lists before it is forgotten, nobody maps
//!   a slot that is about to be written again.
//! - At most so many are kept open; those used longest ago are closed. Who still holds bytes of
//!   a closed one's map is known nevertheless.

use std::io;
use std::sync::{Arc, Weak};

use foldhash::HashMap;

use crate::disk::{Access, Disk, Map, Slot};
use crate::journal::commit::SegmentNumber;
use crate::partition::places::{Home, SegmentId};

use super::super::published::Published;
use super::super::sync::Mutex;

/// A slot to read from.
#[derive(Clone)]
pub(super) struct OpenSlot {
    pub(super) slot: Arc<dyn Slot>,
    /// Of a full segment, where the system gives one.
    pub(super) map: Option<Arc<dyn Map>>,
}

/// See the head of this file.
pub(super) struct OpenSlots {
    disk: Arc<dyn Disk>,
    published: Arc<Published>,
    state: Mutex<State>,
    open_max: usize,
}

#[derive(Default)]
struct State {
    open: HashMap<SegmentNumber, Kept>,
    /// Maps of closed slots, as long as somebody holds bytes of them.
    closed: HashMap<SegmentNumber, Weak<dyn Map>>,
    clock: u64,
}

struct Kept {
    open: OpenSlot,
    used: u64,
}

impl OpenSlots {
    pub(super) fn new(disk: Arc<dyn Disk>, published: Arc<Published>, open_max: usize) -> Self {
        Self { disk, published, state: Mutex::default(), open_max: open_max.max(1) }
    }

    /// Whether the segment or pack is still listed: if not, its slot may hold something else by
    /// now.
    pub(super) fn has(&self, home: Home) -> bool {
        self.published.places.read().has(home)
    }

    /// The slot of a listed segment.
    ///
    /// # Errors
    /// `NotFound` when the segment is not listed any more; else as the disk says.
    pub(super) fn open(&self, id: SegmentId) -> io::Result<OpenSlot> {
        // Held all the way, so that whoever forgets the segment comes before the look at the
        // lists, or after the map is kept.
        let mut state = self.state.lock();
        let (is_listed, is_full) = {
            let places = self.published.places.read();
            (places.is_listed(id.number), places.is_full(id.number))
        };
        if !is_listed {
            let what = format!("segment {} was freed", id.number);
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        state.clock += 1;
        let used = state.clock;
        let kept = state.open.get_mut(&id.number).map(|kept| {
            kept.used = used;
            kept.open.clone()
        });
        let mut open = match kept {
            Some(open) => open,
            None => OpenSlot { slot: self.disk.open_slot(id.slot, Access::Read)?, map: None },
        };
        if is_full && open.map.is_none() {
            open.map = state.closed.remove(&id.number).and_then(|map| map.upgrade());
            if open.map.is_none() {
                // Without a map it is read as the segment being written is.
                open.map = open.slot.map().ok();
            }
        }
        state.open.insert(id.number, Kept { open: open.clone(), used });
        state.close_down_to(self.open_max);
        Ok(open)
    }

    /// Closes a segment's slot. Says whether somebody still holds bytes of its map.
    pub(super) fn forget(&self, segment: SegmentNumber) -> bool {
        let mut state = self.state.lock();
        let open = state.open.remove(&segment);
        let closed = state.closed.remove(&segment);
        let map = open.and_then(|kept| kept.open.map.as_ref().map(Arc::downgrade)).or(closed);
        map.is_some_and(|map| map.strong_count() > 0)
    }
}

impl State {
    fn close_down_to(&mut self, open_max: usize) {
        while self.open.len() > open_max {
            let oldest = self.open.iter().min_by_key(|(_, kept)| kept.used);
            let Some(number) = oldest.map(|(number, _)| *number) else { return };
            let map = self.open.remove(&number).and_then(|kept| kept.open.map);
            self.closed.retain(|_, map| map.strong_count() > 0);
            if let Some(map) = map {
                self.closed.insert(number, Arc::downgrade(&map));
            }
        }
    }
}
