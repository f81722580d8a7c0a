//! `diff`, `push` and `logs --tail`: what is printed of a session's work and output.

use muster_proto::{
    error::{Error, ErrorCode},
    v1::ChangesSummary,
};
use serde_json::{Value, json};

use crate::{
    fake_controller::{Controller, HANDLE, ID},
    process::{Run, User},
};

fn run(user: &User, controller: &Controller, args: &[&str]) -> Run {
    user.run(&[args, &["--controller", &controller.address.to_string()]].concat())
}

fn summary() -> ChangesSummary {
    ChangesSummary {
        branch: "muster/fix-login".into(),
        base_commit: "b".repeat(40),
        head_commit: "c".repeat(40),
        work_commit: "d".repeat(40),
        kept_ref: format!("refs/muster/{ID}/work"),
        files_changed: 2,
        lines_added: 3,
        lines_deleted: 1,
        commits: 1,
    }
}

#[test]
fn a_diff_of_many_pages_is_whole_and_goes_to_programs_as_it_is() {
    let (user, controller) = (User::new(), Controller::start());
    let text: String = (0..150_000).map(|line| format!("+line {line}\r\n")).collect();
    controller.state().text.clone_from(&text);
    controller.state().summaries = vec![summary()];
    let diff = run(&user, &controller, &["diff", "fix-login", "src", "a b"]);
    assert_eq!((diff.code, diff.stderr.as_str()), (0, ""));
    assert!(diff.stdout == text, "{} of {} bytes", diff.stdout.len(), text.len());
    let state = controller.state();
    assert!(state.asked.len() > 1, "one page was enough");
    assert!(state.asked.iter().all(|asked| asked.session == ID && asked.paths == ["src", "a b"]));
    drop(state);
    let diff = run(&user, &controller, &["diff", HANDLE, "--json"]).json();
    assert_eq!(diff["text"], text.as_str());
}

#[test]
fn the_json_of_a_diff_has_the_names_of_the_tool() {
    let (user, controller) = (User::new(), Controller::start());
    controller.state().summaries = vec![summary()];
    controller.state().text = " a.rs | 1 +\n".into();
    for (flag, format, number) in
        [("--stat", "stat", 1), ("--patch", "patch", 2), ("--commits", "commits", 3)]
    {
        let diff = run(&user, &controller, &["diff", HANDLE, flag, "--json"]).json();
        assert_eq!(
            diff,
            json!({
                "sessionId": HANDLE, "format": format, "text": " a.rs | 1 +\n", "branch": "muster/fix-login",
                "baseCommit": "b".repeat(40), "headCommit": "c".repeat(40), "uncommitted": true,
                "workCommit": "d".repeat(40), "keptRef": format!("refs/muster/{ID}/work"),
                "filesChanged": 2, "linesAdded": 3, "linesDeleted": 1, "commits": 1,
            })
        );
        let asked = controller.state().asked.last().map(|asked| asked.format);
        assert_eq!(asked, Some(number));
        let documented =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md")).expect("read");
        for key in diff.as_object().expect("an object").keys() {
            assert!(documented.contains(&format!("`{key}`")), "{key} is not documented");
        }
    }
    assert_eq!(run(&user, &controller, &["diff", HANDLE, "--stat", "--patch"]).code, 2);
}

#[test]
fn a_diff_that_changes_between_two_pages_is_not_taken_for_one() {
    let (user, controller) = (User::new(), Controller::start());
    controller.state().text = "x".repeat(3 << 20);
    let later = ChangesSummary { lines_added: 9, ..summary() };
    controller.state().summaries = vec![summary(), later];
    let diff = run(&user, &controller, &["diff", HANDLE]);
    assert_eq!(diff.code, 1, "{}", diff.stderr);
    assert!(diff.stderr.contains("changed something while it was read"), "{}", diff.stderr);
}

#[test]
fn refusals_end_with_1_and_a_hint() {
    let (user, controller) = (User::new(), Controller::start());
    controller.state().refusal = Some(Error::new(ErrorCode::NoChangesKept, "it worked outside git"));
    let diff = run(&user, &controller, &["diff", HANDLE]);
    assert_eq!(diff.code, 1);
    assert!(diff.stderr.starts_with("error: no_changes_kept: it worked outside git"), "{}", diff.stderr);
    controller.state().refusal = Some(Error::new(ErrorCode::PushNotAllowed, "project web allows no pushes"));
    let push = run(&user, &controller, &["push", HANDLE]);
    assert_eq!(push.code, 1);
    assert!(push.stderr.starts_with("error: push_not_allowed: "), "{}", push.stderr);
    assert!(
        push.stderr.contains(&format!("hint: bring the branch into a clone with `muster fetch {HANDLE}`"))
    );
    for args in [["diff", "nothing-000000"], ["push", "nothing-000000"]] {
        assert_eq!(run(&user, &controller, &args).code, 3);
    }
}

#[test]
fn a_push_says_what_went_where() {
    let (user, controller) = (User::new(), Controller::start());
    controller.state().summaries = vec![summary()];
    let push = run(&user, &controller, &["push", HANDLE]);
    assert_eq!(push.code, 0, "{push:?}");
    assert_eq!(push.stdout, format!("{HANDLE}  pushed muster/fix-login at cccccccccccc to origin\n"));
    let push = run(&user, &controller, &["push", HANDLE, "--remote", "fork", "--json"]).json();
    let commit = "c".repeat(40);
    assert_eq!(
        push,
        json!({ "sessionId": HANDLE, "remote": "fork", "branch": "muster/fix-login", "commit": commit })
    );
    let remotes: Vec<String> = controller.state().pushes.iter().map(|push| push.remote.clone()).collect();
    assert_eq!(remotes, ["", "fork"]);
}

#[test]
fn the_last_lines_of_the_output_are_found_however_far_back_they_are() {
    let (user, controller) = (User::new(), Controller::start());
    let said = |text: &str| {
        let line = json!({"type": "assistant", "message": {"content": [{"type": "text", "text": text}]}});
        format!("{line}\n")
    };
    let noise = format!("{}\n", json!({"type": "stream_event", "event": "x".repeat(1000)})).repeat(2000);
    let output = format!("{}{}{}{noise}", said("one"), said("two"), said("three"));
    {
        let mut state = controller.state();
        state.session.output_end_offset = output.len() as u64;
        state.output = output.clone().into_bytes();
    }
    let logs = |args: &[&str]| {
        let logs = run(&user, &controller, &[&["logs", HANDLE][..], args].concat());
        assert_eq!(logs.code, 0, "{}", logs.stderr);
        logs.stdout
    };
    assert_eq!(logs(&["--tail", "2"]), "claude: two\nclaude: three\n");
    assert_eq!(logs(&["--tail", "9"]), "claude: one\nclaude: two\nclaude: three\n");
    assert_eq!(logs(&["--tail", "0"]), "");
    assert_eq!(logs(&["--tail", "1", "--follow"]), "claude: three\n");
    let raw = logs(&["--tail", "3", "--raw"]);
    assert!(output.ends_with(&raw) && raw.lines().count() == 3);
    let last: Value = serde_json::from_str(&logs(&["--tail", "1", "--json"])).expect("one line");
    let line = noise.lines().next().expect("a line").len() + 1;
    assert_eq!(last["offset"], output.len() - line, "the offset of its first byte");
    assert_eq!(run(&user, &controller, &["logs", HANDLE, "--tail", "1", "--from", "2"]).code, 2);
}
