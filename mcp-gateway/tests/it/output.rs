//! Reading output: pages that join without a gap, whatever is in them.

use muster_proto::v1::SessionStatus;
use serde_json::{Value, json};

use crate::farm::Farm;

fn said(text: &str) -> String {
    let line = json!({"type": "assistant", "message": {"content": [{"type": "text", "text": text}]}});
    format!("{line}\n")
}

async fn farm_with(output: &str, status: SessionStatus) -> Farm {
    let farm = Farm::start().await;
    farm.fake().add("work-1", status);
    farm.fake().set_output("work-1", output.as_bytes().to_vec());
    farm
}

async fn read(farm: &Farm, arguments: Value) -> Value {
    let mut arguments = arguments;
    arguments["sessionId"] = json!("work-1");
    farm.ok("get_session_output", arguments).await
}

#[tokio::test]
async fn short_output_is_shown_whole_from_the_start() {
    let output = format!("{}{}\u{1b}[?25h", said("one"), said("two"));
    let farm = farm_with(&output, SessionStatus::Completed).await;
    let page = read(&farm, json!({})).await;
    assert_eq!(page["text"], "claude: one\nclaude: two\n");
    assert_eq!(
        (&page["cursor"], &page["eof"], &page["truncated"]),
        (&json!("o0"), &json!(true), &json!(false))
    );
    assert_eq!(page["nextCursor"], format!("o{}", output.len()));
    assert_eq!(page["untrusted"], true);
    let after = read(&farm, json!({"cursor": page["nextCursor"]})).await;
    assert_eq!((&after["text"], &after["eof"]), (&json!(""), &json!(true)));
    assert!(after["note"].as_str().expect("a note").contains("no more output"));
}

#[tokio::test]
async fn a_running_session_is_followed_by_cursor_line_by_line() {
    let first = said("one");
    let farm = farm_with(&format!("{first}{{\"type\":\"assi"), SessionStatus::Working).await;
    let page = read(&farm, json!({})).await;
    assert_eq!((&page["text"], &page["eof"]), (&json!("claude: one\n"), &json!(false)));
    assert_eq!(page["nextCursor"], format!("o{}", first.len()), "an unfinished line waits");
    farm.fake().set_output("work-1", format!("{first}{}", said("two")).into_bytes());
    let page = read(&farm, json!({"cursor": page["nextCursor"]})).await;
    assert_eq!(page["text"], "claude: two\n");
    let page = read(&farm, json!({"cursor": page["nextCursor"]})).await;
    assert_eq!(
        (&page["text"], &page["eof"], &page["note"]),
        (&json!(""), &json!(false), &json!("nothing new yet"))
    );
}

#[tokio::test]
async fn pages_from_the_start_join_to_the_whole() {
    let output: String = (0..500).map(|index| said(&format!("line {index} {}", "x".repeat(200)))).collect();
    let whole: String = (0..500).map(|index| format!("claude: line {index} {}\n", "x".repeat(200))).collect();
    let farm = farm_with(&output, SessionStatus::Completed).await;
    let tail = read(&farm, json!({})).await;
    assert!(whole.ends_with(tail["text"].as_str().expect("text")));
    assert_eq!((&tail["truncated"], &tail["eof"]), (&json!(true), &json!(true)));
    assert!(tail["note"].as_str().expect("a note").contains("o0"));
    for format in ["text", "events"] {
        let mut cursor = json!("o0");
        let mut text = String::new();
        let mut events = 0;
        for _ in 0..200 {
            let page = read(&farm, json!({"cursor": cursor, "format": format, "maxChars": 5000})).await;
            text.push_str(page["text"].as_str().unwrap_or_default());
            events += page["events"].as_array().map_or(0, Vec::len);
            assert!(page.to_string().len() < 12_000);
            if page["eof"] == true {
                break;
            }
            assert_ne!(page["nextCursor"], cursor, "no progress");
            cursor = page["nextCursor"].clone();
        }
        if format == "text" {
            assert_eq!(text, whole);
        } else {
            assert_eq!(events, 500);
        }
    }
}

