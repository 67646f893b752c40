//! Stages over the real log on a simulated disk: enrichment with its state, both lanes of routing,
//! members that die anywhere, and members that wake up late.
//!
//! Everything happens on one thread in an order that the seed decides, so a seed repeats its run. A
//! run is some lives of a node; in each, events are appended, loops, journal, keeper and disk go on
//! by little steps, and then the power fails, the process is killed, or an operation of the disk
//! fails. `TRACKLOG_STAGE_SEEDS=FROM..TO` runs others.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use serde_json::Value as Json;
use tracklog_engine::disk::Disk as _;
use tracklog_engine::disk::simulated::{Crash, Lasting, SimDisk};
use tracklog_engine::{Engine, Options, Stepper};
use tracklog_log::{
    Append, Domain, Epoch, Fetch, FetchMode, Item, Lane as Intake, Log, Pending, Retention, Topic,
    TopicName, TopicSpec,
};
use tracklog_pipeline::enrich::identity::Identity;
use tracklog_pipeline::enrich::profile::Profile;
use tracklog_pipeline::enrich::session::Session;
use tracklog_pipeline::enrich::stage::{EnrichStage, FailedLookup};
use tracklog_pipeline::groups::{GroupName, Groups, Member, SILENCE_MAX, Start};
use tracklog_pipeline::route::{Lane, RouteStage, Routes};
use tracklog_pipeline::stage::{Delivery, PartitionLoop, Stage, StageEnd, Time};
use tracklog_pipeline::state::{MemoryStore, State, StateOptions};
use tracklog_protocol::event::{EventBuilder, EventKind, EventParts, EventView};
use tracklog_protocol::line::{LinePlace, write_line};
use tracklog_protocol::{BatchView, Offset, PartitionId, TimeMicros};

/// The least that a stepped log takes.
const SLOT_BYTES: u64 = 2 << 20;
const PARTITIONS: u32 = 2;
const VISITORS: u64 = 5;
/// No life takes more steps.
const STEPS_MAX: u64 = 1_000_000;
const SEEDS: std::ops::Range<u64> = 0..1_000;
/// One event of so many is a login.
const LOGIN_ONE_IN: u64 = 3;
/// Tables of the state that are soon full.
const STATE: StateOptions = StateOptions { table_bytes: 2 << 10, cache_bytes: 4 << 10 };

/// All events go to `all`, the even ones by the lane of high priority to `even` as well.
const RULES: &str = r#"
[destinations.all]
type = "topic"
partitions = 3

[destinations.even]
type = "topic"
partitions = 1

[[rules]]
name = "even"
where = "properties.even == true"
to = ["even"]
priority = "high"

[[rules]]
name = "all"
to = ["all"]
"#;

/// Splitmix64 (Steele et al. 2014).
struct Chance(u64);

impl Chance {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }
}

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A future that is polled when it was woken.
struct Task<T> {
    future: Pending<'static, T>,
    woken: Arc<Flag>,
}

impl<T> Task<T> {
    fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        Self { future: Box::pin(future), woken: Arc::new(Flag(AtomicBool::new(true))) }
    }

    fn poll(&mut self) -> Option<T> {
        if !self.woken.0.swap(false, Ordering::Relaxed) {
            return None;
        }
        let waker = Waker::from(Arc::clone(&self.woken));
        match self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }
}

/// The disk's clock. Pauses end at once: nothing else passes time while somebody waits.
struct DiskTime(SimDisk);

impl Time for DiskTime {
    fn now(&self) -> TimeMicros {
        TimeMicros(i64::try_from(self.0.monotonic().as_micros()).unwrap())
    }

    fn pause(&self, _: Duration) -> Pending<'static, ()> {
        let mut is_first = true;
        Box::pin(std::future::poll_fn(move |context| {
            if std::mem::replace(&mut is_first, false) {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        }))
    }
}

/// Which stages work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stages {
    /// Enrichment alone, from `raw` to `enriched`.
    Enrich,
    /// Both lanes of routing, from `enriched`.
    Route,
    /// Enrichment, and both lanes beside it from `raw`.
    RouteRaw,
}

impl Stages {
    /// Where events are appended.
    const fn source(self) -> &'static str {
        match self {
            Self::Enrich | Self::RouteRaw => "raw",
            Self::Route => "enriched",
        }
    }
}

