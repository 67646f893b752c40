//! Places of whole events, from databases that are made here; and databases that change.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use mmdb_writer::{IpVersion, Value, Writer};
use proptest::prelude::*;
use tempfile::TempDir;
use tracklog_protocol::event::{EventBuilder, EventParts};

use super::*;
use crate::enrich::GeoOrigin;
use crate::state::StateOptions;
use crate::state::rig::Rig;

const LONDON: &str = "81.2.69.160";
const BERLIN: &str = "2a02:8071::1";

fn names(english: &str) -> Value {
    Value::map([("names", Value::map([("de", "falsch"), ("en", english)]))])
}

fn country(code: &str) -> (&'static str, Value) {
    ("country", Value::map([("iso_code", code)]))
}

/// A row as MaxMind's City has it.
fn city(code: &str, region: &str, name: &str, location: (f64, f64), zone: &str) -> Value {
    let location = [
        ("latitude", Value::from(location.0)),
        ("longitude", location.1.into()),
        ("accuracy_radius", 20u16.into()),
        ("time_zone", zone.into()),
    ];
    Value::map([
        country(code),
        ("city", names(name)),
        ("subdivisions", Value::array([Value::map([("iso_code", region)])])),
        ("postal", Value::map([("code", "12345")])),
        ("location", Value::map(location)),
    ])
}

fn network(number: u32, name: &str) -> Value {
    Value::map([
        ("autonomous_system_number", Value::from(number)),
        ("autonomous_system_organization", name.into()),
    ])
}

/// A database of `rows`, made at `epoch`.
fn database(kind: &str, epoch: u64, rows: &[(&str, Value)]) -> Vec<u8> {
    let is_v4 = rows.iter().all(|(network, _)| !network.contains(':'));
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(epoch);
    let version = if is_v4 { IpVersion::V4 } else { IpVersion::V6 };
    let mut writer = Writer::builder(kind).ip_version(version).build_epoch(made).build();
    for (network, row) in rows {
        writer.insert_value(network.parse::<IpNet>().unwrap(), row.clone()).unwrap();
    }
    writer.to_bytes().unwrap()
}

fn cities(epoch: u64, london: &str) -> Vec<u8> {
    let rows = [
        ("81.2.69.0/24", city("GB", "ENG", london, (51.5, -0.1), "Europe/London")),
        ("2a02:8071::/32", city("DE", "BE", "Berlin", (52.5, 13.4), "Europe/Berlin")),
        ("10.0.0.0/8", city("US", "CA", "Nowhere", (1.0, 1.0), "America/Los_Angeles")),
    ];
    database("Test City", epoch, &rows)
}

/// Files and the enricher that reads them.
struct Files {
    folder: TempDir,
    geo: Geo,
}

impl Files {
    fn new(contents: &[(&str, &[u8])], options: GeoOptions) -> Self {
        let folder = TempDir::new().unwrap();
        let files = contents.iter().map(|(name, _)| folder.path().join(name)).collect();
        contents.iter().for_each(|(name, it)| fs::write(folder.path().join(name), it).unwrap());
        let geo = Geo::new(GeoOptions { files, ..options }).unwrap();
        geo.reload_if_changed();
        Self { folder, geo }
    }

    fn of_cities() -> Self {
        Self::new(&[("city", &cities(1, "London"))], GeoOptions::default())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As a timer does it: a change is read at the second call.
    fn reload(&self) -> Vec<FileRead> {
        assert!(self.geo.reload_if_changed().is_empty(), "what has just changed is left alone");
        self.geo.reload_if_changed()
    }
}

fn look(geo: &Geo, event: EventParts<'_>) -> Result<Option<Arc<Place>>, LookupFailure> {
    let rig = Rig::new(StateOptions::default());
    let mut builder = EventBuilder::new();
    let event = EventView::of(builder.build(&event)).unwrap();
    let mut found = Enrichment::default();
    geo.enrich(&event, &mut rig.begin(0), &mut found)?;
    Ok(found.geo)
}

fn from(address: &str) -> EventParts<'_> {
    EventParts { client_address: Some(address), ..EventParts::default() }
}

fn city_of(geo: &Geo, event: EventParts<'_>) -> Option<String> {
    look(geo, event).unwrap()?.city.clone()
}

