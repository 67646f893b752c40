//! The ids of a pack: an index in its file, sorted by hash, of the events that are known by their
//! message ids. FORMAT.md §9.
//!
//! ```text
//! page 0                                    page 1
//! +-------+-------+-- … --+-------+-----+   +-------+-- …
//! | entry | entry | 371 in all    | CRC |   | entry |
//! +-------+-------+-- … --+-------+-----+   +-------+-- …
//! ```
//!
//! An entry of 11 bytes says the hash (44 bits) and where the event lies: which of the pack's places
//! (24 bits), and how far behind the first offset there (20 bits). With which hash each page begins is in
//! the footer, so that a look reads one page, seldom two, whatever size the pack has.
//!
//! Promises
//! - Of one hash [`EVENTS_PER_ID_MAX`] entries are kept, those that were appended first.
//! - Making one takes 12 bytes of memory for each event that is read, and a few pages for each pack
//!   that already has its own: sorted indexes are merged as they are read.
//! - A page is believed only when its checksum holds and it begins as the footer says. What rots costs
//!   no event: those that it names are known no more, until the log is opened again or the pack is
//!   merged: then the events themselves are read.
//!
//! Written by the settler through [`PackBuilder`](super::pack::PackBuilder); read by opening, `verify`,
//! and whoever looks for an id.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use tracklog_log::dedupe::EVENTS_PER_ID_MAX;
use tracklog_protocol::{BatchView, Offset, PartitionId, TimeMicros, TopicId};

use crate::disk::{BufferPool, PAGE_BYTES, PackFile};
use crate::fields::{Fields, FieldsMut};
use crate::partition::places::{PartitionShare, Place};
use crate::seen::event_ids::{HASH_BITS, IdKey, topic_hash_of};
use crate::settled::pack::{PackError, PackIndex};

const ENTRY_BYTES: usize = 11;
/// So many entries a page has; the last one may have fewer.
const PAGE_ENTRIES: usize = 371;
const PAGE_CRC_AT: usize = PAGE_BYTES - 4;
/// An event lies no further behind the first offset of its place: a longer place is cut.
pub(crate) const OFFSETS_PER_PLACE_MAX: u64 = 1 << OFFSET_BITS;
const OFFSET_BITS: u32 = 20;
const PLACE_BITS: u32 = 24;
/// The first hash of a page is told by its highest bits.
const FIRST_SHIFT: u32 = HASH_BITS - u32::BITS;
/// So many pages are read at once by who reads all of them.
const PAGES_AT_ONCE: usize = 128;

const _: () = assert!((HASH_BITS + PLACE_BITS + OFFSET_BITS) as usize == 8 * ENTRY_BYTES);
const _: () = assert!(PAGE_ENTRIES * ENTRY_BYTES <= PAGE_CRC_AT);

/// Where the index of a pack's ids lies in the file, and what it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdIndex {
    /// A multiple of a page.
    at: u64,
    entries: u64,
    /// All events of these topics are in it, in order.
    topics: Vec<TopicId>,
    /// The highest bits of each page's first hash.
    firsts: Vec<u32>,
}

/// An event that is in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    /// Hash, place and offset behind one another, in three parts so that it takes 12 bytes.
    high: u32,
    middle: u32,
    low: u32,
}

impl Entry {
    fn new(hash: u64, place: u32, offset: u64) -> Self {
        let place = u64::from(place) << OFFSET_BITS | offset;
        Self::from_bits(u128::from(hash) << (PLACE_BITS + OFFSET_BITS) | u128::from(place))
    }

    #[expect(clippy::cast_possible_truncation, reason = "each part is 32 bits of it")]
    const fn from_bits(bits: u128) -> Self {
        Self { high: (bits >> 64) as u32, middle: (bits >> 32) as u32, low: bits as u32 }
    }

    fn bits(self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.middle) << 32 | u128::from(self.low)
    }

    #[expect(clippy::cast_possible_truncation, reason = "a hash has 44 bits")]
    fn hash(self) -> u64 {
        (self.bits() >> (PLACE_BITS + OFFSET_BITS)) as u64
    }

    /// Which place, and how far behind its first offset.
    fn place(self) -> (u32, u64) {
        let bits = u64::from(self.middle) << 32 | u64::from(self.low);
        let place = bits >> OFFSET_BITS & ((1 << PLACE_BITS) - 1);
        (u32::try_from(place).expect("24 bits"), bits & (OFFSETS_PER_PLACE_MAX - 1))
    }

    fn encode(self, page: &mut Vec<u8>) {
        page.put(&self.bits().to_le_bytes()[..ENTRY_BYTES]);
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut wide = [0; 16];
        wide[..ENTRY_BYTES].copy_from_slice(bytes);
        Self::from_bits(u128::from_le_bytes(wide))
    }
}

