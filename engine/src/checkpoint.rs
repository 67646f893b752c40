//! Checkpoints: what the log adds up to at one published commit, so that opening need not read
//! everything again. FORMAT.md §4.
//!
//! Promises
//! - A [`Checkpoint`] in hand means that every section's checksum held and none is missing.
//! - Two files are written in turn: whatever happens while one is written, the other is whole.
//! - A section of a kind that is not known is passed over only if it says that it may be.
//! - A file counts as a later version's only under checksums that hold: rot in the version field
//!   does not keep a log from opening.

use bytes::Bytes;
use tracklog_log::{Extent, Retention, Topic, TopicName, TopicSpec};
use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};

use crate::catalog::{Catalog, LiveRecord};
use crate::disk::{FileName, SECTOR_BYTES, SlotId, lacks_a_sector};
use crate::fields::{Fields, FieldsMut};
use crate::journal::commit::{Base, CommitNumber, Opened, Run, Salt, SegmentNumber};
use crate::journal::segment::ClusterId;
use crate::partition::places::SegmentId;
use crate::sections::{
    MAY_SKIP, SECTION_HEAD_BYTES, next_section, section, section_that_may_be_skipped,
};
use crate::seen::producers::Standing;
use crate::settled::pack::PackHead;

const MAGIC: u64 = u64::from_le_bytes(*b"TLOGCKPT");
const VERSION: u32 = 1;

const SECTION_POSITION: u16 = 1;
const SECTION_SLOTS: u16 = 2;
const SECTION_PRODUCERS: u16 = 8;
const SECTION_ENDED: u16 = 3;
const SECTION_OPENED: u16 = 4;
const SECTION_TOPICS: u16 = 5;
const SECTION_PARTITIONS: u16 = 6;
const SECTION_LIVE: u16 = 7;
const SECTION_PACKS: u16 = 9;
const SECTION_END: u16 = u16::MAX;

/// The published commit that a checkpoint adds up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) run: Run,
    pub(crate) number: CommitNumber,
    /// The hash of its header.
    pub(crate) hash: u64,
    pub(crate) segment: SegmentNumber,
    /// Where in the segment it ends.
    pub(crate) end: u32,
    pub(crate) append_time: TimeMicros,
}

/// What the log adds up to at one published commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Rises from one checkpoint to the next.
    pub(crate) sequence: u64,
    pub(crate) cluster: ClusterId,
    pub(crate) slot_bytes: u64,
    pub(crate) position: Position,
    /// The last data commit up to there.
    pub(crate) base: Option<Base>,
    /// All segments in use, in order; the last is being written.
    pub(crate) slots: Vec<SegmentId>,
    /// The packs, in order; all of them older than the slots.
    pub(crate) packs: Vec<PackHead>,
    /// Where each ended run with segments in use ended.
    pub(crate) ended: Vec<Base>,
    /// What the current run's `opened` says.
    pub(crate) opened: Opened,
    pub(crate) topics: Vec<Topic>,
    pub(crate) partitions: Vec<(PartitionId, Extent)>,
    pub(crate) live: Vec<(PartitionId, Bytes, LiveRecord)>,
    /// Where idempotent producers stand, those who wrote longest ago first.
    pub(crate) producers: Vec<Standing>,
}

/// Why a file is no checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckpointError {
    /// Torn, rotten or empty.
    Bad,
    /// Of a later version.
    Newer,
}

impl Checkpoint {
    /// Which of the two files it goes to.
    pub(crate) const fn file(&self) -> FileName {
        if self.sequence % 2 == 1 { FileName::CheckpointA } else { FileName::CheckpointB }
    }

    /// The catalog, with the live records of all compacted topics.
    pub(crate) fn catalog(&self) -> Catalog {
        let mut catalog = Catalog::new();
        for topic in &self.topics {
            if catalog.topic(topic.name()).is_none() {
                catalog.insert(topic.clone());
            }
        }
        for (partition, key, live) in &self.live {
            catalog.restore_live(*partition, key.clone(), live.clone());
        }
        catalog
    }

