//! Recovery: what the files of a log add up to, decided by reading alone. FORMAT.md §6.
//!
//! 1. Load the newest valid checkpoint and all slot headers.
//! 2. Find the runs that count: from the highest one down, each names the commit on which it
//!    stands; whatever lies between is void.
//! 3. Walk every segment in use, run by run, and apply the commits behind the checkpoint.
//! 4. Judge the run that no later one has ended: up to the highest commit that a witness vouches
//!    for, a bad commit is damage; above it, the first bad one and all behind it are cut.
//!
//! Promises: it writes nothing, so it may be stopped at any point and repeated; acked data is
//! never taken for a torn tail; nothing that was cut comes back; damage is reported with its
//! place. What has to be written (step 5) is `open`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracklog_log::Extent;
use tracklog_protocol::{BatchView, Offset, PartitionId, TimeMicros, TopicId};

use crate::catalog::{Catalog, Change};
use crate::checkpoint::Position;
use crate::disk::{Access, Disk, FileName, PackId, SlotId, twice};
use crate::error::OpenError;
use crate::index_file;
use crate::journal::commit::{
    Base, CommitHeader, CommitKind, CommitNumber, DirectoryEntry, Opened, Run, Sealed,
    SegmentNumber, Stretch,
};
use crate::journal::intake::APPEND_RECORDS_MAX;
use crate::journal::segment::{ClusterId, SlotHeader};
use crate::journal::stretches::Stretches;
use crate::journal::walk::{Found, Pages, Walked, Walker};
use crate::partition::places::{IndexBuilder, SegmentId, SegmentIndex};
use crate::seen::producers::Producers;
use crate::settled::pack::PackIndex;

mod ends;
mod inventory;
mod note;
mod packs;

pub use note::Note;

use inventory::{Inventory, take_inventory};
use packs::Packed;

/// So far every end offset skips for each commit whose extent cannot be told: as many records as
/// one can hold.
pub(crate) const SKIP_PER_COMMIT: u64 = APPEND_RECORDS_MAX;

/// What was cut: commits that are torn, or lie behind a torn one, and that nothing vouches for.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub(crate) id: SegmentId,
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) commits: Stretch,
    /// What was in them, as far as it can be read.
    pub(crate) entries: Vec<DirectoryEntry>,
}

/// What the files of a log add up to.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) cluster: ClusterId,
    pub(crate) slot_bytes: u64,
    pub(crate) catalog: Catalog,
    pub(crate) extents: BTreeMap<PartitionId, Extent>,
    /// All segments in use, in order.
    pub(crate) segments: Vec<(SegmentId, Arc<SegmentIndex>)>,
    /// Those of them that have no index file.
    pub(crate) unindexed: Vec<SegmentNumber>,
    /// All packs in use, in order.
    pub(crate) packs: Vec<Arc<PackIndex>>,
    /// Packs' files that are of no use once both checkpoints are written anew.
    pub(crate) unnamed_packs: Vec<PackId>,
    /// The last good data commit.
    pub(crate) base: Option<Base>,
    pub(crate) append_time: TimeMicros,
    /// Where idempotent producers stand.
    pub(crate) producers: Producers,
    /// Where every ended run with segments in use ended, the one just judged included.
    pub(crate) ended: Vec<Base>,
    pub(crate) highest_run: Run,
    pub(crate) highest_segment: SegmentNumber,
    /// How far the coming run's `opened` has to skip.
    pub(crate) skip: u64,
    /// And how far besides, where no checkpoint can be read.
    pub(crate) skip_without_checkpoint: u64,
    /// All commits known to be missing.
    pub(crate) damaged: Vec<Stretch>,
    pub(crate) given_up: Vec<Stretch>,
    pub(crate) cuts: Vec<Cut>,
    /// Slots that no valid checkpoint names and no segment in use lies in.
    pub(crate) unused: Vec<SlotId>,
    /// Slots that will be unused once both checkpoints are written anew.
    pub(crate) unused_later: Vec<SlotId>,
    /// The highest slot number that a file has, or that a checkpoint or a segment names.
    pub(crate) highest_slot: Option<SlotId>,
    pub(crate) checkpoint_sequence: u64,
    /// For the operator.
    pub(crate) notes: Vec<Note>,
}

/// On what a run stands, and how far it skips.
#[derive(Clone, Copy, Debug)]
struct Stand {
    base: Option<Base>,
    skip: u64,
}

/// Reads the log on `disk`; `None` when there is none.
pub(crate) fn recover(disk: &dyn Disk, accept_loss: bool) -> Result<Option<Recovered>, OpenError> {
    let Some(inventory) = take_inventory(disk)? else { return Ok(None) };
    Recovery::new(disk, inventory, accept_loss)?.run().map(Some)
}

