//! The ids of the journal's events in the window: where each event is, by the hash of its id.
//!
//! | bits | what an entry of 12 bytes says |
//! |---|---|
//! | 12 | the hash's highest bits: the page that it lies in, not written |
//! | 32 | the hash's lowest bits, never 0 |
//! | 8 | the generation: which segments its event lies in |
//! | 22 | the row of its partition |
//! | 34 | the lowest bits of its offset; the highest follow from where the partition ends |
//!
//! Entries lie in buckets of sixteen, a cache line of hashes beside two of places. A page has as
//! many buckets as it needs, in order of hashes; what its bucket has no room for lies in the next.
//! A page that is full is laid out anew, a quarter larger, by itself: that takes a four-thousandth
//! of what laying out a whole table would, so no insertion waits long, and between 12.8 and 16 bytes
//! are spent on an id.
//!
//! Promises
//! - An id that was inserted is found until its segment is forgotten (it is settled, given up, or out
//!   of the window), and then never again.
//! - Of one hash [`EVENTS_PER_ID_MAX`] entries are kept: whoever sends one id again and again, each
//!   time with another content, makes nobody's search long. A further one takes the place of the
//!   oldest that may be known no more, and has none where all are known for certain.
//! - The memory stays below its bound: beyond it the oldest segments are forgotten, and it is said.
//!
//! It is a cache of the log, of what was stamped: a failed write closes the journal, and the table
//! with it. Called by the stamper, and at opening.

use std::collections::VecDeque;
use std::hint::black_box;
use std::ops::RangeInclusive;

use smallvec::SmallVec;
use tracklog_log::dedupe::EVENTS_PER_ID_MAX;
use tracklog_protocol::{Offset, TimeMicros};

use super::{HASH_BITS, TopicIdHash};
use crate::catalog::Row;
use crate::journal::commit::SegmentNumber;

/// So many rows fit an entry: partitions that there ever were since the log was opened.
pub(crate) const ROWS_MAX: u32 = 1 << ROW_BITS;

const PAGE_BITS: u32 = 12;
const TAG_BITS: u32 = u32::BITS;
const PAGES: usize = 1 << PAGE_BITS;
const SLOTS: usize = 16;
const OFFSET_BITS: u32 = 34;
const ROW_BITS: u32 = 22;
const GENERATIONS: usize = 1 << (u64::BITS - ROW_BITS - OFFSET_BITS);
/// So many slots of a bucket are used, in the mean, when a page is laid out anew.
const SLOTS_USED: usize = 12;
/// Of a hundred slots of a page so many may be used.
const SLOTS_USED_PERCENT_MAX: usize = 94;
/// What an id takes at most, in a table of many.
const ID_BYTES: u64 = 16;

const _: () = assert!(size_of::<Bucket>() == 12 * SLOTS);
const _: () = assert!(PAGE_BITS + TAG_BITS == HASH_BITS);

impl TopicIdHash {
    const fn page(self) -> usize {
        (self.get() >> TAG_BITS) as usize
    }

    /// Never 0, which says that a slot is empty.
    const fn tag(self) -> u32 {
        tag_of(self.get())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
const fn tag_of(hash: u64) -> u32 {
    match hash as u32 {
        0 => 1,
        tag => tag,
    }
}

/// Sixteen entries; the first are used.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Bucket {
    tags: [u32; SLOTS],
    places: [u64; SLOTS],
}

impl Bucket {
    const EMPTY: Self = Self { tags: [0; SLOTS], places: [0; SLOTS] };

    /// Whether a slot holds `tag`.
    #[inline]
    fn holds(&self, tag: u32) -> bool {
        self.tags.iter().fold(false, |any, it| any | (*it == tag))
    }

    /// How many slots are used: the first so many.
    #[inline]
    fn used(&self) -> usize {
        self.tags.iter().fold(0, |used, it| used + usize::from(*it != 0))
    }

    const fn is_full(&self) -> bool {
        self.tags[SLOTS - 1] != 0
    }

