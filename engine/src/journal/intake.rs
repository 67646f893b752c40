//! The intake: where callers leave what they append, and wait for its outcome.
//!
//! Promises
//! - The order of appends is the order in which their callers got the lock; one append lies whole
//!   in one gather, and a gather becomes one commit.
//! - No message and no allocation per event: bytes are copied into the open gather's arena under
//!   a short lock, and all callers of a gather share one [`CommitOutcome`].
//! - At most one thread attends to it. Who leaves something that the journal waits for, while
//!   nobody does, is told to; who attends leaves only when there is no such thing.
//!
//! Called by the driver (append, push, attend, leave), the appender (take, inputs) and the keeper.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use smallvec::SmallVec;
use tracklog_log::{
    Append, AppendError, Condition, Item, Outcome, Permit, Seen, SeenAt, SeenItem, Settled, Ticket,
};
use tracklog_protocol::batch::{self, BATCH_BYTES_MAX, Produced};
use tracklog_protocol::{Offset, PartitionId, PayloadKind, TimeMicros, VerifiedBatch};

use crate::catalog::Row;
use crate::disk::{PAGE_BYTES, PackId};
use crate::journal::appender::Prepared;
use crate::journal::commit::{COMMIT_BYTES_MAX, CommitNumber, ENTRY_BYTES, SegmentNumber};
use crate::partition::places::Home;
use crate::settled::pack::PackIndex;

use crate::seen::event_ids::{IdKey, SettledIds, TopicIdHash, topic_hash_of};

use super::super::relay::Relays;
use super::super::sync::{AtomicUsize, Mutex, OnceLock};

/// Above this a gather takes no further append, unless the disk is busy with all it may have.
const GATHER_BYTES: usize = 256 << 10;
/// The same while four commits are in flight.
const GATHER_BYTES_BUSY: usize = 1 << 20;
/// No append may need more of a commit.
pub(crate) const APPEND_BYTES_MAX: usize = 8 << 20;
/// No commit needs more behind its header.
const BODY_BYTES_MAX: usize = COMMIT_BYTES_MAX - PAGE_BYTES;
/// No append has more records: a lost commit is skipped over by this many offsets.
pub(crate) const APPEND_RECORDS_MAX: u64 = 1 << 20;
/// Gathers kept for reuse.
const SPARE_GATHERS: usize = 6;
/// A batch header and a directory entry: what a record costs when it shares its batch with none.
const BATCH_OVERHEAD_BYTES: usize = batch::HEADER_BYTES + ENTRY_BYTES;

/// No item: the end of a list.
pub(crate) const NO_ITEM: u32 = u32::MAX;
/// The kind of an item that is a whole batch.
const WHOLE_BATCH: u8 = u8::MAX;

/// One item of a gather.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GatheredItem {
    pub(crate) row: Row,
    /// The next item of the same partition; links are made when the commit is closed.
    pub(crate) next: u32,
    /// Where its bytes are in the arena; of a whole batch, its index.
    at: u32,
    bytes: u32,
    /// `i64::MIN` where it has none.
    pub(crate) event_time: TimeMicros,
    /// By what a single event is known again.
    pub(crate) id: Option<TopicIdHash>,
    kind: u8,
}

/// A whole batch of a gather.
#[derive(Debug)]
struct GatheredBatch {
    batch: VerifiedBatch,
    ids: BatchIds,
}

/// By what the events of a batch are known again, in order, where they are.
type BatchIds = Option<Arc<[Option<TopicIdHash>]>>;

/// What an item is.
pub(crate) enum Gathered<'a> {
    Record { kind: PayloadKind, bytes: &'a [u8] },
    Batch(&'a VerifiedBatch),
}

/// One append's share of a gather.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppendShare {
    pub(crate) first_item: u32,
    pub(crate) items: u32,
    pub(crate) first_condition: u32,
    pub(crate) conditions: u32,
    /// Some of its batches name their producer.
    pub(crate) is_produced: bool,
    /// Some of its single events may be there already.
    pub(crate) has_ids: bool,
    /// None of them is among what was settled up to this segment.
    pub(crate) settled_through: SegmentNumber,
}

