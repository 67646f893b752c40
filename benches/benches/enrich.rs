//! What enrichment costs an event: each enricher alone, and the stage with one or all of them.
//!
//! The traffic is `traffic`'s: everybody is known, and what is known lies in a store on disk, with the
//! usual memory before it. Events come in batches, as the stage reads them. "known" is with a warm
//! cache; "new" is an agent's first event.
//!
//! The stage is measured over batches that were read from a log in memory; "with the log" puts
//! what comes of them there as well. All on one thread.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use tracklog_benches::{pace, traffic};
use tracklog_log::conformance::block_on;
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::{
    Append, Domain, Epoch, Fetch, FetchMode, Item, Lane, Log, Retention, Topic, TopicName,
    TopicSpec,
};
use tracklog_pipeline::enrich::device::{Device, DeviceOptions};
use tracklog_pipeline::enrich::identity::Identity;
use tracklog_pipeline::enrich::page::Page;
use tracklog_pipeline::enrich::profile::Profile;
use tracklog_pipeline::enrich::session::Session;
use tracklog_pipeline::enrich::stage::{EnrichStage, FailedLookup};
use tracklog_pipeline::enrich::{Enricher, Enrichment};
use tracklog_pipeline::stage::{Outputs, SourceBatch, Stage};
use tracklog_pipeline::state::{self, DiskStore, DiskStoreOptions, State, StateOptions};
use tracklog_protocol::event::EventView;
use tracklog_protocol::{Offset, PartitionId, Record, Records, TimeMicros};

/// How many events the stage reads at once when it lags a little.
const BATCH: usize = 250;
/// Of the log in memory.
const BUDGET_BYTES: usize = 1 << 30;

fn main() {
    let mut criterion = pace::computing();
    let folder = tempfile::tempdir().expect("a folder");
    let bench = Bench::new(folder.path());
    bench.measure_enrichers(&mut criterion);
    bench.measure_stage(&mut criterion);
    criterion.final_summary();
}

