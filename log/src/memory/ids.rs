//! What the twin knows of events by their ids: every one of the topics that it deduplicates.
//!
//! The rules are in [`dedupe`](crate::dedupe). It finds by the ids themselves, so what it finds is
//! the same event but for its content.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tracklog_protocol::event::EventView;
use tracklog_protocol::{Offset, PartitionId, Record, TimeMicros, TopicId};

use crate::dedupe::EVENTS_PER_ID_MAX;
use crate::{
    Append, AppendError, Condition, Dedupe, Item, Seen, SeenAt, SeenItem, Topic, TopicName,
};

/// By what an event is known.
type Id = (TopicId, String, String);

struct Known {
    partition: PartitionId,
    offset: Offset,
    append_time: TimeMicros,
}

#[derive(Default)]
pub(super) struct Ids {
    windows: BTreeMap<TopicName, Duration>,
    topics: BTreeMap<TopicId, Duration>,
    known: BTreeMap<Id, Vec<Known>>,
}

impl Ids {
    pub(super) fn deduplicate(&mut self, topics: &[Dedupe]) {
        self.windows = topics.iter().map(|it| (it.topic.clone(), it.window)).collect();
    }

    pub(super) fn create(&mut self, topic: &Topic) {
        if let Some(window) = self.windows.get(&topic.spec.name) {
            self.topics.insert(topic.id, *window);
        }
    }

    pub(super) fn window(&self, topic: TopicId) -> Option<Duration> {
        self.topics.get(&topic).copied()
    }

    pub(super) fn forget(&mut self, topic: TopicId) {
        self.topics.remove(&topic);
        self.known.retain(|(of, ..), _| *of != topic);
    }

    /// Keeps the events of which `keep`, asked for their place, says so.
    pub(super) fn retain(&mut self, keep: impl Fn(PartitionId, Offset) -> bool) {
        for known in self.known.values_mut() {
            known.retain(|it| keep(it.partition, it.offset));
        }
    }

    /// Refuses an append with events that are known, unless it says that they differ.
    pub(super) fn check(
        &mut self,
        append: &Append<'_>,
        now: TimeMicros,
        is_there: impl Fn(PartitionId, Offset) -> bool,
    ) -> Result<(), AppendError> {
        let mut seen = Seen { items: Vec::new() };
        let mut earlier = BTreeSet::new();
        for (item, content) in append.items.iter().enumerate() {
            let record = only_record(content);
            let id = record.and_then(|record| self.id_of(content.partition(), record));
            let Some(id) = id else { continue };
            let not_before = now.minus(self.topics[&id.0]);
            if let Some(known) = self.known.get_mut(&id) {
                known
                    .retain(|it| it.append_time >= not_before && is_there(it.partition, it.offset));
            }
            let known = self.known.get(&id).map_or(&[][..], Vec::as_slice);
            let places = known.iter().map(|it| (it.partition, it.offset));
            let places: Vec<_> = places.filter(|place| !differs(append, item, *place)).collect();
            if !earlier.insert(id) {
                seen.items.push(SeenItem { item, at: SeenAt::Before });
            } else if !places.is_empty() {
                seen.items.push(SeenItem { item, at: SeenAt::Places { places, not_before } });
            }
        }
        if seen.items.is_empty() { Ok(()) } else { Err(AppendError::Seen(Arc::new(seen))) }
    }

    /// Takes note of the events of an append that was given its places.
    pub(super) fn add(&mut self, items: &[Item<'_>], offsets: &[Offset], append_time: TimeMicros) {
        for (item, first) in items.iter().zip(offsets) {
            match item {
                Item::Record { partition, record } => {
                    self.note(*partition, *first, *record, append_time);
                }
                Item::Batch { partition, batch } => {
                    // Its own offsets count from 0.
                    for (offset, record) in batch.view().records() {
                        let offset = first.plus(offset.0);
                        self.note(*partition, offset, record, append_time);
                    }
                }
            }
        }
    }

    fn note(
        &mut self,
        partition: PartitionId,
        offset: Offset,
        record: Record<'_>,
        append_time: TimeMicros,
    ) {
        let Some(id) = self.id_of(partition, record) else { return };
        let not_before = append_time.minus(self.topics[&id.0]);
        let known = self.known.entry(id).or_default();
        known.retain(|it| it.append_time >= not_before);
        if known.len() < EVENTS_PER_ID_MAX {
            known.push(Known { partition, offset, append_time });
        }
    }

    fn id_of(&self, partition: PartitionId, record: Record<'_>) -> Option<Id> {
        let topic = partition.topic;
        let event = EventView::of(record).filter(|_| self.topics.contains_key(&topic))?;
        let source = event.source().unwrap_or_default().to_owned();
        Some((topic, source, event.message_id().to_owned()))
    }
}

const fn only_record<'a>(item: &Item<'a>) -> Option<Record<'a>> {
    match item {
        Item::Record { record, .. } => Some(*record),
        Item::Batch { .. } => None,
    }
}

fn differs(append: &Append<'_>, of: usize, place: (PartitionId, Offset)) -> bool {
    append.conditions.iter().any(|condition| match condition {
        Condition::Differs { item, partition, offset } => {
            (*item, (*partition, *offset)) == (of, place)
        }
        _ => false,
    })
}
