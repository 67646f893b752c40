//! Whole events through the stage: look-ups that fail, enrichers that are off, and what is counted.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tracklog_log::Topic;
use tracklog_log::conformance::block_on;
use tracklog_log::memory::MemoryLog;
use tracklog_protocol::event::{EventKind, EventParts};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::rejected::RejectedView;
use tracklog_protocol::{BatchView, TimeMicros};

use super::*;
use crate::enrich::device::{Device as Devices, DeviceOptions};
use crate::enrich::geo::{Edge, Geo as Places, GeoOptions};
use crate::enrich::identity::Identity;
use crate::enrich::page::Page;
use crate::enrich::profile::Profile;
use crate::enrich::session::Session;
use crate::enrich::{Input, LookupFailure};
use crate::groups::Start;
use crate::rig::{NoTime, Rig, group, poll_until_idle};
use crate::stage::{Delivery, PartitionLoop, StageCounters};
use crate::state::{MemoryStore, StateOptions};

/// Looks nothing up, but fails for events with a name of its own, and misses those of another.
struct Moody;

impl Enricher for Moody {
    fn name(&self) -> &'static str {
        "moody"
    }

    fn version(&self) -> Arc<str> {
        "1".into()
    }

    fn inputs(&self, _: &EventView<'_>, _: &Enrichment) -> Vec<Input> {
        Vec::new()
    }

    fn enrich(
        &self,
        event: &EventView<'_>,
        _: &mut StateBatch<'_>,
        _: &mut Enrichment,
    ) -> Result<Looked, LookupFailure> {
        match event.name() {
            Some("fails") => Err(LookupFailure::new("it is \"away\"")),
            Some("misses") => Ok(Looked::Miss),
            _ => Ok(Looked::Hit),
        }
    }
}

fn all() -> Vec<Arc<dyn Enricher>> {
    let options = GeoOptions {
        edge: Some(Edge::Vercel),
        trusted: vec!["0.0.0.0/0".parse().unwrap()],
        ..GeoOptions::default()
    };
    vec![
        Arc::new(Devices::new(DeviceOptions::default())),
        Arc::new(Places::new(options).unwrap()),
        Arc::new(Page),
        Arc::new(Identity),
        Arc::new(Profile),
        Arc::new(Session::default()),
    ]
}

struct Bench {
    rig: Rig,
    raw: Topic,
    enriched: Topic,
    rejected: Topic,
    counters: Arc<StageCounters>,
    stage: Arc<EnrichStage<MemoryLog>>,
}

impl Bench {
    fn new(enrichers: Vec<Arc<dyn Enricher>>, failed_lookup: FailedLookup) -> Self {
        Self::timed(enrichers, failed_lookup, || 0)
    }

    fn timed(
        enrichers: Vec<Arc<dyn Enricher>>,
        failed_lookup: FailedLookup,
        nanos: fn() -> u64,
    ) -> Self {
        let rig = Rig::new();
        let [raw, enriched, rejected] =
            ["raw", "enriched", "rejected"].map(|name| rig.topic(name, 1));
        let (store, options) = (Arc::new(MemoryStore::new()), StateOptions::default());
        let state = block_on(State::open(Arc::clone(&rig.log), store, options)).unwrap();
        let (state, to) = (Arc::new(state), enriched.clone());
        let stage = Arc::new(EnrichStage::new(enrichers, state, to, failed_lookup, nanos));
        Self { rig, raw, enriched, rejected, counters: Arc::default(), stage }
    }

