//! A store in memory that counts, fails and hangs, and batches that ask it.

use std::cell::Cell;
use std::collections::BTreeMap;

use proptest::prelude::*;
use tracklog_log::conformance::block_on;
use tracklog_protocol::event::{EventBuilder, EventKind, EventParts};
use tracklog_protocol::{Offset, Records, TimeMicros};

use super::*;
use crate::enrich::identity::Identity;
use crate::state::StateOptions;
use crate::state::rig::Rig;

const SECOND: u64 = 1_000_000_000;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

fn now() -> u64 {
    NOW.get()
}

fn pass(nanos: u64) {
    NOW.set(NOW.get() + nanos);
}

/// Pauses are over at once: only what never answers is later.
struct NoPause;

impl Time for NoPause {
    fn now(&self) -> TimeMicros {
        TimeMicros(0)
    }

    fn pause(&self, _: Duration) -> Pending<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    Refusing,
    Hanging,
}

/// What each round trip asked for.
type Trips = Vec<Vec<String>>;

struct FakeStore {
    profiles: Mutex<BTreeMap<String, String>>,
    mood: Mutex<Mood>,
    trips: Mutex<Trips>,
}

impl ProfileStore for FakeStore {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn fetch<'a>(&'a self, of: &'a [Entity<'a>]) -> Pending<'a, Result<Vec<Answer>, FetchError>> {
        let keys: Vec<_> = of.iter().map(|it| cache_key(*it).to_string()).collect();
        let profiles = self.profiles.lock();
        let answers = keys.iter().map(|key| Ok(profiles.get(key).cloned())).collect();
        self.trips.lock().push(keys);
        match *self.mood.lock() {
            Mood::Well => Box::pin(std::future::ready(Ok(answers))),
            Mood::Refusing => {
                Box::pin(std::future::ready(Err(FetchError { why: "refused".to_owned() })))
            }
            Mood::Hanging => Box::pin(std::future::pending()),
        }
    }
}

struct Desk {
    rig: Rig,
    store: Arc<FakeStore>,
    profile: ExternalProfile,
}

impl Desk {
    fn new(profiles: &[(&str, &str)]) -> Self {
        let profiles = profiles.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
        let store = Arc::new(FakeStore {
            profiles: Mutex::new(profiles.collect()),
            mood: Mutex::new(Mood::Well),
            trips: Mutex::default(),
        });
        let options = ExternalOptions {
            timeout: Duration::from_millis(50),
            cache_bytes: 1 << 20,
            time_to_live: Duration::from_secs(60),
            resolves: true,
        };
        let shared = Arc::clone(&store) as Arc<dyn ProfileStore>;
        let profile = ExternalProfile::new(shared, options, Arc::new(NoPause), now);
        Self { rig: Rig::new(StateOptions::default()), store, profile }
    }

    /// What each of `events`, in one batch, gets: user's and group's traits, or the failure.
    fn batch(&self, events: &[EventParts<'_>]) -> Vec<Result<[Option<String>; 2], String>> {
        let mut builder = EventBuilder::new();
        let mut records = Records::new();
        events.iter().for_each(|parts| records.push(builder.build(parts)));
        let mut state = self.rig.begin(0);
        let mut views = records.iter().filter_map(EventView::of);
        if let Some(fetching) = self.profile.prepare(&mut views, &mut state) {
            block_on(fetching);
        }
        let mut changes = Records::new();
        let mut got = Vec::new();
        for (offset, record) in (0..).zip(records.iter()) {
            let event = EventView::of(record).unwrap();
            let mut found = Enrichment::default();
            state.begin_event(Offset(offset));
            Identity.enrich(&event, &mut state, &mut found).unwrap();
            let looked = self.profile.enrich(&event, &mut state, &mut found);
            state.finish_event().iter().for_each(|record| changes.push(record));
            got.push(looked.map_err(|failure| failure.to_string()).map(|_| {
                let seen = found.profile.unwrap_or_default();
                [seen.user_traits, seen.group_traits].map(|it| it.map(|text| text.to_string()))
            }));
        }
        drop(state);
        self.rig.commit(&changes);
        got
    }

    fn one(&self, event: EventParts<'_>) -> Result<Option<String>, String> {
        self.batch(&[event]).remove(0).map(|[user, _]| user)
    }

    fn trips(&self) -> Trips {
        std::mem::take(&mut *self.store.trips.lock())
    }
}

fn of_user(user: &str) -> EventParts<'_> {
    EventParts { message_id: "m", user_id: Some(user), ..EventParts::default() }
}