    /// Shows the entries of `tag`.
    #[cold]
    fn show(&self, tag: u32, visit: &mut impl FnMut(Place)) {
        let same = self.tags.iter().zip(&self.places).filter(|(it, _)| **it == tag);
        same.for_each(|(_, place)| visit(Place(*place)));
    }
}

/// Which segments an entry's event lies in, and where.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    fn new(generation: u8, row: Row, offset: Offset) -> Self {
        let row = u64::from(row.0) << OFFSET_BITS;
        let generation = u64::from(generation) << (OFFSET_BITS + ROW_BITS);
        Self(generation | row | (offset.0 & OFFSET_MASK))
    }

    const fn generation(self) -> u8 {
        (self.0 >> (OFFSET_BITS + ROW_BITS)) as u8
    }

    const fn row(self) -> Row {
        Row(((self.0 >> OFFSET_BITS) & (ROWS_MAX as u64 - 1)) as u32)
    }

    /// The last offset below `next` that ends with these bits.
    const fn offset(self, next: Offset) -> Offset {
        let below = next.0.wrapping_sub(1);
        let offset = (below & !OFFSET_MASK) | (self.0 & OFFSET_MASK);
        Offset(if offset > below { offset.wrapping_sub(1 << OFFSET_BITS) } else { offset })
    }
}

const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;

/// The entries whose hashes begin alike.
#[derive(Default)]
struct Page {
    buckets: Vec<Bucket>,
    used: usize,
}

impl Page {
    /// Shows the entries of `tag`. Says which bucket has room for another.
    #[inline]
    fn search(&self, tag: u32, mut visit: impl FnMut(Place)) -> Option<usize> {
        let count = self.buckets.len();
        let mut at = scaled(tag, count);
        for _ in 0..count {
            let bucket = &self.buckets[at];
            if bucket.holds(tag) {
                bucket.show(tag, &mut visit);
            }
            if !bucket.is_full() {
                return Some(at);
            }
            at = after(at, count);
        }
        None
    }

    /// Shows the entries of these tags.
    fn search_between(&self, tags: RangeInclusive<u32>, mut visit: impl FnMut(Place)) {
        let count = self.buckets.len();
        let (mut at, last) = (scaled(*tags.start(), count), scaled(*tags.end(), count));
        let mut is_past = false;
        for _ in 0..count {
            let bucket = &self.buckets[at];
            let slots = bucket.tags.iter().zip(&bucket.places).take(bucket.used());
            slots.filter(|(tag, _)| tags.contains(tag)).for_each(|(_, place)| visit(Place(*place)));
            is_past |= at == last;
            if is_past && !bucket.is_full() {
                return;
            }
            at = after(at, count);
        }
    }

    /// Whether there is room without laying it out anew.
    const fn has_room(&self) -> bool {
        100 * self.used < self.buckets.len() * SLOTS * SLOTS_USED_PERCENT_MAX
    }

    /// Adds an entry to a bucket that is not full.
    #[inline]
    fn put(&mut self, at: usize, tag: u32, place: Place) {
        let bucket = &mut self.buckets[at];
        let slot = bucket.used();
        bucket.tags[slot] = tag;
        bucket.places[slot] = place.0;
        self.used += 1;
    }

    /// The entries of `tag` that count, in the order in which they were put there.
    fn slots_of(&self, tag: u32, counts: impl Fn(Place) -> bool) -> Slots {
        let count = self.buckets.len();
        let mut slots = Slots::new();
        let mut at = scaled(tag, count);
        for _ in 0..count {
            let bucket = &self.buckets[at];
            let same = (0..SLOTS).filter(|slot| bucket.tags[*slot] == tag);
            slots.extend(
                same.map(|slot| (at, slot)).filter(|it| counts(Place(bucket.places[it.1]))),
            );
            if !bucket.is_full() {
                break;
            }
            at = after(at, count);
        }
        slots
    }

    fn place(&self, (at, slot): (usize, usize)) -> Place {
        Place(self.buckets[at].places[slot])
    }

    /// Takes the first of `slots` out, and puts `last` behind the others.
    fn shift(&mut self, slots: &[(usize, usize)], last: Place) {
        for (to, from) in slots.iter().zip(&slots[1..]) {
            self.buckets[to.0].places[to.1] = self.place(*from).0;
        }
        let (at, slot) = slots[slots.len() - 1];
        self.buckets[at].places[slot] = last.0;
    }

