//! How fast a new slot is filled with zeros: as fast as the journal comes near it, and no faster.
//!
//! A slot that is filled at once takes all that the disk can do for as long as that takes: a disk that
//! has a limit (most that are rented) makes everybody wait then, and no commit is written in time.
//!
//! Promises
//! - While the zeros are no more than an eighth ahead of what the journal wrote meanwhile, nothing
//!   rests: a slot is ready before the one that is written is full.
//! - Ahead of that the filling rests three times as long as it worked: so a slot takes at most four
//!   times as long as at once, however little is written.
//! - As long as the journal writes nothing at all nothing rests: nobody waits for the disk then, and who
//!   erases in a folder without a node has its spare slots wiped at once.
//!
//! It holds no clock: whoever fills says how far he is and how long that took, and waits as he is told.

use std::time::Duration;

/// Zeros may always be so far ahead.
const AHEAD_BYTES: u64 = 4 << 20;
/// How long it rests for how long it worked.
const RESTS_PER_WORK: u32 = 3;
/// No rest is longer.
const REST_MAX: Duration = Duration::from_millis(50);

/// See the head of this file.
pub(super) struct Filling {
    /// What the journal had written when it began.
    written_before: u64,
}

impl Filling {
    pub(super) const fn begin(written: u64) -> Self {
        Self { written_before: written }
    }

    /// How long to rest after a piece that took `worked`, with so much filled, and so much written by
    /// the journal in all.
    pub(super) fn rest(&self, filled: u64, written: u64, worked: Duration) -> Duration {
        let meanwhile = written.saturating_sub(self.written_before);
        if meanwhile == 0 || filled <= AHEAD_BYTES + meanwhile + meanwhile / 8 {
            return Duration::ZERO;
        }
        (worked * RESTS_PER_WORK).min(REST_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const WORKED: Duration = Duration::from_millis(2);

    #[test]
    fn zeros_that_are_ahead_of_the_journal_rest_and_others_do_not() {
        let filling = Filling::begin(1_000 * MIB);
        assert_eq!(filling.rest(200 * MIB, 1_000 * MIB, WORKED), Duration::ZERO, "nobody writes");
        assert_eq!(filling.rest(5 * MIB, 1_001 * MIB, WORKED), Duration::ZERO);
        assert_eq!(filling.rest(6 * MIB, 1_001 * MIB, WORKED), 3 * WORKED);
        assert_eq!(filling.rest(40 * MIB, 1_032 * MIB, WORKED), Duration::ZERO);
        assert_eq!(filling.rest(41 * MIB, 1_032 * MIB, WORKED), 3 * WORKED);
        assert_eq!(filling.rest(35 * MIB, 1_001 * MIB, Duration::from_secs(1)), REST_MAX);
    }

    /// Both share a disk that takes so much at a time; the journal writes as much of it as it is given.
    #[test]
    fn a_slot_is_ready_before_the_one_that_is_written_is_full() {
        const SLOT: u64 = 256 * MIB;
        for journal_share in [1_u64, 10, 25, 50] {
            let filling = Filling::begin(0);
            let (mut filled, mut written) = (0, 0);
            while filled < SLOT {
                // A piece of zeros, and what the journal writes beside it; then the rest.
                let worked = Duration::from_millis(2);
                filled += MIB;
                let rest = filling.rest(filled, written, worked);
                let turns = u64::try_from((worked + rest).as_millis()).expect("small") / 2;
                written += turns * MIB * journal_share / 100;
                assert!(written < SLOT, "{journal_share} %: {filled} of it are filled");
            }
        }
    }
}
