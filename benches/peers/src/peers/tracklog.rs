//! Tracklog's engine, opened as a server opens it but for smaller slots, and a bound.
//!
//! Durability: an append's ticket resolves when the commit that holds it was written with
//! `O_DIRECT` and data-sync (`RWF_DSYNC` or a descriptor opened with `O_DSYNC`; `strace` shows
//! which). Commits gather what waits: group commit, several in flight.
//!
//! Its slots have been written before it is measured, as those of a log that has run for a while.
//! A producer is a thread that waits for each append, and makes the write itself where nobody else does.

use std::sync::Arc;

use tokio::runtime::Runtime;
use tracklog_benches::scratch::{ScratchLog, Shape};
use tracklog_benches::workload::{self, Target};
use tracklog_engine::BackendChoice;
use tracklog_log::{Append, Fetch, FetchMode, Item, Lane, Log as _};
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::{Offset, PartitionId, PayloadKind, Record};

use super::{Batch, Failure, Kind, Opened, PARTITIONS, Peer, Purpose, RECORD_BYTES, Seen};

pub(super) const KIND: Kind = Kind {
    name: "Tracklog",
    version: env!("CARGO_PKG_VERSION"),
    licence: "Apache-2.0",
    partitioned: true,
    readable: true,
    open: |folder, purpose, partitions| {
        let runtime = workload::runtime();
        let shape = shape(purpose);
        let log = ScratchLog::open(folder, &shape, &runtime).ok_or("any backend will do")?;
        if purpose == Purpose::Append {
            let target = Target {
                engine: log.engine.clone(),
                epoch: log.epoch,
                partitions: log.topic("earlier", PARTITIONS, &runtime),
            };
            workload::fill_once(&target, &shape, &runtime);
        }
        let partitions = log.topic(TOPIC, partitions, &runtime);
        Ok(Box::new(Tracklog { log, partitions, runtime }))
    },
};

const TOPIC: &str = "records";
const FETCH_BYTES: usize = 8 << 20;
/// More than a record takes in a batch, and than a batch takes beside its records.
const OVERHEAD_BYTES: usize = 128;

struct Tracklog {
    log: ScratchLog,
    partitions: Arc<[PartitionId]>,
    runtime: Runtime,
}

const fn shape(purpose: Purpose) -> Shape {
    let server = Shape::of_server(BackendChoice::Auto);
    Shape { slot_bytes: 64 << 20, bounded: matches!(purpose, Purpose::Append), ..server }
}

impl Peer for Tracklog {
    fn append(&self, batch: Batch<'_>) -> Result<(), Failure> {
        let partition = self.partitions[batch.partition as usize];
        // Sixteen lanes: no lane may hold more than half of the budget.
        let lane = Lane(Lane::FIRST_SOURCE.0 + u8::try_from(batch.partition % 16)?);
        let append = |bytes, item| {
            let permit = self.log.engine.reserve(lane, bytes)?;
            let append = Append { conditions: &[], items: &[item] };
            self.log.engine.append_blocking(permit, self.log.epoch, append)?;
            Ok(())
        };
        if let [record] = batch.records {
            let record = Record::opaque(record);
            return append(RECORD_BYTES + OVERHEAD_BYTES, Item::Record { partition, record });
        }
        let mut builder = BatchBuilder::new(PayloadKind::Opaque);
        batch.records.iter().for_each(|record| builder.push(Record::opaque(record)));
        let batch = builder.finish();
        append(batch.view().bytes().len(), Item::Batch { partition, batch: &batch })
    }

    fn reopen(self: Box<Self>) -> Opened {
        let Self { log, partitions, runtime } = *self;
        let log = log.reopen(&shape(Purpose::Replay), &runtime);
        Ok(Box::new(Self { log, partitions, runtime }))
    }

    fn replay(&mut self) -> Result<Seen, Failure> {
        let mut from: Vec<_> = self.partitions.iter().map(|id| (*id, Offset::ZERO)).collect();
        let mut seen = Seen::default();
        while !from.is_empty() {
            let fetch =
                Fetch { from, bytes_max: FETCH_BYTES, wait: false, mode: FetchMode::Replay };
            let fetched = self.runtime.block_on(self.log.engine.fetch(fetch))?;
            from = Vec::new();
            for found in fetched.partitions {
                let records = found.batches.iter().flat_map(|batch| batch.records());
                records.for_each(|(_, record)| seen.see(record.bytes()));
                if found.next < found.extent.end {
                    from.push((found.partition, found.next));
                }
            }
        }
        Ok(seen)
    }
}