    /// Lays it out anew, with room for some more, without those who are not to be kept. The others
    /// stay in the order in which they were put there, of each hash.
    fn lay_out(&mut self, bench: &mut Bench, keep: impl Fn(Place) -> bool) {
        bench.entries.clear();
        // Behind a bucket with room begins no bucket's overflow: what lies there was put there first.
        let first = self.buckets.iter().position(|bucket| !bucket.is_full()).map_or(0, |at| at + 1);
        let (overflown, in_order) = self.buckets.split_at(first);
        for bucket in in_order.iter().chain(overflown) {
            let slots = bucket.tags.iter().zip(&bucket.places).take(bucket.used());
            let kept = slots.map(|(tag, place)| (*tag, Place(*place)));
            bench.entries.extend(kept.filter(|(_, place)| keep(*place)));
        }
        self.used = bench.entries.len();
        let count = self.used / SLOTS_USED + 1;
        self.buckets.clear();
        self.buckets.shrink_to(count);
        self.buckets.reserve_exact(count);
        self.buckets.resize(count, Bucket::EMPTY);
        bench.used.clear();
        bench.used.resize(count, 0);
        // In order of hashes as good as always, and so in that of memory.
        for (tag, place) in &bench.entries {
            let mut at = scaled(*tag, count);
            while usize::from(bench.used[at]) == SLOTS {
                at = after(at, count);
            }
            let slot = usize::from(bench.used[at]);
            bench.used[at] += 1;
            self.buckets[at].tags[slot] = *tag;
            self.buckets[at].places[slot] = place.0;
        }
    }
}

/// `tag` as a share of `count`: in the same order, whatever the count.
#[inline]
fn scaled(tag: u32, count: usize) -> usize {
    ((u64::from(tag) * count as u64) >> u32::BITS) as usize
}

/// What follows `at`, of `count` in a ring.
#[inline]
const fn after(at: usize, count: usize) -> usize {
    if at + 1 == count { 0 } else { at + 1 }
}

/// Buckets, and slots in them.
type Slots = SmallVec<[(usize, usize); EVENTS_PER_ID_MAX]>;

/// Where the entries of a page lie while it is laid out anew: memory that is used again and again,
/// and stays near.
#[derive(Default)]
struct Bench {
    entries: Vec<(u32, Place)>,
    /// How many slots are used, by bucket.
    used: Vec<u8>,
}

/// Ids of events of some segments, one behind the other.
#[derive(Clone, Copy)]
struct Generation {
    number: u8,
    first: SegmentNumber,
    last: SegmentNumber,
    /// The smallest that was told of its events; before the first the greatest that there is.
    since: TimeMicros,
    /// The greatest of its events.
    append_time: TimeMicros,
    ids: u64,
}

/// An event whose id is there.
pub(crate) struct Known {
    place: Place,
    /// It was appended no sooner.
    pub(crate) since: TimeMicros,
}

impl Known {
    /// Its partition.
    pub(crate) const fn row(&self) -> Row {
        self.place.row()
    }

    /// Its offset, in a partition whose next one is `next`.
    pub(crate) const fn offset(&self, next: Offset) -> Offset {
        self.place.offset(next)
    }
}

/// Where events lie, by the hash of their id. See the [module](self).
pub(crate) struct HotIds {
    /// None before the first id.
    pages: Vec<Page>,
    /// The oldest first; the last is added to.
    generations: VecDeque<Generation>,
    is_live: [bool; GENERATIONS],
    /// Numbers that no entry has.
    free: Vec<u8>,
    /// Numbers whose entries are being taken out, and those that are to be next.
    dying: Vec<u8>,
    dead: Vec<u8>,
    /// The page that is swept next.
    sweep_at: usize,
    /// Those of all pages, used or not.
    buckets: usize,
    ids_max: u64,
    bench: Bench,
}

/// Where an event may lie.
pub(crate) type Found = SmallVec<[(Row, Offset); 1]>;

