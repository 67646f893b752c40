//! Durable appends, in process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tracklog_log::{
    Append, Busy, Domain, Epoch, Item, Lane, Log, Permit, Retention, Topic, TopicName, TopicSpec,
};
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::{PayloadKind, Record, VerifiedBatch};
use tracklog_server::offline;

use super::{Figure, Run, raw};
use crate::failure::Failure;

pub(super) const RECORD_BYTES: usize = 256;
pub(super) const BATCH_RECORDS: usize = 1_000;
/// Lanes that a load is spread over: a source alone may have half the budget.
const LANES: u8 = 8;
const RAW_SERIAL: &str = "serial pwrite + fdatasync of as much";
const RAW_PAGE: &str = "serial pwrite + fdatasync of a page an event";

/// What is appended, by how many.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    partitions: u32,
    producers: usize,
    /// Records in a batch; one is an event that the log gathers with others.
    records: usize,
}

const CASES: [Case; 5] = [
    Case { name: "1,000 × 256 B, 8 producers", partitions: 16, producers: 8, records: 1_000 },
    Case { name: "the same, 1,024 partitions", partitions: 1_024, producers: 8, records: 1_000 },
    Case { name: "1,000 × 256 B, 1 producer", partitions: 16, producers: 1, records: 1_000 },
    Case { name: "100 × 256 B, 64 producers", partitions: 16, producers: 64, records: 100 },
    Case { name: "single events, 1,000 callers", partitions: 16, producers: 1_000, records: 1 },
];

pub(super) async fn measure(run: &Run) -> Result<Vec<Figure>, Failure> {
    let scratch = run.scratch()?;
    let mut figures = Vec::new();
    for case in CASES {
        let folder = scratch.path().join("log");
        let opened = offline::make(&folder, &run.journal()).await?;
        let bench = Bench::new(opened.log(), case).await?;
        let (rate, latencies) = bench.run(run.time()).await?;
        opened.close().await;
        std::fs::remove_dir_all(&folder).map_err(Failure::could_not_run)?;
        let bytes = if case.records == 1 { 4_096 } else { case.records * RECORD_BYTES };
        let (path, time) = (scratch.path().to_owned(), run.time());
        let writes = tokio::task::spawn_blocking(move || raw::durable_writes(&path, bytes, time));
        let writes = writes.await.map_err(Failure::could_not_run)?;
        let raw = writes.map_err(Failure::could_not_run)? * case.records as f64;
        let raw_is = if case.records == 1 { RAW_PAGE } else { RAW_SERIAL };
        let figure = Figure::new(case.name, "events/s", rate);
        figures.push(figure.latencies(&latencies).beside(raw, raw_is));
    }
    Ok(figures)
}

/// A topic to fill.
pub(super) async fn topic(log: &dyn Log, partitions: u32) -> Result<(Epoch, Topic), Failure> {
    let epoch = log.open(Domain::WHOLE).await.map_err(Failure::could_not_run)?;
    let name = TopicName::new("bench").map_err(Failure::could_not_run)?;
    let spec = TopicSpec { name, partitions, retention: Retention::Keep };
    Ok((epoch, log.create_topic(spec).await.map_err(Failure::could_not_run)?))
}

/// A batch of opaque records, built as a producer does: copied and hashed.
pub(super) fn batch(records: usize, fill: u8) -> VerifiedBatch {
    let record = [fill; RECORD_BYTES];
    let mut builder = BatchBuilder::new(PayloadKind::Opaque);
    (0..records).for_each(|_| builder.push(Record::opaque(&record)));
    builder.finish()
}

/// Room for an append; waits where there is none.
pub(super) async fn reserve(log: &dyn Log, lane: u8, bytes: usize) -> Permit {
    loop {
        match log.reserve(Lane(Lane::FIRST_SOURCE.0 + lane % LANES), bytes) {
            Ok(permit) => return permit,
            Err(Busy { .. }) => tokio::task::yield_now().await,
        }
    }
}

struct Bench {
    log: Arc<dyn Log>,
    epoch: Epoch,
    topic: Topic,
    case: Case,
    stop: AtomicBool,
    appended: AtomicU64,
}

impl Bench {
    async fn new(log: Arc<dyn Log>, case: Case) -> Result<Arc<Self>, Failure> {
        let (epoch, topic) = topic(&*log, case.partitions).await?;
        let (stop, appended) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Arc::new(Self { log, epoch, topic, case, stop, appended }))
    }

    /// Events a second, and how long an append took to be acked.
    async fn run(self: &Arc<Self>, time: Duration) -> Result<(f64, Histogram<u64>), Failure> {
        let mut producers = JoinSet::new();
        for number in 0..self.case.producers {
            let bench = Arc::clone(self);
            producers.spawn(async move { bench.produce(number).await });
        }
        // The first moments open buffers and fill caches.
        tokio::time::sleep(time / 5).await;
        let (before, began) = (self.appended.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(time).await;
        let appended = self.appended.load(Ordering::Relaxed) - before;
        let seconds = began.elapsed().as_secs_f64();
        self.stop.store(true, Ordering::Relaxed);
        let mut all = latencies();
        while let Some(produced) = producers.join_next().await {
            let produced = produced.map_err(Failure::could_not_run)??;
            all.add(produced).map_err(Failure::could_not_run)?;
        }
        Ok((appended as f64 / seconds, all))
    }

    async fn produce(&self, number: usize) -> Result<Histogram<u64>, Failure> {
        let mut taken = latencies();
        let mut turn = number;
        let single = [7; RECORD_BYTES];
        while !self.stop.load(Ordering::Relaxed) {
            let at = u32::try_from(turn % self.case.partitions as usize).unwrap_or_default();
            let partition = self.topic.partition(at);
            turn += self.case.producers.max(1);
            let began = Instant::now();
            let lane = u8::try_from(number % usize::from(LANES)).unwrap_or_default();
            let built = (self.case.records > 1).then(|| batch(self.case.records, lane));
            let bytes = built.as_ref().map_or(RECORD_BYTES, |batch| batch.view().bytes().len());
            let item = match &built {
                Some(batch) => Item::Batch { partition, batch },
                None => Item::Record { partition, record: Record::opaque(&single) },
            };
            let permit = reserve(&*self.log, lane, bytes + 128).await;
            let append = Append { conditions: &[], items: &[item] };
            let ticket = self.log.append(permit, self.epoch, append);
            ticket.await.map_err(Failure::could_not_run)?;
            self.appended.fetch_add(self.case.records as u64, Ordering::Relaxed);
            taken.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
        }
        Ok(taken)
    }
}

/// Micros, up to a minute, to three digits.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are good ones")
}
