//! Cables that are cut and mended: what runs behind them goes on, and nothing of it is lost.

use muster_harness::hosts::{Loss, PROJECT, Pace};

use super::*;

/// Lines of each session: they are said before, during and after the longest cut.
const LINES: u64 = 450;

pub async fn sessions_behind_a_cut_cable_go_on_and_lose_nothing() {
    let Some(hosts) = Hosts::start(&["w1", "w2", "w3", "w4"], Pace::default()).await else { return };
    let cuts = [("w1", Loss::Both, 3), ("w2", Loss::Both, 30), ("w3", Loss::To, 30), ("w4", Loss::From, 30)];
    let mut sessions = Vec::new();
    for (name, ..) in cuts {
        sessions.push(hosts.counting(&format!("behind {name}"), PROJECT, name, LINES).await);
    }
    let stopped = hosts.held("stopped meanwhile", PROJECT, Some("w2")).await;
    let behind = |index: usize| sessions[index].clone();
    let runs = cuts.iter().enumerate().map(|(index, (name, loss, seconds))| {
        let (hosts, id, stopped) = (&hosts, behind(index), &stopped);
        async move {
            hosts.farm.network.lose(name, *loss).unwrap();
            let cut = tokio::time::Instant::now();
            if *seconds > 20 {
                hosts.until(&id, "unreachable").await;
            }
            if *name == "w2" {
                hosts.muster(&["stop", &stopped.id]).await;
            }
            tokio::time::sleep_until(cut + Duration::from_secs(*seconds)).await;
            hosts.farm.network.mend(name).unwrap();
            hosts.until_health(name, "back", |health| health == "connected").await;
            hosts.assert_undisturbed(&id).await;
            hosts.assert_counted(&id, LINES).await;
        }
    });
    futures::future::join_all(runs).await;
    hosts.until(&stopped.id, "stopped").await;
    assert_eq!(hosts.starts(&stopped.id), 1);
    assert!(!stopped.done.exists());
    hosts.finish();
}
