//! Message ids: what an opening takes where many are known, and how long a look-up of one takes.
//!
//! Events are small, some 200 bytes in the journal: it is their number that counts. Of 512 MiB and the
//! segment being written the journal holds up to four million, more than 2 GiB hold of events of 780
//! bytes of JSON.
//! A look-up asks the log for the places of an id, reads what lies there and compares: what
//! `tracklog find` has the node do, but for the way to it and what it tells besides.

use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use tracklog_benches::process::{self, Told};
use tracklog_engine::Options;
use tracklog_log::dedupe::WINDOW;
use tracklog_log::{Dedupe, Fetch, FetchMode, Item, Log as _, Retention, TopicName, TopicSpec};
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::event::{EventBuilder, EventParts, EventView};
use tracklog_protocol::{Offset, PartitionId, PayloadKind, TimeMicros, TopicId, VerifiedBatch};

use crate::node::{Node, Writer};
use crate::opening::{open_with, times};
use crate::{median, quantile, scratch_folder, tell};

/// Events in the log, from step to step.
const STEPS: [u64; 3] = [1_000_000, 5_000_000, 10_000_000];
const HOT_BYTES: u64 = 512 << 20;
const TOPIC: &str = "raw";
const PARTITIONS: u32 = 16;
const BATCH_EVENTS: u64 = 1_000;
const OPENINGS: usize = 3;
const LOOKS: u64 = 5_000;
/// Of appends beside them, and events of each.
const TURNS: u64 = 5;
const TURN_EVENTS: u64 = 100_000;
const REQUEST_EVENTS: usize = 50;
/// They fill caches, and are not counted.
const LOOKS_BEFORE: u64 = 500;
const GOAL: &str = "100 ms for the whole command";

pub(crate) fn measure(folder: &Path) {
    let (log, without) = (scratch_folder(folder), scratch_folder(folder));
    drop(process::play("store ids", without.path(), &[0, 0]));
    let bytes_without = process::play("open ids", without.path(), &[]).figure("bytes");
    let mut from = 0;
    for count in STEPS {
        drop(process::play("store ids", log.path(), &[from, count]));
        from = count;
        let openings = (0..OPENINGS).map(|_| process::play("open ids", log.path(), &[]));
        tell_opening(count, &openings.collect::<Vec<_>>(), bytes_without);
        tell_finding(count, &process::play("find ids", log.path(), &[count]));
        tell_appending(count, &process::play("append beside ids", log.path(), &[count]));
    }
}

fn tell_opening(count: u64, openings: &[Told], bytes_without: f64) {
    let of = |name: &str| median(openings.iter().map(|it| it.figure(name)).collect());
    let (known, hot) = (of("hot_ids") + of("settled_ids"), of("hot_ids"));
    let ids = format!("{count} ids");
    let value = format!(
        "{}, {:.2} M in the journal, {:.2} M in {} packs",
        times(openings),
        hot / 1e6,
        of("settled_ids") / 1e6,
        of("packs")
    );
    tell(&format!("{ids}, opening"), &value, "");
    let value = format!(
        "{:.1} B an id of the journal, {:.2} B an id of packs, {:.1} B an id of memory in all",
        of("hot_bytes") / hot,
        of("settled_bytes") / of("settled_ids").max(1.0),
        (of("bytes") - bytes_without) / known
    );
    tell(&format!("{ids}, memory"), &value, "");
}

fn tell_finding(count: u64, found: &Told) {
    for kind in ["stored", "never stored"] {
        let of = |quantile: &str| found.figure(&format!("{quantile} {kind}"));
        let value = format!("p50 {:.2} ms, p99 {:.2} ms", of("p50_millis"), of("p99_millis"));
        let goal = if kind == "stored" { GOAL } else { "" };
        tell(&format!("{count} ids, looking up one that was {kind}"), &value, goal);
    }
    let value = format!("{:.1} places an id", found.figure("places") / LOOKS as f64);
    tell(&format!("{count} ids, places read"), &value, "");
}

fn tell_appending(count: u64, told: &Told) {
    let events = (TURNS * TURN_EVENTS) as f64;
    let [once, without] = ["once_seconds", "plain_seconds"].map(|it| events / told.figure(it));
    let value = format!(
        "{:.2} of the rate without ({:.2} and {:.2} M events/s)",
        once / without,
        once / 1e6,
        without / 1e6
    );
    tell(&format!("{count} ids, events each stored once, requests of 50"), &value, "0.85");
}

fn options() -> Options {
    let topic = TopicName::new(TOPIC).expect("a topic's name");
    let dedupe = vec![Dedupe { topic, window: WINDOW }];
    Options { dedupe, hot_bytes: Some(HOT_BYTES), ..Options::default() }
}

fn partitions(node: &Node) -> Vec<PartitionId> {
    let name = TopicName::new(TOPIC).expect("a topic's name");
    let spec = TopicSpec { name, partitions: PARTITIONS, retention: Retention::Keep };
    let topic = node.runtime.block_on(node.engine.create_topic(spec));
    topic.expect("a topic of this shape").partitions().collect()
}

/// Stores events with the ids of these numbers, and waits until they are settled.
pub(crate) fn store(folder: &Path, from: u64, to: u64) {
    let node = Node::open(folder, &options());
    let partitions = partitions(&node);
    let mut writer = Writer::new(&node);
    for first in (from..to).step_by(usize::try_from(BATCH_EVENTS).expect("few")) {
        let batch = batch_of(first..to.min(first + BATCH_EVENTS));
        let turn = (first / BATCH_EVENTS) % u64::from(PARTITIONS);
        let partition = partitions[usize::try_from(turn).expect("few")];
        let bytes = batch.view().bytes().len();
        writer.append(&[Item::Batch { partition, batch: &batch }], bytes);
    }
    writer.finish();
    node.wait_until_settled();
    node.engine.close();
}

