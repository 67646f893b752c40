//! The settler: makes packs of full segments, oldest first, when there are more of them than are to
//! stay hot or most of them can be read no more, and larger packs of smaller ones; gives up what is
//! beyond its topic's limits; and carries out what is to be erased (`erasing`).
//!
//! Promises
//! - A pack is written, made durable, read back and held against what was written before anybody
//!   hears of it. Until both checkpoints name it, its segments stay.
//! - What is trimmed, or belongs to topics that are gone, does not go into it. What is damaged is
//!   left out: readers are told that records are missing there.
//! - Segments go first: packs are merged only when none waits, and only while the disk has room for
//!   two of the largest pack.
//! - Before the disk is full (below `LOW_SLOTS` slots and two of the largest pack) all full segments
//!   are settled, and then topics that allow it give up their oldest records, pack by pack.
//! - What expires is first out of reach, then out of both checkpoints, and only then off the disk.
//! - What a pack says of message ids is in a filter before anybody hears of the pack.
//! - It never writes to the journal and never waits for it: when it falls behind, or fails, the
//!   journal grows. After a failure it tries again when the next segment is full.
//! - What the disk refused is left out only where it refuses it again behind all the rest, and where
//!   more of the segment could be read (`readings`): else it is not settled, and neither is any after
//!   it.
//!
//! A thread of its own drives it in a running log, the test itself elsewhere.

mod erasing;
mod readings;
mod retiring;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracklog_log::Extent;
use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};

use crate::disk::{BufferPool, Disk, FileName, PackId, Share, give_way};
use crate::intake_client::IntakeClient;
use crate::journal::appender::Counters;
use crate::journal::commit::{CommitNumber, Opened, Run, SegmentNumber};
use crate::journal::intake::Input;
use crate::journal::segment::ClusterId;
use crate::partition::places::{
    Home, Index, Listed, PartitionShare, Place, Reach, SegmentIndex, Unread,
};
use crate::published::Published;
use crate::read::Reader;
use crate::seen::event_ids::{IdKey, SettledIds};
use crate::settled::erasure::Erasures;
use crate::settled::expiry::Expiry;
use crate::settled::filters::{Filters, is_sound};
use crate::settled::frames::{self, Frames};
use crate::settled::ids::IdReader;
use crate::settled::merging::{self, Candidate, Room};
use crate::settled::pace::Pace;
use crate::settled::pack::{Batches, Frame, PackBuilder, PackHead, PackIndex};
use crate::settled::settler::erasing::Erasing;
use crate::settled::settler::readings::{Part, Readings};
use crate::settled::settler::retiring::Told;
use crate::settled::sources::{Heritage, Source, heritage};
use crate::settled::thinning::Thinning;
use crate::settled::witness::Witness;

/// One pack is made of no more of the journal.
const STRETCH_BYTES_MAX: u64 = 1 << 30;
/// So much of segments is read in before the first batch goes into a pack: what a machine with little
/// memory keeps until then.
const READ_IN_BYTES_MAX: u64 = 512 << 20;
/// So much of a segment is read at a time.
const READ_BYTES: u64 = 4 << 20;
/// What is kept of the frames of packs that are merged.
const FRAMES_BYTES: u64 = 8 << 20;
/// With room for fewer slots the disk counts as nearly full: one is being filled, one prepared, one is
/// the ballast, and in one a pack is made.
const LOW_SLOTS: u64 = 4;
/// How often it is looked what has come of age, where nothing else happens.
const EXPIRE_EVERY: Duration = Duration::from_secs(60);
/// So many partitions are told to the journal at a time.
const EXPIRE_AT_ONCE: usize = 1024;

/// How segments are settled.
#[derive(Clone, Debug)]
pub(crate) struct SettleOptions {
    /// The run, and what it stands on.
    pub(crate) run: Run,
    pub(crate) opened: Opened,
    pub(crate) cluster: ClusterId,
    pub(crate) id_key: IdKey,
    pub(crate) slot_bytes: u64,
    /// So many full segments stay as they are.
    pub(crate) hot_segments: u64,
    /// Of compression.
    pub(crate) level: i32,
    /// What filters of message ids may take of memory.
    pub(crate) ids_bytes: u64,
}

