//! Where each partition's batches lie: 16 bytes for each batch, segment by segment.
//!
//! Promises
//! - A place is listed only when its commit is published.
//! - Offsets in a partition's list rise strictly; a jump means that records are lost there.
//! - The lists of full segments together stay below a byte budget: those not used lately are
//!   dropped and read again from the segment's index file, or from the segment itself.
//!
//! Called by the journal (publish, roll), recovery (build) and the read path (plan).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hint::black_box;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};

use crate::catalog::{Catalog, ROWS_TOUCHED, Row};
use crate::disk::{PackId, SlotId};
use crate::journal::commit::{
    CommitHeader, CommitNumber, DirectoryEntry, Run, Salt, SegmentNumber,
};
use crate::settled::pack::{Frame, PackHead, PackIndex};

/// Where a batch lies in its segment, or a stretch of batches in the space of its pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) base_offset: Offset,
    /// In units of 8 bytes: a slot has at most 1 GiB, a pack's space 32 GiB.
    at8: u32,
    pub(crate) batch_bytes: u32,
}

const _: () = assert!(size_of::<Place>() == 16);

impl Place {
    pub(crate) fn new(header: &CommitHeader, entry: &DirectoryEntry) -> Self {
        let at = header.position + entry.place;
        Self::at_position(entry.base_offset, at, entry.batch_bytes)
            .expect("batches lie at multiples of 8")
    }

    /// The place that begins at `unit`, in units of 8 bytes.
    pub(crate) const fn at_unit(base_offset: Offset, unit: u32, batch_bytes: u32) -> Self {
        Self { base_offset, at8: unit, batch_bytes }
    }

    /// The place of the batch that begins at `at` in its segment; `None` where none can begin.
    pub(crate) fn at_position(base_offset: Offset, at: u32, batch_bytes: u32) -> Option<Self> {
        at.is_multiple_of(8).then_some(Self { base_offset, at8: at / 8, batch_bytes })
    }

    /// Where in the segment, or in the pack's space, it begins.
    pub(crate) const fn at(&self) -> u64 {
        self.at8 as u64 * 8
    }

    /// The same in units of 8 bytes, as a field.
    pub(crate) const fn unit(&self) -> u32 {
        self.at8
    }

    /// Where in the segment it begins, as a field.
    pub(crate) const fn position(&self) -> u32 {
        self.at8 * 8
    }

    /// Where in the segment it ends.
    pub(crate) const fn end(&self) -> u64 {
        self.at() + self.batch_bytes as u64
    }
}

/// A commit of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitPlace {
    pub(crate) number: CommitNumber,
    pub(crate) append_time: TimeMicros,
    pub(crate) position: u32,
    pub(crate) commit_bytes: u32,
}

/// A segment as the tables know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentId {
    pub(crate) number: SegmentNumber,
    pub(crate) slot: SlotId,
    pub(crate) run: Run,
    pub(crate) salt: Salt,
}

/// What holds a stretch of the log: a segment, or the pack that took the place of some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    Segment(SegmentId),
    Pack(PackId),
}

impl Home {
    /// By which it is known: a segment's own number, of a pack that of the last segment in it.
    pub(crate) const fn number(&self) -> SegmentNumber {
        match self {
            Self::Segment(id) => id.number,
            Self::Pack(pack) => SegmentNumber(pack.last),
        }
    }
}

impl fmt::Display for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(id) => write!(f, "segment {} ({})", id.number, id.slot),
            Self::Pack(pack) => write!(f, "{pack}"),
        }
    }
}

/// Where everything lies in a segment, or in a pack.
#[derive(Clone, Debug)]
pub(crate) enum Index {
    Segment(Arc<SegmentIndex>),
    Pack(Arc<PackIndex>),
}

impl Index {
    pub(crate) fn share(&self, partition: PartitionId) -> Option<&PartitionShare> {
        match self {
            Self::Segment(index) => index.share(partition),
            Self::Pack(index) => index.share(partition),
        }
    }

    pub(crate) fn shares(&self) -> &[PartitionShare] {
        match self {
            Self::Segment(index) => &index.shares,
            Self::Pack(index) => &index.shares,
        }
    }

    fn memory_bytes(&self) -> u64 {
        match self {
            Self::Segment(index) => index.memory_bytes(),
            Self::Pack(index) => index.memory_bytes(),
        }
    }

    /// What each topic takes on the disk, in order of topics.
    fn topic_bytes(&self) -> Vec<(TopicId, u64)> {
        let mut topics: Vec<(TopicId, u64)> = Vec::new();
        let mut add = |topic: TopicId, bytes: u64| match topics.last_mut() {
            Some((last, sum)) if *last == topic => *sum += bytes,
            _ => topics.push((topic, bytes)),
        };
        match self {
            Self::Segment(index) => {
                for share in &index.shares {
                    let bytes = share.places.iter().map(|place| u64::from(place.batch_bytes)).sum();
                    add(share.partition.topic, bytes);
                }
            }
            Self::Pack(index) => index.topic_bytes(add),
        }
        topics
    }

    /// The greatest append time.
    pub(crate) fn append_time_last(&self) -> TimeMicros {
        match self {
            Self::Segment(index) => index.append_time_last(),
            Self::Pack(index) => index.head.append_time_last,
        }
    }

    /// Whether it is of what is listed there: a pack may have come in the place of a segment.
    fn is_of(&self, home: &Home) -> bool {
        match (self, home) {
            (Self::Segment(_), Home::Segment(_)) => true,
            (Self::Pack(index), Home::Pack(pack)) => index.head.id == *pack,
            _ => false,
        }
    }

