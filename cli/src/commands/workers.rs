//! `muster workers`: who can run sessions.

use std::time::SystemTime;

use clap::Args;
use muster_proto::v1::{ListWorkersRequest, Worker, WorkerHealth};

use crate::{
    args::Remote,
    client::Client,
    failure::{Exit, Failure},
    json,
    output::{Cell, Output, Table, Tone},
    show,
};

/// Arguments of `workers`.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    remote: Remote,
}

/// Lists workers.
pub async fn run(options: Options) -> Result<Exit, Failure> {
    let mut client = Client::new(&options.remote)?;
    let output = Output::new(options.remote.json);
    let result = client.admin.list_workers(Client::call(ListWorkersRequest {})).await;
    let workers = client.result(result)?.workers;
    if output.json {
        output.document(&json::workers(&workers))?;
    } else if workers.is_empty() {
        output.note("no workers: `muster worker --controller URL --project name=path` starts one");
    } else {
        output.table(&table(&workers, SystemTime::now()))?;
    }
    Ok(Exit::Ok)
}

/// Such as `draining for 5m: kernel update`; empty when it takes sessions.
pub fn maintenance(worker: &Worker, now: SystemTime) -> String {
    let Some(maintenance) = &worker.maintenance else { return String::new() };
    let mode = show::maintenance_mode(maintenance.mode());
    let since = show::age(maintenance.since.as_ref(), now);
    let reason = match maintenance.reason.as_str() {
        "" => String::new(),
        reason => format!(": {}", show::line(reason)),
    };
    format!("{mode} for {since}{reason}")
}

fn table(workers: &[Worker], now: SystemTime) -> Table {
    let mut table = Table::new(&[
        "WORKER",
        "HEALTH",
        "RUNNING",
        "SEEN",
        "MEMORY",
        "DISK",
        "CLAUDE",
        "LABELS",
        "PROJECTS",
        "MAINTENANCE",
    ]);
    for worker in workers {
        let tone = if worker.health() == WorkerHealth::Connected { Tone::Good } else { Tone::Bad };
        let slots = worker.capacity.map_or(0, |capacity| capacity.slots);
        let heartbeat = worker.heartbeat.unwrap_or_default();
        let room = |bytes: u64| match bytes {
            0 => Cell::default(),
            bytes => Cell::new(&show::size(bytes)).plain(&bytes.to_string()),
        };
        let mut labels: Vec<String> =
            worker.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        labels.sort();
        let projects: Vec<&str> = worker.projects.iter().map(|project| project.name.as_str()).collect();
        table.row(vec![
            Cell::new(&worker.worker),
            Cell::new(&show::worker_health(worker.health())).tone(tone),
            Cell::new(&format!("{}/{slots}", worker.running)),
            Cell::new(&show::age(worker.last_seen_at.as_ref(), now))
                .plain(&show::moment(worker.last_seen_at.as_ref())),
            room(heartbeat.memory_available_bytes),
            room(heartbeat.disk_available_bytes),
            Cell::new(&worker.claude_version),
            Cell::new(&labels.join(" ")),
            Cell::new(&projects.join(" ")),
            Cell::new(&maintenance(worker, now)).tone(Tone::Asks),
        ]);
    }
    table
}
