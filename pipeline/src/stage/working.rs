//! One batch through one stage: records in, outputs out, and what fails set aside.
//!
//! A function of the batch and of what the stage looks up; it touches no log. A stage that panics
//! may have left its work half done, so the records before the one at fault are worked on again
//! without it, and committed; the batch then begins with it, and if it panics again it is rejected.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tracklog_protocol::Offset;

use super::quarantine::Quarantine;
use super::{Outputs, Poison, SourceBatch, Stage, StageError};

/// How far a batch was worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Worked {
    /// The first offset that was not.
    pub(super) next: Offset,
    /// How many records were.
    pub(super) records: u64,
    /// How many of them were rejected.
    pub(super) rejected: u64,
}

enum Attempt {
    Done(Worked),
    Panicked { at: Offset, reason: String },
}

/// Works on `batch` below `until`, and stops early once the outputs have `bytes_max`.
///
/// # Errors
/// What [`Stage::begin`] says.
pub(super) async fn work(
    stage: &dyn Stage,
    batch: &SourceBatch,
    until: Offset,
    bytes_max: usize,
    quarantine: &mut Quarantine,
    outputs: &mut Outputs,
) -> Result<Worked, StageError> {
    let mut until = until;
    loop {
        outputs.clear(bytes_max);
        match attempt(stage, batch, until, bytes_max, quarantine, outputs).await? {
            Attempt::Done(worked) => return Ok(worked),
            Attempt::Panicked { at, reason } if at == first(batch) => {
                outputs.clear(bytes_max);
                return Ok(reject_first(batch, &reason, quarantine, outputs));
            }
            Attempt::Panicked { at, .. } => until = at,
        }
    }
}

/// Rejects the first record of `batch`, whatever the stage makes of it.
pub(super) fn reject_first(
    batch: &SourceBatch,
    reason: &str,
    quarantine: &mut Quarantine,
    outputs: &mut Outputs,
) -> Worked {
    let (offset, appended_at, record) =
        batch.timed_records().next().expect("a batch that fails has one");
    outputs.begin(offset);
    quarantine.reject(batch.source, offset, appended_at, record, reason, outputs);
    Worked { next: offset.plus(1), records: 1, rejected: 1 }
}

/// Has `stage` work on the one record of `batch`, beside its own loop and once more, say. Who asks
/// brings what comes of it into the log.
///
/// # Errors
/// What [`Stage::begin`] says: not now.
pub async fn once(
    stage: &dyn Stage,
    batch: &SourceBatch,
) -> Result<Result<Outputs, Poison>, StageError> {
    let mut work = stage.begin(batch).await?;
    let (offset, record) = batch.records().next().expect("the batch has its record");
    let mut outputs = Outputs::default();
    outputs.begin(offset);
    let done = catch_unwind(AssertUnwindSafe(|| work.record(offset, record, &mut outputs)));
    let done = done.unwrap_or_else(|panic| Err(Poison { reason: panicked(&*panic) }));
    Ok(done.map(|()| outputs))
}

/// Where the first record lies.
fn first(batch: &SourceBatch) -> Offset {
    batch.records().next().map_or(batch.next, |(offset, _)| offset)
}

async fn attempt(
    stage: &dyn Stage,
    batch: &SourceBatch,
    until: Offset,
    bytes_max: usize,
    quarantine: &mut Quarantine,
    outputs: &mut Outputs,
) -> Result<Attempt, StageError> {
    let mut work = stage.begin(batch).await?;
    let until = until.min(work.until());
    let mut worked = Worked { next: until, records: 0, rejected: 0 };
    for (offset, appended_at, record) in batch.timed_records().take_while(|it| it.0 < until) {
        if outputs.byte_count() >= bytes_max {
            worked.next = offset;
            break;
        }
        let whole = outputs.len();
        outputs.begin(offset);
        let done = catch_unwind(AssertUnwindSafe(|| work.record(offset, record, outputs)));
        match done {
            Ok(Ok(())) => {}
            Ok(Err(Poison { reason })) => {
                outputs.truncate(whole);
                quarantine.reject(batch.source, offset, appended_at, record, &reason, outputs);
                worked.rejected += 1;
            }
            Err(panic) => {
                return Ok(Attempt::Panicked { at: offset, reason: panicked(&*panic) });
            }
        }
        worked.records += 1;
    }
    Ok(Attempt::Done(worked))
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("no reason given"))
}
