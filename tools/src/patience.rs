//! Asking a node again that is away or busy.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::failure::Failure;
use crate::output::notice;

/// The first pause before the node is asked again; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// How long to try again, and how often.
pub(crate) struct Patience {
    ends: Instant,
    pause: Duration,
    was_told: bool,
}

impl Patience {
    pub(crate) fn new(span: Duration) -> Self {
        Self { ends: Instant::now() + span, pause: PAUSE, was_told: false }
    }

    /// Waits a while, or gives up. `what` names what waits.
    pub(crate) async fn wait(
        &mut self,
        why: &str,
        what: &str,
        bar: Option<&ProgressBar>,
    ) -> Result<(), Failure> {
        if Instant::now() >= self.ends {
            return Err(Failure::of(what, format!("{why}; run it again to go on")));
        }
        // A node that is busy for a moment is none of the user's business.
        if self.pause >= PAUSE_MAX && !std::mem::replace(&mut self.was_told, true) {
            let tell = || notice(&format!("{what}: waiting: {why}"));
            bar.map_or_else(tell, |bar| bar.suspend(tell));
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}
