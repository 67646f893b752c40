//! Verifying a log: every byte that means something is read from the disk and held against every
//! other one that speaks of it.
//!
//! What is checked
//! 1. Recovery in memory, as an opening would do it, and what it has to tell.
//! 2. Of each segment in use: slot header, commit headers, chain, directories; of each batch both
//!    checksums, that it is the one its directory names, and that each record is good for its kind.
//! 3. In commit order, over all segments: numbers without a hole, append times that rise, offsets
//!    without a jump but for skips that a run's `opened` names.
//! 4. That index files, checkpoints and end offsets say what the commits add up to.
//!
//! Promises
//! - Nothing is written; reads go around maps, and around the page cache where that can be.
//! - What a crash leaves behind is no damage: a torn tail that was never acked, a torn index file or
//!   checkpoint, the header of a slot that nothing names. Of these the report tells, and is clean.
//! - Damage that earlier openings have listed is damage still. Commits that the operator gave up
//!   are told, and are none.
//! - The answer is the same, in the same order, however many threads read.
//!
//! Where to look: `segment` reads one segment, `pack` one pack, `in_order` has many read at once, `replay`
//! holds them against one another, `report` is the answer.
//! Called by those who run a log, or look at one that nobody runs.

mod in_order;
mod pack;
mod replay;
mod report;
mod segment;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use tracklog_log::Extent;
use tracklog_protocol::PartitionId;

use crate::catalog::Catalog;
use crate::checkpoint::{self, Checkpoint, Ending};
use crate::disk::{
    Access, BackendChoice, Disk, FileName, FolderAccess, PAGE_BYTES, PageBuffer, SlotId,
    open_folder,
};
use crate::error::OpenError;
use crate::journal::commit::{CommitNumber, Run, Stretch};
use crate::journal::recovery::{Note, Recovered, recover};
use crate::journal::segment::{ClusterId, SlotPage};
use crate::partition::places::SegmentId;
use crate::published::Published;
use crate::settled::pack::PackHead;

use self::in_order::{Heard, in_order};
use self::pack::CheckedPack;
use self::replay::Replay;
pub use self::report::{Counts, PartitionReport, Problem, Progress, RecordDamage, VerifyReport};
use self::segment::{Checked, Expected};

/// So many threads read at most: what each holds is a segment's directories, which may be megabytes.
const THREADS_MAX: usize = 16;

/// Verifies the log in the folder `path`, which no running node should hold: what it writes
/// meanwhile would look like damage. All cores read. `progress` is called now and then, from this
/// thread.
///
/// # Errors
/// [`OpenError`] where the log could not even be opened: no log, of a newer format, or damaged
/// beyond telling where it ends. Damage within a log that opens is in the report.
pub fn verify(path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<VerifyReport, OpenError> {
    let disk = open_folder(path, FolderAccess::ReadOnly, BackendChoice::Auto)?;
    let report = verify_on(&disk, threads_for(1), progress)?;
    report.ok_or_else(|| OpenError::NotALog { path: path.to_owned() })
}

/// Verifies the log on `disk` with so many threads; `None` when there is none.
///
/// # Errors
/// As [`verify`].
pub fn verify_on(
    disk: &Arc<dyn Disk>,
    threads: NonZeroUsize,
    progress: &mut dyn FnMut(Progress),
) -> Result<Option<VerifyReport>, OpenError> {
    let Some(recovered) = recover(&**disk, false)? else { return Ok(None) };
    Verification::of_files(&**disk, recovered).run(threads, progress).map(Some)
}

/// One thread for each `share` cores.
fn threads_for(share: usize) -> NonZeroUsize {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new((cores / share).min(THREADS_MAX)).unwrap_or(NonZeroUsize::MIN)
}

/// Verifies what a running log has published: whose it is, and how large its slots are, says `log`.
/// `notes` are those of its opening. Half of the cores are left to those whom the log serves.
pub(crate) fn verify_published(
    disk: &dyn Disk,
    published: &Published,
    log: (ClusterId, u64),
    notes: &[Note],
    progress: &mut dyn FnMut(Progress),
) -> Result<VerifyReport, OpenError> {
    Verification::of_published(disk, published, log, notes).run(threads_for(2), progress)
}

/// The same with one thread, until `is_over` says so: then `None`.
pub(crate) fn scrub_published(
    disk: &dyn Disk,
    published: &Published,
    log: (ClusterId, u64),
    notes: &[Note],
    progress: &mut dyn FnMut(Progress),
    is_over: &dyn Fn() -> bool,
) -> Result<Option<VerifyReport>, OpenError> {
    let verification = Verification::of_published(disk, published, log, notes);
    verification.run_until(NonZeroUsize::MIN, progress, is_over)
}

/// What the log is said to be, to be held against what the disk has.
struct Verification<'a> {
    disk: &'a dyn Disk,
    /// Present while the log runs: it may give segments up at any time.
    published: Option<&'a Published>,
    slot_bytes: u64,
    catalog: Catalog,
    extents: BTreeMap<PartitionId, Extent>,
    cluster: ClusterId,
    packs: Vec<PackHead>,
    segments: Vec<Expected>,
    /// Missing commits that are known.
    listed: Vec<Stretch>,
    /// How far the ends skip ahead of the last run with data.
    skip: Option<u64>,
    report: VerifyReport,
}

