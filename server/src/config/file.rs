//! The TOML file and the environment, as written: every key may be missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::Error as _;
use serde::de::value::StrDeserializer;
use serde::{Deserialize, Deserializer, Serialize};
use tracklog_ingest_gateway::Source;
use tracklog_ingest_gateway::config::{ConnectionLimits, RequestLimits};
use tracklog_ingest_gateway::scan::ScanLimits;
use tracklog_ingest_gateway::source::{Required, UnknownField};
use tracklog_log::WhenFull;

use super::archive::ArchiveSettings;
use super::enrich::EnrichSettings;
use super::live::LiveSettings;
use super::quantity::{Bytes, Span};
use super::route::RouteSettings;
use super::{ConfigError, ENVIRONMENT_PREFIX};

/// How commits reach the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendName {
    /// Whichever is better here.
    #[default]
    Auto,
    /// io_uring.
    Uring,
    /// Threads that write and wait.
    Blocking,
}

/// What happens when there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFullSetting {
    /// Appends are refused until there is some.
    #[default]
    Refuse,
    /// The oldest goes: segments of the journal, or records of a topic.
    DropOldest,
}

impl From<WhenFullSetting> for WhenFull {
    fn from(setting: WhenFullSetting) -> Self {
        match setting {
            WhenFullSetting::Refuse => Self::Refuse,
            WhenFullSetting::DropOldest => Self::DropOldest,
        }
    }
}

/// How long an event is known again: a span of time, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window(pub(super) Option<Duration>);

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        if text == "off" {
            return Ok(Self(None));
        }
        let span = Span::deserialize(StrDeserializer::<D::Error>::new(&text));
        let told =
            |_| D::Error::custom(format!("{text:?} is no time like \"24h\", and not \"off\""));
        span.map(|span| Self(Some(span.0))).map_err(told)
    }
}

/// Whether old segments become packs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettleSetting {
    /// They do.
    #[default]
    On,
    /// They stay as they were written.
    Off,
}

/// What becomes of events without a schema.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownEventsSetting {
    /// They are stored unchecked.
    #[default]
    Accept,
    /// They are rejected.
    Reject,
}

/// What is stored of user ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserIdSetting {
    /// What the client said.
    #[default]
    Plain,
    /// Its HMAC.
    Hmac,
}

/// What is stored of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpSetting {
    /// All of them.
    #[default]
    Keep,
    /// Their networks.
    Truncate,
    /// Nothing.
    Drop,
}

/// `[sources.NAME]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourceSettings {
    /// The key that its SDKs hold.
    pub write_key: Option<String>,
    /// A file that holds it.
    pub write_key_file: Option<PathBuf>,
    /// What becomes of events without a schema.
    pub unknown_events: UnknownEventsSetting,
    /// What is stored of user ids.
    pub user_id: UserIdSetting,
    /// What is stored of addresses.
    pub ip: IpSetting,
    require: Vec<String>,
    /// Origins of pages that may send; none: any.
    pub origins: Vec<String>,
    /// Request headers that are kept with each event; `None`: the usual ones.
    pub headers: Option<Vec<String>>,
    /// Whether rejected events keep the bytes received.
    pub keep_rejected_bytes: Option<bool>,
    depth_max: Option<u32>,
    events_max: Option<u32>,
    event_bytes_max: Option<Bytes>,
    body_bytes_max: Option<Bytes>,
    decoded_bytes_max: Option<Bytes>,
}

impl SourceSettings {
    /// Fields that each event must have.
    ///
    /// # Errors
    /// The name that is no field.
    pub fn required(&self) -> Result<Vec<Required>, UnknownField> {
        self.require.iter().map(|name| name.parse()).collect()
    }

    /// Limits of events and batches.
    #[must_use]
    pub fn scan_limits(&self) -> ScanLimits {
        let usual = ScanLimits::default();
        let event_bytes = self.event_bytes_max.map(|bytes| u32::try_from(bytes.0));
        ScanLimits {
            event_bytes_max: event_bytes.map_or(usual.event_bytes_max, |it| it.unwrap_or(u32::MAX)),
            depth_max: self.depth_max.unwrap_or(usual.depth_max),
            events_max: self.events_max.unwrap_or(usual.events_max),
        }
    }