/// Appends that will be one commit.
#[derive(Debug)]
pub(crate) struct Gather {
    arena: Vec<u8>,
    batches: Vec<GatheredBatch>,
    pub(crate) items: Vec<GatheredItem>,
    pub(crate) appends: Vec<AppendShare>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) permits: Vec<Permit>,
    pub(crate) outcome: Undecided,
    payload_bytes: usize,
    /// An upper bound of what the commit needs behind its header.
    pub(crate) body_bytes_max: usize,
    /// The log's own, which goes ahead of all others and into room kept for it.
    is_ahead: bool,
}

impl Gather {
    fn new() -> Self {
        Self {
            arena: Vec::new(),
            batches: Vec::new(),
            items: Vec::new(),
            appends: Vec::new(),
            conditions: Vec::new(),
            permits: Vec::new(),
            outcome: Undecided::default(),
            payload_bytes: 0,
            body_bytes_max: 0,
            is_ahead: false,
        }
    }

    /// Makes it empty, with a new outcome; what it allocated stays.
    fn clear(&mut self) {
        self.arena.clear();
        self.batches.clear();
        self.items.clear();
        self.appends.clear();
        self.conditions.clear();
        self.permits.clear();
        self.outcome = Undecided::default();
        self.payload_bytes = 0;
        self.body_bytes_max = 0;
        self.is_ahead = false;
    }

    /// Item `index`'s content.
    pub(crate) fn content(&self, index: u32) -> Gathered<'_> {
        let item = &self.items[index as usize];
        if item.kind == WHOLE_BATCH {
            return Gathered::Batch(&self.batches[item.at as usize].batch);
        }
        let kind = PayloadKind::from_byte(item.kind).expect("the intake wrote it from a kind");
        let at = item.at as usize;
        Gathered::Record { kind, bytes: &self.arena[at..at + item.bytes as usize] }
    }

    /// How many offsets item `index` takes.
    pub(crate) fn count(&self, index: u32) -> u32 {
        match self.content(index) {
            Gathered::Record { .. } => 1,
            Gathered::Batch(batch) => batch.view().count(),
        }
    }

    /// What item `index` says of its producer.
    pub(crate) fn produced(&self, index: u32) -> Option<Produced> {
        match self.content(index) {
            Gathered::Record { .. } => None,
            Gathered::Batch(batch) => batch.view().header().produced(),
        }
    }

    /// Whether the append says that its item `of` is not the event at `place`.
    pub(crate) fn differs(
        &self,
        share: AppendShare,
        of: usize,
        place: (PartitionId, Offset),
    ) -> bool {
        let first = share.first_condition as usize;
        let conditions = &self.conditions[first..first + share.conditions as usize];
        conditions.iter().any(|condition| match condition {
            Condition::Differs { item, partition, offset } => {
                (*item, (*partition, *offset)) == (of, place)
            }
            _ => false,
        })
    }

    /// Up to where the append says that it has looked for its item `of` among what is settled.
    pub(crate) fn looked(&self, share: AppendShare, of: usize) -> Option<Settled> {
        let first = share.first_condition as usize;
        looked(&self.conditions[first..first + share.conditions as usize], of)
    }

    /// By what the events of a batch are known again; of all other items none.
    pub(crate) fn batch_ids(&self, index: u32) -> &[Option<TopicIdHash>] {
        let item = &self.items[index as usize];
        if item.kind != WHOLE_BATCH {
            return &[];
        }
        self.batches[item.at as usize].ids.as_deref().unwrap_or_default()
    }

    fn push(&mut self, append: Append<'_>, measured: &Measured, permit: Option<Permit>) -> u32 {
        let number = index_u32(self.appends.len());
        self.appends.push(AppendShare {
            first_item: index_u32(self.items.len()),
            items: index_u32(append.items.len()),
            first_condition: index_u32(self.conditions.len()),
            conditions: index_u32(append.conditions.len()),
            is_produced: measured.is_produced,
            has_ids: measured.has_ids,
            settled_through: measured.settled_through,
        });
        self.conditions.extend_from_slice(append.conditions);
        let mut batch_ids = measured.batch_ids.iter();
        for (item, MeasuredItem { row, event_time, id }) in append.items.iter().zip(&measured.rows)
        {
            let (at, bytes, kind) = match item {
                Item::Record { record, .. } => {
                    let at = self.arena.len();
                    self.arena.extend_from_slice(record.bytes());
                    (at, record.bytes().len(), record.kind() as u8)
                }
                Item::Batch { batch, .. } => {
                    let ids = batch_ids.next().cloned().flatten();
                    self.batches.push(GatheredBatch { batch: (*batch).clone(), ids });
                    (self.batches.len() - 1, batch.view().bytes().len(), WHOLE_BATCH)
                }
            };
            self.items.push(GatheredItem {
                row: *row,
                next: NO_ITEM,
                at: index_u32(at),
                bytes: index_u32(bytes),
                event_time: *event_time,
                id: *id,
                kind,
            });
        }
        self.permits.extend(permit);
        self.payload_bytes += measured.payload_bytes;
        self.body_bytes_max += measured.body_bytes_max;
        number
    }
}

