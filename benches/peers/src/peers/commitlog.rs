//! commitlog: one log without partitions, in segments with mapped indexes.
//!
//! Durability: its `flush` syncs the index (`msync`) and not the records: on the segment it calls
//! `File::flush`, which does nothing (`strace` shows `msync` alone). Since the index is not
//! rebuilt from the records, and records without an index are not found again, both are synced
//! here: `flush`, and `fdatasync` of the segment through a descriptor of our own.
//!
//! One writer at a time, no group commit: producers take turns.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use commitlog::message::{MessageBuf, MessageSet};
use commitlog::{CommitLog, LogOptions, ReadLimit};

use super::{Batch, Failure, Kind, Opened, Peer, Seen};

pub(super) const KIND: Kind = Kind {
    name: "commitlog",
    version: "0.2.0",
    licence: "MIT",
    partitioned: false,
    readable: true,
    open: |folder, _, _| Ok(Box::new(Commitlog::open(folder)?)),
};

/// One segment for the whole run, and an index that need not grow.
const SEGMENT_BYTES: usize = 2 << 30;
const INDEX_ENTRIES: usize = 4 << 20;
const READ_BYTES: usize = 1 << 20;

struct Commitlog {
    writer: Mutex<Writer>,
    folder: PathBuf,
}

struct Writer {
    log: CommitLog,
    segment: File,
}

impl Commitlog {
    fn open(folder: &Path) -> Result<Self, Failure> {
        let mut options = LogOptions::new(folder);
        options.segment_max_bytes(SEGMENT_BYTES).index_max_items(INDEX_ENTRIES);
        let log = CommitLog::new(options)?;
        let segment = File::open(folder.join(format!("{:020}.log", 0)))?;
        Ok(Self { writer: Mutex::new(Writer { log, segment }), folder: folder.to_owned() })
    }
}

impl Peer for Commitlog {
    fn append(&self, batch: Batch<'_>) -> Result<(), Failure> {
        let mut messages: MessageBuf = batch.records.iter().collect();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.log.append(&mut messages)?;
        writer.segment.sync_data()?;
        writer.log.flush()?;
        Ok(())
    }

    fn reopen(self: Box<Self>) -> Opened {
        let Self { writer, folder } = *self;
        drop(writer);
        Ok(Box::new(Self::open(&folder)?))
    }

    fn replay(&mut self) -> Result<Seen, Failure> {
        let log = &self.writer.get_mut().unwrap_or_else(PoisonError::into_inner).log;
        let mut seen = Seen::default();
        loop {
            let read = log.read(seen.records, ReadLimit::max_bytes(READ_BYTES))?;
            if read.is_empty() {
                return Ok(seen);
            }
            for message in read.iter() {
                if !message.verify_hash() {
                    return Err("a message with a wrong hash".into());
                }
                seen.see(message.payload());
            }
        }
    }
}
