//! What a disk was told, in order: the log of a block device, and images of the disk as it stood
//! after a part of it.
//!
//! The format is that of Linux's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst
//! and `struct log_write_super`, `struct log_write_entry` in drivers/md/dm-log-writes.c), which
//! QEMU's `blklogwrites` driver writes too. All numbers are little-endian; a sector has the size that
//! the head states.
//!
//! | where | what |
//! |---|---|
//! | sector 0 | u64 magic `0x6a736677736872`, u64 version 1, u64 entries, u32 sector size |
//! | each entry, on a sector | u64 sector, u64 sectors, u64 flags, u64 length of a mark's text |
//! | behind it | the sectors that were written; nothing for a flush or a discard |

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::chance::Chance;

const MAGIC: u64 = 0x006a_7366_7773_6872;
/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;
const ENTRY_BYTES: usize = 32;
const FLUSH: u64 = 1;
const FORCED: u64 = 2;
const DISCARD: u64 = 4;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) kind: Kind,
    /// Where on the disk, in bytes.
    pub(super) at: u64,
    pub(super) bytes: usize,
    /// Where its bytes lie in the log.
    data_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Durable at the next flush.
    Write,
    /// Durable by itself.
    ForcedWrite,
    /// What was written before is durable.
    Flush,
    Discard,
}

/// A log that was read.
pub(super) struct BlockLog {
    file: File,
    pub(super) requests: Vec<Request>,
}

impl BlockLog {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut head = [0; 28];
        file.read_exact_at(&mut head, 0)?;
        let sector_bytes = u32::from_le_bytes(head[24..].try_into().expect("four bytes"));
        if number(&head, 0) != MAGIC || u64::from(sector_bytes) != SECTOR_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no log of a block device"));
        }
        let mut requests = Vec::new();
        let mut at = SECTOR_BYTES;
        for _ in 0..number(&head, 2) {
            let mut entry = [0; ENTRY_BYTES];
            file.read_exact_at(&mut entry, at)?;
            let request = request(&entry, at + SECTOR_BYTES);
            at += SECTOR_BYTES;
            if request.kind != Kind::Discard {
                at += request.bytes as u64;
            }
            requests.push(request);
        }
        Ok(Self { file, requests })
    }

    /// What a write wrote.
    pub(super) fn data(&self, request: &Request) -> io::Result<Vec<u8>> {
        let mut data = vec![0; request.bytes];
        self.file.read_exact_at(&mut data, request.data_at)?;
        Ok(data)
    }
}

fn number(bytes: &[u8], index: usize) -> u64 {
    let bytes = bytes[8 * index..8 * index + 8].try_into().expect("eight bytes");
    u64::from_le_bytes(bytes)
}

fn request(entry: &[u8; ENTRY_BYTES], data_at: u64) -> Request {
    let (sector, sectors, flags) = (number(entry, 0), number(entry, 1), number(entry, 2));
    let kind = match flags {
        flags if flags & DISCARD != 0 => Kind::Discard,
        // A flush may bring a write along, which comes after it.
        flags if flags & FLUSH != 0 && sectors == 0 => Kind::Flush,
        flags if flags & (FORCED | FLUSH) != 0 => Kind::ForcedWrite,
        _ => Kind::Write,
    };
    let bytes = usize::try_from(sectors * SECTOR_BYTES).expect("a request fits into memory");
    Request { kind, at: sector * SECTOR_BYTES, bytes, data_at }
}

/// A disk's content, of which the untouched rest is zero.
pub(super) struct Image {
    bytes: Vec<u8>,
    /// Pieces that are not all zero, or were not once.
    touched: BTreeSet<usize>,
}

const PIECE_BYTES: usize = 64 << 10;

impl Image {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(path)?;
        let pieces = bytes.chunks(PIECE_BYTES).enumerate();
        let touched = pieces.filter(|(_, piece)| piece.iter().any(|byte| *byte != 0));
        let touched = touched.map(|(index, _)| index).collect();
        Ok(Self { bytes, touched })
    }

    /// Writes `data` as far as it lies on the disk.
    pub(super) fn write(&mut self, at: u64, data: &[u8]) {
        let at = usize::try_from(at).expect("an image fits into memory");
        let Some(room) = self.bytes.len().checked_sub(at) else { return };
        let data = &data[..data.len().min(room)];
        if data.is_empty() {
            return;
        }
        self.bytes[at..at + data.len()].copy_from_slice(data);
        self.touched.extend(at / PIECE_BYTES..=(at + data.len() - 1) / PIECE_BYTES);
    }

    /// Makes a sparse file of it.
    pub(super) fn write_out(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        file.set_len(self.bytes.len() as u64)?;
        for index in &self.touched {
            let at = index * PIECE_BYTES;
            let end = (at + PIECE_BYTES).min(self.bytes.len());
            file.write_all_at(&self.bytes[at..end], at as u64)?;
        }
        Ok(())
    }
}

