//! Which filters there are over the ids of packs, so that few tell of all that is in the window.
//!
//! Each covers packs side by side, and is made of their indexes. One more comes with each new pack.
//! When there are more than [`FILTERS_MAX`], the two neighbours that hold the fewest ids become one,
//! made anew, as long as that spans no more than a quarter of the window: so an id is read some times
//! more, and a filter that spans much of the window keeps few ids that are out of it.
//!
//! Promises
//! - An id of the window that a pack's index names is in a filter.
//! - There are at most a dozen, however many packs the window spans, and together they stay below a
//!   bound: beyond it the oldest go, and that is said.
//!
//! Called by the settler, on its own thread, and at opening.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tracklog_protocol::TimeMicros;

use crate::disk::{PackFile, PackId};
use crate::journal::commit::SegmentNumber;
use crate::seen::event_ids::{FilterBuilder, IdFilter, SpanFilter};
use crate::settled::ids::{IdIndex, IdReader, IndexedId};
use crate::settled::pack::PackIndex;

/// Neighbours are made one while there are more.
const FILTERS_MAX: usize = 8;
/// As long as the two span no more than such a share of the window.
const SPANS_PER_WINDOW: u32 = 4;

/// Opens the file of a pack.
pub(crate) type OpenPack<'a> = &'a dyn Fn(PackId) -> io::Result<Arc<dyn PackFile>>;

/// What filters are made of.
pub(crate) struct Filters<'a> {
    /// The packs, oldest first.
    pub(crate) packs: &'a [Arc<PackIndex>],
    pub(crate) open: OpenPack<'a>,
    pub(crate) window: Duration,
    /// Where that begins.
    pub(crate) not_before: TimeMicros,
    pub(crate) bytes_max: u64,
}

