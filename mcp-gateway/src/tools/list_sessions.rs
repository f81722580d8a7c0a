//! `list_sessions`: what the farm holds.

use std::collections::BTreeMap;

use muster_proto::{
    error::Error,
    v1::{ListSessionsRequest, SessionStatus},
};
use rmcp::model::{CallToolResult, JsonObject, Tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Call, Hints, ToolName, define, structured};
use crate::render::view::{Form, SessionView, status_name};

/// Sessions of a page when the caller names no number: about 20 KB.
const LIMIT: u32 = 20;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Args {
    /// Only sessions in one of these states. Default: all.
    status: Option<Vec<Status>>,
    /// Only sessions of this project.
    project: Option<String>,
    /// Only sessions that carry all of these labels.
    labels: Option<BTreeMap<String, String>>,
    /// Also archived sessions. Default false.
    include_archived: Option<bool>,
    /// Most sessions returned, 1 to 100. Default 20.
    #[schemars(range(min = 1, max = 100))]
    limit: Option<u32>,
    /// nextCursor of the page before.
    cursor: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Status {
    Queued,
    Starting,
    Working,
    NeedsAttention,
    Completed,
    Failed,
    Stopped,
    Unreachable,
}

impl From<Status> for SessionStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Queued => Self::Queued,
            Status::Starting => Self::Starting,
            Status::Working => Self::Working,
            Status::NeedsAttention => Self::NeedsAttention,
            Status::Completed => Self::Completed,
            Status::Failed => Self::Failed,
            Status::Stopped => Self::Stopped,
            Status::Unreachable => Self::Unreachable,
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Output {
    sessions: Vec<SessionView>,
    total: u32,
    counts: BTreeMap<String, u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

pub(super) fn definition() -> Tool {
    define::<Args, Output>(
        ToolName::ListSessions,
        "List sessions",
        "Lists sessions, those that need attention first, then the newest, with counts by status over all \
         that match. To follow sessions you spawned use wait_for_completion, not this.",
        Hints { read_only: true, destructive: false, idempotent: true, open_world: false },
        &[],
    )
}

pub(super) const fn accept(arguments: JsonObject) -> JsonObject {
    arguments
}

pub(super) async fn call(call: &Call, args: Args) -> Result<CallToolResult, Error> {
    let response = call
        .controller()
        .list(ListSessionsRequest {
            statuses: args
                .status
                .into_iter()
                .flatten()
                .map(|status| SessionStatus::from(status).into())
                .collect(),
            project: args.project.unwrap_or_default(),
            labels: args.labels.unwrap_or_default().into_iter().collect(),
            include_archived: args.include_archived.unwrap_or_default(),
            limit: args.limit.unwrap_or(LIMIT),
            cursor: args.cursor.unwrap_or_default(),
        })
        .await?;
    let next_cursor = Some(response.next_cursor).filter(|cursor| !cursor.is_empty());
    let counts = response
        .counts
        .iter()
        .filter(|count| count.count > 0)
        .map(|count| (status_name(count.status()), count.count))
        .collect();
    let next = if next_cursor.is_some() {
        Some("more: call again with cursor = nextCursor".to_owned())
    } else if response.total == 0 {
        Some("nothing matches; spawn_session starts a session".to_owned())
    } else {
        None
    };
    structured(&Output {
        sessions: response.sessions.iter().map(|session| SessionView::new(session, Form::Concise)).collect(),
        total: response.total,
        counts,
        next_cursor,
        next,
    })
}
