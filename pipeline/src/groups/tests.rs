//! What members and operators of a group can rely on, over a log in memory.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use proptest::prelude::*;
use tokio::sync::watch;
use tracklog_log::conformance::block_on;
use tracklog_log::memory::MemoryLog;
use tracklog_log::{
    Append, AppendError, Condition, Item, Lane, Log as _, Meta as _, Ticket, Topic,
};
use tracklog_protocol::{BatchView, Offset};

use super::*;
use crate::rig::{Rig, group};

fn join(groups: &Arc<Groups<MemoryLog>>, member: &str, topic: &Topic) -> Member<MemoryLog> {
    let topics = vec![topic.clone()];
    block_on(groups.join(&group("g"), member, topics, Start::Earliest)).unwrap()
}

fn claim(member: &Member<MemoryLog>, topic: &Topic, partition: u32) -> Option<Claim> {
    block_on(member.claim(topic.partition(partition))).unwrap()
}

/// Commits `next` under `claim`, as a stage does.
fn commit(rig: &Rig, claim: &mut Claim, next: u64) -> Result<(), AppendError> {
    let stored = block_on(commit_later(rig, claim, next))?;
    claim.committed(Offset(next), stored.offset(0));
    Ok(())
}

/// Puts a commit of `next` in line.
fn commit_later(rig: &Rig, claim: &Claim, next: u64) -> Ticket {
    let mut buffer = Vec::new();
    let record = claim.moved_to(Offset(next), rig.now(), &mut buffer);
    let permit = rig.log.reserve(Lane::STAGES, record.bytes().len()).unwrap();
    let items = [Item::Record { partition: claim.ledger(), record }];
    let append = Append { conditions: &claim.conditions(), items: &items };
    rig.log.append(permit, rig.epoch, append)
}

const REFUSED: Result<(), AppendError> = Err(AppendError::ConditionFailed { index: 0 });

#[test]
fn a_committed_offset_is_found_by_the_next_member_and_after_a_restart() {
    let rig = Rig::new();
    let topic = rig.topic("t", 2);
    let groups = rig.groups();
    let member = join(&groups, "a", &topic);
    let mut first = claim(&member, &topic, 1).unwrap();
    assert_eq!(first.next(), Offset(0));
    commit(&rig, &mut first, 3).unwrap();
    commit(&rig, &mut first, 5).unwrap();
    let generation = first.generation();
    drop((member, groups));

    let groups = rig.groups();
    let member = join(&groups, "b", &topic);
    let again = claim(&member, &topic, 1).unwrap();
    assert_eq!(again.next(), Offset(5));
    assert!(again.generation() > generation);
    assert_eq!(commit(&rig, &mut first, 9), REFUSED, "the process before is fenced");
}

#[test]
fn a_member_that_was_given_up_changes_nothing_when_it_wakes() {
    let rig = Rig::new();
    let topic = rig.topic("t", 1);
    let groups = rig.groups();
    let (zombie, other) = (join(&groups, "zombie", &topic), join(&groups, "other", &topic));
    let mut late = claim(&zombie, &topic, 0).unwrap();
    assert!(claim(&other, &topic, 0).is_none());
    rig.pass_seconds(6);
    block_on(other.heartbeat()).unwrap();
    rig.pass_seconds(6);
    block_on(groups.expire()).unwrap();

    let mut taken_over = claim(&other, &topic, 0).unwrap();
    commit(&rig, &mut taken_over, 1).unwrap();
    assert_eq!(commit(&rig, &mut late, 1), REFUSED);
    assert!(claim(&zombie, &topic, 0).is_none());
    assert!(zombie.assignment().borrow().partitions.is_empty());
    assert_eq!(block_on(zombie.heartbeat()), Err(GroupError::NoMember(NoMember)));
    commit(&rig, &mut taken_over, 2).unwrap();
}

#[test]
fn two_commits_from_one_offset_are_one() {
    let rig = Rig::new();
    let topic = rig.topic("t", 1);
    let groups = rig.groups();
    let member = join(&groups, "a", &topic);
    let (mut one, mut two) =
        (claim(&member, &topic, 0).unwrap(), claim(&member, &topic, 0).unwrap());
    commit(&rig, &mut one, 1).unwrap();
    assert_eq!(commit(&rig, &mut two, 1), Err(AppendError::ConditionFailed { index: 1 }));
}

