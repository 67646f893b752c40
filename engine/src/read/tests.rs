//! The read path over a simulated disk, on segments written by hand.

use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use foldhash::HashMap;
use parking_lot::Mutex;
use proptest::prelude::*;
use tracklog_log::conformance::block_on;
use tracklog_log::{
    Damage, Extent, FetchMode, FetchedPartition, Retention, Topic, TopicName, TopicSpec,
};
use tracklog_protocol::batch::{self, BatchBuilder, Stamp};
use tracklog_protocol::event::{EventBuilder, EventParts};
use tracklog_protocol::{BatchView, KeyValue, PayloadKind, Record, TopicId, VerifiedBatch};

use super::*;
use crate::catalog::{self, Catalog};
use crate::disk::simulated::{Lasting, OperationKind, SimDisk};
use crate::disk::{Access, PAGE_BYTES, PageBuffer, Slot, SlotId};
use crate::journal::commit::{
    CommitHeader, CommitKind, DirectoryEntry, ENTRY_BYTES, HEADER_BYTES, Run, Salt, field,
};
use crate::journal::segment::FIRST_COMMIT_AT;
use crate::partition::places::{Place, Places};
use crate::partition::tail::Tail;
use crate::published::Topics;

const SLOT_BYTES: u64 = 16 << 20;
const TOPIC: TopicId = TopicId(1);
const PLENTY: usize = 1 << 24;
const EPOCH: Epoch = Epoch(3);

fn partition(index: u32) -> PartitionId {
    PartitionId::new(TOPIC, index)
}

/// What a test chooses.
struct Choice {
    partitions: u32,
    ring_bytes: usize,
    index_bytes: u64,
    threads: usize,
    open_slots: usize,
    pinned_bytes: u64,
    /// Work waits for [`Rig::turn`] then.
    by_hand: Option<u64>,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            partitions: 4,
            ring_bytes: 0,
            index_bytes: 1 << 30,
            threads: 0,
            open_slots: 8,
            pinned_bytes: 1 << 30,
            by_hand: None,
        }
    }
}

/// A journal by hand: what it writes is on the disk and published at once.
struct Rig {
    disk: SimDisk,
    published: Arc<Published>,
    reader: Arc<Reader>,
    /// What a scan of a segment would find.
    rebuilt: Arc<Mutex<HashMap<SegmentNumber, SegmentIndex>>>,
    rebuilds: Arc<AtomicUsize>,
    segment: SegmentId,
    slot: Arc<dyn Slot>,
    position: u32,
    number: CommitNumber,
    ends: BTreeMap<PartitionId, u64>,
    /// Every batch, as it was stamped.
    written: Vec<(SegmentId, Place, BatchView)>,
}

impl Rig {
    fn new(choice: &Choice) -> Self {
        let mut catalog = Catalog::new();
        let name = TopicName::new("events").unwrap();
        let spec = TopicSpec { name, partitions: choice.partitions, retention: Retention::Keep };
        catalog.insert(Topic { id: TOPIC, spec, created: TimeMicros(0) });
        let mut places = Places::new(choice.index_bytes);
        places.grow_to(catalog.row_count());
        let published = Published::new(Topics::new(catalog), places, Tail::new(choice.ring_bytes));
        let disk = SimDisk::new(7);
        let rebuilt = Arc::<Mutex<HashMap<_, SegmentIndex>>>::default();
        let rebuilds = Arc::<AtomicUsize>::default();
        let (known, counted) = (Arc::clone(&rebuilt), Arc::clone(&rebuilds));
        let rebuild: Rebuild = Arc::new(move |id, last| {
            counted.fetch_add(1, Ordering::Relaxed);
            let known = known.lock();
            let index = known.get(&id.number).ok_or(io::ErrorKind::NotFound)?;
            assert_eq!(index.last(), last, "what lies behind the last listed commit is void");
            Ok(index.clone())
        });
        let options = ReaderOptions {
            threads: choice.threads,
            pinned_bytes: choice.pinned_bytes,
            replay_bytes: choice.by_hand.unwrap_or(1 << 30),
            open_slots_max: choice.open_slots,
            frame_bytes: 1 << 20,
            cluster: ClusterId(1),
            rebuild,
        };
        let (seen, on) = (Arc::clone(&published), Arc::new(disk.clone()));
        let reader = match choice.by_hand.map(Threads::by_hand) {
            Some(threads) => Arc::new(Reader::with_threads(seen, on, options, threads)),
            None => Reader::new(seen, on, options).unwrap(),
        };
        let (segment, slot) = Self::begin(&disk, &published, 1);
        let (position, number) = (FIRST_COMMIT_AT, CommitNumber::NONE);
        let (ends, written) = (BTreeMap::new(), Vec::new());
        Self {
            disk,
            published,
            reader,
            rebuilt,
            rebuilds,
            segment,
            slot,
            position,
            number,
            ends,
            written,
        }
    }

    fn begin(disk: &SimDisk, published: &Published, number: u64) -> (SegmentId, Arc<dyn Slot>) {
        let slot = SlotId(u32::try_from(number).unwrap());
        disk.create_slot(slot, SLOT_BYTES, &mut |_| {}).unwrap();
        let id = SegmentId { number: SegmentNumber(number), slot, run: Run(1), salt: Salt(number) };
        published.places.write().begin(id);
        (id, disk.open_slot(slot, Access::Write).unwrap())
    }

