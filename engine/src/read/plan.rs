//! What to read for a fetch: which batches, in which places.
//!
//! Promises
//! - Batches of a partition are planned in offset order, none left out between two.
//! - Who asks for many partitions gets of each: an equal share of the bytes first, then what
//!   others leave over. Somebody, another one each time, comes first and gets a batch of any
//!   size, so that large batches do not starve beside small ones.
//! - At least one batch is planned if there is any whose place is known.
//!
//! Reads the tables under their locks, for some partitions at a time, and touches no disk.

use std::collections::BTreeSet;

use bytes::Bytes;
use parking_lot::RwLockReadGuard;
use tracklog_log::{Extent, FetchError};
use tracklog_protocol::{BatchView, Offset, PartitionId};

use crate::catalog::Row;
use crate::disk::{Loss, batch_of_ring};
use crate::journal::commit::SegmentNumber;
use crate::partition::places::{Held, Home, Index, Place, Places, Share, Unread};
use crate::partition::tail::Tail;
use crate::published::{Published, Topics};
use crate::settled::pack::{Batches, Frame, PackIndex};

/// So many partitions are planned before the appender gets at the tables again.
const PARTITIONS_AT_ONCE: usize = 256;

/// A frame is not read for less than this of it, but by who comes first.
const PART_BYTES_MIN: usize = 4 << 10;

/// What is asked.
pub(super) struct Asked {
    pub(super) from: Vec<(PartitionId, Offset)>,
    pub(super) bytes_max: usize,
    /// A number of this fetch's own: decides who comes first.
    pub(super) turn: u64,
}

/// Where a batch lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Medium {
    /// In the tail ring.
    Ring,
    /// In the segment being written, on disk.
    Active,
    /// In a full segment.
    Full,
    /// In this frame of a pack.
    Pack(Frame),
}

/// Why a batch is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// It is lost.
    Damaged(Loss),
    /// It cannot be read now.
    Io(String),
    /// It is not there any more: it was given up, or a pack took the place of its segment. Whoever
    /// looks again finds which.
    Gone(String),
}

const fn rotten(what: String) -> Bad {
    Bad::Damaged(Loss::Rotten(what))
}

/// A batch to be read, or a stretch of batches in a pack.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) home: Home,
    pub(super) partition: PartitionId,
    pub(super) place: Place,
    /// Where the batch behind it begins, or the segment's share ends: it ends there or before.
    pub(super) bound: Offset,
    /// No more than this may be taken of a stretch, but for a first batch where `takes_one`.
    pub(super) bytes_max: usize,
    pub(super) takes_one: bool,
    pub(super) medium: Medium,
    pub(super) found: Found,
}

/// What is there of a planned batch.
#[derive(Clone, Debug)]
pub(super) enum Found {
    /// Nothing: it is to be read.
    Unread,
    /// Bytes that were built or checked by this process, and never left its memory.
    Kept(Bytes),
    /// What reading gave.
    Read(Result<BatchView, Bad>),
    /// Batches of a pack, side by side.
    Stretch(Bytes),
}

impl Planned {
    /// A batch of `share`, from the tail ring where it is still there.
    pub(super) fn new(
        share: &ShareOf<'_>,
        partition: PartitionId,
        index: usize,
        tail: &Tail,
    ) -> Self {
        let place = share.places[index];
        let next = share.places.get(index + 1).map(|next| next.base_offset);
        let kept = match share.pack {
            Some(_) => None,
            None => tail.batch(share.home.number(), &place),
        };
        Self {
            home: share.home,
            partition,
            place,
            bound: next.unwrap_or(share.end),
            bytes_max: usize::MAX,
            takes_one: true,
            medium: if kept.is_some() { Medium::Ring } else { share.medium_of(&place) },
            found: kept.map_or(Found::Unread, Found::Kept),
        }
    }

    /// A batch of a full segment, to be read.
    pub(super) const fn of_full_segment(
        home: Home,
        partition: PartitionId,
        place: Place,
        bound: Offset,
    ) -> Self {
        let (bytes_max, takes_one) = (usize::MAX, true);
        let (medium, found) = (Medium::Full, Found::Unread);
        Self { home, partition, place, bound, bytes_max, takes_one, medium, found }
    }

    /// A stretch of batches at a place of a pack.
    pub(super) fn of_pack(
        home: Home,
        partition: PartitionId,
        (place, bound): (Place, Offset),
        frame: Frame,
    ) -> Self {
        let (bytes_max, takes_one) = (usize::MAX, true);
        let (medium, found) = (Medium::Pack(frame), Found::Unread);
        Self { home, partition, place, bound, bytes_max, takes_one, medium, found }
    }

