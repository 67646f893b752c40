//! Opening a log: recovery's verdict made durable, and the threads started.
//!
//! The order is what makes it safe to crash anywhere (FORMAT.md §6, step 5): take the lock of
//! every slot, so that no dead process's write is still to come; sync it, so that what is read
//! stays; recover; prepare a fresh segment of a new run; write its `opened`; write both
//! checkpoints; only then publish the end offsets.
//!
//! No slot's lock is kept but by who writes it. A lock says that a dead process's write may still
//! land: its ring holds the very file that it writes, and lets go for good. Once we had the lock,
//! whoever could write there later must open the slot anew, and for that the folder, whose own
//! lock we hold until the log is closed. So a log of many slots needs few descriptors.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tracklog_log::{Budget, Extent};
use tracklog_protocol::{PartitionId, TimeMicros};

use crate::catalog::Catalog;
use crate::checkpoint::{Checkpoint, Position};
use crate::disk::{
    Access, ChunkPool, Disk, FileName, FolderAccess, OpenFolderError, PageBuffer, Share, Slot,
    SlotId, descriptors_max, give_way, is_passing, open_folder,
};
use crate::error::OpenError;
use crate::intake_client::IntakeClient;
use crate::journal::appender::{
    Counters, Effects, Journal, Next, Prepared, SegmentFull, Start, Unlisted, control_pages, later,
    position_of, snapshot,
};
use crate::journal::commit::{
    CommitHeader, CommitKind, CommitNumber, Opened, Run, SegmentNumber, Stretch,
};
use crate::journal::driver::{Driver, Machine};
use crate::journal::intake::Input;
use crate::journal::recovery::{Cut, Note, Recovered, recover};
use crate::journal::segment::{ClusterId, FIRST_COMMIT_AT, is_slot_size};
use crate::journal::walk;
use crate::keeper::{Heading, Job, Keeper, SLOTS_MIN, kept_bytes, put_aside, write_heading};
use crate::options::{Options, WhenFull};
use crate::partition::places::{Home, Index, Places, SegmentId};
use crate::partition::tail::Tail;
use crate::published::{Published, SealedProducers, Topics};
use crate::read::{Reader, ReaderOptions};
use crate::seen::event_ids::{
    HotIds, IdKey, Known, KnownIds, SettledIds, ids_of_pack, ids_of_segment,
};
use crate::seen::producers::Producers;
use crate::settled::filters::Filters;
use crate::settled::settler::{SettleOptions, Settler, Settling};

const SLOT_BYTES_DEFAULT: u64 = 256 << 20;
/// Commit buffers kept for reuse.
const POOL_BYTES: usize = 16 << 20;
/// So many slots are kept open to read, where the system gives descriptors enough: of those that
/// the process may have they take a quarter at most.
const OPEN_SLOTS_MAX: u64 = 256;
/// What earlier openings cut is kept up to so much, with what this one cuts: a dozen torn ends at
/// their largest, four commits in flight of a few MiB each.
const CUT_BYTES_MAX: u64 = 64 << 20;
/// How often the folder's lock is asked for: for half a second.
const FOLDER_TRIES: u32 = 250;
/// How often a slot's lock is asked for, and how far apart: 10 s in all.
const LOCK_TRIES: u32 = 5_000;
/// See [`LOCK_TRIES`].
const LOCK_EVERY: Duration = Duration::from_millis(2);
/// While the disk is full, how often it is asked again: no event tells of free space.
const ROOM_EVERY: Duration = Duration::from_secs(1);

/// What an opening found, for the operator.
#[derive(Clone, Debug, Default)]
pub struct OpeningReport {
    /// Whether a new log was made.
    pub created: bool,
    /// This opening's run.
    pub run: u64,
    /// What is to be told, in order.
    pub notes: Vec<Note>,
    /// How long recovery took.
    pub took: Duration,
}

/// Everything of an open log but its threads.
pub(crate) struct Opening {
    pub(crate) client: IntakeClient,
    pub(crate) reader: Arc<Reader>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) report: OpeningReport,
    pub(crate) cluster: ClusterId,
    pub(crate) slot_bytes: u64,
    pub(crate) machines: Machines,
}

/// What of a log has to be driven: by threads, or step by step.
pub(crate) struct Machines {
    pub(crate) journal: Journal,
    pub(crate) keeper: Keeper,
    pub(crate) settler: Settler,
    pub(crate) settling: Arc<Settling>,
    /// What the journal asked for while it was made.
    pub(crate) jobs: Vec<Job>,
}