    /// Writes and publishes one commit.
    fn commit(&mut self, batches: &[(PartitionId, VerifiedBatch)]) {
        self.number = self.number.next();
        let append_time = self.append_time();
        let directory_bytes = batches.len() * ENTRY_BYTES;
        let (mut body, mut directory, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        let mut views = Vec::new();
        for (partition, batch) in batches {
            let end = self.ends.entry(*partition).or_default();
            let base_offset = Offset(*end);
            *end += u64::from(batch.view().count());
            let mut bytes = batch.view().bytes().to_vec();
            let stamp = Stamp { partition: *partition, base_offset, append_time };
            let batch_crc = batch::stamp(&mut bytes, &stamp);
            body.resize(body.len().next_multiple_of(8), 0);
            let times = batch.view().header().event_times();
            let entry = DirectoryEntry {
                partition: *partition,
                base_offset,
                count: batch.view().count(),
                place: field(HEADER_BYTES + directory_bytes + body.len()),
                batch_bytes: field(bytes.len()),
                batch_crc,
                event_time_max: times.map_or(TimeMicros(i64::MIN), |times| times.max),
            };
            body.extend_from_slice(&bytes);
            entry.encode(&mut directory);
            let row = self.published.topics.read().catalog.row(*partition).unwrap();
            entries.push((row, entry));
            views.push(crate::disk::batch_of_slot(bytes.into()).unwrap());
        }
        let head = HEADER_BYTES + directory_bytes;
        let mut pages = PageBuffer::zeroed(head + body.len());
        pages[HEADER_BYTES..head].copy_from_slice(&directory);
        pages[head..head + body.len()].copy_from_slice(&body);
        let header = CommitHeader {
            kind: CommitKind::Data,
            salt: self.segment.salt,
            run: self.segment.run,
            number: self.number,
            segment: self.segment.number,
            position: self.position,
            commit_bytes: field(pages.len()),
            chain: 0,
            mark: CommitNumber::NONE,
            append_time,
            directory_bytes: field(directory_bytes),
            directory_crc: crc32fast::hash(&directory),
        };
        pages[..HEADER_BYTES].copy_from_slice(&header.encode());
        let pages = pages.freeze();
        self.slot.write(u64::from(self.position), &pages).unwrap();
        self.position = header.end();
        self.published.commit(&header, &entries, pages);
        self.published.wake();
        for ((_, entry), view) in entries.iter().zip(views) {
            self.written.push((self.segment, Place::new(&header, entry), view));
        }
    }

    fn append_time(&self) -> TimeMicros {
        TimeMicros(1000 + 10 * self.number.0.cast_signed())
    }

    fn write(&mut self, partition: PartitionId, texts: &[&str]) {
        self.commit(&[(partition, texts_batch(texts))]);
    }

    /// The next records of the partition are lost.
    fn skip(&mut self, partition: PartitionId, records: u64) {
        *self.ends.entry(partition).or_default() += records;
    }

    /// Ends the segment and begins the next.
    fn roll(&mut self) {
        let (id, index) = {
            let topics = self.published.topics.read();
            self.published.places.write().seal(&topics.catalog)
        };
        self.rebuilt.lock().insert(id.number, (*index).clone());
        // Lets go of the lock, so that nobody writes any more.
        (self.segment, self.slot) = Self::begin(&self.disk, &self.published, id.number.0 + 1);
        self.position = FIRST_COMMIT_AT;
    }

    fn write_index(&self, number: u64) {
        let segment = SegmentNumber(number);
        let id = self.written.iter().find(|(id, ..)| id.number == segment).unwrap().0;
        let file = index_file::encode(&id, &self.rebuilt.lock()[&segment]);
        self.disk.write_file(&FileName::Index(number), &file).unwrap();
    }

    fn end(&self, partition: PartitionId) -> Offset {
        Offset(self.ends.get(&partition).copied().unwrap_or_default())
    }

    fn trim(&self, partition: PartitionId, start: u64) {
        let topics = self.published.topics.read();
        topics.set_start(topics.catalog.row(partition).unwrap(), Offset(start));
    }

    fn fetch(
        &self,
        from: &[(PartitionId, u64)],
        bytes_max: usize,
    ) -> Result<Vec<FetchedPartition>, FetchError> {
        let fetched = block_on(self.reader.fetch(EPOCH, asked(from, bytes_max, false)))?;
        assert_eq!(fetched.epoch, EPOCH);
        Ok(fetched.partitions)
    }

    fn one(&self, index: u32, from: u64) -> FetchedPartition {
        self.fetch(&[(partition(index), from)], PLENTY).unwrap().remove(0)
    }

    fn offset_at(&self, index: u32, kind: TimeKind, time: i64) -> u64 {
        block_on(self.reader.offset_at(partition(index), kind, TimeMicros(time))).unwrap().0
    }

    fn reads(&self) -> [u64; 3] {
        let reads = &self.published.reads;
        [&reads.ring, &reads.active, &reads.map].map(|count| count.load(Ordering::Relaxed))
    }

    /// Where a batch that was written lies.
    fn place(&self, index: u32, base: u64) -> (SlotId, u64) {
        let of = (partition(index), Offset(base));
        let mut written = self.written.iter();
        let found = written.find(|(_, _, view)| (view.partition(), view.base_offset()) == of);
        let (segment, place, _) = found.unwrap();
        (segment.slot, place.at())
    }
}

fn asked(from: &[(PartitionId, u64)], bytes_max: usize, wait: bool) -> Fetch {
    let from = from.iter().map(|(partition, from)| (*partition, Offset(*from))).collect();
    Fetch { from, bytes_max, wait, mode: FetchMode::Replay }
}

fn texts_batch(texts: &[&str]) -> VerifiedBatch {
    let mut builder = BatchBuilder::new(PayloadKind::Opaque);
    texts.iter().for_each(|text| builder.push(Record::opaque(text.as_bytes())));
    builder.finish()
}

fn large_batch(bytes: usize) -> VerifiedBatch {
    texts_batch(&["x".repeat(bytes).as_str()])
}

fn events_batch(times: &[i64]) -> VerifiedBatch {
    let mut builder = BatchBuilder::new(PayloadKind::Event);
    let mut event = EventBuilder::new();
    for time in times {
        let event_time = TimeMicros(*time);
        builder.push(event.build(&EventParts {
            message_id: "m",
            event_time,
            ..EventParts::default()
        }));
    }
    builder.finish()
}

/// The records at and after `from`.
fn texts(found: &FetchedPartition, from: u64) -> Vec<String> {
    let records = found.batches.iter().flat_map(BatchView::records);
    let asked = records.filter(|(offset, _)| offset.0 >= from);
    asked.map(|(_, record)| String::from_utf8(record.bytes().to_vec()).unwrap()).collect()
}

fn ranges(damage: &[Damage]) -> Vec<(u64, u64)> {
    damage.iter().map(|damage| (damage.from.0, damage.to.0)).collect()
}

/// Ten records of partition 0 in three segments, the last of which is being written.
fn three_segments(choice: &Choice) -> Rig {
    let mut rig = Rig::new(choice);
    rig.write(partition(0), &["a", "b"]);
    rig.write(partition(1), &["other"]);
    rig.write(partition(0), &["c"]);
    rig.roll();
    rig.write(partition(0), &["d", "e", "f"]);
    rig.write(partition(0), &["g"]);
    rig.roll();
    rig.write(partition(0), &["h", "i"]);
    rig.write(partition(0), &["j"]);
    rig
}

const TEN: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

#[test]
fn every_place_gives_the_same_records() {
    for (ring_bytes, threads) in [(0, 0), (0, 2), (3 * PAGE_BYTES, 1), (1 << 20, 0)] {
        let rig = three_segments(&Choice { ring_bytes, threads, ..Choice::default() });
        for from in 0..10 {
            let found = rig.one(0, from);
            assert_eq!(texts(&found, from), TEN[usize::try_from(from).unwrap()..]);
            assert_eq!((found.next, found.damage), (Offset(10), Vec::new()));
            assert!(found.batches[0].end_offset() > Offset(from));
        }
        assert_eq!(texts(&rig.one(1, 0), 0), ["other"]);
        rig.reader.stop();
    }
}

#[test]
fn reads_are_counted_by_place() {
    let rig = three_segments(&Choice { ring_bytes: PAGE_BYTES, ..Choice::default() });
    rig.one(0, 0);
    assert_eq!(rig.reads(), [1, 1, 4]);
    let rig = three_segments(&Choice { ring_bytes: 1 << 20, ..Choice::default() });
    rig.one(0, 0);
    assert_eq!(rig.reads(), [6, 0, 0]);
}

#[test]
fn the_tail_is_read_without_touching_the_disk() {
    let rig = three_segments(&Choice { ring_bytes: 1 << 20, index_bytes: 0, ..Choice::default() });
    let before = rig.disk.operations();
    assert_eq!(texts(&rig.one(0, 8), 8), ["i", "j"]);
    assert_eq!(rig.disk.operations(), before, "no index of an older segment is asked for");
}

#[test]
fn a_read_at_the_end_is_empty_and_beyond_it_out_of_range() {
    let rig = three_segments(&Choice::default());
    let found = rig.one(0, 10);
    assert!(found.batches.is_empty() && found.next == Offset(10));
    let extent = Extent { start: Offset(0), end: Offset(10) };
    let asked = Offset(11);
    let error = rig.fetch(&[(partition(0), 11)], PLENTY).unwrap_err();
    assert_eq!(error, FetchError::OutOfRange { partition: partition(0), asked, extent });
    let unknown = partition(99);
    let error = rig.fetch(&[(unknown, 0)], PLENTY).unwrap_err();
    assert_eq!(error, FetchError::UnknownPartition { partition: unknown });
}

#[test]
fn a_rotten_batch_costs_itself_only_and_is_named() {
    let rig = three_segments(&Choice::default());
    for (base, end) in [(3, 6), (7, 9)] {
        let (slot, at) = rig.place(0, base);
        rig.disk.flip_bit(slot, at + 70, 3);
        let found = rig.one(0, 0);
        let damage = &found.damage[found.damage.len() - 1];
        assert_eq!((damage.from.0, damage.to.0), (base, end));
        let named = format!("segment {} ({slot}) at {at}", slot.0);
        assert!(damage.what.starts_with(&named), "{} names {named}", damage.what);
        assert_eq!(found.next, Offset(10));
    }
    assert_eq!(texts(&rig.one(0, 0), 0), ["a", "b", "c", "g", "j"]);
    let found = rig.one(0, 4);
    assert_eq!(
        (texts(&found, 4), ranges(&found.damage)),
        (vec!["g".to_owned(), "j".to_owned()], vec![(4, 6), (7, 9)],)
    );
}

#[test]
fn a_rotten_last_batch_moves_the_reader_to_the_end() {
    let mut rig = Rig::new(&Choice::default());
    rig.write(partition(0), &["a", "b"]);
    rig.write(partition(1), &["what the ring holds"]);
    let (slot, at) = rig.place(0, 0);
    rig.disk.flip_bit(slot, at, 0);
    let found = rig.one(0, 0);
    assert_eq!((found.next, ranges(&found.damage)), (Offset(2), vec![(0, 2)]));
    rig.roll();
    let found = rig.one(0, 1);
    assert_eq!((found.next, ranges(&found.damage)), (Offset(2), vec![(1, 2)]));
}

#[test]
fn a_bad_sector_costs_its_batches_only() {
    for full in [false, true] {
        let mut rig = Rig::new(&Choice::default());
        for text in ["a", "b", "c"] {
            rig.write(partition(0), &[text]);
        }
        if full {
            rig.roll();
        }
        let (slot, at) = rig.place(0, 1);
        rig.disk.break_range(slot, at..at + 1);
        let found = rig.one(0, 0);
        assert_eq!(
            (texts(&found, 0), ranges(&found.damage)),
            (vec!["a".to_owned(), "c".to_owned()], vec![(1, 2)],)
        );
        assert!(found.damage[0].what.contains("bad sector"), "{}", found.damage[0].what);
        rig.disk.heal();
        assert_eq!(texts(&rig.one(0, 0), 0), ["a", "b", "c"]);
    }
}

#[test]
fn an_older_batch_in_the_place_is_not_taken_for_the_one_asked_for() {
    let mut rig = Rig::new(&Choice::default());
    rig.write(partition(0), &["a"]);
    rig.write(partition(0), &["b"]);
    rig.write(partition(1), &["what the ring holds"]);
    let (slot, first) = rig.place(0, 0);
    let (_, second) = rig.place(0, 1);
    let older = rig.disk.peek(slot, first, 80);
    rig.disk.corrupt(slot, second, &older);
    let found = rig.one(0, 0);
    assert_eq!((texts(&found, 0), ranges(&found.damage)), (vec!["a".to_owned()], vec![(1, 2)]));
    assert!(found.damage[0].what.ends_with("another batch lies there"));
}

#[test]
fn lost_commits_are_named_wherever_they_lie() {
    let mut rig = Rig::new(&Choice::default());
    rig.skip(partition(0), 2);
    rig.write(partition(0), &["c"]);
    rig.skip(partition(0), 3);
    rig.write(partition(0), &["g"]);
    rig.roll();
    rig.skip(partition(0), 1);
    rig.write(partition(0), &["i"]);
    let found = rig.one(0, 0);
    assert_eq!(texts(&found, 0), ["c", "g", "i"]);
    assert_eq!(ranges(&found.damage), [(0, 2), (3, 6), (7, 8)]);
    assert_eq!(found.damage[1].what, "3 records are not there: lost commits");
    for (from, first) in [(4, (4, 6)), (5, (5, 6)), (7, (7, 8))] {
        assert_eq!(ranges(&rig.one(0, from).damage)[0], first);
    }
    // However little comes at once, the reader comes forward.
    for mut next in 0..9 {
        while next < 9 {
            let found = rig.fetch(&[(partition(0), next)], 1).unwrap().remove(0);
            assert!(found.next.0 > next);
            next = found.next.0;
        }
    }
}

#[test]
fn lost_commits_at_the_end_are_passed_over() {
    let mut rig = Rig::new(&Choice::default());
    rig.write(partition(0), &["a"]);
    {
        let topics = rig.published.topics.read();
        for index in [0, 1] {
            topics.set_end(topics.catalog.row(partition(index)).unwrap(), Offset(8));
        }
    }
    for (index, lost) in [(0, (1, 8)), (1, (0, 8))] {
        let found = rig.one(index, 0);
        assert_eq!((found.next, ranges(&found.damage)), (Offset(8), vec![lost]));
    }
}

#[test]
fn what_was_given_up_is_neither_returned_nor_missed() {
    let mut rig = Rig::new(&Choice::default());
    rig.skip(partition(0), 4);
    rig.write(partition(0), &["e", "f", "g"]);
    rig.write(partition(0), &["h"]);
    rig.trim(partition(0), 5);
    let found = rig.one(0, 5);
    assert_eq!(
        (texts(&found, 5), found.damage.len()),
        (vec!["f".into(), "g".into(), "h".into()], 0)
    );
    assert_eq!(found.extent, Extent { start: Offset(5), end: Offset(8) });
    rig.trim(partition(0), 7);
    assert_eq!(rig.one(0, 7).batches.len(), 1);
}

#[test]
fn what_went_elsewhere_while_it_was_read_is_planned_again() {
    let rig = three_segments(&Choice::default());
    let asked = Asked { from: vec![(partition(0), Offset(0))], bytes_max: PLENTY, turn: 0 };
    let mut plan = Plan::make(&rig.published, &asked, &Held::new()).unwrap();
    let oldest = rig.published.places.read().oldest().unwrap();
    let Home::Segment(freed) = oldest.home else { panic!("the oldest is a segment") };
    let open = rig.reader.slots.open(freed).unwrap();
    rig.published.places.write().drop_oldest();
    // The slot is used again, for something else, while somebody reads it.
    rig.disk.corrupt(freed.slot, 0, &[0xAA; 3 * PAGE_BYTES]);
    let mut batches: Vec<_> = plan.batches_mut().filter(|it| it.home == oldest.home).collect();
    assert!(!batches.is_empty());
    rig.reader.scan().read_segment(&open, &mut batches);
    assert!(plan.is_outdated(), "it is no damage");
}

#[test]
fn a_segment_that_is_freed_while_it_is_read_is_no_damage() {
    let rig = three_segments(&Choice::default());
    let asked = Asked { from: vec![(partition(0), Offset(0))], bytes_max: PLENTY, turn: 0 };
    let mut plan = Plan::make(&rig.published, &asked, &Held::new()).unwrap();
    rig.trim(partition(0), 3);
    let oldest = rig.published.places.read().oldest().unwrap();
    let Home::Segment(freed) = oldest.home else { panic!("the oldest is a segment") };
    rig.published.places.write().drop_oldest();
    assert!(!rig.reader.forget(freed.number));
    // The slot is used again, for something else.
    rig.disk.corrupt(freed.slot, 0, &[0xAA; 3 * PAGE_BYTES]);
    rig.reader.scan().read(plan.batches_mut().collect());
    let found = answer::fetched(plan, EPOCH, &rig.published).unwrap().partitions.remove(0);
    assert_eq!((texts(&found, 0).len(), found.damage.len()), (7, 0));
    assert_eq!(found.extent.start, Offset(3));
}

#[test]
fn many_partitions_share_the_bytes() {
    let count = 1024;
    let mut rig = Rig::new(&Choice { partitions: count, ..Choice::default() });
    for _ in 0..4 {
        for some in (0..count).collect::<Vec<_>>().chunks(256) {
            let batches: Vec<_> =
                some.iter().map(|index| (partition(*index), large_batch(200))).collect();
            rig.commit(&batches);
        }
    }
    let mut next: Vec<_> = (0..count).map(|index| (partition(index), 0)).collect();
    let found = rig.fetch(&next, 1024 * 300).unwrap();
    assert!(found.iter().all(|found| found.next >= Offset(1)), "everybody gets something");
    let bytes: usize = found.iter().flat_map(|it| &it.batches).map(|it| it.bytes().len()).sum();
    assert!(bytes <= 1024 * 300 && bytes > 1024 * 300 - 300, "the rest is not left over");
    // Nor does anybody starve where there is not enough for all.
    for _ in 0..4000 {
        for (found, (_, next)) in rig.fetch(&next, 10_000).unwrap().iter().zip(&mut next) {
            *next = found.next.0;
        }
    }
    assert!(next.iter().all(|(_, next)| *next == 4));
}

#[test]
fn large_batches_do_not_starve_beside_small_ones() {
    let mut rig = Rig::new(&Choice { partitions: 2, ..Choice::default() });
    for _ in 0..200 {
        rig.commit(&[(partition(0), large_batch(10)), (partition(1), large_batch(9_000))]);
    }
    let mut next = [0, 0];
    for _ in 0..40 {
        let asked = [(partition(0), 0), (partition(1), next[1])];
        let found = rig.fetch(&asked, 1_000).unwrap();
        next = [found[0].next.0, found[1].next.0];
    }
    assert!(next[1] > 5, "{next:?}");
}

#[test]
fn no_answer_is_larger_than_asked_but_for_one_batch() {
    let rig = three_segments(&Choice::default());
    let batch = rig.written[0].2.bytes().len();
    for (bytes_max, batches) in [(0, 1), (1, 1), (batch, 1), (2 * batch, 2)] {
        assert_eq!(rig.fetch(&[(partition(0), 0)], bytes_max).unwrap()[0].batches.len(), batches);
    }
}

#[test]
fn an_index_that_was_dropped_is_read_again() {
    let rig = three_segments(&Choice { index_bytes: 0, ..Choice::default() });
    rig.write_index(1);
    rig.write_index(2);
    let all = |rig: &Rig| {
        let (mut next, mut read) = (0, Vec::new());
        while next < 10 {
            let found = rig.one(0, next);
            read.extend(texts(&found, next));
            next = found.next.0;
        }
        read
    };
    assert_eq!(all(&rig), TEN);
    assert_eq!(rig.rebuilds.load(Ordering::Relaxed), 0);
    let rotten = vec![1; 300];
    rig.disk.set_file(&FileName::Index(1), Some(rotten));
    rig.disk.set_file(&FileName::Index(2), None);
    assert_eq!(all(&rig), TEN);
    assert_eq!(rig.rebuilds.load(Ordering::Relaxed), 2, "made again from the segments");
}

#[test]
fn an_index_file_that_ends_at_another_commit_is_not_taken() {
    let rig = three_segments(&Choice { index_bytes: 0, ..Choice::default() });
    let id = rig.written[0].0;
    let mut index = rig.rebuilt.lock()[&id.number].clone();
    let mut void = index.commits[index.commits.len() - 1];
    void.number = void.number.next();
    void.append_time.0 += 1;
    void.position += void.commit_bytes;
    index.commits.push(void);
    rig.disk.write_file(&FileName::Index(1), &index_file::encode(&id, &index)).unwrap();
    assert_eq!(texts(&rig.one(0, 0), 0), ["a", "b", "c"]);
    assert_eq!(rig.rebuilds.load(Ordering::Relaxed), 1);
}

#[test]
fn an_index_that_cannot_be_made_is_an_error_of_its_own_partition() {
    let rig = three_segments(&Choice { index_bytes: 0, ..Choice::default() });
    rig.rebuilt.lock().clear();
    let error = rig.fetch(&[(partition(1), 0)], PLENTY).unwrap_err();
    assert!(matches!(error, FetchError::Io { partition: it, .. } if it == partition(1)));
    let found = rig.fetch(&[(partition(1), 0), (partition(0), 7)], PLENTY).unwrap();
    assert_eq!((found[0].next, texts(&found[1], 7).len()), (Offset(0), 3));
}

#[test]
fn a_disk_that_gives_nothing_for_now_is_an_error_and_no_damage() {
    for operation in [OperationKind::OpenSlot, OperationKind::Read] {
        let rig = three_segments(&Choice::default());
        rig.disk.fail_next(operation, io::ErrorKind::OutOfMemory, Lasting::Always);
        let asked = [(partition(0), 7), (partition(1), 1)];
        let error = rig.fetch(&asked, PLENTY).unwrap_err();
        assert!(matches!(error, FetchError::Io { partition: it, .. } if it == partition(0)));
        // Whoever gets something is not kept from it.
        let asked = [(partition(0), 7), (partition(0), 9)];
        let found = rig.fetch(&asked, PLENTY).unwrap();
        assert_eq!((found[0].next, found[1].next), (Offset(7), Offset(10)));
        assert!(found[0].damage.is_empty());
        rig.disk.heal();
        assert_eq!(texts(&rig.one(0, 7), 7), ["h", "i", "j"]);
    }
}

#[test]
fn a_window_that_fails_once_costs_nothing() {
    let rig = three_segments(&Choice::default());
    rig.disk.fail_next(OperationKind::Read, io::ErrorKind::Other, Lasting::Once);
    let found = rig.one(0, 7);
    assert_eq!((texts(&found, 7).len(), found.damage.len()), (3, 0));
}

#[test]
fn without_a_map_the_segment_is_read() {
    for operation in [OperationKind::Map, OperationKind::MapBytes] {
        let rig = three_segments(&Choice::default());
        rig.disk.fail_next(operation, io::ErrorKind::OutOfMemory, Lasting::Once);
        assert_eq!(texts(&rig.one(0, 0), 0), TEN);
    }
}

#[test]
fn a_forgotten_segment_says_whether_its_bytes_are_held() {
    // With one slot kept open the map of segment 1 is known although it was closed.
    for open_slots in [8, 1] {
        let rig = three_segments(&Choice { open_slots, ..Choice::default() });
        let mut batches = rig.one(0, 0).batches;
        batches.retain(|batch| batch.base_offset() < Offset(3));
        for (segment, is_held) in [(1, true), (2, false)] {
            rig.published.places.write().drop_oldest();
            assert_eq!(rig.reader.forget(SegmentNumber(segment)), is_held);
        }
        assert_eq!(batches.len(), 2);
    }
}

#[test]
fn a_forgotten_slot_is_not_mapped_any_more() {
    let rig = three_segments(&Choice::default());
    drop(rig.one(0, 0));
    rig.published.places.write().drop_oldest();
    assert!(!rig.reader.forget(SegmentNumber(1)));
    let slot = rig.disk.open_slot(SlotId(1), Access::Write).unwrap();
    slot.write(0, &PageBuffer::zeroed(PAGE_BYTES).freeze()).expect("nobody has it mapped");
}

#[test]
fn a_closed_map_that_is_held_is_used_again() {
    let rig = three_segments(&Choice { open_slots: 1, ..Choice::default() });
    let maps = || rig.disk.trace().iter().filter(|line| line.contains("Map ")).count();
    let held = rig.one(0, 0).batches;
    let before = maps();
    drop(rig.one(1, 0));
    assert_eq!(maps(), before);
    drop(held);
    drop(rig.one(0, 4));
    drop(rig.one(1, 0));
    assert_eq!(maps(), before + 2, "one for each segment: nobody held the old ones");
}

#[test]
fn answers_beyond_the_pinned_budget_are_copies() {
    // A batch fits, and a window over several commits does not.
    let rig = three_segments(&Choice { pinned_bytes: 4096, ..Choice::default() });
    let pinned = rig.fetch(&[(partition(0), 0)], 1).unwrap();
    let held = rig.reader.pinned_bytes();
    assert!((1..4096).contains(&held), "{held}");
    let copies = rig.one(0, 0);
    assert_eq!(rig.reader.windows_copied(), 2, "one of each full segment");
    assert_eq!(rig.reader.pinned_bytes(), held);
    for (segment, is_held) in [(1, true), (2, false)] {
        rig.published.places.write().drop_oldest();
        assert_eq!(rig.reader.forget(SegmentNumber(segment)), is_held);
    }
    drop(pinned);
    assert_eq!(rig.reader.pinned_bytes(), 0);
    assert_eq!(texts(&copies, 0), TEN);
}

#[test]
fn without_a_pinned_budget_nobody_holds_a_map() {
    let rig = three_segments(&Choice { pinned_bytes: 0, ..Choice::default() });
    let all = rig.one(0, 0);
    for segment in [1, 2] {
        rig.published.places.write().drop_oldest();
        assert!(!rig.reader.forget(SegmentNumber(segment)));
    }
    assert_eq!(texts(&all, 0), TEN);
}

/// Sixteen partitions with sixteen batches of about 3 KB each in segment 1, and one in segment 2.
fn interleaved(by_hand: u64) -> Rig {
    let mut rig = Rig::new(&Choice { partitions: 17, by_hand: Some(by_hand), ..Choice::default() });
    let all: Vec<_> = (0..16).map(|index| (partition(index), large_batch(3_000))).collect();
    for _ in 0..16 {
        rig.commit(&all);
    }
    rig.roll();
    rig.commit(&all);
    rig.roll();
    rig.write(partition(16), &["what the ring holds"]);
    rig
}

type Fetching = Pending<'static, Result<Fetched, FetchError>>;

impl Rig {
    /// Begins a fetch, which waits for [`Rig::turn`].
    fn begin_fetch(&self, index: u32, bytes_max: usize, mode: FetchMode) -> Fetching {
        let asked = Fetch { mode, ..asked(&[(partition(index), 0)], bytes_max, false) };
        let mut fetching = self.reader.fetch(EPOCH, asked);
        assert!(!is_over(&mut fetching));
        fetching
    }

