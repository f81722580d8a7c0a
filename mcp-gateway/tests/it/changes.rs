//! What a session changed: pages that join, figures, and what is said when there is nothing.

use std::collections::HashMap;

use muster_proto::{
    error::{Error, ErrorCode},
    v1::{ChangesFormat, ChangesSummary, SessionStatus},
};
use serde_json::{Value, json};

use crate::{
    fake_controller::Changes,
    farm::{Farm, text},
};

async fn farm_with(patch: &str, status: SessionStatus) -> Farm {
    let farm = Farm::start().await;
    farm.fake().add("work-1", status);
    let texts = HashMap::from([
        (ChangesFormat::Stat, " a.rs | 3 ++-\n".to_owned()),
        (ChangesFormat::Patch, patch.to_owned()),
        (ChangesFormat::Commits, "0123456 Fix it\n".to_owned()),
    ]);
    let summary = ChangesSummary {
        branch: "muster/work-1".into(),
        base_commit: "b".repeat(40),
        head_commit: "c".repeat(40),
        work_commit: "c".repeat(40),
        files_changed: 1,
        lines_added: 2,
        lines_deleted: 1,
        commits: 1,
        ..Default::default()
    };
    farm.fake().set_changes("work-1", Changes { texts, summary, error: None });
    farm
}

async fn read(farm: &Farm, arguments: Value) -> Value {
    let mut arguments = arguments;
    arguments["sessionId"] = json!("work-1");
    farm.ok("get_session_changes", arguments).await
}

#[tokio::test]
async fn the_figures_come_with_every_format_and_stat_is_the_default() {
    let farm = farm_with("+x\n", SessionStatus::Completed).await;
    for (arguments, format, shown) in [
        (json!({}), "stat", " a.rs | 3 ++-\n"),
        (json!({"format": "patch"}), "patch", "+x\n"),
        (json!({"format": "commits"}), "commits", "0123456 Fix it\n"),
    ] {
        let page = read(&farm, arguments).await;
        assert_eq!((&page["format"], &page["text"]), (&json!(format), &json!(shown)));
        assert_eq!((&page["sessionId"], &page["branch"]), (&json!("work-1"), &json!("muster/work-1")));
        assert_eq!((&page["filesChanged"], &page["commits"]), (&json!(1), &json!(1)));
        assert_eq!((&page["linesAdded"], &page["linesDeleted"]), (&json!(2), &json!(1)));
        assert_eq!((&page["uncommitted"], &page["untrusted"]), (&json!(false), &json!(true)));
        for absent in ["keptRef", "nextCursor", "truncated", "note"] {
            assert!(page.get(absent).is_none(), "{absent} in {page}");
        }
        assert!(page["next"].as_str().expect("a hint").contains("muster fetch work-1"), "{page}");
    }
    let result = farm.result("get_session_changes", json!({"sessionId": "work-1"})).await;
    let text = text(&result);
    let begins =
        "[branch muster/work-1: 1 files, +2 -1, 1 commits]\n<session_output session=\"work-1\" nonce=\"";
    assert!(text.starts_with(begins) && text.contains("\n a.rs"), "{text}");
}

#[tokio::test]
async fn what_is_not_committed_is_named_with_the_ref_that_keeps_it() {
    let farm = farm_with("+x\n", SessionStatus::Working).await;
    let kept = "refs/muster/019aab00-0000-7000-8000-000000000001/work";
    let mut changes = farm.fake().state().changes["work-1"].clone();
    changes.summary.work_commit = "d".repeat(40);
    changes.summary.kept_ref = kept.into();
    farm.fake().set_changes("work-1", changes);
    let page = read(&farm, json!({})).await;
    assert_eq!((&page["uncommitted"], &page["keptRef"]), (&json!(true), &json!(kept)));
    assert!(page["note"].as_str().expect("a note").contains("may change"), "{page}");
    assert!(page.get("next").is_none(), "{page}");
}

#[tokio::test]
async fn pages_join_to_the_whole_and_paths_are_passed_on() {
    let whole: String = (0..1200).map(|line| format!("+zeile {line} äöü\n")).collect();
    let farm = farm_with(&whole, SessionStatus::Completed).await;
    let (mut all, mut cursor) = (String::new(), Value::Null);
    for round in 0.. {
        assert!(round < 60, "an endless loop");
        let page = read(
            &farm,
            json!({"format": "patch", "paths": ["src", "a b"], "maxChars": 1001, "cursor": cursor}),
        )
        .await;
        let text = page["text"].as_str().expect("text");
        assert!(text.chars().count() <= 1001);
        all.push_str(text);
        if page.get("nextCursor").is_none() {
            assert!(page.get("truncated").is_none());
            break;
        }
        assert_eq!(page["truncated"], true);
        cursor = page["nextCursor"].clone();
    }
    assert_eq!(all, whole);
    let asked = farm.fake().state().asked_changes[0].clone();
    assert_eq!((asked.paths, asked.limit_bytes), (vec!["src".to_owned(), "a b".to_owned()], 1001));
    let first = read(&farm, json!({"format": "patch"})).await;
    assert!(first["text"].as_str().expect("text").len() <= 20_000);
    assert!(first["note"].as_str().expect("a note").contains("go on with cursor"), "{first}");
}

#[tokio::test]
async fn nothing_changed_is_said() {
    let farm = farm_with("", SessionStatus::Working).await;
    farm.fake().set_changes("work-1", Changes::default());
    assert_eq!(read(&farm, json!({})).await["note"], "it changed nothing yet");
    farm.fake().finish("work-1", SessionStatus::Completed, "");
    assert_eq!(read(&farm, json!({})).await["note"], "it changed nothing");
}

#[tokio::test]
async fn refusals_have_a_code_and_a_way_on() {
    let farm = farm_with("", SessionStatus::Completed).await;
    farm.fake().add("plain-2", SessionStatus::Completed);
    let error = farm.error("get_session_changes", json!({"sessionId": "plain-2"})).await;
    assert!(error.starts_with("no_changes_kept: ") && error.contains("get_session_output"), "{error}");
    for (code, begins, way) in [
        (ErrorCode::GitFailed, "git_failed: ", "quotes git"),
        (ErrorCode::PushNotAllowed, "push_not_allowed: ", "muster fetch"),
        (ErrorCode::WorkerUnreachable, "worker_unreachable: ", "call again"),
        (ErrorCode::InvalidCursor, "invalid_cursor: ", "without cursor"),
    ] {
        let error = Some(Error::new(code, "it did not work"));
        farm.fake().set_changes("work-1", Changes { error, ..Changes::default() });
        let error = farm.error("get_session_changes", json!({"sessionId": "work-1"})).await;
        assert!(error.starts_with(begins) && error.contains(way), "{error}");
    }
    let error = farm.error("get_session_changes", json!({"sessionId": "none-9"})).await;
    assert!(error.starts_with("session_not_found: "), "{error}");
}
