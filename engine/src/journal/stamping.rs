//! Stamping: what turns a gather into the batches and the directory of a commit.
//!
//! Promises
//! - Conditions are checked, and offsets given, in the order in which the appends came, against
//!   the state as stamped: commits in flight, and earlier appends of the same gather, included.
//! - So are batches of idempotent producers: what was stored before is not stored again, what is
//!   out of sequence is refused. Appends without such batches pay one branch for it.
//! - So are single events of topics that are deduplicated: an append with events that may be there
//!   already is refused, and told where, when these are durable. Who left it has asked for what was
//!   settled by then; here that is asked again where more was settled meanwhile.
//! - A partition's batches lie side by side, its records in the order in which they came.
//! - Single records are copied once more here, from the gather's arena into the commit's pages:
//!   only now is it known how much each partition got.
//!
//! No I/O. Called by the journal's step machine.

use std::hint::black_box;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::HashMap;
use tracklog_log::{AppendError, Condition, Seen, SeenAt, SeenItem, Settled};
use tracklog_protocol::batch::{self, EventTimes, Produced, Stamp};
use tracklog_protocol::{
    KeyValue, Offset, PartitionId, PayloadKind, TimeMicros, TopicId, VerifiedBatch,
};

use crate::catalog::{Catalog, ROWS_TOUCHED, Row};
use crate::disk::{ChunkPool, PAGE_BYTES, PageBuffer};
use crate::journal::commit::{
    COMMIT_BYTES_MAX, DirectoryEntry, ENTRY_BYTES, HEADER_BYTES, SegmentNumber, field,
};
use crate::journal::intake::{AppendShare, Gather, Gathered, NO_ITEM};
use crate::published::{Published, Topics};
use crate::seen::event_ids::{HotIds, Known, SettledIds, TopicIdHash};
use crate::seen::producers::{Expected, Place, Producers};
use crate::settled::erasure::Stretches;

/// A gathered batch is split above this size.
const GATHERED_BYTES_MAX: usize = 4 << 20;

/// The ids of so many items are looked up together.
const ITEMS_TOUCHED: usize = 32;

/// What a partition's next record gets, and this commit's list of its items.
#[derive(Clone, Copy, Debug)]
struct Stamped {
    next: u64,
    first_item: u32,
    last_item: u32,
}

/// A record of a compacted topic, to be applied when its commit is published.
pub(crate) struct Keyed {
    pub(crate) partition: PartitionId,
    pub(crate) offset: Offset,
    pub(crate) record: Bytes,
}

/// A batch of an idempotent producer, to be noted when its commit is published.
pub(crate) struct ProducedBatch {
    pub(crate) partition: PartitionId,
    pub(crate) produced: Produced,
    pub(crate) first: Offset,
}

/// What the appends of a gather got.
pub(crate) struct Given {
    /// By item.
    pub(crate) offsets: Vec<Offset>,
    /// Appends that were refused, in order.
    pub(crate) refused: Vec<(u32, AppendError)>,
    /// Appends that earlier ones have stored, in order.
    pub(crate) duplicates: Vec<u32>,
    /// In the order of the directory.
    pub(crate) produced: Vec<ProducedBatch>,
    pub(crate) keyed: Vec<Keyed>,
    pub(crate) records: u64,
}

/// A gather that was closed: the pages of its commit but for the header, and what they hold.
pub(crate) struct Closed {
    pub(crate) pages: PageBuffer,
    pub(crate) directory_bytes: usize,
    pub(crate) entries: Vec<(Row, DirectoryEntry)>,
    pub(crate) given: Given,
}

/// The state as stamped.
pub(crate) struct Stamper {
    published: Arc<Published>,
    pool: Arc<ChunkPool>,
    rows: Vec<Stamped>,
    /// The last record of every key of compacted topics.
    keys: HashMap<(PartitionId, Bytes), Offset>,
    producers: Producers,
    /// The commit that is being closed holds batches of theirs.
    any_produced: bool,
    /// Which settled events are known again. Where the journal's lie is in the published table.
    settled: Arc<SettledIds>,
    /// The commit that is being closed holds ids.
    any_ids: bool,
    /// What producers' next batches must say, within an append that is being checked.
    expected: HashMap<Place, Expected>,
    touched: Vec<Row>,
    groups: Vec<Group>,
}

