//! What is stored of identities: fields are added, numbers never reused.

use muster_proto::v1::{self, Role};
use prost_types::Timestamp;

/// An access token. Its secret is not here.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Access {
    /// Whose.
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(enumeration = "Role", tag = "2")]
    role: i32,
    /// Empty: all.
    #[prost(string, repeated, tag = "3")]
    pub projects: Vec<String>,
    /// Keyed hash of the secret.
    #[prost(bytes = "vec", tag = "4")]
    pub hash: Vec<u8>,
    /// When it was made.
    #[prost(message, optional, tag = "5")]
    pub created_at: Option<Timestamp>,
    /// When it ends.
    #[prost(message, optional, tag = "6")]
    pub expires_at: Option<Timestamp>,
    /// It is good for nothing any more.
    #[prost(bool, tag = "7")]
    pub revoked: bool,
}

impl Access {
    pub(super) fn new(name: String, role: Role, projects: Vec<String>, hash: Vec<u8>) -> Self {
        let created_at = Some(muster_proto::time::now());
        Self { name, role: role.into(), projects, hash, created_at, ..Self::default() }
    }

    pub(super) fn view(&self, id: &str) -> v1::Access {
        v1::Access {
            id: id.to_owned(),
            name: self.name.clone(),
            role: self.role,
            projects: self.projects.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked: self.revoked,
        }
    }
}

/// Whether `at` has come.
pub(super) fn is_past(at: Option<Timestamp>) -> bool {
    let now = muster_proto::time::now();
    at.is_some_and(|at| (at.seconds, at.nanos) <= (now.seconds, now.nanos))
}
