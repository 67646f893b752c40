//! The quarantine, there and back: rejected events listed, shown, and tried again.
//!
//! Promises
//! - What is tried again is judged by the gateway, as an event of a request is, by the rules, limits
//!   and schemas of now; its message id, its time of receipt, its source, its addresses and headers
//!   are those that it came with.
//! - It is stored once, however often it is tried and whoever is killed meanwhile: see `outcomes`.
//! - What still fails stays where it is, and its newest reason is told.
//! - One call reads and holds a bounded piece, and says where the next goes on: a client may go over
//!   millions of records, and may end anywhere.
//!
//! What a stage rejected is in that stage's source already, under its own offset, and whoever reads
//! that topic has counted it there. So it is not stored there a second time: the record is read
//! again where it lies, and goes through the stage, whose outputs are stored with the outcome in one
//! commit. It comes behind what was worked on meanwhile.
//!
//! [`listing`](Rejections) needs a log that can be read; [`Retries`] a node. Called by `admin`, and
//! by `tools` for a folder that no node holds.

mod forgetting;
mod listing;
mod outcomes;
mod retrying;
mod stored;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tracklog_ingest_gateway::intake::kept::{Kept, made_id};
use tracklog_log::meta::MetaError;
use tracklog_log::{AppendError, Busy, FetchError};
use tracklog_protocol::Offset;
use tracklog_protocol::line::format_time;
use tracklog_protocol::rejected::RejectedView;
use xxhash_rust::xxh3::xxh3_128;

use crate::bound::Bound;
pub use forgetting::{ForgetError, forget_erased};
pub use listing::{Rejections, Shown};
pub use outcomes::{Reason, TOPIC};
pub(crate) use retrying::RetryCounters;
pub use retrying::{Retried, Retries, StageOf};
pub(crate) use stored::source_of;

/// The topic that rejected events are in.
const REJECTED: &str = "rejected";

/// A place in `rejected`: `PARTITION@OFFSET`, or with a colon as lines of `replay` have it; with or
/// without the topic's name before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: Offset,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.offset)
    }
}

/// The text names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place in `rejected`; places look like 2@1207")]
pub struct NoPlace(String);

impl FromStr for Place {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let named = text.strip_prefix(REJECTED).and_then(|rest| rest.strip_prefix('/'));
        let place =
            named.unwrap_or(text).split_once(['@', ':', ' ']).and_then(|(partition, offset)| {
                let offset = Offset(offset.parse().ok()?);
                Some(Self { partition: partition.parse().ok()?, offset })
            });
        place.ok_or_else(|| NoPlace(text.chars().take(64).collect()))
    }
}

/// Which rejected events are meant. All that is given must match, letter by letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The code: of the first reason, or of the newest.
    pub code: Option<String>,
    /// The event's name.
    pub event: Option<String>,
    /// The source.
    pub source: Option<String>,
    /// Where to begin, in each partition.
    pub from: Option<Bound>,
    /// Where to end, not included.
    pub to: Option<Bound>,
}

impl Filter {
    fn takes(&self, event: &RejectedEvent) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let still = event.still.as_ref().map(|still| &*still.code);
        (is(&self.code, Some(&event.reason.code)) || is(&self.code, still))
            && is(&self.event, event.event.as_deref())
            && is(&self.source, event.source.as_deref())
    }
}

/// How a rejected event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was not tried again.
    Waiting,
    /// It is stored.
    Retried,
    /// It was tried again, and rejected again.
    Failing,
    /// It cannot be tried again.
    Final,
}

impl State {
    /// As text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Retried => "retried",
            Self::Failing => "failing",
            Self::Final => "final",
        }
    }
}

/// Where an event is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAt {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// The offset; `None` where it is not there any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl fmt::Display for StoredAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)?;
        self.offset.map_or(Ok(()), |offset| write!(f, "@{offset}"))
    }
}

/// A rejected event, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RejectedEvent {
    /// Its partition in `rejected`.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// When it was received.
    pub received_at: String,
    /// The source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The event's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The message id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The stage that rejected it; `None`: the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Why it was rejected at first.
    #[serde(flatten)]
    pub reason: Reason,
    /// How it is now.
    pub state: State,
    /// Where it is now, if it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<StoredAt>,
    /// Why it was rejected again, or cannot be tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub still: Option<Reason>,
}

impl RejectedEvent {
    fn of(place: Place, rejected: &RejectedView<'_>) -> Self {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let why_final = why_final(rejected);
        Self {
            partition: place.partition,
            offset: place.offset.0,
            received_at: format_time(rejected.received_time()),
            source: text(rejected.source()),
            event: text(rejected.name()),
            message_id: text(rejected.message_id()),
            stage: text(rejected.stage()),
            reason: Reason {
                code: rejected.code().to_owned(),
                pointer: text(rejected.pointer()),
                message: rejected.message().to_owned(),
            },
            state: if why_final.is_some() { State::Final } else { State::Waiting },
            stored: None,
            still: why_final,
        }
    }

    /// Its place.
    #[must_use]
    pub const fn place(&self) -> Place {
        Place { partition: self.partition, offset: Offset(self.offset) }
    }
}

/// The code of what cannot be tried again, as far as its record tells.
const FINAL: &str = "not_kept";

/// Why what is kept of a rejected event is not enough; nothing where it is.
fn why_final(rejected: &RejectedView<'_>) -> Option<Reason> {
    let why = match rejected.stage() {
        None => Kept::of(*rejected).err()?.to_string(),
        Some(_) if source_of(rejected).is_some() => return None,
        Some(_) => "it does not say where the record lies that the stage rejected".to_owned(),
    };
    Some(Reason { code: FINAL.to_owned(), pointer: None, message: why })
}

/// What the id of a rejected event is made of that came without one.
fn id_bytes(place: Place) -> [u8; 16] {
    xxh3_128(format!("{REJECTED}/{place}").as_bytes()).to_le_bytes()
}

/// The message id under which a rejected event is stored.
fn message_id(place: Place, rejected: &RejectedView<'_>) -> String {
    rejected.message_id().map_or_else(|| made_id(id_bytes(place)), str::to_owned)
}

/// A piece of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Events that match, by partition and offset.
    pub records: Vec<RejectedEvent>,
    /// Records that could not be read.
    #[serde(default)]
    pub damaged: u64,
    /// Where the next piece begins; `None` at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Why nothing is told, or not tried again. What was tried before is done, and known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuarantineError {
    /// There is no such record, or no more.
    #[error("there is no rejected event at {0}")]
    NotFound(Place),
    /// `rejected`, or what an event was made of, can't be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The topic of outcomes can't be used.
    #[error("the topic {TOPIC}: {0}")]
    Ledger(#[from] MetaError),
    /// An outcome that no program of this version wrote.
    #[error("what became of rejected events cannot be read: {0}")]
    Record(#[from] serde_json::Error),
    /// The intake is busy. Try again.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The log did not store it.
    #[error(transparent)]
    Append(AppendError),
    /// Nothing is tried for a while. Try again.
    #[error("nothing is tried again while somebody is forgotten: try when that is done")]
    Held,
    /// Somebody else tried the same events. Go on.
    #[error("another retry was faster")]
    Moved,
    /// The stage cannot work now. Try again.
    #[error("the stage {stage}: {why}")]
    Stage {
        /// Its name.
        stage: String,
        /// Why not.
        why: String,
    },
}

impl From<AppendError> for QuarantineError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::ConditionFailed { .. } => Self::Moved,
            error => Self::Append(error),
        }
    }
}

#[cfg(test)]
mod tests;
