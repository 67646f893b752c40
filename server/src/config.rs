//! What a node is told: flags over environment over a TOML file over the defaults.
//!
//! Promises
//! - A key that nobody reads is refused, with its line: a typo never silently means "default".
//! - Every error is one line that names the file and line, the variable, or the flag.
//! - Reads the file it is given and nothing else; the environment comes as an argument.
//!
//! `TRACKLOG_SLOT_BYTES` is `slot_bytes`, `TRACKLOG_LIMITS_EVENTS_MAX` is `events_max` below
//! `[limits]`; sources are in the file alone. [`Settings`] is what `node` starts from.

mod archive;
mod enrich;
mod file;
mod live;
mod route;
mod threshold;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use archive::ArchiveSettings;
pub use enrich::{
    EnrichSettings, ExternalStore, FailedLookup, ForEach, GeoSettings, Hidden, ProfileSettings,
    ProfileStoreName, RedisLayout, SessionSettings, Switch,
};
pub use file::{
    BackendName, IpSetting, SettleSetting, SourceSettings, UnknownEventsSetting, UserIdSetting,
    WhenFullSetting,
};
use file::{Document, Layer, Window};
use ipnet::IpNet;
pub use live::LiveSettings;
pub use route::{RouteFrom, RouteSettings};
pub use threshold::ThresholdSettings;
use tracklog_ingest_gateway::config::{ConnectionLimits, RequestLimits};
use tracklog_log::dedupe::WINDOW;
use tracklog_pipeline::quantity;

/// What variables of the environment begin with.
pub const ENVIRONMENT_PREFIX: &str = "TRACKLOG_";

/// Everything that a node is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The data folder.
    pub data: PathBuf,
    /// Where to speak plain HTTP.
    pub http: Option<SocketAddr>,
    /// Where to speak HTTPS.
    pub https: Option<SocketAddr>,
    /// Certificate and key; else a self-signed pair in the data folder.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The host that settings tell to SDKs.
    pub public_host: Option<String>,
    /// Networks of proxies whose word on the client's address is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// A folder of schemas, loaded at the start.
    pub schemas: Option<PathBuf>,
    /// What is logged, in the words of `tracing`'s filter.
    pub log: String,
    /// How the log is kept.
    pub journal: JournalSettings,
    /// Limits of connections.
    pub connections: ConnectionLimits,
    /// Limits of requests.
    pub requests: RequestLimits,
    /// Who may send, by name. A source `default` is always there.
    pub sources: BTreeMap<String, SourceSettings>,
    /// What is found out about each event.
    pub enrich: EnrichSettings,
    /// Which events go where.
    pub route: RouteSettings,
    /// Figures of what comes in.
    pub live: LiveSettings,
    /// Where every event is kept as Parquet.
    pub archive: ArchiveSettings,
}

/// How the log is kept. `None` leaves the choice to the engine.
#[derive(Clone, Debug, Default)]
pub struct JournalSettings {
    /// How commits reach the disk.
    pub backend: BackendName,
    /// The size of a slot when the log is made.
    pub slot_bytes: Option<u64>,
    /// Whether old segments become packs.
    pub settle: SettleSetting,
    /// How much of the newest stays as it was written.
    pub hot_bytes: Option<u64>,
    /// How hard packs are compressed.
    pub pack_level: Option<u32>,
    /// The space that the journal may take.
    pub bytes_max: Option<u64>,
    /// What happens when it is used up.
    pub when_full: WhenFullSetting,
    /// Memory for what waits for the disk.
    pub budget_bytes: Option<usize>,
    /// Memory for the newest commits, which live readers read.
    pub ring_bytes: Option<usize>,
    /// After how long an unfinished commit means overload.
    pub commit_deadline: Option<Duration>,
    /// How long an event is known again that is sent once more; `None`: each is stored.
    pub dedupe_window: Option<Duration>,
    /// Memory for the ids by which it is known.
    pub ids_bytes_max: Option<u64>,
    /// So many bytes a second are read again all the time; 0: none.
    pub scrub_rate: Option<u64>,
    /// Opens although commits that were acked are lost. Only ever said by flag.
    pub accept_loss: bool,
}

