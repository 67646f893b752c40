//! The journal's step machine: closes commits, stamps them, publishes them, rolls segments.
//!
//! Promises
//! - Acks and end offsets are published strictly in commit order, each after the write that
//!   covers it and all writes before it said that they are durable.
//! - Conditions are checked against the state as stamped, commits in flight included.
//! - A page that holds a published commit is never written again.
//! - After a failed write nothing more is written until the log is opened again.
//!
//! It holds no thread, no clock and no file: [`Journal::step`] is told what happened and what
//! time it is, and says what to do through [`Effects`]. Threads drive it in a running log, a
//! seeded schedule in tests.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use tracklog_log::{AppendError, Condition, Extent, Permit};
use tracklog_protocol::batch::{self, EventTimes, Stamp};
use tracklog_protocol::{KeyValue, Offset, PartitionId, PayloadKind, TimeMicros, VerifiedBatch};

use crate::catalog::{Change, Row};
use crate::checkpoint::{Checkpoint, Position};
use crate::disk::{BufferPool, PAGE_BYTES, PageBuffer, Slot};
use crate::journal::commit::{
    Base, COMMIT_BYTES_MAX, CommitHeader, CommitKind, CommitNumber, DirectoryEntry, ENTRY_BYTES,
    HEADER_BYTES, Opened, Run, Sealed, SegmentNumber, field, padded_bytes,
};
use crate::journal::intake::{
    AppendShare, CommitOutcome, Decided, Door, Gather, Gathered, Input, Intake, NO_ITEM,
};
use crate::journal::segment::{ClusterId, FIRST_COMMIT_AT};
use crate::partition::places::{SegmentId, SegmentIndex};
use crate::published::Published;

/// So many commits may be on their way to the disk at once.
const IN_FLIGHT_MAX: usize = 4;
/// So much has to wait for a commit to be closed while others are in flight.
const CLOSE_AT_BYTES: usize = 64 << 10;
/// After this much silence a mark vouches for the last commit.
const MARK_AFTER: Duration = Duration::from_millis(1);
/// Checkpoints on rolling are at least this far apart.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);
/// A gathered batch is split above this size.
const GATHERED_BYTES_MAX: usize = 4 << 20;

/// The slot of a segment, ready to be written: header synced, lock held.
pub(crate) struct Prepared {
    pub(crate) id: SegmentId,
    pub(crate) slot: Arc<dyn Slot>,
}

/// A segment that was sealed.
pub(crate) struct SegmentFull {
    pub(crate) id: SegmentId,
    pub(crate) index: Arc<SegmentIndex>,
    /// A checkpoint to write now, where one is due.
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// What the step machine asks of its surroundings. None of these blocks.
pub(crate) trait Effects {
    /// Write `pages` durably; the answer comes back as [`Input::Written`].
    fn write(&mut self, slot: &Arc<dyn Slot>, at: u64, pages: Bytes, number: CommitNumber);
    /// Prepare a slot for segment `segment`; the answer comes back as [`Input::Prepared`].
    fn prepare(&mut self, segment: SegmentNumber);
    /// A segment was sealed: write its index, and the checkpoint if there is one.
    fn segment_full(&mut self, full: SegmentFull);
    /// The oldest segment is out of the tables; the checkpoint no longer names it. It uses up two
    /// sequence numbers: one for each file.
    fn dropped(&mut self, id: SegmentId, checkpoint: Checkpoint);
    /// The wall clock.
    fn now(&self) -> TimeMicros;
    /// A clock that never goes back.
    fn monotonic(&self) -> Duration;
}

/// When the step machine wants to be driven again, besides when an input comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// When so many bytes wait, or at the latest after the timeout.
    Wait { wake_at_bytes: usize, timeout: Option<Duration> },
    /// Never: everything is durable and the log is stopped, or it failed.
    Stopped,
}

/// What the journal has done, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) commit_bytes: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    /// By power of two of microseconds: how long a commit's write took.
    pub(crate) write_micros: [AtomicU64; 32],
    pub(crate) write_micros_sum: AtomicU64,
    /// A commit is past its deadline.
    pub(crate) shedding: AtomicBool,
}

/// What a partition's next record gets, and this commit's list of its items.
#[derive(Clone, Copy, Debug)]
struct Stamped {
    next: u64,
    first_item: u32,
    last_item: u32,
}

