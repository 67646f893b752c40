//! The operators' routes of rules and destinations.

use std::sync::Arc;

use http::{Response, StatusCode};
use tracklog_ingest_gateway::Content;

use super::Shared;
use super::answer::{json, refusal};
use super::explain::explain_refusal;
use super::groups::group_refusal;
use crate::explain::ExplainError;
use crate::node::routing::{DestinationError, Routing};
use crate::node::standing::Standing;
use crate::routes::RouteQuestion;

/// What is done to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Pause,
    Resume,
    Retry,
}

impl Act {
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "pause" => Some(Self::Pause),
            "resume" => Some(Self::Resume),
            "retry" => Some(Self::Retry),
            _ => None,
        }
    }
}

impl Shared {
    fn routing(&self) -> Result<&Arc<Routing>, Box<Response<Content>>> {
        let starting =
            || refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the node is starting");
        self.routing.get().ok_or_else(|| Box::new(starting()))
    }

    pub(super) async fn show_routes(&self) -> Response<Content> {
        match self.routing() {
            Ok(routing) => json(StatusCode::OK, &routing.status().await),
            Err(refused) => *refused,
        }
    }

    pub(super) async fn explain_route(&self, body: &[u8]) -> Response<Content> {
        let routing = match self.routing() {
            Ok(routing) => routing,
            Err(refused) => return *refused,
        };
        let asked: RouteQuestion = match serde_json::from_slice(body) {
            Ok(asked) => asked,
            Err(error) => {
                return refusal(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string());
            }
        };
        let Some(Some(explainer)) = self.explainer.get() else {
            return explain_refusal(&ExplainError::Off);
        };
        let text = match asked.rules {
            Some(text) => text,
            None => routing.text().await,
        };
        match explainer.route(&asked.question, &text, routing.from()).await {
            Ok(explanation) => json(StatusCode::OK, &explanation),
            Err(error) => explain_refusal(&error),
        }
    }

    pub(super) async fn list_destinations(&self) -> Response<Content> {
        let routing = match self.routing() {
            Ok(routing) => routing,
            Err(refused) => return *refused,
        };
        match routing.destinations().await {
            Ok(mut list) => {
                list.extend(self.standing.get().into_iter().flat_map(Standing::list));
                json(StatusCode::OK, &serde_json::json!({ "destinations": list }))
            }
            Err(error) => group_refusal(&error),
        }
    }

    pub(super) async fn act_on_destination(&self, name: &str, act: Act) -> Response<Content> {
        let routing = match self.routing() {
            Ok(routing) => routing,
            Err(refused) => return *refused,
        };
        let done = match act {
            Act::Pause => routing.pause(name, true).await,
            Act::Resume => routing.pause(name, false).await,
            Act::Retry => routing.retry(name).await,
        };
        match done {
            Ok(()) => json(StatusCode::OK, &serde_json::json!({ "success": true })),
            Err(error) => destination_refusal(&of_standing(error)),
        }
    }
}

/// What no rule names may be what needs none.
fn of_standing(error: DestinationError) -> DestinationError {
    match &error {
        DestinationError::NotFound(name) => {
            Standing::refusal(name).map_or(error, DestinationError::Conflict)
        }
        _ => error,
    }
}

fn destination_refusal(error: &DestinationError) -> Response<Content> {
    let (status, code) = match error {
        DestinationError::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
        DestinationError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        DestinationError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    refusal(status, code, &error.to_string())
}
