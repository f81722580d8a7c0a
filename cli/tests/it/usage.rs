//! Help, wrong command lines, exit codes, and a farm that is not there.

use std::{io::Read as _, process::Stdio};

use crate::process::{User, finish};

const COMMANDS: [&str; 29] = [
    "up",
    "controller",
    "worker",
    "mcp",
    "ps",
    "status",
    "logs",
    "diff",
    "fetch",
    "push",
    "spawn",
    "send",
    "answer",
    "wait",
    "why",
    "stop",
    "archive",
    "workers",
    "project",
    "token",
    "whoami",
    "audit",
    "attach",
    "attention",
    "top",
    "config",
    "doctor",
    "man",
    "completion",
];
/// Verbs that talk to a controller, with arguments they take.
const CALLS: [&[&str]; 32] = [
    &["ps"],
    &["status", "abcd"],
    &["logs", "abcd"],
    &["logs", "--tail", "5", "abcd"],
    &["diff", "abcd"],
    &["push", "abcd"],
    &["spawn", "do it"],
    &["send", "abcd", "go on"],
    &["answer", "abcd", "--allow"],
    &["wait", "abcd"],
    &["why", "abcd"],
    &["stop", "abcd"],
    &["archive", "abcd"],
    &["workers"],
    &["worker", "cordon", "w1"],
    &["worker", "drain", "w1"],
    &["worker", "uncordon", "w1"],
    &["worker", "revoke", "w1"],
    &["token", "create"],
    &["token", "create", "--name", "ada", "--role", "operator"],
    &["token", "ls"],
    &["token", "revoke", "t-1"],
    &["whoami"],
    &["attach", "abcd"],
    &["attention"],
    &["audit"],
    &["audit", "--verify"],
    &["project", "add", "web", "--git", "https://git.example/web.git"],
    &["project", "set", "web", "--max-turns", "5"],
    &["project", "ls"],
    &["project", "show", "web"],
    &["project", "rm", "web"],
];

#[test]
fn every_command_has_help_and_the_whole_tells_the_exit_codes() {
    let user = User::new();
    let all = user.run(&["--help"]);
    assert_eq!(all.code, 0);
    for code in ["0 ", "1 ", "2 ", "3 ", "4 ", "5 ", "6 ", "124"] {
        assert!(
            all.stdout.lines().any(|line| line.trim_start().starts_with(code)),
            "{code} in {}",
            all.stdout
        );
    }
    for command in COMMANDS {
        assert!(all.stdout.contains(&format!("  {command}")), "{command}");
        let help = user.run(&[command, "--help"]);
        assert_eq!(help.code, 0, "{command}");
        assert!(help.stdout.contains("Usage: muster"), "{command}: {}", help.stdout);
    }
    assert!(!all.stdout.contains("shim"), "the shim is no business of an operator");
    assert!(user.run(&["--version"]).stdout.starts_with("muster "));
}

