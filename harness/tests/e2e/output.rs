//! What a session said, in every form, and cursors that stay true.

use futures::FutureExt as _;
use muster_harness::{
    fleet::{Claude, TestFleet},
    scenario::{Act, Turn, scripted_prompt},
    seeded::SeededBytes,
};
use serde_json::{Value, json};

use crate::{
    farm::{Farm, side_by_side},
    with_every_claude,
};

with_every_claude!(formats);

async fn formats(claude: Claude) {
    let farm = Farm::with(claude).await;
    let turns = [
        Turn { text: Some("looking around".to_owned()), ..Turn::bash("echo from-the-tool") },
        Turn::text("the answer: ünïcode → 漢字"),
    ];
    let session = farm.spawn("formats", &turns, json!({ "allowedTools": ["Bash"] })).await;
    farm.ended(&session, "completed").await;

    assert_eq!(farm.result(&session).await, "the answer: ünïcode → 漢字");
    let text = whole_text(&farm, &session, 100_000).await;
    // A line longer than a page is cut in its middle, and a page knows nothing of those before it: the words
    // stay all the same.
    let by_small_pages = whole_text(&farm, &session, 150).await;
    for part in
        ["looking around", "echo from-the-tool", "[Bash ok] from-the-tool", "the answer: ünïcode → 漢字"]
    {
        assert!(text.contains(part), "{part:?} is missing in {text}");
        assert!(by_small_pages.contains(part), "{part:?} is missing in {by_small_pages}");
    }

    let events = farm.events(&session).await;
    assert!(events.iter().any(|event| event["type"] == "result" && event["is_error"] == false));
    let raw = raw(&farm, &session, "o0", 100_000).await;
    assert_eq!(raw, self::raw(&farm, &session, "o0", 1_000).await, "the size of a page changes no byte");
    let lines =
        raw.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    assert_eq!(lines.count(), events.len(), "every raw line of JSON is an event");

    // A cursor from before the next turn leads exactly to what the next turn adds.
    let end = format!("o{}", raw.len());
    farm.send(&session, json!({ "text": scripted_prompt("more", &[Turn::text("added later")]) })).await;
    farm.ended(&session, "completed").await;
    let added = self::raw(&farm, &session, &end, 5_000).await;
    let longer = self::raw(&farm, &session, "o0", 100_000).await;
    assert_eq!([raw, added.clone()].concat(), longer);
    assert!(String::from_utf8_lossy(&added).contains("added later"));

    let tail = json!({ "sessionId": session, "format": "raw", "tailLines": 1 });
    let tail = farm.ok("get_session_output", tail).await;
    assert!(tail["text"].as_str().is_some_and(|text| longer.ends_with(text.as_bytes())), "{tail}");
    farm.finish();
}

async fn whole_text(farm: &Farm, session: &str, page: u64) -> String {
    let mut text = String::new();
    let mut cursor = Value::from("o0");
    loop {
        let ask = json!({ "sessionId": session, "format": "text", "cursor": cursor, "maxChars": page });
        let answer = farm.ok("get_session_output", ask).await;
        text.push_str(answer["text"].as_str().unwrap_or_default());
        if answer["eof"] == true {
            return text;
        }
        assert_ne!(answer["nextCursor"], cursor, "a page must lead on: {answer}");
        cursor = answer["nextCursor"].clone();
    }
}

/// All bytes from a cursor on, by pages.
async fn raw(farm: &Farm, session: &str, from: &str, page: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut cursor = Value::from(from);
    loop {
        let ask = json!({ "sessionId": session, "format": "raw", "cursor": cursor, "maxChars": page });
        let answer = farm.ok("get_session_output", ask).await;
        match (&answer["text"], &answer["base64"]) {
            (Value::String(text), _) => bytes.extend_from_slice(text.as_bytes()),
            (_, Value::String(coded)) => bytes.extend(decoded(coded)),
            _ => {}
        }
        if answer["eof"] == true {
            return bytes;
        }
        assert_ne!(answer["nextCursor"], cursor, "a page must lead on: {answer}");
        cursor = answer["nextCursor"].clone();
    }
}

/// Base64, as the standard has it.
fn decoded(coded: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0_u32, 0_u32);
    for letter in coded.bytes().filter(|letter| *letter != b'=') {
        let value = LETTERS.iter().position(|known| *known == letter).expect("a letter of base64");
        bits = bits << 6 | u32::try_from(value).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).unwrap());
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_of_a_flood_arrives_in_order() {
    const COUNT: u64 = 5_000_000;
    let farm = Farm::build(TestFleet::builder()).await;
    let bytes = async {
        let turns = [Turn::act(Act::Bytes { seed: 42, count: COUNT }), Turn::text("flooded")];
        let session = farm.spawn("flood", &turns, json!({})).await;
        farm.ended(&session, "completed").await;
        assert_eq!(farm.result(&session).await, "flooded");
        let all = raw(&farm, &session, "o0", 100_000).await;
        let expected = SeededBytes::take(42, usize::try_from(COUNT).unwrap());
        let start = all.windows(64).position(|window| window == &expected[..64]).expect("the flood begins");
        assert!(all[start..start + expected.len()] == expected[..], "a byte was lost or altered");
    };
    let lines = async {
        let turns =
            [Turn::act(Act::Lines { count: 20_000, width: 80, interval_ms: 0 }), Turn::text("counted")];
        let session = farm.spawn("lines", &turns, json!({})).await;
        farm.ended(&session, "completed").await;
        let all = raw(&farm, &session, "o0", 100_000).await;
        let text = String::from_utf8(all).unwrap();
        let mut next = 0;
        for line in text.lines().filter(|line| line.contains("\"line ")) {
            assert!(
                line.contains(&format!("\"line {next} ")),
                "line {next} is not where it should be: {line}"
            );
            next += 1;
        }
        assert_eq!(next, 20_000);
    };
    side_by_side(vec![bytes.boxed(), lines.boxed()]).await;
    farm.finish();
}
