//! Durable appends, in process.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;
use tracklog_log::dedupe::{WINDOW, resolve};
use tracklog_log::{
    Append, AppendError, Busy, Domain, Epoch, Item, Lane, Log, Permit, Retention, Topic, TopicName,
    TopicSpec, block_on,
};
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::event::{EventBuilder, EventParts};
use tracklog_protocol::{PayloadKind, Record, TimeMicros, VerifiedBatch};
use tracklog_server::config::JournalSettings;
use tracklog_server::offline::{self, Changing};
use tracklog_server::topics::RAW;

use super::raw::{RawDisk, Written, micros};
use super::{Figure, Run, open_loop};
use crate::failure::Failure;

pub(super) const RECORD_BYTES: usize = 256;
pub(super) const BATCH_RECORDS: usize = 1_000;
/// Lanes that a load is spread over: a source alone may have half the budget.
const LANES: u8 = 8;
/// No more commits are ever on their way to the disk.
const IN_FLIGHT_MAX: usize = 4;
const PAGE_BYTES: usize = 4_096;
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
    content: Content,
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Bytes,
    /// An event with an id of its own, in a topic that keeps whatever comes.
    Event,
    /// The same in a topic that stores each once.
    EventOnce,
}

const BYTES: Content = Content::Bytes;

const CASES: [Case; 7] = [
    Case {
        name: "1,000 × 256 B, 1 producer",
        partitions: 16,
        producers: 1,
        records: 1_000,
        content: BYTES,
    },
    Case {
        name: "1,000 × 256 B, 8 producers",
        partitions: 16,
        producers: 8,
        records: 1_000,
        content: BYTES,
    },
    Case {
        name: "1,000 × 256 B, 16 producers",
        partitions: 16,
        producers: 16,
        records: 1_000,
        content: BYTES,
    },
    Case {
        name: "8 producers, 1,024 partitions",
        partitions: 1_024,
        producers: 8,
        records: 1_000,
        content: BYTES,
    },
    Case {
        name: "100 × 256 B, 64 producers",
        partitions: 16,
        producers: 64,
        records: 100,
        content: BYTES,
    },
    Case {
        name: "events, 1,000 callers",
        partitions: 1,
        producers: 1_000,
        records: 1,
        content: BYTES,
    },
    Case {
        name: "the same, 1,024 partitions",
        partitions: 1_024,
        producers: 1_000,
        records: 1,
        content: BYTES,
    },
];
/// Events whose ids are known again, beside events whose ids are not.
const ONCE: Case = Case {
    name: "events, each stored once",
    partitions: 1_024,
    producers: 1_000,
    records: 1,
    content: Content::EventOnce,
};
const FEW_CALLERS: Case =
    Case { name: "events, 8 callers", partitions: 16, producers: 8, records: 1, content: BYTES };
/// 25 KiB a commit: one in six hundred meets the end of a segment of 16 MiB.
const ROLLING: Case = Case {
    name: "100 × 256 B, 16 MiB segments",
    partitions: 1,
    producers: 1,
    records: 100,
    content: BYTES,
};
/// How often what is compared takes turns, each a part of the time: disks have moods of some seconds.
const TURNS: u32 = 5;
const ROLLING_SLOT_BYTES: u64 = 16 << 20;
const ROLLING_BYTES_MAX: u64 = 256 << 20;

pub(super) async fn measure(run: &Run) -> Result<Vec<Figure>, Failure> {
    let scratch = run.scratch()?;
    let disk = RawDisk::make(scratch.path()).map_err(Failure::could_not_run)?;
    let bench = Bench { run, disk: Arc::new(disk) };
    let mut figures = Vec::new();
    let settings = JournalSettings { dedupe_window: Some(WINDOW), ..run.journal() };
    let log = Filled::make(&scratch.path().join("log"), &settings).await?;
    for case in CASES.iter().filter(|case| run.wants(case.name)) {
        figures.push(bench.rate(&log, *case).await?);
    }
    if run.wants(ONCE.name) {
        figures.push(bench.once(&log).await?);
    }
    if run.wants(FEW_CALLERS.name) {
        figures.push(bench.few_callers(&log).await?);
    }
    if run.wants(open_loop::NAME) {
        figures.push(open_loop::measure(log.opened.log(), run.time()).await?);
    }
    log.remove().await?;
    if run.wants(ROLLING.name) {
        figures.push(bench.rolling(&scratch.path().join("rolling")).await?);
    }
    Ok(figures)
}

/// A log that has gone round in its space once, so that it writes into recycled slots.
struct Filled {
    opened: Changing,
    folder: PathBuf,
}

