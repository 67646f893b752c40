//! Programs of clients that send the same events again and again, to a log that stores each once.
//!
//! As in `program` one seed decides all of it: what is sent, in which order the log and its disk go
//! on, which operation fails or is the last of a process, what is trimmed and settled, and which
//! checkpoints are gone at an opening. Some ids share a hash, some come with two contents. Some
//! programs have so many runs that packs are merged.
//!
//! What the log is held to
//! - Whoever is told where an event lies is told the same place, as long as it lies there.
//! - After each opening every event that was told of lies where it was told, and no event lies there
//!   twice.
//!
//! A breach is a panic, as everywhere here.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tracklog_engine::disk::simulated::{Crash, Lasting, SimDisk};
use tracklog_engine::disk::{Disk as _, FileName};
use tracklog_engine::{Engine, OpenError, Options, Stepper};
use tracklog_log::dedupe::{OnceError, Outcomes, VerdictKind, append_once};
use tracklog_log::{
    Append, Dedupe, Domain, Epoch, Fetch, FetchMode, Item, Lane, Log, Retention, Topic, TopicName,
    TopicSpec,
};
use tracklog_protocol::event::{EventBuilder, EventParts, EventView};
use tracklog_protocol::{Offset, PartitionId, Record, Records, TimeMicros};

use crate::chance::Chance;
use crate::plan::SLOT_BYTES;
use crate::task::{Task, answer};

const TOPIC: &str = "once";
const IDS: u64 = 40;
const PARTITIONS: u32 = 3;
const RUNS: u64 = 5;
/// Of a program whose packs are merged: each run ends a segment, and eight packs become one.
const MERGING_RUNS: u64 = 14;
const STEPS: u64 = 160;
const CHECKPOINTS: [FileName; 2] = [FileName::CheckpointA, FileName::CheckpointB];

/// What an event is: its id, and what it says.
type Event = (u64, u64);
type Place = (PartitionId, Offset);

/// What programs of resends came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Resends {
    /// Events that were stored.
    pub stored: u64,
    /// Events that were known.
    pub known: u64,
    /// Events under an id that another one has.
    pub reused: u64,
    /// Events that share a hash with another one.
    pub collisions: u64,
    /// Ends of a process that nobody asked for.
    pub crashes: u64,
    /// Ids that were known through packs, at the openings.
    pub settled: u64,
    /// Packs that were made of several.
    pub merges: u64,
    /// Openings without a checkpoint.
    pub rebuilt: u64,
}

impl AddAssign for Resends {
    fn add_assign(&mut self, other: Self) {
        self.stored += other.stored;
        self.known += other.known;
        self.reused += other.reused;
        self.collisions += other.collisions;
        self.crashes += other.crashes;
        self.settled += other.settled;
        self.merges += other.merges;
        self.rebuilt += other.rebuilt;
    }
}

impl Resends {
    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Self { stored, known, reused, collisions, crashes, settled, merges, rebuilt } = self;
        format!(
            "{{\"stored\":{stored},\"known\":{known},\"reused\":{reused},\
             \"collisions\":{collisions},\"crashes\":{crashes},\"settled\":{settled},\
             \"merges\":{merges},\"rebuilt\":{rebuilt}}}"
        )
    }
}

impl fmt::Display for Resends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stored, known, reused, collisions, crashes, settled, merges, rebuilt } = self;
        write!(
            f,
            "{stored} events stored, {known} known, {reused} under an id that another one has, \
             {collisions} that share a hash, {crashes} crashes, {settled} ids known through packs, \
             {merges} merges, {rebuilt} openings without a checkpoint"
        )
    }
}

/// Runs the program of `seed`.
///
/// # Panics
/// When a promise is broken.
#[must_use]
pub fn run_resends(seed: u64) -> Resends {
    let mut program = Program::new(seed);
    let ended = catch_unwind(AssertUnwindSafe(|| program.run()));
    let mut done = program.done;
    done.merges = program.disk.written().merges;
    if let Err(breach) = ended {
        // What is half done is no place to clean up from.
        std::mem::forget(program);
        eprintln!("seed {seed} of resends");
        std::panic::resume_unwind(breach);
    }
    done
}

