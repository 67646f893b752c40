//! What enrichment makes of one event, as a source might send it: asked of a running node, or of a
//! folder that nobody holds.
//!
//! The event is judged by the gateway's own code and passes the enrichers in the state as it is
//! now. Nothing is stored, and what it would change is forgotten. A folder's state is built anew
//! from its changelog, outside of the folder.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracklog_ingest_gateway::Source;
use tracklog_ingest_gateway::client_ip::TrustedProxies;
use tracklog_ingest_gateway::trial::{Judged, Trial, TrialError};
use tracklog_log::memory::{MemoryLog, MemoryOptions};
use tracklog_log::{AppendError, Domain, Log};
use tracklog_pipeline::enrich::explain::{Explained, enriched, explain};
use tracklog_pipeline::enrich::{Enrichment, Looked};
use tracklog_pipeline::route::RulesError;
use tracklog_pipeline::state::{
    self, DiskStore, DiskStoreOptions, MemoryStore, State, StateError, StateOptions, StoreError,
};
use tracklog_protocol::event::{EventBuilder, EventView};
use tracklog_protocol::rejected::RejectedView;
use tracklog_registry::Registry;

use crate::clock;
use crate::config::{ConfigError, RouteFrom, Settings};
use crate::folder::DataFolder;
use crate::node::sources::build;
use crate::node::stages::{Enrichers, enrichers, geo, look_at_files};
use crate::node::{StagesError, StartError};
use crate::routes::{self, RouteExplanation};
use crate::schemas::{SchemaCopy, SchemasError};

/// The source that is meant where none is named.
const DEFAULT_SOURCE: &str = "default";

/// An event, and the request that might bring it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Question {
    /// The event, as `/v1/events` takes it.
    pub event: String,
    /// Whose key it comes with; none: that of `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The address that it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Header fields: name, value.
    pub headers: Vec<(String, String)>,
}

/// What becomes of an event.
#[derive(Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Its message id; one is made where it has none.
    #[serde(rename = "messageId", skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Why it is rejected before any enricher sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
    /// The changes of state below this offset of the changelog were seen.
    #[serde(rename = "stateOffset")]
    pub state_offset: u64,
    /// What each enricher makes of it, in their order.
    pub enrichers: Vec<Look>,
}

/// Why an event is rejected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The code.
    pub code: String,
    /// Where in the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// In words.
    pub message: String,
}

/// What one enricher makes of an event.
#[derive(Debug, Serialize, Deserialize)]
pub struct Look {
    /// Its name.
    pub enricher: String,
    /// Its version.
    pub version: String,
    /// `hit`, `miss` or `failure`.
    pub result: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// How long it took.
    pub micros: f64,
    /// What it looked at.
    pub reads: BTreeMap<String, String>,
    /// What it adds: an object, as in lines of `enriched`.
    pub adds: Box<RawValue>,
}

