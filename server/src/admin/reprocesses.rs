//! The operators' routes of reprocesses.

use http::{Response, StatusCode};
use tracklog_ingest_gateway::Content;

use super::Shared;
use super::answer::{json, refusal};
use crate::reprocess::{NewJob, ReprocessError, Reprocesses};

impl Shared {
    pub(super) async fn list_reprocesses(&self) -> Response<Content> {
        let Some(all) = self.reprocesses() else { return starting() };
        match all.list().await {
            Ok(list) => json(StatusCode::OK, &serde_json::json!({ "reprocesses": list })),
            Err(error) => reprocess_refusal(&error),
        }
    }

    pub(super) async fn create_reprocess(&self, body: &[u8]) -> Response<Content> {
        let Some(all) = self.reprocesses() else { return starting() };
        let asked: NewJob = match serde_json::from_slice(body) {
            Ok(asked) => asked,
            Err(error) => {
                return refusal(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string());
            }
        };
        match all.create(asked).await {
            Ok(job) => json(StatusCode::OK, &job),
            Err(error) => reprocess_refusal(&error),
        }
    }

    pub(super) async fn describe_reprocess(&self, name: &str) -> Response<Content> {
        let Some(all) = self.reprocesses() else { return starting() };
        match all.describe(name).await {
            Ok(job) => json(StatusCode::OK, &job),
            Err(error) => reprocess_refusal(&error),
        }
    }

    pub(super) async fn cancel_reprocess(&self, name: &str) -> Response<Content> {
        let Some(all) = self.reprocesses() else { return starting() };
        match all.cancel(name).await {
            Ok(()) => json(StatusCode::OK, &serde_json::json!({ "success": true })),
            Err(error) => reprocess_refusal(&error),
        }
    }

    fn reprocesses(&self) -> Option<&Reprocesses> {
        self.reprocesses.get().map(|all| &**all)
    }
}

fn starting() -> Response<Content> {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the node is starting")
}

fn reprocess_refusal(error: &ReprocessError) -> Response<Content> {
    let (status, code) = match error {
        ReprocessError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
        ReprocessError::Stage(_)
        | ReprocessError::Name(_)
        | ReprocessError::GroupName(_)
        | ReprocessError::Bound(_)
        | ReprocessError::ThenOfArchive
        | ReprocessError::Archive(_) => (StatusCode::BAD_REQUEST, "invalid_request"),
        ReprocessError::Own(_) => (StatusCode::CONFLICT, "protected"),
        ReprocessError::Exists(_) | ReprocessError::NotEmpty(_) => (StatusCode::CONFLICT, "exists"),
        ReprocessError::Off | ReprocessError::Partitions => (StatusCode::CONFLICT, "in_use"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    refusal(status, code, &error.to_string())
}
