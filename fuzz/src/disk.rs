//! A small log on a disk in memory, what is in it, and ways to edit it behind its back: as rot
//! does, or with checksums made good again, since a change that a checksum catches reaches nothing
//! behind it.
//!
//! The log is the same in every process: its disk's seed decides all. The layout is told in the
//! engine's FORMAT.md, from which this was written.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tracklog_engine::disk::simulated::{Crash, SimDisk, Snapshot};
use tracklog_engine::disk::{Disk, FileName, SlotId};
use tracklog_engine::{Engine, Note, OpenError, Options, Stepper};
use tracklog_log::{
    Append, AppendError, Dedupe, Domain, Extent, Fetch, FetchError, FetchMode, Item, Lane, Log,
    Retention, Stored, TopicName, TopicSpec,
};
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::{
    KeyValue, Offset, PartitionId, PayloadKind, ProducerEpoch, ProducerId, Record, Sequence,
};
use xxhash_rust::xxh3::xxh3_64;

const SLOT_BYTES: u64 = 2 << 20;
const PAGE_BYTES: usize = 4096;
/// Size of a commit's fixed header.
pub const HEADER_BYTES: usize = 128;
/// Of a checkpoint's head, and of the head of each of its sections.
const CHECKPOINT_HEAD_BYTES: usize = 12;

/// What a partition shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its readable range.
    pub extent: Extent,
    /// What can be read.
    pub records: BTreeMap<Offset, Vec<u8>>,
    /// What the log says that it cannot read.
    pub damage: Vec<Range<Offset>>,
}

/// What a log shows.
pub type Contents = BTreeMap<PartitionId, Share>;

const DELETED: &[u8] = b"of a topic that is deleted";

/// The log as it was stopped, and what was in it.
pub struct Sample {
    snapshot: Snapshot,
    /// All that is in it.
    pub contents: Contents,
    /// The only record of the partition whose topic was deleted.
    pub deleted: &'static [u8],
    /// Pages that are not all zeros.
    pub pages: Vec<(SlotId, u64)>,
    /// Where commits begin.
    pub commits: Vec<(SlotId, u64)>,
    /// All slots.
    pub slots: Vec<SlotId>,
}

impl Sample {
    /// The one that there is.
    ///
    /// # Panics
    /// When the engine does not write it.
    pub fn the() -> &'static Self {
        static SAMPLE: OnceLock<Sample> = OnceLock::new();
        SAMPLE.get_or_init(Self::write)
    }

    /// A machine with it on its disk.
    #[must_use]
    pub fn machine(&self) -> SimDisk {
        let disk = SimDisk::new(7);
        disk.restore(&self.snapshot);
        disk
    }

    fn write() -> Self {
        let disk = SimDisk::new(2026);
        let mut node = Node::open(&disk, false).expect("a new log opens");
        let raw = node.topic("raw", 2, Retention::Keep);
        let keys = node.topic("_keys", 1, Retention::Compact)[0];
        let gone = node.topic("gone", 1, Retention::Keep)[0];
        node.append(gone, Record::opaque(DELETED));
        let name = TopicName::new("gone").expect("a topic's name");
        let log = Arc::clone(&node.log);
        node.wait(log.delete_topic(&name)).expect("it is there");
        for number in 0..3 {
            node.append(raw[number % 2], Record::opaque(&[b'a'; 20][..number * 9]));
            node.set(keys, b"colour", Some(&[b'0'; 4][..=number]));
        }
        node.set(keys, b"colour", None);
        node.produce(raw[1], 0);
        node.derive(raw[1], 0..40);
        // On into a second segment. All but the last of what fills the first is trimmed, since
        // reading it costs time and tells nothing.
        for _ in 0..5 {
            node.append(raw[0], Record::opaque(&[b'b'; 480 << 10]));
        }
        node.wait(log.trim(raw[0], Offset(6))).expect("it is there");
        node.append(raw[0], Record::opaque(b"behind it"));
        drop(log);
        disk.crash(Crash::Kill);
        drop(node);
        let disk = disk.reboot();
        let mut node = Node::open(&disk, false).expect("it opens again");
        node.append(raw[0], Record::opaque(b"of the second run"));
        node.produce(raw[1], 3);
        node.derive(raw[1], 40..41);
        let contents = node.contents();
        node.stop();
        let disk = disk.reboot();
        Self::of(&disk, contents)
    }

    fn of(disk: &SimDisk, contents: Contents) -> Self {
        let folder = disk.journal_folder().expect("it lists");
        let slots: Vec<_> = folder.slots.iter().map(|(slot, _)| *slot).collect();
        let (mut pages, mut commits) = (Vec::new(), Vec::new());
        for slot in &slots {
            for at in (0..SLOT_BYTES).step_by(PAGE_BYTES) {
                let page = disk.peek(*slot, at, PAGE_BYTES);
                if page.starts_with(b"TLC\x01") {
                    commits.push((*slot, at));
                }
                // Of the large commits two pages are as good as all.
                let is_filler = page.iter().all(|byte| *byte == b'b') && pages.len() % 7 != 0;
                if page.iter().any(|byte| *byte != 0) && !is_filler {
                    pages.push((*slot, at));
                }
            }
        }
        Self { snapshot: disk.snapshot(), contents, deleted: DELETED, pages, commits, slots }
    }
}

