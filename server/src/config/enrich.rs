//! `[enrich]`: what is found out about each event on its way from `raw` to `enriched`.
//!
//! In the file alone. Every key may be missing.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
pub use tracklog_pipeline::enrich::stage::FailedLookup;

use super::quantity::{Bytes, Span};

/// `[enrich]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnrichSettings {
    /// Whether there is a stage at all.
    pub enabled: bool,
    /// Threads of the stages; `None`: as many as there are cores.
    pub threads: Option<usize>,
    /// What becomes of an event when a look-up fails.
    pub failed_lookup: FailedLookup,
    /// Browser, system and kind of device.
    pub device: Switch,
    /// Where the client is.
    pub geo: GeoSettings,
    /// Where the visit came from, and the parts of the page's URL.
    pub page: Switch,
    /// Who an anonymous visitor is.
    pub identity: Switch,
    /// What is known of the user and the group.
    pub profile: ProfileSettings,
    /// The visit, for sources that send none.
    pub session: SessionSettings,
}

impl Default for EnrichSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            threads: None,
            failed_lookup: FailedLookup::default(),
            device: Switch::default(),
            geo: GeoSettings::default(),
            page: Switch::default(),
            identity: Switch::default(),
            profile: ProfileSettings::default(),
            session: SessionSettings::default(),
        }
    }
}

/// An enricher that is on or off, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Switch {
    /// Whether it is on.
    pub enabled: bool,
}

impl Default for Switch {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[enrich.geo]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeoSettings {
    /// Whether it is on.
    pub enabled: bool,
    /// MMDB files: of places, of networks, or of both. Read again when they change.
    pub databases: Vec<PathBuf>,
    /// Whether what a server says of its user's address, `context.ip`, is taken.
    pub stated_addresses: bool,
    /// Whose headers tell a place, when a trusted proxy sends them: `cloudflare`, `cloudfront`,
    /// `appengine`, `vercel` or `own`.
    pub edge: Option<String>,
}

impl Default for GeoSettings {
    fn default() -> Self {
        Self { enabled: true, databases: Vec::new(), stated_addresses: true, edge: None }
    }
}

/// `[enrich.profile]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileSettings {
    /// Whether it is on.
    pub enabled: bool,
    memory_bytes: Bytes,
}

impl ProfileSettings {
    /// Memory for what changed lately and for what is read often, of all stages' state.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes.to_usize()
    }
}

impl Default for ProfileSettings {
    fn default() -> Self {
        Self { enabled: true, memory_bytes: Bytes(128 << 20) }
    }
}

/// `[enrich.session]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionSettings {
    /// Whether it is on.
    pub enabled: bool,
    inactivity: Span,
}

impl SessionSettings {
    /// After how long without an event a visit has ended.
    #[must_use]
    pub const fn inactivity(&self) -> Duration {
        self.inactivity.0
    }
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self { enabled: true, inactivity: Span(Duration::from_secs(30 * 60)) }
    }
}
