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
use crate::journal::driver::Driver;
use crate::keeper::{Job, Keeper};
use crate::open::{Handed, Machines};
use crate::settled::settler::{Settler, Settling};

/// Drives a log that has no threads. See [`Engine::open_stepped`](crate::Engine::open_stepped).
///
/// Dropped, it leaves the log as a crash of its threads would: closed, and nobody waits for it.
pub struct Stepper {
    pub(crate) journal: Journal,
    keeper: Keeper,
    settler: Settler,
    settling: Arc<Settling>,
    handed: Handed,
    jobs: mpsc::Receiver<Job>,
}

impl Stepper {
    pub(crate) fn new(disk: &Arc<dyn Disk>, driver: &Arc<Driver>, machines: Machines) -> Self {
        let Machines { journal, keeper, settler, settling, jobs } = machines;
        let (handed, jobs) = Handed::new(disk, driver, jobs);
        Self { journal, keeper, settler, settling, handed, jobs }
    }

    /// Lets the journal do all that it can do now. False once it has stopped, in good order or
    /// after a failed write: it does nothing more then.
    pub fn step_journal(&mut self) -> bool {
        self.step() != Next::Stopped
    }

    pub(crate) fn step(&mut self) -> Next {
        loop {
            match self.journal.step(&mut self.handed) {
                // Nobody comes meanwhile.
                Next::Linger { .. } => {}
                next => return next,
            }
        }
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

    /// Lets the settler make a pack, if there are segments for one. False when there are none, or
    /// the last one is not listed yet.
    pub fn run_settler(&mut self) -> bool {
        self.settler.turn()
    }

    /// Has the settler look again at what it could not do before, as it does once a minute.
    pub fn look_again(&self) {
        self.settling.look();
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

    use tracklog_log::{Domain, Epoch, Log, Retention, TopicName, TopicSpec};
    use tracklog_protocol::PartitionId;
    use tracklog_protocol::event::{EventBuilder, EventParts};

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

    #[test]
    fn a_log_opens_whose_checkpoint_stands_in_a_segment_that_is_settled() {
        const SLOT_BYTES: u64 = 2 << 20;
        let disk = SimDisk::new(1);
        let options = Options {
            slot_bytes: Some(SLOT_BYTES),
            hot_bytes: Some(0),
            replay_threads: 0,
            ..Options::default()
        };
        let open = |disk: &SimDisk| Engine::open_stepped(Arc::new(disk.clone()), &options).unwrap();
        let (log, mut stepper) = open(&disk);
        let (epoch, partition) = begin(&disk, &log, &mut stepper);
        let bytes = vec![7; 450_000];
        let append = || {
            let record = tracklog_protocol::Record::opaque(&bytes);
            let items = [tracklog_log::Item::Record { partition, record }];
            let permit = log.reserve(tracklog_log::Lane(9), 450_000).unwrap();
            log.append(permit, epoch, tracklog_log::Append { conditions: &[], items: &items })
        };
        for _ in 0..4 {
            finish(&disk, &mut stepper, Box::pin(append()), true).unwrap();
        }
        // The fifth does not fit: the segment is sealed, and the commit never lands.
        let mut lost = Box::pin(append());
        stepper.step_journal();
        assert_eq!(disk.in_flight(), 2);
        disk.complete(0);
        stepper.step_journal();
        while stepper.run_keeper() {}
        assert!(stepper.run_settler());
        stepper.step_journal();
        assert!(stepper.run_keeper(), "both checkpoints name the pack");
        let mut context = Context::from_waker(Waker::noop());
        assert!(lost.as_mut().poll(&mut context).is_pending());
        disk.crash(crate::disk::simulated::Crash::Kill);
        drop(lost);
        drop((log, stepper));
        // What was in flight goes with the power.
        let disk = disk.reboot();
        disk.crash(crate::disk::simulated::Crash::Power);
        let disk = disk.reboot();
        let (log, _stepper) = open(&disk);
        assert!(log.extent(partition).unwrap().end.0 >= 4);
        assert_eq!(log.status().packs, 1);
    }

    /// Else the settler could make no pack any more, and no slot would ever be free again.
    #[test]
    fn a_journal_that_grows_leaves_room_for_a_pack() {
        const SLOT_BYTES: u64 = 2 << 20;
        let disk = SimDisk::new(1);
        let options = Options {
            slot_bytes: Some(SLOT_BYTES),
            hot_bytes: Some(0),
            replay_threads: 0,
            ..Options::default()
        };
        let (log, mut stepper) = Engine::open_stepped(Arc::new(disk.clone()), &options).unwrap();
        let (epoch, partition) = begin(&disk, &log, &mut stepper);
        disk.set_capacity(9 * SLOT_BYTES + SLOT_BYTES / 2);
        let bytes = vec![7; 450_000];
        let record = tracklog_protocol::Record::opaque(&bytes);
        let items = [tracklog_log::Item::Record { partition, record }];
        let mut context = Context::from_waker(Waker::noop());
        // The settler does nothing meanwhile.
        let stored = (0..100).take_while(|_| {
            let permit = log.reserve(tracklog_log::Lane(9), 450_000).unwrap();
            let append = tracklog_log::Append { conditions: &[], items: &items };
            let mut append = log.append(permit, epoch, append);
            let mut is_stored = || {
                stepper.step_journal();
                disk.step();
                stepper.run_keeper();
                matches!(pin!(&mut append).poll(&mut context), Poll::Ready(Ok(_)))
            };
            (0..100).any(|_| is_stored())
        });
        let stored = stored.count();
        assert!((16..100).contains(&stored), "four go into each of some slots: {stored}");
        let free_bytes = disk.free_bytes().unwrap();
        assert!((SLOT_BYTES..2 * SLOT_BYTES).contains(&free_bytes), "{free_bytes} are left");

        // A pack makes room, but is not listed yet: the journal waits for it, unless room comes sooner.
        assert!(stepper.run_settler() && stepper.look_for_room());
        assert!(stepper.look_for_room(), "it still waits");
        disk.set_capacity(100 * SLOT_BYTES);
        assert!(stepper.look_for_room());
        assert!(!stepper.look_for_room(), "it does not wait any more");
    }

    /// The settler falls behind.
    #[test]
    fn at_its_limit_a_journal_refuses_appends_until_the_settler_has_made_room() {
        const SLOT_BYTES: u64 = 2 << 20;
        let disk = SimDisk::new(1);
        let options = Options {
            slot_bytes: Some(SLOT_BYTES),
            hot_bytes: Some(0),
            journal_bytes_max: Some(5 * SLOT_BYTES),
            when_full: crate::WhenFull::Refuse,
            replay_threads: 0,
            ..Options::default()
        };
        let (log, mut stepper) = Engine::open_stepped(Arc::new(disk.clone()), &options).unwrap();
        let (epoch, partition) = begin(&disk, &log, &mut stepper);
        let bytes = vec![7; 450_000];
        let append = || {
            let record = tracklog_protocol::Record::opaque(&bytes);
            let items = [tracklog_log::Item::Record { partition, record }];
            let permit = log.reserve(tracklog_log::Lane(9), 450_000).unwrap();
            Box::pin(log.append(
                permit,
                epoch,
                tracklog_log::Append { conditions: &[], items: &items },
            ))
        };
        let mut stored = 0;
        let why = loop {
            match finish(&disk, &mut stepper, append(), true) {
                Ok(_) => stored += 1,
                Err(tracklog_log::AppendError::Full { why }) => break why,
                Err(other) => panic!("{other}"),
            }
            assert!(stored < 100, "it never comes to its limit");
        };
        assert!(why.contains("the journal has reached its limit of 10485760 bytes"), "{why}");
        assert!(stored >= 12, "four go into each slot but for the ballast: {stored}");
        assert_eq!(log.status().packs, 0);

        // Reads go on.
        let read = |stepper: &mut Stepper| {
            let fetch = tracklog_log::Fetch {
                from: vec![(partition, tracklog_protocol::Offset::ZERO)],
                bytes_max: 64 << 20,
                wait: false,
                mode: tracklog_log::FetchMode::Replay,
            };
            let fetched = finish(&disk, stepper, log.fetch(fetch), true).unwrap();
            fetched.partitions[0].next.0
        };
        assert_eq!(read(&mut stepper), stored);
        for _ in 0..3 {
            let refused = finish(&disk, &mut stepper, append(), true);
            assert!(matches!(refused, Err(tracklog_log::AppendError::Full { .. })), "{refused:?}");
        }

        while stepper.run_settler() {
            while stepper.step_journal() && (stepper.run_keeper() || disk.step()) {}
        }
        stepper.look_for_room();
        finish(&disk, &mut stepper, append(), true).unwrap();
        assert_eq!(read(&mut stepper), stored + 1);
        assert_eq!(log.extent(partition).unwrap().start, tracklog_protocol::Offset::ZERO);
        assert!(log.status().packs > 0);
    }

    /// The append waits while a commit is in flight, and meanwhile the pack is listed: what its caller
    /// asked the filters, and what the table knew, is both out of date.
    #[test]
    fn an_append_that_was_left_before_a_pack_was_listed_is_asked_for_what_is_in_it() {
        let disk = SimDisk::new(1);
        let topic = TopicName::new("once").unwrap();
        let window = std::time::Duration::from_secs(3_600);
        let dedupe = vec![tracklog_log::Dedupe { topic: topic.clone(), window }];
        let options = Options {
            slot_bytes: Some(2 << 20),
            hot_bytes: Some(0),
            replay_threads: 0,
            dedupe,
            ..Options::default()
        };
        let open = |disk: &SimDisk| Engine::open_stepped(Arc::new(disk.clone()), &options).unwrap();
        let (log, mut stepper) = open(&disk);
        let epoch = finish(&disk, &mut stepper, log.open(Domain::WHOLE), true).unwrap();
        let spec = TopicSpec { name: topic, partitions: 1, retention: Retention::Keep };
        let made = finish(&disk, &mut stepper, log.create_topic(spec), true).unwrap();
        let parts = |message_id| EventParts { message_id, ..EventParts::default() };
        let (mut event, mut other) = (EventBuilder::new(), EventBuilder::new());
        let (event, other) = (event.build(&parts("m-1")), other.build(&parts("m-2")));
        let append = |log: &Engine, epoch, record| {
            let items = [tracklog_log::Item::Record { partition: made.partition(0), record }];
            let permit = log.reserve(tracklog_log::Lane(9), 1_000).unwrap();
            log.append(permit, epoch, tracklog_log::Append { conditions: &[], items: &items })
        };
        let stored = Box::pin(append(&log, epoch, event));
        finish(&disk, &mut stepper, stored, true).unwrap();
        disk.crash(crate::disk::simulated::Crash::Kill);
        drop((log, stepper));
        // The new run begins a segment, so the one with the event is full.
        let disk = disk.reboot();
        let (log, mut stepper) = open(&disk);
        let epoch = finish(&disk, &mut stepper, log.open(Domain::WHOLE), false).unwrap();
        let in_flight = append(&log, epoch, other);
        stepper.step_journal();
        assert!(stepper.run_settler(), "the pack is made, and not listed yet");
        let again = append(&log, epoch, event);
        stepper.step_journal();
        assert_eq!(log.status().packs, 1, "it is listed, and the append still waits");
        let again = finish(&disk, &mut stepper, Box::pin(again), false);
        assert!(matches!(again, Err(tracklog_log::AppendError::Seen(_))), "{again:?}");
        finish(&disk, &mut stepper, Box::pin(in_flight), false).unwrap();
    }

    /// Becomes the writer of a new log, and makes a topic of one partition.
    fn begin(disk: &SimDisk, log: &Engine, stepper: &mut Stepper) -> (Epoch, PartitionId) {
        let epoch = finish(disk, stepper, log.open(Domain::WHOLE), true).unwrap();
        let name = TopicName::new("t").unwrap();
        let spec = TopicSpec { name, partitions: 1, retention: Retention::Keep };
        let made = finish(disk, stepper, log.create_topic(spec), true).unwrap();
        (epoch, made.partition(0))
    }

    /// Drives the log until `future` is over.
    fn finish<T>(
        disk: &SimDisk,
        stepper: &mut Stepper,
        mut future: std::pin::Pin<Box<dyn Future<Output = T> + Send + '_>>,
        keeps: bool,
    ) -> T {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..1_000 {
            if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
                return value;
            }
            stepper.step_journal();
            disk.step();
            if keeps {
                stepper.run_keeper();
            }
        }
        panic!("it never ends");
    }

    #[test]
    fn a_trim_below_a_segment_that_was_just_given_up_outlives_a_crash() {
        const SLOT_BYTES: u64 = 2 << 20;
        let disk = SimDisk::new(1);
        let options = Options {
            slot_bytes: Some(SLOT_BYTES),
            journal_bytes_max: Some(4 * SLOT_BYTES),
            when_full: crate::WhenFull::DropOldest,
            hot_bytes: None,
            replay_threads: 0,
            ..Options::default()
        };
        let open = |disk: &SimDisk| Engine::open_stepped(Arc::new(disk.clone()), &options).unwrap();
        let (log, mut stepper) = open(&disk);
        let (epoch, partition) = begin(&disk, &log, &mut stepper);
        let bytes = vec![7; 150_000];
        let start = |log: &Engine| log.extent(partition).unwrap().start;
        // The keeper gives the oldest segment up, and does not come to write that down.
        while start(&log) == tracklog_protocol::Offset::ZERO {
            let record = tracklog_protocol::Record::opaque(&bytes);
            let items = [tracklog_log::Item::Record { partition, record }];
            let append = tracklog_log::Append { conditions: &[], items: &items };
            let permit = log.reserve(tracklog_log::Lane(9), 150_000).unwrap();
            drop(log.append(permit, epoch, append));
            for _ in 0..4 {
                stepper.step_journal();
                disk.step();
            }
            if start(&log) == tracklog_protocol::Offset::ZERO {
                stepper.run_keeper();
            }
        }
        let trimmed = start(&log);
        finish(&disk, &mut stepper, log.trim(partition, trimmed), false).unwrap();
        disk.crash(crate::disk::simulated::Crash::Power);
        drop((log, stepper));
        let disk = disk.reboot();
        let (log, _stepper) = open(&disk);
        assert!(start(&log) >= trimmed, "records below {trimmed} are back");
    }
}
