//! The intake's budget: `Busy` takes nothing, no lane starves the others, acks give back.

use tracklog_protocol::Record;

use super::rig::Rig;
use super::task::block_on;
use crate::{Append, Epoch, Item, Lane};

super::list_cases!(
    no_lane_takes_more_than_half_of_the_budget,
    a_full_budget_is_busy_until_a_permit_is_dropped,
    an_append_gives_its_permit_back,
);

/// Asks for what cannot be had, to be told what there is.
fn budget_bytes(rig: &Rig<'_>) -> usize {
    let busy = rig.log.reserve(Lane(200), usize::MAX).expect_err("no budget is so large");
    assert!(busy.budget_bytes >= 32 << 20, "the suite asks for 32 MiB or more");
    busy.budget_bytes
}

fn no_lane_takes_more_than_half_of_the_budget(rig: &mut Rig<'_>) {
    let half = budget_bytes(rig) / 2;
    let source = Lane::FIRST_SOURCE;
    rig.log.reserve(source, half + 1).expect_err("that is more than half");
    let first = rig.log.reserve(source, half - 10).expect("that is less than half");
    assert_eq!(first.bytes(), half - 10);
    rig.log.reserve(source, 11).expect_err("together that is more than half");
    let rest = rig.log.reserve(source, 10).expect("together that is half");
    let other = rig.log.reserve(Lane(9), 10).expect("one lane leaves room for the others");
    drop((first, rest, other));
    drop(rig.log.reserve(source, half).expect("all was given back"));
}

fn a_full_budget_is_busy_until_a_permit_is_dropped(rig: &mut Rig<'_>) {
    let budget = budget_bytes(rig);
    let half = budget / 2;
    let mut first = rig.log.reserve(Lane(9), half).expect("half is allowed");
    let second = rig.log.reserve(Lane(10), half).expect("another lane has its own half");
    let busy = rig.log.reserve(Lane(11), 2).expect_err("the whole is used up");
    assert_eq!((busy.reserved_bytes, busy.budget_bytes), (2 * half, budget));
    assert!(!busy.retry_after.is_zero(), "a caller is told when to try again");
    first.shrink_to(half - 2);
    drop(rig.log.reserve(Lane(11), 2).expect("a smaller permit gives back the rest"));
    drop((first, second));
}

fn an_append_gives_its_permit_back(rig: &mut Rig<'_>) {
    let partition = rig.partition("permits");
    let half = budget_bytes(rig) / 2;
    let items = [Item::Record { partition, record: Record::opaque(b"x") }];
    let append = Append { conditions: &[], items: &items };
    for lane in [Lane::FIRST_SOURCE, Lane::STAGES, Lane::REPLAY, Lane::INTERNAL] {
        let permit = rig.log.reserve(lane, half).expect("the lane is free");
        block_on(rig.log.append(permit, rig.epoch, append)).expect("it is stored");
        // Not promised to the instant: it may follow the ack, by another append at the latest.
        let permit = rig.log.reserve(Lane(200), 1).expect("other lanes are free");
        block_on(rig.log.append(permit, rig.epoch, append)).expect("it is stored");
        drop(rig.log.reserve(lane, half).expect("an acked append holds nothing"));
        let permit = rig.log.reserve(lane, half).expect("the lane is free");
        let earlier = Epoch(rig.epoch.0.wrapping_sub(1));
        block_on(rig.log.append(permit, earlier, append)).expect_err("it is fenced");
        let permit = rig.log.reserve(Lane(200), 1).expect("other lanes are free");
        block_on(rig.log.append(permit, rig.epoch, append)).expect("it is stored");
        drop(rig.log.reserve(lane, half).expect("a refused append holds nothing"));
    }
}
