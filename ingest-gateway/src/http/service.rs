//! What becomes of a request whose head is whole: limits of the head, the route, and the marks
//! that every answer bears.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tracklog_log::Lane;

use super::admission::Refused;
use super::body::{self, Answered, Unreserved, declared_bytes, discard, should_discard};
use super::vitals::InHand;
use crate::answer::{Content, Refusal, answer, json, no_content};
use crate::auth::{AdminToken, Basic, basic_key, query_key};
use crate::cors;
use crate::delivery::{Arrived, Delivered, Desk};
use crate::door::{Access, Door as FurtherRoutes};
use crate::intake::Door;
use crate::metrics::Metrics;
use crate::rejection::Code;
use crate::route::{Route, RouteName};
use crate::settings::Origin;
use crate::{events_api, home, registry_api, rudder_api, segment_api, settings};

/// Bytes that a header line has beside its name and value.
const LINE_BYTES: usize = 4;

/// When whoever has too many connections may try again.
const CONNECTION_RETRY: Duration = Duration::from_secs(1);

/// The lane on which `/readyz` asks whether there is room.
const PROBE: Lane = Lane(6);

/// Who holds the other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    pub(crate) encrypted: bool,
    /// Set for a connection above its address's share, which answers health checks alone; told
    /// when it was asked for something else, after which it ends.
    pub(crate) health_alone: Option<Arc<AtomicBool>>,
}

impl Peer {
    /// Whether the connection was asked for more than it is for.
    pub(super) fn asked_too_much(&self) -> bool {
        self.health_alone.as_ref().is_some_and(|asked| asked.load(Ordering::SeqCst))
    }
}

/// Answers requests of all connections.
pub(crate) struct Service {
    pub(crate) desk: Arc<Desk>,
    pub(crate) admin_token: AdminToken,
    pub(crate) public_host: Option<String>,
    pub(crate) version: &'static str,
    pub(crate) further: Arc<dyn FurtherRoutes>,
    pub(crate) draining: AtomicBool,
}

