//! Idempotent producers: where each one stands in each partition that it writes to.
//!
//! The rules are those of [`tracklog_log::producers`]. This is a function of the log: the same
//! commits, told in order, add up to the same [`Producers`], in the appender, behind what is
//! published, and at recovery, whether a checkpoint shortens the way or not. That is why
//! - only what commits hold changes anything: no clock does, and no batch that was refused;
//! - who has to be forgotten is decided at the end of a commit ([`Producers::end_commit`]), by its
//!   append time, and in the order of its directory.
//!
//! A batch costs one look-up and a few words; all that is kept is bounded. Batches without a
//! producer do not come here. Called by the stamper (the state as stamped), the journal (the
//! state as published, which goes into checkpoints) and recovery.

use foldhash::HashMap;
use tracklog_log::AppendError;
use tracklog_log::producers::{BATCHES_REMEMBERED, PRODUCERS_MAX, SILENCE_MAX};
use tracklog_protocol::batch::Produced;
use tracklog_protocol::{
    Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, TimeMicros, TopicId,
};

use crate::fields::{Fields, FieldsMut};

/// A producer in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) partition: PartitionId,
    pub(crate) id: ProducerId,
}

/// A batch that would be known again: it ends where the next one begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Remembered {
    sequence: Sequence,
    first: Offset,
}

/// Where a producer stands in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) place: Place,
    epoch: ProducerEpoch,
    next: Sequence,
    /// Of the last batch.
    append_time: TimeMicros,
    /// The last batches, the newest first.
    batches: [Remembered; BATCHES_REMEMBERED],
    count: u8,
}

/// What a producer's next batch in a partition must say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Expected {
    epoch: ProducerEpoch,
    next: Sequence,
}

impl Expected {
    /// Whether `produced`, item `item` of its append, comes next; and what comes after it.
    pub(crate) fn follow(self, produced: &Produced, item: usize) -> Result<Self, AppendError> {
        if produced.epoch < self.epoch {
            return Err(AppendError::StaleProducer { item, current: self.epoch });
        }
        if produced.sequence != self.next {
            return Err(AppendError::OutOfSequence { item, expected: self.next });
        }
        Ok(Self { epoch: produced.epoch, next: produced.next })
    }
}

/// No entry: an end of the list.
const NONE: u32 = u32::MAX;

/// A place in the list of all, in the order in which they wrote last.
#[derive(Clone, Debug)]
struct Entry {
    standing: Standing,
    older: u32,
    newer: u32,
}

/// Where all producers stand.
#[derive(Clone, Debug)]
pub(crate) struct Producers {
    index: HashMap<Place, u32>,
    entries: Vec<Entry>,
    unused: Vec<u32>,
    oldest: u32,
    newest: u32,
    places_max: usize,
}

impl Default for Producers {
    fn default() -> Self {
        Self::with_places_max(PRODUCERS_MAX)
    }
}

/// The same producers in the same order, wherever they lie.
impl PartialEq for Producers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Producers {}

impl Producers {
    fn with_places_max(places_max: usize) -> Self {
        Self {
            index: HashMap::default(),
            entries: Vec::new(),
            unused: Vec::new(),
            oldest: NONE,
            newest: NONE,
            places_max,
        }
    }

    /// The first offset of a batch that was stored before, if it is known again at `now`, the
    /// append time of the commit that it would lie in.
    pub(crate) fn find(
        &self,
        partition: PartitionId,
        produced: &Produced,
        now: TimeMicros,
    ) -> Option<Offset> {
        let standing = self.standing(Place { partition, id: produced.id }, now)?;
        (produced.epoch >= standing.epoch).then(|| standing.find(produced)).flatten()
    }

    /// What must come next from a producer: of one that is not known, its first batch.
    pub(crate) fn expected(&self, place: Place, now: TimeMicros) -> Expected {
        let standing = self.standing(place, now);
        standing.map_or_else(Expected::default, |it| Expected { epoch: it.epoch, next: it.next })
    }

    /// Takes note of a batch that has its place in the log.
    pub(crate) fn store(
        &mut self,
        partition: PartitionId,
        produced: &Produced,
        first: Offset,
        append_time: TimeMicros,
    ) {
        let place = Place { partition, id: produced.id };
        let at = match self.index.get(&place) {
            Some(at) => *at,
            None => self.insert(Standing::new(place)),
        };
        self.entries[at as usize].standing.advance(produced, first, append_time);
        self.touch(at);
    }

