use std::time::Duration;

use muster_proto::v1::{Answer, Decision, SessionSpec};
use serde_json::json;

use super::*;
use crate::agent::claude::protocol;

struct Bench {
    attempt: Attempt,
    now: Instant,
    out: Vec<Effect>,
}

const SESSION: Uuid = Uuid::from_u128(7);

fn input(seq: u64, body: input::Body) -> Input {
    Input { seq, body: Some(body) }
}

fn message(seq: u64) -> Input {
    input(seq, input::Body::Message(format!("message {seq}")))
}

/// With a shim up and the prompt in claude's stdin.
fn bench() -> Bench {
    let start = StartSession {
        attempt: 1,
        inputs: vec![message(1)],
        spec: Some(SessionSpec::default()),
        ..StartSession::default()
    };
    let now = Instant::now();
    let mut attempt = Attempt::new(start, SESSION, 0, Usage::default(), Timing::default(), now, None);
    let effects = attempt.on_workspace(Ok(Workspace::default()), now);
    assert_eq!(effects.last(), Some(&Effect::Launch));
    let given = attempt.on_shim_up(&[], now);
    assert!(matches!(&given[..], [Effect::Order(ToShim::Input { seq: 1, .. })]), "{given:?}");
    let mut bench = Bench { attempt, now, out: Vec::new() };
    bench.out = bench.attempt.on_input_written(1, now);
    assert_eq!(bench.applied(), [(1, true)]);
    bench
}

impl Bench {
    fn says(&mut self, line: &serde_json::Value) -> &[Effect] {
        let located = self.attempt.fold.push(format!("{line}\n").as_bytes());
        self.out = self.attempt.on_output(located, 0, self.now);
        &self.out
    }

    fn state(&mut self, state: &str) -> &[Effect] {
        self.says(&json!({"type": "system", "subtype": "session_state_changed", "state": state}))
    }

    /// A whole turn on message `seq`, up to but without its idle.
    fn works_on(&mut self, seq: u64) {
        self.state("running");
        self.says(&json!({"type": "system", "subtype": "init"}));
        let uuid = protocol::message_uuid(&SESSION, seq).to_string();
        self.says(&json!({"type": "user", "message": {"content": "x"}, "uuid": uuid, "isReplay": true}));
    }

    fn result(&mut self) {
        self.says(&json!({"type": "result", "is_error": false, "result": "x"}));
    }

    fn asks(&mut self) -> String {
        self.says(&json!({"type": "control_request", "request_id": "r1",
            "request": {"subtype": "can_use_tool", "tool_name": "Bash", "input": {"command": "ls"}}}));
        let Some(Effect::Emit(_, Body::AttentionRaised(raised))) = self.out.first() else {
            panic!("{:?}", self.out)
        };
        raised.attention.as_ref().expect("set").attention_id.clone()
    }

    fn later(&mut self, after: Duration) -> &[Effect] {
        self.now += after;
        self.out = self.attempt.on_tick(self.now);
        &self.out
    }

    fn applied(&self) -> Vec<(u64, bool)> {
        let applied = |effect: &Effect| match effect {
            Effect::Emit(_, Body::InputApplied(applied)) => Some((applied.seq, applied.delivered)),
            _ => None,
        };
        self.out.iter().filter_map(applied).collect()
    }

    fn given(&self) -> Vec<u64> {
        let given = |effect: &Effect| match effect {
            Effect::Order(ToShim::Input { seq, .. }) => Some(*seq),
            _ => None,
        };
        self.out.iter().filter_map(given).collect()
    }

    fn closes(&self) -> bool {
        self.out.contains(&Effect::Order(ToShim::CloseStdin))
    }

    fn end(&self) -> EndReason {
        let end = self.out.iter().find_map(|effect| match effect {
            Effect::Emit(_, Body::AttemptEnded(ended)) => ended.end.clone(),
            _ => None,
        });
        end.expect("it ended").reason()
    }
}

