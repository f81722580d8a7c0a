use muster_proto::v1::{AttentionReason, attention::Ask};
use proptest::prelude::*;

use super::*;

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("../testdata/", $name, ".jsonl"))
    };
}

const BASE: u64 = 5000;

fn fold(bytes: &[u8]) -> (Fold, Vec<Located>) {
    let mut fold = Fold::new(BASE, Usage::default());
    let events = fold.push(bytes);
    (fold, events)
}

/// The events that change what a session is, each as a word.
fn story(events: &[Located]) -> Vec<String> {
    let word = |event: &AgentEvent| match event {
        AgentEvent::TurnStarted { permission_mode, .. } => Some(format!("started {permission_mode}")),
        AgentEvent::AttentionRaised(attention) => {
            Some(format!("asks {}", attention.reason().as_str_name().trim_start_matches("ATTENTION_REASON_")))
        }
        AgentEvent::AttentionCleared { .. } => Some("cleared".to_owned()),
        AgentEvent::TurnEnded(turn) => Some(match (turn.is_error, turn.interrupted) {
            (_, true) => "interrupted".to_owned(),
            (true, _) => format!("failed {:?}", turn.api_error_status),
            (false, _) => "ended".to_owned(),
        }),
        AgentEvent::Idle => Some("idle".to_owned()),
        AgentEvent::Decline(_) => Some("declined".to_owned()),
        AgentEvent::MessageTaken { .. } | AgentEvent::Activity(_) => None,
    };
    events.iter().filter_map(|located| word(&located.event)).collect()
}

#[test]
fn the_recommended_run_tells_question_plan_permission_and_interrupt() {
    let (fold, events) = fold(golden!("recommended_run"));
    let expected = [
        "started default",
        "asks INPUT",
        "cleared",
        "asks PLAN_APPROVAL",
        "cleared",
        "asks PERMISSION",
        "cleared",
        "ended",
        "idle",
        "started default",
        // The sample's host called its interrupt req_1, not what this worker calls its own.
        "failed None",
        "idle",
    ];
    assert_eq!(story(&events), expected);
    assert_eq!(fold.usage().turns, 2);
    assert_eq!((fold.usage().input_tokens, fold.usage().output_tokens), (60, 30));
    assert!((fold.usage().cost_usd - 0.00105).abs() < 1e-9);
    assert!(fold.has_begun() && !fold.is_running() && !fold.waits_for_answer() && !fold.runs_tool());
    let taken = events.iter().filter(|located| matches!(located.event, AgentEvent::MessageTaken { .. }));
    assert_eq!(taken.count(), 2);
    let last = fold.last_result().expect("one");
    assert!(last.is_error && last.text == "error during execution", "{}", last.text);
}

#[test]
fn our_own_interrupt_is_recognised_by_its_id() {
    let text = String::from_utf8(golden!("recommended_run").to_vec())
        .expect("text")
        .replace("req_1\"", "interrupt-7\"");
    let (fold, events) = fold(text.as_bytes());
    assert_eq!(story(&events).iter().rev().nth(1).map(String::as_str), Some("interrupted"));
    assert!(fold.last_result().is_some_and(|turn| turn.interrupted));
}

