//! The data folder on a real file system, common to both real backends.
//!
//! Promises
//! - One process at a time has the folder open to write: it holds the lock of the file `lock`.
//!   Each slot is locked besides while it is written, through the very descriptor that writes it,
//!   so that a dead process's write in flight still excludes us.
//! - Opening a folder read-only makes, changes and locks nothing.
//! - Folders made here are 0700, files 0600.
//! - Where O_DIRECT works, reads and writes of slots bypass the page cache. Where it does not,
//!   the first failed sync of a slot is final for that slot: the kernel reports a lost page once,
//!   to whoever syncs next, and calls it clean from then on.
//!
//! Assumes that nobody truncates files behind our back (the lock guards against ourselves).
//! Layout of the folder: [`FileName`], [`SlotId`]. Opened by [`open_folder`].

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustix::fs::{Advice, FallocateFlags, FlockOperation, OFlags};
use rustix::io::Errno;
use rustix::process::Resource;
use tracklog_protocol::TimeMicros;

use super::blocking::Threads;
use super::buffer::assert_aligned;
use super::giving_back::{self, Readers};
use super::here;
use super::map::FileMap;
use super::probe;
use super::uring::Ring;
use super::{
    Access, Backend, Disk, FileName, JournalFolder, Map, PAGE_BYTES, PackFile, PackId, PackWriter,
    PageBuffer, Slot, SlotId, WriteDone,
};

/// How many writes may wait for a backend. The journal has four in flight; more than this is a
/// caller without a bound of its own, and is refused.
pub(super) const WRITES_QUEUED_MAX: usize = 64;

const PAGE: u64 = PAGE_BYTES as u64;

/// What zeros are written out in.
const FILL_BYTES: usize = 1 << 20;

/// What a folder is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderAccess {
    /// To run a log in it: locks it, and makes what is missing.
    Write,
    /// To look at it: changes nothing, and needs no permission to.
    ReadOnly,
}

/// Which backend is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The better one, by a short measurement in the folder itself.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// Threads.
    Blocking,
}

/// Why a folder could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenFolderError {
    /// Another process has it open. Stop that one first.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// There is no such folder, and a read-only opening makes none.
    #[error("there is no folder {}", path.display())]
    NotFound {
        /// The folder.
        path: PathBuf,
    },
    /// io_uring was asked for and the kernel refuses it, as in containers by default. Choose
    /// `blocking` or `auto`.
    #[error("io_uring is refused here: {source}")]
    NoUring {
        /// What the kernel said.
        source: io::Error,
    },
    /// The file system says no.
    #[error("could not open {}: {source}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Opens a data folder on the file system.
///
/// # Errors
/// See [`OpenFolderError`].
pub fn open_folder(
    path: &Path,
    access: FolderAccess,
    choice: BackendChoice,
) -> Result<Arc<dyn Disk>, OpenFolderError> {
    let disk = match access {
        FolderAccess::Write => FileDisk::open_to_write(path, choice, probe::Paging::BestAvailable)?,
        FolderAccess::ReadOnly => FileDisk::open_to_read(path)?,
    };
    Ok(Arc::new(disk))
}

/// Opens one file to look at its pages, wherever it lies: a slot, or a copy of one.
pub(crate) fn open_alone(path: &Path) -> io::Result<Arc<dyn Slot>> {
    let file = Arc::new(SlotFile::open_to_read(path, probe::reads_direct(path))?);
    let folder = Arc::new(Folder { path: path.to_owned(), _lock: None });
    Ok(Arc::new(FileSlot { slot: SlotId(0), file, writers: None, _folder: folder }))
}

/// Opens one pack to look at it, wherever it lies.
pub(crate) fn open_pack_alone(path: &Path) -> io::Result<Arc<dyn PackFile>> {
    let file = SlotFile::open_to_read(path, probe::reads_direct(path))?;
    let folder = Arc::new(Folder { path: path.to_owned(), _lock: None });
    Ok(Arc::new(OpenPack { file, _folder: folder }))
}

