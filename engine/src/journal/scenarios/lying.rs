//! A disk that does not do what it says: it lies about flushing, writes elsewhere, or reads what was
//! there before. What it takes is told wherever something that is left vouches for it, and no offset
//! of it is given again.

use super::*;

/// What an opening made of records that a disk may have lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// It was refused, for the commits that are gone.
    Refused,
    /// It opened, and it or whoever reads them is told of what is gone.
    Told,
    /// All of it is there.
    All,
}

/// Opens the log, of which all of `before` was acked.
///
/// # Panics
/// When something of it is gone in silence, or an offset is given twice.
fn look_for(disk: &SimDisk, before: &[(u64, Vec<u8>)]) -> Found {
    let last = Offset(before.last().expect("something was acked").0);
    let mut rig = match Rig::open(disk) {
        Ok(rig) => rig,
        Err(OpenError::LostCommits { .. }) => {
            goes_on_behind(disk, last);
            return Found::Refused;
        }
        Err(OpenError::Damaged { what }) if what.contains("--accept-loss") => {
            goes_on_behind(disk, last);
            return Found::Refused;
        }
        Err(OpenError::Damaged { .. }) => return Found::Refused,
        Err(error) => panic!("it is refused for another reason: {error}"),
    };
    let (there, recovered) = (readable(disk), recovered(disk));
    let is_told = !missing(&rig.notes).is_empty();
    for (offset, _) in before.iter().filter(|record| !there.contains(record)) {
        let is_told = is_told || is_listed(&recovered, &(place(0), Offset(*offset)));
        assert!(is_told, "{offset} is gone in silence: {:?}", rig.notes);
    }
    assert!(acked(&mut rig, b"new") > last, "offset {last} was acked before");
    if there == before { Found::All } else { Found::Told }
}

/// The power fails under a disk that lied; from then on it is honest.
fn power_cut_of_a_liar(disk: &SimDisk) -> SimDisk {
    disk.crash(Crash::Power);
    disk.set_lying(Lying::Never);
    disk.reboot()
}

#[test]
fn what_a_lying_disk_lost_is_told_where_a_checkpoint_vouches_for_it() {
    let found: Vec<Found> = (0..20)
        .map(|seed| {
            let (disk, mut rig) = node(seed);
            disk.set_lying(Lying::Commits);
            for byte in [b'a', b'b', b'c'] {
                acked(&mut rig, &vec![byte; 20_000]);
            }
            let before = readable(&disk);
            // Its checkpoint adds up to all of them.
            rig.stop();
            let disk = power_cut_of_a_liar(&disk);
            look_for(&disk, &before)
        })
        .collect();
    // By chance a header behind them is left: then they are damage before it.
    assert!(found.contains(&Found::Refused) && found.contains(&Found::Told), "{found:?}");
    assert!(!found.contains(&Found::All), "{found:?}");
}

#[test]
fn what_a_lying_disk_lost_is_told_where_the_slot_header_of_the_next_run_vouches_for_it() {
    for seed in 0..20 {
        let (disk, mut rig) = node(seed);
        disk.set_lying(Lying::Commits);
        for byte in [b'a', b'b', b'c'] {
            acked(&mut rig, &vec![byte; 20_000]);
        }
        let before = readable(&disk);
        disk.crash(Crash::Kill);
        drop(rig);
        let disk = disk.reboot();
        // What it stands on is in the header of its slot, and in what the disk lies about.
        drop(Rig::open(&disk).unwrap());
        let disk = power_cut_of_a_liar(&disk);
        disk.set_file(&FileName::CheckpointA, None);
        disk.set_file(&FileName::CheckpointB, None);
        let found = look_for(&disk, &before);
        assert_ne!(found, Found::All, "seed {seed}");
    }
}

#[test]
fn a_slot_whose_header_a_lying_disk_lost_is_told_where_a_checkpoint_names_its_segment() {
    let found: Vec<Found> = (0..20)
        .map(|seed| {
            let (disk, mut rig) = node(seed);
            disk.set_lying(Lying::All);
            fill_segments(&mut rig, 3);
            let before = readable(&disk);
            // It is honest in time for the checkpoint.
            disk.set_lying(Lying::Commits);
            rig.stop();
            let disk = power_cut_of_a_liar(&disk);
            look_for(&disk, &before)
        })
        .collect();
    assert!(found.contains(&Found::Refused), "{found:?}");
    assert!(!found.contains(&Found::All), "{found:?}");
}

#[test]
fn a_commit_that_was_written_elsewhere_is_damage_and_the_rest_stays() {
    for (seed, rest) in (0..20).zip(["a", "ac"].into_iter().cycle()) {
        let (disk, mut rig) = node(seed);
        acked(&mut rig, b"a");
        disk.misdirect();
        let lost = acked(&mut rig, b"b");
        if rest == "ac" {
            acked(&mut rig, b"c");
        }
        rig.settle_marked();
        let mut disk = power_cut(&disk, rig);
        for opening in 0..2 {
            let mut rig = Rig::open(&disk).unwrap();
            assert_eq!(missing(&rig.notes).len(), 1, "seed {seed}, opening {opening}");
            assert!(first_bytes(&disk).starts_with(rest.as_bytes()), "seed {seed}");
            assert!(acked(&mut rig, b"d") > lost, "offset {lost} was acked before");
            rig.settle_marked();
            disk = power_cut(&disk, rig);
        }
    }
}

#[test]
fn a_read_of_what_was_there_before_loses_nothing_in_silence() {
    let found: Vec<Found> = (0..60)
        .map(|nth| {
            let (disk, mut rig) = node(1);
            for byte in [b'a', b'b', b'c'] {
                acked(&mut rig, &vec![byte; 20_000]);
            }
            let before = readable(&disk);
            rig.stop();
            let disk = disk.reboot();
            disk.read_stale(nth);
            look_for(&disk, &before)
        })
        .collect();
    for one in [Found::Refused, Found::Told, Found::All] {
        assert!(found.contains(&one), "{found:?}");
    }
}
