//! Building events: borrowed parts in, one FlatBuffer out.

use std::fmt;

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use super::{EnrichedParts, EventFlags, EventKind, EventView, PropertySpan};
use crate::generated::event as raw;
use crate::{PayloadKind, Record, TimeMicros};

/// No event has more headers.
pub const HEADERS_MAX: usize = 1000;

/// Everything that an event can hold, borrowed. A text that the client left out is `None`.
///
/// The five JSON texts are taken at their word: lines write them as they are, so they must be
/// objects by RFC 8259, at most [`JSON_DEPTH_MAX`](super::JSON_DEPTH_MAX) deep, and the index must
/// be of `properties`.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventParts<'a> {
    /// The message id, as sent or made.
    pub message_id: &'a str,
    /// What the client called.
    pub kind: EventKind,
    /// The event's name; of a page or screen its name.
    pub name: Option<&'a str>,
    /// The name of the source.
    pub source: Option<&'a str>,
    /// The id of the device or browser.
    pub anonymous_id: Option<&'a str>,
    /// The id of the user.
    pub user_id: Option<&'a str>,
    /// The id that an alias joins with the user's.
    pub previous_id: Option<&'a str>,
    /// The id of the group.
    pub group_id: Option<&'a str>,
    /// The client's session id.
    pub session_id: Option<&'a str>,
    /// The category of a page.
    pub category: Option<&'a str>,
    /// When it happened, by our reading of the client's clock.
    pub event_time: TimeMicros,
    /// When it was received.
    pub received_time: TimeMicros,
    /// When it happened by the client's clock.
    pub client_time: Option<TimeMicros>,
    /// The same as sent: the string's text, or the token with [`EventFlags::CLIENT_TIME_BARE`].
    pub client_time_text: Option<&'a str>,
    /// When it was sent, as sent: the string's text, or the token with
    /// [`EventFlags::SENT_TIME_BARE`].
    pub sent_time_text: Option<&'a str>,
    /// What was done to it.
    pub flags: EventFlags,
    /// The version of the schema that it was checked against.
    pub schema_version: Option<u32>,
    /// Who held the other end of the connection.
    pub peer_address: Option<&'a str>,
    /// Who is behind the trusted proxies.
    pub client_address: Option<&'a str>,
    /// The kept request headers, at most [`HEADERS_MAX`]: name in lower case, value.
    pub headers: &'a [(&'a str, &'a str)],
    /// The user agent.
    pub user_agent: Option<&'a str>,
    /// The language and country.
    pub locale: Option<&'a str>,
    /// The page's URL.
    pub page_url: Option<&'a str>,
    /// The page's path.
    pub page_path: Option<&'a str>,
    /// What linked to the page.
    pub page_referrer: Option<&'a str>,
    /// The page's title.
    pub page_title: Option<&'a str>,
    /// The name of the SDK.
    pub library_name: Option<&'a str>,
    /// The version of the SDK.
    pub library_version: Option<&'a str>,
    /// The channel: web, mobile, server.
    pub channel: Option<&'a str>,
    /// A JSON object, as sent.
    pub properties: Option<&'a str>,
    /// The top-level fields of `properties`, in their order: from the intake's scan, or from
    /// [`Fields`](super::Fields). Left empty, whoever asks for a property walks the text.
    pub property_index: &'a [PropertySpan],
    /// A JSON object, as sent.
    pub traits: Option<&'a str>,
    /// A JSON object, as sent.
    pub context: Option<&'a str>,
    /// A JSON object, as sent.
    pub integrations: Option<&'a str>,
    /// A JSON object of every top-level field that has no place of its own, as sent.
    pub extra: Option<&'a str>,
    /// What enrichment found out.
    pub enriched: Option<&'a EnrichedParts<'a>>,
}

