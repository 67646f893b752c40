//! Events that are sent again, over restarts, crashes and settling: each is stored once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracklog_engine::disk::simulated::Crash;
use tracklog_engine::disk::{Disk, FileName};
use tracklog_engine::{Engine, Options};
use tracklog_log::dedupe::{EVENTS_PER_ID_MAX, OnceError, Outcomes, VerdictKind, append_once};
use tracklog_log::{
    Append, AppendError, Condition, Dedupe, Domain, EventId, Item, Lane, Log as _, Retention,
    SeenAt, SeenItem, Settled, TopicName,
};
use tracklog_protocol::event::{EventBuilder, EventParts, EventView};
use tracklog_protocol::{Offset, PartitionId, Records, TimeMicros};

use crate::rig::{Machine, append, batches, options, payload, settled, topic, until, wait};

const HOUR: Duration = Duration::from_secs(3_600);

/// Events of the topic `once` are stored once.
fn once(hash_bits: u32) -> Options {
    let topic = TopicName::new("once").expect("a topic name");
    let dedupe = vec![Dedupe { topic, window: HOUR }];
    Options { dedupe, id_hash_bits: hash_bits, ..options() }
}

/// An event: its id, and what it says.
type Sent = (u32, u32);

/// Some of them are large, so that segments fill.
fn records(events: &[Sent], attempt: u64) -> Records {
    let (mut records, mut builder) = (Records::new(), EventBuilder::new());
    for (id, content) in events {
        let filler = if id % 8 == 1 { 400 << 10 } else { 10 };
        let (id, sent) = (format!("m-{id}"), attempt.to_string());
        let properties = format!("{{\"n\":{content},\"f\":\"{}\"}}", "x".repeat(filler));
        records.push(builder.build(&EventParts {
            message_id: &id,
            source: Some("web"),
            properties: Some(&properties),
            sent_time_text: Some(&sent),
            event_time: TimeMicros(5),
            ..EventParts::default()
        }));
    }
    records
}

fn items<'a>(records: &'a Records, partitions: &[PartitionId]) -> Vec<Item<'a>> {
    let records = records.iter().zip(partitions.iter().cycle());
    records.map(|(record, partition)| Item::Record { partition: *partition, record }).collect()
}

fn send(
    log: &Engine,
    partitions: &[PartitionId],
    records: &Records,
) -> Result<Outcomes, OnceError> {
    let epoch = wait(log.open(Domain::WHOLE)).map_err(OnceError::Append)?;
    let items = items(records, partitions);
    let append = Append { conditions: &[], items: &items };
    wait(append_once(log, Lane::FIRST_SOURCE, epoch, append))
}

/// Where each event lies, by what it is.
fn stored(log: &Engine, partitions: &[PartitionId]) -> BTreeMap<Sent, Vec<(PartitionId, Offset)>> {
    let mut stored: BTreeMap<Sent, Vec<_>> = BTreeMap::new();
    for partition in partitions {
        for batch in batches(log, *partition) {
            for (offset, record) in batch.records() {
                let event = EventView::of(record).expect("only events were sent");
                let id = event.message_id().strip_prefix("m-").and_then(|id| id.parse().ok());
                let content = event.properties().and_then(|it| it.strip_prefix("{\"n\":"));
                let content = content.and_then(|it| it.split(',').next()?.parse().ok());
                let sent = (id.expect("a number"), content.expect("a number"));
                stored.entry(sent).or_default().push((*partition, offset));
            }
        }
    }
    stored
}

#[test]
fn settled_events_are_known_after_a_reopening() {
    let mut machine = Machine::with(1, Options { hot_bytes: Some(0), ..once(64) });
    let partitions = topic(machine.engine(), "once", 3, Retention::Keep);
    let all: Vec<Sent> = (0..60).map(|id| (8 * id + 1, 0)).collect();
    let mut first = Vec::new();
    for event in &all {
        let one = records(&[*event], 1);
        first.extend(send(machine.engine(), &partitions[..1], &one).expect("stored").verdicts);
    }
    settled(machine.engine());
    assert!(machine.engine().status().packs > 0);
    for _ in 0..2 {
        for (event, first) in all.iter().zip(&first) {
            let again = records(&[*event], 2);
            let told = send(machine.engine(), &partitions[1..], &again).expect("known").verdicts[0];
            assert_eq!((told.partition, told.offset), (first.partition, first.offset));
            assert_eq!(told.kind, VerdictKind::Duplicate);
        }
        machine.reopen();
    }
}

