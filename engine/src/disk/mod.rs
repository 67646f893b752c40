//! The only room that touches files, clocks and chance.
//!
//! Everything above speaks to a [`Disk`] and a [`Slot`], so that the same engine runs on io_uring,
//! on plain threads, and on a simulated disk that crashes, tears and loses writes on command.
//!
//! Promises of every implementation
//! - [`Slot::submit`] and [`Slot::write`] say `Ok` only when all bytes are on the medium, not in a
//!   volatile cache above it. A short write is an error.
//! - [`Slot::read`] tells what the medium holds, not what a page cache believes, wherever the file
//!   system allows that ([`Disk::reads_are_direct`]).
//! - What [`Disk::write_file`], [`Disk::create_slot`] and [`Disk::remove_slot`] did is there after a
//!   crash once they returned `Ok`; the entry in the folder too.
//!
//! Called by the journal, recovery, checkpoints and the read path of this crate only.

mod blocking;
mod buffer;
mod chunks;
mod files;
mod giving_back;
mod giving_way;
mod heap;
mod here;
mod map;
mod probe;
mod queue;
mod refused;
pub mod simulated;
#[cfg(test)]
mod tests;
mod trusted;
mod uring;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracklog_protocol::TimeMicros;

pub use buffer::{BufferPool, PageBuffer};
pub use chunks::ChunkPool;
pub use files::{BackendChoice, FolderAccess, OpenFolderError, open_folder};
pub(crate) use files::{descriptors_max, is_passing, open_alone, open_pack_alone, read_alone};
pub(crate) use giving_way::{Share, give_way, gives_way};
pub use heap::bound_heap;
pub(crate) use here::{is_telling, write_here};
pub use probe::{DurableWrites, Measured, measure};
pub(crate) use refused::{Loss, Unread, read_surely};
pub(crate) use trusted::{batch_of_pack, batch_of_ring, batch_of_slot};

/// What writes are aligned to, in place and size.
pub const PAGE_BYTES: usize = 4096;

/// What a disk writes whole or not at all.
pub(crate) const SECTOR_BYTES: usize = 512;

/// Reads again what fails: what fails by chance must not count as lost.
pub(crate) fn twice<T, E>(read: impl Fn() -> Result<T, E>) -> Result<T, E> {
    read().or_else(|_| read())
}

/// Whether one of the sectors of a small file from byte `from` on is all zeros. A crash while the
/// file was written may have lost any of them, in the middle too.
pub(crate) fn lacks_a_sector(file: &[u8], from: usize) -> bool {
    let sectors = file.chunks(SECTOR_BYTES).skip(from / SECTOR_BYTES);
    sectors.into_iter().any(is_zero)
}

/// Whether a small file is what a crash may have left of `right` while that was written: each of
/// its sectors is as it should be, or all zeros, or not there.
pub(crate) fn is_torn(file: &[u8], right: &[u8]) -> bool {
    let sectors = file.chunks(SECTOR_BYTES).zip(right.chunks(SECTOR_BYTES));
    let good = |(sector, right): (&[u8], &[u8])| right.starts_with(sector) || is_zero(sector);
    file != right && file.len() <= right.len() && sectors.into_iter().all(good)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// A slot's number: its file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot-{:08}", self.0)
    }
}

/// A pack, by its file's name: the stretch of segments whose records are in it, and which writing
/// of that stretch it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId {
    /// The number of the first segment.
    pub first: u64,
    /// The number of the last segment.
    pub last: u64,
    /// From 1; higher where the same stretch was written again.
    pub generation: u32,
}

impl PackId {
    /// The pack of a file's name; `None` when it is none of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".pack")?.splitn(3, '-');
        let mut part = || parts.next();
        let first = part()?.parse().ok()?;
        let last = part()?.parse().ok()?;
        let generation = part()?.parse().ok()?;
        let id = Self { first, last, generation };
        (id.to_string() == name && first <= last).then_some(id)
    }

    /// Whether the stretch of `other` lies within its own.
    #[must_use]
    pub const fn covers(&self, other: &Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016}-{:016}-{:04}.pack", self.first, self.last, self.generation)
    }
}

/// A file of the data folder that is not a slot; all but packs are small and written as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// `checkpoint-a`.
    CheckpointA,
    /// `checkpoint-b`.
    CheckpointB,
    /// `journal/NNNNNNNNNNNNNNNN.idx`, by segment number.
    Index(u64),
    /// `packs/FIRST-LAST-GENERATION.pack`.
    Pack(PackId),
    /// `cut/NAME`: what recovery took out of the log.
    Cut(String),
}

