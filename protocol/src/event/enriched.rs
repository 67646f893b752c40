//! What enrichment adds to an event: parts to build with, and the same parts read back.
//!
//! - [`EnrichedParts`] holds everything; each table of the schema has a type of its own.
//! - All of them borrow: from whoever found things out when an event is built, from the record
//!   when it is read. Reading one costs a look at each of its fields and copies no text.
//!
//! `EventBuilder` writes them, `EventView` reads them. Knows nothing of how they are found.

use flatbuffers::{FlatBufferBuilder, WIPOffset};

use crate::generated::event as raw;
use crate::{Offset, TimeMicros};

/// Everything that enrichment found out about one event. What it did not find is `None`.
///
/// The three JSON texts (the traits of [`ProfileParts`] and `failures`) are taken at their word,
/// as those of [`EventParts`](super::EventParts) are: they must be objects by RFC 8259, at most
/// [`JSON_DEPTH_MAX`](super::JSON_DEPTH_MAX) deep.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EnrichedParts<'a> {
    /// The user whom the event's ids lead to.
    pub resolved_user_id: Option<&'a str>,
    /// The visit that it belongs to.
    pub session: Option<SessionParts<'a>>,
    /// What its user agent says.
    pub device: Option<DeviceParts<'a>>,
    /// Where its client is.
    pub geo: Option<GeoParts<'a>>,
    /// Where the visit came from.
    pub campaign: Option<CampaignParts<'a>>,
    /// The parts of its page's URL.
    pub page: Option<PageParts<'a>>,
    /// What is known of its user and group.
    pub profile: Option<ProfileParts<'a>>,
    /// What enriched it: `name@version`, with spaces between.
    pub enriched_by: Option<&'a str>,
    /// A JSON object: the name of each enricher that could not look, and why. `None` where all
    /// could.
    pub failures: Option<&'a str>,
    /// The offset of the changelog below which every change of state was seen.
    pub state_offset: Option<Offset>,
    /// The record that it was made from.
    pub made_from: Option<RawPlace>,
}

/// Where a record lies in the topic that was enriched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawPlace {
    /// The partition's index.
    pub partition: u32,
    /// The record's offset in it.
    pub offset: Offset,
}

/// The visit that an event belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionParts<'a> {
    /// Its id.
    pub id: Option<&'a str>,
    /// Which of the visitor's visits, from 1.
    pub number: u32,
    /// When it began, by event time.
    pub started: TimeMicros,
    /// Whether this event began it.
    pub first_event: bool,
    /// The URL of the page on which it began.
    pub landing_page: Option<&'a str>,
    /// When the visit before ended, on the event that begins one.
    pub previous_ended: Option<TimeMicros>,
}

/// What a user agent says of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceParts<'a> {
    /// The browser's family.
    pub browser: Option<&'a str>,
    /// Its version.
    pub browser_version: Option<&'a str>,
    /// The system's family.
    pub os: Option<&'a str>,
    /// Its version.
    pub os_version: Option<&'a str>,
    /// Who made the device.
    pub brand: Option<&'a str>,
    /// Its model.
    pub model: Option<&'a str>,
    /// What sort of device it is: `desktop`, `mobile` and so on.
    pub class: Option<&'a str>,
    /// Whether no person sits behind it.
    pub bot: bool,
}

/// Who told a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GeoOrigin {
    /// The database of networks.
    #[default]
    Database,
    /// A header of a trusted proxy.
    Header,
}

/// Where a client is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GeoParts<'a> {
    /// ISO 3166-1, two letters.
    pub country: Option<&'a str>,
    /// ISO 3166-2 without the country, or a name.
    pub region: Option<&'a str>,
    /// The city's name.
    pub city: Option<&'a str>,
    /// The postal code.
    pub postal_code: Option<&'a str>,
    /// IANA's name of the time zone.
    pub time_zone: Option<&'a str>,
    /// Degrees.
    pub latitude: Option<f64>,
    /// Degrees.
    pub longitude: Option<f64>,
    /// The radius within which it lies, 0 where that is unknown.
    pub accuracy_km: u32,
    /// The network's number, 0 where that is unknown.
    pub as_number: u32,
    /// The network's name.
    pub as_name: Option<&'a str>,
    /// Who told it.
    pub origin: GeoOrigin,
}