    fn turn(&self) -> bool {
        self.reader.threads.turn()
    }

    fn windows_read(&self) -> usize {
        self.disk.trace().iter().filter(|line| line.contains("MapBytes")).count()
    }
}

fn is_over(fetching: &mut Fetching) -> bool {
    poll(fetching).is_some()
}

fn poll(fetching: &mut Fetching) -> Option<FetchedPartition> {
    match fetching.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(fetched) => Some(fetched.unwrap().partitions.remove(0)),
        Poll::Pending => None,
    }
}

#[test]
fn fetches_for_one_segment_read_each_window_once() {
    let rig = interleaved(1 << 30);
    let mut fetching: Vec<_> =
        (0..16).map(|index| rig.begin_fetch(index, PLENTY, FetchMode::Replay)).collect();
    assert!(rig.turn());
    let windows = (16 * 16 * 3_100_usize).div_ceil(1 << 20);
    assert_eq!(rig.windows_read(), windows, "the segment is read once for all sixteen");
    for fetching in &mut fetching {
        let found = poll(fetching).unwrap();
        assert_eq!((found.next, found.batches.len()), (Offset(16), 16), "cut behind the segment");
        assert_eq!(found.damage, []);
    }
    assert!(!rig.turn());
    // Alone a fetch goes on into the next segment.
    let mut alone = rig.begin_fetch(3, PLENTY, FetchMode::Replay);
    assert!(rig.turn());
    assert_eq!(poll(&mut alone).unwrap().next, Offset(17));
}