/// Fills segments, and waits until all of them are settled.
fn settle(machine: &Machine, fill: PartitionId, segments: u64) {
    let log = machine.engine();
    for number in 0..16 * segments {
        append(log, fill, &payload(number, 1 << 20)).expect("it is stored");
    }
    settled(log);
    assert!(log.status().packs > 0);
}

/// A log that settles at once what is full.
fn settling(hash_bits: u32) -> Options {
    Options { hot_bytes: Some(0), ..once(hash_bits) }
}

/// Sends events one by one, and asserts that each is told to lie there.
#[track_caller]
fn lie_where_they_were(
    machine: &Machine,
    to: &[PartitionId],
    events: &[Sent],
    first: &[(PartitionId, Offset)],
) {
    for (event, first) in events.iter().zip(first) {
        let again = records(&[*event], 9);
        let told = send(machine.engine(), to, &again).expect("known").verdicts[0];
        assert_eq!(((told.partition, told.offset), told.kind), (*first, VerdictKind::Duplicate));
    }
}

fn places(outcomes: &Outcomes) -> Vec<(PartitionId, Offset)> {
    outcomes.verdicts.iter().map(|it| (it.partition, it.offset)).collect()
}

#[test]
fn ids_that_share_a_hash_are_all_stored_and_known_through_packs() {
    let mut machine = Machine::with(4, settling(3));
    let partitions = topic(machine.engine(), "once", 2, Retention::Keep);
    let fill = topic(machine.engine(), "fill", 1, Retention::Keep)[0];
    let (old, new): (Vec<Sent>, Vec<Sent>) =
        ((0..8).map(|id| (8 * id, 0)).collect(), (0..8).map(|id| (8 * id + 2, 0)).collect());
    let first = send(machine.engine(), &partitions, &records(&old, 1)).expect("stored");
    settle(&machine, fill, 1);
    let second = send(machine.engine(), &partitions, &records(&new, 1)).expect("stored");
    assert!(second.verdicts.iter().all(|it| it.kind == VerdictKind::Stored));
    assert!(second.collisions > 0, "eight hashes for sixteen ids");
    settle(&machine, fill, 1);
    for _ in 0..2 {
        lie_where_they_were(&machine, &partitions, &old, &places(&first));
        lie_where_they_were(&machine, &partitions, &new, &places(&second));
        machine.reopen();
    }
    let stored = stored(machine.engine(), &partitions);
    assert!(stored.len() == 16 && stored.values().all(|places| places.len() == 1), "{stored:?}");
}

#[test]
fn what_was_settled_before_its_topic_was_deduplicated_is_known_after_merges_too() {
    let mut machine = Machine::with(5, Options { dedupe: Vec::new(), ..settling(64) });
    let partitions = topic(machine.engine(), "once", 2, Retention::Keep);
    let fill = topic(machine.engine(), "fill", 1, Retention::Keep)[0];
    let events: Vec<Sent> = (0..40).map(|id| (8 * id, 0)).collect();
    let first = send(machine.engine(), &partitions, &records(&events, 1)).expect("stored");
    settle(&machine, fill, 1);
    assert_eq!(machine.engine().status().settled_ids, 0);
    machine.options.dedupe = once(64).dedupe;
    machine.reopen();
    lie_where_they_were(&machine, &partitions, &events, &places(&first));
    let packs = |machine: &Machine| machine.engine().status().packs;
    while machine.engine().status().settled_ids < 40 {
        settle(&machine, fill, 1);
        assert!(packs(&machine) < 12, "they are merged, and have an index then");
    }
    assert!(machine.engine().status().ids < 40, "the table is rid of them");
    for _ in 0..2 {
        lie_where_they_were(&machine, &partitions, &events, &places(&first));
        machine.reopen();
    }
}