    /// The file as bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut file = Vec::new();
        file.put_u64(MAGIC);
        file.put_u32(VERSION);
        section(&mut file, SECTION_POSITION, |fields| {
            fields.put_u64(self.sequence);
            fields.put_u128(self.cluster.0);
            fields.put_u64(self.slot_bytes);
            encode_position(&self.position, fields);
            Base::encode(self.base, fields);
        });
        section(&mut file, SECTION_SLOTS, |fields| fields.put_list(&self.slots, encode_slot));
        section(&mut file, SECTION_ENDED, |fields| {
            fields.put_list(&self.ended, |fields, base| Base::encode(Some(*base), fields));
        });
        section(&mut file, SECTION_OPENED, |fields| fields.put(&self.opened.encode()));
        section(&mut file, SECTION_TOPICS, |fields| fields.put_list(&self.topics, encode_topic));
        section(&mut file, SECTION_PARTITIONS, |fields| {
            fields.put_list(&self.partitions, |fields, (partition, extent)| {
                encode_partition(*partition, fields);
                fields.put_u64(extent.start.0);
                fields.put_u64(extent.end.0);
            });
        });
        section(&mut file, SECTION_LIVE, |fields| {
            fields.put_list(&self.live, |fields, (partition, key, live)| {
                encode_partition(*partition, fields);
                fields.put_u64(live.offset.0);
                fields.put_sized(key);
                fields.put_sized(&live.value);
            });
        });
        if !self.packs.is_empty() {
            // Who cannot read packs must not open the log without them.
            section(&mut file, SECTION_PACKS, |fields| {
                fields.put_list(&self.packs, |fields, head| head.encode(fields));
            });
        }
        section_that_may_be_skipped(&mut file, SECTION_PRODUCERS, |fields| {
            fields.put_list(&self.producers, |fields, standing| standing.encode(fields));
        });
        section(&mut file, SECTION_END, |fields| fields.put_u32(VERSION));
        file
    }

    /// Reads a file.
    pub(crate) fn decode(file: &[u8]) -> Result<Self, CheckpointError> {
        let mut fields = Fields::new(file);
        if fields.u64() != Some(MAGIC) {
            return Err(CheckpointError::Bad);
        }
        let version = fields.u32().ok_or(CheckpointError::Bad)?;
        if version != VERSION {
            let is_sworn = sworn_version(fields) == Some(version);
            return Err(if is_sworn { CheckpointError::Newer } else { CheckpointError::Bad });
        }
        let sections = Sections::read(fields)?;
        sections.checkpoint().ok_or(CheckpointError::Bad)
    }
}

/// The version that the end section repeats under its checksum, where every section before it is
/// good. The frame of a section is the same in all versions.
fn sworn_version(mut fields: Fields<'_>) -> Option<u32> {
    loop {
        let (kind, _, body) = next_section(&mut fields)?;
        if kind == SECTION_END {
            return Fields::new(body).u32();
        }
    }
}

/// The sections of a file, each under a checksum that held.
#[derive(Default)]
struct Sections<'a> {
    known: [Option<Fields<'a>>; SECTION_PACKS as usize + 1],
}

impl<'a> Sections<'a> {
    fn read(mut fields: Fields<'a>) -> Result<Self, CheckpointError> {
        let mut sections = Self::default();
        loop {
            let (kind, flags, body) = next_section(&mut fields).ok_or(CheckpointError::Bad)?;
            match sections.known.get_mut(usize::from(kind)) {
                Some(known) => *known = Some(Fields::new(body)),
                None if kind == SECTION_END => {
                    // The first logs have no version there.
                    let version = Fields::new(body).u32().unwrap_or(VERSION);
                    return if version == VERSION {
                        Ok(sections)
                    } else {
                        Err(CheckpointError::Bad)
                    };
                }
                None if flags & MAY_SKIP != 0 => {}
                None => return Err(CheckpointError::Newer),
            }
        }
    }

    fn section(&self, kind: u16) -> Option<Fields<'a>> {
        self.known[usize::from(kind)]
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        let mut head = self.section(SECTION_POSITION)?;
        let opened = self.section(SECTION_OPENED)?;
        Some(Checkpoint {
            sequence: head.u64()?,
            cluster: ClusterId(head.u128()?),
            slot_bytes: head.u64()?,
            position: decode_position(&mut head)?,
            base: Base::decode(&mut head)?,
            slots: self.section(SECTION_SLOTS)?.list(decode_slot)?,
            packs: match self.section(SECTION_PACKS) {
                Some(mut section) => section.list(PackHead::decode)?,
                None => Vec::new(),
            },
            ended: self.section(SECTION_ENDED)?.list(|fields| Base::decode(fields)?)?,
            opened: Opened::decode(opened.rest())?,
            topics: self.section(SECTION_TOPICS)?.list(decode_topic)?,
            partitions: self.section(SECTION_PARTITIONS)?.list(|fields| {
                let partition = decode_partition(fields)?;
                let (start, end) = (Offset(fields.u64()?), Offset(fields.u64()?));
                Some((partition, Extent { start, end }))
            })?,
            live: self.section(SECTION_LIVE)?.list(|fields| {
                let partition = decode_partition(fields)?;
                let offset = Offset(fields.u64()?);
                let key = Bytes::copy_from_slice(fields.sized()?);
                let value = Bytes::copy_from_slice(fields.sized()?);
                Some((partition, key, LiveRecord { offset, value }))
            })?,
            // Programs that knew no producers wrote none.
            producers: match self.section(SECTION_PRODUCERS) {
                Some(mut section) => section.list(Standing::decode)?,
                None => Vec::new(),
            },
        })
    }
}