/// One life of a node.
struct Life {
    disk: SimDisk,
    log: Arc<Engine>,
    stepper: Stepper,
    epoch: Epoch,
    steps: u64,
}

/// A loop at work.
type Loop = Task<Result<(), StageEnd>>;

impl Life {
    /// Opens the log; nothing where the disk fails meanwhile.
    fn begin(disk: &SimDisk) -> Option<Self> {
        let options = Options {
            slot_bytes: Some(SLOT_BYTES),
            replay_threads: 0,
            ring_bytes: 64 << 10,
            ..Options::default()
        };
        let (log, stepper) = Engine::open_stepped(Arc::new(disk.clone()), &options).ok()?;
        let (disk, log, epoch) = (disk.clone(), Arc::new(log), Epoch(0));
        let mut life = Self { disk, log, stepper, epoch, steps: 0 };
        let log = Arc::clone(&life.log);
        life.epoch = life.run(async move { log.open(Domain::WHOLE).await })?.ok()?;
        Some(life)
    }

    /// Lets the journal, and then the keeper or the disk, go on by a step; false when neither had
    /// anything to do.
    fn step(&mut self) -> bool {
        self.steps += 1;
        assert!(self.steps < STEPS_MAX, "somebody goes round in circles");
        self.stepper.step_journal();
        let is_busy = self.stepper.run_keeper() || self.disk.step();
        self.stepper.step_journal();
        is_busy
    }

    /// Runs one future to its end; nothing where it waits for ever: the disk is dead.
    fn run<T: Send + 'static>(
        &mut self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let mut task = Task::new(future);
        loop {
            if let Some(value) = task.poll() {
                return Some(value);
            }
            if !self.step() && !task.woken.0.load(Ordering::Relaxed) {
                return None;
            }
        }
    }

    fn topic(&mut self, name: &str, partitions: u32) -> Option<Topic> {
        let log = Arc::clone(&self.log);
        let name = TopicName::new(name).unwrap();
        let spec = TopicSpec { name, partitions, retention: Retention::Keep };
        self.run(async move { log.create_topic(spec).await })?.ok()
    }

    /// What its stages stand on; `store` has what is left of the state's.
    fn house(&mut self, stages: Stages, store: &Arc<MemoryStore>) -> Option<House> {
        let source = self.topic(stages.source(), PARTITIONS)?;
        let enriched = self.topic("enriched", PARTITIONS)?;
        let rejected = self.topic("rejected", 1)?;
        let (log, epoch, time) = (Arc::clone(&self.log), self.epoch, self.time());
        let (clock_of, store) = (Arc::clone(&time), Arc::clone(store));
        let opening = {
            let (log, source) = (Arc::clone(&log), source.clone());
            async move {
                let clock = Arc::new(move || clock_of.now());
                let groups = Groups::open(Arc::clone(&log), epoch, clock).await.ok()?;
                let state = State::open(Arc::clone(&log), store, STATE).await.ok()?;
                let routes = Routes::open(log, epoch, source).await.ok()?;
                let now = TimeMicros(0);
                routes.activate(RULES, now, |_| Offset::ZERO).await.ok()?;
                Some((groups, Arc::new(state), Arc::new(routes)))
            }
        };
        let (groups, state, routes) = self.run(opening)??;
        Some(House { log, epoch, stages, source, enriched, rejected, groups, state, routes, time })
    }

    fn time(&self) -> Arc<DiskTime> {
        Arc::new(DiskTime(self.disk.clone()))
    }

    /// The JSON lines of all events of a topic, by partition.
    fn lines(&mut self, topic: &Topic) -> Vec<Vec<Json>> {
        let read = |at: PartitionId| {
            let mut lines = Vec::new();
            let extent = self.log.extent(at).unwrap();
            let mut next = extent.start;
            while next < extent.end {
                let (from, mode) = (vec![(at, next)], FetchMode::Replay);
                let fetch = Fetch { from, bytes_max: 1 << 20, wait: false, mode };
                let log = Arc::clone(&self.log);
                let fetched = self.run(async move { log.fetch(fetch).await });
                let mut fetched = fetched.expect("it ends").expect("it can be read");
                let found = fetched.partitions.remove(0);
                assert!(found.damage.is_empty(), "{:?}", found.damage);
                let records = found.batches.iter().flat_map(BatchView::records);
                for (offset, record) in records.filter(|(offset, _)| *offset >= next) {
                    assert!(EventView::of(record).is_some(), "it is an event");
                    let (topic, appended_at) = (topic.name(), TimeMicros(0));
                    let at = LinePlace { topic, partition: at.partition, offset, appended_at };
                    let mut line = Vec::new();
                    write_line(&mut line, at, record);
                    lines.push(serde_json::from_slice(&line).unwrap());
                }
                next = found.next;
            }
            lines
        };
        topic.partitions().map(read).collect()
    }

    /// The numbers of all events of a topic, by partition.
    fn read(&mut self, topic: &Topic) -> Vec<Vec<u64>> {
        let lines = self.lines(topic);
        lines.iter().map(|of_one| of_one.iter().map(number_of).collect()).collect()
    }
}