struct Node {
    log: Arc<Engine>,
    stepper: Stepper,
    epoch: Epoch,
}

struct Program {
    chance: Chance,
    options: Options,
    disk: SimDisk,
    node: Option<Node>,
    topic: Option<Topic>,
    tasks: Vec<Task<Vec<Event>, Result<Outcomes, OnceError>>>,
    told: BTreeMap<Event, Place>,
    attempts: u64,
    runs: u64,
    done: Resends,
}

impl Program {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let topic = TopicName::new(TOPIC).expect("it is a name");
        let hot_slots = *chance.one_of(&[None, Some(0), Some(0), Some(1), Some(3)]);
        let merges = hot_slots == Some(0) && chance.one_in(2);
        let options = Options {
            slot_bytes: Some(SLOT_BYTES),
            replay_threads: 0,
            ring_bytes: *chance.one_of(&[0, 64 << 10, 64 << 20]),
            hot_bytes: hot_slots.map(|slots| SLOT_BYTES * slots),
            dedupe: vec![Dedupe { topic, window: Duration::from_secs(24 * 3_600) }],
            id_hash_bits: *chance.one_of(&[8, 64]),
            ..Options::default()
        };
        Self {
            chance,
            options,
            disk: SimDisk::new(seed),
            node: None,
            topic: None,
            tasks: Vec::new(),
            told: BTreeMap::new(),
            attempts: 0,
            runs: if merges { MERGING_RUNS } else { RUNS },
            done: Resends::default(),
        }
    }

    fn run(&mut self) {
        self.open();
        self.make_topic();
        for _ in 0..self.runs {
            self.one_run();
        }
        // In peace all of it comes in once more, and nothing new.
        self.run_until_idle();
        for id in 0..IDS {
            self.send(&[(id, 0)]);
            self.run_until_idle();
        }
        let state = self.log().state();
        let waits: Vec<_> = self.tasks.iter().map(|task| &task.what).collect();
        assert!(waits.is_empty(), "{waits:?} wait for ever: {state:?}");
        self.check();
    }

    fn make_topic(&mut self) {
        let name = TopicName::new(TOPIC).expect("it is a name");
        let spec = TopicSpec { name, partitions: PARTITIONS, retention: Retention::Keep };
        let log = self.log();
        let mut making = Task::new((), Box::pin(async move { log.create_topic(spec).await }));
        self.topic = loop {
            if let Some(made) = making.poll() {
                break Some(made.expect("nothing fails yet"));
            }
            self.run_until_idle();
        };
    }

    fn one_run(&mut self) {
        let (nth, crash) = (self.chance.below(300) + 1, self.crash_kind());
        match self.chance.below(3) {
            0 => self.disk.crash_at_operation(nth, crash),
            1 => self.disk.fail_operation(nth, std::io::ErrorKind::Other, Lasting::Once),
            _ => {}
        }
        for _ in 0..self.chance.below(STEPS) {
            self.step();
            self.collect();
            if self.disk.free_bytes().is_err() {
                break;
            }
        }
        if self.runs == MERGING_RUNS && self.chance.one_in(2) {
            self.run_until_idle();
        }
        self.done.crashes += 1;
        self.disk.crash(crash);
        self.collect();
        self.tasks.clear();
        self.node = None;
        self.disk = self.disk.reboot();
        if self.chance.one_in(4) {
            self.open_without_some_checkpoint();
        } else {
            self.open();
        }
    }

    /// Opens a log that lacks one checkpoint, or both. Where a crash tore the header of a spare slot
    /// nobody knows without any that it was spare, and the opening is refused: then they are put back.
    fn open_without_some_checkpoint(&mut self) {
        self.disk.heal();
        let kept = CHECKPOINTS.map(|file| self.disk.read_file(&file).ok());
        let lost = 1 + self.chance.below(3);
        for (nth, file) in CHECKPOINTS.iter().enumerate() {
            if lost >> nth & 1 == 1 {
                self.disk.set_file(file, None);
            }
        }
        if self.try_open() {
            self.done.rebuilt += u64::from(lost == 3);
            return;
        }
        for (file, bytes) in CHECKPOINTS.iter().zip(kept) {
            self.disk.set_file(file, bytes);
        }
        self.open();
    }

    fn open(&mut self) {
        self.disk.heal();
        assert!(self.try_open(), "nothing is damaged");
    }

    /// Opens the log and looks at all that is in it. False where the opening is refused.
    fn try_open(&mut self) -> bool {
        let disk = Arc::new(self.disk.clone());
        let (log, stepper) = match Engine::open_stepped(disk, &self.options) {
            Ok(opened) => opened,
            Err(OpenError::Damaged { .. }) => return false,
            Err(error) => panic!("{error}"),
        };
        let epoch = answer(log.open(Domain::WHOLE)).expect("it is asked of nobody");
        let epoch = epoch.expect("the log was just opened");
        self.done.settled += log.status().settled_ids;
        self.node = Some(Node { log: Arc::new(log), stepper, epoch });
        self.check();
        true
    }

    fn node(&mut self) -> &mut Node {
        self.node.as_mut().expect("the log is open")
    }

    fn log(&self) -> Arc<Engine> {
        Arc::clone(&self.node.as_ref().expect("the log is open").log)
    }

    fn crash_kind(&mut self) -> Crash {
        if self.chance.one_in(2) { Crash::Power } else { Crash::Kill }
    }

    fn step(&mut self) {
        match self.chance.below(20) {
            0..6 => {
                let count = 1 + self.chance.below(4);
                let events: Vec<Event> = (0..count).map(|_| self.any_event()).collect();
                self.send(&events);
            }
            6..11 => drop(self.node().stepper.step_journal()),
            11..16 => drop(self.disk.step()),
            16 => drop(self.node().stepper.run_keeper()),
            17 => drop(self.node().stepper.run_settler()),
            18 => self.disk.advance(Duration::from_micros(self.chance.below(2_000))),
            _ => self.trim(),
        }
    }

    fn any_event(&mut self) -> Event {
        let id = self.chance.below(IDS);
        (id, if id.is_multiple_of(4) { self.chance.below(2) } else { 0 })
    }

    /// Sends events as one append, and waits for it.
    fn send(&mut self, events: &[Event]) {
        self.attempts += 1;
        let Some(topic) = self.topic.clone() else { return };
        let records = records(events, self.attempts);
        let partitions: Vec<PartitionId> =
            events.iter().map(|_| topic.partition(self.chance.below(3) as u32)).collect();
        let (log, epoch) = (self.log(), self.node().epoch);
        let sending = async move {
            let items = records.iter().zip(&partitions);
            let items = items.map(|(record, to)| Item::Record { partition: *to, record });
            let items: Vec<_> = items.collect();
            let append = Append { conditions: &[], items: &items };
            append_once(&*log, Lane::FIRST_SOURCE, epoch, append).await
        };
        self.tasks.push(Task::new(events.to_vec(), Box::pin(sending)));
    }

    /// Gives up some of a partition. What is gone is known no more.
    fn trim(&mut self) {
        let Some(topic) = self.topic.clone().filter(|_| self.chance.one_in(3)) else { return };
        let partition = topic.partition(self.chance.below(u64::from(PARTITIONS)) as u32);
        let log = self.log();
        let Some(extent) = log.extent(partition) else { return };
        let before = extent.start.plus(self.chance.below(4)).min(extent.end);
        // Nobody waits for it: it is carried out at some time, or not at all.
        drop(Task::new((), Box::pin(async move { log.trim(partition, before).await })).poll());
    }

    fn collect(&mut self) {
        let mut at = 0;
        while at < self.tasks.len() {
            match self.tasks[at].poll() {
                Some(sent) => {
                    let events = self.tasks.remove(at).what;
                    if let Ok(outcomes) = sent {
                        self.acked(&events, &outcomes);
                    }
                }
                None => at += 1,
            }
        }
    }

    fn acked(&mut self, events: &[Event], outcomes: &Outcomes) {
        let log = self.log();
        self.done.collisions += outcomes.collisions;
        for (event, verdict) in events.iter().zip(&outcomes.verdicts) {
            match verdict.kind {
                VerdictKind::Stored => self.done.stored += 1,
                VerdictKind::Duplicate => self.done.known += 1,
                VerdictKind::Reused => self.done.reused += 1,
            }
            let place = (verdict.partition, verdict.offset);
            // A trim was carried out since it was told, or since this was decided.
            self.told.retain(|_, place| !is_gone(&log, place));
            if is_gone(&log, &place) {
                continue;
            }
            let before = *self.told.entry(*event).or_insert(place);
            assert_eq!(place, before, "{event:?} is told to lie elsewhere");
        }
    }

    /// What lies there is what was told, and nothing lies there twice.
    fn check(&mut self) {
        let Some(topic) = &self.topic else { return };
        let log = self.log();
        let mut found: BTreeMap<Event, Vec<Place>> = BTreeMap::new();
        for partition in topic.partitions() {
            for (offset, event) in events_of(&*log, partition) {
                found.entry(event).or_default().push((partition, offset));
            }
        }
        for (event, places) in &found {
            assert_eq!(places.len(), 1, "{event:?} lies in {places:?}");
        }
        for (event, place) in &self.told {
            let is_there = found.get(event).is_some_and(|places| places[0] == *place);
            // A trim may have come through that nobody was told of.
            assert!(is_there || is_gone(&log, place), "{event:?} is not in {place:?}");
        }
        self.told.retain(|event, _| found.contains_key(event));
    }

    fn run_until_idle(&mut self) {
        loop {
            self.node().stepper.step_journal();
            let stepper = &mut self.node().stepper;
            let did = stepper.run_keeper() || stepper.run_settler();
            if !did && !self.disk.step() {
                self.node().stepper.step_journal();
                let tasks = self.tasks.len();
                self.collect();
                // Whoever was polled may have appended again.
                self.node().stepper.step_journal();
                if tasks == self.tasks.len() && self.disk.in_flight() == 0 {
                    return;
                }
            }
        }
    }
}

