//! The end: what is in hand is finished, what comes is turned away, nothing is left.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tracklog_ingest_gateway::{Access, Content, ContentError, Door};
use tracklog_log::Pending;
use tracklog_log::memory::MemoryLog;

use super::client::{Ask, Client, PATIENCE};
use super::rig::{KEY, Rig, Setup, track};

#[tokio::test]
async fn a_drain_finishes_what_is_in_hand_and_closes_the_rest() {
    let rig = Rig::new().await;
    let Rig { log, running, folder: _folder, .. } = rig;
    let address = running.addresses()[0];
    let log: Arc<MemoryLog> = log;
    log.hold();
    let mut idle = Client::connect(address).await;
    idle.write(Ask::get("/livez").bytes("keep-alive")).await;
    idle.answer().await.unwrap().is_ok();
    let mut silent = Client::connect(address).await;
    let mut busy = Client::connect(address).await;
    busy.write(Ask::post("/v1/track", track("m")).key(KEY).bytes("keep-alive")).await;
    // The request is in hand once its event waits for the log.
    let refuse = Ask::get("/readyz");
    assert_eq!(refuse.send(address).await.status, 200);
    tokio::time::timeout(Duration::from_millis(200), busy.answer()).await.unwrap_err();

    let draining = tokio::spawn(running.drain(PATIENCE));
    assert!(idle.is_closed().await, "an idle connection is closed");
    assert!(silent.is_closed().await, "one that never asked, too");
    // New connections learn what is going on while something is in hand.
    refuse.send(address).await.refuses(503, "unavailable");
    let late = Ask::post("/v1/track", track("n")).key(KEY).send(address).await;
    late.refuses(503, "unavailable");
    assert_eq!(late.header("retry-after").as_deref(), Some("1"));
    Ask::get("/livez").send(address).await.is_ok();

    log.release();
    busy.answer().await.expect("the answer in hand").is_ok();
    assert!(busy.is_closed().await);
    tokio::time::timeout(PATIENCE, draining).await.expect("the drain ends").unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_drain_does_not_wait_longer_than_told() {
    let rig = Rig::new().await;
    rig.log.hold();
    let address = rig.http();
    let mut stuck = Client::connect(address).await;
    stuck.write(Ask::post("/v1/track", track("m")).key(KEY).bytes("keep-alive")).await;
    tokio::time::timeout(Duration::from_millis(200), stuck.answer()).await.unwrap_err();
    let Rig { running, log: _log, folder: _folder, .. } = rig;
    let drain = running.drain(Duration::from_millis(100));
    tokio::time::timeout(PATIENCE, drain).await.expect("it ends");
    assert!(stuck.is_closed().await);
}

/// Answers with one line and then nothing, for ever; tells when an answer is dropped.
struct Endless {
    dropped: mpsc::UnboundedSender<()>,
}

struct EndlessBody {
    line: Option<Bytes>,
    dropped: mpsc::UnboundedSender<()>,
}

impl Drop for EndlessBody {
    fn drop(&mut self) {
        assert!(self.dropped.send(()).is_ok(), "the test waits for this");
    }
}

impl Body for EndlessBody {
    type Data = Bytes;
    type Error = ContentError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ContentError>>> {
        self.line.take().map_or(Poll::Pending, |line| Poll::Ready(Some(Ok(Frame::data(line)))))
    }
}

impl Door for Endless {
    fn access(&self, _: &Method, path: &str) -> Option<Access> {
        (path == "/follow").then_some(Access::Open)
    }

    fn handle(&self, _: Request<Bytes>) -> Pending<'static, Response<Content>> {
        let line = Some(Bytes::from_static(b"{}\n"));
        let body = EndlessBody { line, dropped: self.dropped.clone() }.boxed_unsync();
        Box::pin(std::future::ready(Response::new(Content::Streaming { body, endless: true })))
    }
}

async fn following() -> (Rig, Client<TcpStream>, mpsc::UnboundedReceiver<()>) {
    let (sender, dropped) = mpsc::unbounded_channel();
    let rig = Setup { further: Arc::new(Endless { dropped: sender }), ..Setup::new() };
    let rig = rig.start().await;
    let mut client = Client::connect(rig.http()).await;
    client.write(Ask::get("/follow").bytes("keep-alive")).await;
    client.answer().await.unwrap().is_ok();
    (rig, client, dropped)
}

#[tokio::test]
async fn a_drain_does_not_wait_for_answers_without_an_end() {
    let (rig, client, mut dropped) = following().await;
    let Rig { running, log: _log, folder: _folder, .. } = rig;
    let drain = running.drain(PATIENCE * 10);
    tokio::time::timeout(PATIENCE, drain).await.expect("it ends");
    dropped.recv().await.expect("the answer is given up");
    drop(client);
}

#[tokio::test]
async fn an_answer_without_an_end_is_given_up_when_its_client_leaves() {
    let (rig, client, mut dropped) = following().await;
    drop(client);
    let gone = tokio::time::timeout(PATIENCE, dropped.recv()).await;
    gone.expect("it is noticed").expect("the answer is given up");
    let mut client = Client::over(super::tls::connect(&rig, &["http/1.1"]).await.unwrap());
    client.write(Ask::get("/follow").bytes("keep-alive")).await;
    client.answer().await.unwrap().is_ok();
    drop(client);
    let gone = tokio::time::timeout(PATIENCE, dropped.recv()).await;
    gone.expect("it is noticed over TLS").expect("the answer is given up");
    rig.still_serves().await;
}
