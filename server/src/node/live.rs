//! A node's live figures and their thresholds. They run on the threads of the stages.

use std::sync::Arc;

use tokio::sync::watch;
use tracklog_log::meta::MetaTopic;
use tracklog_log::{Epoch, Log, Pending, Topic, TopicName};
use tracklog_pipeline::realtime::{Alerts, Live};

use super::stages::{NodeTime, StagesError};
use crate::config::LiveSettings;
use crate::metrics;
use crate::outbound::HttpOutbound;

/// Where it is kept how thresholds stand.
const THRESHOLDS_TOPIC: &str = "_thresholds";

/// The figures, and who is told of them.
#[derive(Clone)]
pub(super) struct LiveFigures {
    live: Arc<Live<dyn Log>>,
    alerts: Option<Arc<Alerts<dyn Log>>>,
}

impl LiveFigures {
    /// Of `topic`. Without thresholds nothing is stored, and nobody can be called.
    pub(super) async fn open(
        settings: &LiveSettings,
        log: &Arc<dyn Log>,
        epoch: Epoch,
        topic: Topic,
    ) -> Result<Self, StagesError> {
        let time = Arc::new(NodeTime);
        let live = Live::new(Arc::clone(log), topic, Arc::clone(&time) as _, settings.options());
        let live = Arc::new(live);
        if settings.thresholds.is_empty() {
            return Ok(Self { live, alerts: None });
        }
        let alerts = settings.thresholds.iter().map(|threshold| threshold.alert());
        let alerts = alerts.collect::<Result<_, _>>()?;
        let name = TopicName::new(THRESHOLDS_TOPIC).expect("our own names are good");
        let meta = Arc::new(MetaTopic::open(Arc::clone(log), epoch, name).await?);
        let outbound = Arc::new(HttpOutbound::new());
        let alerts = Alerts::new(Arc::clone(&live), meta, outbound, time, alerts);
        Ok(Self { live, alerts: Some(Arc::new(alerts)) })
    }

    pub(super) fn live(&self) -> Arc<Live<dyn Log>> {
        Arc::clone(&self.live)
    }

    /// What is to run until `stop` says so.
    pub(super) fn tasks(&self, stop: &watch::Sender<bool>) -> Vec<Pending<'static, ()>> {
        let reader = Box::pin(Arc::clone(&self.live).run(stop.subscribe())) as Pending<'static, ()>;
        let alerts = self.alerts.clone();
        let alerts = alerts.map(|alerts| Box::pin(alerts.run(stop.subscribe())) as Pending<'_, ()>);
        std::iter::once(reader).chain(alerts).collect()
    }

    /// Appends what is told to metrics.
    pub(super) fn encode(&self, text: &mut String) {
        metrics::encode_live(&self.live, text);
        if let Some(alerts) = &self.alerts {
            metrics::encode_alerts(alerts, text);
        }
    }
}
