//! Events over the network, validated and durable, beside a bare hyper answer to the same request.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tracklog_server::config::{Flags, Settings};
use tracklog_server::node::Node;

use super::wire::{ID_BEGINS, ID_DIGITS, Load, Request, post};
use super::{Figure, Run};
use crate::failure::Failure;
use crate::tls;

const CONNECTIONS: usize = 64;
pub(super) const BATCH_EVENTS: usize = 50;
const EVENT_BYTES: usize = 780;
/// Different requests, so that events spread over the partitions.
const REQUESTS: usize = 512;
const RAW: &str = "a bare hyper answer to the same request";

const SCHEMA: &str = r#"{"type":"object","required":["product_id","price","currency"],
    "properties":{"product_id":{"type":"string"},"price":{"type":"number","minimum":0},
    "currency":{"type":"string","pattern":"^[A-Z]{3}$"},"quantity":{"type":"integer"}}}"#;

pub(super) async fn measure(run: &Run) -> Result<Vec<Figure>, Failure> {
    let scratch = run.scratch()?;
    let node = start(scratch.path(), run, Stages::Off).await?;
    let put = node.registry().put("product.viewed", Bytes::from_static(SCHEMA.as_bytes())).await;
    put.map_err(Failure::could_not_run)?;
    let measured = measure_on(&node, run).await;
    node.stop().await;
    measured
}

/// Whether what is stored is enriched, routed and archived at once, on the same cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stages {
    On,
    Off,
}

pub(super) async fn start(folder: &Path, run: &Run, stages: Stages) -> Result<Node, Failure> {
    let flags = Flags {
        data: Some(folder.join("node")),
        http: Some("127.0.0.1:0".to_owned()),
        https: Some("127.0.0.1:0".to_owned()),
        ..Flags::default()
    };
    let mut settings = Settings::load(&flags, []).map_err(Failure::could_not_run)?;
    settings.journal = run.journal();
    settings.enrich.enabled = stages == Stages::On;
    settings.archive.enabled = stages == Stages::On;
    Node::start(&settings).await.map_err(Failure::could_not_run)
}

async fn measure_on(node: &Node, run: &Run) -> Result<Vec<Figure>, Failure> {
    let key = STANDARD.encode(format!("{}:", node.default_key().text));
    let authorization = format!("Basic {key}");
    let singles = requests(|n| post("/v1/track", &authorization, &event(n)));
    let batches = requests(|n| post("/v1/batch", &authorization, &batch(n)));
    let certificate = node.folder().file("cert.pem");
    let client = tls::trusting(&certificate)?;
    let https = node.https().expect("it was asked for").port();
    let http = node.http().expect("it was asked for").port();
    let secure = server_config(node)?;
    let ids = Arc::new(AtomicU64::new(0));
    let load = |port, tls, requests| Load {
        port,
        tls,
        connections: CONNECTIONS,
        requests,
        ids: Arc::clone(&ids),
    };
    let single = load(https, Some(client), singles);
    let many = load(http, None, batches);
    Ok(vec![
        beside_bare(
            run,
            "1 event of 780 B a POST, HTTPS, 64 connections",
            &single,
            Some(secure),
            1,
        )
        .await?,
        beside_bare(run, "50 events a POST, HTTP, 64 connections", &many, None, BATCH_EVENTS)
            .await?,
    ])
}

fn requests(make: impl Fn(usize) -> Vec<u8>) -> Arc<Vec<Request>> {
    Arc::new((0..REQUESTS).map(make).map(Request::new).collect())
}

/// One event of about 780 bytes.
pub(super) fn event(number: usize) -> String {
    let event = |filler: &str| {
        format!(
            r#"{{"type":"track","event":"product.viewed","messageId":"{ID_BEGINS}{number:0ID_DIGITS$}","anonymousId":"anon-{number:06}","userId":"user-{number:05}","timestamp":"2026-01-02T03:04:05.678Z","properties":{{"product_id":"p-{number}","name":"Linen shirt","category":"clothing","price":59.00,"currency":"EUR","quantity":1,"list":"search results","position":7}},"context":{{"library":{{"name":"bench","version":"1.0.0"}},"locale":"en-GB","page":{{"path":"/shop/linen-shirt","url":"https://shop.example/shop/linen-shirt","title":"Linen shirt"}},"userAgent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0","note":"{filler}"}}}}"#
        )
    };
    let filler = "x".repeat(EVENT_BYTES.saturating_sub(event("").len()));
    event(&filler)
}

/// A batch of [`BATCH_EVENTS`] events, other ones for each number.
pub(super) fn batch(number: usize) -> String {
    let events = (0..BATCH_EVENTS).map(|n| event(number * BATCH_EVENTS + n));
    format!(r#"{{"batch":[{}]}}"#, events.collect::<Vec<_>>().join(","))
}

async fn beside_bare(
    run: &Run,
    case: &str,
    load: &Load,
    tls: Option<Arc<ServerConfig>>,
    events: usize,
) -> Result<Figure, Failure> {
    let (ours, latencies) = load.run(run.time()).await?;
    let bare = Bare::start(tls).await.map_err(Failure::could_not_run)?;
    let (raw, _) = Load { port: bare.port, ..load.clone() }.run(run.time()).await?;
    drop(bare);
    let figure = Figure::new(case, "events/s", ours * events as f64);
    Ok(figure.latencies(&latencies).beside(raw * events as f64, RAW))
}

fn server_config(node: &Node) -> Result<Arc<ServerConfig>, Failure> {
    let read = |error| Failure::of("certificate", error);
    let chain = CertificateDer::pem_file_iter(node.folder().file("cert.pem"));
    let chain = chain.and_then(Iterator::collect).map_err(read)?;
    let key = PrivateKeyDer::from_pem_file(node.folder().file("key.pem")).map_err(read)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map_err(Failure::could_not_run)?;
    Ok(Arc::new(config))
}

/// A server that reads the body and says yes.
struct Bare {
    port: u16,
    task: AbortHandle,
}

impl Bare {
    async fn start(tls: Option<Arc<ServerConfig>>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, tls.clone()));
            }
        });
        Ok(Self { port, task: task.abort_handle() })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client that leaves ends its connection: nothing to tell.
async fn serve(stream: TcpStream, tls: Option<Arc<ServerConfig>>) {
    drop(stream.set_nodelay(true));
    let http = hyper::server::conn::http1::Builder::new();
    match tls {
        None => drop(http.serve_connection(TokioIo::new(stream), service_fn(yes)).await),
        Some(config) => {
            if let Ok(stream) = TlsAcceptor::from(config).accept(stream).await {
                drop(http.serve_connection(TokioIo::new(stream), service_fn(yes)).await);
            }
        }
    }
}

async fn yes(request: hyper::Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    drop(request.into_body().collect().await);
    Ok(Response::new(Full::new(Bytes::from_static(b"{\"success\":true}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_size_it_says_and_is_json() {
        for number in [0, 7, 511] {
            assert_eq!(event(number).len(), EVENT_BYTES);
            serde_json::from_str::<serde_json::Value>(&event(number)).unwrap();
        }
        serde_json::from_str::<serde_json::Value>(&batch(3)).unwrap();
    }
}
