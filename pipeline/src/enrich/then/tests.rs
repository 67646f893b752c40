//! A run again with the state of then gives what the first run gave, however both were cut.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;
use tracklog_log::conformance::block_on;
use tracklog_log::memory::MemoryLog;
use tracklog_protocol::Record;
use tracklog_protocol::event::{EventBuilder, EventKind, EventParts};
use tracklog_protocol::line::{LinePlace, write_line};

use super::*;
use crate::enrich::Enricher;
use crate::enrich::identity::Identity;
use crate::enrich::profile::Profile;
use crate::enrich::session::Session;
use crate::enrich::stage::{Again, EnrichStage, FailedLookup, Known};
use crate::groups::Start;
use crate::rig::{NoTime, Rig, group, poll_until_idle};
use crate::stage::{Delivery, LoopEnd, PartitionLoop, Stage, StageCounters};
use crate::state::{self, MemoryStore, StateOptions};

const SMALL: StateOptions = StateOptions { table_bytes: 600, cache_bytes: 4 << 10 };
const PARTITIONS: u32 = 2;

/// What a visitor does.
#[derive(Clone, Copy, Debug)]
struct Doing {
    visitor: u8,
    what: u8,
    minute: u8,
}

#[derive(Clone, Debug)]
enum Step {
    /// Events that are appended together.
    Write(Vec<Doing>),
    /// A process enriches a partition, and dies after so many polls.
    Run { partition: u32, polls: usize },
}

struct Bench {
    rig: Rig,
    raw: Topic,
    enriched: Topic,
    into: Topic,
    rejected: Topic,
}

impl Bench {
    fn new() -> Self {
        let rig = Rig::new();
        let [raw, enriched, into] =
            ["raw", "enriched", "into"].map(|name| rig.topic(name, PARTITIONS));
        let rejected = rig.topic("rejected", 1);
        Self { rig, raw, enriched, into, rejected }
    }

    fn write(&self, doings: &[Doing]) {
        let mut builders: Vec<_> = doings.iter().map(|_| EventBuilder::new()).collect();
        let mut items = Vec::new();
        for (Doing { visitor, what, minute }, builder) in doings.iter().zip(&mut builders) {
            let [device, user] = ["d", "u"].map(|name| format!("{name}{visitor}"));
            let traits = format!("{{\"n\":{minute}}}");
            let (kind, user_id, traits) = match what {
                0 => (EventKind::Identify, Some(&*user), Some(&*traits)),
                // All devices share an account: its traits come from both partitions.
                1 => (EventKind::Identify, Some("shared"), Some(&*traits)),
                _ => (EventKind::Track, None, None),
            };
            let time = TimeMicros(i64::from(*minute) * 60_000_000);
            let parts = EventParts {
                message_id: "m",
                kind,
                name: Some("e"),
                source: Some("s"),
                anonymous_id: Some(&device),
                user_id,
                traits,
                event_time: time,
                received_time: time,
                ..EventParts::default()
            };
            items.push((self.raw.partition_for(device.as_bytes()), builder.build(&parts)));
        }
        self.rig.pass_seconds(1);
        self.rig.append(&[], &items).unwrap();
    }

    fn state(&self) -> State<MemoryLog> {
        let log = Arc::clone(&self.rig.log);
        block_on(State::open_as_of(log, Arc::new(MemoryStore::new()), SMALL, Offset::ZERO)).unwrap()
    }

    fn shared(&self, stage: Arc<dyn Stage>) -> PartitionLoop<MemoryLog> {
        PartitionLoop {
            log: Arc::clone(&self.rig.log),
            epoch: self.rig.epoch,
            stage,
            source: self.raw.clone(),
            rejected: self.rejected.clone(),
            delivery: Delivery::OneCommit,
            time: Arc::new(NoTime(self.rig.clock())),
            counters: Arc::new(StageCounters::default()),
        }
    }

    /// The first run, in a process of its own.
    fn enrich(&self, partition: u32, polls: usize) {
        let log = Arc::clone(&self.rig.log);
        let state = block_on(State::open(log, Arc::new(MemoryStore::new()), SMALL)).unwrap();
        let (enriched, keep) = (self.enriched.clone(), FailedLookup::Keep);
        let stage = EnrichStage::new(enrichers(), Arc::new(state), enriched, keep, || 0);
        let shared = self.shared(Arc::new(stage));
        let groups = self.rig.groups();
        let topics = vec![self.raw.clone()];
        let member = block_on(groups.join(&group("enrich"), "m", topics, Start::Earliest)).unwrap();
        let mut running = pin!(shared.run(&member, self.raw.partition(partition)));
        self.rig.pass_seconds(1);
        drop(poll_until_idle(running.as_mut(), polls));
    }

