//! The journal: the one write path of a node.
//!
//! Promises
//! - An end offset is published only after the write that covers it said that it is durable.
//! - A commit is recovered whole or not at all.
//! - After a failed write nothing more is written until the log is opened again.
//!
//! Assumes that a page that is durable is never changed by a later write to another page. The
//! bytes are in FORMAT.md. Knows batches, not events.

pub(crate) mod appender;
pub(crate) mod commit;
pub(crate) mod driver;
pub(crate) mod intake;
mod patience;
pub(crate) mod recovery;
#[cfg(test)]
mod scenarios;
pub(crate) mod segment;
mod stamping;
mod stretches;
pub(crate) mod walk;
