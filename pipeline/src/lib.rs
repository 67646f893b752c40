//! What becomes of events after they were stored: read by groups, enriched, and stored again.
//!
//! - [`groups`]: consumer groups over the seam: who reads which partition, and how far.
//! - [`stage`]: the one loop that turns a batch of records into others, exactly once.
//! - [`state`]: what is known of users, devices and visits: a function of a changelog topic.
//! - [`enrich`]: what an event gets on its way from `raw` to `enriched`.
//! - [`route`]: which events go where from there, and [`destination`]: how others get them.
//! - [`outbound`]: calls out over HTTP, and how they are signed.
//! - [`archive`]: every event as Parquet in an object store, exactly once.
//! - [`realtime`]: counts, rates and sums of events as they come.
//!
//! It knows the log by its trait alone, opens no socket but those of the archive's store, and leaves
//! clocks and runtimes to who wires it. If you want to write a stage, read [`stage::Stage`] and the tests beside it.
#![forbid(unsafe_code)]

#[cfg(feature = "archive")]
pub mod archive;
mod breaker;
pub mod destination;
pub mod enrich;
pub mod groups;
pub mod outbound;
pub mod quantity;
pub mod realtime;
#[cfg(test)]
mod rig;
pub mod route;
pub mod stage;
pub mod state;
