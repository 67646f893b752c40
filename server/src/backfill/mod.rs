//! Files of past events on their way into the log: rows, and how far a file has come.
//!
//! Promises
//! - Each row of a file is stored once for a source, as an event in `raw` or in `rejected`, over
//!   kills of client and node: {file, next row} is a record of the topic [`TOPIC`] in the commit of
//!   the rows themselves, on the condition that the record before it is still the last.
//! - A row that was stored is passed over when it comes again, and rows are stored in order, none
//!   left out: a stretch that begins behind the next row is refused.
//! - A row without a message id gets one that follows from the file's hash and the row's number.
//! - Memory is bounded by one stretch of rows; the rest of the work waits for its turn.
//!
//! A file is known by the SHA-256 of its bytes. Rows are judged by the gateway, as events of a
//! request are. Bytes of the topic: `pipeline/FORMAT.md`, section *Backfills*. Called by `admin`.

mod rows;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracklog_ingest_gateway::intake::Judgement;
pub use tracklog_ingest_gateway::intake::rows::{Row, RowContent, Zoneless};
use tracklog_ingest_gateway::{JudgedRows, RowDesk, UnknownSource};
use tracklog_log::dedupe::{OnceError, VerdictKind, append_once};
use tracklog_log::meta::{MetaError, MetaTopic};
use tracklog_log::{
    Append, AppendError, Busy, Condition, Epoch, FetchError, Item, Lane, Log, Meta as _, TopicName,
};
use tracklog_protocol::KeyValue;
use tracklog_protocol::event::{EventFlags, EventView};
use xxhash_rust::xxh3::xxh3_128;

use crate::blocking;

pub use rows::{Misframed, push_row, rows_of};

/// Where it is kept how far each file has come.
pub const TOPIC: &str = "_backfills";

/// So many rows come at once, at most.
pub const ROWS_MAX: usize = 10_000;
/// Records of one commit: small ones beside it do not wait longer for it than for a usual one.
const COMMIT_BYTES: usize = 256 << 10;
/// The topic is rewritten once it has so many records beyond those that count.
const STALE_RECORDS_MAX: u64 = 10_000;

/// A file, by the SHA-256 of its bytes, as 64 digits of lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHash(String);

impl FileHash {
    /// The hash that `text` spells; `None` where it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 64 && text.bytes().all(is_hex)).then(|| Self(text.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the id of the row without one is made of.
    fn id_of_row(&self, number: u64) -> [u8; 16] {
        let name = format!("{}/{number}", self.0);
        xxh3_128(name.as_bytes()).to_le_bytes()
    }
}

/// How far a file has come for a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// The number of the first row that is not stored yet. Rows count from 1.
    pub next_row: u64,
    /// Whether all rows are.
    pub finished: bool,
    /// Rows that are events in `raw`.
    pub stored: u64,
    /// Of those, rows that were there already when they came: live, or of another file. How many is
    /// known behind the commit of the rows and recorded by the next one, so a kill between them
    /// loses a commit's.
    #[serde(default)]
    pub duplicate: u64,
    /// Rows that are in `rejected`.
    pub rejected: u64,
    /// Of the stored ones, those that said no time: theirs is when they were received.
    pub without_time: u64,
    /// How the file was read: columns, their types, what times without a zone are. Once a row of it is
    /// in `raw` the rest must be read likewise.
    pub reading: String,
    /// Its name, for people.
    pub file: String,
}

impl Progress {
    fn none() -> Self {
        Self { next_row: 1, ..Self::default() }
    }

    /// What counts of it for who reads the file so: nothing, where no row is in `raw` that was read
    /// otherwise.
    ///
    /// # Errors
    /// [`BackfillError::OtherReading`] where one is.
    pub fn under(self, reading: &str) -> Result<Self, BackfillError> {
        match self.stored {
            _ if self.reading == reading => Ok(self),
            0 => Ok(Self::none()),
            stored => Err(BackfillError::OtherReading { begun: self.reading, stored }),
        }
    }
}

