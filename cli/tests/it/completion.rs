//! Completion scripts are scripts.

use std::process::Command;

use crate::process::User;

#[test]
fn every_shell_gets_a_script_and_bash_can_parse_its() {
    let user = User::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = user.run(&["completion", shell]);
        assert_eq!(run.code, 0, "{shell}");
        assert!(run.stdout.contains("archive"), "{shell}");
        let path = user.path(shell);
        std::fs::write(&path, run.stdout).expect("written");
        if shell == "bash" {
            let status = Command::new("bash").arg("-n").arg(&path).status().expect("bash runs");
            assert!(status.success());
        }
    }
}
