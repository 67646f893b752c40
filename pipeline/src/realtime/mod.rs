//! Live figures: counts, rates and sums of events by name, a second and a minute at a time.
//!
//! Promises
//! - A window is of the time at which events were *stored* in the topic that is read. That time
//!   never goes back, so a window is told once it is over, and by whoever reads the log alike; when
//!   an event happened, by its client, only says whether it counts as late.
//! - A window is told when everything stored in it was read, or not at all. A reader that is too far
//!   behind goes on from the newest, and says what it passed over.
//! - Memory is bounded, whatever is sent: `names_max` names and 16 bytes for each of a name's 122
//!   windows, and as much again for each sum that it has. Further names are counted together.
//! - Nothing is read, and no clock is asked, while nobody watches.
//!
//! `windows` keeps the figures: plain arithmetic on `ring`s, no clock. [`Live`] has a reader that
//! feeds them from the end of a topic while there is a [`Viewer`]; a viewer is a place in the
//! windows, so that a slow one holds nobody up and takes no memory. [`Alerts`] is one that looks at
//! thresholds, and calls webhooks. Called by `server`.

mod alerts;
mod figures;
mod live;
mod outbox;
mod ring;
mod span;
mod sum;
mod threshold;
mod viewer;
mod windows;

#[cfg(test)]
mod tests;

pub use alerts::{Alert, AlertCounters, Alerts};
pub use figures::{Figures, LiveGap, LiveWindow, SumFigure};
pub use live::{Live, LiveCounters, LiveLag, LiveOptions};
pub use span::{WindowId, WindowSpan};
pub use sum::{SumPath, SumPathError};
pub use threshold::{Change, Limit, Measure, Threshold};
pub use viewer::{Told, View, Viewer};