    /// Bytes of a body as sent.
    #[must_use]
    pub fn body_bytes_max(&self) -> usize {
        self.body_bytes_max.map_or(Source::BODY_BYTES_MAX, Bytes::to_usize)
    }

    /// Bytes of a body when decompressed.
    #[must_use]
    pub fn decoded_bytes_max(&self) -> usize {
        self.decoded_bytes_max.map_or(Source::DECODED_BYTES_MAX, Bytes::to_usize)
    }

    /// Takes from `limits` what it does not say itself.
    pub(super) fn inherit(&mut self, limits: &Limits) {
        self.depth_max = self.depth_max.or(limits.depth_max);
        self.events_max = self.events_max.or(limits.events_max);
        self.event_bytes_max = self.event_bytes_max.or(limits.event_bytes_max);
        self.body_bytes_max = self.body_bytes_max.or(limits.body_bytes_max);
        self.decoded_bytes_max = self.decoded_bytes_max.or(limits.decoded_bytes_max);
    }
}

/// The file.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) layer: Layer,
    pub(super) sources: BTreeMap<String, SourceSettings>,
    pub(super) enrich: EnrichSettings,
    pub(super) route: RouteSettings,
    pub(super) live: LiveSettings,
    pub(super) archive: ArchiveSettings,
}

/// Declares a struct of optional keys that one layer lays over another.
macro_rules! layer {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $type:ty,)* } nested { $($nested:ident: $inner:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $name {
            $(pub(super) $key: Option<$type>,)*
            $(pub(super) $nested: $inner,)*
        }

        impl $name {
            /// What this layer says, and where it says nothing, the other.
            pub(super) fn over(self, below: Self) -> Self {
                Self {
                    $($key: self.$key.or(below.$key),)*
                    $($nested: self.$nested.over(below.$nested),)*
                }
            }

            /// Its keys, those of other structs aside.
            const KEYS: &'static [&'static str] = &[$(stringify!($key),)*];
        }
    };
}

layer! {
    /// All keys but the sources.
    Layer {
        data: PathBuf,
        http: String,
        https: String,
        certificate: PathBuf,
        private_key: PathBuf,
        public_host: String,
        trusted_proxies: Vec<String>,
        schemas: PathBuf,
        log: String,
        backend: BackendName,
        slot_bytes: Bytes,
        settle: SettleSetting,
        hot_bytes: Bytes,
        pack_level: u32,
        journal_bytes_max: Bytes,
        when_full: WhenFullSetting,
        budget_bytes: Bytes,
        ring_bytes: Bytes,
        commit_deadline: Span,
        scrub_rate: Bytes,
        dedupe_window: Window,
        ids_bytes_max: Bytes,
    } nested {
        limits: Limits,
    }
}

layer! {
    /// `[limits]`: of connections and requests, and of the sources that say nothing themselves.
    Limits {
        connections_max: usize,
        address_connections_max: usize,
        head_timeout: Span,
        idle_timeout: Span,
        write_timeout: Span,
        body_bytes_max: Bytes,
        decoded_bytes_max: Bytes,
        event_bytes_max: Bytes,
        depth_max: u32,
        events_max: u32,
        admin_body_bytes_max: Bytes,
        header_bytes_max: Bytes,
        target_bytes_max: Bytes,
        body_timeout: Span,
        body_grace: Span,
        body_rate_min: u32,
        answer_timeout: Span,
        append_bytes_max: Bytes,
    } nested {}
}

impl Limits {
    pub(super) fn connections(&self) -> ConnectionLimits {
        let usual = ConnectionLimits::DEFAULT;
        let span = |span: Option<Span>, usual| span.map_or(usual, |span| span.0);
        ConnectionLimits {
            connections_max: self.connections_max.unwrap_or(usual.connections_max),
            address_connections_max: self
                .address_connections_max
                .unwrap_or(usual.address_connections_max),
            head_timeout: span(self.head_timeout, usual.head_timeout),
            idle_timeout: span(self.idle_timeout, usual.idle_timeout),
            write_timeout: span(self.write_timeout, usual.write_timeout),
        }
    }

