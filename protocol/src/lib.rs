//! What Tracklog's bytes mean, on disk, on the wire and in memory.
//!
//! Sans-io: nothing here opens a file or a socket, reads a clock, or starts a thread. Bytes come
//! in, values go out, and the other way round. If you want to store events, that is
//! `tracklog-engine`; if you want to take them over HTTP, `tracklog-ingest-gateway`.
//!
//! The two types to read first are [`BatchView`], the frame in which records lie everywhere, and
//! [`event::EventView`], the zero-copy view of one event.

pub mod batch;
pub mod columns;
pub mod event;
mod generated;
mod ids;
pub mod line;
mod record;
mod records;
pub mod rejected;
mod trusted;
mod words;

pub use batch::{BatchError, BatchView, VerifiedBatch};
pub use ids::{Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimeMicros, TopicId};
pub use record::{KeyValue, PayloadKind, Record};
pub use records::Records;

/// The partition, of `partitions`, to which records with this key belong: XXH3-64 with seed 0,
/// modulo the count. Fixed for ever as version 1 of the catalog's partitioning.
///
/// # Panics
/// When `partitions` is 0.
#[must_use]
pub fn partition_for(key: &[u8], partitions: u32) -> u32 {
    let hash = xxhash_rust::xxh3::xxh3_64(key);
    u32::try_from(hash % u64::from(partitions)).expect("the remainder is below a u32")
}
