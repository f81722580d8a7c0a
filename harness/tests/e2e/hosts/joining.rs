//! Machines that join, and one that is sent away.

use std::time::Instant;

use muster_harness::{
    hosts::{PROJECT, Pace, RESTARTING},
    scenario::Turn,
};

use super::*;

const WORKERS: [&str; 4] = ["w1", "w2", "w3", "w4"];

pub async fn four_machines_join_by_token_and_one_is_sent_away() {
    let Some(mut farm) = HostFarm::alone(&WORKERS, Pace::default()).await.expect("the farm comes up") else {
        return;
    };
    let token = farm.token(&["--uses", "4"]).await.unwrap();
    for name in WORKERS {
        farm.join(name, &token).unwrap();
    }
    farm.connected(&WORKERS).await.unwrap();
    let gateway = farm.gateway().await.expect("the gateway comes up");
    let mut hosts = Hosts { farm, gateway };

    // It was used four times, which is what it was good for.
    let fifth = hosts.farm.state_dir("w5");
    let mut command =
        hosts.farm.worker_command("w1", "w1", &fifth, &["join", &token, "--name", "w5"]).unwrap();
    let output = command.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("token"), "{said}");
    assert!(!said.contains(&token) && !hosts.farm.log("controller").contains(&token), "the token is told");

    for name in WORKERS {
        for project in [PROJECT, RESTARTING] {
            let title = format!("on {name} in {project}");
            let id = hosts.spawn(&title, project, Some(name), &[Turn::text("worked")]).await;
            hosts.assert_undisturbed(&id).await;
            assert_eq!(hosts.status(&id).await["worker"], name);
        }
    }
    for number in 0..8 {
        let id = hosts.spawn(&format!("anywhere {number}"), PROJECT, None, &[Turn::text("worked")]).await;
        hosts.assert_undisturbed(&id).await;
    }

    let held = hosts.held("cut", PROJECT, Some("w4")).await;
    let began = Instant::now();
    hosts.muster(&["worker", "revoke", "w4"]).await;
    hosts.until_health("w4", "not connected", |health| health != "connected").await;
    // Five seconds are promised; what is here beyond is a loaded machine's.
    assert!(began.elapsed() < Duration::from_secs(20), "cut after {:?}", began.elapsed());
    hosts.until(&held.id, "unreachable").await;
    assert_ne!(hosts.farm.health("w4").await.unwrap(), "connected", "it has to join again");
    let id = hosts.spawn("the others", PROJECT, Some("w3"), &[Turn::text("worked")]).await;
    hosts.assert_undisturbed(&id).await;
    // Nobody can reach what still runs there.
    hosts.farm.network.power_off("w4").unwrap();
    hosts.farm.kill_worker("w4");
    hosts.finish();
}
