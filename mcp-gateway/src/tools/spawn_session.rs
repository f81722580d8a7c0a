//! `spawn_session`: gives the farm a piece of work.

use std::collections::BTreeMap;

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{SessionSpec, SpawnSessionRequest},
};
use rmcp::model::{CallToolResult, JsonObject, Tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Call, Hints, RequestId, ToolName, define, structured};
use crate::{
    caller::Scope,
    controller::required,
    render::view::{Form, SessionView},
    resources,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Args {
    /// What the session shall do: its first user message, whole. It sees nothing of your conversation.
    prompt: String,
    /// Name of the project to work in. Needed only when the farm serves several.
    project: Option<String>,
    /// true (default in a git repository): a git worktree of its own on a new branch. false: the project's
    /// directory itself.
    worktree: Option<bool>,
    /// true: tools run without asking permission; questions and plans still ask. Default false.
    trust_mode: Option<bool>,
    /// Model for claude, e.g. "opus" or "sonnet". Default: the worker's.
    model: Option<String>,
    /// Branch to create. Default: muster/<sessionId>.
    branch_name: Option<String>,
    /// Commit, tag or branch the new branch starts from. Default: HEAD of the project.
    #[serde(rename = "ref")]
    start_ref: Option<String>,
    /// How claude asks. plan: it proposes a plan first. accept_edits: edits files unasked. dont_ask: what
    /// needs asking is denied.
    permission_mode: Option<PermissionMode>,
    /// Tools allowed without asking, in Claude Code's rule syntax, e.g. "Bash(cargo test:*)", "Edit".
    allowed_tools: Option<Vec<String>>,
    /// Ends the session as failed after so many minutes. Default: no limit.
    timeout_minutes: Option<u32>,
    /// Most model turns. Default: no limit.
    max_turns: Option<u32>,
    /// Most it may cost, in US dollars. Default: no limit.
    #[schemars(range(min = 0.0))]
    max_budget_usd: Option<f64>,
    /// Short name shown in lists; the sessionId is made from it. Default: from the prompt.
    title: Option<String>,
    /// -10 to 10: the higher goes first in the queue. Default 0.
    #[schemars(range(min = -10, max = 10))]
    priority: Option<i32>,
    /// Labels to find it by, e.g. {"task": "T-12"}.
    labels: Option<BTreeMap<String, String>>,
    /// sessionId of the session on whose behalf this one runs.
    parent_session: Option<String>,
    /// Your own id for this request: the same id with the same arguments gives the same session, never a
    /// second one.
    request_id: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum PermissionMode {
    Default,
    AcceptEdits,
    Plan,
    DontAsk,
}

impl PermissionMode {
    /// As claude calls it.
    const fn as_claude(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::AcceptEdits => "acceptEdits",
            Self::Plan => "plan",
            Self::DontAsk => "dontAsk",
        }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Output {
    #[serde(flatten)]
    session: SessionView,
    /// This request had been made before: the session is the one it made then.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<bool>,
}

pub(super) fn definition() -> Tool {
    define::<Args, Output>(
        ToolName::SpawnSession,
        "Spawn a Claude Code session",
        "Starts a Claude Code session on the farm, in its own git worktree and branch by default, and \
         returns at once with its sessionId. Sessions run side by side: spawn one per independent task, \
         then call wait_for_completion with all of them. When the farm is full the session is queued.",
        Hints { read_only: false, destructive: false, idempotent: false, open_world: true },
        &[("anthropic/alwaysLoad", json!(true))],
    )
}

pub(super) const fn accept(arguments: JsonObject) -> JsonObject {
    arguments
}

pub(super) async fn call(call: &Call, args: Args) -> Result<CallToolResult, Error> {
    if args.trust_mode == Some(true) && !call.caller.has(Scope::Trust) {
        return Err(Error::new(ErrorCode::PermissionDenied, "your token does not allow trust mode")
            .hint("call again without trustMode, or use a token with the scope trust"));
    }
    let request_id = call.request_id(args.request_id.clone());
    let spec = spec(args);
    let request = SpawnSessionRequest { spec: Some(spec), request_id: request_id.id };
    let response = match call.controller().spawn(request.clone()).await {
        // The tool use id was used before for something else, so it is not unique and this is no repetition.
        Err(error) if request_id.derived && error.code == ErrorCode::RequestIdConflict => {
            call.controller()
                .spawn(SpawnSessionRequest { request_id: RequestId::fresh().id, ..request })
                .await?
        }
        other => other?,
    };
    let session = required(response.session)?;
    let mut result = structured(&Output {
        session: SessionView::new(&session, Form::Concise),
        replayed: response.replayed.then_some(true),
    })?;
    if call.links {
        result.content.push(resources::link(&session));
    }
    Ok(result)
}

fn spec(args: Args) -> SessionSpec {
    SessionSpec {
        prompt: args.prompt,
        project: args.project.unwrap_or_default(),
        worktree: args.worktree,
        trust_mode: args.trust_mode.unwrap_or_default(),
        model: args.model.unwrap_or_default(),
        branch_name: args.branch_name.unwrap_or_default(),
        r#ref: args.start_ref.unwrap_or_default(),
        permission_mode: args.permission_mode.map(PermissionMode::as_claude).unwrap_or_default().to_owned(),
        allowed_tools: args.allowed_tools.unwrap_or_default(),
        timeout_minutes: args.timeout_minutes.unwrap_or_default(),
        max_turns: args.max_turns.unwrap_or_default(),
        max_budget_usd: args.max_budget_usd.unwrap_or_default(),
        title: args.title.unwrap_or_default(),
        priority: args.priority.unwrap_or_default(),
        labels: args.labels.unwrap_or_default().into_iter().collect(),
        parent_session: args.parent_session.unwrap_or_default(),
        ..SessionSpec::default()
    }
}