#[test]
fn who_joins_takes_its_share_and_claims_on_the_rest_go_on() {
    let rig = Rig::new();
    let topic = rig.topic("t", 4);
    let groups = rig.groups();
    let first = join(&groups, "a", &topic);
    let second = join(&groups, "b", &topic);
    let assignment = first.assignment().borrow().clone();
    assert_eq!((assignment.partitions.len(), assignment.give_up.len()), (4, 2));
    assert!(second.assignment().borrow().partitions.is_empty());

    block_on(first.confirm(&assignment.give_up)).unwrap();
    assert_eq!(second.assignment().borrow().partitions, assignment.give_up);
    for at in topic.partitions() {
        let (his, hers) = (block_on(first.claim(at)).unwrap(), block_on(second.claim(at)).unwrap());
        assert!(his.is_some() != hers.is_some(), "one reader each");
        commit(&rig, &mut his.or(hers).unwrap(), 1).unwrap();
    }
    block_on(second.leave()).unwrap();
    assert_eq!(first.assignment().borrow().partitions.len(), 4);
    block_on(first.leave()).unwrap();
    assert_eq!(block_on(groups.describe(&group("g"))).unwrap().members, Vec::<String>::new());
}

#[test]
fn members_of_a_group_read_the_same_topics() {
    let rig = Rig::new();
    let (one, two) = (rig.topic("one", 1), rig.topic("two", 1));
    let groups = rig.groups();
    let _member = join(&groups, "a", &one);
    let refused = block_on(groups.join(&group("g"), "b", vec![two], Start::Earliest));
    assert!(matches!(refused, Err(GroupError::OtherTopics { .. })), "{refused:?}");
    assert_eq!(block_on(groups.list()).unwrap()[0].members, 1);
}

#[test]
fn lag_counts_what_is_there_and_still_to_be_read() {
    let rig = Rig::new();
    let topic = rig.topic("t", 2);
    rig.write(topic.partition(0), &["a", "b", "c", "d"]);
    rig.pass_seconds(5);
    rig.write(topic.partition(1), &["e"]);
    let groups = rig.groups();
    let member = join(&groups, "a", &topic);
    commit(&rig, &mut claim(&member, &topic, 1).unwrap(), 1).unwrap();
    block_on(rig.log.trim(topic.partition(0), Offset(1))).unwrap();
    rig.pass_seconds(2);

    let told = block_on(groups.describe(&group("g"))).unwrap();
    assert_eq!(told.members, ["a"]);
    let [zero, one] = &told.partitions[..] else { panic!("two partitions") };
    assert_eq!((zero.committed, zero.end, zero.lag), (None, 4, 3), "dropped ones do not count");
    assert!((6.9..7.1).contains(&zero.lag_seconds), "{}", zero.lag_seconds);
    assert_eq!((one.committed, one.lag), (Some(1), 0));
    assert_eq!(one.lag_seconds, 0.0);
    assert_eq!(zero.member.as_deref(), Some("a"));
    let lags = block_on(groups.lags()).unwrap();
    assert_eq!((lags[0].topic.as_str(), lags[0].records), ("t", 3));
    let waits = block_on(groups.waits()).unwrap();
    assert_eq!((waits[0].topic.as_str(), waits[0].seconds), ("t", zero.lag_seconds));
    let listed = block_on(groups.list()).unwrap();
    assert_eq!((listed[0].lag, listed[0].lag_seconds), (3, zero.lag_seconds));
}