/// A record of a compacted topic, to be applied when its commit is published.
struct Keyed {
    partition: PartitionId,
    offset: Offset,
    record: Bytes,
}

/// An order to give up the oldest segment.
struct Drop {
    segment: SegmentNumber,
    /// So many gathers must be durable before.
    after_gathers: u64,
    /// The last commit when they were all closed.
    after: Option<CommitNumber>,
}

/// A commit on its way to the disk.
struct InFlight {
    header: CommitHeader,
    hash: u64,
    entries: Vec<(Row, DirectoryEntry)>,
    pages: Bytes,
    /// The appends of a data commit, and what to tell them.
    decision: Option<(Arc<CommitOutcome>, Decided)>,
    permits: Vec<Permit>,
    keyed: Vec<Keyed>,
    records: u64,
    /// Of a `sealed`: the segment that follows.
    next: Option<SegmentId>,
    submitted: Duration,
    done: bool,
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

/// Where a run begins to write, as recovery left it.
pub(crate) struct Start {
    pub(crate) cluster: ClusterId,
    pub(crate) slot_bytes: u64,
    pub(crate) run: Run,
    pub(crate) active: Prepared,
    /// The `opened` commit, which is durable.
    pub(crate) opened: CommitHeader,
    pub(crate) opened_body: Opened,
    /// Where ended runs ended; the last one is the one this run stands on.
    pub(crate) ended: Vec<Base>,
    pub(crate) checkpoint_sequence: u64,
    pub(crate) commit_deadline: Duration,
}

/// The journal of one run.
pub(crate) struct Journal {
    start: Start,
    published: Arc<Published>,
    intake: Arc<Intake>,
    counters: Arc<Counters>,
    pool: Arc<BufferPool>,
    slot: Arc<dyn Slot>,
    segment: SegmentId,
    position: u32,
    last: CommitHeader,
    last_hash: u64,
    append_time: TimeMicros,
    /// The last published commit.
    durable: Position,
    /// The last published data commit.
    base: Option<Base>,
    next_slot: Option<Prepared>,
    in_flight: VecDeque<InFlight>,
    stamped: Vec<Stamped>,
    keys: HashMap<(PartitionId, Bytes), Offset>,
    touched: Vec<Row>,
    groups: Vec<Group>,
    inputs: Vec<Input>,
    one_ended: bool,
    busy: bool,
    silent_since: Duration,
    stopping: bool,
    failed: bool,
    taken: u64,
    drop: Option<Drop>,
    checkpoint_sequence: u64,
    checkpoint_at: Duration,
}

impl Journal {
    /// A journal that goes on behind a durable `opened` commit. Asks for the next slot at once.
    pub(crate) fn new(
        start: Start,
        published: Arc<Published>,
        intake: Arc<Intake>,
        counters: Arc<Counters>,
        pool: Arc<BufferPool>,
        effects: &mut impl Effects,
    ) -> Self {
        let topics = published.topics.read();
        let rows = 0..topics.catalog.row_count();
        let row = |row: usize| Row(u32::try_from(row).expect("rows are counted in u32"));
        let stamped = rows.map(|at| Stamped::at(topics.extent_of(row(at)).end)).collect();
        let live = topics.catalog.live().iter();
        let keys = live.map(|(key, live)| (key.clone(), live.offset)).collect();
        drop(topics);
        let opened = start.opened;
        effects.prepare(opened.segment.next());
        Self {
            slot: Arc::clone(&start.active.slot),
            segment: start.active.id,
            position: opened.end(),
            last: opened,
            last_hash: opened.hash(),
            append_time: opened.append_time,
            durable: position_of(&opened),
            base: start.opened_body.base,
            next_slot: None,
            in_flight: VecDeque::with_capacity(IN_FLIGHT_MAX),
            stamped,
            keys,
            touched: Vec::new(),
            groups: Vec::new(),
            inputs: Vec::new(),
            one_ended: false,
            busy: false,
            silent_since: effects.monotonic(),
            stopping: false,
            failed: false,
            taken: 0,
            drop: None,
            checkpoint_sequence: start.checkpoint_sequence,
            checkpoint_at: effects.monotonic(),
            start,
            published,
            intake,
            counters,
            pool,
        }
    }

