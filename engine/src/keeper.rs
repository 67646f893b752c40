//! The keeper: the thread that prepares slots ahead, writes index files and checkpoints, and
//! sees to it that there is room.
//!
//! Promises
//! - The next segment's slot is ready, its header durable, before the journal needs it.
//! - A ballast of slots is kept (the prepared one, and another once the log has rolled), so that
//!   what was accepted can be written when the disk is full. When it cannot be kept the intake's door is shut, and opened again when it can.
//! - A new slot is filled as the journal comes near it (`filling`): the disk is left to commits.
//! - While one checkpoint's file is torn by a failed write, the other is left as it is.
//! - A slot that cannot be prepared, other than for want of room, is put aside and said so once: its
//!   file is removed, and another one is taken.
//! - When what is to be erased lies in nothing that is listed, it lies in no file: both checkpoints are
//!   written, and then what nothing names is removed and spare slots are filled with zeros (`wiping`).
//! - A slot is used again only when both checkpoints no longer name it, and only if no reader
//!   holds a map of it; else its file is unlinked and a new one made.
//!
//! It works on jobs that the journal's step machine gives it, one after the other; a thread
//! drives it in a running log, the test itself elsewhere.

mod filling;
mod wiping;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tracklog_log::{Append, Condition, Item};
use tracklog_protocol::{KeyValue, Offset, PartitionId};

use crate::catalog;
use crate::checkpoint::Checkpoint;
use crate::disk::{Access, Disk, FileName, PAGE_BYTES, PackId, Slot, SlotId, is_passing};
use crate::index_file;
use crate::intake_client::IntakeClient;
use crate::journal::appender::{Counters, Prepared, SegmentFull, Unlisted};
use crate::journal::commit::{Base, Run, Salt, SegmentNumber};
use crate::journal::intake::{Door, Input};
use crate::journal::segment::{ClusterId, SlotHeader};
use crate::keeper::filling::Filling;
use crate::options::WhenFull;
use crate::partition::places::{Home, SegmentId, SegmentIndex};
use crate::read::Reader;
use crate::settled::settler::Settling;

/// No limit is lower: a segment to drop, one to write, one prepared, one to prepare.
pub(crate) const SLOTS_MIN: u64 = 4;
/// So many slots' room is left for the pack that the settler makes of one.
const PACK_SLOTS: u64 = 1;
/// So many slots that can be neither written nor removed are made up for with new ones, beyond the
/// journal's limit too. A disk with more of them is no place to make files on.
const SPOILED_MAX: u64 = 4;

/// So many idle slots are kept for later segments: to make one costs as much as to fill it. What
/// a backlog left beyond that goes back to the file system.
///
/// Twice as many as become a pack at once, so that a settler that is a pack behind has none made and
/// removed again and again. Half of it where the disk has no room for [`PLENTY_SLOTS`] more.
const FREE_SLOTS_MAX: usize = 8;
const PLENTY_SLOTS: u64 = 16;
/// How long to rest between pieces of a file that goes: the file system tells the disk of one meanwhile.
const GIVING_BACK_REST: Duration = Duration::from_millis(10);

/// What the keeper is asked to do.
pub(crate) enum Job {
    /// Prepare a slot for this segment.
    Prepare(SegmentNumber),
    /// A segment was sealed.
    Full(SegmentFull),
    /// A segment of an ended run has no index file yet.
    Index { id: SegmentId, index: Arc<SegmentIndex> },
    /// What was to be given up is not the oldest any more: nothing was.
    NotDropped,
    /// Starts were raised: the settler is to look what that makes of packs.
    Expired,
    /// The log stops, and stands at this checkpoint.
    Stopped(Checkpoint),
    /// Segments or packs are out of the tables; the checkpoint no longer names them.
    Unlisted { unlisted: Unlisted, checkpoint: Checkpoint },
}

/// What of the run every slot header repeats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heading {
    pub(crate) cluster: ClusterId,
    pub(crate) slot_bytes: u64,
    pub(crate) run: Run,
    pub(crate) base: Option<Base>,
    pub(crate) skip: u64,
}

