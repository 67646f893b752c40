//! A source, its limits and a request, as the targets of the gateway have them.

use std::net::IpAddr;

use tracklog_ingest_gateway::intake::RequestFacts;
use tracklog_ingest_gateway::scan::ScanLimits;
use tracklog_ingest_gateway::source::{HmacKey, IpRule, Required, SourceRules, UserIdRule};
use tracklog_protocol::TimeMicros;

/// Few, so that small inputs reach each of them.
#[must_use]
pub const fn limits() -> ScanLimits {
    ScanLimits { event_bytes_max: 2_000, depth_max: 16, events_max: 20 }
}

/// The rules that the upper half of `choice` asks for.
#[must_use]
pub fn source(choice: u8) -> SourceRules {
    let mut source = SourceRules { limits: limits(), ..SourceRules::named("fuzz") };
    if choice & 0x10 != 0 {
        source.user_id = UserIdRule::Hmac(HmacKey::new(b"fuzz"));
        source.ip = IpRule::Truncate;
        source.keep_rejected_bytes = Some(choice & 0x20 != 0);
    }
    if choice & 0x40 != 0 {
        source.ip = IpRule::Drop;
    }
    if choice & 0x80 != 0 {
        source.require = vec![Required::Session, Required::Timestamp];
    }
    source
}

/// A browser's.
#[must_use]
pub fn request() -> RequestFacts<'static> {
    let peer = Some(IpAddr::from([203, 0, 113, 9]));
    RequestFacts {
        received: TimeMicros(1_767_322_800_000_000),
        peer,
        client: peer,
        user_agent: Some("Mozilla/5.0"),
        headers: &[("dnt", "1")],
    }
}
