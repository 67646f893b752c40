//! What a log makes of events that are sent again: each is stored once, and nothing is swallowed.

use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::event::{EventBuilder, EventFlags, EventParts, EventView};
use tracklog_protocol::{Offset, PartitionId, PayloadKind, Records, TimeMicros, VerifiedBatch};

use super::rig::{Opened, Rig, name, next_offset};
use super::task::block_on;
use crate::dedupe::{EVENTS_PER_ID_MAX, OnceError, Outcomes, Verdict, VerdictKind, append_once};
use crate::{Append, AppendError, Condition, Fetch, FetchMode, Item, Lane, SeenAt};

super::list_cases!(
    a_repeated_event_is_acked_with_its_first_place,
    an_append_of_seen_events_stores_nothing_and_says_where_they_are,
    an_event_repeated_in_flight_is_told_of_when_the_first_is_durable,
    an_event_is_known_whatever_partition_it_comes_to,
    an_event_is_known_after_a_reopening,
    the_same_id_of_another_source_is_another_event,
    each_topic_knows_its_own_events,
    a_topic_that_is_not_deduplicated_keeps_every_event,
    the_same_id_with_another_content_is_kept_marked_and_known_again,
    of_an_append_the_new_events_are_stored,
    an_id_twice_in_one_append_is_stored_once,
    of_two_contents_of_an_id_again_and_again_in_one_append_each_is_stored_once,
    an_id_with_two_contents_in_one_append_is_stored_twice,
    the_events_of_a_batch_are_known,
    what_differs_is_stored_in_spite_of_its_id,
    a_refused_append_leaves_no_ids,
    conditions_are_asked_of_what_is_stored,
    a_trimmed_event_is_known_no_more,
    a_topic_made_again_knows_nothing,
    an_id_of_many_contents_is_known_for_the_first_of_them,
    an_id_of_many_contents_is_known_anew_when_the_first_of_them_are_gone,
);

/// The content of an event, and what changes from one attempt to the next.
#[derive(Clone, Copy)]
struct Sent<'a> {
    source: &'a str,
    id: &'a str,
    properties: &'a str,
    sent_at: &'a str,
}

const fn sent<'a>(id: &'a str, properties: &'a str) -> Sent<'a> {
    Sent { source: "web", id, properties, sent_at: "at first" }
}

fn records(events: &[Sent<'_>]) -> Records {
    let mut records = Records::new();
    for Sent { source, id, properties, sent_at } in events {
        let parts = EventParts {
            message_id: id,
            source: Some(source),
            properties: Some(properties),
            sent_time_text: Some(sent_at),
            event_time: TimeMicros(5),
            ..EventParts::default()
        };
        records.push(EventBuilder::new().build(&parts));
    }
    records
}

fn items(partition: PartitionId, records: &Records) -> Vec<Item<'_>> {
    records.iter().map(|record| Item::Record { partition, record }).collect()
}

