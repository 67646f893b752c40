//! What destinations promise, over endpoints that fail and processes that die.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::Value as Json;
use tempfile::TempDir;
use tracklog_log::conformance::block_on;
use tracklog_log::memory::MemoryLog;
use tracklog_log::{AppendError, Pending, Topic};
use tracklog_protocol::event::{EventBuilder, EventParts};
use tracklog_protocol::{BatchView, Offset, TimeMicros};

use super::file::Files;
use super::retry::{Retried, Retry};
use super::undelivered::Undelivered;
use super::webhook::Webhook;
use super::*;
use crate::groups::{Member, Start};
use crate::outbound::{Accepted, Outbound, Post, PostError, WebhookKey};
use crate::rig::{PausesPass, Rig, Timeline, poll_until_idle};
use crate::route::{DestinationName, DestinationSpec, FileSpec, Routes, Rules};
use crate::stage::{PartitionLoop, StageEnd, Time};

type Answers = Box<dyn FnMut(&[u64]) -> Result<Accepted, PostError> + Send>;

/// An endpoint that answers as it is told to, and remembers what it took: offsets, by request. And
/// what it was told at each try.
struct Somebody {
    answers: Mutex<Answers>,
    taken: Mutex<Vec<Vec<u64>>>,
    tries: Mutex<Vec<Try>>,
}

/// A try's `webhook-id`, and its body.
type Try = (String, Bytes);

impl Somebody {
    fn new(
        answers: impl FnMut(&[u64]) -> Result<Accepted, PostError> + Send + 'static,
    ) -> Arc<Self> {
        let answers: Answers = Box::new(answers);
        let answers = Mutex::new(answers);
        Arc::new(Self { answers, taken: Mutex::default(), tries: Mutex::default() })
    }

    fn offsets(&self) -> Vec<u64> {
        self.taken.lock().concat()
    }
}

impl Outbound for Somebody {
    fn post(&self, post: Post) -> Pending<'_, Result<Accepted, PostError>> {
        let events: Vec<Json> = serde_json::from_slice(&post.body).unwrap();
        let offsets: Vec<_> = events.iter().map(|it| it["offset"].as_u64().unwrap()).collect();
        assert!(post.headers.contains_key("webhook-signature"));
        let id = post.headers["webhook-id"].to_str().unwrap().to_owned();
        self.tries.lock().push((id, post.body));
        let answer = (self.answers.lock())(&offsets);
        if answer.is_ok() {
            self.taken.lock().push(offsets);
        }
        // An answer takes a while: whoever waits for it may die before.
        let mut is_late = true;
        Box::pin(std::future::poll_fn(move |context| {
            if std::mem::replace(&mut is_late, false) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(answer.clone())
        }))
    }
}

const FILE: &str = r#"
[destinations.hook]
type = "webhook"
url = "http://127.0.0.1:1/hook"
batch_events = 4
give_up_after = "10m"

[[rules]]
name = "all"
to = ["hook"]
"#;

struct Bench {
    rig: Rig,
    source: Topic,
    rejected: Topic,
    undelivered: Topic,
    text: String,
}

impl Bench {
    fn new(text: &str) -> Self {
        let rig = Rig::new();
        let (source, rejected) = (rig.topic("enriched", 1), rig.topic("rejected", 1));
        let undelivered = rig.topic(undelivered::TOPIC, 1);
        let bench = Self { rig, source, rejected, undelivered, text: text.to_owned() };
        block_on(bench.routes().activate(text, TimeMicros(0), |_| Offset::ZERO)).unwrap();
        bench
    }

    fn routes(&self) -> Arc<Routes<MemoryLog>> {
        let log = Arc::clone(&self.rig.log);
        Arc::new(block_on(Routes::open(log, self.rig.epoch, self.source.clone())).unwrap())
    }

    fn write(&self, count: u64) {
        for _ in 0..count {
            let id = format!("id-{}", self.rig.end(self.source.partition(0)));
            let parts = EventParts { message_id: &id, ..EventParts::default() };
            let mut builder = EventBuilder::new();
            self.rig.append(&[], &[(self.source.partition(0), builder.build(&parts))]).unwrap();
        }
    }

    /// In one commit, so that they are read together.
    fn write_at_once(&self, count: usize) {
        let mut builder = EventBuilder::new();
        let record = builder.build(&EventParts { message_id: "m", ..EventParts::default() });
        self.rig.append(&[], &vec![(self.source.partition(0), record); count]).unwrap();
    }

