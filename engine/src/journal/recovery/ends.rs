//! Where the run ends that no later one has ended.
//!
//! Promises
//! - Up to the highest commit that a witness vouches for nothing is cut: what is missing there is
//!   damage, or refused.
//! - Above it, the first commit that is not whole is cut, and all behind it.
//! - Where what may have held acked commits is not there at all, the opening is refused, unless the
//!   operator accepts the loss: then offsets skip as many records as may be lost.

use std::collections::BTreeMap;

use super::{
    Content, Cut, Note, Recovery, SKIP_PER_COMMIT, Segment, first_number, numbers, records_max,
};
use crate::checkpoint::Position;
use crate::error::OpenError;
use crate::journal::commit::{CommitNumber, Run, Stretch};
use crate::journal::walk::Pages;
use crate::partition::places::SegmentId;

impl Recovery<'_> {
    /// Decides where the run that no later one has ended ends.
    pub(super) fn judge(
        &mut self,
        run: Run,
        segments: &mut [Segment],
        first: CommitNumber,
        behind: Option<Position>,
    ) -> Result<CommitNumber, OpenError> {
        let vouched = self.vouched(run, segments, behind);
        let numbers: BTreeMap<CommitNumber, usize> = numbers(segments);
        let highest = numbers.last_key_value().map_or(CommitNumber::NONE, |(number, _)| *number);
        // A rotten `opened` is made up for by the header of its slot.
        let opened = self.inventory.headers.values().any(|header| header.run == run);
        let known = highest.max(CommitNumber(u64::from(opened))).max(self.last_settled(run));
        if vouched > known {
            self.lose(Stretch { run, first: known.next(), last: vouched })?;
        }
        self.check_sizes(segments)?;
        if vouched > known {
            return Ok(known);
        }
        let mut end = vouched.max(CommitNumber(first.0 - 1));
        while let Some(at) = numbers.get(&end.next()) {
            if !self.is_whole(&segments[*at], end.next())? {
                break;
            }
            end = end.next();
        }
        for segment in segments {
            self.cut_above(segment, end);
        }
        Ok(end)
    }

    /// A slot, or the end of its file, is missing or cannot be read: behind the last commit of the run that no later
    /// one has ended, it may have held acked commits with all that vouches for them. (What lies
    /// before a commit that is there, that one's number tells.)
    fn check_sizes(&mut self, segments: &[Segment]) -> Result<(), OpenError> {
        let last = segments.iter().rposition(|segment| first_number(segment).is_some());
        for (at, segment) in segments.iter().enumerate() {
            let slot = segment.id.slot;
            if let Some(what) = self.taken_back(segment) {
                self.give_up_end(&what, self.slot_bytes)?;
                continue;
            }
            let unreadable = self.is_unreadable(segment, Pages::None);
            let bytes = self.inventory.slots.get(&slot).copied().filter(|_| !unreadable);
            let missing_bytes = self.slot_bytes.saturating_sub(bytes.unwrap_or(0));
            if missing_bytes == 0 {
                continue;
            }
            if last.is_none_or(|last| at >= last) {
                let what = if unreadable {
                    format!("{slot} cannot be read")
                } else {
                    format!("the last {missing_bytes} bytes of {slot} are missing")
                };
                self.give_up_end(&what, missing_bytes)?;
            }
            if bytes.is_some() {
                self.notes.push(Note::SlotShort { slot, missing_bytes });
            }
        }
        Ok(())
    }

    /// What is to be said of a segment of which nothing is there, not even its header, though that
    /// was durable before a checkpoint named it: the slot is as it was before. Rot leaves no whole
    /// header of an earlier segment, and does not empty a slot.
    fn taken_back(&self, segment: &Segment) -> Option<String> {
        let Content::Walked(walked) = &segment.content else { return None };
        let SegmentId { number, slot, run, .. } = segment.id;
        let checkpoint = self.inventory.checkpoint.as_ref()?;
        if !walked.found.is_empty() || checkpoint.slots.iter().all(|id| id.number != number) {
            return None;
        }
        let before = match self.inventory.headers.get(&slot) {
            Some(header) if header.segment < number => format!("segment {}", header.segment),
            None if self.inventory.blank.contains(&slot) => "nothing".to_owned(),
            _ => return None,
        };
        Some(format!(
            "{slot} holds {before} where segment {number} of run {run} was (old files put back, or \
             a disk that lied about flushing): its commits are gone"
        ))
    }

    /// Whether the segment is named, no commit of it is known, and pages of it, or all of them,
    /// could not be read: then nobody knows what it holds.
    pub(super) fn is_unreadable(&self, segment: &Segment, pages: Pages) -> bool {
        let Content::Walked(walked) = &segment.content else { return false };
        let is_lost = walked.pages == Pages::None || walked.pages == pages;
        is_lost && walked.found.is_empty() && self.named.contains(&segment.id.number)
    }

    fn give_up_end(&mut self, what: &str, missing_bytes: u64) -> Result<(), OpenError> {
        if self.accept_loss {
            self.new_skip += records_max(missing_bytes);
            return Ok(());
        }
        let what = format!(
            "{what}, and may have held acked commits; to go on without them, open with \
             --accept-loss"
        );
        Err(OpenError::Damaged { what })
    }

    /// The highest commit that a witness of this run vouches for.
    fn vouched(&self, run: Run, segments: &[Segment], behind: Option<Position>) -> CommitNumber {
        let of_checkpoint = behind.filter(|position| position.run == run);
        let of_checkpoint = of_checkpoint.map_or(CommitNumber::NONE, |position| position.number);
        let marks = segments.iter().map(|segment| match &segment.content {
            Content::Walked(walked) => walked.mark,
            Content::Indexed(index) => {
                index.commits.last().map_or(CommitNumber::NONE, |commit| commit.number)
            }
        });
        marks.fold(of_checkpoint.max(self.vouched_by_packs(run)), CommitNumber::max)
    }

    /// Commits that were acked are beyond the end of the journal.
    fn lose(&mut self, lost: Stretch) -> Result<(), OpenError> {
        if self.given_up.holds(&lost) {
            return Ok(());
        }
        if !self.accept_loss {
            let Stretch { run, first, last } = lost;
            return Err(OpenError::LostCommits { run, first, last });
        }
        self.given_up.insert(lost);
        self.new_skip += SKIP_PER_COMMIT * lost.count();
        let Stretch { run, first, last } = lost;
        self.notes.push(Note::GivenUp { run, first, last });
        Ok(())
    }

    fn is_whole(&self, segment: &Segment, number: CommitNumber) -> Result<bool, OpenError> {
        let Content::Walked(walked) = &segment.content else { return Ok(true) };
        let found = walked.found.iter().find(|found| found.header.number == number);
        let found = found.expect("the number came from this segment");
        Ok(self.walker(segment.id)?.is_whole(found))
    }

    /// Takes what lies above the end out of the segment.
    fn cut_above(&mut self, segment: &mut Segment, end: CommitNumber) {
        let Content::Walked(walked) = &mut segment.content else { return };
        let keep = walked.found.partition_point(|found| found.header.number <= end);
        let cut = walked.found.split_off(keep);
        let (Some(first), Some(last)) = (cut.first(), cut.last()) else { return };
        self.cuts.push(Cut {
            id: segment.id,
            from: first.header.position,
            to: last.header.end(),
            commits: Stretch {
                run: segment.id.run,
                first: first.header.number,
                last: last.header.number,
            },
            entries: cut.iter().flat_map(|found| found.entries.iter().copied()).collect(),
        });
    }
}
