//! The archive: every event of some topics as Parquet in an object store, exactly once.
//!
//! Promises
//! - An event is in the archive once: its file is made visible by a create-only, numbered manifest
//!   that also says where each partition goes on. A crash at any step neither loses nor doubles a
//!   row. What it leaves is removed before anything is written, so that a pattern over the files
//!   counts each row once as well.
//! - What is in the archive is what is in the log: rows give back the very events.
//! - Append-only: no object is changed, and none that a manifest names is removed but by who erases
//!   events ([`erasure`]).
//! - Memory is bounded, and a store that is slow or fails holds up nothing but the archive.
//!
//! Bytes are decided without I/O: [`columns`] (events as rows), [`properties`] (typed columns from
//! schemas), [`file`](mod@file) (Parquet), [`layout`] (paths), [`manifest`] (steps). FORMAT.md has
//! them. With I/O: [`store`] (the object store), [`chain`] (its manifests), [`archiver`] (from the
//! log into it), `unnamed` (what no manifest will name, removed), [`log`] (it, read as a log),
//! [`substitute`] (one topic of a log, read from it), [`export`] (parts of it, taken out),
//! [`erasure`] (events that go for good).

pub mod archiver;
mod cells;
pub mod chain;
pub mod columns;
pub mod erasure;
pub mod export;
pub mod file;
pub mod layout;
pub mod log;
pub mod manifest;
pub mod properties;
pub mod store;
mod stretch;
pub mod substitute;
mod unnamed;
pub mod verify;

#[cfg(test)]
mod tests;
