//! Finding events by message id: in the table of the journal's events, and in the indexes of packs.
//!
//! What is found is a *perhaps*, by a hash; whoever asks reads the events. Disks are read on the reader's
//! threads: a page or two for each pack, and none of what the tables can tell.
//!
//! Promises
//! - An event that is there all the while is found, wherever it goes meanwhile: the table is asked before
//!   the packs are listed, and what went elsewhere while it was read is looked for again.
//! - What no index covers is named, and what is rotten is told in the node's log.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use smallvec::SmallVec;
use tracklog_log::dedupe::EVENTS_PER_ID_MAX;
use tracklog_log::{FetchError, FetchMode, IdPlaces, Settled, SettledPlaces};
use tracklog_protocol::{Offset, PartitionId, TopicId};

use super::Reader;
use crate::journal::commit::SegmentNumber;
use crate::partition::places::{Index, PartitionShare, Unread};
use crate::seen::event_ids::TopicIdHash;
use crate::settled::ids::IdSearch;
use crate::settled::pack::{PackError, PackIndex};

/// While packs go elsewhere it is looked again, so often at most.
const LOOKS_MAX: usize = 16;
/// So many places of an id are told: in the oldest pack of the window all may be out of it, and of the
/// others the first so many are known.
const PLACES_MAX: usize = 2 * EVENTS_PER_ID_MAX;

/// See [`Reader::settled_places`].
pub(super) async fn settled_places(
    reader: Arc<Reader>,
    ids: Vec<(TopicId, TopicIdHash)>,
) -> Result<SettledPlaces, FetchError> {
    let working = Arc::clone(&reader);
    let work = move || again_and_again(&ids, |ids| look_for_settled(&working, ids));
    reader.threads.run(FetchMode::Live, work).await.unwrap_or(Err(FetchError::Closed))
}

/// See [`Reader::id_places`].
pub(super) async fn id_places(
    reader: Arc<Reader>,
    topic: TopicId,
    hashes: RangeInclusive<u64>,
) -> Result<IdPlaces, FetchError> {
    let working = Arc::clone(&reader);
    let asked = [(topic, hashes)];
    let work = move || again_and_again(&asked, |[(topic, it)]| look_for_all(&working, *topic, it));
    reader.threads.run(FetchMode::Live, work).await.unwrap_or(Err(FetchError::Closed))
}

/// Why a look ended.
enum Ended {
    /// A pack or a segment went elsewhere meanwhile.
    Moved,
    Failed(FetchError),
}

fn again_and_again<A: ?Sized, T>(
    asked: &A,
    look: impl Fn(&A) -> Result<T, Ended>,
) -> Result<T, FetchError> {
    for _ in 0..LOOKS_MAX {
        match look(asked) {
            Ok(found) => return Ok(found),
            Err(Ended::Failed(error)) => return Err(error),
            Err(Ended::Moved) => {}
        }
    }
    let partition = PartitionId::new(TopicId(0), 0);
    Err(FetchError::Io { partition, why: "packs are merged too fast to look into them".to_owned() })
}

fn look_for_settled(
    reader: &Reader,
    ids: &[(TopicId, TopicIdHash)],
) -> Result<SettledPlaces, Ended> {
    // Asked before the packs are listed: all that is settled up to there is in them.
    let through = reader.published.ids.settled().through;
    let now = reader.disk.now();
    let known_since = |topic| {
        let topics = reader.published.topics.read();
        topics.catalog.known_since(topic, now).unwrap_or(now)
    };
    let not_before: Vec<_> = ids.iter().map(|(topic, _)| known_since(*topic)).collect();
    let mut places = vec![Vec::new(); ids.len()];
    let oldest = not_before.iter().copied().min().unwrap_or(now);
    let packs = reader.published.places.read().settled();
    for (unread, head) in packs.into_iter().filter(|(_, head)| head.append_time_last >= oldest) {
        let Some(pack) = pack_index(reader, unread)? else { continue };
        search(reader, &pack, unread, |search| {
            let wanted = ids.iter().zip(&not_before).zip(&mut places);
            for (((topic, hash), not_before), places) in wanted {
                if head.append_time_last < *not_before || places.len() >= PLACES_MAX {
                    continue;
                }
                search.find(&(hash.get()..=hash.get()), |partition, offset| {
                    if partition.topic == *topic {
                        places.push((partition, offset));
                    }
                })?;
            }
            Ok(())
        })?;
    }
    for places in &mut places {
        retain_readable(reader, places);
    }
    Ok(SettledPlaces { places, not_before, through: Settled(through.0) })
}

