//! Reading back batches that this log wrote itself.
//!
//! Called with bytes of slots, of packs and of the tail ring alone.

use bytes::Bytes;
use tracklog_protocol::{BatchError, BatchView};

/// The batch in `bytes`, which come from a slot of this log.
pub(crate) fn batch_of_slot(bytes: Bytes) -> Result<BatchView, BatchError> {
    // SAFETY: a slot belongs to one log: it lies in the log's folder, its header carries the
    // log's cluster id (checked by recovery), and the folder's lock keeps other writers out (taken
    // in `files`). The appender alone writes batches there, and it takes `VerifiedBatch`es and
    // records of builders only (`journal::intake`). What rot did to them the checksums tell.
    unsafe { BatchView::read(bytes) }
}

/// The batch in `bytes`, which come from the buffer of a commit that this process wrote.
pub(crate) fn batch_of_ring(bytes: Bytes) -> Result<BatchView, BatchError> {
    // SAFETY: the buffer was filled by the appender from `VerifiedBatch`es and records of
    // builders, and frozen before it was submitted: nobody can write to it since.
    unsafe { BatchView::built(bytes) }
}

/// The batch in `bytes`, which come from a frame of a pack of this log.
pub(crate) fn batch_of_pack(bytes: Bytes) -> Result<BatchView, BatchError> {
    // SAFETY: a pack lies in the log's folder, its trailer carries the log's cluster id (checked
    // when its index is read, without which nobody finds a frame), and the folder's lock keeps
    // other writers out. The settler alone writes packs, of batches that `batch_of_slot` or this
    // function gave it, or what `BatchView::without` and `gap` leave of them: records as they were.
    // What rot did to them the checksums tell.
    unsafe { BatchView::read(bytes) }
}