#[test]
fn an_address_is_found_in_the_database_and_the_network_in_another() {
    let rows = [("81.2.64.0/18", network(64500, "Example Net"))];
    let contents: [(&str, &[u8]); 2] =
        [("asn", &database("ASN", 2, &rows)), ("city", &cities(1, "London"))];
    let files = Files::new(&contents, GeoOptions::default());
    let expected = Place {
        country: Some("GB".into()),
        region: Some("ENG".into()),
        city: Some("London".into()),
        postal_code: Some("12345".into()),
        time_zone: Some("Europe/London".into()),
        latitude: Some(51.5),
        longitude: Some(-0.1),
        accuracy_km: 20,
        as_number: 64500,
        as_name: Some("Example Net".into()),
        origin: GeoOrigin::Database,
    };
    assert_eq!(look(&files.geo, from(LONDON)).unwrap().as_deref(), Some(&expected));
    let berlin = look(&files.geo, from(BERLIN)).unwrap().unwrap();
    assert_eq!((berlin.city.as_deref(), berlin.as_number), (Some("Berlin"), 0));
    assert_eq!(&*files.geo.version(), "1-ASN-2-Test_City-1");
}

#[test]
fn countries_alone_and_all_in_one_row_are_layouts_too() {
    let rows = [
        ("81.2.69.0/24", Value::map([country("GB")])),
        ("81.2.70.0/24", Value::map([("country_code", "FR")])),
    ];
    let files = Files::new(&[("country", &database("C", 1, &rows))], GeoOptions::default());
    for (address, code) in [(LONDON, "GB"), ("81.2.70.1", "FR")] {
        let expected = Place { country: Some(code.into()), ..Place::default() };
        assert_eq!(look(&files.geo, from(address)).unwrap().as_deref(), Some(&expected));
    }
    let Value::Map(mut row) = city("GB", "ENG", "London", (51.5, -0.1), "Europe/London") else {
        panic!()
    };
    let Value::Map(as_of) = network(1, "One") else { panic!() };
    row.extend(as_of);
    let rows = [("81.2.69.0/24", Value::Map(row))];
    let files = Files::new(&[("all", &database("A", 1, &rows))], GeoOptions::default());
    let place = look(&files.geo, from(LONDON)).unwrap().unwrap();
    assert_eq!((place.city.as_deref(), place.as_number), (Some("London"), 1));
}

#[test]
fn ways_to_write_an_address_lead_to_one_place() {
    let files = Files::of_cities();
    let place = look(&files.geo, from(LONDON)).unwrap();
    for text in ["::ffff:81.2.69.160", "81.2.69.160:5123", "[::ffff:81.2.69.160]:80"] {
        assert_eq!(look(&files.geo, from(text)).unwrap(), place, "{text}");
    }
    for text in ["2a02:8071::1%eth0", "[2a02:8071::1]:5"] {
        assert_eq!(city_of(&files.geo, from(text)).as_deref(), Some("Berlin"), "{text}");
    }
}

#[test]
fn what_lies_nowhere_and_what_is_no_address_are_misses() {
    let files = Files::of_cities();
    for text in
        ["10.0.0.1", "::ffff:10.0.0.1", "127.0.0.1", "fe80::1%eth0", "unknown", "", "8.8.8.8"]
    {
        assert_eq!(look(&files.geo, from(text)), Ok(None), "{text}");
    }
    assert_eq!(look(&files.geo, EventParts::default()), Ok(None));
}

#[test]
fn an_ipv6_address_is_a_miss_in_a_database_of_ipv4() {
    let rows = [("81.2.69.0/24", Value::map([country("GB")]))];
    let files = Files::new(&[("v4", &database("C", 1, &rows))], GeoOptions::default());
    assert_eq!(look(&files.geo, from(BERLIN)), Ok(None));
    assert!(look(&files.geo, from(LONDON)).unwrap().is_some());
}

