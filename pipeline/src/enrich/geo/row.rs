//! From a row of a database to a place: what publishers call the parts differs.
//!
//! Understood are MaxMind's layouts (City, Country, ASN, and what is made after them) and flat
//! ones, with `country_code` and `city` as texts beside one another. A part that is of another
//! type than it should be is left out; the others stay.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::enrich::Geo;
use crate::enrich::text::cut;

/// Of a text, this much is kept.
const TEXT_BYTES_MAX: usize = 256;

/// The way to a part from the row, by the names of members and the places in lists.
type Way = &'static [&'static str];

/// Where publishers put the parts. The first that has a value counts.
const COUNTRY: &[Way] = &[&["country", "iso_code"], &["country_code"], &["country"]];
const REGION: &[Way] = &[
    &["subdivisions", "0", "iso_code"],
    &["subdivisions", "0", "names", "en"],
    &["region_code"],
    &["region"],
    &["state1"],
];
const CITY: &[Way] = &[&["city", "names", "en"], &["city"]];
const POSTAL_CODE: &[Way] = &[&["postal", "code"], &["postal_code"], &["postcode"], &["zip"]];
const TIME_ZONE: &[Way] = &[&["location", "time_zone"], &["time_zone"], &["timezone"]];
const LATITUDE: &[Way] = &[&["location", "latitude"], &["latitude"], &["lat"]];
const LONGITUDE: &[Way] = &[&["location", "longitude"], &["longitude"], &["lng"]];
const ACCURACY: &[Way] = &[&["location", "accuracy_radius"], &["accuracy_radius"]];
const AS_NUMBER: &[Way] =
    &[&["autonomous_system_number"], &["traits", "autonomous_system_number"], &["asn"]];
const AS_NAME: &[Way] = &[
    &["autonomous_system_organization"],
    &["traits", "autonomous_system_organization"],
    &["as_name"],
];

/// A row, or a part of one, whose texts lie in the database: most of it is in languages that nobody
/// asked for, and is not copied.
#[derive(Debug)]
pub(super) enum Part<'a> {
    Map(Vec<(&'a str, Self)>),
    List(Vec<Self>),
    Text(&'a str),
    Integer(u64),
    Number(f64),
    /// Of a type that no part of a place has.
    Other,
}

impl<'a> Part<'a> {
    fn at(&self, way: Way) -> Option<&Self> {
        way.iter().try_fold(self, |part, step| match part {
            Self::Map(members) => {
                members.iter().rfind(|(name, _)| name == step).map(|(_, member)| member)
            }
            Self::List(elements) => elements.get(step.parse::<usize>().ok()?),
            _ => None,
        })
    }

    const fn text(&self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    const fn integer(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => Some(*number),
            _ => None,
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }
}

/// Adds to `geo` what `row` tells. A place is taken whole from the first row that has one, so that
/// no city of one database gets into a country of another; the network likewise.
pub(super) fn add(row: &Part<'_>, geo: &mut Geo) {
    if !has_place(geo) {
        add_place(row, geo);
    }
    if geo.as_number == 0 && geo.as_name.is_none() {
        geo.as_number =
            AS_NUMBER.iter().find_map(|way| number_of_network(row.at(way)?)).unwrap_or(0);
        geo.as_name = text(row, AS_NAME);
    }
}

pub(super) const fn has_place(geo: &Geo) -> bool {
    geo.country.is_some() || geo.city.is_some() || geo.latitude.is_some()
}

fn add_place(row: &Part<'_>, geo: &mut Geo) {
    geo.country = COUNTRY.iter().find_map(|way| country(row.at(way)?.text()?));
    geo.region = text(row, REGION);
    geo.city = text(row, CITY);
    geo.postal_code = text(row, POSTAL_CODE);
    geo.time_zone = text(row, TIME_ZONE);
    let (latitude, longitude) = (degrees(row, LATITUDE, 90.0), degrees(row, LONGITUDE, 180.0));
    (geo.latitude, geo.longitude) = latitude.zip(longitude).unzip();
    let accuracy = ACCURACY.iter().find_map(|way| row.at(way)?.integer());
    geo.accuracy_km = accuracy.and_then(|it| u32::try_from(it).ok()).unwrap_or(0);
}

/// Two letters of ISO 3166-1, in upper case. `XX`, `ZZ` and what no country has is none.
pub(super) fn country(code: &str) -> Option<String> {
    let is_code = code.len() == 2 && code.bytes().all(|it| it.is_ascii_alphabetic());
    let code = code.to_ascii_uppercase();
    (is_code && !matches!(code.as_str(), "XX" | "ZZ")).then_some(code)
}

/// A text that says something.
pub(super) fn said(text: &str) -> Option<String> {
    let text = cut(text.trim(), TEXT_BYTES_MAX);
    (!matches!(text, "" | "-" | "?")).then(|| text.to_owned())
}

/// Degrees that are on the globe.
pub(super) fn on_globe(degrees: f64, most: f64) -> Option<f64> {
    Some(degrees).filter(|it| it.abs() <= most)
}

fn text(row: &Part<'_>, ways: &[Way]) -> Option<String> {
    ways.iter().find_map(|way| said(row.at(way)?.text()?))
}

fn degrees(row: &Part<'_>, ways: &[Way], most: f64) -> Option<f64> {
    ways.iter().find_map(|way| {
        let value = row.at(way)?;
        let degrees = value.number().or_else(|| value.text()?.parse().ok())?;
        on_globe(degrees, most)
    })
}

/// A network's number, which some write as `AS64500`.
fn number_of_network(value: &Part<'_>) -> Option<u32> {
    let number = value.integer().and_then(|it| u32::try_from(it).ok());
    number.or_else(|| value.text()?.trim_start_matches("AS").parse().ok())
}

impl<'de> Deserialize<'de> for Part<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Parts)
    }
}

struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = Part<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a part of a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Part<'de>, A::Error> {
        let mut members = Vec::with_capacity(map.size_hint().unwrap_or(0).min(MEMBERS_EXPECTED));
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Part::Map(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Part<'de>, A::Error> {
        // No way leads to another element.
        let elements = list.next_element()?.into_iter().collect();
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Part::List(elements))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Part<'de>, E> {
        Ok(Part::Text(text))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Part<'de>, E> {
        Ok(Part::Integer(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Part<'de>, E> {
        Ok(u64::try_from(number).map_or(Part::Number(number as f64), Part::Integer))
    }

    fn visit_u128<E>(self, _: u128) -> Result<Part<'de>, E> {
        Ok(Part::Other)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Part<'de>, E> {
        Ok(Part::Number(number))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Part<'de>, E> {
        Ok(Part::Other)
    }

    fn visit_borrowed_bytes<E>(self, _: &'de [u8]) -> Result<Part<'de>, E> {
        Ok(Part::Other)
    }

    fn visit_unit<E>(self) -> Result<Part<'de>, E> {
        Ok(Part::Other)
    }
}

/// No map of a publisher's has more.
const MEMBERS_EXPECTED: usize = 16;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(rows: &[Value]) -> Geo {
        let mut geo = Geo::default();
        rows.iter().for_each(|row| add(&Part::deserialize(row).unwrap(), &mut geo));
        geo
    }

    #[test]
    fn flat_rows_are_read_as_well() {
        let geo = read(&[json!({
            "country_code": "de", "state1": "Hessen", "city": "Hanau", "postcode": "63450",
            "latitude": "50.13", "longitude": 8.92, "timezone": "Europe/Berlin", "asn": "AS64500",
            "as_name": "Example",
        })]);
        assert_eq!(geo.country.as_deref(), Some("DE"));
        assert_eq!((geo.region.as_deref(), geo.city.as_deref()), (Some("Hessen"), Some("Hanau")));
        assert_eq!((geo.latitude, geo.longitude), (Some(50.13), Some(8.92)));
        assert_eq!((geo.as_number, geo.as_name.as_deref()), (64500, Some("Example")));
    }

    #[test]
    fn a_part_of_another_type_loses_no_other() {
        let geo = read(&[json!({
            "country": {"iso_code": 7}, "city": ["x"], "location": {"latitude": 91, "longitude": 1},
            "subdivisions": "x", "postal": {"code": "1"}, "autonomous_system_number": -1,
        })]);
        let expected = Geo { postal_code: Some("1".into()), ..Geo::default() };
        assert_eq!(geo, expected);
        assert_eq!(read(&[json!(null), json!(1), json!("x"), json!([])]), Geo::default());
    }

    #[test]
    fn a_place_is_of_one_row_alone() {
        let geo = read(&[
            json!({"autonomous_system_number": 1}),
            json!({"country": {"iso_code": "FR"}, "autonomous_system_number": 2}),
            json!({"country": {"iso_code": "DE"}, "city": {"names": {"en": "Berlin"}}}),
        ]);
        let expected = Geo { country: Some("FR".into()), as_number: 1, ..Geo::default() };
        assert_eq!(geo, expected);
    }
}
