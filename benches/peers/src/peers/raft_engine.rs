//! raft-engine, TiKV's: one log shared by many raft groups, with an index of all entries in memory. A
//! partition is a raft group.
//!
//! Durability: `Engine::write(batch, sync = true)` returns after `fdatasync` (`strace` shows it).
//! Group commit of its own: the first of the waiting writers writes for all and syncs once.
//!
//! Its files are prepared before it is measured, as files that it recycles are; the first one is
//! new nevertheless, and is written full. An entry is a protobuf message that knows its index: the
//! index takes the place of a record's first 8 bytes.

use std::path::{Path, PathBuf};

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

use super::{Batch, Failure, Kind, Opened, Peer, Purpose, Record, Seen};

pub(super) const KIND: Kind = Kind {
    name: "raft-engine",
    version: "0.4.2",
    licence: "Apache-2.0",
    partitioned: true,
    readable: true,
    open: |folder, purpose, partitions| {
        let engine = open(folder, purpose)?;
        if purpose == Purpose::Append {
            fill_first_file(&engine)?;
        }
        Ok(Box::new(RaftEngine { engine, partitions, folder: folder.to_owned() }))
    },
};

const FILE_BYTES: u64 = 64 << 20;
const PREPARED_BYTES: u64 = 512 << 20;
/// A raft group beside those that are measured.
const EARLIER: u64 = u64::MAX;
/// Entries that are read with one call.
const ENTRIES: u64 = 1_000;

struct RaftEngine {
    engine: Engine,
    partitions: u32,
    folder: PathBuf,
}

fn open(folder: &Path, purpose: Purpose) -> Result<Engine, Failure> {
    let prepared = purpose == Purpose::Append;
    Ok(Engine::open(Config {
        dir: folder.to_str().ok_or("a folder's name is text")?.to_owned(),
        batch_compression_threshold: ReadableSize(0),
        target_file_size: ReadableSize(FILE_BYTES),
        prefill_for_recycle: prepared,
        prefill_limit: prepared.then_some(ReadableSize(PREPARED_BYTES)),
        ..Config::default()
    })?)
}

/// What comes after it goes into files that were prepared.
fn fill_first_file(engine: &Engine) -> Result<(), Failure> {
    let value = vec![0; 1 << 20];
    let mut batch = LogBatch::default();
    for number in 0..=FILE_BYTES / value.len() as u64 {
        batch.put(EARLIER, number.to_le_bytes().to_vec(), value.clone())?;
        engine.write(&mut batch, false)?;
    }
    engine.sync()?;
    Ok(())
}

struct Entries;

impl MessageExt for Entries {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let index = entry.value.first_chunk().expect("an entry begins with its index");
        u64::from_le_bytes(*index)
    }
}

fn entry(index: u64, record: &Record) -> BytesValue {
    let mut value = record.to_vec();
    value[..8].copy_from_slice(&index.to_le_bytes());
    BytesValue { value, ..BytesValue::default() }
}

impl Peer for RaftEngine {
    fn append(&self, batch: Batch<'_>) -> Result<(), Failure> {
        let entries: Vec<_> = batch.numbered().map(|(at, record)| entry(at, record)).collect();
        let mut log_batch = LogBatch::with_capacity(1);
        log_batch.add_entries::<Entries>(u64::from(batch.partition), &entries)?;
        self.engine.write(&mut log_batch, true)?;
        Ok(())
    }

    fn reopen(self: Box<Self>) -> Opened {
        let Self { engine, partitions, folder } = *self;
        drop(engine);
        let engine = open(&folder, Purpose::Replay)?;
        Ok(Box::new(Self { engine, partitions, folder }))
    }

    fn replay(&mut self) -> Result<Seen, Failure> {
        let mut seen = Seen::default();
        let mut entries = Vec::new();
        for group in 0..u64::from(self.partitions) {
            let Some(last) = self.engine.last_index(group) else { continue };
            for from in (0..=last).step_by(usize::try_from(ENTRIES)?) {
                let to = (from + ENTRIES).min(last + 1);
                self.engine.fetch_entries_to::<Entries>(group, from, to, None, &mut entries)?;
                entries.drain(..).for_each(|entry| seen.see(&entry.value));
            }
        }
        Ok(seen)
    }
}