impl FileName {
    /// Its path below the data folder.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::CheckpointA => "checkpoint-a".to_owned(),
            Self::CheckpointB => "checkpoint-b".to_owned(),
            Self::Index(segment) => format!("journal/{segment:016}.idx"),
            Self::Pack(pack) => format!("packs/{pack}"),
            Self::Cut(name) => format!("cut/{name}"),
        }
    }
}

/// What the `journal` folder holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalFolder {
    /// All slots with their sizes, by number.
    pub slots: Vec<(SlotId, u64)>,
    /// All index files, by segment number.
    pub indexes: Vec<u64>,
}

/// How a slot is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To read, without a lock.
    Read,
    /// To write: takes the exclusive lock of the very descriptor that writes, and fails with
    /// [`io::ErrorKind::WouldBlock`] while another process (a dead one's ring included) holds it.
    Write,
}

/// A data folder on some disk, with the clocks and the chance of its world.
pub trait Disk: Send + Sync + 'static {
    /// What the journal's folder holds. A missing folder holds nothing.
    ///
    /// # Errors
    /// As the file system says.
    fn journal_folder(&self) -> io::Result<JournalFolder>;

    /// What the folder `cut` holds: names and sizes. A missing folder holds nothing.
    ///
    /// # Errors
    /// As the file system says.
    fn cut_folder(&self) -> io::Result<Vec<(String, u64)>>;

    /// What the folder `packs` holds: packs with their sizes, in order. A missing folder holds
    /// nothing.
    ///
    /// # Errors
    /// As the file system says.
    fn packs_folder(&self) -> io::Result<Vec<(PackId, u64)>>;

    /// Begins a pack's file. One that is there already (from a crash while it was made) is begun
    /// anew.
    ///
    /// # Errors
    /// As the file system says.
    fn create_pack(&self, pack: PackId) -> io::Result<Box<dyn PackWriter>>;

    /// Opens a pack to read. It stays readable when its file is removed.
    ///
    /// # Errors
    /// As the file system says.
    fn open_pack(&self, pack: PackId) -> io::Result<Arc<dyn PackFile>>;

    /// The whole of a small file, as the medium holds it; `NotFound` when there is none.
    ///
    /// # Errors
    /// As the file system says.
    fn read_file(&self, name: &FileName) -> io::Result<Vec<u8>>;

    /// Replaces a small file as a whole, durably. After a crash in between the file may be
    /// anything: its reader must know a good one.
    ///
    /// # Errors
    /// As the file system says.
    fn write_file(&self, name: &FileName, bytes: &[u8]) -> io::Result<()>;

    /// Removes a small file, durably. One that is not there is fine.
    ///
    /// # Errors
    /// As the file system says.
    fn remove_file(&self, name: &FileName) -> io::Result<()>;

    /// Makes a slot of `bytes`, filled with zeros that are written out, durably; one that is
    /// there already (from a crash while it was made) is filled again. `between` is called with how
    /// far that is, piece by piece: who has time rests there, and leaves the disk to others.
    ///
    /// # Errors
    /// As the file system says; `StorageFull` when the disk is.
    fn create_slot(&self, slot: SlotId, bytes: u64, between: &mut dyn FnMut(u64))
    -> io::Result<()>;

    /// Removes a slot's file, durably. Maps of it stay good.
    ///
    /// # Errors
    /// As the file system says.
    fn remove_slot(&self, slot: SlotId) -> io::Result<()>;

    /// The same for a slot that nobody has a map of. Its room may be given back piece by piece, with
    /// `between` called after each: who has time rests there, and leaves the disk to others.
    ///
    /// # Errors
    /// As the file system says.
    fn give_back_slot(&self, slot: SlotId, between: &mut dyn FnMut(u64)) -> io::Result<()> {
        let _in_one = between;
        self.remove_slot(slot)
    }

    /// Removes a pack's file likewise. Who has it open reads on.
    ///
    /// # Errors
    /// As of [`remove_file`](Self::remove_file).
    fn give_back_pack(&self, pack: PackId, between: &mut dyn FnMut(u64)) -> io::Result<()> {
        let _in_one = between;
        self.remove_file(&FileName::Pack(pack))
    }

    /// Opens a slot.
    ///
    /// # Errors
    /// As the file system says; see [`Access::Write`].
    fn open_slot(&self, slot: SlotId, access: Access) -> io::Result<Arc<dyn Slot>>;

    /// Bytes that the file system has left for this user.
    ///
    /// # Errors
    /// As the file system says.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Whether reads bypass the page cache. Where they do not, a log whose write failed cannot be
    /// recovered by the process that saw the failure.
    fn reads_are_direct(&self) -> bool;

    /// Which backend runs and why, for the start line, `doctor` and metrics.
    fn backend(&self) -> Backend;

    /// The wall clock.
    fn now(&self) -> TimeMicros;

    /// A clock that never goes back, from an arbitrary start.
    fn monotonic(&self) -> Duration;

    /// A random number that nobody can guess.
    fn random(&self) -> u64;

    /// Lets a moment pass, where no event tells what is waited for.
    fn pause(&self, moment: Duration) {
        std::thread::park_timeout(moment);
    }
}

