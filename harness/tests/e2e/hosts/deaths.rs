//! A machine without power, and a controller that is killed.

use muster_harness::hosts::{Loss, PROJECT, Pace, RESTARTING};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_and_a_controller_may_die() {
    let Some(mut hosts) = Hosts::start(&["w1", "w2"], Pace::default()).await else { return };
    hosts.muster(&["worker", "cordon", "w2"]).await;
    let restarted = hosts.held("restarted", RESTARTING, None).await;
    let kept = hosts.held("kept", PROJECT, None).await;
    let aside = hosts.held("aside", PROJECT, Some("w1")).await;
    hosts.muster(&["stop", &aside.id]).await;
    hosts.until(&aside.id, "stopped").await;
    hosts.muster(&["worker", "uncordon", "w2"]).await;

    // No packet says goodbye.
    hosts.farm.network.lose("w1", Loss::Both).unwrap();
    hosts.farm.network.power_off("w1").unwrap();
    hosts.farm.kill_worker("w1");
    let session = hosts.until_attempt(&restarted.id, 2).await;
    assert_eq!(session["worker"], "w2", "{session:#}");
    assert_eq!(hosts.until(&kept.id, "unreachable").await["attempt"], 1);

    hosts.farm.network.mend("w1").unwrap();
    hosts.farm.start_worker("w1").unwrap();
    hosts.farm.connected(&["w1", "w2"]).await.unwrap();
    // Its shim died with the machine: it goes on in its workspace, told that it was interrupted.
    let session = hosts.until_attempt(&kept.id, 2).await;
    assert_eq!(session["worker"], "w1", "{session:#}");
    hosts.farm.kill_controller();
    let elsewhere = tokio::time::sleep(Duration::from_secs(3));
    elsewhere.await;
    hosts.farm.start_controller().await.unwrap();
    hosts.farm.connected(&["w1", "w2"]).await.unwrap();
    hosts.go(&restarted).await;
    fs::write(&kept.go, "").unwrap();
    hosts.until(&kept.id, "completed").await;
    assert_eq!((hosts.starts(&restarted.id), hosts.starts(&kept.id), hosts.starts(&aside.id)), (2, 2, 1));
    assert!(!aside.done.exists(), "a stopped session stays stopped");
    hosts.finish();
}
