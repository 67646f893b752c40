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

    /// The headers that are read, in lower case.
    pub fn headers(self) -> impl Iterator<Item = &'static str> {
        self.parts().iter().map(|(name, _)| *name)
    }

    /// Whether the header of this name, in lower case, tells something.
    pub(super) fn tells(self, name: &str) -> bool {
        self.part(name).is_some()
    }

    /// What the header of this name, in lower case, tells.
    fn part(self, name: &str) -> Option<Part> {
        self.parts().iter().find(|(told, _)| *told == name).map(|(_, part)| *part)
    }

    /// What each header tells; of two that tell the same the first that comes counts.
    const fn parts(self) -> &'static [(&'static str, Part)] {
        match self {
            Self::Cloudflare => &[
                ("cf-ipcountry", Part::Country),
                ("cf-region-code", Part::Region),
                ("cf-region", Part::Region),
                ("cf-ipcity", Part::City),
                ("cf-postal-code", Part::PostalCode),
                ("cf-timezone", Part::TimeZone),
                ("cf-iplatitude", Part::Latitude),
                ("cf-iplongitude", Part::Longitude),
            ],
            Self::CloudFront => &[
                ("cloudfront-viewer-country", Part::Country),
                ("cloudfront-viewer-country-region", Part::Region),
                ("cloudfront-viewer-city", Part::City),
                ("cloudfront-viewer-postal-code", Part::PostalCode),
                ("cloudfront-viewer-time-zone", Part::TimeZone),
                ("cloudfront-viewer-latitude", Part::Latitude),
                ("cloudfront-viewer-longitude", Part::Longitude),
                ("cloudfront-viewer-asn", Part::AsNumber),
            ],
            Self::AppEngine => &[
                ("x-appengine-country", Part::Country),
                ("x-appengine-region", Part::Region),
                ("x-appengine-city", Part::City),
                ("x-appengine-citylatlong", Part::Place),
            ],
            Self::Vercel => &[
                ("x-vercel-ip-country", Part::Country),
                ("x-vercel-ip-country-region", Part::Region),
                ("x-vercel-ip-city", Part::City),
                ("x-vercel-ip-postal-code", Part::PostalCode),
                ("x-vercel-ip-timezone", Part::TimeZone),
                ("x-vercel-ip-latitude", Part::Latitude),
                ("x-vercel-ip-longitude", Part::Longitude),
                ("x-vercel-ip-as-number", Part::AsNumber),
            ],
            Self::Own => &[
                ("x-geo-country", Part::Country),
                ("x-geo-region", Part::Region),
                ("x-geo-city", Part::City),
                ("x-geo-postal-code", Part::PostalCode),
                ("x-geo-time-zone", Part::TimeZone),
                ("x-geo-latitude", Part::Latitude),
                ("x-geo-longitude", Part::Longitude),
            ],
        }
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
    /// Both, with a comma between.
    Place,
    AsNumber,
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
    let degrees = |most| degrees(value, most);
    let (place, found) = match part {
        // `T1`, which stands for the Tor network, is no two letters.
        Part::Country => (&mut geo.country, country(value.trim())),
        Part::Region => (&mut geo.region, said(value)),
        Part::City => (&mut geo.city, said(value)),
        Part::TimeZone => (&mut geo.time_zone, said(value)),
        Part::PostalCode => (&mut geo.postal_code, said(value)),
        Part::Latitude => return geo.latitude = geo.latitude.or_else(|| degrees(90.0)),
        Part::Longitude => return geo.longitude = geo.longitude.or_else(|| degrees(180.0)),
        Part::Place => {
            let (latitude, longitude) = value.split_once(',').unwrap_or_default();
            read(Part::Latitude, latitude, geo);
            return read(Part::Longitude, longitude, geo);
        }
        Part::AsNumber => {
            let number = value.trim().parse().unwrap_or_default();
            return geo.as_number = if geo.as_number == 0 { number } else { geo.as_number };
        }
    };
    if place.is_none() {
        *place = found;
    }
}

fn degrees(value: &str, most: f64) -> Option<f64> {
    value.trim().parse().ok().and_then(|it| on_globe(it, most))
}

/// Fills `geo`, which comes from a database, with what the headers tell: the whole place where the
/// database has none, and what it lacks where both name one country.
pub(super) fn fill(geo: &mut Geo, headers: Geo) {
    if geo.as_number == 0 {
        geo.as_number = headers.as_number;
    }
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
