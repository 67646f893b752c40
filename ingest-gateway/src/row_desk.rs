//! Rows of files, and rejected events once more, judged by the rules of a running gateway's
//! sources.
//!
//! What becomes of them is decided as for an event of a request: the same scan, the same mapping,
//! the same schemas, the same counters. Whoever backfills or retries stores the records, since with
//! them goes how far that has come.

use std::fmt;
use std::sync::Arc;

use tracklog_log::Item;
use tracklog_log::dedupe::Outcomes;

use crate::ack::{Known, RECORD_OVERHEAD_BYTES};
use crate::delivery::{Desk, now, with_bench};
use crate::intake::kept::Kept;
use crate::intake::rows::{Row, Zoneless};
use crate::intake::{Judged, Judgement, RequestFacts};
use crate::sources::KnownSource;

/// Where rows are judged.
#[derive(Clone)]
pub struct RowDesk(Arc<Desk>);

/// There is no source of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no source {0:?} in the node's configuration")]
pub struct UnknownSource(pub String);

/// What became of rows: a record each.
pub struct JudgedRows {
    desk: Arc<Desk>,
    source: Arc<KnownSource>,
    judged: Judged,
}

impl RowDesk {
    pub(crate) const fn new(desk: Arc<Desk>) -> Self {
        Self(desk)
    }

    /// Whether there is a source of this name.
    ///
    /// # Errors
    /// [`UnknownSource`] when there is none.
    pub fn check_source(&self, name: &str) -> Result<(), UnknownSource> {
        self.source(name).map(drop)
    }

    fn source(&self, name: &str) -> Result<Arc<KnownSource>, UnknownSource> {
        let source = self.0.sources.by_name(name).cloned();
        source.ok_or_else(|| UnknownSource(name.to_owned()))
    }

    /// Judges `rows` as those of the source `source`. `make_id` fills sixteen bytes for the row of
    /// that number, which has no message id. Does not wait; a MiB of rows takes some milliseconds.
    ///
    /// # Errors
    /// [`UnknownSource`] when there is no such source.
    pub fn judge<'a>(
        &self,
        source: &str,
        zoneless: Zoneless,
        rows: impl Iterator<Item = Row<'a>>,
        make_id: &mut dyn FnMut(u64, &mut [u8; 16]),
    ) -> Result<JudgedRows, UnknownSource> {
        let (desk, source) = (Arc::clone(&self.0), self.source(source)?);
        let request = RequestFacts {
            received: now(),
            peer: None,
            client: None,
            user_agent: None,
            headers: &[],
        };
        let (rules, schemas) = (&source.rules, &*desk.registry);
        let judged = with_bench(|bench| {
            bench.intake.judge_rows(rows, rules, &request, zoneless, schemas, make_id)
        });
        Ok(JudgedRows { desk, source, judged })
    }

    /// Judges a rejected event again, by what holds now for the source `source`. `make_id` fills
    /// sixteen bytes for its message id where it has none. Does not wait.
    ///
    /// # Errors
    /// [`UnknownSource`] when there is no such source any more.
    pub fn judge_kept(
        &self,
        source: &str,
        kept: &Kept<'_>,
        make_id: &mut dyn FnMut(&mut [u8; 16]),
    ) -> Result<JudgedRows, UnknownSource> {
        let (desk, source) = (Arc::clone(&self.0), self.source(source)?);
        let (rules, schemas) = (&source.rules, &*desk.registry);
        let judged = with_bench(|bench| bench.intake.judge_kept(kept, rules, schemas, make_id));
        Ok(JudgedRows { desk, source, judged })
    }
}

impl JudgedRows {
    /// What became of each row, in order.
    pub fn iter(&self) -> impl Iterator<Item = Judgement<'_>> + Clone {
        self.judged.iter()
    }

    /// The record of a row, and where it goes.
    #[must_use]
    pub fn item<'a>(&self, judgement: &Judgement<'a>) -> Item<'a> {
        self.desk.writer.item(judgement)
    }

    /// What it takes of the log's budget.
    #[must_use]
    pub const fn bytes_of(judgement: &Judgement<'_>) -> usize {
        judgement.record.bytes().len() + RECORD_OVERHEAD_BYTES
    }

    /// Counts rows that are durable, and what the log said of each; of further items too, which
    /// lie behind.
    pub fn count<'a>(
        &self,
        stored: impl Iterator<Item = Judgement<'a>> + Clone,
        outcomes: &Outcomes,
    ) {
        let mut known = Known::default();
        known.add(outcomes);
        self.source.count_rows(stored, known);
    }
}

impl fmt::Debug for RowDesk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowDesk").finish_non_exhaustive()
    }
}

impl fmt::Debug for JudgedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JudgedRows").field("judged", &self.judged).finish_non_exhaustive()
    }
}
