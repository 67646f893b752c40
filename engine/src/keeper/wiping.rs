//! Wiping: what is to be erased must not stay in files that nothing names.
//!
//! Comes when nothing that is listed holds any of it, both checkpoints are written and what they no
//! longer name is freed. Nobody makes a pack meanwhile: the settler waits for the answer.

use std::collections::BTreeSet;
use std::io;

use super::{Keeper, absent_is_fine};
use crate::disk::{FileName, PackId, SlotId};
use crate::open::cut_run;

impl Keeper {
    /// Wipes spare files where that is asked for, and answers.
    pub(super) fn wipe_if_asked(&mut self) {
        if std::mem::take(&mut self.to_wipe) {
            let wiped = self.wipe().map_err(|error| format!("spare files stay: {error}"));
            self.settling.wiped(wiped);
        }
    }

    fn wipe(&mut self) -> io::Result<()> {
        self.remove_stray_packs()?;
        for (name, _) in self.disk.cut_folder()? {
            // What the log did not name is not the log's to remove.
            if cut_run(&name).is_some() {
                self.disk.remove_file(&FileName::Cut(name))?;
            }
        }
        self.empty_spare_slots()
    }

    fn remove_stray_packs(&self) -> io::Result<()> {
        let listed = self.client.published.places.read().packs();
        let listed: BTreeSet<PackId> = listed.iter().map(|head| head.id).collect();
        for (pack, _) in self.disk.packs_folder()? {
            if !listed.contains(&pack) {
                self.disk.remove_file(&FileName::Pack(pack))?;
            }
        }
        Ok(())
    }

    /// Fills spare slots with zeros, and removes those that are neither spare nor in use, and index
    /// files of segments that are gone.
    fn empty_spare_slots(&mut self) -> io::Result<()> {
        let segments = self.client.published.places.read().segment_ids();
        let active = segments.last().map(|id| id.number);
        self.prepared.retain(|segment, _| Some(*segment) > active);
        let folder = self.disk.journal_folder()?;
        for index in folder.indexes {
            if !segments.iter().any(|id| id.number.0 == index) {
                self.disk.remove_file(&FileName::Index(index))?;
            }
        }
        let in_use = segments.iter().map(|id| id.slot).chain(self.prepared.values().copied());
        let in_use: BTreeSet<SlotId> = in_use.collect();
        for (slot, _) in folder.slots {
            if self.free.contains(&slot) {
                self.empty(slot)?;
            } else if !in_use.contains(&slot) {
                self.disk.remove_slot(slot).or_else(absent_is_fine)?;
                // One that could be neither written nor removed before.
                self.slots = self.slots.saturating_sub(1);
                self.spoiled = self.spoiled.saturating_sub(1);
            }
        }
        Ok(())
    }

    /// Fills a spare slot with zeros, unless it is known to be.
    pub(super) fn empty(&mut self, slot: SlotId) -> io::Result<()> {
        if !self.empty.contains(&slot) {
            self.fill(slot)?;
            self.empty.insert(slot);
        }
        Ok(())
    }
}
