//! `muster why`: what the scheduler said last of a queued session.

use clap::Args;
use muster_proto::v1::{ExplainSessionRequest, SessionStatus};

use crate::{
    args::Remote,
    client::Client,
    failure::{Exit, Failure},
    json,
    output::{Cell, Output, Table},
    show,
};

/// Arguments of `why`.
#[derive(Debug, Args)]
pub struct Options {
    /// Handle, id or the beginning of either
    #[arg(add = super::completion::sessions())]
    session: String,
    #[command(flatten)]
    remote: Remote,
}

/// Explains.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let session = client.session(&options.session).await?;
    if session.status() != SessionStatus::Queued {
        let status = show::status(session.status());
        return Err(Failure::new(
            Exit::Failed,
            format!("{} does not wait for a worker: it is {status}", session.handle),
        )
        .hint(format!("`muster status {}` says more", session.handle)));
    }
    let request = ExplainSessionRequest { session: session.session_id };
    let result = client.admin.explain_session(Client::call(request)).await;
    let explanation = client.result(result)?;
    if output.json {
        output.document(&json::explanation(&session.handle, &explanation))?;
        return Ok(Exit::Ok);
    }
    let reason = show::line(&explanation.reason);
    output.line(&format!("{}  #{} in the queue: {reason}", session.handle, explanation.queue_position))?;
    if explanation.effective_priority != 0 {
        output.line(&format!("priority {}, with what waiting has added", explanation.effective_priority))?;
    }
    if let Some(start) = &explanation.earliest_start_at {
        output.line(&format!("it may start from {} on", show::second(Some(start))))?;
    }
    let mut table = Table::new(&["WORKER", "FILTER", "WHY NOT"]);
    for verdict in &explanation.verdicts {
        table.row(vec![Cell::new(&verdict.worker), Cell::new(&verdict.filter), Cell::new(&verdict.reason)]);
    }
    if !explanation.verdicts.is_empty() {
        output.table(&table)?;
    }
    Ok(Exit::Ok)
}
