//! The visits of one visitor at one source: which of them an event belongs to.
//!
//! By event time alone. Three visits are remembered: the *current* one, which is the latest; the
//! *previous* one; and the last *late* one, found by events that lie before the current and belong
//! to neither (a backfill, or all that follows an event from a wrong clock). The rule:
//!
//! 1. An event belongs to a visit if it lies within the inactivity of it: not more than that
//!    before its start or after its end. The previous one is asked first, then the late one, then
//!    the current.
//! 2. One that fits none and lies after the current begins a new current visit.
//! 3. One that fits none and lies before it begins a new late visit, and moves no other.
//!
//! An end moves when an event lies a *step* or more behind it, a thirtieth of the inactivity, so
//! that not every event changes the state. Only what is recorded decides: a restart, or a replay
//! in order, decides the same. A visit is numbered by when it was found.

use std::sync::Arc;
use std::time::Duration;

use tracklog_protocol::TimeMicros;

use super::bytes::Reader;

/// A longer URL of a landing page is cut.
const LANDING_BYTES_MAX: usize = 2 << 10;
/// What a visit without a landing page has as its length.
const NO_LANDING: u32 = u32::MAX;
/// The end moves in steps of this part of the inactivity.
const STEPS_PER_INACTIVITY: i64 = 30;

/// What is remembered of a visitor's visits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visits {
    /// How many were found.
    count: u32,
    current: Span,
    previous: Option<Span>,
    late: Option<Span>,
}

/// One visit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    number: u32,
    started: TimeMicros,
    ended: TimeMicros,
    landing_page: Option<Arc<str>>,
}

/// Where an event belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) number: u32,
    pub(crate) started: TimeMicros,
    pub(crate) first_event: bool,
    pub(crate) landing_page: Option<Arc<str>>,
    pub(crate) previous_ended: Option<TimeMicros>,
    /// What is to be remembered now, where that changed.
    pub(crate) change: Option<Visits>,
}

/// How long a visitor may be silent within a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inactivity {
    micros: i64,
    step_micros: i64,
}

impl Inactivity {
    pub(crate) fn new(inactivity: Duration) -> Self {
        let micros = i64::try_from(inactivity.as_micros()).unwrap_or(i64::MAX);
        Self { micros, step_micros: (micros / STEPS_PER_INACTIVITY).max(1) }
    }
}

impl Span {
    fn begin(number: u32, at: TimeMicros, page: Option<&str>) -> Self {
        Self { number, started: at, ended: at, landing_page: page.map(cut) }
    }

    const fn holds(&self, at: TimeMicros, inactivity: Inactivity) -> bool {
        at.0 >= self.started.0.saturating_sub(inactivity.micros)
            && at.0 <= self.ended.0.saturating_add(inactivity.micros)
    }

    /// What it becomes by an event that belongs to it, where that changes it.
    fn joined(&self, at: TimeMicros, page: Option<&str>, inactivity: Inactivity) -> Option<Self> {
        let moves = at.0 >= self.ended.0.saturating_add(inactivity.step_micros);
        let lands = if self.landing_page.is_none() { page } else { None };
        if !moves && lands.is_none() {
            return None;
        }
        let ended = if moves { at } else { self.ended };
        let landing_page = lands.map(cut).or_else(|| self.landing_page.clone());
        Some(Self { ended, landing_page, ..*self })
    }
}

fn cut(page: &str) -> Arc<str> {
    page[..page.floor_char_boundary(LANDING_BYTES_MAX)].into()
}

impl Visits {
    /// Where an event of `at`, on `page`, belongs, given what is `known`.
    pub(crate) fn place(
        known: Option<&Self>,
        at: TimeMicros,
        page: Option<&str>,
        inactivity: Inactivity,
    ) -> Placed {
        let Some(known) = known else {
            let current = Span::begin(1, at, page);
            let first = Self { count: 1, current, previous: None, late: None };
            return Placed::begun(&first.current, None, first.clone());
        };
        match known.joined(at, page, inactivity) {
            Some((visit, change)) => Placed::joined(&visit, change),
            None => known.begun(at, page),
        }
    }

    /// The visit that `at` belongs to, and what is to be remembered where that changes it.
    fn joined(
        &self,
        at: TimeMicros,
        page: Option<&str>,
        inactivity: Inactivity,
    ) -> Option<(Span, Option<Self>)> {
        let known = self.spans().find(|span| span.holds(at, inactivity))?;
        let Some(span) = known.joined(at, page, inactivity) else {
            return Some((known.clone(), None));
        };
        let mut changed = self.clone();
        changed.remember(&span);
        Some((span, Some(changed)))
    }

    /// What is known of the visit with the number of `span` is that.
    fn remember(&mut self, span: &Span) {
        let Self { previous, late, current, .. } = self;
        let spans = previous.iter_mut().chain(late).chain([current]);
        spans.filter(|it| it.number == span.number).for_each(|it| it.clone_from(span));
    }