    fn time(&self) -> PausesPass {
        self.rig.passing_time()
    }

    fn webhook(&self, outbound: Arc<dyn Outbound>) -> Arc<Delivering<MemoryLog>> {
        let name = DestinationName::new("hook").unwrap();
        let mut rules = Rules::parse(&self.text).unwrap();
        let Some(DestinationSpec::Webhook(spec)) = rules.destinations.remove(&name) else {
            panic!("it is a webhook");
        };
        let key = WebhookKey::new("0123456789abcdef").unwrap();
        let time = Arc::new(self.time());
        let to = Webhook::new(name.clone(), *spec, Some(key), outbound, time);
        self.delivering(name, Arc::new(to))
    }

    fn delivering(
        &self,
        name: DestinationName,
        to: Arc<dyn Destination>,
    ) -> Arc<Delivering<MemoryLog>> {
        Arc::new(self.delivering_by(name, to, Arc::new(self.time())))
    }

    fn delivering_by(
        &self,
        name: DestinationName,
        to: Arc<dyn Destination>,
        time: Arc<dyn Time>,
    ) -> Delivering<MemoryLog> {
        let hold = Arc::new(Hold::new(false));
        Delivering::new(name, to, self.routes(), self.undelivered.clone(), time, hold)
    }

    /// Runs a process over the source, for so many polls.
    fn run(&self, to: &Arc<Delivering<MemoryLog>>, polls: usize) -> Poll<Result<(), StageEnd>> {
        let (shared, member) = self.member(to);
        let running = pin!(shared.run(&member, self.source.partition(0)));
        poll_until_idle(running, polls)
    }

    /// A process's loop, and its claims.
    fn member(
        &self,
        to: &Arc<Delivering<MemoryLog>>,
    ) -> (PartitionLoop<MemoryLog>, Member<MemoryLog>) {
        let stage = DeliverStage::new(Arc::clone(to), Lane::Normal);
        let groups = self.rig.groups();
        let name = group(&to.name, Lane::Normal);
        let shared = PartitionLoop {
            log: Arc::clone(&self.rig.log),
            epoch: self.rig.epoch,
            stage: Arc::new(stage),
            source: self.source.clone(),
            rejected: self.rejected.clone(),
            delivery: crate::stage::Delivery::OneCommit,
            time: Arc::new(self.time()),
            counters: Arc::default(),
        };
        let topics = vec![self.source.clone()];
        (shared, block_on(groups.join(&name, "m", topics, Start::Earliest)).unwrap())
    }

    /// Offsets and reasons of what was set aside.
    fn asides(&self) -> Vec<(u64, String)> {
        let batches = self.rig.read(self.undelivered.partition(0));
        let records = batches.iter().flat_map(BatchView::records);
        let read = |(_, record)| {
            let aside = Undelivered::of(record).unwrap();
            let line: Json = serde_json::from_str(aside.line.get()).unwrap();
            assert_eq!(line["offset"], aside.offset);
            (aside.offset, aside.reason)
        };
        records.map(read).collect()
    }
}

fn yes() -> Result<Accepted, PostError> {
    Ok(Accepted { status: 200 })
}

fn no(status: u16) -> Result<Accepted, PostError> {
    Err(PostError::status(status, None, b"no"))
}

#[test]
fn events_come_in_requests_of_a_size_and_in_order() {
    let bench = Bench::new(FILE);
    bench.write(10);
    let somebody = Somebody::new(|_| yes());
    let hook = bench.webhook(somebody.clone());
    assert_eq!(bench.run(&hook, usize::MAX), Poll::Pending);
    assert_eq!(somebody.offsets(), (0..10).collect::<Vec<_>>());
    assert!(somebody.taken.lock().iter().all(|offsets| offsets.len() <= 4));
    assert_eq!(hook.counters.delivered.count(), 10);
    assert_eq!(hook.endpoint.state(), EndpointState::Well);
}

