//! Snapshots: what a copy of a log consists of at one moment, taken from its files while a node may
//! write them. For backups.
//!
//! What a snapshot names, copied, is a log as a crash would leave it: recovery opens it, up to the
//! commit that is the snapshot's [`Point`], and nothing is torn or missing that the log itself has.
//!
//! Why that holds
//! 1. The newest checkpoint is read first. Whatever it names stays as it is until both checkpoints
//!    name it no more (FORMAT.md §4), so its packs and its full segments can be copied at leisure.
//! 2. Behind its position the journal is walked, commit by commit without a gap, up to the highest
//!    one that a mark vouches for: the point. That mark was on the disk before the copy begins, so
//!    every page below the point is durable by then, and is never written again while its segment is
//!    in use. What lies above the point is left out, even where it is there already: a page that was
//!    copied while it was empty can never miss what a later page vouches for.
//! 3. A slot may be used anew while it is copied. Its header says so before anything else of it
//!    changes: so the header is read after the pages, and other numbers in it mean
//!    [`SnapshotError::MovedOn`]. A pack that is open stays readable.
//!
//! What is damaged is copied as it is: the copy tells of it as the log does. Pages that the disk does
//! not give are zeros in the copy.
//!
//! Reading is all that happens here. Called by backups; [`standing`] by those who restore.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use tracklog_log::{Extent, Topic};
use tracklog_protocol::{Offset, PartitionId, TimeMicros, TopicId};

use crate::catalog::{Catalog, Change};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::disk::{
    Access, BackendChoice, Disk, FileName, FolderAccess, PAGE_BYTES, PackFile, PackId, PageBuffer,
    SlotId, open_folder,
};
use crate::error::OpenError;
use crate::index_file;
use crate::journal::commit::{
    Base, CommitKind, CommitNumber, DirectoryEntry, Sealed, SegmentNumber,
};
use crate::journal::recovery::recover;
use crate::journal::segment::{FIRST_COMMIT_AT, SlotPage};
use crate::journal::walk::{Found, Walker};
use crate::partition::places::SegmentId;
use crate::settled::pack::{PackError, PackHead, PackIndex};

/// How often both checkpoints may be found torn, one after the other, before they count as lost.
const CHECKPOINT_TRIES: u32 = 8;

/// Up to where a log is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// The last commit that a mark vouches for: while a node may write.
    Vouched,
    /// The last that is whole, as recovery would have it: nobody writes.
    Whole,
}

/// Why there is no snapshot, or a part of one cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The log went on, and what was asked for is no more: take another snapshot.
    #[error("the log has moved on")]
    MovedOn,
    /// It is named and not there, or not what it should be: damage.
    #[error("{what} cannot be read")]
    Missing {
        /// What.
        what: String,
    },
    /// The log cannot be read at all.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// A commit, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Its run.
    pub run: u64,
    /// Its number in the run.
    pub commit: u64,
    /// The hash of its header.
    pub hash: u64,
    /// When it was appended.
    pub append_time: TimeMicros,
    /// In which segment it lies, and that one's salt, which no other segment of any log has; 0 where
    /// it is settled.
    pub segment: u64,
    /// See `segment`.
    pub salt: u64,
}

impl Point {
    fn of(base: Base, append_time: TimeMicros, (segment, salt): (u64, u64)) -> Self {
        let (run, commit, hash) = (base.run.0, base.number.0, base.hash);
        Self { run, commit, hash, append_time, segment, salt }
    }
}

/// A topic and what there is of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicExtents {
    /// Its name.
    pub name: String,
    /// When it was made: another one of its name was made at another time.
    pub created: TimeMicros,
    /// By partition.
    pub extents: Vec<Extent>,
}

/// A segment to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentCopy {
    /// The slot that it lies in.
    pub slot: SlotId,
    /// Its number.
    pub number: u64,
    /// Its salt: with the number it names this segment and no other.
    pub salt: u64,
    /// Its run.
    pub run: u64,
    /// So many bytes from the slot's beginning on are copied. All behind is zero in the copy.
    pub bytes: u64,
    /// Whether nothing will be added to it.
    pub is_full: bool,
}

