//! Consumer groups: who reads which partition, and how far each has come.
//!
//! Promises
//! - A partition is read for a group by one member at a time.
//! - A commit of outputs carries its source's new offset, on the condition that the member's
//!   generation still holds and that the offset is still where it was: [`Claim`]. A member that was
//!   given up for dead, and wakes, changes nothing.
//! - A member that joins or leaves moves as few partitions as it can, and the rest go on.

mod claim;
mod ledger;

pub use claim::{Claim, Generation};
pub use ledger::Committed;
