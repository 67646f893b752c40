//! A log without threads: whoever holds the [`Stepper`] decides when it goes on.
//!
//! Promises
//! - The journal, the keeper and what passes between them are those of a running log; only who
//!   calls them differs.
//! - Nothing happens but in calls of the stepper, of the log and of its disk. So a schedule that
//!   comes from one seed, on a disk that comes from one, happens again.
//!
//! For tests of this crate and for the simulator.

use std::sync::Arc;
use std::sync::mpsc;

use crate::disk::Disk;
use crate::journal::appender::{Journal, Next};
use crate::journal::intake::Intake;
use crate::keeper::{Job, Keeper};
use crate::open::{Handed, Machines};

/// Drives a log that has no threads. See [`Engine::open_stepped`](crate::Engine::open_stepped).
///
/// Dropped, it leaves the log as a crash of its threads would: closed, and nobody waits for it.
pub struct Stepper {
    pub(crate) journal: Journal,
    keeper: Keeper,
    handed: Handed,
    jobs: mpsc::Receiver<Job>,
}

impl Stepper {
    pub(crate) fn new(disk: &Arc<dyn Disk>, intake: &Arc<Intake>, machines: Machines) -> Self {
        let Machines { journal, keeper, jobs } = machines;
        let (handed, jobs) = Handed::new(disk, intake, jobs);
        Self { journal, keeper, handed, jobs }
    }

    /// Lets the journal do all that it can do now. False once it has stopped, in good order or
    /// after a failed write: it does nothing more then.
    pub fn step_journal(&mut self) -> bool {
        self.step() != Next::Stopped
    }

    pub(crate) fn step(&mut self) -> Next {
        self.journal.step(&mut self.handed)
    }

    /// Lets the keeper do the first job that waits for it. False when none does.
    pub fn run_keeper(&mut self) -> bool {
        match self.jobs.try_recv() {
            Ok(job) => {
                self.keeper.run(job);
                true
            }
            Err(_) => false,
        }
    }

    /// What the keeper does once a second while it waits for room. False when it does not wait.
    pub fn look_for_room(&mut self) -> bool {
        let waits = self.keeper.waits_for_room();
        if waits {
            self.keeper.catch_up();
        }
        waits
    }
}

impl std::fmt::Debug for Stepper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stepper").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tracklog_log::{Domain, Log, Retention, TopicName, TopicSpec};

    use super::*;
    use crate::disk::simulated::SimDisk;
    use crate::{Engine, Options};

    #[test]
    fn a_stepped_log_goes_on_only_as_far_as_it_is_told_to() {
        let disk = SimDisk::new(1);
        let options =
            Options { slot_bytes: Some(2 << 20), replay_threads: 0, ..Options::default() };
        let (log, mut stepper) =
            Engine::open_stepped(Arc::new(disk.clone()), &options).expect("a new log opens");
        let mut context = Context::from_waker(Waker::noop());
        assert!(pin!(log.open(Domain::WHOLE)).poll(&mut context).is_ready());
        let name = TopicName::new("t").unwrap();
        let spec = TopicSpec { name, partitions: 1, retention: Retention::Keep };
        let mut made = log.create_topic(spec);
        assert!(made.as_mut().poll(&mut context).is_pending());
        assert_eq!(disk.in_flight(), 0, "nobody has written it");
        assert!(stepper.step_journal());
        assert_eq!(disk.in_flight(), 1);
        assert!(disk.step() && made.as_mut().poll(&mut context).is_pending());
        assert!(stepper.step_journal());
        assert!(matches!(made.as_mut().poll(&mut context), Poll::Ready(Ok(_))));
        drop(made);

        assert!(stepper.run_keeper(), "the next slot is to be prepared");
        assert!(!stepper.run_keeper() && !stepper.look_for_room());
        log.close();
        while stepper.step_journal() {
            disk.step();
        }
        drop((log, stepper));
        drop(disk.reboot());
    }
}
