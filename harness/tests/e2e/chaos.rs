//! The short form of `make chaos`: the same program with a small budget.

use std::process::Command;

use muster_harness::fleet::programs_folder;

/// Runs it; its table is the message of a failure.
fn chaos(arguments: &[&str]) {
    let program = programs_folder().unwrap().join("muster-chaos");
    let mut command = Command::new(&program);
    if let Some(muster) = std::env::var_os("MUSTER_BIN") {
        command.arg("--muster").arg(muster);
    }
    let output = command.args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn nothing_is_lost_or_done_twice_under_kills_and_cuts() {
    chaos(&["--only", "load", "--kills", "30", "--bytes", "1GB", "--lanes", "8"]);
}

/// Without the right to mount it says so and passes: it has nothing to fill.
#[test]
fn full_disks_hold_work_and_lose_nothing() {
    chaos(&["--only", "disk", "--kills", "30"]);
}

#[test]
fn the_real_claude_outlives_worker_and_controller() {
    chaos(&["--claude", "latest", "--kills", "3"]);
}
