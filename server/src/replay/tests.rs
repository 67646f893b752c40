//! Replays over the log in memory: order, bounds, filters, and what is told of gone records.

use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::{Append, Domain, Epoch, Item, Lane, Retention, TopicName, TopicSpec};
use tracklog_protocol::event::{EventBuilder, EventParts};

use super::*;

/// A log of one topic, whose clock the test holds.
pub(crate) struct Rig {
    pub(crate) log: Arc<MemoryLog>,
    clock: Arc<AtomicI64>,
    epoch: Epoch,
    pub(crate) topic: Topic,
}

/// One event to append.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sent<'a> {
    partition: u32,
    name: &'a str,
    user: Option<&'a str>,
    event_time: i64,
}

impl<'a> Sent<'a> {
    pub(crate) fn new(partition: u32, name: &'a str, event_time: i64) -> Self {
        Self { partition, name, event_time, ..Self::default() }
    }
}

impl Rig {
    pub(crate) async fn new(partitions: u32) -> Self {
        let clock = Arc::new(AtomicI64::new(1_000));
        let reads = Arc::clone(&clock);
        let log = Arc::new(MemoryLog::new(MemoryOptions {
            clock: Arc::new(move || TimeMicros(reads.load(Ordering::Relaxed))),
            budget_bytes: 64 << 20,
        }));
        let epoch = log.open(Domain::WHOLE).await.unwrap();
        let name = TopicName::new("raw").unwrap();
        let spec = TopicSpec { name, partitions, retention: Retention::Keep };
        let topic = log.create_topic(spec).await.unwrap();
        Self { log, clock, epoch, topic }
    }

    /// One commit with these events, at `time`.
    pub(crate) async fn append(&self, time: i64, events: &[Sent<'_>]) {
        self.clock.store(time, Ordering::Relaxed);
        let mut builders: Vec<_> = events.iter().map(|_| EventBuilder::new()).collect();
        let items: Vec<_> = events
            .iter()
            .zip(&mut builders)
            .map(|(sent, builder)| {
                let record = builder.build(&EventParts {
                    message_id: "m",
                    name: Some(sent.name),
                    source: Some("default"),
                    user_id: sent.user,
                    event_time: TimeMicros(sent.event_time),
                    ..EventParts::default()
                });
                Item::Record { partition: self.topic.partition(sent.partition), record }
            })
            .collect();
        let permit = self.log.reserve(Lane::FIRST_SOURCE, 1 << 10).unwrap();
        let append = Append { conditions: &[], items: &items };
        self.log.append(permit, self.epoch, append).await.unwrap();
    }

    async fn open(&self, query: Query) -> Result<Replay, ReplayError> {
        let log = Arc::clone(&self.log) as Arc<dyn Log>;
        Replay::open(log, self.topic.clone(), query).await
    }

    /// Names and places of a whole reading, and its notes.
    async fn read(&self, query: Query) -> (Vec<String>, Vec<String>) {
        let mut replay = self.open(query).await.unwrap();
        let mut lines = Vec::new();
        let mut notes = Vec::new();
        loop {
            let step = replay.next(&mut lines).await.unwrap();
            notes.extend(replay.take_notes().iter().map(|note| note.message("raw")));
            if step == Step::Done {
                return (places(&lines), notes);
            }
        }
    }
}

/// `name@partition:offset` of each line.
pub(crate) fn places(lines: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(lines).unwrap();
    let place = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = line["event"].as_str().unwrap();
        format!("{name}@{}:{}", line["partition"], line["offset"])
    };
    text.lines().map(place).collect()
}

pub(crate) fn named(partition: u32, name: &str) -> Sent<'_> {
    Sent { partition, name, ..Sent::default() }
}

fn from(bound: Bound) -> Query {
    Query { from: Some(bound), ..Query::default() }
}

pub(crate) fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let limit = Duration::from_secs(20);
    runtime.block_on(async { tokio::time::timeout(limit, test).await.expect("it ends in time") });
}

#[test]
fn lines_come_by_append_time_then_partition_then_offset() {
    block_on(async {
        let rig = Rig::new(3).await;
        rig.append(10, &[named(2, "a"), named(0, "b"), named(2, "c")]).await;
        rig.append(20, &[named(1, "d")]).await;
        rig.append(30, &[named(0, "e"), named(2, "f")]).await;
        let (lines, notes) = rig.read(Query::default()).await;
        assert_eq!(lines, ["b@0:0", "a@2:0", "c@2:1", "d@1:0", "e@0:1", "f@2:2"]);
        assert!(notes.is_empty());
    });
}

