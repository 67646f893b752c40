//! One delivery of events, whatever its door: from the head of the request to the ack.
//!
//! 1. The coding, the write key as far as the head has one, and room in the log are looked at
//!    before the body is read.
//! 2. The body is read, decoded, scanned; now the source is known. Its events are judged and
//!    handed to the log. Nothing of this waits; large bodies do it on a thread of their own.
//! 3. The answer waits until all of it is durable.
//!
//! The doors (`segment_api`, `events_api`, `rudder_api`) say what a body looks like and word the
//! answer.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, StatusCode, request};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracklog_log::{Lane, Permit};
use tracklog_protocol::TimeMicros;
use tracklog_registry::Registry;

use crate::ack::{Acked, Writer, Written};
use crate::answer::Refusal;
use crate::auth::{Basic, basic_key, query_key};
use crate::client_ip::{Forwarding, TrustedProxies, client_address};
use crate::config::RequestLimits;
use crate::cors;
use crate::encoding::{self, Coding, DecodeError};
use crate::http::Room;
use crate::intake::{Door, Intake, Judged, RequestFacts, Submission, Validate};
use crate::metrics::Metrics;
use crate::rejection::{Code, Rejection};
use crate::scan::{ScanLimits, Unreadable};
use crate::source::SourceRules;
use crate::sources::{KeptHeaders, KnownSource, Sources};

/// Where bodies wait whose source is named in them alone.
const UNNAMED: Lane = Lane(7);

/// The body for which room is held at first; more is taken as it comes.
const FIRST_ROOM_BYTES: usize = 16 << 10;

/// Bodies above this size are decoded and judged on a thread of their own: some 100 µs of work
/// would hold up other connections. Compressed ones swell.
const INLINE_BYTES_MAX: usize = 128 << 10;
const INLINE_COMPRESSED_BYTES_MAX: usize = 16 << 10;

/// Memory for decoded bodies that a thread keeps.
const DECODED_BYTES_KEPT: usize = 1 << 20;

/// Everything that deliveries share.
pub(crate) struct Desk {
    pub(crate) sources: Sources,
    pub(crate) registry: Arc<Registry>,
    pub(crate) writer: Writer,
    pub(crate) metrics: Metrics,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) limits: RequestLimits,
    /// The largest limits that any source has.
    pub(crate) scan_limits: ScanLimits,
    /// As many large bodies are worked on at a time.
    pub(crate) large_bodies: Arc<Semaphore>,
}

/// A request for which room is set aside, and whose body may be read.
pub(crate) struct Expected {
    desk: Arc<Desk>,
    coding: Coding,
    source: Option<Arc<KnownSource>>,
    permit: Permit,
    /// How many bytes of a body may come.
    pub(crate) body_bytes_max: usize,
    /// The same, or as many as the client announced.
    announced_bytes: usize,
}

impl Desk {
    /// Looks at the head of a request and sets room aside.
    pub(crate) fn expect(
        self: &Arc<Self>,
        head: &HeaderMap,
        declared_bytes: Option<usize>,
    ) -> Result<Expected, Refusal> {
        let coding = encoding::coding(head).map_err(|error| {
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Refusal::new(status, Code::UnsupportedEncoding, error.to_string())
        })?;
        let source = self.source_of_head(head)?;
        let body_bytes_max = match &source {
            Some(source) => source.body_bytes_max,
            None => self.sources.body_bytes_max(),
        };
        if declared_bytes.is_some_and(|bytes| bytes > body_bytes_max) {
            return Err(Refusal::too_large(body_bytes_max));
        }
        let lane = source.as_ref().map_or(UNNAMED, |source| source.lane);
        let permit = self.room_at_first(lane, declared_bytes.unwrap_or(FIRST_ROOM_BYTES))?;
        let announced_bytes = declared_bytes.unwrap_or(body_bytes_max);
        let desk = Arc::clone(self);
        Ok(Expected { desk, coding, source, permit, body_bytes_max, announced_bytes })
    }

    /// Refuses a body for which there is no room now, before it is read. Only the first of it is
    /// held: whoever announces much and sends nothing would keep all others out.
    fn room_at_first(&self, lane: Lane, body_bytes: usize) -> Result<Permit, Refusal> {
        let mut permit = self.writer.reserve(lane, room_for(body_bytes))?;
        if body_bytes > FIRST_ROOM_BYTES {
            permit.shrink_to(room_for(FIRST_ROOM_BYTES));
        }
        Ok(permit)
    }

