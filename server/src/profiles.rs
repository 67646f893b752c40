//! Clients of profile stores outside of the node, for the enricher that asks them.
//!
//! - They connect when they are first asked, so that a node starts without them, and again after
//!   any failure: see `connection`.
//! - They only read.
//! - They come with the feature `full` alone: few need them, and they take long to build.

#[cfg(feature = "full")]
mod connection;
#[cfg(feature = "full")]
mod postgres;
#[cfg(feature = "full")]
mod redis;
#[cfg(feature = "full")]
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tracklog_pipeline::enrich::profile::external::ProfileStore;

use crate::config::{ConfigError, ExternalStore, ProfileSettings};

/// The client of the store outside that `settings` name; `None` where it is the node's own.
pub(crate) fn client(
    settings: &ProfileSettings,
) -> Result<Option<Arc<dyn ProfileStore>>, ConfigError> {
    let wrong = |what| ConfigError { place: "[enrich.profile]".to_owned(), what };
    match settings.external().map_err(wrong)? {
        Some(store) => client_of(store, settings).map(Some),
        None => Ok(None),
    }
}

#[cfg(feature = "full")]
fn client_of(
    store: ExternalStore,
    settings: &ProfileSettings,
) -> Result<Arc<dyn ProfileStore>, ConfigError> {
    let wrong = |what| ConfigError { place: "[enrich.profile] url".to_owned(), what };
    let url = settings.read_url()?;
    Ok(match store {
        ExternalStore::Redis { keys, layout } => {
            Arc::new(redis::RedisProfiles::new(&url, keys, layout).map_err(wrong)?)
        }
        ExternalStore::Postgres { queries } => {
            Arc::new(postgres::PostgresProfiles::new(&url, queries).map_err(wrong)?)
        }
    })
}

#[cfg(not(feature = "full"))]
fn client_of(
    store: ExternalStore,
    _settings: &ProfileSettings,
) -> Result<Arc<dyn ProfileStore>, ConfigError> {
    let store = match store {
        ExternalStore::Redis { .. } => "redis",
        ExternalStore::Postgres { .. } => "postgres",
    };
    let what = format!(
        "store = {store:?} needs a tracklog that was built with the feature `full`: cargo build \
         --release --features full"
    );
    Err(ConfigError { place: "[enrich.profile]".to_owned(), what })
}
