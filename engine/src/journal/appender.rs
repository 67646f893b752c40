//! The journal's step machine: closes commits, stamps them, publishes them, rolls segments.
//!
//! Promises
//! - Acks and end offsets are published strictly in commit order, each after the write that
//!   covers it and all writes before it said that they are durable.
//! - Conditions are checked against the state as stamped, commits in flight included.
//! - A page that holds a published commit is never written again.
//! - After a failed write nothing more is written until the log is opened again.
//! - A stop ends without waiting for room: what does not fit is refused, and said.
//!
//! It holds no thread, no clock and no file: [`Journal::step`] is told what happened and what
//! time it is, and says what to do through [`Effects`]. Threads drive it in a running log, a
//! seeded schedule in tests.

use std::collections::VecDeque;
use std::io;
use std::ops;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tracklog_log::{AppendError, Extent, Permit};
use tracklog_protocol::{KeyValue, Offset, PartitionId, TimeMicros};

use crate::catalog::{Change, Row};
use crate::checkpoint::{Checkpoint, Position};
use crate::disk::{ChunkPool, PAGE_BYTES, PackId, PageBuffer, Slot};
use crate::journal::commit::{
    Base, CommitHeader, CommitKind, CommitNumber, DirectoryEntry, HEADER_BYTES, Opened, Run,
    Sealed, SegmentNumber, field, padded_bytes,
};
use crate::journal::intake::{Decided, Door, Gather, Input, Intake, Undecided};
use crate::journal::patience::Patience;
use crate::journal::segment::{ClusterId, FIRST_COMMIT_AT};
use crate::journal::stamping::{Closed, Given, Keyed, ProducedBatch, Stamper};
use crate::partition::places::{Home, SegmentId, SegmentIndex, Unread};
use crate::published::{Published, SealedProducers};
use crate::seen::event_ids::SettledIds;
use crate::seen::producers::Producers;
use crate::settled::pack::PackIndex;

/// So many commits may be on their way to the disk at once.
const IN_FLIGHT_MAX: usize = 4;
/// So much has to wait for a commit to be closed while others are in flight.
const CLOSE_AT_BYTES: usize = 64 << 10;
/// So much has to wait for a caller to come and close one meanwhile. Less is left to the next write
/// that ends: many callers of small events would else close one commit after the other, in each
/// other's way.
const COME_AT_BYTES: usize = 128 << 10;
/// After this much silence a mark vouches for the last commit.
const MARK_AFTER: Duration = Duration::from_millis(1);
/// Checkpoints on rolling are at least this far apart.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);

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

/// What is out of the tables, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unlisted {
    /// It was given up.
    Dropped(Home),
    /// A pack took the place of these.
    Settled(Vec<Home>),
    /// A pack that was not taken: what it covers is not all listed any more.
    Refused(PackId),
    /// All that held what is to be erased.
    Erased,
}

impl Unlisted {
    /// What is to be freed.
    pub(crate) fn homes(&self) -> Vec<Home> {
        match self {
            Self::Dropped(home) => vec![*home],
            Self::Settled(homes) => homes.clone(),
            Self::Refused(pack) => vec![Home::Pack(*pack)],
            Self::Erased => Vec::new(),
        }
    }
}

/// What the step machine asks of its surroundings. None of these blocks.
pub(crate) trait Effects {
    /// Write `pages` durably; the answer comes back as [`Input::Written`].
    fn write(&mut self, slot: &Arc<dyn Slot>, at: u64, pages: Bytes, number: CommitNumber);
    /// Prepare a slot for segment `segment`, or a later one; the answer comes back as [`Input::Prepared`].
    fn prepare(&mut self, segment: SegmentNumber);
    /// A segment was sealed: write its index, and the checkpoint if there is one.
    fn segment_full(&mut self, full: SegmentFull);
    /// The log stops, and stands at this checkpoint.
    fn stopped(&mut self, checkpoint: Checkpoint);
    /// Segments or packs are out of the tables; the checkpoint no longer names them. It uses up two
    /// sequence numbers: one for each file.
    fn unlisted(&mut self, unlisted: Unlisted, checkpoint: Checkpoint);
    /// What was to be given up is not the oldest any more, as when it was settled meanwhile.
    fn not_dropped(&mut self);
    /// Starts were raised: there may be something that nobody can read any more.
    fn expired(&mut self);
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
    /// At once, or in a moment, when so many appends wait: the callers that were just told may
    /// come again, and then share a commit.
    Linger { appends: usize },
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
    /// Ids of events that are known, and their memory.
    pub(crate) ids: AtomicU64,
    pub(crate) ids_bytes: AtomicU64,
    /// What the files of packs took that were made.
    pub(crate) packs_made_bytes: AtomicU64,
    /// A commit is past its deadline.
    pub(crate) shedding: AtomicBool,
}