/// Why there is no slot.
enum Lack {
    /// There is no room: to give up the oldest segment would make some.
    Room(String),
    /// The journal is as large as it may be: to settle the oldest segment makes room too.
    Limit(String),
    /// The disk, or the system, will not.
    Other(String),
}

impl Lack {
    fn of(error: &io::Error, why: String) -> Self {
        if error.kind() == io::ErrorKind::StorageFull { Self::Room(why) } else { Self::Other(why) }
    }
}

/// Prepares, writes and frees.
pub(crate) struct Keeper {
    disk: Arc<dyn Disk>,
    client: IntakeClient,
    reader: Arc<Reader>,
    heading: Heading,
    /// Slots that nothing names: zero-filled or to be overwritten.
    free: VecDeque<SlotId>,
    /// Those of them that are full of zeros, as far as is known.
    empty: BTreeSet<SlotId>,
    /// What was prepared and, as far as is known, is not written yet.
    prepared: BTreeMap<SegmentNumber, SlotId>,
    /// Spare files are to be wiped, once what is out of the tables is forgotten.
    to_wipe: bool,
    next_slot: SlotId,
    slots: u64,
    /// How many of them can be neither written nor removed.
    spoiled: u64,
    slots_max: Option<u64>,
    when_full: WhenFull,
    wanted: Option<SegmentNumber>,
    rolled: bool,
    dropping: bool,
    /// What is out of the tables, until both checkpoints have forgotten it.
    forgetting: Option<(Vec<Home>, Checkpoint)>,
    /// Whoever makes packs.
    settling: Arc<Settling>,
    /// What the journal has written.
    counters: Arc<Counters>,
    /// The checkpoint's file whose last write failed.
    torn: Option<FileName>,
    full: bool,
}