/// A stretch of a file, as it comes with its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The first row number that it covers.
    pub from: u64,
    /// The first that it does not cover. A number may have no row: that of a blank line.
    pub to: u64,
    /// Whether the file ends with it.
    pub is_last: bool,
    /// How the file is read, see [`Progress::reading`].
    pub reading: String,
    /// What times without a zone are.
    pub zoneless: Zoneless,
    /// The file's name, for people.
    pub file: String,
}

/// What became of a stretch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StretchStored {
    /// How far the file is now.
    pub progress: Progress,
    /// The rows of the stretch that were rejected now.
    pub rejected: Vec<RejectedRow>,
}

/// A row that was rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectedRow {
    /// Its number.
    pub row: u64,
    /// The code, as live events have it.
    pub code: String,
    /// Where in the event, as a JSON pointer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Why, for people. Begins with the row's number.
    pub message: String,
}

/// Why a stretch was not stored, or not all of it. What was is told by [`Backfills::progress`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackfillError {
    /// There is no such source.
    #[error(transparent)]
    Source(#[from] UnknownSource),
    /// The body is no list of rows.
    #[error(transparent)]
    Misframed(#[from] Misframed),
    /// There are too many rows: send fewer at once.
    #[error("{rows} rows are more than the {ROWS_MAX} that may come at once")]
    TooMany {
        /// How many.
        rows: usize,
    },
    /// Rows of the file were stored under another reading: they would be others.
    #[error(
        "rows of it are stored, read as `{begun}` ({stored}): give the same options to go on; for those \
         that were rejected there is `tracklog rejected retry`"
    )]
    OtherReading {
        /// That reading.
        begun: String,
        /// How many are in `raw`.
        stored: u64,
    },
    /// Rows are missing before the stretch: send on from `next_row`.
    #[error("rows {next_row} to {from} are missing before these")]
    Gap {
        /// The next row.
        next_row: u64,
        /// Where the stretch begins.
        from: u64,
    },
    /// Somebody else stored rows of the file meanwhile: ask how far it is and go on there.
    #[error("another backfill of the same file was faster")]
    Moved,
    /// The intake is busy. Send it again.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The log did not store it.
    #[error(transparent)]
    Append(AppendError),
    /// An event that may be the same as a row cannot be read for now. Send it again.
    #[error("an event that may be the same cannot be read: {0}")]
    Fetch(FetchError),
    /// A record of how far the file is, that no program of this version wrote.
    #[error("how far the file has come cannot be read: {0}")]
    Record(#[from] serde_json::Error),
    /// The topic of backfills can't be used.
    #[error("the topic {TOPIC}: {0}")]
    Ledger(#[from] MetaError),
}

impl From<OnceError> for BackfillError {
    fn from(error: OnceError) -> Self {
        match error {
            OnceError::Append(error) => error.into(),
            OnceError::Busy(busy) => busy.into(),
            OnceError::Fetch(error) => Self::Fetch(error),
        }
    }
}

impl From<AppendError> for BackfillError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::ConditionFailed { .. } => Self::Moved,
            error => Self::Append(error),
        }
    }
}

/// All backfills of a node.
pub struct Backfills {
    log: Arc<dyn Log>,
    epoch: Epoch,
    desk: RowDesk,
    ledger: MetaTopic<dyn Log>,
    /// Who stores a stretch: one at a time, so that they cost the memory of one.
    turn: Mutex<()>,
}

impl Backfills {
    /// Opens them for the writer that holds `epoch`.
    ///
    /// # Errors
    /// [`MetaError`] when their topic can't be made, read or written.
    pub async fn open(log: Arc<dyn Log>, epoch: Epoch, desk: RowDesk) -> Result<Self, MetaError> {
        let name = TopicName::new(TOPIC).expect("our own names are good");
        let ledger = MetaTopic::open(Arc::clone(&log), epoch, name).await?;
        ledger.rewrite(STALE_RECORDS_MAX, |_| true).await?;
        Ok(Self { log, epoch, desk, ledger, turn: Mutex::default() })
    }