/// An order to give up the oldest segment or pack.
struct Drop {
    oldest: Home,
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
    decision: Option<(Undecided, Decided)>,
    permits: Vec<Permit>,
    keyed: Vec<Keyed>,
    produced: Vec<ProducedBatch>,
    records: u64,
    /// Of a `sealed`: the segment that follows.
    next: Option<SegmentId>,
    submitted: Duration,
    done: bool,
}

/// Where a run begins to write, as recovery left it.
pub(crate) struct Start {
    pub(crate) cluster: ClusterId,
    pub(crate) slot_bytes: u64,
    pub(crate) run: Run,
    /// The `opened` commit, which is durable.
    pub(crate) opened: CommitHeader,
    pub(crate) opened_body: Opened,
    /// Where ended runs ended; the last one is the one this run stands on.
    pub(crate) ended: Vec<Base>,
    pub(crate) checkpoint_sequence: u64,
    pub(crate) producers: Producers,
    /// Room at a segment's end that only the log's own appends may use.
    pub(crate) kept_bytes: usize,
    pub(crate) commit_deadline: Duration,
}

/// The journal of one run.
pub(crate) struct Journal {
    start: Start,
    published: Arc<Published>,
    intake: Arc<Intake>,
    counters: Arc<Counters>,
    pool: Arc<ChunkPool>,
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
    /// Why there is no next slot, where the keeper could not make one.
    no_room: Option<Arc<str>>,
    in_flight: VecDeque<InFlight>,
    stamper: Stamper,
    /// Where idempotent producers stand at the last published commit.
    producers: Producers,
    inputs: Vec<Input>,
    one_ended: bool,
    busy: bool,
    patience: Patience,
    silent_since: Duration,
    stopping: bool,
    /// Something that waited was refused, so as to stop: no segment is given up any more.
    gave_up: bool,
    failed: bool,
    taken: u64,
    drop: Option<Drop>,
    /// Packs that were made and are not listed yet.
    settled: Vec<(PackId, Arc<PackIndex>, Arc<SettledIds>)>,
    /// Packs to take out.
    retired: Vec<PackId>,
    /// A segment that is to end though it is not full.
    roll: Option<SegmentNumber>,
    /// Nothing that is listed holds what is to be erased.
    erased: bool,
    checkpoint_sequence: u64,
    checkpoint_at: Duration,
    /// The last commit with data when the last checkpoint was made.
    checkpoint_base: Option<Base>,
}

impl Journal {
    /// A journal that goes on behind a durable `opened` commit. Asks for the next slot at once.
    pub(crate) fn new(
        mut start: Start,
        active: Prepared,
        published: Arc<Published>,
        intake: Arc<Intake>,
        counters: Arc<Counters>,
        pool: Arc<ChunkPool>,
        effects: &mut impl Effects,
    ) -> Self {
        let opened = start.opened;
        let producers = std::mem::take(&mut start.producers);
        effects.prepare(opened.segment.next());
        let journal = Self {
            slot: active.slot,
            segment: active.id,
            position: opened.end(),
            last: opened,
            last_hash: opened.hash(),
            append_time: opened.append_time,
            durable: position_of(&opened),
            base: start.opened_body.base,
            next_slot: None,
            no_room: None,
            in_flight: VecDeque::with_capacity(IN_FLIGHT_MAX),
            stamper: Stamper::new(Arc::clone(&published), Arc::clone(&pool), producers.clone()),
            producers,
            inputs: Vec::new(),
            one_ended: false,
            busy: false,
            patience: Patience::default(),
            silent_since: effects.monotonic(),
            stopping: false,
            gave_up: false,
            failed: false,
            taken: 0,
            drop: None,
            settled: Vec::new(),
            retired: Vec::new(),
            roll: None,
            erased: false,
            checkpoint_sequence: start.checkpoint_sequence,
            checkpoint_at: effects.monotonic(),
            checkpoint_base: start.opened_body.base,
            start,
            published,
            intake,
            counters,
            pool,
        };
        journal.count_ids();
        journal
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
        let told = self.publish(effects);
        self.patience.learn(self.intake.waiting_appends());
        if self.in_flight.is_empty()
            && !self.stopping
            && let Some(appends) = self.patience.after(told)
        {
            return Next::Linger { appends };
        }
        let blocked = self.close_commits(effects);
        self.drop_oldest(effects);
        self.settle(effects);
        self.roll(effects);
        self.watch_deadline(effects);
        if self.in_flight.is_empty() && !blocked {
            return self.idle(effects);
        }
        self.wait(blocked, effects)
    }

