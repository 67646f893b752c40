//! The seam as others see it: the twin passes the suite, the suite notices defects, and the
//! key-value store stands whatever the log below it does.

#![allow(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod meta;
mod suite;
mod twin;

use std::sync::Arc;

use tracklog_log::conformance::{block_on, deduplicated};
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::{
    Append, AppendError, Condition, Domain, Epoch, Item, Lane, Log, Retention, Ticket, Topic,
    TopicName, TopicSpec,
};
use tracklog_protocol::{Offset, PartitionId, Record, TimeMicros};

/// A twin whose clock stands still.
fn memory_log() -> MemoryLog {
    let clock = Arc::new(|| TimeMicros(1_000));
    let options = MemoryOptions { clock, budget_bytes: 64 << 20 };
    MemoryLog::new(options).deduplicating(&deduplicated())
}

/// A twin, opened, with a topic of two partitions.
struct Fixture {
    log: Arc<MemoryLog>,
    epoch: Epoch,
    topic: Topic,
}

impl Fixture {
    fn new() -> Self {
        Self::over(memory_log())
    }

    fn over(log: MemoryLog) -> Self {
        let epoch = block_on(log.open(Domain::WHOLE)).unwrap();
        let name = TopicName::new("events").unwrap();
        let spec = TopicSpec { name, partitions: 2, retention: Retention::Keep };
        let topic = block_on(log.create_topic(spec)).unwrap();
        Self { log: Arc::new(log), epoch, topic }
    }

    fn partition(&self) -> PartitionId {
        self.topic.partition(0)
    }

    fn end(&self) -> Offset {
        self.log.extent(self.partition()).unwrap().end
    }

    fn submit(&self, conditions: &[Condition], text: &str) -> Ticket {
        let permit = self.log.reserve(Lane::STAGES, text.len()).unwrap();
        let record = Record::opaque(text.as_bytes());
        let items = [Item::Record { partition: self.partition(), record }];
        self.log.append(permit, self.epoch, Append { conditions, items: &items })
    }

    fn append(&self, text: &str) -> Result<Offset, AppendError> {
        block_on(self.submit(&[], text)).map(|stored| stored.offset(0))
    }
}
