//! What the cases have in hand: an opened log and short ways to use it.

use std::sync::Arc;

use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::event::{EventBuilder, EventParts};
use tracklog_protocol::{
    BatchView, KeyValue, Offset, PartitionId, PayloadKind, Record, TimeMicros, VerifiedBatch,
};

use super::Harness;
use super::task::block_on;
use crate::{
    Append, AppendError, Condition, Domain, Epoch, Extent, Fetch, FetchError, FetchMode, Fetched,
    Item, Lane, Log, Permit, Retention, Ticket, TimeKind, Topic, TopicName, TopicSpec,
};

/// The bytes that reading everything asks for at a time: little, so that it takes several reads.
const READ_BYTES: usize = 4 << 10;

/// An opened log.
pub(super) struct Rig<'h> {
    harness: &'h mut dyn Harness,
    opened: Option<Opened>,
}

/// A handle on the log and the right to write to it.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) log: Arc<dyn Log>,
    pub(super) epoch: Epoch,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) offset: Offset,
    pub(super) append_time: TimeMicros,
    pub(super) content: Content,
}

/// What a record is, whoever holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) kind: PayloadKind,
    pub(super) bytes: Vec<u8>,
}

impl<'h> Rig<'h> {
    pub(super) fn new(harness: &'h mut dyn Harness) -> Self {
        let opened = Some(Opened::of(harness.log()));
        Self { harness, opened }
    }

    /// Closes the log, opens it again, and becomes its writer.
    pub(super) fn reopen(&mut self) {
        let before = self.epoch();
        self.opened = None;
        self.harness.reopen();
        self.opened = Some(Opened::of(self.harness.log()));
        assert!(self.epoch() > before, "a later opening fences all earlier ones");
    }

    /// Becomes the writer once more, of the log as it stands.
    pub(super) fn open_again(&mut self) {
        self.opened = Some(Opened::of(Arc::clone(&self.log)));
    }
}

impl std::ops::Deref for Rig<'_> {
    type Target = Opened;

    fn deref(&self) -> &Opened {
        self.opened.as_ref().expect("the log is open but while it is reopened")
    }
}

