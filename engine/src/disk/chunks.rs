//! Memory for commits: cut from chunks of a few mebibytes, one piece after the other.
//!
//! A commit's pages are written from memory that the disk's controller reads page by page. Where
//! they lie side by side in physical memory it has one stretch to fetch instead of one a page:
//! measured, writes of 256 KiB go a third faster, alone and four at a time. Only huge pages
//! promise that, and only chunks are large enough for them.
//!
//! Promises
//! - Pieces of one chunk never overlap, and a chunk is cut anew only when all of them are dropped.
//!   Commits leave the tail ring in the order in which they came, so chunks come back whole.
//! - At most the bound of unused chunks is kept; what comes back beyond it is freed.
//! - Where the system has no huge pages this is memory like any other.
//!
//! Used by the journal, through [`PageBuffer`](super::PageBuffer).

use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{Advice, MmapMut};

use super::PageBuffer;
use super::buffer::whole_pages;

/// A huge page, on most machines.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// What is cut into pieces: three of the largest that are common.
const CHUNK_BYTES: usize = 2 * HUGE_PAGE_BYTES;

/// Where a commit's pages come from.
pub struct ChunkPool {
    shelf: Arc<Shelf>,
    cut: Mutex<Option<Cut>>,
}

/// The chunk that is being cut.
struct Cut {
    chunk: Arc<Chunk>,
    used_bytes: usize,
}

impl Cut {
    fn take(&mut self, bytes: usize) -> Option<Piece> {
        let end = self.used_bytes.checked_add(bytes)?;
        if end > self.chunk.bytes {
            return None;
        }
        let at = std::mem::replace(&mut self.used_bytes, end);
        Some(Piece { chunk: Arc::clone(&self.chunk), at, bytes })
    }
}

impl ChunkPool {
    /// A pool that keeps at most `idle_bytes_max` of unused memory.
    #[must_use]
    pub fn new(idle_bytes_max: usize) -> Self {
        let shelf = Shelf { idle_bytes_max, idle: Mutex::default() };
        Self { shelf: Arc::new(shelf), cut: Mutex::default() }
    }

    /// A buffer of `bytes`, rounded up to pages. Memory that was used before is **not** zeroed
    /// again: it holds what its last user left there.
    #[must_use]
    pub fn take(&self, bytes: usize) -> PageBuffer {
        let bytes = whole_pages(bytes);
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(piece) = cut.as_mut().and_then(|cut| cut.take(bytes)) {
            return PageBuffer::piece(piece);
        }
        // Dropped before another is taken: it may be the one that comes back.
        *cut = None;
        let chunk = Arc::new(self.shelf.chunk(bytes.next_multiple_of(CHUNK_BYTES)));
        let mut fresh = Cut { chunk, used_bytes: 0 };
        let piece = fresh.take(bytes).expect("the chunk is as large as the piece");
        *cut = Some(fresh);
        PageBuffer::piece(piece)
    }

    /// Bytes of chunks that lie in it unused.
    #[must_use]
    pub fn idle_bytes(&self) -> usize {
        self.shelf.lock().iter().map(Memory::bytes).sum()
    }
}

impl fmt::Debug for ChunkPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkPool").field("idle_bytes", &self.idle_bytes()).finish_non_exhaustive()
    }
}

/// Where unused chunks lie.
struct Shelf {
    idle_bytes_max: usize,
    idle: Mutex<Vec<Memory>>,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Vec<Memory>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunk(self: &Arc<Self>, bytes: usize) -> Chunk {
        let mut idle = self.lock();
        let fits = idle.iter().rposition(|memory| memory.bytes() == bytes);
        let memory = fits.map(|at| idle.remove(at));
        drop(idle);
        let mut memory = memory.unwrap_or_else(|| Memory::map(bytes));
        let start = memory.start();
        Chunk { start, bytes, memory: Some(memory), home: Arc::clone(self) }
    }

    fn put_back(&self, memory: Memory) {
        let mut idle = self.lock();
        idle.push(memory);
        let mut bytes: usize = idle.iter().map(Memory::bytes).sum();
        // The oldest first: of a size that nobody asks for any more.
        let mut gone = 0;
        while bytes > self.idle_bytes_max {
            bytes -= idle[gone].bytes();
            gone += 1;
        }
        let freed: Vec<Memory> = idle.drain(..gone).collect();
        drop(idle);
        drop(freed);
    }
}

/// An anonymous map with a whole number of huge pages in it.
struct Memory {
    map: MmapMut,
}

