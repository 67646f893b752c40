//! The operators' route that explains enrichment.

use http::{Response, StatusCode};
use tracklog_ingest_gateway::Content;

use super::Shared;
use super::answer::{json, refusal};
use crate::explain::{ExplainError, Question};

impl Shared {
    pub(super) async fn explain(&self, body: &[u8]) -> Response<Content> {
        let explainer = match self.explainer.get() {
            Some(Some(explainer)) => explainer,
            Some(None) => return explain_refusal(&ExplainError::Off),
            None => {
                let why = "the node is starting";
                return refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", why);
            }
        };
        let question: Question = match serde_json::from_slice(body) {
            Ok(question) => question,
            Err(error) => {
                return refusal(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string());
            }
        };
        match explainer.explain(&question).await {
            Ok(explanation) => json(StatusCode::OK, &explanation),
            Err(error) => explain_refusal(&error),
        }
    }
}

pub(super) fn explain_refusal(error: &ExplainError) -> Response<Content> {
    let (status, code) = match error {
        ExplainError::NoSource { .. } => (StatusCode::NOT_FOUND, "not_found"),
        ExplainError::Off => (StatusCode::CONFLICT, "off"),
        ExplainError::State(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        _ => (StatusCode::BAD_REQUEST, "invalid_request"),
    };
    refusal(status, code, &error.to_string())
}