    /// Its last commit.
    pub(crate) fn last(&self) -> CommitNumber {
        match self {
            Self::Segment(index) => index.last(),
            Self::Pack(index) => index.head.last,
        }
    }
}

/// One partition's share of a segment, or of a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionShare {
    pub(crate) partition: PartitionId,
    /// The greatest event time in it; `i64::MIN` where there is none.
    pub(crate) event_time_max: TimeMicros,
    pub(crate) places: Vec<Place>,
    /// The offset after its last record.
    pub(crate) end: Offset,
}

/// How much of what lies in a segment, or in a pack, can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// What all batches take, uncompressed.
    pub(crate) all_bytes: u64,
    /// What those of them take that lie below their partition's start.
    pub(crate) expired_bytes: u64,
}

impl Reach {
    /// `start` tells where a partition starts; of those that are gone nothing.
    pub(crate) fn of(
        shares: &[PartitionShare],
        start: impl Fn(PartitionId) -> Option<Offset>,
    ) -> Self {
        let mut reach = Self::default();
        for share in shares {
            let start = start(share.partition).unwrap_or(Offset(u64::MAX));
            let ends = share.places.iter().skip(1).map(|next| next.base_offset).chain([share.end]);
            for (place, end) in share.places.iter().zip(ends) {
                let bytes = u64::from(place.batch_bytes);
                reach.all_bytes += bytes;
                reach.expired_bytes += if end <= start { bytes } else { 0 };
            }
        }
        reach
    }

    /// What is expired, in hundredths: 0 only where all can be read, 100 where nothing lies.
    pub(crate) fn expired_percent(&self) -> u64 {
        let percent = (self.expired_bytes * 100).checked_div(self.all_bytes);
        percent.unwrap_or(100).max(u64::from(self.expired_bytes > 0))
    }

    /// Whether more than half is expired.
    pub(crate) const fn is_mostly_expired(&self) -> bool {
        self.expired_bytes > self.all_bytes / 2
    }
}

/// All batches of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentIndex {
    pub(crate) commits: Vec<CommitPlace>,
    /// By partition.
    pub(crate) shares: Vec<PartitionShare>,
    /// The hash of the last commit's header.
    pub(crate) last_hash: u64,
}

impl SegmentIndex {
    pub(crate) fn share(&self, partition: PartitionId) -> Option<&PartitionShare> {
        let at = self.shares.binary_search_by_key(&partition, |share| share.partition).ok()?;
        self.shares.get(at)
    }

    /// The number of its last commit.
    pub(crate) fn last(&self) -> CommitNumber {
        self.commits.last().map_or(CommitNumber::NONE, |commit| commit.number)
    }

    fn memory_bytes(&self) -> u64 {
        let places: usize = self.shares.iter().map(|share| share.places.len()).sum();
        let shares = self.shares.len() * size_of::<PartitionShare>();
        let commits = self.commits.len() * size_of::<CommitPlace>();
        (places * size_of::<Place>() + shares + commits) as u64
    }

    /// The greatest append time.
    pub(crate) fn append_time_last(&self) -> TimeMicros {
        self.commits.last().map_or(TimeMicros(i64::MIN), |commit| commit.append_time)
    }
}

/// Builds a [`SegmentIndex`] commit by commit.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder {
    commits: Vec<CommitPlace>,
    shares: BTreeMap<PartitionId, PartitionShare>,
    last_hash: u64,
}

impl IndexBuilder {
    pub(crate) fn add(&mut self, header: &CommitHeader, entries: &[DirectoryEntry]) {
        self.last_hash = header.hash();
        self.commits.push(commit_place(header));
        for entry in entries {
            let share = self.shares.entry(entry.partition).or_insert_with(|| PartitionShare {
                partition: entry.partition,
                event_time_max: TimeMicros(i64::MIN),
                places: Vec::new(),
                end: Offset::ZERO,
            });
            share.places.push(Place::new(header, entry));
            share.event_time_max = share.event_time_max.max(entry.event_time_max);
            share.end = entry.end_offset();
        }
    }

    pub(crate) fn finish(self) -> SegmentIndex {
        SegmentIndex {
            commits: self.commits,
            shares: self.shares.into_values().collect(),
            last_hash: self.last_hash,
        }
    }
}

const fn commit_place(header: &CommitHeader) -> CommitPlace {
    CommitPlace {
        number: header.number,
        append_time: header.append_time,
        position: header.position,
        commit_bytes: header.commit_bytes,
    }
}

/// The segment that is being written.
#[derive(Debug)]
struct Active {
    id: SegmentId,
    commits: Vec<CommitPlace>,
    /// By row.
    rows: Vec<ActiveShare>,
    touched: Vec<Row>,
    last_hash: u64,
}

impl Active {
    /// Has the shares of some partitions fetched, and the ends of their lists, all at once.
    fn touch(&self, entries: &[(Row, DirectoryEntry)]) {
        let shares = || entries.iter().map(|(row, _)| &self.rows[row.index()]);
        black_box(shares().fold(0, |any, share| any ^ share.end.0));
        let last = |share: &ActiveShare| share.places.last().map_or(0, |last| last.base_offset.0);
        black_box(shares().fold(0, |any, share| any ^ last(share)));
    }
}

#[derive(Clone, Debug)]
struct ActiveShare {
    places: Vec<Place>,
    event_time_max: TimeMicros,
    end: Offset,
}

