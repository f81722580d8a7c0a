//! The API as a client sees it, byte by byte.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::scenario::{Turn, scripted_prompt};

async fn ask(api: &MessagesApi, prompt: &str, secret: &str) -> String {
    let body = json!({ "model": "m", "stream": true, "tools": [{ "name": "Bash" }],
        "messages": [{ "role": "user", "content": prompt }] })
    .to_string();
    let mut stream = TcpStream::connect(api.address()).await.unwrap();
    let head = format!(
        "POST /v1/messages?beta=true HTTP/1.1\r\nhost: x\r\nx-api-key: {secret}\r\nconnection: close\r\n\
         x-claude-code-session-id: s1\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A dropped connection may be reset: what came before counts.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_turn_is_streamed_in_the_order_the_real_api_has() {
    let api = MessagesApi::start(Scenario::default()).await.unwrap();
    let turn = Turn { thinking: Some("hm".to_owned()), text: Some("hi".to_owned()), ..Turn::bash("true") };
    let answer = ask(&api, &scripted_prompt("go", &[turn]), "sk-secret").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    let names: Vec<&str> = answer.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    let block = ["content_block_start", "content_block_delta", "content_block_stop"];
    assert_eq!(names[..3], ["message_start", "content_block_start", "content_block_delta"]);
    assert_eq!(names.iter().filter(|name| **name == block[2]).count(), 3);
    assert_eq!(names[names.len() - 2..], ["message_delta", "message_stop"]);
    assert!(answer.contains(r#""stop_reason":"tool_use""#));
    let record = api.log().wait_for(Duration::from_secs(5), |record| record.main).await;
    assert_eq!((record.session.as_str(), record.marker.as_str(), record.index), ("s1", "script", Some(0)));
    assert_eq!(record.headers["x-api-key"], "***");
}

#[tokio::test]
async fn errors_and_broken_connections_are_played() {
    let api = MessagesApi::start(Scenario::default()).await.unwrap();
    let limited = Turn {
        headers: [("retry-after".to_owned(), "3".to_owned())].into(),
        ..Turn::failing(429, "rate_limit_error")
    };
    let answer = ask(&api, &scripted_prompt("a", &[limited]), "k").await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(answer.contains("retry-after: 3\r\n") && answer.contains("rate_limit_error"), "{answer}");

    let drop = MessagesApi::start(Scenario::default()).await.unwrap();
    let turns =
        [Turn { drop: true, ..Turn::default() }, Turn { drop_mid: true, ..Turn::text("x".repeat(400)) }];
    assert_eq!(ask(&drop, &scripted_prompt("b", &turns), "k").await, "");
    let broken = ask(&drop, &scripted_prompt("b", &turns), "k").await;
    assert!(broken.contains("content_block_delta") && !broken.contains("message_stop"), "{broken}");
}

#[tokio::test]
async fn a_script_that_cannot_be_read_is_told_to_its_author() {
    let api = MessagesApi::start(Scenario::default()).await.unwrap();
    let answer = ask(&api, "[[script]][{\"txt\":1}]", "k").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("unknown field"), "{answer}");
}
