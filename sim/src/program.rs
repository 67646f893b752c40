//! One program: a machine, its log, those who use it, and what happens to them.
//!
//! Everything happens on one thread, in an order that the seed decides: each step is a client's, or
//! lets the journal, the keeper, the disk or the clock go on by a little. A breach of a promise is a
//! panic, here, in the model or in the engine; [`run_program`] tells of it.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::time::Duration;

use tracklog_engine::disk::simulated::{Crash, Lasting, Lying, SimDisk};
use tracklog_engine::disk::{Disk, FileName, SlotId};
use tracklog_engine::{Engine, Note, OpenError, State, Stepper, WhenFull};
use tracklog_log::{
    Append, AppendError, CatalogError, Condition, Domain, Epoch, Erase, EraseError, Extent, Fetch,
    FetchError, FetchMode, Fetched, Item, Lane, Log, Retention, Stored, TimeKind, Topic, TopicName,
    TopicSpec,
};
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::{
    BatchView, KeyValue, Offset, PartitionId, PayloadKind, ProducerEpoch, ProducerId, Record,
    Sequence, TimeMicros, TopicId, VerifiedBatch,
};

use crate::chance::Chance;
use crate::contents::{Contents, Share, read_all};
use crate::model::{Loss, Model, Part, Sent, check_bytes};
use crate::plan::{Damage, Plan, SLOT_BYTES, Step};
use crate::tally::{Did, Tally};
use crate::task::{Task, answer};

/// FNV-1a, for the trace.
const FNV_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x100_0000_01b3;
const PAGE_BYTES: u64 = 4096;
const CAPACITY: u64 = u64::MAX >> 1;
const KEYS: u64 = 5;
const PRODUCERS: u64 = 2;
/// So many appends of a producer wait for their acks: fewer than a log remembers.
const UNACKED_MAX: usize = 4;
/// So many answers to fetches are held back, to see that nobody writes to what they show.
const HELD_MAX: usize = 6;
/// A read that begins so many records before an end is near it.
const HOT_RECORDS: u64 = 8;
/// So often room is looked for before a log counts as full for good.
const ROOM_TRIES: usize = 20;
/// So often it is looked whether something is erased before that waits for ever.
const ERASE_TRIES: usize = 10;
/// So many turns in a row nothing takes that comes to rest.
const TURNS_MAX: u32 = 100_000;

/// Sets the chance apart by which error an operation fails.
const ERRING: u64 = 0xe0c0_55e0_c055_e0c0;
/// Sets the chance apart by which packs and index files rot.
const ROTTING: u64 = 0x0707_1e55_0707_1e55;
/// What an operation fails with: an error of the medium, or one that says that there is no room.
pub(crate) const ERRORS: [ErrorKind; 2] = [ErrorKind::Other, ErrorKind::StorageFull];

/// What a program came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Ends of a process that nobody asked for.
    pub crashes: u64,
    /// Operations that failed, damage, stalls and full disks.
    pub faults: u64,
    /// How long it took by the machine's clock.
    pub simulated: Duration,
    /// Appends that were acked.
    pub acked: u64,
    /// What it did, by kind.
    pub did: Tally,
    /// A hash of all that happened, in order.
    pub trace: u64,
    /// Which promise was broken.
    pub violation: Option<String>,
}

/// Runs the program of `seed`; with `tells` it prints what happens.
#[must_use]
pub fn run_program(seed: u64, tells: bool) -> Outcome {
    let mut chance = Chance::new(seed);
    let plan = Plan::draw(&mut chance);
    conclude(Program::new(seed, chance, plan, tells))
}

/// Runs a fixed program in which the `nth` operation of the disk fails with `kind`, once or from
/// then on until the run ends. Also says how many operations there were.
#[must_use]
pub(crate) fn run_fixed_program(nth: u64, kind: ErrorKind, lasting: Lasting) -> (Outcome, u64) {
    let mut program = Program::new(1, Chance::new(1), Plan::fixed(), false);
    program.failing = Some((nth, kind, lasting));
    program.heal();
    let disk = program.disk.clone();
    (conclude(program), disk.operations())
}

fn conclude(mut program: Program) -> Outcome {
    listen_to_panics();
    let ended = catch_unwind(AssertUnwindSafe(|| program.run()));
    let mut outcome = program.outcome();
    if ended.is_err() {
        outcome.violation = Some(PANIC.with_borrow_mut(std::mem::take));
        // What is half done is no place to clean up from.
        std::mem::forget(program);
    }
    outcome
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps what a panic says for whoever catches it.
fn listen_to_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            PANIC.with_borrow_mut(|told| *told = panic.to_string());
        }));
    });
}

/// An open log, and what drives it.
struct Node {
    log: Arc<Engine>,
    stepper: Stepper,
    epoch: Epoch,
}

/// What a task waits for.
#[derive(Clone, Debug)]
enum Waits {
    Append { append: usize },
    Key { append: usize, partition: PartitionId, key: Vec<u8>, nth: usize },
    Produced { producer: usize, append: usize },
    Made,
    Deleted(TopicId),
    Trimmed(PartitionId, Offset),
    Erased(Vec<Erase>),
    Limited,
    Tail,
}

enum Done {
    Append(Result<Stored, AppendError>),
    Made(Result<Topic, CatalogError>),
    Deleted(Result<(), CatalogError>),
    Limited(Result<(), CatalogError>),
    Trimmed(Result<(), AppendError>),
    Erased(Result<(), EraseError>),
    Fetched(Result<Fetched, FetchError>),
}

/// A batch of a producer that has no ack yet.
struct Unacked {
    append: usize,
    batches: Vec<(Part, Sequence)>,
}

/// An idempotent producer.
#[derive(Default)]
struct Producer {
    unacked: VecDeque<Unacked>,
    /// What has no ack comes before anything new: a log remembers the last few batches only.
    is_behind: bool,
    next: BTreeMap<PartitionId, u64>,
}

