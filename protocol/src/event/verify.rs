//! Letting events from outside in.
//!
//! After [`verify`] these hold, and everything that reads events leans on them:
//! 1. The bytes are an `Event` buffer by the FlatBuffers verifier: every offset lies inside, every
//!    text is UTF-8, what is required is there.
//! 2. The kind is one that this program knows.
//! 3. `properties`, `traits`, `context`, `integrations` and `extra` are JSON objects.
//! 4. The property index says what the text of `properties` says, field by field.
//! 5. A bare time is one JSON value.

use flatbuffers::VerifierOptions;

use super::{EventFlags, EventKind, EventView, Fields, PropertySpan};
use crate::generated::event as raw;
use crate::{PayloadKind, Record};

/// Headers and the tables of enrichment, each a table.
const TABLES_MAX: usize = 1024;
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
    EventKind::from_raw(event.kind()).ok_or_else(|| EventError::Kind(event.kind().0))?;
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
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .trim_end_matches('.')
        .to_owned()
}

fn check_objects(event: &EventView<'_>) -> Result<(), EventError> {
    let others = [
        ("traits", event.traits()),
        ("context", event.context()),
        ("integrations", event.integrations()),
        ("extra", event.extra()),
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
        let span = spans.next().and_then(PropertySpan::from_raw);
        if span != Some(field) {
            return Err(EventError::Index);
        }
    }
    if spans.next().is_some() {
        Err(EventError::Index)
    } else {
        Ok(())
    }
}

type Spans<'a> = flatbuffers::Vector<'a, raw::PropertySpan>;

fn check_bare_times(event: &EventView<'_>) -> Result<(), EventError> {
    let times = [
        (
            "timestamp",
            event.client_time_text(),
            EventFlags::CLIENT_TIME_BARE,
        ),
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
