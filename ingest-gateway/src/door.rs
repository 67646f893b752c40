//! Routes that others serve on the gateway's sockets: reading topics, metrics, a console.
//!
//! The gateway does what comes before: connections, limits, the admin token, the body. It knows
//! nothing of what these routes do.

use bytes::Bytes;
use http::{Method, Request, Response};
use tracklog_log::Pending;

use crate::answer::Content;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody who reaches the socket.
    Open,
    /// Who brings the admin token.
    Admin,
}

/// A set of routes. Asked for what the gateway does not serve itself.
pub trait Door: Send + Sync + 'static {
    /// Who may ask for `path` by `method`; `None`: there is no such route.
    fn access(&self, method: &Method, path: &str) -> Option<Access>;

    /// Answers. Called only where [`access`](Self::access) named somebody, and after the token was
    /// checked where it is needed. The body is whole and within the limit of admin routes.
    fn handle(&self, request: Request<Bytes>) -> Pending<'static, Response<Content>>;
}

/// No routes.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoDoor;

impl Door for NoDoor {
    fn access(&self, _: &Method, _: &str) -> Option<Access> {
        None
    }

    fn handle(&self, _: Request<Bytes>) -> Pending<'static, Response<Content>> {
        Box::pin(std::future::ready(Response::new(Content::default())))
    }
}
