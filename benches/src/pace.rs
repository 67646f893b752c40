//! How long criterion measures: long enough to see a factor, short enough to be run often.
//!
//! Arguments on the command line (`--measurement-time`, `--sample-size`) win over these.

use std::time::Duration;

use criterion::Criterion;

/// For code that only computes: nanoseconds to microseconds a turn.
#[must_use]
pub fn computing() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .without_plots()
        .configure_from_args()
}

/// For code that waits for the disk or reads hundreds of megabytes a turn.
#[must_use]
pub fn moving_bytes() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args()
}