/// A pack to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackCopy {
    /// Its name.
    pub id: PackId,
    /// The run of its last commit, and that one's number.
    pub last: (u64, u64),
    head: PackHead,
}

/// What a copy of a log consists of.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The number that all files of the log carry.
    pub cluster: u128,
    /// The size of every slot.
    pub slot_bytes: u64,
    /// The checkpoint's file, and its bytes.
    pub checkpoint: (FileName, Vec<u8>),
    /// The packs that it names.
    pub packs: Vec<PackCopy>,
    /// The segments, in order.
    pub segments: Vec<SegmentCopy>,
    /// The last commit with data; `None` when there is none.
    pub point: Option<Point>,
    /// Where earlier runs ended that have segments: each run, and the number of its last commit.
    pub ended: Vec<(u64, u64)>,
    /// All topics, as of the point.
    pub topics: Vec<TopicExtents>,
    /// So many commits are known to be missing, and will be in the copy.
    pub missing_commits: u64,
}

/// Takes snapshots of one log, one after the other.
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    frontier: Option<Frontier>,
}

impl Snapshots {
    /// Of the log in the folder `path`, which is opened to read alone.
    ///
    /// # Errors
    /// [`OpenError`] when there is no such folder.
    pub fn of_folder(path: &Path) -> Result<Self, OpenError> {
        Ok(Self::on(open_folder(path, FolderAccess::ReadOnly, BackendChoice::Auto)?))
    }

    /// Of the log on `disk`.
    #[must_use]
    pub fn on(disk: Arc<dyn Disk>) -> Self {
        Self { disk, frontier: None }
    }

    /// The log as it is now, up to `end`. What was walked for the one before is not read again.
    ///
    /// # Errors
    /// [`SnapshotError`], but never `Missing`.
    pub fn take(&mut self, end: LogEnd) -> Result<Snapshot, SnapshotError> {
        let checkpoint = newest_checkpoint(&*self.disk)?;
        let is_known = |frontier: &&Frontier| frontier.checkpoint.sequence == checkpoint.sequence;
        if self.frontier.as_ref().filter(is_known).is_none() {
            self.frontier = Some(Frontier::of(checkpoint));
        }
        let frontier = self.frontier.as_mut().expect("it was just set");
        frontier.advance(&*self.disk, end)?;
        Ok(frontier.snapshot(&*self.disk))
    }

    /// Bytes of a segment from `at` on, a multiple of a page as `bytes` is: with them, how many
    /// could not be read and are zeros.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn read_segment(
        &self,
        segment: &SegmentCopy,
        at: u64,
        bytes: usize,
    ) -> Result<(PageBuffer, usize), SnapshotError> {
        let missing = || SnapshotError::Missing { what: segment.slot.to_string() };
        let slot = match self.disk.open_slot(segment.slot, Access::Read) {
            Ok(slot) => slot,
            Err(_) if self.is_named(segment)? => return Err(missing()),
            Err(_) => return Err(SnapshotError::MovedOn),
        };
        let mut pages = PageBuffer::zeroed(bytes);
        let lost = read_what_is_given(&mut pages, |from, buffer| slot.read(at + from, buffer));
        let mut first = PageBuffer::zeroed(PAGE_BYTES);
        let header = slot.read(0, &mut first).map(|()| SlotPage::decode(&first, segment.slot));
        match header {
            Ok(SlotPage::Header(header))
                if (header.segment.0, header.salt.0) == (segment.number, segment.salt) => {}
            // Rotten, or just being written: what is named is not used anew.
            Ok(SlotPage::Bad | SlotPage::Blank) | Err(_) if self.is_named(segment)? => {}
            _ => return Err(SnapshotError::MovedOn),
        }
        Ok((pages, lost))
    }

    /// Opens a pack.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn open_pack(&self, pack: &PackCopy) -> Result<OpenPackCopy, SnapshotError> {
        let opened = self.disk.open_pack(pack.id).map_err(PackError::from);
        let read = opened.and_then(|file| {
            let (index, fingerprint) = PackIndex::fingerprint(&*file, &pack.head)?;
            let runs = index.runs.iter().map(|(run, _)| run.0).collect();
            Ok(OpenPackCopy { file, fingerprint, runs })
        });
        match read {
            Ok(open) => Ok(open),
            Err(_) if self.names_pack(pack.id)? => {
                Err(SnapshotError::Missing { what: pack.id.to_string() })
            }
            Err(_) => Err(SnapshotError::MovedOn),
        }
    }

    /// Whether a checkpoint names the segment, so that its slot is not used anew.
    fn is_named(&self, segment: &SegmentCopy) -> Result<bool, SnapshotError> {
        let is_it = |id: &SegmentId| (id.number.0, id.salt.0) == (segment.number, segment.salt);
        let checkpoint = newest_checkpoint(&*self.disk)?;
        Ok(checkpoint.slots.iter().any(is_it))
    }

    fn names_pack(&self, pack: PackId) -> Result<bool, SnapshotError> {
        let checkpoint = newest_checkpoint(&*self.disk)?;
        Ok(checkpoint.packs.iter().any(|head| head.id == pack))
    }
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshots").finish_non_exhaustive()
    }
}