    /// Enriches `events`, which come at once.
    fn run(&self, events: &[EventParts<'_>]) {
        let mut builders: Vec<_> = events.iter().map(|_| EventBuilder::new()).collect();
        let records = events.iter().zip(&mut builders);
        let items: Vec<_> =
            records.map(|(it, builder)| (self.raw.partition(0), builder.build(it))).collect();
        self.rig.append(&[], &items).unwrap();
        let shared = PartitionLoop {
            log: Arc::clone(&self.rig.log),
            epoch: self.rig.epoch,
            stage: Arc::clone(&self.stage) as Arc<dyn Stage>,
            source: self.raw.clone(),
            rejected: self.rejected.clone(),
            delivery: Delivery::OneCommit,
            time: Arc::new(NoTime(self.rig.clock())),
            counters: Arc::clone(&self.counters),
        };
        let groups = self.rig.groups();
        let topics = vec![self.raw.clone()];
        let member = block_on(groups.join(&group(NAME), "m", topics, Start::Earliest)).unwrap();
        let running = pin!(shared.run(&member, self.raw.partition(0)));
        assert_eq!(poll_until_idle(running, usize::MAX), Poll::Pending);
    }

    fn enriched(&self) -> Vec<Json> {
        let batches = self.rig.read(self.enriched.partition(0));
        let records = batches.iter().flat_map(BatchView::records);
        let line = |(offset, record)| {
            let mut line = Vec::new();
            let appended_at = TimeMicros(0);
            let at = LinePlace { topic: "enriched", partition: 0, offset, appended_at };
            write_line(&mut line, at, record);
            serde_json::from_slice(&line).unwrap()
        };
        records.map(line).collect()
    }

    /// Reasons.
    fn rejected(&self) -> Vec<String> {
        let batches = self.rig.read(self.rejected.partition(0));
        let records = batches.iter().flat_map(BatchView::records);
        records.map(|(_, it)| RejectedView::of(it).unwrap().message().to_owned()).collect()
    }

    /// Changes of what is known.
    fn changes(&self) -> u64 {
        let Seen::Live(state) = &self.stage.seen else { panic!("it is no run again") };
        self.rig.end(state.partition()).0
    }

    fn counted(&self, name: &str) -> [u64; 5] {
        let of = self.stage.enrichers().iter().find(|it| it.name() == name).unwrap().counters();
        [&of.hits, &of.misses, &of.failures, &of.timed, &of.timed_nanos].map(Counter::count)
    }
}

/// A user logs in on a device, as an event called `name`.
fn login<'a>(name: &'a str, device: &'a str, user: &'a str) -> EventParts<'a> {
    EventParts {
        message_id: name,
        kind: EventKind::Identify,
        name: Some(name),
        anonymous_id: Some(device),
        user_id: Some(user),
        traits: Some("{\"plan\":\"pro\"}"),
        ..EventParts::default()
    }
}

fn visit<'a>(name: &'a str, device: &'a str) -> EventParts<'a> {
    let anonymous_id = Some(device);
    EventParts { message_id: name, name: Some(name), anonymous_id, ..EventParts::default() }
}

fn with_moody() -> Vec<Arc<dyn Enricher>> {
    vec![Arc::new(Identity), Arc::new(Profile), Arc::new(Session::default()), Arc::new(Moody)]
}

#[test]
fn a_failed_look_up_is_named_in_its_event_which_goes_on_with_all_that_it_changes() {
    let bench = Bench::new(with_moody(), FailedLookup::Keep);
    bench.run(&[login("fails", "d", "alice"), visit("next", "d")]);
    let [first, next] = bench.enriched().try_into().unwrap();
    assert_eq!(first["enrichFailures"], serde_json::json!({ "moody": "it is \"away\"" }));
    assert_eq!(first["resolvedUserId"], "alice", "what others found is there");
    assert_eq!(next["enrichFailures"], Json::Null);
    assert_eq!(next["resolvedUserId"], "alice");
    assert_eq!(next["profile"]["traits"]["plan"], "pro");
    assert_eq!(next["session"]["firstEvent"], false, "it is the visit of the login");
    assert_eq!(bench.rejected(), [""; 0]);
    assert_eq!(bench.counters.rejected.count(), 0);
    assert!(bench.changes() >= 3, "link, traits and visit");
}

#[test]
fn a_failed_look_up_that_is_to_reject_its_event_takes_back_all_that_it_changed() {
    let bench = Bench::new(with_moody(), FailedLookup::Reject);
    // Those behind it in the same batch, and those of a later one, see nothing of it.
    bench.run(&[login("fails", "d", "alice"), visit("next", "d"), login("good", "e", "bob")]);
    bench.run(&[visit("later", "d"), visit("later", "e")]);
    let [next, _, later, of_bob] = bench.enriched().try_into().unwrap();
    for event in [&next, &later] {
        assert_eq!(event["resolvedUserId"], Json::Null, "{event}");
        assert_eq!(event["profile"], Json::Null, "{event}");
        assert_eq!(event["enrichFailures"], Json::Null);
    }
    assert_eq!(next["session"]["firstEvent"], true, "the visit begins with what was stored");
    assert_eq!(later["session"]["id"], next["session"]["id"]);
    assert_eq!(of_bob["resolvedUserId"], "bob");
    assert_eq!(bench.rejected(), ["moody: it is \"away\""]);
    assert_eq!(bench.counters.rejected.count(), 1);
    let Seen::Live(state) = &bench.stage.seen else { panic!("it is no run again") };
    let changes = bench.rig.read(state.partition());
    let records = changes.iter().flat_map(BatchView::records);
    let told = records.filter(|(_, it)| String::from_utf8_lossy(it.bytes()).contains("alice"));
    assert_eq!(told.count(), 0, "nothing of it is in the changelog");
}

