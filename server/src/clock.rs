//! The wall clock, as the log's times count.

use std::time::{SystemTime, UNIX_EPOCH};

use tracklog_protocol::TimeMicros;

/// The time now. A clock set before 1970 reads as 1970.
#[must_use]
pub fn now() -> TimeMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimeMicros(i64::try_from(since.as_micros()).expect("the clock is within 290,000 years of 1970"))
}
