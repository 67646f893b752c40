//! The ids of events, read from a segment, or from a pack whose index does not tell them: at opening,
//! when the table that holds them is made again from the log.
//!
//! What cannot be read is known no more, as are events that are lost to damage: recovery and
//! `verify` tell of it.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::{HotIds, IdKey, Known, topic_hash_of};
use crate::catalog::{Catalog, Row};
use crate::disk::{Access, BufferPool, Disk, PAGE_BYTES, PageBuffer, Slot, batch_of_slot};
use crate::journal::commit::SegmentNumber;
use crate::partition::places::{Place, SegmentId, SegmentIndex};
use crate::settled::frames;
use crate::settled::pack::{Batches, FRAME_BYTES, PackHead, PackIndex};

use tracklog_protocol::{BatchView, PartitionId, TopicId};

/// So much is read at once.
const WINDOW_BYTES: u64 = 1 << 20;

/// Adds the ids of a segment's events, in the order in which they were stored. `is_known`: see
/// [`HotIds::insert`].
pub(crate) fn ids_of_segment(
    disk: &dyn Disk,
    (id, index): (&SegmentId, &SegmentIndex),
    catalog: &Catalog,
    key: IdKey,
    (ids, is_known): (&mut HotIds, &dyn Fn(&Known) -> bool),
) {
    ids.begin_segment(id.number);
    let batches = batches(index, catalog);
    if !batches.is_empty() {
        match disk.open_slot(id.slot, Access::Read) {
            Ok(slot) => read(&*slot, &batches, key, (ids, is_known)),
            Err(error) => tracing::warn!("no message id of {} is known: {error}", id.slot),
        }
    }
    ids.end_commit(index.append_time_last());
}

/// Adds the ids of the events of a pack, of those topics that its index of ids does not cover: they are
/// read from the events.
pub(crate) fn ids_of_pack(
    disk: &dyn Disk,
    (index, covers): (&PackIndex, &dyn Fn(TopicId) -> bool),
    catalog: &Catalog,
    key: IdKey,
    (ids, is_known): (&mut HotIds, &dyn Fn(&Known) -> bool),
) {
    let PackHead { id, append_time_last, .. } = index.head;
    let row_of = |partition: PartitionId| {
        let row = catalog.row_and_dedupe(partition).filter(|_| !covers(partition.topic));
        row.and_then(|(row, dedupes)| dedupes.then_some(row))
    };
    let shares = index.shares.iter().filter(|share| row_of(share.partition).is_some());
    let places = shares.flat_map(|share| &share.places);
    let frames: BTreeSet<usize> = places.filter_map(|place| index.frame_of(place)).collect();
    if frames.is_empty() {
        return;
    }
    ids.begin_segment(SegmentNumber(id.last));
    let file = disk.open_pack(id).inspect_err(|error| {
        tracing::warn!("no message id of {id} is known: {error}");
    });
    let pool = BufferPool::new(2 * FRAME_BYTES);
    for frame in file.iter().flat_map(|file| frames.iter().map(move |frame| (file, frame))) {
        let (file, frame) = frame;
        let bytes = frames::decode(&**file, &index.frames[*frame], &pool);
        let batches = bytes.into_iter().flat_map(Batches::new).filter_map(Result::ok);
        for batch in batches {
            let partition = batch.partition();
            let Some(row) = row_of(partition) else { continue };
            for (offset, record) in batch.records() {
                if let Some(hash) = topic_hash_of(key, partition.topic, record) {
                    ids.insert(hash, (row, offset), batch.append_time(), is_known);
                }
            }
        }
    }
    ids.end_commit(append_time_last);
}

/// The batches of a segment whose events are stored once, in order.
fn batches(index: &SegmentIndex, catalog: &Catalog) -> Vec<(Place, Row, PartitionId)> {
    let mut batches = Vec::new();
    for share in &index.shares {
        if let Some((row, true)) = catalog.row_and_dedupe(share.partition) {
            batches.extend(share.places.iter().map(|place| (*place, row, share.partition)));
        }
    }
    batches.sort_unstable_by_key(|(place, ..)| place.at());
    batches
}

fn read(
    slot: &dyn Slot,
    batches: &[(Place, Row, PartitionId)],
    key: IdKey,
    (ids, is_known): (&mut HotIds, &dyn Fn(&Known) -> bool),
) {
    let mut window = Window { at: 0, bytes: Bytes::new() };
    for (place, row, partition) in batches {
        let Some(batch) = window.batch(slot, place) else { continue };
        let stamp = batch.header().stamp();
        if (stamp.partition, stamp.base_offset) != (*partition, place.base_offset) {
            continue;
        }
        for (offset, record) in batch.records() {
            if let Some(hash) = topic_hash_of(key, partition.topic, record) {
                ids.insert(hash, (*row, offset), stamp.append_time, is_known);
            }
        }
    }
}

/// A stretch of a slot that was read.
struct Window {
    at: u64,
    bytes: Bytes,
}

impl Window {
    /// The batch at `place`, if it is good.
    fn batch(&mut self, slot: &dyn Slot, place: &Place) -> Option<BatchView> {
        if place.at() < self.at || place.end() > self.at + self.bytes.len() as u64 {
            self.read(slot, place);
        }
        let start = usize::try_from(place.at().checked_sub(self.at)?).ok()?;
        let end = start + place.batch_bytes as usize;
        (end <= self.bytes.len()).then(|| batch_of_slot(self.bytes.slice(start..end)).ok())?
    }

    /// Reads from `place` on; no more than its batch where all of the stretch cannot be read.
    fn read(&mut self, slot: &dyn Slot, place: &Place) {
        let page = PAGE_BYTES as u64;
        self.at = place.at() / page * page;
        let needed = place.end().next_multiple_of(page);
        for end in [needed.max(self.at + WINDOW_BYTES), needed] {
            let length = end.min(slot.bytes()).saturating_sub(self.at);
            let mut pages = PageBuffer::zeroed(usize::try_from(length).unwrap_or(0));
            if slot.read(self.at, &mut pages).is_ok() {
                self.bytes = pages.freeze();
                return;
            }
        }
        self.bytes = Bytes::new();
    }
}
