//! The gateway on real sockets, over a log in memory.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on may panic; the lint spares only test functions"
)]

mod acks;
mod auth;
mod cases;
mod client;
mod connections;
mod cors;
mod doors;
mod drain;
mod encodings;
mod http2;
mod limits;
mod outcome;
mod registry;
mod resends;
mod rig;
mod routes;
mod tls;
