//! `[live]`: figures of what comes in, as it comes.
//!
//! In the file alone. Every key may be missing.

use serde::Deserialize;
use tracklog_pipeline::realtime::{LiveOptions, SumPath};

/// More names than these are not told apart: they are sent to each client, each second.
const NAMES_MAX: usize = 10_000;
/// Each is looked for in every event.
const SUMS_MAX: usize = 16;

/// `[live]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LiveSettings {
    /// Whether there are live figures.
    pub enabled: bool,
    /// How many names are told apart.
    pub names_max: usize,
    /// How many may watch at once.
    pub clients_max: usize,
    /// Numbers that are summed: `properties.total`.
    pub sums: Vec<SumPath>,
}

impl Default for LiveSettings {
    fn default() -> Self {
        let usual = ["revenue", "total", "price", "quantity"];
        let path = |name| format!("properties.{name}").parse().expect("it names a property");
        let sums = usual.into_iter().map(path).collect();
        Self { enabled: true, names_max: 500, clients_max: 32, sums }
    }
}

impl LiveSettings {
    /// What is wrong with them.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.names_max > NAMES_MAX {
            return Err(format!("names_max is at most {NAMES_MAX}"));
        }
        if self.sums.len() > SUMS_MAX {
            return Err(format!("sums has at most {SUMS_MAX} entries"));
        }
        Ok(())
    }

    /// What is counted.
    #[must_use]
    pub fn options(&self) -> LiveOptions {
        LiveOptions { names_max: self.names_max, sums: self.sums.clone() }
    }
}