/// What of a hash is told of the first of a page.
fn first_of(hash: u64) -> u32 {
    u32::try_from(hash >> FIRST_SHIFT).expect("32 of 44 bits")
}

impl IdIndex {
    pub(crate) fn encode(&self, fields: &mut Vec<u8>) {
        fields.put_u64(self.at);
        fields.put_u64(self.entries);
        fields.put_list(&self.topics, |fields, topic| fields.put_u32(topic.0));
        fields.put_list(&self.firsts, |fields, first| fields.put_u32(*first));
    }

    pub(crate) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let (at, entries) = (fields.u64()?, fields.u64()?);
        let topics = fields.list(|fields| fields.u32().map(TopicId))?;
        let firsts = fields.list(Fields::u32)?;
        let index = Self { at, entries, topics, firsts };
        let is_sound = at.is_multiple_of(PAGE_BYTES as u64)
            && index.firsts.len() as u64 == entries.div_ceil(PAGE_ENTRIES as u64)
            && index.firsts.is_sorted()
            && index.topics.is_sorted();
        is_sound.then_some(index)
    }

    /// Where it lies in the file.
    pub(crate) const fn at(&self) -> u64 {
        self.at
    }

    /// How many events are in it.
    pub(crate) const fn len(&self) -> u64 {
        self.entries
    }

    /// What it takes in the file.
    pub(crate) const fn file_bytes(&self) -> u64 {
        (self.firsts.len() * PAGE_BYTES) as u64
    }

    pub(crate) const fn memory_bytes(&self) -> usize {
        self.firsts.len() * size_of::<u32>() + self.topics.len() * size_of::<TopicId>()
    }

    /// The topics all of whose events are in it, in order.
    pub(crate) fn topics(&self) -> &[TopicId] {
        &self.topics
    }

    /// Whether it ends at `end` in the file or before.
    pub(crate) fn ends_by(&self, end: u64) -> bool {
        self.at.checked_add(self.file_bytes()).is_some_and(|own| own <= end)
    }

    /// Whether all events of a topic are in it.
    pub(crate) fn covers(&self, topic: TopicId) -> bool {
        self.topics.binary_search(&topic).is_ok()
    }

    /// The pages in which these hashes may lie.
    fn pages_of(&self, hashes: &RangeInclusive<u64>) -> std::ops::Range<usize> {
        let (low, high) = (first_of(*hashes.start()), first_of(*hashes.end()));
        let from = self.firsts.partition_point(|first| *first < low);
        let to = self.firsts.partition_point(|first| *first <= high);
        from.saturating_sub(1)..to
    }

    fn entries_of(&self, page: usize) -> usize {
        let before = (page * PAGE_ENTRIES) as u64;
        usize::try_from(self.entries - before).map_or(PAGE_ENTRIES, |left| left.min(PAGE_ENTRIES))
    }

    /// The entries of a page, where it is sound.
    fn entries<'a>(
        &self,
        page: usize,
        bytes: &'a [u8],
    ) -> Result<impl ExactSizeIterator<Item = Entry> + 'a, PackError> {
        let (covered, crc) = bytes.split_last_chunk::<4>().ok_or(PackError::Bad)?;
        if crc32fast::hash(covered).to_le_bytes() != *crc {
            return Err(PackError::Bad);
        }
        let all = &covered[..self.entries_of(page) * ENTRY_BYTES];
        let entries = all.chunks_exact(ENTRY_BYTES).map(Entry::decode);
        let first = entries.clone().next().map(|first| first_of(first.hash()));
        if first == Some(self.firsts[page]) { Ok(entries) } else { Err(PackError::Bad) }
    }
}

/// Looks for ids in one pack.
pub(crate) struct IdSearch<'a> {
    pack: &'a PackIndex,
    file: &'a dyn PackFile,
    pool: &'a BufferPool,
    places: PlaceNumbers<'a>,
}

impl<'a> IdSearch<'a> {
    pub(crate) fn new(pack: &'a PackIndex, file: &'a dyn PackFile, pool: &'a BufferPool) -> Self {
        Self { pack, file, pool, places: PlaceNumbers::of(&pack.shares) }
    }

