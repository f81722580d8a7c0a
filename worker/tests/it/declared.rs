//! Projects that are declared at the controller: mirrors, workspaces that borrow from them, and what a session cannot make the
//! worker do.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use muster_proto::v1::{
    AttemptEnded, BundleQuery, ChangesFormat, ChangesQuery, EndReason, ErrorCode, ProjectPolicy, PushQuery,
    ReleaseWorkspace, SessionSpec, StartSession, Workspace, answer_query_request, connect_response,
    session_event::Body, workspace_query::Ask,
};

use crate::support::{Controller, Machine, git, message, start_order, there};

/// A worker that serves declared projects, and a remote to declare.
async fn farm() -> (Controller, Machine, ProjectPolicy) {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    machine.config.projects.clear();
    machine.config.declared.allow_push = true;
    machine.config.declared.refresh_after = std::time::Duration::ZERO;
    machine.start().await;
    let remote = machine.repo.parent().expect("a folder").join("remote.git");
    git(&machine.repo, &["clone", "-q", "--bare", ".", &remote.to_string_lossy()]);
    let policy = ProjectPolicy {
        name: "api".to_owned(),
        git_url: format!("file://{}", remote.display()),
        allow_push: true,
        ..ProjectPolicy::default()
    };
    (controller, machine, policy)
}

fn order(handle: &str, prompt: &str, policy: &ProjectPolicy) -> StartSession {
    let mut start = start_order(handle, prompt);
    start.spec.as_mut().expect("set").project.clone_from(&policy.name);
    StartSession { policy: Some(policy.clone()), ..start }
}

fn reason(ended: &AttemptEnded) -> (EndReason, String) {
    let end = ended.end.as_ref().expect("set");
    (end.reason(), end.message.clone())
}

async fn release(controller: &Controller, start: &StartSession) -> Workspace {
    let release = ReleaseWorkspace {
        session_id: start.session_id.clone(),
        workspace: None,
        project: start.spec.as_ref().expect("set").project.clone(),
    };
    controller.order(connect_response::Body::Release(release)).await;
    controller
        .event(start, "the release", |body| match body {
            Body::WorkspaceReleased(released) if released.error.is_empty() => released.workspace.clone(),
            Body::WorkspaceReleased(released) => panic!("{}", released.error),
            _ => None,
        })
        .await
}

fn changes(format: ChangesFormat) -> Ask {
    let format = u32::try_from(i32::from(format)).expect("small");
    Ask::Changes(ChangesQuery { format, limit_bytes: 1 << 16, ..ChangesQuery::default() })
}

#[tokio::test]
async fn a_declared_project_is_mirrored_worked_on_told_fetched_pushed_and_kept() {
    let (controller, machine, policy) = farm().await;
    let hello = controller.until("a hello", |seen| seen.hellos.first().cloned()).await;
    assert!(hello.serves_declared && hello.projects.is_empty() && hello.mirrored_projects.is_empty());
    let start = order("api-abcdef", "write made.txt", &policy);
    controller.start_session(&start).await;
    assert_eq!(reason(&controller.ended(&start).await).0, EndReason::TurnCompleted);
    let place = machine.state.join("worktrees/api-abcdef");
    assert_eq!(git(&place, &["rev-parse", "--abbrev-ref", "HEAD"]), "muster/api-abcdef");
    assert_eq!(git(&place, &["rev-parse", "HEAD"]), git(&machine.repo, &["rev-parse", "HEAD"]));
    assert_eq!(git(&place, &["log", "--format=%s", "origin/main"]), "first");
    // One commit, and more that is not committed.
    fs::write(place.join("b.txt"), "two\n").expect("written");
    git(&place, &["add", "b.txt"]);
    git(&place, &["commit", "-q", "-m", "second"]);
    let (result, error, text) = controller.ask(&start, changes(ChangesFormat::Patch)).await;
    let answer_query_request::Body::Result(result) = result else { panic!("{result:?} {error}") };
    assert_eq!((result.commits, result.files_changed), (1, 2));
    let text = String::from_utf8(text).expect("text");
    assert!(text.contains("+two") && text.contains("+written"), "{text}");
    let (body, error, bundle) = controller.ask(&start, Ask::Bundle(BundleQuery {})).await;
    assert!(matches!(body, answer_query_request::Body::Result(_)), "{error}");
    let file = machine.home.join("bundle");
    fs::write(&file, bundle).expect("written");
    git(&machine.repo, &["fetch", "-q", &file.to_string_lossy(), "refs/heads/muster/api-abcdef"]);
    assert_eq!(git(&machine.repo, &["show", "FETCH_HEAD:b.txt"]), "two");
    let push = |remote: &str| Ask::Push(PushQuery { remote: remote.to_owned() });
    let (body, error, _) = controller.ask(&start, push("")).await;
    assert!(matches!(body, answer_query_request::Body::Result(_)), "{error}");
    let remote = policy.git_url.strip_prefix("file://").expect("a path");
    assert_eq!(git(Path::new(remote), &["log", "-1", "--format=%s", "muster/api-abcdef"]), "second");
    let (body, ..) = controller.ask(&start, push("--receive-pack=touch x")).await;
    assert!(matches!(body, answer_query_request::Body::Error(_)));
    // Its workspace goes, its work stays, and can still be asked for.
    let released = release(&controller, &start).await;
    assert!(!place.exists() && released.kept_ref.starts_with("refs/muster/"), "{released:?}");
    let (body, error, text) = controller.ask(&start, changes(ChangesFormat::Patch)).await;
    assert!(matches!(body, answer_query_request::Body::Result(_)), "{error}");
    assert!(String::from_utf8(text).expect("text").contains("+written"));
}

