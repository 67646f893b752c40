//! Message ids of events: by what the log knows an event again that is sent twice.
//!
//! An event is known by its source and the message id that it came with. Tables and files hold a
//! 64-bit hash of the two, keyed by the log, and the place of the event: partition and offset. So
//! a hash that is found says *perhaps*: whoever appends looks at the event that lies there.
//!
//! The rules are those of [`tracklog_log::dedupe`].
//!
//! - [`IdHash`], made by [`id_hash`]: the same for an event wherever it lies, in whatever topic;
//!   [`TopicIdHash`]: one for each topic.
//! - [`HotIds`]: the ids of the window, in memory, changed when a commit is stamped.
//! - [`ids_of_segment`], [`ids_of_pack`]: make it again at opening.
//!
//! Promises: the hash of an id is the same as long as the log lives; nobody without the log's
//! files can choose ids that share one.

mod hot;
mod rebuild;

use std::num::NonZeroU64;

use tracklog_protocol::event::EventView;
use tracklog_protocol::{Record, TopicId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::journal::segment::ClusterId;

pub(crate) use hot::{HotIds, Known, ROWS_MAX, TopicIdHash};
pub(crate) use rebuild::{ids_of_pack, ids_of_segment};

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

/// The keyed hash of a source and a message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct IdHash(NonZeroU64);

impl IdHash {
    pub(crate) const fn new(hash: u64) -> Self {
        match NonZeroU64::new(hash) {
            Some(hash) => Self(hash),
            None => Self(NonZeroU64::MIN),
        }
    }

    pub(crate) const fn get(self) -> u64 {
        self.0.get()
    }
}

/// The hash of `message_id`, as sent, from `source`: XXH3-64 of the id, seeded with the XXH3-64 of
/// the source's name, which is seeded with the key; 1 in place of 0.
pub(crate) fn id_hash(key: IdKey, source: &str, message_id: &str) -> IdHash {
    let seed = xxh3_64_with_seed(source.as_bytes(), key.seed);
    IdHash::new(xxh3_64_with_seed(message_id.as_bytes(), seed) & key.mask)
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
        assert_eq!(id_hash(key, "web", "m-1").get(), 0x5FE5_4CAF_33B1_20EA);
    }

    #[test]
    fn narrow_hashes_are_shared() {
        let key = IdKey::of(ClusterId(1), 4);
        let hashes: std::collections::BTreeSet<_> =
            (0..1_000).map(|number| id_hash(key, "web", &number.to_string())).collect();
        assert_eq!(hashes.len(), 15, "0 counts as 1");
    }
}