struct Program {
    chance: Chance,
    /// Which errors there are. Apart, so that a seed does what it did when there was one.
    erring: Chance,
    /// Which packs and index files rot. Apart for the same reason.
    rotting: Chance,
    plan: Plan,
    disk: SimDisk,
    node: Option<Node>,
    model: Model,
    tasks: Vec<Task<Waits, Done>>,
    held: Vec<BatchView>,
    producers: Vec<Producer>,
    /// By key: where its last write was acked.
    last_of_keys: BTreeMap<Vec<u8>, Offset>,
    stalled: bool,
    /// What may be missing at the next opening.
    loss: Loss,
    damaged: bool,
    /// Checkpoints that rotted since the log was open last, as they were.
    rotten: Vec<(FileName, Vec<u8>)>,
    /// The operation of the disk that is to fail, counted from the first.
    failing: Option<(u64, ErrorKind, Lasting)>,
    run: u32,
    outcome: Outcome,
    tells: bool,
}

impl Program {
    fn new(seed: u64, chance: Chance, plan: Plan, tells: bool) -> Self {
        let model = Model::new(plan.drops());
        Self {
            chance,
            erring: Chance::new(seed ^ ERRING),
            rotting: Chance::new(seed ^ ROTTING),
            plan,
            disk: SimDisk::new(seed),
            node: None,
            model,
            tasks: Vec::new(),
            held: Vec::new(),
            producers: (0..PRODUCERS).map(|_| Producer::default()).collect(),
            last_of_keys: BTreeMap::new(),
            stalled: false,
            loss: Loss::None,
            damaged: false,
            rotten: Vec::new(),
            failing: None,
            run: 0,
            outcome: Outcome { trace: FNV_BASIS, ..Outcome::default() },
            tells,
        }
    }

    fn outcome(&self) -> Outcome {
        let mut outcome = Outcome { simulated: self.disk.monotonic(), ..self.outcome.clone() };
        let written = self.disk.written();
        outcome.did.count_some(Did::Roll, written.rolls);
        outcome.did.count_some(Did::SlotReuse, written.slots_used_again);
        outcome.did.count_some(Did::Checkpoint, written.checkpoints);
        outcome.did.count_some(Did::Settle, written.packs);
        outcome.did.count_some(Did::Merge, written.merges);
        outcome
    }

    fn did(&mut self, kind: Did) {
        self.outcome.did.count(kind);
    }

