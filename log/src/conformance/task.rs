//! Futures without a runtime: polled on this thread, which parks until they wake it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::blocking::Signal;

/// How long a future may stay silent before the case has failed.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Runs `future` to its end on this thread.
///
/// # Panics
/// When nothing wakes it for a minute.
pub fn block_on<T>(future: impl Future<Output = T> + Send) -> T {
    Task::new(future).finish()
}

impl Signal {
    /// Forgets earlier calls.
    fn reset(&self) {
        self.woken.store(false, Ordering::Relaxed);
    }

    /// Parks until it is called, and says whether it was.
    fn wait_for(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        while !self.woken.swap(false, Ordering::Acquire) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            thread::park_timeout(left);
        }
        true
    }
}

/// A future that can be left lying between two polls.
pub(super) struct Task<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + Send + 'a>>,
    signal: Arc<Signal>,
}

impl<'a, T> Task<'a, T> {
    pub(super) fn new(future: impl Future<Output = T> + Send + 'a) -> Self {
        Self { future: Box::pin(future), signal: Arc::new(Signal::of_this_thread()) }
    }

    pub(super) fn poll(&mut self) -> Poll<T> {
        self.signal.reset();
        let waker = Waker::from(Arc::clone(&self.signal));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    /// Polls as often as the future wakes us, and only then.
    pub(super) fn finish(mut self) -> T {
        loop {
            if let Poll::Ready(output) = self.poll() {
                return output;
            }
            self.wait_for_wake();
        }
    }

    /// As [`finish`](Self::finish), for a future that was polled before and has to wake us first.
    pub(super) fn finish_when_woken(self) -> T {
        self.wait_for_wake();
        self.finish()
    }

    fn wait_for_wake(&self) {
        let woken = self.signal.wait_for(SILENCE_MAX);
        assert!(woken, "a future that was pending was not woken within a minute");
    }
}