impl HotIds {
    /// Knows nothing; `segment` is what comes first.
    pub(crate) fn new(segment: SegmentNumber, bytes_max: u64) -> Self {
        let free = (0..=u8::MAX).rev().collect();
        let mut ids = Self {
            pages: Vec::new(),
            generations: VecDeque::new(),
            is_live: [false; GENERATIONS],
            free,
            dying: Vec::new(),
            dead: Vec::new(),
            sweep_at: 0,
            buckets: 0,
            ids_max: bytes_max / ID_BYTES,
            bench: Bench::default(),
        };
        ids.begin_generation(segment);
        ids
    }

    /// How many ids it knows.
    pub(crate) fn len(&self) -> u64 {
        self.generations.iter().map(|generation| generation.ids).sum()
    }

    /// The memory of its entries.
    pub(crate) const fn bytes(&self) -> usize {
        self.buckets * size_of::<Bucket>()
    }

    /// What follows lies in `segment`, or behind it.
    pub(crate) fn begin_segment(&mut self, segment: SegmentNumber) {
        let current = self.generations.back_mut().expect("there is always one");
        if current.ids == 0 {
            (current.first, current.last) = (segment, segment);
        } else if self.free.is_empty() {
            current.last = segment;
        } else {
            self.begin_generation(segment);
        }
    }

    fn begin_generation(&mut self, segment: SegmentNumber) {
        let number = self.free.pop().expect("it was looked whether one is free");
        self.is_live[usize::from(number)] = true;
        let append_time = TimeMicros(i64::MIN);
        let since = TimeMicros(i64::MAX);
        let (first, last) = (segment, segment);
        self.generations.push_back(Generation { number, first, last, since, append_time, ids: 0 });
    }

    /// Forgets the ids of all segments up to `segment`, as far as no later one shares a generation
    /// with them.
    pub(crate) fn forget_through(&mut self, segment: SegmentNumber) {
        while self.generations.len() > 1 && self.generations[0].last <= segment {
            self.forget_oldest();
        }
    }

    /// Forgets the ids of these segments, which are settled, but for those that share a generation with
    /// others.
    pub(crate) fn forget_settled(&mut self, segments: &RangeInclusive<SegmentNumber>) {
        for at in (0..self.generations.len().saturating_sub(1)).rev() {
            let Generation { first, last, .. } = self.generations[at];
            if segments.contains(&first) && segments.contains(&last) {
                self.forget_at(at);
            }
        }
    }

    /// From which segment on it knows the ids of all that are in the journal.
    pub(crate) fn since(&self) -> SegmentNumber {
        self.generations.front().expect("there is always one").first
    }

