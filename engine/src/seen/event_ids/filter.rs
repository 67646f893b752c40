//! A filter over hashes of ids that do not change: whether one may be among them, in some 13½ bits an
//! id.
//!
//! A ribbon filter: each hash asks that the sum, bit by bit, of the slots that its *row* of 64 bits
//! picks from its *start* on be its *fingerprint*. That is a system of linear equations, solved when
//! the filter is made; a hash that has no equation fulfils one by chance. Hashes come in order and are
//! cut into parts by their highest bits, each solved for itself: what that takes is bounded, and a look
//! stays within a few pages.
//!
//! ```text
//! slots   0 … 63                64 … 127
//!         +----+----+-- … --+   +----+----+-- … --+
//! words   | b0 | b1 |   b12 |   | b0 | b1 |   b12 |     a word holds one bit of 64 slots
//! ```
//!
//! Promises: a hash that was pushed is always found; one that was not, once in 8,192 times. Made on
//! threads that have the time; looked at by whoever appends, without a lock.

use super::HASH_BITS;

/// Bits of a slot, and of a fingerprint.
const BITS: usize = 13;
/// Slots of a block: as many as a word has bits.
const BLOCK_SLOTS: usize = u64::BITS as usize;
/// So many hashes has a part, in the mean.
const PART_HASHES: u64 = 4096;
/// So many slots more than hashes a part has at first, in hundredths; one more at each attempt.
const SPARE_PERCENT: usize = 4;

/// One part: the blocks that solve its equations.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    first_block: u32,
    blocks: u32,
    /// Which attempt could be solved.
    attempt: u32,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct IdFilter {
    /// By the highest bits of hashes.
    parts: Vec<Part>,
    part_bits: u32,
    words: Vec<u64>,
    hashes: u64,
}

impl IdFilter {
    /// Whether `hash` may be one of them.
    #[inline]
    pub(crate) fn may_hold(&self, hash: u64) -> bool {
        let part = self.parts[part_of(hash, self.part_bits)];
        if part.blocks == 0 {
            return false;
        }
        let Equation { start, row, fingerprint } =
            Equation::of(hash, part.attempt, part.blocks as usize);
        let (block, shift) = (start / BLOCK_SLOTS, start % BLOCK_SLOTS);
        let at = (part.first_block as usize + block) * BITS;
        let (low, high) = self.words[at..].split_at(BITS);
        (0..BITS).all(|bit| {
            // The first shift moves all of a word out where nothing of the next block is meant.
            let high = high.get(bit).map_or(0, |word| (word << 1) << (BLOCK_SLOTS - 1 - shift));
            let sum = ((low[bit] >> shift | high) & row).count_ones() & 1;
            sum == u32::from(fingerprint >> bit & 1)
        })
    }

    /// How many hashes it was made of.
    pub(crate) const fn len(&self) -> u64 {
        self.hashes
    }

    /// What it takes of memory.
    pub(crate) const fn bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>() + self.parts.capacity() * size_of::<Part>()
    }
}

fn part_of(hash: u64, part_bits: u32) -> usize {
    usize::try_from(hash >> (HASH_BITS - part_bits)).expect("few bits")
}

/// What a hash asks of the slots.
struct Equation {
    start: usize,
    /// The lowest bit is set.
    row: u64,
    fingerprint: u16,
}

impl Equation {
    fn of(hash: u64, attempt: u32, blocks: usize) -> Self {
        let mixed = mix(hash ^ mix(u64::from(attempt)));
        let starts = ((blocks - 1) * BLOCK_SLOTS + 1) as u64;
        let start = ((mixed >> u32::BITS) * starts) >> u32::BITS;
        let row = mix(mixed);
        let fingerprint = row.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (u64::BITS as usize - BITS);
        Self {
            start: usize::try_from(start).expect("less than there are slots"),
            row: row | 1,
            fingerprint: u16::try_from(fingerprint).expect("it has few bits"),
        }
    }
}

/// Lets each bit depend on all bits (the mixer of SplitMix64).
const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

/// Makes a filter of hashes that come in order.
#[derive(Debug)]
pub(crate) struct FilterBuilder {
    filter: IdFilter,
    /// The part that comes, and its hashes.
    part: usize,
    hashes: Vec<u64>,
    system: System,
}

/// The equations of a part while they are solved: by the slot of their first bit.
#[derive(Debug, Default)]
struct System {
    rows: Vec<u64>,
    fingerprints: Vec<u16>,
}

impl FilterBuilder {
    /// Of about so many hashes.
    pub(crate) fn of_about(hashes: u64) -> Self {
        let part_bits = (hashes / PART_HASHES).checked_ilog2().unwrap_or(0);
        let parts = vec![Part::default(); 1 << part_bits];
        let slots = usize::try_from(hashes).unwrap_or(0) / 100 * (100 + SPARE_PERCENT + 1);
        let words = Vec::with_capacity((slots / BLOCK_SLOTS + parts.len()) * BITS);
        Self {
            filter: IdFilter { parts, part_bits, words, hashes: 0 },
            part: 0,
            hashes: Vec::new(),
            system: System::default(),
        }
    }

