//! What a destination did not take, as a record of the topic `undelivered`.
//!
//! {key, value} records: the key is the destination's name, the value a JSON object that says why,
//! where the event lies, and what would have been sent.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracklog_protocol::line::format_time;
use tracklog_protocol::{KeyValue, Offset, PartitionId, Record, TimeMicros};

use crate::route::{DestinationName, Lane};

/// The topic.
pub const TOPIC: &str = "undelivered";

/// One event that was set aside.
#[derive(Clone, Copy, Debug)]
pub(super) struct SetAside<'a> {
    pub(super) destination: &'a DestinationName,
    pub(super) lane: Lane,
    pub(super) why: &'a str,
    pub(super) at: TimeMicros,
    /// The source.
    pub(super) topic: &'a str,
    pub(super) partition: PartitionId,
    pub(super) offset: Offset,
    /// The JSON line that was to be sent.
    pub(super) line: &'a [u8],
}

/// A record's value.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Undelivered<'a> {
    /// To whom.
    pub destination: String,
    /// By which lane.
    pub lane: String,
    /// Why it was set aside.
    pub reason: String,
    /// When.
    pub failed_at: String,
    /// The topic in which the event lies.
    pub topic: String,
    /// Its partition there.
    pub partition: u32,
    /// Its offset there.
    pub offset: u64,
    /// What would have been sent.
    #[serde(borrow)]
    pub line: &'a RawValue,
}

impl<'a> Undelivered<'a> {
    /// Reads a record; `None` when it is none of these.
    #[must_use]
    pub fn of(record: Record<'a>) -> Option<Self> {
        serde_json::from_slice(record.key_value()?.value?).ok()
    }
}

/// Writes the record of `aside` into `out`.
pub(super) fn write<'o>(aside: &SetAside<'_>, out: &'o mut Vec<u8>) -> Record<'o> {
    let line = std::str::from_utf8(aside.line).expect("lines are JSON");
    let line = serde_json::from_str(line).expect("lines are JSON");
    let value = Undelivered {
        destination: aside.destination.to_string(),
        lane: aside.lane.as_str().to_owned(),
        reason: aside.why.to_owned(),
        failed_at: format_time(aside.at),
        topic: aside.topic.to_owned(),
        partition: aside.partition.partition,
        offset: aside.offset.0,
        line,
    };
    let value = serde_json::to_vec(&value).expect("texts and numbers become JSON");
    KeyValue { key: aside.destination.as_str().as_bytes(), value: Some(&value) }.encode(out)
}