    /// How far `file` has come for `source`.
    ///
    /// # Errors
    /// [`BackfillError::Source`] when there is no such source.
    pub fn progress(&self, source: &str, file: &FileHash) -> Result<Progress, BackfillError> {
        self.desk.check_source(source)?;
        self.recorded(&key(source, file))
    }

    /// What the last record of a key says.
    fn recorded(&self, key: &[u8]) -> Result<Progress, BackfillError> {
        match self.ledger.get(key) {
            Some(found) => Ok(serde_json::from_slice(&found.value)?),
            None => Ok(Progress::none()),
        }
    }

    /// Stores the rows of `body` that lie in `stretch` and are not stored yet.
    ///
    /// # Errors
    /// [`BackfillError`].
    pub async fn store(
        &self,
        source: &str,
        file: &FileHash,
        stretch: Stretch,
        body: Bytes,
    ) -> Result<StretchStored, BackfillError> {
        let _turn = self.turn.lock().await;
        self.ledger.refresh().await?;
        let key = key(source, file);
        let progress = self.recorded(&key)?.under(&stretch.reading)?;
        let (recorded_duplicate, rejected) = (progress.duplicate, Vec::new());
        let mut storing =
            Storing { of: self, key, stretch, progress, recorded_duplicate, rejected };
        storing.check()?;
        let judged = storing.judge(source, file, body).await?;
        let stored = storing.store(&judged).await;
        self.ledger.rewrite(STALE_RECORDS_MAX, |_| true).await?;
        stored.map(|()| StretchStored { progress: storing.progress, rejected: storing.rejected })
    }
}

fn key(source: &str, file: &FileHash) -> Vec<u8> {
    format!("{}/{source}", file.as_str()).into_bytes()
}

/// Rows of a stretch with what became of them.
struct Judged {
    rows: JudgedRows,
    numbers: Vec<u64>,
}

/// A stretch that is being stored.
struct Storing<'b> {
    of: &'b Backfills,
    key: Vec<u8>,
    stretch: Stretch,
    progress: Progress,
    /// What the log has of [`Progress::duplicate`].
    recorded_duplicate: u64,
    rejected: Vec<RejectedRow>,
}