#[test]
fn a_group_without_members_goes_on_where_it_is_told_to() {
    let rig = Rig::new();
    let topic = rig.topic("t", 1);
    rig.write(topic.partition(0), &["a", "b"]);
    rig.pass_seconds(10);
    let later = rig.now();
    rig.write(topic.partition(0), &["c"]);
    let groups = rig.groups();
    let member = join(&groups, "a", &topic);
    commit(&rig, &mut claim(&member, &topic, 0).unwrap(), 3).unwrap();
    let reset = |to| block_on(groups.reset(&group("g"), "t", to));
    assert!(matches!(reset(ResetTo::Earliest), Err(GroupError::InUse { members: 1, .. })));
    block_on(member.leave()).unwrap();

    let at = topic.partition(0);
    assert_eq!(reset(ResetTo::Earliest), Ok(vec![(at, Offset(0))]));
    assert_eq!(reset(ResetTo::Time(later)), Ok(vec![(at, Offset(2))]));
    assert_eq!(reset(ResetTo::Latest), Ok(vec![(at, Offset(3))]));
    assert_eq!(reset(ResetTo::Offset(Offset(1))), Ok(vec![(at, Offset(1))]));
    assert_eq!(reset(ResetTo::Offset(Offset(9))), Ok(vec![(at, Offset(3))]));
    assert!(matches!(
        block_on(groups.reset(&group("g"), "u", ResetTo::Latest)),
        Err(GroupError::NoTopic { .. })
    ));
    assert_eq!(claim(&join(&groups, "a", &topic), &topic, 0).unwrap().next(), Offset(3));
}

#[test]
fn a_group_that_was_deleted_begins_anew() {
    let rig = Rig::new();
    let topic = rig.topic("t", 1);
    rig.write(topic.partition(0), &["a", "b"]);
    let groups = rig.groups();
    let member = join(&groups, "a", &topic);
    commit(&rig, &mut claim(&member, &topic, 0).unwrap(), 2).unwrap();
    assert!(matches!(block_on(groups.delete(&group("g"))), Err(GroupError::InUse { .. })));
    block_on(member.leave()).unwrap();
    block_on(groups.delete(&group("g"))).unwrap();
    assert_eq!(block_on(groups.list()).unwrap(), []);
    assert!(matches!(block_on(groups.delete(&group("g"))), Err(GroupError::NotFound { .. })));

    let latest = block_on(groups.join(&group("g"), "a", vec![topic.clone()], Start::Latest));
    assert_eq!(claim(&latest.unwrap(), &topic, 0).unwrap().next(), Offset(2));
}

#[test]
fn a_member_from_before_a_deletion_is_not_the_one_of_its_name_after_it() {
    let rig = Rig::new();
    let topic = rig.topic("t", 1);
    let groups = rig.groups();
    let before = join(&groups, "a", &topic);
    rig.pass_seconds(11);
    block_on(groups.delete(&group("g"))).unwrap();
    let after = join(&groups, "a", &topic);
    assert!(claim(&before, &topic, 0).is_none());
    drop(before);
    block_on(after.heartbeat()).unwrap();
    commit(&rig, &mut claim(&after, &topic, 0).unwrap(), 1).unwrap();
}

/// Begins `future` and gives up waiting for it.
fn abandon(future: impl Future) {
    let mut context = Context::from_waker(Waker::noop());
    assert!(pin!(future).poll(&mut context).is_pending());
}

/// Stores the last record of `key` again, as the log does with live records before it gives up its
/// oldest segment.
fn move_to_the_head(rig: &Rig, key: &[u8]) -> Result<(), AppendError> {
    let partition = rig.log.topic(TOPIC).unwrap().partition(0);
    let batches = rig.read(partition);
    let records = batches.iter().flat_map(BatchView::records);
    let of_key = records.filter(|(_, record)| record.key_value().is_some_and(|it| it.key == key));
    let (last, record) = of_key.last().unwrap();
    let condition = Condition::LastOfKey { partition, key: key.to_vec(), last: Some(last) };
    rig.append(&[condition], &[(partition, record)]).map(drop)
}

#[test]
fn a_group_goes_on_when_the_log_moves_its_records() {
    let rig = Rig::new();
    let topic = rig.topic("t", 1);
    let groups = rig.groups();
    let member = join(&groups, "a", &topic);
    let mut held = claim(&member, &topic, 0).unwrap();
    commit(&rig, &mut held, 1).unwrap();
    move_to_the_head(&rig, b"group/g").unwrap();
    assert_eq!(commit(&rig, &mut held, 2), REFUSED);
    let mut again = claim(&member, &topic, 0).unwrap();
    assert_eq!(again.next(), Offset(1));
    commit(&rig, &mut again, 2).unwrap();

    move_to_the_head(&rig, b"group/g").unwrap();
    block_on(member.leave()).unwrap();
    assert_eq!(commit(&rig, &mut again, 3), REFUSED);
    move_to_the_head(&rig, format!("offset/g/{}/0", topic.id).as_bytes()).unwrap();
    assert_eq!(claim(&join(&groups, "b", &topic), &topic, 0).unwrap().next(), Offset(2));
}