/// The sections of a file as they lie there, whatever they hold: for those who look at files.
#[derive(Debug)]
pub(crate) struct Look {
    /// Kind, flags and length of the body of each section whose checksum held.
    pub(crate) sections: Vec<(u16, u16, usize)>,
    pub(crate) ending: Ending,
}

/// How the sections of a file end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With the last section.
    Whole,
    /// In the middle, or in zeros, or where a sector is missing: the file was being written.
    Torn,
    /// With something else.
    Rotten,
}

/// What is in a section of this kind.
pub(crate) const fn section_name(kind: u16) -> &'static str {
    match kind {
        SECTION_POSITION => "position",
        SECTION_SLOTS => "slots",
        SECTION_ENDED => "ended runs",
        SECTION_OPENED => "opened",
        SECTION_TOPICS => "topics",
        SECTION_PARTITIONS => "partitions",
        SECTION_LIVE => "live records",
        SECTION_PRODUCERS => "producers",
        SECTION_PACKS => "packs",
        SECTION_END => "end",
        _ => "of a later version",
    }
}

/// Looks at the sections of a file.
pub(crate) fn look(file: &[u8]) -> Look {
    let mut fields = Fields::new(file);
    let mut look = Look { sections: Vec::new(), ending: Ending::Rotten };
    let mut head = MAGIC.to_le_bytes().to_vec();
    head.put_u32(VERSION);
    if head.starts_with(file) || lacks_a_sector(&file[..file.len().min(SECTOR_BYTES)], 0) {
        look.ending = Ending::Torn;
        return look;
    }
    if fields.u64() != Some(MAGIC) || fields.u32() != Some(VERSION) {
        return look;
    }
    loop {
        let rest = fields.rest();
        let Some((kind, flags, body)) = next_section(&mut fields) else {
            let length = rest.get(4..8).and_then(|length| Fields::new(length).u32());
            let is_short =
                length.is_none_or(|length| rest.len() < SECTION_HEAD_BYTES + length as usize);
            if is_short || lacks_a_sector(file, file.len() - rest.len()) {
                look.ending = Ending::Torn;
            }
            return look;
        };
        look.sections.push((kind, flags, body.len()));
        if kind == SECTION_END {
            look.ending = if fields.is_empty() { Ending::Whole } else { Ending::Rotten };
            return look;
        }
    }
}

fn encode_position(position: &Position, fields: &mut Vec<u8>) {
    fields.put_u64(position.run.0);
    fields.put_u64(position.number.0);
    fields.put_u64(position.hash);
    fields.put_u64(position.segment.0);
    fields.put_u32(position.end);
    fields.put_time(position.append_time);
}

fn decode_position(fields: &mut Fields<'_>) -> Option<Position> {
    Some(Position {
        run: Run(fields.u64()?),
        number: CommitNumber(fields.u64()?),
        hash: fields.u64()?,
        segment: SegmentNumber(fields.u64()?),
        end: fields.u32()?,
        append_time: fields.time()?,
    })
}

fn encode_slot(fields: &mut Vec<u8>, id: &SegmentId) {
    fields.put_u32(id.slot.0);
    fields.put_u64(id.number.0);
    fields.put_u64(id.salt.0);
    fields.put_u64(id.run.0);
}

fn decode_slot(fields: &mut Fields<'_>) -> Option<SegmentId> {
    Some(SegmentId {
        slot: SlotId(fields.u32()?),
        number: SegmentNumber(fields.u64()?),
        salt: Salt(fields.u64()?),
        run: Run(fields.u64()?),
    })
}

fn encode_partition(partition: PartitionId, fields: &mut Vec<u8>) {
    fields.put_u32(partition.topic.0);
    fields.put_u32(partition.partition);
}

fn decode_partition(fields: &mut Fields<'_>) -> Option<PartitionId> {
    Some(PartitionId::new(TopicId(fields.u32()?), fields.u32()?))
}

pub(crate) fn encode_topic(fields: &mut Vec<u8>, topic: &Topic) {
    fields.put_u32(topic.id.0);
    fields.put_u32(topic.spec.partitions);
    fields.put_u8(u8::from(topic.spec.retention == Retention::Compact));
    fields.put_time(topic.created);
    fields.put_sized(topic.name().as_bytes());
}

