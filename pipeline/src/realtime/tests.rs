//! The windows against a plain model, and the reader over a log in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracklog_log::conformance::block_on;
use tracklog_log::memory::MemoryLog;
use tracklog_log::meta::MetaTopic;
use tracklog_log::{Pending, Topic, TopicName};
use tracklog_protocol::event::{EventBuilder, EventKind, EventParts};
use tracklog_protocol::line::format_time;
use tracklog_protocol::{PartitionId, TimeMicros};

use super::ring::WINDOWS_KEPT;
use super::span::Window;
use super::windows::{NAME_BYTES_MAX, Seen, Windows};
use super::*;
use crate::groups::Clock;
use crate::outbound::{Accepted, Outbound, Post, PostError};
use crate::rig::Rig;
use crate::stage::Time;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;

fn paths() -> Vec<SumPath> {
    ["properties.total", "properties.quantity"].map(|path| path.parse().unwrap()).to_vec()
}

fn options(names_max: usize) -> LiveOptions {
    LiveOptions { names_max, reserved: Vec::new(), sums: paths() }
}

fn windows_of(names_max: usize) -> Windows {
    Windows::new(options(names_max), TimeMicros(0))
}

/// One event that the model remembers whole.
#[derive(Clone, Debug)]
struct Kept {
    name: String,
    stored: i64,
    happened: i64,
    numbers: [Option<f64>; 2],
}

fn add(windows: &mut Windows, event: &Kept) {
    windows.add(Seen {
        name: &event.name,
        stored: TimeMicros(event.stored),
        happened: TimeMicros(event.happened),
        numbers: &event.numbers,
    });
}

/// What is to be told of these events, all of one window.
fn figures<'e>(span: WindowSpan, events: impl Iterator<Item = &'e Kept>) -> Figures {
    let mut figures = Figures::default();
    for event in events {
        figures.count += 1;
        figures.late += u64::from(event.stored - event.happened > MINUTE);
        for (path, number) in paths().iter().zip(event.numbers) {
            let Some(number) = number else { continue };
            let sum = figures.sums.entry(path.as_str().to_owned()).or_default();
            *sum = SumFigure { sum: sum.sum + number, count: sum.count + 1 };
        }
    }
    figures.rate = figures.count as f64 / span.seconds() as f64;
    figures
}

/// Events in the order of their storing but for a few partitions that are read one after another.
fn events() -> impl Strategy<Value = Vec<Kept>> {
    let step = prop_oneof![
        8 => -900_000..900_000_i64,
        4 => 0..3 * SECOND,
        1 => 0..90 * SECOND,
        1 => 0..100 * MINUTE,
    ];
    let number = || proptest::option::of((-1_000..1_000_i32).prop_map(|n| f64::from(n) / 4.0));
    let event = ("[a-e]", step, 0..2 * MINUTE, [number(), number()]);
    proptest::collection::vec(event, 0..200).prop_map(|steps| {
        let mut now: i64 = 90 * MINUTE;
        let kept = |(name, step, age, numbers): (String, i64, i64, _)| {
            now = (now + step).max(0);
            Kept { name, stored: now, happened: now - age, numbers }
        };
        steps.into_iter().map(kept).collect()
    })
}

/// All windows that a reader may be asked for.
fn kept_windows(windows: &Windows, events: &[Kept]) -> Vec<Window> {
    let newest = events.iter().map(|event| event.stored).max().unwrap_or_default();
    let of = |span: WindowSpan| {
        let last = span.window_of(TimeMicros(newest)).index;
        (windows.first(span).index..=last + 2).map(move |index| Window { span, index })
    };
    WindowSpan::ALL.into_iter().flat_map(of).collect()
}

fn events_of(window: Window, events: &[Kept]) -> Vec<&Kept> {
    let lies = |event: &&Kept| window.span.window_of(TimeMicros(event.stored)) == window;
    events.iter().filter(lies).collect()
}