#[test]
fn a_change_whose_caller_went_away_holds_and_later_ones_follow() {
    let rig = Rig::new();
    let topic = rig.topic("t", 2);
    let groups = rig.groups();
    let (first, second) = (join(&groups, "a", &topic), join(&groups, "b", &topic));
    let give_up = first.assignment().borrow().give_up.clone();
    let mut late = claim(&first, &topic, 0).unwrap();
    rig.log.hold();
    abandon(first.confirm(&give_up));
    rig.log.release();
    assert_eq!(commit(&rig, &mut late, 1), REFUSED, "the change was on its way");

    block_on(second.heartbeat()).unwrap();
    assert_eq!(second.assignment().borrow().partitions, give_up);
    for (member, at) in [(&first, 0), (&second, 1)] {
        commit(&rig, &mut claim(member, &topic, at).unwrap(), 1).unwrap();
    }
    rig.log.hold();
    abandon(groups.join(&group("g"), "c", vec![topic], Start::Earliest));
    rig.log.release();
    block_on(first.leave()).unwrap();
    rig.pass_seconds(6);
    block_on(second.heartbeat()).unwrap();
    rig.pass_seconds(6);
    block_on(groups.expire()).unwrap();
    let left = second.assignment().borrow().clone();
    assert_eq!((left.partitions.len(), left.give_up.len()), (2, 0));
}

#[test]
fn a_change_that_a_full_log_refused_is_made_later() {
    let rig = Rig::new();
    let topic = rig.topic("t", 1);
    let groups = rig.groups();
    let (zombie, other) = (join(&groups, "a", &topic), join(&groups, "b", &topic));
    let mut late = claim(&zombie, &topic, 0).unwrap();
    rig.pass_seconds(11);
    block_on(other.heartbeat()).unwrap();
    rig.log.fail_next(AppendError::Full { why: "the disk".into() });
    assert!(block_on(groups.expire()).is_err());
    assert!(other.assignment().borrow().partitions.is_empty(), "nothing is told that is not there");
    commit(&rig, &mut late, 1).unwrap();
    block_on(groups.expire()).unwrap();
    assert_eq!(commit(&rig, &mut late, 2), REFUSED);
    assert_eq!(claim(&other, &topic, 0).unwrap().next(), Offset(1));

    rig.log.fail_next(AppendError::Full { why: "the disk".into() });
    let refused = block_on(groups.join(&group("g"), "c", vec![topic], Start::Earliest));
    assert!(matches!(refused, Err(GroupError::Ledger(_))));
    block_on(other.heartbeat()).unwrap();
    assert_eq!(block_on(groups.describe(&group("g"))).unwrap().members, ["b"]);
}

#[test]
fn a_group_that_starts_behind_the_last_record_misses_none_after_it() {
    let rig = Rig::new();
    let topic = rig.topic("t", 1);
    rig.write(topic.partition(0), &["a", "b"]);
    let groups = rig.groups();
    let latest = || block_on(groups.join(&group("g"), "a", vec![topic.clone()], Start::Latest));
    let member = latest().unwrap();
    assert_eq!(claim(&member, &topic, 0).unwrap().next(), Offset(2));
    rig.write(topic.partition(0), &["c"]);
    assert_eq!(claim(&member, &topic, 0).unwrap().next(), Offset(2), "asked again");
    block_on(member.leave()).unwrap();
    assert_eq!(claim(&latest().unwrap(), &topic, 0).unwrap().next(), Offset(2), "joined again");
}

