//! Where the demo's visitors are: made-up networks, in a database that the demo writes for itself.
//!
//! The node believes the demo's clients that they are proxies, so that each visitor has an address
//! of its own. Real places need a real database: the README names one.

use std::path::Path;

use ipnet::IpNet;
use mmdb_writer::{IpVersion, Value, Writer};

use crate::failure::Failure;

/// A network of the demo's, and where it is.
struct Place {
    network: &'static str,
    country: &'static str,
    city: &'static str,
}

/// No two are alike; the networks are some that nobody else in the demo has.
const PLACES: [Place; 5] = [
    Place { network: "81.2.69.0/24", country: "GB", city: "London" },
    Place { network: "89.160.20.0/24", country: "SE", city: "Linköping" },
    Place { network: "175.16.199.0/24", country: "CN", city: "Changchun" },
    Place { network: "216.160.83.0/24", country: "US", city: "Milton" },
    Place { network: "202.196.224.0/24", country: "PH", city: "Manila" },
];

/// The address of the `nth` visitor.
pub(super) fn address(nth: u64) -> String {
    let places = PLACES.len() as u64;
    let place = usize::try_from(nth % places).expect("there are few");
    let network = PLACES[place].network;
    let (network, _) = network.rsplit_once('.').expect("a network of four numbers");
    format!("{network}.{}", 1 + nth / places % 250)
}

/// Writes the database to `file`.
pub(super) fn write_database(file: &Path) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::of(file.display(), error);
    let mut writer = Writer::builder("Tracklog-Demo-City").ip_version(IpVersion::V4).build();
    for Place { network, country, city } in PLACES {
        let names = Value::map([("names", Value::map([("en", city)]))]);
        let country = Value::map([("iso_code", country)]);
        let row = Value::map([("country", country), ("city", names)]);
        let network: IpNet = network.parse().expect("these are networks");
        writer.insert_value(network, row).map_err(|error| failed(&error))?;
    }
    let bytes = writer.to_bytes().map_err(|error| failed(&error))?;
    std::fs::write(file, bytes).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_are_spread_over_all_places() {
        let addresses: Vec<_> = (0..7).map(address).collect();
        assert_eq!(addresses[0], "81.2.69.1");
        assert_eq!(addresses[5], "81.2.69.2");
        assert_eq!(addresses[4], "202.196.224.1");
        assert!((0..5_000).all(|nth| address(nth).parse::<std::net::Ipv4Addr>().is_ok()));
    }
}