proptest! {
    #[test]
    fn windows_tell_what_a_list_of_all_events_tells(events in events()) {
        let mut windows = windows_of(100);
        events.iter().for_each(|event| add(&mut windows, event));
        for window in kept_windows(&windows, &events) {
            let of_window = events_of(window, &events);
            let read = windows.read(window, None, true);
            prop_assert_eq!(&read.begin, &format_time(window.begin()));
            prop_assert_eq!(&read.total, &figures(window.span, of_window.iter().copied()));
            let names: BTreeSet<_> = of_window.iter().map(|event| &*event.name).collect();
            prop_assert_eq!(read.names.len(), names.len());
            for told in &read.names {
                let of_name = of_window.iter().copied().filter(|event| event.name == name(told));
                let model = figures(window.span, of_name);
                prop_assert_eq!(told, &Figures { name: told.name.clone(), ..model });
                let alone = windows.read(window, told.name.as_deref(), true);
                prop_assert_eq!(&alone.names, std::slice::from_ref(told));
            }
            prop_assert!(read.names.is_sorted_by_key(|told| std::cmp::Reverse(told.count)));
            prop_assert_eq!(read.other, None);
        }
    }

    #[test]
    fn few_names_are_told_apart_and_no_event_is_lost(events in events(), names_max in 0..4_usize) {
        let mut windows = windows_of(names_max);
        for (at, event) in events.iter().enumerate() {
            add(&mut windows, event);
            prop_assert!(windows.names() <= names_max, "after {}", at);
        }
        for window in kept_windows(&windows, &events) {
            let of_window = events_of(window, &events);
            let read = windows.read(window, None, true);
            prop_assert_eq!(read.total.count, of_window.len() as u64);
            let all = read.names.iter().chain(&read.other);
            let (mut counts, mut lates, mut numbers) = (0, 0, BTreeMap::<String, u64>::new());
            for figures in all {
                counts += figures.count;
                lates += figures.late;
                for (path, sum) in &figures.sums {
                    *numbers.entry(path.clone()).or_default() += sum.count;
                }
            }
            prop_assert_eq!((counts, lates), (read.total.count, read.total.late));
            let of_all = read.total.sums.iter().map(|(path, sum)| (path.clone(), sum.count));
            prop_assert_eq!(numbers, of_all.collect());
        }
    }
}

fn at(second: i64, name: &str) -> Kept {
    let stored = second * SECOND;
    Kept { name: name.to_owned(), stored, happened: stored, numbers: [None; 2] }
}

#[test]
fn a_flood_of_names_ends_and_names_that_come_all_the_time_stay() {
    let mut windows = windows_of(10);
    for second in 0..600 {
        add(&mut windows, &at(second, "real"));
        (0..5).for_each(|n| add(&mut windows, &at(second, &format!("made up {second} {n}"))));
        assert!(windows.names() <= 10);
    }
    let minute = WindowSpan::Minute.window_of(TimeMicros(599 * SECOND));
    let read = windows.read(minute, Some("real"), true);
    assert_eq!(read.names[0].count, 60);
    (600..900).for_each(|second| add(&mut windows, &at(second, "new")));
    let read = windows.read(minute.plus(5), None, true);
    assert_eq!((name(&read.names[0]), read.names[0].count), ("new", 60));
    assert_eq!(read.other, None);
}

#[test]
fn a_reserved_name_is_told_apart_however_many_there_are_and_however_long_it_was_silent() {
    let reserved = vec!["rare".to_owned()];
    let mut windows = Windows::new(LiveOptions { reserved, ..options(3) }, TimeMicros(0));
    (0..7_200).for_each(|second| add(&mut windows, &at(second, &format!("made up {second}"))));
    add(&mut windows, &at(7_200, "rare"));
    let minute = WindowSpan::Minute.window_of(TimeMicros(7_200 * SECOND));
    assert_eq!(windows.read(minute, Some("rare"), true).names[0].count, 1);
}

