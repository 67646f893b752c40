//! Carrying out what is to be erased, a step at a turn of the settler:
//!
//! 1. The journal goes on in a segment that began in a slot of zeros: what it held before is full.
//! 2. All of that is settled, whatever is to stay hot. What is to be erased goes into no pack.
//! 3. Each pack that still holds some is written anew, alone.
//! 4. When nothing listed holds any, the keeper writes both checkpoints, removes what nothing names,
//!    empties `cut/` and fills spare slots with zeros.
//! 5. The request is struck off the catalog: who asked is told.
//!
//! Promises
//! - A request is struck off only when every pack that may hold some of it was read since, and held
//!   none. So nothing needs to be remembered but the request: after a crash it all begins again.
//! - What cannot be read now, or has no room, waits and is tried again; it is never called done.

use std::collections::BTreeSet;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tracklog_log::{Append, AppendError, Condition, Item};
use tracklog_protocol::{KeyValue, Offset, PartitionId};

use super::{FRAMES_BYTES, Failure, Part, Settler, Source};
use crate::catalog;
use crate::disk::PackId;
use crate::intake_client::IntakeClient;
use crate::journal::commit::SegmentNumber;
use crate::journal::intake::Input;
use crate::partition::places::{Home, Index, Place};
use crate::settled::erasure::{Doomed, Erasures};
use crate::settled::frames::Frames;
use crate::settled::pack::PackIndex;

/// How long to wait before spare files that could not be wiped are tried again.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// An erasure on its way.
pub(super) struct Erasing {
    erasures: Erasures,
    /// The segment that was written when it began: the records lie there or before.
    began_in: SegmentNumber,
    /// Packs that were read and hold none.
    clean: BTreeSet<PackId>,
    /// When spare files may be wiped again.
    wipe_at: Duration,
    /// It is struck off, and the catalog does not say so yet.
    is_done: bool,
}

/// What came of a step.
enum Step {
    /// Something was done, or asked for: the next turn goes on.
    Went,
    /// The next step's turn.
    Nothing,
    /// It has to wait. Why, in words.
    Waits(String),
}

impl Settler {
    /// Does a step of what is to be erased. Says whether there was one to do.
    pub(super) fn erase(&mut self) -> bool {
        let answer = self.settling.state.lock().wiped.take();
        if !self.begin_erasing() {
            return false;
        }
        let step = self.erase_step(answer).unwrap_or_else(|why| Step::Waits(why.to_string()));
        let (went, waits) = match step {
            Step::Went => (true, None),
            Step::Nothing => (false, None),
            Step::Waits(why) => {
                tracing::info!("erasing waits: {why}");
                (false, Some(why))
            }
        };
        self.settling.state.lock().erasing_waits = waits;
        went
    }

    /// Takes up what the catalog says. False where nothing is to be erased.
    fn begin_erasing(&mut self) -> bool {
        let erasures = self.erasures();
        let mut state = self.settling.state.lock();
        state.is_erasing = !erasures.is_empty();
        if erasures.is_empty() {
            state.erasing_waits = None;
            self.erasing = None;
            return false;
        }
        drop(state);
        if self.erasing.as_ref().is_some_and(|erasing| erasing.erasures == erasures) {
            return true;
        }
        let Some(began_in) = self.published.places.read().active() else { return false };
        tracing::info!(stretches = erasures.stretch_count(), "erasing");
        let (clean, wipe_at, is_done) = (BTreeSet::new(), Duration::ZERO, false);
        self.erasing = Some(Erasing { erasures, began_in, clean, wipe_at, is_done });
        true
    }

    fn erase_step(&mut self, answer: Option<Result<(), String>>) -> Result<Step, Failure> {
        let erasing = self.erasing.as_ref().expect("it was just begun");
        if erasing.is_done {
            return Ok(Step::Nothing);
        }
        let (began_in, active) = (erasing.began_in, self.published.places.read().active());
        let Some(active) = active else { return Ok(Step::Nothing) };
        let is_rolled = self.roll(began_in, active);
        match self.settle_before(active)? {
            // It is the journal's turn.
            Step::Nothing if !is_rolled => return Ok(Step::Went),
            Step::Nothing => {}
            step => return Ok(step),
        }
        match self.rewrite()? {
            Step::Nothing => {}
            step => return Ok(step),
        }
        self.published.tail.write().forget_before(active);
        match answer {
            Some(Ok(())) => {
                self.strike_off();
                return Ok(Step::Went);
            }
            Some(Err(why)) => {
                let wipe_at = self.disk.monotonic() + TRY_AGAIN;
                self.erasing.as_mut().expect("it is on its way").wipe_at = wipe_at;
                return Ok(Step::Waits(why));
            }
            None => {}
        }
        if self.disk.monotonic() < self.erasing.as_ref().expect("it is on its way").wipe_at {
            let why = self.settling.erasing().1;
            return Ok(why.map_or(Step::Nothing, Step::Waits));
        }
        // Nothing is made until it is answered, so that no file is unnamed that is to be named.
        self.settling.state.lock().is_pending = true;
        self.client.driver.push(Input::Erased);
        Ok(Step::Went)
    }