/// What a power cut leaves of requests that no flush followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// All of them reached the medium.
    Kept,
    /// None did.
    Lost,
    /// Each did, or did not, or some of its sectors did.
    Mixed,
}

/// What is left of one of them: places and bytes.
pub(super) fn remains(
    at: u64,
    data: &[u8],
    fate: Fate,
    chance: &mut Chance,
) -> Vec<(u64, Vec<u8>)> {
    let whole = || vec![(at, data.to_vec())];
    match fate {
        Fate::Kept => whole(),
        Fate::Lost => Vec::new(),
        Fate::Mixed => match chance.below(4) {
            0 => whole(),
            1 => Vec::new(),
            _ => {
                let sectors = (at..).step_by(SECTOR_BYTES as usize);
                let sectors = sectors.zip(data.chunks(SECTOR_BYTES as usize));
                let kept = sectors.filter(|_| chance.one_in(2));
                kept.map(|(at, sector)| (at, sector.to_vec())).collect()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("tracklog-{name}-{}", std::process::id()));
        File::create(&path).unwrap().write_all(bytes).unwrap();
        path
    }

    fn sector(numbers: &[u64]) -> Vec<u8> {
        let mut sector: Vec<u8> = numbers.iter().flat_map(|it| it.to_le_bytes()).collect();
        sector.resize(SECTOR_BYTES as usize, 0);
        sector
    }

    #[test]
    fn a_log_is_read_as_its_format_says() {
        let mut bytes = sector(&[MAGIC, 1, 4, SECTOR_BYTES]);
        bytes.extend(sector(&[8, 1, 0, 0]));
        bytes.extend([7; 512]);
        bytes.extend(sector(&[0, 0, FLUSH, 0]));
        bytes.extend(sector(&[64, 128, DISCARD, 0]));
        bytes.extend(sector(&[16, 2, FORCED, 0]));
        bytes.extend([9; 1024]);
        let path = file("log", &bytes);
        let log = BlockLog::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let read: Vec<_> = log.requests.iter().map(|it| (it.kind, it.at, it.bytes)).collect();
        assert_eq!(
            read,
            [
                (Kind::Write, 4096, 512),
                (Kind::Flush, 0, 0),
                (Kind::Discard, 32_768, 65_536),
                (Kind::ForcedWrite, 8192, 1024),
            ]
        );
        assert_eq!(log.data(&log.requests[0]).unwrap(), [7; 512]);
        assert_eq!(log.data(&log.requests[3]).unwrap(), [9; 1024]);
    }

    #[test]
    fn anything_else_is_refused() {
        let path = file("none", &sector(&[1, 2, 3, 4]));
        assert!(BlockLog::open(&path).is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_image_takes_what_lies_on_its_disk_and_is_written_out_again() {
        let mut bytes = vec![0; 3 * PIECE_BYTES];
        bytes[5] = 1;
        let path = file("image", &bytes);
        let mut image = Image::read(&path).unwrap();
        image.write(2 * PIECE_BYTES as u64 - 2, &[8; 4]);
        image.write(3 * PIECE_BYTES as u64 - 2, &[9; 4]);
        image.write(4 * PIECE_BYTES as u64, &[9; 4]);
        image.write_out(&path).unwrap();
        bytes[2 * PIECE_BYTES - 2..2 * PIECE_BYTES + 2].fill(8);
        bytes[3 * PIECE_BYTES - 2..].fill(9);
        assert!(std::fs::read(&path).unwrap() == bytes);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_mixed_is_whole_or_gone_or_torn_by_sectors() {
        let data: Vec<u8> = (0..8 * 512).map(|at: u32| (at / 512) as u8).collect();
        let mut chance = Chance::new(1);
        let mut shares = BTreeSet::new();
        for _ in 0..100 {
            let left = remains(512, &data, Fate::Mixed, &mut chance);
            for (at, bytes) in &left {
                let at = *at as usize - 512;
                assert_eq!(data[at..at + bytes.len()], **bytes);
            }
            shares.insert(left.iter().map(|(_, bytes)| bytes.len()).sum::<usize>());
        }
        assert!(shares.contains(&0) && shares.contains(&data.len()) && shares.len() > 4);
        assert_eq!(remains(0, &data, Fate::Kept, &mut chance), [(0, data.clone())]);
        assert!(remains(0, &data, Fate::Lost, &mut chance).is_empty());
    }
}