/// The whole of one file, wherever it lies, if it has at most `bytes_max`.
pub(crate) fn read_alone(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let bytes = fs::metadata(path)?.len();
    if bytes > bytes_max {
        let why = format!("it has {bytes} bytes, more than the {bytes_max} that are looked at");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    read_whole(path, probe::reads_direct(path))
}

/// A data folder.
pub(super) struct FileDisk {
    folder: Arc<Folder>,
    /// None when opened read-only.
    writers: Option<Arc<Writers>>,
    backend: Backend,
    opened: Instant,
}

/// Its place and its lock, which each open slot shares.
struct Folder {
    path: PathBuf,
    _lock: Option<FolderLock>,
}

/// The lock of a folder.
struct FolderLock(File);

impl Drop for FolderLock {
    fn drop(&mut self) {
        // A process that is being started keeps a copy of the descriptor until its program begins:
        // closing would leave the lock to that.
        if let Err(error) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "could not unlock the folder; closing it will");
        }
    }
}

/// The backend.
pub(super) enum Writers {
    Threads(Threads),
    Ring(Ring),
}

impl Writers {
    /// Begins a write, or gives it back when too many wait.
    pub(super) fn submit(&self, write: Write) -> Result<(), Write> {
        let Some(write) = here::take(write) else { return Ok(()) };
        match self {
            Self::Threads(threads) => threads.submit(write),
            Self::Ring(ring) => ring.submit(write),
        }
    }
}

