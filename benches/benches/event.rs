//! Events: building them, reading them in place, letting foreign bytes in.
#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use tracklog_benches::{pace, samples};
use tracklog_protocol::event::{
    self, EnrichedParts, EventBuilder, EventParts, EventView, Property,
};

fn main() {
    let mut criterion = pace::computing();
    build(&mut criterion);
    enrich(&mut criterion);
    read(&mut criterion);
    criterion.final_summary();
}

fn build(criterion: &mut Criterion) {
    let index = samples::property_index();
    let samples = [
        ("12 fields", samples::twelve_fields()),
        ("780 bytes of JSON, with index", samples::segment_like(&index)),
    ];
    let mut group = criterion.benchmark_group("event/build");
    group.throughput(Throughput::Elements(1));
    for (name, parts) in samples {
        let mut builder = EventBuilder::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| builder.build(black_box(&parts)).bytes().len());
        });
    }
}

/// What it takes to build an event anew, without and with all that enrichment finds out.
fn enrich(criterion: &mut Criterion) {
    let index = samples::property_index();
    let mut builder = EventBuilder::new();
    let event = EventView::of(builder.build(&samples::segment_like(&index))).expect("an event");
    let mut group = criterion.benchmark_group("event/enrich");
    group.throughput(Throughput::Elements(1));
    for (name, found) in
        [("nothing found", EnrichedParts::default()), ("all found", samples::enriched())]
    {
        let mut builder = EventBuilder::new();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                builder.build_enriched(black_box(&event), black_box(&found)).bytes().len()
            });
        });
    }
}

fn read(criterion: &mut Criterion) {
    let index = samples::property_index();
    let mut builder = EventBuilder::new();
    let record = builder.build(&samples::segment_like(&index));
    let mut plain_builder = EventBuilder::new();
    let unindexed = EventParts { property_index: &[], ..samples::segment_like(&index) };
    let unindexed = plain_builder.build(&unindexed);
    let mut group = criterion.benchmark_group("event/read");
    group.throughput(Throughput::Elements(1));
    group.bench_function("view", |bencher| {
        bencher.iter(|| EventView::of(black_box(record)).is_some());
    });
    group.bench_function("view and 12 fields", |bencher| {
        bencher.iter(|| twelve_fields(EventView::of(black_box(record)).expect("an event")));
    });
    for (name, record) in [("price by index", record), ("price without index", unindexed)] {
        let event = EventView::of(record).expect("an event");
        group.bench_function(name, |bencher| bencher.iter(|| price(black_box(&event))));
    }
    group.bench_function("verify", |bencher| {
        bencher.iter(|| event::verify(black_box(record.bytes())).is_ok());
    });
}

/// Touches twelve fields, so that none is left out.
fn twelve_fields(event: EventView<'_>) -> usize {
    let texts = [
        Some(event.message_id()),
        event.name(),
        event.source(),
        event.anonymous_id(),
        event.user_id(),
        event.client_time_text(),
        event.properties(),
        event.context(),
    ];
    let texts: usize = texts.into_iter().flatten().map(str::len).sum();
    let times = event.event_time().0 ^ event.received_time().0;
    texts ^ times.cast_unsigned() as usize ^ event.kind() as usize ^ event.flags().bits() as usize
}

fn price(event: &EventView<'_>) -> f64 {
    let Some(Property::Number(price)) = event.property("price") else {
        panic!("the sample has a price")
    };
    price.as_f64().expect("and it is a number")
}
