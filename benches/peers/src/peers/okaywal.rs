//! okaywal: a write-ahead log without partitions, whose segments are recycled when its owner has
//! taken what it needs from them.
//!
//! Durability: `EntryWriter::commit` returns after `fdatasync` (`strace` shows it), which
//! producers share: group commit of its own. It syncs its folder after making a segment, but not
//! after it has renamed a recycled one to be the next (`strace` shows `rename`, then `fdatasync`
//! of the file alone): until the next checkpoint the file may bear its old name after a power cut,
//! and would be taken for one that is done with. It is measured as it is.
//!
//! It is read when it is opened: its replay is a recovery, opening included.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, mem};

use okaywal::{Configuration, Entry, EntryId, LogManager, LogVoid, SegmentReader, WriteAheadLog};

use super::{Batch, Failure, Kind, Opened, Peer, Purpose, Seen};

pub(super) const KIND: Kind = Kind {
    name: "okaywal",
    version: "0.3.1",
    licence: "MIT OR Apache-2.0",
    partitioned: false,
    readable: true,
    open: |folder, purpose, _| Ok(Box::new(Okaywal::make(folder, purpose)?)),
};

const RECYCLED_SEGMENT_BYTES: u32 = 16 << 20;
/// All that is read back lies in one segment.
const KEPT_SEGMENT_BYTES: u32 = 128 << 20;
const BUFFER_BYTES: usize = 256 << 10;
/// Segments that are written once before it is measured.
const SEGMENTS: u32 = 3;

struct Okaywal {
    log: Option<WriteAheadLog>,
    folder: PathBuf,
}

impl Okaywal {
    fn make(folder: &Path, purpose: Purpose) -> Result<Self, Failure> {
        let segment_bytes = match purpose {
            Purpose::Append => RECYCLED_SEGMENT_BYTES,
            Purpose::Replay => KEPT_SEGMENT_BYTES,
        };
        let log = settings(folder, segment_bytes).open(LogVoid)?;
        if purpose == Purpose::Append {
            let most_of_one = vec![0; segment_bytes as usize / 8 * 7];
            for _ in 0..SEGMENTS {
                let mut entry = log.begin_entry()?;
                entry.write_chunk(&most_of_one)?;
                entry.commit()?;
            }
        }
        Ok(Self { log: Some(log), folder: folder.to_owned() })
    }
}

fn settings(folder: &Path, segment_bytes: u32) -> Configuration {
    Configuration::default_for(folder)
        .preallocate_bytes(segment_bytes)
        .checkpoint_after_bytes(u64::from(segment_bytes) / 4 * 3)
        .buffer_bytes(BUFFER_BYTES)
}

impl Peer for Okaywal {
    fn append(&self, batch: Batch<'_>) -> Result<(), Failure> {
        let log = self.log.as_ref().ok_or("it is open to be read")?;
        let mut entry = log.begin_entry()?;
        for record in batch.records {
            entry.write_chunk(record)?;
        }
        entry.commit()?;
        Ok(())
    }

    fn reopen(mut self: Box<Self>) -> Opened {
        if let Some(log) = self.log.take() {
            log.shutdown()?;
        }
        Ok(self)
    }

    fn replay(&mut self) -> Result<Seen, Failure> {
        let reader = Reader::default();
        let log = settings(&self.folder, KEPT_SEGMENT_BYTES).open(reader.clone())?;
        log.shutdown()?;
        Ok(mem::take(&mut *reader.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// It wrote through the page cache; and a second recovery would find nothing, since the first
    /// one gives up what it has shown.
    fn warm_up(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

#[derive(Clone, Debug, Default)]
struct Reader(Arc<Mutex<Seen>>);

impl LogManager for Reader {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let chunks = entry.read_all_chunks()?.unwrap_or_default();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        chunks.iter().for_each(|chunk| seen.see(chunk));
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _: EntryId,
        _: &mut SegmentReader,
        _: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}
