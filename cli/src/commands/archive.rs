//! `muster archive`: puts an ended session away.

use clap::Args;
use muster_proto::v1::{ArchiveSessionRequest, WorkspaceState};

use crate::{
    args::Remote,
    client::{Client, present},
    failure::{Exit, Failure},
    json,
    output::Output,
    show,
};

/// Arguments of `archive`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handle, id or the beginning of either
    #[arg(add = super::completion::sessions())]
    session: String,
    #[command(flatten)]
    remote: Remote,
}

/// Archives; archiving again is fine.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let request = ArchiveSessionRequest { session: options.session };
    let result = client.sessions.archive_session(Client::call(request)).await;
    let response = client.result(result)?;
    let session = present(response.session)?;
    if output.json {
        let mut document = json::session(&session);
        document["changed"] = response.changed.into();
        output.document(&document)?;
        return Ok(Exit::Ok);
    }
    let workspace = session.workspace.clone().unwrap_or_default();
    let mut line = format!("{}  archived", session.handle);
    if workspace.state() == WorkspaceState::Releasing {
        line.push_str("; its worker removes the worktree when it can");
    }
    if !workspace.branch.is_empty() {
        line.push_str(&format!("; branch {}", show::line(&workspace.branch)));
    }
    if !workspace.kept_ref.is_empty() {
        line.push_str(&format!("; uncommitted work kept in {}", show::line(&workspace.kept_ref)));
    }
    output.line(&line)?;
    Ok(Exit::Ok)
}