    fn take(&mut self, input: Input, effects: &mut impl Effects) {
        match input {
            Input::Prepared(prepared) => {
                assert!(
                    prepared.id.number > self.segment.number && self.next_slot.is_none(),
                    "one slot is prepared, for a later segment"
                );
                self.next_slot = Some(prepared);
                self.no_room = None;
            }
            Input::NoRoom(why) => self.no_room = Some(why),
            Input::DropOldest { oldest, after_gathers } => {
                self.drop = Some(Drop { oldest, after_gathers, after: None });
            }
            Input::Settled { pack, index, ids } => self.settled.push((pack, index, ids)),
            Input::Expired(starts) => {
                self.expire(&starts);
                effects.expired();
            }
            Input::Retired(pack) => self.retired.push(pack),
            Input::Roll(segment) => self.roll = Some(segment),
            Input::Erased => self.erased = true,
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
        // Who comes now must hear that it is closed, not that it is busy.
        self.counters.shedding.store(false, Ordering::Relaxed);
        self.intake.set_door(Door::Closed(Arc::clone(&why)));
        for commit in self.in_flight.drain(..) {
            if let Some((outcome, _)) = commit.decision {
                let unknown = AppendError::Unknown { why: Arc::clone(&why) };
                outcome.decide(Decided::Failed(unknown), &self.published.relays);
            }
        }
        self.intake.abandon(&why, &self.published.relays);
        self.published.close();
    }

    /// Publishes all commits at the front that are durable. Says how many callers were told.
    fn publish(&mut self, effects: &mut impl Effects) -> usize {
        let (mut any, mut told) = (false, 0);
        while self.in_flight.front().is_some_and(|commit| commit.done) {
            let commit = self.in_flight.pop_front().expect("it was just looked at");
            told += commit.permits.len();
            self.publish_one(commit, effects);
            any = true;
        }
        if any {
            self.published.wake();
            self.silent_since = effects.monotonic();
            self.counters.in_flight.store(self.in_flight.len() as u64, Ordering::Relaxed);
        }
        told
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
        self.note_produced(&commit.produced, commit.header.append_time);
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.counters.records.fetch_add(commit.records, Ordering::Relaxed);
        self.counters
            .commit_bytes
            .fetch_add(u64::from(commit.header.commit_bytes), Ordering::Relaxed);
        if let Some((outcome, decided)) = commit.decision {
            outcome.decide(decided, &self.published.relays);
        }
        drop(commit.permits);
        if let Some(next) = commit.next {
            self.sealed(next, effects);
        }
    }

    fn apply(&mut self, keyed: &Keyed) {
        let record = KeyValue::decode(&keyed.record).expect("the intake takes good records only");
        let change = self.published.apply(keyed.partition, keyed.offset, &record);
        match change {
            Change::Created(_) | Change::Recreated { .. } => {
                let rows = self.published.topics.read().catalog.row_count();
                self.stamper.grow_to(rows);
            }
            Change::Deleted(topic) => {
                self.stamper.forget(topic);
                self.producers.forget(topic);
            }
            Change::Erasing(partition, erased) => self.stamper.forget_keys(partition, &erased),
            Change::Trimmed(..) | Change::Erased | Change::None => {}
        }
    }

    /// Takes note of a published commit's batches of producers.
    fn note_produced(&mut self, batches: &[ProducedBatch], append_time: TimeMicros) {
        if batches.is_empty() {
            return;
        }
        let topics = self.published.topics.read();
        let is_there = |batch: &&ProducedBatch| topics.catalog.row(batch.partition).is_some();
        let mut any = false;
        for ProducedBatch { partition, produced, first } in batches.iter().filter(is_there) {
            self.producers.store(*partition, produced, *first, append_time);
            any = true;
        }
        if any {
            self.producers.end_commit(append_time);
        }
    }

    /// A segment's `sealed` is durable: its index is complete.
    fn sealed(&mut self, next: SegmentId, effects: &mut impl Effects) {
        *self.published.sealed.lock() = SealedProducers {
            append_time: self.durable.append_time,
            standings: Arc::new(self.producers.standings()),
        };
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
        let Some(drop) = self.drop.as_mut().filter(|_| !self.gave_up) else { return };
        if self.taken < drop.after_gathers {
            return;
        }
        let oldest = drop.oldest;
        if self.durable.number < *drop.after.get_or_insert(self.last.number) {
            return;
        }
        self.drop = None;
        let Some(dropped) = self.take_oldest(oldest) else { return effects.not_dropped() };
        // With the segment goes what is told of damage in it and before it.
        let damaged = &mut self.start.opened_body.damaged;
        damaged.retain(|stretch| (stretch.run, stretch.last) > (dropped.run, dropped.last));
        self.stamper.forget_segment(oldest.number());
        self.unlisted(Unlisted::Dropped(oldest), effects);
    }

    /// Takes the oldest segment or pack out of the tables, if it is still this one, and lets its
    /// partitions begin behind it.
    fn take_oldest(&self, oldest: Home) -> Option<Unread> {
        let topics = self.published.topics.read();
        let mut places = self.published.places.write();
        let dropped = places.oldest().filter(|it| it.home == oldest)?;
        let ends = places.drop_oldest();
        if places.any_missing() {
            // What lies in a pack that cannot be read now is not given up with it.
            for (partition, end) in ends {
                if let Some(row) = topics.catalog.row(partition) {
                    topics.set_start(row, end);
                }
            }
            return Some(dropped);
        }
        for (row, _) in topics.catalog.partitions() {
            let end = topics.extent_of(row).end;
            topics.set_start(row, places.first_after(row, oldest.number()).unwrap_or(end));
        }
        Some(dropped)
    }

    /// What is given up is durable with the next checkpoint; what it lay in stays until then.
    fn expire(&self, starts: &[(PartitionId, Offset)]) {
        let topics = self.published.topics.read();
        for (partition, start) in starts {
            if let Some(row) = topics.catalog.row(*partition) {
                topics.set_start(row, (*start).min(topics.extent_of(row).end));
            }
        }
    }

    /// Lists packs that were made, in the place of what they cover, and takes out those of which
    /// nobody can read anything.
    fn settle(&mut self, effects: &mut impl Effects) {
        for pack in std::mem::take(&mut self.retired) {
            self.published.places.write().retire(pack);
            self.unlisted(Unlisted::Settled(vec![Home::Pack(pack)]), effects);
        }
        for (pack, index, ids) in std::mem::take(&mut self.settled) {
            let replaced = {
                let topics = self.published.topics.read();
                let mut places = self.published.places.write();
                let replaced = places.replace(pack, index, &topics.catalog);
                if replaced.is_some() {
                    // Who sees the pack sees its ids.
                    let segments = SegmentNumber(pack.first)..=SegmentNumber(pack.last);
                    self.stamper.settle(segments, ids);
                }
                replaced
            };
            self.count_ids();
            let unlisted = replaced.map_or(Unlisted::Refused(pack), Unlisted::Settled);
            self.unlisted(unlisted, effects);
        }
        if std::mem::take(&mut self.erased) {
            self.unlisted(Unlisted::Erased, effects);
        }
    }

    /// Ends the segment that is to end early, unless it has ended by itself.
    fn roll(&mut self, effects: &mut impl Effects) {
        let is_asked = self.roll == Some(self.segment.number) && !self.stopping;
        if is_asked && self.next_slot.is_some() && self.in_flight.len() < IN_FLIGHT_MAX {
            self.seal(effects);
        }
    }

    fn unlisted(&mut self, unlisted: Unlisted, effects: &mut impl Effects) {
        let checkpoint = self.checkpoint();
        self.checkpoint_sequence += 1;
        effects.unlisted(unlisted, checkpoint);
    }

    /// What the log adds up to at the last published commit.
    pub(crate) fn checkpoint(&mut self) -> Checkpoint {
        self.checkpoint_sequence += 1;
        self.checkpoint_base = self.base;
        let (position, sequence) = (self.durable, self.checkpoint_sequence);
        snapshot(&self.start, &self.published, &self.producers, position, self.base, sequence)
    }

    /// Whether producers stand where they will when all that is in flight is published.
    #[cfg(test)]
    pub(crate) fn producers_agree(&self) -> bool {
        *self.stamper.producers() == self.producers
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
            if !(idle || enough || self.one_ended || self.stopping || waiting.is_ahead) {
                return false;
            }
            let kept_bytes = if waiting.is_ahead { 0 } else { self.start.kept_bytes };
            if !self.fits(padded_bytes(waiting.body_bytes_max) + kept_bytes) {
                if self.next_slot.is_some() {
                    self.seal(effects);
                } else if !self.give_up_next() {
                    return true;
                }
                continue;
            }
            self.one_ended = false;
            let gather = self.intake.take().expect("only the appender takes");
            self.taken += 1;
            self.commit(gather, effects);
        }
        false
    }

