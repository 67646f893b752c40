//! The numbers that name things in a log, each a type of its own.
//!
//! Nothing here allocates, reads a clock or does I/O. Every room may use these.

use std::fmt;
use std::time::Duration;

/// A topic's number. Given once by the catalog, never used again for another topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u32);

/// One partition of one topic: what offsets count in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// The topic.
    pub topic: TopicId,
    /// The partition's index in its topic, from 0.
    pub partition: u32,
}

impl PartitionId {
    /// Partition `partition` of topic `topic`.
    #[must_use]
    pub const fn new(topic: TopicId, partition: u32) -> Self {
        Self { topic, partition }
    }
}

/// The place of a record in its partition. From 0; never renumbered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);

    /// The offset `count` records further on.
    ///
    /// # Panics
    /// When the sum leaves `u64`: at a billion records a second that takes 584 years.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.checked_add(count).expect("offsets do not run out"))
    }
}

/// Who produces: what makes a batch known again when it is sent twice.
///
/// Nobody else has it: drawn at random, or the hash of a name under which the producer comes back
/// after its process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub u64);

/// Which of a producer's writers, of which one lives at a time: a later one fences all earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerEpoch(pub u32);

/// A place in the count that a producer keeps for each partition. From 0; whoever writes for the
/// producer goes on where the one before ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The first of every count.
    pub const ZERO: Self = Self(0);

    /// The place `count` further on.
    ///
    /// # Panics
    /// When the sum leaves `u64`.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.checked_add(count).expect("sequences do not run out"))
    }
}

/// Microseconds since 1970-01-01T00:00:00Z. Negative before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeMicros(pub i64);

impl TimeMicros {
    /// The time `span` later; the last there is where that is beyond it.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(whole_micros(span)))
    }

    /// The time `span` earlier; the first there is where that is before it.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(whole_micros(span)))
    }
}

fn whole_micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

macro_rules! display_number {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
display_number!(TopicId, Offset, ProducerId, ProducerEpoch, Sequence, TimeMicros);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic {} partition {}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_end_where_no_time_is_left() {
        let time = TimeMicros(-5);
        let span = Duration::from_micros(7);
        assert_eq!((time.plus(span), time.minus(span)), (TimeMicros(2), TimeMicros(-12)));
        assert_eq!(TimeMicros(1).plus(Duration::MAX), TimeMicros(i64::MAX));
        assert_eq!(TimeMicros(-2).minus(Duration::MAX), TimeMicros(i64::MIN));
        assert_eq!(TimeMicros(0).minus(Duration::MAX), TimeMicros(-i64::MAX));
    }
}
