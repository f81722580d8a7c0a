//! Worktrees and what lies in them: nothing a session made is ever lost.

use muster_harness::{
    fleet::TestFleet,
    scenario::Turn,
    scratch_repo::{ScratchRepo, git},
};
use serde_json::json;

use crate::farm::Farm;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archive_keeps_what_is_uncommitted() {
    let farm = Farm::build(TestFleet::builder()).await;
    let work = "echo tracked >> README.md; echo new > new.txt; mkdir -p deep/er; echo x > 'deep/er/odd name'";
    let turns = [Turn::bash(work), Turn::text("worked")];
    let session = farm.spawn("uncommitted", &turns, json!({ "allowedTools": ["Bash"] })).await;
    farm.ended(&session, "completed").await;
    let workspace = farm.workspace(&session).await;
    let branch = farm.status(&session).await["branch"].as_str().expect("a branch").to_owned();
    assert_eq!(branch, format!("muster/{session}"));

    let archived = farm.ok("archive_session", json!({ "sessionId": session })).await;
    assert_eq!(archived["changed"], true, "{archived}");
    assert!(!workspace.exists(), "the worktree is removed");
    let status = farm.status(&session).await;
    assert_eq!(status["archived"], true, "{status}");
    let kept =
        status["workspace"]["keptRef"].as_str().unwrap_or_else(|| panic!("nothing was kept: {status}"));
    let repo = farm.fleet.repo();
    assert_eq!(repo.git(&["show", &format!("{kept}:new.txt")]).unwrap(), "new");
    assert_eq!(repo.git(&["show", &format!("{kept}:deep/er/odd name")]).unwrap(), "x");
    assert!(repo.git(&["show", &format!("{kept}:README.md")]).unwrap().ends_with("tracked"));
    assert_eq!(repo.git(&["rev-parse", &branch]).unwrap(), repo.git(&["rev-parse", "main"]).unwrap());
    assert_eq!(repo.git(&["worktree", "list", "--porcelain"]).unwrap().matches("worktree ").count(), 1);

    // Out of the lists, still readable, and archiving again is no error.
    let shown = farm.ok("list_sessions", json!({})).await;
    assert_eq!(shown["total"], 0, "{shown}");
    let all = farm.ok("list_sessions", json!({ "includeArchived": true })).await;
    assert_eq!(all["total"], 1, "{all}");
    assert_eq!(farm.result(&session).await, "worked");
    let again = farm.ok("archive_session", json!({ "sessionId": session })).await;
    assert_eq!(again["changed"], false, "{again}");
    let refused = farm.refused("send_input", json!({ "sessionId": session, "text": "more" })).await;
    assert!(refused.starts_with("session_ended: "), "{refused}");
    farm.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_session_is_not_archived() {
    let farm = Farm::build(TestFleet::builder()).await;
    let session = farm.spawn("running", &[Turn::bash("true"), Turn::text("x")], json!({})).await;
    farm.asked(&session, "permission").await;
    let refused = farm.refused("archive_session", json!({ "sessionId": session })).await;
    assert!(refused.starts_with("session_running: ") && refused.contains("stop_session"), "{refused}");
    farm.ok("stop_session", json!({ "sessionId": session })).await;
    farm.ended(&session, "stopped").await;
    farm.ok("archive_session", json!({ "sessionId": session })).await;
    farm.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_directory_is_answered_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let unborn = ScratchRepo::empty(&folder.path().join("unborn")).unwrap();
    let dirty = ScratchRepo::create(&folder.path().join("dirty")).unwrap();
    dirty.write("README.md", "changed by its owner").unwrap();
    dirty.write("loose.txt", "untracked").unwrap();
    let plain = folder.path().join("plain");
    let farm = Farm::build(
        TestFleet::builder()
            .project("unborn", unborn.path())
            .project("dirty", dirty.path())
            .project("plain", &plain),
    )
    .await;
    let turns = [Turn::bash("echo here > here.txt"), Turn::text("worked")];
    let spawn = async |name: &str, arguments: serde_json::Value| {
        let arguments = crate::farm::with(json!({ "project": name, "allowedTools": ["Bash"] }), &arguments);
        farm.spawn(name, &turns, arguments).await
    };

    // The owner's uncommitted changes are neither taken along nor touched.
    let session = spawn("dirty", json!({})).await;
    farm.ended(&session, "completed").await;
    let workspace = farm.workspace(&session).await;
    assert!(workspace.starts_with(farm.fleet.folder()) && !workspace.join("loose.txt").exists());
    assert_eq!(git(dirty.path(), &["status", "--porcelain"]).unwrap().lines().count(), 2);

    // Not git: the directory itself, unless a worktree was asked for.
    let session = spawn("plain", json!({})).await;
    farm.ended(&session, "completed").await;
    assert!(plain.join("here.txt").exists());
    let session = spawn("plain", json!({ "worktree": true })).await;
    let ended = farm.ended(&session, "failed").await;
    assert_eq!(ended["end"]["reason"], "workspace_failed", "{ended}");

    // No commit: nothing a branch could start from.
    let session = spawn("unborn", json!({ "worktree": true })).await;
    let ended = farm.ended(&session, "failed").await;
    assert_eq!(ended["end"]["reason"], "workspace_failed", "{ended}");
    assert!(ended["end"]["message"].as_str().is_some_and(|message| message.contains("commit")), "{ended}");

    // In the repository's own directory, on request.
    let session = spawn("dirty", json!({ "worktree": false })).await;
    farm.ended(&session, "completed").await;
    assert!(dirty.path().join("here.txt").exists());
    farm.finish();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_and_refs_are_checked() {
    let farm = Farm::build(TestFleet::builder()).await;
    let repo = farm.fleet.repo();
    repo.git(&["branch", "taken"]).unwrap();
    repo.git(&["tag", "v1"]).unwrap();
    repo.write("later.txt", "later").unwrap();
    repo.commit("second").unwrap();
    let turns = [Turn::text("done")];

    let session = farm.spawn("own branch", &turns, json!({ "branchName": "topic/one", "ref": "v1" })).await;
    let ended = farm.ended(&session, "completed").await;
    assert_eq!(ended["branch"], "topic/one", "{ended}");
    assert!(
        !farm.workspace(&session).await.join("later.txt").exists(),
        "it starts from the ref that was asked for"
    );

    for arguments in [json!({ "branchName": "taken" }), json!({ "ref": "no-such-ref" })] {
        let named = arguments.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned();
        let session = farm.spawn("bad", &turns, arguments).await;
        let ended = farm.ended(&session, "failed").await;
        assert_eq!(ended["end"]["reason"], "workspace_failed", "{ended}");
        assert!(ended["end"]["message"].as_str().is_some_and(|message| message.contains(&named)), "{ended}");
    }
    assert_eq!(repo.git(&["rev-parse", "taken"]).unwrap(), repo.git(&["rev-parse", "v1"]).unwrap());
    for bad in ["-x", "a..b", "sp ace", "x.lock"] {
        let spawned =
            farm.gateway.call("spawn_session", json!({ "prompt": "p", "branchName": bad })).await.unwrap();
        if spawned.is_error {
            assert!(spawned.text.starts_with("invalid_argument: "), "{bad}: {}", spawned.text);
            assert!(spawned.text.contains("branchName"), "{bad}: {}", spawned.text);
            continue;
        }
        let session = spawned.structured["sessionId"].as_str().unwrap();
        let ended = farm.ended(session, "failed").await;
        assert_eq!(ended["end"]["reason"], "workspace_failed", "{ended}");
        assert!(ended["end"]["message"].as_str().is_some_and(|message| message.contains(bad)), "{ended}");
    }
    farm.finish();
}
