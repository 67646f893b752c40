//! What becomes of events of 100,000 partitions when they are settled: files, and bytes written.
//!
//! Visitors come to the partition that their id leads to, as at a gateway; requests hold a hundred
//! events. Each segment is settled before much of the next is written, as where the settler keeps up:
//! so packs are of one segment, and the first eight become one. Written bytes are those of the engine's own counters, and beside them what the system says
//! that the process had written, slots filled with zeros, indexes and checkpoints included.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tracklog_benches::process::{self, Told};
use tracklog_benches::visits::{self, Crowd};
use tracklog_engine::Options;
use tracklog_log::dedupe::WINDOW;
use tracklog_log::{Dedupe, Item};
use tracklog_protocol::event::EventView;
use tracklog_protocol::{PartitionId, Record, VerifiedBatch, partition_for};

use crate::node::{Node, Writer, topic_name};
use crate::opening::times;
use crate::{GIB, MIB, PARTITIONS_A_TOPIC, TOPICS, scratch_folder, tell};

const JOURNAL_BYTES: u64 = 3 << 30;
const REQUEST_EVENTS: usize = 100;
/// Events that are made at a time, of visitors of whom so many are there at once.
const EVENTS_AT_ONCE: usize = 100_000;
const VISITORS: usize = 8_000;
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Of the engine, as far as the system keeps a thread's name.
const SETTLER: &str = "tracklog-settle";
const SETTLED_WITHIN: Duration = Duration::from_secs(300);

pub(crate) fn measure(folder: &Path) {
    let once = scratch_folder(folder);
    let told = process::play("settle", once.path(), &[JOURNAL_BYTES, 1]);
    tell_settler("settled, each event stored once", &told);
    drop(once);
    let log = scratch_folder(folder);
    let told = process::play("settle", log.path(), &[JOURNAL_BYTES, 0]);
    tell_settler("settled", &told);
    let (settled, packs) = (told.figure("settled_bytes"), told.figure("packs"));
    let (pack, made) = (told.figure("pack_bytes"), told.figure("packs_made_bytes"));
    assert!(made > pack, "what was merged was written before");
    tell("settled", &format!("{:.2} GiB of journal as {packs} packs", settled / GIB), "");
    let files = format!("{:.2} a GiB of journal", packs * GIB / settled);
    tell("settled, files", &files, "at most 4");
    let value = format!("{:.0} a GiB of packs ({:.0} MiB in all)", packs * GIB / pack, pack / MIB);
    tell("settled, files", &value, "");
    let events = told.figure("events");
    let journal = told.figure("journal_bytes");
    let value = format!(
        "{:.1} B an event, {:.0} in the journal",
        pack / (events * settled / journal),
        journal / events
    );
    tell("settled, bytes", &value, "");
    tell("settled, packs written, of the journal's bytes", &format!("{:.3}", made / settled), "");
    let total = format!("{:.3} of the journal's bytes", 1.0 + made / settled);
    tell("settled, journal and packs written", &total, "at most 1.5");
    let system = told.figure("written_bytes") / journal;
    let value = format!("{system:.3} of the journal's bytes (/proc/self/io)");
    tell("settled, all that was written", &value, "");
    let value = format!(
        "{:.0} s until written and settled, {:.0} s until merged",
        told.figure("write_seconds"),
        told.figure("settle_seconds")
    );
    tell("settled, time", &value, "");
    let opened = process::play("open", log.path(), &[]);
    tell("settled, opening it", &times(std::slice::from_ref(&opened)), "below 2 s");
    let value = format!("{:.0} MiB", opened.figure("bytes") / MIB);
    tell("settled, memory when it was opened", &value, "");
}

/// Of what was made of one segment after the other, and what merging them took besides.
fn tell_settler(what: &str, told: &Told) {
    let journal = told.figure("settled_bytes");
    let rate = |cpu: &str| journal / told.figure(cpu) / 1e6;
    let value = format!(
        "{:.0} MB of journal a second of CPU, {:.0} with merges; {:.2} ns a byte",
        rate("settler_seconds"),
        rate("settler_merged_seconds"),
        told.figure("settler_seconds") / journal * 1e9
    );
    tell(&format!("{what}, the settler's thread"), &value, "at least 150 MB/s");
}

/// Has the log store each event once where `once` is not 0.
pub(crate) fn settle(folder: &Path, journal_bytes: u64, once: u64) {
    let topics = (0..TOPICS).filter(|_| once > 0).map(topic_name);
    let dedupe = topics.map(|topic| Dedupe { topic, window: WINDOW }).collect();
    let node = Node::open(folder, &Options { hot_bytes: Some(0), dedupe, ..Options::default() });
    let partitions = node.partitions(TOPICS, PARTITIONS_A_TOPIC);
    let began = Instant::now();
    let mut events = 0;
    for seed in 0.. {
        if node.engine.status().commit_bytes >= journal_bytes {
            break;
        }
        write(&node, &partitions, seed, once > 0);
        events += EVENTS_AT_ONCE;
        let settling = Instant::now();
        while node.engine.status().segments > 1 {
            assert!(settling.elapsed() < SETTLED_WITHIN, "{:?}", node.engine.status());
            thread::park_timeout(LOOK_EVERY);
        }
    }
    let written = began.elapsed();
    let settler = process::thread_cpu_time(SETTLER);
    node.wait_until_settled();
    let status = node.engine.status();
    assert!(status.segments <= 1, "{} segments are not settled", status.segments);
    process::tell("settler_seconds", settler.as_secs_f64());
    let merged = process::thread_cpu_time(SETTLER);
    process::tell("settler_merged_seconds", merged.as_secs_f64());
    process::tell("write_seconds", written.as_secs_f64());
    process::tell("settle_seconds", began.elapsed().as_secs_f64());
    process::tell("events", events as f64);
    process::tell("journal_bytes", status.commit_bytes as f64);
    process::tell("settled_bytes", status.settled_bytes as f64);
    process::tell("packs", status.packs as f64);
    process::tell("pack_bytes", status.pack_bytes as f64);
    process::tell("packs_made_bytes", status.packs_made_bytes as f64);
    process::tell("written_bytes", process::written_bytes() as f64);
    node.engine.close();
}

fn write(node: &Node, partitions: &[PartitionId], seed: u64, once: bool) {
    let made = visits::batches(EVENTS_AT_ONCE, Crowd::Visits(VISITORS), seed);
    let verified = made.batches.into_iter().map(VerifiedBatch::verify);
    let batches: Vec<VerifiedBatch> = verified.map(|it| it.expect("it was just built")).collect();
    let records = batches.iter().flat_map(|batch| batch.view().records());
    let records: Vec<Record<'_>> = records.map(|(_, record)| record).collect();
    let requests = records.chunks(REQUEST_EVENTS).map(|request| {
        let to = |record| Item::Record { partition: partition_of(record, partitions), record };
        request.iter().copied().map(to).collect()
    });
    let requests: Vec<Vec<Item<'_>>> = requests.collect();
    if once {
        return node.append_once(&requests);
    }
    let mut writer = Writer::new(node);
    for (items, request) in requests.iter().zip(records.chunks(REQUEST_EVENTS)) {
        let bytes = request.iter().map(|record| record.bytes().len()).sum();
        writer.append(items, bytes);
    }
    writer.finish();
}

fn partition_of(record: Record<'_>, partitions: &[PartitionId]) -> PartitionId {
    let event = EventView::of(record).expect("visits are events");
    let visitor = event.anonymous_id().expect("who visits has an id");
    let count = u32::try_from(partitions.len()).expect("few");
    partitions[partition_for(visitor.as_bytes(), count) as usize]
}