/// What passes between the settler and the keeper.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Segments are settled at all.
    is_on: bool,
    /// The last attempt to settle segments failed.
    failed: bool,
    /// The last look found the disk nearly full, which it is below so many bytes free, and something to
    /// do about it.
    making_room_below: Option<u64>,
    /// There may be something to settle.
    to_look: bool,
    /// A pack is made, and not listed or refused yet; or spare files are being wiped.
    is_pending: bool,
    /// Something is to be erased.
    is_erasing: bool,
    /// What came of wiping spare files, where nobody has asked yet.
    wiped: Option<Result<(), String>>,
    /// What erasing waits for, in words; `None` while it goes on.
    erasing_waits: Option<String>,
    /// Segments that began in slots full of zeros, the last few.
    began_empty: VecDeque<SegmentNumber>,
    stopped: bool,
}

/// More are never looked at: the segment being written, the next one, and those on their way.
const BEGAN_EMPTY_MAX: usize = 16;

impl Settling {
    pub(crate) fn new(is_on: bool) -> Self {
        Self { state: Mutex::new(State { is_on, ..State::default() }), changed: Condvar::new() }
    }

    /// Whether room in the journal comes by itself, when segments become packs.
    pub(crate) fn makes_room(&self) -> bool {
        let state = self.state.lock();
        (state.is_on || state.is_erasing) && !state.failed
    }

    /// Whether segments are settled: room for a pack is to be left then.
    pub(crate) fn is_on(&self) -> bool {
        self.state.lock().is_on
    }

    /// While room on a disk that is nearly full comes by itself, as packs are made and what may go is
    /// given up: the bytes free below which it is nearly full.
    pub(crate) fn makes_room_below(&self) -> Option<u64> {
        self.state.lock().making_room_below
    }

    /// Whether something is to be erased, and what it waits for, if it does.
    pub(crate) fn erasing(&self) -> (bool, Option<String>) {
        let state = self.state.lock();
        (state.is_erasing, state.erasing_waits.clone())
    }

    /// A slot is ready for this segment; whether it held nothing but zeros before.
    pub(crate) fn prepared(&self, segment: SegmentNumber, was_empty: bool) {
        let mut state = self.state.lock();
        if was_empty {
            state.began_empty.push_back(segment);
            let more = state.began_empty.len().saturating_sub(BEGAN_EMPTY_MAX);
            state.began_empty.drain(..more);
        }
    }

    /// What came of wiping spare files.
    pub(crate) fn wiped(&self, result: Result<(), String>) {
        let mut state = self.state.lock();
        state.wiped = Some(result);
        (state.is_pending, state.to_look) = (false, true);
        drop(state);
        self.changed.notify_all();
    }

    /// There may be something to settle now.
    pub(crate) fn look(&self) {
        self.state.lock().to_look = true;
        self.changed.notify_all();
    }

    /// The pack that was made is listed, or refused.
    pub(crate) fn taken(&self) {
        let mut state = self.state.lock();
        (state.is_pending, state.to_look) = (false, true);
        drop(state);
        self.changed.notify_all();
    }

    /// Ends the settler's thread after the frame that it is at.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Whether the log is closing.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// Waits until there may be something to do, or time has passed. False when it is to stop.
    fn wait(&self, at_most: Option<Duration>) -> bool {
        let mut state = self.state.lock();
        let mut is_late = false;
        loop {
            if state.stopped {
                return false;
            }
            if (state.to_look || is_late) && !state.is_pending {
                state.to_look = false;
                return true;
            }
            match at_most.filter(|_| !is_late) {
                Some(at_most) => is_late = self.changed.wait_for(&mut state, at_most).timed_out(),
                None => self.changed.wait(&mut state),
            }
        }
    }

    /// Whether there may be something to do.
    #[cfg(any(test, feature = "simulation"))]
    fn is_due(&self) -> bool {
        let mut state = self.state.lock();
        let due = state.to_look && !state.is_pending && !state.stopped;
        state.to_look &= !due;
        due
    }
}

