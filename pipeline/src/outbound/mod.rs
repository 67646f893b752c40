//! Calls out over HTTP: what destinations and thresholds ask for, and what they are told.
//!
//! Promises of every implementation
//! - A call ends within its timeout, whatever the other side does.
//! - No redirect is followed: what is sent goes where the operator said, or nowhere.
//! - At most [`ANSWER_BYTES_MAX`] of an answer are read.
//!
//! [`Outbound`] is the trait; the pipeline opens no socket, and who wires it brings the client.
//! [`Target`] is where a call goes, [`PostError`] says what came of one that failed and whether it
//! helps to try again, and [`WebhookKey`] signs what is sent.

mod signature;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Uri};
pub use signature::{Signed, WebhookKey, WebhookKeyError};
use tracklog_log::Pending;

/// What is read of an answer.
pub const ANSWER_BYTES_MAX: usize = 16 << 10;
/// What is kept of an answer's text for people.
const EXCERPT_CHARS_MAX: usize = 256;

/// Whoever can send requests.
pub trait Outbound: Send + Sync + 'static {
    /// Sends a request and hears the answer. Dropping the future gives up waiting; what was sent
    /// was sent.
    ///
    /// # Errors
    /// [`PostError`], also for every answer that is no success.
    fn post(&self, post: Post) -> Pending<'_, Result<Accepted, PostError>>;
}

/// A request to be sent by POST.
#[derive(Clone, Debug)]
pub struct Post {
    /// Where to.
    pub target: Target,
    /// What goes into its head, beside `Host` and the length.
    pub headers: HeaderMap,
    /// What is sent.
    pub body: Bytes,
    /// How long all of it may take.
    pub timeout: Duration,
}

/// An answer of success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its status: 200 to 299.
    pub status: u16,
}

/// A call that was not answered with success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PostError {
    /// The other side answered otherwise.
    #[error("it answered {status}{}", said(excerpt))]
    Status {
        /// Its status.
        status: u16,
        /// How long to wait before the next try, where it says so.
        retry_after: Option<Duration>,
        /// How its answer begins.
        excerpt: String,
    },
    /// Nobody answers there, or not as whom the certificate names. Nothing was sent.
    #[error("it cannot be reached: {why}")]
    Unreachable {
        /// What failed.
        why: String,
    },
    /// The connection broke. It may have taken what was sent.
    #[error("the connection broke: {why}")]
    Broken {
        /// What failed.
        why: String,
    },
    /// There was no answer in time. It may have taken what was sent.
    #[error("no answer within {after:?}")]
    TimedOut {
        /// How long it had.
        after: Duration,
    },
}

impl PostError {
    /// An answer that is no success, with how its body begins.
    #[must_use]
    pub fn status(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Self {
        Self::Status { status, retry_after, excerpt: excerpt(body) }
    }

    /// Whether the same call may succeed later. What the other side does not want, it will not want
    /// then either; what it can't do now, it may do then.
    #[must_use]
    pub const fn retry_helps(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::Unreachable { .. } | Self::Broken { .. } | Self::TimedOut { .. } => true,
        }
    }

    /// How long the other side asks to be left alone.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The first line of an answer's text, cut.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().take(EXCERPT_CHARS_MAX).collect()
}

fn said(excerpt: &str) -> String {
    if excerpt.is_empty() { String::new() } else { format!(": {excerpt}") }
}

/// Where a call goes: a URL with `http` or `https` and a host.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target(Uri);

/// The text is no URL that can be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// It does not read as one.
    #[error("{text:?} is no URL like https://example.com/hook")]
    NoUrl {
        /// The text.
        text: String,
    },
    /// It holds a name or password. It is not repeated here: errors go to logs.
    #[error("a URL with a name or password in it is not called: put them into a header")]
    Credentials,
}

impl Target {
    /// It as the parts of a request.
    #[must_use]
    pub const fn uri(&self) -> &Uri {
        &self.0
    }

    /// Scheme, host and port: what may be shown where the path may hold a secret.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self.0.authority().map(|it| it.as_str()).unwrap_or_default();
        format!("{scheme}://{authority}")
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let no_url = || TargetError::NoUrl { text: text.to_owned() };
        if text.split(['/', '?', '#']).nth(2).is_some_and(|authority| authority.contains('@')) {
            return Err(TargetError::Credentials);
        }
        let uri: Uri = text.parse().map_err(|_| no_url())?;
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        if is_known && has_host { Ok(Self(uri)) } else { Err(no_url()) }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Without its path and query: they may hold a secret.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(&self.origin()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_with_scheme_and_host_can_be_called_and_nothing_else() {
        for text in ["http://127.0.0.1:9000", "https://hooks.example/a/b?c=d", "http://[::1]/x"] {
            assert_eq!(text.parse::<Target>().unwrap().origin().split('/').count(), 3, "{text}");
        }
        for text in ["", "/path", "example.com", "ftp://example.com", "https://", "http:///x"] {
            let no_url = TargetError::NoUrl { text: text.to_owned() };
            assert_eq!(text.parse::<Target>(), Err(no_url), "{text}");
        }
    }

    #[test]
    fn secrets_in_a_url_are_told_to_nobody() {
        let error = "https://me:hunter2@example.com/x".parse::<Target>().unwrap_err();
        assert_eq!(error, TargetError::Credentials);
        assert!(!error.to_string().contains("hunter2"));
        let target: Target = "https://hooks.example/services/T0/hunter2".parse().unwrap();
        assert!(!format!("{target:?}").contains("hunter2"));
        assert_eq!("https://example.com/@x".parse::<Target>().unwrap().uri().path(), "/@x");
    }

    #[test]
    fn what_the_other_side_does_not_want_is_not_sent_again() {
        let status = |status| PostError::status(status, None, b"");
        for later in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(status(later).retry_helps(), "{later}");
        }
        for never in [301, 307, 400, 401, 403, 404, 410, 413, 422] {
            assert!(!status(never).retry_helps(), "{never}");
        }
    }

    #[test]
    fn the_first_line_of_an_answer_is_told() {
        let told = |body: &[u8]| PostError::status(400, None, body).to_string();
        assert_eq!(told(b""), "it answered 400");
        assert_eq!(told(b"\n  no such hook \nmore"), "it answered 400: no such hook");
        assert!(told(&[b'x'; 9_999]).chars().count() < 300);
    }
}
