//! Page-aligned memory, and a pool that takes it back.
//!
//! Promises
//! - A [`PageBuffer`] starts on a 4 KiB boundary and is a whole number of pages long, as O_DIRECT
//!   wants it. All of its capacity is initialised at all times, so the interface is safe.
//! - [`PageBuffer::freeze`] copies nothing. The pages go back into their pool when the last clone
//!   and slice of the [`Bytes`] is dropped.
//! - A [`BufferPool`] keeps at most its bound of unused memory and frees what comes back beyond
//!   it. It bounds what lies idle, not what is lent: callers bound that by their own budgets.
//!
//! Used by the journal and recovery, and by both real backends.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::PAGE_BYTES;
use super::chunks::Piece;

/// Memory for whole pages, aligned to a page.
pub struct PageBuffer {
    /// Its first byte; `capacity` bytes from there on belong to it alone.
    start: NonNull<u8>,
    capacity: usize,
    length: usize,
    memory: Memory,
}

/// Whose memory a buffer is.
enum Memory {
    /// Its own; goes back to the shelf, if there is one. Taken out on drop alone.
    Own { pages: Option<Pages>, home: Option<Arc<Shelf>> },
    /// A piece of a chunk, which it keeps.
    Cut { _piece: Piece },
}

// SAFETY: a buffer owns its memory alone, whichever that is, as a `Box<[u8]>` does; it has no
// interior mutability.
unsafe impl Send for PageBuffer {}
// SAFETY: as above; a shared `PageBuffer` is only ever read.
unsafe impl Sync for PageBuffer {}

impl PageBuffer {
    /// At least `bytes`, rounded up to pages, all zero; freed when dropped.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Self {
        let length = whole_pages(bytes);
        Self::own(Pages::zeroed(length), length, None)
    }

    /// All of a piece.
    pub(super) fn piece(piece: Piece) -> Self {
        let (start, capacity) = (piece.start(), piece.bytes());
        Self { start, capacity, length: capacity, memory: Memory::Cut { _piece: piece } }
    }

    fn own(pages: Pages, length: usize, home: Option<Arc<Shelf>>) -> Self {
        let (start, capacity) = (pages.start, pages.capacity);
        Self { start, capacity, length, memory: Memory::Own { pages: Some(pages), home } }
    }

    /// How long it may become without other memory.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes it `bytes` long, rounded up to pages. What comes to light keeps what it held before.
    ///
    /// # Panics
    /// Beyond its capacity.
    pub fn resize(&mut self, bytes: usize) {
        let length = whole_pages(bytes);
        assert!(length <= self.capacity(), "a page buffer does not grow beyond its capacity");
        self.length = length;
    }

    /// The same bytes, shared and immutable.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: from `start` on there are `capacity` initialised bytes (zeroed when made, or
        // mapped as zeros; written only through `deref_mut`), `length` is never above that
        // (`own`, `piece`, `resize`), and `memory` owns them and is borrowed with `self`.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `self` is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl AsRef<[u8]> for PageBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        if let Memory::Own { pages, home: Some(home) } = &mut self.memory
            && let Some(pages) = pages.take()
        {
            home.put_back(pages);
        }
    }
}

impl fmt::Debug for PageBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageBuffer")
            .field("length", &self.length)
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

/// A pool of [`PageBuffer`]s. A clone is the same pool.
#[derive(Clone)]
pub struct BufferPool {
    shelf: Arc<Shelf>,
}

impl BufferPool {
    /// A pool that keeps at most `idle_bytes_max` of unused memory.
    #[must_use]
    pub fn new(idle_bytes_max: usize) -> Self {
        Self { shelf: Arc::new(Shelf { idle_bytes_max, idle: Mutex::default() }) }
    }

    /// A buffer of `bytes`, rounded up to pages. Memory that was used before is **not** zeroed
    /// again: it holds what its last user left there.
    #[must_use]
    pub fn take(&self, bytes: usize) -> PageBuffer {
        let length = whole_pages(bytes);
        let capacity = size_class(length);
        let pages = self.shelf.lock().take(capacity);
        let pages = pages.unwrap_or_else(|| Pages::zeroed(capacity));
        PageBuffer::own(pages, length, Some(Arc::clone(&self.shelf)))
    }