impl ActiveShare {
    const fn new() -> Self {
        Self { places: Vec::new(), event_time_max: TimeMicros(i64::MIN), end: Offset::ZERO }
    }
}

/// A full segment, or a pack.
#[derive(Debug)]
struct Full {
    home: Home,
    append_time_last: TimeMicros,
    run: Run,
    last: CommitNumber,
    /// Of a pack.
    head: Option<PackHead>,
    /// It is a pack that could not be read.
    is_missing: bool,
    /// What each topic takes of it on the disk.
    topics: Arc<[(TopicId, u64)]>,
    index: Option<Index>,
    used: AtomicU64,
}

impl Full {
    const fn unread(&self) -> Unread {
        Unread { home: self.home, run: self.run, last: self.last }
    }
}

/// The places of all partitions.
#[derive(Debug)]
pub(crate) struct Places {
    full: BTreeMap<SegmentNumber, Full>,
    active: Option<Active>,
    /// Empty shares for the next segment, by row: what the last one left.
    spare: Vec<ActiveShare>,
    /// By row: the full segments and packs in which the partition has batches, with its first
    /// offset there.
    segments: Vec<VecDeque<(SegmentNumber, Offset)>>,
    index_bytes: u64,
    index_bytes_max: u64,
    clock: AtomicU64,
}

/// What is listed of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub(crate) id: SegmentId,
    /// Its last commit; [`CommitNumber::NONE`] when there is none yet.
    pub(crate) last: CommitNumber,
    /// Where that ends, if it is known.
    pub(crate) end: Option<u64>,
    pub(crate) is_active: bool,
}

/// Indexes that one reader holds while it works, whatever the budget does meanwhile.
pub(crate) type Held = BTreeMap<SegmentNumber, Index>;

/// The share of one partition in one segment, or in one pack.
#[derive(Debug)]
pub(crate) enum Share<'a> {
    /// Of the segment being written.
    Active { id: SegmentId, places: &'a [Place], event_time_max: TimeMicros },
    /// Of a full one, or a pack.
    Full { home: Home, index: &'a Index },
    /// Of one whose index has to be read first.
    Unread(Unread),
}

impl Share<'_> {
    /// The greatest event time of `partition`, whose share it is, as far as it is known: no
    /// event in it is later.
    pub(crate) fn event_time_max(&self, partition: PartitionId) -> TimeMicros {
        match self {
            Self::Active { event_time_max, .. } => *event_time_max,
            Self::Full { index, .. } => {
                index.share(partition).map_or(TimeMicros(i64::MIN), |share| share.event_time_max)
            }
            Self::Unread(_) => TimeMicros(i64::MAX),
        }
    }
}

/// A full segment, or a pack, whose index has to be read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) home: Home,
    /// The last commit that is listed, and its run: whatever lies behind it is void.
    pub(crate) run: Run,
    pub(crate) last: CommitNumber,
}

impl Places {
    pub(crate) const fn new(index_bytes_max: u64) -> Self {
        Self {
            full: BTreeMap::new(),
            active: None,
            spare: Vec::new(),
            segments: Vec::new(),
            index_bytes: 0,
            index_bytes_max,
            clock: AtomicU64::new(0),
        }
    }

    /// Makes room for rows up to `count`.
    pub(crate) fn grow_to(&mut self, count: usize) {
        if self.segments.len() < count {
            self.segments.resize(count, VecDeque::new());
        }
        if let Some(active) = &mut self.active
            && active.rows.len() < count
        {
            active.rows.resize(count, ActiveShare::new());
        }
    }

    /// Begins a new segment. The one before must have been [`seal`](Self::seal)ed.
    pub(crate) fn begin(&mut self, id: SegmentId) {
        assert!(self.active.is_none(), "one segment is written at a time");
        let mut rows = std::mem::take(&mut self.spare);
        rows.resize(self.segments.len(), ActiveShare::new());
        self.active =
            Some(Active { id, commits: Vec::new(), rows, touched: Vec::new(), last_hash: 0 });
    }

    /// Lists a published commit of the segment being written.
    pub(crate) fn publish(&mut self, header: &CommitHeader, entries: &[(Row, DirectoryEntry)]) {
        let active = self.active.as_mut().expect("a commit is published into an open segment");
        assert!(active.id.number == header.segment, "commits are published in order");
        active.commits.push(commit_place(header));
        active.last_hash = header.hash();
        for some in entries.chunks(ROWS_TOUCHED) {
            active.touch(some);
            for (row, entry) in some {
                let share = &mut active.rows[row.index()];
                if share.places.is_empty() {
                    active.touched.push(*row);
                }
                assert!(share.end <= entry.base_offset, "offsets of a partition rise");
                share.places.push(Place::new(header, entry));
                share.event_time_max = share.event_time_max.max(entry.event_time_max);
                share.end = entry.end_offset();
            }
        }
    }

    /// Ends the segment being written; returns its index.
    pub(crate) fn seal(&mut self, catalog: &Catalog) -> (SegmentId, Arc<SegmentIndex>) {
        let mut active = self.active.take().expect("a segment is sealed once");
        let mut shares = Vec::with_capacity(active.touched.len());
        for row in &active.touched {
            let share = std::mem::replace(&mut active.rows[row.index()], ActiveShare::new());
            let first = share.places.first().expect("a row is touched by a place");
            self.segments[row.index()].push_back((active.id.number, first.base_offset));
            shares.push(PartitionShare {
                partition: catalog.partition(*row),
                event_time_max: share.event_time_max,
                places: share.places,
                end: share.end,
            });
        }
        shares.sort_unstable_by_key(|share| share.partition);
        self.spare = active.rows;
        let index =
            Arc::new(SegmentIndex { commits: active.commits, shares, last_hash: active.last_hash });
        self.insert_full(Home::Segment(active.id), Index::Segment(Arc::clone(&index)));
        (active.id, index)
    }

