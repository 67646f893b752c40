//! Packs at recovery: which of them serve, whether anything is missing between them, and what they
//! add up to. FORMAT.md §6.1, §6.7.
//!
//! - Beside a checkpoint: a pack that it does not name serves where what it was made of cannot all be
//!   read; and what the older checkpoint names where a pack that the newer one names cannot.
//! - Without one: all packs serve, widest first, and the journal behind them. What is neither in
//!   them nor in the journal is missing, unless some pack says that it was given up.
//!
//! Promises
//! - In the log packs come before segments: what is taken in never parts the segments that stay.
//! - A pack takes the place of whatever lies inside of its stretch, never the other way round: what
//!   was taken out of a pack does not come back from older copies.
//! - Nobody takes a part of the log for gone unless a pack says so that was made when it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracklog_log::Extent;
use tracklog_protocol::{BatchView, PartitionId, TimeMicros, TopicId};

use super::{Note, Recovery, Stand, segment_id};
use crate::catalog;
use crate::disk::{PackId, twice};
use crate::error::OpenError;
use crate::journal::commit::{CommitNumber, Run, SegmentNumber, Stretch};
use crate::journal::stretches::Stretches;
use crate::partition::places::{PartitionShare, SegmentId};
use crate::published::SealedProducers;
use crate::settled::adoption::{PackReader, Strays, is_whole, overlap};
use crate::settled::pack::PackIndex;
use crate::settled::witness::Witness;

/// What recovery knows of packs beyond those that the checkpoint names.
#[derive(Default)]
pub(super) struct Packed {
    /// Files that stay although nothing names them: another opening may need them.
    pub(super) kept: BTreeSet<PackId>,
    /// What the packs say of the log around them, where no checkpoint does.
    witnesses: Vec<Witness>,
    floors: Option<Floors>,
    /// Up to which append time a pack said where producers stand.
    producers_until: Option<TimeMicros>,
    /// Runs whose head was passed.
    begun: BTreeSet<Run>,
    /// Topics that only a witness told of so far: they may have come later.
    unseen: BTreeSet<TopicId>,
    /// Commits that are neither in a pack nor in the journal.
    unaccounted: Vec<Stretch>,
}

/// Where partitions started and ended when the last pack was made: below that no offset is given
/// again, though nothing of a partition may be left.
struct Floors {
    run: Run,
    skip: u64,
    /// How far later runs skipped.
    raised: u64,
    extents: BTreeMap<PartitionId, Extent>,
}

/// A stretch of the log that is there: its segments and its commits.
struct Reach {
    segments: (u64, u64),
    first: (Run, CommitNumber),
    last: (Run, CommitNumber),
}

