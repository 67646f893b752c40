//! A Tracklog node: the one room that knows who stands behind the log.
//!
//! Wires the engine, the registry, the gateway and the pipeline together, reads the configuration, answers
//! operators, and opens a stopped node's folder read-only. It decides nothing about events (the
//! gateway does) and nothing about bytes on disk (the engine does). If you want a log without a
//! server, that is `tracklog-engine`.
//!
//! | file | what |
//! |---|---|
//! | [`config`] | flags over environment over file |
//! | [`node`] | start, serve, stop |
//! | [`admin`] | the operators' routes |
//! | [`replay`] | a range of a topic as lines of JSON, in one order |
//! | [`backfill`] | files of past events, each row once |
//! | [`find`] | where an event is, and where it went |
//! | [`forget`] | all that is stored of a user, erased |
//! | [`quarantine`] | rejected events: listed, and tried again |
//! | [`reprocess`] | stages again over old events |
//! | [`topics`], [`groups`], [`live`] | what operators ask of these |
//! | [`explain`] | what enrichment makes of an event, without taking it |
//! | [`archive`] | archives, read, checked and brought back |
//! | [`backup`] | the log in an object store, and back into a folder |
//! | [`offline`] | the read-only opening of a data folder |
//! | [`outbound`], [`trust`] | calls out over HTTP, and whom they trust |
//! | [`folder`] | secrets and `node.json` |
//! | `disk_log`, `metrics`, `process` | the engine behind the log, its counters, and the system's |
//!
//! Start reading at [`node::Node`] and [`replay::Replay`].
#![forbid(unsafe_code)]

pub mod admin;
pub mod archive;
pub mod backfill;
pub mod backup;
mod blocking;
pub mod bound;
pub mod clock;
pub mod config;
mod disk_log;
pub mod doctor;
pub mod explain;
pub mod find;
pub mod folder;
pub mod forget;
pub mod groups;
pub mod live;
mod metrics;
pub mod node;
pub mod offline;
pub mod outbound;
mod process;
mod profiles;
pub mod quarantine;
mod reading;
pub mod replay;
pub mod reprocess;
pub mod routes;
pub mod schemas;
mod scrub;
pub mod topics;
pub mod trust;
pub mod verify;

pub use disk_log::OpenError;
pub use tracklog_engine::disk::bound_heap;
pub use tracklog_engine::{Inspection, inspect};
