//! The stage `enrich`: events of `raw` become events of `enriched`.
//!
//! Each event passes all enrichers that are on, in their order; what they found out, what they are,
//! what failed and which state was seen is written beside what the client sent. What it changes in
//! the state goes into the same commit. The partition is that of the event's key, as in `raw`.
//!
//! The same over a range of old events, into another topic, is [`EnrichStage::again`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use tracklog_log::{Log, Pending, Topic};
use tracklog_protocol::event::{
    CampaignParts, DeviceParts, EnrichedParts, EventBuilder, EventView, GeoParts, PageParts,
    ProfileParts, RawPlace, SessionParts,
};
use tracklog_protocol::{Offset, PartitionId, Record};

use super::{
    Campaign, Device, Enricher, Enrichment, Geo, Looked, ProfileSeen, Then, Visit, enrichment,
};
use crate::stage::{Counter, Outputs, Poison, SourceBatch, Stage, StageError, Work};
use crate::state::{State, StateBatch, StateError};

/// The stage's name, its group's, and what `rejected` calls it.
pub const NAME: &str = "enrich";

/// Of so many look-ups of an enricher one is timed.
const TIMED_ONE_IN: u64 = 64;

/// What becomes of an event when a look-up fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedLookup {
    /// It goes on, and names the failure.
    #[default]
    Keep,
    /// It goes to `rejected`.
    Reject,
}

/// What one enricher has done.
#[derive(Debug, Default)]
pub struct EnricherCounters {
    /// Look-ups that found something.
    pub hits: Counter,
    /// Look-ups that found nothing.
    pub misses: Counter,
    /// Look-ups that could not be made.
    pub failures: Counter,
    /// Look-ups that were timed.
    pub timed: Counter,
    /// How long those took, in nanoseconds.
    pub timed_nanos: Counter,
}

impl EnricherCounters {
    /// All look-ups that ended.
    fn looked(&self) -> u64 {
        self.hits.count() + self.misses.count() + self.failures.count()
    }
}

/// An enricher of the stage, and what it has done.
pub struct Enlisted {
    enricher: Arc<dyn Enricher>,
    counters: EnricherCounters,
}

impl Enlisted {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.enricher.name()
    }

    /// What it has done.
    #[must_use]
    pub const fn counters(&self) -> &EnricherCounters {
        &self.counters
    }
}

/// What a run again over old events knows of users, devices and visits. Nothing that its events
/// change is kept.
#[derive(Debug)]
pub enum Known<L: ?Sized> {
    /// What is known now.
    Now(Arc<State<L>>),
    /// What was known when each was enriched.
    Then(Then<L>),
}

/// A run over old events.
#[derive(Clone, Debug)]
pub struct Again {
    /// Its name, and its group's.
    pub name: String,
    /// Where it ends, by partition of `raw`. Partitions that are not named are left out.
    pub ends: BTreeMap<PartitionId, Offset>,
}

/// Which state is seen, and whether changes are written.
enum Seen<L: ?Sized> {
    /// The live one, which the stage changes.
    Live(Arc<State<L>>),
    /// For a run over old events.
    Known(Known<L>, Again),
}

/// The stage.
pub struct EnrichStage<L: ?Sized> {
    enrichers: Vec<Enlisted>,
    seen: Seen<L>,
    enriched: Topic,
    failed_lookup: FailedLookup,
    nanos: fn() -> u64,
}

impl<L: Log + ?Sized> EnrichStage<L> {
    /// The stage with these enrichers, in the order given, which writes to the topic `enriched`.
    /// `nanos` is a clock that never goes back.
    #[must_use]
    pub fn new(
        enrichers: Vec<Arc<dyn Enricher>>,
        state: Arc<State<L>>,
        enriched: Topic,
        failed_lookup: FailedLookup,
        nanos: fn() -> u64,
    ) -> Self {
        let enrichers = enlist(enrichers);
        Self { enrichers, seen: Seen::Live(state), enriched, failed_lookup, nanos }
    }

    /// The same over the events of a range, written to the topic `into`.
    #[must_use]
    pub fn again(
        run: Again,
        enrichers: Vec<Arc<dyn Enricher>>,
        known: Known<L>,
        into: Topic,
        failed_lookup: FailedLookup,
        nanos: fn() -> u64,
    ) -> Self {
        let (enrichers, seen) = (enlist(enrichers), Seen::Known(known, run));
        Self { enrichers, seen, enriched: into, failed_lookup, nanos }
    }

    /// Its enrichers, in order.
    #[must_use]
    pub fn enrichers(&self) -> &[Enlisted] {
        &self.enrichers
    }

    /// `name@version` of each enricher, as they are now.
    fn enriched_by(&self) -> String {
        let mut text = String::new();
        for Enlisted { enricher, .. } in &self.enrichers {
            let space = if text.is_empty() { "" } else { " " };
            text.push_str(space);
            text.push_str(enricher.name());
            text.push('@');
            text.push_str(&enricher.version());
        }
        text
    }

