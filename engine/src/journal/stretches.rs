//! Sets of commits, as stretches: what a log knows to be damaged, or has given up.
//!
//! Promises: stretches of one run neither overlap nor touch; finding one takes a logarithm of
//! their number, however many pages of a disk went bad one by one.
//!
//! Called by recovery.

use std::collections::BTreeMap;

use crate::journal::commit::{CommitNumber, Run, Stretch};

/// A set of commits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stretches {
    /// The last commit of each stretch, by its first.
    lasts: BTreeMap<(Run, CommitNumber), CommitNumber>,
}

impl Stretches {
    /// Whether all commits of `stretch` are in it.
    pub(crate) fn holds(&self, stretch: &Stretch) -> bool {
        let Stretch { run, first, last } = *stretch;
        let before = self.lasts.range(..=(run, first)).next_back();
        before.is_some_and(|((of, _), end)| *of == run && last <= *end)
    }

    /// Adds the commits of `stretch`.
    pub(crate) fn insert(&mut self, stretch: Stretch) {
        let Stretch { run, mut first, mut last } = stretch;
        // Of what begins before its end, all that reaches its first or comes behind it.
        while let Some(((of, from), to)) = self.lasts.range(..=(run, last.next())).next_back()
            && *of == run
            && to.next() >= first
        {
            (first, last) = (first.min(*from), last.max(*to));
            let key = (run, *from);
            self.lasts.remove(&key);
        }
        self.lasts.insert((run, first), last);
    }

    /// The stretches, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Stretch> + '_ {
        self.lasts.iter().map(|((run, first), last)| Stretch {
            run: *run,
            first: *first,
            last: *last,
        })
    }
}

impl Extend<Stretch> for Stretches {
    fn extend<I: IntoIterator<Item = Stretch>>(&mut self, stretches: I) {
        stretches.into_iter().for_each(|stretch| self.insert(stretch));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn stretch(run: u64, first: u64, last: u64) -> Stretch {
        Stretch { run: Run(run), first: CommitNumber(first), last: CommitNumber(last) }
    }

    #[test]
    fn any_stretches_in_any_order_are_the_set_of_their_commits() {
        let mut state = 7_u64;
        let mut below = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        for _ in 0..300 {
            let (mut stretches, mut commits) = (Stretches::default(), BTreeSet::new());
            for _ in 0..12 {
                let (run, first) = (below(2) + 1, below(30) + 1);
                let last = first + below(4);
                stretches.insert(stretch(run, first, last));
                commits.extend((first..=last).map(|number| (run, number)));
                let listed: Vec<Stretch> = stretches.iter().collect();
                let count: u64 = listed.iter().map(Stretch::count).sum();
                assert_eq!(count, commits.len() as u64, "{listed:?}");
                let apart = |pair: &[Stretch]| {
                    pair[0].run < pair[1].run || pair[0].last.next() < pair[1].first
                };
                assert!(listed.windows(2).all(apart), "{listed:?}");
                let asked = stretch(below(2) + 1, below(30) + 1, 33);
                for last in asked.first.0..33 {
                    let asked = Stretch { last: CommitNumber(last), ..asked };
                    let all = (asked.first.0..=last).all(|it| commits.contains(&(asked.run.0, it)));
                    assert_eq!(stretches.holds(&asked), all, "{asked:?} in {listed:?}");
                }
            }
        }
    }
}
