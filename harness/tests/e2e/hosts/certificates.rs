//! Certificates that end many times while sessions run.

use std::collections::BTreeSet;

use muster_harness::hosts::{PROJECT, Pace};

use super::*;

const LINES: u64 = 400;
/// Renewals that must be seen.
const RENEWALS: usize = 3;

pub async fn certificates_end_in_mid_stream_and_nobody_notices() {
    let pace = Pace { certificate_life: Duration::from_secs(12), ..Pace::default() };
    let Some(hosts) = Hosts::start(&["w1", "w2"], pace).await else { return };
    let mut sessions = Vec::new();
    for name in ["w1", "w2"] {
        sessions.push(hosts.counting(&format!("through renewals on {name}"), PROJECT, name, LINES).await);
    }
    let incarnations = incarnations(&hosts).await;
    let mut members = BTreeSet::new();
    let seen = tokio::time::Instant::now();
    while members.len() < 2 * (RENEWALS + 1) {
        assert!(seen.elapsed() < PATIENCE, "{} renewals", members.len());
        for name in ["w1", "w2"] {
            // With the certificate in it; made anew with every renewal.
            let member = hosts.farm.state_dir(name).join("identity/member.json");
            members.insert((name, fs::read(member).unwrap()));
            assert_eq!(hosts.farm.health(name).await.unwrap(), "connected");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    for id in &sessions {
        hosts.assert_undisturbed(id).await;
        hosts.assert_counted(id, LINES).await;
    }
    assert_eq!(incarnations, self::incarnations(&hosts).await, "no worker started again");
    hosts.finish();
}

async fn incarnations(hosts: &Hosts) -> BTreeSet<String> {
    hosts.farm.worker_list().await.unwrap().iter().map(|worker| worker["incarnation"].to_string()).collect()
}
