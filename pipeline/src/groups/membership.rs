//! The members of one group, and what each may read: a state machine without I/O.
//!
//! A rebalance takes two steps for a partition that moves, and none for the others: it is marked to
//! be given up, its member stops and [confirms](Membership::confirm), and only then is it the new
//! member's. A member that is silent for too long is taken for dead, and loses all at once: its
//! commits carry a generation that has passed.
//!
//! Whoever holds the machine persists a change before he tells of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tracklog_protocol::{PartitionId, TimeMicros};

use super::Generation;
use super::assignment::{Owners, assign};

/// A member's name in its group. Nobody else has it while he lives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(Arc<str>);

impl MemberId {
    /// The member called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for MemberId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a member may read, and what of it he is to give up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// The assignment's number.
    pub generation: Generation,
    /// His partitions, those to give up among them.
    pub partitions: BTreeSet<PartitionId>,
    /// Those that he is to stop reading, and then confirm.
    pub give_up: BTreeSet<PartitionId>,
}

/// There is no such member: he left, or was silent for too long. He may join again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the group has no such member: he left or was silent for too long")]
pub struct NoMember;

/// One group.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    generation: Generation,
    silence_max: Duration,
    partitions: Vec<PartitionId>,
    members: BTreeMap<MemberId, Seat>,
    /// Who may read what now.
    owners: Owners,
    /// Who is to read what.
    wanted: Owners,
}

/// What is known of a member.
#[derive(Clone, Copy, Debug)]
struct Seat {
    /// In which generation he joined.
    since: Generation,
    /// Until when he is taken for alive.
    deadline: TimeMicros,
}

impl Membership {
    /// A group without members, after `generation`. A member may be silent for `silence_max`.
    pub(super) const fn new(generation: Generation, silence_max: Duration) -> Self {
        Self {
            generation,
            silence_max,
            partitions: Vec::new(),
            members: BTreeMap::new(),
            owners: Owners::new(),
            wanted: Owners::new(),
        }
    }