#[test]
fn rot_in_the_ids_of_a_pack_costs_no_event_and_is_told() {
    let mut machine = Machine::with(6, settling(64));
    let partitions = topic(machine.engine(), "once", 2, Retention::Keep);
    let fill = topic(machine.engine(), "fill", 1, Retention::Keep)[0];
    let events: Vec<Sent> = (0..40).map(|id| (8 * id, 0)).collect();
    let first = send(machine.engine(), &partitions, &records(&events, 1)).expect("stored");
    settle(&machine, fill, 1);
    machine.stop();
    let packs = machine.disk.packs_folder().expect("it is there");
    let name = FileName::Pack(packs[0].0);
    let mut file = machine.disk.read_file(&name).expect("it is there");
    // The last page that is all ids lies before the footer.
    let page = file.len() / 4096 * 4096 - 2 * 4096;
    file[page + 20] ^= 1;
    machine.disk.set_file(&name, Some(file));
    let report = machine.verify().expect("it opens");
    assert!(!report.clean && report.damaged.records == 0, "{report}");
    assert!(report.to_string().contains("message ids"), "{report}");
    machine.open().expect("it opens");
    lie_where_they_were(&machine, &partitions, &events, &places(&first));
    assert_eq!(stored(machine.engine(), &partitions).len(), 40);
}

#[test]
fn a_look_into_packs_counts_for_what_was_settled_by_then() {
    let machine = Machine::with(9, settling(64));
    let partitions = topic(machine.engine(), "once", 1, Retention::Keep);
    let fill = topic(machine.engine(), "fill", 1, Retention::Keep)[0];
    let event = records(&[(2, 0)], 1);
    let first = places(&send(machine.engine(), &partitions, &event).expect("stored"));
    settle(&machine, fill, 1);
    let log = machine.engine();
    let (source, message_id) = ("web".to_owned(), "m-2".to_owned());
    let id = EventId { topic: partitions[0].topic, source, message_id };
    let found = wait(log.settled_places(vec![id])).expect("they are looked for");
    assert_eq!(found.places, [first]);
    let epoch = wait(log.open(Domain::WHOLE)).expect("it is open");
    let again = |through| {
        let conditions = [Condition::Looked { item: 0, through }];
        let items = items(&event, &partitions);
        let permit = log.reserve(Lane::FIRST_SOURCE, event.byte_count()).expect("there is room");
        wait(log.append(permit, epoch, Append { conditions: &conditions, items: &items }))
    };
    let Err(AppendError::Seen(seen)) = again(Settled(found.through.0 - 1)) else {
        panic!("more was settled since")
    };
    assert_eq!(seen.items, [SeenItem { item: 0, at: SeenAt::Settled }]);
    // Who looked says that it is another event.
    assert_eq!(again(found.through).expect("it is stored").offset(0), Offset(1));
}

#[test]
fn an_event_is_found_by_its_id_wherever_it_lies_and_however_old_it_is() {
    let mut machine = Machine::with(7, settling(64));
    let partitions = topic(machine.engine(), "once", 3, Retention::Keep);
    let fill = topic(machine.engine(), "fill", 1, Retention::Keep)[0];
    let mut first: BTreeMap<u32, (PartitionId, Offset)> = BTreeMap::new();
    for round in 0..10 {
        let events: Vec<Sent> = (0..20).map(|id| (8 * (20 * round + id), 0)).collect();
        let stored = send(machine.engine(), &partitions, &records(&events, 1)).expect("stored");
        first.extend(events.iter().map(|it| it.0).zip(places(&stored)));
        if round < 9 {
            settle(&machine, fill, 1);
        }
        machine.disk.advance(HOUR / 4);
    }
    let status = machine.engine().status();
    assert!(status.settled_ids < 180, "most are out of the window: {status:?}");
    for _ in 0..2 {
        let log = machine.engine();
        let topic = log.topic("once").expect("it is there").id;
        let find = |id: &str| wait(log.id_places(topic, id)).expect("it is looked for");
        for (id, place) in &first {
            let found = find(&format!("m-{id}"));
            assert!(found.places.contains(place), "{id}: {found:?}");
            assert!(found.places.len() == 1 && found.unindexed.is_empty(), "{id}: {found:?}");
        }
        assert_eq!(find("m-none").places, []);
        machine.reopen();
    }
    let log = machine.engine();
    let trimmed = first[&0].0;
    let end = log.extent(trimmed).expect("it is there").end;
    wait(log.trim(trimmed, end)).expect("it is trimmed");
    let topic = log.topic("once").expect("it is there").id;
    let found = wait(log.id_places(topic, "m-0")).expect("it is looked for");
    assert_eq!(found.places, [], "it is gone");
}