#[test]
fn those_who_ask_for_the_same_batches_share_them() {
    let rig = interleaved(1 << 30);
    let mut fetching = [(); 2].map(|()| rig.begin_fetch(5, PLENTY, FetchMode::Replay));
    assert!(rig.turn());
    let [one, other] = fetching.each_mut().map(|it| poll(it).unwrap().batches);
    assert_eq!(one.len(), 16);
    for (one, other) in one.iter().zip(&other) {
        assert_eq!(one.bytes().as_ptr(), other.bytes().as_ptr());
    }
}

#[test]
fn an_index_that_several_lack_is_read_once() {
    let by_hand = Some(1 << 30);
    let mut rig = Rig::new(&Choice { index_bytes: 0, by_hand, ..Choice::default() });
    rig.commit(&[(partition(0), large_batch(9)), (partition(1), large_batch(9))]);
    rig.roll();
    let mut fetching = [0, 1].map(|index| rig.begin_fetch(index, 1_000, FetchMode::Replay));
    assert!(rig.turn());
    for fetching in &mut fetching {
        assert_eq!(poll(fetching).unwrap().batches.len(), 1);
    }
    assert_eq!(rig.rebuilds.load(Ordering::Relaxed), 1);
}

#[test]
fn replays_wait_for_their_budget_in_order_and_live_readers_do_not() {
    let rig = interleaved(10_000);
    // Each reads three batches of about 3,100 bytes.
    let replay = |index| rig.begin_fetch(index, 9_500, FetchMode::Replay);
    let (mut first, second, mut third) = (replay(0), replay(1), replay(2));
    assert!(rig.turn());
    let share = rig.reader.replay_bytes();
    assert!((9_000..9_500).contains(&share), "{share}");
    assert!(!rig.turn(), "the first answer is not taken");
    let mut live = rig.begin_fetch(9, 9_500, FetchMode::Live);
    assert!(rig.turn() && is_over(&mut live));
    assert_eq!(rig.reader.replay_bytes(), share, "live readers do not count");
    assert!(poll(&mut first).is_some_and(|found| found.batches.len() == 3));
    assert_eq!(rig.reader.replay_bytes(), 0);
    assert!(rig.turn() && !is_over(&mut third) && !rig.turn());
    // An answer that is dropped gives back its share as one that is taken.
    drop(second);
    assert!(rig.turn() && is_over(&mut third));
    assert_eq!((rig.turn(), rig.reader.replay_bytes()), (false, 0));
}