    /// Bytes that lie in it unused.
    #[must_use]
    pub fn idle_bytes(&self) -> usize {
        self.shelf.lock().bytes
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool")
            .field("idle_bytes", &self.idle_bytes())
            .field("idle_bytes_max", &self.shelf.idle_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Where unused pages lie.
struct Shelf {
    idle_bytes_max: usize,
    idle: Mutex<Idle>,
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_back(&self, pages: Pages) {
        if pages.capacity > self.idle_bytes_max {
            return;
        }
        let mut idle = self.lock();
        while idle.bytes + pages.capacity > self.idle_bytes_max {
            idle.drop_from_fullest_class();
        }
        idle.put(pages);
    }
}

#[derive(Default)]
struct Idle {
    by_capacity: BTreeMap<usize, Vec<Pages>>,
    bytes: usize,
}

impl Idle {
    fn take(&mut self, capacity: usize) -> Option<Pages> {
        let pages = self.by_capacity.get_mut(&capacity)?.pop()?;
        self.bytes -= capacity;
        Some(pages)
    }

    fn put(&mut self, pages: Pages) {
        self.bytes += pages.capacity;
        self.by_capacity.entry(pages.capacity).or_default().push(pages);
    }

    /// Makes room for sizes that are asked for now, at the cost of the size that lies idle most.
    fn drop_from_fullest_class(&mut self) {
        let fullest = self.by_capacity.iter().max_by_key(|(bytes, list)| **bytes * list.len());
        let capacity = *fullest.expect("a shelf that is over its bound holds pages").0;
        drop(self.take(capacity).expect("the fullest class is not empty"));
    }
}

/// The memory itself.
struct Pages {
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: `Pages` owns its memory alone, as a `Box<[u8]>` does, and has no interior mutability.
unsafe impl Send for Pages {}
// SAFETY: as above; a shared `Pages` is only ever read.
unsafe impl Sync for Pages {}

impl Pages {
    fn zeroed(capacity: usize) -> Self {
        let layout = Self::layout(capacity);
        // SAFETY: the layout's size is not zero: `capacity` comes from `whole_pages`.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { start, capacity }
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, PAGE_BYTES).expect("a buffer is smaller than memory")
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this very layout, and is freed once.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

/// What every backend asks of a write to a slot of `slot_bytes`.
///
/// # Panics
/// When it is not whole pages, aligned in memory and in place, inside the slot.
pub(super) fn assert_aligned(at: u64, pages: &[u8], slot_bytes: u64) {
    let page = u64::try_from(PAGE_BYTES).expect("a page is small");
    assert!(at.is_multiple_of(page), "a write starts on a page");
    assert!(pages.len().is_multiple_of(PAGE_BYTES), "a write is whole pages long");
    assert!(pages.as_ptr().addr().is_multiple_of(PAGE_BYTES), "a write's memory is aligned");
    let end = u64::try_from(pages.len()).ok().and_then(|length| at.checked_add(length));
    assert!(end.is_some_and(|end| end <= slot_bytes), "a write stays inside its slot");
}

/// `bytes` rounded up to pages; at least one page.
pub(super) fn whole_pages(bytes: usize) -> usize {
    bytes.max(1).next_multiple_of(PAGE_BYTES)
}

/// The size that memory for `bytes` is made in: four classes for each power of two, so that a
/// quarter is wasted at most.
fn size_class(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 8).max(PAGE_BYTES);
    bytes.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_is_aligned_zeroed_and_whole_pages_long() {
        for bytes in [0, 1, 4096, 4097, 300_000] {
            let buffer = BufferPool::new(1 << 20).take(bytes);
            assert!(buffer.as_ptr().addr().is_multiple_of(PAGE_BYTES));
            assert!(buffer.len() >= bytes && buffer.len().is_multiple_of(PAGE_BYTES));
            assert!(buffer.len() < bytes.max(1) + PAGE_BYTES);
            assert!(buffer.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn size_class_wastes_a_quarter_at_most() {
        for pages in 1..2000 {
            let class = size_class(pages * PAGE_BYTES);
            assert!(class >= pages * PAGE_BYTES && class.is_multiple_of(PAGE_BYTES));
            assert!(class * 4 <= pages * PAGE_BYTES * 5, "{pages} pages take {class} bytes");
        }
    }

    #[test]
    fn pages_go_back_when_the_last_slice_is_dropped() {
        let pool = BufferPool::new(1 << 20);
        let mut buffer = pool.take(8192);
        buffer[4096] = 7;
        let place = buffer.as_ptr();
        let bytes = buffer.freeze();
        let slice = bytes.slice(4096..4097);
        drop(bytes);
        assert_eq!(pool.idle_bytes(), 0, "a slice still pins the pages");
        assert_eq!(slice[0], 7);
        drop(slice);
        assert_eq!(pool.idle_bytes(), 8192);

        let again = pool.take(8192);
        assert_eq!(again.as_ptr(), place);
        assert_eq!(again[4096], 7, "used memory comes back as it was left");
        assert_eq!(pool.idle_bytes(), 0);
    }

    #[test]
    fn pool_keeps_no_more_than_its_bound() {
        let pool = BufferPool::new(64 << 10);
        let lent: Vec<_> = (0..20).map(|_| pool.take(16 << 10)).collect();
        drop(lent);
        assert_eq!(pool.idle_bytes(), 64 << 10);

        drop(pool.take(32 << 10));
        assert_eq!(pool.idle_bytes(), 64 << 10, "a size in use takes the place of an idle one");
        assert_eq!(pool.shelf.lock().by_capacity[&(32 << 10)].len(), 1);

        drop(pool.take(1 << 20));
        assert!(pool.idle_bytes() <= 64 << 10, "what is larger than the bound is freed");
    }

    #[test]
    fn resize_shows_only_what_the_capacity_holds() {
        let mut buffer = PageBuffer::zeroed(3 * PAGE_BYTES);
        buffer[PAGE_BYTES] = 9;
        buffer.resize(1);
        assert_eq!(buffer.len(), PAGE_BYTES);
        buffer.resize(2 * PAGE_BYTES);
        assert_eq!(buffer[PAGE_BYTES], 9);
        let larger = std::panic::catch_unwind(move || buffer.resize(4 * PAGE_BYTES));
        assert!(larger.is_err());
    }

    #[test]
    fn buffers_outlive_their_pool() {
        let pool = BufferPool::new(1 << 20);
        let bytes = pool.take(4096).freeze();
        drop(pool);
        assert_eq!(bytes.len(), 4096);
    }
}
