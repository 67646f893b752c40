//! How much of the maps is held by answers.
//!
//! Promises
//! - A window counts from when it is pinned until its last slice is dropped.
//! - Beyond the budget nothing is pinned: the caller copies, and that is counted too. So whoever
//!   holds answers for long holds his copies, and no slots.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// The budget, and what is used of it. The counts guard no other memory: relaxed.
#[derive(Debug)]
pub(super) struct PinnedBytes {
    bytes_max: u64,
    bytes: AtomicU64,
    copied: AtomicU64,
}

impl PinnedBytes {
    pub(super) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { bytes_max, bytes: AtomicU64::new(0), copied: AtomicU64::new(0) })
    }

    /// What answers hold now.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many windows were copied since there was no room.
    pub(super) fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Counts a window of a map for as long as somebody holds a slice of it.
    ///
    /// # Errors
    /// The window as it was, when there is no room: it is to be copied and let go.
    pub(super) fn pin(self: &Arc<Self>, window: Bytes) -> Result<Bytes, Bytes> {
        let bytes = window.len() as u64;
        let fits = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= self.bytes_max);
        if self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_err() {
            self.copied.fetch_add(1, Ordering::Relaxed);
            return Err(window);
        }
        Ok(Bytes::from_owner(Pin { window, count: Arc::clone(self) }))
    }
}

/// A window that counts.
struct Pin {
    window: Bytes,
    count: Arc<PinnedBytes>,
}

impl AsRef<[u8]> for Pin {
    fn as_ref(&self) -> &[u8] {
        &self.window
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.count.bytes.fetch_sub(self.window.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_until_its_last_slice_is_dropped() {
        let pinned = PinnedBytes::new(100);
        let slice = pinned.pin(vec![7; 60].into()).unwrap().slice(3..5);
        assert_eq!((pinned.bytes(), &slice[..]), (60, &[7, 7][..]));
        let second = pinned.pin(vec![8; 41].into()).unwrap_err();
        assert_eq!((pinned.bytes(), pinned.copied(), second.len()), (60, 1, 41));
        drop(slice);
        assert_eq!(pinned.bytes(), 0);
        assert_eq!(pinned.pin(second).unwrap().len(), 41);
        assert_eq!((pinned.bytes(), pinned.copied()), (0, 1));
    }
}
