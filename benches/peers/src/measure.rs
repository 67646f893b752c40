//! The cells, and how one is measured.
//!
//! A cell is measured with every peer, one right after the other, and so in every round: what the
//! disk does meanwhile it does to all. Each measurement opens a new peer in an empty folder, has
//! its producers append until it runs in, counts what is acked within the window, and removes the
//! folder.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use std::{io, thread};

use tempfile::TempDir;

use crate::peers::{Batch, Failure, Kind, PARTITIONS, Peer, Purpose, RECORD_BYTES, Record, Seen};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Producers append batches, each one batch at a time.
    Append { producers: u32, records: usize, partitions: u32 },
    /// All is read back in order, from the page cache.
    Replay,
}

pub(crate) const MANY_PARTITIONS: u32 = 1_024;
const REPLAYED_BATCHES: u64 = 256;
const REPLAYED_BATCH_RECORDS: usize = 1_000;

/// All cells.
pub(crate) fn cells() -> Vec<Cell> {
    const RECORDS: [usize; 3] = [1, 100, 1_000];
    let append = |producers, partitions| {
        RECORDS.map(|records| Cell::Append { producers, records, partitions })
    };
    let few = [1, 8, 16].map(|producers| append(producers, PARTITIONS));
    let many = append(8, MANY_PARTITIONS);
    few.into_iter().flatten().chain(many).chain([Cell::Replay]).collect()
}

impl Cell {
    /// What it is called in tables.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Append { producers, records, partitions } => {
                let producer = if producers == 1 { "producer" } else { "producers" };
                let many = if partitions == PARTITIONS {
                    String::new()
                } else {
                    format!(", {partitions} partitions")
                };
                format!("{producers} {producer} × {records}{many}")
            }
            Self::Replay => "read back".to_owned(),
        }
    }

    /// Whether a peer has what it takes.
    pub(crate) const fn is_for(self, kind: &Kind) -> bool {
        match self {
            Self::Append { partitions, .. } => kind.partitioned || partitions == PARTITIONS,
            Self::Replay => kind.readable,
        }
    }
}

/// How long an append is measured, and before that has to run in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) run_in: Duration,
    pub(crate) window: Duration,
}

/// Records a second.
pub(crate) fn measure(
    cell: Cell,
    kind: &Kind,
    below: &Path,
    pace: Pace,
    samples: &Samples,
) -> Result<f64, Failure> {
    let folder = TempDir::with_prefix_in("peer-", below)?;
    match cell {
        Cell::Append { producers, records, partitions } => {
            let peer = (kind.open)(folder.path(), Purpose::Append, partitions)?;
            sync_all(folder.path())?;
            let producers = (0..producers).map(|number| {
                let mine = (number..partitions).step_by(producers as usize);
                Producer::new(mine, samples, records)
            });
            append_at_once(&*peer, producers.collect(), pace)
        }
        Cell::Replay => {
            let peer = (kind.open)(folder.path(), Purpose::Replay, PARTITIONS)?;
            fill_and_replay(peer, Producer::new(0..PARTITIONS, samples, REPLAYED_BATCH_RECORDS))
        }
    }
}

fn append_at_once(
    peer: &dyn Peer,
    producers: Vec<Producer<'_>>,
    pace: Pace,
) -> Result<f64, Failure> {
    let start = Barrier::new(producers.len());
    let acked = thread::scope(|scope| {
        let start = &start;
        let threads = producers.into_iter().map(|mut producer| {
            scope.spawn(move || {
                start.wait();
                producer.run(peer, pace)
            })
        });
        let threads: Vec<_> = threads.collect();
        let acked = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| Failure::from("a producer panicked"))?);
        acked.sum::<Result<u64, Failure>>()
    })?;
    Ok(acked as f64 / pace.window.as_secs_f64())
}

fn fill_and_replay(peer: Box<dyn Peer>, mut producer: Producer<'_>) -> Result<f64, Failure> {
    let mut expected = Seen::default();
    for _ in 0..REPLAYED_BATCHES {
        let batch = producer.next();
        batch.records.iter().for_each(|record| expected.see(record));
        peer.append(batch)?;
    }
    let mut peer = peer.reopen()?;
    peer.warm_up()?;
    let began = Instant::now();
    let seen = peer.replay()?;
    let took = began.elapsed();
    if seen != expected {
        return Err(format!("{seen:?} was read where {expected:?} was written").into());
    }
    Ok(seen.records as f64 / took.as_secs_f64())
}

/// What a peer wrote while it was opened is not left for its first appends to sync. A peer may be
/// renaming files of its own meanwhile.
fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all(&entry.path())?;
        } else {
            match File::open(entry.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => file?.sync_all()?,
            }
        }
    }
    Ok(())
}

/// Records to append: random bytes, in which nobody finds anything to compress.
pub(crate) struct Samples(Vec<Record>);

impl Samples {
    /// More than a batch holds, so that batches differ.
    const COUNT: usize = 4_096;

    pub(crate) fn new() -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut sample = || {
            let mut record = [0; RECORD_BYTES];
            for eight in record.chunks_exact_mut(8) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                eight.copy_from_slice(&state.to_le_bytes());
            }
            record
        };
        Self((0..Self::COUNT).map(|_| sample()).collect())
    }

    fn batch(&self, number: usize, records: usize) -> &[Record] {
        let first = number.wrapping_mul(61) % (Self::COUNT - records);
        &self.0[first..first + records]
    }
}

/// Who appends to partitions of its own, in turn.
struct Producer<'a> {
    /// Each with the offset that comes next.
    partitions: Vec<(u32, u64)>,
    samples: &'a Samples,
    records: usize,
    batches: usize,
}

impl<'a> Producer<'a> {
    fn new(partitions: impl Iterator<Item = u32>, samples: &'a Samples, records: usize) -> Self {
        let partitions = partitions.map(|partition| (partition, 0)).collect();
        Self { partitions, samples, records, batches: 0 }
    }

    fn next(&mut self) -> Batch<'a> {
        let turn = self.batches % self.partitions.len();
        let (partition, next) = &mut self.partitions[turn];
        let first = *next;
        *next += self.records as u64;
        self.batches += 1;
        let records = self.samples.batch(self.batches, self.records);
        Batch { partition: *partition, first, records }
    }

    /// The records that were acked within the window.
    fn run(&mut self, peer: &dyn Peer, pace: Pace) -> Result<u64, Failure> {
        let from = Instant::now() + pace.run_in;
        let to = from + pace.window;
        let mut acked = 0;
        loop {
            peer.append(self.next())?;
            let now = Instant::now();
            if now >= to {
                return Ok(acked);
            }
            if now >= from {
                acked += self.records as u64;
            }
        }
    }
}
