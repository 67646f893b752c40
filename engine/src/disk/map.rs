//! A full segment, mapped for reading.
//!
//! Promises
//! - [`Map::bytes`] touches nothing before the kernel has read it: a bad block or a file that was
//!   cut short is an error that names the place, not a signal that ends the process.
//! - What it answers pins the map, and the map its file, also after the file was removed.
//!
//! Assumes that the file is not written while mapped (the journal maps full segments only). A
//! sector that dies after it was read in, and whose page was dropped again before it is touched,
//! still ends the process.
//!
//! Made by `files`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice, Mmap, MmapOptions};
use rustix::io::Errno;

use super::{Map, PAGE_BYTES};

/// A mapped file.
pub(super) struct FileMap {
    map: Mmap,
    /// For kernels that cannot populate a map: they are read from instead.
    file: File,
    name: String,
}

impl FileMap {
    pub(super) fn new(file: &File, name: &str) -> io::Result<Self> {
        let file = file.try_clone()?;
        // SAFETY: the file is a full segment, which nobody writes while it is mapped (the promise
        // that `Slot::map` asks of its caller), and nobody truncates it: the folder is locked
        // against other processes, and `create_slot` refuses a slot in use. What is read is
        // populated first, so that even a truncated file is an error.
        let map = unsafe { MmapOptions::new().map(&file)? };
        Ok(Self { map, file, name: name.to_owned() })
    }

    /// Has the kernel read in all pages that `range` touches. False when it cannot do that.
    fn populate(&self, range: &Range<usize>) -> io::Result<bool> {
        let start = range.start / PAGE_BYTES * PAGE_BYTES;
        let Err(error) = self.populate_pages(start..range.end) else { return Ok(true) };
        if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) {
            return Ok(false);
        }
        let pages = (start..range.end).step_by(PAGE_BYTES);
        let bad = pages.into_iter().find(|at| self.populate_pages(*at..*at + 1).is_err());
        let name = &self.name;
        Err(match bad {
            Some(at) => io::Error::other(format!("{name} cannot be read at {at}: {error}")),
            None => io::Error::other(format!("{name} cannot be read at {range:?}: {error}")),
        })
    }

    fn populate_pages(&self, range: Range<usize>) -> io::Result<()> {
        self.map.advise_range(Advice::PopulateRead, range.start, range.len())
    }

    fn copy(&self, range: Range<usize>) -> io::Result<Bytes> {
        let mut copy = vec![0; range.len()];
        let at = u64::try_from(range.start).expect("a place in memory is below 2^64");
        self.file.read_exact_at(&mut copy, at)?;
        Ok(copy.into())
    }
}

impl Map for FileMap {
    fn bytes(self: Arc<Self>, at: u64, length: usize) -> io::Result<Bytes> {
        let start = usize::try_from(at).ok();
        let range = start.and_then(|start| Some(start..start.checked_add(length)?));
        let Some(range) = range.filter(|range| range.end <= self.map.len()) else {
            let what = format!("{} ends before {at} + {length}", self.name);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        };
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if self.populate(&range)? {
            Ok(Bytes::from_owner(Pinned { map: self, range }))
        } else {
            self.copy(range)
        }
    }
}

/// A piece of a map that keeps the whole of it.
struct Pinned {
    map: Arc<FileMap>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        &self.map.map[self.range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(pages: usize) -> (File, Arc<FileMap>) {
        let file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0_u8..=250).cycle().take(pages * PAGE_BYTES).collect();
        file.write_all_at(&bytes, 0).unwrap();
        let map = FileMap::new(&file, "slot-00000001").unwrap();
        (file, Arc::new(map))
    }

    /// A touch of those pages would end this process with SIGBUS.
    #[test]
    fn file_cut_short_is_an_error_that_names_the_place() {
        let (file, map) = mapped(8);
        file.set_len(5 * 4096).unwrap();
        assert_eq!(Arc::clone(&map).bytes(0, 5 * 4096).unwrap().len(), 5 * 4096);
        let error = map.bytes(3 * 4096 + 7, 4 * 4096).unwrap_err().to_string();
        assert!(error.starts_with("slot-00000001 cannot be read at 20480"), "{error}");
    }

    #[test]
    fn copy_for_old_kernels_gives_the_same_bytes() {
        let (_file, map) = mapped(4);
        let range = 4000..9000;
        let copy = map.copy(range.clone()).unwrap();
        assert_eq!(copy, map.bytes(4000, range.len()).unwrap());
    }
}
