//! The backend of four threads that write and wait: works on every kernel.
//!
//! Promises
//! - A write is over when `pwritev2` with `RWF_DSYNC` returned on a descriptor that bypasses the
//!   page cache; where O_DIRECT is refused, when a write and a sync after it did
//!   (see [`SlotFile::write_durably`]).
//! - Four writes are under way at once; more wait in a bounded queue.
//! - What a completion submits the completing thread writes itself, right after: no other thread is
//!   woken for it, unless the completion submits more than one.
//! - Dropped, it first ends all that it was given.
//!
//! Made by `files`; called through [`Writers`](super::files::Writers).

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::files::{WRITES_QUEUED_MAX, Write};
use super::queue::{Closes, Queue};

/// How many writes are under way at once.
const THREADS: usize = 4;

/// The threads.
pub(super) struct Threads {
    queue: Arc<Queue<Write>>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts them.
    pub(super) fn start() -> io::Result<Self> {
        let queue = Arc::new(Queue::new(WRITES_QUEUED_MAX));
        let mut started = Self { queue, threads: Vec::with_capacity(THREADS) };
        for number in 0..THREADS {
            let queue = Arc::clone(&started.queue);
            let name = format!("disk-write-{number}");
            let thread = thread::Builder::new().name(name).spawn(move || serve(&queue))?;
            started.threads.push(thread);
        }
        Ok(started)
    }

    /// Queues a write, or gives it back when the queue is full.
    pub(super) fn submit(&self, write: Write) -> Result<(), Write> {
        match keep(&self.queue, write) {
            Some(write) => self.queue.push(write),
            None => Ok(()),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.queue.close();
        for thread in self.threads.drain(..) {
            join_unless_self(thread);
        }
    }
}

/// Waits for an I/O thread's end; the thread itself may be the one that drops the last user.
pub(super) fn join_unless_self(thread: JoinHandle<()>) {
    if thread.thread().id() != thread::current().id() && thread.join().is_err() {
        tracing::error!("a disk thread panicked: its writes ended with an error");
    }
}

fn serve(queue: &Arc<Queue<Write>>) {
    let _closes = Closes(queue);
    let mut next = queue.pop();
    while let Some(write) = next {
        let result = write.file.write_durably(write.at, &write.pages);
        next = finish(queue, write, result).or_else(|| queue.pop());
    }
}

/// A thread of `queue` that tells of a write's end, and what that made it submit.
struct Completing {
    queue: *const Queue<Write>,
    kept: Option<Write>,
}

thread_local! {
    static COMPLETING: RefCell<Option<Completing>> = const { RefCell::new(None) };
}

/// Tells of a write's end. The answer is what this thread is to write next.
fn finish(queue: &Arc<Queue<Write>>, write: Write, result: io::Result<()>) -> Option<Write> {
    /// Also if what is told panics: what was kept then ends as written by a dead thread.
    struct Completes;
    impl Drop for Completes {
        fn drop(&mut self) {
            drop(COMPLETING.take());
        }
    }
    COMPLETING.set(Some(Completing { queue: Arc::as_ptr(queue), kept: None }));
    let _completes = Completes;
    write.finish(result);
    COMPLETING.with_borrow_mut(|completing| completing.as_mut().and_then(|it| it.kept.take()))
}

/// Keeps `write` for the calling thread if that is one of the queue's and completes one. The
/// answer goes to the queue: this write, or the one that was kept before.
fn keep(queue: &Arc<Queue<Write>>, write: Write) -> Option<Write> {
    COMPLETING.with_borrow_mut(|completing| match completing {
        Some(own) if own.queue == Arc::as_ptr(queue) => own.kept.replace(write),
        _ => Some(write),
    })
}
