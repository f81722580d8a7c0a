//! The way home of a session's work through a whole farm: seen, fetched and pushed, also when it is archived.

use crate::{
    fetch::git,
    process::{Run, User, eventually},
};

/// A claude that commits one change, leaves another uncommitted, and ends badly.
const CLAUDE: &str = "#!/bin/sh
[ \"$1\" = --version ] && echo '2.1.330 (Claude Code)' && exit 0
echo changed > a
git -c user.name=c -c user.email=c@example.org commit -q -a -m 'change a'
echo new > untracked
exit 7
";

fn failed_session(user: &User) -> String {
    eventually("the farm tells how to connect", || {
        std::fs::read_to_string(user.path("up.out")).ok()?.contains("Ctrl-C leaves").then_some(())
    });
    let handle = user.run(&["spawn", "change a"]).stdout.trim().to_owned();
    let waited = user.run(&["wait", &handle, "--timeout", "50"]);
    assert_eq!(waited.code, 4, "{waited:?}");
    handle
}

fn ok(run: Run) -> Run {
    assert_eq!(run.code, 0, "{run:?}");
    run
}

#[test]
fn work_of_a_session_that_failed_is_seen_fetched_pushed_and_outlasts_its_worktree() {
    let user = User::new();
    user.install("claude", CLAUDE);
    let (work, clone, remote) = (user.path("work"), user.path("clone"), user.path("remote.git"));
    git(&work, &["init", "-q"]);
    std::fs::write(work.join("a"), "one\n").expect("written");
    git(&work, &["add", "a"]);
    git(&work, &["commit", "-q", "-m", "first"]);
    git(&user.path(""), &["clone", "-q", "--bare", "work", "remote.git"]);
    git(&user.path(""), &["clone", "-q", "remote.git", "clone"]);
    git(&work, &["remote", "add", "origin", remote.to_str().expect("UTF-8")]);
    let up = user.start(&["up", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--allow-push", "work"]);
    let handle = failed_session(&user);

    let stat = ok(user.run(&["diff", &handle, "--json", "--stat"])).json();
    assert_eq!((&stat["filesChanged"], &stat["commits"]), (&2.into(), &1.into()), "{stat}");
    assert_eq!(stat["uncommitted"], true, "{stat}");
    let patch = ok(user.run(&["diff", &handle])).stdout;
    assert!(patch.contains("+changed\n") && patch.contains("+new\n"), "{patch}");
    let patch = ok(user.run(&["diff", &handle, "untracked"])).stdout;
    assert!(!patch.contains("+changed\n") && patch.contains("+new\n"), "{patch}");
    assert!(ok(user.run(&["diff", &handle, "--commits"])).stdout.ends_with(" change a\n"));

    let into = clone.to_str().expect("UTF-8");
    let fetched = ok(user.run(&["fetch", &handle, "--into", into, "--json"])).json();
    assert_eq!(fetched["change"], "created", "{fetched}");
    let branch = fetched["branch"].as_str().expect("a name");
    assert_eq!(branch, format!("muster/{handle}"));
    let kept = fetched["workRef"].as_str().expect("a ref");
    assert_eq!(git(&clone, &["show", &format!("{branch}:a")]), "changed");
    assert_eq!(git(&clone, &["show", &format!("{kept}:untracked")]), "new");

    let pushed = ok(user.run(&["push", &handle])).stdout;
    assert!(pushed.starts_with(&format!("{handle}  pushed {branch} at ")), "{pushed}");
    assert_eq!(git(&remote, &["rev-parse", branch]), fetched["commit"].as_str().expect("a commit"));
    ok(user.run(&["push", &handle]));
    let elsewhere = user.run(&["push", &handle, "--remote", "nowhere"]);
    assert_eq!(elsewhere.stdout, "");
    assert!(elsewhere.stderr.contains("nowhere"), "{}", elsewhere.stderr);

    ok(user.run(&["archive", &handle]));
    assert!(ok(user.run(&["diff", &handle])).stdout.contains("+new\n"));
    let again = ok(user.run(&["fetch", &handle, "--into", into, "--branch", "later", "--json"])).json();
    assert_eq!((&again["commit"], &again["change"]), (&fetched["commit"], &"created".into()));
    assert_eq!(git(&clone, &["show", &format!("{kept}:untracked")]), "new");
    assert_eq!(up.leave(), 0);
}

#[test]
fn a_project_that_was_not_named_for_it_is_not_pushed() {
    let user = User::new();
    user.install("claude", CLAUDE);
    let work = user.path("work");
    git(&work, &["init", "-q"]);
    std::fs::write(work.join("a"), "one\n").expect("written");
    git(&work, &["add", "a"]);
    git(&work, &["commit", "-q", "-m", "first"]);
    let up = user.start(&["up", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    let handle = failed_session(&user);
    let push = user.run(&["push", &handle]);
    assert_eq!((push.code, push.stdout.as_str()), (1, ""), "{push:?}");
    assert!(push.stderr.starts_with("error: push_not_allowed: "), "{}", push.stderr);
    assert!(push.stderr.contains("  hint: "), "{}", push.stderr);
    assert_eq!(up.leave(), 0);
}
