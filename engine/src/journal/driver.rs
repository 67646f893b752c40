//! Who drives the journal: whoever brings it something.
//!
//! A caller whose append lets a commit be closed closes it; the thread that ends a write publishes
//! it, closes the next commit and goes on to write that. So no thread stands between callers and
//! the disk, and an ack costs two changes of thread: to the disk's and back.
//!
//! Promises
//! - One thread at a time attends to the journal. What comes meanwhile is left to it; it leaves
//!   only when nothing has come that the journal waits for.
//! - Who brings something drives the journal a bounded number of steps and then hands it over to
//!   the watcher, a thread that has nothing else to do. It drives the journal too when its time
//!   has come: for a mark after silence, and past a commit's deadline.
//! - A thread of the background that brings something hands it over at once: others may have its core
//!   before it is done, and all acks would wait with it.
//! - If a step panics the journal ends: nobody waits for what no longer comes. The panic goes on in
//!   the watcher's thread, and so reaches who closes the log, not who happened to drive it.
//!
//! A log that is driven by a [`Stepper`](crate::stepped) has none of that: it is attended to from
//! the start, and never left.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tracklog_log::{Append, Permit, Ticket};

use crate::disk::{gives_way, is_telling};
use crate::journal::appender::Next;

use super::super::sync::{Condvar, Mutex};
use super::intake::{Input, Intake, Measured};

/// So long the callers of a commit that was just published are waited for: as long as it takes to
/// wake them, and for each to come again.
const MOMENT: Duration = Duration::from_micros(50);
/// So many steps are driven by who brought something. One does what there was to do; what came
/// during that step is done in the second.
const STEPS_MAX: usize = 2;

/// What is driven.
pub(crate) trait Machine: Send {
    /// Does all that can be done now, and says when to come back. It blocks on nothing.
    fn step(&mut self) -> Next;
}

/// What the watcher waits for.
#[derive(Debug, Default)]
struct Watch {
    /// When the journal wants to be driven, whatever comes.
    due: Option<Instant>,
    /// Who attended could not leave: the watcher attends now.
    handed_over: bool,
    ended: bool,
    /// What a step panicked with.
    panic: Option<Panic>,
    sleep: Sleep,
}

type Panic = Box<dyn Any + Send>;

/// What the watcher is doing.
#[derive(Debug, Default)]
enum Sleep {
    /// It looks at everything before it sleeps again.
    #[default]
    Awake,
    Until(Instant),
    UntilCalled,
}

impl Watch {
    /// Whether it has to be called, so that it acts at `due`.
    fn oversleeps(&self, due: Instant) -> bool {
        match self.sleep {
            Sleep::Awake => false,
            Sleep::Until(wakes) => wakes > due,
            Sleep::UntilCalled => true,
        }
    }
}

/// Who drives the journal.
#[derive(Clone, Copy)]
enum By {
    /// Who appends, and has others to serve.
    Caller,
    /// A thread that tells of something, as of a write's end.
    Teller,
    Watcher,
}

impl By {
    const fn steps_max(self) -> usize {
        match self {
            Self::Caller | Self::Teller => STEPS_MAX,
            Self::Watcher => usize::MAX,
        }
    }

    /// A caller's own thread may be what those run on that are waited for.
    const fn may_linger(self) -> bool {
        match self {
            Self::Caller => false,
            Self::Teller | Self::Watcher => true,
        }
    }
}

/// How the journal is left.
enum Left {
    /// It waits for something.
    ForNow,
    /// There is more to do already.
    WithWork,
    /// It has stopped, or failed.
    ForGood,
}

/// Why the watcher drives the journal.
enum Call {
    HandedOver,
    Due,
}

/// See the head of this file.
pub(crate) struct Driver {
    pub(crate) intake: Arc<Intake>,
    /// None before it runs, and when it has ended.
    machine: Mutex<Option<Box<dyn Machine>>>,
    watch: Mutex<Watch>,
    called: Condvar,
}

impl Driver {
    /// Drives nothing yet.
    pub(crate) fn new(intake: Arc<Intake>) -> Arc<Self> {
        let (machine, watch) = (Mutex::default(), Mutex::default());
        Arc::new(Self { intake, machine, watch, called: Condvar::default() })
    }

    /// Begins to drive `machine`. Who calls has attended to the intake since it was made.
    pub(crate) fn start(&self, machine: Box<dyn Machine>) {
        *self.machine.lock() = Some(machine);
        self.attend(By::Caller);
    }

