//! Every worker is restarted, one after the other, while all of them work.

use muster_harness::hosts::{PROJECT, Pace, RESTARTING};

use super::*;

const WORKERS: [&str; 4] = ["w1", "w2", "w3", "w4"];
const LINES: u64 = 300;
/// What an orderly leave may take.
const LEAVE: Duration = Duration::from_secs(60);

pub async fn all_workers_are_restarted_under_load_and_no_session_notices() {
    let Some(mut hosts) = Hosts::start(&WORKERS, Pace::default()).await else { return };
    let (mut counting, mut held, mut asking) = (Vec::new(), Vec::new(), Vec::new());
    for name in WORKERS {
        counting.push(hosts.counting(&format!("counts on {name}"), PROJECT, name, LINES).await);
        counting.push(hosts.counting(&format!("counts too on {name}"), RESTARTING, name, LINES).await);
        held.push(hosts.held(&format!("holds on {name}"), RESTARTING, Some(name)).await);
        let id = hosts
            .spawn(&format!("asks on {name}"), PROJECT, Some(name), &[question(), Turn::text("x")])
            .await;
        hosts.until(&id, "needs_attention").await;
        asking.push(id);
    }
    for name in WORKERS {
        let worker = hosts.farm.worker(name).expect("it runs");
        assert!(worker.leave(LEAVE), "{name} does not leave");
        hosts.farm.start_worker(name).unwrap();
        hosts.farm.connected(&[name]).await.unwrap();
    }
    for id in &asking {
        let answer = json!({ "sessionId": id, "answers": { "Which one?": "this" } });
        hosts.gateway.ok("send_input", answer).await.unwrap();
        hosts.assert_undisturbed(id).await;
    }
    for held in &held {
        hosts.go(held).await;
        hosts.assert_undisturbed(&held.id).await;
    }
    for id in &counting {
        hosts.assert_undisturbed(id).await;
        hosts.assert_counted(id, LINES).await;
    }
    hosts.finish();
}

fn question() -> Turn {
    let option = |label: &str| json!({ "label": label, "description": label });
    Turn::tool(
        "AskUserQuestion",
        json!({ "questions": [{ "question": "Which one?", "header": "One", "multiSelect": false,
            "options": [option("this"), option("that")] }] }),
    )
}