    pub(super) fn requests(&self) -> RequestLimits {
        let usual = RequestLimits::DEFAULT;
        let bytes = |bytes: Option<Bytes>, usual| bytes.map_or(usual, Bytes::to_usize);
        let span = |span: Option<Span>, usual| span.map_or(usual, |span| span.0);
        RequestLimits {
            admin_body_bytes_max: bytes(self.admin_body_bytes_max, usual.admin_body_bytes_max),
            header_bytes_max: bytes(self.header_bytes_max, usual.header_bytes_max),
            target_bytes_max: bytes(self.target_bytes_max, usual.target_bytes_max),
            body_timeout: span(self.body_timeout, usual.body_timeout),
            body_grace: span(self.body_grace, usual.body_grace),
            body_rate_min: self.body_rate_min.unwrap_or(usual.body_rate_min),
            answer_timeout: span(self.answer_timeout, usual.answer_timeout),
            append_bytes_max: bytes(self.append_bytes_max, usual.append_bytes_max),
        }
    }
}

impl Document {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let place = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::new(&*place, error))?;
        Self::parse(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(&text, span.start));
            let place = format!("{place}:{line}");
            // What else there is would be a line of four hundred characters, and of one section alone.
            match error.message().split_once(", expected one of") {
                Some((unknown, _)) if unknown.starts_with("unknown field") => {
                    let what = format!("{unknown}: `tracklog serve --help` lists all there are");
                    ConfigError::new(place, what)
                }
                _ => ConfigError::new(place, error.message()),
            }
        })
    }

    /// What only the file has is taken out first, by position: the rest is [`Layer`]'s.
    fn parse(text: &str) -> Result<Self, toml::de::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct OfTheFile {
            sources: BTreeMap<String, SourceSettings>,
            enrich: EnrichSettings,
            route: RouteSettings,
            live: LiveSettings,
            archive: ArchiveSettings,
        }
        let OfTheFile { sources, enrich, route, live, archive } = toml::from_str(text)?;
        let mut table = toml::de::DeTable::parse(text)?;
        for key in ["sources", "enrich", "route", "live", "archive"] {
            table.get_mut().remove(key);
        }
        let layer = Layer::deserialize(toml::de::Deserializer::from(table))?;
        Ok(Self { layer, sources, enrich, route, live, archive })
    }
}

fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

impl Layer {
    /// The keys that the environment sets. Variables that name no key are others' business: an
    /// orchestrator sets some of its own for every service.
    pub(super) fn of_environment(
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, ConfigError> {
        let mut layer = Self::default();
        let limits = Limits::KEYS.iter().map(|key| ("limits_", "limits.", key));
        for (prefix, table, key) in Self::KEYS.iter().map(|key| ("", "", key)).chain(limits) {
            let name =
                format!("{ENVIRONMENT_PREFIX}{}{}", prefix.to_uppercase(), key.to_uppercase());
            if let Some(value) = environment.get(&name) {
                let set = Self::of_assignment(&format!("{table}{key}"), value);
                let set = set.map_err(|what| ConfigError::new(name, what))?;
                layer = set.over(layer);
            }
        }
        Ok(layer)
    }

    /// `key = value` where the value may lack its quotes, or be a list with commas. What fails as
    /// a text says best what was wanted.
    fn of_assignment(key: &str, value: &str) -> Result<Self, String> {
        let text = toml::Value::String(value.to_owned()).to_string();
        let list = value.split(',').map(|item| toml::Value::String(item.trim().to_owned()));
        let list = toml::Value::Array(list.collect()).to_string();
        let as_text = toml::from_str(&format!("{key} = {text}"));
        let as_is = || toml::from_str(&format!("{key} = {value}"));
        let as_list = || toml::from_str(&format!("{key} = {list}"));
        match as_text {
            Ok(layer) => Ok(layer),
            Err(error) => as_is().or_else(|_| as_list()).map_err(|_| error.message().to_owned()),
        }
    }
}
