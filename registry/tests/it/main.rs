//! The registry through its public face, over the in-memory log.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on may panic; the lint spares only test functions"
)]

mod cases;
mod folder;
mod hostile;
mod rig;
mod versions;
