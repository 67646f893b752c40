//! What the twin offers beyond the trait.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};

use tracklog_log::conformance::block_on;
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::producers::SILENCE_MAX;
use tracklog_log::{
    Append, AppendError, Condition, Domain, Epoch, Fetch, FetchMode, Item, Lane, Log, Ticket,
    TimeKind,
};
use tracklog_protocol::batch::BatchBuilder;
use tracklog_protocol::{
    Offset, PayloadKind, ProducerEpoch, ProducerId, Record, Sequence, TimeMicros, VerifiedBatch,
};

use crate::{Fixture, memory_log};

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn unknown(why: &str) -> AppendError {
    AppendError::Unknown { why: why.into() }
}

#[test]
fn held_appends_are_neither_readable_nor_acked_until_released() {
    let fixture = Fixture::new();
    fixture.log.hold();
    let mut tickets = [fixture.submit(&[], "a"), fixture.submit(&[], "b")];
    assert!(tickets.iter_mut().all(|ticket| poll(ticket).is_pending()));
    assert_eq!(fixture.end(), Offset(0));
    let from = vec![(fixture.partition(), Offset(0))];
    let fetch = Fetch { from, bytes_max: 1 << 20, wait: true, mode: FetchMode::Live };
    let mut reading = fixture.log.fetch(fetch);
    assert!(poll(&mut reading).is_pending());

    fixture.log.release();
    let offsets = tickets.map(|ticket| block_on(ticket).unwrap().offset(0));
    assert_eq!(offsets, [Offset(0), Offset(1)]);
    assert_eq!(block_on(reading).unwrap().partitions[0].next, Offset(2));
    assert_eq!(fixture.append("c"), Ok(Offset(2)), "later appends are told at once");
}

#[test]
fn conditions_see_held_appends() {
    let fixture = Fixture::new();
    fixture.log.hold();
    let next =
        |next| [Condition::NextOffset { partition: fixture.partition(), next: Offset(next) }];
    let tickets = [0, 1, 1].map(|it| fixture.submit(&next(it), "x"));
    fixture.log.release();
    let outcomes = tickets.map(|ticket| block_on(ticket).map(|stored| stored.offset(0)));
    let failed = AppendError::ConditionFailed { index: 0 };
    assert_eq!(outcomes, [Ok(Offset(0)), Ok(Offset(1)), Err(failed)]);
}

#[test]
fn held_appends_hold_their_permits() {
    let fixture = Fixture::new();
    fixture.log.hold();
    let permit = fixture.log.reserve(Lane::STAGES, 32 << 20).unwrap();
    let ticket = fixture.log.append(permit, fixture.epoch, Append { conditions: &[], items: &[] });
    assert!(fixture.log.reserve(Lane::STAGES, 1).is_err());
    fixture.log.release();
    block_on(ticket).unwrap();
    assert!(fixture.log.reserve(Lane::STAGES, 32 << 20).is_ok());
}

#[test]
fn lost_appends_are_unknown_and_gone_and_the_log_is_closed_until_opened() {
    let mut fixture = Fixture::new();
    fixture.append("kept").unwrap();
    fixture.log.hold();
    let ticket = fixture.submit(&[], "lost");
    fixture.log.lose_held("the disk failed");
    assert_eq!(block_on(ticket).unwrap_err(), unknown("the disk failed"));
    let closed = AppendError::Closed { why: "the disk failed".into() };
    assert_eq!(fixture.append("refused"), Err(closed));
    assert_eq!(fixture.end(), Offset(1));
    fixture.epoch = block_on(fixture.log.open(Domain::WHOLE)).unwrap();
    assert_eq!(fixture.append("again"), Ok(Offset(1)), "what nobody ever read has no offset");
}

#[test]
fn a_lost_ack_is_unknown_and_stored() {
    let fixture = Fixture::new();
    fixture.log.lose_next_ack("the node died");
    let never = [Condition::NextOffset { partition: fixture.partition(), next: Offset(9) }];
    let refused = block_on(fixture.submit(&never, "x")).unwrap_err();
    assert_eq!(refused, AppendError::ConditionFailed { index: 0 }, "it had no ack to lose");
    assert_eq!(fixture.append("stored"), Err(unknown("the node died")));
    assert_eq!(fixture.end(), Offset(1));
    assert_eq!(fixture.append("next"), Ok(Offset(1)));
}

#[test]
fn a_failed_append_stores_nothing_and_failures_add_up() {
    let fixture = Fixture::new();
    let full = AppendError::Full { why: "no room".into() };
    fixture.log.fail_next(full.clone());
    fixture.log.fail_next(unknown("who knows"));
    assert_eq!(fixture.append("a"), Err(full));
    assert_eq!(fixture.append("b"), Err(unknown("who knows")));
    assert_eq!(fixture.append("c"), Ok(Offset(0)));
}

