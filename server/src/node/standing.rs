//! What gets every event without a rule that says so: live figures and the archive, as they are
//! listed beside the destinations of the rules.
//!
//! They are never held: figures that stood still would tell what is no more, and an archive that
//! lags too long loses what its topics' limits let go.

use std::sync::Arc;

use tracklog_log::Log;
use tracklog_pipeline::archive::archiver::ArchiveCounters;
use tracklog_pipeline::realtime::Live;

use crate::routes::DestinationStatus;

const LIVE: &str = "live";
const ARCHIVE: &str = "archive";

/// Both of a node; of one that is off nothing.
pub(crate) struct Standing {
    pub(super) live: Option<Arc<Live<dyn Log>>>,
    pub(super) archive: Option<Arc<ArchiveCounters>>,
}

impl Standing {
    /// How they fare. A destination of the rules may bear the same name, and is another one.
    pub(crate) fn list(&self) -> [DestinationStatus; 2] {
        [self.live(), self.archive()]
    }

    fn live(&self) -> DestinationStatus {
        let Some(live) = &self.live else { return plain(LIVE, "off") };
        let state = if live.viewers() > 0 { "running" } else { "idle" };
        DestinationStatus { lag: live.lag().records, ..plain(LIVE, state) }
    }

    fn archive(&self) -> DestinationStatus {
        let Some(archive) = &self.archive else { return plain(ARCHIVE, "off") };
        let (state, why) = match archive.is_up() {
            true => ("running", None),
            false => ("stopped", Some("the node's log says why".to_owned())),
        };
        DestinationStatus {
            why,
            lag: archive.topics.iter().map(|topic| topic.lag_records()).sum(),
            delivered: Some(archive.topics.iter().map(|topic| topic.rows.count()).sum()),
            retried: Some(archive.errors.count()),
            ..plain(ARCHIVE, state)
        }
    }

    /// Why nothing is done to the one of this name, if it is one of them.
    pub(crate) fn refusal(name: &str) -> Option<String> {
        let off = match name {
            LIVE => "figures are read only while somebody watches, and `[live] enabled = false`",
            ARCHIVE => "`[archive] enabled = false` in the configuration",
            _ => return None,
        };
        Some(format!(
            "{name} gets every event, by no rule, and is not held or retried: {off} ends it"
        ))
    }
}

fn plain(name: &str, state: &str) -> DestinationStatus {
    DestinationStatus {
        destination: name.to_owned(),
        r#type: name.to_owned(),
        state: state.to_owned(),
        why: None,
        since: None,
        lag: 0,
        delivered: None,
        undelivered: None,
        retried: None,
        retry: None,
    }
}
