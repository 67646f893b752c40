//! The bytes of a simulated slot: what reads see, and what a power failure would leave of it.
//!
//! Knows nothing of processes, faults or time; `world` does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::disk::PAGE_BYTES;

/// What lands or is lost as a whole.
pub(super) const SECTOR_BYTES: usize = 512;

/// A slot's file.
pub(super) struct Inode {
    pub(super) content: Content,
    /// What the medium would hold, after a power failure, at places that reads see otherwise.
    pub(super) before_sync: BTreeMap<u64, [u8; SECTOR_BYTES]>,
    /// What the medium holds, by sector, where a page cache shows something else, as clean.
    pub(super) under_cache: BTreeMap<u64, [u8; SECTOR_BYTES]>,
    pub(super) locked: bool,
    pub(super) linked: bool,
    pub(super) handles: usize,
    pub(super) maps: usize,
}

impl Inode {
    pub(super) fn new(content: Content) -> Self {
        let (before_sync, under_cache) = (BTreeMap::new(), BTreeMap::new());
        Self { content, before_sync, under_cache, locked: false, linked: true, handles: 0, maps: 0 }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.content.bytes()
    }

    pub(super) fn write_durably(&mut self, at: u64, bytes: &[u8]) {
        self.content.write(index(at), bytes);
        for sector in (at..at + size(bytes.len())).step_by(SECTOR_BYTES) {
            self.before_sync.remove(&sector);
            self.under_cache.remove(&sector);
        }
    }

    /// Shows a sector that the medium did not take.
    pub(super) fn write_to_cache(&mut self, at: u64, sector: &[u8]) {
        let mut before = [0; SECTOR_BYTES];
        self.content.read(index(at), &mut before);
        self.under_cache.entry(at).or_insert(before);
        self.content.write(index(at), sector);
    }

    /// From now on reads see what the medium holds. What is dirty stays.
    pub(super) fn drop_cache(&mut self) {
        for (sector, before) in std::mem::take(&mut self.under_cache) {
            self.content.write(index(sector), &before);
        }
    }

    pub(super) fn write_visibly(&mut self, at: u64, bytes: &[u8]) {
        for sector in (at..at + size(bytes.len())).step_by(SECTOR_BYTES) {
            let mut before = [0; SECTOR_BYTES];
            self.content.read(index(sector), &mut before);
            let before = self.under_cache.remove(&sector).unwrap_or(before);
            self.before_sync.entry(sector).or_insert(before);
        }
        self.content.write(index(at), bytes);
    }
}

/// A file's bytes. Pages are shared until written, so that copies of whole disks are cheap.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) pages: Vec<Arc<[u8; PAGE_BYTES]>>,
    /// Pages as they were before the last write that a commit's buffer made.
    pub(super) older: BTreeMap<usize, Arc<[u8; PAGE_BYTES]>>,
}

impl Content {
    pub(super) fn zero_page() -> Arc<[u8; PAGE_BYTES]> {
        Arc::new([0; PAGE_BYTES])
    }

    pub(super) fn zeros(bytes: u64) -> Self {
        let pages = vec![Self::zero_page(); index(bytes) / PAGE_BYTES];
        Self { pages, older: BTreeMap::new() }
    }

    pub(super) fn bytes(&self) -> u64 {
        size(self.pages.len() * PAGE_BYTES)
    }

    /// Keeps what is about to be written over. A page is shared, and copied by the write.
    pub(super) fn keep_older(&mut self, at: usize, length: usize) {
        for page in at / PAGE_BYTES..(at + length).div_ceil(PAGE_BYTES) {
            self.older.insert(page, Arc::clone(&self.pages[page]));
        }
    }

    pub(super) fn read(&self, mut at: usize, mut into: &mut [u8]) {
        while !into.is_empty() {
            let within = at % PAGE_BYTES;
            let length = into.len().min(PAGE_BYTES - within);
            let page = &self.pages[at / PAGE_BYTES];
            into[..length].copy_from_slice(&page[within..within + length]);
            into = &mut into[length..];
            at += length;
        }
    }

    pub(super) fn write(&mut self, mut at: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let within = at % PAGE_BYTES;
            let length = bytes.len().min(PAGE_BYTES - within);
            let page = Arc::make_mut(&mut self.pages[at / PAGE_BYTES]);
            page[within..within + length].copy_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
            at += length;
        }
    }
}

pub(super) fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

pub(super) fn index(at: u64) -> usize {
    usize::try_from(at).expect("a simulated disk fits into memory")
}

pub(super) fn size(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a length is below 2^64")
}