    /// Adds a full segment, or a pack, in order of numbers.
    pub(crate) fn add_full(&mut self, home: Home, index: Index, catalog: &Catalog) {
        for share in index.shares() {
            let row = catalog.row(share.partition);
            if let (Some(row), Some(place)) = (row, share.places.first()) {
                self.segments[row.index()].push_back((home.number(), place.base_offset));
            }
        }
        self.insert_full(home, index);
    }

    fn insert_full(&mut self, home: Home, index: Index) {
        assert!(index.is_of(&home), "an index comes with what it is of");
        let newest = self.full.last_key_value().map(|(number, _)| *number);
        assert!(newest.is_none_or(|newest| newest < home.number()), "full segments come in order");
        let full = self.full_of(home, index);
        self.full.insert(home.number(), full);
        self.shed();
    }

    /// A segment or a pack that is about to be listed, with an index that counts from now on.
    fn full_of(&mut self, home: Home, index: Index) -> Full {
        self.index_bytes += index.memory_bytes();
        Full {
            home,
            append_time_last: index.append_time_last(),
            run: match (&home, &index) {
                (Home::Segment(id), _) => id.run,
                (_, Index::Pack(index)) => index.head.run,
                (Home::Pack(_), Index::Segment(_)) => unreachable!("a pack's index is its own"),
            },
            last: index.last(),
            head: match &index {
                Index::Pack(index) => Some(index.head),
                Index::Segment(_) => None,
            },
            is_missing: matches!(&index, Index::Pack(index) if index.is_missing()),
            topics: index.topic_bytes().into(),
            index: Some(index),
            used: AtomicU64::new(self.tick()),
        }
    }

    /// Puts a pack in the place of the oldest segments and packs that it covers. False where it is
    /// not just some of what is listed, side by side, that it covers: then nothing is changed.
    pub(crate) fn replace(
        &mut self,
        pack: PackId,
        index: Arc<PackIndex>,
        catalog: &Catalog,
    ) -> Option<Vec<Home>> {
        let home = Home::Pack(pack);
        let stretch = SegmentNumber(pack.first)..=home.number();
        let covers = |other: &Home| match other {
            Home::Segment(id) => stretch.contains(&id.number),
            Home::Pack(other) => pack.covers(other),
        };
        let replaced: Vec<Home> =
            self.full.range(stretch.clone()).map(|(_, full)| full.home).collect();
        let after = self
            .full
            .range(home.number()..)
            .map(|(_, full)| full.home)
            .find(|it| matches!(it, Home::Pack(it) if it.first <= pack.last) && !covers(it));
        let ends_there = replaced.last().is_some_and(|last| last.number() == home.number());
        if !ends_there || !replaced.iter().all(covers) || after.is_some() {
            return None;
        }
        for home in &replaced {
            let gone = self.full.remove(&home.number());
            let index = gone.and_then(|full| full.index);
            self.index_bytes -= index.map_or(0, |index| index.memory_bytes());
        }
        self.relist(&stretch, pack, &index, catalog);
        let full = self.full_of(home, Index::Pack(index));
        self.full.insert(home.number(), full);
        self.shed();
        Some(replaced)
    }

    /// Lists a pack for its partitions, in the place of what lies in its stretch.
    fn relist(
        &mut self,
        stretch: &RangeInclusive<SegmentNumber>,
        pack: PackId,
        index: &PackIndex,
        catalog: &Catalog,
    ) {
        let mut shares = vec![None; self.segments.len()];
        for share in &index.shares {
            if let (Some(row), Some(place)) = (catalog.row(share.partition), share.places.first()) {
                shares[row.index()] = Some(place.base_offset);
            }
        }
        for (segments, first) in self.segments.iter_mut().zip(shares) {
            let from = segments.partition_point(|(number, _)| number < stretch.start());
            let to = segments.partition_point(|(number, _)| number <= stretch.end());
            match first {
                Some(first) => {
                    segments.drain(from..to);
                    segments.insert(from, (SegmentNumber(pack.last), first));
                }
                None => {
                    segments.drain(from..to);
                }
            }
        }
    }

    /// Gives an index that was read again.
    pub(crate) fn reread(&mut self, home: Home, index: Index) {
        let used = self.tick();
        let full = self.full.get_mut(&home.number());
        let Some(full) = full.filter(|full| full.index.is_none() && full.home == home) else {
            return;
        };
        let bytes = index.memory_bytes();
        full.index = Some(index);
        full.used = AtomicU64::new(used);
        self.index_bytes += bytes;
        self.shed();
    }

