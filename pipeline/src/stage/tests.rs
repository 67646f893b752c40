//! What a stage's loop promises, over a log in memory that loses acks and a process that dies.

use std::pin::pin;
use std::sync::{Arc, Condvar};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;
use tracklog_log::conformance::block_on;
use tracklog_log::memory::MemoryLog;
use tracklog_log::{
    Append, AppendError, Busy, CatalogError, Domain, Epoch, Extent, Fetch, FetchError, Fetched,
    Lane, Log, Pending, Permit, Ticket, TimeKind, Topic, TopicName, TopicSpec,
};
use tracklog_protocol::rejected::RejectedView;
use tracklog_protocol::{BatchView, Offset, PartitionId, Record, TimeMicros};

use super::*;
use crate::groups::{Groups, Member, Start};
use crate::rig::{NoTime, Rig, group, poll_until_idle};

/// Words become themselves, in the partition that their first letter says: `a…` 0, `b…` 1. Others
/// do as they say.
struct Words {
    to: Topic,
}

impl Stage for Words {
    fn name(&self) -> &str {
        "words"
    }

    fn begin<'a>(
        &'a self,
        _: &'a SourceBatch,
    ) -> Pending<'a, Result<Box<dyn Work + 'a>, StageError>> {
        Box::pin(std::future::ready(Ok(Box::new(WordsWork { to: &self.to }) as Box<dyn Work>)))
    }
}

struct WordsWork<'s> {
    to: &'s Topic,
}

impl Work for WordsWork<'_> {
    fn record(
        &mut self,
        _: Offset,
        record: Record<'_>,
        outputs: &mut Outputs,
    ) -> Result<(), Poison> {
        let text = std::str::from_utf8(record.bytes()).unwrap();
        let to = self.to.partition(u32::from(!text.starts_with('a')));
        match text {
            "nothing" => {}
            "twice" => (0..2).for_each(|_| outputs.push(to, record)),
            "both" => (0..2).for_each(|at| outputs.push(self.to.partition(at), record)),
            // Some for one partition, and for the other more than a commit can have.
            "large" => {
                outputs.push(self.to.partition(0), record);
                let much = vec![b'l'; 1 << 20];
                let much = Record::opaque(&much);
                (0..9).for_each(|_| outputs.push(self.to.partition(1), much));
            }
            "larger b" => {
                outputs.push(self.to.partition(0), Record::opaque(b"b"));
                outputs.push(self.to.partition(1), record);
            }
            "poison" => {
                outputs.push(to, record);
                return Err(Poison { reason: "no word".to_owned() });
            }
            "panic" => {
                outputs.push(to, record);
                panic!("no word at all");
            }
            _ => outputs.push(to, record),
        }
        Ok(())
    }
}

/// What comes of each word, by partition of the target, and what is rejected.
fn expected(words: &[String]) -> ([Vec<String>; 2], usize) {
    let mut outputs = [Vec::new(), Vec::new()];
    let mut rejected = 0;
    for word in words {
        let times = match word.as_str() {
            "nothing" => 0,
            "twice" => 2,
            "poison" | "panic" => {
                rejected += 1;
                0
            }
            _ => 1,
        };
        let to = usize::from(!word.starts_with('a'));
        outputs[to].extend(std::iter::repeat_n(word.clone(), times));
    }
    (outputs, rejected)
}

struct Bench {
    rig: Rig,
    source: Topic,
    target: Topic,
    rejected: Topic,
    delivery: Delivery,
    counters: Arc<StageCounters>,
}

impl Bench {
    fn new(delivery: Delivery) -> Self {
        let rig = Rig::new();
        let (source, target) = (rig.topic("source", 1), rig.topic("target", 2));
        let rejected = rig.topic("rejected", 1);
        let counters = Arc::default();
        Self { rig, source, target, rejected, delivery, counters }
    }

    fn write(&self, words: &[&str]) {
        self.rig.write(self.source.partition(0), words);
    }

