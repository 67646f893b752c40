//! Fetches that are read together: one pass over a segment serves all who read it.
//!
//! 1. Whoever lacks an index gets it, and is planned again.
//! 2. Of several fetches each is cut behind the first segment that it reads: its caller comes back
//!    for the next, and again finds the others there. So a pass is bounded by what was taken
//!    along, which the replay budget bounds. One that is alone is cut only where the budget has
//!    no room for the rest.
//! 3. What all planned is read in the order of the disk, each window once.
//! 4. Each gets its own batches: slices of the same windows.
//!
//! Called by the threads that read, or by whoever asks where there are none.

use std::sync::Arc;

use tracklog_log::{Epoch, FetchError, Fetched};

use super::plan::{Asked, Plan};
use super::threads::Promise;
use super::{Reader, answer};
use crate::journal::commit::SegmentNumber;
use crate::partition::places::Held;

/// A fetch is planned so often, while what it reads goes elsewhere.
const PLANS_MAX: usize = 4;

/// A fetch that needs the disk.
pub(super) struct Reading {
    reader: Arc<Reader>,
    asked: Asked,
    plan: Plan,
    epoch: Epoch,
    promise: Promise<Result<Fetched, FetchError>>,
    /// What it reads first, and how much of it.
    segment: Option<SegmentNumber>,
    bytes: u64,
}

impl Reading {
    pub(super) fn new(
        reader: Arc<Reader>,
        asked: Asked,
        plan: Plan,
        epoch: Epoch,
        promise: Promise<Result<Fetched, FetchError>>,
    ) -> Self {
        let segment = plan.first_segment();
        // Without an index it is not known yet: it may become all that was asked for.
        let bytes = match segment {
            Some(segment) if plan.unread.is_empty() => plan.bytes(segment).0,
            _ => asked.bytes_max as u64,
        };
        Self { reader, asked, plan, epoch, promise, segment, bytes }
    }

    pub(super) const fn segment(&self) -> Option<SegmentNumber> {
        self.segment
    }

    /// What is read for it if others go along.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.promise.is_awaited()
    }

    pub(super) const fn promise_mut(&mut self) -> &mut Promise<Result<Fetched, FetchError>> {
        &mut self.promise
    }

    /// Plans again where an index was missing. Ends it when that cannot be.
    fn with_indexes(mut self, held: &mut Held) -> Option<Self> {
        match self.reader.read_indexes(&self.asked, self.plan, held) {
            Ok(plan) => {
                self.plan = plan;
                Some(self)
            }
            Err(error) => {
                self.promise.keep(Err(error));
                None
            }
        }
    }

    fn cut(&mut self, is_alone: bool) {
        let Some(segment) = self.plan.first_segment() else { return };
        let (first, all) = self.plan.bytes(segment);
        let more = all.saturating_sub(self.bytes.max(first));
        if all > first && !(is_alone && self.promise.may_grow(more)) {
            self.plan.cut_after(segment);
        }
    }

    fn answer(mut self) {
        for _ in 0..PLANS_MAX {
            if !self.plan.is_outdated() {
                break;
            }
            // Segments became a pack meanwhile, or packs another one.
            let plan = Plan::make(&self.reader.published, &self.asked, &Held::new());
            let plan =
                plan.and_then(|plan| self.reader.read_indexes(&self.asked, plan, &mut Held::new()));
            self.plan = match plan {
                Ok(plan) => plan,
                Err(error) => return self.promise.keep(Err(error)),
            };
            self.cut(false);
            let batches = self.plan.batches_mut().collect();
            self.reader.scan().read(batches);
        }
        let fetched = answer::fetched(self.plan, self.epoch, &self.reader.published);
        self.promise.keep(fetched);
    }
}

/// Reads a group, in which all read the same segment first.
pub(super) fn read_together(group: Vec<Reading>) {
    let Some(first) = group.first() else { return };
    let (reader, segment) = (Arc::clone(&first.reader), first.segment);
    let mut held = Held::new();
    let mut group: Vec<Reading> = group
        .into_iter()
        .filter(Reading::is_awaited)
        .filter_map(|reading| {
            let reading = reading.with_indexes(&mut held);
            held.retain(|number, _| Some(*number) == segment);
            reading
        })
        .collect();
    let is_alone = group.len() == 1;
    group.iter_mut().for_each(|reading| reading.cut(is_alone));
    let batches = group.iter_mut().flat_map(|reading| reading.plan.batches_mut());
    reader.scan().read(batches.collect());
    group.into_iter().for_each(Reading::answer);
}