/// A pack that is open: it stays readable whatever becomes of its name.
pub struct OpenPackCopy {
    file: Arc<dyn PackFile>,
    /// A hash over all checksums in it: another pack has another.
    pub fingerprint: u64,
    /// The runs of which it holds commits.
    pub runs: Vec<u64>,
}

impl OpenPackCopy {
    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.file.bytes()
    }

    /// Bytes from `at` on, as [`Snapshots::read_segment`] gives them.
    #[must_use]
    pub fn read(&self, at: u64, bytes: usize) -> (PageBuffer, usize) {
        let mut pages = PageBuffer::zeroed(bytes);
        let lost = read_what_is_given(&mut pages, |from, buffer| self.file.read(at + from, buffer));
        (pages, lost)
    }
}

impl std::fmt::Debug for OpenPackCopy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenPackCopy").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// Fills `pages`, page by page where they are not given together; how many bytes were not given.
fn read_what_is_given(
    pages: &mut PageBuffer,
    read: impl Fn(u64, &mut PageBuffer) -> io::Result<()>,
) -> usize {
    if read(0, pages).is_ok() {
        return 0;
    }
    let mut page = PageBuffer::zeroed(PAGE_BYTES);
    let (mut at, mut lost) = (0, 0);
    for target in pages.chunks_mut(PAGE_BYTES) {
        match read(at, &mut page) {
            Ok(()) => target.copy_from_slice(&page),
            Err(_) => {
                target.fill(0);
                lost += PAGE_BYTES;
            }
        }
        at += PAGE_BYTES as u64;
    }
    lost
}

/// The newest checkpoint. Either may be found while it is written; both only where the second was
/// begun between the two reads.
fn newest_checkpoint(disk: &dyn Disk) -> Result<Checkpoint, OpenError> {
    let mut what = "there is no checkpoint".to_owned();
    for _ in 0..CHECKPOINT_TRIES {
        let mut newest: Option<Checkpoint> = None;
        for file in [FileName::CheckpointA, FileName::CheckpointB] {
            let Ok(bytes) = disk.read_file(&file) else { continue };
            match Checkpoint::decode(&bytes) {
                Ok(checkpoint)
                    if newest.as_ref().is_none_or(|it| it.sequence < checkpoint.sequence) =>
                {
                    newest = Some(checkpoint);
                }
                Ok(_) => {}
                Err(CheckpointError::Newer) => {
                    return Err(OpenError::NewerFormat { file: file.path() });
                }
                Err(CheckpointError::Bad) => what = "no checkpoint is readable".to_owned(),
            }
        }
        if let Some(checkpoint) = newest {
            return Ok(checkpoint);
        }
    }
    Err(OpenError::Damaged { what })
}