    async fn begin_work<'a>(
        &'a self,
        batch: &'a SourceBatch,
    ) -> Result<EnrichWork<'a, L>, StageError> {
        let failed = |error: StateError| StageError { reason: error.to_string() };
        let begin = |state: &'a State<L>| state.begin(batch.source);
        let (mut state, changelog, then) = match &self.seen {
            Seen::Live(state) => {
                (begin(state).await.map_err(failed)?, Some(state.partition()), None)
            }
            Seen::Known(Known::Now(state), _) => (begin(state).await.map_err(failed)?, None, None),
            Seen::Known(Known::Then(then), _) => {
                let (state, stretch) = then.begin(batch).await?;
                (state, None, Some((then, stretch)))
            }
        };
        for Enlisted { enricher, .. } in &self.enrichers {
            let mut events = batch.records().filter_map(|(_, record)| EventView::of(record));
            if let Some(fetching) = enricher.prepare(&mut events, &mut state) {
                fetching.await;
            }
        }
        let mut work = EnrichWork {
            stage: self,
            state,
            changelog,
            until: then.map_or(Offset(u64::MAX), |(_, stretch)| stretch.ends),
            source: batch.source,
            enriched_by: self.enriched_by(),
            found: Enrichment::default(),
            failures: String::new(),
            builder: EventBuilder::new(),
        };
        if let Some((then, stretch)) = then {
            let before = then.records(batch.source, stretch.begins, batch.from).await;
            let before = before.map_err(|error| StageError { reason: error.to_string() })?;
            before.iter().flat_map(SourceBatch::records).for_each(|(offset, record)| {
                work.repeat(offset, record);
            });
        }
        Ok(work)
    }
}

fn enlist(enrichers: Vec<Arc<dyn Enricher>>) -> Vec<Enlisted> {
    let enlist = |enricher| Enlisted { enricher, counters: EnricherCounters::default() };
    enrichers.into_iter().map(enlist).collect()
}

impl<L: Log + ?Sized> Stage for EnrichStage<L> {
    fn name(&self) -> &str {
        match &self.seen {
            Seen::Live(_) => NAME,
            Seen::Known(_, run) => &run.name,
        }
    }

    fn end(&self, source: PartitionId) -> Option<Offset> {
        match &self.seen {
            Seen::Live(_) => None,
            Seen::Known(_, run) => Some(run.ends.get(&source).copied().unwrap_or_default()),
        }
    }

    fn ended(&self, source: PartitionId) {
        if let Seen::Known(Known::Then(then), _) = &self.seen {
            then.leave(source);
        }
    }

    fn begin<'a>(
        &'a self,
        batch: &'a SourceBatch,
    ) -> Pending<'a, Result<Box<dyn Work + 'a>, StageError>> {
        Box::pin(async move {
            let work = self.begin_work(batch).await?;
            Ok(Box::new(work) as Box<dyn Work + 'a>)
        })
    }
}

struct EnrichWork<'s, L: ?Sized> {
    stage: &'s EnrichStage<L>,
    state: StateBatch<'s>,
    /// Where changes go that are kept.
    changelog: Option<PartitionId>,
    /// The state is that of events below this offset.
    until: Offset,
    source: PartitionId,
    enriched_by: String,
    found: Enrichment,
    /// A JSON object, or nothing.
    failures: String,
    builder: EventBuilder,
}

impl<L: Log + ?Sized> Work for EnrichWork<'_, L> {
    fn record(
        &mut self,
        offset: Offset,
        record: Record<'_>,
        outputs: &mut Outputs,
    ) -> Result<(), Poison> {
        let event = Poison::unless_event(record)?;
        self.state.begin_event(offset);
        self.look_up(&event)?;
        let made_from = RawPlace { partition: self.source.partition, offset };
        let parts = parts_of(&self.found);
        let parts = EnrichedParts {
            enriched_by: Some(&self.enriched_by),
            failures: Some(&*self.failures).filter(|text| !text.is_empty()),
            state_offset: Some(self.state.offset()),
            made_from: Some(made_from),
            ..parts
        };
        let to = self.stage.enriched.partition_for(event.partition_key().as_bytes());
        outputs.push(to, self.builder.build_enriched(&event, &parts));
        let changes = self.state.finish_event();
        if let Some(changelog) = self.changelog {
            changes.iter().for_each(|change| outputs.push(changelog, change));
        }
        Ok(())
    }

    fn until(&self) -> Offset {
        self.until
    }
}