/// Opens the folder at `path` to write.
pub(crate) fn open_path(
    path: &Path,
    options: &Options,
) -> Result<(Arc<dyn Disk>, Opening), OpenError> {
    let disk = lock_folder(path, options)?;
    let opening = open_disk(&disk, options)?;
    Ok((disk, opening))
}

/// Opens the folder and takes its lock; a process that was killed a moment ago may still hold it.
fn lock_folder(path: &Path, options: &Options) -> Result<Arc<dyn Disk>, OpenFolderError> {
    let mut tries = 0;
    loop {
        match open_folder(path, FolderAccess::Write, options.backend) {
            Err(OpenFolderError::Locked { .. }) if tries < FOLDER_TRIES => tries += 1,
            opened => return opened,
        }
        std::thread::park_timeout(LOCK_EVERY);
    }
}

/// Opens the log on `disk` to write.
pub(crate) fn open_disk(disk: &Arc<dyn Disk>, options: &Options) -> Result<Opening, OpenError> {
    let began = disk.monotonic();
    settle_slots(&**disk)?;
    let recovered = recover(&**disk, options.accept_loss)?;
    let created = recovered.is_none();
    let recovered = match recovered {
        Some(recovered) => recovered,
        None => new_log(&**disk, options)?,
    };
    let mut opening = begin_run(disk, options, recovered)?;
    opening.report.created = created;
    opening.report.took = disk.monotonic().saturating_sub(began);
    Ok(opening)
}

/// Waits until nothing that a dead process wrote is still to come, and makes durable what came.
fn settle_slots(disk: &dyn Disk) -> Result<(), OpenError> {
    let folder = disk.journal_folder().map_err(OpenError::io("list the journal"))?;
    for (slot, _) in folder.slots {
        let handle = lock_slot(disk, slot)?;
        handle.sync().map_err(OpenError::io("sync the journal"))?;
        if !disk.reads_are_direct() {
            // After a failed write a page cache shows what never reached the medium. It lets go
            // of what is clean alone, as all is now.
            handle.drop_cache().map_err(OpenError::io("drop the journal's cached pages"))?;
        }
    }
    Ok(())
}

/// Takes one slot's lock. The folder's own lock is held: only a dead process's writes, which the
/// kernel still completes, can hold this one, and it lets go when they are over.
fn lock_slot(disk: &dyn Disk, slot: SlotId) -> Result<Arc<dyn Slot>, OpenError> {
    for _ in 0..LOCK_TRIES {
        match disk.open_slot(slot, Access::Write) {
            Ok(handle) => return Ok(handle),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => disk.pause(LOCK_EVERY),
            Err(source) => return Err(OpenError::Io { doing: format!("open {slot}"), source }),
        }
    }
    Err(OpenError::Locked { file: slot.to_string() })
}

/// What an empty log adds up to.
fn new_log(disk: &dyn Disk, options: &Options) -> Result<Recovered, OpenError> {
    let bytes = options.slot_bytes.unwrap_or(SLOT_BYTES_DEFAULT);
    if !is_slot_size(bytes) {
        return Err(OpenError::SlotBytes { bytes });
    }
    let catalog = Catalog::new();
    let none = Extent { start: Default::default(), end: Default::default() };
    let extents = catalog.partitions().map(|(_, partition)| (partition, none)).collect();
    // Slots of an interrupted making are made again.
    let folder = disk.journal_folder().map_err(OpenError::io("list the journal"))?;
    for (slot, _) in folder.slots {
        disk.remove_slot(slot).map_err(OpenError::io(format!("remove {slot}")))?;
    }
    Ok(Recovered {
        cluster: ClusterId(u128::from(disk.random()) << 64 | u128::from(disk.random())),
        slot_bytes: bytes,
        catalog,
        extents,
        segments: Vec::new(),
        unindexed: Vec::new(),
        packs: Vec::new(),
        unnamed_packs: Vec::new(),
        base: None,
        append_time: TimeMicros(0),
        producers: Producers::default(),
        ended: Vec::new(),
        highest_run: Run(0),
        highest_segment: SegmentNumber(0),
        skip: 0,
        skip_without_checkpoint: 0,
        damaged: Vec::new(),
        given_up: Vec::new(),
        cuts: Vec::new(),
        unused: Vec::new(),
        unused_later: Vec::new(),
        highest_slot: None,
        checkpoint_sequence: 0,
        notes: Vec::new(),
    })
}