impl Keeper {
    #[expect(clippy::too_many_arguments, reason = "called in one place, with named values")]
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        client: IntakeClient,
        reader: Arc<Reader>,
        heading: Heading,
        free: VecDeque<SlotId>,
        next_slot: SlotId,
        slots: u64,
        (journal_bytes_max, when_full): (Option<u64>, WhenFull),
        settling: Arc<Settling>,
        counters: Arc<Counters>,
    ) -> Self {
        let slots_max = journal_bytes_max.map(|bytes| bytes / heading.slot_bytes);
        Self {
            disk,
            client,
            reader,
            heading,
            free,
            empty: BTreeSet::new(),
            prepared: BTreeMap::new(),
            to_wipe: false,
            next_slot,
            slots,
            spoiled: 0,
            slots_max,
            when_full,
            wanted: None,
            rolled: false,
            dropping: false,
            forgetting: None,
            settling,
            counters,
            torn: None,
            full: false,
        }
    }

    /// Does one job, and then what is left undone of earlier ones.
    pub(crate) fn run(&mut self, job: Job) {
        match job {
            Job::Prepare(segment) => self.wanted = Some(segment),
            Job::Full(full) => {
                self.rolled = true;
                self.segment_full(&full);
                self.settling.look();
            }
            Job::Index { id, index } => self.write_index(&id, &index),
            Job::NotDropped => self.dropping = false,
            // To catch up is enough: then the settler looks.
            Job::Expired => {}
            Job::Stopped(checkpoint) => self.note(&checkpoint),
            Job::Unlisted { unlisted, checkpoint } => self.unlisted(&unlisted, checkpoint),
        }
        self.catch_up();
    }

    /// Whether something waits for room: try again in a while.
    pub(crate) const fn waits_for_room(&self) -> bool {
        self.full
    }

    /// Frees what was given up, prepares the slot that is wanted and fills up the ballast.
    pub(crate) fn catch_up(&mut self) {
        let forgotten = self.forget();
        if forgotten.is_ok() {
            self.wipe_if_asked();
            self.settling.look();
        }
        let lack = forgotten.map_err(Lack::Other).and_then(|()| self.try_catch_up());
        let lack = match lack {
            Err(Lack::Limit(why)) if self.settling.makes_room() => Err(Lack::Other(why)),
            Err(Lack::Limit(why)) => Err(Lack::Room(why)),
            lack => lack,
        };
        let why = match lack {
            Ok(()) => {
                if std::mem::replace(&mut self.full, false) {
                    tracing::info!("there is room again: appends are taken");
                    self.client.intake().set_door(Door::Open);
                }
                return;
            }
            Err(Lack::Room(why)) if self.when_full == WhenFull::DropOldest => {
                match self.drop_oldest() {
                    Ok(()) => {
                        tracing::info!("dropping the oldest segment: {why}");
                        return;
                    }
                    Err(stays) => format!("{why}, and {stays}"),
                }
            }
            Err(Lack::Room(why) | Lack::Limit(why) | Lack::Other(why)) => why,
        };
        if !std::mem::replace(&mut self.full, true) {
            tracing::warn!("appends are refused: {why}");
        }
        let why: Arc<str> = why.into();
        self.client.intake().set_door(Door::Full(Arc::clone(&why)));
        if self.wanted.is_some() {
            // Who stops must not wait for it.
            self.client.driver.push(Input::NoRoom(why));
        }
    }

    fn try_catch_up(&mut self) -> Result<(), Lack> {
        if let Some(segment) = self.wanted {
            let prepared = self.prepare_one(segment)?;
            self.wanted = None;
            self.client.driver.push(Input::Prepared(prepared));
        }
        // The prepared slot is the ballast's first.
        let more = usize::from(self.rolled);
        while self.free.len() < more {
            let slot = self.create()?;
            self.free.push_back(slot);
        }
        Ok(())
    }

    /// Prepares the first free slot that can be, or a new one.
    fn prepare_one(&mut self, mut segment: SegmentNumber) -> Result<Prepared, Lack> {
        loop {
            let free = self.free.pop_front();
            let slot = free.map_or_else(|| self.create(), Ok)?;
            let error = match self.prepare(slot, segment) {
                Ok(prepared) => return Ok(prepared),
                Err(error) => error,
            };
            let why = format!("cannot prepare {slot}: {error}");
            if is_passing(&error) {
                self.free.push_front(slot);
                return Err(Lack::of(&error, why));
            }
            match put_aside(&*self.disk, slot, &error) {
                Ok(()) => self.slots -= 1,
                Err(_) => self.spoiled += 1,
            }
            // Its header may have landed: no number is given twice.
            segment = segment.next();
            self.wanted = Some(segment);
            if free.is_none() {
                // If a new one cannot be written either, the next may wait.
                return Err(Lack::Other(why));
            }
        }
    }

    /// Makes a new slot.
    fn create(&mut self) -> Result<SlotId, Lack> {
        if self.spoiled > SPOILED_MAX {
            let why = format!("{} slots can be neither written nor removed", self.spoiled);
            return Err(Lack::Other(why));
        }
        self.leave_room()?;
        if let Some(slots_max) = self.slots_max
            && self.slots - self.spoiled >= slots_max.max(SLOTS_MIN)
        {
            let bytes = slots_max * self.heading.slot_bytes;
            let why = format!("the journal has reached its limit of {bytes} bytes");
            return Err(Lack::Limit(why));
        }
        let slot = self.next_slot;
        match self.fill(slot) {
            Ok(()) => {
                self.next_slot = SlotId(slot.0 + 1);
                self.slots += 1;
                self.empty.insert(slot);
                Ok(slot)
            }
            Err(error) => {
                // What there is of it is worth nothing, and may be what the disk lacks.
                let gone = self.disk.remove_slot(slot);
                if let Err(error) = gone.or_else(absent_is_fine) {
                    tracing::warn!("cannot remove the unfinished {slot}: {error}");
                }
                Err(Lack::of(&error, format!("cannot make {slot}: {error}")))
            }
        }
    }

    /// Makes a slot's file, and leaves the disk to the journal in between.
    fn fill(&self, slot: SlotId) -> io::Result<()> {
        let written = || self.counters.commit_bytes.load(Ordering::Relaxed);
        let filling = Filling::begin(written());
        let mut since = self.disk.monotonic();
        let mut between = |filled| {
            let worked = self.disk.monotonic().saturating_sub(since);
            let rest = filling.rest(filled, written(), worked);
            if !rest.is_zero() && !self.settling.is_stopped() {
                self.disk.pause(rest);
            }
            since = self.disk.monotonic();
        };
        self.disk.create_slot(slot, self.heading.slot_bytes, &mut between)
    }

    /// The last room on the disk is the settler's, and the journal does not grow while that makes more.
    fn leave_room(&self) -> Result<(), Lack> {
        if self.slots < SLOTS_MIN || !self.settling.is_on() {
            return Ok(());
        }
        let free = self.disk.free_bytes().map_err(|error| Lack::Other(error.to_string()))?;
        if self.settling.makes_room_below().is_some_and(|low| free < low) {
            return Err(Lack::Other("the disk is nearly full, and room is being made".to_owned()));
        }
        if free < self.heading.slot_bytes + PACK_SLOTS * self.heading.slot_bytes {
            return Err(Lack::Room(format!("the disk is full but for {free} bytes")));
        }
        Ok(())
    }

    fn prepare(&mut self, slot: SlotId, segment: SegmentNumber) -> io::Result<Prepared> {
        if self.settling.erasing().0 {
            self.empty(slot)?;
        }
        let was_empty = self.empty.remove(&slot);
        let handle = self.disk.open_slot(slot, Access::Write)?;
        let id = write_heading(&*self.disk, &*handle, slot, segment, &self.heading)?;
        self.prepared.insert(segment, slot);
        self.settling.prepared(segment, was_empty);
        Ok(Prepared { id, slot: handle })
    }

    fn write_index(&self, id: &SegmentId, index: &SegmentIndex) {
        let name = FileName::Index(id.number.0);
        if let Err(error) = self.disk.write_file(&name, &index_file::encode(id, index)) {
            // It is made again from the segment when it is missing.
            tracing::warn!("cannot write {}: {error}", name.path());
        }
    }

    fn segment_full(&mut self, full: &SegmentFull) {
        self.write_index(&full.id, &full.index);
        if let Some(checkpoint) = &full.checkpoint {
            self.note(checkpoint);
        }
    }

    /// Writes a checkpoint that nothing depends on: the next one comes with the next segment.
    fn note(&mut self, checkpoint: &Checkpoint) {
        if self.forgetting.is_none()
            && let Err(why) = self.write_checkpoint(checkpoint)
        {
            tracing::warn!("{why}");
        }
    }

    fn write_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), String> {
        let file = checkpoint.file();
        if let Some(torn) = self.torn.as_ref().filter(|torn| **torn != file) {
            return Err(format!("{} may be torn: {} must stay", torn.path(), file.path()));
        }
        let written = self.disk.write_file(&file, &checkpoint.encode());
        self.torn = written.is_err().then(|| file.clone());
        written.map_err(|error| format!("cannot write {}: {error}", file.path()))
    }

    /// Begins to give up the oldest segment: its live records go to the head of the log first.
    /// Says why it cannot be.
    fn drop_oldest(&mut self) -> Result<(), String> {
        if self.dropping {
            return Ok(());
        }
        if self.forgetting.is_some() {
            // To give up yet another one would make no room either.
            return Err("the segment given up last is not forgotten yet".to_owned());
        }
        let oldest = self.client.published.places.read().oldest();
        let oldest = oldest.ok_or_else(|| "there is no full segment to give up".to_owned())?;
        let oldest = oldest.home;
        self.move_live_records(oldest)?;
        self.dropping = true;
        let after_gathers = self.client.intake().gathers_ahead();
        self.client.driver.push(Input::DropOldest { oldest, after_gathers });
        Ok(())
    }

    /// Appends the live records of the segment again, each unless it was changed meanwhile. They
    /// go ahead of all that waits, into room that is kept for them, so that making room never
    /// waits for room; and into an earlier commit than the order to drop is carried out after.
    /// More than fits in there does not move.
    fn move_live_records(&self, oldest: Home) -> Result<(), String> {
        let moving = self.live_records_of(oldest);
        let kept_bytes = kept_bytes(self.heading.slot_bytes);
        let bytes = moving_bytes(&moving);
        if bytes > kept_bytes {
            return Err(format!(
                "the oldest segment holds {bytes} bytes of live keyed records, more than the \
                 {kept_bytes} that can move at once"
            ));
        }
        let mut buffer = Vec::new();
        for live in moving {
            let key = live.key.to_vec();
            let record = KeyValue { key: &live.key, value: Some(&live.value) };
            let record = record.encode(&mut buffer);
            let items = [Item::Record { partition: live.partition, record }];
            let last = Some(live.offset);
            let conditions = [Condition::LastOfKey { partition: live.partition, key, last }];
            let append = Append { conditions: &conditions, items: &items };
            let appended = self.client.append_ahead(append);
            appended.map_err(|error| format!("a live record of it cannot move: {error}"))?;
        }
        Ok(())
    }

    fn live_records_of(&self, oldest: Home) -> Vec<Moving> {
        let topics = self.client.published.topics.read();
        let places = self.client.published.places.read();
        let live = topics.catalog.live().iter();
        let moving = live.filter_map(|((partition, key), live)| {
            let row = topics.catalog.row(*partition)?;
            let next = places.first_after(row, oldest.number());
            let stays = next.is_some_and(|next| next <= live.offset);
            let value = if *partition == catalog::PARTITION {
                moved_value(&topics.catalog, key, &live.value)
            } else {
                live.value.clone()
            };
            let (key, offset) = (key.clone(), live.offset);
            (!stays).then_some(Moving { partition: *partition, key, value, offset })
        });
        moving.collect()
    }

    fn unlisted(&mut self, unlisted: &Unlisted, checkpoint: Checkpoint) {
        match unlisted {
            Unlisted::Dropped(_) => self.dropping = false,
            Unlisted::Settled(_) => self.settling.taken(),
            Unlisted::Refused(pack) => {
                tracing::info!("{pack} comes too late: what it holds was given up");
                self.settling.taken();
            }
            Unlisted::Erased => self.to_wipe = true,
        }
        // What could not be written down before is not named by this checkpoint either.
        let (mut homes, _) =
            self.forgetting.take().unwrap_or_else(|| (Vec::new(), checkpoint.clone()));
        homes.extend(unlisted.homes());
        self.forgetting = Some((homes, checkpoint));
    }

    /// Both checkpoints must forget what is out of the tables before it is freed.
    fn forget(&mut self) -> Result<(), String> {
        let Some((homes, mut checkpoint)) = self.forgetting.take() else { return Ok(()) };
        if self.torn.as_ref().is_some_and(|torn| *torn != checkpoint.file()) {
            checkpoint.sequence += 1;
        }
        for _ in 0..2 {
            if let Err(why) = self.write_checkpoint(&checkpoint) {
                self.forgetting = Some((homes, checkpoint));
                return Err(why);
            }
            checkpoint.sequence += 1;
        }
        for home in homes {
            match home {
                Home::Segment(id) => self.forgotten(id),
                Home::Pack(pack) => self.remove_pack(pack),
            }
        }
        Ok(())
    }

    /// No checkpoint names the pack any more. Who still reads it holds its file.
    fn remove_pack(&self, pack: PackId) {
        // What the reader keeps open would have the room go all at once.
        self.reader.forget_pack(pack);
        if let Err(error) = self.disk.give_back_pack(pack, &mut self.resting()) {
            // The next opening removes what nothing names.
            tracing::warn!("cannot remove {pack}: {error}");
        }
        // Whoever had found it before may have opened it meanwhile.
        self.reader.forget_pack(pack);
    }

    /// No checkpoint names the segment any more.
    fn forgotten(&mut self, id: SegmentId) {
        if let Err(error) = self.disk.remove_file(&FileName::Index(id.number.0)) {
            tracing::warn!("cannot remove the index of segment {}: {error}", id.number);
        }
        let pinned = self.reader.forget(id.number);
        let room = self.disk.free_bytes().unwrap_or(0);
        let free_max = match room >= PLENTY_SLOTS * self.heading.slot_bytes {
            true => FREE_SLOTS_MAX,
            false => FREE_SLOTS_MAX / 2,
        };
        if !pinned && self.free.len() < free_max {
            self.free.push_back(id.slot);
            return;
        }
        let removed = match pinned {
            true => self.disk.remove_slot(id.slot),
            false => self.disk.give_back_slot(id.slot, &mut self.resting()),
        };
        match removed {
            Ok(()) => self.slots -= 1,
            Err(error) => tracing::warn!("cannot remove {}: {error}", id.slot),
        }
    }

    /// Rests between the pieces of what is given back, unless the journal may need a slot soon or the
    /// log is closing.
    fn resting(&self) -> impl FnMut(u64) + '_ {
        let written = || self.counters.commit_bytes.load(Ordering::Relaxed);
        let hurry_from = written() + self.heading.slot_bytes / 2;
        move |_| {
            if written() < hurry_from && !self.settling.is_stopped() {
                self.disk.pause(GIVING_BACK_REST);
            }
        }
    }
}

