//! The streams that tell of batches: what their headers say, but for sizes and checksums.

use super::cut::IsTime;
use super::numbers::StreamId;

/// A stream for each. They are the first that are opened, in this order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// 0: a batch as it is; else 1 + the flags of its header.
    pub(super) form: StreamId,
    /// Of a batch as it is.
    pub(super) plain_bytes: StreamId,
    pub(super) topic: StreamId,
    pub(super) partition: StreamId,
    /// The base offset − the end of the batch before.
    pub(super) skipped: StreamId,
    pub(super) count: StreamId,
    pub(super) append_time: StreamId,
    /// With the flag.
    pub(super) producer: StreamId,
    pub(super) epoch: StreamId,
    pub(super) sequence: StreamId,
    /// Where the header states it.
    pub(super) next: StreamId,
    /// Where the body begins in a batch with block checksums.
    pub(super) body_at: StreamId,
    /// Of each record: which template it has.
    pub(super) template: StreamId,
    /// Of a record as it is.
    pub(super) record_bytes: StreamId,
    /// The event times, with the flag; behind the records.
    pub(super) least: StreamId,
    pub(super) greatest: StreamId,
}

impl Heads {
    pub(super) fn open<E>(mut open: impl FnMut(IsTime) -> Result<StreamId, E>) -> Result<Self, E> {
        Ok(Self {
            form: open(IsTime::No)?,
            plain_bytes: open(IsTime::No)?,
            topic: open(IsTime::No)?,
            partition: open(IsTime::No)?,
            skipped: open(IsTime::No)?,
            count: open(IsTime::No)?,
            append_time: open(IsTime::Yes)?,
            producer: open(IsTime::No)?,
            epoch: open(IsTime::No)?,
            sequence: open(IsTime::No)?,
            next: open(IsTime::No)?,
            body_at: open(IsTime::No)?,
            template: open(IsTime::No)?,
            record_bytes: open(IsTime::No)?,
            least: open(IsTime::Yes)?,
            greatest: open(IsTime::Yes)?,
        })
    }
}