/// Up to where conditions say that somebody has looked for an item among what is settled.
fn looked(conditions: &[Condition], of: usize) -> Option<Settled> {
    let through = conditions.iter().filter_map(|condition| match condition {
        Condition::Looked { item, through } if *item == of => Some(*through),
        _ => None,
    });
    through.max()
}

fn index_u32(index: usize) -> u32 {
    u32::try_from(index).expect("a gather is far below 4 GiB")
}

/// What an item needs.
struct MeasuredItem {
    row: Row,
    event_time: TimeMicros,
    id: Option<TopicIdHash>,
}

/// What an append needs, found out before the lock is taken.
pub(crate) struct Measured {
    rows: SmallVec<[MeasuredItem; 4]>,
    /// For each batch.
    batch_ids: SmallVec<[BatchIds; 1]>,
    payload_bytes: usize,
    body_bytes_max: usize,
    is_produced: bool,
    has_ids: bool,
    settled_through: SegmentNumber,
}

impl Measured {
    /// Measures `append`. Of its partitions `row` finds the row, and says whether events are stored
    /// once there, by ids hashed under `key`, of which `settled` tells what is in packs.
    pub(crate) fn of(
        append: &Append<'_>,
        key: IdKey,
        settled: &SettledIds,
        row: impl Fn(PartitionId) -> Option<(Row, bool)>,
    ) -> Result<Self, AppendError> {
        let mut rows = SmallVec::with_capacity(append.items.len());
        let (mut batch_ids, mut has_ids) = (SmallVec::new(), false);
        let (mut payload_bytes, mut body_bytes_max, mut records) = (0, 0, 0);
        let (mut batch_bytes_max, mut is_produced) = (0, false);
        for item in append.items {
            let partition = item.partition();
            let (row, dedupes) =
                row(partition).ok_or(AppendError::UnknownPartition { partition })?;
            let mut id = None;
            let (bytes, overhead, time, count) = match item {
                Item::Record { record, .. } => {
                    // Its place in the table of ends, and the padding of that table.
                    let overhead = BATCH_OVERHEAD_BYTES + 8;
                    // The largest of them has a batch of its own, which must be a good one.
                    let alone = batch::gathered_bytes(1, record.bytes().len());
                    batch_bytes_max = alone.max(batch_bytes_max);
                    if dedupes {
                        id = topic_hash_of(key, partition.topic, *record);
                        has_ids |= id.is_some();
                    }
                    (record.bytes().len(), overhead, record.event_time(), 1)
                }
                Item::Batch { batch, .. } => {
                    let header = batch.view().header();
                    let time = header.event_times().map(|times| times.max);
                    is_produced |= header.produced().is_some();
                    let ids = || {
                        let records = batch.view().records();
                        records.map(|(_, record)| topic_hash_of(key, partition.topic, record))
                    };
                    batch_ids.push(dedupes.then(|| ids().collect()));
                    (header.batch_bytes(), ENTRY_BYTES, time, header.count())
                }
            };
            let event_time = time.unwrap_or(TimeMicros(i64::MIN));
            rows.push(MeasuredItem { row, event_time, id });
            records += u64::from(count);
            let padded = bytes.next_multiple_of(8);
            payload_bytes += padded;
            // A gathered batch above 256 KiB has a checksum for each 256 KiB.
            body_bytes_max += padded + overhead + bytes / (32 << 10);
        }
        if payload_bytes > APPEND_BYTES_MAX
            || body_bytes_max > BODY_BYTES_MAX
            || batch_bytes_max > BATCH_BYTES_MAX
            || records > APPEND_RECORDS_MAX
        {
            let bytes = payload_bytes.max(body_bytes_max);
            return Err(AppendError::TooLarge { bytes, bytes_max: APPEND_BYTES_MAX });
        }
        if has_ids {
            refuse_repeats(&rows)?;
            refuse_settled(&rows, append.conditions, settled)?;
        }
        Ok(Self {
            rows,
            batch_ids,
            payload_bytes,
            body_bytes_max,
            is_produced,
            has_ids,
            settled_through: settled.through,
        })
    }
}

