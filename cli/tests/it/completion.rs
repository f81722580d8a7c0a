//! Completion scripts are scripts, shells are answered with names of the farm, and manual pages are pages.

use std::process::Command;

use crate::{
    fake_controller::{Controller, HANDLE},
    process::{Run, User, finish},
};

#[test]
fn every_shell_gets_a_script_and_bash_can_parse_its() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = user.run(&["completion", shell]);
        assert_eq!(run.code, 0, "{shell}");
        assert!(run.stdout.contains("MUSTER_COMPLETE"), "{shell}: {}", run.stdout);
        let path = user.path(shell);
        std::fs::write(&path, run.stdout).expect("written");
        if shell == "bash" {
            let status = Command::new("bash").arg("-n").arg(&path).status().expect("bash runs");
            assert!(status.success());
        }
    }
}

/// What the script of fish asks, the plainest of them: candidates, a tab, what they are.
fn complete(user: &User, controller: &str, words: &[&str]) -> Run {
    let mut command = user.command(&[&["--", "muster"], words].concat());
    command.env("MUSTER_COMPLETE", "fish").env("MUSTER_CONTROLLER", controller);
    finish(command.spawn().expect("starts"))
}

#[test]
fn a_shell_is_told_commands_and_the_handles_there_are() {
    let user = User::new();
    let controller = Controller::start();
    let address = controller.address.to_string();
    let commands = complete(&user, &address, &["atta"]);
    assert!(commands.stdout.lines().any(|line| line.starts_with("attach")), "{commands:?}");
    for verb in ["status", "attach", "answer", "logs", "wait"] {
        let handles = complete(&user, &address, &[verb, "fix"]);
        assert!(handles.stdout.contains(HANDLE), "{verb}: {handles:?}");
        assert!(!complete(&user, &address, &[verb, "zzz"]).stdout.contains(HANDLE), "{verb}");
    }
}

#[test]
fn a_farm_that_is_away_completes_to_nothing_and_says_nothing() {
    let user = User::new();
    let run = complete(&user, "127.0.0.1:1", &["status", "fix"]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run:?}");
}

#[test]
fn every_command_has_a_manual_page() {
    let user = User::new();
    let folder = user.path("man");
    let run = user.run(&["man", "--out", folder.to_str().expect("UTF-8")]);
    assert_eq!(run.code, 0, "{run:?}");
    for page in
        ["muster.1", "muster-up.1", "muster-worker-join.1", "muster-token-create.1", "muster-attach.1"]
    {
        let text = std::fs::read_to_string(folder.join(page)).expect(page);
        assert!(text.contains(".TH"), "{page}: {text}");
    }
    assert!(user.run(&["man"]).stdout.contains(".TH muster 1"));
}
