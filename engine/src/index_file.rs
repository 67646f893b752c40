//! Index files: what beside a full segment saves reading it to know what it holds. FORMAT.md §5.
//!
//! All numbers are little-endian:
//!
//! | bytes | field | meaning; valid when |
//! |---|---|---|
//! | 8 | magic | `TLOGINDX` |
//! | 4 | version | 1 |
//! | 8 | segment | the segment's number |
//! | 8 | run | the run that wrote it |
//! | 8 | salt | the segment's own |
//! | 8 | last hash | XXH3-64 of the last commit's fixed header |
//! | 4 | commit count | then for each commit, in order: |
//! | 8 | · number | rises |
//! | 8 | · append time | µs, rises |
//! | 4 | · position | in the segment, from 4096, a multiple of 4096 |
//! | 4 | · bytes | a multiple of 4096, above 0; ends where the next commit begins, or before |
//! | 4 | share count | then for each partition with batches in the segment, in order: |
//! | 4, 4 | · topic, partition | rises |
//! | 8 | · event time max | µs, the greatest; `i64::MIN` where there is none |
//! | 8 | · end | the offset after its last record |
//! | 4 | · place count | at least 1; then for each batch, in order: |
//! | 8 | ·· base offset | rises, below the end |
//! | 4 | ·· position | in the segment, a multiple of 8, behind the batch before |
//! | 4 | ·· bytes | the batch's, at least 64; it ends within the last commit, or before |
//! | 4 | CRC | CRC-32 of all bytes before |
//!
//! Promises
//! - A [`SegmentIndex`] that was read here is of the very segment that was asked for, as it was
//!   written: number, run, salt and checksum fit.
//! - Reading bytes of any kind never panics, and allocates by what is there.
//!
//! An index is derived: where it is missing or bad it is made again from the segment's commits.
//! Written when a segment is full; read by recovery and by the read path.

use tracklog_protocol::batch::HEADER_BYTES as BATCH_HEADER_BYTES;
use tracklog_protocol::{Offset, PartitionId, TopicId};

use crate::disk::{PAGE_BYTES, SlotId};
use crate::fields::{Fields, FieldsMut, length_u32};
use crate::journal::commit::{CommitNumber, Run, Salt, SegmentNumber};
use crate::journal::segment::{FIRST_COMMIT_AT, SLOT_BYTES_MAX};
use crate::partition::places::{CommitPlace, PartitionShare, Place, SegmentId, SegmentIndex};

const MAGIC: u64 = u64::from_le_bytes(*b"TLOGINDX");
const VERSION: u32 = 1;

/// The file as bytes.
pub(crate) fn encode(id: &SegmentId, index: &SegmentIndex) -> Vec<u8> {
    let mut file = Vec::new();
    put_identity(id, &mut file);
    file.put_u64(index.last_hash);
    file.put_list(&index.commits, put_commit);
    // Counted here, not by `put_list`: a share is itself a list.
    file.put_u32(length_u32(index.shares.len()));
    for share in &index.shares {
        put_share(share, &mut file);
    }
    let crc = crc32fast::hash(&file);
    file.put_u32(crc);
    file
}

/// Reads a file. `None`: it is torn, rotten, malformed, or of another segment than `id`.
pub(crate) fn decode(id: &SegmentId, file: &[u8]) -> Option<SegmentIndex> {
    let (covered, crc) = file.split_last_chunk::<4>()?;
    let mut identity = Vec::new();
    put_identity(id, &mut identity);
    let mut fields = Fields::new(covered.strip_prefix(identity.as_slice())?);
    if crc32fast::hash(covered) != u32::from_le_bytes(*crc) {
        return None;
    }
    let last_hash = fields.u64()?;
    let commits = fields.list(commit)?;
    let shares = fields.list(share)?;
    let index = SegmentIndex { commits, shares, last_hash };
    (fields.is_empty() && is_sound(&index)).then_some(index)
}

/// Of which segment a file says that it is, for those who look at files; the slot is not in it.
pub(crate) fn identity(file: &[u8]) -> Option<SegmentId> {
    let mut fields = Fields::new(file);
    if fields.u64()? != MAGIC || fields.u32()? != VERSION {
        return None;
    }
    let (number, run) = (SegmentNumber(fields.u64()?), Run(fields.u64()?));
    Some(SegmentId { number, run, salt: Salt(fields.u64()?), slot: SlotId(0) })
}

