//! What an operator should know about an opening.

use std::fmt;

use tracklog_protocol::{Offset, PartitionId};

use crate::disk::{PackId, SlotId};
use crate::journal::commit::{CommitNumber, Run};

/// Something that an operator should know about an opening.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Note {
    /// Acked commits cannot be read.
    Missing {
        /// Whose.
        run: Run,
        /// The first.
        first: CommitNumber,
        /// The last.
        last: CommitNumber,
        /// Whether an earlier opening has reported them.
        known: bool,
    },
    /// Commits that are torn, or lie behind a torn one, and that nothing shows to have been acked
    /// were taken out.
    Cut {
        /// Whose.
        run: Run,
        /// The first.
        first: CommitNumber,
        /// The last.
        last: CommitNumber,
        /// The records in them, by partition, as far as they can be read.
        records: Vec<(String, u32, Offset, Offset)>,
    },
    /// Acked commits were lost and the operator gave them up.
    GivenUp {
        /// Whose.
        run: Run,
        /// The first.
        first: CommitNumber,
        /// The last.
        last: CommitNumber,
    },
    /// A slot's header is rotten; it was read with what the checkpoint says of it.
    SlotHeader {
        /// Which slot.
        slot: SlotId,
    },
    /// A slot's file is too short: what it held at its end is lost.
    SlotShort {
        /// Which slot.
        slot: SlotId,
        /// How many bytes are missing.
        missing_bytes: u64,
    },
    /// A slot that the checkpoint names is not there.
    SlotGone {
        /// Which slot.
        slot: SlotId,
    },
    /// The disk gives nothing of what a slot in use holds. It is left as it is: another opening
    /// may be able to read it.
    SlotUnreadable {
        /// Which slot.
        slot: SlotId,
    },
    /// A pack cannot be read: what is in it is not to be found. It is left as it is.
    Pack {
        /// Which file.
        pack: PackId,
        /// Why, in words.
        why: String,
    },
    /// A pack that no checkpoint names is in use: what it was made of cannot all be read.
    Adopted {
        /// Which file.
        pack: PackId,
    },
    /// A pack cannot be read; what it was made of is in use again, as the older checkpoint says.
    StoodIn {
        /// Which file.
        pack: PackId,
    },
    /// No checkpoint is readable: what packs and the journal say served instead.
    Rebuilt {
        /// How many packs.
        packs: usize,
    },
    /// A checkpoint is torn, as a crash may leave one, or rotten; the other, or the journal, served.
    Checkpoint {
        /// Which file.
        file: String,
    },
    /// A record that the log keeps by key cannot be read.
    LostKey {
        /// Whose.
        partition: PartitionId,
        /// The batch's first offset.
        offset: Offset,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { run, first, last, known } => {
                let known = if *known { ", as reported before" } else { "" };
                write!(f, "damage: commits {first} to {last} of run {run} are missing{known}")
            }
            Self::Cut { run, first, last, records } => {
                write!(
                    f,
                    "cut commits {first} to {last} of run {run}, torn at the end of the log"
                )?;
                for (topic, partition, from, to) in records {
                    write!(f, "; {topic} partition {partition} offsets {from} to {}", to.0 - 1)?;
                }
                Ok(())
            }
            Self::GivenUp { run, first, last } => {
                write!(f, "given up by the operator: commits {first} to {last} of run {run}")
            }
            Self::SlotHeader { slot } => write!(f, "damage: the header of {slot} is rotten"),
            Self::SlotShort { slot, missing_bytes } => {
                write!(f, "damage: the last {missing_bytes} bytes of {slot} are missing")
            }
            Self::SlotGone { slot } => write!(f, "damage: {slot} is missing"),
            Self::SlotUnreadable { slot } => {
                write!(f, "damage: {slot} cannot be read; it is left as it is")
            }
            Self::Pack { pack, why } => {
                write!(f, "damage: {pack} cannot be read: {why}; it is left as it is")
            }
            Self::Adopted { pack } => write!(
                f,
                "{pack}, which no checkpoint names, is used: what it was made of cannot all be read"
            ),
            Self::StoodIn { pack } => {
                write!(f, "{pack} cannot be read; what it was made of is used in its place")
            }
            Self::Rebuilt { packs } => write!(
                f,
                "no checkpoint is readable: the log was put together from {packs} packs and the \
                 journal"
            ),
            Self::Checkpoint { file } => {
                write!(f, "{file} is torn or rotten; the log opened without it")
            }
            Self::LostKey { partition, offset } => {
                write!(f, "damage: keyed records at offset {offset} of {partition} are unreadable")
            }
        }
    }
}