    /// Says once more that a producer wrote: the order in which they did, within a commit, is
    /// that of its directory.
    pub(crate) fn order(&mut self, place: Place) {
        if let Some(at) = self.index.get(&place) {
            self.touch(*at);
        }
    }

    /// Forgets whom it is time to forget, after a commit with batches of producers.
    pub(crate) fn end_commit(&mut self, append_time: TimeMicros) {
        while let Some(oldest) = self.entries.get(self.oldest as usize) {
            let silent = oldest.standing.is_silent(append_time);
            if !silent && self.index.len() <= self.places_max {
                break;
            }
            self.remove(self.oldest);
        }
    }

    /// Forgets all who wrote to a topic.
    pub(crate) fn forget(&mut self, topic: TopicId) {
        let mut at = self.oldest;
        while let Some(entry) = self.entries.get(at as usize) {
            let newer = entry.newer;
            if entry.standing.place.partition.topic == topic {
                self.remove(at);
            }
            at = newer;
        }
    }

    /// A copy of all, in the order of [`iter`](Self::iter).
    pub(crate) fn standings(&self) -> Vec<Standing> {
        let mut standings = Vec::with_capacity(self.index.len());
        standings.extend(self.iter());
        standings
    }

    /// All, those who wrote longest ago first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Standing> {
        let entry = |at: u32| self.entries.get(at as usize);
        let all = std::iter::successors(entry(self.oldest), move |it| entry(it.newer));
        all.map(|entry| &entry.standing)
    }

    fn standing(&self, place: Place, now: TimeMicros) -> Option<&Standing> {
        let at = *self.index.get(&place)?;
        let standing = &self.entries[at as usize].standing;
        (!standing.is_silent(now)).then_some(standing)
    }

    fn insert(&mut self, standing: Standing) -> u32 {
        let entry = Entry { standing, older: NONE, newer: NONE };
        let at = match self.unused.pop() {
            Some(at) => {
                self.entries[at as usize] = entry;
                at
            }
            None => {
                self.entries.push(entry);
                u32::try_from(self.entries.len() - 1).expect("their number is bounded")
            }
        };
        self.index.insert(standing.place, at);
        self.link(at);
        at
    }

    fn remove(&mut self, at: u32) {
        self.unlink(at);
        self.index.remove(&self.entries[at as usize].standing.place);
        self.unused.push(at);
    }

    fn touch(&mut self, at: u32) {
        if at != self.newest {
            self.unlink(at);
            self.link(at);
        }
    }

    /// Puts an entry that is in no list at its newer end.
    fn link(&mut self, at: u32) {
        let older = std::mem::replace(&mut self.newest, at);
        let entry = &mut self.entries[at as usize];
        (entry.older, entry.newer) = (older, NONE);
        match self.entries.get_mut(older as usize) {
            Some(older) => older.newer = at,
            None => self.oldest = at,
        }
    }

    fn unlink(&mut self, at: u32) {
        let Entry { older, newer, .. } = self.entries[at as usize];
        match self.entries.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.newest = older,
        }
    }
}

/// All, those who wrote longest ago first; later ones of the same place count.
impl FromIterator<Standing> for Producers {
    fn from_iter<I: IntoIterator<Item = Standing>>(standings: I) -> Self {
        let mut producers = Self::default();
        for standing in standings {
            if let Some(at) = producers.index.get(&standing.place).copied() {
                producers.remove(at);
            }
            producers.insert(standing);
        }
        producers
    }
}

impl Standing {
    fn new(place: Place) -> Self {
        Self {
            place,
            epoch: ProducerEpoch::default(),
            next: Sequence::ZERO,
            append_time: TimeMicros(i64::MIN),
            batches: [Remembered::default(); BATCHES_REMEMBERED],
            count: 0,
        }
    }

    fn find(&self, produced: &Produced) -> Option<Offset> {
        let batches = &self.batches[..usize::from(self.count)];
        let at = batches.iter().position(|batch| batch.sequence == produced.sequence)?;
        let ends = at.checked_sub(1).map_or(self.next, |newer| batches[newer].sequence);
        (ends == produced.next).then(|| batches[at].first)
    }

