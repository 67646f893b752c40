//! The loop of a stage over one partition of its source.
//!
//! 1. Claim the partition: the committed offset, and what commits depend on.
//! 2. Read from there; wait while there is nothing.
//! 3. Work on what was read: outputs.
//! 4. Commit outputs and new offset. Where the claim holds no more, claim again: where the offset
//!    is still the same, deliver the same outputs under the new claim; else begin at 2 with what
//!    holds now; where the partition is another member's, end.
//!
//! One commit is in flight at a time; partitions run beside each other. A loop that is dropped at
//! any point has done whole steps only.

use std::sync::Arc;
use std::time::Duration;

use tracklog_log::{
    AppendError, Epoch, Fetch, FetchError, FetchMode, Fetched, FetchedPartition, Log, Pending,
    Topic,
};
use tracklog_protocol::{Offset, PartitionId};

use super::delivery::{Courier, Delivery, Undelivered};
use super::quarantine::Quarantine;
use super::working::{Worked, reject_first, work};
use super::{Outputs, SourceBatch, Stage, StageCounters, Time};
use crate::groups::{Claim, Member};

/// What is read at once by a stage that keeps up.
const FETCH_BYTES: usize = 128 << 10;
/// Outputs are committed when they have so many bytes.
const COMMIT_BYTES: usize = 1 << 20;
/// How long to wait before a stage, or a read, that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Why records are missed that retention took.
const NO_LONGER: &str = "no longer in the log";

/// Who hands out claims: a group's member.
pub trait Claims: Send + Sync {
    /// The claim on `source` as it is now; `None` when it is not this member's.
    fn claim(&self, source: PartitionId) -> Pending<'_, Result<Option<Claim>, StageEnd>>;
}

impl<L: Log + ?Sized> Claims for Member<L> {
    fn claim(&self, source: PartitionId) -> Pending<'_, Result<Option<Claim>, StageEnd>> {
        Box::pin(async move {
            self.claim(source).await.map_err(|error| StageEnd::Group(error.to_string()))
        })
    }
}

/// How a partition's loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopEnd {
    /// The partition is another member's.
    Lost,
    /// All up to the stage's end is committed.
    Reached,
}

/// Why a partition's loop ended before it was told to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StageEnd {
    /// The log takes nothing more until it is opened again.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The source can't be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The group can't be read or written.
    #[error("the group cannot be asked: {0}")]
    Group(String),
}

/// Everything that the loops of a stage share.
pub struct PartitionLoop<L: ?Sized> {
    /// The log.
    pub log: Arc<L>,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// What is done with records.
    pub stage: Arc<dyn Stage>,
    /// What is read.
    pub source: Topic,
    /// Where records go that the stage fails on.
    pub rejected: Topic,
    /// How outputs come to be in the log.
    pub delivery: Delivery,
    /// What is known of time.
    pub time: Arc<dyn Time>,
    /// What all loops have done.
    pub counters: Arc<StageCounters>,
}

impl<L: Log + ?Sized> PartitionLoop<L> {
    /// Runs over `source`, by the claims of `member`, until it is another's. Dropping the future
    /// ends it as well.
    ///
    /// # Errors
    /// [`StageEnd`]: the log or the group can't be used any more.
    pub async fn run(&self, member: &dyn Claims, source: PartitionId) -> Result<(), StageEnd> {
        self.run_to_end(member, source).await.map(drop)
    }

    /// The same, or until the stage's end is reached.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_to_end(
        &self,
        member: &dyn Claims,
        source: PartitionId,
    ) -> Result<LoopEnd, StageEnd> {
        let name = self.stage.name();
        let quarantine = Quarantine::new(name, self.source.clone(), self.rejected.clone());
        let courier = Courier::new(&*self.log, self.epoch, self.delivery, name, source);
        let outputs = Outputs::default();
        let mut running =
            Running { shared: self, member, quarantine, courier, outputs, appetite: FETCH_BYTES };
        let end = self.stage.end(source).unwrap_or(Offset(u64::MAX));
        let Some(mut claim) = member.claim(source).await? else { return Ok(LoopEnd::Lost) };
        while claim.next() < end {
            let batch = running.read(&mut claim, end).await?;
            if !running.pass(batch, &mut claim).await? {
                return Ok(LoopEnd::Lost);
            }
        }
        self.stage.ended(source);
        Ok(LoopEnd::Reached)
    }
}

/// One loop at work.
struct Running<'s, L: ?Sized> {
    shared: &'s PartitionLoop<L>,
    member: &'s dyn Claims,
    quarantine: Quarantine,
    courier: Courier<'s, L>,
    outputs: Outputs,
    /// What is read at once: it grows while more is there, so that a stage that lags has less to do
    /// for each record.
    appetite: usize,
}

