//! What the gateway does to a body, step by step: find its events and check their bytes; map them
//! and build their records; hold them against the example schema.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Throughput};
use tracklog_benches::{pace, samples, workload};
use tracklog_ingest_gateway::intake::{Door, Intake, NoSchemas, RequestFacts, Validate};
use tracklog_ingest_gateway::scan::ScanLimits;
use tracklog_ingest_gateway::source::SourceRules;
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::meta::MetaTopic;
use tracklog_log::{Domain, Log as _, TopicName};
use tracklog_protocol::event::EventKind;
use tracklog_registry::{Limits, Registry, Verdict};

fn main() {
    let mut criterion = pace::computing();
    let registry = registry();
    let single =
        Body { door: Door::Single(EventKind::Track), text: samples::event_json(), events: 1 };
    let batch = Body { door: Door::Batch, text: samples::batch_json(50), events: 50 };
    for (name, body) in [("1 event of 780 bytes", single), ("50 events of 780 bytes", batch)] {
        let mut group = criterion.benchmark_group(format!("gateway/{name}"));
        group.throughput(Throughput::Elements(body.events as u64));
        body.measure(&mut group, &registry);
    }
    criterion.final_summary();
}

struct Body {
    door: Door,
    text: String,
    events: usize,
}

impl Body {
    fn measure(&self, group: &mut BenchmarkGroup<'_, WallTime>, registry: &Registry) {
        let mut intake = Intake::new();
        group.bench_function("scan", |bencher| bencher.iter(|| self.scan(&mut intake)));
        group.bench_function("scan, check", |bencher| {
            bencher.iter(|| {
                let events = self.scan(&mut intake);
                for _ in 0..events {
                    check(registry);
                }
            });
        });
        group.bench_function("scan, map, build", |bencher| {
            bencher.iter(|| self.judge(&mut intake, &NoSchemas));
        });
        group.bench_function("scan, map, check, build", |bencher| {
            bencher.iter(|| self.judge(&mut intake, registry));
        });
    }

    fn scan(&self, intake: &mut Intake) -> usize {
        let body = black_box(self.text.as_bytes());
        let submission = intake.scan(body, self.door, &ScanLimits::default());
        submission.expect("the sample can be read").event_count()
    }

    fn judge(&self, intake: &mut Intake, schemas: &dyn Validate) {
        let address = Some(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)));
        let request = RequestFacts {
            received: samples::RECEIVED_TIME,
            peer: address,
            client: address,
            user_agent: Some("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0"),
            headers: &[("accept-language", "de")],
        };
        let source = SourceRules::named("shop");
        let body = black_box(self.text.as_bytes());
        let submission = intake.scan(body, self.door, &ScanLimits::default());
        let submission = submission.expect("the sample can be read");
        let judged = submission.judge(&source, &request, schemas, &mut |id| id.fill(7));
        let judged = judged.expect("the sample is small");
        assert!(judged.len() == self.events && judged.rejected_count() == 0, "the sample is good");
        intake.recycle(judged);
    }
}

fn check(registry: &Registry) {
    let verdict = registry.validate(samples::EVENT_NAME, None, black_box(samples::PROPERTIES));
    assert!(matches!(verdict, Verdict::Valid { .. }), "the sample fits the schema");
}

/// A registry with the example schema, over a log in memory.
fn registry() -> Registry {
    let runtime = workload::runtime();
    runtime.block_on(async {
        let clock = Arc::new(|| samples::RECEIVED_TIME);
        let options = MemoryOptions { clock, budget_bytes: 64 << 20 };
        let log = Arc::new(MemoryLog::new(options));
        let epoch = log.open(Domain::WHOLE).await.expect("a log in memory opens");
        let name = TopicName::new("_schemas").expect("a topic's name");
        let meta = MetaTopic::open(log, epoch, name).await.expect("a new topic");
        let registry = Registry::open(Arc::new(meta), Limits::default()).await;
        let registry = registry.expect("an empty registry");
        let schema = Bytes::from_static(samples::EVENT_SCHEMA.as_bytes());
        registry.put(samples::EVENT_NAME, schema).await.expect("the example schema is good");
        registry
    })
}
