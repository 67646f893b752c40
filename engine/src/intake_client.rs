//! Appending from inside of the engine and through its `Log`: one way for both.

use std::sync::Arc;

use tracklog_log::{Append, AppendError, Budget, Busy, Lane, Permit, Ticket};

use crate::journal::driver::Driver;
use crate::journal::intake::{Intake, Measured};
use crate::published::Published;
use crate::seen::event_ids::IdKey;

/// What it takes to append.
#[derive(Clone)]
pub(crate) struct IntakeClient {
    pub(crate) driver: Arc<Driver>,
    pub(crate) published: Arc<Published>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) id_key: IdKey,
}

impl IntakeClient {
    /// Reserves what the append needs and leaves it in the queue.
    pub(crate) fn append(&self, lane: Lane, append: Append<'_>) -> Result<Ticket, Busy> {
        let permit = self.budget.reserve(lane, 4096)?;
        Ok(self.append_with(permit, append))
    }

    /// Leaves an append in the queue.
    pub(crate) fn append_with(&self, permit: Permit, append: Append<'_>) -> Ticket {
        match self.measure(&append) {
            Ok(measured) => self.driver.append(append, &measured, permit),
            Err(error) => Ticket::refused(error),
        }
    }

    /// Leaves the log's own append at the head of the queue. Its outcome is not told.
    pub(crate) fn append_ahead(&self, append: Append<'_>) -> Result<(), AppendError> {
        let measured = self.measure(&append)?;
        self.intake().append_ahead(append, &measured);
        Ok(())
    }

    pub(crate) fn intake(&self) -> &Arc<Intake> {
        &self.driver.intake
    }

    fn measure(&self, append: &Append<'_>) -> Result<Measured, AppendError> {
        let settled = self.published.ids.settled();
        let topics = self.published.topics.read();
        Measured::of(append, self.id_key, &settled, |partition| {
            topics.catalog.row_and_dedupe(partition)
        })
    }
}
