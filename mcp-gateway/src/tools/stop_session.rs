//! `stop_session`: ends a session for good.

use muster_proto::{error::Error, v1::StopSessionRequest};
use rmcp::model::{CallToolResult, JsonObject, Tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Call, Hints, ToolName, define, session_given, structured};
use crate::{
    controller::required,
    render::view::{Form, SessionView},
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Args {
    /// The session to stop.
    session_id: String,
    /// Why, for people who look at it later.
    reason: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    #[serde(flatten)]
    session: SessionView,
    /// False: it had ended or was being stopped already.
    changed: bool,
}

pub(super) fn definition() -> Tool {
    define::<Args, Output>(
        ToolName::StopSession,
        "Stop a session",
        "Ends a session and everything it runs, for good. Its output, branch, worktree and uncommitted \
         changes stay. Stopping an ended session is no error. To end only the current turn use send_input \
         with interrupt.",
        Hints { read_only: false, destructive: true, idempotent: true, open_world: false },
        &[],
    )
}

pub(super) const fn accept(arguments: JsonObject) -> JsonObject {
    arguments
}

pub(super) async fn call(call: &Call, args: Args) -> Result<CallToolResult, Error> {
    let session = session_given(&args.session_id)?.to_owned();
    let request = StopSessionRequest { session, reason: args.reason.unwrap_or_default() };
    let response = call.controller().stop(request).await?;
    let session = required(response.session)?;
    call.watches.observe(&session);
    let view = SessionView::new(&session, Form::Concise);
    let view = if session.stopping {
        view.with_next("it is being stopped; wait_for_completion returns when nothing of it runs any more")
    } else {
        view
    };
    structured(&Output { session: view, changed: response.changed })
}