impl FileDisk {
    pub(super) fn open_to_write(
        path: &Path,
        choice: BackendChoice,
        paging: probe::Paging,
    ) -> Result<Self, OpenFolderError> {
        let failed = |source| OpenFolderError::Io { path: path.to_owned(), source };
        let lock = lock_folder(path).map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => OpenFolderError::Locked { path: path.to_owned() },
            _ => failed(source),
        })?;
        make_folder(&path.join("journal")).map_err(failed)?;
        let (writers, backend) =
            probe::choose(path, choice, paging).map_err(|error| match error {
                probe::ChooseError::NoUring(source) => OpenFolderError::NoUring { source },
                probe::ChooseError::Io(source) => failed(source),
            })?;
        let folder = Arc::new(Folder { path: path.to_owned(), _lock: Some(lock) });
        let writers = Some(Arc::new(writers));
        Ok(Self { folder, writers, backend, opened: Instant::now() })
    }

    pub(super) fn open_to_read(path: &Path) -> Result<Self, OpenFolderError> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(OpenFolderError::NotFound { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenFolderError::NotFound { path: path.to_owned() });
            }
            Err(source) => return Err(OpenFolderError::Io { path: path.to_owned(), source }),
        }
        let folder = Arc::new(Folder { path: path.to_owned(), _lock: None });
        let mut disk =
            Self { folder, writers: None, backend: probe::read_only(true), opened: Instant::now() };
        disk.backend = probe::read_only(disk.slots_open_direct());
        Ok(disk)
    }

    /// Whether the first slot there is can be read past the page cache.
    fn slots_open_direct(&self) -> bool {
        let slots = self.journal_folder().map(|folder| folder.slots).unwrap_or_default();
        slots.first().is_none_or(|(slot, _)| probe::reads_direct(&self.slot_path(*slot)))
    }

    fn path(&self, name: &FileName) -> PathBuf {
        if let FileName::Cut(name) = name {
            assert!(
                !name.is_empty() && !name.contains(['/', '\0']) && name != "..",
                "a plain name"
            );
        }
        self.folder.path.join(name.path())
    }

    fn journal(&self) -> PathBuf {
        self.folder.path.join("journal")
    }

    fn slot_path(&self, slot: SlotId) -> PathBuf {
        self.journal().join(slot.to_string())
    }

    fn writers(&self) -> io::Result<&Arc<Writers>> {
        self.writers.as_ref().ok_or_else(read_only)
    }

    /// The names and sizes of what a folder holds, in order; nothing where it is missing.
    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let entries = match fs::read_dir(self.folder.path.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                found.push((name, entry.metadata()?.len()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }
}

impl Disk for FileDisk {
    fn journal_folder(&self) -> io::Result<JournalFolder> {
        let mut found = JournalFolder::default();
        let entries = match fs::read_dir(self.journal()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            match name.to_str().and_then(JournalEntry::parse) {
                Some(JournalEntry::Slot(slot)) => found.slots.push((slot, entry.metadata()?.len())),
                Some(JournalEntry::Index(segment)) => found.indexes.push(segment),
                None => {}
            }
        }
        found.slots.sort_unstable();
        found.indexes.sort_unstable();
        Ok(found)
    }

    fn cut_folder(&self) -> io::Result<Vec<(String, u64)>> {
        self.list("cut")
    }

    fn packs_folder(&self) -> io::Result<Vec<(PackId, u64)>> {
        let packs = self.list("packs")?.into_iter();
        Ok(packs.filter_map(|(name, bytes)| Some((PackId::parse(&name)?, bytes))).collect())
    }

    fn create_pack(&self, pack: PackId) -> io::Result<Box<dyn PackWriter>> {
        self.writers()?;
        let path = self.path(&FileName::Pack(pack));
        make_folder(&self.folder.path.join("packs"))?;
        let mut options = private_file();
        options.write(true).create(true).truncate(true);
        // Synced once, at its end: not at each write.
        let file = options.custom_flags(flags(self.backend.direct, false)).open(&path)?;
        Ok(Box::new(NewPack { file, path, at: 0 }))
    }

    fn open_pack(&self, pack: PackId) -> io::Result<Arc<dyn PackFile>> {
        let path = self.path(&FileName::Pack(pack));
        let file = SlotFile::open_to_read(&path, self.backend.direct)?;
        giving_back::lock_to_read(&file.file)?;
        Ok(Arc::new(OpenPack { file, _folder: Arc::clone(&self.folder) }))
    }

    fn read_file(&self, name: &FileName) -> io::Result<Vec<u8>> {
        let path = self.path(name);
        if self.writers.is_some() {
            // What a killed process wrote may still be in the page cache alone. Who acts on what
            // is read here must find it again after a power failure.
            File::open(&path)?.sync_all()?;
        }
        read_whole(&path, self.backend.direct)
    }

    fn write_file(&self, name: &FileName, bytes: &[u8]) -> io::Result<()> {
        self.writers()?;
        let path = self.path(name);
        let parent = path.parent().expect("a name below a folder has a parent");
        if !parent.exists() {
            make_folder(parent)?;
        }
        let mut file = private_file().write(true).create(true).truncate(true).open(&path)?;
        file.write_all(bytes).map_err(told_full)?;
        file.sync_all().map_err(told_full)?;
        sync_folder(parent)
    }

    fn remove_file(&self, name: &FileName) -> io::Result<()> {
        self.writers()?;
        let path = self.path(name);
        let parent = path.parent().expect("a name below a folder has a parent");
        gone(fs::remove_file(&path).and_then(|()| sync_folder(parent)), parent)
    }

    fn give_back_pack(&self, pack: PackId, between: &mut dyn FnMut(u64)) -> io::Result<()> {
        self.writers()?;
        let path = self.path(&FileName::Pack(pack));
        let parent = path.parent().expect("a name below a folder has a parent");
        let sync = || sync_folder(parent);
        gone(giving_back::remove(&path, Readers::Locking, sync, between), parent)
    }

    fn create_slot(
        &self,
        slot: SlotId,
        bytes: u64,
        between: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        assert!(bytes.is_multiple_of(PAGE), "a slot is whole pages long");
        self.writers()?;
        let path = self.slot_path(slot);
        let is_new = !path.exists();
        let filled = fill(&path, bytes, self.backend.direct, between);
        if filled.is_err() && is_new {
            // Half a slot is of no use, least of all on a full disk. The error that matters is the
            // first one; what is left behind by a second is filled again next time.
            let _removed = fs::remove_file(&path);
        }
        filled.map_err(told_full)?;
        sync_folder(&self.journal())
    }

    fn remove_slot(&self, slot: SlotId) -> io::Result<()> {
        self.writers()?;
        fs::remove_file(self.slot_path(slot))?;
        sync_folder(&self.journal())
    }

    fn give_back_slot(&self, slot: SlotId, between: &mut dyn FnMut(u64)) -> io::Result<()> {
        self.writers()?;
        let sync = || sync_folder(&self.journal());
        giving_back::remove(&self.slot_path(slot), Readers::None, sync, between)
    }

    fn open_slot(&self, slot: SlotId, access: Access) -> io::Result<Arc<dyn Slot>> {
        let path = self.slot_path(slot);
        let direct = self.backend.direct;
        let (file, writers) = match access {
            Access::Read => (SlotFile::open_to_read(&path, direct)?, None),
            Access::Write => {
                let writers = self.writers()?;
                (SlotFile::open_to_write(&path, direct)?, Some(Arc::clone(writers)))
            }
        };
        let folder = Arc::clone(&self.folder);
        Ok(Arc::new(FileSlot { slot, file: Arc::new(file), writers, _folder: folder }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let status = rustix::fs::statvfs(&self.folder.path)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    fn reads_are_direct(&self) -> bool {
        self.backend.direct
    }

    fn backend(&self) -> Backend {
        self.backend.clone()
    }

    fn now(&self) -> TimeMicros {
        let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
        TimeMicros(match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => micros(since),
            Err(before) => -micros(before.duration()),
        })
    }

    fn monotonic(&self) -> Duration {
        self.opened.elapsed()
    }

    fn random(&self) -> u64 {
        getrandom::u64().expect("the kernel has random numbers")
    }
}

/// A pack that is being written.
struct NewPack {
    file: File,
    path: PathBuf,
    at: u64,
}

impl PackWriter for NewPack {
    fn write(&mut self, pages: &PageBuffer) -> io::Result<()> {
        let bytes = write_at(&self.file, pages, self.at).map_err(told_full)?;
        whole(bytes, pages.len())?;
        self.at += u64::try_from(pages.len()).expect("a length is below 2^64");
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.file.sync_all().map_err(told_full)?;
        sync_folder(self.path.parent().expect("a pack lies in a folder"))
    }
}

/// A pack that is open to read.
struct OpenPack {
    file: SlotFile,
    /// Keeps the folder locked.
    _folder: Arc<Folder>,
}

impl PackFile for OpenPack {
    fn bytes(&self) -> u64 {
        self.file.bytes
    }

    fn read(&self, at: u64, buffer: &mut PageBuffer) -> io::Result<()> {
        self.file.read(at, buffer)
    }
}

/// An open slot: a file, and what writes to it.
struct FileSlot {
    slot: SlotId,
    file: Arc<SlotFile>,
    /// None when opened to read.
    writers: Option<Arc<Writers>>,
    /// Keeps the folder locked.
    _folder: Arc<Folder>,
}

impl Slot for FileSlot {
    fn bytes(&self) -> u64 {
        self.file.bytes
    }

    fn read(&self, at: u64, buffer: &mut PageBuffer) -> io::Result<()> {
        self.file.read(at, buffer)
    }

    fn write(&self, at: u64, pages: &Bytes) -> io::Result<()> {
        assert_aligned(at, pages, self.file.bytes);
        if self.writers.is_none() {
            return Err(read_only());
        }
        self.file.write_durably(at, pages)
    }

    fn submit(&self, at: u64, pages: Bytes, done: WriteDone) {
        assert_aligned(at, &pages, self.file.bytes);
        let write = Write::new(Arc::clone(&self.file), at, pages, done);
        let Some(writers) = &self.writers else { return write.finish(Err(read_only())) };
        if let Err(write) = writers.submit(write) {
            let why = "too many writes wait, or the backend ended: nothing was written";
            write.finish(Err(io::Error::new(io::ErrorKind::ResourceBusy, why)));
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn drop_cache(&self) -> io::Result<()> {
        drop_cache(&self.file.file)
    }

    fn map(&self) -> io::Result<Arc<dyn Map>> {
        Ok(Arc::new(FileMap::new(&self.file.file, &self.slot.to_string())?))
    }
}

/// A write on its way to a backend.
pub(super) struct Write {
    pub(super) file: Arc<SlotFile>,
    pub(super) at: u64,
    pub(super) pages: Bytes,
    done: Completion,
}

impl Write {
    pub(super) fn new(file: Arc<SlotFile>, at: u64, pages: Bytes, done: WriteDone) -> Self {
        Self { file, at, pages, done: Completion(Some(done)) }
    }

    /// Tells its caller. The file is let go before, so that a caller who dropped the slot already
    /// finds it unlocked.
    pub(super) fn finish(self, result: io::Result<()>) {
        let Self { file, pages, done, .. } = self;
        drop(file);
        drop(pages);
        done.call(result);
    }
}

/// Calls back exactly once, also when the thread that was to do so panics.
struct Completion(Option<WriteDone>);

impl Completion {
    fn call(mut self, result: io::Result<()>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(io::Error::other("the disk thread ended: what it wrote is unknown")));
        }
    }
}

/// The file of a slot, its lock included.
pub(super) struct SlotFile {
    pub(super) file: File,
    bytes: u64,
    /// Whether the descriptor is O_DIRECT and, if it writes, O_DSYNC.
    direct: bool,
    locked: bool,
    /// Buffered writes that have returned.
    written: AtomicU64,
    syncs: Mutex<Syncs>,
}

#[derive(Default)]
struct Syncs {
    /// How many of the buffered writes a successful sync has covered.
    covered: u64,
    failed: bool,
}

impl SlotFile {
    pub(super) fn open_to_read(path: &Path, direct: bool) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(flags(direct, false)).open(path)?;
        Self::new(file, direct)
    }

    fn open_to_write(path: &Path, direct: bool) -> io::Result<Self> {
        let mut file = Self::open_unlocked(path, direct)?;
        lock(&file.file)?;
        file.locked = true;
        Ok(file)
    }

    /// For a scratch file that nobody else knows.
    pub(super) fn open_unlocked(path: &Path, direct: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(flags(direct, true)).open(path)?;
        Self::new(file, direct)
    }

    fn new(file: File, direct: bool) -> io::Result<Self> {
        let bytes = file.metadata()?.len();
        let (written, syncs) = (AtomicU64::new(0), Mutex::default());
        Ok(Self { file, bytes, direct, locked: false, written, syncs })
    }

    pub(super) fn read(&self, at: u64, buffer: &mut PageBuffer) -> io::Result<()> {
        assert!(at.is_multiple_of(PAGE), "reads start on a page");
        self.file.read_exact_at(buffer, at)
    }

    /// Writes on the caller's thread.
    pub(super) fn write_durably(&self, at: u64, pages: &[u8]) -> io::Result<()> {
        whole(write_at(&self.file, pages, at).map_err(told_full)?, pages.len())?;
        self.after_write()
    }

    /// Makes a write durable that has returned, where the descriptor did not do so itself.
    pub(super) fn after_write(&self) -> io::Result<()> {
        match self.count_write() {
            Some(ticket) => self.sync_through(ticket),
            None => Ok(()),
        }
    }

    /// Says that a write has returned: the ticket for a sync, none when it is durable already.
    pub(super) fn count_write(&self) -> Option<u64> {
        (!self.direct).then(|| self.written.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Makes buffered writes durable up to one's ticket; several share a sync. Syncs of a file
    /// go one by one: its error is told to one of them, and must reach all that it concerns.
    pub(super) fn sync_through(&self, ticket: u64) -> io::Result<()> {
        let mut syncs = self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        if syncs.failed {
            return Err(io::Error::other("an earlier sync of this slot failed"));
        }
        if syncs.covered >= ticket {
            return Ok(());
        }
        let covered = self.written.load(Ordering::Acquire);
        if let Err(error) = self.file.sync_data() {
            syncs.failed = true;
            return Err(told_full(error));
        }
        syncs.covered = covered;
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_through(u64::MAX)
    }
}

impl Drop for SlotFile {
    fn drop(&mut self) {
        // A ring may keep a copy of the descriptor for a moment, but has no write in flight:
        // those hold this file. So the lock can go at once.
        if self.locked
            && let Err(error) = rustix::fs::flock(&self.file, FlockOperation::Unlock)
        {
            tracing::warn!(%error, "could not unlock a slot; closing it will");
        }
    }
}

/// What a file in the `journal` folder is, by its name.
enum JournalEntry {
    Slot(SlotId),
    Index(u64),
}

impl JournalEntry {
    fn parse(name: &str) -> Option<Self> {
        if let Some(digits) = name.strip_prefix("slot-") {
            let slot = SlotId(digits.parse().ok()?);
            return (slot.to_string() == name).then_some(Self::Slot(slot));
        }
        let segment = name.strip_suffix(".idx")?.parse().ok()?;
        let path = FileName::Index(segment).path();
        (path.strip_prefix("journal/") == Some(name)).then_some(Self::Index(segment))
    }
}

/// One write, whatever signals come meanwhile.
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<usize> {
    loop {
        match file.write_at(bytes, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Whether a write was whole; a short one is an error.
pub(super) fn whole(written: usize, length: usize) -> io::Result<()> {
    if written == length {
        return Ok(());
    }
    let what = format!("a short write: {written} of {length} bytes");
    Err(io::Error::new(io::ErrorKind::WriteZero, what))
}

/// The flags to open a slot with, beside reading and writing.
pub(super) fn flags(direct: bool, write: bool) -> i32 {
    let mut flags = OFlags::empty();
    flags.set(OFlags::DIRECT, direct);
    flags.set(OFlags::DSYNC, direct && write);
    flags.bits().cast_signed()
}

/// A used-up quota is a full disk to us.
pub(super) fn told_full(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::QuotaExceeded => io::Error::new(io::ErrorKind::StorageFull, error),
        _ => error,
    }
}

/// Whether an error says nothing of the file that it came with: the disk is full, or the system is
/// out of descriptors or memory, or somebody holds a lock. It may work later.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    let of_the_system = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(Errno::raw_os_error);
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WouldBlock
    ) || error.raw_os_error().is_some_and(|code| of_the_system.contains(&code))
}

/// How many descriptors this process may have open.
pub(crate) fn descriptors_max() -> u64 {
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "opened to read only")
}

fn private_file() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Makes a folder and the ones above it that are missing, durably.
fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_folder(parent)?;
    DirBuilder::new().mode(0o700).create(path)?;
    sync_folder(parent)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    tests::fail_where_told()?;
    File::open(path)?.sync_all()
}

fn lock_folder(path: &Path) -> io::Result<FolderLock> {
    make_folder(path)?;
    let mut options = private_file();
    let file = options.write(true).create(true).truncate(false).open(path.join("lock"))?;
    lock(&file)?;
    let lock = FolderLock(file);
    sync_folder(path)?;
    Ok(lock)
}

/// What is not there is removed, once its folder says so for good.
fn gone(removed: io::Result<()>, folder: &Path) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => match sync_folder(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced,
        },
        removed => removed,
    }
}