impl Filled {
    async fn make(folder: &Path, settings: &JournalSettings) -> Result<Self, Failure> {
        let opened = offline::make(folder, settings).await?;
        let filled = Self { opened, folder: folder.to_owned() };
        let bytes = settings.bytes_max.expect("a bench has a limit");
        let case =
            Case { name: "", partitions: 16, producers: 8, records: BATCH_RECORDS, content: BYTES };
        let load = Load::start(filled.opened.log(), case).await?;
        while filled.opened.written().bytes < bytes + bytes / 8 && !load.has_ended() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        load.end().await?;
        Ok(filled)
    }

    async fn remove(self) -> Result<(), Failure> {
        self.opened.close().await;
        std::fs::remove_dir_all(&self.folder).map_err(Failure::could_not_run)
    }
}

struct Bench<'a> {
    run: &'a Run,
    disk: Arc<RawDisk>,
}

/// What a case came to, in all its turns.
struct Taken {
    events: u64,
    time: Duration,
    cpu: Duration,
    latencies: Histogram<u64>,
    commits: u64,
    commits_bytes: u64,
}

impl Taken {
    fn nothing() -> Self {
        Self {
            events: 0,
            time: Duration::ZERO,
            cpu: Duration::ZERO,
            latencies: latencies(),
            commits: 0,
            commits_bytes: 0,
        }
    }

    fn add(&mut self, turn: &Self) {
        self.events += turn.events;
        self.time += turn.time;
        self.cpu += turn.cpu;
        self.latencies.add(&turn.latencies).expect("the bounds are the same");
        self.commits += turn.commits;
        self.commits_bytes += turn.commits_bytes;
    }

    fn events_per_second(&self) -> f64 {
        self.events as f64 / self.time.as_secs_f64()
    }

    fn cpu_nanos_per_event(&self) -> u64 {
        let nanos = self.cpu.as_nanos() / u128::from(self.events.max(1));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// Of a commit on average, in whole pages.
    fn commit_bytes(&self) -> usize {
        let bytes = self.commits_bytes / self.commits.max(1);
        usize::try_from(bytes.max(1)).unwrap_or(usize::MAX).next_multiple_of(PAGE_BYTES)
    }

    fn events_per_commit(&self) -> f64 {
        self.events as f64 / self.commits.max(1) as f64
    }
}

impl Bench<'_> {
    /// Events a second, beside both raw writers.
    async fn rate(&self, log: &Filled, case: Case) -> Result<Figure, Failure> {
        let (bytes, events) = match case.records {
            1 => (PAGE_BYTES, 1),
            records => (records * RECORD_BYTES, records),
        };
        let (time, writers) = (self.turn(), case.producers.min(IN_FLIGHT_MAX));
        let (mut taken, mut serial, mut bare) =
            (Taken::nothing(), Written::nothing(), Written::nothing());
        for _ in 0..TURNS {
            taken.add(&self.take(log, case).await?);
            serial.add(&self.raw(move |disk| disk.serial(bytes, time)).await?);
            bare.add(&self.bare(taken.commit_bytes(), writers).await?);
        }
        let mut figure = Figure::new(case.name, "events/s", taken.events_per_second())
            .latencies(&taken.latencies)
            .beside(
                serial.writes_per_second() * events as f64,
                if case.records == 1 { RAW_PAGE } else { RAW_SERIAL },
            )
            .beside(
                bare.writes_per_second() * taken.events_per_commit(),
                bare_is(&bare, taken.commit_bytes(), writers),
            );
        figure.cpu_nanos_per_event = Some(taken.cpu_nanos_per_event());
        Ok(figure)
    }

    /// Events a second where each is stored once, beside where none is known.
    async fn once(&self, log: &Filled) -> Result<Figure, Failure> {
        let many = Case { content: Content::Event, ..ONCE };
        let (mut once, mut kept) = (Taken::nothing(), Taken::nothing());
        for _ in 0..TURNS {
            kept.add(&self.take(log, many).await?);
            once.add(&self.take(log, ONCE).await?);
        }
        let is = format!("each kept, {} ns of CPU an event", kept.cpu_nanos_per_event());
        let mut figure = Figure::new(ONCE.name, "events/s", once.events_per_second())
            .latencies(&once.latencies)
            .beside(kept.events_per_second(), is);
        figure.cpu_nanos_per_event = Some(once.cpu_nanos_per_event());
        Ok(figure)
    }

    /// How long a few callers wait, beside one bare write of a page.
    async fn few_callers(&self, log: &Filled) -> Result<Figure, Failure> {
        let (mut taken, mut bare) = (Taken::nothing(), Written::nothing());
        for _ in 0..TURNS {
            taken.add(&self.take(log, FEW_CALLERS).await?);
            bare.add(&self.bare(PAGE_BYTES, 1).await?);
        }
        let waits = Waits { case: FEW_CALLERS.name, unit: "µs, p50", name: "p50", quantile: 0.5 };
        Ok(waits.figure(&taken, &bare, PAGE_BYTES))
    }