#[test]
fn a_range_begins_at_from_and_ends_before_to() {
    block_on(async {
        let rig = Rig::new(2).await;
        for time in [10, 20, 30, 40] {
            rig.append(time, &[named(0, "a"), named(1, "b")]).await;
        }
        let time = |micros| Bound::Time(TimeMicros(micros));
        let query = Query { to: Some(time(40)), ..from(time(20)) };
        assert_eq!(rig.read(query).await.0, ["a@0:1", "b@1:1", "a@0:2", "b@1:2"]);
        let offset = |offset| Bound::Offset(Offset(offset));
        let query = Query { to: Some(offset(2)), partition: Some(1), ..from(offset(1)) };
        assert_eq!(rig.read(query).await.0, ["b@1:1"]);
        let query = Query { to: Some(offset(1)), ..from(offset(3)) };
        assert!(rig.read(query).await.0.is_empty(), "a range that ends before it begins");
        assert!(rig.read(from(Bound::Now)).await.0.is_empty());
    });
}

/// Event times 10:00, 10:09, 10:03, 10:12: no event in the asked range is skipped, though their
/// times come in no order.
#[test]
fn unordered_event_times_are_found_all() {
    block_on(async {
        let rig = Rig::new(1).await;
        for (at, minute) in [(1, 0), (2, 9), (3, 3), (4, 12)] {
            let event = Sent { event_time: minute * 60_000_000, ..named(0, "e") };
            rig.append(at, &[event]).await;
        }
        let query = |from: i64, to: Option<i64>| Query {
            from_event_time: Some(TimeMicros(from)),
            to_event_time: to.map(TimeMicros),
            ..Query::default()
        };
        let minute = 60_000_000;
        assert_eq!(rig.read(query(5 * minute, None)).await.0, ["e@0:1", "e@0:3"]);
        assert_eq!(rig.read(query(10 * minute, None)).await.0, ["e@0:3"]);
        assert!(rig.read(query(12 * minute + 1, None)).await.0.is_empty());
        assert_eq!(rig.read(query(0, Some(4 * minute))).await.0, ["e@0:0", "e@0:2"]);
    });
}

#[test]
fn a_time_before_what_is_left_begins_there_and_says_so() {
    block_on(async {
        let rig = Rig::new(1).await;
        for time in [10, 20, 30] {
            rig.append(time, &[named(0, "a")]).await;
        }
        rig.log.trim(rig.topic.partition(0), Offset(2)).await.unwrap();
        let says = "raw/0 begins at offset 2: older records are gone";
        for bound in [Bound::Time(TimeMicros(5)), Bound::Offset(Offset(0))] {
            let (lines, notes) = rig.read(from(bound)).await;
            assert_eq!((lines, notes), (vec!["a@0:2".to_owned()], vec![says.to_owned()]));
        }
        let (lines, notes) = rig.read(from(Bound::Offset(Offset(2)))).await;
        assert_eq!((lines.len(), notes.len()), (1, 0), "what was asked for is there");
    });
}

#[test]
fn an_offset_beyond_every_end_is_refused_and_beyond_one_is_not() {
    block_on(async {
        let rig = Rig::new(2).await;
        rig.append(10, &[named(0, "a"), named(0, "b"), named(1, "c")]).await;
        assert_eq!(rig.read(from(Bound::Offset(Offset(1)))).await.0, ["b@0:1"]);
        assert!(rig.read(from(Bound::Offset(Offset(2)))).await.0.is_empty());
        let refused = rig.open(from(Bound::Offset(Offset(3)))).await.unwrap_err().to_string();
        assert_eq!(
            refused,
            "offset 3 is beyond the end of raw: the longest partition's end is at 2"
        );
        let query = Query { partition: Some(1), ..from(Bound::Offset(Offset(2))) };
        let refused = rig.open(query).await.unwrap_err().to_string();
        assert_eq!(refused, "offset 2 is beyond the end of raw: the end of partition 1 is at 1");
        let query = Query { partition: Some(2), ..Query::default() };
        let refused = rig.open(query).await.unwrap_err().to_string();
        assert_eq!(refused, "topic raw has no partition 2: it has 2, from 0");
    });
}

#[test]
fn names_are_matched_letter_by_letter() {
    block_on(async {
        let rig = Rig::new(1).await;
        let names = ["a.b", "a*b", "Order (new)", "*", "aXb", "say \"hi\" [1]"];
        let events: Vec<_> = names.iter().map(|name| named(0, name)).collect();
        rig.append(10, &events).await;
        for (offset, name) in names.iter().enumerate() {
            let filter = Filter { event: Some((*name).to_owned()), ..Filter::default() };
            let (lines, _) = rig.read(Query { filter, ..Query::default() }).await;
            assert_eq!(lines, [format!("{name}@0:{offset}")]);
        }
    });
}

