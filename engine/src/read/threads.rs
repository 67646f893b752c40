//! The threads that read from disks, what waits for them, and the answers that come from them.
//!
//! Promises
//! - Live readers wait for no replay: there are threads for them alone, to which those of replays give
//!   way (`disk/giving_way.rs`). Within each kind it is first come, first served.
//! - What is being read for replays, and what was read for them and not taken yet, stays within
//!   a budget of bytes; a fetch larger than all of it is read when nothing else is. Live readers
//!   neither count nor wait. A share is given back when its caller takes the answer or gives up
//!   (and, if a thread is at it, when that is done): who does neither holds it.
//! - With a fetch go all others that wait and read the same segment first, as far as the budget
//!   reaches without passing anybody by. Those of live readers take along live ones alone: what
//!   a replay adds would be waited for.
//! - Work whose answer nobody waits for any more is passed over when its turn comes.
//! - An answer always comes: `None` where the work will not be done, since the threads were
//!   stopped or it panicked.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};
use tracklog_log::FetchMode;

use super::together::{Reading, read_together};
use crate::disk::{Share, give_way};
use crate::journal::commit::SegmentNumber;

/// What waits for a thread.
enum Job {
    /// Done alone. Its size is not known: it does not count.
    Work(Box<dyn FnOnce() + Send>),
    Read(Box<Reading>),
}

impl Job {
    /// What it counts while it is at work. What nobody waits for is over at once.
    fn bytes(&self) -> u64 {
        match self {
            Self::Read(reading) if reading.is_awaited() => reading.bytes(),
            Self::Work(_) | Self::Read(_) => 0,
        }
    }

    fn segment(&self) -> Option<SegmentNumber> {
        match self {
            Self::Read(reading) if reading.is_awaited() => reading.segment(),
            Self::Work(_) | Self::Read(_) => None,
        }
    }
}

/// What a thread has taken.
enum Taken {
    Work(Box<dyn FnOnce() + Send>),
    /// The first, and those that go with it.
    Read(Vec<Reading>),
}

impl Taken {
    fn run(self) {
        let done = catch_unwind(AssertUnwindSafe(|| match self {
            Self::Work(work) => work(),
            Self::Read(group) => read_together(group),
        }));
        if done.is_err() {
            tracing::error!("a read panicked");
        }
    }
}

/// Threads, and the work that waits for them.
pub(super) struct Threads {
    waiting: Arc<Waiting>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Whether whoever asks does the work.
    at_once: bool,
}

struct Waiting {
    queues: Mutex<Queues>,
    live_came: Condvar,
    replay_may_go: Condvar,
    replay_bytes_max: u64,
}

#[derive(Default)]
struct Queues {
    live: VecDeque<Job>,
    replay: VecDeque<Job>,
    /// What counts of the replays at work.
    replay_bytes: u64,
    stopped: bool,
}

impl Threads {
    /// So many for replays, and as many for live readers. With a `count` of 0 whoever asks does the
    /// work, and nothing is counted.
    pub(super) fn start(count: usize, replay_bytes_max: u64) -> io::Result<Self> {
        // Made before its threads, so that those which did start end when another does not.
        let threads = Self::new(count == 0, replay_bytes_max);
        for index in 0..count {
            for (kind, mode) in [("replay", FetchMode::Replay), ("live", FetchMode::Live)] {
                let waiting = Arc::clone(&threads.waiting);
                let builder = thread::Builder::new().name(format!("{kind}-{index}"));
                threads.threads.lock().push(builder.spawn(move || waiting.work(mode))?);
            }
        }
        Ok(threads)
    }

    fn new(at_once: bool, replay_bytes_max: u64) -> Self {
        let waiting = Waiting {
            queues: Mutex::default(),
            live_came: Condvar::new(),
            replay_may_go: Condvar::new(),
            replay_bytes_max,
        };
        Self { waiting: Arc::new(waiting), threads: Mutex::default(), at_once }
    }

    /// No threads: work waits until the test does some of it.
    #[cfg(test)]
    pub(super) fn by_hand(replay_bytes_max: u64) -> Self {
        Self::new(false, replay_bytes_max)
    }

