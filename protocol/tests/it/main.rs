//! The public interface of tracklog-protocol, as other rooms use it.
#![allow(clippy::unwrap_used, reason = "a test that unwraps nothing has failed")]

mod event;
mod line;
mod property;
mod rejected;
mod sample;
