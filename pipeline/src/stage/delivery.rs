//! Outputs and the source's new offset on their way into the log.
//!
//! - [`Delivery::OneCommit`]: all in one commit, under the claim's conditions. The way of a log
//!   whose commits reach across partitions: nothing else is needed to be exact.
//! - [`Delivery::Producer`]: for a log whose commits do not. The stage is an idempotent producer in
//!   each partition that it writes to, and counts by the source's offsets: a batch of outputs stands
//!   for the stretch of the source that it was derived from. The offset is committed last. Whoever
//!   goes on after a crash derives again from the committed offset, and the log tells for each
//!   partition from which source offset on its outputs are missing. What does not fit is found out
//!   before any of it is stored, since it is cut otherwise then, or rejected. A producer that was silent for
//!   longer than the log remembers is taken for a new one: [`tracklog_log::producers`] says when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracklog_log::{Append, AppendError, Busy, Epoch, Item, Lane, Log, Stored};
use tracklog_protocol::batch::{BATCH_BYTES_MAX, BatchBuilder};
use tracklog_protocol::{
    Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimeMicros, VerifiedBatch,
};

use super::{Output, Outputs};
use crate::groups::Claim;

/// How long a log that is full is left alone before it is asked again.
const FULL_PAUSE: Duration = Duration::from_millis(250);

/// How outputs and offset come to be in the log together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// In one commit.
    OneCommit,
    /// One after the other, as the producer with this name.
    Producer,
}

/// Why a batch was not delivered.
#[derive(Debug)]
pub(crate) enum Undelivered {
    /// The claim holds no more. Nothing of it was stored, or it will be known again.
    Stale,
    /// It is larger than a commit can be: deliver less.
    TooLarge,
    /// Not now: try again after a while.
    Later(Duration),
    /// The log takes nothing more.
    Ended(AppendError),
}

impl From<AppendError> for Undelivered {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::ConditionFailed { .. } | AppendError::StaleProducer { .. } => Self::Stale,
            AppendError::TooLarge { .. } => Self::TooLarge,
            AppendError::Full { .. } => Self::Later(FULL_PAUSE),
            error => Self::Ended(error),
        }
    }
}

impl From<Busy> for Undelivered {
    fn from(busy: Busy) -> Self {
        Self::Later(busy.retry_after)
    }
}

/// Brings a source partition's outputs into the log.
pub(crate) struct Courier<'l, L: ?Sized> {
    log: &'l L,
    epoch: Epoch,
    delivery: Delivery,
    producer: ProducerId,
    /// Of [`Delivery::Producer`]: from which source offset on each partition lacks its outputs, as
    /// far as it is known.
    missing_from: BTreeMap<PartitionId, Sequence>,
    record: Vec<u8>,
}

impl<'l, L: Log + ?Sized> Courier<'l, L> {
    /// `producer_name` names the stage: a producer comes back under it after a crash.
    pub(crate) fn new(
        log: &'l L,
        epoch: Epoch,
        delivery: Delivery,
        producer_name: &str,
        source: PartitionId,
    ) -> Self {
        let name = format!("{producer_name}/{}/{}", source.topic, source.partition);
        let producer = ProducerId(xxhash_rust::xxh3::xxh3_64(name.as_bytes()));
        let (missing_from, record) = (BTreeMap::new(), Vec::new());
        Self { log, epoch, delivery, producer, missing_from, record }
    }

    /// Stores `outputs`, which come of what lies between the claim's offset and `next`, and moves
    /// the claim there.
    pub(crate) async fn deliver(
        &mut self,
        claim: &mut Claim,
        outputs: &Outputs,
        next: Offset,
        now: TimeMicros,
    ) -> Result<(), Undelivered> {
        match self.delivery {
            Delivery::OneCommit => self.commit(claim, outputs, next, now).await,
            Delivery::Producer => {
                for (to, batch) in self.batches(claim, outputs, next)? {
                    self.produce(claim, outputs, to, batch, next).await?;
                }
                self.commit(claim, &Outputs::default(), next, now).await
            }
        }
    }