/// Refuses an append two of whose events may have the same id: which of them goes first is for its
/// caller to say.
fn refuse_repeats(items: &[MeasuredItem]) -> Result<(), AppendError> {
    if items.len() < 2 {
        return Ok(());
    }
    let ids = items.iter().zip(0_usize..).filter_map(|(it, item)| Some((it.id?, item)));
    let mut ids: SmallVec<[_; 64]> = ids.collect();
    ids.sort_unstable();
    let repeats = ids.windows(2).filter(|two| two[0].0 == two[1].0).map(|two| two[1].1);
    let mut repeats: Vec<usize> = repeats.collect();
    if repeats.is_empty() {
        return Ok(());
    }
    repeats.sort_unstable();
    let seen = |item| SeenItem { item, at: SeenAt::Before };
    let seen = Seen { items: repeats.into_iter().map(seen).collect() };
    Err(AppendError::Seen(Arc::new(seen)))
}

/// Refuses an append whose events may be settled already, unless its caller has looked: here, by the
/// thread that appends, and not where commits are closed one after the other.
fn refuse_settled(
    items: &[MeasuredItem],
    conditions: &[Condition],
    settled: &SettledIds,
) -> Result<(), AppendError> {
    let through = Some(Settled(settled.through.0));
    let may_be_settled = |(item, measured): (usize, &MeasuredItem)| {
        let is_perhaps = measured.id.is_some_and(|id| settled.may_hold(id));
        let at = SeenAt::Settled;
        (is_perhaps && looked(conditions, item) < through).then_some(SeenItem { item, at })
    };
    let items: Vec<_> = items.iter().enumerate().filter_map(may_be_settled).collect();
    if items.is_empty() { Ok(()) } else { Err(AppendError::Seen(Arc::new(Seen { items }))) }
}

/// Whether appends are taken.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    Open,
    /// No room: refuse until there is.
    Full(Arc<str>),
    /// Stopping, or failed: refuse for good.
    Closed(Arc<str>),
}

/// What happened that the appender has to know.
pub(crate) enum Input {
    /// A commit's write is over.
    Written { number: CommitNumber, result: io::Result<()> },
    /// The next segment's slot is ready.
    Prepared(Prepared),
    /// It cannot be made ready for now. Why, in words.
    NoRoom(Arc<str>),
    /// Give up the oldest segment or pack, which is this one, when the first so many gathers are
    /// durable.
    DropOldest { oldest: Home, after_gathers: u64 },
    /// These partitions start later, at the latest at their ends: what lies before is given up.
    Expired(Vec<(PartitionId, Offset)>),
    /// Nobody can read what is in a pack any more.
    Retired(PackId),
    /// A pack is written and durable: it is to take the place of what it covers. With it which ids
    /// there may be in packs then.
    Settled { pack: PackId, index: Arc<PackIndex>, ids: Arc<SettledIds> },
    /// End this segment, if it is the one that is written, as soon as there is a next.
    Roll(SegmentNumber),
    /// Nothing that is listed holds what is to be erased any more.
    Erased,
    /// Stop when all that was taken is durable.
    Stop,
}