fn of_device(id: &str) -> EventParts<'_> {
    EventParts { message_id: "m", anonymous_id: Some(id), ..EventParts::default() }
}

const PRO: &str = r#"{"plan":"pro"}"#;
const FREE: &str = r#"{"plan":"free"}"#;

#[test]
fn a_batch_asks_once_for_all_its_users_and_groups_and_the_next_only_for_new_ones() {
    let desk = Desk::new(&[("ualice", PRO), ("gacme", FREE)]);
    let in_group = EventParts { group_id: Some("acme"), ..of_user("alice") };
    let got = desk.batch(&[of_user("alice"), in_group, of_user("bob"), of_user("alice")]);
    let [pro, free] = [PRO, FREE].map(|it| Some(it.to_owned()));
    let expected = [[pro.clone(), None], [pro.clone(), free], [None, None], [pro, None]];
    assert_eq!(got, expected.map(Ok));
    assert_eq!(desk.trips(), [["ualice", "gacme", "ubob"]]);
    assert_eq!(desk.batch(&[of_user("bob"), of_user("carol")]).len(), 2);
    assert_eq!(desk.trips(), [["ucarol"]], "that somebody is not there is known too");
    let counters = desk.profile.counters();
    assert_eq!((counters.asked.count(), counters.cached.count()), (4, 1));
}

#[test]
fn what_is_known_is_asked_for_again_when_its_time_is_over() {
    let desk = Desk::new(&[("ualice", FREE)]);
    assert_eq!(desk.one(of_user("alice")), Ok(Some(FREE.to_owned())));
    desk.store.profiles.lock().insert("ualice".to_owned(), PRO.to_owned());
    pass(59 * SECOND);
    assert_eq!(desk.one(of_user("alice")), Ok(Some(FREE.to_owned())));
    pass(SECOND);
    assert_eq!(desk.one(of_user("alice")), Ok(Some(PRO.to_owned())));
}

#[test]
fn whom_a_batch_itself_links_is_fetched_ahead() {
    let desk = Desk::new(&[("ualice", PRO), ("uold", FREE)]);
    let identify =
        EventParts { kind: EventKind::Identify, anonymous_id: Some("d"), ..of_user("old") };
    let alias = EventParts { kind: EventKind::Alias, previous_id: Some("old"), ..of_user("alice") };
    let got = desk.batch(&[of_device("d"), identify, of_device("d"), alias, of_device("d")]);
    let users: Vec<_> = got.into_iter().map(|it| it.unwrap()[0].clone()).collect();
    let [pro, free] = [PRO, FREE].map(|it| Some(it.to_owned()));
    assert_eq!(users, [None, free.clone(), free, pro.clone(), pro.clone()]);
    assert_eq!(desk.trips().len(), 1);
    assert_eq!(desk.one(of_device("d")), Ok(pro), "and by links that were there before");
}

#[test]
fn words_for_nothing_and_ids_that_are_too_long_are_never_asked_for() {
    let desk = Desk::new(&[]);
    let long = "x".repeat(ID_BYTES_MAX + 1);
    assert_eq!(desk.one(of_user("null")), Ok(None));
    assert_eq!(desk.one(of_user(&long)), Ok(None));
    assert!(desk.trips().is_empty());
}

