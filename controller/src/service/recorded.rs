//! What the audit log is told of a call.
//!
//! The gate knows who called and how it ended; what it was about a service tells through [`About`], which travels
//! with the request. Texts a caller wrote are told by length and hash alone.

use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use muster_proto::{
    error::{Error, ErrorCode},
    v1::{AuditRecord, AuditVerdict, Role},
};
use tonic::{Code, Request, Status};

use crate::identity::{
    Principal,
    roles::{self, Need},
};

/// RPCs that change something and need no scope `write`.
const ALSO: [&str; 4] = [
    "/muster.v1.IdentityService/Enrol",
    "/muster.v1.IdentityService/Renew",
    "/muster.v1.TaskService/CreateTask",
    "/muster.v1.TaskService/UpdateTask",
];

/// What a call is about. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct About(Arc<Mutex<(String, String)>>);

impl About {
    /// Of a call that came through the gate.
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Notes what it is about, and a few words on it.
    pub(super) fn set(&self, subject: &str, detail: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (subject.to_owned(), detail.into());
    }
}

/// A text as the log may hold it.
pub(super) fn hashed(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} bytes, SHA-256 {hex}", text.len())
}

/// One call on its way.
pub(super) struct Call {
    /// It changes something: it is recorded whatever comes of it.
    pub(super) changes: bool,
    pub(super) about: About,
    record: AuditRecord,
}

impl Call {
    pub(super) fn new(path: &str, peer: String, principal: &Principal) -> Self {
        let record = AuditRecord {
            caller: principal.name.clone(),
            role: principal.role.into(),
            on_behalf_of: principal.behalf.as_ref().map(|other| other.name.clone()).unwrap_or_default(),
            action: action(path),
            peer,
            ..AuditRecord::default()
        };
        let changes = roles::need(path) == Need::Write || ALSO.contains(&path);
        Self { changes, about: About::default(), record }
    }

    /// What is to be recorded once it has been answered with `headers`; none for what was read.
    pub(super) fn record(&mut self, headers: &HeaderMap) -> Option<AuditRecord> {
        let status = Status::from_header_map(headers).filter(|status| status.code() != Code::Ok);
        let code = status.as_ref().map(|status| (Error::from_status(status).code, status.code()));
        let verdict = match code {
            None => AuditVerdict::Allowed,
            Some((_, Code::PermissionDenied | Code::Unauthenticated)) => AuditVerdict::Denied,
            Some(_) => AuditVerdict::Failed,
        };
        if !self.changes && verdict != AuditVerdict::Denied {
            return None;
        }
        let mut record = std::mem::take(&mut self.record);
        record.set_verdict(verdict);
        record.code = code.map_or_else(String::new, |(code, _)| name(code));
        let about = self.about.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (record.subject, record.detail) = about;
        Some(record)
    }
}

impl Call {
    /// One that the caller may not make.
    pub(super) fn denied(self, error: &Error) -> AuditRecord {
        AuditRecord { verdict: AuditVerdict::Denied.into(), code: name(error.code), ..self.record }
    }
}

/// A call of somebody nobody knows.
pub(super) fn refusal(path: &str, peer: &str, error: &Error) -> AuditRecord {
    AuditRecord {
        role: Role::Unspecified.into(),
        action: action(path),
        verdict: AuditVerdict::Denied.into(),
        code: name(error.code),
        peer: peer.to_owned(),
        ..AuditRecord::default()
    }
}

fn action(path: &str) -> String {
    path.trim_start_matches("/muster.v1.").chars().take(128).collect()
}

fn name(code: ErrorCode) -> String {
    code.as_str_name().trim_start_matches("ERROR_CODE_").to_owned()
}