#[test]
fn a_stated_address_counts_where_a_server_sent_the_event() {
    let files = Files::of_cities();
    let context = Some(r#"{"app": {"ip": "9.9.9.9"}, "ip": "2a02:8071::1"}"#);
    let event = EventParts { context, ..from(LONDON) };
    assert_eq!(city_of(&files.geo, event).as_deref(), Some("London"), "a browser states nothing");
    let server = EventParts { channel: Some("server"), ..event };
    assert_eq!(city_of(&files.geo, server).as_deref(), Some("Berlin"));
    let library = EventParts { library_name: Some("analytics-python"), ..event };
    assert_eq!(city_of(&files.geo, library).as_deref(), Some("Berlin"));
    let silent = EventParts { context: Some("{}"), ..server };
    assert_eq!(city_of(&files.geo, silent), None, "a server's own address is not its user's");
}

#[test]
fn stated_addresses_can_be_left_alone() {
    let options = GeoOptions { stated_addresses: false, ..GeoOptions::default() };
    let files = Files::new(&[("city", &cities(1, "London"))], options);
    let context = Some(r#"{"ip": "2a02:8071::1"}"#);
    let event = EventParts { context, channel: Some("server"), ..from(LONDON) };
    assert_eq!(city_of(&files.geo, event), None);
}

#[test]
fn no_header_of_a_client_moves_it() {
    let options = GeoOptions {
        edge: Some(Edge::Cloudflare),
        trusted: vec!["10.0.0.0/8".parse().unwrap()],
        ..GeoOptions::default()
    };
    let files = Files::new(&[("city", &cities(1, "London"))], options);
    let headers =
        [("x-forwarded-for", BERLIN), ("cf-ipcountry", "DE"), ("cf-connecting-ip", BERLIN)];
    let direct = EventParts { headers: &headers, peer_address: Some("9.9.9.9"), ..from("9.9.9.9") };
    assert_eq!(look(&files.geo, direct), Ok(None));
    let unknown_peer = EventParts { peer_address: None, ..direct };
    assert_eq!(look(&files.geo, unknown_peer), Ok(None));
}

#[test]
fn headers_of_the_named_network_fill_in_what_the_database_lacks() {
    let rows = [
        ("81.2.69.0/24", Value::map([country("GB")])),
        ("9.9.9.0/24", network(64500, "Example Net")),
    ];
    let options = GeoOptions {
        edge: Some(Edge::CloudFront),
        trusted: vec!["10.0.0.0/8".parse().unwrap()],
        ..GeoOptions::default()
    };
    let files = Files::new(&[("country", &database("C", 1, &rows))], options);
    let seen = |address, code, peer, channel| {
        let headers = [
            ("cf-ipcountry", "FR"),
            ("cloudfront-viewer-country", code),
            ("cloudfront-viewer-city", "Leeds"),
            ("cloudfront-viewer-time-zone", "Europe/London"),
        ];
        let event =
            EventParts { headers: &headers, peer_address: Some(peer), channel, ..from(address) };
        look(&files.geo, event).unwrap()
    };
    let by_both = seen(LONDON, "gb", "::ffff:10.0.0.9", None).unwrap();
    assert_eq!((by_both.city.as_deref(), by_both.origin), (Some("Leeds"), GeoOrigin::Database));
    let by_header = seen("9.9.9.9", "GB", "10.0.0.9", None).unwrap();
    assert_eq!((by_header.country.as_deref(), by_header.as_number), (Some("GB"), 64500));
    assert_eq!(by_header.origin, GeoOrigin::Header);
    let elsewhere = seen(LONDON, "DE", "10.0.0.9", None).unwrap();
    assert_eq!((elsewhere.country.as_deref(), elsewhere.city.as_deref()), (Some("GB"), None));
    assert_eq!(seen("8.8.8.8", "GB", "11.0.0.9", None), None, "the peer is no proxy");
    assert_eq!(seen("8.8.8.8", "GB", "10.0.0.9", Some("server")), None, "that is the server's");
    for unknown in ["XX", "T1", "ZZ", "", "G", "GBR", "Ü"] {
        assert_eq!(seen("8.8.8.8", unknown, "10.0.0.9", None), None, "{unknown}");
    }
    let again = look(&files.geo, from(LONDON)).unwrap().unwrap();
    assert_eq!(again.city, None, "what a header told of one event stays in it");
}

#[test]
fn headers_alone_tell_a_place_where_there_is_no_database() {
    let options = GeoOptions {
        edge: Some(Edge::Vercel),
        trusted: vec!["::/0".parse().unwrap()],
        ..GeoOptions::default()
    };
    let files = Files::new(&[], options);
    let headers = [
        ("x-vercel-ip-country", "BR"),
        ("x-vercel-ip-city", "S%C3%A3o%20Paulo"),
        ("x-vercel-ip-latitude", "-23.5"),
        ("x-vercel-ip-longitude", "nan"),
    ];
    let event = EventParts { headers: &headers, peer_address: Some("[::1]:5"), ..from(LONDON) };
    let place = look(&files.geo, event).unwrap().unwrap();
    assert_eq!(place.city.as_deref(), Some("São Paulo"));
    assert_eq!((place.latitude, place.longitude), (None, None));
    assert_eq!(&*files.geo.version(), "1");
}

#[test]
fn each_network_s_headers_tell_all_that_it_knows() {
    let value = |name: &str| match name {
        "cf-ipcountry" => "GB",
        "cf-region" => "England",
        "x-appengine-citylatlong" => " 51.5,-0.1",
        _ if name.ends_with("-country") => "gb",
        _ if name.contains("region") => "ENG",
        _ if name.ends_with("city") => "London",
        _ if name.ends_with("postal-code") => "SW1A",
        _ if name.ends_with("zone") => "Europe/London",
        _ if name.ends_with("latitude") => "51.5",
        _ if name.ends_with("longitude") => "-0.1",
        _ => "64500",
    };
    for edge in Edge::ALL {
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        let options = GeoOptions { edge: Some(edge), trusted, ..GeoOptions::default() };
        let headers: Vec<_> = edge.headers().map(|name| (name, value(name))).collect();
        let event =
            EventParts { headers: &headers, peer_address: Some("10.0.0.9"), ..from(LONDON) };
        let place = look(&Files::new(&[], options).geo, event).unwrap().unwrap();
        assert_eq!(place.country.as_deref(), Some("GB"), "{edge:?}");
        let parts = (place.region.as_deref(), place.city.as_deref());
        assert_eq!(parts, (Some("ENG"), Some("London")), "{edge:?}");
        assert_eq!((place.latitude, place.longitude), (Some(51.5), Some(-0.1)), "{edge:?}");
        if edge != Edge::AppEngine {
            let parts = (place.postal_code.as_deref(), place.time_zone.as_deref());
            assert_eq!(parts, (Some("SW1A"), Some("Europe/London")), "{edge:?}");
        }
        let tells_network = matches!(edge, Edge::CloudFront | Edge::Vercel);
        assert_eq!(place.as_number == 64500, tells_network, "{edge:?}");
    }
}

#[test]
fn a_new_file_is_taken_once_it_has_settled() {
    let files = Files::of_cities();
    assert!(files.geo.reload_if_changed().is_empty());
    fs::write(files.path("new"), cities(2, "Londinium")).unwrap();
    fs::rename(files.path("new"), files.path("city")).unwrap();
    let read = files.reload();
    assert_eq!(read[0].outcome.as_ref().unwrap(), "Test_City-2");
    assert_eq!(city_of(&files.geo, from(LONDON)).as_deref(), Some("Londinium"));
    assert_eq!(&*files.geo.version(), "1-Test_City-2");
    assert!(files.geo.reload_if_changed().is_empty());
}

#[test]
fn a_file_that_is_not_whole_leaves_the_old_one_in_use_and_is_named_once() {
    let files = Files::of_cities();
    let whole = cities(2, "Londinium");
    let mut holed = whole.clone();
    holed[..200].fill(0xff);
    for content in [&b""[..], &whole[..whole.len() / 2], b"no database", &holed] {
        fs::write(files.path("city"), content).unwrap();
        let read = files.reload();
        assert!(matches!(read[0].outcome, Err(DatabaseError::Damaged(_))), "{read:?}");
        assert_eq!(city_of(&files.geo, from(LONDON)).as_deref(), Some("London"));
        assert!(files.geo.reload_if_changed().is_empty(), "it did not change");
    }
    fs::remove_file(files.path("city")).unwrap();
    assert!(matches!(files.reload()[0].outcome, Err(DatabaseError::Unreadable(_))));
    assert_eq!(city_of(&files.geo, from(LONDON)).as_deref(), Some("London"));
    fs::write(files.path("city"), whole).unwrap();
    files.reload();
    assert_eq!(city_of(&files.geo, from(LONDON)).as_deref(), Some("Londinium"));
}

#[test]
fn a_file_rewritten_in_place_under_load_costs_no_event_its_place() {
    let files = Files::of_cities();
    let new = cities(2, "Londinium");
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let events = scope.spawn(|| {
            let mut count = 0;
            while !is_done.load(Ordering::Acquire) || count < 100 {
                let city = city_of(&files.geo, from(LONDON)).unwrap();
                assert!(city == "London" || city == "Londinium", "{city}");
                count += 1;
            }
        });
        rewrite_slowly(&files.path("city"), &new, || drop(files.geo.reload_if_changed()));
        files.geo.reload_if_changed();
        is_done.store(true, Ordering::Release);
        events.join().unwrap();
    });
    assert_eq!(city_of(&files.geo, from(LONDON)).as_deref(), Some("Londinium"));
}

