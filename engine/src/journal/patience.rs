//! How long callers that were just told are waited for, so that they share the next commit.
//!
//! Learns from what they did the last times. No clock: it counts callers and commits. The step
//! machine of the journal asks it.

/// Whether callers that were told of their commit come again at once. Where they did not, it is
/// tried again ever more rarely.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// So many commits go by before the next try.
    skips_left: u32,
    /// The last time this many were let go by.
    skips: u32,
    /// Callers that are waited for.
    expected: Option<usize>,
}

impl Patience {
    /// What is to be waited for, when so many callers were told.
    pub(super) fn after(&mut self, told: usize) -> Option<usize> {
        // One alone shares with nobody; that many fill a commit.
        if !(2..=256).contains(&told) {
            return None;
        }
        if let Some(left) = self.skips_left.checked_sub(1) {
            self.skips_left = left;
            return None;
        }
        self.expected = Some(told);
        self.expected
    }

    /// Takes note of how many came.
    pub(super) fn learn(&mut self, came: usize) {
        let Some(expected) = self.expected.take() else { return };
        self.skips = if 2 * came >= expected { 0 } else { (2 * self.skips + 1).min(63) };
        self.skips_left = self.skips;
    }
}

#[cfg(test)]
mod tests {
    use super::Patience;

    #[test]
    fn one_caller_alone_and_a_commit_full_of_them_are_not_waited_for() {
        let mut patience = Patience::default();
        assert_eq!(
            [0, 1, 2, 256, 257].map(|told| patience.after(told)),
            [None, None, Some(2), Some(256), None]
        );
    }

    #[test]
    fn callers_that_come_again_are_waited_for_each_time() {
        let mut patience = Patience::default();
        for _ in 0..10 {
            assert_eq!(patience.after(8), Some(8));
            patience.learn(4);
        }
    }

    #[test]
    fn callers_that_do_not_come_are_waited_for_ever_more_rarely_until_they_do() {
        let mut patience = Patience::default();
        let skipped = |patience: &mut Patience| {
            let skipped = (0..).find(|_| patience.after(8).is_some());
            patience.learn(0);
            skipped.expect("it is tried again")
        };
        let skips: Vec<u32> = (0..9).map(|_| skipped(&mut patience)).collect();
        assert_eq!(skips, [0, 1, 3, 7, 15, 31, 63, 63, 63]);
        while patience.after(8).is_none() {}
        patience.learn(8);
        assert_eq!(patience.after(8), Some(8));
    }
}
