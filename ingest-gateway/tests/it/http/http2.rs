//! HTTP/2, with and without TLS, well-behaved and not.
#![allow(clippy::big_endian_bytes, reason = "frames of HTTP/2 are big-endian")]

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{Ask, Client, PATIENCE, basic};
use super::rig::{KEY, Rig, Setup, track};
use super::tls;

pub(super) type Sender = h2::client::SendRequest<Bytes>;

pub(super) async fn handshake<S>(stream: S) -> Sender
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    sender
}

fn request() -> Request<()> {
    let request = Request::post("http://tracklog.example/v1/track");
    request.header("authorization", basic(KEY)).body(()).unwrap()
}

async fn post(sender: Sender, body: String) -> u16 {
    let mut sender = sender.ready().await.unwrap();
    let (answer, mut stream) = sender.send_request(request(), false).unwrap();
    stream.send_data(body.into(), true).unwrap();
    tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap().status().as_u16()
}

#[tokio::test]
async fn many_streams_share_a_connection_with_and_without_tls() {
    let rig = Rig::new().await;
    let plain = handshake(TcpStream::connect(rig.http()).await.unwrap()).await;
    let tls = handshake(tls::connect(&rig, &["h2", "http/1.1"]).await.unwrap()).await;
    let mut posts = tokio::task::JoinSet::new();
    for number in 0..60 {
        let sender = if number % 2 == 0 { plain.clone() } else { tls.clone() };
        posts.spawn(post(sender, track(&format!("m{number}"))));
    }
    assert!(posts.join_all().await.iter().all(|status| *status == 200));
    assert_eq!(rig.counts().await, (60, 0));
}

#[tokio::test]
async fn a_connection_above_its_address_s_share_ends_when_it_is_asked_for_more_than_health() {
    let setup = Setup::new().change(|config| config.connections.address_connections_max = 1);
    let rig = setup.start().await;
    let mut held = Client::connect(rig.http()).await;
    held.write(Ask::get("/livez").bytes("keep-alive")).await;
    held.answer().await.unwrap().is_ok();
    let stream = TcpStream::connect(rig.http()).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    let health = Request::get("http://tracklog.example/readyz").body(()).unwrap();
    let (answer, _) = sender.send_request(health, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    assert_eq!(post(sender, track("m")).await, 429);
    tokio::time::timeout(PATIENCE, ended).await.expect("it ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_body_that_declares_nothing_is_taken_and_one_over_the_limit_is_413() {
    let rig = Rig::new().await;
    let sender = handshake(TcpStream::connect(rig.http()).await.unwrap()).await;
    assert_eq!(post(sender.clone(), track("m")).await, 200);
    let mut ready = sender.ready().await.unwrap();
    let (answer, mut stream) = ready.send_request(request(), false).unwrap();
    let mut sent = 0;
    stream.reserve_capacity(1 << 20);
    while sent <= 4 << 20 {
        let Some(Ok(room)) = std::future::poll_fn(|context| stream.poll_capacity(context)).await
        else {
            break;
        };
        if stream.send_data(vec![b' '; room].into(), false).is_err() {
            break;
        }
        sent += room;
        stream.reserve_capacity(1 << 20);
    }
    let status = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap().status();
    assert_eq!(status, 413);
}

#[tokio::test]
async fn the_answer_to_a_head_has_a_length_and_no_body_on_both_versions() {
    let rig = Rig::new().await;
    let pixel = "/pixel/v1/track?writeKey=tl_key-of-the-shop&anonymousId=a&event=x";
    let refused = [("/v1/track", 405), (pixel, 405), ("/nowhere", 404)];
    for (path, status) in [("/", 200), ("/livez", 200)].into_iter().chain(refused) {
        let sender = handshake(TcpStream::connect(rig.http()).await.unwrap()).await;
        let head = Request::head(format!("http://tracklog.example{path}")).body(()).unwrap();
        let (answer, _) = sender.ready().await.unwrap().send_request(head, true).unwrap();
        let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!(answer.status(), status, "{path}");
        let length = answer.headers()["content-length"].clone();
        assert_ne!(length, "0", "{path}");
        let mut body = answer.into_body();
        assert!(body.data().await.is_none() && body.is_end_stream(), "{path}");

        let mut client = Client::connect(rig.http()).await;
        client.write(Ask::new("HEAD", path).bytes("close")).await;
        let mut read = String::new();
        client.stream.read_to_string(&mut read).await.unwrap();
        assert!(read.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {read}");
        let line = format!("\r\ncontent-length: {}\r\n", length.to_str().unwrap());
        assert!(read.contains(&line) && read.ends_with("\r\n\r\n"), "{path}: {read}");
    }
    assert_eq!(rig.counts().await, (0, 0), "looking at a pixel is no event");
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

/// The opening of a connection.
fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}

/// Whether the server ends the connection and says so first.
async fn says_goaway(stream: &mut TcpStream) -> bool {
    let mut read = Vec::new();
    let reading = stream.read_to_end(&mut read);
    // A reset after the GOAWAY is an end as well.
    drop(tokio::time::timeout(PATIENCE, reading).await.expect("the end"));
    let mut rest = read.as_slice();
    while let Some((head, after)) = rest.split_first_chunk::<9>() {
        if head[3] == GOAWAY {
            return true;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        rest = after.get(length..).unwrap_or_default();
    }
    false
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_and_nothing_else() {
    let rig = Rig::new().await;
    let mut bytes = preface();
    for number in 0..5_000 {
        let stream = number * 2 + 1;
        // POST, http, /, authority "x".
        bytes.extend(frame(HEADERS, 4, stream, &[0x83, 0x86, 0x84, 0x41, 1, b'x']));
        bytes.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    let mut client = TcpStream::connect(rig.http()).await.unwrap();
    // The server may have closed before all is written.
    drop(client.write_all(&bytes).await);
    assert!(says_goaway(&mut client).await);
    rig.still_serves().await;
}

#[tokio::test]
async fn headers_without_end_cost_their_connection() {
    const CONTINUATION: u8 = 9;
    let rig = Rig::new().await;
    let mut bytes = preface();
    bytes.extend(frame(HEADERS, 0, 1, &[0x83, 0x86, 0x84, 0x41, 1, b'x']));
    // A literal that is not indexed: `x: yyyy…`.
    let mut line = vec![0, 1, b'x', 0x7f, 0x80, 0x7f];
    line.extend([b'y'; 16_127 + 127]);
    for _ in 0..200 {
        bytes.extend(frame(CONTINUATION, 0, 1, &line));
    }
    let mut client = TcpStream::connect(rig.http()).await.unwrap();
    drop(client.write_all(&bytes).await);
    assert!(says_goaway(&mut client).await);
    rig.still_serves().await;
}