/// Step 5: makes the verdict durable and begins a new run.
fn begin_run(
    disk: &Arc<dyn Disk>,
    options: &Options,
    mut recovered: Recovered,
) -> Result<Opening, OpenError> {
    recovered.catalog.deduplicate(&options.dedupe);
    if let Err(error) = keep_cuts(&**disk, &recovered.cuts) {
        // Nobody was told that it is there: a full disk must not keep the log from opening.
        tracing::warn!("no copy is kept of what was cut: {error}");
    }
    let heading = Heading {
        cluster: recovered.cluster,
        slot_bytes: recovered.slot_bytes,
        run: Run(recovered.highest_run.0 + 1),
        base: recovered.base,
        skip: recovered.skip,
    };
    let mut unused = sound_slots(&**disk, &recovered, &recovered.unused)?;
    let highest = recovered.highest_slot;
    let mut next_slot = highest.map_or(SlotId(0), |slot| SlotId(slot.0 + 1));
    let active = begin_segment(&**disk, &heading, &mut recovered, (&mut unused, &mut next_slot))?;
    let (opened, body) = write_opened(&**disk, &active, &heading, &recovered)?;
    let ids = ids_of(&**disk, options, &recovered, active.id.number);
    let published = publish(&recovered, options, active.id, &opened, ids);
    *published.sealed.lock() = SealedProducers {
        append_time: recovered.append_time,
        standings: Arc::new(recovered.producers.standings()),
    };
    let start = Start {
        cluster: heading.cluster,
        slot_bytes: heading.slot_bytes,
        run: heading.run,
        opened,
        opened_body: body,
        ended: recovered.ended.clone(),
        checkpoint_sequence: recovered.checkpoint_sequence + 2,
        producers: std::mem::take(&mut recovered.producers),
        kept_bytes: match options.when_full {
            WhenFull::DropOldest => kept_bytes(heading.slot_bytes),
            WhenFull::Refuse => 0,
        },
        commit_deadline: options.commit_deadline,
    };
    for sequence in [recovered.checkpoint_sequence + 1, recovered.checkpoint_sequence + 2] {
        let at = position_of(&opened);
        let (producers, base) = (&start.producers, recovered.base);
        let checkpoint = snapshot(&start, &published, producers, at, base, sequence);
        write_checkpoint(&**disk, &checkpoint)?;
    }
    // Both checkpoints are anew: what they no longer name is of no use, or may be used again.
    for pack in &recovered.unnamed_packs {
        if let Err(error) = disk.remove_file(&FileName::Pack(*pack)) {
            // The next opening tries again.
            tracing::warn!("cannot remove {pack}, which nothing names: {error}");
        }
    }
    unused.extend(sound_slots(&**disk, &recovered, &recovered.unused_later)?);
    let run = (heading, start, active);
    assemble(disk, options, recovered, run, published, (unused, next_slot))
}

/// The ids of the events that are known again: of packs of the window in filters, of segments, and of
/// packs that have no index of them, in the table.
fn ids_of(
    disk: &dyn Disk,
    options: &Options,
    recovered: &Recovered,
    active: SegmentNumber,
) -> KnownIds {
    let (catalog, key) = (&recovered.catalog, IdKey::of(recovered.cluster, options.id_hash_bits));
    let packs = &recovered.packs;
    let through = packs.last().map(|pack| SegmentNumber(pack.head.id.last)).unwrap_or_default();
    let mut settled = SettledIds { through, spans: Vec::new() };
    let oldest_pack = packs.first().map(|pack| SegmentNumber(pack.head.id.last));
    let oldest_segment = recovered.segments.first().map(|(id, _)| id.number);
    let first = oldest_pack.or(oldest_segment).unwrap_or(active);
    let mut hot = HotIds::new(first, options.ids_bytes);
    let Some(window) = catalog.dedupe_window_max() else { return KnownIds::new(hot, settled) };
    let now = later(recovered.append_time, disk.now());
    let not_before = now.minus(window);
    let is_known = |known: &Known| {
        let partition = catalog.partition(known.row());
        let extent = recovered.extents.get(&partition);
        extent.is_some_and(|extent| known.offset(extent.end) >= extent.start)
            && catalog.known_since(partition.topic, now).is_some_and(|since| known.since >= since)
    };
    let filters = Filters {
        packs,
        open: &|pack| disk.open_pack(pack),
        window,
        not_before,
        bytes_max: options.ids_bytes,
    };
    let (spans, unread) = filters.of_all();
    settled.spans = spans;
    for pack in packs.iter().filter(|pack| pack.head.append_time_last >= not_before) {
        let covers = |topic| {
            let ids = pack.ids.as_ref().filter(|_| !unread.contains(&pack.head.id));
            ids.is_some_and(|ids| ids.covers(topic))
        };
        ids_of_pack(disk, (pack, &covers), catalog, key, (&mut hot, &is_known));
    }
    for (id, index) in &recovered.segments {
        if index.append_time_last() >= not_before {
            ids_of_segment(disk, (id, index), catalog, key, (&mut hot, &is_known));
        }
    }
    hot.begin_segment(active);
    KnownIds::new(hot, settled)
}

