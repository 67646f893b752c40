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
//! - Failing operations, a full disk, rot, bad sectors, and files put back from an older copy.
//!
//! What it does not do: reorder or lose what was reported as durable (a lying disk is made with
//! [`SimDisk::restore`]), or tear within a sector.
//!
//! It also watches its user: writes must be aligned pages inside the slot, need the lock, must not
//! overlap another one in flight, and never reach a slot that is mapped. Those panic.
//!
//! For tests of this crate and for the simulator; nothing else calls it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tracklog_protocol::TimeMicros;

use super::{
    Access, Backend, BackendKind, Disk, FileName, JournalFolder, Map, PAGE_BYTES, PageBuffer, Slot,
    SlotId, WriteDone,
};
use crate::disk::buffer::assert_aligned;

/// What lands or is lost as a whole.
const SECTOR_BYTES: usize = 512;
const TRACE_LINES_MAX: usize = 4096;

/// How a machine or its process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The power fails: each sector in flight, or not yet durable, lands or is lost.
    Power,
    /// The process is killed: the machine completes what it had been given, later.
    Kill,
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
    /// [`Disk::read_file`].
    ReadFile,
    /// [`Disk::write_file`].
    WriteFile,
    /// [`Disk::remove_file`].
    RemoveFile,
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
            planned: Vec::new(),
            operations: 0,
            auto: false,
            off: None,
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

    /// How many operations there were since the machine was made.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.lock().operations
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
        world.bad.clear();
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
        let mut world = self.lock();
        let inode = world.slots[&slot];
        world.bad.push((inode, range));
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
                world.files.insert(name.clone(), bytes.to_vec());
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
                Ok(())
            },
            |world| {
                if world.faults.coin() {
                    world.files.remove(name);
                }
            },
        )
    }

    fn create_slot(&self, slot: SlotId, bytes: u64) -> io::Result<()> {
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
        true
    }

    fn backend(&self) -> Backend {
        Backend {
            kind: BackendKind::Simulated,
            direct: true,
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
        let world = self.disk.look(OperationKind::Read, &what)?;
        world.read(self.inode, at, buffer)
    }

    fn write(&self, at: u64, pages: &Bytes) -> io::Result<()> {
        self.disk.change(
            OperationKind::Write,
            &format_args!("{} {at} {} bytes", self.slot, pages.len()),
            |world| {
                self.check_write(world, at, pages);
                world.inode_mut(self.inode).write_durably(at, pages);
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
        let lock = self.lock.clone();
        world.flying.push(Flying { inode: self.inode, at, pages, done: Some(done), lock });
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
            None if world.auto => {
                let landed = world.land(last);
                drop(world);
                landed.finish();
            }
            None => {}
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.look(OperationKind::Sync, &self.slot)?;
        world.inode_mut(self.inode).before_sync.clear();
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.disk.look(OperationKind::DropCache, &self.slot).map(drop)
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

/// The machine.
struct World {
    /// Decides faults. Apart from `numbers`, so that a fault more does not change a salt.
    faults: Chance,
    numbers: Chance,
    process: u64,
    now: TimeMicros,
    monotonic: Duration,
    capacity: u64,
    files: BTreeMap<FileName, Vec<u8>>,
    slots: BTreeMap<SlotId, u64>,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    flying: Vec<Flying>,
    bad: Vec<(u64, Range<u64>)>,
    planned: Vec<Plan>,
    operations: u64,
    auto: bool,
    off: Option<Crash>,
    trace: VecDeque<String>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Crash(Crash),
    Error(io::ErrorKind),
}

#[derive(Clone, Copy)]
enum When {
    Number(u64),
    Kind(OperationKind),
}

struct Plan {
    when: When,
    fault: Fault,
    lasting: Lasting,
}

/// A write on its way. Without `done` it is a killed process's.
struct Flying {
    inode: u64,
    at: u64,
    pages: Bytes,
    done: Option<WriteDone>,
    lock: Option<Arc<SlotLock>>,
}

impl Flying {
    fn end(&self) -> u64 {
        self.at + size(self.pages.len())
    }
}

/// What is to be told when the world's lock is no longer held.
struct Landed {
    done: Option<WriteDone>,
    result: io::Result<()>,
    /// Released before `done` is called, so that the slot can be opened again from there.
    lock: Option<Arc<SlotLock>>,
}

impl Landed {
    fn finish(self) {
        drop(self.lock);
        if let Some(done) = self.done {
            done(self.result);
        }
    }
}

impl World {
    fn alive(&self, process: u64) -> io::Result<()> {
        if self.off.is_some() || self.process != process {
            return Err(switched_off());
        }
        Ok(())
    }

    fn note(&mut self, line: String) {
        if self.trace.len() == TRACE_LINES_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    fn take_fault(&mut self, kind: OperationKind) -> Option<Fault> {
        let number = self.operations;
        let due = self.planned.iter().position(|plan| match (plan.when, plan.lasting) {
            (When::Number(at), Lasting::Once) => at == number,
            (When::Number(at), Lasting::Always) => at <= number,
            (When::Kind(of), _) => of == kind,
        })?;
        let fault = self.planned[due].fault;
        if self.planned[due].lasting == Lasting::Once {
            self.planned.remove(due);
        }
        Some(fault)
    }

    fn inode(&self, inode: u64) -> &Inode {
        &self.inodes[&inode]
    }

    fn inode_mut(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("an inode lives while something refers to it")
    }

    fn link(&mut self, slot: SlotId, content: Content) {
        let number = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(number, Inode::new(content));
        self.slots.insert(slot, number);
    }

    fn unlink(&mut self, slot: SlotId) -> bool {
        let Some(inode) = self.slots.remove(&slot) else { return false };
        self.inode_mut(inode).linked = false;
        self.forget_if_unused(inode);
        true
    }

    /// A file whose last name and last user are gone is gone.
    fn forget_if_unused(&mut self, inode: u64) {
        let flying = self.flying.iter().any(|write| write.inode == inode);
        let Inode { linked, handles, maps, .. } = *self.inode(inode);
        if !linked && handles == 0 && maps == 0 && !flying {
            self.inodes.remove(&inode);
        }
    }

    fn used(&self) -> u64 {
        let files: usize = self.files.values().map(Vec::len).sum();
        size(files) + self.inodes.values().map(Inode::bytes).sum::<u64>()
    }

    /// Room for `bytes` where `replaced` bytes go.
    fn claim(&self, bytes: u64, replaced: u64) -> io::Result<()> {
        if self.used() - replaced + bytes > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn slot_bytes(&self, slot: SlotId) -> u64 {
        self.slots.get(&slot).map_or(0, |inode| self.inode(*inode).bytes())
    }

    fn create_slot(&mut self, slot: SlotId, bytes: u64) -> io::Result<()> {
        self.claim(bytes, self.slot_bytes(slot))?;
        match self.slots.get(&slot).copied() {
            Some(inode) => {
                if self.land_late(inode) || self.inode(inode).locked {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let inode = self.inode_mut(inode);
                assert_eq!(inode.maps, 0, "a mapped slot is filled again");
                inode.content = Content::zeros(bytes);
                inode.before_sync.clear();
            }
            None => self.link(slot, Content::zeros(bytes)),
        }
        Ok(())
    }

    fn create_slot_partly(&mut self, slot: SlotId, bytes: u64) {
        if self.claim(bytes, self.slot_bytes(slot)).is_err() {
            return;
        }
        let filled = size(self.faults.below(index(bytes) / PAGE_BYTES + 1) * PAGE_BYTES);
        match self.slots.get(&slot).copied() {
            Some(inode) if !self.inode(inode).locked => {
                let content = &mut self.inode_mut(inode).content;
                let zeros = index(filled.min(content.bytes())) / PAGE_BYTES;
                content.pages[..zeros].fill(Content::zero_page());
            }
            Some(_) => {}
            None if self.faults.coin() => self.link(slot, Content::zeros(filled)),
            None => {}
        }
    }

    fn write_file_partly(&mut self, name: &FileName, bytes: &[u8]) {
        let length = self.faults.below(bytes.len() + 1);
        let left = match self.faults.below(5) {
            0 => return,
            1 => Vec::new(),
            2 => bytes[..length].to_vec(),
            3 => vec![0; length],
            _ => bytes.to_vec(),
        };
        self.files.insert(name.clone(), left);
    }

    /// Any sectors of a write that failed reach the medium; a power failure may still lose them.
    fn write_partly(&mut self, inode: u64, at: u64, pages: &[u8]) {
        let landing = self.faults.sectors(pages.len() / SECTOR_BYTES);
        let inode = self.inode_mut(inode);
        for (number, sector) in pages.chunks(SECTOR_BYTES).enumerate() {
            if landing[number] {
                inode.write_visibly(at + size(number * SECTOR_BYTES), sector);
            }
        }
    }

    fn read(&self, inode: u64, at: u64, into: &mut [u8]) -> io::Result<()> {
        let content = &self.inode(inode).content;
        let range = at..at.saturating_add(size(into.len()));
        if range.end > content.bytes() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.bad.iter().any(|(of, bad)| *of == inode && overlaps(bad, &range)) {
            return Err(io::Error::other(format!("a bad sector within {range:?}")));
        }
        content.read(index(at), into);
        Ok(())
    }

    /// A write in flight reaches the medium.
    fn land(&mut self, flying: usize) -> Landed {
        let write = self.flying.remove(flying);
        let inode = self.inode_mut(write.inode);
        if write.done.is_some() {
            inode.write_durably(write.at, &write.pages);
        } else {
            inode.write_visibly(write.at, &write.pages);
        }
        self.note(format!("landed: {} bytes at {}", write.pages.len(), write.at));
        self.landed(write, Ok(()))
    }

    /// A write in flight fails, or the power does.
    fn land_partly(&mut self, flying: usize, error: io::Error) -> Landed {
        let write = self.flying.remove(flying);
        self.write_partly(write.inode, write.at, &write.pages);
        self.landed(write, Err(error))
    }

    fn landed(&mut self, write: Flying, result: io::Result<()>) -> Landed {
        let late = self.flying.iter().any(|other| other.inode == write.inode && other.late());
        let killed = write.late();
        let inode = self.inode_mut(write.inode);
        if killed && !late {
            inode.locked = false;
        }
        self.forget_if_unused(write.inode);
        Landed { done: write.done, result, lock: write.lock }
    }

    /// Lands a write that a killed process left behind; whether there was one.
    fn land_late(&mut self, inode: u64) -> bool {
        let late = |write: &Flying| write.inode == inode && write.late();
        let Some(first) = self.flying.iter().position(late) else { return false };
        let landed = self.land(first);
        debug_assert!(landed.done.is_none() && landed.lock.is_none());
        true
    }

    fn crash(&mut self, crash: Crash) -> Vec<Landed> {
        self.note(format!("crash: {crash:?}"));
        self.off = Some(crash);
        let mut ended = Vec::new();
        if crash == Crash::Power {
            self.lose_unsynced();
            while !self.flying.is_empty() {
                let any = self.faults.below(self.flying.len());
                ended.push(self.land_partly(any, switched_off()));
            }
            self.inodes.values_mut().for_each(|inode| inode.before_sync.clear());
        } else {
            for write in &mut self.flying {
                let (done, lock) = (write.done.take(), write.lock.take());
                ended.push(Landed { done, result: Err(switched_off()), lock });
            }
        }
        self.end_process();
        if !self.auto {
            ended.iter_mut().for_each(|landed| landed.done = None);
        }
        ended
    }

    /// What a process held is released, but for the locks of what it left in flight.
    fn end_process(&mut self) {
        let flying: Vec<u64> = self.flying.iter().map(|write| write.inode).collect();
        for (number, inode) in &mut self.inodes {
            inode.maps = 0;
            inode.handles = 0;
            inode.locked = flying.contains(number);
        }
        self.inodes.retain(|number, inode| inode.linked || flying.contains(number));
    }

    fn lose_unsynced(&mut self) {
        for inode in self.inodes.values_mut() {
            for (sector, before) in std::mem::take(&mut inode.before_sync) {
                if self.faults.coin() {
                    inode.content.write(index(sector), &before);
                }
            }
        }
    }
}

impl Flying {
    /// Whether it is a killed process's.
    const fn late(&self) -> bool {
        self.done.is_none()
    }
}

/// A slot's file.
struct Inode {
    content: Content,
    /// What the medium would hold, after a power failure, at places that reads see otherwise.
    before_sync: BTreeMap<u64, [u8; SECTOR_BYTES]>,
    locked: bool,
    linked: bool,
    handles: usize,
    maps: usize,
}

impl Inode {
    fn new(content: Content) -> Self {
        let before_sync = BTreeMap::new();
        Self { content, before_sync, locked: false, linked: true, handles: 0, maps: 0 }
    }

    fn bytes(&self) -> u64 {
        self.content.bytes()
    }

    fn write_durably(&mut self, at: u64, bytes: &[u8]) {
        self.content.write(index(at), bytes);
        for sector in (at..at + size(bytes.len())).step_by(SECTOR_BYTES) {
            self.before_sync.remove(&sector);
        }
    }

    fn write_visibly(&mut self, at: u64, bytes: &[u8]) {
        for sector in (at..at + size(bytes.len())).step_by(SECTOR_BYTES) {
            let mut before = [0; SECTOR_BYTES];
            self.content.read(index(sector), &mut before);
            self.before_sync.entry(sector).or_insert(before);
        }
        self.content.write(index(at), bytes);
    }
}

/// A file's bytes. Pages are shared until written, so that copies of whole disks are cheap.
#[derive(Clone)]
struct Content {
    pages: Vec<Arc<[u8; PAGE_BYTES]>>,
}

impl Content {
    fn zero_page() -> Arc<[u8; PAGE_BYTES]> {
        Arc::new([0; PAGE_BYTES])
    }

    fn zeros(bytes: u64) -> Self {
        Self { pages: vec![Self::zero_page(); index(bytes) / PAGE_BYTES] }
    }

    fn bytes(&self) -> u64 {
        size(self.pages.len() * PAGE_BYTES)
    }

    fn read(&self, mut at: usize, mut into: &mut [u8]) {
        while !into.is_empty() {
            let within = at % PAGE_BYTES;
            let length = into.len().min(PAGE_BYTES - within);
            let page = &self.pages[at / PAGE_BYTES];
            into[..length].copy_from_slice(&page[within..within + length]);
            into = &mut into[length..];
            at += length;
        }
    }

    fn write(&mut self, mut at: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let within = at % PAGE_BYTES;
            let length = bytes.len().min(PAGE_BYTES - within);
            let page = Arc::make_mut(&mut self.pages[at / PAGE_BYTES]);
            page[within..within + length].copy_from_slice(&bytes[..length]);
            bytes = &bytes[length..];
            at += length;
        }
    }
}

/// The operation ends as `fault` says.
fn suffer(mut world: MutexGuard<'_, World>, fault: Fault) -> io::Error {
    match fault {
        Fault::Error(kind) => kind.into(),
        Fault::Crash(crash) => {
            let ended = world.crash(crash);
            drop(world);
            ended.into_iter().for_each(Landed::finish);
            switched_off()
        }
    }
}

fn switched_off() -> io::Error {
    io::Error::other("the simulated machine is off")
}

fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

fn index(at: u64) -> usize {
    usize::try_from(at).expect("a simulated disk fits into memory")
}

fn size(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("a length is below 2^64")
}

/// Splitmix64: small, and good enough to pick faults with.
struct Chance {
    state: u64,
}

impl Chance {
    const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        index(self.next() % size(bound))
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// Which sectors of a torn write land: none, all, a run from either end, or any.
    fn sectors(&mut self, count: usize) -> Vec<bool> {
        let border = self.below(count + 1);
        match self.below(8) {
            0 => vec![false; count],
            1 => vec![true; count],
            2 | 3 => (0..count).map(|sector| sector < border).collect(),
            4 => (0..count).map(|sector| sector >= border).collect(),
            _ => (0..count).map(|_| self.coin()).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;

    use super::*;

    const SLOT: SlotId = SlotId(1);
    const SLOT_BYTES: u64 = 64 * PAGE_BYTES as u64;
    const PAGE: u64 = PAGE_BYTES as u64;

    fn pages(fill: u8, count: usize) -> Bytes {
        let mut buffer = PageBuffer::zeroed(count * PAGE_BYTES);
        buffer.fill(fill);
        buffer.freeze()
    }

    fn disk_with_slot(seed: u64) -> (SimDisk, Arc<dyn Slot>) {
        let disk = SimDisk::new(seed);
        disk.create_slot(SLOT, SLOT_BYTES).unwrap();
        let slot = disk.open_slot(SLOT, Access::Write).unwrap();
        (disk, slot)
    }

    fn ignore() -> WriteDone {
        Box::new(|_| ())
    }

    /// How many sectors of the first page hold `fill`.
    fn sectors_of(disk: &SimDisk, fill: u8) -> usize {
        let page = disk.peek(SLOT, 0, PAGE_BYTES);
        page.chunks(SECTOR_BYTES).filter(|sector| sector.iter().all(|byte| *byte == fill)).count()
    }

    #[test]
    fn write_in_flight_is_seen_once_completed() {
        let (disk, slot) = disk_with_slot(1);
        let (ended, ends) = mpsc::channel();
        slot.submit(0, pages(1, 1), Box::new(move |result| ended.send(result).unwrap()));
        assert_eq!((disk.in_flight(), sectors_of(&disk, 0)), (1, 8));
        assert!(ends.try_recv().is_err());
        assert!(disk.step());
        assert!(ends.recv().unwrap().is_ok());
        assert_eq!((disk.in_flight(), sectors_of(&disk, 1)), (0, 8));
        assert!(!disk.step());
    }

    #[test]
    fn writes_complete_in_any_order() {
        let orders: BTreeSet<Vec<u64>> = (0..50)
            .map(|seed| {
                let (disk, slot) = disk_with_slot(seed);
                let (ended, ends) = mpsc::channel();
                for number in 0..3 {
                    let ended = ended.clone();
                    let done = Box::new(move |_| ended.send(number).unwrap());
                    slot.submit(number * PAGE, pages(1, 1), done);
                }
                disk.run_until_idle();
                drop((slot, ended));
                ends.iter().collect()
            })
            .collect();
        assert_eq!(orders.len(), 6);
    }

    #[test]
    fn power_failure_tears_what_flies_and_keeps_what_was_done() {
        let landed: BTreeSet<usize> = (0..200)
            .map(|seed| {
                let (disk, slot) = disk_with_slot(seed);
                slot.submit(PAGE, pages(2, 1), ignore());
                disk.run_until_idle();
                slot.submit(0, pages(1, 1), Box::new(|_| panic!("called after a crash")));
                disk.crash(Crash::Power);
                let disk = disk.reboot();
                assert!(disk.peek(SLOT, PAGE, PAGE_BYTES).iter().all(|byte| *byte == 2));
                assert_eq!(sectors_of(&disk, 0) + sectors_of(&disk, 1), 8, "sectors are whole");
                sectors_of(&disk, 1)
            })
            .collect();
        assert_eq!(landed, (0..=8).collect(), "none, all, and any number between");
    }

    #[test]
    fn later_write_may_land_without_an_earlier_one() {
        let only_later = (0..200).any(|seed| {
            let (disk, slot) = disk_with_slot(seed);
            slot.submit(0, pages(1, 1), ignore());
            slot.submit(PAGE, pages(1, 1), ignore());
            disk.crash(Crash::Power);
            let later = disk.peek(SLOT, PAGE, PAGE_BYTES);
            sectors_of(&disk, 0) == 8 && later.iter().all(|byte| *byte == 1)
        });
        assert!(only_later);
    }

    #[test]
    fn killed_process_keeps_its_lock_until_its_write_has_landed() {
        let (disk, slot) = disk_with_slot(3);
        slot.submit(0, pages(1, 1), Box::new(|_| panic!("called after a crash")));
        slot.submit(PAGE, pages(1, 1), ignore());
        disk.crash(Crash::Kill);
        drop(slot);
        let disk = disk.reboot();
        assert_eq!((disk.in_flight(), sectors_of(&disk, 1)), (2, 0));
        disk.open_slot(SLOT, Access::Read).unwrap();
        for left in [1, 0] {
            let error = disk.open_slot(SLOT, Access::Write).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            assert_eq!(disk.in_flight(), left);
        }
        disk.open_slot(SLOT, Access::Write).unwrap();
        assert_eq!(sectors_of(&disk, 1), 8);
    }

    #[test]
    fn late_write_is_durable_only_after_a_sync() {
        let survives = |seed, sync: bool| {
            let (disk, slot) = disk_with_slot(seed);
            slot.submit(0, pages(1, 1), ignore());
            disk.crash(Crash::Kill);
            let disk = disk.reboot();
            disk.run_until_idle();
            assert_eq!(sectors_of(&disk, 1), 8, "it is seen");
            if sync {
                disk.open_slot(SLOT, Access::Write).unwrap().sync().unwrap();
            }
            disk.crash(Crash::Power);
            sectors_of(&disk, 1) == 8
        };
        assert!((0..50).all(|seed| survives(seed, true)));
        assert!(!(0..50).all(|seed| survives(seed, false)));
    }

    #[test]
    fn failed_write_leaves_any_of_its_sectors_and_no_promise() {
        let landed: BTreeSet<usize> = (0..100)
            .map(|seed| {
                let (disk, slot) = disk_with_slot(seed);
                disk.fail_next(OperationKind::Submit, io::ErrorKind::Other, Lasting::Once);
                let (ended, ends) = mpsc::channel();
                slot.submit(0, pages(1, 1), Box::new(move |it| ended.send(it).unwrap()));
                assert!(ends.recv().unwrap().is_err());
                assert_eq!(disk.in_flight(), 0);
                sectors_of(&disk, 1)
            })
            .collect();
        assert!(landed.contains(&0) && landed.contains(&8) && landed.len() > 5);
    }

    /// A life with one of each operation that changes something.
    fn live(disk: &SimDisk) -> io::Result<()> {
        disk.write_file(&FileName::CheckpointA, &[7; 1000])?;
        disk.create_slot(SLOT, SLOT_BYTES)?;
        let slot = disk.open_slot(SLOT, Access::Write)?;
        slot.write(0, &pages(1, 1))?;
        let (ended, ends) = mpsc::channel();
        slot.submit(PAGE, pages(2, 1), Box::new(move |result| ended.send(result).unwrap()));
        ends.recv().unwrap()?;
        disk.write_file(&FileName::CheckpointA, &[8; 2000])?;
        drop(slot);
        disk.remove_slot(SLOT)?;
        disk.remove_file(&FileName::CheckpointA)
    }

    fn live_until(seed: u64, operation: u64, crash: Crash) -> SimDisk {
        let disk = SimDisk::new(seed);
        disk.set_auto(true);
        disk.crash_at_operation(operation, crash);
        let ended = live(&disk);
        assert_eq!(disk.operations(), operation, "nothing happens after a crash");
        assert!(ended.is_err() && disk.journal_folder().is_err());
        disk.reboot()
    }

    #[test]
    fn crash_in_each_operation_leaves_old_new_or_parts() {
        let whole = SimDisk::new(0);
        whole.set_auto(true);
        live(&whole).unwrap();
        for crash in [Crash::Power, Crash::Kill] {
            for operation in 1..=whole.operations() {
                let mut found = BTreeSet::new();
                for seed in 0..60 {
                    let disk = live_until(seed, operation, crash);
                    let state = disk.snapshot();
                    let file = state.files.get(&FileName::CheckpointA).cloned();
                    found.insert((file, state.slots.get(&SLOT).map(Content::bytes)));
                    disk.set_auto(true);
                    disk.run_until_idle();
                    live(&disk).unwrap();
                }
                let states = match operation {
                    1 => 5..,
                    2 => 10..,
                    3..=5 => 1..,
                    6 => 5..,
                    _ => 2..,
                };
                assert!(states.contains(&found.len()), "{crash:?} at {operation}: {}", found.len());
            }
        }
    }

    #[test]
    fn same_seed_gives_the_same_disk_and_trace() {
        for operation in 1..=8 {
            let [one, two] = [0, 1].map(|_| live_until(42, operation, Crash::Power));
            assert_eq!(one.trace(), two.trace());
            let bytes = |disk: &SimDisk| {
                let state = disk.snapshot();
                let slots = state.slots.into_iter();
                (state.files, slots.map(|(slot, it)| (slot, it.pages)).collect::<Vec<_>>())
            };
            assert_eq!(bytes(&one), bytes(&two));
            assert_eq!(one.random(), two.random());
        }
    }

    #[test]
    fn nth_operation_fails_once_or_for_ever() {
        let disk = SimDisk::new(1);
        disk.fail_operation(2, io::ErrorKind::Other, Lasting::Once);
        let tries = || [(); 4].map(|()| disk.journal_folder().is_ok());
        assert_eq!(tries(), [true, false, true, true]);
        disk.fail_operation(3, io::ErrorKind::Other, Lasting::Always);
        assert_eq!(tries(), [true, true, false, false]);
        disk.heal();
        assert_eq!(tries(), [true; 4]);
    }

    #[test]
    fn full_disk_takes_no_slot_and_no_file_until_there_is_room() {
        let full = |result: io::Result<()>| {
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull);
        };
        let disk = SimDisk::new(1);
        disk.set_capacity(SLOT_BYTES + 100);
        disk.create_slot(SLOT, SLOT_BYTES).unwrap();
        full(disk.create_slot(SlotId(2), PAGE));
        full(disk.write_file(&FileName::CheckpointA, &[0; 101]));
        disk.write_file(&FileName::CheckpointA, &[0; 100]).unwrap();
        disk.write_file(&FileName::CheckpointA, &[1; 100]).unwrap();
        assert_eq!(disk.free_bytes().unwrap(), 0);
        disk.remove_slot(SLOT).unwrap();
        disk.create_slot(SlotId(2), SLOT_BYTES).unwrap();
    }

    #[test]
    fn rot_and_bad_sectors_are_read_as_such() {
        let (disk, slot) = disk_with_slot(1);
        disk.flip_bit(SLOT, PAGE + 5, 3);
        disk.corrupt(SLOT, PAGE + 6, &[0xaa, 0xbb]);
        let mut buffer = PageBuffer::zeroed(PAGE_BYTES);
        slot.read(PAGE, &mut buffer).unwrap();
        assert_eq!(buffer[4..9], [0, 8, 0xaa, 0xbb, 0]);

        disk.break_range(SLOT, PAGE + 100..PAGE + 101);
        slot.read(PAGE, &mut buffer).unwrap_err();
        slot.read(2 * PAGE, &mut buffer).unwrap();
        let map = slot.map().unwrap();
        Arc::clone(&map).bytes(PAGE + 101, 10).unwrap();
        map.bytes(PAGE + 90, 11).unwrap_err();
        disk.heal();
        slot.read(PAGE, &mut buffer).unwrap();
    }

    #[test]
    fn old_files_can_be_put_back() {
        let (disk, slot) = disk_with_slot(1);
        disk.write_file(&FileName::CheckpointA, b"old").unwrap();
        let old = disk.snapshot();
        slot.write(0, &pages(1, 1)).unwrap();
        drop(slot);
        disk.write_file(&FileName::CheckpointA, b"new").unwrap();
        disk.write_file(&FileName::CheckpointB, b"new").unwrap();
        let new = disk.snapshot();

        disk.restore_slot(&old, SLOT);
        disk.restore_file(&old, &FileName::CheckpointB);
        assert_eq!(sectors_of(&disk, 0), 8);
        assert_eq!(disk.read_file(&FileName::CheckpointA).unwrap(), b"new");
        assert!(disk.read_file(&FileName::CheckpointB).is_err());

        disk.restore(&new);
        assert_eq!(sectors_of(&disk, 1), 8);
        disk.restore(&old);
        assert_eq!(disk.read_file(&FileName::CheckpointA).unwrap(), b"old");
    }

    #[test]
    fn clock_goes_where_it_is_set() {
        let disk = SimDisk::new(1);
        disk.set_now(TimeMicros(5_000_000));
        disk.advance(Duration::from_secs(1));
        assert_eq!((disk.now(), disk.monotonic()), (TimeMicros(6_000_000), Duration::from_secs(1)));
        disk.set_now(TimeMicros(-1));
        assert_eq!((disk.now(), disk.monotonic()), (TimeMicros(-1), Duration::from_secs(1)));
    }

    #[test]
    fn misuse_of_a_slot_panics() {
        let panics = |misuse: &dyn Fn(&SimDisk, &dyn Slot)| {
            let (disk, slot) = disk_with_slot(1);
            catch_unwind(AssertUnwindSafe(|| misuse(&disk, &*slot))).is_err()
        };
        assert!(!panics(&|_, slot| slot.submit(0, pages(1, 1), ignore())));
        assert!(panics(&|_, slot| {
            slot.submit(0, pages(1, 2), ignore());
            slot.submit(PAGE, pages(1, 1), ignore());
        }));
        assert!(panics(&|_, slot| {
            let _map = slot.map().unwrap();
            slot.submit(0, pages(1, 1), ignore());
        }));
        assert!(panics(&|disk, _| {
            let reader = disk.open_slot(SLOT, Access::Read).unwrap();
            reader.submit(0, pages(1, 1), ignore());
        }));
    }

    #[test]
    fn dead_process_can_do_nothing_and_harms_nothing() {
        let (dead, slot) = disk_with_slot(1);
        let map = slot.map().unwrap();
        let pinned = Arc::clone(&map).bytes(0, 10).unwrap();
        dead.crash(Crash::Power);
        let alive = dead.reboot();
        let alive_slot = alive.open_slot(SLOT, Access::Write).unwrap();
        assert!(dead.journal_folder().is_err() && slot.sync().is_err());
        let (ended, ends) = mpsc::channel();
        slot.submit(0, pages(9, 1), Box::new(move |result| ended.send(result).unwrap()));
        assert!(ends.recv().unwrap().is_err());
        drop((slot, map, pinned, dead));

        alive_slot.write(0, &pages(1, 1)).unwrap();
        let second = alive.open_slot(SLOT, Access::Write).err().unwrap();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock, "the dead took no lock with them");
        assert_eq!(sectors_of(&alive, 1), 8);
    }
}
