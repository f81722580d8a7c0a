//! A worker whose disk fills up: everything waits, visibly, and goes on when there is room. Needs root for a small disk.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use muster_proto::v1::{
    EndReason, ReleaseWorkspace, WorkspaceReleased, connect_response, session_event::Body,
};

mod support;
use support::{Controller, Machine, start_order};

/// A tmpfs of its own, gone with the test.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// `None`, loudly: this user cannot mount.
    fn mount(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).expect("created");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=16m,mode=0700", "muster-test"]).arg(path);
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self { path: path.to_owned() }),
            why => {
                let text = "SKIPPED: a small disk cannot be mounted here (root can)";
                writeln!(io::stderr(), "{text}: {why:?}").expect("stderr takes it");
                None
            }
        }
    }

    /// Takes all that is free but `left` bytes; returns the file to remove.
    fn fill(&self, left: u64) -> PathBuf {
        let path = self.path.join("filler");
        let mut file = File::create(&path).expect("created");
        while file.write_all(&[1; 4096]).is_ok() {}
        let size = file.metadata().expect("there").len();
        file.set_len(size.saturating_sub(left)).expect("shortened");
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

#[tokio::test]
async fn a_full_disk_holds_what_runs_and_what_is_to_start_until_there_is_room() {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    let Some(disk) = SmallDisk::mount(&machine.state) else { return };
    machine.start().await;
    let works = start_order("works-abcdef", "noise 4000000");
    let filler = disk.fill(1 << 20);
    controller.start_session(&works).await;
    controller.blocked(&works, "disk_full").await;

    let starts = start_order("starts-abcdef", "write made.txt");
    let unwanted = start_order("unwanted-abcdef", "write made.txt");
    controller.start_session(&starts).await;
    controller.start_session(&unwanted).await;
    controller.blocked(&starts, "disk_full").await;
    controller.blocked(&unwanted, "disk_full").await;
    controller.stop(&unwanted).await;
    let end = controller.ended(&unwanted).await.end.expect("set");
    assert_eq!(end.reason(), EndReason::Stopped, "at once, though nothing can be written: {end:?}");

    fs::remove_file(filler).expect("removed");
    let ended = controller.ended(&works).await;
    assert_eq!(ended.end.as_ref().expect("set").reason(), EndReason::TurnCompleted);
    let output = controller.output(&works, &ended).await;
    assert!(output.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "no byte is missing");
    let line = format!("{{\"type\":\"noise\",\"x\":\"{}\"}}", "y".repeat(1000));
    assert_eq!(
        output.lines().filter(|said| **said == line).count(),
        4_000_000_usize.div_ceil(line.len() + 1)
    );
    assert_eq!(controller.ended(&starts).await.end.expect("set").reason(), EndReason::TurnCompleted);
    controller.blocked(&starts, "").await;
    assert!(!machine.state.join("worktrees/unwanted-abcdef").exists());
}

#[tokio::test]
async fn a_release_on_a_full_disk_is_done_when_there_is_room_also_by_the_next_worker() {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    let Some(disk) = SmallDisk::mount(&machine.state) else { return };
    machine.start().await;
    let start = start_order("kept-abcdef", "write made.txt");
    controller.start_session(&start).await;
    controller.ended(&start).await;
    // A page for the note that it is to be released, and one of the two that git needs.
    let filler = disk.fill(8 << 10);
    let order = ReleaseWorkspace { session_id: start.session_id.clone(), ..ReleaseWorkspace::default() };
    controller.order(connect_response::Body::Release(order)).await;
    support::there(&machine.state.join("sessions").join(&start.session_id).join("release.pb")).await;
    machine.kill();
    assert!(machine.state.join("worktrees/kept-abcdef/made.txt").exists());
    assert!(!controller.story(&start).contains(&"released"), "no failure is told");
    machine.start().await;
    fs::remove_file(filler).expect("removed");
    let released: WorkspaceReleased = controller
        .event(&start, "the release", |body| match body {
            Body::WorkspaceReleased(released) => Some(released.clone()),
            _ => None,
        })
        .await;
    assert_eq!(released.error, "");
    let kept = released.workspace.expect("set").kept_ref;
    assert_eq!(support::git(&machine.repo, &["show", &format!("{kept}:made.txt")]), "written");
}
