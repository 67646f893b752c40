//! Threads that work for later, beside those that somebody waits for.
//!
//! A thread that runs keeps its core for a slice of about three milliseconds on Linux from 6.6 on (the
//! scheduler is EEVDF), or until the next tick, whoever wakes up meanwhile. Under a settler at work
//! one ack in twenty took longer than that: the end of a commit's write is told on one core alone. Whoever
//! asks for shorter slices than the one that runs comes first at once (from Linux 6.12 on). So threads
//! of the background ask for the longest there is, with `sched_setattr(2)`, which earlier kernels do
//! not hear; with others in line they get no more of their core by it. And by waking up they take no
//! core from others (`SCHED_BATCH`). Threads that such a thread makes are as it is.
//!
//! Here beside the disk because it is a call to the system like those.

use std::cell::Cell;
use std::io;

/// The longest slice that Linux gives.
const SLICE_NANOS: u64 = 100_000_000;
/// How much nicer a thread is that gets a small share.
const NICER: i32 = 10;
/// The nicest there is.
const NICENESS_MAX: i32 = 19;

/// What a thread of the background gets of a core for which others stand in line.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Share {
    /// As much as they: somebody waits for it in the end.
    Equal,
    /// About a tenth.
    Small,
}

thread_local! {
    static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
}

/// Has the calling thread give way to those that somebody waits for.
pub(crate) fn give_way(share: Share) {
    GIVES_WAY.set(true);
    if let Err(error) = ask(share) {
        tracing::debug!("a thread of the background runs like all others: {error}");
        if let Share::Small = share {
            let _as_good_as_it_gets = nice_for(share).and_then(|nice| {
                rustix::process::setpriority_process(None, nice).map_err(io::Error::from)
            });
        }
    }
}

/// Whether the calling thread was told to: whatever others wait for, it may not come to for long.
pub(crate) fn gives_way() -> bool {
    GIVES_WAY.get()
}

fn nice_for(share: Share) -> io::Result<i32> {
    // Linux counts it for each thread.
    let now = rustix::process::getpriority_process(None)?;
    Ok(match share {
        Share::Equal => now,
        Share::Small => (now + NICER).min(NICENESS_MAX),
    })
}

fn ask(share: Share) -> io::Result<()> {
    // SAFETY: it takes a number and gives one; thread 0 is the one that calls.
    if unsafe { libc::sched_getscheduler(0) } == libc::SCHED_IDLE {
        // It comes after all others already.
        return Ok(());
    }
    let nice = nice_for(share)?;
    let wish = libc::sched_attr {
        size: u32::try_from(size_of::<libc::sched_attr>()).expect("it is some dozens of bytes"),
        sched_policy: u32::try_from(libc::SCHED_BATCH).expect("it is a small number"),
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE_NANOS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel reads as many bytes of `wish` as its first field says, which is its size,
    // and keeps no pointer. Thread 0 is the one that calls.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wish, 0) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_gives_way_is_of_the_batch_kind_and_nicer() {
        let thread = std::thread::spawn(|| {
            let before = rustix::process::getpriority_process(None).unwrap();
            if let Err(error) = ask(Share::Small) {
                println!("skipped: this system does not take it: {error}");
                return None;
            }
            // SAFETY: it takes a number and gives one.
            let policy = unsafe { libc::sched_getscheduler(0) };
            let after = rustix::process::getpriority_process(None).unwrap();
            Some((policy, before, after))
        });
        let Some((policy, before, after)) = thread.join().unwrap() else { return };
        assert_eq!(policy, libc::SCHED_BATCH);
        assert_eq!(after, (before + NICER).min(NICENESS_MAX));
    }
}
