//! Letting events from outside in.
//!
//! After [`verify`] these hold, and everything that reads events leans on them:
//! 1. The bytes are an `Event` buffer by the FlatBuffers verifier: every offset lies inside, every
//!    text is UTF-8, what is required is there.
//! 2. The kind, and who told a place, are ones that this program knows.
//! 3. `properties`, `traits`, `context`, `integrations` and `extra` are JSON objects, and so are
//!    the traits of the profile and the failures of enrichment.
//! 4. The property index, where there is one, says what the text of `properties` says, field by
//!    field.
//! 5. A bare time is one JSON value.
//! 6. There are at most [`HEADERS_MAX`] headers.

use flatbuffers::VerifierOptions;

use super::{EventFlags, EventKind, EventView, Fields, GeoOrigin, HEADERS_MAX, PropertySpan};
use crate::generated::event as raw;
use crate::{PayloadKind, Record};

/// The event, its headers, and the tables of enrichment with room for later ones.
const TABLES_MAX: usize = HEADERS_MAX + 24;
/// An event, a table in it, and one level for later.
const DEPTH_MAX: usize = 3;
/// Magic and root offset: what is shorter has no identifier to ask for.
const BYTES_MIN: usize = 8;

/// Why bytes are no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// They do not begin like one.
    #[error("no event begins here")]
    NotAnEvent,
    /// The verifier refused them.
    #[error("the event is malformed: {0}")]
    Malformed(String),
    /// The event is of a kind that this program does not know.
    #[error("the event needs a newer program: kind {0}")]
    Kind(u8),
    /// Who told the place is somebody that this program does not know.
    #[error("the event needs a newer program: origin {0} of the place")]
    GeoOrigin(u8),
    /// It has more than [`HEADERS_MAX`] headers.
    #[error("the event has {0} headers")]
    Headers(usize),
    /// A field that should be a JSON object is none.
    #[error("{0} is no JSON object")]
    NotAnObject(&'static str),
    /// The property index and the properties do not agree.
    #[error("the property index does not fit the properties")]
    Index,
    /// A time that should be a bare JSON value is none.
    #[error("{0} is no JSON value")]
    BareTime(&'static str),
}

/// Checks that `bytes` from outside are an event; what passes can be read without further checks.
pub fn verify(bytes: &[u8]) -> Result<Record<'_>, EventError> {
    if bytes.len() < BYTES_MIN || !raw::event_buffer_has_identifier(bytes) {
        return Err(EventError::NotAnEvent);
    }
    let event = raw::root_as_event_with_opts(&limits(bytes), bytes)
        .map_err(|error| EventError::Malformed(first_line(&error)))?;
    check_numbers(&event)?;
    let record = Record::trusted(PayloadKind::Event, bytes);
    let view = EventView::of(record).expect("the record is of kind event");
    check_objects(&view)?;
    check_index(&view, event.property_index())?;
    check_bare_times(&view)?;
    Ok(record)
}

/// What the verifier may spend on `bytes`. Texts that many fields share are counted for each, and
/// an honest event shares none; small tables count up to three times their size.
pub(crate) fn limits(bytes: &[u8]) -> VerifierOptions {
    VerifierOptions {
        max_depth: DEPTH_MAX,
        max_tables: TABLES_MAX,
        max_apparent_size: bytes.len().saturating_mul(4).saturating_add(1024),
        ignore_missing_null_terminator: false,
    }
}

