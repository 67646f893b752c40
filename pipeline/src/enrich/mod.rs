//! Enrichment: what an event gets on its way from `raw` to `enriched`.
//!
//! Each enricher is a file of its own and answers one question of one event. It reads the event
//! and its look-ups and writes what it found into an [`Enrichment`]; it knows no log, no topic and
//! no other enricher. A look-up that fails never loses the event: the failure is named in it.

pub mod device;
mod enrichment;
pub mod explain;
pub mod geo;
pub mod identity;
mod ids;
pub mod page;
pub mod profile;
mod sender;
pub mod session;
pub mod stage;
mod text;
mod then;

use std::borrow::Cow;
use std::sync::Arc;

pub use enrichment::{
    Campaign, Device, Enrichment, Geo, GeoOrigin, PageParts, ProfileSeen, ReferrerKind, Visit,
};
pub use then::Then;
use tracklog_log::Pending;
use tracklog_protocol::event::EventView;

use crate::state::StateBatch;

/// Answers one question of an event.
pub trait Enricher: Send + Sync + 'static {
    /// Its name in configuration, metrics and enriched events.
    fn name(&self) -> &'static str;

    /// What decided on its answers: its rules' version and, where it reads a file, the file's.
    /// No space and no `@` in it. Named in each event.
    fn version(&self) -> Arc<str>;

    /// What it looks at in `event` and in what was found before it, for people: names and values.
    fn inputs(&self, event: &EventView<'_>, found: &Enrichment) -> Vec<Input>;

    /// Fetches what the events of a batch will ask for, before the first of them: whoever has to
    /// wait for others waits here. What comes of it is in `state` then, for this batch. Most have
    /// nothing to wait for.
    fn prepare<'a>(
        &'a self,
        _events: &mut dyn Iterator<Item = EventView<'_>>,
        _state: &'a mut StateBatch<'_>,
    ) -> Option<Pending<'a, ()>> {
        None
    }

    /// Writes what it knows of `event` into `found`, and what the event changes into `state`.
    /// Takes no longer than a look-up in memory or in a file.
    ///
    /// # Errors
    /// [`LookupFailure`] when it could not look. Nothing was written into `found` then.
    fn enrich(
        &self,
        event: &EventView<'_>,
        state: &mut StateBatch<'_>,
        found: &mut Enrichment,
    ) -> Result<Looked, LookupFailure>;
}

/// Something that an enricher looked at: what it is called in events, and its value.
pub type Input = (String, String);

/// Those of `inputs` that are there.
fn present<const N: usize>(inputs: [(&str, Option<&str>); N]) -> Vec<Input> {
    let there = |(name, value): (&str, Option<&str>)| Some((name.to_owned(), value?.to_owned()));
    inputs.into_iter().filter_map(there).collect()
}

/// Whether a look-up found something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It wrote something.
    Hit,
    /// There was nothing to find, or nothing to look for.
    Miss,
}

/// A look-up could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct LookupFailure {
    /// Why, in a few words: it goes into the event.
    pub reason: Cow<'static, str>,
}

impl LookupFailure {
    /// A failure for this reason.
    pub fn new(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { reason: reason.into() }
    }
}
