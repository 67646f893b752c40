//! Traffic as a shop sees it: 100,000 visitors with 5,000 agents, each at an address of his own in a
//! network of his own. Neighbours in time have little in common, so that what is kept in memory is
//! asked as it is in the field.

use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};
use mmdb_writer::{IpVersion, Value, Writer};

use super::wire::post_from;
use crate::failure::Failure;

/// Each second one is a user, of whom traits are known.
pub(super) const VISITORS: u64 = 100_000;
/// As long as the events that are sent.
pub(super) const EVENT_BYTES: usize = 780;
const AGENTS: u64 = 5_000;
const NETWORKS: u64 = 200_000;
const CITIES: u64 = 50_000;
/// Prime to all counts here: steps of this size visit everything, neighbours far apart.
const STEP: u64 = 7_919;
/// Of the events behind the introductions so many make a round of what is in them.
const ROUND: u64 = 20;
const ORDERS_A_ROUND: u64 = 4;

/// How many of `events` events, from `first` on, are orders: `first` begins a round.
pub(super) fn orders(first: u64, events: u64) -> u64 {
    (first..first + events).filter(|number| is_order(*number)).count() as u64
}

fn is_order(number: u64) -> bool {
    number >= VISITORS && number % ROUND >= ROUND - ORDERS_A_ROUND
}