/// Frees the slots of runs that held no data, where a full disk has no room for another: writes
/// both checkpoints so that they say the same and name them no longer. What the last run's
/// `opened` says is in them; they stand before its first commit.
fn unname(disk: &dyn Disk, recovered: &mut Recovered) -> Result<(), OpenError> {
    let catalog = &recovered.catalog;
    let live = catalog.live().iter();
    let mut checkpoint = Checkpoint {
        sequence: recovered.checkpoint_sequence,
        cluster: recovered.cluster,
        slot_bytes: recovered.slot_bytes,
        position: Position {
            run: recovered.highest_run,
            number: CommitNumber::NONE,
            hash: 0,
            segment: recovered.highest_segment,
            end: FIRST_COMMIT_AT,
            append_time: recovered.append_time,
        },
        base: recovered.base,
        slots: recovered.segments.iter().map(|(id, _)| *id).collect(),
        packs: recovered.packs.iter().map(|index| index.head).collect(),
        ended: recovered.ended.clone(),
        opened: opened_of(recovered),
        topics: catalog.topics().cloned().collect(),
        partitions: recovered.extents.iter().map(|(id, extent)| (*id, *extent)).collect(),
        live: live.map(|((id, key), live)| (*id, key.clone(), live.clone())).collect(),
        producers: recovered.producers.standings(),
    };
    for _ in 0..2 {
        checkpoint.sequence += 1;
        write_checkpoint(disk, &checkpoint)?;
    }
    recovered.checkpoint_sequence = checkpoint.sequence;
    recovered.unused = std::mem::take(&mut recovered.unused_later);
    Ok(())
}

/// What the coming run's `opened` says.
fn opened_of(recovered: &Recovered) -> Opened {
    Opened {
        base: recovered.base,
        skip: recovered.skip,
        damaged: recovered.damaged.clone(),
        void: recovered.cuts.iter().map(|cut| cut.commits).collect(),
        given_up: recovered.given_up.clone(),
        skip_without_checkpoint: recovered.skip_without_checkpoint,
    }
}

fn assemble(
    disk: &Arc<dyn Disk>,
    options: &Options,
    recovered: Recovered,
    (heading, start, active): (Heading, Start, Prepared),
    published: Arc<Published>,
    (free, next_slot): (VecDeque<SlotId>, SlotId),
) -> Result<Opening, OpenError> {
    // What was accepted must fit the ballast.
    let slot_bytes = usize::try_from(heading.slot_bytes).unwrap_or(usize::MAX);
    let client = IntakeClient {
        driver: Driver::new(Arc::default()),
        published: Arc::clone(&published),
        budget: Budget::new(options.budget_bytes.min(slot_bytes)),
        id_key: IdKey::of(heading.cluster, options.id_hash_bits),
    };
    let counters = Arc::new(Counters::default());
    let reader = reader_of(&published, disk, options, heading.cluster)?;
    let settling = Arc::new(Settling::new(options.hot_bytes.is_some()));
    let settler = Settler::new(
        Arc::clone(disk),
        Arc::clone(&published),
        Arc::clone(&reader),
        client.clone(),
        Arc::clone(&settling),
        Arc::clone(&counters),
        SettleOptions {
            run: heading.run,
            opened: start.opened_body.clone(),
            cluster: heading.cluster,
            id_key: client.id_key,
            slot_bytes: heading.slot_bytes,
            hot_segments: hot_segments(options, heading.slot_bytes),
            level: options.pack_level,
            ids_bytes: options.ids_bytes,
        },
    );
    settling.look();
    let folder = disk.journal_folder().map_err(OpenError::io("list the journal"))?;
    let keeper = Keeper::new(
        Arc::clone(disk),
        client.clone(),
        Arc::clone(&reader),
        heading,
        free,
        next_slot,
        folder.slots.len() as u64,
        (options.journal_bytes_max, options.when_full),
        Arc::clone(&settling),
        Arc::clone(&counters),
    );
    let mut asked = Asked { jobs: Vec::new(), disk: Arc::clone(disk) };
    let journal = Journal::new(
        start,
        active,
        published,
        Arc::clone(client.intake()),
        Arc::clone(&counters),
        Arc::new(ChunkPool::new(POOL_BYTES)),
        &mut asked,
    );
    let report = OpeningReport {
        created: false,
        run: heading.run.0,
        notes: recovered.notes,
        took: Duration::ZERO,
    };
    let unindexed = recovered.segments.into_iter();
    let unindexed = unindexed.filter(|(id, _)| recovered.unindexed.contains(&id.number));
    asked.jobs.extend(unindexed.map(|(id, index)| Job::Index { id, index }));
    let machines = Machines { journal, keeper, settler, settling, jobs: asked.jobs };
    let Heading { cluster, slot_bytes, .. } = heading;
    Ok(Opening { client, reader, counters, report, cluster, slot_bytes, machines })
}