    /// The run again, all partitions beside each other; whether it came to its end.
    fn again(&self, known: Known<MemoryLog>, polls_max: usize) -> bool {
        let ends = self.raw.partitions().map(|at| (at, self.rig.end(at))).collect();
        let run = Again { name: "again".to_owned(), ends };
        let (into, keep) = (self.into.clone(), FailedLookup::Keep);
        let stage = EnrichStage::again(run, enrichers(), known, into, keep, || 0);
        let shared = self.shared(Arc::new(stage));
        let groups = self.rig.groups();
        let topics = vec![self.raw.clone()];
        let member = block_on(groups.join(&group("again"), "m", topics, Start::Earliest)).unwrap();
        let mut loops: Vec<_> =
            self.raw.partitions().map(|at| Box::pin(shared.run_to_end(&member, at))).collect();
        for _ in 0..polls_max {
            loops.retain_mut(|running| match poll_until_idle(running.as_mut(), 1) {
                Poll::Pending => true,
                Poll::Ready(ended) => {
                    assert_eq!(ended, Ok(LoopEnd::Reached));
                    false
                }
            });
            if loops.is_empty() {
                return true;
            }
        }
        false
    }

    fn then(&self) -> Known<MemoryLog> {
        let log = Arc::clone(&self.rig.log);
        Known::Then(Then::new(log, self.state(), self.enriched.clone(), self.raw.partitions()))
    }

    /// What is in a topic: lines without their own places, in order.
    fn lines(&self, topic: &Topic) -> Vec<String> {
        let batches = topic.partitions().flat_map(|at| self.rig.read(at));
        let line = |record: Record<'_>| {
            let mut line = Vec::new();
            let (offset, appended_at) = (Offset::ZERO, TimeMicros(0));
            write_line(
                &mut line,
                LinePlace { topic: "t", partition: 0, offset, appended_at },
                record,
            );
            String::from_utf8(line).unwrap()
        };
        batches
            .flat_map(|batch| batch.records().map(|(_, it)| line(it)).collect::<Vec<_>>())
            .collect()
    }

    fn changes(&self) -> Offset {
        let changelog = block_on(state::changelog(&*self.rig.log)).unwrap();
        self.rig.end(changelog.partition(0))
    }
}

fn enrichers() -> Vec<Arc<dyn Enricher>> {
    let session = Session::new(Duration::from_secs(1800));
    vec![Arc::new(Identity), Arc::new(Profile), Arc::new(session)]
}

fn step() -> impl Strategy<Value = Step> {
    let doing = (0_u8..4, 0_u8..5, 0_u8..200);
    let doing = doing.prop_map(|(visitor, what, minute)| Doing { visitor, what, minute });
    prop_oneof![
        3 => prop::collection::vec(doing, 1..6).prop_map(Step::Write),
        4 => (0..PARTITIONS, 0_usize..9)
            .prop_map(|(partition, polls)| Step::Run { partition, polls }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_run_again_gives_what_the_first_gave_over_crashes_of_both(
        steps in prop::collection::vec(step(), 0..40),
        crashes in prop::collection::vec(0_usize..12, 0..6),
    ) {
        let bench = Bench::new();
        for step in &steps {
            match step {
                Step::Write(doings) => bench.write(doings),
                Step::Run { partition, polls } => bench.enrich(*partition, *polls),
            }
        }
        (0..PARTITIONS).for_each(|partition| bench.enrich(partition, usize::MAX));
        let changes = bench.changes();
        for polls in crashes {
            bench.again(bench.then(), polls);
        }
        prop_assert!(bench.again(bench.then(), 10_000), "it comes to its end");
        prop_assert_eq!(bench.lines(&bench.into), bench.lines(&bench.enriched));
        prop_assert_eq!(bench.changes(), changes, "nothing is learnt of it");
    }
}

#[test]
fn a_run_with_the_state_of_now_sees_what_came_later() {
    let bench = Bench::new();
    let doing = |what, minute| Doing { visitor: 1, what, minute };
    bench.write(&[doing(3, 1)]);
    bench.write(&[doing(0, 2)]);
    (0..PARTITIONS).for_each(|partition| bench.enrich(partition, usize::MAX));
    let log = Arc::clone(&bench.rig.log);
    let live = block_on(State::open(log, Arc::new(MemoryStore::new()), SMALL)).unwrap();
    let changes = bench.changes();
    assert!(bench.again(Known::Now(Arc::new(live)), 1_000));
    assert_eq!(bench.changes(), changes);
    let resolved = |topic: &Topic| {
        let lines = bench.lines(topic);
        lines.iter().map(|line| line.contains("\"resolvedUserId\":\"u1\"")).collect::<Vec<_>>()
    };
    assert_eq!(resolved(&bench.enriched), [false, true]);
    assert_eq!(resolved(&bench.into), [true, true]);
}