fn batch_of(events: &[Sent<'_>]) -> VerifiedBatch {
    let mut builder = BatchBuilder::new(PayloadKind::Event);
    for record in records(events).iter() {
        builder.push(record);
    }
    builder.finish()
}

fn verdict(partition: PartitionId, offset: u64, kind: VerdictKind) -> Verdict {
    Verdict { partition, offset: Offset(offset), kind }
}

impl Opened {
    /// Sends events as one append.
    fn send_all(
        &self,
        partition: PartitionId,
        conditions: &[Condition],
        events: &[Sent<'_>],
    ) -> Result<Outcomes, OnceError> {
        let records = records(events);
        let items = items(partition, &records);
        let append = Append { conditions, items: &items };
        block_on(append_once(&*self.log, Lane::FIRST_SOURCE, self.epoch(), append))
    }

    fn send_one(&self, partition: PartitionId, event: Sent<'_>) -> Verdict {
        self.send_all(partition, &[], &[event]).expect("it is stored").verdicts[0]
    }

    fn stores_event(&self, partition: PartitionId, event: Sent<'_>, at: u64) {
        let stored = verdict(partition, at, VerdictKind::Stored);
        assert_eq!(self.send_one(partition, event), stored);
    }

    fn knows_event(&self, partition: PartitionId, event: Sent<'_>, first: (PartitionId, u64)) {
        let known = verdict(first.0, first.1, VerdictKind::Duplicate);
        assert_eq!(self.send_one(partition, event), known);
    }

    fn keeps_event(&self, partition: PartitionId, event: Sent<'_>, at: u64) {
        let kept = verdict(partition, at, VerdictKind::Reused);
        assert_eq!(self.send_one(partition, event), kept);
    }

    /// Appends without looking.
    fn try_append(
        &self,
        partition: PartitionId,
        conditions: &[Condition],
        events: &[Sent<'_>],
    ) -> Result<Vec<Offset>, AppendError> {
        let records = records(events);
        self.append(conditions, &items(partition, &records))
    }

    /// The marks of the event at `offset`.
    fn flags(&self, partition: PartitionId, offset: u64) -> EventFlags {
        let from = vec![(partition, Offset(offset))];
        let fetch = Fetch { from, bytes_max: 1, wait: false, mode: FetchMode::Live };
        let fetched = block_on(self.log.fetch(fetch)).expect("it is readable");
        let batches = &fetched.partitions[0].batches;
        let mut records = batches.iter().flat_map(|batch| batch.records());
        let (_, record) = records.find(|(at, _)| at.0 == offset).expect("it is there");
        EventView::of(record).expect("it is an event").flags()
    }
}

/// What is said of an append whose item `item` may lie in `places`, or came before where there are none.
fn seen_at(refused: Result<Vec<Offset>, AppendError>, item: usize, places: &[(PartitionId, u64)]) {
    let Err(AppendError::Seen(seen)) = refused else { panic!("{refused:?}") };
    let places = places.iter().map(|(partition, offset)| (*partition, Offset(*offset)));
    let [found] = &seen.items[..] else { panic!("{seen:?}") };
    let at = match &found.at {
        SeenAt::Places { places, .. } => &places[..],
        SeenAt::Before => &[],
        SeenAt::Settled => panic!("{seen:?}"),
    };
    assert_eq!((found.item, at), (item, &places.collect::<Vec<_>>()[..]));
}

fn a_repeated_event_is_acked_with_its_first_place(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    rig.stores_event(partition, sent("m-1", "{}"), 0);
    rig.stores_event(partition, sent("m-2", "{}"), 1);
    rig.knows_event(partition, sent("m-1", "{}"), (partition, 0));
    rig.knows_event(partition, Sent { sent_at: "again", ..sent("m-2", "{ }") }, (partition, 1));
    assert_eq!(rig.end(partition), Offset(2));
    rig.stores_event(partition, sent("m-3", "{}"), 2);
    rig.knows_event(partition, sent("m-1", "{}"), (partition, 0));
}

fn an_append_of_seen_events_stores_nothing_and_says_where_they_are(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    rig.stores_event(partition, sent("m-1", "{}"), 0);
    let refused = rig.try_append(partition, &[], &[sent("m-0", "{}"), sent("m-1", "{}")]);
    seen_at(refused, 1, &[(partition, 0)]);
    assert_eq!(rig.end(partition), Offset(1));
    rig.stores_event(partition, sent("m-0", "{}"), 1);
}

fn an_event_repeated_in_flight_is_told_of_when_the_first_is_durable(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    let first = records(&[sent("m-1", "{}")]);
    let again = records(&[Sent { sent_at: "again", ..sent("m-1", "{}") }]);
    let submit = |records| rig.submit(&[], &items(partition, records));
    let tickets = [submit(&first), submit(&again), submit(&again), submit(&again)];
    for (ticket, is_first) in tickets.into_iter().zip([true, false, false, false]) {
        match block_on(ticket) {
            Ok(stored) => assert!(is_first && stored.offset(0) == Offset(0)),
            refused => {
                assert!(!is_first);
                seen_at(refused.map(|_| Vec::new()), 0, &[(partition, 0)]);
                assert_eq!(rig.end(partition), Offset(1), "it is durable when it is told");
            }
        }
    }
}

fn an_event_is_known_whatever_partition_it_comes_to(rig: &mut Rig<'_>) {
    let topic = rig.topic("once", 3);
    rig.stores_event(topic.partition(2), sent("m-1", "{}"), 0);
    rig.stores_event(topic.partition(1), sent("m-2", "{}"), 0);
    for partition in topic.partitions() {
        rig.knows_event(partition, sent("m-1", "{}"), (topic.partition(2), 0));
        rig.knows_event(partition, sent("m-2", "{}"), (topic.partition(1), 0));
    }
}

fn an_event_is_known_after_a_reopening(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    rig.stores_event(partition, sent("m-1", "{}"), 0);
    rig.reopen();
    rig.knows_event(partition, sent("m-1", "{}"), (partition, 0));
    rig.stores_event(partition, sent("m-2", "{}"), 1);
    rig.keeps_event(partition, sent("m-2", r#"{"n":1}"#), 2);
    for _ in 0..2 {
        rig.reopen();
        rig.knows_event(partition, sent("m-1", "{}"), (partition, 0));
        rig.knows_event(partition, sent("m-2", "{}"), (partition, 1));
        rig.knows_event(partition, sent("m-2", r#"{"n":1}"#), (partition, 2));
    }
}

fn the_same_id_of_another_source_is_another_event(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    let web = sent("m-1", "{}");
    let app = Sent { source: "app", ..web };
    rig.stores_event(partition, web, 0);
    rig.stores_event(partition, app, 1);
    rig.knows_event(partition, app, (partition, 1));
    rig.knows_event(partition, web, (partition, 0));
    assert_eq!(rig.flags(partition, 1), EventFlags::NONE);
}

fn each_topic_knows_its_own_events(rig: &mut Rig<'_>) {
    let once = rig.topic("once", 1).partition(0);
    let other = rig.topic("once-more", 1).partition(0);
    rig.stores_event(once, sent("m-1", "{}"), 0);
    rig.stores_event(other, sent("m-1", "{}"), 0);
    rig.knows_event(once, sent("m-1", "{}"), (once, 0));
    rig.knows_event(other, sent("m-1", "{}"), (other, 0));
}

fn a_topic_that_is_not_deduplicated_keeps_every_event(rig: &mut Rig<'_>) {
    let once = rig.topic("once", 1).partition(0);
    let many = rig.partition("many");
    rig.stores_event(once, sent("m-1", "{}"), 0);
    rig.stores_event(many, sent("m-1", "{}"), 0);
    rig.stores_event(many, sent("m-1", "{}"), 1);
    rig.stores_event(many, sent("m-1", r#"{"n":1}"#), 2);
    assert_eq!(rig.flags(many, 2), EventFlags::NONE);
}

fn the_same_id_with_another_content_is_kept_marked_and_known_again(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    rig.stores_event(partition, sent("m-1", "{}"), 0);
    rig.keeps_event(partition, sent("m-1", r#"{"n":1}"#), 1);
    assert_eq!(rig.flags(partition, 0), EventFlags::NONE);
    assert_eq!(rig.flags(partition, 1), EventFlags::ID_REUSED);
    rig.knows_event(partition, sent("m-1", r#"{"n":1}"#), (partition, 1));
    rig.knows_event(partition, sent("m-1", "{}"), (partition, 0));
    rig.keeps_event(partition, sent("m-1", r#"{"n":2}"#), 2);
    rig.knows_event(partition, sent("m-1", r#"{"n":2}"#), (partition, 2));
}

fn of_an_append_the_new_events_are_stored(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    rig.stores_event(partition, sent("m-1", "{}"), 0);
    let events =
        [sent("m-0", "{}"), sent("m-1", "{}"), sent("m-1", r#"{"n":1}"#), sent("m-2", "{}")];
    let sent = rig.send_all(partition, &[], &events).expect("they are stored");
    let (stored, kind) = (VerdictKind::Stored, VerdictKind::Reused);
    let expected = [
        verdict(partition, 1, stored),
        verdict(partition, 0, VerdictKind::Duplicate),
        verdict(partition, 2, kind),
        verdict(partition, 3, stored),
    ];
    assert_eq!(sent.verdicts, expected);
    assert_eq!(sent.collisions, 0);
    let again = rig.send_all(partition, &[], &events).expect("they are known");
    for (first, again) in sent.verdicts.iter().zip(&again.verdicts) {
        assert_eq!(*again, Verdict { kind: VerdictKind::Duplicate, ..*first });
    }
    assert_eq!(rig.end(partition), Offset(4));
}

fn an_id_twice_in_one_append_is_stored_once(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    let events = [sent("m-1", "{}"), sent("m-2", "{}"), sent("m-1", "{}"), sent("m-1", "{}")];
    seen_at(rig.try_append(partition, &[], &events[..3]), 2, &[]);
    let sent = rig.send_all(partition, &[], &events).expect("they are stored");
    let offsets = sent.verdicts.iter().map(|it| it.offset.0);
    assert_eq!(offsets.collect::<Vec<_>>(), [0, 1, 0, 0]);
    let is_duplicate = sent.verdicts.iter().map(|it| it.kind == VerdictKind::Duplicate);
    assert_eq!(is_duplicate.collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(rig.end(partition), Offset(2));
}

fn of_two_contents_of_an_id_again_and_again_in_one_append_each_is_stored_once(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    let contents = ["{}", r#"{"n":1}"#, "{ }", r#"{"n": 1}"#, r#"{"n":1}"#];
    let events: Vec<_> = contents.iter().map(|content| sent("m-1", content)).collect();
    for attempt in 0..2 {
        let sent = rig.send_all(partition, &[], &events).expect("they are stored");
        let places = sent.verdicts.iter().map(|it| it.offset.0);
        assert_eq!(places.collect::<Vec<_>>(), [0, 1, 0, 1, 1]);
        let again = sent.verdicts.iter().filter(|it| it.kind == VerdictKind::Duplicate);
        assert_eq!(again.count(), if attempt == 0 { 3 } else { 5 });
        assert_eq!(rig.end(partition), Offset(2));
    }
}

fn an_id_with_two_contents_in_one_append_is_stored_twice(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    let events = [sent("m-1", "{}"), sent("m-1", r#"{"n":1}"#), sent("m-2", "{}")];
    let sent = rig.send_all(partition, &[], &events).expect("they are stored");
    let offsets = sent.verdicts.iter().map(|it| it.offset.0);
    assert_eq!(offsets.collect::<Vec<_>>(), [0, 2, 1]);
    assert_eq!(sent.verdicts[1].kind, VerdictKind::Reused);
    assert_eq!(rig.flags(partition, 2), EventFlags::ID_REUSED);
}

fn the_events_of_a_batch_are_known(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    rig.stores_event(partition, sent("m-0", "{}"), 0);
    let batch = batch_of(&[sent("m-1", "{}"), sent("m-2", "{}"), sent("m-0", "{}")]);
    let item = Item::Batch { partition, batch: &batch };
    assert_eq!(rig.append(&[], &[item]), Ok(vec![Offset(1)]), "a batch is stored as it is");
    rig.knows_event(partition, sent("m-2", "{}"), (partition, 2));
    rig.knows_event(partition, sent("m-0", "{}"), (partition, 0));
    rig.reopen();
    rig.knows_event(partition, sent("m-1", "{}"), (partition, 1));
}

fn what_differs_is_stored_in_spite_of_its_id(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    let event = sent("m-1", "{}");
    rig.stores_event(partition, event, 0);
    let differs = |offset| Condition::Differs { item: 0, partition, offset: Offset(offset) };
    seen_at(rig.try_append(partition, &[differs(7)], &[event]), 0, &[(partition, 0)]);
    assert_eq!(rig.try_append(partition, &[differs(0)], &[event]), Ok(vec![Offset(1)]));
    let refused = rig.try_append(partition, &[], &[event]);
    seen_at(refused, 0, &[(partition, 0), (partition, 1)]);
    seen_at(rig.try_append(partition, &[differs(0)], &[event]), 0, &[(partition, 1)]);
}

fn a_refused_append_leaves_no_ids(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    let refused = rig.try_append(partition, &[next_offset(partition, 9)], &[sent("m-1", "{}")]);
    assert_eq!(refused, Err(AppendError::ConditionFailed { index: 0 }));
    rig.stores_event(partition, sent("m-2", "{}"), 0);
    let refused = rig.try_append(partition, &[], &[sent("m-1", "{}"), sent("m-2", "{}")]);
    seen_at(refused, 1, &[(partition, 0)]);
    rig.stores_event(partition, sent("m-1", "{}"), 1);
}

fn conditions_are_asked_of_what_is_stored(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    rig.stores_event(partition, sent("m-1", "{}"), 0);
    let events = [sent("m-1", "{}"), sent("m-2", "{}")];
    let failed = rig.send_all(partition, &[next_offset(partition, 0)], &events);
    let expected = AppendError::ConditionFailed { index: 0 };
    assert_eq!(failed.map(|_| ()), Err(OnceError::Append(expected)));
    let stored = rig.send_all(partition, &[next_offset(partition, 1)], &events);
    assert_eq!(stored.expect("it holds").verdicts[1].offset, Offset(1));
}

fn a_trimmed_event_is_known_no_more(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    rig.stores_event(partition, sent("m-1", "{}"), 0);
    rig.stores_event(partition, sent("m-2", "{}"), 1);
    rig.trim(partition, 1);
    rig.knows_event(partition, sent("m-2", "{}"), (partition, 1));
    rig.stores_event(partition, sent("m-1", "{}"), 2);
    rig.knows_event(partition, sent("m-1", "{}"), (partition, 2));
    rig.reopen();
    rig.knows_event(partition, sent("m-1", "{}"), (partition, 2));
}

fn a_topic_made_again_knows_nothing(rig: &mut Rig<'_>) {
    let before = rig.topic("once", 2);
    rig.stores_event(before.partition(1), sent("m-1", "{}"), 0);
    block_on(rig.log.delete_topic(&name("once"))).expect("it is there");
    let after = rig.topic("once", 2);
    rig.stores_event(after.partition(0), sent("m-1", "{}"), 0);
    rig.reopen();
    rig.knows_event(after.partition(1), sent("m-1", "{}"), (after.partition(0), 0));
}

fn an_id_of_many_contents_is_known_for_the_first_of_them(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    let contents: Vec<_> = (0..=EVENTS_PER_ID_MAX).map(|n| format!("{{\"n\":{n}}}")).collect();
    for content in &contents {
        rig.send_one(partition, sent("m-1", content));
    }
    let end = contents.len() as u64;
    assert_eq!(rig.end(partition), Offset(end), "each is kept");
    for (content, offset) in contents.iter().zip(0..end - 1) {
        rig.knows_event(partition, sent("m-1", content), (partition, offset));
    }
    let last = contents.last().expect("there are some");
    rig.keeps_event(partition, sent("m-1", last), end);
    rig.stores_event(partition, sent("m-2", last), end + 1);
}

fn an_id_of_many_contents_is_known_anew_when_the_first_of_them_are_gone(rig: &mut Rig<'_>) {
    let partition = rig.topic("once", 1).partition(0);
    let content = |n| format!("{{\"n\":{n}}}");
    let end = EVENTS_PER_ID_MAX as u64;
    for n in 0..end {
        rig.send_one(partition, sent("m-1", &content(n)));
    }
    rig.trim(partition, end - 1);
    rig.keeps_event(partition, sent("m-1", &content(end)), end);
    rig.knows_event(partition, sent("m-1", &content(end)), (partition, end));
    rig.knows_event(partition, sent("m-1", &content(end - 1)), (partition, end - 1));
    rig.trim(partition, end + 1);
    rig.stores_event(partition, sent("m-1", &content(0)), end + 1);
    rig.reopen();
    rig.knows_event(partition, sent("m-1", &content(0)), (partition, end + 1));
}
