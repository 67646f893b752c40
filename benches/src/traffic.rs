//! Traffic as a shop sees it: 100,000 visitors with 5,000 agents at addresses in 20,000 networks,
//! events of some 780 bytes as JSON. Neighbours have little in common.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use mmdb_writer::{Value, Writer};
use tracklog_pipeline::enrich::geo::{Geo, GeoOptions};
use tracklog_protocol::event::{EventBuilder, EventKind, EventParts};
use tracklog_protocol::{Records, TimeMicros};

use crate::samples;

/// How many visitors there are. Each is at an address of his own.
pub const VISITORS: usize = 100_000;
pub(crate) const AGENTS: usize = 5_000;
const NETWORKS: usize = 20_000;
/// Prime to all counts here: steps of this size visit everything, neighbours far apart. The events
/// themselves lie one after the other, as those of a batch do.
const STEP: usize = 7_919;

const TRAITS: &str = r#"{"plan":"pro","country":"DE","since":"2024-05-01","orders":17}"#;

/// An event of each visitor by which he is known: his device, himself, his traits, his visit.
#[must_use]
pub fn introductions() -> Records {
    records(|_, parts| tells_traits(parts))
}

/// An event of each visitor, a while later: of twenty one tells traits, four name their user, the
/// others are a known device's. Half of them come so much later that the visit is written again.
#[must_use]
pub fn events() -> Records {
    records(|at, parts| {
        let later = if at.is_multiple_of(2) { 20_000_000 } else { 120_000_000 };
        let parts = EventParts { event_time: TimeMicros(parts.event_time.0 + later), ..parts };
        match at % 20 {
            0 => tells_traits(parts),
            1..=4 => parts,
            _ => EventParts { user_id: None, ..parts },
        }
    })
}

fn tells_traits(parts: EventParts<'_>) -> EventParts<'_> {
    EventParts { kind: EventKind::Identify, name: None, traits: Some(TRAITS), ..parts }
}

/// An event of each visitor, with what `change` makes of the one at that place.
fn records(change: impl Fn(usize, EventParts<'_>) -> EventParts<'_>) -> Records {
    let index = samples::property_index();
    let agents: Vec<_> = (0..AGENTS).map(agent).collect();
    let referrers = [None, Some("https://www.google.com/"), Some("https://shop.example/a")];
    let mut builder = EventBuilder::new();
    let mut records = Records::new();
    for at in 0..VISITORS {
        let n = at * STEP % VISITORS;
        let (address, url) = (address(n), url(n));
        let (user, device) = (format!("user-{n}"), format!("8f14e45f-ceea-467f-a0e6-{n:012x}"));
        let parts = EventParts {
            anonymous_id: Some(&device),
            user_id: Some(&user),
            user_agent: Some(&agents[n % AGENTS]),
            client_address: Some(&address),
            page_url: Some(&url),
            page_referrer: referrers[n % referrers.len()],
            headers: if n % 10 < 4 { &HINTS } else { &[] },
            ..samples::segment_like(&index)
        };
        records.push(builder.build(&change(at, parts)));
    }
    records
}

/// The enricher of places over a database of all networks, which lies in `folder`.
///
/// # Panics
/// When there is no room in the folder.
#[must_use]
pub fn geo(folder: &Path) -> Geo {
    let file = folder.join("networks.mmdb");
    fs::write(&file, networks()).expect("room on the disk");
    let geo = Geo::new(GeoOptions { files: vec![file], ..GeoOptions::default() });
    let geo = geo.expect("one file can be asked");
    assert!(geo.reload_if_changed()[0].outcome.is_ok());
    geo
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
pub(crate) fn agent(n: usize) -> String {
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
