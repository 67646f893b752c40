//! Reading an event where it lies.

use std::fmt;

use super::{
    CampaignParts, DeviceParts, EnrichedParts, EventFlags, EventKind, Fields, GeoParts, PageParts,
    ProfileParts, Property, PropertySpan, RawPlace, SessionParts,
};
use crate::generated::event as raw;
use crate::{Offset, Record, TimeMicros, trusted};

/// One event, read in place. Copying the view copies two words; every text borrows from the
/// record.
#[derive(Clone, Copy)]
pub struct EventView<'a> {
    table: raw::Event<'a>,
}

/// Accessors of texts that may be absent.
macro_rules! texts {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[must_use]
        #[inline]
        pub fn $name(&self) -> Option<&'a str> {
            self.table.$name()
        }
    )*};
}

impl<'a> EventView<'a> {
    /// The event in `record`; `None` when it is of another kind.
    #[must_use]
    #[inline]
    pub fn of(record: Record<'a>) -> Option<Self> {
        trusted::event(record).map(|table| Self { table })
    }

    /// The message id: as sent, or made where [`EventFlags::ID_MADE`] is set.
    #[must_use]
    #[inline]
    pub fn message_id(&self) -> &'a str {
        self.table.message_id()
    }

    /// What the client called.
    ///
    /// # Panics
    /// Never for what this program wrote or verified: both know the kinds above alone.
    #[must_use]
    #[inline]
    pub fn kind(&self) -> EventKind {
        EventKind::from_raw(self.table.kind()).expect("a record's event has a known kind")
    }

    /// What it goes by: its name, else `$page` and the like.
    ///
    /// # Panics
    /// As [`kind`](Self::kind).
    #[must_use]
    pub fn event_name(&self) -> &'a str {
        self.name().unwrap_or_else(|| self.kind().nameless())
    }

    /// When it happened, by our reading of the client's clock.
    #[must_use]
    #[inline]
    pub fn event_time(&self) -> TimeMicros {
        TimeMicros(self.table.event_time())
    }

    /// When it was received.
    #[must_use]
    #[inline]
    pub fn received_time(&self) -> TimeMicros {
        TimeMicros(self.table.received_time())
    }

    /// When it happened by the client's clock, where it said so.
    #[must_use]
    #[inline]
    pub fn client_time(&self) -> Option<TimeMicros> {
        self.table.client_time().map(TimeMicros)
    }

    /// What was done to it on its way in.
    #[must_use]
    #[inline]
    pub fn flags(&self) -> EventFlags {
        EventFlags::from_bits(self.table.flags())
    }

    /// The version of the schema that it was checked against.
    #[must_use]
    pub fn schema_version(&self) -> Option<u32> {
        Some(self.table.schema_version()).filter(|version| *version != 0)
    }

    /// What decides on its partition, where the source does not say otherwise: the anonymous id,
    /// else the user's, else the message's.
    #[must_use]
    pub fn partition_key(&self) -> &'a str {
        self.anonymous_id().or_else(|| self.user_id()).unwrap_or_else(|| self.message_id())
    }

    /// The kept request headers: name in lower case, value.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.table.headers().into_iter().flatten().map(|header| (header.name(), header.value()))
    }

    /// The value of one top-level field of `properties`, by its name after unescaping.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<Property<'a>> {
        let text = self.properties()?;
        let span = self.property_index().find(|span| span.is_named(text, name))?;
        span.value(text)
    }

    /// Where the top-level fields of `properties` lie in it, in their order there. An event that
    /// was stored without the index is walked instead.
    pub fn property_index(&self) -> impl Iterator<Item = PropertySpan> + use<'a> {
        let index = self.table.property_index();
        let unindexed = if index.is_none() { self.properties() } else { None };
        let walked = unindexed.into_iter().flat_map(Fields::of).map_while(Result::ok);
        index.into_iter().flatten().filter_map(PropertySpan::from_raw).chain(walked)
    }

    /// The visit that enrichment found it to belong to; `session_id` is what the client said.
    #[must_use]
    #[inline]
    pub fn session(&self) -> Option<SessionParts<'a>> {
        self.table.session().map(SessionParts::read)
    }

    /// What its user agent says of the device, by enrichment.
    #[must_use]
    #[inline]
    pub fn device(&self) -> Option<DeviceParts<'a>> {
        self.table.device().map(DeviceParts::read)
    }

    /// Where its client is, by enrichment.
    ///
    /// # Panics
    /// As [`kind`](Self::kind).
    #[must_use]
    #[inline]
    pub fn geo(&self) -> Option<GeoParts<'a>> {
        self.table.geo().map(GeoParts::read)
    }

    /// Where its visit came from, by enrichment.
    #[must_use]
    #[inline]
    pub fn campaign(&self) -> Option<CampaignParts<'a>> {
        self.table.campaign().map(CampaignParts::read)
    }

    /// The parts of its page's URL, by enrichment.
    #[must_use]
    #[inline]
    pub fn page_parts(&self) -> Option<PageParts<'a>> {
        self.table.page().map(PageParts::read)
    }

    /// What was known of its user and group when it was enriched.
    #[must_use]
    #[inline]
    pub fn profile(&self) -> Option<ProfileParts<'a>> {
        self.table.profile().map(ProfileParts::read)
    }

    /// The offset of the changelog below which enrichment saw every change of state.
    #[must_use]
    pub fn state_offset(&self) -> Option<Offset> {
        self.table.state_offset().map(Offset)
    }

    /// The record that enrichment made it from.
    #[must_use]
    pub fn made_from(&self) -> Option<RawPlace> {
        let offset = Offset(self.table.raw_offset()?);
        Some(RawPlace { partition: self.table.raw_partition(), offset })
    }

    /// All that enrichment found out; the default where it was not enriched.
    ///
    /// # Panics
    /// As [`kind`](Self::kind).
    #[must_use]
    pub fn enriched(&self) -> EnrichedParts<'a> {
        EnrichedParts {
            resolved_user_id: self.resolved_user_id(),
            session: self.session(),
            device: self.device(),
            geo: self.geo(),
            campaign: self.campaign(),
            page: self.page_parts(),
            profile: self.profile(),
            enriched_by: self.enriched_by(),
            failures: self.enrich_failures(),
            state_offset: self.state_offset(),
            made_from: self.made_from(),
        }
    }

    pub(super) const fn table(&self) -> &raw::Event<'a> {
        &self.table
    }

    texts! {
        /// The event's name; of a page or screen its name.
        name,
        /// The name of the source.
        source,
        /// The id of the device or browser.
        anonymous_id,
        /// The id of the user.
        user_id,
        /// The id that an alias joins with the user's.
        previous_id,
        /// The id of the group.
        group_id,
        /// The client's session id.
        session_id,
        /// The category of a page.
        category,
        /// When it happened, as sent: the string's text, or the token with
        /// [`EventFlags::CLIENT_TIME_BARE`].
        client_time_text,
        /// When it was sent, as sent: the string's text, or the token with
        /// [`EventFlags::SENT_TIME_BARE`].
        sent_time_text,
        /// Who held the other end of the connection.
        peer_address,
        /// Who is behind the trusted proxies.
        client_address,
        /// The user agent.
        user_agent,
        /// The language and country.
        locale,
        /// The page's URL.
        page_url,
        /// The page's path.
        page_path,
        /// What linked to the page.
        page_referrer,
        /// The page's title.
        page_title,
        /// The name of the SDK.
        library_name,
        /// The version of the SDK.
        library_version,
        /// The channel: web, mobile, server.
        channel,
        /// A JSON object, as sent.
        properties,
        /// A JSON object, as sent.
        traits,
        /// A JSON object, as sent.
        context,
        /// A JSON object, as sent.
        integrations,
        /// A JSON object of every top-level field that has no place of its own, as sent.
        extra,
        /// The user whom its ids lead to, by enrichment.
        resolved_user_id,
        /// What enriched it: `name@version`, with spaces between.
        enriched_by,
        /// A JSON object: the name of each enricher that could not look, and why.
        enrich_failures,
    }
}

impl fmt::Debug for EventView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventView")
            .field("message_id", &self.message_id())
            .field("kind", &self.kind())
            .field("name", &self.name())
            .field("event_time", &self.event_time())
            .finish_non_exhaustive()
    }
}
