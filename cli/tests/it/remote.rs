//! A controller that other machines reach: tokens of both kinds, and verbs over TLS.

use serde_json::json;

use crate::process::{Role, Run, User, finish};

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
