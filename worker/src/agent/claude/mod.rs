//! Everything that knows Claude Code: its command line, its stream of JSON lines, its questions.
//!
//! Measured on 2.1.197 and 2.1.330. Unknown types and fields pass through; `is_error` is believed, `subtype` is not.

pub mod answer;
pub mod attention;
pub mod command;
pub mod fold;
pub mod lines;
pub mod protocol;
pub mod version;
