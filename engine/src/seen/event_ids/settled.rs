//! Which ids there may be in packs, and the ids of a log as those share them who append and who look.
//!
//! Promises
//! - A hash that is in a listed pack of the window is in a filter, from before the pack is listed on.
//! - However many packs there are, a look asks few filters: see
//!   [`filters`](crate::settled::filters), which makes them.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tracklog_protocol::TimeMicros;

use super::{HotIds, IdFilter, TopicIdHash};
use crate::journal::commit::SegmentNumber;

/// The ids of packs side by side.
#[derive(Clone, Debug)]
pub(crate) struct SpanFilter {
    /// The packs' segments.
    pub(crate) first: SegmentNumber,
    pub(crate) last: SegmentNumber,
    /// Their events were appended later than this,
    pub(crate) after: TimeMicros,
    /// and no later than that.
    pub(crate) until: TimeMicros,
    pub(crate) filter: Arc<IdFilter>,
}

/// Which ids there may be in packs.
#[derive(Clone, Debug, Default)]
pub(crate) struct SettledIds {
    /// All segments up to here are settled: their ids are in the filters, or out of the window.
    pub(crate) through: SegmentNumber,
    /// Oldest first.
    pub(crate) spans: Vec<SpanFilter>,
}

impl SettledIds {
    /// Whether a settled event may have this id.
    pub(crate) fn may_hold(&self, hash: TopicIdHash) -> bool {
        self.spans.iter().any(|span| span.filter.may_hold(hash.get()))
    }

    /// How many ids it knows.
    pub(crate) fn len(&self) -> u64 {
        self.spans.iter().map(|span| span.filter.len()).sum()
    }

    /// What they take of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.spans.iter().map(|span| span.filter.bytes()).sum()
    }
}

/// All ids that a log knows.
#[derive(Debug)]
pub(crate) struct KnownIds {
    /// Of the journal's events. Held by the journal while it stamps a commit.
    pub(crate) hot: Mutex<HotIds>,
    settled: RwLock<Arc<SettledIds>>,
}

impl KnownIds {
    pub(crate) fn new(hot: HotIds, settled: SettledIds) -> Self {
        Self { hot: Mutex::new(hot), settled: RwLock::new(Arc::new(settled)) }
    }

    /// Those of packs as they are now.
    pub(crate) fn settled(&self) -> Arc<SettledIds> {
        Arc::clone(&self.settled.read())
    }

    /// Turns to what is settled now. What was before is freed by those who still hold it.
    pub(crate) fn set_settled(&self, settled: Arc<SettledIds>) {
        let before = std::mem::replace(&mut *self.settled.write(), settled);
        drop(before);
    }
}

impl Default for KnownIds {
    fn default() -> Self {
        Self::new(HotIds::new(SegmentNumber::default(), 0), SettledIds::default())
    }
}