#[test]
fn what_is_refused_is_found_among_its_neighbours_and_set_aside() {
    let bench = Bench::new(FILE);
    bench.write(10);
    let somebody = Somebody::new(|offsets| if offsets.contains(&6) { no(422) } else { yes() });
    let hook = bench.webhook(somebody.clone());
    assert_eq!(bench.run(&hook, usize::MAX), Poll::Pending);
    let wanted: Vec<_> = (0..10).filter(|it| *it != 6).collect();
    assert_eq!(somebody.offsets(), wanted);
    assert_eq!(bench.asides(), [(6, "it answered 422: no".to_owned())]);
    assert_eq!(hook.counters.undelivered.count(), 1);
}

#[test]
fn what_is_set_aside_is_counted_once_also_where_its_commit_is_refused_first() {
    let bench = Bench::new(FILE);
    let hook = bench.webhook(Somebody::new(|_| no(422)));
    let (shared, member) = bench.member(&hook);
    let mut running = pin!(shared.run(&member, bench.source.partition(0)));
    assert_eq!(poll_until_idle(running.as_mut(), usize::MAX), Poll::Pending);
    bench.write_at_once(4);
    bench.rig.log.fail_next(AppendError::TooLarge { bytes: 2, bytes_max: 1 });
    // What was refused is worked on again, in halves.
    assert_eq!(poll_until_idle(running.as_mut(), usize::MAX), Poll::Pending);
    assert_eq!(bench.asides().len(), 4);
    assert_eq!(hook.counters.undelivered.count(), 4);
}

#[test]
fn what_is_taken_is_handed_over_once_though_all_else_does_not_fit_into_a_commit() {
    const EVENTS: u64 = 3_000;
    let bench = Bench::new(&FILE.replace("batch_events = 4", "batch_events = 100"));
    bench.write_at_once(EVENTS as usize);
    let is_wanted = |offset: &u64| offset.is_multiple_of(50);
    let somebody = Somebody::new(move |offsets| match offsets.iter().all(is_wanted) {
        true => yes(),
        false => no(422),
    });
    let hook = bench.webhook(somebody.clone());
    assert_eq!(bench.run(&hook, usize::MAX), Poll::Pending);
    assert_eq!(somebody.offsets(), (0..EVENTS).filter(is_wanted).collect::<Vec<_>>());
    let asides: Vec<_> = bench.asides().into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(asides, (0..EVENTS).filter(|it| !is_wanted(it)).collect::<Vec<_>>());
}

#[test]
fn an_endpoint_that_is_away_for_a_while_loses_nothing() {
    let bench = Bench::new(FILE);
    bench.write(10);
    let mut calls = 0;
    let somebody = Somebody::new(move |_| {
        calls += 1;
        if calls < 9 { no(503) } else { yes() }
    });
    let hook = bench.webhook(somebody.clone());
    assert_eq!(bench.run(&hook, usize::MAX), Poll::Pending);
    assert_eq!(somebody.offsets(), (0..10).collect::<Vec<_>>());
    assert_eq!(bench.asides(), []);
    assert_eq!(hook.counters.retried.count(), 8);
}

#[test]
fn a_request_that_is_made_again_has_the_id_and_the_body_of_the_first_and_no_other_has_them() {
    let bench = Bench::new(FILE);
    bench.write_at_once(10);
    let mut calls = 0;
    let somebody = Somebody::new(move |_| {
        calls += 1;
        if calls % 3 == 0 { yes() } else { no(503) }
    });
    assert_eq!(bench.run(&bench.webhook(somebody.clone()), usize::MAX), Poll::Pending);
    let tries = somebody.tries.lock();
    let of_each: Vec<_> = tries.chunks(3).collect();
    assert_eq!(of_each.len(), 3, "ten events, four at once");
    for same in &of_each {
        assert!(same.iter().all(|it| *it == same[0]), "{same:?}");
    }
    let ids: BTreeSet<_> = of_each.iter().map(|same| &same[0].0).collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
}

