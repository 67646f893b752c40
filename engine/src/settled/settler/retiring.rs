//! Taking out packs of which nobody can read anything any more.
//!
//! Without a checkpoint packs and journal have to add up to all commits, but for what a pack says was
//! given up when it was made. A pack that simply went would be missing until the next one is made. So
//!
//! 1. A spent pack is written anew, alone: of all that was in it only the footer is left.
//! 2. The next pack that is made behind it does not list it: it says that it is gone.
//! 3. When that one is in use, the empty one is taken out. Its file goes when no checkpoint names it.
//!
//! Promises
//! - What is taken out is told by a pack that is in use, and stands for its commits until then.
//! - A spent pack for which there is no room to be written anew is taken out at once: room goes first.
//!
//! Called by the settler, at its turn.

use super::{Failure, Settler};
use crate::disk::PackId;
use crate::journal::intake::Input;

/// What the last pack that was made says of those before it.
#[derive(Debug)]
pub(super) struct Told {
    by: PackId,
    /// Nothing lay in these.
    empty: Vec<PackId>,
}

impl Settler {
    /// Goes a step on with a pack of which nobody can read anything. Says whether there was one.
    pub(super) fn take_out_spent(&mut self) -> bool {
        if let Some(pack) = self.told_empty() {
            self.retire(pack);
            return true;
        }
        match self.empty_a_spent_one() {
            Ok(is_there) => is_there,
            Err(why) => {
                tracing::warn!("cannot tell what is spent: {why}");
                false
            }
        }
    }

    /// Notes what a pack that was just made says of those before it.
    pub(super) fn note_told(&mut self, by: PackId) {
        self.told = Some(Told { by, empty: self.empty_before(by) });
    }

    /// The packs before this one in which nothing lies.
    pub(super) fn empty_before(&self, pack: PackId) -> Vec<PackId> {
        let heads = self.published.places.read().packs();
        let empty = heads.into_iter().filter(|head| head.batches == 0 && head.id.last < pack.first);
        empty.map(|head| head.id).collect()
    }

    /// The first pack that is empty, and told to be gone by one that is in use.
    fn told_empty(&self) -> Option<PackId> {
        let places = self.published.places.read();
        let told = self.told.as_ref().filter(|told| places.has_pack(told.by))?;
        told.empty.iter().copied().find(|pack| places.has_pack(*pack))
    }

    /// Writes the first spent pack anew, or else takes it out. Says whether one of both was done: what
    /// else there is to do does not wait for a pack that can be neither.
    fn empty_a_spent_one(&mut self) -> Result<bool, Failure> {
        let packs = self.published.places.read().settled();
        let spent = packs
            .into_iter()
            .find(|(unread, head)| head.batches > 0 && self.expired_percent(*unread) == Some(100));
        let Some(spent) = spent else { return Ok(false) };
        let pack = spent.1.id;
        let is_written = match self.stretch_of(&[spent], 0)? {
            Some(stretch) => self.settle_stretch(&stretch),
            None => false,
        };
        if is_written {
            return Ok(true);
        }
        // Until something lies behind it, the last pack alone shows where the run ended.
        let may_go = !self.settling.is_stopped() && self.published.places.read().is_begun();
        if may_go {
            self.retire(pack);
        }
        Ok(may_go)
    }

    fn retire(&self, pack: PackId) {
        self.settling.state.lock().is_pending = true;
        tracing::info!(%pack, "expired");
        self.client.driver.push(Input::Retired(pack));
    }
}
