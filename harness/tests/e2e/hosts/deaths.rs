//! A machine without power, and a controller that is killed.

use muster_harness::hosts::{Loss, PROJECT, Pace, RESTARTING};

use super::*;

pub async fn a_host_and_a_controller_may_die() {
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

    // Before that machine is back: these hosts share their process ids, and what ends the remains of an attempt would find
    // the next one of the same session.
    hosts.go(&restarted).await;
    hosts.farm.network.mend("w1").unwrap();
    hosts.farm.start_worker("w1").unwrap();
    hosts.farm.connected(&["w1", "w2"]).await.unwrap();
    // Its shim died with the machine: it goes on in its workspace, told that it was interrupted.
    let session = hosts.until(&kept.id, "completed").await;
    assert_eq!((&session["worker"], &session["attempt"]), (&json!("w1"), &json!(2)), "{session:#}");
    assert_eq!((hosts.starts(&restarted.id), hosts.starts(&kept.id), hosts.starts(&aside.id)), (2, 2, 1));

    let (one, other) = (
        hosts.held("without a controller on w1", PROJECT, Some("w1")).await,
        hosts.held("without a controller on w2", RESTARTING, Some("w2")).await,
    );
    hosts.farm.kill_controller();
    // While nobody hears it, one of them goes on and ends.
    fs::write(&one.go, "").unwrap();
    let done = || async { one.done.exists().then_some(()) };
    eventually("it goes on without a controller", PATIENCE, done).await;
    hosts.farm.start_controller().await.unwrap();
    hosts.farm.connected(&["w1", "w2"]).await.unwrap();
    for held in [&one, &other] {
        hosts.go(held).await;
        hosts.assert_undisturbed(&held.id).await;
    }
    assert!(!aside.done.exists(), "a stopped session stays stopped");
    hosts.finish();
}