    /// Where the events lie that have one of these hashes: of each hash in the order in which they were
    /// appended.
    pub(crate) fn find(
        &self,
        hashes: &RangeInclusive<u64>,
        mut visit: impl FnMut(PartitionId, Offset),
    ) -> Result<(), PackError> {
        let Some(ids) = &self.pack.ids else { return Ok(()) };
        for page in ids.pages_of(hashes) {
            let mut bytes = self.pool.take(PAGE_BYTES);
            self.file.read(ids.at + (page * PAGE_BYTES) as u64, &mut bytes)?;
            let entries = ids.entries(page, &bytes)?;
            for entry in entries.filter(|entry| hashes.contains(&entry.hash())) {
                let (partition, offset) = self.places.event(entry).ok_or(PackError::Bad)?;
                visit(partition, offset);
            }
        }
        Ok(())
    }
}

/// The places of a pack by their numbers: they count through all shares.
struct PlaceNumbers<'a> {
    shares: &'a [PartitionShare],
    /// The number of each share's first place.
    firsts: Vec<u32>,
}

impl<'a> PlaceNumbers<'a> {
    fn of(shares: &'a [PartitionShare]) -> Self {
        let mut next = 0;
        let firsts = shares.iter().map(|share| {
            let first = next;
            next += crate::fields::length_u32(share.places.len());
            first
        });
        let firsts = firsts.collect();
        Self { shares, firsts }
    }

    /// Which place of which share has a number.
    fn place(&self, number: u32) -> Option<(usize, usize)> {
        let share = self.firsts.partition_point(|first| *first <= number).checked_sub(1)?;
        let place = (number - self.firsts[share]) as usize;
        (place < self.shares[share].places.len()).then_some((share, place))
    }

    fn event(&self, entry: Entry) -> Option<(PartitionId, Offset)> {
        let (number, behind) = entry.place();
        let (share, place) = self.place(number)?;
        let share = &self.shares[share];
        Some((share.partition, offset_in(share, place, behind)?))
    }

    /// The entry of an event at its place; `None` where no place of these holds it.
    fn entry(&self, hash: u64, partition: PartitionId, offset: Offset) -> Option<Entry> {
        let at = self.shares.binary_search_by_key(&partition, |share| share.partition).ok()?;
        let share = &self.shares[at];
        let is_before = |place: &Place| place.base_offset <= offset;
        let place = share.places.partition_point(is_before).checked_sub(1)?;
        let behind = offset.0 - share.places[place].base_offset.0;
        let number = self.firsts[at] + u32::try_from(place).ok()?;
        let fits = offset < share.end && behind < OFFSETS_PER_PLACE_MAX && number < 1 << PLACE_BITS;
        fits.then(|| Entry::new(hash, number, behind))
    }
}

/// The offset so far behind the first of a place, where the place has one.
fn offset_in(share: &PartitionShare, place: usize, behind: u64) -> Option<Offset> {
    let first = share.places.get(place)?.base_offset;
    let end = share.places.get(place + 1).map_or(share.end, |next| next.base_offset);
    (first.0.checked_add(behind)? < end.0).then(|| first.plus(behind))
}

/// What an index is read for, all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexedId {
    pub(crate) hash: u64,
    /// Which share, and which of its places.
    pub(crate) share: usize,
    pub(crate) place: usize,
    pub(crate) offset: Offset,
}

/// Reads all of a pack's index, in order of hashes. A page that is rotten is an error.
pub(crate) struct IdReader {
    pack: Arc<PackIndex>,
    firsts: Vec<u32>,
    file: Arc<dyn PackFile>,
    page: usize,
    /// The entries that were read and not taken yet, the last one first.
    read: Vec<Entry>,
}

impl IdReader {
    pub(crate) fn new(pack: Arc<PackIndex>, file: Arc<dyn PackFile>) -> Self {
        let firsts = PlaceNumbers::of(&pack.shares).firsts;
        Self { pack, firsts, file, page: 0, read: Vec::new() }
    }

    pub(crate) const fn pack(&self) -> &Arc<PackIndex> {
        &self.pack
    }

    /// Reads all of it, and says how many events are in it.
    pub(crate) fn count(mut self) -> io::Result<u64> {
        let mut count = 0;
        while self.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// The next one; `None` at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<IndexedId>> {
        loop {
            if let Some(entry) = self.read.pop() {
                return Ok(Some(self.indexed(entry)?));
            }
            if !self.read_on()? {
                return Ok(None);
            }
        }
    }

