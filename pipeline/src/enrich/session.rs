//! The visit that an event belongs to, for sources that send no session id.
//!
//! By event time, for each source and visitor: the anonymous id, or the user id where there is
//! none. A visit ends by inactivity and by nothing else. Which visit a late event joins, and when
//! one that fits none begins another, is told in `state/visits.rs`.
//!
//! A visit's id is a function of source, visitor and start, so that a run again gives the same.
//! Its landing page is that of the first of its events that has one.

use std::sync::Arc;
use std::time::Duration;

use tracklog_protocol::TimeMicros;
use tracklog_protocol::event::EventView;
use tracklog_protocol::line::format_time;
use xxhash_rust::xxh3::Xxh3;

use super::ids::real;
use super::{Enricher, Enrichment, Input, Looked, LookupFailure, Visit, present};
use crate::state::{Inactivity, LinkId, StateBatch, Visitor, Visits};

/// After this time without an event a visit is over, where nothing else is asked for.
pub const INACTIVITY: Duration = Duration::from_secs(30 * 60);

/// Finds the visit of an event.
#[derive(Clone, Debug)]
pub struct Session {
    inactivity: Inactivity,
    version: Arc<str>,
}

impl Session {
    /// Visits end after `inactivity`.
    #[must_use]
    pub fn new(inactivity: Duration) -> Self {
        let version = format!("1/{}ms", inactivity.as_millis()).into();
        Self { inactivity: Inactivity::new(inactivity), version }
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new(INACTIVITY)
    }
}

impl Enricher for Session {
    fn name(&self) -> &'static str {
        "session"
    }

    fn version(&self) -> Arc<str> {
        Arc::clone(&self.version)
    }

    fn inputs(&self, event: &EventView<'_>, _found: &Enrichment) -> Vec<Input> {
        let visitor = visitor(event);
        let anonymous = visitor.and_then(|it| match it.id {
            LinkId::Anonymous(id) => Some(id),
            LinkId::User(_) => None,
        });
        let user = visitor.filter(|_| anonymous.is_none()).map(|it| it.id.as_str());
        let time = format_time(event.event_time());
        present([
            ("sessionId", event.session_id()),
            ("source", visitor.map(|it| it.source)),
            ("anonymousId", anonymous),
            ("userId", user),
            ("timestamp", visitor.map(|_| &*time)),
            ("page.url", event.page_url().filter(|_| visitor.is_some())),
        ])
    }

    fn enrich(
        &self,
        event: &EventView<'_>,
        state: &mut StateBatch<'_>,
        found: &mut Enrichment,
    ) -> Result<Looked, LookupFailure> {
        let Some(visitor) = visitor(event) else {
            return Ok(Looked::Miss);
        };
        let known = state.visits(visitor)?;
        let (at, page) = (event.event_time(), event.page_url());
        let placed = Visits::place(known.as_deref(), at, page, self.inactivity);
        if let Some(change) = placed.change {
            state.set_visits(visitor, change)?;
        }
        found.visit = Some(Visit {
            id: visit_id(visitor, placed.started),
            number: placed.number,
            started: placed.started,
            first_event: placed.first_event,
            landing_page: placed.landing_page,
            previous_ended: placed.previous_ended,
        });
        Ok(Looked::Hit)
    }
}

/// Whose visit it is; nobody's where the client counts its sessions itself.
fn visitor<'a>(event: &EventView<'a>) -> Option<Visitor<'a>> {
    if event.session_id().is_some() {
        return None;
    }
    let anonymous = real(event.anonymous_id()).map(LinkId::Anonymous);
    let id = anonymous.or_else(|| real(event.user_id()).map(LinkId::User))?;
    Some(Visitor { source: event.source().unwrap_or_default(), id })
}

/// 32 hexadecimal digits. Fixed for ever: visits are counted by it.
fn visit_id(visitor: Visitor<'_>, started: TimeMicros) -> String {
    let mut hash = Xxh3::new();
    let kind = match visitor.id {
        LinkId::Anonymous(_) => 1,
        LinkId::User(_) => 2,
    };
    let source_bytes = visitor.source.len() as u64;
    hash.update(&[kind]);
    hash.update(&source_bytes.to_le_bytes());
    hash.update(visitor.source.as_bytes());
    hash.update(&started.0.to_le_bytes());
    hash.update(visitor.id.as_str().as_bytes());
    format!("{:032x}", hash.digest128())
}

#[cfg(test)]
mod tests {
    use tracklog_log::Log;
    use tracklog_protocol::event::EventParts;

