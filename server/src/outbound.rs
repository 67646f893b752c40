//! The one client with which a node calls out over HTTP.
//!
//! HTTP/1.1, plain or TLS, with connections that are used again; proxies of the environment are not
//! asked. Its connections are driven by the runtime of whoever calls.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use http::header::{RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout_at};
use tracklog_log::Pending;
use tracklog_pipeline::outbound::{ANSWER_BYTES_MAX, Accepted, Outbound, Post, PostError};
use tracklog_protocol::TimeMicros;

use crate::{clock, trust};

/// Connections to one host that are kept for the next call.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// How long they are kept. Shorter than what servers and balancers usually wait.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// The head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("tracklog/", env!("CARGO_PKG_VERSION")));

/// The client. Clones share its connections.
#[derive(Clone, Debug)]
pub struct HttpOutbound {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HttpOutbound {
    /// A client that trusts whom the system trusts; where that is nobody it speaks plain HTTP alone,
    /// and says so.
    #[must_use]
    pub fn new() -> Self {
        let roots = trust::of_the_system().unwrap_or_else(|error| {
            tracing::warn!(%error, "https cannot be called");
            RootCertStore::empty()
        });
        Self::trusting(roots)
    }

    /// A client that trusts these.
    ///
    /// # Panics
    /// Never: the provider of TLS knows the usual versions.
    #[must_use]
    pub fn trusting(roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has what TLS 1.2 and 1.3 need")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(connector);
        Self { client }
    }

    async fn send(
        &self,
        request: Request<Full<Bytes>>,
        after: Duration,
    ) -> Result<Accepted, PostError> {
        let deadline = Instant::now() + after;
        let asked = timeout_at(deadline, self.client.request(request)).await;
        let asked = asked.map_err(|_| PostError::TimedOut { after })?;
        let mut response = asked.map_err(|error| failed(&error))?;
        let status = response.status();
        let retry_after = retry_after(response.headers(), clock::now());
        // That it stalls or breaks off changes nothing: the status was heard.
        let body = timeout_at(deadline, begin_of(response.body_mut())).await.unwrap_or_default();
        if status.is_success() {
            return Ok(Accepted { status: status.as_u16() });
        }
        Err(PostError::status(status.as_u16(), retry_after, &body))
    }
}

impl Default for HttpOutbound {
    fn default() -> Self {
        Self::new()
    }
}

impl Outbound for HttpOutbound {
    fn post(&self, post: Post) -> Pending<'_, Result<Accepted, PostError>> {
        let Post { target, headers, body, timeout: after } = post;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = target.uri().clone();
        *request.headers_mut() = headers;
        request.headers_mut().entry(USER_AGENT).or_insert(AGENT);
        Box::pin(self.send(request, after))
    }
}

/// An answer's body: all of it, so that its connection can be used again, or its begin.
async fn begin_of(body: &mut Incoming) -> Bytes {
    let mut read = BytesMut::new();
    while read.len() < ANSWER_BYTES_MAX {
        let Some(Ok(frame)) = body.frame().await else { break };
        if let Ok(data) = frame.into_data() {
            read.extend_from_slice(&data[..data.len().min(ANSWER_BYTES_MAX - read.len())]);
        }
    }
    read.freeze()
}

/// What `Retry-After` says: seconds, or a date.
fn retry_after(headers: &HeaderMap, now: TimeMicros) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    let now = Duration::from_micros(u64::try_from(now.0).unwrap_or_default());
    Some(then.saturating_sub(now))
}

fn failed(error: &legacy::Error) -> PostError {
    let why = innermost(error);
    match error.is_connect() {
        true => PostError::Unreachable { why },
        false => PostError::Broken { why },
    }
}