/// What flags say.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// The TOML file.
    pub config: Option<PathBuf>,
    /// The data folder.
    pub data: Option<PathBuf>,
    /// An address, or `off`.
    pub http: Option<String>,
    /// An address, or `off`.
    pub https: Option<String>,
    /// Opens although commits that were acked are lost.
    pub accept_loss: bool,
}

/// The settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct ConfigError {
    /// File and line, variable, or flag.
    pub place: String,
    /// What is wrong there, on one line.
    pub what: String,
}

impl ConfigError {
    fn new(place: impl Into<String>, what: impl std::fmt::Display) -> Self {
        let what = what.to_string();
        let lines = what.lines().map(str::trim).filter(|line| !line.is_empty());
        Self { place: place.into(), what: lines.collect::<Vec<_>>().join(" ") }
    }
}

impl Settings {
    /// Puts the layers together. `environment` answers for variables by their whole name.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn load(
        flags: &Flags,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let environment: BTreeMap<_, _> = environment.into_iter().collect();
        let named = environment.get("TRACKLOG_CONFIG").map(PathBuf::from);
        let path = flags.config.clone().or(named);
        let document = match &path {
            Some(path) => Document::read(path)?,
            None => Document::default(),
        };
        let layer = Layer::of_environment(&environment)?.over(document.layer);
        let origin = path.map_or_else(|| "settings".to_owned(), |path| path.display().to_string());
        let mut sources = document.sources;
        sources.entry("default".to_owned()).or_default();
        sources.values_mut().for_each(|source| source.inherit(&layer.limits));
        // Values that are read later are told by where they came from.
        let place = |key: &str| {
            let variable = format!("{ENVIRONMENT_PREFIX}{}", key.to_uppercase());
            match environment.contains_key(&variable) {
                true => variable,
                false => format!("{origin}: {key}"),
            }
        };
        let mut settings = Self::from_layer(layer, &origin, &place)?;
        settings.sources = sources;
        settings.enrich = document.enrich;
        settings.route = document.route;
        let live = document.live.check();
        live.map_err(|what| ConfigError::new(format!("{origin}: [live]"), what))?;
        settings.live = document.live;
        settings.archive = document.archive;
        check_sources(&settings.sources, &origin)?;
        let profile = settings.enrich.profile.external();
        profile.map_err(|what| ConfigError::new(format!("{origin}: [enrich.profile]"), what))?;
        settings.take_flags(flags)?;
        Ok(settings)
    }

    /// Where data lies unless something says otherwise.
    #[must_use]
    pub fn default_data() -> PathBuf {
        "./tracklog-data".into()
    }

    fn from_layer(
        layer: Layer,
        origin: &str,
        place: &dyn Fn(&str) -> String,
    ) -> Result<Self, ConfigError> {
        let certificate = match (layer.certificate, layer.private_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                let what = "certificate and private_key belong together: give both or none";
                return Err(ConfigError::new(origin, what));
            }
        };
        let address = |key: &str, text: Option<String>, default: &str| {
            listen_address(&text.unwrap_or_else(|| default.to_owned()))
                .map_err(|what| ConfigError::new(place(key), what))
        };
        let networks = |texts: &[String]| {
            networks(texts).map_err(|what| ConfigError::new(place("trusted_proxies"), what))
        };
        Ok(Self {
            data: layer.data.unwrap_or_else(Self::default_data),
            http: address("http", layer.http, "127.0.0.1:8080")?,
            https: address("https", layer.https, "127.0.0.1:8443")?,
            certificate,
            public_host: layer.public_host,
            trusted_proxies: networks(&layer.trusted_proxies.unwrap_or_default())?,
            schemas: layer.schemas,
            log: layer.log.unwrap_or_else(|| "info".to_owned()),
            journal: JournalSettings {
                backend: layer.backend.unwrap_or_default(),
                slot_bytes: layer.slot_bytes.map(|quantity| quantity.0),
                settle: layer.settle.unwrap_or_default(),
                hot_bytes: layer.hot_bytes.map(|quantity| quantity.0),
                pack_level: pack_level(layer.pack_level)?,
                bytes_max: layer.journal_bytes_max.map(|quantity| quantity.0),
                when_full: layer.when_full.unwrap_or_default(),
                budget_bytes: layer.budget_bytes.map(quantity::Bytes::to_usize),
                ring_bytes: layer.ring_bytes.map(quantity::Bytes::to_usize),
                commit_deadline: layer.commit_deadline.map(|span| span.0),
                dedupe_window: layer.dedupe_window.unwrap_or(Window(Some(WINDOW))).0,
                ids_bytes_max: layer.ids_bytes_max.map(|quantity| quantity.0),
                scrub_rate: layer.scrub_rate.map(|quantity| quantity.0),
                accept_loss: false,
            },
            connections: layer.limits.connections(),
            requests: layer.limits.requests(),
            sources: BTreeMap::new(),
            enrich: EnrichSettings::default(),
            route: RouteSettings::default(),
            live: LiveSettings::default(),
            archive: ArchiveSettings::default(),
        })
    }

    fn take_flags(&mut self, flags: &Flags) -> Result<(), ConfigError> {
        let address = |name: &str, text: &str| {
            listen_address(text).map_err(|what| ConfigError::new(format!("--{name}"), what))
        };
        if let Some(data) = &flags.data {
            self.data.clone_from(data);
        }
        if let Some(http) = &flags.http {
            self.http = address("http", http)?;
        }
        if let Some(https) = &flags.https {
            self.https = address("https", https)?;
        }
        self.journal.accept_loss = flags.accept_loss;
        if self.http.is_none() && self.https.is_none() {
            let what = "http and https are both off: there is nothing to serve";
            return Err(ConfigError::new("settings", what));
        }
        if self.http == self.https && self.http.is_some_and(|address| address.port() != 0) {
            let what = "http and https are the same address: give each a port of its own";
            return Err(ConfigError::new("settings", what));
        }
        Ok(())
    }
}