    use super::*;
    use crate::state::StateOptions;
    use crate::state::rig::Rig;

    const MINUTE: i64 = 60_000_000;
    /// 2026-11-24T10:00:00Z.
    const TEN: i64 = 1_795_514_400_000_000;

    fn event(minute: i64) -> EventParts<'static> {
        EventParts {
            message_id: "m",
            source: Some("shop"),
            anonymous_id: Some("s"),
            event_time: TimeMicros(TEN + minute * MINUTE),
            ..EventParts::default()
        }
    }

    fn visits(events: &[EventParts<'_>]) -> Vec<Option<Visit>> {
        let runs = [false, true].map(|together| {
            let rig = Rig::new(StateOptions::default());
            let found = rig.run(events, &[&Session::default()], together);
            found.into_iter().map(|it| it.visit).collect()
        });
        let [one_by_one, together]: [Vec<_>; 2] = runs;
        assert_eq!(one_by_one, together);
        together
    }

    fn numbers(minutes: &[i64]) -> Vec<u32> {
        let events: Vec<_> = minutes.iter().map(|minute| event(*minute)).collect();
        visits(&events).into_iter().map(|visit| visit.unwrap().number).collect()
    }

    #[test]
    fn midnight_ends_no_visit() {
        let before_midnight = 13 * 60 + 50;
        let minutes = [before_midnight, before_midnight + 15, before_midnight + 30];
        assert_eq!(numbers(&minutes), [1, 1, 1]);
    }

    #[test]
    fn late_events_join_their_visit_and_none_spans_idle_hours() {
        assert_eq!(numbers(&[0, 50, 20, 10]), [1, 2, 1, 1]);
        assert_eq!(numbers(&[0, 600, 300, 310, 5, 601]), [1, 2, 3, 3, 1, 2]);
        assert_eq!(numbers(&[0, 20, 50]), [1, 1, 1], "half an hour is still the same visit");
        assert_eq!(numbers(&[0, 20, 51]), [1, 1, 2]);
    }

    #[test]
    fn a_visit_has_an_id_a_beginning_and_a_landing_page() {
        let page = |url| EventParts { page_url: Some(url), ..event(1) };
        let events =
            [event(0), page("https://shop.example/a"), page("https://x.example/"), event(60)];
        let found: Vec<_> = visits(&events).into_iter().map(Option::unwrap).collect();
        assert_eq!(found[0].id, "34c0d005da2bf40dfa1886528ed21f56");
        assert!(found[..3].iter().all(|it| it.id == found[0].id));
        assert_ne!(found[3].id, found[0].id);
        let firsts = [0, 1, 2, 3].map(|index| found[index].first_event);
        assert_eq!(firsts, [true, false, false, true]);
        assert_eq!(found[0].landing_page, None);
        assert_eq!(found[2].landing_page.as_deref(), Some("https://shop.example/a"));
        assert_eq!(found[3].previous_ended, Some(TimeMicros(TEN + MINUTE)));
        assert_eq!((found[3].number, found[3].started), (2, TimeMicros(TEN + 60 * MINUTE)));
    }

    #[test]
    fn sources_visitors_and_kinds_of_ids_have_visits_of_their_own() {
        let events = [
            event(0),
            EventParts { source: Some("app"), ..event(40) },
            EventParts { anonymous_id: Some("t"), ..event(40) },
            EventParts { anonymous_id: None, user_id: Some("s"), ..event(40) },
        ];
        let found: Vec<_> = visits(&events).into_iter().map(Option::unwrap).collect();
        assert!(found.iter().all(|it| it.number == 1));
        let mut ids: Vec<_> = found.iter().map(|it| &it.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 4);
    }

    #[test]
    fn a_clients_own_session_and_words_for_nothing_have_no_visit() {
        let events = [
            EventParts { session_id: Some("1"), ..event(0) },
            EventParts { anonymous_id: Some("undefined"), ..event(0) },
        ];
        assert_eq!(visits(&events), [None, None]);
    }

    #[test]
    fn not_every_event_is_a_change() {
        let rig = Rig::new(StateOptions::default());
        let second =
            |n: i64| EventParts { event_time: TimeMicros(TEN + n * 1_000_000), ..event(0) };
        let events: Vec<_> = (0..600).map(second).collect();
        rig.run(&events, &[&Session::default()], true);
        let end = rig.log.extent(rig.state.partition()).unwrap().end.0;
        assert_eq!(end, 10, "one at the start, and one a minute");
    }
}
