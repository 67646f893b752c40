//! What the twin knows of idempotent producers: every batch of theirs, in order.
//!
//! The rules are in [`producers`](crate::producers); each is followed by looking through the list.

use std::collections::BTreeMap;

use tracklog_protocol::batch::Produced;
use tracklog_protocol::{Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimeMicros};

use crate::producers::{BATCHES_REMEMBERED, PRODUCERS_MAX, SILENCE_MAX};
use crate::{AppendError, Item};

type Place = (PartitionId, ProducerId);

/// A batch that was stored, or is in flight.
struct Batch {
    produced: Produced,
    first: Offset,
    append_time: TimeMicros,
}

/// Every producer's batches in every partition, none of the lists empty.
#[derive(Default)]
pub(super) struct History(BTreeMap<Place, Vec<Batch>>);

impl History {
    /// The first offsets of an append that was stored before.
    pub(super) fn find(&self, items: &[Item<'_>], now: TimeMicros) -> Option<Vec<Offset>> {
        let offsets: Vec<_> = items
            .iter()
            .map(|item| self.find_one(item.partition(), &item.produced()?, now))
            .collect::<Option<_>>()?;
        (!offsets.is_empty()).then_some(offsets)
    }

    fn find_one(
        &self,
        partition: PartitionId,
        produced: &Produced,
        now: TimeMicros,
    ) -> Option<Offset> {
        let batches = self.known((partition, produced.id), now)?;
        if produced.epoch < last(batches).produced.epoch {
            return None;
        }
        let mut remembered = batches.iter().rev().take(BATCHES_REMEMBERED);
        let same = |it: &&Batch| {
            (it.produced.sequence, it.produced.next) == (produced.sequence, produced.next)
        };
        remembered.find(same).map(|batch| batch.first)
    }

    /// Whether each batch goes on where the one before it ends, within the append too.
    pub(super) fn check(&self, items: &[Item<'_>], now: TimeMicros) -> Result<(), AppendError> {
        let mut ahead: BTreeMap<Place, (ProducerEpoch, Sequence)> = BTreeMap::new();
        for (index, item) in items.iter().enumerate() {
            let Some(produced) = item.produced() else { continue };
            let place = (item.partition(), produced.id);
            let known = || self.known(place, now).map(|it| last(it).produced);
            let stands = ahead.get(&place).copied();
            let stands = stands.or_else(|| known().map(|it| (it.epoch, it.next)));
            let (current, expected) = stands.unwrap_or_default();
            if produced.epoch < current {
                return Err(AppendError::StaleProducer { item: index, current });
            }
            if produced.sequence != expected {
                return Err(AppendError::OutOfSequence { item: index, expected });
            }
            ahead.insert(place, (produced.epoch, produced.next));
        }
        Ok(())
    }

    /// Adds an append that was checked, and forgets whom it is time to forget.
    pub(super) fn add(&mut self, items: &[Item<'_>], offsets: &[Offset], append_time: TimeMicros) {
        let mut any = false;
        for (item, first) in items.iter().zip(offsets) {
            let Some(produced) = item.produced() else { continue };
            any = true;
            let place = (item.partition(), produced.id);
            if self.known(place, append_time).is_none() {
                self.0.remove(&place);
            }
            let batch = Batch { produced, first: *first, append_time };
            self.0.entry(place).or_default().push(batch);
        }
        if !any {
            return;
        }
        self.0.retain(|_, batches| !is_silent(batches, append_time));
        while self.0.len() > PRODUCERS_MAX {
            let oldest = self.0.iter().min_by_key(|(_, batches)| last(batches).append_time);
            let oldest = oldest.map(|(place, _)| *place).expect("there are many");
            self.0.remove(&oldest);
        }
    }

    /// Keeps the batches of which `keep`, asked for partition and first offset, says so.
    pub(super) fn retain(&mut self, keep: impl Fn(PartitionId, Offset) -> bool) {
        self.0.retain(|(partition, _), batches| {
            batches.retain(|batch| keep(*partition, batch.first));
            !batches.is_empty()
        });
    }

    fn known(&self, place: Place, now: TimeMicros) -> Option<&[Batch]> {
        let batches = self.0.get(&place)?;
        (!is_silent(batches, now)).then_some(batches)
    }
}

fn last(batches: &[Batch]) -> &Batch {
    batches.last().expect("no list is empty")
}

fn is_silent(batches: &[Batch], now: TimeMicros) -> bool {
    let silence = i128::from(now.0) - i128::from(last(batches).append_time.0);
    silence > SILENCE_MAX.as_micros().cast_signed()
}
