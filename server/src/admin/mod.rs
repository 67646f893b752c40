//! What a running node tells its operators: topics, records, its own soundness, its metrics.
//!
//! Routes, parameters and answers: `server/HTTP.md`.

mod answer;
mod backfills;
mod explain;
mod find;
mod forget;
mod groups;
mod live;
mod query;
mod rejected;
mod reprocesses;
mod routes;
mod stream;

use std::sync::{Arc, OnceLock};

use answer::{json, refusal, whole};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use live::LiveDoor;
use percent_encoding::percent_decode_str;
use query::{Parameters, reading};
use routes::Act;
use stream::{Lines, LinesSender, OpenStreams};
use tokio::sync::watch;
use tracklog_ingest_gateway::{Access, Content, Door};
use tracklog_log::{Busy, CatalogError, Log, Pending, Topic};
use tracklog_pipeline::groups::Groups;
use tracklog_pipeline::realtime::Live;
use tracklog_protocol::TimeMicros;

use crate::backfill::Backfills;
use crate::explain::Explainer;
use crate::find::Finder;
use crate::node::forgetting::Forgetting;
use crate::node::routing::Routing;
use crate::node::standing::Standing;
use crate::quarantine::Retries;
use crate::replay::{Replay, ReplayError, Step};
use crate::reprocess::Reprocesses;
use crate::topics::{self, NewLimits, NewTopic, TopicError, Trim};
use crate::verify::VerifyLine;

/// What the head of a stream of records is called that says how many there are to pass.
pub const RECORDS_HEADER: &str = "tracklog-records";

/// Writes the text of `/metrics`.
pub type MetricsText = Box<dyn Fn() -> Pending<'static, String> + Send + Sync>;
/// Runs a verification and tells its lines as they come.
pub type Verification = Box<dyn Fn(&mut dyn FnMut(VerifyLine)) + Send + Sync>;

/// The operators' routes of a node. Clones are the same routes.
#[derive(Clone)]
pub struct Admin {
    shared: Arc<Shared>,
}

struct Shared {
    log: Arc<dyn Log>,
    now: fn() -> TimeMicros,
    stopping: watch::Receiver<bool>,
    streams: OpenStreams,
    metrics: OnceLock<MetricsText>,
    verification: OnceLock<Verification>,
    groups: OnceLock<Arc<Groups<dyn Log>>>,
    explainer: OnceLock<Option<Explainer>>,
    backfills: OnceLock<Backfills>,
    routing: OnceLock<Arc<Routing>>,
    standing: OnceLock<Standing>,
    live: OnceLock<LiveDoor>,
    reprocesses: OnceLock<Arc<Reprocesses>>,
    retries: OnceLock<Arc<Retries>>,
    finder: OnceLock<Finder>,
    forgetting: OnceLock<Arc<Forgetting>>,
    /// Whoever holds it changes limits: what one request does not say is not undone by another.
    limiting: tokio::sync::Mutex<()>,
}

