//! A window as it is told: what becomes JSON, and is read from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::WindowSpan;

/// One window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveWindow {
    /// How long it is.
    pub window: WindowSpan,
    /// When it began, RFC 3339.
    pub begin: String,
    /// Whether it is over. The figures of one that is not are of its first part.
    pub complete: bool,
    /// All events.
    pub total: Figures,
    /// Each name, the most frequent first; those with no event are missing.
    pub names: Vec<Figures>,
    /// Events of names beyond those that are told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<Figures>,
}

/// Windows are missing: the reader was too far behind, or they are not kept any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveGap {
    /// How long they are.
    pub window: WindowSpan,
    /// When the next one that is told begins, RFC 3339.
    pub next: String,
}

/// What is told of events.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Of one name alone: the event's, or `$page` and the like where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many were stored in the window.
    pub count: u64,
    /// How many that is a second.
    pub rate: f64,
    /// How many of them happened more than a minute before they were stored.
    pub late: u64,
    /// The sums that have a number, by their place in events.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sums: BTreeMap<String, SumFigure>,
}

/// A sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SumFigure {
    /// The sum.
    pub sum: f64,
    /// How many events had a number there.
    pub count: u64,
}
