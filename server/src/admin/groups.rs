//! The operators' routes of consumer groups.

use http::{Response, StatusCode};
use tracklog_ingest_gateway::Content;
use tracklog_log::Log;
use tracklog_pipeline::groups::{GroupError, GroupName, Groups};

use super::Shared;
use super::answer::{json, refusal};
use crate::groups::{NewPlace, PlacesAfter, reset};

type NodeGroups = Groups<dyn Log>;

impl Shared {
    pub(super) async fn list_groups(&self) -> Response<Content> {
        let Some(groups) = self.groups.get() else { return starting() };
        match groups.list().await {
            Ok(list) => json(StatusCode::OK, &serde_json::json!({ "groups": list })),
            Err(error) => group_refusal(&error),
        }
    }

    pub(super) async fn describe_group(&self, name: &str) -> Response<Content> {
        let (groups, name) = match self.group(name) {
            Ok(found) => found,
            Err(refused) => return *refused,
        };
        match groups.describe(&name).await {
            Ok(description) => json(StatusCode::OK, &description),
            Err(error) => group_refusal(&error),
        }
    }

    pub(super) async fn delete_group(&self, name: &str) -> Response<Content> {
        let (groups, name) = match self.group(name) {
            Ok(found) => found,
            Err(refused) => return *refused,
        };
        match groups.delete(&name).await {
            Ok(()) => json(StatusCode::OK, &serde_json::json!({ "success": true })),
            Err(error) => group_refusal(&error),
        }
    }

    pub(super) async fn reset_group(&self, name: &str, body: &[u8]) -> Response<Content> {
        let (groups, name) = match self.group(name) {
            Ok(found) => found,
            Err(refused) => return *refused,
        };
        let bad = |what: String| refusal(StatusCode::BAD_REQUEST, "invalid_request", &what);
        let new: NewPlace = match serde_json::from_slice(body) {
            Ok(new) => new,
            Err(error) => return bad(error.to_string()),
        };
        let to = match new.place((self.now)()) {
            Ok(to) => to,
            Err(error) => return bad(error.to_string()),
        };
        match reset(groups, &name, &new.topic, to).await {
            Ok(partitions) => json(StatusCode::OK, &PlacesAfter { partitions }),
            Err(error) => group_refusal(&error),
        }
    }

    /// The groups, and the name of one; else the refusal.
    fn group(&self, name: &str) -> Result<(&NodeGroups, GroupName), Box<Response<Content>>> {
        let groups = self.groups.get().ok_or_else(|| Box::new(starting()))?;
        let name = GroupName::new(name).map_err(|error| {
            Box::new(refusal(StatusCode::BAD_REQUEST, "invalid_request", &error.to_string()))
        })?;
        Ok((groups, name))
    }
}

fn starting() -> Response<Content> {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the node is starting")
}

pub(super) fn group_refusal(error: &GroupError) -> Response<Content> {
    let (status, code) = match error {
        GroupError::NotFound { .. } | GroupError::NoTopic { .. } => {
            (StatusCode::NOT_FOUND, "not_found")
        }
        GroupError::InUse { .. } | GroupError::OtherTopics { .. } => {
            (StatusCode::CONFLICT, "in_use")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
    };
    refusal(status, code, &error.to_string())
}
