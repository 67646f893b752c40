//! What the gateway would make of events, without taking them: the judgement of a delivery to
//! `/v1/events`, by the same code, and nothing is stored.

use std::net::IpAddr;

use http::HeaderMap;
use tracklog_protocol::TimeMicros;

use crate::client_ip::TrustedProxies;
use crate::config::Source;
use crate::delivery::{Head, judge};
pub use crate::intake::Judged;
use crate::intake::{Door, Intake, Validate};
use crate::scan::Unreadable;
use crate::sources::{KeptHeaders, SourceError};

/// A request as it might come.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// The body: an array of events, or one a line.
    pub body: &'a [u8],
    /// The header fields.
    pub headers: &'a HeaderMap,
    /// Who would hold the other end of the connection.
    pub peer: Option<IpAddr>,
    /// When it would come.
    pub received: TimeMicros,
}

/// Why there is no judgement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrialError {
    /// The body as a whole would be refused.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// No gateway starts with this source.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl Trial<'_> {
    /// What would become of each event, sent with the key of `source`.
    ///
    /// # Errors
    /// [`TrialError`].
    pub fn judge(
        &self,
        source: &Source,
        proxies: &TrustedProxies,
        schemas: &dyn Validate,
    ) -> Result<Judged, TrialError> {
        let headers = KeptHeaders::of(source)?;
        let mut intake = Intake::new();
        let submission = intake.scan(self.body, Door::Events, &source.rules.limits)?;
        let head = Head { fields: self.headers, peer: self.peer, received: self.received };
        Ok(judge(submission, &source.rules, &headers, &head, proxies, schemas)?)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tracklog_protocol::event::EventView;

    use super::*;
    use crate::intake::NoSchemas;
    use crate::source::SourceRules;

    #[test]
    fn headers_of_a_proxy_count_where_the_peer_is_one() {
        let source = Source::new("key", SourceRules::named("shop"));
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-forwarded-for", "81.2.69.160"),
            ("cf-ipcountry", "GB"),
            ("dnt", "1"),
            ("cookie", "secret"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let body = br#"{"type":"track","event":"Bought","userId":"u"}"#;
        for (peer, client, kept) in [
            ("10.0.0.9", "81.2.69.160", &["dnt", "cf-ipcountry"][..]),
            ("9.9.9.9", "9.9.9.9", &["dnt"]),
        ] {
            let received = TimeMicros(5);
            let peer = Some(peer.parse().unwrap());
            let trial = Trial { body, headers: &headers, peer, received };
            let judged = trial.judge(&source, &proxies, &NoSchemas).unwrap();
            let event = EventView::of(judged.get(0).unwrap().record).unwrap();
            assert_eq!(event.client_address(), Some(client));
            let names: Vec<_> = event.headers().map(|(name, _)| name).collect();
            assert_eq!((names, event.received_time()), (kept.to_vec(), received));
        }
    }

    #[test]
    fn the_client_is_whom_the_nearest_trusted_proxy_names() {
        let source = Source::new("key", SourceRules::named("shop"));
        let proxies = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let body = br#"{"type":"page","userId":"u"}"#;
        for (forwarded, client) in [
            ("203.0.113.9:51234", "203.0.113.9"),
            ("2001:db8:175:ab60:45ee:c12c:dac1:808b", "2001:db8:175:ab60:45ee:c12c:dac1:808b"),
            ("8.8.8.8, 198.51.100.20", "198.51.100.20"),
            ("::ffff:81.2.69.160", "81.2.69.160"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", HeaderValue::from_static(forwarded));
            let peer = Some("10.0.0.9".parse().unwrap());
            let trial = Trial { body, headers: &headers, peer, received: TimeMicros(5) };
            let judged = trial.judge(&source, &proxies, &NoSchemas).unwrap();
            let event = EventView::of(judged.get(0).unwrap().record).unwrap();
            assert_eq!(event.client_address(), Some(client), "{forwarded}");
        }
    }

    #[test]
    fn what_would_be_rejected_and_what_is_no_body_is_told() {
        let source = Source::new("key", SourceRules::named("shop"));
        let headers = HeaderMap::new();
        let judge = |body| {
            let trial = Trial { body, headers: &headers, peer: None, received: TimeMicros(5) };
            trial.judge(&source, &TrustedProxies::default(), &NoSchemas)
        };
        let judged = judge(br#"{"type":"track","userId":"u"}"#).unwrap();
        assert_eq!(judged.get(0).unwrap().rejected().unwrap().code(), "missing_name");
        assert!(matches!(judge(b"[{}"), Err(TrialError::Unreadable(_))));
    }
}