    fn advance(&mut self, produced: &Produced, first: Offset, append_time: TimeMicros) {
        let goes_on = produced.sequence == self.next && !self.is_silent(append_time);
        // It was forgotten, or batches were lost to damage.
        let kept = if goes_on { self.count } else { 0 };
        self.batches.copy_within(..BATCHES_REMEMBERED - 1, 1);
        self.batches[0] = Remembered { sequence: produced.sequence, first };
        self.count = (kept + 1).min(REMEMBERED_MAX);
        self.batches[usize::from(self.count)..].fill(Remembered::default());
        (self.epoch, self.next) = (produced.epoch, produced.next);
        self.append_time = append_time;
    }

    fn is_silent(&self, now: TimeMicros) -> bool {
        i128::from(now.0) - i128::from(self.append_time.0) > SILENCE_MAX.as_micros().cast_signed()
    }

    pub(crate) fn encode(&self, fields: &mut Vec<u8>) {
        fields.put_u32(self.place.partition.topic.0);
        fields.put_u32(self.place.partition.partition);
        fields.put_u64(self.place.id.0);
        fields.put_u32(self.epoch.0);
        fields.put_u64(self.next.0);
        fields.put_time(self.append_time);
        fields.put_u8(self.count);
        for batch in &self.batches[..usize::from(self.count)] {
            fields.put_u64(batch.sequence.0);
            fields.put_u64(batch.first.0);
        }
    }

    pub(crate) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let partition = PartitionId::new(TopicId(fields.u32()?), fields.u32()?);
        let mut standing = Self::new(Place { partition, id: ProducerId(fields.u64()?) });
        standing.epoch = ProducerEpoch(fields.u32()?);
        standing.next = Sequence(fields.u64()?);
        standing.append_time = fields.time()?;
        let count = fields.u8()?;
        for at in 0..count {
            let (sequence, first) = (Sequence(fields.u64()?), Offset(fields.u64()?));
            // A log that remembers more has written it.
            if let Some(batch) = standing.batches.get_mut(usize::from(at)) {
                *batch = Remembered { sequence, first };
            }
        }
        standing.count = count.min(REMEMBERED_MAX);
        Some(standing)
    }
}

const REMEMBERED_MAX: u8 = BATCHES_REMEMBERED as u8;
const _: () = assert!(BATCHES_REMEMBERED <= u8::MAX as usize);