    /// Does what a thread would do next, one of live readers' first. False when all would wait.
    #[cfg(test)]
    pub(super) fn turn(&self) -> bool {
        let take = |mode| self.waiting.take(mode, &mut self.waiting.queues.lock());
        let taken = take(FetchMode::Live).or_else(|| take(FetchMode::Replay));
        taken.map(Taken::run).is_some()
    }

    /// Has `work` done by one of the threads; without threads, at once.
    pub(super) fn run<T: Send + 'static>(
        &self,
        mode: FetchMode,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Answer<T> {
        let (promise, answer) = self.promise();
        let work = move || {
            if promise.is_awaited() {
                let result = work();
                promise.keep(result);
            }
        };
        if self.at_once {
            work();
        } else {
            self.waiting.push(mode, Job::Work(Box::new(work)));
        }
        answer
    }

    /// Has a fetch read by one of the threads, maybe together with others; without threads, at
    /// once.
    pub(super) fn read(&self, mode: FetchMode, reading: Reading) {
        if self.at_once {
            read_together(vec![reading]);
        } else {
            self.waiting.push(mode, Job::Read(Box::new(reading)));
        }
    }

    /// Two ends: who works keeps the promise, who asks awaits the answer.
    pub(super) fn promise<T>(&self) -> (Promise<T>, Answer<T>) {
        let slot = Arc::<Slot<T>>::default();
        let answer = Answer { slot: Arc::clone(&slot), waiting: Arc::clone(&self.waiting) };
        (Promise { slot, share: None }, answer)
    }

    /// What counts of the replays at work.
    pub(super) fn replay_bytes(&self) -> u64 {
        self.waiting.queues.lock().replay_bytes
    }

    /// Ends the threads after what they are at. What still waits is not done.
    pub(super) fn stop(&self) {
        self.waiting.stop();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                tracing::error!("a replay thread panicked");
            }
        }
    }
}

impl Drop for Threads {
    /// The threads end by themselves: the last to drop may be one of them, which cannot wait for
    /// itself.
    fn drop(&mut self) {
        self.waiting.stop();
    }
}

impl Waiting {
    fn push(&self, mode: FetchMode, job: Job) {
        let mut queues = self.queues.lock();
        if queues.stopped {
            drop(queues);
            // Outside of the lock: its promise wakes somebody.
            return drop(job);
        }
        match mode {
            FetchMode::Live => queues.live.push_back(job),
            FetchMode::Replay => queues.replay.push_back(job),
        }
        drop(queues);
        self.changed(mode).notify_one();
    }

    fn stop(&self) {
        let mut queues = self.queues.lock();
        queues.stopped = true;
        let undone = (std::mem::take(&mut queues.live), std::mem::take(&mut queues.replay));
        drop(queues);
        drop(undone);
        self.live_came.notify_all();
        self.replay_may_go.notify_all();
    }

    const fn changed(&self, mode: FetchMode) -> &Condvar {
        match mode {
            FetchMode::Live => &self.live_came,
            FetchMode::Replay => &self.replay_may_go,
        }
    }

    fn work(self: &Arc<Self>, mode: FetchMode) {
        if mode == FetchMode::Replay {
            give_way(Share::Small);
        }
        while let Some(taken) = self.next(mode) {
            taken.run();
        }
    }

    fn next(self: &Arc<Self>, mode: FetchMode) -> Option<Taken> {
        let mut queues = self.queues.lock();
        loop {
            if let Some(taken) = self.take(mode, &mut queues) {
                return Some(taken);
            }
            if queues.stopped {
                return None;
            }
            self.changed(mode).wait(&mut queues);
        }
    }

    /// What a thread of this kind does next, if there is something and the budget lets it.
    fn take(self: &Arc<Self>, mode: FetchMode, queues: &mut Queues) -> Option<Taken> {
        match mode {
            FetchMode::Live => Self::take_live(queues),
            FetchMode::Replay => self.take_replay(queues),
        }
    }

