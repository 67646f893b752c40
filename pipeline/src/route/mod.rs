//! Routing: which events go where.
//!
//! Operators write rules and destinations into one file. Files are read ([`rules`]), compiled
//! ([`table`]), and put to work for all that is stored from then on ([`history`]); so where an event
//! goes is a function of the event and its place, whoever asks and whenever.
//!
//! - [`stage`]: events for topics, exactly once.
//! - `field` are the names of an event's fields, `expression` what must hold of them, `pattern`
//!   patterns of names, `projection` what of an event goes on.
//!
//! Other destinations are in [`crate::destination`].

mod expression;
mod field;
pub mod history;
mod pattern;
mod projection;
pub mod rules;
pub mod stage;
pub mod table;

#[cfg(test)]
mod tests;

pub use field::{Field, FieldError};
pub use history::{ActivateError, Activated, History, HistoryError, Routes, Version};
pub use rules::{DestinationName, DestinationSpec, FileSpec, Lane, Rules, RulesError, WebhookSpec};
pub use stage::RouteStage;
pub use table::{RouteTable, Taken, Verdict};