fn lock(file: &File) -> io::Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

fn drop_cache(file: &File) -> io::Result<()> {
    let to_its_end: Option<NonZeroU64> = None;
    Ok(rustix::fs::fadvise(file, 0, to_its_end, Advice::DontNeed)?)
}

/// Writes zeros out: blocks that were only allocated would cost the file system's own journal a
/// turn at each sync into them.
fn fill(path: &Path, bytes: u64, direct: bool, between: &mut dyn FnMut(u64)) -> io::Result<()> {
    let mut options = private_file();
    options.write(true).create(true).truncate(false);
    let file = options.custom_flags(flags(direct, false)).open(path)?;
    lock(&file)?;
    if file.metadata()?.len() > bytes {
        file.set_len(bytes)?;
    }
    allocate(&file, bytes)?;
    let zeros = PageBuffer::zeroed(FILL_BYTES);
    let mut at = 0;
    while at < bytes {
        let left = usize::try_from(bytes - at).unwrap_or(usize::MAX);
        let piece = &zeros[..left.min(FILL_BYTES)];
        whole(file.write_at(piece, at)?, piece.len())?;
        at += u64::try_from(piece.len()).expect("a piece is small");
        between(at);
    }
    file.sync_all()?;
    if direct { Ok(()) } else { drop_cache(&file) }
}

