//! The story the README begins with.

use std::process::Command;

use muster_harness::fleet::{Claude, programs_folder};

#[test]
fn the_demo_tells_its_whole_story() {
    let folder = programs_folder().unwrap();
    let muster = std::env::var_os("MUSTER_BIN").map_or_else(|| folder.join("muster"), Into::into);
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(folder.join("muster-demo"));
    command
        .current_dir(scratch.path())
        .args(["--model", "offline", "--claude"])
        .arg(Claude::Latest.program().unwrap());
    let output = command.arg("--muster").arg(muster).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("completed"), "{said}");
}
