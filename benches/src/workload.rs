//! Who writes: producers of batches, single callers, and the raw disk to compare them with.
//!
//! Each turn appends a fixed amount and returns the time until all of it was durable. Producers
//! build their batches within that time: copy and checksum are part of producing.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tracklog_engine::Engine;
use tracklog_log::{Append, Epoch, Item, Lane, Log as _, Ticket};
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::event::{EventBuilder, EventParts};
use tracklog_protocol::{PartitionId, PayloadKind, VerifiedBatch};

use crate::samples;
use crate::scratch::Shape;

/// A runtime with one thread for each core, as a server has it.
///
/// # Panics
/// When the system gives no threads.
#[must_use]
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime can be started")
}

/// Makes a batch of so many records.
pub type MakeBatch = fn(usize) -> VerifiedBatch;

/// A batch of `records` records of 256 bytes.
#[must_use]
pub fn batch(records: usize) -> VerifiedBatch {
    let mut builder = BatchBuilder::new(PayloadKind::Opaque);
    for _ in 0..records {
        builder.push(samples::record());
    }
    builder.finish()
}

/// A batch of as many events of a dozen fields.
#[must_use]
pub fn event_batch(events: usize) -> VerifiedBatch {
    events_of(&samples::twelve_fields(), events)
}

/// A batch of as many events that say little: who did what, and when.
#[must_use]
pub fn small_event_batch(events: usize) -> VerifiedBatch {
    events_of(&samples::few_fields(), events)
}

fn events_of(parts: &EventParts<'_>, events: usize) -> VerifiedBatch {
    let mut event = EventBuilder::new();
    let mut builder = BatchBuilder::new(PayloadKind::Event);
    for _ in 0..events {
        builder.push(event.build(parts));
    }
    builder.finish()
}

/// Where a workload writes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The log.
    pub engine: Arc<Engine>,
    /// The writer.
    pub epoch: Epoch,
    /// The partitions, written in turn.
    pub partitions: Arc<[PartitionId]>,
}

impl Target {
    fn partition(&self, turn: usize) -> PartitionId {
        self.partitions[turn % self.partitions.len()]
    }

    fn append_batch(&self, lane: Lane, turn: usize, batch: &VerifiedBatch) -> Ticket {
        let items = [Item::Batch { partition: self.partition(turn), batch }];
        self.append(lane, batch.view().bytes().len(), &items)
    }

    fn append_record(&self, lane: Lane, turn: usize) -> Ticket {
        let record = samples::record();
        let items = [Item::Record { partition: self.partition(turn), record }];
        self.append(lane, samples::RECORD_BYTES, &items)
    }

    fn append(&self, lane: Lane, bytes: usize, items: &[Item<'_>]) -> Ticket {
        let permit = self.engine.reserve(lane, bytes).expect("the load is far below the budget");
        self.engine.append(permit, self.epoch, Append { conditions: &[], items })
    }
}

/// Tasks that append whole batches, each with several tickets in flight.
#[derive(Clone, Copy, Debug)]
pub struct Producers {
    /// How many.
    pub count: usize,
    /// Batches that each has in flight.
    pub in_flight: usize,
    /// Records in a batch.
    pub records: usize,
    /// What makes a batch of so many: [`batch`], [`event_batch`] or [`small_event_batch`].
    pub make: MakeBatch,
}

impl Producers {
    /// Has each producer append `batches` batches.
    ///
    /// # Panics
    /// When an append fails.
    pub fn run(self, target: &Target, batches: usize, runtime: &Runtime) -> Duration {
        let started = Instant::now();
        let tasks = (0..self.count).map(|producer| {
            let target = target.clone();
            runtime.spawn(async move { self.produce(&target, producer, batches).await })
        });
        finish(tasks.collect(), runtime);
        started.elapsed()
    }

