//! How far the demo's events have come behind the gateway.

use tracklog_log::Log;
use tracklog_server::live::Watch;
use tracklog_server::node::Node;

/// The topics that the demo's rules write to.
const ROUTED: [&str; 2] = ["orders", "gold"];

/// Counts of what came of the events so far.
pub(super) struct Downstream {
    /// Events of `enriched`.
    pub(super) enriched: u64,
    /// Events of the topics that rules write to, by topic.
    pub(super) routed: Vec<(&'static str, u64)>,
    /// Rows of `raw` and `enriched` in the archive.
    pub(super) archived: u64,
    /// Events in the last second that is over, by name, the most frequent first.
    pub(super) live: Vec<(String, u64)>,
}

impl Downstream {
    /// As it is now.
    pub(super) fn of(node: &Node, watch: Option<&mut Watch>) -> Self {
        let log = node.log();
        let routed = ROUTED.into_iter().map(|topic| (topic, records(&*log, topic))).collect();
        let window = watch.and_then(Watch::last_second);
        let names = window.into_iter().flat_map(|window| &window.names);
        let live = names.filter_map(|it| Some((it.name.clone()?, it.count))).collect();
        let archived = node.archived().unwrap_or_default();
        Self { enriched: records(&*log, "enriched"), routed, archived, live }
    }
}

/// How many records a topic ever got.
fn records(log: &dyn Log, topic: &str) -> u64 {
    let Some(topic) = log.topic(topic) else { return 0 };
    let extents = topic.partitions().filter_map(|partition| log.extent(partition));
    extents.map(|extent| extent.end.0).sum()
}
