//! What the log has seen before, and knows again.

#[allow(dead_code, unused_imports, reason = "who settles segments and who appends begin with it")]
pub(crate) mod event_ids;
pub(crate) mod producers;
