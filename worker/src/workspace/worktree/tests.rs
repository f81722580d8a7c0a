use std::{fs, path::PathBuf, process::Command};

use super::*;

struct Repo {
    _dir: tempfile::TempDir,
    path: PathBuf,
    state: PathBuf,
}

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(dir)
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn empty_repo() -> Repo {
    let dir = tempfile::tempdir().expect("a directory");
    let base = dir.path().canonicalize().expect("real");
    let (path, state) = (base.join("repo"), base.join("state"));
    fs::create_dir(&path).expect("created");
    fs::create_dir(&state).expect("created");
    git(&path, &["init", "-q"]);
    Repo { _dir: dir, path, state }
}

fn repo() -> Repo {
    let repo = empty_repo();
    fs::write(repo.path.join("a.txt"), "one\n").expect("written");
    fs::write(repo.path.join(".gitignore"), "*.log\n").expect("written");
    git(&repo.path, &["add", "."]);
    git(&repo.path, &["commit", "-q", "-m", "first"]);
    repo
}

impl Repo {
    fn session(&self, handle: &str) -> PathBuf {
        let dir = self.state.join("sessions").join(handle);
        fs::create_dir_all(&dir).expect("created");
        dir
    }

    fn order<'a>(&'a self, session_dir: &'a Path, handle: &'a str) -> Order<'a> {
        Order {
            session_dir,
            project: &self.path,
            handle,
            worktree: None,
            branch: "",
            from_ref: "",
            copy: &[],
            mirrored: None,
        }
    }

    fn show(&self, spec: &str) -> String {
        git(&self.path, &["show", spec])
    }
}

#[tokio::test]
async fn fifty_at_once_in_one_repository_all_work() {
    let repo = repo();
    let worktrees = Worktrees::new(&repo.state);
    let names: Vec<String> = (0..50).map(|number| format!("fix-{number}-abcdef")).collect();
    let dirs: Vec<PathBuf> = names.iter().map(|name| repo.session(name)).collect();
    let orders: Vec<Order<'_>> = names.iter().zip(&dirs).map(|(name, dir)| repo.order(dir, name)).collect();
    let made = futures::future::join_all(orders.iter().map(|order| worktrees.create(order))).await;
    for (made, name) in made.into_iter().zip(&names) {
        let made = made.expect("made");
        assert_eq!(made.branch, format!("muster/{name}"));
        assert_eq!(git(Path::new(&made.path), &["rev-parse", "--abbrev-ref", "HEAD"]), made.branch);
        assert!(git(Path::new(&made.path), &["status", "--porcelain"]).is_empty());
    }
    let released = names.iter().zip(&dirs).map(|(name, dir)| {
        let was = Workspace { worktree: true, ..Workspace::default() };
        let worktrees = worktrees.clone();
        async move { worktrees.release(dir, name, &was).await }
    });
    for released in futures::future::join_all(released).await {
        assert!(released.expect("released").kept_ref.is_empty());
    }
    assert_eq!(git(&repo.path, &["worktree", "list"]).lines().count(), 1);
    assert_eq!(fs::read_dir(repo.state.join("worktrees")).expect("there").count(), 0);
}

#[tokio::test]
async fn what_cannot_be_made_is_told_clearly() {
    let repo = repo();
    git(&repo.path, &["branch", "taken"]);
    let worktrees = Worktrees::new(&repo.state);
    let dir = repo.session("s");
    let order = repo.order(&dir, "s");
    for (order, says) in [
        (Order { branch: "taken", ..order.clone() }, "exists already"),
        (Order { branch: "-b", ..order.clone() }, "not a valid branch"),
        (Order { branch: "a..b", ..order.clone() }, "not a valid branch"),
        (Order { from_ref: "nowhere", ..order.clone() }, "does not name a commit"),
        (Order { from_ref: "--upload-pack=touch x", ..order.clone() }, "does not name a commit"),
    ] {
        let error = worktrees.create(&order).await.expect_err("refused").to_string();
        assert!(error.contains(says), "{error}");
    }
    let empty = empty_repo();
    let error =
        worktrees.create(&Order { project: &empty.path, ..order.clone() }).await.expect_err("refused");
    assert!(matches!(error, WorkspaceError::NoCommits(_)), "{error}");
    let plain = tempfile::tempdir().expect("a directory");
    let outside = Order { project: plain.path(), ..order.clone() };
    let error =
        worktrees.create(&Order { worktree: Some(true), ..outside.clone() }).await.expect_err("refused");
    assert!(matches!(error, WorkspaceError::NotGit(_)), "{error}");
    let made = worktrees.create(&outside).await.expect("the directory itself");
    assert!(!made.worktree && made.path == plain.path().to_string_lossy());
    let made =
        worktrees.create(&Order { worktree: Some(false), ..order }).await.expect("the directory itself");
    assert!(!made.worktree && !made.base_commit.is_empty());
}

#[tokio::test]
async fn a_creation_killed_half_way_is_done_again() {
    let repo = repo();
    let worktrees = Worktrees::new(&repo.state);
    let dir = repo.session("s");
    let first = worktrees.create(&repo.order(&dir, "s")).await.expect("made");
    assert_eq!(worktrees.create(&repo.order(&dir, "s")).await.expect("found"), first);
    // As if killed in the middle of the checkout, before the intent was marked as made.
    let mut intent = Intent::read(&dir).expect("there");
    intent.made = false;
    intent.write(&dir).expect("written");
    fs::remove_file(Path::new(&first.path).join("a.txt")).expect("removed");
    let again = worktrees.create(&repo.order(&dir, "s")).await.expect("made again");
    assert_eq!(again, first);
    assert!(Path::new(&again.path).join("a.txt").exists());
}

