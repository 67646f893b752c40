//! Lines on their way to a client: made piece by piece, as fast as the client takes them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use tokio::sync::{mpsc, watch};
use tracklog_ingest_gateway::Content;

/// Pieces that may wait for the client.
const PIECES: usize = 2;

/// The body of an answer whose lines come later.
pub(super) struct Lines {
    pieces: mpsc::Receiver<Bytes>,
    /// Of an answer without an end of its own: it counts as open as long as it is here.
    open: Option<Open>,
}

/// How many answers without an end of their own are open.
#[derive(Clone)]
pub(super) struct OpenStreams(Arc<watch::Sender<usize>>);

/// One of them.
pub(super) struct Open(OpenStreams);

impl OpenStreams {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::channel(0).0))
    }

    pub(super) fn open(&self) -> Open {
        self.0.send_modify(|open| *open += 1);
        Open(self.clone())
    }

    /// Resolves when none is left.
    pub(super) async fn none_left(&self) {
        let none = self.0.subscribe().wait_for(|open| *open == 0).await.is_ok();
        assert!(none, "the sender lives in `self`");
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.send_modify(|open| *open -= 1);
    }
}

/// Where the lines are made.
pub(super) struct LinesSender(mpsc::Sender<Bytes>);

impl Lines {
    /// With `open` the answer has no end of its own.
    pub(super) fn new(open: Option<Open>) -> (Self, LinesSender) {
        let (sender, pieces) = mpsc::channel(PIECES);
        (Self { pieces, open }, LinesSender(sender))
    }

    pub(super) fn into_response(self) -> Response<Content> {
        let endless = self.open.is_some();
        let body = self.map_err(|never| match never {}).boxed_unsync();
        let mut response = Response::new(Content::Streaming { body, endless });
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

impl LinesSender {
    /// Hands a piece over; `false` when nobody takes it any more.
    pub(super) async fn send(&self, piece: Bytes) -> bool {
        piece.is_empty() || self.0.send(piece).await.is_ok()
    }

    /// The same from a thread that may block. A piece that nobody takes is dropped.
    pub(super) fn send_blocking(&self, piece: Bytes) {
        drop(self.0.blocking_send(piece));
    }

    /// Resolves when nobody takes pieces any more.
    pub(super) async fn closed(&self) {
        self.0.closed().await;
    }
}
