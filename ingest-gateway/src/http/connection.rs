//! One connection, from the socket to its end.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use super::service::{Peer, Service};
use super::vitals::Vitals;
use super::watched::{Socket, Watched};
use crate::config::{ConnectionLimits, RequestLimits};

/// Bytes that hyper may buffer of a head; above our own limits, so that ours are told in words.
const HEAD_BUFFER_BYTES_MIN: usize = 8 << 10;
/// Header lines of a request.
const HEADERS_MAX: usize = 100;
/// Streams of an HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 100;
/// Streams that a client may reset before we looked at them, and that our answers may reset.
const PENDING_RESETS_MAX: usize = 20;
const LOCAL_RESETS_MAX: usize = 128;
/// Answer bytes buffered for a stream.
const SEND_BUFFER_BYTES_MAX: usize = 64 << 10;
/// Body bytes in flight for a stream, and for a connection.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// How hyper serves our connections.
pub(super) type Protocol = auto::Builder<TokioExecutor>;

pub(super) fn protocol(limits: &RequestLimits) -> Protocol {
    let mut protocol = auto::Builder::new(TokioExecutor::new());
    let head_bytes = limits.header_bytes_max + limits.target_bytes_max;
    protocol
        .http1()
        // Counted from the end of the last answer, it would end idle connections: `vitals` has
        // the rule.
        .header_read_timeout(None)
        // Clients that close their sending half still want their answer.
        .half_close(true)
        .max_headers(HEADERS_MAX)
        .max_buf_size(head_bytes + HEAD_BUFFER_BYTES_MIN);
    protocol
        .http2()
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_header_list_size(u32::try_from(head_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    protocol
}

/// What a listener's connections share.
pub(super) struct Serving {
    pub(super) service: Arc<Service>,
    pub(super) protocol: Protocol,
    pub(super) limits: ConnectionLimits,
}

/// Serves a connection in the clear until it ends. `drain` resolves when it should finish what it
/// has in hand and close.
pub(super) async fn serve_plain(
    serving: Arc<Serving>,
    stream: TcpStream,
    peer: Peer,
    drain: oneshot::Receiver<()>,
) {
    serve(&serving, serving.protocol.clone(), stream, peer, drain).await;
}

/// The same behind TLS.
pub(super) async fn serve_tls(
    serving: Arc<Serving>,
    stream: TcpStream,
    peer: Peer,
    acceptor: TlsAcceptor,
    drain: oneshot::Receiver<()>,
) {
    let handshake = timeout(serving.limits.head_timeout, acceptor.accept(stream));
    let Ok(Ok(stream)) = handshake.await else {
        serving.service.metrics().handshake_failed();
        return;
    };
    let protocol = serving.protocol.clone();
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => protocol.http2_only(),
        _ => protocol.http1_only(),
    };
    serve(&serving, protocol, stream, peer, drain).await;
}

async fn serve(
    serving: &Serving,
    protocol: Protocol,
    stream: impl Socket,
    peer: Peer,
    mut drain: oneshot::Receiver<()>,
) {
    let vitals = Vitals::new(serving.limits);
    let stream = TokioIo::new(Watched::new(stream, Arc::clone(&vitals)));
    let peer = Arc::new(peer);
    let service = service_fn(|request| {
        let in_hand = vitals.request_began(request.version() == http::Version::HTTP_2);
        Service::answer(Arc::clone(&serving.service), Arc::clone(&peer), in_hand, request)
    });
    let mut connection = pin!(protocol.serve_connection(stream, service));
    let mut armed = vitals.due();
    let mut alarm = pin!(sleep_until(armed));
    let mut draining = false;
    poll_fn(|context| {
        // An answer that says so wakes the connection to be written.
        let is_over = peer.asked_too_much();
        if !draining && (is_over || Pin::new(&mut drain).poll(context).is_ready()) {
            draining = true;
            connection.as_mut().graceful_shutdown();
        }
        if connection.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let nobody_waits = vitals.only_endless_left() && (draining || vitals.has_read_ended());
        // hyper would wait for the first request of a connection that never had one.
        if nobody_waits || draining && !vitals.has_served() {
            return Poll::Ready(());
        }
        loop {
            let due = vitals.due();
            if due < armed {
                armed = due;
                alarm.as_mut().reset(due);
            }
            if alarm.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if due <= armed {
                return Poll::Ready(());
            }
            armed = due;
            alarm.as_mut().reset(due);
        }
    })
    .await;
}
