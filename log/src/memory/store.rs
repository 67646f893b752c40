//! What the twin holds: topics, partitions, stamped batches. No lock, no waker, no clock.
//!
//! Appends are stamped first and published later; between the two they are in flight: seen by
//! conditions and by later appends, and by no reader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tracklog_protocol::batch::{BATCH_BYTES_MAX, BatchBuilder, Stamp};
use tracklog_protocol::{
    BatchView, Offset, PartitionId, Record, TimeMicros, TopicId, VerifiedBatch,
};

use super::history::History;
use super::ids::Ids;
use crate::{
    Append, AppendError, CatalogError, Condition, Dedupe, Domain, Epoch, Erase, EraseError, Extent,
    Fetch, FetchError, Fetched, FetchedPartition, Item, Limits, Retention, TimeKind, Topic,
    TopicName, TopicSpec,
};

pub(super) struct Store {
    epoch: Epoch,
    closed: Option<Arc<str>>,
    last_time: TimeMicros,
    topics_made: u32,
    topics: BTreeMap<TopicName, Topic>,
    limits: BTreeMap<TopicId, Limits>,
    partitions: BTreeMap<PartitionId, Partition>,
    history: History,
    ids: Ids,
}

struct Partition {
    compact: bool,
    start: Offset,
    /// Published: readers see what lies below. Batches lie whole on one side of it.
    end: Offset,
    /// In offset order, without holes, in flight ones included.
    batches: Vec<BatchView>,
}

/// An append that was given its places.
#[derive(Default)]
pub(super) struct Stamped {
    /// The offset of each item.
    pub(super) offsets: Vec<Offset>,
    /// Where each partition ends once this append is published.
    pub(super) ends: Vec<(PartitionId, Offset)>,
    /// An earlier append has stored it.
    pub(super) is_duplicate: bool,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            epoch: Epoch(0),
            closed: Some("nobody has opened it yet".into()),
            last_time: TimeMicros(i64::MIN),
            topics_made: 0,
            topics: BTreeMap::new(),
            limits: BTreeMap::new(),
            partitions: BTreeMap::new(),
            history: History::default(),
            ids: Ids::default(),
        }
    }
}

impl Store {
    /// Stores events once in these topics, from now on.
    pub(super) fn deduplicate(&mut self, topics: &[Dedupe]) {
        self.ids.deduplicate(topics);
    }

    pub(super) fn open(&mut self, domain: Domain) -> Result<Epoch, AppendError> {
        if domain != Domain::WHOLE {
            return Err(AppendError::Closed { why: "this log is one domain, 0".into() });
        }
        self.closed = None;
        self.epoch = Epoch(self.epoch.0 + 1);
        Ok(self.epoch)
    }

    /// Checks an append and gives it its places: all of it or none.
    pub(super) fn append(
        &mut self,
        epoch: Epoch,
        append: &Append<'_>,
        now: TimeMicros,
    ) -> Result<Stamped, AppendError> {
        self.check_writer(epoch)?;
        self.check_partitions(append)?;
        let append_time = TimeMicros(now.0.max(self.last_time.0 + 1));
        if let Some(offsets) = self.history.find(append.items, append_time) {
            return Ok(Stamped { offsets, ends: Vec::new(), is_duplicate: true });
        }
        let cut = Cut::of(append.items)?;
        self.history.check(append.items, append_time)?;
        if let Some(index) = append.conditions.iter().position(|it| !self.holds(it)) {
            return Err(AppendError::ConditionFailed { index });
        }
        let partitions = &self.partitions;
        let is_there = |id: PartitionId, offset| {
            partitions.get(&id).is_some_and(|partition| offset >= partition.start)
        };
        self.ids.check(append, append_time, is_there)?;
        let stamped = self.stamp(cut, append_time);
        self.history.add(append.items, &stamped.offsets, append_time);
        self.ids.add(append.items, &stamped.offsets, append_time);
        Ok(stamped)
    }

    fn check_writer(&self, epoch: Epoch) -> Result<(), AppendError> {
        if let Some(why) = &self.closed {
            return Err(AppendError::Closed { why: Arc::clone(why) });
        }
        if epoch == self.epoch { Ok(()) } else { Err(AppendError::Fenced { current: self.epoch }) }
    }