impl Memory {
    /// # Panics
    /// When the system has no memory left, as every allocation does here.
    fn map(bytes: usize) -> Self {
        // Older kernels align no map to huge pages: what is too much is never touched.
        let map = MmapMut::map_anon(bytes + HUGE_PAGE_BYTES).expect("there is memory");
        // A wish: without huge pages it is slower.
        drop(map.advise(Advice::HugePage));
        Self { map }
    }

    fn start(&mut self) -> NonNull<u8> {
        let unaligned = self.map.as_mut_ptr();
        let skip = unaligned.addr().next_multiple_of(HUGE_PAGE_BYTES) - unaligned.addr();
        NonNull::from(&mut self.map[skip])
    }

    fn bytes(&self) -> usize {
        self.map.len() - HUGE_PAGE_BYTES
    }
}

/// A chunk that is lent.
struct Chunk {
    start: NonNull<u8>,
    bytes: usize,
    /// Taken out on drop alone.
    memory: Option<Memory>,
    home: Arc<Shelf>,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            self.home.put_back(memory);
        }
    }
}

// SAFETY: `start` points into `memory`, which the chunk owns; the chunk itself never follows it,
// and each piece owns its part of that memory alone.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

/// Whole pages of a chunk that belong to one buffer.
pub(super) struct Piece {
    chunk: Arc<Chunk>,
    at: usize,
    bytes: usize,
}

impl Piece {
    pub(super) fn start(&self) -> NonNull<u8> {
        // SAFETY: `at` lies inside of the chunk (`Cut::take`), whose memory `start` begins.
        unsafe { self.chunk.start.add(self.at) }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    #[test]
    fn pieces_lie_side_by_side_aligned_and_do_not_overlap() {
        let pool = ChunkPool::new(CHUNK_BYTES);
        let mut pieces: Vec<_> = [1, 4096, 300 * KIB].map(|bytes| pool.take(bytes)).into();
        for (number, piece) in (1..).zip(&mut pieces) {
            assert!(piece.iter().all(|byte| *byte == 0), "new memory is zero");
            piece.fill(number);
        }
        let starts: Vec<_> = pieces.iter().map(|piece| piece.as_ptr().addr()).collect();
        assert!(starts[0].is_multiple_of(HUGE_PAGE_BYTES));
        assert_eq!(starts, [0, 4 * KIB, 8 * KIB].map(|at| starts[0] + at));
        for (number, piece) in (1..).zip(&pieces) {
            assert!(piece.iter().all(|byte| *byte == number));
        }
    }

    #[test]
    fn a_chunk_is_cut_anew_only_when_all_of_its_pieces_are_dropped() {
        let pool = ChunkPool::new(4 * CHUNK_BYTES);
        let half = CHUNK_BYTES / 2;
        let first = pool.take(half).freeze();
        let second = pool.take(half);
        let place = first.as_ptr();
        let third = pool.take(half);
        assert_ne!(third.as_ptr(), place, "another chunk");
        let slice = first.slice(half - 1..);
        drop((first, second));
        assert_eq!(pool.idle_bytes(), 0, "a slice keeps the chunk");
        drop(slice);
        assert_eq!(pool.idle_bytes(), CHUNK_BYTES);
        let fourth = pool.take(half);
        let fifth = pool.take(half);
        assert_eq!(fourth.as_ptr().addr(), third.as_ptr().addr() + half);
        assert_eq!((fifth.as_ptr(), pool.idle_bytes()), (place, 0));
    }

    #[test]
    fn more_than_a_chunk_has_memory_of_its_own_and_what_lies_idle_is_bounded() {
        let pool = ChunkPool::new(3 * CHUNK_BYTES);
        let large = pool.take(CHUNK_BYTES + 1);
        assert_eq!(large.len(), CHUNK_BYTES + 4096);
        drop(large);
        assert_eq!(pool.idle_bytes(), 0, "it is being cut");
        let lent: Vec<_> = (0..4).map(|_| pool.take(CHUNK_BYTES)).collect();
        assert_eq!(pool.idle_bytes(), 2 * CHUNK_BYTES, "the large one came back");
        drop(lent);
        assert_eq!(pool.idle_bytes(), 3 * CHUNK_BYTES, "the oldest went, the last is being cut");
    }

    #[test]
    fn pieces_outlive_their_pool() {
        let pool = ChunkPool::new(CHUNK_BYTES);
        let bytes = pool.take(4096).freeze();
        drop(pool);
        assert_eq!(bytes.len(), 4096);
    }
}