impl Recovery<'_> {
    /// Decides which packs serve beside those that the checkpoint names.
    pub(super) fn take_in_packs(&mut self) -> Result<(), OpenError> {
        let named: BTreeSet<PackId> = self.packs.iter().map(|index| index.head.id).collect();
        let strays = self.inventory.packs.iter().copied().filter(|pack| !named.contains(pack));
        let strays = Strays::read(self.disk, self.cluster, strays);
        let strays = strays.map_err(|pack| OpenError::NewerFormat { file: pack.to_string() })?;
        self.packed.kept.extend(strays.unread);
        if self.inventory.checkpoint.is_none() {
            return self.choose(strays.readable);
        }
        self.stand_in(&strays.readable);
        self.adopt(&strays.readable)
    }

    /// What the older checkpoint names is still there until the newer one is written twice: it
    /// serves where a pack that came in its place cannot be read.
    fn stand_in(&mut self, strays: &[Arc<PackIndex>]) {
        let missing = self.packs.iter().filter(|index| index.is_missing());
        let missing: Vec<PackId> = missing.map(|index| index.head.id).collect();
        for missing in missing {
            let Some((packs, segments)) = self.older_copies(missing, strays) else { continue };
            self.packs.retain(|index| index.head.id != missing);
            packs.into_iter().for_each(|index| self.add_pack(index));
            self.segments.extend(segments.into_iter().map(|id| (id.number, id)));
            self.notes.retain(|note| !matches!(note, Note::Pack { pack, .. } if *pack == missing));
            self.notes.push(Note::StoodIn { pack: missing });
        }
    }

    /// Packs and segments that the older checkpoint names and that make up a pack, if all are there.
    fn older_copies(
        &self,
        pack: PackId,
        strays: &[Arc<PackIndex>],
    ) -> Option<(Vec<Arc<PackIndex>>, Vec<SegmentId>)> {
        let older = self.inventory.older.as_ref()?;
        let (mut packs, mut segments) = (Vec::new(), Vec::new());
        let is_last = self.packs.last().is_some_and(|last| last.head.id == pack);
        let mut reached = pack.first;
        while reached <= pack.last {
            let begins = |index: &&Arc<PackIndex>| {
                let PackId { first, last, .. } = index.head.id;
                let is_named = older.packs.iter().any(|head| head.id == index.head.id);
                first == reached && last <= pack.last && is_named
            };
            if let Some(index) = strays.iter().find(begins).filter(|it| is_whole(self.disk, it)) {
                reached = index.head.id.last + 1;
                packs.push(Arc::clone(index));
                continue;
            }
            let newest = older.slots.last()?.number;
            let headers = self.inventory.headers.iter();
            let ids = headers.map(|(slot, header)| segment_id(*slot, header));
            let mut ids = ids.filter(|id| id.number.0 == reached && is_last);
            segments.push(ids.find(|id| id.number > newest || older.slots.contains(id))?);
            reached += 1;
        }
        Some((packs, segments))
    }

    /// Takes in what was written and never named, where what it was made of cannot all be read.
    fn adopt(&mut self, strays: &[Arc<PackIndex>]) -> Result<(), OpenError> {
        for index in strays {
            let id = index.head.id;
            if !self.may_take_place(id) || self.is_elsewhere(index)? {
                continue;
            }
            if is_whole(self.disk, index) && self.clear_way(id, strays) {
                self.take_place(index);
            } else {
                self.packed.kept.insert(id);
            }
        }
        Ok(())
    }

    /// Whether something of the log lies in the stretch of this pack, and all of that as a whole.
    fn may_take_place(&self, id: PackId) -> bool {
        let mut packs = self.packs.iter().map(|index| index.head.id);
        let newer = |other: &PackId| other.covers(&id) && other.generation >= id.generation;
        if packs.clone().any(|other| overlap(other, id) && (!id.covers(&other) || newer(&other))) {
            return false;
        }
        let named = self.inventory.checkpoint.iter().flat_map(|checkpoint| &checkpoint.slots);
        let mut segments = named.map(|id| id.number).chain(self.segments.keys().copied());
        segments.any(|number| holds(id, number)) || packs.any(|other| overlap(other, id))
    }

    /// Whether every commit that a pack stands for can be read in other packs or in the journal.
    fn is_elsewhere(&self, pack: &PackIndex) -> Result<bool, OpenError> {
        // The first packs do not say which these are, and were never needed.
        let Some(commits) = &pack.commits else { return Ok(true) };
        let mut there = Stretches::default();
        for index in self.packs.iter().filter(|index| pack.head.id.covers(&index.head.id)) {
            if let Some(own) = index.commits.as_ref().filter(|_| is_whole(self.disk, index)) {
                there.extend(own.parts.iter().map(|part| part.commits));
            }
        }
        let inside = self.segments.values().filter(|id| holds(pack.head.id, id.number));
        for id in inside.filter(|id| self.inventory.slots.contains_key(&id.slot)) {
            let mut walker = self.walker(*id)?;
            let found = walker.walk().found;
            for found in found.iter().filter(|found| walker.is_whole(found)) {
                let number = found.header.number;
                there.insert(Stretch { run: id.run, first: number, last: number });
            }
        }
        Ok(commits.parts.iter().all(|part| there.holds(&part.commits)))
    }

    /// Sees to it that only packs lie before this one. False where that cannot be.
    fn clear_way(&mut self, id: PackId, strays: &[Arc<PackIndex>]) -> bool {
        while let Some(before) = self.segments.keys().copied().find(|it| it.0 < id.first) {
            let fits = |index: &&Arc<PackIndex>| {
                let other = index.head.id;
                holds(other, before) && other.last < id.first && self.may_take_place(other)
            };
            let earlier = strays.iter().find(fits).filter(|index| is_whole(self.disk, index));
            let Some(earlier) = earlier.cloned() else { return false };
            self.take_place(&earlier);
        }
        true
    }

    /// Puts a pack in the place of what lies in its stretch.
    fn take_place(&mut self, index: &Arc<PackIndex>) {
        let id = index.head.id;
        self.segments.retain(|number, _| !holds(id, *number));
        self.named.retain(|number| !holds(id, *number));
        self.packs.retain(|other| !id.covers(&other.head.id));
        self.notes.retain(|note| !matches!(note, Note::Pack { pack, .. } if id.covers(pack)));
        self.notes.push(Note::Adopted { pack: id });
        self.add_pack(Arc::clone(index));
        let behind = self.inventory.checkpoint.as_ref().map(|it| it.position.append_time);
        if behind.is_some_and(|position| index.head.append_time_last > position)
            && let Ok(file) = twice(|| self.disk.open_pack(id))
            && let Ok(Some(mut witness)) = twice(|| PackIndex::read_witness(&*file))
        {
            self.take_producers(std::mem::take(&mut witness.producers));
            // A commit that was damaged when the pack was made is not in it, and may have been the
            // last of a partition.
            self.packed.heed(witness);
        }
    }

    fn add_pack(&mut self, index: Arc<PackIndex>) {
        let at = self.packs.partition_point(|other| other.head.id.first < index.head.id.first);
        let skips: BTreeMap<Run, u64> = index.runs.iter().copied().collect();
        for part in index.commits.iter().flat_map(|commits| &commits.parts) {
            let skip = skips.get(&part.commits.run).copied().unwrap_or(0);
            self.stands.entry(part.commits.run).or_insert(Stand { base: part.base, skip });
        }
        self.packs.insert(at, index);
    }

    /// Without a checkpoint: all packs serve, each in the place of those inside of its stretch.
    fn choose(&mut self, strays: Vec<Arc<PackIndex>>) -> Result<(), OpenError> {
        let mut untold = BTreeSet::new();
        let mut witnesses = Vec::new();
        for index in &strays {
            let id = index.head.id;
            let file = twice(|| self.disk.open_pack(id));
            let file = file.map_err(OpenError::io(format!("open {id}")))?;
            let witness = twice(|| PackIndex::read_witness(&*file)).ok().flatten();
            match witness.filter(|_| index.commits.is_some()) {
                Some(mut witness) => {
                    self.take_producers(std::mem::take(&mut witness.producers));
                    witnesses.push(self.packed.heed(witness));
                }
                None => drop(untold.insert(id)),
            }
        }
        self.packed.witnesses = witnesses;
        let mut torn = Vec::new();
        for index in strays {
            let id = index.head.id;
            if self.packs.iter().any(|other| overlap(other.head.id, id)) {
                continue;
            }
            // What was listed when another pack was made had been read back.
            let was_listed = self.packed.witnesses.iter().any(|witness| witness.lists(id));
            if was_listed || is_whole(self.disk, &index) {
                self.add_pack(index);
            } else {
                torn.push(index);
            }
        }
        for index in torn {
            let id = index.head.id;
            let parts =
                |other: &Arc<PackIndex>| overlap(other.head.id, id) && !id.covers(&other.head.id);
            // Only the last one may be unfinished, and then all of it is in the journal still.
            let is_before = self.packs.last().is_some_and(|last| id.last < last.head.id.last);
            let may_be_unfinished =
                !is_before || self.packs.iter().any(|it| id.covers(&it.head.id));
            if self.packs.iter().any(parts) || (may_be_unfinished && self.is_elsewhere(&index)?) {
                continue;
            }
            self.packs.retain(|other| !id.covers(&other.head.id));
            self.add_pack(index);
        }
        if let Some(pack) = self.packs.iter().find(|index| untold.contains(&index.head.id)) {
            let what = format!(
                "no checkpoint is readable, and {}, of an earlier version, does not say which \
                 commits it holds",
                pack.head.id
            );
            return Err(OpenError::Damaged { what });
        }
        self.start_from_packs();
        Ok(())
    }

    /// What the packs say of the log stands in for a checkpoint's words.
    fn start_from_packs(&mut self) {
        let Some(last) = self.packs.last().map(|index| index.head.id.last) else { return };
        self.segments.retain(|number, _| number.0 > last);
        self.notes.push(Note::Rebuilt { packs: self.packs.len() });
        let newest = |witness: &&Witness| (witness.run, witness.published);
        let Some(newest) = self.packed.witnesses.iter().max_by_key(newest) else { return };
        for topic in newest.topics.iter().filter(|topic| topic.id != catalog::TOPIC_ID) {
            self.packed.unseen.insert(topic.id);
            self.catalog.insert(topic.clone());
        }
        self.take_lists(newest.opened.clone());
        self.track_partitions();
    }

    /// The highest run and segment that packs tell of.
    pub(super) fn highest_in_packs(&self) -> (Run, SegmentNumber) {
        let witnesses = &self.packed.witnesses;
        let runs = self.packs.iter().map(|index| index.head.run);
        let runs = runs.chain(witnesses.iter().map(|witness| witness.run));
        let segments = self.packs.iter().map(|index| index.head.id);
        let listed = witnesses.iter().flat_map(|witness| witness.listed.iter().copied());
        let segments = segments.chain(listed).map(|id| SegmentNumber(id.last));
        (runs.max().unwrap_or_default(), segments.max().unwrap_or_default())
    }

    /// The highest run below `run` of which packs hold commits, and the last of these.
    pub(super) fn run_in_packs_below(&self, run: Run) -> Option<(Run, CommitNumber)> {
        let parts = self.packs.iter().filter_map(|index| index.commits.as_ref());
        let parts = parts.flat_map(|commits| &commits.parts).map(|part| part.commits);
        parts.filter(|it| it.run < run).map(|it| (it.run, it.last)).max()
    }

    /// Whether a pack that is in use holds commits of this run.
    pub(super) fn is_in_packs(&self, run: Run) -> bool {
        self.packs.iter().any(|index| index.runs.iter().any(|(of, _)| *of == run))
    }

    /// Whether a segment lies in a pack that is in use.
    pub(super) fn is_packed(&self, number: SegmentNumber) -> bool {
        self.packs.iter().any(|index| holds(index.head.id, number))
    }

    /// The highest commit of a run that packs vouch for.
    pub(super) fn vouched_by_packs(&self, run: Run) -> CommitNumber {
        let witnesses = self.packed.witnesses.iter().filter(|witness| witness.run == run);
        let published = witnesses.map(|witness| witness.published);
        published.fold(self.last_settled(run), CommitNumber::max)
    }

    /// The last commit of the run that lies in a pack.
    pub(super) fn last_settled(&self, run: Run) -> CommitNumber {
        let of_run = self.packs.iter().filter(|index| index.head.run == run);
        of_run.map(|index| index.head.last).max().unwrap_or(CommitNumber::NONE)
    }

    /// What of `stretch` lies in no pack.
    pub(super) fn not_in_packs(&self, stretch: Stretch) -> Vec<Stretch> {
        let commits = self.packs.iter().filter_map(|index| index.commits.as_ref());
        let mut left = vec![stretch];
        for span in commits.filter_map(|commits| commits.span(stretch.run)) {
            left = left.into_iter().flat_map(|it| without(it, span)).collect();
        }
        left
    }

    /// Without a checkpoint: takes note of commits that are in no pack and not in the journal.
    pub(super) fn not_accounted_for(&mut self, stretch: Stretch) {
        let Stretch { run, first, last } = stretch;
        // What was given up between the packs that became one is no more missing than they are: that
        // may be all of a run.
        let stands_for_it = |index: &Arc<PackIndex>| {
            let commits = index.commits.as_ref();
            let ends = commits.and_then(|commits| Some((commits.first()?, commits.last()?)));
            ends.is_some_and(|(begins, ends)| begins <= (run, first) && (run, last) <= ends)
        };
        if !self.packs.iter().any(stands_for_it) {
            self.packed.unaccounted.push(stretch);
        }
    }

    /// All such commits were given up, as some pack says; else the opening ends here.
    pub(super) fn check_accounts(&self) -> Result<(), OpenError> {
        let commits = |index: &Arc<PackIndex>| {
            let (commits, id) = (index.commits.as_ref()?, index.head.id);
            let segments = (id.first, id.last);
            Some(Reach { segments, first: commits.first()?, last: commits.last()? })
        };
        let mut reaches: Vec<Reach> = self.packs.iter().filter_map(commits).collect();
        reaches.extend(self.indexes.iter().filter_map(|(id, index)| {
            let first = (id.run, index.commits.first()?.number);
            let segments = (id.number.0, id.number.0);
            Some(Reach { segments, first, last: (id.run, index.last()) })
        }));
        let is_gone = |stretch: &Stretch| {
            let before = reaches.iter().rev().find(|it| it.last < (stretch.run, stretch.first));
            let after = reaches.iter().find(|it| it.first > (stretch.run, stretch.last));
            let below = before.map_or(0, |it| it.segments.1);
            let above = after.map_or(0, |it| it.segments.0);
            below + 1 < above && self.packed.witnesses.iter().any(|it| it.gave_up(below, above))
        };
        let Some(missing) = self.packed.unaccounted.iter().find(|it| !is_gone(it)) else {
            return Ok(());
        };
        let Stretch { run, first, last } = missing;
        let what = if self.inventory.packs.is_empty() {
            format!(
                "no checkpoint is readable, and commits {first} to {last} of run {run} are not \
                 in the journal"
            )
        } else {
            format!(
                "no checkpoint is readable, commits {first} to {last} of run {run} are neither in \
                 the journal nor in a pack, and no pack says that they were given up"
            )
        };
        Err(OpenError::Damaged { what })
    }

    /// Passes the head of a run, once: every end offset skips as it says. Tells how far.
    pub(super) fn begin_run(&mut self, run: Run) -> u64 {
        if !self.packed.begun.insert(run) {
            return 0;
        }
        if let (Some(floors), Some(stand)) = (&mut self.packed.floors, self.stands.get(&run))
            && run > floors.run
        {
            // What a run without data skipped went on to this one.
            let is_told = stand.base.is_none_or(|base| base.run < floors.run);
            let known = if is_told { floors.skip.min(stand.skip) } else { 0 };
            floors.raised += stand.skip - known;
        }
        let skip = self.new_skip_of(run);
        self.skip(skip);
        skip
    }

    /// Whether the partition was there when what is read now was written, as far as can be told.
    pub(super) fn is_seen(&self, topic: TopicId) -> bool {
        !self.packed.unseen.contains(&topic)
    }

    /// A topic's own record was read.
    pub(super) fn saw(&mut self, topic: TopicId) {
        self.packed.unseen.remove(&topic);
    }

    /// No partition ends below where it ended when the last pack was made, nor starts before.
    pub(super) fn raise_to_floors(&mut self) {
        if let Some(Floors { raised, extents, .. }) = &self.packed.floors {
            for (partition, floor) in extents {
                if let Some(extent) = self.extents.get_mut(partition) {
                    extent.end = extent.end.max(floor.end.plus(*raised));
                    extent.start = extent.start.max(floor.start);
                }
            }
        }
        if !self.packed.witnesses.is_empty() {
            // A trim whose topic's record was moved behind it says so to nobody.
            for (partition, start) in self.catalog.trims() {
                if let Some(extent) = self.extents.get_mut(&partition) {
                    extent.start = extent.start.max(start);
                    extent.end = extent.end.max(start);
                }
            }
        }
    }

    /// Without a checkpoint: how far ends skip since it is not there to tell how far damage went, but
    /// for what the packs' floors tell as well.
    pub(super) fn skip_for_checkpoints(&self) -> u64 {
        if self.inventory.checkpoint.is_some() {
            return 0;
        }
        let told = self.packed.witnesses.iter().map(|it| it.opened.skip_without_checkpoint).max();
        self.skip_without_checkpoint.saturating_sub(told.unwrap_or(0))
    }

    /// Applies what lies in packs and is not in the checkpoint.
    pub(super) fn apply_packs(&mut self) {
        let behind = self.inventory.checkpoint.as_ref().map(|it| it.position.append_time);
        let is_behind = |time| behind.is_none_or(|position| time > position);
        for index in self.packs.clone() {
            if !index.is_missing() && is_behind(index.head.append_time_last) {
                self.apply_pack(&index, &is_behind);
            }
        }
    }

    fn apply_pack(&mut self, index: &PackIndex, is_behind: &dyn Fn(TimeMicros) -> bool) {
        let mut reader = match PackReader::open(self.disk, index) {
            Ok(reader) => reader,
            Err(error) => {
                let (pack, why) = (index.head.id, error.to_string());
                return self.notes.push(Note::Pack { pack, why });
            }
        };
        let own = index.share(catalog::PARTITION);
        let own = own.map_or_else(Vec::new, |share| self.keyed(share, &mut reader, is_behind));
        let heads = self.apply_in_order(index, own);
        for (share, times) in index.shares.iter().zip(&index.append_times) {
            let partition = share.partition;
            let Some(last) = times.last().filter(|last| is_behind(**last)) else { continue };
            let Some(extent) = self.extents.get_mut(&partition) else { continue };
            let skipped: u64 =
                heads.iter().filter(|(began, _)| began > last).map(|(_, skip)| skip).sum();
            extent.end = extent.end.max(share.end.plus(skipped));
            let is_keyed = partition != catalog::PARTITION && self.catalog.is_compact(partition);
            if is_keyed {
                for batch in self.keyed(share, &mut reader, is_behind) {
                    self.apply_keyed_batch(&batch);
                }
            }
        }
        self.append_time = self.append_time.max(index.head.append_time_last);
        let base = index.commits.as_ref().and_then(|commits| commits.base);
        if base.is_some_and(|base| {
            self.base.is_none_or(|known| (known.run, known.number) < (base.run, base.number))
        }) {
            self.base = base;
        }
    }

    /// Takes over where producers stood, where nothing later is known.
    fn take_producers(&mut self, then: SealedProducers) {
        if self.packed.producers_until.is_none_or(|known| known < then.append_time) {
            self.packed.producers_until = Some(then.append_time);
            self.producers = then.standings.iter().copied().collect();
        }
    }

    /// Whether what was appended then moves producers that a pack did not tell of.
    pub(super) fn moves_producers(&self, append_time: TimeMicros) -> bool {
        self.packed.producers_until.is_none_or(|until| append_time > until)
    }

    /// The batches of a compacted topic; those that cannot be read are told.
    fn keyed(
        &mut self,
        share: &PartitionShare,
        reader: &mut PackReader<'_>,
        is_behind: &dyn Fn(TimeMicros) -> bool,
    ) -> Vec<BatchView> {
        let (mut batches, mut is_damaged) = (Vec::new(), false);
        for batch in reader.batches(share) {
            match batch {
                Ok(batch) if is_behind(batch.append_time()) => batches.push(batch),
                Ok(_) => {}
                Err(_) => is_damaged = true,
            }
        }
        if is_damaged {
            let offset = share.places.first().map_or(share.end, |place| place.base_offset);
            self.notes.push(Note::LostKey { partition: share.partition, offset });
        }
        batches
    }

    /// Applies the catalog's own records, and between them the heads of the runs that begin in the
    /// pack. Tells when these began, and how far ends skipped there.
    fn apply_in_order(&mut self, index: &PackIndex, own: Vec<BatchView>) -> Vec<(TimeMicros, u64)> {
        let mut own = own.into_iter().peekable();
        let mut heads = Vec::new();
        let position = self.inventory.checkpoint.as_ref().map(|it| it.position.run);
        for part in index.commits.iter().flat_map(|commits| &commits.parts) {
            while let Some(batch) = own.next_if(|batch| batch.append_time() < part.began) {
                self.apply_keyed_batch(&batch);
            }
            if position.is_none_or(|position| part.commits.run > position) {
                heads.push((part.began, self.begin_run(part.commits.run)));
            }
        }
        own.for_each(|batch| self.apply_keyed_batch(&batch));
        heads
    }
}