/// Where a visit came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CampaignParts<'a> {
    /// `utm_source`.
    pub source: Option<&'a str>,
    /// `utm_medium`.
    pub medium: Option<&'a str>,
    /// `utm_campaign`.
    pub name: Option<&'a str>,
    /// `utm_term`.
    pub term: Option<&'a str>,
    /// `utm_content`.
    pub content: Option<&'a str>,
    /// `utm_id`.
    pub id: Option<&'a str>,
    /// An advertiser's click id.
    pub click_id: Option<&'a str>,
    /// The parameter that had it.
    pub click_id_kind: Option<&'a str>,
    /// The host of what linked to the page.
    pub referrer_host: Option<&'a str>,
    /// What kind of place that is: `search`, `social` and so on.
    pub referrer_kind: Option<&'a str>,
    /// That place by name.
    pub referrer_name: Option<&'a str>,
}

/// The parts of a page's URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageParts<'a> {
    /// The scheme, without its colon.
    pub scheme: Option<&'a str>,
    /// The host, without its port.
    pub host: Option<&'a str>,
    /// The path.
    pub path: Option<&'a str>,
    /// What is behind the `?`.
    pub query: Option<&'a str>,
    /// What is behind the `#`.
    pub fragment: Option<&'a str>,
}

/// What was known of an event's user and group when it was enriched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProfileParts<'a> {
    /// The offset of the changelog up to which the traits were read.
    pub version: Offset,
    /// The user's traits, a JSON object.
    pub traits: Option<&'a str>,
    /// The group's traits, a JSON object.
    pub group_traits: Option<&'a str>,
}

impl GeoOrigin {
    /// The word in lines of JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Header => "header",
        }
    }

    /// The origin that lines write so.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Database, Self::Header].into_iter().find(|origin| origin.as_str() == name)
    }

    const fn to_raw(self) -> raw::GeoOrigin {
        match self {
            Self::Database => raw::GeoOrigin::Database,
            Self::Header => raw::GeoOrigin::Header,
        }
    }

    pub(super) const fn from_raw(origin: raw::GeoOrigin) -> Option<Self> {
        match origin {
            raw::GeoOrigin::Database => Some(Self::Database),
            raw::GeoOrigin::Header => Some(Self::Header),
            _ => None,
        }
    }
}

/// What an event is built in.
type Buffer = FlatBufferBuilder<'static>;
/// Where something lies that was written.
type At<T> = WIPOffset<T>;

fn write_text(buffer: &mut Buffer, text: Option<&str>) -> Option<At<&'static str>> {
    text.map(|text| buffer.create_string(text))
}

impl EnrichedParts<'_> {
    /// Writes the parts; the event's table is to point to them.
    pub(super) fn write(&self, buffer: &mut Buffer) -> raw::EventArgs<'static> {
        raw::EventArgs {
            profile: self.profile.map(|profile| profile.write(buffer)),
            campaign: self.campaign.map(|campaign| campaign.write(buffer)),
            page: self.page.map(|page| page.write(buffer)),
            geo: self.geo.map(|geo| geo.write(buffer)),
            device: self.device.map(|device| device.write(buffer)),
            session: self.session.map(|session| session.write(buffer)),
            enrich_failures: write_text(buffer, self.failures),
            enriched_by: write_text(buffer, self.enriched_by),
            resolved_user_id: write_text(buffer, self.resolved_user_id),
            state_offset: self.state_offset.map(|offset| offset.0),
            raw_partition: self.made_from.map_or(0, |place| place.partition),
            raw_offset: self.made_from.map(|place| place.offset.0),
            ..raw::EventArgs::default()
        }
    }
}

impl<'a> SessionParts<'a> {
    #[inline]
    pub(super) fn read(session: raw::Session<'a>) -> Self {
        Self {
            id: session.id(),
            number: session.number(),
            started: TimeMicros(session.started()),
            first_event: session.first_event(),
            landing_page: session.landing_page(),
            previous_ended: session.previous_ended().map(TimeMicros),
        }
    }

    fn write(&self, buffer: &mut Buffer) -> At<raw::Session<'static>> {
        let args = raw::SessionArgs {
            id: write_text(buffer, self.id),
            number: self.number,
            started: self.started.0,
            first_event: self.first_event,
            landing_page: write_text(buffer, self.landing_page),
            previous_ended: self.previous_ended.map(|time| time.0),
        };
        raw::Session::create(buffer, &args)
    }
}

