//! `muster fetch`: brings a session's branch, and what it has not committed, into a clone of the caller's.
//!
//! The work travels as a git bundle through the controller, so that workers need no push rights. Invariant: a
//! branch of the clone only ever moves forward; whatever fails, the clone is as it was.

use std::{io::Write as _, path::PathBuf, time::Duration};

use clap::Args;
use muster_proto::v1::{ChangesSummary, FetchBundleRequest};
use muster_runtime::shutdown::{self, Shutdown};
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::time::timeout;

use crate::{
    args::Remote,
    client::Client,
    clone::{BranchChange, Brought, CallersClone, Wanted},
    commands::diff::is_uncommitted,
    failure::{Exit, Failure},
    output::Output,
    show,
};

/// How long a controller may be silent within a bundle. It waits 30 s for its worker.
const SILENCE: Duration = Duration::from_secs(60);

/// Arguments of `fetch`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handle, id or the beginning of either
    #[arg(add = super::completion::sessions())]
    session: String,
    /// A folder of the clone that gets the work [default: the current folder]
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Call the branch this in the clone [default: as the session calls it]
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// Fetches; fetching again brings what is new.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let clone = CallersClone::open(options.into.as_deref()).await?;
    if let Some(name) = &options.branch {
        clone.check_branch_name(name).await?;
    }
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let session = client.session(&options.session).await?;
    let shutdown = Shutdown::new();
    shutdown::on_signals(&shutdown)
        .map_err(|error| Failure::new(Exit::Failed, "signals cannot be caught").caused_by(&error))?;
    let (summary, bundle) = tokio::select! {
        biased;
        // Dropping what was received removes its file.
        () = shutdown.requested() => return Err(interrupted()),
        received = receive(&mut client, &session.session_id) => received?,
    };
    // From here on a signal is left to git: killed in the middle it would leave its locks behind.
    if summary.branch.is_empty() || summary.head_commit.is_empty() {
        return Err(Failure::new(Exit::Failed, "the controller's answer names no branch"));
    }
    let wanted = Wanted {
        branch: options.branch.as_deref().unwrap_or(&summary.branch),
        base_commit: &summary.base_commit,
        head_commit: &summary.head_commit,
        work_commit: is_uncommitted(&summary).then_some(summary.work_commit.as_str()),
        work_ref: &format!("refs/muster/{}/work", session.session_id),
    };
    let brought = clone.bring(&wanted, bundle.as_ref().map(NamedTempFile::path)).await?;
    if output.json {
        output.document(&document(&session.handle, &clone, &wanted, &brought))?;
    } else {
        output.line(&told(&session.handle, &wanted, &brought))?;
        output.note(&look(&wanted));
    }
    Ok(Exit::Ok)
}

fn interrupted() -> Failure {
    Failure::new(Exit::Failed, "interrupted; nothing was changed")
}

/// The figures, and the bundle in a file; none when there is nothing a clone could lack.
async fn receive(
    client: &mut Client,
    session: &str,
) -> Result<(ChangesSummary, Option<NamedTempFile>), Failure> {
    let cannot = |error: &std::io::Error| {
        Failure::new(Exit::Failed, "the bundle cannot be written to a temporary file").caused_by(error)
    };
    let silent = || Failure::new(Exit::Failed, format!("the bundle stopped for {} s", SILENCE.as_secs()));
    let request = FetchBundleRequest { session: session.to_owned() };
    let opened = timeout(SILENCE, client.sessions.fetch_bundle(request)).await.map_err(|_| silent())?;
    let mut stream = client.result(opened)?;
    let mut file = NamedTempFile::with_suffix(".bundle").map_err(|error| cannot(&error))?;
    let (mut summary, mut bytes) = (ChangesSummary::default(), 0);
    loop {
        let message = timeout(SILENCE, stream.message()).await.map_err(|_| silent())?;
        let Some(part) = message.map_err(|status| client.failed(&status))? else { break };
        if let Some(first) = part.summary {
            summary = first;
        }
        file.write_all(&part.data).map_err(|error| cannot(&error))?;
        bytes += part.data.len();
    }
    file.flush().map_err(|error| cannot(&error))?;
    Ok((summary, (bytes > 0).then_some(file)))
}

fn told(handle: &str, wanted: &Wanted<'_>, brought: &Brought) -> String {
    let what = match &brought.branch {
        BranchChange::Created => "is new",
        BranchChange::Forwarded { .. } => "moved forward",
        BranchChange::Unchanged => "was there already",
    };
    let branch = show::line(wanted.branch);
    let mut line = format!("{handle}  {branch} at {} {what}", show::commit(wanted.head_commit));
    if wanted.work_commit.is_some() {
        line.push_str(&format!("; uncommitted work in {}", wanted.work_ref));
    }
    line
}

/// How to look at it, for people.
fn look(wanted: &Wanted<'_>) -> String {
    let base = show::commit(wanted.base_commit);
    match wanted.work_commit {
        Some(_) => format!("see it with: git diff {base} {}", wanted.work_ref),
        None => format!("see it with: git diff {base} {}", show::line(wanted.branch)),
    }
}

fn document(handle: &str, clone: &CallersClone, wanted: &Wanted<'_>, brought: &Brought) -> serde_json::Value {
    let (change, previous) = match &brought.branch {
        BranchChange::Created => ("created", None),
        BranchChange::Forwarded { from } => ("forwarded", Some(from)),
        BranchChange::Unchanged => ("unchanged", None),
    };
    json!({
        "sessionId": handle,
        "repository": clone.git_dir().to_string_lossy(),
        "branch": wanted.branch,
        "commit": wanted.head_commit,
        "change": change,
        "previousCommit": previous,
        "baseCommit": wanted.base_commit,
        "workRef": wanted.work_commit.map(|_| wanted.work_ref),
        "workCommit": wanted.work_commit,
    })
}
