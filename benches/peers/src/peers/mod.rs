//! Who is measured, and what is asked of each.
//!
//! A peer keeps records of partitions. [`Peer::append`] returns when its batch is on the disk: with
//! no peer is that taken on trust, each file's head says how it is asked for and what `strace`
//! showed. Whatever a peer could do beside that, and nobody asks for, is off: no compression (the
//! records are random bytes), no second copy.

mod commitlog;
mod fjall;
mod okaywal;
mod raft_engine;
mod raw;
mod redb;
mod sqlite;
mod tracklog;

use std::path::Path;

/// Size of a record.
pub(crate) const RECORD_BYTES: usize = 256;
/// Partitions of the cells that are not about many of them.
pub(crate) const PARTITIONS: u32 = 16;

/// A record: bytes that mean nothing.
pub(crate) type Record = [u8; RECORD_BYTES];
/// What stops a run.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A peer that was opened.
pub(crate) type Opened = Result<Box<dyn Peer>, Failure>;

/// Records of one partition, to be appended together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    /// Which; below the number of partitions that the peer was opened with. No two threads append
    /// to one partition at once.
    pub(crate) partition: u32,
    /// The offset of the first record: what the partition holds already.
    pub(crate) first: u64,
    /// At least one.
    pub(crate) records: &'a [Record],
}

impl<'a> Batch<'a> {
    /// The records, each with its offset.
    fn numbered(self) -> impl Iterator<Item = (u64, &'a Record)> {
        (self.first..).zip(self.records)
    }
}

/// What a replay saw: enough that each record has to be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) records: u64,
    pub(crate) sum: u64,
}

impl Seen {
    /// Looks at one record: at its last byte, since one peer puts a number at the front.
    pub(crate) fn see(&mut self, record: &[u8]) {
        self.records += 1;
        self.sum += u64::from(record.last().copied().unwrap_or_default());
    }
}

/// A log or store in a folder.
pub(crate) trait Peer: Send + Sync {
    /// Appends a batch; returns when it is durable. Called by many threads at once: who can commit
    /// them together does so, the others take turns.
    fn append(&self, batch: Batch<'_>) -> Result<(), Failure>;

    /// Closes it and opens it again, to be read: nothing is left in its own memory.
    fn reopen(self: Box<Self>) -> Opened;

    /// Looks at every record of every partition, in order within each. Called on a peer that was
    /// opened again.
    fn replay(&mut self) -> Result<Seen, Failure>;

    /// Brings what is read into the page cache.
    fn warm_up(&mut self) -> Result<(), Failure> {
        self.replay().map(drop)
    }
}

/// What a peer is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be written for a while: as a log that has run for long, with its space recycled where it
    /// recycles any.
    Append,
    /// To be written once and read: everything is kept.
    Replay,
}

/// A peer that can be opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    pub(crate) licence: &'static str,
    /// Whether it has a notion of partitions, or of keys that can stand for them.
    pub(crate) partitioned: bool,
    /// Whether it can be read back.
    pub(crate) readable: bool,
    /// Makes a new one in an empty folder.
    pub(crate) open: fn(&Path, Purpose, u32) -> Opened,
}

/// Ours first: the others are held against it.
pub(crate) const KINDS: [Kind; 8] = [
    tracklog::KIND,
    raw::KIND,
    commitlog::KIND,
    raft_engine::KIND,
    okaywal::KIND,
    fjall::KIND,
    redb::KIND,
    sqlite::KIND,
];