/// A segment in use, and what was found in it.
struct Segment {
    id: SegmentId,
    content: Content,
}

enum Content {
    /// Read from its index file: a full segment below the checkpoint.
    Indexed(SegmentIndex),
    Walked(Walked),
}

struct Recovery<'a> {
    disk: &'a dyn Disk,
    inventory: Inventory,
    accept_loss: bool,
    cluster: ClusterId,
    slot_bytes: u64,
    /// By number: all segments that may count.
    segments: BTreeMap<SegmentNumber, SegmentId>,
    /// Those that the checkpoint or a `sealed` names: they may hold acked commits, whatever can be
    /// read of them.
    named: BTreeSet<SegmentNumber>,
    stands: BTreeMap<Run, Stand>,
    catalog: Catalog,
    extents: BTreeMap<PartitionId, Extent>,
    append_time: TimeMicros,
    producers: Producers,
    damaged: Stretches,
    given_up: Stretches,
    new_skip: u64,
    skip_without_checkpoint: u64,
    cuts: Vec<Cut>,
    notes: Vec<Note>,
    base: Option<Base>,
    indexes: Vec<(SegmentId, Arc<SegmentIndex>)>,
    unindexed: Vec<SegmentNumber>,
    packs: Vec<Arc<PackIndex>>,
    packed: Packed,
    ended: Vec<Base>,
}

impl<'a> Recovery<'a> {
    fn new(
        disk: &'a dyn Disk,
        mut inventory: Inventory,
        accept_loss: bool,
    ) -> Result<Self, OpenError> {
        let checkpoint = inventory.checkpoint.as_ref();
        let first = inventory.headers.values().next();
        let cluster = checkpoint.map(|checkpoint| (checkpoint.cluster, checkpoint.slot_bytes));
        let cluster = cluster.or_else(|| first.map(|header| (header.cluster, header.slot_bytes)));
        let Some((cluster, slot_bytes)) = cluster else {
            let what = "no checkpoint and no slot header is readable".to_owned();
            return Err(OpenError::Damaged { what });
        };
        if let Some((slot, _)) =
            inventory.headers.iter().find(|(_, header)| header.cluster != cluster)
        {
            return Err(OpenError::Damaged { what: format!("{slot} belongs to another log") });
        }
        if checkpoint.is_none()
            && let Some(slot) = inventory.bad.first()
        {
            let what = format!("no checkpoint is readable, and neither is the header of {slot}");
            return Err(OpenError::Damaged { what });
        }
        let notes = std::mem::take(&mut inventory.notes);
        let mut recovery = Self {
            disk,
            inventory,
            accept_loss,
            cluster,
            slot_bytes,
            segments: BTreeMap::new(),
            named: BTreeSet::new(),
            stands: BTreeMap::new(),
            catalog: Catalog::new(),
            extents: BTreeMap::new(),
            append_time: TimeMicros(0),
            producers: Producers::default(),
            damaged: Stretches::default(),
            given_up: Stretches::default(),
            new_skip: 0,
            skip_without_checkpoint: 0,
            cuts: Vec::new(),
            notes,
            base: None,
            indexes: Vec::new(),
            unindexed: Vec::new(),
            packs: Vec::new(),
            packed: Packed::default(),
            ended: Vec::new(),
        };
        recovery.load_state();
        recovery.read_packs();
        recovery.find_segments();
        recovery.take_in_packs()?;
        Ok(recovery)
    }

    /// Starts from the checkpoint, if there is one.
    fn load_state(&mut self) {
        let Some(checkpoint) = self.inventory.checkpoint.clone() else {
            self.track_partitions();
            return;
        };
        self.catalog = checkpoint.catalog();
        self.producers = checkpoint.producers.into_iter().collect();
        self.extents = checkpoint.partitions.into_iter().collect();
        self.track_partitions();
        self.append_time = checkpoint.position.append_time;
        let stand = Stand { base: checkpoint.opened.base, skip: checkpoint.opened.skip };
        self.take_lists(checkpoint.opened);
        self.stands.insert(checkpoint.position.run, stand);
        self.base = checkpoint.base;
    }

    /// Reads the indexes of the packs that the checkpoint names.
    fn read_packs(&mut self) {
        let checkpoint = self.inventory.checkpoint.as_ref();
        for head in checkpoint.map_or_else(Vec::new, |checkpoint| checkpoint.packs.clone()) {
            let read = || PackIndex::read(&*self.disk.open_pack(head.id)?, self.cluster, head.id);
            let index = twice(read).unwrap_or_else(|error| {
                self.notes.push(Note::Pack { pack: head.id, why: error.to_string() });
                head.without_index()
            });
            self.packs.push(Arc::new(index));
        }
    }