#[test]
fn a_store_that_fails_is_each_event_s_failure_and_is_left_alone_for_a_while() {
    let desk = Desk::new(&[("ualice", PRO)]);
    *desk.store.mood.lock() = Mood::Refusing;
    for _ in 0..BREAKER.failures_max {
        assert_eq!(desk.one(of_user("alice")), Err("fake: refused".to_owned()));
    }
    assert_eq!(desk.trips().len(), 5);
    let refused = Err("fake did not answer, and is not asked for a while".to_owned());
    assert_eq!(desk.one(of_user("alice")), refused);
    assert_eq!(desk.one(of_device("d")), Ok(None), "whoever needs nobody fails not");
    assert!(desk.trips().is_empty());
    assert_eq!(desk.profile.breaker(), (true, 1));
    *desk.store.mood.lock() = Mood::Well;
    pass(SECOND);
    assert_eq!(desk.one(of_user("alice")), Ok(Some(PRO.to_owned())));
    assert_eq!(desk.profile.breaker(), (false, 1));
}

#[test]
fn a_store_that_hangs_is_given_up_after_the_timeout() {
    let desk = Desk::new(&[("ualice", PRO)]);
    *desk.store.mood.lock() = Mood::Hanging;
    let late = Err("fake did not answer within 50 ms".to_owned());
    assert_eq!(desk.one(of_user("alice")), late);
    assert_eq!(desk.profile.counters().late.count(), 1);
    *desk.store.mood.lock() = Mood::Well;
    assert_eq!(desk.one(of_user("alice")), Ok(Some(PRO.to_owned())));
}

#[test]
fn what_is_known_is_used_while_the_store_is_away() {
    let desk = Desk::new(&[("ualice", PRO)]);
    assert!(desk.one(of_user("alice")).is_ok());
    *desk.store.mood.lock() = Mood::Refusing;
    let got = desk.batch(&[of_user("alice"), of_user("bob")]);
    assert_eq!(got[0].as_ref().unwrap()[0].as_deref(), Some(PRO));
    assert_eq!(got[1], Err("fake: refused".to_owned()));
}

#[test]
fn the_profiles_that_are_kept_stay_within_their_bytes() {
    let traits = format!("{{\"about\":\"{}\"}}", "x".repeat(4 << 10));
    let keys: Vec<_> = (0..1_000).map(|n| format!("uuser-{n}")).collect();
    let all: Vec<_> = keys.iter().map(|key| (&**key, &*traits)).collect();
    let desk = Desk::new(&all);
    let cache_bytes = desk.profile.options.cache_bytes as u64;
    for key in &keys {
        assert_eq!(desk.one(of_user(&key[1..])).as_ref(), Ok(&Some(traits.clone())));
        let cached = desk.profile.cache.weight();
        assert!((1..=cache_bytes).contains(&cached), "{cached}");
    }
}

#[test]
fn an_answer_that_is_no_object_fails_its_user_alone() {
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(TRAITS_BYTES_MAX));
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(200), "]".repeat(200));
    let bad = ["", "1", "[]", "{\"a\":", "null", "{\"a\":1}x", &large, &deep];
    let desk = Desk::new(&[("ualice", PRO)]);
    for text in bad {
        desk.store.profiles.lock().insert("ubob".to_owned(), text.to_owned());
        let got = desk.batch(&[of_user("alice"), of_user("bob")]);
        assert!(got[0].is_ok() && got[1].is_err(), "{text:.20}: {got:?}");
    }
    assert_eq!(desk.profile.breaker(), (false, 0), "the store did answer");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever links whom before and within a batch, nobody is looked up who was not asked for.
    #[test]
    fn everybody_whom_an_event_leads_to_was_fetched_with_its_batch(
        batches in prop::collection::vec(
            prop::collection::vec((0u8..3, 0usize..5, 0usize..5), 1..12), 1..4),
    ) {
        let ids = ["a", "b", "c", "d", "e"];
        let desk = Desk::new(&[]);
        for batch in batches {
            let events: Vec<_> = batch
                .into_iter()
                .map(|(what, one, other)| match what {
                    0 => EventParts {
                        kind: EventKind::Alias, previous_id: Some(ids[one]), ..of_user(ids[other])
                    },
                    1 => EventParts { anonymous_id: Some(ids[one]), ..of_user(ids[other]) },
                    _ => of_device(ids[one]),
                })
                .collect();
            for got in desk.batch(&events) {
                prop_assert_eq!(got, Ok([None, None]));
            }
        }
    }
}