#[test]
fn of_an_id_with_many_contents_the_first_are_known_through_packs() {
    let mut machine = Machine::with(8, settling(64));
    let partitions = topic(machine.engine(), "once", 1, Retention::Keep);
    let fill = topic(machine.engine(), "fill", 1, Retention::Keep)[0];
    let kind = |machine: &Machine, content| {
        let sent = send(machine.engine(), &partitions, &records(&[(2, content)], 1));
        sent.expect("told").verdicts[0].kind
    };
    let known = u32::try_from(EVENTS_PER_ID_MAX).expect("small");
    for content in 0..known + 4 {
        kind(&machine, content);
        if content == known / 2 {
            settle(&machine, fill, 1);
        }
    }
    settle(&machine, fill, 1);
    for _ in 0..2 {
        let kinds: BTreeSet<_> = (0..known).map(|it| format!("{:?}", kind(&machine, it))).collect();
        assert_eq!(kinds, BTreeSet::from(["Duplicate".to_owned()]));
        assert_eq!(kind(&machine, known), VerdictKind::Reused, "the others are in the window");
        machine.reopen();
    }
}

#[test]
fn an_event_is_known_for_as_long_as_the_window_is_and_that_is_not_renewed() {
    let mut machine = Machine::with(2, once(64));
    let partitions = topic(machine.engine(), "once", 1, Retention::Keep);
    let event = records(&[(2, 0)], 1);
    let kind = |machine: &Machine| {
        send(machine.engine(), &partitions, &event).expect("told").verdicts[0].kind
    };
    assert_eq!(kind(&machine), VerdictKind::Stored);
    machine.disk.advance(HOUR / 2);
    assert_eq!(kind(&machine), VerdictKind::Duplicate);
    machine.disk.advance(HOUR / 2 + Duration::from_secs(1));
    assert_eq!(kind(&machine), VerdictKind::Stored, "counted from its first time");
    assert_eq!(kind(&machine), VerdictKind::Duplicate);
    machine.reopen();
    assert_eq!(kind(&machine), VerdictKind::Duplicate);
    machine.disk.advance(HOUR + Duration::from_secs(1));
    machine.reopen();
    assert_eq!(kind(&machine), VerdictKind::Stored);
}

#[test]
fn events_out_of_the_window_do_not_count_to_those_of_an_id() {
    let mut machine = Machine::with(2, once(64));
    let partitions = topic(machine.engine(), "once", 1, Retention::Keep);
    let kind = |machine: &Machine, content| {
        let sent = send(machine.engine(), &partitions, &records(&[(2, content)], 1));
        sent.expect("told").verdicts[0].kind
    };
    let mut content = 0;
    for _ in 0..3 {
        for _ in 0..EVENTS_PER_ID_MAX {
            kind(&machine, content);
            assert_eq!(kind(&machine, content), VerdictKind::Duplicate);
            content += 1;
        }
        assert_eq!(kind(&machine, content), VerdictKind::Reused);
        assert_eq!(kind(&machine, content), VerdictKind::Reused, "the others are in the window");
        machine.disk.advance(HOUR + Duration::from_secs(1));
        machine.reopen();
    }
}