    /// The slowest appends while segments end, beside the slowest bare writes.
    async fn rolling(&self, folder: &Path) -> Result<Figure, Failure> {
        let settings = JournalSettings {
            slot_bytes: Some(ROLLING_SLOT_BYTES),
            bytes_max: Some(ROLLING_BYTES_MAX),
            ..self.run.journal()
        };
        let log = Filled::make(folder, &settings).await?;
        let (mut taken, mut bare) = (Taken::nothing(), Written::nothing());
        for _ in 0..TURNS {
            taken.add(&self.take(&log, ROLLING).await?);
            bare.add(&self.bare(taken.commit_bytes(), 1).await?);
        }
        log.remove().await?;
        let waits =
            Waits { case: ROLLING.name, unit: "µs, p99.9", name: "p99.9", quantile: 0.999 };
        Ok(waits.figure(&taken, &bare, taken.commit_bytes()))
    }

    /// How long one turn is.
    fn turn(&self) -> Duration {
        self.run.time() / TURNS
    }

    /// One turn of a case.
    async fn take(&self, log: &Filled, case: Case) -> Result<Taken, Failure> {
        let time = self.turn();
        let load = Load::start(log.opened.log(), case).await?;
        // The first moments open buffers and fill caches.
        tokio::time::sleep(time / 5).await;
        let now = || (load.appended(), log.opened.written(), cpu_time(), Instant::now());
        let before = now();
        load.recording(true);
        tokio::time::sleep(time).await;
        load.recording(false);
        let after = now();
        Ok(Taken {
            events: after.0 - before.0,
            time: after.3 - before.3,
            cpu: after.2 - before.2,
            latencies: load.end().await?,
            commits: after.1.commits - before.1.commits,
            commits_bytes: after.1.bytes - before.1.bytes,
        })
    }

    async fn bare(&self, bytes: usize, writers: usize) -> Result<Written, Failure> {
        let time = self.turn();
        self.raw(move |disk| disk.bare(bytes, writers, time)).await
    }

    async fn raw<T: Send + 'static>(
        &self,
        work: impl FnOnce(&RawDisk) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let disk = Arc::clone(&self.disk);
        let done = tokio::task::spawn_blocking(move || work(&disk)).await;
        done.map_err(Failure::could_not_run)?.map_err(Failure::could_not_run)
    }
}

/// A figure of how long was waited for an ack.
struct Waits {
    case: &'static str,
    unit: &'static str,
    /// What the quantile is called.
    name: &'static str,
    quantile: f64,
}

impl Waits {
    fn figure(&self, taken: &Taken, bare: &Written, bytes: usize) -> Figure {
        let value = taken.latencies.value_at_quantile(self.quantile) as f64;
        let raw = bare.latencies.value_at_quantile(self.quantile) as f64;
        Figure::new(self.case, self.unit, value)
            .latencies(&taken.latencies)
            .beside(raw, format!("{}, {}", bare_is(bare, bytes, 1), self.name))
    }
}

fn bare_is(bare: &Written, bytes: usize, writers: usize) -> String {
    let how = if bare.direct { "bare" } else { "bare, no O_DIRECT here," };
    let writers = if writers == 1 { "1 writer".to_owned() } else { format!("{writers} writers") };
    format!("{how} {writers} of {} KiB", bytes >> 10)
}

/// What all threads of this process have used.
pub(super) fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), nanos)
}

/// A topic to fill.
pub(super) async fn topic(log: &dyn Log, partitions: u32) -> Result<(Epoch, Topic), Failure> {
    named(log, &format!("bench-{partitions}"), partitions).await
}