    /// Whether the segment being written is one behind `began_in` that began empty. Else asks for
    /// the next.
    fn roll(&self, began_in: SegmentNumber, active: SegmentNumber) -> bool {
        let is_empty = self.settling.state.lock().began_empty.contains(&active);
        let is_rolled = active > began_in && is_empty;
        if !is_rolled {
            self.client.driver.push(Input::Roll(active));
        }
        is_rolled
    }

    /// Settles what is full before the segment `active`.
    fn settle_before(&mut self, active: SegmentNumber) -> Result<Step, Failure> {
        let full = self.published.places.read().settleable();
        let before = full.iter().filter(|unread| unread.home.number() < active).count();
        let Some(oldest) = full.first().filter(|_| before > 0) else { return Ok(Step::Nothing) };
        let stretch = self.full_segments(|_| before)?;
        let what = oldest.home;
        let stretch = stretch.ok_or_else(|| Failure::Other(format!("{what} cannot be read")))?;
        let is_made = self.settle_stretch(&stretch);
        Ok(if is_made { Step::Went } else { Step::Waits(format!("{what} cannot be settled")) })
    }

    /// Writes the first pack anew that holds some of what is to be erased.
    fn rewrite(&mut self) -> Result<Step, Failure> {
        let packs = self.published.places.read().settled();
        for (unread, head) in packs {
            let erasing = self.erasing.as_ref().expect("it is on its way");
            if erasing.clean.contains(&head.id) {
                continue;
            }
            let Some(index) = self.pack_index(unread) else {
                return Ok(Step::Waits(format!("{} cannot be read", head.id)));
            };
            if !self.holds_some(unread.home, &index, &erasing.erasures)? {
                self.erasing.as_mut().expect("it is on its way").clean.insert(head.id);
                continue;
            }
            let bytes = 2 * head.file_bytes + self.options.slot_bytes;
            let Some(stretch) = self.stretch_of(&[(unread, head)], bytes)? else {
                return Ok(Step::Waits(format!("no room to write {} anew", head.id)));
            };
            let is_made = self.settle_stretch(&stretch);
            let waits = || Step::Waits(format!("{} cannot be written anew", head.id));
            return Ok(if is_made { Step::Went } else { waits() });
        }
        Ok(Step::Nothing)
    }

    /// Whether a pack holds something that is to go: read, not guessed.
    fn holds_some(
        &self,
        home: Home,
        index: &Arc<PackIndex>,
        erasures: &Erasures,
    ) -> Result<bool, Failure> {
        let source = Source { home, index: Index::Pack(Arc::clone(index)) };
        let frames = self.reader.frames_apart(FRAMES_BYTES);
        for share in &index.shares {
            let Some(extent) = self.extent(share.partition) else { return Ok(true) };
            let doomed = erasures.of_partition(share.partition, extent.start);
            let ends = share.places.iter().skip(1).map(|next| next.base_offset).chain([share.end]);
            for (place, end) in share.places.iter().zip(ends) {
                if self.settling.is_stopped() {
                    return Err(Failure::Stopped);
                }
                let at = (share.partition, place, end);
                let may_hold = doomed.meets(place.base_offset, end);
                if may_hold && self.place_holds(&source, at, &doomed, &frames)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn place_holds(
        &self,
        source: &Source,
        (partition, place, end): (PartitionId, &Place, Offset),
        doomed: &Doomed,
        frames: &Frames,
    ) -> Result<bool, Failure> {
        let part = Part { source, partition, places: slice::from_ref(place), end };
        for batch in part.read(&self.reader, frames).map_err(Failure::Other)? {
            // What is damaged cannot be told: it is written anew, and left out.
            let Ok(batch) = batch else { return Ok(true) };
            if batch.records().any(|(offset, _)| doomed.contains(offset)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Says in the catalog that it is done.
    fn strike_off(&mut self) {
        let erasing = self.erasing.as_mut().expect("it is on its way");
        erasing.is_done = true;
        tracing::info!(stretches = erasing.erasures.stretch_count(), "erased");
        for (key, offset) in erasing.erasures.keys() {
            if let Err(error) = strike(&self.client, key, *offset) {
                tracing::warn!("what is erased is not struck off: {error}");
                erasing.is_done = false;
                return;
            }
        }
        self.client.driver.look();
    }
}

fn strike(client: &IntakeClient, key: &Bytes, last: Offset) -> Result<(), AppendError> {
    let mut buffer = Vec::new();
    let record = KeyValue { key, value: None }.encode(&mut buffer);
    let items = [Item::Record { partition: catalog::PARTITION, record }];
    let (key, last) = (key.to_vec(), Some(last));
    let conditions = [Condition::LastOfKey { partition: catalog::PARTITION, key, last }];
    client.append_ahead(Append { conditions: &conditions, items: &items })
}
