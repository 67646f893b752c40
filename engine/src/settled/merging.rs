//! Which packs become one: by tiers of size, so that each byte is written a few times at most.
//!
//! Packs of one tier are some eight times as large as those of the tier below. When eight packs lie side
//! by side of which six at least are of one tier and none of a higher, they become one, as long as
//! that stays below a bound. A pack of which more than half is expired is written anew by itself.
//! Where room is short none become one, and each is written anew of which anything is expired.
//!
//! Sans-io: it is given what there is, and says what is to be done.

use std::ops::Range;

/// So many packs become one.
const FAN_IN: usize = 8;
/// So many of them are of one tier: smaller ones that lie between go along.
const OF_TIER_MIN: usize = 6;
/// No pack is made larger by merging.
const PACK_BYTES_MAX: u64 = 1 << 30;
/// Nor with more batches than its places can count.
const SPACE_BYTES_MAX: u64 = 16 << 30;
/// All below this are of one tier.
const TIER_BYTES: u64 = 1 << 20;

/// What of a pack decides whether it is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// What its file takes.
    pub(crate) file_bytes: u64,
    /// What its batches take uncompressed.
    pub(crate) space_bytes: u64,
    /// How much of its space nobody can read any more, in hundredths.
    pub(crate) expired_percent: u64,
}

/// How much room the disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Plenty,
    Short,
}

/// The packs, in the log's order, that are to become one now; one alone is written anew.
pub(crate) fn choose(packs: &[Candidate], room: Room) -> Option<Range<usize>> {
    // A pack that is wholly expired is taken out (`settler/retiring.rs`).
    let worth = match room {
        Room::Plenty => 51..100,
        Room::Short => 1..100,
    };
    let alone = packs.iter().position(|pack| worth.contains(&pack.expired_percent));
    let alone = alone.map(|at| at..at + 1);
    alone.or_else(|| (room == Room::Plenty).then(|| side_by_side(packs)).flatten())
}

/// The first that may become one, of the lowest tier.
fn side_by_side(packs: &[Candidate]) -> Option<Range<usize>> {
    let highest = packs.iter().map(|pack| tier(pack.file_bytes)).max()?;
    let eights = |wanted: u32| {
        packs.windows(FAN_IN).position(move |eight| {
            let bytes: u64 = eight.iter().map(|pack| pack.file_bytes).sum();
            let tiers = eight.iter().map(|pack| tier(pack.file_bytes));
            let of_tier = tiers.clone().filter(|tier| *tier == wanted).count();
            let space: u64 = eight.iter().map(|pack| pack.space_bytes).sum();
            let fits = bytes <= PACK_BYTES_MAX && space <= SPACE_BYTES_MAX;
            of_tier >= OF_TIER_MIN && tiers.max() == Some(wanted) && fits
        })
    };
    let from = (0..=highest).find_map(eights)?;
    Some(from..from + FAN_IN)
}

fn tier(file_bytes: u64) -> u32 {
    (file_bytes / TIER_BYTES).checked_ilog(FAN_IN as u64).map_or(0, |tier| tier + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn of(sizes: &[u64]) -> Vec<Candidate> {
        let of = |file_bytes: &u64| Candidate {
            file_bytes: *file_bytes,
            space_bytes: *file_bytes * 9,
            expired_percent: 0,
        };
        sizes.iter().map(of).collect()
    }

    #[test]
    fn eight_of_a_size_become_one_and_seven_do_not() {
        assert_eq!(choose(&of(&[28 * MIB; 7]), Room::Plenty), None);
        assert_eq!(choose(&of(&[28 * MIB; 8]), Room::Plenty), Some(0..8));
        assert_eq!(choose(&of(&[28 * MIB; 20]), Room::Plenty), Some(0..8), "the oldest first");
        assert_eq!(choose(&[], Room::Plenty), None);
    }

    #[test]
    fn larger_ones_wait_for_their_like_and_stop_at_a_bound() {
        let mut packs = vec![200 * MIB; 4];
        packs.extend([28 * MIB; 8]);
        assert_eq!(choose(&of(&packs), Room::Plenty), Some(4..12));
        assert_eq!(
            choose(&of(&[200 * MIB; 9]), Room::Plenty),
            None,
            "eight would be above the bound"
        );
        assert_eq!(choose(&of(&[100 * MIB; 9]), Room::Plenty), Some(0..8));
        let mut dense = of(&[100 * MIB; 9]);
        dense[2].space_bytes = 20 << 30;
        assert_eq!(choose(&dense, Room::Plenty), None, "its places would not count so far");
    }

    #[test]
    fn small_ones_between_larger_ones_go_along_with_them() {
        let packs = [28, 28, 1, 28, 28, 28, 28, 28].map(|size| size * MIB);
        assert_eq!(choose(&of(&packs), Room::Plenty), Some(0..8));
    }

    #[test]
    fn a_pack_that_is_mostly_expired_is_written_anew_alone() {
        let mut packs = of(&[28 * MIB; 8]);
        packs[3].expired_percent = 51;
        assert_eq!(choose(&packs, Room::Plenty), Some(3..4));
        packs[3].expired_percent = 50;
        assert_eq!(choose(&packs, Room::Plenty), Some(0..8));
    }

    #[test]
    fn where_room_is_short_only_what_makes_room_is_written() {
        let mut packs = of(&[28 * MIB; 8]);
        assert_eq!(choose(&packs, Room::Short), None);
        packs[5].expired_percent = 1;
        assert_eq!(choose(&packs, Room::Short), Some(5..6));
    }

    #[test]
    fn a_pack_of_which_nothing_is_left_is_not_written_anew_again_and_again() {
        let mut packs = of(&[28 * MIB; 7]);
        packs[3].expired_percent = 100;
        assert_eq!(choose(&packs, Room::Plenty), None);
    }

    #[test]
    fn a_byte_is_written_few_times_however_long_the_log_gets() {
        let (mut packs, mut written, mut settled) = (Vec::new(), 0, 0);
        for _ in 0..4_096 {
            packs.push(28 * MIB);
            settled += 28 * MIB;
            while let Some(chosen) = choose(&of(&packs), Room::Plenty) {
                let bytes: u64 = packs[chosen.clone()].iter().sum();
                written += bytes;
                packs.splice(chosen, [bytes]);
            }
        }
        assert!(written <= 2 * settled, "{written} for {settled}");
        assert!(packs.len() < 600, "{} packs", packs.len());
    }
}