/// Room at the end of each segment that only the log's own appends may use: for live records that
/// must move on before the oldest segment is given up.
pub(crate) fn kept_bytes(slot_bytes: u64) -> usize {
    let share = usize::try_from(slot_bytes / 16).expect("a slot has at most 1 GiB");
    share.max(512 << 10)
}

/// What the records take up in commits at most: each with its batch's header, entry and padding,
/// in commits of at least 128 KiB, of which each pads a page and may be followed by a mark.
fn moving_bytes(moving: &[Moving]) -> usize {
    let record = |live: &Moving| {
        let bytes = live.key.len() + live.value.len();
        bytes + bytes / (32 << 10) + 256
    };
    let bytes: usize = moving.iter().map(record).sum();
    bytes + (bytes / (128 << 10) + 1) * 3 * PAGE_BYTES
}

/// A live record on its way to the head of the log.
struct Moving {
    partition: PartitionId,
    key: Bytes,
    value: Bytes,
    offset: Offset,
}

/// A topic's record must carry its id along, which else follows from the offset.
fn moved_value(catalog: &catalog::Catalog, key: &[u8], value: &Bytes) -> Bytes {
    let name = key.strip_prefix(b"t").and_then(|name| str::from_utf8(name).ok());
    let topic = name.and_then(|name| catalog.topic(name));
    topic.map_or_else(|| value.clone(), |topic| catalog::moved_topic_value(topic).into())
}

