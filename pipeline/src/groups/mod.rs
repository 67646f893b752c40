//! Consumer groups: who reads which partition, and how far each has come.
//!
//! Promises
//! - A partition is read for a group by one member at a time.
//! - A commit of outputs carries its source's new offset, on the condition that the member's
//!   generation still holds and that the offset is still where it was: [`Claim`]. A member that was
//!   given up for dead, and wakes, changes nothing.
//! - A member that joins or leaves moves as few partitions as it can, and the rest go on.
//!
//! What is decided about members is sans-io, and serves members in this process and elsewhere:
//! `membership`, `assignment`. [`Groups`] keeps it in the ledger, `_groups`.

mod assignment;
mod claim;
mod coordinator;
mod ledger;
mod membership;
mod operator;

#[cfg(test)]
mod tests;

pub use claim::{Claim, Generation};
pub use coordinator::{Clock, GroupError, Groups, Member, SILENCE_MAX, Start};
pub use ledger::{Committed, GroupName, GroupNameError, TOPIC};
pub use membership::{Assignment, MemberId, NoMember};
pub use operator::{GroupDescription, GroupLag, GroupSummary, GroupWait, PartitionLag, ResetTo};
