//! A twin of the log that lives in memory: the oracle of tests, and the log of those who test
//! what stands on one.
//!
//! Promises all that [`Log`] does but to outlive its process, by the plainest means: one lock, a
//! list of stamped batches for each partition, a scan wherever the engine keeps an index. Append
//! times rise strictly from commit to commit, however the given clock behaves.
//!
//! Beyond the trait it lets a test choose what a disk would:
//! - between [`hold`](MemoryLog::hold) and [`release`](MemoryLog::release) appends are in flight:
//!   stamped, seen by conditions, neither readable nor acked;
//! - [`lose_held`](MemoryLog::lose_held) is a failed sync: what was in flight is gone, its
//!   tickets say *unknown*, and the log is closed until it is opened again;
//! - [`lose_next_ack`](MemoryLog::lose_next_ack) is the other half of *unknown*: stored, not told;
//! - [`fail_next`](MemoryLog::fail_next) refuses one append.

mod history;
mod ids;
mod outcome;
mod store;

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use outcome::AppendOutcome;
use store::{Stamped, Store};
use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};

use crate::{
    Append, AppendError, Budget, Busy, CatalogError, Dedupe, Domain, Epoch, Erase, EraseError,
    Extent, Fetch, FetchError, Fetched, Lane, Limits, Log, Outcome, Pending, Permit, Ticket,
    TimeKind, Topic, TopicName, TopicSpec,
};

/// What a [`MemoryLog`] is given.
#[derive(Clone)]
pub struct MemoryOptions {
    /// Tells the time of an append. It may stand still or go back; append times do not.
    pub clock: Arc<dyn Fn() -> TimeMicros + Send + Sync>,
    /// The intake's budget, of which each lane has half.
    pub budget_bytes: usize,
}

impl std::fmt::Debug for MemoryOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryOptions")
            .field("budget_bytes", &self.budget_bytes)
            .finish_non_exhaustive()
    }
}

/// A log in memory. See the [module](self).
pub struct MemoryLog {
    clock: Arc<dyn Fn() -> TimeMicros + Send + Sync>,
    budget: Arc<Budget>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    store: Store,
    holding: bool,
    held: VecDeque<Held>,
    refusals: VecDeque<AppendError>,
    lost_acks: VecDeque<Arc<str>>,
    waiters: BTreeMap<u64, Waker>,
    waiters_made: u64,
}

/// An append in flight: decided, and not told.
struct Held {
    outcome: Arc<AppendOutcome>,
    result: Result<(), AppendError>,
    ends: Vec<(PartitionId, Offset)>,
    permit: Permit,
}

impl MemoryLog {
    /// A log without topics, which nobody has opened yet.
    #[must_use]
    pub fn new(options: MemoryOptions) -> Self {
        Self {
            clock: options.clock,
            budget: Budget::new(options.budget_bytes),
            state: Mutex::default(),
        }
    }

    /// The same, with events stored once in these topics.
    #[must_use]
    pub fn deduplicating(self, topics: &[Dedupe]) -> Self {
        self.state().store.deduplicate(topics);
        self
    }

    /// From now on appends stay in flight until [`release`](Self::release).
    pub fn hold(&self) {
        self.state().holding = true;
    }

    /// Makes all appends in flight durable, in order, and tells their outcomes; later ones are
    /// told at once.
    pub fn release(&self) {
        let mut state = self.state();
        state.holding = false;
        let wakers = state.publish();
        drop(state);
        wake(wakers);
    }

    /// Loses all appends in flight, as a failed sync does. Their tickets say
    /// [`AppendError::Unknown`]; the log is closed until it is opened again.
    pub fn lose_held(&self, why: &str) {
        let wakers = self.state().lose_held(why);
        wake(wakers);
    }

    /// Lets the next append end with `error`, nothing stored. Calls add up.
    pub fn fail_next(&self, error: AppendError) {
        self.state().refusals.push_back(error);
    }

    /// Lets the next append that would be acked be stored, yet its ticket say
    /// [`AppendError::Unknown`]. Calls add up.
    pub fn lose_next_ack(&self, why: &str) {
        self.state().lost_acks.push_back(why.into());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }
}

