//! The operators' route that tells where events are.

use http::{Response, StatusCode};
use tracklog_ingest_gateway::Content;

use super::Shared;
use super::answer::{json, refusal};
use super::query::{Parameters, search};

impl Shared {
    pub(super) async fn find(&self, query: Option<&str>) -> Response<Content> {
        let Some(finder) = self.finder.get() else {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the node is starting");
        };
        let asked = Parameters::of(query.unwrap_or_default());
        let search = match asked.and_then(|parameters| search(parameters, (self.now)())) {
            Ok(search) => search,
            Err(what) => return refusal(StatusCode::BAD_REQUEST, "invalid_request", &what),
        };
        match finder.find(&search).await {
            Ok(found) => json(StatusCode::OK, &found),
            Err(error) => {
                refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &error.to_string())
            }
        }
    }
}
