//! What the footer of a pack says beyond where its batches lie: enough to open a log of which no
//! checkpoint is left. FORMAT.md §9.
//!
//! - [`Commits`]: which commits the pack stands for, on what their runs stand, and the last of them
//!   that holds data. With it whoever opens the log sees whether a commit is missing.
//! - [`Witness`]: the log at the moment when the pack was made: what was listed (all below that is
//!   not was given up), where partitions started and ended, and which damage was known.
//!
//! Promises: reading bytes of any kind never panics. Written by the settler, read by recovery.

use std::sync::Arc;

use tracklog_log::{Extent, Topic};
use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};

use crate::checkpoint::{decode_topic, encode_topic};
use crate::disk::PackId;
use crate::fields::{Fields, FieldsMut};
use crate::journal::commit::{Base, CommitNumber, Opened, Run, Stretch};
use crate::published::SealedProducers;
use crate::seen::producers::Standing;

/// The commits that a pack stands for, be their batches in it, or trimmed, or damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Commits {
    /// The last of them that holds data.
    pub(crate) base: Option<Base>,
    /// By run, in order. A run comes again where something between was given up before the two
    /// became one pack.
    pub(crate) parts: Vec<RunPart>,
}

/// Commits of one run, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunPart {
    pub(crate) commits: Stretch,
    /// On what the run stands.
    pub(crate) base: Option<Base>,
    /// The append time of the first of the commits.
    pub(crate) began: TimeMicros,
}

impl Commits {
    pub(crate) fn first(&self) -> Option<(Run, CommitNumber)> {
        self.parts.first().map(|part| (part.commits.run, part.commits.first))
    }

    pub(crate) fn last(&self) -> Option<(Run, CommitNumber)> {
        self.parts.last().map(|part| (part.commits.run, part.commits.last))
    }

    /// Goes on with what comes behind.
    pub(crate) fn push(&mut self, part: RunPart) {
        match self.parts.last_mut() {
            Some(last)
                if last.commits.run == part.commits.run
                    && last.commits.last.next() >= part.commits.first =>
            {
                last.commits.last = part.commits.last;
            }
            _ => self.parts.push(part),
        }
    }

    /// Goes on with all of a pack that comes behind.
    pub(crate) fn append(&mut self, behind: &Self) {
        behind.parts.iter().for_each(|part| self.push(*part));
        self.base = behind.base.or(self.base);
    }

    /// All commits from the first to the last of them: what was given up in between is no more
    /// missing than what is there.
    pub(crate) fn span(&self, run: Run) -> Option<Stretch> {
        let mut of_run = self.parts.iter().filter(|part| part.commits.run == run);
        let first = of_run.clone().next()?.commits.first;
        let last = of_run.next_back()?.commits.last;
        let begins = self.first().is_some_and(|(first, _)| first == run);
        let ends = self.last().is_some_and(|(last, _)| last == run);
        Some(Stretch {
            run,
            first: if begins { first } else { CommitNumber(1) },
            last: if ends { last } else { CommitNumber(u64::MAX) },
        })
    }

    pub(crate) fn encode(&self, fields: &mut Vec<u8>) {
        Base::encode(self.base, fields);
        fields.put_list(&self.parts, |fields, part| {
            part.commits.encode(fields);
            Base::encode(part.base, fields);
            fields.put_time(part.began);
        });
    }

    pub(crate) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let base = Base::decode(fields)?;
        let parts = fields.list(|fields| {
            let (commits, base) = (Stretch::decode(fields)?, Base::decode(fields)?);
            Some(RunPart { commits, base, began: fields.time()? })
        })?;
        let rise = parts.is_sorted_by(|one, other| {
            let (one, other) = (one.commits, other.commits);
            (one.run, one.last) < (other.run, other.first)
        });
        let numbered = parts.iter().all(|part| part.commits.first > CommitNumber::NONE);
        (rise && numbered && !parts.is_empty()).then_some(Self { base, parts })
    }
}

/// See the head of this file.
#[derive(Clone, Debug)]
pub(crate) struct Witness {
    /// The run that made the pack, and its last commit that was published then.
    pub(crate) run: Run,
    pub(crate) published: CommitNumber,
    /// On what that run stood, and the damage that it knew.
    pub(crate) opened: Opened,
    /// Where producers stood behind all that is in packs, or later.
    pub(crate) producers: SealedProducers,
    /// All topics.
    pub(crate) topics: Vec<Topic>,
    /// All packs that were listed then, and all segments: these as packs of generation 0.
    pub(crate) listed: Vec<PackId>,
    pub(crate) partitions: Vec<(PartitionId, Extent)>,
}

