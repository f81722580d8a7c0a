//! `muster up` from an empty home: the farm, what it prints, the verbs that find it, and its leave.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    process::Stdio,
    sync::{Arc, Mutex},
};

use nix::{
    fcntl::{FcntlArg, FdFlag},
    sys::signal::Signal,
};
use serde_json::Value;

use crate::process::{CLAUDE, Role, User, eventually};

const UP: [&str; 5] = ["up", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];

#[test]
fn without_claude_it_says_how_to_get_it() {
    let user = User::new();
    let run = user.run(&UP);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains("npm install -g @anthropic-ai/claude-code"), "{}", run.stderr);
    assert!(!user.path("state").join("muster").exists(), "nothing was written");
}

#[test]
fn a_farm_starts_is_found_by_the_verbs_runs_a_session_and_leaves() {
    let user = User::new();
    user.install("claude", CLAUDE);
    let up = user.start(&UP);
    let banner = eventually("the farm tells how to connect", || {
        let text = std::fs::read_to_string(user.path("up.out")).ok()?;
        text.contains("Ctrl-C leaves").then_some(text)
    });
    let address: Value = serde_json::from_slice(
        &std::fs::read(user.path("state").join("muster/address.json")).expect("an address file"),
    )
    .expect("JSON");
    let (controller, mcp) =
        (address["controller"].as_str().expect("it"), address["mcp"].as_str().expect("it"));
    assert!(banner.contains(&format!("\n  claude mcp add --transport http muster {mcp}\n")), "{banner}");
    let stdio = format!(" mcp --controller {controller}\n");
    let line = banner.lines().find(|line| format!("{line}\n").ends_with(&stdio)).expect("a line for stdio");
    assert!(line.starts_with("  claude mcp add muster -- /"), "{line}");
    assert!(banner.contains("work (") && banner.contains("trusted"), "{banner}");

    let workers = user.run(&["workers", "--json"]).json();
    assert_eq!(workers[0]["health"], "connected", "{workers}");
    assert_eq!(workers[0]["projects"][0]["name"], "work");
    assert_eq!(workers[0]["projects"][0]["trusted"], true);

    let second = user.run(&UP);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(
        second.stderr.contains("already runs") && second.stderr.contains(controller),
        "{}",
        second.stderr
    );

    let spawned = user.run(&["spawn", "--label", "team=web", "--title", "Fix it", "do", "nothing"]);
    assert_eq!(spawned.code, 0, "{spawned:?}");
    let handle = spawned.stdout.trim();
    let waited = user.run(&["wait", handle, "--timeout", "50"]);
    assert_eq!(waited.code, 4, "{waited:?}");
    assert!(waited.stdout.starts_with(&format!("{handle}\tfailed\twork\t")), "{}", waited.stdout);
    golden_session(&user, handle);

    assert_eq!(up.leave(), 0);
    let text = std::fs::read_to_string(user.path("up.out")).expect("its output");
    assert!(text.contains("sessions go on"), "{text}");
    assert!(text.contains(&format!("\t{handle}\tfailed")), "a line for each change: {text}");
    assert!(!user.path("state").join("muster/address.json").exists());
    assert_eq!(user.run(&["ps", "--controller", controller]).code, 6, "nothing listens any more");
}

