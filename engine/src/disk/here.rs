//! Writes by the very thread that waits for them.
//!
//! Who blocks until an append is durable may as well make the write: no thread of the backend is
//! woken for it, and none wakes the caller. Where a caller is alone that is a tenth of its wait.
//!
//! Promises
//! - The thread takes one write, the first that its call begins. What is begun while it tells of
//!   that write's end goes to the backend.
//! - A write that was taken is told of once, as failed if the call panics.
//!
//! Called by an append that blocks, and by [`Writers`](super::files::Writers).

use std::cell::RefCell;

use super::files::Write;

/// What becomes of the writes that this thread begins.
enum Offer {
    /// They go to the backend.
    None,
    /// The next one stays here.
    Open,
    Taken(Write),
    /// They go to the backend: this thread tells of the end of its own.
    Telling,
}

thread_local! {
    static OFFER: RefCell<Offer> = const { RefCell::new(Offer::None) };
}

/// Withdraws the offer, however the call ends.
struct Withdraws;

impl Drop for Withdraws {
    fn drop(&mut self) {
        // In two steps: who is told may begin a write.
        let offer = OFFER.replace(Offer::None);
        drop(offer);
    }
}

/// Runs `call`. The first write that it begins is over when this returns, and told of.
pub(crate) fn write_here<T>(call: impl FnOnce() -> T) -> T {
    OFFER.set(Offer::Open);
    let withdraws = Withdraws;
    let answer = call();
    if let Offer::Taken(write) = OFFER.replace(Offer::Telling) {
        let result = write.file.write_durably(write.at, &write.pages);
        write.finish(result);
    }
    drop(withdraws);
    answer
}

/// Takes the write if this thread makes it itself; else gives it back.
pub(super) fn take(write: Write) -> Option<Write> {
    OFFER.with_borrow_mut(|offer| match offer {
        Offer::Open => {
            *offer = Offer::Taken(write);
            None
        }
        Offer::None | Offer::Taken(_) | Offer::Telling => Some(write),
    })
}

/// Whether this thread tells of a write that it made for itself: it has an append to return from.
pub(crate) fn is_telling() -> bool {
    OFFER.with_borrow(|offer| matches!(offer, Offer::Telling))
}