    fn tell(&mut self, what: fmt::Arguments<'_>) {
        let (now, operations) = (self.disk.monotonic(), self.disk.operations());
        let line = format!("{:>12.6}s {operations:>6} {what}", now.as_secs_f64());
        for byte in line.bytes() {
            self.outcome.trace = (self.outcome.trace ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
        }
        if self.tells {
            eprintln!("{line}");
        }
    }

    fn run(&mut self) {
        let plan = format!("{:?}", self.plan);
        self.tell(format_args!("{plan}"));
        self.begin();
        for _ in 0..self.plan.runs {
            self.one_run();
            self.lose_checkpoints();
            self.open();
            if self.node.is_none() {
                // It was refused, and no loss that could be accepted explains what is there.
                return;
            }
        }
        self.end();
    }

    /// Makes the log and its topics, and opens it again, so that a checkpoint knows of them.
    fn begin(&mut self) {
        self.disk.set_cached(self.plan.cached);
        self.open();
        let topics =
            [("main", self.plan.partitions, Retention::Keep), ("keys", 1, Retention::Compact)];
        for (name, partitions, retention) in topics {
            self.make_topic(name, partitions, retention);
            if !self.model.topics().any(|topic| topic.name() == name) {
                // An operation failed.
                self.crash(Crash::Kill);
                self.open();
                self.make_topic(name, partitions, retention);
            }
        }
        if !self.plan.limits.are_none() {
            self.limit();
        }
        self.stop();
        self.open();
    }

    /// Bounds what is kept of the topic that all write to.
    fn limit(&mut self) {
        let (log, limits) = (self.log(), self.plan.limits);
        let name = TopicName::new("main").expect("it is a name");
        let future = Box::pin(async move { Done::Limited(log.set_limits(&name, limits).await) });
        self.tasks.push(Task::new(Waits::Limited, future));
        self.collect();
        self.settle();
    }

    /// Everything heals; what has no ack is sent again; all is stored, and sound.
    fn end(&mut self) {
        self.settle();
        self.send_what_is_unacked();
        if !matches!(self.log().state(), State::Open) {
            self.stop();
            self.open();
            self.send_what_is_unacked();
        }
        for producer in 0..self.producers.len() {
            let left = self.producers[producer].unacked.len();
            assert!(left == 0 || self.damaged, "{left} appends of a producer are never acked");
        }
        self.append(None);
        self.settle();
        self.stop();
        self.open();
        self.stop();
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        self.disk.heal();
        let report = tracklog_engine::verify_on(&disk, NonZeroUsize::MIN, &mut |_| {});
        let report = report.expect("it opens").expect("there is a log");
        assert!(report.clean || self.damaged, "verify finds {report}");
    }

    fn send_what_is_unacked(&mut self) {
        for producer in 0..self.producers.len() {
            for _ in 0..self.producers[producer].unacked.len() {
                self.send_again(producer, 0);
                self.settle();
            }
        }
    }

    fn one_run(&mut self) {
        if self.plan.errors && self.chance.one_in(2) {
            let nth = self.chance.below(300) + 1;
            let lasting = if self.chance.one_in(4) { Lasting::Always } else { Lasting::Once };
            let error = *self.erring.one_of(&ERRORS);
            self.tell(format_args!("operation {nth} from now fails {lasting:?}: {error}"));
            self.disk.fail_operation(nth, error, lasting);
            self.outcome.faults += 1;
        }
        if self.failing.is_none() && self.chance.one_in(3) {
            let (nth, kind) = (self.chance.below(400) + 1, self.crash_kind());
            self.disk.crash_at_operation(nth, kind);
        }
        let steps = self.chance.below(self.plan.steps_max);
        let begins = self.chance.below(steps + 1);
        for nth in 0..steps {
            if nth == begins && !self.damaged && self.chance.one_in(2) {
                self.deceive();
            }
            let step = self.plan.step(&mut self.chance);
            self.tell(format_args!("{step:?}"));
            self.step(step);
            self.collect();
            if self.disk.free_bytes().is_err() {
                break;
            }
        }
        self.end_run();
    }

    fn end_run(&mut self) {
        self.stalled = false;
        self.disk.set_capacity(CAPACITY);
        let rots = self.plan.damage == Some(Damage::Rot) && !self.damaged;
        if rots && self.chance.one_in(2) && self.disk.free_bytes().is_ok() {
            return self.crash_and_rot();
        }
        if self.loss == Loss::Told && self.lies() {
            // Nothing but a power failure brings a lie to light.
            return self.crash(Crash::Power);
        }
        if self.chance.one_in(4) && self.disk.free_bytes().is_ok() {
            self.stop();
        } else {
            let kind = self.crash_kind();
            self.crash(kind);
        }
    }

    /// Nothing fails any more, but for the operation that is still to.
    fn heal(&self) {
        self.disk.heal();
        if let Some((nth, kind, lasting)) = self.failing
            && let Some(from_now) = nth.checked_sub(self.disk.operations()).filter(|it| *it > 0)
        {
            self.disk.fail_operation(from_now, kind, lasting);
        }
    }

    fn lies(&self) -> bool {
        matches!(self.plan.damage, Some(Damage::Lie | Damage::Forget))
    }

    /// From now on the disk does not do what it says.
    fn deceive(&mut self) {
        match self.plan.damage {
            None | Some(Damage::Rot | Damage::Stale) => return,
            Some(Damage::Misdirect) => self.disk.misdirect(),
            Some(Damage::Lie) => {
                let lying = *self.erring.one_of(&[Lying::Commits, Lying::All]);
                self.tell(format_args!("it lies about {lying:?}"));
                self.disk.set_lying(lying);
            }
            Some(Damage::Forget) => self.disk.set_forgetful(true),
        }
        self.spoil(Loss::Told);
    }

    fn spoil(&mut self, loss: Loss) {
        let damage = self.plan.damage;
        self.tell(format_args!("damage: {damage:?}"));
        self.loss = loss;
        self.damaged = true;
        self.outcome.faults += 1;
        self.did(Did::Damage);
    }

    /// Damage to what a mark vouches for; what comes behind it is not acked any more.
    fn crash_and_rot(&mut self) {
        self.heal();
        self.settle();
        if self.disk.free_bytes().is_err() || !matches!(self.log().state(), State::Open) {
            let kind = self.crash_kind();
            return self.crash(kind);
        }
        let contents = read_all(&*self.log());
        contents.keys().for_each(|partition| self.look(*partition, &contents));
        self.append(None);
        self.step(Step::Journal);
        let kind = self.crash_kind();
        self.crash(kind);
        while self.disk.step() {}
        match self.rot() {
            // It follows from what is there.
            Loss::None => self.outcome.faults += 1,
            loss => self.spoil(loss),
        }
    }

    /// One checkpoint rots, or both: what they say follows from packs and the journal.
    fn lose_checkpoints(&mut self) {
        // Two kinds of rot at once may be more than a log can tell.
        if !self.plan.loses_checkpoints || self.loss != Loss::None || self.chance.one_in(2) {
            return;
        }
        let is_both = !self.chance.one_in(4);
        for file in [FileName::CheckpointA, FileName::CheckpointB] {
            let Ok(good) = self.disk.read_file(&file) else { continue };
            if good.is_empty() || !(is_both || self.chance.one_in(2)) {
                continue;
            }
            let mut bad = good.clone();
            let at = self.chance.index(bad.len());
            bad[at] ^= 1 << self.chance.below(8);
            let bad = (!self.chance.one_in(4)).then_some(bad);
            self.tell(format_args!("{} rots at {at}: {}", file.path(), bad.is_some()));
            self.disk.set_file(&file, bad);
            self.outcome.faults += 1;
            self.rotten.push((file, good));
        }
    }

    /// Without checkpoints a log may not be able to tell what was given up from what is missing, or
    /// a header that a crash has torn from one that rotted. It says so, and loses nothing.
    fn put_checkpoints_back(&mut self, error: &OpenError) -> Result<Node, OpenError> {
        self.tell(format_args!("refused: {error}"));
        let why = error.to_string();
        let is_torn = why.contains("no checkpoint is readable, and neither is the header of");
        // Segments that go before they are settled leave no pack that tells. And what rotted before may
        // not have been met, or told in a checkpoint alone.
        let drops = self.plan.options.when_full == WhenFull::DropOldest;
        let may_be_gone = drops || self.damaged;
        let may_lack = may_be_gone && why.contains("no checkpoint is readable");
        assert!(is_torn || may_lack, "all of it is there: {error}");
        for (file, good) in std::mem::take(&mut self.rotten) {
            self.disk.set_file(&file, Some(good));
        }
        self.disk.crash(Crash::Kill);
        self.disk = self.disk.reboot();
        self.heal();
        self.try_open()
    }

    fn look(&mut self, partition: PartitionId, contents: &Contents) {
        self.model.looked(partition, &contents[&partition]);
    }

    /// Lets something rot; how much may be missing then.
    fn rot(&mut self) -> Loss {
        if self.rotting.one_in(3)
            && let Some(loss) = self.rot_file()
        {
            return loss;
        }
        if self.chance.one_in(6) {
            let file =
                if self.chance.one_in(2) { FileName::CheckpointA } else { FileName::CheckpointB };
            if let Ok(mut bytes) = self.disk.read_file(&file) {
                let at = self.chance.index(bytes.len());
                bytes[at] ^= 1 << self.chance.below(8);
                self.tell(format_args!("{} rots at {at}", file.path()));
                self.disk.set_file(&file, Some(bytes));
            }
            return Loss::OneCommit;
        }
        let (slot, page) = self.used_page();
        self.tell(format_args!("{slot} rots at page {page}"));
        let at = page * PAGE_BYTES;
        match self.chance.below(3) {
            0 => self.disk.corrupt(slot, at, &[0; PAGE_BYTES as usize]),
            1 => {
                let bytes: Vec<u8> = (0..PAGE_BYTES).map(|_| self.chance.number() as u8).collect();
                self.disk.corrupt(slot, at, &bytes);
            }
            _ => {
                let bit = u8::try_from(self.chance.below(8)).expect("it is below 8");
                self.disk.flip_bit(slot, at + self.chance.below(PAGE_BYTES), bit);
            }
        }
        Loss::OneCommit
    }

    /// Lets a pack or an index file rot, if there is one: a bit, or a page.
    fn rot_file(&mut self) -> Option<Loss> {
        let packs = self.disk.packs_folder().expect("the machine is on").into_iter();
        let indexes = self.disk.journal_folder().expect("the machine is on").indexes.into_iter();
        // A pack holds many commits; what an index says is in its segment.
        let packs = packs.map(|(pack, _)| (FileName::Pack(pack), Loss::Told));
        let indexes = indexes.map(|segment| (FileName::Index(segment), Loss::None));
        let files: Vec<(FileName, Loss)> = packs.chain(indexes).collect();
        if files.is_empty() {
            return None;
        }
        let (file, loss) = self.rotting.one_of(&files).clone();
        let mut bytes = self.disk.read_file(&file).ok().filter(|bytes| !bytes.is_empty())?;
        let at = self.rotting.index(bytes.len());
        if self.rotting.one_in(2) {
            bytes[at] ^= 1 << self.rotting.below(8);
        } else {
            let page = at / PAGE_BYTES as usize * PAGE_BYTES as usize;
            let end = bytes.len().min(page + PAGE_BYTES as usize);
            bytes[page..end].fill(0x5a);
        }
        self.tell(format_args!("{} rots at {at}", file.path()));
        self.disk.set_file(&file, Some(bytes));
        Some(loss)
    }

    /// A page that holds something, where one is found.
    fn used_page(&mut self) -> (SlotId, u64) {
        let slots = self.disk.journal_folder().expect("the machine is on").slots;
        let mut any = (slots[0].0, 0);
        for _ in 0..64 {
            let (slot, bytes) = *self.chance.one_of(&slots);
            // The first pages of a slot are its most telling ones.
            let within = if self.chance.one_in(2) { 4 } else { bytes / PAGE_BYTES };
            any = (slot, self.chance.below(within.min(bytes / PAGE_BYTES).max(1)));
            if bytes >= PAGE_BYTES
                && self.disk.peek(any.0, any.1 * PAGE_BYTES, 64).iter().any(|byte| *byte != 0)
            {
                break;
            }
        }
        any
    }

    fn crash_kind(&mut self) -> Crash {
        if self.chance.one_in(2) { Crash::Power } else { Crash::Kill }
    }

    fn crash(&mut self, kind: Crash) {
        self.tell(format_args!("crash {kind:?}"));
        self.outcome.crashes += 1;
        self.did(Did::Crash);
        self.disk.crash(kind);
        self.collect();
        self.leave();
        self.disk = self.disk.reboot();
        self.heal();
        self.disk.set_lying(Lying::Never);
        self.disk.set_forgetful(false);
    }

    /// Within a run starts only rise: it is enough to look now and then, and at its end.
    fn note_starts(&mut self) {
        let Some(node) = &self.node else { return };
        // Where the oldest segment may go for want of room too, nobody can tell the two apart.
        let expires =
            !self.plan.limits.are_none() && self.plan.options.when_full == WhenFull::Refuse;
        let mut expired = 0;
        for topic in node.log.topics() {
            for partition in topic.partitions() {
                if let Some(extent) = node.log.extent(partition) {
                    let by_itself = self.model.began_at(partition, extent.start);
                    expired += u64::from(expires && by_itself);
                }
            }
        }
        self.outcome.did.count_some(Did::Expire, expired);
    }

    /// The process is gone, and all who waited with it.
    fn leave(&mut self) {
        self.note_starts();
        self.tasks.clear();
        self.held.clear();
        self.node = None;
        self.stalled = false;
        self.producers.iter_mut().for_each(|producer| producer.is_behind = true);
    }

    /// Stops in good order: all that was sent is decided, and nobody waits any longer.
    fn stop(&mut self) {
        self.tell(format_args!("stop"));
        self.disk.set_capacity(CAPACITY);
        self.heal();
        self.stalled = false;
        self.log().close();
        while self.node().stepper.step_journal() {
            if !self.node().stepper.run_keeper() {
                self.disk.step();
            }
        }
        while self.node().stepper.run_keeper() {}
        self.collect();
        self.nobody_waits(true);
        if self.disk.free_bytes().is_err() {
            let kind = self.crash_kind();
            return self.crash(kind);
        }
        self.leave();
        self.disk = if self.disk.in_flight() > 0 {
            self.disk.crash(Crash::Kill);
            self.disk.reboot()
        } else {
            self.disk.reboot()
        };
    }

    /// Opens the log, with up to three crashes and failures on the way, and checks what it shows.
    fn open(&mut self) {
        let interrupted = if self.failing.is_some() { 0 } else { self.chance.below(4) };
        for _ in 0..interrupted {
            let (nth, kind) = (self.chance.below(60) + 1, self.crash_kind());
            if self.plan.errors && self.chance.one_in(2) {
                let error = *self.erring.one_of(&ERRORS);
                self.disk.fail_operation(nth, error, Lasting::Once);
                self.outcome.faults += 1;
            } else {
                self.disk.crash_at_operation(nth, kind);
            }
            drop(Engine::open_stepped(Arc::new(self.disk.clone()), &self.plan.options));
            let crashed = self.disk.free_bytes().is_err();
            self.did(if crashed { Did::CrashInRecovery } else { Did::Crash });
            self.disk.crash(kind);
            self.outcome.crashes += 1;
            self.disk = self.disk.reboot();
            self.heal();
        }
        // The topics of `begin` are in a checkpoint by the third opening.
        let may_be_stale = self.plan.damage == Some(Damage::Stale) && self.run >= 2;
        if may_be_stale && !self.damaged && self.chance.one_in(2) {
            self.spoil(Loss::Told);
            let nth = self.chance.below(12);
            self.disk.read_stale(nth);
        }
        let opened = self.try_open();
        self.heal();
        let opened = match opened {
            Err(_) if self.failing.is_some() => {
                self.disk.crash(Crash::Kill);
                self.disk = self.disk.reboot();
                self.heal();
                self.try_open()
            }
            Err(error) if self.loss == Loss::Told => self.open_in_spite_of(&error),
            Err(error) if !self.rotten.is_empty() => self.put_checkpoints_back(&error),
            opened => opened,
        };
        self.rotten.clear();
        match opened {
            Ok(node) => self.node = Some(node),
            Err(error) if self.loss == Loss::Told => {
                self.tell(format_args!("refused: {error}"));
                return;
            }
            Err(error) => panic!("the log does not open: {error}\n{:#?}", self.disk.trace()),
        }
        if self.run > 0 {
            self.did(Did::Reopen);
        }
        self.run += 1;
        self.check();
    }

    /// The log was refused: the damage was found. The operator goes on without what is lost.
    fn open_in_spite_of(&mut self, error: &OpenError) -> Result<Node, OpenError> {
        self.tell(format_args!("refused: {error}"));
        let told = matches!(error, OpenError::LostCommits { .. } | OpenError::Damaged { .. });
        assert!(told, "it is refused for another reason: {error}");
        self.disk.crash(Crash::Kill);
        self.disk = self.disk.reboot();
        self.plan.options.accept_loss = true;
        let opened = self.try_open();
        self.plan.options.accept_loss = false;
        opened
    }

    fn try_open(&mut self) -> Result<Node, OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let (log, stepper) = Engine::open_stepped(disk, &self.plan.options)?;
        let epoch = answer(log.open(Domain::WHOLE)).expect("it is asked of nobody");
        Ok(Node { log: Arc::new(log), stepper, epoch: epoch.expect("the log was just opened") })
    }

