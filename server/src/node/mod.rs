//! A node: a log on a disk, a registry, a gateway, and the operators' routes, wired together.
//!
//! Promises
//! - No log is made in a folder that is somebody else's.
//! - An address that is in use is known before anything is made on the disk.
//! - Whoever starts a node holds its folder alone, from before anything is written there.
//! - `node.json` names the addresses only while they are listened on.
//! - [`Node::stop`] answers every request in hand, ends readers cleanly, and marks the log's end;
//!   a killed node loses nothing that was acked.
//!
//! The first start makes the topics, the secrets and, without certificate files, a self-signed
//! pair. `sources` turns settings into the gateway's; `stages` runs what becomes of events, `archive`
//! keeps them, `forgetting` lets them go; `disk_log` is the only file that knows the
//! engine.

mod archive;
pub(crate) mod forgetting;
mod live;
pub(crate) mod routing;
mod runner;
pub(crate) mod sources;
pub(crate) mod stages;
pub(crate) mod standing;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracklog_ingest_gateway::client_ip::TrustedProxies;
use tracklog_ingest_gateway::source::HmacKey;
use tracklog_ingest_gateway::{
    AdminToken, Backing, Bound, Door, Gateway, GatewayConfig, Listen, RowDesk, Running,
    StartError as GatewayError, TlsFiles, Topics,
};
use tracklog_log::meta::{MetaError, MetaTopic};
use tracklog_log::{
    AppendError, CatalogError, Domain, Epoch, Log, Meta, Retention, Topic, TopicName, TopicSpec,
};
use tracklog_pipeline::archive::archiver::ArchiveCounters;
use tracklog_pipeline::archive::store::Store;
use tracklog_registry::{Limits, Registry};

use crate::admin::Admin;
use crate::backfill::Backfills;
use crate::clock;
use crate::config::{ConfigError, Settings};
use crate::disk_log::{DiskLog, OpenError};
use crate::explain::Explainer;
use crate::find::{Finder, FinderTopics};
use crate::folder::{DataFolder, FolderError, NodeFile, Secret};
use crate::live::Watch;
use crate::quarantine::Retries;
use crate::reprocess::{ReprocessError, Reprocesses, Workshop};
use crate::schemas::SCHEMAS_TOPIC;
use crate::topics::OWN_TOPICS;
use archive::Archive;
pub use archive::ArchiveError;
use forgetting::{Forgetting, Parts};
pub use stages::StagesError;
use stages::{NodeTime, StageMetrics, StageTopics, Stages};
use standing::Standing;

