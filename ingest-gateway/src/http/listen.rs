//! Listening: sockets that take connections, and the list of those that are open.
//!
//! Promises
//! - A connection over a limit is told so where that costs little (in the clear), and closed.
//! - A socket that cannot take one now (no file descriptors) goes on a moment later; the listener
//!   never ends by itself.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::Listen;
use super::admission::{Admission, Admitted};
use super::connection::{Serving, serve_plain, serve_tls};
use super::service::Peer;
use crate::tls::Tls;

const BACKLOG: u32 = 1_024;
/// How long a listener waits when the process has no room for another socket.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(50);
/// Refused clients that are told why at a time, and for how long each.
const TOLD_MAX: usize = 64;
const TOLD_FOR: Duration = Duration::from_secs(1);

const REFUSED: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\
    content-type: application/json\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\
    content-length: 75\r\n\
    \r\n\
    {\"success\":false,\"code\":\"overloaded\",\"message\":\"too many open connections\"}";

/// An address that is taken for this process. Whoever connects is refused until it listens.
#[derive(Debug)]
pub(super) struct BoundSocket {
    socket: TcpSocket,
    /// The address; its port is the one that was given where any was asked for.
    pub(super) address: SocketAddr,
    pub(super) tls: bool,
}

impl BoundSocket {
    pub(super) fn bind(Listen { address, tls }: Listen) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address, tls })
    }

    pub(super) fn listen(self) -> io::Result<TcpListener> {
        self.socket.listen(BACKLOG)
    }
}

/// The connections that are open.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<Open>,
    one_ended: Notify,
    told: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Open {
    made: u64,
    by_number: HashMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    /// Taken when it was told to end.
    drain: Option<oneshot::Sender<()>>,
    task: Option<AbortHandle>,
}

impl Connections {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
            one_ended: Notify::new(),
            told: Arc::new(Semaphore::new(TOLD_MAX)),
        })
    }

    /// Lets every connection that is open now finish what it has in hand and close; resolves
    /// when the last of them has.
    pub(super) async fn drain(&self) {
        for connection in self.open().by_number.values_mut() {
            tell(connection.drain.take());
        }
        loop {
            let mut notified = std::pin::pin!(self.one_ended.notified());
            notified.as_mut().enable();
            if self.open().by_number.values().all(|connection| connection.drain.is_some()) {
                return;
            }
            notified.await;
        }
    }

    /// Ends what is open.
    pub(super) fn abort(&self) {
        for connection in self.open().by_number.values_mut() {
            if let Some(task) = connection.task.take() {
                task.abort();
            }
        }
    }

    fn register(self: &Arc<Self>) -> (Registered, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        let mut open = self.open();
        open.made += 1;
        let number = open.made;
        open.by_number.insert(number, Connection { drain: Some(sender), task: None });
        drop(open);
        (Registered { connections: Arc::clone(self), number }, receiver)
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("no holder of this lock panics")
    }
}

/// Whether somebody was told: the connection may have ended by itself meanwhile.
fn tell(sender: Option<oneshot::Sender<()>>) -> bool {
    sender.is_some_and(|sender| sender.send(()).is_ok())
}

/// An open connection's entry in the list.
struct Registered {
    connections: Arc<Connections>,
    number: u64,
}

impl Registered {
    fn runs_as(&self, task: AbortHandle) {
        if let Some(connection) = self.connections.open().by_number.get_mut(&self.number) {
            connection.task = Some(task);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.open().by_number.remove(&self.number);
        self.connections.one_ended.notify_waiters();
    }
}

/// One listener: takes connections until its task is aborted.
pub(super) struct Listening {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<Arc<Tls>>,
    pub(super) admission: Arc<Admission>,
    pub(super) connections: Arc<Connections>,
    pub(super) serving: Arc<Serving>,
}

impl Listening {
    pub(super) async fn run(self) {
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => self.take(stream, peer),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot take connections");
                    sleep(NO_ROOM_PAUSE).await;
                }
            }
        }
    }

    fn take(&self, stream: TcpStream, peer: SocketAddr) {
        match self.admission.admit(peer.ip()) {
            Ok(admitted) => self.serve(stream, peer, admitted),
            Err(refused) => {
                self.serving.service.metrics().connection_refused(refused);
                if self.tls.is_none() {
                    self.tell_refused(stream);
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, admitted: Admitted) {
        // Without it answers wait for the client's acks; a socket that refuses it still serves.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let open = self.serving.service.metrics().connection_opened();
        let (registered, drain) = self.connections.register();
        let serving = Arc::clone(&self.serving);
        let peer = Peer {
            address: peer.ip().to_canonical(),
            encrypted: self.tls.is_some(),
            health_alone: admitted.is_for_health_alone.then(Arc::default),
        };
        let acceptor = self.tls.as_ref().map(|tls| TlsAcceptor::from(tls.config()));
        let registered = Arc::new(registered);
        let entry = Arc::clone(&registered);
        let task = tokio::spawn(async move {
            match acceptor {
                Some(acceptor) => serve_tls(serving, stream, peer, acceptor, drain).await,
                None => serve_plain(serving, stream, peer, drain).await,
            }
            drop((admitted, open, entry));
        });
        registered.runs_as(task.abort_handle());
    }

    /// Says why before closing. Reads what the client sent meanwhile: closing on unread bytes
    /// would reset the connection before the answer is read.
    fn tell_refused(&self, mut stream: TcpStream) {
        let Ok(turn) = Arc::clone(&self.connections.told).try_acquire_owned() else { return };
        tokio::spawn(async move {
            let telling = async {
                stream.write_all(REFUSED).await?;
                stream.shutdown().await?;
                let mut unread = [0; 1_024];
                while stream.read(&mut unread).await? > 0 {}
                io::Result::Ok(())
            };
            // A client that does not listen is not waited for.
            drop(timeout(TOLD_FOR, telling).await);
            drop(turn);
        });
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_states_its_own_length() {
        let text = str::from_utf8(REFUSED).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
    }
}
