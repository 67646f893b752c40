//! How far the demo's events have come behind the gateway.

use tracklog_log::Log;
use tracklog_server::groups;
use tracklog_server::live::Watch;
use tracklog_server::node::Node;

use crate::failure::Failure;

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

/// Who tells how far they have come, from the start on.
pub(super) struct Progress<'a> {
    node: &'a Node,
    watch: Option<Watch>,
    /// The last second in which anything came.
    last_live: Vec<(String, u64)>,
}

impl<'a> Progress<'a> {
    pub(super) fn of(node: &'a Node) -> Self {
        Self { node, watch: node.watch(), last_live: Vec::new() }
    }

    /// As it is now.
    pub(super) fn now(&mut self) -> Downstream {
        let log = self.node.log();
        let routed = ROUTED.into_iter().map(|topic| (topic, records(&*log, topic))).collect();
        let window = self.watch.as_mut().and_then(Watch::last_second);
        let names = window.into_iter().flat_map(|window| &window.names);
        let live: Vec<_> = names.filter_map(|it| Some((it.name.clone()?, it.count))).collect();
        if !live.is_empty() {
            self.last_live.clone_from(&live);
        }
        let archived = self.node.archived().unwrap_or_default();
        Downstream { enriched: records(&*log, "enriched"), routed, archived, live }
    }

    /// The same once nothing comes any more: with the last second in which something did.
    pub(super) fn at_the_end(&mut self) -> Downstream {
        let now = self.now();
        Downstream { live: self.last_live.clone(), ..now }
    }

    /// Whether all that was accepted is enriched, routed, archived and counted.
    pub(super) async fn is_through(&mut self) -> Result<bool, Failure> {
        let (log, now) = (self.node.log(), self.now());
        let accepted = records(&*log, "raw");
        let archived = self.node.archived().is_none_or(|rows| rows >= accepted + now.enriched);
        let counted = self.watch.is_none() || accepted == 0 || !self.last_live.is_empty();
        if now.enriched < accepted || !archived || !counted {
            return Ok(false);
        }
        let groups = groups::read(log).await.map_err(Failure::could_not_run)?;
        let Some(groups) = groups else { return Ok(true) };
        let groups = groups.list().await.map_err(Failure::could_not_run)?;
        Ok(groups.iter().all(|group| group.lag == 0))
    }
}

/// How many records a topic ever got.
fn records(log: &dyn Log, topic: &str) -> u64 {
    let Some(topic) = log.topic(topic) else { return 0 };
    let extents = topic.partitions().filter_map(|partition| log.extent(partition));
    extents.map(|extent| extent.end.0).sum()
}