    /// Whether there is more at its place than may be taken.
    const fn is_limited(&self) -> bool {
        self.bytes_max < self.place.batch_bytes as usize
    }

    /// Lets up to `bytes` more be taken of it. Says how many that are.
    fn raise(&mut self, bytes: usize) -> usize {
        let more = bytes.min(self.place.batch_bytes as usize - self.bytes_max);
        self.bytes_max += more;
        more
    }

    /// Whether it has to be read.
    pub(super) const fn is_unread(&self) -> bool {
        matches!(self.found, Found::Unread)
    }

    /// Whether it is the same batch, planned by another fetch.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.place == other.place && self.partition == other.partition && self.home == other.home
    }

    /// What became of it: one batch, or those of its stretch, in order, up to the first that is no
    /// good.
    ///
    /// # Panics
    /// When it was to be read and was not.
    pub(super) fn batches(self) -> Read {
        match self.found {
            Found::Kept(bytes) => Read::One(Some(
                batch_of_ring(bytes).map_err(|error| rotten(format!("in the tail ring: {error}"))),
            )),
            Found::Read(result) => Read::One(Some(result)),
            Found::Stretch(bytes) => Read::Many {
                batches: Batches::new(bytes),
                partition: self.partition,
                home: self.home,
            },
            Found::Unread => unreachable!("what was planned is read before it is asked for"),
        }
    }
}

/// What reading gave.
pub(super) enum Read {
    One(Option<Result<BatchView, Bad>>),
    Many { batches: Batches, partition: PartitionId, home: Home },
}

impl Iterator for Read {
    type Item = Result<BatchView, Bad>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::One(result) => result.take(),
            Self::Many { batches, partition, home } => Some(match batches.next()? {
                Ok(batch) if batch.partition() == *partition => Ok(batch),
                Ok(_) => Err(rotten(format!("{home}: another batch lies there"))),
                Err(why) => Err(rotten(format!("{home}: {why}"))),
            }),
        }
    }
}

/// A partition's places in one segment, or in one pack.
pub(super) struct ShareOf<'a> {
    pub(super) home: Home,
    pub(super) places: &'a [Place],
    /// The offset after the last record.
    pub(super) end: Offset,
    /// Where the segment is; of a pack its index.
    pub(super) is_active: bool,
    pub(super) pack: Option<&'a PackIndex>,
}

impl<'a> ShareOf<'a> {
    /// `end`: where the partition ends.
    pub(super) fn new(
        share: &Share<'a>,
        partition: PartitionId,
        end: Offset,
    ) -> Result<Self, Unread> {
        match *share {
            Share::Active { id, places, .. } => {
                let home = Home::Segment(id);
                Ok(Self { home, places, end, is_active: true, pack: None })
            }
            Share::Full { home, index } => {
                let share = index.share(partition);
                let places = share.map_or(&[][..], |share| &share.places);
                let end = share.map_or(Offset::ZERO, |share| share.end);
                let pack = match index {
                    Index::Pack(index) => Some(&**index),
                    Index::Segment(_) => None,
                };
                Ok(Self { home, places, end, is_active: false, pack })
            }
            Share::Unread(unread) => Err(unread),
        }
    }

    /// Where a place of it lies.
    fn medium_of(&self, place: &Place) -> Medium {
        match self.pack {
            Some(pack) => {
                let frame = pack.frame_of(place).expect("a pack's places lie in its frames");
                Medium::Pack(pack.frames[frame])
            }
            None if self.is_active => Medium::Active,
            None => Medium::Full,
        }
    }
}

/// What was found out about one partition.
#[derive(Debug)]
pub(super) struct PartitionPlan {
    pub(super) partition: PartitionId,
    row: Row,
    /// What was asked.
    pub(super) from: Offset,
    pub(super) extent: Extent,
    pub(super) batches: Vec<Planned>,
    pub(super) state: Progress,
}

/// Why the planning of a partition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The budget is used up; or nothing was planned yet.
    More,
    /// Nothing lies between the last planned batch and the end.
    Exhausted,
    /// The index of the segment that comes next is not in memory.
    Unread,
}

