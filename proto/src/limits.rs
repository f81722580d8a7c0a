//! Bounds that both ends of the wire must agree on. A value past one is refused with the field and the limit named.

/// Longest prompt or message, in bytes of UTF-8.
pub const PROMPT_BYTES: usize = 2 << 20;
/// Largest gRPC message either side takes, in bytes: a prompt, its envelope, and room.
pub const MESSAGE_BYTES: usize = 8 << 20;
/// Largest data of one output chunk, in bytes.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Longest title, in characters.
pub const TITLE_CHARS: usize = 120;
/// Most labels of one session.
pub const LABELS: usize = 32;
/// Longest label key or value, in bytes.
pub const LABEL_BYTES: usize = 128;
/// Longest request id, in bytes of printable ASCII.
pub const REQUEST_ID_BYTES: usize = 128;
/// Longest branch name or ref, in bytes.
pub const REF_BYTES: usize = 255;
/// Most allowed-tool rules of one session.
pub const ALLOWED_TOOLS: usize = 128;
/// Longest allowed-tool rule, in bytes.
pub const ALLOWED_TOOL_BYTES: usize = 512;
/// Longest result text kept with a session, in bytes.
pub const RESULT_TEXT_BYTES: usize = 64 << 10;
/// Longest line of activity, in characters.
pub const ACTIVITY_CHARS: usize = 160;
/// Most sessions one list answer holds.
pub const LIST_LIMIT: u32 = 500;
/// Lowest and highest priority of a session.
pub const PRIORITIES: std::ops::RangeInclusive<i32> = -10..=10;
/// Most inputs of one session that wait to be delivered.
pub const PENDING_INPUTS: usize = 64;