#[test]
fn what_is_not_taken_for_too_long_is_set_aside_with_the_reason() {
    let bench = Bench::new(FILE);
    bench.write(3);
    let before = bench.rig.now();
    // Wrong credentials are the operator's to mend: nothing of it is the events' fault.
    let somebody = Somebody::new(|_| no(401));
    let hook = bench.webhook(somebody);
    assert_eq!(bench.run(&hook, usize::MAX), Poll::Pending);
    let offsets: BTreeMap<_, _> = bench.asides().into_iter().collect();
    assert_eq!(offsets.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert!(offsets[&0].starts_with("it answered 401: no (tried "), "{}", offsets[&0]);
    assert!(bench.rig.now().0 - before.0 >= 600 * 1_000_000, "ten minutes");
    assert!(matches!(hook.endpoint.state(), EndpointState::Failing { is_open: true, .. }));
}

/// An endpoint that is away for a while: calls that begin in it fail, each after some time.
struct Away {
    timeline: Timeline,
    failing_takes: Duration,
    back_at: TimeMicros,
    failed: AtomicUsize,
}

impl Destination for Away {
    fn limits(&self) -> Limits {
        Limits { events_max: 1, bytes_max: 1, give_up_after: None }
    }

    fn deliver<'a>(&'a self, _: Lines<'a>) -> Pending<'a, Result<(), DeliveryError>> {
        Box::pin(async {
            if self.timeline.now() >= self.back_at {
                return Ok(());
            }
            self.timeline.pause(self.failing_takes).await;
            self.failed.fetch_add(1, Ordering::Relaxed);
            Err(DeliveryError::Later { why: "away".to_owned(), after: None })
        })
    }
}

#[test]
fn under_load_the_fifth_failure_opens_the_circuit_and_who_waited_or_was_calling_lengthens_no_pause()
{
    let (millis, seconds) = (Duration::from_millis, Duration::from_secs);
    // A moment of 503s; and no answer within a timeout, over two probes.
    for (failing_takes, away, failed_max, over_at) in
        [(millis(10), millis(50), 8, seconds(2)), (seconds(10), seconds(35), 10, seconds(60))]
    {
        let (bench, timeline) = (Bench::new(FILE), Timeline::default());
        let (failed, back_at) = (AtomicUsize::new(0), timeline.now().plus(away));
        let away = Arc::new(Away { timeline: timeline.clone(), failing_takes, back_at, failed });
        let (name, time) = (DestinationName::new("hook").unwrap(), Arc::new(timeline.clone()));
        let to = bench.delivering_by(name, away.clone(), time);
        let at = [LineAt { offset: Offset(0), at: 0..3 }];
        let all_partitions = (0..16).map(|partition| {
            let source = PartitionId::new(bench.source.id, partition);
            let lines = Lines { lane: Lane::Normal, source, text: b"{}\n", lines: &at };
            to.deliver(lines, away.limits())
        });
        let asides = timeline.run(join_all(all_partitions));
        assert!(asides.concat().is_empty());
        assert_eq!(to.counters.delivered.count(), 16);
        let failed = away.failed.load(Ordering::Relaxed);
        assert!(failed <= failed_max, "{failed} calls failed");
        let took = Duration::from_micros(timeline.now().0.try_into().unwrap());
        assert!(took <= over_at, "it took {took:?}");
        assert_eq!(to.endpoint.state(), EndpointState::Well);
    }
}

#[test]
fn what_was_set_aside_is_tried_again_once_for_each_time_it_is_asked() {
    let bench = Bench::new(FILE);
    bench.write(6);
    let bad = Arc::new(Mutex::new(vec![2, 4]));
    let told = Arc::clone(&bad);
    let somebody = Somebody::new(move |offsets| {
        if told.lock().iter().any(|it| offsets.contains(it)) { no(400) } else { yes() }
    });
    let to = bench.webhook(somebody.clone());
    assert_eq!(bench.run(&to, usize::MAX), Poll::Pending);
    let retry = || {
        let (log, epoch) = (Arc::clone(&bench.rig.log), bench.rig.epoch);
        let retry = Retry { log, epoch, groups: bench.rig.groups(), to: Arc::clone(&to) };
        block_on(retry.run(std::future::pending())).unwrap()
    };
    assert_eq!(retry(), Retried { delivered: 0, undelivered: 2 });
    bad.lock().retain(|it| *it != 2);
    assert_eq!(retry(), Retried { delivered: 1, undelivered: 1 });
    bad.lock().clear();
    assert_eq!(retry(), Retried { delivered: 1, undelivered: 0 });
    assert_eq!(retry(), Retried::default());
    assert_eq!(somebody.offsets(), [0, 1, 3, 5, 2, 4]);
    let offsets: Vec<_> = bench.asides().into_iter().map(|it| it.0).collect();
    assert_eq!(offsets, [2, 4, 2, 4, 4]);
}

#[test]
fn a_retry_that_takes_long_is_not_taken_for_dead() {
    let bench = Arc::new(Bench::new(FILE));
    bench.write(6);
    let to = bench.webhook(Somebody::new(|_| no(400)));
    assert_eq!(bench.run(&to, usize::MAX), Poll::Pending);
    let groups = bench.rig.groups();
    let (slow, all) = (Arc::clone(&bench), Arc::clone(&groups));
    let somebody = Somebody::new(move |_| {
        slow.rig.pass_seconds(3);
        block_on(all.expire()).unwrap();
        yes()
    });
    let (log, epoch) = (Arc::clone(&bench.rig.log), bench.rig.epoch);
    let retry = Retry { log, epoch, groups, to: bench.webhook(somebody) };
    assert_eq!(
        block_on(retry.run(std::future::pending())).unwrap(),
        Retried { delivered: 6, undelivered: 0 }
    );
}

#[test]
fn a_name_that_was_a_topic_s_is_handed_nothing_of_that_time() {
    let bench = Bench::new(
        "[destinations.hook]\ntype = \"topic\"\n[[rules]]\nname = \"all\"\nto = [\"hook\"]\n",
    );
    bench.write(3);
    block_on(bench.routes().activate(FILE, TimeMicros(0), |_| Offset::ZERO)).unwrap();
    let bench = Bench { text: FILE.to_owned(), ..bench };
    bench.write(2);
    let somebody = Somebody::new(|_| yes());
    assert_eq!(bench.run(&bench.webhook(somebody.clone()), usize::MAX), Poll::Pending);
    assert_eq!(somebody.offsets(), [3, 4]);
}

#[test]
fn one_that_is_paused_is_not_called_and_goes_on() {
    let bench = Bench::new(FILE);
    bench.write(3);
    let somebody = Somebody::new(|_| yes());
    let hook = bench.webhook(somebody.clone());
    hook.hold.set(true);
    assert_eq!(bench.run(&hook, usize::MAX), Poll::Pending);
    assert!(somebody.offsets().is_empty());
    hook.hold.set(false);
    assert_eq!(bench.run(&hook, usize::MAX), Poll::Pending);
    assert_eq!(somebody.offsets(), [0, 1, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn over_crashes_and_failures_each_event_is_taken_or_set_aside_and_none_is_passed_over(
        steps in prop::collection::vec((0_u64..6, 0_usize..30), 1..12),
        answers in prop::collection::vec(prop::sample::select(vec![0_u16, 0, 0, 413, 503, 503]), 0..40),
    ) {
        let bench = Bench::new(FILE);
        let mut answers = answers.into_iter();
        // An event with this offset is never wanted.
        let somebody = Somebody::new(move |offsets| match answers.next() {
            Some(status @ 1..) if status != 413 => no(status),
            _ if offsets.contains(&3) => no(413),
            _ => yes(),
        });
        let hook = bench.webhook(somebody.clone());
        let mut count = 0;
        for (more, polls) in steps {
            bench.write(more);
            count += more;
            // A process that dies anywhere.
            drop(bench.run(&bench.webhook(somebody.clone()), polls));
        }
        prop_assert_eq!(bench.run(&hook, usize::MAX), Poll::Pending);
        let taken = somebody.offsets();
        let distinct: BTreeSet<_> = taken.iter().copied().collect();
        let wanted: BTreeSet<_> = (0..count).filter(|it| *it != 3).collect();
        prop_assert_eq!(distinct, wanted);
        let first_seen: Vec<_> = {
            let mut seen = BTreeSet::new();
            taken.into_iter().filter(|it| seen.insert(*it)).collect()
        };
        prop_assert!(first_seen.is_sorted(), "{:?}", first_seen);
        let asides: Vec<_> = bench.asides().into_iter().map(|(offset, _)| offset).collect();
        let refused: Vec<_> = (3..count.min(4)).collect();
        prop_assert_eq!(asides, refused, "set aside once, however often it was tried");
    }
}

fn lines(range: Range<u64>) -> (Vec<u8>, Vec<LineAt>) {
    let (mut text, mut lines) = (Vec::new(), Vec::new());
    for offset in range {
        let start = text.len();
        writeln!(text, "{{\"topic\":\"t\",\"offset\":{offset},\"appendedAt\":\"1970-01-01T00:00:02.000000Z\",\"pad\":\"{}\"}}", "x".repeat(40))
            .unwrap();
        lines.push(LineAt { offset: Offset(offset), at: start..text.len() });
    }
    (text, lines)
}

/// A topic that was made then.
fn topic(created: TimeMicros) -> Topic {
    let rig = Rig::new();
    Topic { created, ..rig.topic("enriched", 4) }
}

fn hand_over(files: &Files, range: Range<u64>) -> Result<(), DeliveryError> {
    let (text, at) = lines(range);
    let source = PartitionId::new(tracklog_protocol::TopicId(7), 3);
    let lines = Lines { lane: Lane::Normal, source, text: &text, lines: &at };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(files.deliver(lines))
}

/// The offsets in all files, in the order of their names.
fn offsets_in(folder: &Path) -> Vec<u64> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    paths.sort();
    let texts = paths.iter().map(|path| fs::read_to_string(path).unwrap());
    let offset =
        |line: &str| serde_json::from_str::<Json>(line).unwrap()["offset"].as_u64().unwrap();
    texts.flat_map(|text| text.lines().map(offset).collect::<Vec<_>>()).collect()
}

fn files(folder: &TempDir) -> Files {
    let spec = FileSpec { folder: folder.path().to_owned(), roll_bytes: 500 };
    Files::new(spec, &topic(TimeMicros(1_000_000)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_hold_each_event_once_over_crashes_that_tear_lines_and_forget_offsets(
        steps in prop::collection::vec((1_u64..12, 0_u64..12, any::<bool>(), 0_u64..200), 1..12),
    ) {
        let folder = TempDir::new().unwrap();
        let mut writing = files(&folder);
        let mut committed = 0;
        let mut written = 0;
        for (more, forgotten, dies, torn) in steps {
            // Whoever goes on begins at the last committed offset, which may lie before the end.
            let from = committed.max(written - written.min(forgotten));
            let next = from + more;
            hand_over(&writing, from..next).unwrap();
            written = written.max(next);
            if dies {
                // Something of a later write, without its line's end.
                let newest = fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().path()).max();
                let mut file = fs::OpenOptions::new().append(true).open(newest.unwrap()).unwrap();
                let line = format!("{{\"topic\":\"t\",\"offset\":{next},\"pad\":\"{}", "y".repeat(180));
                let torn = usize::try_from(torn).unwrap().min(line.len());
                file.write_all(&line.as_bytes()[..torn]).unwrap();
                writing = files(&folder);
            } else {
                committed = next;
            }
        }
        hand_over(&writing, committed..written + 1).unwrap();
        prop_assert_eq!(offsets_in(folder.path()), (0..=written).collect::<Vec<_>>());
    }
}

#[test]
fn a_file_that_is_large_enough_is_finished() {
    let folder = TempDir::new().unwrap();
    let writing = files(&folder);
    for from in (0..40).step_by(4) {
        hand_over(&writing, from..from + 4).unwrap();
    }
    let count = fs::read_dir(folder.path()).unwrap().count();
    assert!((4..8).contains(&count), "{count} files");
    assert!(folder.path().join("enriched-003-00000000000000000000.ndjson").exists());
    assert_eq!(offsets_in(folder.path()), (0..40).collect::<Vec<_>>());
}

#[test]
fn files_of_another_log_are_in_the_way() {
    let folder = TempDir::new().unwrap();
    hand_over(&files(&folder), 0..3).unwrap();
    let spec = FileSpec { folder: folder.path().to_owned(), roll_bytes: 500 };
    let younger = Files::new(spec, &topic(TimeMicros(3_000_000)));
    let told = hand_over(&younger, 0..3).unwrap_err();
    assert!(told.to_string().contains("is of another log"), "{told}");
    assert_eq!(offsets_in(folder.path()), [0, 1, 2]);
}

#[test]
fn a_folder_that_cannot_be_written_is_tried_again() {
    let folder = TempDir::new().unwrap();
    let spec = FileSpec { folder: folder.path().join("file/below"), roll_bytes: 500 };
    fs::write(folder.path().join("file"), b"").unwrap();
    let writing = Files::new(spec, &topic(TimeMicros(1_000_000)));
    assert!(matches!(hand_over(&writing, 0..2), Err(DeliveryError::Later { .. })));
    fs::remove_file(folder.path().join("file")).unwrap();
    hand_over(&writing, 0..2).unwrap();
    assert_eq!(offsets_in(&folder.path().join("file/below")), [0, 1]);
}
