//! What the sources of a pack stand for: their runs and commits, as slot headers, indexes and the
//! footers of older packs say.
//!
//! Called by the settler.

use std::io;

use crate::disk::{Access, Disk, PAGE_BYTES, PageBuffer};
use crate::journal::commit::{Base, CommitKind, Opened, Run, Stretch};
use crate::journal::segment::SlotPage;
use crate::journal::walk::Walker;
use crate::partition::places::{Home, Index, SegmentId, SegmentIndex};
use crate::settled::witness::{Commits, RunPart};

/// A full segment or a pack that becomes part of another.
pub(super) struct Source {
    pub(super) home: Home,
    pub(super) index: Index,
}

/// See the head of this file.
pub(super) struct Heritage {
    /// The runs, and how far end offsets skipped at the head of each.
    pub(super) runs: Vec<(Run, u64)>,
    /// `None` where nothing readable says it.
    pub(super) commits: Option<Commits>,
}

/// What `sources` stand for, which are side by side. `current` is the run that goes on.
pub(super) fn heritage(
    disk: &dyn Disk,
    sources: &[Source],
    current: (Run, &Opened),
) -> io::Result<Heritage> {
    let mut heritage = Heritage { runs: Vec::new(), commits: Some(Commits::default()) };
    for source in sources {
        match (&source.home, &source.index) {
            (Home::Segment(id), Index::Segment(index)) => {
                heritage.add_segment(disk, *id, index, current)?;
            }
            (Home::Pack(_), Index::Pack(index)) => {
                let known = heritage.runs.last().map(|(run, _)| *run);
                heritage.runs.extend(index.runs.iter().filter(|(run, _)| Some(*run) != known));
                match (&mut heritage.commits, &index.commits) {
                    (Some(all), Some(own)) => all.append(own),
                    (all, _) => *all = None,
                }
            }
            _ => unreachable!("an index is of what it comes with"),
        }
    }
    Ok(heritage)
}

impl Heritage {
    fn add_segment(
        &mut self,
        disk: &dyn Disk,
        id: SegmentId,
        index: &SegmentIndex,
        (run, opened): (Run, &Opened),
    ) -> io::Result<()> {
        let known = self.runs.last().is_some_and(|(run, _)| *run == id.run);
        let mut base = self.commits.as_ref().and_then(|commits| commits.parts.last()?.base);
        if !known {
            let slot = disk.open_slot(id.slot, Access::Read)?;
            let mut page = PageBuffer::zeroed(PAGE_BYTES);
            slot.read(0, &mut page)?;
            let skip = match SlotPage::decode(&page, id.slot) {
                SlotPage::Header(header) if header.run == id.run => {
                    base = header.base;
                    header.skip
                }
                // Told at the last opening; what it said of skips is in the offsets.
                _ if id.run == run => {
                    base = opened.base;
                    opened.skip
                }
                _ => {
                    self.commits = None;
                    0
                }
            };
            self.runs.push((id.run, skip));
        }
        if let Some(commits) = &mut self.commits
            && let (Some(first), Some(last)) = (index.commits.first(), index.commits.last())
        {
            let stretch = Stretch { run: id.run, first: first.number, last: last.number };
            commits.push(RunPart { commits: stretch, base, began: first.append_time });
            commits.base = last_data(disk, id, index)?.or(commits.base);
        }
        Ok(())
    }
}

/// The last commit of a segment that holds data, as its header says: an index does not.
fn last_data(disk: &dyn Disk, id: SegmentId, index: &SegmentIndex) -> io::Result<Option<Base>> {
    let mut walker = Walker::new(disk.open_slot(id.slot, Access::Read)?, id);
    let headers = index.commits.iter().rev().filter_map(|commit| walker.header(commit.position));
    let mut data = headers.filter(|header| header.kind == CommitKind::Data);
    Ok(data.next().map(|it| Base { run: it.run, number: it.number, hash: it.hash() }))
}
