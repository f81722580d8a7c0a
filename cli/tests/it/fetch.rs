//! `fetch`: a session's branch and its uncommitted work in a clone of the caller's, by real git.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use muster_proto::v1::ChangesSummary;
use nix::sys::signal::Signal;

use crate::{
    fake_controller::{Controller, HANDLE, ID},
    process::{Role, Run, User, eventually},
};

const BRANCH: &str = "muster/fix-login";

/// git in a folder; what it prints.
pub fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("a PATH"))
        .env("HOME", "/nonexistent")
        .output()
        .expect("git runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// A project with a session's branch, a clone of it from before the session, and a controller that has both.
struct Farm {
    user: User,
    controller: Controller,
    base: String,
}

impl Farm {
    fn new() -> Self {
        let user = User::new();
        let project = user.path("project");
        std::fs::create_dir(&project).expect("a folder");
        git(&project, &["init", "-q"]);
        std::fs::write(project.join("a"), "one\n").expect("written");
        git(&project, &["add", "a"]);
        git(&project, &["commit", "-q", "-m", "first"]);
        git(&user.path(""), &["clone", "-q", "project", "clone"]);
        let base = git(&project, &["rev-parse", "HEAD"]);
        git(&project, &["switch", "-q", "-c", BRANCH]);
        Self { user, controller: Controller::start(), base }
    }

    fn clone(&self) -> PathBuf {
        self.user.path("clone")
    }

    /// The session commits something.
    fn commits(&self, text: &str) -> String {
        let project = self.user.path("project");
        std::fs::write(project.join("a"), text).expect("written");
        git(&project, &["commit", "-q", "-a", "-m", text.trim()]);
        git(&project, &["rev-parse", "HEAD"])
    }

    /// The worker makes a bundle, as it does: of what the base lacks, and the work when there is some.
    fn bundles(&self, uncommitted: Option<&str>) -> String {
        let project = self.user.path("project");
        let head = git(&project, &["rev-parse", BRANCH]);
        let work_ref = format!("refs/muster/{ID}/work");
        let work = match uncommitted {
            None => head.clone(),
            Some(text) => {
                std::fs::write(project.join("untracked"), text).expect("written");
                git(&project, &["add", "untracked"]);
                let tree = git(&project, &["write-tree"]);
                git(&project, &["rm", "-q", "--cached", "untracked"]);
                let work = git(&project, &["commit-tree", "-p", &head, "-m", "work", &tree]);
                git(&project, &["update-ref", &work_ref, &work]);
                work
            }
        };
        let file = self.user.path("session.bundle");
        let not_base = format!("^{}", self.base);
        let mut args = vec!["bundle", "create", "-q", file.to_str().expect("UTF-8"), BRANCH];
        if uncommitted.is_some() {
            args.push(&work_ref);
        }
        args.push(&not_base);
        let mut state = self.controller.state();
        state.bundle.clear();
        if work != self.base {
            git(&project, &args);
            state.bundle = std::fs::read(&file).expect("a bundle");
        }
        state.summaries = vec![ChangesSummary {
            branch: BRANCH.into(),
            base_commit: self.base.clone(),
            head_commit: head,
            work_commit: work.clone(),
            kept_ref: uncommitted.map(|_| work_ref).unwrap_or_default(),
            ..Default::default()
        }];
        work
    }

    fn fetch(&self, args: &[&str]) -> Run {
        let clone = self.clone();
        let address = self.controller.address.to_string();
        let common = ["fetch", HANDLE, "--controller", &address, "--into", clone.to_str().expect("UTF-8")];
        self.user.run(&[&common[..], args].concat())
    }

    fn at(&self, name: &str) -> String {
        git(&self.clone(), &["rev-parse", "--verify", name])
    }

    /// Everything the clone's refs point at.
    fn refs(&self) -> String {
        git(&self.clone(), &["for-each-ref"])
    }
}

fn refused(run: &Run, code: i32, names: &str) {
    assert_eq!((run.code, run.stdout.as_str()), (code, ""), "{run:?}");
    assert!(run.stderr.contains(names), "{}", run.stderr);
}

#[test]
fn branch_and_uncommitted_work_arrive_and_later_work_moves_them_forward() {
    let farm = Farm::new();
    let first = farm.commits("two\n");
    let work = farm.bundles(Some("new file\n"));
    let run = farm.fetch(&[]);
    assert_eq!(run.code, 0, "{run:?}");
    let kept = format!("refs/muster/{ID}/work");
    assert_eq!(
        run.stdout,
        format!("{HANDLE}  {BRANCH} at {} is new; uncommitted work in {kept}\n", &first[..12])
    );
    assert_eq!((farm.at(BRANCH), farm.at(&kept)), (first.clone(), work));
    assert_eq!(git(&farm.clone(), &["show", &format!("{kept}:untracked")]), "new file");
    assert_eq!(git(&farm.clone(), &["status", "--porcelain"]), "", "the clone's own files are as they were");
    assert!(farm.fetch(&[]).stdout.contains(&format!("{} was there already", &first[..12])));

    let second = farm.commits("three\n");
    let work = farm.bundles(Some("newer file\n"));
    let document = farm.fetch(&["--json"]).json();
    assert_eq!(
        document,
        serde_json::json!({
            "sessionId": HANDLE, "repository": farm.clone().join(".git").canonicalize().expect("it"),
            "branch": BRANCH, "commit": second, "change": "forwarded", "previousCommit": first,
            "baseCommit": farm.base, "workRef": kept, "workCommit": work,
        })
    );
    assert_eq!((farm.at(BRANCH), farm.at(&kept)), (second, work));
    git(&farm.clone(), &["fsck", "--strict"]);
}

#[test]
fn without_commits_the_branch_stands_at_its_base_and_without_anything_too() {
    let farm = Farm::new();
    let work = farm.bundles(Some("only a file\n"));
    let run = farm.fetch(&[]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!((farm.at(BRANCH), farm.at(&format!("refs/muster/{ID}/work"))), (farm.base, work));

    let farm = Farm::new();
    farm.bundles(None);
    let run = farm.fetch(&["--branch", "mine"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(run.stdout, format!("{HANDLE}  mine at {} is new\n", &farm.base[..12]));
    assert_eq!(farm.at("mine"), farm.base);
}

#[test]
fn a_branch_that_has_gone_another_way_stays_and_another_name_brings_the_work() {
    let farm = Farm::new();
    let head = farm.commits("two\n");
    farm.bundles(Some("file\n"));
    let clone = farm.clone();
    git(&clone, &["switch", "-q", "-c", BRANCH]);
    git(&clone, &["commit", "-q", "--allow-empty", "-m", "mine"]);
    git(&clone, &["switch", "-q", "main"]);
    let before = farm.refs();
    let run = farm.fetch(&[]);
    refused(&run, 1, "has commits here that the session does not have");
    assert!(run.stderr.contains("--branch NAME"), "{}", run.stderr);
    assert_eq!(farm.refs(), before, "no ref moved, not even that of the uncommitted work");
    assert_eq!(farm.fetch(&["--branch", "theirs"]).code, 0);
    assert_eq!(farm.at("theirs"), head);

    // One that only has more is left where it is.
    git(&clone, &["switch", "-q", "theirs"]);
    git(&clone, &["commit", "-q", "--allow-empty", "-m", "mine"]);
    let mine = farm.at("theirs");
    let run = farm.fetch(&["--branch", "theirs"]);
    assert!(run.code == 0 && run.stdout.contains("was there already"), "{run:?}");
    assert_eq!(farm.at("theirs"), mine);
}

#[test]
fn a_branch_that_is_checked_out_is_not_moved_under_its_files() {
    let farm = Farm::new();
    git(&farm.clone(), &["switch", "-q", "-c", BRANCH]);
    farm.commits("two\n");
    farm.bundles(None);
    let before = farm.refs();
    let run = farm.fetch(&[]);
    refused(&run, 1, "is checked out in ");
    assert!(run.stderr.contains("clone") && run.stderr.contains("--branch NAME"), "{}", run.stderr);
    assert_eq!(farm.refs(), before);
}

#[test]
fn a_place_that_cannot_take_the_work_is_named() {
    let farm = Farm::new();
    farm.commits("two\n");
    farm.bundles(None);
    let address = farm.controller.address.to_string();
    let outside = farm.user.run(&["fetch", HANDLE, "--controller", &address]);
    refused(&outside, 2, "is in no git repository");
    assert!(outside.stderr.contains("--into DIR"), "{}", outside.stderr);
    let nowhere = farm.user.run(&["fetch", HANDLE, "--controller", &address, "--into", "/nowhere/at/all"]);
    refused(&nowhere, 2, "/nowhere/at/all");
    for name in ["a..b", "a b", ".lock", "x.lock", ""] {
        refused(&farm.fetch(&["--branch", name]), 2, "cannot be the name of a branch");
    }
    // A repository that has nothing to do with the session's.
    let other = farm.user.path("work");
    git(&other, &["init", "-q"]);
    let run = farm.user.run(&["fetch", HANDLE, "--controller", &address]);
    refused(&run, 1, &format!("lacks commit {}", farm.base));
    assert_eq!(git(&other, &["for-each-ref"]), "");
}

#[test]
fn what_breaks_off_or_is_damaged_changes_nothing() {
    let farm = Farm::new();
    farm.commits("two\n");
    farm.bundles(Some("file\n"));
    let before = farm.refs();
    farm.controller.state().breaks = true;
    refused(&farm.fetch(&[]), 1, "worker_unreachable: worker box went away");
    {
        let mut state = farm.controller.state();
        state.breaks = false;
        let middle = state.bundle.len() - 30;
        state.bundle[middle] ^= 0x55;
    }
    refused(&farm.fetch(&[]), 1, "git cannot bring the session's work into this clone");
    farm.controller.state().bundle.truncate(20);
    refused(&farm.fetch(&[]), 1, "bundle");
    farm.controller.state().summaries[0].head_commit = "--upload-pack=touch x".into();
    refused(&farm.fetch(&[]), 1, "is no id of a commit");
    assert_eq!(farm.refs(), before);
}

#[test]
fn a_fetch_that_is_interrupted_leaves_nothing_behind() {
    let farm = Farm::new();
    farm.commits("two\n");
    farm.bundles(None);
    farm.controller.state().hangs = true;
    let before = farm.refs();
    let (clone, temporary) = (farm.clone(), farm.user.path("tmp"));
    std::fs::create_dir(&temporary).expect("a folder");
    let files = || std::fs::read_dir(&temporary).expect("readable").count();
    let address = farm.controller.address.to_string();
    let mut command = farm.user.command(&["fetch", HANDLE, "--controller", &address]);
    command.current_dir(&clone).env("TMPDIR", &temporary);
    let role = Role::new(command.spawn().expect("starts"), farm.user.path("none"));
    eventually("the bundle arrives", || (files() == 1).then_some(()));
    role.signal(Signal::SIGINT);
    assert_eq!(role.wait(), 1);
    assert_eq!((files(), farm.refs()), (0, before));
}
