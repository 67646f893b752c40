//! A disk in memory that crashes, tears and loses writes on command.
//!
//! Everything that chance decides comes from one seed, so that a run that is driven from one
//! thread replays byte for byte. A [`SimDisk`] is what one *process* sees of a *machine*: after a
//! crash its calls fail, and [`SimDisk::reboot`] gives the next process a view of what is left.
//!
//! What it does to the code above it
//! - A submitted write is in flight until [`SimDisk::step`] completes one, picked by chance
//!   (or at once, see [`SimDisk::set_auto`]). Reads see nothing of it before.
//! - [`Crash::Power`]: of each write in flight any subset of its 512-byte sectors lands, whatever
//!   landed of others. `write_file`, `create_slot` and removals cut short leave the old state, the
//!   new one, or a part of it.
//! - [`Crash::Kill`]: the process dies, its writes in flight land later: one whenever the slot is
//!   asked for with [`Access::Write`] (which answers `WouldBlock` until all have), or by `step`.
//!   They are then visible, and durable only after [`Slot::sync`] or a new write.
//! - Failing operations, a full disk, rot, bad sectors, and files put back from an older copy. A
//!   sync that fails drops what was not durable, and the next one says that all is well.
//! - Lies, where told to: writes that are in a cache when they are said to be durable
//!   ([`SimDisk::set_lying`]), names that are not in the folder ([`SimDisk::set_forgetful`]), a
//!   page cache between reads and the medium ([`SimDisk::set_cached`]), a write that lands elsewhere
//!   ([`SimDisk::misdirect`]), a read that gives what was there before ([`SimDisk::read_stale`]).
//!
//! What it does not do: tear within a sector.
//!
//! It also watches its user: writes must be aligned pages inside the slot, need the lock, must not
//! overlap another one in flight, and never reach a slot that is mapped. Those panic.
//!
//! For tests of this crate and for the simulator; nothing else calls it.

mod chance;
mod medium;
#[cfg(test)]
mod tests;
mod world;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tracklog_protocol::TimeMicros;

use self::chance::Chance;
use self::medium::{Content, index, overlaps, size};
use self::world::{BadSectors, Fault, Flying, Landed, Plan, When, World, suffer};
use super::{
    Access, Backend, BackendKind, Disk, FileName, JournalFolder, Map, PAGE_BYTES, PackFile, PackId,
    PackWriter, PageBuffer, Slot, SlotId, WriteDone,
};
use crate::disk::buffer::assert_aligned;

/// How a machine or its process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The power fails: each sector in flight, or not yet durable, lands or is lost.
    Power,
    /// The process is killed: the machine completes what it had been given, later.
    Kill,
}

/// What a disk says is durable and is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lying {
    /// Nothing.
    Never,
    /// Commits: what is submitted. Slot headers, checkpoints and packs are what they seem.
    Commits,
    /// All that is written, files and packs included.
    All,
}

/// How long a fault stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// One operation fails.
    Once,
    /// That operation fails and all that follow.
    Always,
}

/// What an operation was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperationKind {
    /// [`Disk::journal_folder`].
    JournalFolder,
    /// [`Disk::cut_folder`].
    CutFolder,
    /// [`Disk::read_file`].
    ReadFile,
    /// [`Disk::write_file`].
    WriteFile,
    /// [`Disk::remove_file`].
    RemoveFile,
    /// [`Disk::packs_folder`].
    PacksFolder,
    /// [`Disk::create_pack`].
    CreatePack,
    /// [`PackWriter::write`].
    WritePack,
    /// [`PackWriter::finish`].
    FinishPack,
    /// [`Disk::open_pack`].
    OpenPack,
    /// [`PackFile::read`].
    ReadPack,
    /// [`Disk::create_slot`].
    CreateSlot,
    /// [`Disk::remove_slot`].
    RemoveSlot,
    /// [`Disk::open_slot`].
    OpenSlot,
    /// [`Slot::read`].
    Read,
    /// [`Slot::write`].
    Write,
    /// [`Slot::submit`].
    Submit,
    /// [`Slot::sync`].
    Sync,
    /// [`Slot::drop_cache`].
    DropCache,
    /// [`Slot::map`].
    Map,
    /// [`Map::bytes`].
    MapBytes,
}