pub(crate) fn decode_topic(fields: &mut Fields<'_>) -> Option<Topic> {
    let id = TopicId(fields.u32()?);
    let partitions = fields.u32()?;
    let compact = fields.u8()? == 1;
    let retention = if compact { Retention::Compact } else { Retention::Keep };
    let created = fields.time()?;
    let name = TopicName::new(str::from_utf8(fields.sized()?).ok()?).ok()?;
    Some(Topic { id, spec: TopicSpec { name, partitions, retention }, created })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sections::section_crc;

    /// The end section, with the version in it.
    const END_BYTES: usize = SECTION_HEAD_BYTES + 4;

    fn sample() -> Checkpoint {
        let spec = TopicSpec {
            name: TopicName::new("raw").unwrap(),
            partitions: 16,
            retention: Retention::Keep,
        };
        let run = Run(3);
        let partition = PartitionId::new(TopicId(1), 15);
        Checkpoint {
            sequence: 7,
            cluster: ClusterId(9),
            slot_bytes: 16 << 20,
            position: Position {
                run,
                number: CommitNumber(40),
                hash: 5,
                segment: SegmentNumber(8),
                end: 8192,
                append_time: TimeMicros(77),
            },
            base: Some(Base { run, number: CommitNumber(38), hash: 6 }),
            slots: vec![SegmentId {
                number: SegmentNumber(8),
                slot: SlotId(1),
                run,
                salt: Salt(4),
            }],
            packs: vec![crate::settled::pack::sample_head()],
            ended: vec![Base { run: Run(2), number: CommitNumber(9), hash: 1 }],
            opened: Opened { skip: 1 << 20, ..Opened::default() },
            topics: vec![Topic { id: TopicId(1), spec, created: TimeMicros(1) }],
            partitions: vec![(partition, Extent { start: Offset(2), end: Offset(9) })],
            live: vec![(
                partition,
                Bytes::from_static(b"key"),
                LiveRecord { offset: Offset(3), value: Bytes::from_static(b"value") },
            )],
            producers: vec![crate::seen::producers::sample(partition)],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let checkpoint = sample();
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Ok(checkpoint));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_noticed() {
        let good = sample().encode();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Checkpoint::decode(&bad), Err(CheckpointError::Bad), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(Checkpoint::decode(&good[..length]).is_err(), "length {length}");
        }
    }

    /// A version that has no section but the end.
    fn of_version(version: u32, sworn: u32) -> Vec<u8> {
        let mut file = Vec::new();
        file.put_u64(MAGIC);
        file.put_u32(version);
        section(&mut file, SECTION_END, |fields| fields.put_u32(sworn));
        file
    }

    #[test]
    fn a_later_version_is_told_only_where_the_end_repeats_it() {
        assert_eq!(Checkpoint::decode(&of_version(2, 2)), Err(CheckpointError::Newer));
        assert_eq!(Checkpoint::decode(&of_version(2, 1)), Err(CheckpointError::Bad));
        assert_eq!(Checkpoint::decode(&of_version(1, 2)), Err(CheckpointError::Bad));
        let mut torn = of_version(2, 2);
        torn.pop();
        assert_eq!(Checkpoint::decode(&torn), Err(CheckpointError::Bad));
    }

    #[test]
    fn a_file_of_the_first_logs_whose_end_is_empty_is_read() {
        let mut file = sample().encode();
        file.truncate(file.len() - END_BYTES);
        section(&mut file, SECTION_END, |_| {});
        assert_eq!(Checkpoint::decode(&file), Ok(sample()));
    }

    #[test]
    fn programs_that_know_no_producers_pass_them_over_and_wrote_none() {
        let file = sample().encode();
        let sections = look(&file).sections;
        let producers = sections.iter().find(|(kind, ..)| *kind == SECTION_PRODUCERS);
        let (_, flags, bytes) = producers.expect("the section is there");
        assert_eq!(*flags, MAY_SKIP);
        let end = file.len() - END_BYTES;
        let mut without = file[..end - SECTION_HEAD_BYTES - bytes].to_vec();
        without.extend_from_slice(&file[end..]);
        let producers = Vec::new();
        assert_eq!(Checkpoint::decode(&without), Ok(Checkpoint { producers, ..sample() }));
    }

    #[test]
    fn an_unknown_section_is_passed_over_only_when_it_may_be() {
        let mut file = sample().encode();
        file.truncate(file.len() - END_BYTES);
        let with = |flags: u16| {
            let mut file = file.clone();
            let at = file.len();
            section(&mut file, 900, |fields| fields.put_u64(1));
            file[at + 2..at + 4].copy_from_slice(&flags.to_le_bytes());
            let crc = section_crc(&file[at..at + 8], &file[at + 12..]);
            file[at + 8..at + 12].copy_from_slice(&crc.to_le_bytes());
            section(&mut file, SECTION_END, |_| {});
            Checkpoint::decode(&file)
        };
        assert_eq!(with(MAY_SKIP), Ok(sample()));
        assert_eq!(with(0), Err(CheckpointError::Newer));
    }
}