    /// Takes what happened since, does all that can be done now, and says when to come back.
    pub(crate) fn step(&mut self, effects: &mut impl Effects) -> Next {
        let mut inputs = std::mem::take(&mut self.inputs);
        self.intake.take_inputs(&mut inputs);
        for input in inputs.drain(..) {
            self.take(input, effects);
        }
        self.inputs = inputs;
        if self.failed {
            return Next::Stopped;
        }
        self.publish(effects);
        let blocked = self.close_commits(effects);
        self.drop_oldest(effects);
        self.watch_deadline(effects);
        if self.in_flight.is_empty() && !blocked {
            return self.idle(effects);
        }
        self.wait(blocked, effects)
    }

    fn take(&mut self, input: Input, effects: &impl Effects) {
        match input {
            Input::Prepared(prepared) => {
                assert!(
                    prepared.id.number == self.segment.number.next() && self.next_slot.is_none(),
                    "one slot is prepared, for the next segment"
                );
                self.next_slot = Some(prepared);
            }
            Input::DropOldest { segment, after_gathers } => {
                self.drop = Some(Drop { segment, after_gathers, after: None });
            }
            Input::Stop => {
                self.stopping = true;
                self.intake.set_door(Door::Closed("it is stopping".into()));
            }
            Input::Written { number, result } => match result {
                Ok(()) => self.written(number, effects),
                Err(error) => self.fail(number, &error),
            },
        }
    }

    fn written(&mut self, number: CommitNumber, effects: &impl Effects) {
        let mut in_flight = self.in_flight.iter_mut();
        // After a failure the others may still end.
        let Some(commit) = in_flight.find(|commit| commit.header.number == number) else {
            assert!(self.failed, "a commit's write ends once");
            return;
        };
        commit.done = true;
        self.one_ended = true;
        let took = effects.monotonic().saturating_sub(commit.submitted);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (64 - micros.leading_zeros()).min(31) as usize;
        self.counters.write_micros[bucket].fetch_add(1, Ordering::Relaxed);
        self.counters.write_micros_sum.fetch_add(micros, Ordering::Relaxed);
    }

    /// A failed write is final: whatever is in flight or waits is given up, and nothing more is
    /// taken.
    fn fail(&mut self, number: CommitNumber, error: &io::Error) {
        if self.failed {
            return;
        }
        self.failed = true;
        let why: Arc<str> = format!("commit {number} failed: {error}").into();
        tracing::error!("the journal is closed: {why}");
        self.intake.set_door(Door::Closed(Arc::clone(&why)));
        for commit in self.in_flight.drain(..) {
            if let Some((outcome, _)) = commit.decision {
                outcome.decide(Decided::Failed(AppendError::Unknown { why: Arc::clone(&why) }));
            }
        }
        while let Some(gather) = self.intake.take() {
            let closed = AppendError::Closed { why: Arc::clone(&why) };
            gather.outcome.decide(Decided::Failed(closed));
            self.intake.recycle(gather);
        }
        self.published.close();
    }

    /// Publishes all commits at the front that are durable.
    fn publish(&mut self, effects: &mut impl Effects) {
        let mut any = false;
        while self.in_flight.front().is_some_and(|commit| commit.done) {
            let commit = self.in_flight.pop_front().expect("it was just looked at");
            self.publish_one(commit, effects);
            any = true;
        }
        if any {
            self.published.wake();
            self.silent_since = effects.monotonic();
            self.counters.in_flight.store(self.in_flight.len() as u64, Ordering::Relaxed);
        }
    }

    fn publish_one(&mut self, commit: InFlight, effects: &mut impl Effects) {
        assert!(
            commit.header.number == self.durable.number.next(),
            "commits are published in order, none left out"
        );
        self.durable = position_of(&commit.header);
        self.durable.hash = commit.hash;
        if commit.header.kind == CommitKind::Data {
            let CommitHeader { run, number, .. } = commit.header;
            self.base = Some(Base { run, number, hash: commit.hash });
        }
        self.published.commit(&commit.header, &commit.entries, commit.pages);
        for keyed in &commit.keyed {
            self.apply(keyed);
        }
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.counters.records.fetch_add(commit.records, Ordering::Relaxed);
        self.counters
            .commit_bytes
            .fetch_add(u64::from(commit.header.commit_bytes), Ordering::Relaxed);
        if let Some((outcome, decided)) = commit.decision {
            outcome.decide(decided);
        }
        drop(commit.permits);
        if let Some(next) = commit.next {
            self.sealed(next, effects);
        }
    }

