//! `[route]`: which events go where.
//!
//! In the file alone. Every key may be missing.

use std::path::PathBuf;

use serde::Deserialize;

/// `[route]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteSettings {
    /// The file of rules and destinations; `None`: `routes.toml` in the data folder, if it is there.
    pub file: Option<PathBuf>,
    /// Which events are routed.
    pub from: RouteFrom,
}

/// Which events are routed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteFrom {
    /// Those of `enriched`: none where nothing is enriched.
    #[default]
    Enriched,
    /// Those of `raw`.
    Raw,
}