/// Writes the header page of a slot for a segment, durably.
pub(crate) fn write_heading(
    disk: &dyn Disk,
    handle: &dyn Slot,
    slot: SlotId,
    number: SegmentNumber,
    heading: &Heading,
) -> io::Result<SegmentId> {
    let salt = Salt(disk.random());
    let header = SlotHeader {
        cluster: heading.cluster,
        slot,
        slot_bytes: heading.slot_bytes,
        segment: number,
        run: heading.run,
        salt,
        base: heading.base,
        skip: heading.skip,
    };
    handle.drop_cache()?;
    let mut page = crate::disk::PageBuffer::zeroed(PAGE_BYTES);
    page.copy_from_slice(&header.encode());
    handle.write(0, &page.freeze())?;
    Ok(SegmentId { number, slot, run: heading.run, salt })
}

/// Gives up a slot that cannot be prepared, and says so. Ok when its file is gone.
pub(crate) fn put_aside(disk: &dyn Disk, slot: SlotId, error: &io::Error) -> io::Result<()> {
    let removed = disk.remove_slot(slot).or_else(absent_is_fine);
    match &removed {
        Ok(()) => tracing::warn!("{slot} cannot be prepared and is removed: {error}"),
        Err(stays) => {
            tracing::warn!("{slot} cannot be prepared ({error}), nor removed: {stays}");
        }
    }
    removed
}

fn absent_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
