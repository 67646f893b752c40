//! Marks: what the load was told, written behind the file system on the same disk, so that they
//! stand in the disk's log behind all that they speak of.
//!
//! A mark is a page: u64 magic, u64 length, and the text of what was acked. It is written without
//! a flush, since a flush would make durable what nobody promised.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::machine::MARKS_BYTES;

const PAGE_BYTES: u64 = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"TLOGMARK");
/// What one append may put where.
const PARTS_MAX: usize = 2;

/// Records of one producer, stored side by side in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) partition: u32,
    /// Where the first one lies.
    pub(super) offset: u64,
    pub(super) producer: u32,
    /// The first one's number.
    pub(super) first: u64,
    pub(super) count: u64,
    /// Where the partition starts: never lower after that.
    pub(super) start: u64,
}

/// An append that was acked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) stored: Vec<Stored>,
}

impl Mark {
    fn encode(&self) -> Vec<u8> {
        assert!(self.stored.len() <= PARTS_MAX, "an append has so many parts");
        let mut numbers = vec![MAGIC, self.stored.len() as u64];
        for it in &self.stored {
            let (partition, producer) = (u64::from(it.partition), u64::from(it.producer));
            numbers.extend([partition, it.offset, producer, it.first, it.count, it.start]);
        }
        let mut page: Vec<u8> = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        page.resize(PAGE_BYTES as usize, 0);
        page
    }

    /// The mark in what was written, if it is one.
    pub(super) fn decode(page: &[u8]) -> Option<Self> {
        let mut numbers = page
            .chunks_exact(8)
            .map(|it| u64::from_le_bytes(it.try_into().expect("chunks of eight")));
        if numbers.next()? != MAGIC {
            return None;
        }
        let parts = usize::try_from(numbers.next()?).ok().filter(|it| *it <= PARTS_MAX)?;
        let mut stored = Vec::with_capacity(parts);
        for _ in 0..parts {
            stored.push(Stored {
                partition: u32::try_from(numbers.next()?).ok()?,
                offset: numbers.next()?,
                producer: u32::try_from(numbers.next()?).ok()?,
                first: numbers.next()?,
                count: numbers.next()?,
                start: numbers.next()?,
            });
        }
        Some(Self { stored })
    }
}

/// Where marks are written.
pub(super) struct Marks {
    disk: File,
    /// Where the file system ends.
    behind: u64,
    written: AtomicU64,
}

impl Marks {
    pub(super) fn behind(disk: &Path, file_system_bytes: u64) -> io::Result<Self> {
        let disk = File::options().write(true).open(disk)?;
        Ok(Self { disk, behind: file_system_bytes, written: AtomicU64::new(0) })
    }

    pub(super) fn write(&self, mark: &Mark) -> io::Result<()> {
        let places = MARKS_BYTES / PAGE_BYTES;
        let place = self.written.fetch_add(1, Ordering::Relaxed) % places;
        self.disk.write_all_at(&mark.encode(), self.behind + place * PAGE_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written() {
        let part =
            Stored { partition: 3, offset: 70_000, producer: 2, first: 9, count: 20, start: 6 };
        let mark = Mark { stored: vec![part, Stored { partition: 0, count: 1, ..part }] };
        assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        assert_eq!(Mark::decode(&[0; 4096]), None);
        assert_eq!(Mark::decode(&[]), None);
    }
}
