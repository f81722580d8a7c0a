//! Going on by itself after an interruption that was nobody's wish.
//!
//! Invariant: never after a stop, never past the deadline, and a bounded number of times in a row, so that
//! what kills every attempt does not cost without end. The counts are part of the record.

use muster_proto::v1::{EndReason, input::Body};
use prost_types::Timestamp;

use crate::session::Session;

/// Times in a row a session that lost its shim or its worker goes on.
const LOST: u32 = 3;
/// Times in a row a session that stalled goes on: a second stall is no accident.
const HUNG: u32 = 1;
/// Times in a row a machine goes down under a session before it is held in quarantine.
const CRASHES: u32 = 2;

/// Whether the attempt ended because a turn did.
pub(super) const fn is_end_of_turn(reason: EndReason) -> bool {
    matches!(reason, EndReason::TurnCompleted | EndReason::TurnFailed | EndReason::Interrupted)
}

/// Decides whether a session whose attempt ended for `reason` is queued again by itself, and notes it. It
/// then has something to be given: what was not given yet, or a note of what happened.
pub(super) fn after(session: &mut Session, reason: EndReason, at: Timestamp) -> bool {
    let state = &session.state;
    let (in_a_row, most, why) = match reason {
        EndReason::ShimLost => (state.lost_in_a_row, LOST, "the process around you was lost"),
        EndReason::WorkerLost => (state.lost_in_a_row, LOST, "the worker lost you"),
        EndReason::LeaseLapsed => {
            (state.lost_in_a_row, LOST, "the worker was cut off from the controller for too long")
        }
        EndReason::Hung => (state.hung_in_a_row, HUNG, "nothing came from you for too long"),
        reason => {
            if is_end_of_turn(reason) {
                began_anew(session);
            }
            return false;
        }
    };
    let never_began = !state.conversation && state.prompt_pending;
    if in_a_row >= most || session.can_go_on(at).is_err() || !(state.conversation || never_began) {
        return false;
    }
    let was_cut_off = state.progressed || session.messages().next().is_none();
    if state.conversation && was_cut_off && !session.inputs.contains_key(&state.note) {
        let note = format!(
            "[muster] You were interrupted ({why}). The workspace is as you left it; a tool call that was \
             running was cut off. Go on with the task."
        );
        session.state.note = session.add_input(Body::Message(note)).seq;
    }
    let state = &mut session.state;
    state.lapsed = reason == EndReason::LeaseLapsed;
    state.interruptions += 1;
    if reason == EndReason::Hung {
        state.hung_in_a_row += 1;
    } else {
        state.lost_in_a_row += 1;
    }
    true
}

/// Whether a session that is taken from a lost worker begins once more elsewhere.
pub(super) fn may_go_on_after_loss(session: &Session, at: Timestamp) -> bool {
    session.state.lost_in_a_row < LOST && session.can_go_on(at).is_ok()
}

/// Notes that the machine of an active session runs as `boot`. Another one than when it was placed: it went
/// down under it.
pub(super) fn machine_is_back(session: &mut Session, boot: &str) -> bool {
    let state = &mut session.state;
    if boot.is_empty() || state.boot == boot {
        return false;
    }
    if !state.boot.is_empty() {
        state.crashes_in_a_row += 1;
    }
    boot.clone_into(&mut state.boot);
    true
}

/// Whether it waits until somebody says to go on: what takes its machine down each time is not given a third.
pub(super) const fn is_quarantined(session: &Session) -> bool {
    session.state.crashes_in_a_row >= CRASHES
}

/// A turn ended or a caller asked for more: what came before is no pattern any more.
pub(super) const fn began_anew(session: &mut Session) {
    session.state.lost_in_a_row = 0;
    session.state.hung_in_a_row = 0;
    session.state.crashes_in_a_row = 0;
}
