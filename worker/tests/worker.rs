//! The whole worker against a controller and a scripted claude.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use muster_proto::v1::{
    AttentionReason, BundleQuery, ChangesFormat, ChangesQuery, Decision, EndReason, ErrorCode, PushQuery,
    ReleaseWorkspace, StartSession, Workspace, answer_query_request, connect_response, input,
    session_event::Body, workspace_query::Ask,
};

mod support;
use support::{Controller, Machine, answer, git, message, start_order};

async fn farm() -> (Controller, Machine) {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    machine.start().await;
    (controller, machine)
}

fn alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

/// That the input was written is told by another way than what claude made of it: a fast one may be ahead.
fn assert_one_turn(story: &[&str]) {
    let mut told = story.to_vec();
    let applied = told.iter().position(|kind| *kind == "applied").expect("told");
    told.remove(applied);
    assert_eq!(told, ["workspace", "started", "turn", "ended"], "{story:?}");
    assert!((1..story.len() - 1).contains(&applied), "{story:?}");
}

async fn file(path: &Path) -> String {
    let until = Instant::now() + support::LONG;
    loop {
        if let Ok(text) = fs::read_to_string(path) {
            return text;
        }
        assert!(Instant::now() < until, "never: {}", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_prompt_is_worked_on_in_a_worktree_and_ends_completed() {
    let (controller, machine) = farm().await;
    let start = start_order("hello-abcdef", "write made.txt");
    controller.start_session(&start).await;
    let ended = controller.ended(&start).await;
    let end = ended.end.as_ref().expect("set");
    assert_eq!((end.reason(), end.exit_code), (EndReason::TurnCompleted, Some(0)), "{end:?}");
    assert!(ended.resumable && ended.result_text == "made.txt");
    let usage = ended.attempt_usage.expect("set");
    assert_eq!((usage.turns, usage.input_tokens, usage.output_tokens), (1, 10, 5));
    assert_one_turn(&controller.story(&start));
    let output = controller.output(&start, &ended).await;
    assert_eq!(output.len() as u64, ended.spool_end_offset);
    assert!(output.lines().all(|line| line.starts_with('{')), "{output}");
    let place = machine.state.join("worktrees/hello-abcdef");
    assert_eq!(fs::read_to_string(place.join("made.txt")).expect("there"), "written\n");
    assert!(!machine.repo.join("made.txt").exists());
    assert_eq!(git(&place, &["rev-parse", "--abbrev-ref", "HEAD"]), "muster/hello-abcdef");
    let hello = controller.until("a hello", |seen| seen.hellos.first().cloned()).await;
    assert_eq!((hello.claude_version.as_str(), hello.held.len()), ("9.9.9", 0));
    assert!(hello.projects[0].git);
}

#[tokio::test]
async fn a_permission_is_raised_answered_and_cleared() {
    let (controller, _machine) = farm().await;
    let start = start_order("ask-abcdef", "permission touch x");
    controller.start_session(&start).await;
    let attention = controller.attention(&start).await;
    assert_eq!(attention.reason(), AttentionReason::Permission);
    assert!(attention.since.is_some());
    let stale = muster_proto::v1::Attention { attention_id: "a99999".to_owned(), ..attention.clone() };
    controller.input(&start, 2, answer(&stale, Decision::Allow, "")).await;
    assert!(!controller.applied(&start, 2).await.0);
    controller.input(&start, 3, answer(&attention, Decision::AllowAlways, "")).await;
    assert_eq!(controller.applied(&start, 3).await, (true, String::new()));
    let ended = controller.ended(&start).await;
    assert!(ended.result_text.contains(r#""updatedInput":{"command":"touch x"}"#), "{}", ended.result_text);
    assert!(ended.result_text.contains(r#""destination":"session""#), "{}", ended.result_text);
    let story = controller.story(&start);
    assert_eq!(story.iter().filter(|kind| **kind == "cleared").count(), 1, "{story:?}");
}

#[tokio::test]
async fn questions_and_plans_are_answered() {
    let (controller, _machine) = farm().await;
    let question = start_order("question-abcdef", "question");
    controller.start_session(&question).await;
    let attention = controller.attention(&question).await;
    controller.input(&question, 2, answer(&attention, Decision::Unspecified, "Oracle")).await;
    assert_eq!(controller.ended(&question).await.result_text, r#"{"Which DB?":"Oracle"}"#);
    let plan = start_order("plan-abcdef", "plan");
    controller.start_session(&plan).await;
    let attention = controller.attention(&plan).await;
    assert_eq!(attention.reason(), AttentionReason::PlanApproval);
    controller.input(&plan, 2, answer(&attention, Decision::Deny, "smaller")).await;
    assert_eq!(controller.ended(&plan).await.result_text, "smaller");
}

#[tokio::test]
async fn a_message_to_a_working_session_is_its_next_turn_and_a_repeated_one_is_not_given_again() {
    let (controller, _machine) = farm().await;
    let start = start_order("turns-abcdef", "permission one");
    controller.start_session(&start).await;
    let attention = controller.attention(&start).await;
    controller.input(&start, 2, input::Body::Message("say two".to_owned())).await;
    controller.input(&start, 3, answer(&attention, Decision::Deny, "no")).await;
    controller.input(&start, 2, input::Body::Message("say two".to_owned())).await;
    let ended = controller.ended(&start).await;
    assert_eq!(ended.result_text, "two");
    assert_eq!(ended.attempt_usage.expect("set").turns, 2);
    assert!(controller.applied(&start, 2).await.0);
    let output = controller.output(&start, &ended).await;
    assert_eq!(output.matches("\"say two\"").count(), 1);
}

#[tokio::test]
async fn a_later_attempt_resumes_the_conversation_in_the_same_place_and_spool() {
    let (controller, machine) = farm().await;
    let first = start_order("again-abcdef", "say one");
    controller.start_session(&first).await;
    let end = controller.ended(&first).await;
    let second =
        StartSession { attempt: 2, resume: true, inputs: vec![message(2, "say two")], ..first.clone() };
    controller.start_session(&second).await;
    let ended = controller.ended(&second).await;
    assert_eq!(ended.result_text, "two");
    assert_eq!(ended.attempt_usage.expect("set").turns, 1, "sums begin again");
    assert!(ended.spool_end_offset > end.spool_end_offset);
    let output = controller.output(&second, &ended).await;
    assert!(output.contains("say one") && output.contains("say two"));
    let argv = fs::read_to_string(machine.home.join("argv.log")).expect("there");
    let argv: Vec<&str> = argv.lines().collect();
    assert!(argv[0].contains(&format!("--session-id={}", first.session_id)));
    assert!(argv[1].contains(&format!("--resume={}", first.session_id)));
    // The same order again, and an older one, change nothing.
    controller.start_session(&second).await;
    controller.start_session(&first).await;
    let third = start_order("other-abcdef", "say three");
    controller.start_session(&third).await;
    controller.ended(&third).await;
    assert_eq!(controller.story(&second).iter().filter(|kind| **kind == "ended").count(), 1);
}

#[tokio::test]
async fn a_conversation_that_was_never_written_down_begins_again_with_the_prompt() {
    let (controller, machine) = farm().await;
    let first = start_order("forgets-abcdef", "say one");
    controller.start_session(&first).await;
    controller.ended(&first).await;
    fs::write(machine.home.join("forgets"), "").expect("written");
    let second =
        StartSession { attempt: 2, resume: true, inputs: vec![message(2, "and two")], ..first.clone() };
    controller.start_session(&second).await;
    let ended = controller.ended(&second).await;
    let end = ended.end.as_ref().expect("set");
    assert_eq!((end.reason(), &*ended.result_text), (EndReason::TurnCompleted, "one\n\nand two"), "{end:?}");
    let story = controller.story(&second);
    assert_eq!(story.iter().filter(|kind| **kind == "turn").count(), 1, "{story:?}");
    let argv = fs::read_to_string(machine.home.join("argv.log")).expect("there");
    let begins: Vec<bool> = argv.lines().map(|line| line.contains("--session-id=")).collect();
    assert_eq!(begins, [true, false, true]);
    assert!(!controller.output(&second, &ended).await.is_empty());
}

#[tokio::test]
async fn failures_end_with_their_reason() {
    let (controller, _machine) = farm().await;
    for (prompt, reason, says) in [
        ("fail 529", EndReason::TurnFailed, "API Error: 529"),
        ("exit 3", EndReason::ExitedWithoutResult, "going down"),
    ] {
        let start = start_order(&format!("fails-{}", prompt.replace(' ', "-")), prompt);
        controller.start_session(&start).await;
        let end = controller.ended(&start).await.end.expect("set");
        assert_eq!(end.reason(), reason, "{end:?}");
        assert!(end.message.contains(says), "{end:?}");
    }
    let mut start = start_order("no-ref-abcdef", "say x");
    start.spec.as_mut().expect("set").r#ref = "nowhere".to_owned();
    controller.start_session(&start).await;
    let ended = controller.ended(&start).await;
    assert_eq!(ended.end.as_ref().expect("set").reason(), EndReason::WorkspaceFailed);
    assert!(!ended.resumable);
    let mut start = start_order("trust-abcdef", "say x");
    start.spec.as_mut().expect("set").trust_mode = true;
    controller.start_session(&start).await;
    let end = controller.ended(&start).await.end.expect("set");
    assert_eq!(end.reason(), EndReason::StartFailed);
    assert!(end.message.contains("trust mode"), "{end:?}");
}

#[tokio::test]
async fn an_interrupt_ends_the_turn_and_a_message_that_waits_begins_the_next() {
    let (controller, machine) = farm().await;
    let start = start_order("interrupt-abcdef", "tool");
    controller.start_session(&start).await;
    let tool = file(&machine.state.join("worktrees/interrupt-abcdef/tool")).await;
    controller.input(&start, 2, input::Body::Interrupt(true)).await;
    let ended = controller.ended(&start).await;
    assert_eq!(ended.end.expect("set").reason(), EndReason::Interrupted);
    assert!(!alive(&tool));

    let start = start_order("interrupt-2-abcdef", "tool");
    controller.start_session(&start).await;
    file(&machine.state.join("worktrees/interrupt-2-abcdef/tool")).await;
    controller.input(&start, 2, input::Body::Message("say after".to_owned())).await;
    controller.input(&start, 3, input::Body::Interrupt(true)).await;
    let ended = controller.ended(&start).await;
    assert_eq!(ended.end.expect("set").reason(), EndReason::TurnCompleted);
    assert_eq!(ended.result_text, "after");
}

#[tokio::test]
async fn a_stop_leaves_nothing_running_whatever_the_tool_does() {
    let (controller, machine) = farm().await;
    for (handle, prompt) in [
        ("stop-1-abcdef", "tool"),
        ("stop-2-abcdef", "tool stubborn"),
        ("stop-3-abcdef", "linger"),
        ("stop-4-abcdef", "hide"),
    ] {
        let start = start_order(handle, prompt);
        controller.start_session(&start).await;
        let tool = if prompt == "linger" {
            controller
                .event(&start, "the result", |body| matches!(body, Body::TurnEnded(_)).then_some(()))
                .await;
            "0".to_owned()
        } else {
            let name = if prompt == "hide" { "hidden" } else { "tool" };
            file(&machine.state.join("worktrees").join(handle).join(name)).await
        };
        controller.stop(&start).await;
        let ended = controller.ended(&start).await;
        assert_eq!(ended.end.expect("set").reason(), EndReason::Stopped);
        assert!(!alive(&tool), "{prompt}");
        assert!(machine.attempt_dir(&start).join("exit.json").exists());
        // The shim's last act, after its last word.
        gone(&machine.attempt_dir(&start).join("cgroup")).await;
    }
    let unknown = start_order("never-abcdef", "say x");
    controller.stop(&unknown).await;
    assert_eq!(controller.ended(&unknown).await.end.expect("set").reason(), EndReason::WorkerLost);
}

#[tokio::test]
async fn a_claude_that_does_not_leave_after_its_turn_is_made_to() {
    let (controller, _machine) = farm().await;
    let start = start_order("linger-abcdef", "linger");
    controller.start_session(&start).await;
    let end = controller.ended(&start).await.end.expect("set");
    assert_eq!((end.reason(), end.signal), (EndReason::TurnCompleted, Some(9)));
}

/// Waits until a file or folder is gone.
async fn gone(path: &Path) {
    let until = Instant::now() + support::LONG;
    while path.symlink_metadata().is_ok() {
        assert!(Instant::now() < until, "still there: {}", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_claude_leaves_in_its_temporary_folder_goes_with_the_attempt() {
    let (controller, mut machine) = farm().await;
    let start = start_order("litter-abcdef", "litter");
    controller.start_session(&start).await;
    let folder = controller.ended(&start).await.result_text;
    let folder = Path::new(&folder);
    assert!(folder.starts_with(machine.state.join("tmp")), "{}", folder.display());
    gone(folder).await;
    // Left by a worker that was killed before it came to that, beside one that is in use.
    let waits = start_order("litter-2-abcdef", "permission x");
    controller.start_session(&waits).await;
    controller.attention(&waits).await;
    machine.kill();
    fs::create_dir(folder).expect("created");
    machine.start().await;
    gone(folder).await;
    assert_eq!(fs::read_dir(machine.state.join("tmp")).expect("there").count(), 1, "what is in use stays");
    controller.until("a second hello", |seen| seen.hellos.get(1).cloned()).await;
    controller.stop(&waits).await;
    controller.ended(&waits).await;
}

#[tokio::test]
async fn silence_while_working_is_a_hang_and_a_deadline_a_time_out() {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    machine.config.timing.silence = Duration::from_millis(700);
    machine.start().await;
    let start = start_order("hang-abcdef", "silent");
    controller.start_session(&start).await;
    assert_eq!(controller.ended(&start).await.end.expect("set").reason(), EndReason::Hung);
    let (controller, _machine) = farm().await;
    let mut start = start_order("late-abcdef", "permission x");
    let deadline = std::time::SystemTime::now() + Duration::from_secs(1);
    start.deadline = Some(muster_proto::time::from_system(deadline));
    controller.start_session(&start).await;
    assert_eq!(controller.ended(&start).await.end.expect("set").reason(), EndReason::TimedOut);
}

#[tokio::test]
async fn a_killed_worker_finds_its_sessions_again() {
    let (controller, mut machine) = farm().await;
    let waits = start_order("waits-abcdef", "permission one");
    let works = start_order("works-abcdef", "tool");
    controller.start_session(&waits).await;
    controller.start_session(&works).await;
    let attention = controller.attention(&waits).await;
    let tool = file(&machine.state.join("worktrees/works-abcdef/tool")).await;
    machine.kill();
    assert!(alive(&tool));
    machine.start().await;
    let hello = controller.until("a second hello", |seen| seen.hellos.get(1).cloned()).await;
    let held = hello.held.iter().find(|held| held.session_id == waits.session_id).expect("held");
    assert!(held.running && held.spool_end_offset > 0, "{held:?}");
    controller.input(&waits, 2, answer(&attention, Decision::Deny, "after a restart")).await;
    let ended = controller.ended(&waits).await;
    assert_eq!(ended.end.as_ref().expect("set").reason(), EndReason::TurnCompleted);
    assert!(ended.result_text.contains("after a restart"));
    let output = controller.output(&waits, &ended).await;
    assert_eq!(output.matches("control_request").count(), 1);
    let story = controller.story(&waits);
    assert_eq!(story.iter().filter(|kind| **kind == "asks").count(), 1, "said once: {story:?}");
    controller.stop(&works).await;
    assert_eq!(controller.ended(&works).await.end.expect("set").reason(), EndReason::Stopped);
    assert!(!alive(&tool));
}

#[tokio::test]
async fn a_worker_that_leaves_hands_its_sessions_over_to_the_next() {
    let (controller, mut machine) = farm().await;
    let start = start_order("handover-abcdef", "permission touch x");
    controller.start_session(&start).await;
    let attention = controller.attention(&start).await;
    let pid = file(&machine.attempt_dir(&start).join("shim.pid")).await;
    machine.leave().await;
    assert!(alive(&pid), "its shim goes on");
    machine.start().await;
    controller.until("the next", |seen| (seen.hellos.len() >= 2).then_some(())).await;
    let hello = controller.until("a hello", |seen| seen.hellos.last().cloned()).await;
    assert!(hello.held.len() == 1 && hello.held[0].running, "{hello:?}");
    controller.input(&start, 2, answer(&attention, Decision::Deny, "no")).await;
    assert_eq!(controller.ended(&start).await.end.expect("set").reason(), EndReason::TurnCompleted);
}

#[tokio::test]
async fn what_ended_while_no_worker_ran_is_told_by_the_next() {
    let (controller, mut machine) = farm().await;
    let lost = start_order("lost-abcdef", "tool");
    let gone = start_order("gone-abcdef", "tool");
    for start in [&lost, &gone] {
        controller.start_session(start).await;
        file(&machine.state.join("worktrees").join(&start.handle).join("tool")).await;
    }
    machine.kill();
    let shim = |start: &StartSession| -> i32 {
        fs::read_to_string(machine.attempt_dir(start).join("shim.pid"))
            .expect("there")
            .parse()
            .expect("a number")
    };
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    kill(Pid::from_raw(shim(&lost)), Signal::SIGKILL).expect("killed");
    kill(Pid::from_raw(shim(&gone)), Signal::SIGTERM).expect("told to leave");
    file(&machine.attempt_dir(&gone).join("exit.json")).await;
    machine.start().await;
    assert_eq!(controller.ended(&lost).await.end.expect("set").reason(), EndReason::ShimLost);
    assert_eq!(controller.ended(&gone).await.end.expect("set").reason(), EndReason::Killed);
    for start in [&lost, &gone] {
        let tool = fs::read_to_string(machine.state.join("worktrees").join(&start.handle).join("tool"))
            .expect("there");
        assert!(!alive(&tool), "{}", start.handle);
    }
}

/// Only its control group knows it for what it is: the shim is dead, and it carries no mark.
#[tokio::test]
async fn a_tool_that_hides_does_not_outlive_its_session_whose_shim_was_killed() {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    let (controller, machine) = farm().await;
    let start = start_order("hides-abcdef", "hide");
    controller.start_session(&start).await;
    let hidden = file(&machine.state.join("worktrees/hides-abcdef/hidden")).await;
    let group = machine.attempt_dir(&start).join("cgroup");
    if !group.exists() {
        let text = "SKIPPED: no control group can be made here";
        std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).expect("stderr takes it");
        controller.stop(&start).await;
        controller.ended(&start).await;
        return;
    }
    let folder = fs::read_to_string(&group).expect("there");
    let shim = fs::read_to_string(machine.attempt_dir(&start).join("shim.pid")).expect("there");
    kill(Pid::from_raw(shim.parse().expect("a number")), Signal::SIGKILL).expect("killed");
    assert_eq!(controller.ended(&start).await.end.expect("set").reason(), EndReason::ShimLost);
    assert!(!alive(&hidden), "{hidden}");
    assert!(!Path::new(&folder).exists() && !group.exists(), "{folder}");
}

#[tokio::test]
async fn events_not_acknowledged_are_told_again_after_a_restart() {
    let (controller, mut machine) = farm().await;
    controller.seen.lock().expect("fine").silent = true;
    let start = start_order("unacked-abcdef", "say x");
    controller.start_session(&start).await;
    controller.ended(&start).await;
    machine.leave().await;
    controller.seen.lock().expect("fine").events.clear();
    controller.seen.lock().expect("fine").silent = false;
    machine.start().await;
    controller.ended(&start).await;
    assert_one_turn(&controller.story(&start));
}

#[tokio::test]
async fn a_release_keeps_the_work_and_forgets_the_session() {
    let (controller, mut machine) = farm().await;
    let start = start_order("release-abcdef", "write made.txt");
    controller.start_session(&start).await;
    controller.ended(&start).await;
    let order = ReleaseWorkspace {
        session_id: start.session_id.clone(),
        workspace: Some(Workspace::default()),
        project: "p".to_owned(),
    };
    controller.order(connect_response::Body::Release(order)).await;
    let released = controller
        .event(&start, "the release", |body| match body {
            Body::WorkspaceReleased(released) => Some(released.clone()),
            _ => None,
        })
        .await;
    assert_eq!(released.error, "");
    let workspace = released.workspace.expect("set");
    assert_eq!(git(&machine.repo, &["show", &format!("{}:made.txt", workspace.kept_ref)]), "written");
    assert!(!machine.state.join("worktrees/release-abcdef").exists());
    let session = machine.state.join("sessions").join(&start.session_id);
    // The controller has the output.
    gone(&session.join("spool")).await;
    assert!(!session.join("attempt-1").exists() && session.join("session.json").exists());
    machine.leave().await;
    machine.start().await;
    let hello = controller.until("a second hello", |seen| seen.hellos.get(1).cloned()).await;
    assert!(hello.held.is_empty());
}

#[tokio::test]
async fn the_transcript_stays_with_the_session_after_its_release() {
    let (controller, machine) = farm().await;
    let start = start_order("transcript-abcdef", "transcript x");
    controller.start_session(&start).await;
    controller.ended(&start).await;
    let session = machine.state.join("sessions").join(&start.session_id);
    let kept = session.join("transcripts").join(&start.session_id);
    support::there(&kept.join("tool-results/t1.txt")).await;
    let order = ReleaseWorkspace { session_id: start.session_id.clone(), ..ReleaseWorkspace::default() };
    controller.order(connect_response::Body::Release(order)).await;
    gone(&session.join("spool")).await;
    fs::remove_dir_all(machine.home.join(".claude")).expect("claude cleans up");
    assert_eq!(fs::read_to_string(kept.with_extension("jsonl")).expect("kept"), "{}\n");
    assert_eq!(fs::read_to_string(kept.join("tool-results/t1.txt")).expect("kept"), "much");
}

/// The spool is not synced while a session works; what is lost of it was acknowledged by the controller, or by nobody.
#[tokio::test]
async fn output_that_a_power_cut_took_keeps_its_place_and_what_follows_gets_another() {
    let (controller, mut machine) = farm().await;
    let first = start_order("power-abcdef", "say one");
    controller.start_session(&first).await;
    let ended = controller.ended(&first).await;
    let before = controller.output(&first, &ended).await;
    machine.leave().await;
    let spool = machine.state.join("sessions").join(&first.session_id).join("spool");
    let file = fs::File::options().write(true).open(&spool).expect("there");
    file.set_len(ended.spool_end_offset - 100).expect("cut off");
    machine.start().await;
    let until = Instant::now() + support::LONG;
    while file.metadata().expect("there").len() < ended.spool_end_offset {
        assert!(Instant::now() < until, "the spool is never brought up to the replica");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second =
        StartSession { attempt: 2, resume: true, inputs: vec![message(2, "say two")], ..first.clone() };
    controller.start_session(&second).await;
    let ended = controller.ended(&second).await;
    let output = controller.output(&second, &ended).await;
    assert!(output.starts_with(&before) && output[before.len()..].contains("say two"));
    assert!(output.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{output}");
}

#[tokio::test]
async fn megabytes_of_output_reach_the_controller_whole() {
    let (controller, machine) = farm().await;
    let start = start_order("noise-abcdef", "noise 20000000");
    controller.start_session(&start).await;
    let ended = controller.ended(&start).await;
    let output = controller.output(&start, &ended).await;
    let spool =
        fs::read(machine.state.join("sessions").join(&start.session_id).join("spool")).expect("there");
    assert!(output.len() > 19_900_000, "{}", output.len());
    assert!(output.as_bytes() == spool, "{} and {} bytes differ", output.len(), spool.len());
}

#[tokio::test]
async fn more_sessions_than_slots_are_refused_with_the_reason() {
    let (controller, _machine) = farm().await;
    let starts: Vec<_> =
        (0..5).map(|number| start_order(&format!("full-{number}"), "permission x")).collect();
    for start in &starts {
        controller.start_session(start).await;
    }
    let end = controller.ended(&starts[4]).await.end.expect("set");
    assert_eq!(end.reason(), EndReason::StartFailed);
    assert!(end.message.contains("no free slot"), "{end:?}");
    for start in &starts[..4] {
        controller.attention(start).await;
        controller.stop(start).await;
        controller.ended(start).await;
    }
}

#[tokio::test]
async fn a_shim_that_cannot_be_run_is_an_end_with_its_reason() {
    let controller = Controller::start().await;
    // Removed under the running worker, as an upgrade in place does for a moment.
    let mut machine = Machine::new(&controller);
    let shim = machine.home.join("shim");
    fs::copy(&machine.config.shim_program, &shim).expect("copied");
    machine.config.shim_program = shim.clone();
    machine.start().await;
    fs::remove_file(&shim).expect("removed");
    let start = start_order("no-shim-abcdef", "say x");
    controller.start_session(&start).await;
    let end = controller.ended(&start).await.end.expect("set");
    assert_eq!(end.reason(), EndReason::StartFailed);
    assert!(end.message.contains("shim program does not start"), "{end:?}");
}

#[tokio::test]
async fn what_a_session_changed_is_told_fetched_and_pushed_only_where_that_is_allowed() {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    git(machine.repo.parent().expect("set"), &["init", "-q", "--bare", "origin"]);
    git(&machine.repo, &["remote", "add", "origin", "../origin"]);
    machine.start().await;
    let start = start_order("changes-abcdef", "write made.txt");
    controller.start_session(&start).await;
    controller.ended(&start).await;
    let format = ChangesFormat::Stat as u32;
    let changes = Ask::Changes(ChangesQuery { format, limit_bytes: 1000, ..ChangesQuery::default() });
    let (body, _, text) = controller.ask(&start, changes).await;
    let answer_query_request::Body::Result(result) = body else { panic!("{body:?}") };
    assert_eq!(text, b"1\t0\tmade.txt\n");
    assert_eq!((result.files_changed, result.lines_added, result.total_bytes), (1, 1, text.len() as u64));
    let (body, _, bundle) = controller.ask(&start, Ask::Bundle(BundleQuery {})).await;
    assert!(matches!(body, answer_query_request::Body::Result(_)), "{body:?}");
    let file = machine.home.join("work.bundle");
    fs::write(&file, bundle).expect("written");
    let heads = git(&machine.repo, &["bundle", "list-heads", file.to_str().expect("text")]);
    assert_eq!(heads, format!("{} {}", result.work_commit, result.kept_ref));
    let push = || Ask::Push(PushQuery { remote: String::new() });
    let (body, said, _) = controller.ask(&start, push()).await;
    let answer_query_request::Body::Error(error) = body else { panic!("{body:?}") };
    assert_eq!(error.code(), ErrorCode::PushNotAllowed, "{said}");
    machine.leave().await;
    machine.config.projects[0].allow_push = true;
    machine.start().await;
    controller.until("a second hello", |seen| seen.hellos.get(1).cloned()).await;
    let (body, said, _) = controller.ask(&start, push()).await;
    let answer_query_request::Body::Result(pushed) = body else { panic!("{body:?}: {said}") };
    assert_eq!(pushed.remote, "origin");
    let origin = machine.repo.parent().expect("set").join("origin");
    assert_eq!(git(&origin, &["rev-parse", "muster/changes-abcdef"]), pushed.head_commit);
}

/// Defunct children of this process that are shims.
fn defunct_shims() -> Vec<String> {
    let own = format!(" Z {} ", std::process::id());
    let stats = fs::read_dir("/proc").expect("there").flatten();
    let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.filter(|stat| stat.contains("muster-shim") && stat.contains(&own)).collect()
}

#[tokio::test]
async fn shims_that_leave_are_reaped() {
    let (controller, machine) = farm().await;
    let start = start_order("reaped-abcdef", "say x");
    controller.start_session(&start).await;
    controller.ended(&start).await;
    let shim = fs::read_to_string(machine.attempt_dir(&start).join("shim.pid")).expect("there");
    let until = Instant::now() + support::LONG;
    while Path::new(&format!("/proc/{shim}")).exists() {
        assert!(Instant::now() < until, "never reaped: {:?}", defunct_shims());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn output_past_the_limit_ends_the_session_with_that_reason() {
    let controller = Controller::start().await;
    let mut machine = Machine::new(&controller);
    machine.config.claude.output_limit_bytes = 200_000;
    machine.start().await;
    let start = start_order("limit-abcdef", "noise 20000000");
    controller.start_session(&start).await;
    let ended = controller.ended(&start).await;
    assert_eq!(ended.end.as_ref().expect("set").reason(), EndReason::OutputLimit);
    assert!(controller.output(&start, &ended).await.len() >= 200_000);
}