    /// In one commit, so that they are read together.
    fn write_at_once(&self, words: &[&str]) {
        let to = self.source.partition(0);
        let records = words.iter().map(|word| (to, Record::opaque(word.as_bytes())));
        self.rig.append(&[], &records.collect::<Vec<_>>()).unwrap();
    }

    fn member(&self, groups: &Arc<Groups<MemoryLog>>, name: &str) -> Member<MemoryLog> {
        let topics = vec![self.source.clone()];
        block_on(groups.join(&group("words"), name, topics, Start::Earliest)).unwrap()
    }

    fn shared(&self) -> PartitionLoop<MemoryLog> {
        PartitionLoop {
            log: Arc::clone(&self.rig.log),
            epoch: self.rig.epoch,
            stage: Arc::new(Words { to: self.target.clone() }),
            source: self.source.clone(),
            rejected: self.rejected.clone(),
            delivery: self.delivery,
            time: Arc::new(NoTime(self.rig.clock())),
            counters: Arc::clone(&self.counters),
        }
    }

    /// Runs a member of a new process until it has nothing to do, or its log fails.
    fn run(&self) -> Poll<Result<(), StageEnd>> {
        let groups = self.rig.groups();
        let (shared, member) = (self.shared(), self.member(&groups, "m"));
        let running = pin!(shared.run(&member, self.source.partition(0)));
        poll_until_idle(running, usize::MAX)
    }

    fn outputs(&self) -> [Vec<String>; 2] {
        [0, 1].map(|at| self.rig.texts(self.target.partition(at)))
    }

    fn reasons(&self) -> Vec<String> {
        let batches = self.rig.read(self.rejected.partition(0));
        let records = batches.iter().flat_map(BatchView::records);
        let views = records.map(|(_, record)| RejectedView::of(record).unwrap());
        let told = views.map(|it| format!("{}: {}", it.stage().unwrap(), it.message()));
        told.collect()
    }
}

const BOTH: [Delivery; 2] = [Delivery::OneCommit, Delivery::Producer];

#[test]
fn each_record_has_its_outputs_once_and_in_order() {
    for delivery in BOTH {
        let bench = Bench::new(delivery);
        bench.write(&["a1", "b1", "nothing", "twice"]);
        assert_eq!(bench.run(), Poll::Pending);
        bench.write(&["a2", "b2"]);
        assert_eq!(bench.run(), Poll::Pending, "another process goes on");
        assert_eq!(bench.outputs(), [vec!["a1", "a2"], vec!["b1", "twice", "twice", "b2"]]);
        assert_eq!(bench.counters.records.count(), 6);
        assert_eq!(bench.counters.outputs.count(), 6);
    }
}

#[test]
fn what_fails_or_panics_is_rejected_and_its_neighbours_go_on() {
    for delivery in BOTH {
        let bench = Bench::new(delivery);
        bench.write(&["a1", "poison", "a2", "panic", "a3", "panic"]);
        assert_eq!(bench.run(), Poll::Pending);
        assert_eq!(bench.outputs(), [vec!["a1", "a2", "a3"], vec![]]);
        let reasons = ["words: no word", "words: panicked: no word at all"];
        assert_eq!(bench.reasons(), [reasons[0], reasons[1], reasons[1]]);
        assert_eq!(bench.counters.rejected.count(), 3);
    }
}

#[test]
fn outputs_too_large_for_a_commit_are_halved_and_one_alone_is_rejected() {
    for delivery in BOTH {
        let bench = Bench::new(delivery);
        let groups = bench.rig.groups();
        let (shared, member) = (bench.shared(), bench.member(&groups, "m"));
        let mut running = pin!(shared.run(&member, bench.source.partition(0)));
        assert_eq!(poll_until_idle(running.as_mut(), usize::MAX), Poll::Pending);
        bench.write_at_once(&["both", "a2", "both", "a4"]);
        for _ in 0..3 {
            bench.rig.log.fail_next(AppendError::TooLarge { bytes: 2, bytes_max: 1 });
        }
        assert_eq!(poll_until_idle(running.as_mut(), usize::MAX), Poll::Pending);
        assert_eq!(bench.outputs(), [vec!["a2", "both", "a4"], vec!["both"]], "{delivery:?}");
        assert_eq!(bench.reasons(), ["words: what comes of it is larger than a commit"]);
    }
}