    /// Gives every partition of the catalog an extent.
    fn track_partitions(&mut self) {
        let none = Extent { start: Offset::ZERO, end: Offset::ZERO };
        for (_, partition) in self.catalog.partitions() {
            self.extents.entry(partition).or_insert(none);
        }
    }

    /// Finds the segments that may count, and what slot headers say about their runs.
    fn find_segments(&mut self) {
        for header in self.inventory.headers.values() {
            let stand = Stand { base: header.base, skip: header.skip };
            self.stands.entry(header.run).or_insert(stand);
        }
        let checkpoint = self.inventory.checkpoint.as_ref();
        let last_named = checkpoint.and_then(|checkpoint| checkpoint.slots.last());
        for (slot, header) in &self.inventory.headers {
            // Below what the checkpoint names lie segments that were given up.
            if last_named.is_none_or(|last| header.segment > last.number) {
                self.segments.insert(header.segment, segment_id(*slot, header));
            }
        }
        for id in checkpoint.map_or(&[][..], |checkpoint| &checkpoint.slots) {
            self.named.insert(id.number);
            match self.inventory.headers.get(&id.slot) {
                Some(header) if header.segment > id.number => {}
                Some(header) if header.segment == id.number && header.salt == id.salt => {
                    self.segments.insert(id.number, *id);
                }
                _ => {
                    self.notes.push(self.without_header(id.slot));
                    self.segments.insert(id.number, *id);
                }
            }
        }
    }

    fn run(mut self) -> Result<Recovered, OpenError> {
        let highest_run = self.highest_run();
        let chain = self.chain_of_runs(highest_run)?;
        for (run, _) in chain.iter().rev() {
            self.note_opened(*run)?;
        }
        self.check_checkpoint(&chain)?;
        self.apply_packs();
        for (run, end) in chain.iter().rev() {
            self.walk_run(*run, *end)?;
        }
        let highest_segment = self.highest_segment();
        let carried = self.carried_skip(highest_run);
        self.check_accounts()?;
        self.raise_to_floors();
        self.raise_starts();
        self.new_skip += self.skip_for_checkpoints();
        self.skip(self.new_skip);
        self.note_damage();
        self.finish(highest_run, highest_segment, carried)
    }

    fn highest_run(&self) -> Run {
        let headers = self.inventory.headers.values().map(|header| header.run);
        let checkpoint = self.inventory.checkpoint.iter().map(|checkpoint| checkpoint.position.run);
        let known = headers.chain(checkpoint).max().expect("there is a header or a checkpoint");
        known.max(self.highest_in_packs().0)
    }

    fn highest_segment(&self) -> SegmentNumber {
        let headers = self.inventory.headers.values().map(|header| header.segment);
        let checkpoint = self.inventory.checkpoint.iter();
        let named = checkpoint.flat_map(|checkpoint| checkpoint.slots.iter().map(|id| id.number));
        // A segment that only a `sealed` names has its number too.
        let found = self.segments.keys().copied();
        let known = headers.chain(named).chain(found).max().unwrap_or_default();
        known.max(self.highest_in_packs().1)
    }

    /// The runs that count, the highest first, each with the number at which it ended.
    fn chain_of_runs(
        &mut self,
        highest: Run,
    ) -> Result<Vec<(Run, Option<CommitNumber>)>, OpenError> {
        let ended_before = self.inventory.checkpoint.as_ref();
        let ended_before =
            ended_before.map_or_else(Vec::new, |checkpoint| checkpoint.ended.clone());
        let lowest = self.segments.values().map(|id| id.run).min().unwrap_or(highest);
        let mut chain = vec![(highest, None)];
        let mut run = highest;
        while let Some(base) = self.stand(run, &ended_before)?.base {
            if base.run >= run {
                let what = format!("run {run} says that it stands on run {}", base.run);
                return Err(OpenError::Damaged { what });
            }
            let (mut below, mut end) = (base.run, base.number);
            if self.inventory.checkpoint.is_some() {
                if base.run < lowest {
                    break;
                }
            } else if self.segments_of(base.run).next().is_none() && !self.is_in_packs(base.run) {
                let Base { run, number, .. } = base;
                self.not_accounted_for(Stretch { run, first: number, last: number });
                let Some(known) = self.run_in_packs_below(base.run) else { break };
                (below, end) = known;
            }
            self.ended.insert(0, Base { run: below, number: end, ..base });
            chain.push((below, Some(end)));
            run = below;
        }
        Ok(chain)
    }