    fn source_of_head(&self, head: &HeaderMap) -> Result<Option<Arc<KnownSource>>, Refusal> {
        match basic_key(head) {
            Basic::Absent => Ok(None),
            Basic::Unreadable => Err(Refusal::unknown_key()),
            Basic::Key(key) => {
                self.sources.by_key(&key).cloned().map(Some).ok_or_else(Refusal::unknown_key)
            }
        }
    }
}

/// Records take more room than the JSON they come from.
const fn room_for(body_bytes: usize) -> usize {
    body_bytes.saturating_mul(2).saturating_add(1 << 10)
}

impl Room for Expected {
    fn grow_to(&mut self, body_bytes: usize) -> Result<(), Refusal> {
        let room = room_for(body_bytes);
        if room <= self.permit.bytes() {
            return Ok(());
        }
        // Doubled, so that a body in many pieces does not ask at each.
        let doubled = room.saturating_mul(2).min(room_for(self.announced_bytes));
        self.permit.shrink_to(0);
        let lane = self.source.as_ref().map_or(UNNAMED, |source| source.lane);
        self.permit = self.desk.writer.reserve(lane, doubled.max(room))?;
        Ok(())
    }
}

/// A whole delivery, as it came.
pub(crate) struct Arrived {
    pub(crate) expected: Expected,
    pub(crate) body: Bytes,
    pub(crate) head: request::Parts,
    pub(crate) door: Door,
    pub(crate) peer: IpAddr,
}

/// A delivery that is durable.
pub(crate) struct Delivered {
    pub(crate) acked: Acked,
    pub(crate) desk: Arc<Desk>,
}

impl Delivered {
    /// Gives the memory back once the answer is worded.
    pub(crate) fn recycle(self) {
        with_bench(|bench| bench.intake.recycle(self.acked.judged));
    }
}

impl Arrived {
    /// Judges and stores all of it.
    pub(crate) async fn deliver(self) -> Result<Delivered, Refusal> {
        let began = Instant::now();
        let desk = Arc::clone(&self.expected.desk);
        let deadline = began + desk.limits.answer_timeout;
        let (written, source) =
            if self.is_large() { self.write_on_a_thread(deadline).await? } else { self.write()? };
        let acked = desk.writer.durable(written, deadline).await?;
        desk.metrics.acked(began.elapsed());
        source.count(&acked.judged, acked.known());
        Ok(Delivered { acked, desk })
    }

    fn is_large(&self) -> bool {
        let compressed =
            self.expected.coding != Coding::Identity || encoding::looks_like_gzip(&self.body);
        let bytes_max = if compressed { INLINE_COMPRESSED_BYTES_MAX } else { INLINE_BYTES_MAX };
        self.body.len() > bytes_max
    }

    async fn write_on_a_thread(
        self,
        deadline: Instant,
    ) -> Result<(Written, Arc<KnownSource>), Refusal> {
        let late = |_| Refusal::unavailable("not begun within the time given");
        let turns = Arc::clone(&self.expected.desk.large_bodies);
        let turn = timeout_at(deadline, turns.acquire_owned())
            .await
            .map_err(late)?
            .expect("nobody closes this semaphore");
        let work = tokio::task::spawn_blocking(move || {
            let written = self.write();
            drop(turn);
            written
        });
        // A runtime that shuts down takes no more work: the process ends.
        work.await.unwrap_or_else(|_| Err(Refusal::unavailable("the server is shutting down")))
    }

    /// Decodes, scans, judges, and hands over. Does not wait.
    fn write(self) -> Result<(Written, Arc<KnownSource>), Refusal> {
        with_bench(|bench| self.write_at(bench))
    }

    fn write_at(self, bench: &mut Bench) -> Result<(Written, Arc<KnownSource>), Refusal> {
        let Self { expected, body, head, door, peer } = self;
        let Expected { desk, coding, source, mut permit, .. } = expected;
        let decoded_bytes_max = match &source {
            Some(source) => source.decoded_bytes_max,
            None => desk.sources.decoded_bytes_max(),
        };
        let Bench { intake, decoded } = bench;
        let text = encoding::decode(&body, coding, decoded_bytes_max, decoded)
            .map_err(|error| desk.undecodable(error))?;
        let submission =
            intake.scan(text, door, &desk.scan_limits).map_err(|error| desk.unreadable(&error))?;
        let source = match source {
            Some(source) => source,
            None => desk.source_of_body(&submission, &head)?,
        };
        source.admit(cors::origin(&head.headers), body.len(), text.len())?;
        let judged = desk.judge(submission, &source, &head.headers, peer)?;
        desk.hold(&mut permit, &source, &judged)?;
        Ok((desk.writer.write(permit, judged), source))
    }
}