#[test]
fn an_attention_is_named_by_the_offset_of_its_line_and_says_what_is_asked() {
    let bytes = golden!("session_permission_stdio");
    let (_, events) = fold(bytes);
    let mut seen = 0;
    for located in &events {
        let AgentEvent::AttentionRaised(attention) = &located.event else { continue };
        let offset: u64 = attention.attention_id[1..].parse().expect("a number");
        let line = &bytes[usize::try_from(offset - BASE).expect("small")..];
        assert!(line.starts_with(br#"{"type": "control_request""#));
        let Some(Ask::Permission(ask)) = &attention.ask else { panic!("a permission") };
        assert!(!ask.tool_name.is_empty() && !ask.summary.is_empty());
        assert!(serde_json::from_str::<Value>(&ask.input_json).is_ok());
        assert_eq!(attention.reason(), AttentionReason::Permission);
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn questions_and_plans_are_told_in_full() {
    let (_, events) = fold(golden!("session_ask_user_question"));
    let ask = events.iter().find_map(|located| match &located.event {
        AgentEvent::AttentionRaised(attention) => attention.ask.clone(),
        _ => None,
    });
    let Some(Ask::Input(ask)) = ask else { panic!("an input") };
    assert!(!ask.questions.is_empty() && !ask.questions[0].options.is_empty());

    let (_, events) = fold(golden!("session_plan_mode"));
    let plan = events.iter().find_map(|located| match &located.event {
        AgentEvent::AttentionRaised(attention) => match &attention.ask {
            Some(Ask::Plan(plan)) => Some(plan.plan.clone()),
            _ => None,
        },
        _ => None,
    });
    assert!(plan.is_some_and(|plan| plan.starts_with('#')));
}

#[test]
fn a_result_is_judged_by_is_error_and_carries_the_status() {
    for (bytes, status, text) in [
        (&golden!("api_400")[..], Some(400), "API Error: 400"),
        (golden!("api_401"), Some(401), "Invalid API key"),
        (golden!("ev_max_turns"), None, "maximum number of turns"),
        (golden!("ev_max_budget"), None, "maximum budget"),
        (golden!("api_refusal"), None, ""),
    ] {
        let (fold, events) = fold(bytes);
        let turn = fold.last_result().expect("a result");
        assert!(turn.is_error && turn.text.contains(text), "{turn:?}");
        assert_eq!(turn.api_error_status, status);
        assert_eq!(story(&events).last().map(String::as_str), Some("idle"));
    }
    let (fold, events) = fold(golden!("api_529_once"));
    assert!(!fold.last_result().expect("a result").is_error);
    let retry = |located: &Located| matches!(&located.event, AgentEvent::Activity(text) if text.contains("retry 1 of"));
    assert!(events.iter().any(retry));
}

#[test]
fn background_work_starts_turns_by_itself() {
    let (fold, events) = fold(golden!("ev_bg_bash"));
    assert_eq!(story(&events), ["started default", "ended", "idle", "started default", "ended", "idle"]);
    assert_eq!(fold.usage().turns, 2);
}

#[test]
fn two_results_before_idle_are_one_stretch_of_work() {
    let (_, events) = fold(golden!("ev_queued_messages"));
    assert_eq!(story(&events), ["started default", "ended", "ended", "idle"]);
}

#[test]
fn a_claude_without_state_events_is_idle_at_its_result() {
    let text = String::from_utf8(golden!("api_400").to_vec()).expect("text");
    let kept: String =
        text.lines().filter(|line| !line.contains("session_state")).flat_map(|line| [line, "\n"]).collect();
    let (_, events) = fold(kept.as_bytes());
    assert_eq!(story(&events), ["started default", "failed Some(400)", "idle"]);
}

#[test]
fn an_answer_written_clears_the_question_once() {
    let bytes = golden!("session_permission_stdio");
    let end = bytes.windows(17).position(|window| window == br#""control_request""#).expect("one");
    let end = end + bytes[end..].iter().position(|byte| *byte == b'\n').expect("one") + 1;
    let (mut fold, events) = fold(&bytes[..end]);
    let Some(AgentEvent::AttentionRaised(attention)) = events.last().map(|located| &located.event) else {
        panic!("asked last")
    };
    assert!(fold.waits_for_answer() && fold.runs_tool());
    assert!(fold.answered("a1").is_none());
    let cleared = AgentEvent::AttentionCleared { attention_id: attention.attention_id.clone() };
    assert_eq!(fold.answered(&attention.attention_id), Some(cleared));
    assert_eq!(fold.answered(&attention.attention_id), None);
}

#[test]
fn an_unknown_request_is_declined_so_that_claude_does_not_wait_for_ever() {
    let line =
        b"{\"type\":\"control_request\",\"request_id\":\"r\",\"request\":{\"subtype\":\"brand_new\"}}\n";
    let (_, events) = fold(line);
    let Some(AgentEvent::Decline(answer)) = events.last().map(|located| &located.event) else {
        panic!("declined")
    };
    let value: Value = serde_json::from_slice(answer).expect("JSON");
    assert_eq!(
        (&value["response"]["subtype"], &value["response"]["request_id"]),
        (&"error".into(), &"r".into())
    );
}

#[test]
fn sums_that_go_on_after_a_resume_are_told_from_sums_that_begin_again() {
    let result = |input: u64, cost: f64| {
        format!(
            r#"{{"type":"result","is_error":false,"result":"x","total_cost_usd":{cost},
            "usage":{{"input_tokens":10,"output_tokens":5}},
            "modelUsage":{{"m":{{"inputTokens":{input},"outputTokens":{}}}}}}}"#,
            input / 2
        )
        .replace('\n', "")
            + "\n"
    };
    let earlier = Usage { turns: 1, input_tokens: 10, output_tokens: 5, cost_usd: 0.25, ..Usage::default() };
    for (first, second) in [(result(20, 0.5), result(30, 0.75)), (result(10, 0.25), result(20, 0.5))] {
        let mut fold = Fold::new(0, earlier);
        fold.push(first.as_bytes());
        assert_eq!((fold.usage().turns, fold.usage().input_tokens, fold.usage().output_tokens), (1, 10, 5));
        assert!((fold.usage().cost_usd - 0.25).abs() < 1e-9);
        fold.push(second.as_bytes());
        assert_eq!((fold.usage().turns, fold.usage().input_tokens), (2, 20));
        assert!((fold.usage().cost_usd - 0.5).abs() < 1e-9);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_split_of_the_bytes_gives_the_same_events(cuts in proptest::collection::vec(0_usize..18_000, 0..40)) {
        let bytes = golden!("recommended_run");
        let (_, whole) = fold(bytes);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut fold = Fold::new(BASE, Usage::default());
        let parts: Vec<Located> = cuts.windows(2).flat_map(|cut| fold.push(&bytes[cut[0]..cut[1]])).collect();
        prop_assert_eq!(parts, whole);
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        fold(&bytes);
    }
}
