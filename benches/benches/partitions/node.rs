//! A log as a process of its own has it, and how it is written.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tracklog_benches::{process, samples, scratch, workload};
use tracklog_engine::{Engine, Options};
use tracklog_log::dedupe::append_once;
use tracklog_log::{
    Append, Epoch, Item, Lane, Log as _, Retention, Ticket, Topic, TopicName, TopicSpec,
};
use tracklog_protocol::PartitionId;

/// Records of one append that goes to many partitions.
const APPEND_RECORDS: usize = 1_000;
/// Appends that wait for their acks together.
const IN_FLIGHT: usize = 8;
/// After so long with no byte written, and hardly any CPU time used, the settler has nothing to do any
/// more.
const QUIET: Duration = Duration::from_secs(8);
const QUIET_CPU_MAX: Duration = Duration::from_millis(20);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A log that is open.
pub(crate) struct Node {
    pub(crate) runtime: Runtime,
    pub(crate) engine: Arc<Engine>,
    pub(crate) epoch: Epoch,
}

impl Node {
    pub(crate) fn open(folder: &Path, options: &Options) -> Self {
        let runtime = workload::runtime();
        let (engine, epoch) = scratch::start(folder, options, &runtime).expect("the log opens");
        Self { runtime, engine, epoch }
    }

    /// Partitions of topics that are made where they are not there yet.
    pub(crate) fn partitions(&self, topics: u64, partitions: u64) -> Arc<[PartitionId]> {
        partitions_of(&self.engine, &self.runtime, topics, partitions)
    }

    /// Appends so many records to each partition, many partitions with one append.
    pub(crate) fn write(&self, partitions: &[PartitionId], rounds: u64) {
        let record = samples::record();
        let item = |it: &PartitionId| Item::Record { partition: *it, record };
        let mut writer = Writer::new(self);
        for _ in 0..rounds {
            for some in partitions.chunks(APPEND_RECORDS) {
                let items: Vec<Item<'_>> = some.iter().map(item).collect();
                writer.append(&items, some.len() * samples::RECORD_BYTES);
            }
        }
        writer.finish();
    }

    /// Appends requests, some at a time, as a gateway does: where an event may be known, what lies there
    /// is read and compared.
    pub(crate) fn append_once(&self, requests: &[Vec<Item<'_>>]) {
        thread::scope(|scope| {
            for caller in 0..IN_FLIGHT {
                let own = requests.iter().skip(caller).step_by(IN_FLIGHT);
                scope.spawn(move || own.for_each(|items| self.append_one_once(caller, items)));
            }
        });
    }

    fn append_one_once(&self, caller: usize, items: &[Item<'_>]) {
        let lane = Lane(Lane::FIRST_SOURCE.0 + u8::try_from(caller).expect("few"));
        let append = Append { conditions: &[], items };
        let appending = append_once(&*self.engine, lane, self.epoch, append);
        let outcomes = self.runtime.block_on(appending).expect("an append to a scratch log");
        assert!(outcomes.verdicts.len() == items.len(), "each is told of");
    }

    /// Waits until full segments are settled as far as they are to be, and packs merged.
    pub(crate) fn wait_until_settled(&self) {
        let now = || (process::written_bytes(), process::cpu_time(), Instant::now());
        let mut last = now();
        while last.2.elapsed() < QUIET {
            thread::park_timeout(LOOK_EVERY);
            let (written_bytes, cpu_time, _) = now();
            if written_bytes != last.0 || cpu_time - last.1 > QUIET_CPU_MAX {
                last = now();
            }
        }
    }
}

/// Makes the topics where they are not there yet. Neighbours in the list are of different topics.
pub(crate) fn partitions_of(
    engine: &Arc<Engine>,
    runtime: &Runtime,
    topics: u64,
    partitions: u64,
) -> Arc<[PartitionId]> {
    let partitions = u32::try_from(partitions).expect("few");
    let make = |number| {
        let name = topic_name(number);
        let spec = TopicSpec { name, partitions, retention: Retention::Keep };
        let engine = Arc::clone(engine);
        runtime.spawn(async move { engine.create_topic(spec).await })
    };
    let tasks: Vec<_> = (0..topics).map(make).collect();
    let made = tasks.into_iter().map(|task| {
        let made = runtime.block_on(task).expect("a task does not panic");
        made.expect("a topic of this shape")
    });
    let made: Vec<Topic> = made.collect();
    (0..partitions).flat_map(|it| made.iter().map(move |topic| topic.partition(it))).collect()
}

/// What those topics are called.
pub(crate) fn topic_name(number: u64) -> TopicName {
    TopicName::new(&format!("topic-{number}")).expect("a topic's name")
}

/// Appends with several tickets in flight.
pub(crate) struct Writer<'a> {
    node: &'a Node,
    tickets: VecDeque<Ticket>,
    appends: usize,
}

impl<'a> Writer<'a> {
    pub(crate) const fn new(node: &'a Node) -> Self {
        Self { node, tickets: VecDeque::new(), appends: 0 }
    }

    pub(crate) fn append(&mut self, items: &[Item<'_>], bytes: usize) {
        if self.tickets.len() == IN_FLIGHT {
            self.wait();
        }
        let Node { engine, epoch, .. } = self.node;
        let lane = u8::try_from(self.appends % IN_FLIGHT).expect("few");
        let permit = engine.reserve(Lane(Lane::FIRST_SOURCE.0 + lane), bytes);
        let permit = permit.expect("the load is far below the budget");
        let append = Append { conditions: &[], items };
        self.tickets.push_back(engine.append(permit, *epoch, append));
        self.appends += 1;
    }

    fn wait(&mut self) {
        if let Some(ticket) = self.tickets.pop_front() {
            drop(self.node.runtime.block_on(ticket).expect("an append to a scratch log"));
        }
    }

    pub(crate) fn finish(mut self) {
        while !self.tickets.is_empty() {
            self.wait();
        }
    }
}
