//! Bodies: reading a request's within its limits of size and time, and handing out an answer's.
//!
//! A body must be there `body_timeout` after its head, and after `body_grace` it must have come at
//! `body_rate_min` on the whole: both are one moment by which the next byte is due. A body that
//! lies in one piece is not copied.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{Request, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, timeout, timeout_at};

use super::vitals::InHand;
use crate::answer::{Content, ContentError, Refusal};
use crate::config::RequestLimits;
use crate::rejection::Code;

/// The length that a request declares.
pub(super) fn declared_bytes<B>(request: &Request<B>) -> Option<usize> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// What is asked whenever a body turns out larger than what was set aside for it.
pub(crate) trait Room {
    /// Makes room for `bytes` in all.
    fn grow_to(&mut self, bytes: usize) -> Result<(), Refusal>;
}

/// Room for anything: of bodies that are bounded and stored nowhere.
pub(super) struct Unreserved;

impl Room for Unreserved {
    fn grow_to(&mut self, _: usize) -> Result<(), Refusal> {
        Ok(())
    }
}

/// Reads all of `body`, of which `bytes_max` may come.
pub(super) async fn read(
    body: &mut Incoming,
    bytes_max: usize,
    limits: &RequestLimits,
    room: &mut (impl Room + ?Sized),
) -> Result<Bytes, Refusal> {
    let began = Instant::now();
    let mut gathered = Gathered::default();
    loop {
        let came = gathered.len();
        let due = next_byte_due(began, came, limits);
        let frame = timeout_at(due, body.frame()).await.map_err(|_| too_slow(came))?;
        let Some(frame) = frame else { return Ok(gathered.finish()) };
        // The client went away or broke its framing: whoever reads this answer, nothing is stored.
        let frame = frame.map_err(|_| cut_short())?;
        let Ok(data) = frame.into_data() else { continue };
        if came + data.len() > bytes_max {
            return Err(Refusal::too_large(bytes_max));
        }
        room.grow_to(came + data.len())?;
        gathered.push(data, body.size_hint().lower());
    }
}

/// Memory for what a client announces is taken up to here; beyond it must come first.
const ANNOUNCED_BYTES_MAX: u64 = 256 << 10;

/// The pieces of a body. One alone stays where it is.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    all: BytesMut,
}

impl Gathered {
    fn len(&self) -> usize {
        self.first.len() + self.all.len()
    }

    /// Adds a piece, after which `announced` bytes will come.
    fn push(&mut self, piece: Bytes, announced: u64) {
        if self.len() == 0 {
            self.first = piece;
            return;
        }
        let announced = usize::try_from(announced.min(ANNOUNCED_BYTES_MAX)).unwrap_or_default();
        self.all.reserve(self.first.len() + piece.len() + announced);
        self.all.extend_from_slice(&std::mem::take(&mut self.first));
        self.all.extend_from_slice(&piece);
    }

    fn finish(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

fn next_byte_due(began: Instant, came: usize, limits: &RequestLimits) -> Instant {
    let came = u32::try_from(came).unwrap_or(u32::MAX);
    let by_rate = Duration::from_secs(1) * came / limits.body_rate_min.max(1);
    began + limits.body_timeout.min(limits.body_grace + by_rate)
}

fn too_slow(came: usize) -> Refusal {
    let message = format!("the body came too slowly: {came} bytes so far");
    Refusal::new(StatusCode::REQUEST_TIMEOUT, Code::Unavailable, message)
}

fn cut_short() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, Code::InvalidJson, "the body was cut short")
}

/// How much of a refused body is read away, and for how long.
const DISCARDED_BYTES_MAX: usize = 1 << 20;
const DISCARDED_FOR: Duration = Duration::from_secs(1);

/// Reads what is left of a refused body, within bounds: a socket that is closed with unread bytes
/// resets, and the client never sees why it was refused.
pub(super) async fn discard(body: &mut Incoming) {
    let mut left = DISCARDED_BYTES_MAX;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            let Some(still) = left.checked_sub(bytes) else { break };
            left = still;
        }
    };
    // Either end is fine: what was not read by now costs the connection, nothing else.
    drop(timeout(DISCARDED_FOR, reading).await);
}

/// Whether a refused request's body is worth reading away.
pub(super) fn should_discard<B>(request: &Request<B>) -> bool {
    request.version() < Version::HTTP_2 && !request.headers().contains_key(EXPECT)
}

/// The body of an answer, which keeps its request in hand until it is gone.
#[derive(Debug)]
pub(crate) struct Answered {
    content: Content,
    _in_hand: InHand,
}

impl Answered {
    pub(super) fn new(content: Content, mut in_hand: InHand) -> Self {
        if matches!(content, Content::Streaming { endless: true, .. }) {
            in_hand.answers_endlessly();
        }
        Self { content, _in_hand: in_hand }
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Streaming { body, .. } => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Streaming { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Streaming { body, .. } => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_put_together_and_one_alone_is_not_copied() {
        let alone = Bytes::from_static(b"alone");
        let mut gathered = Gathered::default();
        gathered.push(Bytes::new(), 0);
        gathered.push(alone.clone(), 0);
        assert_eq!(gathered.finish().as_ptr(), alone.as_ptr());
        let mut gathered = Gathered::default();
        for piece in ["a", "bc", "", "def"] {
            gathered.push(Bytes::from(piece), 1 << 40);
        }
        assert_eq!(gathered.len(), 6);
        assert_eq!(gathered.finish(), "abcdef");
    }

    #[test]
    fn the_next_byte_is_due_by_rate_and_in_all() {
        let limits = RequestLimits::DEFAULT;
        let began = Instant::now();
        let due = |came| (next_byte_due(began, came, &limits) - began).as_secs();
        assert_eq!(due(0), 10);
        assert_eq!(due(1_024), 11);
        assert_eq!(due(20 * 1_024), 30);
        assert_eq!(due(4 << 20), 60);
    }
}
