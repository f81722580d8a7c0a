//! How an attempt ended, in the words of the contract. Pure.

use muster_proto::v1::{End, EndReason};

use super::phase::Why;
use crate::{agent::TurnResult, shim::files::Exit};

/// Longest message of an end, in characters.
const MESSAGE_CHARS: usize = 2000;

/// Told of an attempt that outlasted its lease.
pub(super) const LEASE_LAPSED: &str = "its worker heard nothing of the controller for as long as its lease, so it was ended there and may start elsewhere";

/// What is known when nothing runs any more.
#[derive(Debug)]
pub(super) struct Known<'a> {
    /// How it left; `None`: the shim is gone and nobody knows.
    pub(super) exit: Option<&'a Exit>,
    /// Why we ended it, if we did.
    pub(super) why: Option<Why>,
    /// The result of the last turn, if that turn has one.
    pub(super) result: Option<&'a TurnResult>,
    /// claude printed something in its protocol.
    pub(super) spoke: bool,
    /// Last lines of its stderr.
    pub(super) stderr: &'a str,
    /// What was too long, for a time-out or a hang.
    pub(super) detail: &'a str,
}

/// An end without a process.
pub(super) fn without_process(reason: EndReason, message: impl Into<String>) -> End {
    End { reason: reason.into(), message: cut(message.into()), ..End::default() }
}

/// The end of an attempt whose shim ran.
pub(super) fn of(known: &Known<'_>) -> End {
    let (reason, message) = judge(known);
    let exit = known.exit;
    End {
        reason: reason.into(),
        message: cut(message),
        exit_code: exit.and_then(|exit| exit.code),
        signal: exit.and_then(|exit| exit.signal),
        api_error_status: known.result.and_then(|result| result.api_error_status),
    }
}

fn judge(known: &Known<'_>) -> (EndReason, String) {
    match known.why {
        Some(Why::Stop) => return (EndReason::Stopped, "stopped on request".to_owned()),
        Some(Why::TimedOut) => return (EndReason::TimedOut, known.detail.to_owned()),
        Some(Why::Hung) => return (EndReason::Hung, known.detail.to_owned()),
        Some(Why::Finish) | None => {}
    }
    if known.exit.is_some_and(|exit| exit.lease_lapsed) {
        return (EndReason::LeaseLapsed, LEASE_LAPSED.to_owned());
    }
    if known.exit.is_some_and(|exit| exit.output_limit) {
        let text = "its output reached the worker's limit for one session; what had come by then is kept";
        return (EndReason::OutputLimit, text.to_owned());
    }
    if let Some(result) = known.result {
        return judge_result(result);
    }
    let Some(exit) = known.exit else {
        let text = "the process that owned this session died; what claude was doing is lost, the conversation is not";
        return (EndReason::ShimLost, text.to_owned());
    };
    if let Some(error) = &exit.start_error {
        return (EndReason::StartFailed, error.clone());
    }
    let complaint = if known.stderr.is_empty() { String::new() } else { format!(": {}", known.stderr) };
    match (exit.signal, exit.code) {
        (Some(signal), _) => (EndReason::Killed, format!("claude was killed by signal {signal}{complaint}")),
        (None, Some(code)) if !known.spoke && code != 0 => {
            (EndReason::StartFailed, format!("claude exited with code {code} before it began{complaint}"))
        }
        (None, code) => {
            let code = code.map_or_else(String::new, |code| format!(" with code {code}"));
            (EndReason::ExitedWithoutResult, format!("claude exited{code} without a result{complaint}"))
        }
    }
}

fn judge_result(result: &TurnResult) -> (EndReason, String) {
    if result.interrupted {
        (EndReason::Interrupted, "interrupted on request".to_owned())
    } else if result.is_error {
        (EndReason::TurnFailed, result.text.clone())
    } else {
        (EndReason::TurnCompleted, "claude finished its turn".to_owned())
    }
}

fn cut(message: String) -> String {
    if message.chars().count() <= MESSAGE_CHARS {
        return message;
    }
    message.chars().take(MESSAGE_CHARS).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known<'a>(exit: Option<&'a Exit>, result: Option<&'a TurnResult>) -> Known<'a> {
        Known { exit, why: None, result, spoke: true, stderr: "", detail: "too long" }
    }

    #[test]
    fn every_end_has_its_reason() {
        let code = |code| Exit { code: Some(code), ..Exit::default() };
        let (zero, one) = (code(0), code(1));
        let killed = Exit { signal: Some(9), ..Exit::default() };
        let fails = Exit { start_error: Some("no such file".into()), ..Exit::default() };
        let much = Exit { output_limit: true, ..killed.clone() };
        let lapsed = Exit { lease_lapsed: true, ..killed.clone() };
        let good = TurnResult::default();
        let bad = TurnResult { is_error: true, text: "API Error: 529".into(), ..TurnResult::default() };
        let cut = TurnResult { is_error: true, interrupted: true, ..TurnResult::default() };
        for (known, reason) in [
            (known(Some(&zero), Some(&good)), EndReason::TurnCompleted),
            (known(Some(&one), Some(&bad)), EndReason::TurnFailed),
            (known(Some(&one), Some(&cut)), EndReason::Interrupted),
            (known(Some(&zero), None), EndReason::ExitedWithoutResult),
            (Known { spoke: false, ..known(Some(&one), None) }, EndReason::StartFailed),
            (known(Some(&killed), None), EndReason::Killed),
            (known(Some(&fails), None), EndReason::StartFailed),
            (known(Some(&much), Some(&good)), EndReason::OutputLimit),
            (known(Some(&lapsed), Some(&good)), EndReason::LeaseLapsed),
            (Known { why: Some(Why::Stop), ..known(Some(&lapsed), None) }, EndReason::Stopped),
            (known(None, None), EndReason::ShimLost),
            (Known { why: Some(Why::Stop), ..known(None, None) }, EndReason::Stopped),
            (Known { why: Some(Why::Hung), ..known(Some(&killed), None) }, EndReason::Hung),
            (Known { why: Some(Why::TimedOut), ..known(Some(&killed), Some(&bad)) }, EndReason::TimedOut),
            // Killed for not leaving after its last turn: the turn counts.
            (Known { why: Some(Why::Finish), ..known(Some(&killed), Some(&good)) }, EndReason::TurnCompleted),
        ] {
            assert_eq!(of(&known).reason(), reason, "{known:?}");
        }
    }

    #[test]
    fn a_start_that_fails_quotes_stderr() {
        let one = Exit { code: Some(1), ..Exit::default() };
        let end = of(&Known { spoke: false, stderr: "error: unknown option", ..known(Some(&one), None) });
        assert_eq!(end.message, "claude exited with code 1 before it began: error: unknown option");
        assert_eq!((end.exit_code, end.signal), (Some(1), None));
    }
}
