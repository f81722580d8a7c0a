//! A controller that other machines reach: tokens of both kinds, and verbs over TLS.

use serde_json::json;

use crate::process::{CLAUDE, Role, Run, User, eventually, finish};

/// A controller with an address for other machines.
struct Remote {
    user: User,
    role: Role,
    address: String,
}

impl Remote {
    fn start() -> Self {
        let user = User::new();
        let (state, port) = (user.path("controller"), user.path("port"));
        let mut role = user.start(&[
            "controller",
            "--listen",
            "127.0.0.1:0",
            "--remote-listen",
            "127.0.0.1:0",
            "--state-dir",
            state.to_str().expect("UTF-8"),
            "--port-file",
            port.to_str().expect("UTF-8"),
        ]);
        let address = role.address(&port);
        Self { user, role, address }
    }

    /// As whoever is on the controller's machine.
    fn run(&self, args: &[&str]) -> Run {
        self.user.run(&[args, &["--controller", &self.address]].concat())
    }

    /// Where other machines reach it, and the hash of its root, as a join token has them.
    fn remote(&self) -> (String, String) {
        let created = self.run(&["token", "create"]);
        assert_eq!(created.code, 0, "{created:?}");
        let line = created.stdout.strip_suffix('\n').expect("one line");
        assert!(line.starts_with("mustjoin_") && !line.contains('\n'), "{line}");
        let (token, address) = line.split_once('@').expect("an address");
        let (_, hash) = token.split_once('.').expect("a hash");
        (format!("https://{address}"), hash.to_owned())
    }
}

#[test]
fn verbs_reach_a_controller_over_tls_by_the_root_of_its_farm_and_a_token() {
    let farm = Remote::start();
    let (uri, hash) = farm.remote();
    let token = farm.run(&["token", "create", "--role", "operator", "--name", "ada"]).stdout;
    let file = farm.user.path("token");
    std::fs::write(&file, &token).expect("written");
    let file = file.to_str().expect("UTF-8");
    let pem = farm.user.path("controller/ca/root.pem");
    let pem = pem.to_str().expect("UTF-8");

    let from_far = |root: &str, more: &[&str]| {
        farm.user
            .run(&[&["whoami", "--json", "--controller", &uri, "--controller-root", root], more].concat())
    };
    for root in [&*hash, pem] {
        let me = from_far(root, &["--token-file", file]);
        assert_eq!(me.code, 0, "{me:?}");
        assert_eq!((&me.json()["name"], &me.json()["role"]), (&json!("ada"), &json!("operator")));
    }
    let mut command = farm.user.command(&["ps"]);
    command
        .env("MUSTER_CONTROLLER", &uri)
        .env("MUSTER_CONTROLLER_ROOT", &hash)
        .env("MUSTER_TOKEN", token.trim());
    assert_eq!(finish(command.spawn().expect("starts")).code, 0, "all of it by the environment");

    let nobody = from_far(&hash, &[]);
    assert_eq!(nobody.code, 1, "{nobody:?}");
    assert!(nobody.stderr.starts_with("error: unauthenticated: "), "{}", nobody.stderr);
    let other_farm = from_far(&"0f".repeat(32), &["--token-file", file]);
    assert_eq!(other_farm.code, 6, "{other_farm:?}");
    assert!(other_farm.stderr.contains("--controller-root"), "{}", other_farm.stderr);
    for run in [&nobody, &other_farm] {
        assert!(!run.stderr.contains(token.trim()), "{}", run.stderr);
    }
    assert_eq!(farm.role.leave(), 0);
}

#[test]
fn a_token_goes_nowhere_in_the_clear() {
    let user = User::new();
    let mut command = user.command(&["ps", "--controller", "http://192.0.2.7:7420"]);
    let run = finish(command.env("MUSTER_TOKEN", "muster_a_secret").spawn().expect("starts"));
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains("without TLS") && !run.stderr.contains("muster_a_secret"), "{}", run.stderr);
}

