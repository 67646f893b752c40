//! Message ids of events: by what the log knows an event again that is sent twice.
//!
//! An event is known by its source and the message id that it came with. Tables and files hold 44
//! bits of a hash of the two, keyed by the log, and the place of the event: partition and offset. So
//! a hash that is found says *perhaps*: whoever appends looks at the event that lies there.
//!
//! | bits | follow from |
//! |---|---|
//! | the highest 32 | the message id: who has no more than that finds it, whatever source it came from |
//! | the lowest 12 | the message id and the source |
//!
//! The rules are those of [`tracklog_log::dedupe`].
//!
//! - [`IdHash`], made by [`id_hash`]: the same for an event wherever it lies, in whatever topic;
//!   [`TopicIdHash`]: one for each topic.
//! - [`HotIds`]: the ids of the journal's events, in memory, changed when a commit is stamped.
//! - [`SettledIds`]: which ids there may be in packs. Filters, in memory; the places are in the packs.
//! - [`KnownIds`]: both, as whoever appends and whoever looks for an event shares them.
//! - [`ids_of_segment`], [`ids_of_pack`]: make the first again at opening.
//!
//! Promises
//! - The hash of an id is the same as long as the log lives; nobody without the log's files can
//!   choose ids that share one.
//! - An id that is known is in one of the two at any time: it is in a filter, and the pack that has it
//!   is listed, before it leaves the table. So a look at the table that saw what was settled up to
//!   some segment is a whole one when the filters were asked for just that, or for more.

mod filter;
mod hot;
mod rebuild;
mod settled;

use std::num::NonZeroU64;
use std::ops::RangeInclusive;

use tracklog_protocol::event::EventView;
use tracklog_protocol::{Record, TopicId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::journal::segment::ClusterId;

pub(crate) use filter::{FilterBuilder, IdFilter};
pub(crate) use hot::{HotIds, Known, ROWS_MAX};
pub(crate) use rebuild::{ids_of_pack, ids_of_segment};
pub(crate) use settled::{KnownIds, SettledIds, SpanFilter};

/// The key of a log's id hashes. It follows from the number that the log was given when it was
/// made, which lies in its files alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdKey {
    seed: u64,
    /// Which bits of a hash count: all, but where a test has ids share one.
    mask: u64,
}

impl IdKey {
    /// The key of a log whose hashes have `bits` bits.
    pub(crate) fn of(cluster: ClusterId, bits: u32) -> Self {
        let seed = xxh3_64_with_seed(&cluster.0.to_le_bytes(), KEY_SEED);
        Self { seed, mask: u64::MAX.unbounded_shr(u64::BITS.saturating_sub(bits)) }
    }
}

/// Sets the key apart from every other hash of the same number.
const KEY_SEED: u64 = u64::from_le_bytes(*b"event id");

/// So many bits has a hash.
pub(crate) const HASH_BITS: u32 = 44;
/// The lowest of them, which depend on the source.
const SOURCE_BITS: u32 = 12;

/// The keyed hash of a source and a message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct IdHash(u64);

/// The hash of `message_id`, as sent, from `source`: the highest 32 bits of the id's XXH3-64, seeded
/// with the key, and the highest 12 of the XXH3-64 of the source's name, seeded with that of the id.
pub(crate) fn id_hash(key: IdKey, source: &str, message_id: &str) -> IdHash {
    let id = xxh3_64_with_seed(message_id.as_bytes(), key.seed);
    let with_source = xxh3_64_with_seed(source.as_bytes(), id);
    let hash = (id >> 32) << SOURCE_BITS | with_source >> (u64::BITS - SOURCE_BITS);
    IdHash(hash & key.mask)
}

/// The hash of an id in one topic: the same event is there once in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TopicIdHash(NonZeroU64);

impl TopicIdHash {
    pub(crate) const fn new(topic: TopicId, id: IdHash) -> Self {
        /// Odd, so that no two topics are mixed in alike (the golden ratio of 2^64).
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        let topic = (topic.0 as u64).wrapping_mul(SPREAD) >> (u64::BITS - HASH_BITS);
        match NonZeroU64::new(id.0 ^ topic) {
            Some(hash) => Self(hash),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// Its bits.
    pub(crate) const fn get(self) -> u64 {
        self.0.get()
    }

    /// The hashes that an id may have in a topic, whatever its source.
    pub(crate) fn of_any_source(
        key: IdKey,
        topic: TopicId,
        message_id: &str,
    ) -> RangeInclusive<u64> {
        let any = Self::new(topic, id_hash(key, "", message_id)).get();
        let sources = (1 << SOURCE_BITS) - 1;
        any & !sources..=any | sources
    }
}

/// The hash of a record's id; `None` where it is no event.
pub(crate) fn hash_of(key: IdKey, record: Record<'_>) -> Option<IdHash> {
    let event = EventView::of(record)?;
    Some(id_hash(key, event.source().unwrap_or_default(), event.message_id()))
}

/// The hash of a record's id in a topic; `None` where it is no event.
pub(crate) fn topic_hash_of(key: IdKey, topic: TopicId, record: Record<'_>) -> Option<TopicIdHash> {
    hash_of(key, record).map(|id| TopicIdHash::new(topic, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: IdKey = IdKey { seed: 7, mask: u64::MAX };

    #[test]
    fn an_id_is_known_by_source_and_text_and_log() {
        let hash = id_hash(KEY, "web", "m-1");
        assert_eq!(hash, id_hash(KEY, "web", "m-1"));
        for other in [
            id_hash(KEY, "web", "m-2"),
            id_hash(KEY, "app", "m-1"),
            id_hash(KEY, "", "webm-1"),
            id_hash(KEY, "webm", "-1"),
            id_hash(IdKey { seed: 8, ..KEY }, "web", "m-1"),
        ] {
            assert_ne!(hash, other);
        }
    }

    #[test]
    fn the_hash_of_a_log_stays_what_it_is() {
        let key = IdKey::of(ClusterId(0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF), 64);
        assert_eq!(id_hash(key, "web", "m-1"), IdHash(0xB41_4C78_F0C7));
    }

    #[test]
    fn an_id_without_its_source_says_between_which_hashes_it_is() {
        let key = IdKey::of(ClusterId(1), 64);
        for topic in [TopicId(1), TopicId(7)] {
            let hashes = TopicIdHash::of_any_source(key, topic, "m-1");
            assert_eq!(hashes.end() - hashes.start(), (1 << SOURCE_BITS) - 1);
            for source in ["", "web", "app"] {
                let hash = TopicIdHash::new(topic, id_hash(key, source, "m-1"));
                assert!(hashes.contains(&hash.get()));
                let other = TopicIdHash::new(topic, id_hash(key, source, "m-2"));
                assert!(!hashes.contains(&other.get()));
            }
        }
    }

    #[test]
    fn narrow_hashes_are_shared() {
        let key = IdKey::of(ClusterId(1), 4);
        let hashes: std::collections::BTreeSet<_> =
            (0..1_000).map(|number| id_hash(key, "web", &number.to_string())).collect();
        assert_eq!(hashes.len(), 16);
    }
}