impl<L: Log + ?Sized> Running<'_, L> {
    /// What comes next at `claim`, below `end`.
    async fn read(&mut self, claim: &mut Claim, end: Offset) -> Result<SourceBatch, StageEnd> {
        let (source, from) = (claim.source(), claim.next());
        loop {
            let mode =
                if self.appetite > FETCH_BYTES { FetchMode::Replay } else { FetchMode::Live };
            let fetch =
                Fetch { from: vec![(source, from)], bytes_max: self.appetite, wait: true, mode };
            match self.shared.log.fetch(fetch).await {
                Ok(Fetched { mut partitions, .. }) => {
                    let found = partitions.pop().expect("one partition was asked for");
                    let batch = self.found(source, from, found);
                    return Ok(SourceBatch { next: batch.next.min(end), ..batch });
                }
                Err(FetchError::OutOfRange { extent, asked, .. }) if asked < extent.start => {
                    let next = extent.start.min(end);
                    self.missed(source, asked, next, NO_LONGER);
                    // Committed as it is, so that it is told once and nobody takes it for lag.
                    return Ok(SourceBatch { source, from, next, batches: Vec::new() });
                }
                Err(FetchError::Io { why, .. }) => {
                    let stage = self.shared.stage.name();
                    tracing::warn!(stage, %source, %from, why, "cannot be read; tried again");
                    self.pause(RETRY_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn found(&mut self, source: PartitionId, from: Offset, found: FetchedPartition) -> SourceBatch {
        let given_up = found.given_up_from(from);
        if given_up > from {
            self.missed(source, from, given_up, NO_LONGER);
        }
        for damage in &found.damage {
            self.missed(source, damage.from, damage.to, &damage.what);
        }
        let lags = found.next < found.extent.end;
        let most = self.shared.stage.batch_bytes_max().max(FETCH_BYTES);
        self.appetite = if lags { (self.appetite * 2).min(most) } else { FETCH_BYTES };
        SourceBatch { source, from, next: found.next, batches: found.batches }
    }

    fn missed(&self, source: PartitionId, from: Offset, to: Offset, why: &str) {
        let stage = self.shared.stage.name();
        tracing::warn!(stage, %source, %from, %to, why, "records were passed over");
        self.shared.counters.missed.add(to.0 - from.0);
    }

    async fn pause(&self, span: Duration) {
        self.shared.counters.retried.add(1);
        self.shared.time.pause(span).await;
    }

    /// Brings all of `batch` through the stage and into the log. False when the partition is
    /// another member's; true with a claim elsewhere when somebody moved the offset.
    async fn pass(&mut self, mut batch: SourceBatch, claim: &mut Claim) -> Result<bool, StageEnd> {
        let mut until = batch.next;
        while batch.from < batch.next {
            let worked = self.work(&batch, until).await;
            match self.deliver(claim, worked.next).await? {
                Delivered::Stored => {
                    self.count(worked);
                    self.shared.stage.stored(&self.outputs);
                    batch.from = worked.next;
                    until = batch.next;
                }
                Delivered::TooLarge => until = self.less(&batch, worked),
                Delivered::Moved => return Ok(true),
                Delivered::Lost => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Works on `batch`; one record alone that is too large for a commit is rejected.
    async fn work(&mut self, batch: &SourceBatch, until: Offset) -> Worked {
        if until == batch.from {
            self.outputs.clear(COMMIT_BYTES);
            let reason = "what comes of it is larger than a commit";
            return reject_first(batch, reason, &mut self.quarantine, &mut self.outputs);
        }
        loop {
            let (stage, quarantine) = (&*self.shared.stage, &mut self.quarantine);
            match work(stage, batch, until, COMMIT_BYTES, quarantine, &mut self.outputs).await {
                Ok(worked) => return worked,
                Err(error) => {
                    tracing::warn!(stage = stage.name(), source = %batch.source, %error, "waits");
                    self.pause(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Where to stop so that the outputs fit: at half of the records, or before the only one.
    fn less(&self, batch: &SourceBatch, worked: Worked) -> Offset {
        let half = worked.records / 2;
        let half = usize::try_from(half).expect("a batch's records fit in memory");
        if half == 0 {
            return batch.from;
        }
        let (offset, _) = batch.records().nth(half).expect("half of the records are fewer");
        offset
    }

    async fn deliver(&mut self, claim: &mut Claim, next: Offset) -> Result<Delivered, StageEnd> {
        let mut is_stale_again = false;
        loop {
            let now = self.shared.time.now();
            match self.courier.deliver(claim, &self.outputs, next, now).await {
                Ok(()) => return Ok(Delivered::Stored),
                Err(Undelivered::TooLarge) => return Ok(Delivered::TooLarge),
                Err(Undelivered::Later(span)) => self.pause(span).await,
                Err(Undelivered::Ended(error)) => return Err(error.into()),
                Err(Undelivered::Stale) => {
                    self.shared.counters.stale.add(1);
                    if std::mem::replace(&mut is_stale_again, true) {
                        self.pause(RETRY_PAUSE).await;
                    }
                    let committed = claim.next();
                    match self.member.claim(claim.source()).await? {
                        None => return Ok(Delivered::Lost),
                        Some(again) => *claim = again,
                    }
                    if claim.next() != committed {
                        return Ok(Delivered::Moved);
                    }
                }
            }
        }
    }

    fn count(&self, worked: Worked) {
        let counters = &self.shared.counters;
        counters.records.add(worked.records);
        counters.rejected.add(worked.rejected);
        counters.outputs.add(self.outputs.len() as u64);
        counters.commits.add(1);
    }
}

/// What became of a commit.
enum Delivered {
    Stored,
    TooLarge,
    /// The offset is elsewhere now.
    Moved,
    /// The partition is another member's.
    Lost,
}

impl<L: ?Sized> std::fmt::Debug for PartitionLoop<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartitionLoop")
            .field("stage", &self.stage.name())
            .field("source", &self.source.name())
            .finish_non_exhaustive()
    }
}
