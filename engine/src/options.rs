//! How a log is opened.

use std::time::Duration;

use tracklog_log::Dedupe;
pub use tracklog_log::WhenFull;

pub use crate::disk::BackendChoice;

/// How a log is opened. The default is what a server wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a slot, a power of two from 16 MiB to 1 GiB. Counts when the log is made; 256 MiB
    /// by default.
    pub slot_bytes: Option<u64>,
    /// How commits reach the disk.
    pub backend: BackendChoice,
    /// The intake's budget: how much may wait for the disk in all.
    pub budget_bytes: usize,
    /// How much of the log's end stays in memory for readers.
    pub ring_bytes: usize,
    /// How much memory the places of full segments may take.
    pub index_bytes: u64,
    /// How many threads read the past for replays, and as many for live readers. With 0 whoever asks
    /// does it himself.
    pub replay_threads: usize,
    /// What the answers to fetches may hold of maps together, windows of 1 MiB counted whole; beyond
    /// it answers are copies, so that slow readers do not keep all of the journal's slots.
    pub pinned_bytes: u64,
    /// What the replay threads may be at: what is being read for replays, and what was read and not
    /// taken by its caller. More waits, first come, first served; a single larger fetch goes alone.
    /// Without replay threads nothing is counted.
    pub replay_bytes: u64,
    /// How much of the log's newest full segments stays as it was written, and less where the
    /// journal's limit asks for it. What is older is settled into packs: sorted, compressed, and
    /// read through decoded frames. With `None` nothing is. The oldest segments of which more than half
    /// can be read no more, for limits and trims, become packs in any case: that frees the disk.
    pub hot_bytes: Option<u64>,
    /// How hard packs are compressed, as zstd counts: 1 to 22.
    pub pack_level: i32,
    /// How much is kept of what was decoded of packs.
    pub frame_bytes: u64,
    /// How large the journal may grow; only the disk bounds it otherwise.
    pub journal_bytes_max: Option<u64>,
    /// What to do when there is no room. What would go is the oldest segment of the journal: the live
    /// records of compacted topics stay, and where it holds more of them than a sixteenth of a slot
    /// (or 512 KiB), appends are refused.
    pub when_full: WhenFull,
    /// The topics whose events are stored once: see [`tracklog_log::dedupe`].
    pub dedupe: Vec<Dedupe>,
    /// How much memory the ids of events in the journal may take, 16 bytes each; and the filters
    /// over those in packs, less than 2 bytes each, as much again. Beyond it the oldest are known no
    /// more.
    pub ids_bytes: u64,
    /// How many bits the hash of an id has. Fewer than 64 have ids share one: for tests of what
    /// happens then.
    pub id_hash_bits: u32,
    /// Open although commits that were acked are gone, and record that.
    pub accept_loss: bool,
    /// After so long without an answer from the disk new work is shed.
    pub commit_deadline: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            slot_bytes: None,
            backend: BackendChoice::Auto,
            budget_bytes: 64 << 20,
            ring_bytes: 64 << 20,
            index_bytes: 256 << 20,
            replay_threads: 2,
            pinned_bytes: 256 << 20,
            replay_bytes: 128 << 20,
            hot_bytes: Some(2 << 30),
            pack_level: 6,
            frame_bytes: 32 << 20,
            journal_bytes_max: None,
            when_full: WhenFull::Refuse,
            dedupe: Vec::new(),
            ids_bytes: 1 << 30,
            id_hash_bits: u64::BITS,
            accept_loss: false,
            commit_deadline: Duration::from_secs(2),
        }
    }
}
