//! What the state promises, over a log in memory.

use std::sync::Arc;

use tracklog_log::conformance::block_on;
use tracklog_log::{Fetch, FetchMode, Log};
use tracklog_protocol::event::EventParts;
use tracklog_protocol::{Offset, Records, TimeMicros};

use super::rig::{Left, Rig, SMALL, source};
use super::{
    DiskStore, DiskStoreOptions, Entity, LinkId, MemoryStore, State, StateBatch, StateError,
    StateOptions, Store, Visitor,
};
use crate::enrich::session::Session;

const D: LinkId<'_> = LinkId::Anonymous("D");

fn link(batch: &mut StateBatch<'_>, id: LinkId<'_>) -> Option<String> {
    batch.link(id).unwrap().map(|link| link.user.to_string())
}

fn plan(batch: &mut StateBatch<'_>, user: &str) -> Option<String> {
    let traits = batch.profile(Entity::User(user)).unwrap()?;
    traits.text().map(|text| text.to_string())
}

/// Links `id` to `user` at `time` in a batch of its own.
fn set(rig: &Rig, id: LinkId<'_>, user: &str, time: i64) {
    let mut batch = rig.begin(0);
    batch.begin_event(Offset::ZERO);
    batch.set_link(id, user, TimeMicros(time)).unwrap();
    rig.commit(batch.finish_event());
}

#[test]
fn a_batch_sees_its_own_changes_at_once_and_others_after_their_commit() {
    let rig = Rig::new(StateOptions::default());
    let mut batch = rig.begin(0);
    batch.begin_event(Offset::ZERO);
    batch.set_link(D, "alice", TimeMicros(1)).unwrap();
    assert_eq!(link(&mut batch, D).as_deref(), Some("alice"));
    let mut other = rig.begin(1);
    assert_eq!(link(&mut other, D), None);
    rig.commit(batch.finish_event());
    assert_eq!(link(&mut other, D), None, "it sees one offset to its end");
    assert_eq!(link(&mut rig.begin(1), D).as_deref(), Some("alice"));
}

#[test]
fn a_batch_and_the_wait_for_it_may_move_between_threads_over_any_log() {
    fn movable<T: Send>(it: T) -> T {
        it
    }
    let rig = Rig::new(StateOptions::default());
    let log: Arc<dyn Log> = Arc::clone(&rig.log) as _;
    let opening = State::open(log, Arc::new(MemoryStore::new()), StateOptions::default());
    let state = block_on(movable(opening)).unwrap();
    let batch = movable(block_on(movable(state.begin(source(0)))).unwrap());
    assert_eq!(batch.offset(), Offset(0));
}

#[test]
fn a_batch_that_is_given_up_changes_nothing() {
    let rig = Rig::new(StateOptions::default());
    let mut batch = rig.begin(0);
    batch.begin_event(Offset::ZERO);
    batch.set_link(D, "alice", TimeMicros(1)).unwrap();
    assert_eq!(batch.finish_event().len(), 1);
    drop(batch);
    assert_eq!(link(&mut rig.begin(0), D), None);
}

#[test]
fn an_event_that_is_not_finished_is_taken_back() {
    let rig = Rig::new(StateOptions::default());
    let mut batch = rig.begin(0);
    batch.begin_event(Offset(0));
    batch.set_link(D, "alice", TimeMicros(1)).unwrap();
    batch.finish_event();
    batch.begin_event(Offset(1));
    batch.set_link(D, "bob", TimeMicros(2)).unwrap();
    batch.set_link(D, "carol", TimeMicros(3)).unwrap();
    batch.set_link(LinkId::User("x"), "y", TimeMicros(3)).unwrap();
    batch.begin_event(Offset(2));
    assert_eq!(link(&mut batch, LinkId::User("x")), None, "though it was the last to change");
    assert_eq!(link(&mut batch, D).as_deref(), Some("alice"));
    assert!(batch.finish_event().is_empty());
}

#[test]
fn what_replaces_all_that_was_there_is_applied_without_a_look() {
    let mut rig = Rig::new(StateOptions::default());
    let event = EventParts { message_id: "m", anonymous_id: Some("D"), ..EventParts::default() };
    rig.run(&[event], &[&Session::default()], true);
    rig.restart(Left::Nothing, StateOptions::default());
    assert_eq!(rig.state.counts().store_reads, 0);
    let mut batch = rig.begin(0);
    assert!(batch.visits(Visitor { source: "", id: D }).unwrap().is_some());
}