impl Admin {
    /// Routes over `log`. Streams that follow end when `stopping` says so; `now` is the clock.
    #[must_use]
    pub fn new(
        log: Arc<dyn Log>,
        now: fn() -> TimeMicros,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        let shared = Shared {
            log,
            now,
            stopping,
            streams: OpenStreams::new(),
            metrics: OnceLock::new(),
            verification: OnceLock::new(),
            groups: OnceLock::new(),
            explainer: OnceLock::new(),
            backfills: OnceLock::new(),
            routing: OnceLock::new(),
            standing: OnceLock::new(),
            live: OnceLock::new(),
            reprocesses: OnceLock::new(),
            retries: OnceLock::new(),
            finder: OnceLock::new(),
            forgetting: OnceLock::new(),
            limiting: tokio::sync::Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Resolves when no stream that follows is open. After `stopping` said so each ends by itself
    /// as soon as its client takes the end.
    pub async fn streams_ended(&self) {
        self.shared.streams.none_left().await;
    }

    /// Where metrics come from: known only when the gateway runs, which has this door already.
    pub fn set_metrics(&self, text: MetricsText) {
        let first = self.shared.metrics.set(text).is_ok();
        assert!(first, "metrics are set once");
    }

    /// The node's groups.
    pub fn set_groups(&self, groups: Arc<Groups<dyn Log>>) {
        let first = self.shared.groups.set(groups).is_ok();
        assert!(first, "groups are set once");
    }

    /// What answers for single events; `None` where there is no enrichment.
    pub fn set_explainer(&self, explainer: Option<Explainer>) {
        let first = self.shared.explainer.set(explainer).is_ok();
        assert!(first, "the explainer is set once");
    }

    /// Where rows of files go: known only when the gateway runs, which judges them.
    pub fn set_backfills(&self, backfills: Backfills) {
        let first = self.shared.backfills.set(backfills).is_ok();
        assert!(first, "backfills are set once");
    }

    /// What routes events.
    pub(crate) fn set_routing(&self, routing: Arc<Routing>) {
        let first = self.shared.routing.set(routing).is_ok();
        assert!(first, "routing is set once");
    }

    /// What gets every event without a rule.
    pub(crate) fn set_standing(&self, standing: Standing) {
        let first = self.shared.standing.set(standing).is_ok();
        assert!(first, "they are set once");
    }

    /// The node's live figures, if it has any, and how many clients may watch them at once.
    pub fn set_live(&self, live: Option<Arc<Live<dyn Log>>>, clients_max: usize) {
        let Some(live) = live else { return };
        let first = self.shared.live.set(LiveDoor::new(live, clients_max)).is_ok();
        assert!(first, "live figures are set once");
    }

    /// Runs of stages over old events.
    pub fn set_reprocesses(&self, reprocesses: Arc<Reprocesses>) {
        let first = self.shared.reprocesses.set(reprocesses).is_ok();
        assert!(first, "reprocesses are set once");
    }

    /// Rejected events: known only when the gateway runs, which judges them again.
    pub fn set_retries(&self, retries: Arc<Retries>) {
        let first = self.shared.retries.set(retries).is_ok();
        assert!(first, "retries are set once");
    }

    /// What tells where an event is.
    pub fn set_finder(&self, finder: Finder) {
        let first = self.shared.finder.set(finder).is_ok();
        assert!(first, "the finder is set once");
    }

    /// What forgets somebody.
    pub(crate) fn set_forgetting(&self, forgetting: Arc<Forgetting>) {
        let first = self.shared.forgetting.set(forgetting).is_ok();
        assert!(first, "it is set once");
    }

    /// How the log verifies itself.
    pub fn set_verification(&self, verification: Verification) {
        let first = self.shared.verification.set(verification).is_ok();
        assert!(first, "the verification is set once");
    }
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// What a path means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Route {
    Metrics,
    Live,
    Verify,
    Topics,
    Topic(String),
    Events(String),
    Trim(String),
    Explain,
    Find,
    Forget,
    Groups,
    Group(String),
    Reset(String),
    /// Of a source, and the hash of a file.
    Backfill(String, String),
    Rejected,
    RejectedAt(String),
    Retry,
    Routes,
    WhereTo,
    Destinations,
    Destination(String, Act),
    Reprocesses,
    Reprocess(String),
}

impl Route {
    fn of(path: &str) -> Option<Self> {
        let path = path.trim_end_matches('/');
        match path {
            "/metrics" => return Some(Self::Metrics),
            "/v1/live" => return Some(Self::Live),
            "/v1/verify" => return Some(Self::Verify),
            "/v1/topics" => return Some(Self::Topics),
            "/v1/enrich/explain" => return Some(Self::Explain),
            "/v1/find" => return Some(Self::Find),
            "/v1/forget" => return Some(Self::Forget),
            "/v1/groups" => return Some(Self::Groups),
            "/v1/rejected" => return Some(Self::Rejected),
            "/v1/rejected/retry" => return Some(Self::Retry),
            "/v1/routes" => return Some(Self::Routes),
            "/v1/routes/explain" => return Some(Self::WhereTo),
            "/v1/destinations" => return Some(Self::Destinations),
            "/v1/reprocesses" => return Some(Self::Reprocesses),
            _ => {}
        }
        let decoded = |name: &str| Some(percent_decode_str(name).decode_utf8().ok()?.into_owned());
        let named = |name: &str, of_name: fn(String) -> Self| decoded(name).map(of_name);
        if let Some(job) = path.strip_prefix("/v1/reprocesses/") {
            named(job, Self::Reprocess)
        } else if let Some(place) = path.strip_prefix("/v1/rejected/") {
            named(place, Self::RejectedAt)
        } else if let Some(rest) = path.strip_prefix("/v1/backfills/") {
            let (source, hash) = rest.split_once('/')?;
            Some(Self::Backfill(decoded(source)?, hash.to_owned()))
        } else if let Some(rest) = path.strip_prefix("/v1/destinations/") {
            let (name, act) = rest.rsplit_once('/')?;
            Some(Self::Destination(decoded(name)?, Act::of(act)?))
        } else if let Some(rest) = path.strip_prefix("/v1/topics/") {
            match rest.split_once('/') {
                Some((topic, "events")) => named(topic, Self::Events),
                Some((topic, "trim")) => named(topic, Self::Trim),
                _ => named(rest, Self::Topic),
            }
        } else {
            let rest = path.strip_prefix("/v1/groups/")?;
            match rest.strip_suffix("/reset") {
                Some(group) => named(group, Self::Reset),
                None => named(rest, Self::Group),
            }
        }
    }

    const fn methods(&self) -> &'static str {
        match self {
            Self::Metrics | Self::Live | Self::Verify | Self::Events(_) | Self::Groups => "GET",
            Self::Find => "GET",
            Self::Topics | Self::Backfill(..) | Self::Reprocesses => "GET, POST",
            Self::Routes | Self::Destinations | Self::Rejected | Self::RejectedAt(_) => "GET",
            Self::Topic(_) => "GET, PATCH, DELETE",
            Self::Group(_) | Self::Reprocess(_) => "GET, DELETE",
            Self::Reset(_)
            | Self::Trim(_)
            | Self::Explain
            | Self::Forget
            | Self::WhereTo
            | Self::Destination(..)
            | Self::Retry => "POST",
        }
    }
}

impl Door for Admin {
    fn access(&self, _: &Method, path: &str) -> Option<Access> {
        let route = Route::of(path)?;
        Some(if route == Route::Metrics { Access::Open } else { Access::Admin })
    }