    /// A stop waits for no room: what does not fit into what there is was never written, and ends
    /// as refused. False where it is to wait.
    fn give_up_next(&mut self) -> bool {
        let Some(why) = self.no_room.clone().filter(|_| self.stopping) else { return false };
        let mut gather = self.intake.take().expect("only the appender takes");
        self.taken += 1;
        // What was to move out of the oldest segment may be in there.
        self.gave_up = true;
        tracing::warn!("stopping without {} appends: {why}", gather.appends.len());
        let refused = Decided::Failed(AppendError::Full { why });
        std::mem::take(&mut gather.outcome).decide(refused, &self.published.relays);
        self.intake.recycle(gather);
        true
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
        self.stamper.begin_segment(self.segment.number, self.append_time);
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
            produced: parts.produced,
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
        let closed = self.stamper.close(&mut gather, self.append_time);
        self.count_ids();
        let header = self.header(CommitKind::Data, &closed.pages, closed.directory_bytes, effects);
        let first_items = gather.appends.iter().map(|share| share.first_item).collect();
        let Closed { pages, entries, given, .. } = closed;
        let Given { offsets, refused, duplicates, produced, keyed, records } = given;
        let decided = Decided::Stored { offsets, first_items, refused, duplicates };
        let parts = InFlightParts {
            entries,
            decision: Some((std::mem::take(&mut gather.outcome), decided)),
            permits: std::mem::take(&mut gather.permits),
            keyed,
            produced,
            records,
            next: None,
        };
        self.intake.recycle(gather);
        self.submit(header, pages, parts, effects);
    }