#[test]
fn what_lies_before_the_beginning_of_a_group_is_nobody_s_lag() {
    let rig = Rig::new();
    let topic = rig.topic("t", 1);
    rig.write(topic.partition(0), &["a", "b", "c"]);
    let groups = rig.groups();
    let start = Start::At([(topic.partition(0), Offset(2))].into());
    let member = block_on(groups.join(&group("g"), "a", vec![topic.clone()], start)).unwrap();
    assert_eq!(claim(&member, &topic, 0).unwrap().next(), Offset(2));
    assert_eq!(block_on(groups.list()).unwrap()[0].lag, 1);
    rig.pass_seconds(9);
    commit(&rig, &mut claim(&member, &topic, 0).unwrap(), 3).unwrap();
    assert_eq!(block_on(groups.list()).unwrap()[0].lag, 0);
}

#[test]
fn a_member_that_is_dropped_leaves() {
    let rig = Rig::new();
    let topic = rig.topic("t", 2);
    let groups = rig.groups();
    let (first, second) = (join(&groups, "a", &topic), join(&groups, "b", &topic));
    let mut held = claim(&first, &topic, 0).unwrap();
    drop(first);
    block_on(second.heartbeat()).unwrap();
    assert_eq!(second.assignment().borrow().partitions.len(), 2);
    assert_eq!(commit(&rig, &mut held, 1), REFUSED);
    drop(second);
    block_on(groups.expire()).unwrap();
    assert_eq!(block_on(groups.list()).unwrap()[0].members, 0);
}

#[test]
fn one_that_comes_back_under_its_name_is_another_member() {
    let rig = Rig::new();
    let topic = rig.topic("t", 1);
    let groups = rig.groups();
    let (before, after) = (join(&groups, "a", &topic), join(&groups, "a", &topic));
    assert!(claim(&before, &topic, 0).is_none());
    assert_eq!(block_on(before.heartbeat()), Err(GroupError::NoMember(NoMember)));
    block_on(before.leave()).unwrap();
    block_on(groups.expire()).unwrap();
    commit(&rig, &mut claim(&after, &topic, 0).unwrap(), 1).unwrap();
}

#[test]
fn claims_on_a_ledger_that_is_rewritten_are_taken_again_where_they_were() {
    let rig = Rig::new();
    let (topic, other) = (rig.topic("t", 2), rig.topic("other", 1));
    let groups = rig.groups();
    let member = join(&groups, "a", &topic);
    let mut held = [0, 1].map(|at| claim(&member, &topic, at).unwrap());
    for next in 1..=20 {
        commit(&rig, &mut held[0], next).unwrap();
    }
    commit(&rig, &mut held[1], 7).unwrap();
    let others = vec![other.clone()];
    let gone = block_on(groups.join(&group("gone"), "x", others, Start::Latest)).unwrap();
    claim(&gone, &other, 0).unwrap();
    block_on(rig.log.delete_topic(&other.spec.name)).unwrap();
    let grown = rig.end(held[0].ledger());

    block_on(groups.rewrite(10)).unwrap();
    assert_eq!(rig.log.extent(held[0].ledger()).unwrap().start, grown);
    for (mut old, next) in held.into_iter().zip([20, 7]) {
        assert_eq!(commit(&rig, &mut old, 30), REFUSED, "its places have moved");
        let mut again = block_on(member.claim(old.source())).unwrap().unwrap();
        assert_eq!(again.next(), Offset(next));
        commit(&rig, &mut again, next + 1).unwrap();
    }
    let keys = |key: &[u8]| groups.ledger.list(key).len();
    assert_eq!((keys(b"offset/g/"), keys(b"offset/gone/")), (2, 0), "that topic is no more");
    let restarted = rig.groups();
    block_on(groups.ledger.refresh()).unwrap();
    assert_eq!(restarted.ledger.list(b""), groups.ledger.list(b""));
}

#[test]
fn a_commit_on_its_way_is_not_undone_by_a_ledger_that_is_rewritten() {
    let rig = Rig::new();
    let topic = rig.topic("t", 1);
    let groups = rig.groups();
    let member = join(&groups, "a", &topic);
    let mut held = claim(&member, &topic, 0).unwrap();
    for next in 1..=5 {
        commit(&rig, &mut held, next).unwrap();
    }
    rig.log.hold();
    abandon(async { commit_later(&rig, &held, 6).await.unwrap() });
    abandon(groups.rewrite(2));
    rig.log.release();
    block_on(groups.rewrite(2)).unwrap();
    assert_eq!(claim(&member, &topic, 0).unwrap().next(), Offset(6));
}