    async fn produce(self, target: &Target, producer: usize, batches: usize) {
        let lane = lane(producer);
        let mut tickets = VecDeque::with_capacity(self.in_flight);
        for number in 0..batches {
            if tickets.len() == self.in_flight
                && let Some(ticket) = tickets.pop_front()
            {
                acked(ticket).await;
            }
            let turn = producer + number * self.count;
            tickets.push_back(target.append_batch(lane, turn, &(self.make)(self.records)));
        }
        for ticket in tickets {
            acked(ticket).await;
        }
    }
}

/// Writes as much as the journal of a log of this shape holds: from then on it writes into slots
/// that it wrote before, as a log does that has run for a while.
///
/// # Panics
/// When an append fails.
pub fn fill_once(target: &Target, shape: &Shape, runtime: &Runtime) {
    const RECORDS: usize = 1_000;
    let written = target.engine.status().commit_bytes;
    let Some(missing) = shape.journal_bytes_max().checked_sub(written) else { return };
    let producers = Producers { count: 8, in_flight: 4, records: RECORDS, make: batch };
    let a_turn = producers.count * RECORDS * samples::RECORD_BYTES;
    let batches = missing / a_turn as u64 + 1;
    let batches = usize::try_from(batches).expect("a gigabyte is counted in few batches");
    producers.run(target, batches, runtime);
}

/// Has `callers` tasks append `events` single records each, every caller one at a time.
///
/// # Panics
/// When an append fails.
pub fn call_from_tasks(
    target: &Target,
    callers: usize,
    events: usize,
    runtime: &Runtime,
) -> Duration {
    let started = Instant::now();
    let tasks = (0..callers).map(|caller| {
        let target = target.clone();
        runtime.spawn(async move {
            for event in 0..events {
                acked(target.append_record(lane(caller), caller + event * callers)).await;
            }
        })
    });
    finish(tasks.collect(), runtime);
    started.elapsed()
}

/// The same without a runtime: `threads` threads poll the futures of all callers, each only the
/// one that is due next. What a program does that knows that acks come in order.
///
/// # Panics
/// When an append fails.
pub fn call_from_threads(
    target: &Target,
    callers: usize,
    events: usize,
    threads: usize,
) -> Duration {
    let started = Instant::now();
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mine = (thread..callers).step_by(threads);
                poll_callers(target, lane(thread), mine, events);
            });
        }
    });
    started.elapsed()
}

fn poll_callers(target: &Target, lane: Lane, callers: impl Iterator<Item = usize>, events: usize) {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let first = callers.map(|caller| (caller, 1, target.append_record(lane, caller)));
    let mut waiting: VecDeque<(usize, usize, Ticket)> = first.collect();
    while let Some((caller, begun, ticket)) = waiting.front_mut() {
        match pin!(ticket).poll(&mut context) {
            Poll::Pending => thread::park(),
            Poll::Ready(stored) => {
                drop(stored.expect("an append to a scratch log"));
                let (caller, begun) = (*caller, *begun);
                waiting.pop_front();
                if begun < events {
                    let ticket = target.append_record(lane, caller + begun);
                    waiting.push_back((caller, begun + 1, ticket));
                }
            }
        }
    }
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Sixteen lanes: no lane may hold more than half of the budget.
fn lane(writer: usize) -> Lane {
    let number = u8::try_from(writer % 16).expect("a remainder of 16");
    Lane(Lane::FIRST_SOURCE.0 + number)
}

async fn acked(ticket: Ticket) {
    drop(ticket.await.expect("an append to a scratch log"));
}

fn finish(tasks: Vec<tokio::task::JoinHandle<()>>, runtime: &Runtime) {
    runtime.block_on(async {
        for task in tasks {
            task.await.expect("a writer does not panic");
        }
    });
}

/// The raw disk: writes into blocks that were written before and lie in the page cache, each
/// followed by a sync of the data. What a log that writes a file the plain way can reach at most.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    file_bytes: u64,
    at: u64,
}

impl RawDisk {
    /// A file of `file_bytes` in `folder`, already unlinked.
    ///
    /// # Errors
    /// As the file system says.
    pub fn make(folder: &Path, file_bytes: u64) -> io::Result<Self> {
        static PIECE: [u8; 64 << 10] = [0; 64 << 10];
        let file = tempfile::tempfile_in(folder)?;
        for at in (0..file_bytes).step_by(PIECE.len()) {
            file.write_all_at(&PIECE, at)?;
        }
        file.sync_all()?;
        Ok(Self { file, file_bytes, at: 0 })
    }

    /// Writes `writes` times `bytes`, one after the other, each durable before the next.
    ///
    /// # Errors
    /// As the file system says.
    pub fn run(&mut self, bytes: &[u8], writes: usize) -> io::Result<Duration> {
        let started = Instant::now();
        for _ in 0..writes {
            if self.at + bytes.len() as u64 > self.file_bytes {
                self.at = 0;
            }
            self.file.write_all_at(bytes, self.at)?;
            self.file.sync_data()?;
            self.at += bytes.len() as u64;
        }
        Ok(started.elapsed())
    }
}

/// What a batch of `records` takes as a commit of its own: with its table, in whole pages.
#[must_use]
pub fn commit_bytes(records: usize) -> usize {
    const HEADERS_BYTES: usize = 256;
    (batch(records).view().bytes().len() + HEADERS_BYTES).next_multiple_of(4096)
}