    fn check(&mut self) {
        let log = self.log();
        // What is looked at here is no part of the program.
        self.disk.heal();
        let contents = read_all(&*log);
        self.heal();
        let notes = format!("{:?}", log.report().notes);
        self.tell(format_args!("opened: {notes}"));
        for (partition, Share { extent, records, damage }) in &contents {
            let (count, Extent { start, end }) = (records.len(), extent);
            self.tell(format_args!("{partition}: {start}..{end}, {count} records, {damage:?}"));
        }
        let loss = std::mem::replace(&mut self.loss, Loss::None);
        if log.report().notes.iter().any(|note| matches!(note, Note::Rebuilt { .. })) {
            self.did(Did::Rebuild);
        }
        let lost = |note: &Note| matches!(note, Note::Missing { .. } | Note::GivenUp { .. });
        let told = log.report().notes.iter().any(lost);
        self.model.opened(&log.topics(), &contents, loss, told);
    }

    fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("the log is open")
    }

    fn log(&self) -> Arc<Engine> {
        Arc::clone(&self.node.as_ref().expect("the log is open").log)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Append => self.append(None),
            Step::AppendIf => {
                let partition = self.any_partition();
                let end = self.log().extent(partition).map_or(Offset::ZERO, |extent| extent.end);
                let next = end.plus(self.chance.below(3));
                self.append(Some(Condition::NextOffset { partition, next }));
            }
            Step::WriteKey => self.write_key(),
            Step::Produce => self.produce(),
            Step::ProduceAgain => {
                let producer = self.chance.index(self.producers.len());
                self.produce_again(producer);
            }
            Step::Read => self.read(),
            Step::ReadTail => self.read_tail(),
            Step::OffsetAt => self.offset_at(),
            Step::Trim => self.trim(),
            Step::Erase => self.erase(),
            Step::ChangeTopics => self.change_topics(),
            Step::TakeOver => {
                if let Some(Ok(epoch)) = answer(self.log().open(Domain::WHOLE)) {
                    self.node().epoch = epoch;
                }
            }
            Step::Journal => {
                self.node().stepper.step_journal();
                self.note_starts();
            }
            Step::Disk if self.stalled => {}
            Step::Disk => {
                self.disk.step();
            }
            Step::Keeper => {
                let node = self.node();
                if !node.stepper.run_keeper() {
                    node.stepper.look_for_room();
                }
            }
            Step::Settler => {
                self.node().stepper.run_settler();
            }
            Step::Moment => self.disk.advance(Duration::from_micros(self.chance.below(2_000))),
            Step::Seconds => self.disk.advance(Duration::from_millis(self.chance.below(6_000))),
            Step::Stall => {
                self.stalled = !self.stalled;
                self.outcome.faults += u64::from(self.stalled);
            }
            Step::Fill => self.fill(),
        }
    }

    fn fill(&mut self) {
        if self.chance.one_in(2) {
            self.disk.set_capacity(CAPACITY);
        } else if let Ok(free) = self.disk.free_bytes() {
            // Relative to an unlimited disk, however it was limited before.
            self.disk.set_capacity(CAPACITY);
            let used = CAPACITY - self.disk.free_bytes().unwrap_or(free);
            self.disk.set_capacity(used + self.chance.below(3 * SLOT_BYTES));
            self.outcome.faults += 1;
        }
    }

    /// Runs until nothing is left to do, lets a moment pass for the mark, and runs again. Everyone
    /// who waited has an answer then, unless the log is full.
    fn settle(&mut self) {
        self.disk.set_capacity(CAPACITY);
        self.stalled = false;
        self.run_until_idle();
        self.heal();
        for _ in 0..ROOM_TRIES {
            if !self.node().stepper.look_for_room() {
                break;
            }
            self.run_until_idle();
        }
        self.disk.advance(Duration::from_millis(2));
        self.run_until_idle();
        self.finish_erasing();
        if self.disk.free_bytes().is_err() {
            return;
        }
        let state = self.log().state();
        assert!(!matches!(state, State::Full(_) | State::Shedding), "there is room: {state:?}");
        self.nobody_waits(false);
    }

    /// What is to be erased waits a while after a failure.
    fn finish_erasing(&mut self) {
        let is_erasing = |task: &Task<Waits, Done>| matches!(task.what, Waits::Erased(_));
        for _ in 0..ERASE_TRIES {
            if self.disk.free_bytes().is_err() || !self.tasks.iter().any(is_erasing) {
                return;
            }
            self.disk.advance(Duration::from_secs(11));
            self.node().stepper.look_again();
            self.run_until_idle();
        }
    }

    fn run_until_idle(&mut self) {
        for _ in 0..TURNS_MAX {
            self.node().stepper.step_journal();
            let stepper = &mut self.node().stepper;
            let did = stepper.run_keeper() || stepper.run_settler();
            if !did && !self.disk.step() {
                // What failed at once has been told since; and clients may have gone on.
                self.node().stepper.step_journal();
                let tasks = self.tasks.len();
                self.collect();
                let is_idle = tasks == self.tasks.len() && self.disk.in_flight() == 0;
                if is_idle && !self.node().stepper.run_settler() {
                    return;
                }
            }
        }
        panic!("it never comes to rest");
    }

    /// All tasks are over, but for readers at the end of a log that is open. One that is over and
    /// was not woken waits for ever in a real program.
    fn nobody_waits(&mut self, closed: bool) {
        for task in &mut self.tasks {
            let over = task.poll_now().is_some();
            assert!(!over, "nobody woke {:?}", task.what);
            let may_wait = matches!(task.what, Waits::Tail) && !closed;
            assert!(may_wait, "{:?} waits for ever", task.what);
        }
    }

    // What clients do.

    fn any_partition(&mut self) -> PartitionId {
        let topics = self.model.topics().filter(|topic| topic.spec.retention == Retention::Keep);
        let topics: Vec<&Topic> = topics.collect();
        let topic = *self.chance.one_of(&topics);
        let partition = self.chance.below(u64::from(topic.spec.partitions));
        topic.partition(u32::try_from(partition).expect("it is below a u32"))
    }

    fn length(&mut self) -> usize {
        let large = self.chance.one_in(self.plan.large_one_in);
        let most = if large { 120_000 } else { 300 };
        8 + usize::try_from(self.chance.below(most)).expect("it is small")
    }

    fn lengths(&mut self, count_max: u64) -> Vec<usize> {
        (0..=self.chance.below(count_max)).map(|_| self.length()).collect()
    }

    /// Sends one to three records or batches.
    fn append(&mut self, condition: Option<Condition>) {
        let mut contents = Vec::new();
        for _ in 0..=self.chance.below(3) {
            let partition = self.any_partition();
            let as_batch = self.chance.one_in(4);
            let lengths = self.lengths(if as_batch { 6 } else { 1 });
            let part = self.model.make(partition, &lengths);
            contents.push((part, as_batch));
        }
        self.send(&contents, condition);
    }

    /// Sends what was made: each part as a record, or as a batch.
    fn send(&mut self, contents: &[(Part, bool)], condition: Option<Condition>) -> usize {
        let parts = contents.iter().map(|(part, _)| part.clone()).collect();
        let conditions: Vec<Condition> = condition.into_iter().collect();
        let sent = Sent { parts, conditions: conditions.clone(), produced: false };
        let append = self.model.send(sent);
        let bytes: Vec<Vec<Vec<u8>>> = contents.iter().map(|(part, _)| self.bytes(part)).collect();
        let batches: Vec<Option<VerifiedBatch>> = contents
            .iter()
            .zip(&bytes)
            .map(|((_, as_batch), bytes)| as_batch.then(|| batch(bytes, None)))
            .collect();
        let items: Vec<Item<'_>> = contents
            .iter()
            .zip(&batches)
            .zip(&bytes)
            .map(|(((part, _), batch), bytes)| match batch {
                Some(batch) => Item::Batch { partition: part.partition, batch },
                None => {
                    let record = Record::opaque(&bytes[0]);
                    Item::Record { partition: part.partition, record }
                }
            })
            .collect();
        self.submit(Waits::Append { append }, append, &conditions, &items);
        append
    }

    fn bytes(&self, part: &Part) -> Vec<Vec<u8>> {
        part.numbers.clone().map(|number| self.model.bytes(number)).collect()
    }

    fn submit(&mut self, what: Waits, append: usize, conditions: &[Condition], items: &[Item<'_>]) {
        let log = self.log();
        let bytes: usize = items
            .iter()
            .map(|item| match item {
                Item::Record { record, .. } => record.bytes().len(),
                Item::Batch { batch, .. } => batch.view().bytes().len(),
            })
            .sum();
        let Ok(permit) = log.reserve(Lane::FIRST_SOURCE, bytes) else {
            if let Waits::Produced { producer, .. } = what {
                self.producers[producer].is_behind = true;
            }
            return self.model.refused(append);
        };
        let epoch = self.node().epoch;
        let ticket = log.append(permit, epoch, Append { conditions, items });
        let future = Box::pin(async move { Done::Append(ticket.await) });
        self.tasks.push(Task::new(what, future));
    }

    fn keys(&self) -> Option<PartitionId> {
        let topic = self.model.topics().find(|topic| topic.name() == "keys");
        topic.map(|topic| topic.partition(0))
    }

    fn write_key(&mut self) {
        let Some(partition) = self.keys() else { return };
        let key = vec![b'k', self.chance.below(KEYS) as u8];
        let part = self.model.make(partition, &[16]);
        let number = (!self.chance.one_in(6)).then_some(part.numbers.start);
        let conditions = if self.chance.one_in(3) {
            let last = self.last_of_keys.get(&key).copied();
            vec![Condition::LastOfKey { partition, key: key.clone(), last }]
        } else {
            Vec::new()
        };
        let sent = Sent { parts: vec![part], conditions: conditions.clone(), produced: false };
        let append = self.model.send(sent);
        let nth = self.model.write_key(partition, &key, number);
        let value = number.map(|number| self.model.bytes(number));
        let mut buffer = Vec::new();
        let record = KeyValue { key: &key, value: value.as_deref() }.encode(&mut buffer);
        let items = [Item::Record { partition, record }];
        let what = Waits::Key { append, partition, key: key.clone(), nth };
        self.submit(what, append, &conditions, &items);
    }

    /// A new append of some producer: batches for one or two partitions.
    fn produce(&mut self) {
        let at = self.chance.index(self.producers.len());
        if std::mem::take(&mut self.producers[at].is_behind) {
            return self.produce_again(at);
        }
        if self.producers[at].unacked.len() == UNACKED_MAX {
            return;
        }
        let main = self.model.topics().find(|topic| topic.name() == "main").expect("it is made");
        let partitions: Vec<PartitionId> = main.partitions().collect();
        let first = self.chance.index(partitions.len());
        let count = 1 + self.chance.index(partitions.len().min(2));
        let mut batches = Vec::new();
        for nth in 0..count {
            let partition = partitions[(first + nth) % partitions.len()];
            let lengths = self.lengths(4);
            let part = self.model.make(partition, &lengths);
            let next = self.producers[at].next.entry(partition).or_default();
            batches.push((part, Sequence(*next)));
            *next += lengths.len() as u64;
        }
        let parts = batches.iter().map(|(part, _)| part.clone()).collect();
        let append = self.model.send(Sent { parts, conditions: Vec::new(), produced: true });
        self.producers[at].unacked.push_back(Unacked { append, batches });
        let last = self.producers[at].unacked.len() - 1;
        self.send_produced(at, last);
    }

    fn send_produced(&mut self, producer: usize, nth: usize) {
        let Unacked { append, batches } = &self.producers[producer].unacked[nth];
        let (append, batches) = (*append, batches.clone());
        let from: Vec<_> =
            batches.iter().map(|(part, from)| (part.partition.partition, from.0)).collect();
        self.tell(format_args!("producer {producer} sends append {append}: {from:?}"));
        let id = ProducerId(producer as u64 + 1);
        let epoch = ProducerEpoch(self.run);
        let made: Vec<(PartitionId, VerifiedBatch)> = batches
            .iter()
            .map(|(part, sequence)| {
                let bytes = self.bytes(part);
                (part.partition, batch(&bytes, Some((id, epoch, *sequence))))
            })
            .collect();
        let items: Vec<Item<'_>> = made
            .iter()
            .map(|(partition, batch)| Item::Batch { partition: *partition, batch })
            .collect();
        self.submit(Waits::Produced { producer, append }, append, &[], &items);
    }

    fn send_again(&mut self, producer: usize, nth: usize) {
        self.did(Did::Retry);
        self.send_produced(producer, nth);
    }

    /// All that a producer has no ack for, in order.
    fn produce_again(&mut self, producer: usize) {
        let unacked = self.producers[producer].unacked.len();
        (0..unacked).for_each(|nth| self.send_again(producer, nth));
    }

    fn read(&mut self) {
        let partition = self.any_partition();
        let log = self.log();
        let Some(extent) = log.extent(partition) else { return };
        let length = extent.end.0 - extent.start.0;
        let from = match self.chance.below(3) {
            0 => extent.start,
            1 => Offset(extent.end.0 - length.min(self.chance.below(HOT_RECORDS))),
            _ => extent.start.plus(self.chance.below(length + 1)),
        };
        let mode = if self.chance.one_in(2) { FetchMode::Live } else { FetchMode::Replay };
        let bytes_max = *self.chance.one_of(&[1, 4096, 1 << 20]);
        let fetch = Fetch { from: vec![(partition, from)], bytes_max, wait: false, mode };
        let fetched = answer(log.fetch(fetch)).expect("whoever asks reads himself");
        let is_hot = extent.end.0 - from.0 < HOT_RECORDS;
        self.fetched(if is_hot { Did::ReadHot } else { Did::ReadLagging }, fetched);
    }

    fn fetched(&mut self, kind: Did, fetched: Result<Fetched, FetchError>) {
        // Which errors there may be depends on what fails at the time; what is read is held to
        // account, and an opening reads all.
        let Ok(fetched) = fetched else { return };
        if fetched.partitions.iter().any(|part| !part.batches.is_empty()) {
            self.did(kind);
        }
        for part in fetched.partitions {
            self.model.extent(part.partition, part.extent);
            let mut next = None;
            for batch in &part.batches {
                assert!(batch.end_offset() <= part.extent.end, "it is below the end");
                let fits = next.is_none_or(|next| next == batch.base_offset());
                assert!(fits || self.damaged || !part.damage.is_empty(), "a read has a hole");
                next = Some(batch.end_offset());
                self.model.read(batch);
            }
            let line = format!("read {} to {}", part.partition, part.next);
            self.tell(format_args!("{line}"));
            self.held.extend(part.batches.into_iter().take(1));
        }
        while self.held.len() > HELD_MAX {
            let nth = self.chance.index(self.held.len());
            let batch = self.held.swap_remove(nth);
            batch.records().for_each(|(_, record)| check_bytes(record.bytes()));
        }
    }

    fn read_tail(&mut self) {
        if self.tasks.iter().filter(|task| matches!(task.what, Waits::Tail)).count() >= 3 {
            return;
        }
        let partition = self.any_partition();
        let log = self.log();
        let Some(extent) = log.extent(partition) else { return };
        let future = Box::pin(async move {
            let from = vec![(partition, extent.end)];
            let fetch = Fetch { from, bytes_max: 1 << 16, wait: true, mode: FetchMode::Live };
            Done::Fetched(log.fetch(fetch).await)
        });
        self.tasks.push(Task::new(Waits::Tail, future));
    }

    fn offset_at(&mut self) {
        let partition = self.any_partition();
        let back = i64::try_from(self.chance.below(20_000_000)).expect("it is small");
        let time = TimeMicros(self.disk.now().0 - back);
        let found = answer(self.log().offset_at(partition, TimeKind::Append, time));
        if let Some(Ok(offset)) = found {
            self.model.check_offset_at(partition, time, offset);
        }
    }

    fn trim(&mut self) {
        let partition = self.any_partition();
        let log = self.log();
        let Some(extent) = log.extent(partition) else { return };
        let before = extent.start.plus(self.chance.below(extent.end.0 - extent.start.0 + 1));
        self.model.trim(partition, before);
        let future = Box::pin(async move { Done::Trimmed(log.trim(partition, before).await) });
        self.tasks.push(Task::new(Waits::Trimmed(partition, before), future));
    }

    /// Erases one to three stretches of a partition.
    fn erase(&mut self) {
        let partition = self.any_partition();
        let log = self.log();
        let Some(Extent { start, end }) = log.extent(partition) else { return };
        let mut records = Vec::new();
        for _ in 0..=self.chance.below(3) {
            let from = start.0 + self.chance.below(end.0 - start.0 + 1);
            let to = end.0.min(from + self.chance.below(4));
            // Of others nobody could tell whether their append is there whole.
            let known = (from..to).map(|at| Erase::one(partition, Offset(at)));
            records.extend(known.filter(|it| self.model.knows(it.partition, it.from)));
        }
        self.model.erase(&records);
        let what = Waits::Erased(records.clone());
        let future = Box::pin(async move { Done::Erased(log.erase(records).await) });
        self.tasks.push(Task::new(what, future));
    }

    fn change_topics(&mut self) {
        let name = format!("x{}", self.chance.below(3));
        let there = self.model.topics().find(|topic| topic.name() == name).map(|topic| topic.id);
        let log = self.log();
        let name = TopicName::new(&name).expect("it is a name");
        if let Some(id) = there {
            self.model.delete(id);
            let future = Box::pin(async move { Done::Deleted(log.delete_topic(&name).await) });
            self.tasks.push(Task::new(Waits::Deleted(id), future));
        } else {
            let partitions = 1 + u32::try_from(self.chance.below(3)).expect("it is small");
            self.create(name, partitions, Retention::Keep);
        }
    }

    fn create(&mut self, name: TopicName, partitions: u32, retention: Retention) {
        self.model.want(name.as_str());
        let log = self.log();
        let spec = TopicSpec { name, partitions, retention };
        let future = Box::pin(async move { Done::Made(log.create_topic(spec).await) });
        self.tasks.push(Task::new(Waits::Made, future));
    }

    fn make_topic(&mut self, name: &str, partitions: u32, retention: Retention) {
        let name = TopicName::new(name).expect("it is a name");
        self.create(name, partitions, retention);
        self.collect();
        self.settle();
    }

    /// Takes the answers that have come.
    fn collect(&mut self) {
        let mut at = 0;
        while at < self.tasks.len() {
            match self.tasks[at].poll() {
                Some(done) => {
                    let task = self.tasks.remove(at);
                    self.done(task.what, done);
                }
                None => at += 1,
            }
        }
    }

    fn done(&mut self, what: Waits, done: Done) {
        match (what, done) {
            (Waits::Append { append }, Done::Append(result)) => {
                self.decided(append, &result);
            }
            (Waits::Key { append, partition, key, nth }, Done::Append(result)) => {
                if self.decided(append, &result) {
                    let offset = result.expect("it is stored").offset(0);
                    self.model.key_acked(partition, &key, nth);
                    self.last_of_keys.insert(key, offset);
                }
            }
            (Waits::Produced { producer, append }, Done::Append(result)) => {
                if self.decided(append, &result) {
                    let unacked = &mut self.producers[producer].unacked;
                    unacked.retain(|unacked| unacked.append != append);
                } else {
                    self.producers[producer].is_behind = true;
                }
            }
            (Waits::Made, Done::Made(result)) => {
                if let Ok(topic) = result {
                    self.model.made(&topic);
                    self.did(Did::Create);
                }
            }
            (Waits::Deleted(id), Done::Deleted(result)) => {
                if result.is_ok() {
                    self.model.deleted(id);
                    self.did(Did::DeleteTopic);
                }
            }
            (Waits::Limited, Done::Limited(result)) => {
                self.tell(format_args!("limited: {result:?}"));
            }
            (Waits::Trimmed(partition, before), Done::Trimmed(result)) => {
                self.tell(format_args!("{partition} trimmed to {before}: {result:?}"));
                if result.is_ok() {
                    self.model.trimmed(partition, before);
                }
            }
            (Waits::Erased(records), Done::Erased(result)) => {
                self.tell(format_args!("{records:?} erased: {result:?}"));
                if result.is_ok() {
                    self.model.erased(&records);
                    self.did(Did::Erase);
                }
            }
            (Waits::Tail, Done::Fetched(fetched)) => self.fetched(Did::ReadTail, fetched),
            (what, _) => unreachable!("{what:?} has another answer"),
        }
    }

    /// Counts an append under each kind that it is of.
    fn acked(&mut self, append: usize) {
        let Sent { parts, conditions, produced } = self.model.sent(append);
        let several = parts.iter().any(|part| part.partition != parts[0].partition);
        let kinds = [
            (Did::Append, true),
            (Did::Conditional, !conditions.is_empty()),
            (Did::MultiPartition, several),
            (Did::Idempotent, *produced),
        ];
        for (kind, _) in kinds.iter().filter(|(_, is_one)| *is_one) {
            self.outcome.did.count(*kind);
        }
    }

    fn decided(&mut self, append: usize, result: &Result<Stored, AppendError>) -> bool {
        let line = match result {
            Ok(_) => format!("append {append} is stored"),
            Err(error) => format!("append {append}: {error}"),
        };
        self.tell(format_args!("{line}"));
        match result {
            Ok(stored) => {
                let firsts = (0..self.model.parts(append)).map(|part| stored.offset(part));
                let firsts: Vec<Offset> = firsts.collect();
                self.model.acked(append, &firsts);
                self.outcome.acked += 1;
                self.acked(append);
                true
            }
            Err(AppendError::Unknown { .. }) => false,
            Err(_) => {
                self.model.refused(append);
                false
            }
        }
    }
}

fn batch(
    records: &[Vec<u8>],
    producer: Option<(ProducerId, ProducerEpoch, Sequence)>,
) -> VerifiedBatch {
    let mut builder = BatchBuilder::new(PayloadKind::Opaque);
    if let Some((id, epoch, sequence)) = producer {
        builder = builder.produced_by(id, epoch, sequence);
    }
    records.iter().for_each(|record| builder.push(Record::opaque(record)));
    builder.finish()
}

#[cfg(test)]
mod tests;
