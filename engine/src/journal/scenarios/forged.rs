//! Bytes in the place of a commit that are none of this segment's.

use super::*;
use crate::journal::commit::{CommitHeader, HEADER_BYTES};

/// Whatever shows that a header is not of this place of this segment.
const WRONGS: [fn(&mut CommitHeader); 5] = [
    |header| header.salt.0 ^= 1,
    |header| header.run.0 += 1,
    |header| header.segment.0 += 1,
    |header| header.position += 4096,
    |header| header.commit_bytes = 1 << 30,
];

#[test]
fn a_whole_commit_with_one_wrong_word_of_its_place_is_not_one() {
    for wrong in WRONGS {
        let (disk, mut rig) = node(1);
        acked(&mut rig, b"a");
        let before = lies(&disk, Offset(0));
        let mut page = disk.peek(before.slot, before.commit, 4096);
        let mut header = CommitHeader::decode(&page).unwrap();
        // It lies on the second page of the next commit, and would void all behind it.
        header.position += 2 * 4096;
        header.number.0 += 100;
        wrong(&mut header);
        let encoded = header.encode();
        page[..encoded.len()].copy_from_slice(&encoded);
        let first = 4096 - usize::try_from(before.batch - before.commit).unwrap() - 64;
        let mut bytes = vec![0; first];
        bytes.extend(&page);
        let carrier = acked(&mut rig, &bytes);
        acked(&mut rig, b"c");
        rig.settle_marked();
        let at = lies(&disk, carrier);
        assert_eq!(at.commit, before.commit + 4096);
        assert_eq!(disk.peek(at.slot, at.commit + 4096, 4096), page);
        let disk = power_cut(&disk, rig);
        rot(&disk, at.slot, at.commit);
        let rig = Rig::open(&disk).unwrap();
        assert_eq!(missing(&rig.notes).len(), 1);
        let found: Vec<Vec<u8>> = readable(&disk).into_iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(found, [b"a".to_vec(), b"c".to_vec()]);
    }
}

#[test]
fn a_body_of_the_same_offsets_that_the_directory_does_not_name_is_cut() {
    // Twice the same machine, but for the bytes of the last record.
    let [(disk, at), (other, _)] = [7, 8].map(|fill| {
        let (disk, mut rig) = node(1);
        let offset = acked(&mut rig, &[fill; 300]);
        let at = lies(&disk, offset);
        (power_cut(&disk, rig), at)
    });
    let body = other.peek(at.slot, at.batch, at.batch_bytes);
    disk.corrupt(at.slot, at.batch, &body);
    let rig = Rig::open(&disk).unwrap();
    assert!(rig.notes.iter().any(|note| matches!(note, Note::Cut { .. })), "{:?}", rig.notes);
    assert_eq!(readable(&disk), []);
}

#[test]
fn a_rotten_directory_of_an_acked_commit_is_damage_and_the_rest_stays() {
    let (disk, mut rig) = node(1);
    let [_, middle, _] = [b"a", b"b", b"c"].map(|bytes| acked(&mut rig, bytes));
    rig.settle_marked();
    let at = lies(&disk, middle);
    let disk = power_cut(&disk, rig);
    disk.flip_bit(at.slot, at.commit + HEADER_BYTES as u64, 0);
    let rig = Rig::open(&disk).unwrap();
    assert_eq!(missing(&rig.notes).len(), 1);
    let found: Vec<Vec<u8>> = readable(&disk).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(found, [b"a".to_vec(), b"c".to_vec()]);
}
