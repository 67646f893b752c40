//! From judged events to the word that they are durable.
//!
//! Promises
//! - The events of one request, good and bad, are one append up to
//!   [`append_bytes_max`](crate::config::RequestLimits::append_bytes_max); a larger request is cut
//!   at event borders.
//! - An answer of success is given only when all of these appends are durable. Where some are and
//!   others failed, or nobody knows, the client is told to send all of it again: ids tell what is
//!   there already.
//! - An event that the log knows already is not stored again: it is told with its first place. That
//!   takes looking at the stored one, which only requests with such events wait for.
//! - Room for all appends of a request is taken before the first is made: a busy log refuses the
//!   whole request.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};
use tracklog_log::dedupe::{self, OnceError, Outcomes, Seen, Verdict, VerdictKind};
use tracklog_log::{
    Append, AppendError, Busy, Epoch, Item, Lane, Log, Permit, Stored, Ticket, Topic,
};
use tracklog_protocol::{Offset, PartitionId, PayloadKind};

use crate::answer::Refusal;
use crate::intake::{Judged, Judgement};

/// What the log adds to each record, at most: a batch's header and its place in a directory.
pub(crate) const RECORD_OVERHEAD_BYTES: usize = 128;

/// How long the gateway calls itself not ready after the log refused an append. The log has no
/// other way to say that it is well again than to take one.
const UNWELL_FOR: Duration = Duration::from_secs(5);

/// Where events go.
#[derive(Clone, Debug)]
pub struct Topics {
    /// Takes accepted events.
    pub raw: Topic,
    /// Takes rejected ones.
    pub rejected: Topic,
}

/// Writes judged events to the log.
pub(crate) struct Writer {
    log: Arc<dyn Log>,
    epoch: AtomicU64,
    topics: Topics,
    append_bytes_max: usize,
    opened: Instant,
    /// Milliseconds after `opened` until which the log counts as unwell.
    unwell_until: AtomicU64,
}

impl Writer {
    pub(crate) fn new(
        log: Arc<dyn Log>,
        epoch: Epoch,
        topics: Topics,
        append_bytes_max: usize,
    ) -> Self {
        Self {
            log,
            epoch: AtomicU64::new(epoch.0),
            topics,
            append_bytes_max,
            opened: Instant::now(),
            unwell_until: AtomicU64::new(0),
        }
    }

    /// The log was opened again: later appends are of this epoch.
    pub(crate) fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::SeqCst);
    }

    /// Whether the log took what it was given lately, and has room for a little more.
    pub(crate) fn is_well(&self, lane: Lane) -> bool {
        self.log.reserve(lane, 1).is_ok()
            && self.millis_now() >= self.unwell_until.load(Ordering::Relaxed)
    }

    pub(crate) fn reserve(&self, lane: Lane, bytes: usize) -> Result<Permit, Refusal> {
        self.log.reserve(lane, bytes).map_err(busy)
    }

    /// What these events will take of the log's budget.
    pub(crate) const fn bytes_of(judged: &Judged) -> usize {
        judged.byte_count() + judged.len() * RECORD_OVERHEAD_BYTES
    }

    /// Hands all events over. Nothing was stored if this fails; the permit holds enough for them.
    pub(crate) fn write(&self, mut permit: Permit, judged: Judged) -> Written {
        let epoch = Epoch(self.epoch.load(Ordering::SeqCst));
        let lane = permit.lane();
        let mut appends = SmallVec::new();
        let mut items: SmallVec<[Item<'_>; 8]> = SmallVec::new();
        let mut items_bytes = 0;
        let mut first = 0;
        for (index, judgement) in judged.iter().enumerate() {
            let item = self.item(&judgement);
            let bytes = judgement.record.bytes().len() + RECORD_OVERHEAD_BYTES;
            if !items.is_empty() && items_bytes + bytes > self.append_bytes_max {
                let ticket = self.append(permit.split_off(items_bytes), epoch, &items);
                appends.push(PendingAppend { ticket, first });
                items.clear();
                items_bytes = 0;
                first = index;
            }
            items.push(item);
            items_bytes += bytes;
        }
        if !items.is_empty() {
            let ticket = self.append(permit, epoch, &items);
            appends.push(PendingAppend { ticket, first });
        }
        drop(items);
        Written { appends, judged, lane, epoch }
    }

    fn append(&self, permit: Permit, epoch: Epoch, items: &[Item<'_>]) -> Ticket {
        self.log.append(permit, epoch, Append { conditions: &[], items })
    }

    /// Where an event goes, and its record.
    pub(crate) fn item<'a>(&self, judgement: &Judgement<'a>) -> Item<'a> {
        Item::Record { partition: self.partition(judgement), record: judgement.record }
    }

    fn partition(&self, judgement: &Judgement<'_>) -> PartitionId {
        let topic = self.topic(judgement);
        topic.partition(judgement.partition(topic.spec.partitions))
    }

    const fn topic(&self, judgement: &Judgement<'_>) -> &Topic {
        match judgement.record.kind() {
            PayloadKind::Rejected => &self.topics.rejected,
            _ => &self.topics.raw,
        }
    }

    /// Waits until all of it is durable, or until `deadline`.
    pub(crate) async fn durable(
        &self,
        written: Written,
        deadline: Instant,
    ) -> Result<Acked, Refusal> {
        let Written { appends, judged, lane, epoch } = written;
        let mut stored: SmallVec<[(Fate, usize); 1]> = SmallVec::new();
        let mut failed = None;
        let late = |_| Refusal::unavailable("not durable within the time given");
        let mut appends = appends.into_iter().peekable();
        while let Some(PendingAppend { ticket, first }) = appends.next() {
            match timeout_at(deadline, ticket).await.map_err(late)? {
                Ok(done) => stored.push((Fate::Stored(done), first)),
                Err(AppendError::Seen(seen)) => {
                    let end = appends.peek().map_or(judged.len(), |next| next.first);
                    let resolving = self.resolve(&judged, first..end, (lane, epoch), seen);
                    match timeout_at(deadline, resolving).await.map_err(late)? {
                        Ok(outcomes) => stored.push((Fate::Resolved(outcomes), first)),
                        Err(OnceError::Append(error)) => failed = Some(worse(failed, error)),
                        Err(OnceError::Busy(refused)) => return Err(busy(refused)),
                        Err(error) => return Err(Refusal::unavailable(error.to_string())),
                    }
                }
                Err(error) => failed = Some(worse(failed, error)),
            }
        }
        match failed {
            None => Ok(Acked { stored, judged }),
            Some(error) => {
                self.unwell(&error);
                Err(refusal(&error, stored.is_empty()))
            }
        }
    }

    /// Stores of an append's events those that are not there already.
    async fn resolve(
        &self,
        judged: &Judged,
        of: Range<usize>,
        (lane, epoch): (Lane, Epoch),
        seen: Arc<Seen>,
    ) -> Result<Outcomes, OnceError> {
        let events = of.filter_map(|index| judged.get(index));
        let items: Vec<_> = events.map(|judgement| self.item(&judgement)).collect();
        let append = Append { conditions: &[], items: &items };
        dedupe::resolve(&*self.log, lane, epoch, append, seen).await
    }

    fn unwell(&self, error: &AppendError) {
        let now = self.millis_now();
        let until = now + u64::try_from(UNWELL_FOR.as_millis()).unwrap_or(u64::MAX);
        // One line for a bad stretch, not one for each of its requests.
        if self.unwell_until.swap(until, Ordering::Relaxed) <= now {
            tracing::warn!(%error, "the log refused an append");
        }
    }

    fn millis_now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The topic's name and the partition of an event: what its verdict tells.
    pub(crate) fn place(&self, judgement: &Judgement<'_>) -> (&str, u32) {
        let topic = self.topic(judgement);
        (topic.name(), judgement.partition(topic.spec.partitions))
    }
}