    /// Drops the lists used longest ago until those that stay fit the budget.
    fn shed(&mut self) {
        while self.index_bytes > self.index_bytes_max {
            let held = self.full.values_mut().filter(|full| full.index.is_some());
            let oldest = held.min_by_key(|full| full.used.load(Ordering::Relaxed));
            let Some(index) = oldest.and_then(|full| full.index.take()) else { return };
            self.index_bytes -= index.memory_bytes();
        }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Forgets the oldest full segment, or pack. Tells where its partitions end in it, as far as
    /// its index is in memory.
    pub(crate) fn drop_oldest(&mut self) -> Vec<(PartitionId, Offset)> {
        let Some((number, full)) = self.full.pop_first() else { return Vec::new() };
        self.index_bytes -= full.index.as_ref().map_or(0, Index::memory_bytes);
        for segments in &mut self.segments {
            if segments.front().is_some_and(|(first, _)| *first == number) {
                segments.pop_front();
            }
        }
        let shares = full.index.iter().flat_map(Index::shares);
        shares.map(|share| (share.partition, share.end)).collect()
    }

    /// Whether a pack is listed that could not be read at opening: nobody knows what is in it.
    pub(crate) fn any_missing(&self) -> bool {
        self.full.values().any(|full| full.is_missing)
    }

    /// Whether this very segment or pack is listed.
    pub(crate) fn has(&self, home: Home) -> bool {
        match home {
            Home::Segment(id) => self.is_listed(id.number),
            Home::Pack(pack) => self.has_pack(pack),
        }
    }

    /// The index of a full segment or pack, where it is in memory.
    pub(crate) fn index(&self, home: Home) -> Option<Index> {
        let full = self.full.get(&home.number()).filter(|full| full.home == home)?;
        full.index.clone()
    }

    /// All segments, the one being written last.
    pub(crate) fn segment_ids(&self) -> Vec<SegmentId> {
        let active = self.active.as_ref().map(|active| active.id);
        self.full_segments().map(|(id, _)| id).chain(active).collect()
    }

    /// The segment that is being written, where one is.
    pub(crate) fn active(&self) -> Option<SegmentNumber> {
        self.active.as_ref().map(|active| active.id.number)
    }

    /// Whether the segment that is being written holds a commit.
    pub(crate) fn is_begun(&self) -> bool {
        self.active.as_ref().is_some_and(|active| !active.commits.is_empty())
    }

    fn full_segments(&self) -> impl Iterator<Item = (SegmentId, &Full)> {
        self.full.values().filter_map(|full| match full.home {
            Home::Segment(id) => Some((id, full)),
            Home::Pack(_) => None,
        })
    }

    /// All packs, in order.
    pub(crate) fn packs(&self) -> Vec<PackHead> {
        self.full.values().filter_map(|full| full.head).collect()
    }

    /// What the records of a topic take on the disk, but for those of the newest segment: the one
    /// being written, or of a log that nobody writes the last one.
    pub(crate) fn topic_bytes(&self, topic: TopicId) -> u64 {
        let all = self.shares_of_topics().flat_map(|share| share.iter());
        all.filter(|(of, _)| *of == topic).map(|(_, bytes)| bytes).sum()
    }

    /// The same of all topics, for each segment and pack: to be added up once nobody waits for the
    /// table.
    pub(crate) fn shares_of_topics(&self) -> impl Iterator<Item = &Arc<[(TopicId, u64)]>> {
        let newest = usize::from(self.active.is_none());
        self.full.values().rev().skip(newest).map(|full| &full.topics)
    }

    /// The newest segment or pack behind which at least so many bytes of a topic lie.
    pub(crate) fn last_beyond(&self, topic: TopicId, bytes: u64) -> Option<SegmentNumber> {
        let mut behind = 0;
        for (number, full) in self.full.iter().rev() {
            if behind >= bytes {
                return Some(*number);
            }
            let own = full.topics.iter().filter(|(of, _)| *of == topic);
            behind += own.map(|(_, bytes)| bytes).sum::<u64>();
        }
        None
    }

    /// Takes a pack out, wherever it lies: nobody can read what is in it any more.
    pub(crate) fn retire(&mut self, pack: PackId) -> bool {
        if !self.has_pack(pack) {
            return false;
        }
        let number = SegmentNumber(pack.last);
        let index = self.full.remove(&number).and_then(|full| full.index);
        self.index_bytes -= index.map_or(0, |index| index.memory_bytes());
        for segments in &mut self.segments {
            if let Ok(at) = segments.binary_search_by_key(&number, |(number, _)| *number) {
                segments.remove(at);
            }
        }
        true
    }

    /// All packs with their last commits, in order.
    pub(crate) fn settled(&self) -> Vec<(Unread, PackHead)> {
        self.full.values().filter_map(|full| Some((full.unread(), full.head?))).collect()
    }

    /// What each topic takes of each pack on the disk, in order of packs.
    pub(crate) fn shares_of_packs(&self) -> impl Iterator<Item = (&PackHead, &[(TopicId, u64)])> {
        self.full.values().filter_map(|full| Some((full.head.as_ref()?, &full.topics[..])))
    }

    /// All full segments with their last commits, in order.
    pub(crate) fn settleable(&self) -> Vec<Unread> {
        self.full_segments().map(|(_, full)| full.unread()).collect()
    }

    /// All segments with what is listed of each, the one being written last.
    pub(crate) fn listed(&self) -> Vec<Listed> {
        let full = self.full_segments().map(|(id, full)| Listed {
            id,
            last: full.last,
            end: None,
            is_active: false,
        });
        let active = self.active.as_ref().map(|active| Listed {
            id: active.id,
            last: active.commits.last().map_or(CommitNumber::NONE, |commit| commit.number),
            end: active
                .commits
                .last()
                .map(|last| u64::from(last.position) + u64::from(last.commit_bytes)),
            is_active: true,
        });
        full.chain(active).collect()
    }

    /// The oldest full segment or pack, with its last commit.
    pub(crate) fn oldest(&self) -> Option<Unread> {
        self.full.first_key_value().map(|(_, full)| full.unread())
    }

    /// Whether the segment is a full one of this log: it is not written, and not yet freed.
    pub(crate) fn is_full(&self, segment: SegmentNumber) -> bool {
        self.full.get(&segment).is_some_and(|full| matches!(full.home, Home::Segment(_)))
    }

    /// Whether the pack is one of this log.
    pub(crate) fn has_pack(&self, pack: PackId) -> bool {
        self.full.get(&SegmentNumber(pack.last)).is_some_and(|full| full.home == Home::Pack(pack))
    }

    /// Whether the segment is one of this log: not yet freed.
    pub(crate) fn is_listed(&self, segment: SegmentNumber) -> bool {
        self.is_full(segment)
            || self.active.as_ref().is_some_and(|active| active.id.number == segment)
    }

    /// The first offset of the partition that some segment after `segment` holds.
    pub(crate) fn first_after(&self, row: Row, segment: SegmentNumber) -> Option<Offset> {
        let segments = self.segments.get(row.index())?;
        let after = segments.partition_point(|(number, _)| *number <= segment);
        let full = segments.get(after).map(|(_, first)| *first);
        full.or_else(|| self.active_places(row).first().map(|place| place.base_offset))
    }

    fn active_places(&self, row: Row) -> &[Place] {
        let share = self.active.as_ref().and_then(|active| active.rows.get(row.index()));
        share.map_or(&[], |share| &share.places)
    }

    /// The partition's share of the segment in which `from` lies, or would lie, and of each
    /// segment after it, as far as `visit` says `true`.
    pub(crate) fn visit_from<'a>(
        &'a self,
        row: Row,
        from: Offset,
        held: &'a Held,
        mut visit: impl FnMut(Share<'a>) -> bool,
    ) {
        let mut next = self.share_at(row, from, held);
        while let Some((segment, share)) = next {
            if !visit(share) {
                return;
            }
            next = self.share_after(row, segment, held);
        }
    }

    /// The partition's share of the segment in which `from` lies, or would lie; the first one
    /// where it lies before all.
    pub(crate) fn share_at<'a>(
        &'a self,
        row: Row,
        from: Offset,
        held: &'a Held,
    ) -> Option<(SegmentNumber, Share<'a>)> {
        // A reader near the end must not ask for the index of the segment before.
        if self.active_places(row).first().is_some_and(|place| place.base_offset <= from) {
            return self.active_share(row);
        }
        let segments = self.segments.get(row.index())?;
        let first = segments.partition_point(|(_, base)| *base <= from).saturating_sub(1);
        match segments.get(first) {
            Some((number, _)) => Some((*number, self.full_share(*number, held))),
            None => self.active_share(row),
        }
    }