/// How far the journal is walked behind a checkpoint, and what it adds up to there.
struct Frontier {
    checkpoint: Checkpoint,
    catalog: Catalog,
    extents: BTreeMap<PartitionId, Extent>,
    base: Option<Base>,
    append_time: TimeMicros,
    /// Segments from that of the checkpoint's position on, and where in each the last commit up to
    /// the point ends.
    walked: Vec<(SegmentId, u32)>,
    /// In which segment the last commit with data lies that is behind the position.
    base_segment: Option<SegmentId>,
    /// Where the walk goes on; `None` where it cannot.
    next: Option<(SegmentId, u32)>,
    last: (CommitNumber, u64),
    /// The highest commit that is vouched for.
    vouched: CommitNumber,
    /// What was found above it.
    pending: VecDeque<Pending>,
    /// Where each full segment ends.
    full: BTreeMap<SegmentNumber, u64>,
}

/// A commit that was found, not vouched for yet.
struct Pending {
    id: SegmentId,
    found: Found,
    /// What it names when it is a `sealed`.
    next: Option<SegmentId>,
}

impl Frontier {
    fn of(checkpoint: Checkpoint) -> Self {
        let position = checkpoint.position;
        let here = checkpoint.slots.iter().find(|id| id.number == position.segment).copied();
        let behind = checkpoint.slots.iter().filter(|id| id.number > position.segment);
        let mut walked: Vec<_> = here.map(|id| (id, position.end)).into_iter().collect();
        walked.extend(behind.map(|id| (*id, FIRST_COMMIT_AT)));
        // A segment is in use behind that of the position only where that one is full.
        let next = walked.iter().find(|(id, _)| id.number > position.segment);
        let next = next.or_else(|| walked.first()).copied();
        Self {
            catalog: checkpoint.catalog(),
            extents: checkpoint.partitions.iter().copied().collect(),
            base: checkpoint.base,
            append_time: position.append_time,
            walked,
            base_segment: None,
            next,
            last: (position.number, position.hash),
            vouched: position.number,
            pending: VecDeque::new(),
            full: BTreeMap::new(),
            checkpoint,
        }
    }

    /// Walks on, and takes in what is vouched for.
    fn advance(&mut self, disk: &dyn Disk, end: LogEnd) -> Result<(), SnapshotError> {
        while let Some((id, at)) = self.next {
            let Ok(slot) = disk.open_slot(id.slot, Access::Read) else { break };
            let mut walker = Walker::new(slot, id);
            self.next = self.walk(disk, &mut walker, at);
            self.take_in(disk, self.vouched)?;
            if self.next.is_none_or(|(next, _)| next == id) {
                break;
            }
        }
        if end == LogEnd::Whole {
            let whole = self.last_whole(disk);
            self.take_in(disk, whole)?;
        }
        Ok(())
    }

    /// Walks to where no commit follows; where to go on then.
    fn walk(
        &mut self,
        disk: &dyn Disk,
        walker: &mut Walker,
        mut at: u32,
    ) -> Option<(SegmentId, u32)> {
        let id = walker.id();
        while let Some(found) = walker.next_found(at, self.last) {
            self.last = (found.header.number, found.hash);
            self.vouched = self.vouched.max(found.header.mark);
            at = found.header.end();
            let body = (found.header.kind == CommitKind::Sealed)
                .then(|| walker.control_body(&found.header))
                .flatten();
            let next = body.and_then(|body| Sealed::decode(&body)).map(|sealed| SegmentId {
                number: sealed.segment,
                slot: sealed.slot,
                run: id.run,
                salt: sealed.salt,
            });
            self.pending.push_back(Pending { id, found, next });
            if let Some(next) = next {
                // Its header was durable before it was named.
                return disk
                    .open_slot(next.slot, Access::Read)
                    .ok()
                    .map(|_| (next, FIRST_COMMIT_AT));
            }
        }
        Some((id, at))
    }