    fn apply(&mut self, keyed: &Keyed) {
        let record = KeyValue::decode(&keyed.record).expect("the intake takes good records only");
        let change = self.published.apply(keyed.partition, keyed.offset, &record);
        if let Change::Created(_) = change {
            let rows = self.published.topics.read().catalog.row_count();
            self.stamped.resize(rows, Stamped::at(Offset::ZERO));
        }
        if let Change::Deleted(topic) = change {
            self.keys.retain(|(partition, _), _| partition.topic != topic);
        }
    }

    /// A segment's `sealed` is durable: its index is complete.
    fn sealed(&mut self, next: SegmentId, effects: &mut impl Effects) {
        let (id, index) = {
            let topics = self.published.topics.read();
            let mut places = self.published.places.write();
            let full = places.seal(&topics.catalog);
            places.begin(next);
            full
        };
        let now = effects.monotonic();
        let due = now.saturating_sub(self.checkpoint_at) >= CHECKPOINT_EVERY;
        let checkpoint = due.then(|| {
            self.checkpoint_at = now;
            self.checkpoint()
        });
        effects.segment_full(SegmentFull { id, index, checkpoint });
    }

    /// Gives up the oldest segment, once what moved out of it is durable elsewhere.
    fn drop_oldest(&mut self, effects: &mut impl Effects) {
        let Some(drop) = &mut self.drop else { return };
        if self.taken < drop.after_gathers {
            return;
        }
        let segment = drop.segment;
        if self.durable.number < *drop.after.get_or_insert(self.last.number) {
            return;
        }
        self.drop = None;
        let dropped = {
            let topics = self.published.topics.read();
            let mut places = self.published.places.write();
            let oldest = places.oldest().filter(|oldest| oldest.number == segment);
            let dropped = oldest.and_then(|_| places.drop_oldest());
            for (row, _) in topics.catalog.partitions() {
                let end = topics.extent_of(row).end;
                let first = places.first_after(row, segment).unwrap_or(end);
                topics.set_start(row, first);
            }
            dropped
        };
        if let Some(id) = dropped {
            let checkpoint = self.checkpoint();
            self.checkpoint_sequence += 1;
            effects.dropped(id, checkpoint);
        }
    }

    /// What the log adds up to at the last published commit.
    pub(crate) fn checkpoint(&mut self) -> Checkpoint {
        self.checkpoint_sequence += 1;
        snapshot(&self.start, &self.published, self.durable, self.base, self.checkpoint_sequence)
    }

    /// Closes commits as far as the rules and the disk allow. Says whether one has to wait for a
    /// slot.
    fn close_commits(&mut self, effects: &mut impl Effects) -> bool {
        let blocked = self.close_while_allowed(effects);
        let busy = self.in_flight.len() >= IN_FLIGHT_MAX;
        if std::mem::replace(&mut self.busy, busy) != busy {
            self.intake.set_busy(busy);
        }
        blocked
    }

    fn close_while_allowed(&mut self, effects: &mut impl Effects) -> bool {
        while self.in_flight.len() < IN_FLIGHT_MAX {
            let Some(waiting) = self.intake.waiting() else { return false };
            let enough = waiting.bytes >= CLOSE_AT_BYTES;
            let idle = self.in_flight.is_empty();
            if !(idle || enough || self.one_ended || self.stopping) {
                return false;
            }
            if !self.fits(padded_bytes(waiting.body_bytes_max)) {
                if self.next_slot.is_none() {
                    return true;
                }
                self.seal(effects);
                continue;
            }
            self.one_ended = false;
            let gather = self.intake.take().expect("only the appender takes");
            self.taken += 1;
            self.commit(gather, effects);
        }
        false
    }

    /// Whether a commit of this size leaves room for the segment's `sealed`.
    const fn fits(&self, commit_bytes: usize) -> bool {
        self.position as u64 + (commit_bytes + PAGE_BYTES) as u64 <= self.start.slot_bytes
    }

