//! Machines that are cut off for longer than their lease: what may start elsewhere does, once it can no longer run where it
//! was.

use muster_harness::hosts::{Loss, PROJECT, Pace, RESTARTING};

use super::*;

pub async fn past_its_lease_a_session_starts_once_more_elsewhere_and_never_runs_twice() {
    let workers = ["w1", "w2", "w3", "w4"];
    let Some(hosts) = Hosts::start(&workers, Pace::default()).await else { return };
    for name in workers {
        hosts.muster(&["worker", "cordon", name]).await;
    }
    let cuts = [("w1", Loss::Both), ("w3", Loss::To), ("w4", Loss::From)];
    let mut held = Vec::new();
    for (name, _) in cuts {
        hosts.muster(&["worker", "uncordon", name]).await;
        held.push(hosts.held(&format!("left {name}"), RESTARTING, None).await);
        hosts.muster(&["worker", "cordon", name]).await;
    }
    // Its project says that it waits for its machine.
    hosts.muster(&["worker", "uncordon", "w1"]).await;
    let kept = hosts.held("waits for w1", PROJECT, None).await;
    hosts.muster(&["worker", "cordon", "w1"]).await;
    for (name, loss) in cuts {
        hosts.farm.network.lose(name, loss).unwrap();
    }
    hosts.muster(&["worker", "uncordon", "w2"]).await;
    for held in &held {
        let session = hosts.until_attempt(&held.id, 2).await;
        assert_eq!(session["worker"], "w2", "{session:#}");
        assert_eq!(hosts.starts(&held.id), 2, "{session:#}");
    }
    // Not even now does the first attempt go on: it ended before the second began.
    for held in &held {
        hosts.go(held).await;
    }
    assert_eq!(hosts.until(&kept.id, "unreachable").await["attempt"], 1);
    for (name, _) in cuts {
        hosts.farm.network.mend(name).unwrap();
        hosts.until_health(name, "back", |health| health == "connected").await;
    }
    hosts.go(&kept).await;
    hosts.assert_undisturbed(&kept.id).await;
    for (held, (name, _)) in held.iter().zip(cuts) {
        assert_eq!(hosts.starts(&held.id), 2);
        let session = hosts.status(&held.id).await;
        assert_eq!((&session["attempt"], &session["worker"]), (&json!(2), &json!("w2")), "{session:#}");
        eventually(&format!("{name} runs nothing but its worker"), PATIENCE, || async {
            (hosts.farm.network.host(name).pids().unwrap().len() == 1).then_some(())
        })
        .await;
    }
    hosts.finish();
}
