//! What programs did, counted by kind: a campaign in which a kind is rare proves little of it.
//!
//! What a client asks for counts once it has its answer, so that a log that refuses everything does
//! not look busy; a repetition counts when it is sent. An append is counted under each kind that it
//! is of. What the log does on its own is counted where its disk sees it.

use std::fmt;

/// A kind of thing that a program does, or that befalls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Did {
    /// A topic was made.
    Create,
    /// An append was acked, of whatever kind.
    Append,
    /// An append was acked whose condition held.
    Conditional,
    /// An append to several partitions was acked.
    MultiPartition,
    /// An append of an idempotent producer was acked.
    Idempotent,
    /// A producer sent again what it had no ack for.
    Retry,
    /// A reader that waited at an end was given records.
    ReadTail,
    /// A read from a few records before the end.
    ReadHot,
    /// A read from further back.
    ReadLagging,
    /// The journal went on into another segment.
    Roll,
    /// A segment began in the slot of an older one.
    SlotReuse,
    /// A checkpoint was written.
    Checkpoint,
    /// A pack was made.
    Settle,
    /// A pack was made of several.
    Merge,
    /// A partition began later for its topic's limits.
    Expire,
    /// Records were erased.
    Erase,
    /// A topic was deleted.
    DeleteTopic,
    /// A process ended that was not asked to, with the log open or not.
    Crash,
    /// It ended in the middle of an opening: not one of the above.
    CrashInRecovery,
    /// A log was opened again.
    Reopen,
    /// What was durable was damaged.
    Damage,
    /// A log was opened of which no checkpoint was left, and packs were there.
    Rebuild,
}

/// All kinds and their names, in the order of the enum.
const KINDS: [(Did, &str); 22] = [
    (Did::Create, "create"),
    (Did::Append, "append"),
    (Did::Conditional, "conditional"),
    (Did::MultiPartition, "multi_partition"),
    (Did::Idempotent, "idempotent"),
    (Did::Retry, "retry"),
    (Did::ReadTail, "read_tail"),
    (Did::ReadHot, "read_hot"),
    (Did::ReadLagging, "read_lagging"),
    (Did::Roll, "roll"),
    (Did::SlotReuse, "slot_reuse"),
    (Did::Checkpoint, "checkpoint"),
    (Did::Settle, "settle"),
    (Did::Merge, "merge"),
    (Did::Expire, "expire"),
    (Did::Erase, "erase"),
    (Did::DeleteTopic, "delete_topic"),
    (Did::Crash, "crash"),
    (Did::CrashInRecovery, "crash_in_recovery"),
    (Did::Reopen, "reopen"),
    (Did::Damage, "damage"),
    (Did::Rebuild, "rebuild"),
];

/// How often each kind was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally([u64; KINDS.len()]);

impl Tally {
    pub(crate) fn count(&mut self, kind: Did) {
        self.count_some(kind, 1);
    }

    pub(crate) fn count_some(&mut self, kind: Did, times: u64) {
        self.0[kind as usize] += times;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, times)| *sum += times);
    }

    /// How often this was done.
    #[must_use]
    pub const fn of(&self, kind: Did) -> u64 {
        self.0[kind as usize]
    }

    /// Each kind by its name, and how often it was done.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.iter().map(|(kind, name)| (*name, self.of(*kind)))
    }

    /// A JSON object: a number for each kind.
    pub(crate) fn to_json(self) -> String {
        let fields: Vec<String> =
            self.kinds().map(|(name, times)| format!("\"{name}\":{times}")).collect();
        format!("{{{}}}", fields.join(","))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (name, times)) in self.kinds().enumerate() {
            let comma = if nth == 0 { "" } else { ", " };
            write!(f, "{comma}{times} {}", name.replace('_', " "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_place_and_name() {
        let mut tally = Tally::default();
        for (nth, (kind, _)) in KINDS.iter().enumerate() {
            tally.count_some(*kind, nth as u64 + 1);
        }
        let mut doubled = tally;
        doubled.add(&tally);
        assert!(doubled.kinds().map(|(_, times)| times).eq((1..=22).map(|nth| 2 * nth)));
        assert!(tally.to_json().starts_with("{\"create\":1,\"append\":2,"));
        assert!(tally.to_string().ends_with("20 reopen, 21 damage, 22 rebuild"));
    }
}