impl<'a> DeviceParts<'a> {
    #[inline]
    pub(super) fn read(device: raw::Device<'a>) -> Self {
        Self {
            browser: device.browser(),
            browser_version: device.browser_version(),
            os: device.os(),
            os_version: device.os_version(),
            brand: device.brand(),
            model: device.model(),
            class: device.class(),
            bot: device.bot(),
        }
    }

    fn write(&self, buffer: &mut Buffer) -> At<raw::Device<'static>> {
        let mut text = |text| write_text(buffer, text);
        let args = raw::DeviceArgs {
            browser: text(self.browser),
            browser_version: text(self.browser_version),
            os: text(self.os),
            os_version: text(self.os_version),
            brand: text(self.brand),
            model: text(self.model),
            class: text(self.class),
            bot: self.bot,
        };
        raw::Device::create(buffer, &args)
    }
}

impl<'a> GeoParts<'a> {
    #[inline]
    pub(super) fn read(geo: raw::Geo<'a>) -> Self {
        let origin = GeoOrigin::from_raw(geo.origin());
        Self {
            country: geo.country(),
            region: geo.region(),
            city: geo.city(),
            postal_code: geo.postal_code(),
            time_zone: geo.time_zone(),
            latitude: geo.latitude(),
            longitude: geo.longitude(),
            accuracy_km: geo.accuracy_km(),
            as_number: geo.as_number(),
            as_name: geo.as_name(),
            origin: origin.expect("a record's place has a known origin"),
        }
    }

    fn write(&self, buffer: &mut Buffer) -> At<raw::Geo<'static>> {
        let mut text = |text| write_text(buffer, text);
        let args = raw::GeoArgs {
            country: text(self.country),
            region: text(self.region),
            city: text(self.city),
            postal_code: text(self.postal_code),
            time_zone: text(self.time_zone),
            latitude: self.latitude,
            longitude: self.longitude,
            accuracy_km: self.accuracy_km,
            as_number: self.as_number,
            as_name: text(self.as_name),
            origin: self.origin.to_raw(),
        };
        raw::Geo::create(buffer, &args)
    }
}

impl<'a> CampaignParts<'a> {
    #[inline]
    pub(super) fn read(campaign: raw::Campaign<'a>) -> Self {
        Self {
            source: campaign.source(),
            medium: campaign.medium(),
            name: campaign.name(),
            term: campaign.term(),
            content: campaign.content(),
            id: campaign.id(),
            click_id: campaign.click_id(),
            click_id_kind: campaign.click_id_kind(),
            referrer_host: campaign.referrer_host(),
            referrer_kind: campaign.referrer_kind(),
            referrer_name: campaign.referrer_name(),
        }
    }

    fn write(&self, buffer: &mut Buffer) -> At<raw::Campaign<'static>> {
        let mut text = |text| write_text(buffer, text);
        let args = raw::CampaignArgs {
            source: text(self.source),
            medium: text(self.medium),
            name: text(self.name),
            term: text(self.term),
            content: text(self.content),
            id: text(self.id),
            click_id: text(self.click_id),
            click_id_kind: text(self.click_id_kind),
            referrer_host: text(self.referrer_host),
            referrer_kind: text(self.referrer_kind),
            referrer_name: text(self.referrer_name),
        };
        raw::Campaign::create(buffer, &args)
    }
}

impl<'a> PageParts<'a> {
    #[inline]
    pub(super) fn read(page: raw::PageParts<'a>) -> Self {
        Self {
            scheme: page.scheme(),
            host: page.host(),
            path: page.path(),
            query: page.query(),
            fragment: page.fragment(),
        }
    }

    fn write(&self, buffer: &mut Buffer) -> At<raw::PageParts<'static>> {
        let mut text = |text| write_text(buffer, text);
        let args = raw::PagePartsArgs {
            scheme: text(self.scheme),
            host: text(self.host),
            path: text(self.path),
            query: text(self.query),
            fragment: text(self.fragment),
        };
        raw::PageParts::create(buffer, &args)
    }
}

impl<'a> ProfileParts<'a> {
    #[inline]
    pub(super) fn read(profile: raw::Profile<'a>) -> Self {
        Self {
            version: Offset(profile.version()),
            traits: profile.traits(),
            group_traits: profile.group_traits(),
        }
    }

    fn write(&self, buffer: &mut Buffer) -> At<raw::Profile<'static>> {
        let args = raw::ProfileArgs {
            version: self.version.0,
            traits: write_text(buffer, self.traits),
            group_traits: write_text(buffer, self.group_traits),
        };
        raw::Profile::create(buffer, &args)
    }
}
