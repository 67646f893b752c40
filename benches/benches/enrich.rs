//! Enrichers that need no state: what each costs an event.
//!
//! The traffic is made here: 5,000 agents in a mix as a shop sees it, 100,000 addresses in 20,000
//! networks, page URLs with and without a campaign. Neighbours have little in common. "known" is with a warm cache; "new" is an agent's first event.
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::{fs, iter};

use criterion::Throughput;
use mmdb_writer::{Value, Writer};
use tracklog_benches::{pace, samples};
use tracklog_log::conformance::block_on;
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::{Domain, Log};
use tracklog_pipeline::enrich::device::{Device, DeviceOptions};
use tracklog_pipeline::enrich::geo::{Geo, GeoOptions};
use tracklog_pipeline::enrich::page::Page;
use tracklog_pipeline::enrich::{Enricher, Enrichment};
use tracklog_pipeline::state::{MemoryStore, State, StateOptions};
use tracklog_protocol::event::{EventBuilder, EventParts, EventView};
use tracklog_protocol::{PartitionId, Records, TimeMicros, TopicId};

const AGENTS: usize = 5_000;
const ADDRESSES: usize = 100_000;
const NETWORKS: usize = 20_000;
/// Prime to all counts here: steps of this size visit everything, neighbours far apart. The events
/// themselves lie one after the other, as those of a batch do.
const STEP: usize = 7_919;

fn main() {
    let mut criterion = pace::computing();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("networks.mmdb");
    fs::write(&file, networks()).expect("room on the disk");
    let geo = Geo::new(GeoOptions { files: vec![file], ..GeoOptions::default() });
    let geo = geo.expect("one file can be asked");
    assert!(geo.reload_if_changed()[0].outcome.is_ok());
    let device = Device::new(DeviceOptions::default());
    let uncached = Device::new(DeviceOptions { cache_bytes: 0 });
    let events = events();
    let mut group = criterion.benchmark_group("enrich");
    group.throughput(Throughput::Elements(1));
    let cases: [(&str, &[&dyn Enricher]); 6] = [
        ("nothing: what each of the others includes", &[]),
        ("device, known agent", &[&device]),
        ("device, new agent", &[&uncached]),
        ("geo", &[&geo]),
        ("page and campaign", &[&Page]),
        ("device, geo, page and campaign", &[&device, &geo, &Page]),
    ];
    for (name, enrichers) in cases {
        let mut next = Turns::new(&events);
        group.bench_function(name, |bencher| next.measure(bencher, enrichers));
    }
    group.finish();
    criterion.final_summary();
}

/// Goes through the events again and again.
struct Turns<'a> {
    events: &'a Records,
    at: usize,
    state: State<MemoryLog>,
}

impl<'a> Turns<'a> {
    fn new(events: &'a Records) -> Self {
        let clock = Arc::new(|| TimeMicros(0));
        let log = Arc::new(MemoryLog::new(MemoryOptions { clock, budget_bytes: 1 << 20 }));
        let state = block_on(async {
            log.open(Domain::WHOLE).await.expect("a new log");
            State::open(log, Arc::new(MemoryStore::new()), StateOptions::default()).await
        });
        Self { events, at: 0, state: state.expect("a new store") }
    }

    fn measure(&mut self, bencher: &mut criterion::Bencher<'_>, enrichers: &[&dyn Enricher]) {
        let source = PartitionId::new(TopicId(77), 0);
        let mut batch = block_on(self.state.begin(source)).expect("the changelog is in memory");
        let mut turn = || {
            self.at = (self.at + 1) % ADDRESSES;
            let record = self.events.get(self.at).expect("one for each address");
            let event = EventView::of(record).expect("an event");
            let mut found = Enrichment::default();
            for enricher in enrichers {
                black_box(enricher.enrich(&event, &mut batch, &mut found)).expect("it can look");
            }
            found
        };
        // Each event once, so that what is kept is there.
        iter::repeat_with(&mut turn).take(ADDRESSES / 10).for_each(drop);
        bencher.iter(turn);
    }
}

