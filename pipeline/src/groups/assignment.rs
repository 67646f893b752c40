//! Who reads which partition: balanced, and moving as little as balance allows.
//!
//! A pure function, so that whoever coordinates decides the same from the same.

use std::collections::BTreeMap;

use tracklog_protocol::PartitionId;

use super::MemberId;

/// Which member has which partition.
pub(super) type Owners = BTreeMap<PartitionId, MemberId>;

/// Shares `partitions` out to `members`, of whom some have partitions by `before`.
///
/// - Each has as many as any other, or one more.
/// - A member keeps what it has, up to its share. Those who have most get the larger shares.
pub(super) fn assign(partitions: &[PartitionId], members: &[MemberId], before: &Owners) -> Owners {
    if members.is_empty() {
        return Owners::new();
    }
    let mut kept: BTreeMap<&MemberId, Vec<PartitionId>> =
        members.iter().map(|member| (member, Vec::new())).collect();
    let mut free = Vec::new();
    for partition in partitions {
        match before.get(partition).and_then(|owner| kept.get_mut(owner)) {
            Some(of_owner) => of_owner.push(*partition),
            None => free.push(*partition),
        }
    }
    let mut shares: Vec<_> = kept.into_iter().collect();
    // A stable order: who has most first, then by id.
    shares.sort_by_key(|(_, partitions)| std::cmp::Reverse(partitions.len()));
    let (share, larger) = (partitions.len() / members.len(), partitions.len() % members.len());
    let share_of = |rank: usize| share + usize::from(rank < larger);
    for (rank, (_, partitions)) in shares.iter_mut().enumerate() {
        let surplus = partitions.len().min(share_of(rank));
        free.extend(partitions.drain(surplus..));
    }
    free.sort_unstable();
    let mut free = free.into_iter();
    let mut owners = Owners::new();
    for (rank, (member, mut partitions)) in shares.into_iter().enumerate() {
        let lacking = share_of(rank) - partitions.len();
        partitions.extend(free.by_ref().take(lacking));
        owners.extend(partitions.into_iter().map(|partition| (partition, member.clone())));
    }
    owners
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracklog_protocol::TopicId;

    use super::*;

    fn partitions(count: u32) -> Vec<PartitionId> {
        (0..count).map(|partition| PartitionId::new(TopicId(7), partition)).collect()
    }

    fn member(name: u8) -> MemberId {
        MemberId::new(&format!("m{name}"))
    }

    proptest! {
        #[test]
        fn shares_are_even_and_no_partition_moves_without_need(
            count in 0_u32..40,
            names in proptest::collection::btree_set(0_u8..12, 1..8),
            before in proptest::collection::btree_map(0_u32..40, 0_u8..12, 0..40),
        ) {
            let partitions = partitions(count);
            let members: Vec<_> = names.iter().map(|name| member(*name)).collect();
            let before: Owners = before
                .into_iter()
                .map(|(at, name)| (PartitionId::new(TopicId(7), at), member(name)))
                .collect();
            let owners = assign(&partitions, &members, &before);
            prop_assert!(owners.keys().eq(&partitions), "each has an owner");
            let size = |member| owners.values().filter(|owner| *owner == member).count();
            let sizes: Vec<_> = members.iter().map(size).collect();
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{sizes:?}");
            // Nobody can keep more than this: members that have most fill the larger shares.
            let had = |member| before.iter().filter(|(at, owner)| {
                at.partition < count && *owner == member
            }).count();
            let mut had: Vec<_> = members.iter().map(had).collect();
            had.sort_unstable_by(|a, b| b.cmp(a));
            let (share, larger) = (partitions.len() / members.len(), partitions.len() % members.len());
            let most_kept: usize = had.iter().enumerate()
                .map(|(rank, had)| (*had).min(share + usize::from(rank < larger)))
                .sum();
            let kept = owners.iter().filter(|(at, owner)| before.get(at) == Some(owner)).count();
            prop_assert_eq!(kept, most_kept);
            prop_assert_eq!(assign(&partitions, &members, &owners), owners, "what is even stays");
        }
    }

    #[test]
    fn without_members_nobody_has_anything() {
        assert!(assign(&partitions(3), &[], &Owners::new()).is_empty());
    }
}
