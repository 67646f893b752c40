//! The operators' routes of rejected events: a list, one of them, and trying them again.

use std::sync::Arc;

use http::{Response, StatusCode};
use tracklog_ingest_gateway::Content;
use tracklog_log::AppendError;

use super::Shared;
use super::answer::{json, refusal};
use super::query::{Parameters, listing, retrying};
use crate::quarantine::{Place, QuarantineError, Retries};

impl Shared {
    pub(super) async fn rejected(&self, query: Option<&str>) -> Response<Content> {
        let retries = match self.retries() {
            Ok(retries) => retries,
            Err(refused) => return *refused,
        };
        let asked = Parameters::of(query.unwrap_or_default());
        match asked.and_then(|parameters| listing(parameters, (self.now)())) {
            Ok((filter, after, limit)) => {
                answer(retries.rejections().list(&filter, after, limit).await)
            }
            Err(what) => refusal(StatusCode::BAD_REQUEST, "invalid_request", &what),
        }
    }

    pub(super) async fn rejected_at(&self, place: &str) -> Response<Content> {
        let retries = match self.retries() {
            Ok(retries) => retries,
            Err(refused) => return *refused,
        };
        match place.parse::<Place>() {
            Ok(place) => answer(retries.rejections().show(place).await),
            Err(error) => refusal(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string()),
        }
    }

    pub(super) async fn retry_rejected(&self, query: Option<&str>) -> Response<Content> {
        let retries = match self.retries() {
            Ok(retries) => retries,
            Err(refused) => return *refused,
        };
        let asked = Parameters::of(query.unwrap_or_default());
        match asked.and_then(|parameters| retrying(parameters, (self.now)())) {
            Ok((filter, after)) => answer(retries.retry(&filter, after).await),
            Err(what) => refusal(StatusCode::BAD_REQUEST, "invalid_request", &what),
        }
    }

    fn retries(&self) -> Result<&Arc<Retries>, Box<Response<Content>>> {
        let starting =
            || refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the node is starting");
        self.retries.get().ok_or_else(|| Box::new(starting()))
    }
}

fn answer(told: Result<impl serde::Serialize, QuarantineError>) -> Response<Content> {
    let error = match told {
        Ok(told) => return json(StatusCode::OK, &told),
        Err(error) => error,
    };
    let (status, code) = match &error {
        QuarantineError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
        QuarantineError::Moved => (StatusCode::CONFLICT, "moved"),
        QuarantineError::Busy(_)
        | QuarantineError::Held
        | QuarantineError::Append(AppendError::Full { .. }) => {
            (StatusCode::TOO_MANY_REQUESTS, "overloaded")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    refusal(status, code, &error.to_string())
}