struct Queue {
    gathers: VecDeque<Gather>,
    spare: Vec<Gather>,
    waiting_bytes: usize,
    taken: u64,
    busy: bool,
    inputs: Vec<Input>,
    door: Option<Door>,
    /// Somebody drives the journal, or is about to.
    attended: bool,
    /// While nobody does: when so much waits, somebody has to.
    wake_at_bytes: usize,
}

impl Default for Queue {
    /// An empty queue, attended to by who makes it.
    fn default() -> Self {
        Self {
            gathers: VecDeque::new(),
            spare: Vec::new(),
            waiting_bytes: 0,
            taken: 0,
            busy: false,
            inputs: Vec::new(),
            door: None,
            attended: true,
            wake_at_bytes: 0,
        }
    }
}

impl Queue {
    /// Whether enough waits for a commit.
    fn wakes(&self, wake_at_bytes: usize) -> bool {
        !self.gathers.is_empty() && self.waiting_bytes >= wake_at_bytes
    }

    /// Makes the caller attend, if something is there to be attended to and nobody does.
    fn attend_if(&mut self, wanted: bool) -> bool {
        let attends = wanted && !self.attended;
        self.attended |= attends;
        attends
    }

    /// The gather that an append of this size joins.
    fn gather(&mut self, measured: &Measured) -> &mut Gather {
        let limit = if self.busy { GATHER_BYTES_BUSY } else { GATHER_BYTES };
        let joins = self.gathers.back().is_some_and(|gather| {
            !gather.is_ahead
                && gather.payload_bytes + measured.payload_bytes <= limit
                && gather.body_bytes_max + measured.body_bytes_max <= BODY_BYTES_MAX
        });
        if !joins {
            self.gathers.push_back(self.spare.pop().unwrap_or_else(Gather::new));
        }
        self.gathers.back_mut().expect("one was pushed if there was none")
    }

    /// The gather that the log's own append of this size joins, behind those of its sort.
    fn gather_ahead(&mut self, payload_bytes: usize) -> &mut Gather {
        let ahead = self.gathers_ahead();
        let joins = ahead
            .checked_sub(1)
            .filter(|last| self.gathers[*last].payload_bytes + payload_bytes <= GATHER_BYTES);
        let at = joins.unwrap_or_else(|| {
            let mut gather = self.spare.pop().unwrap_or_else(Gather::new);
            gather.is_ahead = true;
            self.gathers.insert(ahead, gather);
            ahead
        });
        &mut self.gathers[at]
    }

    fn gathers_ahead(&self) -> usize {
        self.gathers.iter().take_while(|gather| gather.is_ahead).count()
    }
}

/// The queue between callers and appender. Who makes it attends to it first.
#[derive(Default)]
pub(crate) struct Intake {
    queue: Mutex<Queue>,
    /// Appends in the queue. Changed under its lock; whoever only looks takes none.
    appends: AtomicUsize,
}

/// What waits at the front of the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// All that waits.
    pub(crate) bytes: usize,
    /// What the next commit needs at most, behind its header.
    pub(crate) body_bytes_max: usize,
    /// Whether it is the log's own.
    pub(crate) is_ahead: bool,
}

impl Intake {
    /// Leaves an append in the queue. True: the caller has to attend now.
    #[must_use = "who is told to attend has to"]
    pub(crate) fn append(
        &self,
        append: Append<'_>,
        measured: &Measured,
        permit: Permit,
    ) -> (Ticket, bool) {
        let mut queue = self.queue.lock();
        match &queue.door {
            None | Some(Door::Open) => {}
            Some(Door::Full(why)) => {
                let full = AppendError::Full { why: Arc::clone(why) };
                return (Ticket::refused(full), false);
            }
            Some(Door::Closed(why)) => {
                let closed = AppendError::Closed { why: Arc::clone(why) };
                return (Ticket::refused(closed), false);
            }
        }
        let gather = queue.gather(measured);
        let number = gather.push(append, measured, Some(permit));
        let outcome = Arc::clone(&gather.outcome.0);
        queue.waiting_bytes += measured.payload_bytes;
        self.appends.fetch_add(1, Ordering::Relaxed);
        let enough = queue.wakes(queue.wake_at_bytes);
        let attend = queue.attend_if(enough);
        drop(queue);
        (Ticket::new(outcome, number), attend)
    }