#[test]
fn what_is_too_large_for_one_partition_alone_is_in_no_other_and_its_neighbours_go_on() {
    for delivery in BOTH {
        let bench = Bench::new(delivery);
        bench.write_at_once(&["a1", "both", "large", "both", "b5"]);
        assert_eq!(bench.run(), Poll::Pending, "{delivery:?}");
        let outputs = [vec!["a1", "both", "both"], vec!["both", "both", "b5"]];
        assert_eq!(bench.outputs(), outputs, "{delivery:?}");
        assert_eq!(bench.reasons(), ["words: what comes of it is larger than a commit"]);
    }
}

#[test]
fn a_producer_stores_the_largest_batch_first_so_that_one_too_large_is_refused_before_others() {
    let bench = Bench::new(Delivery::Producer);
    bench.write(&["larger b"]);
    assert_eq!(bench.run(), Poll::Pending);
    let [of_a, of_b] = [0, 1].map(|at| bench.rig.read(bench.target.partition(at))[0].append_time());
    assert!(of_b < of_a, "{of_b:?}, {of_a:?}");
}

#[test]
fn records_that_are_gone_are_counted_and_passed_over() {
    for delivery in BOTH {
        let bench = Bench::new(delivery);
        bench.write(&["a1"]);
        assert_eq!(bench.run(), Poll::Pending);
        bench.write(&["a2", "a3", "a4"]);
        block_on(bench.rig.log.trim(bench.source.partition(0), Offset(3))).unwrap();
        assert_eq!(bench.run(), Poll::Pending);
        assert_eq!(bench.outputs()[0], ["a1", "a4"]);
        assert_eq!(bench.counters.missed.count(), 2);
    }
}

#[test]
fn what_went_before_the_first_commit_of_a_group_that_is_there_is_counted() {
    for delivery in BOTH {
        let bench = Bench::new(delivery);
        let source = bench.source.partition(0);
        bench.write(&["a1", "a2"]);
        block_on(bench.rig.log.trim(source, Offset(1))).unwrap();
        // A process that dies, or is stopped, before it has read anything.
        let groups = bench.rig.groups();
        let member = bench.member(&groups, "m");
        assert!(block_on(member.claim(source)).unwrap().is_some());
        drop(member);
        bench.write(&["a3", "a4"]);
        block_on(bench.rig.log.trim(source, Offset(3))).unwrap();
        assert_eq!(bench.run(), Poll::Pending);
        assert_eq!(bench.outputs()[0], ["a4"]);
        assert_eq!(bench.counters.missed.count(), 2, "a2 and a3; a1 was gone before the group was");
    }
}

#[test]
fn a_gap_is_told_once_and_committed_also_where_nothing_comes_behind_it() {
    for delivery in BOTH {
        let bench = Bench::new(delivery);
        let source = bench.source.partition(0);
        // A group that is new begins behind what is gone, and has missed nothing.
        bench.write(&["a1"]);
        assert_eq!(bench.run(), Poll::Pending);
        bench.write(&["a2", "a3", "a4"]);
        block_on(bench.rig.log.trim(source, Offset(4))).unwrap();
        for _ in 0..2 {
            assert_eq!(bench.run(), Poll::Pending);
            assert_eq!(bench.counters.missed.count(), 3);
            let groups = bench.rig.groups();
            let committed = block_on(groups.committed(&group("words"), source)).unwrap();
            assert_eq!(committed, Some(Offset(4)));
        }
        bench.write(&["a5"]);
        assert_eq!(bench.run(), Poll::Pending);
        assert_eq!(bench.outputs()[0], ["a1", "a5"]);
    }
}

