//! Profiles in Redis: under keys made of a pattern, as JSON objects (`MGET`) or as hashes whose
//! fields become members that are texts (`HGETALL`, all in one pipeline).

use std::collections::BTreeMap;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, Value};
use tracklog_log::Pending;
use tracklog_pipeline::enrich::profile::external::{Answer, FetchError, ProfileStore};
use tracklog_pipeline::state::Entity;

use super::connection::Shared;
use crate::config::{ForEach, RedisLayout};

/// A client of Redis.
pub(super) struct RedisProfiles {
    client: Client,
    connection: Shared<MultiplexedConnection>,
    keys: ForEach,
    layout: RedisLayout,
}

impl RedisProfiles {
    /// Of the server at `url`: `redis://` or `rediss://`, or `unix://` and a socket's path.
    pub(super) fn new(url: &str, keys: ForEach, layout: RedisLayout) -> Result<Self, String> {
        let client = Client::open(url).map_err(|error| error.to_string())?;
        Ok(Self { client, connection: Shared::new(), keys, layout })
    }

    fn key(&self, of: Entity<'_>) -> Option<String> {
        let pattern = match of {
            Entity::User(_) => &self.keys.user,
            Entity::Group(_) => &self.keys.group,
        };
        pattern.as_ref().map(|pattern| pattern.replace("{id}", of.id()))
    }

    async fn answers(&self, of: &[Entity<'_>]) -> Result<Vec<Answer>, RedisError> {
        let keys: Vec<_> = of.iter().map(|it| self.key(*it)).collect();
        let there: Vec<_> = keys.iter().flatten().collect();
        let mut values = match there.is_empty() {
            true => Vec::new(),
            false => self.values(&there).await?,
        }
        .into_iter();
        let answer = |key: &Option<String>| match key {
            Some(_) => values.next().unwrap_or_else(|| Err("Redis gave no answer".to_owned())),
            None => Ok(None),
        };
        Ok(keys.iter().map(answer).collect())
    }

    /// What lies at each of `keys`, in one round trip.
    async fn values(&self, keys: &[&String]) -> Result<Vec<Answer>, RedisError> {
        // Whoever asks brings the time that it may take.
        let patient = AsyncConnectionConfig::new();
        let patient = patient.set_connection_timeout(None).set_response_timeout(None);
        let connect = self.client.get_multiplexed_async_connection_with_config(&patient);
        let mut lent = self.connection.lend(connect).await?;
        let answers = match self.layout {
            RedisLayout::Json => {
                let mut command = redis::cmd("MGET");
                command.arg(keys);
                let values: Vec<Value> = command.query_async(&mut lent.connection).await?;
                values.into_iter().map(of_string).collect()
            }
            RedisLayout::Hash => {
                let mut pipeline = redis::pipe();
                for key in keys {
                    pipeline.cmd("HGETALL").arg(key);
                }
                let values: Vec<Value> =
                    pipeline.ignore_errors().query_async(&mut lent.connection).await?;
                values.into_iter().map(of_hash).collect()
            }
        };
        lent.worked();
        Ok(answers)
    }
}

impl ProfileStore for RedisProfiles {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn fetch<'a>(&'a self, of: &'a [Entity<'a>]) -> Pending<'a, Result<Vec<Answer>, FetchError>> {
        Box::pin(async move {
            self.answers(of).await.map_err(|error| FetchError { why: error.to_string() })
        })
    }
}

fn of_string(value: Value) -> Answer {
    redis::from_redis_value(value).map_err(|_| "the value in Redis is no text".to_owned())
}

/// A hash that is not there is an empty one.
fn of_hash(value: Value) -> Answer {
    let fields: Result<BTreeMap<String, String>, _> = redis::from_redis_value(value);
    let fields = fields.map_err(|_| "the value in Redis is no hash of texts".to_owned())?;
    let text = serde_json::to_string(&fields).expect("texts become JSON");
    Ok((!fields.is_empty()).then_some(text))
}