/// Starts what reads from the log on `disk`.
pub(crate) fn reader_of(
    published: &Arc<Published>,
    disk: &Arc<dyn Disk>,
    opened: &Options,
    cluster: ClusterId,
) -> Result<Arc<Reader>, OpenError> {
    let rebuilds = Arc::clone(disk);
    let options = ReaderOptions {
        threads: opened.replay_threads,
        pinned_bytes: opened.pinned_bytes,
        replay_bytes: opened.replay_bytes,
        open_slots_max: usize::try_from(OPEN_SLOTS_MAX.min(descriptors_max() / 4))
            .expect("a few hundred"),
        frame_bytes: opened.frame_bytes,
        cluster,
        rebuild: Arc::new(move |id, last| walk::index_of(&*rebuilds, id, last)),
    };
    Reader::new(Arc::clone(published), Arc::clone(disk), options)
        .map_err(OpenError::io("start the replay threads"))
}

/// So many full segments stay hot: as the options say, and no more than leave room for those that
/// come where the journal is limited.
fn hot_segments(options: &Options, slot_bytes: u64) -> u64 {
    let room =
        options.journal_bytes_max.map(|bytes| (bytes / slot_bytes).saturating_sub(SLOTS_MIN));
    let Some(hot_bytes) = options.hot_bytes else { return u64::MAX };
    room.unwrap_or(u64::MAX).min(hot_bytes / slot_bytes)
}

/// Unused slots of the right size; others (from a crash while they were made) are removed.
fn sound_slots(
    disk: &dyn Disk,
    recovered: &Recovered,
    slots: &[SlotId],
) -> Result<VecDeque<SlotId>, OpenError> {
    let folder = disk.journal_folder().map_err(OpenError::io("list the journal"))?;
    let sizes: BTreeMap<SlotId, u64> = folder.slots.into_iter().collect();
    let mut sound = VecDeque::new();
    for slot in slots {
        if sizes.get(slot) == Some(&recovered.slot_bytes) {
            sound.push_back(*slot);
        } else {
            disk.remove_slot(*slot).map_err(OpenError::io(format!("remove {slot}")))?;
        }
    }
    Ok(sound)
}

/// Prepares the run's first segment in a free slot; those that cannot be prepared are put aside.
fn begin_segment(
    disk: &dyn Disk,
    heading: &Heading,
    recovered: &mut Recovered,
    (unused, next_slot): (&mut VecDeque<SlotId>, &mut SlotId),
) -> Result<Prepared, OpenError> {
    let mut number = recovered.highest_segment.next();
    loop {
        let (slot, is_new) = match unused.pop_front() {
            Some(slot) => (slot, false),
            None => free_slot(disk, recovered, (unused, next_slot))?,
        };
        let prepared = disk.open_slot(slot, Access::Write).and_then(|handle| {
            let id = write_heading(disk, &*handle, slot, number, heading)?;
            Ok(Prepared { id, slot: handle })
        });
        match prepared {
            Ok(prepared) => return Ok(prepared),
            Err(error) if is_new || is_passing(&error) => {
                return Err(OpenError::io(format!("prepare {slot}"))(error));
            }
            Err(error) => {
                // Told in there; what stays is tried again at the next opening.
                let _removed = put_aside(disk, slot, &error);
                // Its header may have landed: no number is given twice.
                number = number.next();
            }
        }
    }
}

/// Makes a slot where none is free, or frees those of runs without data where the disk is full.
/// Says whether it is a new one.
fn free_slot(
    disk: &dyn Disk,
    recovered: &mut Recovered,
    (unused, next_slot): (&mut VecDeque<SlotId>, &mut SlotId),
) -> Result<(SlotId, bool), OpenError> {
    let slot = *next_slot;
    match disk.create_slot(slot, recovered.slot_bytes, &mut |_| {}) {
        Ok(()) => {
            *next_slot = SlotId(slot.0 + 1);
            Ok((slot, true))
        }
        Err(_) if !recovered.unused_later.is_empty() => {
            unname(disk, recovered)?;
            *unused = sound_slots(disk, recovered, &recovered.unused)?;
            let slot = unused.pop_front().ok_or_else(|| OpenError::Damaged {
                what: "no slot is free for the new run, and the disk has no room for one"
                    .to_owned(),
            })?;
            Ok((slot, false))
        }
        Err(source) => Err(OpenError::Io { doing: format!("make {slot}"), source }),
    }
}

