//! Many parts of a log checked at once, and what comes of each taken in the order of the parts.
//!
//! Promises
//! - The caller's thread takes one part after the other, and hears of what is read meanwhile: so what it
//!   makes of them is the same however many threads there are.
//! - So many threads are at work at most, and twice as many parts are begun and not taken: that
//!   bounds the memory.
//! - Whoever hears slowly is read for slowly.
//!
//! Called by a verification.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc;
use std::thread;

/// What the caller hears.
pub(super) enum Heard<T> {
    /// So many bytes more are done with, of whichever part.
    Read(u64),
    /// What came of the next part.
    Done(T),
}

/// What a thread tells.
enum Told<T> {
    Read(u64),
    Done(usize, thread::Result<T>),
}

/// Checks `parts` on up to `threads` threads. `false`: `is_over` said so before all were begun, and what
/// was not taken is lost.
pub(super) fn in_order<P: Sync, T: Send>(
    parts: &[P],
    threads: NonZeroUsize,
    check: impl Fn(&P, &mut dyn FnMut(u64)) -> T + Sync,
    is_over: &dyn Fn() -> bool,
    hear: &mut dyn FnMut(Heard<T>),
) -> bool {
    let (tell, told) = mpsc::sync_channel(1);
    let check = |at: usize, tell: mpsc::SyncSender<Told<T>>| {
        // Nobody listens any more where it is over, or the caller panicked.
        let read = &mut |bytes| drop(tell.send(Told::Read(bytes)));
        let done = panic::catch_unwind(AssertUnwindSafe(|| check(&parts[at], read)));
        drop(tell.send(Told::Done(at, done)));
    };
    let check = &check;
    thread::scope(|scope| {
        // Gone before the threads are waited for, so that none waits to be heard.
        let told = told;
        let mut ahead = BTreeMap::new();
        let (mut begun, mut at_work, mut taken) = (0, 0, 0);
        while taken < parts.len() {
            while begun < parts.len().min(taken + 2 * threads.get()) && at_work < threads.get() {
                if is_over() {
                    return false;
                }
                let (at, tell) = (begun, tell.clone());
                scope.spawn(move || check(at, tell));
                begun += 1;
                at_work += 1;
            }
            match told.recv().expect("a sender is at hand") {
                Told::Read(bytes) => hear(Heard::Read(bytes)),
                Told::Done(at, done) => {
                    at_work -= 1;
                    ahead.insert(at, done.unwrap_or_else(|panic| panic::resume_unwind(panic)));
                }
            }
            while let Some(done) = ahead.remove(&taken) {
                taken += 1;
                hear(Heard::Done(done));
            }
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};

    use super::*;

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).expect("more than none")
    }

    /// What `hear` is told to take.
    fn taken<T>(parts: &[u64], count: usize, check: impl Fn(&u64) -> T + Sync) -> Vec<T>
    where
        T: Send,
    {
        let mut taken = Vec::new();
        let check = |part: &u64, read: &mut dyn FnMut(u64)| {
            read(*part);
            check(part)
        };
        let hear = &mut |heard| {
            if let Heard::Done(done) = heard {
                taken.push(done);
            }
        };
        assert!(in_order(parts, threads(count), check, &|| false, hear), "nobody stops it");
        taken
    }

    #[test]
    fn what_is_done_first_waits_for_its_turn_and_no_more_than_twice_the_threads_are_ahead() {
        let parts: Vec<u64> = (0..20).collect();
        let (ended, told) = (Mutex::new(None), Condvar::new());
        let (at_work, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let taken = taken(&parts, 3, |part| {
            most.fetch_max(at_work.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let mut count = ended.lock().expect("nobody panics");
            if *part == 0 {
                *count = Some(0);
                told.notify_all();
                // The five behind it are all that may be begun before it is taken.
                count = told.wait_while(count, |ended| *ended < Some(5)).expect("nobody panics");
                assert_eq!(*count, Some(5));
            } else {
                // However late the first one's thread comes, the others are beside it.
                count = told.wait_while(count, |ended| ended.is_none()).expect("nobody panics");
            }
            *count = count.map(|count| count + 1);
            told.notify_all();
            drop(count);
            at_work.fetch_sub(1, Ordering::SeqCst);
            *part
        });
        assert_eq!(taken, parts);
        let most = most.into_inner();
        assert!((2..=3).contains(&most), "{most} at once");
    }

    #[test]
    fn all_that_is_read_is_heard_of() {
        for count in [1, 2, 7] {
            let (mut bytes, mut order) = (0, Vec::new());
            let check = |part: &u64, read: &mut dyn FnMut(u64)| {
                (0..*part).for_each(|_| read(1));
                *part
            };
            let hear = &mut |heard| match heard {
                Heard::Read(more) => bytes += more,
                Heard::Done(part) => order.push(part),
            };
            assert!(in_order(&[5, 4, 3, 2, 1], threads(count), check, &|| false, hear));
            assert_eq!((bytes, order), (15, vec![5, 4, 3, 2, 1]), "{count} threads");
        }
    }

    #[test]
    fn what_is_over_begins_no_more() {
        let begun = AtomicUsize::new(0);
        let check = |_: &u64, read: &mut dyn FnMut(u64)| {
            begun.fetch_add(1, Ordering::SeqCst);
            read(1);
        };
        let is_over = || begun.load(Ordering::SeqCst) == 2;
        assert!(!in_order(&[0; 9], threads(1), check, &is_over, &mut |_| {}));
        assert_eq!(begun.into_inner(), 2);
    }

    #[test]
    fn a_panic_of_a_check_is_the_callers() {
        let panic = panic::catch_unwind(|| {
            taken(&[1, 2, 3, 4], 2, |part| assert!(*part != 3, "the third"));
        });
        let panic = panic.expect_err("the check panicked");
        assert_eq!(panic.downcast_ref(), Some(&"the third"));
    }
}
