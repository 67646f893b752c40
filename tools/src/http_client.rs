//! A small HTTP/1.1 client: one connection, one request at a time, plain or TLS.
//!
//! Enough for the reading verbs, the demo's traffic and the benchmarks; no redirects, no pool.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where a server is, and how it is spoken to.
#[derive(Clone)]
pub(crate) struct Endpoint {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("{0:?} is no URL like http://127.0.0.1:8080")]
    Url(String),
    #[error("cannot reach {endpoint}: {source}")]
    Connect { endpoint: String, source: std::io::Error },
    #[error("{endpoint} does not speak HTTP as expected: {source}")]
    Http { endpoint: String, source: hyper::Error },
}

impl Endpoint {
    pub(crate) fn plain(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port, tls: None }
    }

    pub(crate) fn tls(host: impl Into<String>, port: u16, config: Arc<ClientConfig>) -> Self {
        Self { host: host.into(), port, tls: Some(config) }
    }

    /// The endpoint of a URL without a path; `tls` is asked for where the scheme is `https`.
    pub(crate) fn of_url<E>(
        url: &str,
        tls: impl FnOnce() -> Result<Arc<ClientConfig>, E>,
    ) -> Result<Self, E>
    where
        E: From<HttpError>,
    {
        let no_url = || E::from(HttpError::Url(url.to_owned()));
        let uri: Uri = url.parse().map_err(|_| no_url())?;
        let host = uri.host().ok_or_else(no_url)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if uri.path() != "/" && !uri.path().is_empty() {
            return Err(no_url());
        }
        match uri.scheme_str() {
            Some("http") => Ok(Self::plain(host, uri.port_u16().unwrap_or(80))),
            Some("https") => Ok(Self::tls(host, uri.port_u16().unwrap_or(443), tls()?)),
            _ => Err(no_url()),
        }
    }

    /// What goes into `Host`.
    pub(crate) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    pub(crate) async fn connect(&self) -> Result<Connection, HttpError> {
        let unreachable = |source| HttpError::Connect { endpoint: self.to_string(), source };
        let stream = TcpStream::connect((&*self.host, self.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let Some(config) = &self.tls else { return self.handshake(stream).await };
        let name = ServerName::try_from(self.host.clone());
        let name = name.map_err(|_| HttpError::Url(self.to_string()))?;
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await;
        self.handshake(stream.map_err(unreachable)?).await
    }

    async fn handshake<S>(&self, stream: S) -> Result<Connection, HttpError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|source| self.broken(source))?;
        tokio::spawn(async move {
            // Whoever waits for the answer is told of the error, too.
            drop(connection.await);
        });
        Ok(Connection { endpoint: self.clone(), sender })
    }

    fn broken(&self, source: hyper::Error) -> HttpError {
        HttpError::Http { endpoint: self.to_string(), source }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// An open connection.
pub(crate) struct Connection {
    endpoint: Endpoint,
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Sends a request whose target is a path; `Host` is added.
    pub(crate) async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, HttpError> {
        let host = self.endpoint.authority().parse().expect("an authority is a header's value");
        request.headers_mut().insert(hyper::header::HOST, host);
        let endpoint = &self.endpoint;
        self.sender.ready().await.map_err(|source| endpoint.broken(source))?;
        let sent = self.sender.send_request(request).await;
        sent.map_err(|source| endpoint.broken(source))
    }

    /// Sends, and reads the whole answer.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let response = self.send(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        Ok((status, body.map_err(|source| self.endpoint.broken(source))?.to_bytes()))
    }
}