fn write_opened(
    disk: &dyn Disk,
    active: &Prepared,
    heading: &Heading,
    recovered: &Recovered,
) -> Result<(CommitHeader, Opened), OpenError> {
    let body = opened_of(recovered);
    let mut header = CommitHeader {
        kind: CommitKind::Opened,
        salt: active.id.salt,
        run: heading.run,
        number: CommitNumber(1),
        segment: active.id.number,
        position: FIRST_COMMIT_AT,
        commit_bytes: 0,
        chain: 0,
        mark: CommitNumber::NONE,
        append_time: later(recovered.append_time, disk.now()),
        directory_bytes: 0,
        directory_crc: 0,
    };
    let pages: Bytes = control_pages(&mut header, &body.encode());
    active
        .slot
        .write(u64::from(FIRST_COMMIT_AT), &pages)
        .map_err(OpenError::io("write the first commit of the run"))?;
    Ok((header, body))
}

fn write_checkpoint(disk: &dyn Disk, checkpoint: &Checkpoint) -> Result<(), OpenError> {
    let file = checkpoint.file();
    disk.write_file(&file, &checkpoint.encode()).map_err(OpenError::io(file.path()))
}

/// What was recovered, as readers see it.
pub(crate) fn published_of(
    recovered: &Recovered,
    ring_bytes: usize,
    index_bytes: u64,
) -> (Topics, Places, Tail) {
    let topics = Topics::new(recovered.catalog.clone());
    for (partition, extent) in &recovered.extents {
        set_extent(&topics, *partition, *extent);
    }
    let mut places = Places::new(index_bytes);
    places.grow_to(recovered.catalog.row_count());
    for index in &recovered.packs {
        let home = Home::Pack(index.head.id);
        places.add_full(home, Index::Pack(Arc::clone(index)), &recovered.catalog);
    }
    for (id, index) in &recovered.segments {
        let index = Index::Segment(Arc::clone(index));
        places.add_full(Home::Segment(*id), index, &recovered.catalog);
    }
    (topics, places, Tail::new(ring_bytes))
}

fn set_extent(topics: &Topics, partition: PartitionId, extent: Extent) {
    if let Some(row) = topics.catalog.row(partition) {
        topics.set_start(row, extent.start);
        topics.set_end(row, extent.end);
    }
}

fn publish(
    recovered: &Recovered,
    options: &Options,
    active: SegmentId,
    opened: &CommitHeader,
    ids: KnownIds,
) -> Arc<Published> {
    let (topics, mut places, tail) =
        published_of(recovered, options.ring_bytes, options.index_bytes);
    places.begin(active);
    places.publish(opened, &[]);
    Published::with_ids(topics, places, tail, ids)
}

/// Copies what was cut into `cut/`. What earlier openings left there goes, the oldest first, when
/// it comes to more than a bound.
fn keep_cuts(disk: &dyn Disk, cuts: &[Cut]) -> Result<(), OpenError> {
    if cuts.is_empty() {
        return Ok(());
    }
    for cut in cuts {
        keep_cut(disk, cut)?;
    }
    let mine: Vec<String> = cuts.iter().map(cut_name).collect();
    let there = disk.cut_folder().map_err(OpenError::io("list what was cut"))?;
    let mut bytes: u64 = there.iter().map(|(_, bytes)| *bytes).sum();
    let earlier = there.into_iter().filter(|(name, _)| !mine.contains(name));
    // What the log did not name is not the log's to remove.
    let mut earlier: Vec<_> =
        earlier.filter_map(|(name, bytes)| Some((cut_run(&name)?, name, bytes))).collect();
    earlier.sort_unstable();
    for (_, name, freed) in earlier {
        if bytes <= CUT_BYTES_MAX {
            break;
        }
        disk.remove_file(&FileName::Cut(name)).map_err(OpenError::io("remove an older cut"))?;
        bytes -= freed;
    }
    Ok(())
}

fn cut_name(cut: &Cut) -> String {
    let Stretch { run, first, last } = cut.commits;
    let segment = cut.id.number;
    format!("run-{run}-commits-{first}-{last}-segment-{segment}")
}

/// Of which run a file holds commits, by its name: runs rise, so it tells how old the file is.
pub(crate) fn cut_run(name: &str) -> Option<u64> {
    name.strip_prefix("run-")?.split_once("-commits-")?.0.parse().ok()
}

