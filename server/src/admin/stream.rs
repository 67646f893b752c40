//! Lines on their way to a client: made piece by piece, as fast as the client takes them.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use tokio::sync::mpsc;
use tracklog_ingest_gateway::Content;

/// Pieces that may wait for the client.
const PIECES: usize = 2;

/// The body of an answer whose lines come later.
pub(super) struct Lines(mpsc::Receiver<Bytes>);

/// Where the lines are made.
pub(super) struct LinesSender(mpsc::Sender<Bytes>);

impl Lines {
    pub(super) fn new() -> (Self, LinesSender) {
        let (sender, receiver) = mpsc::channel(PIECES);
        (Self(receiver), LinesSender(sender))
    }

    pub(super) fn into_response(self, endless: bool) -> Response<Content> {
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
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
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