#[test]
fn a_fetch_larger_than_the_budget_is_read_alone() {
    let rig = interleaved(5_000);
    let small = |index| rig.begin_fetch(index, 4_000, FetchMode::Replay);
    let mut before = small(0);
    let mut large = rig.begin_fetch(1, PLENTY, FetchMode::Replay);
    let mut behind = small(2);
    assert!(rig.turn());
    assert!(!rig.turn(), "nobody passes the large one by");
    assert!(is_over(&mut before) && rig.turn() && !rig.turn());
    let found = poll(&mut large).unwrap();
    assert_eq!(found.next, Offset(16), "no room for the segment behind");
    drop(found);
    assert!(rig.turn() && is_over(&mut behind));
}

#[test]
fn a_fetch_given_up_while_it_waits_is_in_nobodys_way() {
    let rig = interleaved(10_000);
    let replay = |index, bytes| rig.begin_fetch(index, bytes, FetchMode::Replay);
    let mut first = replay(0, 4_000);
    let given_up = replay(1, PLENTY);
    let mut behind = replay(2, 4_000);
    assert!(rig.turn() && !rig.turn());
    drop(given_up);
    let windows = rig.windows_read();
    while rig.turn() {}
    assert!(is_over(&mut first) && is_over(&mut behind));
    assert_eq!(rig.windows_read(), windows + 1);
    assert_eq!(rig.reader.replay_bytes(), 0);
}

