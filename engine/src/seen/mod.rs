//! What the log has seen before, and knows again.

pub(crate) mod event_ids;
pub(crate) mod producers;