    /// On what `run` stands: its slot headers, its `opened`, or a checkpoint of it or later say.
    fn stand(&mut self, run: Run, ended_before: &[Base]) -> Result<Stand, OpenError> {
        if let Some(stand) = self.stands.get(&run) {
            return Ok(*stand);
        }
        let ids: Vec<SegmentId> = self.segments_of(run).collect();
        for id in ids {
            if let Some(opened) = self.read_opened(id)? {
                let stand = Stand { base: opened.base, skip: opened.skip };
                self.stands.insert(run, stand);
                return Ok(stand);
            }
        }
        // A later checkpoint lists the ends of all runs in use: the one before this is its base.
        let base = ended_before.iter().rev().find(|base| base.run < run).copied();
        if self.inventory.checkpoint.as_ref().is_some_and(|c| c.position.run >= run) {
            return Ok(Stand { base, skip: 0 });
        }
        let what = format!("nothing readable says on what run {run} stands");
        Err(OpenError::Damaged { what })
    }

    fn read_opened(&self, id: SegmentId) -> Result<Option<Opened>, OpenError> {
        if !self.inventory.slots.contains_key(&id.slot) {
            return Ok(None);
        }
        let mut walker = self.walker(id)?;
        let first = walker.first().filter(|header| header.kind == CommitKind::Opened);
        let body = first.and_then(|header| walker.control_body(&header));
        Ok(body.and_then(|body| Opened::decode(&body)))
    }

