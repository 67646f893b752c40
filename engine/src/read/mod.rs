//! The read path: from what is asked to batches, newest place first.
//!
//! 1. The tail ring holds the newest commits: served at once, by whoever asks.
//! 2. Below it, the segment being written: read around the page cache.
//! 3. Full segments: mapped, in windows that the kernel has read in before they are touched.
//! 4. Packs: in frames that are decoded once for all who read them.
//!
//! Promises
//! - Nothing at or beyond a partition's end is returned, nothing below its start, and every
//!   batch from a disk was checked: its checksums, and that it is the one that was asked for.
//! - A bad block or a bad batch costs that batch only: it is named as damage, and reading goes on
//!   behind it. Records whose commits are lost are named too.
//! - 2 to 4 run on threads of their own, replays under a budget of bytes. Whoever asks never waits
//!   for a disk, and never touches a map that is not in memory.
//! - Fetches that wait for the same segment are read in one pass over it.
//! - Answers hold no more of maps than their budget says: beyond it they are copies.
//! - A slot is mapped only while its segment is full and listed; [`Reader::forget`] says whether
//!   somebody still holds bytes of it.
//!
//! Where to look: `plan` decides what to read, `scan` reads it, `answer` puts it together;
//! `times` finds offsets by time, `ids` by message id, `slots` keeps slots open, `pinned` counts what answers hold of
//! their maps, `threads` runs the work and keeps the replay budget, `together` reads a segment for
//! all who wait for it.
//! Called by the engine's `Log`.

mod answer;
mod ids;
mod pinned;
mod plan;
mod scan;
mod slots;
#[cfg(test)]
mod tests;
mod threads;
mod times;
mod together;

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracklog_log::{Epoch, Fetch, FetchError, Fetched, IdPlaces, Pending, SettledPlaces, TimeKind};
use tracklog_protocol::{BatchView, Offset, PartitionId, TimeMicros, TopicId};

use crate::disk::{BufferPool, Disk, FileName, Loss, PackFile, PackId};
use crate::index_file;
use crate::journal::commit::{CommitNumber, SegmentNumber};
use crate::journal::segment::ClusterId;
use crate::partition::places::{Held, Home, Index, Place, SegmentId, SegmentIndex, Unread};
use crate::published::Published;
use crate::seen::event_ids::TopicIdHash;
use crate::settled::frames::Frames;
use crate::settled::pack::PackIndex;
use pinned::PinnedBytes;
use plan::{Asked, Bad, Plan, Planned};
use scan::Scan;
use slots::{OpenSlot, OpenSlots};
use threads::Threads;
use together::Reading;

/// No answer holds much more, whatever was asked.
const FETCH_BYTES_MAX: usize = 32 << 20;
/// So many indexes are read for one fetch at most; who still lacks his comes first some other time.
const HELD_MAX: usize = 8;
/// Nor is it planned more often for want of an index.
const PLANS_MAX: usize = 16;
/// One read of a segment that is read in: larger ones are no cheaper, and who writes waits for them.
const READ_IN_BYTES: u64 = 256 << 10;
/// Idle memory that is kept for reading around the page cache.
const IDLE_BYTES_MAX: usize = 8 << 20;

/// Makes a segment's index again, up to its last commit, from the segment itself.
pub(crate) type Rebuild =
    Arc<dyn Fn(SegmentId, CommitNumber) -> io::Result<SegmentIndex> + Send + Sync>;

/// What a [`Reader`] is given.
#[derive(Clone)]
pub(crate) struct ReaderOptions {
    /// How many threads read from the disk for replays, and as many for live readers. With 0 whoever
    /// asks does it himself.
    pub(crate) threads: usize,
    /// What answers may hold of maps; beyond it they are copies.
    pub(crate) pinned_bytes: u64,
    /// What may be read for replays, or wait to be taken, at a time.
    pub(crate) replay_bytes: u64,
    /// So many slots are kept open, and mapped where they are full.
    pub(crate) open_slots_max: usize,
    /// What is kept of decoded frames of packs.
    pub(crate) frame_bytes: u64,
    /// Whose log it is.
    pub(crate) cluster: ClusterId,
    pub(crate) rebuild: Rebuild,
}