/// A process's view of a simulated machine. A clone is the same process.
#[derive(Clone)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
    process: u64,
}

/// What its users wrote to a machine's disk so far, as far as places and names tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Checkpoints, whole ones.
    pub checkpoints: u64,
    /// Segments that a running journal went on into: commits were submitted right behind the
    /// header page of a slot.
    pub rolls: u64,
    /// Packs, whole ones.
    pub packs: u64,
    /// Those of them that were made of several packs.
    pub merges: u64,
    /// Segments whose first commit took the place of an older segment's.
    pub slots_used_again: u64,
}

/// All that a simulated disk holds, to be put back with [`SimDisk::restore`].
#[derive(Clone)]
pub struct Snapshot {
    files: BTreeMap<FileName, Vec<u8>>,
    slots: BTreeMap<SlotId, Content>,
}

impl SimDisk {
    /// A new machine with an empty disk, and its first process. Its clock shows 2026-01-01.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let world = World {
            faults: Chance::new(seed),
            numbers: Chance::new(seed ^ 0x5851_f42d_4c95_7f2d),
            process: 1,
            now: TimeMicros(1_767_225_600_000_000),
            monotonic: Duration::ZERO,
            capacity: u64::MAX >> 1,
            files: BTreeMap::new(),
            slots: BTreeMap::new(),
            inodes: BTreeMap::new(),
            next_inode: 0,
            flying: Vec::new(),
            bad: Vec::new(),
            unwritable: Vec::new(),
            planned: Vec::new(),
            operations: 0,
            auto: false,
            lying: Lying::Never,
            cached: false,
            forgetful: false,
            stale_read: None,
            unnamed: Vec::new(),
            files_before: BTreeMap::new(),
            off: None,
            written: Written::default(),
            trace: VecDeque::new(),
        };
        Self { world: Arc::new(Mutex::new(world)), process: 1 }
    }

    /// Whether a submitted write completes inside `submit`, on the caller's thread. For users with
    /// threads of their own; a write that a crash cuts short then ends with an error, so that
    /// nobody waits for it for ever.
    pub fn set_auto(&self, auto: bool) {
        self.lock().auto = auto;
    }

    /// From now on what `lying` names is said to be durable, and syncs to have worked, while the bytes
    /// are in a cache that a power failure empties, or not: slots sector by sector, files as a whole.
    pub fn set_lying(&self, lying: Lying) {
        self.lock().lying = lying;
    }

    /// From now on there is a page cache between reads and the medium, which outlives a process
    /// and not the power. A write that fails is in it nevertheless, as clean: no sync brings it to
    /// the medium.
    pub fn set_cached(&self, cached: bool) {
        self.lock().cached = cached;
    }

    /// From now on new files and slots are not in their folders until the power has failed once: each
    /// may be gone then.
    pub fn set_forgetful(&self, forgetful: bool) {
        self.lock().forgetful = forgetful;
    }

    /// Lets the next write that is submitted land elsewhere in its slot, behind the header page.
    /// Its own place stays as it was, and it is said to be durable.
    pub fn misdirect(&self) {
        let when = When::Kind(OperationKind::Submit);
        self.lock().planned.push(Plan { when, fault: Fault::Misdirect, lasting: Lasting::Once });
    }

    /// Lets a read of a slot give what was there before the last write of each of its pages: the
    /// next one when `nth` is 0.
    pub fn read_stale(&self, nth: u64) {
        self.lock().stale_read = Some(nth);
    }

    /// How many operations there were since the machine was made.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// What was written since the machine was made.
    #[must_use]
    pub fn written(&self) -> Written {
        self.lock().written
    }

    /// The last operations and crashes, a line each.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.iter().cloned().collect()
    }

    /// How many writes are in flight, a killed process's included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.lock().flying.len()
    }

    /// Completes one write in flight, picked by chance. False when there is none.
    pub fn step(&self) -> bool {
        let mut world = self.lock();
        if world.flying.is_empty() {
            return false;
        }
        let count = world.flying.len();
        let index = world.faults.below(count);
        let landed = world.land(index);
        drop(world);
        landed.finish();
        true
    }

    /// Completes the write in flight that was submitted `index`-th of those there are.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn complete(&self, index: usize) {
        let landed = self.lock().land(index);
        landed.finish();
    }

    /// Completes writes until none is in flight, those included that completions submit.
    pub fn run_until_idle(&self) {
        while self.step() {}
    }

    /// Ends the process, and with [`Crash::Power`] the machine. Calls fail until a reboot, and
    /// what `submit` was told to call is dropped (but see [`Self::set_auto`]).
    pub fn crash(&self, crash: Crash) {
        let ended = self.lock().crash(crash);
        ended.into_iter().for_each(Landed::finish);
    }

    /// Crashes in the middle of the `nth` operation from now, from 1.
    pub fn crash_at_operation(&self, nth: u64, crash: Crash) {
        self.plan(nth, Fault::Crash(crash), Lasting::Once);
    }

    /// Lets the `nth` operation from now, from 1, fail with `kind`. A write that fails may have
    /// written any of its sectors.
    pub fn fail_operation(&self, nth: u64, kind: io::ErrorKind, lasting: Lasting) {
        self.plan(nth, Fault::Error(kind), lasting);
    }

    /// Lets the next operation of this kind fail.
    pub fn fail_next(&self, operation: OperationKind, kind: io::ErrorKind, lasting: Lasting) {
        let plan = Plan { when: When::Kind(operation), fault: Fault::Error(kind), lasting };
        self.lock().planned.push(plan);
    }

    /// Forgets planned failures and crashes, and makes bad sectors good.
    pub fn heal(&self) {
        let mut world = self.lock();
        world.planned.clear();
        world.stale_read = None;
        world.bad.clear();
        world.unwritable.clear();
    }

    /// The next process: after a crash, or after its predecessor dropped all that it had open.
    ///
    /// # Panics
    /// When the process was neither ended nor is idle.
    #[must_use]
    pub fn reboot(&self) -> Self {
        let mut world = self.lock();
        assert!(
            world.off.is_some() || world.flying.iter().all(Flying::late),
            "a process with writes in flight ends by a crash"
        );
        world.end_process();
        world.off = None;
        world.process += 1;
        let process = world.process;
        world.note(format!("process {process} starts"));
        Self { world: Arc::clone(&self.world), process }
    }

    /// Limits what fits on the disk.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Sets the wall clock, also back.
    pub fn set_now(&self, now: TimeMicros) {
        self.lock().now = now;
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, by: Duration) {
        let mut world = self.lock();
        world.monotonic += by;
        let micros = i64::try_from(by.as_micros()).expect("tests live shorter than 292,000 years");
        world.now = TimeMicros(world.now.0 + micros);
    }

    /// A copy of the whole disk, as reads see it.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let world = self.lock();
        let content = |inode| world.inode(inode).content.clone();
        Snapshot {
            files: world.files.clone(),
            slots: world.slots.iter().map(|(slot, inode)| (*slot, content(*inode))).collect(),
        }
    }

    /// Replaces the whole disk. What is open keeps the files that it had.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut world = self.lock();
        world.files = snapshot.files.clone();
        while let Some(slot) = world.slots.keys().next().copied() {
            world.unlink(slot);
        }
        for (slot, content) in &snapshot.slots {
            world.link(*slot, content.clone());
        }
        world.note("the disk was replaced".to_owned());
    }

    /// Puts one file of an older copy back; a file that it lacks is removed.
    pub fn restore_file(&self, snapshot: &Snapshot, name: &FileName) {
        let mut world = self.lock();
        match snapshot.files.get(name) {
            Some(bytes) => world.files.insert(name.clone(), bytes.clone()),
            None => world.files.remove(name),
        };
    }

    /// Puts one slot of an older copy back; a slot that it lacks is removed.
    pub fn restore_slot(&self, snapshot: &Snapshot, slot: SlotId) {
        let mut world = self.lock();
        world.unlink(slot);
        if let Some(content) = snapshot.slots.get(&slot) {
            world.link(slot, content.clone());
        }
    }

    /// Overwrites what the medium holds.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn corrupt(&self, slot: SlotId, at: u64, bytes: &[u8]) {
        let mut world = self.lock();
        let inode = world.slots[&slot];
        world.inode_mut(inode).content.write(index(at), bytes);
    }

    /// Flips one bit of what the medium holds.
    ///
    /// # Panics
    /// When there is no such place.
    pub fn flip_bit(&self, slot: SlotId, at: u64, bit: u8) {
        let byte = self.peek(slot, at, 1)[0];
        self.corrupt(slot, at, &[byte ^ (1 << bit)]);
    }

    /// Replaces a small file behind everybody's back, or removes it.
    pub fn set_file(&self, name: &FileName, bytes: Option<Vec<u8>>) {
        let mut world = self.lock();
        match bytes {
            Some(bytes) => world.files.insert(name.clone(), bytes),
            None => world.files.remove(name),
        };
    }

    /// Lets reads that touch `range` of a slot fail with an I/O error.
    pub fn break_range(&self, slot: SlotId, range: Range<u64>) {
        self.break_range_for(slot, range, u64::MAX);
    }

    /// The same for so many reads, and the next one gives what is there.
    pub fn break_range_for(&self, slot: SlotId, range: Range<u64>, failures: u64) {
        let mut world = self.lock();
        let inode = world.slots[&slot];
        world.bad.push(BadSectors { inode, range, failures: Cell::new(failures) });
    }

    /// Lets [`Slot::write`]s that touch `range` of a slot fail with an I/O error.
    ///
    /// # Panics
    /// When there is no such slot.
    pub fn break_writes(&self, slot: SlotId, range: Range<u64>) {
        let mut world = self.lock();
        let inode = world.slots[&slot];
        world.unwritable.push((inode, range));
    }

    /// What the medium holds.
    ///
    /// # Panics
    /// When there is no such place.
    #[must_use]
    pub fn peek(&self, slot: SlotId, at: u64, length: usize) -> Vec<u8> {
        let world = self.lock();
        let mut bytes = vec![0; length];
        world.inode(world.slots[&slot]).content.read(index(at), &mut bytes);
        bytes
    }

    fn plan(&self, nth: u64, fault: Fault, lasting: Lasting) {
        let mut world = self.lock();
        let when = When::Number(world.operations + nth);
        world.planned.push(Plan { when, fault, lasting });
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The world, once an operation of this process has begun in it; a failure planned for it,
    /// which the operation is to suffer in its own way.
    fn begin(
        &self,
        kind: OperationKind,
        what: &dyn fmt::Display,
    ) -> io::Result<(MutexGuard<'_, World>, Option<Fault>)> {
        let mut world = self.lock();
        world.alive(self.process)?;
        world.operations += 1;
        let fault = world.take_fault(kind);
        let line = match &fault {
            None => format!("{} {kind:?} {what}", world.operations),
            Some(fault) => format!("{} {kind:?} {what}: {fault:?}", world.operations),
        };
        world.note(line);
        Ok((world, fault))
    }

    /// An operation that changes nothing: a fault planned for it is all that can befall it.
    fn look(
        &self,
        kind: OperationKind,
        what: &dyn fmt::Display,
    ) -> io::Result<MutexGuard<'_, World>> {
        let (world, fault) = self.begin(kind, what)?;
        match fault {
            None => Ok(world),
            Some(fault) => Err(suffer(world, fault)),
        }
    }

    /// An operation that changes the disk: `whole` does it, `part` what a failure left of it.
    fn change(
        &self,
        kind: OperationKind,
        what: &dyn fmt::Display,
        whole: impl FnOnce(&mut World) -> io::Result<()>,
        part: impl FnOnce(&mut World),
    ) -> io::Result<()> {
        let (mut world, fault) = self.begin(kind, what)?;
        match fault {
            None => whole(&mut world),
            Some(fault) => {
                part(&mut world);
                Err(suffer(world, fault))
            }
        }
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.lock();
        f.debug_struct("SimDisk")
            .field("process", &self.process)
            .field("operations", &world.operations)
            .field("in_flight", &world.flying.len())
            .field("off", &world.off)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("files", &self.files.keys())
            .field("slots", &self.slots.keys())
            .finish()
    }
}

