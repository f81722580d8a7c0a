//! `archive_session`: puts an ended session away without losing its work.

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{Session, WorkspaceState},
};
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
    /// The ended session to archive.
    session_id: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Output {
    #[serde(flatten)]
    session: SessionView,
    /// False: it was archived already.
    changed: bool,
}

pub(super) fn definition() -> Tool {
    define::<Args, Output>(
        ToolName::ArchiveSession,
        "Archive a session",
        "Puts an ended session away: removes its worktree and hides it from lists. Its branch and output \
         stay, and uncommitted changes are kept in a git ref (workspace.keptRef). A running session must be \
         stopped first.",
        Hints { read_only: false, destructive: false, idempotent: true, open_world: false },
        &[],
    )
}

pub(super) const fn accept(arguments: JsonObject) -> JsonObject {
    arguments
}

pub(super) async fn call(call: &Call, args: Args) -> Result<CallToolResult, Error> {
    let session = session_given(&args.session_id)?;
    let response = call.controller().archive(session).await.map_err(|mut error| {
        if error.code == ErrorCode::SessionRunning {
            "wait_for_completion until it has ended, or stop_session first".clone_into(&mut error.hint);
        }
        error
    })?;
    let session = required(response.session)?;
    call.watches.observe(&session);
    let view = SessionView::new(&session, Form::Full).with_next(next(&session));
    structured(&Output { session: view, changed: response.changed })
}

fn next(session: &Session) -> String {
    let Some(workspace) = &session.workspace else {
        return "archived; its output can still be read".to_owned();
    };
    let kept = match (workspace.branch.is_empty(), workspace.kept_ref.is_empty()) {
        (_, false) => "; what was uncommitted is in workspace.keptRef",
        (false, true) => "; its work is on its branch",
        (true, true) => "",
    };
    if workspace.state() == WorkspaceState::Releasing {
        format!("archived; the worker removes the worktree as soon as it can{kept}")
    } else if workspace.worktree {
        format!("archived; the worktree is gone{kept}")
    } else {
        "archived; it worked in the project's own directory, which stays as it is".to_owned()
    }
}
