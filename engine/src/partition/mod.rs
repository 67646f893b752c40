//! Partitions as readers see them: where their records lie, and what of them is still in memory.

pub(crate) mod places;
pub(crate) mod tail;
