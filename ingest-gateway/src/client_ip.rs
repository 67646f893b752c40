//! Who is behind the trusted proxies.
//!
//! Each proxy adds the address it took the request from at the end of `X-Forwarded-For` (or of
//! `Forwarded`), so the list is believed from its end: as long as the address that vouches for an
//! entry is a trusted proxy. The client is the last address in the chain that is not trusted, or
//! the farthest where all are. An entry that names no address (`unknown`, an obfuscated name,
//! rubbish) ends the chain: what is left of it came from who knows where, and the peer stands.
//!
//! No proxy is trusted unless the operator says so. `X-Forwarded-For` wins over `Forwarded`,
//! since nearly every proxy writes it, and one header only is read: a proxy passes the other on as
//! the client sent it.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The networks whose word about an address is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts these networks.
    #[must_use]
    pub const fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether `address` lies in one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The headers that say where a request came from: each as often as it was sent, in that order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Forwarding<'a> {
    /// Values of `X-Forwarded-For`.
    pub x_forwarded_for: &'a [&'a str],
    /// Values of `Forwarded` (RFC 7239).
    pub forwarded: &'a [&'a str],
}

/// The address of the client behind `peer`.
#[must_use]
pub fn client_address(
    peer: IpAddr,
    forwarding: &Forwarding<'_>,
    trusted: &TrustedProxies,
) -> IpAddr {
    let peer = peer.to_canonical();
    if !trusted.contains(peer) {
        return peer;
    }
    let found = if forwarding.x_forwarded_for.is_empty() {
        let entries = forwarding.forwarded.iter().rev();
        farthest(
            entries.flat_map(|value| split_outside_quotes(value, b',').rev()).map(for_node),
            trusted,
        )
    } else {
        let entries = forwarding.x_forwarded_for.iter().rev();
        farthest(entries.flat_map(|value| value.rsplit(',')).map(parse_node), trusted)
    };
    found.unwrap_or(peer)
}

/// Goes back along the chain, which comes nearest first.
fn farthest(
    chain: impl Iterator<Item = Option<IpAddr>>,
    trusted: &TrustedProxies,
) -> Option<IpAddr> {
    let mut last = None;
    for entry in chain {
        let address = entry?;
        last = Some(address);
        if !trusted.contains(address) {
            break;
        }
    }
    last
}

/// The address of one entry: with or without a port, brackets, quotes or a zone.
fn parse_node(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim().trim_matches('"').trim();
    let host = match entry.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            if !port.is_empty() && !port.starts_with(':') {
                return None;
            }
            host
        }
        // One colon parts a port from an IPv4 address; more make an IPv6 address.
        None => match entry.split_once(':') {
            Some((host, port)) if !port.contains(':') => host,
            _ => entry,
        },
    };
    parse_host(host)
}

fn parse_host(host: &str) -> Option<IpAddr> {
    let address: IpAddr = match host.split_once('%') {
        Some((host, _zone)) => host.parse::<Ipv6Addr>().ok()?.into(),
        None => host.parse().ok()?,
    };
    Some(address.to_canonical())
}

/// The address of the `for` parameter of one element of `Forwarded`.
fn for_node(element: &str) -> Option<IpAddr> {
    let mut parameters = split_outside_quotes(element, b';');
    let value = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value)
    })?;
    parse_node(value)
}

fn split_outside_quotes(value: &str, separator: u8) -> impl DoubleEndedIterator<Item = &str> {
    let mut is_quoted = false;
    let mut start = 0;
    let mut parts = Vec::new();
    for (at, byte) in value.bytes().enumerate() {
        if byte == b'"' {
            is_quoted = !is_quoted;
        } else if byte == separator && !is_quoted {
            parts.extend(value.get(start..at));
            start = at + 1;
        }
    }
    parts.extend(value.get(start..));
    parts.into_iter()
}

/// An address that a client states in its event: no port, no brackets.
#[must_use]
pub fn parse_stated(text: &str) -> Option<IpAddr> {
    parse_host(text.trim())
}