#[test]
fn append_times_rise_strictly_whatever_the_clock_does() {
    let now = Arc::new(AtomicI64::new(0));
    let clock = {
        let now = Arc::clone(&now);
        Arc::new(move || TimeMicros(now.load(Ordering::Relaxed)))
    };
    let fixture = Fixture::over(MemoryLog::new(MemoryOptions { clock, budget_bytes: 1 << 20 }));
    for time in [-50, 1_000, 1_000, 10, 2_000] {
        now.store(time, Ordering::Relaxed);
        fixture.append("x").unwrap();
    }
    let at = |time| {
        block_on(fixture.log.offset_at(fixture.partition(), TimeKind::Append, TimeMicros(time)))
    };
    let found = [-50, -49, 1_000, 1_001, 1_002, 1_003, 2_001].map(at);
    assert_eq!(found, [0, 1, 1, 2, 3, 4, 5].map(|offset| Ok(Offset(offset))));
}

fn batch_of(producer: u64, sequence: u64) -> VerifiedBatch {
    let (id, sequence) = (ProducerId(producer), Sequence(sequence));
    let builder = BatchBuilder::new(PayloadKind::Opaque);
    let mut builder = builder.produced_by(id, ProducerEpoch(0), sequence);
    builder.push(Record::opaque(b"x"));
    builder.finish()
}

fn submit_batch(fixture: &Fixture, batch: &VerifiedBatch) -> Ticket {
    let permit = fixture.log.reserve(Lane::STAGES, 100).unwrap();
    let items = [Item::Batch { partition: fixture.partition(), batch }];
    fixture.log.append(permit, fixture.epoch, Append { conditions: &[], items: &items })
}

#[test]
fn a_duplicate_of_a_held_append_shares_its_fate() {
    let mut fixture = Fixture::new();
    let batch = batch_of(7, 0);
    for lost in [true, false] {
        fixture.log.hold();
        let mut tickets = [submit_batch(&fixture, &batch), submit_batch(&fixture, &batch)];
        assert!(tickets.iter_mut().all(|ticket| poll(ticket).is_pending()));
        if lost {
            fixture.log.lose_held("the disk is gone");
            for ticket in tickets {
                assert_eq!(block_on(ticket).unwrap_err(), unknown("the disk is gone"));
            }
            fixture.epoch = block_on(fixture.log.open(Domain::WHOLE)).unwrap();
        } else {
            fixture.log.release();
            let told = tickets.map(|ticket| block_on(ticket).unwrap());
            let told = told.map(|stored| (stored.offset(0), stored.is_duplicate()));
            assert_eq!(told, [(Offset(0), false), (Offset(0), true)]);
        }
    }
    assert_eq!(fixture.end(), Offset(1));
}

#[test]
fn what_is_stored_and_not_told_is_a_duplicate_when_it_is_sent_again() {
    let fixture = Fixture::new();
    fixture.log.lose_next_ack("the answer was lost");
    let batch = batch_of(7, 0);
    let lost = block_on(submit_batch(&fixture, &batch)).unwrap_err();
    assert_eq!(lost, unknown("the answer was lost"));
    let again = block_on(submit_batch(&fixture, &batch)).unwrap();
    assert_eq!((again.offset(0), again.is_duplicate()), (Offset(0), true));
}

#[test]
fn a_producer_that_is_silent_for_too_long_is_forgotten() {
    let now = Arc::new(AtomicI64::new(0));
    let clock = {
        let now = Arc::clone(&now);
        Arc::new(move || TimeMicros(now.load(Ordering::Relaxed)))
    };
    let fixture = Fixture::over(MemoryLog::new(MemoryOptions { clock, budget_bytes: 1 << 20 }));
    let send = |producer, sequence, time: i64| {
        now.store(time, Ordering::Relaxed);
        let stored = block_on(submit_batch(&fixture, &batch_of(producer, sequence)));
        stored.map(|stored| (stored.offset(0).0, stored.is_duplicate()))
    };
    let silence = SILENCE_MAX.as_micros() as i64;
    assert_eq!(send(7, 0, 0), Ok((0, false)));
    assert_eq!(send(7, 0, silence), Ok((0, true)), "to be sent again is not to write");
    let forgotten = AppendError::OutOfSequence { item: 0, expected: Sequence(0) };
    assert_eq!(send(7, 1, silence + 1), Err(forgotten));
    assert_eq!(send(7, 0, silence + 1), Ok((1, false)));
    assert_eq!(send(7, 1, silence + 2), Ok((2, false)));
}

#[test]
fn a_log_that_nobody_opened_takes_nothing() {
    let log = memory_log();
    let permit = log.reserve(Lane::STAGES, 1).unwrap();
    let append = Append { conditions: &[], items: &[] };
    let refused = block_on(log.append(permit, Epoch(0), append)).unwrap_err();
    assert!(matches!(refused, AppendError::Closed { .. }));
    assert!(block_on(log.open(Domain(1))).is_err(), "it is one domain");
}

#[test]
fn a_dropped_log_tells_those_who_wait() {
    let fixture = Fixture::new();
    fixture.log.hold();
    let ticket = fixture.submit(&[], "x");
    drop(fixture);
    assert!(matches!(block_on(ticket), Err(AppendError::Unknown { .. })));
}