#[test]
fn tokens_of_both_kinds_are_made_listed_and_taken_back_by_one_verb() {
    let farm = Remote::start();
    let made = farm
        .run(&["token", "create", "--name", "build-07", "--label", "gpu=yes", "--ttl", "5m", "--json"])
        .json();
    assert_eq!((&made["kind"], &made["name"]), (&json!("join"), &json!("build-07")), "{made}");
    assert_eq!((&made["uses"], &made["labels"]), (&json!(1), &json!({ "gpu": "yes" })), "{made}");
    let access = farm.run(&["token", "create", "--name", "ada", "--role", "viewer", "--json"]).json();
    let listed = farm.run(&["token", "ls", "--json"]).json();
    assert_eq!(listed.as_array().expect("an array").len(), 2, "{listed}");
    assert!(!listed.to_string().contains(made["token"].as_str().expect("a token")), "{listed}");
    for token in [&made, &access] {
        let id = token["id"].as_str().expect("an id");
        assert_eq!(farm.run(&["token", "revoke", id]).code, 0, "{token}");
    }
    let rows = farm.run(&["token", "ls"]).stdout;
    assert_eq!(rows.lines().filter(|row| row.split('\t').nth(5) == Some("revoked")).count(), 2, "{rows}");
    let nothing = farm.run(&["token", "revoke", "nothing"]);
    assert_eq!(nothing.code, 3, "{nothing:?}");
    assert!(nothing.stderr.contains("muster token ls"), "{}", nothing.stderr);
    let nobody = farm.run(&["worker", "revoke", "nobody"]);
    assert_eq!(nobody.code, 3, "{nobody:?}");
    assert_eq!(farm.role.leave(), 0);
}

#[test]
fn a_controller_of_one_machine_says_how_to_let_others_join() {
    let user = User::new();
    let (state, port) = (user.path("controller"), user.path("port"));
    let mut role = user.start(&[
        "controller",
        "--listen",
        "127.0.0.1:0",
        "--state-dir",
        state.to_str().expect("UTF-8"),
        "--port-file",
        port.to_str().expect("UTF-8"),
    ]);
    let address = role.address(&port);
    let run = user.run(&["token", "create", "--controller", &address]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.stderr.contains("no_remote_address") && run.stderr.contains("--remote-listen"),
        "{}",
        run.stderr
    );
    assert_eq!(role.leave(), 0);
}

#[test]
fn a_machine_joins_with_one_line_and_is_that_worker_from_then_on_until_it_is_revoked() {
    let farm = Remote::start();
    let token = farm.run(&["token", "create", "--label", "zone=b"]).stdout;
    // Another user, another home: all it knows is the line.
    let machine = User::new();
    machine.install("claude", CLAUDE);
    let joined =
        machine.run(&["worker", "join", token.trim(), "--name", "build-07", "--enrol-only", "--json"]);
    assert_eq!(joined.code, 0, "{joined:?}");
    let joined = joined.json();
    assert_eq!(joined["worker"], "build-07", "{joined}");
    assert!(machine.path("state/muster/joined").is_dir(), "{joined}");
    let again = machine.run(&["worker", "join", token.trim(), "--name", "build-07", "--enrol-only"]);
    assert_eq!(again.code, 0, "a lost answer costs no token: {again:?}");

    let project = format!("web={}", machine.path("work").display());
    let worker = machine.start(&["worker", "--project", &project]);
    let row = eventually("the worker joins", || {
        Some(farm.run(&["workers", "--json"]))
            .filter(|run| run.stdout.contains("connected"))
            .map(|run| run.json())
    });
    assert_eq!((&row[0]["worker"], &row[0]["labels"]["zone"]), (&json!("build-07"), &json!("b")), "{row}");
    let handle = farm.run(&["spawn", "nothing"]).stdout.trim().to_owned();
    assert_eq!(farm.run(&["wait", &handle, "--timeout", "50"]).code, 4, "it ran there, and badly");

    let revoked = farm.run(&["worker", "revoke", "build-07"]);
    assert_eq!(revoked.code, 0, "{revoked:?}");
    eventually("it is cut off", || {
        (farm.run(&["workers", "--json"]).json()[0]["health"] == "unreachable").then_some(())
    });
    assert_eq!(worker.leave(), 0);
    assert_eq!(farm.role.leave(), 0);
}