#[test]
fn filters_add_up_and_the_limit_counts_lines() {
    block_on(async {
        let rig = Rig::new(1).await;
        let of = |user, name| Sent { user: Some(user), ..named(0, name) };
        rig.append(10, &[of("7", "a"), of("8", "a"), of("7", "b"), of("7", "a")]).await;
        let filter = Filter {
            event: Some("a".to_owned()),
            source: Some("default".to_owned()),
            user: Some("7".to_owned()),
        };
        let query = Query { filter: filter.clone(), ..Query::default() };
        assert_eq!(rig.read(query.clone()).await.0, ["a@0:0", "a@0:3"]);
        let query = Query { limit: Some(1), ..query };
        assert_eq!(rig.read(query).await.0, ["a@0:0"]);
        let none = Query { limit: Some(0), ..Query::default() };
        assert!(rig.read(none).await.0.is_empty());
        let filter = Filter { source: Some("other".to_owned()), ..filter };
        assert!(rig.read(Query { filter, ..Query::default() }).await.0.is_empty());
    });
}

#[test]
fn the_last_lines_are_those_at_the_end_of_the_merged_order() {
    block_on(async {
        let rig = Rig::new(3).await;
        rig.append(10, &[named(2, "a"), named(0, "b"), named(2, "c")]).await;
        rig.append(20, &[named(1, "d")]).await;
        rig.append(20, &[named(0, "e"), named(2, "f")]).await;
        rig.append(30, &[named(1, "d")]).await;
        let (all, _) = rig.read(Query::default()).await;
        for last in 0..=8 {
            let query = Query { last: Some(last), ..Query::default() };
            let at = all.len().saturating_sub(usize::try_from(last).unwrap());
            assert_eq!(rig.read(query.clone()).await.0, all[at..], "{last}");
            let query = Query { limit: Some(1), ..query };
            assert_eq!(rig.read(query).await.0, all[at..].first().cloned().as_slice(), "{last}");
        }
        let query = Query { last: Some(2), partition: Some(2), ..Query::default() };
        assert_eq!(rig.read(query).await.0, ["c@2:1", "f@2:2"]);
        let to = Some(Bound::Time(TimeMicros(20)));
        let query = Query { last: Some(2), to, ..Query::default() };
        assert_eq!(rig.read(query).await.0, ["a@2:0", "c@2:1"], "of a range");
        rig.log.trim(rig.topic.partition(2), Offset(2)).await.unwrap();
        let query = Query { last: Some(100), ..Query::default() };
        let (lines, notes) = rig.read(query).await;
        assert_eq!((lines.len(), notes.len()), (5, 0), "what is left");
    });
}

#[test]
fn the_last_lines_are_counted_after_filters() {
    block_on(async {
        let rig = Rig::new(4).await;
        for round in 0..3_000_u32 {
            let name = if round % 1_000 == 7 { "rare" } else { "often" };
            rig.append(i64::from(round / 10), &[named(round % 4, name)]).await;
        }
        let last = |event: &str, last| Query {
            filter: Filter { event: Some(event.to_owned()), ..Filter::default() },
            last: Some(last),
            ..Query::default()
        };
        assert_eq!(rig.read(last("rare", 2)).await.0, ["rare@3:251", "rare@3:501"]);
        assert_eq!(rig.read(last("rare", 9)).await.0.len(), 3);
        assert_eq!(rig.read(last("often", 2_500)).await.0.len(), 2_500);
        assert!(rig.read(last("none", 1)).await.0.is_empty());
    });
}

#[test]
fn after_the_last_lines_a_reading_may_follow() {
    block_on(async {
        let rig = Rig::new(2).await;
        rig.append(10, &[named(0, "a"), named(1, "b"), named(1, "c")]).await;
        let query = Query { follow: true, last: Some(1), limit: Some(3), ..Query::default() };
        let mut replay = rig.open(query).await.unwrap();
        rig.append(10, &[named(0, "d"), named(1, "e")]).await;
        let mut lines = Vec::new();
        while replay.next(&mut lines).await.unwrap() == Step::More {}
        assert_eq!(places(&lines), ["c@1:1", "d@0:1", "e@1:2"]);
    });
}