/// Copies what was cut into `cut/`, for those who want to look at it.
fn keep_cut(disk: &dyn Disk, cut: &Cut) -> Result<(), OpenError> {
    let doing = || OpenError::io("copy what was cut");
    let slot = disk.open_slot(cut.id.slot, Access::Read).map_err(doing())?;
    let mut bytes = PageBuffer::zeroed((cut.to - cut.from) as usize);
    if slot.read(u64::from(cut.from), &mut bytes).is_err() {
        // A torn write may have left sectors that cannot be read: then there is nothing to keep.
        return Ok(());
    }
    disk.write_file(&FileName::Cut(cut_name(cut)), &bytes).map_err(doing())
}

/// Collects what the journal asks for before there is a thread to do it.
struct Asked {
    jobs: Vec<Job>,
    disk: Arc<dyn Disk>,
}

impl Effects for Asked {
    fn write(&mut self, _: &Arc<dyn Slot>, _: u64, _: Bytes, number: CommitNumber) {
        unreachable!("the journal writes nothing while it is made, not even commit {number}");
    }

    fn prepare(&mut self, segment: SegmentNumber) {
        self.jobs.push(Job::Prepare(segment));
    }

    fn segment_full(&mut self, full: SegmentFull) {
        self.jobs.push(Job::Full(full));
    }

    fn stopped(&mut self, _: Checkpoint) {
        unreachable!("the journal does not stop while it is made");
    }

    fn unlisted(&mut self, unlisted: Unlisted, checkpoint: Checkpoint) {
        self.jobs.push(Job::Unlisted { unlisted, checkpoint });
    }

    fn not_dropped(&mut self) {
        self.jobs.push(Job::NotDropped);
    }

    fn expired(&mut self) {
        self.jobs.push(Job::Expired);
    }

    fn now(&self) -> TimeMicros {
        self.disk.now()
    }

    fn monotonic(&self) -> Duration {
        self.disk.monotonic()
    }
}

/// What the journal asks for, handed to the disk and to the keeper.
pub(crate) struct Handed {
    disk: Arc<dyn Disk>,
    driver: Arc<Driver>,
    jobs: mpsc::Sender<Job>,
}

impl Handed {
    /// Hands jobs to whoever takes them from the other end, these first.
    pub(crate) fn new(
        disk: &Arc<dyn Disk>,
        driver: &Arc<Driver>,
        first: Vec<Job>,
    ) -> (Self, mpsc::Receiver<Job>) {
        let (jobs, taken) = mpsc::channel();
        let handed = Self { disk: Arc::clone(disk), driver: Arc::clone(driver), jobs };
        first.into_iter().for_each(|job| handed.hand(job));
        (handed, taken)
    }

    fn hand(&self, job: Job) {
        // The keeper ends after the journal: a job that nobody takes comes at the very end, and
        // is done again by the next opening.
        drop(self.jobs.send(job));
    }
}

impl Effects for Handed {
    fn write(&mut self, slot: &Arc<dyn Slot>, at: u64, pages: Bytes, number: CommitNumber) {
        let driver = Arc::clone(&self.driver);
        let done = move |result| driver.push(Input::Written { number, result });
        slot.submit(at, pages, Box::new(done));
    }

    fn prepare(&mut self, segment: SegmentNumber) {
        self.hand(Job::Prepare(segment));
    }

    fn segment_full(&mut self, full: SegmentFull) {
        self.hand(Job::Full(full));
    }

    fn stopped(&mut self, checkpoint: Checkpoint) {
        self.hand(Job::Stopped(checkpoint));
    }

    fn unlisted(&mut self, unlisted: Unlisted, checkpoint: Checkpoint) {
        self.hand(Job::Unlisted { unlisted, checkpoint });
    }

    fn not_dropped(&mut self) {
        self.hand(Job::NotDropped);
    }

    fn expired(&mut self) {
        self.hand(Job::Expired);
    }

    fn now(&self) -> TimeMicros {
        self.disk.now()
    }

    fn monotonic(&self) -> Duration {
        self.disk.monotonic()
    }
}

/// A journal that runs, with what it hands its wishes to.
struct Running {
    journal: Journal,
    handed: Handed,
}

impl Machine for Running {
    fn step(&mut self) -> Next {
        self.journal.step(&mut self.handed)
    }
}

/// The threads of an open log.
pub(crate) struct Threads {
    watcher: JoinHandle<()>,
    keeper: JoinHandle<()>,
    settler: JoinHandle<()>,
    settling: Arc<Settling>,
}

