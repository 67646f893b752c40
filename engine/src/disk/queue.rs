//! A bounded queue from callers to the threads that do I/O.
//!
//! Promises
//! - What was pushed is popped once, in order, also after the queue was closed.
//! - Nobody polls: threads wait in [`Queue::pop`], a ring's task in [`Queue::poll_pop`].
//! - A full queue gives back what was pushed at once; it never blocks, since completions push too.
//!
//! Used by both real backends.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// See the head of this file.
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    pushed: Condvar,
    length_max: usize,
}

struct State<T> {
    waiting: VecDeque<T>,
    closed: bool,
    task: Option<Waker>,
}

impl<T> Queue<T> {
    /// A queue for at most `length_max` items.
    pub(super) fn new(length_max: usize) -> Self {
        let waiting = VecDeque::with_capacity(length_max);
        let state = Mutex::new(State { waiting, closed: false, task: None });
        Self { state, pushed: Condvar::new(), length_max }
    }

    /// Puts `item` at the end, or gives it back when the queue is full or closed.
    pub(super) fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed || state.waiting.len() >= self.length_max {
            return Err(item);
        }
        state.waiting.push_back(item);
        self.notify(state);
        Ok(())
    }

    /// The next item; none when the queue is closed and empty. Waits for one.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.lock();
        loop {
            if let Some(item) = state.waiting.pop_front() {
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state = self.pushed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// As [`Queue::pop`], for one task.
    pub(super) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut state = self.lock();
        if let Some(item) = state.waiting.pop_front() {
            return Poll::Ready(Some(item));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.task = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Takes nothing more. What waits is still popped.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.notify(state);
    }

    fn notify(&self, mut state: MutexGuard<'_, State<T>>) {
        let task = state.task.take();
        let closed = state.closed;
        drop(state);
        match task {
            Some(task) => task.wake(),
            None if closed => self.pushed.notify_all(),
            None => self.pushed.notify_one(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by a thread that serves a queue: however it ends, nothing waits for it for ever.
pub(super) struct Closes<'a, T>(pub(super) &'a Queue<T>);

impl<T> Drop for Closes<'_, T> {
    fn drop(&mut self) {
        self.0.close();
        while let Some(unserved) = self.0.pop() {
            drop(unserved);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    #[test]
    fn full_queue_gives_the_item_back() {
        let queue = Queue::new(2);
        assert_eq!((queue.push(1), queue.push(2), queue.push(3)), (Ok(()), Ok(()), Err(3)));
        assert_eq!(queue.pop(), Some(1));
        assert_eq!(queue.push(4), Ok(()));
    }

    #[test]
    fn closed_queue_hands_out_what_waits_and_takes_nothing_more() {
        let queue = Queue::new(2);
        queue.push(1).unwrap();
        queue.close();
        assert_eq!(queue.push(2), Err(2));
        assert_eq!((queue.pop(), queue.pop()), (Some(1), None));
    }

    #[test]
    fn waiting_threads_get_each_item_once_and_end_at_close() {
        let queue = Arc::new(Queue::new(8));
        let threads = [(); 3].map(|()| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || std::iter::from_fn(|| queue.pop()).collect::<Vec<u32>>())
        });
        for mut item in 0..1000 {
            while let Err(back) = queue.push(item) {
                item = back;
                thread::yield_now();
            }
        }
        queue.close();
        let mut popped: Vec<_> = threads.into_iter().flat_map(|it| it.join().unwrap()).collect();
        popped.sort_unstable();
        assert_eq!(popped, (0..1000).collect::<Vec<_>>());
    }
}