    fn take_live(queues: &mut Queues) -> Option<Taken> {
        let job = queues.live.pop_front()?;
        let segment = job.segment();
        Some(match job {
            Job::Work(work) => Taken::Work(work),
            Job::Read(first) => {
                let others = same_segment(&mut queues.live, segment, u64::MAX);
                Taken::Read(std::iter::once(*first).chain(others).collect())
            }
        })
    }

    fn take_replay(self: &Arc<Self>, queues: &mut Queues) -> Option<Taken> {
        let bytes = queues.replay.front()?.bytes();
        let left = self.replay_bytes_max.saturating_sub(queues.replay_bytes);
        if bytes > left && queues.replay_bytes > 0 {
            return None;
        }
        let job = queues.replay.pop_front()?;
        let segment = job.segment();
        let first = match job {
            Job::Work(work) => return Some(Taken::Work(work)),
            Job::Read(first) => first,
        };
        let others = same_segment(&mut queues.replay, segment, left.saturating_sub(bytes));
        let mut group: Vec<Reading> = std::iter::once(*first).chain(others).collect();
        for reading in &mut group {
            let bytes = reading.bytes();
            queues.replay_bytes += bytes;
            reading.promise_mut().share = Some(ReplayShare { waiting: Arc::clone(self), bytes });
        }
        Some(Taken::Read(group))
    }
}

/// Takes those that wait and read `segment` first out of the queue, as far as `left` reaches for
/// all that wait before them too.
fn same_segment(
    queue: &mut VecDeque<Job>,
    segment: Option<SegmentNumber>,
    mut left: u64,
) -> Vec<Reading> {
    let mut taken = Vec::new();
    let Some(segment) = segment else { return taken };
    let mut passed = 0;
    while let Some(job) = queue.get(passed) {
        let Some(still) = left.checked_sub(job.bytes()) else { break };
        left = still;
        if job.segment() != Some(segment) {
            passed += 1;
        } else if let Some(Job::Read(reading)) = queue.remove(passed) {
            taken.push(*reading);
        }
    }
    taken
}

/// What counts of the budget for one fetch, as long as it is kept.
struct ReplayShare {
    waiting: Arc<Waiting>,
    bytes: u64,
}

impl ReplayShare {
    /// Makes it larger by `more`, if there is room and nobody else waits for it.
    fn grow(&mut self, more: u64) -> bool {
        let mut queues = self.waiting.queues.lock();
        let fits = queues.replay.is_empty()
            && queues.replay_bytes.saturating_add(more) <= self.waiting.replay_bytes_max;
        if fits {
            queues.replay_bytes += more;
            self.bytes += more;
        }
        fits
    }
}

impl Drop for ReplayShare {
    fn drop(&mut self) {
        let mut queues = self.waiting.queues.lock();
        queues.replay_bytes -= self.bytes;
        let any_waits = !queues.replay.is_empty();
        drop(queues);
        if any_waits {
            // What waits next may be small enough for several threads.
            self.waiting.replay_may_go.notify_all();
        }
    }
}

/// Where a result goes.
struct Slot<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    /// The share lives as long as the result waits to be taken.
    result: Option<(T, Option<ReplayShare>)>,
    over: bool,
    given_up: bool,
    waker: Option<Waker>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        let state = State { result: None, over: false, given_up: false, waker: None };
        Self { state: Mutex::new(state) }
    }
}

/// The side that does the work. Dropped, it says that whatever there is, is all.
pub(super) struct Promise<T> {
    slot: Arc<Slot<T>>,
    share: Option<ReplayShare>,
}

impl<T> Promise<T> {
    pub(super) fn is_awaited(&self) -> bool {
        !self.slot.state.lock().given_up
    }

    /// Whether so many bytes more may be read for it.
    pub(super) fn may_grow(&mut self, more: u64) -> bool {
        self.share.as_mut().is_none_or(|share| share.grow(more))
    }

