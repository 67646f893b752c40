//! What the log has seen before, and knows again.

pub(crate) mod producers;
