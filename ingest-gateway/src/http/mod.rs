//! The gateway on its sockets: start, serve, drain.
//!
//! Promises
//! - What a client can cost is bounded: connections in all and by address, time for a head, a body
//!   and an answer, bytes of each, streams and resets of HTTP/2.
//! - A drain finishes what is in hand: no answer that a client waits for is cut, unless the time
//!   for it is over.
//!
//! | file | what it does |
//! |---|---|
//! | `listen` | takes connections, keeps the list of them |
//! | `admission` | how many there may be |
//! | `connection` | one of them, from handshake to end |
//! | `vitals`, `watched` | how long it may take for what |
//! | `body` | bodies in, bodies out |
//! | `service` | routes |

mod admission;
mod body;
mod connection;
mod listen;
mod service;
mod vitals;
mod watched;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracklog_log::{Epoch, Log};
use tracklog_registry::Registry;

use crate::ack::{Topics, Writer};
use crate::config::{GatewayConfig, RequestLimits};
use crate::delivery::Desk;
use crate::door::Door;
use crate::metrics::Metrics;
use crate::row_desk::RowDesk;
use crate::sources::{SourceError, Sources};
use crate::tls::{Tls, TlsError};
use admission::Admission;
use connection::{Serving, protocol};
use listen::{BoundSocket, Connections, Listening};
use service::Service;

pub(crate) use admission::Refused;
pub(crate) use body::Room;

/// Where a gateway listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address; port 0 is any free one.
    pub address: SocketAddr,
    /// Whether connections speak TLS.
    pub tls: bool,
}

/// Addresses that are taken and not served yet: connections are refused until the gateway starts.
#[derive(Debug)]
pub struct Bound(Vec<BoundSocket>);

/// What stands behind a gateway.
#[derive(Clone)]
pub struct Backing {
    /// Where events go.
    pub log: Arc<dyn Log>,
    /// As whom: what opening the log's domain gave.
    pub epoch: Epoch,
    /// Into which topics.
    pub topics: Topics,
    /// What events are held against.
    pub registry: Arc<Registry>,
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backing").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {}: {source}", listen.address)]
    Bind {
        /// Which.
        listen: Listen,
        /// Why.
        source: io::Error,
    },
    /// A listener speaks TLS, and nothing says with which certificate.
    #[error("a TLS listener needs certificate and key files")]
    NoCertificate,
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The sources cannot be told apart.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Starts gateways.
#[derive(Clone, Copy, Debug)]
pub struct Gateway;

impl Gateway {
    /// Takes addresses before anything else is made, so that one that is in use is known first.
    /// On the Tokio runtime of the caller.
    ///
    /// # Errors
    /// [`StartError::Bind`]; then none is taken.
    pub fn bind(listeners: &[Listen]) -> Result<Bound, StartError> {
        let bind_one = |listen: &Listen| {
            let failed = |source| StartError::Bind { listen: *listen, source };
            BoundSocket::bind(*listen).map_err(failed)
        };
        listeners.iter().map(bind_one).collect::<Result<_, _>>().map(Bound)
    }

    /// Begins to serve, on the Tokio runtime of the caller.
    ///
    /// # Errors
    /// [`StartError`]; then nothing listens.
    pub async fn start(
        config: GatewayConfig,
        Bound(bound): Bound,
        backing: Backing,
        further: Arc<dyn Door>,
    ) -> Result<Running, StartError> {
        let tls = match (&config.tls, bound.iter().any(|socket| socket.tls)) {
            (_, false) => None,
            (None, true) => return Err(StartError::NoCertificate),
            (Some(files), true) => Some(Arc::new(Tls::open(files.clone())?)),
        };
        let connections = config.connections;
        let admission = Admission::new(&connections, config.trusted_proxies.clone());
        let checked_every = config.tls_checked_every;
        let service = Arc::new(service_of(config, backing, further)?);
        let serving = Arc::new(Serving {
            protocol: protocol(&service.desk.limits),
            service: Arc::clone(&service),
            limits: connections,
        });
        let listeners = listen_all(bound)?;
        let mut running = Running {
            addresses: listeners.iter().map(|(_, listen)| listen.address).collect(),
            connections: Connections::new(),
            service,
            tls: tls.clone(),
            tasks: Vec::new(),
        };
        for (listener, listen) in listeners {
            let listening = Listening {
                listener,
                tls: tls.clone().filter(|_| listen.tls),
                admission: Arc::clone(&admission),
                connections: Arc::clone(&running.connections),
                serving: Arc::clone(&serving),
            };
            running.tasks.push(tokio::spawn(listening.run()));
        }
        if let Some(tls) = tls {
            running.tasks.push(tokio::spawn(watch_certificate(tls, checked_every)));
        }
        Ok(running)
    }
}