/// Events are called by their numbers.
fn number_of(line: &Json) -> u64 {
    line["messageId"].as_str().expect("events have ids").parse().expect("a number")
}

/// Who logs in with the event `number`, if it is a login: each visitor has two accounts.
fn login_of(number: u64) -> Option<String> {
    let account = number / 2 % 2;
    number.is_multiple_of(LOGIN_ONE_IN).then(|| format!("u{}-{account}", number % VISITORS))
}

struct House {
    log: Arc<Engine>,
    epoch: Epoch,
    stages: Stages,
    source: Topic,
    enriched: Topic,
    rejected: Topic,
    groups: Arc<Groups<Engine>>,
    state: Arc<State<Engine>>,
    routes: Arc<Routes<Engine>>,
    time: Arc<DiskTime>,
}

impl House {
    /// All stages that work, high priority first.
    fn all_stages(&self) -> Vec<Arc<dyn Stage>> {
        let lane = |lane| -> Arc<dyn Stage> {
            Arc::new(RouteStage::new(Arc::clone(&self.log), Arc::clone(&self.routes), lane))
        };
        let lanes = || vec![lane(Lane::High), lane(Lane::Normal)];
        match self.stages {
            Stages::Enrich => vec![self.enrich()],
            Stages::Route => lanes(),
            Stages::RouteRaw => lanes().into_iter().chain([self.enrich()]).collect(),
        }
    }

    fn enrich(&self) -> Arc<dyn Stage> {
        let (state, enriched) = (Arc::clone(&self.state), self.enriched.clone());
        let enrichers: Vec<Arc<dyn tracklog_pipeline::enrich::Enricher>> =
            vec![Arc::new(Identity), Arc::new(Profile), Arc::new(Session::default())];
        Arc::new(EnrichStage::new(enrichers, state, enriched, FailedLookup::Reject, || 0))
    }

    /// The loop of a stage over a partition.
    fn shared(&self, stage: Arc<dyn Stage>) -> PartitionLoop<Engine> {
        PartitionLoop {
            log: Arc::clone(&self.log),
            epoch: self.epoch,
            stage,
            source: self.source.clone(),
            rejected: self.rejected.clone(),
            delivery: Delivery::OneCommit,
            time: Arc::clone(&self.time) as Arc<dyn Time>,
            counters: Arc::default(),
        }
    }

    /// A member of each stage's group, with a loop for each partition.
    fn start(&self, life: &mut Life, name: &str, loops: &mut Vec<Loop>) -> Option<()> {
        for stage in self.all_stages() {
            let shared = Arc::new(self.shared(stage));
            let group = GroupName::new(shared.stage.name()).unwrap();
            let (groups, topics) = (Arc::clone(&self.groups), vec![self.source.clone()]);
            let name = name.to_owned();
            let joining = async move { groups.join(&group, &name, topics, Start::Earliest).await };
            let member: Arc<Member<Engine>> = Arc::new(life.run(joining)?.ok()?);
            for partition in self.source.partitions() {
                let (shared, member) = (Arc::clone(&shared), Arc::clone(&member));
                loops.push(Task::new(async move { shared.run(&*member, partition).await }));
            }
        }
        Some(())
    }

