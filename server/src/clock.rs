//! The wall clock, as the log's times count, and the one that measures.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tracklog_protocol::TimeMicros;

/// The time now. A clock set before 1970 reads as 1970.
#[must_use]
pub fn now() -> TimeMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimeMicros(i64::try_from(since.as_micros()).expect("the clock is within 290,000 years of 1970"))
}

/// Nanoseconds since the first call, by a clock that never goes back.
#[must_use]
pub fn nanos() -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    let since = BEGIN.get_or_init(Instant::now).elapsed();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