/// An open log, and what drives it: nothing happens but when it is told to.
pub struct Node {
    log: Arc<Engine>,
    stepper: Stepper,
    disk: SimDisk,
}

impl Node {
    /// Opens the log on `disk`, or makes one.
    ///
    /// # Errors
    /// The engine's.
    pub fn open(disk: &SimDisk, accept_loss: bool) -> Result<Self, OpenError> {
        Self::open_with(disk, &Options { accept_loss, ..options() })
    }

    /// One whose full segments become packs when it is told to, and which stores the events of a topic
    /// once.
    pub(crate) fn open_settling(disk: &SimDisk, topic: &str) -> Self {
        let topic = TopicName::new(topic).expect("a topic's name");
        let dedupe = vec![Dedupe { topic, window: Duration::from_secs(3_600) }];
        let options = Options { hot_bytes: Some(0), dedupe, ..options() };
        Self::open_with(disk, &options).expect("a new log opens")
    }

    fn open_with(disk: &SimDisk, options: &Options) -> Result<Self, OpenError> {
        let (log, stepper) = Engine::open_stepped(Arc::new(disk.clone()), options)?;
        Ok(Self { log: Arc::new(log), stepper, disk: disk.clone() })
    }

    /// Lets all happen that can.
    pub fn settle(&mut self) {
        loop {
            self.stepper.step_journal();
            let kept = self.stepper.run_keeper();
            let wrote = self.disk.step();
            if !kept && !wrote {
                return;
            }
        }
    }

