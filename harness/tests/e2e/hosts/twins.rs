//! Two machines from one disk image.

use muster_harness::hosts::{PROJECT, Pace, copy_disk};

use super::*;

pub async fn two_machines_with_one_identity_are_given_nothing() {
    let Some(mut hosts) = Hosts::start(&["w1", "w2"], Pace::default()).await else { return };
    // Before anything runs there: these hosts share their process ids, and the copy of a session that runs would take the
    // processes of the one it is a copy of for its own.
    let image = hosts.farm.folder().join("image");
    copy_disk(&hosts.farm.state_dir("w1"), &image).unwrap();
    let held = hosts.held("before", PROJECT, Some("w1")).await;
    hosts.farm.run_worker("twin", "w2", &image, &[]).unwrap();
    hosts.until_health("w1", "two machines", |health| health == "duplicate").await;
    let waiting =
        hosts.spawn("waits for one of them to leave", PROJECT, Some("w1"), &[Turn::text("x")]).await;
    // As long as both are there it cannot start, however long that is.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(hosts.status(&waiting).await["status"], "queued");
    let id = hosts.spawn("the others", PROJECT, Some("w2"), &[Turn::text("worked")]).await;
    hosts.assert_undisturbed(&id).await;
    hosts.farm.kill_worker("twin");
    hosts.until_health("w1", "alone again", |health| health == "connected").await;
    hosts.assert_undisturbed(&waiting).await;
    hosts.go(&held).await;
    hosts.assert_undisturbed(&held.id).await;
    hosts.finish();
}