/// Why there is no explanation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    /// There is no stage.
    #[error("enrichment is off: [enrich] enabled = false")]
    Off,
    /// No source has that name.
    #[error("there is no source {name:?}")]
    NoSource {
        /// The name.
        name: String,
    },
    /// It is not one event.
    #[error("{count} events: give one")]
    NotOne {
        /// So many there are.
        count: usize,
    },
    /// No request has such a header.
    #[error("{name:?} with {value:?} is no header")]
    Header {
        /// The name.
        name: String,
        /// The value.
        value: String,
    },
    /// The event cannot be read.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// The rules cannot be used.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The source cannot be had.
    #[error(transparent)]
    Source(#[from] StartError),
    /// An enricher cannot be had.
    #[error(transparent)]
    Enrichers(#[from] StagesError),
    /// The schemas cannot be had.
    #[error(transparent)]
    Schemas(#[from] SchemasError),
    /// The state cannot be had now.
    #[error("the state of enrichment: {0}")]
    State(#[from] StateError),
    /// The state cannot be built.
    #[error("the state of enrichment: {0}")]
    Store(#[from] StoreError),
    /// Not even memory takes what is written.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Everything that an explanation asks.
pub struct Explainer {
    pub(crate) sources: Vec<Source>,
    pub(crate) proxies: TrustedProxies,
    pub(crate) registry: Arc<Registry>,
    pub(crate) enrichers: Enrichers,
    pub(crate) state: Arc<State<dyn Log>>,
}

impl Explainer {
    /// What becomes of the event of `question`.
    ///
    /// # Errors
    /// [`ExplainError`]; that an event is rejected is none.
    pub async fn explain(&self, question: &Question) -> Result<Explanation, ExplainError> {
        let judged = self.judge(question)?;
        let record = judged.get(0).expect("one event was judged").record;
        let mut state = self.state.begin(self.state.partition()).await?;
        let state_offset = state.offset().0;
        if let Some(rejected) = RejectedView::of(record) {
            return Ok(Explanation {
                message_id: rejected.message_id().map(str::to_owned),
                rejected: Some(Rejected::of(&rejected)),
                state_offset,
                enrichers: Vec::new(),
            });
        }
        let event = EventView::of(record).expect("what is not rejected is an event");
        let mut found = Enrichment::default();
        let enrichers = &self.enrichers.all;
        let looks = explain(enrichers, &event, &mut state, &mut found, clock::nanos).await;
        Ok(Explanation {
            message_id: Some(event.message_id().to_owned()),
            rejected: None,
            state_offset,
            enrichers: looks.into_iter().map(Look::of).collect(),
        })
    }

    /// Where the event of `question` goes by the rules in `text`: enriched first, where enriched
    /// events are routed.
    ///
    /// # Errors
    /// [`ExplainError`]; that an event is rejected is none.
    pub async fn route(
        &self,
        question: &Question,
        text: &str,
        from: RouteFrom,
    ) -> Result<RouteExplanation, ExplainError> {
        let judged = self.judge(question)?;
        let record = judged.get(0).expect("one event was judged").record;
        if let Some(rejected) = RejectedView::of(record) {
            return Ok(RouteExplanation::rejected(Rejected::of(&rejected)));
        }
        let event = EventView::of(record).expect("what is not rejected is an event");
        if from == RouteFrom::Raw {
            return Ok(routes::explain(text, record)?);
        }
        let (mut found, mut builder) = (Enrichment::default(), EventBuilder::new());
        let mut state = self.state.begin(self.state.partition()).await?;
        let enrichers = &self.enrichers.all;
        explain(enrichers, &event, &mut state, &mut found, clock::nanos).await;
        Ok(routes::explain(text, enriched(&event, &found, &mut builder))?)
    }

    /// The one event of `question`, as the gateway judges it.
    fn judge(&self, question: &Question) -> Result<Judged, ExplainError> {
        let name = question.source.as_deref().unwrap_or(DEFAULT_SOURCE);
        let source = self.sources.iter().find(|source| source.rules.name == name);
        let source = source.ok_or_else(|| ExplainError::NoSource { name: name.to_owned() })?;
        let trial = Trial {
            body: question.event.as_bytes(),
            headers: &headers(&question.headers)?,
            peer: question.ip,
            received: clock::now(),
        };
        let judged = trial.judge(source, &self.proxies, &*self.registry)?;
        match judged.len() {
            1 => Ok(judged),
            count => Err(ExplainError::NotOne { count }),
        }
    }
}

impl std::fmt::Debug for Explainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Explainer").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Rejected {
    fn of(rejected: &RejectedView<'_>) -> Self {
        Self {
            code: rejected.code().to_owned(),
            pointer: rejected.pointer().map(str::to_owned),
            message: rejected.message().to_owned(),
        }
    }
}

impl Look {
    fn of(explained: Explained) -> Self {
        let (result, failure) = match explained.outcome {
            Ok(Looked::Hit) => ("hit", None),
            Ok(Looked::Miss) => ("miss", None),
            Err(failure) => ("failure", Some(failure.to_string())),
        };
        Self {
            enricher: explained.enricher.to_owned(),
            version: explained.version.to_string(),
            result: result.to_owned(),
            failure,
            micros: explained.nanos as f64 / 1e3,
            reads: explained.inputs.into_iter().collect(),
            adds: RawValue::from_string(explained.added).expect("lines are JSON"),
        }
    }
}

fn headers(given: &[(String, String)]) -> Result<HeaderMap, ExplainError> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let no_header = || ExplainError::Header { name: name.clone(), value: value.clone() };
        let field: HeaderName = name.parse().map_err(|_| no_header())?;
        headers.append(field, HeaderValue::from_str(value).map_err(|_| no_header())?);
    }
    Ok(headers)
}

/// What answers `question` without a node: by `settings`, and the state of `log`, which is only
/// read; without one nothing is known of anybody. The state is built in the folder `scratch`.
///
/// # Errors
/// [`ExplainError`].
pub async fn offline(
    settings: &Settings,
    log: Option<Arc<dyn Log>>,
    scratch: &Path,
    question: &Question,
) -> Result<Explainer, ExplainError> {
    if !settings.enrich.enabled {
        return Err(ExplainError::Off);
    }
    let geo = geo(settings)?.map(Arc::new);
    if let Some(geo) = &geo {
        look_at_files(Arc::clone(geo)).await;
    }
    let registry = match &log {
        Some(log) => SchemaCopy::of(&**log).await?,
        None => SchemaCopy::empty().await?,
    };
    Ok(Explainer {
        sources: source(settings, question)?.into_iter().collect(),
        proxies: TrustedProxies::new(settings.trusted_proxies.clone()),
        registry: Arc::new(registry.into_registry()),
        enrichers: enrichers(&settings.enrich, geo)?,
        state: Arc::new(state_of(settings, log, scratch).await?),
    })
}

/// The source of `question`, if there is one. It needs no key: nobody sends anything.
fn source(settings: &Settings, question: &Question) -> Result<Option<Source>, StartError> {
    let name = question.source.as_deref().unwrap_or(DEFAULT_SOURCE);
    let folder = DataFolder::at(&settings.data);
    let source = settings.sources.get(name);
    let one =
        source.map(|source| build(name, source, "none".to_owned(), || folder.read_privacy_key()));
    one.transpose()
}

/// The state that `log` tells of, built in `scratch`.
async fn state_of(
    settings: &Settings,
    log: Option<Arc<dyn Log>>,
    scratch: &Path,
) -> Result<State<dyn Log>, ExplainError> {
    let options = StateOptions::within(settings.enrich.profile.memory_bytes());
    if let Some(log) = log
        && let Some(changelog) = log.topic(state::TOPIC)
    {
        let partition = changelog.partition(0);
        let store = DiskStoreOptions {
            cache_bytes: 32 << 20,
            changelog: partition,
            created: changelog.created,
            changelog_end: log.extent(partition).map_or_else(Default::default, |it| it.end),
        };
        let store = DiskStore::open(scratch, store)?;
        return Ok(State::read(log, store, options).await?.expect("the changelog was seen"));
    }
    let memory = MemoryOptions { clock: Arc::new(clock::now), budget_bytes: 1 << 20 };
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new(memory));
    log.open(Domain::WHOLE).await?;
    Ok(State::open(log, Arc::new(MemoryStore::new()), options).await?)
}
