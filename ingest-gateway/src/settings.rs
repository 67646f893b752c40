//! What browser SDKs ask before they send anything: Segment's settings, RudderStack's source
//! config. Without a valid answer they never start.
//!
//! Both are public, cacheable, and built anew for each request, since they name the host by which
//! the page reached us.

use std::net::IpAddr;

use http::header::{CACHE_CONTROL, HOST};
use http::{HeaderValue, Request, Response};
use percent_encoding::percent_decode_str;

use crate::answer::{Content, json, push_text};
use crate::client_ip::TrustedProxies;

/// How browsers are told to send: up to this many events, or for this long.
const BATCH: &str = "{\"strategy\":\"batching\",\"config\":{\"size\":10,\"timeout\":500}}";

/// Where a page reached us, as far as can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) host: String,
    pub(crate) encrypted: bool,
}

impl Origin {
    /// From the request, or from the configured name. Behind a trusted proxy its word on the
    /// scheme is taken.
    pub(crate) fn of<B>(
        request: &Request<B>,
        peer: IpAddr,
        encrypted: bool,
        public_host: Option<&str>,
        trusted: &TrustedProxies,
    ) -> Self {
        let named = || {
            let authority = request.uri().authority().map(|authority| authority.as_str());
            authority.or_else(|| request.headers().get(HOST)?.to_str().ok()).filter(is_host)
        };
        let host = public_host.or_else(named).unwrap_or("localhost").to_owned();
        let told = request.headers().get("x-forwarded-proto").filter(|_| trusted.contains(peer));
        let encrypted = told.map_or(encrypted, |scheme| scheme == "https");
        Self { host, encrypted }
    }
}

/// Whether `host` can be a host with or without a port; it is echoed into JSON and used by pages.
fn is_host(host: &&str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    !host.is_empty() && host.bytes().all(allowed)
}

/// The write key in a settings path.
pub(crate) fn key_of(encoded: &str) -> Vec<u8> {
    percent_decode_str(encoded).collect()
}

/// Segment's settings for the source with this key.
pub(crate) fn segment(write_key: &str, origin: &Origin) -> Response<Content> {
    let mut out = b"{\"integrations\":{\"Segment.io\":{\"apiKey\":".to_vec();
    push_text(&mut out, write_key);
    out.extend_from_slice(b",\"apiHost\":");
    push_text(&mut out, &format!("{}/v1", origin.host));
    out.extend_from_slice(b",\"protocol\":");
    push_text(&mut out, if origin.encrypted { "https" } else { "http" });
    out.extend_from_slice(b",\"deliveryStrategy\":");
    out.extend_from_slice(BATCH.as_bytes());
    // Or the SDK would report on itself to its vendor, from each page.
    out.extend_from_slice(b"}},\"metrics\":{\"sampleRate\":0}}");
    cacheable(json(out))
}

/// RudderStack's source config.
pub(crate) fn rudder(source: &str, write_key: &str) -> Response<Content> {
    let mut out = b"{\"source\":{\"id\":".to_vec();
    push_text(&mut out, source);
    out.extend_from_slice(b",\"name\":");
    push_text(&mut out, source);
    out.extend_from_slice(b",\"writeKey\":");
    push_text(&mut out, write_key);
    out.extend_from_slice(
        b",\"enabled\":true,\"workspaceId\":\"tracklog\",\"destinations\":[],\"connections\":[],\
          \"dataplanes\":{},\"config\":{\"statsCollection\":{\"errors\":{\"enabled\":false},\
          \"metrics\":{\"enabled\":false}}}},\"updatedAt\":\"2026-01-01T00:00:00.000Z\"}",
    );
    cacheable(json(out))
}

fn cacheable(mut response: Response<Content>) -> Response<Content> {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=120"));
    response
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn origin(headers: &[(&str, &str)], public: Option<&str>, trusted: bool) -> Origin {
        let mut request = Request::builder().uri("/v1/projects/k/settings");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let nets = if trusted { vec!["10.0.0.0/8".parse().unwrap()] } else { Vec::new() };
        let trusted = TrustedProxies::new(nets);
        Origin::of(&request.body(()).unwrap(), PEER, false, public, &trusted)
    }

    fn body(response: &Response<Content>) -> Value {
        match response.body() {
            Content::Whole(bytes) => serde_json::from_slice(bytes).unwrap(),
            Content::Streaming { .. } => panic!("settings are whole"),
        }
    }

    #[test]
    fn the_host_is_that_of_the_request_unless_one_is_configured() {
        let host = [("host", "events.example:8443")];
        assert_eq!(origin(&host, None, false).host, "events.example:8443");
        assert_eq!(origin(&host, Some("public.example"), false).host, "public.example");
        assert_eq!(origin(&[("host", "a\"b")], None, false).host, "localhost");
        assert_eq!(origin(&[], None, false).host, "localhost");
    }

    #[test]
    fn only_a_trusted_proxy_says_which_scheme() {
        let proto = [("x-forwarded-proto", "https")];
        assert!(origin(&proto, None, true).encrypted);
        assert!(!origin(&proto, None, false).encrypted);
    }

    #[test]
    fn segment_settings_name_key_host_and_scheme() {
        let origin = Origin { host: "e.example".to_owned(), encrypted: true };
        let settings = body(&segment("k\"1", &origin));
        let api = &settings["integrations"]["Segment.io"];
        assert_eq!(api["apiKey"], "k\"1");
        assert_eq!((&api["apiHost"], &api["protocol"]), (&json!("e.example/v1"), &json!("https")));
        assert_eq!(api["deliveryStrategy"]["strategy"], "batching");
        assert_eq!(settings["metrics"]["sampleRate"], 0, "nothing is told to others");
    }

    #[test]
    fn rudder_config_enables_the_source() {
        let config = body(&rudder("shop", "k"));
        assert_eq!(config["source"]["writeKey"], "k");
        assert_eq!(config["source"]["enabled"], true);
        assert!(config["source"]["destinations"].as_array().unwrap().is_empty());
    }
}
