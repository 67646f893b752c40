//! The one place where a FlatBuffer is opened without running the verifier over it.
//!
//! Promises nothing by itself: it leans on what a [`Record`] is. Called by `event` and `rejected`
//! alone.
//!
//! Why that holds: a `Record` of kind event or rejected is made by `Record::trusted`, which this
//! crate alone can call, in three places:
//! 1. `event` and `rejected`, on what a `FlatBufferBuilder` has just finished;
//! 2. their `verify`, after the FlatBuffers verifier and our own checks passed;
//! 3. `batch`, on the records of a batch whose checksums held, and of which the reader has said
//!    (by calling an `unsafe` function here) that it was written as a `VerifiedBatch`: the bytes
//!    under that checksum were of the first or second sort.

use bytes::Bytes;

use crate::generated::{event::Event, rejected::Rejected};
use crate::{BatchError, BatchView, PayloadKind, Record};

/// Reading back what a log has kept.
///
/// Checksums tell rot from good bytes, not friend from foe, and records are read without
/// verifying them again. So these are `unsafe`: bytes from outside go through
/// [`VerifiedBatch::verify`](crate::VerifiedBatch::verify).
impl BatchView {
    /// Checks and takes the bytes of one batch.
    ///
    /// # Safety
    /// The bytes come from where the caller, or an earlier run of it, has written a
    /// [`VerifiedBatch`](crate::VerifiedBatch) and nobody else writes; rot is allowed.
    ///
    /// # Errors
    /// [`BatchError`], but never `Record`: what lies in a record is not looked at.
    pub unsafe fn read(bytes: Bytes) -> Result<Self, BatchError> {
        Self::checked(bytes)
    }

    /// Takes the bytes of a batch that this process built or checked before and has held in
    /// memory since: the body's checksum is not computed again.
    ///
    /// # Safety
    /// As [`read`](Self::read), and the memory was not written since.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub unsafe fn built(bytes: Bytes) -> Result<Self, BatchError> {
        Self::framed(bytes)
    }
}

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