/// Reads what is published.
pub(crate) struct Reader {
    published: Arc<Published>,
    disk: Arc<dyn Disk>,
    rebuild: Rebuild,
    slots: OpenSlots,
    pool: BufferPool,
    pinned: Arc<PinnedBytes>,
    frames: Frames,
    cluster: ClusterId,
    threads: Threads,
    turn: AtomicU64,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// A reader with its threads.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub(crate) fn new(
        published: Arc<Published>,
        disk: Arc<dyn Disk>,
        options: ReaderOptions,
    ) -> io::Result<Arc<Self>> {
        let threads = Threads::start(options.threads, options.replay_bytes)?;
        Ok(Arc::new(Self::with_threads(published, disk, options, threads)))
    }

    fn with_threads(
        published: Arc<Published>,
        disk: Arc<dyn Disk>,
        options: ReaderOptions,
        threads: Threads,
    ) -> Self {
        let pool = BufferPool::new(IDLE_BYTES_MAX);
        Self {
            frames: Frames::new(Arc::clone(&disk), pool.clone(), options.frame_bytes),
            cluster: options.cluster,
            slots: OpenSlots::new(
                Arc::clone(&disk),
                Arc::clone(&published),
                options.open_slots_max,
            ),
            published,
            disk,
            rebuild: options.rebuild,
            pool,
            pinned: PinnedBytes::new(options.pinned_bytes),
            threads,
            turn: AtomicU64::new(0),
        }
    }

    /// See [`tracklog_log::Log::fetch`]. A fetch that waits ends with [`FetchError::Closed`] when
    /// the log is closed: nothing will come.
    pub(crate) fn fetch(
        self: &Arc<Self>,
        epoch: Epoch,
        fetch: Fetch,
    ) -> Pending<'static, Result<Fetched, FetchError>> {
        let reader = Arc::clone(self);
        Box::pin(async move {
            loop {
                let closed = reader.published.is_closed();
                let fetched = reader.fetch_once(epoch, &fetch).await?;
                let at_ends = fetched
                    .partitions
                    .iter()
                    .zip(&fetch.from)
                    .all(|(found, (_, from))| found.extent.end == *from);
                if !fetch.wait || !at_ends || fetch.from.is_empty() {
                    return Ok(fetched);
                }
                if closed {
                    return Err(FetchError::Closed);
                }
                reader.published.grown(&fetch.from).await;
            }
        })
    }

    async fn fetch_once(
        self: &Arc<Self>,
        epoch: Epoch,
        fetch: &Fetch,
    ) -> Result<Fetched, FetchError> {
        let asked = Asked {
            from: fetch.from.clone(),
            bytes_max: fetch.bytes_max.min(FETCH_BYTES_MAX),
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let plan = Plan::make(&self.published, &asked, &Held::new())?;
        if plan.is_in_memory() {
            return answer::fetched(plan, epoch, &self.published);
        }
        let (promise, answer) = self.threads.promise();
        let reading = Reading::new(Arc::clone(self), asked, plan, epoch, promise);
        self.threads.read(fetch.mode, reading);
        answer.await.unwrap_or(Err(FetchError::Closed))
    }

    /// Plans again and again until no partition lacks the index that it needs, or enough is there.
    /// `held` are those at hand already, and those that were read.
    fn read_indexes(
        &self,
        asked: &Asked,
        mut plan: Plan,
        held: &mut Held,
    ) -> Result<Plan, FetchError> {
        if plan.unread.is_empty() {
            return Ok(plan);
        }
        if !held.is_empty() {
            plan = Plan::make(&self.published, asked, held)?;
        }
        let held_max = held.len() + HELD_MAX;
        let mut plans = 0;
        while !plan.unread.is_empty() && held.len() < held_max && plans < PLANS_MAX {
            plans += 1;
            for (partition, unread) in plan.unread.iter().take(held_max - held.len()) {
                match self.read_index(*unread) {
                    Ok(index) => {
                        held.insert(unread.home.number(), index);
                    }
                    Err(_) if !plan.is_empty() => return Ok(plan),
                    // It went elsewhere meanwhile: the next plan finds where.
                    Err(_) if !self.published.places.read().has(unread.home) => {}
                    Err(error) => {
                        return Err(FetchError::Io {
                            partition: *partition,
                            why: format!("{} has no index: {error}", unread.home),
                        });
                    }
                }
            }
            plan = Plan::make(&self.published, asked, held)?;
        }
        Ok(plan)
    }

    /// The index of a full segment or of a pack.
    pub(crate) fn read_index(&self, unread: Unread) -> io::Result<Index> {
        if let Some(index) = self.published.places.read().index(unread.home) {
            return Ok(index);
        }
        let index = match unread.home {
            Home::Segment(id) => Index::Segment(self.read_segment_index(id, unread.last)?),
            Home::Pack(pack) => Index::Pack(self.read_pack_index(pack)?),
        };
        self.published.places.write().reread(unread.home, index.clone());
        Ok(index)
    }

    /// From its file, or from the segment itself.
    fn read_segment_index(
        &self,
        id: SegmentId,
        last: CommitNumber,
    ) -> io::Result<Arc<SegmentIndex>> {
        let of_file = self.disk.read_file(&FileName::Index(id.number.0)).ok();
        let of_file = of_file.and_then(|file| index_file::decode(&id, &file));
        match of_file.filter(|index| index.last() == last) {
            Some(index) => Ok(Arc::new(index)),
            None => (self.rebuild)(id, last).map(Arc::new),
        }
    }

    /// The open file of a pack.
    pub(crate) fn pack_file(&self, pack: PackId) -> io::Result<Arc<dyn PackFile>> {
        self.frames.file(pack)
    }

    fn read_pack_index(&self, pack: PackId) -> io::Result<Arc<PackIndex>> {
        let file = self.frames.file(pack)?;
        let index = PackIndex::read(&*file, self.cluster, pack);
        index.map(Arc::new).map_err(io::Error::other)
    }

    /// See [`tracklog_log::Log::offset_at`].
    pub(crate) fn offset_at(
        self: &Arc<Self>,
        partition: PartitionId,
        kind: TimeKind,
        time: TimeMicros,
    ) -> Pending<'static, Result<Offset, FetchError>> {
        let reader = Arc::clone(self);
        Box::pin(async move {
            match kind {
                TimeKind::Append => times::offset_at_append(&reader, partition, time).await,
                TimeKind::Event => times::offset_at_event(&reader, partition, time).await,
            }
        })
    }

    /// Where settled events of the window lie that may have these ids, each in its topic. See
    /// [`tracklog_log::Log::settled_places`].
    pub(crate) fn settled_places(
        self: &Arc<Self>,
        ids: Vec<(TopicId, TopicIdHash)>,
    ) -> Pending<'static, Result<SettledPlaces, FetchError>> {
        Box::pin(ids::settled_places(Arc::clone(self), ids))
    }

    /// Where events of a topic lie that may have one of these ids. See
    /// [`tracklog_log::Log::id_places`].
    pub(crate) fn id_places(
        self: &Arc<Self>,
        topic: TopicId,
        hashes: RangeInclusive<u64>,
    ) -> Pending<'static, Result<IdPlaces, FetchError>> {
        Box::pin(ids::id_places(Arc::clone(self), topic, hashes))
    }

    /// Has a full segment read in as it lies, up to a place in it, for who is about to read all of that
    /// in another order: a disk gives large pieces for much less than as many bytes in small ones.
    /// Ends where `goes_on`, asked behind each piece, says no. What cannot be read shows when it is
    /// asked for.
    pub(crate) fn read_in(&self, id: SegmentId, end: u64, mut goes_on: impl FnMut() -> bool) {
        let Ok(OpenSlot { map: Some(map), .. }) = self.slots.open(id) else { return };
        let mut at = 0;
        while at < end {
            let bytes = READ_IN_BYTES.min(end - at);
            map.read_in(at, usize::try_from(bytes).expect("a piece fits into memory"));
            at += bytes;
            if !goes_on() {
                return;
            }
        }
    }

    /// A partition's batches at some of its places in a full segment or a pack, in order; what lies
    /// behind the last begins at `end`. For each the batch or how it was lost; an error where the
    /// disk gives nothing now. Frames are kept in `frames`, apart from those of readers.
    pub(crate) fn read_batches(
        &self,
        (home, index): (Home, &Index),
        partition: PartitionId,
        places: &[Place],
        end: Offset,
        frames: &Frames,
    ) -> Result<Vec<Result<BatchView, Loss>>, String> {
        let bounds = places.iter().skip(1).map(|next| next.base_offset).chain([end]);
        let mut planned: Vec<Planned> = places
            .iter()
            .zip(bounds)
            .map(|(place, bound)| match index {
                Index::Segment(_) => Planned::of_full_segment(home, partition, *place, bound),
                Index::Pack(index) => {
                    let frame = index.frame_of(place).expect("its places lie in its frames");
                    Planned::of_pack(home, partition, (*place, bound), index.frames[frame])
                }
            })
            .collect();
        Scan { frames, ..self.scan() }.read(planned.iter_mut().collect());
        let batches = planned.into_iter().flat_map(Planned::batches);
        let batches = batches.map(|batch| match batch {
            Ok(batch) => Ok(Ok(batch)),
            Err(Bad::Damaged(loss)) => Ok(Err(loss)),
            Err(Bad::Gone(why) | Bad::Io(why)) => Err(why),
        });
        batches.collect()
    }

    /// Room for decoded frames, apart from that of readers.
    pub(crate) fn frames_apart(&self, bytes_max: u64) -> Frames {
        Frames::new(Arc::clone(&self.disk), self.pool.clone(), bytes_max)
    }

    const fn scan(&self) -> Scan<'_> {
        let Self { slots, pool, pinned, frames, .. } = self;
        Scan { slots, pool, pinned, frames }
    }

    /// Lets go of a segment that is no longer listed. Says whether somebody still holds bytes of
    /// its map: then its slot must not be written again.
    pub(crate) fn forget(&self, segment: SegmentNumber) -> bool {
        self.slots.forget(segment)
    }

    /// Lets go of a pack that is no longer listed.
    pub(crate) fn forget_pack(&self, pack: PackId) {
        self.frames.forget(pack);
    }

    /// What is kept of decoded frames, and how many were decoded so far.
    pub(crate) fn frames(&self) -> (u64, u64) {
        (self.frames.bytes(), self.frames.decoded())
    }

    /// What answers hold of maps.
    pub(crate) fn pinned_bytes(&self) -> u64 {
        self.pinned.bytes()
    }

    /// How many windows of maps were copied, since answers held too much.
    pub(crate) fn windows_copied(&self) -> u64 {
        self.pinned.copied()
    }

    /// What is being read for replays, or waits to be taken.
    pub(crate) fn replay_bytes(&self) -> u64 {
        self.threads.replay_bytes()
    }

    /// Ends the threads; what waits for them ends with [`FetchError::Closed`].
    pub(crate) fn stop(&self) {
        self.threads.stop();
    }
}