#[test]
fn what_is_appended_after_the_opening_is_outside_unless_followed() {
    block_on(async {
        let rig = Rig::new(2).await;
        rig.append(10, &[named(0, "a")]).await;
        let mut bounded = rig.open(Query::default()).await.unwrap();
        let query = Query { follow: true, limit: Some(3), ..Query::default() };
        let mut followed = rig.open(query).await.unwrap();
        rig.append(20, &[named(1, "b")]).await;
        let mut lines = Vec::new();
        while bounded.next(&mut lines).await.unwrap() == Step::More {}
        assert_eq!(places(&lines), ["a@0:0"]);
        assert_eq!((bounded.records(), bounded.passed()), (1, 1));

        let mut lines = Vec::new();
        assert_eq!(followed.next(&mut lines).await.unwrap(), Step::More);
        assert_eq!(followed.next(&mut lines).await.unwrap(), Step::More);
        assert_eq!(places(&lines), ["a@0:0", "b@1:0"]);
        let late = async { rig.append(30, &[named(0, "c"), named(1, "d")]).await };
        let (step, ()) = tokio::join!(followed.next(&mut lines), late);
        assert_eq!(step.unwrap(), Step::Done, "the limit was reached");
        assert_eq!(places(&lines), ["a@0:0", "b@1:0", "c@0:1"]);
    });
}

#[test]
fn a_dropped_wait_loses_nothing() {
    block_on(async {
        let rig = Rig::new(1).await;
        let query = Query { follow: true, ..Query::default() };
        let mut replay = rig.open(query).await.unwrap();
        let mut lines = Vec::new();
        let wait = replay.next(&mut lines);
        assert!(tokio::time::timeout(Duration::ZERO, wait).await.is_err());
        rig.append(10, &[named(0, "a")]).await;
        replay.next(&mut lines).await.unwrap();
        assert_eq!(places(&lines), ["a@0:0"]);
    });
}

#[test]
fn a_topic_that_is_deleted_ends_the_reading() {
    block_on(async {
        let rig = Rig::new(1).await;
        rig.append(10, &[named(0, "a")]).await;
        let query = Query { follow: true, ..Query::default() };
        let mut replay = rig.open(query).await.unwrap();
        let mut lines = Vec::new();
        replay.next(&mut lines).await.unwrap();
        rig.log.delete_topic(&rig.topic.spec.name).await.unwrap();
        let error = replay.next(&mut lines).await.unwrap_err();
        assert_eq!(error.to_string(), "topic raw was deleted");
    });
}

#[test]
fn records_that_go_while_they_are_read_are_told() {
    block_on(async {
        let rig = Rig::new(1).await;
        for time in [10, 20, 30] {
            rig.append(time, &[named(0, "a")]).await;
        }
        let mut replay = rig.open(Query::default()).await.unwrap();
        rig.log.trim(rig.topic.partition(0), Offset(2)).await.unwrap();
        let mut lines = Vec::new();
        assert_eq!(replay.next(&mut lines).await.unwrap(), Step::More);
        let told = Note::Gone { partition: 0, from: Offset(0), to: Offset(2) };
        assert_eq!(replay.take_notes(), [told]);
        replay.next(&mut lines).await.unwrap();
        assert_eq!(places(&lines), ["a@0:2"]);
    });
}

#[test]
fn many_lines_come_in_bounded_pieces() {
    block_on(async {
        let rig = Rig::new(4).await;
        for round in 0..60 {
            let events: Vec<_> = (0..200).map(|n| named(n % 4, "a")).collect();
            rig.append(1_000 + round, &events).await;
        }
        let mut replay = rig.open(Query::default()).await.unwrap();
        let mut all = Vec::new();
        loop {
            let mut lines = Vec::new();
            let step = replay.next(&mut lines).await.unwrap();
            assert!(lines.len() < LINES_BYTES + 1_000);
            all.extend(places(&lines));
            if step == Step::Done {
                break;
            }
        }
        assert_eq!(all.len(), 12_000);
        assert_eq!(replay.passed(), replay.records());
    });
}

#[test]
fn notes_are_objects_of_one_field_on_a_line_of_their_own() {
    let what = "segment 7: the checksum \"body\" does not fit".to_owned();
    let damage = Note::Damage { partition: 3, from: Offset(5), to: Offset(9), what };
    let line = damage.to_line("raw");
    let read: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(read["damage"]["to"], 9);
    assert!(line.starts_with("{\"damage\":") && line.ends_with('\n'));
    let begins = Note::Begins { partition: 0, offset: Offset(4) };
    assert!(begins.to_line("raw").starts_with("{\"notice\":{\"topic\":\"raw\""));
}
