//! A client that writes bytes and reads answers, and knows nothing that would set them right.

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// All values of a header, in one line.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let values = self.headers.iter().filter(|(known, _)| known == name);
        let values: Vec<_> = values.map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(","))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Checks that it is an error with this status, and has a code and a message.
    #[track_caller]
    pub(crate) fn refuses(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.text());
        let body = self.json();
        assert!(!body["message"].as_str().unwrap_or_default().is_empty(), "{body}");
        assert_eq!(body["success"], false);
    }

    #[track_caller]
    pub(crate) fn is_ok(&self) -> &Self {
        assert_eq!(self.status, 200, "{}", self.text());
        self
    }
}

/// A connection in whatever it is wrapped.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    read: Vec<u8>,
}

impl Client<TcpStream> {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) const fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Writes, and minds no connection that is closed meanwhile.
    pub(crate) async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// The next answer, interim ones too; `None` when the server closed.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let reading = async {
            loop {
                if let Some(answer) = self.parse() {
                    return Some(answer);
                }
                if !self.more().await {
                    return None;
                }
            }
        };
        timeout(PATIENCE, reading).await.expect("an answer, or the end")
    }

    /// Whether the server closes, with nothing more said.
    pub(crate) async fn is_closed(&mut self) -> bool {
        while timeout(PATIENCE, self.more()).await.expect("the end") {}
        self.read.is_empty()
    }

    async fn more(&mut self) -> bool {
        self.read.reserve(16 << 10);
        self.stream.read_buf(&mut self.read).await.unwrap_or(0) > 0
    }

    fn parse(&mut self) -> Option<Answer> {
        let head_end = self.read.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(self.read[..head_end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let headers: Vec<_> = lines.filter_map(header).collect();
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(0, |(_, length)| length.parse().unwrap());
        let body = self.read.get(head_end..head_end + length)?.to_vec();
        self.read.drain(..head_end + length);
        Some(Answer { status, headers, body })
    }
}

/// A request in the making.
#[derive(Clone)]
pub(crate) struct Ask {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Ask {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        let (method, path) = (method.to_owned(), path.to_owned());
        Self { method, path, headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("POST", path) }
    }

    pub(crate) fn put(path: &str, body: &str) -> Self {
        Self { body: body.into(), ..Self::new("PUT", path) }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("authorization", &basic(key))
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn bytes(&self, connection: &str) -> Vec<u8> {
        let Self { method, path, headers, body } = self;
        let mut out = format!("{method} {path} HTTP/1.1\r\nconnection: {connection}\r\n");
        if !headers.iter().any(|(name, _)| name == "host") {
            out.push_str("host: tracklog.example\r\n");
        }
        for (name, value) in headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" || method == "PUT" {
            out.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        out.push_str("\r\n");
        let mut out = out.into_bytes();
        out.extend_from_slice(body);
        out
    }

    /// Sends it alone on a connection.
    pub(crate) async fn send(&self, address: SocketAddr) -> Answer {
        let mut client = Client::connect(address).await;
        client.try_write(self.bytes("close")).await;
        client.answer().await.expect("an answer before the end")
    }
}

pub(crate) fn basic(key: &str) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{key}:"));
    format!("Basic {encoded}")
}
