//! The one place that turns our errors into MCP results.
//!
//! Everything a model should read goes out as a tool result with `isError` and the text `code: what happened.
//! what to do next`: a JSON-RPC error would reach it mangled or not at all. No structured content: clients
//! check that against the output schema and would drop the message.

use muster_proto::error::{Error, ErrorCode};
use rmcp::model::{CallToolResult, ContentBlock, JsonObject, MetaObject};
use serde_json::Value;

use crate::render::view::one_line;

/// Key of the error code in `_meta`, for programs.
pub(crate) const META_ERROR: &str = "muster/error";

/// The result a failed call gives.
pub(crate) fn to_result(error: &Error) -> CallToolResult {
    let mut meta = JsonObject::new();
    meta.insert(META_ERROR.to_owned(), Value::String(error.code_name()));
    meta.insert("muster/retryable".to_owned(), Value::Bool(error.retryable()));
    let mut result = CallToolResult::error(vec![ContentBlock::text(to_text(error))]);
    result.meta = Some(MetaObject(meta));
    result
}

/// Longest message, in characters.
const MESSAGE_CHARS: usize = 600;

/// How a message begins that leaves out its subject, the field.
const PREDICATES: [&str; 5] = ["is ", "has ", "holds ", "names ", "begins "];

/// The argument callers know for a field of the wire.
fn argument(field: &str) -> &str {
    match field {
        "session" | "sessions" => "sessionId",
        "statuses" => "status",
        "updatedInputJson" => "updatedInput",
        "fromOffset" => "cursor",
        "limitBytes" => "maxChars",
        "message" => "text",
        other => other,
    }
}

/// `code: what happened. what to do next.`
pub(crate) fn to_text(error: &Error) -> String {
    // It may quote what git or claude said, and that what a session wrote: one short line of plain text.
    let message = one_line(&error.message, MESSAGE_CHARS).unwrap_or_default();
    let message = message.trim_end_matches('.');
    let field = argument(&error.field);
    let what = if field.is_empty() || message.contains(field) || message.contains(&error.field) {
        message.to_owned()
    } else if PREDICATES.iter().any(|verb| message.starts_with(verb)) {
        format!("`{field}` {message}")
    } else {
        format!("{message} (argument `{field}`)")
    };
    let mut text = format!("{}: {what}.", error.code_name());
    let hint = if error.hint.is_empty() { default_hint(error.code) } else { &error.hint };
    if !hint.is_empty() {
        text.push(' ');
        let mut characters = hint.chars();
        text.extend(characters.next().into_iter().flat_map(char::to_uppercase));
        text.push_str(characters.as_str().trim_end_matches('.'));
        text.push('.');
    }
    text
}

/// What to do next where the error itself does not say.
const fn default_hint(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::InvalidArgument => "correct the argument and call again; nothing was changed",
        ErrorCode::SessionNotFound => "call list_sessions to see the sessions there are",
        ErrorCode::AmbiguousSession => "give the whole sessionId",
        ErrorCode::ProjectNotFound => "name a project that a connected worker serves, or add it to a worker",
        ErrorCode::RequestIdConflict => "use a new requestId for a new request",
        ErrorCode::AttentionPending => {
            "call get_session_status to see what it waits on, and answer that first"
        }
        ErrorCode::AttentionStale => "call get_session_status to see what it waits on now",
        ErrorCode::SessionRunning => "call stop_session first, or wait_for_completion",
        ErrorCode::SessionEnded => "spawn_session starts a new one",
        ErrorCode::InvalidCursor => "call again without cursor",
        ErrorCode::TrustNotAllowed => {
            "call again without trustMode, or allow it for this project in the worker's configuration"
        }
        ErrorCode::LimitReached => "call again later",
        ErrorCode::StoreUnavailable => {
            "nothing was changed; free disk space or repair the state folder, then call again"
        }
        ErrorCode::ControllerUnavailable => "call again in a moment",
        ErrorCode::WorkerUnreachable => "the session may still run there; call again in a moment",
        ErrorCode::NoChangesKept => {
            "there is no branch to compare; get_session_output shows what the session did"
        }
        ErrorCode::PushNotAllowed => {
            "bring the branch into a clone with `muster fetch` and push it from there, or allow pushes for \
             this project in the worker's configuration"
        }
        ErrorCode::GitFailed => "the message quotes git; put right what it names, then call again",
        ErrorCode::WorkerNotFound => "name a worker that has joined",
        ErrorCode::Unauthenticated => "give the gateway an access token that the controller knows",
        ErrorCode::PermissionDenied => "your role or token does not allow this; ask whoever runs the farm",
        ErrorCode::PolicyRefused => {
            "call again within what the project allows, or ask whoever runs the farm to allow more"
        }
        ErrorCode::TreeLimit => {
            "do this piece yourself; or archive sessions of this tree that are done, when it is their number"
        }
        ErrorCode::VersionMismatch => "upgrade the older side",
        ErrorCode::Internal => "this is a defect in muster; its log says more",
        // A newer controller may know more.
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_names_code_what_and_what_next() {
        let error = Error::invalid("maxTurns", "it must be a whole number");
        assert_eq!(
            to_text(&error),
            "invalid_argument: it must be a whole number (argument `maxTurns`). Correct the argument and \
             call again; nothing was changed."
        );
        let error = Error::invalid("limit", "is 501, more than the 500 allowed").hint("less");
        assert_eq!(to_text(&error), "invalid_argument: `limit` is 501, more than the 500 allowed. Less.");
        let error = Error::new(ErrorCode::SessionNotFound, "no session \"x\"").hint("closest: fix-1");
        assert_eq!(to_text(&error), "session_not_found: no session \"x\". Closest: fix-1.");
        let result = to_result(&error);
        assert_eq!(result.is_error, Some(true));
        assert!(result.structured_content.is_none());
        assert_eq!(result.meta.expect("meta").0[META_ERROR], "session_not_found");
    }
}
