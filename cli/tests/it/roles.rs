//! Controller, worker and gateway as processes of their own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use serde_json::Value;

use crate::process::{CLAUDE, Role, User, eventually};

fn controller(user: &User, listen: &str) -> (Role, String) {
    let (state, port) = (user.path("controller"), user.path("port"));
    let _ = std::fs::remove_file(&port);
    let (state, file) = (state.to_str().expect("UTF-8"), port.to_str().expect("UTF-8"));
    let mut role = user.start(&["controller", "--listen", listen, "--state-dir", state, "--port-file", file]);
    let address = role.address(&port);
    (role, address)
}

#[test]
fn a_worker_joins_with_its_labels_and_a_watch_outlasts_a_restart_of_the_controller() {
    let user = User::new();
    user.install("claude", CLAUDE);
    let (first, address) = controller(&user, "127.0.0.1:0");
    let project = format!("web={}", user.path("work").display());
    let worker = user.start(&[
        "worker",
        "--controller",
        &address,
        "--name",
        "build-07",
        "--slots",
        "3",
        "--label",
        "gpu=no,disk=fast",
        "--project",
        &project,
        "--allow-trust-mode",
        "web",
        "--allow-push",
        "web",
    ]);
    let run = |args: &[&str]| user.run(&[args, &["--controller", &address]].concat());
    let row = eventually("the worker joins", || {
        Some(run(&["workers"]).stdout).filter(|rows| rows.contains("connected"))
    });
    let columns: Vec<&str> = row.trim_end().split('\t').collect();
    assert_eq!((columns[0], columns[1], columns[2]), ("build-07", "connected", "0/3"), "{row}");
    assert_eq!((columns[7], columns[8]), ("disk=fast gpu=no", "web"), "{row}");

    let workers = run(&["workers", "--json"]).json();
    assert_eq!(workers[0]["projects"][0]["allowPush"], true, "{workers}");

    let handle = run(&["spawn", "nothing"]).stdout.trim().to_owned();
    assert_eq!(run(&["wait", &handle, "--timeout", "50"]).code, 4);

    let mut watch =
        user.command(&["ps", "--watch", "--json", "--controller", &address]).spawn().expect("starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("stdout")).lines();
    let mut watch = Role::new(watch, user.path("none"));
    let seen = |line: Option<std::io::Result<String>>| -> Value {
        serde_json::from_str(&line.expect("a line").expect("read")).expect("JSON")
    };
    assert_eq!(seen(lines.next())["sessionId"], handle.as_str());
    assert_eq!(first.leave(), 0);
    let (second, again) = controller(&user, &address);
    assert_eq!(again, address);
    // The new controller tells the watch what it holds: the session was kept.
    assert_eq!(seen(lines.next())["sessionId"], handle.as_str());
    assert!(watch.runs());
    drop(watch);
    assert_eq!(worker.leave(), 0);
    assert_eq!(second.leave(), 0);
}

#[test]
fn a_cordoned_worker_gets_no_session_and_a_drained_one_is_empty() {
    let user = User::new();
    user.install("claude", CLAUDE);
    let (controller, address) = controller(&user, "127.0.0.1:0");
    let project = format!("web={}", user.path("work").display());
    let worker =
        user.start(&["worker", "--controller", &address, "--name", "build-07", "--project", &project]);
    // By the environment, which must not be taken for an option of the role.
    let run = |args: &[&str]| {
        crate::process::finish(user.command(args).env("MUSTER_CONTROLLER", &address).spawn().expect("starts"))
    };
    eventually("the worker joins", || run(&["workers"]).stdout.contains("connected").then_some(()));

    let cordoned = run(&["worker", "cordon", "build-07", "--reason", "new disk"]);
    assert_eq!(cordoned.code, 0, "{cordoned:?}");
    let workers = run(&["workers", "--json"]).json();
    assert_eq!(workers[0]["maintenance"]["mode"], "cordoned", "{workers}");
    assert_eq!(workers[0]["maintenance"]["reason"], "new disk", "{workers}");
    let handle = run(&["spawn", "nothing", "--priority", "-3"]).stdout.trim().to_owned();
    let why = eventually("the scheduler has looked", || {
        Some(run(&["why", &handle, "--json"])).filter(|why| why.code == 0).map(|why| why.json())
    });
    assert_eq!(why["workers"][0]["filter"], "maintenance", "{why}");

    let drained = run(&["worker", "drain", "build-07", "--timeout", "60s"]);
    assert_eq!(drained.code, 0, "{drained:?}");
    assert!(drained.stdout.contains("is empty"), "{}", drained.stdout);
    assert_eq!(run(&["worker", "uncordon", "build-07"]).code, 0);
    assert_eq!(run(&["wait", &handle, "--timeout", "50"]).code, 4, "it was placed after that");
    assert_eq!(run(&["worker", "cordon", "nobody"]).code, 3);
    assert_eq!(worker.leave(), 0);
    assert_eq!(controller.leave(), 0);
}

#[test]
fn a_gateway_listens_without_its_controller_and_speaks_http() {
    let user = User::new();
    let port = user.path("port");
    let file = port.to_str().expect("UTF-8");
    let mut role =
        user.start(&["mcp", "--controller", "127.0.0.1:1", "--http", "127.0.0.1:0", "--port-file", file]);
    let address = role.address(&port);
    let mut stream = std::net::TcpStream::connect(&address).expect("it listens");
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(role.leave(), 0);
}

#[test]
fn a_gateway_over_stdio_prints_nothing_but_the_protocol_and_leaves_with_its_client() {
    use std::process::Stdio;

    let user = User::new();
    let mut child =
        user.command(&["mcp", "--controller", "127.0.0.1:1"]).stdin(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("stdin");
    let hello = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "0" },
    } });
    writeln!(stdin, "{hello}").expect("sent");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let answer: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    assert_eq!(answer["id"], 1);
    assert!(answer["result"]["serverInfo"]["name"].is_string(), "{answer}");
    drop(stdin);
    assert!(lines.next().is_none(), "nothing else on stdout");
    assert_eq!(crate::process::finish(child).code, 0);
}