    fn handle(&self, request: Request<Bytes>) -> Pending<'static, Response<Content>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.answer(request).await })
    }
}

impl Shared {
    async fn answer(self: Arc<Self>, request: Request<Bytes>) -> Response<Content> {
        let Some(route) = Route::of(request.uri().path()) else {
            return refusal(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path");
        };
        let methods = route.methods();
        match (request.method(), route) {
            (&Method::GET, Route::Metrics) => self.metrics().await,
            (&Method::GET, Route::Live) => self.watch(&request),
            (&Method::GET, Route::Verify) => self.verify(request.uri().query()),
            (&Method::GET, Route::Topics) => {
                json(StatusCode::OK, &serde_json::json!({ "topics": topics::list(&*self.log) }))
            }
            (&Method::POST, Route::Topics) => self.create(request.body()).await,
            (&Method::GET, Route::Topic(name)) => match self.log.topic(&name) {
                Some(topic) => json(StatusCode::OK, &topics::describe(&*self.log, &topic)),
                None => no_topic(&name),
            },
            (&Method::PATCH, Route::Topic(name)) => self.limit(&name, request.body()).await,
            (&Method::DELETE, Route::Topic(name)) => {
                match topics::delete(&*self.log, &name).await {
                    Ok(()) => json(StatusCode::OK, &serde_json::json!({ "success": true })),
                    Err(error) => topic_refusal(&error),
                }
            }
            (&Method::GET, Route::Events(name)) => match self.log.topic(&name) {
                Some(topic) => self.events(topic, request.uri().query()).await,
                None => no_topic(&name),
            },
            (&Method::POST, Route::Trim(name)) => self.trim(&name, request.body()).await,
            (&Method::POST, Route::Explain) => self.explain(request.body()).await,
            (&Method::GET, Route::Find) => self.find(request.uri().query()).await,
            (&Method::POST, Route::Forget) => self.forget(request.body()),
            (&Method::GET, Route::Groups) => self.list_groups().await,
            (&Method::GET, Route::Group(name)) => self.describe_group(&name).await,
            (&Method::DELETE, Route::Group(name)) => self.delete_group(&name).await,
            (&Method::POST, Route::Reset(name)) => self.reset_group(&name, request.body()).await,
            (&Method::GET, Route::Reprocesses) => self.list_reprocesses().await,
            (&Method::POST, Route::Reprocesses) => self.create_reprocess(request.body()).await,
            (&Method::GET, Route::Reprocess(name)) => self.describe_reprocess(&name).await,
            (&Method::DELETE, Route::Reprocess(name)) => self.cancel_reprocess(&name).await,
            (&Method::GET, Route::Backfill(source, hash)) => self.backfilled(&source, &hash),
            (&Method::POST, Route::Backfill(source, hash)) => {
                let query = request.uri().query().unwrap_or_default().to_owned();
                self.backfill(&source, &hash, &query, request.into_body()).await
            }
            (&Method::GET, Route::Rejected) => self.rejected(request.uri().query()).await,
            (&Method::GET, Route::RejectedAt(place)) => self.rejected_at(&place).await,
            (&Method::POST, Route::Retry) => self.retry_rejected(request.uri().query()).await,
            (&Method::GET, Route::Routes) => self.show_routes().await,
            (&Method::POST, Route::WhereTo) => self.explain_route(request.body()).await,
            (&Method::GET, Route::Destinations) => self.list_destinations().await,
            (&Method::POST, Route::Destination(name, act)) => {
                self.act_on_destination(&name, act).await
            }
            _ => {
                let why = format!("this path takes {methods}");
                let status = StatusCode::METHOD_NOT_ALLOWED;
                let mut answer = refusal(status, "method_not_allowed", &why);
                answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
                answer
            }
        }
    }

    async fn metrics(&self) -> Response<Content> {
        const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        match self.metrics.get() {
            Some(text) => whole(StatusCode::OK, TYPE, text().await),
            None => refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the node is starting"),
        }
    }

    async fn create(&self, body: &[u8]) -> Response<Content> {
        let new: NewTopic = match serde_json::from_slice(body) {
            Ok(new) => new,
            Err(error) => {
                return refusal(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string());
            }
        };
        match topics::create(&*self.log, &new).await {
            Ok(topic) => json(StatusCode::OK, &topics::summary(&*self.log, &topic)),
            Err(error) => topic_refusal(&error),
        }
    }

    async fn limit(&self, name: &str, body: &[u8]) -> Response<Content> {
        let new: NewLimits = match serde_json::from_slice(body) {
            Ok(new) => new,
            Err(error) => {
                return refusal(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string());
            }
        };
        let _one_at_a_time = self.limiting.lock().await;
        match topics::limit_topic(&*self.log, name, &new).await {
            Ok(topic) => json(StatusCode::OK, &topic),
            Err(error) => topic_refusal(&error),
        }
    }

    async fn trim(&self, name: &str, body: &[u8]) -> Response<Content> {
        let trim: Trim = match serde_json::from_slice(body) {
            Ok(trim) => trim,
            Err(error) => {
                return refusal(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string());
            }
        };
        match topics::trim(&*self.log, name, &trim, (self.now)()).await {
            Ok(trimmed) => json(StatusCode::OK, &trimmed),
            Err(error) => topic_refusal(&error),
        }
    }

    async fn events(self: Arc<Self>, topic: Topic, query: Option<&str>) -> Response<Content> {
        let asked = Parameters::of(query.unwrap_or_default())
            .and_then(|parameters| reading(parameters, (self.now)()));
        let query = match asked {
            Ok(query) => query,
            Err(what) => return refusal(StatusCode::BAD_REQUEST, "invalid_request", &what),
        };
        let endless = query.follow;
        let name = topic.name().to_owned();
        let replay = match Replay::open(Arc::clone(&self.log), topic, query).await {
            Ok(replay) => replay,
            Err(error) => return replay_refusal(&error),
        };
        let records = replay.records();
        let (lines, sender) = Lines::new(endless.then(|| self.streams.open()));
        tokio::spawn(send_records(name, replay, sender, self.stopping.clone()));
        let mut response = lines.into_response();
        response.headers_mut().insert(RECORDS_HEADER, records.into());
        response
    }

    /// The verification reads everything and waits for the disk: it has a thread of its own.
    fn verify(self: Arc<Self>, query: Option<&str>) -> Response<Content> {
        let asked = Parameters::of(query.unwrap_or_default()).and_then(Parameters::progress);
        let progress = match asked {
            Ok(progress) => progress,
            Err(what) => return refusal(StatusCode::BAD_REQUEST, "invalid_request", &what),
        };
        let (lines, sender) = Lines::new(None);
        tokio::task::spawn_blocking(move || {
            let mut send = |line: VerifyLine| {
                if progress || !matches!(line, VerifyLine::Progress { .. }) {
                    sender.send_blocking(line.to_json().into());
                }
            };
            match self.verification.get() {
                Some(verification) => verification(&mut send),
                None => send(VerifyLine::Error { message: "the node is starting".to_owned() }),
            }
        });
        lines.into_response()
    }
}

/// Sends a reading, line by line, until it or the client ends, or the node stops.
async fn send_records(
    topic: String,
    mut replay: Replay,
    sender: LinesSender,
    mut stopping: watch::Receiver<bool>,
) {
    loop {
        let mut lines = Vec::new();
        let step = tokio::select! {
            step = replay.next(&mut lines) => step,
            () = sender.closed() => return,
            // An error means that the node is gone altogether.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        for note in replay.take_notes() {
            lines.extend_from_slice(note.to_line(&topic).as_bytes());
        }
        let done = match step {
            Ok(step) => step == Step::Done,
            Err(error) => {
                lines.extend_from_slice(error_line(&error.to_string()).as_bytes());
                true
            }
        };
        if !sender.send(lines.into()).await || done {
            return;
        }
    }
}

fn error_line(message: &str) -> String {
    format!("{}\n", serde_json::json!({ "error": { "message": message } }))
}

fn no_topic(name: &str) -> Response<Content> {
    let shown: String = name.chars().take(128).collect();
    refusal(StatusCode::NOT_FOUND, "not_found", &format!("there is no topic {shown}"))
}

fn replay_refusal(error: &ReplayError) -> Response<Content> {
    let (status, code) = match error {
        ReplayError::NoPartition { .. } | ReplayError::Deleted { .. } => {
            (StatusCode::NOT_FOUND, "not_found")
        }
        ReplayError::OutOfRange { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "out_of_range"),
        ReplayError::FollowHasNoEnd => (StatusCode::BAD_REQUEST, "invalid_request"),
        ReplayError::Fetch(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    refusal(status, code, &error.to_string())
}

fn topic_refusal(error: &TopicError) -> Response<Content> {
    let (status, code) = match error {
        TopicError::Name(_) | TopicError::Limits(_) | TopicError::Bound(_) => {
            (StatusCode::BAD_REQUEST, "invalid_request")
        }
        TopicError::Own(_) | TopicError::Compacted(_) => (StatusCode::CONFLICT, "protected"),
        TopicError::NoPartition { .. } => (StatusCode::NOT_FOUND, "not_found"),
        TopicError::Beyond { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "out_of_range"),
        TopicError::Fetch(_) | TopicError::Append(_) => {
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
        }
        TopicError::Catalog(error) => match error {
            CatalogError::Exists { .. } => (StatusCode::CONFLICT, "exists"),
            CatalogError::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            CatalogError::Partitions { .. } => (StatusCode::BAD_REQUEST, "invalid_request"),
            CatalogError::Unlimited { .. } => (StatusCode::CONFLICT, "protected"),
            CatalogError::Protected { .. } => (StatusCode::CONFLICT, "protected"),
            CatalogError::Busy(Busy { .. }) => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        },
    };
    refusal(status, code, &error.to_string())
}

#[cfg(test)]
mod tests;
