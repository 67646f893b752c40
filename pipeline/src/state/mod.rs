//! What is known of users, devices and visits: a function of the changelog topic `_state`.
//!
//! Promises
//! - A change is in the commit of the events that made it, so a crash neither loses nor doubles one.
//! - A batch sees every change below one offset of the changelog, and its own before each event.
//! - The store on disk applies changes with the changelog's offset in one transaction, and can be
//!   built again from the changelog.

use std::marker::PhantomData;

use tracklog_protocol::Offset;

/// The state as one batch of one source partition sees it, and what the batch changes in it.
#[derive(Debug)]
pub struct StateBatch<'s> {
    /// The changes below this offset of the changelog are seen.
    offset: Offset,
    state: PhantomData<&'s ()>,
}

impl StateBatch<'_> {
    /// The changes below this offset of the changelog are seen, besides the batch's own.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }
}
