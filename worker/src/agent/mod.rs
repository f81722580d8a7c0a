//! Talking to an agent program: the shape every driver has. [`claude`] is the only one.
//!
//! A driver is a pure fold: it is fed output bytes with their offsets and yields [`AgentEvent`]s, and it turns inputs
//! into bytes for the program's stdin. It has no clock and does no I/O, so feeding it the same output again after a
//! restart of the worker brings it back to where it was. It never sees processes, files or gRPC.

use muster_proto::v1::{Attention, Usage};

pub mod claude;

/// Something the program's output says.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentEvent {
    /// It began to work on a turn.
    TurnStarted {
        /// Version of the program.
        version: String,
        /// Permission mode it is in.
        permission_mode: String,
    },
    /// It waits for an answer. `since` is unset: a fold has no clock.
    AttentionRaised(Attention),
    /// It does not wait for that answer any more.
    AttentionCleared {
        /// Of the attention.
        attention_id: String,
    },
    /// It took the message with this uuid.
    MessageTaken {
        /// As the worker wrote it.
        uuid: String,
    },
    /// A turn has a result. More may follow before the program is idle.
    TurnEnded(TurnResult),
    /// It has nothing to do until it gets input.
    Idle,
    /// What it is doing, in a line.
    Activity(String),
    /// It asks something this driver does not know; this line for its stdin says so.
    Decline(Vec<u8>),
}

/// An event and the line it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// Offset after the line's newline.
    pub line_end: u64,
    /// What it says.
    pub event: AgentEvent,
}

/// How a turn ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TurnResult {
    /// Sums of this process so far.
    pub usage: Usage,
    /// The turn failed, whatever else the result says.
    pub is_error: bool,
    /// What it said last, or what went wrong.
    pub text: String,
    /// HTTP status of a failed API call.
    pub api_error_status: Option<u32>,
    /// The turn was cut short by an interrupt.
    pub interrupted: bool,
}
