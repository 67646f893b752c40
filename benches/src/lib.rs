//! What the criterion suites in `benches/` share: samples, a log to write to, and who writes.
//!
//! - [`samples`]: events as a browser's SDK sends them, and their parts.
//! - [`scratch`]: where logs are written, and a log that is opened for a measurement.
//! - [`traffic`]: a shop with 100,000 visitors, for what enrichment costs.
//! - [`visits`]: a shop's events with random ids, as they lie in a partition, for what settling costs.
//! - [`workload`]: producers, single callers, and the raw disk to compare them with.
//! - [`process`]: roles that are played in processes of their own.
//! - [`pace`]: how long criterion measures.
//!
//! `cargo bench -p tracklog-benches` runs all suites in under ten minutes on two cores; a name
//! behind `--bench` runs one. A rate says little by itself on a shared machine: each suite that
//! touches the disk also measures the raw disk, in the same run.
//!
//! Nothing but the suites, and the peers in `benches/peers/`, may stand on this crate.
#![forbid(unsafe_code)]

pub mod pace;
pub mod process;
pub mod samples;
pub mod scratch;
pub mod traffic;
pub mod visits;
pub mod workload;
