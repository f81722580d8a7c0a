use std::{fs, path::PathBuf};

use super::*;

fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/render/testdata").join(name)
}

/// Real output of claude beside the text we make of it. `MUSTER_UPDATE_GOLDEN=1` writes the text anew: read
/// the diff.
#[test]
fn real_sessions_read_as_their_golden_text() {
    for name in [
        "api_401",
        "recommended_run",
        "session_ask_user_question",
        "session_background_agent",
        "session_permission_stdio",
        "session_plan_mode",
    ] {
        let bytes = fs::read(testdata(&format!("{name}.jsonl"))).expect("a sample");
        let text = Transcript::new().push(&bytes);
        let golden = testdata(&format!("{name}.txt"));
        if std::env::var_os("MUSTER_UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &text).expect("writable");
        }
        assert_eq!(text, fs::read_to_string(&golden).expect("a golden text"), "{name}");
    }
}

#[test]
fn text_does_not_depend_on_how_the_bytes_arrive() {
    let bytes = fs::read(testdata("recommended_run.jsonl")).expect("a sample");
    let whole = Transcript::new().push(&bytes);
    for size in [1, 7, 1000] {
        let mut transcript = Transcript::new();
        let pieces: String = bytes.chunks(size).map(|chunk| transcript.push(chunk)).collect();
        assert_eq!(pieces, whole);
    }
}

#[test]
fn strange_lines_harm_nothing() {
    let lines: [&[u8]; 10] = [
        b"\x1b[?25h\x1b[0m",
        b"\r",
        b"[1,2]",
        b"{\"type\":\"rate_limit_event\"}",
        b"{\"type\":7}",
        b"{\"type\":\"assistant\"}",
        b"panic: it \x1b[31mcrashed\x1b[0m\r",
        b"\xff\xfe",
        b"{\"type\":\"user\",\"message\":{\"content\":\"hi\"},\"isReplay\":true}\r",
        b"ull,\"uuid\":\"x\"}\n",
    ];
    let text = Transcript::new().push(&lines.join(b"\n".as_slice()));
    assert_eq!(text, "[1,2]\npanic: it crashed\n\u{fffd}\u{fffd}\nuser: hi\n");
}

#[test]
fn an_answer_of_megabytes_is_shown_once() {
    let big = "x".repeat(3 << 20);
    let mut transcript = Transcript::new();
    let said =
        serde_json::json!({"type": "assistant", "message": {"content": [{"type": "text", "text": big}]}});
    let ended = serde_json::json!({"type": "result", "is_error": false, "result": big, "num_turns": 1});
    let text = transcript.push(format!("{said}\n{ended}\n").as_bytes());
    assert!(text.len() < big.len() + 200, "{}", text.len());
    assert!(text.ends_with("[turn ended] 1 model turn, 0.0000 USD so far\n"));
}
