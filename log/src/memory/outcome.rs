//! The outcome of one append of the twin: decided once, told to whoever polls its ticket.

use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use tracklog_protocol::Offset;

use crate::{AppendError, Outcome};

pub(super) struct AppendOutcome {
    offsets: Vec<Offset>,
    is_duplicate: bool,
    decision: Mutex<Decision>,
}

#[derive(Default)]
struct Decision {
    result: Option<Result<(), AppendError>>,
    waker: Option<Waker>,
}

impl AppendOutcome {
    pub(super) fn new(offsets: Vec<Offset>, is_duplicate: bool) -> Self {
        Self { offsets, is_duplicate, decision: Mutex::default() }
    }

    /// Returns who waits for it.
    #[must_use]
    pub(super) fn decide(&self, result: Result<(), AppendError>) -> Option<Waker> {
        let mut decision = self.decision();
        assert!(decision.result.is_none(), "an append is decided once");
        decision.result = Some(result);
        decision.waker.take()
    }

    fn decision(&self) -> MutexGuard<'_, Decision> {
        self.decision.lock().expect("no holder of this lock panics")
    }
}

impl Outcome for AppendOutcome {
    fn poll(&self, _: u32, context: &mut Context<'_>) -> Poll<Result<(), AppendError>> {
        let mut decision = self.decision();
        match &decision.result {
            Some(result) => Poll::Ready(result.clone()),
            None => {
                // A ticket has one owner, so one waker is all there can be.
                decision.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn offset(&self, _: u32, item: u32) -> Offset {
        self.offsets[item as usize]
    }

    fn is_duplicate(&self, _: u32) -> bool {
        self.is_duplicate
    }
}
