//! The backend on io_uring: one thread, one ring, nothing else on it.
//!
//! Promises
//! - Up to four writes are in flight in the kernel; more wait in a bounded queue.
//! - A write is one operation on a descriptor that is O_DIRECT and O_DSYNC, with no sync call; where
//!   O_DIRECT is refused, a write and then a sync (see [`SlotFile::sync_through`]).
//! - Dropped, it first ends all that it was given: the ring is empty when its thread ends.
//!
//! The runtime hands what was submitted to the kernel only when its thread is about to sleep. So
//! this thread does nothing but this, and completions called from it are to be short.
//!
//! Made by `files` and `probe`; called through [`Writers`](super::files::Writers).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::thread::{self, JoinHandle};

use io_uring::{IoUring, Probe, opcode};
use tokio_uring::Runtime;
use tokio_uring::fs::File;

use super::blocking::join_unless_self;
use super::files::{SlotFile, WRITES_QUEUED_MAX, Write, told_full, whole};
use super::queue::{Closes, Queue};

/// How many writes the kernel has at once.
const IN_FLIGHT_MAX: usize = 4;
/// The ring has room for twice that, and for as many completions again.
const RING_ENTRIES: u32 = 8;

/// The ring's thread.
pub(super) struct Ring {
    queue: Arc<Queue<Write>>,
    thread: Option<JoinHandle<()>>,
}

impl Ring {
    /// Starts it, or says what the kernel said: io_uring may be unknown to it, switched off, or
    /// forbidden to this process.
    pub(super) fn start() -> io::Result<Self> {
        require_support()?;
        let queue = Arc::new(Queue::new(WRITES_QUEUED_MAX));
        let (started, outcome) = sync_channel(1);
        let thread = thread::Builder::new().name("disk-uring".to_owned()).spawn({
            let queue = Arc::clone(&queue);
            move || run(&queue, &started)
        })?;
        let ring = Self { queue, thread: Some(thread) };
        match outcome.recv() {
            Ok(outcome) => outcome.map(|()| ring),
            Err(_) => Err(io::Error::other("the ring's thread ended at its start")),
        }
    }

    /// Queues a write, or gives it back when the queue is full.
    pub(super) fn submit(&self, write: Write) -> Result<(), Write> {
        self.queue.push(write)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            join_unless_self(thread);
        }
    }
}

/// Asks the kernel, before a runtime is made: making one that is refused would leak it.
fn require_support() -> io::Result<()> {
    let ring = IoUring::new(RING_ENTRIES)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    if probe.is_supported(opcode::Write::CODE) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring has no plain write"))
}

fn run(queue: &Queue<Write>, started: &SyncSender<io::Result<()>>) {
    let _closes = Closes(queue);
    let runtime = Runtime::new(tokio_uring::builder().entries(RING_ENTRIES));
    let (runtime, outcome) = match runtime {
        Ok(runtime) => (Some(runtime), Ok(())),
        Err(error) => (None, Err(error)),
    };
    started.send(outcome).expect("who starts a ring waits for its outcome");
    if let Some(runtime) = runtime {
        runtime.block_on(serve(queue));
    }
}

/// Keeps up to four writes in flight until the queue is closed and empty.
async fn serve(queue: &Queue<Write>) {
    let mut files = Files::default();
    let mut flights: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::with_capacity(IN_FLIGHT_MAX);
    poll_fn(|cx| {
        loop {
            flights.retain_mut(|flight| flight.as_mut().poll(cx).is_pending());
            if flights.len() == IN_FLIGHT_MAX {
                return Poll::Pending;
            }
            match queue.poll_pop(cx) {
                Poll::Ready(Some(write)) => match files.of(&write.file) {
                    Ok(file) => flights.push(Box::pin(fly(file, write))),
                    Err(error) => write.finish(Err(error)),
                },
                Poll::Ready(None) if flights.is_empty() => return Poll::Ready(()),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
}

async fn fly(file: Rc<File>, write: Write) {
    let written = loop {
        let (result, _pages) = file.write_at(write.pages.clone(), write.at).submit().await;
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result,
        }
    };
    let length = write.pages.len();
    let mut result = written.map_err(told_full).and_then(|written| whole(written, length));
    if result.is_ok()
        && let Some(ticket) = write.file.count_write()
    {
        // Others that have returned as well are counted in between, and share the sync.
        let_others_run().await;
        result = write.file.sync_through(ticket);
    }
    write.finish(result);
}

async fn let_others_run() {
    let mut ran = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut ran, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The ring's own view of the slots that it writes. Few: a log writes one slot, at times two.
#[derive(Default)]
struct Files {
    open: Vec<(Weak<SlotFile>, Rc<File>)>,
}

impl Files {
    /// The ring's file for `slot`: another number of the same open file, so that its lock holds
    /// for what the ring has in flight. Closes those whose slot is gone.
    fn of(&mut self, slot: &Arc<SlotFile>) -> io::Result<Rc<File>> {
        self.open.retain(|(slot, _)| slot.strong_count() > 0);
        let known = self.open.iter().find(|(known, _)| Weak::as_ptr(known) == Arc::as_ptr(slot));
        if let Some((_, file)) = known {
            return Ok(Rc::clone(file));
        }
        let file = Rc::new(File::from_std(slot.file.try_clone()?));
        self.open.push((Arc::downgrade(slot), Rc::clone(&file)));
        Ok(file)
    }
}