/// The words of what is behind an error, which tell more than its own.
fn innermost(error: &dyn Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";

    /// A server that gives the same answer to each request, and tells what it was sent.
    struct Peer {
        port: u16,
        connections: Arc<AtomicUsize>,
        requests: mpsc::UnboundedReceiver<String>,
    }

    impl Peer {
        async fn answering(answer: &'static str) -> Self {
            Self::over(None, answer).await
        }

        async fn over(tls: Option<TlsAcceptor>, answer: &'static str) -> Self {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let (told, requests) = mpsc::unbounded_channel();
            let connections = Arc::new(AtomicUsize::new(0));
            let counted = Arc::clone(&connections);
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    counted.fetch_add(1, Ordering::Relaxed);
                    let (tls, told) = (tls.clone(), told.clone());
                    tokio::spawn(async move {
                        match tls {
                            None => serve(stream, answer, &told).await,
                            Some(tls) => match tls.accept(stream).await {
                                Ok(stream) => serve(stream, answer, &told).await,
                                Err(_) => None,
                            },
                        }
                    });
                }
            });
            Self { port, connections, requests }
        }

        fn post(&self, scheme: &str, path: &str) -> Post {
            let target = format!("{scheme}://127.0.0.1:{}{path}", self.port).parse().unwrap();
            let mut headers = HeaderMap::new();
            headers.insert("x-key", HeaderValue::from_static("secret"));
            let body = Bytes::from_static(b"{\"n\":1}");
            Post { target, headers, body, timeout: Duration::from_secs(20) }
        }
    }

    /// `None` when the other side has gone.
    async fn serve(
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        answer: &str,
        told: &mpsc::UnboundedSender<String>,
    ) -> Option<()> {
        let mut begun = Vec::new();
        loop {
            let read = stream.read_buf(&mut begun).await.ok()?;
            let text = String::from_utf8(begun.clone()).unwrap();
            if text.ends_with("\r\n\r\n{\"n\":1}") {
                told.send(text).ok()?;
                begun.clear();
                stream.write_all(answer.as_bytes()).await.ok()?;
                stream.flush().await.ok()?;
            } else if read == 0 {
                return None;
            }
        }
    }

    fn plain() -> HttpOutbound {
        HttpOutbound::trusting(RootCertStore::empty())
    }

    #[tokio::test]
    async fn head_and_body_arrive_and_the_connection_is_used_again() {
        let mut peer = Peer::answering(OK).await;
        let outbound = plain();
        for _ in 0..3 {
            let accepted = outbound.post(peer.post("http", "/hook?a=b")).await;
            assert_eq!(accepted, Ok(Accepted { status: 204 }));
            let request = peer.requests.recv().await.unwrap();
            assert!(request.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{request}");
            let host = format!("host: 127.0.0.1:{}", peer.port);
            for line in ["x-key: secret", "content-length: 7", "user-agent: tracklog/", &host] {
                assert!(request.contains(line), "{line}: {request}");
            }
        }
        assert_eq!(peer.connections.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_not_followed() {
        let mut peer = Peer::answering(
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: /other\r\ncontent-length: 4\r\n\r\ngone",
        )
        .await;
        let refused = plain().post(peer.post("http", "/hook")).await.unwrap_err();
        assert_eq!(refused, PostError::status(307, None, b"gone"));
        peer.requests.recv().await.unwrap();
        assert!(peer.requests.try_recv().is_err(), "nothing else was sent");
    }

    #[tokio::test]
    async fn how_long_to_wait_is_told() {
        let peer = Peer::answering(
            "HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: 6\r\n\r\nlater\n",
        )
        .await;
        let refused = plain().post(peer.post("http", "/hook")).await.unwrap_err();
        assert_eq!(refused.retry_after(), Some(Duration::from_secs(7)));
        assert!(refused.retry_helps());
        assert_eq!(refused.to_string(), "it answered 503: later");
    }

    #[test]
    fn dates_are_times_from_now_on() {
        let mut headers = HeaderMap::new();
        let mut read = |text: &'static str| {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(text));
            retry_after(&headers, TimeMicros(784_111_770_000_000))
        };
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
        assert_eq!(read("-1"), None);
    }

    #[tokio::test]
    async fn an_answer_without_end_is_read_to_its_bound() {
        let endless: &'static str = Box::leak(
            format!("HTTP/1.1 400 No\r\ncontent-length: 9999999\r\n\r\n{}", "x".repeat(64 << 10))
                .into_boxed_str(),
        );
        let peer = Peer::answering(endless).await;
        let refused = plain().post(peer.post("http", "/hook")).await.unwrap_err();
        assert!(matches!(refused, PostError::Status { status: 400, .. }), "{refused:?}");
    }

    #[tokio::test]
    async fn silence_ends_with_the_timeout() {
        let peer = Peer::answering("").await;
        let post = Post { timeout: Duration::from_millis(50), ..peer.post("http", "/hook") };
        let refused = plain().post(post).await.unwrap_err();
        assert_eq!(refused, PostError::TimedOut { after: Duration::from_millis(50) });
    }

    #[tokio::test]
    async fn a_body_that_never_ends_takes_nothing_back() {
        let peer = Peer::answering("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await;
        let brief =
            |peer: &Peer| Post { timeout: Duration::from_secs(1), ..peer.post("http", "/hook") };
        assert_eq!(plain().post(brief(&peer)).await, Ok(Accepted { status: 200 }));
        let peer = Peer::answering("HTTP/1.1 422 No\r\ncontent-length: 10\r\n\r\nabc").await;
        let refused = plain().post(brief(&peer)).await.unwrap_err();
        assert!(matches!(refused, PostError::Status { status: 422, .. }), "{refused:?}");
    }

    #[tokio::test]
    async fn nobody_there_and_a_broken_connection_are_told_apart() {
        let free = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let peer = Peer::answering("no HTTP\r\n\r\n").await;
        let broken = plain().post(peer.post("http", "/")).await.unwrap_err();
        assert!(matches!(broken, PostError::Broken { .. }), "{broken:?}");
        let nobody = Peer { port: free.local_addr().unwrap().port(), ..peer };
        drop(free);
        let refused = plain().post(nobody.post("http", "/")).await.unwrap_err();
        assert!(matches!(refused, PostError::Unreachable { .. }), "{refused:?}");
        assert!(refused.to_string().contains("refused"), "{refused}");
    }

    #[tokio::test]
    async fn only_whom_it_trusts_is_sent_anything_over_tls() {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let mut peer = Peer::over(Some(TlsAcceptor::from(Arc::new(config))), OK).await;
        let accepted = HttpOutbound::trusting(roots).post(peer.post("https", "/")).await;
        assert_eq!(accepted, Ok(Accepted { status: 204 }));
        peer.requests.recv().await.unwrap();
        let refused = plain().post(peer.post("https", "/")).await.unwrap_err();
        assert!(matches!(refused, PostError::Unreachable { .. }), "{refused:?}");
        assert!(refused.to_string().contains("certificate"), "{refused}");
        assert!(peer.requests.try_recv().is_err(), "nothing was sent");
    }
}