/// Whether nothing can be read in a place any more.
fn is_gone(log: &Engine, (partition, offset): &Place) -> bool {
    log.extent(*partition).is_none_or(|extent| *offset < extent.start)
}

/// Some of them are large, so that segments fill.
fn records(events: &[Event], attempt: u64) -> Records {
    let (mut records, mut builder) = (Records::new(), EventBuilder::new());
    for (id, content) in events {
        let filler = if id % 5 == 1 { 120_000 } else { 10 };
        let (id, sent) = (id.to_string(), attempt.to_string());
        let properties = format!("{{\"n\":{content},\"f\":\"{}\"}}", "x".repeat(filler));
        records.push(builder.build(&EventParts {
            message_id: &id,
            source: Some("web"),
            properties: Some(&properties),
            sent_time_text: Some(&sent),
            event_time: TimeMicros(5),
            ..EventParts::default()
        }));
    }
    records
}

/// All events of a partition that can be read.
fn events_of(log: &dyn Log, partition: PartitionId) -> Vec<(Offset, Event)> {
    let extent = log.extent(partition).expect("the topic is there");
    let (mut events, mut next) = (Vec::new(), extent.start);
    while next < extent.end {
        let from = vec![(partition, next)];
        let fetch = Fetch { from, bytes_max: 4 << 20, wait: false, mode: FetchMode::Replay };
        let fetched = answer(log.fetch(fetch)).expect("whoever asks reads himself");
        let mut fetched = fetched.expect("nothing fails while it is looked at");
        let part = fetched.partitions.pop().expect("one partition was asked for");
        assert!(part.damage.is_empty(), "nothing is damaged: {:?}", part.damage);
        for (offset, record) in part.batches.iter().flat_map(|batch| batch.records()) {
            if offset >= next {
                events.push((offset, event_of(record).expect("events alone were sent")));
            }
        }
        next = part.next;
    }
    events
}

fn event_of(record: Record<'_>) -> Option<Event> {
    let event = EventView::of(record)?;
    let content = event.properties()?.strip_prefix("{\"n\":")?.split(',').next()?;
    Some((event.message_id().parse().ok()?, content.parse().ok()?))
}