#[test]
fn a_member_that_wakes_late_changes_nothing() {
    for delivery in BOTH {
        let bench = Bench::new(delivery);
        bench.write(&["a1", "b1"]);
        let groups = bench.rig.groups();
        let (shared, member) = (bench.shared(), bench.member(&groups, "zombie"));
        let mut zombie = pin!(shared.run(&member, bench.source.partition(0)));
        assert_eq!(poll_until_idle(zombie.as_mut(), usize::MAX), Poll::Pending);

        bench.rig.pass_seconds(11);
        block_on(groups.expire()).unwrap();
        let (shared, member) = (bench.shared(), bench.member(&groups, "other"));
        let mut other = pin!(shared.run(&member, bench.source.partition(0)));
        bench.write(&["a2"]);
        let woken = poll_until_idle(zombie.as_mut(), usize::MAX);
        assert_eq!(woken, Poll::Ready(Ok(())), "it learns that the partition is another's");
        assert_eq!(poll_until_idle(other.as_mut(), usize::MAX), Poll::Pending);
        assert_eq!(bench.outputs(), [vec!["a1", "a2"], vec!["b1"]]);
        assert!(bench.counters.stale.count() > 0);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<&'static str>),
    /// Runs a process for so many polls, then it dies.
    Run(usize),
    /// The next append is stored, and nobody is told.
    LoseAck,
    /// The next append is refused for now.
    Full,
    /// A process whose commit is in flight dies, and the commit is lost or stored.
    Die {
        stored: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let word = prop::sample::select(vec!["a", "b", "a2", "nothing", "twice", "poison", "panic"]);
    prop_oneof![
        3 => prop::collection::vec(word, 1..6).prop_map(Step::Write),
        4 => (0_usize..12).prop_map(Step::Run),
        1 => Just(Step::LoseAck),
        1 => Just(Step::Full),
        2 => any::<bool>().prop_map(|stored| Step::Die { stored }),
    ]
}

/// Runs a process for some polls; it dies wherever it is then.
fn run_and_die(bench: &Bench, polls: usize) {
    let groups = bench.rig.groups();
    let (shared, member) = (bench.shared(), bench.member(&groups, "m"));
    let mut running = pin!(shared.run(&member, bench.source.partition(0)));
    // Whatever it comes to, the next process goes on.
    drop(poll_until_idle(running.as_mut(), polls));
}

fn every_record_is_passed_on_once(delivery: Delivery, steps: &[Step]) {
    let mut bench = Bench::new(delivery);
    let mut words = Vec::new();
    run_and_die(&bench, 3);
    for step in steps {
        match step {
            Step::Write(more) => {
                bench.write(more);
                words.extend(more.iter().map(|word| (*word).to_owned()));
            }
            Step::Run(polls) => run_and_die(&bench, *polls),
            Step::LoseAck | Step::Full => {
                let groups = bench.rig.groups();
                let (shared, member) = (bench.shared(), bench.member(&groups, "m"));
                let mut running = pin!(shared.run(&member, bench.source.partition(0)));
                match step {
                    Step::LoseAck => bench.rig.log.lose_next_ack("a failed sync"),
                    _ => bench.rig.log.fail_next(AppendError::Full { why: "full".into() }),
                }
                drop(poll_until_idle(running.as_mut(), usize::MAX));
                bench.spend_failures();
            }
            Step::Die { stored } => {
                let groups = bench.rig.groups();
                let (shared, member) = (bench.shared(), bench.member(&groups, "m"));
                let mut running = pin!(shared.run(&member, bench.source.partition(0)));
                bench.rig.log.hold();
                drop(poll_until_idle(running.as_mut(), 20));
                if *stored {
                    bench.rig.log.release();
                } else {
                    bench.rig.log.lose_held("a failed sync");
                    bench.rig.epoch = block_on(bench.rig.log.open(Domain::WHOLE)).unwrap();
                    bench.rig.log.release();
                }
            }
        }
    }
    assert_eq!(bench.run(), Poll::Pending);
    let (outputs, rejected) = expected(&words);
    assert_eq!(bench.outputs(), outputs);
    assert_eq!(bench.reasons().len(), rejected);
}

impl Bench {
    /// Lets failures that nobody met meet an append to a topic that nobody reads.
    fn spend_failures(&mut self) {
        let scratch = self.rig.topic("scratch", 1).partition(0);
        for _ in 0..3 {
            if self.rig.append(&[], &[(scratch, Record::opaque(b"x"))]).is_err() {
                self.rig.epoch = block_on(self.rig.log.open(Domain::WHOLE)).unwrap();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn crashes_lost_acks_and_late_members_pass_each_record_on_once(
        steps in prop::collection::vec(step(), 0..30),
    ) {
        for delivery in BOTH {
            every_record_is_passed_on_once(delivery, &steps);
        }
    }
}

/// A log that notes how much each read asks for.
struct Noting {
    log: Arc<MemoryLog>,
    asked: Mutex<Vec<usize>>,
}

impl Log for Noting {
    fn open(&self, domain: Domain) -> Pending<'_, Result<Epoch, AppendError>> {
        self.log.open(domain)
    }

    fn reserve(&self, lane: Lane, bytes: usize) -> Result<Permit, Busy> {
        self.log.reserve(lane, bytes)
    }

    fn append(&self, permit: Permit, epoch: Epoch, append: Append<'_>) -> Ticket {
        self.log.append(permit, epoch, append)
    }

    fn fetch(&self, fetch: Fetch) -> Pending<'_, Result<Fetched, FetchError>> {
        self.asked.lock().push(fetch.bytes_max);
        self.log.fetch(fetch)
    }

    fn extent(&self, partition: PartitionId) -> Option<Extent> {
        self.log.extent(partition)
    }

    fn grown(&self, past: Vec<(PartitionId, Offset)>) -> Pending<'_, ()> {
        self.log.grown(past)
    }

    fn offset_at(
        &self,
        partition: PartitionId,
        kind: TimeKind,
        time: TimeMicros,
    ) -> Pending<'_, Result<Offset, FetchError>> {
        self.log.offset_at(partition, kind, time)
    }

    fn trim(&self, partition: PartitionId, before: Offset) -> Pending<'_, Result<(), AppendError>> {
        self.log.trim(partition, before)
    }

    fn create_topic(&self, spec: TopicSpec) -> Pending<'_, Result<Topic, CatalogError>> {
        self.log.create_topic(spec)
    }

    fn delete_topic(&self, name: &TopicName) -> Pending<'_, Result<(), CatalogError>> {
        self.log.delete_topic(name)
    }

    fn topics(&self) -> Vec<Topic> {
        self.log.topics()
    }

    fn topic(&self, name: &str) -> Option<Topic> {
        self.log.topic(name)
    }
}

