//! `get_session_status`: everything about one session but its log.

use muster_proto::error::Error;
use rmcp::model::{CallToolResult, JsonObject, Tool};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Call, Hints, ToolName, define, session_given, structured};
use crate::render::view::{Form, SessionView};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Args {
    /// The session: its sessionId, its id, or a unique beginning of either.
    session_id: String,
}

pub(super) fn definition() -> Tool {
    define::<Args, SessionView>(
        ToolName::GetSessionStatus,
        "Get the status of a session",
        "Everything about a session but its log: status, what it asks (attention) and how to answer, why \
         it is queued or how it ended, branch and workspace, turns, tokens, cost, last activity. To wait \
         for a change use wait_for_completion instead of calling this again and again.",
        Hints { read_only: true, destructive: false, idempotent: true, open_world: true },
        &[],
    )
}

pub(super) const fn accept(arguments: JsonObject) -> JsonObject {
    arguments
}

pub(super) async fn call(call: &Call, args: Args) -> Result<CallToolResult, Error> {
    let session = call.controller().get(session_given(&args.session_id)?).await?;
    structured(&SessionView::new(&session, Form::Full))
}