#[test]
fn a_living_batch_sees_its_offset_while_others_change_the_same_key_and_tables_are_stored() {
    let rig = Rig::new(StateOptions { table_bytes: 5000, ..SMALL });
    set(&rig, D, "u0", 0);
    let mut seen = Vec::new();
    for round in 1..40 {
        seen.push((round - 1, rig.begin(1)));
        set(&rig, D, &format!("u{round}"), round);
        let name = format!("filler {round}");
        set(&rig, LinkId::User(&name), "somebody", round);
        if round % 3 == 0 {
            seen.remove(0);
        }
        rig.state.flush().unwrap();
        for (user, batch) in &mut seen {
            assert_eq!(link(batch, D), Some(format!("u{user}")));
        }
    }
    assert_eq!(rig.state.counts().flushes, 0, "the oldest batch does not see all of the table");
    seen.clear();
    assert!(rig.state.flush().unwrap());
    assert_eq!(link(&mut rig.begin(1), D).as_deref(), Some("u39"));
}

#[test]
fn what_was_committed_and_not_stored_is_there_after_a_crash() {
    for left in [Left::Whole, Left::Behind, Left::Nothing] {
        let mut rig = Rig::new(SMALL);
        for n in 0..50 {
            set(&rig, LinkId::User(&format!("u{n}")), "one", n);
            if n % 7 == 0 {
                rig.state.flush().unwrap();
            }
        }
        assert!(rig.state.counts().flushes > 1);
        rig.restart(left, SMALL);
        let mut batch = rig.begin(0);
        for n in 0..50 {
            let user = link(&mut batch, LinkId::User(&format!("u{n}")));
            assert_eq!(user.as_deref(), Some("one"), "u{n}");
        }
    }
}

#[test]
fn a_store_that_fails_loses_nothing_and_bounds_what_waits() {
    let rig = Rig::new(SMALL);
    rig.store.fail_writes(true);
    let behind = (0..1000).find(|n| {
        set(&rig, LinkId::User(&format!("u{n}")), "one", *n);
        assert!(!matches!(rig.state.flush(), Ok(true)));
        let begun = block_on(rig.state.begin(source(0)));
        matches!(begun, Err(StateError::Behind { .. }))
    });
    let count = behind.expect("memory is bounded") + 1;
    rig.store.fail_writes(false);
    rig.state.flush_all().unwrap();
    let mut batch = rig.begin(0);
    assert!((0..count).all(|n| link(&mut batch, LinkId::User(&format!("u{n}"))).is_some()));
}

#[test]
fn all_is_in_the_store_after_a_clean_stop() {
    let mut rig = Rig::new(StateOptions::default());
    set(&rig, D, "alice", 1);
    drop(rig.begin(0));
    rig.state.flush_all().unwrap();
    assert_eq!(rig.store.applied(), Offset(1));
    rig.restart(Left::Whole, StateOptions::default());
    assert_eq!(link(&mut rig.begin(0), D).as_deref(), Some("alice"));
    assert_eq!(rig.state.counts().store_reads, 1);
}

#[test]
fn what_is_kept_of_the_store_stays_within_its_bytes() {
    let rig = Rig::new(SMALL);
    let ids: Vec<_> = (0..500).map(|n| format!("user-{n}")).collect();
    for id in &ids {
        set(&rig, LinkId::User(id), "one", 1);
        drop(rig.begin(0));
        rig.state.flush_all().unwrap();
    }
    for id in ids.iter().chain(&ids) {
        assert_eq!(link(&mut rig.begin(0), LinkId::User(id)).as_deref(), Some("one"));
        let cached = rig.state.core.cached_bytes();
        assert!((1..=SMALL.cache_bytes as u64).contains(&cached), "{cached}");
    }
    assert!(rig.state.counts().store_reads > 500, "it had to ask the store again");
}

#[test]
fn the_flusher_writes_what_is_due_and_ends() {
    let rig = Rig::new(SMALL);
    let flusher = rig.state.spawn_flusher().unwrap();
    let mut n = 0;
    while rig.state.counts().flushes < 3 {
        // The state may be behind for a moment: the table is tiny.
        if let Ok(mut batch) = block_on(rig.state.begin(source(0))) {
            batch.begin_event(Offset(n));
            let id = format!("u{}", n % 100);
            batch.set_link(LinkId::User(&id), "one", TimeMicros(0)).unwrap();
            rig.commit(batch.finish_event());
            n += 1;
        }
        std::thread::yield_now();
    }
    drop(flusher);
}

