//! What browsers must read on our answers before a page may see them.
//!
//! Promises
//! - Every answer of an event path, errors included, names the asking origin; a pre-flight is
//!   answered without a key.
//! - The headers that a page asks to send are echoed, whatever they are called: SDKs add their own
//!   on retries. What is no list of header names is left out.
//!
//! Which origins a source takes events from is not decided here: a refused page must be able to
//! read why. Never applied to registry and admin routes.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue};

/// Adds what an answer to `request` needs, where the request names an origin.
pub(crate) fn allow(origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
    answer.insert(VARY, HeaderValue::from_static("Origin"));
    let Some(origin) = origin else { return };
    answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Retry-After"));
}

/// Adds what a pre-flight's answer needs besides [`allow`].
pub(crate) fn allow_preflight(request: &HeaderMap, answer: &mut HeaderMap) {
    answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, OPTIONS"));
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
    let vary = "Origin, Access-Control-Request-Headers";
    answer.insert(VARY, HeaderValue::from_static(vary));
    if let Some(asked) = request.get(ACCESS_CONTROL_REQUEST_HEADERS)
        && is_list_of_names(asked.as_bytes())
    {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
}

/// The origin that a request names.
pub(crate) fn origin(request: &HeaderMap) -> Option<&HeaderValue> {
    request.get(ORIGIN)
}

/// Whether `list` holds tokens (RFC 9110 §5.6.2), commas and blanks alone.
fn is_list_of_names(list: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    list.iter().all(|byte| token(byte) || matches!(byte, b',' | b' ' | b'\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asked_headers_are_echoed_only_as_tokens() {
        let answer = |asked: &'static str| {
            let mut request = HeaderMap::new();
            request.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static(asked));
            let mut answer = HeaderMap::new();
            allow_preflight(&request, &mut answer);
            answer.get(ACCESS_CONTROL_ALLOW_HEADERS).cloned()
        };
        let retry = "content-type,authorization, x-retry-count";
        assert_eq!(answer(retry).unwrap(), retry);
        assert_eq!(answer("x-a; y=<script>"), None);
    }

    #[test]
    fn an_answer_without_origin_only_varies() {
        let mut answer = HeaderMap::new();
        allow(None, &mut answer);
        assert_eq!(answer.len(), 1);
        assert_eq!(answer[VARY], "Origin");
    }
}