impl Desk {
    fn source_of_body(
        &self,
        submission: &Submission<'_>,
        head: &request::Parts,
    ) -> Result<Arc<KnownSource>, Refusal> {
        let in_query = || query_key(head.uri.query()).map(|key| key.into_owned());
        let key = submission.root_write_key().filter(|key| !key.is_empty());
        let key = key.or_else(|| submission.event_write_key()).or_else(in_query);
        let source = key.and_then(|key| self.sources.by_key(key.as_bytes()));
        source.cloned().ok_or_else(Refusal::unknown_key)
    }

    fn judge(
        &self,
        submission: Submission<'_>,
        source: &KnownSource,
        head: &HeaderMap,
        peer: IpAddr,
    ) -> Result<Judged, Refusal> {
        let head = Head { fields: head, peer: Some(peer), received: now() };
        let (proxies, schemas) = (&self.trusted_proxies, &*self.registry);
        judge(submission, &source.rules, &source.headers, &head, proxies, schemas)
            .map_err(|error| self.unreadable(&error))
    }

    /// Makes `permit` one of the source's lane that is enough for all of `judged`.
    fn hold(
        &self,
        permit: &mut Permit,
        source: &KnownSource,
        judged: &Judged,
    ) -> Result<(), Refusal> {
        let bytes = Writer::bytes_of(judged);
        if permit.lane() != source.lane || permit.bytes() < bytes {
            permit.shrink_to(0);
            *permit = self.writer.reserve(source.lane, bytes)?;
        } else {
            permit.shrink_to(bytes);
        }
        Ok(())
    }

    fn undecodable(&self, error: DecodeError) -> Refusal {
        match error {
            DecodeError::TooLarge { .. } => {
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                Refusal::new(status, Code::TooLarge, error.to_string())
            }
            DecodeError::Broken { .. } => {
                self.metrics.unreadable(Code::InvalidJson);
                Refusal::bad(Rejection::new(Code::InvalidJson, error.to_string()))
            }
        }
    }

    fn unreadable(&self, error: &Unreadable) -> Refusal {
        let code = error.flaw.code;
        self.metrics.unreadable(code);
        let status = match code {
            Code::TooLarge | Code::TooMany => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Refusal::new(status, code, error.to_string())
    }
}

/// What a request says before its body, and what is known of it besides.
pub(crate) struct Head<'a> {
    pub(crate) fields: &'a HeaderMap,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) received: TimeMicros,
}

/// Judges the events of a request by the rules of its source.
pub(crate) fn judge(
    submission: Submission<'_>,
    rules: &SourceRules,
    headers: &KeptHeaders,
    head: &Head<'_>,
    proxies: &TrustedProxies,
    schemas: &dyn Validate,
) -> Result<Judged, Unreadable> {
    let is_proxy = head.peer.is_some_and(|peer| proxies.contains(peer));
    let behind = |peer| if is_proxy { client_behind(peer, head.fields, proxies) } else { peer };
    let request = RequestFacts {
        received: head.received,
        peer: head.peer,
        client: head.peer.map(behind),
        user_agent: text_of(head.fields, &USER_AGENT),
        headers: &headers.kept(head.fields, is_proxy),
    };
    submission.judge(rules, &request, schemas, &mut |id| {
        getrandom::fill(id).expect("the kernel gives random bytes at any time after boot");
    })
}

fn client_behind(peer: IpAddr, head: &HeaderMap, proxies: &TrustedProxies) -> IpAddr {
    let all = |name: &'static str| -> Vec<&str> {
        head.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
    };
    let (x_forwarded_for, forwarded) = (all("x-forwarded-for"), all("forwarded"));
    let forwarding = Forwarding { x_forwarded_for: &x_forwarded_for, forwarded: &forwarded };
    client_address(peer, &forwarding, proxies)
}

/// What a header says, where it is text.
pub(crate) fn text_of<'a>(head: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    head.get(name).and_then(|value| str::from_utf8(value.as_bytes()).ok())
}

pub(crate) fn now() -> TimeMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimeMicros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// The buffers of one thread.
#[derive(Default)]
pub(crate) struct Bench {
    pub(crate) intake: Intake,
    decoded: Vec<u8>,
}

/// Lends this thread's buffers. `work` does not wait, so nobody else asks for them meanwhile.
pub(crate) fn with_bench<T>(work: impl FnOnce(&mut Bench) -> T) -> T {
    thread_local! {
        static BENCH: RefCell<Bench> = RefCell::default();
    }
    BENCH.with_borrow_mut(|bench| {
        let done = work(bench);
        bench.decoded.clear();
        bench.decoded.shrink_to(DECODED_BYTES_KEPT);
        done
    })
}