#[test]
fn a_stage_that_lags_reads_more_at_once_up_to_its_most_and_less_again_when_it_keeps_up() {
    let bench = Bench::new(Delivery::OneCommit);
    let word = "a".repeat(32 << 10);
    bench.write(&[&*word; 100]);
    let log = Arc::new(Noting { log: Arc::clone(&bench.rig.log), asked: Mutex::default() });
    let PartitionLoop { epoch, stage, source, rejected, delivery, time, counters, .. } =
        bench.shared();
    let most = stage.batch_bytes_max();
    let shared = PartitionLoop {
        log: Arc::clone(&log),
        epoch,
        stage,
        source,
        rejected,
        delivery,
        time,
        counters,
    };
    let groups = bench.rig.groups();
    let member = bench.member(&groups, "m");
    let mut running = pin!(shared.run(&member, bench.source.partition(0)));
    assert_eq!(poll_until_idle(running.as_mut(), usize::MAX), Poll::Pending);
    let asked = std::mem::take(&mut *log.asked.lock());
    let least = asked[0];
    assert!(least * 4 <= most, "{least} and {most}");
    assert_eq!(asked[1..3], [least * 2, least * 4], "it doubles");
    assert_eq!(asked.iter().max(), Some(&most));
    assert!(asked.len() < 10, "{asked:?}");
    assert_eq!(asked.last(), Some(&least), "it waits for little");
    assert_eq!(bench.counters.records.count(), 100);
    bench.write(&["a"]);
    assert_eq!(poll_until_idle(running.as_mut(), usize::MAX), Poll::Pending);
    assert!(log.asked.lock().iter().all(|it| *it == least), "it keeps up");
}

