//! What is left behind is found and removed; what lives, and work, is not.

use std::{
    fs::{self, File},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use muster_proto::{
    ids::SessionId,
    v1::{Decision, WorkspaceReleased, session_event::Body},
};

mod support;
use support::{Controller, Machine, answer, git, start_order};

/// As if it was made an hour ago.
fn old(path: &Path) {
    let then = SystemTime::now() - Duration::from_secs(3600);
    File::open(path).expect("there").set_modified(then).expect("set");
}

fn plant(path: &Path) -> PathBuf {
    fs::create_dir_all(path.parent().expect("a folder")).expect("created");
    fs::write(path, "planted").expect("written");
    old(path);
    path.to_owned()
}

async fn gone(path: &Path) {
    let until = std::time::Instant::now() + support::LONG;
    while path.symlink_metadata().is_ok() {
        assert!(std::time::Instant::now() < until, "still there: {}", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_nobody_has_is_removed_and_what_lives_is_not_touched() {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    machine.start().await;
    let (lives, ended) = (start_order("lives-abcdef", "permission x"), start_order("ended-abcdef", "say x"));
    controller.start_session(&lives).await;
    controller.start_session(&ended).await;
    let attention = controller.attention(&lives).await;
    controller.ended(&ended).await;
    machine.kill();

    let state = machine.state.clone();
    let (worktrees, sessions) = (state.join("worktrees"), state.join("sessions"));
    let add = |name: &str| {
        let (root, branch) = (worktrees.join(name), format!("muster/{name}"));
        git(&machine.repo, &["worktree", "add", "-q", "-b", &branch, root.to_str().expect("text"), "HEAD"]);
        root
    };
    // Foreign to muster, and fresh: not ours, or not sure.
    let foreign = machine.repo.parent().expect("set").join("foreign");
    git(&machine.repo, &["worktree", "add", "-q", foreign.to_str().expect("text")]);
    fs::create_dir(worktrees.join("unknown")).expect("created");
    let unknown = plant(&worktrees.join("unknown/work.txt"));
    let fresh = plant(&machine.repo.join(".git/refs/heads/muster/fresh.lock"));
    File::open(&fresh).expect("there").set_modified(SystemTime::now()).expect("set");
    let lock_of_others = plant(&machine.repo.join(".git/refs/heads/other.lock"));
    let living = [
        sessions.join(&lives.session_id).join("attempt-1/shim.sock"),
        worktrees.join("lives-abcdef/a.txt"),
        worktrees.join("ended-abcdef/a.txt"),
    ];

    let nobody = sessions.join(SessionId::generate().to_string());
    fs::create_dir(&nobody).expect("created");
    plant(&nobody.join("events"));
    old(&nobody);
    let attempt = sessions.join(&ended.session_id).join("attempt-1");
    gone(&attempt.join("shim.sock")).await;
    drop(UnixListener::bind(attempt.join("shim.sock")).expect("bound"));
    let record_only = add("record-only");
    fs::remove_dir_all(&record_only).expect("removed");
    let empty = worktrees.join("empty/nothing");
    fs::create_dir_all(&empty).expect("created");
    fs::create_dir(state.join("tmp/0123456789ab-1")).expect("created");
    let mut planted = vec![
        nobody.clone(),
        attempt.join("shim.sock"),
        empty.parent().expect("set").to_owned(),
        state.join("tmp/0123456789ab-1"),
        plant(&sessions.join(&ended.session_id).join("snapshot.index.lock")),
        plant(&sessions.join(&ended.session_id).join("session.tmp")),
        plant(&machine.repo.join(".git/refs/heads/muster/stale.lock")),
        machine.repo.join(".git/worktrees/record-only"),
        machine.repo.join(".git/refs/heads/muster/record-only"),
    ];
    for name in ["clean", "dirty"] {
        let root = add(name);
        if name == "dirty" {
            fs::write(root.join("new.txt"), "work\n").expect("written");
        }
        planted.push(root);
    }
    machine.start().await;
    for path in &planted {
        gone(path).await;
    }

    let kept = git(&machine.repo, &["for-each-ref", "--format=%(refname)", "refs/muster"]);
    assert!(kept.lines().any(|name| name == "refs/muster/orphan-dirty/final"), "{kept}");
    assert!(!kept.contains("clean"), "{kept}");
    let branches = git(&machine.repo, &["for-each-ref", "--format=%(refname:short)", "refs/heads"]);
    let branches: Vec<&str> = branches.lines().collect();
    assert_eq!(branches, ["foreign", "main", "muster/ended-abcdef", "muster/lives-abcdef"]);
    for path in living.iter().chain([&unknown, &fresh, &lock_of_others, &foreign.join("a.txt")]) {
        assert!(path.exists(), "{}", path.display());
    }
    let until = std::time::Instant::now() + support::LONG;
    while fs::read_dir(state.join("tmp")).expect("there").count() > 1 {
        assert!(std::time::Instant::now() < until, "only what is in use stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    controller.until("a second hello", |seen| seen.hellos.get(1).cloned()).await;
    controller.input(&lives, 2, answer(&attention, Decision::Deny, "it lived")).await;
    assert!(controller.ended(&lives).await.result_text.contains("it lived"));
}

#[tokio::test]
async fn work_in_a_worktree_that_lost_its_session_is_kept_before_it_is_removed() {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    machine.start().await;
    let start = start_order("lost-abcdef", "write made.txt");
    controller.start_session(&start).await;
    controller.ended(&start).await;
    machine.leave().await;
    let session = machine.state.join("sessions").join(&start.session_id);
    fs::rename(session, machine.home.join("lost")).expect("moved away");
    machine.start().await;
    gone(&machine.state.join("worktrees/lost-abcdef")).await;
    let kept = "refs/muster/orphan-lost-abcdef/final:made.txt";
    assert_eq!(git(&machine.repo, &["show", kept]), "written");
    gone(&machine.repo.join(".git/worktrees/lost-abcdef")).await;
}

#[tokio::test]
async fn sessions_that_ended_long_ago_are_released_and_then_forgotten_but_not_their_work() {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    machine.config.timing.reap_every = Duration::from_millis(50);
    machine.config.timing.keep_workspace = Some(Duration::ZERO);
    machine.config.timing.keep_ended = Duration::ZERO;
    machine.start().await;
    let start = start_order("forgotten-abcdef", "write made.txt");
    controller.start_session(&start).await;
    let ended = controller.ended(&start).await;
    let released: WorkspaceReleased = controller
        .event(&start, "the release", |body| match body {
            Body::WorkspaceReleased(released) => Some(released.clone()),
            _ => None,
        })
        .await;
    let kept = released.workspace.expect("set").kept_ref;
    assert_eq!(git(&machine.repo, &["show", &format!("{kept}:made.txt")]), "written");
    gone(&machine.state.join("sessions").join(&start.session_id)).await;
    assert!(!machine.state.join("worktrees/forgotten-abcdef").exists());
    assert!(!controller.output(&start, &ended).await.is_empty(), "brought before it went");
}