impl Witness {
    pub(crate) fn encode(&self, fields: &mut Vec<u8>) {
        fields.put_u64(self.run.0);
        fields.put_u64(self.published.0);
        fields.put_sized(&self.opened.encode());
        fields.put_time(self.producers.append_time);
        fields.put_list(&self.producers.standings, |fields, standing| standing.encode(fields));
        fields.put_list(&self.topics, encode_topic);
        fields.put_list(&self.listed, |fields, pack| {
            fields.put_u64(pack.first);
            fields.put_u64(pack.last);
            fields.put_u32(pack.generation);
        });
        fields.put_list(&self.partitions, |fields, (partition, extent)| {
            fields.put_u32(partition.topic.0);
            fields.put_u32(partition.partition);
            fields.put_u64(extent.start.0);
            fields.put_u64(extent.end.0);
        });
    }

    pub(crate) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            run: Run(fields.u64()?),
            published: CommitNumber(fields.u64()?),
            opened: Opened::decode(fields.sized()?)?,
            producers: SealedProducers {
                append_time: fields.time()?,
                standings: Arc::new(fields.list(Standing::decode)?),
            },
            topics: fields.list(decode_topic)?,
            listed: fields.list(|fields| {
                let (first, last) = (fields.u64()?, fields.u64()?);
                Some(PackId { first, last, generation: fields.u32()? })
            })?,
            partitions: fields.list(|fields| {
                let partition = PartitionId::new(TopicId(fields.u32()?), fields.u32()?);
                let (start, end) = (Offset(fields.u64()?), Offset(fields.u64()?));
                Some((partition, Extent { start, end }))
            })?,
        })
    }

    /// Whether all segments above `below` and below `above` were given up when the pack was made:
    /// a later one was listed, and none of them.
    pub(crate) fn gave_up(&self, below: u64, above: u64) -> bool {
        let hole = |pack: &PackId| pack.first < above && pack.last > below;
        self.listed.iter().any(|pack| pack.last >= above) && !self.listed.iter().any(hole)
    }

    /// Whether the pack was listed, and so had been read back from the disk.
    pub(crate) fn lists(&self, pack: PackId) -> bool {
        self.listed.contains(&pack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(run: u64, first: u64, last: u64) -> RunPart {
        let commits =
            Stretch { run: Run(run), first: CommitNumber(first), last: CommitNumber(last) };
        RunPart { commits, base: None, began: TimeMicros(0) }
    }

    fn of(parts: &[RunPart]) -> Commits {
        let mut commits = Commits::default();
        parts.iter().for_each(|part| commits.push(*part));
        commits
    }

    #[test]
    fn stretches_of_a_run_that_touch_are_one_and_others_stay_apart() {
        let commits = of(&[part(1, 1, 4), part(1, 5, 9), part(1, 20, 30), part(3, 1, 2)]);
        assert_eq!(commits.parts, [part(1, 1, 9), part(1, 20, 30), part(3, 1, 2)]);
        let mut bytes = Vec::new();
        commits.encode(&mut bytes);
        assert_eq!(Commits::decode(&mut Fields::new(&bytes)), Some(commits));
    }

    #[test]
    fn what_was_given_up_inside_of_a_pack_counts_to_its_span() {
        let commits = of(&[part(1, 7, 9), part(1, 20, 30), part(3, 5, 6), part(4, 2, 8)]);
        let span = |run| commits.span(Run(run)).map(|it| (it.first.0, it.last.0));
        assert_eq!(span(1), Some((7, u64::MAX)));
        assert_eq!((span(2), span(3)), (None, Some((1, u64::MAX))));
        assert_eq!(span(4), Some((1, 8)));
    }

    #[test]
    fn segments_were_given_up_where_a_later_one_was_listed_and_they_were_not() {
        let pack = |first, last| PackId { first, last, generation: 1 };
        let witness = Witness {
            run: Run(1),
            published: CommitNumber(5),
            opened: Opened::default(),
            producers: SealedProducers::default(),
            topics: Vec::new(),
            listed: vec![pack(3, 4), pack(9, 9)],
            partitions: Vec::new(),
        };
        assert!(witness.gave_up(0, 3) && witness.gave_up(4, 9) && witness.gave_up(5, 7));
        assert!(!witness.gave_up(0, 4) && !witness.gave_up(3, 9) && !witness.gave_up(2, 9));
        assert!(!witness.gave_up(9, 12), "of what came later it knows nothing");
        let mut bytes = Vec::new();
        witness.encode(&mut bytes);
        for length in 0..bytes.len() {
            assert!(Witness::decode(&mut Fields::new(&bytes[..length])).is_none(), "{length}");
        }
        let again = Witness::decode(&mut Fields::new(&bytes)).expect("it is whole");
        assert_eq!((again.run, again.published), (witness.run, witness.published));
        assert_eq!((again.listed, again.partitions), (witness.listed, witness.partitions));
    }
}
