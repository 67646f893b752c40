//! Who may do what: write keys for events, the admin token for the rest.
//!
//! Promises
//! - A write key is looked for in one order: Basic, the body's root, its events, the query. A
//!   bearer token is never a write key.
//! - The admin token is compared in constant time, and shown by no `Debug`.
//!
//! Write keys are public (they lie in web pages): they name a source, they guard nothing.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use subtle::ConstantTimeEq as _;

/// The token that registry and admin routes ask for.
#[derive(Clone)]
pub struct AdminToken(Box<str>);

impl AdminToken {
    /// `token` as it stands in its file, blanks around it aside. `None` when that leaves nothing:
    /// an empty token would let everybody in.
    #[must_use]
    pub fn new(token: &str) -> Option<Self> {
        let token = token.trim();
        (!token.is_empty()).then(|| Self(token.into()))
    }

    /// Whether a request brings it.
    pub(crate) fn admits(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(AUTHORIZATION).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return false };
        let token = of_scheme(line.as_bytes(), "bearer");
        token.is_some_and(|token| bool::from(token.ct_eq(self.0.as_bytes())))
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(..)")
    }
}

/// What a request says in its `Authorization`, as far as events care.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Basic {
    /// Nothing, or another scheme: the key may be elsewhere.
    Absent,
    /// The user name.
    Key(Vec<u8>),
    /// No base64 of `key:`.
    Unreadable,
}

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The write key in the headers.
pub(crate) fn basic_key(headers: &HeaderMap) -> Basic {
    let Some(line) = headers.get(AUTHORIZATION) else { return Basic::Absent };
    let Some(text) = of_scheme(line.as_bytes(), "basic") else { return Basic::Absent };
    let Ok(mut key) = BASE64.decode(text) else { return Basic::Unreadable };
    // A key may hold a colon itself; the password is always empty, so the last one divides.
    match key.iter().rposition(|byte| *byte == b':') {
        Some(0) => Basic::Absent,
        Some(colon) => {
            key.truncate(colon);
            Basic::Key(key)
        }
        None if key.is_empty() => Basic::Absent,
        None => Basic::Key(key),
    }
}

/// The write key in the query.
pub(crate) fn query_key(query: Option<&str>) -> Option<Cow<'_, str>> {
    parameter(query?, "writeKey").filter(|key| !key.is_empty())
}

/// The first value of a query's parameter, decoded.
pub(crate) fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    parameters(query).find(|(key, _)| key == name).map(|(_, value)| value)
}

/// All parameters of a query, decoded; what is no UTF-8 after decoding is left out.
pub(crate) fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decoded(name)?, decoded(value)?))
    })
}

fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Some(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    let bytes: Vec<u8> = percent_encoding::percent_decode_str(&spaced).collect();
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// What follows the scheme in an `Authorization`, when it is this one.
fn of_scheme<'a>(line: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (name, rest) = line.split_at_checked(scheme.len())?;
    let follows = name.eq_ignore_ascii_case(scheme.as_bytes()) && rest.starts_with(b" ");
    follows.then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn with(authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(authorization).unwrap());
        headers
    }

    #[test]
    fn basic_gives_the_user_name_as_key() {
        let key = |text: &str| Basic::Key(text.as_bytes().to_vec());
        assert_eq!(basic_key(&with("Basic a2V5Og==")), key("key"));
        assert_eq!(basic_key(&with("basic a2V5Og")), key("key"));
        assert_eq!(basic_key(&with("Basic a2V5")), key("key"));
        assert_eq!(basic_key(&with("Basic YTpiOg==")), key("a:b"));
        assert_eq!(basic_key(&with("Basic Og==")), Basic::Absent);
        assert_eq!(basic_key(&with("Basic ???")), Basic::Unreadable);
        assert_eq!(basic_key(&with("Bearer a2V5Og==")), Basic::Absent);
        assert_eq!(basic_key(&HeaderMap::new()), Basic::Absent);
    }

    #[test]
    fn only_the_whole_token_as_bearer_admits() {
        let token = AdminToken::new(" secret\n").unwrap();
        assert!(token.admits(&with("Bearer secret")));
        assert!(token.admits(&with("bearer  secret ")));
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer", "Basic secret", "secret"] {
            assert!(!token.admits(&with(wrong)), "{wrong}");
        }
        assert!(AdminToken::new(" \n").is_none());
        assert!(!format!("{token:?}").contains("secret"));
    }

    #[test]
    fn parameters_are_decoded_and_broken_ones_left_out() {
        let of = |query| parameters(query).collect::<Vec<_>>();
        let pair = |a: &str, b: &str| (a.to_owned().into(), b.to_owned().into());
        assert_eq!(of("a=1&&b=x+y%20z&c"), [pair("a", "1"), pair("b", "x y z"), pair("c", "")]);
        assert_eq!(of("a=%ff&b=%zz"), [pair("b", "%zz")]);
        assert_eq!(query_key(Some("x=1&writeKey=k%3A1")).unwrap(), "k:1");
        assert_eq!(query_key(Some("writeKey=")), None);
    }
}