/// See the head of this file.
pub(crate) struct Settler {
    disk: Arc<dyn Disk>,
    published: Arc<Published>,
    reader: Arc<Reader>,
    client: IntakeClient,
    settling: Arc<Settling>,
    options: SettleOptions,
    counters: Arc<Counters>,
    pace: Pace,
    /// A merge that failed.
    given_up: Option<PackId>,
    /// Whether something expires as time passes.
    expires: bool,
    /// What was known of settled ids before the last pack: freed here, and not by the journal.
    ids_before: Option<Arc<SettledIds>>,
    /// What is being erased.
    erasing: Option<Erasing>,
    /// Which empty packs are told to be gone.
    told: Option<Told>,
}

/// Why there is no pack.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Other(String),
    #[error("it is stopping")]
    Stopped,
}

/// Full segments or packs, side by side, that become one pack.
struct Stretch {
    pack: PackId,
    sources: Vec<Source>,
    run: Run,
    last: CommitNumber,
    /// What the journal took for them.
    journal_bytes: u64,
}

impl Settler {
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        published: Arc<Published>,
        reader: Arc<Reader>,
        client: IntakeClient,
        settling: Arc<Settling>,
        counters: Arc<Counters>,
        options: SettleOptions,
    ) -> Self {
        let pace = Pace::new(Arc::clone(&counters));
        Self {
            disk,
            published,
            reader,
            client,
            settling,
            options,
            counters,
            pace,
            given_up: None,
            expires: false,
            ids_before: None,
            erasing: None,
            told: None,
        }
    }

    /// Settles until it is stopped, on a thread that gives way to all others.
    pub(crate) fn run(&mut self) {
        give_way(Share::Small);
        while self.settling.wait(self.looks_by_itself().then_some(EXPIRE_EVERY)) {
            self.expire();
            self.settle();
        }
    }

    /// Whether something is to do as time passes.
    const fn looks_by_itself(&self) -> bool {
        self.expires || self.erasing.is_some()
    }

    /// Does what there is to do, and says whether there was something.
    #[cfg(any(test, feature = "simulation"))]
    pub(crate) fn turn(&mut self) -> bool {
        if self.settling.is_due() {
            self.expire();
            return self.settle();
        }
        false
    }

    /// Gives up what is beyond the limits of its topic.
    fn expire(&mut self) {
        let expiry = self.expiry();
        let (any_ages, starts) = (expiry.any_ages(), expiry.starts());
        self.expires = any_ages;
        match starts {
            Ok(starts) => self.start_later(&starts),
            Err(error) => tracing::warn!("cannot tell what is expired: {error}"),
        }
    }

    fn expiry(&self) -> Expiry<'_> {
        Expiry::new(&self.published, &self.reader, self.disk.now())
    }

    /// Has the journal raise the starts of partitions. It tells the keeper, and so the settler, when
    /// that is done.
    fn start_later(&self, starts: &[(PartitionId, Offset)]) {
        for some in starts.chunks(EXPIRE_AT_ONCE) {
            self.client.driver.push(Input::Expired(some.to_vec()));
        }
    }

    /// The bytes free below which the disk counts as nearly full.
    fn low_bytes(&self) -> u64 {
        let packs = self.published.places.read().settled();
        let largest = packs.iter().map(|(_, head)| head.file_bytes).max().unwrap_or(0);
        LOW_SLOTS * self.options.slot_bytes + 2 * largest
    }

    /// Has topics that allow it give up what they hold of the oldest pack that has something of
    /// theirs. Says whether there is one.
    fn give_up(&self, free_bytes: u64) -> bool {
        let Some((pack, starts)) = self.expiry().for_room(free_bytes) else { return false };
        tracing::warn!(%pack, free_bytes, "the disk is nearly full: what may go of it goes");
        self.start_later(&starts);
        true
    }

    /// How much of a pack is expired, where its index can be read.
    fn expired_percent(&self, pack: Unread) -> Option<u64> {
        let index = self.pack_index(pack)?;
        Some(self.reach(&index.shares).expired_percent())
    }

    /// How much can be read of what lies in these places.
    fn reach(&self, shares: &[PartitionShare]) -> Reach {
        let topics = self.published.topics.read();
        Reach::of(shares, |partition| topics.extent(partition).map(|it| it.start))
    }

    /// What decides whether a pack is merged; none where its index cannot be read.
    fn candidate(&self, pack: Unread, head: &PackHead) -> Option<Candidate> {
        let index = self.pack_index(pack)?;
        Some(Candidate {
            file_bytes: head.file_bytes,
            space_bytes: index.frames.last().map_or(0, Frame::space_end),
            expired_percent: self.expired_percent(pack)?,
        })
    }

    fn pack_index(&self, pack: Unread) -> Option<Arc<PackIndex>> {
        match self.reader.read_index(pack) {
            Ok(Index::Pack(index)) if !index.is_missing() => Some(index),
            _ => None,
        }
    }

    /// Makes one pack, if there is something to make one of. Says whether there was.
    fn settle(&mut self) -> bool {
        if self.take_out_spent() || self.erase() {
            return true;
        }
        let low_bytes = self.low_bytes();
        let (room, free_bytes) = match self.disk.free_bytes() {
            Ok(free) if free < low_bytes && self.settling.is_on() => (Room::Short, free),
            Ok(free) => (Room::Plenty, free),
            Err(error) => {
                tracing::warn!("cannot tell how much room there is: {error}");
                (Room::Plenty, 0)
            }
        };
        let segments = self.segments_to_settle(room, free_bytes).unwrap_or_else(|why| {
            self.settling.state.lock().failed = true;
            tell(&why)
        });
        let stretch = match segments {
            Some(segments) => Some(segments),
            None => self.packs_to_merge(room).unwrap_or_else(|why| tell(&why)),
        };
        let stretch = stretch.filter(|stretch| self.given_up != Some(stretch.pack));
        let (is_tried, went) = match stretch {
            Some(stretch) => (true, self.settle_stretch(&stretch)),
            None => (false, room == Room::Short && self.give_up(free_bytes)),
        };
        let makes_room = room == Room::Short && went;
        self.settling.state.lock().making_room_below = makes_room.then_some(low_bytes);
        is_tried
    }

    /// The oldest segments that do not stay hot. Where room is short none does, as far as there is room
    /// for what they become.
    fn segments_to_settle(&self, room: Room, free_bytes: u64) -> Result<Option<Stretch>, Failure> {
        let slots = |slots: u64| usize::try_from(slots).unwrap_or(usize::MAX);
        let hot = slots(self.options.hot_segments);
        self.full_segments(|full| match room {
            // Indexes of what stays hot are looked at only where nothing else waits.
            Room::Plenty => match full.saturating_sub(hot) {
                0 => self.spent_segments(),
                beyond => beyond,
            },
            Room::Short => full.min(slots(free_bytes / self.options.slot_bytes)),
        })
    }

    /// How many of the oldest full segments hold mostly what nobody can read any more: as packs they
    /// give back more than they take.
    fn spent_segments(&self) -> usize {
        let full = self.published.places.read().settleable();
        let mut spent = 0;
        for (at, unread) in full.into_iter().take(self.segments_at_once()).enumerate() {
            let Ok(index) = self.reader.read_index(unread) else { break };
            let reach = self.reach(index.shares());
            if reach.is_mostly_expired() {
                spent = at + 1;
            } else if reach.all_bytes > 0 {
                break;
            }
        }
        spent
    }

    /// One pack is made of no more segments.
    fn segments_at_once(&self) -> usize {
        let most = usize::try_from(STRETCH_BYTES_MAX / self.options.slot_bytes).unwrap_or(1);
        most.max(1)
    }

    /// Makes one pack. Says whether it is there.
    fn settle_stretch(&mut self, stretch: &Stretch) -> bool {
        let is_merge = matches!(stretch.sources.first(), Some(Source { home: Home::Pack(_), .. }));
        match self.make(stretch).and_then(|(index, any_new)| self.with_ids(index, any_new)) {
            Ok((index, ids)) => {
                self.given_up = None;
                self.note_told(index.head.id);
                {
                    let mut state = self.settling.state.lock();
                    state.is_pending = true;
                    state.failed &= is_merge;
                }
                let PackHead { records, journal_bytes, file_bytes, .. } = index.head;
                let (pack, sources) = (stretch.pack, stretch.sources.len());
                tracing::info!(%pack, sources, records, journal_bytes, file_bytes, "settled");
                self.client.driver.push(Input::Settled { pack, index, ids });
                true
            }
            Err(why) => {
                if !matches!(why, Failure::Stopped) {
                    tracing::warn!("{} was not made: {why}", stretch.pack);
                    // A merge makes no room in the journal, and is tried again behind the next pack.
                    self.given_up = is_merge.then_some(stretch.pack);
                    self.settling.state.lock().failed |= !is_merge;
                }
                // What is made next may have the same name.
                self.reader.forget_pack(stretch.pack);
                if let Err(error) = self.disk.remove_file(&FileName::Pack(stretch.pack)) {
                    // The next opening removes what nothing names.
                    tracing::warn!("cannot remove {}: {error}", stretch.pack);
                }
                false
            }
        }
    }

    /// The oldest segments: of those that are full as many as `count` says, as far as one pack may
    /// hold them.
    fn full_segments(&self, count: impl Fn(usize) -> usize) -> Result<Option<Stretch>, Failure> {
        let full = self.published.places.read().settleable();
        let count = count(full.len()).min(self.segments_at_once());
        let mut sources = Vec::with_capacity(count);
        let mut last = None;
        for unread in full.into_iter().take(count) {
            let index = self.reader.read_index(unread)?;
            if matches!(&index, Index::Segment(index) if index.commits.is_empty()) {
                break;
            }
            sources.push(Source { home: unread.home, index });
            last = Some(unread);
        }
        let (Some(last), Some(first)) = (last, sources.first()) else { return Ok(None) };
        let (first, end) = (first.home.number().0, last.home.number().0);
        Ok(Some(Stretch {
            pack: PackId { first, last: end, generation: 1 },
            run: last.run,
            last: last.last,
            journal_bytes: sources.len() as u64 * self.options.slot_bytes,
            sources,
        }))
    }

    /// Packs that are to become one.
    fn packs_to_merge(&self, room: Room) -> Result<Option<Stretch>, Failure> {
        let mut packs = Vec::new();
        let mut candidates = Vec::new();
        let mut chosen = None;
        let listed = self.published.places.read().settled();
        for (unread, head) in listed {
            if let Some(candidate) = self.candidate(unread, &head) {
                packs.push((unread, head));
                candidates.push(candidate);
                continue;
            }
            // What cannot be read now may be put back: it keeps its place, and parts the others.
            chosen = merging::choose(&candidates, room);
            if chosen.is_some() {
                break;
            }
            packs.clear();
            candidates.clear();
        }
        let chosen = chosen.or_else(|| merging::choose(&candidates, room));
        let Some(chosen) = chosen else { return Ok(None) };
        let bytes = match &candidates[chosen.clone()] {
            // It gives back more than it takes: the room that is left for a pack is for this.
            [alone] => alone.file_bytes * (100 - alone.expired_percent) / 100,
            together => {
                let bytes: u64 = together.iter().map(|pack| pack.file_bytes).sum();
                2 * bytes + self.options.slot_bytes
            }
        };
        self.stretch_of(&packs[chosen], bytes)
    }

    /// Packs, side by side, as what one pack is made of; none while the disk has no room for so many
    /// bytes.
    fn stretch_of(
        &self,
        packs: &[(Unread, PackHead)],
        bytes: u64,
    ) -> Result<Option<Stretch>, Failure> {
        let heads = || packs.iter().map(|(_, head)| head);
        if self.disk.free_bytes()? < bytes {
            return Ok(None);
        }
        let sources = packs.iter().map(|(unread, _)| {
            let index = self.reader.read_index(*unread)?;
            Ok(Source { home: unread.home, index })
        });
        let sources = sources.collect::<Result<Vec<_>, Failure>>()?;
        let (Some((_, first)), Some((_, last))) = (packs.first(), packs.last()) else {
            return Ok(None);
        };
        let generation = if packs.len() == 1 { first.id.generation + 1 } else { 1 };
        Ok(Some(Stretch {
            pack: PackId { first: first.id.first, last: last.id.last, generation },
            run: last.run,
            last: last.last,
            journal_bytes: heads().map(|head| head.journal_bytes).sum(),
            sources,
        }))
    }

    /// Makes the pack. Says besides whether it names ids that no pack's index named before.
    fn make(&mut self, stretch: &Stretch) -> Result<(PackIndex, bool), Failure> {
        let SettleOptions { cluster, id_key, level, .. } = self.options;
        let mut builder = PackBuilder::new(&*self.disk, (cluster, id_key), stretch.pack, level)?;
        let shares = stretch.sources.iter().flat_map(|source| source.index.shares());
        let partitions: BTreeSet<PartitionId> = shares.map(|share| share.partition).collect();
        let frames = self.reader.frames_apart(FRAMES_BYTES);
        let oldest = self.published.places.read().oldest().map(|oldest| oldest.home);
        let is_oldest = oldest == stretch.sources.first().map(|source| source.home);
        let erasures = self.erasures();
        let mut readings: Vec<_> = stretch.sources.iter().map(|_| Readings::default()).collect();
        let mut any_new = false;
        let sources = stretch.sources.iter();
        let indexed: Vec<_> = sources.map(|it| pack_with_ids(it, &self.reader)).collect();
        for pack in indexed.iter().flatten() {
            self.merge_ids(&mut builder, pack)?;
        }
        self.read_in(&stretch.sources);
        for partition in partitions {
            let Some(extent) = self.extent(partition) else { continue };
            let finds_ids = self.knows_ids(partition.topic);
            if finds_ids {
                builder.cover_ids(partition.topic);
            }
            let published = Arc::clone(&self.published);
            let doomed = erasures.of_partition(partition, extent.start);
            let mut thinning = Thinning::new(&published, (partition, &doomed), is_oldest);
            let sources = stretch.sources.iter().zip(&indexed);
            for ((source, pack), readings) in sources.zip(&mut readings) {
                if let Some(share) = source.index.share(partition) {
                    let is_indexed = covers(pack.as_deref(), partition.topic);
                    builder.set_finds_ids(finds_ids && !is_indexed);
                    any_new |= finds_ids && !is_indexed;
                    let to = (&mut builder, &mut thinning);
                    self.copy(to, (source, share, extent.start), readings, &frames)?;
                }
            }
            thinning.finish(&mut builder)?;
        }
        for readings in readings {
            readings.losses_are_for_good(&self.reader, &frames).map_err(Failure::Other)?;
        }
        let newest = stretch.sources.last().expect("a stretch has sources");
        let head = PackHead {
            id: stretch.pack,
            run: stretch.run,
            last: stretch.last,
            append_time_last: newest.index.append_time_last(),
            batches: 0,
            records: 0,
            journal_bytes: stretch.journal_bytes,
            file_bytes: 0,
        };
        let current = (self.options.run, &self.options.opened);
        let Heritage { runs, commits } = heritage(&*self.disk, &stretch.sources, current)?;
        let index = builder.finish(head, (runs, commits), &self.witness(stretch.pack))?;
        self.counters.packs_made_bytes.fetch_add(index.head.file_bytes, Ordering::Relaxed);
        self.check(&index)?;
        Ok((index, any_new))
    }

    /// The log as it is now, for a pack that is made: what lies before it and is empty counts as gone.
    fn witness(&self, pack: PackId) -> Witness {
        let empty = self.empty_before(pack);
        let producers = self.published.sealed.lock().clone();
        let topics = self.published.topics.read();
        let places = self.published.places.read();
        let run = self.options.run;
        let segments = places.listed();
        let published = segments.iter().rev().find(|it| it.last != CommitNumber::NONE);
        let alone =
            |it: &Listed| PackId { first: it.id.number.0, last: it.id.number.0, generation: 0 };
        let packs = places.packs().into_iter().map(|head| head.id);
        let packs = packs.filter(|pack| !empty.contains(pack));
        let extents =
            topics.catalog.partitions().map(|(row, partition)| (partition, topics.extent_of(row)));
        Witness {
            run,
            published: published
                .filter(|it| it.id.run == run)
                .map_or(CommitNumber::NONE, |it| it.last),
            opened: self.options.opened.clone(),
            producers,
            topics: topics.catalog.topics().cloned().collect(),
            listed: packs.chain(segments.iter().map(alone)).collect(),
            partitions: extents.filter(|(_, extent)| extent.end > Offset::ZERO).collect(),
        }
    }

    /// Whether the events of a topic are known by their message ids.
    fn knows_ids(&self, topic: TopicId) -> bool {
        self.published.topics.read().catalog.dedupe_window(topic).is_some()
    }

    /// Has the new pack take over what a pack says of ids.
    fn merge_ids(&self, builder: &mut PackBuilder, pack: &Arc<PackIndex>) -> io::Result<()> {
        let topics = pack.ids.iter().flat_map(|ids| ids.topics().iter().copied());
        let topics = topics.filter(|topic| self.knows_ids(*topic)).collect();
        let file = self.reader.pack_file(pack.head.id)?;
        builder.merge_ids(IdReader::new(Arc::clone(pack), file), topics);
        Ok(())
    }

    /// The pack, and which ids there may be in packs when it is listed.
    fn with_ids(
        &mut self,
        index: PackIndex,
        any_new: bool,
    ) -> Result<(Arc<PackIndex>, Arc<SettledIds>), Failure> {
        let index = Arc::new(index);
        let before = self.published.ids.settled();
        let through = before.through.max(SegmentNumber(index.head.id.last));
        let mut spans = before.spans.clone();
        let window = self.published.topics.read().catalog.dedupe_window_max();
        if let Some(window) = window.filter(|_| any_new && index.ids.is_some()) {
            // Whatever the clock does: what is older than this is out of the window.
            let not_before = index.head.append_time_last.minus(window);
            let filters = Filters {
                packs: &self.packs_since(not_before, &index)?,
                open: &|pack| self.reader.pack_file(pack),
                window,
                not_before,
                bytes_max: self.options.ids_bytes,
            };
            spans = filters.with(spans, &index)?;
        }
        self.ids_before = Some(before);
        Ok((index, Arc::new(SettledIds { through, spans })))
    }

    /// The packs of the window, with a new one in the place of those that it covers.
    fn packs_since(
        &self,
        not_before: TimeMicros,
        new: &Arc<PackIndex>,
    ) -> Result<Vec<Arc<PackIndex>>, Failure> {
        let listed = self.published.places.read().settled();
        let counts =
            |head: &PackHead| head.append_time_last >= not_before && !new.head.id.covers(&head.id);
        let listed = listed.into_iter().filter(|(_, head)| counts(head));
        let mut packs = vec![Arc::clone(new)];
        packs.extend(listed.filter_map(|(unread, _)| self.pack_index(unread)));
        packs.sort_by_key(|pack| pack.head.id.last);
        Ok(packs)
    }

    /// All that is to be erased.
    fn erasures(&self) -> Erasures {
        self.published.topics.read().catalog.erasures()
    }

    /// Where the partition starts; `None` when its topic is gone.
    fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.published.topics.read().extent(partition)
    }

    /// Has segments read in as they lie, before their batches are read one partition after the other:
    /// the first of them, as far as most of what is read goes into the pack.
    fn read_in(&mut self, sources: &[Source]) {
        let reader = Arc::clone(&self.reader);
        let mut left_bytes = READ_IN_BYTES_MAX;
        for source in sources {
            let (Home::Segment(id), Index::Segment(index)) = (source.home, &source.index) else {
                continue;
            };
            let end = self.most_of(index);
            let fits = left_bytes.checked_sub(end);
            let Some(left) = fits.filter(|_| !self.settling.is_stopped()) else { return };
            left_bytes = left;
            let mut began = self.disk.monotonic();
            reader.read_in(id, end, || {
                self.breathe(began);
                began = self.disk.monotonic();
                !self.settling.is_stopped()
            });
        }
    }

    /// Where the last batch of a segment ends that goes into a pack; 0 where most of what lies before
    /// that does not.
    fn most_of(&self, index: &SegmentIndex) -> u64 {
        let (mut bytes, mut end) = (0, 0);
        for share in &index.shares {
            if self.extent(share.partition).is_some_and(|extent| extent.start < share.end) {
                bytes += share.places.iter().map(|it| u64::from(it.batch_bytes)).sum::<u64>();
                end = share.places.iter().map(Place::end).fold(end, u64::max);
            }
        }
        if bytes > end / 2 { end } else { 0 }
    }

    /// Copies a partition's batches of one source, but for those below its start, and notes how they
    /// could be read.
    fn copy<'a>(
        &mut self,
        (builder, thinning): (&mut PackBuilder, &mut Thinning<'_>),
        (source, share, start): (&'a Source, &'a PartitionShare, Offset),
        readings: &mut Readings<'a>,
        frames: &Frames,
    ) -> Result<(), Failure> {
        let mut rest = &share.places[..];
        while !rest.is_empty() {
            if self.settling.is_stopped() {
                return Err(Failure::Stopped);
            }
            let began = self.disk.monotonic();
            let mut bytes = 0;
            let fits = rest.iter().take_while(|place| {
                bytes += u64::from(place.batch_bytes);
                bytes <= READ_BYTES
            });
            let (now, later) = rest.split_at(fits.count().max(1));
            let end = later.first().map_or(share.end, |next| next.base_offset);
            rest = later;
            if end <= start {
                continue;
            }
            let part = Part { source, partition: share.partition, places: now, end };
            let batches = part.read(&self.reader, frames).map_err(Failure::Other)?;
            readings.note(part, &batches);
            for batch in batches {
                match batch {
                    Ok(batch) if batch.end_offset() <= start => {}
                    Ok(batch) => thinning.take(batch, builder)?,
                    Err(loss) => tracing::warn!("left out of a pack: {loss}"),
                }
            }
            self.breathe(began);
        }
        Ok(())
    }

    /// Rests after what began then, where the journal feels it.
    fn breathe(&mut self, began: Duration) {
        let rest = self.pace.rest(self.disk.monotonic().saturating_sub(began));
        if !rest.is_zero() {
            self.disk.pause(rest);
        }
    }

    /// Reads the pack back from the disk, and finds in it what was written.
    fn check(&mut self, written: &PackIndex) -> Result<(), Failure> {
        let pack = written.head.id;
        let file = self.disk.open_pack(pack)?;
        let index = PackIndex::read(&*file, self.options.cluster, pack);
        let index = index.map_err(|error| Failure::Other(error.to_string()))?;
        if index != *written {
            return Err(Failure::Other("it reads otherwise than it was written".to_owned()));
        }
        let index = Arc::new(index);
        if index.ids.is_some() && !is_sound(&index, &|pack| self.disk.open_pack(pack)) {
            return Err(Failure::Other("its ids read otherwise than they were written".to_owned()));
        }
        let pool = BufferPool::new(READ_BYTES as usize);
        let mut records = 0;
        for frame in &index.frames {
            if self.settling.is_stopped() {
                return Err(Failure::Stopped);
            }
            let began = self.disk.monotonic();
            let bytes = frames::decode(&*file, frame, &pool)?;
            for batch in Batches::new(bytes) {
                records += u64::from(batch.map_err(Failure::Other)?.count());
            }
            self.breathe(began);
        }
        if records == written.head.records {
            Ok(())
        } else {
            Err(Failure::Other(format!("it holds {records} records, not {}", written.head.records)))
        }
    }
}

/// The pack of a source, where it is one whose index of ids can be read.
fn pack_with_ids(source: &Source, reader: &Reader) -> Option<Arc<PackIndex>> {
    let Index::Pack(pack) = &source.index else { return None };
    is_sound(pack, &|pack| reader.pack_file(pack)).then(|| Arc::clone(pack))
}

/// Whether all events of a topic are in the index of ids of a pack.
fn covers(pack: Option<&PackIndex>, topic: TopicId) -> bool {
    pack.and_then(|pack| pack.ids.as_ref()).is_some_and(|ids| ids.covers(topic))
}

/// Tells why nothing can be settled.
fn tell<T>(why: &Failure) -> Option<T> {
    tracing::warn!("cannot settle: {why}");
    None
}