    fn begun(&self, at: TimeMicros, page: Option<&str>) -> Placed {
        let count = self.count.saturating_add(1);
        let begun = Span::begin(count, at, page);
        let ended = self.spans().map(|span| span.ended).filter(|ended| *ended < at).max();
        let visit = begun.clone();
        let change = if at > self.current.ended {
            let previous = Some(self.current.clone());
            Self { count, current: begun, previous, late: self.late.clone() }
        } else {
            Self { count, late: Some(begun), ..self.clone() }
        };
        Placed::begun(&visit, ended, change)
    }

    /// In the order in which they are asked.
    fn spans(&self) -> impl Iterator<Item = &Span> {
        self.previous.iter().chain(&self.late).chain([&self.current])
    }

    /// Those of the visits that have one.
    pub(super) fn landing_pages(&self) -> impl Iterator<Item = &str> {
        self.spans().filter_map(|span| span.landing_page.as_deref())
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.count.to_le_bytes());
        let there = u8::from(self.previous.is_some()) | u8::from(self.late.is_some()) << 1;
        out.push(there);
        for span in [Some(&self.current), self.previous.as_ref(), self.late.as_ref()] {
            span.into_iter().for_each(|span| span.encode(out));
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let count = reader.u32()?;
        let there = reader.u8()?;
        let current = Span::decode(&mut reader)?;
        let previous = if there & 1 != 0 { Some(Span::decode(&mut reader)?) } else { None };
        let late = if there & 2 != 0 { Some(Span::decode(&mut reader)?) } else { None };
        reader.is_empty().then_some(Self { count, current, previous, late })
    }
}

impl Span {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.started.0.to_le_bytes());
        out.extend_from_slice(&self.ended.0.to_le_bytes());
        let landing = self.landing_page.as_deref();
        let length = |page: &str| u32::try_from(page.len()).expect("it was cut");
        out.extend_from_slice(&landing.map_or(NO_LANDING, length).to_le_bytes());
        out.extend_from_slice(landing.unwrap_or_default().as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let number = reader.u32()?;
        let started = TimeMicros(reader.i64()?);
        let ended = TimeMicros(reader.i64()?);
        let landing_page = match reader.u32()? {
            NO_LANDING => None,
            bytes => Some(reader.text(bytes as usize)?.into()),
        };
        Some(Self { number, started, ended, landing_page })
    }
}

impl Placed {
    fn joined(visit: &Span, change: Option<Visits>) -> Self {
        Self { first_event: false, change, ..Self::of(visit) }
    }

    fn begun(visit: &Span, previous_ended: Option<TimeMicros>, change: Visits) -> Self {
        Self { first_event: true, previous_ended, change: Some(change), ..Self::of(visit) }
    }

    fn of(visit: &Span) -> Self {
        Self {
            number: visit.number,
            started: visit.started,
            first_event: false,
            landing_page: visit.landing_page.clone(),
            previous_ended: None,
            change: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    /// Places events at these minutes, one after the other.
    fn visits(minutes: &[i64]) -> Vec<(u32, bool)> {
        let inactivity = Inactivity::new(Duration::from_secs(1800));
        let mut known = None;
        let mut place = |minute: &i64| {
            let at = TimeMicros(minute * MINUTE);
            let placed = Visits::place(known.as_ref(), at, None, inactivity);
            known = placed.change.clone().or_else(|| known.take());
            let mut bytes = Vec::new();
            known.as_ref().unwrap().encode(&mut bytes);
            assert_eq!(Visits::decode(&bytes), known);
            (placed.number, placed.first_event)
        };
        minutes.iter().map(&mut place).collect()
    }

    #[test]
    fn only_inactivity_ends_a_visit() {
        assert_eq!(visits(&[-10, 5, 20, 50]), [(1, true), (1, false), (1, false), (1, false)]);
        assert_eq!(visits(&[0, 31]), [(1, true), (2, true)]);
    }

    #[test]
    fn late_events_join_the_visit_that_they_belong_to() {
        let found = visits(&[600, 650, 620, 610]);
        assert_eq!(found, [(1, true), (2, true), (1, false), (1, false)]);
    }

    #[test]
    fn an_event_from_a_wrong_clock_does_not_break_the_visits_after_it() {
        let found = visits(&[0, 1_000_000, 40, 50, 60, 200, 210]);
        let numbers: Vec<_> = found.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 2, 3, 3, 3, 4, 4]);
    }

    #[test]
    fn times_at_the_ends_of_the_range_are_placed() {
        assert_eq!(visits(&[i64::MAX / MINUTE, i64::MIN / MINUTE]), [(1, true), (2, true)]);
    }
}