impl<'a> EventParts<'a> {
    /// What `event` is made of, but for its headers, its index and what enrichment found out.
    #[must_use]
    pub fn of(event: &EventView<'a>) -> Self {
        Self {
            message_id: event.message_id(),
            kind: event.kind(),
            name: event.name(),
            source: event.source(),
            anonymous_id: event.anonymous_id(),
            user_id: event.user_id(),
            previous_id: event.previous_id(),
            group_id: event.group_id(),
            session_id: event.session_id(),
            category: event.category(),
            event_time: event.event_time(),
            received_time: event.received_time(),
            client_time: event.client_time(),
            client_time_text: event.client_time_text(),
            sent_time_text: event.sent_time_text(),
            flags: event.flags(),
            schema_version: event.schema_version(),
            peer_address: event.peer_address(),
            client_address: event.client_address(),
            headers: &[],
            user_agent: event.user_agent(),
            locale: event.locale(),
            page_url: event.page_url(),
            page_path: event.page_path(),
            page_referrer: event.page_referrer(),
            page_title: event.page_title(),
            library_name: event.library_name(),
            library_version: event.library_version(),
            channel: event.channel(),
            properties: event.properties(),
            property_index: &[],
            traits: event.traits(),
            context: event.context(),
            integrations: event.integrations(),
            extra: event.extra(),
            enriched: None,
        }
    }
}

/// What a builder keeps between events, at most.
const BUFFER_BYTES_KEPT: usize = 1 << 20;
/// Room for a usual event without growing.
const BUFFER_BYTES_FIRST: usize = 4 << 10;

/// Builds one event after another in the same memory.
pub struct EventBuilder {
    buffer: FlatBufferBuilder<'static>,
    /// Of the event being built; kept for its memory.
    headers: Vec<WIPOffset<raw::Header<'static>>>,
}

impl EventBuilder {
    /// A builder with room for a usual event.
    #[must_use]
    pub fn new() -> Self {
        let buffer = FlatBufferBuilder::with_capacity(BUFFER_BYTES_FIRST);
        Self { buffer, headers: Vec::new() }
    }

    /// Builds the event of `parts`. It lies in the builder until the next one is built.
    ///
    /// # Panics
    /// When the event takes 2 GiB or has more than [`HEADERS_MAX`] headers.
    pub fn build(&mut self, parts: &EventParts<'_>) -> Record<'_> {
        self.clear();
        let headers = self.write_headers(parts.headers.iter().copied());
        let index = parts.property_index;
        let index = (!index.is_empty())
            .then(|| self.write_property_index(index.iter().map(|span| span.to_raw())));
        self.finish(parts, headers, index)
    }

    /// Builds `event` anew, with all its fields as they are and `enriched` in the place of what
    /// an earlier enrichment may have found out. Lies in the builder as [`build`](Self::build)'s
    /// does.
    ///
    /// # Panics
    /// When the event takes 2 GiB.
    pub fn build_enriched(
        &mut self,
        event: &EventView<'_>,
        enriched: &EnrichedParts<'_>,
    ) -> Record<'_> {
        self.rebuild(event, &EventParts { enriched: Some(enriched), ..EventParts::of(event) })
    }

    /// Builds `event` anew, with all its fields as they are, what enrichment found out too, and
    /// `flags` in the place of its own. Lies in the builder as [`build`](Self::build)'s does.
    ///
    /// # Panics
    /// When the event takes 2 GiB.
    pub fn build_flagged(&mut self, event: &EventView<'_>, flags: EventFlags) -> Record<'_> {
        let enriched = event.enriched();
        let is_enriched = enriched != EnrichedParts::default();
        let enriched = is_enriched.then_some(&enriched);
        self.rebuild(event, &EventParts { flags, enriched, ..EventParts::of(event) })
    }

    /// Builds the event of `parts` with the headers and the index of `event`.
    fn rebuild(&mut self, event: &EventView<'_>, parts: &EventParts<'_>) -> Record<'_> {
        self.clear();
        let headers = self.write_headers(event.headers());
        let index = event.table().property_index();
        let index = index.map(|index| self.write_property_index(index.iter().copied()));
        self.finish(parts, headers, index)
    }