async fn named(log: &dyn Log, name: &str, partitions: u32) -> Result<(Epoch, Topic), Failure> {
    let epoch = log.open(Domain::WHOLE).await.map_err(Failure::could_not_run)?;
    let name = TopicName::new(name).map_err(Failure::could_not_run)?;
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

/// Producers that append until they are stopped.
struct Load {
    shared: Arc<Shared>,
    producers: JoinSet<Result<(), Failure>>,
}

struct Shared {
    log: Arc<dyn Log>,
    epoch: Epoch,
    topic: Topic,
    case: Case,
    stop: AtomicBool,
    records: AtomicBool,
    /// How long appends took to be acked, by lane: one for each of a thousand producers would not
    /// stay in any cache, and be what is measured.
    latencies: [Mutex<Histogram<u64>>; LANES as usize],
    appended: AtomicU64,
    /// Producers that go on.
    running: AtomicUsize,
}

impl Load {
    async fn start(log: Arc<dyn Log>, case: Case) -> Result<Self, Failure> {
        let (epoch, topic) = match case.content {
            Content::EventOnce => named(&*log, RAW, case.partitions).await?,
            Content::Bytes | Content::Event => topic(&*log, case.partitions).await?,
        };
        let shared = Arc::new(Shared {
            log,
            epoch,
            topic,
            case,
            stop: AtomicBool::new(false),
            records: AtomicBool::new(false),
            latencies: std::array::from_fn(|_| Mutex::new(latencies())),
            appended: AtomicU64::new(0),
            running: AtomicUsize::new(case.producers),
        });
        let mut producers = JoinSet::new();
        for number in 0..case.producers {
            let shared = Arc::clone(&shared);
            let produce = async move {
                let produced = shared.produce(number).await;
                shared.running.fetch_sub(1, Ordering::Relaxed);
                produced
            };
            // One alone has a thread to itself, as the raw writers beside it have.
            if case.producers == 1 {
                producers.spawn_blocking(move || block_on(produce));
            } else {
                producers.spawn(produce);
            }
        }
        Ok(Self { shared, producers })
    }

    /// Events appended so far.
    fn appended(&self) -> u64 {
        self.shared.appended.load(Ordering::Relaxed)
    }

    /// Whether no producer goes on: each has failed.
    fn has_ended(&self) -> bool {
        self.shared.running.load(Ordering::Relaxed) == 0
    }

    /// Whether latencies are kept from now on.
    fn recording(&self, records: bool) {
        self.shared.records.store(records, Ordering::Relaxed);
    }

    /// Stops the producers. How long their appends took to be acked.
    async fn end(mut self) -> Result<Histogram<u64>, Failure> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(produced) = self.producers.join_next().await {
            produced.map_err(Failure::could_not_run)??;
        }
        let mut all = latencies();
        for of_lane in &self.shared.latencies {
            let of_lane = of_lane.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(&*of_lane).expect("the bounds are the same");
        }
        Ok(all)
    }
}

impl Shared {
    async fn produce(&self, number: usize) -> Result<(), Failure> {
        let mut turn = number;
        let mut single = Single::new(number, self.case.content);
        let lane = u8::try_from(number % usize::from(LANES)).unwrap_or_default();
        let taken = &self.latencies[usize::from(lane)];
        while !self.stop.load(Ordering::Relaxed) {
            let at = u32::try_from(turn % self.case.partitions as usize).unwrap_or_default();
            let partition = self.topic.partition(at);
            turn += self.case.producers.max(1);
            let began = Instant::now();
            let built = (self.case.records > 1).then(|| batch(self.case.records, lane));
            let bytes = built.as_ref().map_or(RECORD_BYTES, |batch| batch.view().bytes().len());
            let item = match &built {
                Some(batch) => Item::Batch { partition, batch },
                None => Item::Record { partition, record: single.next() },
            };
            let permit = reserve(&*self.log, lane, bytes + 128).await;
            let append = Append { conditions: &[], items: &[item] };
            let of_lane = permit.lane();
            let stored = if self.case.producers == 1 {
                self.log.append_blocking(permit, self.epoch, append)
            } else {
                self.log.append(permit, self.epoch, append).await
            };
            match stored {
                // Of millions of ids two share what is kept of their hashes.
                Err(AppendError::Seen(seen)) => {
                    let resolved = resolve(&*self.log, of_lane, self.epoch, append, seen).await;
                    resolved.map_err(Failure::could_not_run).map(drop)?;
                }
                stored => stored.map_err(Failure::could_not_run).map(drop)?,
            }
            self.appended.fetch_add(self.case.records as u64, Ordering::Relaxed);
            if self.records.load(Ordering::Relaxed) {
                let took = micros(began.elapsed());
                taken.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(took);
            }
        }
        Ok(())
    }
}

/// What a producer of single records appends, one after the other.
struct Single {
    content: Content,
    producer: usize,
    number: u64,
    builder: EventBuilder,
    properties: String,
}

impl Single {
    fn new(producer: usize, content: Content) -> Self {
        let properties = format!("{{\"p\":\"{}\"}}", "x".repeat(24));
        let builder = EventBuilder::new();
        Self { content, producer, number: epoch_micros(), builder, properties }
    }

    fn next(&mut self) -> Record<'_> {
        if self.content == Content::Bytes {
            return Record::opaque(&[7; RECORD_BYTES]);
        }
        self.number += 1;
        let id = format!("ajs-next-{}-{}", self.number, self.producer);
        self.builder.build(&EventParts {
            message_id: &id,
            source: Some("web"),
            name: Some("Tried"),
            event_time: TimeMicros(1),
            properties: Some(&self.properties),
            ..EventParts::default()
        })
    }
}

/// No run uses the ids of another.
fn epoch_micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or_default()
}

/// Micros, up to a minute, to three digits.
pub(super) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are good ones")
}