/// As zstd counts.
fn pack_level(level: Option<u32>) -> Result<Option<u32>, ConfigError> {
    match level {
        Some(level) if !(1..=22).contains(&level) => {
            let what = format!("pack_level is 1 to 22, not {level}");
            Err(ConfigError::new("settings", what))
        }
        level => Ok(level),
    }
}

/// `off`, or an address with a port; a name is looked up.
fn listen_address(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let no_address = || format!("{text:?} is no address like 127.0.0.1:8080, and not `off`");
    let mut found = text.to_socket_addrs().map_err(|_| no_address())?;
    found.next().map(Some).ok_or_else(no_address)
}

/// Networks, or single addresses.
fn networks(texts: &[String]) -> Result<Vec<IpNet>, String> {
    let network = |text: &String| {
        let alone = || text.parse::<IpAddr>().map(IpNet::from);
        let network = text.parse().or_else(|_| alone());
        network.map_err(|_| format!("{text:?} is no network like 10.0.0.0/8"))
    };
    texts.iter().map(network).collect()
}

fn check_sources(
    sources: &BTreeMap<String, SourceSettings>,
    origin: &str,
) -> Result<(), ConfigError> {
    let mut keys: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, source) in sources {
        let place = || format!("{origin}: [sources.{name}]");
        if source.write_key.is_some() && source.write_key_file.is_some() {
            let what = "write_key and write_key_file exclude each other";
            return Err(ConfigError::new(place(), what));
        }
        if source.write_key.is_none() && source.write_key_file.is_none() && name != "default" {
            return Err(ConfigError::new(place(), "write_key or write_key_file is missing"));
        }
        if let Err(error) = source.required() {
            return Err(ConfigError::new(place(), error));
        }
        let Some(key) = source.write_key.as_deref() else { continue };
        if key.is_empty() {
            return Err(ConfigError::new(place(), "write_key is empty"));
        }
        if let Some(other) = keys.insert(key, name) {
            let what = format!("has the write key of [sources.{other}]");
            return Err(ConfigError::new(place(), what));
        }
    }
    Ok(())
}

/// The key of a source whose key lies in a file.
pub(crate) fn read_key_file(path: &Path) -> Result<String, ConfigError> {
    let place = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| ConfigError::new(&*place, error))?;
    match text.trim() {
        "" => Err(ConfigError::new(place, "the file is empty")),
        key => Ok(key.to_owned()),
    }
}

#[cfg(test)]
mod tests;