    fn indexed(&self, entry: Entry) -> io::Result<IndexedId> {
        let (number, behind) = entry.place();
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "an id without a place");
        let share = self.firsts.partition_point(|first| *first <= number).checked_sub(1);
        let share = share.ok_or_else(wrong)?;
        let place = (number - self.firsts[share]) as usize;
        let offset = offset_in(&self.pack.shares[share], place, behind).ok_or_else(wrong)?;
        Ok(IndexedId { hash: entry.hash(), share, place, offset })
    }

    fn read_on(&mut self) -> io::Result<bool> {
        let Some(ids) = self.pack.ids.as_ref().filter(|ids| self.page < ids.firsts.len()) else {
            return Ok(false);
        };
        let pages = (ids.firsts.len() - self.page).min(PAGES_AT_ONCE);
        let mut bytes = crate::disk::PageBuffer::zeroed(pages * PAGE_BYTES);
        self.file.read(ids.at + (self.page * PAGE_BYTES) as u64, &mut bytes)?;
        for page in bytes.chunks_exact(PAGE_BYTES) {
            self.read.extend(ids.entries(self.page, page).map_err(io::Error::other)?);
            self.page += 1;
        }
        self.read.reverse();
        Ok(true)
    }
}

/// Gathers the index of a pack that is being made.
pub(crate) struct IdsBuilder {
    key: IdKey,
    /// The topics that come, in order.
    topics: Vec<TopicId>,
    /// Of events that were read.
    gathered: Vec<Entry>,
    /// Of packs that are merged.
    merged: Vec<(IdReader, Vec<TopicId>)>,
}

impl IdsBuilder {
    pub(crate) const fn new(key: IdKey) -> Self {
        Self { key, topics: Vec::new(), gathered: Vec::new(), merged: Vec::new() }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// All events of this topic will come.
    pub(crate) fn cover(&mut self, topic: TopicId) {
        if self.topics.last() != Some(&topic) {
            self.topics.push(topic);
        }
    }

    /// Adds the events of a batch in a place: its number, and its first offset.
    pub(crate) fn add(&mut self, (number, first): (u32, Offset), batch: &BatchView) {
        let topic = batch.partition().topic;
        for (offset, record) in batch.records() {
            let Some(hash) = topic_hash_of(self.key, topic, record) else { continue };
            if number < 1 << PLACE_BITS {
                self.gathered.push(Entry::new(hash.get(), number, offset.0 - first.0));
            }
        }
    }

    /// Adds one event by its hash.
    #[cfg(test)]
    pub(super) fn add_hash(&mut self, hash: u64, (place, offset): (u32, u64)) {
        self.gathered.push(Entry::new(hash, place, offset));
    }

    /// Adds the events of these topics that the index of a pack names, which is older than what was
    /// added so before.
    pub(crate) fn merge(&mut self, pack: IdReader, topics: Vec<TopicId>) {
        self.merged.push((pack, topics));
    }

    /// Writes the pages. `at` is where they begin; shares and append times are those of the pack.
    pub(crate) fn write(
        self,
        at: u64,
        (shares, append_times): (&[PartitionShare], &[Vec<TimeMicros>]),
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<IdIndex> {
        let Self { topics, mut gathered, merged, .. } = self;
        gathered.sort_unstable();
        let places = PlaceNumbers::of(shares);
        let mut runs = Runs::new(gathered, merged, &places)?;
        let index = IdIndex { at, entries: 0, topics, firsts: Vec::new() };
        let mut pages = Pages { index, page: Vec::with_capacity(PAGE_BYTES), write };
        let mut same: Vec<Entry> = Vec::new();
        loop {
            let entry = runs.next()?;
            if same.first().is_some_and(|first| entry.is_none_or(|it| it.hash() != first.hash())) {
                let appended_at = |entry: &Entry| {
                    let place = places.place(entry.place().0);
                    (place.map(|(share, place)| append_times[share][place]), *entry)
                };
                same.sort_by_key(appended_at);
                same.dedup();
                for entry in same.drain(..).take(EVENTS_PER_ID_MAX) {
                    pages.put(entry)?;
                }
                same.clear();
            }
            match entry {
                Some(entry) => same.push(entry),
                None => break,
            }
        }
        pages.finish()
    }
}

/// Sorted runs of entries that become one.
struct Runs<'a> {
    places: &'a PlaceNumbers<'a>,
    gathered: std::iter::Peekable<std::vec::IntoIter<Entry>>,
    /// The next of each pack, where it has one.
    merged: Vec<(Entry, IdReader, Vec<TopicId>)>,
}

impl<'a> Runs<'a> {
    fn new(
        gathered: Vec<Entry>,
        merged: Vec<(IdReader, Vec<TopicId>)>,
        places: &'a PlaceNumbers<'a>,
    ) -> io::Result<Self> {
        let mut runs =
            Self { places, gathered: gathered.into_iter().peekable(), merged: Vec::new() };
        for (mut reader, topics) in merged {
            if let Some(entry) = runs.next_of(&mut reader, &topics)? {
                runs.merged.push((entry, reader, topics));
            }
        }
        Ok(runs)
    }

