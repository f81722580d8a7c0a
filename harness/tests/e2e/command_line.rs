//! The story of a session told by the verbs alone, as a person at a terminal would.

use muster_harness::{
    fleet::TestFleet,
    scenario::{Turn, scripted_prompt},
};
use serde_json::Value;

use crate::farm::Farm;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_run_by_the_verbs() {
    let farm = Farm::build(TestFleet::builder()).await;
    let muster = async |arguments: &[&str]| farm.fleet.muster(arguments).await.unwrap();
    let exit_code = async |arguments: &[&str]| {
        let output = farm.fleet.command_for(arguments).output().await.unwrap();
        output.status.code().unwrap_or(-1)
    };
    let prompt =
        scripted_prompt("by hand", &[Turn::bash("echo hand > made.txt"), Turn::text("made by hand")]);
    let spawned = muster(&["spawn", "--json", "--title", "by hand", "--", &prompt]).await;
    let spawned: Value = serde_json::from_str(&spawned).unwrap();
    let session = spawned["sessionId"].as_str().unwrap_or_else(|| panic!("{spawned}")).to_owned();

    assert_eq!(exit_code(&["wait", &session, "--timeout", "60"]).await, 5, "it waits for an answer");
    assert!(muster(&["ps"]).await.lines().next().is_some_and(|line| line.contains(&session)));
    assert!(muster(&["status", &session]).await.contains("echo hand > made.txt"));
    muster(&["answer", &session, "--allow"]).await;
    assert_eq!(exit_code(&["wait", &session, "--timeout", "60"]).await, 0);
    assert!(muster(&["logs", &session]).await.contains("made by hand"));

    let next = scripted_prompt("once more", &[Turn::text("and once more")]);
    muster(&["send", &session, &next]).await;
    assert_eq!(exit_code(&["wait", &session, "--timeout", "60"]).await, 0);
    assert!(muster(&["logs", "--follow", &session]).await.contains("and once more"));

    muster(&["stop", &session]).await;
    muster(&["archive", &session]).await;
    assert!(!muster(&["ps"]).await.contains(&session));
    assert!(muster(&["ps", "--all"]).await.contains(&session));
    assert!(muster(&["workers"]).await.contains("w1"));
    assert_eq!(exit_code(&["status", "no-such-session"]).await, 3);
    farm.finish();
}
