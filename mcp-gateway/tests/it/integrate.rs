//! `integrate_session`: nothing happens unasked, and what happens is told.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{ChangesSummary, Project, SessionStatus, Worker},
};
use serde_json::{Value, json};

use crate::{fake_controller::Changes, farm::Farm};

async fn farm(allow_push: bool) -> Farm {
    let farm = Farm::start().await;
    farm.fake().add("work-1", SessionStatus::Completed);
    farm.fake().change("work-1", |session| session.worker = "w1".into());
    let summary = ChangesSummary {
        branch: "muster/work-1".into(),
        base_commit: "a".repeat(40),
        head_commit: "b".repeat(40),
        work_commit: "c".repeat(40),
        commits: 2,
        files_changed: 3,
        ..ChangesSummary::default()
    };
    farm.fake().set_changes("work-1", Changes { summary, ..Changes::default() });
    let project = Project { name: "api".into(), git: true, allow_push, ..Project::default() };
    let worker = Worker { worker: "w1".into(), projects: vec![project], ..Worker::default() };
    farm.fake().state().workers = vec![worker];
    farm
}

async fn integrate(farm: &Farm, mut arguments: Value) -> Value {
    arguments["sessionId"] = "work-1".into();
    farm.ok("integrate_session", arguments).await
}

#[tokio::test]
async fn a_push_is_shown_first_and_done_when_asked() {
    let farm = farm(true).await;
    let shown = integrate(&farm, json!({"action": "push_branch"})).await;
    assert_eq!(
        (&shown["dryRun"], &shown["done"], &shown["allowed"]),
        (&json!(true), &json!(false), &json!(true))
    );
    assert_eq!((&shown["branch"], &shown["remote"]), (&json!("muster/work-1"), &json!("origin")));
    assert_eq!((&shown["commits"], &shown["uncommitted"]), (&json!(2), &json!(true)));
    assert!(shown["note"].as_str().expect("a note").contains("uncommitted is not pushed"), "{shown}");
    assert!(farm.fake().state().pushes.is_empty(), "a dry run pushes nothing");

    let arguments = json!({"action": "push_branch", "remote": "fork", "dryRun": false});
    let pushed = integrate(&farm, arguments).await;
    assert_eq!((&pushed["done"], &pushed["remote"]), (&json!(true), &json!("fork")));
    assert_eq!(farm.fake().state().pushes[0].remote, "fork");
}

#[tokio::test]
async fn a_project_that_allows_no_push_says_so_beforehand_and_refuses() {
    let farm = farm(false).await;
    let shown = integrate(&farm, json!({"action": "push_branch"})).await;
    assert_eq!(shown["allowed"], false);
    assert!(shown["next"].as_str().expect("a hint").contains("bundle"), "{shown}");
    let mut changes = farm.fake().state().changes["work-1"].clone();
    changes.error = Some(Error::new(ErrorCode::PushNotAllowed, "project \"api\" allows no push"));
    farm.fake().set_changes("work-1", changes);
    let arguments = json!({"sessionId": "work-1", "action": "push_branch", "dryRun": false});
    let error = farm.error("integrate_session", arguments).await;
    assert!(error.starts_with("push_not_allowed: "), "{error}");
}

#[tokio::test]
async fn a_bundle_is_a_private_file_of_this_machine() {
    let farm = farm(false).await;
    let shown = integrate(&farm, json!({"action": "bundle"})).await;
    assert_eq!((&shown["allowed"], shown.get("path")), (&json!(true), None));
    let made = integrate(&farm, json!({"action": "bundle", "dryRun": false})).await;
    let path = Path::new(made["path"].as_str().expect("a path"));
    assert_eq!(fs::read(path).expect("readable"), b"# v2 git bundle\n");
    assert_eq!((&made["bytes"], &made["done"]), (&json!(16), &json!(true)));
    let folder = path.parent().expect("a folder");
    assert_eq!(fs::metadata(folder).expect("a folder").permissions().mode() & 0o777, 0o700);
    let again = integrate(&farm, json!({"action": "bundle", "dryRun": false})).await;
    assert_ne!(again["path"], made["path"], "a file is never written twice");
    fs::remove_file(again["path"].as_str().expect("a path")).expect("removed");
    fs::remove_file(path).expect("removed");
}

#[tokio::test]
async fn what_means_nothing_is_refused() {
    let farm = farm(true).await;
    for (arguments, part) in [
        (json!({"action": "merge"}), "one of push_branch, bundle"),
        (json!({"action": "bundle", "remote": "origin"}), "goes with action \"push_branch\" only"),
        (json!({"action": "push_branch", "remote": "--exec=x"}), "no name of a remote"),
        (json!({"action": "push_branch", "remote": "https://evil.example/x"}), "no name of a remote"),
        (json!({"action": "push_branch", "dryRun": "no"}), "`dryRun` must be true or false"),
        (json!({}), "`action` is missing"),
    ] {
        let mut arguments = arguments;
        arguments["sessionId"] = "work-1".into();
        let error = farm.error("integrate_session", arguments).await;
        assert!(error.starts_with("invalid_argument: ") && error.contains(part), "{error}");
    }
    assert!(farm.fake().state().pushes.is_empty());
}