/// The verifier's complaint without its trace.
pub(crate) fn first_line(error: &flatbuffers::InvalidFlatbuffer) -> String {
    error.to_string().lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

/// Enumerations that this program knows, and a bounded count. It is asked before anything reads.
fn check_numbers(event: &raw::Event<'_>) -> Result<(), EventError> {
    EventKind::from_raw(event.kind()).ok_or_else(|| EventError::Kind(event.kind().0))?;
    if let Some(geo) = event.geo() {
        let origin = geo.origin();
        GeoOrigin::from_raw(origin).ok_or(EventError::GeoOrigin(origin.0))?;
    }
    let headers = event.headers().map_or(0, |headers| headers.len());
    if headers > HEADERS_MAX { Err(EventError::Headers(headers)) } else { Ok(()) }
}

fn check_objects(event: &EventView<'_>) -> Result<(), EventError> {
    let profile = event.profile().unwrap_or_default();
    let others = [
        ("traits", event.traits()),
        ("context", event.context()),
        ("integrations", event.integrations()),
        ("extra", event.extra()),
        ("profile.traits", profile.traits),
        ("profile.groupTraits", profile.group_traits),
        ("enrichFailures", event.enrich_failures()),
    ];
    for (name, text) in others {
        let mut fields = Fields::of(text.unwrap_or("{}"));
        if fields.any(|field| field.is_err()) {
            return Err(EventError::NotAnObject(name));
        }
    }
    Ok(())
}

fn check_index(event: &EventView<'_>, index: Option<Spans<'_>>) -> Result<(), EventError> {
    let mut spans = index.into_iter().flatten();
    for field in Fields::of(event.properties().unwrap_or("{}")) {
        let field = field.map_err(|_| EventError::NotAnObject("properties"))?;
        if index.is_some() && spans.next().and_then(PropertySpan::from_raw) != Some(field) {
            return Err(EventError::Index);
        }
    }
    if spans.next().is_some() { Err(EventError::Index) } else { Ok(()) }
}

type Spans<'a> = flatbuffers::Vector<'a, raw::PropertySpan>;

fn check_bare_times(event: &EventView<'_>) -> Result<(), EventError> {
    let times = [
        ("timestamp", event.client_time_text(), EventFlags::CLIENT_TIME_BARE),
        ("sentAt", event.sent_time_text(), EventFlags::SENT_TIME_BARE),
    ];
    for (name, text, bare) in times {
        let is_bare = event.flags().contains(bare);
        if text.is_some_and(|text| is_bare && !Fields::is_value(text)) {
            return Err(EventError::BareTime(name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flatbuffers::FlatBufferBuilder;

    use super::*;
    use crate::event::{EnrichedParts, EventBuilder};

    /// A built event, with what only the generated code can put into one.
    fn event_with(
        change: impl FnOnce(&mut FlatBufferBuilder<'static>) -> raw::EventArgs<'static>,
    ) -> Vec<u8> {
        let mut buffer = FlatBufferBuilder::new();
        let message_id = Some(buffer.create_string("m"));
        let args = raw::EventArgs { message_id, ..change(&mut buffer) };
        let event = raw::Event::create(&mut buffer, &args);
        raw::finish_event_buffer(&mut buffer, event);
        buffer.finished_data().to_vec()
    }

    #[test]
    fn a_text_shared_by_many_headers_is_refused_before_it_costs_much() {
        let shared_by = |count: usize| {
            event_with(|buffer| {
                let text = Some(buffer.create_string(&"v".repeat(10_000)));
                let args = raw::HeaderArgs { name: text, value: text };
                let header = raw::Header::create(buffer, &args);
                let headers = Some(buffer.create_vector(&vec![header; count]));
                raw::EventArgs { headers, ..raw::EventArgs::default() }
            })
        };
        assert!(verify(&shared_by(1)).is_ok());
        let refused = Err(EventError::Malformed("Apparent size too large".to_owned()));
        assert_eq!(verify(&shared_by(HEADERS_MAX)), refused);
    }

    #[test]
    fn more_tables_than_an_event_has_are_refused() {
        let bytes = event_with(|buffer| {
            let text = Some(buffer.create_string(""));
            let args = raw::HeaderArgs { name: text, value: text };
            let headers: Vec<_> =
                (0..=TABLES_MAX).map(|_| raw::Header::create(buffer, &args)).collect();
            let headers = Some(buffer.create_vector(&headers));
            raw::EventArgs { headers, ..raw::EventArgs::default() }
        });
        assert_eq!(verify(&bytes), Err(EventError::Malformed("Too many tables".to_owned())));
    }

    #[test]
    fn more_headers_than_can_be_built_again_are_refused() {
        let of = |count: usize| {
            event_with(|buffer| {
                let text = Some(buffer.create_string(""));
                let args = raw::HeaderArgs { name: text, value: text };
                let headers: Vec<_> =
                    (0..count).map(|_| raw::Header::create(buffer, &args)).collect();
                let headers = Some(buffer.create_vector(&headers));
                raw::EventArgs { headers, ..raw::EventArgs::default() }
            })
        };
        let most = of(HEADERS_MAX);
        let most = EventView::of(verify(&most).unwrap()).unwrap();
        let mut builder = EventBuilder::new();
        let enriched = builder.build_enriched(&most, &EnrichedParts::default());
        assert!(verify(enriched.bytes()).is_ok());
        let refused = verify(&of(HEADERS_MAX + 1)).map(|record| record.bytes().len());
        assert_eq!(refused, Err(EventError::Headers(HEADERS_MAX + 1)));
    }

    #[test]
    fn a_place_told_by_whom_a_newer_program_knows_is_refused() {
        let told_by = |origin: u8| {
            let bytes = event_with(|buffer| {
                let origin = raw::GeoOrigin(origin);
                let geo = raw::GeoArgs { origin, ..raw::GeoArgs::default() };
                let geo = Some(raw::Geo::create(buffer, &geo));
                raw::EventArgs { geo, ..raw::EventArgs::default() }
            });
            verify(&bytes).map(|record| EventView::of(record).unwrap().geo().unwrap().origin)
        };
        assert_eq!(told_by(0), Ok(GeoOrigin::Database));
        assert_eq!(told_by(1), Ok(GeoOrigin::Header));
        assert_eq!(told_by(2), Err(EventError::GeoOrigin(2)));
    }

    #[test]
    fn an_event_without_a_message_id_is_refused() {
        let mut buffer = FlatBufferBuilder::new();
        let start = buffer.start_table();
        let empty = buffer.end_table(start);
        buffer.finish(empty, Some(raw::EVENT_IDENTIFIER));
        let refused = verify(buffer.finished_data());
        assert!(matches!(refused, Err(EventError::Malformed(why)) if why.contains("message_id")));
    }

    #[test]
    fn an_enriched_event_passes() {
        let bytes = event_with(|buffer| {
            let city = Some(buffer.create_string("Köln"));
            let geo_args = raw::GeoArgs { city, latitude: Some(50.9), ..raw::GeoArgs::default() };
            let geo = Some(raw::Geo::create(buffer, &geo_args));
            let session_args = raw::SessionArgs { number: 7, ..raw::SessionArgs::default() };
            let session = Some(raw::Session::create(buffer, &session_args));
            raw::EventArgs { geo, session, ..raw::EventArgs::default() }
        });
        let event = EventView::of(verify(&bytes).unwrap()).unwrap();
        assert_eq!(event.message_id(), "m");
    }
}