#[test]
fn a_wrong_command_line_ends_with_2_and_names_what_is_wrong() {
    let user = User::new();
    for (args, names) in [
        (&[][..], "Usage"),
        (&["pss"], "pss"),
        (&["ps", "--status", "busy"], "needs_attention"),
        (&["ps", "--label", "team"], "key=value"),
        (&["ps", "--controller", "nonsense"], "http://127.0.0.1:7420"),
        (&["ps", "--controller", "https://127.0.0.1:7420"], "--controller-root"),
        (&["ps", "--controller", "https://127.0.0.1:7420", "--controller-root", "/none"], "/none"),
        (&["ps", "--controller", "ftp://127.0.0.1:7420"], "http://"),
        (&["token", "create", "--role", "viewer"], "--name"),
        (&["token", "create", "--project", "web"], "--role"),
        (&["token", "create", "--role", "viewer", "--name", "ada", "--uses", "2"], "cannot be used with"),
        (&["token", "create", "--ttl", "0s"], "never holds"),
        (&["worker", "--controller", "https://127.0.0.1:7420"], "worker join"),
        (&["status"], "<SESSION>"),
        (&["answer", "abcd", "--allow", "--deny"], "cannot be used with"),
        (&["send", "abcd"], "<TEXT>"),
        (&["wait"], "<SESSION>"),
        (&["diff"], "<SESSION>"),
        (&["diff", "abcd", "--stat", "--commits"], "cannot be used with"),
        (&["logs", "abcd", "--tail", "many"], "--tail"),
        (&["fetch"], "<SESSION>"),
        (&["fetch", "abcd"], "no git repository"),
        (&["push"], "<SESSION>"),
        (&["controller", "--listen", "0.0.0.0:7420"], "loopback"),
        (&["controller", "--remote-name", "farm.example"], "--remote-listen"),
        (&["controller", "--heartbeat", "6s"], "two heartbeats"),
        (&["controller", "--caller-weight", "2"], "names nobody"),
        (&["up", "--http", "10.0.0.1:7421"], "loopback"),
        (&["mcp", "--http", "[::]:7421"], "loopback"),
        (&["mcp", "--require-token"], "--http"),
        (&["controller", "--lease", "1s"], "two heartbeats"),
        (&["worker", "--slots", "0"], "1..=1000"),
        (&["worker", "--name", "Not A Name"], "worker name"),
        (&["worker", "--project", "web"], "name=path"),
        (&["project", "set", "web"], "nothing to set"),
        (&["project", "add"], "<NAME"),
        (&["project", "add", "web", "-f", "/nowhere.toml"], "/nowhere.toml"),
        (&["project", "add", "web", "--on-lost", "forget"], "restart"),
        (&["audit", "--known", "3:00"], "SEQ:HASH"),
        (&["top"], "needs a terminal"),
        (&["config", "validate", "gateway", "/x"], "controller"),
        (&["completion", "tcsh"], "bash"),
        (&["shim"], "shim"),
    ] {
        let run = user.run(args);
        assert_eq!(run.code, 2, "{args:?}: {run:?}");
        assert!(run.stderr.contains(names), "{args:?}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{args:?}");
    }
}

#[test]
fn without_a_controller_every_verb_ends_with_6_and_says_how_to_get_one() {
    let user = User::new();
    // A port that was free a moment ago; nothing listens on it.
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it").port();
    let controller = format!("127.0.0.1:{port}");
    for call in CALLS {
        let mut args = call.to_vec();
        args.extend(["--controller", &controller]);
        let run = user.run(&args);
        assert_eq!(run.code, 6, "{args:?}: {run:?}");
        assert!(run.stderr.starts_with("error: no controller answers at http://127.0.0.1"), "{}", run.stderr);
        assert!(run.stderr.contains("  caused by: ") && run.stderr.contains("  hint: "), "{}", run.stderr);
        assert_eq!(run.stdout, "");
    }
}

#[test]
fn something_else_behind_the_address_is_no_controller() {
    use std::io::Write as _;

    let user = User::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a caller");
        stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nnot gRPC at all\n").expect("answered");
        // Until the caller has left: closing at once would look like a lost connection.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let run = user.run(&["ps", "--controller", &address]);
    assert_eq!(run.code, 6, "{run:?}");
    // Which error comes first depends on who closes first.
    let known = ["is no controller", "no controller answers"].iter().any(|text| run.stderr.contains(text));
    assert!(known && run.stderr.contains("caused by"), "{}", run.stderr);
    server.join().expect("served");
}

#[test]
fn the_address_of_a_farm_that_has_ended_is_told_apart_from_none() {
    let user = User::new();
    let folder = user.path("state").join("muster");
    std::fs::create_dir(&folder).expect("a folder");
    let address = "{\"controller\":\"http://127.0.0.1:1\",\"mcp\":\"http://127.0.0.1:2/mcp\",\"pid\":1}";
    std::fs::write(folder.join("address.json"), address).expect("written");
    let run = user.run(&["ps"]);
    assert_eq!(run.code, 6);
    assert!(run.stderr.contains("http://127.0.0.1:1") && run.stderr.contains("has ended"), "{}", run.stderr);
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let user = User::new();
    let mut child = user.command(&["completion", "bash"]).stdout(Stdio::piped()).spawn().expect("starts");
    let mut stdout = child.stdout.take().expect("stdout");
    stdout.read_exact(&mut [0; 1]).expect("a byte");
    drop(stdout);
    let run = finish(child);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
}