#[test]
fn hits_misses_failures_and_times_of_each_enricher_are_counted() {
    /// Each look at the clock is five nanoseconds after the one before.
    fn nanos() -> u64 {
        static NANOS: AtomicU64 = AtomicU64::new(0);
        NANOS.fetch_add(5, Ordering::Relaxed)
    }
    let bench = Bench::timed(with_moody(), FailedLookup::Keep, nanos);
    bench.run(&[visit("hits", "d"), visit("misses", "d"), visit("fails", "d"), visit("hits", "d")]);
    // One in so many is timed, from the first on.
    assert_eq!(bench.counted("moody"), [2, 1, 1, 1, 5]);
    assert_eq!(bench.counted("identity")[..3], [0, 4, 0], "nobody is known");
    assert_eq!(bench.counted("session")[..3], [4, 0, 0]);
    let more: Vec<_> = (4..=TIMED_ONE_IN).map(|_| visit("fails", "d")).collect();
    bench.run(&more);
    assert_eq!(bench.counted("moody"), [2, 1, TIMED_ONE_IN - 2, 2, 10]);
}

#[test]
fn what_an_enricher_finds_is_there_where_it_is_on_and_absent_where_it_is_off() {
    const FIELDS: [(&str, &[&str]); 6] = [
        ("device", &["device"]),
        ("geo", &["geo"]),
        ("page", &["campaign", "pageParts"]),
        ("identity", &["resolvedUserId"]),
        ("profile", &["profile"]),
        ("session", &["session"]),
    ];
    let event = EventParts {
        source: Some("shop"),
        user_agent: Some("Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0"),
        page_url: Some("https://shop.example/a?utm_source=mail&gclid=1"),
        headers: &[("x-vercel-ip-country", "DE")],
        peer_address: Some("10.0.0.1:5"),
        client_address: Some("81.2.69.160"),
        ..login("identify", "d", "alice")
    };
    for off in std::iter::once(None).chain(FIELDS.map(|(name, _)| Some(name))) {
        let mut enrichers = all();
        let names: Vec<_> = enrichers.iter().map(|it| it.name()).collect();
        assert_eq!(names, FIELDS.map(|(name, _)| name), "all there are");
        enrichers.retain(|it| Some(it.name()) != off);
        let bench = Bench::new(enrichers, FailedLookup::Keep);
        bench.run(&[event]);
        let line = bench.enriched().remove(0);
        for (name, fields) in FIELDS {
            let by = line["enrichedBy"].as_str().unwrap();
            assert_eq!(by.contains(&format!("{name}@")), off != Some(name), "{by}");
            for field in fields {
                let is_there = line.get(field).is_some();
                assert_eq!(is_there, off != Some(name), "{field} without {off:?}: {line}");
            }
        }
    }
}

#[test]
fn four_hundred_digits_in_an_agent_hold_up_nothing_behind_them() {
    let digits = format!(
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/{} (KHTML, like \
         Gecko) Version/17.5 Mobile/15E148 Safari/604.1",
        "1234567890".repeat(40)
    );
    let device = Devices::new(DeviceOptions::default());
    let bench = Bench::new(vec![Arc::new(device)], FailedLookup::Reject);
    // The rules are loaded for the first agent, whatever it is.
    bench.run(&[EventParts { user_agent: Some("curl/8.5.0"), ..visit("first", "d") }]);
    let mut events = vec![EventParts { user_agent: Some(&digits), ..visit("digits", "d") }];
    let good = |agent| EventParts { user_agent: Some(agent), ..visit("behind", "d") };
    events.extend(["curl/8.5.1", "curl/8.5.2", "curl/8.5.3"].map(good));
    let begun = Instant::now();
    bench.run(&events);
    let took = begun.elapsed();
    // It takes a millisecond; the bound is for a busy machine without optimisation.
    assert!(took < Duration::from_millis(500), "{took:?}");
    let lines = bench.enriched();
    assert_eq!(lines[1]["device"]["os"], "iOS");
    let names: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["first", "digits", "behind", "behind", "behind"]);
    assert!(lines[2..].iter().all(|line| line["device"]["browser"] == "curl"), "{lines:?}");
}