#[test]
fn stdin_is_closed_at_idle_and_not_at_the_result() {
    let mut bench = bench();
    bench.works_on(1);
    bench.result();
    assert!(!bench.closes());
    bench.state("idle");
    assert!(bench.closes());
    let exit = Exit { code: Some(0), ..Exit::default() };
    bench.out = bench.attempt.on_gone(Some(&exit), &[1], "", bench.now);
    assert_eq!(bench.end(), EndReason::TurnCompleted);
    assert_eq!(bench.out.last(), Some(&Effect::Over));
}

#[test]
fn an_idle_that_belongs_to_the_turn_before_does_not_end_the_session() {
    let mut bench = bench();
    bench.works_on(1);
    bench.out = bench.attempt.on_input(message(2), bench.now);
    assert!(bench.given().is_empty(), "held while claude works");
    bench.result();
    bench.state("idle");
    assert_eq!(bench.given(), [2]);
    bench.out = bench.attempt.on_input_written(2, bench.now);
    // A turn claude began by itself ends before it takes the message.
    bench.state("running");
    bench.state("idle");
    assert!(!bench.closes(), "message 2 was not taken yet");
    bench.works_on(2);
    bench.result();
    bench.state("idle");
    assert!(bench.closes());
}

#[test]
fn a_claude_that_never_says_it_took_the_message_is_idle_after_a_while() {
    let mut bench = bench();
    bench.state("running");
    bench.result();
    bench.state("idle");
    assert!(!bench.closes());
    let wake = bench.attempt.next_wake().expect("it waits");
    assert!(wake <= bench.now + Timing::default().settle);
    bench.later(Timing::default().settle);
    assert!(bench.closes());
}

#[test]
fn an_interrupt_waits_for_the_turn_it_is_for_and_is_void_without_one() {
    let mut bench = bench();
    bench.out = bench.attempt.on_input(input(2, input::Body::Interrupt(true)), bench.now);
    assert!(bench.given().is_empty(), "the turn has not begun");
    bench.state("running");
    assert_eq!(bench.given(), [2]);
    bench.out = bench.attempt.on_input_written(2, bench.now);
    bench.works_on(1);
    bench.result();
    bench.state("idle");
    bench.out = bench.attempt.on_input(input(3, input::Body::Interrupt(true)), bench.now);
    assert!(bench.applied().is_empty() && bench.given().is_empty(), "it is being ended");
}

#[test]
fn an_answer_is_given_once_and_only_to_an_open_question() {
    let mut bench = bench();
    bench.works_on(1);
    let attention_id = bench.asks();
    let answer = |seq| {
        let decision = Decision::Allow.into();
        let answer = Answer { attention_id: attention_id.clone(), decision, ..Answer::default() };
        input(seq, input::Body::Answer(answer))
    };
    bench.out = bench.attempt.on_input(answer(2), bench.now);
    assert_eq!(bench.given(), [2]);
    bench.out = bench.attempt.on_input(answer(3), bench.now);
    assert_eq!(bench.applied(), [(3, false)], "the first is on its way");
    bench.out = bench.attempt.on_input_written(2, bench.now);
    assert!(matches!(bench.out[0], Effect::Emit(_, Body::AttentionCleared(_))));
    assert_eq!(bench.applied(), [(2, true)]);
    bench.out = bench.attempt.on_input(answer(4), bench.now);
    assert_eq!(bench.applied(), [(4, false)], "it is answered");
    bench.out = bench.attempt.on_input(answer(2), bench.now);
    assert_eq!((bench.applied(), bench.given()), (vec![(2, true)], vec![]), "a repetition is only confirmed");
    assert_eq!(bench.attempt.last_input(), 4);
}

#[test]
fn what_a_broken_connection_lost_is_given_again_and_what_it_did_not_is_not() {
    let mut bench = bench();
    bench.works_on(1);
    let attention_id = bench.asks();
    let decision = Decision::Allow.into();
    let answer = Answer { attention_id, decision, ..Answer::default() };
    bench.attempt.on_input(input(2, input::Body::Answer(answer)), bench.now);
    let mut known = Vec::new();
    for (journal, given) in [(vec![1], vec![2]), (vec![1, 2], vec![])] {
        bench.out = bench.attempt.on_shim_up(&journal, bench.now);
        assert_eq!(bench.given(), given);
        known.extend(bench.applied());
    }
    assert_eq!(known, [(2, true)]);
}

