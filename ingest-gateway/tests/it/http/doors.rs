//! Every door that takes events, over each way to ask: all say the same of a log that is busy.

use bytes::Bytes;
use http::Request;
use tokio::net::TcpStream;
use tracklog_log::{AppendError, Lane, Log as _, Permit};

use super::client::{Answer, Ask, Client, PATIENCE, basic};
use super::rig::{KEY, Rig, Setup, track};
use super::{http2, tls};

/// How a request comes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Http1,
    Http1Tls,
    Http2,
    Http2Tls,
}

const WAYS: [Way; 4] = [Way::Http1, Way::Http1Tls, Way::Http2, Way::Http2Tls];

/// A request that stores one event, or rejects one.
struct Knock {
    method: &'static str,
    path: String,
    body: String,
    /// How often its event is stored, and how often rejected.
    stored: (usize, usize),
}

/// One for every path of `HTTP.md` that takes events.
fn knocks(way: Way) -> Vec<Knock> {
    let knock = |path: &str, body: String| Knock {
        method: "POST",
        path: path.to_owned(),
        body,
        stored: (1, 0),
    };
    let id = |path: &str| format!("{way:?}{path}");
    let mut knocks = Vec::new();
    for kind in ["track", "identify", "page", "screen", "group", "alias"] {
        for path in [format!("/v1/{kind}"), format!("/v1/{}", &kind[..1])] {
            let body = format!(
                r#"{{"event":"e","name":"n","userId":"u","groupId":"g","previousId":"p","messageId":"{}"}}"#,
                id(&path)
            );
            knocks.push(knock(&path, body));
        }
    }
    let merge = format!(r#"{{"messageId":"{}","userId":"u"}}"#, id("merge"));
    knocks.push(Knock { stored: (0, 1), ..knock("/v1/merge", merge) });
    for path in ["/v1/batch", "/v1/b", "/v1/import", "/beacon/v1/batch"] {
        knocks.push(knock(path, format!(r#"{{"batch":[{}]}}"#, track(&id(path)))));
    }
    let (array, lines) = (format!("[{}]", track(&id("array"))), track(&id("lines")) + "\n");
    knocks.extend([array, lines].map(|body| knock("/v1/events", body)));
    for call in ["track", "page"] {
        let path =
            format!("/pixel/v1/{call}?event=e&name=n&anonymousId=a&messageId={way:?}-{call}");
        knocks.push(Knock { method: "GET", ..knock(&path, String::new()) });
    }
    knocks
}

impl Knock {
    /// With its key where this door has it: in the query, or in the head.
    fn target(&self) -> String {
        let sign = if self.path.contains('?') { '&' } else { '?' };
        match self.key_is_in_query() {
            true => format!("{}{sign}writeKey={KEY}", self.path),
            false => self.path.clone(),
        }
    }

    fn key_is_in_query(&self) -> bool {
        self.path.starts_with("/beacon") || self.path.starts_with("/pixel")
    }

    async fn answer(&self, rig: &Rig, way: Way) -> Answer {
        match way {
            Way::Http1 => self.over_http1(TcpStream::connect(rig.http()).await.unwrap()).await,
            Way::Http1Tls => self.over_http1(tls::connect(rig, &["http/1.1"]).await.unwrap()).await,
            Way::Http2 => {
                let stream = TcpStream::connect(rig.http()).await.unwrap();
                self.over_http2(http2::handshake(stream).await).await
            }
            Way::Http2Tls => {
                let stream = tls::connect(rig, &["h2"]).await.unwrap();
                self.over_http2(http2::handshake(stream).await).await
            }
        }
    }

    async fn over_http1<S>(&self, stream: S) -> Answer
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let ask = match self.method {
            "GET" => Ask::get(&self.target()),
            _ => Ask::post(&self.target(), self.body.as_str()),
        };
        let ask = if self.key_is_in_query() { ask } else { ask.key(KEY) };
        let mut client = Client::over(stream);
        client.write(ask.bytes("close")).await;
        client.answer().await.expect("an answer before the end")
    }

    async fn over_http2(&self, sender: http2::Sender) -> Answer {
        let mut request =
            Request::builder().method(self.method).uri(format!("http://x{}", self.target()));
        if !self.key_is_in_query() {
            request = request.header("authorization", basic(KEY));
        }
        let (body, mut sender) = (Bytes::from(self.body.clone()), sender.ready().await.unwrap());
        let request = request.body(()).unwrap();
        let (answer, mut stream) = sender.send_request(request, body.is_empty()).unwrap();
        if !body.is_empty() {
            stream.send_data(body, true).unwrap();
        }
        let reading = async {
            let (head, mut read) = answer.await.unwrap().into_parts();
            let mut body = Vec::new();
            while let Some(piece) = read.data().await {
                body.extend_from_slice(&piece.unwrap());
            }
            let header = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                (name.as_str().to_owned(), value.to_str().unwrap().to_owned())
            };
            let headers = head.headers.iter().map(header).collect();
            Answer { status: head.status.as_u16(), headers, body }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("an answer")
    }
}

/// All of the budget: a lane has half of it at most.
fn all_of(rig: &Rig, budget_bytes: usize) -> [Permit; 2] {
    let others = [Lane(u8::MAX), Lane(u8::MAX - 1)];
    others.map(|lane| rig.log.reserve(lane, budget_bytes / 2).expect("nobody else has any"))
}

/// Ready-made words for a sender: when to come again, and what for.
#[track_caller]
fn says_busy(answer: &Answer, knock: &Knock, way: Way) {
    let told = format!("{way:?} {} {}: {}", knock.method, knock.path, answer.text());
    assert_eq!(answer.status, 429, "{told}");
    assert_eq!(answer.header("retry-after").as_deref(), Some("1"), "{told}");
    answer.refuses(429, "overloaded");
}

#[tokio::test]
async fn every_door_says_429_and_when_to_come_again_while_the_log_is_busy_and_then_takes_the_same()
{
    const BUDGET_BYTES: usize = 4 << 20;
    for way in WAYS {
        let rig = Setup { budget_bytes: BUDGET_BYTES, ..Setup::new() }.start().await;
        let mut counts = (0, 0);
        for knock in knocks(way) {
            // There is no room for it, or the log has none any more once it is judged.
            let held = all_of(&rig, BUDGET_BYTES);
            says_busy(&knock.answer(&rig, way).await, &knock, way);
            drop(held);
            rig.log.fail_next(AppendError::Full { why: "a test says so".into() });
            says_busy(&knock.answer(&rig, way).await, &knock, way);
            assert_eq!(rig.counts().await, counts, "nothing was stored: {}", knock.path);

            let answer = knock.answer(&rig, way).await;
            assert_eq!(answer.status, 200, "{way:?} {}: {}", knock.path, answer.text());
            counts = (counts.0 + knock.stored.0, counts.1 + knock.stored.1);
            assert_eq!(rig.counts().await, counts, "{way:?} {}", knock.path);
        }
    }
}
