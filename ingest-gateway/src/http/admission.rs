//! How many connections may be open: in all, and from one address.
//!
//! An address is an IPv4 address, or the /64 of an IPv6 address. Trusted proxies speak for many
//! clients: they count in all, and not by address. Connections of an address above its share are
//! taken up to twice the share, and are for health checks alone: a balancer that is no trusted
//! proxy still learns how the node is, and no address can use up all connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::client_ip::TrustedProxies;
use crate::config::ConnectionLimits;

/// How many times its share of connections an address may open, health checks included.
const HEALTH_FACTOR: usize = 2;

/// Why a connection was not taken, or answers nothing but health checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Refused {
    /// There are as many as there may be.
    Full,
    /// This address has as many as it may have.
    Address,
}

/// Counts the open connections of all listeners.
#[derive(Debug)]
pub(super) struct Admission {
    connections_max: usize,
    address_connections_max: usize,
    trusted_proxies: TrustedProxies,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    count: usize,
    by_address: HashMap<IpAddr, usize>,
}

impl Admission {
    pub(super) fn new(limits: &ConnectionLimits, trusted_proxies: TrustedProxies) -> Arc<Self> {
        Arc::new(Self {
            connections_max: limits.connections_max,
            address_connections_max: limits.address_connections_max,
            trusted_proxies,
            open: Mutex::default(),
        })
    }

    /// Takes a connection from `peer`; it counts until the guard is dropped.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Result<Admitted, Refused> {
        let peer = peer.to_canonical();
        let address = (!self.trusted_proxies.contains(peer)).then(|| counted_as(peer));
        let mut is_for_health_alone = false;
        let mut open = self.open();
        if open.count >= self.connections_max {
            return Err(Refused::Full);
        }
        if let Some(address) = address {
            let of_address = open.by_address.entry(address).or_default();
            if *of_address >= self.address_connections_max.saturating_mul(HEALTH_FACTOR) {
                return Err(Refused::Address);
            }
            is_for_health_alone = *of_address >= self.address_connections_max;
            *of_address += 1;
        }
        open.count += 1;
        Ok(Admitted { admission: Arc::clone(self), address, is_for_health_alone })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("no holder of this lock panics")
    }
}

/// One open connection's place.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Arc<Admission>,
    address: Option<IpAddr>,
    /// Its address had its share when it came.
    pub(super) is_for_health_alone: bool,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut open = self.admission.open();
        open.count -= 1;
        if let Some(address) = self.address
            && let Some(of_address) = open.by_address.get_mut(&address)
        {
            *of_address -= 1;
            if *of_address == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

fn counted_as(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(all: usize, address: usize) -> Arc<Admission> {
        let limits = ConnectionLimits {
            connections_max: all,
            address_connections_max: address,
            ..ConnectionLimits::DEFAULT
        };
        Admission::new(&limits, TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_and_gets_it_back() {
        let admission = admission(100, 2);
        let _first = admission.admit(ip("192.0.2.1")).unwrap();
        let second = admission.admit(ip("::ffff:192.0.2.1")).unwrap();
        let above = [(); 2].map(|()| admission.admit(ip("192.0.2.1")).unwrap());
        assert!(!second.is_for_health_alone && above[0].is_for_health_alone);
        assert_eq!(admission.admit(ip("192.0.2.1")).unwrap_err(), Refused::Address);
        assert!(!admission.admit(ip("192.0.2.2")).unwrap().is_for_health_alone);
        drop(above);
        drop(second);
        assert!(!admission.admit(ip("192.0.2.1")).unwrap().is_for_health_alone);
        assert_eq!(admission.open().by_address.len(), 1, "nothing is kept of who left");
    }

    #[test]
    fn addresses_of_one_v6_network_count_together() {
        let admission = admission(100, 1);
        let _first = admission.admit(ip("2001:db8:1:2::1")).unwrap();
        let above = |address| admission.admit(ip(address)).unwrap().is_for_health_alone;
        assert!(above("2001:db8:1:2:ffff::9"));
        assert!(!above("2001:db8:1:3::1"));
    }

    #[test]
    fn trusted_proxies_count_in_all_only() {
        let admission = admission(3, 1);
        let _open = [(); 3].map(|()| admission.admit(ip("10.1.1.1")).unwrap());
        assert_eq!(admission.admit(ip("192.0.2.1")).unwrap_err(), Refused::Full);
    }
}
