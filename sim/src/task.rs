//! Futures without a runtime: polled when they were woken, and when the schedule says so.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use tracklog_log::Pending;

/// What a future says at once, if anything.
pub(crate) fn answer<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Remembers that a task was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client that waits for the log.
pub(crate) struct Task<W, T> {
    /// For what.
    pub(crate) what: W,
    future: Pending<'static, T>,
    woken: Arc<Flag>,
}

impl<W, T> Task<W, T> {
    /// A task that was not polled yet.
    pub(crate) fn new(what: W, future: Pending<'static, T>) -> Self {
        Self { what, future, woken: Arc::new(Flag(AtomicBool::new(true))) }
    }

    /// Polls it if it was woken since the last time.
    pub(crate) fn poll(&mut self) -> Option<T> {
        if self.woken.0.swap(false, Ordering::Relaxed) { self.poll_now() } else { None }
    }

    /// Polls it, woken or not: one that is over then was forgotten.
    pub(crate) fn poll_now(&mut self) -> Option<T> {
        let waker = Waker::from(Arc::clone(&self.woken));
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }
}