/// A standing that uses all its fields.
#[cfg(test)]
pub(crate) fn sample(partition: PartitionId) -> Standing {
    let mut standing = Standing::new(Place { partition, id: ProducerId(7) });
    for (sequence, next) in [(0, 3), (3, 9)] {
        let (sequence, next) = (Sequence(sequence), Sequence(next));
        let produced = Produced { id: ProducerId(7), epoch: ProducerEpoch(2), sequence, next };
        standing.advance(&produced, Offset(sequence.0 + 1), TimeMicros(5));
    }
    standing
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SILENCE: i64 = SILENCE_MAX.as_micros() as i64;

    fn partition(number: u32) -> PartitionId {
        PartitionId::new(TopicId(1 + number / 2), number)
    }

    fn produced(id: u64, sequence: u64, next: u64) -> Produced {
        let (sequence, next) = (Sequence(sequence), Sequence(next));
        Produced { id: ProducerId(id), epoch: ProducerEpoch(0), sequence, next }
    }

    fn ids(producers: &Producers) -> Vec<u64> {
        producers.iter().map(|standing| standing.place.id.0).collect()
    }

    /// One commit with one batch.
    fn commit(producers: &mut Producers, id: u64, sequence: u64, time: i64) {
        let batch = produced(id, sequence, sequence + 2);
        producers.store(partition(0), &batch, Offset(sequence), TimeMicros(time));
        producers.end_commit(TimeMicros(time));
    }

    #[test]
    fn who_is_silent_for_too_long_is_forgotten_at_the_microsecond() {
        let mut producers = Producers::default();
        commit(&mut producers, 7, 0, 100);
        let found = |producers: &Producers, time: i64| {
            producers.find(partition(0), &produced(7, 0, 2), TimeMicros(time))
        };
        assert_eq!(found(&producers, 100 + SILENCE), Some(Offset(0)));
        assert_eq!(found(&producers, 101 + SILENCE), None, "it is not known, gone or not");
        let place = Place { partition: partition(0), id: ProducerId(7) };
        let expected = producers.expected(place, TimeMicros(101 + SILENCE));
        assert_eq!(expected, Expected::default());
        commit(&mut producers, 8, 0, 100 + SILENCE);
        assert_eq!(ids(&producers), [7, 8]);
        commit(&mut producers, 8, 2, 101 + SILENCE);
        assert_eq!(ids(&producers), [8]);
        commit(&mut producers, 7, 0, 102 + SILENCE);
        assert_eq!(found(&producers, 102 + SILENCE), Some(Offset(0)));
    }

    #[test]
    fn who_comes_back_after_silence_begins_anew_though_nobody_removed_it() {
        let mut producers = Producers::default();
        let now = TimeMicros(10 * SILENCE);
        producers.store(partition(0), &produced(7, 0, 2), Offset(0), TimeMicros(0));
        producers.store(partition(0), &produced(7, 0, 3), Offset(9), now);
        assert_eq!(producers.find(partition(0), &produced(7, 0, 3), now), Some(Offset(9)));
        assert_eq!(producers.find(partition(0), &produced(7, 0, 2), now), None);
    }

    #[test]
    fn those_who_wrote_longest_ago_make_room() {
        let mut producers = Producers::with_places_max(3);
        for (id, time) in (1..=3).zip(0..) {
            commit(&mut producers, id, 0, time);
        }
        commit(&mut producers, 1, 2, 4);
        assert_eq!(ids(&producers), [2, 3, 1]);
        commit(&mut producers, 4, 0, 5);
        commit(&mut producers, 3, 2, 6);
        commit(&mut producers, 5, 0, 7);
        assert_eq!(ids(&producers), [4, 3, 5]);
        assert!(producers.entries.len() <= 4, "room is used again");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let standing = sample(partition(3));
        let mut bytes = Vec::new();
        standing.encode(&mut bytes);
        let mut fields = Fields::new(&bytes);
        assert_eq!(Standing::decode(&mut fields), Some(standing));
        assert!(fields.is_empty());
        for length in 0..bytes.len() {
            assert_eq!(Standing::decode(&mut Fields::new(&bytes[..length])), None);
        }
    }

    /// What one commit holds: batches by partition, and whether a topic goes first.
    type Commit = (Vec<(u32, u64, u64)>, Option<u32>);

    fn apply(producers: &mut Producers, (batches, deleted): &Commit, time: i64) {
        store(producers, (batches, deleted), time);
        producers.end_commit(TimeMicros(time));
    }

    fn apply_as_they_come(producers: &mut Producers, (batches, deleted): &Commit, time: i64) {
        store(producers, (batches, deleted), time);
        let mut in_order = batches.clone();
        in_order.sort_by_key(|(partition, ..)| *partition);
        for (number, id, _) in in_order {
            producers.order(Place { partition: partition(number), id: ProducerId(id) });
        }
        producers.end_commit(TimeMicros(time));
    }

    fn store(
        producers: &mut Producers,
        (batches, deleted): (&[(u32, u64, u64)], &Option<u32>),
        time: i64,
    ) {
        if let Some(topic) = deleted {
            producers.forget(TopicId(*topic));
        }
        for (number, id, length) in batches {
            let place = Place { partition: partition(*number), id: ProducerId(*id) };
            let next = producers.expected(place, TimeMicros(time)).next.0;
            let batch = produced(*id, next, next + length);
            producers.store(place.partition, &batch, Offset(next), TimeMicros(time));
        }
    }

    proptest! {
        /// The appender stores batches as they come, and orders them when the commit is closed;
        /// whoever reads the log meets them in the order of the directory.
        #[test]
        fn the_order_within_a_commit_and_a_checkpoint_on_the_way_change_nothing(
            commits in prop::collection::vec(
                (
                    prop::collection::vec((0_u32..4, 0_u64..6, 1_u64..9), 1..12),
                    prop::option::weighted(0.1, 1_u32..3),
                ),
                1..40,
            ),
            steps in prop::collection::vec(1_i64..SILENCE / 4, 40),
            checkpoint_at in 0_usize..40,
        ) {
            let mut stamped = Producers::with_places_max(8);
            let mut published = Producers::with_places_max(8);
            let mut time = 0;
            for (number, (batches, deleted)) in commits.into_iter().enumerate() {
                time += steps[number];
                let mut in_order = batches.clone();
                in_order.sort_by_key(|(partition, ..)| *partition);
                apply_as_they_come(&mut stamped, &(batches, deleted), time);
                apply(&mut published, &(in_order, deleted), time);
                prop_assert_eq!(&stamped, &published);
                prop_assert!(published.iter().count() <= 8);
                if number == checkpoint_at {
                    published = published.iter().copied().collect();
                    published.places_max = 8;
                    prop_assert_eq!(&stamped, &published);
                }
            }
        }
    }
}
