//! The simulated machine: files, writes in flight, planned faults, and what a crash makes of them.
//!
//! Promises
//! - Nothing outside is called or dropped while the machine is locked: what a completion holds may
//!   be a slot, which locks the machine when it goes. So ends are handed out as [`Landed`].
//! - All that chance decides is asked of one generator, in the order of the calls.
//!
//! Called by the views of its processes, in the file above.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tracklog_protocol::TimeMicros;

use super::chance::Chance;
use super::medium::{Content, Inode, SECTOR_BYTES, index, overlaps, size};
use super::{Crash, Lasting, Lying, OperationKind, SlotLock, Written};
use crate::disk::{FileName, PAGE_BYTES, SlotId, WriteDone};

const TRACE_LINES_MAX: usize = 4096;

/// The machine.
pub(super) struct World {
    /// Decides faults. Apart from `numbers`, so that a fault more does not change a salt.
    pub(super) faults: Chance,
    pub(super) numbers: Chance,
    pub(super) process: u64,
    pub(super) now: TimeMicros,
    pub(super) monotonic: Duration,
    pub(super) capacity: u64,
    pub(super) files: BTreeMap<FileName, Vec<u8>>,
    pub(super) slots: BTreeMap<SlotId, u64>,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) next_inode: u64,
    pub(super) flying: Vec<Flying>,
    pub(super) bad: Vec<BadSectors>,
    /// Places that cannot be written.
    pub(super) unwritable: Vec<(u64, Range<u64>)>,
    pub(super) planned: Vec<Plan>,
    pub(super) operations: u64,
    pub(super) auto: bool,
    pub(super) lying: Lying,
    pub(super) cached: bool,
    pub(super) forgetful: bool,
    /// How many reads there are before the one that is stale.
    pub(super) stale_read: Option<u64>,
    /// What was made and is not in its folder for certain.
    pub(super) unnamed: Vec<Name>,
    /// What files were that may be so again when the power fails.
    pub(super) files_before: BTreeMap<FileName, Option<Vec<u8>>>,
    pub(super) off: Option<Crash>,
    pub(super) written: Written,
    pub(super) trace: VecDeque<String>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    Crash(Crash),
    Error(io::ErrorKind),
    /// A write lands elsewhere.
    Misdirect,
}

/// A name in a folder.
pub(super) enum Name {
    File(FileName),
    Slot(SlotId),
}

#[derive(Clone, Copy)]
pub(super) enum When {
    Number(u64),
    Kind(OperationKind),
}

pub(super) struct Plan {
    pub(super) when: When,
    pub(super) fault: Fault,
    pub(super) lasting: Lasting,
}

/// A write on its way. Without `done` it is a killed process's.
pub(super) struct Flying {
    pub(super) inode: u64,
    pub(super) at: u64,
    /// Where it lands instead.
    pub(super) astray: Option<u64>,
    pub(super) pages: Bytes,
    pub(super) done: Option<WriteDone>,
    pub(super) lock: Option<Arc<SlotLock>>,
}

impl Flying {
    pub(super) fn end(&self) -> u64 {
        self.at + size(self.pages.len())
    }
}

/// The end of a write, to be told when the machine is no longer locked.
pub(super) struct Landed {
    pub(super) done: Option<WriteDone>,
    /// None when nobody hears of it: its process is gone.
    pub(super) result: Option<io::Result<()>>,
    /// Released before `done` is called, so that the slot can be opened again from there.
    pub(super) lock: Option<Arc<SlotLock>>,
}

impl Landed {
    pub(super) fn finish(self) {
        drop(self.lock);
        if let (Some(done), Some(result)) = (self.done, self.result) {
            done(result);
        }
    }
}

/// A part of an inode that cannot be read.
pub(super) struct BadSectors {
    pub(super) inode: u64,
    pub(super) range: Range<u64>,
    /// So many reads of it fail, and no more.
    pub(super) failures: Cell<u64>,
}

impl BadSectors {
    fn refuse(&self, inode: u64, range: &Range<u64>) -> bool {
        let failures = self.failures.get();
        let refuses = self.inode == inode && overlaps(&self.range, range) && failures > 0;
        self.failures.set(failures - u64::from(refuses));
        refuses
    }
}

impl World {
    pub(super) fn alive(&self, process: u64) -> io::Result<()> {
        if self.off.is_some() || self.process != process {
            return Err(switched_off());
        }
        Ok(())
    }

