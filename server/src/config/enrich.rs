//! `[enrich]`: what is found out about each event on its way from `raw` to `enriched`.
//!
//! In the file alone. Every key may be missing.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tracklog_pipeline::enrich::profile::external::ExternalOptions;
pub use tracklog_pipeline::enrich::stage::FailedLookup;

use super::quantity::{Bytes, Span};
use super::{ConfigError, read_key_file};

/// `[enrich]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EnrichSettings {
    /// Whether there is a stage at all.
    pub enabled: bool,
    /// Threads of the stages; `None`: as many as there are cores.
    pub threads: Option<usize>,
    /// What becomes of an event when a look-up fails.
    pub failed_lookup: FailedLookup,
    /// Browser, system and kind of device.
    pub device: Switch,
    /// Where the client is.
    pub geo: GeoSettings,
    /// Where the visit came from, and the parts of the page's URL.
    pub page: Switch,
    /// Who an anonymous visitor is.
    pub identity: Switch,
    /// What is known of the user and the group.
    pub profile: ProfileSettings,
    /// The visit, for sources that send none.
    pub session: SessionSettings,
}

impl Default for EnrichSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            threads: None,
            failed_lookup: FailedLookup::default(),
            device: Switch::default(),
            geo: GeoSettings::default(),
            page: Switch::default(),
            identity: Switch::default(),
            profile: ProfileSettings::default(),
            session: SessionSettings::default(),
        }
    }
}

/// An enricher that is on or off, and no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Switch {
    /// Whether it is on.
    pub enabled: bool,
}

impl Default for Switch {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[enrich.geo]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeoSettings {
    /// Whether it is on.
    pub enabled: bool,
    /// MMDB files: of places, of networks, or of both. Read again when they change.
    pub databases: Vec<PathBuf>,
    /// Whether what a server says of its user's address, `context.ip`, is taken.
    pub stated_addresses: bool,
    /// Whose headers tell a place, when a trusted proxy sends them: `cloudflare`, `cloudfront`,
    /// `appengine`, `vercel` or `own`.
    pub edge: Option<String>,
}

impl Default for GeoSettings {
    fn default() -> Self {
        Self { enabled: true, databases: Vec::new(), stated_addresses: true, edge: None }
    }
}

/// Where profiles are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileStoreName {
    /// In the node's own state, fed by `identify` and `group`.
    #[default]
    Embedded,
    /// In Redis, fed by somebody else.
    Redis,
    /// In PostgreSQL, fed by somebody else.
    Postgres,
}

/// How Redis holds the traits of somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedisLayout {
    /// A string, which is a JSON object.
    #[default]
    Json,
    /// A hash, whose fields are texts.
    Hash,
}

/// A text that is not for everybody's eyes.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}

/// `[enrich.profile]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProfileSettings {
    /// Whether it is on.
    pub enabled: bool,
    /// Where profiles are.
    pub store: ProfileStoreName,
    memory_bytes: Bytes,
    url: Option<Hidden>,
    url_file: Option<PathBuf>,
    timeout: Option<Span>,
    cache_ttl: Option<Span>,
    cache_bytes: Option<Bytes>,
    user_key: Option<String>,
    group_key: Option<String>,
    layout: Option<RedisLayout>,
    user_query: Option<String>,
    group_query: Option<String>,
}

/// What is asked for users, and what for groups; of what is `None` nothing is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForEach {
    /// For users.
    pub user: Option<String>,
    /// For groups.
    pub group: Option<String>,
}

/// A profile store outside of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalStore {
    /// Redis.
    Redis {
        /// Keys with `{id}` in them.
        keys: ForEach,
        /// What lies there.
        layout: RedisLayout,
    },
    /// PostgreSQL.
    Postgres {
        /// Queries of id and traits, with the ids as `$1`.
        queries: ForEach,
    },
}

