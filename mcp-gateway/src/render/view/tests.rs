use std::time::Duration;

use muster_proto::v1::{
    Attention, AttentionReason, InputAsk, PermissionAsk, PlanAsk, Question, QuestionOption, SessionSpec,
    Usage, attention::Ask,
};
use serde_json::{Value, json};

use super::*;

fn session(status: SessionStatus) -> Session {
    Session {
        session_id: "019aab00-0000-7000-8000-000000000001".into(),
        handle: "fix-login-7k2p9x".into(),
        spec: Some(SessionSpec {
            prompt: "Fix the login\nand more".into(),
            project: "api".into(),
            ..Default::default()
        }),
        status: status.into(),
        usage: Some(Usage {
            turns: 2,
            input_tokens: 10,
            output_tokens: 5,
            cost_usd: 0.25,
            ..Default::default()
        }),
        result_text: "done\u{1b}[0m ".repeat(200),
        created_at: Some(muster_proto::time::from_system(
            SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_250),
        )),
        ..Default::default()
    }
}

fn shown(session: &Session, form: Form) -> Value {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1412);
    serde_json::to_value(SessionView::at(session, form, now, "n0nce")).expect("JSON")
}

#[test]
fn concise_is_short_and_full_is_whole() {
    let session = session(SessionStatus::Working);
    let concise = shown(&session, Form::Concise);
    assert_eq!(concise["sessionId"], "fix-login-7k2p9x");
    assert_eq!(concise["title"], "Fix the login");
    assert_eq!(concise["status"], "working");
    assert_eq!(concise["elapsedSeconds"], 412);
    assert_eq!(concise["createdAt"], "1970-01-01T00:16:40Z");
    assert!(concise["resultPreview"].as_str().expect("text").chars().count() < 450);
    assert!(concise.get("tokens").is_none() && concise.get("result").is_none());
    let full = shown(&session, Form::Full);
    assert_eq!(full["tokens"], json!({"input": 10, "output": 5, "cacheRead": 0, "cacheCreation": 0}));
    assert_eq!(full["costUsd"], 0.25);
    assert_eq!(full["result"].as_str().expect("text").len(), 1000);
    for view in [concise, full, shown(&session, Form::Brief)] {
        let text = view.to_string();
        assert!(!text.contains("null") && !text.contains("\\u001b"), "{text}");
    }
}

#[test]
fn an_ended_session_says_why_and_stops_its_clock() {
    let mut session = session(SessionStatus::Failed);
    session.ended_at =
        Some(muster_proto::time::from_system(SystemTime::UNIX_EPOCH + Duration::from_secs(1003)));
    session.end = Some(End {
        reason: EndReason::TurnFailed.into(),
        message: "API error 529".into(),
        exit_code: Some(1),
        api_error_status: Some(529),
        ..Default::default()
    });
    let view = shown(&session, Form::Concise);
    assert_eq!(view["elapsedSeconds"], 3);
    assert_eq!(
        view["end"],
        json!({"reason": "turn_failed", "message": "API error 529", "exitCode": 1, "apiErrorStatus": 529})
    );
    assert!(view["next"].as_str().expect("text").contains("tries again"));
}

#[test]
fn what_blocks_a_session_and_how_often_it_was_interrupted_is_said() {
    let mut session = session(SessionStatus::Working);
    let view = shown(&session, Form::Concise);
    assert!(view.get("blocked").is_none() && view.get("interruptions").is_none(), "{view}");
    "disk_full".clone_into(&mut session.blocked);
    session.interruptions = 2;
    let view = shown(&session, Form::Concise);
    assert_eq!((&view["blocked"], &view["interruptions"]), (&json!("disk_full"), &json!(2)));
    assert!(view["next"].as_str().expect("text").contains("by itself"), "{view}");
    assert_eq!(shown(&session, Form::Brief)["blocked"], "disk_full");
    session.set_status(SessionStatus::Failed);
    assert!(!shown(&session, Form::Concise)["next"].as_str().expect("text").contains("blocked"));
}

