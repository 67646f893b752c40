//! Answers: JSON bodies with a stable code, and the words for each way of saying no.
//!
//! Promises
//! - A refusal is a JSON object with string `code` and `message`: with both, no client repeats what
//!   it should not.
//! - 429 and 503 say when to come back, in whole seconds, at least one.
//! - Nothing of a request's bytes is echoed but names of fields.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;

use crate::rejection::{Code, Rejection};

/// What goes wrong while a streaming answer is made; ends the connection.
pub type ContentError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer.
#[derive(Debug)]
pub enum Content {
    /// All of it.
    Whole(Bytes),
    /// It comes as it is made.
    Streaming {
        /// Where from.
        body: UnsyncBoxBody<Bytes, ContentError>,
        /// Whether it goes on until the client leaves; a drain does not wait for such.
        endless: bool,
    },
}

impl Default for Content {
    fn default() -> Self {
        Self::Whole(Bytes::new())
    }
}

impl<T: Into<Bytes>> From<T> for Content {
    fn from(whole: T) -> Self {
        Self::Whole(whole.into())
    }
}

/// The status line and head of an answer that is not an error.
pub(crate) fn answer(content_type: &'static str, content: impl Into<Bytes>) -> Response<Content> {
    let mut response = Response::new(Content::Whole(content.into()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// 200 with a JSON body.
pub(crate) fn json(body: impl Into<Bytes>) -> Response<Content> {
    answer("application/json", body)
}

/// 204.
pub(crate) fn no_content() -> Response<Content> {
    let mut response = Response::new(Content::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Why a request is not done as asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: Rejection,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(
        status: StatusCode,
        code: Code,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::of(status, Rejection::new(code, message))
    }

    pub(crate) const fn of(status: StatusCode, reason: Rejection) -> Self {
        Self { status, reason, retry_after: None, allow: None }
    }

    /// 400.
    pub(crate) const fn bad(reason: Rejection) -> Self {
        Self::of(StatusCode::BAD_REQUEST, reason)
    }

    /// 401: no such write key.
    pub(crate) fn unknown_key() -> Self {
        let message = "the write key is missing or unknown";
        Self::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, message)
    }

    /// 401: no admin token.
    pub(crate) fn no_token() -> Self {
        let message = "this needs `Authorization: Bearer` with the admin token";
        Self::new(StatusCode::UNAUTHORIZED, Code::Unauthorized, message)
    }

    /// 404.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, "there is nothing at this path")
    }

    /// 405.
    pub(crate) fn method(allow: &'static str) -> Self {
        let message = format!("this path takes {allow}");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self { allow: Some(allow), ..Self::new(status, Code::MethodNotAllowed, message) }
    }

    /// 413.
    pub(crate) fn too_large(bytes_max: usize) -> Self {
        let message = format!("the body is larger than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge, message)
    }

    /// 429: there is too much at once.
    pub(crate) fn overloaded(message: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        let refusal = Self::new(StatusCode::TOO_MANY_REQUESTS, Code::Overloaded, message);
        Self { retry_after: Some(retry_after), ..refusal }
    }

    /// 503: not now, or the outcome is not known.
    pub(crate) fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        let refusal = Self::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, message);
        Self { retry_after: Some(Duration::from_secs(1)), ..refusal }
    }

    /// The refusal as an answer.
    pub(crate) fn into_answer(self) -> Response<Content> {
        let mut body = Vec::with_capacity(160);
        body.extend_from_slice(b"{\"success\":false,");
        let Rejection { code, message, pointer } = &self.reason;
        push_words(&mut body, code.as_str(), message, pointer.as_deref());
        body.push(b'}');
        let mut response = json(body);
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_millis().div_ceil(1_000).max(1);
            let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// `"code":…,"message":…` and `,"pointer":…` where there is one.
pub(crate) fn push_words(out: &mut Vec<u8>, code: &str, message: &str, pointer: Option<&str>) {
    out.extend_from_slice(b"\"code\":");
    push_text(out, code);
    out.extend_from_slice(b",\"message\":");
    push_text(out, message);
    if let Some(pointer) = pointer {
        out.extend_from_slice(b",\"pointer\":");
        push_text(out, pointer);
    }
}

/// `text` as a JSON string.
pub(crate) fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1F)) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// `number` in decimal.
pub(crate) fn push_number(out: &mut Vec<u8>, number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).expect("a digit is below 10");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_of(content: &Content) -> &[u8] {
        match content {
            Content::Whole(bytes) => bytes,
            Content::Streaming { .. } => panic!("refusals are whole"),
        }
    }

    #[test]
    fn a_refusal_is_json_with_code_message_and_pointer() {
        let reason = Rejection::at(Code::Schema, "/properties/a\"b", "line\nbreak");
        let answer = Refusal::bad(reason).into_answer();
        assert_eq!(answer.status(), 400);
        let body: serde_json::Value = serde_json::from_slice(text_of(answer.body())).unwrap();
        let expected = serde_json::json!({
            "success": false, "code": "schema", "message": "line\nbreak",
            "pointer": "/properties/a\"b",
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn retry_after_is_whole_seconds_and_at_least_one() {
        for (wait, seconds) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2")] {
            let refusal = Refusal::overloaded("busy", Duration::from_millis(wait));
            assert_eq!(refusal.into_answer().headers()[RETRY_AFTER], seconds);
        }
        assert_eq!(Refusal::unavailable("no").into_answer().headers()[RETRY_AFTER], "1");
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in any::<String>()) {
            let mut out = Vec::new();
            push_text(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn any_number_reads_back(number in any::<u64>()) {
            let mut out = Vec::new();
            push_number(&mut out, number);
            prop_assert_eq!(out, number.to_string().into_bytes());
        }
    }
}
