//! The archive: what a row costs on its way into a Parquet file and back, and what it takes there.
//!
//! The traffic is a shop's: six kinds of events with properties of their own, 100,000 visitors,
//! 5,000 agents, 2,000 products, message ids of which no two are alike, and a context that says
//! again what the envelope says. One file has what a flush has: 64 MiB of events, sixteen
//! partitions.
#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::Throughput;
use tracklog_benches::{pace, samples};
use tracklog_pipeline::archive::columns::RowPlace;
use tracklog_pipeline::archive::file::{FileWriter, OpenFile, WrittenFile};
use tracklog_pipeline::archive::properties::PropertyColumns;
use tracklog_protocol::event::{EventBuilder, EventFlags, EventParts, EventView, Fields};
use tracklog_protocol::line::{LinePlace, format_time, write_line};
use tracklog_protocol::{Offset, Records, TimeMicros};

const PARTITIONS: u32 = 16;
const FLUSH_BYTES: usize = 64 << 20;
const VISITORS: u64 = 100_000;
const AGENTS: u64 = 5_000;
const PRODUCTS: u64 = 2_000;
/// Events a second.
const RATE: u64 = 2_000;

fn main() {
    let mut criterion = pace::computing();
    let schema = PropertyColumns::of_schemas([samples::EVENT_SCHEMA.as_bytes()]);
    let cases = [
        ("raw", false, PropertyColumns::default()),
        ("raw, typed properties", false, schema),
        ("enriched", true, PropertyColumns::default()),
    ];
    let mut group = criterion.benchmark_group("archive");
    group.sample_size(10);
    for (name, enriched, columns) in cases {
        let traffic = Traffic::new(enriched);
        let file = traffic.write(&columns);
        traffic.tell_sizes(name, &file);
        group.throughput(Throughput::Elements(file.rows));
        group.bench_function(format!("write {name}"), |bencher| {
            bencher.iter(|| black_box(traffic.write(&columns)));
        });
        group.bench_function(format!("read {name}"), |bencher| {
            bencher.iter(|| {
                let open = OpenFile::open(file.bytes.clone(), &file.sha256).expect("a good file");
                let mut bytes = 0;
                let sink = |_, record: tracklog_protocol::Record<'_>| bytes += record.bytes().len();
                open.read(0..open.rows(), sink).expect("good rows");
                bytes
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

/// The events of a flush, in the order of their places.
struct Traffic {
    records: Records,
    places: Vec<RowPlace>,
    sent_bytes: usize,
}

impl Traffic {
    fn new(enriched: bool) -> Self {
        let mut traffic = Self { records: Records::new(), places: Vec::new(), sent_bytes: 0 };
        let mut random = Random(7);
        let of_partition = FLUSH_BYTES / PARTITIONS as usize;
        for partition in 0..PARTITIONS {
            let (mut bytes, mut offset) = (0, 0);
            while bytes < of_partition {
                let time = samples::EVENT_TIME.0 as u64
                    + offset * u64::from(PARTITIONS) * 1_000_000 / RATE;
                let before = traffic.records.byte_count();
                traffic.push_event(&mut random, time, enriched);
                bytes += traffic.records.byte_count() - before;
                let appended_at = TimeMicros(time as i64 + 250_000);
                traffic.places.push(RowPlace { partition, offset: Offset(offset), appended_at });
                offset += 1;
            }
        }
        traffic
    }

    fn push_event(&mut self, random: &mut Random, received: u64, enriched: bool) {
        let sample = Sample::of(random, received);
        self.sent_bytes += sample.sent_bytes();
        let index: Vec<_> =
            Fields::of(&sample.properties).collect::<Result<_, _>>().expect("an object");
        let mut builder = EventBuilder::new();
        let parts = sample.parts(&index);
        if !enriched {
            return self.records.push(builder.build(&parts));
        }
        let mut found = samples::enriched();
        found.resolved_user_id = Some(&sample.user);
        if let Some(session) = &mut found.session {
            session.id = Some(&sample.anonymous[..16]);
            session.number = (sample.visitor % 9) as u32;
        }
        if let Some(geo) = &mut found.geo {
            geo.latitude = Some((sample.visitor % 900) as f64 / 10.0);
        }
        self.records.push(builder.build(&EventParts { enriched: Some(&found), ..parts }));
    }

    fn write(&self, columns: &PropertyColumns) -> WrittenFile {
        let mut writer = FileWriter::new(columns);
        for (record, place) in self.records.iter().zip(&self.places) {
            let event = EventView::of(record).expect("records are events");
            writer.push(*place, &event, record.bytes().len());
        }
        writer.finish()
    }

    /// What a row takes: in the log, as a line of JSON, as it was sent, in the file.
    #[allow(clippy::print_stdout, reason = "sizes are a figure that criterion has no place for")]
    fn tell_sizes(&self, name: &str, file: &WrittenFile) {
        let mut lines = Vec::new();
        let mut line_bytes = 0;
        for (record, place) in self.records.iter().zip(&self.places) {
            let RowPlace { partition, offset, appended_at } = *place;
            lines.clear();
            write_line(
                &mut lines,
                LinePlace { topic: "raw", partition, offset, appended_at },
                record,
            );
            line_bytes += lines.len();
        }
        let rows = self.places.len() as f64;
        let of_row = |bytes: usize| bytes as f64 / rows;
        println!(
            "{name}: {rows} rows; a row has {:.0} B as a line, {:.0} B as sent, {:.0} B in the log, \
             {:.1} B in the file: 1/{:.1} of the line, 1/{:.1} of what was sent",
            of_row(line_bytes),
            of_row(self.sent_bytes),
            of_row(self.records.byte_count()),
            of_row(file.bytes.len()),
            line_bytes as f64 / file.bytes.len() as f64,
            self.sent_bytes as f64 / file.bytes.len() as f64,
        );
    }
}

/// All that an event borrows.
struct Sample {
    visitor: u64,
    message: String,
    name: &'static str,
    anonymous: String,
    user: String,
    agent: String,
    url: String,
    path: String,
    title: String,
    address: String,
    properties: String,
    context: String,
    event_time: TimeMicros,
    client_text: String,
    sent_text: String,
    received: TimeMicros,
}

impl Sample {
    fn of(random: &mut Random, received: u64) -> Self {
        let visitor = random.below(VISITORS);
        let product = random.below(PRODUCTS) * random.below(PRODUCTS) / PRODUCTS;
        let millis = received / 1_000 - 40 - random.below(900);
        let mut of_visitor = Random(visitor);
        let uuid = |random: &mut Random| {
            let (a, b) = (random.next(), random.next());
            format!(
                "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
                a >> 32,
                a >> 16 & 0xffff,
                a & 0xfff,
                b >> 48 & 0xfff,
                b & 0xffff_ffff_ffff
            )
        };
        let name = NAMES[random.below(100) as usize % NAMES.len()];
        let agent = agent(of_visitor.below(AGENTS));
        let path = format!("/p/{product}");
        let url = format!("https://shop.example{path}");
        let title = format!("Product number {product}");
        let price = (product * 37 % 20_000) as f64 / 100.0 + 1.0;
        let quantity = 1 + random.below(3);
        let properties = match name {
            "page.viewed" => format!(r#"{{"path":"{path}","title":"{title}","url":"{url}"}}"#),
            "search.performed" => {
                format!(
                    r#"{{"query":"mug {}","results":{}}}"#,
                    random.below(3_000),
                    random.below(90)
                )
            }
            "order.completed" => format!(
                r#"{{"order_id":"o-{}","total":{:.2},"currency":"EUR","products":[{{"product_id":"p-{product}","price":{price:.2},"quantity":{quantity}}}]}}"#,
                random.below(9_000_000),
                price * quantity as f64
            ),
            _ => format!(
                r#"{{"product_id":"p-{product}","name":"{title}","category":"{}","price":{price:.2},"currency":"EUR","quantity":{quantity},"url":"{url}"}}"#,
                ["kitchen", "garden", "office", "toys"][(product % 4) as usize]
            ),
        };
        let (width, height) = [(1920, 1080), (390, 844), (1440, 900)][(visitor % 3) as usize];
        let context = format!(
            r#"{{"library":{{"name":"analytics.js","version":"npm:next-1.84.3"}},"page":{{"path":"{path}","title":"{title}","url":"{url}","referrer":"https://search.example/"}},"userAgent":"{agent}","screen":{{"width":{width},"height":{height}}},"locale":"{}","timezone":"Europe/Berlin"}}"#,
            LOCALES[(visitor % 4) as usize]
        );
        let time = |millis: u64| {
            let text = format_time(TimeMicros((millis * 1_000) as i64));
            format!("{}Z", &text[..23])
        };
        Self {
            visitor,
            message: format!("ajs-next-{millis}-{}", uuid(random)),
            name,
            anonymous: uuid(&mut of_visitor),
            user: format!("user-{visitor}"),
            agent,
            url,
            path,
            title,
            address: format!("203.{}.{}.{}", visitor % 250, visitor / 250 % 250, visitor % 7),
            properties,
            context,
            event_time: TimeMicros((millis * 1_000) as i64 + 17),
            client_text: time(millis),
            sent_text: time(millis + 20 + random.below(30)),
            received: TimeMicros(received as i64),
        }
    }

    fn parts<'a>(&'a self, index: &'a [tracklog_protocol::event::PropertySpan]) -> EventParts<'a> {
        EventParts {
            message_id: &self.message,
            name: Some(self.name),
            anonymous_id: Some(&self.anonymous),
            user_id: self.visitor.is_multiple_of(3).then_some(&self.user),
            event_time: self.event_time,
            received_time: self.received,
            client_time: Some(TimeMicros(self.event_time.0 - 17)),
            client_time_text: Some(&self.client_text),
            sent_time_text: Some(&self.sent_text),
            flags: EventFlags::SKEW_CORRECTED,
            client_address: Some(&self.address),
            user_agent: Some(&self.agent),
            locale: Some(LOCALES[(self.visitor % 4) as usize]),
            page_url: Some(&self.url),
            page_path: Some(&self.path),
            page_referrer: Some("https://search.example/"),
            page_title: Some(&self.title),
            properties: Some(&self.properties),
            property_index: index,
            context: Some(&self.context),
            ..samples::segment_like(&[])
        }
    }

    /// The size of what the client sent for it.
    fn sent_bytes(&self) -> usize {
        let user = if self.visitor.is_multiple_of(3) { self.user.len() + 11 } else { 0 };
        format!(
            r#"{{"type":"track","event":"{}","messageId":"{}","anonymousId":"{}","timestamp":"{}","properties":{},"context":{},"integrations":{{}}}}"#,
            self.name, self.message, self.anonymous, self.client_text, self.properties, self.context
        )
        .len()
            + user
    }
}

/// Weighted by how often they stand here.
const NAMES: [&str; 10] = [
    "page.viewed",
    "page.viewed",
    "page.viewed",
    "product.viewed",
    "product.viewed",
    "product.viewed",
    "product.added",
    "search.performed",
    "checkout.started",
    "order.completed",
];
const LOCALES: [&str; 4] = ["de-DE", "en-US", "fr-FR", "de-AT"];

fn agent(n: u64) -> String {
    let (major, build) = (90 + n % 41, n / 10);
    match n % 5 {
        0 | 1 => format!(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) \
             Chrome/{major}.0.{build}.0 Safari/537.36"
        ),
        2 => format!(
            "Mozilla/5.0 (Linux; Android {}; SM-G{build}) AppleWebKit/537.36 (KHTML, like Gecko) \
             Chrome/{major}.0.0.0 Mobile Safari/537.36",
            9 + n % 7
        ),
        3 => format!(
            "Mozilla/5.0 (iPhone; CPU iPhone OS {}_{} like Mac OS X) AppleWebKit/605.1.15 (KHTML, \
             like Gecko) Version/{}.{} Mobile/15E148 Safari/604.1",
            14 + n % 5,
            build % 8,
            14 + n % 5,
            build % 8
        ),
        _ => format!(
            "Mozilla/5.0 (X11; Linux x86_64; rv:{major}.0) Gecko/20100101 Firefox/{major}.{build}"
        ),
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