#[test]
fn a_gateway_whose_stdin_is_a_terminal_leaves_when_it_is_told_to() {
    use std::process::Stdio;

    use nix::fcntl::{FcntlArg, FdFlag};

    let user = User::new();
    for speaks in [false, true] {
        let pty = nix::pty::openpty(None, None).expect("a terminal");
        for end in [&pty.master, &pty.slave] {
            nix::fcntl::fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("set");
        }
        // What is typed is not for the answers' reader.
        let mut modes = nix::sys::termios::tcgetattr(&pty.slave).expect("modes");
        nix::sys::termios::cfmakeraw(&mut modes);
        nix::sys::termios::tcsetattr(&pty.slave, nix::sys::termios::SetArg::TCSANOW, &modes).expect("set");
        let mut command = user.command(&["mcp", "--controller", "127.0.0.1:1"]);
        let mut child = command.stdin(Stdio::from(pty.slave)).spawn().expect("starts");
        drop(command);
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let role = Role::new(child, user.path("none"));
        let mut terminal = std::fs::File::from(pty.master);
        if speaks {
            let hello = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
                "protocolVersion": "2025-06-18", "capabilities": {},
                "clientInfo": { "name": "test", "version": "0" },
            } });
            writeln!(terminal, "{hello}").expect("sent");
            let answer: Value =
                serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
            assert_eq!(answer["id"], 1);
        } else {
            eventually("it catches signals", || {
                let status = std::fs::read_to_string(format!("/proc/{}/status", role.pid())).ok()?;
                let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
                let caught = u64::from_str_radix(caught.trim(), 16).ok()?;
                // SIGTERM is number 15.
                (caught & (1 << 14) != 0).then_some(())
            });
        }
        // The terminal is still open: a reader that is not given up would keep it running until `leave` gives up.
        assert_eq!(role.leave(), 0, "speaks: {speaks}");
        drop(terminal);
    }
}
