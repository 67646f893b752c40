//! redb: a B-tree in one file, copied on write. The key is the partition and the offset.
//!
//! Durability: `Durability::Immediate`, its default: `commit` returns after its `fdatasync`
//! (`strace` shows it). One writer at a time: producers take turns.

use std::path::{Path, PathBuf};

use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{Batch, Failure, Kind, Opened, Peer, Seen};

pub(super) const KIND: Kind = Kind {
    name: "redb",
    version: "4.6.0",
    licence: "MIT OR Apache-2.0",
    partitioned: true,
    readable: true,
    open: |folder, _, _| Ok(Box::new(Redb::open(&folder.join("records.redb"))?)),
};

const RECORDS: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("records");

struct Redb {
    database: Database,
    file: PathBuf,
}

impl Redb {
    fn open(file: &Path) -> Result<Self, Failure> {
        Ok(Self { database: Database::create(file)?, file: file.to_owned() })
    }
}

impl Peer for Redb {
    fn append(&self, batch: Batch<'_>) -> Result<(), Failure> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut records = transaction.open_table(RECORDS)?;
        for (offset, record) in batch.numbered() {
            records.insert((batch.partition, offset), &record[..])?;
        }
        drop(records);
        transaction.commit()?;
        Ok(())
    }

    fn reopen(self: Box<Self>) -> Opened {
        let Self { database, file } = *self;
        drop(database);
        Ok(Box::new(Self::open(&file)?))
    }

    fn replay(&mut self) -> Result<Seen, Failure> {
        let mut seen = Seen::default();
        for record in self.database.begin_read()?.open_table(RECORDS)?.iter()? {
            seen.see(record?.1.value());
        }
        Ok(seen)
    }
}
