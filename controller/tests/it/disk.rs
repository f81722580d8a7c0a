//! A disk that is full and then is not: on a small tmpfs, which needs root; without it a notice is printed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use muster_proto::{error::ErrorCode, v1::*};
use tonic::Code;

use crate::{
    farm::{Farm, refused, spec},
    worker::{FakeWorker, hello},
};

/// A small file system of its own.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    fn mount(megabytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a folder");
        let size = format!("size={megabytes}m");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "muster-test"]).arg(dir.path()).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self { dir });
        }
        // The one way to tell whoever runs the tests that this one did not.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "SKIPPED: no tmpfs can be mounted here, so a full disk is not tested")
            .expect("told");
        None
    }

    fn ballast(&self) -> PathBuf {
        self.dir.path().join("ballast")
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let mut file = File::create(self.ballast()).expect("a file");
        for piece in [1 << 20, 1 << 12, 1] {
            let bytes = vec![1; piece];
            while let Ok(()) = file.write_all(&bytes) {}
        }
        assert_eq!(file.write(&[1]).expect_err("full").kind(), ErrorKind::StorageFull);
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).expect("removed");
    }

    async fn farm(&self) -> Farm {
        let state = tempfile::tempdir_in(self.dir.path()).expect("a folder");
        Farm::start_in(state, |_| {}).await
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

fn journal_bytes(state: &Path) -> u64 {
    let entries = fs::read_dir(state.join("store")).expect("a folder").map(|entry| entry.expect("an entry"));
    let journals = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("journal-"));
    journals.map(|entry| entry.metadata().expect("a length").len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_new_work_keeps_reading_and_needs_no_restart() {
    let Some(disk) = Disk::mount(24) else { return };
    let mut farm = disk.farm().await;
    let _worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let mut accepted = BTreeSet::from([farm.spawn("first").await.session_id]);
    for round in 0..3 {
        disk.fill();
        let large = "x".repeat(100_000);
        let mut refusals = 0;
        while refusals < 3 {
            // Small ones may still find room in a page that is there.
            for prompt in [large.as_str(), "small"] {
                match farm.try_spawn(spec(prompt), "").await {
                    Ok(response) => drop(accepted.insert(response.session.expect("one").session_id)),
                    Err(error) => {
                        assert_eq!(error.code, ErrorCode::StoreUnavailable, "{error:?}");
                        assert!(error.retryable(), "{error:?}");
                        refusals += 1;
                    }
                }
            }
        }
        let listed =
            farm.list(ListSessionsRequest { include_archived: true, limit: 500, ..Default::default() }).await;
        assert_eq!(listed.total as usize, accepted.len(), "what was refused is not there");
        disk.free();
        let before = journal_bytes(&farm.dir.path().join("state"));
        accepted.insert(farm.spawn("with room").await.session_id);
        assert!(journal_bytes(&farm.dir.path().join("state")) > before, "round {round}");
    }
    farm.restart().await;
    let listed = farm.list(ListSessionsRequest { limit: 500, ..Default::default() }).await;
    let found: BTreeSet<_> = listed.sessions.into_iter().map(|session| session.session_id).collect();
    assert_eq!(found, accepted, "all that was acknowledged, and nothing else");
    refused(farm.try_get("nobody-here").await, ErrorCode::SessionNotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_finds_no_room_stays_with_the_worker_and_no_acknowledged_byte_is_lost() {
    let Some(disk) = Disk::mount(24) else { return };
    let mut farm = disk.farm().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let id = farm.spawn("print").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    let whole: Vec<u8> = (0..3_000_000u32).map(|at| (at % 249) as u8).collect();
    let mut push = worker.push(&farm).await.expect("open");
    push.open(&id).await;
    assert_eq!(push.position().await, 0);
    push.chunk(&id, 0, &whole[..50_001]).await;
    push.acked(50_001).await;

    disk.fill();
    for (at, chunk) in whole[50_001..].chunks(60_000).enumerate() {
        push.chunk(&id, 50_001 + at as u64 * 60_000, chunk).await;
    }
    let (status, acked) = push.ended().await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let acked = acked.max(50_001);
    // It serves what it has.
    let held = farm.get(&id).await.output_end_offset;
    assert!(held >= acked && held < whole.len() as u64, "{acked} {held}");
    assert!(farm.output(&id).await == whole[..held as usize]);

    disk.free();
    let mut push = worker.push(&farm).await.expect("open");
    push.open(&id).await;
    let mut at = push.position().await;
    assert!(at >= acked, "{at} < {acked}");
    for chunk in whole[at as usize..].chunks(64 << 10) {
        push.chunk(&id, at, chunk).await;
        at += chunk.len() as u64;
    }
    push.acked(whole.len() as u64).await;
    farm.restart().await;
    assert!(farm.output(&id).await == whole, "byte for byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_starts_on_a_full_disk_reads_refuses_new_work_and_goes_on_when_there_is_room() {
    let Some(disk) = Disk::mount(24) else { return };
    let mut farm = disk.farm().await;
    let mut worker = FakeWorker::connect(&farm, hello("w1", 1)).await;
    let running = farm.spawn("first").await.session_id;
    let start = worker.start().await;
    worker.work(&start).await;
    let waiting = farm.spawn("second").await.session_id;
    let (mut revisions, mut refusals) = (Vec::new(), 0);
    for round in 0..2 {
        farm.leave().await;
        disk.fill();
        farm.restart().await;
        for id in [&running, &waiting] {
            let found = farm.get(id).await;
            assert_eq!(found.session_id, **id, "round {round}");
        }
        revisions.push(farm.get(&running).await.revision);
        for n in 0..20 {
            match farm.try_spawn(spec(&"x".repeat(10_000)), &format!("{round}/{n}")).await {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::StoreUnavailable, "{error:?}");
                    assert!(error.retryable(), "{error:?}");
                    refusals += 1;
                }
            }
        }
        // What runs is taken up again, full or not.
        let held = HeldSession {
            session_id: running.clone(),
            attempt: 1,
            running: true,
            spool_end_offset: 0,
            last_input: 1,
        };
        worker = worker.reconnect(&farm, vec![held]).await;
        assert_eq!(farm.get(&running).await.status(), SessionStatus::Working);
        disk.free();
        let more = farm.spawn("with room").await;
        assert_eq!(more.status(), SessionStatus::Queued);
    }
    assert!(refusals > 0 && revisions[0] < revisions[1], "{refusals} {revisions:?}");
    worker.end(&running, 1, EndReason::TurnCompleted, "done").await;
    assert_eq!(worker.start().await.session_id, waiting);
    let count = farm.list(ListSessionsRequest { limit: 500, ..Default::default() }).await.total;
    farm.restart().await;
    assert_eq!(farm.list(ListSessionsRequest { limit: 500, ..Default::default() }).await.total, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_folder_on_a_full_disk_is_refused_by_its_name_and_why() {
    let Some(disk) = Disk::mount(4) else { return };
    disk.fill();
    let state = disk.dir.path().join("state");
    let config = crate::farm::config(state.clone());
    let started = muster_controller::Controller::start(config, muster_runtime::shutdown::Shutdown::new());
    let error = started.await.expect_err("refused").to_string();
    assert!(error.contains(state.to_str().expect("text")), "{error}");
    assert!(error.to_lowercase().contains("no space left"), "{error}");
}