    fn finish(
        &mut self,
        parts: &EventParts<'_>,
        headers: Headers,
        property_index: PropertyIndex,
    ) -> Record<'_> {
        let args = raw::EventArgs { headers, property_index, ..self.write_contents(parts) };
        let event = raw::Event::create(&mut self.buffer, &args);
        raw::finish_event_buffer(&mut self.buffer, event);
        Record::trusted(PayloadKind::Event, self.buffer.finished_data())
    }

    fn clear(&mut self) {
        if self.buffer.unfinished_data().len() > BUFFER_BYTES_KEPT {
            *self = Self::new();
        } else {
            self.buffer.reset();
        }
    }

    /// Writes what the table points to, the largest texts first: they end up farthest from it.
    fn write_contents(&mut self, parts: &EventParts<'_>) -> raw::EventArgs<'static> {
        let enriched = parts.enriched.map(|enriched| enriched.write(&mut self.buffer));
        let mut text = |text: Option<&str>| text.map(|text| self.buffer.create_string(text));
        raw::EventArgs {
            context: text(parts.context),
            properties: text(parts.properties),
            traits: text(parts.traits),
            integrations: text(parts.integrations),
            extra: text(parts.extra),
            page_url: text(parts.page_url),
            page_path: text(parts.page_path),
            page_referrer: text(parts.page_referrer),
            page_title: text(parts.page_title),
            user_agent: text(parts.user_agent),
            locale: text(parts.locale),
            library_name: text(parts.library_name),
            library_version: text(parts.library_version),
            channel: text(parts.channel),
            peer_address: text(parts.peer_address),
            client_address: text(parts.client_address),
            client_time_text: text(parts.client_time_text),
            sent_time_text: text(parts.sent_time_text),
            category: text(parts.category),
            group_id: text(parts.group_id),
            previous_id: text(parts.previous_id),
            session_id: text(parts.session_id),
            source: text(parts.source),
            name: text(parts.name),
            user_id: text(parts.user_id),
            anonymous_id: text(parts.anonymous_id),
            message_id: text(Some(parts.message_id)),
            kind: parts.kind.to_raw(),
            event_time: parts.event_time.0,
            received_time: parts.received_time.0,
            client_time: parts.client_time.map(|time| time.0),
            flags: parts.flags.bits(),
            schema_version: parts.schema_version.unwrap_or(0),
            ..enriched.unwrap_or_default()
        }
    }

    fn write_headers<'h>(&mut self, headers: impl Iterator<Item = (&'h str, &'h str)>) -> Headers {
        self.headers.clear();
        for (name, value) in headers {
            let value = Some(self.buffer.create_string(value));
            let name = Some(self.buffer.create_string(name));
            let header = raw::Header::create(&mut self.buffer, &raw::HeaderArgs { name, value });
            assert!(
                self.headers.len() < HEADERS_MAX,
                "the intake bounds the headers that it keeps"
            );
            self.headers.push(header);
        }
        if self.headers.is_empty() {
            return None;
        }
        Some(self.buffer.create_vector(&self.headers))
    }

    fn write_property_index(
        &mut self,
        spans: impl ExactSizeIterator<Item = raw::PropertySpan> + DoubleEndedIterator,
    ) -> WIPOffset<Spans> {
        self.buffer.create_vector_from_iter(spans)
    }
}

type Headers = Option<
    WIPOffset<flatbuffers::Vector<'static, flatbuffers::ForwardsUOffset<raw::Header<'static>>>>,
>;
type PropertyIndex = Option<WIPOffset<Spans>>;
type Spans = flatbuffers::Vector<'static, raw::PropertySpan>;

impl Default for EventBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for EventBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventBuilder({} bytes built)", self.buffer.unfinished_data().len())
    }
}