impl Filters<'_> {
    /// The filters over all packs; and the packs whose indexes cannot be read, which are in none.
    pub(crate) fn of_all(&self) -> (Vec<SpanFilter>, Vec<PackId>) {
        let (mut spans, mut unread) = (Vec::new(), Vec::new());
        let mut after = self.before_window();
        let mut rest = self.packs;
        while let Some(first) = rest.first() {
            let until = |pack: &PackIndex| pack.head.append_time_last;
            if until(first) <= after {
                rest = &rest[1..];
                continue;
            }
            let fits = rest.iter().take_while(|pack| self.is_short(after, until(pack)));
            let (together, later) = rest.split_at(fits.count().max(1));
            rest = later;
            let last = &together[together.len() - 1];
            let filter = self.filter(together, after, until(last)).or_else(|_| {
                let (sound, rotten): (Vec<_>, Vec<_>) =
                    together.iter().cloned().partition(|pack| is_sound(pack, self.open));
                unread.extend(rotten.iter().map(|pack| pack.head.id));
                self.filter(&sound, after, until(last))
            });
            match filter {
                Ok(filter) => spans.push(span((first, last), (after, until(last)), filter)),
                Err(_) => unread.extend(together.iter().map(|pack| pack.head.id)),
            }
            after = until(last);
        }
        self.bound(&mut spans);
        (spans, unread)
    }

    /// The filters with the ids of a pack besides, which is one of the packs.
    pub(crate) fn with(
        &self,
        mut spans: Vec<SpanFilter>,
        pack: &Arc<PackIndex>,
    ) -> io::Result<Vec<SpanFilter>> {
        let (first, last) = segments(pack);
        let until = pack.head.append_time_last;
        spans.retain(|span| span.until >= self.not_before);
        spans.retain(|span| span.first < first || span.last > last);
        let at = spans.partition_point(|span| span.first < first);
        // Where packs without an index are merged, a filter beside may span some of what comes.
        let before = spans.iter().filter(|span| span.last < first).map(|span| span.until).max();
        let after = before.unwrap_or_else(|| self.before_window());
        let filter = self.filter(std::slice::from_ref(pack), after, until)?;
        spans.insert(at, span((pack, pack), (after, until), filter));
        self.merge(&mut spans);
        self.bound(&mut spans);
        Ok(spans)
    }

    /// Makes neighbours one while there are too many. Where that fails they stay.
    fn merge(&self, spans: &mut Vec<SpanFilter>) {
        while spans.len() > FILTERS_MAX {
            let pairs = spans.windows(2).enumerate();
            let short = pairs.filter(|(_, two)| self.is_short(two[0].after, two[1].until));
            let least = short.min_by_key(|(_, two)| two[0].filter.len() + two[1].filter.len());
            let Some((at, [one, other])) = least else { return };
            let (first, last) = (one.first, one.last.max(other.last));
            let (after, until) = (one.after.min(other.after), one.until.max(other.until));
            let is_within = |pack: &&Arc<PackIndex>| {
                let (from, to) = segments(pack);
                from <= last && first <= to
            };
            let packs: Vec<_> = self.packs.iter().filter(is_within).cloned().collect();
            match self.filter(&packs, after, until) {
                Ok(filter) => {
                    let filter = Arc::new(filter);
                    spans.splice(at..at + 2, [SpanFilter { first, last, after, until, filter }]);
                }
                Err(error) => {
                    tracing::warn!("filters of message ids stay as they are: {error}");
                    return;
                }
            }
        }
    }

    fn bound(&self, spans: &mut Vec<SpanFilter>) {
        let bytes = |it: &SpanFilter| it.filter.bytes() as u64;
        while spans.iter().map(bytes).sum::<u64>() > self.bytes_max {
            let gone: SpanFilter = spans.remove(0);
            let (ids, last, bytes_max) = (gone.filter.len(), gone.last, self.bytes_max);
            tracing::warn!(
                "{ids} message ids up to segment {last} are known no more: \
                 filters of them are bound to {bytes_max} bytes"
            );
        }
    }

    /// The last time that is out of the window.
    fn before_window(&self) -> TimeMicros {
        self.not_before.minus(Duration::from_micros(1))
    }

    fn is_short(&self, after: TimeMicros, until: TimeMicros) -> bool {
        until.minus(self.window / SPANS_PER_WINDOW) <= after
    }

    /// The ids of events of some packs that were appended after one time and until another.
    fn filter(
        &self,
        packs: &[Arc<PackIndex>],
        after: TimeMicros,
        until: TimeMicros,
    ) -> io::Result<IdFilter> {
        let about = packs.iter().filter_map(|pack| pack.ids.as_ref()).map(IdIndex::len).sum();
        let mut builder = FilterBuilder::of_about(about);
        let mut readers = Vec::with_capacity(packs.len());
        let mut next = BinaryHeap::new();
        for pack in packs.iter().filter(|pack| pack.ids.is_some()) {
            let file = (self.open)(pack.head.id)?;
            readers.push(IdReader::new(Arc::clone(pack), file));
        }
        for (reader, number) in readers.iter_mut().zip(0_usize..) {
            next.extend(appended(reader, after, until)?.map(|hash| Reverse((hash, number))));
        }
        while let Some(Reverse((hash, number))) = next.pop() {
            builder.push(hash);
            let hash = appended(&mut readers[number], after, until)?;
            next.extend(hash.map(|hash| Reverse((hash, number))));
        }
        Ok(builder.finish())
    }
}

/// Whether the index of a pack's ids is there and can be read to its end.
pub(crate) fn is_sound(pack: &Arc<PackIndex>, open: OpenPack<'_>) -> bool {
    let Some(ids) = &pack.ids else { return false };
    let count = open(pack.head.id).and_then(|it| IdReader::new(Arc::clone(pack), it).count());
    count.is_ok_and(|count| count == ids.len())
}

/// The next hash of an event that may have been appended after one time and until another.
fn appended(
    reader: &mut IdReader,
    after: TimeMicros,
    until: TimeMicros,
) -> io::Result<Option<u64>> {
    while let Some(IndexedId { hash, share, place, .. }) = reader.next()? {
        // Of a place the last append time is known, and that of the place before.
        let times = &reader.pack().append_times[share];
        let before = place.checked_sub(1).map(|before| times[before]);
        if times[place] > after && before.is_none_or(|before| before <= until) {
            return Ok(Some(hash));
        }
    }
    Ok(None)
}