impl<'a> Verification<'a> {
    fn of_files(disk: &'a dyn Disk, recovered: Recovered) -> Self {
        let segments = recovered.segments.iter().map(|(id, index)| Expected {
            id: *id,
            last: index.last(),
            end: index
                .commits
                .last()
                .map_or(0, |last| u64::from(last.position) + u64::from(last.commit_bytes)),
            is_active: false,
        });
        let mut notes = recovered.notes;
        for Stretch { run, first, last } in &recovered.given_up {
            let note = Note::GivenUp { run: *run, first: *first, last: *last };
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        Self {
            disk,
            published: None,
            slot_bytes: recovered.slot_bytes,
            cluster: recovered.cluster,
            packs: recovered.packs.iter().map(|index| index.head).collect(),
            extents: recovered.extents,
            segments: segments.collect(),
            listed: recovered.damaged,
            skip: Some(recovered.skip),
            catalog: recovered.catalog,
            report: VerifyReport { notes, ..VerifyReport::default() },
        }
    }

    fn of_published(
        disk: &'a dyn Disk,
        published: &'a Published,
        (cluster, slot_bytes): (ClusterId, u64),
        notes: &[Note],
    ) -> Self {
        let topics = published.topics.read();
        let partitions = topics.catalog.partitions().map(|(row, partition)| (partition, row));
        let partitions: Vec<_> = partitions.collect();
        // The ends before the places: a commit is listed first, so none of its records is missed.
        let ends = partitions.iter().map(|(_, row)| topics.extent_of(*row).end);
        let ends: Vec<_> = ends.collect();
        let (packs, listed, extents) = {
            let places = published.places.read();
            // The starts with the places: what is given up is taken out and passed over at once.
            let starts = partitions.iter().map(|(_, row)| topics.start_of(*row));
            let extents =
                starts.zip(ends).map(|(start, end)| Extent { start: start.min(end), end });
            let extents = partitions.iter().map(|(partition, _)| *partition).zip(extents);
            (places.packs(), places.listed(), extents.collect())
        };
        let segments = listed.into_iter().map(|it| Expected {
            id: it.id,
            last: it.last,
            end: it.end.unwrap_or(slot_bytes),
            is_active: it.is_active,
        });
        let missing = notes.iter().filter_map(|note| match note {
            Note::Missing { run, first, last, .. } => {
                Some(Stretch { run: *run, first: *first, last: *last })
            }
            _ => None,
        });
        Self {
            disk,
            published: Some(published),
            slot_bytes,
            cluster,
            packs,
            extents,
            segments: segments.filter(|it| it.last != CommitNumber::NONE).collect(),
            listed: missing.collect(),
            skip: None,
            catalog: topics.catalog.clone(),
            report: VerifyReport { notes: notes.to_vec(), ..VerifyReport::default() },
        }
    }

    fn run(
        self,
        threads: NonZeroUsize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<VerifyReport, OpenError> {
        let report = self.run_until(threads, progress, &|| false);
        report.map(|report| report.expect("nobody stops it"))
    }

    /// Ends with `None` behind the segments and packs at which `is_over` says so.
    fn run_until(
        mut self,
        threads: NonZeroUsize,
        progress: &mut dyn FnMut(Progress),
        is_over: &dyn Fn() -> bool,
    ) -> Result<Option<VerifyReport>, OpenError> {
        self.report.notes.retain(|note| !is_found_again(note));
        let checkpoints = self.load_checkpoints();
        self.look_at_unused_slots()?;
        let skips = self.skips_of_runs(&checkpoints);
        let parts = self.parts();
        let bytes_total = parts.iter().map(Part::bytes).sum();
        let mut done = Progress { bytes_done: 0, bytes_total };
        progress(done);
        let mut replay = Replay::new(&self.extents, skips, checkpoints);
        let (report, published) = (&mut self.report, self.published);
        let (disk, cluster, slot_bytes) = (self.disk, self.cluster, self.slot_bytes);
        let check =
            |part: &Part, read: &mut dyn FnMut(u64)| part.check(disk, cluster, slot_bytes, read);
        let is_whole = in_order(&parts, threads, check, is_over, &mut |heard| match heard {
            Heard::Read(bytes) => {
                done.bytes_done = (done.bytes_done + bytes).min(bytes_total);
                progress(done);
            }
            // What was merged or given up meanwhile was good a moment ago.
            Heard::Done(part) if !part.is_still_there(published) => replay.restart(),
            Heard::Done(CheckedPart::Pack(pack)) => replay.pack(pack, report),
            Heard::Done(CheckedPart::Segment(segment)) => replay.segment(segment, report),
        });
        if !is_whole {
            return Ok(None);
        }
        let skip = self.skip.unwrap_or_else(|| replay.pending_skip());
        replay.finish(&self.listed, skip, self.published.is_some(), &mut self.report);
        self.name_partitions();
        self.report.judge();
        progress(Progress { bytes_done: bytes_total, bytes_total });
        Ok(Some(self.report))
    }

    /// All that is to be read, in the log's order: packs hold what is older.
    fn parts(&self) -> Vec<Part> {
        let packs = self.packs.iter().copied().map(Part::Pack);
        packs.chain(self.segments.iter().copied().map(Part::Segment)).collect()
    }

    /// Reads both checkpoints. A torn one is what a crash may leave; a rotten one is not.
    fn load_checkpoints(&mut self) -> Vec<(FileName, Checkpoint)> {
        let mut checkpoints = Vec::new();
        for name in [FileName::CheckpointA, FileName::CheckpointB] {
            let file = match self.disk.read_file(&name) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    self.report.remark(format!("{} is not there", name.path()));
                    continue;
                }
                Err(error) => {
                    let what = format!("it cannot be read: {error}");
                    self.report.problem(name.path(), None, what);
                    continue;
                }
            };
            match (Checkpoint::decode(&file), checkpoint::look(&file).ending) {
                (Ok(checkpoint), _) => checkpoints.push((name, checkpoint)),
                (Err(_), Ending::Torn) => {
                    let path = name.path();
                    self.report.remark(format!("{path} is torn: it was being written at a crash"));
                }
                (Err(_), _) => {
                    let what = "it is rotten; a log opens without it".to_owned();
                    self.report.problem(name.path(), None, what);
                }
            }
        }
        checkpoints.sort_by_key(|(_, checkpoint)| checkpoint.sequence);
        checkpoints
    }