    fn check_partitions(&self, append: &Append<'_>) -> Result<(), AppendError> {
        let of_conditions = append.conditions.iter().map(|condition| match condition {
            Condition::NextOffset { partition, .. } | Condition::LastOfKey { partition, .. } => {
                Some(*partition)
            }
            // The other event may be gone with its topic.
            Condition::Differs { .. } | Condition::Looked { .. } => None,
        });
        let of_items = append.items.iter().map(Item::partition);
        match of_items.chain(of_conditions.flatten()).find(|it| !self.partitions.contains_key(it)) {
            Some(partition) => Err(AppendError::UnknownPartition { partition }),
            None => Ok(()),
        }
    }

    fn holds(&self, condition: &Condition) -> bool {
        match condition {
            Condition::NextOffset { partition, next } => self.partitions[partition].next() == *next,
            Condition::LastOfKey { partition, key, last } => {
                let partition = &self.partitions[partition];
                partition.compact && partition.last_of_key(key) == *last
            }
            Condition::Differs { .. } | Condition::Looked { .. } => true,
        }
    }

    fn stamp(&mut self, cut: Cut, append_time: TimeMicros) -> Stamped {
        self.last_time = append_time;
        let mut bases = Vec::new();
        let mut ends = BTreeMap::new();
        for (id, batch) in cut.batches {
            let partition = self.partitions.get_mut(&id).expect("partitions were checked");
            let base_offset = partition.next();
            let stamp = Stamp { partition: id, base_offset, append_time };
            partition.batches.push(batch.stamped(&stamp));
            bases.push(base_offset);
            ends.insert(id, partition.next());
        }
        let offset_of = |(batch, record): &(usize, u64)| bases[*batch].plus(*record);
        Stamped {
            offsets: cut.places.iter().map(offset_of).collect(),
            ends: ends.into_iter().collect(),
            is_duplicate: false,
        }
    }

    pub(super) fn publish(&mut self, ends: &[(PartitionId, Offset)]) {
        for (id, end) in ends {
            // The topic may have been deleted meanwhile.
            if let Some(partition) = self.partitions.get_mut(id) {
                assert!(partition.end <= *end, "an end offset never goes back");
                partition.end = *end;
            }
        }
    }

    pub(super) fn lose_unpublished(&mut self, why: &Arc<str>) {
        for partition in self.partitions.values_mut() {
            partition.batches.retain(|batch| batch.end_offset() <= partition.end);
        }
        let partitions = &self.partitions;
        let is_stored =
            |id, first| partitions.get(&id).is_some_and(|it: &Partition| first < it.end);
        self.history.retain(is_stored);
        self.ids.retain(is_stored);
        self.closed = Some(Arc::clone(why));
    }

    pub(super) fn fetch(&self, fetch: &Fetch) -> Result<Fetched, FetchError> {
        let mut room = Room { bytes: fetch.bytes_max, empty: true };
        let partitions = fetch
            .from
            .iter()
            .map(|(id, from)| self.partition(*id)?.fetch(*id, *from, &mut room))
            .collect::<Result<_, _>>()?;
        Ok(Fetched { epoch: self.epoch, partitions })
    }

    fn partition(&self, id: PartitionId) -> Result<&Partition, FetchError> {
        self.partitions.get(&id).ok_or(FetchError::UnknownPartition { partition: id })
    }

    pub(super) fn extent(&self, id: PartitionId) -> Option<Extent> {
        self.partitions.get(&id).map(Partition::extent)
    }

    pub(super) fn offset_at(
        &self,
        id: PartitionId,
        kind: TimeKind,
        time: TimeMicros,
    ) -> Result<Offset, FetchError> {
        let partition = self.partition(id)?;
        Ok(match kind {
            TimeKind::Append => partition.offset_at_append(time),
            TimeKind::Event => partition.offset_at_event(time),
        })
    }

    pub(super) fn trim(&mut self, id: PartitionId, before: Offset) -> Result<(), AppendError> {
        let partition =
            self.partitions.get_mut(&id).ok_or(AppendError::UnknownPartition { partition: id })?;
        // What is not there yet cannot be given up: it may still be acked.
        partition.start = before.min(partition.end).max(partition.start);
        partition.batches.retain(|batch| batch.end_offset() > partition.start);
        Ok(())
    }

