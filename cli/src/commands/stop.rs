//! `muster stop`: ends a session for good.

use clap::Args;
use muster_proto::v1::StopSessionRequest;

use crate::{
    args::Remote,
    client::{Client, present},
    failure::{Exit, Failure},
    json,
    output::Output,
    show,
};

/// Arguments of `stop`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handle, id or the beginning of either
    #[arg(add = super::completion::sessions())]
    session: String,
    /// Why, for whoever looks later
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

/// Stops; stopping an ended session is fine.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let request = StopSessionRequest { session: options.session, reason: options.reason };
    let result = client.sessions.stop_session(Client::call(request)).await;
    let response = client.result(result)?;
    let session = present(response.session)?;
    if output.json {
        let mut document = json::session(&session);
        document["changed"] = response.changed.into();
        output.document(&document)?;
    } else {
        let what = match (response.changed, session.end.is_some()) {
            (true, false) => "stopping".to_owned(),
            (true, true) => "stopped".to_owned(),
            (false, _) => format!("nothing to do: it is {}", show::status(session.status())),
        };
        output.line(&format!("{}  {what}", session.handle))?;
    }
    Ok(Exit::Ok)
}
