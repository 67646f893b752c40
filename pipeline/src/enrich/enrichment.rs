//! What enrichers found out about one event, before it is written into the record.
//!
//! Plain values; shared ones where many events get the same (a device, a place, a profile).

use std::sync::Arc;

pub use tracklog_protocol::event::GeoOrigin;
use tracklog_protocol::{Offset, TimeMicros};

/// What was found out about one event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Enrichment {
    /// The user whom its ids lead to.
    pub resolved_user_id: Option<Arc<str>>,
    /// What its user agent says.
    pub device: Option<Arc<Device>>,
    /// Where its client is.
    pub geo: Option<Arc<Geo>>,
    /// Where the visit came from.
    pub campaign: Option<Campaign>,
    /// The parts of its page's URL.
    pub page: Option<PageParts>,
    /// What is known of its user and group.
    pub profile: Option<ProfileSeen>,
    /// The visit that it belongs to.
    pub visit: Option<Visit>,
}

/// What a user agent says of the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The browser's family: `Chrome`, `IE`.
    pub browser: Option<String>,
    /// Its version, `major.minor.patch` as far as it is told.
    pub browser_version: Option<String>,
    /// The system's family: `iOS`, `Windows`.
    pub os: Option<String>,
    /// Its version.
    pub os_version: Option<String>,
    /// Who made the device.
    pub brand: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// `desktop`, `mobile`, `tablet`, `tv`, `console`, `watch`, `bot`, `other`.
    pub class: Option<&'static str>,
    /// Whether no person sits behind it.
    pub bot: bool,
}

/// Where a client is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Geo {
    /// ISO 3166-1, two letters.
    pub country: Option<String>,
    /// ISO 3166-2 without the country, or a name.
    pub region: Option<String>,
    /// Its name in English.
    pub city: Option<String>,
    /// The postal code.
    pub postal_code: Option<String>,
    /// IANA's name.
    pub time_zone: Option<String>,
    /// Degrees.
    pub latitude: Option<f64>,
    /// Degrees.
    pub longitude: Option<f64>,
    /// The radius within which it lies, 0 where that is unknown.
    pub accuracy_km: u32,
    /// The network's number, 0 where that is unknown.
    pub as_number: u32,
    /// The network's name.
    pub as_name: Option<String>,
    /// Who told it.
    pub origin: GeoOrigin,
}

/// What kind of place linked to the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferrerKind {
    /// A search engine.
    Search,
    /// A social network.
    Social,
    /// Somebody's mail.
    Mail,
    /// The same site.
    Internal,
    /// Any other site.
    Other,
}

impl ReferrerKind {
    /// The word in events.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Social => "social",
            Self::Mail => "mail",
            Self::Internal => "internal",
            Self::Other => "other",
        }
    }
}

/// Where a visit came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Campaign {
    /// `utm_source`.
    pub source: Option<String>,
    /// `utm_medium`.
    pub medium: Option<String>,
    /// `utm_campaign`.
    pub name: Option<String>,
    /// `utm_term`.
    pub term: Option<String>,
    /// `utm_content`.
    pub content: Option<String>,
    /// `utm_id`.
    pub id: Option<String>,
    /// An advertiser's click id.
    pub click_id: Option<String>,
    /// The parameter that had it, `gclid` say.
    pub click_id_kind: Option<&'static str>,
    /// The host of what linked to the page.
    pub referrer_host: Option<String>,
    /// What kind of place that is.
    pub referrer_kind: Option<ReferrerKind>,
    /// What kind of place that is, by name: `Google`.
    pub referrer_name: Option<&'static str>,
}

/// The parts of a page's URL, as sent but for the host, which is in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageParts {
    /// `https`.
    pub scheme: Option<String>,
    /// The host without its port.
    pub host: Option<String>,
    /// The path.
    pub path: Option<String>,
    /// What is behind the `?`.
    pub query: Option<String>,
    /// What is behind the `#`.
    pub fragment: Option<String>,
}

/// What was known of an event's user and group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProfileSeen {
    /// The user's traits, a JSON object.
    pub user_traits: Option<Arc<str>>,
    /// The group's traits, a JSON object.
    pub group_traits: Option<Arc<str>>,
    /// How far the changelog was that the traits come from.
    pub version: Offset,
}

/// The visit that an event belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Its id: a function of the visitor and of when the visit began.
    pub id: String,
    /// Which of the visitor's visits, from 1.
    pub number: u32,
    /// When it began, by event time.
    pub started: TimeMicros,
    /// Whether this event began it.
    pub first_event: bool,
    /// The URL of the page on which it began.
    pub landing_page: Option<Arc<str>>,
    /// When the visitor's visit before this one ended, on the event that begins one.
    pub previous_ended: Option<TimeMicros>,
}
