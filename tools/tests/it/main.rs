//! The command `tracklog` from outside: real processes, real sockets, folders of their own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod archive;
mod backfill;
mod backup;
mod bad_input;
#[cfg(feature = "full")]
mod bad_store;
mod bench;
mod damage;
mod demo;
mod diff;
mod enrich;
mod find;
mod forget;
mod hook;
mod http;
mod kill;
mod live;
#[cfg(feature = "full")]
#[path = "../../../pipeline/src/archive/tests/moto.rs"]
mod moto;
mod reading;
mod rejected;
mod reprocess;
mod resends;
mod rig;
mod route;
#[cfg(feature = "full")]
mod s3;
mod schemas;
mod sdk;
mod serve;
mod spikes;
mod terminal;
mod topics;
