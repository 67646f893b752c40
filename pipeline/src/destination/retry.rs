//! What was set aside, handed over again: once for each time an operator asks.
//!
//! A group of its own reads `undelivered` up to where it ends when it is asked; what a destination
//! still does not take is set aside anew, behind that, in the commit that moves the group's offset.
//! So a crash in the middle repeats a call at most, and loses nothing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tracklog_log::{Epoch, Fetch, FetchError, FetchMode, Log};
use tracklog_protocol::{BatchView, Offset, PartitionId, Record, TopicId};

use super::stage::Delivering;
use super::undelivered::{self, SetAside, Undelivered};
use super::{Limits, LineAt, Lines};
use crate::groups::{Claim, GroupError, GroupName, Groups, Member, Start};
use crate::route::{DestinationName, Lane};
use crate::stage::{Courier, Delivery, NotStored, Outputs};

/// How much of `undelivered` is read at once.
const FETCH_BYTES: usize = 256 << 10;
/// How often the member says that it lives.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(2);
/// A destination that fails is tried for so long for each event.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

/// What was tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Events that were taken.
    pub delivered: u64,
    /// Events that were set aside anew.
    pub undelivered: u64,
}

/// Why a retry ended before its end. What was done is done, and the next goes on behind it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetryError {
    /// The group can't be used.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// `undelivered` can't be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The log takes nothing more, or another retry goes on.
    #[error("{0}")]
    Log(String),
    /// It was told to end.
    #[error("it was told to end")]
    Stopped,
}

/// Tries again what one destination did not take.
pub struct Retry<L: ?Sized> {
    /// The log.
    pub log: Arc<L>,
    /// The writer's epoch.
    pub epoch: Epoch,
    /// All groups.
    pub groups: Arc<Groups<L>>,
    /// The destination.
    pub to: Arc<Delivering<L>>,
}

/// The group that reads `undelivered` for a destination.
#[must_use]
pub fn group(destination: &DestinationName) -> GroupName {
    GroupName::new(&format!("to.{destination}.retry"))
        .expect("a destination's name is short and has a group's characters")
}

impl<L: Log + ?Sized> Retry<L> {
    /// Tries all that is set aside now, until `stop` is ready.
    ///
    /// # Errors
    /// [`RetryError`].
    pub async fn run(&self, stop: impl Future<Output = ()> + Send) -> Result<Retried, RetryError> {
        let topics = vec![self.to.undelivered.clone()];
        let name = group(&self.to.name);
        let member = self.groups.join(&name, "retry", topics, Start::Earliest).await?;
        let mut retried = Retried::default();
        let told = tokio::select! {
            told = self.all(&member, &mut retried) => told,
            told = self.stay(&member) => told,
            () = stop => Err(RetryError::Stopped),
        };
        let left = member.leave().await;
        told?;
        left?;
        Ok(retried)
    }

    /// Says that the member lives, until it is gone.
    async fn stay(&self, member: &Member<L>) -> Result<(), RetryError> {
        loop {
            self.to.time.pause(HEARTBEAT_EVERY).await;
            member.heartbeat().await?;
        }
    }

    async fn all(&self, member: &Member<L>, retried: &mut Retried) -> Result<(), RetryError> {
        // Known before the first is tried: what is set aside anew comes behind.
        let ends: Vec<_> = self.to.undelivered.partitions().map(|at| (at, self.end(at))).collect();
        for (partition, end) in ends {
            self.partition(member, partition, end, retried).await?;
        }
        Ok(())
    }

    fn end(&self, partition: PartitionId) -> Offset {
        self.log.extent(partition).map_or(Offset::ZERO, |extent| extent.end)
    }

    async fn partition(
        &self,
        member: &Member<L>,
        partition: PartitionId,
        end: Offset,
        retried: &mut Retried,
    ) -> Result<(), RetryError> {
        let claim = member.claim(partition).await?;
        let mut claim = claim.ok_or_else(|| RetryError::Log("another retry goes on".to_owned()))?;
        let name = group(&self.to.name);
        let mut courier =
            Courier::new(&*self.log, self.epoch, Delivery::OneCommit, name.as_str(), partition);
        while claim.next() < end {
            let start = self.log.extent(partition).map_or(Offset::ZERO, |extent| extent.start);
            let from = vec![(partition, claim.next().max(start))];
            let mode = FetchMode::Replay;
            let fetch = Fetch { from, bytes_max: FETCH_BYTES, wait: false, mode };
            let mut fetched = self.log.fetch(fetch).await?;
            let found = fetched.partitions.pop().expect("one partition was asked for");
            let next = found.next.min(end);
            let from = claim.next();
            let records = found.batches.iter().flat_map(BatchView::records);
            for (at, record) in records.filter(|(at, _)| (from..next).contains(at)) {
                let mut outputs = Outputs::default();
                // Each by itself: a call may take long, and what was taken is not sent again.
                if self.record(record, &mut outputs, retried).await {
                    self.store(&mut courier, &mut claim, &outputs, at.plus(1)).await?;
                }
            }
            self.store(&mut courier, &mut claim, &Outputs::default(), next).await?;
        }
        Ok(())
    }

    /// Hands over what `record` holds; false when it is for another destination.
    async fn record(
        &self,
        record: Record<'_>,
        outputs: &mut Outputs,
        retried: &mut Retried,
    ) -> bool {
        let of_this = |it: &Undelivered<'_>| it.destination == self.to.name.as_str();
        let Some(aside) = Undelivered::of(record).filter(of_this) else { return false };
        let text = [aside.line.get().as_bytes(), b"\n"].concat();
        let offset = Offset(aside.offset);
        let at = [LineAt { offset, at: 0..text.len() }];
        let lane = if aside.lane == Lane::High.as_str() { Lane::High } else { Lane::Normal };
        let topic = self.log.topic(&aside.topic).map_or(TopicId(0), |topic| topic.id);
        let source = PartitionId::new(topic, aside.partition);
        let lines = Lines { lane, source, text: &text, lines: &at };
        let limits = self.to.destination.limits();
        let limits = Limits { give_up_after: Some(GIVE_UP_AFTER), ..limits };
        let asides = self.to.deliver(lines, limits).await;
        let Some(again) = asides.first() else {
            retried.delivered += 1;
            return true;
        };
        retried.undelivered += 1;
        let set_aside = SetAside {
            destination: &self.to.name,
            lane,
            why: &again.why,
            at: self.to.time.now(),
            topic: &aside.topic,
            partition: source,
            offset,
            line: aside.line.get().as_bytes(),
        };
        let mut buffer = Vec::new();
        let to = self.to.undelivered.partition_for(aside.line.get().as_bytes());
        outputs.push(to, undelivered::write(&set_aside, &mut buffer));
        true
    }

    async fn store(
        &self,
        courier: &mut Courier<'_, L>,
        claim: &mut Claim,
        outputs: &Outputs,
        next: Offset,
    ) -> Result<(), RetryError> {
        loop {
            match courier.deliver(claim, outputs, next, self.to.time.now()).await {
                Ok(()) => return Ok(()),
                Err(NotStored::Later(span)) => self.to.time.pause(span).await,
                Err(NotStored::Ended(error)) => return Err(RetryError::Log(error.to_string())),
                Err(NotStored::Stale | NotStored::TooLarge) => {
                    return Err(RetryError::Log("the group changed: try again".to_owned()));
                }
            }
        }
    }
}

impl<L: ?Sized> fmt::Debug for Retry<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("to", &self.to.name).finish_non_exhaustive()
    }
}