/// The address with its network only: /24 of IPv4, /48 of IPv6.
#[must_use]
pub fn truncate(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(peer: &str, x_forwarded_for: &[&str], forwarded: &[&str]) -> String {
        let networks = ["10.0.0.0/8", "127.0.0.0/8", "fd00::/8"];
        let trusted = networks.iter().map(|network| network.parse().unwrap()).collect();
        let trusted = TrustedProxies::new(trusted);
        let forwarding = Forwarding { x_forwarded_for, forwarded };
        client_address(peer.parse().unwrap(), &forwarding, &trusted).to_string()
    }

    #[test]
    fn a_peer_that_is_not_trusted_is_the_client_whatever_it_sends() {
        assert_eq!(find("192.0.2.1", &["203.0.113.9"], &["for=203.0.113.9"]), "192.0.2.1");
        let none = TrustedProxies::default();
        let peer = "127.0.0.1".parse().unwrap();
        let forwarding = Forwarding { x_forwarded_for: &["203.0.113.9"], forwarded: &[] };
        assert_eq!(client_address(peer, &forwarding, &none), peer);
    }

    #[test]
    fn the_last_address_that_is_not_trusted_is_the_client() {
        for (list, client) in [
            (&["203.0.113.9"][..], "203.0.113.9"),
            (&["203.0.113.9, 10.1.2.3"], "203.0.113.9"),
            (&["1.1.1.1, 203.0.113.9, 10.1.2.3"], "203.0.113.9"),
            (&["1.1.1.1, 203.0.113.9", "10.1.2.3"], "203.0.113.9"),
            (&["203.0.113.9:51234"], "203.0.113.9"),
            (&["2001:db8::7"], "2001:db8::7"),
            (&["[2001:db8::7]:443, 10.0.0.1"], "2001:db8::7"),
            (&["[2001:db8::7]"], "2001:db8::7"),
            (&["\"[2001:db8::7]:443\""], "2001:db8::7"),
            (&["fe80::1%eth0"], "fe80::1"),
            (&["::ffff:203.0.113.9"], "203.0.113.9"),
            (&["  203.0.113.9  "], "203.0.113.9"),
            (&["10.9.9.9, 10.1.2.3"], "10.9.9.9"),
        ] {
            assert_eq!(find("10.0.0.1", list, &[]), client, "{list:?}");
        }
    }

    #[test]
    fn what_names_no_address_ends_the_chain() {
        for list in [
            "unknown",
            "203.0.113.9:51234, unknown, 10.1.2.3",
            "_hidden",
            "",
            ",",
            "203.0.113.9,",
            "203.0.113.999",
            "example.com",
            "[2001:db8::7",
            "[2001:db8::7]x",
            "203.0.113.9%eth0",
        ] {
            assert_eq!(find("10.0.0.1", &[list], &[]), "10.0.0.1", "{list}");
        }
        assert_eq!(find("10.0.0.1", &[], &[]), "10.0.0.1");
    }

    #[test]
    fn forwarded_is_read_where_the_other_header_is_not_sent() {
        for (list, client) in [
            (&["for=203.0.113.9"][..], "203.0.113.9"),
            (&["For=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
            (&["for=192.0.2.43;proto=https;by=10.0.0.2, for=10.0.0.2"], "192.0.2.43"),
            (&["by=10.0.0.2; for=\"192.0.2.43:80\"", "for=10.0.0.2"], "192.0.2.43"),
            (&["for=unknown"], "10.0.0.1"),
            (&["for=_secret, for=10.0.0.2"], "10.0.0.1"),
            (&["proto=https"], "10.0.0.1"),
            (&["for=\"a,b\", for=192.0.2.43"], "192.0.2.43"),
        ] {
            assert_eq!(find("10.0.0.1", &[], list), client, "{list:?}");
        }
        assert_eq!(find("10.0.0.1", &["203.0.113.9"], &["for=192.0.2.1"]), "203.0.113.9");
    }

    #[test]
    fn truncation_keeps_the_network() {
        for (address, network) in [
            ("203.0.113.9", "203.0.113.0"),
            ("::ffff:203.0.113.9", "203.0.113.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ] {
            assert_eq!(truncate(address.parse().unwrap()).to_string(), network);
        }
    }
}