impl Service {
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.desk.metrics
    }

    /// Answers one request. The body of the answer keeps it in hand.
    pub(super) async fn answer(
        self: Arc<Self>,
        peer: Arc<Peer>,
        in_hand: InHand,
        request: Request<Incoming>,
    ) -> Result<Response<Answered>, Infallible> {
        let origin = cors::origin(request.headers()).cloned();
        let version = request.version();
        let is_head = *request.method() == Method::HEAD;
        let (name, is_for_pages) = {
            let route = Route::of(request.uri().path());
            (route.name(), route.is_for_pages())
        };
        let (name, answered) = self.route(name, &peer, request).await;
        let mut response = answered.unwrap_or_else(Refusal::into_answer);
        if is_for_pages {
            cors::allow(origin.as_ref(), response.headers_mut());
        }
        if is_head {
            response = without_body(response);
        }
        if (self.is_draining() || peer.asked_too_much()) && version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.metrics().request(name, response.status());
        Ok(response.map(|content| Answered::new(content, in_hand)))
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    async fn route(
        &self,
        name: RouteName,
        peer: &Peer,
        request: Request<Incoming>,
    ) -> (RouteName, Result<Response<Content>, Refusal>) {
        if let Some(asked) = &peer.health_alone
            && !matches!(name, RouteName::Health | RouteName::Ready)
        {
            asked.store(true, Ordering::SeqCst);
            self.metrics().connection_refused(Refused::Address);
            let message = "too many open connections from this address";
            return (name, refuse(request, Refusal::overloaded(message, CONNECTION_RETRY)).await);
        }
        if let Err(refusal) = self.check_head(&request) {
            return (name, refuse(request, refusal).await);
        }
        match name {
            RouteName::Single
            | RouteName::Batch
            | RouteName::Import
            | RouteName::Events
            | RouteName::Beacon
            | RouteName::Pixel => (name, self.take_events(peer, request).await),
            RouteName::Schemas => (name, self.registry(request).await),
            RouteName::Unknown => self.further(request).await,
            _ => (name, self.small(peer, request).await),
        }
    }

    fn check_head(&self, request: &Request<Incoming>) -> Result<(), Refusal> {
        let limits = &self.desk.limits;
        let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
        if target > limits.target_bytes_max {
            let message = format!("the URL is longer than {} bytes", limits.target_bytes_max);
            return Err(Refusal::new(StatusCode::URI_TOO_LONG, Code::TooLarge, message));
        }
        let line = |(name, value): (&http::HeaderName, &HeaderValue)| {
            name.as_str().len() + value.len() + LINE_BYTES
        };
        if request.headers().iter().map(line).sum::<usize>() > limits.header_bytes_max {
            let message = format!("the headers are larger than {} bytes", limits.header_bytes_max);
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            return Err(Refusal::new(status, Code::TooLarge, message));
        }
        let route = Route::of(request.uri().path());
        if !route.takes(request.method()) {
            return Err(Refusal::method(route.methods().unwrap_or_default()));
        }
        Ok(())
    }

    /// A pre-flight, or a delivery of events.
    async fn take_events(
        &self,
        peer: &Peer,
        request: Request<Incoming>,
    ) -> Result<Response<Content>, Refusal> {
        if *request.method() == Method::OPTIONS {
            return Ok(preflight(&request));
        }
        if self.is_draining() {
            let refusal = Refusal::unavailable("the server is shutting down");
            return refuse(request, refusal).await;
        }
        let (door, is_pixel) = match Route::of(request.uri().path()) {
            Route::Single(call) => (segment_api::door_of(call), false),
            Route::Pixel(call) => (segment_api::door_of(call), true),
            Route::Import => (Door::Import, false),
            Route::Events => (Door::Events, false),
            _ => (Door::Batch, false),
        };
        let arrived = if is_pixel {
            self.receive_pixel(peer, door, request)?
        } else {
            self.receive(peer, door, request).await?
        };
        let delivered = arrived.deliver().await?;
        let response = word(&delivered, door, is_pixel);
        delivered.recycle();
        Ok(response)
    }

    async fn receive(
        &self,
        peer: &Peer,
        door: Door,
        request: Request<Incoming>,
    ) -> Result<Arrived, Refusal> {
        let mut expected = match self.desk.expect(request.headers(), declared_bytes(&request)) {
            Ok(expected) => expected,
            Err(refusal) => return refuse(request, refusal).await,
        };
        let worth_discarding = should_discard(&request);
        let (head, mut incoming) = request.into_parts();
        let bytes_max = expected.body_bytes_max;
        match body::read(&mut incoming, bytes_max, &self.desk.limits, &mut expected).await {
            Ok(body) => Ok(Arrived { expected, body, head, door, peer: peer.address }),
            Err(refusal) => {
                drop(expected);
                if worth_discarding && refusal.status != StatusCode::REQUEST_TIMEOUT {
                    discard(&mut incoming).await;
                }
                Err(refusal)
            }
        }
    }

    /// A pixel has its event in the query, and no body.
    fn receive_pixel(
        &self,
        peer: &Peer,
        door: Door,
        request: Request<Incoming>,
    ) -> Result<Arrived, Refusal> {
        let (head, _) = request.into_parts();
        let body = Bytes::from(rudder_api::pixel_event(head.uri.query().unwrap_or_default()));
        let expected = self.desk.expect(&head.headers, Some(body.len()))?;
        Ok(Arrived { expected, body, head, door, peer: peer.address })
    }

    async fn registry(&self, request: Request<Incoming>) -> Result<Response<Content>, Refusal> {
        if !self.admin_token.admits(request.headers()) {
            return refuse(request, Refusal::no_token()).await;
        }
        let (head, body) = self.whole(request).await?;
        let Route::Schemas(rest) = Route::of(head.uri.path()) else {
            return Err(Refusal::not_found());
        };
        registry_api::handle(&self.desk.registry, &head.method, rest, body).await
    }

    /// What others serve on our sockets.
    async fn further(
        &self,
        request: Request<Incoming>,
    ) -> (RouteName, Result<Response<Content>, Refusal>) {
        let Some(access) = self.further.access(request.method(), request.uri().path()) else {
            return (RouteName::Unknown, refuse(request, Refusal::not_found()).await);
        };
        (RouteName::Door, self.through(access, request).await)
    }

    async fn through(
        &self,
        access: Access,
        request: Request<Incoming>,
    ) -> Result<Response<Content>, Refusal> {
        if access == Access::Admin && !self.admin_token.admits(request.headers()) {
            return refuse(request, Refusal::no_token()).await;
        }
        let (head, body) = self.whole(request).await?;
        Ok(self.further.handle(Request::from_parts(head, body)).await)
    }

    /// A request with all of its body.
    async fn whole(
        &self,
        request: Request<Incoming>,
    ) -> Result<(http::request::Parts, Bytes), Refusal> {
        let limits = &self.desk.limits;
        let bytes_max = limits.admin_body_bytes_max;
        if declared_bytes(&request).is_some_and(|bytes| bytes > bytes_max) {
            return refuse(request, Refusal::too_large(bytes_max)).await;
        }
        let (head, mut incoming) = request.into_parts();
        let body = body::read(&mut incoming, bytes_max, limits, &mut Unreserved).await?;
        Ok((head, body))
    }

    /// Routes that store nothing.
    async fn small(
        &self,
        peer: &Peer,
        request: Request<Incoming>,
    ) -> Result<Response<Content>, Refusal> {
        if *request.method() == Method::OPTIONS {
            return Ok(preflight(&request));
        }
        match Route::of(request.uri().path()) {
            Route::Health => Ok(answer("text/plain", "ok\n")),
            Route::Ready => self.ready(),
            Route::Home => Ok(self.home(peer, &request)),
            Route::Settings(key) => self.segment_settings(peer, &settings::key_of(key), &request),
            Route::SourceConfig => self.rudder_settings(&request),
            Route::SdkMetrics => {
                let (_, mut incoming) = request.into_parts();
                discard(&mut incoming).await;
                Ok(json(segment_api::SUCCESS))
            }
            _ => Err(Refusal::not_found()),
        }
    }

    fn ready(&self) -> Result<Response<Content>, Refusal> {
        if self.is_draining() {
            return Err(Refusal::unavailable("the server is shutting down"));
        }
        if !self.desk.writer.is_well(PROBE) {
            return Err(Refusal::unavailable("the log takes nothing now, or too much at once"));
        }
        Ok(answer("text/plain", "ready\n"))
    }

    fn home(&self, peer: &Peer, request: &Request<Incoming>) -> Response<Content> {
        let mut response = answer(
            "text/plain; charset=utf-8",
            home::page(self.version, &self.origin(peer, request)),
        );
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn origin(&self, peer: &Peer, request: &Request<Incoming>) -> Origin {
        let public_host = self.public_host.as_deref();
        let trusted = &self.desk.trusted_proxies;
        Origin::of(request, peer.address, peer.encrypted, public_host, trusted)
    }

    fn segment_settings(
        &self,
        peer: &Peer,
        key: &[u8],
        request: &Request<Incoming>,
    ) -> Result<Response<Content>, Refusal> {
        let source = self.desk.sources.by_key(key).ok_or_else(Refusal::not_found)?;
        Ok(settings::segment(&source.write_key, &self.origin(peer, request)))
    }

    fn rudder_settings(&self, request: &Request<Incoming>) -> Result<Response<Content>, Refusal> {
        let key = match basic_key(request.headers()) {
            Basic::Key(key) => Some(key),
            Basic::Unreadable => None,
            Basic::Absent => query_key(request.uri().query()).map(|key| key.as_bytes().to_vec()),
        };
        let source = key.and_then(|key| self.desk.sources.by_key(&key));
        let source = source.ok_or_else(Refusal::unknown_key)?;
        Ok(settings::rudder(&source.rules.name, &source.write_key))
    }
}

/// The answer to a HEAD says how long its body would be and has none: HTTP/2 streams of which one
/// comes all the same are reset by clients.
fn without_body(response: Response<Content>) -> Response<Content> {
    let (mut head, content) = response.into_parts();
    if let Content::Whole(bytes) = content {
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    Response::from_parts(head, Content::default())
}

/// What a door says of a delivery.
fn word(delivered: &Delivered, door: Door, is_pixel: bool) -> Response<Content> {
    match door {
        _ if is_pixel => rudder_api::pixel_answer(),
        Door::Events => events_api::answer(delivered),
        Door::Batch | Door::Import => segment_api::batch_answer(delivered),
        Door::Single(_) | Door::Merge => segment_api::single_answer(delivered, door),
    }
}

fn preflight(request: &Request<Incoming>) -> Response<Content> {
    let mut response = no_content();
    cors::allow_preflight(request.headers(), response.headers_mut());
    response
}

/// Refuses a request whose body was not read.
async fn refuse<T>(request: Request<Incoming>, refusal: Refusal) -> Result<T, Refusal> {
    if should_discard(&request) {
        discard(&mut request.into_body()).await;
    }
    Err(refusal)
}
