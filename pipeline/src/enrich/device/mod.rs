//! What an event's user agent and client hints say of the device.
//!
//! Promises
//! - One agent costs its rules once; after that a look-up in a cache bounded in bytes.
//! - No agent costs more than bounded time: the rules' engine is linear, and of an agent only the
//!   first [`AGENT_BYTES_MAX`] bytes are read. A hint of more than [`HINT_BYTES_MAX`] is not read.
//!   Of a value found the first [`VALUE_BYTES_MAX`] bytes are kept.
//! - No agent, `-`, or one of which the rules know nothing is a miss. So is that of a
//!   program where the event says that a server sent it: it tells nothing of the event's user.
//!
//! The rules are those of the uap project, in `data/uap-core`; `class.rs` adds what they do not
//! tell, and `hints.rs` what browsers hide from their agent strings by now. The rules are loaded for
//! the first agent, in a tenth of a second, and shared by all [`Device`]s of a process. They take 25
//! MB, and some 30 MB more for each thread that meets agents of every kind.

mod class;
mod hints;
mod rules;
mod said;

use std::sync::Arc;

use foldhash::fast::RandomState;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tracklog_protocol::event::EventView;

use self::rules::Rules;
pub use self::said::{AGENT_BYTES_MAX, HINT_BYTES_MAX};
use self::said::{OwnedSaid, Said};
use super::enrichment::Device as DeviceSeen;
use super::sender::says_server;
use super::text::cut;
use super::{Enricher, Enrichment, Input, Looked, LookupFailure, present};
use crate::state::StateBatch;

/// Of a value that an agent gives, this much is kept.
pub const VALUE_BYTES_MAX: usize = 128;
/// What an entry of the cache takes at least: its share of the table and of the allocator's.
const ENTRY_BYTES: usize = 320;
/// The version of what this program adds to the published rules.
const OWN_RULES: u32 = 1;

/// What memory the answers may take.
#[derive(Clone, Copy, Debug)]
pub struct DeviceOptions {
    /// About what the cache takes: some 700 bytes for each agent string.
    pub cache_bytes: usize,
}

impl Default for DeviceOptions {
    fn default() -> Self {
        Self { cache_bytes: 16 << 20 }
    }
}

/// Reads user agents.
pub struct Device {
    version: Arc<str>,
    cache: Answers,
}

type Answers = Cache<
    OwnedSaid,
    Option<Arc<DeviceSeen>>,
    Bytes,
    RandomState,
    DefaultLifecycle<OwnedSaid, Answer>,
>;
type Answer = Option<Arc<DeviceSeen>>;

impl Device {
    /// Knows nothing yet; the first agent that it is asked for loads the rules.
    #[must_use]
    pub fn new(options: DeviceOptions) -> Self {
        let cache = Cache::with(
            options.cache_bytes / ENTRY_BYTES,
            options.cache_bytes as u64,
            Bytes,
            RandomState::default(),
            DefaultLifecycle::default(),
        );
        let version = format!("{OWN_RULES}-uap-{:08x}", Rules::digest()).into();
        Self { version, cache }
    }

    fn answer(&self, said: &Said<'_>) -> Answer {
        if let Some(answer) = self.cache.get(said) {
            return answer;
        }
        let answer = Rules::shared().device(said).map(Arc::new);
        self.cache.insert(said.kept(), answer.clone());
        answer
    }
}

impl Enricher for Device {
    fn name(&self) -> &'static str {
        "device"
    }

    fn version(&self) -> Arc<str> {
        Arc::clone(&self.version)
    }

    fn inputs(&self, event: &EventView<'_>, _found: &Enrichment) -> Vec<Input> {
        let mut inputs = present([
            ("userAgent", event.user_agent()),
            ("channel", event.channel()),
            ("library.name", event.library_name()),
        ]);
        let hints = event.headers().filter(|(name, _)| said::is_hint(name));
        inputs.extend(hints.map(|(name, value)| (name.to_owned(), value.to_owned())));
        inputs
    }

    fn enrich(
        &self,
        event: &EventView<'_>,
        _state: &mut StateBatch<'_>,
        found: &mut Enrichment,
    ) -> Result<Looked, LookupFailure> {
        let of_server = says_server(event) == Some(true);
        let said = Said::by(event).filter(|said| !(of_server && is_program(said.agent())));
        found.device = said.and_then(|said| self.answer(&said));
        Ok(if found.device.is_some() { Looked::Hit } else { Looked::Miss })
    }
}

/// Whether a program sent `agent`: it drives a browser, or makes requests by itself.
pub(super) fn is_program(agent: &str) -> bool {
    class::is_program(&cut(agent, AGENT_BYTES_MAX).to_ascii_lowercase())
}

/// What an answer takes in the cache.
#[derive(Clone, Copy)]
struct Bytes;

impl Weighter<OwnedSaid, Answer> for Bytes {
    fn weight(&self, said: &OwnedSaid, answer: &Answer) -> u64 {
        let texts = answer.as_ref().map_or(0, |device| {
            let texts = [
                &device.browser,
                &device.browser_version,
                &device.os,
                &device.os_version,
                &device.brand,
                &device.model,
            ];
            size_of::<DeviceSeen>() + texts.into_iter().flatten().map(String::len).sum::<usize>()
        });
        (ENTRY_BYTES + said.byte_count() + texts) as u64
    }
}

#[cfg(test)]
mod tests;