/// One batch of a commit that is being closed.
struct Group {
    row: Row,
    first_item: u32,
    /// Items; 1 for a whole batch.
    items: u32,
    records: u32,
    whole: bool,
    kind: PayloadKind,
    batch_bytes: usize,
    times: Option<EventTimes>,
    base_offset: Offset,
}

impl Stamper {
    /// Begins with what is published.
    pub(crate) fn new(
        published: Arc<Published>,
        pool: Arc<ChunkPool>,
        producers: Producers,
    ) -> Self {
        let settled = published.ids.settled();
        let topics = published.topics.read();
        let row = |row: usize| Row(u32::try_from(row).expect("rows are counted in u32"));
        let rows = (0..topics.catalog.row_count()).map(|at| topics.extent_of(row(at)).end);
        let rows = rows.map(Stamped::at).collect();
        let live = topics.catalog.live().iter();
        let keys = live.map(|(key, live)| (key.clone(), live.offset)).collect();
        drop(topics);
        Self {
            published,
            pool,
            rows,
            keys,
            producers,
            any_produced: false,
            settled,
            any_ids: false,
            expected: HashMap::default(),
            touched: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// Makes room for the partitions of a topic that was created.
    pub(crate) fn grow_to(&mut self, rows: usize) {
        self.rows.resize(rows, Stamped::at(Offset::ZERO));
    }

    /// Forgets the keys and producers of a topic that was deleted.
    pub(crate) fn forget(&mut self, topic: TopicId) {
        self.keys.retain(|(partition, _), _| partition.topic != topic);
        self.producers.forget(topic);
    }

    /// Forgets the keys whose last records are to be erased.
    pub(crate) fn forget_keys(&mut self, partition: PartitionId, erased: &Stretches) {
        self.keys.retain(|(of, _), last| *of != partition || !erased.contains(*last));
    }

    /// What comes next lies in `segment`, after `now`.
    pub(crate) fn begin_segment(&mut self, segment: SegmentNumber, now: TimeMicros) {
        let window = self.published.topics.read().catalog.dedupe_window_max();
        let mut hot = self.published.ids.hot.lock();
        hot.begin_segment(segment);
        if let Some(window) = window {
            hot.forget_before(now.minus(window));
        }
    }

    /// These segments are settled, and their ids are among `settled`.
    pub(crate) fn settle(
        &mut self,
        segments: RangeInclusive<SegmentNumber>,
        settled: Arc<SettledIds>,
    ) {
        self.settled = Arc::clone(&settled);
        self.published.ids.set_settled(settled);
        self.published.ids.hot.lock().forget_settled(&segments);
    }

    /// The segment is in the journal no more, as are those before it.
    pub(crate) fn forget_segment(&self, segment: SegmentNumber) {
        self.published.ids.hot.lock().forget_through(segment);
    }

    /// Where producers stand, commits in flight included.
    #[cfg(test)]
    pub(crate) const fn producers(&self) -> &Producers {
        &self.producers
    }

    /// Stamps a gather and lays it out.
    pub(crate) fn close(&mut self, gather: &mut Gather, append_time: TimeMicros) -> Closed {
        let mut given = self.stamp(gather, append_time);
        self.sort_touched();
        self.group(gather);
        if std::mem::take(&mut self.any_produced) {
            given.produced = self.note_produced(gather, append_time);
        }
        if std::mem::take(&mut self.any_ids) {
            self.published.ids.hot.lock().end_commit(append_time);
        }
        let directory_bytes = self.groups.len() * ENTRY_BYTES;
        let (pages, entries) = self.lay_out(gather, append_time);
        Closed { pages, directory_bytes, entries, given }
    }

    /// Gives every append that is not refused its offsets, and links the items of each partition.
    fn stamp(&mut self, gather: &mut Gather, append_time: TimeMicros) -> Given {
        let published = Arc::clone(&self.published);
        let topics = published.topics.read();
        let mut hot = published.ids.hot.lock();
        let mut given = Given {
            offsets: vec![Offset::ZERO; gather.items.len()],
            refused: Vec::new(),
            duplicates: Vec::new(),
            produced: Vec::new(),
            keyed: Vec::new(),
            records: 0,
        };
        let mut touched = 0;
        let mut rows_touched = 0;
        for append in 0..gather.appends.len() {
            let share = gather.appends[append];
            let row = |partition| topics.catalog.row(partition);
            let partition = |row| topics.catalog.partition(row);
            let mut checked = Ok(());
            if share.is_produced {
                let offsets = &mut given.offsets;
                if self.find_stored(gather, share, append_time, partition, offsets) {
                    given.duplicates.push(field(append));
                    continue;
                }
                checked = self.check_sequences(gather, share, append_time, partition);
            }
            checked = checked.and_then(|()| self.check(gather, share, row));
            if share.has_ids {
                touched = touch(&hot, gather, share, touched);
                let of = (append_time, &*topics);
                checked = checked.and_then(|()| self.check_ids(&hot, gather, share, of));
            }
            if let Err(error) = checked {
                given.refused.push((field(append), error));
                continue;
            }
            for index in share.first_item..share.first_item + share.items {
                if index as usize >= rows_touched {
                    rows_touched = self.touch_rows(&topics.catalog, gather, index as usize);
                }
                let item = &gather.items[index as usize];
                let (row, count) = (item.row, gather.count(index));
                let partition = topics.catalog.partition(row);
                let offset = self.link(gather, row, index, count);
                self.note_ids(&mut hot, (gather, index), (row, offset), (append_time, &topics));
                given.offsets[index as usize] = offset;
                given.records += u64::from(count);
                if topics.catalog.is_compact(partition) {
                    self.note_keys(gather, index, partition, offset, &mut given.keyed);
                }
                // Of a topic that was deleted since the append came nothing is noted.
                if share.is_produced
                    && let Some(produced) = gather.produced(index)
                    && topics.catalog.row(partition).is_some()
                {
                    self.producers.store(partition, &produced, offset, append_time);
                    self.any_produced = true;
                }
            }
        }
        given
    }

    /// Has what is looked up of the partitions of some items fetched, all at once: of 100,000 each
    /// would be waited for. `first`: the first of them; returns the one behind the last.
    fn touch_rows(&self, catalog: &Catalog, gather: &Gather, first: usize) -> usize {
        let end = (first + ROWS_TOUCHED).min(gather.items.len());
        let rows = gather.items[first..end].iter().map(|item| item.row);
        black_box(rows.fold(0, |any, row| {
            let partition = catalog.partition(row).partition;
            any ^ self.rows[row.index()].next ^ u64::from(partition)
        }));
        end
    }

    /// Takes note of the ids of an item's events, of which the first was given its place.
    #[inline]
    fn note_ids(
        &mut self,
        hot: &mut HotIds,
        (gather, index): (&Gather, u32),
        (row, first): (Row, Offset),
        (append_time, topics): (TimeMicros, &Topics),
    ) {
        let rows = &self.rows;
        let is_known = |known: &Known| {
            let next = Offset(rows[known.row().index()].next);
            let topic = topics.catalog.partition(known.row()).topic;
            known.offset(next) >= topics.start_of(known.row())
                && topics
                    .catalog
                    .known_since(topic, append_time)
                    .is_some_and(|since| known.since >= since)
        };
        let id = gather.items[index as usize].id;
        let of_batch = gather.batch_ids(index).iter().zip(0_u64..);
        let of_batch = of_batch.filter_map(|(id, at)| id.map(|id| (id, at)));
        for (id, at) in id.map(|id| (id, 0)).into_iter().chain(of_batch) {
            hot.insert(id, (row, first.plus(at)), append_time, is_known);
            self.any_ids = true;
        }
    }

    /// Puts an item at the end of its partition's list; returns its first offset.
    fn link(&mut self, gather: &mut Gather, row: Row, index: u32, count: u32) -> Offset {
        let stamped = &mut self.rows[row.index()];
        let offset = Offset(stamped.next);
        stamped.next = offset.plus(u64::from(count)).0;
        if stamped.first_item == NO_ITEM {
            stamped.first_item = index;
            self.touched.push(row);
        } else {
            gather.items[stamped.last_item as usize].next = index;
        }
        stamped.last_item = index;
        offset
    }

    /// Looks for an append's items among what was stored before. Says whether all were, and then
    /// where.
    fn find_stored(
        &self,
        gather: &Gather,
        share: AppendShare,
        now: TimeMicros,
        partition: impl Fn(Row) -> PartitionId,
        offsets: &mut [Offset],
    ) -> bool {
        (share.first_item..share.first_item + share.items).all(|index| {
            let partition = partition(gather.items[index as usize].row);
            let produced = gather.produced(index);
            let first = produced.and_then(|it| self.producers.find(partition, &it, now));
            first.map(|first| offsets[index as usize] = first).is_some()
        })
    }

    /// Checks that each batch of an append goes on where its producer's last one ended, within
    /// the append too.
    fn check_sequences(
        &mut self,
        gather: &Gather,
        share: AppendShare,
        now: TimeMicros,
        partition: impl Fn(Row) -> PartitionId,
    ) -> Result<(), AppendError> {
        self.expected.clear();
        for item in 0..share.items {
            let index = share.first_item + item;
            let Some(produced) = gather.produced(index) else { continue };
            let partition = partition(gather.items[index as usize].row);
            let place = Place { partition, id: produced.id };
            let expected = self.expected.get(&place).copied();
            let expected = expected.unwrap_or_else(|| self.producers.expected(place, now));
            self.expected.insert(place, expected.follow(&produced, item as usize)?);
        }
        Ok(())
    }

    /// Lists the batches of producers in the order of the directory, which is the order in which
    /// they count as having written.
    fn note_produced(&mut self, gather: &Gather, append_time: TimeMicros) -> Vec<ProducedBatch> {
        let topics = self.published.topics.read();
        let mut batches = Vec::new();
        for group in self.groups.iter().filter(|group| group.whole) {
            let Some(produced) = gather.produced(group.first_item) else { continue };
            let partition = topics.catalog.partition(group.row);
            self.producers.order(Place { partition, id: produced.id });
            batches.push(ProducedBatch { partition, produced, first: group.base_offset });
        }
        self.producers.end_commit(append_time);
        batches
    }

    /// Checks an append's conditions; names the first that does not hold.
    fn check(
        &self,
        gather: &Gather,
        share: AppendShare,
        row: impl Fn(PartitionId) -> Option<Row>,
    ) -> Result<(), AppendError> {
        let first = share.first_condition as usize;
        let conditions = &gather.conditions[first..first + share.conditions as usize];
        let holds = |condition: &Condition| match condition {
            Condition::NextOffset { partition, next } => {
                row(*partition).is_some_and(|row| self.rows[row.index()].next == next.0)
            }
            Condition::LastOfKey { partition, key, last } => {
                row(*partition).is_some()
                    && self.keys.get(&(*partition, Bytes::copy_from_slice(key))) == last.as_ref()
            }
            // Its caller has looked; it is asked for where an id is found.
            Condition::Differs { .. } | Condition::Looked { .. } => true,
            _ => false,
        };
        match conditions.iter().position(|condition| !holds(condition)) {
            Some(index) => Err(AppendError::ConditionFailed { index }),
            None => Ok(()),
        }
    }

    /// Refuses an append whose events may be there already, unless it says that they differ. What
    /// it is told is durable when this commit is.
    fn check_ids(
        &self,
        hot: &HotIds,
        gather: &Gather,
        share: AppendShare,
        (now, topics): (TimeMicros, &Topics),
    ) -> Result<(), AppendError> {
        let mut items = Vec::new();
        for item in 0..share.items as usize {
            let Some(id) = gather.items[share.first_item as usize + item].id else { continue };
            if self.may_be_settled(gather, share, (item, id)) {
                items.push(SeenItem { item, at: SeenAt::Settled });
                continue;
            }
            if !hot.may_hold(id) {
                continue;
            }
            let found = hot.find(id, |row| Offset(self.rows[row.index()].next));
            let is_there = |(row, offset): &(Row, Offset)| *offset >= topics.start_of(*row);
            let places = found.into_iter().filter(is_there);
            let places = places.map(|(row, offset)| (topics.catalog.partition(row), offset));
            let places: Vec<_> =
                places.filter(|place| !gather.differs(share, item, *place)).collect();
            if !places.is_empty() {
                let known_since = topics.catalog.known_since(places[0].0.topic, now);
                let not_before = known_since.unwrap_or(now);
                items.push(SeenItem { item, at: SeenAt::Places { places, not_before } });
            }
        }
        if items.is_empty() { Ok(()) } else { Err(AppendError::Seen(Arc::new(Seen { items }))) }
    }

    /// Whether an item's event may lie in a pack that was listed since the append was left, or since
    /// its caller looked into packs.
    fn may_be_settled(
        &self,
        gather: &Gather,
        share: AppendShare,
        (item, id): (usize, TopicIdHash),
    ) -> bool {
        let through = self.settled.through;
        share.settled_through < through
            && self.settled.may_hold(id)
            && gather.looked(share, item) < Some(Settled(through.0))
    }

    /// Remembers the keys that an item of a compacted topic sets.
    fn note_keys(
        &mut self,
        gather: &Gather,
        index: u32,
        partition: PartitionId,
        offset: Offset,
        keyed: &mut Vec<Keyed>,
    ) {
        let mut note = |offset: Offset, bytes: &[u8]| {
            let Some(record) = KeyValue::decode(bytes) else { return };
            let key = (partition, Bytes::copy_from_slice(record.key));
            match record.value {
                Some(_) => self.keys.insert(key, offset),
                None => self.keys.remove(&key),
            };
            keyed.push(Keyed { partition, offset, record: Bytes::copy_from_slice(bytes) });
        };
        match gather.content(index) {
            Gathered::Record { kind: PayloadKind::KeyValue, bytes } => note(offset, bytes),
            Gathered::Record { .. } => {}
            Gathered::Batch(batch) => {
                if batch.view().header().kind() == PayloadKind::KeyValue {
                    for (at, (_, record)) in (0_u64..).zip(batch.view().records()) {
                        note(offset.plus(at), record.bytes());
                    }
                }
            }
        }
    }

    /// Batches of a commit lie in order of partitions.
    fn sort_touched(&mut self) {
        let topics = self.published.topics.read();
        self.touched.sort_unstable_by_key(|row| topics.catalog.partition(*row));
    }

    /// Cuts each partition's list of items into batches, and forgets the lists.
    fn group(&mut self, gather: &Gather) {
        self.groups.clear();
        for row in self.touched.drain(..) {
            let stamped = &mut self.rows[row.index()];
            let mut index = std::mem::replace(&mut stamped.first_item, NO_ITEM);
            let end = stamped.next;
            let first_group = self.groups.len();
            let mut records = 0;
            while index != NO_ITEM {
                let group = Group::at(gather, row, index);
                index = group.1;
                records += u64::from(group.0.records);
                self.groups.push(group.0);
            }
            let mut base = end - records;
            for group in &mut self.groups[first_group..] {
                group.base_offset = Offset(base);
                base += u64::from(group.records);
            }
        }
    }

    /// Writes directory and batches behind the place of the header.
    fn lay_out(
        &self,
        gather: &Gather,
        append_time: TimeMicros,
    ) -> (PageBuffer, Vec<(Row, DirectoryEntry)>) {
        let directory_end = HEADER_BYTES + self.groups.len() * ENTRY_BYTES;
        let padded = |group: &Group| group.batch_bytes.next_multiple_of(8);
        let batches: usize = self.groups.iter().map(padded).sum();
        let commit_bytes = (directory_end + batches).next_multiple_of(PAGE_BYTES);
        assert!(commit_bytes <= COMMIT_BYTES_MAX, "the intake bounds what a commit holds");
        let mut pages = self.pool.take(commit_bytes);
        let (head, body) = pages.split_at_mut(directory_end);
        let topics = self.published.topics.read();
        let mut directory = Vec::with_capacity(self.groups.len() * ENTRY_BYTES);
        let mut entries = Vec::with_capacity(self.groups.len());
        let mut at = 0;
        for group in &self.groups {
            let stamp = Stamp {
                partition: topics.catalog.partition(group.row),
                base_offset: group.base_offset,
                append_time,
            };
            let batch = &mut body[at..at + group.batch_bytes];
            let batch_crc = group.write(gather, batch, &stamp);
            let entry = DirectoryEntry {
                partition: stamp.partition,
                base_offset: group.base_offset,
                count: group.records,
                place: field(directory_end + at),
                batch_bytes: field(group.batch_bytes),
                batch_crc,
                event_time_max: group.times.map_or(TimeMicros(i64::MIN), |times| times.max),
            };
            entry.encode(&mut directory);
            entries.push((group.row, entry));
            let end = at + group.batch_bytes;
            at = end.next_multiple_of(8);
            body[end..at].fill(0);
        }
        body[at..].fill(0);
        head[HEADER_BYTES..].copy_from_slice(&directory);
        (pages, entries)
    }
}

/// Has what the look-ups of an append's ids will read fetched, and that of some more items: all
/// at once, for memory answers many questions in the time of one, and not too many, for it
/// must still be near when it is read. `touched`: how many items that was done for.
fn touch(hot: &HotIds, gather: &Gather, share: AppendShare, touched: usize) -> usize {
    let end = (share.first_item + share.items) as usize;
    if end <= touched {
        return touched;
    }
    let end = end.max(touched + ITEMS_TOUCHED).min(gather.items.len());
    let first = touched.max(share.first_item as usize);
    hot.touch(gather.items[first..end].iter().filter_map(|item| item.id));
    end
}

impl Stamped {
    const fn at(next: Offset) -> Self {
        Self { next: next.0, first_item: NO_ITEM, last_item: NO_ITEM }
    }
}

impl Group {
    /// The batch that begins at item `first`, and the item behind it.
    fn at(gather: &Gather, row: Row, first: u32) -> (Self, u32) {
        match gather.content(first) {
            Gathered::Batch(batch) => (Self::whole(row, first, batch), next_of(gather, first)),
            Gathered::Record { kind, .. } => Self::gathered(gather, row, first, kind),
        }
    }

    fn whole(row: Row, first_item: u32, batch: &VerifiedBatch) -> Self {
        let header = batch.view().header();
        Self {
            row,
            first_item,
            items: 1,
            records: header.count(),
            whole: true,
            kind: header.kind(),
            batch_bytes: header.batch_bytes(),
            times: header.event_times(),
            base_offset: Offset::ZERO,
        }
    }

    fn gathered(gather: &Gather, row: Row, first_item: u32, kind: PayloadKind) -> (Self, u32) {
        let (mut items, mut records_bytes, mut times) = (0, 0_usize, None);
        let mut index = first_item;
        while index != NO_ITEM {
            let Gathered::Record { kind: other, bytes } = gather.content(index) else { break };
            let with = records_bytes.next_multiple_of(8) + bytes.len();
            if other != kind || (items > 0 && with > GATHERED_BYTES_MAX) {
                break;
            }
            records_bytes = with;
            items += 1;
            if kind == PayloadKind::Event {
                let time = gather.items[index as usize].event_time;
                times = Some(EventTimes::with(times, time));
            }
            index = next_of(gather, index);
        }
        let batch_bytes = batch::gathered_bytes(items as usize, records_bytes);
        let base_offset = Offset::ZERO;
        let group = Self {
            row,
            first_item,
            items,
            records: items,
            whole: false,
            kind,
            batch_bytes,
            times,
            base_offset,
        };
        (group, index)
    }

    /// Writes the stamped batch; returns the checksum of its header.
    fn write(&self, gather: &Gather, out: &mut [u8], stamp: &Stamp) -> u32 {
        if self.whole
            && let Gathered::Batch(batch) = gather.content(self.first_item)
        {
            out.copy_from_slice(batch.view().bytes());
            return batch::stamp(out, stamp);
        }
        let items = ItemBytes { gather, next: self.first_item, left: self.items as usize };
        batch::write_gathered(out, self.kind, items, self.times, stamp)
    }
}

/// The bytes of a list of items.
struct ItemBytes<'a> {
    gather: &'a Gather,
    next: u32,
    left: usize,
}

impl<'a> Iterator for ItemBytes<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let Gathered::Record { bytes, .. } = self.gather.content(self.next) else { return None };
        self.next = next_of(self.gather, self.next);
        Some(bytes)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for ItemBytes<'_> {}

fn next_of(gather: &Gather, index: u32) -> u32 {
    gather.items[index as usize].next
}