    /// The next entry of a pack whose event is in the new one.
    fn next_of(&self, reader: &mut IdReader, topics: &[TopicId]) -> io::Result<Option<Entry>> {
        while let Some(IndexedId { hash, share, offset, .. }) = reader.next()? {
            let partition = reader.pack().shares[share].partition;
            if !topics.contains(&partition.topic) {
                continue;
            }
            if let Some(entry) = self.places.entry(hash, partition, offset) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// The entry with the least hash.
    fn next(&mut self) -> io::Result<Option<Entry>> {
        let least = self.merged.iter().enumerate().min_by_key(|(_, (entry, ..))| entry.hash());
        let least = least.map(|(at, (entry, ..))| (at, entry.hash()));
        let is_gathered = |least: Option<(usize, u64)>, entry: &Entry| {
            least.is_none_or(|(_, hash)| entry.hash() < hash)
        };
        if let Some(entry) = self.gathered.next_if(|entry| is_gathered(least, entry)) {
            return Ok(Some(entry));
        }
        let Some((at, _)) = least else { return Ok(None) };
        let (entry, mut reader, topics) = self.merged.swap_remove(at);
        if let Some(next) = self.next_of(&mut reader, &topics)? {
            self.merged.push((next, reader, topics));
        }
        Ok(Some(entry))
    }
}

/// The pages while they are written.
struct Pages<'a> {
    index: IdIndex,
    page: Vec<u8>,
    write: &'a mut dyn FnMut(&[u8]) -> io::Result<()>,
}

impl Pages<'_> {
    fn put(&mut self, entry: Entry) -> io::Result<()> {
        if self.page.is_empty() {
            self.index.firsts.push(first_of(entry.hash()));
        }
        entry.encode(&mut self.page);
        self.index.entries += 1;
        if self.page.len() == PAGE_ENTRIES * ENTRY_BYTES { self.end_page() } else { Ok(()) }
    }

