//! What a gateway is told: plain values, read from no file. The server maps its TOML to these.
//!
//! Sources have their own rules in [`crate::source`]; what is here holds for all of them, or bounds
//! what they may ask for.

use std::fmt;
use std::time::Duration;

use crate::auth::AdminToken;
use crate::client_ip::TrustedProxies;
use crate::source::{IpRule, SourceRules};
use crate::tls::TlsFiles;

/// Everything that a gateway is told, addresses aside.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Who may send.
    pub sources: Vec<Source>,
    /// What registry and admin routes ask for.
    pub admin_token: AdminToken,
    /// Whose word on the client's address is taken.
    pub trusted_proxies: TrustedProxies,
    /// The host, and the port where it is not the usual one, that settings tell to SDKs; else it
    /// is what the request named.
    pub public_host: Option<String>,
    /// Certificate and key, where a listener speaks TLS.
    pub tls: Option<TlsFiles>,
    /// How often these files are looked at.
    pub tls_checked_every: Duration,
    /// Limits of connections.
    pub connections: ConnectionLimits,
    /// Limits of requests.
    pub requests: RequestLimits,
    /// The program's version, for the page at `/`.
    pub version: &'static str,
}

impl GatewayConfig {
    /// The defaults around what has none.
    #[must_use]
    pub fn new(sources: Vec<Source>, admin_token: AdminToken) -> Self {
        Self {
            sources,
            admin_token,
            trusted_proxies: TrustedProxies::default(),
            public_host: None,
            tls: None,
            tls_checked_every: Duration::from_secs(10),
            connections: ConnectionLimits::DEFAULT,
            requests: RequestLimits::DEFAULT,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// Who may send, by which key, under which rules.
#[derive(Clone)]
pub struct Source {
    /// The key that its SDKs hold. Any text but the empty one.
    pub write_key: String,
    /// Its name and what holds for its events.
    pub rules: SourceRules,
    /// Origins of pages that may send; none: all. A request without an origin is no page's.
    pub origins: Vec<String>,
    /// Bytes of a body as sent.
    pub body_bytes_max: usize,
    /// Bytes of a body when decompressed.
    pub decoded_bytes_max: usize,
    /// Headers that are kept with each event.
    pub headers: Vec<String>,
    /// Headers that are kept where a trusted proxy sent them: anybody else could make them up.
    pub proxy_headers: Vec<String>,
}

/// Headers that are kept unless a source says otherwise: what tells a device from others, and what
/// its user wants of trackers.
const HEADERS: [&str; 9] = [
    "accept-language",
    "sec-ch-ua",
    "sec-ch-ua-mobile",
    "sec-ch-ua-platform",
    "sec-ch-ua-platform-version",
    "sec-ch-ua-model",
    "sec-ch-ua-full-version-list",
    "dnt",
    "sec-gpc",
];

/// Where proxies and content networks say in which region a client is, and in whose network.
const PROXY_HEADERS: [&str; 22] = [
    "cf-ipcountry",
    "cf-region-code",
    "cf-region",
    "cf-ipcity",
    "cf-timezone",
    "cloudfront-viewer-country",
    "cloudfront-viewer-country-region",
    "cloudfront-viewer-city",
    "cloudfront-viewer-time-zone",
    "cloudfront-viewer-asn",
    "x-appengine-country",
    "x-appengine-region",
    "x-appengine-city",
    "x-vercel-ip-country",
    "x-vercel-ip-country-region",
    "x-vercel-ip-city",
    "x-vercel-ip-timezone",
    "x-vercel-ip-as-number",
    "x-geo-country",
    "x-geo-region",
    "x-geo-city",
    "x-geo-time-zone",
];

/// Where they say it closer: not kept where the address is not kept either.
const CLOSE_PROXY_HEADERS: [&str; 13] = [
    "cf-postal-code",
    "cf-iplatitude",
    "cf-iplongitude",
    "cloudfront-viewer-postal-code",
    "cloudfront-viewer-latitude",
    "cloudfront-viewer-longitude",
    "x-appengine-citylatlong",
    "x-vercel-ip-postal-code",
    "x-vercel-ip-latitude",
    "x-vercel-ip-longitude",
    "x-geo-postal-code",
    "x-geo-latitude",
    "x-geo-longitude",
];

impl Source {
    /// Bytes of a body as sent, unless a source says otherwise.
    pub const BODY_BYTES_MAX: usize = 4 << 20;
    /// Bytes of a body when decompressed, unless a source says otherwise.
    pub const DECODED_BYTES_MAX: usize = 16 << 20;

    /// A source with the usual limits.
    #[must_use]
    pub fn new(write_key: impl Into<String>, rules: SourceRules) -> Self {
        let is_close_kept = rules.ip == IpRule::Keep;
        let close = CLOSE_PROXY_HEADERS.iter().filter(|_| is_close_kept);
        let proxy_headers = PROXY_HEADERS.iter().chain(close).map(|name| (*name).to_owned());
        Self {
            write_key: write_key.into(),
            proxy_headers: proxy_headers.collect(),
            rules,
            origins: Vec::new(),
            body_bytes_max: Self::BODY_BYTES_MAX,
            decoded_bytes_max: Self::DECODED_BYTES_MAX,
            headers: HEADERS.map(str::to_owned).to_vec(),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// How many connections there may be, and how long each may take for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open connections of all listeners.
    pub connections_max: usize,
    /// Those of one IPv4 address, or of one IPv6 /64; trusted proxies are exempt. Above it and up to
    /// twice as many, connections are answered health checks alone: all else is 429, and the end of
    /// the connection. Further ones are closed as they come.
    pub address_connections_max: usize,
    /// For the TLS handshake, and for the head of a request.
    pub head_timeout: Duration,
    /// Between two requests.
    pub idle_timeout: Duration,
    /// For the client to take something of what we write.
    pub write_timeout: Duration,
}

impl ConnectionLimits {
    /// The usual limits.
    pub const DEFAULT: Self = Self {
        connections_max: 10_000,
        address_connections_max: 200,
        head_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        write_timeout: Duration::from_secs(30),
    };
}

/// What one request may hold, and how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Bytes of a body to registry and admin routes.
    pub admin_body_bytes_max: usize,
    /// Bytes of all header lines.
    pub header_bytes_max: usize,
    /// Bytes of the request's target.
    pub target_bytes_max: usize,
    /// For the whole body to arrive.
    pub body_timeout: Duration,
    /// After this time a body must have come at [`body_rate_min`](Self::body_rate_min).
    pub body_grace: Duration,
    /// Bytes a second.
    pub body_rate_min: u32,
    /// From the end of the body to the answer.
    pub answer_timeout: Duration,
    /// Bytes of one append; a larger request is cut into several.
    pub append_bytes_max: usize,
}

impl RequestLimits {
    /// The usual limits.
    pub const DEFAULT: Self = Self {
        admin_body_bytes_max: 1 << 20,
        header_bytes_max: 16 << 10,
        target_bytes_max: 8 << 10,
        body_timeout: Duration::from_secs(60),
        body_grace: Duration::from_secs(10),
        body_rate_min: 1 << 10,
        answer_timeout: Duration::from_secs(4),
        append_bytes_max: 1 << 20,
    };
}
