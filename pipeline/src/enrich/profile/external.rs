//! Profiles that somebody else keeps, in a store outside: looked up a batch at a time.
//!
//! 1. Before a batch is worked on, all users and groups are gathered of whom its events may speak:
//!    those whom their ids lead to now, or may lead to after what the batch itself tells.
//! 2. Those that the cache has are taken from there. For the rest the store is asked once, all
//!    together, within the timeout, unless the breaker says no.
//! 3. An event gets what came of its user and its group. What could not be asked is its failure.
//!
//! Promises
//! - No event waits longer than the timeout, and none at all while the breaker is open.
//! - What the cache holds is no older than its time to live, and bounded in bytes.
//! - An answer that is no JSON object is that user's failure alone.
//!
//! The pipeline opens no socket: [`ProfileStore`] is the client, and who wires this brings it. What
//! `identify` and `group` tell is not written anywhere: whoever fills the store does that.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use serde_json::{Map, Value};
use tracklog_log::Pending;
use tracklog_protocol::event::EventView;

use super::user_of;
use crate::breaker::{Admitted, Breaker, BreakerOptions};
use crate::enrich::ids::real;
use crate::enrich::{
    Enricher, Enrichment, Input, Looked, LookupFailure, ProfileSeen, identity, present,
};
use crate::stage::{Counter, Time};
use crate::state::{Entity, Fetched, ID_BYTES_MAX, StateBatch, StoreError, TRAITS_BYTES_MAX};

/// When a store that does not answer is left alone.
const BREAKER: BreakerOptions = BreakerOptions {
    failures_max: 5,
    pause_min: Duration::from_secs(1),
    pause_max: Duration::from_secs(30),
};

/// What an entry of the cache takes at least.
const ENTRY_BYTES: usize = 128;

/// A store outside.
pub trait ProfileStore: Send + Sync + 'static {
    /// What it is called in events and metrics: `redis`.
    fn name(&self) -> &'static str;

    /// Asks for all of `of` in one round trip, and gives an answer to each, in their order. Dropping
    /// the future gives up waiting.
    ///
    /// # Errors
    /// [`FetchError`] when the store did not answer.
    fn fetch<'a>(&'a self, of: &'a [Entity<'a>]) -> Pending<'a, Result<Vec<Answer>, FetchError>>;
}

/// What a store has of a user or group: the JSON object of their traits, if it knows them. An error
/// says why what it has cannot be used.
pub type Answer = Result<Option<String>, String>;

/// A store did not answer. It may the next time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct FetchError {
    /// What it, or the way to it, said; without a secret.
    pub why: String,
}

/// How a store is asked.
#[derive(Clone, Copy, Debug)]
pub struct ExternalOptions {
    /// How long a batch waits for it.
    pub timeout: Duration,
    /// What the cache may take.
    pub cache_bytes: usize,
    /// How long what the cache holds is used.
    pub time_to_live: Duration,
    /// Whether identities are resolved before.
    pub resolves: bool,
}

/// What came of asking a store.
#[derive(Debug, Default)]
pub struct ExternalCounters {
    /// Round trips that were answered.
    pub answered: Counter,
    /// Those that failed.
    pub failed: Counter,
    /// Those that took too long.
    pub late: Counter,
    /// Batches for which it was not asked, since the breaker was open.
    pub refused: Counter,
    /// How long the round trips took that were made, in nanoseconds.
    pub nanos: Counter,
    /// Users and groups that were asked for.
    pub asked: Counter,
    /// Users and groups that the cache had.
    pub cached: Counter,
}

/// Looks up traits in a store outside.
pub struct ExternalProfile {
    store: Arc<dyn ProfileStore>,
    options: ExternalOptions,
    version: Arc<str>,
    cache: Known,
    breaker: Mutex<Breaker>,
    time: Arc<dyn Time>,
    nanos: fn() -> u64,
    counters: ExternalCounters,
}

type Known =
    Cache<Box<str>, KnownTraits, Weight, RandomState, DefaultLifecycle<Box<str>, KnownTraits>>;

/// What a store said, and when.
#[derive(Clone)]
struct KnownTraits {
    traits: Option<Arc<str>>,
    at: u64,
}

#[derive(Clone, Copy)]
struct Weight;

impl Weighter<Box<str>, KnownTraits> for Weight {
    fn weight(&self, key: &Box<str>, answer: &KnownTraits) -> u64 {
        (ENTRY_BYTES + key.len() + answer.traits.as_ref().map_or(0, |it| it.len())) as u64
    }
}

/// Somebody for whom the store is asked.
struct Asked {
    is_group: bool,
    id: Box<str>,
}

