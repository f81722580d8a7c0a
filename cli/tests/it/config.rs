//! Configuration files: refused by name before anything is bound, and below flags and environment.

use crate::process::{Run, User};

fn with_config(user: &User, role: &str, text: &str, more: &[&str]) -> Run {
    let file = user.path("muster.toml");
    std::fs::write(&file, text).expect("written");
    let mut args = vec![role, "--config", file.to_str().expect("UTF-8")];
    args.extend(more);
    user.run(&args)
}

#[test]
fn a_file_that_cannot_be_taken_is_refused_with_what_to_change() {
    let user = User::new();
    for (role, text, names) in [
        ("controller", "listn = \"127.0.0.1:0\"", "did you mean \"listen\"?"),
        ("controller", "state_dir = \"/x\"", "did you mean \"state-dir\"?"),
        ("controller", "listen = \"0.0.0.0:1\"", "loopback"),
        ("controller", "store = \"postgres\"", "postgres"),
        ("controller", "listen = ", "line 1"),
        ("controller", "heartbeat = \"soon\"", "500ms"),
        ("controller", "project-cap = [\"web=none\"]", "NAME=N"),
        ("controller", "remote-listen = \"farm.example\"", "remote-listen"),
        ("worker", "slots = 5000", "1 to 1000"),
        ("worker", "slots = \"many\"", "slots"),
        ("worker", "project = [\"web\"]", "name=path"),
        ("worker", "labels = [\"a=b\"]", "did you mean \"label\"?"),
        ("mcp", "htttp = \"127.0.0.1:0\"", "did you mean \"http\"?"),
        ("up", "projects = [\"a=/\"]", "did you mean \"project\"?"),
    ] {
        let run = with_config(&user, role, text, &[]);
        assert_eq!(run.code, 2, "{role} {text}: {run:?}");
        assert!(run.stderr.contains(names), "{role} {text}: {}", run.stderr);
        assert!(run.stderr.contains("muster.toml") || text.contains("5000"), "{}", run.stderr);
    }
    let absent = user.run(&["controller", "--config", "/nowhere/muster.toml"]);
    assert_eq!(absent.code, 2);
    assert!(absent.stderr.contains("/nowhere/muster.toml"), "{}", absent.stderr);
}

#[test]
fn a_worker_needs_projects_that_exist_and_claude() {
    let user = User::new();
    for (text, names) in [
        ("", "--project"),
        ("project = [\"web=/nowhere/at/all\"]", "/nowhere/at/all"),
        ("project = [\"a=/tmp\", \"a=/\"]", "named twice"),
        ("project = [\"a=/tmp\"]\ntrust-project = [\"b\"]", "the projects are: a"),
        ("project = [\"a=/tmp\"]\nallow-push = [\"b\"]", "allow-push names \"b\""),
    ] {
        let run = with_config(&user, "worker", text, &[]);
        assert_eq!(run.code, 2, "{text}: {run:?}");
        assert!(run.stderr.contains(names), "{text}: {}", run.stderr);
    }
    let run = with_config(&user, "worker", "project = [\"a=/tmp\"]", &[]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("npm install -g @anthropic-ai/claude-code"), "{}", run.stderr);
    let run = with_config(&user, "worker", "project = [\"a=/tmp\"]\nclaude = \"/nowhere/claude\"", &[]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("/nowhere/claude"), "{}", run.stderr);
}

#[test]
fn a_flag_goes_before_the_environment_and_that_before_the_file() {
    let user = User::new();
    let file = user.path("muster.toml");
    std::fs::write(&file, "state-dir = \"/proc/from-file\"").expect("written");
    let refused = |flag: bool, env: bool| {
        let mut args = vec!["controller", "--config", file.to_str().expect("UTF-8")];
        if flag {
            args.extend(["--state-dir", "/proc/from-flag"]);
        }
        let mut command = user.command(&args);
        if env {
            command.env("MUSTER_STATE_DIR", "/proc/from-env");
        }
        crate::process::finish(command.spawn().expect("starts")).stderr
    };
    // None of the folders can be made: the error names the one that was chosen.
    assert!(refused(true, true).contains("/proc/from-flag"));
    assert!(refused(false, true).contains("/proc/from-env"));
    assert!(refused(false, false).contains("/proc/from-file"));
}

#[test]
fn a_file_is_validated_without_starting_anything() {
    let user = User::new();
    let file = user.path("muster.toml");
    let path = file.to_str().expect("UTF-8");
    let validate = |role: &str, text: &str| {
        std::fs::write(&file, text).expect("written");
        user.run(&["config", "validate", role, path])
    };
    for (role, text) in [
        ("controller", "remote-listen = \"0.0.0.0:7430\"\nheartbeat = \"500ms\""),
        ("worker", "project = [\"a=/tmp\"]\nslots = 4"),
        ("mcp", "http = \"127.0.0.1:7421\"\nrequire-token = true"),
        ("up", "slots = 4"),
        ("project", "name = \"web\"\n[environment]\nA = \"b\""),
    ] {
        let run = validate(role, text);
        assert_eq!(run.code, 0, "{role}: {run:?}");
    }
    for (role, text, names) in [
        ("controller", "hartbeat = \"1s\"", "did you mean \"heartbeat\"?"),
        ("controller", "remote-name = [\"farm\"]", "--remote-listen"),
        ("worker", "project = [\"a=/nowhere/at/all\"]", "/nowhere/at/all"),
        ("mcp", "http = \"0.0.0.0:1\"", "--tls-cert"),
        ("up", "slots = 5000", "1 to 1000"),
        ("project", "git_url = \"x\"", "did you mean \"git-url\"?"),
    ] {
        let run = validate(role, text);
        assert_eq!(run.code, 2, "{role} {text}: {run:?}");
        assert!(run.stderr.contains(names), "{role} {text}: {}", run.stderr);
    }
    assert!(!user.path("state/muster").exists(), "nothing was made");
}