#[test]
fn each_kind_of_attention_shows_what_is_asked_and_how_to_answer() {
    let mut session = session(SessionStatus::NeedsAttention);
    let mut shown_for = |reason: AttentionReason, ask: Ask| {
        session.attention = Some(Attention {
            attention_id: "a120".into(),
            reason: reason.into(),
            ask: Some(ask),
            since: None,
        });
        shown(&session, Form::Full)
    };
    let view = shown_for(
        AttentionReason::Permission,
        Ask::Permission(PermissionAsk {
            tool_name: "Bash".into(),
            summary: "git push origin main".into(),
            input_json: r#"{"command":"git push origin main"}"#.into(),
            can_allow_always: true,
            ..Default::default()
        }),
    );
    assert_eq!(view["attentionReason"], "permission");
    assert_eq!(view["attention"]["tool"], "Bash");
    assert_eq!(view["attention"]["input"], json!({"command": "git push origin main"}));
    assert!(view["attention"]["answerWith"].as_str().expect("text").contains("allow_always"));

    let view = shown_for(
        AttentionReason::Input,
        Ask::Input(InputAsk {
            questions: vec![Question {
                question: "Which DB?".into(),
                header: "DB".into(),
                options: vec![QuestionOption { label: "Postgres".into(), description: String::new() }],
                multi_select: false,
            }],
            ..Default::default()
        }),
    );
    assert_eq!(
        view["attention"]["questions"],
        json!([{
            "question": "Which DB?", "header": "DB", "options": [{"label": "Postgres"}],
            "multiSelect": false
        }])
    );

    let view = shown_for(AttentionReason::PlanApproval, Ask::Plan(PlanAsk { plan: "# Plan".into() }));
    assert_eq!(view["attention"]["plan"], "# Plan");
    assert!(view["attention"]["answerWith"].as_str().expect("text").contains("a120"));
}

#[test]
fn what_a_session_said_stands_inside_fences_only() {
    let ask = |ask| {
        let mut session = session(SessionStatus::NeedsAttention);
        let reason = match &ask {
            Ask::Permission(_) => AttentionReason::Permission,
            Ask::Input(_) => AttentionReason::Input,
            Ask::Plan(_) => AttentionReason::PlanApproval,
        };
        let attention =
            Attention { attention_id: "a1".into(), reason: reason.into(), ask: Some(ask), since: None };
        session.attention = Some(attention);
        session
    };
    let evil = || "EVIL".to_owned();
    let mut sessions = vec![
        ask(Ask::Permission(PermissionAsk {
            tool_name: evil(),
            summary: evil(),
            input_json: r#"{"EVIL": "EVIL", "b\u202e": 1}"#.into(),
            decision_reason: evil(),
            can_allow_always: true,
        })),
        ask(Ask::Input(InputAsk {
            questions: vec![Question {
                question: evil(),
                header: evil(),
                options: vec![QuestionOption { label: evil(), description: evil() }],
                multi_select: false,
            }],
            ..InputAsk::default()
        })),
        ask(Ask::Input(InputAsk {
            mcp_server: evil(),
            schema_json: "\"EVIL\"".into(),
            ..InputAsk::default()
        })),
        ask(Ask::Plan(PlanAsk { plan: evil() })),
        session(SessionStatus::Failed),
        session(SessionStatus::Working),
    ];
    for session in &mut sessions {
        session.last_activity = evil();
        session.result_text = evil();
        session.end = Some(End { message: evil(), ..End::default() });
        "disk_full EVIL".clone_into(&mut session.blocked);
        session.blocked.truncate("disk_full".len());
        for form in [Form::Brief, Form::Concise, Form::Full] {
            let text = shown(session, form).to_string();
            assert!(text.contains("EVIL") && !text.contains('\u{202e}'), "{text}");
            // Fences of attention and session do not overlap: outside is every second part.
            let parts: Vec<&str> = text.split("\"n0nce\"").collect();
            assert_eq!(parts.len() % 2, 1, "{text}");
            for outside in parts.iter().step_by(2) {
                assert!(!outside.contains("EVIL"), "{outside}");
            }
        }
    }
}