    pub(super) const fn generation(&self) -> Generation {
        self.generation
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &MemberId> {
        self.members.keys()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn owner(&self, partition: PartitionId) -> Option<&MemberId> {
        self.owners.get(&partition)
    }

    /// In which generation `member` joined: whoever has that name since another is somebody else.
    pub(super) fn since(&self, member: &MemberId) -> Option<Generation> {
        self.members.get(member).map(|seat| seat.since)
    }

    /// What `member` may read; nothing where there is no such member.
    pub(super) fn assignment(&self, member: &MemberId) -> Assignment {
        let is_his = |owner: &MemberId| owner == member;
        let his = self.owners.iter().filter(|(_, owner)| is_his(owner)).map(|(at, _)| *at);
        let partitions: BTreeSet<_> = his.collect();
        let moves = |at: &&PartitionId| !self.wanted.get(*at).is_some_and(is_his);
        let give_up = partitions.iter().filter(moves).copied().collect();
        Assignment { generation: self.generation, partitions, give_up }
    }

    /// What the group reads. What it read before and does not any more is nobody's.
    pub(super) fn set_partitions(&mut self, partitions: Vec<PartitionId>) {
        if partitions != self.partitions {
            self.partitions = partitions;
            let there: BTreeSet<_> = self.partitions.iter().copied().collect();
            self.owners.retain(|at, _| there.contains(at));
            self.change();
        }
    }

    /// Takes `member` in. One of that name who lives already is dead from now on: a process that
    /// comes back under its name. Returns the generation, which he has been a member since.
    pub(super) fn join(&mut self, member: MemberId, now: TimeMicros) -> Generation {
        self.owners.retain(|_, owner| *owner != member);
        let since = self.generation.next();
        self.members.insert(member, Seat { since, deadline: self.deadline(now) });
        self.change();
        since
    }

    /// `member` lives.
    ///
    /// # Errors
    /// [`NoMember`].
    pub(super) fn heartbeat(&mut self, member: &MemberId, now: TimeMicros) -> Result<(), NoMember> {
        let deadline = self.deadline(now);
        self.members.get_mut(member).ok_or(NoMember)?.deadline = deadline;
        Ok(())
    }

    /// `member` has stopped reading `partitions`.
    ///
    /// # Errors
    /// [`NoMember`].
    pub(super) fn confirm(
        &mut self,
        member: &MemberId,
        partitions: &BTreeSet<PartitionId>,
    ) -> Result<(), NoMember> {
        if !self.members.contains_key(member) {
            return Err(NoMember);
        }
        let given_up = self.assignment(member).give_up;
        for partition in given_up.intersection(partitions) {
            let next = self.wanted.get(partition).expect("what is read is wanted by somebody");
            self.owners.insert(*partition, next.clone());
            self.generation = self.generation.next();
        }
        Ok(())
    }

    /// `member` is gone, if he was there.
    pub(super) fn leave(&mut self, member: &MemberId) {
        if self.members.remove(member).is_some() {
            self.owners.retain(|_, owner| owner != member);
            self.change();
        }
    }

    /// Those who were silent for too long are gone.
    pub(super) fn expire(&mut self, now: TimeMicros) {
        let silent = self.members.iter().filter(|(_, seat)| seat.deadline < now);
        let silent: Vec<_> = silent.map(|(member, _)| member.clone()).collect();
        silent.iter().for_each(|member| self.leave(member));
    }

    fn deadline(&self, now: TimeMicros) -> TimeMicros {
        now.plus(self.silence_max)
    }

    /// Shares out anew after a change of members or partitions.
    fn change(&mut self) {
        let members: Vec<_> = self.members.keys().cloned().collect();
        self.wanted = assign(&self.partitions, &members, &self.owners);
        for (partition, member) in &self.wanted {
            self.owners.entry(*partition).or_insert_with(|| member.clone());
        }
        self.generation = self.generation.next();
        assert!(
            self.owners.values().all(|owner| self.members.contains_key(owner)),
            "only members that live own partitions"
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracklog_protocol::TopicId;

    use super::*;

    const SILENCE_MAX: Duration = Duration::from_secs(10);

    fn group(partitions: u32) -> Membership {
        let mut group = Membership::new(Generation(0), SILENCE_MAX);
        let all = (0..partitions).map(|at| PartitionId::new(TopicId(1), at));
        group.set_partitions(all.collect());
        group
    }

    fn seconds(seconds: i64) -> TimeMicros {
        TimeMicros(seconds * 1_000_000)
    }

    fn id(name: u8) -> MemberId {
        MemberId::new(&format!("m{name}"))
    }

    #[test]
    fn a_partition_that_moves_waits_until_it_is_given_up_and_the_rest_stay() {
        let mut group = group(4);
        group.join(id(1), seconds(0));
        assert_eq!(group.assignment(&id(1)).partitions.len(), 4);
        group.join(id(2), seconds(0));
        let first = group.assignment(&id(1));
        assert_eq!((first.partitions.len(), first.give_up.len()), (4, 2));
        assert!(group.assignment(&id(2)).partitions.is_empty(), "they are still the first one's");
        group.confirm(&id(1), &first.give_up).unwrap();
        assert_eq!(group.assignment(&id(2)).partitions, first.give_up);
        let kept = group.assignment(&id(1));
        assert!(kept.give_up.is_empty() && kept.partitions.is_subset(&first.partitions));
        assert!(kept.generation > first.generation);
    }

    #[test]
    fn who_is_silent_too_long_loses_all_and_is_told_when_he_wakes() {
        let mut group = group(2);
        group.join(id(1), seconds(0));
        group.join(id(2), seconds(9));
        group.heartbeat(&id(1), seconds(9)).unwrap();
        group.expire(seconds(19));
        assert_eq!(group.members().count(), 2, "up to ten seconds are allowed");
        group.heartbeat(&id(2), seconds(19)).unwrap();
        group.expire(seconds(20));
        assert_eq!(group.assignment(&id(2)).partitions.len(), 2);
        assert_eq!(group.heartbeat(&id(1), seconds(20)), Err(NoMember));
        assert_eq!(group.confirm(&id(1), &BTreeSet::new()), Err(NoMember));
        assert_eq!(group.assignment(&id(1)).partitions, BTreeSet::new());
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Join(u8),
        Leave(u8),
        Confirm(u8),
        Heartbeat(u8),
        Wait(u8),
        Hear(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        (0_u8..6, 0_u8..5).prop_map(|(what, who)| match what {
            0 => Step::Join(who),
            1 => Step::Leave(who),
            2 => Step::Confirm(who),
            3 => Step::Heartbeat(who),
            4 => Step::Wait(who),
            _ => Step::Hear(who),
        })
    }

    proptest! {
        #[test]
        fn no_partition_has_two_readers_and_in_the_end_each_has_one(
            partitions in 1_u32..20,
            steps in proptest::collection::vec(step(), 0..60),
        ) {
            let mut group = group(partitions);
            let mut now = seconds(0);
            // What each member reads: he goes on with it until he is told of something else.
            let mut reads: BTreeMap<MemberId, BTreeSet<PartitionId>> = BTreeMap::new();
            for step in steps {
                let before = group.clone();
                match step {
                    Step::Join(who) => {
                        group.join(id(who), now);
                        reads.remove(&id(who));
                    }
                    Step::Leave(who) => group.leave(&id(who)),
                    Step::Confirm(who) => {
                        let his = group.assignment(&id(who)).give_up;
                        if let Some(reads) = reads.get_mut(&id(who)) {
                            reads.retain(|partition| !his.contains(partition));
                        }
                        let known = group.confirm(&id(who), &his).is_ok();
                        prop_assert_eq!(known, before.members.contains_key(&id(who)));
                    }
                    Step::Hear(who) if group.members.contains_key(&id(who)) => {
                        reads.insert(id(who), group.assignment(&id(who)).partitions);
                    }
                    Step::Hear(_) => {}
                    Step::Heartbeat(who) => {
                        let known = group.heartbeat(&id(who), now).is_ok();
                        prop_assert_eq!(known, before.members.contains_key(&id(who)));
                    }
                    Step::Wait(span) => {
                        now = TimeMicros(now.0 + i64::from(span) * 2_000_000);
                        group.expire(now);
                    }
                }
                prop_assert!(group.generation >= before.generation);
                if group.owners != before.owners {
                    prop_assert!(group.generation > before.generation);
                }
                reads.retain(|member, _| group.members.contains_key(member));
                for (member, partitions) in &reads {
                    for partition in partitions {
                        prop_assert_eq!(group.owner(*partition), Some(member), "one reader each");
                    }
                }
                if !group.is_empty() {
                    prop_assert_eq!(group.owners.len(), partitions as usize, "none is without");
                }
                // Who stays and is not to give something up keeps it.
                for (partition, owner) in &before.owners {
                    let stays = group.members.contains_key(owner) && !matches!(step, Step::Join(who) if id(who) == *owner);
                    let kept = !before.assignment(owner).give_up.contains(partition);
                    if stays && kept {
                        prop_assert_eq!(group.owner(*partition), Some(owner));
                    }
                }
            }
            let members: Vec<_> = group.members().cloned().collect();
            for member in &members {
                let his = group.assignment(member).give_up;
                group.confirm(member, &his).unwrap();
            }
            prop_assert_eq!(&group.owners, &group.wanted, "it settles");
        }
    }
}