    /// Leaves an append in the queue, and drives the journal if it waited for that.
    pub(crate) fn append(&self, append: Append<'_>, measured: &Measured, permit: Permit) -> Ticket {
        let (ticket, attend) = self.intake.append(append, measured, permit);
        if attend {
            self.attend(By::Caller);
        }
        ticket
    }

    /// Tells the journal that something happened.
    pub(crate) fn push(&self, input: Input) {
        if self.intake.push(input) {
            self.attend_or_hand_over(if is_telling() { By::Caller } else { By::Teller });
        }
    }

    /// Has the journal look at what the log itself left at the head of the queue.
    pub(crate) fn look(&self) {
        if self.intake.attend() {
            self.attend_or_hand_over(By::Teller);
        }
    }

    /// The watcher's thread: returns when the journal has ended.
    pub(crate) fn watch(&self) {
        while let Some(call) = self.sleep() {
            let attends = match call {
                Call::HandedOver => true,
                // Who attends now will say when it is due again.
                Call::Due => self.intake.attend(),
            };
            if attends {
                self.attend(By::Watcher);
            }
        }
        let panic = self.watch.lock().panic.take();
        if let Some(panic) = panic {
            panic::resume_unwind(panic);
        }
    }

    /// Ends what is driven: nobody comes back to it.
    fn end(&self, panic: Option<Panic>) {
        let machine = self.machine.lock().take();
        drop(machine);
        let mut watch = self.watch.lock();
        watch.ended = true;
        watch.panic = watch.panic.take().or(panic);
        drop(watch);
        self.called.notify_one();
    }

    /// Drives the journal until there is nothing to do for now, as long as is right for who calls,
    /// and attends to the intake.
    fn attend(&self, by: By) {
        // What a panic leaves half done is dropped with the journal.
        match panic::catch_unwind(AssertUnwindSafe(|| self.drive(by))) {
            Ok(Left::ForNow) => {}
            Ok(Left::WithWork) => self.hand_over(),
            Ok(Left::ForGood) => self.end(None),
            Err(panic) => self.end(Some(panic)),
        }
    }

    fn attend_or_hand_over(&self, by: By) {
        match gives_way() {
            true => self.hand_over(),
            false => self.attend(by),
        }
    }

    fn drive(&self, by: By) -> Left {
        let mut machine = self.machine.lock();
        let Some(running) = machine.as_mut() else { return Left::ForGood };
        for _ in 0..by.steps_max() {
            let (wake_at_bytes, timeout) = loop {
                match running.step() {
                    Next::Wait { wake_at_bytes, timeout } => break (wake_at_bytes, timeout),
                    Next::Linger { appends } if by.may_linger() => self.linger(appends),
                    Next::Linger { .. } => {}
                    Next::Stopped => return Left::ForGood,
                }
            };
            // Before it leaves: who comes next has the last word.
            self.set_due(timeout);
            if self.intake.leave(wake_at_bytes) {
                return Left::ForNow;
            }
        }
        Left::WithWork
    }

    /// Lets the callers run that were just woken, until so many appends wait or a moment is over.
    fn linger(&self, appends: usize) {
        let began = Instant::now();
        while self.intake.waiting_appends() < appends && began.elapsed() < MOMENT {
            thread::yield_now();
        }
    }

    fn set_due(&self, timeout: Option<Duration>) {
        let due = timeout.map(|timeout| Instant::now() + timeout);
        let mut watch = self.watch.lock();
        watch.due = due;
        if due.is_some_and(|due| watch.oversleeps(due)) {
            self.call(watch);
        }
    }

    fn hand_over(&self) {
        let mut watch = self.watch.lock();
        watch.handed_over = true;
        self.call(watch);
    }

    fn call(&self, mut watch: impl std::ops::DerefMut<Target = Watch>) {
        watch.sleep = Sleep::Awake;
        drop(watch);
        self.called.notify_one();
    }

    /// Waits until the watcher has something to do; none when the journal has ended.
    fn sleep(&self) -> Option<Call> {
        let mut watch = self.watch.lock();
        loop {
            if watch.ended {
                return None;
            }
            if std::mem::take(&mut watch.handed_over) {
                return Some(Call::HandedOver);
            }
            let asleep = |watch: &mut Watch| !matches!(watch.sleep, Sleep::Awake) && !watch.ended;
            let Some(due) = watch.due else {
                watch.sleep = Sleep::UntilCalled;
                self.called.wait_while(&mut watch, asleep);
                continue;
            };
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                watch.due = None;
                return Some(Call::Due);
            }
            watch.sleep = Sleep::Until(due);
            self.called.wait_while_for(&mut watch, asleep, left);
            watch.sleep = Sleep::Awake;
        }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}