#[test]
fn a_stop_goes_step_by_step_and_an_idle_shortens_the_first() {
    let mut bench = bench();
    bench.works_on(1);
    bench.out = bench.attempt.on_stop(bench.now);
    assert_eq!(bench.given(), [0], "an interrupt of the worker's own");
    bench.state("idle");
    assert!(bench.closes());
    let timing = Timing::default();
    bench.later(timing.close_grace);
    assert_eq!(bench.out, [Effect::Order(ToShim::Signal(15))]);
    bench.later(timing.term_grace);
    assert_eq!(bench.out, [Effect::Order(ToShim::KillTree)]);
    bench.later(timing.kill_grace);
    assert_eq!(bench.out, [Effect::KillShim]);
    bench.out = bench.attempt.on_gone(None, &[1], "", bench.now);
    assert_eq!(bench.end(), EndReason::Stopped);
}

#[test]
fn a_stop_before_claude_runs_starts_nothing() {
    let start = StartSession { attempt: 1, inputs: vec![message(1)], ..StartSession::default() };
    let now = Instant::now();
    let mut attempt = Attempt::new(start, SESSION, 0, Usage::default(), Timing::default(), now, None);
    assert_eq!(attempt.on_stop(now), [Effect::EndSetup]);
    let out = attempt.on_workspace(Ok(Workspace::default()), now);
    let bench = Bench { attempt, now, out };
    assert_eq!(bench.end(), EndReason::Stopped);
    assert!(!bench.out.contains(&Effect::Launch));
}

#[test]
fn a_stop_skips_the_queue_of_what_waits_to_begin() {
    let start = || StartSession { attempt: 1, inputs: vec![message(1)], ..StartSession::default() };
    let now = Instant::now();
    let attempt = || Attempt::new(start(), SESSION, 0, Usage::default(), Timing::default(), now, None);
    let mut waits = attempt();
    assert!(waits.on_wait(now).is_empty());
    let out = waits.on_stop(now);
    assert_eq!(Bench { attempt: waits, now, out }.end(), EndReason::Stopped);
    // Stopped while its workspace was made, and only then there was no room.
    let mut stopped = attempt();
    assert!(stopped.on_wait(now).is_empty());
    stopped.on_turn();
    assert_eq!(stopped.on_stop(now), [Effect::EndSetup], "something is under way");
    let out = stopped.on_wait(now);
    assert_eq!(Bench { attempt: stopped, now, out }.end(), EndReason::Stopped);
}

#[test]
fn silence_is_a_hang_only_while_nothing_explains_it() {
    let silence = Timing::default().silence;
    let mut bench = bench();
    bench.works_on(1);
    bench.asks();
    assert!(bench.later(silence * 2).is_empty(), "it waits for us");
    bench.says(&json!({"type": "control_cancel_request", "request_id": "r1"}));
    bench.says(&json!({"type": "assistant", "message": {"content": [{"type": "tool_use", "id": "t", "name": "Bash"}]}}));
    assert!(bench.later(silence * 2).is_empty(), "a tool runs");
    bench.says(
        &json!({"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t"}]}}),
    );
    bench.later(silence);
    assert_eq!(bench.given(), [0]);
    bench.out = bench.attempt.on_gone(None, &[1], "", bench.now);
    assert_eq!(bench.end(), EndReason::Hung);
}

#[test]
fn messages_not_given_stay_with_the_controller_and_the_rest_is_void() {
    let mut bench = bench();
    bench.works_on(1);
    bench.attempt.on_input(message(2), bench.now);
    let exit = Exit { signal: Some(9), ..Exit::default() };
    bench.out = bench.attempt.on_gone(Some(&exit), &[1], "", bench.now);
    assert_eq!((bench.applied(), bench.end()), (vec![], EndReason::Killed));
    assert_eq!(bench.attempt.last_input(), 1);
}
