//! Which scope a message needs, read from its body before anything else is done with it.
//!
//! Coarse on purpose: what a role may do with which session is the controller's to say. Invariant: whatever changes
//! a session needs `write`; what cannot be read here needs `write` too.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::caller::Scope;

/// Tools that only look.
const READING: [&str; 6] = [
    "get_farm_status",
    "get_session_changes",
    "get_session_output",
    "get_session_status",
    "list_sessions",
    "wait_for_completion",
];

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    /// What the person at the client answered.
    #[serde(borrow, rename = "inputResponses")]
    answers: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Arguments<'a> {
    #[serde(borrow, rename = "trustMode")]
    trust_mode: Option<&'a RawValue>,
    #[serde(borrow, rename = "onAttention")]
    on_attention: Option<&'a RawValue>,
}

fn read<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
}

/// What whoever sends `body` must be allowed.
pub(super) fn needed(body: &[u8]) -> Scope {
    let Ok(message) = serde_json::from_slice::<Message<'_>>(body) else { return Scope::Write };
    match read::<String>(message.method).as_deref() {
        Some("tools/call") => {}
        // Answers to what sessions ask.
        Some("tasks/update") => return Scope::Write,
        // An answer to a question of the server: it may be given to a session.
        None => return Scope::Write,
        Some(_) => return Scope::Read,
    }
    let Some(params) = read::<Params<'_>>(message.params) else { return Scope::Write };
    let name = read::<String>(params.name).unwrap_or_default();
    let arguments: Option<Arguments<'_>> = read(params.arguments);
    let (trust, asks) = arguments.map_or((None, None), |arguments| {
        (read::<bool>(arguments.trust_mode), arguments.on_attention.map(RawValue::get))
    });
    match name.as_str() {
        "spawn_session" if trust == Some(true) => Scope::Trust,
        // The person at the client answers for it.
        "wait_for_completion" if asks.is_some_and(|asks| asks != "null" && asks != "\"return\"") => {
            Scope::Write
        }
        name if READING.contains(&name) && params.answers.is_none() => Scope::Read,
        _ => Scope::Write,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_reads_changing_writes_and_trust_mode_is_trusted() {
        let call = |name: &str, arguments: &str| {
            format!(r#"{{"method":"tools/call","params":{{"name":"{name}","arguments":{arguments}}}}}"#)
        };
        for (body, scope) in [
            (r#"{"method":"tools/list"}"#.to_owned(), Scope::Read),
            (r#"{"method":"resources/read","params":{"uri":"x"}}"#.to_owned(), Scope::Read),
            (r#"{"method":"tasks/get","params":{"taskId":"x"}}"#.to_owned(), Scope::Read),
            (r#"{"method":"tasks/update","params":{"taskId":"x"}}"#.to_owned(), Scope::Write),
            (r#"{"id":1,"result":{"action":"accept"}}"#.to_owned(), Scope::Write),
            (r#"{"method":7}"#.to_owned(), Scope::Write),
            (r#"{"method":"tools/call","params":7}"#.to_owned(), Scope::Write),
            (call("list_sessions", "{}"), Scope::Read),
            (call("wait_for_completion", r#"{"sessionId":"x"}"#), Scope::Read),
            (call("wait_for_completion", r#"{"onAttention":"return"}"#), Scope::Read),
            (call("wait_for_completion", r#"{"onAttention":"ask_user"}"#), Scope::Write),
            (call("wait_for_completion", r#"{"onAttention":"askUser"}"#), Scope::Write),
            (call("spawn_session", r#"{"prompt":"x"}"#), Scope::Write),
            (call("spawn_session", r#"{"prompt":"x","trustMode":true}"#), Scope::Trust),
            (call("spawn_session", r#"{"trustMode":"true"}"#), Scope::Write),
            (call("no_such_tool", "{}"), Scope::Write),
            (call("list_sessions", "{}").replace("\"arguments\"", "\"inputResponses\""), Scope::Write),
        ] {
            assert_eq!(needed(body.as_bytes()), scope, "{body}");
        }
    }

    #[test]
    fn the_tools_that_read_are_those_that_say_so() {
        for tool in crate::tools::definitions() {
            let reads = tool.annotations.as_ref().and_then(|hints| hints.read_only_hint) == Some(true);
            assert_eq!(READING.contains(&tool.name.as_ref()), reads, "{}", tool.name);
        }
    }
}
