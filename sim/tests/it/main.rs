//! The simulator itself: that it replays, that it finds nothing wrong, and that its ways end.
#![forbid(unsafe_code)]

mod mutants;
mod programs;
