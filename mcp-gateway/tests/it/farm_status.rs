//! What the farm is made of, as `get_farm_status` tells it.

use muster_proto::v1::{
    Capacity, Heartbeat, Maintenance, MaintenanceMode, Project, SessionStatus, Worker, WorkerHealth,
};
use serde_json::json;

use crate::farm::Farm;

fn worker(name: &str, health: WorkerHealth, running: u32) -> Worker {
    let project = |name: &str, allow_push| Project {
        name: name.into(),
        path: "/home/somebody/secret-place".into(),
        git: true,
        allow_push,
        ..Project::default()
    };
    let mut worker = Worker {
        worker: name.into(),
        version: "0.1.0".into(),
        claude_version: "2.1.330\u{1b}[31m".into(),
        capacity: Some(Capacity { slots: 4, ..Capacity::default() }),
        running,
        projects: vec![project("api", false), project("web", name == "w1")],
        last_seen_at: Some(muster_proto::time::now()),
        heartbeat: Some(Heartbeat { running, memory_available_bytes: 7 << 30, ..Heartbeat::default() }),
        ..Worker::default()
    };
    worker.set_health(health);
    worker
}

#[tokio::test]
async fn an_empty_farm_says_what_it_lacks() {
    let farm = Farm::start().await;
    let status = farm.ok("get_farm_status", json!({})).await;
    assert_eq!(status["slots"], json!({"total": 0, "used": 0, "free": 0}));
    assert!(status["next"].as_str().expect("a hint").contains("no worker has joined"), "{status}");
}

#[tokio::test]
async fn workers_projects_queue_and_versions_are_told_and_paths_are_not() {
    let farm = Farm::start().await;
    farm.fake().state().workers = vec![
        worker("w1", WorkerHealth::Connected, 1),
        worker("w2", WorkerHealth::Connected, 4),
        worker("w3", WorkerHealth::Unreachable, 2),
        Worker {
            maintenance: Some(Maintenance {
                mode: MaintenanceMode::Cordoned.into(),
                ..Maintenance::default()
            }),
            ..worker("w4", WorkerHealth::Connected, 0)
        },
    ];
    farm.fake().add("work-1", SessionStatus::Working);
    for (number, name) in ["later-2", "next-1"].into_iter().enumerate() {
        farm.fake().add(name, SessionStatus::Queued);
        farm.fake().change(name, |session| {
            session.queue_position = 2 - number as u32;
            session.queue_reason = "no worker serves project \"x\"\nnow".into();
        });
    }
    let status = farm.ok("get_farm_status", json!({})).await;
    assert_eq!(
        status["slots"],
        json!({"total": 8, "used": 5, "free": 3}),
        "only workers that take sessions count"
    );
    assert_eq!(status["workers"][3]["maintenance"], "cordoned");
    assert_eq!(status["sessions"]["working"], 1);
    assert_eq!(status["workers"][2]["health"], "unreachable");
    assert!(status["workers"][2]["lastSeen"].is_string() && status["workers"][0].get("lastSeen").is_none());
    assert_eq!(status["workers"][0]["claudeVersion"], "2.1.330");
    assert_eq!(status["workers"][0]["memoryAvailableBytes"], 7_u64 << 30);
    assert_eq!(status["queue"][0]["sessionId"], "next-1", "the first first: {status}");
    assert_eq!(status["queue"][0]["reason"], "no worker serves project \"x\" now");
    assert_eq!(status["versions"]["claude"], json!(["2.1.330"]));
    let web =
        json!({"name": "web", "git": true, "trustModeAllowed": false, "pushAllowed": true, "workers": 4});
    assert_eq!(status["projects"][1], web);
    assert!(status["next"].as_str().expect("a hint").contains("3 slots are free"), "{status}");
    assert!(!status.to_string().contains("secret-place"), "paths of workers are for operators");
    let error = farm.error("get_farm_status", json!({"worker": "w1"})).await;
    assert!(error.contains("takes no arguments"), "{error}");
}