impl Storing<'_> {
    fn check(&self) -> Result<(), BackfillError> {
        match (self.progress.next_row, self.stretch.from) {
            (next_row, from) if from > next_row => Err(BackfillError::Gap { next_row, from }),
            _ => Ok(()),
        }
    }

    /// Judges the rows that are not stored, on a thread that may take its time.
    async fn judge(
        &self,
        source: &str,
        file: &FileHash,
        body: Bytes,
    ) -> Result<Judged, BackfillError> {
        let (desk, source, file) = (self.of.desk.clone(), source.to_owned(), file.clone());
        let (zoneless, wanted) = (self.stretch.zoneless, self.progress.next_row..self.stretch.to);
        blocking::run(move || {
            let mut rows = rows_of(&body)?;
            if rows.len() > ROWS_MAX {
                return Err(BackfillError::TooMany { rows: rows.len() });
            }
            rows.retain(|row| wanted.contains(&row.number));
            let make_id = &mut |number, id: &mut [u8; 16]| *id = file.id_of_row(number);
            let judged = desk.judge(&source, zoneless, rows.iter().copied(), make_id)?;
            let numbers = rows.iter().map(|row| row.number).collect();
            Ok(Judged { rows: judged, numbers })
        })
        .await
    }

    /// Stores all of it, a commit after the other.
    async fn store(&mut self, judged: &Judged) -> Result<(), BackfillError> {
        let all: Vec<_> = judged.rows.iter().collect();
        let mut rest = &all[..];
        let mut first = 0;
        while !rest.is_empty() {
            let some;
            (some, rest) = rest.split_at(commit_len(rest));
            let after = first + some.len();
            let next_row = judged.numbers.get(after).copied().unwrap_or(self.stretch.to);
            self.commit(&judged.rows, &judged.numbers[first..after], some, next_row).await?;
            first = after;
        }
        let is_behind = self.progress.next_row < self.stretch.to;
        let is_open = self.stretch.is_last && !self.progress.finished;
        if is_behind || is_open || self.progress.duplicate != self.recorded_duplicate {
            self.commit(&judged.rows, &[], &[], self.stretch.to).await?;
        }
        Ok(())
    }

    /// Stores `some` rows and that the file has come to `next_row`.
    async fn commit(
        &mut self,
        rows: &JudgedRows,
        numbers: &[u64],
        some: &[Judgement<'_>],
        next_row: u64,
    ) -> Result<(), BackfillError> {
        let last = self.of.ledger.get(&self.key).map(|it| it.version);
        let after = self.progress_after(some, next_row);
        let value = serde_json::to_vec(&after).expect("texts and numbers become JSON");
        let mut buffer = Vec::new();
        let record = KeyValue { key: &self.key, value: Some(&value) }.encode(&mut buffer);
        let partition = self.of.ledger.partition();
        let mut items: Vec<_> = some.iter().map(|judgement| rows.item(judgement)).collect();
        items.push(Item::Record { partition, record });
        let key = self.key.clone();
        let conditions = [Condition::LastOfKey { partition, key, last }];
        let append = Append { conditions: &conditions, items: &items };
        let appended = append_once(&*self.of.log, Lane::REPLAY, self.of.epoch, append).await;
        drop(items);
        self.of.ledger.refresh().await?;
        let outcomes = appended?;
        let duplicate = outcomes.verdicts.iter().filter(|it| it.kind == VerdictKind::Duplicate);
        let duplicate = after.duplicate + duplicate.count() as u64;
        self.recorded_duplicate = after.duplicate;
        self.progress = Progress { duplicate, ..after };
        rows.count(some.iter().copied(), &outcomes);
        self.tell(numbers, some);
        Ok(())
    }

    fn progress_after(&self, some: &[Judgement<'_>], next_row: u64) -> Progress {
        let rejected = some.iter().filter(|judgement| judgement.rejected().is_some()).count();
        let says_no_time = |judgement: &&Judgement<'_>| {
            let event = EventView::of(judgement.record);
            event.is_some_and(|event| event.flags().contains(EventFlags::TIME_GUESSED))
        };
        let before = &self.progress;
        Progress {
            next_row,
            finished: self.stretch.is_last && next_row == self.stretch.to,
            stored: before.stored + (some.len() - rejected) as u64,
            duplicate: before.duplicate,
            rejected: before.rejected + rejected as u64,
            without_time: before.without_time + some.iter().filter(says_no_time).count() as u64,
            reading: self.stretch.reading.clone(),
            file: self.stretch.file.clone(),
        }
    }

    fn tell(&mut self, numbers: &[u64], some: &[Judgement<'_>]) {
        let told = numbers.iter().zip(some).filter_map(|(row, judgement)| {
            let rejected = judgement.rejected()?;
            Some(RejectedRow {
                row: *row,
                code: rejected.code().to_owned(),
                pointer: rejected.pointer().map(str::to_owned),
                message: rejected.message().to_owned(),
            })
        });
        self.rejected.extend(told);
    }
}

/// How many of `rows` one commit holds. None of them has the id of another: how far the file has
/// come is stored with all of them, and of two with one id the second would come behind.
fn commit_len(rows: &[Judgement<'_>]) -> usize {
    let (mut bytes, mut ids) = (0, HashSet::new());
    let ends = rows.iter().position(|judgement| {
        bytes += JudgedRows::bytes_of(judgement);
        let id = EventView::of(judgement.record).map(|event| event.message_id());
        bytes > COMMIT_BYTES || id.is_some_and(|id| !ids.insert(id))
    });
    ends.unwrap_or(rows.len()).max(1)
}

impl fmt::Debug for Backfills {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backfills").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}
