//! What is stored of identities: fields are added, numbers never reused.

use std::collections::BTreeMap;

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
    /// Empty: all.
    #[prost(string, repeated, tag = "8")]
    pub scopes: Vec<String>,
    /// Id of the session it is for; empty: none.
    #[prost(string, tag = "9")]
    pub session: String,
}

impl Access {
    pub(super) fn new(name: String, role: Role, projects: Vec<String>, hash: Vec<u8>) -> Self {
        let created_at = Some(muster_proto::time::now());
        Self { name, role: role.into(), projects, hash, created_at, ..Self::default() }
    }

    /// Whether it is good for nothing any more, for `seconds` already.
    pub(super) fn is_long_over(&self, seconds: i64) -> bool {
        let now = muster_proto::time::now().seconds;
        let since = self.expires_at.or(self.created_at).map_or(0, |at| at.seconds);
        now.saturating_sub(since) > seconds
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
            scopes: self.scopes.clone(),
            session: self.session.clone(),
        }
    }
}

/// A join token. Its secret is not here.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Join {
    /// Name of the one worker it is for; empty: any.
    #[prost(string, tag = "1")]
    pub worker: String,
    /// Keyed hash of the secret.
    #[prost(bytes = "vec", tag = "2")]
    pub hash: Vec<u8>,
    /// When it ends.
    #[prost(message, optional, tag = "3")]
    pub expires_at: Option<Timestamp>,
    /// Machines that may join with it.
    #[prost(uint32, tag = "4")]
    pub uses: u32,
    /// Those that did.
    #[prost(message, repeated, tag = "5")]
    pub used: Vec<Use>,
    /// Labels they get.
    #[prost(btree_map = "string, string", tag = "6")]
    pub labels: BTreeMap<String, String>,
    /// It is good for nothing any more.
    #[prost(bool, tag = "7")]
    pub revoked: bool,
}

/// A machine that joined.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Use {
    /// Hash of its public key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// As what.
    #[prost(string, tag = "2")]
    pub worker: String,
}

impl Join {
    pub(super) fn view(&self, id: &str) -> v1::JoinToken {
        v1::JoinToken {
            id: id.to_owned(),
            worker: self.worker.clone(),
            expires_at: self.expires_at,
            uses: self.uses,
            used: u32::try_from(self.used.len()).unwrap_or(u32::MAX),
            labels: self.labels.clone().into_iter().collect(),
            revoked: self.revoked,
        }
    }
}

/// A worker that joined.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Joined {
    /// Hashes of the public keys it may show, newest first: two while it changes them.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub keys: Vec<Vec<u8>>,
    /// Labels it has whatever it says.
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: BTreeMap<String, String>,
    /// Its identity was taken away.
    #[prost(bool, tag = "3")]
    pub revoked: bool,
    /// When it joined.
    #[prost(message, optional, tag = "4")]
    pub joined_at: Option<Timestamp>,
    /// When its newest certificate ends.
    #[prost(message, optional, tag = "5")]
    pub expires_at: Option<Timestamp>,
}

/// Whether `at` has come.
pub(super) fn is_past(at: Option<Timestamp>) -> bool {
    let now = muster_proto::time::now();
    at.is_some_and(|at| (at.seconds, at.nanos) <= (now.seconds, now.nanos))
}