/// Events with the ids of these numbers.
fn batch_of(numbers: Range<u64>) -> VerifiedBatch {
    let (mut batch, mut events) = (BatchBuilder::new(PayloadKind::Event), EventBuilder::new());
    for number in numbers {
        batch.push(events.build(&parts(&message_id(number))));
    }
    batch.finish()
}

/// Appends new events beside so many ids, in requests, in turns to the topic that stores each once and
/// to one that takes what comes: disks have moods.
pub(crate) fn append(folder: &Path, count: u64) {
    let node = Node::open(folder, &options());
    let (once, plain) = (partitions(&node), node.partitions(1, u64::from(PARTITIONS)));
    let mut took = [Duration::ZERO; 2];
    for turn in 0..TURNS {
        // Numbers that nothing else comes to.
        let from = (1 << 40) + (count + turn) * TURN_EVENTS;
        let firsts = (from..from + TURN_EVENTS).step_by(REQUEST_EVENTS);
        let requests: Vec<_> =
            firsts.map(|first| batch_of(first..first + REQUEST_EVENTS as u64)).collect();
        let mut both = [(0, &once[..]), (1, &plain[..])];
        both.rotate_left(usize::from(turn % 2 == 1));
        for (which, to) in both {
            let began = Instant::now();
            request(&node, &requests, to);
            took[which] += began.elapsed();
        }
    }
    process::tell("once_seconds", took[0].as_secs_f64());
    process::tell("plain_seconds", took[1].as_secs_f64());
    node.engine.close();
}

fn request(node: &Node, requests: &[VerifiedBatch], to: &[PartitionId]) {
    let requests = requests.iter().zip(to.iter().cycle()).map(|(request, partition)| {
        let records = request.view().records();
        records.map(|(_, record)| Item::Record { partition: *partition, record }).collect()
    });
    node.append_once(&requests.collect::<Vec<_>>());
}

fn parts(message_id: &str) -> EventParts<'_> {
    EventParts {
        message_id,
        source: Some("web"),
        name: Some("Tried"),
        event_time: TimeMicros(1),
        properties: Some(r#"{"plan":"pro","seats":12}"#),
        ..EventParts::default()
    }
}

/// As a browser's SDK makes them, but that its number tells all of it.
fn message_id(number: u64) -> String {
    let (high, low) = (mixed(number), mixed(!number));
    format!(
        "ajs-next-{}-{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        1_767_323_045_678 + number / 8,
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}

const fn mixed(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

pub(crate) fn open(folder: &Path) {
    let node = open_with(folder, &options());
    let status = node.engine.status();
    process::tell("hot_ids", status.ids as f64);
    process::tell("hot_bytes", status.ids_bytes as f64);
    process::tell("settled_ids", status.settled_ids as f64);
    process::tell("settled_bytes", status.settled_ids_bytes as f64);
    process::tell("packs", status.packs as f64);
    node.engine.close();
}

/// Looks ids up of those so many events, and as many that no event has.
pub(crate) fn find(folder: &Path, count: u64) {
    let node = Node::open(folder, &options());
    let topic = partitions(&node)[0].topic;
    let mut places = 0;
    for (kind, from) in [("stored", 0), ("never stored", count)] {
        let mut millis = Vec::new();
        for look in 0..LOOKS_BEFORE + LOOKS {
            let id = message_id(from + mixed(look) % count);
            let began = Instant::now();
            let (looked, is_found) = node.runtime.block_on(look_up(&node, topic, &id));
            let took = began.elapsed();
            assert!(is_found == (kind == "stored"), "{id}");
            if look >= LOOKS_BEFORE {
                millis.push(took.as_secs_f64() * 1e3);
                places += looked;
            }
        }
        process::tell(&format!("p50_millis {kind}"), quantile(millis.clone(), 0.5));
        process::tell(&format!("p99_millis {kind}"), quantile(millis, 0.99));
        if kind == "stored" {
            process::tell("places", places as f64);
        }
    }
    node.engine.close();
}

/// How many places were read for it, and whether one of the events there has the id.
async fn look_up(node: &Node, topic: TopicId, id: &str) -> (usize, bool) {
    let found = node.engine.id_places(topic, id).await.expect("a good log is read");
    assert!(found.unindexed.is_empty(), "all of it has an index");
    let mut is_found = false;
    for (partition, offset) in &found.places {
        is_found |= is_at(node, *partition, *offset, id).await;
    }
    (found.places.len(), is_found)
}

async fn is_at(node: &Node, partition: PartitionId, offset: Offset, id: &str) -> bool {
    let from = vec![(partition, offset)];
    let fetch = Fetch { from, bytes_max: 1, wait: false, mode: FetchMode::Live };
    let fetched = node.engine.fetch(fetch).await.expect("a good log is read");
    let batches = fetched.partitions.iter().flat_map(|found| &found.batches);
    let mut records = batches.flat_map(|batch| batch.records());
    let record = records.find(|(at, _)| *at == offset);
    let event = record.and_then(|(_, record)| EventView::of(record));
    event.is_some_and(|event| event.message_id() == id)
}