    /// Up to which number what is pending is whole.
    fn last_whole(&self, disk: &dyn Disk) -> CommitNumber {
        let mut last = self.vouched;
        for pending in &self.pending {
            let Ok(slot) = disk.open_slot(pending.id.slot, Access::Read) else { break };
            if !Walker::new(slot, pending.id).is_whole(&pending.found) {
                break;
            }
            last = pending.found.header.number;
        }
        last
    }

    /// Takes in what is pending up to number `last`.
    fn take_in(&mut self, disk: &dyn Disk, last: CommitNumber) -> Result<(), SnapshotError> {
        while let Some(pending) = self.pending.front()
            && pending.found.header.number <= last
        {
            let Pending { id, found, next } = self.pending.pop_front().expect("it is there");
            match self.walked.iter_mut().find(|(walked, _)| *walked == id) {
                Some((_, end)) => *end = found.header.end(),
                None => self.walked.push((id, found.header.end())),
            }
            // Recovery looks for the segment that a `sealed` names.
            if let Some(next) = next
                && self.walked.iter().all(|(walked, _)| *walked != next)
            {
                self.walked.push((next, FIRST_COMMIT_AT));
            }
            self.apply(disk, id, &found)?;
        }
        Ok(())
    }

    fn apply(
        &mut self,
        disk: &dyn Disk,
        id: SegmentId,
        found: &Found,
    ) -> Result<(), SnapshotError> {
        if found.header.kind != CommitKind::Data {
            return Ok(());
        }
        let header = found.header;
        self.base = Some(Base { run: header.run, number: header.number, hash: found.hash });
        self.base_segment = Some(id);
        self.append_time = header.append_time;
        for entry in &found.entries {
            if let Some(extent) = self.extents.get_mut(&entry.partition) {
                extent.end = extent.end.max(entry.end_offset());
            }
            if entry.partition == crate::catalog::PARTITION {
                self.apply_catalog(disk, id, found, entry)?;
            }
        }
        Ok(())
    }