#[test]
fn a_ledger_that_has_grown_is_rewritten_at_an_opening_and_says_the_same() {
    let rig = Rig::new();
    let topic = rig.topic("t", 1);
    let groups = rig.groups();
    let member = join(&groups, "a", &topic);
    let mut held = claim(&member, &topic, 0).unwrap();
    for next in 1..=20 {
        commit(&rig, &mut held, next).unwrap();
    }
    let grown = rig.end(held.ledger());
    let groups = rig.groups();
    block_on(groups.rewrite(100)).unwrap();
    assert_eq!(rig.end(held.ledger()), grown, "it is not worth it yet");
    block_on(groups.rewrite(10)).unwrap();
    let start = rig.log.extent(held.ledger()).unwrap().start;
    assert_eq!(start, grown, "what does not count is gone");
    assert_eq!(commit(&rig, &mut held, 21), REFUSED, "its places have moved");
    let mut again = claim(&join(&groups, "a", &topic), &topic, 0).unwrap();
    assert_eq!(again.next(), Offset(20));
    commit(&rig, &mut again, 21).unwrap();
}

/// What may happen to a group, to one of four members or partitions.
#[derive(Clone, Copy, Debug)]
enum Step {
    Join(u8),
    Leave(u8),
    Drop(u8),
    Confirm(u8),
    ConfirmAndGoAway(u8),
    Heartbeat(u8),
    Claim(u8, u8),
    Commit(u8),
    Expire,
    Wait,
    Refuse,
    Rewrite,
    MoveTheGroup,
}

fn step() -> impl Strategy<Value = Step> {
    (0_u8..24, 0_u8..4, 0_u8..4).prop_map(|(what, who, at)| match what {
        0..3 => Step::Join(who),
        3 => Step::Leave(who),
        4 => Step::Drop(who),
        5..7 => Step::Confirm(who),
        7 => Step::ConfirmAndGoAway(who),
        8..10 => Step::Heartbeat(who),
        10..14 => Step::Claim(who, at),
        14..19 => Step::Commit(at),
        19 => Step::Expire,
        20 => Step::Wait,
        21 => Step::Refuse,
        22 => Step::Rewrite,
        _ => Step::MoveTheGroup,
    })
}

/// A group under a program of steps, and what must hold of it.
struct Play {
    rig: Rig,
    topic: Topic,
    groups: Arc<Groups<MemoryLog>>,
    members: [Option<Member<MemoryLog>>; 4],
    /// What everybody was told who ever was a member.
    told: Vec<watch::Receiver<Assignment>>,
    /// The last claim on each partition by each who was told, one that does not hold included.
    claims: Vec<(watch::Receiver<Assignment>, Claim)>,
    committed: [u64; 4],
}

impl Play {
    fn new() -> Self {
        let rig = Rig::new();
        let (topic, groups) = (rig.topic("t", 4), rig.groups());
        let (told, claims) = (Vec::new(), Vec::new());
        Self { rig, topic, groups, members: Default::default(), told, claims, committed: [0; 4] }
    }

    fn member(&self, who: u8) -> Option<&Member<MemoryLog>> {
        self.members[usize::from(who)].as_ref()
    }

