//! `muster project`: declared from flags or a file, changed in part, shown, and taken back.

use serde_json::json;

use crate::{
    fake_records::Records,
    process::{Run, User},
};

fn on(records: &Records, user: &User, args: &[&str]) -> Run {
    user.run(&[args, &["--controller", &records.address.to_string()]].concat())
}

#[test]
fn a_project_is_declared_changed_in_part_and_taken_back() {
    let (records, user) = (Records::start(), User::new());
    let run = |args: &[&str]| on(&records, &user, args);
    let added = run(&[
        "project",
        "add",
        "web",
        "--git",
        "https://git.example/web.git",
        "--max-turns",
        "50",
        "--env-credential",
        "NPM_TOKEN=npm",
        "--required-label",
        "gpu=yes",
    ]);
    assert_eq!((added.code, added.stdout.as_str()), (0, "web  declared\n"), "{added:?}");
    let twice = run(&["project", "add", "web"]);
    assert_eq!(twice.code, 1, "{twice:?}");
    assert!(twice.stderr.contains("muster project set web"), "{}", twice.stderr);

    let set = run(&["project", "set", "web", "--on-lost", "restart", "--json"]);
    assert_eq!(set.code, 0, "{set:?}");
    let set = set.json();
    assert_eq!(
        (&set["replaced"], &set["onLost"], &set["maxTurns"]),
        (&json!(true), &json!("restart"), &json!(50))
    );
    assert_eq!(set["environment"], json!([{ "name": "NPM_TOKEN", "workerCredential": "npm" }]), "{set}");
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md")).expect("read");
    for key in set.as_object().expect("an object").keys() {
        assert!(documented.contains(&format!("`{key}`")), "{key} is not documented");
    }

    let listed = run(&["project", "ls"]).stdout;
    assert_eq!(listed, "web\trestart\t\tgpu=yes\t\tlocal\thttps://git.example/web.git\n");
    let page = run(&["project", "show", "web"]).stdout;
    assert!(
        page.contains("on-lost:                restart\n") && page.contains("revision:               2\n"),
        "{page}"
    );

    assert_eq!(run(&["project", "rm", "web"]).stdout, "web  removed\n");
    for missing in
        [&["project", "rm", "web"][..], &["project", "show", "web"], &["project", "set", "web", "--git", ""]]
    {
        assert_eq!(run(missing).code, 3, "{missing:?}");
    }
}

#[test]
fn a_file_is_the_whole_of_a_project_and_refused_by_its_key() {
    let (records, user) = (Records::start(), User::new());
    let file = user.path("web.toml");
    let path = file.to_str().expect("UTF-8");
    let run = |verb: &str, text: &str, more: &[&str]| {
        std::fs::write(&file, text).expect("written");
        on(&records, &user, &[&["project", verb, "-f", path], more].concat())
    };
    let whole = "name = \"web\"\ngit-url = \"https://git.example/web.git\"\nmax-turns = 5\n";
    assert_eq!(run("add", whole, &[]).code, 0);
    let set = run("set", "name = \"web\"\nmax-running = 3\n", &["--json"]);
    assert_eq!(set.code, 0, "{set:?}");
    let set = set.json();
    assert_eq!(
        (&set["maxTurns"], &set["gitUrl"], &set["maxRunning"]),
        (&json!(null), &json!(null), &json!(3))
    );
    for (text, names) in [
        ("name = \"web\"\nmax-turn = 3", "did you mean \"max-turns\"?"),
        ("max-turns = 3", "NAME"),
        ("name = ", "web.toml"),
    ] {
        let refused = run("set", text, &[]);
        assert_eq!(refused.code, 2, "{text}: {refused:?}");
        assert!(refused.stderr.contains(names), "{text}: {}", refused.stderr);
    }
    assert_eq!(run("set", "name = \"web\"", &["other"]).code, 2, "two names");
    let state = records.state.lock().expect("not poisoned");
    assert_eq!(state.projects["web"].revision, 2, "what is refused changes nothing");
}