    /// The partition's share of the first segment after `segment` in which it has one.
    pub(crate) fn share_after<'a>(
        &'a self,
        row: Row,
        segment: SegmentNumber,
        held: &'a Held,
    ) -> Option<(SegmentNumber, Share<'a>)> {
        let segments = self.segments.get(row.index())?;
        let after = segments.partition_point(|(number, _)| *number <= segment);
        match segments.get(after) {
            Some((number, _)) => Some((*number, self.full_share(*number, held))),
            None => self.active_share(row).filter(|(number, _)| *number > segment),
        }
    }

    fn active_share(&self, row: Row) -> Option<(SegmentNumber, Share<'_>)> {
        let id = self.active.as_ref()?.id;
        let share = self.active.as_ref()?.rows.get(row.index())?;
        let ActiveShare { places, event_time_max, .. } = share;
        let share = Share::Active { id, places, event_time_max: *event_time_max };
        (!places.is_empty()).then_some((id.number, share))
    }

    fn full_share<'a>(&'a self, number: SegmentNumber, held: &'a Held) -> Share<'a> {
        match self.full_index(number, held) {
            Ok(index) => Share::Full { home: self.full[&number].home, index },
            Err(unread) => Share::Unread(unread),
        }
    }

    fn full_index<'a>(
        &'a self,
        number: SegmentNumber,
        held: &'a Held,
    ) -> Result<&'a Index, Unread> {
        let full = &self.full[&number];
        full.used.store(self.tick(), Ordering::Relaxed);
        let held = || held.get(&number).filter(|index| index.is_of(&full.home));
        let index = full.index.as_ref().or_else(held);
        index.ok_or_else(|| full.unread())
    }

    /// Where the first offset of the partition lies whose append time is at or after `time`.
    pub(crate) fn offset_at_append(
        &self,
        (row, partition): (Row, PartitionId),
        time: TimeMicros,
        held: &Held,
    ) -> FirstAppended {
        let none = VecDeque::new();
        let segments = self.segments.get(row.index()).unwrap_or(&none);
        // Append times rise from commit to commit, and so from segment to segment.
        let candidate =
            segments.partition_point(|(number, _)| self.full[number].append_time_last < time);
        let Some((number, _)) = segments.get(candidate) else {
            let commits = self.active.as_ref().map_or(&[][..], |active| &active.commits);
            let first = first_at(commits, self.active_places(row), time);
            return first.map_or(FirstAppended::Nowhere, FirstAppended::At);
        };
        let first = match self.full_index(*number, held) {
            Err(unread) => return FirstAppended::Unread(unread),
            Ok(Index::Segment(index)) => {
                let places = index.share(partition).map_or(&[][..], |share| &share.places);
                first_at(&index.commits, places, time)
            }
            Ok(Index::Pack(index)) => {
                if let Some((share, at)) = index.first_appended_at(partition, time) {
                    let next = share.places.get(at + 1).map(|next| next.base_offset);
                    let place = share.places[at];
                    let frame = index.frame_of(&place).expect("its places lie in its frames");
                    return FirstAppended::Within {
                        home: self.full[number].home,
                        place,
                        bound: next.unwrap_or(share.end),
                        frame: index.frames[frame],
                    };
                }
                None
            }
        };
        let first = first.or_else(|| self.first_after(row, *number));
        first.map_or(FirstAppended::Nowhere, FirstAppended::At)
    }
}