    fn segments_of(&self, run: Run) -> impl Iterator<Item = SegmentId> + '_ {
        self.segments.values().copied().filter(move |id| id.run == run)
    }

    fn walker(&self, id: SegmentId) -> Result<Walker, OpenError> {
        let open = self.disk.open_slot(id.slot, Access::Read);
        let slot = open.map_err(OpenError::io(format!("open {}", id.slot)))?;
        Ok(Walker::new(slot, id))
    }

    /// A checkpoint that adds up more than the runs that count hold contradicts the journal: old
    /// files were put beside newer ones.
    fn check_checkpoint(&self, chain: &[(Run, Option<CommitNumber>)]) -> Result<(), OpenError> {
        let Some(base) = self.base else { return Ok(()) };
        let lowest = chain.last().map_or(Run(0), |(run, _)| *run);
        let end = chain.iter().find(|(run, _)| *run == base.run).map(|(_, end)| *end);
        let agrees = match end {
            Some(end) => end.is_none_or(|end| end >= base.number),
            None => base.run < lowest,
        };
        let Base { run, number, .. } = base;
        let given_up = self.given_up.holds(&Stretch { run, first: number, last: number });
        if agrees || given_up || self.accept_loss {
            return Ok(());
        }
        Err(OpenError::Damaged {
            what: format!(
                "a checkpoint adds up to commit {number} of run {run}, and a later run stands on \
                 less: files of different times lie side by side"
            ),
        })
    }

    /// Walks the segments of one run and applies what lies behind the checkpoint.
    fn walk_run(&mut self, run: Run, end: Option<CommitNumber>) -> Result<(), OpenError> {
        let behind = self.inventory.checkpoint.as_ref().map(|checkpoint| checkpoint.position);
        let mut segments = Vec::new();
        for id in self.segments_of(run) {
            segments.push(Segment { id, content: self.read_segment(id, behind)? });
        }
        self.read_names(&mut segments, end, behind)?;
        let first = first_expected(run, &segments, behind);
        let end = match end {
            Some(end) => end,
            None => self.judge(run, &mut segments, first, behind)?,
        };
        self.find_missing(run, &segments, first, end, behind);
        let new_run = behind.is_none_or(|position| run > position.run);
        let last_data = segments.iter().filter_map(|segment| last_data(segment, end)).max();
        if new_run && last_data.is_some() {
            self.begin_run(run);
        }
        for segment in segments {
            // What lies behind a run's last data commit holds nothing that anyone needs.
            let needed = first_number(&segment).is_some_and(|first| Some(first) <= last_data);
            self.take_segment(segment, end, behind, needed)?;
        }
        Ok(())
    }

    /// The content of a segment: from its index file where it is full and wholly below the
    /// checkpoint, else by a walk.
    fn read_segment(&self, id: SegmentId, behind: Option<Position>) -> Result<Content, OpenError> {
        if behind.is_some_and(|position| id.number < position.segment)
            && let Ok(file) = self.disk.read_file(&FileName::Index(id.number.0))
            && let Some(index) = index_file::decode(&id, &file)
        {
            return Ok(Content::Indexed(index));
        }
        if !self.inventory.slots.contains_key(&id.slot) {
            return Ok(Content::Walked(Walked::default()));
        }
        let walked = self.walker(id)?.walk();
        if walked.newer {
            return Err(OpenError::NewerFormat { file: id.slot.to_string() });
        }
        Ok(Content::Walked(walked))
    }

    /// Follows each `sealed` to the segment that it names, where neither a good header nor the
    /// checkpoint tells of that one.
    fn read_names(
        &mut self,
        segments: &mut Vec<Segment>,
        end: Option<CommitNumber>,
        behind: Option<Position>,
    ) -> Result<(), OpenError> {
        let mut next = 0;
        while let Some(segment) = segments.get(next) {
            next += 1;
            let Some(sealed) = self.sealed_of(segment, end)? else { continue };
            let Sealed { slot, segment: number, salt } = sealed;
            self.named.insert(number);
            let id = SegmentId { number, slot, run: segment.id.run, salt };
            let known = segments.get(next).is_some_and(|next| next.id.number <= number);
            let header = self.inventory.headers.get(&slot);
            let reused = header.is_some_and(|header| header.segment > number);
            if known || reused || number <= segment.id.number {
                continue;
            }
            self.notes.push(self.without_header(slot));
            self.segments.insert(number, id);
            let content = self.read_segment(id, behind)?;
            segments.insert(next, Segment { id, content });
        }
        Ok(())
    }

    /// What is to be told of a slot that is named and has no header of that segment.
    fn without_header(&self, slot: SlotId) -> Note {
        if self.inventory.slots.contains_key(&slot) {
            Note::SlotHeader { slot }
        } else {
            Note::SlotGone { slot }
        }
    }

    /// What the segment's `sealed` names, if it is there and not void.
    fn sealed_of(
        &self,
        segment: &Segment,
        end: Option<CommitNumber>,
    ) -> Result<Option<Sealed>, OpenError> {
        let Content::Walked(walked) = &segment.content else { return Ok(None) };
        let Some(last) = walked.found.last() else { return Ok(None) };
        let void = end.is_some_and(|end| last.header.number > end);
        if void || last.header.kind != CommitKind::Sealed {
            return Ok(None);
        }
        let body = self.walker(segment.id)?.control_body(&last.header);
        Ok(body.and_then(|body| Sealed::decode(&body)))
    }

    /// Takes the lists out of the run's `opened`, where no checkpoint has them already.
    fn note_opened(&mut self, run: Run) -> Result<(), OpenError> {
        let checkpoint = self.inventory.checkpoint.as_ref();
        if checkpoint.is_some_and(|checkpoint| run <= checkpoint.position.run) {
            return Ok(());
        }
        // Before its first segment there may be slots that could not be used after all.
        let ids: Vec<SegmentId> = self.segments_of(run).collect();
        for id in ids {
            let Some(opened) = self.read_opened(id)? else { continue };
            self.take_lists(opened);
            break;
        }
        Ok(())
    }

    /// Takes over what an opening before this one found missing.
    fn take_lists(&mut self, opened: Opened) {
        self.damaged.extend(opened.damaged);
        self.given_up.extend(opened.given_up);
        // Each says all that those before it said.
        let skip = &mut self.skip_without_checkpoint;
        *skip = opened.skip_without_checkpoint.max(*skip);
    }

    /// Lists the numbers that should be there and are not.
    fn find_missing(
        &mut self,
        run: Run,
        segments: &[Segment],
        first: CommitNumber,
        end: CommitNumber,
        behind: Option<Position>,
    ) {
        let there = numbers(segments);
        let mut expected = first;
        let mut missing = Vec::new();
        for number in there.keys().copied().filter(|number| *number <= end) {
            if number > expected {
                let last = CommitNumber(number.0 - 1);
                missing.push(Stretch { run, first: expected, last });
            }
            expected = expected.max(number.next());
        }
        if expected <= end {
            missing.push(Stretch { run, first: expected, last: end });
        }
        let missing = missing.into_iter().flat_map(|stretch| self.not_in_packs(stretch));
        let missing: Vec<Stretch> = missing.collect();
        for stretch in missing {
            if self.damaged.holds(&stretch) || self.given_up.holds(&stretch) {
                continue;
            }
            let Stretch { run, first, last } = stretch;
            if behind.is_none() {
                self.not_accounted_for(stretch);
                continue;
            }
            let unknown = self.lost_records_max(&stretch, &there, behind);
            self.new_skip += unknown;
            self.skip_without_checkpoint += self.lost_records_max(&stretch, &there, None) - unknown;
            self.notes.push(Note::Missing { run, first, last, known: false });
            self.damaged.insert(stretch);
        }
    }

    /// How many records a stretch of missing commits may have held above the ends that are known.
    fn lost_records_max(
        &self,
        stretch: &Stretch,
        there: &BTreeMap<CommitNumber, usize>,
        behind: Option<Position>,
    ) -> u64 {
        let Stretch { run, first, last } = *stretch;
        let unknown = match behind {
            Some(position) if run < position.run => 0,
            Some(position) if run == position.run => last.0.saturating_sub(position.number.0),
            _ => stretch.count(),
        };
        // Nor more than there is room for in the segments from the commit before to the one behind.
        let before = there.range(..first).next_back().map_or(0, |(_, at)| *at);
        let segments = self.segments_of(run).count();
        let after = there.range(last.next()..).next().map_or(segments, |(_, at)| *at + 1);
        let room = records_max(self.slot_bytes) * (after - before) as u64;
        let records = SKIP_PER_COMMIT.saturating_mul(unknown.min(stretch.count()));
        records.min(room.max(SKIP_PER_COMMIT))
    }

    /// Indexes a segment and applies its commits behind the checkpoint.
    fn take_segment(
        &mut self,
        segment: Segment,
        end: CommitNumber,
        behind: Option<Position>,
        needed: bool,
    ) -> Result<(), OpenError> {
        let id = segment.id;
        if self.is_unreadable(&segment, Pages::Some) {
            // Not written again as long as it is named: another opening may read it. Nor is there
            // an index file of nothing to be found in its place.
            self.notes.push(Note::SlotUnreadable { slot: id.slot });
            self.indexes.push((id, Arc::default()));
            return Ok(());
        }
        let walked = match segment.content {
            Content::Indexed(index) => {
                self.indexes.push((id, Arc::new(index)));
                return Ok(());
            }
            Content::Walked(walked) => walked,
        };
        let mut builder = IndexBuilder::default();
        let mut walker = None;
        for found in walked.found.iter().filter(|found| found.header.number <= end) {
            builder.add(&found.header, &found.entries);
            if behind.is_none_or(|position| is_behind(&found.header, &position)) {
                let walker = match &mut walker {
                    Some(walker) => walker,
                    none => none.insert(self.walker(id)?),
                };
                self.apply(walker, found);
            }
        }
        if needed {
            self.indexes.push((id, Arc::new(builder.finish())));
            self.unindexed.push(id.number);
        }
        Ok(())
    }

    /// Applies a commit to what the log adds up to.
    fn apply(&mut self, walker: &mut Walker, found: &Found) {
        self.append_time = self.append_time.max(found.header.append_time);
        if found.header.kind == CommitKind::Data {
            let Found { header, hash, .. } = found;
            self.base = Some(Base { run: header.run, number: header.number, hash: *hash });
        }
        let append_time = found.header.append_time;
        let moves_producers = self.moves_producers(append_time);
        let mut any_produced = false;
        for entry in &found.entries {
            if let Some(extent) = self.extents.get_mut(&entry.partition) {
                extent.end = extent.end.max(entry.end_offset());
                let head = walker.batch_header(&found.header, entry).filter(|_| moves_producers);
                if let Some(produced) = head.and_then(|head| head.produced()) {
                    any_produced = true;
                    let (partition, first) = (entry.partition, entry.base_offset);
                    self.producers.store(partition, &produced, first, append_time);
                }
            }
            if self.catalog.is_compact(entry.partition) {
                self.apply_keys(walker, &found.header, entry);
            }
        }
        if any_produced {
            self.producers.end_commit(append_time);
        }
    }

    fn apply_keys(&mut self, walker: &mut Walker, header: &CommitHeader, entry: &DirectoryEntry) {
        let Some(batch) = walker.batch(header, entry) else {
            let (partition, offset) = (entry.partition, entry.base_offset);
            self.notes.push(Note::LostKey { partition, offset });
            return;
        };
        self.apply_keyed_batch(&batch);
    }

    /// Applies the records of a compacted topic.
    fn apply_keyed_batch(&mut self, batch: &BatchView) {
        let partition = batch.partition();
        for (offset, record) in batch.records() {
            let Some(record) = record.key_value() else { continue };
            match self.catalog.apply(partition, offset, &record) {
                Change::Created(topic) => {
                    self.saw(topic);
                    self.track_partitions();
                }
                Change::Recreated { gone, id } => {
                    self.forget(gone);
                    self.saw(id);
                    self.track_partitions();
                }
                Change::Deleted(topic) => self.forget(topic),
                Change::Trimmed(partition, start) => {
                    if let Some(extent) = self.extents.get_mut(&partition) {
                        extent.start = extent.start.max(start);
                    }
                }
                Change::Erasing(..) | Change::Erased | Change::None => {}
            }
        }
    }

    /// A topic was deleted.
    fn forget(&mut self, topic: TopicId) {
        self.extents.retain(|partition, _| partition.topic != topic);
        self.producers.forget(topic);
    }

    /// Raises every end.
    fn skip(&mut self, records: u64) {
        let mut extents = std::mem::take(&mut self.extents);
        for (partition, extent) in &mut extents {
            if extent.end > Offset::ZERO || self.is_seen(partition.topic) {
                extent.end = extent.end.plus(records);
            }
        }
        self.extents = extents;
    }

    /// How far `run`, which began after the checkpoint, skipped beyond the ends that are in there:
    /// when the checkpoint's own run held no data, its skip went on to this one.
    fn new_skip_of(&self, run: Run) -> u64 {
        let Some(stand) = self.stands.get(&run) else { return 0 };
        let checkpoint =
            self.inventory.checkpoint.as_ref().filter(|checkpoint| {
                stand.base.is_none_or(|base| base.run < checkpoint.position.run)
            });
        stand.skip - checkpoint.map_or(0, |checkpoint| checkpoint.opened.skip).min(stand.skip)
    }

    /// What the highest run skipped goes on to the next when it held no data itself.
    fn carried_skip(&mut self, highest: Run) -> u64 {
        let holds_data = self.base.is_some_and(|base| base.run == highest);
        let checkpoint = self.inventory.checkpoint.as_ref();
        let in_checkpoint = checkpoint.is_some_and(|c| c.position.run >= highest);
        let skip = self.stands.get(&highest).map_or(0, |stand| stand.skip);
        if holds_data {
            return 0;
        }
        if !in_checkpoint {
            self.begin_run(highest);
        }
        skip
    }

    /// Where segments that held a partition's first records are gone, it starts later.
    fn raise_starts(&mut self) {
        let Some(checkpoint) = &self.inventory.checkpoint else { return };
        let is_there =
            |id: &SegmentId| self.segments.contains_key(&id.number) || self.is_packed(id.number);
        if checkpoint.slots.iter().all(is_there) {
            return;
        }
        if self.packs.iter().any(|index| index.is_missing()) {
            // Nobody knows what is in there.
            return;
        }
        let mut first = BTreeMap::new();
        let packs = self.packs.iter().map(|index| &index.shares);
        let segments = self.indexes.iter().map(|(_, index)| &index.shares);
        for shares in packs.chain(segments) {
            for share in shares {
                if let Some(place) = share.places.first() {
                    first.entry(share.partition).or_insert(place.base_offset);
                }
            }
        }
        for (partition, extent) in &mut self.extents {
            let there = first.get(partition).copied().unwrap_or(extent.end);
            extent.start = extent.start.max(there);
        }
    }

    /// Damage that earlier openings have listed is told again.
    fn note_damage(&mut self) {
        let told: Vec<Note> = std::mem::take(&mut self.notes);
        let is_new = |note: &Note| match *note {
            Note::Missing { run, first, last, .. } => Some((run, first, last)),
            _ => None,
        };
        let new: BTreeSet<_> = told.iter().filter_map(is_new).collect();
        for Stretch { run, first, last } in self.damaged.iter() {
            if !new.contains(&(run, first, last)) {
                self.notes.push(Note::Missing { run, first, last, known: true });
            }
        }
        self.notes.extend(told);
        for cut in &self.cuts {
            let Stretch { run, first, last } = cut.commits;
            let records = cut.entries.iter().map(|entry| {
                let name = self.catalog.name(entry.partition.topic);
                let name = name.map_or_else(
                    || entry.partition.topic.to_string(),
                    |name| name.as_str().to_owned(),
                );
                (name, entry.partition.partition, entry.base_offset, entry.end_offset())
            });
            self.notes.push(Note::Cut { run, first, last, records: records.collect() });
        }
    }

    fn finish(
        self,
        highest_run: Run,
        highest_segment: SegmentNumber,
        carried: u64,
    ) -> Result<Recovered, OpenError> {
        let base = self.base;
        let in_use: BTreeSet<SlotId> = self.indexes.iter().map(|(id, _)| id.slot).collect();
        let idle = self.inventory.slots.keys().copied().filter(|slot| !in_use.contains(slot));
        let (unused_later, unused) = idle.partition(|slot| self.inventory.named.contains(slot));
        // A file that is gone may be put back: its number goes to no other segment meanwhile.
        let known = self.inventory.slots.keys().chain(&self.inventory.named).chain(&in_use);
        let in_use: BTreeSet<PackId> = self.packs.iter().map(|index| index.head.id).collect();
        let checkpoint = self.inventory.checkpoint.iter();
        let mut named = checkpoint.flat_map(|checkpoint| &checkpoint.slots);
        // A segment that was used anew lies in a pack that a later checkpoint named: it stays for
        // whoever has that one.
        let any_gone =
            named.any(|id| !self.segments.contains_key(&id.number) && !self.is_packed(id.number));
        let packs = self.inventory.packs.iter().filter(|_| !any_gone);
        let stays = |pack: &PackId| in_use.contains(pack) || self.packed.kept.contains(pack);
        let unnamed = packs.filter(|pack| !stays(pack));
        let unnamed_packs = unnamed.copied().collect();
        let mut ended = self.ended;
        let lowest = self.indexes.iter().map(|(id, _)| id.run).min();
        if let Some(base) = base
            && ended.last().is_none_or(|last| last.run < base.run)
        {
            ended.push(base);
        }
        ended.retain(|base| lowest.is_some_and(|lowest| base.run >= lowest));
        Ok(Recovered {
            cluster: self.cluster,
            slot_bytes: self.slot_bytes,
            catalog: self.catalog,
            extents: self.extents,
            segments: self.indexes,
            unindexed: self.unindexed,
            packs: self.packs,
            unnamed_packs,
            base,
            append_time: self.append_time,
            producers: self.producers,
            ended,
            highest_run,
            highest_segment,
            skip: carried + self.new_skip,
            skip_without_checkpoint: self.skip_without_checkpoint,
            damaged: self.damaged.iter().collect(),
            given_up: self.given_up.iter().collect(),
            cuts: self.cuts,
            unused,
            unused_later,
            highest_slot: known.max().copied(),
            checkpoint_sequence: self.inventory.sequence,
            notes: self.notes,
        })
    }
}