impl Asked {
    fn entity(&self) -> Entity<'_> {
        if self.is_group { Entity::Group(&self.id) } else { Entity::User(&self.id) }
    }
}

impl ExternalProfile {
    /// Over this store. `nanos` is a clock that never goes back.
    pub fn new(
        store: Arc<dyn ProfileStore>,
        options: ExternalOptions,
        time: Arc<dyn Time>,
        nanos: fn() -> u64,
    ) -> Self {
        let version = format!("1/{}", store.name()).into();
        let cache = Cache::with(
            options.cache_bytes / (2 * ENTRY_BYTES),
            options.cache_bytes as u64,
            Weight,
            RandomState::default(),
            DefaultLifecycle::default(),
        );
        let (breaker, counters) = (Mutex::new(Breaker::new(BREAKER)), ExternalCounters::default());
        Self { store, options, version, cache, breaker, time, nanos, counters }
    }

    /// The store's name.
    #[must_use]
    pub fn store_name(&self) -> &'static str {
        self.store.name()
    }

    /// What came of asking.
    #[must_use]
    pub const fn counters(&self) -> &ExternalCounters {
        &self.counters
    }

    /// Whether the breaker is open, and how often it opened.
    #[must_use]
    pub fn breaker(&self) -> (bool, u64) {
        let breaker = self.breaker.lock();
        (breaker.is_open(), breaker.opened())
    }

    /// Notes of whom `event` may speak: what the cache knows in `state`, the rest in `asked`.
    fn gather(
        &self,
        event: &EventView<'_>,
        state: &mut StateBatch<'_>,
        asked: &mut Vec<Asked>,
    ) -> Result<(), StoreError> {
        if let Some(id) = real(event.group_id()) {
            self.note(Entity::Group(id), state, asked);
        }
        if !self.options.resolves {
            if let Some(id) = real(event.user_id()) {
                self.note(Entity::User(id), state, asked);
            }
            return Ok(());
        }
        for user in identity::candidates(event, state)? {
            self.note(Entity::User(&user), state, asked);
        }
        Ok(())
    }

    fn note(&self, entity: Entity<'_>, state: &mut StateBatch<'_>, asked: &mut Vec<Asked>) {
        if entity.id().len() > ID_BYTES_MAX || state.fetched(entity).is_some() {
            return;
        }
        if let Some(traits) = self.known(entity) {
            self.counters.cached.add(1);
            return state.set_fetched(entity, Ok(traits));
        }
        state.set_fetched(entity, Err("was not asked for".into()));
        let is_group = matches!(entity, Entity::Group(_));
        asked.push(Asked { is_group, id: entity.id().into() });
    }

    fn known(&self, entity: Entity<'_>) -> Option<Option<Arc<str>>> {
        let answer = self.cache.get(&*cache_key(entity))?;
        let age = Duration::from_nanos((self.nanos)().saturating_sub(answer.at));
        (age < self.options.time_to_live).then_some(answer.traits)
    }

    /// Asks the store for all of `asked`, and notes what came of each.
    async fn fetch(&self, asked: Vec<Asked>, state: &mut StateBatch<'_>) {
        let entities: Vec<_> = asked.iter().map(Asked::entity).collect();
        match self.ask(&entities).await {
            Ok(answers) => {
                let at = (self.nanos)();
                for (entity, answer) in entities.into_iter().zip(answers) {
                    let checked = checked(answer);
                    if let Ok(traits) = checked.clone() {
                        self.cache.insert(cache_key(entity), KnownTraits { traits, at });
                    }
                    state.set_fetched(entity, checked);
                }
            }
            Err(why) => {
                entities.into_iter().for_each(|it| state.set_fetched(it, Err(Arc::clone(&why))));
            }
        }
    }

    /// One round trip, if the breaker lets it through.
    async fn ask(&self, of: &[Entity<'_>]) -> Result<Vec<Answer>, Arc<str>> {
        let name = self.store.name();
        let Some(asking) = Asking::begin(self) else {
            self.counters.refused.add(1);
            return Err(format!("{name} did not answer, and is not asked for a while").into());
        };
        self.counters.asked.add(of.len() as u64);
        let outcome = tokio::select! {
            biased;
            outcome = self.store.fetch(of) => outcome,
            () = self.time.pause(self.options.timeout) => {
                self.counters.late.add(1);
                let millis = self.options.timeout.as_millis();
                return Err(format!("{name} did not answer within {millis} ms").into());
            }
        };
        match outcome {
            Ok(answers) if answers.len() == of.len() => {
                asking.succeeded();
                Ok(answers)
            }
            Ok(answers) => {
                self.counters.failed.add(1);
                Err(format!("{name} gave {} answers to {}", answers.len(), of.len()).into())
            }
            Err(error) => {
                self.counters.failed.add(1);
                tracing::debug!(store = name, %error, "profiles cannot be looked up");
                Err(format!("{name}: {error}").into())
            }
        }
    }
}