impl Opened {
    pub(super) fn of(log: Arc<dyn Log>) -> Self {
        let epoch = block_on(log.open(Domain::WHOLE)).expect("the log opens");
        Self { log, epoch }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// A topic whose records are kept.
    pub(super) fn topic(&self, name: &str, partitions: u32) -> Topic {
        block_on(self.log.create_topic(spec(name, partitions, Retention::Keep)))
            .expect("the topic is made")
    }

    /// The one partition of a new topic.
    pub(super) fn partition(&self, name: &str) -> PartitionId {
        self.topic(name, 1).partition(0)
    }

    /// The one partition of a new compacted topic.
    pub(super) fn compacted(&self, name: &str) -> PartitionId {
        block_on(self.log.create_topic(spec(name, 1, Retention::Compact)))
            .expect("the topic is made")
            .partition(0)
    }

    /// Room for an append of these items.
    fn permit(&self, items: &[Item<'_>]) -> Permit {
        let bytes = items.iter().map(item_bytes).sum::<usize>() + 4096;
        self.log.reserve(Lane::FIRST_SOURCE, bytes).expect("the budget has room for a small case")
    }

    /// Puts an append in line.
    pub(super) fn submit(&self, conditions: &[Condition], items: &[Item<'_>]) -> Ticket {
        self.log.append(self.permit(items), self.epoch, Append { conditions, items })
    }

    /// Appends and waits; returns the offset of each item.
    pub(super) fn append(
        &self,
        conditions: &[Condition],
        items: &[Item<'_>],
    ) -> Result<Vec<Offset>, AppendError> {
        let stored = block_on(self.submit(conditions, items))?;
        Ok((0..items.len()).map(|item| stored.offset(item)).collect())
    }

    /// Appends one opaque record and waits.
    pub(super) fn append_text(&self, partition: PartitionId, text: &str) -> Offset {
        self.append(&[], &[text_item(partition, text)]).expect("it is stored")[0]
    }

    /// As [`append_text`](Self::append_text), by the call that blocks.
    pub(super) fn append_text_blocking(&self, partition: PartitionId, text: &str) -> Offset {
        let items = [text_item(partition, text)];
        let append = Append { conditions: &[], items: &items };
        let stored = self.log.append_blocking(self.permit(&items), self.epoch, append);
        stored.expect("it is stored").offset(0)
    }

    /// Puts `count` opaque records in line, each as an append of its own, and waits for all.
    pub(super) fn append_texts(&self, partition: PartitionId, texts: &[&str]) {
        let submit = |text: &&str| self.submit(&[], &[text_item(partition, text)]);
        let tickets: Vec<Ticket> = texts.iter().map(submit).collect();
        for ticket in tickets {
            block_on(ticket).expect("it is stored");
        }
    }

    /// Writes a key, or deletes it, under conditions.
    pub(super) fn set(
        &self,
        partition: PartitionId,
        key: &str,
        value: Option<&str>,
        conditions: &[Condition],
    ) -> Result<Offset, AppendError> {
        let mut buffer = Vec::new();
        let record = key_value(key, value).encode(&mut buffer);
        Ok(self.append(conditions, &[Item::Record { partition, record }])?[0])
    }

    pub(super) fn extent(&self, partition: PartitionId) -> Extent {
        self.log.extent(partition).expect("the partition is there")
    }

    pub(super) fn end(&self, partition: PartitionId) -> Offset {
        self.extent(partition).end
    }

    /// Reads without waiting.
    pub(super) fn fetch(
        &self,
        from: &[(PartitionId, Offset)],
        bytes_max: usize,
    ) -> Result<Fetched, FetchError> {
        block_on(self.log.fetch(fetch(from, bytes_max, false)))
    }

    /// All records of `partition` from `from` on.
    pub(super) fn read(&self, partition: PartitionId, from: Offset) -> Vec<Found> {
        let end = self.end(partition);
        let (mut found, mut next) = (Vec::new(), from);
        while next < end {
            let mut fetched = self.fetch(&[(partition, next)], READ_BYTES).expect("it is readable");
            let part = fetched.partitions.pop().expect("each partition asked is answered");
            assert!(part.next > next, "a read below the end comes forward");
            found.extend(records(&part.batches).filter(|record| record.offset >= next));
            next = part.next;
        }
        found
    }

    /// All records of `partition`, as texts.
    pub(super) fn texts(&self, partition: PartitionId) -> Vec<String> {
        let found = self.read(partition, self.extent(partition).start);
        found.into_iter().map(|it| text_of(&it.content.bytes)).collect()
    }

    pub(super) fn offset_at(&self, partition: PartitionId, kind: TimeKind, time: i64) -> u64 {
        block_on(self.log.offset_at(partition, kind, TimeMicros(time)))
            .expect("the partition is readable")
            .0
    }

    pub(super) fn trim(&self, partition: PartitionId, before: u64) {
        block_on(self.log.trim(partition, Offset(before))).expect("it is trimmed");
    }
}

pub(super) fn name(text: &str) -> TopicName {
    TopicName::new(text).expect("the suite's names are good")
}

pub(super) fn spec(text: &str, partitions: u32, retention: Retention) -> TopicSpec {
    TopicSpec { name: name(text), partitions, retention }
}

pub(super) fn fetch(from: &[(PartitionId, Offset)], bytes_max: usize, wait: bool) -> Fetch {
    Fetch { from: from.to_vec(), bytes_max, wait, mode: FetchMode::Live }
}

pub(super) fn text_item(partition: PartitionId, text: &str) -> Item<'_> {
    Item::Record { partition, record: Record::opaque(text.as_bytes()) }
}

pub(super) fn key_value<'a>(key: &'a str, value: Option<&'a str>) -> KeyValue<'a> {
    KeyValue { key: key.as_bytes(), value: value.map(str::as_bytes) }
}

/// A batch of opaque records.
pub(super) fn batch_of(texts: &[&str]) -> VerifiedBatch {
    let mut builder = BatchBuilder::new(PayloadKind::Opaque);
    for text in texts {
        builder.push(Record::opaque(text.as_bytes()));
    }
    builder.finish()
}

/// A batch of one event for each time, in this order.
pub(super) fn events_at(times: &[i64]) -> VerifiedBatch {
    let mut builder = BatchBuilder::new(PayloadKind::Event);
    let mut event = EventBuilder::new();
    for (index, time) in times.iter().enumerate() {
        let (message_id, event_time) = (format!("event {index} at {time}"), TimeMicros(*time));
        let parts = EventParts { message_id: &message_id, event_time, ..EventParts::default() };
        builder.push(event.build(&parts));
    }
    builder.finish()
}

/// The only record of a batch of one.
pub(super) fn only_record(batch: &VerifiedBatch) -> Record<'_> {
    assert!(batch.view().count() == 1, "the batch was built of one record");
    let entry = batch.view().entry(0).expect("it has one");
    entry.record().expect("what was just built was not removed")
}

pub(super) fn next_offset(partition: PartitionId, next: u64) -> Condition {
    Condition::NextOffset { partition, next: Offset(next) }
}

pub(super) fn last_of_key(partition: PartitionId, key: &str, last: Option<Offset>) -> Condition {
    Condition::LastOfKey { partition, key: key.into(), last }
}

/// All records of some batches of one partition, in order.
pub(super) fn records(batches: &[BatchView]) -> impl Iterator<Item = Found> + '_ {
    batches.iter().flat_map(|batch| {
        batch.records().map(|(offset, record)| Found {
            offset,
            append_time: batch.append_time(),
            content: Content { kind: record.kind(), bytes: record.bytes().to_vec() },
        })
    })
}

pub(super) fn text_of(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the suite writes text")
}

fn item_bytes(item: &Item<'_>) -> usize {
    match item {
        Item::Record { record, .. } => record.bytes().len(),
        Item::Batch { batch, .. } => batch.view().bytes().len(),
    }
}