    /// Forgets segments whose events were all appended before `time`.
    pub(crate) fn forget_before(&mut self, time: TimeMicros) {
        while self.generations.len() > 1 && self.generations[0].append_time < time {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) -> Option<Generation> {
        self.forget_at(0)
    }

    fn forget_at(&mut self, at: usize) -> Option<Generation> {
        let gone = self.generations.remove(at)?;
        self.is_live[usize::from(gone.number)] = false;
        self.dead.push(gone.number);
        Some(gone)
    }

    /// Has the processor fetch what a search for each of `hashes`, and an insertion, looks at, all
    /// at once: the hashes in a bucket, its last places, of which one is mostly the next that is
    /// free, and the hashes in the bucket behind.
    pub(crate) fn touch(&self, hashes: impl Iterator<Item = TopicIdHash>) {
        if self.pages.is_empty() {
            return;
        }
        let mut any = 0;
        for hash in hashes {
            let buckets = &self.pages[hash.page()].buckets;
            let at = scaled(hash.tag(), buckets.len());
            let Some(bucket) = buckets.get(at) else { continue };
            any ^= u64::from(bucket.tags[0]) ^ bucket.places[SLOTS - 1];
            any ^= u64::from(buckets[after(at, buckets.len())].tags[0]);
        }
        black_box(any);
    }

    /// Whether there may be an event of this id.
    #[inline]
    pub(crate) fn may_hold(&self, hash: TopicIdHash) -> bool {
        let mut any = false;
        self.search(hash, |_| any = true);
        any
    }

    /// Where events lie whose id may be this, in order. `next` tells where a partition ends.
    pub(crate) fn find(&self, hash: TopicIdHash, next: impl Fn(Row) -> Offset) -> Found {
        let mut found = Found::new();
        self.search(hash, |place| found.push((place.row(), place.offset(next(place.row())))));
        found.sort_unstable();
        found
    }

    /// Where events lie whose id may have one of these hashes, which lie in one page, in order.
    pub(crate) fn find_between(
        &self,
        hashes: &RangeInclusive<u64>,
        next: impl Fn(Row) -> Offset,
    ) -> Found {
        let mut found = Found::new();
        let page = usize::try_from(*hashes.start() >> TAG_BITS).expect("a page of a hash");
        if let Some(page) = self.pages.get(page) {
            page.search_between(tag_of(*hashes.start())..=tag_of(*hashes.end()), |place| {
                if self.is_live[usize::from(place.generation())] {
                    found.push((place.row(), place.offset(next(place.row()))));
                }
            });
        }
        found.sort_unstable();
        found
    }

    /// See [`Page::search`]; shows what is not forgotten.
    #[inline]
    fn search(&self, hash: TopicIdHash, mut visit: impl FnMut(Place)) -> Option<usize> {
        self.pages.get(hash.page())?.search(hash.tag(), |place| {
            if self.is_live[usize::from(place.generation())] {
                visit(place);
            }
        })
    }

    /// Takes note of an event that was given its place, and was appended at `since` or later.
    /// Where its id has no room for another, `is_known` tells whether an event is known for
    /// certain still.
    #[inline]
    pub(crate) fn insert(
        &mut self,
        hash: TopicIdHash,
        (row, offset): (Row, Offset),
        since: TimeMicros,
        is_known: impl Fn(&Known) -> bool,
    ) {
        let mut known = 0;
        let room = self.search(hash, |_| known += 1);
        if row.0 >= ROWS_MAX {
            return;
        }
        if known >= EVENTS_PER_ID_MAX {
            self.displace(hash, (row, offset), since, is_known);
            return;
        }
        let place = self.count((row, offset), since);
        let room = room.filter(|_| self.pages[hash.page()].has_room());
        let at = room.unwrap_or_else(|| self.make_room(hash));
        self.pages[hash.page()].put(at, hash.tag(), place);
    }

    /// Counts an event to the current generation.
    fn count(&mut self, (row, offset): (Row, Offset), since: TimeMicros) -> Place {
        let current = self.generations.back_mut().expect("there is always one");
        current.ids += 1;
        current.since = current.since.min(since);
        Place::new(current.number, row, offset)
    }

    /// Has an event take the place of the oldest of its hash that is not known for certain.
    #[cold]
    fn displace(
        &mut self,
        hash: TopicIdHash,
        event: (Row, Offset),
        since: TimeMicros,
        is_known: impl Fn(&Known) -> bool,
    ) {
        let page = &self.pages[hash.page()];
        let is_live = |place: Place| self.is_live[usize::from(place.generation())];
        let slots = page.slots_of(hash.tag(), is_live);
        let generation_of = |place: Place| {
            let mut generations = self.generations.iter();
            let found = generations.position(|it| it.number == place.generation());
            found.expect("an entry that counts is of a generation that is there")
        };
        let oldest = slots.iter().position(|slot| {
            let place = page.place(*slot);
            let since = self.generations[generation_of(place)].since;
            !is_known(&Known { place, since })
        });
        let Some(oldest) = oldest else { return };
        let gone = generation_of(page.place(slots[oldest]));
        self.generations[gone].ids -= 1;
        let place = self.count(event, since);
        self.pages[hash.page()].shift(&slots[oldest..], place);
    }

    /// Lays out a page anew, and says in which bucket there is room now.
    #[cold]
    fn make_room(&mut self, hash: TopicIdHash) -> usize {
        if self.pages.is_empty() {
            self.pages.resize_with(PAGES, Page::default);
        }
        self.lay_out(hash.page());
        self.keep_bound();
        let room = self.pages[hash.page()].search(hash.tag(), |_| {});
        room.expect("a page that was laid out anew has room")
    }

    /// What was inserted was appended at `append_time`. Takes out some of what was forgotten.
    pub(crate) fn end_commit(&mut self, append_time: TimeMicros) {
        let current = self.generations.back_mut().expect("there is always one");
        current.append_time = append_time;
        if self.dying.is_empty() {
            std::mem::swap(&mut self.dying, &mut self.dead);
            self.sweep_at = 0;
        }
        if self.dying.is_empty() {
            return;
        }
        if self.sweep_at < self.pages.len() {
            self.lay_out(self.sweep_at);
            self.sweep_at += 1;
        } else {
            self.free.append(&mut self.dying);
        }
    }

    fn lay_out(&mut self, page: usize) {
        let page = &mut self.pages[page];
        self.buckets -= page.buckets.capacity();
        page.lay_out(&mut self.bench, |place| self.is_live[usize::from(place.generation())]);
        self.buckets += page.buckets.capacity();
    }

    fn keep_bound(&mut self) {
        while self.generations.len() > 1 && self.len() > self.ids_max {
            let Some(oldest) = self.forget_oldest() else { return };
            let (ids, segment) = (oldest.ids, oldest.last);
            tracing::warn!(
                "{ids} message ids up to segment {segment} are known no more: \
                 the table is bound to {} of them",
                self.ids_max
            );
        }
    }
}

impl std::fmt::Debug for HotIds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HotIds({} ids, {} bytes)", self.len(), self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;
    use tracklog_protocol::TopicId;

