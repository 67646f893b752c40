//! For tests: a log in memory, and events that go through enrichers as the enrich stage does it.

use std::sync::Arc;

use tracklog_log::conformance::block_on;
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::{Append, Domain, Epoch, Item, Lane, Log};
use tracklog_protocol::event::{EventBuilder, EventParts, EventView};
use tracklog_protocol::{Offset, PartitionId, Records, TimeMicros, TopicId};

use super::{MemoryStore, State, StateBatch, StateOptions};
use crate::enrich::{Enricher, Enrichment};

/// A table of this size is soon full.
pub(crate) const SMALL: StateOptions = StateOptions { table_bytes: 600, cache_bytes: 4 << 10 };

/// Partition `partition` of a source topic.
pub(crate) const fn source(partition: u32) -> PartitionId {
    PartitionId::new(TopicId(77), partition)
}

/// What a crash leaves of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left {
    Whole,
    /// Its applied offset is lost.
    Behind,
    Nothing,
}

/// A log, and what a process has over it.
pub(crate) struct Rig {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) state: State<MemoryLog>,
    epoch: Epoch,
}

impl Rig {
    pub(crate) fn new(options: StateOptions) -> Self {
        let clock = Arc::new(|| TimeMicros(0));
        let log = Arc::new(MemoryLog::new(MemoryOptions { clock, budget_bytes: 64 << 20 }));
        let epoch = block_on(log.open(Domain::WHOLE)).unwrap();
        let store = Arc::new(MemoryStore::new());
        let state = open(&log, &store, options);
        Self { log, store, state, epoch }
    }

    /// The process ends and another begins, with the store that is left.
    pub(crate) fn restart(&mut self, left: Left, options: StateOptions) {
        self.store = Arc::new(match left {
            Left::Whole => self.store.reopened(),
            Left::Behind => self.store.reopened_behind(),
            Left::Nothing => MemoryStore::new(),
        });
        self.state = open(&self.log, &self.store, options);
    }

    /// Commits changes.
    pub(crate) fn commit(&self, changes: &Records) {
        let partition = self.state.partition();
        let items: Vec<_> =
            changes.iter().map(|record| Item::Record { partition, record }).collect();
        if !items.is_empty() {
            let permit = self.log.reserve(Lane::INTERNAL, changes.byte_count()).unwrap();
            let append = Append { conditions: &[], items: &items };
            block_on(self.log.append(permit, self.epoch, append)).unwrap();
        }
    }

    pub(crate) fn begin(&self, partition: u32) -> StateBatch<'_> {
        block_on(self.state.begin(source(partition))).unwrap()
    }

    /// Enriches `events`, the first of which is at `from`, as one batch; commits if told to.
    pub(crate) fn batch(
        &self,
        partition: u32,
        from: u64,
        events: &[EventParts<'_>],
        enrichers: &[&dyn Enricher],
        commits: bool,
    ) -> Vec<Enrichment> {
        let mut batch = self.begin(partition);
        let mut changes = Records::new();
        let enriched = enrich(&mut batch, from, events, enrichers, &mut changes);
        if commits {
            self.commit(&changes);
        }
        enriched
    }

    /// Enriches `events`, each a batch of its own, or all in one.
    pub(crate) fn run(
        &self,
        events: &[EventParts<'_>],
        enrichers: &[&dyn Enricher],
        together: bool,
    ) -> Vec<Enrichment> {
        let size = if together { events.len() } else { 1 };
        let batches = events.chunks(size).enumerate();
        let enriched =
            batches.map(|(index, it)| self.batch(0, (index * size) as u64, it, enrichers, true));
        enriched.flatten().collect()
    }
}

/// Enriches `events` in a batch that has begun; adds its changes to `changes`.
pub(crate) fn enrich(
    batch: &mut StateBatch<'_>,
    from: u64,
    events: &[EventParts<'_>],
    enrichers: &[&dyn Enricher],
    changes: &mut Records,
) -> Vec<Enrichment> {
    let mut builder = EventBuilder::new();
    let mut enriched = Vec::new();
    for (offset, parts) in (from..).zip(events) {
        let event = EventView::of(builder.build(parts)).unwrap();
        let mut found = Enrichment::default();
        batch.begin_event(Offset(offset));
        for enricher in enrichers {
            enricher.enrich(&event, batch, &mut found).unwrap();
        }
        batch.finish_event().iter().for_each(|record| changes.push(record));
        enriched.push(found);
    }
    enriched
}

fn open(log: &Arc<MemoryLog>, store: &Arc<MemoryStore>, options: StateOptions) -> State<MemoryLog> {
    block_on(State::open(Arc::clone(log), Arc::clone(store), options)).unwrap()
}
