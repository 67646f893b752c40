//! What a log's folder holds: its checkpoints, the headers of its slots, and which files there are.
//! Nothing is judged yet.

use std::collections::{BTreeMap, BTreeSet};

use super::Note;
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::disk::{Access, Disk, FileName, PAGE_BYTES, PackId, PageBuffer, SlotId};
use crate::error::OpenError;
use crate::journal::commit::{CommitHeader, CommitKind, Opened, control_body};
use crate::journal::segment::{SlotHeader, SlotPage};

/// What the folder holds, before any of it is judged.
pub(super) struct Inventory {
    pub(super) checkpoint: Option<Checkpoint>,
    /// The other one, where it is valid too.
    pub(super) older: Option<Checkpoint>,
    /// Slots that a valid checkpoint names, the older one too.
    pub(super) named: BTreeSet<SlotId>,
    pub(super) sequence: u64,
    /// All slots there are, with their sizes.
    pub(super) slots: BTreeMap<SlotId, u64>,
    pub(super) headers: BTreeMap<SlotId, SlotHeader>,
    pub(super) blank: Vec<SlotId>,
    pub(super) bad: Vec<SlotId>,
    /// All files of packs.
    pub(super) packs: Vec<PackId>,
    pub(super) notes: Vec<Note>,
}

/// `None` where nothing shows that there was a log.
pub(super) fn take_inventory(disk: &dyn Disk) -> Result<Option<Inventory>, OpenError> {
    let mut notes = Vec::new();
    let mut checkpoints = Vec::new();
    for file in [FileName::CheckpointA, FileName::CheckpointB] {
        checkpoints.extend(load_checkpoint(disk, &file, &mut notes)?);
    }
    checkpoints.sort_by_key(|checkpoint| checkpoint.sequence);
    let named = checkpoints.iter().flat_map(|checkpoint| &checkpoint.slots);
    let named = named.map(|id| id.slot).collect();
    let checkpoint = checkpoints.pop();
    let folder = disk.journal_folder().map_err(OpenError::io("list the journal"))?;
    let packs = disk.packs_folder().map_err(OpenError::io("list the packs"))?;
    let mut inventory = Inventory {
        sequence: checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.sequence),
        checkpoint,
        older: checkpoints.pop(),
        named,
        slots: folder.slots.iter().copied().collect(),
        headers: BTreeMap::new(),
        blank: Vec::new(),
        bad: Vec::new(),
        packs: packs.into_iter().map(|(pack, _)| pack).collect(),
        notes,
    };
    for (slot, bytes) in folder.slots {
        match read_slot_page(disk, slot, bytes)? {
            SlotPage::Blank => inventory.blank.push(slot),
            SlotPage::Bad => inventory.bad.push(slot),
            SlotPage::OtherVersion(_) => {
                return Err(OpenError::NewerFormat { file: slot.to_string() });
            }
            SlotPage::Header(header) => {
                inventory.headers.insert(slot, header);
            }
        }
    }
    let empty = inventory.checkpoint.is_none()
        && inventory.headers.is_empty()
        && inventory.packs.is_empty();
    if empty && never_used(disk, &inventory)? {
        return Ok(None);
    }
    Ok(Some(inventory))
}

/// Whether the slots, none of which has a good header, never held a commit: a log whose making
/// was interrupted.
fn never_used(disk: &dyn Disk, inventory: &Inventory) -> Result<bool, OpenError> {
    let whole = |slot: &&SlotId| inventory.slots[*slot] >= 2 * PAGE_BYTES as u64;
    for slot in inventory.bad.iter().chain(&inventory.blank).filter(whole) {
        let first = read_pages(disk, *slot, PAGE_BYTES as u64)?;
        let Some(first) = first else { return Ok(false) };
        if first.iter().all(|byte| *byte == 0) {
            continue;
        }
        // Crashes before the first checkpoint leave an `opened` at most, of which the header may be
        // torn by the next making.
        let next_at = 2 * PAGE_BYTES as u64;
        let is_last = inventory.slots[slot] < next_at + PAGE_BYTES as u64;
        let next = if is_last { None } else { read_pages(disk, *slot, next_at)? };
        let alone = next.is_some_and(|page| page.iter().all(|byte| *byte == 0));
        if !(alone && opens_an_empty_log(&first)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the page may be the `opened` of a run that stands on no data at all: whole, or torn.
fn opens_an_empty_log(page: &[u8]) -> bool {
    let Ok(header) = CommitHeader::decode(page) else { return true };
    let opened = control_body(&header, page).and_then(Opened::decode);
    header.kind == CommitKind::Opened && opened.is_none_or(|opened| opened.base.is_none())
}

fn load_checkpoint(
    disk: &dyn Disk,
    file: &FileName,
    notes: &mut Vec<Note>,
) -> Result<Option<Checkpoint>, OpenError> {
    let bytes = match disk.read_file(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        // A checkpoint that cannot be read is as good as a rotten one.
        Err(_) => Vec::new(),
    };
    match Checkpoint::decode(&bytes) {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        Err(CheckpointError::Newer) => Err(OpenError::NewerFormat { file: file.path() }),
        Err(CheckpointError::Bad) => {
            notes.push(Note::Checkpoint { file: file.path() });
            Ok(None)
        }
    }
}

/// The first page of a slot. A file too short to be a slot, from a crash while it was made,
/// counts as blank: it will be filled again.
fn read_slot_page(disk: &dyn Disk, slot: SlotId, bytes: u64) -> Result<SlotPage, OpenError> {
    if bytes < 2 * PAGE_BYTES as u64 {
        return Ok(SlotPage::Blank);
    }
    let page = read_pages(disk, slot, 0)?;
    Ok(page.map_or(SlotPage::Bad, |page| SlotPage::decode(&page, slot)))
}

/// A page of a slot; `None` when the disk does not give it.
fn read_pages(disk: &dyn Disk, slot: SlotId, at: u64) -> Result<Option<PageBuffer>, OpenError> {
    let open = disk.open_slot(slot, Access::Read);
    let slot = open.map_err(OpenError::io(format!("open {slot}")))?;
    let mut page = PageBuffer::zeroed(PAGE_BYTES);
    Ok(slot.read(at, &mut page).is_ok().then_some(page))
}
