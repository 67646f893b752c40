//! A socket that tells its connection's [`Vitals`] what moves on it.
//!
//! One thing it looks for itself: hyper does not read an HTTP/1 connection while it answers, so
//! nobody would notice that the client of an endless answer left. Such a client has nothing more
//! to say; whatever comes from it, an end or bytes (of TLS: a farewell), means that it leaves.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::vitals::Vitals;

/// A stream over TCP.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// What is below.
    fn tcp(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Socket for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// `S`, watched.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    vitals: Arc<Vitals>,
}

impl<S> Watched<S> {
    pub(super) const fn new(stream: S, vitals: Arc<Vitals>) -> Self {
        Self { stream, vitals }
    }

    fn wrote<T>(&self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Pending => self.vitals.write_waits(),
            Poll::Ready(_) => self.vitals.write_moved(),
        }
        outcome
    }
}

impl<S: Socket> Watched<S> {
    /// See the head of this file. Called whenever the connection is polled.
    fn look_for_the_end(&self, context: &mut Context<'_>) {
        if !self.vitals.answers_endlessly_unread() {
            return;
        }
        let mut byte = [0];
        let peeked = self.stream.tcp().poll_peek(context, &mut ReadBuf::new(&mut byte));
        if peeked.is_ready() {
            self.vitals.read_ended();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = &outcome {
            if buffer.filled().len() > before {
                self.vitals.bytes_came();
            } else if buffer.remaining() > 0 {
                self.vitals.read_ended();
            }
        }
        outcome
    }
}

impl<S: Socket> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look_for_the_end(context);
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.wrote(outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.wrote(outcome)
    }
}