/// How long requests in hand may take after a node was told to stop.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long readers that follow may take to read their end.
const READERS_PATIENCE: Duration = Duration::from_secs(1);
/// How often the log is asked whether it still takes appends.
const HEALTH_CHECKED_EVERY: Duration = Duration::from_millis(200);
/// The version of the log's format, as `node.json` tells it.
const FORMAT: u32 = 1;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {}; --{setting}, TRACKLOG_{} or `{setting}` in the file \
         names another address, or `off`",
        source.kind(),
        setting.to_uppercase()
    )]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What it is for: `http` or `https`.
        setting: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A file of the data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The gateway cannot serve.
    #[error(transparent)]
    Gateway(GatewayError),
    /// A topic of the node cannot be made.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// Nobody becomes the log's writer.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The registry's topic, or that of backfills or retries, cannot be read.
    #[error("a topic of the node's own cannot be read: {0}")]
    Meta(#[from] MetaError),
    /// The registry cannot be opened.
    #[error(transparent)]
    Registry(#[from] tracklog_registry::OpenError),
    /// The archive cannot be opened.
    #[error("[archive] {0}")]
    Archive(#[from] ArchiveError),
    /// The stages cannot begin.
    #[error(transparent)]
    Stages(#[from] StagesError),
    /// Runs of stages over old events cannot be read.
    #[error(transparent)]
    Reprocess(#[from] ReprocessError),
    /// A schema of the folder that was named is refused.
    #[error("schemas: {0}")]
    Schemas(String),
}

impl From<GatewayError> for StartError {
    fn from(error: GatewayError) -> Self {
        match error {
            GatewayError::Bind { listen: Listen { address, tls }, source } => {
                Self::Listen { address, setting: if tls { "https" } else { "http" }, source }
            }
            error => Self::Gateway(error),
        }
    }
}

/// A running node.
pub struct Node {
    folder: DataFolder,
    log: Arc<DiskLog>,
    admin: Admin,
    gateway: Arc<Mutex<Option<Running>>>,
    registry: Arc<Registry>,
    stages: Stages,
    reprocesses: Arc<Reprocesses>,
    retries: Arc<Retries>,
    archive: Option<Arc<Archive>>,
    forgetting: Arc<Forgetting>,
    stopping: watch::Sender<bool>,
    http: Option<SocketAddr>,
    https: Option<SocketAddr>,
    default_key: Secret,
}

impl Node {
    /// Opens the log and serves, on the Tokio runtime of the caller.
    ///
    /// # Errors
    /// [`StartError`]; then nothing listens and the folder is free again.
    pub async fn start(settings: &Settings) -> Result<Self, StartError> {
        stages::check(settings)?;
        let bound = Gateway::bind(&listeners(settings))?;
        let folder = DataFolder::at(&settings.data);
        folder.create()?;
        folder.refuse_foreign()?;
        let archive = archive::place(&settings.archive, &folder)?;
        let log = Arc::new(DiskLog::open(folder.path(), &settings.journal).await?);
        folder.remove_node()?;
        Self::serve(settings, bound, folder, archive, log).await
    }

    async fn serve(
        settings: &Settings,
        bound: Bound,
        folder: DataFolder,
        archive: Option<Store>,
        disk_log: Arc<DiskLog>,
    ) -> Result<Self, StartError> {
        let log = disk_log.log();
        let (default_key, config) = gateway_config(settings, &folder)?;
        let epoch = log.open(Domain::WHOLE).await?;
        let topics = own_topics(&*log).await?;
        let registry = Arc::new(open_registry(settings, &log, epoch).await?);
        let archive_read = archive.as_ref().and_then(archive::reader);
        let archive = match archive {
            Some(store) => {
                let started = Archive::start(&settings.archive, store, &log, &registry, &folder);
                Some(Arc::new(started.await?))
            }
            None => None,
        };
        let stages = stages(settings, &folder, &log, epoch, &topics).await?;
        let (stopping, stopped) = watch::channel(false);
        let admin = Admin::new(Arc::clone(&log), clock::now, stopped);
        admin.set_verification(disk_log.verification());
        admin.set_groups(stages.groups());
        admin.set_routing(stages.routing());
        let shop = workshop(settings, &folder, &log, epoch, &topics, &stages);
        let reprocesses = Arc::new(Reprocesses::open(shop).await?);
        admin.set_reprocesses(Arc::clone(&reprocesses));
        admin.set_explainer(explainer(settings, &config, &registry, &stages));
        admin.set_live(stages.live(), settings.live.clients_max);
        let counters = archive.as_ref().map(|archive| archive.counters());
        admin.set_standing(Standing { live: stages.live(), archive: counters });
        let backing =
            Backing { log: Arc::clone(&log), epoch, topics, registry: Arc::clone(&registry) };
        let door: Arc<dyn Door> = Arc::new(admin.clone());
        let running = Gateway::start(config, bound, backing, door).await?;
        admin.set_backfills(Backfills::open(Arc::clone(&log), epoch, running.row_desk()).await?);
        let retries = retries(&log, epoch, running.row_desk(), &stages).await?;
        admin.set_retries(Arc::clone(&retries));
        admin.set_finder(finder(settings, &folder, &log, &stages, &retries, archive_read));
        let forgetting = Arc::new(Forgetting::new(Parts {
            log: Arc::clone(&log),
            epoch,
            folder: folder.clone(),
            state: stages.enrichment().map(|(_, state)| state),
            working: stages.working(),
            reprocesses: Arc::clone(&reprocesses),
            retries: Arc::clone(&retries),
            archive: archive.clone(),
            threads: stages.threads(),
        }));
        admin.set_forgetting(Arc::clone(&forgetting));
        let mut addresses = running.addresses().iter().copied();
        let http = settings.http.and_then(|_| addresses.next());
        let https = settings.https.and_then(|_| addresses.next());
        let node = Self {
            folder,
            log: disk_log,
            admin: admin.clone(),
            gateway: Arc::new(Mutex::new(Some(running))),
            registry,
            stages,
            reprocesses,
            retries,
            archive,
            forgetting,
            stopping,
            http,
            https,
            default_key,
        };
        admin.set_metrics(node.metrics_text());
        let (pid, backend) = (std::process::id(), Some(node.backend()));
        let file = NodeFile { pid, http, https, backend, format: FORMAT };
        node.folder.write_node(&file)?;
        Ok(node)
    }

    /// Where it speaks plain HTTP.
    #[must_use]
    pub const fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Where it speaks HTTPS.
    #[must_use]
    pub const fn https(&self) -> Option<SocketAddr> {
        self.https
    }

    /// Its folder.
    #[must_use]
    pub const fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// The write key of the source `default`, and whether it is new.
    #[must_use]
    pub const fn default_key(&self) -> &Secret {
        &self.default_key
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> Arc<dyn Log> {
        self.log.log()
    }

    /// Its registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// How many events its archive took since it began; nothing where there is none.
    #[must_use]
    pub fn archived(&self) -> Option<u64> {
        let counters = self.archive.as_ref()?.counters();
        Some(counters.topics.iter().map(|topic| topic.rows.count()).sum())
    }

    /// Its live figures, watched from now on; nothing where they are off.
    #[must_use]
    pub fn watch(&self) -> Option<Watch> {
        self.stages.live().map(Watch::seconds)
    }

    /// Which disk backend runs and why.
    #[must_use]
    pub fn backend(&self) -> String {
        self.log.backend().1
    }

    /// What `serve` prints when the node takes events: `ready` and where.
    #[must_use]
    pub fn ready_line(&self) -> String {
        let mut line = "ready".to_owned();
        if let Some(address) = self.http {
            line.push_str(&format!(" http://{address}"));
        }
        if let Some(address) = self.https {
            line.push_str(&format!(" https://{address}"));
        }
        let folder = self.folder.path().display();
        line.push_str(&format!(" data={folder} backend={}", self.log.backend().0));
        line
    }

    /// Resolves, with the reason, when the log takes no more appends until it is opened again.
    /// Asked at a fixed beat: the log's failure is told at once to whoever appends, and here to
    /// whoever can end the process.
    pub async fn failed(&self) -> String {
        let mut beat = tokio::time::interval(HEALTH_CHECKED_EVERY);
        loop {
            beat.tick().await;
            if let Some(why) = self.log.closed() {
                return why;
            }
        }
    }

    /// Refuses new events, finishes requests in hand, ends readers, closes the log.
    pub async fn stop(self) {
        self.stopping.send_replace(true);
        let ended = timeout(READERS_PATIENCE, self.admin.streams_ended()).await;
        if ended.is_err() {
            tracing::debug!("a reader that does not read is cut");
        }
        self.forgetting.stop().await;
        let running = self.gateway.lock().expect("no holder of this lock panics").take();
        if let Some(running) = running {
            running.drain(DRAIN_PATIENCE).await;
        }
        self.reprocesses.stand_still().await;
        self.stages.stop().await;
        if let Some(archive) = self.archive {
            archive.stand_still().await;
        }
        if let Err(error) = self.folder.remove_node() {
            tracing::warn!(%error, "node.json stays behind");
        }
        let log = self.log;
        let closing = tokio::task::spawn_blocking(move || log.close());
        if closing.await.is_err() {
            tracing::error!("the log was not closed; the next opening recovers it");
        }
    }

    fn metrics_text(&self) -> crate::admin::MetricsText {
        let sources = Arc::new(MetricsSources {
            gateway: Arc::clone(&self.gateway),
            log: Arc::clone(&self.log),
            stages: self.stages.metrics(),
            archive: self.archive.as_ref().map(|archive| archive.counters()),
            retries: Arc::clone(&self.retries),
        });
        Box::new(move || {
            let sources = Arc::clone(&sources);
            Box::pin(async move { sources.text().await })
        })
    }
}

/// Who tells something to metrics.
struct MetricsSources {
    gateway: Arc<Mutex<Option<Running>>>,
    log: Arc<DiskLog>,
    stages: StageMetrics,
    archive: Option<Arc<ArchiveCounters>>,
    retries: Arc<Retries>,
}

impl MetricsSources {
    async fn text(&self) -> String {
        let mut text = String::new();
        if let Some(running) = &*self.gateway.lock().expect("no holder of this lock panics") {
            running.metrics().encode(&mut text).expect("a string takes all text");
        }
        self.log.encode_metrics(&mut text);
        crate::process::encode_metrics(&mut text);
        self.stages.encode(&mut text).await;
        crate::metrics::encode_retries(self.retries.counters(), &mut text);
        if let Some(archive) = &self.archive {
            crate::metrics::encode_archive(archive, clock::now(), &mut text);
        }
        text.push_str("# EOF\n");
        text
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("folder", &self.folder).finish_non_exhaustive()
    }
}

fn listeners(settings: &Settings) -> Vec<Listen> {
    let http = settings.http.map(|address| Listen { address, tls: false });
    let https = settings.https.map(|address| Listen { address, tls: true });
    http.into_iter().chain(https).collect()
}

fn gateway_config(
    settings: &Settings,
    folder: &DataFolder,
) -> Result<(Secret, GatewayConfig), StartError> {
    let token = folder.admin_token()?;
    let token = AdminToken::new(&token.text).expect("an empty file is no secret");
    let default_key = folder.default_key()?;
    let sources = sources::sources(settings, folder, &default_key.text)?;
    let mut config = GatewayConfig::new(sources, token);
    config.trusted_proxies = TrustedProxies::new(settings.trusted_proxies.clone());
    config.public_host.clone_from(&settings.public_host);
    config.connections = settings.connections;
    config.requests = settings.requests;
    config.tls = Some(tls_files(settings, folder));
    Ok((default_key, config))
}

fn tls_files(settings: &Settings, folder: &DataFolder) -> TlsFiles {
    match settings.certificate.clone() {
        Some((certificate, key)) => TlsFiles { certificate, key, self_signed: None },
        None => {
            let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
            names.extend(settings.public_host.as_deref().map(host_of));
            let certificate = folder.file("cert.pem");
            TlsFiles { certificate, key: folder.file("key.pem"), self_signed: Some(names) }
        }
    }
}

/// A public host without its port.
fn host_of(public: &str) -> String {
    let host = public.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
    host.map_or(public, |(host, _)| host).to_owned()
}

async fn own_topics(log: &dyn Log) -> Result<Topics, CatalogError> {
    for (name, partitions) in OWN_TOPICS {
        if log.topic(name).is_none() {
            let name = TopicName::new(name).expect("our own names are good");
            let spec = TopicSpec { name, partitions, retention: Retention::Keep };
            log.create_topic(spec).await?;
        }
    }
    let own = |name: &str| -> Topic { log.topic(name).expect("it is there, or was just made") };
    Ok(Topics { raw: own("raw"), rejected: own("rejected") })
}

async fn stages(
    settings: &Settings,
    folder: &DataFolder,
    log: &Arc<dyn Log>,
    epoch: Epoch,
    topics: &Topics,
) -> Result<Stages, StartError> {
    let Topics { raw, rejected } = topics.clone();
    let enriched = log.topic("enriched").expect("it is there, or was just made");
    let undelivered = log.topic("undelivered").expect("it is there, or was just made");
    let topics = StageTopics { raw, enriched, rejected, undelivered };
    Ok(Stages::start(settings, folder, Arc::clone(log), epoch, topics).await?)
}

/// What answers for single events; nothing where the stage is off.
fn explainer(
    settings: &Settings,
    config: &GatewayConfig,
    registry: &Arc<Registry>,
    stages: &Stages,
) -> Option<Explainer> {
    let (enrichers, state) = stages.enrichment()?;
    Some(Explainer {
        sources: config.sources.clone(),
        proxies: TrustedProxies::new(settings.trusted_proxies.clone()),
        registry: Arc::clone(registry),
        enrichers,
        state,
    })
}

/// What tries rejected events again.
async fn retries(
    log: &Arc<dyn Log>,
    epoch: Epoch,
    desk: RowDesk,
    stages: &Stages,
) -> Result<Arc<Retries>, StartError> {
    let rejected = log.topic("rejected").expect("it is there, or was just made");
    let stage_of = stages.stage_of();
    Ok(Arc::new(Retries::open(Arc::clone(log), epoch, rejected, desk, stage_of).await?))
}

/// What tells where an event is.
fn finder(
    settings: &Settings,
    folder: &DataFolder,
    log: &Arc<dyn Log>,
    stages: &Stages,
    retries: &Arc<Retries>,
    archive: Option<Store>,
) -> Finder {
    let own = |name: &str| -> Topic { log.topic(name).expect("it is there, or was just made") };
    let topics = FinderTopics {
        raw: own("raw"),
        rejected: own("rejected"),
        enriched: settings.enrich.enabled.then(|| own("enriched")),
        undelivered: own("undelivered"),
    };
    Finder {
        log: Arc::clone(log),
        groups: stages.groups(),
        routing: stages.routing(),
        retries: Arc::clone(retries),
        archive,
        topics,
        privacy_key: folder.read_privacy_key().ok().map(|key| HmacKey::new(key.as_bytes())),
    }
}

/// What runs of stages over old events work with.
fn workshop(
    settings: &Settings,
    folder: &DataFolder,
    log: &Arc<dyn Log>,
    epoch: Epoch,
    topics: &Topics,
    stages: &Stages,
) -> Workshop {
    let Topics { raw, rejected } = topics.clone();
    Workshop {
        log: Arc::clone(log),
        epoch,
        groups: stages.groups(),
        enrichment: stages.enrichment(),
        failed_lookup: settings.enrich.failed_lookup,
        raw,
        enriched: log.topic("enriched").expect("it is there, or was just made"),
        rejected,
        folder: folder.file("state"),
        time: Arc::new(NodeTime),
        threads: stages.threads(),
    }
}

async fn open_registry(
    settings: &Settings,
    log: &Arc<dyn Log>,
    epoch: Epoch,
) -> Result<Registry, StartError> {
    let name = TopicName::new(SCHEMAS_TOPIC).expect("our own names are good");
    let meta: Arc<dyn Meta> = Arc::new(MetaTopic::open(Arc::clone(log), epoch, name).await?);
    let registry = Registry::open(meta, Limits::default()).await?;
    let Some(folder) = &settings.schemas else { return Ok(registry) };
    let entries = registry.load_folder(folder).await;
    let place = folder.display();
    let entries = entries.map_err(|error| StartError::Schemas(format!("{place}: {error}")))?;
    for entry in entries {
        match entry.outcome {
            Ok((name, registered)) => {
                tracing::info!(schema = name.as_str(), version = registered.version, "loaded");
            }
            Err(error) => return Err(StartError::Schemas(error.to_string())),
        }
    }
    Ok(registry)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_public_host_s_certificate_names_no_port() {
        assert_eq!(super::host_of("events.example.com:8443"), "events.example.com");
        assert_eq!(super::host_of("events.example.com"), "events.example.com");
    }
}