    async fn commit(
        &mut self,
        claim: &mut Claim,
        outputs: &Outputs,
        next: Offset,
        now: TimeMicros,
    ) -> Result<(), Undelivered> {
        let offset = claim.moved_to(next, now, &mut self.record);
        let records = outputs.iter().map(|it| (it.to, it.record));
        let items = records.chain([(claim.ledger(), offset)]);
        let items: Vec<_> =
            items.map(|(partition, record)| Item::Record { partition, record }).collect();
        let bytes = outputs.byte_count() + offset.bytes().len();
        let permit = self.log.reserve(Lane::STAGES, bytes)?;
        let append = Append { conditions: &claim.conditions(), items: &items };
        let stored: Stored = self.log.append(permit, self.epoch, append).await?;
        claim.committed(next, stored.offset(items.len() - 1));
        Ok(())
    }

    /// What each partition gets, as far as it is known what it lacks. The largest comes first: the
    /// log that takes it takes the others too, and where it does not nothing was stored.
    fn batches(
        &self,
        claim: &Claim,
        outputs: &Outputs,
        next: Offset,
    ) -> Result<Vec<(PartitionId, Option<VerifiedBatch>)>, Undelivered> {
        let partitions: BTreeSet<_> = outputs.iter().map(|it| it.to).collect();
        let of = |to| Ok((to, self.batch(claim, outputs, to, next)?));
        let batches: Result<Vec<_>, Undelivered> = partitions.into_iter().map(of).collect();
        let mut batches = batches?;
        let bytes = |batch: &VerifiedBatch| batch.view().bytes().len();
        batches.sort_by_key(|(_, batch)| Reverse(batch.as_ref().map_or(0, bytes)));
        Ok(batches)
    }

    /// The outputs for `to` that it lacks; `None` when it lacks none.
    fn batch(
        &self,
        claim: &Claim,
        outputs: &Outputs,
        to: PartitionId,
        next: Offset,
    ) -> Result<Option<VerifiedBatch>, Undelivered> {
        let from = self.missing_from.get(&to).copied().unwrap_or_else(|| Sequence(claim.next().0));
        let lacking = |of: Offset| of.0 >= from.0;
        let mut records = outputs.iter().filter(|it| it.to == to && lacking(it.of)).peekable();
        let Some(kind) = records.peek().map(|it| it.record.kind()) else { return Ok(None) };
        let epoch = u32::try_from(claim.generation().0).expect("a group has few generations");
        let stretch = from..Sequence(next.0);
        let mut batch =
            BatchBuilder::new(kind).derived_by(self.producer, ProducerEpoch(epoch), stretch);
        for Output { record, .. } in records {
            if batch.batch_bytes_next(record.bytes().len()) > BATCH_BYTES_MAX {
                return Err(Undelivered::TooLarge);
            }
            batch.push(record);
        }
        Ok(Some(batch.finish()))
    }

    /// Has `to` store its outputs once, whatever of them it has already.
    async fn produce(
        &mut self,
        claim: &Claim,
        outputs: &Outputs,
        to: PartitionId,
        mut batch: Option<VerifiedBatch>,
        next: Offset,
    ) -> Result<(), Undelivered> {
        while let Some(whole) = &batch {
            let permit = self.log.reserve(Lane::STAGES, whole.view().bytes().len())?;
            let items = [Item::Batch { partition: to, batch: whole }];
            let append = Append { conditions: &[], items: &items };
            match self.log.append(permit, self.epoch, append).await {
                Ok(_) => {
                    self.missing_from.insert(to, Sequence(next.0));
                    return Ok(());
                }
                Err(AppendError::OutOfSequence { expected, .. }) => {
                    self.missing_from.insert(to, expected);
                    batch = self.batch(claim, outputs, to, next)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}