/// Of two failures of a request the one that leaves more in doubt.
fn worse(known: Option<AppendError>, other: AppendError) -> AppendError {
    match known {
        Some(known) if !matches!(known, AppendError::Full { .. }) => known,
        _ => other,
    }
}

fn busy(busy: Busy) -> Refusal {
    Refusal::overloaded("too much is waiting to be stored", busy.retry_after)
}

/// What to say of a failed append. Only a full log, with nothing stored, is overload; after all
/// else the client sends the request again, and ids tell what is there.
fn refusal(error: &AppendError, nothing_stored: bool) -> Refusal {
    match error {
        AppendError::Full { .. } if nothing_stored => {
            Refusal::overloaded("the log is full", Duration::from_secs(1))
        }
        AppendError::Unknown { .. } => Refusal::unavailable("it is not known whether it is stored"),
        _ if nothing_stored => Refusal::unavailable("the log takes nothing now"),
        _ => Refusal::unavailable("only a part is stored"),
    }
}

/// Events whose appends are under way.
pub(crate) struct Written {
    appends: SmallVec<[PendingAppend; 1]>,
    judged: Judged,
    lane: Lane,
    epoch: Epoch,
}

struct PendingAppend {
    ticket: Ticket,
    /// The index of its first event.
    first: usize,
}

/// How an append ended.
#[derive(Debug)]
enum Fate {
    /// All of it is stored, and nothing of it was there.
    Stored(Stored),
    /// Each event has its own verdict.
    Resolved(Outcomes),
}

/// Events that are durable.
#[derive(Debug)]
pub(crate) struct Acked {
    /// And the index of the first event of each.
    stored: SmallVec<[(Fate, usize); 1]>,
    /// What became of each.
    pub(crate) judged: Judged,
}

/// What is to be counted of events that the log knew.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// They were there, and are not stored again.
    pub(crate) duplicates: u64,
    /// Others with their id were there, so they are marked.
    pub(crate) reused: u64,
    /// Others were looked at since they share a hash.
    pub(crate) collisions: u64,
}

impl Acked {
    /// The offset of the event with this index; its partition too, and whether it was there
    /// before, where its append met events that the log knew.
    pub(crate) fn place(&self, index: usize) -> (Offset, Option<Verdict>) {
        let after = self.stored.partition_point(|(_, first)| *first <= index);
        let (fate, first) = &self.stored[after - 1];
        match fate {
            Fate::Stored(stored) => (stored.offset(index - first), None),
            Fate::Resolved(outcomes) => {
                let verdict = outcomes.verdicts[index - first];
                (verdict.offset, Some(verdict))
            }
        }
    }

    /// What is to be counted of events that the log knew.
    pub(crate) fn known(&self) -> Known {
        let mut known = Known::default();
        for (fate, _) in &self.stored {
            if let Fate::Resolved(outcomes) = fate {
                known.add(outcomes);
            }
        }
        known
    }
}

impl Known {
    /// Counts one append more.
    pub(crate) fn add(&mut self, outcomes: &Outcomes) {
        let count = |kind| outcomes.verdicts.iter().filter(|it| it.kind == kind).count() as u64;
        self.duplicates += count(VerdictKind::Duplicate);
        self.reused += count(VerdictKind::Reused);
        self.collisions += outcomes.collisions;
    }
}
