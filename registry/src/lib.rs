//! The registry: JSON Schemas of events, by event name and version.
//!
//! A schema describes an event's `properties` (its `traits` for identify and group calls). It is
//! checked and compiled when it is registered, never in a request; kept as {key, value} records
//! through [`Meta`](tracklog_log::Meta); and held compiled in a snapshot that requests read
//! without a lock.
//!
//! Promises
//! - What [`Registry::put`] answered is durable, and is there after a reopen under its number.
//! - Numbers of a name rise and are never given twice, over deletes and restarts too.
//! - A schema never reaches out: no reference leaves its document, nothing is fetched.
//! - Time and stack are bounded: at registration by [`Limits`], in a request by a step budget;
//!   patterns run on a linear-time engine.
//!
//! It decides nothing about events without a schema: [`Verdict`] says `UnknownEvent`, and the
//! gateway knows what its source wants. It reads no clock and knows no HTTP.
//!
//! The rooms: [`Registry`] (`registry.rs`) is the whole public face; `compile.rs` turns a body
//! into a validator under limits, by way of `scan.rs` (bytes) and `refs.rs` (references);
//! `payload.rs` judges an event's JSON; `verdict.rs` words the outcome; `store.rs` knows the keys;
//! `folder.rs` reads schemas from files. Start at [`Registry`], then `compile.rs`.
#![forbid(unsafe_code)]

mod compile;
mod error;
mod folder;
mod name;
mod payload;
mod refs;
mod registry;
mod scan;
mod store;
mod verdict;

pub use compile::Limits;
pub use error::{OpenError, RegistryError, SchemaError};
pub use folder::{FolderEntry, FolderError};
pub use name::{NameError, SchemaName};
pub use registry::{Candidate, Known, Registered, Registry, Summary};
pub use verdict::{Verdict, Violation};
