//! The backend of four threads that write and wait: works on every kernel.
//!
//! Promises
//! - A write is over when `pwritev2` with `RWF_DSYNC` returned on a descriptor that bypasses the
//!   page cache; where O_DIRECT is refused, when a write and a sync after it did
//!   (see [`SlotFile::write_durably`]).
//! - Four writes are under way at once; more wait in a bounded queue.
//! - Dropped, it first ends all that it was given.
//!
//! Made by `files`; called through [`Writers`](super::files::Writers).

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
        self.queue.push(write)
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

fn serve(queue: &Queue<Write>) {
    let _closes = Closes(queue);
    while let Some(write) = queue.pop() {
        let result = write.file.write_durably(write.at, &write.pages);
        write.finish(result);
    }
}
