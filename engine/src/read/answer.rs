//! The answer to a fetch, put together from what was read.
//!
//! Promises: `next` moves past whatever is known to be unreadable, and past nothing else; each
//! stretch of records that is passed over is named once.

use std::sync::atomic::{AtomicU64, Ordering};

use tracklog_log::{Damage, Epoch, FetchError, Fetched, FetchedPartition};
use tracklog_protocol::{BatchView, Offset, PartitionId};

use super::plan::{Bad, Medium, PartitionPlan, Plan, Planned, Progress};
use crate::published::{Published, ReadCounts};

/// # Errors
/// When the disk gave nothing for now, and there is nothing else.
pub(super) fn fetched(
    plan: Plan,
    epoch: Epoch,
    published: &Published,
) -> Result<Fetched, FetchError> {
    count(&plan, &published.reads);
    let mut error = None;
    let mut moved = false;
    let topics = published.topics.read();
    let partitions = plan.partitions.into_iter().map(|plan| {
        let from = plan.from;
        // What was given up while it was read is not missed.
        let start = topics.extent(plan.partition).map_or(plan.extent.end, |extent| extent.start);
        let found = Assembly::new(&plan, start).run(plan, &mut error);
        moved |= found.next > from;
        found
    });
    let partitions = partitions.collect();
    match error {
        Some(error) if !moved => Err(error),
        _ => Ok(Fetched { epoch, partitions }),
    }
}

fn count(plan: &Plan, reads: &ReadCounts) {
    let batches = || plan.partitions.iter().flat_map(|partition| &partition.batches);
    let add = |count: &AtomicU64, medium| {
        let read = batches().filter(|batch| batch.medium == medium).count() as u64;
        if read > 0 {
            count.fetch_add(read, Ordering::Relaxed);
        }
    };
    add(&reads.ring, Medium::Ring);
    add(&reads.active, Medium::Active);
    add(&reads.map, Medium::Full);
    let packs = batches().filter(|batch| matches!(batch.medium, Medium::Pack(_))).count() as u64;
    if packs > 0 {
        reads.pack.fetch_add(packs, Ordering::Relaxed);
    }
}

/// How much of what was planned was taken.
enum Taken {
    All,
    /// There was no room for the rest.
    Some,
}

/// One partition's part of the answer.
struct Assembly {
    partition: PartitionId,
    /// The first offset that is still there.
    start: Offset,
    /// Where the next batch should begin, or before.
    expected: Offset,
    batches: Vec<BatchView>,
    damage: Vec<Damage>,
}

impl Assembly {
    fn new(plan: &PartitionPlan, start: Offset) -> Self {
        Self {
            partition: plan.partition,
            start: start.max(plan.extent.start),
            expected: plan.from,
            batches: Vec::with_capacity(plan.batches.len()),
            damage: Vec::new(),
        }
    }

    fn run(mut self, plan: PartitionPlan, error: &mut Option<FetchError>) -> FetchedPartition {
        let exhausted = plan.state == Progress::Exhausted && plan.from < plan.extent.end;
        let mut stopped = false;
        for planned in plan.batches {
            match self.take(planned) {
                Ok(Taken::All) => {}
                Ok(Taken::Some) => {
                    stopped = true;
                    break;
                }
                Err(why) => {
                    error.get_or_insert(FetchError::Io { partition: self.partition, why });
                    stopped = true;
                    break;
                }
            }
        }
        if exhausted && !stopped {
            self.lost_up_to(plan.extent.end);
        }
        let mut extent = plan.extent;
        extent.start = self.start.min(extent.end);
        FetchedPartition {
            partition: self.partition,
            batches: self.batches,
            next: self.expected,
            extent,
            damage: self.damage,
        }
    }

    /// Takes what was planned next; the error says why it cannot be had for now.
    fn take(&mut self, planned: Planned) -> Result<Taken, String> {
        let (place, bound) = (planned.place, planned.bound);
        let (mut left, mut takes_one) = (planned.bytes_max, planned.takes_one);
        for batch in planned.batches() {
            match batch {
                Ok(batch) if batch.end_offset() <= self.expected.max(self.start) => {
                    self.expected = self.expected.max(batch.end_offset());
                }
                Ok(batch) => {
                    let bytes = batch.bytes().len();
                    if bytes > left && !takes_one {
                        return Ok(Taken::Some);
                    }
                    (left, takes_one) = (left.saturating_sub(bytes), false);
                    self.lost_up_to(batch.base_offset());
                    self.expected = batch.end_offset();
                    self.batches.push(batch);
                }
                Err(Bad::Damaged(what)) => {
                    self.lost_up_to(place.base_offset);
                    self.pass_over(bound, |_| what.to_string());
                }
                // It was given up meanwhile.
                Err(Bad::Io(_) | Bad::Gone(_)) if bound <= self.start => {
                    self.expected = self.expected.max(bound);
                }
                Err(Bad::Io(why) | Bad::Gone(why)) => return Err(why),
            }
        }
        self.lost_up_to(bound);
        Ok(Taken::All)
    }

    fn lost_up_to(&mut self, offset: Offset) {
        self.pass_over(offset, |records| format!("{records} records are not there: lost commits"));
    }

    /// Goes on at `to`; what lies between is damaged, unless it was given up. `what` is told how
    /// many records that are, and asked only if there are any.
    fn pass_over(&mut self, to: Offset, what: impl FnOnce(u64) -> String) {
        let from = self.expected.max(self.start);
        if from < to {
            let what = what(to.0 - from.0);
            self.damage.push(Damage { partition: self.partition, from, to, what });
        }
        self.expected = self.expected.max(to);
    }
}