#[test]
fn a_waiting_read_ends_when_something_comes() {
    let mut rig = three_segments(&Choice { ring_bytes: 1 << 20, ..Choice::default() });
    let mut reading = pin!(rig.reader.fetch(EPOCH, asked(&[(partition(0), 10)], PLENTY, true)));
    let mut context = Context::from_waker(Waker::noop());
    assert!(reading.as_mut().poll(&mut context).is_pending());
    rig.write(partition(1), &["of another"]);
    assert!(reading.as_mut().poll(&mut context).is_pending());
    rig.write(partition(0), &["k"]);
    let fetched = block_on(reading).unwrap();
    assert_eq!(texts(&fetched.partitions[0], 10), ["k"]);
}

#[test]
fn a_waiting_read_ends_when_the_log_is_closed() {
    let rig = three_segments(&Choice::default());
    let mut reading = pin!(rig.reader.fetch(EPOCH, asked(&[(partition(0), 10)], PLENTY, true)));
    let mut context = Context::from_waker(Waker::noop());
    assert!(reading.as_mut().poll(&mut context).is_pending());
    rig.published.close();
    assert_eq!(block_on(reading).unwrap_err(), FetchError::Closed);
    let reading = rig.reader.fetch(EPOCH, asked(&[(partition(0), 9)], PLENTY, true));
    assert_eq!(texts(&block_on(reading).unwrap().partitions[0], 9), ["j"]);
}

