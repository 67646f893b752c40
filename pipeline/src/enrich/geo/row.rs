//! From a row of a database to a place: what publishers call the parts differs.
//!
//! Understood are MaxMind's layouts (City, Country, ASN, and what is made after them) and flat
//! ones, with `country_code` and `city` as texts beside one another. A part that is of another
//! type than it should be is left out; the others stay.

use serde_json::Value;

use crate::enrich::Geo;
use crate::enrich::text::cut;

/// Of a text, this much is kept.
const TEXT_BYTES_MAX: usize = 256;

/// Where publishers put the parts. The first that has a value counts.
const COUNTRY: &[&str] = &["/country/iso_code", "/country_code", "/country"];
const REGION: &[&str] =
    &["/subdivisions/0/iso_code", "/subdivisions/0/names/en", "/region_code", "/region", "/state1"];
const CITY: &[&str] = &["/city/names/en", "/city"];
const POSTAL_CODE: &[&str] = &["/postal/code", "/postal_code", "/postcode", "/zip"];
const TIME_ZONE: &[&str] = &["/location/time_zone", "/time_zone", "/timezone"];
const LATITUDE: &[&str] = &["/location/latitude", "/latitude", "/lat"];
const LONGITUDE: &[&str] = &["/location/longitude", "/longitude", "/lng"];
const ACCURACY: &[&str] = &["/location/accuracy_radius", "/accuracy_radius"];
const AS_NUMBER: &[&str] =
    &["/autonomous_system_number", "/traits/autonomous_system_number", "/asn"];
const AS_NAME: &[&str] =
    &["/autonomous_system_organization", "/traits/autonomous_system_organization", "/as_name"];

/// Adds to `geo` what `row` tells. A place is taken whole from the first row that has one, so that
/// no city of one database gets into a country of another; the network likewise.
pub(super) fn add(row: &Value, geo: &mut Geo) {
    if !has_place(geo) {
        add_place(row, geo);
    }
    if geo.as_number == 0 && geo.as_name.is_none() {
        geo.as_number =
            AS_NUMBER.iter().find_map(|at| number_of_network(row.pointer(at)?)).unwrap_or(0);
        geo.as_name = text(row, AS_NAME);
    }
}

pub(super) const fn has_place(geo: &Geo) -> bool {
    geo.country.is_some() || geo.city.is_some() || geo.latitude.is_some()
}

fn add_place(row: &Value, geo: &mut Geo) {
    geo.country = COUNTRY.iter().find_map(|at| country(row.pointer(at)?.as_str()?));
    geo.region = text(row, REGION);
    geo.city = text(row, CITY);
    geo.postal_code = text(row, POSTAL_CODE);
    geo.time_zone = text(row, TIME_ZONE);
    let (latitude, longitude) = (degrees(row, LATITUDE, 90.0), degrees(row, LONGITUDE, 180.0));
    (geo.latitude, geo.longitude) = latitude.zip(longitude).unzip();
    let accuracy = ACCURACY.iter().find_map(|at| row.pointer(at)?.as_u64());
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

fn text(row: &Value, places: &[&str]) -> Option<String> {
    places.iter().find_map(|at| said(row.pointer(at)?.as_str()?))
}

fn degrees(row: &Value, places: &[&str], most: f64) -> Option<f64> {
    places.iter().find_map(|at| {
        let value = row.pointer(at)?;
        let degrees = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
        on_globe(degrees, most)
    })
}

/// A network's number, which some write as `AS64500`.
fn number_of_network(value: &Value) -> Option<u32> {
    let number = value.as_u64().and_then(|it| u32::try_from(it).ok());
    number.or_else(|| value.as_str()?.trim_start_matches("AS").parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(rows: &[Value]) -> Geo {
        let mut geo = Geo::default();
        rows.iter().for_each(|row| add(row, &mut geo));
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
