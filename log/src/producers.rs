//! Idempotent producers: when a log knows a batch again, and when it refuses one.
//!
//! What a caller never learned the outcome of it sends again, and must find stored once. A batch
//! that names its producer ([`Produced`](tracklog_protocol::batch::Produced)) can be sent again
//! however often. For each producer and partition:
//!
//! - **In order, without a hole.** A batch is stored if it begins where the producer's last one
//!   in this partition ended; the first begins at 0. Else the append is refused as
//!   [`OutOfSequence`](crate::AppendError::OutOfSequence), which names what was expected. Above
//!   the batch's beginning, that says that it was stored before, in whole or up to there; below,
//!   that one before it is missing.
//! - **Once.** An append all of whose items are among the last [`BATCHES_REMEMBERED`] batches of
//!   their producers stores nothing: it is acked as a duplicate, with the first offsets, when these
//!   are durable. Its conditions are not asked again, for the first time may have changed what
//!   they ask for. A batch is known by where it begins and ends, not by its records: who derives
//!   them anew need not get the same ones.
//! - **By one writer at a time.** Of two epochs the lower is refused as
//!   [`StaleProducer`](crate::AppendError::StaleProducer), from the first batch on that is stored
//!   under the higher. An epoch only fences: the count goes on, and what was stored under an
//!   earlier one is known again. A producer that has lost its count takes a new id.
//!
//! The first item that is wrong is named, and of an item that is stale and out of sequence that it
//! is stale. A refused append changes nothing.
//!
//! An append lies in one commit, so it is sent again as it was: its batches are all duplicates, or
//! none is. An append that mixes them is refused as out of sequence, nothing stored: to skip some
//! items and store others would store a second time those that name no producer.
//!
//! A producer is forgotten in a partition when its last batch there is older than
//! [`SILENCE_MAX`], in append time, or when producers have since written to [`PRODUCERS_MAX`]
//! other places (a producer and a partition are one); and when the topic is deleted. Trimming
//! forgets nobody. Only commits with produced batches forget, so that the log itself decides, and
//! decides alike when it is read again. One that comes back too late has to begin at 0: it is
//! refused, and takes a new id. Sent again only then, its very first batch would be stored again.
//!
//! Where records are lost to damage a producer may be asked for batches that were acked: what it
//! sends again takes the place of what was lost.

use std::time::Duration;

/// So many of a producer's last batches in a partition are known again. It may send as many there
/// from the oldest on whose ack is missing.
pub const BATCHES_REMEMBERED: usize = 8;

/// A producer that writes nothing to a partition for longer is forgotten there.
pub const SILENCE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// So many pairs of a producer and a partition are kept, those that wrote last.
pub const PRODUCERS_MAX: usize = 65_536;