#[test]
fn a_waiting_read_ends_when_its_topic_is_deleted() {
    let rig = three_segments(&Choice::default());
    let reading = rig.reader.fetch(EPOCH, asked(&[(partition(0), 10)], PLENTY, true));
    let mut reading = pin!(reading);
    let mut context = Context::from_waker(Waker::noop());
    assert!(reading.as_mut().poll(&mut context).is_pending());
    let key = catalog::topic_key(&TopicName::new("events").unwrap());
    let delete = KeyValue { key: &key, value: None };
    rig.published.apply(catalog::PARTITION, Offset(10), &delete);
    let error = block_on(reading).unwrap_err();
    assert_eq!(error, FetchError::UnknownPartition { partition: partition(0) });
}

#[test]
fn a_stopped_reader_reads_no_disk() {
    let rig = three_segments(&Choice { threads: 2, ..Choice::default() });
    rig.reader.stop();
    assert_eq!(rig.fetch(&[(partition(0), 0)], PLENTY).unwrap_err(), FetchError::Closed);
}

#[test]
fn times_are_found_in_every_place() {
    for (ring_bytes, index_bytes) in [(0, 1 << 30), (0, 0), (PAGE_BYTES, 0), (1 << 20, 1 << 30)] {
        let mut rig = Rig::new(&Choice { ring_bytes, index_bytes, ..Choice::default() });
        let mut events = Vec::new();
        for commit in 0..12_i64 {
            let times: Vec<i64> =
                (0..=commit % 4).map(|step| (commit * 37 + step * 59) % 101 - 20).collect();
            events.extend(times.iter().map(|time| (*time, commit)));
            rig.commit(&[
                (partition(0), events_batch(&times)),
                (partition(1), large_batch(50_000)),
            ]);
            if commit % 3 == 2 {
                // A commit of others at the end of the segment.
                rig.write(partition(2), &["x"]);
                rig.roll();
            }
        }
        let append_times: BTreeMap<u64, i64> = rig
            .written
            .iter()
            .filter(|(_, _, view)| view.partition() == partition(0))
            .flat_map(|(_, _, view)| view.entries().map(|(at, _)| (at.0, view.append_time().0)))
            .collect();
        for start in [0, 1, 9] {
            rig.trim(partition(0), start);
            let first = |holds: &dyn Fn(u64) -> bool| {
                (start..).find(|at| holds(*at) || *at >= events.len() as u64).unwrap()
            };
            for time in -25..90 {
                let expected = first(&|at| {
                    events.get(usize::try_from(at).unwrap()).is_some_and(|(it, _)| *it >= time)
                });
                assert_eq!(rig.offset_at(0, TimeKind::Event, time), expected, "event {time}");
            }
            for time in 1000..1200 {
                let expected = first(&|at| append_times.get(&at).is_some_and(|it| *it >= time));
                assert_eq!(rig.offset_at(0, TimeKind::Append, time), expected, "append {time}");
            }
        }
        assert_eq!(rig.offset_at(1, TimeKind::Event, i64::MIN), 12, "no events, no event times");
        assert_eq!(rig.offset_at(3, TimeKind::Append, i64::MIN), 0);
        assert_eq!(rig.offset_at(3, TimeKind::Event, i64::MIN), 0);
    }
}