/// A round trip under way. Unless it is said to have succeeded it failed, also where its batch was
/// given up.
struct Asking<'e> {
    of: &'e ExternalProfile,
    admitted: Admitted,
    began: u64,
    answered: bool,
}

impl<'e> Asking<'e> {
    fn begin(of: &'e ExternalProfile) -> Option<Self> {
        let began = (of.nanos)();
        let admitted = of.breaker.lock().admit(Duration::from_nanos(began)).ok()?;
        Some(Self { of, admitted, began, answered: false })
    }

    fn succeeded(mut self) {
        self.of.counters.answered.add(1);
        self.answered = true;
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let now = (self.of.nanos)();
        self.of.counters.nanos.add(now.saturating_sub(self.began));
        let mut breaker = self.of.breaker.lock();
        let was_open = breaker.is_open();
        if self.answered {
            breaker.answered(self.admitted);
        } else {
            breaker.failed(self.admitted, Duration::from_nanos(now), |pause| pause);
        }
        let store = self.of.store.name();
        match (was_open, breaker.is_open()) {
            (false, true) => tracing::warn!(store, "does not answer and is not asked for a while"),
            (true, false) => tracing::info!(store, "answers again"),
            _ => {}
        }
    }
}

/// The cache's key of `entity`.
fn cache_key(entity: Entity<'_>) -> Box<str> {
    let kind = match entity {
        Entity::User(_) => "u",
        Entity::Group(_) => "g",
    };
    [kind, entity.id()].concat().into()
}

/// A store's answer, which goes into events as it is: it must be a JSON object.
fn checked(answer: Answer) -> Fetched {
    let Some(text) = answer? else { return Ok(None) };
    if text.len() > TRAITS_BYTES_MAX {
        return Err(
            format!("{} bytes of traits, and {TRAITS_BYTES_MAX} are taken", text.len()).into()
        );
    }
    match serde_json::from_str::<Map<String, Value>>(&text) {
        Ok(_) => Ok(Some(text.into())),
        Err(_) => Err("the store's answer is no JSON object".into()),
    }
}

fn traits(
    of: Option<Entity<'_>>,
    state: &mut StateBatch<'_>,
) -> Result<Option<Arc<str>>, LookupFailure> {
    let Some(of) = of.filter(|of| of.id().len() <= ID_BYTES_MAX) else { return Ok(None) };
    let fetched: Option<&Fetched> = state.fetched(of);
    match fetched {
        Some(Ok(traits)) => Ok(traits.clone()),
        Some(Err(why)) => Err(LookupFailure::new(why.to_string())),
        None => Err(LookupFailure::new("was not asked for with its batch")),
    }
}

impl Enricher for ExternalProfile {
    fn name(&self) -> &'static str {
        super::NAME
    }

    fn version(&self) -> Arc<str> {
        Arc::clone(&self.version)
    }

    fn inputs(&self, event: &EventView<'_>, found: &Enrichment) -> Vec<Input> {
        present([("user", user_of(event, found)), ("groupId", real(event.group_id()))])
    }

    fn prepare<'a>(
        &'a self,
        events: &mut dyn Iterator<Item = EventView<'_>>,
        state: &'a mut StateBatch<'_>,
    ) -> Option<Pending<'a, ()>> {
        let mut asked = Vec::new();
        for event in events {
            // Where the state cannot be read, the enricher before this one says so of the event.
            if let Err(error) = self.gather(&event, state, &mut asked) {
                tracing::debug!(%error, "whom an event is of cannot be told");
            }
        }
        (!asked.is_empty()).then(|| Box::pin(self.fetch(asked, state)) as Pending<'a, ()>)
    }

    fn enrich(
        &self,
        event: &EventView<'_>,
        state: &mut StateBatch<'_>,
        found: &mut Enrichment,
    ) -> Result<Looked, LookupFailure> {
        let user_traits = traits(user_of(event, found).map(Entity::User), state)?;
        let group_traits = traits(real(event.group_id()).map(Entity::Group), state)?;
        if user_traits.is_none() && group_traits.is_none() {
            return Ok(Looked::Miss);
        }
        let version = state.offset();
        found.profile = Some(ProfileSeen { user_traits, group_traits, version });
        Ok(Looked::Hit)
    }
}

impl fmt::Debug for ExternalProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalProfile").field("version", &self.version).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