/// What to read for one fetch.
#[derive(Debug)]
pub(super) struct Plan {
    /// As asked.
    pub(super) partitions: Vec<PartitionPlan>,
    /// Segments without whose index nothing could be planned for the partition, each once.
    pub(super) unread: Vec<(PartitionId, Unread)>,
}

impl Plan {
    /// # Errors
    /// When a partition is not there, or does not hold the offset.
    pub(super) fn make(
        published: &Published,
        asked: &Asked,
        held: &Held,
    ) -> Result<Self, FetchError> {
        let partitions = locate(published, &asked.from)?;
        let hungry = (0..partitions.len()).filter(|at| {
            let plan: &PartitionPlan = &partitions[*at];
            plan.from < plan.extent.end
        });
        let mut order: Vec<usize> = hungry.collect();
        let mut plan = Self { partitions, unread: Vec::new() };
        if order.is_empty() {
            return Ok(plan);
        }
        let first = scatter(asked.turn) % order.len() as u64;
        order.rotate_left(usize::try_from(first).expect("it is below a length"));
        let share = asked.bytes_max / order.len();
        let mut left = asked.bytes_max;
        let mut some = false;
        plan.pass(published, held, &order, |planner, partition| {
            let taken = planner.gather(partition, share.min(left), !some);
            some |= taken > 0;
            left = left.saturating_sub(taken);
        });
        plan.pass(published, held, &order, |planner, partition| {
            if left > 0 && partition.state == Progress::More {
                left -= planner.gather(partition, left, false);
            }
        });
        Ok(plan)
    }

    /// Has `visit` plan the partitions in `order`, a few at a time under the locks.
    fn pass(
        &mut self,
        published: &Published,
        held: &Held,
        order: &[usize],
        mut visit: impl FnMut(&mut Planner<'_>, &mut PartitionPlan),
    ) {
        for some in order.chunks(PARTITIONS_AT_ONCE) {
            let mut planner = Planner::new(published, held);
            for at in some {
                visit(&mut planner, &mut self.partitions[*at]);
            }
            for (partition, unread) in planner.unread {
                if !self.unread.iter().any(|(_, known)| known.home == unread.home) {
                    self.unread.push((partition, unread));
                }
            }
        }
    }

    /// Whether it has to be made again: something went elsewhere while it was read.
    pub(super) fn is_outdated(&self) -> bool {
        let batches = self.partitions.iter().flat_map(|partition| &partition.batches);
        let is_gone = |it: &Planned| matches!(it.found, Found::Read(Err(Bad::Gone(_))));
        batches.into_iter().any(is_gone)
    }

    /// Whether all of it is in memory already.
    pub(super) fn is_in_memory(&self) -> bool {
        self.unread.is_empty() && self.unread_batches().next().is_none()
    }

    /// Whether it would move nobody forward.
    pub(super) fn is_empty(&self) -> bool {
        self.partitions
            .iter()
            .all(|partition| partition.batches.is_empty() && partition.state != Progress::Exhausted)
    }

    /// All batches that are to be read.
    pub(super) fn batches_mut(&mut self) -> impl Iterator<Item = &mut Planned> {
        let batches = self.partitions.iter_mut().flat_map(|partition| &mut partition.batches);
        batches.filter(|batch| batch.is_unread())
    }

    /// The first segment that is to be read, or whose index is.
    pub(super) fn first_segment(&self) -> Option<SegmentNumber> {
        let batches = self.unread_batches().map(|batch| batch.home.number());
        batches.chain(self.unread.iter().map(|(_, unread)| unread.home.number())).min()
    }

    /// What is to be read, up to the end of `segment` and in all.
    pub(super) fn bytes(&self, segment: SegmentNumber) -> (u64, u64) {
        self.unread_batches().fold((0, 0), |(first, all), batch| {
            let bytes = u64::from(batch.place.batch_bytes);
            (first + if batch.home.number() <= segment { bytes } else { 0 }, all + bytes)
        })
    }

    /// Leaves what is to be read behind `segment` to another fetch.
    pub(super) fn cut_after(&mut self, segment: SegmentNumber) {
        for partition in &mut self.partitions {
            let is_behind = |batch: &Planned| batch.is_unread() && batch.home.number() > segment;
            if let Some(first) = partition.batches.iter().position(is_behind) {
                partition.batches.truncate(first);
                partition.state = Progress::More;
            }
        }
    }

    fn unread_batches(&self) -> impl Iterator<Item = &Planned> {
        let batches = self.partitions.iter().flat_map(|partition| &partition.batches);
        batches.filter(|batch| batch.is_unread())
    }
}

/// Finds the partitions that are asked for.
fn locate(
    published: &Published,
    from: &[(PartitionId, Offset)],
) -> Result<Vec<PartitionPlan>, FetchError> {
    let topics = published.topics.read();
    let locate = |(partition, from): &(PartitionId, Offset)| {
        let (partition, from) = (*partition, *from);
        let row = topics.catalog.row(partition);
        let row = row.ok_or(FetchError::UnknownPartition { partition })?;
        let extent = topics.extent_of(row);
        if from < extent.start || from > extent.end {
            return Err(FetchError::OutOfRange { partition, asked: from, extent });
        }
        let (batches, state) = (Vec::new(), Progress::More);
        Ok(PartitionPlan { partition, row, from, extent, batches, state })
    };
    from.iter().map(locate).collect()
}

/// The tables, locked.
struct Planner<'a> {
    topics: RwLockReadGuard<'a, Topics>,
    places: RwLockReadGuard<'a, Places>,
    tail: RwLockReadGuard<'a, Tail>,
    held: &'a Held,
    known: BTreeSet<u64>,
    unread: Vec<(PartitionId, Unread)>,
}