#[tokio::test]
async fn a_mirror_is_made_once_refreshed_when_it_is_old_and_found_again_by_the_next_worker() {
    let (controller, mut machine, policy) = farm().await;
    let policy = ProjectPolicy { default_ref: "release/1".to_owned(), ..policy };
    let early = order("early-abcdef", "say x", &policy);
    controller.start_session(&early).await;
    let (why, text) = reason(&controller.ended(&early).await);
    assert!(why == EndReason::WorkspaceFailed && text.contains("release/1"), "{text}");
    let remote = policy.git_url.strip_prefix("file://").expect("a path").to_owned();
    git(&machine.repo, &["checkout", "-q", "-b", "release/1"]);
    fs::write(machine.repo.join("r.txt"), "released\n").expect("written");
    git(&machine.repo, &["add", "."]);
    git(&machine.repo, &["commit", "-q", "-m", "release"]);
    git(&machine.repo, &["push", "-q", &remote, "release/1"]);
    let start = order("later-abcdef", "say x", &policy);
    controller.start_session(&start).await;
    assert_eq!(reason(&controller.ended(&start).await).0, EndReason::TurnCompleted);
    assert!(machine.state.join("worktrees/later-abcdef/r.txt").exists());
    let mirrors = || fs::read_dir(machine.state.join("mirrors")).expect("there").count();
    assert_eq!(mirrors(), 1);
    // The remote is away: what is here of a commit is used, what is not fails with git's words.
    let commit = git(&machine.repo, &["rev-parse", "release/1"]);
    fs::rename(&remote, format!("{remote}.away")).expect("moved");
    let mut known = order("known-abcdef", "say x", &policy);
    known.spec.as_mut().expect("set").r#ref = commit;
    controller.start_session(&known).await;
    assert_eq!(reason(&controller.ended(&known).await).0, EndReason::TurnCompleted);
    let gone = order("gone-abcdef", "say x", &policy);
    controller.start_session(&gone).await;
    let (why, text) = reason(&controller.ended(&gone).await);
    assert!(why == EndReason::WorkspaceFailed && text.contains("git fetch failed"), "{text}");
    assert_eq!(mirrors(), 1);
    machine.leave().await;
    controller.seen.lock().expect("no test panicked").hellos.clear();
    machine.start().await;
    let hello = controller.until("a hello", |seen| seen.hellos.first().cloned()).await;
    assert_eq!(hello.mirrored_projects, ["api"]);
}