fn segments(pack: &PackIndex) -> (SegmentNumber, SegmentNumber) {
    (SegmentNumber(pack.head.id.first), SegmentNumber(pack.head.id.last))
}

fn span(
    (first, last): (&PackIndex, &PackIndex),
    (after, until): (TimeMicros, TimeMicros),
    filter: IdFilter,
) -> SpanFilter {
    let (first, last) = (segments(first).0, segments(last).1);
    SpanFilter { first, last, after, until, filter: Arc::new(filter) }
}

#[cfg(test)]
mod tests {
    use tracklog_protocol::{Offset, PartitionId, TopicId};

    use super::*;
    use crate::disk::simulated::SimDisk;
    use crate::disk::{Disk as _, FileName};
    use crate::journal::commit::{CommitNumber, Run};
    use crate::journal::segment::ClusterId;
    use crate::partition::places::{PartitionShare, Place};
    use crate::seen::event_ids::{HASH_BITS, IdKey};
    use crate::settled::ids::IdsBuilder;
    use crate::settled::pack::PackHead;

    /// A pack comes each minute, and so many are in the window.
    const WINDOW_PACKS: u64 = 200;
    const MINUTE: Duration = Duration::from_secs(60);
    const SPANS_MAX: usize = 12;

    fn time(pack: u64) -> TimeMicros {
        TimeMicros((pack * 60_000_000).cast_signed())
    }