fn put_identity(id: &SegmentId, file: &mut Vec<u8>) {
    file.put_u64(MAGIC);
    file.put_u32(VERSION);
    file.put_u64(id.number.0);
    file.put_u64(id.run.0);
    file.put_u64(id.salt.0);
}

fn put_commit(file: &mut Vec<u8>, commit: &CommitPlace) {
    file.put_u64(commit.number.0);
    file.put_time(commit.append_time);
    file.put_u32(commit.position);
    file.put_u32(commit.commit_bytes);
}

fn commit(fields: &mut Fields<'_>) -> Option<CommitPlace> {
    Some(CommitPlace {
        number: CommitNumber(fields.u64()?),
        append_time: fields.time()?,
        position: fields.u32()?,
        commit_bytes: fields.u32()?,
    })
}

fn put_share(share: &PartitionShare, file: &mut Vec<u8>) {
    file.put_u32(share.partition.topic.0);
    file.put_u32(share.partition.partition);
    file.put_time(share.event_time_max);
    file.put_u64(share.end.0);
    file.put_list(&share.places, |file, place| {
        file.put_u64(place.base_offset.0);
        file.put_u32(place.position());
        file.put_u32(place.batch_bytes);
    });
}

fn share(fields: &mut Fields<'_>) -> Option<PartitionShare> {
    Some(PartitionShare {
        partition: PartitionId::new(TopicId(fields.u32()?), fields.u32()?),
        event_time_max: fields.time()?,
        end: Offset(fields.u64()?),
        places: fields.list(|fields| {
            Place::at_position(Offset(fields.u64()?), fields.u32()?, fields.u32()?)
        })?,
    })
}

/// Whether it can be the index of a segment: in order, and within a slot.
fn is_sound(index: &SegmentIndex) -> bool {
    let mut end = u64::from(FIRST_COMMIT_AT);
    for commit in &index.commits {
        if u64::from(commit.position) < end || !is_whole_pages(commit) {
            return false;
        }
        end = u64::from(commit.position) + u64::from(commit.commit_bytes);
    }
    let commits_rise = index.commits.is_sorted_by(|one, other| {
        one.number < other.number && one.append_time < other.append_time
    });
    let shares_rise = index.shares.is_sorted_by(|one, other| one.partition < other.partition);
    commits_rise
        && shares_rise
        && end <= SLOT_BYTES_MAX
        && index.shares.iter().all(|share| is_share_sound(share, end))
}

fn is_whole_pages(commit: &CommitPlace) -> bool {
    let page = length_u32(PAGE_BYTES);
    commit.position.is_multiple_of(page)
        && commit.commit_bytes.is_multiple_of(page)
        && commit.commit_bytes > 0
}