    fn apply_catalog(
        &mut self,
        disk: &dyn Disk,
        id: SegmentId,
        found: &Found,
        entry: &DirectoryEntry,
    ) -> Result<(), SnapshotError> {
        let slot = disk.open_slot(id.slot, Access::Read).map_err(|_| SnapshotError::MovedOn)?;
        // What cannot be read is damage, which the copy will tell of.
        let Some(batch) = Walker::new(slot, id).batch(&found.header, entry) else { return Ok(()) };
        for (offset, record) in batch.records() {
            let Some(record) = record.key_value() else { continue };
            match self.catalog.apply(entry.partition, offset, &record) {
                Change::Created(topic) => self.track(topic),
                Change::Recreated { gone, id } => {
                    self.forget(gone);
                    self.track(id);
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
        Ok(())
    }

    /// Gives each partition of a new topic an extent.
    fn track(&mut self, topic: TopicId) {
        let none = Extent { start: Offset::ZERO, end: Offset::ZERO };
        let all = self.catalog.partitions().map(|(_, partition)| partition);
        for partition in all.filter(|partition| partition.topic == topic) {
            self.extents.entry(partition).or_insert(none);
        }
    }

    fn forget(&mut self, topic: TopicId) {
        self.extents.retain(|partition, _| partition.topic != topic);
    }

    fn snapshot(&mut self, disk: &dyn Disk) -> Snapshot {
        let position = self.checkpoint.position;
        let below = self.checkpoint.slots.iter().filter(|id| id.number < position.segment);
        let below: Vec<_> = below.copied().collect();
        let mut segments = Vec::new();
        for id in below {
            let bytes = self.full.entry(id.number);
            let bytes = *bytes.or_insert_with(|| full_bytes(disk, &id, self.checkpoint.slot_bytes));
            segments.push(segment_copy(&id, bytes, true));
        }
        let last = self.walked.iter().map(|(id, _)| id.number).max();
        segments.extend(
            self.walked
                .iter()
                .map(|(id, end)| segment_copy(id, u64::from(*end), Some(id.number) != last)),
        );
        let damaged = &self.checkpoint.opened.damaged;
        Snapshot {
            cluster: self.checkpoint.cluster.0,
            slot_bytes: self.checkpoint.slot_bytes,
            checkpoint: (self.checkpoint.file(), self.checkpoint.encode()),
            packs: self
                .checkpoint
                .packs
                .iter()
                .map(|head| PackCopy { id: head.id, last: (head.run.0, head.last.0), head: *head })
                .collect(),
            point: self.point(&segments),
            segments,
            ended: self.checkpoint.ended.iter().map(|it| (it.run.0, it.number.0)).collect(),
            topics: topics_of(&self.catalog, &self.extents),
            missing_commits: damaged.iter().map(crate::journal::commit::Stretch::count).sum(),
        }
    }

    fn point(&self, segments: &[SegmentCopy]) -> Option<Point> {
        let base = self.base?;
        let of_run = segments.iter().filter(|segment| segment.run == base.run.0);
        let segment = match self.base_segment {
            Some(id) => Some((id.number.0, id.salt.0)),
            // At or below the checkpoint's position.
            None => of_run
                .filter(|segment| segment.number <= self.checkpoint.position.segment.0)
                .map(|segment| (segment.number, segment.salt))
                .max(),
        };
        Some(Point::of(base, self.append_time, segment.unwrap_or_default()))
    }
}

fn segment_copy(id: &SegmentId, bytes: u64, is_full: bool) -> SegmentCopy {
    SegmentCopy {
        slot: id.slot,
        number: id.number.0,
        salt: id.salt.0,
        run: id.run.0,
        bytes,
        is_full,
    }
}

/// How much of a full segment there is to copy: up to its last commit, where its index tells; else
/// all of it.
fn full_bytes(disk: &dyn Disk, id: &SegmentId, slot_bytes: u64) -> u64 {
    let file = disk.read_file(&FileName::Index(id.number.0)).ok();
    let index = file.and_then(|file| index_file::decode(id, &file));
    let last = index.and_then(|index| index.commits.last().copied());
    last.map_or(slot_bytes, |last| u64::from(last.position) + u64::from(last.commit_bytes))
}

fn topics_of(catalog: &Catalog, extents: &BTreeMap<PartitionId, Extent>) -> Vec<TopicExtents> {
    let none = Extent { start: Offset::ZERO, end: Offset::ZERO };
    let of = |topic: &Topic| TopicExtents {
        name: topic.name().to_owned(),
        created: topic.created,
        extents: topic.partitions().map(|id| extents.get(&id).copied().unwrap_or(none)).collect(),
    };
    catalog.topics().map(of).collect()
}

/// Where a log stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The number that all its files carry.
    pub cluster: u128,
    /// Its last commit with data; `None` when there is none.
    pub point: Option<Point>,
    /// All its topics.
    pub topics: Vec<TopicExtents>,
}

/// Where the log in the folder `path` stands, as recovery would have it; nobody may write to it.
///
/// # Errors
/// [`OpenError`], as for every opening.
pub fn standing(path: &Path) -> Result<Standing, OpenError> {
    let disk = open_folder(path, FolderAccess::ReadOnly, BackendChoice::Auto)?;
    let recovered = recover(&*disk, false)?;
    let recovered = recovered.ok_or_else(|| OpenError::NotALog { path: path.to_owned() })?;
    let holds = |base: Base| {
        let of_run = recovered.segments.iter().rev().filter(move |(id, _)| id.run == base.run);
        let mut holding = of_run
            .filter(move |(_, index)| index.commits.iter().any(|it| it.number == base.number));
        holding.next().map_or((0, 0), |(id, _)| (id.number.0, id.salt.0))
    };
    let point = recovered.base.map(|base| Point::of(base, recovered.append_time, holds(base)));
    let topics = topics_of(&recovered.catalog, &recovered.extents);
    Ok(Standing { cluster: recovered.cluster.0, point, topics })
}

#[cfg(test)]
mod tests;
