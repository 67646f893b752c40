//! A stretch of a topic on its way into files: what was read of the log, and how it is shared out.
//!
//! - Records stay where the log has them: batches are held, not copied.
//! - Rows of a file come by partition, then offset, since that is how a stretch is read.
//! - Each offset of the stretch is in one file, or in `missing` with the reason.
//!
//! Sans-io. The archiver reads, this decides.

use std::collections::{BTreeMap, HashMap};

use tracklog_log::FetchedPartition;
use tracklog_protocol::batch::Entry;
use tracklog_protocol::event::EventView;
use tracklog_protocol::{BatchView, Offset, Record, TimeMicros};

use super::columns::RowPlace;
use super::file::{FileWriter, WrittenFile};
use super::layout::{self, Date, OWN_FILE_BYTES};
use super::manifest::{Missing, OffsetRange};
use super::properties::PropertyColumns;

/// What was read of a topic since its archive ends.
#[derive(Default)]
pub(super) struct Stretch {
    batches: Vec<BatchView>,
    pub(super) ranges: Vec<OffsetRange>,
    pub(super) missing: Vec<Missing>,
    /// What the batches hold.
    pub(super) bytes: usize,
}

/// An event of a stretch: which batch, which of its entries.
#[derive(Clone, Copy)]
struct At {
    batch: u32,
    entry: u32,
}

/// The events of one file.
pub(super) struct Group {
    date: Date,
    /// `None`: several events share it.
    pub(super) name: Option<String>,
    events: Vec<At>,
}

impl Stretch {
    /// Goes on with what was fetched of a partition from `from` on, up to `to`, and where nothing
    /// is there, to the end of that: a hole may have millions of offsets and costs nothing. Returns
    /// where to read next.
    pub(super) fn take(&mut self, from: Offset, to: Offset, found: FetchedPartition) -> Offset {
        let partition = found.partition.partition;
        let (mut at, mut hole_end) = (from, found.next);
        for batch in found.batches {
            let (base, end) = (batch.base_offset(), batch.end_offset().min(to));
            if base >= to {
                hole_end = hole_end.min(base);
                continue;
            }
            if end <= at {
                continue;
            }
            self.miss(partition, at, base, || why(&found.damage, at));
            let first = at.max(base);
            self.miss_entries(partition, &batch, first, end);
            self.bytes += batch.bytes().len();
            self.batches.push(batch);
            at = end;
        }
        let next = if at < to { hole_end } else { at };
        self.miss(partition, at, next, || why(&found.damage, at));
        self.cover(partition, from, next.max(at));
        next.max(at)
    }

    /// Notes that `from..to` is gone from the log.
    pub(super) fn pass(&mut self, partition: u32, from: Offset, to: Offset, reason: &str) {
        self.miss(partition, from, to, || reason.to_owned());
        self.cover(partition, from, to);
    }

    fn miss_entries(&mut self, partition: u32, batch: &BatchView, first: Offset, end: Offset) {
        for (offset, entry) in batch.entries() {
            if (first..end).contains(&offset) && event_of(&entry).is_none() {
                let reason = match entry {
                    Entry::Removed => "removed",
                    Entry::Record(_) => "no event",
                };
                self.miss(partition, offset, offset.plus(1), || reason.to_owned());
            }
        }
    }

    fn miss(&mut self, partition: u32, from: Offset, to: Offset, reason: impl FnOnce() -> String) {
        if from >= to {
            return;
        }
        let why = reason();
        let last = self.missing.last_mut().filter(|last| {
            last.range.partition == partition && last.range.to == from.0 && last.why == why
        });
        match last {
            Some(last) => last.range.to = to.0,
            None => {
                let range = OffsetRange { partition, from: from.0, to: to.0 };
                self.missing.push(Missing { range, why });
            }
        }
    }

    fn cover(&mut self, partition: u32, from: Offset, to: Offset) {
        if from >= to {
            return;
        }
        match self.ranges.last_mut().filter(|last| last.partition == partition) {
            Some(last) => {
                assert!(last.to == from.0, "a partition is read without a hole");
                last.to = to.0;
            }
            None => self.ranges.push(OffsetRange { partition, from: from.0, to: to.0 }),
        }
    }

    /// Whether nothing was read.
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// When the first of what was read was appended; `None` where nothing is there.
    pub(super) fn first_time(&self) -> Option<TimeMicros> {
        self.batches.first().map(BatchView::append_time)
    }

