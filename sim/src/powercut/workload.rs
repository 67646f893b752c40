//! The load: producers that append and note each ack, while topics come and go, segments fill and
//! are given up, and the log is closed and opened again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tracklog_engine::disk::{FolderAccess, open_folder};
use tracklog_engine::{BackendChoice, Engine, Options, WhenFull};
use tracklog_log::block_on;
use tracklog_log::{
    Append, AppendError, CatalogError, Domain, Epoch, Item, Lane, Log, Retention, Topic, TopicName,
    TopicSpec,
};
use tracklog_protocol::Record;

use super::Failure;
use super::marks::{Mark, Marks, Stored};
use super::records::{Number, record};
use super::unsynced::Unsynced;
use crate::chance::Chance;

pub(super) const PARTITIONS: u32 = 4;
const PRODUCERS: u32 = 4;
pub(super) const TOPIC: &str = "marked";
/// How often the log is closed and opened again.
const ROUNDS: u32 = 5;
const RECORDS_MAX: u64 = 12;

/// How the log is opened: its segments are small, and only so many.
pub(super) fn options(backend: BackendChoice) -> Options {
    Options {
        slot_bytes: Some(2 << 20),
        journal_bytes_max: Some(16 << 20),
        when_full: WhenFull::DropOldest,
        backend,
        ring_bytes: 1 << 20,
        replay_threads: 1,
        ..Options::default()
    }
}

/// What the load does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) seed: u64,
    pub(super) time: Duration,
    pub(super) backend: BackendChoice,
    /// Whether what is acked is made durable: without it the rig must find losses.
    pub(super) syncs: bool,
}

/// Opens the log in `folder`.
fn open(folder: &Path, load: &Load) -> Result<Engine, Failure> {
    let options = options(load.backend);
    let opened = if load.syncs {
        Engine::open(folder, &options)
    } else {
        let disk = open_folder(folder, FolderAccess::Write, load.backend)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        Engine::open_on(Unsynced::over(disk, folder), &options)
    };
    opened.map_err(|error| Failure::Failed(format!("the log does not open: {error}")))
}

/// Loads the log in `folder`, and marks each ack. The answer is how many records were acked.
pub(super) fn run(folder: &Path, load: &Load, marks: &Marks) -> Result<u64, Failure> {
    let acked = AtomicU64::new(0);
    let mut next = [0; PRODUCERS as usize];
    for round in 0..ROUNDS {
        let log = Arc::new(open(folder, load)?);
        let epoch = block_on(log.open(Domain::WHOLE)).map_err(failed)?;
        let topic = match block_on(log.create_topic(spec(TOPIC, PARTITIONS))) {
            Ok(topic) => topic,
            Err(error) => return Err(failed(error)),
        };
        let stop = AtomicBool::new(false);
        let round_seed = load.seed << 8 | u64::from(round);
        let outcome = thread::scope(|scope| {
            let producers: Vec<_> = (0..PRODUCERS)
                .zip(&mut next)
                .map(|(producer, next)| {
                    let seed = round_seed ^ u64::from(producer) << 32;
                    let (log, topic, stop, acked) = (&log, &topic, &stop, &acked);
                    scope.spawn(move || {
                        let chance = Chance::new(seed);
                        let by = Producer { log, epoch, topic, marks, producer, chance };
                        by.run(next, stop, acked)
                    })
                })
                .collect();
            let churn = scope.spawn(|| churn(&log, &stop));
            // Ended early it is a shorter round.
            thread::park_timeout(load.time / ROUNDS);
            stop.store(true, Ordering::Relaxed);
            let ended = producers.into_iter().chain([churn]);
            ended.map(|it| it.join().expect("the load does not panic")).collect()
        });
        log.close();
        let outcome: Result<Vec<()>, Failure> = outcome;
        outcome?;
    }
    Ok(acked.into_inner())
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Failed(format!("the load: {error}"))
}

fn spec(name: &str, partitions: u32) -> TopicSpec {
    let name = TopicName::new(name).expect("a good name");
    TopicSpec { name, partitions, retention: Retention::Keep }
}

/// Makes and deletes topics.
fn churn(log: &Engine, stop: &AtomicBool) -> Result<(), Failure> {
    while !stop.load(Ordering::Relaxed) {
        let made = block_on(log.create_topic(spec("passing", 2)));
        let deleted = made.and_then(|topic| block_on(log.delete_topic(&topic.spec.name)));
        match deleted {
            Ok(()) | Err(CatalogError::Append(AppendError::Full { .. })) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

struct Producer<'a> {
    log: &'a Engine,
    epoch: Epoch,
    topic: &'a Topic,
    marks: &'a Marks,
    producer: u32,
    chance: Chance,
}

impl Producer<'_> {
    fn run(mut self, next: &mut u64, stop: &AtomicBool, acked: &AtomicU64) -> Result<(), Failure> {
        while !stop.load(Ordering::Relaxed) {
            let count = 1 + self.chance.below(RECORDS_MAX);
            // The last one at times goes to another partition: an append is whole over both.
            let over = u64::from(count > 1 && self.chance.one_in(3));
            if let Some(mark) = self.append(*next, count, over)? {
                self.marks.write(&mark).map_err(Failure::io("write a mark"))?;
                *next += count;
                acked.fetch_add(count, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Appends the next records; none where there was no room.
    fn append(&self, first: u64, count: u64, over: u64) -> Result<Option<Mark>, Failure> {
        let number = |at: u64| Number { producer: self.producer, number: first + at };
        let records: Vec<_> = (0..count).map(|at| record(number(at), at + 1 == count)).collect();
        let homes = [self.producer % PARTITIONS, (self.producer + 1) % PARTITIONS];
        let home = |at: u64| homes[usize::from(at >= count - over)];
        let items = (0..).zip(&records).map(|(at, bytes)| Item::Record {
            partition: self.topic.partition(home(at)),
            record: Record::opaque(bytes),
        });
        let items: Vec<_> = items.collect();
        let bytes = records.iter().map(|record| record.len() + 128).sum();
        let Ok(permit) = self.log.reserve(Lane::FIRST_SOURCE, bytes) else { return Ok(None) };
        let append = Append { conditions: &[], items: &items };
        let ack = match block_on(self.log.append(permit, self.epoch, append)) {
            Ok(ack) => ack,
            Err(AppendError::Full { .. }) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let part = |at: u64, count: u64| {
            let partition = home(at);
            let extent = self.log.extent(self.topic.partition(partition));
            let start = extent.map_or(0, |extent| extent.start.0);
            let offset = ack.offset(usize::try_from(at).expect("few records")).0;
            Stored { partition, offset, producer: self.producer, first: first + at, count, start }
        };
        let mut stored = vec![part(0, count - over)];
        if over > 0 {
            stored.push(part(count - over, over));
        }
        Ok(Some(Mark { stored }))
    }
}