impl std::fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryLog").finish_non_exhaustive()
    }
}

impl Drop for MemoryLog {
    /// Whoever still waits for an append learns that nobody will ever tell.
    fn drop(&mut self) {
        self.lose_held("the log was dropped");
    }
}

impl State {
    /// Stamps or refuses an append and puts it in flight.
    fn take(
        &mut self,
        permit: Permit,
        epoch: Epoch,
        append: &Append<'_>,
        now: TimeMicros,
    ) -> Ticket {
        let stamped = match self.refusals.pop_front() {
            Some(error) => Err(error),
            None => self.store.append(epoch, append, now),
        };
        let (stamped, result) = match stamped {
            Ok(stamped) => (stamped, self.ack()),
            Err(error) => (Stamped::default(), Err(error)),
        };
        let outcome = Arc::new(AppendOutcome::new(stamped.offsets, stamped.is_duplicate));
        let ticket = Ticket::new(Arc::clone(&outcome) as Arc<dyn Outcome>, 0);
        self.held.push_back(Held { outcome, result, ends: stamped.ends, permit });
        ticket
    }

    fn ack(&mut self) -> Result<(), AppendError> {
        self.lost_acks.pop_front().map_or(Ok(()), |why| Err(AppendError::Unknown { why }))
    }

    /// Publishes what is in flight. The caller wakes whom it returns, after the lock.
    #[must_use]
    fn publish(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for held in std::mem::take(&mut self.held) {
            self.store.publish(&held.ends);
            wakers.extend(held.tell());
        }
        wakers.append(&mut self.waiters());
        wakers
    }

    /// Forgets what is in flight. The caller wakes whom it returns, after the lock.
    #[must_use]
    fn lose_held(&mut self, why: &str) -> Vec<Waker> {
        let why: Arc<str> = why.into();
        self.holding = false;
        self.store.lose_unpublished(&why);
        let lost = std::mem::take(&mut self.held);
        lost.into_iter().filter_map(|held| held.lose(&why)).collect()
    }

    fn waiters(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.waiters).into_values().collect()
    }
}

impl Held {
    /// Gives the permit back, then tells the outcome.
    fn tell(self) -> Option<Waker> {
        drop(self.permit);
        self.outcome.decide(self.result)
    }

    /// Whoever was refused stays refused; all others will never know.
    fn lose(mut self, why: &Arc<str>) -> Option<Waker> {
        if self.result.is_ok() {
            self.result = Err(AppendError::Unknown { why: Arc::clone(why) });
        }
        self.tell()
    }
}

fn wake(wakers: Vec<Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

/// Resolves once `answer` finds one; asks again after each change of the log.
struct Waiting<'a, F> {
    log: &'a MemoryLog,
    answer: F,
    id: Option<u64>,
}

impl<T, F: Fn(&Store) -> Option<T> + Unpin> Future for Waiting<'_, F> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = self.log.state();
        if let Some(answer) = (self.answer)(&state.store) {
            return Poll::Ready(answer);
        }
        let id = self.id.unwrap_or(state.waiters_made);
        if self.id.is_none() {
            state.waiters_made += 1;
        }
        state.waiters.insert(id, context.waker().clone());
        drop(state);
        self.id = Some(id);
        Poll::Pending
    }
}

impl<F> Drop for Waiting<'_, F> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.log.state().waiters.remove(&id);
        }
    }
}