impl<L: Log + ?Sized> EnrichWork<'_, L> {
    /// Works on an event for what it changes alone.
    fn repeat(&mut self, offset: Offset, record: Record<'_>) {
        let Some(event) = EventView::of(record) else { return };
        self.state.begin_event(offset);
        if self.look_up(&event).is_ok() {
            self.state.finish_event();
        }
    }

    /// Asks each enricher what it knows of `event`.
    fn look_up(&mut self, event: &EventView<'_>) -> Result<(), Poison> {
        self.found = Enrichment::default();
        self.failures.clear();
        for Enlisted { enricher, counters } in &self.stage.enrichers {
            let is_timed = counters.looked().is_multiple_of(TIMED_ONE_IN);
            let began = is_timed.then(self.stage.nanos);
            let looked = enricher.enrich(event, &mut self.state, &mut self.found);
            if let Some(began) = began {
                counters.timed.add(1);
                counters.timed_nanos.add((self.stage.nanos)().saturating_sub(began));
            }
            match looked {
                Ok(Looked::Hit) => counters.hits.add(1),
                Ok(Looked::Miss) => counters.misses.add(1),
                Err(failure) => {
                    counters.failures.add(1);
                    let name = enricher.name();
                    if self.stage.failed_lookup == FailedLookup::Reject {
                        return Err(Poison { reason: format!("{name}: {failure}") });
                    }
                    add_member(&mut self.failures, name, &failure.reason);
                }
            }
        }
        Ok(())
    }
}

/// Adds a member to the JSON object `object`, which is empty text before its first.
fn add_member(object: &mut String, name: &str, value: &str) {
    object.pop();
    object.push(if object.is_empty() { '{' } else { ',' });
    let quoted = |text: &str| serde_json::to_string(text).expect("texts become JSON");
    object.push_str(&quoted(name));
    object.push(':');
    object.push_str(&quoted(value));
    object.push('}');
}

/// What was found, as the record holds it.
pub(super) fn parts_of(found: &Enrichment) -> EnrichedParts<'_> {
    EnrichedParts {
        resolved_user_id: found.resolved_user_id.as_deref(),
        session: found.visit.as_ref().map(session_parts),
        device: found.device.as_deref().map(device_parts),
        geo: found.geo.as_deref().map(geo_parts),
        campaign: found.campaign.as_ref().map(campaign_parts),
        page: found.page.as_ref().map(page_parts),
        profile: found.profile.as_ref().map(profile_parts),
        ..EnrichedParts::default()
    }
}

fn session_parts(visit: &Visit) -> SessionParts<'_> {
    SessionParts {
        id: Some(&visit.id),
        number: visit.number,
        started: visit.started,
        first_event: visit.first_event,
        landing_page: visit.landing_page.as_deref(),
        previous_ended: visit.previous_ended,
    }
}

fn device_parts(device: &Device) -> DeviceParts<'_> {
    DeviceParts {
        browser: device.browser.as_deref(),
        browser_version: device.browser_version.as_deref(),
        os: device.os.as_deref(),
        os_version: device.os_version.as_deref(),
        brand: device.brand.as_deref(),
        model: device.model.as_deref(),
        class: device.class,
        bot: device.bot,
    }
}

fn geo_parts(geo: &Geo) -> GeoParts<'_> {
    GeoParts {
        country: geo.country.as_deref(),
        region: geo.region.as_deref(),
        city: geo.city.as_deref(),
        postal_code: geo.postal_code.as_deref(),
        time_zone: geo.time_zone.as_deref(),
        latitude: geo.latitude,
        longitude: geo.longitude,
        accuracy_km: geo.accuracy_km,
        as_number: geo.as_number,
        as_name: geo.as_name.as_deref(),
        origin: geo.origin,
    }
}

fn campaign_parts(campaign: &Campaign) -> CampaignParts<'_> {
    CampaignParts {
        source: campaign.source.as_deref(),
        medium: campaign.medium.as_deref(),
        name: campaign.name.as_deref(),
        term: campaign.term.as_deref(),
        content: campaign.content.as_deref(),
        id: campaign.id.as_deref(),
        click_id: campaign.click_id.as_deref(),
        click_id_kind: campaign.click_id_kind,
        referrer_host: campaign.referrer_host.as_deref(),
        referrer_kind: campaign.referrer_kind.map(super::ReferrerKind::as_str),
        referrer_name: campaign.referrer_name,
    }
}

fn page_parts(page: &enrichment::PageParts) -> PageParts<'_> {
    PageParts {
        scheme: page.scheme.as_deref(),
        host: page.host.as_deref(),
        path: page.path.as_deref(),
        query: page.query.as_deref(),
        fragment: page.fragment.as_deref(),
    }
}

fn profile_parts(profile: &ProfileSeen) -> ProfileParts<'_> {
    ProfileParts {
        version: profile.version,
        traits: profile.user_traits.as_deref(),
        group_traits: profile.group_traits.as_deref(),
    }
}

impl<L: ?Sized> fmt::Debug for EnrichStage<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrichStage")
            .field("enriched", &self.enriched.name())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Enlisted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Enlisted").field(&self.name()).finish()
    }
}

#[cfg(test)]
mod tests;
