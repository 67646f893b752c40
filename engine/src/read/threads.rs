//! The threads that read from disks, and the answers that come from them.
//!
//! Promises
//! - Work for live readers goes before work for replays; within each, first come, first served.
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

type Work = Box<dyn FnOnce() + Send>;

/// Threads, and the work that waits for them.
pub(super) struct Threads {
    waiting: Arc<Waiting>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    count: usize,
}

#[derive(Default)]
struct Waiting {
    queues: Mutex<Queues>,
    changed: Condvar,
}

#[derive(Default)]
struct Queues {
    live: VecDeque<Work>,
    replay: VecDeque<Work>,
    stopped: bool,
}

impl Threads {
    pub(super) fn start(count: usize) -> io::Result<Self> {
        let waiting = Arc::<Waiting>::default();
        // Made before its threads, so that those which did start end when another does not.
        let threads = Self { waiting, threads: Mutex::default(), count };
        for index in 0..count {
            let waiting = Arc::clone(&threads.waiting);
            let builder = thread::Builder::new().name(format!("replay-{index}"));
            threads.threads.lock().push(builder.spawn(move || waiting.work())?);
        }
        Ok(threads)
    }

    /// Has `work` done by one of the threads; without threads, at once.
    pub(super) fn run<T: Send + 'static>(
        &self,
        mode: FetchMode,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Answer<T> {
        let slot = Arc::<Slot<T>>::default();
        let answer = Answer { slot: Arc::clone(&slot) };
        let promise = Promise { slot };
        let work = move || {
            if promise.is_awaited() {
                let result = work();
                promise.slot.state.lock().result = Some(result);
            }
        };
        if self.count == 0 {
            work();
        } else {
            self.waiting.push(mode, Box::new(work));
        }
        answer
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
    fn push(&self, mode: FetchMode, work: Work) {
        let mut queues = self.queues.lock();
        if queues.stopped {
            drop(queues);
            // Outside of the lock: its promise wakes somebody.
            return drop(work);
        }
        match mode {
            FetchMode::Live => queues.live.push_back(work),
            FetchMode::Replay => queues.replay.push_back(work),
        }
        drop(queues);
        self.changed.notify_one();
    }

    fn stop(&self) {
        let mut queues = self.queues.lock();
        queues.stopped = true;
        let undone = (std::mem::take(&mut queues.live), std::mem::take(&mut queues.replay));
        drop(queues);
        drop(undone);
        self.changed.notify_all();
    }

    fn work(&self) {
        while let Some(work) = self.next() {
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                tracing::error!("a read panicked");
            }
        }
    }

    fn next(&self) -> Option<Work> {
        let mut queues = self.queues.lock();
        loop {
            if let Some(work) = queues.live.pop_front().or_else(|| queues.replay.pop_front()) {
                return Some(work);
            }
            if queues.stopped {
                return None;
            }
            self.changed.wait(&mut queues);
        }
    }
}

/// Where a result goes.
struct Slot<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    result: Option<T>,
    over: bool,
    waker: Option<Waker>,
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { result: None, over: false, waker: None }) }
    }
}

/// The side that does the work. Dropped, it says that whatever there is, is all.
struct Promise<T> {
    slot: Arc<Slot<T>>,
}

impl<T> Promise<T> {
    fn is_awaited(&self) -> bool {
        Arc::strong_count(&self.slot) > 1
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
}

impl<T> Future for Answer<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.slot.state.lock();
        if state.over {
            return Poll::Ready(state.result.take());
        }
        let before = state.waker.replace(context.waker().clone());
        drop(state);
        drop(before);
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use tracklog_log::conformance::block_on;

    use super::*;

    /// Occupies the only thread until the sender speaks or is dropped.
    fn busy(threads: &Threads) -> mpsc::Sender<()> {
        let (free, freed) = mpsc::channel::<()>();
        let (begun, has_begun) = mpsc::channel();
        let answer = threads.run(FetchMode::Live, move || {
            begun.send(()).unwrap();
            freed.recv().unwrap_or_default();
        });
        has_begun.recv().unwrap();
        drop(answer);
        free
    }

    #[test]
    fn live_readers_go_first_and_the_rest_in_order() {
        let threads = Threads::start(1).unwrap();
        let free = busy(&threads);
        let done = Arc::new(Mutex::new(Vec::new()));
        let run = |mode, name| {
            let done = Arc::clone(&done);
            threads.run(mode, move || done.lock().push(name))
        };
        let answers = [
            run(FetchMode::Replay, "past 1"),
            run(FetchMode::Replay, "past 2"),
            run(FetchMode::Live, "live 1"),
            run(FetchMode::Live, "live 2"),
        ];
        drop(free);
        for answer in answers {
            assert_eq!(block_on(answer), Some(()));
        }
        assert_eq!(*done.lock(), ["live 1", "live 2", "past 1", "past 2"]);
        threads.stop();
    }

    #[test]
    fn work_that_nobody_waits_for_is_passed_over() {
        let threads = Threads::start(1).unwrap();
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
        let threads = Threads::start(1).unwrap();
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
        let threads = Threads::start(1).unwrap();
        assert_eq!(block_on(threads.run(FetchMode::Live, || panic!("on purpose"))), None::<()>);
        assert_eq!(block_on(threads.run(FetchMode::Live, || 3)), Some(3));
        threads.stop();
    }

    #[test]
    fn without_threads_the_work_is_done_by_whoever_asks() {
        let threads = Threads::start(0).unwrap();
        let me = thread::current().id();
        assert_eq!(block_on(threads.run(FetchMode::Live, || thread::current().id())), Some(me));
    }
}