    use super::super::IdHash;
    use super::*;

    fn hash(number: u64) -> TopicIdHash {
        let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = mixed ^ (mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        TopicIdHash::new(TopicId(0), IdHash(mixed >> (u64::BITS - HASH_BITS)))
    }

    fn ids() -> HotIds {
        HotIds::new(SegmentNumber(1), u64::MAX)
    }

    /// Inserts an event that is known for certain as long as it is there.
    fn insert(ids: &mut HotIds, number: u64, (row, offset): (u32, u64)) {
        ids.insert(hash(number), (Row(row), Offset(offset)), TimeMicros(0), |_| true);
    }

    fn found(ids: &HotIds, number: u64) -> Vec<(u32, u64)> {
        let found = ids.find(hash(number), |_| Offset(1 << 60));
        found.into_iter().map(|(row, offset)| (row.0, offset.0 & OFFSET_MASK)).collect()
    }

    #[test]
    fn each_of_many_ids_is_found_and_no_other() {
        let mut ids = ids();
        let count = 300_000_u64;
        for number in 0..count {
            insert(&mut ids, number, (7, number));
        }
        assert_eq!(ids.len(), count);
        for number in 0..count {
            assert_eq!(found(&ids, number), [(7, number)]);
            assert_eq!(found(&ids, number + count), []);
        }
        let bytes = ids.bytes() as f64 / count as f64;
        assert!(bytes < 16.0, "{bytes} bytes for each");
    }

    #[test]
    fn an_offset_comes_back_whole_however_large() {
        for (offset, next) in [
            (0, 1),
            (OFFSET_MASK, OFFSET_MASK + 1),
            (OFFSET_MASK, OFFSET_MASK + 2),
            (OFFSET_MASK + 1, OFFSET_MASK + 2),
            (3 << OFFSET_BITS, (4 << OFFSET_BITS) - 1),
            (u64::MAX - 5, u64::MAX),
        ] {
            let place = Place::new(255, Row(ROWS_MAX - 1), Offset(offset));
            assert_eq!(place.offset(Offset(next)), Offset(offset));
            assert_eq!((place.row(), place.generation()), (Row(ROWS_MAX - 1), 255));
        }
    }

    #[test]
    fn a_forgotten_segment_is_found_no_more_and_its_number_is_used_again() {
        let mut ids = ids();
        for segment in 1..=300 {
            ids.begin_segment(SegmentNumber(segment));
            insert(&mut ids, segment, (0, segment));
            if segment > 3 {
                ids.forget_through(SegmentNumber(segment - 3));
                assert_eq!(found(&ids, segment - 3), []);
            }
            assert_eq!(found(&ids, segment.max(3) - 2).len(), 1);
            for time in 0..PAGES {
                ids.end_commit(TimeMicros(time as i64));
            }
        }
        assert_eq!(ids.len(), 3);
        let entries: usize = ids.pages.iter().map(|page| page.used).sum();
        assert!(entries < 10, "what was forgotten is taken out");
    }

    #[test]
    fn without_free_numbers_segments_share_a_generation() {
        let mut ids = ids();
        for segment in 1..=400 {
            ids.begin_segment(SegmentNumber(segment));
            insert(&mut ids, segment, (0, segment));
        }
        ids.forget_through(SegmentNumber(300));
        assert_eq!(found(&ids, 255), [], "it had a generation of its own");
        assert_eq!(found(&ids, 300).len(), 1, "its generation goes on");
        assert_eq!(found(&ids, 400).len(), 1);
    }

    #[test]
    fn beyond_the_window_whole_segments_are_forgotten() {
        let mut ids = ids();
        for segment in 1..=4 {
            ids.begin_segment(SegmentNumber(segment));
            insert(&mut ids, segment, (0, segment));
            ids.end_commit(TimeMicros(segment as i64));
        }
        ids.forget_before(TimeMicros(3));
        let known = (1..=4).map(|number| found(&ids, number).len());
        assert_eq!(known.collect::<Vec<_>>(), [0, 0, 1, 1]);
    }

    #[test]
    fn of_one_hash_the_first_entries_are_kept() {
        let mut ids = ids();
        for offset in 0..100 {
            insert(&mut ids, 1, (0, offset));
        }
        let expected: Vec<_> = (0..EVENTS_PER_ID_MAX as u64).map(|offset| (0, offset)).collect();
        assert_eq!(found(&ids, 1), expected);
    }

    #[test]
    fn what_may_be_known_no_more_makes_room_for_what_comes_the_oldest_first() {
        let mut ids = ids();
        let starts_at = |start| move |known: &Known| known.offset(Offset(20)).0 >= start;
        for offset in 0..EVENTS_PER_ID_MAX as u64 {
            ids.begin_segment(SegmentNumber(1 + offset));
            ids.insert(hash(1), (Row(0), Offset(offset)), TimeMicros(offset as i64), |_| true);
        }
        let known = |ids: &HotIds| found(ids, 1).into_iter().map(|it| it.1).collect::<Vec<_>>();
        let insert = |ids: &mut HotIds, offset, start| {
            ids.insert(hash(1), (Row(0), Offset(offset)), TimeMicros(9), starts_at(start));
        };
        insert(&mut ids, 8, 0);
        assert_eq!(known(&ids), [0, 1, 2, 3, 4, 5, 6, 7], "all are known");
        insert(&mut ids, 9, 2);
        insert(&mut ids, 10, 2);
        insert(&mut ids, 11, 2);
        assert_eq!(known(&ids), [2, 3, 4, 5, 6, 7, 9, 10]);
        ids.insert(hash(1), (Row(0), Offset(12)), TimeMicros(9), |known| known.since.0 > 2);
        assert_eq!(known(&ids), [3, 4, 5, 6, 7, 9, 10, 12]);
        assert_eq!(ids.len(), EVENTS_PER_ID_MAX as u64);
        ids.forget_through(SegmentNumber(7));
        assert_eq!(known(&ids), [7, 9, 10, 12]);
        assert_eq!(ids.len(), 4);
    }

    #[test]
    fn beyond_its_bound_the_oldest_ids_go() {
        let mut ids = HotIds::new(SegmentNumber(1), 100_000 * ID_BYTES);
        for number in 0..400_000 {
            if number % 10_000 == 0 {
                ids.begin_segment(SegmentNumber(1 + number / 10_000));
            }
            insert(&mut ids, number, (0, number));
            if number % 4 == 0 {
                ids.end_commit(TimeMicros(0));
            }
        }
        assert_eq!(found(&ids, 0), []);
        assert_eq!(found(&ids, 399_999).len(), 1);
        assert!(ids.len() <= 100_000 && ids.bytes() < 150_000 * 16, "{ids:?}");
    }

    /// The time of this thread, whatever else the machine did meanwhile.
    fn cpu_time() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        time.try_into().expect("a thread's time does not go below 0")
    }

