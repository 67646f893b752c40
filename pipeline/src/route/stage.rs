//! The stage `route`: events of the source become events of the topics that rules name.
//!
//! One for each lane, each a group of its own: what is of high priority goes on while all else
//! lags. Topics that rules name and nobody has made are made. An event's partition in such a topic
//! is that of its key, as everywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tracklog_log::{CatalogError, Log, Pending, Retention, Topic, TopicName, TopicSpec};
use tracklog_protocol::event::EventBuilder;
use tracklog_protocol::{Offset, Record};

use super::history::{History, Routes, Version};
use super::rules::{DestinationName, DestinationSpec, Lane};
use crate::stage::{Outputs, Poison, SourceBatch, Stage, StageError, Work};

/// The stage's name on the usual lane, and its group's.
pub const NAME: &str = "route";
/// The same on the lane of what is of high priority.
pub const NAME_HIGH: &str = "route-high";

/// The stage.
pub struct RouteStage<L: ?Sized> {
    log: Arc<L>,
    routes: Arc<Routes<L>>,
    lane: Lane,
}

impl<L: Log + ?Sized> RouteStage<L> {
    /// The stage that serves `lane`.
    #[must_use]
    pub const fn new(log: Arc<L>, routes: Arc<Routes<L>>, lane: Lane) -> Self {
        Self { log, routes, lane }
    }

    async fn begin_work<'a>(
        &'a self,
        batch: &'a SourceBatch,
    ) -> Result<RouteWork<'a, L>, StageError> {
        let history = self.routes.history().await;
        let mut work = RouteWork {
            stage: self,
            batch,
            topics: BTreeMap::new(),
            held: Held::default(),
            history,
            builder: EventBuilder::new(),
        };
        work.find_topics().await?;
        Ok(work)
    }
}

/// The topic of a destination; made where it is not there.
///
/// # Errors
/// [`CatalogError`] when it can't be made.
pub async fn topic<L: Log + ?Sized>(
    log: &L,
    name: &TopicName,
    partitions: u32,
) -> Result<Topic, CatalogError> {
    if let Some(topic) = log.topic(name.as_str()) {
        return Ok(topic);
    }
    let spec = TopicSpec { name: name.clone(), partitions, retention: Retention::Keep };
    log.create_topic(spec).await
}

impl<L: Log + ?Sized> Stage for RouteStage<L> {
    fn name(&self) -> &str {
        match self.lane {
            Lane::High => NAME_HIGH,
            Lane::Normal => NAME,
        }
    }

    fn begin<'a>(
        &'a self,
        batch: &'a SourceBatch,
    ) -> Pending<'a, Result<Box<dyn Work + 'a>, StageError>> {
        Box::pin(async move {
            let work = self.begin_work(batch).await?;
            Ok(Box::new(work) as Box<dyn Work + 'a>)
        })
    }
}

/// The version that holds, and up to where: looked up anew only behind that.
#[derive(Debug, Default)]
pub(crate) struct Held {
    version: Option<Arc<Version>>,
    /// `None` before the first look, and where it holds to the end.
    until: Option<Offset>,
    is_known: bool,
}

impl Held {
    /// The version for `offset`; offsets are asked for in order.
    pub(crate) fn at(
        &mut self,
        history: &History,
        batch: &SourceBatch,
        offset: Offset,
    ) -> Option<&Arc<Version>> {
        if !self.is_known || self.until.is_some_and(|until| until <= offset) {
            self.version = history.at(batch.source, offset).cloned();
            self.until = history.ends(batch.source, offset);
            self.is_known = true;
        }
        self.version.as_ref()
    }
}

struct RouteWork<'a, L: ?Sized> {
    stage: &'a RouteStage<L>,
    batch: &'a SourceBatch,
    history: Arc<History>,
    held: Held,
    topics: BTreeMap<TopicName, Topic>,
    builder: EventBuilder,
}

impl<L: Log + ?Sized> RouteWork<'_, L> {
    /// Finds or makes the topics that the batch's rules name.
    async fn find_topics(&mut self) -> Result<(), StageError> {
        let mut at = Some(self.batch.from);
        while let Some(offset) = at {
            if let Some(version) = self.history.at(self.batch.source, offset) {
                for (topic, partitions) in topics_of(version) {
                    if !self.topics.contains_key(topic) {
                        let found = self::topic(&*self.stage.log, topic, partitions).await;
                        let found = found.map_err(|it| StageError { reason: it.to_string() })?;
                        self.topics.insert(topic.clone(), found);
                    }
                }
            }
            at = self.history.ends(self.batch.source, offset).filter(|it| *it < self.batch.next);
        }
        Ok(())
    }
}

fn topics_of(version: &Version) -> impl Iterator<Item = (&TopicName, u32)> {
    version.rules().destinations.values().filter_map(|spec| match spec {
        DestinationSpec::Topic { topic, partitions } => Some((topic, *partitions)),
        DestinationSpec::Webhook(_) | DestinationSpec::File(_) => None,
    })
}

fn topic_of<'v>(version: &'v Version, name: &DestinationName) -> Option<&'v TopicName> {
    match version.rules().destinations.get(name)? {
        DestinationSpec::Topic { topic, .. } => Some(topic),
        DestinationSpec::Webhook(_) | DestinationSpec::File(_) => None,
    }
}

impl<L: Log + ?Sized> Work for RouteWork<'_, L> {
    fn record(
        &mut self,
        offset: Offset,
        record: Record<'_>,
        outputs: &mut Outputs,
    ) -> Result<(), Poison> {
        let event = Poison::unless_event(record)?;
        let Some(version) = self.held.at(&self.history, self.batch, offset) else { return Ok(()) };
        let (lane, topics, builder) = (self.stage.lane, &self.topics, &mut self.builder);
        version.table.each(&event, |name, taken| {
            let topic = topic_of(version, name).filter(|_| taken.lane() == lane);
            if let Some(topic) = topic {
                let topic = topics.get(topic).expect("the batch's topics were found");
                let to = topic.partition_for(event.partition_key().as_bytes());
                outputs.push(to, taken.projected(&event, record, builder));
            }
        });
        Ok(())
    }
}

impl<L: ?Sized> fmt::Debug for RouteStage<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteStage").field("lane", &self.lane).finish_non_exhaustive()
    }
}
