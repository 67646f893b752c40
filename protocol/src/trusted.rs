//! The one place where a FlatBuffer is opened without running the verifier over it.
//!
//! Promises nothing by itself: it leans on what a [`Record`] is. Called by `event` and `rejected`
//! alone.
//!
//! Why that holds: a `Record` of kind event or rejected is made by `Record::trusted`, which this
//! crate alone can call, in three places:
//! 1. `event` and `rejected`, on what a `FlatBufferBuilder` has just finished;
//! 2. their `verify`, after the FlatBuffers verifier and our own checks passed;
//! 3. `batch`, on the records of a batch whose checksums held. A batch is written to a log only
//!    as a `VerifiedBatch`, so the bytes under that checksum were of the first or second sort.

use crate::generated::{event::Event, rejected::Rejected};
use crate::{PayloadKind, Record};

/// The event in `record`, if it is one.
#[inline]
pub(crate) fn event(record: Record<'_>) -> Option<Event<'_>> {
    if record.kind() != PayloadKind::Event {
        return None;
    }
    // SAFETY: the record is of kind event, checked above, and trusted for its kind (see the
    // module's head), so its bytes are a whole `Event` buffer that the verifier would accept.
    // They are borrowed for as long as the table.
    Some(unsafe { flatbuffers::root_unchecked::<Event<'_>>(record.bytes()) })
}

/// The rejected event in `record`, if it is one.
#[inline]
pub(crate) fn rejected(record: Record<'_>) -> Option<Rejected<'_>> {
    if record.kind() != PayloadKind::Rejected {
        return None;
    }
    // SAFETY: as in `event`, with the kind rejected and a `Rejected` buffer.
    Some(unsafe { flatbuffers::root_unchecked::<Rejected<'_>>(record.bytes()) })
}