/// Which backend runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// How commits reach the disk.
    pub kind: BackendKind,
    /// Whether the page cache is bypassed (O_DIRECT); else writes are followed by a sync.
    pub direct: bool,
    /// Why this one, in words.
    pub why: String,
}

/// How commits reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// io_uring on a thread of its own.
    Uring,
    /// Four threads that write and wait.
    Blocking,
    /// In memory, seeded, for tests.
    Simulated,
}

impl BackendKind {
    /// Its name on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Blocking => "blocking",
            Self::Simulated => "simulated",
        }
    }
}

/// A pack's file while it is written, from its beginning to its end. Dropped before it is finished,
/// it leaves a file of no use.
pub trait PackWriter: Send {
    /// Writes the next pages. They need not be durable yet.
    ///
    /// # Errors
    /// As the disk says; `StorageFull` when it is.
    fn write(&mut self, pages: &PageBuffer) -> io::Result<()>;

    /// Makes the file durable, its entry in the folder too.
    ///
    /// # Errors
    /// As the disk says.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// An open pack.
pub trait PackFile: Send + Sync + 'static {
    /// Its size.
    fn bytes(&self) -> u64;

    /// Fills `buffer` from `at` on; both are multiples of a page.
    ///
    /// # Errors
    /// As the disk says; `UnexpectedEof` beyond the end.
    fn read(&self, at: u64, buffer: &mut PageBuffer) -> io::Result<()>;
}

/// Called once when a submitted write is over.
pub type WriteDone = Box<dyn FnOnce(io::Result<()>) + Send>;

/// An open slot.
pub trait Slot: Send + Sync + 'static {
    /// Its size.
    fn bytes(&self) -> u64;

    /// Fills `buffer` from `at` on; both are multiples of a page.
    ///
    /// # Errors
    /// As the disk says; `UnexpectedEof` beyond the end.
    fn read(&self, at: u64, buffer: &mut PageBuffer) -> io::Result<()>;

    /// Writes `pages` at `at` durably, and waits for it. For slot headers, not for commits.
    ///
    /// # Errors
    /// As the disk says. The pages may then hold old bytes, new ones, or some of both.
    fn write(&self, at: u64, pages: &Bytes) -> io::Result<()>;

    /// Begins to write `pages` (aligned in memory, place and size) at `at` durably; `done` is
    /// called when it is over, from any thread, in any order among several in flight. Where more
    /// wait than a backend queues (64), it ends at once with [`io::ErrorKind::ResourceBusy`], and
    /// nothing was written. `done` may submit; while it runs, other completions may have to wait.
    ///
    /// # Panics
    /// When `pages` is not whole aligned pages inside the slot.
    fn submit(&self, at: u64, pages: Bytes, done: WriteDone);

    /// Makes all that was written to it before, by whomever, durable.
    ///
    /// # Errors
    /// As the disk says.
    fn sync(&self) -> io::Result<()>;

    /// Drops what the page cache holds of it.
    ///
    /// # Errors
    /// As the file system says.
    fn drop_cache(&self) -> io::Result<()>;

    /// Maps it for reading. Only for segments that are never written again while mapped.
    ///
    /// # Errors
    /// As the file system says.
    fn map(&self) -> io::Result<Arc<dyn Map>>;
}

/// A slot mapped for reading.
pub trait Map: Send + Sync + 'static {
    /// The bytes `at..at + length`, present in memory: no copy, and no fault when touched. The
    /// answer pins the map.
    ///
    /// # Errors
    /// When the disk did not give them, or they lie outside.
    fn bytes(self: Arc<Self>, at: u64, length: usize) -> io::Result<Bytes>;

    /// As [`bytes`](Self::bytes), if they are known to be in memory already: waits for no disk.
    fn bytes_in_memory(self: Arc<Self>, at: u64, length: usize) -> Option<Bytes>;

    /// Says that these bytes will be asked for soon. True when they have to be read in, which may
    /// begin now; nobody waits, and whether it worked shows when they are asked for.
    fn expect(&self, at: u64, length: usize) -> bool;

    /// Has these bytes read in, in pieces as large as the system makes them, and waits. Whether it
    /// worked shows when they are asked for: a system that cannot wait reads nothing now.
    fn read_in(&self, at: u64, length: usize);
}
