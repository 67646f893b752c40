//! Which address an event's user has.
//!
//! - The client's, which the gateway found behind the proxies that it trusts.
//! - Where a server sent the event, its own address is not the user's. There it is what the server
//!   says of its user in `context.ip`, unless such statements are not taken.
//!
//! A header is never read for it: whoever holds the connection can write one. A client that is no
//! server cannot state an address, and one that claims to be a server moves its own events alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tracklog_protocol::event::{EventView, Property};

use crate::enrich::sender::is_server;
use crate::enrich::text::members;

/// The address by which to look for the user of `event`; `None` where there is none, or none that
/// lies anywhere.
pub(super) fn of(event: &EventView<'_>, takes_stated: bool) -> Option<IpAddr> {
    let address = if is_server(event) {
        stated(event.context().filter(|_| takes_stated)?)
    } else {
        parse(event.client_address()?)
    };
    address.filter(lies_somewhere)
}

fn stated(context: &str) -> Option<IpAddr> {
    let (_, value) = members(context).find(|(name, _)| name == "ip")?;
    match value {
        Property::String(text) => parse(&text.text()),
        _ => None,
    }
}

/// An address with or without port, brackets and zone; an IPv4 address that is mapped into IPv6 is
/// itself.
pub(super) fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let host = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        // One colon parts a port from an IPv4 address; more make an IPv6 address.
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => host,
            _ => text,
        },
    };
    let host = host.split_once('%').map_or(host, |(host, _zone)| host);
    host.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// Whether somebody out there can have it. Networks that are kept for documentation pass: no
/// database has them but one that is made for a demonstration.
fn lies_somewhere(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(*address),
        IpAddr::V6(address) => is_public_v6(*address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    let is_shared = first == 100 && second & 0xc0 == 64;
    let is_benchmark = first == 198 && second & 0xfe == 18;
    let is_local = address.is_private() || address.is_loopback() || address.is_link_local();
    // Behind 224 are groups, and what was never given out.
    !(is_local || is_shared || is_benchmark || first == 0 || first >= 224)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // All that was ever given out; what is local, mapped or a group is not in it.
    let is_given_out = address.segments()[0] & 0xe000 == 0x2000;
    let is_translated = address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    is_given_out || is_translated
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ports_brackets_zones_and_mapping_are_taken_off() {
        for (text, expected) in [
            ("203.0.113.9", "203.0.113.9"),
            (" 203.0.113.9:51234 ", "203.0.113.9"),
            ("2001:db8:175:ab60:45ee:c12c:dac1:808b", "2001:db8:175:ab60:45ee:c12c:dac1:808b"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("fe80::1%eth0", "fe80::1"),
            ("[fe80::1%25eth0]:80", "fe80::1"),
            ("::ffff:81.2.69.160", "81.2.69.160"),
            ("[::ffff:81.2.69.160]:5", "81.2.69.160"),
        ] {
            assert_eq!(parse(text), Some(expected.parse().unwrap()), "{text}");
        }
        for text in ["", "unknown", "1.2.3", "[::1", "1.2.3.4.5", "::1:", "01.2.3.4", "%", "[]:5"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn private_and_reserved_addresses_lie_nowhere() {
        for text in [
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "198.19.0.1",
            "0.1.2.3",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
        ] {
            assert!(!lies_somewhere(&text.parse().unwrap()), "{text}");
        }
        for text in ["81.2.69.160", "100.128.0.1", "172.32.0.1", "203.0.113.9", "2a02:8071::1"] {
            assert!(lies_somewhere(&text.parse().unwrap()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "\\PC{0,40}|[0-9a-f.:%\\[\\]]{0,40}") {
            parse(&text).as_ref().map(lies_somewhere);
        }
    }
}