    pub(super) fn note(&mut self, line: String) {
        if self.trace.len() == TRACE_LINES_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// Counts a write right behind the header page of a slot that has a commit there already.
    /// Whether this is the place.
    pub(super) fn note_first_commit(&mut self, inode: u64, at: u64) -> bool {
        if index(at) != PAGE_BYTES {
            return false;
        }
        let mut there = [0; SECTOR_BYTES];
        self.inode(inode).content.read(PAGE_BYTES, &mut there);
        self.written.slots_used_again += u64::from(there != [0; SECTOR_BYTES]);
        true
    }

    pub(super) fn take_fault(&mut self, kind: OperationKind) -> Option<Fault> {
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

    pub(super) fn inode(&self, inode: u64) -> &Inode {
        &self.inodes[&inode]
    }

    pub(super) fn inode_mut(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("an inode lives while something refers to it")
    }

    pub(super) fn link(&mut self, slot: SlotId, content: Content) {
        let number = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(number, Inode::new(content));
        self.slots.insert(slot, number);
    }

    pub(super) fn unlink(&mut self, slot: SlotId) -> bool {
        let Some(inode) = self.slots.remove(&slot) else { return false };
        self.inode_mut(inode).linked = false;
        self.forget_if_unused(inode);
        true
    }

    /// A file whose last name and last user are gone is gone.
    pub(super) fn forget_if_unused(&mut self, inode: u64) {
        let flying = self.flying.iter().any(|write| write.inode == inode);
        let Inode { linked, handles, maps, .. } = *self.inode(inode);
        if !linked && handles == 0 && maps == 0 && !flying {
            self.inodes.remove(&inode);
        }
    }

    pub(super) fn used(&self) -> u64 {
        let files: usize = self.files.values().map(Vec::len).sum();
        size(files) + self.inodes.values().map(Inode::bytes).sum::<u64>()
    }

    /// Room for `bytes` where `replaced` bytes go.
    pub(super) fn claim(&self, bytes: u64, replaced: u64) -> io::Result<()> {
        if self.used() - replaced + bytes > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    pub(super) fn slot_bytes(&self, slot: SlotId) -> u64 {
        self.slots.get(&slot).map_or(0, |inode| self.inode(*inode).bytes())
    }

    pub(super) fn create_slot(&mut self, slot: SlotId, bytes: u64) -> io::Result<()> {
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
            None => {
                self.link(slot, Content::zeros(bytes));
                if self.forgetful {
                    self.unnamed.push(Name::Slot(slot));
                }
            }
        }
        Ok(())
    }

    pub(super) fn create_slot_partly(&mut self, slot: SlotId, bytes: u64) {
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

    /// Replaces a file as a whole.
    pub(super) fn insert_file(&mut self, name: FileName, bytes: Vec<u8>) {
        let before = self.files.insert(name.clone(), bytes);
        if before.is_none() && self.forgetful {
            self.unnamed.push(Name::File(name.clone()));
        }
        if self.lying == Lying::All {
            self.files_before.entry(name).or_insert(before);
        } else {
            self.files_before.remove(&name);
        }
    }

    pub(super) fn write_file_partly(&mut self, name: &FileName, bytes: &[u8]) {
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
    /// A page cache shows all of them.
    pub(super) fn write_partly(&mut self, inode: u64, at: u64, pages: &[u8]) {
        let landing = self.faults.sectors(pages.len() / SECTOR_BYTES);
        let cached = self.cached;
        let inode = self.inode_mut(inode);
        for (number, sector) in pages.chunks(SECTOR_BYTES).enumerate() {
            let at = at + size(number * SECTOR_BYTES);
            if landing[number] {
                inode.write_visibly(at, sector);
            } else if cached {
                inode.write_to_cache(at, sector);
            }
        }
    }

    /// A sync that fails: what was not durable is dropped, or not, and forgotten to be dirty.
    pub(super) fn fail_sync(&mut self, inode: u64) {
        let dirty = std::mem::take(&mut self.inode_mut(inode).before_sync);
        for (sector, before) in dirty {
            if !self.faults.coin() {
                continue;
            }
            let cached = self.cached;
            let inode = self.inode_mut(inode);
            if cached {
                inode.under_cache.entry(sector).or_insert(before);
            } else {
                inode.content.write(index(sector), &before);
            }
        }
    }

    pub(super) fn read(&self, inode: u64, at: u64, into: &mut [u8]) -> io::Result<()> {
        let content = &self.inode(inode).content;
        let range = at..at.saturating_add(size(into.len()));
        if range.end > content.bytes() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if self.bad.iter().any(|bad| bad.refuse(inode, &range)) {
            return Err(io::Error::other(format!("a bad sector within {range:?}")));
        }
        content.read(index(at), into);
        Ok(())
    }

    /// Whether this read is the one that is to be stale.
    pub(super) fn is_stale(&mut self) -> bool {
        let nth = self.stale_read.take();
        self.stale_read = nth.and_then(|nth| nth.checked_sub(1));
        nth == Some(0)
    }

    /// What was there before the last write of each page.
    pub(super) fn read_stale(&self, inode: u64, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.read(inode, at, into)?;
        let content = &self.inode(inode).content;
        for (number, page) in into.chunks_mut(PAGE_BYTES).enumerate() {
            if let Some(older) = content.older.get(&(index(at) / PAGE_BYTES + number)) {
                page.copy_from_slice(&older[..page.len()]);
            }
        }
        Ok(())
    }

    /// A write in flight reaches the medium.
    pub(super) fn land(&mut self, flying: usize) -> Landed {
        let write = self.flying.remove(flying);
        let at = write.astray.unwrap_or(write.at);
        let durable = write.done.is_some() && self.lying == Lying::Never;
        let inode = self.inode_mut(write.inode);
        inode.content.keep_older(index(at), write.pages.len());
        if durable {
            inode.write_durably(at, &write.pages);
        } else {
            inode.write_visibly(at, &write.pages);
        }
        self.note(format!("landed: {} bytes at {at}", write.pages.len()));
        self.landed(write, Ok(()))
    }

    /// A write in flight fails, or the power does.
    pub(super) fn land_partly(&mut self, flying: usize, error: io::Error) -> Landed {
        let write = self.flying.remove(flying);
        self.write_partly(write.inode, write.at, &write.pages);
        self.landed(write, Err(error))
    }

    pub(super) fn landed(&mut self, write: Flying, result: io::Result<()>) -> Landed {
        let late = self.flying.iter().any(|other| other.inode == write.inode && other.late());
        let killed = write.late();
        let inode = self.inode_mut(write.inode);
        if killed && !late {
            inode.locked = false;
        }
        self.forget_if_unused(write.inode);
        Landed { done: write.done, result: Some(result), lock: write.lock }
    }

    /// Lands a write that a killed process left behind; whether there was one.
    pub(super) fn land_late(&mut self, inode: u64) -> bool {
        let late = |write: &Flying| write.inode == inode && write.late();
        let Some(first) = self.flying.iter().position(late) else { return false };
        let landed = self.land(first);
        debug_assert!(landed.done.is_none() && landed.lock.is_none());
        true
    }

    pub(super) fn crash(&mut self, crash: Crash) -> Vec<Landed> {
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
            self.forget_names();
            self.put_files_back();
        } else {
            for write in &mut self.flying {
                let (done, lock) = (write.done.take(), write.lock.take());
                ended.push(Landed { done, result: Some(Err(switched_off())), lock });
            }
        }
        self.end_process();
        if !self.auto {
            ended.iter_mut().for_each(|landed| landed.result = None);
        }
        ended
    }

    /// What a process held is released, but for the locks of what it left in flight.
    pub(super) fn end_process(&mut self) {
        let flying: Vec<u64> = self.flying.iter().map(|write| write.inode).collect();
        for (number, inode) in &mut self.inodes {
            inode.maps = 0;
            inode.handles = 0;
            inode.locked = flying.contains(number);
        }
        self.inodes.retain(|number, inode| inode.linked || flying.contains(number));
    }

    pub(super) fn lose_unsynced(&mut self) {
        for inode in self.inodes.values_mut() {
            for (sector, before) in std::mem::take(&mut inode.before_sync) {
                if self.faults.coin() {
                    inode.content.write(index(sector), &before);
                }
            }
            inode.drop_cache();
        }
    }

    /// Files that were not made durable are what they were, or not.
    fn put_files_back(&mut self) {
        for (name, before) in std::mem::take(&mut self.files_before) {
            if self.faults.coin() {
                continue;
            }
            match before {
                Some(before) => drop(self.files.insert(name, before)),
                None => drop(self.files.remove(&name)),
            }
        }
    }

    /// Names that were not made durable are gone, or not.
    fn forget_names(&mut self) {
        for name in std::mem::take(&mut self.unnamed) {
            if self.faults.coin() {
                continue;
            }
            match name {
                Name::File(name) => drop(self.files.remove(&name)),
                Name::Slot(slot) => drop(self.unlink(slot)),
            }
        }
    }
}

impl Flying {
    /// Whether it is a killed process's.
    pub(super) const fn late(&self) -> bool {
        self.done.is_none()
    }
}

/// The operation ends as `fault` says.
pub(super) fn suffer(mut world: MutexGuard<'_, World>, fault: Fault) -> io::Error {
    match fault {
        Fault::Error(kind) => kind.into(),
        Fault::Misdirect => unreachable!("a write that goes astray does not fail"),
        Fault::Crash(crash) => {
            let ended = world.crash(crash);
            drop(world);
            ended.into_iter().for_each(Landed::finish);
            switched_off()
        }
    }
}

pub(super) fn switched_off() -> io::Error {
    io::Error::other("the simulated machine is off")
}