    /// Takes records out, all at once or none.
    pub(super) fn erase(&mut self, records: &[Erase]) -> Result<(), EraseError> {
        for Erase { partition, to, .. } in records {
            let end = self.extent(*partition).map(|extent| extent.end);
            let end = end.ok_or(EraseError::UnknownPartition { partition: *partition })?;
            if *to > end {
                return Err(EraseError::Beyond { partition: *partition, end });
            }
        }
        for erase in records {
            let partition = self.partitions.get_mut(&erase.partition);
            partition.expect("partitions were checked").erase(erase);
        }
        Ok(())
    }

    pub(super) fn create_topic(
        &mut self,
        spec: TopicSpec,
        created: TimeMicros,
    ) -> Result<Topic, CatalogError> {
        let partitions = spec.partitions;
        if !(1..=100_000).contains(&partitions) {
            return Err(CatalogError::Partitions { partitions });
        }
        if let Some(topic) = self.topics.get(&spec.name) {
            if topic.spec == spec {
                return Ok(topic.clone());
            }
            let partitions = topic.spec.partitions;
            return Err(CatalogError::Exists { name: spec.name, partitions });
        }
        self.topics_made += 1;
        let topic = Topic { id: TopicId(self.topics_made), spec, created };
        let compact = topic.spec.retention == Retention::Compact;
        self.partitions.extend(topic.partitions().map(|id| (id, Partition::new(compact))));
        self.ids.create(&topic);
        self.topics.insert(topic.spec.name.clone(), topic.clone());
        Ok(topic)
    }

    pub(super) fn delete_topic(&mut self, name: &TopicName) -> Result<(), CatalogError> {
        let topic = self
            .topics
            .remove(name)
            .ok_or_else(|| CatalogError::NotFound { name: name.clone() })?;
        self.partitions.retain(|id, _| id.topic != topic.id);
        self.history.retain(|id, _| id.topic != topic.id);
        self.ids.forget(topic.id);
        self.limits.remove(&topic.id);
        Ok(())
    }

    /// Remembers the limits. It keeps everything: what is beyond them may stay for a while.
    pub(super) fn set_limits(
        &mut self,
        name: &TopicName,
        limits: Limits,
    ) -> Result<(), CatalogError> {
        let topic = self.topics.get(name);
        let topic = topic.ok_or_else(|| CatalogError::NotFound { name: name.clone() })?;
        if topic.spec.retention == Retention::Compact && !limits.are_none() {
            let why = "a compacted topic keeps the last record of each key";
            return Err(CatalogError::Unlimited { why });
        }
        self.limits.insert(topic.id, limits);
        Ok(())
    }

    pub(super) fn limits(&self, topic: TopicId) -> Limits {
        self.limits.get(&topic).copied().unwrap_or_default()
    }

    pub(super) fn dedupe_window(&self, topic: TopicId) -> Option<Duration> {
        self.ids.window(topic)
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.values()
    }
}

impl Partition {
    const fn new(compact: bool) -> Self {
        Self { compact, start: Offset::ZERO, end: Offset::ZERO, batches: Vec::new() }
    }

    /// The offset that the next record gets, commits in flight included.
    fn next(&self) -> Offset {
        self.batches.last().map_or(self.end, BatchView::end_offset)
    }

    const fn extent(&self) -> Extent {
        Extent { start: self.start, end: self.end }
    }

    fn readable(&self) -> impl Iterator<Item = &BatchView> {
        self.batches.iter().filter(|batch| batch.end_offset() <= self.end)
    }

    fn fetch(
        &self,
        id: PartitionId,
        from: Offset,
        room: &mut Room,
    ) -> Result<FetchedPartition, FetchError> {
        let extent = self.extent();
        if from < extent.start || from > extent.end {
            return Err(FetchError::OutOfRange { partition: id, asked: from, extent });
        }
        let rest = self.readable().filter(|batch| batch.end_offset() > from);
        let batches: Vec<_> = rest.take_while(|batch| room.take(batch)).cloned().collect();
        let next = batches.last().map_or(from, BatchView::end_offset);
        Ok(FetchedPartition { partition: id, batches, next, extent, damage: Vec::new() })
    }

    fn offset_at_append(&self, time: TimeMicros) -> Offset {
        let first = self.readable().find(|batch| batch.append_time() >= time);
        first.map_or(self.end, BatchView::base_offset).max(self.start)
    }

    fn offset_at_event(&self, time: TimeMicros) -> Offset {
        let may_have = |batch: &&BatchView| {
            batch.header().event_times().is_some_and(|times| times.max >= time)
        };
        self.readable()
            .filter(may_have)
            .flat_map(BatchView::records)
            .filter(|(offset, _)| *offset >= self.start)
            .find(|(_, record)| record.event_time().is_some_and(|it| it >= time))
            .map_or(self.end, |(offset, _)| offset)
    }