fn service_of(
    config: GatewayConfig,
    backing: Backing,
    further: Arc<dyn Door>,
) -> Result<Service, StartError> {
    let Backing { log, epoch, topics, registry } = backing;
    let metrics = Metrics::new();
    let sources = Sources::new(config.sources, &metrics)?;
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let RequestLimits { append_bytes_max, .. } = config.requests;
    let desk = Desk {
        scan_limits: sources.scan_limits(),
        sources,
        registry,
        writer: Writer::new(log, epoch, topics, append_bytes_max),
        metrics,
        trusted_proxies: config.trusted_proxies,
        limits: config.requests,
        large_bodies: Arc::new(Semaphore::new(workers)),
    };
    Ok(Service {
        desk: Arc::new(desk),
        admin_token: config.admin_token,
        public_host: config.public_host,
        version: config.version,
        further,
        draining: false.into(),
    })
}

/// Another process may have begun to listen on an address between our taking it and this.
fn listen_all(bound: Vec<BoundSocket>) -> Result<Vec<(TcpListener, Listen)>, StartError> {
    let listen_one = |socket: BoundSocket| {
        let listen = Listen { address: socket.address, tls: socket.tls };
        let listener = socket.listen().map_err(|source| StartError::Bind { listen, source })?;
        Ok((listener, listen))
    };
    bound.into_iter().map(listen_one).collect()
}

async fn watch_certificate(tls: Arc<Tls>, every: Duration) {
    let mut ticks = interval(every);
    // They were read just now.
    ticks.reset();
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let tls = Arc::clone(&tls);
        match tokio::task::spawn_blocking(move || tls.reload()).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => tracing::info!("a new certificate is in use"),
            Ok(Err(error)) => tracing::warn!(%error, "the certificate in use stays"),
            Err(_) => return,
        }
    }
}

/// A gateway that serves. Dropping it ends it at once; [`drain`](Self::drain) is the gentle way.
pub struct Running {
    addresses: Vec<SocketAddr>,
    connections: Arc<Connections>,
    service: Arc<Service>,
    tls: Option<Arc<Tls>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Where it listens, in the order asked.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        self.service.metrics()
    }

    /// Where rows of files are judged by the rules of the sources.
    #[must_use]
    pub fn row_desk(&self) -> RowDesk {
        RowDesk::new(Arc::clone(&self.service.desk))
    }

    /// The log was opened again after a failure: from now on events are appended as `epoch`.
    pub fn reopened(&self, epoch: Epoch) {
        self.service.desk.writer.set_epoch(epoch);
    }

    /// Looks at the certificate's files now; tells whether a new pair is in use. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`TlsError`] when they cannot be used: the pair in use stays.
    pub fn reload_certificate(&self) -> Result<bool, TlsError> {
        self.tls.as_ref().map_or(Ok(false), |tls| tls.reload())
    }

    /// Refuses new events, lets requests in hand finish, and closes everything; connections that
    /// are still busy after `patience` are cut. While requests are in hand the sockets go on
    /// listening, so that `/readyz` can say what is going on.
    pub async fn drain(mut self, patience: Duration) {
        self.service.draining.store(true, Ordering::SeqCst);
        let draining = async {
            self.connections.drain().await;
            close(std::mem::take(&mut self.tasks)).await;
            // Those that came to see what is going on.
            self.connections.drain().await;
        };
        if timeout(patience, draining).await.is_err() {
            tracing::warn!("requests were cut: they took longer than the drain may");
        }
        close(std::mem::take(&mut self.tasks)).await;
        self.connections.abort();
    }
}

/// Ends tasks, and waits until what they held is given back: their sockets are closed then.
async fn close(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        task.abort();
        // How an aborted task ended says nothing.
        drop(task.await);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.connections.abort();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}