impl Disk for SimDisk {
    fn journal_folder(&self) -> io::Result<JournalFolder> {
        let world = self.look(OperationKind::JournalFolder, &"")?;
        let slots = world.slots.iter().map(|(slot, inode)| (*slot, world.inode(*inode).bytes()));
        let indexes = world.files.keys().filter_map(|name| match name {
            FileName::Index(segment) => Some(*segment),
            _ => None,
        });
        Ok(JournalFolder { slots: slots.collect(), indexes: indexes.collect() })
    }

    fn cut_folder(&self) -> io::Result<Vec<(String, u64)>> {
        let world = self.look(OperationKind::CutFolder, &"")?;
        let cut = world.files.iter().filter_map(|(name, bytes)| match name {
            FileName::Cut(name) => Some((name.clone(), size(bytes.len()))),
            _ => None,
        });
        Ok(cut.collect())
    }

    fn packs_folder(&self) -> io::Result<Vec<(PackId, u64)>> {
        let world = self.look(OperationKind::PacksFolder, &"")?;
        let packs = world.files.iter().filter_map(|(name, bytes)| match name {
            FileName::Pack(pack) => Some((*pack, size(bytes.len()))),
            _ => None,
        });
        Ok(packs.collect())
    }

    fn create_pack(&self, pack: PackId) -> io::Result<Box<dyn PackWriter>> {
        let name = FileName::Pack(pack);
        self.change(
            OperationKind::CreatePack,
            &pack,
            |world| {
                world.files.insert(name.clone(), Vec::new());
                Ok(())
            },
            |world| world.write_file_partly(&name, &[]),
        )?;
        Ok(Box::new(SimNewPack { disk: self.clone(), pack, written: Vec::new() }))
    }

