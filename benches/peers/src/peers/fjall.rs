//! fjall: an LSM store. One keyspace; the key is the partition and the offset.
//!
//! Durability: a write batch with `PersistMode::SyncData`, which returns after `fdatasync` of its
//! journal (`strace` shows it), as `SyncAll` does after `fsync`. It syncs under the lock of its
//! journal: producers take turns.

use std::path::{Path, PathBuf};

use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::{Batch, Failure, Kind, Opened, Peer, Seen};

pub(super) const KIND: Kind = Kind {
    name: "fjall",
    version: "3.1.13",
    licence: "MIT OR Apache-2.0",
    partitioned: true,
    readable: true,
    open: |folder, _, _| Ok(Box::new(Fjall::open(folder)?)),
};

struct Fjall {
    records: Keyspace,
    database: Database,
    folder: PathBuf,
}

impl Fjall {
    fn open(folder: &Path) -> Result<Self, Failure> {
        let builder = Database::builder(folder).journal_compression(CompressionType::None);
        let database = builder.open()?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default)?;
        Ok(Self { records, database, folder: folder.to_owned() })
    }
}

impl Peer for Fjall {
    fn append(&self, batch: Batch<'_>) -> Result<(), Failure> {
        let mut writes = self.database.batch().durability(Some(PersistMode::SyncData));
        for (offset, record) in batch.numbered() {
            writes.insert(&self.records, key(batch.partition, offset), &record[..]);
        }
        writes.commit()?;
        Ok(())
    }

    fn reopen(self: Box<Self>) -> Opened {
        let Self { records, database, folder } = *self;
        drop((records, database));
        Ok(Box::new(Self::open(&folder)?))
    }

    fn replay(&mut self) -> Result<Seen, Failure> {
        let mut seen = Seen::default();
        for record in self.records.iter() {
            seen.see(&record.value()?);
        }
        Ok(seen)
    }
}

/// Sorts by partition, then by offset.
fn key(partition: u32, offset: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&partition.to_be_bytes());
    key[4..].copy_from_slice(&offset.to_be_bytes());
    key
}
