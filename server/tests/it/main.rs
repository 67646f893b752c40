//! A node as a library: what stands behind the command `tracklog`, used from a program.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod node;
mod stages;