    /// How far each run skips, as its slot headers and the checkpoints say.
    fn skips_of_runs(&self, checkpoints: &[(FileName, Checkpoint)]) -> BTreeMap<Run, u64> {
        let mut skips = BTreeMap::new();
        for expected in &self.segments {
            if let Some(SlotPage::Header(header)) = read_header(self.disk, expected.id.slot) {
                skips.insert(header.run, header.skip);
            }
        }
        for (_, checkpoint) in checkpoints {
            skips.entry(checkpoint.position.run).or_insert(checkpoint.opened.skip);
        }
        skips
    }

    /// Slots that hold no segment in use: nothing in them can be damaged, but it is told.
    fn look_at_unused_slots(&mut self) -> Result<(), OpenError> {
        let folder = self.disk.journal_folder().map_err(OpenError::io("list the journal"))?;
        for (slot, bytes) in folder.slots {
            if self.segments.iter().any(|expected| expected.id.slot == slot) {
                continue;
            }
            self.report.slots_unused += 1;
            // Between listing and looking a running log may have removed it.
            if self.published.is_some() {
                continue;
            }
            let header = read_header(self.disk, slot);
            if bytes != self.slot_bytes && matches!(header, Some(SlotPage::Header(_))) {
                let what = format!("the file has {bytes} bytes instead of {}", self.slot_bytes);
                self.report.problem(slot.to_string(), None, what);
            } else if bytes != self.slot_bytes || matches!(header, None | Some(SlotPage::Bad)) {
                let what = "was being made or prepared at a crash: it counts as free";
                self.report.remark(format!("{slot}, which is not in use, {what}"));
            }
        }
        Ok(())
    }

