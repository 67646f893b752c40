//! What decides on a simulated disk: one small generator, and the shapes of a torn write.
//!
//! The same seed gives the same decisions in the same order. Nothing here is good enough for
//! secrets. Used by `world` only.

use super::medium::{index, size};

/// Splitmix64: small, and good enough to pick faults with.
pub(super) struct Chance {
    state: u64,
}

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        index(self.next() % size(bound))
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// Which sectors of a torn write land: none, all, a run from either end, or any.
    pub(super) fn sectors(&mut self, count: usize) -> Vec<bool> {
        let border = self.below(count + 1);
        match self.below(8) {
            0 => vec![false; count],
            1 => vec![true; count],
            2 | 3 => (0..count).map(|sector| sector < border).collect(),
            4 => (0..count).map(|sector| sector >= border).collect(),
            _ => (0..count).map(|_| self.coin()).collect(),
        }
    }
}