fn events() -> Records {
    let index = samples::property_index();
    let agents: Vec<_> = (0..AGENTS).map(agent).collect();
    let mut builder = EventBuilder::new();
    let mut events = Records::new();
    for n in (0..ADDRESSES).map(|at| at * STEP % ADDRESSES) {
        let (address, url) = (address(n), url(n));
        let referrers = [None, Some("https://www.google.com/"), Some("https://shop.example/a")];
        events.push(builder.build(&EventParts {
            user_agent: Some(&agents[n % AGENTS]),
            client_address: Some(&address),
            page_url: Some(&url),
            page_referrer: referrers[n % referrers.len()],
            headers: if n % 10 < 4 { &HINTS } else { &[] },
            ..samples::segment_like(&index)
        }));
    }
    events
}

/// What Chrome sends unasked.
const HINTS: [(&str, &str); 4] = [
    ("accept-language", "de-DE,de;q=0.9,en;q=0.8"),
    ("sec-ch-ua", r#""Chromium";v="130", "Google Chrome";v="130", "Not?A_Brand";v="99""#),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", r#""Windows""#),
];

/// The `n`th agent: of ten, three Chromes on a desk, three Androids, two iPhones, an app and what
/// is rare.
fn agent(n: usize) -> String {
    const WEBKIT: &str = "AppleWebKit/537.36 (KHTML, like Gecko)";
    let (major, build) = (90 + n % 41, n / 10);
    match n % 10 {
        0 | 1 => format!(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/{major}.0.{build}.0 Safari/537.36"
        ),
        2 => format!(
            "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {WEBKIT} Chrome/{major}.0.{build}.0 \
             Safari/537.36 Edg/{major}.0.{build}.0"
        ),
        3..=5 => format!(
            "Mozilla/5.0 (Linux; Android {}; SM-S{build}B) {WEBKIT} Chrome/{major}.0.0.0 Mobile \
             Safari/537.36",
            8 + n % 7
        ),
        6 | 7 => format!(
            "Mozilla/5.0 (iPhone; CPU iPhone OS {}_{} like Mac OS X) AppleWebKit/605.1.15 (KHTML, \
             like Gecko) Version/17.{} Mobile/15E{build} Safari/604.1",
            13 + n % 5,
            n % 7,
            n % 6
        ),
        8 => format!("Shop/{build} CFNetwork/{}.0.7 Darwin/2{}.5.0", 1200 + n % 300, n % 4),
        _ => match build % 3 {
            0 => format!(
                "Mozilla/5.0 (X11; Linux x86_64; rv:{major}.0) Gecko/20100101 Firefox/{major}.{build}"
            ),
            1 => format!("Mozilla/5.0 (compatible; Somebot/{build}.{major}; +http://bot.example/)"),
            _ => format!("python-requests/2.{major}.{build}"),
        },
    }
}

fn url(n: usize) -> String {
    match n % 4 {
        0 => format!(
            "https://www.shop.example/p/{n}?utm_source=news&utm_medium=mail&utm_campaign=w%20{n}&gclid=Cj0K{n}"
        ),
        1 => format!("https://www.shop.example/search?q=shoes+{n}&page=2#top"),
        _ => format!("https://www.shop.example/category/{n}"),
    }
}

/// The `n`th address: each network has five.
fn address(n: usize) -> String {
    Ipv4Addr::from_bits(network(n % NETWORKS) + 1 + (n / NETWORKS) as u32).to_string()
}

/// The first address of the `n`th network, of 256.
fn network(n: usize) -> u32 {
    0x2000_0000 + ((n as u32) << 11)
}

/// A database of all networks, in 5,000 cities.
fn networks() -> Vec<u8> {
    let mut writer = Writer::new("Bench City");
    for n in 0..NETWORKS {
        let name = |text: String| Value::map([("names", Value::map([("en", text)]))]);
        let city = n % 5_000;
        let row = Value::map([
            ("country", Value::map([("iso_code", "DE")])),
            ("subdivisions", Value::array([Value::map([("iso_code", "BE")])])),
            ("city", name(format!("City {city}"))),
            ("postal", Value::map([("code", format!("{city:05}"))])),
            (
                "location",
                Value::map([
                    ("latitude", Value::from(50.0 + city as f64 / 1e4)),
                    ("longitude", Value::from(8.0)),
                    ("time_zone", Value::from("Europe/Berlin")),
                ]),
            ),
            ("autonomous_system_number", Value::from(64_500 + (n % 300) as u32)),
        ]);
        let network = format!("{}/24", Ipv4Addr::from_bits(network(n)));
        writer
            .insert_value(network.parse::<ipnet::IpNet>().expect("a network"), row)
            .expect("room");
    }
    writer.to_bytes().expect("a database")
}