impl Log for MemoryLog {
    fn open(&self, domain: Domain) -> Pending<'_, Result<Epoch, AppendError>> {
        Box::pin(ready(self.state().store.open(domain)))
    }

    fn reserve(&self, lane: Lane, bytes: usize) -> Result<Permit, Busy> {
        self.budget.reserve(lane, bytes)
    }

    fn append(&self, permit: Permit, epoch: Epoch, append: Append<'_>) -> Ticket {
        let now = (self.clock)();
        let mut state = self.state();
        let ticket = state.take(permit, epoch, &append, now);
        let wakers = if state.holding { Vec::new() } else { state.publish() };
        drop(state);
        wake(wakers);
        ticket
    }

    fn fetch(&self, fetch: Fetch) -> Pending<'_, Result<Fetched, FetchError>> {
        let answer = move |store: &Store| {
            let fetched = store.fetch(&fetch);
            let nothing = fetched.as_ref().is_ok_and(|it| {
                !it.partitions.is_empty() && it.partitions.iter().all(|it| it.batches.is_empty())
            });
            (!(fetch.wait && nothing)).then_some(fetched)
        };
        Box::pin(Waiting { log: self, answer, id: None })
    }

    fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.state().store.extent(partition)
    }

    /// Resolves, too, when a partition is gone: it will never grow, and the next fetch says so.
    fn grown(&self, past: Vec<(PartitionId, Offset)>) -> Pending<'_, ()> {
        let answer = move |store: &Store| {
            let has_news = |(id, past): &(PartitionId, Offset)| {
                store.extent(*id).is_none_or(|extent| extent.end > *past)
            };
            past.iter().any(has_news).then_some(())
        };
        Box::pin(Waiting { log: self, answer, id: None })
    }

    fn offset_at(
        &self,
        partition: PartitionId,
        kind: TimeKind,
        time: TimeMicros,
    ) -> Pending<'_, Result<Offset, FetchError>> {
        Box::pin(ready(self.state().store.offset_at(partition, kind, time)))
    }

    fn trim(&self, partition: PartitionId, before: Offset) -> Pending<'_, Result<(), AppendError>> {
        let mut state = self.state();
        let trimmed = state.store.trim(partition, before);
        let waiters = state.waiters();
        drop(state);
        wake(waiters);
        Box::pin(ready(trimmed))
    }

    fn erase(&self, records: Vec<Erase>) -> Pending<'_, Result<(), EraseError>> {
        Box::pin(ready(self.state().store.erase(&records)))
    }

    fn create_topic(&self, spec: TopicSpec) -> Pending<'_, Result<Topic, CatalogError>> {
        let now = (self.clock)();
        Box::pin(ready(self.state().store.create_topic(spec, now)))
    }

    fn delete_topic(&self, name: &TopicName) -> Pending<'_, Result<(), CatalogError>> {
        let mut state = self.state();
        let deleted = state.store.delete_topic(name);
        let waiters = state.waiters();
        drop(state);
        wake(waiters);
        Box::pin(ready(deleted))
    }

    fn topics(&self) -> Vec<Topic> {
        self.state().store.topics().cloned().collect()
    }

    fn topic(&self, name: &str) -> Option<Topic> {
        self.state().store.topics().find(|topic| topic.name() == name).cloned()
    }

    fn set_limits(
        &self,
        name: &TopicName,
        limits: Limits,
    ) -> Pending<'_, Result<(), CatalogError>> {
        Box::pin(ready(self.state().store.set_limits(name, limits)))
    }

    fn limits(&self, topic: TopicId) -> Limits {
        self.state().store.limits(topic)
    }

    fn dedupe_window(&self, topic: TopicId) -> Option<Duration> {
        self.state().store.dedupe_window(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::block_on;
    use crate::{FetchMode, Retention};

    #[test]
    fn dropped_waits_leave_nothing_behind() {
        let clock = Arc::new(|| TimeMicros(0));
        let log = MemoryLog::new(MemoryOptions { clock, budget_bytes: 1 << 20 });
        let name = TopicName::new("waits").unwrap();
        let spec = TopicSpec { name, partitions: 1, retention: Retention::Keep };
        let topic = block_on(log.create_topic(spec)).unwrap();
        let from = vec![(topic.partition(0), Offset::ZERO)];
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..100 {
            let fetch =
                Fetch { from: from.clone(), bytes_max: 1, wait: true, mode: FetchMode::Live };
            let mut fetching = log.fetch(fetch);
            assert!(fetching.as_mut().poll(&mut context).is_pending());
            assert!(fetching.as_mut().poll(&mut context).is_pending());
            let mut growing = log.grown(from.clone());
            assert!(growing.as_mut().poll(&mut context).is_pending());
            assert_eq!(log.state().waiters.len(), 2, "one each, however often it is polled");
        }
        assert!(log.state().waiters.is_empty());
    }
}