#[test]
fn a_name_that_is_too_long_is_counted_with_the_others() {
    let mut windows = windows_of(10);
    add(&mut windows, &at(1, &"x".repeat(NAME_BYTES_MAX)));
    add(&mut windows, &at(1, &"x".repeat(NAME_BYTES_MAX + 1)));
    let read = windows.read(WindowSpan::Second.window_of(TimeMicros(SECOND)), None, true);
    assert_eq!((read.names.len(), read.other.unwrap().count), (1, 1));
}

#[test]
fn a_sum_beyond_all_numbers_stays_a_number() {
    let mut windows = windows_of(10);
    for _ in 0..3 {
        add(&mut windows, &Kept { numbers: [Some(f64::MAX), None], ..at(1, "a") });
    }
    let read = windows.read(WindowSpan::Second.window_of(TimeMicros(SECOND)), None, true);
    assert_eq!(read.total.sums["properties.total"].sum, f64::MAX);
    let text = serde_json::to_string(&read).unwrap();
    assert_eq!(serde_json::from_str::<LiveWindow>(&text).unwrap(), read);
}

/// The clock of the rig; a pause is over as soon as all others had their turn.
struct RigTime(Clock);

impl Time for RigTime {
    fn now(&self) -> TimeMicros {
        (self.0)()
    }

    fn pause(&self, _: Duration) -> Pending<'static, ()> {
        let mut turns = 0;
        Box::pin(std::future::poll_fn(move |context| {
            turns += 1;
            if turns > 3 {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }))
    }
}

struct Bench {
    rig: Rig,
    topic: Topic,
    live: Arc<Live<MemoryLog>>,
    stop: watch::Sender<bool>,
    reader: JoinHandle<()>,
}

impl Bench {
    /// At the rig's clock, 30 s into a minute.
    fn new() -> Self {
        let rig = Rig::new();
        rig.pass_seconds(10 * 60 + 30 - 1);
        let topic = rig.topic("enriched", 3);
        let time = Arc::new(RigTime(rig.clock()));
        let options = options(10);
        let live = Arc::new(Live::new(Arc::clone(&rig.log), topic.clone(), time, options));
        let (stop, stopped) = watch::channel(false);
        let reader = tokio::spawn(Arc::clone(&live).run(stopped));
        Self { rig, topic, live, stop, reader }
    }

    fn store(&self, partition: u32, name: Option<&str>, total: u32) {
        let mut builder = EventBuilder::new();
        let properties = format!("{{\"total\":{total}}}");
        let kind = if name.is_some() { EventKind::Track } else { EventKind::Page };
        let parts = EventParts {
            message_id: "m",
            kind,
            name,
            properties: Some(&properties),
            event_time: self.rig.now(),
            ..EventParts::default()
        };
        let partition: PartitionId = self.topic.partition(partition);
        self.rig.append(&[], &[(partition, builder.build(&parts))]).unwrap();
    }

    fn viewer(&self, view: View) -> Viewer<MemoryLog> {
        Viewer::new(Arc::clone(&self.live), view)
    }

    /// Lets the reader come to the end.
    async fn read(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(self.live.lag().records, 0);
    }

    async fn end(self) {
        self.stop.send_replace(true);
        self.reader.await.unwrap();
    }
}

fn name(figures: &Figures) -> &str {
    figures.name.as_deref().unwrap()
}

/// What is told now: spans, begin as seconds since the clock's zero, counts by name, and ids.
fn told(viewer: &mut Viewer<MemoryLog>) -> Vec<String> {
    let line = |told| match told {
        Told::Gap(LiveGap { window, next }) => format!("gap {} {}", window.as_str(), &next[14..19]),
        Told::Window { id, window, .. } => {
            let counts = window.names.iter().map(|it| format!(" {}={}", name(it), it.count));
            let (span, begin) = (window.window.as_str(), &window.begin[14..19]);
            format!("{span} {begin}{} id {id}", counts.collect::<String>())
        }
    };
    std::iter::from_fn(|| viewer.tell()).map(line).collect()
}

