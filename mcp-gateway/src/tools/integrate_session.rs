//! `integrate_session`: brings the work of a session to where it can be merged.
//!
//! As a branch on a remote of the project, or as a git bundle in a file on this machine: the gateway serves
//! only callers of its own machine, so a file here is a file there. It merges nothing. Invariant: without
//! `dryRun: false` nothing is changed anywhere.

use std::path::PathBuf;

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{ChangesFormat, ChangesSummary, GetChangesRequest, PushBranchRequest, Session},
};
use rmcp::model::{CallToolResult, JsonObject, Tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Call, Hints, ToolName, define, session_given, structured};
use crate::{
    bundles,
    caller::Caller,
    render::view::{has_ended, one_line},
};

const LINE_CHARS: usize = 300;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Args {
    /// The session.
    session_id: String,
    /// push_branch: its branch to a remote, never forced, where the project allows it. bundle: a file for
    /// `git fetch`, with what is uncommitted too.
    action: Action,
    /// Remote of the project's repository to push to. Default: origin.
    remote: Option<String>,
    /// true (default): only say what would be done. false: do it.
    dry_run: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Action {
    PushBranch,
    Bundle,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Output {
    session_id: String,
    action: Action,
    dry_run: bool,
    /// Whether something was done.
    done: bool,
    /// Whether the project lets it be done.
    allowed: bool,
    branch: String,
    base_commit: String,
    head_commit: String,
    commits: u32,
    files_changed: u32,
    uncommitted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    next: String,
}

pub(super) fn definition() -> Tool {
    define::<Args, Output>(
        ToolName::IntegrateSession,
        "Bring home the work of a session",
        "Makes a session's branch fetchable: pushes it to a remote, or writes a git bundle to a file. A dry \
         run by default: shows what would go and whether it may; dryRun false does it. It merges nothing: \
         look at get_session_changes and merge yourself.",
        Hints { read_only: false, destructive: false, idempotent: true, open_world: true },
        &[],
    )
}

pub(super) const fn accept(arguments: JsonObject) -> JsonObject {
    arguments
}

pub(super) async fn call(call: &Call, args: Args) -> Result<CallToolResult, Error> {
    if args.action == Action::Bundle && args.remote.is_some() {
        return Err(Error::invalid("remote", "`remote` goes with action \"push_branch\" only"));
    }
    if args.action == Action::Bundle && matches!(call.caller, Caller::Somebody(_)) {
        // It would lie on the gateway's machine, which is not the caller's.
        let message =
            "`action` \"bundle\" writes a file beside a gateway on your own machine, and this is none";
        return Err(Error::invalid("action", message)
            .hint("use action \"push_branch\", or `muster fetch` where you have a clone"));
    }
    let remote = args.remote.unwrap_or_else(|| "origin".to_owned());
    check_remote(&remote)?;
    let session = call.controller().get(session_given(&args.session_id)?).await?;
    let summary = summary(call, &session).await?;
    let allowed = args.action == Action::Bundle || push_allowed(call, &session).await?;
    let dry_run = args.dry_run.unwrap_or(true);
    let mut output = output(&session, args.action, dry_run, allowed, summary);
    if args.action == Action::PushBranch {
        output.remote = Some(remote.clone());
    }
    match (dry_run, args.action) {
        (true, _) => output.next = next_of_dry_run(&output),
        (false, Action::PushBranch) => push(call, &session, remote, &mut output).await?,
        (false, Action::Bundle) => bundle(call, &session, &mut output).await?,
    }
    structured(&output)
}

/// git's own rule is wider; a name that could be an option or an address is none of a remote here.
fn check_remote(remote: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if remote.is_empty() || remote.len() > 255 || remote.starts_with('-') || !remote.chars().all(plain) {
        return Err(Error::invalid("remote", "`remote` is no name of a remote")
            .hint("give the name of a remote of the project's repository, not an address"));
    }
    Ok(())
}

async fn summary(call: &Call, session: &Session) -> Result<ChangesSummary, Error> {
    let request = GetChangesRequest {
        session: session.session_id.clone(),
        format: ChangesFormat::Stat.into(),
        limit_bytes: 1,
        ..GetChangesRequest::default()
    };
    Ok(call.controller().changes(request).await?.summary.unwrap_or_default())
}

/// As the worker that holds the work says; the worker decides anew when it is done.
async fn push_allowed(call: &Call, session: &Session) -> Result<bool, Error> {
    let project = session.spec.as_ref().map_or("", |spec| spec.project.as_str());
    let workers = call.controller().workers().await?;
    Ok(workers
        .iter()
        .filter(|worker| worker.worker == session.worker)
        .flat_map(|worker| &worker.projects)
        .any(|known| known.name == project && known.allow_push))
}

fn output(
    session: &Session,
    action: Action,
    dry_run: bool,
    allowed: bool,
    summary: ChangesSummary,
) -> Output {
    let uncommitted = !summary.work_commit.is_empty() && summary.work_commit != summary.head_commit;
    let mut notes = Vec::new();
    if !has_ended(session) {
        notes.push("the session has not ended: it may still change this".to_owned());
    }
    if uncommitted && action == Action::PushBranch {
        notes.push("what is uncommitted is not pushed; action \"bundle\" takes it along".to_owned());
    }
    if summary.commits == 0 && !(uncommitted && action == Action::Bundle) {
        notes.push("there is no commit since the base".to_owned());
    }
    Output {
        session_id: session.handle.clone(),
        action,
        dry_run,
        done: false,
        allowed,
        branch: one_line(&summary.branch, LINE_CHARS).unwrap_or_default(),
        base_commit: summary.base_commit,
        head_commit: summary.head_commit,
        commits: summary.commits,
        files_changed: summary.files_changed,
        uncommitted,
        remote: None,
        path: None,
        bytes: None,
        note: Some(notes.join("; ")).filter(|notes| !notes.is_empty()),
        next: String::new(),
    }
}

fn next_of_dry_run(output: &Output) -> String {
    match (output.action, output.allowed) {
        (Action::PushBranch, false) => {
            "this project does not let branches be pushed: use action \"bundle\", or allow pushes in the \
             configuration of its worker"
        }
        _ => "nothing was done; call again with dryRun false to do it",
    }
    .to_owned()
}

async fn push(call: &Call, session: &Session, remote: String, output: &mut Output) -> Result<(), Error> {
    let request = PushBranchRequest { session: session.session_id.clone(), remote };
    let pushed = call.controller().push(request).await?;
    output.done = true;
    output.allowed = true;
    output.branch = one_line(&pushed.branch, LINE_CHARS).unwrap_or_default();
    output.head_commit = pushed.commit;
    output.remote = one_line(&pushed.remote, LINE_CHARS);
    "the branch is on the remote: open a pull request or merge it there; archive_session when it is merged"
        .clone_into(&mut output.next);
    Ok(())
}

async fn bundle(call: &Call, session: &Session, output: &mut Output) -> Result<(), Error> {
    if output.commits == 0 && !output.uncommitted {
        return Err(Error::new(ErrorCode::NoChangesKept, "the session changed nothing a bundle could hold"));
    }
    let (path, bytes) = bundles::fetch(call.controller(), session).await?;
    output.done = true;
    "in a clone that has baseCommit: `git bundle list-heads <path>` names its refs, `git fetch <path> \
     <ref>:<your branch>` brings one; a ref under refs/muster/ holds what was uncommitted too"
        .clone_into(&mut output.next);
    output.path = Some(path);
    output.bytes = Some(bytes);
    Ok(())
}