    /// Adds the next hash. One that comes twice counts once.
    ///
    /// # Panics
    /// When it does not come in order.
    pub(crate) fn push(&mut self, hash: u64) {
        let last = self.hashes.last().copied();
        if last == Some(hash) {
            return;
        }
        let part = part_of(hash, self.filter.part_bits);
        assert!(part >= self.part && last.is_none_or(|last| last < hash), "hashes come in order");
        if part != self.part {
            self.end_part();
            self.part = part;
        }
        self.hashes.push(hash);
    }

    pub(crate) fn finish(mut self) -> IdFilter {
        self.end_part();
        self.filter.words.shrink_to_fit();
        self.filter
    }

    fn end_part(&mut self) {
        if self.hashes.is_empty() {
            return;
        }
        self.filter.hashes += self.hashes.len() as u64;
        let first_block = self.filter.words.len() / BITS;
        let solved = (0..).find_map(|attempt| {
            let percent = 100 + SPARE_PERCENT + attempt as usize;
            let slots = self.hashes.len() * percent / 100 + attempt as usize;
            let blocks = slots.div_ceil(BLOCK_SLOTS);
            self.system.set_up(&self.hashes, attempt, blocks).then_some((attempt, blocks))
        });
        let (attempt, blocks) = solved.expect("with slots enough it can be solved");
        self.system.solve(&mut self.filter.words);
        let number = |it: usize| u32::try_from(it).expect("a filter has far below 2^32 blocks");
        self.filter.parts[self.part] =
            Part { first_block: number(first_block), blocks: number(blocks), attempt };
        self.hashes.clear();
    }
}

impl System {
    /// Brings the equations of `hashes` into a form in which each begins at a slot of its own. False
    /// where two of them contradict each other.
    fn set_up(&mut self, hashes: &[u64], attempt: u32, blocks: usize) -> bool {
        let slots = blocks * BLOCK_SLOTS;
        self.rows.clear();
        self.rows.resize(slots, 0);
        self.fingerprints.clear();
        self.fingerprints.resize(slots, 0);
        hashes.iter().all(|hash| self.add(Equation::of(*hash, attempt, blocks)))
    }

    fn add(&mut self, equation: Equation) -> bool {
        let Equation { start: mut at, mut row, mut fingerprint } = equation;
        while self.rows[at] != 0 {
            row ^= self.rows[at];
            fingerprint ^= self.fingerprints[at];
            if row == 0 {
                return fingerprint == 0;
            }
            let zeros = row.trailing_zeros();
            row >>= zeros;
            at += zeros as usize;
        }
        (self.rows[at], self.fingerprints[at]) = (row, fingerprint);
        true
    }

    /// Solves it from the last slot on, and adds the blocks to `words`.
    fn solve(&self, words: &mut Vec<u64>) {
        let first = words.len();
        words.resize(first + self.rows.len() / BLOCK_SLOTS * BITS, 0);
        // What is known of the 64 slots from the one at hand on, by bit.
        let mut known = [0_u64; BITS];
        for (slot, (row, fingerprint)) in self.rows.iter().zip(&self.fingerprints).enumerate().rev()
        {
            for (bit, known) in known.iter_mut().enumerate() {
                let later = *known << 1;
                let sum = u64::from((later & row).count_ones() & 1);
                *known = later | (sum ^ u64::from(fingerprint >> bit & 1));
            }
            if slot % BLOCK_SLOTS == 0 {
                let block = first + slot / BLOCK_SLOTS * BITS;
                words[block..block + BITS].copy_from_slice(&known);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(count: u64, from: u64) -> Vec<u64> {
        let mut hashes: Vec<u64> =
            (from..from + count).map(|number| mix(number) >> (u64::BITS - HASH_BITS)).collect();
        hashes.sort_unstable();
        hashes
    }

    fn filter(hashes: &[u64], about: usize) -> IdFilter {
        let mut builder = FilterBuilder::of_about(about as u64);
        hashes.iter().for_each(|hash| builder.push(*hash));
        builder.finish()
    }

    #[test]
    fn what_was_pushed_is_found_and_little_else() {
        for count in [0, 1, 2, 63, 64, 65, 1_000, 30_000] {
            let there = hashes(count, 0);
            let filter = filter(&there, there.len());
            assert!(there.iter().all(|hash| filter.may_hold(*hash)), "{count}");
            assert_eq!(filter.len(), count);
            let others = hashes(40_000, 1 << 40);
            let found = others.iter().filter(|hash| filter.may_hold(**hash)).count();
            assert!(found < 20, "{found} of 40,000 with {count}");
        }
    }

    #[test]
    fn an_id_takes_less_than_two_bytes() {
        let there = hashes(60_000, 0);
        let filter = filter(&there, there.len());
        assert!(filter.bytes() * 100 < there.len() * 180, "{} bytes", filter.bytes());
    }

    #[test]
    fn hashes_of_few_bits_and_repeated_ones_are_found() {
        for bits in [0, 3, 12] {
            let mut there: Vec<u64> =
                hashes(5_000, 0).iter().map(|it| it & ((1 << bits) - 1)).collect();
            there.sort_unstable();
            let filter = filter(&there, 1_000_000);
            assert!(there.iter().all(|hash| filter.may_hold(*hash)), "{bits}");
            there.dedup();
            assert_eq!(filter.len(), there.len() as u64);
        }
    }
}
