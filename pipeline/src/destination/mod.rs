//! Destinations outside of the log: where routing hands events over to others.
//!
//! Each destination and lane is a group of its own over the source, so that one that is dead delays
//! nobody, and goes on where it was once it is back: the log is its queue. [`DeliverStage`] is such
//! a group's stage; what it delivers are the events' JSON lines.
//!
//! Promises
//! - Every event that rules send to a destination reaches it, in the order of the source for each
//!   key; what it refuses, or did not take for too long, is a record of `undelivered` with the
//!   reason. Nothing is passed over.
//! - A crash repeats at most what was on its way: [`mod@file`] knows what it has, [`webhook`] sends it
//!   again, and each event says where it lies.
//!
//! [`retry`] hands over again what was set aside. [`Patience`] decides when an endpoint is asked again, [`undelivered`] is the form of what was set
//! aside. Topics are no destinations of this room: the stage `route` writes them.

pub mod file;
mod patience;
pub mod retry;
mod stage;
pub mod undelivered;
pub mod webhook;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::time::Duration;

pub(crate) use patience::jittered;
pub use patience::{Endpoint, EndpointState, Patience};
pub use stage::{DeliverStage, Delivering, DestinationCounters, Hold, group};
use tracklog_log::Pending;
use tracklog_protocol::{Offset, PartitionId};

use crate::route::Lane;

/// Whoever takes events.
pub trait Destination: Send + Sync + 'static {
    /// How much it takes at once.
    fn limits(&self) -> Limits;

    /// Hands `lines` over. Asked again with the same, or with some of the same, after a failure or
    /// a crash.
    fn deliver<'a>(&'a self, lines: Lines<'a>) -> Pending<'a, Result<(), DeliveryError>>;
}

/// How much a destination takes at once, and for how long it is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events, at most.
    pub events_max: usize,
    /// Bytes of lines, at most, but for one line alone.
    pub bytes_max: usize,
    /// How long a failing destination is tried until its events are set aside; `None`: for ever.
    pub give_up_after: Option<Duration>,
}

/// Events of one partition, in order, as JSON lines.
#[derive(Clone, Copy, Debug)]
pub struct Lines<'a> {
    /// The lane that they came by.
    pub lane: Lane,
    /// Where they lie.
    pub source: PartitionId,
    /// All lines that were made of the batch; each with its line break.
    text: &'a [u8],
    lines: &'a [LineAt],
}

/// One line in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LineAt {
    offset: Offset,
    at: Range<usize>,
}

impl<'a> Lines<'a> {
    /// The lines and their offsets in the source.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Offset, &'a [u8])> + use<'a> {
        let text = self.text;
        self.lines.iter().map(|line| (line.offset, &text[line.at.clone()]))
    }

    /// All lines, one behind the other.
    fn text(&self) -> &'a [u8] {
        match self.lines {
            [first, ..] => &self.text[first.at.start..self.lines[self.lines.len() - 1].at.end],
            [] => &[],
        }
    }

    /// Each line's offset in the source, and where in [`text`](Self::text) it ends.
    fn ends(&self) -> impl Iterator<Item = (Offset, usize)> + use<'a> {
        let start = self.lines.first().map_or(0, |line| line.at.start);
        self.lines.iter().map(move |line| (line.offset, line.at.end - start))
    }

    /// How many there are: one at least.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none, which nobody is asked to deliver.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The first line's offset.
    #[must_use]
    pub fn first(&self) -> Offset {
        self.lines.first().expect("nobody is asked to deliver nothing").offset
    }

    /// The last line's offset.
    #[must_use]
    pub fn last(&self) -> Offset {
        self.lines.last().expect("nobody is asked to deliver nothing").offset
    }
}

/// Events were not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeliveryError {
    /// Not now, or not as things are: the same may be taken later.
    #[error("{why}")]
    Later {
        /// Why, for people.
        why: String,
        /// How long the destination asks to be left alone.
        after: Option<Duration>,
    },
    /// These it will never take. Where they are several, some of them it may.
    #[error("{why}")]
    Refused {
        /// Why, for people.
        why: String,
    },
}
