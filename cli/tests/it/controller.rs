//! Verbs against a real controller that has no worker, and the ways a controller refuses to start.

use nix::sys::signal::Signal;
use serde_json::json;

use crate::process::{Role, User, finish};

fn start(user: &User) -> (Role, String) {
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
    (role, address)
}

#[test]
fn an_empty_farm_is_listed_as_empty_and_says_so() {
    let user = User::new();
    let (role, address) = start(&user);
    let run = |args: &[&str]| user.run(&[args, &["--controller", &address]].concat());
    assert_eq!(run(&["ps"]).stdout, "");
    assert_eq!(run(&["ps", "--json"]).json(), json!([]));
    assert_eq!(run(&["ps", "--all", "--status", "failed", "--label", "a=b", "--json"]).json(), json!([]));
    assert_eq!(run(&["workers"]).stdout, "");
    assert_eq!(run(&["workers", "--json"]).json(), json!([]));
    assert_eq!(role.leave(), 0);
}

#[test]
fn what_does_not_exist_ends_with_3_and_a_hint() {
    let user = User::new();
    let (role, address) = start(&user);
    let run = |args: &[&str]| user.run(&[args, &["--controller", &address]].concat());
    let spawn = run(&["spawn", "--project", "web", "fix it"]);
    assert_eq!(spawn.code, 3, "{spawn:?}");
    assert!(spawn.stderr.starts_with("error: project_not_found: "), "{}", spawn.stderr);
    assert!(spawn.stderr.contains("\n  hint: "), "{}", spawn.stderr);
    for args in [
        &["status", "nothing-000000"][..],
        &["logs", "nothing-000000"],
        &["logs", "--raw", "nothing-000000"],
        &["send", "nothing-000000", "go on"],
        &["answer", "nothing-000000", "--allow"],
        &["wait", "nothing-000000"],
        &["why", "nothing-000000"],
        &["stop", "nothing-000000"],
        &["archive", "nothing-000000"],
    ] {
        let run = run(args);
        assert_eq!(run.code, 3, "{args:?}: {run:?}");
        assert!(run.stderr.starts_with("error: session_not_found: "), "{args:?}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{args:?}");
    }
    let empty = run(&["spawn", "--project", "web", ""]);
    assert_eq!(empty.code, 2, "{empty:?}");
    assert!(empty.stderr.contains("prompt"), "{}", empty.stderr);
    assert_eq!(role.leave(), 0);
}

#[test]
fn a_state_folder_in_use_or_not_writable_is_named() {
    let user = User::new();
    let (role, _) = start(&user);
    let state = user.path("controller");
    let second =
        user.run(&["controller", "--listen", "127.0.0.1:0", "--state-dir", state.to_str().expect("UTF-8")]);
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.stderr.starts_with("error: "), "{}", second.stderr);
    assert!(second.stderr.contains(state.to_str().expect("UTF-8")), "{}", second.stderr);
    assert_eq!(role.leave(), 0);

    let file = user.path("file");
    std::fs::write(&file, "").expect("written");
    for folder in ["/proc/muster", file.join("below").to_str().expect("UTF-8"), file.to_str().expect("UTF-8")]
    {
        let run = user.run(&["controller", "--listen", "127.0.0.1:0", "--state-dir", folder]);
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.stderr.contains(folder) && run.stderr.contains("--state-dir"), "{}", run.stderr);
    }
}

#[test]
fn a_taken_port_is_named() {
    let user = User::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let state = user.path("controller");
    let run = user.run(&["controller", "--listen", &address, "--state-dir", state.to_str().expect("UTF-8")]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(run.stderr.contains(&address), "{}", run.stderr);
}

#[test]
fn both_signals_make_a_controller_leave_and_its_folder_can_be_used_again() {
    let user = User::new();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (role, _) = start(&user);
        std::fs::remove_file(user.path("port")).expect("there is one");
        role.signal(signal);
        assert_eq!(role.wait(), 0, "{signal}");
    }
}

#[test]
fn a_token_makes_its_caller_known_until_it_is_taken_back() {
    let user = User::new();
    let (role, address) = start(&user);
    let run = |args: &[&str]| user.run(&[args, &["--controller", &address]].concat());
    let with = |token: &str, args: &[&str]| {
        let mut command = user.command(&[args, &["--controller", &address]].concat());
        finish(command.env("MUSTER_TOKEN", token).spawn().expect("starts"))
    };
    assert_eq!(run(&["whoami", "--json"]).json()["role"], "admin", "on the controller's machine");
    let created = run(&["token", "create", "ada", "--role", "viewer", "--project", "web", "--ttl", "8h"]);
    assert_eq!(created.code, 0, "{created:?}");
    let token = created.stdout.trim();
    let me = with(token, &["whoami", "--json"]).json();
    assert_eq!(
        (&me["name"], &me["role"], &me["projects"]),
        (&json!("ada"), &json!("viewer"), &json!(["web"]))
    );

    let refused = with(token, &["spawn", "--project", "web", "fix it"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.starts_with("error: permission_denied: "), "{}", refused.stderr);
    let wrong = with("no-token", &["ps"]);
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert!(wrong.stderr.starts_with("error: unauthenticated: "), "{}", wrong.stderr);

    let listed = run(&["token", "ls", "--json"]).json();
    assert_eq!(listed[0]["name"], "ada", "{listed}");
    assert!(!listed.to_string().contains(token), "its secret is shown once");
    let id = listed[0]["id"].as_str().expect("an id");
    assert_eq!(run(&["token", "revoke", id]).code, 0);
    assert!(run(&["token", "ls"]).stdout.contains("revoked"));
    assert_eq!(with(token, &["ps"]).code, 1);
    assert_eq!(run(&["token", "revoke", "nothing"]).code, 3);
    assert_eq!(role.leave(), 0);
}

#[test]
fn a_doctor_says_what_is_well_and_how_to_mend_what_is_not() {
    let user = User::new();
    let (role, address) = start(&user);
    let doctor = |address: &str| user.run(&["doctor", "--json", "--controller", address]);
    let check = |document: &serde_json::Value, name: &str| {
        let checks = document["checks"].as_array().expect("an array");
        checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    let ill = doctor(&address);
    assert_eq!(ill.code, 1, "{ill:?}");
    let ill = ill.json();
    let claude = check(&ill, "claude");
    assert_eq!(claude["ok"], false, "{ill}");
    assert!(claude["mend"].as_str().is_some_and(|mend| mend.contains("npm install")), "{ill}");
    user.install("claude", crate::process::CLAUDE);
    let well = doctor(&address).json();
    for name in ["claude", "git", "controller", "membership"] {
        assert_eq!(check(&well, name)["ok"], true, "{name}: {well}");
    }
    assert_eq!(role.leave(), 0);
    let alone = doctor(&address);
    assert_eq!(alone.code, 1, "{alone:?}");
    assert_eq!(check(&alone.json(), "controller")["ok"], false);
}
