//! The twin passes the suite; a log with a defect does not.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tracklog_log::conformance::{self, Harness, cases, random_program};
use tracklog_log::memory::MemoryLog;
use tracklog_log::{
    Append, AppendError, Busy, CatalogError, Domain, Epoch, Extent, Fetch, FetchError, Fetched,
    Item, Lane, Log, Pending, Permit, Ticket, TimeKind, Topic, TopicName, TopicSpec,
};
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::{Offset, PartitionId, TimeMicros};

use crate::memory_log;

/// A log that outlives its reopening: there is no disk below it.
struct InMemory(Arc<dyn Log>);

impl Harness for InMemory {
    fn log(&self) -> Arc<dyn Log> {
        Arc::clone(&self.0)
    }

    fn reopen(&mut self) {
        assert_eq!(Arc::strong_count(&self.0), 1, "nobody else holds it");
    }
}

fn twin() -> Box<dyn Harness> {
    Box::new(InMemory(Arc::new(memory_log())))
}

#[test]
fn the_twin_conforms() {
    conformance::run_all(&mut twin);
}

#[test]
fn every_case_has_its_own_name() {
    let names: BTreeSet<_> = cases().iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases().len());
}

#[test]
fn the_twin_agrees_with_itself_in_random_programs() {
    for seed in 100..200 {
        random_program(&mut *twin(), seed, 150);
    }
}

#[test]
fn a_random_program_notices_each_defect() {
    for defect in DEFECTS {
        let notices = |seed| {
            let mut harness = InMemory(Arc::new(Defective { log: memory_log(), defect }));
            let run = || random_program(&mut harness, seed, 300);
            catch_unwind(AssertUnwindSafe(run)).is_err()
        };
        assert!((1..20).any(notices), "{defect:?} goes unnoticed");
    }
}

#[test]
fn some_case_notices_each_defect() {
    for defect in DEFECTS {
        let notices = |case: &conformance::Case| {
            let mut harness = InMemory(Arc::new(Defective { log: memory_log(), defect }));
            catch_unwind(AssertUnwindSafe(|| case.run(&mut harness))).is_err()
        };
        assert!(cases().iter().any(notices), "{defect:?} goes unnoticed");
    }
}

/// What can be wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    AsksForNoConditions,
    LetsEveryEpochIn,
    StoresSomeTwice,
    KnowsNoProducers,
    AppendsWhatItRefused,
    ReadsOneTooFar,
    FindsOneTooLate,
    TrimsOneTooMany,
    KeepsDeletedTopics,
    ForgetsToTrim,
}

const DEFECTS: [Defect; 10] = [
    Defect::AsksForNoConditions,
    Defect::LetsEveryEpochIn,
    Defect::StoresSomeTwice,
    Defect::KnowsNoProducers,
    Defect::AppendsWhatItRefused,
    Defect::ReadsOneTooFar,
    Defect::FindsOneTooLate,
    Defect::TrimsOneTooMany,
    Defect::KeepsDeletedTopics,
    Defect::ForgetsToTrim,
];

/// The twin with a defect.
struct Defective {
    log: MemoryLog,
    defect: Defect,
}

impl Defective {
    fn has(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    /// Appends the same records, and says of no batch who produced it.
    fn append_anonymous(&self, permit: Permit, epoch: Epoch, append: Append<'_>) -> Ticket {
        let anonymous = |item: &Item<'_>| {
            let Item::Batch { batch, .. } = item else { return None };
            let mut builder = BatchBuilder::new(batch.view().header().kind());
            batch.view().records().for_each(|(_, record)| builder.push(record));
            Some(builder.finish())
        };
        let batches: Vec<_> = append.items.iter().map(anonymous).collect();
        let items = append.items.iter().zip(&batches).map(|(item, batch)| match batch {
            Some(batch) => Item::Batch { partition: item.partition(), batch },
            None => *item,
        });
        let items: Vec<_> = items.collect();
        self.log.append(permit, epoch, Append { items: &items, ..append })
    }

    fn newest_epoch(&self) -> Epoch {
        let permit = self.log.reserve(Lane(201), 0).unwrap();
        let nothing = Append { conditions: &[], items: &[] };
        match conformance::block_on(self.log.append(permit, Epoch(0), nothing)) {
            Err(AppendError::Fenced { current }) => current,
            other => panic!("epoch 0 is always too early: {other:?}"),
        }
    }
}

impl Log for Defective {
    fn open(&self, domain: Domain) -> Pending<'_, Result<Epoch, AppendError>> {
        self.log.open(domain)
    }

    fn reserve(&self, lane: Lane, bytes: usize) -> Result<Permit, Busy> {
        self.log.reserve(lane, bytes)
    }

    fn append(&self, permit: Permit, epoch: Epoch, append: Append<'_>) -> Ticket {
        let epoch = if self.has(Defect::LetsEveryEpochIn) { self.newest_epoch() } else { epoch };
        let mut append = append;
        if self.has(Defect::AsksForNoConditions) {
            append.conditions = &[];
        }
        let again = self.has(Defect::StoresSomeTwice) && append.items.len() == 3;
        if again || (self.has(Defect::AppendsWhatItRefused) && !append.conditions.is_empty()) {
            let more = self.log.reserve(Lane(202), 0).unwrap();
            let twice = Append { conditions: &[], ..append };
            drop(self.log.append(more, epoch, twice));
        }
        if self.has(Defect::KnowsNoProducers) {
            return self.append_anonymous(permit, epoch, append);
        }
        self.log.append(permit, epoch, append)
    }

    fn fetch(&self, mut fetch: Fetch) -> Pending<'_, Result<Fetched, FetchError>> {
        let skip = u64::from(self.has(Defect::ReadsOneTooFar));
        for (partition, from) in &mut fetch.from {
            if self.log.extent(*partition).is_some_and(|it| *from < it.end) {
                *from = from.plus(skip);
            }
        }
        self.log.fetch(fetch)
    }

    fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.log.extent(partition)
    }

    fn grown(&self, past: Vec<(PartitionId, Offset)>) -> Pending<'_, ()> {
        self.log.grown(past)
    }

    fn offset_at(
        &self,
        partition: PartitionId,
        kind: TimeKind,
        time: TimeMicros,
    ) -> Pending<'_, Result<Offset, FetchError>> {
        let time = TimeMicros(time.0.saturating_add(i64::from(self.has(Defect::FindsOneTooLate))));
        self.log.offset_at(partition, kind, time)
    }

    fn trim(&self, partition: PartitionId, before: Offset) -> Pending<'_, Result<(), AppendError>> {
        if self.has(Defect::ForgetsToTrim) {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.log.trim(partition, before.plus(u64::from(self.has(Defect::TrimsOneTooMany))))
    }

    fn create_topic(&self, spec: TopicSpec) -> Pending<'_, Result<Topic, CatalogError>> {
        self.log.create_topic(spec)
    }

    fn delete_topic(&self, name: &TopicName) -> Pending<'_, Result<(), CatalogError>> {
        if self.has(Defect::KeepsDeletedTopics) && self.log.topic(name.as_str()).is_some() {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.log.delete_topic(name)
    }

    fn topics(&self) -> Vec<Topic> {
        self.log.topics()
    }

    fn topic(&self, name: &str) -> Option<Topic> {
        self.log.topic(name)
    }
}
