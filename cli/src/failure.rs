//! How a command ends: an exit code that scripts can rely on, and an error that says what to do next.

use std::{error::Error as StdError, process::ExitCode};

use muster_proto::error::{Error, ErrorCode};

/// Exit codes of every command; documented in `muster --help` and `docs/cli.md`. Numbers never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It did what it says.
    Ok = 0,
    /// It did not, for a reason that has no code of its own.
    Failed = 1,
    /// The command line or the configuration cannot be taken as it is (clap uses the same number).
    Usage = 2,
    /// No such session, project or worker.
    NotFound = 3,
    /// `wait`: a session failed or was stopped.
    SessionFailed = 4,
    /// `wait`: a session waits for an answer.
    NeedsAttention = 5,
    /// No controller answers.
    Unreachable = 6,
    /// `wait --timeout`: the time passed (the number of timeout(1)).
    TimedOut = 124,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed. Printed once, by `main`.
#[derive(Debug)]
pub struct Failure {
    /// What the process ends with.
    pub exit: Exit,
    /// What went wrong, to what. Lowercase, no full stop. Empty: nothing is printed.
    pub what: String,
    /// From the nearest cause to the root.
    pub causes: Vec<String>,
    /// What to do next; may be empty.
    pub hint: String,
}

impl Failure {
    /// A failure without cause and hint.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), causes: Vec::new(), hint: String::new() }
    }

    /// Something about the command line or configuration.
    pub fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// Ends the process with a code and no words: the reader of our output has left, or all is said.
    pub fn silent(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// Adds `error` and everything it comes from, leaving out what repeats.
    pub fn caused_by(mut self, error: &dyn StdError) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            let known = |seen: &String| seen.contains(&text);
            if !text.is_empty() && !self.what.contains(&text) && !self.causes.iter().any(known) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Says what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.code {
            ErrorCode::InvalidArgument | ErrorCode::AmbiguousSession | ErrorCode::InvalidCursor => {
                Exit::Usage
            }
            ErrorCode::SessionNotFound
            | ErrorCode::ProjectNotFound
            | ErrorCode::WorkerNotFound
            | ErrorCode::TokenNotFound => Exit::NotFound,
            ErrorCode::ControllerUnavailable => Exit::Unreachable,
            _ => Exit::Failed,
        };
        let mut what = format!("{}: {}", error.code_name(), error.message);
        if !error.field.is_empty() && !error.message.contains(&error.field) {
            what = format!("{what} (field {})", error.field);
        }
        Self { exit, what, causes: Vec::new(), hint: error.hint }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_scripts_rely_on_stay_as_documented() {
        let exit = |code| Failure::from(Error::new(code, "x")).exit as u8;
        assert_eq!(exit(ErrorCode::SessionNotFound), 3);
        assert_eq!(exit(ErrorCode::ProjectNotFound), 3);
        assert_eq!(exit(ErrorCode::InvalidArgument), 2);
        assert_eq!(exit(ErrorCode::ControllerUnavailable), 6);
        assert_eq!(exit(ErrorCode::AttentionStale), 1);
        assert_eq!(Exit::TimedOut as u8, 124);
    }

    #[test]
    fn causes_are_told_once_each() {
        let inner = std::io::Error::other("disk full");
        let outer = std::io::Error::other(inner);
        let failure = Failure::new(Exit::Failed, "store cannot be opened").caused_by(&outer);
        assert_eq!(failure.causes, ["disk full"]);
    }
}