/// Truncates the file and writes `content` in twenty steps, with two looks at it after each.
fn rewrite_slowly(path: &Path, content: &[u8], look: impl Fn()) {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path).unwrap();
    for step in content.chunks(content.len().div_ceil(20)) {
        file.write_all(step).unwrap();
        look();
        look();
    }
}

#[test]
fn without_any_whole_file_a_look_up_fails_and_says_why() {
    let folder = TempDir::new().unwrap();
    let files = vec![folder.path().join("none")];
    let geo = Geo::new(GeoOptions { files, ..GeoOptions::default() }).unwrap();
    assert!(matches!(geo.reload_if_changed()[0].outcome, Err(DatabaseError::Unreadable(_))));
    let failure = look(&geo, from(LONDON)).unwrap_err();
    assert_eq!(failure.to_string(), "no database of networks could be read");
    assert_eq!(look(&geo, from("10.0.0.1")), Ok(None), "there was nothing to look for");
    fs::write(folder.path().join("none"), cities(1, "London")).unwrap();
    geo.reload_if_changed();
    geo.reload_if_changed();
    assert!(look(&geo, from(LONDON)).unwrap().is_some());
}

#[test]
fn the_rows_that_are_kept_stay_within_their_bytes() {
    const CACHE_BYTES: usize = 64 << 10;
    let networks: Vec<_> = (0..1_000).map(|n| format!("81.{}.{}.0/24", n / 250, n % 250)).collect();
    let rows: Vec<_> = networks
        .iter()
        .map(|network| (&**network, city("GB", "ENG", network, (51.5, -0.1), "Europe/London")))
        .collect();
    let content = database("Test City", 1, &rows);
    let options = GeoOptions { cache_bytes: CACHE_BYTES, ..GeoOptions::default() };
    let files = Files::new(&[("city", &content)], options);
    let databases = files.geo.databases.load();
    for network in &networks {
        let place = databases.place(network.replace("0/24", "7").parse().unwrap()).unwrap();
        assert_eq!(place.unwrap().city.as_ref(), Some(network));
        let cached = databases.cached_bytes();
        assert!((1..=CACHE_BYTES as u64).contains(&cached), "{cached}");
    }
}

