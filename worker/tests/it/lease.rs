//! Leases and fences: what a worker that is cut off may still do, and what becomes of it when it is back.

use std::fs;

use muster_proto::v1::{
    Decision, EndReason, StartSession, StopAttempt, connect_response, session_event::Body,
};

use crate::support::{Controller, Machine, answer, git, message, start_order};

async fn farm(lease_ms: u32) -> (Controller, Machine) {
    let controller = Controller::start().await;
    controller.seen.lock().expect("no test panicked").lease_ms = lease_ms;
    let mut machine = Machine::new(&controller);
    machine.start().await;
    (controller, machine)
}

fn bound(handle: &str, prompt: &str) -> StartSession {
    StartSession { lease_bound: true, ..start_order(handle, prompt) }
}

fn deaf(controller: &Controller, deaf: bool) {
    controller.seen.lock().expect("no test panicked").deaf = deaf;
}

#[tokio::test]
async fn heartbeats_are_numbered_and_keep_a_bound_session_alive_past_its_first_lease() {
    let (controller, _machine) = farm(1500).await;
    let start = bound("bound-abcdef", "permission touch x");
    controller.start_session(&start).await;
    let attention = controller.attention(&start).await;
    // Three leases long.
    controller.until("heartbeats", |seen| (seen.heartbeats.len() > 45).then_some(())).await;
    let numbered = controller.until("numbers", |seen| Some(seen.heartbeats.clone())).await;
    assert!(numbered.iter().zip(1..).all(|(seq, expected)| *seq == expected), "{numbered:?}");
    controller.input(&start, 2, answer(&attention, Decision::Deny, "no")).await;
    let end = controller.ended(&start).await.end.expect("set");
    assert_eq!(end.reason(), EndReason::TurnCompleted, "{end:?}");
}

#[tokio::test]
async fn a_worker_that_is_not_answered_ends_what_is_bound_and_nothing_else() {
    let (controller, _machine) = farm(1500).await;
    let (bound, free) = (bound("bound-abcdef", "tool"), start_order("free-abcdef", "permission touch x"));
    controller.start_session(&bound).await;
    controller.start_session(&free).await;
    let attention = controller.attention(&free).await;
    controller.event(&bound, "it works", |body| matches!(body, Body::TurnStarted(_)).then_some(())).await;
    deaf(&controller, true);
    let end = controller.ended(&bound).await.end.expect("set");
    assert_eq!(end.reason(), EndReason::LeaseLapsed, "{end:?}");
    deaf(&controller, false);
    controller.input(&free, 2, answer(&attention, Decision::Deny, "no")).await;
    let end = controller.ended(&free).await.end.expect("set");
    assert_eq!(end.reason(), EndReason::TurnCompleted, "{end:?}");
}

#[tokio::test]
async fn the_lease_ends_a_session_whose_worker_is_dead_and_the_next_worker_tells() {
    let (controller, mut machine) = farm(2000).await;
    let start = bound("orphan-abcdef", "tool");
    controller.start_session(&start).await;
    controller.event(&start, "it works", |body| matches!(body, Body::TurnStarted(_)).then_some(())).await;
    machine.kill();
    crate::support::there(&machine.attempt_dir(&start).join("exit.json")).await;
    machine.start().await;
    let end = controller.ended(&start).await.end.expect("set");
    assert_eq!(end.reason(), EndReason::LeaseLapsed, "{end:?}");
}

#[tokio::test]
async fn a_controller_without_leases_is_served_as_ever() {
    let (controller, _machine) = farm(0).await;
    let start = start_order("plain-abcdef", "say hello");
    controller.start_session(&start).await;
    let end = controller.ended(&start).await.end.expect("set");
    assert_eq!(end.reason(), EndReason::TurnCompleted, "{end:?}");
    assert!(controller.until("heartbeats", |seen| seen.heartbeats.first().copied()).await == 0);
}

#[tokio::test]
async fn a_fenced_attempt_is_ended_and_kept_aside_and_nothing_more_of_it_is_sent() {
    let (controller, mut machine) = farm(60_000).await;
    let start = start_order("fenced-abcdef", "permission touch x");
    controller.start_session(&start).await;
    controller.attention(&start).await;
    let place = machine.state.join("worktrees/fenced-abcdef");
    fs::write(place.join("unsaved.txt"), "work\n").expect("written");
    machine.kill();
    controller.seen.lock().expect("no test panicked").output.remove(&start.session_id);
    controller.seen.lock().expect("no test panicked").hellos.clear();
    machine.start().await;
    controller.until("it is back", |seen| (!seen.hellos.is_empty()).then_some(())).await;
    let fence = StopAttempt { session_id: start.session_id.clone(), attempt: 1, fenced: true };
    controller.order(connect_response::Body::Stop(fence.clone())).await;
    let end = controller.ended(&start).await.end.expect("set");
    assert_eq!(end.reason(), EndReason::Stopped, "{end:?}");
    let aside = machine.state.join("fenced").join(format!("{}-1", start.session_id));
    crate::support::there(&aside.join("attempt-1/journal")).await;
    assert!(fs::metadata(aside.join("spool")).expect("there").len() > 0);
    let story = controller.story(&start);
    assert!(story.last() == Some(&"ended") && !story.contains(&"cleared"), "{story:?}");
    // Its work is in a ref, its branch name is free, and a later attempt may come here again.
    let kept = format!("refs/muster/{}/fenced-1", start.session_id);
    crate::support::until("kept", || {
        !place.exists() && git(&machine.repo, &["branch", "--list", "muster/fenced-abcdef"]).is_empty()
    })
    .await;
    assert_eq!(git(&machine.repo, &["show", &format!("{kept}:unsaved.txt")]), "work");
    let third = StartSession {
        attempt: 3,
        inputs: vec![message(1, "say again")],
        output_base_offset: 5000,
        ..start.clone()
    };
    controller
        .seen
        .lock()
        .expect("no test panicked")
        .output
        .insert(start.session_id.clone(), vec![b' '; 5000]);
    controller.start_session(&third).await;
    let ended = controller.ended(&third).await;
    assert_eq!(ended.end.as_ref().expect("set").reason(), EndReason::TurnCompleted, "{ended:?}");
    assert!(!controller.output(&third, &ended).await.contains("touch x"), "not a byte of the fenced attempt");
    // The order again, late: nothing more happens, and the third stays.
    controller.order(connect_response::Body::Stop(fence)).await;
    let after = start_order("after-abcdef", "say x");
    controller.start_session(&after).await;
    controller.ended(&after).await;
    assert!(machine.state.join("worktrees/fenced-abcdef").exists());
}