#[tokio::test]
async fn a_line_of_three_megabytes_is_cut_and_passed() {
    let big = "x".repeat(3 << 20);
    let output = format!("{}{}{}", said("before"), said(&big), said("after"));
    let farm = farm_with(&output, SessionStatus::Completed).await;
    for format in ["text", "events"] {
        let mut cursor = json!("o0");
        let mut seen = String::new();
        for round in 0.. {
            assert!(round < 10, "an endless loop");
            let page = read(&farm, json!({"cursor": cursor, "format": format})).await;
            assert!(page.to_string().len() < 45_000, "{}", page.to_string().len());
            seen.push_str(&page.to_string());
            if page["eof"] == true {
                break;
            }
            cursor = page["nextCursor"].clone();
        }
        assert!(seen.contains("before") && seen.contains("after") && seen.contains("[cut: "), "{format}");
    }
    let tail = read(&farm, json!({"tailLines": 1})).await;
    assert_eq!(tail["text"], "claude: after\n");
    let page = read(&farm, json!({})).await;
    assert!(page["text"].as_str().expect("text").ends_with("claude: after\n"));
}

#[tokio::test]
async fn the_last_lines_are_found_behind_noise() {
    let noise = format!("{}\n", json!({"type": "stream_event", "event": "x".repeat(1000)})).repeat(5000);
    let output = format!("{}{}{noise}", said("one"), said("two"));
    let farm = farm_with(&output, SessionStatus::Working).await;
    let page = read(&farm, json!({"tailLines": 1})).await;
    assert_eq!(page["text"], "claude: two\n");
}

#[tokio::test]
async fn result_is_the_answer_alone() {
    let farm = farm_with(&said("x"), SessionStatus::Working).await;
    let page = read(&farm, json!({"format": "result"})).await;
    assert_eq!((&page["text"], &page["eof"]), (&json!(""), &json!(false)));
    assert!(page["note"].as_str().expect("a note").contains("no answer yet"));
    farm.fake().finish("work-1", SessionStatus::Completed, &"ab\n".repeat(10_000));
    let first = read(&farm, json!({"format": "result"})).await;
    assert_eq!(first["text"].as_str().expect("text").len(), 20_000);
    assert_eq!((&first["eof"], &first["nextCursor"]), (&json!(false), &json!("r20000")));
    let second = read(&farm, json!({"format": "result", "cursor": "r20000"})).await;
    assert_eq!((second["text"].as_str().expect("text").len(), &second["eof"]), (10_000, &json!(true)));
    let last = read(&farm, json!({"format": "result", "tailLines": 2})).await;
    assert_eq!(last["text"], "ab\nab\n");
}

#[tokio::test]
async fn raw_is_the_bytes_as_text_or_base64() {
    let farm = farm_with("a\r\n\u{1b}[0mäöü", SessionStatus::Completed).await;
    let page = read(&farm, json!({"format": "raw"})).await;
    assert_eq!((&page["text"], &page["eof"]), (&json!("a\r\n\u{1b}[0mäöü"), &json!(true)));
    let mut all = String::new();
    let mut cursor = json!("o0");
    farm.fake().set_output("work-1", "ä".repeat(500).into_bytes());
    while all.len() < 1000 {
        let page = read(&farm, json!({"format": "raw", "cursor": cursor, "maxChars": 101})).await;
        all.push_str(page["text"].as_str().expect("whole characters"));
        cursor = page["nextCursor"].clone();
    }
    assert_eq!(all, "ä".repeat(500));
    farm.fake().set_output("work-1", vec![0xff, 0xfe, b'\n']);
    let page = read(&farm, json!({"format": "raw"})).await;
    assert_eq!((&page["base64"], page.get("text")), (&json!("//4K"), None));
}

#[tokio::test]
async fn a_cursor_past_the_end_is_refused() {
    let farm = farm_with("", SessionStatus::Working).await;
    let error = farm.error("get_session_output", json!({"sessionId": "work-1", "cursor": "o99"})).await;
    assert!(error.starts_with("invalid_cursor: "), "{error}");
    let page = read(&farm, json!({})).await;
    assert_eq!((&page["text"], &page["eof"]), (&json!(""), &json!(false)));
}

#[tokio::test]
async fn the_last_bytes_of_an_ended_session_are_waited_for() {
    let farm = farm_with(&said("one"), SessionStatus::Completed).await;
    farm.fake().state().late = said("two").into_bytes();
    let page = read(&farm, json!({})).await;
    assert_eq!((&page["text"], &page["eof"]), (&json!("claude: one\nclaude: two\n"), &json!(true)));
    farm.fake().change("work-1", |session| session.output_end_offset = 0);
    farm.fake().state().output.clear();
    let page = read(&farm, json!({"format": "raw"})).await;
    assert_eq!((&page["text"], &page["eof"]), (&json!(said("two")), &json!(true)));
}