    fn end_page(&mut self) -> io::Result<()> {
        self.page.resize(PAGE_CRC_AT, 0);
        let crc = crc32fast::hash(&self.page);
        self.page.put_u32(crc);
        (self.write)(&self.page)?;
        self.page.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<IdIndex> {
        if !self.page.is_empty() {
            self.end_page()?;
        }
        Ok(self.index)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_written_and_sorts_by_hash() {
        let most = (1 << HASH_BITS) - 1;
        for (hash, place, offset) in [(0, 0, 0), (1, 2, 3), (most, (1 << 24) - 1, (1 << 20) - 1)] {
            let mut bytes = Vec::new();
            Entry::new(hash, place, offset).encode(&mut bytes);
            assert_eq!(bytes.len(), ENTRY_BYTES);
            let entry = Entry::decode(&bytes);
            assert_eq!((entry.hash(), entry.place()), (hash, (place, offset)));
        }
        assert!(Entry::new(1, (1 << 24) - 1, (1 << 20) - 1) < Entry::new(2, 0, 0));
    }

    /// One share of places of a hundred offsets each.
    fn shares(places: u64) -> Vec<PartitionShare> {
        let place = |at: u64| Place::at_unit(Offset(at * 100), 0, 0);
        vec![PartitionShare {
            partition: PartitionId::new(TopicId(1), 0),
            event_time_max: TimeMicros(0),
            places: (0..places).map(place).collect(),
            end: Offset(places * 100),
        }]
    }

    /// What the pages of these events hold, by hash.
    fn written(events: &[(u64, u64)]) -> (IdIndex, Vec<u8>) {
        let places = events.iter().map(|(_, offset)| offset / 100 + 1).max().unwrap_or(0).max(50);
        let shares = shares(places);
        let times = vec![(0..places.cast_signed()).map(TimeMicros).collect::<Vec<_>>()];
        let mut ids = IdsBuilder::new(IdKey::of(crate::journal::segment::ClusterId(1), 64));
        ids.cover(TopicId(1));
        for (hash, offset) in events {
            ids.add_hash(*hash, (u32::try_from(offset / 100).unwrap(), offset % 100));
        }
        let mut pages = Vec::new();
        let write = &mut |page: &[u8]| {
            pages.extend_from_slice(page);
            Ok(())
        };
        let index = ids.write(0, (&shares, &times), write).unwrap();
        (index, pages)
    }

    #[test]
    fn an_id_takes_no_more_than_twelve_bytes_on_the_disk() {
        let hash = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - HASH_BITS);
        let events: Vec<(u64, u64)> = (0..100_000).map(|number| (hash(number), number)).collect();
        let (index, pages) = written(&events);
        assert_eq!(index.len(), 100_000);
        let mut footer = Vec::new();
        index.encode(&mut footer);
        let bytes = pages.len() + footer.len();
        assert!((1_100_000..=1_200_000).contains(&bytes), "{bytes} bytes for 100,000 ids");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Each hash is found on the pages that are named for it, with the first of its events.
        #[test]
        fn what_is_written_is_found_on_few_pages(
            events in prop::collection::btree_set((0_u64..200, 0_u64..5_000), 0..1_500),
            spread in prop_oneof![Just(1_u64), Just(1 << 30)],
        ) {
            let mut by_hash: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            let events: Vec<_> = events.into_iter().map(|(hash, at)| (hash * spread, at)).collect();
            for (hash, offset) in &events {
                by_hash.entry(*hash).or_default().push(*offset);
            }
            let (index, pages) = written(&events);
            prop_assert_eq!(pages.len() as u64, index.file_bytes());
            let mut fields = Vec::new();
            index.encode(&mut fields);
            prop_assert_eq!(IdIndex::decode(&mut Fields::new(&fields)), Some(index.clone()));
            for hash in (0..200).map(|hash| hash * spread) {
                let mut found = Vec::new();
                for page in index.pages_of(&(hash..=hash)) {
                    let bytes = &pages[page * PAGE_BYTES..(page + 1) * PAGE_BYTES];
                    let entries = index.entries(page, bytes).unwrap().filter(|it| it.hash() == hash);
                    found.extend(entries.map(|it| u64::from(it.place().0) * 100 + it.place().1));
                }
                let mut known = by_hash.get(&hash).cloned().unwrap_or_default();
                known.truncate(EVENTS_PER_ID_MAX);
                prop_assert_eq!(found, known);
            }
        }
    }

    #[test]
    fn an_entry_leads_to_no_offset_outside_of_its_place() {
        let mut shares = shares(50);
        let event = |shares: &[PartitionShare], place, behind| {
            let event = PlaceNumbers::of(shares).event(Entry::new(1, place, behind));
            event.map(|(_, offset)| offset.0)
        };
        assert_eq!((event(&shares, 0, 99), event(&shares, 0, 100)), (Some(99), None));
        assert_eq!((event(&shares, 49, 99), event(&shares, 49, 100)), (Some(4_999), None));
        assert_eq!(event(&shares, 50, 0), None);
        let last = Offset(u64::MAX - 1);
        shares[0].places.push(Place::at_unit(last, 0, 0));
        shares[0].end = last.plus(1);
        assert_eq!((event(&shares, 50, 0), event(&shares, 50, 1)), (Some(last.0), None));
        assert_eq!(event(&shares, 50, 5), None, "offsets do not run over");
    }

    #[test]
    fn a_rotten_page_and_one_of_another_place_are_not_believed() {
        let events: Vec<_> = (0..1_000).map(|number| (number << 30, number)).collect();
        let (index, mut pages) = written(&events);
        assert!(index.entries(1, &pages[PAGE_BYTES..2 * PAGE_BYTES]).is_ok());
        assert!(index.entries(0, &pages[PAGE_BYTES..2 * PAGE_BYTES]).is_err());
        pages[PAGE_BYTES + 5] ^= 1;
        assert!(index.entries(1, &pages[PAGE_BYTES..2 * PAGE_BYTES]).is_err());
    }
}
