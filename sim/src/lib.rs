//! A simulator of a Tracklog node: random programs, faults and crashes, held against a model.
//!
//! A *program* is one seed: a machine with a simulated disk, the very engine that servers use on it,
//! driven step by step, clients that append and read, and whatever goes wrong. The seed decides all
//! of it, the schedule and the clock included, so that a seed and a commit replay a run exactly.
//!
//! Such a run proves nothing about a real file system. That is for `powercut`: the log on ext4 or XFS,
//! over a disk that remembers what it was told.
//!
//! Nothing here looks for speed. If you want a log that is slow and plain, that is
//! `tracklog_log::memory`; scenarios of single rules of recovery stand beside the rules, in the engine.
//!
//! Where to look: `program` draws and runs a program, `plan` says what may go wrong in it, `model`
//! says what must hold, `contents` what was found, `sweep` fails each I/O of a fixed program in
//! turn, `resends` sends events again and again, `campaign` runs many and adds up, `tally` counts
//! what they did. Run by its own binary: `run`, `replay`, `resend`, `sweep`, `powercut`.
#![forbid(unsafe_code)]

mod campaign;
mod chance;
mod contents;
mod model;
mod plan;
mod powercut;
mod program;
mod resends;
mod sweep;
mod tally;
mod task;

pub use campaign::{Campaign, Totals};
pub use powercut::{Failure, FileSystem, PowerCuts, Report};
pub use program::{Outcome, run_program};
pub use resends::{Resends, run_resends};
pub use sweep::{Failed, sweep};
pub use tally::{Did, Tally};