    /// Gives the result to whoever waits for it.
    pub(super) fn keep(mut self, result: T) {
        let result = (result, self.share.take());
        let mut state = self.slot.state.lock();
        if !state.given_up {
            state.result = Some(result);
            return;
        }
        drop(state);
        // Outside of the lock: others may go on.
        drop(result);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        let mut state = self.slot.state.lock();
        state.over = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A result to come. Dropping it calls off work that has not begun.
pub(super) struct Answer<T> {
    slot: Arc<Slot<T>>,
    waiting: Arc<Waiting>,
}

impl<T> Future for Answer<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.slot.state.lock();
        if state.over {
            let taken = state.result.take();
            drop(state);
            return Poll::Ready(taken.map(|(result, _share)| result));
        }
        let before = state.waker.replace(context.waker().clone());
        drop(state);
        drop(before);
        Poll::Pending
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let mut state = self.slot.state.lock();
        state.given_up = true;
        let (left, was_over) = (state.result.take(), state.over);
        drop(state);
        drop(left);
        if !was_over {
            // What waits behind it may fit now. Under the lock, so that no thread is between its
            // look and its sleep.
            drop(self.waiting.queues.lock());
            self.waiting.replay_may_go.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use tracklog_log::conformance::block_on;

    use super::*;

    /// Occupies the only thread for replays until the sender speaks or is dropped.
    fn busy(threads: &Threads) -> mpsc::Sender<()> {
        let (free, freed) = mpsc::channel::<()>();
        let (begun, has_begun) = mpsc::channel();
        let answer = threads.run(FetchMode::Replay, move || {
            begun.send(()).unwrap();
            freed.recv().unwrap_or_default();
        });
        has_begun.recv().unwrap();
        drop(answer);
        free
    }

    #[test]
    fn live_readers_wait_for_no_replay_and_each_kind_goes_in_order() {
        let threads = Threads::start(1, 0).unwrap();
        let free = busy(&threads);
        let done = Arc::new(Mutex::new(Vec::new()));
        let run = |mode, name| {
            let done = Arc::clone(&done);
            threads.run(mode, move || done.lock().push(name))
        };
        let past = ["past 1", "past 2"].map(|name| run(FetchMode::Replay, name));
        for live in ["live 1", "live 2"].map(|name| run(FetchMode::Live, name)) {
            assert_eq!(block_on(live), Some(()));
        }
        assert_eq!(*done.lock(), ["live 1", "live 2"]);
        drop(free);
        for answer in past {
            assert_eq!(block_on(answer), Some(()));
        }
        assert_eq!(done.lock()[2..], ["past 1", "past 2"]);
        threads.stop();
    }

    #[test]
    fn work_that_nobody_waits_for_is_passed_over() {
        let threads = Threads::start(1, 0).unwrap();
        let free = busy(&threads);
        let count = Arc::new(AtomicUsize::new(0));
        let run = || {
            let count = Arc::clone(&count);
            threads.run(FetchMode::Replay, move || count.fetch_add(1, Ordering::Relaxed))
        };
        drop(run());
        let kept = run();
        drop(free);
        assert_eq!(block_on(kept), Some(0));
        threads.stop();
        assert_eq!(count.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn stopping_answers_what_waits_and_what_comes_later() {
        let threads = Threads::start(1, 0).unwrap();
        let free = busy(&threads);
        let waits = threads.run(FetchMode::Replay, || 1);
        thread::scope(|scope| {
            scope.spawn(|| threads.stop());
            assert_eq!(block_on(waits), None);
            drop(free);
        });
        assert_eq!(block_on(threads.run(FetchMode::Live, || 2)), None);
    }

    #[test]
    fn a_panic_costs_its_own_answer_only() {
        let threads = Threads::start(1, 0).unwrap();
        assert_eq!(block_on(threads.run(FetchMode::Live, || panic!("on purpose"))), None::<()>);
        assert_eq!(block_on(threads.run(FetchMode::Live, || 3)), Some(3));
        threads.stop();
    }

    #[test]
    fn without_threads_the_work_is_done_by_whoever_asks() {
        let threads = Threads::start(0, 0).unwrap();
        let me = thread::current().id();
        assert_eq!(block_on(threads.run(FetchMode::Live, || thread::current().id())), Some(me));
    }
}