    /// Ends the segment and goes on in the next.
    fn seal(&mut self, effects: &mut impl Effects) {
        let next = self.next_slot.take().expect("a segment is sealed when the next is ready");
        let sealed =
            Sealed { slot: next.id.slot, segment: next.id.number, salt: next.id.salt }.encode();
        self.control(CommitKind::Sealed, &sealed, Some(next.id), effects);
        self.slot = next.slot;
        self.segment = next.id;
        self.position = FIRST_COMMIT_AT;
        effects.prepare(next.id.number.next());
    }

    /// Writes a commit without batches.
    fn control(
        &mut self,
        kind: CommitKind,
        body: &[u8],
        next: Option<SegmentId>,
        effects: &mut impl Effects,
    ) {
        let mut pages = self.pool.take(padded_bytes(body.len()));
        pages.fill(0);
        pages[HEADER_BYTES..HEADER_BYTES + body.len()].copy_from_slice(body);
        let header = self.header(kind, &pages, body.len(), effects);
        self.submit(header, pages, InFlightParts { next, ..InFlightParts::default() }, effects);
    }

    /// The header of the next commit, whose directory is in `pages`.
    fn header(
        &mut self,
        kind: CommitKind,
        pages: &[u8],
        directory_bytes: usize,
        effects: &impl Effects,
    ) -> CommitHeader {
        let directory = &pages[HEADER_BYTES..HEADER_BYTES + directory_bytes];
        if kind != CommitKind::Data {
            self.append_time = later(self.append_time, effects.now());
        }
        CommitHeader {
            kind,
            salt: self.segment.salt,
            run: self.start.run,
            number: self.last.number.next(),
            segment: self.segment.number,
            position: self.position,
            commit_bytes: field(pages.len()),
            chain: self.last_hash,
            mark: self.durable.number,
            append_time: self.append_time,
            directory_bytes: field(directory_bytes),
            directory_crc: crc32fast::hash(directory),
        }
    }

    fn submit(
        &mut self,
        header: CommitHeader,
        mut pages: PageBuffer,
        parts: InFlightParts,
        effects: &mut impl Effects,
    ) {
        let encoded = header.encode();
        pages[..HEADER_BYTES].copy_from_slice(&encoded);
        let pages = pages.freeze();
        assert!(
            u64::from(header.end()) <= self.start.slot_bytes,
            "a commit lies inside of its segment"
        );
        let hash = xxhash_rust::xxh3::xxh3_64(&encoded);
        self.position = header.end();
        self.last = header;
        self.last_hash = hash;
        effects.write(&self.slot, u64::from(header.position), pages.clone(), header.number);
        self.in_flight.push_back(InFlight {
            header,
            hash,
            entries: parts.entries,
            pages,
            decision: parts.decision,
            permits: parts.permits,
            keyed: parts.keyed,
            records: parts.records,
            next: parts.next,
            submitted: effects.monotonic(),
            done: false,
        });
        self.counters.in_flight.store(self.in_flight.len() as u64, Ordering::Relaxed);
    }

    /// Makes a commit of a gather.
    fn commit(&mut self, mut gather: Gather, effects: &mut impl Effects) {
        self.append_time = later(self.append_time, effects.now());
        let mut parts = InFlightParts::default();
        let mut offsets = vec![Offset::ZERO; gather.items.len()];
        let refused = self.stamp(&mut gather, &mut offsets, &mut parts);
        self.sort_touched();
        self.group(&gather);
        let pages = self.lay_out(&gather, &mut parts);
        let header =
            self.header(CommitKind::Data, &pages, self.groups.len() * ENTRY_BYTES, effects);
        let first_items = gather.appends.iter().map(|share| share.first_item).collect();
        let decided = Decided::Stored { offsets, first_items, refused };
        parts.decision = Some((Arc::clone(&gather.outcome), decided));
        parts.permits = std::mem::take(&mut gather.permits);
        self.intake.recycle(gather);
        self.submit(header, pages, parts, effects);
    }

