//! Work that blocks: on a thread of the runtime that may wait, while the caller's task sleeps.
//!
//! Promises: a panic of the work is one of the task; and a runtime that shuts down, which takes no
//! more work and drops its tasks, finds a task that waits and none that panics.
//!
//! Called by whatever in this room has to wait for a disk or to compute for long, and cannot go on
//! without. Who can asks the runtime itself.

use std::future;
use std::panic;

/// What `work` comes to.
pub(crate) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => panic::resume_unwind(panic),
            // Only the end of the runtime cancels work, and that is the end of this task too.
            Err(_) => future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tokio::runtime::Runtime;

    use super::*;

    #[test]
    fn a_task_of_a_runtime_that_has_shut_down_waits_and_does_not_panic() {
        let runtime = Runtime::new().expect("there is room for a thread");
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        let _inside = handle.enter();
        let mut waiting = pin!(run(|| 7));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            assert_eq!(waiting.as_mut().poll(&mut context), Poll::Pending);
        }
    }

    #[test]
    fn a_panic_of_the_work_is_one_of_the_task() {
        let runtime = Runtime::new().expect("there is room for a thread");
        let task = runtime.spawn(run(|| panic!("the work's own words")));
        let error = runtime.block_on(task).expect_err("the work panicked");
        let panic = error.into_panic();
        assert_eq!(panic.downcast_ref(), Some(&"the work's own words"));
        assert_eq!(runtime.block_on(run(|| 7)), 7);
    }
}