    /// Appends an event; says whether it was acked when its task ends.
    fn append(&self, number: u64) -> Task<Option<u64>> {
        let (log, epoch, source) = (Arc::clone(&self.log), self.epoch, self.source.clone());
        Task::new(async move {
            let (id, visitor) = (number.to_string(), format!("v{}", number % VISITORS));
            let properties = format!("{{\"even\":{}}}", number.is_multiple_of(2));
            let (user, traits) = (login_of(number), format!("{{\"seen\":{number}}}"));
            let kind = if user.is_some() { EventKind::Identify } else { EventKind::Track };
            let time = TimeMicros(i64::try_from(number).expect("there are few"));
            let parts = EventParts {
                message_id: &id,
                kind,
                anonymous_id: Some(&visitor),
                user_id: user.as_deref(),
                traits: user.is_some().then_some(&*traits),
                properties: Some(&properties),
                event_time: time,
                received_time: time,
                ..EventParts::default()
            };
            // The record is copied as the append is called.
            let ticket = {
                let mut builder = EventBuilder::new();
                let record = builder.build(&parts);
                let permit = log.reserve(Intake::STAGES, record.bytes().len()).ok()?;
                let partition = source.partition_for(visitor.as_bytes());
                let items = [Item::Record { partition, record }];
                log.append(permit, epoch, Append { conditions: &[], items: &items })
            };
            ticket.await.ok().map(|_| number)
        })
    }
}

/// A run: lives of a node on one disk.
struct Run {
    stages: Stages,
    chance: Chance,
    disk: SimDisk,
    /// What the state has on its own disk, which no power cut reaches.
    store: Arc<MemoryStore>,
    sent: u64,
    acked: BTreeSet<u64>,
    zombies: u64,
}

impl Run {
    fn new(stages: Stages, seed: u64) -> Self {
        let (chance, disk, store) = (Chance(seed), SimDisk::new(seed), Arc::default());
        Self { stages, chance, disk, store, sent: 0, acked: BTreeSet::new(), zombies: 0 }
    }

    /// One life, up to its end by a crash or a fault. Members die with it wherever they are.
    fn life(&mut self) {
        // Not before it is open: a page that cannot be read then is damage, and stays it.
        let opened = Life::begin(&self.disk);
        if self.chance.below(3) == 0 {
            let (nth, lasting) = (1 + self.chance.below(200), Lasting::Once);
            self.disk.fail_operation(nth, std::io::ErrorKind::Other, lasting);
        }
        if let Some(mut life) = opened
            && let Some(house) = life.house(self.stages, &self.store)
        {
            self.work(&mut life, &house);
        }
        self.disk.heal();
        let crash = if self.chance.below(2) == 0 { Crash::Power } else { Crash::Kill };
        self.disk.crash(crash);
        self.disk = self.disk.reboot();
        self.store = Arc::new(match self.chance.below(4) {
            0 => MemoryStore::new(),
            1 => self.store.reopened_behind(),
            _ => self.store.reopened(),
        });
    }

    fn work(&mut self, life: &mut Life, house: &House) {
        let mut loops = Vec::new();
        if house.start(life, "one", &mut loops).is_none() {
            return;
        }
        let mut appends: Vec<Task<Option<u64>>> = Vec::new();
        for _ in 0..self.chance.below(400) {
            match self.chance.below(12) {
                0 | 1 => {
                    appends.push(house.append(self.sent));
                    self.sent += 1;
                }
                2 if self.chance.below(20) == 0 => {
                    // All members are silent for too long, and others take their place; their loops
                    // wake up late.
                    self.disk.advance(SILENCE_MAX + Duration::from_secs(1));
                    let groups = Arc::clone(&house.groups);
                    life.run(async move { groups.expire().await.is_ok() });
                    let name = format!("late-{}", self.zombies);
                    if house.start(life, &name, &mut loops).is_none() {
                        return;
                    }
                    self.zombies += 1;
                }
                3 => {
                    self.disk.advance(Duration::from_micros(self.chance.below(2_000)));
                    house.state.flush().expect("a store in memory takes all");
                }
                4..8 if !loops.is_empty() => {
                    let index = usize::try_from(self.chance.below(loops.len() as u64)).unwrap();
                    // One that ends lost its partition, or its log.
                    if loops[index].poll().is_some() {
                        drop(loops.swap_remove(index));
                    }
                }
                _ => {
                    life.step();
                }
            }
            let acked = &mut self.acked;
            appends.retain_mut(|append| match append.poll() {
                Some(told) => {
                    acked.extend(told);
                    false
                }
                None => true,
            });
        }
    }

