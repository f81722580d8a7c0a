//! Errors as they cross the wire, and the one mapping between them and gRPC status.
//!
//! A service returns [`Error`]; `?` turns it into a status that carries an [`ErrorDetail`]. A client turns the status
//! back with [`Error::from_status`] and decides by [`Error::code`], never by text.

use prost::Message as _;
use tonic::{Code, Status, metadata::MetadataValue};

pub use crate::v1::ErrorCode;
use crate::{metadata, v1::ErrorDetail};

/// What went wrong, to what, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// For programs.
    pub code: ErrorCode,
    /// What happened, to what. Lowercase, no full stop.
    pub message: String,
    /// The request field at fault in camelCase; empty when no single one is.
    pub field: String,
    /// What to do next, one sentence; may be empty.
    pub hint: String,
}

impl Error {
    /// An error without field and hint.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: String::new(), hint: String::new() }
    }

    /// A field that cannot be taken as it is.
    #[must_use]
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), ..Self::new(ErrorCode::InvalidArgument, message) }
    }

    /// Says what the caller can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Whether the same call may succeed later without any change.
    #[must_use]
    pub const fn retryable(&self) -> bool {
        matches!(
            self.code,
            ErrorCode::LimitReached
                | ErrorCode::StoreUnavailable
                | ErrorCode::ControllerUnavailable
                | ErrorCode::WorkerUnreachable
                | ErrorCode::DuplicateWorker
        )
    }

    /// The name callers see: `session_not_found`.
    #[must_use]
    pub fn code_name(&self) -> String {
        code_name(self.code)
    }

    /// Reads an error back from a failed call. A status without our detail (a proxy, a transport failure) becomes the
    /// nearest code.
    #[must_use]
    pub fn from_status(status: &Status) -> Self {
        let detail = status
            .metadata()
            .get_bin(metadata::ERROR)
            .and_then(|value| value.to_bytes().ok())
            .and_then(|bytes| ErrorDetail::decode(bytes).ok());
        if let Some(detail) = detail {
            return Self {
                code: detail.code(),
                message: status.message().to_owned(),
                field: detail.field,
                hint: detail.hint,
            };
        }
        let code = match status.code() {
            // Unknown without our detail: the peer died in the middle of the call, and nobody mapped that.
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown => {
                ErrorCode::ControllerUnavailable
            }
            Code::InvalidArgument | Code::OutOfRange => ErrorCode::InvalidArgument,
            Code::ResourceExhausted => ErrorCode::LimitReached,
            Code::Unauthenticated => ErrorCode::Unauthenticated,
            Code::PermissionDenied => ErrorCode::PermissionDenied,
            _ => ErrorCode::Internal,
        };
        Self::new(code, status.message())
    }
}

/// `ErrorCode::SessionNotFound` -> `session_not_found`.
#[must_use]
pub fn code_name(code: ErrorCode) -> String {
    code.as_str_name().trim_start_matches("ERROR_CODE_").to_ascii_lowercase()
}

/// The gRPC code of each of ours, as `common.proto` documents it.
const fn grpc_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::InvalidArgument | ErrorCode::AmbiguousSession => Code::InvalidArgument,
        ErrorCode::SessionNotFound
        | ErrorCode::ProjectNotFound
        | ErrorCode::WorkerNotFound
        | ErrorCode::TokenNotFound
        | ErrorCode::TaskNotFound => Code::NotFound,
        ErrorCode::Unauthenticated => Code::Unauthenticated,
        ErrorCode::RequestIdConflict => Code::AlreadyExists,
        ErrorCode::AttentionPending
        | ErrorCode::AttentionStale
        | ErrorCode::SessionRunning
        | ErrorCode::SessionEnded
        | ErrorCode::NoChangesKept
        | ErrorCode::NoRemoteAddress
        | ErrorCode::GitFailed
        | ErrorCode::DuplicateWorker
        | ErrorCode::TaskEnded
        | ErrorCode::VersionMismatch => Code::FailedPrecondition,
        ErrorCode::InvalidCursor => Code::OutOfRange,
        ErrorCode::TrustNotAllowed
        | ErrorCode::PushNotAllowed
        | ErrorCode::PolicyRefused
        | ErrorCode::PermissionDenied => Code::PermissionDenied,
        ErrorCode::LimitReached | ErrorCode::TreeLimit => Code::ResourceExhausted,
        ErrorCode::StoreUnavailable | ErrorCode::ControllerUnavailable | ErrorCode::WorkerUnreachable => {
            Code::Unavailable
        }
        ErrorCode::Internal | ErrorCode::Unspecified => Code::Internal,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let detail =
            ErrorDetail { code: error.code.into(), field: error.field.clone(), hint: error.hint.clone() };
        let mut status = Self::new(grpc_code(error.code), error.message);
        let value = MetadataValue::from_bytes(&detail.encode_to_vec());
        status.metadata_mut().insert_bin(metadata::ERROR, value);
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_the_wire_with_field_and_hint() {
        for number in 1..=30 {
            let code = ErrorCode::try_from(number).expect("codes are dense");
            let error = Error { field: "prompt".into(), ..Error::new(code, "it is empty") }.hint("give one");
            let status = Status::from(error.clone());
            assert_eq!(Error::from_status(&status), error);
        }
    }

    #[test]
    fn a_status_of_somebody_else_becomes_the_nearest_code() {
        let error = Error::from_status(&Status::unavailable("connection refused"));
        assert_eq!(error.code, ErrorCode::ControllerUnavailable);
        assert!(error.retryable());
        let died =
            Error::from_status(&Status::unknown("h2 protocol error: error reading a body from connection"));
        assert_eq!(
            died.code,
            ErrorCode::ControllerUnavailable,
            "a controller killed in the middle of a call"
        );
        assert_eq!(code_name(ErrorCode::SessionNotFound), "session_not_found");
    }
}
