//! The operators' route that forgets somebody.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;
use tracklog_ingest_gateway::Content;

use super::Shared;
use super::answer::refusal;
use super::stream::Lines;
use crate::node::forgetting::Refused;

/// Whom to forget.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked {
    user: String,
    #[serde(default)]
    dry_run: bool,
}

impl Shared {
    pub(super) fn forget(&self, body: &[u8]) -> Response<Content> {
        let Some(forgetting) = self.forgetting.get() else {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the node is starting");
        };
        let Asked { user, dry_run } = match serde_json::from_slice(body) {
            Ok(asked) => asked,
            Err(error) => {
                return refusal(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string());
            }
        };
        let mut told = match forgetting.begin(user, dry_run) {
            Ok(told) => told,
            Err(refused) => {
                let (status, code) = match refused {
                    Refused::Busy => (StatusCode::CONFLICT, "in_use"),
                    Refused::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
                };
                return refusal(status, code, &refused.to_string());
            }
        };
        let (lines, sender) = Lines::new(None);
        tokio::spawn(async move {
            while let Some(line) = told.recv().await {
                if !sender.send(Bytes::from(line.to_json())).await {
                    break;
                }
            }
        });
        lines.into_response()
    }
}