/// Takes the room for a slot at once, in as few pieces as can be: a full disk is known before
/// anything is written. Not every file system can.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        allocated => Ok(allocated?),
    }
}

fn read_whole(path: &Path, direct: bool) -> io::Result<Vec<u8>> {
    if direct {
        match read_whole_direct(path) {
            // This file system takes O_DIRECT for some files only.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
            read => return read,
        }
    }
    drop_cache(&File::open(path)?)?;
    fs::read(path)
}

fn read_whole_direct(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(flags(true, false)).open(path)?;
    let length = usize::try_from(file.metadata()?.len()).expect("a small file fits into memory");
    let mut buffer = PageBuffer::zeroed(length);
    let mut read = 0;
    while read < length {
        let at = u64::try_from(read).expect("a length is below 2^64");
        match file.read_at(&mut buffer[read..], at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(buffer[..length].to_vec())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::os::fd::OwnedFd;

    use super::*;

    /// A pipe takes writes and cannot be synced.
    #[test]
    fn failed_sync_is_final_for_its_file() {
        let (_reader, writer) = io::pipe().unwrap();
        let file = SlotFile::new(File::from(OwnedFd::from(writer)), false).unwrap();
        let tickets = [file.count_write().unwrap(), file.count_write().unwrap()];
        let first = file.sync_through(tickets[1]).unwrap_err();
        assert!(first.raw_os_error().is_some(), "the first to sync is told what the kernel said");
        let second = file.sync_through(tickets[0]).unwrap_err();
        assert!(second.to_string().contains("an earlier sync"), "{second}");
        file.sync().unwrap_err();
    }

    /// The kernel takes writes to `/dev/null`, and no syncs.
    fn unsyncable() -> Arc<SlotFile> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        Arc::new(SlotFile::new(file, false).unwrap())
    }

    #[test]
    fn buffered_write_is_done_only_when_its_sync_is() {
        unsyncable().write_durably(0, &[0; PAGE_BYTES]).unwrap_err();
        let mut backends = vec![Writers::Threads(Threads::start().unwrap())];
        match Ring::start() {
            Ok(ring) => backends.push(Writers::Ring(ring)),
            Err(error) => eprintln!("left out: io_uring: {error}"),
        }
        for backend in backends {
            let (ended, ends) = std::sync::mpsc::channel();
            let done = Box::new(move |result| ended.send(result).unwrap());
            let pages = PageBuffer::zeroed(PAGE_BYTES).freeze();
            let taken = backend.submit(Write::new(unsyncable(), 0, pages, done));
            assert!(taken.is_ok(), "the queue was empty");
            ends.recv().unwrap().unwrap_err();
        }
    }

    #[test]
    fn direct_write_is_durable_when_it_returns() {
        let path = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        match SlotFile::open_unlocked(&path, true) {
            Ok(slot) => {
                let flags = rustix::fs::fcntl_getfl(&slot.file).unwrap();
                assert!(flags.contains(OFlags::DIRECT | OFlags::DSYNC), "{flags:?}");
            }
            Err(error) => eprintln!("left out: {}: {error}", path.display()),
        }
    }

    #[test]
    fn a_folder_is_free_when_its_holder_lets_go_whoever_has_a_copy_of_the_descriptor() {
        let folder = tempfile::tempdir().unwrap();
        let lock = lock_folder(folder.path()).unwrap();
        let _copy = lock.0.try_clone().unwrap();
        assert!(lock_folder(folder.path()).is_err());
        drop(lock);
        assert!(lock_folder(folder.path()).is_ok());
    }

    /// Nothing in `/proc` can be synced.
    #[test]
    fn folder_that_cannot_be_synced_is_told() {
        sync_folder(Path::new("/proc")).unwrap_err();
    }

    thread_local! {
        /// How many folders this thread syncs before that fails once.
        static SYNCS_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    const UNSYNCED: &str = "a folder cannot be synced";

    pub(super) fn fail_where_told() -> io::Result<()> {
        let left = SYNCS_LEFT.get();
        SYNCS_LEFT.set(left.and_then(|left| left.checked_sub(1)));
        if left == Some(0) { Err(io::Error::other(UNSYNCED)) } else { Ok(()) }
    }

    fn open(path: &Path) -> io::Result<FileDisk> {
        let disk =
            FileDisk::open_to_write(path, BackendChoice::Blocking, probe::Paging::BestAvailable);
        disk.map_err(|error| match error {
            OpenFolderError::Io { source, .. } => source,
            error => panic!("{error}"),
        })
    }

    const SLOT: SlotId = SlotId(1);
    const PACK: PackId = PackId { first: 1, last: 2, generation: 1 };

    fn make_slot(disk: &FileDisk) -> io::Result<()> {
        disk.create_slot(SLOT, PAGE, &mut |_| {})
    }

    fn begin_pack(disk: &FileDisk) -> io::Result<()> {
        disk.create_pack(PACK).map(drop)
    }

    fn write(disk: &FileDisk) -> io::Result<()> {
        disk.write_file(&FileName::CheckpointA, b"checkpoint")
    }

    fn remove(disk: &FileDisk) -> io::Result<()> {
        disk.remove_file(&FileName::CheckpointA)
    }

    fn give_pack_back(disk: &FileDisk) -> io::Result<()> {
        disk.give_back_pack(PACK, &mut |_| {})
    }

    type Does = fn(&FileDisk) -> io::Result<()>;

    /// What changes a folder: what is there before, what is done, and how many folders that syncs.
    const CHANGES: [(Does, Does, u32); 12] = [
        (|_| Ok(()), write, 1),
        (|_| Ok(()), |disk| disk.write_file(&FileName::Cut("of 1".to_owned()), b"cut"), 2),
        (write, remove, 1),
        // Whoever removed it may have failed to sync.
        (|_| Ok(()), remove, 1),
        (|_| Ok(()), make_slot, 1),
        (make_slot, make_slot, 1),
        (make_slot, |disk| disk.remove_slot(SLOT), 1),
        (make_slot, |disk| disk.give_back_slot(SLOT, &mut |_| {}), 1),
        (|_| Ok(()), begin_pack, 1),
        (begin_pack, |disk| disk.create_pack(PACK)?.finish(), 1),
        (begin_pack, give_pack_back, 1),
        (|disk| begin_pack(disk).and_then(|()| give_pack_back(disk)), give_pack_back, 1),
    ];

    #[test]
    fn what_is_made_or_removed_is_not_done_where_a_folder_cannot_be_synced() {
        for (number, (before, change, folders)) in CHANGES.into_iter().enumerate() {
            for nth in 0..=folders {
                let folder = tempfile::tempdir().unwrap();
                let disk = open(folder.path()).unwrap();
                before(&disk).unwrap();
                SYNCS_LEFT.set(Some(nth));
                let result = change(&disk);
                if nth < folders {
                    assert_eq!(result.expect_err("it is told").to_string(), UNSYNCED, "{number}");
                } else {
                    result.unwrap_or_else(|error| panic!("{number}: {error}"));
                    assert_eq!(SYNCS_LEFT.take(), Some(0), "{number}: it synced as often");
                }
            }
        }
    }

    /// The folder itself, the one above it, its lock, and its journal.
    #[test]
    fn a_new_data_folder_is_not_open_where_a_folder_cannot_be_synced() {
        for nth in 0..=4 {
            let above = tempfile::tempdir().unwrap();
            SYNCS_LEFT.set(Some(nth));
            let opened = open(&above.path().join("new/data"));
            match opened {
                Err(error) => assert!(nth < 4 && error.to_string() == UNSYNCED, "{nth}: {error}"),
                Ok(_) => assert_eq!((nth, SYNCS_LEFT.take()), (4, Some(0))),
            }
        }
    }

    #[test]
    fn writes_that_returned_before_a_sync_share_it() {
        let file = SlotFile::new(tempfile::tempfile().unwrap(), false).unwrap();
        let tickets = [file.count_write().unwrap(), file.count_write().unwrap()];
        file.sync_through(tickets[0]).unwrap();
        assert_eq!(file.syncs.lock().unwrap().covered, 2);
        file.syncs.lock().unwrap().failed = false;
        file.sync_through(tickets[1]).unwrap();
    }

    #[test]
    fn short_write_is_an_error() {
        assert!(whole(4096, 4096).is_ok());
        assert_eq!(whole(512, 4096).unwrap_err().kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn unfinished_write_tells_its_caller() {
        let (ended, ends) = std::sync::mpsc::channel();
        let file = Arc::new(SlotFile::new(tempfile::tempfile().unwrap(), false).unwrap());
        let done = Box::new(move |result| ended.send(result).unwrap());
        drop(Write::new(file, 0, Bytes::new(), done));
        assert!(ends.recv().unwrap().is_err());
    }
}
