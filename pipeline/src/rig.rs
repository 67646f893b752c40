//! A log in memory for tests of this crate: a clock by hand, topics, records as texts, and futures
//! that are polled by hand.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tracklog_log::conformance::block_on;
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::{
    Append, AppendError, Condition, Domain, Epoch, Fetch, FetchMode, Item, Lane, Log, Pending,
    Retention, Stored, Topic, TopicName, TopicSpec,
};
use tracklog_protocol::{BatchView, Offset, PartitionId, Record, TimeMicros};

use crate::groups::{Clock, GroupName, Groups};
use crate::stage::Time;

pub(crate) struct Rig {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) epoch: Epoch,
    micros: Arc<AtomicI64>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let micros = Arc::new(AtomicI64::new(1_000_000));
        let clock = clock(&micros);
        let log = Arc::new(MemoryLog::new(MemoryOptions { clock, budget_bytes: 64 << 20 }));
        let epoch = block_on(log.open(Domain::WHOLE)).unwrap();
        Self { log, epoch, micros }
    }

    pub(crate) fn clock(&self) -> Clock {
        clock(&self.micros)
    }

    /// The rig's clock, which pauses move on.
    pub(crate) fn passing_time(&self) -> PausesPass {
        PausesPass(Arc::clone(&self.micros))
    }

    pub(crate) fn now(&self) -> TimeMicros {
        (self.clock())()
    }

    pub(crate) fn pass_seconds(&self, seconds: i64) {
        self.micros.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }

    pub(crate) fn topic(&self, name: &str, partitions: u32) -> Topic {
        let name = TopicName::new(name).unwrap();
        let spec = TopicSpec { name, partitions, retention: Retention::Keep };
        block_on(self.log.create_topic(spec)).unwrap()
    }

    pub(crate) fn groups(&self) -> Arc<Groups<MemoryLog>> {
        block_on(Groups::open(Arc::clone(&self.log), self.epoch, self.clock())).unwrap()
    }

    pub(crate) fn append(
        &self,
        conditions: &[Condition],
        items: &[(PartitionId, Record<'_>)],
    ) -> Result<Stored, AppendError> {
        let bytes = items.iter().map(|(_, record)| record.bytes().len()).sum();
        let permit = self.log.reserve(Lane::STAGES, bytes).unwrap();
        let items: Vec<_> = items
            .iter()
            .map(|(partition, record)| Item::Record { partition: *partition, record: *record })
            .collect();
        block_on(self.log.append(permit, self.epoch, Append { conditions, items: &items }))
    }

    pub(crate) fn write(&self, partition: PartitionId, texts: &[&str]) {
        for text in texts {
            self.append(&[], &[(partition, Record::opaque(text.as_bytes()))]).unwrap();
        }
    }

    pub(crate) fn read(&self, partition: PartitionId) -> Vec<BatchView> {
        let mut batches = Vec::new();
        let extent = self.log.extent(partition).unwrap();
        let mut next = extent.start;
        while next < extent.end {
            let (from, mode) = (vec![(partition, next)], FetchMode::Replay);
            let fetch = Fetch { from, bytes_max: 1 << 20, wait: false, mode };
            let mut fetched = block_on(self.log.fetch(fetch)).unwrap();
            let found = fetched.partitions.remove(0);
            batches.extend(found.batches);
            next = found.next;
        }
        batches
    }

    pub(crate) fn texts(&self, partition: PartitionId) -> Vec<String> {
        let batches = self.read(partition);
        let records = batches.iter().flat_map(BatchView::records);
        records.map(|(_, record)| String::from_utf8(record.bytes().to_vec()).unwrap()).collect()
    }

    pub(crate) fn end(&self, partition: PartitionId) -> Offset {
        self.log.extent(partition).unwrap().end
    }
}

pub(crate) fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

fn clock(micros: &Arc<AtomicI64>) -> Clock {
    let micros = Arc::clone(micros);
    Arc::new(move || TimeMicros(micros.load(Ordering::Relaxed)))
}

/// A clock by hand; pauses end at once.
pub(crate) struct NoTime(pub(crate) Clock);

impl Time for NoTime {
    fn now(&self) -> TimeMicros {
        (self.0)()
    }

    fn pause(&self, _: Duration) -> Pending<'static, ()> {
        soon()
    }
}

/// Ready when it is polled again.
fn soon() -> Pending<'static, ()> {
    let mut has_waited = false;
    Box::pin(std::future::poll_fn(move |context| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }))
}

/// A clock that only pauses move: they end at once.
pub(crate) struct PausesPass(Arc<AtomicI64>);

impl Time for PausesPass {
    fn now(&self) -> TimeMicros {
        TimeMicros(self.0.load(Ordering::Relaxed))
    }

    fn pause(&self, span: Duration) -> Pending<'static, ()> {
        self.0.fetch_add(i64::try_from(span.as_micros()).unwrap(), Ordering::Relaxed);
        soon()
    }
}

/// A clock that stands while anybody has something to do, and then goes on to where the first pause
/// ends: what waits at once takes its time at once.
#[derive(Clone, Default)]
pub(crate) struct Timeline {
    micros: Arc<AtomicI64>,
    pausing: Arc<Mutex<BTreeMap<(i64, u64), Waker>>>,
    pauses: Arc<AtomicU64>,
}

impl Timeline {
    /// Runs `future` to its end.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            if let Poll::Ready(output) = poll_until_idle(future.as_mut(), usize::MAX) {
                return output;
            }
            let first = self.pausing.lock().pop_first();
            let ((until, _), waker) = first.expect("somebody waits, and for a time");
            self.micros.fetch_max(until, Ordering::Relaxed);
            waker.wake();
        }
    }
}

impl Time for Timeline {
    fn now(&self) -> TimeMicros {
        TimeMicros(self.micros.load(Ordering::Relaxed))
    }

    fn pause(&self, span: Duration) -> Pending<'static, ()> {
        let (this, until) = (self.clone(), self.now().plus(span));
        let number = self.pauses.fetch_add(1, Ordering::Relaxed);
        Box::pin(std::future::poll_fn(move |context| {
            if this.now() >= until {
                return Poll::Ready(());
            }
            this.pausing.lock().insert((until.0, number), context.waker().clone());
            Poll::Pending
        }))
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Polls as long as somebody wakes, at most `polls_max` times.
pub(crate) fn poll_until_idle<T>(
    mut future: Pin<&mut impl Future<Output = T>>,
    polls_max: usize,
) -> Poll<T> {
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(Arc::clone(&flag));
    for _ in 0..polls_max {
        if !flag.0.swap(false, Ordering::Relaxed) {
            break;
        }
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Poll::Ready(output);
        }
    }
    Poll::Pending
}
