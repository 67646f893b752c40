//! A client that costs little: requests as bytes, in which only the ids are new; answers are only
//! framed.
//!
//! On two cores the client takes its share of the machine from the server that is measured. This
//! one takes less than any library would, and the raw server gets the same one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::append::latencies;
use crate::failure::Failure;

/// The longest answer that is expected.
pub(super) const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A load: the same request from many connections, each waiting for its answer.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) port: u16,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) connections: usize,
    /// In turn.
    pub(super) requests: Arc<Vec<Request>>,
    /// Ids that were sent.
    pub(super) ids: Arc<AtomicU64>,
}

/// Head and body of a request. Each time it is sent its events have other ids: the second time they
/// would else be known already, and not be stored.
pub(super) struct Request {
    bytes: Vec<u8>,
    /// Where the numbers of its ids are.
    ids: Vec<usize>,
}

/// An id of a message is this and so many digits.
pub(super) const ID_BEGINS: &str = "bench-";
pub(super) const ID_DIGITS: usize = 10;

impl Request {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let begins = ID_BEGINS.as_bytes();
        let begun = bytes.windows(begins.len()).enumerate().filter(|(_, begun)| *begun == begins);
        let ids = begun.map(|(at, _)| at + begins.len()).collect();
        Self { bytes, ids }
    }

    /// The request with ids from `first` on, in `out`.
    fn write(&self, first: u64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        for (number, at) in (first..).zip(&self.ids) {
            let mut rest = number;
            for digit in out[*at..*at + ID_DIGITS].iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
    }
}

/// A POST as bytes.
pub(super) fn post(path: &str, authorization: &str, body: &str) -> Vec<u8> {
    post_with("", path, authorization, body)
}

/// The same for a client at another address.
pub(super) fn post_from(address: &str, path: &str, authorization: &str, body: &str) -> Vec<u8> {
    post_with(&format!("x-forwarded-for: {address}\r\n"), path, authorization, body)
}

/// With another line of its head, or none.
fn post_with(line: &str, path: &str, authorization: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: {authorization}\r\n{line}\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl Load {
    /// Requests a second, and how long each took.
    pub(super) async fn run(&self, time: Duration) -> Result<(f64, Histogram<u64>), Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for number in 0..self.connections {
            let (load, stop, answered) = (self.clone(), Arc::clone(&stop), Arc::clone(&answered));
            clients.spawn(async move { load.client(number, &stop, &answered).await });
        }
        tokio::time::sleep(time / 5).await;
        let (before, began) = (answered.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(time).await;
        let answers = answered.load(Ordering::Relaxed) - before;
        let seconds = began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        let mut all = latencies();
        while let Some(taken) = clients.join_next().await {
            let taken = taken.map_err(Failure::could_not_run)?;
            all.add(taken.map_err(Failure::could_not_run)?).map_err(Failure::could_not_run)?;
        }
        Ok((answers as f64 / seconds, all))
    }

    async fn client(
        &self,
        number: usize,
        stop: &AtomicBool,
        answered: &AtomicU64,
    ) -> io::Result<Histogram<u64>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => self.drive(stream, number, stop, answered).await,
            Some(config) => {
                let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
                let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
                self.drive(stream, number, stop, answered).await
            }
        }
    }

    async fn drive<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
        number: usize,
        stop: &AtomicBool,
        answered: &AtomicU64,
    ) -> io::Result<Histogram<u64>> {
        let mut taken = latencies();
        let (mut request, mut buffer) = (Vec::new(), vec![0; ANSWER_BYTES_MAX]);
        let mut turn = number;
        while !stop.load(Ordering::Relaxed) {
            let next = &self.requests[turn % self.requests.len()];
            next.write(self.ids.fetch_add(next.ids.len() as u64, Ordering::Relaxed), &mut request);
            turn += self.connections;
            let began = Instant::now();
            stream.write_all(&request).await?;
            stream.flush().await?;
            read_answer(&mut stream, &mut buffer).await?;
            taken.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
            answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(taken)
    }
}

/// Reads one answer, which must be a 200.
pub(super) async fn read_answer<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut [u8],
) -> io::Result<()> {
    match read_status(stream, buffer).await? {
        200 => Ok(()),
        status => Err(io::Error::other(format!("the server answered {status}"))),
    }
}

/// Reads one answer of stated length; its status.
pub(super) async fn read_status<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut [u8],
) -> io::Result<u16> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        if let Some((status, length)) = answer(&buffer[..filled])?
            && filled >= length
        {
            return Ok(status);
        }
    }
}

/// The status of the answer that begins here, and how long it is; `None` while its head is not whole.
fn answer(begun: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let Some(head) = begun.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&begun[..head]);
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("an answer without a status"))?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    let length = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
    Ok(Some((status, head + 4 + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_never_sent_twice_with_the_same_ids() {
        let request = Request::new(b"bench-0000000000 and bench-0000000001".to_vec());
        let mut sent = Vec::new();
        request.write(41, &mut sent);
        assert_eq!(sent, b"bench-0000000041 and bench-0000000042");
    }

    #[test]
    fn answers_are_framed_by_their_stated_length() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(answer(bytes).unwrap(), Some((200, bytes.len())));
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n").unwrap(), None);
        let refused = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(answer(refused).unwrap(), Some((503, refused.len())));
        assert!(answer(b"HTTP/1.1 200 OK\r\n\r\n").is_err(), "it does not say how long it is");
    }
}
