//! A log on a simulated machine, or in a folder, and short ways to use it.

use std::collections::BTreeMap;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tracklog_engine::disk::Disk;
use tracklog_engine::disk::simulated::{Crash, SimDisk};
use tracklog_engine::{Engine, OfflineLog, OpenError, Options, VerifyReport, verify_on};
use tracklog_log::{
    Append, AppendError, Domain, Fetch, FetchError, FetchMode, Item, Lane, Log, Retention, Ticket,
    TopicName, TopicSpec,
};
use tracklog_protocol::{BatchView, KeyValue, Offset, PartitionId, Record};

/// The smallest slots there are.
pub(crate) const SLOT_BYTES: u64 = 16 << 20;

/// All records of a log that can be read, by topic and partition, then offset.
pub(crate) type Contents = BTreeMap<(String, u32), BTreeMap<u64, Vec<u8>>>;

/// Small slots, and nobody reads but who asks.
pub(crate) fn options() -> Options {
    Options { slot_bytes: Some(SLOT_BYTES), replay_threads: 0, ..Options::default() }
}

/// Waits for `future` on this thread.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime needs nothing").block_on(future)
}

/// A log on a simulated machine.
pub(crate) struct Machine {
    pub(crate) disk: SimDisk,
    pub(crate) options: Options,
    engine: Option<Arc<Engine>>,
}

impl Machine {
    /// A machine with a new log.
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, options())
    }

    pub(crate) fn with(seed: u64, options: Options) -> Self {
        let disk = SimDisk::new(seed);
        disk.set_auto(true);
        let mut machine = Self { disk, options, engine: None };
        machine.open().expect("a new log opens");
        machine
    }

    pub(crate) fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the log is open")
    }

    pub(crate) fn shared(&self) -> Arc<Engine> {
        Arc::clone(self.engine.as_ref().expect("the log is open"))
    }

    pub(crate) fn open(&mut self) -> Result<(), OpenError> {
        let engine = Engine::open_on(Arc::new(self.disk.clone()), &self.options)?;
        self.engine = Some(Arc::new(engine));
        Ok(())
    }

    /// Stops in good order; the next process begins.
    pub(crate) fn stop(&mut self) {
        let engine = self.engine.take().map(Arc::into_inner);
        assert!(engine.is_none_or(|engine| engine.is_some()), "nobody else holds the log");
        self.disk = self.disk.reboot();
    }

    /// Dies where it stands; the next process begins.
    pub(crate) fn crash(&mut self, crash: Crash) {
        self.disk.crash(crash);
        self.stop();
    }

    pub(crate) fn reopen(&mut self) {
        self.stop();
        self.open().expect("the log opens again");
    }

    /// What verifying the files says; the log must be stopped.
    pub(crate) fn verify(&self) -> Result<VerifyReport, OpenError> {
        self.verify_with(2)
    }

    /// The same with so many threads.
    pub(crate) fn verify_with(&self, threads: usize) -> Result<VerifyReport, OpenError> {
        assert!(self.engine.is_none(), "what is open is verified by itself");
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let threads = NonZeroUsize::new(threads).expect("one at least");
        Ok(verify_on(&disk, threads, &mut |_| {})?.expect("there is a log"))
    }

    /// What reading the files offline gives; the log must be stopped.
    pub(crate) fn offline(&self) -> Result<Contents, OpenError> {
        let log = OfflineLog::open_on(Arc::new(self.disk.clone()))?.expect("there is a log");
        Ok(contents(&log))
    }
}

/// Makes a topic, or finds it.
pub(crate) fn topic(
    log: &dyn Log,
    name: &str,
    partitions: u32,
    retention: Retention,
) -> Vec<PartitionId> {
    let name = TopicName::new(name).expect("a topic name");
    let spec = TopicSpec { name, partitions, retention };
    wait(log.create_topic(spec)).expect("the topic is made").partitions().collect()
}

