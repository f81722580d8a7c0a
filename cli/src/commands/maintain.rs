//! `muster worker cordon`, `drain`, `uncordon` and `revoke`: a machine is taken out of service and put back, or for good.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use muster_proto::v1::{
    CordonWorkerRequest, DrainWorkerRequest, RevokeWorkerRequest, UncordonWorkerRequest, Worker,
};
use serde_json::json;
use tonic::Request;

use super::workers;
use crate::{
    args::Remote,
    client::Client,
    failure::{Exit, Failure},
    json,
    output::Output,
    span::Span,
};

/// How much longer than the wait it asks for a call may take.
const GRACE: Duration = Duration::from_secs(15);

/// What can be done to a worker, rather than as one.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Give a worker no new session; what runs there goes on
    Cordon(Cordon),
    /// Give a worker no new session and wait until it is empty
    Drain(Drain),
    /// Let a worker have new sessions again
    Uncordon(Uncordon),
    /// Take a worker's identity away: it has to join again
    Revoke(Revoke),
}

/// Arguments of `worker cordon`.
#[derive(Debug, Args)]
pub struct Cordon {
    /// Name of the worker
    #[arg(add = super::completion::workers())]
    worker: String,
    /// Why, for whoever looks later
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    remote: Remote,
}

/// Arguments of `worker drain`.
#[derive(Debug, Args)]
pub struct Drain {
    /// Name of the worker
    #[arg(add = super::completion::workers())]
    worker: String,
    /// Why, for whoever looks later
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TEXT")]
    reason: String,
    /// Interrupt turns that still run after so long, e.g. 90s, 30m or 2h [default: never]
    #[arg(long, value_name = "TIME")]
    deadline: Option<Span>,
    /// How long to wait for the worker to be empty, at most a day; 0s: not at all
    #[arg(long, default_value = "1h", value_name = "TIME")]
    timeout: Span,
    #[command(flatten)]
    remote: Remote,
}

/// Arguments of `worker uncordon`.
#[derive(Debug, Args)]
pub struct Uncordon {
    /// Name of the worker
    #[arg(add = super::completion::workers())]
    worker: String,
    #[command(flatten)]
    remote: Remote,
}

/// Arguments of `worker revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    /// Name of the worker
    #[arg(add = super::completion::workers())]
    worker: String,
    #[command(flatten)]
    remote: Remote,
}

/// Does it. Doing it again is fine.
pub async fn run(action: Action) -> Result<Exit, Failure> {
    match action {
        Action::Cordon(options) => {
            let mut client = Client::new(&options.remote)?;
            let request = CordonWorkerRequest { worker: options.worker, reason: options.reason };
            let result = client.admin.cordon_worker(Client::call(request)).await;
            let worker = present(client.result(result)?.worker)?;
            show(&options.remote, &worker, "is given no new sessions")
        }
        Action::Uncordon(options) => {
            let mut client = Client::new(&options.remote)?;
            let request = UncordonWorkerRequest { worker: options.worker };
            let result = client.admin.uncordon_worker(Client::call(request)).await;
            let worker = present(client.result(result)?.worker)?;
            show(&options.remote, &worker, "takes sessions again")
        }
        Action::Drain(options) => drain(options).await,
        Action::Revoke(options) => revoke(options).await,
    }
}

async fn revoke(options: Revoke) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let request = RevokeWorkerRequest { worker: options.worker.clone() };
    let result = client.identity.revoke_worker(Client::call(request)).await;
    client.result(result)?;
    if output.json {
        output.document(&json!({ "worker": options.worker, "revoked": true }))?;
    } else {
        let what =
            "revoked: it is cut off, its sessions go on there and are unreachable until it joins again";
        output.line(&format!("{}  {what}", crate::show::line(&options.worker)))?;
    }
    Ok(Exit::Ok)
}

async fn drain(options: Drain) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let mut request = Request::new(DrainWorkerRequest {
        worker: options.worker,
        reason: options.reason,
        deadline_seconds: options.deadline.map_or(0, |deadline| deadline.seconds()),
        wait_seconds: options.timeout.seconds(),
    });
    request.set_timeout(Duration::from_secs(options.timeout.seconds().into()) + GRACE);
    let result = client.admin.drain_worker(request).await;
    let response = client.result(result)?;
    let worker = present(response.worker)?;
    if response.empty {
        return show(&options.remote, &worker, "is empty");
    }
    let running = format!("drains: {} still run", worker.running);
    show(&options.remote, &worker, &running)?;
    Ok(if options.timeout.seconds() == 0 { Exit::Ok } else { Exit::TimedOut })
}

fn show(remote: &Remote, worker: &Worker, what: &str) -> Result<Exit, Failure> {
    let output = Output::new(remote.json);
    if output.json {
        output.document(&json::worker(worker))?;
    } else {
        let since = workers::maintenance(worker, SystemTime::now());
        let since = if since.is_empty() { since } else { format!(" ({since})") };
        output.line(&format!("{}  {what}{since}", crate::show::line(&worker.worker)))?;
    }
    Ok(Exit::Ok)
}

fn present(worker: Option<Worker>) -> Result<Worker, Failure> {
    worker.ok_or_else(|| Failure::new(Exit::Failed, "the controller's reply holds no worker"))
}