    /// Some packs have many ids, and some few.
    fn hashes(pack: u64) -> impl Iterator<Item = u64> {
        let hash = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - HASH_BITS);
        (0..20 + pack * 37 % 300).map(move |id| hash(pack * 1_000 + id))
    }

    /// A pack on the disk that holds nothing but its index of ids.
    fn pack(disk: &SimDisk, number: u64) -> Arc<PackIndex> {
        let id = PackId { first: number, last: number, generation: 1 };
        let shares = vec![PartitionShare {
            partition: PartitionId::new(TopicId(1), 0),
            event_time_max: TimeMicros(0),
            places: vec![Place::at_unit(Offset(0), 0, 0)],
            end: Offset(1_000),
        }];
        let append_times = vec![vec![time(number)]];
        let mut ids = IdsBuilder::new(IdKey::of(ClusterId(1), 64));
        ids.cover(TopicId(1));
        for (hash, offset) in hashes(number).zip(0..) {
            ids.add_hash(hash, (0, offset));
        }
        let mut pages = Vec::new();
        let write = &mut |page: &[u8]| {
            pages.extend_from_slice(page);
            Ok(())
        };
        let ids = ids.write(0, (&shares, &append_times), write).expect("memory takes it");
        disk.set_file(&FileName::Pack(id), Some(pages));
        let head = PackHead {
            id,
            run: Run(1),
            last: CommitNumber(number),
            append_time_last: time(number),
            batches: 1,
            records: 1,
            journal_bytes: 0,
            file_bytes: 0,
        };
        Arc::new(PackIndex {
            head,
            runs: Vec::new(),
            frames: Vec::new(),
            shares,
            append_times,
            ids: Some(ids),
            commits: None,
        })
    }

    fn packs(disk: &SimDisk, count: u64) -> Vec<Arc<PackIndex>> {
        (1..=count).map(|number| pack(disk, number)).collect()
    }

    /// The packs that are in the window of the last of them.
    fn in_window(packs: &[Arc<PackIndex>]) -> (&[Arc<PackIndex>], TimeMicros) {
        let first = packs.len().saturating_sub(usize::try_from(WINDOW_PACKS).expect("small"));
        let last = packs.last().expect("there are packs").head.append_time_last;
        (&packs[first..], last.minus(MINUTE * u32::try_from(WINDOW_PACKS).expect("small")))
    }

    fn holds(spans: &[SpanFilter], hash: u64) -> bool {
        spans.iter().any(|span| span.filter.may_hold(hash))
    }

    /// Filters as a log has them that has settled all these packs, one after the other, within so
    /// many bytes.
    fn one_by_one(disk: &SimDisk, packs: &[Arc<PackIndex>], bytes_max: u64) -> Vec<SpanFilter> {
        let mut spans = Vec::new();
        for count in 1..=packs.len() {
            let (packs, not_before) = in_window(&packs[..count]);
            let filters = Filters {
                packs,
                open: &|pack| disk.open_pack(pack),
                window: MINUTE * u32::try_from(WINDOW_PACKS).expect("small"),
                not_before,
                bytes_max,
            };
            spans = filters.with(spans, packs.last().expect("one at least")).expect("it reads");
            assert!(spans.len() <= SPANS_MAX, "{} filters over {count} packs", spans.len());
            let bytes: usize = spans.iter().map(|span| span.filter.bytes()).sum();
            assert!(bytes as u64 <= bytes_max, "{bytes} bytes over {count} packs");
        }
        spans
    }

    #[test]
    fn a_dozen_filters_hold_each_id_of_a_window_of_hundreds_of_packs() {
        let disk = SimDisk::new(1);
        let packs = packs(&disk, 2 * WINDOW_PACKS + 50);
        let (current, not_before) = in_window(&packs);
        let filters = Filters {
            packs: current,
            open: &|pack| disk.open_pack(pack),
            window: MINUTE * u32::try_from(WINDOW_PACKS).expect("small"),
            not_before,
            bytes_max: u64::MAX,
        };
        let (at_once, unread) = filters.of_all();
        assert!(unread.is_empty() && at_once.len() <= SPANS_MAX, "{} filters", at_once.len());
        for spans in [one_by_one(&disk, &packs, u64::MAX), at_once] {
            let ids = || current.iter().flat_map(|pack| hashes(pack.head.id.last));
            assert!(ids().all(|hash| holds(&spans, hash)), "an id of the window is in none");
            let known: u64 = spans.iter().map(|span| span.filter.len()).sum();
            let most = ids().count() as u64 * 5 / 4;
            assert!(known <= most, "{known} of {most}: what is out of the window goes");
            let bytes: usize = spans.iter().map(|span| span.filter.bytes()).sum();
            assert!(bytes as u64 <= 3 * known, "{bytes} bytes for {known} ids");
        }
    }

    #[test]
    fn beyond_their_bound_the_oldest_filters_go_and_the_newest_packs_are_known() {
        let disk = SimDisk::new(1);
        let packs = packs(&disk, WINDOW_PACKS);
        let bytes =
            |spans: &[SpanFilter]| -> usize { spans.iter().map(|span| span.filter.bytes()).sum() };
        let all = bytes(&one_by_one(&disk, &packs, u64::MAX));
        let spans = one_by_one(&disk, &packs, all as u64 / 2);
        assert!(bytes(&spans) > all / 8, "{} of {all} bytes", bytes(&spans));
        let newest = &packs[packs.len() - 10..];
        assert!(newest.iter().flat_map(|it| hashes(it.head.id.last)).all(|id| holds(&spans, id)));
        let oldest = &packs[..10];
        assert!(!oldest.iter().flat_map(|it| hashes(it.head.id.last)).all(|id| holds(&spans, id)));
    }

    #[test]
    fn a_pack_whose_ids_cannot_be_read_is_told_and_costs_no_other() {
        let disk = SimDisk::new(1);
        let packs = packs(&disk, 40);
        let rotten = packs[17].head.id;
        let mut pages = disk.read_file(&FileName::Pack(rotten)).expect("it is there");
        pages[100] ^= 1;
        disk.set_file(&FileName::Pack(rotten), Some(pages));
        let (packs, not_before) = in_window(&packs);
        let filters = Filters {
            packs,
            open: &|pack| disk.open_pack(pack),
            window: MINUTE * u32::try_from(WINDOW_PACKS).expect("small"),
            not_before,
            bytes_max: u64::MAX,
        };
        let (spans, unread) = filters.of_all();
        assert_eq!(unread, [rotten]);
        let others = packs.iter().filter(|pack| pack.head.id != rotten);
        assert!(others.flat_map(|it| hashes(it.head.id.last)).all(|id| holds(&spans, id)));
    }
}