    fn name_partitions(&mut self) {
        for partition in &mut self.report.partitions {
            let name = self.catalog.name(partition.id.topic);
            partition.topic = name.map_or_else(
                || format!("(deleted topic {})", partition.id.topic),
                |name| name.as_str().to_owned(),
            );
        }
    }
}

/// Whether verifying looks at the same thing itself, and tells it with its place.
const fn is_found_again(note: &Note) -> bool {
    matches!(
        note,
        Note::SlotHeader { .. }
            | Note::SlotGone { .. }
            | Note::Checkpoint { .. }
            | Note::Pack { .. }
    )
}

/// The header of a slot; `None` when the disk does not give it.
fn read_header(disk: &dyn Disk, slot: SlotId) -> Option<SlotPage> {
    let handle = disk.open_slot(slot, Access::Read).ok()?;
    let mut page = PageBuffer::zeroed(PAGE_BYTES);
    handle.read(0, &mut page).ok()?;
    Some(SlotPage::decode(&page, slot))
}

/// What is read by one thread.
enum Part {
    Pack(PackHead),
    Segment(Expected),
}

/// What it holds.
enum CheckedPart {
    Pack(CheckedPack),
    Segment(Checked),
}

impl Part {
    const fn bytes(&self) -> u64 {
        match self {
            Self::Pack(head) => head.file_bytes,
            Self::Segment(expected) => expected.end,
        }
    }

    fn check(
        &self,
        disk: &dyn Disk,
        cluster: ClusterId,
        slot_bytes: u64,
        read: &mut dyn FnMut(u64),
    ) -> CheckedPart {
        match self {
            Self::Pack(head) => CheckedPart::Pack(pack::check(disk, cluster, *head, read)),
            Self::Segment(expected) => {
                CheckedPart::Segment(segment::check(disk, slot_bytes, *expected, read))
            }
        }
    }
}

impl CheckedPart {
    /// Whether a running log did not give it up while it was read.
    fn is_still_there(&self, published: Option<&Published>) -> bool {
        published.is_none_or(|published| {
            let places = published.places.read();
            match self {
                Self::Pack(pack) => places.has_pack(pack.head.id),
                Self::Segment(segment) => places.is_listed(segment.expected.id.number),
            }
        })
    }
}

/// Whether a pack by itself is as it should be: for the fuzz targets.
#[cfg(feature = "simulation")]
pub(crate) fn is_pack_good(disk: &dyn Disk, cluster: ClusterId, head: PackHead) -> bool {
    pack::check(disk, cluster, head, &mut |_| {}).problems.is_empty()
}

/// A segment as people read it.
fn segment_name(id: &SegmentId) -> String {
    format!("segment {} in {}", id.number, id.slot)
}