    fn open_pack(&self, pack: PackId) -> io::Result<Arc<dyn PackFile>> {
        let world = self.look(OperationKind::OpenPack, &pack)?;
        let bytes = world.files.get(&FileName::Pack(pack)).ok_or(io::ErrorKind::NotFound)?;
        let (disk, bytes) = (self.clone(), Bytes::copy_from_slice(bytes));
        Ok(Arc::new(SimPack { disk, pack, bytes }))
    }

    fn read_file(&self, name: &FileName) -> io::Result<Vec<u8>> {
        let world = self.look(OperationKind::ReadFile, &name.path())?;
        world.files.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn write_file(&self, name: &FileName, bytes: &[u8]) -> io::Result<()> {
        self.change(
            OperationKind::WriteFile,
            &format_args!("{} {} bytes", name.path(), bytes.len()),
            |world| {
                let old = world.files.get(name).map_or(0, |old| size(old.len()));
                world.claim(size(bytes.len()), old)?;
                world.insert_file(name.clone(), bytes.to_vec());
                let checkpoint = matches!(name, FileName::CheckpointA | FileName::CheckpointB);
                world.written.checkpoints += u64::from(checkpoint);
                Ok(())
            },
            |world| world.write_file_partly(name, bytes),
        )
    }

    fn remove_file(&self, name: &FileName) -> io::Result<()> {
        self.change(
            OperationKind::RemoveFile,
            &name.path(),
            |world| {
                world.files.remove(name);
                world.files_before.remove(name);
                Ok(())
            },
            |world| {
                if world.faults.coin() {
                    world.files.remove(name);
                }
            },
        )
    }

    /// In one piece.
    fn create_slot(
        &self,
        slot: SlotId,
        bytes: u64,
        _between: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        assert!(index(bytes).is_multiple_of(PAGE_BYTES), "a slot is whole pages long");
        self.change(
            OperationKind::CreateSlot,
            &format_args!("{slot} {bytes} bytes"),
            |world| world.create_slot(slot, bytes),
            |world| world.create_slot_partly(slot, bytes),
        )
    }

    fn remove_slot(&self, slot: SlotId) -> io::Result<()> {
        self.change(
            OperationKind::RemoveSlot,
            &slot,
            |world| if world.unlink(slot) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) },
            |world| {
                if world.faults.coin() {
                    world.unlink(slot);
                }
            },
        )
    }

    fn open_slot(&self, slot: SlotId, access: Access) -> io::Result<Arc<dyn Slot>> {
        let mut world = self.look(OperationKind::OpenSlot, &format_args!("{slot} {access:?}"))?;
        let inode = *world.slots.get(&slot).ok_or(io::ErrorKind::NotFound)?;
        let lock = match access {
            Access::Read => None,
            Access::Write => {
                if world.land_late(inode) || world.inode(inode).locked {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                world.inode_mut(inode).locked = true;
                Some(Arc::new(SlotLock { disk: self.clone(), inode }))
            }
        };
        let bytes = world.inode(inode).bytes();
        world.inode_mut(inode).handles += 1;
        Ok(Arc::new(SimSlot { disk: self.clone(), slot, inode, bytes, lock }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let world = self.lock();
        world.alive(self.process)?;
        Ok(world.capacity.saturating_sub(world.used()))
    }

    fn reads_are_direct(&self) -> bool {
        !self.lock().cached
    }

    fn backend(&self) -> Backend {
        Backend {
            kind: BackendKind::Simulated,
            direct: self.reads_are_direct(),
            why: "a simulated disk was given".to_owned(),
        }
    }

    fn now(&self) -> TimeMicros {
        self.lock().now
    }

    fn monotonic(&self) -> Duration {
        self.lock().monotonic
    }

    fn random(&self) -> u64 {
        self.lock().numbers.next()
    }
}

/// A pack that is being written: its file shows when it is finished, or in pieces after a crash.
struct SimNewPack {
    disk: SimDisk,
    pack: PackId,
    written: Vec<u8>,
}

impl SimNewPack {
    /// Does what takes `bytes` of room and can leave a piece of the file behind.
    fn change(
        &self,
        kind: OperationKind,
        act: impl FnOnce(&mut World, FileName) -> io::Result<()>,
    ) -> io::Result<()> {
        let name = FileName::Pack(self.pack);
        let bytes = self.written.len();
        self.disk.change(
            kind,
            &format_args!("{} {bytes} bytes", self.pack),
            |world| {
                world.claim(size(bytes), 0)?;
                act(world, name.clone())
            },
            |world| world.write_file_partly(&name, &self.written),
        )
    }
}

impl PackWriter for SimNewPack {
    fn write(&mut self, pages: &PageBuffer) -> io::Result<()> {
        self.written.extend_from_slice(pages);
        self.change(OperationKind::WritePack, |_, _| Ok(()))
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let made = self.pack;
        self.change(OperationKind::FinishPack, |world, name| {
            let is_inside = |it: &&FileName| matches!(it, FileName::Pack(it) if made.covers(it));
            let inside = world.files.keys().filter(is_inside).filter(|it| **it != name).count();
            world.written.merges += u64::from(inside > 1);
            // It shows from its beginning on, and is new.
            world.files.remove(&name);
            world.insert_file(name, self.written.clone());
            world.written.packs += 1;
            Ok(())
        })
    }
}

/// An open pack: what it held when it was opened.
struct SimPack {
    disk: SimDisk,
    pack: PackId,
    bytes: Bytes,
}

impl PackFile for SimPack {
    fn bytes(&self) -> u64 {
        size(self.bytes.len())
    }

    fn read(&self, at: u64, buffer: &mut PageBuffer) -> io::Result<()> {
        assert!(index(at).is_multiple_of(PAGE_BYTES), "reads start on a page");
        let what = format_args!("{} {at} {} bytes", self.pack, buffer.len());
        let world = self.disk.look(OperationKind::ReadPack, &what)?;
        let bytes = world.files.get(&FileName::Pack(self.pack)).map_or(&self.bytes[..], |now| now);
        let end = index(at) + buffer.len();
        let bytes = bytes.get(index(at)..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
}

/// The exclusive lock of a slot: lives as long as the handle and every write in flight.
struct SlotLock {
    disk: SimDisk,
    inode: u64,
}

impl Drop for SlotLock {
    fn drop(&mut self) {
        let mut world = self.disk.lock();
        // A crash has released the locks of its process already, or left them to late writes.
        if world.alive(self.disk.process).is_ok()
            && let Some(inode) = world.inodes.get_mut(&self.inode)
        {
            inode.locked = false;
        }
    }
}

struct SimSlot {
    disk: SimDisk,
    slot: SlotId,
    inode: u64,
    bytes: u64,
    lock: Option<Arc<SlotLock>>,
}

impl SimSlot {
    fn check_write(&self, world: &World, at: u64, pages: &[u8]) {
        assert_aligned(at, pages, self.bytes);
        assert!(self.lock.is_some(), "{} was opened to read", self.slot);
        assert_eq!(world.inode(self.inode).maps, 0, "{} is written while mapped", self.slot);
        let range = at..at + size(pages.len());
        let clash = world
            .flying
            .iter()
            .find(|other| other.inode == self.inode && overlaps(&(other.at..other.end()), &range));
        assert!(clash.is_none(), "two writes in flight overlap at {range:?} of {}", self.slot);
    }
}

impl Drop for SimSlot {
    fn drop(&mut self) {
        let mut world = self.disk.lock();
        if world.alive(self.disk.process).is_ok() {
            world.inode_mut(self.inode).handles -= 1;
            world.forget_if_unused(self.inode);
        }
    }
}

impl Slot for SimSlot {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, at: u64, buffer: &mut PageBuffer) -> io::Result<()> {
        assert!(index(at).is_multiple_of(PAGE_BYTES), "reads start on a page");
        let what = format_args!("{} {at} {} bytes", self.slot, buffer.len());
        let mut world = self.disk.look(OperationKind::Read, &what)?;
        if world.is_stale() {
            return world.read_stale(self.inode, at, buffer);
        }
        world.read(self.inode, at, buffer)
    }

    fn write(&self, at: u64, pages: &Bytes) -> io::Result<()> {
        self.disk.change(
            OperationKind::Write,
            &format_args!("{} {at} {} bytes", self.slot, pages.len()),
            |world| {
                self.check_write(world, at, pages);
                let range = at..at + size(pages.len());
                let mut bad = world.unwritable.iter();
                if bad.any(|(inode, bad)| *inode == self.inode && overlaps(bad, &range)) {
                    return Err(io::Error::other(format!("a bad sector within {range:?}")));
                }
                world.note_first_commit(self.inode, at);
                let lies = world.lying == Lying::All;
                let inode = world.inode_mut(self.inode);
                if lies {
                    inode.write_visibly(at, pages)
                } else {
                    inode.write_durably(at, pages)
                }
                Ok(())
            },
            |world| world.write_partly(self.inode, at, pages),
        )
    }

    fn submit(&self, at: u64, pages: Bytes, done: WriteDone) {
        let what = format_args!("{} {at} {} bytes", self.slot, pages.len());
        let (mut world, fault) = match self.disk.begin(OperationKind::Submit, &what) {
            Ok(begun) => begun,
            Err(error) => return done(Err(error)),
        };
        self.check_write(&world, at, &pages);
        world.written.rolls += u64::from(world.note_first_commit(self.inode, at));
        let lock = self.lock.clone();
        let astray = matches!(fault, Some(Fault::Misdirect)).then(|| {
            let last = index(self.bytes) - pages.len();
            let first = self.bytes.min(size(PAGE_BYTES));
            let mut any = || first + size(world.faults.below(last / PAGE_BYTES) * PAGE_BYTES);
            let place = any();
            // Once more is enough for what is rare, and ends where there is no other place.
            if place == at { any() } else { place }
        });
        let flying = Flying { inode: self.inode, at, astray, pages, done: Some(done), lock };
        world.flying.push(flying);
        let last = world.flying.len() - 1;
        match fault {
            Some(Fault::Crash(crash)) => {
                let ended = world.crash(crash);
                drop(world);
                ended.into_iter().for_each(Landed::finish);
            }
            Some(Fault::Error(kind)) => {
                let failed = world.land_partly(last, kind.into());
                drop(world);
                failed.finish();
            }
            _ if world.auto => {
                let landed = world.land(last);
                drop(world);
                landed.finish();
            }
            _ => {}
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.change(
            OperationKind::Sync,
            &self.slot,
            |world| {
                if world.lying == Lying::Never {
                    world.inode_mut(self.inode).before_sync.clear();
                }
                Ok(())
            },
            |world| world.fail_sync(self.inode),
        )
    }

    fn drop_cache(&self) -> io::Result<()> {
        let mut world = self.disk.look(OperationKind::DropCache, &self.slot)?;
        world.inode_mut(self.inode).drop_cache();
        Ok(())
    }

    fn map(&self) -> io::Result<Arc<dyn Map>> {
        let mut world = self.disk.look(OperationKind::Map, &self.slot)?;
        world.inode_mut(self.inode).maps += 1;
        Ok(Arc::new(SimMap { disk: self.disk.clone(), slot: self.slot, inode: self.inode }))
    }
}

struct SimMap {
    disk: SimDisk,
    slot: SlotId,
    inode: u64,
}

impl Map for SimMap {
    fn bytes(self: Arc<Self>, at: u64, length: usize) -> io::Result<Bytes> {
        let what = format_args!("{} {at} {length} bytes", self.slot);
        let world = self.disk.look(OperationKind::MapBytes, &what)?;
        let mut copy = vec![0; length];
        world.read(self.inode, at, &mut copy)?;
        drop(world);
        Ok(Bytes::from_owner(Pinned { copy, _map: self }))
    }

    /// A page cache that keeps nothing.
    fn bytes_in_memory(self: Arc<Self>, _at: u64, _length: usize) -> Option<Bytes> {
        None
    }

    /// Nothing is read ahead.
    fn expect(&self, _at: u64, _length: usize) -> bool {
        true
    }

    fn read_in(&self, _at: u64, _length: usize) {}
}

impl Drop for SimMap {
    fn drop(&mut self) {
        let mut world = self.disk.lock();
        // What a process had mapped when it ended is gone from the count already.
        if world.alive(self.disk.process).is_ok() {
            world.inode_mut(self.inode).maps -= 1;
            world.forget_if_unused(self.inode);
        }
    }
}

struct Pinned {
    copy: Vec<u8>,
    _map: Arc<SimMap>,
}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        &self.copy
    }
}
