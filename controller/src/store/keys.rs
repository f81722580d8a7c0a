//! Every key the controller writes. A published format: keys and kinds are added, never changed.
//!
//! | key | value ([`super::value::Kind`]) | written |
//! |---|---|---|
//! | `boot` | `Boot`: how often a controller has started here | once per start |
//! | `project/<name>/<worker>` | `Project`, as the worker announced it last | at a Hello that differs |
//! | `worker/<name>` | `Worker`: that it is cordoned or drains | by an operator |
//! | `access/<id>` | `Access`: an access token, without its secret | when made and revoked |
//! | `join/<id>` | `Join`: a join token, without its secret, and who used it | when made, used, revoked |
//! | `joined/<worker>` | `Joined`: the keys a worker may show | when it joins, renews, is revoked |
//! | `task/<caller>/<task id>` | `Task`: a long call of a gateway, and its life | when made and changed, removed when expired |
//! | `declared/<project>` | `Declared`: a project as the operators declared it | when put, then removed |
//! | `session/<id>/fixed` | `Fixed`: what never changes: spec, handle, request id | once |
//! | `session/<id>/state` | `State`: all that changes and is small | with every change |
//! | `session/<id>/input/<seq, 20 digits>` | `Input` not applied (but the prompt) | once, then removed |
//! | `session/<id>/request/<request id>` | `Request`: which input a request id became | once |
//! | `session/<id>/result` | `Result`: text of the last result | with every result |
//!
//! `<id>` is the hyphenated UUID. What is large (prompt, inputs, result) has a key of its own, so that a
//! change of state costs a few hundred bytes.

use muster_proto::ids::SessionId;

/// Counts the starts.
pub const BOOT: &str = "boot";
/// Prefix of all sessions.
pub const SESSIONS: &str = "session/";
/// Prefix of all projects.
pub const PROJECTS: &str = "project/";

/// Prefix of all workers.
pub const WORKERS: &str = "worker/";

/// Prefix of all access tokens.
pub const ACCESS: &str = "access/";

/// Prefix of all tasks.
pub const TASKS: &str = "task/";

/// Prefix of all declared projects.
pub const DECLARED: &str = "declared/";

/// Prefix of all join tokens.
pub const JOINS: &str = "join/";
/// Prefix of all workers that joined.
pub const JOINED: &str = "joined/";

/// A part of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// What never changes.
    Fixed,
    /// What changes.
    State,
    /// A pending input.
    Input(u64),
    /// A request id that was used.
    Request(String),
    /// The last result.
    Result,
}

/// The key of `part` of the session `id`.
#[must_use]
pub fn session(id: SessionId, part: &Part) -> String {
    match part {
        Part::Fixed => format!("{SESSIONS}{id}/fixed"),
        Part::State => format!("{SESSIONS}{id}/state"),
        Part::Input(seq) => format!("{SESSIONS}{id}/input/{seq:020}"),
        Part::Request(request) => format!("{SESSIONS}{id}/request/{request}"),
        Part::Result => format!("{SESSIONS}{id}/result"),
    }
}

/// Reads a key of [`session`] back; none for a key of another shape (of a newer muster).
#[must_use]
pub fn parse_session(key: &str) -> Option<(SessionId, Part)> {
    let (id, part) = key.strip_prefix(SESSIONS)?.split_once('/')?;
    let part = match part.split_once('/') {
        None if part == "fixed" => Part::Fixed,
        None if part == "state" => Part::State,
        None if part == "result" => Part::Result,
        Some(("input", seq)) => Part::Input(seq.parse().ok()?),
        Some(("request", request)) => Part::Request(request.to_owned()),
        _ => return None,
    };
    Some((id.parse().ok()?, part))
}

/// The key of what is kept of a worker.
#[must_use]
pub fn worker(name: &str) -> String {
    format!("{WORKERS}{name}")
}

/// The key of an access token.
#[must_use]
pub fn access(id: &str) -> String {
    format!("{ACCESS}{id}")
}

/// The key of a join token.
#[must_use]
pub fn join(id: &str) -> String {
    format!("{JOINS}{id}")
}

/// The key of a worker that joined.
#[must_use]
pub fn joined(worker: &str) -> String {
    format!("{JOINED}{worker}")
}

/// The key of a task.
#[must_use]
pub fn task(caller: &str, id: &str) -> String {
    format!("{TASKS}{caller}/{id}")
}

/// Reads a key of [`task`] back: caller and id.
#[must_use]
pub fn parse_task(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(TASKS)?.rsplit_once('/')
}

/// The key of a declared project.
#[must_use]
pub fn declared(name: &str) -> String {
    format!("{DECLARED}{name}")
}

/// The key of a project as one worker serves it.
#[must_use]
pub fn project(name: &str, worker: &str) -> String {
    format!("{PROJECTS}{name}/{worker}")
}

/// Reads a key of [`project`] back: name and worker.
#[must_use]
pub fn parse_project(key: &str) -> Option<(&str, &str)> {
    key.strip_prefix(PROJECTS)?.rsplit_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_strange_ones_are_left_alone() {
        let id = SessionId::generate();
        for part in
            [Part::Fixed, Part::State, Part::Input(7), Part::Request("a/b c".to_owned()), Part::Result]
        {
            assert_eq!(parse_session(&session(id, &part)), Some((id, part)));
        }
        assert_eq!(parse_session("session/nonsense/state"), None);
        assert_eq!(parse_session(&format!("session/{id}/later")), None);
        assert_eq!(parse_task(&task("gw/ann", "t-1")), Some(("gw/ann", "t-1")));
        assert_eq!(parse_project(&project("a/b", "w-1")), Some(("a/b", "w-1")));
    }
}