/// The number from which on every commit of the run must be there. Older segments of a run that
/// the checkpoint knows may have been dropped.
fn first_expected(run: Run, segments: &[Segment], behind: Option<Position>) -> CommitNumber {
    let first = segments.first().and_then(first_number);
    match behind {
        Some(position) if position.run == run => {
            let next = position.number.next();
            first.map_or(next, |first| first.min(next))
        }
        Some(position) if position.run > run => first.unwrap_or(CommitNumber(1)),
        _ => CommitNumber(1),
    }
}

/// So many records fit into as many bytes at most: none takes less than four.
const fn records_max(bytes: u64) -> u64 {
    bytes / 4
}

fn first_number(segment: &Segment) -> Option<CommitNumber> {
    match &segment.content {
        Content::Indexed(index) => index.commits.first().map(|commit| commit.number),
        Content::Walked(walked) => walked.found.first().map(|found| found.header.number),
    }
}

/// The last data commit of a segment that counts. (An index file does not tell data commits from
/// others; it is of a segment below the checkpoint, and some segment with data lies above it.)
fn last_data(segment: &Segment, end: CommitNumber) -> Option<CommitNumber> {
    match &segment.content {
        Content::Indexed(index) => index.commits.last().map(|commit| commit.number.min(end)),
        Content::Walked(walked) => {
            let data = |found: &&Found| {
                found.header.kind == CommitKind::Data && found.header.number <= end
            };
            walked.found.iter().rev().find(data).map(|found| found.header.number)
        }
    }
}

/// In which segment each commit lies.
fn numbers(segments: &[Segment]) -> BTreeMap<CommitNumber, usize> {
    let mut numbers = BTreeMap::new();
    for (at, segment) in segments.iter().enumerate() {
        match &segment.content {
            Content::Indexed(index) => {
                numbers.extend(index.commits.iter().map(|commit| (commit.number, at)));
            }
            Content::Walked(walked) => {
                numbers.extend(walked.found.iter().map(|found| (found.header.number, at)));
            }
        }
    }
    numbers
}

/// Whether a commit lies behind the one that a checkpoint adds up to.
fn is_behind(header: &CommitHeader, position: &Position) -> bool {
    (header.run, header.number) > (position.run, position.number)
}

const fn segment_id(slot: SlotId, header: &SlotHeader) -> SegmentId {
    SegmentId { number: header.segment, slot, run: header.run, salt: header.salt }
}