impl<'a> Planner<'a> {
    fn new(published: &'a Published, held: &'a Held) -> Self {
        Self {
            topics: published.topics.read(),
            places: published.places.read(),
            tail: published.tail.read(),
            held,
            known: BTreeSet::new(),
            unread: Vec::new(),
        }
    }

    /// Plans the next batches of `partition`, up to `bytes_max`; with `one_at_least` a first one
    /// of any size. Returns their bytes.
    fn gather(
        &mut self,
        partition: &mut PartitionPlan,
        bytes_max: usize,
        one_at_least: bool,
    ) -> usize {
        // Places below the start may be gone by now, and places below the end are listed by now.
        partition.extent.start = self.topics.extent_of(partition.row).start;
        let mut bytes = 0;
        let mut state = Progress::Exhausted;
        if let Some(last) = partition.batches.last_mut().filter(|last| last.is_limited()) {
            bytes = last.raise(bytes_max);
            if last.is_limited() {
                return bytes;
            }
        }
        let from = partition.resume();
        self.places.visit_from(partition.row, from, self.held, |share| {
            let share = ShareOf::new(&share, partition.partition, partition.extent.end);
            let share = match share {
                Ok(share) => share,
                Err(unread) => {
                    state = Progress::Unread;
                    // Whoever has something comes back for the rest.
                    if partition.batches.is_empty() && self.known.insert(unread.home.number().0) {
                        self.unread.push((partition.partition, unread));
                    }
                    return false;
                }
            };
            for index in partition.first_in(&share)..share.places.len() {
                let place = &share.places[index];
                if place.base_offset >= partition.extent.end {
                    return false;
                }
                let with = bytes + place.batch_bytes as usize;
                let takes_one = one_at_least && bytes == 0;
                let left = bytes_max.saturating_sub(bytes);
                let is_part = with > bytes_max && share.pack.is_some();
                if with > bytes_max && !takes_one && !(is_part && left >= PART_BYTES_MIN) {
                    state = Progress::More;
                    return false;
                }
                let mut planned = Planned::new(&share, partition.partition, index, &self.tail);
                if is_part {
                    (planned.bytes_max, planned.takes_one) = (left, takes_one);
                    partition.batches.push(planned);
                    bytes += left.max(1);
                    state = Progress::More;
                    return false;
                }
                bytes = with;
                partition.batches.push(planned);
            }
            true
        });
        partition.state = state;
        bytes
    }
}

impl PartitionPlan {
    /// Where planning goes on.
    fn resume(&self) -> Offset {
        let first = self.from.max(self.extent.start);
        self.batches.last().map_or(first, |last| last.bound)
    }

    /// The first place of the share that is still to be planned.
    fn first_in(&self, share: &ShareOf<'_>) -> usize {
        let from = self.resume();
        if share.end <= from {
            return share.places.len();
        }
        if self.batches.is_empty() {
            // The batch in which `from` lies begins at it or before.
            let after = share.places.partition_point(|place| place.base_offset <= from);
            after.saturating_sub(1)
        } else {
            share.places.partition_point(|place| place.base_offset < from)
        }
    }
}

/// Spreads turns evenly over any number of partitions (the finaliser of SplitMix64).
const fn scatter(turn: u64) -> u64 {
    let mixed = (turn ^ (turn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