/// Whether the places are in order and end before `segment_end`.
fn is_share_sound(share: &PartitionShare, segment_end: u64) -> bool {
    let in_order = share
        .places
        .is_sorted_by(|one, other| one.base_offset < other.base_offset && one.end() <= other.at());
    let (Some(first), Some(last)) = (share.places.first(), share.places.last()) else {
        return false;
    };
    let are_batches = share.places.iter().all(|it| it.batch_bytes as usize >= BATCH_HEADER_BYTES);
    in_order
        && are_batches
        && first.at() >= u64::from(FIRST_COMMIT_AT)
        && last.end() <= segment_end
        && last.base_offset < share.end
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tracklog_protocol::TimeMicros;

    use super::*;

    const ID: SegmentId =
        SegmentId { number: SegmentNumber(7), slot: SlotId(2), run: Run(3), salt: Salt(0x5EED) };

    fn place(base_offset: u64, at: u32, batch_bytes: u32) -> Place {
        Place::at_position(Offset(base_offset), at, batch_bytes).unwrap()
    }

    fn commit_at(number: u64, position: u32, commit_bytes: u32) -> CommitPlace {
        let append_time = TimeMicros(100 + number.cast_signed());
        CommitPlace { number: CommitNumber(number), append_time, position, commit_bytes }
    }

    fn share_of(partition: u32, end: u64, places: Vec<Place>) -> PartitionShare {
        PartitionShare {
            partition: PartitionId::new(TopicId(4), partition),
            event_time_max: TimeMicros(-5),
            places,
            end: Offset(end),
        }
    }

    fn index() -> SegmentIndex {
        SegmentIndex {
            commits: vec![commit_at(9, 4096, 8192), commit_at(10, 12288, 4096)],
            shares: vec![
                share_of(0, 12, vec![place(3, 4224, 72), place(10, 12416, 100)]),
                share_of(5, 1, vec![place(0, 12520, 64)]),
            ],
            last_hash: 0xABCD,
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(decode(&ID, &encode(&ID, &index())), Some(index()));
        let empty = SegmentIndex::default();
        assert_eq!(decode(&ID, &encode(&ID, &empty)), Some(empty));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encode(&ID, &index());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&ID, &bad), None, "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_and_every_tail_is_noticed() {
        let good = encode(&ID, &index());
        for length in 0..good.len() {
            assert_eq!(decode(&ID, &good[..length]), None, "cut to {length}");
        }
        assert_eq!(decode(&ID, &[good, vec![0]].concat()), None);
    }

    #[test]
    fn an_index_of_another_segment_is_not_taken() {
        let file = encode(&ID, &index());
        for other in [
            SegmentId { number: SegmentNumber(8), ..ID },
            SegmentId { run: Run(4), ..ID },
            SegmentId { salt: Salt(1), ..ID },
        ] {
            assert_eq!(decode(&other, &file), None);
        }
    }

    #[test]
    fn unsound_indexes_are_not_taken() {
        let check = |what: &str, change: &dyn Fn(&mut SegmentIndex)| {
            let mut index = index();
            change(&mut index);
            assert_eq!(decode(&ID, &encode(&ID, &index)), None, "{what}");
        };
        check("a commit in the slot's header", &|it| it.commits[0].position = 0);
        check("a commit off its page", &|it| it.commits[1].position += 8);
        check("a commit of no bytes", &|it| it.commits[1].commit_bytes = 0);
        check("commits that overlap", &|it| it.commits[0].commit_bytes = 12288);
        check("a commit twice", &|it| it.commits[1].number = CommitNumber(9));
        check("an append time that goes back", &|it| it.commits[1].append_time = TimeMicros(1));
        check("a commit beyond every slot", &|it| it.commits[1].commit_bytes = 1 << 30);
        check("a partition twice", &|it| it.shares[1].partition.partition = 0);
        check("a share of nothing", &|it| it.shares[1].places.clear());
        check("an end at its last record", &|it| it.shares[0].end = Offset(10));
        check("an offset that goes back", &|it| it.shares[0].places[1] = place(3, 12416, 100));
        check("batches that overlap", &|it| it.shares[0].places[0] = place(3, 4224, 9000));
        check("a batch without a header", &|it| it.shares[1].places[0] = place(0, 12520, 63));
        check("a batch in the slot's header", &|it| it.shares[0].places[0] = place(3, 64, 72));
        check("a batch behind the last commit", &|it| {
            it.shares[1].places[0] = place(0, 16376, 64);
        });
    }

    proptest! {
        #[test]
        fn hostile_bytes_under_a_good_checksum_never_panic(
            body in prop::collection::vec(any::<u8>(), 0..300),
            counts in any::<[u8; 2]>(),
        ) {
            let mut file = Vec::new();
            put_identity(&ID, &mut file);
            file.put_u64(1);
            file.put_u32(u32::from(counts[0] % 3));
            file.put(&body);
            let crc = crc32fast::hash(&file);
            file.put_u32(crc);
            if let Some(index) = decode(&ID, &file) {
                prop_assert_eq!(encode(&ID, &index), file);
            }
        }
    }

    #[test]
    fn a_count_without_elements_allocates_nothing() {
        let mut file = Vec::new();
        put_identity(&ID, &mut file);
        file.put_u64(1);
        file.put_u32(u32::MAX);
        let crc = crc32fast::hash(&file);
        file.put_u32(crc);
        assert_eq!(decode(&ID, &file), None);
    }
}
