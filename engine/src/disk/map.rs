//! A full segment, mapped for reading.
//!
//! Promises
//! - Nothing is touched before the kernel has read it: with [`Map::bytes`] a bad block or a file
//!   that was cut short is an error that names the place, not a signal that ends the process.
//! - [`Map::bytes_in_memory`] asks the kernel, page by page, whether it has; that is much cheaper.
//! - What it answers pins the map, and the map its file, also after the file was removed.
//!
//! Assumes that the file is not written while mapped (the journal maps full segments only). A
//! sector that dies after it was read in, and whose page was dropped again between the look and
//! the touch, still ends the process.
//!
//! Made by `files`.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
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
    /// Whether the kernel tells us which pages are in memory. To strangers it says "all of them".
    is_ours: bool,
}

/// So many pages are asked about at once.
const PAGES_AT_ONCE: usize = 512;

impl FileMap {
    pub(super) fn new(file: &File, name: &str) -> io::Result<Self> {
        let file = file.try_clone()?;
        // SAFETY: the file is a full segment, which nobody writes while it is mapped (the promise
        // that `Slot::map` asks of its caller), and nobody truncates it: the folder is locked
        // against other processes, and `create_slot` refuses a slot in use. What is read is
        // populated first, so that even a truncated file is an error.
        let map = unsafe { MmapOptions::new().map(&file)? };
        let is_ours = file.metadata()?.uid() == rustix::process::geteuid().as_raw();
        Ok(Self { map, file, name: name.to_owned(), is_ours })
    }

    /// The range as places in memory, if it lies in the file.
    fn range(&self, at: u64, length: usize) -> Option<Range<usize>> {
        let start = usize::try_from(at).ok()?;
        let end = start.checked_add(length)?;
        (end <= self.map.len()).then_some(start..end)
    }

    /// Whether the kernel has read in all pages that `range` touches, and not dropped them since.
    /// When in doubt, no. Pages behind the end of a file that was cut short may still be in memory,
    /// and yet not to be touched: the length is asked for too.
    fn is_resident(&self, range: &Range<usize>) -> bool {
        let start = range.start / PAGE_BYTES * PAGE_BYTES;
        let mut chunks = (start..range.end).step_by(PAGES_AT_ONCE * PAGE_BYTES);
        self.is_ours
            && self.file_bytes().is_some_and(|bytes| bytes >= range.end)
            && chunks.all(|at| {
                let end = range.end.min(at + PAGES_AT_ONCE * PAGE_BYTES);
                self.are_resident(at, (end - at).div_ceil(PAGE_BYTES))
            })
    }

    fn file_bytes(&self) -> Option<usize> {
        usize::try_from(rustix::fs::fstat(&self.file).ok()?.st_size).ok()
    }

    /// The same of the `pages` at `at`, which is the start of one; [`PAGES_AT_ONCE`] at most.
    fn are_resident(&self, at: usize, pages: usize) -> bool {
        assert!(pages <= PAGES_AT_ONCE, "the answer has a place for each page");
        assert!(at + (pages - 1) * PAGE_BYTES < self.map.len(), "the pages lie in the map");
        let mut resident = [0_u8; PAGES_AT_ONCE];
        let start = self.map.as_ptr().wrapping_add(at).cast_mut();
        // SAFETY: the pages lie in the mapping, and there is a byte for each of them in
        // `resident` (both asserted above). Nothing is read or written through `start`: the
        // kernel looks at its tables alone, and refuses a place that is not at a page's start.
        let looked =
            unsafe { libc::mincore(start.cast(), pages * PAGE_BYTES, resident.as_mut_ptr()) };
        looked == 0 && resident[..pages].iter().all(|page| page & 1 == 1)
    }

    /// Whether the kernel reads in pages when it is asked to, and waits: Linux does from 5.14 on.
    fn can_populate(&self) -> bool {
        self.populate_pages(0..0).is_ok()
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

    /// A hint: a kernel that does not take it reads when it is asked to.
    fn ask_for(&self, range: &Range<usize>) {
        let start = range.start / PAGE_BYTES * PAGE_BYTES;
        let _taken = self.map.advise_range(Advice::WillNeed, start, range.end - start);
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
        let Some(range) = self.range(at, length) else {
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

    fn bytes_in_memory(self: Arc<Self>, at: u64, length: usize) -> Option<Bytes> {
        let range = self.range(at, length).filter(|range| self.is_resident(range))?;
        Some(Bytes::from_owner(Pinned { map: self, range }))
    }

    fn expect(&self, at: u64, length: usize) -> bool {
        let missing = self.range(at, length).filter(|range| !self.is_resident(range));
        let Some(range) = missing else { return false };
        self.ask_for(&range);
        true
    }

    fn read_in(&self, at: u64, length: usize) {
        let Some(range) = self.range(at, length).filter(|range| !range.is_empty()) else { return };
        if !self.can_populate() {
            return;
        }
        // To populate alone would read as much at a time as the kernel reads ahead.
        self.ask_for(&range);
        let _found_when_it_is_asked_for = self.populate(&range);
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
    fn pages_that_were_dropped_are_read_in_again() {
        let (file, map) = mapped(1100);
        let all = 0..1100 * PAGE_BYTES;
        file.sync_all().unwrap();
        let drop_cache = || {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        };
        drop_cache();
        let bytes = Arc::clone(&map).bytes(0, all.end).unwrap();
        assert!(map.is_resident(&all), "what was read in is known to be there");
        assert_eq!(bytes[4096..4096 + 3], [80, 81, 82]);
        drop(bytes);
        file.set_len(5 * 4096).unwrap();
        assert!(!map.is_resident(&all) && !map.is_resident(&(5 * 4096..5 * 4096 + 1)));
        assert!(Arc::clone(&map).bytes_in_memory(0, all.end).is_none());
        let there = Arc::clone(&map).bytes_in_memory(4096, 4 * 4096).unwrap();
        assert_eq!(there[..3], [80, 81, 82]);
        assert!(map.expect(0, all.end) && !map.expect(u64::MAX, 2) && !map.expect(9, 9));
        map.read_in(0, all.end);
        map.read_in(u64::MAX, 2);
        map.bytes(0, all.end).unwrap_err();
    }

    #[test]
    fn what_was_read_in_is_in_memory() {
        let (file, map) = mapped(64);
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        map.read_in(10 * 4096, 20 * 4096);
        assert!(map.is_resident(&(10 * 4096..30 * 4096)));
    }

    #[test]
    fn strangers_are_not_believed() {
        let (file, map) = mapped(2);
        let Ok(mut map) = Arc::try_unwrap(map) else { panic!("nobody else has it") };
        map.is_ours = false;
        assert!(!map.is_resident(&(0..10)));
        file.set_len(0).unwrap();
        Arc::new(map).bytes(0, 10).unwrap_err();
    }

    #[test]
    fn copy_for_old_kernels_gives_the_same_bytes() {
        let (_file, map) = mapped(4);
        let range = 4000..9000;
        let copy = map.copy(range.clone()).unwrap();
        assert_eq!(copy, map.bytes(4000, range.len()).unwrap());
    }
}
