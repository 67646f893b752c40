//! How the sources of a pack could be read, and whether what could not be is lost for good.
//!
//! Who leaves a batch out of a pack gives up its only copy. A checksum that does not hold says that it
//! is gone. That the disk refuses it may mean a dead sector, or a moment: of a volume that comes and
//! goes some pages are refused, and others are not.
//!
//! Promises
//! - What the disk refused is lost for good only where it refuses it again when all else was read.
//! - Of a source of which it refuses more than can be read nothing is lost for good.
//!
//! Called by the settler.

use tracklog_protocol::{BatchView, Offset, PartitionId};

use crate::disk::Loss;
use crate::partition::places::Place;
use crate::read::Reader;
use crate::settled::frames::Frames;
use crate::settled::sources::Source;

/// What is read at once: a partition's batches at some of its places in one source.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) source: &'a Source,
    pub(super) partition: PartitionId,
    pub(super) places: &'a [Place],
    /// Where what lies behind the last of them begins.
    pub(super) end: Offset,
}

impl Part<'_> {
    /// For each batch the batch, or how it was lost. An error, in words, where the disk gives nothing
    /// now.
    pub(super) fn read(
        &self,
        reader: &Reader,
        frames: &Frames,
    ) -> Result<Vec<Result<BatchView, Loss>>, String> {
        let of = (self.source.home, &self.source.index);
        reader.read_batches(of, self.partition, self.places, self.end, frames)
    }
}

/// How one source could be read.
#[derive(Default)]
pub(super) struct Readings<'a> {
    good: usize,
    /// Parts of which the disk refused some, and how many batches of each.
    refused: Vec<(Part<'a>, usize)>,
}

impl<'a> Readings<'a> {
    /// Notes what reading a part of the source gave.
    pub(super) fn note(&mut self, part: Part<'a>, batches: &[Result<BatchView, Loss>]) {
        self.good += batches.iter().filter(|batch| batch.is_ok()).count();
        let refused = refused(batches);
        if refused > 0 {
            self.refused.push((part, refused));
        }
    }

    /// Whether all that could not be read may be left out; an error, in words, where not yet.
    pub(super) fn losses_are_for_good(
        &self,
        reader: &Reader,
        frames: &Frames,
    ) -> Result<(), String> {
        let Some((Part { source, .. }, _)) = self.refused.first() else { return Ok(()) };
        let refused_in_all: usize = self.refused.iter().map(|(_, count)| count).sum();
        if refused_in_all > self.good {
            let (home, good) = (source.home, self.good);
            return Err(format!("{home}: {refused_in_all} batches cannot be read, {good} can"));
        }
        for (part, before) in &self.refused {
            if refused(&part.read(reader, frames)?) < *before {
                return Err(format!("{}: what was refused can be read again", source.home));
            }
        }
        Ok(())
    }
}

/// How many of the batches the disk refused.
fn refused(batches: &[Result<BatchView, Loss>]) -> usize {
    batches.iter().filter(|batch| matches!(batch, Err(Loss::Refused(_)))).count()
}
