//! Rows of files: events of the past, judged as those of a request are.
//!
//! A row is one event, or bytes that whoever read the file could make none of. Each gets a record
//! of its own, whatever the others are. What differs from a request: an event without `type` is a
//! track call, its time is declared true, and a time without a zone is refused, unless it is said
//! that all such are in UTC: what was local where the file was written, nobody here knows.

use std::borrow::Cow;

use super::{Intake, Judged, RequestFacts, Validate};
use crate::envelope::{Manner, Mapping, Root};
use crate::rejection::{Code, Rejection};
use crate::scan::ScanLimits;
use crate::source::SourceRules;

/// A row of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Its number in the file, by which it is told.
    pub number: u64,
    /// What it holds.
    pub content: RowContent<'a>,
}

/// What a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowContent<'a> {
    /// What should be an event: an object in JSON.
    Event(&'a [u8]),
    /// Something that is no event, as whoever read the file found.
    Refused {
        /// Why, for people.
        reason: &'a str,
        /// The row as it stands in the file, or the first of it.
        bytes: &'a [u8],
    },
}

/// What a time without a zone is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Zoneless {
    /// A time without a zone is refused.
    #[default]
    Refused,
    /// It is in UTC.
    Utc,
}

impl Intake {
    /// Gives each row its record, in order. `make_id` fills sixteen bytes for the row of that
    /// number, which has no message id.
    pub fn judge_rows<'a>(
        &mut self,
        rows: impl Iterator<Item = Row<'a>>,
        source: &SourceRules,
        request: &RequestFacts<'_>,
        zoneless: Zoneless,
        schemas: &dyn Validate,
        make_id: &mut dyn FnMut(u64, &mut [u8; 16]),
    ) -> Judged {
        let mut judged = std::mem::take(&mut self.desk.spare);
        let manner = Manner::of_rows(zoneless == Zoneless::Refused);
        let mapping = Mapping::new(manner, source, request, Root::default(), schemas);
        for row in rows {
            self.judge_row(row, &mapping, &source.limits, make_id, &mut judged);
        }
        judged
    }

    fn judge_row(
        &mut self,
        row: Row<'_>,
        mapping: &Mapping<'_>,
        limits: &ScanLimits,
        make_id: &mut dyn FnMut(u64, &mut [u8; 16]),
        judged: &mut Judged,
    ) {
        let said = |rejection| of_row(row, rejection);
        match row.content {
            RowContent::Refused { reason, bytes } => {
                let flaw = said(Rejection::new(Code::InvalidRow, reason.to_owned()));
                judged.reject(self.desk.rejected.build(&mapping.refused(bytes, &flaw)), bytes);
            }
            RowContent::Event(bytes) => {
                let make_id = &mut |id: &mut [u8; 16]| make_id(row.number, id);
                self.judge_event(bytes, mapping, limits, make_id, said, judged);
            }
        }
    }
}

/// The row's number goes before the reason: in `rejected` nothing else tells it.
fn of_row(row: Row<'_>, rejection: Rejection) -> Rejection {
    let message = Cow::Owned(format!("row {}: {}", row.number, rejection.message));
    Rejection { message, ..rejection }
}