fn look_for_all(
    reader: &Reader,
    topic: TopicId,
    hashes: &RangeInclusive<u64>,
) -> Result<IdPlaces, Ended> {
    let (hot, hot_since) = in_table(reader, topic, hashes);
    let (packs, segments) = {
        let places = reader.published.places.read();
        (places.settled(), places.settleable())
    };
    let mut found = IdPlaces { places: hot, unindexed: Vec::new() };
    for (unread, _) in packs {
        let Some(pack) = pack_index(reader, unread)? else { continue };
        if !pack.ids.as_ref().is_some_and(|ids| ids.covers(topic)) {
            found.unindexed.extend(stretches(&pack.shares, topic));
            continue;
        }
        let before = found.places.len();
        let is_whole = search(reader, &pack, unread, |search| {
            search.find(hashes, |partition, offset| found.places.push((partition, offset)))
        })?;
        if !is_whole {
            found.places.truncate(before);
            found.unindexed.extend(stretches(&pack.shares, topic));
        }
    }
    for unread in segments.into_iter().filter(|it| it.home.number() < hot_since) {
        let index = index(reader, unread)?;
        found.unindexed.extend(stretches(index.shares(), topic));
    }
    found.places.retain(|(partition, _)| partition.topic == topic);
    retain_readable(reader, &mut found.places);
    found.places.sort_unstable();
    found.places.dedup();
    found.unindexed = readable(reader, std::mem::take(&mut found.unindexed));
    Ok(found)
}

/// What the table of the journal's events knows, and from which segment on that is all.
fn in_table(
    reader: &Reader,
    topic: TopicId,
    hashes: &RangeInclusive<u64>,
) -> (Vec<(PartitionId, Offset)>, SegmentNumber) {
    let topics = reader.published.topics.read();
    let hot = reader.published.ids.hot.lock();
    // What is on its way lies above the end: of which places of 2^34 an offset is, the end tells.
    let next = |row| topics.extent_of(row).end.plus(IN_FLIGHT_MAX);
    let found = hot.find_between(hashes, next);
    let places = found.into_iter().map(|(row, offset)| (topics.catalog.partition(row), offset));
    let places = places.filter(|(partition, _)| partition.topic == topic).collect();
    (places, hot.since())
}

/// No partition has so many records in flight.
const IN_FLIGHT_MAX: u64 = 1 << 24;

/// The index of a pack; `None` where it could not be read at opening.
fn pack_index(reader: &Reader, unread: Unread) -> Result<Option<Arc<PackIndex>>, Ended> {
    match index(reader, unread)? {
        Index::Pack(pack) if !pack.is_missing() => Ok(Some(pack)),
        _ => Ok(None),
    }
}

fn index(reader: &Reader, unread: Unread) -> Result<Index, Ended> {
    reader.read_index(unread).map_err(|error| failed(reader, unread, &error.to_string()))
}

fn failed(reader: &Reader, unread: Unread, why: &str) -> Ended {
    if !reader.published.places.read().has(unread.home) {
        return Ended::Moved;
    }
    let why = format!("{}: {why}", unread.home);
    Ended::Failed(FetchError::Io { partition: PartitionId::new(TopicId(0), 0), why })
}

/// Searches in a pack. False where its index of ids is rotten there.
fn search(
    reader: &Reader,
    pack: &PackIndex,
    unread: Unread,
    look: impl FnOnce(&IdSearch<'_>) -> Result<(), PackError>,
) -> Result<bool, Ended> {
    let looked = reader.pack_file(pack.head.id).map_err(PackError::from);
    match looked.and_then(|file| look(&IdSearch::new(pack, &*file, &reader.pool))) {
        Ok(()) => Ok(true),
        Err(PackError::Io(error)) => Err(failed(reader, unread, &error.to_string())),
        Err(error) => {
            tracing::warn!("message ids of {} cannot be looked for: {error}", pack.head.id);
            Ok(false)
        }
    }
}

/// What a topic's partitions have in a segment or a pack.
fn stretches(
    shares: &[PartitionShare],
    topic: TopicId,
) -> SmallVec<[(PartitionId, Range<Offset>); 4]> {
    let of_topic = shares.iter().filter(|share| share.partition.topic == topic);
    let stretch = |share: &PartitionShare| {
        let first = share.places.first()?.base_offset;
        Some((share.partition, first..share.end))
    };
    of_topic.filter_map(stretch).collect()
}

/// Only places that can be read now.
fn retain_readable(reader: &Reader, places: &mut Vec<(PartitionId, Offset)>) {
    let topics = reader.published.topics.read();
    places.retain(|(partition, offset)| {
        let extent = topics.extent(*partition);
        extent.is_some_and(|extent| (extent.start..extent.end).contains(offset))
    });
}

/// What of the stretches can be read now, side by side as one.
fn readable(
    reader: &Reader,
    mut stretches: Vec<(PartitionId, Range<Offset>)>,
) -> Vec<(PartitionId, Range<Offset>)> {
    let topics = reader.published.topics.read();
    stretches.sort_unstable_by_key(|(partition, stretch)| (*partition, stretch.start));
    let mut readable: Vec<(PartitionId, Range<Offset>)> = Vec::new();
    for (partition, stretch) in stretches {
        let Some(extent) = topics.extent(partition) else { continue };
        let (start, end) = (stretch.start.max(extent.start), stretch.end.min(extent.end));
        match readable.last_mut() {
            Some((last, before)) if *last == partition && start <= before.end => {
                before.end = before.end.max(end);
            }
            _ if start < end => readable.push((partition, start..end)),
            _ => {}
        }
    }
    readable
}