    /// Gives every append whose conditions hold its offsets, and links the items of each
    /// partition. Returns those whose conditions do not hold.
    fn stamp(
        &mut self,
        gather: &mut Gather,
        offsets: &mut [Offset],
        parts: &mut InFlightParts,
    ) -> Vec<(u32, AppendError)> {
        let published = Arc::clone(&self.published);
        let topics = published.topics.read();
        let mut refused = Vec::new();
        for append in 0..gather.appends.len() {
            let share = gather.appends[append];
            let row = |partition| topics.catalog.row(partition);
            if let Err(index) = self.check(gather, share, row) {
                let append = field(append);
                refused.push((append, AppendError::ConditionFailed { index }));
                continue;
            }
            for index in share.first_item..share.first_item + share.items {
                let item = &gather.items[index as usize];
                let (row, count) = (item.row, gather.count(index));
                let partition = topics.catalog.partition(row);
                let offset = self.link(gather, row, index, count);
                offsets[index as usize] = offset;
                parts.records += u64::from(count);
                if topics.catalog.is_compact(partition) {
                    self.note_keys(gather, index, partition, offset, parts);
                }
            }
        }
        refused
    }

    /// Puts an item at the end of its partition's list; returns its first offset.
    fn link(&mut self, gather: &mut Gather, row: Row, index: u32, count: u32) -> Offset {
        let stamped = &mut self.stamped[row.index()];
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

    /// Checks an append's conditions; the index of the first that does not hold.
    fn check(
        &self,
        gather: &Gather,
        share: AppendShare,
        row: impl Fn(PartitionId) -> Option<Row>,
    ) -> Result<(), usize> {
        let first = share.first_condition as usize;
        let conditions = &gather.conditions[first..first + share.conditions as usize];
        let holds = |condition: &Condition| match condition {
            Condition::NextOffset { partition, next } => {
                row(*partition).is_some_and(|row| self.stamped[row.index()].next == next.0)
            }
            Condition::LastOfKey { partition, key, last } => {
                row(*partition).is_some()
                    && self.keys.get(&(*partition, Bytes::copy_from_slice(key))) == last.as_ref()
            }
            _ => false,
        };
        conditions.iter().position(|condition| !holds(condition)).map_or(Ok(()), Err)
    }

    /// Remembers the keys that an item of a compacted topic sets.
    fn note_keys(
        &mut self,
        gather: &Gather,
        index: u32,
        partition: PartitionId,
        offset: Offset,
        parts: &mut InFlightParts,
    ) {
        let mut note = |offset: Offset, bytes: &[u8]| {
            let Some(record) = KeyValue::decode(bytes) else { return };
            let key = (partition, Bytes::copy_from_slice(record.key));
            match record.value {
                Some(_) => self.keys.insert(key, offset),
                None => self.keys.remove(&key),
            };
            parts.keyed.push(Keyed { partition, offset, record: Bytes::copy_from_slice(bytes) });
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
            let stamped = &mut self.stamped[row.index()];
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
    fn lay_out(&self, gather: &Gather, parts: &mut InFlightParts) -> PageBuffer {
        let directory_end = HEADER_BYTES + self.groups.len() * ENTRY_BYTES;
        let padded = |group: &Group| group.batch_bytes.next_multiple_of(8);
        let batches: usize = self.groups.iter().map(padded).sum();
        let commit_bytes = (directory_end + batches).next_multiple_of(PAGE_BYTES);
        assert!(commit_bytes <= COMMIT_BYTES_MAX, "the intake bounds what a commit holds");
        let mut pages = self.pool.take(commit_bytes);
        let (head, body) = pages.split_at_mut(directory_end);
        let topics = self.published.topics.read();
        let mut directory = Vec::with_capacity(self.groups.len() * ENTRY_BYTES);
        let mut at = 0;
        for group in &self.groups {
            let stamp = Stamp {
                partition: topics.catalog.partition(group.row),
                base_offset: group.base_offset,
                append_time: self.append_time,
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
            parts.entries.push((group.row, entry));
            let end = at + group.batch_bytes;
            at = end.next_multiple_of(8);
            body[end..at].fill(0);
        }
        body[at..].fill(0);
        head[HEADER_BYTES..].copy_from_slice(&directory);
        pages
    }

    /// Nothing is in flight and nothing waits.
    fn idle(&mut self, effects: &mut impl Effects) -> Next {
        let marked = self.last.kind == CommitKind::Mark;
        if self.stopping && marked {
            self.published.close();
            return Next::Stopped;
        }
        if marked {
            return Next::Wait { wake_at_bytes: 0, timeout: None };
        }
        let silent = effects.monotonic().saturating_sub(self.silent_since);
        if let Some(left) = MARK_AFTER.checked_sub(silent).filter(|left| !left.is_zero())
            && !self.stopping
        {
            return Next::Wait { wake_at_bytes: 0, timeout: Some(left) };
        }
        if self.fits(PAGE_BYTES) {
            self.control(CommitKind::Mark, &[], None, effects);
        } else if self.next_slot.is_some() {
            self.seal(effects);
        } else if self.stopping {
            // There is no room for a mark; the next opening reads the last commit whole instead.
            self.published.close();
            return Next::Stopped;
        } else {
            return Next::Wait { wake_at_bytes: 0, timeout: None };
        }
        self.wait(false, effects)
    }

    fn wait(&self, blocked: bool, effects: &impl Effects) -> Next {
        let wake_at_bytes = match self.in_flight.len() {
            _ if blocked => usize::MAX,
            0 => 0,
            IN_FLIGHT_MAX.. => usize::MAX,
            _ => CLOSE_AT_BYTES,
        };
        let oldest = self.in_flight.front().map(|commit| commit.submitted);
        let shedding = self.counters.shedding.load(Ordering::Relaxed);
        let timeout = oldest.filter(|_| !shedding).map(|submitted| {
            let deadline = submitted + self.start.commit_deadline;
            deadline.saturating_sub(effects.monotonic())
        });
        Next::Wait { wake_at_bytes, timeout }
    }

    /// A commit past its deadline: new work is shed until the disk answers again.
    fn watch_deadline(&self, effects: &impl Effects) {
        let late = self.in_flight.front().is_some_and(|commit| {
            effects.monotonic().saturating_sub(commit.submitted) >= self.start.commit_deadline
        });
        if self.counters.shedding.swap(late, Ordering::Relaxed) != late {
            let what = if late { "is past its deadline: shedding" } else { "ended: taking again" };
            tracing::warn!("a commit {what}");
        }
    }
}

/// What the log adds up to at the published commit `position`.
pub(crate) fn snapshot(
    start: &Start,
    published: &Published,
    position: Position,
    base: Option<Base>,
    sequence: u64,
) -> Checkpoint {
    let topics = published.topics.read();
    let catalog = &topics.catalog;
    let extents = catalog.partitions().map(|(row, partition)| (partition, topics.extent_of(row)));
    let partitions: Vec<(PartitionId, Extent)> = extents.collect();
    let live = catalog.live().iter();
    Checkpoint {
        sequence,
        cluster: start.cluster,
        slot_bytes: start.slot_bytes,
        position,
        base,
        slots: published.places.read().segment_ids(),
        ended: start.ended.clone(),
        opened: start.opened_body.clone(),
        topics: catalog.topics().cloned().collect(),
        partitions,
        live: live
            .map(|((partition, key), live)| (*partition, key.clone(), live.clone()))
            .collect(),
    }
}

/// The parts of an [`InFlight`] that depend on its kind.
#[derive(Default)]
struct InFlightParts {
    entries: Vec<(Row, DirectoryEntry)>,
    decision: Option<(Arc<CommitOutcome>, Decided)>,
    permits: Vec<Permit>,
    keyed: Vec<Keyed>,
    records: u64,
    next: Option<SegmentId>,
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

/// Append times rise strictly from commit to commit, whatever the clock does: so they order
/// commits.
pub(crate) fn later(before: TimeMicros, now: TimeMicros) -> TimeMicros {
    TimeMicros(now.0.max(before.0 + 1))
}

pub(crate) fn position_of(header: &CommitHeader) -> Position {
    Position {
        run: header.run,
        number: header.number,
        hash: header.hash(),
        segment: header.segment,
        end: header.end(),
        append_time: header.append_time,
    }
}

/// A commit without batches, as pages: for the `opened` that recovery writes itself.
pub(crate) fn control_pages(header: &mut CommitHeader, body: &[u8]) -> Bytes {
    let mut pages = PageBuffer::zeroed(padded_bytes(body.len()));
    pages[HEADER_BYTES..HEADER_BYTES + body.len()].copy_from_slice(body);
    header.commit_bytes = field(pages.len());
    header.directory_bytes = field(body.len());
    header.directory_crc = crc32fast::hash(body);
    pages[..HEADER_BYTES].copy_from_slice(&header.encode());
    pages.freeze()
}