/// Puts records in line as one append.
pub(crate) fn submit(log: &dyn Log, records: &[(PartitionId, Record<'_>)]) -> Ticket {
    let epoch = wait(log.open(Domain::WHOLE));
    let epoch = match epoch {
        Ok(epoch) => epoch,
        Err(error) => return Ticket::refused(error),
    };
    let items: Vec<Item<'_>> = records
        .iter()
        .map(|(partition, record)| Item::Record { partition: *partition, record: *record })
        .collect();
    let bytes = records.iter().map(|(_, record)| record.bytes().len()).sum::<usize>() + 4096;
    let permit = log.reserve(Lane::FIRST_SOURCE, bytes).expect("there is room in the budget");
    log.append(permit, epoch, Append { conditions: &[], items: &items })
}

/// Appends one opaque record and waits for its offset.
pub(crate) fn append(
    log: &dyn Log,
    partition: PartitionId,
    bytes: &[u8],
) -> Result<Offset, AppendError> {
    wait(submit(log, &[(partition, Record::opaque(bytes))])).map(|stored| stored.offset(0))
}

/// A millisecond apart. The settler comes late on a machine that is busy.
const TRIES_MAX: usize = 60_000;

/// Appends one opaque record and waits for its offset. What is dropped or settled makes room a moment
/// later: until then it is refused.
pub(crate) fn append_in_time(log: &dyn Log, partition: PartitionId, bytes: &[u8]) -> Offset {
    for _ in 0..TRIES_MAX {
        match append(log, partition, bytes) {
            Err(AppendError::Full { .. }) => std::thread::park_timeout(Duration::from_millis(1)),
            decided => return decided.expect("the log is open"),
        }
    }
    panic!("there is never room again");
}

/// Waits until no full segment is left to settle.
pub(crate) fn settled(log: &Engine) {
    until(log, |log| log.status().segments == 1);
}

/// Waits until what is said of the log holds.
#[track_caller]
pub(crate) fn until(log: &Engine, holds: impl Fn(&Engine) -> bool) {
    for _ in 0..TRIES_MAX {
        if holds(log) {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    panic!("it never comes to that: {:?}", log.status());
}

/// Writes a key and waits for its offset.
pub(crate) fn set(log: &dyn Log, partition: PartitionId, key: &[u8], value: &[u8]) -> Offset {
    let mut buffer = Vec::new();
    let record = KeyValue { key, value: Some(value) }.encode(&mut buffer);
    wait(submit(log, &[(partition, record)])).expect("it is stored").offset(0)
}

/// All records that can be read.
pub(crate) fn contents(log: &dyn Log) -> Contents {
    let mut all = Contents::new();
    for topic in log.topics() {
        for partition in topic.partitions() {
            let records = all.entry((topic.name().to_owned(), partition.partition)).or_default();
            for batch in batches(log, partition) {
                for (offset, record) in batch.records() {
                    let before = records.insert(offset.0, record.bytes().to_vec());
                    assert_eq!(before, None, "offset {offset} is read twice");
                }
            }
        }
    }
    all
}

/// What was there is there; of topics of keys what was superseded may be gone.
#[track_caller]
pub(crate) fn assert_same(there: &Contents, before: &Contents) {
    assert!(there.keys().eq(before.keys()), "the same partitions");
    for (partition, records) in there {
        let before = &before[partition];
        let same = |(offset, record): (&u64, &Vec<u8>)| before.get(offset) == Some(record);
        assert!(records.iter().all(same), "{partition:?} holds other records");
        let keyed = partition.0.starts_with('_');
        assert!(keyed || records.len() == before.len(), "{partition:?} lacks records");
    }
}

/// All batches of a partition that can be read.
pub(crate) fn batches(log: &dyn Log, partition: PartitionId) -> Vec<BatchView> {
    let mut batches = Vec::new();
    let extent = log.extent(partition).expect("the partition is there");
    let mut next = extent.start;
    while next < extent.end {
        let fetch = Fetch {
            from: vec![(partition, next)],
            bytes_max: 1 << 20,
            wait: false,
            mode: FetchMode::Replay,
        };
        let mut fetched = match wait(log.fetch(fetch)) {
            Err(FetchError::OutOfRange { extent, .. }) if next < extent.start => {
                // It was given up meanwhile: what is left begins there.
                batches.clear();
                next = extent.start;
                continue;
            }
            fetched => fetched.expect("it is readable"),
        };
        let part = fetched.partitions.pop().expect("one partition was asked for");
        assert!(part.next > next, "a read below the end comes forward");
        batches.extend(part.batches);
        next = part.next;
    }
    batches
}

/// The records of one partition, by offset.
pub(crate) fn records(log: &dyn Log, partition: PartitionId) -> BTreeMap<u64, Vec<u8>> {
    let batches = batches(log, partition);
    let records = batches.iter().flat_map(BatchView::records);
    records.map(|(offset, record)| (offset.0, record.bytes().to_vec())).collect()
}

/// A record of `length` bytes that begins with `number`.
pub(crate) fn payload(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.resize(length.max(8), 0xA5);
    bytes
}

/// Bytes that no compression makes smaller.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).take(bytes / 8).flatten().collect()
}
