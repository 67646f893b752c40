//! What the log asks of a file with the ids of events that have left the journal.
//!
//! Whoever appends asks it before the append is handed over: [`may_hold`](SettledIds::may_hold)
//! for every event, [`places_of`](SettledIds::places_of) for the few that it may hold.

use std::io;

use tracklog_protocol::{Offset, PartitionId};

use super::IdHash;

/// Where an event lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EventPlace {
    pub(crate) partition: PartitionId,
    pub(crate) offset: Offset,
}

/// The ids in one settled file.
pub(crate) trait SettledIds: Send + Sync {
    /// Whether it may hold an event whose id has this hash. Reads memory alone, a cache line of it
    /// at best: this is asked for every event that comes. `false` is certain.
    fn may_hold(&self, hash: IdHash) -> bool;

    /// Where all events in it lie whose ids have this hash, whatever their topic. May read the
    /// disk.
    ///
    /// # Errors
    /// When it cannot be read: nobody knows then.
    fn places_of(&self, hash: IdHash) -> io::Result<Vec<EventPlace>>;
}