fn seconds(view: View) -> View {
    View { span: Some(WindowSpan::Second), ..view }
}

#[tokio::test]
async fn a_window_is_told_when_it_is_over_and_read() {
    let bench = Bench::new();
    let mut viewer = bench.viewer(View::default());
    bench.read().await;
    assert!(told(&mut viewer).is_empty());
    bench.store(0, Some("Bought"), 7);
    bench.store(1, Some("Bought"), 5);
    bench.store(2, None, 1);
    bench.read().await;
    assert!(told(&mut viewer).is_empty(), "its second is not over");
    let unfinished = viewer.unfinished().unwrap();
    assert!(!unfinished.complete);
    assert_eq!(unfinished.names[0].sums["properties.total"], SumFigure { sum: 12.0, count: 2 });
    bench.rig.pass_seconds(2);
    assert_eq!(told(&mut viewer), ["1s 10:29 id 630", "1s 10:30 Bought=2 $page=1 id 631"]);
    bench.rig.pass_seconds(29);
    let lines = told(&mut viewer);
    assert_eq!(lines.len(), 30, "{lines:?}");
    assert_eq!(lines[28..], ["1m 10:00 Bought=2 $page=1 id 660-1m", "1s 10:59 id 660"]);
    drop(viewer);
    bench.end().await;
}

#[tokio::test]
async fn whoever_comes_later_sees_the_minutes_that_are_and_were_whole() {
    let bench = Bench::new();
    for _ in 0..150 {
        bench.store(0, Some("Bought"), 1);
        bench.rig.pass_seconds(1);
    }
    // 10:30 to 12:59 have one a second; it is 13:00, and nobody has read any of it.
    assert_eq!(bench.live.counters().events.count(), 0);
    let view = View { span: Some(WindowSpan::Minute), last: 60, ..View::default() };
    let mut viewer = bench.viewer(view);
    assert!(told(&mut viewer).is_empty());
    bench.read().await;
    assert!(told(&mut viewer).is_empty(), "12:00 is not over for sure");
    bench.rig.pass_seconds(1);
    bench.read().await;
    assert_eq!(told(&mut viewer), ["1m 12:00 Bought=60 id 780-1m"]);
    assert_eq!(bench.live.counters().events.count(), 60, "no more than that was read");
    drop(viewer);
    bench.end().await;
}

#[tokio::test]
async fn a_viewer_goes_on_where_it_was() {
    let bench = Bench::new();
    let mut first = bench.viewer(View::default());
    bench.read().await;
    assert!(told(&mut first).is_empty());
    bench.rig.pass_seconds(5);
    let lines = told(&mut first);
    assert_eq!(lines.last().unwrap(), "1s 10:33 id 634");
    let mut second = bench.viewer(seconds(View { after: "632".parse().ok(), ..View::default() }));
    assert_eq!(told(&mut second), ["1s 10:32 id 633", "1s 10:33 id 634"]);
    let mut third = bench.viewer(seconds(View { last: 1, ..View::default() }));
    assert_eq!(told(&mut third), ["1s 10:33 id 634"]);
    let mut from_elsewhere =
        bench.viewer(seconds(View { after: "99999".parse().ok(), ..View::default() }));
    assert!(told(&mut from_elsewhere).is_empty());
    bench.rig.pass_seconds(1);
    assert_eq!(told(&mut from_elsewhere), ["1s 10:34 id 635"]);
    bench.end().await;
}