    /// Errors are refusals of the log and members that are gone: others must make up for them.
    fn take(&mut self, step: Step) -> Result<(), GroupError> {
        match step {
            Step::Join(who) => {
                let topics = vec![self.topic.clone()];
                let name = format!("m{who}");
                let group = group("g");
                let joined = self.groups.join(&group, &name, topics, Start::Earliest);
                let member = block_on(joined)?;
                self.told.push(member.assignment());
                self.members[usize::from(who)] = Some(member);
            }
            Step::Leave(who) => {
                if let Some(member) = self.members[usize::from(who)].take() {
                    block_on(member.leave())?;
                }
            }
            Step::Drop(who) => self.members[usize::from(who)] = None,
            Step::Confirm(who) => {
                if let Some(member) = self.member(who) {
                    let give_up = member.assignment().borrow().give_up.clone();
                    block_on(member.confirm(&give_up))?;
                }
            }
            Step::ConfirmAndGoAway(who) => {
                if let Some(member) = self.member(who) {
                    let give_up = member.assignment().borrow().give_up.clone();
                    self.rig.log.hold();
                    let mut context = Context::from_waker(Waker::noop());
                    // Where there is nothing to confirm it is done at once.
                    drop(pin!(member.confirm(&give_up)).poll(&mut context));
                    self.rig.log.release();
                }
            }
            Step::Heartbeat(who) => {
                if let Some(member) = self.member(who) {
                    block_on(member.heartbeat())?;
                }
            }
            Step::Claim(who, at) => {
                if let Some(member) = self.member(who) {
                    let at = self.topic.partition(u32::from(at));
                    if let Some(claim) = block_on(member.claim(at))? {
                        let told = member.assignment();
                        assert!(
                            told.borrow().partitions.contains(&at),
                            "he was told that it is his"
                        );
                        self.claims.push((told, claim));
                    }
                }
            }
            Step::Commit(which) => self.commit(usize::from(which)),
            Step::Expire => block_on(self.groups.expire())?,
            Step::Wait => self.rig.pass_seconds(4),
            Step::Refuse => self.rig.log.fail_next(AppendError::Full { why: "the disk".into() }),
            Step::Rewrite => block_on(self.groups.rewrite(3))?,
            Step::MoveTheGroup => {
                let key = b"group/g";
                let known =
                    block_on(self.groups.ledger.refresh()).map(|()| self.groups.ledger.get(key));
                if known?.is_some() {
                    move_to_the_head(&self.rig, key)?;
                }
            }
        }
        Ok(())
    }

    /// Commits under one of the claims, the newer ones rather.
    fn commit(&mut self, which: usize) {
        let Some(index) = self.claims.len().checked_sub(1 + which) else { return };
        let (told, claim) = &mut self.claims[index];
        let (source, next) = (claim.source(), claim.next().0);
        if commit(&self.rig, claim, next + 1).is_ok() {
            let at = source.partition as usize;
            assert_eq!(self.committed[at], next, "each offset is moved once");
            let others = self.told.iter().filter(|it| !it.same_channel(told));
            let read_by_others = others.filter(|it| it.borrow().partitions.contains(&source));
            assert_eq!(read_by_others.count(), 0, "nobody else was told to read it");
            self.committed[at] += 1;
        }
    }

    fn check(&self) {
        let told: Vec<_> = self.told.iter().flat_map(|it| it.borrow().partitions.clone()).collect();
        let distinct: std::collections::BTreeSet<_> = told.iter().collect();
        assert_eq!(told.len(), distinct.len(), "one reader each: {told:?}");
    }

    /// Once nothing fails any more and all give up what they are asked to, all is read, evenly.
    fn settle(mut self) {
        while self.rig.append(&[], &[]).is_err() {}
        self.take(Step::Join(0)).unwrap();
        for who in [0, 1, 2, 3] {
            let alive = self.member(who).is_some_and(|it| block_on(it.heartbeat()).is_ok());
            if !alive {
                self.members[usize::from(who)] = None;
            }
        }
        self.rig.pass_seconds(6);
        for who in [0, 1, 2, 3, 0, 1, 2, 3] {
            self.take(Step::Confirm(who)).unwrap();
        }
        self.check();
        let members: Vec<_> = self.members.iter().flatten().collect();
        let mut next = [None; 4];
        for member in &members {
            let assignment = member.assignment().borrow().clone();
            assert!(assignment.give_up.is_empty());
            assert!(assignment.partitions.len() >= 4 / members.len());
            for at in assignment.partitions {
                let claim = block_on(member.claim(at)).unwrap().unwrap();
                next[at.partition as usize] = Some(claim.next().0);
            }
        }
        assert_eq!(next, self.committed.map(Some));
    }
}

proptest! {
    #[test]
    fn whatever_happens_to_members_and_log_each_offset_is_moved_once_by_who_was_told(
        steps in proptest::collection::vec(step(), 0..80),
    ) {
        let mut play = Play::new();
        for step in steps {
            let outcome = play.take(step);
            prop_assert!(
                matches!(outcome, Ok(()) | Err(GroupError::NoMember(_) | GroupError::Ledger(_))),
                "{outcome:?}"
            );
            play.check();
        }
        play.settle();
    }
}