    /// Tells the journal that something happened. True: the caller has to attend now.
    #[must_use = "who is told to attend has to"]
    pub(crate) fn push(&self, input: Input) -> bool {
        let mut queue = self.queue.lock();
        queue.inputs.push(input);
        queue.attend_if(true)
    }

    /// Asks to attend, though nothing came. False: somebody does already.
    #[must_use = "who may attend has to"]
    pub(crate) fn attend(&self) -> bool {
        self.queue.lock().attend_if(true)
    }

    /// Attends no longer, until an input comes or `wake_at_bytes` wait. False when that is so
    /// already: the caller goes on attending.
    #[must_use = "who could not leave still attends"]
    pub(crate) fn leave(&self, wake_at_bytes: usize) -> bool {
        let mut queue = self.queue.lock();
        assert!(queue.attended, "who leaves has attended");
        let leaves = queue.inputs.is_empty() && !queue.wakes(wake_at_bytes);
        queue.attended = !leaves;
        queue.wake_at_bytes = wake_at_bytes;
        leaves
    }

    /// Leaves the log's own append at the head of the queue, where no full door and no budget
    /// stops it: it makes room.
    pub(crate) fn append_ahead(&self, append: Append<'_>, measured: &Measured) {
        let mut queue = self.queue.lock();
        let gather = queue.gather_ahead(measured.payload_bytes);
        gather.push(append, measured, None);
        self.appends.fetch_add(1, Ordering::Relaxed);
        queue.waiting_bytes += measured.payload_bytes;
    }

    /// How many gathers were taken, and wait ahead of all others, counted from the start: the
    /// log's own appends before this call lie in one of them.
    pub(crate) fn gathers_ahead(&self) -> u64 {
        let queue = self.queue.lock();
        queue.taken + queue.gathers_ahead() as u64
    }

    /// Takes what happened.
    pub(crate) fn take_inputs(&self, into: &mut Vec<Input>) {
        into.append(&mut self.queue.lock().inputs);
    }

    /// What waits, if anything does.
    pub(crate) fn waiting(&self) -> Option<Waiting> {
        let queue = self.queue.lock();
        let front = queue.gathers.front()?;
        Some(Waiting {
            bytes: queue.waiting_bytes,
            body_bytes_max: front.body_bytes_max,
            is_ahead: front.is_ahead,
        })
    }

    /// Takes the front gather.
    pub(crate) fn take(&self) -> Option<Gather> {
        let mut queue = self.queue.lock();
        let gather = queue.gathers.pop_front()?;
        queue.waiting_bytes -= gather.payload_bytes;
        queue.taken += 1;
        self.appends.fetch_sub(gather.appends.len(), Ordering::Relaxed);
        Some(gather)
    }

    /// How many appends wait, a moment ago.
    pub(crate) fn waiting_appends(&self) -> usize {
        self.appends.load(Ordering::Relaxed)
    }

    /// Shuts the door for good and gives up whatever waits.
    pub(crate) fn abandon(&self, why: &Arc<str>, relays: &Relays) {
        self.set_door(Door::Closed(Arc::clone(why)));
        while let Some(mut gather) = self.take() {
            let closed = AppendError::Closed { why: Arc::clone(why) };
            std::mem::take(&mut gather.outcome).decide(Decided::Failed(closed), relays);
            self.recycle(gather);
        }
    }

    /// Takes a gather back for reuse.
    pub(crate) fn recycle(&self, mut gather: Gather) {
        gather.clear();
        let mut queue = self.queue.lock();
        if queue.spare.len() < SPARE_GATHERS && gather.arena.capacity() <= 4 * GATHER_BYTES_BUSY {
            queue.spare.push(gather);
        }
    }