#[tokio::test]
async fn whoever_goes_on_is_told_nothing_twice_wherever_it_was() {
    let bench = Bench::new();
    let mut whole = bench.viewer(View::default());
    bench.read().await;
    assert!(told(&mut whole).is_empty());
    bench.rig.pass_seconds(32);
    let lines = told(&mut whole);
    assert!(lines.iter().any(|line| line.starts_with("1m")), "{lines:?}");
    for (at, line) in lines.iter().enumerate() {
        let (_, id) = line.split_once(" id ").unwrap();
        let mut again = bench.viewer(View { after: id.parse().ok(), ..View::default() });
        assert_eq!(told(&mut again), lines[at + 1..], "behind {line}");
    }
    bench.end().await;
}

#[tokio::test]
async fn a_viewer_that_sleeps_too_long_is_told_what_it_missed() {
    let bench = Bench::new();
    let mut viewer = bench.viewer(seconds(View::default()));
    bench.read().await;
    assert!(told(&mut viewer).is_empty());
    bench.rig.pass_seconds(2 * WINDOWS_KEPT);
    bench.store(0, Some("Bought"), 1);
    bench.read().await;
    bench.rig.pass_seconds(2);
    let lines = told(&mut viewer);
    assert_eq!(lines[0], "gap 1s 11:32");
    assert_eq!(lines[1], "1s 11:32 id 693");
    assert_eq!(lines.last().unwrap(), "1s 12:32 Bought=1 id 753");
    bench.end().await;
}

#[tokio::test]
async fn one_name_alone_is_told_beside_all() {
    let bench = Bench::new();
    let only = Some("Bought".to_owned());
    let mut viewer = bench.viewer(seconds(View { name: only, ..View::default() }));
    bench.read().await;
    assert!(told(&mut viewer).is_empty());
    bench.store(0, Some("Bought"), 1);
    bench.store(0, Some("Viewed"), 1);
    bench.read().await;
    bench.rig.pass_seconds(2);
    let last = std::iter::from_fn(|| viewer.tell()).last().unwrap();
    let Told::Window { window, .. } = last else { panic!("{last:?}") };
    assert_eq!((window.total.count, window.names.len()), (2, 1));
    assert_eq!(name(&window.names[0]), "Bought");
    bench.end().await;
}

#[tokio::test]
async fn nothing_is_read_and_nothing_kept_while_nobody_watches() {
    let bench = Bench::new();
    bench.store(0, Some("Bought"), 1);
    bench.read_nothing().await;
    let viewer = bench.viewer(View::default());
    bench.read().await;
    assert_eq!((bench.live.viewers(), bench.live.names()), (1, 1));
    drop(viewer);
    bench.read_nothing().await;
    assert_eq!((bench.live.viewers(), bench.live.names()), (0, 0), "the pause is over");
    assert_eq!(bench.live.lag(), LiveLag::default());
    bench.end().await;
}

#[tokio::test]
async fn a_reader_that_was_held_up_goes_on_from_the_newest_and_says_so() {
    let bench = Bench::new();
    bench.stop.send_replace(true);
    let mut viewer = bench.viewer(seconds(View::default()));
    bench.live.begin().await.unwrap();
    let (from, is_far) = bench.live.next_places();
    assert!(told(&mut viewer).is_empty() && !is_far);
    bench.store(0, Some("Bought"), 1);
    bench.rig.pass_seconds(9);
    assert_eq!(bench.live.next_places().0, from, "it is not too far behind");
    assert_eq!(bench.live.lag(), LiveLag { records: 1, seconds: 9.0 });
    assert!(told(&mut viewer).is_empty(), "not all of it is read");
    bench.rig.pass_seconds(2);
    assert_ne!(bench.live.next_places().0, from);
    assert_eq!(bench.live.lag(), LiveLag::default());
    assert_eq!(bench.live.counters().skipped.count(), 1);
    bench.rig.pass_seconds(2);
    assert_eq!(told(&mut viewer), ["gap 1s 10:41", "1s 10:41 id 642"]);
    bench.reader.await.unwrap();
}