/// Where the first record at or after a time lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstAppended {
    /// There is none yet.
    Nowhere,
    At(Offset),
    /// In the first batch at this place of a pack that is late enough.
    Within {
        home: Home,
        place: Place,
        bound: Offset,
        frame: Frame,
    },
    /// The index has to be read to tell.
    Unread(Unread),
}

/// The first of `places` in a commit whose append time is at or after `time`.
fn first_at(commits: &[CommitPlace], places: &[Place], time: TimeMicros) -> Option<Offset> {
    let commit = commits.partition_point(|commit| commit.append_time < time);
    let position = commits.get(commit)?.position;
    let first = places.partition_point(|place| place.position() < position);
    places.get(first).map(|place| place.base_offset)
}

#[cfg(test)]
mod tests {
    use tracklog_log::{Retention, Topic, TopicName, TopicSpec};
    use tracklog_protocol::TopicId;

    use super::*;
    use crate::journal::commit::CommitKind;

    const TOPIC: TopicId = TopicId(4);

    fn catalog(partitions: u32) -> Catalog {
        let mut catalog = Catalog::new();
        let name = TopicName::new("t").unwrap();
        let spec = TopicSpec { name, partitions, retention: Retention::Keep };
        catalog.insert(Topic { id: TOPIC, spec, created: TimeMicros(0) });
        catalog
    }

    fn partition(index: u32) -> PartitionId {
        PartitionId::new(TOPIC, index)
    }

    fn id(number: u64) -> SegmentId {
        let slot = SlotId(u32::try_from(number).unwrap());
        SegmentId { number: SegmentNumber(number), slot, run: Run(1), salt: Salt(number) }
    }

    /// The header of commit `number`, at a page of its own, taken at 10 times its number.
    fn header(segment: u64, number: u64, at_page: u32) -> CommitHeader {
        CommitHeader {
            kind: CommitKind::Data,
            salt: Salt(segment),
            run: Run(1),
            number: CommitNumber(number),
            segment: SegmentNumber(segment),
            position: at_page * 4096,
            commit_bytes: 4096,
            chain: 0,
            mark: CommitNumber::NONE,
            append_time: TimeMicros(10 * number.cast_signed()),
            directory_bytes: 0,
            directory_crc: 0,
        }
    }

    fn entry(index: u32, base_offset: u64, count: u32, place: u32) -> DirectoryEntry {
        DirectoryEntry {
            partition: partition(index),
            base_offset: Offset(base_offset),
            count,
            place,
            batch_bytes: 100,
            batch_crc: 0,
            event_time_max: TimeMicros(base_offset.cast_signed()),
        }
    }

    /// Segments 1 and 2 are full, 3 is being written. Partition 0 has the offsets 0..4, 4..6 and
    /// 6..7 in them, one commit each; partition 1 has 0..1 in segment 2 alone.
    fn three_segments(index_bytes_max: u64) -> (Catalog, Places) {
        let catalog = catalog(3);
        let mut places = Places::new(index_bytes_max);
        places.grow_to(catalog.row_count());
        let content = [
            vec![entry(0, 0, 4, 128)],
            vec![entry(0, 4, 2, 128), entry(1, 0, 1, 256)],
            vec![entry(0, 6, 1, 128)],
        ];
        for (number, entries) in (1..).zip(content) {
            places.begin(id(number));
            let rows = entries.iter().map(|it| (catalog.row(it.partition).unwrap(), *it));
            places.publish(&header(number, number, 1), &rows.collect::<Vec<_>>());
            if number < 3 {
                places.seal(&catalog);
            }
        }
        (catalog, places)
    }

    /// The first offsets of what is visited; `None` where the index is not there.
    fn visited(catalog: &Catalog, places: &Places, index: u32, from: u64) -> Vec<Option<u64>> {
        let (row, held) = (catalog.row(partition(index)).unwrap(), Held::new());
        let mut visited = Vec::new();
        places.visit_from(row, Offset(from), &held, |share| {
            visited.push(match share {
                Share::Active { places, .. } => Some(places[0].base_offset.0),
                Share::Full { index: of, .. } => {
                    Some(of.share(partition(index)).unwrap().places[0].base_offset.0)
                }
                Share::Unread(_) => None,
            });
            true
        });
        visited
    }

    #[test]
    fn an_index_is_the_same_however_it_is_made() {
        let catalog = catalog(3);
        let mut places = Places::new(u64::MAX);
        places.grow_to(catalog.row_count());
        places.begin(id(1));
        let mut builder = IndexBuilder::default();
        for (number, entries) in [
            (1, vec![entry(2, 0, 3, 128), entry(0, 7, 1, 256)]),
            (2, vec![]),
            (3, vec![entry(2, 5, 1, 128)]),
        ] {
            let header = header(1, number, u32::try_from(number).unwrap());
            builder.add(&header, &entries);
            let rows = entries.iter().map(|it| (catalog.row(it.partition).unwrap(), *it));
            places.publish(&header, &rows.collect::<Vec<_>>());
        }
        let (sealed, index) = places.seal(&catalog);
        let built = builder.finish();
        assert_eq!((sealed, &*index), (id(1), &built));
        assert_eq!(built.last(), CommitNumber(3));
        assert_eq!(built.share(partition(2)).unwrap().end, Offset(6));
        assert_eq!(built.share(partition(1)), None);
        // The next segment begins empty.
        places.begin(id(2));
        assert!(places.active_places(catalog.row(partition(2)).unwrap()).is_empty());
    }

