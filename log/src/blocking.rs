//! Futures on a thread that does nothing but wait for them.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Runs `future` to its end on this thread, which parks until it is woken.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let signal = Arc::new(Signal::of_this_thread());
    let waker = Waker::from(Arc::clone(&signal));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        signal.wait();
    }
}

/// What a future calls one thread by.
pub(crate) struct Signal {
    pub(crate) woken: AtomicBool,
    thread: Thread,
}

impl Signal {
    pub(crate) fn of_this_thread() -> Self {
        Self { woken: AtomicBool::new(false), thread: thread::current() }
    }

    /// Parks until it is called.
    fn wait(&self) {
        while !self.woken.swap(false, Ordering::Acquire) {
            thread::park();
        }
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
