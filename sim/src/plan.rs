//! What a program does and what may go wrong in it: drawn once, from its seed.
//!
//! Not every program does everything: one that never reads finds what a busy one covers up, and a
//! machine on which nothing fails holds the log to the strictest account.

use std::time::Duration;

use tracklog_engine::{Options, WhenFull};
use tracklog_log::Limits;

use crate::chance::Chance;

/// The smallest slots that a simulated log may have.
pub(crate) const SLOT_BYTES: u64 = 2 << 20;

/// What damage is done to what was durable, once in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// A page of a slot, a pack, an index file or a checkpoint rots while the machine is off.
    Rot,
    /// A commit lands elsewhere in its slot.
    Misdirect,
    /// A read of an opening gives what was there before.
    Stale,
    /// Commits are said to be durable and are not, until the power fails.
    Lie,
    /// Files and slots are not in their folders, until the power fails.
    Forget,
}

/// All of them; rot is as likely as the others together.
const DAMAGES: [Damage; 8] = [
    Damage::Rot,
    Damage::Rot,
    Damage::Rot,
    Damage::Rot,
    Damage::Misdirect,
    Damage::Stale,
    Damage::Lie,
    Damage::Forget,
];

/// Sets the chance of settling apart.
const SETTLING: u64 = 0x5e77_1e5e_771e_5e77;
/// Sets the chance apart that a log refuses appends at its limit.
const REFUSING: u64 = 0x4ef5_51f6_4ef5_51f6;
/// Sets the chance apart that records go for want of room.
const YIELDING: u64 = 0x91e1_d91e_1d91_e1d9;

/// One kind of step of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send an append: one to three records or batches for any partitions.
    Append,
    /// Send one on the condition that a partition ends at some offset.
    AppendIf,
    /// Write or take away a key, now and then on a condition.
    WriteKey,
    /// Send a new append of an idempotent producer.
    Produce,
    /// Send again what a producer has no ack for.
    ProduceAgain,
    /// Read at the end, near it, or from far behind.
    Read,
    /// Wait at a partition's end.
    ReadTail,
    /// Look for an offset by time.
    OffsetAt,
    /// Give up a partition's oldest records.
    Trim,
    /// Erase some records.
    Erase,
    /// Make or delete a topic.
    ChangeTopics,
    /// Become the writer anew.
    TakeOver,
    /// Let the journal go on.
    Journal,
    /// Let the disk complete a write.
    Disk,
    /// Let the keeper do a job.
    Keeper,
    /// Let the settler make a pack.
    Settler,
    /// Let a moment pass.
    Moment,
    /// Let seconds pass.
    Seconds,
    /// Let the disk stall, or go on.
    Stall,
    /// Fill the disk, or make room.
    Fill,
}

const STEPS: [Step; 20] = [
    Step::Append,
    Step::AppendIf,
    Step::WriteKey,
    Step::Produce,
    Step::ProduceAgain,
    Step::Read,
    Step::ReadTail,
    Step::OffsetAt,
    Step::Trim,
    Step::Erase,
    Step::ChangeTopics,
    Step::TakeOver,
    Step::Journal,
    Step::Disk,
    Step::Keeper,
    Step::Settler,
    Step::Moment,
    Step::Seconds,
    Step::Stall,
    Step::Fill,
];

/// See the head of this file.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How the log is opened.
    pub(crate) options: Options,
    /// Openings of the log, the first not counted.
    pub(crate) runs: u64,
    /// So many steps in a run at most.
    pub(crate) steps_max: u64,
    /// Of the topic that all write to.
    pub(crate) partitions: u32,
    /// One append in so many is large.
    pub(crate) large_one_in: u64,
    /// Operations of the disk fail.
    pub(crate) errors: bool,
    /// Reads go through a page cache.
    pub(crate) cached: bool,
    /// How much of the topic that all write to is kept.
    pub(crate) limits: Limits,
    /// What is done to what was durable.
    pub(crate) damage: Option<Damage>,
    /// Checkpoints rot between one run and the next: one of them, or both.
    pub(crate) loses_checkpoints: bool,
    /// The steps to draw from, each as often as it is likely.
    steps: Vec<Step>,
}