impl Bench {
    async fn read_nothing(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
}

/// Webhooks that answer as they are told to, and note what they were sent.
#[derive(Default)]
struct Webhooks {
    calls: Mutex<Vec<(String, serde_json::Value)>>,
    failures: Mutex<Vec<PostError>>,
}

impl Outbound for Webhooks {
    fn post(&self, post: Post) -> Pending<'_, Result<Accepted, PostError>> {
        let id = post.headers["webhook-id"].to_str().unwrap().to_owned();
        let body: serde_json::Value = serde_json::from_slice(&post.body).unwrap();
        assert_eq!(body["id"], *id);
        self.calls.lock().push((id, body));
        let failed = self.failures.lock().pop();
        Box::pin(std::future::ready(failed.map_or(Ok(Accepted { status: 200 }), Err)))
    }
}

impl Webhooks {
    /// What each call told of which threshold.
    fn told(&self) -> Vec<String> {
        let told = |(_, body): &(String, serde_json::Value)| {
            let text = |name: &str| body[name].as_str().unwrap().to_owned();
            format!("{} {} {}", text("threshold"), &text("type")[10..], body["value"])
        };
        self.calls.lock().iter().map(told).collect()
    }
}

fn above(name: &str, limit: f64) -> Alert {
    let threshold = Threshold {
        name: name.to_owned(),
        event: Some("Bought".to_owned()),
        of: Measure::Count,
        window: WindowSpan::Second,
        limit: Limit::Above { limit, back: limit },
        hold: Duration::ZERO,
    };
    Alert { threshold, target: "http://127.0.0.1/hook".parse().unwrap(), key: None }
}

impl Bench {
    /// Looks at thresholds until it is stopped, by what the log says of them.
    fn alert(
        &self,
        webhooks: &Arc<Webhooks>,
        alerts: Vec<Alert>,
    ) -> (Arc<Alerts<MemoryLog>>, watch::Sender<bool>, JoinHandle<()>) {
        let name = TopicName::new("_thresholds").unwrap();
        let meta = MetaTopic::open(Arc::clone(&self.rig.log), self.rig.epoch, name);
        let meta = Arc::new(block_on(meta).unwrap());
        let time = Arc::new(RigTime(self.rig.clock()));
        let (live, webhooks) = (Arc::clone(&self.live), Arc::clone(webhooks) as _);
        let alerts = Arc::new(Alerts::new(live, meta, webhooks, time, alerts));
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(Arc::clone(&alerts).run(stopped));
        (alerts, stop, running)
    }

    async fn pass(&self, seconds: i64) {
        for _ in 0..seconds {
            self.rig.pass_seconds(1);
            self.read_nothing().await;
        }
    }
}

#[tokio::test]
async fn a_webhook_is_called_once_when_crossed_and_once_when_over_whoever_dies_between() {
    let (bench, webhooks) = (Bench::new(), Arc::new(Webhooks::default()));
    let (alerts, stop, running) = bench.alert(&webhooks, vec![above("much", 1.0)]);
    bench.read_nothing().await;
    for _ in 0..4 {
        bench.store(0, Some("Bought"), 1);
        bench.store(1, Some("Bought"), 1);
        bench.pass(1).await;
    }
    assert_eq!(webhooks.told(), ["much crossed 2.0"]);
    assert_eq!(alerts.each().map(|(_, is_crossed, ..)| is_crossed).collect::<Vec<_>>(), [true]);
    stop.send_replace(true);
    running.await.unwrap();
    let (alerts, stop, running) = bench.alert(&webhooks, vec![above("much", 1.0)]);
    assert!(alerts.each().all(|(_, is_crossed, ..)| is_crossed), "it is not forgotten");
    bench.pass(5).await;
    assert_eq!(webhooks.told(), ["much crossed 2.0", "much over 0.0"]);
    stop.send_replace(true);
    running.await.unwrap();
    let (_, stop, running) = bench.alert(&webhooks, vec![above("other", 1.0)]);
    bench.pass(3).await;
    stop.send_replace(true);
    running.await.unwrap();
    let (alerts, stop, running) = bench.alert(&webhooks, vec![above("much", 1.0)]);
    bench.pass(3).await;
    assert_eq!(webhooks.told().len(), 2, "what is past is not told again: {:?}", webhooks.told());
    assert!(alerts.each().all(|(_, is_crossed, waiting, _)| !is_crossed && waiting == 0));
    stop.send_replace(true);
    running.await.unwrap();
    bench.end().await;
}

