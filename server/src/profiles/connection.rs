//! One connection that all askers share, made when it is first wanted, and anew after a failure.
//!
//! A connection on which a question failed, or was given up, is never used again: whoever did not
//! answer in time may not be there any more, and TCP takes minutes to say so.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// The connection, if there is one.
pub(super) struct Shared<C> {
    current: Mutex<Current<C>>,
    connecting: tokio::sync::Mutex<()>,
}

struct Current<C> {
    connection: Option<C>,
    /// How many there were: what failed on an earlier one says nothing of this one.
    number: u64,
}

/// A connection for one question. Dropped before [`worked`](Self::worked) it is given up.
pub(super) struct Lent<'s, C> {
    shared: &'s Shared<C>,
    number: u64,
    pub(super) connection: C,
    has_worked: bool,
}

impl<C: Clone> Shared<C> {
    pub(super) fn new() -> Self {
        let current = Mutex::new(Current { connection: None, number: 0 });
        Self { current, connecting: tokio::sync::Mutex::default() }
    }

    /// The connection that is there, else a new one by `connect`; one at a time connects.
    pub(super) async fn lend<E>(
        &self,
        connect: impl Future<Output = Result<C, E>>,
    ) -> Result<Lent<'_, C>, E> {
        if let Some(lent) = self.lent() {
            return Ok(lent);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(lent) = self.lent() {
            return Ok(lent);
        }
        let connection = connect.await?;
        let mut current = self.current();
        current.number += 1;
        current.connection = Some(connection.clone());
        Ok(Lent { shared: self, number: current.number, connection, has_worked: false })
    }

    fn lent(&self) -> Option<Lent<'_, C>> {
        let current = self.current();
        let connection = current.connection.clone()?;
        Some(Lent { shared: self, number: current.number, connection, has_worked: false })
    }
}

impl<C> Shared<C> {
    fn current(&self) -> MutexGuard<'_, Current<C>> {
        // A clone that panicked left it whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Lent<'_, C> {
    /// The question was answered.
    pub(super) fn worked(mut self) {
        self.has_worked = true;
    }
}

impl<C> Drop for Lent<'_, C> {
    fn drop(&mut self) {
        let mut current = self.shared.current();
        if !self.has_worked && current.number == self.number {
            current.connection = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;

    use tracklog_log::conformance::block_on;

    use super::*;

    fn lend(shared: &Shared<u32>, new: u32) -> Lent<'_, u32> {
        let Ok(lent) = block_on(shared.lend(ready(Ok::<_, Infallible>(new))));
        lent
    }

    #[test]
    fn a_connection_is_shared_until_a_question_fails_on_it() {
        let shared = Shared::new();
        let (first, second) = (lend(&shared, 1), lend(&shared, 2));
        assert_eq!((first.connection, second.connection), (1, 1));
        first.worked();
        assert_eq!(lend(&shared, 2).connection, 1, "and that one is given up");
        assert_eq!(lend(&shared, 3).connection, 3);
        drop(second);
        let third = lend(&shared, 4);
        assert_eq!(third.connection, 4, "the one before was dropped");
        drop(lend(&shared, 5));
        let fourth = lend(&shared, 6);
        drop(third);
        assert_eq!(lend(&shared, 7).connection, 6, "what failed was an earlier one");
        fourth.worked();
    }

    #[test]
    fn a_connection_that_cannot_be_made_is_tried_again() {
        let shared = Shared::<u32>::new();
        assert_eq!(block_on(shared.lend(ready(Err("refused")))).err(), Some("refused"));
        assert_eq!(lend(&shared, 1).connection, 1);
    }
}