#[test]
fn a_machine_that_cannot_join_says_why_and_what_next() {
    let farm = Remote::start();
    let token = farm.run(&["token", "create"]).stdout;
    let machine = User::new();
    let join = |token: &str| machine.run(&["worker", "join", token, "--enrol-only"]);
    let half = join("mustjoin_abc_s3cret");
    assert_eq!(half.code, 2, "{half:?}");
    assert!(
        half.stderr.contains("copy the whole line") && !half.stderr.contains("s3cret"),
        "{}",
        half.stderr
    );
    let (line, _) = token.trim().split_once('@').expect("an address");
    let nobody = join(&format!("{line}@127.0.0.1:1"));
    assert_eq!(nobody.code, 6, "{nobody:?}");
    assert!(nobody.stderr.contains("still good"), "{}", nobody.stderr);
    let file = machine.path("token");
    std::fs::write(&file, &token).expect("written");
    let from_file =
        machine.run(&["worker", "join", "--token-file", file.to_str().expect("UTF-8"), "--enrol-only"]);
    assert_eq!(from_file.code, 0, "{from_file:?}");
    let second = User::new().run(&["worker", "join", token.trim(), "--enrol-only"]);
    assert_eq!(second.code, 1, "one machine for one token: {second:?}");
    assert!(second.stderr.contains("muster token create"), "{}", second.stderr);
    assert_eq!(farm.role.leave(), 0);
}

#[test]
fn a_gateway_reaches_a_controller_over_tls_with_a_token_of_its_own() {
    use std::io::{BufRead as _, BufReader, Write as _};

    let farm = Remote::start();
    let (uri, hash) = farm.remote();
    let token = farm.run(&["token", "create", "--role", "orchestrator", "--name", "gw"]).stdout;
    let rootless = farm.user.run(&["mcp", "--controller", &uri]);
    assert_eq!(rootless.code, 2, "{rootless:?}");
    assert!(rootless.stderr.contains("--controller-root"), "{}", rootless.stderr);
    let mut command = farm.user.command(&["mcp", "--controller", &uri, "--controller-root", &hash]);
    command.env("MUSTER_TOKEN", token.trim()).stdin(std::process::Stdio::piped());
    let mut child = command.spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("stdin");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut ask = |id: u32, method: &str, params: serde_json::Value| {
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        writeln!(stdin, "{request}").expect("sent");
        let line = lines.next().expect("a line").expect("read");
        serde_json::from_str::<serde_json::Value>(&line).expect("JSON")
    };
    let client = json!({ "name": "test", "version": "0" });
    let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client });
    ask(1, "initialize", hello);
    let listed = ask(2, "tools/call", json!({ "name": "list_sessions", "arguments": {} }));
    assert!(listed["result"].is_object() && listed["result"]["isError"] != true, "{listed}");
    drop(stdin);
    assert_eq!(finish(child).code, 0);
    assert_eq!(farm.role.leave(), 0);
}

#[test]
fn a_real_controller_keeps_declared_projects_and_what_they_allow() {
    let farm = Remote::start();
    let added =
        farm.run(&["project", "add", "web", "--git", "https://git.example/web.git", "--max-turns", "5"]);
    assert_eq!(added.code, 0, "{added:?}");
    let set = farm.run(&["project", "set", "web", "--on-lost", "restart", "--json"]).json();
    assert_eq!((&set["maxTurns"], &set["onLost"]), (&json!(5), &json!("restart")), "{set}");
    let refused = farm.run(&["spawn", "--project", "web", "--max-turns", "50", "fix it"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.starts_with("error: policy_refused: "), "{}", refused.stderr);
    let bad = farm.run(&["project", "set", "web", "--git", "ext::sh -c id"]);
    assert_eq!(bad.code, 2, "{bad:?}");
    assert_eq!(farm.run(&["project", "rm", "web"]).code, 0);
    assert_eq!(farm.role.leave(), 0);
}
