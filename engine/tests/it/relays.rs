//! Callers that are woken through relays.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;
use tracklog_engine::Engine;
use tracklog_log::{Append, Domain, Epoch, Item, Lane, Log, Retention};
use tracklog_protocol::{Offset, PartitionId, Record};

use crate::rig::{Machine, topic};

/// More than one relay's share in a commit, and several commits each.
const CALLERS: usize = 200;
const APPENDS: usize = 20;

async fn call(engine: Arc<Engine>, epoch: Epoch, partition: PartitionId) -> Vec<Offset> {
    let mut offsets = Vec::new();
    for _ in 0..APPENDS {
        let permit = engine.reserve(Lane::INTERNAL, 64).expect("the budget is far larger");
        let items = [Item::Record { partition, record: Record::opaque(b"record") }];
        let ticket = engine.append(permit, epoch, Append { conditions: &[], items: &items });
        offsets.push(ticket.await.expect("the disk is a good one").offset(0));
    }
    offsets
}

#[test]
fn every_caller_is_woken_through_relays_which_end_when_the_log_is_closed() {
    let machine = Machine::new(31);
    let engine = machine.shared();
    let partition = topic(&*engine, "events", 1, Retention::Keep)[0];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
    runtime.expect("two threads can be had").block_on(async {
        let mut relays: JoinSet<()> = [engine.relay(), engine.relay()].into_iter().collect();
        let epoch = engine.open(Domain::WHOLE).await.expect("it is open");
        let callers = (0..CALLERS).map(|_| call(Arc::clone(&engine), epoch, partition));
        let answered = callers.collect::<JoinSet<_>>().join_all().await;
        let offsets: BTreeSet<Offset> = answered.into_iter().flatten().collect();
        assert_eq!(offsets.len(), CALLERS * APPENDS, "each has its own");
        assert!(relays.try_join_next().is_none(), "they go on while the log is open");
        tokio::task::block_in_place(|| engine.close());
        relays.join_all().await;
    });
}