#[tokio::test]
async fn a_project_below_the_top_works_below_the_top() {
    let repo = repo();
    fs::create_dir(repo.path.join("sub")).expect("created");
    fs::write(repo.path.join("sub/b"), "b").expect("written");
    git(&repo.path, &["add", "."]);
    git(&repo.path, &["commit", "-q", "-m", "sub"]);
    let dir = repo.session("s");
    let project = repo.path.join("sub");
    let made =
        Worktrees::new(&repo.state).create(&Order { project: &project, ..repo.order(&dir, "s") }).await;
    let made = made.expect("made");
    assert!(made.path.ends_with("worktrees/s/sub") && Path::new(&made.path).join("b").exists());
}

#[tokio::test]
async fn release_keeps_tracked_and_untracked_work_and_is_safe_to_repeat() {
    let repo = repo();
    let worktrees = Worktrees::new(&repo.state);
    let dir = repo.session("s");
    let made = worktrees.create(&repo.order(&dir, "s")).await.expect("made");
    let path = PathBuf::from(&made.path);
    fs::write(path.join("a.txt"), "two\n").expect("written");
    fs::write(path.join("new file"), "new\n").expect("written");
    fs::write(path.join("x.log"), "ignored\n").expect("written");
    let released = worktrees.release(&dir, "id-1", &made).await.expect("released");
    assert!(!path.exists());
    assert_eq!(released.kept_ref, "refs/muster/id-1/final");
    assert_eq!(released.state(), WorkspaceState::Released);
    assert_eq!(repo.show(&format!("{}:a.txt", released.kept_commit)), "two");
    assert_eq!(repo.show("refs/muster/id-1/final:new file"), "new");
    assert!(!git(&repo.path, &["ls-tree", "-r", "--name-only", &released.kept_commit]).contains("x.log"));
    assert_eq!(git(&repo.path, &["rev-parse", "refs/muster/id-1/final^"]), made.base_commit);
    assert_eq!(worktrees.release(&dir, "id-1", &made).await.expect("again"), released);
    assert!(git(&repo.path, &["status", "--porcelain"]).is_empty(), "the project itself is untouched");
}

#[tokio::test]
async fn committed_work_stays_on_the_branch_and_detached_work_in_a_ref() {
    let repo = repo();
    let worktrees = Worktrees::new(&repo.state);
    for (handle, detach) in [("on-branch", false), ("detached", true)] {
        let dir = repo.session(handle);
        let made = worktrees.create(&repo.order(&dir, handle)).await.expect("made");
        let path = PathBuf::from(&made.path);
        if detach {
            git(&path, &["checkout", "-q", "--detach"]);
        }
        fs::write(path.join("a.txt"), handle).expect("written");
        git(&path, &["commit", "-q", "-a", "-m", "work"]);
        let commit = git(&path, &["rev-parse", "HEAD"]);
        let released = worktrees.release(&dir, handle, &made).await.expect("released");
        if detach {
            assert_eq!(released.kept_commit, commit);
        } else {
            assert_eq!(released.kept_ref, "");
            assert_eq!(git(&repo.path, &["rev-parse", &made.branch]), commit);
        }
    }
}

#[tokio::test]
async fn a_forged_or_missing_git_file_loses_nothing_and_removes_nothing_else() {
    for forged in [None, Some("gitdir: /etc\n")] {
        let repo = repo();
        let worktrees = Worktrees::new(&repo.state);
        let dir = repo.session("s");
        let made = worktrees.create(&repo.order(&dir, "s")).await.expect("made");
        let path = PathBuf::from(&made.path);
        let precious = repo.state.join("precious");
        fs::create_dir(&precious).expect("created");
        fs::write(precious.join("file"), "keep").expect("written");
        std::os::unix::fs::symlink(&precious, path.join("link")).expect("linked");
        fs::write(path.join("work"), "work\n").expect("written");
        fs::remove_file(path.join(".git")).expect("removed");
        if let Some(forged) = forged {
            fs::write(path.join(".git"), forged).expect("written");
        }
        let released = worktrees.release(&dir, "id", &made).await.expect("released");
        assert_eq!(repo.show(&format!("{}:work", released.kept_commit)), "work");
        assert!(!path.exists() && precious.join("file").exists());
        assert_eq!(git(&repo.path, &["worktree", "list"]).lines().count(), 1);
    }
}

#[tokio::test]
async fn another_repository_inside_is_not_thrown_away() {
    let repo = repo();
    let worktrees = Worktrees::new(&repo.state);
    let dir = repo.session("s");
    let made = worktrees.create(&repo.order(&dir, "s")).await.expect("made");
    let inner = PathBuf::from(&made.path).join("inner");
    fs::create_dir(&inner).expect("created");
    git(&inner, &["init", "-q"]);
    git(&inner, &["commit", "-q", "--allow-empty", "-m", "inner"]);
    let error = worktrees.release(&dir, "id", &made).await.expect_err("refused");
    assert!(matches!(&error, WorkspaceError::HoldsRepository(path) if path == "inner"), "{error}");
    assert!(inner.exists());
}

#[tokio::test]
async fn hooks_planted_by_a_session_do_not_run() {
    let repo = repo();
    let mark = repo.state.join("ran");
    let hook = repo.path.join(".git/hooks/post-checkout");
    fs::create_dir_all(hook.parent().expect("a parent")).expect("created");
    fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", mark.display())).expect("written");
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let dir = repo.session("s");
    let worktrees = Worktrees::new(&repo.state);
    let made = worktrees.create(&repo.order(&dir, "s")).await.expect("made");
    worktrees.release(&dir, "id", &made).await.expect("released");
    assert!(!mark.exists());
}
