//! The control: a disk that says that a commit is durable and never syncs it.
//!
//! Commits go through the page cache, and nobody asks the file system to write them out; all else
//! is as it should be. A rig that finds no loss over this one would find none at all.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracklog_engine::disk::{
    Access, Backend, Disk, FileName, JournalFolder, Map, PackFile, PackId, PackWriter, PageBuffer,
    Slot, SlotId, WriteDone,
};
use tracklog_protocol::TimeMicros;

pub(super) struct Unsynced {
    under: Arc<dyn Disk>,
    folder: PathBuf,
}

impl Unsynced {
    pub(super) fn over(under: Arc<dyn Disk>, folder: &Path) -> Arc<dyn Disk> {
        Arc::new(Self { under, folder: folder.to_owned() })
    }
}

impl Disk for Unsynced {
    fn journal_folder(&self) -> io::Result<JournalFolder> {
        self.under.journal_folder()
    }

    fn cut_folder(&self) -> io::Result<Vec<(String, u64)>> {
        self.under.cut_folder()
    }

    fn read_file(&self, name: &FileName) -> io::Result<Vec<u8>> {
        self.under.read_file(name)
    }

    fn write_file(&self, name: &FileName, bytes: &[u8]) -> io::Result<()> {
        self.under.write_file(name, bytes)
    }

    fn remove_file(&self, name: &FileName) -> io::Result<()> {
        self.under.remove_file(name)
    }

    fn packs_folder(&self) -> io::Result<Vec<(PackId, u64)>> {
        self.under.packs_folder()
    }

    fn create_pack(&self, pack: PackId) -> io::Result<Box<dyn PackWriter>> {
        self.under.create_pack(pack)
    }

    fn open_pack(&self, pack: PackId) -> io::Result<Arc<dyn PackFile>> {
        self.under.open_pack(pack)
    }

    fn create_slot(
        &self,
        slot: SlotId,
        bytes: u64,
        between: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        self.under.create_slot(slot, bytes, between)
    }

    fn remove_slot(&self, slot: SlotId) -> io::Result<()> {
        self.under.remove_slot(slot)
    }

    fn give_back_slot(&self, slot: SlotId, between: &mut dyn FnMut(u64)) -> io::Result<()> {
        self.under.give_back_slot(slot, between)
    }

    fn give_back_pack(&self, pack: PackId, between: &mut dyn FnMut(u64)) -> io::Result<()> {
        self.under.give_back_pack(pack, between)
    }

    fn open_slot(&self, slot: SlotId, access: Access) -> io::Result<Arc<dyn Slot>> {
        let under = self.under.open_slot(slot, access)?;
        let path = self.folder.join("journal").join(slot.to_string());
        let writes = access == Access::Write;
        let cached = OpenOptions::new().read(true).write(writes).open(path)?;
        Ok(Arc::new(UnsyncedSlot { under, cached }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.under.free_bytes()
    }

    fn reads_are_direct(&self) -> bool {
        false
    }

    fn backend(&self) -> Backend {
        self.under.backend()
    }

    fn now(&self) -> TimeMicros {
        self.under.now()
    }

    fn monotonic(&self) -> Duration {
        self.under.monotonic()
    }

    fn random(&self) -> u64 {
        self.under.random()
    }
}

struct UnsyncedSlot {
    /// Holds the lock, and maps.
    under: Arc<dyn Slot>,
    /// A descriptor that goes through the page cache.
    cached: File,
}

impl Slot for UnsyncedSlot {
    fn bytes(&self) -> u64 {
        self.under.bytes()
    }

    fn read(&self, at: u64, buffer: &mut PageBuffer) -> io::Result<()> {
        self.cached.read_exact_at(buffer, at)
    }

    fn write(&self, at: u64, pages: &Bytes) -> io::Result<()> {
        self.under.write(at, pages)
    }

    fn submit(&self, at: u64, pages: Bytes, done: WriteDone) {
        done(self.cached.write_all_at(&pages, at));
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn map(&self) -> io::Result<Arc<dyn Map>> {
        self.under.map()
    }
}