impl Packed {
    /// Takes up what a pack says of partitions, and leaves the rest.
    fn heed(&mut self, mut witness: Witness) -> Witness {
        let extents = std::mem::take(&mut witness.partitions);
        match &mut self.floors {
            Some(floors) if floors.run > witness.run => {}
            Some(floors) if floors.run == witness.run => {
                for (partition, extent) in extents {
                    let floor = floors.extents.entry(partition).or_insert(extent);
                    floor.start = floor.start.max(extent.start);
                    floor.end = floor.end.max(extent.end);
                }
            }
            floors => {
                let (run, skip) = (witness.run, witness.opened.skip);
                let extents = extents.into_iter().collect();
                *floors = Some(Floors { run, skip, raised: 0, extents });
            }
        }
        witness
    }
}

/// Whether a segment lies in the stretch of a pack.
fn holds(pack: PackId, number: SegmentNumber) -> bool {
    (pack.first..=pack.last).contains(&number.0)
}

/// What of `stretch` lies outside of `span`, of the same run.
fn without(stretch: Stretch, span: Stretch) -> impl Iterator<Item = Stretch> {
    let Stretch { run, first, last } = stretch;
    let before = Stretch { run, first, last: last.min(CommitNumber(span.first.0 - 1)) };
    let after =
        Stretch { run, first: first.max(CommitNumber(span.last.0.saturating_add(1))), last };
    let ends = span.last.0 == u64::MAX;
    [Some(before), Some(after).filter(|_| !ends)]
        .into_iter()
        .flatten()
        .filter(|left| left.first <= left.last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_of_a_span_is_left() {
        let of = |first, last| Stretch {
            run: Run(1),
            first: CommitNumber(first),
            last: CommitNumber(last),
        };
        let left = |span| without(of(5, 9), span).map(|it| (it.first.0, it.last.0)).collect();
        let left = |span| -> Vec<(u64, u64)> { left(span) };
        assert_eq!(left(of(1, 4)), [(5, 9)]);
        assert_eq!(left(of(10, 12)), [(5, 9)]);
        assert_eq!(left(of(1, 6)), [(7, 9)]);
        assert_eq!(left(of(6, 7)), [(5, 5), (8, 9)]);
        assert_eq!(left(of(8, u64::MAX)), [(5, 7)]);
        assert_eq!(left(of(1, u64::MAX)), []);
    }
}