#[test]
fn more_files_than_can_be_asked_are_refused() {
    let files = vec![PathBuf::from("x"); FILES_MAX + 1];
    let refused = Geo::new(GeoOptions { files, ..GeoOptions::default() });
    assert_eq!(refused.err(), Some(TooManyFiles { count: FILES_MAX + 1 }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_text_breaks_it(
        address in "\\PC{0,40}|[0-9a-f.:%\\[\\]]{0,40}",
        context in "\\PC{0,40}|\\{\"ip\": ?(\"|[0-9.]{0,9}|\\\\u00|\\}){0,8}",
        header in "\\PC{0,20}|[A-Za-z]{2}|[-0-9.e%+]{0,9}",
    ) {
        let options = GeoOptions {
            edge: Some(Edge::Cloudflare),
            trusted: vec!["0.0.0.0/0".parse().unwrap()],
            ..GeoOptions::default()
        };
        let files = Files::new(&[], options);
        let names = ["cf-ipcountry", "cf-ipcity", "cf-iplatitude", "cf-iplongitude"];
        let headers = names.map(|name| (name, header.as_str()));
        for channel in ["web", "server"] {
            let event = EventParts {
                context: Some(&context),
                headers: &headers,
                peer_address: Some("10.0.0.1"),
                channel: Some(channel),
                ..from(&address)
            };
            look(&files.geo, event).unwrap();
        }
    }

    #[test]
    fn no_bytes_of_a_file_break_it(at in 0usize..4000, flip in 1u8.., cut in 0usize..4000) {
        let mut content = cities(1, "London");
        let at = at % content.len();
        content[at] ^= flip;
        content.truncate(content.len().saturating_sub(cut.saturating_sub(2000)));
        let files = Files::new(&[("city", &content)], GeoOptions::default());
        for address in [LONDON, BERLIN, "8.8.8.8", "2001:db8::1"] {
            let answer = look(&files.geo, from(address));
            prop_assert!(answer.is_ok() || !answer.unwrap_err().reason.is_empty());
        }
    }
}