#[test]
fn two_partitions_that_change_one_user_at_once_end_in_one_profile() {
    let said = [(0, r#"{"plan":"free","seats":1}"#, 1), (1, r#"{"plan":"pro"}"#, 2)];
    let ends = [[0, 1], [1, 0]].map(|order| {
        let rig = Rig::new(StateOptions::default());
        let mut batches = said.map(|(partition, text, time)| {
            let mut batch = rig.begin(partition);
            batch.begin_event(Offset::ZERO);
            batch.learn(Entity::User("u"), text, TimeMicros(time)).unwrap();
            batch
        });
        for index in order {
            let changes: Records = batches[index].finish_event().clone();
            rig.commit(&changes);
        }
        drop(batches);
        plan(&mut rig.begin(0), "u").unwrap()
    });
    assert_eq!(ends, [r#"{"plan":"pro","seats":1}"#; 2]);
}

#[test]
fn state_over_a_store_on_disk_comes_back_however_it_ended() {
    let rig = Rig::new(SMALL);
    let folder = tempfile::tempdir().unwrap();
    let mut reads = 0;
    for round in 0..5 {
        let topic = rig.log.topic(super::TOPIC).unwrap();
        let options = DiskStoreOptions {
            cache_bytes: 1 << 20,
            changelog: topic.partition(0),
            created: topic.created,
            changelog_end: rig.log.extent(topic.partition(0)).unwrap().end,
        };
        let store = DiskStore::open(folder.path(), options).unwrap();
        let state = block_on(State::open(Arc::clone(&rig.log), store, SMALL)).unwrap();
        for n in round * 20..(round + 1) * 20 {
            let mut batch = block_on(state.begin(source(0))).unwrap();
            for known in 0..n {
                let user = link(&mut batch, LinkId::User(&format!("u{known}")));
                assert_eq!(user.as_deref(), Some("one"), "u{known} in round {round}");
            }
            batch.begin_event(Offset(n));
            batch.set_link(LinkId::User(&format!("u{n}")), "one", TimeMicros(0)).unwrap();
            rig.commit(batch.finish_event());
            drop(batch);
            state.flush().unwrap();
        }
        reads += state.counts().store_reads;
    }
    assert!(reads > 100, "the store was asked");
}

#[test]
fn state_can_be_had_as_of_any_offset_and_never_goes_back() {
    let rig = Rig::new(SMALL);
    for n in 0..20 {
        set(&rig, D, &format!("u{n}"), n);
    }
    let store = Arc::new(MemoryStore::new());
    let then = State::open_as_of(Arc::clone(&rig.log), store, SMALL, Offset(3));
    let then = block_on(then).unwrap();
    for offset in [3, 4, 4, 11, 20] {
        let mut batch = block_on(then.begin_as_of(source(0), Offset(offset))).unwrap();
        assert_eq!(link(&mut batch, D), Some(format!("u{}", offset - 1)));
    }
    for offset in [19, 21] {
        let begun = block_on(then.begin_as_of(source(0), Offset(offset)));
        assert!(matches!(begun, Err(StateError::NotThere { .. })));
    }
}

#[test]
fn a_changelog_whose_beginning_is_gone_is_counted() {
    let mut rig = Rig::new(StateOptions::default());
    set(&rig, D, "alice", 1);
    set(&rig, LinkId::User("x"), "y", 1);
    let trimmed = rig.log.trim(rig.state.partition(), Offset(1));
    block_on(trimmed).unwrap();
    rig.restart(Left::Nothing, StateOptions::default());
    assert_eq!(rig.state.counts().changes_damaged, 1);
    assert_eq!(link(&mut rig.begin(0), LinkId::User("x")).as_deref(), Some("y"));
}

/// The same events always give the same enrichments.
mod order {
    use proptest::prelude::*;
    use tracklog_protocol::event::EventKind;

    use super::*;
    use crate::enrich::identity::Identity;
    use crate::enrich::profile::Profile;
    use crate::enrich::{Enricher, Enrichment};
    use crate::state::rig::{Left, Rig, enrich, source};

    const ENRICHERS: [&dyn Enricher; 2] = [&Identity, &Profile];

    #[derive(Clone, Debug)]
    struct Said {
        kind: EventKind,
        anonymous: Option<&'static str>,
        user: Option<&'static str>,
        previous: Option<&'static str>,
        traits: &'static str,
        minute: i64,
    }

    impl Said {
        fn parts(&self) -> EventParts<'_> {
            EventParts {
                message_id: "m",
                kind: self.kind,
                source: Some("shop"),
                anonymous_id: self.anonymous,
                user_id: self.user,
                previous_id: self.previous,
                group_id: self.previous,
                traits: Some(self.traits),
                event_time: TimeMicros(self.minute * 60_000_000),
                ..EventParts::default()
            }
        }
    }

    fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = Option<&'static str>> {
        proptest::option::of(proptest::sample::select(texts))
    }

    fn said() -> impl Strategy<Value = Said> {
        let traits = [r#"{"a":1}"#, r#"{"a":2,"b":[]}"#, r#"{"b":null}"#, "{}"];
        (
            proptest::sample::select(&EventKind::ALL[..]),
            one_of(&["D", "E", "null"]),
            one_of(&["u", "v", "w"]),
            one_of(&["u", "v", "w", "D"]),
            proptest::sample::select(traits.to_vec()),
            0..300_i64,
        )
            .prop_map(|(kind, anonymous, user, previous, traits, minute)| Said {
                kind,
                anonymous,
                user,
                previous,
                traits,
                minute,
            })
    }

    /// How a run is cut: how many events until the next cut, and what happens there.
    #[derive(Clone, Copy, Debug)]
    enum Cut {
        Commit,
        GiveUpAndRepeat,
        Flush,
        Restart(Left),
    }

    fn cuts() -> impl Strategy<Value = Vec<(usize, Cut)>> {
        let cut = prop_oneof![
            Just(Cut::Commit),
            Just(Cut::GiveUpAndRepeat),
            Just(Cut::Flush),
            Just(Cut::Restart(Left::Whole)),
            Just(Cut::Restart(Left::Behind)),
            Just(Cut::Restart(Left::Nothing)),
        ];
        proptest::collection::vec((1..6_usize, cut), 1..12)
    }

    /// The offset of the changelog that a batch saw depends on where batches are cut.
    fn without_version(mut found: Vec<Enrichment>) -> Vec<Enrichment> {
        for profile in found.iter_mut().filter_map(|it| it.profile.as_mut()) {
            profile.version = Offset::ZERO;
        }
        found
    }

    fn run(said: &[Said], cuts: &[(usize, Cut)]) -> Vec<Enrichment> {
        let session = Session::default();
        let enrichers = [ENRICHERS[0], ENRICHERS[1], &session];
        let events: Vec<_> = said.iter().map(Said::parts).collect();
        let mut rig = Rig::new(SMALL);
        let (mut found, mut at) = (Vec::new(), 0);
        for (count, cut) in cuts.iter().cycle() {
            let batch = &events[at..events.len().min(at + count)];
            if matches!(cut, Cut::GiveUpAndRepeat) {
                rig.batch(0, at as u64, batch, &enrichers, false);
            }
            found.extend(rig.batch(0, at as u64, batch, &enrichers, true));
            at += batch.len();
            match cut {
                Cut::Commit | Cut::GiveUpAndRepeat => {}
                Cut::Flush => rig.state.flush_all().unwrap(),
                Cut::Restart(left) => rig.restart(*left, SMALL),
            }
            // The table of these tests is soon full.
            rig.state.flush().unwrap();
            if at == events.len() {
                return without_version(found);
            }
        }
        unreachable!("there is a cut to repeat")
    }

    /// The profile of `u` after two partitions were enriched, their batches in turn as `turns`
    /// says: a batch of either begins, or ends.
    fn two_partitions(said: &[Said], turns: &[bool]) -> Option<String> {
        let rig = Rig::new(StateOptions::default());
        let events: Vec<_> = said.iter().map(Said::parts).collect();
        let (mut next, mut open) = ([0, 1], [None, None]);
        let turns = turns.iter().copied().map(usize::from);
        for turn in turns.chain((0..2 * events.len() + 2).map(|n| n % 2)) {
            if let Some((batch, changes)) = open[turn].take() {
                drop::<StateBatch<'_>>(batch);
                rig.commit(&changes);
            } else if let Some(event) = events.get(next[turn]) {
                let mut batch = block_on(rig.state.begin(source(turn as u32))).unwrap();
                let mut changes = Records::new();
                let from = next[turn] as u64;
                enrich(&mut batch, from, &[*event], &[&Profile], &mut changes);
                open[turn] = Some((batch, changes));
                next[turn] += 2;
            }
        }
        assert!(next.iter().all(|it| *it >= events.len()) && open.iter().all(Option::is_none));
        plan(&mut rig.begin(0), "u")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_same_order_gives_the_same_however_it_is_cut_and_restarted(
            said in proptest::collection::vec(said(), 1..40),
            cuts in cuts(),
        ) {
            let whole = run(&said, &[(said.len(), Cut::Commit)]);
            prop_assert_eq!(run(&said, &cuts), whole);
        }

        #[test]
        fn two_partitions_in_any_interleaving_end_in_the_same_profile(
            said in proptest::collection::vec(said(), 1..20),
            turns in proptest::collection::vec(any::<bool>(), 0..40),
        ) {
            // Ties of time go by the changelog's order: here all times differ. An alias copies what
            // its batch sees, which is a matter of order too.
            let mut said = said;
            for (index, said) in said.iter_mut().enumerate() {
                said.minute = said.minute * 100 + index as i64;
                if said.kind == EventKind::Alias {
                    said.kind = EventKind::Identify;
                }
            }
            prop_assert_eq!(two_partitions(&said, &turns), two_partitions(&said, &[]));
        }
    }
}

#[test]
fn begun_anew_it_is_what_the_changelog_says_and_no_more() {
    let rig = Rig::new(SMALL);
    for (number, user) in ["alice", "bob", "carol", "dave"].into_iter().enumerate() {
        let text = format!("device {number}");
        set(&rig, LinkId::Anonymous(&text), user, 1);
    }
    rig.state.flush_all().unwrap();
    // Only the store has it.
    let strange = [(&b"\x01strange"[..], &b"1"[..])];
    rig.store.write(&mut strange.into_iter(), rig.store.applied()).unwrap();
    rig.store.fail_writes(true);
    assert!(matches!(block_on(rig.state.begin_anew()), Err(StateError::Store(_))));
    rig.store.fail_writes(false);
    block_on(rig.state.begin_anew()).unwrap();
    assert_eq!(rig.store.get(b"\x01strange").unwrap(), None);
    for (number, user) in ["alice", "bob", "carol", "dave"].into_iter().enumerate() {
        let text = format!("device {number}");
        assert_eq!(link(&mut rig.begin(0), LinkId::Anonymous(&text)).as_deref(), Some(user));
    }
    set(&rig, D, "erin", 2);
    assert_eq!(link(&mut rig.begin(0), D).as_deref(), Some("erin"), "it goes on");
}

#[test]
fn a_batch_that_lives_is_waited_for_before_it_begins_anew() {
    let rig = Rig::new(SMALL);
    set(&rig, D, "alice", 1);
    let mut batch = rig.begin(0);
    let mut anew = std::pin::pin!(rig.state.begin_anew());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(anew.as_mut().poll(&mut context).is_pending());
    assert_eq!(link(&mut batch, D).as_deref(), Some("alice"));
    drop(batch);
    block_on(anew).unwrap();
    assert_eq!(link(&mut rig.begin(0), D).as_deref(), Some("alice"));
}

#[test]
fn what_was_read_before_it_began_anew_is_not_taken_in_with_a_hole_below() {
    let rig = Rig::new(SMALL);
    for time in 1..5 {
        set(&rig, D, "alice", time);
    }
    let from = vec![(rig.state.partition(), Offset(2))];
    let fetch = Fetch { from, bytes_max: 1 << 10, wait: false, mode: FetchMode::Live };
    let fetched = block_on(rig.log.fetch(fetch)).unwrap();
    assert!(rig.state.core.clear().unwrap());
    rig.state.core.apply(Offset(2), &fetched.partitions[0], Offset(4)).unwrap();
    assert_eq!(rig.state.core.end(), Offset::ZERO);
}

#[test]
fn batches_on_other_threads_see_all_of_it_while_it_begins_anew_again_and_again() {
    // Soon full, and room for all of it while it waits for the store.
    let rig = Rig::new(StateOptions { table_bytes: 4 << 10, ..SMALL });
    for number in 0..50 {
        let text = format!("device {number}");
        set(&rig, LinkId::Anonymous(&text), "alice", 1);
    }
    let _flusher = rig.state.spawn_flusher().unwrap();
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            for number in 0..20_000 {
                let text = format!("device {}", number % 50);
                let mut batch = rig.begin(1);
                assert_eq!(link(&mut batch, LinkId::Anonymous(&text)).as_deref(), Some("alice"));
            }
        });
        while !looking.is_finished() {
            block_on(rig.state.begin_anew()).unwrap();
        }
        looking.join().unwrap();
    });
}