    /// Inserts ids from `from` to `to` in commits of a thousand; those whose insertion took longer
    /// than `slow`, and how long.
    fn slow_insertions(
        ids: &mut HotIds,
        from: u64,
        to: u64,
        slow: Duration,
    ) -> Vec<(u64, Duration)> {
        let mut found = Vec::new();
        let mut before = cpu_time();
        for number in from..to {
            insert(ids, number, (7, number));
            if number % 1_000 == 0 {
                ids.end_commit(TimeMicros(0));
            }
            let after = cpu_time();
            if after - before > slow {
                found.push((number, after - before));
            }
            before = after;
        }
        found
    }

    /// What holds up the whole machine counts as this thread's time too, but not each time at the
    /// same insertion.
    #[test]
    #[ignore = "measures, for minutes: run it built for release, with --nocapture"]
    #[allow(clippy::print_stdout, reason = "figures are what this is for")]
    fn no_insertion_takes_a_millisecond() {
        const STEPS: [u64; 4] = [1_000_000, 10_000_000, 50_000_000, 200_000_000];
        const SLOW: Duration = Duration::from_micros(50);
        let mut turns = [ids(), ids(), ids()];
        let mut from = 0;
        for to in STEPS {
            let mut slow = turns.each_mut().map(|ids| slow_insertions(ids, from, to, SLOW));
            let first = std::mem::take(&mut slow[0]);
            let again = slow[1..].iter().map(|it| it.iter().copied().collect::<BTreeMap<_, _>>());
            let again: Vec<_> = again.collect();
            let shortest = first.iter().filter_map(|(number, took)| {
                let mut others = again.iter().map(|it| it.get(number).copied());
                others.try_fold(*took, |shortest, it| Some(shortest.min(it?)))
            });
            let longest = shortest.max().unwrap_or(SLOW);
            println!("{to} ids: the longest insertion took {} us or less", longest.as_micros());
            assert!(longest < Duration::from_millis(1), "{longest:?} at {to} ids");
            from = to;
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, u32),
        Begin,
        Forget(u64),
        Commit,
    }

