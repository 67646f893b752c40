//! No peer, but what the plainest program reaches: one write at a time into blocks that were
//! written before, each followed by `fdatasync`. No checksum, no index, no reader.
//!
//! Durability: by construction. Producers take turns.

use std::sync::{Mutex, PoisonError};

use tracklog_benches::workload::RawDisk;

use super::{Batch, Failure, Kind, Opened, Peer, Purpose, Seen};

pub(super) const KIND: Kind = Kind {
    name: "write + fdatasync",
    version: "",
    licence: "",
    partitioned: false,
    readable: false,
    open: |folder, _: Purpose, _| {
        let disk = RawDisk::make(folder, FILE_BYTES)?;
        Ok(Box::new(Raw(Mutex::new(disk))))
    },
};

const FILE_BYTES: u64 = 64 << 20;

struct Raw(Mutex<RawDisk>);

impl Peer for Raw {
    fn append(&self, batch: Batch<'_>) -> Result<(), Failure> {
        let mut disk = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        disk.run(batch.records.as_flattened(), 1)?;
        Ok(())
    }

    fn reopen(self: Box<Self>) -> Opened {
        Ok(self)
    }

    fn replay(&mut self) -> Result<Seen, Failure> {
        Err("a raw file is not read back".into())
    }
}