    #[test]
    fn visits_begin_where_the_offset_lies() {
        let (catalog, places) = three_segments(u64::MAX);
        let visits = [
            (0, 0, vec![0, 4, 6]),
            (0, 3, vec![0, 4, 6]),
            (0, 4, vec![4, 6]),
            (0, 6, vec![6]),
            (0, 100, vec![6]),
            (1, 0, vec![0]),
            (2, 0, vec![]),
        ];
        for (index, from, expected) in visits {
            let expected: Vec<_> = expected.into_iter().map(Some).collect();
            assert_eq!(visited(&catalog, &places, index, from), expected, "{index} from {from}");
        }
    }

    #[test]
    fn indexes_beyond_the_budget_are_dropped_and_taken_back() {
        let (catalog, mut places) = three_segments(0);
        assert_eq!(visited(&catalog, &places, 0, 0), [None, None, Some(6)]);
        let (_, whole) = three_segments(u64::MAX);
        let index_of = |number| whole.full[&SegmentNumber(number)].index.clone().unwrap();
        let index = index_of(2);
        places.reread(Home::Segment(id(2)), index.clone());
        assert_eq!(visited(&catalog, &places, 0, 0), [None, None, Some(6)], "still over it");
        places.index_bytes_max = index.memory_bytes();
        places.reread(Home::Segment(id(2)), index.clone());
        places.reread(Home::Segment(id(2)), index.clone());
        assert_eq!(places.index_bytes, index.memory_bytes(), "counted once");
        assert_eq!(visited(&catalog, &places, 0, 0), [None, Some(4), Some(6)]);
        places.reread(Home::Segment(id(1)), index_of(1));
        assert_eq!(visited(&catalog, &places, 0, 0), [Some(0), None, Some(6)], "the newer use");
        places.drop_oldest();
        assert_eq!(places.index_bytes, 0);
    }

    #[test]
    fn a_held_index_is_seen_whatever_the_budget() {
        let (catalog, places) = three_segments(0);
        let (_, whole) = three_segments(u64::MAX);
        let index = whole.full[&SegmentNumber(1)].index.clone().unwrap();
        let held = Held::from([(SegmentNumber(1), index)]);
        let row = catalog.row(partition(0)).unwrap();
        let (number, share) = places.share_at(row, Offset(0), &held).unwrap();
        assert!(matches!(share, Share::Full { .. }) && number == SegmentNumber(1));
        let Some((_, Share::Unread(unread))) = places.share_after(row, number, &held) else {
            panic!("the second is not held");
        };
        assert_eq!((unread.home, unread.last), (Home::Segment(id(2)), CommitNumber(2)));
    }

    #[test]
    fn the_oldest_segment_is_dropped_for_all_partitions() {
        let (catalog, mut places) = three_segments(u64::MAX);
        let rows = [0, 1].map(|index| catalog.row(partition(index)).unwrap());
        assert_eq!(places.oldest().map(|oldest| oldest.home), Some(Home::Segment(id(1))));
        assert_eq!(places.first_after(rows[0], SegmentNumber(1)), Some(Offset(4)));
        assert_eq!(places.first_after(rows[0], SegmentNumber(2)), Some(Offset(6)));
        assert_eq!(places.first_after(rows[1], SegmentNumber(2)), None);
        places.drop_oldest();
        assert!(!places.is_listed(SegmentNumber(1)) && places.is_full(SegmentNumber(2)));
        assert!(places.is_listed(SegmentNumber(3)) && !places.is_full(SegmentNumber(3)));
        assert_eq!(visited(&catalog, &places, 0, 0), [Some(4), Some(6)]);
        assert_eq!(places.oldest().map(|oldest| oldest.home), Some(Home::Segment(id(2))));
        let ends = [(partition(0), Offset(6)), (partition(1), Offset(1))];
        assert_eq!(places.drop_oldest(), ends);
        assert!(places.drop_oldest().is_empty());
        assert_eq!(places.segment_ids(), [id(3)]);
    }

    #[test]
    fn append_times_are_found_by_the_one_index_that_counts() {
        let (catalog, places) = three_segments(u64::MAX);
        let (_, unread) = three_segments(0);
        let at = |places: &Places, index, time| {
            let partition = partition(index);
            let row = catalog.row(partition).unwrap();
            places.offset_at_append((row, partition), TimeMicros(time), &Held::new())
        };
        for (time, expected) in [(0, 0), (10, 0), (11, 4), (20, 4), (21, 6), (30, 6)] {
            assert_eq!(at(&places, 0, time), FirstAppended::At(Offset(expected)), "at {time}");
        }
        assert_eq!(at(&places, 0, 31), FirstAppended::Nowhere);
        assert_eq!(at(&places, 1, 15), FirstAppended::At(Offset(0)));
        assert_eq!(at(&places, 1, 21), FirstAppended::Nowhere);
        let FirstAppended::Unread(second) = at(&unread, 0, 15) else {
            panic!("its index is not there")
        };
        assert_eq!(second.home, Home::Segment(id(2)));
        assert_eq!(at(&unread, 0, 25), FirstAppended::At(Offset(6)));
    }
}