    /// A last life without faults: all is worked on, and is what it must be. How many events there
    /// are.
    fn end(self) -> u64 {
        self.disk.heal();
        let mut life = Life::begin(&self.disk).expect("a sound disk opens");
        let house = life.house(self.stages, &self.store).expect("and works");
        let mut loops = Vec::new();
        house.start(&mut life, "last", &mut loops).expect("and lets members join");
        work_until_idle(&mut life, &house, &mut loops);
        drop(loops);
        let source = life.read(&house.source);
        let stored: BTreeSet<u64> = source.iter().flatten().copied().collect();
        assert_eq!(stored.len(), source.iter().flatten().count(), "stored once");
        assert!(self.acked.is_subset(&stored), "acked and lost");
        match self.stages {
            Stages::Enrich => assert_enriched(&mut life, &house, &source),
            Stages::Route | Stages::RouteRaw => assert_routed(&mut life, &source),
        }
        assert!(life.read(&house.rejected).iter().all(Vec::is_empty));
        stored.len() as u64
    }
}

/// Lets loops, log and disk go on until none has anything to do.
fn work_until_idle(life: &mut Life, house: &House, loops: &mut [Loop]) {
    loop {
        let ended = loops.iter_mut().filter_map(Task::poll).next();
        assert!(ended.is_none(), "a loop that alone has its partition ended: {ended:?}");
        house.state.flush().expect("a store in memory takes all");
        let woken = |task: &Loop| task.woken.0.load(Ordering::Relaxed);
        if !life.step() && !loops.iter().any(woken) {
            return;
        }
    }
}

fn by_visitor(events: &[Vec<u64>]) -> BTreeMap<u64, Vec<u64>> {
    let mut by = BTreeMap::<u64, Vec<u64>>::new();
    events
        .iter()
        .flatten()
        .for_each(|number| by.entry(number % VISITORS).or_default().push(*number));
    by
}

fn assert_routed(life: &mut Life, source: &[Vec<u64>]) {
    let [all, even] = ["all", "even"]
        .map(|name| life.log.topic(name).map(|topic| life.read(&topic)).unwrap_or_default());
    let wanted = by_visitor(source);
    assert_eq!(by_visitor(&all), wanted, "each once, in order for its visitor");
    let wanted_even: BTreeMap<_, _> = wanted
        .into_iter()
        .map(|(visitor, mut of)| {
            of.retain(|number| number.is_multiple_of(2));
            (visitor, of)
        })
        .filter(|(_, of)| !of.is_empty())
        .collect();
    assert_eq!(by_visitor(&even), wanted_even, "likewise by the other lane");
}