    /// Says whether all four places on the disk are taken: commits may then grow larger.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.queue.lock().busy = busy;
    }

    /// Opens or shuts the door. A closed door never opens again.
    pub(crate) fn set_door(&self, door: Door) {
        let mut queue = self.queue.lock();
        if !matches!(queue.door, Some(Door::Closed(_))) {
            queue.door = Some(door);
        }
    }

    /// Whether appends are taken.
    pub(crate) fn door(&self) -> Door {
        self.queue.lock().door.clone().unwrap_or(Door::Open)
    }

    /// Bytes that wait for a commit.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.queue.lock().waiting_bytes
    }
}

/// What became of a commit's appends.
#[derive(Debug)]
pub(crate) enum Decided {
    /// The commit is durable.
    Stored {
        /// By item.
        offsets: Vec<Offset>,
        /// By append: its first item.
        first_items: Vec<u32>,
        /// Appends that were refused, in order.
        refused: Vec<(u32, AppendError)>,
        /// Appends that earlier ones have stored, in order.
        duplicates: Vec<u32>,
    },
    /// None of them is known to be durable.
    Failed(AppendError),
}

/// The outcome that all appends of one commit share.
#[derive(Debug, Default)]
pub(crate) struct CommitOutcome {
    decided: OnceLock<Decided>,
    wakers: Mutex<Vec<Option<Waker>>>,
}

/// The side of an outcome that decides. Dropped before it did, as by a panic, it says that nobody
/// knows: no caller waits for what no longer comes.
#[derive(Debug, Default)]
pub(crate) struct Undecided(Arc<CommitOutcome>);

impl Undecided {
    /// Says what became of the appends, and wakes all who wait.
    pub(crate) fn decide(self, decided: Decided, relays: &Relays) {
        relays.wake(self.0.decide(decided));
    }
}

impl Drop for Undecided {
    fn drop(&mut self) {
        let waited_for = Arc::strong_count(&self.0) > 1;
        if waited_for && self.0.decided.get().is_none() {
            let why = "the journal ended".into();
            let waiting = self.0.decide(Decided::Failed(AppendError::Unknown { why }));
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

impl CommitOutcome {
    /// Says what became of the appends. Who waits is for the caller to wake.
    #[must_use]
    #[allow(clippy::filter_map_identity, reason = "it works in place; `flatten` allocates")]
    fn decide(&self, decided: Decided) -> Vec<Waker> {
        let first = self.decided.set(decided).is_ok();
        assert!(first, "a commit is decided once");
        let wakers = std::mem::take(&mut *self.wakers.lock());
        wakers.into_iter().filter_map(|waker| waker).collect()
    }

    fn result(&self, append: u32) -> Option<Result<(), AppendError>> {
        Some(match self.decided.get()? {
            Decided::Failed(error) => Err(error.clone()),
            Decided::Stored { refused, .. } => {
                match refused.binary_search_by_key(&append, |(append, _)| *append) {
                    Ok(at) => Err(refused[at].1.clone()),
                    Err(_) => Ok(()),
                }
            }
        })
    }
}

impl Outcome for CommitOutcome {
    fn poll(&self, append: u32, context: &mut Context<'_>) -> Poll<Result<(), AppendError>> {
        if let Some(result) = self.result(append) {
            return Poll::Ready(result);
        }
        let mut wakers = self.wakers.lock();
        // Decided in between: those wakers are taken already.
        if let Some(result) = self.result(append) {
            return Poll::Ready(result);
        }
        let at = append as usize;
        if wakers.len() <= at {
            wakers.resize(at + 1, None);
        }
        match &mut wakers[at] {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    fn offset(&self, append: u32, item: u32) -> Offset {
        let Some(Decided::Stored { offsets, first_items, .. }) = self.decided.get() else {
            panic!("offsets are asked for after the append was stored");
        };
        let at = first_items[append as usize] + item;
        let end = first_items.get(append as usize + 1).copied();
        assert!(end.is_none_or(|end| at < end), "the append has no such item");
        offsets[at as usize]
    }

    fn is_duplicate(&self, append: u32) -> bool {
        match self.decided.get() {
            Some(Decided::Stored { duplicates, .. }) => duplicates.binary_search(&append).is_ok(),
            _ => false,
        }
    }
}
