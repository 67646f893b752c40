//! What is beyond the limits of its topic, and what goes for want of room.
//!
//! Promises
//! - A record younger than its topic's age stays, by its append time; and so does the newest stretch
//!   of a topic that takes as many bytes as it may.
//! - For want of room nothing goes but what topics hold that allow it, and only where that makes room.
//! - What goes, goes in order of offsets, in whole batches by age and in whole segments and packs by
//!   size. Offsets go on after all has gone.
//!
//! Called by the settler.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracklog_log::{Extent, Limits, WhenFull};
use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};

use crate::catalog::Row;
use crate::disk::PackId;
use crate::journal::commit::SegmentNumber;
use crate::partition::places::{FirstAppended, Held};
use crate::published::Published;
use crate::read::Reader;

/// See the head of this file.
pub(super) struct Expiry<'a> {
    published: &'a Published,
    reader: &'a Arc<Reader>,
    now: TimeMicros,
    limited: Vec<Limited>,
}

/// A topic that has limits.
struct Limited {
    topic: TopicId,
    limits: Limits,
    partitions: Vec<(PartitionId, Row)>,
}

impl<'a> Expiry<'a> {
    pub(super) fn new(published: &'a Published, reader: &'a Arc<Reader>, now: TimeMicros) -> Self {
        let topics = published.topics.read();
        let limited = topics.catalog.topics().filter_map(|topic| {
            let limits = topics.catalog.limits(topic.id);
            let row = |partition| Some((partition, topics.catalog.row(partition)?));
            (!limits.are_none()).then(|| Limited {
                topic: topic.id,
                limits,
                partitions: topic.partitions().filter_map(row).collect(),
            })
        });
        let limited = limited.collect();
        drop(topics);
        Self { published, reader, now, limited }
    }

    /// Whether something expires as time passes.
    pub(super) fn any_ages(&self) -> bool {
        self.limited.iter().any(|limited| limited.limits.age.is_some())
    }

    /// The partitions that are to start later, and where.
    pub(super) fn starts(&self) -> io::Result<Vec<(PartitionId, Offset)>> {
        let mut starts = Vec::new();
        if self.published.places.read().any_missing() {
            // What lies in a pack that cannot be read now may be young.
            return Ok(starts);
        }
        let mut held = Held::new();
        for limited in &self.limited {
            for (partition, row) in &limited.partitions {
                let extent = self.published.topics.read().extent_of(*row);
                let by_age = match limited.limits.age {
                    Some(age) => self.by_age((*row, *partition), extent.end, age, &mut held)?,
                    None => Offset::ZERO,
                };
                let start = by_age.max(self.by_bytes(limited, *row, extent.end));
                if start > extent.start {
                    starts.push((*partition, start));
                }
            }
        }
        Ok(starts)
    }

    /// The oldest pack that holds something of topics that allow it to go, and where their partitions
    /// start behind it. None where the pack would have to be written anew, and `free_bytes` may not
    /// hold what it leaves.
    pub(super) fn for_room(&self, free_bytes: u64) -> Option<(PackId, Vec<(PartitionId, Offset)>)> {
        let yielding = self.limited.iter().filter(|it| it.limits.when_full == WhenFull::DropOldest);
        // Before the places: what is listed meanwhile lies behind these ends, and stays.
        let yielding: BTreeMap<TopicId, Vec<(PartitionId, Row, Extent)>> =
            yielding.map(|limited| (limited.topic, self.extents(limited))).collect();
        let places = self.published.places.read();
        if places.any_missing() {
            return None;
        }
        let behind = |last: SegmentNumber| {
            let partitions = yielding.values().flatten();
            let starts = partitions.filter_map(|(partition, row, extent)| {
                let start = places.first_after(*row, last).unwrap_or(extent.end);
                (start > extent.start).then_some((*partition, start))
            });
            starts.collect::<Vec<_>>()
        };
        let packs = places.shares_of_packs().filter_map(|(head, shares)| {
            let theirs = shares.iter().filter(|(topic, _)| yielding.contains_key(topic));
            let theirs_bytes: u64 = theirs.clone().map(|(_, bytes)| bytes).sum();
            let is_theirs_alone = theirs.count() == shares.len();
            let left_bytes = if is_theirs_alone { 0 } else { head.file_bytes - theirs_bytes };
            (theirs_bytes > 0).then_some((head.id, left_bytes))
        });
        let mut oldest =
            packs.map(|(pack, left_bytes)| (pack, left_bytes, behind(SegmentNumber(pack.last))));
        let (pack, left_bytes, starts) = oldest.find(|(_, _, starts)| !starts.is_empty())?;
        (left_bytes <= free_bytes).then_some((pack, starts))
    }

    fn extents(&self, limited: &Limited) -> Vec<(PartitionId, Row, Extent)> {
        let topics = self.published.topics.read();
        let partitions = limited.partitions.iter();
        partitions.map(|(partition, row)| (*partition, *row, topics.extent_of(*row))).collect()
    }

    /// Where the first batch lies that is not too old, as far as can be told without reading it.
    fn by_age(
        &self,
        of: (Row, PartitionId),
        end: Offset,
        age: Duration,
        held: &mut Held,
    ) -> io::Result<Offset> {
        let time = self.now.minus(age);
        loop {
            let found = self.published.places.read().offset_at_append(of, time, held);
            match found {
                FirstAppended::Nowhere => return Ok(end),
                FirstAppended::At(offset) => return Ok(offset.min(end)),
                FirstAppended::Within { place, .. } => return Ok(place.base_offset),
                FirstAppended::Unread(unread) => {
                    // One is enough at a time: partitions share them.
                    held.clear();
                    held.insert(unread.home.number(), self.reader.read_index(unread)?);
                }
            }
        }
    }

    /// Where the partition goes on behind what there is no room for.
    fn by_bytes(&self, limited: &Limited, row: Row, end: Offset) -> Offset {
        let Some(bytes) = limited.limits.bytes else { return Offset::ZERO };
        let places = self.published.places.read();
        let Some(last) = places.last_beyond(limited.topic, bytes) else { return Offset::ZERO };
        places.first_after(row, last).unwrap_or(end)
    }
}
