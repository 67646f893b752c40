//! SQLite through rusqlite, built from the source that it brings along: one table, whose primary
//! key is the partition and the offset.
//!
//! Durability: `journal_mode = WAL` and `synchronous = FULL`: each commit syncs the write-ahead log
//! (`strace` shows `fsync`: the source as it is brought along does not use `fdatasync`). Checkpoints
//! come by themselves, every 1,000 pages, as they do by default. One writer at a time: producers
//! take turns on one connection.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rusqlite::Connection;

use super::{Batch, Failure, Kind, Opened, Peer, Seen};

pub(super) const KIND: Kind = Kind {
    name: "SQLite (rusqlite)",
    version: "0.43.0",
    licence: "MIT; SQLite: public domain",
    partitioned: true,
    readable: true,
    open: |folder, _, _| Ok(Box::new(Sqlite::open(&folder.join("records.sqlite"))?)),
};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS records (
        of_partition INTEGER NOT NULL,
        at_offset INTEGER NOT NULL,
        record BLOB NOT NULL,
        PRIMARY KEY (of_partition, at_offset)
    ) WITHOUT ROWID";
const INSERT: &str = "INSERT INTO records VALUES (?1, ?2, ?3)";
const SELECT: &str = "SELECT record FROM records ORDER BY of_partition, at_offset";

struct Sqlite {
    connection: Mutex<Connection>,
    file: PathBuf,
}

impl Sqlite {
    fn open(file: &Path) -> Result<Self, Failure> {
        let connection = Connection::open(file)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self { connection: Mutex::new(connection), file: file.to_owned() })
    }
}

impl Peer for Sqlite {
    fn append(&self, batch: Batch<'_>) -> Result<(), Failure> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let transaction = connection.transaction()?;
        let mut insert = transaction.prepare_cached(INSERT)?;
        for (offset, record) in batch.numbered() {
            insert.execute((batch.partition, i64::try_from(offset)?, &record[..]))?;
        }
        drop(insert);
        transaction.commit()?;
        Ok(())
    }

    fn reopen(self: Box<Self>) -> Opened {
        let Self { connection, file } = *self;
        drop(connection);
        Ok(Box::new(Self::open(&file)?))
    }

    fn replay(&mut self) -> Result<Seen, Failure> {
        let connection = self.connection.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut select = connection.prepare(SELECT)?;
        let mut rows = select.query(())?;
        let mut seen = Seen::default();
        while let Some(row) = rows.next()? {
            seen.see(row.get_ref(0)?.as_blob()?);
        }
        Ok(seen)
    }
}