#[test]
fn ids_that_share_a_hash_are_all_stored_and_known() {
    let mut machine = Machine::with(3, once(3));
    let partitions = topic(machine.engine(), "once", 2, Retention::Keep);
    let all: Vec<Sent> = (0..12).map(|id| (id, 0)).collect();
    let first = send(machine.engine(), &partitions, &records(&all, 1)).expect("stored");
    assert!(first.verdicts.iter().all(|it| it.kind == VerdictKind::Stored));
    assert!(first.collisions > 0, "seven hashes for twelve ids");
    for attempt in 2..4 {
        let again = send(machine.engine(), &partitions, &records(&all, attempt)).expect("told");
        for (first, again) in first.verdicts.iter().zip(&again.verdicts) {
            let place = (again.partition, again.offset);
            assert_eq!(
                (place, again.kind),
                ((first.partition, first.offset), VerdictKind::Duplicate)
            );
        }
        machine.reopen();
    }
    let stored = stored(machine.engine(), &partitions);
    assert!(stored.len() == 12 && stored.values().all(|places| places.len() == 1), "{stored:?}");
}

/// A small generator; a seed repeats a run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn event(&mut self) -> Sent {
        // One id in four has two contents.
        let id = u32::try_from(self.below(60)).expect("small");
        (id, if id % 4 == 0 { u32::try_from(self.below(2)).expect("small") } else { 0 })
    }
}

/// Events are sent at random, many of them again and again, some left in flight, while the log is
/// stopped, crashes, and settles what is full. What was told stays true, and in the end each event
/// lies there once.
fn sent_again_and_again(seed: u64) {
    let mut random = Random(seed);
    let hash_bits = [6, 64][usize::try_from(seed % 2).expect("one bit")];
    let hot_bytes = [None, Some(0)][usize::try_from(seed / 2 % 2).expect("one bit")];
    let mut machine = Machine::with(seed, Options { hot_bytes, ..once(hash_bits) });
    let partitions = topic(machine.engine(), "once", 3, Retention::Keep);
    let mut told: BTreeMap<Sent, (PartitionId, Offset)> = BTreeMap::new();
    let mut openings = 1;
    for attempt in 0..120 {
        let count = 1 + random.below(8);
        let events: Vec<Sent> = (0..count).map(|_| random.event()).collect();
        let records = records(&events, attempt);
        let first = usize::try_from(random.below(3)).expect("small");
        match random.below(20) {
            0 => {
                machine.reopen();
                openings += 1;
            }
            1 | 2 => {
                openings += 1;
                let log = machine.shared();
                let epoch = wait(log.open(Domain::WHOLE)).expect("it is open");
                let items = items(&records, &partitions[first..]);
                let bytes = records.byte_count();
                let permit = log.reserve(Lane::FIRST_SOURCE, bytes).expect("there is room");
                // Nobody waits for it.
                drop(log.append(permit, epoch, Append { conditions: &[], items: &items }));
                drop(log);
                let crash = if random.below(2) == 0 { Crash::Power } else { Crash::Kill };
                machine.crash(crash);
                machine.open().expect("it opens after a crash");
            }
            _ => match send(machine.engine(), &partitions[first..], &records) {
                Ok(outcomes) => {
                    for (event, verdict) in events.iter().zip(outcomes.verdicts) {
                        let place = (verdict.partition, verdict.offset);
                        let before = *told.entry(*event).or_insert(place);
                        assert_eq!(place, before, "seed {seed}, attempt {attempt}: {event:?}");
                    }
                }
                Err(error) => panic!("seed {seed}, attempt {attempt}: {error}"),
            },
        }
    }
    machine.reopen();
    if hot_bytes.is_some() {
        settled(machine.engine());
        assert!(machine.engine().status().settled_ids > 0, "seed {seed}: nothing was settled");
        // Each opening left a segment, and eight packs of a size become one.
        assert!(openings > 8, "seed {seed}: too few openings for a merge");
        until(machine.engine(), |log| log.status().packs <= 8);
        for (event, place) in &told {
            lie_where_they_were(&machine, &partitions, &[*event], &[*place]);
        }
    }
    let stored = stored(machine.engine(), &partitions);
    for (event, places) in &stored {
        assert_eq!(places.len(), 1, "seed {seed}: {event:?}");
    }
    for (event, place) in told {
        assert_eq!(stored.get(&event), Some(&vec![place]), "seed {seed}: {event:?}");
    }
}

#[test]
fn random_resends_over_crashes_store_each_event_once() {
    for seed in 0..24 {
        sent_again_and_again(seed);
    }
}