    fn count_ids(&self) {
        let hot = self.published.ids.hot.lock();
        self.counters.ids.store(hot.len(), Ordering::Relaxed);
        self.counters.ids_bytes.store(hot.bytes() as u64, Ordering::Relaxed);
    }

    /// Nothing is in flight and nothing waits.
    fn idle(&mut self, effects: &mut impl Effects) -> Next {
        let marked = self.last.kind == CommitKind::Mark;
        if self.stopping && marked {
            return self.stop(effects);
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
            return self.stop(effects);
        } else {
            return Next::Wait { wake_at_bytes: 0, timeout: None };
        }
        self.wait(false, effects)
    }

    /// All is durable. A last checkpoint vouches for it outside of the journal, so that files of
    /// before are not taken for the log when they are put back.
    fn stop(&mut self, effects: &mut impl Effects) -> Next {
        if self.base != self.checkpoint_base {
            let checkpoint = self.checkpoint();
            effects.stopped(checkpoint);
        }
        self.published.close();
        Next::Stopped
    }

    fn wait(&self, blocked: bool, effects: &impl Effects) -> Next {
        let wake_at_bytes = match self.in_flight.len() {
            _ if blocked => usize::MAX,
            0 => 0,
            IN_FLIGHT_MAX.. => usize::MAX,
            _ => COME_AT_BYTES,
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

/// However it ends, also by a panic: nobody waits for what no longer comes.
impl ops::Drop for Journal {
    fn drop(&mut self) {
        self.intake.abandon(&"the journal ended".into(), &self.published.relays);
        self.published.close();
    }
}

/// What the log adds up to at the published commit `position`.
pub(crate) fn snapshot(
    start: &Start,
    published: &Published,
    producers: &Producers,
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
        packs: published.places.read().packs(),
        ended: start.ended.clone(),
        opened: start.opened_body.clone(),
        topics: catalog.topics().cloned().collect(),
        partitions,
        live: live
            .map(|((partition, key), live)| (*partition, key.clone(), live.clone()))
            .collect(),
        producers: producers.standings(),
    }
}

/// The parts of an [`InFlight`] that depend on its kind.
#[derive(Default)]
struct InFlightParts {
    entries: Vec<(Row, DirectoryEntry)>,
    decision: Option<(Undecided, Decided)>,
    permits: Vec<Permit>,
    keyed: Vec<Keyed>,
    produced: Vec<ProducedBatch>,
    records: u64,
    next: Option<SegmentId>,
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