    fn erase(&mut self, erase: &Erase) {
        let older = self.superseded_by(erase);
        let stays = |offset: Offset, record: Record<'_>| {
            let key = record.key_value().map(|record| record.key);
            let is_older = key.and_then(|key| older.get(key)).is_some_and(|last| offset < *last);
            !is_older && !(erase.from..erase.to).contains(&offset)
        };
        for batch in &mut self.batches {
            if let Some(left) = batch.without(stays) {
                *batch = left;
            }
        }
    }

    /// The keys whose last records are among those, and where these lie: what is older of them goes
    /// along.
    fn superseded_by(&self, erase: &Erase) -> BTreeMap<Vec<u8>, Offset> {
        let mut lasts = BTreeMap::new();
        if self.compact {
            for (offset, record) in self.batches.iter().flat_map(BatchView::records) {
                if let Some(record) = record.key_value() {
                    lasts.insert(record.key.to_vec(), offset);
                }
            }
        }
        lasts.retain(|_, last| (erase.from..erase.to).contains(last));
        lasts
    }

    /// Where the last record with this key lies, commits in flight included, unless it deletes.
    fn last_of_key(&self, key: &[u8]) -> Option<Offset> {
        self.batches
            .iter()
            .flat_map(BatchView::records)
            .filter(|(offset, _)| *offset >= self.start)
            .filter_map(|(offset, record)| Some((offset, record.key_value()?)))
            .filter(|(_, record)| record.key == key)
            .last()
            .and_then(|(offset, record)| record.value.map(|_| offset))
    }
}

/// What may still be put into an answer.
struct Room {
    bytes: usize,
    empty: bool,
}

impl Room {
    /// Whether the batch goes in. The first one always does.
    fn take(&mut self, batch: &BatchView) -> bool {
        let bytes = batch.bytes().len();
        let fits = self.empty || bytes <= self.bytes;
        self.bytes = if fits { self.bytes.saturating_sub(bytes) } else { 0 };
        self.empty = false;
        fits
    }
}

/// The items of an append as batches.
struct Cut {
    batches: Vec<(PartitionId, VerifiedBatch)>,
    /// For each item: which batch, and which record of it.
    places: Vec<(usize, u64)>,
}

impl Cut {
    fn of(items: &[Item<'_>]) -> Result<Self, AppendError> {
        let bytes = items.iter().map(item_bytes).sum();
        let too_large = AppendError::TooLarge { bytes, bytes_max: BATCH_BYTES_MAX };
        if bytes > BATCH_BYTES_MAX {
            return Err(too_large);
        }
        let (mut batches, mut places) = (Vec::new(), Vec::new());
        for run in items.chunk_by(gather) {
            let batch = match run {
                [Item::Batch { batch, .. }] => (*batch).clone(),
                records => gathered(records).ok_or_else(|| too_large.clone())?,
            };
            places.extend((0..run.len()).map(|record| (batches.len(), record as u64)));
            batches.push((run[0].partition(), batch));
        }
        Ok(Self { batches, places })
    }
}

fn item_bytes(item: &Item<'_>) -> usize {
    match item {
        Item::Record { record, .. } => record.bytes().len(),
        Item::Batch { batch, .. } => batch.view().bytes().len(),
    }
}

/// Whether two neighbours share a batch.
fn gather(one: &Item<'_>, other: &Item<'_>) -> bool {
    match (one, other) {
        (
            Item::Record { partition: left, record: one },
            Item::Record { partition: right, record: other },
        ) => left == right && one.kind() == other.kind(),
        _ => false,
    }
}

/// `None`: they fill more than a batch.
fn gathered(items: &[Item<'_>]) -> Option<VerifiedBatch> {
    let records = items.iter().filter_map(|item| match item {
        Item::Record { record, .. } => Some(record),
        Item::Batch { .. } => None,
    });
    let mut builder: Option<BatchBuilder> = None;
    for record in records {
        let builder = builder.get_or_insert_with(|| BatchBuilder::new(record.kind()));
        if builder.batch_bytes_next(record.bytes().len()) > BATCH_BYTES_MAX {
            return None;
        }
        builder.push(*record);
    }
    builder.map(BatchBuilder::finish)
}