    /// Lets things happen until `future` ends.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        for _ in 0..100 {
            if let Poll::Ready(value) =
                future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                return value;
            }
            self.settle();
            self.disk.advance(Duration::from_millis(2));
        }
        panic!("nobody answers");
    }

    /// Appends one item, and waits for its ack.
    ///
    /// # Errors
    /// The log's.
    pub fn try_append(&mut self, item: Item<'_>) -> Result<Stored, AppendError> {
        let log = Arc::clone(&self.log);
        let epoch = self.wait(log.open(Domain::WHOLE))?;
        let permit = log.reserve(Lane::FIRST_SOURCE, 1 << 20).expect("nobody else has any");
        let items = [item];
        self.wait(log.append(permit, epoch, Append { conditions: &[], items: &items }))
    }

    pub(crate) fn append(&mut self, partition: PartitionId, record: Record<'_>) {
        self.try_append(Item::Record { partition, record }).expect("it is stored");
    }

    pub(crate) fn set(&mut self, partition: PartitionId, key: &[u8], value: Option<&[u8]>) {
        let mut buffer = Vec::new();
        let record = KeyValue { key, value }.encode(&mut buffer);
        self.append(partition, record);
    }

    fn produce(&mut self, partition: PartitionId, sequence: u64) {
        let builder = BatchBuilder::new(PayloadKind::Opaque);
        let by = builder.produced_by(ProducerId(7), ProducerEpoch(1), Sequence(sequence));
        self.append_three(partition, by);
    }

    /// The batch says where its producer's next one begins: the count does not tell.
    fn derive(&mut self, partition: PartitionId, stretch: Range<u64>) {
        let builder = BatchBuilder::new(PayloadKind::Opaque);
        let stretch = Sequence(stretch.start)..Sequence(stretch.end);
        self.append_three(partition, builder.derived_by(ProducerId(8), ProducerEpoch(1), stretch));
    }

    fn append_three(&mut self, partition: PartitionId, mut batch: BatchBuilder) {
        for text in ["one", "", "three, which is longer"] {
            batch.push(Record::opaque(text.as_bytes()));
        }
        let batch = batch.finish();
        self.try_append(Item::Batch { partition, batch: &batch }).expect("it is stored");
    }

    /// Trims a partition.
    pub(crate) fn trim(&mut self, partition: PartitionId, to: Offset) {
        let log = Arc::clone(&self.log);
        self.wait(log.trim(partition, to)).expect("it is there");
    }

    /// Lets all full segments become packs.
    pub(crate) fn settle_segments(&mut self) {
        while self.stepper.run_settler() {
            self.settle();
        }
    }

    pub(crate) fn topic(
        &mut self,
        name: &str,
        partitions: u32,
        retention: Retention,
    ) -> Vec<PartitionId> {
        let name = TopicName::new(name).expect("a topic's name");
        let log = Arc::clone(&self.log);
        let made = self.wait(log.create_topic(TopicSpec { name, partitions, retention }));
        made.expect("it is made").partitions().collect()
    }

    /// All that can be read.
    ///
    /// # Panics
    /// When a read fails, stands still, or gives an offset twice or beyond the end.
    #[must_use]
    pub fn contents(&self) -> Contents {
        self.read(false)
    }

    /// The same of a log with forged directories, by whose counts it ends before its batches do.
    ///
    /// # Panics
    /// As [`contents`](Self::contents), but for what lies beyond the end.
    #[must_use]
    pub fn contents_of_forged(&self) -> Contents {
        self.read(true)
    }

    fn read(&self, is_forged: bool) -> Contents {
        let topics = self.log.topics();
        let partitions = topics.iter().flat_map(|topic| topic.partitions().take(64));
        partitions.map(|partition| (partition, self.share(partition, is_forged))).collect()
    }

    fn share(&self, partition: PartitionId, is_forged: bool) -> Share {
        let extent = self.log.extent(partition).expect("the topic is listed");
        let mut share = Share { extent, records: BTreeMap::new(), damage: Vec::new() };
        let mut next = extent.start;
        while next < extent.end {
            let fetch = Fetch {
                from: vec![(partition, next)],
                bytes_max: 4 << 20,
                wait: false,
                mode: FetchMode::Replay,
            };
            let mut fetched = pin!(self.log.fetch(fetch));
            let Poll::Ready(fetched) =
                fetched.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            else {
                panic!("whoever asks reads himself")
            };
            let mut fetched = match fetched {
                Ok(fetched) => fetched,
                // A whole file is gone, and may be put back: nothing is passed over meanwhile.
                Err(FetchError::Io { .. }) if self.lacks_a_slot() => {
                    share.damage.push(next..extent.end);
                    return share;
                }
                Err(error) => panic!("what is damaged is passed over: {error}"),
            };
            let part = fetched.partitions.pop().expect("one partition was asked for");
            assert!(part.next > next, "a read of {partition} at {next} comes forward");
            for (offset, record) in part.batches.iter().flat_map(|batch| batch.records()) {
                if offset < extent.start || is_forged && offset >= extent.end {
                    continue;
                }
                assert!(offset < extent.end, "{offset} is behind the end");
                let before = share.records.insert(offset, record.bytes().to_vec());
                assert_eq!(before, None, "offset {offset} is read twice");
            }
            share.damage.extend(part.damage.iter().map(|damage| damage.from..damage.to));
            next = part.next;
        }
        share
    }

    /// Whether one of the sample's slots is gone, or the opening told of one that is, which a forged
    /// file may name: what lies in it is neither read nor passed over.
    ///
    /// # Panics
    /// When the folder cannot be listed.
    #[must_use]
    pub fn lacks_a_slot(&self) -> bool {
        let folder = self.disk.journal_folder().expect("it lists");
        let is_gone = |slot: &SlotId| !folder.slots.iter().any(|(there, _)| there == slot);
        let mut notes = self.log.report().notes.iter();
        let is_told = notes.any(|note| matches!(note, Note::SlotGone { .. }));
        is_told || Sample::the().slots.iter().any(is_gone)
    }

    /// Stops in good order; the disk goes on with its next process.
    pub fn stop(mut self) {
        self.log.close();
        while self.stepper.step_journal() {
            self.disk.step();
        }
    }
}

