//! `[archive]`: where every event is kept as Parquet.
//!
//! In the file alone. Every key may be missing.

use std::time::Duration;

use serde::Deserialize;
use tracklog_pipeline::quantity::{Bytes, Span};

/// `[archive]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArchiveSettings {
    /// Whether there is one.
    pub enabled: bool,
    /// A folder, or the URL of an object store; `None`: `archive` in the data folder.
    pub url: Option<String>,
    flush_bytes: Bytes,
    flush_interval: Span,
}

impl ArchiveSettings {
    /// Events are archived as soon as about so many bytes of them wait.
    #[must_use]
    pub const fn flush_bytes(&self) -> u64 {
        self.flush_bytes.0
    }

    /// Events are archived as soon as one waits so long.
    #[must_use]
    pub const fn flush_interval(&self) -> Duration {
        self.flush_interval.0
    }

    /// The same, with another interval.
    #[must_use]
    pub fn flushed_every(self, interval: Duration) -> Self {
        Self { flush_interval: Span(interval), ..self }
    }
}

impl Default for ArchiveSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            url: None,
            flush_bytes: Bytes(64 << 20),
            flush_interval: Span(Duration::from_secs(5 * 60)),
        }
    }
}