#[tokio::test]
async fn what_is_no_repository_of_an_allowed_kind_is_refused_before_git_sees_it() {
    let (controller, mut machine, policy) = farm().await;
    let canary = machine.home.join("canary");
    let touch = format!("touch {}", canary.display());
    for (number, url) in [
        format!("ext::sh -c {touch}"),
        format!("--upload-pack={touch}"),
        format!("ssh://-oProxyCommand={touch}/x"),
        format!("-oProxyCommand={touch}:x"),
        "http://127.0.0.1:1/x".to_owned(),
        "git://127.0.0.1:1/x".to_owned(),
        "/etc".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        let start = order(
            &format!("url-{number}"),
            "say x",
            &ProjectPolicy { git_url: url.clone(), ..policy.clone() },
        );
        controller.start_session(&start).await;
        let (why, text) = reason(&controller.ended(&start).await);
        assert!(why == EndReason::WorkspaceFailed && text.contains("URL"), "{url}: {text}");
    }
    for (number, (branch, from)) in [
        ("--detach".to_owned(), String::new()),
        ("-x".to_owned(), String::new()),
        ("a..b".to_owned(), String::new()),
        (String::new(), format!("--upload-pack={touch}")),
        (String::new(), "HEAD:a.txt".to_owned()),
        (String::new(), "main^{/first}".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let mut start = order(&format!("ref-{number}"), "say x", &policy);
        let spec = start.spec.as_mut().expect("set");
        *spec = SessionSpec { branch_name: branch.clone(), r#ref: from.clone(), ..spec.clone() };
        controller.start_session(&start).await;
        let (why, text) = reason(&controller.ended(&start).await);
        assert_eq!(why, EndReason::WorkspaceFailed, "{branch} {from}: {text}");
    }
    assert!(!canary.exists());
    // A worker that is told to takes no files, and one that is told to serves none of it.
    machine.leave().await;
    machine.config.declared.file_urls = Some(false);
    controller.seen.lock().expect("no test panicked").hellos.clear();
    machine.start().await;
    controller.until("a hello", |seen| seen.hellos.first().cloned()).await;
    let start = order("files-abcdef", "say x", &policy);
    controller.start_session(&start).await;
    let (why, text) = reason(&controller.ended(&start).await);
    assert!(why == EndReason::WorkspaceFailed && text.contains("file URLs"), "{text}");
    machine.leave().await;
    machine.config.declared.serve = false;
    controller.seen.lock().expect("no test panicked").hellos.clear();
    machine.start().await;
    let hello = controller.until("a hello", |seen| seen.hellos.first().cloned()).await;
    assert!(!hello.serves_declared);
    let start = order("none-abcdef", "say x", &policy);
    controller.start_session(&start).await;
    let (why, text) = reason(&controller.ended(&start).await);
    assert!(why == EndReason::StartFailed && text.contains("does not serve project"), "{text}");
}

#[tokio::test]
async fn a_mirror_that_would_be_too_large_is_not_kept() {
    let (controller, mut machine, policy) = farm().await;
    machine.leave().await;
    machine.config.declared.mirror_limit_bytes = 10;
    controller.seen.lock().expect("no test panicked").hellos.clear();
    machine.start().await;
    controller.until("a hello", |seen| seen.hellos.first().cloned()).await;
    let start = order("large-abcdef", "say x", &policy);
    controller.start_session(&start).await;
    let (why, text) = reason(&controller.ended(&start).await);
    assert!(why == EndReason::WorkspaceFailed && text.contains("larger than the 10 bytes"), "{text}");
    assert_eq!(fs::read_dir(machine.state.join("mirrors")).expect("there").count(), 0);
}

/// Puts into a repository, its configuration, hooks and attributes everything by which git runs a program.
fn plant(work: &Path, git_dir: &Path, canary: &Path) {
    let script = git_dir.join("planted.sh");
    fs::write(&script, format!("#!/bin/sh\necho ran >> {}\ncat\n", canary.display())).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("set");
    let run = script.to_string_lossy().into_owned();
    fs::create_dir_all(git_dir.join("hooks")).expect("made");
    for hook in [
        "pre-commit",
        "post-commit",
        "post-checkout",
        "post-index-change",
        "reference-transaction",
        "pre-push",
        "post-merge",
        "pre-auto-gc",
        "fsmonitor-watchman",
        "post-rewrite",
        "update",
        "pre-receive",
    ] {
        fs::copy(&script, git_dir.join("hooks").join(hook)).expect("copied");
    }
    for (name, value) in [
        ("core.hooksPath", git_dir.join("hooks").to_string_lossy().into_owned()),
        ("core.fsmonitor", run.clone()),
        ("core.sshCommand", run.clone()),
        ("core.gitProxy", run.clone()),
        ("core.pager", run.clone()),
        ("core.editor", run.clone()),
        ("core.askPass", run.clone()),
        ("diff.external", run.clone()),
        ("diff.evil.textconv", run.clone()),
        ("diff.evil.command", run.clone()),
        ("credential.helper", format!("!{run}")),
        ("gpg.program", run.clone()),
        ("commit.gpgSign", "true".to_owned()),
        ("uploadpack.packObjectsHook", run.clone()),
        ("alias.diff-tree", format!("!{run}")),
        ("filter.evil.clean", run.clone()),
        ("filter.evil.smudge", run.clone()),
        ("filter.evil.process", run),
    ] {
        git(work, &["config", "--file", &git_dir.join("config").to_string_lossy(), name, &value]);
    }
    fs::create_dir_all(git_dir.join("info")).expect("made");
    fs::write(git_dir.join("info/attributes"), "* filter=evil diff=evil merge=evil\n").expect("written");
}

#[tokio::test]
async fn a_session_cannot_make_the_worker_run_what_it_planted() {
    let (controller, machine, policy) = farm().await;
    let canary = machine.home.join("canary");
    let first = order("first-abcdef", "write made.txt", &policy);
    controller.start_session(&first).await;
    assert_eq!(reason(&controller.ended(&first).await).0, EndReason::TurnCompleted);
    let place = machine.state.join("worktrees/first-abcdef");
    fs::write(place.join("b.txt"), "two\n").expect("written");
    git(&place, &["add", "b.txt"]);
    git(&place, &["commit", "-q", "-m", "second"]);
    fs::write(place.join(".gitattributes"), "* filter=evil diff=evil merge=evil\n").expect("written");
    // In its own repository, and in the mirror, which belongs to the same user.
    plant(&place, &place.join(".git"), &canary);
    let mirror = fs::read_dir(machine.state.join("mirrors"))
        .expect("there")
        .next()
        .expect("one")
        .expect("read")
        .path();
    plant(&machine.home, &mirror, &canary);
    for ask in [
        changes(ChangesFormat::Patch),
        changes(ChangesFormat::Stat),
        changes(ChangesFormat::Commits),
        Ask::Bundle(BundleQuery {}),
        Ask::Push(PushQuery::default()),
    ] {
        let (body, error, _) = controller.ask(&first, ask).await;
        assert!(matches!(body, answer_query_request::Body::Result(_)), "{error}");
        plant(&machine.home, &mirror, &canary);
    }
    let second = order("second-abcdef", "write more.txt", &policy);
    controller.start_session(&second).await;
    assert_eq!(reason(&controller.ended(&second).await).0, EndReason::TurnCompleted);
    plant(&machine.home, &mirror, &canary);
    let kept = release(&controller, &first).await;
    assert!(!canary.exists(), "{}", fs::read_to_string(&canary).unwrap_or_default());
    assert!(!kept.kept_ref.is_empty());
    // That the plants are no duds: git run there without guards runs them.
    plant(&machine.home, &mirror, &canary);
    git(&mirror, &["update-ref", "refs/heads/dud", "refs/remotes/origin/main"]);
    assert!(canary.exists(), "the hook would have run");
}

#[tokio::test]
async fn a_session_that_breaks_its_repository_loses_only_what_was_never_told() {
    let (controller, machine, policy) = farm().await;
    let start = order("breaks-abcdef", "write made.txt", &policy);
    controller.start_session(&start).await;
    controller.ended(&start).await;
    let place = machine.state.join("worktrees/breaks-abcdef");
    fs::remove_dir_all(place.join(".git")).expect("removed");
    std::os::unix::fs::symlink("/etc", place.join(".git")).expect("linked");
    let released = release(&controller, &start).await;
    assert!(!released.kept_ref.is_empty() && !place.exists() && Path::new("/etc/passwd").exists());
    let (_, _, text) = controller.ask(&start, changes(ChangesFormat::Patch)).await;
    assert!(String::from_utf8(text).expect("text").contains("+written"));
}

#[tokio::test]
async fn a_making_that_was_killed_half_way_is_done_again() {
    let (controller, mut machine, policy) = farm().await;
    let start = order("half-abcdef", "say x", &policy);
    controller.start_session(&start).await;
    controller.ended(&start).await;
    let session = machine.state.join("sessions").join(&start.session_id);
    let intent = fs::read_to_string(session.join("workspace.json")).expect("there");
    machine.leave().await;
    // As a worker leaves it that is killed in the middle: noted, begun, not made.
    let other = order("again-abcdef", "write made.txt", &policy);
    let place = machine.state.join("worktrees/again-abcdef");
    fs::create_dir_all(place.join(".git")).expect("made");
    let folder = machine.state.join("sessions").join(&other.session_id);
    fs::create_dir_all(&folder).expect("made");
    let intent = intent.replace("half-abcdef", "again-abcdef").replace("\"made\": true", "\"made\": false");
    fs::write(folder.join("workspace.json"), intent).expect("written");
    controller.seen.lock().expect("no test panicked").hellos.clear();
    machine.start().await;
    controller.until("a hello", |seen| seen.hellos.first().cloned()).await;
    controller.start_session(&other).await;
    assert_eq!(reason(&controller.ended(&other).await).0, EndReason::TurnCompleted);
    there(&place.join("made.txt")).await;
    let next =
        StartSession { attempt: 2, resume: true, inputs: vec![message(2, "say two")], ..other.clone() };
    controller.start_session(&next).await;
    assert_eq!(controller.ended(&next).await.result_text, "two");
}

#[tokio::test]
async fn a_push_needs_the_policy_and_the_worker() {
    let (controller, _machine, policy) = farm().await;
    let start = order("nopush-abcdef", "write made.txt", &ProjectPolicy { allow_push: false, ..policy });
    controller.start_session(&start).await;
    controller.ended(&start).await;
    let (body, error, _) = controller.ask(&start, Ask::Push(PushQuery::default())).await;
    let answer_query_request::Body::Error(detail) = body else { panic!("{body:?}") };
    assert_eq!(detail.code(), ErrorCode::PushNotAllowed, "{error}");
}

#[tokio::test]
async fn what_a_session_plants_in_an_announced_repository_is_not_run_by_questions_or_a_release() {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    machine.start().await;
    let canary = machine.home.join("canary");
    let start = start_order("planted-abcdef", "write made.txt");
    controller.start_session(&start).await;
    controller.ended(&start).await;
    let place = machine.state.join("worktrees/planted-abcdef");
    // Filters of a repository's own configuration are its operator's (large files) and stay in force: not planted here.
    plant(&place, &machine.repo.join(".git"), &canary);
    for name in ["clean", "smudge", "process"] {
        git(&machine.repo, &["config", "--unset", &format!("filter.evil.{name}")]);
    }
    for ask in [
        changes(ChangesFormat::Patch),
        changes(ChangesFormat::Stat),
        changes(ChangesFormat::Commits),
        Ask::Bundle(BundleQuery {}),
    ] {
        let (body, error, _) = controller.ask(&start, ask).await;
        assert!(matches!(body, answer_query_request::Body::Result(_)), "{error}");
    }
    let next = start_order("beside-abcdef", "say x");
    controller.start_session(&next).await;
    assert_eq!(reason(&controller.ended(&next).await).0, EndReason::TurnCompleted);
    assert!(!release(&controller, &start).await.kept_ref.is_empty());
    assert!(!canary.exists(), "{}", fs::read_to_string(&canary).unwrap_or_default());
}

#[tokio::test]
async fn a_mirror_goes_when_the_disk_is_wanted_and_nothing_is_only_in_it() {
    let (controller, mut machine, policy) = farm().await;
    let work = order("work-abcdef", "write made.txt", &policy);
    let other = ProjectPolicy { name: "other".to_owned(), ..policy };
    let none = order("none-abcdef", "say x", &other);
    for start in [&work, &none] {
        controller.start_session(start).await;
        assert_eq!(reason(&controller.ended(start).await).0, EndReason::TurnCompleted);
    }
    let mirrors = machine.state.join("mirrors");
    let names = || {
        let entries = fs::read_dir(&mirrors).expect("there").map(|entry| entry.expect("read").file_name());
        let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    release(&controller, &work).await;
    machine.leave().await;
    machine.config.declared.disk_wanted_bytes = u64::MAX;
    machine.config.declared.keep_unused = std::time::Duration::ZERO;
    machine.config.timing.reap_every = std::time::Duration::from_millis(50);
    controller.seen.lock().expect("no test panicked").hellos.clear();
    machine.start().await;
    controller.until("it is back", |seen| (!seen.hellos.is_empty()).then_some(())).await;
    assert_eq!(names().len(), 2, "a workspace borrows from one, the other holds work");
    release(&controller, &none).await;
    crate::support::until("the unused one is gone", || names().len() == 1).await;
    assert!(names()[0].starts_with("api-"));
    let (_, _, text) = controller.ask(&work, changes(ChangesFormat::Patch)).await;
    assert!(String::from_utf8(text).expect("text").contains("+written"));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_remote_that_says_nothing() {
    let (controller, machine, policy) = farm().await;
    // It takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = silent.local_addr().expect("bound");
    let policy = ProjectPolicy { git_url: format!("https://{address}/api.git"), ..policy };
    let start = order("silent-abcdef", "say x", &policy);
    controller.start_session(&start).await;
    let fetching =
        || machine.state.join("mirrors").read_dir().is_ok_and(|mut entries| entries.next().is_some());
    crate::support::until("it fetches", fetching).await;
    controller.stop(&start).await;
    assert_eq!(reason(&controller.ended(&start).await).0, EndReason::Stopped);
    let talks = || {
        let entries = fs::read_dir("/proc").expect("read").flatten();
        let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&address.to_string())).count()
    };
    crate::support::until("nobody talks to it any more", || talks() == 0).await;
}