/// The request with the `number`th event. The first [`VISITORS`] introduce one each; behind them
/// one of twenty tells its user's traits, two more name their user, four are orders.
pub(super) fn request(number: u64, authorization: &str) -> Vec<u8> {
    let visitor = number * STEP % VISITORS;
    let is_user = visitor.is_multiple_of(2);
    let place = number % ROUND;
    let introduces = number < VISITORS;
    let (path, what) = match place {
        _ if introduces && is_user => ("/v1/identify", IDENTIFY),
        0 if is_user => ("/v1/identify", IDENTIFY),
        _ if is_order(number) => ("/v1/track", ORDER),
        _ => ("/v1/track", VIEW),
    };
    let names_user = is_user && (introduces || place <= 4);
    let user = if names_user { format!(r#""userId":"user-{visitor}","#) } else { String::new() };
    let body = |filler: &str| {
        format!(
            r#"{{{what},{user}"messageId":"bench-{number:010}","anonymousId":"8f14e45f-ceea-467f-a0e6-{visitor:012x}","timestamp":"{time}","context":{{"library":{{"name":"analytics.js","version":"2.11.1"}},"locale":"de-DE","page":{{"url":"{url}","referrer":"https://www.google.com/","title":"Linen shirt"}},"userAgent":"{agent}","note":"{filler}"}}}}"#,
            time = time(number),
            url = url(visitor),
            agent = agent(visitor % AGENTS),
        )
    };
    let filler = "x".repeat(EVENT_BYTES.saturating_sub(body("").len()));
    post_from(&address(visitor).to_string(), path, authorization, &body(&filler))
}

const IDENTIFY: &str =
    r#""traits":{"plan":"pro","country":"DE","since":"2024-05-01","orders":17,"newsletter":true}"#;
const VIEW: &str = r#""event":"product.viewed","properties":{"product_id":"p-17","category":"clothing","price":59.00,"currency":"EUR","position":7}"#;
const ORDER: &str = r#""event":"Order Completed","properties":{"order_id":"o-48151623","total":129.90,"currency":"EUR","coupon":null,"items":2}"#;

/// Each round through all visitors is half a minute later: visits go on, and each second event of
/// one moves its end.
fn time(number: u64) -> String {
    let halves = number / VISITORS;
    let (minute, second) = (halves / 2, 5 + 30 * (halves % 2));
    format!("2026-01-02T{:02}:{:02}:{second:02}.678Z", 3 + minute / 60 % 20, minute % 60)
}

/// Of four, two Chromes on a desk, an Android and an iPhone; no two of [`AGENTS`] are alike.
fn agent(nth: u64) -> String {
    const WEBKIT: &str = "AppleWebKit/537.36 (KHTML, like Gecko)";
    let (major, build) = (90 + nth % 41, nth / 4);
    match nth % 4 {
        0 | 1 => format!(
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/{major}.0.{build}.{} Safari/537.36",
            nth % 4
        ),
        2 => format!(
            "Mozilla/5.0 (Linux; Android {}; SM-S{build}B) {WEBKIT} Chrome/{major}.0.0.0 Mobile Safari/537.36",
            8 + nth % 7
        ),
        _ => format!(
            "Mozilla/5.0 (iPhone; CPU iPhone OS {}_{} like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.{} Mobile/15E{build} Safari/604.1",
            13 + nth % 5,
            nth % 7,
            nth % 6
        ),
    }
}

fn url(visitor: u64) -> String {
    if visitor.is_multiple_of(4) {
        let campaign = "utm_source=news&utm_medium=mail&utm_campaign=spring";
        return format!("https://www.shop.example/p/{visitor}?{campaign}&gclid=Cj0K{visitor}");
    }
    format!("https://www.shop.example/category/{visitor}")
}

/// One address in a network that no other visitor is in.
fn address(visitor: u64) -> Ipv4Addr {
    Ipv4Addr::from_bits(network(visitor * (NETWORKS / VISITORS)) + 7)
}

/// The first address of the `nth` network, of 256.
fn network(nth: u64) -> u32 {
    0x2000_0000 + (u32::try_from(nth).expect("there are fewer than addresses") << 8)
}

/// Writes a database of all networks to `file`.
pub(super) fn write_database(file: &Path) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::of(file.display(), error);
    let mut writer = Writer::builder("Tracklog-Bench-City").ip_version(IpVersion::V4).build();
    let cities: Vec<_> = (0..CITIES).map(city).collect();
    for nth in 0..NETWORKS {
        let network = Ipv4Net::new(Ipv4Addr::from_bits(network(nth)), 24).expect("a good length");
        // Neighbours are mostly in one city.
        let city = usize::try_from(nth / 3 % CITIES).expect("there are few");
        let inserted = writer.insert_value(IpNet::from(network), cities[city].clone());
        inserted.map_err(|error| failed(&error))?;
    }
    let bytes = writer.to_bytes().map_err(|error| failed(&error))?;
    std::fs::write(file, bytes).map_err(|error| failed(&error))
}

fn city(nth: u64) -> Value {
    let name = Value::map([("names", Value::map([("en", format!("City {nth}"))]))]);
    let location = Value::map([
        ("latitude", Value::from(nth as f64 / 1e3 - 25.0)),
        ("longitude", Value::from(nth as f64 / 1e3 - 20.0)),
        ("time_zone", Value::from("Europe/Berlin")),
    ]);
    Value::map([
        ("country", Value::map([("iso_code", "DE")])),
        ("subdivisions", Value::array([Value::map([("iso_code", "BE")])])),
        ("city", name),
        ("postal", Value::map([("code", format!("{nth:05}"))])),
        ("location", location),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_the_size_that_they_say_and_are_json() {
        for number in [0, 1, 2, 99_999, 100_000, 100_001, 100_003, 100_019, 300_016] {
            let request = String::from_utf8(request(number, "Basic eA==")).unwrap();
            let (_, body) = request.split_once("\r\n\r\n").unwrap();
            assert_eq!(body.len(), EVENT_BYTES, "{body}");
            serde_json::from_str::<serde_json::Value>(body).unwrap();
        }
    }

    #[test]
    fn orders_are_counted_as_they_are_sent() {
        let sent = (VISITORS..VISITORS + 200).filter(|number| {
            let request = request(*number, "Basic eA==");
            request.windows(15).any(|it| it == b"Order Completed")
        });
        assert_eq!(sent.count() as u64, orders(VISITORS, 200));
    }
}