impl Threads {
    /// Starts the journal, its watcher, the keeper and the settler.
    pub(crate) fn start(
        disk: &Arc<dyn Disk>,
        driver: &Arc<Driver>,
        machines: Machines,
    ) -> Result<Self, OpenError> {
        let Machines { journal, keeper, mut settler, settling, jobs } = machines;
        let (handed, taken) = Handed::new(disk, driver, jobs);
        let named = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let tells = Arc::clone(driver);
        let keeper = named("tracklog-keeper")
            .spawn(move || keep(keeper, &taken, tells))
            .map_err(OpenError::io("start the keeper"))?;
        let settler = named("tracklog-settler")
            .spawn(move || settler.run())
            .map_err(OpenError::io("start the settler"))?;
        let watched = Arc::clone(driver);
        let watcher = named("tracklog-watcher")
            .spawn(move || watched.watch())
            .map_err(OpenError::io("start the journal"))?;
        // The driver has the journal, which has the driver, until the journal ends.
        driver.start(Box::new(Running { journal, handed }));
        Ok(Self { watcher, keeper, settler, settling })
    }

    /// Waits for all to end; the journal must have been told to stop.
    pub(crate) fn join(self) {
        self.settling.stop();
        let ended = [self.settler.join(), self.watcher.join(), self.keeper.join()];
        for panic in ended.into_iter().filter_map(Result::err) {
            if !std::thread::panicking() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Tells the journal when the keeper panics: no slot would ever come.
struct Watched(Arc<Driver>);

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let result = Err(io::Error::other("the keeper's thread panicked"));
            self.0.push(Input::Written { number: CommitNumber::NONE, result });
        }
    }
}

/// The keeper's thread. Ends when the journal's has, which holds the other end.
fn keep(mut keeper: Keeper, jobs: &mpsc::Receiver<Job>, driver: Arc<Driver>) {
    let _watched = Watched(driver);
    give_way(Share::Equal);
    loop {
        let job = if keeper.waits_for_room() {
            jobs.recv_timeout(ROOM_EVERY)
        } else {
            jobs.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
        };
        match job {
            Ok(job) => keeper.run(job),
            Err(mpsc::RecvTimeoutError::Timeout) => keeper.catch_up(),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tracklog_log::conformance::block_on;
    use tracklog_log::{
        Append, Domain, Fetch, FetchMode, Item, Lane, Log, Retention, TopicName, TopicSpec,
    };
    use tracklog_protocol::{Offset, Record};

    use crate::disk::BackendChoice;
    use crate::{Engine, Options};

    /// More than the descriptors that there are, each filled by four records.
    const SLOTS: u64 = 80;
    const RECORDS: u64 = 4 * SLOTS;

    #[test]
    fn a_log_of_many_slots_is_written_opened_and_read_with_few_descriptors() {
        let program = std::env::current_exe().expect("it runs");
        let child = ["--exact", "open::tests::with_few_descriptors", "--ignored", "--nocapture"];
        let limited = "ulimit -n 64 && exec \"$0\" \"$@\"";
        let done = Command::new("sh").args(["-c", limited]).arg(program).args(child).output();
        let done = done.expect("there is a shell");
        let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "run under a limit by the test above"]
    fn with_few_descriptors() {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let options = Options {
            slot_bytes: Some(2 << 20),
            backend: BackendChoice::Blocking,
            replay_threads: 0,
            ..Options::default()
        };
        let log = Engine::open(folder.path(), &options).expect("a new log opens");
        let name = TopicName::new("t").expect("a name");
        let spec = TopicSpec { name, partitions: 1, retention: Retention::Keep };
        let topic = block_on(log.create_topic(spec)).expect("it is made");
        let partition = topic.partitions().next().expect("it has one");
        let epoch = block_on(log.open(Domain::WHOLE)).expect("it is open");
        let bytes = vec![7; 450 << 10];
        for _ in 0..RECORDS {
            let permit =
                log.reserve(Lane::FIRST_SOURCE, bytes.len()).expect("it is a share of the budget");
            let items = [Item::Record { partition, record: Record::opaque(&bytes) }];
            let ticket = log.append(permit, epoch, Append { conditions: &[], items: &items });
            block_on(ticket).expect("it is stored");
        }
        drop(log);
        let log = Engine::open(folder.path(), &options).expect("it opens again");
        assert!(log.status().segments as u64 >= SLOTS);
        let mut from = Offset(0);
        while from.0 < RECORDS {
            let fetch = Fetch {
                from: vec![(partition, from)],
                bytes_max: 1 << 20,
                wait: false,
                mode: FetchMode::Replay,
            };
            let mut fetched = block_on(log.fetch(fetch)).expect("it is readable");
            let part = fetched.partitions.pop().expect("one was asked for");
            assert!(!part.batches.is_empty(), "nothing at {from}");
            from = part.next;
        }
    }
}