impl Plan {
    /// Draws a plan.
    pub(crate) fn draw(chance: &mut Chance) -> Self {
        let damage = chance.one_in(3).then(|| *chance.one_of(&DAMAGES));
        // From a chance of its own, so that programs that settle nothing stay what they were.
        let mut apart = Chance::new(chance.clone().number() ^ SETTLING);
        let hot_slots = *apart.one_of(&[None, None, Some(0), Some(0), Some(1), Some(3)]);
        let settles = hot_slots.is_some();
        let mut yielding = Chance::new(chance.clone().number() ^ YIELDING);
        let limits = Limits {
            age: (settles && apart.one_in(4)).then(|| Duration::from_secs(1 + apart.below(20))),
            bytes: (settles && apart.one_in(4)).then(|| apart.below(4) << 20),
            ..Limits::default()
        };
        let drops = chance.one_in(3);
        let fills = chance.one_in(4);
        let yields = settles && fills && yielding.one_in(2);
        // Where nothing is settled no room ever comes by itself.
        let mut refusing = Chance::new(chance.clone().number() ^ REFUSING);
        let drops_oldest = drops && !(settles && refusing.one_in(2));
        let when_full = if yields { WhenFull::DropOldest } else { WhenFull::Refuse };
        let options = Options {
            slot_bytes: Some(SLOT_BYTES),
            replay_threads: 0,
            ring_bytes: *chance.one_of(&[0, 64 << 10, 1 << 20, 64 << 20]),
            index_bytes: *chance.one_of(&[0, 16 << 10, 256 << 20]),
            pinned_bytes: *chance.one_of(&[0, 1 << 20, 256 << 20]),
            budget_bytes: *chance.one_of(&[2 << 20, 64 << 20]),
            hot_bytes: hot_slots.map(|slots| SLOT_BYTES * slots),
            frame_bytes: *apart.one_of(&[0, 64 << 10, 32 << 20]),
            journal_bytes_max: drops.then(|| SLOT_BYTES * (4 + chance.below(4))),
            when_full: if drops_oldest { WhenFull::DropOldest } else { WhenFull::Refuse },
            commit_deadline: Duration::from_secs(2),
            ..Options::default()
        };
        let mut steps = Vec::new();
        for step in STEPS {
            let likely = match step {
                Step::Fill if !fills => 0,
                Step::Settler | Step::Erase if hot_slots.is_none() => 0,
                Step::Erase => apart.below(3),
                Step::Settler => 1 + apart.below(12),
                Step::Journal | Step::Disk => 8 + chance.below(24),
                Step::Append | Step::Keeper => 2 + chance.below(12),
                Step::Trim | Step::ChangeTopics | Step::TakeOver => chance.below(2),
                Step::Stall | Step::Fill => chance.below(3),
                _ => chance.below(8),
            };
            steps.extend((0..likely).map(|_| step));
        }
        let loses_checkpoints = settles && apart.one_in(2);
        let (mut runs, mut steps_max) = (1 + chance.below(6), *chance.one_of(&[60, 200, 500]));
        let mut options = options;
        if settles && apart.one_in(3) {
            // Each run ends a segment. Where a pack is made of each, eight become one.
            (runs, steps_max) = (9 + apart.below(6), 200);
            options.hot_bytes = Some(0);
            steps.extend([Step::Settler, Step::Keeper].repeat(12));
        }
        Self {
            options,
            runs,
            steps_max,
            partitions: 1 + u32::try_from(chance.below(4)).expect("it is small"),
            large_one_in: *chance.one_of(&[2, 8, 1 << 20]),
            errors: chance.one_in(3) && damage.is_none(),
            cached: chance.one_in(6),
            limits: Limits { when_full, ..limits },
            damage,
            loses_checkpoints,
            steps,
        }
    }

    /// The plan of a fixed program that does everything on a sound disk, and rolls through its
    /// slots: for a sweep over all operations.
    pub(crate) fn fixed() -> Self {
        let options = Options {
            slot_bytes: Some(SLOT_BYTES),
            replay_threads: 0,
            ring_bytes: 64 << 10,
            index_bytes: 0,
            hot_bytes: Some(SLOT_BYTES),
            journal_bytes_max: Some(SLOT_BYTES * 5),
            when_full: WhenFull::DropOldest,
            ..Options::default()
        };
        let likely = |step: &Step| match step {
            Step::Stall | Step::Fill => 0,
            Step::Journal | Step::Disk | Step::Append => 6,
            Step::Keeper => 4,
            _ => 1,
        };
        let steps = STEPS.iter().flat_map(|step| std::iter::repeat_n(*step, likely(step)));
        Self {
            options,
            runs: 3,
            steps_max: 600,
            partitions: 2,
            large_one_in: 2,
            errors: false,
            cached: false,
            limits: Limits {
                age: Some(Duration::from_secs(30)),
                bytes: Some(3 << 20),
                when_full: WhenFull::DropOldest,
            },
            damage: None,
            loses_checkpoints: false,
            steps: steps.collect(),
        }
    }

    /// The next step.
    pub(crate) fn step(&self, chance: &mut Chance) -> Step {
        *chance.one_of(&self.steps)
    }

    /// Whether the oldest segments may be given up.
    pub(crate) fn drops(&self) -> bool {
        self.options.when_full == WhenFull::DropOldest || !self.limits.are_none()
    }
}