    fn step() -> impl Strategy<Value = Step> {
        let numbers = prop_oneof![0_u64..300, Just(7)];
        prop_oneof![
            20 => (numbers, 0_u32..9).prop_map(|(number, row)| Step::Insert(number, row)),
            2 => Just(Step::Begin),
            1 => (0_u64..3).prop_map(Step::Forget),
            3 => Just(Step::Commit),
        ]
    }

    proptest! {
        /// The table and a map are told the same.
        #[test]
        fn it_knows_what_a_map_knows(steps in prop::collection::vec(step(), 1..900)) {
            let mut ids = ids();
            let mut map: BTreeMap<u64, Vec<(u64, u32, u64)>> = BTreeMap::new();
            let (mut segment, mut forgotten) = (1, 0);
            for (offset, step) in (0_u64..).zip(steps) {
                match step {
                    Step::Insert(number, row) => {
                        let start = offset.saturating_sub(300);
                        ids.insert(hash(number), (Row(row), Offset(offset)), TimeMicros(0), |it| {
                            it.offset(Offset(offset)).0 >= start
                        });
                        let known = map.entry(number).or_default();
                        known.retain(|(segment, ..)| *segment > forgotten);
                        if known.len() == EVENTS_PER_ID_MAX && known[0].2 < start {
                            known.remove(0);
                        }
                        if known.len() < EVENTS_PER_ID_MAX {
                            known.push((segment, row, offset));
                        }
                    }
                    Step::Begin => {
                        segment += 1;
                        ids.begin_segment(SegmentNumber(segment));
                    }
                    Step::Forget(kept) => {
                        forgotten = forgotten.max(segment.saturating_sub(kept + 1));
                        ids.forget_through(SegmentNumber(forgotten));
                    }
                    Step::Commit => ids.end_commit(TimeMicros(0)),
                }
                for number in [0, 7, 299] {
                    let known = map.get(&number).map_or(&[][..], Vec::as_slice);
                    let known = known.iter().filter(|(segment, ..)| *segment > forgotten);
                    let mut known: Vec<_> = known.map(|(_, row, offset)| (*row, *offset)).collect();
                    known.sort_unstable();
                    prop_assert_eq!(found(&ids, number), known);
                }
            }
            for (number, known) in map {
                let known = known.iter().filter(|(segment, ..)| *segment > forgotten);
                let mut known: Vec<_> = known.map(|(_, row, offset)| (*row, *offset)).collect();
                known.sort_unstable();
                prop_assert_eq!(found(&ids, number), known);
            }
        }
    }
}