/// Works on a record once as many loops as it waits for work on one.
struct Together {
    here: std::sync::Mutex<usize>,
    all_here: Condvar,
    wanted: usize,
}

impl Stage for Together {
    fn name(&self) -> &str {
        "together"
    }

    fn begin<'a>(
        &'a self,
        _: &'a SourceBatch,
    ) -> Pending<'a, Result<Box<dyn Work + 'a>, StageError>> {
        Box::pin(std::future::ready(Ok(Box::new(self) as Box<dyn Work>)))
    }
}

impl Work for &Together {
    fn record(&mut self, _: Offset, _: Record<'_>, _: &mut Outputs) -> Result<(), Poison> {
        let mut here = self.here.lock().unwrap();
        *here += 1;
        self.all_here.notify_all();
        let (patience, wanted) = (Duration::from_secs(60), self.wanted);
        // A loop that this one woke may wait for this very thread.
        let (here, _) = tokio::task::block_in_place(|| {
            self.all_here.wait_timeout_while(here, patience, |here| *here < wanted).unwrap()
        });
        if *here < wanted {
            return Err(Poison { reason: format!("{here} of {wanted} were at work") });
        }
        Ok(())
    }
}

#[test]
fn as_many_partitions_are_worked_on_at_once_as_the_runtime_has_threads() {
    const THREADS: usize = 4;
    let rig = Rig::new();
    let (source, rejected) = (rig.topic("source", 4), rig.topic("rejected", 1));
    source.partitions().for_each(|at| rig.write(at, &["a"]));
    let (here, all_here) = (std::sync::Mutex::new(0), Condvar::new());
    let counters = Arc::<StageCounters>::default();
    let shared = Arc::new(PartitionLoop {
        log: Arc::clone(&rig.log),
        epoch: rig.epoch,
        stage: Arc::new(Together { here, all_here, wanted: THREADS }),
        source,
        rejected,
        delivery: Delivery::OneCommit,
        time: Arc::new(NoTime(rig.clock())),
        counters: Arc::clone(&counters),
    });
    let (groups, group, member) = (rig.groups(), group("together"), "m".to_owned());
    let runner = StageRunner { shared, groups, group, member, start: Start::Earliest };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_time()
        .build()
        .unwrap();
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let running = runtime.spawn(runner.run(stopping));
    runtime.block_on(async {
        while counters.commits.count() < THREADS as u64 {
            tokio::task::yield_now().await;
        }
        stop.send_replace(true);
        running.await.unwrap();
    });
    assert_eq!(counters.rejected.count(), 0, "not all were at work at once");
}

#[test]
fn a_loop_may_run_on_any_thread() {
    fn assert_send<T: Send>(_: &T) {}
    let bench = Bench::new(Delivery::OneCommit);
    let groups = bench.rig.groups();
    let (shared, member) = (bench.shared(), bench.member(&groups, "m"));
    assert_send(&shared.run(&member, PartitionId::new(bench.source.id, 0)));
}