#[test]
fn a_damaged_batch_holds_no_event_time() {
    let mut rig = Rig::new(&Choice::default());
    for times in [[5, 9], [7, 8]] {
        rig.commit(&[(partition(0), events_batch(&times))]);
    }
    rig.write(partition(1), &["what the ring holds"]);
    assert_eq!(rig.offset_at(0, TimeKind::Event, 8), 1);
    let (slot, at) = rig.place(0, 0);
    rig.disk.flip_bit(slot, at + 100, 1);
    assert_eq!(rig.offset_at(0, TimeKind::Event, 8), 3);
}

/// One step of a random journal.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u32, u16, u8)>),
    Skip(u32, u8),
    Roll,
}

fn step() -> impl Strategy<Value = Step> {
    let batch = (0..3_u32, 0..3000_u16, 1..4_u8);
    prop_oneof![
        6 => prop::collection::vec(batch, 1..4).prop_map(Step::Commit),
        1 => (0..3_u32, 1..5_u8).prop_map(|(partition, count)| Step::Skip(partition, count)),
        2 => Just(Step::Roll),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_written_is_read_once_and_in_order(
        steps in prop::collection::vec(step(), 1..24),
        ring_bytes in prop::sample::select(vec![0, 8 << 10, 1 << 20]),
        index_bytes in prop::sample::select(vec![0, 400, 1 << 20]),
        open_slots in 1..4_usize,
        bytes_max in prop::sample::select(vec![1, 2_000, 20_000, PLENTY]),
    ) {
        let choice =
            Choice { ring_bytes, index_bytes, open_slots, ..Choice::default() };
        let mut rig = Rig::new(&choice);
        let mut written: BTreeMap<PartitionId, Vec<u64>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Commit(batches) => {
                    let mut one_each = BTreeMap::new();
                    for (index, bytes, count) in batches {
                        one_each.insert(partition(index), (bytes, count));
                    }
                    let mut commit = Vec::new();
                    for (partition, (bytes, count)) in one_each {
                        let text = "x".repeat(usize::from(bytes));
                        commit.push((partition, texts_batch(&vec![text.as_str(); count.into()])));
                        let first = rig.end(partition).0;
                        let offsets = first..first + u64::from(count);
                        written.entry(partition).or_default().extend(offsets);
                    }
                    rig.commit(&commit);
                }
                Step::Skip(index, count) => rig.skip(partition(index), count.into()),
                Step::Roll => rig.roll(),
            }
        }
        let mut from: Vec<_> = (0..3).map(|index| (partition(index), 0)).collect();
        let mut read: BTreeMap<PartitionId, Vec<u64>> = BTreeMap::new();
        loop {
            let fetched = rig.fetch(&from, bytes_max).unwrap();
            let mut moved = false;
            for (found, (partition, next)) in fetched.iter().zip(&mut from) {
                let records = found.batches.iter().flat_map(BatchView::records);
                let offsets = records.map(|(offset, _)| offset.0).filter(|it| it >= next);
                let list = read.entry(*partition).or_default();
                let before = list.len();
                list.extend(offsets);
                let passed: u64 = found.damage.iter().map(|it| it.to.0 - it.from.0).sum();
                let got = (list.len() - before) as u64;
                prop_assert_eq!(found.next.0 - *next, got + passed, "each offset once");
                moved |= found.next.0 > *next;
                *next = found.next.0;
            }
            if !moved {
                break;
            }
        }
        read.retain(|_, offsets| !offsets.is_empty());
        prop_assert_eq!(read, written);
    }
}
