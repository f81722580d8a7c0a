//! What the gateway says: sessions as JSON, output as text or events.
//!
//! Pure: no I/O, no clock but the one passed in. Everything here that came from a session is another agent's
//! words and is cleaned of what could act on a terminal or hide from a reader.

pub(crate) mod attention;
pub(crate) mod events;
pub(crate) mod lines;
mod text;
mod tool_call;
mod transcript;
pub(crate) mod view;

pub use text::sanitise;
pub(crate) use text::{cut_end, cut_middle, fenced, json_len, nonce};
pub use transcript::Transcript;

/// `SESSION_STATUS_NEEDS_ATTENTION` -> `needs_attention`.
pub(crate) fn wire_name(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase()
}

/// RFC 3339 to the second: nine digits of a fraction cost a model tokens and tell it nothing.
pub(crate) fn time(time: &impl std::fmt::Display) -> String {
    let text = time.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}
