//! `get_farm_status`: what the farm is made of and what it is busy with.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::{
    error::Error,
    v1::{ListSessionsRequest, ListSessionsResponse, Session, SessionStatus, Worker, WorkerHealth},
};
use rmcp::model::{CallToolResult, JsonObject, Tool};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Call, Hints, ToolName, define, structured};
use crate::render::{
    time,
    view::{one_line, status_name},
    wire_name,
};

/// Queued sessions shown with the reason why they wait.
const QUEUE: u32 = 10;
const LINE_CHARS: usize = 200;

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Args {}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Output {
    slots: Slots,
    /// Sessions by status, archived ones left out.
    sessions: BTreeMap<String, u32>,
    workers: Vec<WorkerView>,
    projects: Vec<ProjectView>,
    /// The first that wait for a worker, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    queue: Vec<Queued>,
    versions: Versions,
    next: String,
}

/// Of the workers that are connected and take sessions.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct Slots {
    total: u32,
    used: u32,
    free: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WorkerView {
    name: String,
    health: String,
    /// It is given no new session: cordoned or draining.
    #[serde(skip_serializing_if = "Option::is_none")]
    maintenance: Option<String>,
    slots: u32,
    running: u32,
    projects: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claude_version: Option<String>,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_available_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_available_bytes: Option<u64>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ProjectView {
    name: String,
    git: bool,
    /// Whether some worker lets sessions of it use trustMode.
    trust_mode_allowed: bool,
    /// Whether some worker lets integrate_session push its branches.
    push_allowed: bool,
    workers: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Queued {
    session_id: String,
    position: u32,
    reason: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Versions {
    gateway: &'static str,
    workers: BTreeSet<String>,
    claude: BTreeSet<String>,
}

pub(super) fn definition() -> Tool {
    define::<Args, Output>(
        ToolName::GetFarmStatus,
        "Get the status of the farm",
        "Shows the workers with their slots, health and versions, the projects they serve, how many sessions \
         are in which state, and why the first of the queue wait. Not needed before spawn_session: a full \
         farm queues.",
        Hints { read_only: true, destructive: false, idempotent: true, open_world: false },
        &[],
    )
}

pub(super) const fn accept(arguments: JsonObject) -> JsonObject {
    arguments
}

pub(super) async fn call(call: &Call, _args: Args) -> Result<CallToolResult, Error> {
    let queue = ListSessionsRequest {
        statuses: vec![SessionStatus::Queued.into()],
        limit: QUEUE,
        ..ListSessionsRequest::default()
    };
    let (workers, listed) = tokio::try_join!(call.controller().workers(), call.controller().list(queue))?;
    structured(&output(&workers, &listed))
}

fn output(workers: &[Worker], listed: &ListSessionsResponse) -> Output {
    let mut slots = Slots::default();
    let takes = |worker: &&Worker| worker.health() == WorkerHealth::Connected && worker.maintenance.is_none();
    for worker in workers.iter().filter(takes) {
        let capacity = worker.capacity.as_ref().map_or(0, |capacity| capacity.slots);
        slots.total += capacity;
        slots.used += worker.running;
        slots.free += capacity.saturating_sub(worker.running);
    }
    let mut queue: Vec<Queued> = listed.sessions.iter().map(queued).collect();
    queue.sort_by_key(|queued| queued.position);
    let versions = Versions {
        gateway: env!("CARGO_PKG_VERSION"),
        workers: workers.iter().filter_map(|worker| line(&worker.version)).collect(),
        claude: workers.iter().filter_map(|worker| line(&worker.claude_version)).collect(),
    };
    let sessions: BTreeMap<String, u32> = listed
        .counts
        .iter()
        .filter(|count| count.count > 0)
        .map(|count| (status_name(count.status()), count.count))
        .collect();
    let next = next(&slots, workers, &sessions);
    Output {
        slots,
        sessions,
        workers: workers.iter().map(worker_view).collect(),
        projects: projects(workers),
        queue,
        versions,
        next,
    }
}

fn next(slots: &Slots, workers: &[Worker], sessions: &BTreeMap<String, u32>) -> String {
    let asking = sessions.get("needs_attention").copied().unwrap_or_default();
    if workers.is_empty() {
        "no worker has joined: sessions are queued until one does".to_owned()
    } else if slots.total == 0 {
        "no worker takes sessions now (health, maintenance): they are queued until one does".to_owned()
    } else if asking > 0 {
        format!("{asking} need attention: list_sessions with status needs_attention shows what they ask")
    } else if slots.free == 0 {
        "every slot is in use: new sessions are queued".to_owned()
    } else {
        format!("{} slots are free: spawn_session starts at once", slots.free)
    }
}

fn worker_view(worker: &Worker) -> WorkerView {
    let heartbeat = worker.heartbeat.as_ref();
    let labels = worker.labels.iter().filter_map(|(key, value)| Some((line(key)?, line(value)?))).collect();
    WorkerView {
        name: line(&worker.worker).unwrap_or_default(),
        health: wire_name(worker.health().as_str_name(), "WORKER_HEALTH_"),
        maintenance: worker
            .maintenance
            .as_ref()
            .map(|maintenance| wire_name(maintenance.mode().as_str_name(), "MAINTENANCE_MODE_")),
        slots: worker.capacity.as_ref().map_or(0, |capacity| capacity.slots),
        running: worker.running,
        projects: worker.projects.iter().filter_map(|project| line(&project.name)).collect(),
        labels,
        claude_version: line(&worker.claude_version),
        version: line(&worker.version).unwrap_or_default(),
        last_seen: worker
            .last_seen_at
            .as_ref()
            .filter(|_| worker.health() != WorkerHealth::Connected)
            .map(time),
        memory_available_bytes: heartbeat.map(|beat| beat.memory_available_bytes).filter(|bytes| *bytes > 0),
        disk_available_bytes: heartbeat.map(|beat| beat.disk_available_bytes).filter(|bytes| *bytes > 0),
    }
}

fn projects(workers: &[Worker]) -> Vec<ProjectView> {
    let mut projects: BTreeMap<&str, ProjectView> = BTreeMap::new();
    for project in workers.iter().flat_map(|worker| &worker.projects) {
        let view = projects.entry(&project.name).or_default();
        view.name = line(&project.name).unwrap_or_default();
        view.git |= project.git;
        view.trust_mode_allowed |= project.allow_trust_mode;
        view.push_allowed |= project.allow_push;
        view.workers += 1;
    }
    projects.into_values().collect()
}

fn queued(session: &Session) -> Queued {
    Queued {
        session_id: session.handle.clone(),
        position: session.queue_position,
        reason: line(&session.queue_reason).unwrap_or_default(),
    }
}

fn line(text: &str) -> Option<String> {
    one_line(text, LINE_CHARS)
}
