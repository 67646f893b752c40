//! Signatures of webhooks, as the Standard Webhooks specification has them.
//!
//! Three headers: `webhook-id`, the same at each try; `webhook-timestamp`, in seconds; and
//! `webhook-signature`, `v1,` and the base64 of the HMAC-SHA-256 of `id.timestamp.body`. Whoever
//! receives it checks the signature, that the time is about now, and that the id is new.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;
use tracklog_protocol::TimeMicros;

/// What a secret in base64 begins with.
const ENCODED_PREFIX: &str = "whsec_";
/// Shorter ones can be guessed.
const SECRET_BYTES_MIN: usize = 16;

/// The secret that sender and receiver share.
#[derive(Clone)]
pub struct WebhookKey(Hmac<Sha256>);

/// The text is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookKeyError {
    /// What follows `whsec_` is no base64.
    #[error("a secret that begins with whsec_ goes on in base64")]
    Encoding,
    /// It is too short.
    #[error("a secret has at least {SECRET_BYTES_MIN} bytes")]
    Short,
}

/// What is signed, beside the body.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The message's id: letters, digits, `_`, `-`. The same at each try.
    pub id: &'a str,
    /// When it is sent.
    pub sent: TimeMicros,
}

impl WebhookKey {
    /// The key in `secret`: `whsec_` and base64, or any other text as it is.
    ///
    /// # Errors
    /// [`WebhookKeyError`] when it is none.
    pub fn new(secret: &str) -> Result<Self, WebhookKeyError> {
        let bytes = match secret.strip_prefix(ENCODED_PREFIX) {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| WebhookKeyError::Encoding)?,
            None => secret.as_bytes().to_vec(),
        };
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(WebhookKeyError::Short);
        }
        Ok(Self(Hmac::new_from_slice(&bytes).expect("a key may have any length")))
    }

    /// Adds the three headers of a webhook to `headers`.
    fn sign(&self, signed: Signed<'_>, body: &[u8], headers: &mut HeaderMap) {
        let seconds = signed.sent.0.div_euclid(1_000_000).to_string();
        let mut mac = self.0.clone();
        mac.update(format!("{}.{seconds}.", signed.id).as_bytes());
        mac.update(body);
        let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        for (name, value) in [
            ("webhook-id", signed.id),
            ("webhook-timestamp", &*seconds),
            ("webhook-signature", &*signature),
        ] {
            let value = HeaderValue::from_str(value).expect("an id is of letters that are seen");
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

impl Signed<'_> {
    /// Adds the headers of a webhook to `headers`: signed with `key`, or else the id alone.
    ///
    /// # Panics
    /// When the id has letters that no header can hold.
    pub fn put(self, key: Option<&WebhookKey>, body: &[u8], headers: &mut HeaderMap) {
        if let Some(key) = key {
            return key.sign(self, body, headers);
        }
        let id = HeaderValue::from_str(self.id).expect("an id is of letters that are seen");
        headers.insert(HeaderName::from_static("webhook-id"), id);
    }
}

impl fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(secret: &str, body: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        let signed = Signed { id: "msg_1", sent: TimeMicros(1_614_265_330_999_999) };
        let key = WebhookKey::new(secret).unwrap();
        signed.put(Some(&key), body, &mut headers);
        assert_eq!(headers["webhook-id"], "msg_1");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        headers["webhook-signature"].to_str().unwrap().to_owned()
    }

    /// The value is that of `openssl dgst -sha256 -hmac … -binary | base64`.
    #[test]
    fn a_signature_is_what_other_programs_make_of_the_same() {
        assert_eq!(signature("0123456789abcdef", b"{\"test\": 2432232314}"), KNOWN);
    }

    #[test]
    fn without_a_secret_there_is_the_id_alone() {
        let mut headers = HeaderMap::new();
        Signed { id: "msg_1", sent: TimeMicros(0) }.put(None, b"{}", &mut headers);
        assert_eq!(headers.len(), 1);
        assert_eq!(headers["webhook-id"], "msg_1");
    }

    #[test]
    fn a_secret_in_base64_is_the_same_secret() {
        let body = b"{}";
        assert_eq!(
            signature("whsec_MDEyMzQ1Njc4OWFiY2RlZg==", body),
            signature("0123456789abcdef", body)
        );
        assert_ne!(signature("0123456789abcdeg", body), signature("0123456789abcdef", body));
        assert_ne!(signature("0123456789abcdef", b"[]"), signature("0123456789abcdef", body));
    }

    #[test]
    fn a_secret_that_can_be_guessed_or_read_wrongly_is_refused() {
        assert_eq!(WebhookKey::new("").unwrap_err(), WebhookKeyError::Short);
        assert_eq!(WebhookKey::new("hunter2").unwrap_err(), WebhookKeyError::Short);
        assert_eq!(WebhookKey::new("whsec_MDEy").unwrap_err(), WebhookKeyError::Short);
        assert_eq!(WebhookKey::new("whsec_not base64").unwrap_err(), WebhookKeyError::Encoding);
        let shown = format!("{:?}", WebhookKey::new("0123456789abcdef").unwrap());
        assert!(!shown.contains("0123"));
    }

    const KNOWN: &str = "v1,/eq18zDSneP6GxEqBkou9aZQiMpiIJbrAyaMiIKwUGA=";
}