impl ProfileSettings {
    /// Memory for what changed lately and for what is read often, of all stages' state.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes.to_usize()
    }

    /// The store outside that is meant; `None` where it is the node's own.
    ///
    /// # Errors
    /// What is missing, or does not fit the store.
    pub fn external(&self) -> Result<Option<ExternalStore>, String> {
        let given = |key, is_given: bool| is_given.then_some(key);
        let of_redis = [
            given("user_key", self.user_key.is_some()),
            given("group_key", self.group_key.is_some()),
            given("layout", self.layout.is_some()),
        ];
        let of_postgres = [
            given("user_query", self.user_query.is_some()),
            given("group_query", self.group_query.is_some()),
        ];
        let of_both = [
            given("url", self.url.is_some()),
            given("url_file", self.url_file.is_some()),
            given("timeout", self.timeout.is_some()),
            given("cache_ttl", self.cache_ttl.is_some()),
            given("cache_bytes", self.cache_bytes.is_some()),
        ];
        let none_of = |store: &str, keys: &[Option<&str>]| match keys.iter().flatten().next() {
            Some(key) => Err(format!("{key} means nothing to store = {store:?}")),
            None => Ok(()),
        };
        match self.store {
            ProfileStoreName::Embedded => {
                none_of("embedded", &[&of_redis[..], &of_postgres, &of_both].concat())?;
                return Ok(None);
            }
            ProfileStoreName::Redis => none_of("redis", &of_postgres)?,
            ProfileStoreName::Postgres => none_of("postgres", &of_redis)?,
        }
        if self.url.is_some() == self.url_file.is_some() {
            return Err("one of url and url_file is wanted".to_owned());
        }
        self.asked_of_store().map(Some)
    }

    fn asked_of_store(&self) -> Result<ExternalStore, String> {
        let for_each = |user: &Option<String>, group: &Option<String>, mark: &str, what: &str| {
            let both = ForEach { user: user.clone(), group: group.clone() };
            let texts = [&both.user, &both.group].map(Option::as_deref);
            match texts.iter().flatten().find(|text| !text.contains(mark)) {
                Some(text) => Err(format!("{text:?} has no {mark}")),
                None if texts == [None, None] => {
                    Err(format!("user_{what} or group_{what} is missing"))
                }
                None => Ok(both),
            }
        };
        if self.store == ProfileStoreName::Redis {
            let keys = for_each(&self.user_key, &self.group_key, "{id}", "key")?;
            return Ok(ExternalStore::Redis { keys, layout: self.layout.unwrap_or_default() });
        }
        let queries = for_each(&self.user_query, &self.group_query, "$1", "query")?;
        Ok(ExternalStore::Postgres { queries })
    }

    /// How a store outside is asked.
    #[must_use]
    pub fn external_options(&self, resolves: bool) -> ExternalOptions {
        ExternalOptions {
            timeout: self.timeout.map_or(Duration::from_millis(100), |span| span.0),
            cache_bytes: self.cache_bytes.map_or(32 << 20, Bytes::to_usize),
            time_to_live: self.cache_ttl.map_or(Duration::from_secs(60), |span| span.0),
            resolves,
        }
    }

    /// The URL of a store outside, from its file where it lies in one.
    ///
    /// # Errors
    /// [`ConfigError`] when the file cannot be read.
    pub fn read_url(&self) -> Result<String, ConfigError> {
        match (&self.url, &self.url_file) {
            (Some(Hidden(url)), _) => Ok(url.clone()),
            (None, Some(file)) => read_key_file(file),
            (None, None) => Err(ConfigError::new("[enrich.profile]", "url is missing")),
        }
    }
}

impl Default for ProfileSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            store: ProfileStoreName::default(),
            memory_bytes: Bytes(128 << 20),
            url: None,
            url_file: None,
            timeout: None,
            cache_ttl: None,
            cache_bytes: None,
            user_key: None,
            group_key: None,
            layout: None,
            user_query: None,
            group_query: None,
        }
    }
}

/// `[enrich.session]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionSettings {
    /// Whether it is on.
    pub enabled: bool,
    inactivity: Span,
}

impl SessionSettings {
    /// After how long without an event a visit has ended.
    #[must_use]
    pub const fn inactivity(&self) -> Duration {
        self.inactivity.0
    }
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self { enabled: true, inactivity: Span(Duration::from_secs(30 * 60)) }
    }
}
