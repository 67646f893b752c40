//! Where a content network says its client is.
//!
//! A header is read only where the peer is a trusted proxy, and only those of the network that the
//! operator named: a proxy that sets none of another's passes them on as the client sent them.

use ipnet::IpNet;
use tracklog_protocol::event::EventView;

use super::address;
use super::row::{country, has_place, on_globe, said};
use crate::enrich::text::decode;
use crate::enrich::{Geo, GeoOrigin};

/// A network whose headers tell places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Edge {
    /// Cloudflare: `CF-IPCountry` and its like.
    Cloudflare,
    /// Amazon: `CloudFront-Viewer-Country` and its like.
    CloudFront,
    /// Google: `X-AppEngine-Country` and its like.
    AppEngine,
    /// Vercel: `X-Vercel-IP-Country` and its like.
    Vercel,
    /// A proxy of one's own, which sets `X-Geo-Country`.
    Own,
}

impl Edge {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Cloudflare, Self::CloudFront, Self::AppEngine, Self::Vercel, Self::Own];

    /// The word in configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cloudflare => "cloudflare",
            Self::CloudFront => "cloudfront",
            Self::AppEngine => "appengine",
            Self::Vercel => "vercel",
            Self::Own => "own",
        }
    }

    /// The network of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|edge| edge.as_str() == name)
    }

    /// Whether the header of this name, in lower case, tells something.
    pub(super) fn tells(self, name: &str) -> bool {
        self.part(name).is_some()
    }

    /// What the header of this name, in lower case, tells.
    fn part(self, name: &str) -> Option<Part> {
        Some(match (self, name) {
            (Self::Cloudflare, "cf-ipcountry")
            | (Self::CloudFront, "cloudfront-viewer-country")
            | (Self::AppEngine, "x-appengine-country")
            | (Self::Vercel, "x-vercel-ip-country")
            | (Self::Own, "x-geo-country") => Part::Country,
            (Self::Cloudflare, "cf-region-code" | "cf-region")
            | (Self::CloudFront, "cloudfront-viewer-country-region")
            | (Self::AppEngine, "x-appengine-region")
            | (Self::Vercel, "x-vercel-ip-country-region") => Part::Region,
            (Self::Cloudflare, "cf-ipcity")
            | (Self::CloudFront, "cloudfront-viewer-city")
            | (Self::AppEngine, "x-appengine-city")
            | (Self::Vercel, "x-vercel-ip-city") => Part::City,
            (Self::Cloudflare, "cf-timezone")
            | (Self::CloudFront, "cloudfront-viewer-time-zone")
            | (Self::Vercel, "x-vercel-ip-timezone") => Part::TimeZone,
            (Self::Cloudflare, "cf-postal-code")
            | (Self::CloudFront, "cloudfront-viewer-postal-code")
            | (Self::Vercel, "x-vercel-ip-postal-code") => Part::PostalCode,
            (Self::Cloudflare, "cf-iplatitude")
            | (Self::CloudFront, "cloudfront-viewer-latitude")
            | (Self::Vercel, "x-vercel-ip-latitude") => Part::Latitude,
            (Self::Cloudflare, "cf-iplongitude")
            | (Self::CloudFront, "cloudfront-viewer-longitude")
            | (Self::Vercel, "x-vercel-ip-longitude") => Part::Longitude,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy)]
enum Part {
    Country,
    Region,
    City,
    TimeZone,
    PostalCode,
    Latitude,
    Longitude,
}

/// Whether a trusted proxy held the connection on which `event` came.
pub(super) fn is_vouched_for(event: &EventView<'_>, trusted: &[IpNet]) -> bool {
    let peer = event.peer_address().and_then(address::parse);
    peer.is_some_and(|peer| trusted.iter().any(|network| network.contains(&peer)))
}

/// The place of which the headers of `edge` tell; `None` without a country, for the rest without
/// one is where the network lies, not its client.
pub(super) fn place(event: &EventView<'_>, edge: Edge) -> Option<Geo> {
    let mut geo = Geo { origin: GeoOrigin::Header, ..Geo::default() };
    for (name, value) in event.headers() {
        if let Some(part) = edge.part(name) {
            read(part, &decode(value), &mut geo);
        }
    }
    if geo.latitude.is_none() || geo.longitude.is_none() {
        (geo.latitude, geo.longitude) = (None, None);
    }
    geo.country.is_some().then_some(geo)
}

/// Takes one part in, unless it is there.
fn read(part: Part, value: &str, geo: &mut Geo) {
    let degrees = |most| value.trim().parse().ok().and_then(|it| on_globe(it, most));
    let (place, found) = match part {
        // `T1`, which stands for the Tor network, is no two letters.
        Part::Country => (&mut geo.country, country(value.trim())),
        Part::Region => (&mut geo.region, said(value)),
        Part::City => (&mut geo.city, said(value)),
        Part::TimeZone => (&mut geo.time_zone, said(value)),
        Part::PostalCode => (&mut geo.postal_code, said(value)),
        Part::Latitude => return geo.latitude = geo.latitude.or_else(|| degrees(90.0)),
        Part::Longitude => return geo.longitude = geo.longitude.or_else(|| degrees(180.0)),
    };
    if place.is_none() {
        *place = found;
    }
}

/// Fills `geo`, which comes from a database, with what the headers tell: the whole place where the
/// database has none, and what it lacks where both name one country.
pub(super) fn fill(geo: &mut Geo, headers: Geo) {
    if !has_place(geo) {
        let (as_number, as_name) = (geo.as_number, geo.as_name.take());
        *geo = Geo { as_number, as_name, ..headers };
    } else if geo.country == headers.country {
        let Geo { region, city, postal_code, time_zone, .. } = headers;
        geo.region = geo.region.take().or(region);
        geo.city = geo.city.take().or(city);
        geo.postal_code = geo.postal_code.take().or(postal_code);
        geo.time_zone = geo.time_zone.take().or(time_zone);
    }
}