type Named = (&'static str, Vec<Arc<dyn Enricher>>);

/// A log in memory with the traffic, and the state after everybody was introduced.
struct Bench {
    log: Arc<MemoryLog>,
    epoch: Epoch,
    state: Arc<State<MemoryLog>>,
    enriched: Topic,
    batches: Vec<SourceBatch>,
    cases: Vec<Named>,
}

impl Bench {
    fn new(folder: &Path) -> Self {
        let clock = Arc::new(|| TimeMicros(0));
        let log = MemoryLog::new(MemoryOptions { clock, budget_bytes: BUDGET_BYTES });
        let log = Arc::new(log);
        let epoch = block_on(log.open(Domain::WHOLE)).expect("a new log");
        let [introductions, raw] = ["introductions", "raw"].map(|name| topic(&log, name, 1));
        let enriched = topic(&log, "enriched", 16);
        fill(&log, epoch, introductions.partition(0), &traffic::introductions());
        fill(&log, epoch, raw.partition(0), &traffic::events());
        let state = Arc::new(open_state(&log, folder));
        let all = all_enrichers(folder);
        let bench = Self {
            batches: read(&log, raw.partition(0)),
            cases: cases(&all),
            log,
            epoch,
            state,
            enriched,
        };
        let stage = bench.stage(&all);
        for batch in read(&bench.log, introductions.partition(0)) {
            bench.commit(&pass(&stage, &batch));
            bench.state.flush().expect("room on the disk");
        }
        bench.forget_enriched();
        bench.state.flush_all().expect("room on the disk");
        bench
    }

    fn stage(&self, enrichers: &[Arc<dyn Enricher>]) -> EnrichStage<MemoryLog> {
        let (state, enriched) = (Arc::clone(&self.state), self.enriched.clone());
        EnrichStage::new(enrichers.to_vec(), state, enriched, FailedLookup::Keep, || 0)
    }

    /// Appends what came of a batch.
    fn commit(&self, outputs: &Outputs) {
        let items: Vec<_> =
            outputs.iter().map(|it| Item::Record { partition: it.to, record: it.record }).collect();
        append(&self.log, self.epoch, &items, outputs.byte_count());
    }

    fn forget_enriched(&self) {
        for partition in self.enriched.partitions() {
            let end = self.log.extent(partition).expect("it is there").end;
            block_on(self.log.trim(partition, end)).expect("memory forgets");
        }
    }

    fn measure_enrichers(&self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("enricher");
        group.throughput(Throughput::Elements(BATCH as u64));
        for (name, enrichers) in &self.cases {
            self.measure(&mut group, name, |batch| look_up(&self.state, enrichers, batch));
        }
        let uncached = Device::new(DeviceOptions { cache_bytes: 0 });
        let uncached: [Arc<dyn Enricher>; 1] = [Arc::new(uncached)];
        self.measure(&mut group, "device, new agent", |batch| {
            look_up(&self.state, &uncached, batch);
        });
        group.finish();
    }

    fn measure_stage(&self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group("stage");
        group.throughput(Throughput::Elements(BATCH as u64));
        for (name, enrichers) in &self.cases {
            let stage = self.stage(enrichers);
            self.measure(&mut group, name, |batch| drop(black_box(pass(&stage, batch))));
        }
        let (_, all) = self.cases.last().expect("there are some");
        let stage = self.stage(all);
        let mut passed = 0;
        self.measure(&mut group, "all, with the log", |batch| {
            self.commit(&pass(&stage, batch));
            passed += 1;
            if passed % 64 == 0 {
                self.forget_enriched();
                self.state.flush().expect("room on the disk");
            }
        });
        group.finish();
    }

    /// Measures what `work` does with one batch after the other.
    fn measure(
        &self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        name: &str,
        mut work: impl FnMut(&SourceBatch),
    ) {
        let mut at = 0;
        let mut turn = || {
            at = (at + 1) % self.batches.len();
            work(&self.batches[at]);
        };
        // All events once, so that what is kept is there.
        (0..self.batches.len()).for_each(|_| turn());
        group.bench_function(name, |bencher| bencher.iter(&mut turn));
    }
}

/// The enrichers in their order.
fn all_enrichers(folder: &Path) -> Vec<Arc<dyn Enricher>> {
    vec![
        Arc::new(Device::new(DeviceOptions::default())),
        Arc::new(traffic::geo(folder)),
        Arc::new(Page),
        Arc::new(Identity),
        Arc::new(Profile),
        Arc::new(Session::default()),
    ]
}

/// Each alone, none, and all. Without identities a profile is that of who names himself.
fn cases(all: &[Arc<dyn Enricher>]) -> Vec<Named> {
    let mut cases: Vec<Named> = vec![("nothing: what each of the others includes", Vec::new())];
    cases.extend(all.iter().map(|it| (it.name(), vec![Arc::clone(it)])));
    cases.push(("identity and profile", vec![Arc::clone(&all[3]), Arc::clone(&all[4])]));
    cases.push(("all", all.to_vec()));
    cases
}

/// Asks enrichers of each event of `batch`, and forgets what they say.
fn look_up(state: &State<MemoryLog>, enrichers: &[Arc<dyn Enricher>], batch: &SourceBatch) {
    let mut state = block_on(state.begin(batch.source)).expect("the changelog is in memory");
    for (offset, record) in batch.records() {
        let event = EventView::of(record).expect("an event");
        let mut found = Enrichment::default();
        state.begin_event(offset);
        for enricher in enrichers {
            black_box(enricher.enrich(&event, &mut state, &mut found)).expect("it can look");
        }
        black_box((&found, state.finish_event()));
    }
}

/// Passes `batch` through `stage`.
fn pass(stage: &EnrichStage<MemoryLog>, batch: &SourceBatch) -> Outputs {
    let mut outputs = Outputs::default();
    let mut work = block_on(stage.begin(batch)).expect("the changelog is in memory");
    for (offset, record) in batch.records() {
        work.record(offset, record, &mut outputs).expect("an event");
    }
    outputs
}

fn topic(log: &MemoryLog, name: &str, partitions: u32) -> Topic {
    let name = TopicName::new(name).expect("a good name");
    let spec = TopicSpec { name, partitions, retention: Retention::Keep };
    block_on(log.create_topic(spec)).expect("a new topic")
}

fn open_state(log: &Arc<MemoryLog>, folder: &Path) -> State<MemoryLog> {
    let changelog = block_on(state::changelog(&**log)).expect("a new topic");
    let options = DiskStoreOptions {
        cache_bytes: 32 << 20,
        changelog: changelog.partition(0),
        created: changelog.created,
        changelog_end: Offset::ZERO,
    };
    let store = DiskStore::open(&folder.join("state"), options).expect("room on the disk");
    let opening = State::open(Arc::clone(log), store, StateOptions::default());
    block_on(opening).expect("a new store")
}

/// Appends `records`, in batches.
fn fill(log: &MemoryLog, epoch: Epoch, partition: PartitionId, records: &Records) {
    let items: Vec<_> = records.iter().map(|record| Item::Record { partition, record }).collect();
    for items in items.chunks(BATCH) {
        let bytes = |item: &Item<'_>| match item {
            Item::Record { record, .. } => Record::bytes(record).len(),
            _ => 0,
        };
        append(log, epoch, items, items.iter().map(bytes).sum());
    }
}

fn append(log: &MemoryLog, epoch: Epoch, items: &[Item<'_>], bytes: usize) {
    let permit = log.reserve(Lane::STAGES, bytes).expect("there is room");
    block_on(log.append(permit, epoch, Append { conditions: &[], items }))
        .expect("memory takes it");
}

/// All of a partition, in batches as they were appended.
fn read(log: &MemoryLog, source: PartitionId) -> Vec<SourceBatch> {
    let end = log.extent(source).expect("it is there").end;
    let mut batches = Vec::new();
    let mut from = Offset::ZERO;
    while from < end {
        let mode = FetchMode::Replay;
        let fetch = Fetch { from: vec![(source, from)], bytes_max: 1, wait: false, mode };
        let mut fetched = block_on(log.fetch(fetch)).expect("memory is read");
        let found = fetched.partitions.pop().expect("one was asked for");
        let next = found.next;
        batches.push(SourceBatch { source, from, next, batches: found.batches });
        from = next;
    }
    batches
}