/// Each event of `source` is in `enriched` once, in its order, with what those before it told of its
/// visitor: the user of the last login, his traits as of then, and one visit that began with the
/// first.
fn assert_enriched(life: &mut Life, house: &House, source: &[Vec<u64>]) {
    let enriched = life.lines(&house.enriched);
    for (partition, (numbers, lines)) in source.iter().zip(&enriched).enumerate() {
        assert_eq!(lines.iter().map(number_of).collect::<Vec<_>>(), *numbers, "once, in order");
        let mut last_login = BTreeMap::new();
        let mut visits = BTreeMap::new();
        for (offset, (number, line)) in numbers.iter().zip(lines).enumerate() {
            let visitor = number % VISITORS;
            if let Some(user) = login_of(*number) {
                last_login.insert(visitor, (user, *number));
            }
            let known = last_login.get(&visitor);
            let (user, seen) = (known.map(|it| &*it.0), known.map(|it| it.1));
            assert_eq!(line["resolvedUserId"].as_str(), user, "{line}");
            assert_eq!(line["profile"]["traits"]["seen"].as_u64(), seen, "{line}");
            let visit = line["session"]["id"].as_str().expect("each has a visit");
            let is_first = !visits.contains_key(&visitor);
            assert_eq!(line["session"]["firstEvent"], is_first, "{line}");
            assert_eq!(*visits.entry(visitor).or_insert(visit), visit, "{line}");
            assert_eq!(line["rawPartition"], partition, "{line}");
            assert_eq!(line["rawOffset"], offset, "{line}");
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("TRACKLOG_STAGE_SEEDS") else { return SEEDS };
    let (from, to) = text.split_once("..").expect("FROM..TO");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// Lives and their end, for each seed.
fn run_seeds(stages: Stages) {
    let (mut stored, mut zombies, mut acked) = (0, 0, 0);
    for seed in seeds() {
        let ended = std::panic::catch_unwind(|| {
            let mut run = Run::new(stages, seed);
            for _ in 0..=run.chance.below(4) {
                run.life();
            }
            (run.zombies, run.acked.len(), run.end())
        });
        let Ok((late, of_acks, of_all)) = ended else { panic!("seed {seed}") };
        zombies += late;
        acked += of_acks;
        stored += of_all;
    }
    // The runs are worth something: there was much to lose.
    let count = u64::try_from(seeds().count()).unwrap();
    assert!(stored >= count * 10 && acked as u64 >= count * 5, "{stored} stored, {acked} acked");
    assert!(zombies >= count / 10, "{zombies} members woke late");
}

#[test]
fn over_crashes_faults_and_late_members_each_event_is_routed_once_and_in_order() {
    run_seeds(Stages::Route);
}

#[test]
fn over_crashes_faults_and_late_members_each_event_is_enriched_once_with_what_was_known_then() {
    run_seeds(Stages::Enrich);
}

/// Whatever stands still but the lane itself: enrichment and the normal lane are never polled.
#[test]
fn events_of_high_priority_are_routed_while_enrichment_and_the_normal_lane_stand_still() {
    for stages in [Stages::Route, Stages::RouteRaw] {
        let disk = SimDisk::new(7);
        let mut life = Life::begin(&disk).unwrap();
        let house = life.house(stages, &Arc::default()).unwrap();
        let mut loops = Vec::new();
        house.start(&mut life, "one", &mut loops).unwrap();
        let mut standing = loops.split_off(PARTITIONS as usize);
        for number in 0..20 {
            let mut append = house.append(number);
            while append.poll().is_none() {
                life.step();
            }
        }
        work_until_idle(&mut life, &house, &mut loops);
        let even = life.log.topic("even").expect("it is made for the first");
        let routed: BTreeSet<_> = life.read(&even).concat().into_iter().collect();
        assert_eq!(routed, (0..20).step_by(2).collect(), "{stages:?}");
        let nothing = |topic: Option<Topic>, life: &mut Life| {
            topic.is_none_or(|topic| life.read(&topic).concat().is_empty())
        };
        assert!(nothing(life.log.topic("all"), &mut life));
        assert!(stages == Stages::Route || nothing(life.log.topic("enriched"), &mut life));
        // And they go on where they were.
        work_until_idle(&mut life, &house, &mut standing);
        let all = life.log.topic("all").expect("it is made now");
        assert_eq!(life.read(&all).concat().len(), 20);
        assert_eq!(life.read(&even).concat().len(), 10);
    }
}

/// Every step of a loop at which it can stop: it dies there, after each number of polls.
#[test]
fn a_loop_may_die_at_any_of_its_steps() {
    let partitions = PARTITIONS as usize;
    for (stages, of_stage) in [(Stages::Route, 0), (Stages::Route, partitions), (Stages::Enrich, 0)]
    {
        for polls in 0.. {
            let mut run = Run::new(stages, 7);
            let mut life = Life::begin(&run.disk).unwrap();
            let house = life.house(stages, &run.store).unwrap();
            for number in 0..20 {
                let mut append = house.append(number);
                while append.poll().is_none() {
                    life.step();
                }
            }
            let mut loops = Vec::new();
            house.start(&mut life, "one", &mut loops).unwrap();
            let mut dying = loops.swap_remove(of_stage);
            drop(loops);
            let mut done = 0;
            while done < polls && (dying.woken.0.load(Ordering::Relaxed) || life.step()) {
                if dying.woken.0.load(Ordering::Relaxed) {
                    assert!(dying.poll().is_none());
                    done += 1;
                }
            }
            let is_whole = done < polls;
            drop(dying);
            run.disk.crash(Crash::Kill);
            run.disk = run.disk.reboot();
            run.acked = (0..20).collect();
            assert_eq!(run.end(), 20);
            if is_whole {
                assert!(polls > 3, "a loop has steps: {polls}");
                break;
            }
        }
    }
}