/// Every verb on one session, and the JSON of it as docs/cli.md publishes it.
fn golden_session(user: &User, handle: &str) {
    let status = user.run(&["status", handle, "--json"]).json();
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md")).expect("read");
    for key in status.as_object().expect("an object").keys() {
        assert!(documented.contains(&format!("`{key}`")), "{key} is not documented");
    }
    for (key, value) in [
        ("sessionId", handle.into()),
        ("title", "Fix it".into()),
        ("status", "failed".into()),
        ("prompt", "do nothing".into()),
        ("project", "work".into()),
        ("archived", false.into()),
        ("attention", Value::Null),
        ("labels", serde_json::json!({ "team": "web" })),
    ] {
        assert_eq!(status[key], value, "{key} in {status:#}");
    }
    assert!(status["end"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{status:#}");
    assert_eq!(user.run(&["ps", "--json", "--label", "team=web"]).json()[0]["id"], status["id"]);
    assert_eq!(user.run(&["ps", "--json", "--label", "team=x"]).json(), serde_json::json!([]));
    let page = user.run(&["status", &handle[..4]]);
    assert!(page.stdout.contains("status:    failed\n"), "{}", page.stdout);
    assert_eq!(user.run(&["logs", handle]).code, 0);
    let answered = user.run(&["answer", handle, "--allow"]);
    assert_eq!(answered.code, 1, "{answered:?}");
    assert!(answered.stderr.contains("does not wait on an answer"), "{}", answered.stderr);
    let why = user.run(&["why", handle]);
    assert!(why.code == 1 && why.stderr.contains("it is failed"), "{why:?}");
    let stopped = user.run(&["stop", handle]);
    assert_eq!(stopped.code, 0, "{stopped:?}");
    let archived = user.run(&["archive", handle, "--json"]);
    assert_eq!((archived.code, &archived.json()["archived"]), (0, &Value::from(true)), "{archived:?}");
    assert_eq!(user.run(&["ps"]).stdout, "");
    assert!(user.run(&["ps", "--all"]).stdout.starts_with(handle));
}

#[test]
fn for_programs_it_prints_json_lines() {
    let user = User::new();
    user.install("claude", CLAUDE);
    let mut child = user.command(&[&UP[..], &["--json"]].concat()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let role = Role::new(child, user.path("none"));
    let first: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    assert_eq!(first["pid"], role.pid());
    role.signal(Signal::SIGINT);
    assert_eq!(role.wait(), 0);
}

#[test]
fn on_a_terminal_it_draws_a_table_and_keeps_the_log_off_it() {
    let user = User::new();
    user.install("claude", CLAUDE);
    let size = nix::pty::Winsize { ws_row: 30, ws_col: 90, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = nix::pty::openpty(Some(&size), None).expect("a terminal");
    for end in [&pty.master, &pty.slave] {
        // Or the farm would hold its own terminal open.
        nix::fcntl::fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("set");
    }
    let end = || Stdio::from(pty.slave.try_clone().expect("an end"));
    let mut command = user.command(&UP);
    command.env("TERM", "xterm").stdout(end()).stderr(end());
    let role = Role::new(command.spawn().expect("starts"), user.path("none"));
    drop((command, pty.slave));
    let screen = Arc::new(Mutex::new(Vec::new()));
    let reader = std::thread::spawn({
        let (screen, mut master) = (screen.clone(), File::from(pty.master));
        move || {
            let mut bytes = [0; 4096];
            // A terminal whose last user has left gives an error: that is its end.
            while let Ok(count @ 1..) = master.read(&mut bytes) {
                screen.lock().expect("not poisoned").extend_from_slice(&bytes[..count]);
            }
        }
    });
    let text = || String::from_utf8_lossy(&screen.lock().expect("not poisoned")).into_owned();
    eventually("the empty farm is drawn", || text().contains("no sessions").then_some(()));
    let handle = user.run(&["spawn", "nothing"]).stdout.trim().to_owned();
    eventually("the session is drawn as failed", || {
        let text = text();
        let picture = text.rsplit("\u{1b}[J").next()?;
        (picture.contains(&handle) && picture.contains("1 failed") && picture.contains("\u{1b}[38;5;9m"))
            .then_some(())
    });
    role.signal(Signal::SIGINT);
    assert_eq!(role.wait(), 0);
    reader.join().expect("the reader ends with the terminal");
    let text = text();
    assert!(text.contains("leaving: sessions go on"), "{text}");
    assert!(!text.contains("INFO"), "the log is in its file: {text}");
    let log = std::fs::read_to_string(user.path("state").join("muster/up.log")).expect("a log");
    assert!(log.contains("INFO"), "{log}");
}

#[test]
fn a_terminal_that_takes_nothing_does_not_keep_it() {
    let user = User::new();
    user.install("claude", CLAUDE);
    let pty = nix::pty::openpty(None, None).expect("a terminal");
    for end in [&pty.master, &pty.slave] {
        nix::fcntl::fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("set");
    }
    // As Ctrl-S does.
    nix::sys::termios::tcflow(&pty.slave, nix::sys::termios::FlowArg::TCOOFF).expect("held");
    let mut command = user.command(&UP);
    command.stdout(Stdio::from(pty.slave)).stderr(Stdio::null());
    let role = Role::new(command.spawn().expect("starts"), user.path("none"));
    eventually("the farm stands", || {
        let workers = user.run(&["workers"]);
        (workers.code == 0 && workers.stdout.contains("connected")).then_some(())
    });
    role.signal(Signal::SIGINT);
    assert_eq!(role.wait(), 0);
    drop(pty.master);
}