    /// Shares the events out among files. `has_schema` says which names have one.
    pub(super) fn groups(&self, has_schema: impl Fn(&str) -> bool) -> Vec<Group> {
        let own = self.own_names(has_schema);
        let mut groups: BTreeMap<(Date, Option<&str>), Vec<At>> = BTreeMap::new();
        for (at, place, event, _) in self.events() {
            let name = layout::filed_under(&event);
            let name = own.get(name).copied().unwrap_or(false).then_some(name);
            groups.entry((Date::of(place.appended_at), name)).or_default().push(at);
        }
        let group = |((date, name), events): ((_, Option<&str>), _)| Group {
            date,
            name: name.map(str::to_owned),
            events,
        };
        groups.into_iter().map(group).collect()
    }

    /// The names of the stretch, and whether each has files of its own.
    fn own_names(&self, has_schema: impl Fn(&str) -> bool) -> HashMap<&str, bool> {
        let mut bytes: HashMap<&str, usize> = HashMap::new();
        for (_, _, event, record) in self.events() {
            *bytes.entry(layout::filed_under(&event)).or_default() += record.bytes().len();
        }
        let is_own = |(name, bytes): (_, usize)| {
            let is_own =
                layout::may_have_folder(name) && (bytes >= OWN_FILE_BYTES || has_schema(name));
            (name, is_own)
        };
        bytes.into_iter().map(is_own).collect()
    }

    fn events(&self) -> impl Iterator<Item = (At, RowPlace, EventView<'_>, Record<'_>)> {
        let ranges = self.by_partition();
        (0_u32..).zip(&self.batches).flat_map(move |(index, batch)| {
            let range = ranges.get(&batch.partition().partition).copied();
            (0..batch.count()).filter_map(move |entry| {
                let at = At { batch: index, entry };
                let place = place(batch, entry);
                let record = batch.entry(entry as usize)?.record()?;
                let is_meant = range.is_some_and(|range| range.contains(place.offset));
                is_meant.then_some((at, place, EventView::of(record)?, record))
            })
        })
    }

    fn by_partition(&self) -> HashMap<u32, OffsetRange> {
        self.ranges.iter().map(|range| (range.partition, *range)).collect()
    }

    /// The file of `group`.
    pub(super) fn encode(&self, group: &Group, properties: &PropertyColumns) -> WrittenFile {
        let mut writer = FileWriter::new(properties);
        for At { batch, entry } in &group.events {
            let batch = &self.batches[*batch as usize];
            let record = batch.entry(*entry as usize).and_then(Entry::record);
            let record = record.expect("a group has places of records alone");
            let event = EventView::of(record).expect("and of events alone");
            writer.push(place(batch, *entry), &event, record.bytes().len());
        }
        writer.finish()
    }
}

impl Group {
    /// Where its file lies.
    pub(super) fn path(&self, topic: &str, manifest: u64, file: &WrittenFile) -> String {
        let name = self.name.as_deref();
        layout::file(topic, self.date, name, file.ends, manifest, &file.sha256)
    }
}

fn place(batch: &BatchView, entry: u32) -> RowPlace {
    RowPlace {
        partition: batch.partition().partition,
        offset: batch.base_offset().plus(u64::from(entry)),
        appended_at: batch.append_time(),
    }
}

fn event_of<'a>(entry: &Entry<'a>) -> Option<EventView<'a>> {
    entry.record().and_then(EventView::of)
}

fn why(damage: &[tracklog_log::Damage], at: Offset) -> String {
    let found = damage.iter().find(|damage| damage.from <= at && at < damage.to);
    found.map_or_else(|| "never stored".to_owned(), |damage| format!("damaged: {}", damage.what))
}

#[cfg(test)]
mod tests {
    use tracklog_log::{Damage, Extent};
    use tracklog_protocol::{PartitionId, TopicId};

    use super::*;

    #[test]
    fn a_hole_is_passed_at_once_however_far_it_reaches() {
        let partition = PartitionId::new(TopicId(1), 3);
        let (from, end) = (Offset(7), Offset(1 << 40));
        let damage = Damage { partition, from, to: end, what: "lost commits".to_owned() };
        let found = FetchedPartition {
            partition,
            batches: Vec::new(),
            next: end,
            extent: Extent { start: Offset::ZERO, end },
            damage: vec![damage],
        };
        let mut stretch = Stretch::default();
        assert_eq!(stretch.take(from, from.plus(2), found), end);
        let whole = OffsetRange { partition: 3, from: from.0, to: end.0 };
        assert_eq!(stretch.ranges, [whole]);
        assert_eq!((stretch.missing.len(), stretch.missing[0].range), (1, whole));
    }
}