#[tokio::test]
async fn a_call_that_fails_is_made_again_and_delays_no_other() {
    let (bench, webhooks) = (Bench::new(), Arc::new(Webhooks::default()));
    let busy = PostError::status(503, Some(Duration::from_secs(30)), b"later");
    webhooks.failures.lock().push(busy);
    let both = || vec![above("first", 1.0), above("second", 1.0)];
    let (alerts, stop, running) = bench.alert(&webhooks, both());
    bench.read_nothing().await;
    bench.store(0, Some("Bought"), 1);
    bench.store(0, Some("Bought"), 1);
    bench.pass(10).await;
    let before = ["first crossed 2.0", "second crossed 2.0", "second over 0.0"];
    assert_eq!(webhooks.told(), before, "the first waits with both");
    stop.send_replace(true);
    running.await.unwrap();
    drop(alerts);
    let (alerts, stop, running) = bench.alert(&webhooks, both());
    bench.pass(30).await;
    assert_eq!(webhooks.told()[3..], ["first crossed 2.0", "first over 0.0"]);
    let ids: Vec<_> = webhooks.calls.lock().iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids[0], ids[3], "under the same id");
    assert_eq!(alerts.each().next().unwrap().3.told.count(), 2);
    stop.send_replace(true);
    running.await.unwrap();
    bench.end().await;
}

#[tokio::test]
async fn a_call_that_is_refused_is_not_made_again() {
    let (bench, webhooks) = (Bench::new(), Arc::new(Webhooks::default()));
    webhooks.failures.lock().push(PostError::status(404, None, b"no such hook"));
    let (alerts, stop, running) = bench.alert(&webhooks, vec![above("much", 0.0)]);
    bench.read_nothing().await;
    bench.store(0, Some("Bought"), 1);
    bench.pass(10).await;
    assert_eq!(webhooks.told(), ["much crossed 1.0", "much over 0.0"]);
    let counters = alerts.each().next().unwrap().3;
    let counts = [&counters.told, &counters.failed, &counters.given_up].map(|it| it.count());
    assert_eq!(counts, [1, 1, 1]);
    stop.send_replace(true);
    running.await.unwrap();
    bench.end().await;
}

#[tokio::test]
async fn messages_say_what_is_crossed_to_programs_and_people() {
    let (bench, webhooks) = (Bench::new(), Arc::new(Webhooks::default()));
    let mut alert = above("takings", 10.0);
    alert.threshold.of = Measure::Sum("properties.total".parse().unwrap());
    let (_, stop, running) = bench.alert(&webhooks, vec![alert]);
    bench.read_nothing().await;
    bench.store(0, Some("Bought"), 12);
    bench.pass(2).await;
    let (_, body) = webhooks.calls.lock()[0].clone();
    assert_eq!(
        body["text"],
        "takings is crossed: above 10. Bought, sum of properties.total in 1s: 12"
    );
    for (name, value) in [
        ("of", serde_json::json!("sum")),
        ("property", serde_json::json!("properties.total")),
        ("event", serde_json::json!("Bought")),
        ("window", serde_json::json!("1s")),
        ("above", serde_json::json!(10.0)),
        ("below", serde_json::Value::Null),
    ] {
        assert_eq!(body[name], value, "{name}");
    }
    assert_eq!(&body["begin"].as_str().unwrap()[14..19], "10:30");
    stop.send_replace(true);
    running.await.unwrap();
    bench.end().await;
}