fn options() -> Options {
    Options {
        slot_bytes: Some(SLOT_BYTES),
        replay_threads: 0,
        journal_bytes_max: Some(16 * SLOT_BYTES),
        ..Options::default()
    }
}

/// Makes the checksum of a slot's header good.
pub fn seal_slot(disk: &SimDisk, slot: SlotId) {
    let page = disk.peek(slot, 0, PAGE_BYTES);
    let crc = crc32fast::hash(&page[..PAGE_BYTES - 4]);
    disk.corrupt(slot, PAGE_BYTES as u64 - 4, &crc.to_le_bytes());
}

/// Makes the checksums of the commit at `at` good: of its directory or body, and of its header.
pub fn seal_commit(disk: &SimDisk, slot: SlotId, at: u64) {
    let header = disk.peek(slot, at, HEADER_BYTES);
    let length = u32_at(&header, 72) as usize;
    let left = usize::try_from(SLOT_BYTES - at).expect("a slot is small") - HEADER_BYTES;
    let body = disk.peek(slot, at + HEADER_BYTES as u64, length.min(left));
    disk.corrupt(slot, at + 76, &crc32fast::hash(&body).to_le_bytes());
    seal_header(disk, slot, at);
}

/// The head of the commit at `at`: its header, and what that says lies before the batches.
#[must_use]
pub fn head_of(disk: &SimDisk, slot: SlotId, at: u64) -> Vec<u8> {
    let header = disk.peek(slot, at, HEADER_BYTES);
    disk.peek(slot, at, HEADER_BYTES + u32_at(&header, 72) as usize)
}

/// Makes the checksums of a commit's head good: of what lies behind its header, which is said to
/// end where the bytes do, and of the header. `false`: they are too few for a header.
pub fn seal_head(commit: &mut [u8]) -> bool {
    let Some((header, body)) = commit.split_at_mut_checked(HEADER_BYTES) else { return false };
    let length = u32::try_from(body.len()).expect("an input is small");
    header[72..76].copy_from_slice(&length.to_le_bytes());
    header[76..80].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    let crc = crc32fast::hash(&header[..HEADER_BYTES - 4]);
    header[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
    true
}

/// Makes the checksum of the fixed header at `at` good.
pub fn seal_header(disk: &SimDisk, slot: SlotId, at: u64) {
    let header = disk.peek(slot, at, HEADER_BYTES);
    let crc = crc32fast::hash(&header[..HEADER_BYTES - 4]);
    disk.corrupt(slot, at + HEADER_BYTES as u64 - 4, &crc.to_le_bytes());
}

/// Makes each of these commits, all of one slot, name the one before.
pub fn chain(disk: &SimDisk, commits: &[(SlotId, u64)]) {
    for pair in commits.windows(2) {
        let [(slot, before), (_, at)] = *pair else { continue };
        let hash = xxh3_64(&disk.peek(slot, before, HEADER_BYTES));
        disk.corrupt(slot, at + 48, &hash.to_le_bytes());
        seal_header(disk, slot, at);
    }
}

/// Makes the checksums of a checkpoint's sections good, as far as there are sections.
pub fn seal_checkpoint(file: &mut [u8]) {
    let mut at = CHECKPOINT_HEAD_BYTES;
    while let Some(head) = file.get(at..at + CHECKPOINT_HEAD_BYTES) {
        let body = at + CHECKPOINT_HEAD_BYTES;
        let Some(bytes) = file.get(body..body + u32_at(head, 4) as usize) else { return };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[..8]);
        crc.update(bytes);
        let end = body + bytes.len();
        file[at + 8..at + 12].copy_from_slice(&crc.finalize().to_le_bytes());
        at = end;
    }
}

/// The sample's two checkpoints.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn checkpoints() -> [Vec<u8>; 2] {
    let disk = Sample::the().machine();
    [FileName::CheckpointA, FileName::CheckpointB]
        .map(|name| disk.read_file(&name).expect("a stopped log has both"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
