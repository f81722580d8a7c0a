//! `muster push`: has the worker push a session's branch, where its project allows that.

use clap::Args;
use muster_proto::{
    error::ErrorCode,
    v1::{PushBranchRequest, PushBranchResponse},
};
use serde_json::json;

use crate::{
    args::Remote,
    client::{Client, code_of},
    failure::{Exit, Failure},
    output::Output,
    show,
};

/// Arguments of `push`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handle, id or the beginning of either
    #[arg(add = super::completion::sessions())]
    session: String,
    /// Remote of the project's repository to push to [default: origin]
    #[arg(long = "remote", default_value = "", hide_default_value = true, value_name = "NAME")]
    to: String,
    #[command(flatten)]
    remote: Remote,
}

/// Pushes; never forces, and pushing again is fine.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let session = client.session(&options.session).await?;
    let request = PushBranchRequest { session: session.session_id, remote: options.to };
    let result = client.sessions.push_branch(Client::worker_call(request)).await;
    let code = result.as_ref().err().map(code_of);
    let PushBranchResponse { remote, branch, commit } = client.result(result).map_err(|mut failure| {
        if failure.hint.is_empty() && code == Some(ErrorCode::PushNotAllowed) {
            failure.hint = format!(
                "bring the branch into a clone with `muster fetch {}` and push it from there",
                session.handle
            );
        }
        failure
    })?;
    if output.json {
        return output
            .document(&json!({
                "sessionId": session.handle,
                "remote": remote,
                "branch": branch,
                "commit": commit,
            }))
            .map(|()| Exit::Ok);
    }
    let (branch, remote) = (show::line(&branch), show::line(&remote));
    output.line(&format!("{}  pushed {branch} at {} to {remote}", session.handle, show::commit(&commit)))?;
    Ok(Exit::Ok)
}
