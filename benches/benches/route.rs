//! Routing: what it costs to find where an event goes.
//!
//! By how many rules there are that cannot match, which must not matter; by what a rule that can
//! match asks; and what an event with fewer fields costs.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::hint::black_box;

use criterion::Throughput;
use tracklog_benches::pace;
use tracklog_pipeline::route::{RouteTable, Rules};
use tracklog_protocol::event::{EventBuilder, EventParts, EventView, Fields};

const PROPERTIES: &str = r#"{"order_id":"o-48151623","total":129.90,"currency":"EUR","coupon":null,
"products":[{"sku":"p-1","price":29.95,"n":2},{"sku":"p-7","price":70.00,"n":1}],"gift":false,
"shipping":{"method":"express","country":"DE"}}"#;
const CONTEXT: &str = r#"{"ip":"203.0.113.9","locale":"de-DE","app":{"name":"Shop","version":"4.1"},
"screen":{"width":1170,"height":2532},"timezone":"Europe/Berlin"}"#;

fn main() {
    let mut criterion = pace::computing();
    let index: Vec<_> = Fields::of(PROPERTIES).map_while(Result::ok).collect();
    let parts = EventParts {
        message_id: "a2f3c7de-0b1c-4d2e-9f30-415263748596",
        name: Some("Order Completed"),
        source: Some("web"),
        anonymous_id: Some("507f191e-810c-4172-9de8-60ea00000001"),
        user_id: Some("user-7"),
        properties: Some(PROPERTIES),
        property_index: &index,
        context: Some(CONTEXT),
        ..EventParts::default()
    };
    let mut builder = EventBuilder::new();
    let record = builder.build(&parts);
    let event = EventView::of(record).expect("it is an event");

    let mut group = criterion.benchmark_group("route");
    group.throughput(Throughput::Elements(1));
    for others in [0, 10, 100, 1_000] {
        let table = table(others, "");
        group.bench_function(format!("one rule takes it, {others} cannot"), |bencher| {
            bencher.iter(|| {
                let mut count = 0;
                table.each(black_box(&event), |_, _| count += 1);
                count
            });
        });
    }
    for (name, asks) in [
        ("where a name is", "where = 'event == \"Order Completed\"'"),
        (
            "where a property is",
            "where = 'properties.total >= 100 and properties.currency == \"EUR\"'",
        ),
        ("where a nested field is", "where = 'context.app.version like \"4.*\"'"),
        ("sampled", "sample = 1.0"),
    ] {
        let table = table(100, asks);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut count = 0;
                table.each(black_box(&event), |_, _| count += 1);
                assert!(count == 1, "the rule takes it");
                count
            });
        });
    }
    let table = table(0, "drop = [\"properties.products\", \"context.ip\"]");
    let mut second = EventBuilder::new();
    group.bench_function("fewer fields", |bencher| {
        bencher.iter(|| {
            let mut bytes = 0;
            table.each(black_box(&event), |_, taken| {
                bytes += taken.projected(&event, record, &mut second).bytes().len();
            });
            bytes
        });
    });
    group.finish();
    criterion.final_summary();
}

/// A rule that is about the event, and `others` that are about others.
fn table(others: usize, asks: &str) -> RouteTable {
    let mut text = "[destinations.t]\ntype = \"topic\"\n".to_owned();
    for nth in 0..others {
        let event = if nth % 2 == 0 { format!("Other {nth}") } else { format!("Other {nth} *") };
        writeln!(text, "[[rules]]\nname = \"{nth}\"\nevent = \"{event}\"\nto = [\"t\"]")
            .expect("a string takes all text");
    }
    writeln!(text, "[[rules]]\nname = \"it\"\nevent = \"Order *\"\nto = [\"t\"]\n{asks}")
        .expect("a string takes all text");
    RouteTable::new(Rules::parse(&text).expect("a good file"))
}
